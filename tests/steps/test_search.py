"Distinct-SKU top-k on a real pgvector against brute force, and the plans that it runs by."
import re

import numpy as np
import pytest

from unde_recog.contracts import Box, Item, SkuKey
from unde_recog.db.database import LOGICALS, Databases, run
from unde_recog.jobs.photos import CatalogPhoto
from unde_recog.jobs.hnsw import build_index, index_name, mark_shared
from unde_recog.jobs.vectors import copy_vectors
from unde_recog.search import (
    Layout,
    PgRetriever,
    SearchQuery,
    VectorSpaceError,
    current_version,
    exact_query,
    exact_scores_query,
    first_query,
    layout_query,
    parse_layout,
    parse_scores,
    parse_skus,
    search,
    skus_query,
)

VERSION, OTHER = 'test-1+none', 'test-2+none'
SIZES = {'big': 900, 'mid': 400, 'small': 60, 'tiny': 3}  # SKUs, six photos each


def unit(x): return (x/np.linalg.norm(x, axis=-1, keepdims=True)).astype('float32')


def make(kind, seed):
    rng = np.random.default_rng(seed)
    centres = unit(rng.normal(size=(25, 512)))
    rows = []
    for brand, n in SIZES.items():
        for i in range(n):
            sku = (
                unit(rng.normal(size=512))
                if kind == 'random'
                else unit(centres[rng.integers(25)] + 0.05 * rng.normal(size=512))
            )
            for rank, v in enumerate(unit(sku + 0.02 * rng.normal(size=(6, 512)))):
                rows.append((SkuKey(brand, f's{i}'), rank, v))
    return rows


@pytest.fixture(scope='module', params=['random', 'clustered'])
def loaded(request, server_url, template):
    import psycopg
    from tests.conftest import sibling
    name = f'test_search_{request.param}'
    with psycopg.connect(server_url, autocommit=True) as conn:
        conn.execute(f'drop database if exists {name} with (force)')
        conn.execute(f'create database {name} template {template}')
    rows = make(request.param, 1)
    with Databases(dict.fromkeys(LOGICALS, sibling(server_url, name))) as db:
        with db.connect('vectors') as conn:
            for version, shift in ((VERSION, 0), (OTHER, 1)):
                copy_vectors(
                    conn,
                    (
                        (
                            CatalogPhoto(k, f'{k.brand}/{k.external_id}/{r}', r, {}),
                            f'{i:064x}',
                            v if not shift else -v,
                        )
                        for i, (k, r, v) in enumerate(rows)
                    ),
                    version,
                )
                build_index(conn, version)
            for brand in ('big', 'mid'): build_index(conn, VERSION, brand)
            conn.execute('vacuum analyze sku_image_embeddings')
        yield db, rows
    with psycopg.connect(server_url, autocommit=True) as conn:
        conn.execute(f'drop database if exists {name} with (force)')


def brute(rows, vector, k, brands=None):
    best = {}
    for key, _, v in rows:
        if brands is None or key.brand in brands: best[key] = max(best.get(key, -2.), float(v @ vector))
    return [key for key, _ in sorted(best.items(), key=lambda x: -x[1])[:k]], best


FILTERS = [
    None,
    ['big'],
    ['mid'],
    ['small'],
    ['tiny'],
    ['mid', 'tiny'],
    ['small', 'tiny'],
    ['big', 'mid'],
    ['big', 'mid', 'small', 'tiny'],
    ['nobody'],
    ['nobody', 'tiny'],
]


@pytest.mark.parametrize('brands', FILTERS, ids=str)
def test_exact_equals_brute_force(loaded, brands):
    db, rows = loaded
    rng = np.random.default_rng(2)
    with db.connect('vectors') as conn:
        for _ in range(3):
            q = unit(rows[rng.integers(len(rows))][2] + .03*rng.normal(size=512))
            found, (wanted, scores) = (
                [(r[0], r[1]) for r in run(conn, exact_query(q, 50, VERSION, brands))],
                brute(rows, q, 50, brands),
            )
            assert len(found) == len(wanted) == len(set(found))
            assert np.allclose([scores[SkuKey(*k)] for k in found], [scores[k] for k in wanted], atol=2e-6)


