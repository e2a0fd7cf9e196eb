"The vendor's client against the sandbox's collection, over a socket: every call, every status."

import asyncio

import pytest

from unde_recog.contracts import SkuKey
from unde_recog.sandbox.faults import Fault
from unde_recog.sandbox.server import App, Sandbox
from unde_recog.settings import load_settings
from unde_recog.vendors.calls import Guard, Limiter, VendorError
from unde_recog.vendors.ximilar import Ximilar, reconcile
from unde_recog.vendors.ximilar_records import sku_record
from unde_recog.wardrobe.world import World

from PIL import Image


def records(*names):
    picture = Image.new('RGB', (20, 30), 'red')
    return [sku_record(SkuKey('hm', n), picture, n, category='top') for n in names]


def run(test, **account):
    "`test(client, app, collection)` on an empty collection."
    async def main():
        app = App(World(seed=0, skus=12))
        for name, value in account.items(): setattr(app.ximilar, name, value)
        with Sandbox(app) as box:
            values = box.settings() | {'XIMILAR_COLLECTION_ID': 'mine'}
            client = Ximilar(load_settings(env={}, **values), guard=Guard(limiter=Limiter(1e6, 1e6)))
            await test(client, app, app.ximilar.collection_of('mine'))
            await client.http.aclose()
    asyncio.run(main())


def codes(found): return [r.error.code if r.error else None for r in found]


def test_a_record_from_insert_to_delete():
    async def test(client, app, collection):
        a, b = records('1', '2')
        assert codes(await client.get([a['_id']])) == ['404']  # the vendor's 404, an empty list
        assert codes(await client.insert([a])) == [None]  # 210
        assert codes(await client.insert([a, b])) == ['411', None]  # 211
        assert codes(await client.insert([a, b])) == ['411', '411']  # 411
        got = await client.get([a['_id'], 'nowhere'])  # 206
        assert codes(got) == [None, '404'] and got[0].body['external_id'] == '1'
        updated = await client.update([{'_id': b['_id'], 'name': 'Hat'}, {'_id': 'nowhere'}])
        assert codes(updated) == [None, '404']
        assert collection.records[b['_id']]['name'] == 'Hat'
        assert {r['_id'] async for r in client.all_records()} == {a['_id'], b['_id']}
        assert (await client.ping())['records_count'] == 2
        assert codes(await client.delete([a['_id'], 'nowhere'])) == [None, '404']
        assert codes(await client.delete([a['_id']])) == ['404']
        assert codes(await client.delete([b['_id']])) == [None]
        assert not collection.records
        difference = reconcile(client.ledger, await client.account())[-1]
        assert difference == {'what': 'difference', 'calls': None, 'records': None, 'credits': 0}
    run(test)


def test_a_full_collection_takes_what_has_room():
    async def test(client, app, collection):
        collection.capacity = 3
        assert codes(await client.insert(records(*'12345'))) == [None]*3 + ['412']*2
        assert codes(await client.insert(records('6'))) == ['412']
    run(test)


def test_an_account_without_credits_does_nothing():
    async def test(client, app, collection):
        with pytest.raises(VendorError) as e: await client.insert(records('1', '2', '3'))
        assert e.value.kind == 'no_credit' and not collection.records
        assert (await client.account()).credits_counter == 0
        assert codes(await client.insert(records('1', '2'))) == [None, None]
    run(test, credits_limit=20)


@pytest.mark.parametrize(
    'kind', ['reset', 'server_error', 'broken_json', 'wrong_schema', 'hang', 'slow_body']
)
def test_an_insert_that_failed_is_never_sent_again_by_the_client(kind):
    async def test(client, app, collection):
        app.faults.script('ximilar', [Fault(kind, 5)])
        with pytest.raises(VendorError): await client.insert(records('1'), timeout=.5)
        (name,) = collection.records
        assert collection.sent[name] == 1 and app.calls['ximilar', 'insert'] == 1
        assert codes(await client.get([name])) == [None]  # it was done, and can be seen
    run(test)


@pytest.mark.parametrize('kind', ['rate_limited', 'no_credit', 'server_error', 'reset'])
def test_what_struck_before_the_work_cost_nothing(kind):
    async def test(client, app, collection):
        app.faults.script('ximilar', [Fault(kind, before=True)])
        with pytest.raises(VendorError): await client.insert(records('1'), timeout=2)
        assert not collection.records and (await client.account()).credits_counter == 0
    run(test)


def test_collections_are_apart():
    async def test(client, app, collection):
        await client.insert(records('1'))
        assert len(app.ximilar.collection.records) == 12 and len(collection.records) == 1
    run(test)
