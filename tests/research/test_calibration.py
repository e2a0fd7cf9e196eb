"""The gate's calibration: against other implementations, on hostile data, by simulation, and down to the settings file."""
import dataclasses
import json
import os
from dataclasses import asdict

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss, log_loss
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from unde_recog.contracts import Candidate, SkuKey
from unde_recog.gating import gate
from unde_recog.research.bounds import upper_bound
from unde_recog.research.calibration import (Certificate, GatePath, Step, apply_fragment, by_category, by_photo, calibrate, certificate_json, confident, declare_path, floor_of, icc_floor, judge,
                                             least_deferral, levels, pareto, threshold_grid, read_certificate, reading, shrink, walk, write_fragment)
from unde_recog.research.probability import (GateProbability, ReliabilityDisplay, best_pair_rank, cross_probability, duel, honesty, log_odds, photo_folds, photo_weights, risk_coverage)
from unde_recog.research.coverage import CHOOSERS, counts, check_coverage, live_path, tuned
from unde_recog.research.records import outcomes
from unde_recog.research.simulate import Street, draw, simulate_items, truth
from unde_recog.settings import SettingsError, load_settings, read_ini

calm = settings(max_examples=40, deadline=None)


@st.composite
def scores(draw, least=20, most=200):
    "(top1, margin, photo) with ties and holes."
    rng, n = np.random.default_rng(draw(st.integers(0, 2**32))), draw(st.integers(least, most))
    digits = draw(st.sampled_from([1, 2, 6]))
    top1, margin = rng.random(n).round(digits), rng.exponential(.1, n).clip(0, 1).round(digits)
    margin[rng.random(n) < draw(st.sampled_from([0, .2]))] = np.nan
    return top1, margin, rng.integers(0, max(1, n//4), n)


@pytest.fixture(scope='module')
def labelled():
    items, labels = simulate_items(300, 4, icc=.2, seed=0, backend='dual')
    return outcomes(items, labels)


@pytest.fixture(scope='module')
def certified(labelled):
    log = draw(1500, 4, .2, 1)
    path = declare_path(log['top1'], log['margin'], photo=log['photo'], labelled=len(labelled))
    return calibrate(labelled, path, date='2026-10-31', data='simulated', simulated=True).certificate


# -- the threshold_grid and the path

@calm
@given(scores(), st.floats(0, 1), st.floats(0, .3))
def test_confident_is_the_gates_own_verdict(sample, threshold, least):
    top1, margin, _ = sample
    for t, m, ours in zip(top1, margin, confident(top1, margin, threshold, least)):
        second = [] if np.isnan(m) else [Candidate(key=SkuKey('zara', 'b'), score=t - m)]
        theirs = gate([Candidate(key=SkuKey('zara', 'a'), score=float(t)), *second], threshold, least)
        if np.isnan(m) or abs(m - least) > 1e-8: assert ours == theirs.confident


@calm
@given(scores(), st.floats(.02, .3), st.floats(0, 1), st.integers(50, 5000))
def test_a_path_is_nested_and_does_what_it_says(sample, alpha, balance, n):
    top1, margin, photo = sample
    if np.isfinite(margin).sum() < 20: return
    path = declare_path(top1, margin, photo=photo, labelled=n, alpha=alpha, balance=balance)
    sets = [confident(top1, margin, s.threshold, s.margin) for s in path.steps]
    assert sets and all((a <= b).all() for a, b in zip(sets, sets[1:]))
    assert [s.coverage for s in path.steps] == [pytest.approx(c.mean()) for c in sets] and path.steps[0].coverage > 0
    assert all(0 <= v <= 1 and round(v, 4) == v for s in path.steps for v in (s.threshold, s.margin))
    if balance == 0: assert all(s.threshold == 0 for s in path.steps)


def test_the_path_starts_where_three_events_can_be_borne():
    log = draw(5000, 4, 0., 0)
    for alpha, items in ((.05, 153), (.1, 76)):
        path = declare_path(log['top1'], log['margin'], photo=log['photo'], labelled=1000, alpha=alpha)
        assert path.events == 3 and items <= path.steps[0].coverage*1000 < 1.1*items
    few = declare_path(log['top1'], log['margin'], photo=log['photo'], labelled=150)
    assert few.events < 3 and few.steps[0].coverage <= .51
    twins = draw(5000, 4, 1., 0)
    assert declare_path(twins['top1'], twins['margin'], photo=twins['photo'], labelled=1000, latest=.9).steps[0].coverage > .55  # all of a photo pass together


def test_labels_cannot_bend_the_path(labelled):
    a, b = (declare_path(labelled.top1, labelled.margin, photo=labelled.photo, labelled=1200) for _ in range(2))
    assert a == b and not set(declare_path.__code__.co_varnames) & {'harm', 'labels', 'outcomes'}


@calm
@given(st.integers(0, 2**32), st.sampled_from([0., .01, .3, .5, .8, 1.]))
def test_a_common_quantile_is_the_highest_at_which_both_let_it_pass(seed, balance):
    rng = np.random.default_rng(seed)
    top1, margin = rng.random(30), rng.random(30)
    wa, wb = min(1, 2*balance), min(1, 2*(1 - balance))
    for i, level in enumerate(levels(top1, margin, balance)):
        assert level == pytest.approx(min([(top1 <= top1[i]).mean()/wa] if wa else [np.inf], [(margin <= margin[i]).mean()/wb] if wb else [np.inf])[0])


@calm
@given(st.integers(0, 2**32))
def test_the_front_holds_what_nothing_beats(seed):
    rng = np.random.default_rng(seed)
    table = pd.DataFrame({'cost': rng.integers(0, 12, 40), 'harm': rng.integers(0, 12, 40)/12.})
    front = {(r.cost, r.harm) for r in pareto(table, 'cost', 'harm').itertuples()}
    brute = {(a.cost, a.harm) for a in table.itertuples() if not any((b.cost <= a.cost and b.harm <= a.harm) and (b.cost, b.harm) != (a.cost, a.harm) for b in table.itertuples())}
    assert front == brute


def test_the_reading_of_a_pair_is_what_the_rows_say(labelled):
    j = judge(labelled)
    for t, m in ((.7, .02), (.8, .05), (0, 0), (2, 0)):
        sure = labelled[(labelled.top1 >= t) & (labelled.margin >= m)]
        r = reading(j, t, m)
        assert r['confident'] == len(sure) and r['events'] == sure.loss.sum() and r['gain among all'] == pytest.approx(sure.gain.sum()/len(labelled))
        served = labelled['primary@3'].where((labelled.top1 >= t) & (labelled.margin >= m), labelled['merged@3'])
        assert r['top-3 right'] == pytest.approx(served.astype(float).mean())
    assert len(threshold_grid(j, 6)) == 36


@calm
@given(st.floats(.001, .999), st.floats(.001, .5), st.integers(0, 2**32))
def test_no_rule_defers_less_than_the_least(mu, alpha, seed):
    "Even a rule that sees the harm itself must defer that much (it defers the harmed)."
    n = 1000
    harm = np.arange(n) < round(mu*n)
    least, k = least_deferral(harm.mean(), alpha), harm.sum()
    deferred = next(d for d in range(n + 1) if (k - min(d, k)) <= alpha*max(n - d, 0) + 1e-9)
    assert deferred/n >= least - 1e-9


# -- reading labels

def test_unknown_boosters_count_as_harm_only_where_the_primary_is_wrong():
    rows = pd.DataFrame({'photo': list('aabb'), 'top1': .8, 'margin': .1, 'primary@3': pd.array([True, False, False, None], 'boolean'), 'merged@3': pd.array([None, None, False, True], 'boolean')})
    j = judge(rows)
    assert j.harm.tolist() == [False, True, False] and j.assumed == 1 and j.gain.tolist() == [False]*3
    with pytest.raises(ValueError, match='no labelled item'): judge(rows[3:])


@pytest.mark.parametrize('backend', ['dual', 'conditional'])
def test_a_log_that_did_not_ask_gives_a_bound_that_is_no_lower(backend):
    items, labels = simulate_items(60, 4, seed=4, backend=backend)
    j = judge(outcomes(items, labels))
    full = judge(outcomes(*simulate_items(60, 4, seed=4, backend='dual')))
    assert (j.harm >= full.harm).all() and (j.assumed == 0) == (backend == 'dual')


# -- the walk

@calm
@given(st.integers(0, 2**32), st.integers(1, 15), st.sampled_from([.01, .05, .2]))
def test_the_walk_ends_where_mapies_fixed_sequence_ends(seed, steps, delta):
    control = pytest.importorskip('mapie.risk_control').control_fwer
    rng = np.random.default_rng(seed)
    sizes = np.cumsum(rng.integers(0, 2, (steps, 80)), 0).astype(float)
    events = np.minimum(np.cumsum(rng.random((steps, 80)) < .01*np.arange(steps)[:, None]/2, 0), sizes).astype(float)
    found = walk(events, sizes, .05, delta)
    theirs = control(found.p, delta, 'fixed_sequence')
    assert found.last + 1 == len(theirs)


@calm
@given(st.integers(0, 2**32))
def test_a_thousand_walks_at_once_are_a_thousand_walks(seed):
    rng = np.random.default_rng(seed)
    sizes = np.cumsum(rng.integers(0, 2, (4, 6, 50)), 1).astype(float)
    events = np.floor(sizes*(rng.random((4, 6, 50)) < .03))
    floors = rng.random(4)
    together = walk(events, sizes, .05, .05, floor=floors)
    for i in range(4):
        alone = walk(events[i], sizes[i], .05, .05, floor=floors[i])
        assert alone.last == together.last[i] and np.allclose(alone.p, together.p[i])


def test_the_floor_is_the_larger_clustering_and_the_worst_where_nothing_is_known():
    four = np.full(50, 4)
    wrong, harm = np.r_[np.full(5, 4), np.zeros(45)], np.r_[np.ones(5), np.zeros(45)]
    assert icc_floor(wrong, harm, four) == 1 and icc_floor(harm, wrong, four) == 1 and icc_floor(0*wrong, 0*wrong, four) == 1
    assert icc_floor(np.ones(50), 0*wrong, four) == 0  # spread evenly: less alike than strangers


def test_a_calibration_counts_what_it_says(labelled):
    path = declare_path(labelled.top1, labelled.margin, photo=labelled.photo, labelled=len(labelled))
    found = calibrate(labelled, path, date='d', data='x', simulated=True)
    for s in found.steps.itertuples():
        sure = labelled[confident(labelled.top1, labelled.margin, s.threshold, s.margin)]
        assert (s.selected, s.events, s.photos) == (len(sure), sure.loss.sum(), sure.photo.nunique()) and s.coverage == pytest.approx(len(sure)/len(labelled))
        assert s.upper >= upper_bound(s.events, s.selected) - 1e-12  # never better than if items were independent
    shuffled = calibrate(labelled.sample(frac=1, random_state=1), path, date='d', data='x', simulated=True)
    pd.testing.assert_frame_equal(shuffled.steps, found.steps)
    passed = found.steps.passed.to_numpy()
    assert (np.diff(passed.astype(int)) <= 0).all() and found.certificate and found.certificate.threshold == found.steps.threshold[passed.sum() - 1]


def test_nothing_is_certified_that_cannot_be():
    def toy(photos, harm):
        wrong = np.zeros(photos*4, bool)
        wrong[:harm] = True
        return pd.DataFrame({'photo': np.repeat(np.arange(photos), 4), 'item': 0, 'category': 'top', 'model_version': 'm', 'top1': np.linspace(1, .5, photos*4), 'margin': .2, 'primary@3': ~wrong, 'merged@3': True})
    one = GatePath((Step(1., .5, .1),), .05, .05, 100, .5, 3)
    say = lambda rows: calibrate(rows, one, date='d', data='x', simulated=True)
    assert say(toy(100, 0)).certificate and say(toy(100, 400)).certificate is None  # 0 and n events
    assert 'will not help' in say(toy(100, 400)).message and np.isinf(say(toy(100, 400)).photos_needed)
    few = say(toy(12, 1))
    assert few.certificate is None and 12 < few.photos_needed < 1000 and 'photos are needed' in few.message
    perfect = say(toy(59, 0))
    assert perfect.certificate is None or perfect.certificate.upper <= .05
    assert say(toy(1, 0)).certificate is None  # one photo
    none = calibrate(toy(50, 0), GatePath((Step(.1, .999, .3),), .05, .05, 100, .5, 3), date='d', data='x', simulated=True)
    assert none.certificate is None and none.steps.selected.tolist() == [0]


# -- the promise, in small; the report calibration_promise makes a thousand runs

RUNS = 60
at_most = int(stats.binom.ppf(1 - 1e-4, RUNS, .05))  # a procedure that keeps 5 % breaks more often than this once in ten thousand test runs


@pytest.fixture(scope='module')
def paths(): return {r: live_path(r, 1000) for r in (0., .2, 1.)}


@pytest.mark.parametrize('icc, primary', [(0., .47), (.2, .63), (1., 1.77)])
def test_the_promise_holds_where_every_certificate_breaks_it(paths, icc, primary):
    path, street = paths[icc], Street(primary=primary)
    loss = truth(path.steps[0].threshold, path.steps[0].margin, street)['conditional']
    assert .05 < loss < .056, loss  # the first step is a trifle over
    found = check_coverage(path, street, icc, runs=RUNS, seed=7, choosers=['certified', 'item by item', 'best looking'])
    assert found.loc['certified', 'broken']*RUNS <= at_most
    assert found.loc['best looking', 'broken'] > .25
    if icc == 1: assert found.loc['item by item', 'broken']*RUNS > at_most/2 and found.loc['item by item', 'broken'] > found.loc['certified', 'broken']


def test_a_good_gate_is_certified(paths):
    street = tuned(paths[0.], .01)
    assert truth(paths[0.].steps[0].threshold, paths[0.].steps[0].margin, street)['conditional'] == pytest.approx(.01, abs=2e-4)
    found = check_coverage(paths[0.], street, 0., runs=RUNS, seed=8, choosers=['certified'])
    assert found.loc['certified', 'certified']*RUNS >= stats.binom.ppf(1e-4, RUNS, .8) and found.loc['certified', 'of_oracle'] > .3


def test_the_simulated_counts_are_those_of_a_calibration(paths):
    "One run through the vectorised counts, and the same items as a table through `calibrate`: the same verdict."
    path = paths[.2]
    c = counts(path, Street(), .2, 3, photos=80, items=4, seed=5)
    d = draw(240, 4, .2, 5)
    for run in range(3):
        rows = slice(run*320, (run + 1)*320)
        table = pd.DataFrame({'photo': d['photo'][rows], 'top1': d['top1'][rows], 'margin': d['margin'][rows], 'primary@3': d['right_primary'][rows], 'merged@3': d['right_fused'][rows], 'model_version': 'm'})
        j = judge(table)
        events, sizes = by_photo(j, path)
        assert (events == c['events'][run]).all() and (sizes == c['sizes'][run]).all()
        found = calibrate(table, path, date='', data='', simulated=True)
        assert floor_of(j) == pytest.approx(icc_floor(c['wrong'][run], c['harm'][run], np.full(80, 4)))
        assert found.steps.passed.sum() - 1 == CHOOSERS['certified']({k: v[run:run + 1] for k, v in c.items()}, 4, .05, .05)[0]


# -- categories

@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), min_size=1, max_size=6))
def test_shrinking_pulls_towards_the_middle(groups):
    events, sizes = [a for a, _ in groups], [a + b for a, b in groups]
    found = shrink(events, sizes)
    assert ((found.low <= found.shrunk + 1e-9) & (found.shrunk <= found.high + 1e-9)).all() and found.shrunk.between(0, 1).all()
    if sum(sizes) > 20 and len(groups) > 1 and found.raw.notna().all(): assert np.ptp(found.shrunk) <= np.ptp(found.raw) + 1e-6


