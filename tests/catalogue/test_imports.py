"""Imports on a real PostgreSQL.

Faulty rows stop only themselves, a second run changes nothing, and nothing is ever half-written."""

import csv
import itertools
import json
import random
from datetime import datetime, timedelta, timezone
from decimal import Decimal

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from psycopg.rows import dict_row

from unde_recog.catalogue.imports import import_products, import_stores
from unde_recog.catalogue.stock import import_availability
from unde_recog.catalogue.reading import ReadOptions, read_table
from unde_recog.catalogue.tables import PRODUCTS, column_map
from unde_recog.catalogue.columns import read_price, read_time
from unde_recog.catalogue.values import canonical_category
from unde_recog.contracts import canonical_brand
from unde_recog.db.migrations import migrations
from unde_recog.media.images import to_jpeg
from unde_recog.media.storage import FolderStorage

HEADER = [
    'brand', 'external_id', 'style_id', 'name', 'price', 'currency', 'category', 'colour', 'sizes',
    'image_urls', 'image_views',
]


def product(n, **given):
    return {
        'brand': 'Zara', 'external_id': str(n), 'style_id': f's{n}', 'name': f'Coat {n}',
        'price': '19.95', 'currency': 'EUR', 'category': 'coat', 'colour': 'black', 'sizes': 'S|M',
        'image_urls': f'https://x/{n}.jpg|https://x/{n}b.jpg', 'image_views': 'front|back', **given,
    }


def write(path, rows, header=None, delimiter=',', encoding='utf-8'):
    with open(path, 'w', encoding=encoding, newline='') as f:
        w = csv.DictWriter(f, header or list(rows[0]), delimiter=delimiter)
        w.writeheader()
        w.writerows(rows)
    return path


def table(db, name='raw_products', order='brand, external_id'):
    with db.connect('catalogue') as conn, conn.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(f'select * from {name} order by {order}').fetchall()


def counts(report): return report.inserted, report.updated, report.unchanged, report.rejected


def rejects(report):
    if report.rejects_file is None: return []
    with open(report.rejects_file, encoding='utf-8', newline='') as f:
        return [(int(r['line']), r['column'], r['value'], r['reason']) for r in csv.DictReader(f)]


def test_a_second_run_changes_nothing(db, tmp_path):
    file = write(tmp_path/'p.csv', [product(i) for i in range(50)])
    assert counts(import_products(db, file)) == (50, 0, 0, 0)
    before = table(db)
    assert counts(import_products(db, file)) == (0, 0, 50, 0) and table(db) == before
    assert not (tmp_path/'p.rejects.csv').exists()


CHANGES = {
    'price': ('29,95', Decimal('29.95')),
    'name': ('New', 'New'),
    'colour': ('', None),
    'sizes': ('["XL"]', ['XL']),
    'image_urls': ('https://x/9.jpg|https://x/8.jpg', ['https://x/9.jpg', 'https://x/8.jpg']),
    'image_views': ('back|front', ['back', 'front']),
    'category': ('skirt', 'skirt'),
    'style_id': ('other', 'other'),
}


@pytest.mark.parametrize('column', CHANGES)
def test_a_changed_value_is_an_update_of_that_row_alone(db, tmp_path, column):
    file = write(tmp_path/'p.csv', [product(i) for i in range(5)])
    import_products(db, file)
    before = {r['external_id']: r for r in table(db)}
    given, expected = CHANGES[column]
    write(file, [product(i, **({column: given} if i == 3 else {})) for i in range(5)])
    assert counts(import_products(db, file)) == (0, 1, 4, 0)
    after = {r['external_id']: r for r in table(db)}
    assert after['3'][column] == expected and after['3']['updated_at'] > before['3']['updated_at']
    assert {k: v for k, v in after.items() if k != '3'} == {k: v for k, v in before.items() if k != '3'}
    follows = {'updated_at', column} | ({'category_canonical'} if column == 'category' else set())
    assert {k for k in after['3'] if after['3'][k] != before['3'][k]} == follows


