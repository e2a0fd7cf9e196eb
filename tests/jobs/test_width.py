"""Versions of 768, 384 and 512 numbers side by side: each is built, read, compared, carried and dropped
as any other, and people who search meanwhile notice nothing.
"""
import json
import threading
import time
from collections import Counter

import numpy as np
import psycopg
import pytest

from unde_recog.contracts import SkuKey
from unde_recog.db.database import run
from unde_recog.db.version_files import export_version, import_version
from unde_recog.db.versions import drop_version, list_versions, stored_width, use_version, version_in_force
from unde_recog.embedder import load_embedder
from unde_recog.jobs.hnsw import index_name
from unde_recog.jobs.index import index_catalogue
from unde_recog.jobs.index_status import index_sizes, measure_search
from unde_recog.jobs.older_vectors import import_vectors
from unde_recog.likeness import Likeness
from unde_recog.models.pull import pull_model
from unde_recog.research.version_comparison import compare_versions
from unde_recog.sandbox.hub import serve_hub
from unde_recog.search import exact_query, layout_query, parse_layout, search, skus_query
from unde_recog.settings import load_settings
from unde_recog.web.lifecycle import Engine
from unde_recog.web.metrics import Metrics

from tests.models.test_pull import PRE, joint_graph, write_words
from tests.web_shop import Shop

WIDTHS = (768, 384)


def pull_random(home, folder, dims):
    "A tower of random weights in the format of fashion-clip's joint graph, pulled from a hub; → its card."
    repo = folder/f'hub{dims}/shop/wide{dims}'
    (repo/'onnx').mkdir(parents=True)
    (repo/'onnx/model.onnx').write_bytes(joint_graph(dims))
    (repo/'preprocessor_config.json').write_text(json.dumps(PRE))
    words = {'max_position_embeddings': 6}
    (repo/'config.json').write_text(json.dumps({'model_type': 'clip', 'text_config': words}))
    write_words(repo)
    with serve_hub(folder/f'hub{dims}') as hub:
        return pull_model(f'hf:shop/wide{dims}', home.model_copy(update={'HF_ENDPOINT': hub.url}))


@pytest.fixture(scope='module')
def shop(server_url, template, tmp_path_factory):
    made = Shop(server_url, template, tmp_path_factory.mktemp('shop'), 'test_width', skus=12)
    made.cards = {d: pull_random(made.settings(), made.folder, d) for d in WIDTHS}
    yield made
    made.drop()


def build(shop, dims, **how):
    "Index the shop with the tower of `dims` numbers, with HNSW however few rows there are."
    embedder = load_embedder(shop.cards[dims].name, 'batch', settings=shop.settings())
    with shop.db() as db:
        return index_catalogue(db, embedder, storage=shop.storage, global_from=4, **how)


def in_force(shop):
    with shop.db() as db, db.connect('vectors') as conn: return version_in_force(list_versions(conn)).version


def list_of(answer):
    "What an answer says: version, and products with scores of each garment."
    rows = [[(m.brand, m.external_id, round(m.score, 4)) for m in i.matches] for i in answer.items]
    return answer.model_version, rows


def test_built_switched_and_back_while_people_search(shop):
    old, settings = in_force(shop), {
        'DATABASE_URL': shop.url, 'UNDE_DATA_DIR': shop.data, 'DETECTOR_MODEL': 'whole_photo'}
    read = lambda: load_settings(env={}, **settings)
    photos = [shop.photo(n) for n in range(8)]
    seen, failed, stop = [], [], threading.Event()

    def ask(n):
        while not stop.is_set():
            try: seen.append((n % 8, *list_of(engine.session.recognize(photos[n % 8]))))
            except Exception as e: failed.append(repr(e))
            n += 3

    engine = Engine(read(), Metrics(), reload=read, watch=.3)
    engine.start()
    limit = time.monotonic() + 60
    while engine.ready is None and time.monotonic() < limit: time.sleep(.05)

    def until(version):
        "Wait until the last answers are of `version`, after some were given."
        start, ends = len(seen), time.monotonic() + 60
        while len(seen) < start + 8 or {v for _, v, _ in seen[-6:]} != {version}:
            assert time.monotonic() < ends, (Counter(v for _, v, _ in seen[start:]), failed[:3])
            time.sleep(.05)

    threads = [threading.Thread(target=ask, args=(n,), daemon=True) for n in range(2)]
    for t in threads: t.start()
    try:
        until(old)
        report = build(shop, 768)  # whole, and so it is read as soon as it is complete
        new = report.version
        until(new)
        with psycopg.connect(shop.url, autocommit=True) as conn:
            for version in (old, new, old):
                use_version(conn, version)
                until(version)
    finally:
        stop.set()
        for t in threads: t.join(10)
        engine.close()
    assert failed == [] and report.coverage == 1 and report.failed == {}
    alone = {}  # what each version says by itself
    for version in (old, new):
        with shop.session(BLEND_EMBEDDING_VERSION=version, DETECTOR_MODEL='whole_photo') as session:
            for n, photo in enumerate(photos): alone[n, version] = list_of(session.recognize(photo))[1]
    assert all(rows == alone[n, version] for n, version, rows in seen), 'an answer of two versions'
    assert {v for _, v, _ in seen} == {old, new}
    differ = [n for n in range(8) if alone[n, old] != alone[n, new]]
    assert differ  # else the comparison says nothing


