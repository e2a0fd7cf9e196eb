"""Google Merchant feeds and PrestaShop exports through the whole import, as a shopper sees the result."""
import csv
import html
import json
from datetime import datetime, timezone
from decimal import Decimal

import pytest

from unde_recog.catalogue.imports import import_products, import_stores
from unde_recog.catalogue.reading import ReadOptions, open_table
from unde_recog.catalogue.stock import import_availability
from unde_recog.catalogue.words import refresh_words, search_words

from tests.catalogue.test_shops import table
from tests.csv_files import write

PHOTOS = 'https://cdn.nordlys.example/p'


def coat(n, colour, size, **values):
    return {
        'id': f'NL-{n}', 'item_group_id': 'NL-COAT',
        'title': f'Wool coat &amp; belt - {colour} - {size}',
        'description': '<p>Warm &amp; soft.</p><ul><li>80% wool</li></ul>', 'color': colour, 'size': size,
        'link': f'https://nordlys.example/coat?v={n}&utm_source=google',
        'image_link': f'{PHOTOS}/{colour}-1.jpg',
        'additional_image_link': f'{PHOTOS}/{colour}-2.jpg,{PHOTOS}/{colour}-3.jpg', 'price': '199.00 EUR',
        'sale_price': '149.50 EUR', 'availability': 'in_stock', 'brand': 'Nordlys', 'gtin': f'40000000000{n}',
        'gender': 'female', 'age_group': 'adult', 'material': 'wool/polyester', 'pattern': 'plain',
        'google_product_category': '5598', 'product_type': 'Women > New in', **values,
    }


ROWS = [
    coat(1, 'Red', 'M'), coat(2, 'Red', 'S'), coat(3, 'Navy', 'M'),
    coat(4, '', '', id='NL-TEE', item_group_id='', title='Boys’ tee', image_link=f'{PHOTOS}/tee.jpg',
         additional_image_link='', price='9.90 EUR', age_group='kids', gender='male', material='',
         sale_price='5.00 EUR', sale_price_effective_date='2020-01-01T00:00+0100/2020-01-31T23:59+0100',
         product_type='', google_product_category='Apparel & Accessories > Clothing > Shirts & Tops'),
]


def tsv(path, rows):
    headers = list(dict.fromkeys(h for r in rows for h in r))
    lines = [headers, *([r.get(h, '') for h in headers] for r in rows)]
    path.write_text('\n'.join('\t'.join(line) for line in lines) + '\n', 'utf-8')
    return path


def element(name, value):
    names = [(name, v) for v in (value.split(',') if name == 'additional_image_link' else [value]) if v]
    return ''.join(f'<g:{n}>{html.escape(v)}</g:{n}>' for n, v in names)


def xml(path, rows, atom=False):
    "The same feed as RSS or Atom, with what else feeds hold."
    item = 'entry' if atom else 'item'
    items = [
        f'<{item}><title>for readers</title><g:shipping><g:price>4 EUR</g:price></g:shipping>\n'
        + ''.join(element(n, v) for n, v in row.items()) + f'</{item}>'
        for row in rows
    ]
    head = '<?xml version="1.0" encoding="UTF-8"?>\n<!-- a feed -->\n'
    spaces = 'xmlns:g="http://base.google.com/ns/1.0"'
    root = (f'<feed xmlns="http://www.w3.org/2005/Atom" {spaces}>', '</feed>') if atom else (
        f'<rss version="2.0" {spaces}>\n<channel><title>Nordlys</title>', '</channel></rss>')
    path.write_text(head + root[0] + '\n'.join(items) + root[1], 'utf-8')
    return path


def check_coats(db):
    found = {r['external_id']: r for r in table(db)}
    assert set(found) == {'NL-COAT-Red', 'NL-COAT-Navy', 'NL-TEE'}
    red, tee = found['NL-COAT-Red'], found['NL-TEE']
    assert (red['name'], red['description']) == ('Wool coat & belt', 'Warm & soft. 80% wool')
    assert (red['price'], red['currency'], tee['price']) == (Decimal('149.50'), 'EUR', Decimal('9.90'))
    assert (red['colour'], red['sizes'], red['gender'], tee['gender']) == ('Red', ['S', 'M'], 'women', 'kids')
    assert (red['category_canonical'], tee['category_canonical']) == ('outerwear', 'top')
    assert (red['brand'], red['style_id'], tee['style_id']) == ('nordlys', 'NL-COAT', None)
    assert red['image_urls'] == [f'{PHOTOS}/Red-{n}.jpg' for n in (1, 2, 3)]
    assert red['product_url'] == 'https://nordlys.example/coat?v=1&utm_source=google'
    assert red['composition'] == 'wool, polyester' and red['attributes']['type'] == 'coat'
    assert found['NL-COAT-Navy']['sizes'] == ['M'] and tee['sizes'] == []


