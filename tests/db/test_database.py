"Pools, migrations and constraints on a real PostgreSQL."
import asyncio
import json
import multiprocessing
import shutil
import socket
import subprocess
import sys
import time
import uuid
from contextlib import closing
from pathlib import Path

import psycopg
import pytest
from hypothesis import example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from unde_recog.db import database
from unde_recog.db.database import (
    LOGICALS,
    DatabaseError,
    Databases,
    Query,
    Batcher,
    address,
    arun,
    arun_all,
    migrate,
    open_databases,
    text_array,
)
from unde_recog.db.embedded import start_embedded
from unde_recog.settings import SettingsError, load_settings

from tests.conftest import sibling


@pytest.fixture
def empty_url(server_url):
    "A database without our tables."
    with psycopg.connect(server_url, autocommit=True) as conn:
        conn.execute('drop database if exists test_empty_db with (force)')
        conn.execute('create database test_empty_db')
    yield sibling(server_url, 'test_empty_db')
    with psycopg.connect(server_url, autocommit=True) as conn:
        conn.execute('drop database if exists test_empty_db with (force)')


def _migrate_all(url, queue):
    with Databases(dict.fromkeys(LOGICALS, url)) as db:
        queue.put([(logical, name) for logical, names in db.migrate().items() for name in names])


def test_two_processes_migrate_at_once(empty_url):
    context = multiprocessing.get_context('spawn')
    queue = context.Queue()
    both = [context.Process(target=_migrate_all, args=(empty_url, queue)) for _ in range(2)]
    for p in both: p.start()
    applied = [queue.get(timeout=90) for _ in both]
    # each by one of them
    assert sorted(applied[0] + applied[1]) == sorted(
        (x, name) for x in LOGICALS for name, _ in database.migrations(x)
    )
    for p in both: p.join(60)
    assert [p.exitcode for p in both] == [0, 0]
    with psycopg.connect(empty_url) as conn:
        assert conn.execute('select count(*) from recognition_items').fetchone() == (0,)


def test_a_broken_migration_leaves_nothing(empty_url, monkeypatch):
    monkeypatch.setattr(
        database,
        'migrations',
        lambda logical: [
            ('0001_good.sql', 'create table good (id int)'),
            ('0002_bad.sql', 'create table bad (id nonsense)'),
        ],
    )
    with psycopg.connect(empty_url, autocommit=True) as conn:
        with pytest.raises(DatabaseError, match='0002_bad.sql'): migrate(conn, 'log')
        assert conn.execute(
            "select to_regclass('good'), to_regclass('bad'), to_regclass('unde_migrations')"
        ).fetchone() == (None, None, None)
        monkeypatch.setattr(
            database,
            'migrations',
            lambda logical: [
                ('0001_good.sql', 'create table good (id int)'),
                ('0002_bad.sql', 'create table bad (id int)'),
            ],
        )
        # once mended, all of it is applied
        assert migrate(conn, 'log') == ['0001_good.sql', '0002_bad.sql']


def test_a_kill_in_the_middle_of_a_migration_leaves_nothing(empty_url):
    slow = '''
import sys, psycopg
from unde_recog.db import database
slow = 'create table b (id int); select pg_sleep(600)'
database.migrations = lambda logical: [('0001_a.sql', 'create table a (id int)'), ('0002_b.sql', slow)]
with psycopg.connect(sys.argv[1], autocommit=True, application_name='slow migration') as conn:
    database.migrate(conn, 'log')
'''
    p = subprocess.Popen([sys.executable, '-c', slow, empty_url])
    with psycopg.connect(empty_url, autocommit=True) as conn:

        def sleeping():
            return conn.execute(
                "select count(*) from pg_stat_activity where application_name = 'slow "
                "migration' and wait_event = 'PgSleep'"
            ).fetchone() == (1,)

        while not sleeping(): assert p.poll() is None
        p.kill()
        p.wait()
        # it would notice only after its sleep
        conn.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity where application_name "
            "= 'slow migration'"
        )
        # the lock is free again
        with Databases(dict.fromkeys(LOGICALS, empty_url)) as db: assert all(db.migrate().values())
        assert conn.execute("select to_regclass('a'), to_regclass('b')").fetchone() == (None, None)


