"Product texts: each is paid for once, at most ten calls are under way, and a killed run goes on."

import asyncio
from contextlib import contextmanager

import numpy as np
import pandas as pd
import pytest

from unde_recog.contracts import SkuKey
from unde_recog.db.versions import list_versions, try_version, use_version, version_in_force
from unde_recog.jobs import texts
from unde_recog.jobs.job import JobContext, run_job
from unde_recog.jobs.texts import TextOptions, plan_texts, report_texts
from unde_recog.research.feeding import TEXT_STRIKES, list_texts, run_until_done, text_audit
from unde_recog.sandbox.faults import Fault
from unde_recog.sandbox.server import App, Latency, Sandbox
from unde_recog.settings import load_settings
from unde_recog.text_vectors import TextSpace, search_texts
from unde_recog.vendors.text_source import TextSource
from unde_recog.wardrobe.world import World

VERSION = 'text-embedding-3-large-3072-p1'


class Shop:
    def __init__(self, db, app, values): self.db, self.app, self.values = db, app, values

    def context(self, **options):
        settings = load_settings(env={}, **self.values)
        chosen = TextOptions(**({'all': True, 'timeout': 30.} | options))
        return JobContext(settings=settings, db=self.db, options=chosen)

    def run(self, **options): return run_job(texts.JOB, self.context(**options))
    def audit(self): return text_audit(self.db, self.app)
    @property
    def calls(self): return self.app.calls['openai', 'embeddings']

    def sql(self, query, *values):
        with self.db.connect('catalogue') as conn: conn.execute(query, values)


@contextmanager
def open_shop(db, tmp_path, count, latency=Latency(), **more):
    with Sandbox(App(World(seed=0, skus=12), latency=latency)) as box:
        list_texts(db, count)
        values = {'UNDE_DATA_DIR': tmp_path, 'DATABASE_URL': db.urls['catalogue']}
        yield Shop(db, box.app, box.settings() | values | more)


def test_once_then_never_then_only_what_changed(db, tmp_path):
    with open_shop(db, tmp_path, 100) as shop:
        plan = plan_texts(shop.context())
        assert plan.steps == {'texts to embed': 100, 'texts to take away': 0} and '$' in str(plan)
        report = shop.run()
        assert report.done['embedded'] == 100 and report.coverage == 1 and not report.failed
        # short of the plan by no more than the white space between pieces
        assert .99 < report.details['tokens']/plan.costs['tokens'] <= 1
        assert report.details['tokens'] == shop.app.texts.tokens
        calls, audit = shop.calls, shop.audit()
        assert audit['vectors'] == 100 and audit['wrong'] == {'asked twice': 0, 'failed': 0}
        assert audit['at once'] <= 10 and audit['pieces'] > 100  # two are longer than a call takes
        assert shop.run().done['embedded'] == 0 and shop.calls == calls
        shop.sql("update raw_products set description = 'Entirely new' where external_id = 't000007'")
        assert plan_texts(shop.context()).steps['texts to embed'] == 1
        assert shop.run().done['embedded'] == 1 and shop.calls == calls + 1
        assert sum(shop.app.texts.asked.values()) == audit['pieces'] + 1


def test_a_search_finds_the_text_and_refuses_another_space(db, tmp_path):
    with open_shop(db, tmp_path, 60) as shop:
        shop.sql("update raw_products set description = 'violet umbrella' where external_id = 't000003'")
        shop.run()
        query = shop.app.texts.vector('a violet umbrella please', 3072)
        with db.connect('vectors') as conn:
            space = TextSpace(VERSION, 3072)
            hits = search_texts(conn, query, space, 5, model='text-embedding-3-large')
            assert hits[0].key == SkuKey('hm', 't000003') and len(hits) == 5
            assert search_texts(conn, query, space, 5, model='text-embedding-3-large', brands=['zara']) == []
            with pytest.raises(ValueError, match='another'): search_texts(conn, query, space, model='another')
            foreign = TextSpace(VERSION, 3072, org_id='11111111-0000-0000-0000-000000000000')
            assert search_texts(conn, query, foreign, 5, model='text-embedding-3-large') == []


def test_organisations_and_namespaces_are_apart(db, tmp_path):
    with open_shop(db, tmp_path, 5) as shop:
        other = '11111111-0000-0000-0000-000000000000'
        runs = [shop.run(**of) for of in ({}, {'org': other}, {'namespace': 'trial'}, {})]
        assert [r.done['embedded'] for r in runs] == [5, 5, 5, 0]
        with db.connect('vectors') as conn: assert [v.version for v in list_versions(conn)] == []