def test_shrunk_intervals_cover():
    "Rates drawn from a common law: nine tenths of the intervals hold the truth, give or take."
    rng, inside, total = np.random.default_rng(0), 0, 0
    for _ in range(25):
        rates, sizes = rng.beta(3, 60, 8), rng.integers(10, 120, 8)
        found = shrink(rng.binomial(sizes, rates).tolist(), sizes.tolist())
        inside, total = inside + int(((found.low <= rates) & (rates <= found.high)).sum()), total + 8
    assert stats.binom.ppf(1e-4, total, .86) <= inside <= stats.binom.ppf(1 - 1e-4, total, .95)


def test_categories_add_up(labelled):
    table = by_category(labelled, .7, .02)
    sure = labelled[confident(labelled.top1, labelled.margin, .7, .02)]
    assert table.confident.sum() == len(sure) and table.events.sum() == sure.loss.sum() and set(table.index) == set(labelled.category)


# -- fragments

def test_a_fragment_goes_in_force(certified, tmp_path):
    ini = tmp_path/'settings.ini'
    ini.write_text('; ours\n[unde_recog]\nMARGIN = 0.3  ; old\nSEARCH_BACKEND = pgvector\n')
    fragment = write_fragment(tmp_path/'out', certified)
    applied = apply_fragment(fragment, ini, certified.model_version)
    in_force = load_settings(ini, env={})
    assert (in_force.CONFIDENCE_THRESHOLD, in_force.MARGIN, in_force.SEARCH_BACKEND) == (certified.threshold, certified.margin, 'pgvector')
    assert applied.notes == ('it was calibrated on simulated data',) and '; ours' in ini.read_text()
    new = apply_fragment(fragment, tmp_path/'new.ini', certified.model_version)
    assert read_ini(tmp_path/'new.ini') == {'CONFIDENCE_THRESHOLD': f'{new.threshold}', 'MARGIN': f'{new.margin}'}


