"Off-policy estimates against enumeration, statsmodels and the simulator's truth."
import math
from itertools import product

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from scipy import stats
from statsmodels.stats.proportion import proportion_confint

from unde_recog.contracts import SkuKey
from unde_recog.gating import Candidate, gate
from unde_recog.research.offpolicy import (
    NoSupport,
    change,
    coverage_study,
    effective_size,
    exact_interval,
    guarded_variance,
    explored_needed,
    guess_rate,
    harm,
    logged,
    need_support,
    photo_variance,
    powered_mean,
    precision_table,
    replay,
    support,
    verdict,
    weighted_rate,
)
from unde_recog.research.records import outcomes
from unde_recog.research.simulate import draw, exploration_chances, simulate_items, truth

OLD = (.76, .04)


def a_log(photos, pair=OLD, **how):
    items, labels = simulate_items(photos, 4, threshold=pair[0], margin=pair[1], **how)
    return logged(items, outcomes(items, labels))


def drawn_log(photos, rng, share, icc=.2, pair=OLD):
    "The same table straight from a draw, much faster."
    d = draw(photos, 4, icc, rng)
    sure = verdict(d['top1'], d['margin'], *pair)
    chance = np.where(sure, exploration_chances(d['top1'], d['margin'], *pair, share=share), 1.)
    seen = rng.random(len(sure)) < chance
    return pd.DataFrame(
        {
            'photo': d['photo'],
            'item': d['item'],
            'top1': d['top1'],
            'margin': d['margin'],
            'confident': sure,
            'asked': ~sure,
            'explored': sure & seen,
            'propensity': chance,
            'loss': np.where(seen, d['harm'], np.nan),
            'gain': np.where(seen, d['gain'], np.nan),
            'weight': np.divide(seen, chance, out=np.zeros(len(chance)), where=chance > 0),
        }
    )


# The parts

def test_exact_interval_is_clopper_pearson():
    rng = np.random.default_rng(0)
    for k, n in [
        (0, 1),
        (1, 1),
        (0, 50),
        (50, 50),
        *((int(rng.integers(0, n + 1)), int(n)) for n in rng.integers(1, 400, 30)),
    ]:
        low, high = exact_interval(k/n, n)
        assert np.allclose((low, high), proportion_confint(k, n, method='beta'), atol=1e-9)
        theirs = stats.binomtest(k, n).proportion_ci(method='exact')
        assert np.allclose((low, high), (theirs.low, theirs.high), atol=1e-9)


def test_variance_is_the_cluster_sandwich():
    rng = np.random.default_rng(1)
    for sizes in (np.ones(50, int), rng.integers(1, 7, 50)):
        who = np.repeat(np.arange(50), sizes)
        w, r = rng.choice([0., 5., 20.], len(who)), (rng.random(50) < .3)[who].astype(float)
        fit = sm.WLS(r, np.ones(len(r)), weights=w).fit(
            cov_type='cluster', cov_kwds={'groups': who, 'use_correction': False}
        )
        found = weighted_rate(np.where(w > 0, r, np.nan), w, who, 'snips')
        influence = w*(r - found.value)*len(w)/w.sum()
        assert math.isclose(found.value, np.average(r, weights=w)) and math.isclose(
            photo_variance(influence, who), 50 / 49 * fit.bse[0] ** 2, rel_tol=1e-9
        )
        # never less than for independent items
        alone = guarded_variance((influence**2).sum(), w, found.value)/len(w)**2
        spread = max(photo_variance(influence, who), alone)
        assert math.isclose(found.worth, found.value*(1 - found.value)/spread, rel_tol=1e-9)


def test_verdict_is_the_gates():
    rng = np.random.default_rng(2)
    for _ in range(200):
        a, b, t, m = (round(float(x), 1) for x in rng.random(4))
        found = gate(
            [
                Candidate(key=SkuKey('zara', '1'), score=max(a, b)),
                Candidate(key=SkuKey('zara', '2'), score=min(a, b)),
            ],
            t,
            m,
        )
        assert verdict([found.top1], [found.margin], t, m)[0] == found.confident
    assert not verdict([math.nan], [.5], .1, .1)[0]


