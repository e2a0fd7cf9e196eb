"Stock under the SKUs of a shop system's variants: Magento, Shopify, WooCommerce; what is refused, and why."
import csv
from datetime import datetime, timedelta, timezone

import pytest

from unde_recog.catalogue.identity import rename_brands
from unde_recog.catalogue.imports import import_products
from unde_recog.catalogue.stock import import_availability

from tests.csv_files import write

AT = (datetime.now(timezone.utc) - timedelta(hours=1)).replace(microsecond=0)
# exports with a time that a person has added
INVENTORY = {'store_id': 'Location', 'product_id': 'SKU', 'quantity': 'Available', 'fetched_at': 'Time'}
SOURCES = {'store_id': 'source_code', 'product_id': 'sku', 'quantity': 'quantity', 'fetched_at': 'time'}


def ask(db, query, *values):
    with db.connect('catalogue') as conn: return conn.execute(query, values).fetchall()


def in_stock(db, store='1'):
    query = 'select product_id, sizes_in_stock from availability_latest where store_id = %s'
    return dict(ask(db, query, store))


def skus(db, brand='luma'):
    return {sku: (product, size) for sku, product, size in ask(
        db, 'select sku, external_id, size from variant_skus where brand = %s order by 1', brand)}


def magento(folder, sizes=('XS', 'S'), colours=('Black', 'Gray'), name='products.csv'):
    "MH01 in sizes and colours, and a ball."
    simple = [
        {
            'sku': f'MH01-{size}-{colour}', 'product_type': 'simple', 'name': f'Chaz Hoodie-{size}-{colour}',
            'price': '52', 'additional_attributes': f'color={colour},size={size}',
        }
        for size in sizes for colour in colours
    ]
    family = '|'.join(f"sku={r['sku']},{r['additional_attributes']}" for r in simple)
    return write(folder/name, [
        *simple,
        {
            'sku': 'MH01', 'product_type': 'configurable', 'name': 'Chaz Hoodie',
            'categories': 'Default Category/Men/Tops/Hoodies', 'configurable_variations': family,
        },
        {'sku': '24-UG06', 'product_type': 'simple', 'name': 'Ball', 'price': '27'},
    ])


def sources(folder, *rows, store='1', at=AT, name='stock.csv'):
    "Magento's stock sources: (SKU, pieces)."
    return write(folder/name, [
        {'source_code': store, 'sku': sku, 'status': '1', 'quantity': n, 'time': at.isoformat()}
        for sku, n in rows
    ])


@pytest.fixture
def luma(db, tmp_path):
    import_products(db, magento(tmp_path), mapping='magento', brand='Luma')
    return db


def stock(db, file, mapping=SOURCES, brand='Luma', **options):
    return import_availability(db, file, mapping=mapping, brand=brand, **options)


def test_magento(luma, tmp_path):
    report = stock(luma, sources(
        tmp_path, ('MH01-XS-Black', '3.0000'), ('mh01-s-black', '0.0000'), ('MH01-XS-Gray', '0'),
        ('MH01-S-Gray', '-2'), ('24-UG06', '5'), ('MH01', '0'),
    ))
    assert in_stock(luma) == {'MH01-Black': ['XS'], 'MH01-Gray': [], '24-UG06': ['One Size']}
    assert (report.rejected, report.exit_code) == (0, 0)
    assert not any('products of this stock' in n for n in report.notes)
    assert any('MH01:' in note and 'left out' in note for note in report.notes)
    again = stock(luma, tmp_path/'stock.csv')
    assert (again.inserted, again.updated) == (0, 0)
    sold = sources(tmp_path, ('MH01-XS-Black', '0'), ('MH01-S-Black', '0'), at=AT + timedelta(minutes=20))
    report = stock(luma, sold)
    assert (report.inserted + report.updated, report.rejected) == (1, 0)
    assert in_stock(luma)['MH01-Black'] == []


