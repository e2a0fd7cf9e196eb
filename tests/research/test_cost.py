"""Cost: the plan's table, its contradictions, usage and forecasts against other ways of computing
them, and what must not be told."""

import json
import uuid
from datetime import datetime, timezone

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import settings as hyp
from hypothesis import strategies as st
from scipy import stats

from unde_recog.research.booster_value import extra_right, extra_right_table, pair_for, way
from unde_recog.research.cost import (
    PLAN_USERS,
    Range,
    contradictions,
    cost_prices,
    credits,
    euros,
    falling_total,
    forecast,
    long,
    mall_sizing,
    photo_credits,
    plan_table,
    printed,
    reconcile,
    rising_price,
    short,
    tag_all_break_even,
    token_dollars,
    usage,
)
from unde_recog.research.records import outcomes
from unde_recog.research.report import run_report
from unde_recog.research.simulate import simulate_items


@pytest.fixture(scope='module')
def log(): return simulate_items(200, (1, 6), icc=.3, seed=1, explore=.1)[0]


@pytest.fixture(scope='module')
def judged(): return outcomes(*simulate_items(200, (1, 6), icc=.3, seed=2, backend='dual'))


def test_the_plans_table_cell_by_cell():
    assert plan_table().equals(printed('costs'))
    for users in PLAN_USERS:  # written out once more, by hand
        r = users*8
        assert credits(r, 3, 1, .5, images=10_000).total == 5*r + 10*r*3 + 15*r*3*.5 + 100_000


@hyp(deadline=None)
@given(st.floats(0, 1e6), st.floats(0, 8), st.floats(0, 1), st.floats(0, 1), st.integers(0, 10**6))
def test_credits_are_linear(photos, items, boosted, tagged, images):
    bill, twice = (
        credits(photos, items, boosted, tagged, images=images),
        credits(2 * photos, items, boosted, tagged, images=2 * images),
    )
    assert (
        twice.total == pytest.approx(2 * bill.total)
        and bill.total == pytest.approx(sum(bill))
        and min(bill) >= 0
    )
    assert credits(photos, items, 1, tagged, images=images).total >= bill.total - 1e-6


@hyp(deadline=None)
@given(st.integers(0, 99_900_000))
def test_short_and_long(n):
    assert abs(long(short(n)) - n) <= max(.5, .05*10**(6 if n >= 1e6 else 3 if n >= 1e3 else 0)*1.01)
    assert short(long(short(n))) == short(n) or n >= 999_950  # 999.96K may be written 1000K


@hyp(deadline=None)
@given(st.floats(0, 5e7), st.floats(0, 5e7), st.booleans())
def test_euros_rise_and_keep_their_order(a, b, once):
    low, high = sorted((a, b))
    x, y = euros(low, once), euros(high, once)
    assert x.low <= x.high and x.low <= y.low + 1e-9 and x.high <= y.high + 1e-9


@pytest.mark.parametrize(
    'change, said',
    [
        (lambda t: t.pop('euros_once'), 'euros_once missing'),
        (lambda t: t['euros_a_month'].reverse(), 'must rise'),
    ],
)
def test_a_broken_price_file_is_named(tmp_path, change, said):
    table = json.loads(json.dumps(cost_prices()))
    change(table)
    (tmp_path/'mine.json').write_text(json.dumps(table))
    with pytest.raises(ValueError, match=said): cost_prices(tmp_path/'mine.json')
    (tmp_path/'mine.json').write_text('{')
    with pytest.raises(ValueError, match='mine.json'): cost_prices(tmp_path/'mine.json')


def test_consistent_prices_have_no_contradiction():
    flat = {
        **cost_prices(),
        'euros_a_month': [[c, c / 5000, c / 4000] for c in (380_000, 1_500_000, 9_300_000)],
        'euros_once': [[c, c / 4000] for c in (50_000, 500_000)],
    }
    assert rising_price(flat) == [] and falling_total(flat) == []
    found = contradictions()
    assert {'940K once and 1M once', '2M once and 2.4M a month'} <= set(found['where']) and found[
        'off by'
    ][0] == 'exact'
    changed = {**cost_prices(), 'euros_a_month': [[380_000, 101, 150], *cost_prices()['euros_a_month'][1:]]}
    assert contradictions(changed)['off by'][0] == '1 cells'


def test_tag_all_breaks_even():
    n = tag_all_break_even()
    assert credits(1, np.floor(n), 0, 1).total < 60 < credits(1, np.ceil(n), 0, 1).total


