"A version that is being built never answers: searches run in threads while a part, then the whole, is made."
import threading
import time
from collections import Counter

import numpy as np
import pytest
from PIL import Image
from psycopg.types.json import Jsonb

from unde_recog.db.versions import list_versions, use_version
from unde_recog.embedder import load_embedder
from unde_recog.jobs.index import index_catalogue
from unde_recog.media.images import to_jpeg
from unde_recog.media.storage import open_storage
from unde_recog.session import follow_index, open_recognizer
from unde_recog.settings import load_settings

OLD, NEW = 'classical-colour-shape', 'lite-colour-shape'
PRODUCTS = 100


class Killed(BaseException):
    "What stops a run between two photos."


@pytest.fixture
def shop_settings(fresh_url, tmp_path):
    names = {'DATABASE_URL': fresh_url, 'UNDE_DATA_DIR': tmp_path, 'SEARCH_BACKEND': 'pgvector'}
    return load_settings(env={}, DETECTOR_MODEL='whole_photo', REQUEST_DEADLINE='60s', **names)


def fill(db, storage):
    "A shop of drawn pictures; → some of them, to search by."
    rng, pictures = np.random.default_rng(5), []
    for n in range(PRODUCTS):
        picture = Image.fromarray(rng.integers(0, 255, (6, 4, 3), 'uint8')).resize((120, 180), 0)
        storage.put(f'{n}.jpg', to_jpeg(picture))
        pictures.append(picture)
    with db.connect('catalogue') as conn, conn.cursor() as cursor:
        cursor.executemany(
            'insert into raw_products (source, external_id, brand, name, image_urls, image_views) '
            "values ('s', %s, 'hm', 'x', %s, '[\"front\"]')",
            [(f'p{n}', Jsonb([f'storage:{n}.jpg'])) for n in range(PRODUCTS)],
        )
    return pictures[:6]


def stopping(after):
    "A progress that kills the run after so many photos."
    def progress(done, total, failed):
        if done >= after: raise Killed
    return progress


def found(answer):
    "Products and scores of an answer, as only one version gives them."
    return tuple((m.external_id, round(m.score, 5)) for item in answer.items for m in item.matches[:5])


class Searchers:
    "Threads that search without pause; `answers`: (photo, version, what was found)."

    def __init__(self, session, photos):
        self.session, self.photos = session, photos
        self.answers, self.failed, self.over = [], [], threading.Event()
        self.threads = [threading.Thread(target=self.run, args=(n,), daemon=True) for n in range(2)]
        for thread in self.threads: thread.start()

    def run(self, n):
        while not self.over.is_set():
            n = (n + 1) % len(self.photos)
            try: answer = self.session.recognize(self.photos[n])
            except Exception as e: self.failed.append(repr(e))
            else: self.answers.append((n, answer.model_version, found(answer)))

    def wait(self, more, version=None):
        "Until so many more answers have come, or some of `version`."
        start, ends = len(self.answers), time.monotonic() + 60
        while sum(version in (None, v) for _, v, _ in self.answers[start:]) < more:
            assert time.monotonic() < ends and not self.failed, (Counter(self.versions()), self.failed)
            time.sleep(.01)

    def versions(self): return [v for _, v, _ in self.answers]

    def stop(self):
        self.over.set()
        for thread in self.threads: thread.join(10)


def test_a_part_never_answers(db, shop_settings):
    storage = open_storage(shop_settings)
    photos = fill(db, storage)
    old, new = (load_embedder(name, settings=shop_settings) for name in (OLD, NEW))
    index_catalogue(db, old, storage=storage)
    build = {'storage': storage, 'commit': 2, 'chunk': 1, 'ahead': 2}
    with open_recognizer(shop_settings, logged=False) as session:
        right = {n: found(session.recognize(photo)) for n, photo in enumerate(photos)}
        follow_index(session, every=.02)
        searchers = Searchers(session, photos)
        try:
            searchers.wait(10)
            with pytest.raises(Killed):
                index_catalogue(db, new, sample=.05, progress=stopping(2), **build)
            searchers.wait(10)
            part = index_catalogue(db, new, sample=.05, **build)
            assert part.partial and 2 < part.with_vector < 20
            searchers.wait(20)
            # backfilled: killed in the middle of the rest, then to its end
            with pytest.raises(Killed): index_catalogue(db, new, wait=True, progress=stopping(40), **build)
            searchers.wait(20)
            whole = index_catalogue(db, new, wait=True, **build)
            assert whole.with_vector == PRODUCTS and not part.version == old.model_version
            searchers.wait(20)
            assert set(searchers.versions()) == {old.model_version}
            with db.connect('vectors') as conn: use_version(conn, new.model_version)
            searchers.wait(20, new.model_version)
        finally: searchers.stop()
        assert searchers.failed == []
        right_now = {n: found(session.recognize(photo)) for n, photo in enumerate(photos)}
    # each answer is wholly of the version that it names
    switched = searchers.versions().index(new.model_version)
    for n, version, what in searchers.answers:
        assert what == (right if version == old.model_version else right_now)[n]
    assert right != right_now and set(searchers.versions()[switched + 4:]) == {new.model_version}
    with db.connect('vectors') as conn: states = {v.version: v.partial for v in list_versions(conn)}
    assert states[old.model_version] is False
