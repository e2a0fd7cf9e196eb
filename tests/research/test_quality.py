"""Quality: averages against plain pandas, alerts against scipy and by simulation, drift against its
promise, odd logs, real PostgreSQL."""

import math
import uuid
from datetime import date, datetime, timedelta, timezone

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import settings as hyp
from hypothesis import strategies as st
from scipy import stats

from unde_recog.request_log import ItemRow, RequestRow, write_request
from unde_recog.research.drift import change_days, drift, psi
from unde_recog.research.log_rows import as_items
from unde_recog.models.registry import get_card
from unde_recog.research.quality import (
    MEASURES,
    RULES,
    STATES,
    Mean,
    Quality,
    check_quality,
    check_rule,
    clustered,
    daily,
    excess_p,
    false_alarm,
    limits_of,
    measures,
    parse_span,
    quality,
    quality_metrics_text,
    window,
)
from unde_recog.research.simulate import simulate_items

END = date(2026, 10, 30)


@pytest.fixture(scope='module')
def log():
    items, _ = simulate_items(600, (1, 6), icc=.3, seed=1)
    return items.assign(final_top1=items.final_top1**.6)


def rows(n_photos, per_photo, bad, end=END, days=1):
    "Measures of photos on the last days; `bad`: fallback of each item."
    return pd.DataFrame(
        {
            'photo': np.repeat(np.arange(n_photos), per_photo),
            'day': [
                end - timedelta(days=int(d))
                for d in np.repeat(np.arange(n_photos) % days, per_photo)
            ],
            'shape': 'items',
            'model_version': 'm',
            'gate': 0.8,
            **{m: 1.0 for m in MEASURES},
            'fallback': np.asarray(bad, float),
        }
    )


def test_daily_against_pandas(log):
    days, when = daily(log), log.created_at.dt.date
    assert days.queries.sum() == log.photo.nunique() and days['items'].sum() == len(log)
    for column, own in (
        ('score', log.top1),
        ('booster', log.boosted.astype(float)),
        ('fallback', (log.final_top1 < 0.5).astype(float)),
        ('candidates', log.candidates),
    ):
        pd.testing.assert_series_equal(
            days[column].dropna(), own.groupby(when).mean(), check_names=False, check_index=False
        )
    assert (
        daily(log.sample(frac=1, random_state=0))
        .drop(columns='basis')
        .round(9)
        .equals(days.drop(columns='basis').round(9))
    )


def test_missing_days_one_item_and_nothing(log):
    gaps = daily(log[log.created_at.dt.day % 3 == 0])
    assert (
        len(gaps) == 30
        and (gaps.queries == 0).sum() == 20
        and gaps.score[gaps.queries == 0].isna().all()
    )
    one = check_quality(log.iloc[[5]])
    assert one.days.queries.sum() == 1 and one.code in (0, 1, 2) and all(c.photos == 1 for c in one.checks)
    empty = check_quality(log.iloc[:0], until=END, reference=log)
    assert (
        empty.code == 3
        and len(empty.days) == 30
        and any('30 of 30' in n for n in empty.notes)
        and any('drift not checked' in n for n in empty.notes)
    )
    assert check_quality(as_items([]), until=END).code == 3
    old = check_quality(log, until=END + timedelta(days=20))
    assert old.code == 3 and {c.state for c in old.checks} == {'no data'}, (
        'a log that stopped weeks ago is not fine'
    )
    with pytest.raises(ValueError, match='days=0'): daily(log, 0)


def test_clustered_against_statsmodels(log):
    api = pytest.importorskip('statsmodels.api')
    y, photo = (log.final_top1 < .5).astype(float).to_numpy(), pd.factorize(log.photo)[0]
    fit = api.OLS(y, np.ones((len(y), 1))).fit(
        cov_type='cluster', cov_kwds={'groups': photo, 'use_correction': False}
    )
    k = photo.max() + 1
    m = clustered(y, photo)
    assert (
        m.n_eff < m.n
        and m.value == pytest.approx(y.mean())
        and m.se == pytest.approx(float(fit.bse[0]) * math.sqrt(k / (k - 1)))
    )


@hyp(deadline=None)
@given(st.lists(st.tuples(st.floats(-5, 5) | st.just(float('nan')), st.integers(0, 9)), max_size=60))
def test_clustered_always_holds(pairs):
    m = clustered([v for v, _ in pairs], [p for _, p in pairs])
    assert 0 <= m.n_eff <= m.n + 1e-9 and m.photos <= m.n == sum(v == v for v, _ in pairs)
    if m.photos > 1 and m.sd == 0: assert m.n_eff <= m.photos + 1e-9  # nothing varies: photos count


