"""The reviewer's worlds at one or two per cent of their runs, and what holds them together: counts that
resume, chosen photos, agreement, files."""

import json

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.metrics import cohen_kappa_score

from unde_recog.research.anytime import effective_running
from unde_recog.research.booster_value import way
from unde_recog.research.calibration import calibration_sample
from unde_recog.research.choosing import choose_photos
from unde_recog.research.cost import photo_credits
from unde_recog.research.coverage import live_path
from unde_recog.research.drift import drift, drift_places
from unde_recog.research.label_pool import cohen_kappa
from unde_recog.research.log_files import read_log, write_log
from unde_recog.research.quality import check_quality, measures
from unde_recog.research.records import outcomes
from unde_recog.research.report import run_report
from unde_recog.research.simulate import simulate_items
from unde_recog.research.studies import CHUNK, Study, code_digest, kept_counts, run_studies
from unde_recog.research.study_table import photos_for, studies, study_row

QUICK = ('users', 'sent again', 'large photos 150', 'large photos 300', 'unanswered', 'look-alikes 15',
         'look-alikes 30', 'in force', 'every photo, ICC 0', 'every photo, ICC .2', 'chosen',
         'chosen, adversary', 'strangers')


@pytest.fixture(scope='module')
def table(): return studies()


@pytest.mark.parametrize('name', QUICK)
def test_no_world_breaks_the_promise_oftener_than_chance_allows(table, name):
    "Twenty runs: more than six broken would happen once in three million if the promise holds."
    c = table[name].run(7)
    assert c['runs'] == CHUNK and c['broken'] <= stats.binom.ppf(1 - 1e-4, CHUNK, .06)


def test_without_the_remedy_the_same_worlds_break_it(table):
    "Over six chunks, what was done before is wrong more often than what is done now."
    for name in ('users', 'sent again', 'unanswered', 'look-alikes 30'):
        now = before = 0
        for seed in range(3):
            c = table[name].run(seed)
            now, before = now + c['broken'], before + c['before']
        assert before >= now


def test_a_good_gate_is_certified_and_bills_hold_by_user(table):
    assert table['true loss 1 %'].run(3)['broken, certified'] >= 15
    c = table['forecast'].run(1)
    assert c['held'] >= 16 and c['held'] > c['held before']


def test_a_refusal_names_about_the_photos_that_it_takes(table):
    "Forty sets of two worlds: within a factor of two in far more than half of them."
    for name in ('refusal 1 %', 'refusal 2 %'):
        c = table[name].run(8)
        assert c['near'] >= stats.binom.ppf(1e-3, c['refused'], .7) and c['named'] >= .8*c['refused']


def test_looking_costs_less_than_twice_the_photos_of_one_look(table):
    c = table['looking, ICC 0'].run(3)
    row = study_row('looking', table['looking, ICC 0'], c)
    one, every = photos_for(c, 'one'), photos_for(c, 'any')
    assert every <= 2.5*one and row['asked'].startswith('≤ 1.5') and photos_for(c, 'any', 1.1) == np.inf


def test_a_stopped_run_goes_on(tmp_path):
    seen = []
    def run(seed):
        seen.append(seed)
        if len(seen) == 3: raise KeyboardInterrupt
        return {'runs': CHUNK, 'broken': seed % 2}
    study = {'s': Study(run, '', '', 'broken')}
    with pytest.raises(KeyboardInterrupt): run_studies(study, tmp_path/'s.json', 100)
    run_studies(study, tmp_path/'s.json', 100)
    assert kept_counts(tmp_path/'s.json')['s'] == {'runs': 100, 'broken': 2, 'chunks': 5}
    assert seen == [0, 1, 2, 2, 3, 4] and json.loads((tmp_path/'s.json').read_text())
    assert study_row('s', study['s'], {'runs': 100, 'broken': 12})['met'].startswith('missed by')


def test_chosen_photos_weighted_back_are_unbiased():
    "Horvitz–Thompson by hand: over many seeds the weighted mean is that of all photos."
    log, _ = simulate_items(300, 4, icc=.2, seed=2)
    path = live_path(.2, 800)
    value = log.groupby('photo').top1.sum()
    sums = []
    for seed in range(200):
        chosen = choose_photos(log, path, seed).query('chosen')
        sums.append((value[chosen.photo].to_numpy()/chosen.chance.to_numpy()).sum())
    assert abs(np.mean(sums)/value.sum() - 1) < 4*np.std(sums)/len(sums)**.5/value.sum()


