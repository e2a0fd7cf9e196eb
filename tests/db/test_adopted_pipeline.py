"""A shop's own database adopted, then all on it: import, index (killed), recognition, log, report."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import psycopg
from PIL import Image

from unde_recog.catalogue.imports import import_products, import_stores
from unde_recog.catalogue.stock import import_availability
from unde_recog.db.database import open_databases
from unde_recog.embedder import load_embedder
from unde_recog.jobs.index import index_catalogue
from unde_recog.media.storage import open_storage
from unde_recog.research.quality import quality
from unde_recog.session import open_recognizer
from unde_recog.settings import load_settings

from tests.db.test_adoption import KEPT, adopt_all, kept, missing, plan_url  # noqa: F401
from tests.db.test_pgbouncer import write_shop

KILLED = '''
import os, sys
from pathlib import Path
from unde_recog.db.database import open_databases
from unde_recog.embedder import load_embedder
from unde_recog.jobs.index import index_catalogue
from unde_recog.media.storage import open_storage
from unde_recog.settings import load_settings
settings = load_settings(env={}, DATABASE_URL=sys.argv[1], UNDE_DATA_DIR=Path(sys.argv[2]))
model = load_embedder(preset='batch')
real, left = model.embed, [3]
def embed(images):
    left[0] -= 1
    if left[0] < 0: os.kill(os.getpid(), 9)
    return real(images)
model.embed = embed
with open_databases(settings) as db:
    index_catalogue(db, model, storage=open_storage(settings), chunk=2, commit=4)
'''


def rows(url, query):
    with psycopg.connect(url) as conn:
        return conn.execute(query).fetchall()


def test_the_whole_pipeline_on_an_adopted_database(plan_url, tmp_path):  # noqa: F811
    before = kept(plan_url)
    write_shop(tmp_path, 12)
    with psycopg.connect(plan_url, autocommit=True) as conn:
        conn.execute("update raw_products set index_scope = 'off'")  # theirs have no photos
    for name in ('products.csv', 'stock.csv'):  # other products than theirs, which are p1 to p40
        file = tmp_path / name
        file.write_text(re.sub(r'\bp(\d+)\b', r'n\1', file.read_text()))
    adopt_all(plan_url)
    assert kept(plan_url) == before and missing(plan_url) == {}
    data = Path(tempfile.mkdtemp(dir='/var/lib' if os.geteuid() == 0 else None))
    settings = load_settings(
        env={},
        DATABASE_URL=plan_url,
        UNDE_DATA_DIR=data,
        DETECTOR_MODEL='whole_photo',
        SEARCH_BACKEND='pgvector',
        REQUEST_DEADLINE='60s',
    )
    with open_databases(settings) as db:
        report = import_products(
            db, tmp_path / 'products.csv', images=tmp_path / 'photos', storage=open_storage(settings)
        )
        assert (report.inserted, report.exit_code) == (12, 0)
        import_stores(db, tmp_path / 'stores.csv')
        assert import_availability(db, tmp_path / 'stock.csv').inserted == 12
    killed = subprocess.run([sys.executable, '-c', KILLED, plan_url, str(data)])
    assert killed.returncode == -9
    ours = "select count(*) from sku_image_embeddings where model_version <> 'their-clip'"
    (half,) = rows(plan_url, ours)[0]
    assert 0 < half < 12
    with open_databases(settings) as db:
        report = index_catalogue(db, load_embedder(preset='batch'), storage=open_storage(settings))
    assert (report.with_vector, report.embedded, report.removed) == (12, 12 - half, 0)
    with open_recognizer(settings) as session:
        answer = session.recognize(Image.open(tmp_path / 'photos' / '7.jpg'), user_mall='Mall')
        session.drain()
    assert answer.items[0].matches[0].external_id == 'n7' and not answer.degraded
    with open_databases(settings) as db:
        assert quality(db, days=2).days.queries.sum() >= 1
    after = kept(plan_url)
    for name in ('raw_stores', 'sku_image_embeddings', 'recognition_requests'):
        assert set(map(str, before[name])) <= set(map(str, after[name]))
    theirs = [r for r in after['raw_products'] if r[0] == 'ana']
    assert theirs == before['raw_products'] and dict((v[0], v[1]) for v in after['views'])['ana'] == 40
    assert set(KEPT) == set(after)
    shutil.rmtree(data, ignore_errors=True)
