"""Window, newest reading, midnight, time zones and daylight saving, on a real PostgreSQL against a
plain-Python oracle."""

import asyncio
import random
from collections import defaultdict
from datetime import datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg.types.json import Jsonb

from unde_recog.availability import Malls, Round, UnknownMall, aavailable, available, next_round, parse_malls
from unde_recog.contracts import Candidate, SkuKey
from unde_recog.db.database import Databases

UTC, DAY, MICRO = timezone.utc, timedelta(hours=24), timedelta(microseconds=1)
NOW = datetime(2026, 3, 10, 15, tzinfo=UTC)
PRAGUE, SHIRT = 'Palladium', SkuKey('zara', 'shirt')


@pytest.fixture
def conn(db):
    with db.connect('catalogue') as conn: yield conn


def shops(conn, *rows):
    conn.cursor().executemany(
        'insert into raw_stores (brand, store_id, name, mall_name, floor) values (%s, %s, %s, %s, %s)',
        [(b, s, f'{b} {s}', m, '1') for b, s, m in rows],
    )


def reading(conn, at, sizes=('S', 'M'), key=SHIRT, store='z1'):
    conn.execute(
        '''insert into raw_availability (brand, store_id, product_id, sizes_in_stock, fetched_at)
            values (%s, %s, %s, %s, %s)''',
        (key.brand, store, key.external_id, Jsonb(list(sizes)), at),
    )


def ask(conn, now=NOW, mall=PRAGUE, window=DAY, keys=(SHIRT,)):
    return available(conn, [Candidate(key=k, score=0.9) for k in keys], mall, window, now=now)


def group(stock): return next((n for n in ('here', 'elsewhere', 'gone') if getattr(stock, n)), None)


@pytest.fixture
def shop(conn):
    shops(conn, ('zara', 'z1', PRAGUE))
    return conn


@pytest.mark.parametrize(
    ('age', 'found'),
    [
        (timedelta(0), True),
        (DAY - MICRO, True),
        (DAY, False),
        (DAY + MICRO, False),
        (timedelta(hours=-1), False),
        (-MICRO, False),
    ],
)
def test_the_edges_of_the_window(shop, age, found):
    "(now − window, now]: a reading from the future is none, one that is exactly a window old is too old."
    reading(shop, NOW - age)
    stock = ask(shop)
    assert group(stock) == ('here' if found else 'gone') and stock.feed == ('fresh' if found else 'stopped')


@pytest.mark.parametrize(
    'now',
    [
        datetime(2026, 3, 10, 0, 5, tzinfo=UTC),
        datetime(2026, 3, 10, 0, 0, tzinfo=UTC),
        datetime(2026, 12, 31, 23, 59, 59, tzinfo=UTC),
        datetime(2028, 2, 29, 0, 1, tzinfo=UTC),
    ],
)
def test_the_window_crosses_midnight(shop, now):
    "Yesterday's reading counts until today's comes; then only today's does, even if it is empty."
    def asked(at): return ask(shop, at, window=timedelta(hours=25))
    yesterday = now - timedelta(hours=now.hour, minutes=now.minute, seconds=now.second + 1)
    assert yesterday.date() == now.date() - timedelta(days=1)
    reading(shop, yesterday, ['S'])
    assert group(asked(now)) == 'here'
    reading(shop, now, [])
    assert group(asked(now)) == 'gone' and asked(now).feed == 'fresh'
    assert group(asked(now - MICRO)) == 'here'


def test_an_empty_newest_reading_beats_a_full_older_one_and_the_other_way_round(shop):
    for hours, sizes in ((23, ['S']), (2, []), (1, ['L', 'XL'])):
        at = NOW - timedelta(hours=hours)
        # one row a day, as the import keeps it
        if hours == 1:
            shop.execute(
                'delete from raw_availability where fetched_at = %s', (NOW - timedelta(hours=2),)
            )
        reading(shop, at, sizes)
        stock = ask(shop)
        assert group(stock) == ('here' if sizes else 'gone')
    (store,) = stock.here[0].stores
    assert (
        store.sizes == ['L', 'XL']
        and store.fetched_at == NOW - timedelta(hours=1)
        and store.floor == '1'
    )


ZONES = [
    'UTC',
    'Europe/Prague',
    'America/St_Johns',
    'Asia/Kathmandu',
    'Pacific/Kiritimati',
    'Pacific/Niue',
    'Australia/Lord_Howe',
]


