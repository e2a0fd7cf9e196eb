"""The shop data of ../shared/cases, each file with its right outcome; and small inputs of the same kinds.

The files lie beside the checkout; a test that needs one skips where it is missing."""
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path

import pytest
from PIL import Image
from psycopg.rows import dict_row

from unde_recog.catalogue.imports import import_products, import_stores
from unde_recog.catalogue.reading import ReadOptions, open_table
from unde_recog.catalogue.stock import import_availability
from unde_recog.catalogue.values import canonical_category
from unde_recog.media.images import to_jpeg
from unde_recog.media.storage import FolderStorage
from unde_recog.text_encoding import EncodingUnclear


@pytest.fixture(scope='session')
def cases():
    folder = Path(__file__).resolve().parents[3]/'shared'/'cases'
    if not folder.is_dir(): pytest.skip('needs ../shared/cases beside the checkout')
    return folder


@pytest.fixture
def case(cases, tmp_path):
    "A copy of a case file, whose rejects file then lies beside the copy."
    def copied(name):
        path = tmp_path/name
        path.write_bytes((cases/name).read_bytes())
        return path
    return copied


def table(db, name='raw_products', order='brand, external_id'):
    with db.connect('catalogue') as conn, conn.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(f'select * from {name} order by {order}').fetchall()


def products(db): return {r['external_id']: r for r in table(db)}


def rejected(report):
    "id of each line of the rejects file → (column, reason); ids are the first cell of the imported file."
    import csv
    if report.rejects_file is None: return {}
    with open(report.rejects_file, encoding='utf-8', newline='') as f:
        return {int(r['line']): r for r in csv.DictReader(f)}


# encodings

@pytest.mark.parametrize(
    'name, expected, said',
    [
        (
            'c02_cp1251.csv',
            {'name': 'Пальто шерстяное', 'category': 'Одежда/Пальто', 'price': Decimal(12990)},
            'cp1251',
        ),
        ('c02_cp1252.csv', {'name': 'Camiseta añil "retrô"', 'price': Decimal('19.95')}, 'cp1252'),
        ('c02_gbk.csv', {'name': '羽绒服 女款', 'price': Decimal(399)}, 'gb18030'),
        ('c02_utf16.csv', {'name': 'Falda', 'price': Decimal('19.95')}, 'utf-16'),
    ],
)
def test_encodings(db, case, name, expected, said):
    report = import_products(db, case(name))
    assert (report.inserted, report.rejected, report.exit_code) == (1, 0, 0) and said in str(report)
    (row,) = table(db)
    assert {k: row[k] for k in expected} == expected


def test_one_bad_byte_costs_its_row(db, case):
    report = import_products(db, case('c02_mixed_one_bad_byte.csv'))
    assert {k: (r['name'], r['colour']) for k, r in products(db).items()} == {
        'A1': ('Jersey añil', 'añil'), 'A3': ('Señora', 'marrón'),
    }
    assert (report.rejected, report.exit_code) == (1, 3) and '0xF1' in rejected(report)[3]['reason']


def test_an_unclear_encoding_stops_and_asks(db, tmp_path):
    file = tmp_path/'p.csv'
    file.write_bytes('external_id,brand,name\n1,Zara,crème\n'.encode('cp1252'))
    with pytest.raises(EncodingUnclear, match='--encoding') as e: import_products(db, file)
    assert 'cp1252' in str(e.value) and 'cp1250' in str(e.value) and table(db) == []
    report = import_products(db, file, options=ReadOptions(encoding='cp1252'))
    assert products(db)['1']['name'] == 'crème' and report.exit_code == 0


# quotes and ragged rows

@pytest.mark.parametrize('name, ids, refused', [
    ('c03_stray_quote.csv', ['A1', 'A3', 'A4', 'A5'], {3}),
    ('c03_stray_quote_then_ok.csv', ['A2', 'A3'], {2}), ('c03_extra_cell_comma_name.csv', [], {2}),
    ('c03_extra_cell_decimal_comma.csv', ['A2'], {2}), ('c03_short_row.csv', ['A1'], {3}),
    ('c03_multiline_desc.csv', ['A1'], set()),
])
def test_broken_lines_cost_themselves_alone(db, case, name, ids, refused):
    report = import_products(db, case(name))
    found = products(db)
    assert sorted(found) == ids and set(rejected(report)) == refused
    assert report.exit_code == (0 if not refused else 2 if not ids else 3)
    assert all(
        '\n' not in r['name'] and ',' not in r['name'] and r['brand'] == 'zara'
        for r in found.values()
    )


