"The Ximilar client against a loopback service that speaks the documented shapes, and breaks them."

import asyncio
import base64
import io
import logging
import re
import traceback
from datetime import date

import pytest
from hypothesis import given, settings as how, strategies as st
from PIL import Image

from unde_recog.contracts import CATEGORIES, Box, Detector, Item, Retriever, SkuKey, Tagger
from unde_recog.gating import gate
from unde_recog.resilience import track_cost
from unde_recog.settings import load_settings
from unde_recog.vendors.calls import Guard, Limiter, VendorError
from unde_recog.vendors.ximilar import (
    AccountDetails,
    Ledger,
    Ximilar,
    XimilarDetector,
    XimilarRetriever,
    XimilarTagger,
    candidates,
    open_ximilar,
    reconcile,
)
from unde_recog.vendors.ximilar_records import (
    category_for,
    load_terms,
    read_object,
    read_tags,
    score,
    sku_record,
)

from tests.vendors.test_calls import TOKEN, Server, settled

TERMS = load_terms()
OK = {'code': 200, 'text': 'OK'}
PRICES = {
    'tagging/fashion/v2/detect': 5,
    'tagging/fashion/v2/tags': 15,
    'tagging/fashion/v2/detect_tags': 20,
    'tagging/fashion/v2/detect_tags_all': 60,
    'similarity/fashion-new/v2/visual_search': 10,
    'similarity/fashion-new/v2/insert': 10,
}


def picture(colour, size=(60, 40)): return Image.new('RGB', size, colour)


def opened(record): return Image.open(io.BytesIO(base64.b64decode(record['_base64'])))


class Service:
    "The documented operations over a collection in memory; a photo is known by its mean colour."
    def __init__(self, capacity=100):
        self.store, self.capacity, self.counter, self.objects = {}, capacity, 0, []

    def __call__(self, method, path, headers, body):
        path = path.lstrip('/')
        if headers.get('authorization') != f'Token {TOKEN}':
            return 401, {'detail': f"Invalid token {headers.get('authorization')}"}
        if path == 'account/v2/details/':
            return 200, {
                'credits_counter': self.counter,
                'credits_limit': 10_000,
                'plan': 'business',
            }
        if path.startswith('similarity') and headers.get('collection-id') != 'demo':
            return 200, {'status': {'code': 404, 'text': 'no such collection'}}
        if len(body.get('records', ())) > 10:
            return 200, {'status': {'code': 413, 'text': 'too many records'}}
        self.counter += PRICES.get(path, 0)*len(body.get('records', [1]))
        return getattr(self, path.rsplit('/', 1)[1])(body)

    def _each(self, body, make):
        return 200, {
            'status': OK,
            'records': [
                {**{k: v for k, v in r.items() if k != '_base64'}, '_status': OK, **make(r)}
                for r in body['records']
            ],
            'statistics': {'time': 0.1},
        }

    def detect(self, body):
        return self._each(body, lambda r: {'_width': opened(r).width, '_objects': self.objects})

    def detect_tags_all(self, body): return self.detect(body)

    def tags(self, body):
        def make(r):
            red, _, blue = (int(v) for v in opened(r).resize((1, 1)).getpixel((0, 0)))
            return {
                '_tags': {
                    'Category': [{'name': 'Clothing/Upper', 'prob': 1.0}],
                    'Color': [{'name': f'{red:03}', 'prob': 0.9}],
                    'Design': [{'name': 'plain', 'prob': 0.5}],
                }
            }

        return self._each(body, make)

    def insert(self, body):
        out = []
        for r in body['records']:
            code = 411 if r['_id'] in self.store else 412 if len(self.store) >= self.capacity else 210
            if code == 210: self.store[r['_id']] = r
            out.append({'_id': r['_id'], '_status': {'code': code, 'text': '…'}})
        codes = {r['_status']['code'] for r in out}
        return 200, {
            'status': {
                'code': 210 if codes == {210} else 211 if 210 in codes else codes.pop(),
                'text': '…',
            },
            'records': out,
        }

    def get(self, body):
        found = [
            {**self.store[r['_id']], '_status': OK}
            for r in reversed(body['records'])
            if r['_id'] in self.store
        ]
        return 200, {
            'status': {'code': 200 if len(found) == len(body['records']) else 206, 'text': '…'},
            'records': found,
        }

    def delete(self, body):
        return 200, {
            'status': {'code': 220, 'text': '…'},
            'records': [
                {
                    '_id': r['_id'],
                    '_status': {'code': 220 if self.store.pop(r['_id'], None) else 404},
                }
                for r in body['records']
            ],
        }

    def update(self, body):
        for r in body['records']: self.store[r['_id']].update(r)
        return self._each(body, lambda r: {})

    def ping(self, body): return 200, {'status': OK, 'info': {'record_count': len(self.store)}}

    def allRecords(self, body):
        rows = [{f: r[f] for f in body['fields_to_return']} for r in self.store.values()][
            (body['page'] - 1) * 7 : body['page'] * 7
        ]
        return 200, {'status': OK, 'records': rows}

    def visual_search(self, body):
        at = lambda r: opened(r).convert('L').resize((1, 1)).getpixel((0, 0))
        brands = body.get('filter', {}).get('brand', {}).get('$in')
        hits = sorted(
            (abs(at(r) - at(body['query_record'])) / 100, i)
            for i, r in self.store.items()
            if brands is None or r['brand'] in brands
        )[: body['k']]
        return 200, {
            'status': OK,
            'answer_records': [
                {f: self.store[i][f] for f in body['fields_to_return']} for _, i in hits
            ],
            'answer_distances': [d for d, _ in hits],
            'answer_count': len(hits),
        }