def vectors_of(conn, version, column):
    query = f'select count(*), count({column}) from sku_image_embeddings where model_version = %s'
    return conn.execute(query, (version,)).fetchone()


@pytest.mark.parametrize('dims', WIDTHS)
def test_index_and_exact_agree_and_the_index_is_used(shop, dims):
    report = build(shop, dims)
    with shop.db() as db, db.connect('vectors') as conn:
        rows, held = vectors_of(conn, report.version, 'embedding_other')
        assert rows == held == report.photos and stored_width(conn, report.version) == dims
        layout = parse_layout(report.version, run(conn, layout_query(report.version)))
        assert layout.rows and layout.categories
        embedder = load_embedder(shop.cards[dims].name, settings=shop.settings())
        vector = embedder.embed([shop.world.photo(shop.world.keys[3], 'on_model')])[0]
        found = search(conn, vector, 10, layout=layout)
        truth = run(conn, exact_query(vector, 10, report.version))
        assert [round(c.cosine, 5) for c in found] == [round(min(1., 1 - r[5]), 5) for r in truth]
        assert len({c.key for c in found}) == 10
        with conn.transaction():
            conn.execute('set local enable_seqscan = off')
            conn.execute('set local enable_sort = off')
            query = skus_query(vector, 10, layout)
            plan = conn.execute('explain ' + query.sql, query.params).fetchall()
            assert index_name(report.version, None) in str(plan)
        status = index_sizes(conn, report.version)
        measure_search(conn, status, questions=3)
        assert status.recall == 1 and status.unindexed == []


def test_compared_carried_and_dropped(shop, tmp_path):
    wide = build(shop, 384).version
    with shop.db() as db, db.connect('vectors') as conn:
        old = next(v.version for v in list_versions(conn) if v.dims == 512)
        use_version(conn, old)
        said = compare_versions(conn, old, wide)
        assert said.products == 12 and set(said.recall_new) == {1, 5, 10} and said.trusted_new is None
        manifest = export_version(conn, wide, tmp_path/'out')
        before = conn.execute('select brand, sku_id, image_hash, embedding_other from sku_image_embeddings '
                              'where model_version = %s order by 1, 2, 3', (wide,)).fetchall()
        assert manifest['dims'] == 384 and drop_version(conn, wide) == len(before)
        assert conn.execute('select to_regclass(%s)', (index_name(wide, None),)).fetchone() == (None,)
        assert import_version(conn, tmp_path/'out') == (wide, len(before))
        after = conn.execute('select brand, sku_id, image_hash, embedding_other from sku_image_embeddings '
                             'where model_version = %s order by 1, 2, 3', (wide,)).fetchall()
        assert [r[:3] for r in before] == [r[:3] for r in after]
        assert all(np.array_equal(a[3].to_numpy(), b[3].to_numpy()) for a, b in zip(before, after))


def test_similar_items_and_cut_by_a_wide_primary(shop):
    wide, key = build(shop, 768).version, shop.world.keys[2]
    with shop.db() as db, db.connect('vectors') as conn:
        use_version(conn, wide)
        for kind in ('items', 'cut'):
            said = Likeness().similar(conn, kind, SkuKey(*key), 5)
            assert said.model.startswith(wide) and len(said.found) == 5
            assert key not in {c.key for c in said.found}


def test_older_vectors_of_another_width(shop, monkeypatch):
    monkeypatch.setenv('UNDE_DATA_DIR', str(shop.data))
    card = shop.cards[384]
    with psycopg.connect(shop.url, autocommit=True) as conn:
        from pgvector.psycopg import register_vector
        register_vector(conn)
        conn.execute('create table older384 (image_id int primary key, product_id int, '
                     'image_embedding vector, image_url text, model_version text)')
        rng = np.random.default_rng(0)
        vectors = [rng.normal(size=384 if n else 512).astype('float32') for n in range(5)]
        rows = [(n, n, vector, f'{n}.jpg', 'x') for n, vector in enumerate(vectors)]
        conn.cursor().executemany('insert into older384 values (%s, %s, %s, %s, %s)', rows)
    ids = {n: SkuKey(*shop.world.keys[n]) for n in range(5)}
    with shop.db() as db:
        report = import_vectors(db, shop.url, ids, model=card.name, table='older384')
        with db.connect('vectors') as conn: width = stored_width(conn, report.version)
    assert (report.written, report.unusable, width) == (4, 1, 384)


def test_words_by_a_wide_version_beside_the_one_that_answers_photos(shop, monkeypatch):
    from types import SimpleNamespace

    from unde_recog.web import search as web
    wide = build(shop, 768).version
    monkeypatch.setattr(web, 'READERS', (shop.cards[768].name,))
    with shop.db() as db:
        with db.connect('vectors') as conn:
            use_version(conn, next(v.version for v in list_versions(conn) if v.dims == 512))
        state = SimpleNamespace(engine=SimpleNamespace(db=db), settings=shop.settings())
        version, found = web.by_other_tower(state, web.search_tools(state.settings), 'navy coat', 5)
    assert version == wide and len(found) == 5
