"""The load generator at one hundredth of its size: a real server process, a real database, clients
in a process of their own. Nothing here asserts how long anything takes."""

import json

import pytest
from unde_recog.db.database import LOGICALS, Databases
from unde_recog.embedder import load_embedder
from unde_recog.media.images import decode
from unde_recog.bench.service_load import (
    PAIR,
    SERVICE,
    compare,
    drive,
    growth,
    overload,
    ratios,
    running,
    soak,
)
from unde_recog.bench.simulated_shop import drawn_photo, fill_shop, nearest_sku
from unde_recog.settings import load_settings

from tests.conftest import named_database


@pytest.fixture(scope='module')
def shop(server_url, template, tmp_path_factory):
    "(folder, settings as values, databases, photo, boxes) of a simulated shop."
    folder = tmp_path_factory.mktemp('load')
    photo, boxes = drawn_photo(size=(300, 400))
    (folder/'photo.jpg').write_bytes(photo)
    with named_database(server_url, template, 'test_service_load') as url:
        with Databases(dict.fromkeys(LOGICALS, url)) as db:
            embedder, image = (
                load_embedder(settings=load_settings(env={}, UNDE_DATA_DIR=folder)),
                decode(photo),
            )
            crops = dict(
                zip(
                    [b['category'] for b in boxes],
                    embedder.embed([image.crop(b['box']) for b in boxes]),
                )
            )
            rows = fill_shop(db, embedder, crops, .002)
            # again: the index is there, the readings are made new
            assert rows == 6*60*5 == fill_shop(db, embedder, crops, .002)
            yield folder, {'UNDE_DATA_DIR': folder, 'DATABASE_URL': url}, db, folder/'photo.jpg', boxes


@pytest.fixture(scope='module')
def pair(shop):
    with running(PAIR, shop[0], **shop[1], REQUEST_DEADLINE='120s') as server: yield server


def test_both_ways_answer_every_garment(shop, pair):
    import httpx
    _, _, _, photo, boxes = shop
    form = {'boxes': json.dumps(boxes), 'user_mall': 'mall 1'}
    with httpx.Client(base_url=f'http://127.0.0.1:{pair.port}', timeout=60) as client:
        bare = client.post('/baseline', files={'image': photo.read_bytes()}, data=form).json()
        whole = client.post('/api/v1/recognize', files={'image': photo.read_bytes()}, data=form).json()
    assert bare == {'garments': len(boxes)} == {'garments': len(whole['items'])} and whole['degraded'] == []
    best = [i['matches'][0] for i in whole['items']]
    assert (
        best[0]['external_id'] == f"s{nearest_sku('top'):06d}"
        and best[0]['score'] == pytest.approx(0.95, abs=0.01)
        and all(m['stores'] for m in best if m['in_mall'])
    )


def test_a_comparison(shop, pair):
    _, _, db, photo, boxes = shop
    rows = compare(pair, db, photo, boxes, n=2, rounds=2, seconds=.5)
    # the order changes
    assert [r['way'] for r in rows] == ['recognize', 'baseline', 'baseline', 'recognize']
    assert all(
        r['answers'] >= 1
        and r['refused'] == 0
        and r['p50'] <= r['p95'] <= r['p99']
        and r['app cpu ms'] > 0
        for r in rows
    )
    middle, least, most = ratios(rows, 'ms a photo')
    assert 0 < least <= most and middle > 0


def test_fifty_requests_in_two_goes(shop, pair):
    "A soak that was stopped goes on where it was."
    folder, _, _, photo, boxes = shop
    kept = folder/'soak.jsonl'
    first = soak(pair, photo, boxes, kept, requests=20, every=10)
    assert [s['done'] for s in first] == [10, 20]
    with kept.open() as f: assert len(f.readlines()) == 2
    whole = soak(pair, photo, boxes, kept, requests=50, every=10)
    assert [s['done'] for s in whole] == [10, 20, 30, 40, 50] and [s['segment'] for s in whole] == [
        0,
        0,
        1,
        1,
        1,
    ]
    assert all(0 < s['mb'] <= s['peak_mb']*1.01 for s in whole) and isinstance(growth(whole), float)


def test_overload_is_refused_with_a_time_to_come_back(shop):
    import asyncio
    folder, values, _, photo, boxes = shop
    with running(SERVICE, folder, **values, MAX_CONCURRENT_REQUESTS=2) as server:
        run, lives = asyncio.run(overload(server.port, photo, boxes, 12, seconds=1.5))
        assert run.seconds and run.refused[503] and set(run.refused) == {503} and min(run.waits) >= 1
        assert lives and max(lives) < float('inf')  # every question about liveness was answered
        # and afterwards it works as before
        assert len(drive(server.port, '/api/v1/recognize', photo, boxes, n=1, requests=3).seconds) == 3
        assert server.live and server.ready >= server.live and server.peak >= server.held*.9


def test_a_server_that_does_not_start_says_why(shop):
    folder, values, *_ = shop
    with pytest.raises(RuntimeError, match='PORT|MAX_CONCURRENT_REQUESTS'):
        with running(SERVICE, folder, **values, MAX_CONCURRENT_REQUESTS='many'): pass
