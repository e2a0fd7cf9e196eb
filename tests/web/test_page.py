"""The page and the lab in a real headless Chromium, against the real service on a drawn shop; the
detector is the sandbox's, over real HTTP."""

import urllib.request
from urllib.parse import parse_qs, urlsplit
import contextlib
import io
import json
import os
import re
import shutil
import socket
import threading
import time

import pytest
from PIL import Image

from unde_recog.catalogue.imports import import_products, import_stores
from unde_recog.catalogue.stock import import_availability
from unde_recog.contracts import brand_aliases, brand_name
from unde_recog.db.database import LOGICALS, Databases
from unde_recog.embedder import load_embedder
from unde_recog.media.images import to_jpeg
from unde_recog.jobs.index import index_catalogue
from unde_recog.sandbox.faults import Fault
from unde_recog.sandbox.server import App, Latency, Sandbox
from unde_recog.sandbox.vendors import Quality
from unde_recog.settings import load_settings
from unde_recog.media.storage import open_storage
from unde_recog.wardrobe.world import Truth, World

from tests.conftest import sibling

CHROMIUM = next(
    (
        path
        for name in ('chromium', 'chromium-browser', 'google-chrome')
        if (path := shutil.which(name))
    ),
    None,
)


def missing(what):
    "Skip for want of a browser; on CI, where there must be one, fail."
    remedy = 'apt-get install chromium; pip install playwright axe-playwright-python'
    result = f'{what}: the page is driven in a real browser ({remedy})'
    return pytest.fail(result) if os.environ.get('CI') == 'true' else pytest.skip(result)


@pytest.fixture(scope='module', autouse=True)
def tools():
    "The driver and the accessibility rules, if this machine has them."
    if CHROMIUM is None: missing('no chromium')
    try:
        import axe_playwright_python
        import playwright.sync_api  # noqa: F401
    except ImportError as e: missing(f'no {e.name}')
    from pathlib import Path
    return Path(axe_playwright_python.__file__).with_name('axe.min.js').read_text('utf-8')


# --- the service
@contextlib.contextmanager
def serving(settings):
    "The real application on a loopback port; its address."
    import uvicorn

    from unde_recog.serving import make_app
    listening = socket.socket()
    listening.bind(('127.0.0.1', 0))
    server = uvicorn.Server(
        uvicorn.Config(
            make_app(settings), log_level='critical', access_log=False, timeout_graceful_shutdown=2
        )
    )
    thread = threading.Thread(target=server.run, kwargs={'sockets': [listening]}, daemon=True)
    thread.start()
    try:
        while not server.started and thread.is_alive(): time.sleep(.01)
        assert server.started, 'the service did not start'
        yield f'http://127.0.0.1:{listening.getsockname()[1]}'
    finally:
        server.should_exit = True
        thread.join(20)
        listening.close()


@pytest.fixture(scope='module')
def world(): return World(seed=5, skus=24)


@pytest.fixture(scope='module')
def scene(world):
    return next(s for n in range(50) if len((s := world.scene(n, difficulty='easy')).items) == 3)


@pytest.fixture(scope='module')
def shop(world, server_url, template, tmp_path_factory):
    "(address of a database, settings) of a drawn shop, imported and indexed once."
    import psycopg
    name, folder = f'test_{os.getpid()}_900001', tmp_path_factory.mktemp('page')
    with psycopg.connect(server_url, autocommit=True) as conn:
        conn.execute(f'drop database if exists {name} with (force)')
        conn.execute(f'create database {name} template {template} strategy file_copy')
    world.write(folder/'world', views=('front',))
    url = sibling(server_url, name)
    values = {'DATABASE_URL': url, 'UNDE_DATA_DIR': folder/'data', 'SEARCH_BACKEND': 'pgvector'}
    with Databases(dict.fromkeys(LOGICALS, url)) as db:
        storage = open_storage(load_settings(env={}, **values))
        import_products(db, folder/'world'/'products.csv', images=folder/'world'/'images', storage=storage)
        import_stores(db, folder/'world'/'stores.csv')
        import_availability(db, folder/'world'/'availability.csv')
        index_catalogue(db, load_embedder(preset='batch'), storage=storage)
    yield url, values
    with psycopg.connect(server_url, autocommit=True) as conn:
        conn.execute(f'drop database if exists {name} with (force)')


@pytest.fixture(scope='module')
def vendors(world, scene):
    "The sandbox as detector: it knows the scene's truth. Simulated, over HTTP."
    truth = Truth()
    truth.add_scene(scene)
    with Sandbox(App(world, truth, Quality(detect=1.))) as box: yield box


@pytest.fixture(scope='module')
def site(shop, vendors):
    "Address of the running service."
    import httpx

    with serving(
        load_settings(
            env={},
            **shop[1] | vendors.settings()
            | {'GEMINI_API_KEY': None, 'ANTHROPIC_API_KEY': None, 'REQUEST_DEADLINE': '30s'},
        )
    ) as url:
        for _ in range(600):
            if (answer := httpx.get(f'{url}/health/ready')).status_code == 200: break
            time.sleep(.05)
        assert answer.status_code == 200, answer.text
        yield url


class Line:
    """A TCP proxy in front of the service that hears what the browser sends; while `armed`, it
    ends a connection once `mark` has gone to the browser and `seen` is set."""

    def __init__(self, port, mark=b'event: candidates'):
        self.port, self.mark, self.armed, self.cuts, self.received = port, mark, False, 0, []
        self.seen = threading.Event()
        self.door = socket.create_server(('127.0.0.1', 0))
        self.url = f'http://127.0.0.1:{self.door.getsockname()[1]}'
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                browser, _ = self.door.accept()
                service = socket.create_connection(('127.0.0.1', self.port))
                for a, b, back in ((browser, service, False), (service, browser, True)):
                    threading.Thread(target=self._pass, args=(a, b, back), daemon=True).start()

    def _pass(self, a, b, back):
        seen, mine = b'', len(self.received)
        if not back: self.received.append(b'')
        with contextlib.suppress(OSError):
            while data := a.recv(65536):
                if not back: self.received[mine] += data
                if back and self.armed:
                    seen = (seen + data)[-200_000:]
                    if (at := seen.find(self.mark)) >= 0 and (end := seen.find(b'\n\n', at)) >= 0:
                        b.sendall(data[:max(0, len(data) - (len(seen) - end - 2))])
                        # a browser throws away what it had not read yet when the line breaks
                        self.seen.wait(timeout=30)
                        self.armed, self.cuts = False, self.cuts + 1
                        break
                b.sendall(data)
        for s in (a, b):
            with contextlib.suppress(OSError): s.shutdown(socket.SHUT_RDWR)

    def asked(self, what):
        "The last recognize request that holds `what`."
        return next(
            part
            for received in reversed(self.received)
            for part in reversed(re.split(rb'(?=POST /api/v1/recognize )', received))
            if part.startswith(b'POST /api/v1/recognize ') and what in part
        )


@pytest.fixture
def line(site):
    proxy = Line(int(site.rsplit(':', 1)[1]))
    yield proxy
    proxy.door.close()


# --- the browser
@pytest.fixture(scope='module')
def browser(tools):
    from playwright.sync_api import sync_playwright
    with sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=['--no-sandbox'])
        yield chromium
        chromium.close()


