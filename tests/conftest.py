"""A real PostgreSQL for the tests: one embedded server a checkout, a fresh database a test.

The server is shared by the xdist workers and is never the user's."""

import itertools
import os
import re
import zlib
from contextlib import contextmanager
from pathlib import Path

import psutil
import psycopg
import pytest
from psycopg import sql

from unde_recog.db.database import LOGICALS, Databases, migrations
from unde_recog.db.embedded import start_embedded
from unde_recog.settings import load_settings

_numbers = itertools.count()


def data_folder() -> Path:
    "The tests' data folder: UNDE_TEST_DIR, else UNDE_DATA_DIR, as the root conftest.py has set it."
    return Path(os.environ.get('UNDE_TEST_DIR') or os.environ['UNDE_DATA_DIR'])


def sibling(url: str, database: str) -> str:
    "The same server, another database."
    return re.sub(r'(?<=[^/])/[^/?]*(?=\?|$)', f'/{database}', url.replace(':@/', '@/'), count=1)


@pytest.fixture(scope='session')
def settings(): return load_settings(env={}, UNDE_DATA_DIR=data_folder())


@pytest.fixture(scope='session')
def server_url(settings):
    "Address of the tests' own embedded server; losing its data in a power cut is fine, so "
    "it need not sync."
    folder = data_folder()
    folder.mkdir(parents=True, exist_ok=True)
    (folder/'postgres.conf').write_text('fsync = off\nsynchronous_commit = off\nfull_page_writes = off\n')
    server = start_embedded(settings)
    yield server.url
    server.release()


@pytest.fixture(scope='session')
def template(server_url):
    "Name of a migrated database to copy; named after the migrations, so that a changed "
    "file makes a new one."
    name = f"template_{zlib.crc32(repr([migrations(x) for x in LOGICALS]).encode()):08x}"
    with psycopg.connect(server_url, autocommit=True) as conn:
        conn.execute('select pg_advisory_lock(7236463)')  # both xdist workers come here at once
        known = [n for (n,) in conn.execute('select datname from pg_database')]
        for left in known:  # of test runs that were killed, and of older migrations
            found = re.fullmatch(r'test_(\d+)_\d+', left)
            if (found and not psutil.pid_exists(int(found[1]))) or (
                left.startswith('template_') and left != name
            ):
                conn.execute(
                    sql.SQL('drop database if exists {} with (force)').format(sql.Identifier(left))
                )
        if name not in known:
            conn.execute('drop database if exists making_template with (force)')
            conn.execute('create database making_template')
            with Databases(
                dict.fromkeys(LOGICALS, sibling(server_url, 'making_template'))
            ) as making:
                making.migrate()
            conn.execute(
                sql.SQL('alter database making_template rename to {}').format(sql.Identifier(name))
            )
    return name


@contextmanager
def named_database(server_url, template, name):
    "Address of a migrated, empty database for the tests of a file."

    def drop(conn):
        conn.execute(
            sql.SQL('drop database if exists {} with (force)').format(sql.Identifier(name))
        )

    with psycopg.connect(server_url, autocommit=True) as conn:
        drop(conn)
        conn.execute(
            sql.SQL('create database {} template {}').format(
                sql.Identifier(name), sql.Identifier(template)
            )
        )
    yield sibling(server_url, name)
    with psycopg.connect(server_url, autocommit=True) as conn: drop(conn)


@pytest.fixture
def fresh_url(server_url, template):
    "Address of a migrated, empty database of this test's own."
    name = f'test_{os.getpid()}_{next(_numbers)}'
    with psycopg.connect(server_url, autocommit=True) as conn:
        conn.execute(
            sql.SQL('create database {} template {} strategy file_copy').format(
                sql.Identifier(name), sql.Identifier(template)
            )
        )
    yield sibling(server_url, name)
    with psycopg.connect(server_url, autocommit=True) as conn:
        conn.execute(sql.SQL('drop database if exists {} with (force)').format(sql.Identifier(name)))


@pytest.fixture
def db(fresh_url):
    "The three logical databases on a fresh, migrated PostgreSQL database."
    with Databases(dict.fromkeys(LOGICALS, fresh_url)) as databases: yield databases


@pytest.fixture(scope='session')
def shared_data():
    "The folder of real data beside the checkout (the Magento catalogue), which not every machine has."
    folder = Path(__file__).resolve().parents[2]/'shared'/'data'
    if not folder.is_dir(): pytest.skip('needs ../shared/data beside the checkout')
    return folder
