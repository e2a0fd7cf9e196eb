"""The log behind its queue: what was put is what is kept, and what cannot be kept is counted,
whatever the database does."""

import multiprocessing
import os
import threading
import uuid
from contextlib import contextmanager
from dataclasses import fields, replace
from datetime import datetime, timezone

import numpy as np
import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import dict_row

from unde_recog.db.database import LOGICALS, Databases
from unde_recog.db.journal import Journal, abandoned
from unde_recog.request_log import ItemRow, RequestLog, RequestRow, summarise, write_feedback, write_request

MATCH = {'brand': 'zara', 'external_id': '0722/301', 'item_index': 0, 'score': .875}


def item(index=0, **given):
    return ItemRow(
        item_index=index, category='top', box=(1, 2, 30, 40), model_version='test-1+none', **given
    )


def full(index):
    "An item with every field set to something of its own."
    return item(
        index,
        match_type='exact',
        used_ximilar_booster=True,
        used_ximilar_tagging=True,
        pgvector_top1_score=0.91,
        pgvector_margin=0.125,
        pgvector_style_margin=0.25,
        ximilar_top1_score=83.5,
        ximilar_margin=11.5,
        candidates_after_availability=7,
        pgvector_list=[MATCH],
        ximilar_list=[MATCH | {'score': 83.5}],
        merged_list=[MATCH, MATCH | {'external_id': "o'b"}],
        final_matches=[MATCH],
        reranked=True,
        tags={'color': 'žlutá', 'type': 'T‑shirt "basic"'},
        confidence_threshold=0.8,
        margin_threshold=0.1,
        settings={'FUSION': 'weighted', 'MIN_CANDIDATES': 3},
        gate_confident=False,
        explored=True,
        propensity=0.1,
        explored_list=[MATCH],
        credits=25,
        tokens={'gemini': {'in': 700, 'out': 50}},
        degraded=['ximilar_search'],
    )


def request(*items, **given): return RequestRow(id=uuid.uuid4(), items=list(items), **given)


def kept(db):
    with db.connect('log') as conn:
        conn.row_factory = dict_row
        try:
            return (
                {r['id']: r for r in conn.execute('select * from recognition_requests')},
                conn.execute(
                    'select * from recognition_items order by request_id, item_index'
                ).fetchall(),
            )
        finally: conn.row_factory = psycopg.rows.tuple_row


def columns(row):
    return {
        f.name: list(v) if isinstance(v := getattr(row, f.name), tuple) else v for f in fields(row)
    }


def writers(): return [t for t in threading.enumerate() if t.name == 'request-log']


@contextmanager
def shut(server_url, db):
    "The database takes no connections and has lost those it had: a real server's maintenance."
    name = conninfo_to_dict(db.urls['log'])['dbname']
    with psycopg.connect(server_url, autocommit=True) as admin:

        def allow(yes):
            admin.execute(
                sql.SQL('alter database {} allow_connections {}').format(
                    sql.Identifier(name), sql.SQL(str(yes).lower())
                )
            )

        allow(False)
        admin.execute('select pg_terminate_backend(pid) from pg_stat_activity where datname = %s', (name,))
        try: yield lambda: allow(True)
        finally: allow(True)


@pytest.fixture
def impatient(fresh_url):
    with Databases(dict.fromkeys(LOGICALS, fresh_url), timeout=.3) as databases: yield databases


@pytest.fixture
def nowhere():
    with Databases(
        dict.fromkeys(LOGICALS, 'postgresql://me:pl4nted@127.0.0.1:1/none'), timeout=0.2
    ) as databases:
        yield databases


def test_written_rows_are_what_was_put(db):
    rows = [
        request(
            full(0),
            item(1),
            item(2, match_type='style', pgvector_top1_score=0.3, candidates_after_availability=0),
            user_id='u1',
            photo_url='https://x/p.jpg',
            user_mall='Palladium',
            detection_time_ms=500,
            tagging_time_ms=1,
            search_time_ms=30,
            availability_time_ms=4,
            rerank_time_ms=900,
            total_time_ms=1500,
            created_at=datetime(2026, 3, 9, 23, 59, 59, 123456, tzinfo=timezone.utc),
        ),
        request(),
        request(item(0)),
    ]
    with RequestLog(db) as log: assert all(map(log.put, rows))
    assert (log.written, log.lost, log.waiting) == (3, 0, 0)
    requests, items = kept(db)
    assert requests.keys() == {r.id for r in rows}
    for row in rows:
        found = requests[row.id]
        assert {n: found[n] for n in row.columns()} == row.columns() and found['user_feedback'] is None
        mine = [i for i in items if i['request_id'] == row.id]
        assert [
            {k: v for k, v in i.items() if k not in ('request_id', 'created_at')} for i in mine
        ] == [columns(i) for i in row.items]
        assert all(i['created_at'] == row.created_at for i in mine)