@pytest.fixture
def visit(browser, site):
    """Opens the page; after the test, nothing may have come from outside, and no script may have
    failed or broken the content policy."""
    contexts, troubles = [], []

    def opened(path='/', *, at=site, width=1280, height=900, locale='en-GB', **more):
        context = browser.new_context(viewport={'width': width, 'height': height}, locale=locale, **more)
        context.set_default_timeout(15_000)
        page = context.new_page()
        contexts.append(context)
        page.on('pageerror', lambda e: troubles.append(f'script: {e}'))
        page.on(
            'console',
            lambda m: (
                troubles.append(f'console: {m.text}')
                if 'Content Security Policy' in m.text or 'Refused to' in m.text
                else None
            ),
        )
        page.on(
            'request',
            lambda r: (
                troubles.append(f'outside: {r.url}')
                if not r.url.startswith((at, 'data:', 'blob:'))
                else None
            ),
        )
        page.goto(at + path)
        if path == '/': page.wait_for_selector('.sample')
        return page
    yield opened
    for c in contexts: c.close()
    assert not troubles


def until(page, expression, what=None):
    """Wait for a JavaScript expression to hold; Chromium's own waiting needs eval, which the
    content policy forbids."""
    for _ in range(600):
        if page.evaluate(f'() => Boolean({expression})'): return
        page.wait_for_timeout(50)
    raise AssertionError(
        f'{what or expression}: never; the page says {page.locator("main").inner_text()[:600]!r}'
    )


_photos = iter(range(40, 95))


def fresh(scene):
    "The scene as a photo nobody sent before: paid answers about it are not kept yet."
    stream = io.BytesIO()
    Image.open(io.BytesIO(scene.data)).save(stream, 'JPEG', quality=next(_photos))
    return stream.getvalue()


@contextlib.contextmanager
def vendor_down(site, vendors, scene):
    "Ximilar fails; afterwards it is asked until the service trusts it again, as other tests need it."
    import httpx
    vendors.app.faults.always('ximilar', Fault('server_error'))
    try: yield
    finally: vendors.app.faults.always('ximilar', None)
    photo = fresh(scene)
    for _ in range(300):
        asked = httpx.post(f'{site}/api/v1/recognize', files={'image': photo}, timeout=30)
        if asked.status_code == 200 and not asked.json()['degraded']: return
        time.sleep(.2)
    raise AssertionError(f'the detector is still left out: {asked.text[:300]}')


def photo_file(data, name='look.jpg'): return {'name': name, 'mimeType': 'image/jpeg', 'buffer': data}


def upload(page, data): page.set_input_files('#file', photo_file(data))


def settled(page, n=None):
    "Wait until the answer is there."
    until(
        page,
        f"document.querySelectorAll('.item .feedback, .item .it').length && "
        f"document.getElementById('finds').getAttribute('aria-busy') === 'false' && ({n or 0} === "
        f"0 || document.querySelectorAll('.item').length === {n or 0})",
        f'an answer with {n} garments',
    )


def sideways(page):
    return page.evaluate(
        'document.documentElement.scrollWidth - document.documentElement.clientWidth'
    )


def logged(shop, request_id, column):
    "A column of the request's log rows, once they are written."
    with Databases(dict.fromkeys(LOGICALS, shop[0])) as db:
        for _ in range(100):
            with db.connect('log') as conn:
                found = conn.execute(
                    f'select {column} from recognition_requests where id = %s', (request_id,)
                ).fetchall()
            if found and found[0][0] is not None: return [f[0] for f in found]
            time.sleep(.05)
    raise AssertionError(f'{column} of {request_id} was not logged')


def request_of(page): return page.get_attribute('#after', 'data-requests').split()[-1]


# --- the way of a photo
def test_upload_chips_cards_feedback(visit, line, scene, shop, world):
    page = visit(at=line.url)
    page.select_option('#mall', world.mall_names[0])
    exif = Image.Exif()
    exif[0x010f] = 'a camera that nobody need know'
    with_exif = io.BytesIO()
    Image.open(io.BytesIO(scene.data)).save(with_exif, 'JPEG', quality=95, exif=exif)
    upload(page, with_exif.getvalue())
    settled(page, 3)
    assert page.locator('.chip[data-n]').count() == page.locator('.box').count() == 3
    sent = line.asked(b'photo.jpg')
    assert b'a camera' not in sent and b'image/jpeg' in sent and world.mall_names[0].encode() in sent
    box, frame, item = (
        page.locator('.box').first.bounding_box(),
        page.locator('#frame').bounding_box(),
        max(scene.items, key=lambda i: (i.box[2] - i.box[0]) * (i.box[3] - i.box[1])),
    )
    # boxes lie where the garments are
    assert abs((box['y'] - frame['y'])/frame['height'] - item.box[1]/scene.image.height) < .02
    card = page.locator('.card').first
    assert (
        re.search(r'€\s?\d', card.inner_text())
        and not re.search(r'\bof 100\b', card.inner_text())  # in words, and by four steps
        and card.locator('.likeness b').inner_text() and card.locator('.meter i').count() in (0, 4)
        and page.locator('.verdict').first.inner_text()
        in ('Found', 'Similar', 'In a similar style', 'The closest')
    )
    until(
        page,
        "[...document.querySelectorAll('.card .picture')].slice(0, 1).every((i) => i.complete && "
        "i.naturalWidth > 50)",
    )
    assert page.evaluate('document.activeElement.id') == 'results'  # the focus went where the news are
    sku = card.get_attribute('data-sku')
    card.get_by_role('button', name='This is it').click()
    page.wait_for_selector('.card.chosen')
    assert page.evaluate("document.activeElement.getAttribute('aria-pressed')") == 'true'
    until(page, "document.getElementById('live').textContent.startsWith('Thank you')")
    ((index, right),) = logged(shop, request_of(page), 'user_feedback')[0].items()
    assert right == dict(zip(('brand', 'external_id'), sku.split('/')))
    seen = logged(shop, request_of(page), 'detected_items')[0][int(index)]['category']
    assert page.locator('.item h2').first.inner_text() == seen.capitalize()
    links = page.locator('.where a').all()
    assert links and all(
        a.get_attribute('href').startswith('https://www.openstreetmap.org/?mlat=') for a in links
    )
    page.locator('.chip[data-n="2"]').click()
    assert page.locator('.item:visible').count() == 1 and page.locator('.box.dim').count() == 2
    page.locator('.box').nth(0).focus()
    page.keyboard.press('Escape')
    page.get_by_role('button', name='All', exact=True).click()
    assert page.locator('.item:visible').count() == 3


def test_drawn_box_and_wishes(visit, line, scene):
    page = visit(at=line.url)
    upload(page, fresh(scene))
    settled(page, 3)
    page.get_by_role('button', name='Draw a box').first.click()
    frame = page.locator('#drawing').bounding_box()
    at = lambda x, y: (frame['x'] + x*frame['width'], frame['y'] + y*frame['height'])
    page.mouse.move(*at(.05, .05))
    page.mouse.down()
    page.mouse.move(*at(.2, .2), steps=3)
    page.mouse.move(*at(.45, .5), steps=3)
    page.mouse.up()
    page.select_option('#draw-is', 'bag')
    page.get_by_role('button', name='Search this piece').click()
    settled(page, 4)
    drawn = re.search(rb'"box":\[(\d+),(\d+),(\d+),(\d+)\],"category":"bag"', line.asked(b'"bag"'))
    assert drawn and all(
        abs(int(v) - want) < 6
        for v, want in zip(
            drawn.groups(),
            (
                0.05 * scene.image.width,
                0.05 * scene.image.height,
                0.45 * scene.image.width,
                0.5 * scene.image.height,
            ),
        )
    )
    assert (
        page.locator('.item:visible').count() == 1
        and page.locator('.item:visible h2').inner_text() == 'Bag'
    )
    page.locator('#filters summary').click()
    page.get_by_role('button', name='M', exact=True).click()
    page.fill('#price-max', '45,5')
    page.locator('#apply').click()
    settled(page)
    third = line.asked(b'name="sizes"')
    assert (
        b'name="sizes"\r\n\r\n["M"]' in third
        and b'name="max_price"\r\n\r\n45.5' in third
        and third.count(b'"box":') == 4
    )
    page.reload()
    page.wait_for_selector('.item')
    assert '2 set' in page.locator('#filters summary').inner_text()  # kept on the device
    page.locator('#filters summary').click()
    page.fill('#price-min', '90')
    assert page.locator('#price-wrong').inner_text()