@pytest.mark.parametrize('zone', ZONES)
def test_the_clock_on_the_wall_does_not_matter(shop, zone):
    "The same instants, told in any zone by the caller and by the server's session."
    shop.execute("select set_config('timezone', %s, false)", (zone,))
    reading(shop, (NOW - DAY + MICRO).astimezone(ZoneInfo(zone)), ['S'])
    assert group(ask(shop, NOW.astimezone(ZoneInfo(zone)))) == 'here'
    assert group(ask(shop, (NOW + MICRO).astimezone(ZoneInfo(zone)))) == 'gone'
    assert ask(shop).here[0].stores[0].fetched_at == NOW - DAY + MICRO
    shop.execute("set timezone to 'UTC'")


@pytest.mark.parametrize('session', ['UTC', 'Europe/Prague'])
@pytest.mark.parametrize(
    ('local', 'hours'), [((2026, 3, 29, 12), 23), ((2026, 10, 25, 12), 25), ((2026, 6, 1, 12), 24)]
)
def test_a_window_is_24_hours_also_when_the_day_is_not(shop, local, hours, session):
    "In the night of the change, noon to noon is 23 or 25 hours: the window stays one of elapsed time."
    shop.execute("select set_config('timezone', %s, false)", (session,))
    now = datetime(*local, tzinfo=ZoneInfo('Europe/Prague'))
    noon = (now - timedelta(days=1)).astimezone(UTC)  # wall time: noon of the day before
    assert (now.astimezone(UTC) - noon) == timedelta(hours=hours)
    reading(shop, noon)
    assert group(ask(shop, now)) == ('here' if hours < 24 else 'gone')
    shop.execute('delete from raw_availability')
    reading(shop, now.astimezone(UTC) - DAY + MICRO)
    assert group(ask(shop, now)) == 'here'
    shop.execute("set timezone to 'UTC'")


def test_the_repeated_hour_of_autumn_has_two_readings(shop):
    "2:30 comes twice on 25 October: the second is the newer."
    first, second = (
        datetime(2026, 10, 25, 2, 30, fold=f, tzinfo=ZoneInfo('Europe/Prague')) for f in (0, 1)
    )
    reading(shop, first, ['S'])
    assert (
        ask(shop, second, window=timedelta(minutes=90)).here
        and not ask(shop, second, window=timedelta(minutes=60)).here
    )


def test_one_row_a_utc_day_whatever_the_zone(shop):
    import psycopg
    reading(shop, datetime(2026, 3, 10, 0, 30, tzinfo=ZoneInfo('Europe/Prague')))   # 9 March in UTC
    reading(shop, datetime(2026, 3, 10, 1, 30, tzinfo=ZoneInfo('Europe/Prague')))  # 10 March
    with pytest.raises(psycopg.errors.UniqueViolation):
        reading(shop, datetime(2026, 3, 11, 0, 59, tzinfo=ZoneInfo('Europe/Prague')))


def test_a_time_without_a_zone_is_refused(shop):
    with pytest.raises(ValueError, match='time zone'): ask(shop, datetime(2026, 3, 10, 15))


def test_now_is_now_unless_told(shop):
    reading(shop, datetime.now(UTC) - timedelta(hours=1))
    assert (
        available(shop, [Candidate(key=SHIRT, score=0.9)], PRAGUE, DAY).here
        and not available(
            shop, [Candidate(key=SHIRT, score=0.9)], PRAGUE, timedelta(minutes=59)
        ).here
    )


def test_a_stopped_feed_is_told_from_an_empty_shelf(conn):
    shops(conn, ('zara', 'z1', PRAGUE), ('zara', 'z9', 'Chodov'), ('hm', 'h1', PRAGUE))
    assert ask(conn).feed == 'stopped'
    reading(conn, NOW, ['S'], store='z9')
    stock = ask(conn)
    # the other mall's feed says nothing of ours
    assert group(stock) == 'elsewhere' and stock.feed == 'stopped'
    reading(conn, NOW, [], key=SkuKey('hm', 'skirt'), store='h1')
    stock = ask(conn)
    assert group(stock) == 'elsewhere' and stock.feed == 'fresh'
    assert ask(conn, NOW + DAY).feed == 'stopped' and ask(conn, mall=None).feed == 'unasked'


