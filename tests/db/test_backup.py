"Backup and restore: whole, resumed after a kill, checked, and from the release before."

import gzip
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from unde_recog.db.backup import backup, contents, kept_tables, restore
from unde_recog.db.connection import LOGICALS, DatabaseError
from unde_recog.db.database import Databases
from unde_recog.jobs.hnsw import build_index

from tests.conftest import sibling

ODD = ['tab\tand\nline', "quote ' and \\", 'naïve — ß 漢字', '', '\\N', 'x'*5000]


def fill(db, n=60):
    "Rows in every table that has a meaning of its own."
    with db.connect('catalogue') as conn:
        for i in range(n):
            conn.execute(
                """insert into raw_products
                   (source, external_id, brand, name, description, price, sizes, attributes)
                   values ('s', %s, 'hm', %s, %s, %s, '["M"]', '{"material": "wool"}')""",
                (f'p{i}', f'thing {i}', ODD[i % len(ODD)], i + 0.1),
            )
        conn.execute("insert into raw_stores (brand, store_id, name) values ('hm', '1', 'x')")
        conn.execute(
            """insert into raw_availability select 'hm', '1', external_id, '["M"]', now() from raw_products"""
        )
    with db.connect('vectors') as conn:
        conn.execute(
            """insert into sku_image_embeddings
               (brand, sku_id, image_url, image_rank, image_hash, embedding, model_version, phash)
               select 'hm', 'p' || i, 'u', 0, lpad(i::text, 64, '0'),
                      array_fill(1/(i + 3.7)::real, array[512])::vector, 'v1', i
               from generate_series(1, %s) i""",
            (n,),
        )
        conn.execute(
            """insert into item_embeddings (brand, item_id, version, modality, dims, vector)
               values ('hm', 'p1', 'v', 'text', 3, '[1,0.30000001,-2e-7]')"""
        )
        conn.execute(
            """insert into embedding_versions (version, model, dims, status, completed_at)
               values ('v1', 'm', 512, 'complete', now())"""
        )
        build_index(conn, 'v1')
    with db.connect('log') as conn:
        conn.execute(
            "insert into recognition_requests (id, user_id) "
            "select gen_random_uuid(), 'u' from generate_series(1, 9)"
        )
        conn.execute(
            """insert into recognition_items
               (request_id, item_index, category, box, match_type, model_version)
               select id, 0, 'top', '[0.1, 2, 3, 4]', 'exact', 'v1' from recognition_requests"""
        )


def held(db):
    found = {}
    for logical in LOGICALS:
        with db.connect(logical) as conn:
            for name, table in kept_tables(conn, logical).items():
                found[logical, name] = contents(conn, name, tuple(table.columns))
    return found


@pytest.fixture
def empty(server_url, template):
    "Another empty, migrated database."
    name = f'test_{os.getpid()}_950'
    with psycopg.connect(server_url, autocommit=True) as conn:
        conn.execute(sql.SQL('drop database if exists {} with (force)').format(sql.Identifier(name)))
        conn.execute(
            sql.SQL('create database {} template {}').format(
                sql.Identifier(name), sql.Identifier(template)
            )
        )
    with Databases(dict.fromkeys(LOGICALS, sibling(server_url, name))) as databases: yield databases
    with psycopg.connect(server_url, autocommit=True) as conn:
        conn.execute(sql.SQL('drop database if exists {} with (force)').format(sql.Identifier(name)))


def test_what_was_written_is_read(db, empty, tmp_path):
    fill(db)
    backup(db, tmp_path)
    read = restore(empty, tmp_path)
    assert held(empty) == held(db) and 'raw_products' in read
    assert restore(empty, tmp_path) == []  # again: all is there
    with empty.connect('catalogue') as conn:  # new ids go on where the old ones ended
        conn.execute("insert into raw_products (source, external_id, brand) values ('s', 'new', 'hm')")
        assert conn.execute('select count(*), count(distinct id) from raw_products').fetchone() == (61, 61)
    with empty.connect('vectors') as conn:
        names = "select indexname from pg_indexes where indexname like 'hnsw%'"
        assert len(conn.execute(names).fetchall()) == 1


KILLED = '''
import os, sys
from pathlib import Path
from unde_recog.db import backup as module
from unde_recog.db.connection import LOGICALS
from unde_recog.db.database import Databases
left = int(sys.argv[3])
def event(table, rows):
    global left
    left -= 1
    if left == 0: os.kill(os.getpid(), 9)
with Databases(dict.fromkeys(LOGICALS, sys.argv[1])) as db:
    getattr(module, sys.argv[4])(db, Path(sys.argv[2]), event)
'''


