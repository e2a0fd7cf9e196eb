"""Further inputs of the kinds in test_cases.py: right, or refused with a reason; never silent."""

import gzip
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal

import pytest
from psycopg.rows import dict_row

from unde_recog.catalogue.imports import import_products
from unde_recog.catalogue.reading import ReadOptions
from unde_recog.catalogue.shops import ShopContext, price_now
from unde_recog.catalogue.stock import import_availability
from unde_recog.catalogue.values import read_photos, read_sizes
from unde_recog.text_encoding import EncodingUnclear

HEADER = 'external_id,brand,name,price\n'


def write(folder, data, name='t.csv'):
    path = folder / name
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


def products(db):
    with db.connect('catalogue') as conn, conn.cursor(row_factory=dict_row) as cursor:
        return {r['external_id']: r for r in cursor.execute('select * from raw_products').fetchall()}


def stock(db):
    with db.connect('catalogue') as conn:
        return dict(conn.execute('select product_id, sizes_in_stock from raw_availability').fetchall())


def refused(report):
    "line → reason"
    import csv

    if report.rejects_file is None:
        return {}
    with open(report.rejects_file, encoding='utf-8', newline='') as f:
        return {int(r['line']): r['reason'] for r in csv.DictReader(f)}


@pytest.mark.parametrize(
    'encoding, rows',
    [
        ('mac_roman', 'Chemise légère d’été|Crème brûlée ça'),
        ('cp1250', 'Kurtka żółta|Sukienka łączka'),
        ('cp932', 'ワンピース赤'),
        ('big5', '連身裙紅色'),
        ('cp850', 'Größe für Männer'),
        ('cp1252', 'Größe'),
        ('cp1252', 'Top € 5'),
        ('iso8859_15', 'Top € 5'),
        ('cp1254', 'Kırmızı şapka'),
        ('cp949', '여성 원피스'),
        ('utf-16-le', 'Пальто'),
        ('utf-16-be', 'Größe'),
        ('utf-32', 'Größe'),
        ('cp1253', 'Φόρεμα γυναικείο'),
    ],
)
def test_encodings_are_read_right_or_asked_for(db, tmp_path, encoding, rows):
    lines = [f'{n};Zara;{name};19,95\n' for n, name in enumerate(rows.split('|'))]
    file = write(tmp_path, ('external_id;brand;name;price\n' + ''.join(lines)).encode(encoding))
    try:
        import_products(db, file)
    except EncodingUnclear as e:
        assert '--encoding' in str(e) and encoding in str(e)
        import_products(db, file, options=ReadOptions(encoding=encoding))
    assert [r['name'] for r in products(db).values()] == rows.split('|')


def test_a_sign_alone_does_not_ask(db, tmp_path):
    report = import_products(db, write(tmp_path, (HEADER + '1,Zara,Top,€ 19.95\n').encode('cp1252')))
    assert report.exit_code == 0 and (products(db)['1']['price'], products(db)['1']['currency']) == (
        Decimal('19.95'),
        'EUR',
    )


@pytest.mark.parametrize(
    'chosen, said',
    [
        ('utf-16', 'does not begin'),
        ('base64', 'no such encoding'),
        ('klingon', 'no such encoding'),
    ],
)
def test_an_encoding_that_cannot_be(db, tmp_path, chosen, said):
    file = write(tmp_path, HEADER + '1,Zara,Top,5\n')
    with pytest.raises(ValueError, match=f'--encoding {chosen}.*{said}'):
        import_products(db, file, options=ReadOptions(encoding=chosen))


def test_a_zero_byte_costs_its_row(db, tmp_path):
    report = import_products(db, write(tmp_path, HEADER + '1,Zara,T\0op,5\n2,Zara,Top,5\n'))
    assert set(products(db)) == {'2'} and set(refused(report)) == {2}


@pytest.mark.parametrize(
    'data, said',
    [
        (gzip.compress(HEADER.encode(), mtime=0), 'gzip'),
        (b'PK\3\4' + b'\0' * 99, 'zip'),
        (b'%PDF-1.7\n', 'PDF'),
        (b'\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1' + b'\0' * 99, 'old Excel'),
        (b'<?xml version="1.0"?><rss/>', 'XML'),
        (b'<html><table>', 'HTML'),
        (b'[{"external_id": "1"}]', 'JSON'),
        (b"a,b\n'1','x'\n'2','y'\n", 'apostrophes'),
        (b'external_id~brand\n1~Zara\n', '--delimiter'),
        (b'', 'is empty'),
        (b'\n\n', 'is empty'),
        (b'external_id,brand\n', 'no rows'),
        (b'external_id,brand,Brand \n1,a,b\n', 'columns 2 and 3'),
    ],
)
def test_other_files_are_named_with_a_remedy(db, tmp_path, data, said):
    with pytest.raises(ValueError, match=said):
        import_products(db, write(tmp_path, data))
    assert products(db) == {}