def test_malls_are_named_in_order_and_here_comes_first(conn):
    shops(
        conn,
        ('zara', 'z1', PRAGUE),
        ('zara', 'z2', 'Chodov'),
        ('zara', 'z3', 'Arkady'),
        ('zara', 'z4', None),
        ('zara', 'z5', PRAGUE),
    )
    coat, hat, bag = (SkuKey('zara', n) for n in ('coat', 'hat', 'bag'))
    for key, store in (
        (SHIRT, 'z2'),
        (SHIRT, 'z3'),
        (coat, 'z1'),
        (coat, 'z5'),
        (coat, 'z2'),
        (hat, 'z4'),
    ):
        reading(conn, NOW, key=key, store=store)
    stock = ask(conn, keys=(SHIRT, coat, bag, hat))
    assert (
        [c.key for c in stock.here] == [coat]
        and [c.key for c in stock.elsewhere] == [SHIRT, hat]
        and [c.key for c in stock.gone] == [bag]
    )
    assert (
        stock.elsewhere[0].other_malls == ('Arkady', 'Chodov')
        and stock.elsewhere[1].other_malls == ()
        and [s.store_id for s in stock.elsewhere[1].stores] == ['z4']
    )
    assert [s.store_id for s in stock.here[0].stores] == ['z1', 'z5'] and stock.here[
        0
    ].other_malls == ('Chodov',)
    assert [c.in_mall for c in stock.offered] == [
        True,
        False,
        False,
    ] and stock.offered == stock.here + stock.elsewhere


def test_without_a_mall_the_first_twenty_pass(conn):
    stock = ask(conn, mall=None, keys=[SkuKey('zara', str(i)) for i in range(30)])
    assert (
        [c.key.external_id for c in stock.here] == [str(i) for i in range(20)]
        and {c.in_mall for c in stock.here} == {None}
        and not stock.gone
    )


def test_the_same_id_of_another_brand_is_another_product(conn):
    shops(conn, ('zara', 's', PRAGUE), ('hm', 's', PRAGUE))
    reading(conn, NOW, key=SkuKey('hm', 'shirt'), store='s')
    assert [c.key.brand for c in ask(conn, keys=(SHIRT, SkuKey('hm', 'shirt'))).here] == ['hm']


def test_no_candidates_and_a_reading_of_a_store_that_is_gone(conn):
    assert ask(conn, keys=()).offered == []
    reading(conn, NOW, store='closed')
    assert group(ask(conn)) == 'gone'


def test_texts_are_data(conn):
    mall, key = "O'Connell % {mall} %(now)s; --", SkuKey('zara', "x'; drop table raw_stores; --")
    shops(conn, ('zara', 'z1', mall))
    reading(conn, NOW, key=key)
    assert ask(conn, mall=mall, keys=(key,)).here and conn.execute(
        'select count(*) from raw_stores'
    ).fetchone() == (1,)


def malls_of(db, mall, *, then=None):
    async def go():
        malls = Malls(ttl=3600)
        async with Databases(db.urls) as own, own.aconnect('catalogue') as conn:
            try: first = await malls.brands(conn, mall)
            except UnknownMall as e: first = e
            if then is None: return first
            then()
            return first, await malls.brands(conn, then.mall)
    return asyncio.run(go())


def test_a_malls_brands(conn, db):
    shops(
        conn,
        ('zara', 'z1', PRAGUE),
        ('zara', 'z2', PRAGUE),
        ('hm', 'h1', PRAGUE),
        ('oysho', 'o1', 'Chodov'),
        ('bershka', 'b1', None),
    )
    assert malls_of(db, PRAGUE) == ('hm', 'zara')


def test_an_unknown_mall_is_said_with_near_names(conn, db):
    assert 'import stores' in str(malls_of(db, 'Paladium'))
    shops(conn, ('zara', 'z1', PRAGUE), ('zara', 'z2', 'Chodov'))
    assert 'did you mean Palladium' in str(malls_of(db, 'Paladium')) and 'Chodov, Palladium' in str(
        malls_of(db, 'qqq')
    )


def test_a_new_mall_is_known_at_once(conn, db):
    "SPEC §11: a new mall is rows in raw_stores; the cache must not hide it."
    shops(conn, ('zara', 'z1', PRAGUE))
    def opening(): shops(conn, ('hm', 'h1', 'New'))
    opening.mall = 'New'
    assert malls_of(db, PRAGUE, then=opening) == (('zara',), ('hm',))


