"The job `photos` against a server that misbehaves: honest states, politeness, kills."
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from PIL import Image
from psycopg.types.json import Jsonb

from unde_recog.jobs.job import JobBusy, JobContext, run_job
from unde_recog.jobs.photo_files import JOB, PhotoJobOptions
from unde_recog.media.images import image_hash, to_jpeg
from unde_recog.media.storage import FolderStorage, S3Storage
from unde_recog.settings import load_settings


class Shop:
    "A server whose photos are broken in every way; `asked` counts requests by path."

    def __init__(self):
        self.asked, self.times, self.version, self.delay = Counter(), [], '1', 0.
        shop = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self): shop.answer(self)
            def log_message(self, *args): pass
        self.server = ThreadingHTTPServer(('127.0.0.1', 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f'http://127.0.0.1:{self.server.server_port}'

    def photo(self, path):
        return to_jpeg(Image.new('RGB', (60, 90), f'hsl({hash_of(path + self.version)},60%,50%)'))

    def answer(self, h):
        path = h.path.rsplit('/', 1)[-1]
        self.asked[path] += 1
        self.times.append(time.monotonic())
        time.sleep(self.delay)
        etag, body, status, headers = f'"{self.version}"', self.photo(path), 200, {}
        if path.startswith('gone'): status, body = 404, b''
        if path.startswith('page'): body = b'<!doctype html><title>Sorry</title>'
        if path.startswith('busy') and self.asked[path] == 1:
            status, body, headers = 429, b'', {'Retry-After': '1'}
        if path.startswith('down') and self.version == '1': status, body = 500, b''
        if path.startswith('slow') and self.version == '1':
            time.sleep(1.5)
        if h.headers.get('If-None-Match') == etag and status == 200: status, body = 304, b''
        try:
            h.send_response(status)
            if status in (200, 304) and body[:1] != b'<': h.send_header('ETag', etag)
            for k, v in headers.items(): h.send_header(k, v)
            large = path.startswith('large')
            h.send_header('Content-Length', str(30_000_000 if large else len(body)))
            h.end_headers()
            h.wfile.write(body[:len(body)//2] if path.startswith('cut') else body)
        except OSError: pass
        h.close_connection = True

    def close(self):
        self.server.shutdown()
        self.server.server_close()


def hash_of(text): return int(image_hash(text.encode())[:6], 16) % 360


@pytest.fixture
def shop():
    made = Shop()
    yield made
    made.close()


def add(db, products):
    with db.connect('catalogue') as conn:
        for external_id, urls in products.items():
            conn.execute(
                '''insert into raw_products
                   (source, external_id, brand, name, image_urls, image_views, index_scope)
                   values ('t', %s, 'hm', 'x', %s, %s, 'pgvector')''',
                (external_id, Jsonb(urls), Jsonb(['unknown']*len(urls))),
            )


def context(db, tmp_path, **options):
    settings = load_settings(env={}, UNDE_DATA_DIR=tmp_path, ALLOW_PRIVATE_URLS=True)
    chosen = {'rate': 500., 'at_once': 8, 'timeout': .8} | options
    return JobContext(settings=settings, db=db, options=PhotoJobOptions(**chosen))


def rows(db, query):
    with db.connect('catalogue') as conn: return conn.execute(query).fetchall()


STATES = 'select external_id, position, state, failure_kind from photo_files order by 1, 2'
STATUS = 'select external_id, image_status from raw_products order by 1'


def test_each_failure_has_its_class_and_status_claims_no_more_than_is_there(db, tmp_path, shop):
    kinds = {'gone': 'not_found', 'page': 'html', 'cut': 'truncated', 'large': 'too_large',
             'slow': 'timeout', 'down': 'server_error'}
    add(db, {k: [f'{shop.url}/{k}.jpg'] for k in kinds} | {
        'whole': [f'{shop.url}/{n}.jpg' for n in (0, 1)],
        'busy': [f'{shop.url}/busy.jpg'], 'bare': ['b/9.jpg'],
        'mixed': [f'{shop.url}/m.jpg', f'{shop.url}/gone2.jpg']})
    report = run_job(JOB, context(db, tmp_path))
    expected = Counter(kinds.values()) + Counter({'not_found': 1})
    assert report.failed == expected and report.exit_code == 3
    states = {(x, n): kind for x, n, _, kind in rows(db, STATES)}
    assert {k: states[k, 0] for k in kinds} == kinds
    status = dict(rows(db, STATUS))
    assert status['whole'] == status['busy'] == status['mixed'] == 'collage_ready'
    assert {status[k] for k in (*kinds, 'bare')} == {'pending'}
    assert shop.asked['gone.jpg'] == 1 and shop.asked['busy.jpg'] == 2 and shop.asked['down.jpg'] == 3
    assert '1 photos are named without an address' in str(report)
    stored = FolderStorage(tmp_path/'storage')
    assert sorted(stored.list()) == sorted(
        [f'originals/hm/{k}.jpg' for k in ('whole/0', 'whole/1', 'busy/0', 'mixed/0')]
        + [f'collages/hm/{k}.jpg' for k in ('whole', 'busy', 'mixed')])
    assert Image.open(tmp_path/'storage/collages/hm/whole.jpg').size[1] == 512

    # later, what may have passed is tried again, the rest never
    asked = Counter(shop.asked)
    shop.version = '2'
    with db.connect('catalogue') as conn:
        conn.execute("update photo_files set next_try_at = now() where next_try_at is not null")
    again = run_job(JOB, context(db, tmp_path, base_url=[f'hm={shop.url}/img']))
    assert again.done['fetched'] == 3 and shop.asked['gone.jpg'] == asked['gone.jpg']
    assert shop.asked['page.jpg'] == asked['page.jpg'] and shop.asked['9.jpg'] == 1


def test_a_second_run_asks_for_nothing_and_changed_photos_come_again(db, tmp_path, shop):
    add(db, {str(n): [f'{shop.url}/{n}-{p}.jpg' for p in (0, 1)] for n in range(5)})
    run_job(JOB, context(db, tmp_path))
    asked = shop.asked.total()
    assert run_job(JOB, context(db, tmp_path)).done == {} and shop.asked.total() == asked == 10
    assert run_job(JOB, context(db, tmp_path, check_after=0.)).done == {'unchanged': 10}
    before = dict(rows(db, "select external_id, content_hash from photo_files where position = 0"))
    shop.version = '2'
    report = run_job(JOB, context(db, tmp_path, check_after=0.))
    assert report.done == {'fetched anew': 10, 'collages made': 5}
    after = dict(rows(db, "select external_id, content_hash from photo_files where position = 0"))
    assert all(before[k] != after[k] for k in before)
    stored = FolderStorage(tmp_path/'storage').get('originals/hm/3/0.jpg')
    assert image_hash(stored) == after['3']


def test_polite_and_main_photos_first(db, tmp_path, shop):
    add(db, {str(n): [f'{shop.url}/{n}-{p}.jpg' for p in (0, 1)] for n in range(6)})
    order = []
    answer = shop.answer
    def noted(h):
        order.append(h.path)
        answer(h)
    shop.answer = noted
    run_job(JOB, context(db, tmp_path, rate=40., at_once=1))
    assert [p.split('-')[1] for p in order] == ['0.jpg']*6 + ['1.jpg']*6
    gaps = [b - a for a, b in zip(shop.times, shop.times[1:])]
    assert sum(gaps) > 11/40*.9  # never faster than the pace


def test_a_slow_host_keeps_no_other_waiting(db, tmp_path, shop):
    other = shop.url.replace('127.0.0.1', 'localhost')
    add(db, {str(n): [f'{shop.url if n < 20 else other}/{n}.jpg'] for n in range(30)})
    answer, served = shop.answer, threading.Event()
    def held(h):
        if h.headers['Host'].startswith('127.0.0.1'): assert served.wait(timeout=20)
        answer(h)
        if sum(shop.asked[f'{n}.jpg'] for n in range(20, 30)) == 10: served.set()
    shop.answer = held
    report = run_job(JOB, context(db, tmp_path, at_once=2, threads=4))
    assert report.done['fetched'] == 30 and not report.failed


RUN = '''
import sys
from unde_recog.db.database import LOGICALS, Databases
from unde_recog.jobs.job import JobContext, run_job
from unde_recog.jobs.photo_files import JOB, PhotoJobOptions
from unde_recog.settings import load_settings
settings = load_settings(env={}, UNDE_DATA_DIR=sys.argv[2], ALLOW_PRIVATE_URLS=True)
with Databases(dict.fromkeys(LOGICALS, sys.argv[1])) as db:
    options = PhotoJobOptions(rate=400., at_once=8)
    context = JobContext(settings=settings, db=db, options=options,
                         on_pace=lambda p: print(p.done, flush=True))
    print(run_job(JOB, context), flush=True)
'''


def test_killed_and_run_again_is_as_if_undisturbed(db, fresh_url, tmp_path, shop):
    add(db, {str(n): [f'{shop.url}/{n}-{p}.jpg' for p in (0, 1)] for n in range(40)})
    shop.delay = .01
    for stop in (15, 60):
        process = subprocess.Popen(
            [sys.executable, '-c', RUN, fresh_url, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        for line in process.stdout:
            if line.strip().isdigit() and int(line) >= min(stop, 12): break
        with pytest.raises(JobBusy, match='job photos is held by'): run_job(JOB, context(db, tmp_path))
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    report = run_job(JOB, context(db, tmp_path))
    states = rows(db, STATES)
    assert len(states) == 80 and {s for _, _, s, _ in states} == {'fetched'} and report.coverage == 1
    hashes = rows(db, 'select external_id, position, content_hash from photo_files')
    stored = FolderStorage(tmp_path/'storage')
    assert all(image_hash(stored.get(f'originals/hm/{x}/{n}.jpg')) == digest for x, n, digest in hashes)
    ended = rows(db, "select state from job_runs where job = 'photos' order by started_at")
    assert [s for (s,) in ended] == ['stopped', 'stopped', 'done']


def test_into_a_bucket(db, tmp_path, shop, monkeypatch):
    server = pytest.importorskip('moto.server')
    for name in ('AWS_ACCESS_KEY_ID', 'AWS_SECRET_ACCESS_KEY'): monkeypatch.setenv(name, 'test')
    monkeypatch.setenv('AWS_DEFAULT_REGION', 'us-east-1')
    bucket = server.ThreadedMotoServer(ip_address='127.0.0.1', port=0)
    bucket.start()
    try:
        host, port = bucket.get_host_and_port()
        url = f'http://{host}:{port}'
        S3Storage('shop', url).client.create_bucket(Bucket='shop')
        add(db, {'1': [f'{shop.url}/1.jpg']})
        asked = context(db, tmp_path)
        asked.settings = load_settings(
            env={}, UNDE_DATA_DIR=tmp_path, ALLOW_PRIVATE_URLS=True, S3_ENDPOINT_URL=url, S3_BUCKET='shop')
        assert run_job(JOB, asked).done == {'fetched': 1, 'collages made': 1}
        assert list(S3Storage('shop', url).list()) == ['collages/hm/1.jpg', 'originals/hm/1/0.jpg']
    finally: bucket.stop()
