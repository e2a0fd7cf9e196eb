"A switch, a trial and the way back while people search: no failed answer, none from two versions."
import threading
import time
from collections import Counter

import psycopg
import pytest

from unde_recog.db.versions import VersionError, stop_trial, try_version, use_version
from unde_recog.settings import load_settings
from unde_recog.web.lifecycle import Engine
from unde_recog.web.metrics import Metrics

from tests.web_shop import Shop

NEW = 'nb-copy'


@pytest.fixture(scope='module')
def shop(server_url, template, tmp_path_factory):
    made = Shop(server_url, template, tmp_path_factory.mktemp('shop'), 'test_trial', skus=8)
    yield made
    made.drop()


def copy_version(shop):
    "The same vectors under another name, as if a second model had made them; → (old, new)."
    with psycopg.connect(shop.url, autocommit=True) as conn:
        old = conn.execute("select version from embedding_versions where namespace = 'default'").fetchone()[0]
        new = f'{old}@{NEW}'
        conn.execute(
            '''insert into embedding_versions
                   (namespace, version, model, dims, status, products, photos, completed_at)
               select namespace, %s, model, dims, 'complete', products, photos, '2020-01-01'
               from embedding_versions where version = %s''', (new, old))
        columns = ('brand, sku_id, image_url, image_rank, image_hash, embedding, metadata, '
                   'category_canonical')
        conn.execute(
            f'''insert into sku_image_embeddings ({columns}, model_version)
                select {columns}, %s from sku_image_embeddings where model_version = %s''', (new, old))
    return old, new


def test_switch_trial_and_back_under_load(shop):
    old, new = copy_version(shop)
    settings = {'DATABASE_URL': shop.url, 'UNDE_DATA_DIR': shop.data, 'DETECTOR_MODEL': 'whole_photo'}
    ini = shop.folder/'settings.ini'
    ini.write_text('[unde_recog]\nCANARY_SHARE = 0\n')
    read = lambda: load_settings(ini, env={}, **settings)
    share = lambda text: ini.write_text(f'[unde_recog]\nCANARY_SHARE = {text}\n')
    photos = [shop.photo(n) for n in range(8)]
    seen, failed, stop = [], [], threading.Event()

    def ask(n):
        while not stop.is_set():
            try: answer = engine.session.recognize(photos[n % 8])
            except Exception as e: failed.append(repr(e))
            else:
                seen.append((n % 8, answer.model_version))
            n += 3
    engine = Engine(read(), Metrics(), reload=read, watch=.5)
    engine.start()
    ends = time.monotonic() + 60
    while engine.ready is None and time.monotonic() < ends: time.sleep(.05)

    def until(what, seconds=60.):
        limit = time.monotonic() + seconds
        start = len(seen)
        while not what(seen[start:]):
            assert time.monotonic() < limit, (Counter(v for _, v in seen[start:]), failed)
            time.sleep(.05)
    threads = [threading.Thread(target=ask, args=(n,), daemon=True) for n in range(2)]
    for t in threads: t.start()
    try:
        until(lambda rows: len(rows) > 10)
        assert {v for _, v in seen} == {old}
        with psycopg.connect(shop.url, autocommit=True) as conn:
            with pytest.raises(VersionError, match='already'): try_version(conn, old)
            try_version(conn, new)
            share('0.5')
            until(lambda rows: {v for _, v in rows} == {old, new})
            began = len(seen)
            until(lambda rows: len(rows) > 30)
            by_photo = {}
            for photo, version in seen[began + 5:]: by_photo.setdefault(photo, set()).add(version)
            assert all(len(v) == 1 for v in by_photo.values())  # the same photos each time
            use_version(conn, new)
            until(lambda rows: len(rows) > 10 and {v for _, v in rows[-6:]} == {new})
            use_version(conn, old)
            until(lambda rows: len(rows) > 10 and {v for _, v in rows[-6:]} == {old})
            assert stop_trial(conn) is None  # it ended when its version was chosen
            conn.execute('update embedding_versions set partial = true where version = %s', (new,))
            with pytest.raises(VersionError, match='not whole'): try_version(conn, new)
    finally:
        stop.set()
        for t in threads: t.join(10)
        engine.close()
    assert failed == []
    time.sleep(.2)
    logged = shop.log('select model_version, settings, primary_models from ('
                      "select model_version, settings->>'on_trial' as settings, settings->>'CANARY_SHARE' "
                      'as primary_models from recognition_items) t')
    assert {'true'} == {s for v, s, c in logged if v == new and float(c) == .5 and s == 'true'}
    mixed = shop.log('''select request_id from recognition_items
                        group by 1 having count(distinct model_version) > 1''')
    assert mixed == []