def test_every_column_of_the_tables_is_written_but_feedback(db):
    with db.connect('log') as conn:
        of = {
            t: {
                n
                for (n,) in conn.execute(
                    'select column_name from information_schema.columns where table_name = %s', (t,)
                )
            }
            for t in ('recognition_requests', 'recognition_items')
        }
    assert of['recognition_requests'] == {*request().columns(), 'user_feedback'}
    assert of['recognition_items'] == {f.name for f in fields(ItemRow)} | {'request_id', 'created_at'}


SOME = st.none() | st.floats(0, 1)
ITEMS = st.lists(
    st.builds(
        lambda **k: item(**k),
        match_type=st.sampled_from(['exact', 'similar', 'style', 'none']),
        used_ximilar_booster=st.booleans(),
        used_ximilar_tagging=st.booleans(),
        pgvector_top1_score=SOME,
        pgvector_margin=SOME,
        ximilar_top1_score=SOME,
        candidates_after_availability=st.none() | st.integers(0, 20),
    ),
    max_size=5,
)


@given(ITEMS)
def test_the_summary_is_any_and_the_minimum(items):
    row = summarise(items)
    for name in ('used_ximilar_booster', 'used_ximilar_tagging'):
        assert row[name] == (True in [getattr(i, name) for i in items])
    for name in (
        'pgvector_top1_score',
        'pgvector_margin',
        'ximilar_top1_score',
        'candidates_after_availability',
    ):
        known = sorted(v for i in items if (v := getattr(i, name)) is not None)
        assert row[name] == (known[0] if known else None)
    assert row['items_detected'] == len(items) and row['items_matched'] == sum(
        i.match_type[0] == 'e' or i.match_type == 'similar' for i in items
    )


def test_a_request_is_written_once(db):
    row = request(item(0), item(1))
    with db.connect('log') as conn:
        assert write_request(conn, row) and not write_request(conn, replace(row, items=[item(5)]))
    requests, items = kept(db)
    assert len(requests) == 1 and [i['item_index'] for i in items] == [0, 1]


BAD = {
    'propensity above one': {'propensity': 2.0},
    'unknown match type': {'match_type': 'perhaps'},
    'NaN in a list': {'merged_list': [{'score': float('nan')}]},
    'no JSON': {'tags': {'x': object()}},
    'NUL in a text': {'tags': {'x': 'a\0b'}},
    'negative credits': {'credits': -1},
}


@pytest.mark.parametrize('name', BAD)
def test_a_row_that_cannot_be_written_is_lost_alone_and_whole(db, name):
    before, bad, after = request(item(0)), request(item(0), item(1, **BAD[name])), request(item(0))
    with RequestLog(db) as log:
        for row in (before, bad, after): log.put(row)
    assert (log.written, log.lost) == (2, 1)
    requests, items = kept(db)
    assert requests.keys() == {before.id, after.id} and {i['request_id'] for i in items} == {
        before.id,
        after.id,
    }


def test_numbers_of_numpy_are_numbers(db):
    row = request(
        item(
            0,
            pgvector_top1_score=np.float32(0.5),
            pgvector_margin=np.float64(0.25),
            candidates_after_availability=np.int64(3),
            reranked=np.bool_(True),
        )
    )
    with RequestLog(db) as log: log.put(row)
    assert log.lost == 0 and kept(db)[1][0]['pgvector_top1_score'] == .5


def test_a_database_that_comes_back_gets_every_row(impatient, server_url):
    log, rows = RequestLog(impatient, retry=.05), [request(item(0)) for _ in range(30)]
    log.put(rows[0])
    while log.written < 1: threading.Event().wait(.01)
    with shut(server_url, impatient) as reopen:
        for row in rows[1:]: assert log.put(row)
        threading.Event().wait(.5)
        assert (log.written, log.lost) == (1, 0) and log.waiting >= 28
        reopen()
        assert log.close(timeout=30) == 0
    assert log.written == 30 and kept(impatient)[0].keys() == {r.id for r in rows} and not log.waiting


@pytest.mark.parametrize('n', [1, 7, 60])
def test_with_the_database_away_to_the_end_every_row_is_counted_once(nowhere, n):
    log = RequestLog(nowhere, retry=.05)
    for _ in range(n): assert log.put(request(item(0)))
    assert log.close(timeout=.2) == log.lost == n and log.written == 0 and log.waiting == 0
    for thread in writers(): thread.join(5)
    assert log.lost == n and not writers()


def test_the_queue_is_bounded(nowhere):
    log = RequestLog(nowhere, size=3, retry=.05)
    taken = [log.put(request(item(0))) for _ in range(50)]
    # one more may be in the writer's hands
    assert 3 <= sum(taken) <= 4 and log.waiting <= 3 and log.lost == 50 - sum(taken)
    assert log.close(timeout=.1) == 50


