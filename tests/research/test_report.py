"""Reports from start to end: the small latency study on a real database, the retrieval study on a
made catalogue, twice the same bytes."""

import json
import shutil
from pathlib import Path

import pandas as pd
import psutil
import pytest
from PIL import Image, ImageDraw

from unde_recog.research.latency import bench_settings
from unde_recog.research.report import UnknownReport, reports, run_report


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


def test_errors_are_named(tmp_path):
    with pytest.raises(UnknownReport, match='has no parameter modle'):
        run_report('catalogue_retrieval', {'modle': 'x'}, tmp_path)
    with pytest.raises(ValueError, match='no int'): run_report('latency', {'rounds': 'many'}, tmp_path)
    with pytest.raises(RuntimeError, match='photos.csv'):
        run_report('catalogue_retrieval', {'data': str(tmp_path)}, tmp_path / 'out')
