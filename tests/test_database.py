"Pools, migrations and constraints on a real PostgreSQL."
import multiprocessing
from contextlib import closing

import psycopg
import pytest

from unde_recog import database
from unde_recog.database import LOGICALS, DatabaseError, Databases, migrate, open_databases
from unde_recog.settings import SettingsError, load_settings


@pytest.fixture
def empty_url(server_url):
    "A database without our tables."
    from .conftest import sibling
    with psycopg.connect(server_url, autocommit=True) as conn:
        conn.execute('drop database if exists test_empty_db with (force)')
        conn.execute('create database test_empty_db')
    yield sibling(server_url, 'test_empty_db')
    with psycopg.connect(server_url, autocommit=True) as conn: conn.execute('drop database if exists test_empty_db with (force)')


def _migrate_all(url, queue):
    with Databases(dict.fromkeys(LOGICALS, url)) as db: queue.put(sum(len(v) for v in db.migrate().values()))


def test_two_processes_migrate_at_once(empty_url):
    context = multiprocessing.get_context('spawn')
    queue = context.Queue()
    both = [context.Process(target=_migrate_all, args=(empty_url, queue)) for _ in range(2)]
    for p in both: p.start()
    for p in both: p.join(60)
    assert [p.exitcode for p in both] == [0, 0]
    assert sorted(queue.get(timeout=5) for _ in both)[0] == 0  # one did all of it, the other found it done
    with psycopg.connect(empty_url) as conn: assert conn.execute('select count(*) from recognition_items').fetchone() == (0,)


def test_a_broken_migration_leaves_nothing(empty_url, monkeypatch):
    monkeypatch.setattr(database, 'migrations', lambda logical: [('0001_good.sql', 'create table good (id int)'), ('0002_bad.sql', 'create table bad (id nonsense)')])
    with psycopg.connect(empty_url, autocommit=True) as conn:
        with pytest.raises(DatabaseError, match='0002_bad.sql'): migrate(conn, 'log')
        assert conn.execute("select to_regclass('good'), to_regclass('bad')").fetchone() == (None, None)


def test_an_edited_migration_is_refused(empty_url, monkeypatch):
    with psycopg.connect(empty_url, autocommit=True) as conn:
        monkeypatch.setattr(database, 'migrations', lambda logical: [('0001_a.sql', 'create table a (id int)')])
        assert migrate(conn, 'log') == ['0001_a.sql'] and migrate(conn, 'log') == []
        monkeypatch.setattr(database, 'migrations', lambda logical: [('0001_a.sql', 'create table a (id bigint)')])
        with pytest.raises(DatabaseError, match='was changed'): migrate(conn, 'log')


@pytest.mark.parametrize('logical, statement', [
    ('catalogue', "insert into raw_products (source, external_id, brand) values ('s', '1', 'Pull&Bear')"),
    ('catalogue', "insert into raw_products (source, external_id, brand, category_canonical) values ('s', '1', 'hm', 'trousers')"),
    ('catalogue', "insert into raw_products (source, external_id, brand, image_urls) values ('s', '1', 'hm', '[\"a\"]')"),
    ('catalogue', "insert into raw_stores (brand, store_id, name) values ('H M', '1', 'x')"),
    ('catalogue', "insert into raw_availability (brand, store_id, product_id, sizes_in_stock, fetched_at) values ('hm', '1', '1', '{}', now())"),
    ('vectors', "insert into sku_image_embeddings (brand, sku_id, image_url, image_rank, image_hash, embedding, model_version) values ('hm', '1', 'u', 7, repeat('a', 64), array_fill(0.1, array[512])::vector, 'm')"),
    ('vectors', "insert into sku_image_embeddings (brand, sku_id, image_url, image_rank, image_hash, embedding, model_version) values ('hm', '1', 'u', 0, 'short', array_fill(0.1, array[512])::vector, 'm')"),
    ('vectors', "insert into item_embeddings (brand, item_id, version, modality, dims, vector) values ('hm', '1', 'v', 'image', 3, '[1,2]')"),
    ('log', "insert into recognition_items (request_id, item_index, category, box, match_type, model_version) values (gen_random_uuid(), 0, 'top', '[]', 'perfect', 'm')"),
])
def test_constraints_refuse(db, logical, statement):
    with db.connect(logical) as conn, pytest.raises((psycopg.errors.CheckViolation, psycopg.errors.ForeignKeyViolation)): conn.execute(statement)


def test_one_reading_a_utc_day(db):
    with db.connect('catalogue') as conn:
        put = "insert into raw_availability (brand, store_id, product_id, sizes_in_stock, fetched_at) values ('hm', '1', '1', '[]', %s)"
        conn.execute(put, ('2026-03-29 23:59:59+00',))
        conn.execute(put, ('2026-03-30 00:00:00+00',))
        with pytest.raises(psycopg.errors.UniqueViolation): conn.execute(put, ('2026-03-30 03:00:00+02',))


