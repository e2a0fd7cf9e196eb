"All steps on a real database: paths, faults, log rows, and what a person is shown."
import asyncio
import uuid
from concurrent.futures import CancelledError
from dataclasses import replace
from datetime import datetime, timedelta, timezone

import pytest
from PIL import Image

from unde_recog.availability import UnknownMall
from unde_recog.catalogue.imports import import_products, import_stores
from unde_recog.catalogue.stock import import_availability
from unde_recog.context import CAPS, ItemState, Parts
from unde_recog.contracts import CATEGORIES, Box, Candidate, Item, SkuKey, Verdict
from unde_recog.db.database import LOGICALS, DatabaseError, Databases, run
from unde_recog.detect import cut
from unde_recog.embedder import load_embedder
from unde_recog.evidence import EvidenceTable
from unde_recog.media.images import ImageError, to_jpeg
from unde_recog.jobs.index import index_catalogue
from unde_recog.candidates import availability_step, search_step
from unde_recog.catalogue.products import fallback_query
from unde_recog.pipeline import Wanted, alternatives, is_long, products_like
from unde_recog.recognizer import Recognizer, brands_of_mall, new_context
from unde_recog.session import Session, own_parts
from unde_recog.request_log import RequestLog
from unde_recog.settings import load_settings
from unde_recog.tagging import COLOURS, colours_in
from unde_recog.media.storage import FolderStorage
from unde_recog.wardrobe.world import World
from unde_recog.catalogue.filters import Filters

from tests.conftest import named_database

NOW = datetime(2026, 11, 21, 18, tzinfo=timezone.utc)


@pytest.fixture(scope='module')
def world(): return World(seed=5, skus=40)


@pytest.fixture(scope='module')
def shop(world, server_url, template, tmp_path_factory):
    "A drawn shop, imported and indexed once; (databases, storage)."
    folder = tmp_path_factory.mktemp('shop')
    world.write(folder, views=('front', 'on_model'), day=NOW.date())
    storage = FolderStorage(folder/'storage')
    with named_database(server_url, template, 'test_pipeline') as url:
        with Databases(dict.fromkeys(LOGICALS, url)) as db:
            import_products(db, folder/'products.csv', images=folder/'images', storage=storage)
            import_stores(db, folder/'stores.csv')
            import_availability(db, folder/'availability.csv')
            index_catalogue(db, load_embedder(preset='batch'), storage=storage)
        yield url, storage


@pytest.fixture
def open_session(shop):
    "Makes sessions: settings by keyword, parts by `plug`."
    sessions = []

    def make(plug=None, **values):
        url, storage = shop
        settings = load_settings(env={}, DATABASE_URL=url, **values)
        db = Databases(dict.fromkeys(LOGICALS, url))
        parts = own_parts(settings, db)
        sessions.append(
            Session(
                Recognizer(
                    settings,
                    db,
                    plug(parts) if plug else parts,
                    log=RequestLog(db),
                    storage=storage,
                )
            )
        )
        return sessions[-1]
    yield make
    for s in sessions: s.close()


@pytest.fixture
def hurry(monkeypatch):
    "Shortens the time of one step, in seconds; the others keep what the long deadline of the tests gives."
    return lambda step, seconds: monkeypatch.setitem(
        CAPS, step, seconds/load_settings(env={}).REQUEST_DEADLINE.total_seconds()
    )


def rows(session, answer, *columns):
    "The item rows of an answer, once they are written."
    session.drain()
    session.recognizer.log.close()
    with session.recognizer.db.connect('log') as conn:
        return conn.execute(
            f'select {", ".join(columns)} from recognition_items where request_id = %s order by item_index',
            (uuid.UUID(answer.request_id),),
        ).fetchall()


def stocked(world, mall):
    "A product with stock in a mall on the day."
    table = world.availability(NOW.date(), NOW)
    here = set(world.stores[world.stores.mall_name == mall].store_id)
    return next(
        k
        for k in world.keys
        if any(
            s in here and sizes
            for s, sizes in table[
                (table.product_id == k.external_id)
                & (table.store_id.str.startswith(k.brand[:2].upper()))
            ][['store_id', 'sizes_in_stock']].itertuples(index=False)
        )
    )


