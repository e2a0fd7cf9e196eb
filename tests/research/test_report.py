"""Reports from start to end: the small latency study on a real database, the retrieval study on a
made catalogue, twice the same bytes."""

import json
import re
import shutil
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import nbformat
import pandas as pd
import psutil
import pytest
from PIL import Image, ImageDraw

from unde_recog.research.latency import bench_settings
from unde_recog.research.report import (
    PACKAGE, UNKNOWN, UnknownReport, note_origin, only_run, reports, run_report, stale, to_html, untrue,
    write_metrics,
)


def catalogue(folder):
    "Twelve styles in two colours: two gallery views, a back and a detail each."
    (folder/'photos').mkdir(parents=True)
    rows = []
    for s in range(12):
        for colour, fill in (('red', (170 + 4*s, 30 + 9*s, 40)), ('blue', (30, 60 + 8*s, 200 - 7*s))):
            for view, dx in (('main', 0), ('back', 3), ('alt1', 6)):
                im = Image.new('RGB', (300, 400), 'white')
                ImageDraw.Draw(im).polygon(
                    [(90 + 4 * s + dx, 60), (210 - 3 * s, 60), (230, 330 - 6 * s), (70, 330 - dx)],
                    fill=fill,
                )
                name = f'mh{s:02d}-{colour}-{view}.jpg'
                im.save(folder/'photos'/name, quality=90)
                rows.append((name, f'mh{s:02d}', colour, view, 'train' if s < 9 else 'test'))
    pd.DataFrame(rows, columns=['photo', 'style', 'colour', 'view', 'split']).to_csv(
        folder / 'photos.csv', index=False
    )
    return folder


def test_committed_tables_fit_a_mail():
    pages = [p.read_text('utf-8') for p in (Path(__file__).parents[2]/'reports').glob('*/report.md')]
    tables = [line for page in pages for line in page.splitlines() if line[:1] == '|']
    assert len(tables) > 1000 and max(map(len, tables)) <= 80


def test_reports_come_with_the_package():
    assert {'catalogue_retrieval', 'latency', 'fit_descriptor'} <= set(reports())


def test_retrieval_twice_the_same_bytes(tmp_path):
    data = catalogue(tmp_path/'data')
    one, two = (run_report('catalogue_retrieval', {'data': str(data)}, tmp_path/x) for x in ('a', 'b'))
    files = sorted(p.name for p in one.iterdir() if p.suffix in ('.md', '.json', '.png'))
    assert 'report.md' in files and 'metrics.json' in files and sum(f.endswith('.png') for f in files) >= 2
    for name in files: assert (one/name).read_bytes() == (two/name).read_bytes(), name
    metrics = json.loads((one/'metrics.json').read_text())
    assert (
        metrics['n'] == 48
        and metrics['recall']['as it is']['classical-colour-shape']['back']['all']['recall@5'] > 0.5
    )


def test_latency_at_one_percent(tmp_path):
    home = Path(bench_settings(.01).UNDE_DATA_DIR)
    try:
        out = run_report('latency', {'scale': '0.01', 'rounds': '3'}, tmp_path)
        metrics = json.loads((out/'metrics.json').read_text())
        assert (
            metrics['identical availability rows']
            and metrics['recall']['unfiltered']['fewest SKUs'] == 50
            and metrics['scale'] == 0.01
        )
        assert set(metrics['timing']['ratios']) >= {'load', 'unfiltered', '11% filter', 'availability'}
        # goes on with what is there
        again = json.loads(
            (
                run_report('latency', {'scale': '0.01', 'rounds': '3'}, tmp_path) / 'metrics.json'
            ).read_text()
        )
        assert again['rows'] == metrics['rows'] and again['timing']['index build, s'] == {}
    finally:
        for p in psutil.process_iter(['cmdline']):
            if f'{home}/postgres' in (p.info['cmdline'] or []): p.kill()
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture
def shipped(tmp_path):
    "Cards and tables as they are shipped, to be changed."
    weights = shutil.ignore_patterns('*.onnx', '*.npz')
    for part in ('assets/models', 'assets/detectors', 'sql'):
        shutil.copytree(PACKAGE/part, tmp_path/'shipped'/part, ignore=weights)
    return tmp_path/'shipped'


def change_card(shipped, name, **values):
    path = shipped/'assets'/name
    path.write_text(json.dumps(json.loads(path.read_text('utf-8')) | values), 'utf-8')


def migrate(shipped, text):
    (shipped/'sql'/'log'/'0099_next.sql').write_text(text, 'utf-8')


EMBEDDER, DETECTOR = 'models/lite-colour-shape.json', 'detectors/street-garments.json'
ADDED = '-- not recognition_items\ncreate table shades (name text);\ncreate index on shades (name);'