@pytest.mark.parametrize('method', ['ips', 'dr'])
def test_unbiased_by_enumeration(method):
    """Over all ways that exploration may fall out, the mean is the truth exactly, whatever is
    guessed."""
    rng = np.random.default_rng(3)
    r, p, q, who = np.array([1., 0, 0, 1, 0, 1, 0]), rng.uniform(.2, .9, 7), rng.random(7), np.arange(7)
    total = 0.
    for seen in product([0, 1], repeat=7):
        s = np.array(seen)
        chance = np.prod(np.where(s, p, 1 - p))
        total += chance * (
            weighted_rate(np.where(s, r, np.nan), s / p, who, method, guess=q).value
            if s.any()
            else (q.mean() if method == 'dr' else 0.0)
        )
    assert math.isclose(total, r.mean(), rel_tol=1e-9)


def test_all_seen_is_the_plain_mean():
    r = np.array([1., 0, 0, 1, 0])
    for m in ('ips', 'snips', 'dr'):
        assert math.isclose(
            weighted_rate(r, np.ones(5), range(5), m, guess=np.full(5, 0.3)).value, 0.4
        )
    with pytest.raises(ValueError, match='guess'): weighted_rate(r, np.ones(5), range(5), 'dr')
    with pytest.raises(ValueError, match='ips, snips or dr'):
        weighted_rate(r, np.ones(5), range(5), 'mean')


def test_no_event_all_events_one_photo():
    w = np.full(60, 20.)
    none, every = weighted_rate(np.zeros(60), w, range(60)), weighted_rate(np.ones(60), w, range(60))
    assert (
        none.low == 0
        and math.isclose(none.upper, 1 - 0.05 ** (1 / 60))
        and every.high == 1
        and math.isclose(1 - every.low, none.high, rel_tol=1e-9)
    )
    pairs = weighted_rate(np.zeros(60), w, np.repeat(range(30), 2))
    assert math.isclose(pairs.upper_photos, 1 - .05**(1/30)) and pairs.upper_photos > pairs.upper
    one = weighted_rate(np.r_[np.ones(5), np.zeros(55)], w, np.zeros(60))
    assert math.isclose(one.upper_photos, exact_interval(5/60, 1, .9)[1]) and one.upper_photos > .9
    floor = weighted_rate(np.zeros(60), w, np.repeat(range(30), 2), icc=.5)
    assert math.isclose(floor.worth, 60/1.5) and math.isclose(floor.upper, 1 - .05**(1/40))
    assert effective_size([]) == 0 and effective_size([3.]) == 1


def test_guesses_are_cross_fitted():
    "What a photo's own labels say does not move the guess for that photo."
    log = drawn_log(400, np.random.default_rng(4), .3)
    t = log[log.confident]
    before = guess_rate(t.loss, t.weight, t.photo, t[['top1', 'margin']])
    one = t.photo == t.photo[t.weight > 0].iloc[0]
    after = guess_rate(t.loss.where(~one, 1 - t.loss), t.weight, t.photo, t[['top1', 'margin']])
    assert np.array_equal(before[one], after[one]) and not np.array_equal(before, after)
    assert (guess_rate(np.zeros(40), np.ones(40), range(40), np.ones((40, 2))) == 0).all()


# Replay

@pytest.mark.parametrize('new', [(.70, .02), (.76, .0), (.60, .04)])
def test_replay_is_what_happens(new):
    """The same street under the gate that asks less: replayed calls and hits are those of a log
    made with it."""
    how = dict(photos=150, items=4, icc=.2, seed=7)
    log = a_log(150, icc=.2, seed=7)
    told = replay(log, *new)
    items, labels = simulate_items(**how, threshold=new[0], margin=new[1])
    both, _ = simulate_items(**how, threshold=OLD[0], margin=OLD[1])
    served = lambda t: outcomes(t.assign(fused=t.merged), labels)['merged@3'].sum()
    assert (
        told['exact']
        and told['calls_then'] == int(items.boosted.sum())
        and told['calls_now'] == int(both.boosted.sum())
    )
    assert told['won'] - told['lost'] == served(items) - served(both)
    found = change(log, *new)
    assert (
        found.exact
        and math.isclose(found.value, (told['won'] - told['lost']) / len(log))
        and found.low <= found.value <= found.high
    )
    assert change(log, *OLD).value == 0 and replay(log, *OLD)['credits_saved'] == 0


