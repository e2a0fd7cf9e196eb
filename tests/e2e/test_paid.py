"""The paid half, end to end against simulated vendors over real sockets.

What is paid, logged, kept, refused, changed under way and never shown."""

import asyncio
import base64
import json
import logging
import threading
import time
import uuid
from contextlib import contextmanager

import pytest

from unde_recog.context import CAPS, PAID
from unde_recog.db.database import open_databases
from unde_recog.demo import demo_sandbox, fill, parse_fault
from unde_recog.research.fault_matrix import connections, corners, run_matrix
from unde_recog.sandbox.faults import FAULTS, Fault
from unde_recog.sandbox.routing import learn_photos
from unde_recog.sandbox.server import App, Latency, Sandbox
from unde_recog.session import change_settings, open_recognizer, watch_settings
from unde_recog.settings import DECISIONS, RESTART, Settings, data_dir, load_settings
from unde_recog.media.storage import open_storage
from unde_recog.vendors.budget import MonthlyBudget
from unde_recog.vendors.cache import PaidAnswers
from unde_recog.wardrobe.world import Truth, World

from tests.conftest import named_database


@pytest.fixture(scope='module')
def world(): return World(seed=7, skus=24)


@pytest.fixture(scope='module')
def shop(world, server_url, template, tmp_path_factory):
    "Settings of a drawn shop, imported and indexed once."
    with named_database(server_url, template, 'test_paid') as url:
        settings = load_settings(
            env={},
            DATABASE_URL=url,
            UNDE_DATA_DIR=tmp_path_factory.mktemp('paid'),
            REQUEST_DEADLINE='60s',
        )
        with open_databases(settings) as db:
            fill(
                db,
                world,
                data_dir(settings) / 'world',
                open_storage(settings),
                on_event=lambda *_: None,
            )
        yield settings


@pytest.fixture
def street(world, shop):
    """(sandbox, scenes, keyword settings) with vendors that know these scenes;
    paid answers of earlier tests are forgotten."""
    scenes, truth = [world.scene(s) for s in (11, 12)], Truth()
    for scene in scenes: truth.add_scene(scene)
    learn_photos(world, open_storage(shop), data_dir(shop)/'world', truth)
    with open_databases(shop) as db, db.connect('log') as conn:
        conn.execute('truncate paid_answers, recognition_requests cascade')
    with Sandbox(App(world, truth)) as box:
        yield (
            box,
            scenes,
            {n: getattr(shop, n) for n in ('DATABASE_URL', 'UNDE_DATA_DIR', 'REQUEST_DEADLINE')}
            | box.settings(),
        )


def logged(session, request_id, *columns):
    session.drain()
    session.recognizer.log.close()
    with session.recognizer.db.connect('log') as conn:
        return conn.execute(
            f'select {", ".join(columns)} from recognition_items where request_id = %s order by item_index',
            (uuid.UUID(str(request_id)),),
        ).fetchall()


@pytest.mark.parametrize('backend', ['conditional', 'dual', 'ximilar', 'pgvector'])
def test_credits_and_tokens_logged_are_those_of_the_calls(street, backend):
    box, scenes, values = street
    with open_recognizer(
        load_settings(env={}, SEARCH_BACKEND=backend, TAGGING_MODE='always', **values)
    ) as session:
        answer = session.recognize(scenes[0].data)
        rows = logged(session, answer.request_id, 'credits', 'tokens', 'used_ximilar_booster')
    assert answer.degraded == [] and sum(r[0] for r in rows) == box.app.ximilar.spent.total() > 0
    assert any(r[2] for r in rows) == (backend != 'pgvector') or backend == 'conditional'
    assert sum(sum(r[1].values()) for r in rows) > 0 and all(i.reranked for i in answer.items)
    if backend == 'pgvector': assert box.app.calls['ximilar', 'visual_search'] == 0


def test_the_same_photo_is_never_paid_for_twice(street):
    box, scenes, values = street
    settings = load_settings(env={}, SEARCH_BACKEND='dual', **values)
    with open_recognizer(settings) as session:
        first = session.recognize(scenes[0].data)
        spent, calls = box.app.ximilar.spent.total(), dict(box.app.calls)
        second = session.recognize(scenes[0].data)
    with open_recognizer(settings) as session:  # another process remembers too
        third = session.recognize(scenes[0].data)
        rows = logged(session, third.request_id, 'credits', 'tokens')
    assert box.app.ximilar.spent.total() == spent > 0 and dict(box.app.calls) == calls
    assert all(c == 0 and sum(t.values()) == 0 for c, t in rows)
    shown = lambda a: [[(m.brand, m.external_id, round(m.score, 6)) for m in i.matches] for i in a.items]
    assert shown(first) == shown(second) == shown(third)


