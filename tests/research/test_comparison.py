"""Comparison: measures against scikit-learn and ir-measures, index size against pgvector, folders
as people have them, routing."""

import json
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import settings as hyp
from hypothesis import strategies as st
from PIL import Image, ImageDraw
from sklearn.metrics import average_precision_score

from unde_recog.models.registry import UnknownModel, cards
from unde_recog.research.comparison import (
    BASELINES,
    USES,
    Speed,
    average_precision,
    choose,
    differences,
    embed_with,
    index_bytes,
    model_table,
    precision_at,
    present,
    ranked,
    routing,
    score_models,
    score_table,
    time_models,
)
from unde_recog.research.photo_sets import Labelled, read_labelled, with_roles
from unde_recog.research.report import run_report

HUES = ('red', 'green', 'blue', 'orange', 'purple', 'teal')


def shop(folder, photos=3):
    "A folder an identity: rectangles and discs."
    for n, hue in enumerate(HUES):
        for k in range(photos):
            im = Image.new('RGB', (60, 80), 'white')
            getattr(ImageDraw.Draw(im), 'ellipse' if n % 2 else 'rectangle')(
                (8 + k, 10, 50, 60 + 3 * k), fill=hue
            )
            (folder/hue).mkdir(parents=True, exist_ok=True)
            im.save(folder/hue/f'{k}.png')
    return folder


@pytest.fixture(scope='module')
def task(tmp_path_factory): return read_labelled(shop(tmp_path_factory.mktemp('shop')))


@hyp(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=1, max_size=40))
def test_average_precision_against_scikit_learn(pairs):
    s, y = np.array([p[0]/6 for p in pairs]), np.array([p[1] for p in pairs])
    if y.any(): assert average_precision(s, y) == pytest.approx(average_precision_score(y, s))
    else: assert math.isnan(average_precision(s, y))
    assert 0 <= precision_at(s, y) <= min(5, y.sum())/5


def test_measures_against_ir_measures():
    ir = pytest.importorskip('ir_measures')
    rng = np.random.default_rng(0)
    for _ in range(20):
        s, y = rng.permutation(40)/40, rng.random(40) < .2
        if not y.any(): continue
        qrels, run = (
            [ir.Qrel('q', str(i), int(v)) for i, v in enumerate(y)],
            [ir.ScoredDoc('q', str(i), float(v)) for i, v in enumerate(s)],
        )
        theirs = ir.calc_aggregate([ir.AP, ir.P@5], qrels, run)
        assert average_precision(s, y) == pytest.approx(theirs[ir.AP]) and precision_at(
            s, y
        ) == pytest.approx(theirs[ir.P @ 5])


def test_order_of_equal_scores_earns_nothing():
    y = np.array([1, 0, 0, 0, 0, 0, 1], bool)
    assert (
        average_precision(np.ones(7), y)
        == average_precision(np.ones(7), y[::-1])
        == pytest.approx(2 / 7)
        and precision_at(np.ones(7), y) == 0
    )


def test_a_folder_an_identity(task):
    assert len(task.queries) == 6 and len(task.gallery) == 12 and task.overlap() == 0
    assert not set(task.queries.photo) & set(task.gallery.photo) and set(
        task.queries.identity
    ) <= set(task.gallery.identity)


@hyp(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 5)), max_size=25, unique_by=lambda t: t[0]))
def test_roles_do_not_depend_on_others(photos):
    table = pd.DataFrame([(f'{p}.jpg', f'i{i}') for p, i in photos], columns=['photo', 'identity'])
    roles = with_roles(table) if len(table) else table.assign(role='')
    for _, part in roles.groupby('identity'):
        assert (part.role == 'query').sum() == (len(part) > 1)
        assert with_roles(part.drop(columns='role')).role.tolist() == part.role.tolist()


@pytest.mark.parametrize(
    'text, said',
    [
        ('photo,who\na.jpg,x\n', 'no column identity'),
        ('photo,identity\na.jpg,x\nb.jpg,x\n', 'line 2: there is no file a.jpg'),
        ('photo,identity\n,x\n', 'line 2: photo and identity'),
        ('photo,identity,role\nok.png,x,both\n', "line 2: role 'both'"),
        ('photo,identity\nok.png,x\n', 'nothing can be asked'),
        ('photo,identity\n', 'nothing can be asked'),
    ],
)
def test_a_wrong_csv_names_its_line(tmp_path, text, said):
    Image.new('RGB', (9, 9)).save(tmp_path/'ok.png')
    (tmp_path/'photos.csv').write_text(text)
    with pytest.raises(ValueError, match=said): read_labelled(tmp_path)
    with pytest.raises(FileNotFoundError, match='nowhere'): read_labelled(tmp_path/'nowhere')


def test_an_empty_folder(tmp_path):
    with pytest.raises(ValueError, match='0 photos'): read_labelled(tmp_path)


def test_the_same_photo_twice_is_seen(tmp_path):
    for name in ('a', 'b'): Image.new('RGB', (20, 20), 'red').save(tmp_path/f'{name}.png')
    (tmp_path/'photos.csv').write_text('photo,identity,role\na.png,x,gallery\nb.png,x,query\n')
    assert read_labelled(tmp_path).overlap() == 1


