"The service as its callers meet it: real HTTP on loopback, a real database, faults on purpose."
import asyncio
import contextlib
import json
import os
import random
import socket
import subprocess
import sys
import threading
import time
import uuid
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import numpy as np
import psutil
import psycopg
import pytest

from unde_recog.contracts import Answer, Box, Candidate, SkuKey
from unde_recog.media.images import to_jpeg
from unde_recog.serving import ROLES, Running, make_app
from unde_recog.web.lifecycle import load_once
from unde_recog.web.auth import add_key, remove_key

from tests.conftest import sibling
from tests.web_shop import Shop, events


@pytest.fixture(scope='module')
def shop(server_url, template, tmp_path_factory):
    made = Shop(server_url, template, tmp_path_factory.mktemp('shop'), 'test_serving', skus=16)
    yield made
    made.drop()


@pytest.fixture(scope='module')
def app(shop):
    "One application for all tests that change nothing of it."
    with shop.running() as (client, server): yield client


def recognize(client, photo, headers=None, **fields):
    return client.post(
        '/api/v1/recognize', files={'image': photo}, data=fields, headers=headers or {}
    )


def eventually(what, seconds=60.):
    ends = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < ends, 'it did not happen'
        time.sleep(.05)
    return found


class SlowBooster:
    "A booster that waits until it is told to go on, and remembers being cancelled."
    name = 'ximilar'

    def __init__(self):
        self.entered, self.go, self.cancelled = (
            threading.Event(),
            threading.Event(),
            threading.Event(),
        )

    async def search(self, item, k, *, brands, timeout):
        from unde_recog.resilience import add_cost
        add_cost('search', 10)
        self.entered.set()
        try:
            while not self.go.is_set(): await asyncio.sleep(.01)
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        return [Candidate(key=SkuKey('zara', '1'), score=50., ximilar=50.)]


# --- the path of the user

def test_upload_finds_the_product(app, shop):
    answer = recognize(app, shop.photo(), user_mall=shop.mall, user_id='u1')
    assert answer.status_code == 200 and answer.headers['content-type'] == 'application/json'
    result = Answer.model_validate(answer.json())
    match = result.items[0].matches[0]
    assert (
        (match.brand, match.external_id) == tuple(shop.world.keys[0])
        and match.price
        and result.degraded == []
    )
    ((user, mall),) = eventually(
        lambda: shop.log(
            'select user_id, user_mall from recognition_requests where id = %s', result.request_id
        )
    )
    assert (user, mall) == ('u1', shop.mall)


def test_events_come_in_order_and_agree_with_json(app, shop):
    whole = recognize(app, shop.photo(), user_mall=shop.mall).json()
    with app.stream(
        'POST',
        '/api/v1/recognize',
        files={'image': shop.photo()},
        data={'user_mall': shop.mall},
        headers={'Accept': 'text/event-stream'},
    ) as answer:
        assert (
            answer.headers['content-type'].startswith('text/event-stream')
            and answer.headers['cache-control'] == 'no-store'
        )
        received = events(answer)
    kinds = [k for k, _ in received]
    assert kinds == ['detected', 'candidates', 'result', 'done']
    result = dict(received)
    assert result['detected']['request_id'] == result['result']['request_id'] and (
        result['detected']['width'],
        result['detected']['height'],
    ) == (384, 512)
    assert (
        result['candidates']['matches'][0]['external_id'] == shop.world.keys[0].external_id
        and result['done']['total_ms'] == result['result']['total_ms']
    )
    assert [m['external_id'] for m in result['result']['items'][0]['matches']] == [
        m['external_id'] for m in whole['items'][0]['matches']
    ]


def test_a_given_box_is_the_garment(app, shop):
    scene = shop.world.scene(2)
    boxes = [{'box': list(i.box), 'category': i.category} for i in scene.items][:2]
    result = recognize(app, scene.data, boxes=json.dumps(boxes)).json()
    assert [i['box'] for i in result['items']] == [b['box'] for b in boxes] and [
        i['category'] for i in result['items']
    ] == [b['category'] for b in boxes]


