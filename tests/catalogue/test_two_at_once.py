"""Writers beside each other meet conflicts, and go through: done again, in one place."""

import threading

import psycopg
import pytest

from unde_recog.catalogue.identity import rename_brands
from unde_recog.catalogue.imports import import_products, import_stores
from unde_recog.catalogue.stock import import_availability
from unde_recog.db.connection import LOGICALS, DatabaseError
from unde_recog.db.database import Databases


def files(folder, n=40):
    "The same products, stores and stock in two orders."
    rows = [f'zara,{i},thing {i}' for i in range(n)]
    stock = [f'zara,{i % 4},{i},S|M,2026-11-20T09:00:00Z' for i in range(n)] + ['zara,1,x,S,yesterday']
    stores = [f'zara,{i},Zara,Mall {i}' for i in range(4)]
    for name, turned in (('a', False), ('b', True)):
        for kind, header, lines in (
            ('products', 'brand,external_id,name', rows),
            ('stores', 'brand,store_id,name,mall_name', stores),
            ('stock', 'brand,store_id,product_id,sizes_in_stock,fetched_at', stock),
        ):
            text = '\n'.join([header, *(lines[::-1] if turned else lines)])
            (folder / f'{kind}-{name}.csv').write_text(text + '\n')


@pytest.fixture
def strict(fresh_url):
    "A database in which writers that meet each other are always in conflict."
    with psycopg.connect(fresh_url, autocommit=True) as conn:
        (name,) = conn.execute('select current_database()').fetchone()
        conn.execute(f"alter database {name} set default_transaction_isolation to 'serializable'")
    with Databases(dict.fromkeys(LOGICALS, fresh_url)) as db:
        yield db


def test_imports_beside_each_other_on_a_strict_database(strict, tmp_path):
    files(tmp_path)
    reports, errors = [], []

    def work(kind, name):
        run = {'products': import_products, 'stores': import_stores, 'stock': import_availability}[kind]
        try:
            reports.append((kind, run(strict, tmp_path / f'{kind}-{name}.csv')))
        except Exception as e:
            errors.append(f'{kind} {name}: {type(e).__name__}: {e}')

    for _ in range(3):
        threads = [
            threading.Thread(target=work, args=(k, n))
            for k in ('products', 'stores', 'stock')
            for n in 'ab'
        ]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
    assert errors == []
    for kind, report in reports:
        assert report.read == report.inserted + report.updated + report.unchanged + report.rejected
        assert report.rejected == (kind == 'stock')  # counted once, however often it was done again
    for kind, count in (('products', 40), ('stores', 4), ('stock', 40)):
        assert sum(r.inserted for k, r in reports if k == kind) == count
    for name in 'ab':
        assert len((tmp_path / f'stock-{name}.rejects.csv').read_text().splitlines()) == 2


def test_what_is_done_again_begins_anew(db, tmp_path, monkeypatch):
    "A conflict at the very end: the next try writes everything once, and the rejects file as well."
    files(tmp_path)
    import unde_recog.catalogue.stock as stock

    tries, real = [], stock.orphans

    def orphans(conn, name):
        tries.append(name)
        if len(tries) == 1:
            raise psycopg.errors.DeadlockDetected('planted')
        return real(conn, name)

    monkeypatch.setattr(stock, 'orphans', orphans)
    report = import_availability(db, tmp_path / 'stock-a.csv')
    assert len(tries) == 2 and (report.read, report.inserted, report.rejected) == (41, 40, 1)
    assert len((tmp_path / 'stock-a.rejects.csv').read_text().splitlines()) == 2


def test_a_conflict_without_end_is_named(db, monkeypatch):
    monkeypatch.setattr('unde_recog.db.connection.time.sleep', lambda s: None)
    calls = []

    def work(conn):
        calls.append(conn)
        raise psycopg.errors.SerializationFailure('planted')

    with pytest.raises(DatabaseError, match='other writers'):
        db.write('catalogue', work)
    assert len(calls) == 8


def test_brands_are_renamed_beside_an_import(strict, tmp_path):
    files(tmp_path)
    import_products(strict, tmp_path / 'products-a.csv')
    errors = []

    def rename(pair):
        try:
            rename_brands(strict, dict([pair]))
        except Exception as e:
            errors.append(f'{type(e).__name__}: {e}')

    threads = [threading.Thread(target=rename, args=(p,)) for p in (('zara', 'zara_a'), ('zara', 'zara_a'))]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert errors == []
    with strict.connect('catalogue') as conn:
        assert conn.execute('select distinct brand from raw_products').fetchall() == [('zara_a',)]
