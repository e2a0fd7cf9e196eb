"""Exports of shop systems through the whole import; brands renamed in all databases."""
import json
from datetime import datetime, timedelta, timezone

import pytest
from psycopg.rows import dict_row

from unde_recog.catalogue.identity import rename_brands
from unde_recog.catalogue.imports import import_products, import_stores
from unde_recog.catalogue.products import parse_products, products_query
from unde_recog.catalogue.reading import ReadOptions
from unde_recog.catalogue.stock import import_availability
from unde_recog.contracts import Candidate, SkuKey
from unde_recog.db.database import run
from unde_recog.rerank import to_match

from tests.csv_files import write


def table(db, name='raw_products', order='brand, external_id', logical='catalogue'):
    with db.connect(logical) as conn, conn.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(f'select * from {name} order by {order}').fetchall()


def test_shopify(db, tmp_path):
    head = {
        'Title': 'Linen Shirt', 'Vendor': 'Nordlys', 'Type': 'Shirts', 'Option1 Name': 'Talla',
        'Option2 Name': 'Color',
    }
    rows = [
        {
            'Handle': 'shirt', **head, 'Option1 Value': 'S', 'Option2 Value': 'White',
            'Variant Price': '35.95', 'Image Src': 'https://c.example/1.jpg', 'Image Position': '1',
            'Variant Image': 'https://c.example/w.jpg',
        },
        {
            'Handle': 'shirt', 'Option1 Value': 'M', 'Option2 Value': 'White',
            'Variant Price': '35.95',
        },
        {
            'Handle': 'shirt', 'Option1 Value': 'M', 'Option2 Value': 'Blue',
            'Variant Price': '39.95', 'Variant Image': 'https://c.example/b.jpg',
        },
        {'Handle': 'shirt', 'Image Src': 'https://c.example/w.jpg', 'Image Position': '2'},
    ]
    options = ReadOptions(currency='EUR', base_url='https://nordlys.example')
    report = import_products(db, write(tmp_path/'s.csv', rows), mapping='shopify', options=options)
    blue, white = table(db)
    assert (report.inserted, report.rejected) == (2, 0) and (
        blue['external_id'],
        white['external_id'],
    ) == ('shirt-Blue', 'shirt-White')
    assert (
        white['sizes'] == ['S', 'M']
        and blue['sizes'] == ['M']
        and {blue['style_id'], white['style_id']} == {'shirt'}
    )
    assert white['image_urls'] == ['https://c.example/w.jpg', 'https://c.example/1.jpg']
    assert (float(blue['price']), blue['currency'], blue['brand']) == (39.95, 'EUR', 'nordlys')
    assert (
        white['product_url'] == 'https://nordlys.example/products/shirt'
        and white['category_canonical'] == 'top'
    )


def test_woocommerce(db, tmp_path):
    def attributes(**values):
        pairs = list(values.items())
        return {
            f'Attribute {n} {what}': v
            for n, pair in enumerate(pairs, 1)
            for what, v in zip(('name', 'value(s)'), pair)
        }

    rows = [
        {
            'ID': '10',
            'Type': 'variable',
            'SKU': 'coat',
            'Name': 'Wool Coat',
            'Regular price': '',
            'Categories': 'Women > Coats, Sale',
            'Images': 'https://w.example/c_1,w_2/a.jpg, https://w.example/b.jpg',
            **attributes(Farbe='Rot, Blau'),
        },
        {
            'ID': '11', 'Type': 'variation', 'Parent': 'id:10', 'Regular price': '99',
            **attributes(Farbe='Rot', Größe='S'),
        },
        {
            'ID': '12', 'Type': 'variation', 'Parent': 'COAT', 'Regular price': '99',
            **attributes(Farbe='Blau', Größe='M'),
        },
        {
            'ID': '13', 'Type': 'simple', 'SKU': 'hat', 'Name': 'Hat', 'Regular price': '9',
            'Categories': 'Hats',
        },
    ]
    rows[2]['Parent'] = 'id:10'
    report = import_products(db, write(tmp_path/'w.csv', rows), mapping='woocommerce', brand='Nordlys')
    found = {r['external_id']: r for r in table(db)}
    assert (report.inserted, report.rejected) == (3, 0) and set(found) == {'coat-Rot', 'coat-Blau', 'hat'}
    assert (
        found['coat-Rot']['sizes'] == ['S']
        and found['coat-Rot']['image_urls'][0] == 'https://w.example/c_1,w_2/a.jpg'
    )
    assert (
        found['coat-Blau']['category_canonical'] == 'outerwear'
        and found['hat']['category_canonical'] == 'hat'
    )


@pytest.mark.parametrize('mapping', ['shopify', 'woocommerce', 'magento'])
def test_another_file_is_named(db, tmp_path, mapping):
    with pytest.raises(ValueError, match='export'):
        import_products(db, write(tmp_path/'x.csv', [{'sku': '1'}]), mapping=mapping, brand='x')


def test_magento_attribute_codes_and_store_views(db, tmp_path):
    style = {
        'sku': 'MH07',
        'product_type': 'configurable',
        'name': 'Hoodie',
        'store_view_code': '',
        'url_key': 'hoodie',
        'additional_attributes': 'pattern=Color-Blocked,climate=Cool',
        'configurable_variations': 'sku=mh07-s-gray,maat=S | sku=MH07-M-Gray,maat=M',
    }
    simple = [
        {
            'sku': f'MH07-{s}-Gray',
            'product_type': 'simple',
            'name': 'Hoodie',
            'price': '54',
            'store_view_code': '',
            'additional_attributes': f'"maat"={s}'.replace('"', '') + ',tint="Gray"',
        }
        for s in 'SM'
    ]
    rows = [*simple, style, {**style, 'store_view_code': 'de', 'name': 'Kapuzenpulli'}]
    import_products(
        db, write(tmp_path/'m.csv', rows), mapping='magento', brand='Luma', attributes={'colour': 'tint'},
        options=ReadOptions(base_url='https://luma.example', currency='EUR'),
    )
    (row,) = table(db)
    assert (row['external_id'], row['name'], row['colour'], row['sizes']) == (
        'MH07-Gray', 'Hoodie', 'Gray', ['S', 'M'],
    )
    assert row['product_url'] == 'https://luma.example/hoodie.html'
    assert row['attributes'] == {'type': 'hoodie', 'pattern': 'colour-block'}