class Booster:
    name = 'ximilar'

    def __init__(self, found=(), fault=None): self.found, self.fault, self.calls = found, fault, 0
    async def search(self, item, k, *, brands, timeout):
        self.calls += 1
        if self.fault: await self.fault()
        return [Candidate(key=key, score=s, ximilar=s) for key, s in self.found][:k]


class Judge:
    name = 'judge'

    def __init__(self, right=None, fault=None): self.right, self.fault = right, fault
    async def rerank(self, crop, candidates, tags, *, timeout):
        if self.fault: await self.fault()
        return [Verdict(c.key, .95 if c.key == self.right else .1, 'looked') for c in candidates]


async def hang(): await asyncio.sleep(60)
async def broken(): raise ValueError('{"detail": "planted-secret"}')


def test_a_catalogue_photo_finds_its_product(open_session, world):
    session, mall = open_session(), world.mall_names[0]
    key = stocked(world, mall)
    # not the bytes that are indexed
    answer = session.recognize(world.photo(key, 'front'), user_mall=mall, now=NOW, user_id='u1')
    item = answer.items[0]
    assert item.match_type == 'exact' and (item.matches[0].brand, item.matches[0].external_id) == tuple(key)
    match = item.matches[0]
    assert (
        match.in_mall
        and match.stores[0].mall_name == mall
        and match.stores[0].sizes
        and match.price == world.product(key).price
        and answer.degraded == []
    )
    ((confident, top1, threshold, version, here, kind),) = rows(
        session,
        answer,
        'gate_confident',
        'pgvector_top1_score',
        'confidence_threshold',
        'model_version',
        'candidates_after_availability',
        'match_type',
    )
    assert (
        top1 > 0.9
        and threshold == session.recognizer.parts.primary.card.threshold
        and version == answer.model_version
        and here >= 1
        and kind == 'exact'
    )
    with session.recognizer.db.connect('log') as conn:
        assert conn.execute(
            '''select user_id, user_mall, items_detected, items_matched, used_ximilar_booster
                from recognition_requests where id = %s''',
            (uuid.UUID(answer.request_id),),
        ).fetchone() == ('u1', mall, 1, 1, False)


def test_items_are_side_by_side_and_in_order(open_session, world):
    session, scene = open_session(), world.scene(2)
    boxes = [{'box': i.box, 'category': i.category} for i in scene.items]
    answer = session.recognize(scene.data, user_mall=scene.mall, boxes=boxes, now=NOW)
    assert [i.item_index for i in answer.items] == list(range(len(boxes))) and [
        i.category for i in answer.items
    ] == [b['category'] for b in boxes]
    assert all(i.matches for i in answer.items)


def test_events_come_in_order(open_session, world):
    events = []
    open_session().recognize(
        world.photo(world.keys[0]), now=NOW, on_event=lambda kind, body: events.append(kind)
    )
    assert events == ['detected', 'candidates', 'result']


@pytest.mark.parametrize(
    'backend, asked', [('pgvector', 0), ('conditional', 1), ('dual', 1), ('ximilar', 1)]
)
def test_backends_ask_whom_they_should(open_session, world, backend, asked):
    booster = Booster([(world.keys[3], 90.), (world.keys[4], 50.)])
    # never confident
    session = open_session(
        lambda p: Parts(primary=p.primary, booster=booster),
        SEARCH_BACKEND=backend,
        CONFIDENCE_THRESHOLD=1.0,
        MARGIN=1.0,
    )
    answer = session.recognize(world.photo(world.keys[0]), now=NOW)
    assert booster.calls == asked and answer.items[0].matches
    ((used, propensity, boosted),) = rows(
        session, answer, 'used_ximilar_booster', 'propensity', 'ximilar_list'
    )
    assert used == bool(asked) and propensity == float(asked) and len(boosted) == (2 if asked else 0)


def test_conditional_does_not_pay_when_sure(open_session, world):
    booster = Booster([(world.keys[3], 90.)])
    open_session(
        lambda p: Parts(primary=p.primary, booster=booster), CONFIDENCE_THRESHOLD=0.5, MARGIN=0
    ).recognize(world.photo(world.keys[0]), now=NOW)
    assert booster.calls == 0