def test_a_real_line_break_stays_in_its_cell(db, case):
    import_products(db, case('c03_multiline_desc.csv'))
    row = products(db)['A1']
    assert row['description'] == '<p>Line one</p> <p>Line, two</p>' and row['price'] == Decimal('19.95')


@pytest.mark.parametrize(
    'name, expected',
    [
        (
            'c03_backslash_escape.csv',
            {'A1': ('Top "Luna", azul', Decimal('19.95')), 'A2': ('Top', Decimal('9.95'))},
        ),
        (
            'c03_inner_inch.csv',
            {'A1': ('Boot 5" heel', Decimal('59.95')), 'A3': ('Top', Decimal('9.95'))},
        ),
    ],
)
def test_quotes_inside_cells(db, case, name, expected):
    import_products(db, case(name))
    assert {k: (r['name'], r['price']) for k, r in products(db).items()} == expected


# prices

AMBIGUOUS = {'P05', 'P06', 'P07', 'P08', 'P09', 'P16', 'P37', 'P40'}
PRICES = {
    'P00': '19.95', 'P01': '19.95', 'P02': '1299', 'P03': '1299', 'P04': '1299', 'P10': '1299000',
    'P11': '1299', 'P12': '1299', 'P13': '1299', 'P14': '1299', 'P15': '129999', 'P17': '0',
    'P18': '0', 'P20': '19', 'P21': '19', 'P28': None, 'P32': '19.95', 'P33': '19.95',
    'P34': '19.95', 'P35': '1299', 'P36': '0.99', 'P38': '0.001', 'P41': '1299.90',
}
NO_PRICE = {
    'P19', 'P22', 'P23', 'P24', 'P25', 'P26', 'P27', 'P29', 'P30', 'P31', 'P39', 'P42', 'P43',
    'P44', 'P45', 'P46',
}


def by_id(report, file):
    "external_id of each refused line → reason."
    lines = file.read_text('utf-8').splitlines()
    return {lines[n - 1].split(',')[0]: r['reason'] for n, r in rejected(report).items()}


def test_prices_of_a_mixed_column(db, case):
    file = case('c04_prices.csv')
    report = import_products(db, file)
    reasons, found = by_id(report, file), products(db)
    assert set(reasons) == AMBIGUOUS | NO_PRICE
    assert all(('--decimal' in reason) == (k in AMBIGUOUS) for k, reason in reasons.items())
    assert {k: None if r['price'] is None else r['price'].normalize() for k, r in found.items()} == {
        k: None if v is None else Decimal(v).normalize() for k, v in PRICES.items()
    }


def test_prices_with_a_decimal_sign_given(db, case):
    import_products(db, case('c04_prices.csv'), options=ReadOptions(decimal=','))
    found = {k: r['price'] for k, r in products(db).items()}
    assert (found['P05'], found['P08'], found['P09'], found['P40']) == (1299, 12500, 1299000, 1250000)


def test_a_column_decides(db, tmp_path):
    (tmp_path/'p.csv').write_text('external_id;brand;price\n1;Zara;19,95\n2;Zara;1.299\n')
    import_products(db, tmp_path/'p.csv')
    assert [r['price'] for r in table(db)] == [Decimal('19.95'), Decimal(1299)]


def test_the_currency_that_a_price_names(db, tmp_path):
    (tmp_path / 'p.csv').write_text(
        'external_id,brand,price,currency\n1,Zara,€19.95,\n2,Zara,19.95,usd\n3,Zara,€19.95,USD\n'
    )
    report = import_products(db, tmp_path/'p.csv', options=ReadOptions(currency='GBP'))
    assert [r['currency'] for r in table(db)] == ['EUR', 'USD'] and rejected(report)[4][
        'column'
    ] == 'currency'


