"""What worked is never lost: vectors outlive bad photos, moved addresses and shrinking catalogues."""

import numpy as np
import psycopg
import pytest
from PIL import Image

from unde_recog.contracts import SkuKey
from unde_recog.db.leases import LeaseLost
from unde_recog.db.versions import list_versions, use_version, version_in_force
from unde_recog.embedder import load_embedder
from unde_recog.jobs.index import index_catalogue, indexed_model
from unde_recog.jobs.vectors import IndexShrinks
from unde_recog.media.images import to_jpeg
from unde_recog.media.storage import FolderStorage
from unde_recog.search import current_version

INSERT = """insert into raw_products (source, external_id, brand, name, image_urls, image_views)
            values ('test', %s, %s, %s, %s::jsonb, %s::jsonb)"""


class Model:
    "An embedder that counts what it embeds; `bad` maps a colour to what it does with it."

    dims = 512

    def __init__(self, version='model-1', bad=None):
        self.model_version, self.bad, self.embedded = version, bad or {}, 0
        self.card = type('Card', (), {'name': version})

    def embed(self, images):
        rows = []
        for image in images:
            colour = image.convert('RGB').resize((1, 1)).getpixel((0, 0))
            what = next((w for c, w in self.bad.items() if abs(c[0] - colour[0]) < 6), None)
            if isinstance(what, BaseException): raise what
            rng = np.random.default_rng(colour[0]*65536 + colour[1]*256 + colour[2])
            row = rng.normal(size=512)
            rows.append(row/np.linalg.norm(row)*(1. if what is None else what))
        self.embedded += len(rows)
        return np.asarray(rows, 'float32')


@pytest.fixture
def storage(tmp_path): return FolderStorage(tmp_path)


def put_photo(storage, name, red):
    storage.put(name, to_jpeg(Image.new('RGB', (40, 60), (red, 80, 120)), 95))
    return f'storage:{name}'


def add(db, key, urls, brand='hm'):
    listed = '[' + ','.join(f'"{u}"' for u in urls) + ']'
    views = '[' + ','.join('"unknown"' for _ in urls) + ']'
    with db.connect('catalogue') as conn: conn.execute(INSERT, (key, brand, key, listed, views))


def relist(db, key, urls):
    listed = '[' + ','.join(f'"{u}"' for u in urls) + ']'
    views = '[' + ','.join('"unknown"' for _ in urls) + ']'
    with db.connect('catalogue') as conn:
        conn.execute(
            'update raw_products set image_urls = %s::jsonb, image_views = %s::jsonb where external_id = %s',
            (listed, views, key),
        )


def shop(db, storage, n=10, photos=2):
    for i in range(n):
        add(db, f'p{i}', [put_photo(storage, f'{i}-{j}.jpg', 10 + 20*i + 8*j) for j in range(photos)])


def rows(db, version='model-1'):
    with db.connect('vectors') as conn:
        found = conn.execute(
            """select sku_id, image_url, image_rank, image_hash from sku_image_embeddings
               where model_version = %s order by 1, 3, 2""",
            (version,),
        ).fetchall()
    return found


def test_the_same_bytes_at_a_new_address_are_not_embedded_again(db, storage):
    shop(db, storage)
    model = Model()
    index_catalogue(db, model, storage=storage)
    before, model.embedded = rows(db), 0
    for i in range(10):
        for j in range(2): storage.put(f'cdn2/{i}-{j}.jpg', storage.get(f'{i}-{j}.jpg'))
        relist(db, f'p{i}', [f'storage:cdn2/{i}-{j}.jpg' for j in (1, 0)])  # and in another order
    report = index_catalogue(db, model, storage=storage)
    assert (model.embedded, report.moved, report.removed) == (0, 20, 0)
    after = rows(db)
    assert {r[3] for r in after} == {r[3] for r in before} and len(after) == 20
    assert all(url == f'storage:cdn2/{sku[1:]}-{1 - rank}.jpg' for sku, url, rank, _ in after)


def test_photos_that_change_places_keep_their_vectors(db, storage):
    shop(db, storage)
    model = Model()
    index_catalogue(db, model, storage=storage)
    front, back = storage.get('3-0.jpg'), storage.get('3-1.jpg')
    storage.put('3-0.jpg', back)
    storage.put('3-1.jpg', front)
    model.embedded = 0
    report = index_catalogue(db, model, storage=storage)
    assert model.embedded == 0 and report.moved == 2 and len(rows(db)) == 20
    assert index_catalogue(db, model, storage=storage).moved == 0  # and there they stay