@pytest.mark.parametrize('fault', [hang, broken], ids=['hang', 'nonsense'])
@pytest.mark.parametrize('backend', ['conditional', 'dual', 'ximilar'])
def test_a_broken_booster_leaves_the_primarys_list(
    open_session, world, backend, fault, caplog, hurry
):
    hurry('booster', .5)
    session = open_session(
        lambda p: Parts(primary=p.primary, booster=Booster(fault=fault)),
        SEARCH_BACKEND=backend,
        CONFIDENCE_THRESHOLD=1.0,
        MARGIN=1.0,
    )
    answer = session.recognize(world.photo(world.keys[0]), now=NOW)
    assert (
        answer.items[0].matches
        and answer.degraded == ['ximilar_search']
        and 'planted-secret' not in caplog.text + answer.model_dump_json()
    )
    (degraded, used), = rows(session, answer, 'degraded', 'used_ximilar_booster')
    assert degraded == ['ximilar_search'] and used


class Blind:
    name = 'ximilar'

    def __init__(self, fault=None): self.fault = fault
    async def detect(self, photo, *, timeout):
        if self.fault: await self.fault()
        return []


@pytest.mark.parametrize(
    'fault, left_out',
    [(hang, ['ximilar_detect']), (broken, ['ximilar_detect']), (None, [])],
    ids=['hang', 'nonsense', 'nothing found'],
)
def test_the_own_detector_stands_in(open_session, world, fault, left_out, hurry):
    hurry('detect', .5)
    street = world.scene(6, size=(512, 768)).image
    alone = open_session().recognize(street, now=NOW)
    answer = open_session(
        lambda p: Parts(primary=p.primary, detector=Blind(fault), local_detector=p.detector)
    ).recognize(street, now=NOW)
    assert (
        len(alone.items) > 1
        and [i.box for i in answer.items] == [i.box for i in alone.items]
        and answer.degraded == left_out
    )
    off = open_session(DETECTOR_MODEL='whole_photo').recognize(street, now=NOW)
    assert [list(i.box) for i in off.items] == [[0, 0, 512, 768]]


def test_a_judge_reorders_and_says_so(open_session, world):
    mall = world.mall_names[0]
    first = open_session().recognize(world.photo(world.keys[0]), user_mall=mall, now=NOW)
    session = open_session(lambda p: Parts(primary=p.primary, reranker=Judge()))
    ranked = session.run(_offered(session, world, mall))
    wanted = ranked[min(3, len(ranked) - 1)]
    answer = open_session(lambda p: Parts(primary=p.primary, reranker=Judge(wanted))).recognize(
        world.photo(world.keys[0]), user_mall=mall, now=NOW
    )
    item = answer.items[0]
    assert (
        item.reranked
        and item.match_type in ('exact', 'similar')
        and SkuKey(item.matches[0].brand, item.matches[0].external_id) == wanted
        and not first.items[0].reranked
    )


async def _offered(session, world, mall):
    recognizer = session.recognizer
    ctx = new_context(recognizer, mall=mall, now=NOW)
    ctx.brands = await brands_of_mall(recognizer.db, recognizer.malls, mall)
    photo = world.photo(world.keys[0])
    item_state = ItemState(index=0, item=Item(Box(0, 0, *photo.size), 'other', 1., photo))
    await search_step(item_state, ctx)
    await availability_step(item_state, ctx)
    return [c.key for c in item_state.stock.here]


@pytest.mark.parametrize('fault', [hang, broken], ids=['hang', 'nonsense'])
def test_a_broken_judge_leaves_the_order_of_retrieval(open_session, world, fault, hurry):
    hurry('rerank', .5)
    session = open_session(lambda p: Parts(primary=p.primary, reranker=Judge(fault=fault)))
    answer = session.recognize(world.photo(world.keys[0]), now=NOW)
    assert answer.degraded == ['judge_rerank'] and not answer.items[0].reranked and answer.items[0].matches


def test_too_few_in_the_mall_asks_the_booster_once(open_session, world):
    mall, booster = world.mall_names[0], Booster([(k, 80. - i) for i, k in enumerate(world.keys)])
    session = open_session(
        lambda p: Parts(primary=p.primary, booster=booster),
        CONFIDENCE_THRESHOLD=0.0,
        MARGIN=0.0,
        MIN_CANDIDATES=50,
    )
    answer = session.recognize(world.photo(world.keys[0]), user_mall=mall, now=NOW)
    assert booster.calls == 1 and answer.items[0].matches