# brands

def test_brands(db, case):
    file = case('c06_brands.csv')
    report = import_products(db, file)
    brand = {r['external_id']: r['brand'] for r in table(db)}
    groups = {
        'levi_s': 'B00 B01 B02 B03 B04 B05 B06', 'l_oreal': 'B07 B08', 'hm': 'B09 B10 B11 B12 B14',
        'pull_bear': 'B15 B16 B17 B18 B19', 'massimo_dutti': 'B26 B27 B28 B29', 'sostrene': 'B30',
        'weiss': 'B31', 'lodz': 'B32', 'strasse': 'B33', 'c_a': 'B35 B36',
        'marks_and_spencer': 'B37 B38 B39', 'zara': 'B20', 'zara_com': 'B43',
    }
    for key, ids in groups.items(): assert {brand[i] for i in ids.split()} == {key}
    assert (
        brand['B21'].startswith('zara_')
        and brand['B22'] == 'zara'
        and brand['B23']
        and brand['B24'] == f"uniqlo_{brand['B23']}"
    )
    assert set(by_id(report, file)) == {'B25', 'B40', 'B41', 'B42'}


def test_a_mall_shop_is_found_whatever_the_apostrophe(db, case):
    import_products(db, case('c23_products.csv'))
    import_stores(db, case('c23_stores.csv'))
    assert table(db)[0]['brand'] == table(db, 'raw_stores', 'store_id')[0]['brand'] == 'levi_s'


# sizes

SIZES = {
    'S00': ['36/38'], 'S01': ['S', 'M', 'L'], 'S02': ['S', 'M', 'L'], 'S03': ['S', 'M', 'L'],
    'S04': ['S', 'M', 'L'], 'S05': ['36,5'], 'S06': ['36,5', '37'], 'S07': ['36.5', '37'],
    'S08': ['S', 'M'], 'S09': ['36', '37.5'], 'S10': ['S', 'M'], 'S11': ['S', 'M', 'L'], 'S12': [],
    'S13': ['One Size', 'M'], 'S14': [], 'S15': [], 'S16': [], 'S17': [], 'S18': [], 'S19': [],
    'S20': ['S', 'M'], 'S21': ['S', 'M', 'L'], 'S22': [], 'S23': ['S'], 'S24': ['S', 'M'],
    'S25': ['S', 'M'], 'S26': ['S', 'M'],
}


def test_sizes(db, case):
    report = import_products(db, case('c07_sizes.csv'))
    assert report.rejected == 0 and {k: r['sizes'] for k, r in products(db).items()} == SIZES


def recent(file, **shift):
    "The file with its times moved to an hour ago."
    import re
    now = datetime.now(timezone.utc) - timedelta(hours=1)
    text = file.read_text('utf-8')
    times = [
        datetime.fromisoformat(t)
        for t in re.findall(r'\d{4}-\d\d-\d\dT[\d:.]+(?:Z|[+-]\d\d:\d\d)', text)
    ]
    for t in sorted(set(times)):
        for written in re.findall(r'\d{4}-\d\d-\d\dT[\d:.]+(?:Z|[+-]\d\d:\d\d)', text):
            if datetime.fromisoformat(written) == t:
                text = text.replace(written, (now - (max(times) - t)).isoformat())
    file.write_text(text, 'utf-8')
    return file


def test_sizes_in_stock(db, case):
    report = import_availability(db, recent(case('c07_stock_sizes.csv')))
    counted = {'S24': ['S'], 'S25': ['S'], 'S26': ['S']}
    found = {r['product_id']: r['sizes_in_stock'] for r in table(db, 'raw_availability', 'product_id')}
    assert report.rejected == 0 and found == SIZES | counted


def test_an_empty_postgres_array_is_sold_out(db, case):
    import_products(db, case('c20_products.csv'))
    import_stores(db, case('c20_store.csv'))
    import_availability(db, recent(case('c20_stock_pg_array.csv')))
    assert [r['sizes_in_stock'] for r in table(db, 'raw_availability', 'product_id')] == [[]]


