"The command line as a newcomer uses it, in processes of its own."
import json
import os
import subprocess
import sys

import pytest

from unde_recog.wardrobe.world import World


@pytest.fixture(scope='module')
def home(server_url, template, tmp_path_factory):
    "A folder with a drawn shop's export, and an environment that points at a fresh database."
    import psycopg
    from tests.conftest import sibling
    with psycopg.connect(server_url, autocommit=True) as conn:
        conn.execute('drop database if exists test_cli with (force)')
        conn.execute('create database test_cli')
    folder = tmp_path_factory.mktemp('cli')
    world = World(seed=2, skus=20)
    world.write(folder, views=('front', 'back'))
    scene = world.scene(1)
    (folder/'scene.jpg').write_bytes(scene.data)
    env = {k: v for k, v in os.environ.items() if k in ('PATH', 'HOME', 'LANG')}
    env |= {
        'DATABASE_URL': sibling(server_url, 'test_cli'),
        'UNDE_DATA_DIR': str(folder/'data'),
        'COLUMNS': '140',
    }
    program = [sys.executable, '-c', 'from unde_recog.cli import app; app()']

    def run(*words, ok=True, **extra):
        p = subprocess.run(
            [*program, *map(str, words)],
            capture_output=True, text=True, cwd=folder, env=env | extra, timeout=120,
        )
        assert (p.returncode == 0) == ok, p.stdout + p.stderr
        assert 'Traceback' not in p.stderr, p.stderr
        return p.stdout if ok else p.stderr
    yield run, folder, world, scene
    with psycopg.connect(server_url, autocommit=True) as conn:
        conn.execute('drop database if exists test_cli with (force)')


def test_the_whole_way(home):
    run, folder, world, scene = home
    assert 'nothing is indexed yet' in run('recognize', 'scene.jpg', ok=False)
    assert '20' in run('import', 'products', 'products.csv', '--images', 'images')
    run('import', 'stores', 'stores.csv')
    run('import', 'availability', 'availability.csv')
    assert 'coverage 20 of 20' in run('index')
    report = json.loads(run('index', '--json'))
    assert report['embedded'] == 0 and report['coverage'] == 1
    box = ','.join(map(str, scene.items[0].box))
    given = f'{scene.items[0].category}:{box}'
    text = run(
        'recognize', 'scene.jpg', '--mall', scene.mall, '--box', given, '--html', 'out.html'
    )
    assert scene.items[0].category in text and 'EUR' in text and scene.mall in text
    page = (folder/'out.html').read_text()
    head = page.split('</style>')[1].split('data:image')[0]
    assert page.count('<img') > 1 and 'http' not in head
    answer = json.loads(run('recognize', 'scene.jpg', '--json'))
    assert answer['model_version'] == 'lite-colour-shape-4+balanced' and answer['items'][0]['matches']


@pytest.mark.parametrize('words, expected', [
    (('import', 'products', 'nowhere.csv'), 'nowhere.csv'),
    (('import', 'products', 'products.csv', '--images', 'nofolder'), '--images nofolder'),
    (('import', 'products', 'products.csv', '--map', 'nomap'), "'nomap'"),
    (('index', '--model', 'gpt'), 'fashionclip-2.0'),
    (('models', 'pull', 'clip-vit-b-32'), 'clip-vit-b-32'),
    (('recognize', 'scene.jpg', '--box', 'top:1,2'), '--box top:1,2'),
    (('recognize', 'none.jpg'), 'none.jpg'),
    (('recognize', 'products.csv'), 'JPEG, PNG or WebP'),
    (('report', 'quarterly'), 'catalogue_retrieval'),
])
def test_errors_name_the_thing_in_one_line(home, words, expected):
    run, *_ = home
    text = run(*words, ok=False)
    assert expected in text and len(text.strip().splitlines()) <= 3, text


def test_settings_mask_secrets_and_name_origins(home):
    run, *_ = home
    text = run(
        'settings', GEMINI_API_KEY='planted-secret', MARGIN='.2',
        DATABASE_URL='postgresql://me:planted-secret@host/x',
    )
    assert 'planted-secret' not in text and 'environment' in text and 'MARGIN' in text
    assert 'MARGIN' in run('settings', ok=False, MARGIN='wide')
