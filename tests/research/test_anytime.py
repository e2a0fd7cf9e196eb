"""Looking after every photo, and a certificate that is watched: by simulation and by enumeration.
"""
import itertools

import numpy as np
import pandas as pd
import pytest
from scipy import integrate, stats

from unde_recog.research.anytime import (
    betting_fortune,
    certified_by,
    effective_running,
    fortunes,
    label_until_certain,
    log_fortune,
    running_correlation,
    running_floor,
    trusted_floor,
    watch_certificate,
)
from unde_recog.research.bounds import clusters, correlation_floor
from unde_recog.research.calibration import GatePath, Step, calibration_sample
from unde_recog.research.coverage import check_looks, live_path, tuned

RUNS = 60
LIMIT = stats.binom.ppf(1 - 1e-4, RUNS, .05)


@pytest.mark.parametrize('events, n, alpha',
                         [(0, 60, .05), (2, 150, .05), (7, 90, .1), (3.5, 120.2, .02)])
def test_the_fortune_is_the_integral_over_guesses(events, n, alpha):
    density = stats.beta(5, 5*(1/(.28*alpha) - 1))

    def ratio(q): return (q/alpha)**events*((1 - q)/(1 - alpha))**(n - events)*density.pdf(q)

    wanted = integrate.quad(ratio, 0, alpha, epsabs=0)[0]/density.cdf(alpha)
    assert np.exp(log_fortune(events, n, alpha)) == pytest.approx(wanted, rel=1e-6)


def test_many_events_never_win():
    """Where the integral underflows as well: the fortune against a loss that is plainly over
    alpha is at most 1."""
    assert log_fortune(2000, 2000, .02) <= 0 and log_fortune(500, 1000, .05) <= 0


def test_the_fortune_is_a_fair_game():
    "Over all samples of eight items with a loss of exactly alpha it is 1 on average."
    total = sum(.1**sum(s)*.9**(8 - sum(s))*np.exp(log_fortune(sum(s), 8,
                                                               .1)) for s in itertools.product([0, 1],
                                                                                               repeat=8))
    assert total == pytest.approx(1, abs=1e-9)


def test_running_values_are_those_of_every_day():
    rng = np.random.default_rng(0)
    sizes = rng.integers(0, 6, 80)
    events = rng.binomial(sizes, .3*rng.binomial(1, .4, 80))
    found = running_correlation(events, sizes)
    for i in range(5, 80):
        assert found[i] == pytest.approx(correlation_floor(events[:i + 1], sizes[:i + 1]), abs=1e-9)


@pytest.mark.parametrize('icc', [0., .2, 1.])
def test_a_look_after_every_photo_breaks_no_promise(icc):
    path = live_path(icc, 1000)
    found = check_looks(path, tuned(path, .0505), icc, runs=RUNS, photos=300, seed=3)
    assert found.broken['anytime, every photo']*RUNS <= LIMIT


def test_looking_costs_little():
    """A gate that truly loses 1 %: median at most 1.5 times the photos of one look, and 80 % at
    twice as many."""
    path = live_path(0., 1000)
    one_look = 93/(4*path.steps[0].coverage)       # independent items that prove 5 % in half of all sets
    powerful = 124/(4*path.steps[0].coverage)      # in four of five
    found = check_looks(path, tuned(path, .01), 0., runs=RUNS, photos=500,
                        seed=4).loc['anytime, every photo']
    assert found.photos <= 1.6*one_look and found['photos, 80 %'] <= 2*powerful