@contextmanager
def locked_answers(shop):
    "Nobody else reads or writes paid answers inside."
    with open_databases(shop) as db, db.connect('log') as conn, conn.transaction():
        conn.execute('lock table paid_answers in access exclusive mode')
        yield


def test_a_slow_database_is_waited_for_not_paid_for(street, shop):
    box, scenes, values = street
    settings = load_settings(env={}, SEARCH_BACKEND='dual', **values)
    with open_recognizer(settings) as session: session.recognize(scenes[0].data)
    spent = box.app.ximilar.spent.total()
    with open_recognizer(settings) as session:
        with locked_answers(shop):
            waiting = threading.Thread(target=session.recognize, args=(scenes[0].data,), daemon=True)
            waiting.start()
            time.sleep(1.5)
            assert waiting.is_alive()
        waiting.join()
    assert box.app.ximilar.spent.total() == spent > 0


def test_nobody_waits_for_an_answer_to_be_kept(street, shop):
    async def keep(db):
        answers = PaidAnswers(db)
        with locked_answers(shop):
            answers.put('tags', {'a'*64: {'color': 'red'}})
            await asyncio.sleep(.7)
        await answers.aclose()
        return await PaidAnswers(db).get('tags', ['a'*64])
    with open_databases(shop) as db: assert asyncio.run(keep(db)) == {'a'*64: {'color': 'red'}}


