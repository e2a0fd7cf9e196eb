"A gate for each kind of garment: the promise holds, and the truth of a gate is that of the generator."

import numpy as np
import pytest
from scipy import stats

from unde_recog.research.calibration import confident
from unde_recog.research.kinds import ALIKE, KINDS, compare_gates, draw_kinds, gates, judge
from unde_recog.research.simulate import truth


def test_kinds_that_are_alike_are_the_ordinary_street():
    t = draw_kinds(25_000, 3, ALIKE)
    pair = .75, .04
    sure = confident(t.top1, t.margin, *pair)
    known = truth(*pair)
    found = judge(sure, t, .05)
    assert found['trusted'] == pytest.approx(known['coverage'], abs=.01)
    assert t.harm[sure].mean() == pytest.approx(known['conditional'], abs=.005)
    assert found['right'] == pytest.approx(known['served'], abs=.01)


def test_no_way_breaks_the_promise_oftener_than_chance_allows():
    table = compare_gates(150, range(20))
    certified = table[table.way != "today's gate"].groupby('way').broken.sum()
    assert (certified <= stats.binom.ppf(1 - 1e-4, 20, .06)).all() and len(certified) == 4


def test_offsets_follow_the_labels():
    "With many labels the pooled gate trusts fewer hats than the single pair does, and more shoes."
    live, labelled, t = draw_kinds(2000, 1), draw_kinds(3000, 2), draw_kinds(5000, 3)
    found, names = gates(labelled, live, kinds=len(KINDS)), list(KINDS)
    share = {way: np.array([gate(t)[t.kind == k].mean() for k in range(len(names))])
             for way, gate in found.items()}
    ratio = share['pooled kinds']/share['single pair']
    assert ratio[names.index('hat')] < ratio[names.index('top')] < ratio[names.index('shoes')]