def test_wishes_are_kept(app, shop):
    price = {k: shop.world.product(k).price for k in shop.world.keys}
    limit = sorted(price.values())[len(price)//2]
    result = recognize(app, shop.photo(), max_price=str(limit), sizes='["M"]').json()
    shown = result['items'][0]['matches']
    assert shown and all(m['price'] <= limit for m in shown)
    assert all('M' in s['sizes'] for m in shown for s in m['stores'])
    assert recognize(app, shop.photo(), min_price='1e9').status_code == 200


def test_by_address_and_never_into_the_house(app, shop):
    class Photo(BaseHTTPRequestHandler):
        def do_GET(self):
            body = shop.photo()
            self.send_response(200)
            self.send_header('Content-Length', str(len(body)))
            self.end_headers()
            self.wfile.write(body)
        def log_message(self, *args): pass
    server = ThreadingHTTPServer(('127.0.0.1', 0), Photo)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f'http://127.0.0.1:{server.server_port}/a.jpg'
    refused = app.post('/api/v1/recognize', json={'url': url})
    assert refused.status_code == 422 and refused.json()['type'] == 'urn:unde:problem:refused_url'
    with shop.running(ALLOW_PRIVATE_URLS=True) as (client, _):
        shown = client.post('/api/v1/photo', json={'url': url})
        assert shown.headers['content-type'] == 'image/jpeg' and b'Exif' not in shown.content
        result = client.post('/api/v1/recognize', json={'url': url}).json()
        assert result['items'][0]['matches'][0]['external_id'] == shop.world.keys[0].external_id
        assert (
            eventually(
                lambda: shop.log(
                    'select photo_url from recognition_requests where id = %s', result['request_id']
                )
            )[0][0]
            == url
        )
    server.shutdown()
    for bad in (
        'file:///etc/passwd',
        'storage:originals/x/1/0.jpg',
        '/etc/passwd',
        'http://169.254.169.254/latest/meta-data',
        'http://[::1]/',
        'http://0x7f000001/',
        'ftp://example.com/x',
        'http://user:pw@example.com/',
    ):
        assert app.post('/api/v1/recognize', json={'url': bad}).status_code == 422, bad
        assert app.post('/api/v1/photo', json={'url': bad}).status_code == 422, bad


def test_feedback_and_trail(app, shop):
    result = recognize(app, shop.photo(), user_id='somebody').json()
    rid, match = result['request_id'], result['items'][0]['matches'][0]
    # at once: before the log row may be there
    said = app.post(
        f'/api/v1/requests/{rid}/feedback',
        json={'item_index': 0, 'brand': match['brand'], 'external_id': match['external_id']},
    )
    assert said.status_code == 204 and said.content == b''
    trail = app.get(f'/api/v1/requests/{rid}').json()
    item = trail['items'][0]
    assert trail['user_feedback'] == {
        '0': {'brand': match['brand'], 'external_id': match['external_id']}
    } and 'somebody' not in json.dumps(trail)
    assert (
        item['pgvector_list'][0]['external_id'] == match['external_id']
        and item['gate_confident'] is not None
        and item['confidence_threshold'] is not None
        and item['credits'] == 0
    )
    assert (
        app.post(
            f'/api/v1/requests/{rid}/feedback', json={'item_index': 0, 'none': True}
        ).status_code
        == 204
    )
    assert shop.log('select user_feedback from recognition_requests where id = %s', rid)[0][0] == {
        '0': None
    }
    assert (
        app.post(
            f'/api/v1/requests/{rid}/feedback', json={'item_index': 7, 'none': True}
        ).status_code
        == 404
    )
    assert app.get(f'/api/v1/requests/{uuid.uuid4()}').status_code == 404


def test_idempotency_key(app, shop):
    key = {'Idempotency-Key': uuid.uuid4().hex}
    first, second = (recognize(app, shop.photo(), key, user_mall=shop.mall) for _ in range(2))
    assert (
        first.json() == second.json()
        and second.headers['idempotency-replayed'] == 'true'
        and 'idempotency-replayed' not in first.headers
    )
    eventually(
        lambda: shop.log(
            'select 1 from recognition_requests where id = %s', first.json()['request_id']
        )
    )
    reused = recognize(app, shop.photo(1), key, user_mall=shop.mall)
    assert reused.status_code == 422 and reused.json()['type'].endswith('key_reused')
    with app.stream(
        'POST',
        '/api/v1/recognize',
        files={'image': shop.photo()},
        data={'user_mall': shop.mall},
        headers=key | {'Accept': 'text/event-stream'},
    ) as answer:
        received = events(answer)
    assert [k for k, _ in received] == ['result', 'done'] and received[0][1] == first.json()
    failing = {'Idempotency-Key': uuid.uuid4().hex}
    assert recognize(app, shop.photo(), failing, user_mall='Nowhere').status_code == 422
    # the key was given back
    assert eventually(lambda: recognize(app, shop.photo(), failing, user_mall=shop.mall).status_code == 200)


def test_asked_twice_at_once(shop):
    slow, key = SlowBooster(), {'Idempotency-Key': 'once'}
    with (
        shop.session(
            lambda p: replace(p, booster=slow), SEARCH_BACKEND='dual', REQUEST_DEADLINE='60s'
        ) as session,
        shop.running(session=session) as (client, _),
    ):
        answers = []
        one = threading.Thread(target=lambda: answers.append(recognize(client, shop.photo(), key)))
        one.start()
        assert slow.entered.wait(10)
        again = recognize(client, shop.photo(), key)
        assert again.status_code == 409 and again.headers['retry-after'] == '1'
        slow.go.set()
        one.join(20)
        assert (
            answers[0].status_code == 200
            and recognize(client, shop.photo(), key).json() == answers[0].json()
        )


@pytest.mark.parametrize('accept', ['application/json', 'text/event-stream'])
def test_who_goes_away_cancels_the_work(shop, accept):
    slow = SlowBooster()
    with (
        shop.session(
            lambda p: replace(p, booster=slow), SEARCH_BACKEND='dual', REQUEST_DEADLINE='60s'
        ) as session,
        shop.running(session=session) as (client, server),
    ):
        before = shop.log("select count(*) from recognition_items where degraded ? 'cancelled'")[0][0]
        async def leave():
            async with httpx.AsyncClient(base_url=server.url, timeout=60) as hasty:
                asked = asyncio.create_task(
                    hasty.post(
                        '/api/v1/recognize',
                        files={'image': shop.photo()},
                        headers={'Accept': accept},
                    )
                )
                assert await asyncio.to_thread(slow.entered.wait, 60)
                asked.cancel()
                await asyncio.wait([asked])
        asyncio.run(leave())
        assert slow.cancelled.wait(60)
        assert eventually(lambda: server.app.state.state.admission.inside == 0 or None) is True
        # what it had cost is not forgotten
        eventually(
            lambda: (
                shop.log("select count(*) from recognition_items where degraded ? 'cancelled'")[0][
                    0
                ]
                == before + 1
            )
        )
        assert (
            shop.log(
                "select credits from recognition_items where degraded ? 'cancelled' order by "
                "created_at desc limit 1"
            )[0][0]
            == 10
        )


def test_heartbeats_and_late_errors(shop):
    slow = SlowBooster()
    with (
        shop.session(
            lambda p: replace(p, booster=slow), SEARCH_BACKEND='dual', REQUEST_DEADLINE='60s'
        ) as session,
        shop.running(session=session, heartbeat=0.1) as (client, _),
    ):
        with client.stream(
            'POST',
            '/api/v1/recognize',
            files={'image': shop.photo()},
            headers={'Accept': 'text/event-stream'},
        ) as answer:
            received = events(answer, on_comment=slow.go.set)
        assert ('comment', ': heartbeat') in received and received[-1][0] == 'done'
        with client.stream(
            'POST',
            '/api/v1/recognize',
            files={'image': shop.photo()},
            data={'user_mall': 'Nowhere'},
            headers={'Accept': 'text/event-stream'},
        ) as answer:
            received = events(answer)
        (kind, problem), = received
        assert (
            kind == 'error'
            and problem['type'].endswith('unknown_mall')
            and problem['status'] == 422
            and problem['request_id']
        )


def test_advice_comes_last(shop):
    class Advisor:
        name = 'gemini'
        async def advise(self, finds, *, timeout, tags):
            await asyncio.sleep(.2)
            return 'Wear it with white trainers.'

    with (
        shop.session(lambda p: replace(p, advisor=Advisor()), ADVICE=True) as session,
        shop.running(session=session) as (client, _),
    ):
        with client.stream(
            'POST',
            '/api/v1/recognize',
            files={'image': shop.photo()},
            headers={'Accept': 'text/event-stream'},
        ) as answer:
            received = events(answer)
        assert [k for k, _ in received] == [
            'detected',
            'candidates',
            'result',
            'advice',
            'done',
        ] and dict(received)['advice'] == {'text': 'Wear it with white trainers.'}


# --- what it says when it cannot

@pytest.mark.parametrize(
    'files, fields, status, word',
    [
        ({'image': b'no photo at all'}, {}, 415, 'not_an_image'),
        ({'image': b''}, {}, 422, 'invalid'),
        ({}, {'user_mall': 'x'}, 422, 'invalid'),
        ({'other': b'x'}, {}, 422, 'invalid'),
        ('photo', {'user_mall': 'Nowhere'}, 422, 'unknown_mall'),
        ('photo', {'boxes': '[[1,2]]'}, 422, 'invalid'),
        ('photo', {'boxes': '[{"box":[9000,1,9100,2]}]'}, 422, 'invalid'),
        ('photo', {'boxes': '{'}, 422, 'invalid'),
        ('photo', {'gender': 'robot'}, 422, 'invalid'),
        ('photo', {'max_price': 'cheap'}, 422, 'invalid'),
        ('photo', {'min_price': '60', 'max_price': '50'}, 422, 'invalid'),
        ('photo', {'user_id': 'a\x00b'}, 422, 'invalid'),
        ('photo', {'colour': 'red'}, 422, 'invalid'),
        ('photo', {'url': 'https://example.com/x.jpg'}, 422, 'invalid'),
    ],
)
def test_bad_requests_are_told_what_is_wrong(app, shop, files, fields, status, word):
    answer = app.post(
        '/api/v1/recognize',
        files={'image': shop.photo()} if files == 'photo' else files or None,
        data=fields,
    )
    result = answer.json()
    assert (answer.status_code, result['type']) == (status, f'urn:unde:problem:{word}'), result
    assert (
        answer.headers['content-type'] == 'application/problem+json'
        and result['request_id'] == answer.headers['x-request-id']
        and result['instance'] == '/api/v1/recognize'
        and result['detail']
    )


def test_too_large(app):
    answer = app.post('/api/v1/recognize', files={'image': b'\xff\xd8' + b'x'*21_000_000})
    assert answer.status_code == 413 and answer.json()['status'] == 413
    assert app.post('/api/v1/recognize', files={'image': PNG_BOMB()}).status_code == 413


def PNG_BOMB():
    "A small PNG that asks for 40,000 × 40,000 pixels."
    import struct
    import zlib

    chunk = lambda kind, body: (
        struct.pack('>I', len(body)) + kind + body + struct.pack('>I', zlib.crc32(kind + body))
    )
    return (
        b'\x89PNG\r\n\x1a\n'
        + chunk(b'IHDR', struct.pack('>IIBBBBB', 40_000, 40_000, 8, 2, 0, 0, 0))
        + chunk(b'IDAT', zlib.compress(b'\0' * 1000))
        + chunk(b'IEND', b'')
    )


def mutated(data, rng):
    "A photo with some of its bytes changed, cut, doubled or swapped."
    data = bytearray(data)
    for _ in range(rng.randint(1, 6)):
        if len(data) < 20: break
        at, n = rng.randrange(len(data)), rng.randint(1, 200)
        kind = rng.randrange(6)
        if kind == 0: data[at] = rng.randrange(256)
        elif kind == 1: del data[at:at + n]
        elif kind == 2: data[at:at] = rng.randbytes(n)
        elif kind == 3: data[at:at + n] = bytes(n)
        elif kind == 4: data = data[:max(10, at)]
        else: data[2:min(len(data), 60)] = rng.randbytes(min(58, max(0, len(data) - 2)))
    return bytes(data)


def fuzz(client, photos, n, seed=0):
    "Statuses of `n` mutated uploads."
    rng, statuses = random.Random(seed), []
    for _ in range(n): statuses.append(recognize(client, mutated(rng.choice(photos), rng)).status_code)
    return statuses


def test_mutated_uploads_never_break_it(app, shop):
    import io
    image = shop.world.photo(shop.world.keys[0], 'front').resize((96, 128))
    photos = [to_jpeg(image)]
    for kind in ('PNG', 'WEBP'):
        buffer = io.BytesIO()
        image.save(buffer, kind)
        photos.append(buffer.getvalue())
    statuses = fuzz(app, photos, int(os.environ.get('UNDE_FUZZ', 100)))  # UNDE_FUZZ=10000 for the long run
    assert (
        set(statuses) <= {200, 413, 415, 422}
        and len(set(statuses)) > 1
        and app.get('/health/ready').status_code == 200
    )


def test_broken_bodies(app):
    post = lambda body, kind: (
        app.post('/api/v1/recognize', content=body, headers={'Content-Type': kind}).status_code
    )
    assert (
        post(b'{', 'application/json') == 400
        and post(b'[]', 'application/json') == 422
        and post(b'x', 'image/jpeg') == 415
        and post(b'{"url": "\\ud800"}', 'application/json') in (400, 422)
    )
    assert post(b'--x\r\nbroken', 'multipart/form-data; boundary=x') in (400, 422) and post(
        b'--x', 'multipart/form-data'
    ) in (400, 422)
    assert post(b'[' * 100_000, 'application/json') == 400 and post(
        b'--x\r\nContent-Disposition: form-data; name="user_id"\r\n\r\n\xff\xfe\r\n--x--\r\n',
        'multipart/form-data; boundary=x',
    ) in (400, 422)
    assert app.get('/api/v1/recognize').status_code == 405 and app.get('/nowhere').json()['status'] == 404


# --- the rest of the page

def test_malls_photos_samples_and_page(app, shop):
    assert app.get('/api/v1/malls').json() == {'malls': sorted(shop.world.mall_names)}
    key = shop.world.keys[0]
    photo = app.get(f'/api/v1/photos/{key.brand}/{key.external_id}', params={'size': 240})
    assert (
        photo.headers['content-type'] == 'image/jpeg'
        and 'max-age' in photo.headers['cache-control']
        and b'Exif' not in photo.content
        and len(photo.content) < 60_000
    )
    assert app.get(f'/api/v1/photos/{key.brand}/nobody').status_code == 404 and app.get(
        '/api/v1/photos/..%2F..%2Fetc/passwd'
    ).status_code in (404, 422)
    for sample in app.get('/api/v1/samples').json()['samples']:
        assert app.get(sample['url']).headers['content-type'] == 'image/jpeg'
    for path in ('/docs', '/health/live'):
        headers = app.get(path).headers
        assert (
            "default-src 'self'" in headers['content-security-policy']
            and headers['x-content-type-options'] == 'nosniff'
            and 'access-control-allow-origin' not in headers
        )
    assert (
        'server' not in app.get('/health/live').headers
        and app.get('/assets/../../settings.py').status_code == 404
    )


def test_other_ways_to_look(app, shop):
    key = shop.world.keys[0]
    found = app.post('/api/search-by-image', files={'image': shop.photo()}, params={'k': 5}).json()
    assert (
        found['success']
        and found['count'] == 5 == len(found['matches'])
        and found['matches'][0]['external_id'] == key.external_id
        and uuid.UUID(found['search_id'])
    )
    similar = app.get(f'/api/v1/similar-items/{key.brand}/{key.external_id}', params={'k': 6}).json()
    assert (
        similar['count'] == 6
        and all((m['brand'], m['external_id']) != tuple(key) for m in similar['matches'])
        and similar['matches'][0]['name']
    )
    scores = [m['score'] for m in similar['matches']]
    assert scores == sorted(scores, reverse=True) and similar['model_version'] == found['model_version']
    cut = app.get(f'/api/v1/similar-cut/{key.brand}/{key.external_id}').json()
    text = app.get('/api/v1/search', params={'q': 'a red dress'}).json()
    assert cut['count'] and cut['model_version'].startswith(found['model_version'] + ', colour')
    assert text['count'] and text['model_version'] == 'words'
    assert not text['unmatched']
    other = app.get('/api/v1/search', params={'q': 'a red spacesuit'}).json()
    assert other['unmatched'] == ['spacesuit'] and other['count']
    name = text['matches'][0]['name']
    typo = ' '.join(w[:2] + w[3] + w[2] + w[4:] if len(w) > 5 else w for w in name.lower().split())
    again = app.get('/api/v1/search', params={'q': typo}).json()
    assert again['matches'][0]['name'] == name and bool(again['corrected']) == (typo != name.lower())
    price = sorted(m['price'] for m in text['matches'])[len(text['matches'])//2]
    cheap = app.get('/api/v1/search', params={'q': f'a red dress up to {price} euro', 'k': 50}).json()
    assert cheap['count'] and all(m['price'] <= price for m in cheap['matches'])
    assert cheap['price_limit'] == {'low': None, 'high': price, 'currency': 'EUR', 'applied': True}
    dear = app.get(f'/api/v1/similar-items/{key.brand}/{key.external_id}',
                   params={'q': f'дороже {price} евро'}).json()
    assert all(m['price'] >= price for m in dear['matches']) and dear['price_limit']['low'] == price
    params = {'k': 6, 'q': 'in black'}
    also = app.get(f'/api/v1/similar-items/{key.brand}/{key.external_id}', params=params).json()
    assert also['count'] == 6 and also['model_version'].endswith('and words')
    for kind in ('items', 'cut'):
        assert app.get(f'/api/v1/similar-{kind}/{key.brand}/nobody').status_code == 404
    assert app.get(f'/api/v1/similar-items/{key.brand}/nobody').status_code == 404


def test_search_knows_a_mall_however_it_is_spelled(app):
    found = app.get('/api/v1/search', params={'q': 'dress', 'k': 50, 'mall': 'GALERIA  norte'}).json()
    here = [m for m in found['matches'] if m['in_mall']]
    assert here and all(m['stores'] for m in here)
    unknown = app.get('/api/v1/search', params={'q': 'dress', 'mall': 'Nowhere'})
    assert unknown.status_code == 422 and 'there are: Galería Norte' in unknown.json()['detail']


def test_words_are_read_in_whatever_letters_they_were_typed(app):
    first = app.get('/api/v1/search', params={'q': 'red dress'}).json()
    for typed in ('ｒｅｄ\u3000ｄｒｅｓｓ', 'red d\u200bress'):
        found = app.get('/api/v1/search', params={'q': typed}).json()
        assert found['count'] and found['matches'] == first['matches'] and not found['corrected']


def test_what_is_wanted_of_a_photo_is_never_left_out_in_silence(app, shop):
    send = lambda **how: app.post('/api/v1/recognize', files={'image': shop.photo()}, **how)
    asked = send(params={'user_mall': 'Galería Norte'})
    assert asked.status_code == 422 and 'user_mall stands in the address' in asked.json()['detail']
    (item,) = send(data={'boxes': '[[10, 20, 200, 300]]'}).json()['items']
    assert item['box'] == [10, 20, 200, 300]


def test_product_texts_have_a_say_where_they_are_given_one(shop):
    "The words of a product's description find it though no word search does; without the vendor it goes on."
    from unde_recog.jobs import texts
    from unde_recog.jobs.job import JobContext, run_job
    from unde_recog.sandbox.faults import Fault
    from unde_recog.sandbox.server import App, Sandbox
    with Sandbox(App(shop.world)) as box, shop.db() as db:
        paid = box.settings()
        how = JobContext(settings=shop.settings(**paid), db=db, options=texts.TextOptions(all=True))
        assert run_job(texts.JOB, how).coverage == 1
        query, version = {'q': 'zzyzx qwrtp', 'k': 5}, 'text-embedding-3-large-3072-p1'
        with shop.running(**paid) as (client, _):  # off by default
            assert client.get('/api/v1/search', params=query).json()['count'] == 0
        with shop.running(TEXT_VECTOR_WEIGHT=.4, **paid) as (client, _):
            told = client.get('/api/v1/search', params=query).json()
            assert told['count'] == 5 and told['model_version'] == f'{version} and words'
            assert all(m['name'] for m in told['matches'])
            box.app.faults.always('openai', Fault('server_error'))
            again = client.get('/api/v1/search', params=query).json()
            assert again == {**told, 'search_id': again['search_id']}  # the same words cost nothing twice
            other = client.get('/api/v1/search', params={'q': 'a red dress'}).json()
            assert other['count'] and other['model_version'] == 'words'


def test_similar_by_the_model_that_the_route_is_for(shop):
    """The index command's own job fills it; a model of three numbers, the mean colour, stands for
    DINO, whose weights are not here."""
    from types import SimpleNamespace

    from unde_recog.jobs.item_index import index_items

    class MeanColour:
        model_version, dims, card = 'dino-1', 3, SimpleNamespace(name='dino-vits16')
        def embed(self, images):
            means = np.stack([np.asarray(im.convert('RGB'), np.float32).mean((0, 1)) for im in images])
            return means/np.linalg.norm(means, axis=1, keepdims=True)
    keys = shop.world.keys[:4]
    with shop.db() as db:
        report = index_items(db, MeanColour(), storage=shop.storage)
        assert report.coverage == 1 and index_items(db, MeanColour(), storage=shop.storage).embedded == 0
        with db.connect('vectors') as conn:
            vectors = [
                (k, np.asarray(v.to_numpy(), np.float64))
                for *k, v in conn.execute(
                    "select brand, item_id, vector from item_embeddings where version = 'dino-1'"
                )
            ]
    with shop.running() as (client, _):
        result = client.get(f'/api/v1/similar-cut/{keys[0].brand}/{keys[0].external_id}').json()
        mine = [v for k, v in vectors if tuple(k) == tuple(keys[0])]
        best = {}
        for k, v in vectors:
            if tuple(k) != tuple(keys[0]):
                best[tuple(k)] = max(best.get(tuple(k), -1), *(float(m @ v) for m in mine))
        found = [(m['brand'], m['external_id']) for m in result['matches']]
        assert (
            result['model_version'] == 'dino-1'
            and found
            and np.allclose(
                [best[k] for k in found],
                sorted(best.values(), reverse=True)[: len(found)],
                atol=1e-5,
            )
        )
        # another likeness, another space
        assert client.get('/api/v1/similar-items/' + '/'.join(keys[0])).json()['model_version'] != 'dino-1'
    with shop.db() as db, db.connect('vectors') as conn:
        conn.execute(
            "delete from embedding_versions where version = 'dino-1'; delete from item_embeddings"
        )


# --- coming up, going down

def test_live_before_it_is_ready(shop, server_url):
    late_name = shop.name + '0'
    absent = sibling(server_url, late_name)
    with psycopg.connect(server_url, autocommit=True) as conn:
        conn.execute(f'drop database if exists {late_name} with (force)')
    with (
        Running(make_app(shop.settings(DATABASE_URL=absent))) as server,
        httpx.Client(base_url=server.url, timeout=30) as client,
    ):
        assert client.get('/health/live').status_code == 200
        ready = client.get('/health/ready')
        assert ready.status_code == 503 and ready.headers['retry-after'] and not ready.json()['ready']
        refused = recognize(client, shop.photo())
        assert (
            refused.status_code == 503
            and refused.headers['retry-after']
            and late_name not in refused.text
        )
        with psycopg.connect(server_url, autocommit=True) as conn:
            conn.execute(f'create database {late_name}')
        # the database is there, and empty
        eventually(
            lambda: (
                'indexed' in client.get('/health/ready').json()['reasons'].get('recognizer', '')
            ),
            30,
        )
        # what needs no model is served
        assert client.get('/api/v1/malls').json() == {'malls': []} and client.get(
            '/'
        ).status_code in (200, 404)
        assert 'nothing is indexed yet' in recognize(client, shop.photo()).json()['detail']
        with psycopg.connect(absent, autocommit=True) as late:  # somebody imports and indexes
            late.execute(
                'insert into embedding_versions (version, model, dims, status, completed_at) '
                "values ('classical-colour-shape-1+whole', 'classical-colour-shape', 512, 'complete', now())"
            )
        eventually(lambda: client.get('/health/ready').status_code == 200, 30)
        assert recognize(client, shop.photo()).json()['items'][0]['match_type'] == 'none'
    with psycopg.connect(server_url, autocommit=True) as conn:
        conn.execute(f'drop database if exists {late_name} with (force)')


def test_overload_is_refused_at_once(shop):
    slow = SlowBooster()
    with (
        shop.session(
            lambda p: replace(p, booster=slow),
            SEARCH_BACKEND='dual',
            REQUEST_DEADLINE='60s',
            MAX_CONCURRENT_REQUESTS=1,
        ) as session,
        shop.running(session=session, MAX_CONCURRENT_REQUESTS=1) as (client, _),
    ):
        answers = []
        one = threading.Thread(target=lambda: answers.append(recognize(client, shop.photo())))
        one.start()
        assert slow.entered.wait(10)
        refused = recognize(client, shop.photo())
        assert (
            refused.status_code == 503
            and refused.json()['type'].endswith('overloaded')
            and int(refused.headers['retry-after']) >= 1
        )
        assert (
            client.get('/health/live').status_code == 200
            and client.get('/health/ready').status_code == 200
        )
        slow.go.set()
        one.join(20)
        assert answers[0].status_code == 200
        assert 'unde_rejected_total{reason="overloaded"} 1.0' in client.get('/metrics').text


def test_many_at_once(shop):
    "Nobody is refused for a wait that is short of the deadline, and nobody gets another's answer."
    photos = [shop.photo(n) for n in range(6)]
    async def all_of_them(url):
        async with httpx.AsyncClient(base_url=url, timeout=120) as client:
            ask = lambda n: client.post('/api/v1/recognize', files={'image': photos[n % 6]})
            return await asyncio.gather(*(ask(n) for n in range(24)))

    with shop.running(REQUEST_DEADLINE='60s') as (client, server):
        answers = asyncio.run(all_of_them(client.base_url))
        admission = server.app.state.state.admission
        assert eventually(lambda: admission.inside == 0 or None) and not admission.usual.held
    for n, answer in enumerate(answers):
        assert answer.status_code == 200
        shown = answer.json()['items'][0]['matches'][0]['external_id']
        assert shown == shop.world.keys[n % 6].external_id


def test_numbers(app, shop):
    recognize(app, shop.photo(), user_mall=shop.mall)
    eventually(
        lambda: (
            'unde_http_requests_total{method="POST",route="/api/v1/recognize",status="200"}'
            in app.get('/metrics').text
        )
    )
    text = eventually(lambda: (t := app.get('/metrics').text) and 'unde_items_total' in t and t)
    for name in (
        'unde_step_seconds_bucket{le="0.1",step="search"}',
        'unde_gate_decisions_total',
        'unde_primary_top1_score_sum',
        'unde_loop_lag_seconds_count{loop="http"}',
        'unde_loop_lag_seconds_count{loop="recognizer"}',
        'unde_queue_waiting{queue="inference"} 0.0',
        'unde_log_rows_lost_total 0.0',
        'unde_ready 1.0',
        'unde_pool_waiting{pool="unde-',
        'unde_credits_total 0.0',
    ):
        assert name in text, name
    assert shop.mall not in text


def test_one_id_through_all_roles(shop):
    """The app's request id stands in its answer, its log row, its lines, and in the lines of the
    roles that it asked."""
    import logging
    from unde_recog.web.logs import JsonLines

    class Lines(logging.Handler):
        def __init__(self):
            super().__init__()
            self.kept = []
            self.setFormatter(JsonLines())
        # where it is said, with the id of that place
        def emit(self, record): self.kept.append(json.loads(self.format(record)))

    class Broken:
        name = 'ximilar'
        async def search(self, item, k, *, brands, timeout): raise ValueError('no')
    lines, logger = Lines(), logging.getLogger('unde_recog')
    level = logger.level
    logger.addHandler(lines)
    logger.setLevel(logging.INFO)
    try:
        with (
            shop.running('embedder') as (embedder, _),
            shop.running(EMBEDDER_URL=str(embedder.base_url)) as (client, server),
        ):
            recognizer = server.app.state.state.engine.session.recognizer
            recognizer.parts, recognizer.settings = (
                replace(recognizer.parts, booster=Broken()),
                shop.settings(SEARCH_BACKEND='dual'),
            )
            answer = recognize(client, shop.photo(), {'X-Request-ID': 'theirs-9'})
            rid = answer.json()['request_id']
    finally:
        logger.removeHandler(lines)
        logger.setLevel(level)
    assert answer.headers['x-request-id'] == rid and shop.log(
        'select 1 from recognition_requests where id = %s', rid
    )
    of = lambda **facts: [x for x in lines.kept if all(x.get(k) == v for k, v in facts.items())]
    assert (
        of(route='/embed', caller_id=rid)
        and of(route='/api/v1/recognize', request_id=rid, caller_id='theirs-9')
        and of(request_id=rid, message='ximilar_search left out: ValueError')
    )
    assert not any('storage:' in json.dumps(x) or 'user_id' in x for x in lines.kept)


def test_a_new_version_of_the_index_takes_over(shop):
    with shop.running() as (client, server):
        state = server.app.state.state
        before = state.engine.session.recognizer.parts.primary
        with shop.db() as db, db.connect('vectors') as conn:
            conn.execute(
                "insert into embedding_versions (version, model, dims, status, completed_at) "
                "values ('unknown-9', 'unknown', 512, 'complete', now())"
            )
        with pytest.raises(Exception, match="unknown"): load_once(state.engine)
        # it cannot be loaded: the old one goes on
        assert (
            recognize(client, shop.photo()).status_code == 200
            and state.engine.session.recognizer.parts.primary is before
        )
        with shop.db() as db, db.connect('vectors') as conn:
            conn.execute("delete from embedding_versions where version = 'unknown-9'")
        load_once(state.engine)


class AdmissionLimit:
    "A TCP admission to PostgreSQL's socket that can be shut, with everybody in it thrown out."
    def __init__(self, url):
        from psycopg.conninfo import conninfo_to_dict
        place = conninfo_to_dict(url)
        self.path, self.open, self.inside = f"{place['host']}/.s.PGSQL.{place.get('port', 5432)}", True, []
        self.listener = socket.create_server(('127.0.0.1', 0))
        host = f"{place.get('user', 'postgres')}@127.0.0.1:{self.listener.getsockname()[1]}"
        self.url = f"postgresql://{host}/{place['dbname']}?sslmode=disable&gssencmode=disable"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        while True:
            try: outer, _ = self.listener.accept()
            except OSError: return
            if not self.open:
                outer.close()
                continue
            inner = socket.socket(socket.AF_UNIX)
            inner.connect(self.path)
            self.inside += [outer, inner]
            for a, b in ((outer, inner), (inner, outer)):
                threading.Thread(target=self._pump, args=(a, b), daemon=True).start()

    @staticmethod
    def _pump(a, b):
        try:
            while data := a.recv(65536): b.sendall(data)
        except OSError: pass
        for s in (a, b):
            with contextlib.suppress(OSError): s.shutdown(socket.SHUT_RDWR)

    def shut(self):
        self.open, inside, self.inside = False, self.inside, []
        for s in inside:
            with contextlib.suppress(OSError): s.shutdown(socket.SHUT_RDWR)


def test_the_database_goes_away_and_comes_back(shop):
    "Nobody is restarted; no acknowledged answer is missing from the log; nobody is told anything wrong."
    admission = AdmissionLimit(shop.url)
    with shop.running(DATABASE_URL=admission.url) as (client, server):
        assert recognize(client, shop.photo(), user_mall=shop.mall).status_code == 200
        stop, answers = threading.Event(), []
        def load():
            with httpx.Client(base_url=server.url, timeout=60) as mine:
                while not stop.is_set(): answers.append(recognize(mine, shop.photo(), user_mall=shop.mall))
        clients = [threading.Thread(target=load) for _ in range(3)]
        for c in clients: c.start()
        time.sleep(.5)
        admission.shut()
        away = eventually(lambda: next((a for a in list(answers) if a.status_code != 200), None), 30)
        assert (
            away.status_code == 503
            and away.headers['retry-after']
            and client.get('/health/live').status_code == 200
        )
        assert client.get('/health/ready').status_code == 503
        admission.open = True
        eventually(lambda: client.get('/health/ready').status_code == 200, 30)
        seen = len(answers)
        eventually(lambda: any(a.status_code == 200 for a in answers[seen:]), 30)
        stop.set()
        for c in clients: c.join(30)
    assert {a.status_code for a in answers} <= {200, 503}
    good = [a.json() for a in answers if a.status_code == 200]
    assert all(
        g['items'][0]['matches'][0]['external_id'] == shop.world.keys[0].external_id
        for g in good
        if not g['degraded']
    )
    logged = {
        str(i)
        for (i,) in shop.log(
            'select id from recognition_requests where id = any(%s)',
            [uuid.UUID(g['request_id']) for g in good],
        )
    }
    assert logged == {g['request_id'] for g in good}  # rows waited for the database


def start_process(shop, port, **env):
    code = f"from unde_recog.serving import serve; serve(role='app', port={port})"
    environment = (
        {k: v for k, v in os.environ.items() if k != 'UNDE_SETTINGS'}
        | {'DATABASE_URL': shop.url, 'UNDE_DATA_DIR': str(shop.data), 'OMP_NUM_THREADS': '1'}
        | env
    )
    return subprocess.Popen(
        [sys.executable, '-c', code],
        env=environment,
        cwd=shop.folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def answers(client, path):
    try: return client.get(path).status_code == 200
    except httpx.TransportError: return False


def test_a_process_is_told_to_stop_and_killed(shop, workers=1):
    """SIGTERM: what was answered is logged. kill -9: the next one on the same port goes on, and a
    repeated photo is answered, not done twice."""
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = s.getsockname()[1]
    with httpx.Client(base_url=f'http://127.0.0.1:{port}', timeout=30) as client:
        one = start_process(shop, port, WORKERS=str(workers))
        eventually(lambda: answers(client, '/health/ready'), 60)
        key = {'Idempotency-Key': uuid.uuid4().hex}
        result = [recognize(client, shop.photo(n % 3), key if n == 0 else None).json() for n in range(6)]
        one.terminate()
        lines = one.communicate(timeout=60)[1].splitlines()
        assert (
            len(
                shop.log(
                    'select 1 from recognition_requests where id = any(%s)',
                    [uuid.UUID(t['request_id']) for t in result],
                )
            )
            == 6
        )
        assert any(
            json.loads(x).get('request_id') == result[0]['request_id']
            for x in lines
            if x.startswith('{"time"')
        )
        two = start_process(shop, port, WORKERS=str(workers))
        eventually(lambda: answers(client, '/health/ready'), 60)
        assert recognize(client, shop.photo(0), key).json() == result[0]
        for child in psutil.Process(two.pid).children(recursive=True): child.kill()
        two.kill()
        two.communicate()
        three = start_process(shop, port)
        eventually(lambda: answers(client, '/health/ready'), 60)
        assert (
            recognize(client, shop.photo(0), key).json() == result[0]
            and recognize(client, shop.photo(1)).status_code == 200
        )
        three.terminate()
        three.communicate(timeout=60)


# --- whose it is

def test_forget_and_purge(app, shop):
    from unde_recog.web.privacy import forget, purge
    key = {'Idempotency-Key': uuid.uuid4().hex}
    result = recognize(app, shop.photo(), key, user_id='leaving').json()
    other = recognize(app, shop.photo(), user_id='staying').json()
    eventually(
        lambda: (
            len(
                shop.log(
                    'select 1 from recognition_requests where id = any(%s)',
                    [uuid.UUID(result['request_id']), uuid.UUID(other['request_id'])],
                )
            )
            == 2
        )
    )
    with shop.db() as db:
        assert forget(db, 'leaving') == 1
        assert shop.log(
            'select count(*) from recognition_requests where user_id = %s', 'leaving'
        ) == [(0,)] and shop.log(
            "select count(*) from paid_answers where value::text like %s", f"%{result['request_id']}%"
        ) == [(0,)]
        assert app.get(f"/api/v1/requests/{other['request_id']}").status_code == 200
        shop.log(
            "update recognition_requests set created_at = now() - interval '91 days' where id = "
            "%s returning 1",
            other['request_id'],
        )
        assert purge(db, shop.settings()).requests >= 1
        assert shop.log(
            'select user_id from recognition_requests where id = %s', other['request_id']
        ) == [(None,)]
        with pytest.raises(ValueError, match='empty'): forget(db, '')


def test_photos_are_kept_of_those_who_agree_and_go_with_the_request(shop, tmp_path):
    "A share of uploads, small and without EXIF; shown in the lab; gone when the shopper says so."
    from unde_recog.web.privacy import UPLOADS, purge
    file = tmp_path/'keys.json'
    add_key(file, 'page')
    lab = {'Authorization': f"Bearer {add_key(file, 'science', ('recognize', 'lab'))}"}
    kept = lambda: list(shop.storage.list(UPLOADS))
    with shop.running(API_KEYS_FILE=file, PUBLIC_PAGE=True, PHOTO_SAMPLE=1) as (client, _):
        client.get('/')
        assert client.get('/api/v1/me').json()['sample']
        assert recognize(client, shop.photo()).status_code == 200 and kept() == []
        rid = recognize(client, shop.photo(), keep_photo='true').json()['request_id']
        (key,) = kept()
        assert rid in key
        assert eventually(lambda: client.get(f'/api/v1/requests/{rid}/photo', headers=lab).status_code == 200)
        listed = client.put(f'/api/v1/requests/{rid}/labelling', json={}, headers=lab)
        assert listed.status_code == 204
        found = client.get('/api/v1/requests', params={'listed': 'true'}, headers=lab).json()['requests']
        assert [r['request_id'] for r in found] == [rid] and found[0]['has_photo']
        assert client.delete('/api/v1/me').json()['requests'] == 2 and kept() == []
        assert shop.log('select count(*) from labelling_list') == [(0,)]
        recognize(client, shop.photo(), keep_photo='true')
    with shop.db() as db:
        later = datetime.now(timezone.utc) + timedelta(days=95)
        assert purge(db, shop.settings(), now=later).photos == 1 and kept() == []


def test_the_service_weighs_categories(app, shop):
    "The primary that it opens has the table of evidence, as `open_recognizer`'s has."
    with shop.running() as (_, server):
        primary = server.app.state.state.engine.session.recognizer.parts.primary
        assert primary.evidence


def test_the_lab_finds_what_went_wrong(app, shop):
    "By day, mall, kind, what was left out, confident and wrong; the same as CSV."
    answer = recognize(app, shop.photo(), user_mall=shop.mall).json()
    rid = answer['request_id']
    eventually(lambda: shop.log('select 1 from recognition_requests where id = %s', rid))
    shop.log('update recognition_items set gate_confident = true where request_id = %s returning 1', rid)
    found = lambda wanted: app.get('/api/v1/requests', params=wanted).json()['requests']
    ask = lambda **wanted: [r['request_id'] for r in found(wanted)]
    assert rid in ask(mall=shop.mall) and rid not in ask(mall=shop.mall, wrong='true')
    said = {'item_index': 0, 'brand': 'somebody', 'external_id': 'else'}
    assert app.post(f'/api/v1/requests/{rid}/feedback', json=said).status_code == 204
    kind = answer['items'][0]['match_type']
    today = datetime.now(timezone.utc).date()
    assert rid in ask(mall=shop.mall, wrong='true', match_type=kind, day=str(today))
    assert rid not in ask(day=str(today - timedelta(days=1)))
    sheet = app.get('/api/v1/requests.csv', params={'mall': shop.mall, 'wrong': 'true'})
    assert sheet.headers['content-type'].startswith('text/csv') and rid in sheet.text
    assert app.get('/api/v1/requests', params={'day': 'yesterday'}).status_code == 422


def test_uploads_leave_nothing_behind(app, shop):
    from PIL import Image
    import io
    exif = Image.Exif()
    exif[0x010f], exif[0x8825] = 'planted-camera', {1: 'N', 2: (59., 54., 30.)}
    buffer = io.BytesIO()
    shop.world.photo(shop.world.keys[0], 'front').save(buffer, 'JPEG', exif=exif)
    assert b'planted-camera' in buffer.getvalue()
    rid = recognize(app, buffer.getvalue()).json()['request_id']
    eventually(lambda: shop.log('select 1 from recognition_requests where id = %s', rid))
    kept = [p for p in shop.data.rglob('*') if p.is_file() and p.stat().st_mtime > time.time() - 5]
    # the journal, where log rows wait for the database, and what signs the shoppers' sessions
    assert all(p.suffix == '.journal' or p.name == 'shopper_secret' for p in kept), kept
    assert not any(b'planted-camera' in p.read_bytes() for p in kept)
    with shop.running('gateway') as (client, _):
        assert (
            b'planted-camera'
            not in client.get(
                client.post('/detect', files={'image': buffer.getvalue()}).json()['items'][0][
                    'crop_url'
                ]
            ).content
        )


def test_blur_without_a_detector_sends_nothing(shop, vendors):
    before = dict(vendors.app.calls)
    with shop.running(BLUR_FACES=True, **vendors.settings()) as (client, _):
        assert recognize(client, shop.photo()).status_code == 200 and client.get('/health').json()[
            'parts'
        ] == ['detector']
    assert dict(vendors.app.calls) == before


# --- who may ask

def test_a_broken_key_file_keeps_the_last_good_keys(shop, tmp_path):
    "Whoever had a key keeps it; who watches hears of it; a mended file holds again."
    file = tmp_path/'keys.json'
    key, watcher = add_key(file, 'page'), add_key(file, 'watch', ['metrics'])
    with shop.running(API_KEYS_FILE=file) as (client, server):
        server.app.state.state.keys.file.reread = 0
        bearer = lambda k: {'Authorization': f'Bearer {k}'}
        good = file.read_text()
        for broken in ('{"keys": [', ''):
            file.write_text(broken)
            assert recognize(client, shop.photo(), bearer(key)).status_code == 200
            health = client.get('/health')
            assert health.status_code == 503 and 'last good keys' in health.json()['reasons']['keys']
            assert 'unde_ready 0.0' in client.get('/metrics', headers=bearer(watcher)).text
        file.unlink()
        assert recognize(client, shop.photo(), bearer(key)).status_code == 200
        assert 'is gone' in client.get('/health').json()['reasons']['keys']
        file.write_text(good)
        assert client.get('/health').status_code == 200
        assert 'unde_ready 1.0' in client.get('/metrics', headers=bearer(watcher)).text


def test_what_stands_in_front_of_it(shop):
    "Proxies look with HEAD, rewrite Host, and serve it under a path; texts travel compressed."
    with shop.running(ROOT_PATH='/look') as (client, _):
        for path in ('/', '/health', '/assets/app.js', '/api/v1/samples'):
            head, got = client.head(path), client.get(path)
            assert head.status_code == got.status_code == 200 and head.content == b'', path
            # a proxy takes the path away, or passes it on
            assert client.get('/look' + path).status_code == 200
        counted = client.get('/metrics').text
        assert 'unde_http_requests_total{method="HEAD",route="/",status="200"}' in counted
        assert client.get('/looking').status_code == 404
        script = client.get('/assets/app.js', headers={'Accept-Encoding': 'gzip'})
        assert script.headers['content-encoding'] == 'gzip' and script.headers['cache-control'] == 'no-cache'
        again = client.get('/assets/app.js', headers={'If-None-Match': script.headers['etag']})
        assert again.status_code == 304
        assert client.get('/openapi.json').json()['servers'] == [{'url': '/look'}]
        key = shop.world.keys[0]
        picture = client.get(f'/api/v1/photos/{key.brand}/{key.external_id}')
        assert 'content-encoding' not in picture.headers or picture.headers['content-encoding'] != 'gzip'
        # a proxy has rewritten Host: the browser's own word counts, else what the proxy says it was
        origin = {'Origin': 'https://look.example'}
        ask = lambda **more: recognize(client, shop.photo(), origin | more).status_code
        assert ask() == 403 and ask(**{'X-Forwarded-Host': 'look.example'}) == 200
        site = lambda word: ask(**{'Sec-Fetch-Site': word})
        assert site('same-origin') == 200 and site('cross-site') == 403


def test_a_share_of_photos_asks_the_booster(shop):
    "BOOSTER_SHARE by a stable hash: nobody, all, or about half, and each photo always on its side; logged."
    asked = []

    class Booster:
        name = 'ximilar'
        async def search(self, item, k, *, brands, timeout):
            asked.append(1)
            return []
    photos = [shop.photo(n, view) for n in range(10) for view in ('front', 'on_model')]
    took = {}
    for share in (0., .5, 1.):
        how = {'SEARCH_BACKEND': 'dual', 'BOOSTER_SHARE': share}
        with (
            shop.session(lambda p: replace(p, booster=Booster()), **how) as session,
            shop.running(session=session) as (client, _),
        ):
            sides = []
            for photo in photos*2 if share == .5 else photos[:4]:
                asked.clear()
                rid = recognize(client, photo).json()['request_id']
                sides.append(bool(asked))
            took[share] = sides
            logged = eventually(lambda rid=rid: shop.log(
                'select settings from recognition_items where request_id = %s', rid))
            assert logged[0][0]['BOOSTER_SHARE'] == share and logged[0][0]['in_booster_share'] == sides[-1]
    assert not any(took[0.]) and all(took[1.])
    first, second = took[.5][:len(photos)], took[.5][len(photos):]
    assert 3 <= sum(first) <= 17 and first == second


def test_a_large_photo_does_not_keep_the_others_out(shop):
    "Forty million pixels in a small PNG are refused by their header; a phone's JPEG is made small at once."
    import io
    from PIL import Image
    wide = io.BytesIO()
    Image.new('L', (6400, 6250)).save(wide, 'PNG')
    with shop.running() as (client, _):
        refused = recognize(client, wide.getvalue())
        assert refused.status_code == 413 and refused.json()['type'].endswith('too_many_pixels')
        assert 'unde_pixels_in_flight 0.0' in client.get('/metrics').text


def test_boxes_are_in_pixels_of_the_photo_that_was_sent(shop, app):
    "However small it is decoded: in events, in the answer, in the log, and for boxes that are given."
    import io
    from PIL import Image
    small = shop.world.photo(shop.world.keys[0], 'front')
    large = io.BytesIO()
    small.resize((3000, 4000)).save(large, 'JPEG', quality=90)
    box = [600, 800, 2400, 3600]
    given = {'boxes': json.dumps([{'box': box, 'category': 'top'}])}
    answer = recognize(app, large.getvalue(), **given).json()
    assert np.abs(np.subtract(answer['items'][0]['box'], box)).max() <= 2
    (logged,) = eventually(lambda: shop.log(
        'select i.box, r.photo_width, r.photo_height from recognition_items i '
        'join recognition_requests r on r.id = i.request_id where r.id = %s', answer['request_id']))
    assert logged[0] == answer['items'][0]['box'] and logged[1:] == (3000, 4000)
    outside = json.dumps([{'box': [2999, 3999, 3200, 4200]}])
    assert recognize(app, large.getvalue(), boxes=outside).status_code in (200, 422)
    beyond = json.dumps([{'box': [3001, 0, 3200, 900]}])
    assert recognize(app, large.getvalue(), boxes=beyond).status_code == 422
    accept = {'Accept': 'text/event-stream'}
    how = {'files': {'image': large.getvalue()}, 'headers': accept}
    with app.stream('POST', '/api/v1/recognize', **how) as stream: happened = dict(events(stream))
    assert (happened['detected']['width'], happened['detected']['height']) == (3000, 4000)
    assert happened['detected']['items'][0]['box'] == happened['result']['items'][0]['box']
    assert happened['result']['items'][0]['box'][3] > 2000  # not those of the small one


def test_shoppers_without_a_key(shop, tmp_path):
    "A session each by the page's cookie: photos and pictures, no lab; what is theirs goes at a word."
    file = tmp_path/'keys.json'
    add_key(file, 'page')
    with shop.running(API_KEYS_FILE=file, PUBLIC_PAGE=True) as (client, server):
        url = str(client.base_url)
        assert recognize(client, shop.photo()).status_code == 401  # nobody has been to the page
        people = [httpx.Client(base_url=url, timeout=30) for _ in range(5)]
        for person in people:
            cookie = person.get('/').headers['set-cookie']
            assert 'HttpOnly' in cookie and 'samesite=lax' in cookie.lower()
            assert 'set-cookie' not in person.get('/').headers  # one session each
        assert len({p.cookies['unde_shopper'] for p in people}) == 5
        picture = f"/api/v1/photos/{'/'.join(shop.world.keys[0])}"
        statuses, rids = [], {}
        for person in people:
            for n in range(2):
                answer = recognize(person, shop.photo(n), user_id='somebody-else')
                statuses.append(answer.status_code)
                rids.setdefault(person, []).append(answer.json()['request_id'])
            statuses += [person.get(picture).status_code for _ in range(33)]
        assert set(statuses) == {200}  # of 340 requests none is refused
        ann, bob = people[:2]
        for path in ('/api/v1/requests', f'/api/v1/requests/{rids[ann][0]}', '/metrics'):
            assert ann.get(path).status_code in (401, 403), path
        assert ann.get('/api/v1/me').json() == {'shopper': True, 'days': 90, 'sample': False}
        sessions = "select user_id from recognition_requests where user_id like 'shopper:%%'"
        users = lambda: {u for (u,) in shop.log(sessions)}
        eventually(lambda: len(users()) == 5)
        assert ann.delete('/api/v1/me').json() == {'requests': 2} and len(users()) == 4
        assert ann.delete('/api/v1/me', headers={'Sec-Fetch-Site': 'cross-site'}).status_code == 403
        forged = {'unde_shopper': bob.cookies['unde_shopper'][:-4] + '0000'}
        assert httpx.get(url + '/api/v1/malls', cookies=forged).status_code == 401
        refused = [bob.post('/api/v1/recognize', content=b'?').status_code for _ in range(30)]
        assert 429 in refused and recognize(people[2], shop.photo()).status_code == 200
        for person in people: person.close()
    with shop.running(API_KEYS_FILE=file) as (client, _):
        assert 'set-cookie' not in client.get('/').headers  # the page is not public unless it is said so


def test_a_disk_that_takes_nothing_is_heard_of(shop, tmp_path):
    "A row that cannot be kept on disk loses nobody an answer, and is counted for the alert."
    with shop.running(UNDE_DATA_DIR=tmp_path/'own') as (client, server):
        journal = server.app.state.state.engine.session.recognizer.log.journal

        def full(*args): raise OSError(28, 'No space left on device')
        journal.keep = full
        assert recognize(client, shop.photo()).status_code == 200
        numbers = lambda: client.get('/metrics').text
        text = eventually(lambda: (t := numbers()) and 'unkept_total 0.0' not in t and t)
        unkept = [line for line in text.splitlines() if line.startswith('unde_log_rows_unkept_total')]
        assert float(unkept[0].split()[1]) >= 1
        assert 'unde_log_rows_lost_total 0.0' in text and 'unde_disk_free_bytes' in text


def test_guessed_keys_are_slowed_down_and_named(shop, tmp_path):
    "Some wrong keys, then 429 even for the next wrong one; the right key still works."
    file = tmp_path/'keys.json'
    key = add_key(file, 'page')
    with shop.running(API_KEYS_FILE=file) as (client, _):
        ask = lambda k: client.get('/api/v1/malls', headers={'X-API-Key': k})
        statuses = [ask(f'unde_guess-{n}').status_code for n in range(14)]
        assert statuses[:10] == [401]*10 and set(statuses[10:]) == {429}
        assert ask('unde_another').headers['retry-after'] and ask(key).status_code == 200


def test_a_keys_limit_is_that_of_all_processes(shop, tmp_path):
    "Two applications over one database stand for two processes: together they answer what one may ask."
    file = tmp_path/'keys.json'
    key = add_key(file, 'page', per_minute=30)  # five at once in each of them
    with shop.running(API_KEYS_FILE=file) as (one, _), shop.running(API_KEYS_FILE=file) as (two, _):
        bearer = {'Authorization': f'Bearer {key}'}
        statuses = [recognize(c, shop.photo(), bearer).status_code for c in (one, two)*4]
        assert statuses.count(200) >= 8
        picture = f"/api/v1/photos/{'/'.join(shop.world.keys[0])}"
        pictures = [one.get(picture, headers=bearer) for _ in range(40)]
        assert {p.status_code for p in pictures} == {200}  # pictures are not counted
        with psycopg.connect(shop.url, autocommit=True) as conn:
            conn.execute("update unde_counters set count = 30 where key = 'page'")
        refused = recognize(two, shop.photo(), bearer)
        assert refused.status_code == 429 and 0 < int(refused.headers['retry-after']) <= 60


def test_a_shoppers_limits_are_those_of_all_processes(shop, tmp_path):
    "Sessions are cheap: an address, and all shoppers, are counted by two applications together."
    file = tmp_path/'keys.json'
    add_key(file, 'page')
    public = {'API_KEYS_FILE': file, 'PUBLIC_PAGE': True}
    with shop.running(**public) as (one, _), shop.running(**public) as (two, _):
        for client in (one, two):
            client.get('/')
            assert recognize(client, shop.photo()).status_code == 200
        def with_count(full, counted):
            shop.log("update unde_counters set count = %s where key like %s returning 1", full, counted)
            two.cookies.clear()
            two.get('/')  # a new session gains nothing
            return recognize(two, shop.photo())
        for counted, full in (('client %', 60), ('all shoppers', 600)):
            refused = with_count(full, counted)
            if refused.status_code == 200: refused = with_count(full, counted)  # a minute ended in between
            assert refused.status_code == 429 and 0 < int(refused.headers['retry-after']) <= 60
            shop.log("update unde_counters set count = 0 where key like %s returning 1", counted)


def test_guesses_are_counted_by_all_processes(shop, tmp_path):
    "What one application has seen of an address, the other one takes into account; the right key works."
    file = tmp_path/'keys.json'
    key = add_key(file, 'page')
    ask = lambda client, k: client.get('/api/v1/malls', headers={'X-API-Key': k})
    counted = "select coalesce(max(count), 0) from unde_counters where key like 'guess %%'"
    with shop.running(API_KEYS_FILE=file) as (one, _), shop.running(API_KEYS_FILE=file) as (two, _):
        shop.log("delete from unde_counters where key like 'guess %%' returning 1")
        assert [ask(one, f'unde_guess-{n}').status_code for n in range(10)] == [401]*10
        assert eventually(lambda: shop.log(counted)[0][0] == 10)
        # ten more by a third one
        shop.log("update unde_counters set count = 20 where key like 'guess %%' returning 1")
        assert ask(two, 'unde_guess').status_code == 401  # its first, by which it hears of the others
        assert eventually(lambda: ask(two, 'unde_guess').status_code == 429)
        assert shop.log(counted)[0][0] < 25 and ask(two, key).status_code == 200
        # nor does it follow those who guess next
        shop.log("delete from unde_counters where key like 'guess %%' returning 1")


def test_who_deletes_everything_while_a_photo_is_looked_at(shop, tmp_path):
    "The row, the photo kept of it and the answer kept for a retry are not written afterwards."
    from unde_recog.web.privacy import UPLOADS
    file = tmp_path/'keys.json'
    add_key(file, 'page')
    public = {'API_KEYS_FILE': file, 'PUBLIC_PAGE': True, 'PHOTO_SAMPLE': 1, 'REQUEST_DEADLINE': '60s'}
    entered, go = threading.Event(), threading.Event()
    with shop.running(**public) as (client, server):
        recognizer = server.app.state.state.engine.session.recognizer
        inner = recognizer.recognize

        async def slow(photo, **how):
            entered.set()
            while not go.is_set(): await asyncio.sleep(.01)
            return await inner(photo, **how)
        recognizer.recognize = slow
        client.get('/')
        found = {}

        def ask():
            answer = recognize(client, shop.photo(), {'Idempotency-Key': 'one'}, keep_photo='true')
            found['answer'] = answer
        asking = threading.Thread(target=ask)
        asking.start()
        assert entered.wait(10) and len(list(shop.storage.list(UPLOADS))) == 1
        assert client.delete('/api/v1/me').json() == {'requests': 0}
        go.set()
        asking.join(20)
        rid = found['answer'].json()['request_id']
        assert found['answer'].status_code == 200  # who asked gets an answer
        later = recognize(client, shop.photo(), keep_photo='true').json()['request_id']
        row = 'select user_id is not null from recognition_requests where id = %s'
        assert eventually(lambda: shop.log(row, later)) == [(True,)]  # what is asked afterwards is logged
        assert shop.log(row, rid) == []
        (kept,) = shop.storage.list(UPLOADS)
        assert later in kept
        assert shop.log("select 1 from paid_answers where value #>> '{answer,request_id}' = %s", rid) == []
        assert client.delete('/api/v1/me').json() == {'requests': 1}


def test_purge_clears_marks_and_photos_that_nobody_names(shop):
    "What a killed process left of a photo goes after a day; marks when nothing can come any more."
    from unde_recog.request_log import ItemRow, RequestRow, person_mark, write_request
    from unde_recog.web.privacy import forget, purge, upload_key
    now = datetime.now(timezone.utc)
    before = now - timedelta(days=3)
    orphan, named, fresh = (upload_key(uuid.uuid4(), day.date()) for day in (before, before, now))
    for key in (orphan, named, fresh): shop.storage.put(key, b'...')
    item = ItemRow(item_index=0, category='top', box=[0, 0, 9, 9], model_version='v', credits=15)
    rows = [RequestRow(id=uuid.uuid4(), user_id='zoe', items=[item], photo_url=f'storage:{named}')
            for _ in range(2)]
    marks = 'select count(*) from forgotten_people where person = %s'
    with shop.db() as db:
        with db.connect('log') as conn: write_request(conn, rows[0])
        assert purge(db, shop.settings(), now=now).photos == 1
        assert [shop.storage.exists(key) for key in (orphan, named, fresh)] == [False, True, True]
        assert forget(db, 'zoe', shop.settings()) == 1 and not shop.storage.exists(named)
        with db.connect('log') as conn: assert write_request(conn, rows[1])  # its cost, and nothing else
        left = shop.log("select r.user_id, r.photo_url, i.credits, i.category from recognition_requests r "
                        "join recognition_items i on i.request_id = r.id where r.id = %s", rows[1].id)
        assert left == [(None, None, 15, 'other')] and shop.log(marks, person_mark('zoe')) == [(1,)]
        purge(db, shop.settings(), now=now + timedelta(days=95))
        assert shop.log(marks, person_mark('zoe')) == [(0,)]


def test_two_worker_processes_are_one_service(shop, tmp_path):
    "Whichever process answers, the numbers are those of both; a process that died is not counted on."
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = s.getsockname()[1]
    env = {k: v for k, v in os.environ.items() if k != 'UNDE_SETTINGS'} | {
        'DATABASE_URL': shop.url, 'UNDE_DATA_DIR': str(shop.data), 'WORKERS': '2', 'OMP_NUM_THREADS': '1',
    }
    code = f'from unde_recog.serving import serve\nif __name__ == "__main__": serve(port={port})'
    (tmp_path/'go.py').write_text(code)
    command = [sys.executable, str(tmp_path/'go.py')]
    process = subprocess.Popen(command, env=env, cwd=tmp_path, stderr=subprocess.DEVNULL)
    try:
        url = f'http://127.0.0.1:{port}'
        def says(path):
            try: return httpx.get(url + path, timeout=10)
            except httpx.TransportError: return None
        value = lambda name: next((float(line.split()[-1]) for line in says('/metrics').text.splitlines()
                                   if line.startswith(name)), 0.)
        eventually(lambda: (r := says('/metrics')) and '\nunde_ready 1.0' in r.text, 90)
        for n in range(12):
            photo = {'image': shop.photo(n % 3)}
            ask = lambda photo=photo: httpx.post(url + '/api/v1/recognize', files=photo, timeout=60)
            eventually(lambda: ask().status_code == 200, 60)  # one of the two may still be coming up
        answered = 'unde_http_requests_total{method="POST",route="/api/v1/recognize",status="200"}'
        eventually(lambda: all(value(answered) == 12 for _ in range(6)), 20)  # new connections: any process
        eventually(lambda: value('unde_log_rows_written_total') == 12, 20)
        eventually(lambda: '\nunde_ready 1.0' in says('/metrics').text, 60)  # now both are
        # what both read is told once, not added up: the alert on scores compares with it
        with shop.running() as (client, _):
            alone = next(line for line in client.get('/metrics').text.splitlines()
                         if line.startswith('unde_primary_score_limit '))
        assert value('unde_primary_score_limit') == float(alone.split()[-1]) > 0
    finally:
        process.terminate()
        process.wait(40)


def test_keys(shop, tmp_path):
    file = tmp_path/'keys.json'
    phone, lab, greedy = (
        add_key(file, 'phone'),
        add_key(file, 'lab', ['recognize', 'lab', 'metrics']),
        add_key(file, 'greedy', per_minute=6),
    )
    with shop.running(API_KEYS_FILE=file) as (client, server):
        bearer = lambda key: {'Authorization': f'Bearer {key}'}
        assert recognize(client, shop.photo()).status_code == 401 and recognize(
            client, shop.photo(), bearer('unde_wrong')
        ).json()['type'].endswith('no_key')
        rid = recognize(client, shop.photo(), bearer(phone)).json()['request_id']
        assert (
            client.get(f'/api/v1/requests/{rid}', headers=bearer(phone)).status_code == 403
            and client.get(f'/api/v1/requests/{rid}', headers={'X-API-Key': lab}).status_code == 200
        )
        assert (
            client.get('/metrics').status_code == 401
            and client.get('/metrics', headers=bearer(lab)).status_code == 200
            and client.get('/health/live').status_code == 200
        )
        statuses = [client.get('/api/v1/malls', headers=bearer(greedy)).status_code for _ in range(4)]
        assert (
            statuses[0] == 200
            and statuses[-1] == 429
            and client.get('/api/v1/malls', headers=bearer(greedy)).headers['retry-after']
        )
        remove_key(file, 'phone')
        server.app.state.state.keys.file.reread = 0
        assert recognize(client, shop.photo(), bearer(phone)).status_code == 401
        # refused before the photo was read, and still told why
        assert recognize(client, b'x'*8_000_000).status_code == 401
        client.get('/api/v1/malls', headers=bearer(lab))


def test_without_keys_only_this_machine(app, shop):
    assert recognize(app, shop.photo(), {'Host': 'evil.example'}).status_code == 403
    assert (
        recognize(app, shop.photo(), {'Sec-Fetch-Site': 'cross-site'}).status_code == 403
        and recognize(app, shop.photo(), {'Origin': 'https://evil.example'}).status_code == 403
    )
    assert (
        recognize(
            app,
            shop.photo(),
            {'Origin': str(app.base_url).rstrip('/'), 'Sec-Fetch-Site': 'same-origin'},
        ).status_code
        == 200
    )


def test_no_secret_and_no_path_in_what_is_told(shop):
    with (
        Running(
            make_app(
                shop.settings(
                    DATABASE_URL='postgresql://unde:planted-secret@127.0.0.1:1/planted_db'
                )
            )
        ) as server,
        httpx.Client(base_url=server.url, timeout=30) as client,
    ):
        texts = [
            client.get(p).text
            for p in (
                '/health',
                '/health/ready',
                '/api/v1/malls',
                '/metrics',
                '/openapi.json',
                '/docs',
            )
        ] + [recognize(client, shop.photo()).text]
        time.sleep(.3)
        texts += [client.get('/health').text, client.get('/api/v1/malls').text]
    for text in texts:
        assert 'planted' not in text and str(shop.data) not in text and '127.0.0.1:1' not in text


# --- every role by its own description

@pytest.mark.parametrize('role', ROLES)
def test_openapi_of_every_role(role, shop):
    spec = make_app(shop.settings(), role=role).openapi()
    ids = [op['operationId'] for methods in spec['paths'].values() for op in methods.values()]
    assert (
        len(ids) == len(set(ids))
        and '/health' in spec['paths']
        and '/metrics' in spec['paths']
        and 'ProblemDetails' in spec['components']['schemas']
    )
    for path, methods in spec['paths'].items():
        for op in methods.values(): assert op.get('summary'), path


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('role', ROLES)
def test_every_role_keeps_its_description(role, shop):
    """schemathesis: whatever fits the OpenAPI description, and what does not, gets an answer that
    the description knows."""
    schemathesis = pytest.importorskip('schemathesis')
    from hypothesis import HealthCheck, Phase, given
    from hypothesis import settings as examples
    from schemathesis.checks import not_a_server_error
    from schemathesis.specs.openapi.checks import (
        ensure_resource_availability,
        positive_data_acceptance,
        use_after_free,
    )

    asked = 0
    with shop.running(role) as (client, _):
        schema = schemathesis.openapi.from_url(f'{client.base_url}/openapi.json')
        for found in schema.get_all_operations():
            operation = found.ok()
            for mode in schemathesis.GenerationMode:
                try: strategy = operation.as_strategy(generation_mode=mode)
                except Exception: continue  # nothing in this operation can be wrong
                @given(case=strategy)
                @examples(
                    max_examples=1 if role == 'all' else 2,
                    deadline=None,
                    database=None,
                    derandomize=True,
                    phases=[Phase.explicit, Phase.generate],
                    suppress_health_check=list(HealthCheck),
                )
                def one(case):
                    nonlocal asked
                    asked += 1
                    answer = case.call(timeout=120)
                    assert answer.status_code < 500 or (
                        answer.status_code == 503
                        and answer.headers['retry-after']
                        and answer.json()['detail']
                    ), (case.path, answer.text)
                    case.validate_response(
                        answer,
                        excluded_checks=[
                            not_a_server_error,
                            positive_data_acceptance,
                            ensure_resource_availability,
                            use_after_free,
                        ],
                    )

                try: one()
                except schemathesis.errors.InvalidSchema: raise
                except Exception as e:
                    if type(e).__name__ in ('Unsatisfiable', 'SkipTest', 'Skipped'): continue
                    raise
    assert asked > 5


# --- every step a process of its own

@pytest.fixture(scope='module')
def vendors(shop):
    "The vendors' simulation, which knows the shop's photos and one scene."
    from unde_recog.sandbox.server import App, Sandbox
    from unde_recog.wardrobe.world import Truth
    truth = Truth()
    truth.add_scene(shop.world.scene(2))
    for key in shop.world.keys:
        for view in ('on_model', 'front'):
            truth.add_photo(
                (shop.folder / 'images' / key.brand / key.external_id / f'{view}.jpg').read_bytes(),
                key,
            )
    with Sandbox(App(shop.world, truth)) as box:
        reply = httpx.post(
            box.url + '/similarity/fashion-new/v2/insert',
            json={'records': []},
            headers={'Authorization': 'Token sandbox', 'collection-id': 'sandbox'},
        )
        assert reply.status_code == 200
        yield box


def test_roles_over_http_answer_as_one_process_does(shop, vendors):
    scene, usual = (
        shop.world.scene(2),
        vendors.settings()
        | {'SEARCH_BACKEND': 'dual', 'TAGGING_MODE': 'always', 'REQUEST_DEADLINE': '20s'},
    )
    forget = lambda: shop.log("delete from paid_answers where kind <> 'answer' returning 1")
    forget()
    with shop.running(**usual) as (client, _): alone = recognize(client, scene.data).json()
    forget()
    with (
        shop.running('embedder') as (embedder, _),
        shop.running('gateway', **usual) as (gateway, _),
        shop.running('reranker', **usual) as (reranker, _),
    ):
        assert gateway.get('/health').json()['parts'] == [
            'detector',
            'booster',
            'tagger',
            'context_tagger',
            'reranker',
        ]
        urls = {
            'EMBEDDER_URL': str(embedder.base_url),
            'XIMILAR_GW_URL': str(gateway.base_url),
            'LLM_RERANKER_URL': str(reranker.base_url),
        }
        with shop.running(
            **urls, SEARCH_BACKEND='dual', TAGGING_MODE='always', REQUEST_DEADLINE='20s'
        ) as (client, _):
            split = recognize(client, scene.data).json()
    assert split['degraded'] == alone['degraded'] == [] and [
        i['category'] for i in split['items']
    ] == [i['category'] for i in alone['items']]
    # the simulation's noise follows the bytes, and a JPEG was made on the way
    assert all(
        Box(*x['box']).iou(Box(*y['box'])) > 0.8 for x, y in zip(split['items'], alone['items'])
    ) and all(i['reranked'] for i in split['items'])
    paid = [
        eventually(
            lambda r=r: shop.log(
                'select sum(credits), count(*) from recognition_items where request_id = %s '
                'having count(*) = %s',
                r['request_id'],
                len(r['items']),
            )
        )
        for r in (alone, split)
    ]
    assert paid[0][0][0] > 0 and paid[0] == paid[1]  # what the roles have paid stands in the app's log
    assert [i['matches'][0]['external_id'] for i in split['items']] == [
        i['matches'][0]['external_id'] for i in alone['items']
    ]


def test_gateway_contract(shop, vendors):
    scene = shop.world.scene(2)
    with shop.running('gateway', **vendors.settings()) as (client, _):
        uploaded = client.post('/detect', files={'image': scene.data}).json()
        assert (
            set(uploaded) == {'items'}
            and all(
                set(i) == {'crop_url', 'bbox', 'category', 'confidence'} for i in uploaded['items']
            )
            and len(uploaded['items']) >= 2
        )
        crop = uploaded['items'][0]['crop_url']
        assert (
            client.get(crop).headers['content-type'] == 'image/jpeg'
            and client.get(crop.replace('/crops/', '/crops/A')).status_code == 404
        )
        assert set(client.post('/tag', json={'url': crop}).json()) == {
            'type',
            'color',
            'color_hex',
            'material',
            'pattern',
        }
        result = client.post(
            '/search',
            json={
                'crop_url': crop,
                'category': uploaded['items'][0]['category'],
                'user_mall': shop.mall,
                'force_ximilar': True,
            },
        ).json()
        assert (
            set(result)
            == {
                'candidates',
                'pgvector_confident',
                'used_ximilar',
                'pgvector_top1_score',
                'pgvector_margin',
                'ximilar_top1_score',
                'ximilar_margin',
                'confident',
                'model_version',
            }
            and result['used_ximilar']
        )
        first = result['candidates'][0]
        assert (
            set(first) == {'brand', 'external_id', 'score', 'image_urls', 'metadata'}
            and first['image_urls']
            and not {'store', 'floor', 'mall', 'stores'} & set(first['metadata'])
        )
        assert (
            client.post('/search', json={'crop_url': crop, 'user_mall': 'Nowhere'}).status_code
            == 422
            and client.post(
                '/search', json={'crop_url': 'http://127.0.0.1:1/crops/x.jpg'}
            ).status_code
            == 422
        )
        assert len(client.post('/search', json={'crop_url': crop, 'top_k': 3}).json()['candidates']) == 3
    with shop.running('reranker', **vendors.settings()) as (client, _):
        address = (
            'data:image/jpeg;base64,'
            + __import__('base64').b64encode(shop.photo(0, 'on_model')).decode()
        )
        assert set(client.post('/tag', json={'url': address}).json()) == {
            'style',
            'occasion',
            'brand_style',
            'season',
        }
        offered = [
            {
                'brand': k.brand,
                'external_id': k.external_id,
                'image_urls': [f'storage:originals/{k.brand}/{k.external_id}/0.jpg'],
            }
            for k in shop.world.keys[:3]
        ]
        ranked = client.post(
            '/rerank', json={'crop_url': address, 'candidates': offered, 'tags': {}}
        ).json()['ranked']
        assert (
            ranked
            and set(ranked[0]) == {'brand', 'external_id', 'sku_id', 'score', 'reason'}
            and [r['score'] for r in ranked] == sorted((r['score'] for r in ranked), reverse=True)
        )
    with shop.running('reranker') as (client, _):
        assert (
            client.post('/rerank', json={'crop_url': address, 'candidates': offered}).status_code
            == 503
        )


def test_embedder_contract(shop):
    with shop.running('embedder') as (client, _):
        result = client.post('/embed', files={'image': shop.photo()}).json()
        assert (
            set(result) == {'vector', 'model_version'}
            and len(result['vector']) == 512
            and abs(sum(v * v for v in result['vector']) - 1) < 1e-4
        )
        (version,), = shop.log("select version from embedding_versions where namespace = 'default'")
        assert result['model_version'] == version


@pytest.mark.parametrize('role', ['embed-batch', 'all'])
def test_batch(shop, role):
    key = shop.world.keys[0]
    with shop.running(role) as (client, _):
        ((urls,),) = shop.log(
            'select image_urls from raw_products where brand = %s and external_id = %s', *key
        )
        before = shop.log('select count(*) from sku_image_embeddings')
        asked = [
            {'brand': key.brand, 'external_id': key.external_id, 'url': u, 'rank': n}
            for n, u in enumerate(urls)
        ]
        assert client.post('/embed_batch', json={'images': asked}, timeout=60).json()[
            'unchanged'
        ] == len(urls)
        shop.log('delete from sku_image_embeddings where brand = %s and sku_id = %s returning 1', *key)
        result = client.post(
            '/embed_batch',
            json={
                'images': asked
                + [
                    {'brand': 'nobody', 'external_id': '1', 'url': 'storage:x/y.jpg'},
                    {'brand': key.brand, 'external_id': key.external_id, 'url': '/etc/passwd'},
                ]
            },
            timeout=60,
        ).json()
        assert (
            result['written'] == len(urls)
            and result['failed'] == 2
            and {e['kind'] for e in result['errors']} == {'not_found'}
        )
        assert shop.log('select count(*) from sku_image_embeddings') == before


def test_all_answers_for_every_role(shop):
    with shop.running('all') as (client, _):
        assert (
            recognize(client, shop.photo()).status_code == 200
            and client.post('/detect', files={'image': shop.photo()}).status_code == 200
            and client.post('/gateway/detect', files={'image': shop.photo()}).status_code == 200
        )
        address = client.post('/detect', files={'image': shop.photo()}).json()['items'][0]['crop_url']
        assert (
            client.post('/embed', json={'url': address}).json()
            == client.post('/embedder/embed', json={'url': address}).json()
        )
        assert (
            'color' in client.post('/tag', json={'url': address}).json()
            and 'season' in client.post('/reranker/tag', json={'url': address}).json()
        )


def test_a_role_that_dies_and_comes_back(shop):
    "The embedder goes away under way: the answer says so; when it is back, nobody needs to be restarted."
    import socket
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = s.getsockname()[1]
    start = lambda: Running(make_app(shop.settings(), role='embedder'), port=port)
    with shop.running(EMBEDDER_URL=f'http://127.0.0.1:{port}') as (client, _):
        with start() as one:
            one.wait_ready(30)
            assert recognize(client, shop.photo()).json()['degraded'] == []
        gone = recognize(client, shop.photo(), user_mall=shop.mall).json()
        # with the database up there is always a list
        assert 'pgvector_search' in gone['degraded'] and gone['items'][0]['matches']
        with start() as two:
            two.wait_ready(30)
            assert recognize(client, shop.photo()).json()['degraded'] == []
