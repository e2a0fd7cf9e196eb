"What holds for every job: one run at a time, killed and run again, a second run that does nothing."
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from datetime import datetime, timezone

import psycopg
import pytest

from unde_recog.db.leases import hold
from unde_recog.jobs import poll, progressive
from unde_recog.jobs.job import JobBusy, JobContext, last_runs, run_job
from unde_recog.jobs.progressive import ProgressiveOptions
from unde_recog.jobs.registry import JOBS, load_job
from unde_recog.settings import load_settings

NOW = datetime.now(timezone.utc).replace(microsecond=0)
RUN = '''
import importlib, os, signal, sys
from unde_recog.db.database import LOGICALS, Databases
from unde_recog.jobs.job import JobContext, run_job
from unde_recog.settings import load_settings
url, folder, name, at = sys.argv[1:]
job = importlib.import_module(f'unde_recog.jobs.{name}').JOB
def stop(pace):
    if pace.done >= int(at): os.kill(os.getpid(), signal.SIGKILL)
settings = load_settings(env={}, UNDE_DATA_DIR=folder)
with Databases(dict.fromkeys(LOGICALS, url)) as db:
    run_job(job, JobContext(settings=settings, db=db, options=job.options(), on_pace=stop))
'''


def start(url, folder, name, at):
    "A run in a process of its own, which ends itself without a word when so much is done."
    return subprocess.Popen([sys.executable, '-c', RUN, url, str(folder), name, str(at)])


@pytest.mark.parametrize('name', JOBS)
def test_two_at_once_do_not_collide(db, tmp_path, name):
    job = load_job(name)
    context = JobContext(settings=load_settings(env={}, UNDE_DATA_DIR=tmp_path), db=db, options=job.options())
    with hold(db, 'catalogue', f'job {name}', job='the first run'):
        with pytest.raises(JobBusy, match='the first run'): run_job(job, context)
    with db.connect('catalogue') as conn: assert name not in last_runs(conn)  # it was not begun


def test_poll_killed_and_run_again(db, fresh_url, tmp_path):
    brands = [f'shop_{n}' for n in range(6)]
    head = 'store_id,product_id,sizes_in_stock,fetched_at\n'
    feeds = {}
    with db.connect('catalogue') as conn:
        for brand in brands:
            path = tmp_path/f'{brand}.csv'
            path.write_text(head + ''.join(f'1,{p},"S|M",{NOW.isoformat()}\n' for p in range(50)))
            feeds[brand] = {'source': str(path)}
            conn.execute('insert into raw_stores (brand, store_id, name, mall_name) '
                         "values (%s, '1', 'x', 'M')", (brand,))
    (tmp_path/'feeds.json').write_text(json.dumps(feeds))

    def held():
        with db.connect('catalogue') as conn:
            return [conn.execute(f'select brand, product_id, fetched_at from {t} order by 1, 2, 3').fetchall()
                    for t in ('availability_latest', 'raw_availability')]
    for at in (2, 4): assert start(fresh_url, tmp_path, 'poll', at).wait() == -signal.SIGKILL
    seen = held()
    assert all(len(rows) == 200 for rows in seen)  # four brands, each once
    settings = load_settings(env={}, UNDE_DATA_DIR=tmp_path)
    context = JobContext(settings=settings, db=db, options=poll.PollOptions())
    assert run_job(poll.JOB, context).done == {'new': 100, 'unchanged': 200}
    whole = held()
    assert all(len(rows) == 300 for rows in whole)
    assert run_job(poll.JOB, context).done == {'unchanged': 300} and held() == whole
    with db.connect('catalogue') as conn:
        ended = conn.execute("select state from job_runs where job = 'poll' order by started_at").fetchall()
    assert [state for (state,) in ended] == ['stopped', 'stopped', 'done', 'done']


def test_progressive_killed_within_its_transaction(db, fresh_url, tmp_path):
    views = json.dumps([f'{n}.jpg' for n in range(6)]), json.dumps(['front']*6)
    with db.connect('catalogue') as conn:
        conn.execute(
            """insert into raw_products (source, external_id, brand, image_urls, image_views, image_status,
                index_scope, ximilar_status, ximilar_target_count, ximilar_synced_urls)
            values ('t', '1', 'hm', %s, %s, 'uploaded', 'pilot', 'synced', 2, '["0.jpg"]')""", views)
    match = json.dumps([{'brand': 'hm', 'external_id': '1', 'score': .5, 'visual': .5}])
    with db.connect('log') as conn, conn.transaction():
        for _ in range(6):
            rid = uuid.uuid4()
            conn.execute('insert into recognition_requests (id) values (%s)', (rid,))
            conn.execute(
                """insert into recognition_items (request_id, item_index, category, box, match_type,
                    model_version, final_matches, reranked)
                values (%s, 0, 'top', '[0,0,1,1]', 'similar', 'm', %s, true)""", (rid, match))

    def target():
        with db.connect('catalogue') as conn:
            return conn.execute('select ximilar_target_count, ximilar_status from raw_products').fetchone()
    waiting = "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and query ilike '%%ximilar%%'"
    with psycopg.connect(fresh_url) as other, psycopg.connect(fresh_url, autocommit=True) as watch:
        other.execute('select 1 from raw_products for update')
        process = start(fresh_url, tmp_path, 'progressive', 99)
        ends = time.monotonic() + 60
        while not watch.execute(waiting).fetchone()[0] and time.monotonic() < ends: time.sleep(.05)
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    assert target() == (2, 'synced')
    context = JobContext(settings=load_settings(env={}), db=db, options=ProgressiveOptions())
    assert run_job(progressive.JOB, context).done == {'products widened': 1}
    assert target() == (5, 'partial')
    assert run_job(progressive.JOB, context).done == {'products widened': 0}