def test_certificates_come_back_as_they_were(certified, tmp_path):
    path = write_fragment(tmp_path, certified).with_suffix('.json')
    again, then = asdict(read_certificate(path)), asdict(certified)
    assert again == {k: pytest.approx(v, abs=1e-6) if isinstance(v, float) else v for k, v in then.items()} and certificate_json(read_certificate(path)) == path.read_text()


@pytest.mark.parametrize('damage, told', [
    (lambda p: p.with_suffix('.json').unlink(), 'no certificate'),
    (lambda p: p.with_suffix('.json').write_text('{'), 'not JSON'),
    (lambda p: p.with_suffix('.json').write_text('[]'), 'not a gate certificate'),
    (lambda p: p.unlink(), 'no such fragment'),
    (lambda p: p.write_text('[unde_recog]\nCONFIDENCE_THRESHOLD = 0.8\n'), 'and nothing else'),
    (lambda p: p.write_text(p.read_text() + 'SEARCH_BACKEND = ximilar\n'), 'and nothing else'),
    (lambda p: p.write_text(p.read_text().replace('MARGIN = 0.', 'MARGIN = 0.9')), 'one of the two was changed'),
    (lambda p: p.write_text('[unde_recog]\nCONFIDENCE_THRESHOLD = high\nMARGIN = 0.1\n'), 'must be numbers'),
    (lambda p: p.write_text('nothing'), 'not an ini file')])
