"The index run: killed at random moments, the result is the same; bad photos never stop it."
import hashlib
import os
import random
import signal
import subprocess
import sys
import time

import pandas as pd
import psycopg
import pytest
from PIL import Image

from unde_recog.catalogue.imports import import_products
from unde_recog.embedder import load_embedder
from unde_recog.db.versions import try_version, use_version, version_on_trial
from unde_recog.media.images import image_hash, to_jpeg
from unde_recog.jobs.hnsw import brand_counts, build_index
from unde_recog.jobs.index import index_catalogue
from unde_recog.jobs.runs import IndexBusy, only_run
from unde_recog.media.storage import FolderStorage

RUN = '''
import sys
from unde_recog.db.database import LOGICALS, Databases
from unde_recog.embedder import load_embedder
from unde_recog.jobs.index import index_catalogue
from unde_recog.media.storage import FolderStorage
with Databases(dict.fromkeys(LOGICALS, sys.argv[1])) as db:
    index_catalogue(db, load_embedder(preset='batch'), storage=FolderStorage(sys.argv[2]),
                    commit=20, ahead=16, global_from=100, progress=lambda done, *_: print(done, flush=True))
print('finished', flush=True)
'''


@pytest.fixture(scope='module')
def embedder(): return load_embedder(preset='batch')


def shop(db, folder, products=60, photos=3, brand='hm'):
    "A shop of coloured rectangles; one photo is broken, one is missing, one is listed twice."
    storage, rows = FolderStorage(folder/'storage'), []
    (folder/'photos').mkdir(exist_ok=True)
    for i in range(products):
        names = []
        for j in range(photos):
            name = f'{i}-{j}.jpg'
            data = to_jpeg(
                Image.new(
                    'RGB',
                    (40, 60 + j),
                    f'hsl({(i * 17 + j) % 360},{30 + (i * 7) % 70}%,{25 + (i * 3) % 50}%)',
                )
            )
            if (i, j) == (3, 1): data = b'<html>not found</html>'
            if (i, j) == (4, 2): data = (folder/'photos'/'4-0.jpg').read_bytes()
            (folder/'photos'/name).write_bytes(data)
            names.append(name)
        rows.append(
            {
                'brand': brand, 'external_id': f'p{i}', 'name': f'thing {i}', 'price': 10 + i,
                'currency': 'EUR', 'category': 'shirt',
                'image_urls': '|'.join(names) if i != 5 else '',
            }
        )
    pd.DataFrame(rows).to_csv(folder/'products.csv', index=False)
    import_products(db, folder/'products.csv', images=folder/'photos', storage=storage)
    return storage


def state(db):
    "What the index holds, whatever the order of writing."
    with db.connect('vectors') as conn:
        rows = conn.execute(
            'select brand, sku_id, image_url, image_rank, image_hash, embedding::text, '
            'metadata::text from sku_image_embeddings order by 1, 2, 5'
        ).fetchall()
        failures = conn.execute(
            'select brand, sku_id, image_url, kind from embedding_failures order by 1, 2, 3'
        ).fetchall()
        indexes = conn.execute(
            "select indexdef from pg_indexes where indexname like 'hnsw%' order by 1"
        ).fetchall()
    return hashlib.sha256(repr((rows, failures, indexes)).encode()).hexdigest(), len(rows)


def test_a_run_and_its_report(db, tmp_path, embedder):
    storage = shop(db, tmp_path)
    report = index_catalogue(db, embedder, storage=storage, global_from=100)
    assert (report.products, report.with_vector, report.without_photo) == (60, 59, 1)
    assert (
        report.failed == {'not_an_image': 1}
        and report.duplicates == 1
        and report.embedded == 59 * 3 - 2
        and report.indexes_built == ['all']
    )
    before = state(db)
    again = index_catalogue(db, embedder, storage=storage, global_from=100)
    assert again.embedded == 0 and again.indexes_built == [] and state(db) == before
    with db.connect('vectors') as conn:
        assert conn.execute('select status, model, dims from embedding_versions').fetchall() == [
            ('complete', embedder.card.name, 512)
        ]