def test_random_readings_against_an_oracle(conn, db):
    "Four days of polls around two midnights, sixty questions; the sync and the async road give the same."
    rng = random.Random(8)
    stores = [
        (b, f'{b}{i}', rng.choice([PRAGUE, 'Chodov', 'Arkady', None]))
        for b in ('zara', 'hm', 'oysho')
        for i in range(4)
    ]
    shops(conn, *stores)
    keys, rows = [SkuKey(b, str(i)) for b in ('zara', 'hm', 'oysho') for i in range(8)], {}
    for _ in range(900):
        brand, store, _ = rng.choice(stores)
        at = NOW - timedelta(minutes=rng.randrange(0, 4 * 24 * 60), microseconds=rng.choice([0, 1]))
        rows[brand, store, str(rng.randrange(8)), at.date()] = at, rng.choice([[], ['S'], ['M', 'L']])
    for (brand, store, item, _), (at, sizes) in rows.items():
        reading(conn, at, sizes, SkuKey(brand, item), store)
    mall_of = {(b, s): m for b, s, m in stores}
    questions = []
    for _ in range(60):
        at, window = rng.choice(list(rows.values()))[0], timedelta(hours=rng.choice([1, 12, 24, 48]))
        questions.append(
            (
                at + rng.choice([timedelta(0), window, window - MICRO, -MICRO, timedelta(hours=3)]),
                window,
                rng.choice([PRAGUE, 'Chodov', 'Arkady']),
            )
        )

    def oracle(now, window, mall):
        newest = defaultdict(dict)
        for (brand, store, item, _), (at, sizes) in rows.items():
            if now - window < at <= now and at > newest[brand, item].get(store, (now - window,))[0]:
                newest[brand, item][store] = at, sizes
        return {k: sorted((s, tuple(z), at) for s, (at, z) in newest[k].items() if z) for k in keys}

    async def ask_async():
        async with Databases(db.urls) as own, own.aconnect('catalogue') as c:
            return [
                await aavailable(
                    c, [Candidate(key=k, score=0.9) for k in keys], mall, window, now=now
                )
                for now, window, mall in questions
            ]

    for (now, window, mall), other in zip(questions, asyncio.run(ask_async())):
        stock, truth = ask(conn, now, mall, window, keys), oracle(now, window, mall)
        assert stock == other
        for c in stock.offered + stock.gone:
            shown = [s for s in truth[c.key] if c in stock.elsewhere or mall_of[c.key.brand, s[0]] == mall]
            assert sorted((s.store_id, tuple(s.sizes), s.fetched_at) for s in c.stores) == shown
            assert c.other_malls == tuple(
                sorted({mall_of[c.key.brand, s[0]] for s in truth[c.key]} - {mall, None})
            )
        here = [k for k in keys if any(mall_of[k.brand, s[0]] == mall for s in truth[k])]
        assert [c.key for c in stock.here] == here and [c.key for c in stock.gone] == [
            k for k in keys if not truth[k]
        ]
        polled = any(
            mall_of[b, s] == mall and now - window < at <= now
            for (b, s, _, _), (at, _) in rows.items()
        )
        assert stock.feed == ('fresh' if polled else 'stopped')


@given(
    st.integers(0, 5),
    st.integers(1, 5),
    st.sampled_from(['pgvector', 'conditional', 'dual', 'ximilar']),
    st.sampled_from([20, 50, 100, 150]),
    st.booleans(),
    st.integers(0, 70),
    st.booleans(),
    st.booleans(),
)
def test_widening_ends_and_never_pays_twice(
    in_mall, minimum, backend, k, asked, leftovers, has_booster, exhausted
):
    "SPEC §6: first the primary to 100 and 200, free; then the booster once, else its leftovers once."
    steps = []
    while (
        step := next_round(
            in_mall,
            minimum,
            backend,
            k=k,
            booster_asked=asked,
            leftovers=leftovers,
            has_booster=has_booster,
            exhausted=exhausted,
        )
    ) is not None:
        steps.append(step)
        if step.action == 'widen':
            assert step.k > k
            k = step.k
        elif step.action == 'booster':
            assert not asked
            asked, leftovers = True, 0
        else:
            assert leftovers == step.k and asked
            leftovers = 0
        assert len(steps) <= 3
    assert not steps or in_mall < minimum
    assert [s.action for s in steps] == sorted(
        (s.action for s in steps), key=['widen', 'booster', 'leftovers'].index
    )
    if backend == 'pgvector' or not has_booster: assert all(s.action == 'widen' for s in steps)
    if exhausted: assert Round('widen', 100) not in steps and Round('widen', 200) not in steps


def test_each_product_has_its_own_malls():
    keys = [SkuKey('zara', n) for n in 'abcd']
    rows = [(n, [f'mall {n}']) for n in (4, 1, 3)]
    assert parse_malls(keys, rows) == {keys[n - 1]: [f'mall {n}'] for n in (1, 3, 4)}
