"""The guard in the real service: a certificate applied, broken by explored garments, and the gate
closed by itself; and the statistics behind it by simulation."""

import time
from datetime import timedelta

import numpy as np
import pandas as pd
import pytest

from tests.web_shop import Shop
from unde_recog.contracts import Candidate, SkuKey
from unde_recog.guard import newest_certificate, note_evidence, record_certificate
from unde_recog.research.anytime import watch_certificate
from unde_recog.research.records import outcomes, read_items
from unde_recog.research.study_table import explored_year
from unde_recog.research.watch import certificate_metrics, explored_log, watch_in_force
from unde_recog.session import take_guard

PAIR = {'CONFIDENCE_THRESHOLD': .3, 'MARGIN': 0.}


@pytest.fixture(scope='module')
def shop(server_url, template, tmp_path_factory):
    place = Shop(server_url, template, tmp_path_factory.mktemp('guard'), 'guard', skus=12)
    yield place
    place.drop()


class Booster:
    "Knows one product, whatever it is shown."
    name = 'ximilar'

    def __init__(self, key): self.key, self.asked = key, 0

    async def search(self, item, k, *, brands, timeout):
        self.asked += 1
        return [Candidate(key=SkuKey(*self.key), score=99.)]


def certificate(shop, version, **more):
    given = {'model_version': version, 'threshold': .3, 'margin': 0., 'alpha': .05, 'delta': .05}
    with shop.db() as db, db.connect('log') as conn: return record_certificate(conn, given, **more)


def answer(client, shop, n=0):
    return client.post('/api/v1/recognize', files={'image': ('p.jpg', shop.photo(n), 'image/jpeg')}).json()


def kind(told): return told['items'][0]['match_type'] if told['items'] else 'none'


def test_the_service_closes_its_gate_by_itself(shop):
    "Broken in the database by whoever watches: within seconds nothing is exact; applied anew: open."
    with shop.running(CERTIFICATE_GUARD=True, SEARCH_BACKEND='pgvector', **PAIR) as (client, server):
        n = next(n for n in range(12) if kind(answer(client, shop, n)) == 'exact')
        first = answer(client, shop, n)
        assert 'certificate' not in first['degraded']
        number = certificate(shop, first['model_version'])
        assert 'certificate' not in answer(client, shop, n)['degraded']
        with shop.db() as db, db.connect('log') as conn:
            note_evidence(conn, number, fortune=40., explored=80, losses=13, ended='13 losses in 80')
        end, closed = time.monotonic() + 60, answer(client, shop, n)
        while 'certificate' not in closed['degraded'] and time.monotonic() < end:
            time.sleep(.3)
            closed = answer(client, shop, n)
        assert 'certificate' in closed['degraded'] and closed['items'][0]['matches']
        assert all(i['match_type'] != 'exact' for i in closed['items'])
        assert 'unde_certificate_over 1.0' in client.get('/metrics').text
        rows = shop.log("select gate_confident, confidence_threshold, settings->>'guarded' "
                        "from recognition_items where settings ? 'guarded'")
        assert rows and all(r[0] is False and r[1] is None and '13 losses' in r[2] for r in rows)
        certificate(shop, first['model_version'])
        end = time.monotonic() + 60
        while 'certificate' in (again := answer(client, shop, n))['degraded']:
            if time.monotonic() >= end: break
            time.sleep(.3)
        assert kind(again) == 'exact'


def test_a_closed_gate_asks_the_booster_for_all(shop):
    booster = Booster(shop.world.keys[3])

    def plug(parts):
        parts.booster = booster
        return parts

    with shop.session(plug, CERTIFICATE_GUARD=True, SEARCH_BACKEND='conditional', **PAIR) as session:
        version = session.recognizer.parts.primary.version
        with shop.db() as db, db.connect('log') as conn: conn.execute('delete from gate_certificates')
        assert take_guard(session) is None
        session.recognize(shop.photo())
        assert booster.asked == 0  # sure enough
        certificate(shop, version, valid_for=timedelta(days=-1))
        assert take_guard(session).startswith('expired')
        closed = session.recognize(shop.photo())
        assert booster.asked == 1 and 'certificate' in closed.degraded


def lost_to(row):
    "The first product that skipping the booster would lose, else the primary's own first."
    return next((k for k in row.fused[:3] if k not in row.primary[:3]), row.primary[0])


def test_explored_garments_end_a_certificate(shop):
    "The log of a real session, its explored garments labelled: the watcher writes down what it found."
    booster = Booster(shop.world.keys[5])

    def plug(parts):
        parts.booster = booster
        return parts

    version = None
    with shop.db() as db, db.connect('log') as conn:
        conn.execute('delete from gate_certificates; delete from recognition_requests')
    with shop.session(plug, SEARCH_BACKEND='conditional', EXPLORATION_SHARE=1., **PAIR) as session:
        version = session.recognizer.parts.primary.version
        certificate(shop, version)
        for n in range(6): session.recognize(shop.photo(n), user_id=f'u{n}')
        session.drain()
    with shop.db() as db:
        items = read_items(db)
        assert items.explored.all() and (items.propensity == 1).all()
        seen = explored_log(items)
        assert len(seen) == len(items) and seen.loss.sum() == 0
        # a labeller says: it was what both together show and the primary alone does not
        labels = pd.DataFrame([(r.photo, r.item, *lost_to(r), 2) for r in items.itertuples()],
                              columns=['photo', 'item', 'brand', 'external_id', 'grade'])
        found = watch_in_force(db, version, labels=labels)
        assert found.explored == len(items) and found.losses == seen['open'].sum()
        assert found.losses == outcomes(items, labels).loss.sum()
        with db.connect('log') as conn: kept = newest_certificate(conn, version)
        assert kept.fortune == pytest.approx(found.fortune) and kept.explored == found.explored
        assert f'unde_quality_certificate_losses {found.losses}' in certificate_metrics(found)
        assert bool(kept.ended_at) == bool(found.ended)


def test_alarms_are_rare_as_certified_and_soon_after_a_break():
    "Ten simulated years: a loss of alpha rings in about one of twenty at most, one of twice alpha always."
    quiet = loud = 0
    for seed in range(10):
        rng = np.random.default_rng(seed)
        quiet += watch_certificate(explored_year(rng, np.full(6000, .05)), .05, lowest=-2.).broken
        rates = np.where(np.arange(6000) < 1500, .03, .12)
        loud += watch_certificate(explored_year(rng, rates, share=.1), .05, lowest=-1.).broken
    assert quiet <= 3 and loud >= 9