def test_queries_that_cannot_be_answered_do_not_count(tmp_path):
    table = pd.DataFrame(
        {'photo': list('abc'), 'identity': ['x', 'x', 'y'], 'role': ['gallery', 'query', 'query']}
    )
    found = ranked(np.eye(2)[[0, 1]], np.eye(2)[[0]], Labelled(tmp_path, table))
    assert found.identity.tolist() == ['x'] and found.ap.tolist() == [1.]


def test_scores_of_real_models(task):
    scores = score_models(task, ['classical-colour-shape', 'colour histogram (baseline)'])
    table = score_table(scores)
    assert (table.mAP > .8).all() and (table['mAP low'] <= table.mAP).all() and table.n.tolist() == [6, 6]
    gaps = differences(scores, 'classical-colour-shape')
    assert gaps.value.iloc[0] == pytest.approx(table.mAP.iloc[1] - table.mAP.iloc[0])
    same = differences(
        scores | {('again', None, 'identity'): scores['classical-colour-shape', None, 'identity']},
        'classical-colour-shape',
    )
    assert (
        same.set_index('model').clear['again'] == False
        and same.set_index('model').value['again'] == 0
    )  # noqa: E712
    for name in BASELINES:
        vectors = embed_with(name)([task.load(p) for p in task.gallery.photo])
        assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_models_that_are_not_here_have_no_figures(task):
    here, missing = present()
    assert set(here) | set(missing) == set(cards()) | set(BASELINES)
    table = model_table(score_models(task, ['classical-colour-shape']), {}, missing)
    empty = table.drop(columns=['measured', 'dims', 'index MB']).loc[missing]
    assert (
        empty.isna().all(axis=None)
        and not table.measured[missing].any()
        and table.measured['classical-colour-shape']
    )
    with pytest.raises(UnknownModel): present(['nobody'])


def fake(name, ap, label='identity', kind='street'):
    return {
        (name, kind, label): pd.DataFrame(
            {'ap': ap, 'p5': ap, 'identity': [str(i) for i in range(len(ap))]}
        )
    }


def test_routing():
    rng = np.random.default_rng(0)
    ap, use = rng.random(80)*.5, USES[0]
    base = next(iter(BASELINES))
    assert choose(use, fake(base, ap + .5), {})['chosen'] is None, 'a baseline serves nobody'
    assert (
        choose(use, fake(use.plan, ap) | fake('marqo-fashionsiglip', ap + 0.2), {})['chosen']
        == 'marqo-fashionsiglip'
    )
    assert (
        choose(
            use, fake(use.plan, ap) | fake('marqo-fashionsiglip', rng.permutation(ap) + 0.001), {}
        )['chosen']
        == use.plan
    )
    slow = {
        'marqo-fashionsiglip': Speed(1, use.limit_ms + 1, 400, 2, 900),
        use.plan: Speed(1, 50, 60, 20, 700),
    }
    table, together = routing(fake(use.plan, ap) | fake('marqo-fashionsiglip', ap + .2), slow, [use])
    assert table.chosen.tolist() == [use.plan] and together == 700
    assert (
        'too slow'
        in choose(
            use,
            fake(use.plan, ap) | fake('dino-vits16', ap),
            {use.plan: slow['marqo-fashionsiglip']},
        )['why']
    )
    nothing, memory = routing({}, {})
    assert nothing.chosen.isna().all() and memory == 0


def test_a_model_is_timed_in_its_own_process():
    (speed,) = time_models(['classical-colour-shape'], rounds=2, batch=2).values()
    assert (
        0 < speed.p50_ms <= speed.p95_ms
        and speed.images_s > 0
        and speed.load_s > 0
        and not speed.memory_mb < 0
    )


@pytest.mark.parametrize(
    'dims, rows, kind',
    [(384, 400, 'vector'), (512, 400, 'vector'), (1280, 200, 'vector'), (2500, 150, 'halfvec')],
)
def test_index_size_against_pgvector(db, dims, rows, kind):
    rng = np.random.default_rng(0)
    with db.connect('vectors') as conn:
        conn.execute(f'create table sized (v {kind}({dims}))')
        with conn.cursor().copy('copy sized from stdin') as copy:
            for v in rng.normal(size=(rows, dims)).astype('float16'):
                copy.write_row(['[' + ','.join(map(str, v)) + ']'])
        conn.execute(
            f'create index sized_index on sized using hnsw (v {kind}_cosine_ops) with (m = 16, '
            'ef_construction = 32)'
        )
        (real,) = conn.execute("select pg_relation_size('sized_index')").fetchone()
    assert index_bytes(dims, rows) == pytest.approx(real, rel=.04)


def test_the_report_on_a_folder(tmp_path):
    out = run_report(
        'model_comparison',
        {
            'data': str(shop(tmp_path / 'shop')),
            'rounds': '2',
            'models': 'classical-colour-shape,fashionclip-2.0',
        },
        tmp_path,
    )
    metrics, page = json.loads((out/'metrics.json').read_text()), (out/'report.md').read_text()
    assert (
        metrics['not measured'] == ['fashionclip-2.0']
        and metrics['n'] == {'gallery': 12, 'queries': 6, 'identities': 6}
        and not metrics['drawn']
    )
    assert (
        metrics['ranking']['classical-colour-shape | all | identity']['mAP'] > 0.8
        and 'not measured: not here' in page
        and 'rawn' not in page
    )