def settings_for(server, **more):
    return load_settings(
        env={},
        **{
            'XIMILAR_API_URL': server.url,
            'XIMILAR_API_TOKEN': TOKEN,
            'XIMILAR_COLLECTION_ID': 'demo',
            **more,
        },
    )


def run(test, **service):
    "`test(client, server, service)` with everything running; afterwards the client must come to rest."
    async def main():
        made = Service(**service)
        async with Server(made) as server:
            client = Ximilar(settings_for(server), guard=Guard(limiter=Limiter(1e6, 1e6)))
            await test(client, server, made)
            assert await settled(client.http)
            await client.http.aclose()
    asyncio.run(main())


def stock(n, brand='zara'): return [sku_record(SkuKey(brand, f'{i}'), picture((i*5,)*3)) for i in range(n)]


def test_batches_of_ten_in_order_and_credits_are_records_times_price():
    async def test(client, server, service):
        with track_cost() as spent: found = await client.tags([picture((i*9, 0, 0)) for i in range(23)])
        reds = [int(r.body['_tags']['Color'][0]['name']) for r in found]
        assert all(abs(a - i*9) < 3 for i, a in enumerate(reds)) and len(reds) == 23
        assert sorted(len(r[3]['records']) for r in server.requests) == [3, 10, 10]
        assert spent.credits == client.ledger.credits == service.counter == 23*15
        row, = client.ledger.rows()
        assert (row['operation'], row['calls'], row['records']) == ('tags', 3, 23)
    run(test)


def test_a_batch_that_fails_marks_its_records_and_no_others():
    async def test(client, server, service):
        server.faults = [402]
        found = await client.tags([picture((i*9, 0, 0)) for i in range(15)])
        assert [r.error.kind if r.error else None for r in found].count('no_credit') in (5, 10)
        server.faults = [402, 402]
        with pytest.raises(VendorError, match='no_credit'): await client.tags([picture('red')]*15)
    run(test)