def test_one_row_a_size_is_one_reading(db, case):
    report = import_availability(db, recent(case('c25_stock_row_per_size.csv')))
    (row,) = table(db, 'raw_availability', 'product_id')
    assert row['sizes_in_stock'] == ['S', 'M', 'L'] and report.inserted == 1


def test_rows_out_of_order(db, case):
    import_availability(db, recent(case('c25_stock_reordered.csv')))
    newest = table(db, 'raw_availability', 'fetched_at')[-1]
    assert (
        newest['sizes_in_stock'] == []
        and table(db, 'availability_latest', '1')[0]['sizes_in_stock'] == []
    )


# addresses

def test_photo_addresses(db, case):
    file = case('c08_urls.csv')
    report = import_products(db, file)
    found = {k: r['image_urls'] for k, r in products(db).items()}
    one, two = (
        'U00 U01 U02 U03 U04 U05 U06 U07 U08 U15 U16 U18 U19'.split(),
        'U09 U10 U11 U12 U13 U14'.split(),
    )
    assert {k: len(found[k]) for k in one + two} == dict.fromkeys(one, 1) | dict.fromkeys(two, 2)
    assert all(
        u.startswith(('https://', 'http://')) and '\\' not in u and ' ' not in u
        for k in one + two
        for u in found[k]
    )
    assert set(by_id(report, file)) == {'U17', 'U20', 'U21', 'U22'} and report.exit_code == 3
    assert all(not found[k] for k in ('U17', 'U20', 'U21', 'U22'))


# identity

def test_malls_are_compared_folded(db, case):
    import_stores(db, case('c11_stores.csv'))
    malls = [r['mall_name'] for r in table(db, 'raw_stores', 'store_id::int')]
    assert malls == ['Galería Norte']*5 + ['L’Illa']*2 + ['Афимолл']*2


def test_a_mall_of_another_brand_is_the_same(db, case):
    for name in 'ab': import_stores(db, case(f'c22_stores_{name}.csv'))
    assert {r['mall_name'] for r in table(db, 'raw_stores', 'store_id')} == {'Galería Ñandú'}


def test_stock_in_another_unicode_form_finds_its_product(db, case):
    import_products(db, case('c22_products.csv'))
    report = import_availability(db, recent(case('c22_stock.csv')))
    assert table(db, 'raw_availability', '1')[0]['product_id'] == table(db)[0]['external_id'] == 'AÑO-1'
    assert not any('not in the catalogue, as brk A' in note for note in report.notes if 'products' in note)


def test_photo_names_of_a_folder(db, case, tmp_path):
    photos = tmp_path/'photos'
    (photos/'sub').mkdir(parents=True)
    for name in ('camiso\u0301n.jpg', 'foto 1.jpg', 'IMG_1.jpg', 'sub/b.jpg'):
        (photos/name).write_bytes(to_jpeg(Image.new('RGB', (8, 8), 'teal')))
    report = import_products(
        db, case('c14_folder.csv'), images=photos, storage=FolderStorage(tmp_path / 'storage')
    )
    found = {k: len(r['image_urls']) for k, r in products(db).items()}
    assert found == dict.fromkeys((f'F{n}' for n in range(12)), 1) and report.rejected == 0


def test_a_long_id_has_a_bounded_key(db, case, tmp_path):
    (tmp_path/'photos').mkdir()
    (tmp_path/'photos'/'base.jpg').write_bytes(to_jpeg(Image.new('RGB', (8, 8), 'teal')))
    report = import_products(
        db,
        case('c14_long_sku.csv'),
        images=tmp_path / 'photos',
        storage=FolderStorage(tmp_path / 'storage'),
    )
    assert report.inserted == 2 and report.faults == 0
    urls = [r['image_urls'][0] for r in table(db)]
    assert len(set(urls)) == 2 and all(len(part) < 200 for url in urls for part in url.split('/'))


