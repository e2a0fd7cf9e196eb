"""Gate and merge under every order of ties, duplicates and missing scores, against oracles that count
in whole hundredths."""

import itertools
from dataclasses import replace
from types import SimpleNamespace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from unde_recog.contracts import Candidate, SkuKey
from unde_recog.gating import Gate, distinct, fuse, gate, thresholds
from unde_recog.settings import load_settings

METHODS = ('weighted', 'weighted_zero', 'rrf', 'max')
KEYS = [SkuKey(b, i) for b in ('bershka', 'zara') for i in ('1', '2', '3', '4')]
# the style `s` of one brand is not the `s` of the other
STYLES = dict(zip(KEYS, ['s', 's', None, 't', 's', None, 'u', 'u']))
HUNDREDTHS = st.sampled_from([0, 1, 10, 50, 79, 80, 81, 89, 90, 91, 99, 100]) | st.integers(0, 100)


def candidate(key, score, photo=''):
    return Candidate(key=key, score=score, style_id=STYLES[key], image_url=photo)


def lists(scale=100, **sizes):
    return st.lists(
        st.builds(lambda k, s: candidate(k, s / scale), st.sampled_from(KEYS), HUNDREDTHS),
        **{'max_size': 10, **sizes},
    )


PRIMARY, BOOSTER = lists(), lists(1)
EXACT = st.dictionaries(st.sampled_from(KEYS), HUNDREDTHS.map(lambda s: s / 100), max_size=4)


def best(candidates, scale=100):
    "Oracle: SKU → best score, in whole hundredths."
    found = {}
    for c in candidates: found[c.key] = max(found.get(c.key, -1), round(c.score * scale))
    return found


def said(candidates): return [(c.key, c.score) for c in candidates]


@given(PRIMARY, st.randoms())
def test_distinct_has_each_sku_once_with_its_best_score_in_any_order(found, random):
    ranked, mixed = distinct(found), found.copy()
    random.shuffle(mixed)
    assert said(distinct(mixed)) == said(ranked) == said(distinct(ranked + found))
    assert {c.key: round(c.score * 100) for c in ranked} == best(found) and len(
        {c.key for c in ranked}
    ) == len(ranked)
    assert ranked == sorted(ranked, key=lambda c: (-c.score, c.key))


def test_the_best_photo_of_a_sku_is_the_one_kept():
    photos = [candidate(KEYS[0], s, f'{s}.jpg') for s in (.2, .9, .5)]
    assert all(distinct(order)[0].image_url == '0.9.jpg' for order in itertools.permutations(photos))


@given(PRIMARY, HUNDREDTHS, HUNDREDTHS, st.randoms())
def test_the_gate_against_an_oracle_in_any_order(found, threshold, margin, random):
    verdict, mixed = gate(found, threshold / 100, margin / 100), found.copy()
    random.shuffle(mixed)
    assert gate(mixed, threshold / 100, margin / 100) == verdict
    scores = sorted(best(found).items(), key=lambda kv: (-kv[1], kv[0]))
    if len(scores) < 2:
        assert not verdict.confident and verdict.margin is None and verdict.style_margin is None
        return
    (first, top1), (_, top2) = scores[:2]
    assert verdict.confident == (top1 >= threshold and top1 - top2 >= margin)
    assert (
        round(verdict.top1 * 100) == top1
        and round(verdict.margin * 100) == top1 - top2
        and verdict.margin >= 0
    )
    others = [
        s
        for k, s in scores[1:]
        if STYLES[first] is None or (k.brand, STYLES[k]) != (first.brand, STYLES[first])
    ]
    assert (verdict.style_margin is None) == (not others) and (
        not others or round(verdict.style_margin * 100) == top1 - others[0]
    )
    assert verdict.style_margin is None or verdict.style_margin >= verdict.margin


@given(PRIMARY)
def test_more_photos_of_the_first_never_change_the_margin(found):
    assume(found)
    first = distinct(found)[0]
    for worse in (first.score, first.score / 2, 0.0):
        assert gate([*found, replace(first, score=worse)], 0.5, 0.1) == gate(found, 0.5, 0.1)