def test_a_damaged_fragment_is_refused_and_nothing_is_touched(certified, tmp_path, damage, told):
    ini, fragment = tmp_path/'settings.ini', write_fragment(tmp_path/'out', certified)
    ini.write_text('[unde_recog]\nMARGIN = 0.3\n')
    damage(fragment)
    with pytest.raises(SettingsError, match=told): apply_fragment(fragment, ini, certified.model_version)
    assert ini.read_text() == '[unde_recog]\nMARGIN = 0.3\n' and sorted(os.listdir(tmp_path)) == ['out', 'settings.ini']


@pytest.mark.parametrize('field', [f.name for f in dataclasses.fields(Certificate)])
def test_every_field_of_a_certificate_is_checked(certified, tmp_path, field):
    path = write_fragment(tmp_path, certified).with_suffix('.json')
    values = json.loads(path.read_text())
    for wrong in (None, [], True if not isinstance(values[field], bool) else 1, {}):
        path.write_text(json.dumps(values | {field: wrong}))
        with pytest.raises(SettingsError, match=field): read_certificate(path)
    path.write_text(json.dumps({k: v for k, v in values.items() if k != field}))
    with pytest.raises(SettingsError, match=field): read_certificate(path)


def test_another_models_fragment_is_refused(certified, tmp_path):
    ini = tmp_path/'settings.ini'
    with pytest.raises(SettingsError, match='calibrated for simulated-1, and classical-1.pad is in force'): apply_fragment(write_fragment(tmp_path, certified), ini, 'classical-1+pad')
    assert not ini.exists()


