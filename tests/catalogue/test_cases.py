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
    assert row['description'] == 'Line one Line, two' and row['price'] == Decimal('19.95')


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


# photos that move, and a photo server that is down

@pytest.fixture
def photo_server():
    "(address, state): `state['down']` makes every request fail; `state['asked']` lists the paths."
    import threading
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
    state = {'down': False, 'asked': []}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            state['asked'].append(self.path)
            n = int(Path(self.path.split('?')[0]).stem)
            data = b'' if state['down'] else to_jpeg(Image.new('RGB', (40, 60), (20 + 30*n, 90, 200 - 20*n)))
            self.send_response(503 if state['down'] else 200)
            self.send_header('Content-Length', str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args): pass

    server = ThreadingHTTPServer(('127.0.0.1', 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f'http://127.0.0.1:{server.server_port}', state
    server.shutdown()


def vectors(db):
    with db.connect('vectors') as conn:
        return conn.execute('select sku_id, image_url, id from sku_image_embeddings order by 1').fetchall()


def test_addresses_that_change_cost_nothing(db, fresh_url, case, photo_server, monkeypatch, tmp_path):
    import json
    from typer.testing import CliRunner
    from unde_recog.cli import app
    base, state = photo_server
    for name, value in (
        ('DATABASE_URL', fresh_url), ('ALLOW_PRIVATE_URLS', '1'), ('UNDE_DATA_DIR', str(tmp_path/'data')),
    ): monkeypatch.setenv(name, value)

    def run(version):
        file = case(f'c17_urls_v{version}.csv')
        file.write_text(file.read_text().replace('http://127.0.0.1:34841', base))
        assert import_products(db, file).exit_code == 0
        result = CliRunner().invoke(app, ['index', '--json'])
        return result.exit_code, result.output

    code, _ = run(1)
    first = vectors(db)
    assert code == 0 and len(first) == 6
    code, said = run(2)
    counts = json.loads(said[said.index('{'):said.rindex('}') + 1])
    moved = vectors(db)
    assert code == 0 and [v[2] for v in moved] == [v[2] for v in first]  # the very same rows
    assert all(v[1].endswith('?v=2') for v in moved) and "'embedded': 0" in str(counts)
    state['down'] = True
    code, said = run(1)
    assert code != 0 and vectors(db) == moved  # and they go on answering


# labels

READ_LABELS = {
    'arabic_digit': '1', 'blank_rows': '1', 'bom': '00123', 'brand_alias': '1', 'caps': '1',
    'cp1252': '1', 'excel_float': '00123',
    'excel_zero_lost': '123', 'semicolon': '00123',
}
REFUSED_LABELS = {
    'sci': "line 2: external_id '1.23E\\+05'", 'stray_quote': 'line 2: a quote',
    'sup': "line 2: item '²'",
}


@pytest.mark.parametrize('name', READ_LABELS)
def test_label_files(case, name):
    from unde_recog.research.records import read_labels
    (label,) = read_labels(case(f'c18_labels_{name}.csv')).to_dict('records')
    assert (label['photo'], label['item'], label['brand'], label['external_id'], label['grade']) == (
        '5f0c3a1e-0000-4000-8000-000000000001', 0, 'hm' if name == 'brand_alias' else 'zara',
        READ_LABELS[name], 2,
    )
    assert label.get('note') == ('añil' if name == 'cp1252' else None)


@pytest.mark.parametrize('name', REFUSED_LABELS)
def test_label_files_that_are_refused(case, name):
    from unde_recog.research.records import LabelError, read_labels
    with pytest.raises(LabelError, match=REFUSED_LABELS[name]): read_labels(case(f'c18_labels_{name}.csv'))


def test_a_labels_file_without_labels_or_without_itself(case, tmp_path):
    from unde_recog.research.records import read_labels
    assert read_labels(case('c18_labels_empty.csv')).empty
    with pytest.raises(FileNotFoundError): read_labels(tmp_path/'elsewhere.csv')


@pytest.mark.parametrize('file', ['c18_labels_empty.csv', 'elsewhere.csv'])
def test_a_report_never_takes_simulated_data_instead(db, fresh_url, case, monkeypatch, tmp_path, file):
    from typer.testing import CliRunner
    from unde_recog.cli import app
    for name, value in (('DATABASE_URL', fresh_url), ('UNDE_DATA_DIR', str(tmp_path/'data'))):
        monkeypatch.setenv(name, value)
    path = case(file) if file.startswith('c18') else tmp_path/file
    given = ['-p', 'log', 'database', '-p', 'labels', str(path)]
    result = CliRunner().invoke(app, ['report', 'ab_test', '--to', str(tmp_path/'reports'), *given])
    assert result.exit_code == 2 and not (tmp_path/'reports'/'ab_test'/'report.md').exists()


@pytest.mark.parametrize('name', ['c19_name_closing_tag', 'c19_brackets_name'])
def test_brackets_are_printed_as_they_are(db, case, name, capsys):
    from unde_recog.commands.console import show_error
    report = import_products(db, case(f'{name}.csv'))
    assert report.rejected == 0 and 'Dress [/sale] -50%' in {r['name'] for r in table(db)}
    show_error('Dress [/sale] -50% and [red]limited[/red]')
    assert 'Dress [/sale] -50% and [red]limited[/red]' in capsys.readouterr().err


# photos of other formats

@pytest.mark.parametrize('name', [
    'no_eoi', 'heic_head', 'avif', 'gif', 'jxl', 'tiff', 'svg', 'html', 'zero', 'tall_8x6000',
])
def test_photo_formats(cases, name):
    from unde_recog.media.images import ImageError, decode
    (path,) = sorted((cases/'img').glob(f'{name}*'))[:1]
    try: image = decode(path.read_bytes(), name=path.name)
    except ImageError as e:
        assert name not in ('no_eoi', 'gif', 'tall_8x6000')
        assert path.name in str(e) and len(str(e)) > len(path.name) + 10
    else: assert image.size[0] > 0 and name not in ('heic_head', 'jxl', 'svg', 'html', 'zero')


def test_every_case_is_a_test(cases):
    text = Path(__file__).read_text('utf-8')
    names = {p.stem.split('_labels_')[-1] for p in cases.glob('c*.*')} - {'README'}
    missing = [n for n in sorted(names) if n not in text and n[:-1] not in text and n[:-2] not in text]
    assert missing == []