def test_the_address_of_a_product_reaches_the_match(db, tmp_path):
    "From the file to the JSON of an answer; attributes of a column of their own, too."
    rows = [{'brand': 'hm', 'external_id': '1', 'name': 'Tee', 'category': 'T-shirts',
             'product_url': 'https://hm.example/1', 'attributes': '{"pattern": "Stripes"}'}]
    import_products(db, write(tmp_path/'p.csv', rows))
    assert [r['attributes'] for r in table(db)] == [{'type': 't-shirt', 'pattern': 'striped'}]
    key = SkuKey('hm', '1')
    with db.connect('catalogue') as conn: product = parse_products(run(conn, products_query([key])))[key]
    match = to_match(Candidate(key=key, score=.5), product)
    assert match.model_dump(mode='json')['product_url'] == 'https://hm.example/1'


def test_brands_are_renamed_everywhere(db, tmp_path):
    with db.connect('catalogue') as conn:
        conn.execute(
            "insert into raw_products (source, brand, external_id) values ('bj_rn_borg', 'bj_rn_borg', '1')"
        )
        conn.execute("insert into raw_stores (brand, store_id, name) values ('bj_rn_borg', '1', 'x')")
    with db.connect('log') as conn:
        matches = json.dumps(
            [{'brand': 'bj_rn_borg', 'external_id': '1', 'note': 'say "brand": "bj_rn_borg"'}]
        )
        conn.execute(
            'insert into recognition_requests (id, final_matches) values (gen_random_uuid(), %s)',
            (matches,),
        )
    report = import_products(db, write(tmp_path/'p.csv', [{'brand': 'Björn Borg', 'external_id': '2'}]))
    assert any('brands rename bj_rn_borg=bjorn_borg' in note for note in report.notes)
    rename_brands(db, {'bj_rn_borg': 'bjorn_borg'})
    assert (
        {r['brand'] for r in table(db)}
        == {r['brand'] for r in table(db, 'raw_stores', '1')}
        == {'bjorn_borg'}
    )
    (request,) = table(db, 'recognition_requests', '1', 'log')
    assert (
        request['final_matches'][0]['brand'] == 'bjorn_borg'
        and 'bj_rn_borg' in request['final_matches'][0]['note']
    )
    assert str(rename_brands(db, {'bj_rn_borg': 'bjorn_borg'})) == 'nothing to rename'


def test_a_brand_that_is_there_twice_keeps_both_rows(db):
    with db.connect('catalogue') as conn:
        for brand, n in (('old', 1), ('old', 2), ('new', 1)):
            conn.execute(
                'insert into raw_products (source, brand, external_id) values (%s, %s, %s)',
                (f'{brand}{n}', brand, str(n)),
            )
    report = rename_brands(db, {'old': 'new'})
    assert (report.rows['raw_products'], report.kept['raw_products']) == (1, 1) and len(table(db)) == 3


def reading(at, **values):
    return {
        'brand': 'hm', 'store_id': '1', 'product_id': 'A', 'sizes_in_stock': 'S|M',
        'fetched_at': at, **values,
    }


def test_zones_the_future_and_late_readings(db, tmp_path):
    import_stores(
        db,
        write(
            tmp_path / 's.csv',
            [
                {'brand': 'hm', 'store_id': '1', 'name': 'x', 'timezone': 'Europe/Madrid'},
                {'brand': 'hm', 'store_id': '2', 'name': 'y', 'timezone': ''},
            ],
        ),
    )
    soon = datetime.now(timezone.utc) + timedelta(minutes=6)
    report = import_availability(db, write(tmp_path/'a.csv', [
        reading('2026-11-20 09:00'), reading('2026-11-20 09:00', store_id='2'), reading(soon.isoformat()),
        reading((soon - timedelta(minutes=4)).isoformat(), product_id='B'),
    ]))
    found = {(r['store_id'], r['product_id']): r['fetched_at'] for r in table(db, 'raw_availability', '1')}
    assert (
        set(found) == {('1', 'A'), ('1', 'B')}
        and found['1', 'A'].astimezone(timezone.utc).hour == 8
        and report.rejected == 2
    )
    assert any('not in the catalogue' in note for note in report.notes)
    options = ReadOptions(timezone='UTC')
    late = import_availability(
        db,
        write(tmp_path / 'b.csv', [reading('2026-11-20 07:00', sizes_in_stock='XL')]),
        options=options,
    )
    assert (late.inserted, late.updated) == (0, 0) and table(
        db, 'availability_latest', 'product_id'
    )[0]['sizes_in_stock'] == ['S', 'M']


def test_quantities_of_a_row_a_size(db, tmp_path):
    rows = [
        reading('2026-11-20T09:00:00Z', sizes_in_stock=s, quantity=q)
        for s, q in (('S', '2'), ('M', '0'), ('L', '1.0'))
    ]
    report = import_availability(db, write(tmp_path/'a.csv', rows))
    assert table(db, 'raw_availability', '1')[0]['sizes_in_stock'] == ['S', 'L'] and report.rejected == 0