def test_an_edited_migration_is_refused(empty_url, monkeypatch):
    with psycopg.connect(empty_url, autocommit=True) as conn:
        monkeypatch.setattr(
            database, 'migrations', lambda logical: [('0001_a.sql', 'create table a (id int)')]
        )
        assert migrate(conn, 'log') == ['0001_a.sql'] and migrate(conn, 'log') == []
        monkeypatch.setattr(
            database, 'migrations', lambda logical: [('0001_a.sql', 'create table a (id bigint)')]
        )
        with pytest.raises(DatabaseError, match='was changed'): migrate(conn, 'log')


PRODUCT = "insert into raw_products (source, external_id, brand{0}) values ('s', '1', 'hm'{1})"
PHOTO = """insert into sku_image_embeddings
    (brand, sku_id, image_url, image_rank, image_hash, embedding, model_version)
    values ('hm', '1', 'u', {}, {}, array_fill({}, array[{}])::vector, {})"""
ITEM = """insert into item_embeddings (brand, item_id, version, modality, dims, vector)
    values ('hm', '1', 'v', {}, {}, '[1,2]')"""
READING = 'insert into raw_availability (brand, store_id, product_id, sizes_in_stock, fetched_at)'
LOGGED = """insert into recognition_items (request_id, item_index, category, box, match_type, model_version)
    values (gen_random_uuid(), 0, 'top', '[]', '{}', 'm')"""


@pytest.mark.parametrize(
    'logical, statement',
    [
        ('catalogue', PRODUCT.format(', category_canonical', ", 'trousers'")),
        ('catalogue', PRODUCT.format(', image_urls', ", '[\"a\"]'")),  # views must be as many
        ('catalogue', PRODUCT.format(', sizes', ", '{}'")),
        ('catalogue', PRODUCT.format(', price', ', -1')),
        ('catalogue', PRODUCT.format(', currency', ", 'euro'")),
        ('catalogue', PRODUCT.format(', image_status', ", 'done'")),
        ('catalogue', PRODUCT.format(', ximilar_status', ", 'done'")),
        ('catalogue', PRODUCT.format(', index_scope', ", 'all'")),
        (
            'catalogue',
            "insert into raw_products (source, external_id, brand) values ('s', '', 'hm')",
        ),
        (
            'catalogue',
            "insert into raw_stores (brand, store_id, name, latitude) values ('hm', '1', 'x', 91)",
        ),
        (
            'catalogue',
            f"{READING} values ('hm', '1', '1', '{{}}', now())",
        ),
        ('vectors', PHOTO.format(7, "repeat('a', 64)", 0.1, 512, "'m'")),
        ('vectors', PHOTO.format(0, "'short'", 0.1, 512, "'m'")),
        ('vectors', PHOTO.format(0, "repeat('a', 64)", 0.1, 512, "''")),
        ('vectors', PHOTO.format(0, "repeat('a', 64)", 0.1, 511, "'m'")),
        ('vectors', ITEM.format("'image'", 3)),
        ('vectors', ITEM.format("'sound'", 2)),
        (
            'log',
            LOGGED.format('perfect'),
        ),
        (
            'log',
            LOGGED.format('exact'),
        ),
    ],
)
def test_constraints_refuse(db, logical, statement):
    with (
        db.connect(logical) as conn,
        pytest.raises(
            (
                psycopg.errors.CheckViolation,
                psycopg.errors.ForeignKeyViolation,
                psycopg.errors.DataException,
            )
        ),
    ):
        conn.execute(statement)


BRANDED = {
    'catalogue': [
        "insert into raw_products (source, external_id, brand) values ('s', '1', %s)",
        "insert into raw_stores (brand, store_id, name) values (%s, '1', 'x')",
        f"{READING} values (%s, '1', '1', '[]', now())",
    ],
    'vectors': [
        PHOTO.format(0, "repeat('a', 64)", 0.1, 512, "'m'").replace("'hm'", '%s'),
        ITEM.format("'image'", 2).replace("'hm'", '%s'),
    ],
}


def test_only_canonical_brands(db):
    for logical, statements in BRANDED.items():
        for statement in statements:
            with db.connect(logical) as conn:
                for bad in ('Pull&Bear', 'HM', 'h m', '_hm', 'hm_', 'pull__bear', 'zoë', '', 'hm\n'):
                    with pytest.raises(psycopg.errors.CheckViolation): conn.execute(statement, (bad,))
                for good in ('hm', 'pull_bear', '7_for_all'):
                    with conn.transaction(force_rollback=True): conn.execute(statement, (good,))


