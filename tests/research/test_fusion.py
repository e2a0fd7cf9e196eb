"""Whom to ask, and the weight of the booster, against brute force."""
import math
from itertools import product

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from unde_recog.contracts import Candidate, SkuKey
from unde_recog.gating import fuse
from unde_recog.research.fusion import (
    WEIGHTS,
    fallback,
    fusion_curve,
    reweighted,
    routers,
    routing_curve,
    tune_weight,
)
from unde_recog.research.quality import measures, medium_bands
from unde_recog.research.simulate import simulate_items


def column(found, name): return found[name].astype('Float64').to_numpy(float, na_value=math.nan)


# Whom to ask

def test_oracle_beats_every_router(judged_log):
    "By brute force over all ways to ask about ten garments."
    t = judged_log[2].sample(10, random_state=1)
    ways = routers(t)
    alone, asked = column(t, 'primary@3'), column(t, 'merged@3')
    values = [np.where(c, asked, alone).mean() for c in product([False, True], repeat=10)]
    assert math.isclose(ways.loc['oracle', 'recall@3'], max(values))
    gate = np.where(t.confident.astype(bool), alone, asked)
    assert math.isclose(ways.loc['gate', 'recall@3'], gate.mean()) and math.isclose(
        ways.loc['gate', 'regret'], max(values) - gate.mean()
    )
    n = int((~t.confident.astype(bool)).sum())
    coin = np.mean(
        [np.where(c, asked, alone).mean() for c in product([False, True], repeat=10) if sum(c) == n]
    )
    assert math.isclose(ways.loc['coin, asks as often', 'recall@3'], coin)


def test_routing_curve_ends(judged_log):
    t = judged_log[2]
    curve = routing_curve(t)
    assert np.allclose(
        curve.iloc[0, 1:].astype(float), column(t, 'primary@3').mean()
    ) and np.allclose(curve.iloc[-1, 1:].astype(float), column(t, 'merged@3').mean())
    assert (curve.oracle >= curve.margin - 1e-12).all()
    with pytest.raises(ValueError, match='explored items'): routers(t.assign(confident=pd.NA))


def test_fallback_counts_the_empty():
    t = pd.DataFrame(
        {
            'photo': list('aabc'),
            'final_top1': [0.2, 0.9, math.nan, 0.7],
            'final': [('x',), ('x',), (), None],
        }
    )
    assert fallback(t).value == 2/3


# The weight

def test_reweighted_is_the_pipelines_fusion():
    rng = np.random.default_rng(9)
    for _ in range(20):
        keys = [SkuKey('zara', f'{i:02d}') for i in range(12)]
        own, paid = rng.random(12).round(6), (100*rng.random(12)).round(6)
        primary, booster = (
            [Candidate(key=k, score=float(s)) for k, s in zip(keys, scores)]
            for scores in (own, paid)
        )
        entries = [
            {'brand': k.brand, 'external_id': k.external_id, 'primary': p, 'ximilar': x}
            for k, p, x in zip(keys, own, paid)
        ]
        for w in (0.0, 0.3, 0.5, 1.0):
            assert reweighted(entries, w) == [
                tuple(c.key) for c in fuse(primary, booster, weight=w)
            ]
        assert fusion_curve([entries], [keys[0]], k=12).all()


def test_half_stays_unless_rejected():
    """Eleven equally good, noisy weights: another one is taken in at most α of runs; a truly
    better one is found."""
    rng, who = np.random.default_rng(10), np.repeat(np.arange(60), 4)
    moved = sum(tune_weight(rng.random((240, 11)) < .8, who,
                            seed=i)['weight'] != .5 for i in range(200))
    assert moved <= stats.binom.ppf(.9995, 200, .05)
    assert tune_weight(rng.random((240, 11)) < np.linspace(.95, .55, 11), who)['weight'] < .5
    with pytest.raises(ValueError, match='label more photos'):
        tune_weight(np.ones((4, 11)), list('abcd'))
    assert len(WEIGHTS) == 11 and WEIGHTS[5] == .5


def test_the_fallback_share_is_that_of_the_daily_figures():
    "Each score is measured by the band of what gave it: two reports tell the same of one log."
    items, _ = simulate_items(40, 3, seed=1)
    own = items.assign(model_version='lite-colour-shape-4+balanced', reranked=False)
    for log in (items, own):
        assert fallback(log, medium_bands(log)).value == pytest.approx(measures(log).fallback.mean())
    assert fallback(own, medium_bands(own)).value < fallback(own).value