@given(PRIMARY, HUNDREDTHS)
def test_without_a_calibrated_pair_nothing_is_confident(found, number):
    for pair in ((None, None), (None, number / 100), (number / 100, None)):
        verdict = gate(found, *pair)
        assert not verdict.confident and verdict[1:] == gate(found, 0, 0)[1:]


def test_nothing_and_one_are_never_confident():
    assert gate([], 0, 0) == Gate(False) and gate([candidate(KEYS[0], 1.)] * 3, 0, 0) == Gate(False, 1.)


@pytest.mark.parametrize(
    ('top1', 'top2', 'confident'),
    [(0.9, 0.8, True), (0.8, 0.7, True), (0.8, 0.71, False), (0.79, 0.1, False), (0.8, 0.8, False)],
)
def test_the_bounds_themselves_pass(top1, top2, confident):
    "0.9 − 0.8 is less than 0.1 in binary; a person who writes 0.10 means that it passes."
    assert gate([candidate(KEYS[0], top1), candidate(KEYS[1], top2)], .8, .1).confident == confident


@given(st.lists(HUNDREDTHS, min_size=2, max_size=6))
def test_the_boosters_scale_is_judged_by_its_own_pair(scores):
    top = sorted(scores, reverse=True)
    assert gate([candidate(k, float(s)) for k, s in zip(KEYS, scores)], 80, 10).confident == (
        top[0] >= 80 and top[0] - top[1] >= 10
    )


@pytest.mark.parametrize(
    ('values', 'expected'),
    [
        ({}, (0.9, 0.05)),
        ({'CONFIDENCE_THRESHOLD': '0.7'}, (0.7, 0.05)),
        ({'MARGIN': '0'}, (0.9, 0.0)),
        ({'CONFIDENCE_THRESHOLD': '0', 'MARGIN': '1'}, (0.0, 1.0)),
    ],
)
def test_settings_win_over_the_card_each_for_itself(values, expected):
    assert thresholds(load_settings(env=values), SimpleNamespace(threshold=.9, margin=.05)) == expected


def test_an_uncalibrated_card_stays_uncalibrated():
    assert thresholds(load_settings(env={}), SimpleNamespace(threshold=None, margin=None)) == (None, None)


@given(PRIMARY, BOOSTER, EXACT, st.sampled_from(METHODS), st.randoms())
def test_a_merge_has_every_sku_once_in_any_order_of_its_lists(primary, booster, exact, method, random):
    merged = fuse(primary, booster, method, exact=exact)
    a, b = primary.copy(), booster.copy()
    random.shuffle(a)
    random.shuffle(b)
    assert said(fuse(a, b, method, exact=exact)) == said(merged)
    assert sorted(c.key for c in merged) == sorted({c.key for c in primary + booster})
    assert merged == sorted(merged, key=lambda c: (-c.score, c.key))


@given(PRIMARY, BOOSTER, EXACT, st.sampled_from(['weighted', 'weighted_zero', 'max']))
def test_measured_scores_are_kept_and_imputed_ones_are_marked(primary, booster, exact, method):
    ours, theirs = best(primary), best(booster, 1)
    for c in fuse(primary, booster, method, exact=exact):
        known = {
            'primary': ours.get(c.key, round(exact[c.key] * 100) if c.key in exact else None),
            'ximilar': theirs.get(c.key),
        }
        assert set(c.imputed) == {name for name, value in known.items() if value is None}
        if known['primary'] is not None:
            assert round(c.primary * 100) == known['primary']
        else:
            assert round(c.primary * 100) == (
                0 if method == 'weighted_zero' else min(ours.values(), default=0)
            )
        if known['ximilar'] is not None: assert c.ximilar == known['ximilar']
        else: assert c.ximilar == (0 if method == 'weighted_zero' else min(theirs.values(), default=0))