def test_stream_cut_in_the_middle(visit, line, scene, shop):
    page, keys = visit(at=line.url), []
    page.on(
        'request',
        lambda r: (
            keys.append(r.headers['idempotency-key']) if r.url.endswith('/recognize') else None
        ),
    )
    line.armed = True
    upload(page, fresh(scene))
    page.wait_for_selector('[data-state=first] .card')
    line.seen.set()
    page.wait_for_selector('.problem')
    assert line.cuts == 1 and 'The line broke off' in page.locator('.problem').inner_text()
    # what was known is still there
    assert (
        page.locator('.chip[data-n]').count() == 3
        and page.locator('[data-state=first] .card').count() > 0
    )
    page.get_by_role('button', name='Try again').click()
    settled(page, 3)
    assert page.locator('.problem').count() == 0 and len(set(keys)) == 1 and len(keys) >= 2
    # asked twice, answered and logged once
    assert len(logged(shop, request_of(page), 'items_detected')) == 1


def test_slow_vendor_shows_skeletons_then_chips(visit, vendors, scene):
    page = visit(reduced_motion='reduce')
    vendors.app.latency = Latency(ximilar=(.9, .9))
    try:
        upload(page, fresh(scene))
        page.wait_for_selector('.skeleton')
        assert (
            page.locator('#finds').get_attribute('aria-busy') == 'true'
            and page.locator('.chip[data-n]').count() == 0
            and page.locator('[data-key=stop]').is_visible()
        )
        page.wait_for_selector('.chip[data-n]')
        settled(page, 3)
        assert page.locator('.skeleton').count() == 0
        page.get_by_role('button', name='New photo').click()
        page.wait_for_selector('#start:visible')
        upload(page, fresh(scene))
        page.get_by_role('button', name='Stop').click()
        page.wait_for_selector('.problem')
        assert 'Stopped' in page.locator('.problem').inner_text() and page.locator('.spin').count() == 0
    finally: vendors.app.latency = Latency()


def test_a_vendor_that_is_down_is_told_kindly(visit, site, vendors, scene):
    page = visit()
    with vendor_down(site, vendors, scene):
        upload(page, fresh(scene))
        settled(page)
        assert page.locator('.item').count() > 1  # the package's own detector stands in
        assert (
            'A simpler way of finding the garments' in page.locator('#good').inner_text()
            and 'ximilar' not in page.locator('main').inner_text()
        )
        page.get_by_role('button', name='Русский').click()
        assert 'искал способ попроще' in page.locator('#good').inner_text()


def test_a_photo_looked_at_as_a_whole_offers_a_box(visit, site, vendors, scene, world):
    page = visit()
    with vendor_down(site, vendors, scene):
        photo = to_jpeg(world.photo(world.keys[3], 'front'))  # nobody wears it
        upload(page, photo)
        settled(page, 1)
        assert page.locator('.verdict').inner_text() == 'Found'
        assert page.locator('[data-key=draw-hint]').count() == 0  # it need not be searched better
        changed(page, lambda result: result['items'][0].update(match_type='style', reason='nothing_near'))
        page.go_back()
        upload(page, photo)
        settled(page, 1)
        assert 'draw a box around one' in page.locator('#notes').inner_text()


def test_a_service_that_is_not_ready_is_waited_for(visit, fresh_url, shop):
    with serving(load_settings(env={}, **shop[1] | {'DATABASE_URL': fresh_url})) as url:
        page = visit(at=url)
        page.locator('.sample').first.click()
        until(page, "document.getElementById('status').textContent.includes('waking up')")
        page.get_by_role('button', name='Stop').click()
        page.wait_for_selector('.problem')
        assert page.get_by_role('button', name='Try again').is_visible()


@pytest.fixture(scope='module')
def locked(shop, tmp_path_factory):
    "A service with keys: (address, keys by right, where a line of its log goes)."
    import logging

    from unde_recog.web.auth import add_key
    file, lines = tmp_path_factory.mktemp('keys')/'keys.json', []
    keys = {
        'page': add_key(file, 'page'),
        'lab': add_key(file, 'lab', ['recognize', 'lab']),
        'metrics': add_key(file, 'prometheus', ['metrics']),
    }

    class Lines(logging.Handler):
        def emit(self, record): lines.append(record.getMessage() + repr(vars(record)))
    hears = Lines()
    logging.getLogger().addHandler(hears)
    logging.getLogger('unde_recog').setLevel(logging.INFO)
    with serving(load_settings(env={}, **shop[1] | {'API_KEYS_FILE': file})) as url: yield url, keys, lines
    logging.getLogger().removeHandler(hears)


def wait_until_ready(url):
    "Wait until the service can answer photos."
    for _ in range(600):
        try:
            with urllib.request.urlopen(f'{url}/health/ready', timeout=5): return
        except OSError: time.sleep(.1)
    raise AssertionError('the service does not get ready')


def give(page, key):
    page.wait_for_selector('input[name=key]')
    page.fill('input[name=key]', key)
    page.keyboard.press('Enter')


def test_a_shop_with_keys_asks_for_one(visit, locked, shop):
    url, keys, lines = locked
    wait_until_ready(url)  # else the malls are asked before the databases are open
    page, addresses = visit(at=url), []
    page.on('request', lambda r: addresses.append(r.url))
    # at once, not after the photo
    until(page, "document.querySelector('#start-key').innerText.includes('asks for an access key')")
    give(page, keys['page'])
    until(
        page,
        "document.querySelectorAll('#mall option').length === 3 && "
        "!document.querySelector('#start-key form')",
    )
    page.locator('.sample').first.click()
    settled(page)
    until(
        page,
        "[...document.querySelectorAll('.card img.picture')].some((i) => i.naturalWidth > 50)",
        'pictures behind the key',
    )
    page.get_by_role('button', name='This is it').first.click()
    assert logged(shop, request_of(page), 'user_feedback')
    page.goto(url)
    until(page, "document.querySelectorAll('#mall option').length === 3")  # asked for once a tab
    assert page.locator('input[name=key]').count() == 0
    assert page.evaluate("sessionStorage.getItem('unde.key')") == keys['page']
    assert keys['page'] not in page.content() + page.url + page.evaluate(
        'JSON.stringify(localStorage) + document.cookie'
    ) + ''.join(addresses)
    assert lines and not any(keys['page'] in line for line in lines)


