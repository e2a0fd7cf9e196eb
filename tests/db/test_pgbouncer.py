"""Through a real PgBouncer in transaction mode: found by itself, and everything works as without it."""

import asyncio
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import psycopg
import pandas as pd
import pytest
from PIL import Image
from psycopg.conninfo import conninfo_to_dict

from unde_recog.bench.interleavings import write_figures
from unde_recog.catalogue.imports import import_products, import_stores
from unde_recog.catalogue.stock import import_availability
from unde_recog.db.connection import LOGICALS, DatabaseError, is_pooled
from unde_recog.db.database import Databases, Query, arun_all, open_databases, run
from unde_recog.db.leases import LeaseHeld, hold
from unde_recog.embedder import load_embedder
from unde_recog.jobs.index import index_catalogue
from unde_recog.media.images import to_jpeg
from unde_recog.media.storage import open_storage
from unde_recog.session import open_recognizer
from unde_recog.settings import load_settings

PROGRAM = shutil.which('pgbouncer', path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
pytestmark = pytest.mark.skipif(PROGRAM is None, reason='needs pgbouncer: apt-get install pgbouncer')
RECOGNITIONS = int(os.environ.get('UNDE_POOLED_RECOGNITIONS', 40))  # `make bench`: 1000
SIZE = 6


def start_pgbouncer(folder, server, ignore=''):
    "PgBouncer before `server`, as the user that may use its socket, which is never root."
    info = conninfo_to_dict(server)
    uid = os.stat(info['host']).st_uid
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    ini = folder/'pgbouncer.ini'
    ini.write_text(
        f"""[databases]
* = host={info['host']} port={info['port']} user={info['user']}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = {SIZE}
max_client_conn = 200
{f'ignore_startup_parameters = {ignore}' if ignore else ''}
"""
    )
    folder.chmod(0o755)
    user = {'user': uid} if os.geteuid() == 0 else {}
    log = open(folder/'log', 'w')
    process = subprocess.Popen([PROGRAM, str(ini)], stdout=log, stderr=log, **user)
    ends = time.monotonic() + 30
    while time.monotonic() < ends:
        try: socket.create_connection(('127.0.0.1', port), .2).close()
        except OSError:
            assert process.poll() is None, (folder/'log').read_text()
            time.sleep(.05)
        else: break
    return process, f"postgresql://{info['user']}@127.0.0.1:{port}/{info['dbname']}"


@pytest.fixture(params=['refuses options', 'drops options'])
def pooled_url(request, fresh_url):
    with tempfile.TemporaryDirectory(dir='/var/tmp') as d:
        ignore = '' if request.param == 'refuses options' else 'extra_float_digits,options'
        process, url = start_pgbouncer(Path(d), fresh_url, ignore)
        yield url
        process.kill()
        process.wait()


@pytest.fixture
def pooled(pooled_url):
    with Databases(dict.fromkeys(LOGICALS, pooled_url)) as databases: yield databases


def test_it_is_found_and_nothing_of_one_client_reaches_another(pooled):
    with pooled.connect('log') as conn:
        assert is_pooled(conn) and conn.prepare_threshold is None
        assert conn.execute('show timezone').fetchone() == ('UTC',)
        local = Query(
            "select current_setting('statement_timeout'), current_setting('work_mem')",
            (),
            {'work_mem': '7MB'},
        )
        assert run(conn, local) == [('30s', '7MB')]
        for _ in range(30):  # one server after another
            assert conn.execute("select current_setting('work_mem')").fetchone() != ('7MB',)


def test_many_clients_on_few_servers(pooled):
    """The same statement, again and again, from more clients than servers: none is prepared on
    the server."""
    async def main():
        async def ask(i):
            async with pooled.aconnect('log') as conn:
                found = []
                for n in range(12):
                    queries = [Query('select %s::int + %s', (i, n)), Query('select %s::int * 2', (n,))]
                    found.append(await arun_all(conn, queries))
                return found
        answers = await asyncio.gather(*(ask(i) for i in range(SIZE*3)))
        assert all(a[n] == [[(i + n,)], [(2*n,)]] for i, a in enumerate(answers) for n in range(12))
        await pooled.aclose()
    asyncio.run(main())


def test_a_statement_that_takes_too_long_is_ended(pooled_url):
    with (
        Databases(dict.fromkeys(LOGICALS, pooled_url), statement_timeout=0.3) as db,
        db.connect('log') as conn,
    ):
        with pytest.raises(psycopg.errors.QueryCanceled): run(conn, Query('select pg_sleep(20)'))


def test_leases_hold_where_locks_of_a_session_would_not(pooled):
    with hold(pooled, 'vectors', 'work', job='first', ttl=3):
        for _ in range(5):
            with (
                pytest.raises(LeaseHeld, match='held by first'),
                hold(pooled, 'vectors', 'work', job='second'),
            ):
                pass


def test_adoption_asks_for_a_direct_address(pooled_url, fresh_url):
    with psycopg.connect(fresh_url, autocommit=True) as conn: conn.execute('drop table unde_migrations')
    with Databases(dict.fromkeys(LOGICALS, pooled_url)) as db:
        with pytest.raises(DatabaseError, match='set MIGRATION_DATABASE_URL'): db.migrate()
    settings = load_settings(env={}, DATABASE_URL=pooled_url, MIGRATION_DATABASE_URL=fresh_url)
    with open_databases(settings) as db, db.connect('vectors') as conn:
        assert is_pooled(conn) and not any(db.migrate().values())


def write_shop(folder, n=24):
    photos = folder/'photos'
    photos.mkdir()
    rng = np.random.default_rng(5)
    for i in range(n):
        pixels = rng.integers(0, 255, (6, 4, 3), 'uint8')
        (photos/f'{i}.jpg').write_bytes(to_jpeg(Image.fromarray(pixels).resize((240, 360), 0), 92))
    rows = [{'brand': 'hm', 'external_id': f'p{i}', 'name': f'thing {i}', 'price': 10, 'currency': 'EUR',
             'category': 'shirt', 'image_urls': f'{i}.jpg'} for i in range(n)]
    pd.DataFrame(rows).to_csv(folder/'products.csv', index=False)
    pd.DataFrame(
        [{'brand': 'hm', 'store_id': '1', 'name': 'H&M', 'mall_name': 'Mall', 'timezone': 'UTC'}]
    ).to_csv(folder / 'stores.csv', index=False)
    now = pd.Timestamp.now('UTC').floor('s').isoformat()
    stock = [
        {
            'brand': 'hm',
            'store_id': '1',
            'product_id': f'p{i}',
            'sizes_in_stock': '["M"]',
            'fetched_at': now,
        }
        for i in range(n)
    ]
    pd.DataFrame(stock).to_csv(folder/'stock.csv', index=False)


def test_import_index_recognitions_and_log(pooled_url, tmp_path, request):
    "None degraded, no row lost."
    write_shop(tmp_path)
    data = Path(tempfile.mkdtemp(dir='/var/lib' if os.geteuid() == 0 else None))
    settings = load_settings(
        env={},
        DATABASE_URL=pooled_url,
        UNDE_DATA_DIR=data,
        DETECTOR_MODEL='whole_photo',
        SEARCH_BACKEND='pgvector',
        REQUEST_DEADLINE='60s',
    )
    with open_databases(settings) as db:
        import_products(
            db,
            tmp_path / 'products.csv',
            images=tmp_path / 'photos',
            storage=open_storage(settings),
        )
        import_stores(db, tmp_path/'stores.csv')
        import_availability(db, tmp_path/'stock.csv')
        report = index_catalogue(
            db, load_embedder(preset='batch'), storage=open_storage(settings), global_from=10
        )
        assert report.with_vector == 24 and report.indexes_built == ['all']
    photos = [Image.open(tmp_path/'photos'/f'{i}.jpg') for i in range(24)]
    with open_recognizer(settings) as session:
        async def all_of_them():
            gate = asyncio.Semaphore(4)
            async def one(i):
                async with gate: return await session.recognizer.recognize(photos[i % 24], user_mall='Mall')
            return await asyncio.gather(*(one(i) for i in range(RECOGNITIONS)))
        session.recognize(photos[0], user_mall='Mall')  # opens connections, on a busy machine slowly
        answers = session.run(all_of_them())
        session.drain()
    degraded = Counter(part for a in answers for part in a.degraded)
    assert not degraded, degraded
    first = [a.items[0].matches[0].external_id for a in answers]
    assert first == [f'p{i % 24}' for i in range(RECOGNITIONS)]
    with open_databases(settings) as db, db.connect('log') as conn:
        assert conn.execute('select count(*) from recognition_requests').fetchone() == (RECOGNITIONS + 1,)
        assert conn.execute('select count(*) from recognition_items').fetchone() == (RECOGNITIONS + 1,)
    shutil.rmtree(data, ignore_errors=True)
    if folder := os.environ.get('UNDE_POOLED_REPORT'):
        figures = {'recognitions': RECOGNITIONS, 'degraded': 0, 'first match right': RECOGNITIONS}
        figures |= {'log rows missing': 0}
        write_figures(f'PgBouncer that {request.node.callspec.params["pooled_url"]}', figures, Path(folder))
