"""`certify` in worlds that its studies do not hold: sorted files, rare chances, users, hand-picked photos."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from unde_recog.research.anytime import SoFar, certified_by, fortunes, label_until_certain, path_counts
from unde_recog.research.anytime import sample_floor, sequence_upper
from unde_recog.research.calibration import GatePath, Step, calibrate, calibration_sample, confident
from unde_recog.research.calibration import declare_path
from unde_recog.research.certificate import contradictions
from unde_recog.research.certify import certify, counted, in_order_of_scores, so_far_words
from unde_recog.research.label_checks import place_notes
from unde_recog.research.label_pool import live_line
from unde_recog.research.records import outcomes
from unde_recog.research.simulate import simulate_items

KNOWN = {'date': '2026-11-30', 'data': 'drawn', 'simulated': True}


def garments(photos, seed, *, items=4, harm=0., wrong=.15):
    "A table of outcomes; `harm`: of each garment, a number or a function of the table."
    rng, n = np.random.default_rng(seed), photos*items
    z = .5*np.repeat(rng.normal(size=photos), items) + .87*rng.normal(size=n)
    t = pd.DataFrame({
        'photo': np.repeat([f'p{k:05d}' for k in range(photos)], items),
        'item': np.tile(range(items), photos),
        'top1': .6 + .1*z,
        'margin': .04*np.exp(.5*z + .6*rng.normal(size=n)),
        'model_version': 'drawn-1',
        'answer': 'answered',
    })
    harmed = rng.random(n) < (harm(t) if callable(harm) else harm)
    amiss = harmed | (rng.random(n) < wrong)
    right = {'primary@3': ~amiss, 'merged@3': np.where(harmed, True, ~amiss)}
    return t.assign(**{c: pd.array(v, 'boolean') for c, v in right.items()})


LIVE = garments(4000, 99)
PATH = declare_path(LIVE.top1, LIVE.margin, photo=LIVE.photo, labelled=1000)
FIRST = PATH.steps[0].threshold, PATH.steps[0].margin


def test_what_assumes_nothing_allows_for_every_look_too():
    """The bound for photos that share one fate was that of a single look, and could lie below the
    other; by hand: every garment is trusted and none is harmed, so a photo is one witness."""
    path = GatePath((Step(1., 0., 0.),), .05, .05, 0, .5, 0)
    c = certify(garments(120, 1), path, **KNOWN).certificate
    worth = c.photos*(stats.t.ppf(.95, c.items - 1)/stats.t.ppf(.95, c.photos - 1))**2
    assert c.no_assumption == pytest.approx(float(sequence_upper(0., worth, .05)), rel=1e-6)
    assert c.no_assumption > 1 - .05**(1/worth)   # of one look
    for chance in (None, [.3, 1.]):
        t = garments(300, 3, harm=.003)
        if chance: t['chance'] = np.resize(chance, 300).repeat(4)
        c = certify(t, PATH, **KNOWN).certificate
        assert c.no_assumption >= c.upper and contradictions(c) == []


def test_strangers_that_hold_a_certificate_back_are_named():
    t = garments(200, 4, harm=.001)
    t.loc[t['item'] == 0, 'answer'] = 'stranger'
    found = certify(t, PATH, **KNOWN)
    assert found.certificate is None and 'Strangers hold it back' in found.message
    assert 'more photos' not in found.message
    s = label_until_certain(calibration_sample(t), PATH)
    assert 'strangers hold it back' in so_far_words(s, PATH)


def test_labels_of_another_log_are_not_called_near_the_target():
    t = garments(100, 5).assign(top1=.1)
    for way in (calibrate, certify):
        message = way(t, PATH, **KNOWN).message
        assert 'trusts none of these garments' in message and 'near the target' not in message


def test_look_alikes_count_while_labelling_too():
    """The report ignored the share of look-alikes wherever photos had been chosen on the page."""
    t = garments(300, 6, harm=.004)
    plain, strict = (certify(t, PATH, look_alikes=s, **KNOWN) for s in (0., .5))
    assert strict.certificate is None or strict.certificate.photos > plain.certificate.photos
    if strict.certificate: assert strict.certificate.upper <= .5*PATH.alpha + 1e-9
    for way in (calibrate, certify):
        for share in (-.5, 1., 15.):
            with pytest.raises(ValueError, match='look_alikes'): way(t, PATH, look_alikes=share, **KNOWN)
        few = t.assign(answer=np.where(t['item'] == 0, 'stranger', 'answered'))
        with pytest.raises(ValueError, match='stranger_limit=0'): way(few, PATH, stranger_limit=0., **KNOWN)


def test_a_file_sorted_by_score_proves_nothing_on_the_way():
    """Losses lie just above the threshold: the easy photos of a sorted file certified what is not so."""
    loss = garments(4000, 7, harm=lambda t: .5*(t.top1 < .68))
    sure = confident(loss.top1, loss.margin, *FIRST)
    harmed = (~loss['primary@3'] & loss['merged@3']).to_numpy(bool)
    scale = .5*.065/harmed[sure].mean()  # truly 6.5 % of what the strictest pair trusts
    broken, runs = 0, 25
    for seed in range(runs):
        t = garments(600, 100 + seed, harm=lambda t: scale*(t.top1 < .68))
        best = t.groupby('photo').top1.transform('max')
        found = certify(t.assign(turn=(-best).rank(method='dense')), PATH, **KNOWN)
        assert 'stand in the order of their scores' in found.message
        broken += found.certificate is not None
    assert broken <= 3   # 7 of 25 before
    assert not any(in_order_of_scores(calibration_sample(garments(300, s, harm=.03))) for s in range(60))


def drawn_by_chance(seed, least, *, photos=1200):
    "Photos of two chances; only those of the lesser are harmed, at 5.1 % of what is trusted."
    rng, t = np.random.default_rng(seed), garments(photos, seed)
    rare = np.repeat(rng.random(photos) < .3, 4)
    sure = confident(t.top1, t.margin, *FIRST)
    harmed = sure & rare & (rng.random(len(t)) < .051*sure.sum()/(sure & rare).sum())
    right = (t['primary@3'] & ~harmed).to_numpy(bool)
    t = t.assign(chance=np.where(rare, least, .6), **{'primary@3': right, 'merged@3': right | harmed})
    return t[np.repeat(rng.random(photos), 4) < t.chance]


def test_losses_among_photos_that_are_seldom_chosen_are_not_overlooked():
    """Of photos with a chance of .02 none is seen for long: 15 of 40 runs were certified before."""
    runs = [drawn_by_chance(seed, .02) for seed in range(40)]
    assert sum(certify(t, PATH, **KNOWN).certificate is not None for t in runs) <= 5
    early = [t[t.photo.isin(t.photo.unique()[:80])] for t in runs]
    declared = [certify(t, PATH, least_chance=.02, **KNOWN) for t in early]
    assert not any(found.certificate for found in declared)
    with pytest.raises(ValueError, match='least_chance=0.9'): certify(runs[0], PATH, least_chance=.9, **KNOWN)


def test_photos_picked_by_hand_are_refused():
    """A blank chance was read as 1, so that photos picked for their faults, or their ease, certified."""
    log, labels = simulate_items(40, 4, seed=1, backend='dual')
    found = outcomes(log, labels.assign(chance=''))
    assert found.chance.isna().all()
    path = declare_path(log.top1, log.margin, photo=log.photo, labelled=160)
    for way in (calibrate, certify):
        with pytest.raises(ValueError, match='by hand'): way(found, path, **KNOWN)


def test_photos_of_users_are_counted_as_photos():
    """A refusal said how many more photos, and meant users; a certificate of 60 users, 60 photos."""
    t = garments(60, 8, harm=.01)
    users = t.assign(user_id=[f'u{int(p[1:])//5}' for p in t.photo])   # 12 users of five photos
    for way in (calibrate, certify):
        alone, joined = (way(x, PATH, **KNOWN) for x in (t, users))
        assert alone.certificate is None and joined.certificate is None
        assert not joined.photos_needed <= 60   # or nobody knows
    many = garments(600, 9, harm=.001)
    many['user_id'] = [f'u{int(p[1:])//3}' for p in many.photo]
    c = certify(many, PATH, **KNOWN).certificate
    assert c.clusters < c.photos == 3*c.clusters and f'{c.photos} photos count as {c.clusters}' in \
        certify(many, PATH, **KNOWN).message


def test_a_mall_that_nobody_labelled_is_named():
    t = garments(60, 10).assign(mall=lambda x: np.where(x.photo < 'p00040', 'Aviapark', 'Afimall'))
    labels = t[t.mall == 'Aviapark']
    assert 'Afimall (33% of the log)' in place_notes(t, labels)[0] and place_notes(t, t) == []


def test_the_heaviest_weight_counts_from_the_start():
    "By hand: as long as a photo of weight 10 could have come, ten items of weight 1 are worth one."
    t = garments(200, 11)
    j = calibration_sample(t)
    even, heavy = (path_counts(j, PATH).effective(sample_floor(j)[None], .05, h)[1][:, -1] for h in (1., 10.))
    assert np.all(heavy <= path_counts(j, PATH).sizes.sum(1)/10 + 1e-9) and np.all(heavy < even)
    events, sizes = (v[None] for v in (path_counts(j, PATH).events[:1], path_counts(j, PATH).sizes[:1]))
    logs = fortunes(events, sizes, .05, .05, floor=sample_floor(j)[None])
    assert certified_by(logs, .05).shape == (1, 200)


def test_photos_of_one_user_are_counted_and_named():
    "29 were labelled: the page must not say 23 photos, nor hide that they count as 23."
    s = SoFar(photos=23, labelled=27, step=-1, since=0, steps=pd.DataFrame(), more_photos=40.)
    assert counted(replace(s, labelled=23)) == '23 photos'
    assert counted(s) == '27 photos, which count as 23 (those of one user or content are one)'
    assert counted(s, 29) == ('29 photos, which count as 23 (those of one user or content are one; those '
                              'without a garment are none)')


def test_the_page_counts_what_was_labelled():
    items, labels = simulate_items(60, 3, icc=.2, seed=5, backend='dual')
    people = items.assign(user_id=[f'u{int(p[-2:]) // 2}' for p in items.photo])
    path = declare_path(people.top1, people.margin, photo=people.photo, labelled=180)
    line = live_line(people, path)(labels.assign(chance=1.))
    assert line.startswith('60 photos, which count as 30 (') and 'of those logged' in line