def test_a_broken_settings_file_is_not_written_over(certified, tmp_path):
    ini = tmp_path/'settings.ini'
    ini.write_text('[unde_recog]\nMARGIM = 0.3\n')
    with pytest.raises(SettingsError, match='MARGIM'): apply_fragment(write_fragment(tmp_path, certified), ini, certified.model_version)
    assert ini.read_text() == '[unde_recog]\nMARGIM = 0.3\n'


def test_the_environment_wins_and_it_is_said(certified, tmp_path, monkeypatch):
    monkeypatch.setenv('MARGIN', '0.2')
    notes = apply_fragment(write_fragment(tmp_path, certified), tmp_path/'settings.ini', certified.model_version).notes
    assert any('MARGIN' in n and 'environment' in n for n in notes)


# -- the probability

@parametrize_with_checks([GateProbability(), GateProbability(method='isotonic', C=.1)])
def test_scikit_learns_own_checks(estimator, check): check(estimator)


@calm
@given(st.integers(0, 2**32), st.floats(.2, 2.5), st.floats(-1, 1))
def test_honesty_is_statsmodels_and_scikit_learns(seed, slope, level):
    rng = np.random.default_rng(seed)
    x = rng.normal(0, 1.5, 300)
    y, p = (rng.random(300) < 1/(1 + np.exp(-slope*x - level))).astype(float), 1/(1 + np.exp(-x))
    if not .1 < y.mean() < .9: return
    found = honesty(y, p, np.repeat(np.arange(75), 4), draws=20).value
    glm = lambda design, offset=None: sm.GLM(y, design, family=sm.families.Binomial(), offset=offset).fit().params
    assert found['Brier'] == pytest.approx(brier_score_loss(y, p)) and found['log-loss'] == pytest.approx(log_loss(y, p), rel=1e-5)
    assert found['slope'] == pytest.approx(glm(sm.add_constant(x))[1], rel=1e-4) and found['intercept'] == pytest.approx(glm(np.ones((300, 1)), x)[0], abs=1e-4)