@pytest.mark.parametrize('brands', FILTERS, ids=str)
def test_search_gives_distinct_skus_and_never_fewer(loaded, brands):
    db, rows = loaded
    rng, shares, best = np.random.default_rng(3), [], []
    there = sum(n for b, n in SIZES.items() if brands is None or b in brands)
    with db.connect('vectors') as conn:
        layout = parse_layout(VERSION, run(conn, layout_query(VERSION)))
        assert layout.rows == sum(SIZES.values())*6 and set(layout.brands) == {'big', 'mid'}
        for _ in range(5):
            q = unit(rows[rng.integers(len(rows))][2] + .03*rng.normal(size=512))
            for k in (1, 50, 200):
                found, (wanted, scores) = (
                    search(conn, q, k, layout=layout, brands=brands),
                    brute(rows, q, k, brands),
                )
                assert len(found) == min(k, there) == len({c.key for c in found})
                assert all(brands is None or c.key.brand in brands for c in found)
                close = [abs(c.score - min(1, max(0, scores[c.key]))) < 2e-6 for c in found]
                assert all(c.score <= min(1, max(0, scores[c.key])) + 2e-6 for c in found) and all(
                    a.score >= b.score for a, b in zip(found, found[1:])
                )
                # HNSW may pass by a SKU's best photo and give its next one
                if close: best.append(np.mean(close))
                if there: shares.append(len({c.key for c in found} & set(wanted))/len(wanted))
    # an index is built anew each time; reports/latency measures it
    if shares: assert np.mean(shares) > .8 and np.mean(best) > .9


@pytest.mark.parametrize('brands, index', [(None, None), (['big'], 'big'), (['mid'], 'mid')], ids=str)
def test_plans_use_the_index_by_themselves(loaded, brands, index):
    from unde_recog.jobs.hnsw import index_name
    db, rows = loaded
    with db.connect('vectors') as conn:
        layout = parse_layout(VERSION, run(conn, layout_query(VERSION)))
        query = skus_query(rows[0][2], 10, layout, brands)
        assert not any('seqscan' in name for name in query.local)
        plan = '\n'.join(
            r[0] for r in run(conn, type(query)('explain ' + query.sql, query.params, query.local))
        )
    plan = re.sub(r"'\[[^]]*\]'", 'vector', plan)
    allowed = (
        {index_name(VERSION, index), index_name(VERSION, None)}
        if brands and layout.mostly(brands)
        else {index_name(VERSION, index)}
    )
    assert any(name in plan for name in allowed) and 'Seq Scan on sku_image' not in plan, plan


def test_versions_never_meet(loaded):
    db, rows = loaded
    q = rows[0][2]
    with db.connect('vectors') as conn:
        layout = parse_layout(OTHER, run(conn, layout_query(OTHER)))
        first = search(conn, -q, 5, layout=layout)[0]
        assert first.key == rows[0][0] and first.score > .99
        assert (
            search(conn, q, 5, layout=Layout(VERSION))[0].score > 0.99
            and search(conn, q, 5, layout=Layout('nobody-1+x')) == []
        )


def test_exact_scores_of_given_skus(loaded):
    db, rows = loaded
    q = rows[0][2]
    _, scores = brute(rows, q, 1)
    keys = [SkuKey('big', 's1'), SkuKey('tiny', 's2'), SkuKey('tiny', 'missing')]
    with db.connect('vectors') as conn:
        found = parse_scores(run(conn, exact_scores_query(keys, q, VERSION)))
    assert set(found) == set(keys[:2]) and all(abs(found[k] - max(0, scores[k])) < 2e-6 for k in found)


class Fake:
    def __init__(self, version, dims=512): self.model_version, self.dims, self.card = version, dims, None
    def embed(self, images): return np.ones((len(images), self.dims), 'float32')/np.sqrt(self.dims)