def test_strangers_hold_back_a_step():
    rng, n = np.random.default_rng(1), 1200
    t = pd.DataFrame({'photo': np.repeat(np.arange(n//4), 4), 'top1': .9, 'margin': .5,
                      'primary@3': True, 'merged@3': True})
    path = GatePath((Step(.5, .8, .1),), .05, .05, 1000, .5, 3)
    assert label_until_certain(calibration_sample(t), path).step == 0
    stranger = rng.random(n) < .3
    t['answer'] = np.where(stranger, 'stranger', 'answered')
    assert label_until_certain(calibration_sample(t), path).step == -1     # all of them are trusted
    t.loc[stranger, 'top1'] = .1
    assert label_until_certain(calibration_sample(t), path).step == 0


def explored(rate, photos, rng):
    n, rates = 2*photos, np.repeat(np.broadcast_to(rate, photos), 2)
    chance = np.where(rng.random(n) < .5, .2, .5)
    seen = rng.random(n) < chance
    loss = np.where(seen, rng.random(n) < rates, np.nan)
    return pd.DataFrame({'photo': np.repeat(np.arange(photos), 2), 'confident': True, 'asked': False,
                         'explored': seen,
                         'propensity': chance, 'loss': loss})


def test_a_watched_certificate_alarms_when_it_breaks_and_seldom_else():
    rng, runs = np.random.default_rng(2), 100
    false = sum(watch_certificate(explored(.05, 1000, rng), .05).broken for _ in range(runs))
    assert false <= stats.binom.ppf(1 - 1e-4, runs, .05)
    broken = [watch_certificate(explored(.10, 2000, rng), .05).alarm for _ in range(30)]
    assert sum(a is not None for a in broken) >= 25


def test_a_bet_is_the_plain_product():
    scores = np.array([.95, -.05, -.05, 1.9, -.1])
    stakes = np.array([.02, .05, .1, .2, .4, .7])/.1
    wanted = [np.mean([np.prod(1 + s*scores[:i + 1]) for s in stakes]) for i in range(5)]
    assert betting_fortune(scores, -.1) == pytest.approx(wanted)


def test_clusters_are_those_of_a_plain_search():
    "Against the closure of 'shares a key', by squaring its matrix."
    rng, n = np.random.default_rng(3), 40
    for _ in range(20):
        t = pd.DataFrame({'photo': rng.integers(0, 20, n),
                          'user_id': rng.integers(0, 15, n).astype(object),
                          'content_hash': rng.integers(0, 25, n).astype(object)})
        t.loc[rng.random(n) < .5, 'user_id'] = None
        joined = np.eye(n, dtype=bool)
        for key in t:
            known = t[key].notna().to_numpy()
            joined |= (t[key].to_numpy()[:, None] == t[key].to_numpy()[None]) & known[:,
                                                                                      None] & known[None]
        for _ in range(6): joined = (joined.astype(int) @ joined.astype(int)) > 0
        ours = clusters(t)
        assert ((ours[:, None] == ours[None]) == joined).all()


def test_the_first_looks_do_not_trust_what_little_they_see():
    """Photos of eight garments with one fate, 10 % allowed: at 16 to 21 photos none lost yet, and
    nothing had shown that they go together; 9 % of runs were certified."""
    path = GatePath((Step(1., 0., 0.),), .1, .05, 0, .5, 0)
    runs, broken = 200, 0
    for seed in range(runs):
        rng = np.random.default_rng(seed)
        lost = np.repeat(rng.random(80) < .102, 8)
        amiss = lost | (rng.random(640) < .15)
        t = pd.DataFrame({'photo': np.repeat(np.arange(80), 8), 'item': np.tile(range(8), 80), 'top1': .8,
                          'margin': .1, 'primary@3': ~amiss, 'merged@3': lost | ~amiss})
        t = t.astype({'primary@3': 'boolean', 'merged@3': 'boolean'})
        broken += label_until_certain(calibration_sample(t), path).step >= 0
    assert broken <= stats.binom.ppf(.9995, runs, .05)


def like_fates(rng, loss, icc, shape, items=4):
    "Lost items a photo, with an intraclass correlation, by a beta density."
    s = 1/icc - 1
    return rng.binomial(items, rng.beta(loss*s, (1 - loss)*s, shape)).astype(float)


def test_scores_that_say_nothing_break_no_promise_at_the_first_looks():
    """All scores equal, so that every mistake is a harm and every garment is trusted: with no or one
    harm in 30 to 60 photos nothing had shown that garments go together; 12 % of runs were certified."""
    rng, runs = np.random.default_rng(1), 500
    lost, four = like_fates(rng, .0505, .6, (runs, 150)), np.full((runs, 150), 4.)
    floor = np.maximum(running_floor(lost, lost, four), trusted_floor(lost, lost, four))
    last = certified_by(fortunes(lost[:, None], four[:, None], .05, .05, floor=floor), .05)[:, -1]
    assert (last >= 0).sum() <= stats.binom.ppf(.9995, runs, .05)


def test_photos_of_one_fate_that_are_seldom_chosen_are_not_overlooked():
    """Half of a pool is chosen with a chance of .15, and only these photos lose, all four garments or
    none: the largest weight was that of a garment, not of a photo; 11 % of runs were certified."""
    rng, runs, pool = np.random.default_rng(2), 500, 800
    chance = np.where(rng.random((runs, pool)) < .5, 1, .15)
    items = np.where(rng.random((runs, pool)) < chance, 4., 0)
    lost, weight = items*(rng.random((runs, pool)) < .101)*(chance < 1), (items > 0)/chance
    floor = np.maximum(running_floor(lost, lost, items, weight), trusted_floor(lost, lost, items, weight))
    rate, n = effective_running(weight*lost, weight*items, floor, .05, squares=weight**2*items, counts=items)
    looks = (items > 0).cumsum(1) > 30
    won = ((log_fortune(rate*n, n, .05) >= np.log(20)) & looks).any(1)
    assert won.sum() <= stats.binom.ppf(.9995, runs, .05)
