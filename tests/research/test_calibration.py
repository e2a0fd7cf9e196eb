"""The gate's calibration: against other implementations, on hostile data, by simulation."""


import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from unde_recog.contracts import Candidate, SkuKey
from unde_recog.gating import gate
from unde_recog.research.bounds import upper_bound
from unde_recog.research.calibration import (
    GatePath,
    Step,
    by_category,
    calibrate,
    calibration_sample,
    confident,
    declare_path,
    evaluate_thresholds,
    fixed_sequence_test,
    icc_floor,
    least_deferral,
    levels,
    pareto,
    shrink,
    threshold_grid,
)
from unde_recog.research.records import outcomes
from unde_recog.research.simulate import draw, simulate_items

calm = settings(max_examples=40, deadline=None)


@st.composite
def scores(draw, fewest=20, largest=200):
    "(top1, margin, photo) with ties and holes."
    rng, n = np.random.default_rng(draw(st.integers(0, 2**32))), draw(st.integers(fewest, largest))
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


# -- the grid and the path

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
    assert [s.coverage for s in path.steps] == [
        pytest.approx(c.mean()) for c in sets
    ] and path.steps[0].coverage > 0
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
    # all of a photo pass together
    assert (
        declare_path(
            twins['top1'], twins['margin'], photo=twins['photo'], labelled=1000, latest=0.9
        )
        .steps[0]
        .coverage
        > 0.55
    )


def test_labels_cannot_bend_the_path(labelled):
    a, b = (
        declare_path(labelled.top1, labelled.margin, photo=labelled.photo, labelled=1200)
        for _ in range(2)
    )
    assert a == b and not set(declare_path.__code__.co_varnames) & {'harm', 'labels', 'outcomes'}


@calm
@given(st.integers(0, 2**32), st.sampled_from([0., .01, .3, .5, .8, 1.]))
def test_a_common_quantile_is_the_highest_at_which_both_let_it_pass(seed, balance):
    rng = np.random.default_rng(seed)
    top1, margin = rng.random(30), rng.random(30)
    wa, wb = min(1, 2*balance), min(1, 2*(1 - balance))
    for i, level in enumerate(levels(top1, margin, balance)):
        assert level == pytest.approx(
            min(
                [(top1 <= top1[i]).mean() / wa] if wa else [np.inf],
                [(margin <= margin[i]).mean() / wb] if wb else [np.inf],
            )[0]
        )


@calm
@given(st.integers(0, 2**32))
def test_the_front_holds_what_nothing_beats(seed):
    rng = np.random.default_rng(seed)
    table = pd.DataFrame({'cost': rng.integers(0, 12, 40), 'harm': rng.integers(0, 12, 40)/12.})
    front = {(r.cost, r.harm) for r in pareto(table, 'cost', 'harm').itertuples()}
    brute = {
        (a.cost, a.harm)
        for a in table.itertuples()
        if not any(
            (b.cost <= a.cost and b.harm <= a.harm) and (b.cost, b.harm) != (a.cost, a.harm)
            for b in table.itertuples()
        )
    }
    assert front == brute


def test_the_reading_of_a_pair_is_what_the_rows_say(labelled):
    j = calibration_sample(labelled)
    for t, m in ((.7, .02), (.8, .05), (0, 0), (2, 0)):
        sure = labelled[(labelled.top1 >= t) & (labelled.margin >= m)]
        r = evaluate_thresholds(j, t, m)
        assert (
            r['confident'] == len(sure)
            and r['events'] == sure.loss.sum()
            and r['gain among all'] == pytest.approx(sure.gain.sum() / len(labelled))
        )
        served = labelled['primary@3'].where(
            (labelled.top1 >= t) & (labelled.margin >= m), labelled['merged@3']
        )
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
    rows = pd.DataFrame(
        {
            'photo': list('aabb'),
            'top1': 0.8,
            'margin': 0.1,
            'primary@3': pd.array([True, False, False, None], 'boolean'),
            'merged@3': pd.array([None, None, False, True], 'boolean'),
        }
    )
    j = calibration_sample(rows)
    assert j.harm.tolist() == [False, True, False] and j.assumed == 1 and j.gain.tolist() == [False]*3
    with pytest.raises(ValueError, match='no labelled item'): calibration_sample(rows[3:])


@pytest.mark.parametrize('backend', ['dual', 'conditional'])
def test_a_log_that_did_not_ask_gives_a_bound_that_is_no_lower(backend):
    items, labels = simulate_items(60, 4, seed=4, backend=backend)
    j = calibration_sample(outcomes(items, labels))
    full = calibration_sample(outcomes(*simulate_items(60, 4, seed=4, backend='dual')))
    assert (j.harm >= full.harm).all() and (j.assumed == 0) == (backend == 'dual')


# -- the fixed-sequence test