@pytest.mark.parametrize(
    'locale, unknown, poor',
    [
        ('en-GB', 'not known here', 'does not open this'),
        ('ru-RU', 'Такого ключа здесь не знают', 'сюда он не пускает'),
    ],
    ids=['en', 'ru'],
)
def test_a_wrong_key_is_told_kindly(visit, locked, locale, unknown, poor):
    url, keys, _ = locked
    page = visit(at=url, locale=locale)
    for wrong, said in (('unde_wrong', unknown), ('ключ', unknown), (keys['metrics'], poor)):
        give(page, wrong)
        until(page, f"document.querySelector('.key-form')?.innerText.includes('{said}')", said)
        assert page.evaluate('document.activeElement.name') == 'key'
        assert page.evaluate('sessionStorage.length') == 0  # it is not sent again and again
    # a key that was good when the tab was opened
    page.evaluate("sessionStorage.setItem('unde.key', 'unde_taken_back')")
    page.reload()
    page.wait_for_selector('.sample')
    until(page, f"document.querySelector('#start-key').innerText.includes('{unknown}')")
    page.locator('.sample').first.click()
    page.locator('.sample').first.wait_for(state='hidden')  # and with it the form of the first screen
    give(page, keys['page'])
    settled(page)
    assert page.locator('.problem').count() == 0


def test_lab_behind_a_key(visit, locked, scene):
    import httpx
    url, keys, _ = locked
    wait_until_ready(url)
    bearer = {'Authorization': f"Bearer {keys['page']}"}
    asked = httpx.post(f'{url}/api/v1/recognize', files={'image': scene.data}, headers=bearer, timeout=30)
    assert asked.status_code == 200
    page = visit('/lab', at=url)
    give(page, keys['page'])
    until(page, "document.querySelector('.key-form').innerText.includes('does not open this')")
    give(page, keys['lab'])
    until(page, "document.querySelectorAll('#latest table tbody tr').length > 0")
    page.locator('#latest a').first.click()
    page.wait_for_selector('.lab-item')
    assert page.locator('.key-form').count() == 0 and keys['lab'] not in page.url + page.content()


def test_what_is_no_photo_is_told_at_once(visit):
    page = visit()
    page.set_input_files('#file', {'name': 'x.jpg', 'mimeType': 'image/jpeg', 'buffer': b'not a photo'})
    until(page, "document.getElementById('start-problem').textContent.includes('cannot be opened')")
    tiny = io.BytesIO()
    Image.new('RGB', (9, 9)).save(tiny, 'JPEG')
    upload(page, tiny.getvalue())
    until(page, "document.getElementById('start-problem').textContent.includes('too small')")


@pytest.mark.parametrize('how', ['paste', 'drop'])
def test_paste_and_drop(visit, scene, how):
    page = visit()
    page.evaluate(
        '''([how, bytes]) => {
            const moved = new DataTransfer(), file = new Uint8Array(bytes);
            moved.items.add(new File([file], 'look.jpg', { type: 'image/jpeg' }));
            const drop = { dataTransfer: moved, bubbles: true, cancelable: true };
            document.dispatchEvent(how === 'paste'
                ? new ClipboardEvent('paste', { clipboardData: moved, bubbles: true })
                : new DragEvent('drop', drop));
        }''',
        [how, list(fresh(scene))],
    )
    settled(page, 3)


# --- whoever comes, with whatever
def test_phone(visit, scene):
    page = visit(width=390, height=844, has_touch=True, is_mobile=True, locale='ru-RU')
    assert (
        sideways(page) == 0
        and page.locator('#snap').is_visible()
        and page.get_attribute('#camera', 'capture') == 'environment'
    )
    page.locator('#filters summary').tap()
    assert sideways(page) == 0
    page.locator('#filters summary').tap()
    upload(page, fresh(scene))
    settled(page, 3)
    assert sideways(page) == 0 and 'Проверили 3 вещи' in page.locator('#status').inner_text()
    page.locator('.box').last.tap()
    assert page.locator('.item:visible').count() == 1
    small = page.evaluate(
        "[...document.querySelectorAll('button:not(.box), summary')].filter((b) => "
        "b.checkVisibility() && b.getBoundingClientRect().height < 24).map((b) => b.textContent)"
    )
    assert small == []  # targets are large enough to tap
    page.locator('.tools-more summary').tap()
    page.locator('[data-key=draw]').tap()
    assert sideways(page) == 0


def test_phone_shows_products_first_and_the_rest_by_tapping(visit, scene):
    "Products on the first screen, three screens at most, and what else there is to know in a sheet."
    page = visit(width=390, height=844, has_touch=True, is_mobile=True)
    upload(page, fresh(scene))
    settled(page, 3)
    first = page.locator('.card .facts').first.bounding_box()
    assert first['y'] + first['height'] < 844
    assert page.evaluate('document.documentElement.scrollHeight') <= 3*844
    rows = page.locator('.item .cards:not(.one)')
    wide = rows.evaluate_all('(all) => all.map((el) => el.scrollWidth > el.clientWidth)')
    assert wide and all(wide)  # to swipe through
    assert not page.locator('.card .store').first.is_visible()
    opener = page.locator('.card .open').first
    name = page.locator('.card h3').first.inner_text()
    opener.tap()
    sheet = page.locator('#sheet')
    assert sheet.locator('h2').inner_text() == name and sheet.locator('.store').first.is_visible()
    assert sheet.locator('canvas.crop').is_visible() and sheet.locator('img.large').is_visible()
    zoom = sheet.locator('.zoom').last
    before = sheet.locator('img.large').bounding_box()['width']
    zoom.tap()
    assert sheet.locator('img.large').bounding_box()['width'] > 2*before
    zoom.tap()
    sheet.locator('[data-key=sheet-cut]').tap()
    until(page, "document.querySelectorAll('#sheet .alike .card').length >= 3")
    assert any('/api/v1/similar-cut/' in a for a in page.evaluate(
        "performance.getEntriesByType('resource').map((e) => e.name)"))
    sheet.locator('[data-key=sheet-more]').tap()
    until(page, "performance.getEntriesByType('resource').some((e) => e.name.includes('/similar-items/'))")
    until(page, "document.querySelectorAll('#sheet .alike .card').length >= 3")
    sheet.locator('.alike .open').first.tap()
    until(page, f"document.querySelector('#sheet h2').textContent !== {json.dumps(name)}")
    page.keyboard.press('Escape')
    assert not sheet.is_visible() and opener.evaluate('(el) => el === document.activeElement')
    assert sideways(page) == 0


def test_a_result_survives_reload_and_goes_with_the_photo(visit, scene):
    page = visit()
    upload(page, fresh(scene))
    settled(page, 3)
    shown = page.locator('.card').evaluate_all("(all) => all.map((c) => c.dataset.sku)")
    until(page, "sessionStorage.getItem('unde.result')")
    page.reload()
    until(page, "document.querySelectorAll('.item').length === 3")
    assert page.locator('.card').evaluate_all("(all) => all.map((c) => c.dataset.sku)") == shown
    assert page.locator('.box').count() == 3
    page.go_back()  # the browser's own way back is that to the start
    page.wait_for_selector('.sample')
    assert page.evaluate("sessionStorage.getItem('unde.result')") is None


def test_a_photo_by_its_address(visit, scene):
    "What cannot be fetched is told; a private network is none of the page's business."
    page = visit()
    page.fill('#link-url', 'http://127.0.0.1:1/look.jpg')
    page.locator('#link button').click()
    until(page, "document.querySelector('#start-problem').textContent.includes('No photo could be fetched')")
    page.route('**/api/v1/photo', lambda route: route.fulfill(body=fresh(scene), content_type='image/jpeg'))
    page.fill('#link-url', 'https://example.com/look.jpg')
    page.locator('#link button').click()
    settled(page, 3)