def test_what_other_jobs_have_set_is_not_undone(db, tmp_path):
    file = write(tmp_path/'p.csv', [product(1), product(2)])
    import_products(db, file, index_scope='pilot')
    with db.connect('catalogue') as conn:
        conn.execute(
            """update raw_products set image_status = 'collage_ready', collage_url = 'collages/x.jpg',
            ximilar_status = 'synced', ximilar_target_count = 5, ximilar_synced_urls = '["u"]'"""
        )
    before = table(db)
    assert counts(import_products(db, file)) == (0, 0, 2, 0) and table(db) == before
    write(file, [product(1, price='1'), product(2, image_urls='https://x/new.jpg', image_views='')])
    assert counts(import_products(db, file)) == (0, 2, 0, 0)
    a, b = table(db)
    assert [
        (r['image_status'], r['ximilar_status'], r['index_scope'], r['ximilar_target_count'])
        for r in (a, b)
    ] == [('collage_ready', 'synced', 'pilot', 5), ('pending', 'partial', 'pilot', 5)]
    assert counts(import_products(db, file, index_scope='off')) == (0, 2, 0, 0) and {
        r['index_scope'] for r in table(db)
    } == {'off'}


def test_a_file_of_prices_alone_touches_prices_alone(db, tmp_path):
    import_products(db, write(tmp_path/'p.csv', [product(1), product(2)]), source='shop')
    before = table(db)
    assert counts(
        import_products(
            db,
            write(
                tmp_path / 'prices.csv',
                [
                    {'brand': 'zara', 'external_id': '1', 'price': '5'},
                    {'brand': 'zara', 'external_id': '2', 'price': '19.95'},
                ],
            ),
        )
    ) == (0, 1, 1, 0)
    a, b = table(db)
    assert a == before[0] | {'price': Decimal(5), 'updated_at': a['updated_at']} and b == before[1]


BAD = {
    'price': [
        ('cheap', 'no price'), ('-5', 'negative'), ('1e5', 'no price'), ('20-30', 'no price'),
        ('9' * 400, 'no price'),
    ],
    'currency': [('MONEY', 'currency'), ('¤', 'currency')],
    'sizes': [
        ('["S"', 'JSON'), ('{"a": 1}', None), ('[["S"]]', 'list of texts'),
        ('["\\u0000"]', 'cannot keep'), ('["\\ud800"]', 'cannot keep'),
    ],
    'image_views': [('front|side', "'side' is no view")],
    'external_id': [('', 'missing'), ('x' * 5000, 'columns shifted'), ('a\0b', 'cannot keep')],
    'brand': [('', 'missing'), ('—', 'missing'), ('!', 'no brand name')],
    'name': [('a\0b', 'cannot keep')],
}