def test_ids_that_look_alike_are_refused_and_named(db, tmp_path):
    (tmp_path/'p.csv').write_text('external_id,brand,name\nAB-1,Zara,x\nab-1,Zara,y\n')
    report = import_products(db, tmp_path/'p.csv')
    reason = rejected(report)[3]['reason']
    assert report.inserted == 1 and "'AB-1'" in reason and "'ab-1'" in reason
    (tmp_path/'q.csv').write_text('external_id,brand,name\nAb–1,Zara,z\n')
    again = import_products(db, tmp_path/'q.csv')
    assert again.rejected == 1 and again.exit_code == 2 and table(db)[0]['name'] == 'x'


# headers, brackets, categories

def test_square_brackets(db, case):
    report = import_products(db, case('c19_brackets_name.csv'))
    assert products(db)['X2']['name'] == 'Dress [/sale] -50%' and report.rejected == 0
    table_ = open_table(case('c19_brackets_header.csv'))
    assert table_.headers == ['SKU', 'Brand', 'name', 'Price [EUR]', 'Color [/bold]']
    with pytest.raises(ValueError, match=r'did you mean Price \[EUR\]'):
        import_products(db, case('c19_brackets_header.csv'), mapping=str(case('c19_map.json')))


CATEGORIES = {
    'Apparel & Accessories > Clothing > Shirts & Tops': 'top',
    'Apparel & Accessories > Clothing > Skorts': 'bottom',
    'Apparel & Accessories > Clothing': 'other',
    'Apparel & Accessories > Clothing > Suits': 'other',
    'Apparel & Accessories > Clothing > Swimwear': 'other',
    'Apparel & Accessories > Clothing > Outerwear > Unheard': 'outerwear',
    'Shirt dresses': 'dress',
    'Dress shirts': 'top',
    'Belt bags': 'bag',
    'Sock boots': 'shoes',
    'Strickjacken': 'outerwear',
    'Handtaschen': 'bag',
    'Turnschuhe': 'shoes',
    'Handschuhe': 'accessory',
    'Abendkleider': 'dress',
    'Robes de soirée': 'dress',
    'Damen/Röcke': 'bottom',
    '连衣裙': 'dress',
    '外套': 'outerwear',
    'Coat hangers': 'other',
    'Shoe care': 'other',
    'Bag charms': 'accessory',
    'WOMEN': 'other',
    'T恤': 'top',
}


@pytest.mark.parametrize('text', CATEGORIES)
def test_categories(text): assert canonical_category(text) == CATEGORIES[text]


def test_categories_of_shop_taxonomies(db, case):
    import_products(db, case('c24_categories.csv'))
    found = {k: r['category_canonical'] for k, r in products(db).items()}
    expected = {
        'top': 'G0 G18 G27 G40 G43 G44 G48 G53 G59 G60 G61 G62 G63',
        'dress': 'G1 G4 G16 G17 G21 G36 G39 G47 G52 G55',
        'outerwear': 'G2 G19 G31 G32 G33 G38 G50 G56 G57',
        'bottom': 'G10 G20 G24 G25 G26 G28 G30 G37 G45 G46 G51', 'bag': 'G12 G22 G35 G42 G49 G65',
        'shoes': 'G13 G23 G34 G41 G54 G64', 'hat': 'G14', 'accessory': 'G15 G67 G68',
        'other': 'G5 G6 G7 G8 G9 G11 G58 G66 G69',
    }
    assert {k: found[k] for ids in expected.values() for k in ids.split()} == {
        k: c for c, ids in expected.items() for k in ids.split()
    }
    assert found['G3'] in ('outerwear', 'top') and found['G29'] in ('dress', 'bottom')


def test_a_duplicate_header_is_refused(db, tmp_path):
    (tmp_path/'p.csv').write_text('external_id,brand,Price,price \n1,Zara,5,6\n')
    with pytest.raises(ValueError, match='columns 3 and 4'): import_products(db, tmp_path/'p.csv')


def test_headers_in_other_case_and_with_line_breaks(db, tmp_path):
    (tmp_path/'p.csv').write_text('sep=;\n\n"External\nID"; BRAND ;Name\n1;Zara;Top\n;;\n')
    report = import_products(db, tmp_path/'p.csv')
    assert (report.read, report.inserted) == (1, 1) and products(db)['1']['name'] == 'Top'
