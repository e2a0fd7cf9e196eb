"""Every bound against an independent implementation, on random samples and on the corners: no
event, all events, one photo, photos of one item."""

import itertools
import warnings

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.anova import anova_lm
from statsmodels.stats.proportion import proportion_confint

from unde_recog.research.bounds import (
    allowed,
    betting_p,
    binomial_p,
    effective_sample,
    hoeffding_bentkus_p,
    icc,
    items_needed,
    kish_size,
    no_assumption_bound,
    photos_needed,
    power,
    provable,
    upper_bound,
)

alphas = st.sampled_from([.01, .02, .05, .1, .3])


@st.composite
def samples(draw, photos=st.integers(1, 40), largest=6, smallest=0):
    "(events, sizes) a photo, empty photos among them."
    n = draw(photos)
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    sizes = rng.integers(smallest, largest + 1, n)
    return rng.binomial(sizes,
                        draw(st.sampled_from([0, .03, .3, 1.]))).astype(float), sizes.astype(float)


@settings(deadline=None)
@given(st.integers(1, 3000), st.floats(0, 1), alphas)
def test_the_p_value_is_scipys_exact_binomial_test(n, share, alpha):
    k = int(share*n)
    assert binomial_p(k, n, alpha) == pytest.approx(
        stats.binomtest(k, n, alpha, alternative='less').pvalue, rel=1e-8, abs=1e-12
    )


@settings(deadline=None)
@given(st.integers(1, 3000), st.floats(0, 1), st.sampled_from([.01, .05, .2]))
def test_the_upper_bound_is_clopper_pearsons(n, share, delta):
    k = int(share*n)
    _, theirs = proportion_confint(k, n, alpha=2*delta, method='beta')
    ours = upper_bound(k, n, delta)
    assert ours == pytest.approx(theirs, rel=1e-9)
    assert ours == pytest.approx(
        stats.binomtest(k, n, 0.5, alternative='less').proportion_ci(1 - delta, 'exact').high,
        rel=1e-6,
    )


@settings(deadline=None)
@given(st.floats(1, 500), st.floats(0, 1), alphas, st.sampled_from([.01, .05, .2]))
def test_test_and_bound_agree_on_fractional_samples(n, share, alpha, delta):
    k, bound = share*n, upper_bound(share*n, n, delta)
    if abs(bound - alpha) > 1e-9: assert (binomial_p(k, n, alpha) <= delta) == (bound <= alpha)


def test_no_items_prove_nothing_and_all_events_prove_the_worst():
    assert (
        binomial_p(0, 0, 0.05) == 1
        and upper_bound(0, 0) == 1
        and upper_bound(7, 7) == 1
        and binomial_p(7, 7, 0.05) == 1
    )
    for bad in (0, 1, -1, 5): pytest.raises(ValueError, binomial_p, 0, 10, bad)


@pytest.mark.parametrize(
    'alpha, wanted',
    [(0.02, [149, 236, 313, 386]), (0.05, [59, 93, 124, 153]), (0.1, [29, 46, 61, 76])],
)
def test_items_needed_are_the_published_ones_and_the_fewest(alpha, wanted):
    assert [items_needed(alpha, k) for k in range(4)] == wanted
    for k, n in enumerate(wanted):
        assert stats.binom.cdf(k, n, alpha) <= 0.05 < stats.binom.cdf(k, n - 1, alpha)


@settings(deadline=None)
@given(st.integers(1, 3000), alphas, st.sampled_from([.01, .05, .2]))
def test_allowed_is_the_most(n, alpha, delta):
    k = allowed(n, alpha, delta)
    assert (k < 0 or stats.binom.cdf(k, n, alpha) <= delta) and stats.binom.cdf(k + 1, n, alpha) > delta


@settings(deadline=None)
@given(st.integers(1, 400), st.floats(.001, .2), alphas)
def test_power_is_the_sum_of_what_passes(n, loss, alpha):
    k = np.arange(n + 1)
    assert power(n, loss, alpha) == pytest.approx(
        stats.binom.pmf(k[stats.binom.cdf(k, n, alpha) <= 0.05], n, loss).sum(), abs=1e-9
    )


def test_the_power_figures_of_the_plan():
    assert power(np.array([400, 1000, 2000]), .01, .02).round(2).tolist() == [.43, .79, .98]