def test_shopify(db, tmp_path):
    def variant(handle, size, colour, sku, **more):
        return {'Handle': handle, 'Option1 Name': 'Size', 'Option1 Value': size, 'Option2 Name': 'Color',
                'Option2 Value': colour, 'Variant SKU': sku, 'Variant Price': '35', **more}
    rows = [
        variant('shirt', 'S', 'White', 'SH-WHI-S', Title='Shirt', Vendor='Nordlys'),
        variant('shirt', 'M', 'White', "'00017"), variant('shirt', 'M', 'Blue', 'SH-BLU-M'),
        variant('shirt', 'L', 'Blue', ''),
        {'Handle': 'bag', 'Title': 'Bag', 'Vendor': 'Nordlys', 'Option1 Name': 'Title',
         'Option1 Value': 'Default Title', 'Variant SKU': 'BAG-1', 'Variant Price': '80'},
    ]
    import_products(db, write(tmp_path/'s.csv', rows), mapping='shopify')
    assert skus(db, 'nordlys') == {
        'SH-WHI-S': ('shirt-White', 'S'), '00017': ('shirt-White', 'M'), 'SH-BLU-M': ('shirt-Blue', 'M'),
        'BAG-1': ('bag', ''),
    }
    # the inventory export names each location in rows of its own
    inventory = write(tmp_path/'inventory.csv', [
        {'Handle': 'shirt', 'SKU': sku, 'Location': place, 'Available': n, 'Time': AT.isoformat()}
        for sku, place, n in (('SH-WHI-S', '1', '2'), ('00017', '1', '1'), ('SH-BLU-M', '1', '0'),
                              ('BAG-1', '1', '4'), ('SH-WHI-S', '2', '0'), ('00017', '2', 'not stocked'))
    ])
    report = stock(db, inventory, INVENTORY, 'Nordlys', rejects=tmp_path/'r.csv')
    assert in_stock(db) == {'shirt-White': ['S', 'M'], 'shirt-Blue': [], 'bag': ['One Size']}
    assert in_stock(db, '2') == {'shirt-White': []} and report.exit_code == 0


def test_woocommerce(db, tmp_path):
    def variation(sku, colour, size, parent):
        return {'Type': 'variation', 'SKU': sku, 'Parent': parent, 'Regular price': '99', 'Name': 'x',
                'Attribute 1 name': 'Farbe', 'Attribute 1 value(s)': colour,
                'Attribute 2 name': 'Größe', 'Attribute 2 value(s)': size}
    rows = [
        {'ID': '10', 'Type': 'variable', 'SKU': 'coat', 'Name': 'Coat'},
        variation('coat-r-s', 'Rot', 'S', 'coat'), variation('coat-r-m', 'Rot', 'M', 'id:10'),
        variation('coat-b-m', 'Blau', 'M', 'coat'),
        {'ID': '13', 'Type': 'simple', 'SKU': 'hat', 'Name': 'Hat', 'Regular price': '9'},
    ]
    import_products(db, write(tmp_path/'w.csv', rows), mapping='woocommerce', brand='Nordlys')
    # the product export is the stock export too; a variable product's own stock is 0 or empty
    pieces = {'coat': '', 'coat-r-s': '1', 'coat-r-m': '2', 'coat-b-m': '0', 'hat': '7'}
    file = write(tmp_path/'stock.csv', [
        {'SKU': sku, 'Stock': n, 'shop': '1', 'at': AT.isoformat()} for sku, n in pieces.items()
    ])
    mapping = {'store_id': 'shop', 'product_id': 'SKU', 'quantity': 'Stock', 'fetched_at': 'at'}
    report = stock(db, file, mapping, 'Nordlys', rejects=tmp_path/'r.csv')
    assert in_stock(db) == {'coat-Rot': ['S', 'M'], 'coat-Blau': [], 'hat': ['One Size']}
    assert report.exit_code == 0 and any('as coat:' in note for note in report.notes)
    file.write_text(file.read_text().replace(',7,', ',,').replace(',2,', ',,'))
    report = stock(db, file, mapping, 'Nordlys', rejects=tmp_path/'r.csv')
    assert report.rejected == 2 and report.classes[0].startswith('2 rows refused, as coat-r-m: neither')


