"""The calibrated probability against scikit-learn and statsmodels."""


import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss, log_loss
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from unde_recog.research.planning import levels
from unde_recog.research.probability import (
    GateProbability,
    ReliabilityDisplay,
    best_pair_rank,
    cross_probability,
    duel,
    honesty,
    log_odds,
    photo_folds,
    photo_weights,
    risk_coverage,
)
from unde_recog.research.simulate import draw

calm = settings(max_examples=40, deadline=None)


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
    glm = lambda design, offset=None: (
        sm.GLM(y, design, family=sm.families.Binomial(), offset=offset).fit().params
    )
    assert found['Brier'] == pytest.approx(brier_score_loss(y, p)) and found[
        'log-loss'
    ] == pytest.approx(log_loss(y, p), rel=1e-5)
    assert found['slope'] == pytest.approx(glm(sm.add_constant(x))[1], rel=1e-4) and found[
        'intercept'
    ] == pytest.approx(glm(np.ones((300, 1)), x)[0], abs=1e-4)


def test_bootstrap_draws_photos_whole():
    photo = np.repeat(np.arange(30), 4)
    weights = photo_weights(photo, 200, 1)
    assert (
        weights.shape == (200, 120)
        and (weights.sum(1) == 120).all()
        and (weights.reshape(200, 30, 4).std(2) == 0).all()
    )
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
    X, y, groups = (
        np.c_[d['top1'], d['margin'], d['style_margin']],
        d['right_primary'].astype(int),
        d['photo'],
    )
    folds, ours = photo_folds(y, groups), cross_probability(X, y, groups)
    theirs = np.empty(len(y))
    for train, test in folds:
        theirs[test] = (
            GateProbability().fit(X[train], y[train], groups[train]).predict_proba(X[test])[:, 1]
        )
    assert np.allclose(ours, theirs)
    pipe = cross_val_predict(
        make_pipeline(StandardScaler(), GateProbability()), X, y, cv=folds, method='predict_proba'
    )
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
    if len(found) == 10:
        assert (
            np.allclose(np.sort(shown.claimed), np.sort(claimed), atol=0.02)
            and np.abs(shown.found - found).max() < 0.06
        )
    assert (
        shown.sizes.sum() == 800
        and shown.name == 'GateProbability'
        and set(shown.scores.index) == {'Brier', 'log-loss', 'slope', 'intercept'}
    )
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
    assert risk_coverage(strict, harm,
                         [k/n])[1][0] == pytest.approx(harm[np.argsort(-strict)][:k].mean())


def test_a_useless_rule_loses_the_duel():
    d = draw(400, 4, .2, 5)
    rng = np.random.default_rng(0)
    ranks = {
        'path': levels(d['top1'], d['margin']),
        'best tilt': best_pair_rank(d['top1'], d['margin'], d['harm'], d['photo']),
        'coin': rng.random(len(d['harm'])),
    }
    found = duel(ranks, d['harm'], d['photo'], draws=100).table.set_index(['rule', 'coverage'])
    assert (found.loc['coin'].low > 0).all() and (found.loc['path'].difference == 0).all()
    assert found.loc[('best tilt', .5), 'low'] <= .01
    assert np.allclose(log_odds([.5, 1, 0]), [0, 13.8155, -13.8155], atol=1e-3)