def killed_after(db, folder, tables, what):
    argv = [sys.executable, '-c', KILLED, db.urls['log'], str(folder), str(tables), what]
    return subprocess.run(argv).returncode


def test_killed_at_any_table_and_gone_on(db, empty, tmp_path):
    fill(db)
    rng = random.Random(3)
    for tables in (1, rng.randint(2, 6)): assert killed_after(db, tmp_path, tables, 'backup') == -9
    with pytest.raises(DatabaseError, match='is not finished: run `unde-recog backup'):
        restore(empty, tmp_path)
    with db.connect('catalogue') as conn:
        conn.execute("update raw_products set name = 'changed since' where external_id = 'p3'")
    first = {p.name: p.stat().st_mtime_ns for p in tmp_path.glob('*.gz')}
    backup(db, tmp_path)
    second = {p.name: p.stat().st_mtime_ns for p in tmp_path.glob('*.gz')}
    # the rest was kept
    assert [n for n in first if first[n] != second[n]] in ([], ['catalogue.raw_products.copy.gz'])
    for tables in (1, rng.randint(2, 6)): assert killed_after(empty, tmp_path, tables, 'restore') == -9
    restore(empty, tmp_path)
    assert held(empty) == held(db)


@pytest.mark.parametrize('damage', ['cut', 'other bytes', 'gone', 'list'])
def test_a_damaged_backup_is_named_and_nothing_is_read(db, empty, tmp_path, damage):
    fill(db, 5)
    backup(db, tmp_path)
    file = tmp_path/'log.recognition_items.copy.gz'
    if damage == 'cut': file.write_bytes(file.read_bytes()[:-7])
    if damage == 'other bytes': file.write_bytes(gzip.compress(b'nonsense\n'))
    if damage == 'gone': file.unlink()
    if damage == 'list': (tmp_path/'backup.json').write_text('{"files": ')
    before = held(empty)
    with pytest.raises(DatabaseError, match='backup.json' if damage == 'list' else file.name):
        restore(empty, tmp_path)
    assert held(empty) == before


def test_rows_of_its_own_are_not_mixed(db, empty, tmp_path):
    fill(db, 5)
    backup(db, tmp_path)
    with empty.connect('catalogue') as conn:
        conn.execute("insert into raw_products (source, external_id, brand) values ('other', 'q', 'zara')")
    with pytest.raises(DatabaseError, match='raw_products holds 1 rows of its own'):
        restore(empty, tmp_path)


def test_a_list_that_does_not_fit_its_files_is_found_by_the_rows(db, empty, tmp_path):
    fill(db, 5)
    backup(db, tmp_path)
    content = json.loads((tmp_path/'backup.json').read_text())
    entry = next(f for f in content['files'] if f['table'] == 'raw_products')
    entry['digest'] = '17'
    (tmp_path/'backup.json').write_text(json.dumps(content))
    with pytest.raises(DatabaseError, match='raw_products does not hold what'): restore(empty, tmp_path)
    with empty.connect('catalogue') as conn:
        assert conn.execute('select count(*) from raw_products').fetchone() == (0,)


def test_from_the_release_before(server_url, empty, tmp_path):
    name = f'test_{os.getpid()}_951'
    with psycopg.connect(server_url, autocommit=True) as conn:
        conn.execute(sql.SQL('drop database if exists {} with (force)').format(sql.Identifier(name)))
        conn.execute(sql.SQL('create database {}').format(sql.Identifier(name)))
    url = sibling(server_url, name)
    dump = Path(__file__).with_name('release_0.sql').read_text(encoding='utf-8')
    with psycopg.connect(url, autocommit=True) as conn: conn.execute(dump)
    with Databases(dict.fromkeys(LOGICALS, url)) as old: backup(old, tmp_path)  # as it is, not migrated
    restore(empty, tmp_path)
    with empty.connect('catalogue') as conn:
        rows = conn.execute('select external_id, attributes from raw_products order by 1').fetchall()
    assert rows == [(f'p{i}', {}) for i in range(1, 5)]
    with empty.connect('vectors') as conn:
        assert conn.execute('select count(*) from sku_image_embeddings').fetchone() == (3,)
    with Databases(dict.fromkeys(LOGICALS, url)) as old:
        with pytest.raises(DatabaseError, match='has no columns .*: the backup is of a later release'):
            backup(empty, tmp_path/'new')
            with old.connect('catalogue') as conn: conn.execute('truncate raw_products')
            restore(old, tmp_path/'new')
    with psycopg.connect(server_url, autocommit=True) as conn:
        conn.execute(sql.SQL('drop database if exists {} with (force)').format(sql.Identifier(name)))
