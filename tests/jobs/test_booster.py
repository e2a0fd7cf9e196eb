"The booster's collection: the books agree with the vendor's, whatever happens on the way."

import asyncio
from contextlib import contextmanager

import pytest

from unde_recog.jobs import booster
from unde_recog.jobs.booster import BoosterOptions, plan_booster, report_booster
from unde_recog.jobs.job import JobContext, run_job
from unde_recog.media.storage import open_storage
from unde_recog.research.feeding import (
    booster_audit, draw_pictures, list_products, run_until_done, strike,
)
from unde_recog.sandbox.faults import Fault
from unde_recog.sandbox.server import App, Latency, Sandbox
from unde_recog.settings import load_settings
from unde_recog.wardrobe.world import World

COLLECTION = 'feeding'


@pytest.fixture(scope='module')
def world(): return World(seed=0, skus=12)


@pytest.fixture(scope='module')
def pictures(world, tmp_path_factory):
    folder = tmp_path_factory.mktemp('feeding')
    storage = open_storage(load_settings(env={}, UNDE_DATA_DIR=folder))
    return folder, draw_pictures(world, storage, 4)


class Shop:
    "A catalogue of products in the booster's scope, and a sandbox with an empty collection."

    def __init__(self, db, app, values): self.db, self.app, self.values = db, app, values

    def context(self, **options):
        settings = load_settings(env={}, **self.values)
        chosen = BoosterOptions(**({'settle': .1, 'timeout': 1.} | options))
        return JobContext(settings=settings, db=self.db, options=chosen)

    def run(self, **options): return run_job(booster.JOB, self.context(**options))
    def audit(self): return booster_audit(self.db, self.app, COLLECTION)
    def collection(self): return self.app.ximilar.collection_of(COLLECTION)

    def sql(self, query, *values):
        with self.db.connect('catalogue') as conn:
            found = conn.execute(query, values)
            return found.fetchall() if found.description else found.rowcount


@contextmanager
def open_shop(db, world, pictures, products, latency=Latency(), **more):
    folder, keys = pictures
    with Sandbox(App(world, latency=latency)) as box:
        values = box.settings() | {
            'XIMILAR_COLLECTION_ID': COLLECTION, 'UNDE_DATA_DIR': folder, 'DETECTOR_MODEL': 'whole_photo',
            'DATABASE_URL': db.urls['catalogue'], **more,
        }
        list_products(db, world, keys, products)
        yield Shop(db, box.app, values)


@pytest.fixture
def shop(db, world, pictures):
    with open_shop(db, world, pictures, 10) as opened: yield opened


def clean(audit): return not any(audit['wrong'].values())


def test_plan_run_report_and_again(shop):
    plan = plan_booster(shop.context())
    assert plan.steps['images to insert'] == 20
    assert plan.costs == {'credits': 200, 'euros': pytest.approx(.06)}
    assert 'views: 10 on_model, 10 front' in str(plan)
    report = shop.run()
    assert report.done == {'inserted': 20} and report.covered == report.total == 10 and not report.failed
    assert '200 credits booked, the account moved by 200: the same' in str(report)
    assert clean(shop.audit()) and shop.audit()['credits'] == 200
    assert {r['view'] for r in shop.collection().records.values()} == {'on_model', 'front'}
    calls = shop.app.calls['ximilar', 'insert']
    assert plan_booster(shop.context()).total == 0
    assert shop.run().done == {} and shop.app.calls['ximilar', 'insert'] == calls == 2


def test_a_bill_above_the_limit_is_asked_about(shop):
    assert '--yes' in str(plan_booster(shop.context(ask_above=100)))
    with pytest.raises(ValueError, match='200 credits.*--yes'): shop.run(ask_above=100)
    assert not shop.collection().records
    assert shop.run(ask_above=100, yes=True).done == {'inserted': 20}


def test_every_fault_and_the_books_agree(db, world, pictures):
    with open_shop(db, world, pictures, 20) as shop:
        strike(shop.app.faults, 'ximilar', share=.5, seed=3)
        for _ in range(20):
            report = shop.run()
            if not report.failed and 'stopped' not in str(report): break
        assert shop.app.faults.played and clean(shop.audit()) and shop.audit()['images'] == 40


def test_killed_and_run_again(db, world, pictures):
    with open_shop(db, world, pictures, 60, Latency(ximilar=(.2, .4))) as shop:
        values, options = shop.values, {'settle': .6}
        job, count = 'unde_recog.jobs.booster', lambda: shop.app.calls['ximilar', 'insert']
        runs = run_until_done(job, values, options, kills=2, count=count, total=12, seed=1)
        assert runs.killed == 2 and clean(shop.audit()) and shop.audit()['images'] == 120


@pytest.mark.parametrize('kind', ['hang', 'reset', 'server_error'])
@pytest.mark.parametrize('before', [True, False])
def test_what_may_have_been_sent_is_asked_about(shop, kind, before):
    shop.app.faults.script('ximilar', [None, Fault(kind, before=before)])  # the account, then an insert
    shop.sql("update raw_products set ximilar_target_count = 1 where external_id > '000004'")
    report = shop.run()
    again = report.done.get('found again', 0)
    assert clean(shop.audit()) and (again == 0 if before else again > 0)