def test_close_drains_what_waits(db):
    log, rows = RequestLog(db), [request(full(0), item(1)) for _ in range(120)]
    for row in rows: log.put(row)
    assert log.close() == 0 and log.written == 120 and not writers()
    assert kept(db)[0].keys() == {r.id for r in rows}


def test_after_the_end_rows_are_refused_and_counted(db):
    log = RequestLog(db)
    assert log.close() == 0 and not writers()  # nothing was ever put
    assert not log.put(request()) and log.lost == 1 and log.close() == 1
    with RequestLog(db) as other: other.put(request())
    assert not other.put(request()) and (other.written, other.lost, other.close()) == (1, 1, 1)


def test_many_threads_and_two_writers_at_once(db):
    db.pool('log')
    logs, rows = (
        [RequestLog(db), RequestLog(db)],
        [[request(full(0), item(1)) for _ in range(25)] for _ in range(8)],
    )
    threads = [threading.Thread(target=lambda i=i: [logs[i % 2].put(r) for r in rows[i]]) for i in range(8)]
    for t in threads: t.start()
    for t in threads: t.join()
    assert [log.close() for log in logs] == [0, 0] and sum(log.written for log in logs) == 200
    requests, items = kept(db)
    assert requests.keys() == {r.id for many in rows for r in many} and len(items) == 400


def test_every_put_is_written_or_counted_while_another_thread_closes(db):
    log, put = RequestLog(db, size=5), []
    threads = [
        threading.Thread(target=lambda: put.extend([log.put(request(item(0))) for _ in range(40)]))
        for _ in range(4)
    ]
    for t in threads: t.start()
    threading.Event().wait(.05)
    log.close()
    for t in threads: t.join()
    assert len(put) == 160 and log.written == sum(put) == len(kept(db)[0]) and log.lost == 160 - sum(put)


def test_what_is_said_of_a_lost_row_tells_nothing_of_the_person(nowhere, caplog):
    row = request(
        item(0), user_id='jana@example.com', photo_url='https://x/secret.jpg', user_mall='Palladium'
    )
    log = RequestLog(nowhere, retry=.05)
    log.put(row)
    log.close(timeout=.1)
    said = ' '.join(r.getMessage() for r in caplog.records if r.name.startswith('unde_recog'))
    assert str(row.id) in said and not any(x in said for x in ('jana', 'secret', 'Palladium', 'pl4nted'))


def test_feedback_is_kept_with_its_request_and_merged(db):
    row, right = request(item(0), item(1)), {'brand': 'zara', 'external_id': '7'}
    with db.connect('log') as conn:
        assert not write_feedback(conn, row.id, {'0': right})
        write_request(conn, row)
        assert (
            write_feedback(conn, row.id, {'0': right})
            and write_feedback(conn, row.id, {'1': None})
            and write_feedback(conn, row.id, {'0': None, 'note': "it's Jana's"})
        )
    assert kept(db)[0][row.id]['user_feedback'] == {'0': None, '1': None, 'note': "it's Jana's"}


def test_feedback_on_two_items_at_once_keeps_both(db):
    row = request(*(item(i) for i in range(8)))
    with db.connect('log') as conn: write_request(conn, row)
    def give(i):
        with db.connect('log') as conn:
            assert write_feedback(conn, row.id, {str(i): {'brand': 'hm', 'external_id': str(i)}})

    threads = [threading.Thread(target=give, args=(i,)) for i in range(8)]
    for t in threads: t.start()
    for t in threads: t.join()
    assert kept(db)[0][row.id]['user_feedback'].keys() == {str(i) for i in range(8)}


def test_items_go_with_their_request(db):
    row = request(item(0))
    with db.connect('log') as conn:
        write_request(conn, row)
        conn.execute('delete from recognition_requests where id = %s', (row.id,))
    assert kept(db) == ({}, [])


# --- the journal ---


def put_and_die(folder, rows, noted):
    "A process whose database is away: it takes rows, and is killed."
    log = RequestLog(
        Databases(dict.fromkeys(LOGICALS, 'postgresql://127.0.0.1:1/none'), timeout=0.2),
        journal=Journal(folder),
    )
    for row in noted: log.note(row)
    for row in rows: log.put(row)
    os.kill(os.getpid(), 9)


def killed_with(folder, rows, noted=()):
    process = multiprocessing.get_context('spawn').Process(target=put_and_die, args=(folder, rows, noted))
    process.start()
    process.join(60)
    assert process.exitcode == -9


def test_a_row_that_a_full_disk_does_not_take_is_counted(db, tmp_path):
    with RequestLog(db, journal=Journal(tmp_path, limit=10)) as log: log.put(request(item(0)))
    assert (log.unkept, log.written, log.lost) == (1, 1, 0)


