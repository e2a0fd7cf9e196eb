"The job `poll`: feeds by file, HTTP and adapter; late readings; feeds that stop; what beat and cron know."
import json
import re
import threading
from datetime import datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from unde_recog.catalogue.imports import import_products
from unde_recog.jobs.job import JobContext, run_job
from unde_recog.jobs.poll import JOB, PollOptions, Reading, feed_states
from unde_recog.jobs.registry import JOBS, cron_lines, load_job
from unde_recog.queue.jobs import beat_schedule
from unde_recog.settings import load_settings

NOW = datetime.now(timezone.utc).replace(microsecond=0)
HEAD = 'store_id,product_id,sizes_in_stock,fetched_at\n'


class Adapter:
    "What a brand's own class looks like."
    def readings(self):
        yield Reading('1', 'a', ['S', 'M'], NOW)
        yield Reading('1', 'b', [], NOW)


class Broken:
    def readings(self): raise RuntimeError('the brand has changed its API')


@pytest.fixture
def feed():
    "A server with one feed; `body` and `length` may be changed."
    class Handler(BaseHTTPRequestHandler):
        body, length = b'', None

        def do_GET(self):
            self.send_response(200)
            self.send_header('Content-Length', str(self.length or len(self.body)))
            self.end_headers()
            self.wfile.write(self.body)
            self.close_connection = True
        def log_message(self, *args): pass
    server = ThreadingHTTPServer(('127.0.0.1', 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    Handler.url = f'http://127.0.0.1:{server.server_port}/stock.csv'
    yield Handler
    server.shutdown()
    server.server_close()


def context(db, folder, feeds, **options):
    (folder/'feeds.json').write_text(json.dumps(feeds))
    with db.connect('catalogue') as conn:
        for brand in feeds:
            conn.execute('insert into raw_stores (brand, store_id, name, mall_name) '
                         "values (%s, '1', 'x', 'M') "
                         'on conflict do nothing', (brand,))
    settings = load_settings(env={}, UNDE_DATA_DIR=folder, ALLOW_PRIVATE_URLS=True)
    return JobContext(settings=settings, db=db, options=PollOptions(**options))


def latest(db, brand):
    with db.connect('catalogue') as conn:
        return dict(conn.execute('select product_id, sizes_in_stock from availability_latest '
                                 'where brand = %s order by 1', (brand,)).fetchall())


def test_each_kind_of_feed_and_each_failure_alone(db, tmp_path, feed):
    (tmp_path/'file.csv').write_text(HEAD + f'1,x,"L",{NOW.isoformat()}\n')
    feed.body = (HEAD + f'1,y,"S|M",{NOW.isoformat()}\n').encode()
    here = 'tests.jobs.test_poll'
    asked = context(db, tmp_path, {
        'file': {'source': str(tmp_path/'file.csv')}, 'http': {'source': feed.url},
        'own': {'adapter': f'{here}:Adapter'}, 'broken': {'adapter': f'{here}:Broken'},
        'gone': {'source': str(tmp_path/'none.csv')},
    })
    report = run_job(JOB, asked)
    assert report.done == {'new': 4} and sum(report.failed.values()) == 2 and report.exit_code == 3
    assert latest(db, 'own') == {'a': ['S', 'M'], 'b': []} and latest(db, 'http') == {'y': ['S', 'M']}
    assert 'the brand has changed its API' in str(report)
    with db.connect('catalogue') as conn: states = feed_states(conn, timedelta(hours=24))
    assert {s.brand for s in states if s.stopped} == {'broken', 'gone'}
    assert 'stopped: broken (never heard of), gone (never heard of)' in str(JOB.report(asked))
    assert run_job(JOB, asked).done == {'unchanged': 4}  # again: nothing new


def test_half_a_feed_is_none_and_late_readings_move_nothing_back(db, tmp_path, feed):
    asked = context(db, tmp_path, {'http': {'source': feed.url}})
    feed.body = (HEAD + f'1,y,"S|M",{NOW.isoformat()}\n').encode()
    run_job(JOB, asked)
    feed.length = 10_000  # the connection ends in the middle
    assert run_job(JOB, asked).failed == {'truncated': 1}
    feed.length = None
    late = NOW - timedelta(hours=2)
    feed.body = (HEAD + f'1,y,"XL",{late.isoformat()}\n').encode()
    run_job(JOB, asked)
    assert latest(db, 'http') == {'y': ['S', 'M']}
    new = NOW + timedelta(seconds=1)
    feed.body = (HEAD + f'1,y,"XS",{new.isoformat()}\n').encode()
    run_job(JOB, asked)
    assert latest(db, 'http') == {'y': ['XS']}
    with db.connect('catalogue') as conn:
        days = conn.execute("select (fetched_at at time zone 'UTC')::date, count(*) from raw_availability "
                            'group by 1').fetchall()
    assert all(n == 1 for _, n in days)


def test_old_history_goes_and_the_newest_stays(db, tmp_path):
    (tmp_path/'file.csv').write_text(HEAD + ''.join(
        f'1,x,"L",{(NOW - timedelta(days=d)).isoformat()}\n' for d in (1, 50, 200)))
    asked = context(db, tmp_path, {'file': {'source': str(tmp_path/'file.csv')}}, keep=90.)
    assert run_job(JOB, asked).done == {'new': 3, 'deleted': 1}
    assert latest(db, 'file') == {'x': ['L']}


def test_cron_beat_and_docs_know_the_same_times():
    root = Path(__file__).parents[2]
    listed = [line for line in (root/'deploy'/'crontab').read_text().splitlines() if re.match('[0-9*]', line)]
    assert sorted(listed) == sorted(cron_lines())
    assert set(beat_schedule()) == {name for name, entry in JOBS.items() if entry.schedule}
    assert all(load_job(name).name == name for name in JOBS)
    text = (root/'docs'/'jobs.md').read_text()
    assert all(f'`{name}`' in text for name in JOBS)


class Pieces:
    "A shop system's own class: pieces of a SKU, no sizes."
    def readings(self):
        yield Reading('1', 'MH01-XS-Black', (), NOW, 3)
        yield Reading('1', 'mh01-s-black', (), NOW, 0)
        yield Reading('1', 'MH99-S-Black', (), NOW, 1)


def test_feeds_of_skus_and_pieces(db, tmp_path):
    skus = '"{""MH01-XS-Black"": ""XS"", ""MH01-S-Black"": ""S""}"'
    for brand in ('file', 'own', 'lost'):
        (tmp_path/'products.csv').write_text(f'external_id,brand,variant_skus\nMH01-Black,{brand},{skus}\n')
        import_products(db, tmp_path/'products.csv')
    (tmp_path/'file.csv').write_text('SKU,Available\nMH01-XS-Black,0\nMH01-S-Black,2\n')
    (tmp_path/'lost.csv').write_text('SKU,Available\nMH77-XS,1\nMH77-S,2\n')
    mapping = {'mapping': {'product_id': 'SKU', 'quantity': 'Available'}}
    mapping |= {'store_id': '1', 'fetched_at': 'now'}
    asked = context(db, tmp_path, {
        'file': {'source': str(tmp_path/'file.csv'), **mapping},
        'own': {'adapter': 'tests.jobs.test_poll:Pieces'},
        'lost': {'source': str(tmp_path/'lost.csv'), **mapping},
    })
    report = run_job(JOB, asked)
    assert latest(db, 'file') == {'MH01-Black': ['S']} and latest(db, 'own') == {'MH01-Black': ['XS']}
    assert latest(db, 'lost') == {} and report.failed == {'all_refused': 1}
    notes = '\n'.join(report.notes)
    assert 'own: 1 rows refused, as MH99-S-Black: no product' in notes and 'lost: 2 rows refused' in notes
    assert 'MH77-S' in (tmp_path/'poll'/'lost.rejects.csv').read_text()