def test_another_vector_space_is_refused(db):
    with pytest.raises(VectorSpaceError, match='test-2'): PgRetriever(db, Fake('test-2+none'), VERSION)
    with pytest.raises(VectorSpaceError, match='3072'): PgRetriever(db, Fake(VERSION, 3072), VERSION)


def test_current_version(db):
    with db.connect('vectors') as conn:
        with pytest.raises(VectorSpaceError, match='unde-recog index'): current_version(conn)
        put = '''insert into embedding_versions (version, model, dims, status, completed_at)
            values (%s, %s, 512, %s, %s)'''
        conn.execute(put, ('a', 'm', 'complete', '2026-01-01'))
        conn.execute(put, ('b', 'm', 'complete', '2026-02-01'))
        conn.execute(put, ('c', 'm', 'building', None))
        assert current_version(conn).version == 'b' and current_version(conn, 'a').version == 'a'
        with pytest.raises(VectorSpaceError, match='BLEND_EMBEDDING_VERSION=z'): current_version(conn, 'z')




def test_retriever_on_a_small_index(db):
    import asyncio
    from PIL import Image

    with db.connect('vectors') as conn:
        copy_vectors(
            conn,
            [
                (
                    CatalogPhoto(SkuKey('hm', 'a'), 'u', 0, {'name': 'shirt'}),
                    'a' * 64,
                    np.ones(512, 'float32') / np.sqrt(512),
                )
            ],
            VERSION,
        )
    item = Item(Box(0, 0, 8, 8), 'top', 1., Image.new('RGB', (8, 8)))

    async def ask():
        retriever = PgRetriever(db, Fake(VERSION), VERSION)
        try:
            return (
                await retriever.search(item, 5),
                await retriever.search(item, 5, brands=[]),
                await retriever.exact_scores(item, [SkuKey('hm', 'a'), SkuKey('hm', 'b')]),
            )
        finally: await db.aclose()
    found, none, exact = asyncio.run(ask())
    assert (
        [c.key for c in found] == [SkuKey('hm', 'a')]
        and found[0].metadata['name'] == 'shirt'
        and none == []
        and set(exact) == {SkuKey('hm', 'a')}
    )


def test_one_picture_under_many_products_hides_nothing(db):
    "A fifth of the rows, and all that some products have, is one picture."
    rng = np.random.default_rng(4)
    picture, near = unit(rng.normal(size=512)), unit(rng.normal(size=512))
    skus = unit(near + .04*rng.normal(size=(400, 512)))
    rows = []
    for i, sku in enumerate(skus):
        for rank, v in enumerate(unit(sku + .01*rng.normal(size=(4, 512)))):
            rows.append((SkuKey('shop', f's{i}'), rank, v, int(rng.integers(1, 2**62))))
        rows.append((SkuKey('shop', f's{i}'), 4, picture, 7))
    rows += [(SkuKey('shop', f'only{i}'), 0, picture, 7) for i in range(30)]
    with db.connect('vectors') as conn:
        copy_vectors(conn, ((CatalogPhoto(k, f'{k}/{r}', r, {}), f'{i:064x}', v, h)
                            for i, (k, r, v, h) in enumerate(rows)), VERSION)
        assert mark_shared(conn, VERSION) == 430
        build_index(conn, VERSION, workers=0)
        conn.execute('vacuum analyze sku_image_embeddings')
        layout = parse_layout(VERSION, run(conn, layout_query(VERSION)))
        asked = unit(skus[:40] + .01*rng.normal(size=(40, 512)))
        asked[20:] = unit(asked[20:] + picture)  # half of the queries look like the picture too
        for q in asked:
            own = {}
            for k, _, v, h in rows:
                if h != 7: own[k] = max(own.get(k, -1), float(v @ q))
            found = search(conn, q, 50, layout=layout)
            assert found[0].key == max(own, key=own.get) and len({c.key for c in found}) == 50
        # those that have no other photo come last, and are like nothing
        everything = search(conn, asked[-1], 430, layout=layout)
        assert len(everything) == 430 and all(c.key.external_id.startswith('only') for c in everything[400:])
        assert {c.score for c in everything[400:]} == {0.}
        scores = parse_scores(run(conn, exact_scores_query([SkuKey('shop', 'only1')], picture, VERSION)))
        assert scores == {SkuKey('shop', 'only1'): 0.}