def test_a_corner_of_the_fault_matrix(shop, world, monkeypatch):
    "Two vendors' every fault, once each under changing backends; reports/fault_matrix has them all."
    wanted = (
        [c for n, c in enumerate(corners()) if c[0] == 'ximilar' and n % 4 == (n // 4) % 4]
        + [('gemini', f, 'conditional') for f in ('hang', 'broken_json', 'reset')]
        + [('claude', 'server_error', 'conditional')]
    )
    assert {f for v, f, _ in wanted if v == 'ximilar'} == set(FAULTS)
    # vendors get a second each, the own steps as long as they need
    for step in PAID: monkeypatch.setitem(CAPS, step, 1/shop.REQUEST_DEADLINE.total_seconds())
    with open_databases(shop) as db, db.connect('log') as conn: conn.execute('truncate paid_answers')
    cells = run_matrix(shop, world, wanted)
    assert all(c.kept for c in cells), [c for c in cells if not c.kept]
    assert sum(c.played for c in cells) >= len(cells) and any(c.degraded for c in cells)


def test_someone_who_goes_away_has_still_been_paid_for(street):
    box, scenes, values = street
    box.app.latency = Latency(gemini=(20, 20))
    found = []  # the garments, once they are known
    with open_recognizer(load_settings(env={}, SEARCH_BACKEND='dual', **values)) as session:
        mine = uuid.uuid4()
        work = asyncio.run_coroutine_threadsafe(
            session.recognizer.recognize(
                scenes[1].data,
                request_id=mine,
                on_event=lambda name, data: found.extend(data if name == 'detected' else []),
            ),
            session.loop,
        )
        # everything else is answered when the judge has been asked about each garment
        while not found or box.app.inside['gemini'] < len(found): time.sleep(.02)
        work.cancel()
        while not session.recognizer.log.waiting + session.recognizer.log.written: time.sleep(.02)
        rows = logged(session, mine, 'credits', 'degraded', 'match_type')
        assert all(c.idle for c in connections(session))
    assert sum(r[0] for r in rows) == box.app.ximilar.spent.total() and all(
        'cancelled' in r[1] and r[2] == 'none' for r in rows
    )


def test_exploration_asks_afterwards_and_changes_nothing(street):
    box, scenes, values = street
    open_ = lambda share: open_recognizer(
        load_settings(
            env={}, CONFIDENCE_THRESHOLD=0.01, MARGIN=0, EXPLORATION_SHARE=share, **values
        )
    )
    with open_(0) as session: plain = session.recognize(scenes[0].data)
    assert box.app.calls['ximilar', 'visual_search'] == 0
    with open_(1) as session:
        answer = session.recognize(scenes[0].data)
        rows = logged(
            session,
            answer.request_id,
            'explored',
            'propensity',
            'used_ximilar_booster',
            'ximilar_list',
            'explored_list',
            'credits',
            'ximilar_top1_score',
        )
    assert [[m.external_id for m in i.matches] for i in plain.items] == [
        [m.external_id for m in i.matches] for i in answer.items
    ]
    assert all(
        r[0] and r[1] == 1 and not r[2] and r[3] == [] and r[4] and r[6] is None for r in rows
    ) and sum(r[5] for r in rows) >= 10 * len(rows)


def test_a_budget_stops_what_the_settings_say(street):
    box, scenes, values = street
    with open_recognizer(
        load_settings(
            env={}, SEARCH_BACKEND='dual', CREDIT_BUDGET=40, TAGGING_MODE='always', **values
        )
    ) as session:
        first = session.recognize(scenes[0].data)
        session.drain()
        assert box.app.ximilar.spent.total() > 40 and session.recognizer.parts.budget.action == 'pgvector'
        spent, calls = box.app.ximilar.spent.total(), box.app.calls.total()
        second = session.recognize(scenes[1].data)
        rows = logged(session, second.request_id, 'credits', 'degraded', 'used_ximilar_booster')
    assert (
        'budget' not in first.degraded
        and 'budget' in second.degraded
        and all(i.matches for i in second.items)
    )
    assert (
        box.app.ximilar.spent.total() == spent
        and box.app.calls.total() == calls
        and all(r[0] == 0 and not r[2] for r in rows)
    )
    settings = load_settings(env={}, CREDIT_BUDGET=10*spent, **values)
    with open_databases(settings) as db:  # a new process reads the month from the log
        budget = MonthlyBudget(db, settings)
        assert budget.spent.credits == spent and budget.action == 'nothing' and budget.allows('booster')
        budget.note(int(7.5*spent), 0)
        assert budget.action == 'stop_tagging' and budget.allows('booster') and not budget.allows('tag')


FLAGS = {
    'SEARCH_BACKEND': 'pgvector',
    'CONFIDENCE_THRESHOLD': 0.123,
    'MARGIN': 0.045,
    'XIMILAR_CONFIDENCE_THRESHOLD': 55,
    'XIMILAR_MARGIN': 3,
    'CONFIDENCE_HIGH': 0.9,
    'CONFIDENCE_MEDIUM': 0.4,
    'RERANK_VISUAL_WEIGHT': 0.6,
    'FUSION': 'rrf',
    'TAGGING_MODE': 'always',
    'AVAILABILITY_WINDOW': '48h',
    'MIN_CANDIDATES': 5,
    'REQUEST_DEADLINE': '9s',
    'EXPLORATION_SHARE': 0.25,
    'BOOSTER_SHARE': 0.5,
    'FALLBACK_ORDER': 'price',
    'ALLOW_PRIVATE_URLS': 'true',
    'CONTEXT_TAGS': 'on',
    'CANARY_SHARE': 0.2,
    'CERTIFICATE_GUARD': True,
}


def test_every_flag_rolls_back_under_load_without_a_failed_request(street, tmp_path):
    box, scenes, values = street
    assert (
        set(FLAGS) == DECISIONS
        and not DECISIONS & RESTART
        and DECISIONS | RESTART <= set(Settings.model_fields)
    )
    ini = tmp_path/'settings.ini'
    values = {k: v for k, v in values.items() if k not in FLAGS}
    load = lambda: load_settings(ini=ini, env={}, **values)
    write = lambda **flags: (
        (tmp_path / 'new').write_text(
            '\n'.join(['[unde_recog]', *(f'{k} = {v}' for k, v in flags.items())]) + '\n'
        )
        and (tmp_path / 'new').replace(ini)
    )
    write()
    done, failed, stop, epoch = [], [], threading.Event(), 0
    with open_recognizer(load()) as session:
        def ask(n):
            while not stop.is_set():
                started = epoch
                try: done.append((started, session.recognize(scenes[n].data)))
                except Exception as e: failed.append(repr(e))
        watch_settings(session, load, every=.05)
        askers = [threading.Thread(target=ask, args=(n,), daemon=True) for n in (0, 1)]
        for a in askers: a.start()
        seen = {}
        for name, value in FLAGS.items():
            write(**{name: value})
            wanted = getattr(load(), name)
            while getattr(session.recognizer.settings, name) != wanted: time.sleep(.02)
            epoch += 1
            while not (later := [a for e, a in done if e == epoch]): time.sleep(.02)
            seen[name] = later[0].request_id
        write(GEMINI_MODEL='another-model')  # a vendor's setting: its parts are built anew
        old = session.recognizer.parts
        while session.recognizer.parts is old: time.sleep(.02)
        last, was = len(done), session.recognizer.settings
        write(SEARCH_BACKEND='cheapest')  # refused
        while len(done) < last + 3: time.sleep(.02)
        stop.set()
        for a in askers: a.join()
        assert session.recognizer.settings == was and not failed, failed
        with pytest.raises(ValueError, match='UNDE_DATA_DIR.*restart'):
            change_settings(session, was.model_copy(update={'UNDE_DATA_DIR': tmp_path}))
        session.drain()
        session.recognizer.log.close()
        with session.recognizer.db.connect('log') as conn:
            effect = {
                name: conn.execute(
                    '''select settings, confidence_threshold, margin_threshold,
                              used_ximilar_tagging, used_ximilar_booster
                       from recognition_items where request_id = %s''',
                    (uuid.UUID(r),),
                ).fetchall()
                for name, r in seen.items()
            }
    for name in (
        'SEARCH_BACKEND',
        'FUSION',
        'TAGGING_MODE',
        'MIN_CANDIDATES',
        'RERANK_VISUAL_WEIGHT',
        'CONFIDENCE_HIGH',
        'CONFIDENCE_MEDIUM',
        'XIMILAR_CONFIDENCE_THRESHOLD',
        'XIMILAR_MARGIN',
    ):
        assert all(r[0][name] == FLAGS[name] for r in effect[name]), name
    assert all(r[1] == 0.123 for r in effect['CONFIDENCE_THRESHOLD']) and all(
        r[2] == 0.045 for r in effect['MARGIN']
    )
    assert not any(r[4] for r in effect['SEARCH_BACKEND']) and all(r[3] for r in effect['TAGGING_MODE'])


SECRETS = {
    'XIMILAR_API_TOKEN': 'planted-ximilar-7d1',
    'GEMINI_API_KEY': 'planted-gemini-8e2',
    'ANTHROPIC_API_KEY': 'planted-claude-9f3',
}


@pytest.mark.parametrize('kind', ['server_error', 'broken_json', 'wrong_schema', 'reset', 'rate_limited'])
def test_no_secret_and_no_photo_is_ever_shown(street, kind, caplog, capfd):
    box, scenes, values = street
    for vendor in ('ximilar', 'gemini', 'claude'): box.app.faults.always(vendor, Fault(kind))
    caplog.set_level(logging.DEBUG)
    settings = load_settings(
        env={},
        SEARCH_BACKEND='dual',
        COUNCIL=True,
        ADVICE=True,
        **{**values, **SECRETS, 'REQUEST_DEADLINE': '3s'},
    )
    with open_recognizer(settings) as session:
        answer = session.recognize(
            scenes[0].data, boxes=[{'box': i.box, 'category': i.category} for i in scenes[0].items]
        )
        session.drain()
        session.recognizer.log.close()
        with session.recognizer.db.connect('log') as conn:
            kept = json.dumps(
                [
                    conn.execute(f'select * from {t}').fetchall()
                    for t in ('recognition_requests', 'recognition_items', 'paid_answers')
                ],
                default=str,
            )
    text = '\n'.join([caplog.text, *capfd.readouterr(), kept, answer.model_dump_json(), repr(settings)])
    assert len(caplog.records) > 3 and answer.degraded
    for secret in SECRETS.values(): assert secret not in text
    picture = base64.b64encode(scenes[0].data).decode()
    assert (
        picture[200:260] not in text
        and 'base64,' not in text
        and not any(len(word) > 3000 for word in text.split())
    )


def test_the_sandbox_without_a_demo_says_what_to_run(tmp_path):
    with pytest.raises(FileNotFoundError, match='unde-recog demo --seed 3 --skus 24'):
        demo_sandbox(
            load_settings(env={}, UNDE_DATA_DIR=tmp_path), tmp_path / 'photos', seed=3, skus=24
        )
    for wrong in ('amazon:hang', 'ximilar:explode', 'gemini:hang:soon', ''):
        with pytest.raises(ValueError, match='--fault'): parse_fault(wrong)


def test_every_answer_of_the_sandbox_says_so(street):
    import httpx
    box, scenes, _ = street
    with httpx.Client(base_url=box.url, headers={'Authorization': 'Token x'}, timeout=10) as client:
        body = {'records': [{'_base64': base64.b64encode(scenes[0].data).decode()}]}
        for kind in [None, *(f for f in FAULTS if f not in ('reset', 'hang'))]:
            box.app.faults.always('ximilar', Fault(kind, .01) if kind else None)
            answer = client.post('/tagging/fashion/v2/detect', json=body)
            assert 'simulated' in answer.headers['x-sandbox'], kind
        assert client.get('/_sandbox').json()['sandbox'].startswith('simulated')
        assert (
            client.post(
                '/_sandbox/faults', json={'vendor': 'ximilar', 'kind': 'explode'}
            ).status_code
            == 400
        )
        assert (
            client.get('/nowhere').status_code == 404
            and httpx.post(f'{box.url}/tagging/fashion/v2/detect', json=body).status_code == 401
        )