def test_rows_of_a_killed_process_are_written_by_the_next(db, tmp_path):
    rows = [request(full(0), item(1)) for _ in range(20)]
    early = replace(rows[0], items=[item(0)])
    killed_with(tmp_path, rows, [early, alone := request(item(0))])
    with RequestLog(db, journal=Journal(tmp_path)) as log: log.put(own := request(item(0)))
    requests, items = kept(db)
    assert requests.keys() == {r.id for r in rows} | {own.id, alone.id} and (
        log.written,
        log.lost,
    ) == (22, 0)
    assert [columns(rows[0].items[0])[k] for k in ('tags', 'merged_list', 'explored_list')] == [
        next(i for i in items if i['request_id'] == rows[0].id and i['item_index'] == 0)[k]
        for k in ('tags', 'merged_list', 'explored_list')
    ]
    assert not list(tmp_path.iterdir())


def test_a_process_that_owed_nothing_leaves_nothing_to_say(db, tmp_path, caplog):
    (tmp_path/'1-x.journal').touch()
    with caplog.at_level('WARNING', 'unde_recog'), RequestLog(db, journal=Journal(tmp_path)): pass
    assert not caplog.records and not list(tmp_path.iterdir())


def test_two_that_start_at_once_write_each_row_once(db, tmp_path):
    rows = [request(item(0)) for _ in range(30)]
    killed_with(tmp_path, rows)
    logs = [RequestLog(db, journal=Journal(tmp_path)) for _ in range(2)]
    for log in logs: log.close()
    assert sum(log.written for log in logs) == 30 and kept(db)[0].keys() == {r.id for r in rows}


def test_a_drain_whose_time_is_over_leaves_its_rows(nowhere, db, tmp_path):
    log, rows = (
        RequestLog(nowhere, size=4, retry=0.05, journal=Journal(tmp_path)),
        [request(item(0)) for _ in range(9)],
    )
    for row in rows: log.put(row)
    assert log.close(timeout=.2) == 0 and log.kept >= 9
    for thread in writers(): thread.join(5)
    with RequestLog(db, journal=Journal(tmp_path)) as again: pass
    assert again.written == 9 and kept(db)[0].keys() == {r.id for r in rows}


def test_a_database_that_stays_away_keeps_the_file(nowhere, tmp_path):
    killed_with(tmp_path, [request(item(0)) for _ in range(3)])
    with RequestLog(nowhere, retry=.05, journal=Journal(tmp_path)) as log: log.close(timeout=.2)
    for thread in writers(): thread.join(5)
    assert log.lost == 0
    (left,) = abandoned(tmp_path)
    left.leave()
    assert len(left.entries) == 3


def test_what_cannot_be_read_or_written_is_lost_alone(db, tmp_path):
    good, bad = request(item(0)), request(item(0, propensity=2.))
    killed_with(tmp_path, [good, bad])
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes() + b'"x"\t{"id": 3}\nno entry at all\n"torn"\t{"id"')
    with RequestLog(db, journal=Journal(tmp_path)) as log: log.close()
    assert (
        (log.written, log.lost) == (1, 3)
        and kept(db)[0].keys() == {good.id}
        and not list(tmp_path.iterdir())
    )


@given(
    entries=st.lists(
        st.tuples(
            st.text(max_size=5),
            st.dictionaries(st.text(max_size=3), st.text(max_size=20), max_size=3),
        ),
        max_size=12,
    ),
    forgotten=st.sets(st.integers(0, 11)),
)
def test_a_journal_holds_what_is_not_forgotten(entries, forgotten, tmp_path_factory):
    import json

    from unde_recog.db.journal import close_journal, forget
    folder = tmp_path_factory.mktemp('journal')
    journal, wanted = Journal(folder, segment=60), {}
    for i, (key, value) in enumerate(entries):
        assert journal.keep(key, json.dumps(value).encode())
        wanted[key] = value
        if i in forgotten:
            forget(journal, key)
            del wanted[key]
    assert journal.waiting >= len(wanted) and all(k in journal for k in wanted)
    close_journal(journal)
    found = {}
    for left in abandoned(folder):
        found |= {k: json.loads(v) for k, v in left.entries.items()}
        left.done()
    assert wanted.items() <= found.items()


def test_what_a_row_says_of_a_garment_nobody_asked_about():
    "Nothing counts as paid, asked, explored or reranked unless it was."
    from unde_recog.request_log import ItemRow
    row = ItemRow(item_index=0, category='top', box=[0, 0, 1, 1], model_version='v')
    assert (row.used_ximilar_booster, row.used_ximilar_tagging, row.explored, row.reranked) == (False,)*4
    assert (row.credits, row.person_index, row.match_type, row.propensity) == (0, 0, 'none', None)