def test_a_version_begins_with_a_part(db, tmp_path):
    with open_shop(db, tmp_path, 200) as shop:
        assert '5% first' in str(plan_texts(shop.context(all=False)))
        first = shop.run(all=False)
        with db.connect('vectors') as conn: part = list_versions(conn, 'texts')
        assert 0 < first.done['embedded'] < 25 and part[0].partial
        assert shop.run(all=False).done['embedded'] == 200 - first.done['embedded']
        with db.connect('vectors') as conn: whole = list_versions(conn, 'texts')
        assert not whole[0].partial and shop.audit()['wrong']['asked twice'] == 0


def test_faults_cost_patience_not_money(db, tmp_path):
    with open_shop(db, tmp_path, 100) as shop:
        shop.app.faults.sometimes('openai', .5, TEXT_STRIKES, seed=1)
        report = shop.run(timeout=4.)
        while report.failed: report = shop.run(timeout=4.)
        assert shop.app.faults.played and shop.audit()['wrong'] == {'asked twice': 0, 'failed': 0}
        assert shop.audit()['vectors'] == 100 and shop.audit()['at once'] <= 10


def test_failures_are_named_and_raise_the_alarm(db, tmp_path, monkeypatch):
    monkeypatch.setattr('unde_recog.jobs.booster_send.wait_before', lambda *_: 0)
    with open_shop(db, tmp_path, 10) as shop:
        shop.app.faults.always('openai', Fault('broken_json'))
        report = shop.run()
        assert report.failed == {'bad_answer': 10} and report.exit_code == 3
        shop.app.faults.always('openai', None)
        assert shop.run().done['embedded'] == 10 and report_texts(shop.context()).failed == {}


def test_a_refused_key_ends_the_run(db, tmp_path):
    with open_shop(db, tmp_path, 10) as shop:
        shop.app.faults.always('openai', Fault('no_credit', before=True))
        assert 'stopped: no credits' in str(shop.run())
        del shop.values['OPENAI_API_KEY']
        with pytest.raises(ValueError, match='OPENAI_API_KEY'): shop.run()


def test_a_bill_above_the_limit_is_asked_about(db, tmp_path):
    with open_shop(db, tmp_path, 10) as shop:
        with pytest.raises(ValueError, match='--yes'): shop.run(ask_above=1e-6)
        assert not shop.calls and shop.run(ask_above=1e-6, yes=True).done['embedded'] == 10


def test_killed_and_run_again(db, tmp_path):
    with open_shop(db, tmp_path, 400, Latency(openai=(1., 2.))) as shop:
        options = {'all': True, 'timeout': 10}
        job = 'unde_recog.jobs.texts'
        count = {'count': lambda: shop.calls, 'total': 12}
        runs = run_until_done(job, shop.values, options, kills=1, seed=2, **count)
        audit = shop.audit()
        assert runs.killed == 1 and audit['vectors'] == 400
        # only what was under way when it was killed is asked again: at most ten calls
        assert audit['wrong']['asked twice'] <= 10*40


def test_products_that_left_leave(db, tmp_path):
    with open_shop(db, tmp_path, 20) as shop:
        shop.run()
        shop.sql("update raw_products set index_scope = 'off' where external_id < 't000003'")
        assert shop.run().done['removed'] == 3 and shop.audit()['vectors'] == 17


def test_raw_vectors_are_kept(db, tmp_path):
    pandas = pytest.importorskip('pandas')
    with open_shop(db, tmp_path, 60) as shop:
        shop.run()
        files = sorted((tmp_path/'storage'/'texts').rglob('*.parquet'))
        rows = pandas.concat(pandas.read_parquet(f) for f in files)
        assert rows.groupby('item_id').ngroups == 60 and len(rows) == shop.audit()['pieces']
        with db.connect('vectors') as conn:
            stored = dict(conn.execute("select item_id, vector from item_embeddings").fetchall())
        several = rows[rows.item_id == 't000049'].sort_values('piece')
        mean = np.stack(several.vector).mean(0)
        assert len(several) > 1
        assert np.allclose(stored['t000049'].to_numpy(), mean/np.linalg.norm(mean), atol=1e-5)


def test_half_a_catalogue_is_noticed_before_anything_is_paid(db, tmp_path):
    with open_shop(db, tmp_path, 20) as shop:
        shop.run()
        calls = shop.calls
        shop.sql("update raw_products set index_scope = 'off' where external_id < 't000012'")
        shop.sql("update raw_products set description = 'Entirely new' where external_id = 't000015'")
        with pytest.raises(ValueError, match='12 of 20.*--allow-shrink'): shop.run()
        assert shop.calls == calls and shop.audit()['vectors'] == 20
        done = shop.run(allow_shrink=True).done
        assert done['removed'] == 12 and done['embedded'] == 1 and shop.audit()['vectors'] == 8