def test_a_vector_goes_only_when_its_successor_is_there(db, storage):
    shop(db, storage)
    index_catalogue(db, Model(), storage=storage)
    before = rows(db)
    red = 235
    put_photo(storage, '4-0.jpg', red)
    with pytest.raises(KeyboardInterrupt):
        index_catalogue(db, Model(bad={(red, 0, 0): KeyboardInterrupt()}), storage=storage)
    assert rows(db) == before  # stopped before the new one was there
    failing = Model(bad={(red, 0, 0): RuntimeError('out of memory')})
    report = index_catalogue(db, failing, storage=storage)
    assert report.failed == {'embedding_failed': 1} and rows(db) == before
    report = index_catalogue(db, Model(), storage=storage)
    assert (report.replaced, report.removed, report.embedded) == (1, 0, 1) and len(rows(db)) == 20
    with db.connect('vectors') as conn:
        assert conn.execute('select count(*) from embedding_failures').fetchone() == (0,)


def test_a_product_with_an_unreadable_photo_keeps_all_its_vectors(db, storage):
    shop(db, storage)
    index_catalogue(db, Model(), storage=storage)
    relist(db, 'p5', ['storage:5-0.jpg', 'storage:gone.jpg'])  # 5-1 is listed no more
    assert index_catalogue(db, Model(), storage=storage).failed == {'not_found': 1}
    assert len([r for r in rows(db) if r[0] == 'p5']) == 2
    put_photo(storage, 'gone.jpg', 240)
    assert index_catalogue(db, Model(), storage=storage).removed == 1
    assert [r[1] for r in rows(db) if r[0] == 'p5'] == ['storage:5-0.jpg', 'storage:gone.jpg']


def test_a_product_whose_photo_list_is_empty_keeps_them(db, storage):
    shop(db, storage)
    index_catalogue(db, Model(), storage=storage)
    relist(db, 'p5', [])
    report = index_catalogue(db, Model(), storage=storage)
    assert report.without_photo == 1 and report.removed == 0 and len(rows(db)) == 20


@pytest.mark.parametrize('bad, kind', [(np.nan, 'nan_vector'), (0., 'zero_vector'), (np.inf, 'nan_vector')])
def test_a_vector_that_is_none_is_recorded_and_the_run_goes_on(db, storage, bad, kind):
    shop(db, storage)
    report = index_catalogue(db, Model(bad={(50, 0, 0): bad}), storage=storage)
    assert report.failed == {kind: 1} and report.embedded == 19 and report.with_vector == 10
    with db.connect('vectors') as conn:
        assert conn.execute('select sku_id, kind from embedding_failures').fetchall() == [('p2', kind)]


def test_a_run_that_would_take_away_much_stops_before_it_starts(db, storage):
    shop(db, storage)
    index_catalogue(db, Model(), storage=storage)
    before = rows(db)
    with db.connect('catalogue') as conn:
        conn.execute("delete from raw_products where external_id in ('p0', 'p1', 'p2')")
    model = Model()
    with pytest.raises(IndexShrinks, match=r'6 of the 20 vectors of model-1 \(30%.*--allow-shrink'):
        index_catalogue(db, model, storage=storage)
    assert rows(db) == before and model.embedded == 0
    assert index_catalogue(db, Model(), storage=storage, shrink_limit=.3).removed == 6
    for i in range(3, 10): relist(db, f'p{i}', [f'storage:{i}-0.jpg'])  # one photo each, of two
    with pytest.raises(IndexShrinks, match='7 of the 14'): index_catalogue(db, Model(), storage=storage)
    assert len(rows(db)) == 14
    assert index_catalogue(db, Model(), storage=storage, allow_shrink=True).removed == 7


def test_photos_taken_anew_are_no_shrinking(db, storage):
    shop(db, storage)
    index_catalogue(db, Model(), storage=storage)
    for i in range(10):
        relist(db, f'p{i}', [put_photo(storage, f'new/{i}-{j}.jpg', 15 + 20*i + 8*j) for j in range(2)])
    report = index_catalogue(db, Model(), storage=storage)
    assert (report.embedded, report.removed) == (20, 20) and len(rows(db)) == 20


def add_brand(db, storage, brand, n, red):
    for i in range(n): add(db, f'{brand}{i}', [put_photo(storage, f'{brand}{i}.jpg', red + 9*i)], brand)


def test_a_part_is_never_the_whole(db, storage):
    shop(db, storage)
    add_brand(db, storage, 'zara', 3, 5)
    index_catalogue(db, Model(), storage=storage)
    read = lambda: _read(db)
    assert read() == 'model-1'
    part = index_catalogue(db, Model('model-2'), storage=storage, brands=['zara'])
    assert part.partial and read() == 'model-1' and 'queries go on reading model-1' in str(part)
    poor = index_catalogue(db, Model('model-2', bad={(50, 0, 0): RuntimeError()}), storage=storage)
    assert not poor.partial and read() == 'model-2'  # p2 has another photo: every product is covered
    bad = {(10 + 20*4 + 8*j, 0, 0): RuntimeError() for j in range(2)}
    less = index_catalogue(db, Model('model-3', bad=bad), storage=storage)
    assert less.partial and less.with_vector == 12 and read() == 'model-2'
    assert not index_catalogue(db, Model('model-3'), storage=storage).partial and read() == 'model-3'
    assert indexed_model(db) == 'model-3'