def test_a_row_left_in_doubt_is_settled_first(shop):
    shop.run()
    shop.sql("update booster_images set state = 'sending', credits = 0 where external_id < '000003'")
    gone = shop.sql("select record_id from booster_images where external_id = '000000'")
    for (record,) in gone: del shop.collection().records[record]
    assert plan_booster(shop.context()).steps['images to ask about'] == 6
    report = shop.run()
    assert report.done == {'found again': 4, 'inserted': 2}
    wrong = shop.audit()['wrong']
    assert wrong.pop('sent twice') == 2 and wrong.pop('credits off') == -20 and not any(wrong.values())


def test_a_full_collection_ends_the_run_and_says_so(shop):
    shop.collection().capacity = 7
    report = shop.run()
    assert 'stopped: the collection is full' in str(report) and report.exit_code == 3
    assert len(shop.collection().records) == 7 and shop.audit()['wrong']['credits off'] == 0
    shop.collection().capacity = 100
    assert sum(shop.run().done.values()) == 13 and shop.audit()['images'] == 20


def test_the_budget_ends_the_run(db, world, pictures):
    with open_shop(db, world, pictures, 10, CREDIT_BUDGET=75) as shop:
        assert '75 credits are left' in str(plan_booster(shop.context()))
        report = shop.run()
        assert report.done == {'inserted': 7} and 'CREDIT_BUDGET' in str(report)
        assert shop.run().done == {} and clean(shop.audit())


def test_an_account_without_credits_ends_the_run(shop):
    shop.app.ximilar.credits_limit = 100
    assert 'stopped: no credits are left' in str(shop.run())
    shop.app.ximilar.credits_limit = 1000
    shop.run()
    assert clean(shop.audit()) and shop.audit()['images'] == 20


def test_delisted_products_leave_and_metadata_follow(shop):
    shop.run()
    shop.sql("update raw_products set index_scope = 'off' where external_id = '000001'")
    shop.sql("update raw_products set name = 'Renamed' where external_id = '000002'")
    plan = plan_booster(shop.context())
    assert plan.steps == {'images to insert': 0, 'images to ask about': 0,
                          'records to update': 2, 'records to delete': 2}
    report, inserts = shop.run(), shop.app.calls['ximilar', 'insert']
    assert report.done == {'deleted': 2, 'updated': 2} and inserts == 2
    records = shop.collection().records.values()
    assert {r['external_id'] for r in records}.isdisjoint({'000001'})
    assert [r['name'] for r in records if r['external_id'] == '000002'] == ['Renamed']*2
    assert plan_booster(shop.context()).total == 0


def test_much_of_a_collection_does_not_go_unasked(shop):
    shop.run()
    shop.sql("update raw_products set index_scope = 'off' where external_id < '000005'")
    with pytest.raises(ValueError, match='--allow-shrink'): shop.run()
    assert shop.run(allow_shrink=True).done == {'deleted': 10}


def test_a_bad_photo_makes_room_for_the_next_view(shop):
    shop.sql("""update raw_products set image_urls = jsonb_set(image_urls, '{1}', '"storage:none.jpg"')
        where external_id = '000003'""")
    report = shop.run()
    assert report.failed == {'not_found': 1} and report.covered == 10 and report.done == {'inserted': 20}
    views = {r['view'] for r in shop.collection().records.values() if r['external_id'] == '000003'}
    assert views == {'front', 'back'}
    assert report_booster(shop.context()).failed == {'not_found': 1}


def test_without_a_token_the_remedy_is_named(db, world, pictures):
    context = JobContext(settings=load_settings(env={}), db=db, options=BoosterOptions())
    with pytest.raises(ValueError, match='XIMILAR_API_TOKEN'): run_job(booster.JOB, context)


def test_what_somebody_took_out_is_sent_again_by_the_next_run(shop):
    shop.run()
    (gone,) = shop.sql("select record_id from booster_images where external_id = '000002' limit 1")[0]
    del shop.collection().records[gone]
    shop.sql("update raw_products set name = 'Renamed' where external_id = '000002'")
    report = shop.run()
    assert report.done == {'updated': 1} and report.failed == {'missing in the collection': 1}
    assert plan_booster(shop.context()).costs['credits'] == 10 and shop.audit()['synced'] == 9
    assert shop.run().done == {'inserted': 1} and shop.audit()['synced'] == 10
    assert {r['name'] for r in shop.collection().records.values() if r['external_id'] == '000002'} == {'Renamed'}


def test_an_image_that_is_refused_costs_the_others_nothing(shop, monkeypatch):
    answer = shop.app.answer
    def picky(vendor, operation, body, collection='sandbox'):
        if operation == 'insert' and b'"000004"' in body: return 400, b'{"status": {"code": 400}}'
        return answer(vendor, operation, body, collection)
    monkeypatch.setattr(shop.app, 'answer', picky)
    report = shop.run()
    assert report.failed == {'refused': 3} and report.done == {'inserted': 18}  # its third view was tried too
    assert clean(shop.audit()) and shop.audit()['credits'] == 180 and plan_booster(shop.context()).total == 0