def test_one_brand_is_no_whole_version(db, tmp_path):
    with open_shop(db, tmp_path, 40) as shop:
        shop.sql("update raw_products set brand = 'zara' where external_id < 't000010'")
        first = shop.run(brand=['zara'])
        with db.connect('vectors') as conn: part = list_versions(conn, 'texts')
        assert first.done['embedded'] == 10 and first.coverage == 1 and part[0].partial
        assert shop.run().done['embedded'] == 30
        shop.app.faults.always('openai', Fault('no_credit', before=True))
        shop.sql("update raw_products set description = description || ' anew'")
        shop.run()  # a bad night
        with db.connect('vectors') as conn: whole = list_versions(conn, 'texts')
        assert not whole[0].partial


def test_a_text_that_is_refused_costs_the_others_nothing(db, tmp_path, monkeypatch):
    with open_shop(db, tmp_path, 10) as shop:
        monkeypatch.setattr(shop.app.texts, 'limit', 40)
        shop.sql("update raw_products set description = external_id where external_id <> 't000004'")
        shop.sql("update raw_products set description = repeat('long ', 99) where external_id = 't000004'")
        report = shop.run()
        assert report.done['embedded'] == 9 and report.failed == {'refused': 1} and report.exit_code == 3
        assert shop.audit()['wrong'] == {'asked twice': 0, 'failed': 1}


def test_products_with_the_same_words_keep_their_raw_vectors(db, tmp_path):
    with open_shop(db, tmp_path, 70) as shop:
        shop.sql("update raw_products set description = 'the same'")
        shop.run()
        tables = [pd.read_parquet(p) for p in tmp_path.rglob('*.parquet')]
        assert sorted(i for t in tables for i in t.item_id) == [f't{n:06}' for n in range(70)]


SEARCHED = 'a violet umbrella please'


def near(shop, db, **settings):
    source = TextSource(load_settings(env={}, **shop.values, **({'TEXT_VECTOR_WEIGHT': .5} | settings)))
    return asyncio.run(source.search(db, SEARCHED, 3))


def test_one_more_source_of_the_search_by_words(db, tmp_path):
    with open_shop(db, tmp_path, 30) as shop:
        shop.sql("update raw_products set description = 'violet umbrella' where external_id < 't000002'")
        shop.run()
        calls = shop.calls
        assert near(shop, db, TEXT_VECTOR_WEIGHT=0) is None and shop.calls == calls
        found = near(shop, db)
        assert found.version == VERSION and shop.calls == calls + 1
        assert {c.key.external_id for c in found.candidates[:2]} == {'t000000', 't000001'}
        shop.sql("update raw_products set index_scope = 'off' where external_id = 't000000'")
        assert near(shop, db).candidates[0].key.external_id == 't000001'
        for kind in ('hang', 'server_error', 'no_credit', 'wrong_schema'):  # a search goes on without it
            shop.app.faults.always('openai', Fault(kind))
            assert near(shop, db) is None
        shop.app.faults.always('openai', None)
        del shop.values['OPENAI_API_KEY']
        assert near(shop, db) is None


def test_a_part_is_not_read_and_a_later_version_waits_to_be_tried(db, tmp_path):
    small = {'TEXT_EMBEDDING_MODEL': 'text-embedding-3-small'}
    with open_shop(db, tmp_path, 60) as shop:
        shop.run(all=False)
        assert near(shop, db) is None
        shop.run()
        shop.values |= small
        shop.run()
        new = 'text-embedding-3-small-1536-p1'
        assert near(shop, db).version == VERSION
        with db.connect('vectors') as conn: try_version(conn, new, namespace='texts')
        assert near(shop, db).version == VERSION and near(shop, db, CANARY_SHARE=1).version == new
        with db.connect('vectors') as conn: use_version(conn, new, namespace='texts')
        assert near(shop, db).version == new      # by the model that made it, whatever the setting says
        del shop.values['TEXT_EMBEDDING_MODEL']
        assert near(shop, db).version == new and shop.run().done['embedded'] == 0
        with db.connect('vectors') as conn:
            use_version(conn, VERSION, namespace='texts')
            assert version_in_force(list_versions(conn, 'texts')).version == VERSION
        assert near(shop, db).version == VERSION