@settings(deadline=None)
@given(st.integers(1, 2000), st.floats(0, 1), alphas)
def test_hoeffding_bentkus_is_mapies(n, share, alpha):
    compute = pytest.importorskip('mapie.risk_control.methods').compute_hoeffding_bentkus_p_value
    k = int(share*n)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        theirs = compute(np.array([k/n]), n, alpha)[0, 0]
    ours = hoeffding_bentkus_p(k, n, alpha)
    # k/n·n may land above k, and then theirs counts one event more
    if np.ceil(n*(k/n)) == k: assert ours == pytest.approx(min(1, theirs), rel=1e-6)
    assert ours >= binomial_p(k, n, alpha)*(1 - 1e-9) or ours == 1


@settings(max_examples=60, deadline=None)
@given(samples(photos=st.integers(2, 25), smallest=1))
def test_the_icc_is_the_anova_estimate(sample):
    events, sizes = sample
    n, photos = int(sizes.sum()), len(sizes)
    rows = pd.DataFrame(
        {
            'photo': np.repeat(np.arange(photos), sizes.astype(int)),
            'y': np.concatenate(
                [[1.0] * int(e) + [0.0] * int(m - e) for e, m in zip(events, sizes)]
            ),
        }
    )
    if n == photos or rows.y.nunique() < 2: assert icc(events, sizes) == 0; return
    table = anova_lm(smf.ols('y ~ C(photo)', rows).fit())
    between, within = table.mean_sq['C(photo)'], table.mean_sq['Residual']
    typical = (n - (sizes**2).sum()/n)/(photos - 1)
    assert icc(events, sizes) == pytest.approx(
        (between - within) / (between + (typical - 1) * within), abs=1e-9
    )


@settings(max_examples=100, deadline=None)
@given(samples(photos=st.integers(2, 40)), st.sampled_from([.01, .05]))
def test_the_design_effect_is_that_of_cluster_robust_regression(sample, delta):
    events, sizes = sample
    here = sizes > 0
    if here.sum() < 2: return
    rows = pd.DataFrame(
        {
            'photo': np.repeat(np.arange(len(sizes)), sizes.astype(int)),
            'y': np.concatenate(
                [[1.0] * int(e) + [0.0] * int(m - e) for e, m in zip(events, sizes)]
            ),
        }
    )
    p, n = rows.y.mean(), len(rows)
    found = effective_sample(events, sizes, delta)
    if 0 < p < 1:
        variance = (
            smf.ols('y ~ 1', rows)
            .fit(cov_type='cluster', cov_kwds={'groups': rows.photo})
            .cov_params()
            .iloc[0, 0]
        )
        assert found.deff == pytest.approx(max(1, variance/(p*(1 - p)/n)), rel=1e-6)
    few = (stats.t.ppf(1 - delta, n - 1)/stats.t.ppf(1 - delta, here.sum() - 1))**2
    assert found.n_eff == pytest.approx(n/found.deff*min(1, few), rel=1e-9)
    assert found.upper(delta) == pytest.approx(
        stats.beta.ppf(1 - delta, p * found.n_eff + 1, found.n_eff * (1 - p)) if p < 1 else 1,
        rel=1e-6,
    )
    assert (found.p(.05) <= delta) == (found.upper(delta) <= .05) or abs(found.upper(delta) - .05) < 1e-9


@settings(deadline=None)
@given(samples(), st.floats(0, 1))
def test_clustering_never_helps_and_empty_photos_never_matter(sample, floor):
    events, sizes = sample
    plain, floored = effective_sample(events, sizes), effective_sample(events, sizes, icc_floor=floor)
    hair = 1e-12  # what rounding may add
    assert floored.deff >= plain.deff >= 1 and floored.n_eff <= plain.n_eff <= max(sizes.sum(), 0)
    assert floored.upper() >= plain.upper() - hair >= upper_bound(events.sum(), sizes.sum()) - 2*hair
    padded = effective_sample(np.append(events, [0, 0]), np.append(sizes, [0, 0]), icc_floor=floor)
    assert (padded.n_eff, padded.deff, padded.photos) == pytest.approx(
        (floored.n_eff, floored.deff, floored.photos)
    )
    order = np.random.default_rng(0).permutation(len(sizes))
    assert effective_sample(events[order], sizes[order],
                            icc_floor=floor).n_eff == pytest.approx(floored.n_eff)


