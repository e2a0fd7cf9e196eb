"""kill -9 of each part while work flows: nobody is told anything wrong, nothing acknowledged is
lost, and the others are not restarted."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import httpx
import psutil
import psycopg
import pytest

from unde_recog.contracts import Answer
from unde_recog.db.database import open_databases
from unde_recog.demo import fill
from unde_recog.db.embedded import server_state, start_embedded
from unde_recog.media.images import to_jpeg
from unde_recog.sandbox.faults import Fault
from unde_recog.sandbox.server import App, Sandbox
from unde_recog.settings import load_settings
from unde_recog.media.storage import open_storage
from unde_recog.wardrobe.world import Truth, World

from tests.web_shop import Shop

HARMLESS = {k: v for k, v in os.environ.items() if k not in ('UNDE_SETTINGS', 'DATABASE_URL')} | {
    'OMP_NUM_THREADS': '1'
}


def eventually(what, seconds=60., why='it did not happen'):
    ends = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < ends, why() if callable(why) else why
        time.sleep(.05)
    return found


def free_port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]


class Role:
    "A role of the service as a process of its own, on a port that it keeps."

    def __init__(self, role, cwd, **env):
        self.role, self.cwd, self.env, self.port, self.process = (
            role,
            cwd,
            {k: str(v) for k, v in env.items()},
            free_port(),
            None,
        )

    @property
    def url(self): return f'http://127.0.0.1:{self.port}'

    def start(self):
        code = f'from unde_recog.serving import serve; serve(role={self.role!r}, port={self.port})'
        self.process = subprocess.Popen(
            [sys.executable, '-c', code],
            env=HARMLESS | self.env,
            cwd=self.cwd,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        return self

    def says(self, path, status=200):
        try: return httpx.get(self.url + path, timeout=5).status_code == status
        except httpx.TransportError: return False

    def ready(self):
        eventually(lambda: self.says('/health/ready'), why=f'{self.role} never became ready')
        return self

    def kill(self):
        self.process.kill()
        self.process.wait()

    def __enter__(self): return self.start()
    def __exit__(self, *exc): self.kill()


class Load:
    """Clients that send photos without a pause; `answers` holds (photo's number, Idempotency-Key,
    status or None when the line broke, body)."""

    def __init__(self, url, photos, mall, clients=3):
        self.url, self.photos, self.mall, self.clients, self.answers, self.stop = (
            url,
            photos,
            mall,
            clients,
            [],
            threading.Event(),
        )

    def _run(self, first):
        n = first
        with httpx.Client(base_url=self.url, timeout=60) as client:
            while not self.stop.is_set():
                n, key = (n + 1) % len(self.photos), uuid.uuid4().hex
                try:
                    answer = client.post(
                        '/api/v1/recognize',
                        files={'image': self.photos[n]},
                        data={'user_mall': self.mall},
                        headers={'Idempotency-Key': key},
                    )
                    self.answers.append((n, key, answer.status_code, answer.json()))
                    if answer.status_code != 200:
                        assert (
                            answer.headers['content-type'] == 'application/problem+json'
                            and answer.headers['retry-after']
                        )
                except httpx.TransportError:
                    self.answers.append((n, key, None, None))
                if self.answers[-1][2] != 200: self.stop.wait(.1)

    def __enter__(self):
        "Ask for each photo once, in peace: that answer is the right one from now on."
        self.right = [
            self.shown(
                httpx.post(
                    self.url + '/api/v1/recognize',
                    files={'image': p},
                    data={'user_mall': self.mall},
                    timeout=60,
                ).json()
            )
            for p in self.photos
        ]
        self.threads = [threading.Thread(target=self._run, args=(n,)) for n in range(self.clients)]
        for t in self.threads: t.start()
        eventually(
            lambda: len(self.good()) >= 2 * self.clients,
            why=lambda: f'no answers: {self.answers[-3:]}',
        )
        return self

    def __exit__(self, *exc):
        self.stop.set()
        for t in self.threads: t.join(90)

    @staticmethod
    def shown(result):
        return [
            (i['category'], [(m['brand'], m['external_id']) for m in i['matches']])
            for i in result['items']
        ]

    def good(self, since=0): return [a for a in self.answers[since:] if a[2] == 200]
    def again(self, whole=True, seconds=60):
        "Wait until photos sent from now on are answered, `whole`: with nothing left out."
        since = len(self.answers)
        eventually(
            lambda: [a for a in self.good(since) if not (whole and a[3]['degraded'])],
            seconds,
            why=lambda: f'it did not recover: {[(s, b) for _, _, s, b in self.answers[-3:]]}',
        )


def check_right(load, logged):
    "Every answer is right, or says that it is not whole; every answer is in the log, once."
    assert all(result['degraded'] or load.shown(result) == load.right[n] for n, _, _, result in load.good())
    answered = [result['request_id'] for *_, result in load.good()]
    assert len(set(answered)) == len(answered)
    eventually(
        lambda: Counter(logged(answered)) == Counter(answered),
        30,
        why=lambda: f'{len(answered)} were answered, {len(logged(answered))} are in the log',
    )


@pytest.fixture(scope='module')
def shop(server_url, template, tmp_path_factory):
    made = Shop(server_url, template, tmp_path_factory.mktemp('shop'), 'test_killed', skus=6)
    yield made
    made.drop()


def logged_in(url):
    def logged(ids):
        with psycopg.connect(url) as conn:
            return [
                str(i)
                for (i,) in conn.execute(
                    'select id from recognition_requests where id = any(%s)',
                    ([uuid.UUID(i) for i in ids],),
                )
            ]

    return logged


# --- the database


@pytest.fixture
def folder(settings):
    "A data folder of this test's own, where an embedded server can live."
    place = Path(settings.UNDE_DATA_DIR).with_name(f'unde-k-{uuid.uuid4().hex[:8]}').resolve()
    place.mkdir()
    place.chmod(0o755)
    yield place
    for p in psutil.process_iter(['cmdline']):
        if str(place/'postgres') in (p.info['cmdline'] or []): p.kill()
    shutil.rmtree(place, ignore_errors=True)


def test_postgresql_killed(folder):
    """The service's own PostgreSQL dies with all its processes; the service starts it again, and
    is itself the same process as before."""
    world, own = World(seed=5, skus=6), load_settings(env={}, UNDE_DATA_DIR=folder)
    with open_databases(own) as db:
        fill(db, world, folder / 'world', open_storage(own), on_event=lambda *_: None)
    photos = [to_jpeg(world.photo(k, 'front')) for k in world.keys]
    with Role('app', folder, UNDE_DATA_DIR=folder) as app:
        app.ready()
        # known from now on, and left: the service is the only user
        with start_embedded(own) as handle: url = handle.url
        with Load(app.url, photos, world.mall_names[0]) as load:
            postmaster = psutil.Process(int((folder/'postgres'/'postmaster.pid').read_text().split()[0]))
            everybody = [postmaster, *postmaster.children(recursive=True)]
            for p in everybody: p.kill()
            assert app.says('/health/live')
            eventually(lambda: server_state(folder/'postgres') == 'ready')
            load.again()
            assert app.process.poll() is None and app.says('/health/ready')
        assert {s for _, _, s, _ in load.answers} <= {200, 503}
        assert int((folder/'postgres'/'postmaster.pid').read_text().split()[0]) != postmaster.pid
        check_right(load, logged_in(url))


# --- a role


def test_roles_killed(shop):
    """Embedder and gateway die and come back: the app stays, and says what it left out. Then the
    app dies: what it had acknowledged is there for the next one."""
    truth = Truth()
    for key in shop.world.keys:
        truth.add_photo(
            (shop.folder / 'images' / key.brand / key.external_id / 'front.jpg').read_bytes(), key
        )
    usual = {
        'DATABASE_URL': shop.url,
        'UNDE_DATA_DIR': shop.data,
        'SEARCH_BACKEND': 'pgvector',
        'REQUEST_DEADLINE': '20s',
    }
    photos = [shop.photo(n) for n in range(3)]
    with Sandbox(App(shop.world, truth)) as box, contextlib.ExitStack() as processes:
        embedder, gateway = (
            Role('embedder', shop.folder, **usual),
            Role('gateway', shop.folder, **usual | box.settings()),
        )
        app = Role('app', shop.folder, **usual, EMBEDDER_URL=embedder.url, XIMILAR_GW_URL=gateway.url)
        for role in (embedder, gateway, app): processes.enter_context(role)
        for role in (embedder, gateway): role.ready()
        app.ready()
        with Load(app.url, photos, shop.mall) as load:
            for role, missing in ((embedder, 'pgvector_search'), (gateway, 'ximilar_detect')):
                shop.log("delete from paid_answers where kind <> 'answer' returning 1")
                load.again()
                role.kill()
                since = len(load.answers)
                result = lambda since=since, missing=missing: {
                    n: body['items']
                    for n, _, _, body in load.good(since)
                    if missing in body['degraded']
                }
                eventually(
                    lambda result=result: len(result()) == len(photos),
                    why=lambda missing=missing: f'{missing}: {load.answers[-2:]}',
                )
                # with the database up there is always a list
                assert all(items and (role is gateway or items[0]['matches']) for items in result().values())
                assert app.says('/health/ready')
                role.start().ready()
                load.again()
            assert app.process.poll() is None and {s for _, _, s, _ in load.answers} == {200}
            before = load.good()
            app.kill()
            eventually(lambda: load.answers[-1][2] is None)
            app.start().ready()
            load.again()
        with httpx.Client(base_url=app.url, timeout=30) as client:
            for n, key, _, result in [*before[:2], *before[-6:]]:
                replayed = client.post(
                    '/api/v1/recognize',
                    files={'image': photos[n]},
                    data={'user_mall': shop.mall},
                    headers={'Idempotency-Key': key},
                )
                assert replayed.json() == result and replayed.headers['idempotency-replayed'] == 'true'
        # those of the killed process too: its rows were on disk before anybody had the answer
        check_right(load, logged_in(shop.url))


# --- the queue


@pytest.fixture
def tools():
    "Redis and Celery, if this machine has them; on CI it must."
    lacking = [
        how
        for there, how in (
            (shutil.which('redis-server'), 'apt-get install redis-server'),
            (find_spec('celery'), "pip install 'unde_recog[queue]'"),
        )
        if not there
    ]
    if lacking:
        (pytest.fail if os.environ.get('CI') == 'true' else pytest.skip)(
            'the queue is tried with a real Redis and a real worker: ' + ', '.join(lacking)
        )


class Redis:
    "A Redis of the test's own on a port and in a folder that it keeps."
    def __init__(self, folder, persistent):
        self.port, self.how = (
            free_port(),
            ['--appendonly', 'yes' if persistent else 'no', '--save', '', '--dir', str(folder)],
        )
        self.url = f'redis://127.0.0.1:{self.port}/0'

    def start(self):
        self.process = subprocess.Popen(
            ['redis-server', '--port', str(self.port), '--bind', '127.0.0.1', *self.how],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        eventually(self.answers)
        return self

    def answers(self):
        with socket.socket() as s:
            if s.connect_ex(('127.0.0.1', self.port)): return False
            s.sendall(b'PING\r\n')
            return s.recv(20) == b'+PONG\r\n'

    def kill(self):
        self.process.kill()
        self.process.wait()

    def __enter__(self): return self.start()
    def __exit__(self, *exc): self.kill()


class Worker:
    """A whole Celery worker, parent and child. What its dead predecessor held comes back after
    some seconds here; as deployed, after a minute and a half."""

    def __init__(self, shop, broker, soft=25, **env):
        (shop.folder / 'hasty.py').write_text(
            "from unde_recog.queue.worker import make_celery\ncelery_app = "
            "make_celery()\ncelery_app.conf.broker_transport_options.update(visibility_timeout=4, "
            f"unacked_restore_interval=2)\ncelery_app.conf.task_soft_time_limit = {soft}\n"
        )
        self.cwd, self.env = (
            shop.folder,
            {
                k: str(v)
                for k, v in (
                    {
                        'DATABASE_URL': shop.url,
                        'UNDE_DATA_DIR': shop.data,
                        'CELERY_BROKER_URL': broker.url,
                        'CELERY_RESULT_BACKEND': broker.url,
                        'ALLOW_PRIVATE_URLS': '1',
                    }
                    | env
                ).items()
            },
        )

    def __enter__(self):
        self.process = subprocess.Popen(
            [
                sys.executable,
                '-m',
                'celery',
                '-A',
                'hasty:celery_app',
                'worker',
                '-Q',
                'recognition_queue',
                '-c',
                '1',
                '--without-gossip',
                '--without-mingle',
                '-l',
                'warning',
            ],
            env=HARMLESS | self.env | {'PYTHONPATH': str(self.cwd)},
            cwd=self.cwd,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        return self

    def __exit__(self, *exc):
        with contextlib.suppress(ProcessLookupError): os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def queue_of(broker):
    from unde_recog.queue.worker import make_celery

    return make_celery(
        load_settings(env={}, CELERY_BROKER_URL=broker.url, CELERY_RESULT_BACKEND=broker.url)
    )


def send(queue, shop, n, **how):
    key, task = shop.world.keys[n], str(uuid.uuid4())
    queue.send_task(
        'recognize_photo',
        [f'storage:originals/{key.brand}/{key.external_id}/0.jpg'],
        how,
        task_id=task,
    )
    return task


def rows_of(shop, tasks):
    return Counter(
        str(i)
        for (i,) in shop.log(
            'select id from recognition_requests where id = any(%s)', [uuid.UUID(t) for t in tasks]
        )
    )


@pytest.mark.usefixtures('tools')
@pytest.mark.parametrize('persistent', [True, False])
def test_redis_killed_while_tasks_wait(shop, tmp_path, persistent):
    "What was handed over outlives Redis with appendonly, as deploy/compose.yaml has it, and only then."
    from kombu.exceptions import OperationalError
    with Redis(tmp_path, persistent) as broker:
        queue = queue_of(broker)
        tasks = [send(queue, shop, n % 6) for n in range(8)]
        broker.kill()
        broker.start()
        with queue.connection_for_read() as line: waiting = line.default_channel._size('recognition_queue')
        assert waiting == (8 if persistent else 0)
        if not persistent: return
        with Worker(shop, broker):
            eventually(lambda: len(rows_of(shop, tasks)) >= 2)
            broker.kill()  # and once more, now under the worker's hands
            # not acknowledged, whether the broker's side or the result's notices first: the sender
            # knows
            with pytest.raises((OperationalError, RuntimeError)): send(queue, shop, 0)
            broker.start()
            queue.close()
            queue = queue_of(broker)  # Celery's consumer of results may have given its client up
            answers = [Answer.model_validate(queue.AsyncResult(t).get(timeout=60)) for t in tasks]
        assert [a.request_id for a in answers] == tasks and rows_of(shop, tasks) == Counter(tasks)
        queue.close()


@pytest.mark.usefixtures('tools')
def test_redis_away_for_longer_than_a_task_may_take(shop, tmp_path):
    """The answer whose result could not be stored in time is not a failure: the task comes back, and
    finds the answer that was kept."""
    with Redis(tmp_path, True) as broker:
        queue = queue_of(broker)
        tasks = [send(queue, shop, n % 6) for n in range(6)]
        with Worker(shop, broker, soft=5):
            eventually(lambda: len(rows_of(shop, tasks)) >= 2)
            broker.kill()
            time.sleep(7)
            broker.start()
            queue.close()
            queue = queue_of(broker)
            answers = [Answer.model_validate(queue.AsyncResult(t).get(timeout=60)) for t in tasks]
        assert [a.request_id for a in answers] == tasks and rows_of(shop, tasks) == Counter(tasks)
        queue.close()


@pytest.mark.usefixtures('tools')
def test_redis_killed_while_a_task_is_on_its_way(shop, tmp_path):
    """A task that Redis has handed out and the worker has not yet seen is in neither's hands when
    Redis dies: it comes back."""
    with Redis(tmp_path, True) as broker, Worker(shop, broker) as worker:
        queue = queue_of(broker)
        queue.AsyncResult(send(queue, shop, 0)).get(timeout=60)
        for _ in range(2):
            with queue.connection_for_read() as line:
                client = line.default_channel.client
                eventually(
                    lambda: 'blmove' in {c['cmd'] for c in client.client_list()},
                    why='the worker waits at no list',
                )
                os.kill(worker.process.pid, signal.SIGSTOP)
                task = send(queue, shop, 1)
                gone = not client.exists('recognition_queue')
            broker.kill()
            os.kill(worker.process.pid, signal.SIGCONT)
            time.sleep(.5)
            broker.start()
            queue.close()
            queue = queue_of(broker)
            assert queue.AsyncResult(task).get(timeout=60)['request_id'] == task and rows_of(
                shop, [task]
            ) == {task: 1}
            if gone: break  # it was on its way indeed
        assert gone
        queue.close()


@pytest.mark.usefixtures('tools')
def test_a_whole_worker_killed(shop, tmp_path):
    """Parent and child die in the middle of a task whose detection was paid. The next worker gets
    it again: one answer, one log row, one bill."""
    scene, truth = shop.world.scene(2), Truth()
    truth.add_scene(scene)
    shop.storage.put('street/2.jpg', scene.data)
    with Redis(tmp_path, True) as broker, Sandbox(App(shop.world, truth)) as box:
        queue, env = (
            queue_of(broker),
            box.settings()
            | {
                'SEARCH_BACKEND': 'pgvector',
                'GEMINI_API_KEY': '',
                'ANTHROPIC_API_KEY': '',
                'TAGGING_MODE': 'always',
            },
        )
        # detection is answered, the tags of each garment are not
        box.app.faults.script('ximilar', [None, *[Fault('hang', 30)]*8])
        with Worker(shop, broker, **env) as one:
            task = str(uuid.uuid4())
            queue.send_task('recognize_photo', ['storage:street/2.jpg'], task_id=task)
            eventually(
                lambda: box.app.calls['ximilar', 'tags'] >= 1,
                why=lambda: f'the task did not get that far: {box.app.calls}',
            )
            os.killpg(one.process.pid, signal.SIGKILL)
            one.process.wait()
        assert not rows_of(shop, [task])
        box.app.faults.script('ximilar', [])
        with Worker(shop, broker, **env):
            answer = Answer.model_validate(queue.AsyncResult(task).get(timeout=90))
            assert answer.request_id == task and answer.degraded == [] and len(answer.items) >= 2
            assert rows_of(shop, [task]) == {task: 1} and box.app.calls['ximilar', 'detect'] == 1
            spent = box.app.ximilar.spent.total()
            queue.AsyncResult(task).forget()
            # delivered once more, long after
            queue.send_task('recognize_photo', ['storage:street/2.jpg'], task_id=task)
            assert Answer.model_validate(queue.AsyncResult(task).get(timeout=60)) == answer
        assert rows_of(shop, [task]) == {task: 1} and box.app.ximilar.spent.total() == spent
        queue.close()