@pytest.mark.parametrize(
    'limit, healthy, n', [(0.15, 0.10, 40), (0.15, 0.10, 200), (0.70, 0.65, 500), (0.7, 0.65, 1)]
)
def test_false_alarm_against_counting(limit, healthy, n):
    k = np.arange(n + 1)
    assert false_alarm(limit, healthy, n) == pytest.approx(
        stats.binom.pmf(k, n, healthy)[k > limit * n + 1e-9].sum()
    )
    assert false_alarm(limit, healthy, 0) == 1


@hyp(deadline=None)
@given(st.integers(1, 300), st.data())
def test_excess_against_binomtest(n, data):
    k = data.draw(st.integers(0, n))
    m = Mean(k/n, 1, n, n, float(n))
    assert excess_p(RULES[0], m, m, 0.15) == pytest.approx(
        stats.binomtest(k, n, 0.15, 'greater').pvalue, abs=1e-9
    )


def test_the_alert_rings_as_rarely_as_it_says():
    rng, rang, naive = np.random.default_rng(0), [], []
    # garments of a photo share their fate half of the time; the truth is a healthy 10 %
    for _ in range(150):
        own, shared = rng.random((150, 4)) < .10, rng.random((150, 1)) < .10
        bad = np.where(rng.random((150, 4)) < np.sqrt(.5), shared, own)
        found = check_rule(RULES[0], rows(150, 4, bad.ravel(), days=7), END)
        rang.append(found.state == 'red')
        naive.append(bad[::7][:50].mean() > .15)  # a day's 80 items, compared without a thought
    assert np.mean(rang) < .04 < np.mean(naive)
    truly = [
        check_rule(
            RULES[0],
            rows(150, 4, np.repeat(np.random.default_rng(s).random(150) < 0.25, 4), days=7),
            END,
        ).state
        == 'red'
        for s in range(30)
    ]
    assert np.mean(truly) > .7


def test_states():
    assert check_rule(RULES[0], rows(2, 4, [1, 0, 0, 0, 0, 0, 0, 1]), END).state == 'watch'
    assert check_rule(RULES[0], rows(10, 1, [1]*10), END).state == 'red', 'few, but beyond chance'
    assert check_rule(RULES[0], rows(300, 1, [0]*300), END).state == 'ok'
    far = rows(300, 1, [1]*300, end=END - timedelta(days=7))
    assert (
        check_rule(RULES[0], far, END).state == 'no data'
        and check_rule(RULES[0], far, END - timedelta(days=1)).state == 'red'
    )
    few = window(rows(900, 1, [0]*900, days=7), 'fallback', END, 200)
    assert few.day.nunique() == 2, 'no more days than needed'
    exact = rows(1000, 1, [1]*150 + [0]*850)
    assert check_rule(RULES[0], exact, END).state == 'ok', 'above 15 %, not at'


def test_the_scores_limit_follows_the_gate(log):
    fashion = measures(log.assign(model_version='fashionclip-2.0-hf+pad', confidence_threshold=.80))
    assert limits_of(RULES[1], fashion.assign(gate=.80)) == pytest.approx(.65)
    own = measures(log.assign(model_version='classical-colour-shape-1+whole', confidence_threshold=.99))
    of_card = get_card('classical-colour-shape').threshold
    limit = limits_of(RULES[1], own)[0]
    assert limit == pytest.approx(.65/.80*of_card), "the card's gate, not the one in force"
    low = log.assign(top1=.6, model_version='classical-colour-shape-1+whole')
    assert {c.name: c.state for c in check_quality(low).checks}['primary score'] == 'ok'
    assert {c.name: c.state for c in check_quality(low, relative=False).checks}['primary score'] == 'yellow'
    unknown = check_quality(low.assign(model_version='nobody', confidence_threshold=np.nan))
    assert any('knows its gate' in n for n in unknown.notes)


def test_backends_that_do_not_ask_the_gate(log):
    dual = log.assign(
        boosted=pd.array([True] * len(log), 'boolean'),
        settings=[{'SEARCH_BACKEND': 'dual'}] * len(log),
    )
    assert {c.name: c.state for c in check_quality(dual).checks}[
        'booster'
    ] == 'no data' and check_quality(dual).code == 0