def test_an_index_with_shared_pictures_is_replaced(db):
    with db.connect('vectors') as conn:
        photo = CatalogPhoto(SkuKey('hm', 'a'), 'u', 0, {})
        copy_vectors(conn, [(photo, 'a'*64, unit(np.ones(512)).astype('float32'))], VERSION)
        build_index(conn, VERSION, workers=0)
        name = index_name(VERSION, None)
        older = '{"version": "%s"}' % VERSION
        conn.execute(f"comment on index {name} is '{older}'")
        assert build_index(conn, VERSION, workers=0) and not build_index(conn, VERSION, workers=0)
        (left,) = conn.execute("select count(*) from pg_indexes where indexname like 'hnsw%'").fetchone()
        assert left == 1


# what a query looks at, which no small index shows

def far_layout(**given):
    from unde_recog.search import Layout
    return Layout('v', 100_000, {'zara': 30_000}, {'hm': 900, 'oysho': 5_000}, **given)


@pytest.mark.parametrize('k, fetch, looked_at', [
    (50, None, 300), (10, None, 60), (50, 40, 40), (500, None, 1000),
])
def test_six_photos_are_looked_at_for_each_sku(k, fetch, looked_at):
    "The best 50 photos hold some 30 SKUs: looking at k photos gives too few."
    from unde_recog.search import EF_MAX, skus_query
    assert EF_MAX == 1000
    query = skus_query(np.ones(512, 'float32'), k, far_layout(), fetch=fetch)
    assert query.params['fetch'] == looked_at


def test_without_a_category_an_index_is_searched_twice_as_deep():
    from unde_recog.evidence import Evidence
    from unde_recog.search import planner, skus_query
    vector, layout = np.ones(512, 'float32'), far_layout(categories={'top': 9_000})
    assert skus_query(vector, 50, layout).local == dict(planner(600, False))
    assert skus_query(vector, 50, layout, ['zara']).local == dict(planner(600, False))
    likely = Evidence(likely=('top',))
    assert skus_query(vector, 50, layout, evidence=likely).local == dict(planner(300, True))


def test_when_the_global_index_beats_a_union():
    layout = far_layout()
    assert not layout.mostly(['zara', 'hm']) and not layout.mostly([]) and not layout.mostly(['nobody'])
    from unde_recog.search import Layout
    wide = Layout('v', 100, {'zara': 60}, {'hm': 1})
    assert not wide.mostly(['zara']) and wide.mostly(['zara', 'hm']) and not Layout('v').mostly(['zara'])


def test_rare_categories_are_one_exact_arm():
    from unde_recog.search import category_arms
    layout = far_layout(categories={'top': 9_000})
    arms = category_arms(layout, None, ['top', 'hat', 'bag'])
    assert [a.exact for a in arms] == [False, True] and arms[1].params['rare'] == ['hat', 'bag']
    assert [a.exact for a in category_arms(layout, None, ['top'])] == [False]
    assert category_arms(far_layout(), None, ['top']) == []


def test_small_brands_are_read_whole_up_to_a_limit():
    from unde_recog.search import filter_arms
    few, many = (filter_arms(far_layout(), brands)[-1] for brands in (['hm'], ['hm', 'oysho']))
    assert (few.exact, few.iterate, many.exact, many.iterate) == (True, False, False, True)


def test_nothing_is_no_number_of_skus():
    for k in (0, -1):
        with pytest.raises(ValueError, match=f'k={k}: at least one'):
            first_query(SearchQuery(np.zeros(512, 'float32'), k), None)


def test_a_sku_that_two_arms_bring_is_one_candidate():
    row = lambda sku, url, distance: ('hm', sku, url, {}, 'top', distance)
    rows = [row('1', 'a.jpg', .5), row('1', 'b.jpg', .25), row('2', 'c.jpg', .4)]
    found = parse_skus(rows)
    assert [(c.key.external_id, c.image_url) for c in found] == [('1', 'b.jpg'), ('2', 'c.jpg')]
