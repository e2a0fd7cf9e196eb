"Versions are chosen from the shell, and whoever is running follows."

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from unde_recog.cli import app
from unde_recog.embedder import load_embedder
from unde_recog.jobs.index import index_catalogue
from unde_recog.media.images import to_jpeg
from unde_recog.media.storage import open_storage
from unde_recog.session import follow_index, open_recognizer, take_index
from unde_recog.settings import load_settings

MODELS = 'classical-colour-shape', 'lite-colour-shape'


@pytest.fixture
def shop_settings(fresh_url, tmp_path):
    names = {'DATABASE_URL': fresh_url, 'UNDE_DATA_DIR': tmp_path, 'SEARCH_BACKEND': 'pgvector'}
    return load_settings(env={}, DETECTOR_MODEL='whole_photo', REQUEST_DEADLINE='60s', **names)


@pytest.fixture
def versions(db, shop_settings):
    "Two whole versions of one small shop; the second is read."
    storage, rng = open_storage(shop_settings), np.random.default_rng(1)
    for i in range(4):
        picture = Image.fromarray(rng.integers(0, 255, (6, 4, 3), 'uint8')).resize((120, 180), 0)
        storage.put(f'{i}.jpg', to_jpeg(picture))
        with db.connect('catalogue') as conn:
            conn.execute(
                """insert into raw_products (source, external_id, brand, name, image_urls, image_views)
                   values ('s', %s, 'hm', 'x', %s::jsonb, '["front"]')""",
                (f'p{i}', f'["storage:{i}.jpg"]'),
            )
    embedders = [load_embedder(name, settings=shop_settings) for name in MODELS]
    for embedder in embedders: index_catalogue(db, embedder, storage=storage)
    return [embedder.model_version for embedder in embedders]


@pytest.fixture
def shell(shop_settings):
    env = {
        'DATABASE_URL': shop_settings.DATABASE_URL,
        'UNDE_DATA_DIR': str(shop_settings.UNDE_DATA_DIR),
        'COLUMNS': '240',
    }

    def run(*args, **more):
        result = CliRunner().invoke(app, args, env={**env, **more})
        return result.exit_code, ' '.join(result.output.split())
    return run


def test_going_back_from_the_shell_is_seen_by_a_running_session(shop_settings, versions, shell):
    old, new = versions
    photo = Image.new('RGB', (120, 180), 'olive')
    with open_recognizer(shop_settings, logged=False) as session:
        assert session.recognizer.parts.primary.version == new and take_index(session) is None
        assert shell('versions', 'use', old, '--reason', 'finds more')[0] == 0
        assert take_index(session) == old and session.recognize(photo).items
        follow_index(session, every=.05)
        assert shell('versions', 'use', new)[0] == 0
        while session.recognizer.parts.primary.version != new: pass
    code, text = shell('versions', 'list')
    assert code == 0 and f'{new}' in text and 'whole, read' in text and 'finds more' in text


def test_what_is_read_is_not_dropped(db, versions, shell):
    old, new = versions
    code, text = shell('versions', 'drop', new)
    assert code == 2 and 'is read by queries: choose another' in text
    assert (
        'outranks it: queries go on reading that'
        in shell('versions', 'use', old, BLEND_EMBEDDING_VERSION=new)[1]
    )
    assert 'read (BLEND_EMBEDDING_VERSION)' in shell('versions', 'list', BLEND_EMBEDDING_VERSION=new)[1]
    assert shell('versions', 'drop', new, BLEND_EMBEDDING_VERSION=new)[0] == 2
    assert shell('versions', 'drop', new) == (0, f'{new} is deleted, 4 vectors')
    with db.connect('vectors') as conn:
        left = conn.execute('select distinct model_version from sku_image_embeddings').fetchall()
        log = conn.execute('select version, action from version_choices order by id').fetchall()
    assert left == [(old,)] and log[-2:] == [(old, 'use'), (new, 'drop')]


def test_a_version_that_is_not_there_or_not_finished(db, versions, shell):
    with db.connect('vectors') as conn:
        conn.execute("insert into embedding_versions (version, model, dims) values ('half', 'm', 512)")
    code, text = shell('versions', 'use', 'half')
    assert code == 2 and 'half is not finished' in text
    code, text = shell('versions', 'use', 'nowhere')
    assert code == 2 and 'there are: ' in text and versions[0] in text


def test_backup_and_restore_from_the_shell(db, versions, shell, tmp_path):
    code, text = shell('backup', str(tmp_path/'copy'))
    assert code == 0 and 'sku_image_embeddings: 8 rows' in text
    assert shell('restore', str(tmp_path/'copy'))[1].endswith('everything was there already')
    with db.connect('catalogue') as conn: conn.execute('truncate raw_products')
    code, text = shell('restore', str(tmp_path/'copy'))
    assert code == 0 and text.endswith('1 tables were read')
    assert shell('migrate', '--dry-run') == (0, '-- nothing is missing')