def test_a_stopped_feed_is_told_from_an_empty_shelf(open_session, world):
    mall = world.mall_names[0]
    late = open_session().recognize(world.photo(world.keys[0]), user_mall=mall, now=NOW + timedelta(days=9))
    # still something, marked as not in stock
    assert 'stock_feed' in late.degraded and late.items[0].matches
    assert not any(m.in_mall for m in late.items[0].matches)


class OtherColoursNearest:
    "A primary to whose eyes every product of another colour is a little nearer."
    name, version = 'pgvector', 'none'

    def __init__(self, primary, colour): self.primary, self.card, self.colour = primary, primary.card, colour
    def far(self, c):
        score = .1 if self.colour in colours_in(c.metadata['colour']) else .2
        return c.but(score=score, primary=score, cosine=score)
    async def search(self, item, k, *, brands=None, timeout=5):
        found = await self.primary.search(item, k, brands=brands, timeout=timeout)
        return sorted(map(self.far, found), key=lambda c: -c.score)
    async def exact_scores(self, item, keys, *, timeout=2): return dict.fromkeys(keys, .1)


@pytest.mark.parametrize('in_mall', [True, False])
def test_alternatives_are_of_the_same_kind_and_colour_first(open_session, shop, world, in_mall):
    """A black skirt that nobody sells is answered by black bottoms, not by the blue trousers that
    the model finds a little nearer; and each says what it has in common."""
    mall = world.mall_names[0] if in_mall else None
    with Databases(dict.fromkeys(LOGICALS, shop[0])) as db, db.connect('catalogue') as conn:
        def sold(category, colour=None):
            query = fallback_query(category, colour, mall, timedelta(days=2), now=NOW, limit=99)
            return len(run(conn, query))
        category = max(('top', 'bottom', 'shoes', 'dress'), key=sold)
        here = {c: n for c in COLOURS if (n := sold(category, c))}
    colour, n = min(here.items(), key=lambda kept: kept[1])
    photo = Image.new('RGB', (300, 300), COLOURS[colour][0])
    session = open_session(lambda p: Parts(primary=OtherColoursNearest(p.primary, colour),
                                           local_tagger=p.local_tagger))
    boxes = [{'box': [0, 0, 300, 300], 'category': category}]
    (found,) = session.recognize(photo, boxes=boxes, user_mall=mall, now=NOW).items
    assert (found.match_type, found.reason, found.tags['color']) == ('style', 'nothing_near', colour)
    same = ['color' in m.agrees for m in found.matches]
    assert same == sorted(same, reverse=True) and same.count(True) == n
    assert not all(same) and all('category' in m.agrees for m in found.matches)
    scores = [m.score for m in found.matches]
    assert scores[0] < scores[-1]  # the nearer ones of other colours follow


class Seen:
    "A detector that finds one garment in the upper half, and what else it may be."
    name, local = 'seen', True

    def __init__(self, category, *rivals): self.category, self.rivals = category, rivals

    async def detect(self, photo, *, timeout):
        box = 0, 0, photo.width*2//3, photo.height//2
        return [replace(cut(photo, box, self.category, .4), rivals=self.rivals)]


def genders(session, world, *boxes, **how):
    "For whom the alternatives for the first garment of a grey photo are."
    photo = Image.new('RGB', (300, 600), '#777777')
    found = session.recognize(photo, boxes=boxes or None, now=NOW, **how).items[0]
    assert found.match_type == 'style'
    return [world.product(SkuKey(m.brand, m.external_id)).gender for m in found.matches]


def test_with_a_dress_go_womens_clothes_first(open_session, world):
    "An order of alternatives, no filter: the men's follow, and whoever says for whom is believed."
    session = open_session()
    trousers, dress = (
        {'box': [0, top, 200, top + 300], 'category': category}
        for category, top in (('bottom', 0), ('dress', 300))
    )
    alone, dressed = genders(session, world, trousers), genders(session, world, trousers, dress)
    assert set(alone) == {'women', 'men'} and sorted(alone) == sorted(dressed)
    assert dressed == sorted(dressed, reverse=True) != alone
    assert set(genders(session, world, trousers, dress, filters=Filters(gender='men'))) == {'men'}