def test_rows_that_fit_nothing_are_refused_by_class(luma, tmp_path):
    import_products(luma, write(tmp_path/'own.csv', [
        {'external_id': 'T1', 'brand': 'Luma', 'sizes': 'S|M'},
        {'external_id': 'T2', 'brand': 'Luma', 'sizes': '38'},
    ]))
    file = sources(tmp_path, ('MH99-XS', '1'), ('MH98-S', '0'), ('MH01', '4'), ('T1', '4'), ('T2', '1'),
                   ('T1', '0'))
    report = stock(luma, file, rejects=tmp_path/'r.csv')
    refused = {int(r['line']): r for r in csv.DictReader((tmp_path/'r.csv').open())}
    assert set(refused) == {2, 3, 4, 5} and report.rejected == 4 and report.exit_code == 3
    assert 'import the products' in refused[3]['reason'] and 'SKU of each size' in refused[4]['reason']
    assert refused[5]['column'] == 'sizes_in_stock'
    assert [text.split(':')[0] for text in report.classes] == [
        '1 rows refused, as T1', '1 rows refused, as MH01', '2 rows refused, as MH99-XS']
    assert in_stock(luma) == {'T2': ['38'], 'T1': []} and '2 rows refused' in str(report)
    # sizes beside an unknown SKU are lost too, in a brand whose SKUs are known; elsewhere they may be early
    rows = [{'brand': brand, 'store_id': '1', 'product_id': 'MH99-XS', 'sizes_in_stock': 'XS',
             'fetched_at': AT.isoformat()} for brand in ('Luma', 'Zara')]
    report = import_availability(luma, write(tmp_path/'both.csv', rows), rejects=tmp_path/'r.csv')
    assert (report.rejected, report.inserted) == (1, 1)


def test_products_come_again(luma, tmp_path):
    assert len(skus(luma)) == 5
    before = ask(luma, 'select xmin::text from variant_skus order by sku_folded')
    import_products(luma, magento(tmp_path), mapping='magento', brand='Luma')
    assert ask(luma, 'select xmin::text from variant_skus order by sku_folded') == before
    fewer = magento(tmp_path, sizes=('S', 'M'), colours=('Black',))
    import_products(luma, fewer, mapping='magento', brand='Luma')
    found = skus(luma)
    # XS is gone from the black one; the gray one is not in the file, and keeps its own
    assert 'MH01-XS-Black' not in found and found['MH01-M-Black'] == ('MH01-Black', 'M')
    assert found['MH01-XS-Gray'] == ('MH01-Gray', 'XS')
    # an own table without the column leaves them alone; one that has it replaces them
    own = {'external_id': 'MH01-Black', 'brand': 'Luma'}
    import_products(luma, write(tmp_path/'own.csv', [own]))
    assert skus(luma) == found
    import_products(luma, write(tmp_path/'own.csv', [own | {'variant_skus': '{"X-1": "S"}'}]))
    assert skus(luma)['X-1'] == ('MH01-Black', 'S') and 'MH01-M-Black' not in skus(luma)
    report = stock(luma, sources(tmp_path, ('MH01-M-Black', '1'), ('x-1', '2')), rejects=tmp_path/'r.csv')
    assert in_stock(luma) == {'MH01-Black': ['S']} and report.rejected == 1


def test_two_brands_and_one_sku(luma, tmp_path):
    import_products(luma, magento(tmp_path, colours=('Red',)), mapping='magento', brand='Other')
    own = {'external_id': 'a', 'brand': 'Other', 'variant_skus': '{"MH01-XS-Black": "38"}'}
    import_products(luma, write(tmp_path/'own.csv', [own]))
    stock(luma, sources(tmp_path, ('MH01-XS-Black', '1')), brand='Luma')
    stock(luma, sources(tmp_path, ('MH01-XS-Black', '1')), brand='Other')
    assert in_stock(luma) == {'MH01-Black': ['XS'], 'a': ['38']}
    report = rename_brands(luma, {'other': 'second'})
    assert report.rows['variant_skus'] == 4 and skus(luma, 'second')['MH01-XS-Black'] == ('a', '38')