def test_psi_against_its_formula_and_promise():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=1000), rng.normal(.2, 1, 700)
    edges = np.r_[-np.inf, np.quantile(a, np.linspace(0, 1, 11))[1:-1], np.inf]
    p, q = ((np.histogram(x, edges)[0] + .5)/(len(x) + 5) for x in (a, b))
    found = psi(a, b)
    assert found.value == pytest.approx(
        ((p - q) * np.log(p / q)).sum(), rel=0.02
    ) and found.cutoff == pytest.approx((1 / 1000 + 1 / 700) * stats.chi2.ppf(0.99, 9), rel=0.01)
    rings = []
    for s in range(200):
        draw = np.random.default_rng(s)
        sample = lambda k: (
            (0.9 * draw.normal(size=(k, 1)) + np.sqrt(1 - 0.81) * draw.normal(size=(k, 4))).ravel(),
            np.repeat(np.arange(k), 4),
        )
        (x, px), (y, py) = sample(200), sample(120)
        rings.append(psi(x, y, 10, px, live_photos=py).drifted)
    assert np.mean(rings) < .04
    assert psi(['a', 'b']*200, ['a', 'c']*200).drifted and not psi(['a', 'b']*200, ['b', 'a']*200).drifted
    assert psi([3.]*50, [3.]*50).value == 0 and not psi([3.]*50, [3.]*50).drifted


@hyp(max_examples=40, deadline=None)
@given(
    st.lists(st.floats(0, 1) | st.just(float('nan')), min_size=1, max_size=80),
    st.lists(st.floats(0, 1), min_size=1, max_size=80),
)
def test_psi_never_fails(a, b):
    if all(v != v for v in a): return
    found = psi(a, b)
    assert found.value >= 0 and 0 <= found.p <= 1 and found.cutoff > 0


def test_drift_is_found_and_versions_are_kept_apart(log):
    calm, hard = (
        simulate_items(300, 4, icc=0.2, seed=s, harder=h, drift_from=0.0)[0]
        for s, h in ((5, 0.0), (6, 1.0))
    )
    assert not drift(log.iloc[:len(log)//2], log.iloc[len(log)//2:]).matters.any()
    assert (
        drift(calm, hard).loc[['top1', 'margin'], 'matters'].all()
        and not drift(calm, hard).loc['category', 'drifted']
    )
    with pytest.raises(ValueError, match='not comparable'): drift(calm, hard.assign(model_version='m2'))
    mixed = check_quality(hard, reference=calm.assign(model_version='m2'))
    assert mixed.drift is None and any('not comparable' in n for n in mixed.notes)
    fine = calm.assign(final_top1=.9)
    moved = check_quality(fine.assign(margin=calm.margin/3), reference=fine)
    assert moved.code == 1 and 'ok' in {c.state for c in moved.checks}, 'a drift that matters is yellow'


def test_change_days_finds_the_day():
    pytest.importorskip('river')
    broken, _ = simulate_items(900, 4, seed=5, harder=1.2, drift_from=.5)
    started = broken.created_at.iloc[len(broken)//2].date()
    found = change_days(broken)
    assert (
        found
        and timedelta(0) <= found[0] - started <= timedelta(days=8)
        and change_days(simulate_items(600, 4, seed=6)[0]) == []
    )


@hyp(max_examples=25, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 5),
            st.integers(0, 40),
            st.floats(0, 1) | st.none(),
            st.booleans(),
            st.integers(0, 20) | st.none(),
            st.sampled_from(['items', 'request']),
        ),
        max_size=30,
    )
)
def test_any_log_gets_an_answer(entries):
    table = as_items(
        {
            'photo': f'p{p}',
            'item': 0 if shape == 'items' else -1,
            'shape': shape,
            'created_at': datetime(2026, 10, 1, tzinfo=timezone.utc) + timedelta(days=d),
            'top1': s,
            'margin': s,
            'boosted': b,
            'tagged': b,
            'final_top1': s,
            'candidates': c,
            'match_type': 'similar',
            'model_version': 'm',
            'settings': {},
        }
        for p, d, s, b, c, shape in entries
    )
    found = check_quality(table, days=10)
    assert (
        found.code in (0, 1, 2, 3)
        and len(found.days) == 10
        and {c.state for c in found.checks} <= set(STATES)
        and len(found.table()) == len(found.checks) >= 5
    )
    if 'red' in {c.state for c in found.checks}: assert found.code == 2


def test_prometheus_reads_it(log):
    parser = pytest.importorskip('prometheus_client.parser')
    found = check_quality(log, reference=log)
    for q in (found, check_quality(log.iloc[:0], until=END)):
        samples = {
            (s.name, *sorted(s.labels.values())): s.value
            for f in parser.text_string_to_metric_families(quality_metrics_text(q))
            for s in f.samples
        }
        assert samples['unde_quality_code',] == q.code and {
            f'unde_quality_{n}' for n in ('value', 'limit', 'state')
        } <= {k[0] for k in samples}
        assert all(
            (
                samples['unde_quality_value', c.name.replace(' ', '_')]
                == pytest.approx(c.value, rel=1e-4, nan_ok=True)
            )
            for c in q.checks
        )