def test_what_was_taken_for_a_dress_says_for_whom_too(open_session, world):
    "A skirt, as nobody takes trousers for a dress."
    alone, skirt = (
        genders(open_session(lambda p: replace(p, detector=Seen('bottom', *rivals))), world)
        for rivals in ((), ('dress',))
    )
    assert sorted(alone) == sorted(skirt) and skirt == sorted(skirt, reverse=True) != alone


@pytest.mark.parametrize('size, order', [
    ((100, 260), ['black jeans', 'blue jeans', 'black shorts']),
    ((100, 110), ['black shorts', 'black jeans', 'blue jeans']),
    ((100, 500), ['black jeans', 'black shorts', 'blue jeans']),  # the photo ends there: nobody knows
])
def test_trousers_are_answered_by_trousers(size, order):
    "Length before colour, colour before likeness; the others follow."
    width, height = size
    item = Item(Box(0, 0, width, height), 'bottom', .6, Image.new('RGB', size))
    state = ItemState(index=0, item=item, tags={'color': 'black', 'color_hex': '#101012'})
    state.long = is_long(item, (100, 500))
    goods = [('black', 'jeans', .3), ('blue', 'jeans', .4), ('black', 'shorts', .2)]
    found = [
        Candidate(key=SkuKey('mine', f'{colour} {kind}'), score=score,
                  metadata={'category': 'bottom', 'colour': colour, 'attributes': {'type': kind}})
        for colour, kind, score in goods
    ]
    assert [c.key.external_id for c in alternatives([], found, state, 'likeness')] == order


class Away:
    "A primary whose embedder is down."
    name, version = 'pgvector', 'none'

    def __init__(self, card): self.card = card
    async def search(self, item, k, *, brands=None, timeout=5): raise OSError
    async def exact_scores(self, item, keys, *, timeout=2): raise OSError


@pytest.mark.parametrize('late', [timedelta(), timedelta(days=9)], ids=['stock known', 'feed stopped'])
def test_without_the_embedder_there_is_a_list_for_any_garment(open_session, world, late):
    "Of a category and a colour that the mall has not in stock too."
    session, narrow = open_session(lambda p: Parts(primary=Away(p.primary.card))), 0
    for n, category in enumerate(CATEGORIES):
        for mall in (world.mall_names[0], None):
            (found,) = session.recognize(
                world.photo(world.keys[n], 'front'),
                boxes=[{'box': [0, 0, 300, 300], 'category': category}],
                user_mall=mall,
                now=NOW + late,
            ).items
            # of a stopped feed nobody knows
            assert (
                found.match_type == 'style'
                and found.matches
                and (
                    mall is None
                    or {m.in_mall for m in found.matches} == ({None} if late else {True})
                )
            )
            with session.recognizer.db.connect('catalogue') as conn:
                narrow += bool(
                    run(
                        conn,
                        fallback_query(
                            category, found.tags['color'], mall, timedelta(days=7), now=NOW + late
                        ),
                    )
                )
    assert 0 < narrow < 2*len(CATEGORIES)  # both were tried: what the mall has, and what it has not


class Slow:
    "A primary that takes its time for one garment's vector."
    name = 'pgvector'

    def __init__(self, primary):
        self.primary, self.card, self.version, self.asked = (
            primary,
            primary.card,
            primary.version,
            [],
        )

    async def embed(self, item):
        self.asked.append(item.category)
        if item.category == 'bag': await hang()
        return await self.primary.embed(item)
    async def search(self, item, k, *, brands=None, timeout=5):
        await self.embed(item)
        return await self.primary.search(item, k, brands=brands, timeout=timeout)

    async def exact_scores(self, item, keys, *, timeout=2):
        return await self.primary.exact_scores(item, keys, timeout=timeout)


def test_a_slow_vector_takes_nothing_from_its_neighbours(open_session, world, caplog):
    slow = None
    def plug(parts):
        nonlocal slow
        slow = Slow(parts.primary)
        return Parts(primary=slow)

    session = open_session(plug, REQUEST_DEADLINE='10s')
    boxes = [{'box': [0, 0, 300, 300], 'category': c} for c in ('top', 'bag', 'shoes')]
    top, bag, shoes = session.recognize(
        world.photo(world.keys[0], 'front'), boxes=boxes, user_mall=world.mall_names[0], now=NOW
    ).items
    session.drain()
    # the bag's list is not by likeness, and nobody embeds it again and again
    assert top.matches and shoes.matches and bag.matches and slow.asked.count('bag') == 1
    ((failed,),) = [
        r
        for r in rows(
            session,
            session.recognize(
                world.photo(world.keys[0], 'front'),
                boxes=boxes[1:2],
                user_mall=world.mall_names[0],
                now=NOW,
            ),
            'degraded',
        )
    ]
    assert 'pgvector_search' in failed and 'never retrieved' not in caplog.text