def test_changes_follow(db, tmp_path, embedder):
    storage = shop(db, tmp_path, products=8)
    index_catalogue(db, embedder, storage=storage)
    with db.connect('catalogue') as conn:
        conn.execute("update raw_products set price = 99 where external_id = 'p0'")
        conn.execute(
            """update raw_products set image_urls = image_urls - 0, image_views = image_views - 0
            where external_id = 'p1'"""
        )
        conn.execute("delete from raw_products where external_id = 'p2'")
        conn.execute("update raw_products set index_scope = 'off' where external_id = 'p6'")
    # other bytes at a known address
    storage.put('originals/hm/p7/0.jpg', to_jpeg(Image.new('RGB', (40, 60), 'white')))
    # the broken one was mended
    storage.put('originals/hm/p3/1.jpg', to_jpeg(Image.new('RGB', (40, 60), 'black')))
    report = index_catalogue(db, embedder, storage=storage, allow_shrink=True)
    assert report.replaced == 1
    assert report.removed == 1 + 3 + 3 and report.embedded == 2 and report.failed == {}
    with db.connect('vectors') as conn:
        assert conn.execute(
            "select distinct metadata->>'price' from sku_image_embeddings where sku_id = 'p0'"
        ).fetchall() == [('99.0',)]
        assert conn.execute(
            "select array_agg(image_rank order by image_rank) from sku_image_embeddings where sku_id = 'p1'"
        ).fetchone() == ([0, 1],)
        assert conn.execute(
            "select count(*) from sku_image_embeddings where sku_id = 'p7'"
        ).fetchone() == (3,)
        assert conn.execute('select count(*) from embedding_failures').fetchone() == (0,)


def test_one_brand_leaves_the_others_alone(db, tmp_path, embedder):
    for name in 'ab': (tmp_path/name).mkdir()
    first = shop(db, tmp_path/'a', 8)
    index_catalogue(db, embedder, storage=first)
    second = shop(db, tmp_path/'b', 8, brand='zara')
    report = index_catalogue(db, embedder, storage=second, brands=['zara'])
    assert report.products == 8 and report.removed == 0
    with db.connect('vectors') as conn:
        assert set(brand_counts(conn, embedder.model_version)) == {'hm', 'zara'}


def test_only_one_run_at_a_time(db, tmp_path, embedder):
    storage = shop(db, tmp_path, 6)
    with (
        only_run(db, embedder.model_version),
        pytest.raises(IndexBusy, match='index lite-colour-shape.* is held by unde-recog index'),
    ):
        index_catalogue(db, embedder, storage=storage)
    assert index_catalogue(db, embedder, storage=storage).with_vector == 5


def test_an_empty_catalogue_removes_nothing(db, tmp_path, embedder):
    storage = shop(db, tmp_path, 6)
    index_catalogue(db, embedder, storage=storage)
    before = state(db)
    with db.connect('catalogue') as conn: conn.execute('delete from raw_products')
    with pytest.raises(ValueError, match='import products first'):
        index_catalogue(db, embedder, storage=storage)
    assert state(db) == before


def test_a_half_built_index_is_no_index(db, tmp_path, embedder):
    storage = shop(db, tmp_path, 6)
    index_catalogue(db, embedder, storage=storage)
    with db.connect('vectors') as conn:
        with pytest.raises(KeyError), conn.transaction():
            build_index(conn, embedder.model_version)
            raise KeyError
        assert conn.execute(
            "select count(*) from pg_indexes where indexname like 'hnsw%'"
        ).fetchone() == (0,)
        assert build_index(conn, embedder.model_version) and not build_index(conn, embedder.model_version)