def test_spaces_before_quotes(db, tmp_path):
    text = 'external_id, "brand", name, price\n"1", "Zara", "Top, azul", "19.95"\n"2", "Zara", "Top", "5"\n'
    report = import_products(db, write(tmp_path, text))
    found = {k: (r['name'], r['price']) for k, r in products(db).items()}
    assert (
        found == {'1': ('Top, azul', Decimal('19.95')), '2': ('Top', Decimal(5))} and report.rejected == 0
    )


def test_a_header_in_the_middle_is_no_product(db, tmp_path):
    header = 'external_id,brand,name\n'
    report = import_products(db, write(tmp_path, f'{header}1,Zara,Top\n{header}2,Zara,Top\n\x1a'))
    assert set(products(db)) == {'1', '2'} and refused(report) == {3: 'repeats the header'}


def test_ids_that_a_spreadsheet_has_changed(db, tmp_path):
    rows = '="00123",Zara,a,5\n"=""00124""",Zara,b,5\n\'00125,Zara,c,5\n'
    rows += '1.23E+11,Zara,d,5\n1,2E+5,Zara,e\n12E4,Zara,f,5\n'
    report = import_products(db, write(tmp_path, HEADER + rows))
    assert set(products(db)) == {'00123', '00124', '00125', '12E4'} and set(refused(report)) == {5, 6}
    assert 'spreadsheet' in refused(report)[5]


def test_dashes_and_words_for_nothing(db, tmp_path):
    text = (
        'external_id,brand,name,colour\n1,Zara,—,-\n-,Zara,x,y\n2,--,x,y\n3,#NAME?,x,y\n4,Zara,NaT,(none)\n'
    )
    report = import_products(db, write(tmp_path, text))
    assert {k: (r['name'], r['colour']) for k, r in products(db).items()} == {
        '1': (None, None),
        '4': (None, None),
    }
    assert set(refused(report)) == {3, 4, 5}


SOLD_OUT = (
    'sold out',
    'SOLD_OUT',
    'Out of stock',
    'agotado',
    'ausverkauft',
    'épuisé',
    'нет в наличии',
    '缺货',
    'no',
    'False',
    '0',
    '-',
    '—',
    '()',
    '[ ]',
    '{NULL}',
    '""',
    "['']",
    '["sold out"]',
    'n/a',
    'S: 0',
    'S (sold out)',
)


@pytest.mark.parametrize('cell', SOLD_OUT)
def test_sold_out_in_words_is_never_a_size(cell):
    assert read_sizes(cell, in_stock=True) == []


@pytest.mark.parametrize('cell', ['in stock', 'Yes', 'TRUE', 'available', 'в наличии', 'auf Lager'])
def test_in_stock_without_sizes_is_refused(cell):
    with pytest.raises(ValueError, match='One Size'):
        read_sizes(cell)


def test_sizes_of_further_shapes():
    assert read_sizes('{"S": "2", "M": "0"}', in_stock=True) == ['S']
    assert read_sizes('S: in stock, M: sold out', in_stock=True) == ['S']
    assert read_sizes('(S, M)') == ['S', 'M'] and read_sizes('S (EU 36), M (EU 38)') == [
        'S (EU 36)',
        'M (EU 38)',
    ]
    assert read_sizes('36,5,37,38,5') == ['36,5', '37', '38,5'] and read_sizes('W30/L32') == ['W30/L32']
    with pytest.raises(ValueError, match='HTML'):
        read_sizes('<li>S</li>')


def readings(rows, header='brand,store_id,product_id,sizes_in_stock,quantity,fetched_at'):
    at = (datetime.now(timezone.utc) - timedelta(hours=1)).isoformat()
    return header + '\n' + ''.join(f'zara,1,{n},{row},{at}\n' for n, row in enumerate(rows))


def test_counts_beside_sizes(db, tmp_path):
    rows = ['S,5+', 'S,>5', 'S,no', 'S,-2', 'S,many', ',4', ',0', 'S,1.5', 'S,yes', 'sold out,3']
    report = import_availability(db, write(tmp_path, readings(rows)))
    assert stock(db) == {'0': ['S'], '1': ['S'], '2': [], '3': [], '6': [], '8': ['S']}
    assert set(refused(report)) == {6, 7, 9, 11} and 'One Size' in refused(report)[7]