def test_bootstrap_draws_photos_whole():
    photo = np.repeat(np.arange(30), 4)
    weights = photo_weights(photo, 200, 1)
    assert weights.shape == (200, 120) and (weights.sum(1) == 120).all() and (weights.reshape(200, 30, 4).std(2) == 0).all()
    assert weights[:, 0].var() == pytest.approx(1, abs=.35)


@calm
@given(st.integers(0, 2**32), st.integers(2, 40))
def test_folds_keep_photos_whole(seed, photos):
    rng = np.random.default_rng(seed)
    groups, y = rng.integers(0, photos, 100), rng.random(100) < .2
    seen = np.zeros(100, int)
    for train, test in photo_folds(y, groups):
        assert not set(groups[train]) & set(groups[test]) and len(set(y[train])) == 2
        seen[test] += 1
    assert (seen == 1).all() or (seen == 0).all()


def test_cross_fitting_is_scikit_learns():
    d = draw(100, 4, .2, 3)
    X, y, groups = np.c_[d['top1'], d['margin'], d['style_margin']], d['right_primary'].astype(int), d['photo']
    folds, ours = photo_folds(y, groups), cross_probability(X, y, groups)
    theirs = np.empty(len(y))
    for train, test in folds: theirs[test] = GateProbability().fit(X[train], y[train], groups[train]).predict_proba(X[test])[:, 1]
    assert np.allclose(ours, theirs)
    pipe = cross_val_predict(make_pipeline(StandardScaler(), GateProbability()), X, y, cv=folds, method='predict_proba')
    assert pipe.shape == (400, 2) and np.corrcoef(pipe[:, 1], ours)[0, 1] > .97