def test_usage_against_plain_pandas(log):
    use = usage(log)
    assert use.value['items a photo (K)'] == pytest.approx(len(log)/log.photo.nunique())
    for name, column in (
        ('sent to the booster (B)', 'boosted'),
        ('explored', 'explored'),
        ('tokens an item', 'tokens'),
    ):
        assert use.value[name] == pytest.approx(log[column].astype(float).mean())
    older = log.head(40).assign(shape='request', item=-1, boosted=True, tokens=np.nan)
    assert usage(pd.concat([log, older])).equals(use), 'rows a request say nothing about an item'
    assert (
        usage(log.iloc[:0])['n'].eq(0).all()
        and usage(log.assign(tokens=np.nan)).value.isna()['tokens an item']
    )


def test_usage_intervals_cover_clustered_truth():
    def made(seed):  # garments of a photo share their fate
        fate = np.random.default_rng(seed).random(60) < .4
        return pd.DataFrame(
            {
                'photo': np.repeat(np.arange(60), 4),
                'boosted': np.repeat(fate, 4),
                'tagged': False,
                'explored': False,
                'tokens': 0.0,
                'credits': 0.0,
            }
        )

    hits = [
        (lambda u: u.low <= 0.4 <= u.high)(usage(made(s), draws=300).loc['sent to the booster (B)'])
        for s in range(80)
    ]
    # 95 % in the long run; taking items for independent would cover about two thirds
    assert np.mean(hits) > .85


def test_forecast(log):
    each = photo_credits(log)
    assert (
        each.sum()
        == 5 * log.photo.nunique()
        + 10 * (log.boosted.sum() + log.explored.sum())
        + 15 * log.tagged.sum()
    )
    ahead = forecast(log, (100, 1000, 10_000))
    assert ahead.credits.tolist() == pytest.approx([u*8*each.mean() for u in (100, 1000, 10_000)])
    width = (ahead.high - ahead.low)/ahead.credits
    # chance averages out, ignorance does not
    assert width.is_monotonic_decreasing and width.iloc[-1] > 3.5*each.std()/np.sqrt(len(each))/each.mean()
    with pytest.raises(ValueError, match='no items'): forecast(log.iloc[:0])
    assert forecast(log[log.photo == log.photo.iloc[0]], (10,)).high.notna().all()


def test_a_forecast_knows_that_some_users_send_most_photos():
    """One of 60 users sends three photos in ten: the 95 % interval held in 78 % of months before."""
    def month(rng):
        photos = rng.poisson(8, 60) + 1
        photos[0] = int(.43*photos[1:].sum())
        who, share = np.repeat(np.arange(60), photos), rng.beta(.8, .8, 60)
        photo = np.repeat(np.arange(len(who)), 3)
        return pd.DataFrame({'photo': photo, 'item': np.tile(range(3), len(who)), 'user_id': who[photo],
                             'shape': 'items', 'boosted': rng.random(len(photo)) < share[who[photo]],
                             'tagged': False, 'explored': False})
    runs = 150
    held = 0
    for seed in range(runs):
        rng = np.random.default_rng(seed)
        log, after = month(rng), month(rng)
        row = forecast(log, [60], log.photo.nunique()/60, draws=400, seed=seed).iloc[0]
        held += row.low <= photo_credits(after).sum() <= row.high
    assert held >= stats.binom.ppf(.005, runs, .92)


def test_reconcile_sees_what_was_not_billed(log):
    assert reconcile(log)['difference'] == 0
    assert reconcile(log.assign(credits=0.))['difference'] == -reconcile(log)['formula']


@hyp(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0, 1), st.floats(0, 0.5)), min_size=1, max_size=60),
    st.lists(st.floats(0, 1), min_size=2, max_size=6),
)
def test_pairs_are_nested(scores, shares):
    table = pd.DataFrame(scores, columns=['top1', 'margin'])
    before = pd.Series(True, table.index)
    for b in sorted(shares):
        t, m = pair_for(table, b)
        home = (table.top1 >= t) & (table.margin >= m)
        assert not (home & ~before).any(), 'an item that went to the booster came home at a higher share'
        before = home


@pytest.mark.parametrize('b', [.1, .35, .5, .9])
def test_a_wanted_share_is_met(judged, b):
    t, m = pair_for(judged, b)
    assert abs(1 - ((judged.top1 >= t) & (judged.margin >= m)).mean() - b) < .02 + 2/len(judged)


def test_ends_of_the_way(judged):
    steps = way(judged, draws=100)
    assert (
        steps.right.iloc[0] == judged['merged@3'].astype(float).mean()
        and steps.right.iloc[-1] == judged['primary@3'].astype(float).mean()
    )
    assert steps.credits.iloc[0] == pytest.approx(
        credits(8000, len(judged) / judged.photo.nunique()).search
    ) and (steps.change.iloc[0], steps.credits.iloc[-1]) == (0, 0)
    assert steps.B.is_monotonic_decreasing