@pytest.mark.parametrize(
    'text, hour', [('2026-11-20 09.05', 9), ('20.11.2026 9:05', 9), ('11/20/2026 9:05 PM', 21)]
)
def test_clocks(db, tmp_path, text, hour):
    rows = f'brand,store_id,product_id,sizes_in_stock,fetched_at\nzara,1,A,S,{text}\n'
    import_availability(db, write(tmp_path, rows), options=ReadOptions(timezone='UTC'))
    with db.connect('catalogue') as conn:
        (at,) = conn.execute('select fetched_at from raw_availability').fetchone()
    assert (at.hour, at.minute, at.microsecond) == (hour, 5, 0)


@pytest.mark.parametrize(
    'text', ['2026-W47-5', '2026-11-20 09:60', '31.02.2026', '0000-00-00 00:00:00', '46000.5']
)
def test_what_is_no_time(db, tmp_path, text):
    rows = f'brand,store_id,product_id,sizes_in_stock,fetched_at\nzara,1,A,S,{text}\n'
    report = import_availability(db, write(tmp_path, rows), options=ReadOptions(timezone='UTC'))
    assert report.exit_code == 2 and stock(db) == {}


@pytest.mark.parametrize(
    'text, price, currency',
    [
        ('1980円', 1980, 'JPY'),
        ('Rs. 499', 499, None),
        ("Fr. 1'299.-", 1299, None),
        ('CHF. 19.90', '19.90', 'CHF'),
        ('1\u202f299,00 zł', 1299, 'PLN'),
        ('₹1,29,999.00', 129999, 'INR'),
        ('１９．９５', '19.95', None),
    ],
)
def test_prices_of_further_countries(db, tmp_path, text, price, currency):
    import_products(db, write(tmp_path, f'external_id;brand;price\n1;Zara;{text}\n'))
    row = products(db)['1']
    assert row['price'] == Decimal(price) and row['currency'] == currency


PHOTOS = {
    'https://a.example/b.jpg, c.jpg': ['https://a.example/b.jpg', 'c.jpg'],
    'https://a.example/b.jpg,': ['https://a.example/b.jpg'],
    'https://a.example/High_Street,_London.jpg': ['https://a.example/High_Street,_London.jpg'],
    'https://a.example/x;b.jpg, https://a.example/c.jpg': [
        'https://a.example/x;b.jpg',
        'https://a.example/c.jpg',
    ],
    'https://a.example/r?url=https://b.example/c.jpg': ['https://a.example/r?url=https://b.example/c.jpg'],
    '{"front": "https://a.example/b.jpg"}': ['https://a.example/b.jpg'],
    'https%3A%2F%2Fa.example%2Fb.jpg': ['https://a.example/b.jpg'],
}


@pytest.mark.parametrize('cell', PHOTOS)
def test_photo_addresses_of_further_shapes(cell):
    found = read_photos(cell)
    assert list(found) == PHOTOS[cell] and found.refused == []


@pytest.mark.parametrize(
    'cell',
    [
        'https://',
        'https:/a.example/b.jpg',
        '<img src="a.jpg">',
        'https://a.example/no_image_available.jpg',
        'https://a.example/image-coming-soon.png',
        'blob:https://a.example/x',
        'htps://a.example/b.jpg',
    ],
)
def test_what_is_no_photo_is_told(cell):
    found = read_photos(cell)
    assert list(found) == [] and len(found.refused) == 1


def test_photos_without_a_folder_are_told(db, tmp_path):
    report = import_products(db, write(tmp_path, 'external_id,brand,image_urls\n1,Zara,a.jpg|b.jpg\n'))
    assert any('2 photos are names of files' in note and '--images' in note for note in report.notes)


# shop systems

MAGENTO = (
    'sku,store_view_code,product_type,categories,name,product_online,price,special_price,'
    'special_price_from_date,'
    'special_price_to_date,additional_images,additional_attributes,configurable_variations\n'
)