@pytest.mark.parametrize('change, expected', [
    (lambda s: change_card(s, EMBEDDER, threshold=.9), ['model lite-colour-shape']),
    (lambda s: change_card(s, DETECTOR, sha256='0'*64), ['model street-garments']),
    (lambda s: (s/'assets'/DETECTOR).unlink(), ['model street-garments']),
    (lambda s: migrate(s, 'alter table recognition_items add shade text;'), ['table log.recognition_items']),
    (lambda s: migrate(s, 'create unique index x on paid_answers (kind);'), ['table log.paid_answers']),
    (lambda s: (s/'sql/catalogue/0003_words.sql').unlink(), ['table catalogue.product_words']),
    # added, said otherwise, or another's: nothing is stale
    (lambda s: migrate(s, ADDED), []),
    (lambda s: (s/'assets'/'models'/'new.json').write_text('{"name": "new"}'), []),
    (lambda s: change_card(s, EMBEDDER, limits='said otherwise'), []),
    (lambda s: change_card(s, 'models/marqo-fashionclip.json', crop='whole'), []),
])
def test_what_makes_a_report_untrue(tmp_path, shipped, change, expected):
    notebook = reports()['service_load']
    write_metrics(tmp_path, {}, data='none')
    assert stale(tmp_path, notebook) == [UNKNOWN]
    note_origin(notebook, tmp_path)
    assert stale(tmp_path, notebook, shipped) == []
    change(shipped)
    assert stale(tmp_path, notebook, shipped) == untrue(stale(tmp_path, notebook, shipped)) == expected


def test_a_notebook_alone_makes_no_report_untrue(tmp_path):
    write_metrics(tmp_path, {}, data='none')
    note_origin(reports()['service_load'], tmp_path)
    assert stale(tmp_path, reports()['failures']) == ['notebook'] and not untrue(['notebook'])


def test_the_check_of_committed_reports(tmp_path, monkeypatch):
    spec = spec_from_file_location('check', Path(__file__).parents[2]/'.ci'/'check.py')
    check = module_from_spec(spec)
    spec.loader.exec_module(check)
    monkeypatch.setattr(check, 'ROOT', tmp_path)
    monkeypatch.setattr('sys.path', [*sys.path])
    for name in ('latency', 'fit_thresholds'):
        (tmp_path/'reports'/name).mkdir(parents=True)
        write_metrics(tmp_path/'reports'/name, {}, data='none')
        note_origin(reports()[name], tmp_path/'reports'/name)
    check.untrue_reports()
    assert check.failures == []
    path = tmp_path/'reports'/'latency'/'metrics.json'
    body = json.loads(path.read_text('utf-8'))
    body['made_with']['notebook'] = body['made_with']['schema']['catalogue.raw_products'] = 'another'
    path.write_text(json.dumps(body), 'utf-8')
    check.untrue_reports()
    assert check.failures == [
        'reports/latency: another table catalogue.raw_products since: run `unde-recog report latency`']


def test_errors_are_named(tmp_path):
    with pytest.raises(UnknownReport, match='has no parameter modle'):
        run_report('catalogue_retrieval', {'modle': 'x'}, tmp_path)
    with pytest.raises(ValueError, match='-p rounds many: a whole number is needed, as 40'):
        run_report('latency', {'rounds': 'many'}, tmp_path)
    with pytest.raises(RuntimeError, match='photos.csv'):
        run_report('catalogue_retrieval', {'data': str(tmp_path)}, tmp_path / 'out')


@pytest.mark.parametrize('name, given, reason', [
    ('threshold_calibration', {'alpha': '5%'}, '-p alpha 5%: a number is needed, as 0.05'),
    ('threshold_calibration', {'delta': '0'}, 'delta=0.0: a number between 0 and 1 is needed'),
    ('threshold_calibration', {'photos': '0'}, 'photos=0: a number of 1 or more is needed'),
    ('threshold_calibration', {'stranger_limit': 'few'}, 'stranger_limit=few: a number'),
    ('daily_quality', {'until': '2026-13-40'}, 'until=2026-13-40: a day is written YYYY-MM-DD'),
    ('ab_test', {'seed': '-1'}, 'seed=-1: a number of 0 or more'),
])
def test_a_value_that_makes_no_sense_is_refused_before_anything_runs(tmp_path, name, given, reason):
    with pytest.raises(ValueError, match=reason): run_report(name, given, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_page_asks_nobody_else(tmp_path):
    "A report that was mailed is read without a network, and tells no server that it is read."
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell('# A report, $a$ and $b$')])
    nbformat.write(book, tmp_path/'page.ipynb')
    page = to_html(tmp_path/'page.ipynb', tmp_path).read_text('utf-8')
    assert not re.findall(r'(?:src|href)="https?://', page)


def test_papermill_alone_makes_pictures_and_the_folder(tmp_path, monkeypatch):
    "As a nightly job does it, with a backend for servers in its environment."
    papermill = pytest.importorskip('papermill')
    monkeypatch.setenv('MPLBACKEND', 'agg')
    notebook, done = reports()['explorer'], tmp_path/'done.ipynb'
    given = {'log': 'simulated', 'photos': 20, 'out': str(tmp_path/'new')}
    papermill.execute_notebook(str(notebook), str(done), given, kernel_name='python3', progress_bar=False)
    assert '"image/png"' in done.read_text('utf-8') and (tmp_path/'new'/'metrics.json').exists()


def test_two_runs_share_no_folder(tmp_path):
    with only_run(tmp_path):
        (tmp_path/'latency').symlink_to(tmp_path)
        with pytest.raises(RuntimeError, match='another run is writing .*latency'):
            run_report('latency', {}, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ['latency']