def test_the_life_of_a_collection():
    async def test(client, server, service):
        records = stock(25)
        assert [r.error for r in await client.insert(records)] == [None]*25
        again = await client.insert(stock(3) + stock(1, 'hm'))  # 211: three are there, one is new
        assert [r.error.code if r.error else '' for r in again] == ['411', '411', '411', '']
        # nothing inserted: 411 above, too
        assert [r.error.code for r in await client.insert(stock(2))] == ['411']*2
        ids = [r['_id'] for r in records]
        got = await client.get([ids[3], 'nowhere', ids[1]])  # 206, and answered backwards
        assert [(r.id, r.error.code if r.error else None) for r in got] == [
            (ids[3], None),
            ('nowhere', '404'),
            (ids[1], None),
        ]
        await client.update([{'_id': ids[0], 'brand': 'hm'}])
        assert service.store[ids[0]]['brand'] == 'hm'
        seen = [r async for r in client.all_records()]
        assert len(seen) == 26 == len({r['_id'] for r in seen})
        assert [
            r.error.code if r.error else None for r in await client.delete([ids[0], ids[0]])
        ] == [None, '404']
        assert (await client.ping())['info'] == {'record_count': 25}
        assert await client.account() == AccountDetails(service.counter, 10_000)
        assert reconcile(client.ledger, await client.account())[-1]['credits'] == 0
    run(test)


def test_a_full_collection_says_so_record_by_record():
    async def test(client, server, service):
        found = await client.insert(stock(12))
        assert [r.error.code if r.error else '' for r in found].count('412') == 7
        assert 'full' in str(next(r.error for r in found if r.error))
    run(test, capacity=5)


def test_a_call_that_timed_out_counts_and_one_that_never_left_does_not():
    async def test(client, server, service):
        server.faults = ['hang']
        with track_cost() as spent, pytest.raises(VendorError, match='timeout'):
            await client.visual_search(picture('red'), 5, timeout=2)
        assert spent.credits == client.ledger.credits == 10
        server.faults = [500]
        await client.visual_search(picture('red'), 5, timeout=5)  # two attempts, two bills
        assert client.ledger.rows()[0]['calls'] == 3 == len(server.requests)
        server.faults = ['hang']
        left = asyncio.create_task(client.visual_search(picture('red'), 5, timeout=60))
        while len(server.requests) < 4: await asyncio.sleep(.01)
        left.cancel()
        await asyncio.gather(left, return_exceptions=True)
        assert client.ledger.credits == 40
        away = Ximilar(
            load_settings(
                env={},
                XIMILAR_API_URL='http://127.0.0.1:9',
                XIMILAR_API_TOKEN=TOKEN,
                XIMILAR_COLLECTION_ID='demo',
            )
        )
        with pytest.raises(VendorError, match='no connection'):
            await away.visual_search(picture('red'), 5, timeout=5)
        assert away.ledger.rows() == []
    run(test)


BROKEN = [
    ('hang', 'timeout'),
    ('slow headers', 'timeout'),
    ('slow body', 'timeout'),
    ('reset', 'unavailable'),
    ('reset mid-body', 'unavailable'),
    (500, 'unavailable'),
    ((502, b'<html>'), 'unavailable'),
    (402, 'no_credit'),
    (429, 'rate_limited'),
    ((429, {'Retry-After': '90'}), 'rate_limited'),
    ((401, {}), 'auth'),
    ((403, {}), 'auth'),
    (412, 'refused'),
    (400, 'refused'),
    ((200, b'{"status": {"co'), 'bad_answer'),
    ((200, b'[]'), 'bad_answer'),
    ((200, b'{"status": {"code": 200}}'), 'bad_answer'),
    ((200, b'{"detail": "no"}'), 'auth'),
    (
        (
            200,
            b'{"status": {"code": 200}, "records": [], "answer_records": [{}], "answer_distances": []}',
        ),
        'bad_answer',
    ),
    (
        (
            200,
            b'{"status": {"code": 200}, "records": [{"_objects": []}], '
            b'"answer_records": [3], "answer_distances": [1]}',
        ),
        'bad_answer',
    ),
    (
        (
            200,
            b'{"status": {"code": 200}, "records": [{"_status": {"code": 200}}], '
            b'"answer_records": [{}], "answer_distances": [NaN]}',
        ),
        'bad_answer',
    ),
    (
        (
            200,
            b'{"status": {"code": 200}, "records": [{"_status": {"code": 200}, '
            b'"_objects": [{"name": "x"}], "_tags": 3}], '
            b'"answer_records": [{}], "answer_distances": [1]}',
        ),
        'bad_answer',
    ),
    (
        (
            200,
            b'{"status": {"code": 200}, "records": 1, '
            b'"answer_records": [{"brand": 3, "external_id": "a"}], "answer_distances": [1e400]}',
        ),
        'bad_answer',
    ),
]