def test_ten_random_kills_give_the_same_index(db, tmp_path, embedder):
    storage = shop(db, tmp_path)
    index_catalogue(db, embedder, storage=storage, commit=20, global_from=100)
    whole = state(db)
    with db.connect('vectors') as conn:
        for (name,) in conn.execute(
            "select indexname from pg_indexes where indexname like 'hnsw%'"
        ).fetchall():
            conn.execute(f'drop index {name}')
        conn.execute('truncate sku_image_embeddings, embedding_failures, embedding_versions')
    rng, url, kills = random.Random(0), db.urls['vectors'], 0
    while True:
        p = subprocess.Popen(
            [sys.executable, '-c', RUN, url, str(storage.folder)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        if kills < 10:
            for _ in range(rng.randint(1, 25)):
                if not p.stdout.readline(): break
            time.sleep(rng.random()*.05)
            p.send_signal(signal.SIGKILL)
            p.wait()
            kills += 1
        else:
            output, errors = p.communicate(timeout=120)
            if IndexBusy.__name__ in errors: continue  # the server has not yet noticed the last death
            assert output.endswith('finished\n'), errors
            break
    assert kills == 10 and state(db) == whole


def test_a_picture_of_many_products_is_known_again(db, tmp_path, embedder):
    "The same picture, saved anew for each product in another size and quality."
    from PIL import ImageDraw

    storage, folder = FolderStorage(tmp_path/'storage'), tmp_path/'photos'
    folder.mkdir()
    notice = Image.new('RGB', (300, 400), '#eee')
    pen = ImageDraw.Draw(notice)
    pen.rectangle((90, 120, 210, 200), outline='#999', width=6)
    pen.text((80, 240), 'no photo yet', fill='#888', font_size=25)
    rng, rows = random.Random(1), []
    for i in range(30):
        scale = rng.choice([.6, .8, 1])
        size = round(300*scale), round(400*scale)
        copy = to_jpeg(notice.resize(size), quality=rng.choice([50, 70, 90]))
        own = Image.new('RGB', (60, 80), f'hsl({i*12},80%,50%)')
        ImageDraw.Draw(own).ellipse((5 + i, 10, 30 + i, 50), fill='black')
        (folder/f'{i}-0.jpg').write_bytes(to_jpeg(own))
        (folder/f'{i}-1.jpg').write_bytes(copy)
        rows.append({'brand': 'hm', 'external_id': f'p{i}', 'name': f'thing {i}', 'price': 9,
                     'currency': 'EUR', 'category': 'shirt', 'image_urls': f'{i}-0.jpg|{i}-1.jpg'})
    pd.DataFrame(rows).to_csv(tmp_path/'products.csv', index=False)
    import_products(db, tmp_path/'products.csv', images=folder, storage=storage)
    report = index_catalogue(db, embedder, storage=storage)
    assert report.shared == 30 and '30 photos are left out of the search' in str(report)
    with db.connect('vectors') as conn:
        marked = conn.execute('select distinct image_rank from sku_image_embeddings where shared').fetchall()
        (without,) = conn.execute('select count(*) from sku_image_embeddings where phash is null').fetchone()
        assert marked == [(1,)] and without == 0
        # products go, and what is left is no crowd
        with db.connect('catalogue') as catalogue:
            catalogue.execute("delete from raw_products where external_id < 'p20'")
    assert index_catalogue(db, embedder, storage=storage, allow_shrink=True).shared == 0


def test_a_sample_is_a_part_of_the_catalogue(db, tmp_path, embedder):
    storage = shop(db, tmp_path, products=40, photos=1)
    report = index_catalogue(db, embedder, storage=storage, sample=.4)
    assert 4 < report.products < 30 and report.partial
    assert report.photos == report.products - report.without_photo == report.embedded
    with db.connect('catalogue') as conn:
        conn.execute("update raw_products set image_urls = '[]', image_views = '[]'")
    with pytest.raises(ValueError, match='lists no photos'):
        index_catalogue(db, embedder, storage=storage, sample=.4, allow_shrink=True)


class CountingStorage(FolderStorage):
    "Remembers what was read."
    def __init__(self, folder):
        super().__init__(folder)
        self.got = []

    def get(self, key):
        self.got.append(key)
        return super().get(key)


def test_a_new_version_waits_if_told_to(db, tmp_path, embedder):
    storage = shop(db, tmp_path, products=10, photos=1)
    first = index_catalogue(db, embedder, storage=storage)
    other = load_embedder('classical-colour-shape', 'batch')
    waiting = index_catalogue(db, other, storage=storage, wait=True)
    assert not waiting.partial and waiting.in_force == first.version
    with db.connect('vectors') as conn:
        assert try_version(conn, waiting.version).version == waiting.version
        assert version_on_trial(conn).version == waiting.version
    again = index_catalogue(db, other, storage=storage, wait=True)   # an update changes nothing of that
    assert again.in_force == first.version
    assert index_catalogue(db, embedder, storage=storage).in_force == first.version
    with db.connect('vectors') as conn: use_version(conn, waiting.version)
    assert index_catalogue(db, embedder, storage=storage).in_force == waiting.version


def test_a_fetched_photo_is_read_again_only_if_it_has_changed(db, tmp_path, embedder):
    shop(db, tmp_path, products=3, photos=1)
    storage = CountingStorage(tmp_path/'storage')
    keys = [f'originals/hm/p{n}/0.jpg' for n in range(3)]
    known = [(f'p{n}', f'storage:{k}', k, image_hash(storage.get(k))) for n, k in enumerate(keys)]
    with db.connect('catalogue') as conn:
        conn.cursor().executemany("""insert into photo_files (brand, external_id, position, source_url, state,
            storage_key, content_hash) values ('hm', %s, 0, %s, 'fetched', %s, %s)""", known)
    index_catalogue(db, embedder, storage=storage)
    storage.got.clear()
    assert index_catalogue(db, embedder, storage=storage).embedded == 0 and storage.got == []
    storage.put(keys[1], to_jpeg(Image.new('RGB', (40, 60), 'white')))
    digest = image_hash(storage.get(keys[1]))
    with db.connect('catalogue') as conn:
        conn.execute("update photo_files set content_hash = %s where external_id = 'p1'", (digest,))
    storage.got.clear()
    assert index_catalogue(db, embedder, storage=storage).replaced == 1 and set(storage.got) == {keys[1]}
