"Two versions of the package on one database, and a role that may not create tables there."
import logging
import os
import subprocess
import sys

import psycopg
import pytest
from psycopg import sql

from unde_recog.catalogue.imports import import_products
from unde_recog.catalogue.stock import import_availability
from unde_recog.db import migrations as migrating
from unde_recog.db.connection import LOGICALS, DatabaseError
from unde_recog.db.database import Databases
from unde_recog.db.migrations import dry_run, migrate, migrations

from tests.conftest import sibling

ROLE = f'only_user_{os.getpid()}'
NEWEST = {logical: migrations(logical)[-1][0] for logical in LOGICALS}


@pytest.fixture
def empty_url(server_url):
    "A database without our tables, and a role that may only use what is there."
    name = sql.Identifier(f'test_{os.getpid()}_910')
    with psycopg.connect(server_url, autocommit=True) as conn:
        conn.execute(sql.SQL('drop database if exists {} with (force)').format(name))
        conn.execute(sql.SQL('create database {}').format(name))
        conn.execute(f'create role {ROLE} login')
    yield sibling(server_url, name.as_string().strip('"'))
    with psycopg.connect(server_url, autocommit=True) as conn:
        conn.execute(sql.SQL('drop database if exists {} with (force)').format(name))
        conn.execute(f'drop role {ROLE}')


def as_older(monkeypatch, less=1):
    "The package as it was before its newest files."
    real = migrations
    monkeypatch.setattr(migrating, 'migrations', lambda logical: real(logical)[:-less])


def opened(url): return Databases(dict.fromkeys(LOGICALS, url))


def as_user(url): return url.replace('postgres@', f'{ROLE}@')


def test_an_older_package_goes_on_beside_a_newer_one_and_says_so(empty_url, monkeypatch, caplog, tmp_path):
    "It opens, imports and reads; what it has made the newer one takes over."
    with monkeypatch.context() as before:
        as_older(before)
        with opened(empty_url) as db: assert NEWEST['catalogue'] not in db.migrate()['catalogue']
    with opened(empty_url) as db:  # the newer one is installed
        assert db.migrate() == {logical: [name] for logical, name in NEWEST.items()}
        (tmp_path/'p.csv').write_text('external_id,brand\na,hm\n')
        import_products(db, tmp_path/'p.csv')
    with monkeypatch.context() as before, caplog.at_level(logging.WARNING):
        as_older(before)
        with opened(empty_url) as db:
            assert not any(db.migrate().values())
            (tmp_path/'s.csv').write_text('brand,store_id,product_id,sizes_in_stock,fetched_at\n'
                                          'hm,1,a,S,2026-01-05T10:00:00Z\n')
            assert import_availability(db, tmp_path/'s.csv').inserted == 1
    said = [r.getMessage() for r in caplog.records]
    assert any(NEWEST['catalogue'] in text and 'install the same version' in text for text in said)
    with opened(empty_url) as db: assert not any(db.migrate().values())  # nothing was undone


def test_both_start_at_once_on_an_empty_database(empty_url):
    "In either order each file is applied once."
    start = '''
import sys
from unde_recog.db import migrations as migrating
real, less = migrating.migrations, int(sys.argv[2])
migrating.migrations = lambda logical: real(logical)[:len(real(logical)) - less]
for logical in ('catalogue', 'vectors', 'log'): migrating.migrate_at(sys.argv[1], logical)
'''
    both = [subprocess.Popen([sys.executable, '-c', start, empty_url, str(n)]) for n in (1, 0)]
    assert [p.wait(90) for p in both] == [0, 0]
    with psycopg.connect(empty_url) as conn:
        query = 'select logical, array_agg(name order by name) from unde_migrations group by 1'
        marks = dict(conn.execute(query))
    assert marks == {logical: [name for name, _ in migrations(logical)] for logical in LOGICALS}


def test_builds_that_are_no_releases_are_named(empty_url, monkeypatch):
    with opened(empty_url) as db: db.migrate()
    real = migrations
    edited = lambda logical: [(name, text + '\n-- mine') for name, text in real(logical)]
    monkeypatch.setattr(migrating, 'migrations', edited)
    with opened(empty_url) as db, pytest.raises(DatabaseError, match='install the same one everywhere'):
        db.migrate()


def test_a_table_of_the_shop_with_the_name_of_a_new_one(empty_url, monkeypatch):
    "It is neither taken nor altered."
    later = [name for name, _ in migrations('catalogue')][3:]
    assert 'variants' in later[0]
    with monkeypatch.context() as before:
        as_older(before, len(later))
        with opened(empty_url) as db: db.migrate()
    with psycopg.connect(empty_url, autocommit=True) as conn:
        conn.execute('create table variant_skus (theirs int)')
        with pytest.raises(DatabaseError, match='variant_skus.* already exists.*rename it'):
            migrate(conn, 'catalogue')
        conn.execute('alter table variant_skus rename to their_skus')
        assert migrate(conn, 'catalogue') == later
        assert conn.execute('select * from their_skus').description[0].name == 'theirs'


@pytest.mark.parametrize('older', [True, False])
def test_an_administrator_runs_the_script_for_a_role_that_may_not(empty_url, monkeypatch, older):
    "After it nothing is pending, and our role can use everything."
    with monkeypatch.context() as before, psycopg.connect(empty_url, autocommit=True) as admin:
        as_older(before)
        if older:
            for logical in LOGICALS: migrate(admin, logical)
        admin.execute(f'grant select, insert, update, delete on all tables in schema public to {ROLE}')
    with opened(as_user(empty_url)) as db:
        with pytest.raises(DatabaseError, match='permission denied.*migrate --dry-run'): db.migrate()
        scripts = db.dry_run()
    with psycopg.connect(empty_url, autocommit=True) as admin:
        for script in scripts.values(): admin.execute(script)
    with opened(as_user(empty_url)) as db:
        assert not any(db.migrate().values()) and not any(db.dry_run().values())
        with db.connect('catalogue') as conn:
            conn.execute("insert into variant_skus values ('hm', 'a', 'A', 'p', 'S')")
            assert conn.execute('select count(*) from unde_migrations').fetchone()[0] > 8
    with psycopg.connect(empty_url, autocommit=True) as admin: assert dry_run(admin, 'catalogue') == ''