def test_what_fits_nobody_is_told_by_what_is_near(open_session, world):
    "A size that no store has: the nearest are shown as not available, and not the cheapest goods."
    session = open_session()
    (near,) = session.recognize(
        world.photo(world.keys[0], 'front'), user_mall=world.mall_names[0], now=NOW
    ).items
    (none,) = session.recognize(
        world.photo(world.keys[0], 'front'),
        user_mall=world.mall_names[0],
        now=NOW,
        filters=Filters(sizes=('no such size',)),
    ).items
    assert none.matches and not any(m.in_mall for m in none.matches)
    assert (none.matches[0].brand, none.matches[0].external_id) == tuple(world.keys[0]) and near.matches


def test_bad_input_is_named(open_session, world):
    session = open_session()
    with pytest.raises(UnknownMall, match=world.mall_names[0]):
        session.recognize(world.photo(world.keys[0]), user_mall=world.mall_names[0][:-1])
    with pytest.raises(ValueError, match='box 0'):
        session.recognize(world.photo(world.keys[0]), boxes=[[9000, 9000, 9999, 9999]])
    with pytest.raises(ImageError): session.recognize(b'GIF89a')
    with pytest.raises(ValueError, match='time zone'):
        session.recognize(world.photo(world.keys[0]), now=datetime(2026, 1, 1))
    with pytest.raises(ImageError, match='no file'): session.recognize('nowhere.jpg')


def test_without_a_database_the_error_names_it(shop, world):
    url, storage = shop
    settings = load_settings(env={}, DATABASE_URL=url)
    with Databases(dict.fromkeys(LOGICALS, url)) as db: parts = own_parts(settings, db)
    gone = Databases(dict.fromkeys(LOGICALS, 'postgresql://me:planted-secret@127.0.0.1:1/x'), timeout=1)
    parts.primary.db = gone
    session = Session(Recognizer(settings, gone, parts, storage=storage))
    with pytest.raises(DatabaseError) as e: session.recognize(world.photo(world.keys[0]))
    session.close()
    assert 'planted-secret' not in str(e.value)


def test_a_session_ends_what_is_left_in_its_loop(open_session):
    session = open_session()
    left = asyncio.run_coroutine_threadsafe(asyncio.sleep(60), session.loop)
    session.close()
    with pytest.raises(CancelledError): left.result(5)
    assert session.loop.is_closed() and not session.thread.is_alive()


def test_many_at_once_each_get_their_own(open_session, world):
    session = open_session()

    async def all_of():
        photos = [world.photo(k) for k in world.keys[:12]]
        return await asyncio.gather(*(session.recognizer.recognize(p, now=NOW) for p in photos))
    answers = session.run(all_of())
    session.drain()
    firsts = [(a.items[0].matches[0].brand, a.items[0].matches[0].external_id) for a in answers]
    assert firsts == [tuple(k) for k in world.keys[:12]]
    session.recognizer.log.close()
    assert session.recognizer.log.written == 12 and session.recognizer.log.lost == 0


def test_json_is_the_contract(open_session, world):
    from unde_recog.contracts import Answer
    answer = open_session().recognize(to_jpeg(world.photo(world.keys[0])), now=NOW)
    again = Answer.model_validate_json(answer.model_dump_json())
    assert again == answer and set(answer.model_dump()) == {
        'request_id',
        'model_version',
        'degraded',
        'total_ms',
        'reason',
        'items',
    }
    assert set(answer.model_dump()['items'][0]) == {
        'item_index',
        'person_index',
        'box',
        'category',
        'confidence',
        'match_type',
        'reason',
        'reranked',
        'tags',
        'matches',
    }


def test_a_photo_without_goods_says_so(open_session):
    session = open_session()
    answer = session.recognize(Image.new('RGB', (3, 500), 'red'), now=NOW)
    assert answer.items == [] and answer.reason == 'no_garment'
    assert rows(session, answer, 'match_type') == []  # nothing was paid, so no row bears a cost
    with session.recognizer.db.connect('log') as conn:
        query = 'select reason, items_detected from recognition_requests where id = %s'
        assert conn.execute(query, (uuid.UUID(answer.request_id),)).fetchone() == ('no_garment', 0)