def test_the_probability_is_honest_on_what_it_has_not_seen():
    def data(photos, seed):
        d = draw(photos, 4, .2, seed)
        return np.c_[d['top1'], d['margin'], d['style_margin']], d['right_primary'], d['photo']
    X, y, photo = data(4000, 11)
    for photos, method in ((100, 'sigmoid'), (500, 'isotonic')):
        few = data(photos, 12)
        model = GateProbability().fit(few[0], few[1], groups=few[2])
        assert model.method_ == method
        p = model.predict_proba(X)[:, 1]
        assert abs(p.mean() - y.mean()) < .06 and brier_score_loss(y, p) < .93*y.mean()*(1 - y.mean())
        order = np.argsort(model.logistic_.decision_function((X - model.mean_)/model.scale_))
        assert (np.diff(p[order]) >= -1e-12).all()  # calibration never turns the order round


def test_holes_in_the_scores():
    d = draw(100, 4, 0., 3)
    X = np.c_[d['top1'], d['margin'], d['style_margin']]
    X[::3, 2], X[::7, 1:] = np.nan, np.nan
    p = GateProbability().fit(X, d['right_primary']).predict_proba(X)
    assert np.isfinite(p).all() and np.allclose(p.sum(1), 1)


def test_reliability_bins_are_scikit_learns():
    d = draw(200, 4, 0., 3)
    X, y = np.c_[d['top1'], d['margin']], d['right_primary']
    model = GateProbability().fit(X, y)
    import matplotlib
    matplotlib.use('Agg')
    p = model.predict_proba(X)[:, 1]
    shown = ReliabilityDisplay.from_estimator(model, X, y, d['photo'], draws=20)
    found, claimed = calibration_curve(y, p, n_bins=10, strategy='quantile')
    if len(found) == 10: assert np.allclose(np.sort(shown.claimed), np.sort(claimed), atol=.02) and np.abs(shown.found - found).max() < .06
    assert shown.sizes.sum() == 800 and shown.name == 'GateProbability' and set(shown.scores.index) == {'Brier', 'log-loss', 'slope', 'intercept'}
    assert (shown.found*shown.sizes).sum() == pytest.approx(y.sum())


@calm
@given(st.integers(0, 2**32), st.integers(2, 60))
def test_risk_at_a_coverage_is_the_mean_over_orders_of_ties(seed, n):
    rng = np.random.default_rng(seed)
    rank, harm = rng.integers(0, 5, n), rng.random(n) < .3
    at, risk = risk_coverage(rank, harm, [.5, 1.])
    assert risk[1] == pytest.approx(harm.mean())
    k = n//2
    if n % 2 == 0:
        shuffled = [harm[np.lexsort((rng.random(n), -rank))][:k].mean() for _ in range(400)]
        assert risk[0] == pytest.approx(np.mean(shuffled), abs=.12)
    strict = rng.permutation(n)
    assert risk_coverage(strict, harm, [k/n])[1][0] == pytest.approx(harm[np.argsort(-strict)][:k].mean())


def test_a_useless_rule_loses_the_duel():
    d = draw(400, 4, .2, 5)
    rng = np.random.default_rng(0)
    ranks = {'path': levels(d['top1'], d['margin']), 'best tilt': best_pair_rank(d['top1'], d['margin'], d['harm'], d['photo']), 'coin': rng.random(len(d['harm']))}
    found = duel(ranks, d['harm'], d['photo'], draws=100).table.set_index(['rule', 'coverage'])
    assert (found.loc['coin'].low > 0).all() and (found.loc['path'].difference == 0).all()
    assert found.loc[('best tilt', .5), 'low'] <= .01
    assert np.allclose(log_odds([.5, 1, 0]), [0, 13.8155, -13.8155], atol=1e-3)