def test_weighted_effective_items_are_the_linearised_variance():
    "Against the textbook ratio variance, where clustering is measured and no floor is given."
    rng = np.random.default_rng(0)
    m, w = rng.integers(1, 5, 400), rng.choice([1., 2.], 400)
    y = rng.binomial(m, .3*rng.binomial(1, .6, 400))
    rate, worth = effective_running(w*y, w*m, np.zeros(400), .05, squares=w**2*m, counts=m)
    r = (w*y).sum()/(w*m).sum()
    variance = 400/399*((w*(y - r*m))**2).sum()/(w*m).sum()**2
    t = stats.t.ppf(.95, m.sum() - 1)/stats.t.ppf(.95, 399)
    assert rate[-1] == pytest.approx(r)
    assert worth[-1] == pytest.approx(min(r*(1 - r)/variance, (w*m).sum()/2)*t**2, rel=1e-6)


def test_kappa_is_scikit_learns():
    rng = np.random.default_rng(1)
    for _ in range(20):
        a = rng.choice(list('abcd'), 60).tolist()
        b = [x if rng.random() < .6 else str(rng.choice(list('abcd'))) for x in a]
        assert cohen_kappa(a, b) == pytest.approx(cohen_kappa_score(a, b))


def test_a_half_blind_detector_is_seen():
    log, _ = simulate_items(800, 3, icc=.2, seed=1)
    empty = log[log['item'] == 0].iloc[::2].assign(shape='photo', item=-1, category=None)
    empty['photo'] = 'empty-' + empty.photo
    blind = pd.concat([log.iloc[:1200], empty], ignore_index=True)
    found = check_quality(blind)
    state = {c.name: c.state for c in found.checks}
    assert state['empty photos'] == 'yellow' and found.code >= 1
    assert {c.name: c.state for c in check_quality(log).checks}['empty photos'] != 'yellow'
    assert len(photo_credits(blind)) == blind.photo.nunique()
    assert bool(drift(log, blind).loc['empty', 'matters'])


def test_two_models_are_not_averaged():
    log, _ = simulate_items(800, 3, icc=.2, seed=1)
    log = log.assign(final_top1=log.final_top1**.5)
    half = log.photo.isin(log.photo.unique()[::2])
    mixed = log.assign(model_version=np.where(half, 'a', 'b'), top1=np.where(half, .95, .4))
    states = {c.name: c.state for c in check_quality(mixed, relative=False).checks}
    assert states['primary score (b)'] == 'yellow' and states['primary score (a)'] == 'ok'
    assert check_quality(mixed, relative=False).code >= 1
    moved = mixed[half].assign(top1=lambda t: np.where(t.category == 'bag', .5, t.top1))
    assert len(drift_places(mixed[half], moved, fewest=20)) > 0


def test_a_fallback_is_one_on_the_models_own_scale():
    from unde_recog.models.registry import get_card
    card = get_card()
    log, _ = simulate_items(100, 2, seed=0)
    own = log.assign(model_version=card.model_version, reranked=pd.array([False]*len(log), 'boolean'),
                     final_top1=card.band_medium + .01)
    assert measures(own).fallback.sum() == 0
    assert measures(own.assign(final_top1=card.band_medium - .01)).fallback.all()


def test_a_vendors_time_out_does_not_empty_the_cost_report():
    judged = outcomes(*simulate_items(200, 3, seed=1, backend='dual'))
    late = judged.index[:20]
    judged.loc[late, [c for c in judged if c.startswith('merged@')]] = pd.NA
    steps = way(judged, draws=50)
    assert steps.right.notna().all() and steps.unanswered.max() == 20 and steps.unknown.max() == 0
    judged['boosted'] = False  # nobody had asked: nothing can be said
    assert way(judged, draws=50).right.isna().any()


@pytest.mark.parametrize('name', ['log.parquet', 'log.csv'])
def test_a_log_in_a_file_gives_the_same_answers(tmp_path, name):
    log, labels = simulate_items(30, 3, seed=4, explore=.2)
    again = read_log(write_log(log, tmp_path/name))
    pd.testing.assert_frame_equal(outcomes(again, labels), outcomes(log, labels))
    assert len(calibration_sample(outcomes(again, labels)).harm) == len(outcomes(log, labels))


def test_reports_have_their_pictures_whatever_the_backend(tmp_path, monkeypatch):
    monkeypatch.setenv('MPLBACKEND', 'agg')
    (tmp_path/'promise_table').mkdir()
    rows = {name: {'runs': 20, 'broken': 0, 'chunks': 1, 'broken, certified': 20, 'near': 15, 'refused': 20,
                   'held': 20, 'held before': 10, 'alarms': 20, 'delay': 3000, 'named': 19, 'too few': 2,
                   'too many': 2, 'one 100': 10, 'any 100': 8, 'one 200': 20, 'any 200': 18}
            for name in studies()}
    (tmp_path/'promise_table'/'studies.json').write_text(json.dumps({'code': code_digest(), 'studies': rows}))
    out = run_report('promise_table', {'runs': '0'}, tmp_path, html=True)
    assert list(out.glob('figure_*.png')) and 'jp-OutputPrompt' not in (out/'report.html').read_text().split(
        '</style>')[-1]
    assert set(json.loads((out/'metrics.json').read_text())['made_with']) == {'notebook'}