@given(PRIMARY, BOOSTER, EXACT)
def test_scores_are_what_the_formulas_say(primary, booster, exact):
    for c in fuse(primary, booster, 'weighted', exact=exact):
        assert c.score == pytest.approx(0.5 * c.primary + 0.5 * c.ximilar / 100)
    for c in fuse(primary, booster, 'max', exact=exact):
        assert c.score == pytest.approx(max(c.primary, c.ximilar / 100))
    for c in fuse(primary, booster, 'weighted', exact=exact, weight=1):
        assert c.score == pytest.approx(c.primary)


@given(PRIMARY, BOOSTER, EXACT)
def test_a_missing_score_as_zero_never_ranks_higher_than_its_bound(primary, booster, exact):
    zero = {c.key: c.score for c in fuse(primary, booster, 'weighted_zero', exact=exact)}
    for c in fuse(primary, booster, 'weighted', exact=exact):
        assert zero[c.key] <= c.score and (c.imputed or zero[c.key] == c.score)


@given(PRIMARY, BOOSTER, EXACT, st.integers(1, 100))
def test_reciprocal_ranks(primary, booster, exact, k):
    a, b = ([c.key for c in distinct(x)] for x in (primary, booster))
    for c in fuse(primary, booster, 'rrf', exact=exact, rrf_k=k):
        assert (
            c.score
            == pytest.approx(sum(1 / (k + 1 + x.index(c.key)) for x in (a, b) if c.key in x))
            and not c.imputed
        )


@given(PRIMARY, st.sampled_from(METHODS))
def test_without_the_booster_the_primarys_order_stays(primary, method):
    assert [c.key for c in fuse(primary, [], method)] == [c.key for c in distinct(primary)]


@given(BOOSTER, st.sampled_from(METHODS))
def test_without_the_primary_the_boosters_order_stays(booster, method):
    assert [c.key for c in fuse([], booster, method)] == [c.key for c in distinct(booster)]


@given(PRIMARY, BOOSTER)
def test_a_sku_that_is_better_on_both_scales_is_never_behind(primary, booster):
    ours, theirs = best(primary), best(booster, 1)
    both = ours.keys() & theirs.keys()
    for method in METHODS:
        place = {c.key: i for i, c in enumerate(fuse(primary, booster, method))}
        for x, y in itertools.permutations(both, 2):
            if ours[x] > ours[y] and theirs[x] > theirs[y]: assert place[x] < place[y]


def test_a_brand_that_the_booster_does_not_know_is_not_buried():
    """SPEC §6: what the booster did not find gets its last score under `weighted`, nothing under the
    plan's letter."""
    unknown, known = KEYS[0], KEYS[4:]
    primary = [candidate(unknown, .95), *(candidate(k, .8) for k in known)]
    booster = [candidate(k, s) for k, s in zip(known, (70., 60., 60., 60.))]
    assert (
        fuse(primary, booster, 'weighted')[0].key == unknown
        and fuse(primary, booster, 'weighted_zero')[-1].key == unknown
    )


@pytest.mark.parametrize('method', ['', 'mean', 'WEIGHTED', None])
def test_an_unknown_method_is_named(method):
    with pytest.raises(ValueError, match='FUSION'): fuse([], [], method)


@given(PRIMARY, BOOSTER, EXACT, st.sampled_from(METHODS))
def test_neither_gate_nor_merge_touches_its_input(primary, booster, exact, method):
    before = [replace(c) for c in primary], [replace(c) for c in booster], dict(exact)
    fuse(primary, booster, method, exact=exact)
    gate(primary, .8, .1)
    distinct(booster)
    assert (primary, booster, exact) == before


@given(PRIMARY)
def test_duplicates_change_nothing(found): assert gate(found, .5, .1) == gate(found + found, .5, .1)


def test_three_tied_in_every_order():
    tied = [candidate(k, .9) for k in KEYS[:3]]
    verdicts = {gate(order, .8, 0.) for order in itertools.permutations(tied)}
    assert len(verdicts) == 1 and verdicts.pop().margin == 0
