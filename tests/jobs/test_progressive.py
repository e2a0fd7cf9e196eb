"Progressive ingestion: what the rule says and no more, and what the paid images changed."

import json
import uuid
from datetime import datetime, timedelta, timezone

import pytest

from unde_recog.contracts import SkuKey
from unde_recog.jobs import progressive
from unde_recog.jobs.booster_ledger import Outcome, write_outcomes
from unde_recog.jobs.job import JobContext, run_job
from unde_recog.jobs.progressive import ProgressiveOptions, plan_progressive, report_progressive
from unde_recog.settings import load_settings

NOW = datetime.now(timezone.utc)


@pytest.fixture
def context(db):
    views = json.dumps([f'{n}.jpg' for n in range(6)]), json.dumps(['front']*6)
    with db.connect('catalogue') as conn:
        for n, scope, status, target in [
            (1, 'pilot', 'synced', 2), (2, 'pilot', 'synced', 2), (3, 'pgvector', 'pending', 2),
            (4, 'pilot', 'synced', 5), (5, 'pilot', 'synced', 2),
        ]:
            conn.execute(
                """insert into raw_products (source, external_id, brand, image_urls, image_views,
                    image_status, index_scope, ximilar_status, ximilar_target_count, ximilar_synced_urls)
                values ('t', %s, 'hm', %s, %s, 'uploaded', %s, %s, %s, '["0.jpg", "1.jpg"]')""",
                (str(n), *views, scope, status, target))
    return JobContext(settings=load_settings(env={}), db=db, options=ProgressiveOptions())


def see(db, sku, times, score, *, at=NOW, judged=True, **columns):
    "`times` garments for which a product was compared (or only listed)."
    match = {'brand': 'hm', 'external_id': sku, 'score': score, **({'visual': score} if judged else {})}
    values = {'final_matches': json.dumps([match]), 'reranked': judged, **columns}
    with db.connect('log') as conn, conn.transaction():
        for _ in range(times):
            rid = uuid.uuid4()
            conn.execute('insert into recognition_requests (id) values (%s)', (rid,))
            conn.execute(
                f"""insert into recognition_items (request_id, item_index, category, box, match_type,
                    model_version, created_at, {', '.join(values)})
                values (%s, 0, 'top', '[0,0,1,1]', 'similar', 'm', %s, {', '.join(['%s']*len(values))})""",
                (rid, at, *values.values()))


def targets(db):
    with db.connect('catalogue') as conn:
        query = 'select external_id, ximilar_target_count, ximilar_status from raw_products order by 1'
        rows = conn.execute(query).fetchall()
    return {sku: (target, status) for sku, target, status in rows}


def test_the_rule_and_no_more(db, context):
    see(db, '1', 6, .69)  # often, and doubted
    see(db, '2', 5, .1)  # not often enough
    see(db, '3', 9, .1)  # not the booster's
    see(db, '4', 9, .1)  # has its target
    see(db, '5', 9, .71)  # believed
    see(db, '2', 9, .1, at=NOW - timedelta(days=8))  # too long ago
    see(db, '5', 90, .1, judged=False)  # listed, never compared
    plan, before = plan_progressive(context), targets(db)
    assert plan.steps == {'products to widen': 1, 'images for the next sync': 3}
    assert plan.costs['credits'] == 30 and 'not in the scope pilot' in str(plan)
    report = run_job(progressive.JOB, context)
    assert report.done == {'products widened': 1}
    assert targets(db) == before | {'1': (5, 'partial')}
    assert plan_progressive(context).total == 0
    assert run_job(progressive.JOB, context).done == {'products widened': 0}


def test_exactly_seven_tenths_is_believed(db, context):
    see(db, '1', 3, .6)
    see(db, '1', 3, .8)
    assert plan_progressive(context).total == 0
    see(db, '1', 1, .69)
    assert plan_progressive(context).steps['products to widen'] == 1


def test_before_and_after_the_paid_images(db, context):
    switch = NOW - timedelta(days=10)
    own = lambda n: json.dumps([{'brand': 'hm', 'external_id': f'{n}'}])
    for n in (1, 2, 5):
        with db.connect('catalogue') as conn:
            times = [NOW - timedelta(days=60), NOW - timedelta(days=60), switch]
            write_outcomes(conn, [
                Outcome(SkuKey('hm', str(n)), f'{i}.jpg', 'acknowledged', 10, {'at': at.isoformat()})
                for i, at in enumerate(times)
            ])
        shown = {'pgvector_list': own(n), 'used_ximilar_booster': True}
        see(db, str(n), 10, .5, at=switch - timedelta(days=3), ximilar_list=own('other'), **shown)
        see(db, str(n), 2, .5, at=switch - timedelta(days=3), ximilar_list=own(n), **shown)
        see(db, str(n), 6, .8, at=switch + timedelta(days=3), ximilar_list=own(n), **shown)
        see(db, str(n), 6 - n, .5, at=switch + timedelta(days=3), ximilar_list=own('other'), **shown)
        listed = {'ximilar_list': own(n), 'pgvector_list': own(n)}
        see(db, str(n), 9, .5, at=switch + timedelta(days=3), **listed)  # not asked
    report = report_progressive(context)
    gain = report.details['gain']
    assert gain['before'] == pytest.approx(6/36) and gain['after'] == pytest.approx(18/28)
    assert 0 < gain['low'] < gain['difference'] < gain['high'] and report.details['asked'] == (36, 28)
    assert 'found by the booster: 16.7% of 36 before, 64.3% of 28 after' in str(report)