def test_span():
    assert parse_span('2026-09-01:2026-09-02')[1] - parse_span('2026-09-01:2026-09-02')[
        0
    ] == timedelta(days=1)
    for wrong in ('', '2026-09-01', '2026-09-02:2026-09-01', 'a:b', '2026-09-01:2026-09-01'):
        with pytest.raises(ValueError): parse_span(wrong)


def request(n, items, day):
    return RequestRow(
        id=uuid.UUID(int=n),
        items=items,
        created_at=datetime(2026, 10, day, 12, tzinfo=timezone.utc),
    )


def item(i, score, best, boosted=False):
    return ItemRow(
        item_index=i,
        category='top',
        box=[0, 0, 9, 9],
        model_version='m-1',
        match_type='similar',
        used_ximilar_booster=boosted,
        pgvector_top1_score=score,
        pgvector_margin=0.05,
        candidates_after_availability=9,
        confidence_threshold=0.7,
        gate_confident=not boosted,
        final_matches=[{'brand': 'zara', 'external_id': 'A', 'item_index': i, 'score': best}],
    )


def test_a_real_log_old_and_new(db):
    with db.connect('log') as conn:
        for n in range(60):
            write_request(
                conn, request(n + 1, [item(0, 0.8, 0.9), item(1, 0.7, 0.8, n % 2 == 0)], 1 + n % 30)
            )
    fine = quality(db, until=END)
    assert (
        fine.code == 0
        and fine.days['items'].sum() == 120
        and quality(db, until=date(2026, 9, 1)).code == 3
        and {c.name: c.value for c in fine.checks}['booster'] == pytest.approx(0.25, abs=0.05)
    )
    assert quality(db, until=END, model_version='m-2').code == 3
    with_reference = quality(db, until=END, reference=parse_span('2026-10-01:2026-10-15'))
    assert (
        with_reference.drift is not None
        and len(with_reference.drift)
        and not with_reference.drift.drifted.any()
    )
    with db.connect('log') as conn:
        conn.execute('delete from recognition_items')  # the older shape: a row a request
        conn.execute('update recognition_requests set pgvector_top1_score = .3')
    old = quality(db, until=END)
    assert (
        (old.days.basis == 'requests').all()
        and old.days['items'].sum() == 0
        and any('older shape' in n for n in old.notes)
    )
    states = {c.name: c.state for c in old.checks}
    assert states['primary score'] == 'cannot tell' and states['candidates'] == 'ok' and old.code in (0, 3)
    text = quality_metrics_text(old)
    assert 'unde_quality_state{alert="primary_score"} 3' in text and isinstance(old, Quality)


def test_the_report_on_a_real_log(db, fresh_url, tmp_path, monkeypatch):
    import json

    from unde_recog.research.report import run_report
    with db.connect('log') as conn:
        for n in range(40):
            write_request(conn, request(n + 1, [item(0, 0.8, 0.2), item(1, 0.7, 0.3)], 1 + n % 29))
    monkeypatch.setenv('DATABASE_URL', fresh_url)
    metrics = json.loads(
        (
            run_report('daily_quality', {'log': 'database', 'until': '2026-10-30'}, tmp_path)
            / 'metrics.json'
        ).read_text()
    )
    assert (
        metrics['code'] == 2
        and metrics['alerts']['fallback']['state'] == 'red'
        and metrics['n']['days without rows'] == 1
        and metrics['log'] == 'database'
    )
    assert 'imulated' not in (tmp_path/'daily_quality'/'report.md').read_text()


def test_a_file_that_does_not_say_what_was_answered_rings_no_alert():
    "Without columns final_top1 and match_type nothing is known of fallbacks: they are not 100 %."
    items = simulate_items(200, 3, seed=0)[0]
    bare = items.assign(final_top1=math.nan, match_type=None)
    state = {c.name: c.state for c in check_quality(bare).checks}
    assert state['fallback'] == 'no data' and measures(bare)['style'].isna().all()
    nothing_found = items.assign(final_top1=math.nan, match_type='none')
    assert measures(nothing_found).fallback.eq(1).all()


def test_days_of_empty_photos_are_no_older_log():
    items = simulate_items(5, 1, seed=0)[0].assign(**{'shape': 'photo', 'item': -1, 'final_top1': math.nan})
    assert 'requests' not in set(daily(items).basis)