def test_sorting_and_words(visit, scene):
    page = visit()
    upload(page, fresh(scene))
    settled(page, 3)
    price = "(all) => all.map((c) => Number(c.textContent.replace(/[^0-9.]/g, '')))"
    page.select_option('[data-key=sort]', 'price')
    for n in range(3):
        prices = page.locator('.item').nth(n).locator('.price').evaluate_all(price)
        assert prices == sorted(prices)
    brand = page.locator('.card .brand').first.inner_text()
    page.fill('[data-key=words]', brand.lower())
    assert set(page.locator('.card .brand').all_inner_texts()) == {brand}
    page.fill('[data-key=words]', 'no such thing')
    assert page.locator('.card').count() == 0 and 'no such thing' in page.locator('.item').first.inner_text()


@pytest.mark.parametrize('locale, person, reasons, shop_link', [
    ('en-GB', 'Person 2', ('sell nothing of this kind', 'Your mall does not have it now'), 'Open at'),
    ('ru-RU', 'Человек 2', ('в этих магазинах не продаются', 'В вашем торговом центре'), 'На сайт'),
])
def test_reasons_people_and_the_shops_own_page(visit, scene, locale, person, reasons, shop_link):
    "The service's answer, with reasons, people and an address set as the contract has them."
    page = visit(locale=locale)

    def told(route):
        kept = []
        for part in route.fetch().text().split('\n\n'):
            if part.startswith('event: result'):
                head, data, *rest = part.split('\n')
                result = json.loads(data.removeprefix('data: '))
                for item, reason in zip(result['items'], ('category_not_sold', 'not_in_mall', None)):
                    item.update(reason=reason, match_type='none' if reason else item['match_type'])
                result['items'][0]['matches'] = []
                result['items'][2]['person_index'] = 1
                result['items'][2]['matches'][0]['product_url'] = 'https://shop.example/p/1'
                result['items'][2]['matches'][-1]['product_url'] = 'javascript:alert(1)'
                part = '\n'.join([head, 'data: ' + json.dumps(result), *rest])
            if part.startswith('event: detected'):
                part = part.replace('"item_index": 2,', '"item_index": 2, "person_index": 1,')
            kept.append(part)
        route.fulfill(body='\n\n'.join(kept), content_type='text/event-stream')
    page.route('**/api/v1/recognize', told)
    upload(page, fresh(scene))
    settled(page, 3)
    text = page.locator('#items').inner_text()
    assert all(reason in text for reason in reasons) and person in text
    links = page.locator('.shop-link')
    assert links.count() == 1 and links.first.get_attribute('href') == 'https://shop.example/p/1'
    assert links.first.get_attribute('rel') == 'noopener noreferrer' and shop_link in links.first.inner_text()


# --- own screens: nothing to find, no mall, no network, a slow line
@pytest.mark.parametrize('about, screen, word', [
    ({'products': 0, 'malls': [], 'indexed': False}, 'empty', 'There is nothing to find here yet'),
    ({'indexed': False}, 'waking', 'The service is not ready yet'),
    ({'malls': []}, 'noMall', 'No store is known'),
])
def test_what_keeps_the_page_from_being_of_use_is_said(visit, about, screen, word):
    page = visit(width=390, height=844, has_touch=True, is_mobile=True)
    page.route('**/api/v1/shop', lambda route: route.fulfill(json=route.fetch().json() | about))
    page.reload()
    page.wait_for_selector(f'#state-{screen}')
    assert word in page.locator(f'#state-{screen}').inner_text() and sideways(page) == 0
    assert page.locator('label.mall').is_visible() == bool(about.get('malls', True))
    page.unroute('**/api/v1/shop')
    page.reload()
    page.wait_for_selector('#shop-facts')
    assert 'products to be found' in page.locator('#shop-facts').inner_text()


def test_a_network_that_goes_and_comes_back(visit, scene):
    "Said at once; what broke off goes on by itself, and is asked under the same key."
    page = visit(width=390, height=844, has_touch=True, is_mobile=True)
    page.wait_for_selector('#shop-facts')
    page.context.set_offline(True)
    page.wait_for_selector('#state-offline')
    upload(page, fresh(scene))
    page.wait_for_selector('.problem')
    assert 'offline' in page.locator('.problem').inner_text()
    page.context.set_offline(False)
    settled(page)
    assert page.locator('.problem').count() == 0


def test_a_slow_line_offers_a_smaller_photo(visit, scene):
    page, sizes = visit(width=390, height=844, has_touch=True, is_mobile=True), []

    def held(route):
        sizes.append(len(route.request.post_data_buffer))
        if len(sizes) > 1: route.continue_()  # the first one never gets there
    page.route('**/api/v1/recognize', held)
    page.clock.install()
    upload(page, fresh(scene))
    until(page, "document.querySelector('.item')")
    page.clock.run_for(9000)
    page.locator('#state-slow [data-key=smaller]').tap()
    page.clock.run_for(2000)
    settled(page)
    assert sizes[1] < sizes[0] and page.locator('#state-slow').count() == 0


def test_finds_are_filtered_by_what_the_catalogue_knows(visit, scene, shop):
    "Colour, kind and composition, in the language of the page."
    page = visit(locale='ru-RU')
    page.route('**/api/v1/facts?*', lambda route: route.fulfill(json={'products': [
        {'brand': sku.split('/')[0], 'external_id': sku.split('/')[1], 'category': 'bottom' if n else 'dress',
         'colour': 'red' if n else 'green', 'composition': '100% linen' if n else '90% cotton'}
        for n, sku in enumerate(sorted(parse_qs(urlsplit(route.request.url).query)['sku']))]}))
    with page.expect_response('**/api/v1/facts?*'):
        upload(page, fresh(scene))
        settled(page)
    every = page.locator('.card[data-sku]').count()
    for words, some in (
        ('зелёный', 'one'), ('платье', 'one'), ('хлопок 90%', 'one'), ('linen', 'rest'), ('шёлк', 'none')
    ):
        page.fill('[data-key=words]', words)
        left = page.locator('.card[data-sku]').count()
        assert {'one': 0 < left < every, 'rest': 0 < left < every, 'none': left == 0}[some], words
    page.fill('[data-key=words]', '')
    assert page.locator('.card[data-sku]').count() == every


def test_what_is_not_sold_takes_one_line(visit, scene):
    "No trousers for shoes, unless somebody wants to see them; what was found stands first."
    page = visit(width=390, height=844, has_touch=True, is_mobile=True)

    def told(route):
        text = route.fetch().text()
        head, data = re.search(r'(event: result\n)data: (.*)', text).groups()
        result = json.loads(data)
        result['items'][0].update(reason='category_not_sold', match_type='style')
        body = text.replace(f'{head}data: {data}', f'{head}data: {json.dumps(result)}')
        route.fulfill(body=body, content_type='text/event-stream')
    page.route('**/api/v1/recognize', told)
    upload(page, fresh(scene))
    settled(page)
    last = page.locator('.item').last
    assert 'Not sold here' in last.inner_text() and last.locator('.card').count() == 0
    assert last.bounding_box()['height'] < 160
    last.locator('[data-key^=unfold]').tap()
    assert last.locator('.card').count() > 0 and last.locator('.meter').count() == 0


def changed(page, change):
    "The service's answer with `change(result)` applied; boxes and numbers stay true."
    def told(route):
        text = route.fetch().text()
        head, data = re.search(r'(event: result\n)data: (.*)', text).groups()
        result = json.loads(data)
        change(result)
        body = text.replace(f'{head}data: {data}', f'{head}data: {json.dumps(result)}')
        route.fulfill(body=body, content_type='text/event-stream')
    page.route('**/api/v1/recognize', told)


