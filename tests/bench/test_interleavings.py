"Ten interleavings of imports, index runs and polls, with kills; `make bench` runs two hundred."

import time

import psycopg

from unde_recog.bench.interleavings import PRODUCTS, Observer, run_rounds, state_of

FINAL = {  # one product is delisted, with its two vectors
    'raw_products': PRODUCTS,
    'raw_stores': 1,
    'raw_availability': PRODUCTS,
    'sku_image_embeddings': 2 * PRODUCTS - 2,
    'embedding_failures': 0,
}


def test_ten_interleavings_end_where_an_undisturbed_run_ends(server_url):
    rounds = list(run_rounds(server_url, 10, seed=40))
    for r in rounds:
        assert r.surfaced == [] and r.lost == set() and r.differs == [], r
        assert r.rows == FINAL  # so that equal to the undisturbed one is not equal and empty
        assert r.seen == PRODUCTS and r.looks > 10  # and the observer saw all of them all the time
    ended = sum((r.outcomes for r in rounds), type(rounds[0].outcomes)())
    assert ended['killed'] > 0 and ended['done'] > 20


INSERT = """insert into sku_image_embeddings
                (brand, sku_id, image_url, image_rank, image_hash, embedding, model_version, metadata)
            values ('hm', %s, 'u', 0, repeat('a', 64), array_fill(.1::real, array[512])::vector, 'm', '{}')"""


def test_the_observer_would_notice(fresh_url):
    "A vector that is gone for a moment is seen, though the final state is the same."
    with psycopg.connect(fresh_url, autocommit=True) as conn:
        conn.execute(
            "insert into raw_products (source, external_id, brand) "
            "values ('s', 'p0', 'hm'), ('s', 'p1', 'hm')"
        )
        for sku in ('p0', 'p1'):
            conn.execute(INSERT, (sku,))
        before, observer = state_of(fresh_url), Observer(fresh_url)
        observer.start()

        def wait(n):
            ends, looks = time.monotonic() + 60, observer.looks
            while observer.looks < looks + n and time.monotonic() < ends:
                time.sleep(0.01)

        wait(3)
        conn.execute("delete from sku_image_embeddings where sku_id = 'p1'")
        assert state_of(fresh_url) != before
        wait(3)
        conn.execute(INSERT, ('p1',))
        wait(2)
    observer.end.set()
    observer.join()
    assert observer.lost == {'p1'} and state_of(fresh_url) == before