@pytest.mark.parametrize(
    'logical, first, second',
    [
        (
            'catalogue',
            PRODUCT.format('', ''),
            "insert into raw_products (source, external_id, brand) values ('other', '1', 'hm')",
        ),
        (
            'catalogue',
            PRODUCT.format('', ''),
            "insert into raw_products (source, external_id, brand) values ('s', '1', 'zara')",
        ),
        (
            'catalogue',
            "insert into raw_stores (brand, store_id, name) values ('hm', '1', 'x')",
            "insert into raw_stores (brand, store_id, name) values ('hm', '1', 'y')",
        ),
        (
            'vectors',
            PHOTO.format(0, "repeat('a', 64)", 0.1, 512, "'m'"),
            PHOTO.format(1, "repeat('a', 64)", 0.2, 512, "'m'"),
        ),
        ('vectors', ITEM.format("'image'", 2), ITEM.format("'image'", 2)),
    ],
)
def test_one_row_a_key(db, logical, first, second):
    with db.connect(logical) as conn:
        conn.execute(first)
        with pytest.raises(psycopg.errors.UniqueViolation): conn.execute(second)


def test_the_same_photo_in_two_versions_and_an_item_in_two_modalities(db):
    with db.connect('vectors') as conn:
        for version in ("'m'", "'n'"): conn.execute(PHOTO.format(0, "repeat('a', 64)", .1, 512, version))
        for modality in ("'image'", "'text'"): conn.execute(ITEM.format(modality, 2))
        assert conn.execute(
            "select attstorage from pg_attribute where attrelid = "
            "'sku_image_embeddings'::regclass and attname = 'embedding'"
        ).fetchone() == ('p',)
        assert conn.execute(
            'select distinct org_id::text, image_hash, namespace from item_embeddings'
        ).fetchall() == [('00000000-0000-0000-0000-000000000000', '', 'default')]


def test_defaults_of_a_product(db):
    with db.connect('catalogue') as conn:
        conn.execute(PRODUCT.format('', ''))
        row = conn.execute(
            'select image_status, ximilar_status, index_scope, ximilar_synced_urls, '
            'ximilar_target_count, category_canonical from raw_products'
        ).fetchone()
    assert row == ('pending', 'pending', 'pgvector', [], 2, 'other')


def test_one_reading_a_utc_day(db):
    with db.connect('catalogue') as conn:
        put = f"{READING} values ('hm', '1', '1', '[]', %s)"
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
    with db.connect('catalogue') as conn:
        assert conn.execute('select count(*) from raw_stores').fetchone() == (0,)


def test_a_connection_that_died_is_replaced(db):
    with db.connect('log') as conn: pid = conn.info.backend_pid
    with psycopg.connect(db.urls['log'], autocommit=True) as other:
        other.execute('select pg_terminate_backend(%s, 5000)', (pid,))
    with db.connect('log') as conn:
        assert conn.execute('select 1').fetchone() == (1,) and conn.info.backend_pid != pid


def test_a_connection_that_dies_in_use_fails_there_only(db):
    with pytest.raises(psycopg.OperationalError), db.connect('log') as conn:
        with psycopg.connect(db.urls['log'], autocommit=True) as other:
            other.execute('select pg_terminate_backend(%s)', (conn.info.backend_pid,))
        conn.execute('select 1')
    with db.connect('log') as conn: assert conn.execute('select 1').fetchone() == (1,)


def test_the_async_pool_rolls_back_and_replaces_the_dead(fresh_url):
    async def rounds():
        async with Databases(dict.fromkeys(LOGICALS, fresh_url)) as db:
            with pytest.raises(KeyError):
                async with db.aconnect('catalogue') as conn:
                    await conn.execute('begin')
                    await conn.execute(
                        "insert into raw_stores (brand, store_id, name) values ('hm', '1', 'x')"
                    )
                    raise KeyError
            async with db.aconnect('catalogue') as conn:
                assert await (await conn.execute('select count(*) from raw_stores')).fetchone() == (0,)
                pid = conn.info.backend_pid
            async with await psycopg.AsyncConnection.connect(fresh_url, autocommit=True) as other:
                await other.execute('select pg_terminate_backend(%s, 5000)', (pid,))
            async with db.aconnect('catalogue') as conn:
                return await (await conn.execute('select 1')).fetchone()

    assert asyncio.run(rounds()) == (1,)