@calm
@given(st.integers(0, 2**32), st.integers(1, 15), st.sampled_from([.01, .05, .2]))
def test_the_test_ends_where_mapies_fixed_sequence_ends(seed, steps, delta):
    control = pytest.importorskip('mapie.risk_control').control_fwer
    rng = np.random.default_rng(seed)
    sizes = np.cumsum(rng.integers(0, 2, (steps, 80)), 0).astype(float)
    events = np.minimum(
        np.cumsum(rng.random((steps, 80)) < 0.01 * np.arange(steps)[:, None] / 2, 0), sizes
    ).astype(float)
    found = fixed_sequence_test(events, sizes, .05, delta)
    theirs = control(found.p, delta, 'fixed_sequence')
    assert found.last + 1 == len(theirs)


@calm
@given(st.integers(0, 2**32))
def test_a_thousand_tests_at_once_are_a_thousand_tests(seed):
    rng = np.random.default_rng(seed)
    sizes = np.cumsum(rng.integers(0, 2, (4, 6, 50)), 1).astype(float)
    events = np.floor(sizes*(rng.random((4, 6, 50)) < .03))
    floors = rng.random(4)
    together = fixed_sequence_test(events, sizes, .05, .05, floor=floors)
    for i in range(4):
        alone = fixed_sequence_test(events[i], sizes[i], .05, .05, floor=floors[i])
        assert alone.last == together.last[i] and np.allclose(alone.p, together.p[i])


def test_the_floor_is_the_larger_clustering_and_the_worst_where_nothing_is_known():
    four = np.full(50, 4)
    wrong, harm = np.r_[np.full(5, 4), np.zeros(45)], np.r_[np.ones(5), np.zeros(45)]
    assert (
        icc_floor(wrong, harm, four) == 1
        and icc_floor(harm, wrong, four) == 1
        and icc_floor(0 * wrong, 0 * wrong, four) == 1
    )
    assert icc_floor(np.ones(50), 0*wrong, four) == 0  # spread evenly: less alike than strangers


def test_a_calibration_counts_what_it_says(labelled):
    path = declare_path(labelled.top1, labelled.margin, photo=labelled.photo, labelled=len(labelled))
    found = calibrate(labelled, path, date='d', data='x', simulated=True)
    for s in found.steps.itertuples():
        sure = labelled[confident(labelled.top1, labelled.margin, s.threshold, s.margin)]
        assert (s.selected, s.events, s.photos) == (
            len(sure),
            sure.loss.sum(),
            sure.photo.nunique(),
        ) and s.coverage == pytest.approx(len(sure) / len(labelled))
        # never better than if items were independent
        assert s.upper >= upper_bound(s.events, s.selected) - 1e-12
    shuffled = calibrate(labelled.sample(frac=1, random_state=1), path, date='d', data='x',
                         simulated=True)
    pd.testing.assert_frame_equal(shuffled.steps, found.steps)
    passed = found.steps.passed.to_numpy()
    assert (
        (np.diff(passed.astype(int)) <= 0).all()
        and found.certificate
        and found.certificate.threshold == found.steps.threshold[passed.sum() - 1]
    )


def test_nothing_is_certified_that_cannot_be():
    def toy(photos, harm):
        wrong = np.zeros(photos*4, bool)
        wrong[:harm] = True
        return pd.DataFrame(
            {
                'photo': np.repeat(np.arange(photos), 4),
                'item': 0,
                'category': 'top',
                'model_version': 'm',
                'top1': np.linspace(1, 0.5, photos * 4),
                'margin': 0.2,
                'primary@3': ~wrong,
                'merged@3': True,
            }
        )

    one = GatePath((Step(1., .5, .1),), .05, .05, 100, .5, 3)
    say = lambda rows: calibrate(rows, one, date='d', data='x', simulated=True)
    assert say(toy(100, 0)).certificate and say(toy(100, 400)).certificate is None  # 0 and n events
    assert 'will not help' in say(toy(100, 400)).message and np.isinf(say(toy(100, 400)).photos_needed)
    few = say(toy(12, 1))
    assert few.certificate is None and 12 < few.photos_needed < 1000 and 'photos are needed' in few.message
    perfect = say(toy(59, 0))
    assert perfect.certificate is None or perfect.certificate.upper <= .05
    assert say(toy(1, 0)).certificate is None  # one photo
    none = calibrate(
        toy(50, 0),
        GatePath((Step(0.1, 0.999, 0.3),), 0.05, 0.05, 100, 0.5, 3),
        date='d',
        data='x',
        simulated=True,
    )
    assert none.certificate is None and none.steps.selected.tolist() == [0]


# -- categories

@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), min_size=1, max_size=6))
def test_shrinking_pulls_towards_the_middle(groups):
    events, sizes = [a for a, _ in groups], [a + b for a, b in groups]
    found = shrink(events, sizes)
    assert (
        (found.low <= found.shrunk + 1e-9) & (found.shrunk <= found.high + 1e-9)
    ).all() and found.shrunk.between(0, 1).all()
    if sum(sizes) > 20 and len(groups) > 1 and found.raw.notna().all():
        assert np.ptp(found.shrunk) <= np.ptp(found.raw) + 1e-6


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
    assert (
        table.confident.sum() == len(sure)
        and table.events.sum() == sure.loss.sum()
        and set(table.index) == set(labelled.category)
    )