def test_whoever_says_that_the_photo_is_one_object_has_it_looked_up(open_session):
    whole = open_session(DETECTOR_MODEL='whole_photo').recognize(Image.new('RGB', (3, 500), 'red'), now=NOW)
    assert whole.items[0].box == (0, 0, 3, 500) and whole.reason is None


def whole(photo, category): return [{'box': [0, 0, *photo.size], 'category': category}]


def test_finds_are_of_the_garments_kind(open_session, world):
    "SPEC §6: a sure category weighs, and what cannot be the garment is not shown as a match."
    session, shown = open_session(), []
    for key in world.keys[:10]:
        photo, category = world.photo(key, 'front'), world.garment(key).category
        (item,) = session.recognize(photo, boxes=whole(photo, category), now=NOW).items
        assert (item.matches[0].brand, item.matches[0].external_id) == tuple(key)
        shown += [world.garment((m.brand, m.external_id)).category == category for m in item.matches]
    assert sum(shown) >= .97*len(shown)


def test_a_kind_that_nobody_sells_is_said_and_nothing_is_bought(open_session, world):
    "The drawn shops have no accessories: alternatives follow as such, and the booster is not asked."
    assert not any(world.garment(key).category == 'accessory' for key in world.keys)
    booster, photo = Booster([(world.keys[3], 90.)]), world.photo(world.keys[0], 'back')
    session = open_session(
        lambda p: Parts(primary=p.primary, booster=booster), CONFIDENCE_THRESHOLD=1.0, MARGIN=1.0
    )
    mall = world.mall_names[0]
    answer = session.recognize(photo, boxes=whole(photo, 'accessory'), user_mall=mall, now=NOW)
    (item,) = answer.items
    assert item.reason == 'category_not_sold' and item.match_type == 'style' and item.matches
    assert booster.calls == 0
    columns = 'reason', 'pgvector_top1_score', 'pgvector_top1_cosine'
    ((reason, score, cosine),) = rows(session, answer, *columns)
    assert reason == 'category_not_sold' and score < cosine


def test_a_kind_that_nobody_sells_is_said_though_what_it_may_be_is_sold(open_session, world):
    "An unsure hat may be a bag, so bags are looked at; but what is not sold is a hat."
    kinds = {world.garment(key).category for key in world.keys}
    assert 'bag' in kinds and not kinds & {'accessory', 'hat'}
    def unsure(parts):
        chances = dict.fromkeys(CATEGORIES, .005) | {'hat': .7, 'bag': .265}
        parts.primary.evidence = EvidenceTable(edges=(0., 1.), rows={'hat': (chances,)})
        return replace(parts, detector=Seen('hat'))
    session = open_session(unsure)
    (item,) = session.recognize(world.photo(world.keys[0], 'back'), now=NOW).items
    assert item.reason == 'category_not_sold' and item.match_type == 'style'
    assert {world.garment((m.brand, m.external_id)).category for m in item.matches} == {'bag'}


def test_a_stopped_feed_is_the_reason(open_session, world):
    late, photo = NOW + timedelta(days=9), world.photo(world.keys[0])
    (item,) = open_session().recognize(photo, user_mall=world.mall_names[0], now=late).items
    assert item.reason == 'feed_stopped' and item.matches


@pytest.mark.parametrize('order', ['likeness', 'price'])
def test_alternatives_are_the_nearest_first_unless_the_price_counts(open_session, world, order):
    "SPEC §8: FALLBACK_ORDER."
    session, photo = open_session(FALLBACK_ORDER=order), world.photo(world.keys[0], 'back')
    item = Item(Box(0, 0, *photo.size), 'top', 1., photo)
    ctx = new_context(session.recognizer, now=NOW)
    wanted = Wanted('top', None, None)
    found = session.run(products_like(ItemState(index=0, item=item), ctx, wanted))
    scores = [-c.score for c in found]
    prices = [world.product(c.key).price for c in found]
    mine, other = (scores, prices) if order == 'likeness' else (prices, scores)
    assert len(found) > 3 and mine == sorted(mine) and other != sorted(other)