def test_a_statement_that_takes_too_long_is_ended(fresh_url):
    with Databases(dict.fromkeys(LOGICALS, fresh_url), statement_timeout=.2) as db:
        with pytest.raises(psycopg.errors.QueryCanceled), db.connect('log') as conn:
            conn.execute('select pg_sleep(60)')
        with db.connect('log') as conn: assert conn.execute('select 1').fetchone() == (1,)


async def _async_round(url):
    async with Databases(dict.fromkeys(LOGICALS, url)) as db:
        async with db.aconnect('vectors') as conn:
            return await (await conn.execute("select '[1,2]'::vector")).fetchone()


def test_async_pool(fresh_url):
    (vector,) = asyncio.run(_async_round(fresh_url))
    assert list(vector.to_list() if hasattr(vector, 'to_list') else vector) == [1, 2]


def test_a_full_pool_times_out_with_a_name(fresh_url):
    with Databases(dict.fromkeys(LOGICALS, fresh_url), timeout=.3, max_size=1) as db, db.connect('log'):
        with pytest.raises(DatabaseError, match='log database'):
            with db.connect('log'): pass


def refusal(url, name='DATABASE_URL'):
    "What `open_databases` says about an address."
    with pytest.raises((DatabaseError, SettingsError)) as e:
        open_databases(load_settings(env={}, DATABASE_URL=url))
    text = str(e.value)
    assert name in text and 'planted' not in text and 'secret' not in text and e.value.__cause__ is None
    return text


@pytest.mark.parametrize('url, why', [
    ('postgresql://me:planted-secret@127.0.0.1:1/x', 'connection refused'),
    ('postgresql://me:planted-secret@no-such-host.invalid/x', 'unknown host name'),
    ('postgresql://me:planted@secret@127.0.0.1/x', '%40'),
    ('postgresql://me:planted/secret@127.0.0.1/x', '%2F'),
    ('postgresql://me:100%planted@127.0.0.1/x', '%25'),
    ('mysql://me:planted-secret@host/x', 'PostgreSQL'),
    ('host=127.0.0.1 password=planted-secret', 'PostgreSQL'),
])
def test_wrong_addresses_are_told_without_their_secrets(url, why): assert why in refusal(url)


def test_a_hash_in_the_password_is_no_harm():
    assert address('postgresql://me:planted#secret@db:5432/unde') == 'postgresql://me:•••@db:5432/unde'
    db = Databases(dict.fromkeys(LOGICALS, 'postgresql://me:planted#secret@127.0.0.1:1/x'), timeout=.2)
    with closing(db), pytest.raises(DatabaseError) as e, db.connect('log'): pass
    assert 'planted' not in str(e.value) + repr(db) and 'secret' not in str(e.value) + repr(db)


@pytest.mark.parametrize('through', ['migrate', 'pool', 'async pool'])
def test_a_server_that_never_answers(through, caplog):
    with socket.create_server(('127.0.0.1', 0)) as silent:  # takes the connection and says nothing
        url = f'postgresql://me:planted-secret@127.0.0.1:{silent.getsockname()[1]}/x'
        with (
            Databases(dict.fromkeys(LOGICALS, url), timeout=0.3) as db,
            pytest.raises(DatabaseError, match='no answer') as e,
        ):
            if through == 'migrate': db.migrate()
            elif through == 'pool':
                with db.connect('log'): pass
            else:
                async def ask():
                    async with db, db.aconnect('log'): pass
                asyncio.run(ask())
    assert 'planted' not in str(e.value) + caplog.text