@pytest.mark.parametrize('fault,kind', BROKEN, ids=[f'{i} {k}' for i, (_, k) in enumerate(BROKEN)])
@pytest.mark.parametrize('part', ['detect', 'search', 'tag'])
def test_whatever_the_vendor_does_has_a_name_and_shows_no_secret(part, fault, kind, caplog):
    caplog.set_level(logging.DEBUG)
    async def test(client, server, service):
        server.always, patience = fault, 1 if kind == 'timeout' else 10
        ask = {
            'detect': lambda: XimilarDetector(client).detect(picture('red'), timeout=patience),
            'tag': lambda: XimilarTagger(client).tag(picture('red'), timeout=patience),
            'search': lambda: XimilarRetriever(client).search(
                Item(Box(0, 0, 60, 40), 'top', 1.0, picture('red')), 100, brands=None, timeout=patience
            ),
        }[part]
        with pytest.raises(VendorError) as e: await ask()
        assert e.value.kind == kind
        text = (
            repr(e.value)
            + ''.join(traceback.format_exception(e.value))
            + repr(vars(e.value))
            + caplog.text
            + repr(client)
            + repr(vars(client))
        )
        assert TOKEN not in text and base64.b64encode(b'\xff\xd8\xff').decode() not in text
        assert client.ledger.rows()[0]['calls'] == len(server.requests)
        server.always = None
    run(test)


def test_five_bad_answers_and_nobody_is_asked():
    async def test(client, server, service):
        server.always = (200, b'{"status": {"code": 200}}')
        for _ in range(5):
            with pytest.raises(VendorError, match='bad_answer'):
                await client.visual_search(picture('red'), 5)
        with pytest.raises(VendorError, match='circuit_open'): await client.visual_search(picture('red'), 5)
        assert len(server.requests) == 5 and client.ledger.credits == 50
    run(test)


def test_the_pool_survives_the_booster_being_left_behind():
    async def test(client, server, service):
        await client.insert(stock(10))
        server.always = 'hang'
        item = Item(Box(0, 0, 60, 40), 'top', 1., picture((20, 20, 20)))
        booster = XimilarRetriever(client)
        tasks = [
            asyncio.create_task(booster.search(item, 5, brands=None, timeout=0.05 if i % 2 else 60))
            for i in range(40)
        ]
        await asyncio.sleep(.2)
        for t in tasks: t.cancel()
        assert all(
            isinstance(e, VendorError | asyncio.CancelledError)
            for e in await asyncio.gather(*tasks, return_exceptions=True)
        )
        server.always = None
        assert [len(await booster.search(item, 5, brands=None, timeout=5)) for _ in range(5)] == [5]*5
        paid = {r['operation']: r['credits'] for r in client.ledger.rows()}
        assert paid['search'] >= 50 and paid['insert'] == 100
    run(test)