@settings(deadline=None)
@given(st.integers(2, 500), st.floats(0, 1))
def test_photos_of_one_item_are_independent_items(n, floor):
    events = np.zeros(n)
    assert effective_sample(events, np.ones(n),
                            icc_floor=floor).upper() == pytest.approx(upper_bound(0, n))
    assert no_assumption_bound(events, np.ones(n)) == pytest.approx(upper_bound(0, n))


def test_corners_of_worth():
    assert effective_sample([3.], [4.]).n_eff <= 1  # one photo is one witness at most
    assert (
        effective_sample(np.full(9, 4.0), np.full(9, 4.0)).upper() == 1
        and effective_sample(np.zeros(0), np.zeros(0)).upper() == 1
        and effective_sample([0.0], [0.0]).p(0.05) == 1
    )
    for wrong in (([5], [4]), ([1, 2], [4]), ([-1], [3])):
        pytest.raises(ValueError, effective_sample, *wrong)
    many = effective_sample(np.zeros((3, 2, 10)), np.full((3, 2, 10), 4.),
                            icc_floor=np.array([[0], [.5], [1]]))
    assert many.n_eff.shape == (3, 2) and (np.diff(many.n_eff[:, 0]) < 0).all()


@settings(deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=30))
def test_kish_size_is_the_size_seen_by_an_item(sizes):
    assert kish_size(sizes) == pytest.approx(np.mean(np.repeat(sizes, sizes)))


def test_the_table_of_what_photos_prove():
    table = provable().round(1)
    assert table.loc['150 (600)'].tolist() == [.5, 2.0, 3.2, 6.7, .8, 2.3, 3.6, 7.3, 2.0, 3.6, 5.1, 9.0]
    assert table.loc['300 (1200)'].tolist() == [.2, 1.6, 2.8, 6.2, .4, 1.8, 3.1, 6.5, 1.0, 2.6, 3.9,
                                                7.6]
    assert table.loc['500 (2000)'].tolist() == [.1, 1.4, 2.6, 5.9, .2, 1.6, 2.8, 6.1, .6, 2.1, 3.4, 6.9]


@settings(max_examples=50, deadline=None)
@given(samples(photos=st.integers(1, 30)), alphas)
def test_the_wager_is_the_plain_product_in_any_order(sample, alpha):
    events, sizes = sample
    most, stakes = 6, 40
    wealth = np.zeros(stakes)
    for i in range(stakes):
        product = 1.
        for e, m in zip(events, sizes): product *= 1 - (i + .5)/stakes/(1 - alpha)*(e - alpha*m)/most
        wealth[i] = product
    assert betting_p(events, sizes, alpha, most) == pytest.approx(min(1, 1/wealth.mean()), rel=1e-8)
    assert betting_p(events[::-1], sizes[::-1], alpha, most) == pytest.approx(
        betting_p(events, sizes, alpha, most), rel=1e-9
    )


@pytest.mark.parametrize('law', [{0: .95, 4: .05}, {0: .8, 1: .2}, {0: .9, 2: .1}])
def test_no_wager_wins_against_the_truth(law):
    """Photos of four with a mean loss of exactly alpha, whatever the dependence inside: over all
    samples of four photos the fortune is 1 on average."""
    alpha, stakes = sum(k*p for k, p in law.items())/4, 40
    total = sum(
        np.prod([law[k] for k in events]) / betting_raw(np.array(events, float), alpha, stakes)
        for events in itertools.product(law, repeat=4)
    )
    assert total == pytest.approx(1, abs=1e-9)


def betting_raw(events, alpha, stakes):
    "1 / fortune, before it is cut at 1."
    x = (events - alpha*4)/4
    fortune = np.mean([np.prod(1 - (i + .5)/stakes/(1 - alpha)*x) for i in range(stakes)])
    assert betting_p(events, np.full(len(events), 4.), alpha, 4) == pytest.approx(min(1, 1/fortune))
    return 1/fortune


def test_betting_says_what_a_photo_can_have():
    with pytest.raises(ValueError, match='max_items=3'): betting_p([0], [4], .05, 3)


@pytest.mark.parametrize('loss, selected, alpha', [(.0, 2., .05), (.01, 2.5, .05), (.02, 1., .1)])
def test_photos_needed_suffice(loss, selected, alpha):
    photos = photos_needed(loss, selected, alpha)
    assert all(power(int(n*selected), loss, alpha) >= .8 for n in (photos, photos*1.1, photos*2))
    assert power(int(photos*.8*selected), loss, alpha) < .95
    assert photos_needed(alpha, selected, alpha) == photos_needed(0, 0, alpha) == float('inf')