def test_magento_as_it_exports(db, tmp_path):
    rows = '''A-S-Blue,,simple,Default Category/Tops,Tank S,1,39,29,11/1/20,,,"color=Blue,size=S",
A-M-Blue,,simple,Default Category/Tops,Tank M,1,39,,,,,"color=Blue,size=M",
A,,configurable,Default Category/Tops,Tank,1,,,,,,,"sku=a-s-blue,size=S|sku=A-M-Blue,size=M"
A-S-Blue,de,simple,,Hemd,,,,,,,,
OVER,,simple,Default Category/Tops,Over,1,10,5,1/1/20,1/31/20,"https://c.io/a,b.jpg,https://c.io/c.jpg",,
OFF,,simple,Default Category/Tops,Off,2,10,,,,,,
B-S,,simple,Default Category/Tops,B,1,10,,,,,"size=S",
B,,configurable,Default Category/Tops,B,2,,,,,,,"sku=B-S,size=S"
C,,configurable,Default Category/Tops,C,1,,,,,,,"sku=ELSEWHERE,size=S"
SET,,bundle,Default Category/Tops,Set,1,10,,,,,,
'''
    report = import_products(db, write(tmp_path, MAGENTO + rows), mapping='magento', brand='Luma')
    found = products(db)
    assert {k: float(r['price']) for k, r in found.items()} == {'A-Blue': 29.0, 'OVER': 10.0}
    assert set(found['OVER']['image_urls']) == {'https://c.io/a,b.jpg', 'https://c.io/c.jpg'}
    told = '\n'.join(report.notes)
    for said in ('1 rows of other store views', '1 bundle', 'without a variation here are left out, as C'):
        assert said in told
    assert 'disabled products are left out, as OFF' in told and report.exit_code == 0


def test_shopify_of_both_kinds(db, tmp_path):
    rows = '''Title,URL handle,Vendor,Status,SKU,Option1 name,Option1 value,Price,Product image URL,Published
Shirt,shirt,Nordlys,Active,S1,Size,S,29.90,https://c.example/a.jpg,TRUE
,shirt,,,S2,,M,29.90,https://c.example/b.jpg,
Old,old,Nordlys,Archived,O1,Title,Default Title,5,,TRUE
Hidden,hidden,Nordlys,Active,H1,Title,Default Title,5,,FALSE
Lost,,Nordlys,Active,L1,Title,Default Title,5,,TRUE
'''
    report = import_products(db, write(tmp_path, rows), mapping='shopify')
    (row,) = products(db).values()
    assert (row['external_id'], row['sizes'], len(row['image_urls'])) == ('shirt', ['S', 'M'], 2)
    assert refused(report) == {6: 'has no handle'} and report.exit_code == 3
    assert any('archived' in n and 'old' in n for n in report.notes) and any(
        'unpublished' in n for n in report.notes
    )


def test_woocommerce_as_it_exports(db, tmp_path):
    rows = '''ID,Type,SKU,Name,Published,Date sale price ends,Sale price,Regular price,'''
    rows += '''Categories,Images,Parent,Attribute 1 name,Attribute 1 value(s)
10,variable,HD,Hood,1,,,,"Hoodies, X","https://w.io/h,1.jpg, https://w.io/2.jpg",,Color,"Blue, Red\\, dark"
11,variation,HD-B,,1,,35,42,,,HD,Color,Blue
12,variation,HD-R,,1,2020-02-01,30,42,,,id:10,Color,"Red\\, dark"
13,simple,P,Private,0,,,5,,,,,
14,simple,D,Draft,-1,,,5,,,,,
15,grouped,G,Group,1,,,,,,,,
17,variation,ORPHAN,,1,,,5,,,NOPE,Color,Blue
'''
    report = import_products(db, write(tmp_path, rows), mapping='woocommerce', brand='Nordlys')
    found = {k: (float(r['price']), len(r['image_urls'])) for k, r in products(db).items()}
    assert found == {'HD-Blue': (35.0, 2), 'HD-Red, dark': (42.0, 2)}
    assert "'nope'" in refused(report)[8] and {n.split(' left out')[0] for n in report.notes} >= {
        '1 private products are',
        '1 draft products are',
        '1 grouped products are',
    }


def test_an_export_in_another_language_is_named(db, tmp_path):
    file = write(tmp_path, 'ID,Typ,Artikelnummer,Name\n1,simple,A,Kleid\n')
    with pytest.raises(ValueError, match='English'):
        import_products(db, file, mapping='woocommerce', brand='x')


@pytest.mark.parametrize(
    'starts, ends, expected',
    [
        ('', '', '39'),
        ('11/20/26', '', '39'),
        ('11/21/26', '', '54'),
        ('', '2026-11-20', '39'),
        ('', '2026-11-19', '54'),
        ('soon', '', '54'),
        ('2026-11-01 00:00:00', '2026-11-30 23:59:59', '39'),
    ],
)
def test_a_special_price_counts_on_its_days(starts, ends, expected):
    assert price_now('54', '39', starts, ends, today=date(2026, 11, 20)) == expected


def test_what_is_left_out_is_counted():
    context = ShopContext()
    for name in 'abc':
        context.leave_out('drafts are left out', name)
    assert context.told() == ['3 drafts are left out, as a']
