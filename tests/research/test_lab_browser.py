"""The labelling notebook in a real JupyterLab in a real headless Chromium: run all cells, click,
and look at the file.

Needs chromium, jupyterlab and the playwright package; skipped without them, but not on CI, where
they must be there."""

import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from unde_recog.research.records import read_labels

CHROMIUM = next(
    (
        path
        for name in ('chromium', 'chromium-browser', 'google-chrome')
        if (path := shutil.which(name))
    ),
    None,
)
SHOTS = os.environ.get('UNDE_SHOTS')  # a folder to leave screenshots in


def missing(what):
    message = (
        f'{what}: notebooks are driven in a real JupyterLab (apt-get install chromium; pip install '
        'jupyterlab playwright)'
    )
    return pytest.fail(message) if os.environ.get('CI') == 'true' else pytest.skip(message)


@pytest.fixture(scope='module')
def browser():
    if CHROMIUM is None: missing('no chromium')
    try:
        import jupyterlab  # noqa: F401
        from playwright.sync_api import sync_playwright
    except ImportError as e: missing(f'no {e.name}')
    with sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=['--no-sandbox'])
        yield chromium
        chromium.close()


@pytest.fixture
def lab(tmp_path, fresh_url):
    """A JupyterLab over a folder of its own, whose kernels use a fresh database and data folder:
    (address, token, folder, data folder)."""
    folder, data, token = tmp_path/'lab', tmp_path/'data', secrets.token_hex(16)
    folder.mkdir(), data.mkdir()
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = s.getsockname()[1]
    own = {
        f'JUPYTER{n}_DIR': str(tmp_path / n.lower())
        for n in ('_CONFIG', '_RUNTIME', 'LAB_SETTINGS', 'LAB_WORKSPACES')
    }
    env = {
        **os.environ,
        **own,
        'IPYTHONDIR': str(tmp_path / 'ipython'),
        'UNDE_DATA_DIR': str(data),
        'DATABASE_URL': fresh_url,
        'OMP_NUM_THREADS': '1',
    }
    # no question about news in front of the page
    quiet = tmp_path/'lab_settings'/'@jupyterlab'/'apputils-extension'/'notification.jupyterlab-settings'
    quiet.parent.mkdir(parents=True)
    quiet.write_text('{"fetchNews": "false", "checkForUpdates": false}')
    command = [
        sys.executable,
        '-m',
        'jupyter',
        'lab',
        '--no-browser',
        '--allow-root',
        '--ip=127.0.0.1',
        f'--port={port}',
        '--ServerApp.port_retries=0',
        f'--IdentityProvider.token={token}',
        f'--ServerApp.root_dir={folder}',
    ]
    with open(tmp_path / 'lab.log', 'w') as log:
        process = subprocess.Popen(command, env=env, cwd=folder, stdout=log, stderr=log)
    address, end = f'http://127.0.0.1:{port}', time.monotonic() + 90
    try:
        while True:
            try:
                urllib.request.urlopen(f'{address}/api/status?token={token}', timeout=5).close()
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > end:
                    pytest.fail(
                        'JupyterLab did not start: ' + (tmp_path / 'lab.log').read_text()[-800:]
                    )
                time.sleep(.2)
        yield address, token, folder, data
    finally:
        process.terminate()
        try: process.wait(20)
        except subprocess.TimeoutExpired: process.kill()


@pytest.fixture
def pages(browser):
    "Contexts to close afterwards; a picture of each page is left in UNDE_SHOTS."
    contexts = []
    yield (
        lambda: (
            contexts.append(browser.new_context(viewport={'width': 1500, 'height': 1100}))
            or contexts[-1].new_page()
        )
    )
    for n, context in enumerate(contexts):
        for page in context.pages: shot(page, f'at-the-end-{n}')
        context.close()


def opened(pages, lab, notebook):
    "A page with `notebook` open in JupyterLab and all its cells run."
    address, token, _, _ = lab
    page = pages()
    page.set_default_timeout(120_000)
    page.goto(f'{address}/lab/tree/{notebook}?token={token}&reset')
    page.wait_for_selector('.jp-Notebook .jp-Cell')
    page.get_by_text('Python 3 (ipykernel) | Idle').wait_for()
    page.get_by_role('menuitem', name='Run', exact=True).click()
    page.get_by_role('menuitem', name='Run All Cells', exact=True).click()
    return page


def shot(page, name):
    if SHOTS: page.screenshot(path=str(Path(SHOTS)/f'{name}.png'))


def test_labelling_in_jupyterlab(pages, lab):
    """A click on the right product, one on none of these, back, another colour: each is in the file
    at once, and a reopened page goes on there."""
    _, _, folder, data = lab
    shutil.copy(Path(__file__).parents[2]/'eval'/'labelling.ipynb', folder)
    page = opened(pages, lab, 'labelling.ipynb')
    page.wait_for_selector('.unde-labeller .unde-card', state='attached')
    page.locator('.unde-labeller').scroll_into_view_if_needed()
    page.wait_for_function(
        "document.querySelectorAll('.unde-labeller img').length > 8 && "
        "[...document.querySelectorAll('.unde-labeller img')].every(i => i.complete && "
        "i.naturalWidth > 0)"
    )
    shot(page, 'labelling-1')
    csv, head = data/'labels-drawn.csv', page.locator('.unde-head')
    assert 'garment 1 of' in head.inner_text() and '(simulated)' in head.inner_text() and not csv.exists()

    def said(n):
        page.wait_for_function(f"document.querySelector('.unde-head').innerText.includes('· {n} answered')")
        return read_labels(csv)
    hint = page.locator('.unde-card').first.locator('button.unde-right').get_attribute('title')
    page.locator('.unde-card').first.locator('button.unde-right').click()
    labels = said(1)
    first = labels[labels.grade == 2].iloc[0]
    assert (
        hint == f'this very product: {first.brand} {first.external_id}'
        and 'garment 2 of' in head.inner_text()
    )
    page.locator('button.unde-none').click()
    assert (said(2).grade == 0).sum() == 1 and 'garment 3 of' in head.inner_text()
    page.locator('button.unde-back').click()
    page.wait_for_function("document.querySelector('.unde-head').innerText.includes('none of these')")
    page.locator('.unde-card').nth(1).locator('button.unde-colour').click()
    page.wait_for_function("document.querySelector('.unde-head').innerText.includes('other colour')")
    assert (read_labels(csv).grade == 0).sum() == 0 and page.locator(
        '.jp-OutputArea-output[data-mime-type="application/vnd.jupyter.stderr"]'
    ).count() == 0
    before = page.locator('.unde-card').count()
    page.locator('button.unde-more').click()
    page.wait_for_function(f"document.querySelectorAll('.unde-card').length > {before}")
    shot(page, 'labelling-2')
    page.close()
    again = opened(pages, lab, 'labelling.ipynb')
    again.wait_for_function("document.querySelector('.unde-head')?.innerText.includes('garment 3 of')")
    assert '2 answered' in again.locator('.unde-head').inner_text()