@pytest.mark.parametrize('kind', ['tsv', 'csv', 'rss', 'atom'])
def test_google_feeds(db, tmp_path, kind):
    makers = {'tsv': tsv, 'csv': write, 'rss': xml, 'atom': lambda path, rows: xml(path, rows, atom=True)}
    file = makers[kind](tmp_path/f'feed.{kind}', ROWS)
    # XML names its system itself
    report = import_products(db, file, mapping='google' if kind in ('tsv', 'csv') else None)
    assert (report.inserted, report.rejected) == (3, 0)
    check_coats(db)
    with db.connect('catalogue') as conn:
        refresh_words(conn)
        hits = search_words(conn, 'red coat').candidates
    assert hits[0].key.external_id == 'NL-COAT-Red'


def test_a_faulty_item_of_a_feed_stops_only_itself(db, tmp_path):
    file = xml(tmp_path/'feed.xml', ROWS)
    text = file.read_text('utf-8')
    text = text.replace('<g:title>Boys', '<g:title>Caf&eacute; & Boys').replace('</g:color>', '', 1)
    file.write_text(text, 'utf-8')
    report = import_products(db, file)
    found = {r['external_id']: r for r in table(db)}
    assert (report.inserted, report.rejected, report.exit_code) == (3, 1, 3)
    assert found['NL-TEE']['name'] == 'Café & Boys’ tee' and found['NL-COAT-Red']['sizes'] == ['S']
    assert 'is no XML' in (tmp_path/'feed.rejects.csv').read_text()


def test_the_entities_of_a_feed_are_not_expanded(tmp_path):
    bomb = '<!DOCTYPE rss [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>'
    file = tmp_path/'feed.xml'
    file.write_text(f'<?xml version="1.0"?>{bomb}<rss><item><id>&b;</id><n>1</n></item></rss>')
    with pytest.raises(ValueError): open_table(file)
    file.write_text(f'<?xml version="1.0"?><rss>{bomb}<item><id>&b;</id><n>1</n></item></rss>')
    assert [row.cells for row in open_table(file).rows()] == [['&b;', '1']]


@pytest.mark.parametrize('codec', ['utf-8-sig', 'utf-16', 'cp1251'])
def test_feeds_in_the_encoding_that_they_declare(tmp_path, codec):
    name = {'utf-8-sig': 'utf-8'}.get(codec, codec)
    text = f'<?xml version="1.0" encoding="{name}"?><rss><item><id>1</id><title>Юбка</title></item></rss>'
    (tmp_path/'feed.xml').write_text(text, codec)
    assert [list(row.cells) for row in open_table(tmp_path/'feed.xml').rows()] == [['1', 'Юбка']]


def test_items_across_blocks(tmp_path):
    "Items are found wherever a block of the file ends, by their right lines."
    many = [coat(n, 'Red', 'M', description='x'*1000) for n in range(700)]
    file = xml(tmp_path/'feed.xml', many)
    rows = list(open_table(file).rows())
    at = open_table(file).headers.index('id')
    lines = file.read_text('utf-8').splitlines()
    assert [row.cells[at] for row in rows] == [r['id'] for r in many] and file.stat().st_size > 1 << 20
    assert all('<item>' in lines[row.line - 1] for row in rows)


def test_local_inventory_finds_product_and_size(db, tmp_path):
    import_products(db, tsv(tmp_path/'feed.tsv', ROWS), mapping='google')
    store = {'brand': 'Nordlys', 'store_id': 'N1', 'name': 'Nordlys', 'timezone': 'UTC'}
    import_stores(db, write(tmp_path/'s.csv', [store]))
    stock = [{'store_code': 'N1', 'id': 'NL-1', 'quantity': '3', 'availability': 'in_stock'},
             {'store_code': 'N1', 'id': 'NL-2', 'quantity': '0', 'availability': 'out_of_stock'},
             {'store_code': 'N1', 'id': 'NL-TEE', 'quantity': '1', 'availability': 'limited_availability'}]
    report = import_availability(db, write(tmp_path/'local.csv', stock), mapping='google', brand='Nordlys',
                                 fetched_at=datetime.now(timezone.utc).isoformat())
    found = {r['product_id']: r['sizes_in_stock'] for r in table(db, 'availability_latest', 'product_id')}
    assert report.rejected == 0 and found['NL-COAT-Red'] == ['M'] and found['NL-TEE']


def presta(n, **values):
    return {
        'Product ID': str(n), 'Image': f'https://p.example/img/p/{n}/{n}-small_default.jpg',
        'Name': 'Printed dress',
        'Reference': f'demo_{n}', 'Category': 'Dresses', 'Price (tax excl.)': '€26.00',
        'Price (tax incl.)': '€31.20', 'Quantity': '90', 'Status': '1', **values,
    }