def test_everything_explored_is_exact():
    "With exploration of all, a gate that asks more is known to the last item."
    log = a_log(100, seed=3, explore=1.)
    new = (.85, .1)
    dual, labels = simulate_items(100, 4, seed=3, backend='dual')
    found = outcomes(dual, labels)
    moved = verdict(log.top1, log.margin, *OLD) & ~verdict(log.top1, log.margin, *new)
    for m in ('ips', 'snips', 'dr'):
        assert math.isclose(
            change(log, *new, method=m).value,
            (found.loss[moved].sum() - found.gain[moved].sum()) / len(log),
            rel_tol=1e-9,
        )
    sure = verdict(log.top1, log.margin, *OLD)
    assert math.isclose(harm(log, method='ips').value, found.loss[sure].mean(), rel_tol=1e-9)


# What cannot be known

def test_no_propensity_is_refused():
    blind = a_log(40, explore=0.)
    for call in (lambda: harm(blind), lambda: change(blind, .9, .2), lambda: need_support(blind)):
        with pytest.raises(NoSupport, match='EXPLORATION_SHARE') as e: call()
        assert str(int(blind.confident.sum())) in str(e.value) or 'confident items' in str(e.value)
    lost = a_log(40, explore=.2).assign(propensity=lambda t: t.propensity.where(t.asked))
    with pytest.raises(NoSupport, match='not logged'): harm(lost)
    assert change(blind, .70, .02).exact  # asking less needs no exploration
    with pytest.raises(NoSupport, match='no item is confident'): harm(blind, .999, .9)


def test_a_log_that_explored_too_few_is_seen():
    log = drawn_log(3000, np.random.default_rng(5), .1)
    fair = support(log)
    # the budget ran dry half of the time
    drop = log.explored & (np.random.default_rng(6).random(len(log)) < .5)
    short = log.assign(
        explored=log.explored & ~drop, weight=log.weight.where(~drop, 0.0), loss=log.loss.mask(drop)
    )
    assert abs(fair['z']) < 4 and support(short)['z'] < -5
    true = truth(*OLD)['conditional']
    assert (
        harm(short, method='ips').value < 0.75 * harm(log, method='ips').value
        and harm(short, method='snips').low < true < harm(short, method='snips').high
    )


def test_labels_of_a_part_speak_for_the_rest():
    items, labels = simulate_items(400, 4, seed=8, explore=.3, threshold=OLD[0], margin=OLD[1])
    half = labels[labels.photo.isin(labels.photo.unique()[::2])]
    whole, part = logged(items, outcomes(items, labels)), logged(items, outcomes(items, half))
    assert (
        len(whole) == len(part)
        and abs(part.weight.sum() / whole.weight.sum() - 1) < 0.15
        and math.isclose(part.weight[part.asked].sum(), part.asked.sum())
    )
    with pytest.raises(KeyError, match='propensity'):
        logged(items.drop(columns='propensity'), outcomes(items, labels))


# Intervals keep their word

@pytest.mark.parametrize('icc,runs', [(0., 150), (1., 150)])
def test_intervals_cover_the_truth(icc, runs):
    found = coverage_study(runs, 700, icc=icc, share=.1, methods=('ips', 'snips'), seed=1)
    assert (found.covered*runs >= stats.binom.ppf(.0005, runs, .95)).all()
    assert (found.bound_fails * runs <= stats.binom.ppf(0.9995, runs, 0.05)).all() and (
        found.photos_bound_fails <= found.bound_fails
    ).all()
    assert (abs(found.value - found.truth) < .004).all()


def test_doubly_robust_covers_too():
    found = coverage_study(60, 900, share=.1, methods=('dr',), seed=2)
    assert found.covered.iloc[0]*60 >= stats.binom.ppf(.0005, 60, .95)


@pytest.mark.parametrize('new', [(.70, .02), (.85, .10), (.72, .10)])
def test_change_covers_the_truth(new):
    "A gate that asks less, one that asks more, one that does both."
    rng, runs = np.random.default_rng(9), 100
    true = truth(*new)['served'] - truth(*OLD)['served']
    found = [change(drawn_log(700, rng, .1), *new, method='snips') for _ in range(runs)]
    assert sum(c.low <= true <= c.high for c in found) >= stats.binom.ppf(.0005, runs, .95)
    assert abs(np.mean([c.value for c in found]) - true) < 4 * np.std(
        [c.value for c in found]
    ) / math.sqrt(runs)


