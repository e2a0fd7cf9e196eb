"Gate and merge under every order of ties, duplicates and missing scores."
import math
from itertools import permutations

from hypothesis import given
from hypothesis import strategies as st

from unde_recog.contracts import Candidate, SkuKey
from unde_recog.gating import distinct, fuse, gate

keys = st.builds(SkuKey, st.sampled_from(['hm', 'zara']), st.sampled_from('abcdef'))
scores = st.one_of(st.sampled_from([0., .5, .8, .9, 1.]), st.floats(0, 1, allow_nan=False))


@st.composite
def candidates(draw, most=8):
    return [Candidate(k := draw(keys), s := draw(scores), primary=s, style_id=draw(st.sampled_from([None, 's1', 's2'])) if k.external_id < 'd' else None) for _ in range(draw(st.integers(0, most)))]


@st.composite
def boosted(draw, most=8): return [Candidate(draw(keys), s := draw(st.sampled_from([0., 40., 80., 95., 100.])), ximilar=s) for _ in range(draw(st.integers(0, most)))]


def best(group):
    found = {}
    for c in group: found[c.key] = max(found.get(c.key, -1.), c.score)
    return found


@given(candidates(), st.randoms())
def test_distinct_is_each_sku_once_with_its_best_score_in_any_order(group, rng):
    shuffled = group[:]
    rng.shuffle(shuffled)
    once = distinct(group)
    assert {c.key: c.score for c in once} == best(group) and len({c.key for c in once}) == len(once)
    assert [(c.key, c.score) for c in once] == [(c.key, c.score) for c in distinct(shuffled)]
    assert all(a.score >= b.score for a, b in zip(once, once[1:]))


@given(candidates(), scores, st.sampled_from([0., .05, .1, .5]), st.randoms())
def test_gate_by_its_definition(group, threshold, margin, rng):
    shuffled = group[:]
    rng.shuffle(shuffled)
    verdict, ranked = gate(group, threshold, margin), sorted(best(group).values(), reverse=True)
    again = gate(shuffled, threshold, margin)
    assert (verdict.confident, verdict.top1, verdict.margin) == (again.confident, again.top1, again.margin)
    assert verdict.top1 == (ranked[0] if ranked else None)
    assert verdict.margin == (ranked[0] - ranked[1] if len(ranked) > 1 else None)
    assert verdict.confident == (len(ranked) > 1 and ranked[0] >= threshold and ranked[0] - ranked[1] >= margin)
    if verdict.margin is not None: assert verdict.margin >= 0
    if verdict.style_margin is not None: assert verdict.style_margin >= verdict.margin
    assert not gate(group, None, None).confident


@given(candidates())
def test_duplicates_change_nothing(group):
    assert gate(group, .5, .1) == gate(group + group, .5, .1)


def test_ties_in_every_order():
    tied = [Candidate(SkuKey('hm', x), .9, style_id='s' if x < 'c' else None) for x in 'abc']
    verdicts = {gate(list(p), .8, .0) for p in permutations(tied)}
    assert len(verdicts) == 1 and verdicts.pop().margin == 0


@given(candidates(), boosted(), st.sampled_from(['weighted', 'weighted_zero', 'rrf', 'max']), st.dictionaries(keys, scores), st.randoms())
def test_fuse_is_a_permutation_of_the_union(primary, booster, method, exact, rng):
    merged = fuse(primary, booster, method, exact=exact)
    assert {c.key for c in merged} == {c.key for c in primary + booster} and len({c.key for c in merged}) == len(merged)
    assert all(a.score >= b.score for a, b in zip(merged, merged[1:])) and all(math.isfinite(c.score) for c in merged)
    p, b = primary[:], booster[:]
    rng.shuffle(p); rng.shuffle(b)
    assert [(c.key, c.score) for c in fuse(p, b, method, exact=exact)] == [(c.key, c.score) for c in merged]


@given(candidates(), boosted(), st.dictionaries(keys, scores))
def test_weighted_by_an_independent_sum(primary, booster, exact):
    own, boost = best(primary), best(booster)
    for method, last_p, last_b in (('weighted', min(own.values(), default=0.), min(boost.values(), default=0.)), ('weighted_zero', 0., 0.)):
        for c in fuse(primary, booster, method, exact=exact):
            p = own.get(c.key, exact.get(c.key, last_p) if c.key in boost else last_p)
            x = boost.get(c.key, last_b)
            assert math.isclose(c.score, .5*p + .5*x/100, abs_tol=1e-9), method
            marks = {n for n, known in (('primary', c.key in own or (c.key in boost and c.key in exact)), ('ximilar', c.key in boost)) if not known}
            assert set(c.imputed) == marks


@given(candidates(), boosted())
def test_zero_never_beats_the_bound(primary, booster):
    zero = {c.key: c.score for c in fuse(primary, booster, 'weighted_zero')}
    for c in fuse(primary, booster, 'weighted'): assert c.score >= zero[c.key] - 1e-12


@given(candidates(), boosted())
def test_rrf_by_its_formula(primary, booster):
    ranks = [{c.key: i for i, c in enumerate(distinct(g), 1)} for g in (primary, booster)]
    for c in fuse(primary, booster, 'rrf'): assert math.isclose(c.score, sum(1/(60 + r[c.key]) for r in ranks if c.key in r))