def test_what_the_booster_never_saw_is_not_told():
    seen = outcomes(*simulate_items(150, 4, seed=3))  # conditional: confident items have no merged list
    steps = way(seen, draws=50)
    live = float((~seen.confident).mean())
    known = steps[steps.right.notna()]
    assert (
        known.B.max() < live + 0.1
        and (steps[steps.B > live + 0.1].unknown > 0).all()
        and steps.right.notna().iloc[-1]
        and steps.change.isna().all()
    )
    assert len(way(seen.iloc[:0], draws=10)) == 21 and way(
        seen.iloc[:1], shares=[0], draws=10
    ).right.iloc[0] in (0.0, 1.0)


def test_extra_right_by_hand():
    table = pd.DataFrame(
        {
            'photo': list('aabbcc'),
            'primary@3': [True, False, False, False, True, True],
            'merged@3': [True, True, True, False, False, None],
            'top1': 0.5,
            'margin': 0.1,
        }
    ).astype({'primary@3': 'boolean', 'merged@3': 'boolean'})
    found = extra_right(table, np.ones(6, bool))
    assert (
        found.per_thousand.value == pytest.approx(1000 * (1 + 1 - 1) / 5 / 10)
        and found.credits_each == pytest.approx(50)
        and found.most_credits_each == float('inf')
    )
    none = extra_right(table, np.zeros(6, bool))
    assert np.isnan(none.per_thousand.value) and none.credits_each == float('inf')


def test_extra_right_adds_up(judged):
    t = extra_right_table(judged, shares=(.3, .6, 1.), draws=50)
    gains = [p*n for p, n in zip(t['next: right per 1,000 credits'], np.diff(t['items'], prepend=0))]
    assert sum(gains) == pytest.approx(t['all: right per 1,000 credits'].iloc[-1]*len(judged))


def test_sizing_and_tokens():
    assert (
        mall_sizing({'a': 10}, {'a': 99}).loc['all', 'credits'] == 0
        and mall_sizing({}).loc['all', 'images'] == 0
    )
    assert mall_sizing({'a': 2500, 'b': 0}).loc['a', 'euros'] == 15
    with pytest.raises(ValueError, match='no price'): token_dollars(10, 'nobody-9')
    assert isinstance(token_dollars(0), Range) and token_dollars(0) == (0, 0)


def test_the_report_reads_a_real_log(db, fresh_url, tmp_path, monkeypatch):
    from unde_recog.request_log import ItemRow, RequestRow, write_request
    entry = lambda n: {'brand': 'zara', 'external_id': f'S{n}', 'item_index': 0, 'score': .9 - n/100}
    with db.connect('log') as conn:
        for n in range(12):
            items = [
                ItemRow(
                    item_index=i,
                    category='top',
                    box=[0, 0, 9, 9],
                    model_version='m-1',
                    match_type='similar',
                    used_ximilar_booster=i == 0,
                    used_ximilar_tagging=i == 0,
                    pgvector_top1_score=0.5 + 0.03 * n,
                    pgvector_margin=0.01 * n,
                    gate_confident=i > 0,
                    pgvector_list=[entry(1), entry(2)],
                    ximilar_list=[entry(2)],
                    merged_list=[entry(2), entry(1)],
                    final_matches=[entry(2)],
                    confidence_threshold=0.7,
                    margin_threshold=0.05,
                    credits=30 if i == 0 else 0,
                    tokens={'prompt': 100, 'output': 20},
                )
                for i in range(1 + n % 3)
            ]
            write_request(
                conn,
                RequestRow(
                    id=uuid.UUID(int=n + 1),
                    items=items,
                    created_at=datetime(2026, 11, 1 + n, tzinfo=timezone.utc),
                ),
            )
    monkeypatch.setenv('DATABASE_URL', fresh_url)
    metrics = json.loads(
        (run_report('credit_cost', {'log': 'database'}, tmp_path) / 'metrics.json').read_text()
    )
    assert (
        metrics['n'] == {'photos': 12, 'items': 24, 'labelled': 0}
        and metrics['usage']['sent to the booster (B)']['value'] == 0.5
        and metrics['reconcile']['difference'] == 0
    )
    assert (
        metrics['usage']['tokens an item']['value'] == 120
        and 'Not told by these data' in (tmp_path / 'credit_cost' / 'report.md').read_text()
    )