# What it costs

def test_the_plans_table():
    t = precision_table()
    assert (
        (t['bound if no harm'] * 100).round(1).tolist() == [5.8, 0.6, 0.3]
        and t['credits an item'].tolist() == [0.5, 0.5, 0.2]
        and t.explored.tolist() == [50, 500, 1000]
    )
    assert (
        (t.low * 100).round(2).tolist()[:2] == [0.05, 0.96]
        and (t.high * 100).round(2).tolist()[:2] == [10.65, 3.65]
        and (t[['low', 'high']].iloc[2] * 100).round(1).tolist() == [1.2, 3.1]
    )


def test_explored_needed_is_the_least():
    for h, rate, deff in ((.02, .02, 1.), (.01, .1, 1.6), (.05, 0., 1.)):
        n = explored_needed(h, rate, design_effect=deff)
        wide = lambda k: np.diff(exact_interval(rate, k/deff))[0]/2
        assert wide(n) <= h < wide(n - 1)
    with pytest.raises(ValueError, match='half_width'): explored_needed(0.)


# Prediction-powered

def test_powered_mean_is_the_regression_estimator():
    """With endless unlabelled items it is the regression of label on proxy, read at the proxy's
    mean."""
    rng = np.random.default_rng(10)
    f = rng.normal(size=300)
    y = .6*f + rng.normal(size=300)
    found = powered_mean(y, f, np.arange(300), np.tile(f, 3000) + .25, other_photo=np.arange(900_000))
    fit = sm.OLS(y, sm.add_constant(f)).fit()
    assert abs(found.value - fit.predict([1, f.mean() + .25])[0]) < .004
    assert abs((found.high - found.low)/2/1.96 - math.sqrt(fit.mse_resid/300)) < .002


def test_powered_mean_covers_and_a_bad_proxy_is_harmless():
    rng, runs, hit = np.random.default_rng(11), 400, 0
    for _ in range(runs):
        z = rng.normal(size=(60, 1))*.6 + rng.normal(size=(60, 4))
        y, f = (z + rng.normal(size=z.shape) > 0).ravel().astype(float), z.ravel() + 1  # a biased proxy
        g = (rng.normal(size=(500, 1))*.6 + rng.normal(size=(500, 4))).ravel() + 1
        e = powered_mean(y, f, np.repeat(range(60), 4), g, other_photo=np.repeat(range(500), 4))
        hit += e.low <= .5 <= e.high
    assert stats.binom.ppf(.0005, runs, .94) <= hit
    plain = powered_mean(
        y,
        np.zeros(240),
        np.repeat(range(60), 4),
        np.zeros(2000),
        other_photo=np.repeat(range(500), 4),
    )
    assert plain.value == y.mean() and plain.gain == 1 and plain.trust == 0
    with pytest.raises(ValueError, match='at least three'):
        powered_mean([1.0], [1.0], ['a'], [1.0], other_photo=['a'])


def test_skewed_exploration_keeps_the_bound():
    "Garments far above the thresholds are explored a hundred times less often than those near them."
    rng, pair, runs = np.random.default_rng(4), (.76, .04), 150
    true, old, new = truth(*pair)['conditional'], 0, 0
    for _ in range(runs):
        d = draw(400, 4, .2, rng)
        sure = verdict(d['top1'], d['margin'], *pair)
        photo, margin, event = (d[k][sure] for k in ('photo', 'margin', 'harm'))
        chance = np.clip(.5*np.exp(-30*(margin - pair[1])), .005, .5)
        w = (rng.random(len(chance)) < chance)/chance
        found = weighted_rate(event, w, photo, 'snips')
        new += found.upper < true
        r = np.where(w > 0, event, 0.)
        alone = ((w*(r - found.value)*len(w)/w.sum())**2).sum()/len(w)**2
        size = found.value*(1 - found.value)/alone if 0 < found.value < 1 else found.worth
        old += exact_interval(found.value, size, .9)[1] < true
    assert new <= stats.binom.ppf(.9995, runs, .05) and old > new