@pytest.fixture
def own_folder(settings):
    "A data folder for a server of the test's own."
    folder = Path(settings.UNDE_DATA_DIR).with_name(f'unde-e-{uuid.uuid4().hex[:8]}')
    folder.mkdir()
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def test_what_the_server_says_is_passed_on(own_folder):
    "A server that asks for passwords."
    folder = own_folder
    (folder/'hba.conf').write_text('local all postgres trust\nlocal all all scram-sha-256\n')
    (folder/'hba.conf').chmod(0o644)
    (folder/'postgres.conf').write_text(f"hba_file = '{folder}/hba.conf'\n")
    with start_embedded(load_settings(env={}, UNDE_DATA_DIR=folder)) as server:
        with psycopg.connect(server.url, autocommit=True) as conn:
            conn.execute("create role me login password 'right-one'")
            conn.execute('create database hers owner me')
        def url(password, name): return sibling(server.url, name).replace('postgres@', f'me:{password}@')
        assert 'password authentication failed for user "me"' in refusal(url('planted-secret', 'hers'))
        assert 'database "missing" does not exist' in refusal(url('right-one', 'missing'))
        said = refusal(url('right-one', 'hers'), name='0001_vectors.sql')
        assert 'permission denied' in said and 'superuser' in said  # pgvector is no trusted extension
        with psycopg.connect(sibling(server.url, 'hers'), autocommit=True) as conn:
            conn.execute('create extension vector')
        with (
            closing(
                open_databases(load_settings(env={}, DATABASE_URL=url('right-one', 'hers')))
            ) as db,
            db.connect('log') as conn,
        ):
            assert conn.execute('select current_user').fetchone() == ('me',) and 'right-one' not in repr(db)


def test_three_databases_on_one_server(server_url):
    names = {x: f'test_three_{x}' for x in LOGICALS}
    with psycopg.connect(server_url, autocommit=True) as conn:
        for n in names.values():
            conn.execute(f'drop database if exists {n} with (force)')
            conn.execute(f'create database {n}')
    settings = load_settings(
        env={},
        DATABASE_URL=sibling(server_url, names['log']),
        PRODUCTION_DB_URL=sibling(server_url, names['vectors']),
        STAGING_DB_URL=sibling(server_url, names['catalogue']),
    )
    with closing(open_databases(settings)) as db:
        for logical, table in (
            ('log', 'recognition_items'),
            ('vectors', 'sku_image_embeddings'),
            ('catalogue', 'raw_products'),
        ):
            with db.connect(logical) as conn:
                assert conn.execute(
                    'select count(*) from information_schema.tables where table_name = %s', (table,)
                ).fetchone() == (1,)
                others = conn.execute(
                    "select count(*) from information_schema.tables where table_schema = "
                    "'public' and table_name in ('recognition_items', "
                    "'sku_image_embeddings', 'raw_products')"
                ).fetchone()
                assert others == (1,)
    with psycopg.connect(server_url, autocommit=True) as conn:
        for n in names.values(): conn.execute(f'drop database if exists {n} with (force)')


def test_many_threads_share_one_pool(fresh_url):
    import threading
    for _ in range(10):
        with Databases(dict.fromkeys(LOGICALS, fresh_url)) as db:
            pools, gate = [], threading.Barrier(8)
            threads = [
                threading.Thread(target=lambda: (gate.wait(), pools.append(db.pool('log'))))
                for _ in range(8)
            ]
            for t in threads: t.start()
            for t in threads: t.join()
            assert len(set(map(id, pools))) == 1


def test_many_tasks_open_one_async_pool(fresh_url):

    async def one(db):
        async with db.aconnect('log') as conn: return (await (await conn.execute('select 1')).fetchone())[0]

    async def all_of():
        async with Databases(dict.fromkeys(LOGICALS, fresh_url)) as db:
            return await asyncio.gather(*(one(db) for _ in range(20)))

    assert asyncio.run(all_of()) == [1]*20


EF = "select current_setting('hnsw.ef_search', true), current_setting('plan_cache_mode')"


@pytest.mark.parametrize('autocommit', [True, False])
def test_what_goes_out_together_is_one_transaction(fresh_url, autocommit):
    one, other = {'hnsw.ef_search': '123', 'plan_cache_mode': 'force_custom_plan'}, {'hnsw.ef_search': '77'}

    async def rounds():
        async with await psycopg.AsyncConnection.connect(fresh_url, autocommit=autocommit) as conn:
            before = await arun(conn, Query(EF))
            for _ in range(7):  # from the sixth on the driver has the statements prepared
                inside = await arun_all(
                    conn,
                    [
                        Query(EF, (), one), Query(EF, (), one), Query(EF, (), other),
                        Query('select txid_current()'), Query('select txid_current()'),
                    ],
                )
                assert (
                    inside[:3]
                    == [
                        [('123', 'force_custom_plan')],
                        [('123', 'force_custom_plan')],
                        [('77', 'force_custom_plan')],
                    ]
                    and inside[3] == inside[4]
                )
                assert await arun(conn, Query(EF, (), other)) == [('77', 'auto')]
                after = await arun(conn, Query(EF))
                assert after[0][0] not in ('123', '77') and after[0][1] == before[0][1] == 'auto'
    asyncio.run(rounds())