def test_five_garments_take_three_screens_at_most(visit, scene):
    "Numbered down the photo, what is sold first, what is not in a line each; everything by tapping."
    page = visit(width=390, height=844, has_touch=True, is_mobile=True)

    def five(result):
        first = result['items'][0]
        result['items'] += [first | {'item_index': n, 'match_type': 'style', 'reason': reason,
                                     'box': [10, 10, 60, 50*n]}
                            for n, reason in ((3, 'nothing_near'), (4, 'category_not_sold'))]
    changed(page, five)
    upload(page, fresh(scene))
    settled(page, 5)
    assert page.evaluate('document.documentElement.scrollHeight') <= 3*844 and sideways(page) == 0
    tops = page.evaluate("[1, 2, 3].map((n) => parseFloat("
                         "document.querySelector(`[data-key=box-${n}]`).style.top))")
    assert tops == sorted(tops)
    assert page.locator('.item').last.evaluate("(el) => el.classList.contains('folded')")
    for n in range(1, 6):
        page.locator(f'[data-key=chip-{n}]').tap()
        assert page.locator('.item:visible').get_attribute('data-n') == str(n)
    page.locator('[data-key=chip-all]').tap()
    assert page.locator('.item:visible').count() == 5


@pytest.mark.parametrize('locale, colour, kind, other', [
    ('en-GB', 'black first', 'Same colour', 'closest of other kinds'),
    ('ru-RU', 'сначала цвет «чёрный»', 'Тот же цвет', 'близкое из другого'),
])
def test_an_alternative_says_why_it_is_one(visit, scene, locale, colour, kind, other):
    page = visit(width=390, height=844, has_touch=True, is_mobile=True, locale=locale)

    def far(result):
        for item, agrees in zip(result['items'], (['category', 'color'], [])):
            item.update(match_type='style', reason='nothing_near', tags={'color': 'black'})
            for match in item['matches']: match['agrees'] = agrees
    changed(page, far)
    upload(page, fresh(scene))
    settled(page, 3)
    said = page.locator('.item').evaluate_all('(all) => all.map((el) => el.innerText)')
    (near,) = [text for text in said if colour in text]
    assert kind in near
    assert len([text for text in said if re.search(other, text)]) == 1


def test_for_whom_is_asked_beside_the_finds(visit, line, scene):
    "One tap, and the same boxes are searched again; nobody looks for them twice."
    page = visit(at=line.url, width=390, height=844, has_touch=True, is_mobile=True)
    upload(page, fresh(scene))
    settled(page, 3)
    page.select_option('[data-key=whom]', 'women')
    settled(page, 3)
    asked = line.asked(b'name="gender"')
    assert b'name="gender"\r\n\r\nwomen' in asked and asked.count(b'"box":') == 3
    until(page, "document.querySelector('#filters-name').textContent.includes('1 set')")


def test_colours_prices_and_stock_by_tapping(visit, scene, world):
    "A style's colours are one card, looked at in the sheet; in stock first; no price without currency."
    page = visit(width=390, height=844, has_touch=True, is_mobile=True)
    another = world.keys[0].external_id + '/x'

    def styled(result):
        item = result['items'][0]
        item.update(match_type='similar', reason=None)
        one, nowhere = item['matches'][0], {'stores': [], 'other_malls': []}
        colours = [{'external_id': another, 'colour': 'red', 'image_url': None}]
        item['matches'] = [
            one | nowhere | {'style_id': 's', 'currency': None, 'other_colours': colours},
            one | nowhere | {'style_id': 's', 'external_id': one['external_id'] + '-b'},
            one | {'style_id': 't', 'external_id': one['external_id'] + '-c', 'stores': [{
                'store_id': '1', 'name': 'Nord', 'sizes': ['M'], 'fetched_at': '2020-01-01T00:00:00Z'}]},
        ]
    changed(page, styled)
    upload(page, fresh(scene))
    settled(page, 3)
    row = page.locator('.item:has(.ways)').first
    assert row.locator('.card[data-sku]').count() == 2 and '2 colours' in row.locator('.ways').inner_text()
    assert 'currency not given' in row.locator('.card').first.inner_text()
    sheet, large = page.locator('#sheet'), page.locator('#sheet img.large')
    row.locator('.open').first.tap()
    for _ in range(50):
        if large.count(): break
        page.wait_for_timeout(100)
    else: row.locator('.open').first.tap()  # the tap fell into the page's last redrawing
    first = large.get_attribute('src')
    sheet.get_by_role('button', name='Show it in red').tap()
    assert sheet.locator('img.large').get_attribute('src') != first
    assert 'red' in sheet.locator('figcaption').last.inner_text()
    sheet.get_by_role('button', name='Show it in red').tap()
    assert sheet.locator('img.large').get_attribute('src') == first  # a second tap takes it back
    sheet.locator('[data-key=sheet-close]').tap()
    page.locator('.tools-more summary').tap()
    page.select_option('[data-key=sort]', 'stock')
    assert row.locator('.card[data-sku]').first.get_attribute('data-sku').endswith('-c')
    row.locator('.open').first.tap()
    assert 'better ask before you go' in sheet.inner_text()  # how old the stock is


def test_no_garment_is_told(visit, scene):
    page = visit()
    empty = {'request_id': '3f0e8a52-9b3c-4d58-8f5e-2f6f3f0c1d7a', 'model_version': 'x', 'degraded': [],
             'total_ms': 90, 'reason': 'no_garment', 'items': []}
    page.route('**/api/v1/recognize', lambda route: route.fulfill(json=empty))
    upload(page, fresh(scene))
    until(page, "document.querySelector('#no-garment')")
    assert 'No garment could be made out' in page.locator('#no-garment').inner_text()


def test_the_page_works_under_a_path_of_its_own():
    "Everything is asked for relative to the page, so that a proxy may serve it under /look."
    from unde_recog.web.catalogue import ASSETS
    for path in (*ASSETS.glob('*.js'), ASSETS/'index.html', ASSETS/'lab.html', ASSETS/'style.css'):
        absolute = re.findall(r'''["'`(]/(?:assets|api|lab|docs)\b''', path.read_text('utf-8'))
        assert not absolute, path.name


def test_first_load_is_small():
    "All that the page loads before a photo, compressed, without pictures."
    import gzip
    from unde_recog.web.catalogue import ASSETS
    names = ('index.html', 'app.js', 'kit.js', 'words.js', 'style.css', 'favicon.svg')
    assert sum(len(gzip.compress((ASSETS/n).read_bytes(), 6)) for n in names) <= 60_000