def test_the_product_list_of_prestashop(db, tmp_path):
    hat = presta(5, Name='Caf&eacute; <b>hat</b>', Category='Hats', Reference='')
    rows = [presta(3), presta(4, Status='0'), hat]
    file = tmp_path/'p.csv'
    with file.open('w', encoding='utf-8', newline='') as f:
        writer = csv.DictWriter(f, list(rows[0]), delimiter=';')
        writer.writeheader()
        writer.writerows(rows)
    options = ReadOptions(base_url='https://p.example')
    report = import_products(db, file, mapping='prestashop', brand='Nordlys', options=options)
    found = {r['external_id']: r for r in table(db)}
    assert set(found) == {'demo_3', 'id:5'} and '1 disabled products are left out, as demo_4' in report.notes
    dress, hat = found['demo_3'], found['id:5']
    assert (dress['price'], dress['currency']) == (Decimal('31.20'), 'EUR')
    assert dress['category_canonical'] == 'dress'
    assert dress['image_urls'] == ['https://p.example/img/p/3/3.jpg'] and hat['name'] == 'Café hat'
    assert dress['product_url'] == 'https://p.example/index.php?controller=product&id_product=3'


def test_prestashop_as_its_import_takes_it(db, tmp_path):
    "Features, discounts, net prices, and a row a combination as modules export them."
    def row(reference, value, price='100', **more):
        return {
            'Product ID': '7', 'Active (0/1)': '1', 'Name *': 'Wool coat',
            'Categories (x,y,z...)': 'Home,Women,Coats', 'Price tax excluded': price,
            'Discount percent': '20', 'Discount from (yyyy-mm-dd)': '0000-00-00',
            'Discount to (yyyy-mm-dd)': '0000-00-00', 'Product reference': 'C7', 'Reference': reference,
            'Manufacturer': 'Nordlys', 'Summary': '<p>Short</p>', 'Description': '<p>Warm<br/>coat</p>',
            'Image URLs (x,y,z...)': f'https://p.example/{value[0]}.jpg,https://p.example/b.jpg',
            'Feature (Name:Value:Position:Customized)': 'Composition:Wool:1,Season:Winter:2',
            'Attribute (Name:Type:Position)*': 'Color:color:0, Size:select:1',
            'Value (Value:Position)*': value, **more,
        }
    rows = [row('C7-1', 'Red:0, M:1'), row('C7-2', 'Red:0, S:1'), row('C7-3', 'Dark blue:0, M:1')]
    report = import_products(db, write(tmp_path/'p.csv', rows), mapping='prestashop',
                             options=ReadOptions(currency='EUR'))
    found = {r['external_id']: r for r in table(db)}
    assert set(found) == {'C7-Red', 'C7-Dark blue'} and report.rejected == 0
    red = found['C7-Red']
    assert (red['price'], red['sizes']) == (Decimal(80), ['S', 'M'])
    assert (red['gender'], red['composition'], red['brand']) == ('women', 'Wool', 'nordlys')
    assert (red['category_canonical'], red['description']) == ('outerwear', 'Warm coat')
    assert red['image_urls'] == ['https://p.example/R.jpg', 'https://p.example/b.jpg']
    assert any('without tax' in note for note in report.notes)
    with db.connect('catalogue') as conn:
        skus = dict(conn.execute('select sku, size from variant_skus order by 1').fetchall())
    assert skus == {'C7-1': 'M', 'C7-2': 'S', 'C7-3': 'M'}


@pytest.mark.parametrize('rows, system', [
    (ROWS, 'google'), ([presta(1)], 'prestashop'),
    ([{'Handle': 'a', 'Title': 'A', 'Option1 Name': 'Size', 'Option1 Value': 'S'}], 'shopify'),
    ([{'ID': '1', 'Type': 'simple', 'SKU': 'a', 'Name': 'A', 'Regular price': '1'}], 'woocommerce'),
    ([{'sku': 'a', 'attribute_set_code': 'Top', 'product_type': 'simple', 'name': 'A'}], 'magento'),
])
def test_an_export_without_a_map_is_told_which_fits(db, tmp_path, rows, system):
    with pytest.raises(ValueError, match=f'or use --map {system}'):
        import_products(db, write(tmp_path/'x.csv', rows))


@pytest.mark.parametrize('system', ['google', 'prestashop'])
def test_another_file_is_named(db, tmp_path, system):
    with pytest.raises(ValueError, match='export'):
        import_products(db, write(tmp_path/'x.csv', [{'sku': '1'}]), mapping=system, brand='x')
    with pytest.raises(ValueError, match='no column'):
        import_availability(db, write(tmp_path/'y.csv', [{'x': '1'}]), mapping=system, brand='x')


def test_a_feed_that_is_json_stays_refused(db, tmp_path):
    (tmp_path/'f.json').write_text(json.dumps([{'id': 1}]))
    with pytest.raises(ValueError, match='JSON'): import_products(db, tmp_path/'f.json', mapping='google')