def test_an_error_among_those_that_go_out_together_undoes_them_all(fresh_url):
    put = Query("insert into raw_stores (brand, store_id, name) values ('hm', '1', 'x') returning 1")
    local = {'plan_cache_mode': 'force_custom_plan'}

    async def rounds():
        async with Databases(dict.fromkeys(LOGICALS, fresh_url)) as db, db.aconnect('catalogue') as conn:
            for bad, error in (
                (Query('select 1/0'), psycopg.errors.DivisionByZero),
                (Query('select nothing'), psycopg.errors.UndefinedColumn),
                (Query('select 1', (), {'no such': 'x'}), psycopg.Error),
            ):
                for asked in (
                    [put, bad],
                    [bad, put],
                    [Query('select 1', (), local), put, bad, Query('select 2')],
                ):
                    with pytest.raises(error): await arun_all(conn, asked)
                    assert conn.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
                    assert await arun_all(
                        conn,
                        [
                            Query('select count(*) from raw_stores'),
                            Query("select current_setting('plan_cache_mode')"),
                        ],
                    ) == [[(0,)], [('auto',)]]
            assert await arun_all(conn, [put, Query('select count(*) from raw_stores')]) == [[(1,)], [(1,)]]
            assert await arun(conn, Query('select count(*) from raw_stores')) == [(1,)]
    asyncio.run(rounds())


@pytest.fixture(scope='module')
def line(server_url):
    with psycopg.connect(server_url, autocommit=True) as conn: yield conn


@hypothesis_settings(deadline=None)
@example(
    [
        None, 'null', 'NULL', '', ' ', '{}', '{a,b}', '\\', '\\"', '"', ',', "'; drop", '\n\r\t',
        '\u2028', '%s', '👗', 'a\\',
    ]
)
@given(
    st.lists(
        st.none()
        | st.text(st.characters(exclude_characters='\0', exclude_categories=['Cs']))
        | st.text('\\"{}, nul\'\n', max_size=8)
    )
)
def test_a_text_array_comes_back_as_it_went(line, texts):
    assert line.execute(
        'select %s::text[], cardinality(%s::text[])', (text_array(texts), text_array(texts))
    ).fetchone() == (texts, len(texts))


def test_a_text_that_no_text_can_be_is_refused(line):
    with pytest.raises(psycopg.DataError): line.execute('select %s::text[]', (text_array(['a\0b']),))


def test_json_is_read_as_python_reads_it(fresh_url):
    texts = [
        json.dumps(
            {
                'a': [1, -0.1, 1e300, 12345678901234567890123, 1.0, 0.1 + 0.2, None, True],
                'é"\\\n👗': {},
            }
        ),
        '[]',
        '"x"',
        '1e-7',
        '[' * 900 + ']' * 900,
    ]
    ask = 'select %(x)s::json, %(x)s::jsonb, %(x)s::jsonb::text'

    def check(text, row):
        assert [repr(x) for x in row[:2]] == [repr(json.loads(text)), repr(json.loads(row[2]))]

    async def asked():
        async with Databases(dict.fromkeys(LOGICALS, fresh_url)) as db, db.aconnect('log') as conn:
            for text in texts: check(text, await (await conn.execute(ask, {'x': text})).fetchone())
    asyncio.run(asked())
    with Databases(dict.fromkeys(LOGICALS, fresh_url)) as db, db.connect('log') as conn:
        for text in texts: check(text, conn.execute(ask, {'x': text}).fetchone())


@pytest.mark.parametrize('width', [1, 2])
def test_a_question_that_comes_as_the_last_call_ends_is_answered(width):
    "Both timers are due in one turn of the loop: new questions are there before the calls have ended."

    async def work(questions):
        await asyncio.sleep(.01)
        return questions

    async def meet():
        batcher = Batcher(work, width=width, limit=1)
        first = [asyncio.create_task(batcher.ask(n)) for n in range(width)]
        async def late():
            await asyncio.sleep(.005)
            return await asyncio.gather(*(batcher.ask(n) for n in range(3)))
        second = asyncio.create_task(late())
        await asyncio.sleep(.001)
        time.sleep(.05)
        return await asyncio.wait_for(asyncio.gather(*first, second), 20)
    assert asyncio.run(meet())[-1] == [0, 1, 2]