def test_keyboard_only(visit, scene, shop):
    page, asked, choosers = visit(), [], []
    page.on('filechooser', lambda c: choosers.append(c))
    page.on('response', lambda r: asked.append((r.request.method, r.url.rsplit('/', 1)[1], r.status)))

    def tab_to(selector, most=60):
        for _ in range(most):
            page.keyboard.press('Tab')
            if page.evaluate('s => document.activeElement.matches(s)', selector): return
        raise AssertionError(f'{selector} cannot be reached by Tab')

    page.keyboard.press('Tab')
    assert (
        page.evaluate('document.activeElement.className') == 'skip'
        and page.locator('.skip').bounding_box()['y'] >= 0
    )
    tab_to('#filters summary')
    page.keyboard.press('Enter')
    tab_to('[data-key=size-L]')
    page.keyboard.press('Escape')
    assert (
        not page.evaluate("document.getElementById('filters').open")
        and page.evaluate("document.activeElement.tagName") == 'SUMMARY'
    )
    tab_to('#choose')
    page.keyboard.press('Enter')
    for _ in range(100):
        if choosers: break
        page.wait_for_timeout(50)
    choosers[0].set_files(photo_file(fresh(scene)))
    settled(page, 3)
    tab_to('.box')
    page.keyboard.press('Enter')
    assert page.locator('.item:visible').count() == 1 and page.evaluate(
        "document.activeElement.className.includes('box')"
    )
    tab_to('[data-key=draw]')
    page.keyboard.press('Enter')
    assert page.evaluate('document.activeElement.id') == 'drawing'
    before = page.locator('#drawing').get_attribute('aria-label')
    for key in ('ArrowLeft', 'ArrowUp', 'Shift+ArrowRight', 'Shift+ArrowDown'): page.keyboard.press(key)
    assert page.locator('#drawing').get_attribute('aria-label') != before
    page.keyboard.press('Escape')
    assert page.evaluate('document.activeElement.dataset.key') == 'draw'
    page.keyboard.press('Enter')
    page.keyboard.press('Enter')
    settled(page, 4)
    tab_to('[data-key^="it-4-"], [data-key="none-4"]')
    page.keyboard.press('Space')
    until(page, "document.querySelector('.thanks:not(:empty)')")
    assert any(m == 'POST' and s == 204 for m, path, s in asked if path == 'feedback')


def test_accessible_in_both_schemes_and_languages(visit, tools, scene):
    page = visit(reduced_motion='reduce')

    def findings(where):
        if page.evaluate('typeof axe') == 'undefined': page.evaluate(tools + '; void 0')
        result = page.evaluate(
            "axe.run(document, { resultTypes: ['violations'], runOnly: ['wcag2a', 'wcag2aa', "
            "'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice'] })"
        )
        return [
            f"{where}: {v['id']} ({v['impact']}): {v['nodes'][0]['html'][:160]}"
            for v in result['violations']
            if v['impact'] in ('serious', 'critical')
        ]

    def all_ways(where):
        out = []
        for scheme, language in (('light', 'English'), ('dark', 'Русский')):
            page.emulate_media(color_scheme=scheme)
            page.get_by_role('button', name=language).click()
            assert (
                page.evaluate('document.documentElement.lang')
                == {'English': 'en', 'Русский': 'ru'}[language]
            )
            out += findings(f'{where}, {scheme}, {language}')
        return out

    page.locator('#filters summary').click()
    found = all_ways('start')
    upload(page, fresh(scene))
    settled(page, 3)
    found += all_ways('finds')
    page.set_viewport_size({'width': 390, 'height': 844})
    page.locator('.card .open').first.click()
    page.locator('[data-key=sheet-more]').click()
    page.wait_for_selector('#sheet .alike .card')
    for scheme in ('light', 'dark'):
        page.emulate_media(color_scheme=scheme)
        found += findings(f'sheet, {scheme}')
    page.keyboard.press('Escape')
    found += all_ways('phone')
    page.set_viewport_size({'width': 1280, 'height': 900})
    page.locator('[data-key=draw]').click()
    found += all_ways('drawing')
    page.keyboard.press('Escape')
    page.locator('.trail a').first.click()
    page.wait_for_selector('.lab-item')
    found += all_ways('lab')
    assert found == []


def test_names_with_markup_are_shown_as_text(visit, scene, shop):
    evil = '<img src=x onerror="window.hacked=1"><b>bold</b>'
    with Databases(dict.fromkeys(LOGICALS, shop[0])) as db:
        def rename(product, store):
            with db.connect('catalogue') as conn, conn.transaction():
                conn.execute(f'update raw_products set name = {product}', ())
                conn.execute(f'update raw_stores set name = {store}, floor = {store}', ())

        with db.connect('catalogue') as conn:
            kept = (
                conn.execute('select brand, external_id, name from raw_products').fetchall(),
                conn.execute('select id, name, floor from raw_stores').fetchall(),
            )
        quoted = "'" + evil + "'"
        rename(quoted, quoted)
        try:
            page = visit()
            upload(page, fresh(scene))
            settled(page, 3)
            assert (
                evil in page.locator('.card h3').first.inner_text()
                and page.locator('.card h3 b, .where img').count() == 0
            )
            page.locator('.trail a').first.click()
            page.wait_for_selector('.lab-item')
            assert page.evaluate('window.hacked') is None
        finally:
            with db.connect('catalogue') as conn, conn.transaction():
                for brand, external_id, name in kept[0]:
                    conn.execute(
                        'update raw_products set name = %s where brand = %s and external_id = %s',
                        (name, brand, external_id),
                    )
                for i, name, floor in kept[1]:
                    conn.execute(
                        'update raw_stores set name = %s, floor = %s where id = %s',
                        (name, floor, i),
                    )


def test_lab_shows_the_trail(visit, scene):
    page = visit()
    upload(page, fresh(scene))
    settled(page, 3)
    page.locator('.trail a').first.click()
    page.wait_for_selector('.lab-item')
    assert (
        page.locator('.lab-item').count() == 3
        and page.locator('.scene rect').count() == 3
        and page.locator('.chart .bar-of').count() >= 5
    )
    assert (
        page.locator('.gate').first.inner_text().count('against') == 2
        and page.locator('table .told').count() > 0
    )
    assert page.locator('#latest tbody tr.told').count() == 1
    canvas = page.evaluate("document.querySelector('.scene').getAttribute('viewBox')").split()
    sent = page.evaluate(
        "fetch('/api/v1/requests/' + document.querySelector('#id').value).then((r) => "
        "r.json()).then((r) => [r.width, r.height, r.photo])"
    )
    # an upload is not kept; its size is
    assert (
        [int(v) for v in canvas[2:]] == sent[:2]
        and sent[0] > 300
        and sent[2] is None
        and page.locator('.scene image').count() == 0
    )
    page.set_input_files('.lab-top input[type=file]', photo_file(scene.data))
    page.wait_for_selector('.scene image[href^="blob:"]')  # chosen here, it stays here
    page.fill('#id', '00000000-0000-4000-8000-000000000000')
    page.get_by_role('button', name='Show', exact=True).click()
    page.wait_for_selector('.problem')
    assert 'No such request' in page.locator('#trouble').inner_text()


def test_lab_draws_a_photo_that_is_kept_to_scale(visit, scene, shop, site):
    import httpx

    from unde_recog.media.storage import open_storage
    settings = load_settings(env={}, **shop[1])
    open_storage(settings).put('street/kept.jpg', scene.data)
    rid = httpx.post(f'{site}/api/v1/recognize', files={'image': scene.data}, timeout=30).json()[
        'request_id'
    ]
    logged(shop, rid, 'created_at')
    with Databases(dict.fromkeys(LOGICALS, shop[0])) as db, db.connect('log') as conn:
        conn.execute(
            "update recognition_requests set photo_url = 'storage:street/kept.jpg' where id = %s",
            (rid,),
        )
    page = visit(f'/lab?id={rid}')
    page.wait_for_selector('.scene image[href^="blob:"]')
    seen, kept = httpx.get(f'{site}/api/v1/requests/{rid}/photo'), scene.image.size
    assert (
        seen.headers['content-type'] == 'image/jpeg'
        and seen.headers['cache-control'] == 'no-store'
        and Image.open(io.BytesIO(seen.content)).size == kept
    )
    assert page.evaluate(
        "['width', 'height'].map((n) => +document.querySelector('.scene image').getAttribute(n))"
    ) == list(kept)
    listed = httpx.get(f'{site}/api/v1/requests', params={'limit': 1}).json()['requests']
    assert (
        [r['request_id'] for r in listed] == [rid]
        and listed[0]['items_detected'] == len(listed[0]['match_types'])
        and 'storage' not in str(listed)
    )
    assert httpx.get(f'{site}/api/v1/requests', params={'limit': 0}).status_code == 422