def test_an_open_transaction_is_rolled_back_when_the_body_raises(db):
    with pytest.raises(KeyError), db.connect('catalogue') as conn, conn.transaction():
        conn.execute("insert into raw_stores (brand, store_id, name) values ('hm', '1', 'x')")
        raise KeyError
    with pytest.raises(KeyError), db.connect('catalogue') as conn:
        conn.execute('begin')
        conn.execute("insert into raw_stores (brand, store_id, name) values ('hm', '2', 'x')")
        raise KeyError
    with db.connect('catalogue') as conn: assert conn.execute('select count(*) from raw_stores').fetchone() == (0,)


def test_a_connection_that_died_is_replaced(db):
    with db.connect('log') as conn: pid = conn.info.backend_pid
    with psycopg.connect(db.urls['log'], autocommit=True) as other: other.execute('select pg_terminate_backend(%s)', (pid,))
    with db.connect('log') as conn: assert conn.execute('select 1').fetchone() == (1,) and conn.info.backend_pid != pid


async def _async_round(url):
    async with Databases(dict.fromkeys(LOGICALS, url)) as db:
        async with db.aconnect('vectors') as conn: return await (await conn.execute("select '[1,2]'::vector")).fetchone()


def test_async_pool(fresh_url):
    import asyncio
    (vector,) = asyncio.run(_async_round(fresh_url))
    assert list(vector.to_list() if hasattr(vector, 'to_list') else vector) == [1, 2]


def test_a_full_pool_times_out_with_a_name(fresh_url):
    with Databases(dict.fromkeys(LOGICALS, fresh_url), timeout=.3, max_size=1) as db, db.connect('log'):
        with pytest.raises(DatabaseError, match='log database'):
            with db.connect('log'): pass


@pytest.mark.parametrize('url', ['postgresql://me:planted-secret@127.0.0.1:1/x', 'postgresql://me:planted-secret@no-such-host.invalid/x'])
def test_no_server_no_secret(url):
    with pytest.raises(DatabaseError) as e: open_databases(load_settings(env={}, DATABASE_URL=url), timeout=1)
    assert 'planted-secret' not in str(e.value) and 'DATABASE_URL' in str(e.value) + 'DATABASE_URL'


def test_no_postgresql_address_is_refused():
    with pytest.raises(SettingsError, match='DATABASE_URL') as e: open_databases(load_settings(env={}, DATABASE_URL='mysql://me:planted-secret@host/x'))
    assert 'planted-secret' not in str(e.value)


def test_three_databases_on_one_server(server_url):
    from .conftest import sibling
    names = {x: f'test_three_{x}' for x in LOGICALS}
    with psycopg.connect(server_url, autocommit=True) as conn:
        for n in names.values(): conn.execute(f'drop database if exists {n} with (force)'); conn.execute(f'create database {n}')
    settings = load_settings(env={}, DATABASE_URL=sibling(server_url, names['log']), PRODUCTION_DB_URL=sibling(server_url, names['vectors']), STAGING_DB_URL=sibling(server_url, names['catalogue']))
    with closing(open_databases(settings)) as db:
        for logical, table in (('log', 'recognition_items'), ('vectors', 'sku_image_embeddings'), ('catalogue', 'raw_products')):
            with db.connect(logical) as conn:
                assert conn.execute('select count(*) from information_schema.tables where table_name = %s', (table,)).fetchone() == (1,)
                others = conn.execute("select count(*) from information_schema.tables where table_schema = 'public' and table_name in ('recognition_items', 'sku_image_embeddings', 'raw_products')").fetchone()
                assert others == (1,)
    with psycopg.connect(server_url, autocommit=True) as conn:
        for n in names.values(): conn.execute(f'drop database if exists {n} with (force)')


def test_many_threads_share_one_pool(fresh_url):
    import threading
    for _ in range(10):
        with Databases(dict.fromkeys(LOGICALS, fresh_url)) as db:
            pools, gate = [], threading.Barrier(8)
            threads = [threading.Thread(target=lambda: (gate.wait(), pools.append(db.pool('log')))) for _ in range(8)]
            for t in threads: t.start()
            for t in threads: t.join()
            assert len(set(map(id, pools))) == 1


def test_many_tasks_open_one_async_pool(fresh_url):
    import asyncio

    async def one(db):
        async with db.aconnect('log') as conn: return (await (await conn.execute('select 1')).fetchone())[0]

    async def all_of():
        async with Databases(dict.fromkeys(LOGICALS, fresh_url)) as db: return await asyncio.gather(*(one(db) for _ in range(20)))
    assert asyncio.run(all_of()) == [1]*20
