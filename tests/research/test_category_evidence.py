"""Category evidence: chances against counts by hand, and the package's own table."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unde_recog.contracts import ASSETS, CATEGORIES
from unde_recog.evidence import parse_evidence
from unde_recog.models.detector import Found
from unde_recog.research.category_evidence import (
    EDGES,
    Pairing,
    category_evidence,
    choose_strength,
    evidence_counts,
    given_pairs,
    pair_finds,
    smooth_row,
    write_category_evidence,
)

KINDS = [c for c in CATEGORIES if c != 'other']


ROWS = st.tuples(st.sampled_from(KINDS), st.floats(0, 1), st.sampled_from([*KINDS, None]))


@settings(max_examples=40, deadline=None)
@given(st.lists(ROWS, max_size=60))
def test_a_table_is_a_table_of_chances_whatever_was_found(rows):
    made = category_evidence([Pairing(*r) for r in rows], 10, data='made up', date='2026-11-28')
    table = parse_evidence(json.dumps(made))  # raises unless all chances are above 0 and sum to 1
    assert set(table.rows) == set(KINDS) and len(table.edges) == len(EDGES)
    counts = evidence_counts(Pairing(*r) for r in rows)
    assert sum(c.sum() for c in counts.values()) == pytest.approx(len(rows))


def test_many_finds_say_what_they_say_and_few_lean_on_the_others():
    many = [Pairing('dress', .4, 'dress')]*700 + [Pairing('dress', .4, 'outerwear')]*300
    bins = smooth_row(evidence_counts(many)['dress'], 5)
    dress, coat = CATEGORIES.index('dress'), CATEGORIES.index('outerwear')
    assert bins[0, dress] == pytest.approx(.7, abs=.01) and bins[0, coat] == pytest.approx(.3, abs=.01)
    assert np.allclose(bins[1:], bins[0], atol=.02)  # nothing was seen there


def test_a_find_on_nothing_takes_certainty_away():
    sure = smooth_row(evidence_counts([Pairing('bag', .4, 'bag')]*20)['bag'], 5)[0]
    both = [Pairing('bag', .4, 'bag')]*20 + [Pairing('bag', .4, None)]*20
    lost = smooth_row(evidence_counts(both)['bag'], 5)[0]
    assert lost[CATEGORIES.index('bag')] < sure[CATEGORIES.index('bag')]


def test_finds_lie_on_what_they_overlap_most():
    truth = [((0, 0, 100, 100), 'top'), ((50, 0, 150, 100), 'outerwear')]
    finds = [Found((40, 0, 140, 100), 'top', .6, ''), Found((0, 0, 20, 20), 'hat', .6, '')]
    assert [p.truth for p in pair_finds(finds, truth)] == ['outerwear', None]
    assert pair_finds(finds, [])[0].truth is None and len(given_pairs(truth)) == 2
    with pytest.raises(ValueError, match='nothing to choose'): choose_strength(given_pairs(truth), [])


def test_the_package_s_own_table(tmp_path):
    path = ASSETS/'category_evidence.json'
    table = parse_evidence(path.read_text('utf-8'))
    assert 'street-garments' in table.data and table.date
    for category in KINDS:
        sure, unsure = table.probabilities(category, 1.), table.probabilities(category, .3)
        assert max(sure, key=sure.get) == max(unsure, key=unsure.get) == category
        assert sure[category] >= unsure[category]
    assert table.probabilities('top', .4)['outerwear'] > .1  # what is confused keeps its chance
    made = json.loads(path.read_text('utf-8'))
    assert write_category_evidence(made, tmp_path/'again.json').read_text() == path.read_text('utf-8')