def _read(db):
    with db.connect('vectors') as conn: return current_version(conn).version


def test_with_nothing_else_a_part_is_taken_and_says_so(db, storage):
    shop(db, storage)
    add_brand(db, storage, 'zara', 3, 5)
    report = index_catalogue(db, Model(), storage=storage, brands=['zara'])
    assert report.partial and _read(db) == 'model-1' and 'read since there is no other' in str(report)
    again = index_catalogue(db, Model(), storage=storage, brands=['hm'])
    assert again.partial  # two parts are not known to be the whole
    assert not index_catalogue(db, Model(), storage=storage).partial


def test_one_brand_of_the_version_in_force_is_brought_up_to_date_in_place(db, storage):
    shop(db, storage)
    index_catalogue(db, Model(), storage=storage)
    add_brand(db, storage, 'zara', 3, 5)
    report = index_catalogue(db, Model(), storage=storage, brands=['zara'])
    assert not report.partial and report.embedded == 3 and len(rows(db)) == 23


def test_going_back_is_one_decision_that_stays(db, storage):
    shop(db, storage)
    for version in ('model-1', 'model-2'): index_catalogue(db, Model(version), storage=storage)
    assert _read(db) == 'model-2'
    with db.connect('vectors') as conn: use_version(conn, 'model-1', reason='finds more', by='sarah')
    index_catalogue(db, Model('model-2'), storage=storage)  # the nightly run changes nothing
    assert _read(db) == 'model-1'
    with db.connect('vectors') as conn:
        kept = conn.execute('select version, chosen_by from version_choices order by id').fetchall()
        assert current_version(conn, 'model-2').version == 'model-2'  # BLEND_EMBEDDING_VERSION outranks it
    assert kept == [('model-2', 'unde-recog index'), ('model-1', 'sarah')]


def test_a_run_whose_lease_was_taken_over_writes_nothing_more(db, storage):
    shop(db, storage)
    class Stolen(Model):
        def embed(self, images):
            with db.connect('vectors') as conn:
                conn.execute("update unde_leases set holder = 'somebody else'")
            return super().embed(images)
    with pytest.raises(LeaseLost, match='somebody else'): index_catalogue(db, Stolen(), storage=storage)
    assert rows(db) == []


def test_an_old_vector_of_an_address_survives_a_run_cut_short(db, storage):
    "Both bytes of one address are there; the next run tells them apart by reading."
    shop(db, storage)
    index_catalogue(db, Model(), storage=storage)
    with db.connect('vectors') as conn:
        conn.execute(
            """insert into sku_image_embeddings
               (brand, sku_id, image_url, image_rank, image_hash, embedding, model_version)
               select brand, sku_id, image_url, image_rank, repeat('a', 64), embedding, model_version
               from sku_image_embeddings where sku_id = 'p1' and image_rank = 0"""
        )
    model = Model()
    report = index_catalogue(db, model, storage=storage, refresh=False)
    assert model.embedded == 0 and report.replaced == 1 and len(rows(db)) == 20


def test_an_error_of_the_database_is_one_line_with_a_remedy(db, storage):
    from unde_recog.db.connection import DatabaseError
    shop(db, storage)
    class Cutting(Model):
        def embed(self, images):
            with psycopg.connect(db.urls['vectors'], autocommit=True) as conn:
                conn.execute(
                    """select pg_terminate_backend(pid) from pg_stat_activity
                       where datname = current_database() and pid <> pg_backend_pid()"""
                )
            return super().embed(images)
    with pytest.raises(DatabaseError, match='run it again, it continues where it stopped'):
        index_catalogue(db, Cutting(), storage=storage)
    assert index_catalogue(db, Model(), storage=storage).with_vector == 10


def test_the_offline_default_is_an_embedder_like_any_other(db, storage):
    shop(db, storage)
    report = index_catalogue(db, load_embedder(preset='batch'), storage=storage)
    with db.connect('vectors') as conn: versions = list_versions(conn)
    assert report.with_vector == 10 and version_in_force(versions).products == 10
    assert versions[0].photos == 20 and not versions[0].partial
    assert SkuKey('hm', 'p0')


def test_coverage_counts_vectors_and_not_what_was_planned(db, storage):
    "A product none of whose photos can be read is listed, and not covered."
    shop(db, storage)
    relist(db, 'p5', ['storage:nowhere.jpg'])
    report = index_catalogue(db, Model(), storage=storage)
    assert (report.products, report.with_vector, report.coverage) == (10, 9, .9)
    with db.connect('vectors') as conn: (version,) = list_versions(conn)
    assert version.products == 9 and report.failed == {'not_found': 1}