def test_every_bad_row_is_named_and_the_rest_comes_in(db, tmp_path):
    rows, wanted = [], []
    for column, values in BAD.items():
        for value, reason in values:
            if reason is None: continue
            rows += [product(len(rows)), product(len(rows) + 1, **{column: value})]
            wanted.append((len(rows) + 1, column, value[:80], reason))
    file = write(tmp_path/'p.csv', [product('first', name='x' * 6000), *rows])
    wanted = [(line + 1, *rest) for line, *rest in wanted]
    report = import_products(db, file)
    assert (
        counts(report) == (len(rows) // 2 + 1, 0, 0, len(wanted))
        and report.read == len(rows) + 1
        and str(tmp_path / 'p.rejects.csv') == report.rejects_file
    )
    found = rejects(report)
    assert [r[:2] for r in found] == [w[:2] for w in wanted] and all(
        w[2].strip() == f[2] for w, f in zip(wanted, found) if '\0' not in w[2]
    )
    assert all(w[3] in f[3] for w, f in zip(wanted, found))
    assert f'{len(wanted)} rejected' in str(report) and 'p.rejects.csv' in str(report)


def test_two_faults_of_one_row_are_two_lines_and_one_reject(db, tmp_path):
    report = import_products(
        db,
        write(tmp_path / 'p.csv', [product(1, price='x', currency='y')]),
        rejects=tmp_path / 'why.csv',
    )
    assert (
        counts(report) == (0, 0, 0, 1)
        and [r[:3] for r in rejects(report)] == [(2, 'currency', 'y'), (2, 'price', 'x')]
        and report.rejects_file == str(tmp_path / 'why.csv')
        and table(db) == []
    )


def test_lines_are_counted_as_an_editor_counts_them(db, tmp_path):
    "A quoted text over several lines: the line named is the row's last."
    (tmp_path/'p.csv').write_text('brand,external_id,name,price\nzara,1,"a\nb\nc",5\nzara,2,x,cheap\n')
    report = import_products(db, tmp_path/'p.csv')
    assert rejects(report)[0][:2] == (5, 'price') and table(db)[0]['name'] == 'a b c'


def test_duplicates_in_one_file_name_the_first(db, tmp_path):
    report = import_products(
        db,
        write(
            tmp_path / 'p.csv',
            [product(1), product(2), product(1, price='7'), product(1, brand=' ZARA ', price='8')],
        ),
    )
    assert counts(report) == (2, 0, 0, 2) and [
        (r[0], r[1], 'line 2' in r[3]) for r in rejects(report)
    ] == [(4, 'external_id', True), (5, 'external_id', True)]
    assert table(db)[0]['price'] == Decimal('19.95')


def test_one_id_of_two_brands_is_two_products_but_not_of_one_source(db, tmp_path):
    file = write(tmp_path/'p.csv', [product(1), product(1, brand='H&M')])
    assert counts(import_products(db, file)) == (2, 0, 0, 0) and [
        (r['brand'], r['source']) for r in table(db)
    ] == [('hm', 'hm'), ('zara', 'zara')]
    with db.connect('catalogue') as conn: conn.execute('delete from raw_products')
    report = import_products(db, file, source='feed')
    assert (
        counts(report) == (1, 0, 0, 1)
        and rejects(report)[0][:3] == (3, 'external_id', '1')
        and 'zara' in rejects(report)[0][3]
    )
    assert (
        counts(
            import_products(
                db, write(tmp_path / 'q.csv', [product(1, brand='oysho')]), source='feed'
            )
        )
        == (0, 0, 0, 1)
        and len(table(db)) == 1
    )


@pytest.mark.parametrize(
    ('given', 'said'),
    [
        ('brand,name\nzara,x\n', "no column 'external_id'"),
        ('Brand,external-idd\nzara,1\n', 'did you mean'), ('', 'is empty'), ('  \n ', 'is empty'),
        ('brand,external_id\n', 'no rows'), ('PK\3\4\0\0\0\0', 'zip'), ('\1\0\0\2\3'*99, 'no text file'),
        ('{"products": []}', 'is JSON'), ('hello', 'no rows'),
        ('\n\n\nbrand,sku\nzara,1\n', 'no column'),
    ],
)
def test_a_file_that_cannot_be_read_says_why_and_names_itself(db, tmp_path, given, said):
    (tmp_path/'p.csv').write_text(given)
    with pytest.raises(ValueError, match=said) as e: import_products(db, tmp_path/'p.csv')
    assert 'p.csv' in str(e.value) and table(db) == []


def test_an_absent_file_and_a_folder(db, tmp_path):
    for path in (tmp_path/'none.csv', tmp_path):
        with pytest.raises(ValueError, match=str(path)): import_products(db, path)


def test_encodings_and_delimiters(db, tmp_path):
    for i, (encoding, delimiter) in enumerate(itertools.product(['utf-8', 'utf-8-sig', 'cp1252'], ',;\t|')):
        name = 'Robe d’été; “rouge”' if encoding == 'cp1252' else 'Šaty, "květinové"; été'
        file = write(
            tmp_path / 'p.csv',
            [product(i, name=name, sizes='S,M')],
            delimiter=delimiter,
            encoding=encoding,
        )
        assert counts(import_products(db, file)) == (1, 0, 0, 0)
        row = next(r for r in table(db) if r['external_id'] == str(i))
        assert (row['name'], row['sizes'], row['brand']) == (name, ['S', 'M'], 'zara')


@pytest.mark.parametrize('ending', ['\n', '\r\n', '\r'])
def test_line_endings_blank_lines_and_short_and_long_rows(db, tmp_path, ending):
    lines = [
        '',
        ',,',
        'brand,external_id,name',
        'zara,1',
        'zara,2,x,too,many',
        '',
        ',,',
        'zara,3,y',
        'zara,4,z,,',
    ]
    (tmp_path/'p.csv').write_bytes(ending.join(lines).encode())
    report = import_products(db, tmp_path/'p.csv')
    assert counts(report) == (2, 0, 0, 2) and report.exit_code == 3
    assert [r['name'] for r in table(db)] == ['y', 'z']
    assert [(r[0], r[3]) for r in rejects(report)] == [
        (4, 'has 2 cells, the header 3'), (5, 'has 5 cells, the header 3'),
    ]


def test_a_mapping_as_dictionary_and_as_file(db, tmp_path):
    rows = [{'Marke': 'Pull & Bear', 'SKU': '9', 'Preis': '€ 1.299,00', 'ignored': 'x'}]
    mapping = {'brand': 'Marke', 'external_id': 'SKU', 'price': 'Preis'}
    file = write(tmp_path/'p.csv', rows)
    (tmp_path/'m.json').write_text(json.dumps(mapping))
    assert counts(import_products(db, file, mapping=mapping)) == (1, 0, 0, 0) and counts(
        import_products(db, file, mapping=str(tmp_path / 'm.json'))
    ) == (0, 0, 1, 0)
    assert [(r['brand'], r['external_id'], r['price']) for r in table(db)] == [
        ('pull_bear', '9', Decimal(1299))
    ]
    assert counts(import_products(db, file, mapping={'external_id': 'SKU'}, brand='Oysho')) == (1, 0, 0, 0)
    for wrong, said in (
        ({'ean': 'SKU'}, "no column 'ean'"),
        ({'brand': 'Mark', 'external_id': 'SKU'}, 'did you mean Marke'),
        (str(tmp_path / 'none.json'), 'neither a file'),
        (str(file), 'no JSON'),
    ):
        with pytest.raises(ValueError, match=said): import_products(db, file, mapping=wrong)


def test_wrong_arguments(db, tmp_path):
    file = write(tmp_path/'p.csv', [product(1)])
    for wrong, said in (
        ({'index_scope': 'all'}, 'pilot'),
        ({'images': tmp_path / 'none', 'storage': FolderStorage(tmp_path)}, 'no such folder'),
        ({'images': tmp_path}, 'storage'),
    ):
        with pytest.raises(ValueError, match=said): import_products(db, file, **wrong)
    assert table(db) == []


def test_photos_of_a_folder_go_into_storage(db, tmp_path):
    photos, storage = tmp_path/'photos', FolderStorage(tmp_path/'storage')
    photos.mkdir()
    for name in ('a.jpg', 'b.jpg', 'c.jpg'):
        (photos / name).write_bytes(to_jpeg(Image.new('RGB', (8, 8), 'teal')) + name.encode())
    (tmp_path/'outside.jpg').write_bytes(b'secret')
    file = write(
        tmp_path / 'p.csv',
        [
            product(
                1,
                image_urls='a.jpg|absent.jpg|b.jpg|https://x/1.jpg|../outside.jpg|/c.jpg',
                image_views='back',
            ),
            product(2, image_urls='', image_views=''),
        ],
    )
    report = import_products(db, file, images=photos, storage=storage)
    assert counts(report) == (2, 0, 0, 0) and [r[2] for r in rejects(report)] == [
        '../outside.jpg',
        'absent.jpg',
    ]
    one, two = table(db)
    assert one['image_urls'] == [
        'storage:originals/zara/1/0.jpg', 'storage:originals/zara/1/1.jpg', 'https://x/1.jpg',
        'storage:originals/zara/1/3.jpg',
    ]
    assert one['image_views'] == ['back', 'unknown', 'unknown', 'unknown']
    # one of its photos is elsewhere: nobody has fetched it yet
    assert (one['image_status'], two['image_status']) == ('pending', 'pending')
    stored = write(tmp_path / 'stored.csv', [product(3, image_urls='a.jpg|b.jpg')])
    import_products(db, stored, images=photos, storage=storage)
    assert table(db)[2]['image_status'] == 'uploaded'
    assert storage.get('originals/zara/1/1.jpg') == (
        photos / 'b.jpg'
    ).read_bytes() and b'secret' not in [storage.get(k) for k in storage.list()]
    assert counts(import_products(db, file, images=photos, storage=storage)) == (0, 0, 2, 0)
    (photos/'a.jpg').write_bytes(b'newer bytes')
    import_products(db, file, images=photos, storage=storage)
    assert storage.get('originals/zara/1/0.jpg') == b'newer bytes'


def store(n, **given):
    return {
        'brand': 'Zara', 'store_id': f'z{n}', 'name': f'Zara {n}', 'mall_name': 'Palladium',
        'floor': str(n), 'latitude': '50,08', 'longitude': '14.43', **given,
    }


def test_columns_that_are_not_read_are_named(db, tmp_path):
    rows = [product(1) | {'Color': 'red', 'Condition': 'new'} | {f'x{n}': '' for n in range(9)}]
    for row in rows: row.pop('colour')
    (note,) = import_products(db, write(tmp_path/'p.csv', rows)).notes
    assert note == ('p.csv: columns that are not read: Color (colour?), Condition, x0, x1, x2, x3, x4, x5 '
                    'and 3 more')
    with pytest.raises(ValueError, match='did you mean id?'):
        import_products(db, write(tmp_path/'p.csv', [{'id': '1', 'item_group_id': 'g', 'brand': 'Zara'}]))
    with pytest.raises(ValueError, match='is a file; unpack it'):
        import_products(db, tmp_path/'p.csv', images=tmp_path/'p.csv', storage=FolderStorage(tmp_path/'o'))


def test_what_is_refused_is_told_where_it_cannot_be_written(db, tmp_path):
    file = write(tmp_path/'p.csv', [product(1), product(2, price='cheap')])
    report = import_products(db, file, rejects=tmp_path/'nowhere'/'r.csv')
    assert counts(report) == (1, 0, 0, 1) and report.exit_code == 3 and report.rejects_file is None
    assert any('cannot be written' in n and 'give --rejects FILE' in n for n in report.notes)


def test_stores_second_run_change_and_rejects(db, tmp_path):
    file = write(tmp_path/'s.csv', [store(i) for i in range(4)])
    assert counts(import_stores(db, file)) == (4, 0, 0, 0) and counts(import_stores(db, file)) == (
        0, 0, 4, 0,
    )
    bad = [
        store(10, latitude='91'), store(11, longitude='-181'), store(12, latitude='nan'),
        store(13, latitude='north'), store(14, name=''), store(0), store(0),
    ]
    report = import_stores(db, write(file, [store(1, floor='2'), *bad]))
    assert counts(report) == (0, 1, 1, 6) and [r[:2] for r in rejects(report)] == [
        (3, 'latitude'), (4, 'longitude'), (5, 'latitude'), (6, 'latitude'), (7, 'name'),
        (9, 'store_id'),
    ]
    rows = table(db, 'raw_stores', 'store_id')
    assert len(rows) == 4 and rows[1]['floor'] == '2' and rows[0]['latitude'] == pytest.approx(50.08)


def test_a_store_is_known_by_its_folded_id(db, tmp_path):
    import_stores(db, write(tmp_path/'s.csv', [store(1, timezone='Europe/Madrid'), store('Ñ')]))
    again = [store(2), store('N\u0303', floor='9'), {**store(3), 'store_id': 'Z1'}]
    report = import_stores(db, write(tmp_path/'s.csv', again))
    assert counts(report) == (1, 1, 0, 1) and rejects(report)[0][:2] == (4, 'store_id')
    assert "'z1' of the catalogue" in (tmp_path/'s.rejects.csv').read_text()
    rows = [stock(datetime(2026, 3, 10, 12), store_id='Z1\u200b'), stock(NOON, store_id='zñ', n=2)]
    report = import_availability(db, write(tmp_path/'a.csv', rows))
    found = {(r['store_id'], r['fetched_at'].hour) for r in table(db, 'raw_availability', 'store_id')}
    assert counts(report) == (2, 0, 0, 0) and {s for s, _ in found} == {'z1', 'zÑ'}
    assert ('z1', 11) in found and not [n for n in report.notes if 'stores of this stock' in n]


NOON = datetime(2026, 3, 10, 12, tzinfo=timezone.utc)


def stock(at, sizes='S|M', n=1, **given):
    return {
        'brand': 'Zara', 'store_id': 'z1', 'product_id': str(n), 'sizes_in_stock': sizes,
        'fetched_at': at if isinstance(at, str) else at.isoformat(), **given,
    }


def readings(db):
    return [
        (r['product_id'], r['fetched_at'], r['sizes_in_stock'])
        for r in table(db, 'raw_availability', 'product_id, fetched_at')
    ]


def take(db, tmp_path, *rows): return counts(import_availability(db, write(tmp_path/'a.csv', list(rows))))


def test_an_older_reading_never_replaces_a_newer_one_of_its_day(db, tmp_path):
    hour = timedelta(hours=1)
    assert take(db, tmp_path, stock(NOON, 'M')) == (1, 0, 0, 0)
    assert take(db, tmp_path, stock(NOON - hour, 'OLD')) == (0, 0, 1, 0) and readings(db) == [
        ('1', NOON, ['M'])
    ]
    assert take(db, tmp_path, stock(NOON, 'M')) == (0, 0, 1, 0)
    assert take(db, tmp_path, stock(NOON + hour, '')) == (0, 1, 0, 0) and readings(db) == [
        ('1', NOON + hour, [])
    ]
    # the same poll, corrected
    assert take(db, tmp_path, stock(NOON + hour, 'L')) == (0, 1, 0, 0) and readings(db) == [
        ('1', NOON + hour, ['L'])
    ]


def test_another_utc_day_is_another_row_whatever_the_zone(db, tmp_path):
    midnight = NOON.replace(hour=0)
    rows = [
        stock('2026-03-10T00:59:59+01:00', 'A'), stock('2026-03-10T01:00:00+01:00', 'B'),
        stock('2026-03-10 23:59:59.999999', 'C'), stock('2026-03-10T18:00:00-06:00', 'D'),
    ]
    options = ReadOptions(poll_window=timedelta(0), timezone='UTC')
    report = import_availability(db, write(tmp_path/'a.csv', rows), options=options)
    assert counts(report) == (3, 0, 1, 0)
    assert readings(db) == [
        ('1', midnight - timedelta(seconds=1), ['A']),
        ('1', NOON.replace(hour=23, minute=59, second=59, microsecond=999999), ['C']),
        ('1', midnight + timedelta(days=1), ['D']),
    ]


def test_stock_whose_refused_rows_cannot_be_written_is_kept(db, tmp_path):
    file = write(tmp_path/'a.csv', [stock(NOON), stock('yesterday', n=2)])
    report = import_availability(db, file, rejects=tmp_path/'nowhere'/'r.csv')
    assert counts(report) == (1, 0, 0, 1) and report.exit_code == 3 and report.rejects_file is None
    assert any('cannot be written' in n and 'give --rejects FILE' in n for n in report.notes)


def test_bad_readings(db, tmp_path):
    report = import_availability(
        db,
        write(
            tmp_path / 'a.csv',
            [
                stock(NOON), stock('yesterday'), stock('2999-01-01'),
                stock('0001-01-01T00:00:00+14:00'), stock(''), stock(NOON, '[1'), stock(NOON, n=''),
                stock(NOON), stock(NOON, store_id=''),
            ],
        ),
    )
    assert counts(report) == (1, 0, 0, 8) and [r[:2] for r in rejects(report)] == [
        (3, 'fetched_at'), (4, 'fetched_at'), (5, 'fetched_at'), (6, 'fetched_at'),
        (7, 'sizes_in_stock'), (8, 'product_id'), (9, 'fetched_at'), (10, 'store_id'),
    ]


def test_random_polls_in_any_order_leave_the_newest_of_each_day(db, tmp_path):
    rng = random.Random(5)
    polls = list(
        {
            (
                str(rng.randrange(4)),
                NOON + timedelta(minutes=rng.randrange(3 * 24 * 60)),
            ): rng.choice(['', 'S', 'M|L'])
            for _ in range(300)
        }.items()
    )
    rng.shuffle(polls)
    for i in range(0, len(polls), 60):
        take(db, tmp_path, *(stock(at, sizes, n) for (n, at), sizes in polls[i : i + 60]))
    newest = {}
    for (n, at), sizes in polls:
        if (n, at.date()) not in newest or at > newest[n, at.date()][0]:
            newest[n, at.date()] = at, [x for x in sizes.split('|') if x]
    assert readings(db) == sorted((n, at, sizes) for (n, _), (at, sizes) in newest.items())


IMPORTS = {
    'raw_products': (import_products, [product(i) for i in range(300)]),
    'raw_stores': (import_stores, [store(i) for i in range(300)]),
    'raw_availability': (import_availability, [stock(NOON, n=i) for i in range(300)]),
}


@pytest.mark.parametrize('name', IMPORTS)
def test_an_import_that_dies_in_the_middle_leaves_nothing(db, tmp_path, name):
    "The server breaks the import at the 200th row: nothing is stored, the next run brings everything."
    call, rows = IMPORTS[name]
    file = write(tmp_path/'x.csv', rows)
    with db.connect('catalogue') as conn:
        conn.execute('create sequence nth')
        conn.execute(
            """create function break() returns trigger language plpgsql as $$ begin
            if nextval('nth') = 200 then raise exception 'the disk is full'; end if;
            return new; end $$"""
        )
        conn.execute(f'create trigger break before insert on {name} for each row execute function break()')
    with pytest.raises(psycopg.Error, match='disk is full'): call(db, file)
    assert table(db, name, '1') == []
    with db.connect('catalogue') as conn: conn.execute(f'drop trigger break on {name}')
    assert counts(call(db, file)) == (300, 0, 0, 0)


def test_two_imports_at_once_bring_every_row_once(db, tmp_path):
    from concurrent.futures import ThreadPoolExecutor
    db.pool('catalogue')
    file = write(tmp_path/'p.csv', [product(i) for i in range(400)])
    with ThreadPoolExecutor(4) as pool:
        reports = list(
            pool.map(lambda i: import_products(db, file, rejects=tmp_path / f'{i}.csv'), range(4))
        )
    assert sum(r.inserted for r in reports) == 400 == len(table(db)) and all(
        r.rejected == 0 for r in reports
    )


@given(st.text(max_size=20))
def test_a_canonical_brand_stays_itself_and_passes_the_constraint(text):
    import re
    try: brand = canonical_brand(text)
    except ValueError: return
    assert canonical_brand(brand) == brand and re.fullmatch('[a-z0-9]+(_[a-z0-9]+)*', brand)


def test_spellings_of_one_brand_are_one_brand(db, tmp_path):
    spellings = [
        'Pull&Bear', 'PULL & BEAR', 'pull and bear', 'pull_bear', ' Pull  &  Bear ', 'P&B',
        'Ｐｕｌｌ＆Ｂｅａｒ',
    ]
    assert (
        import_products(
            db, write(tmp_path / 'p.csv', [product(i, brand=b) for i, b in enumerate(spellings)])
        ).rejected
        == 0
    )
    assert {r['brand'] for r in table(db)} == {'pull_bear'}
    assert [
        canonical_brand(b)
        for b in ('H&M', 'h & m', 'Hennes & Mauritz', 'Massimo Dutti', "Levi's", 'Zoë Ø')
    ] == ['hm', 'hm', 'hm', 'massimo_dutti', 'levi_s', 'zoe_o']


@given(
    st.decimals(0, 99999, places=2),
    st.sampled_from(['{}', '€ {}', '{} EUR', 'Kč{}', ' {} ', 'USD {} net']),
)
def test_prices_in_words_and_in_both_decimal_styles(value, around):
    assert (
        read_price(around.format(value))
        == value
        == read_price(around.format(str(value).replace('.', ',')))
    )
    english = f'{value:,.2f}'
    assert (
        read_price(around.format(english))
        == value
        == read_price(around.format(english.translate({44: 46, 46: 44})))
        == read_price(around.format(english.replace(',', '\u00a0')))
    )


@given(st.text(max_size=30))
def test_readers_give_a_value_or_a_reason(text):
    for reader in {*PRODUCTS.readers.values(), read_time}:
        try: reader(text)
        except ValueError as e: assert str(e)


@given(st.text(max_size=40))
def test_any_category_text_has_a_category(text):
    assert canonical_category(text) in (
        'top', 'outerwear', 'dress', 'bottom', 'shoes', 'bag', 'hat', 'accessory', 'other',
    )


def test_a_mapping_beats_a_column_of_our_name():
    assert column_map(['brand', 'external_id', 'id'], PRODUCTS, {'external_id': 'id'}) == {
        'brand': 'brand',
        'external_id': 'id',
    }


def test_a_magento_export(db, shared_data, tmp_path):
    file = shared_data/'magento'/'products.csv'
    with pytest.raises(ValueError, match='--brand'): import_products(db, file, mapping='magento')
    report = import_products(db, file, mapping='magento', brand='Luma', rejects=tmp_path/'r.csv')
    rows = table(db)
    raw = [r for _, r in read_table(file)]
    of = {
        v.split('sku=')[1].split(',')[0]: r['sku']
        for r in raw
        if r['product_type'] == 'configurable'
        for v in r['configurable_variations'].split('|')
        if 'sku=' in v
    }
    colour = {
        r['sku']: next(
            p.split('=')[1] for p in r['additional_attributes'].split(',') if p.startswith('color=')
        )
        for r in raw
        if r['product_type'] == 'simple'
    }
    assert (
        {r['external_id'] for r in rows} == {f'{of[sku]}-{c}' for sku, c in colour.items()}
        and report.inserted == len(rows) > 300
        and report.rejected == 0
    )
    styles = {r['sku'] for r in raw if r['product_type'] == 'configurable'}
    assert {r['style_id'] for r in rows if r['style_id']} == styles and {
        r['brand'] for r in rows
    } == {'luma'}
    assert all(
        r['external_id'].startswith(f"{r['style_id']}-") and r['colour']
        for r in rows
        if r['style_id']
    )
    assert (
        all(
            len(r['image_urls']) == len(r['image_views']) == len(set(r['image_urls'])) for r in rows
        )
        and sum(bool(r['image_urls']) for r in rows) > 300
    )
    # main photos first
    assert all('front' not in r['image_views'][r['image_views'].count('front'):] for r in rows)
    assert {'top', 'bottom', 'outerwear'} <= {r['category_canonical'] for r in rows} and all(
        r['price'] > 0 for r in rows
    )
    hoodie = next(r for r in rows if r['external_id'] == 'MH01-Black')
    assert (
        hoodie['sizes'] == ['XS', 'S', 'M', 'L', 'XL']
        and hoodie['gender'] == 'men'
        and hoodie['image_urls'][0].endswith('mh01-black_main.jpg')
    )
    again = import_products(db, file, mapping='magento', brand='Luma', rejects=tmp_path/'r.csv')
    assert counts(again) == (0, 0, report.inserted, 0) and table(db) == rows


def test_another_file_is_no_magento_export(db, tmp_path):
    with pytest.raises(ValueError, match='no Magento'):
        import_products(
            db, write(tmp_path / 'p.csv', [product(1)]), mapping='magento', brand='Luma'
        )


def test_ids_folded_by_an_older_package_are_known_again(db, tmp_path):
    "It left the ` by which the Arabic ain is written."
    file = write(tmp_path/'p.csv', [product('عود-1')])
    assert counts(import_products(db, file)) == (1, 0, 0, 0)
    with db.connect('catalogue') as conn:
        conn.execute("update raw_products set external_id_folded = '`wd-1'")
        conn.execute("""insert into variant_skus (brand, sku_folded, sku, external_id)
            values ('zara', '`wd-1-s', 'عود-1-S', 'عود-1')""")
        conn.execute(dict(migrations('catalogue'))['0005_folded.sql'])
    again = write(tmp_path/'again.csv', [product('عود-1'.replace('-', '–'), name='Oud')])
    assert counts(import_products(db, again))[0] == 0 and len(table(db)) == 1
    assert table(db, 'variant_skus', 'sku')[0]['sku_folded'] == "'wd-1-s"