def test_one_sku_for_several_variants(db, tmp_path):
    "Shopify does not keep SKUs apart."
    def row(handle, size, sku, **more):
        return {'Handle': handle, 'Option1 Name': 'Size', 'Option1 Value': size, 'Variant SKU': sku,
                'Variant Price': '9', **more}
    rows = [
        row('tee', 'S', 'TEE-X', Title='Tee', Vendor='N'), row('tee', 'M', 'tee-x'),
        row('cap', 'S', 'SAME', Title='Cap', Vendor='N'), row('hat', 'S', 'SAME', Title='Hat', Vendor='N'),
        # a length beside the size: two SKUs, one size of ours
        row('jeans', '32', 'J-32-S', **{'Title': 'Jeans', 'Vendor': 'N', 'Option2 Name': 'Length',
                                        'Option2 Value': 'short'}),
        row('jeans', '32', 'J-32-L', **{'Option2 Value': 'long'}),
        row('jeans', '34', 'J-34-L', **{'Option2 Value': 'long'}),
    ]
    report = import_products(db, write(tmp_path/'s.csv', rows), mapping='shopify')
    assert any('as SAME' in note for note in report.notes) and 'SAME' not in skus(db, 'n')
    file = write(tmp_path/'inventory.csv', [
        {'SKU': sku, 'Location': '1', 'Available': n, 'Time': AT.isoformat()}
        for sku, n in (('TEE-X', 3), ('SAME', 1), ('J-32-S', 0), ('J-32-L', 2), ('J-34-L', 0))
    ])
    report = stock(db, file, INVENTORY, 'N', rejects=tmp_path/'r.csv')
    assert in_stock(db) == {'jeans': ['32']} and [c.split(':')[0] for c in report.classes] == [
        '1 rows refused, as tee', '1 rows refused, as SAME']
    # a size beside the SKU says which
    at = AT + timedelta(minutes=9)
    rows = [{'brand': 'N', 'store_id': '1', 'product_id': 'TEE-X', 'sizes_in_stock': 'M', 'quantity': '1',
             'fetched_at': at.isoformat()}]
    import_availability(db, write(tmp_path/'t.csv', rows))
    assert in_stock(db)['tee'] == ['M']


@pytest.mark.parametrize('system, rows, options', [
    ('magento', [{'source_code': '1', 'sku': 'MH01-XS-Black', 'status': '1', 'quantity': '3.0000'},
                 {'source_code': '1', 'sku': 'MH01-S-Black', 'status': '0', 'quantity': '0.0000'}], {}),
    ('shopify', [{'Handle': 'x', 'SKU': 'MH01-XS-Black', 'Location': '1', 'Incoming (not editable)': '9',
                  'Available (not editable)': '2', 'On hand (current)': '4'},
                 {'Handle': 'x', 'SKU': 'MH01-S-Black', 'Location': '1',
                  'Available (not editable)': 'not stocked'}], {}),
    ('woocommerce', [{'Type': 'variable', 'SKU': 'MH01', 'In stock?': '1', 'Stock': ''},
                     {'Type': 'variation', 'SKU': 'MH01-XS-Black', 'In stock?': '1', 'Stock': ''},
                     {'Type': 'variation', 'SKU': 'MH01-S-Black', 'In stock?': 'backorder', 'Stock': '0'}],
     {'store_id': '1'}),
])
def test_stock_exports_as_they_come(luma, tmp_path, system, rows, options):
    "No mapping of one's own, no time in the file."
    report = stock(luma, write(tmp_path/'stock.csv', rows), system, fetched_at='now', **options)
    assert in_stock(luma) == {'MH01-Black': ['XS']} and report.exit_code == 0
    ((at,),) = ask(luma, 'select fetched_at from availability_latest')
    assert abs((datetime.now(timezone.utc) - at).total_seconds()) < 600


def test_another_file_is_no_stock_export(luma, tmp_path):
    file = write(tmp_path/'stock.csv', [{'sku': 'MH01-XS-Black', 'price': '9'}])
    with pytest.raises(ValueError, match='no magento stock export: it has no column quantity or qty'):
        stock(luma, file, 'magento', fetched_at='now')
    file = write(tmp_path/'stock.csv', [{'SKU': 'MH01-XS-Black', 'Stock': '9'}])
    with pytest.raises(ValueError, match="no column 'store_id'"):
        stock(luma, file, 'woocommerce', fetched_at='now')
