"The queue with a real Redis and a real Celery worker: every photo once, whatever happens to the worker."
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import psutil
import pytest

from unde_recog.contracts import Answer
from unde_recog.settings import load_settings

from tests.web_shop import Shop

if shutil.which('redis-server') is None and os.environ.get('CI') != 'true':
    pytest.skip('needs redis-server', allow_module_level=True)
celery = pytest.importorskip('celery') if os.environ.get('CI') != 'true' else __import__('celery')


@pytest.fixture(scope='module')
def shop(server_url, template, tmp_path_factory):
    made = Shop(server_url, template, tmp_path_factory.mktemp('shop'), 'test_worker', skus=6)
    yield made
    made.drop()


@pytest.fixture(scope='module')
def broker(tmp_path_factory):
    "A Redis of the tests' own."
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = s.getsockname()[1]
    process = subprocess.Popen(
        [
            'redis-server',
            '--port',
            str(port),
            '--bind',
            '127.0.0.1',
            '--save',
            '',
            '--appendonly',
            'no',
            '--dir',
            str(tmp_path_factory.mktemp('redis')),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    for _ in range(100):
        with socket.socket() as s:
            if s.connect_ex(('127.0.0.1', port)) == 0: break
        time.sleep(.05)
    yield f'redis://127.0.0.1:{port}/0'
    process.kill()
    process.wait()


class Photos:
    "Serves one photo, when it is told to."
    def __init__(self, data):
        self.asked, self.go, self.hits = threading.Event(), threading.Event(), 0
        photos = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                photos.hits += 1
                photos.asked.set()
                photos.go.wait(20)
                try:
                    self.send_response(200)
                    self.send_header('Content-Length', str(len(data)))
                    self.end_headers()
                    self.wfile.write(data)
                except OSError: pass  # whoever asked was killed
            def log_message(self, *args): pass
        self.server = ThreadingHTTPServer(('127.0.0.1', 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f'http://127.0.0.1:{self.server.server_port}/look.jpg'


def free_port():
    with socket.socket() as listening:
        listening.bind(('127.0.0.1', 0))
        return listening.getsockname()[1]


METRICS_PORT = free_port()


@pytest.fixture(scope='module')
def queue(shop, broker):
    "(application to send with, the worker's process)."
    from unde_recog.queue.worker import make_celery

    env = {k: v for k, v in os.environ.items() if k not in ('UNDE_SETTINGS',)} | {
        'DATABASE_URL': shop.url,
        'UNDE_DATA_DIR': str(shop.data),
        'CELERY_BROKER_URL': broker,
        'CELERY_RESULT_BACKEND': broker,
        'ALLOW_PRIVATE_URLS': '1',
        'OMP_NUM_THREADS': '1',
        'METRICS_PORT': str(METRICS_PORT),
    }
    worker = subprocess.Popen(
        [
            sys.executable,
            '-m',
            'celery',
            '-A',
            'unde_recog.queue.worker:celery_app',
            'worker',
            '-Q',
            'recognition_queue',
            '-c',
            '1',
            '--without-gossip',
            '--without-mingle',
            '-l',
            'info',
        ],
        env=env,
        cwd=shop.folder,
        stdout=subprocess.DEVNULL,
        stderr=(shop.folder/'worker.log').open('wb'),
        start_new_session=True,
    )
    yield make_celery(load_settings(env={}, CELERY_BROKER_URL=broker, CELERY_RESULT_BACKEND=broker)), worker
    worker.terminate()
    try: worker.wait(10)
    except subprocess.TimeoutExpired: worker.kill()


def send(app, url, task_id=None, **how):
    return app.send_task('recognize_photo', [url], how, task_id=task_id or str(uuid.uuid4()))


def test_a_photo_from_the_queue(queue, shop):
    key = shop.world.keys[0]
    task = send(
        queue[0],
        f'storage:originals/{key.brand}/{key.external_id}/0.jpg',
        user_id='bot',
        user_mall=shop.mall,
    )
    answer = Answer.model_validate(task.get(timeout=60))
    assert answer.request_id == task.id and answer.items[0].matches[0].external_id == key.external_id
    # logged before it was confirmed
    assert shop.log(
        'select user_id, user_mall from recognition_requests where id = %s', task.id
    ) == [('bot', shop.mall)]


def test_delivered_twice_answered_once(queue, shop):
    photos = Photos(shop.photo())
    photos.go.set()
    first = send(queue[0], photos.url, 'night-7')
    result = first.get(timeout=60)
    first.forget()
    again = send(queue[0], photos.url, 'night-7').get(timeout=60)
    assert again == result and photos.hits == 1
    assert shop.log('select count(*) from recognition_requests where photo_url = %s', photos.url) == [(1,)]


def test_a_worker_killed_under_way(queue, shop):
    photos = Photos(shop.photo(1))
    task = send(queue[0], photos.url)
    assert photos.asked.wait(60)
    (child,) = psutil.Process(queue[1].pid).children()
    child.kill()  # kill -9 in the middle: the task was not confirmed
    photos.go.set()
    answer = Answer.model_validate(task.get(timeout=60))
    assert (
        answer.request_id == task.id
        and answer.items[0].matches[0].external_id == shop.world.keys[1].external_id
        and photos.hits == 2
    )
    assert shop.log('select count(*) from recognition_requests where id = %s', task.id) == [(1,)]


def test_what_cannot_be_used_is_a_result(queue, shop):
    bad = [send(queue[0], url) for url in ('/etc/passwd', 'storage:nowhere/x.jpg')]
    assert [b.get(timeout=60)['error'] for b in bad] == ['refused_url', 'not_found']
    key = shop.world.keys[0]
    assert (
        send(
            queue[0], f'storage:originals/{key.brand}/{key.external_id}/0.jpg', user_mall='Nowhere'
        ).get(timeout=60)['error']
        == 'unknown_mall'
    )


def test_the_worker_can_be_watched(queue, shop):
    "Its lines are JSON with the request's id, without answers and signatures; its numbers are there."
    app, _ = queue
    photos, task = Photos(shop.photo(2)), str(uuid.uuid4())
    photos.go.set()
    send(app, 'http://127.0.0.1:1/look.jpg?X-Amz-Signature=do-not-log-me', task).get(timeout=60)
    assert send(app, photos.url).get(timeout=60)['items']
    text = (shop.folder/'worker.log').read_text('utf-8')
    lines = [json.loads(line) for line in text.splitlines() if line.startswith('{')]
    (refused,) = [line for line in lines if line.get('task') == task]
    assert refused['request_id'] == task and refused['outcome'] not in ('answered', '')
    assert any(line.get('outcome') == 'answered' and line['ms'] >= 0 for line in lines)
    assert 'do-not-log-me' not in text and 'external_id' not in text
    numbers = httpx.get(f'http://127.0.0.1:{METRICS_PORT}/metrics', timeout=10).text
    assert 'unde_items_total' in numbers and 'unde_vendor_calls_total' in numbers
    assert 'unde_job_state' in numbers and 'unde_feed_stopped' in numbers  # read from the catalogue