def test_the_booster_gives_products_on_its_own_scale():
    async def test(client, server, service):
        many = [
            sku_record(SkuKey('zara', '1_2'), picture((20,) * 3), 1),
            sku_record(SkuKey('zara', '1_2'), picture((90,) * 3), 2),
            sku_record(SkuKey('hm', '7'), picture((40,) * 3)),
            sku_record(SkuKey('zara_1', '2'), picture((200,) * 3)),
        ]
        await client.insert(many)
        booster, item = (
            XimilarRetriever(client),
            Item(Box(0, 0, 60, 40), 'top', 1.0, picture((20,) * 3, (2000, 1500))),
        )
        assert isinstance(booster, Retriever)
        found = await booster.search(item, 100, brands=None, timeout=5)
        assert [c.key for c in found] == [('zara', '1_2'), ('hm', '7'), ('zara_1', '2')]
        assert found[0].score == pytest.approx(100, abs=2) and all(
            c.ximilar == c.score == score(c.metadata['ximilar_distance'], TERMS.k) for c in found
        )
        assert gate(found, 80, 10).confident
        assert max(opened(server.requests[-1][3]['query_record']).size) == TERMS.longest['search']
        assert [c.key.brand for c in await booster.search(item, 100, brands=['hm'], timeout=5)] == ['hm']
        asked = len(server.requests)
        # a mall without brands costs nothing
        assert await booster.search(item, 100, brands=[], timeout=5) == [] and len(server.requests) == asked
        service.visual_search = lambda body: (
            200,
            {
                'status': OK,
                'answer_records': [{'brand': 'zara', 'external_id': '1'}],
                'answer_distances': [0],
            },
        )
        # a filter that the service does not know is applied here
        assert await booster.search(item, 100, brands=['hm'], timeout=5) == []
    run(test)


def test_the_detector_cuts_from_the_large_photo_and_pairs_shoes():
    async def test(client, server, service):
        photo = Image.new('RGB', (2048, 4096), 'white')
        photo.paste('red', (400, 400, 1200, 2000))
        thing = lambda name, top, box, prob: {
            'name': name,
            'Top Category': top,
            'bound_box': box,
            'prob': prob,
            'area': 0.1,
            'surprise': {},
        }
        service.objects = [
            thing('Person', 'Person', [0, 0, 500, 1000], 0.99),
            thing('Shirts', 'Clothing/Upper', [100, 100, 300, 500], 0.9),
            thing('Sneakers', 'Footwear', [100, 900, 160, 960], 0.8),
            thing('Sneakers', 'Footwear', [180, 905, 240, 965], 0.7),
            thing('Hats', 'Accessories/Hats', [9000, 9000, 9100, 9100], 0.5),
        ]
        detector = XimilarDetector(client)
        assert isinstance(detector, Detector) and isinstance(XimilarTagger(client), Tagger)
        items = await detector.detect(photo, timeout=5)
        assert [(i.category, tuple(i.box), i.confidence, i.label) for i in items] == [
            ('top', (400, 400, 1200, 2000), 0.9, 'Shirts'),
            ('shoes', (400, 3600, 960, 3860), 0.8, 'Sneakers'),
        ]
        assert items[0].crop.size == (800, 1600) and items[0].crop.getpixel((5, 5)) == (255, 0, 0)
        assert max(opened(server.requests[0][3]['records'][0]).size) == 1024
        service.objects = []
        assert await detector.detect(photo, timeout=5) == []
        assert client.ledger.credits == 10
    run(test)


def test_the_tagger_reads_lists_maps_and_objects():
    async def test(client, server, service):
        assert await XimilarTagger(client).tag(picture((100, 0, 0)), timeout=5) == {
            'type': 'upper',
            'color': '100',
            'pattern': 'plain',
        }
        service.tags = lambda body: service._each(
            body,
            lambda r: {
                '_objects': [
                    {'area': 0.1, '_tags': {'Color': 'red'}},
                    {
                        'area': 0.8,
                        '_tags_map': {
                            'Color': 'green/khaki',
                            'Color Hex': '#8b8560',
                            'Material': 'Cotton',
                        },
                    },
                ]
            },
        )
        assert await XimilarTagger(client).tag(picture('red'), timeout=5) == {
            'color': 'khaki',
            'color_hex': '#8b8560',
            'material': 'cotton',
        }
        service.tags = lambda body: (200, {'status': OK, 'records': [{'_status': {'code': 400}}]})
        with pytest.raises(VendorError, match='refused'):
            await XimilarTagger(client).tag(picture('red'), timeout=5)

    run(test)


