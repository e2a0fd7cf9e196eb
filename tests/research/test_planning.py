"How many photos are missing: against statsmodels, a bootstrap and item-by-item simulation."

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from scipy import stats

from unde_recog.research.anytime import continuations, likely_losses, log_fortune, photos_to_go
from unde_recog.research.anytime import SoFar, running_correlation, running_floor, sample_floor
from unde_recog.research.bounds import correlation_floor
from unde_recog.research.certify import likely
from unde_recog.research.coverage import live_path
from unde_recog.research.planning import LossGuess, guess_loss, levels, logistic_fit, normal_score
from unde_recog.research.simulate import Street, draw, truth
from unde_recog.research.studies import drawn_sample


@pytest.fixture(scope='module')
def clustered():
    rng = np.random.default_rng(3)
    photo = np.repeat(np.arange(300), 4)
    x = rng.normal(size=1200)
    y = rng.random(1200) < 1/(1 + np.exp(1.5 + x + rng.normal(size=300)[photo]))
    return photo, x, y


def test_the_curve_and_its_error_by_photo_are_statsmodels(clustered):
    photo, x, y = clustered
    ours = logistic_fit(x, y, ridge=1e-9)
    theirs = sm.Logit(y.astype(float), sm.add_constant(x)).fit(
        disp=0, cov_type='cluster', cov_kwds={'groups': photo, 'use_correction': False})
    assert ours.b == pytest.approx(theirs.params, abs=.01)   # half an item with and without
    pull = np.stack([np.bincount(photo, ours.pull[:, k]) for k in (0, 1)], 1)
    inverse = np.linalg.inv(ours.hessian)
    assert inverse @ pull.T @ pull @ inverse == pytest.approx(theirs.cov_params(), rel=.03)


def test_a_weight_is_so_many_items(clustered):
    _, x, y = clustered
    often = np.repeat(np.arange(400), np.repeat([1, 3], 200))
    heavy = np.repeat([1., 3.], 200)
    assert logistic_fit(x[:400], y[:400], heavy).b == pytest.approx(logistic_fit(x[often], y[often]).b)
    assert normal_score(x[:400]) == pytest.approx(stats.norm.ppf((stats.rankdata(x[:400]) - .5)/400))


def test_the_loss_of_the_strictest_share_is_found_without_bias():
    "In the simulated street, of which the truth is known, over sixty samples of a hundred photos."
    street, log = Street(), draw(20_000, 4, .2, 9)
    level = levels(log['top1'], log['margin'])
    known = log['harm'][level >= np.quantile(level, .8)].mean()
    miss = []
    for seed in range(60):
        d = draw(100, 4, .2, seed, street=street)
        g = guess_loss(levels(d['top1'], d['margin']), d['photo'], ~d['right_primary'], d['harm'],
                       share=.2)
        miss.append((g.log_loss - math.log(known), g.error))
    off, error = np.array(miss).T
    assert abs(off.mean()) < .25 and .6 < error.mean()/off.std() < 1.6
    assert truth(.5, 0., street)['coverage'] > .99  # the street that was meant


@pytest.mark.parametrize('loss', [.005, .02])
def test_continuations_end_when_items_one_by_one_do(loss):
    "From nothing but sixty items without a loss, the fortune worked out after every single item."
    rng = np.random.default_rng(1)
    n = np.arange(1, 4001)
    hits = rng.random((150, 4000)) < loss
    won = log_fortune(hits.cumsum(1), np.broadcast_to(60. + n, hits.shape), .05) >= math.log(20)
    slow = np.where(won.any(1), 60 + won.argmax(1) + 1, np.inf)
    fast = continuations(np.full(150, loss), 0., 60., 60, alpha=.05, delta=.05)
    for q in (.25, .5, .75):
        assert np.quantile(fast, q) == pytest.approx(np.quantile(slow, q), rel=.2)


def test_the_number_named_is_within_a_factor_of_two_of_most():
    ends = np.random.default_rng(0).lognormal(math.log(400), .5, 2000).clip(101)
    found = photos_to_go(ends, 100)
    near = lambda m: ((ends >= m/2) & (ends <= 2*m)).mean()
    assert near(100 + found.more) > .97*max(near(m) for m in range(100, 1500, 10))
    assert found.low == pytest.approx(np.quantile(ends, .25) - 100, rel=.02)
    assert math.isnan(photos_to_go(np.full(10, np.inf), 100).more)
    assert photos_to_go(np.full(10, np.inf), 100, over=True).more == math.inf


def test_labels_move_what_is_believed():
    guess = LossGuess(math.log(.02), .5)
    none, many = (np.median(likely_losses(guess, r, 400, .05)) for r in (0., .04))
    assert none < .02 < many


def test_clustering_of_chosen_photos_is_that_of_all():
    """Photos with a trusted garment are chosen surely, others seldom: without weights the garments
    look less alike than they are."""
    plain, back, whole = [], [], []
    for seed in range(30):
        d = draw(1500, 4, .3, seed)
        wrong = np.bincount(d['photo'], ~d['right_primary'])
        chance = np.where(np.bincount(d['photo'], d['top1'] > .8) > 0, 1., .15)
        kept = np.random.default_rng(seed).random(1500) < chance
        four = np.full(kept.sum(), 4)
        plain.append(running_correlation(wrong[kept], four)[-1])
        back.append(running_floor(wrong[kept], 0*wrong[kept], four, 1/chance[kept])[-1])
        whole.append(correlation_floor(wrong, np.full(1500, 4)))
    assert abs(np.mean(back) - np.mean(whole)) < .02 < np.mean(whole) - np.mean(plain)


def test_clustering_is_that_of_trusted_garments_too():
    "By hand for the garments that the middle step trusts; they are more alike than all of them."
    path, middle = live_path(.2, 1000), live_path(.2, 1000).steps[6]
    d = draw(4000, 4, .2, 3)
    j = drawn_sample(d)
    sure = (d['top1'] >= middle.threshold) & (d['margin'] >= middle.margin)
    per = lambda mask: np.bincount(d['photo'], sure & mask)
    by_hand = [correlation_floor(per(m), per(True)) for m in (~d['right_primary'], d['harm'])]
    assert len(path.steps)//2 == 6 and sample_floor(j)[-1] < max(by_hand) - .05
    assert sample_floor(j, path)[-1] == pytest.approx(max(by_hand))


def test_a_number_that_few_continuations_reach_is_only_possible():
    few = np.where(np.arange(100) < 40, 300., np.inf)
    found = photos_to_go(few, 100)
    assert found.more == pytest.approx(200, rel=.1) and found.high == math.inf
    s = SoFar(photos=100, step=-1, since=0, steps=pd.DataFrame(), more_photos=found.more,
              more_range=found[1:])
    assert likely(s) == 'may' and likely(replace(s, more_range=(100., 300.))) == 'are likely to'
