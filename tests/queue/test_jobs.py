"Jobs through a real Celery worker on a real Redis: two workers of which one dies, one result."
import hashlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time

import psycopg
import pytest
from PIL import Image
from psycopg.types.json import Jsonb

from unde_recog.db.database import LOGICALS, Databases
from unde_recog.jobs.job import JobContext, run_job
from unde_recog.jobs.registry import JOBS
from unde_recog.media.images import to_jpeg
from unde_recog.media.storage import FolderStorage
from unde_recog.settings import load_settings

from tests.conftest import named_database

if shutil.which('redis-server') is None and os.environ.get('CI') != 'true':
    pytest.skip('needs redis-server', allow_module_level=True)
celery = pytest.importorskip('celery') if os.environ.get('CI') != 'true' else __import__('celery')

PRODUCTS, PHOTOS = 40, 3


@pytest.fixture(scope='module')
def broker(tmp_path_factory):
    "A Redis of the tests' own."
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = s.getsockname()[1]
    folder = str(tmp_path_factory.mktemp('redis'))
    words = ['--port', str(port), '--bind', '127.0.0.1', '--save', '', '--appendonly', 'no', '--dir', folder]
    quiet = {'stdout': subprocess.DEVNULL, 'stderr': subprocess.DEVNULL}
    process = subprocess.Popen(['redis-server', *words], **quiet)
    for _ in range(200):
        with socket.socket() as s:
            if s.connect_ex(('127.0.0.1', port)) == 0: break
        time.sleep(.05)
    yield f'redis://127.0.0.1:{port}/0'
    process.kill()
    process.wait()


@pytest.fixture(scope='module')
def shop(server_url, template, tmp_path_factory):
    "(address, data folder) of a catalogue whose photos lie in storage; one is broken, one missing."
    data = tmp_path_factory.mktemp('data')
    store = FolderStorage(data/'storage')
    with named_database(server_url, template, f'test_{os.getpid()}_jobs') as url:
        with psycopg.connect(url, autocommit=True) as conn:
            for n in range(PRODUCTS):
                urls = [f'storage:{n}-{p}.jpg' for p in range(PHOTOS)]
                conn.execute(
                    '''insert into raw_products (source, external_id, brand, name, image_urls, image_views,
                       index_scope) values ('t', %s, 'hm', 'x', %s, %s, 'pgvector')''',
                    (str(n), Jsonb(urls), Jsonb(['unknown']*PHOTOS)))
                for p in range(PHOTOS):
                    photo = Image.new('RGB', (60, 70 + p), f'hsl({(17*n + p) % 360},{30 + n % 60}%,50%)')
                    store.put(f'{n}-{p}.jpg', to_jpeg(photo))
        store.put('3-1.jpg', b'<html>')
        (data/'storage'/'4-2.jpg').unlink()
        yield url, data


@pytest.fixture(scope='module')
def env(shop, broker):
    url, data = shop
    return {k: v for k, v in os.environ.items() if k != 'UNDE_SETTINGS'} | {
        'DATABASE_URL': url, 'UNDE_DATA_DIR': str(data), 'CELERY_BROKER_URL': broker,
        'CELERY_RESULT_BACKEND': broker, 'OMP_NUM_THREADS': '1',
    }


def worker(env, queues):
    words = ['-m', 'celery', '-A', 'unde_recog.queue.worker:celery_app', 'worker', f'--queues={queues}',
             '--pool=solo', '--loglevel=warning', '--without-gossip', '--without-mingle']
    return subprocess.Popen([sys.executable, *words], env=env, stderr=subprocess.DEVNULL)


def context(env, **options):
    names = ('DATABASE_URL', 'UNDE_DATA_DIR', 'CELERY_BROKER_URL', 'CELERY_RESULT_BACKEND')
    settings = load_settings(env={name: env[name] for name in names})
    from unde_recog.jobs.index_job import IndexJobOptions
    db = Databases(dict.fromkeys(LOGICALS, env['DATABASE_URL']))
    return JobContext(settings=settings, db=db, options=IndexJobOptions(**options))


def fingerprint(url):
    "What the index holds, whatever the order in which it was written."
    with psycopg.connect(url) as conn:
        rows = conn.execute('select brand, sku_id, image_url, image_rank, image_hash, embedding::text, '
                            'metadata::text from sku_image_embeddings order by 1, 2, 3').fetchall()
        query = 'select sku_id, image_url, kind from embedding_failures order by 1, 2'
        failed = conn.execute(query).fetchall()
    return len(rows), hashlib.sha256(repr(rows).encode()).hexdigest(), failed


def empty(url):
    with psycopg.connect(url, autocommit=True) as conn:
        for table in ('sku_image_embeddings', 'embedding_failures', 'embedding_versions', 'unde_leases'):
            conn.execute(f'delete from {table}')


@pytest.fixture(scope='module')
def undisturbed(env):
    from unde_recog.jobs.index_job import JOB
    asked = context(env)
    with asked.db: report = run_job(JOB, asked)
    assert report.failed == {'not_an_image': 1, 'not_found': 1} and report.coverage == 1
    return fingerprint(env['DATABASE_URL'])


def test_two_workers_of_which_one_dies(env, undisturbed):
    from unde_recog.jobs.index_job import JOB
    from unde_recog.queue import embedding
    from unde_recog.queue.worker import make_celery
    empty(env['DATABASE_URL'])
    workers = [worker(env, 'embedding-sync') for _ in range(2)]
    killed = []

    def watch(pace):
        if pace.done and not killed:
            os.kill(workers[0].pid, signal.SIGKILL)
            killed.append(workers[0].wait())
    asked = context(env, queue=True, shards=10, pause=.05)
    asked.on_pace = watch

    def spread(settings, tasks, done):
        embedding.in_queue(make_celery(settings), tasks, done, patience=5.)
    asked.spread = spread
    try:
        with asked.db: report = run_job(JOB, asked)
    finally:
        for w in workers: w.kill()
        for w in workers: w.wait()
    assert killed and report.failed == {'not_an_image': 1, 'not_found': 1}
    assert fingerprint(env['DATABASE_URL']) == undisturbed


def test_a_job_from_the_queue_then_again(env, undisturbed):
    from unde_recog.queue.worker import make_celery
    app = make_celery(context(env).settings)
    assert set(JOBS) | {'embedding-sync', 'recognize_photo'} <= set(app.tasks)
    process = worker(env, 'jobs_queue')
    try:
        sent = [app.send_task('index', queue='jobs_queue') for _ in range(2)]
        results = [r.get(timeout=120) for r in sent]
        refused = app.send_task('index', kwargs={'colour': 'red'}, queue='jobs_queue')
        with pytest.raises(Exception, match='no option colour'): refused.get(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert [r['done'] for r in results] == [{'unchanged': PRODUCTS*PHOTOS - 2}]*2
    assert fingerprint(env['DATABASE_URL'])[:2] == undisturbed[:2]


def test_processes_of_this_machine(env, undisturbed):
    from unde_recog.jobs.index_job import JOB
    empty(env['DATABASE_URL'])
    asked = context(env, processes=2, shards=6)
    with asked.db: run_job(JOB, asked)
    assert fingerprint(env['DATABASE_URL']) == undisturbed