@given(st.lists(st.floats(0, 50), min_size=2, max_size=30))
def test_the_score_keeps_the_order_of_distances(distances):
    hits = [({'brand': 'zara', 'external_id': str(i)}, d) for i, d in enumerate(distances)]
    found = candidates(hits, TERMS)
    assert [c.metadata['ximilar_distance'] for c in found] == sorted(distances) and all(
        0 < c.score <= 100 for c in found
    )
    assert all(
        a.score >= b.score
        and (
            a.score > b.score
            or b.metadata['ximilar_distance'] - a.metadata['ximilar_distance'] < 1e-12
        )
        for a, b in zip(found, found[1:])
    )


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda s: st.lists(s, max_size=5) | st.dictionaries(st.text(max_size=8), s, max_size=4),
    max_leaves=12,
)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            'name': JSON | st.text(),
            'bound_box': JSON | st.lists(st.floats() | st.integers(), min_size=4, max_size=4),
            'prob': JSON | st.floats(0, 1),
            'Top Category': JSON,
            'Category': JSON,
            '_tags': JSON,
            '_tags_map': JSON
            | st.dictionaries(st.sampled_from(['Color', 'Material', 'Color Hex']), JSON),
        },
    )
)
@how(max_examples=300, deadline=None)
def test_any_nonsense_is_read_or_named(raw):
    assert category_for(raw, TERMS) in (*CATEGORIES, None)
    for read in (read_object, read_tags):
        try: read(raw, TERMS)
        except VendorError as e: assert e.kind == 'bad_answer'


def test_settings_that_cannot_work_are_named_without_the_token():
    assert open_ximilar(load_settings(env={})) is None
    with pytest.raises(ValueError, match='XIMILAR_API_TOKEN') as e:
        Ximilar(load_settings(env={}, XIMILAR_API_TOKEN=f'{TOKEN}\nX: y'))
    assert TOKEN not in str(e.value)
    with pytest.raises(ValueError, match='XIMILAR_API_URL.*is no address'):
        Ximilar(load_settings(env={}, XIMILAR_API_TOKEN=TOKEN, XIMILAR_API_URL='api.ximilar.com'))


@pytest.mark.parametrize(
    'old,new,match',
    [
        ('"k": 1.0', '"k": 0', 'positive'),
        ('"exp"', '"log"', 'score map'),
        ('"shoes": "shoes"', '"shoes": "feet"', 'categories'),
        ('"detect": 5', '"detect": -5', 'credits'),
        ('"as_of"', '"when"', 'as_of'),
    ],
)
def test_terms_that_cannot_work_are_named(tmp_path, old, new, match):
    from unde_recog.contracts import ASSETS
    text = (ASSETS.parent/'vendors/assets/ximilar.json').read_text()
    assert text.count(old) == 1
    (tmp_path/'mine.json').write_text(text.replace(old, new))
    with pytest.raises(ValueError, match=match): load_terms(tmp_path/'mine.json')


def test_the_ledger_keeps_days_apart():
    today = [date(2026, 11, 1)]
    ledger = Ledger(today=lambda: today[0])
    ledger.add('search', 1, 10)
    today[0] = date(2026, 11, 2)
    ledger.add('search', 1, 10)
    assert [(r['day'].day, r['credits']) for r in ledger.rows()] == [(1, 10), (2, 10)]
    assert [r['credits'] for r in reconcile(ledger, AccountDetails(150), AccountDetails(100))] == [
        20,
        20,
        50,
        30,
    ]