def test_a_photo_kept_with_consent_is_labelled_and_gone(visit, scene, shop, tmp_path):
    "The box on the page → kept → the lab shows it → on the list → labelled → deleted everywhere."
    from unde_recog.research.label_pool import PoolChoice, pool_to_label
    from unde_recog.media.images import full_size
    from unde_recog.web.auth import add_key
    file = tmp_path/'keys.json'
    add_key(file, 'page')
    key = add_key(file, 'science', ('recognize', 'lab'))
    values = shop[1] | {'API_KEYS_FILE': file, 'PUBLIC_PAGE': True, 'PHOTO_SAMPLE': 1}
    settings = load_settings(env={}, **values)
    store = open_storage(settings)
    large = scene.image.resize((1500, 1500*scene.image.height//scene.image.width))
    with serving(settings) as url:
        wait_until_ready(url)
        page = visit(at=url)
        page.check('#consent input')
        upload(page, to_jpeg(large))
        settled(page)
        rid = request_of(page)
        assert page.locator('a[href*=lab]:visible').count() == 0  # closed to whoever has no key
        (width,) = logged(shop, rid, 'photo_width')
        (kept,) = [name for name in store.list('uploads/') if rid in name]
        lab = visit(f'/lab?id={rid}', at=url)
        on_list = "document.querySelector('[data-key=listed]')?.getAttribute('aria-pressed') === 'true'"
        give(lab, key)
        lab.wait_for_selector('.scene image[href^="blob:"]')
        lab.click('[data-key="listed"]')
        until(lab, on_list)
        lab.goto(f'{url}/lab?id={rid}')  # in the trail too, not in the list alone
        until(lab, on_list)
        data, path, said = pool_to_label(settings, PoolChoice(listed=True))
        assert path is None and set(data.items.photo) == {rid} and 'by hand' in said
        photo = data.photos(rid)
        assert full_size(photo)[0] == width and max(photo.size) <= 1600
        page.click('[data-key="own-delete"]')
        until(page, "document.getElementById('own-said').textContent")
        assert not store.exists(kept)
        with pytest.raises(ValueError, match='none of the'):
            pool_to_label(settings, PoolChoice(listed=True))
        lab.reload()
        until(lab, "document.getElementById('trouble').innerText.trim()")
        assert lab.locator('.scene').count() == 0


# --- the parts, asked in the browser that runs them
def test_words_in_both_languages(visit):
    page = visit(locale='ru-RU')
    words = page.evaluate("async () => (await import('/assets/words.js')).WORDS")
    assert words['en'].keys() == words['ru'].keys()
    for key, english in words['en'].items():
        russian = words['ru'][key]
        holes = lambda said: {
            frozenset(re.findall(r'\{(\w+)\}', s))
            for s in (said.values() if isinstance(said, dict) else [said])
        }
        assert holes(english) == holes(russian), key
        if isinstance(english, dict):
            assert {'one', 'other'} <= english.keys() and (
                len(set(russian.values())) == 1 or {'one', 'few', 'many', 'other'} <= russian.keys()
            ), key
    said = page.evaluate(
        "async () => { const { t } = await import('/assets/kit.js'); return [1, 2, 5, 11, 21, "
        "22].map((n) => t('foundCount', { n })); }"
    )
    assert said == [
        'На фото 1 вещь',
        'На фото 2 вещи',
        'На фото 5 вещей',
        'На фото 11 вещей',
        'На фото 21 вещь',
        'На фото 22 вещи',
    ]
    brands = sorted({*brand_aliases().values(), 'new_brand'})
    shown = page.evaluate(
        "async (keys) => { const { brandName } = await import('/assets/kit.js'); "
        'return keys.map(brandName); }',
        brands,
    )
    assert shown == [brand_name(key) for key in brands]
    used = set()
    for name in ('app.js', 'lab.js', 'kit.js', 'index.html', 'lab.html'):
        text = page.evaluate(
            "async (name) => (await fetch(name === 'index.html' ? '/' : name === 'lab.html' ? "
            "'/lab' : `/assets/${name}`)).text()",
            name,
        )
        used |= set(re.findall(r"\bt\('(\w+)'", text)) | set(re.findall(r'data-t(?:-\w+)?="(\w+)"', text))
    assert used <= words['en'].keys()


def test_every_degraded_code_has_kind_words(visit):
    codes = [
        'ximilar_detect',
        'ximilar_search',
        'pgvector_search',
        'ximilar_tagging',
        'local_tags',
        'gemini_context',
        'gemini_rerank',
        'council_rerank',
        'availability',
        'stock_feed',
        'products',
        'fallback',
        'exact_scores',
        'budget',
        'gemini_advice',
        'exploration',
        'something_new',
    ]
    said = visit().evaluate(
        "async (codes) => { const { kindly } = await import('/assets/app.js'); return "
        "codes.map((c) => kindly([c])); }",
        codes,
    )
    result = dict(zip(codes, said))
    assert (
        all(
            len(s) == 1 and '_' not in s[0]
            for c, s in result.items()
            if c not in ('gemini_advice', 'exploration')
        )
        and result['gemini_advice'] == result['exploration'] == []
    )
    assert (
        result['gemini_rerank'] == result['council_rerank'] != result['something_new']
        and result['stock_feed'] != result['something_new']
    )


def test_event_stream_however_it_is_cut(visit):
    page = visit()
    result = page.evaluate('''async () => {
        const { serverEvents } = await import('/assets/kit.js');
        const first = ': heartbeat\\n\\nid: 1\\nevent: detected\\ndata: {"a":\\ndata: "ё"}\\n\\n';
        const second = 'event: done\\r\\ndata: {"b": 2}\\r\\n\\r\\ndata: {"half":';
        const bytes = new TextEncoder().encode(first + second);
        const out = [];
        for (const size of [1, 2, 3, 7, 1000]) {
            const body = new ReadableStream({ start(c) {
                for (let i = 0; i < bytes.length; i += size) c.enqueue(bytes.slice(i, i + size));
                c.close();
            } });
            const heard = [];
            for await (const e of serverEvents(new Response(body))) heard.push(e);
            out.push(JSON.stringify(heard));
        }
        let silent = '';
        const never = new Response(new ReadableStream({}));
        try { for await (const _ of serverEvents(never, 40)); } catch (e) { silent = e.message; }
        return { out: [...new Set(out)], silent };
    }''')
    assert result == {
        'out': ['[{"event":"detected","data":{"a":"ё"}},{"event":"done","data":{"b":2}}]'],
        'silent': 'silence',
    }


def test_samples_are_small_and_said_to_be_drawn(site, visit):
    page = visit()
    listed = page.evaluate("async () => (await (await fetch('/api/v1/samples')).json()).samples")
    assert 4 <= len(listed) <= 6 and 'drawn' in page.locator('#samples').inner_text()
    for sample in listed:
        data = page.request.get(site + sample['url']).body()
        assert (
            len(data) <= 60_000
            and Image.open(io.BytesIO(data)).size == (sample['width'], sample['height'])
            and sample['boxes']
            and sample['title_ru']
        )
