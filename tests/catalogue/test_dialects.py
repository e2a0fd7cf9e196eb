"""Files as other countries, spreadsheets and systems write them: right, or refused; never silently wrong."""

from datetime import datetime, timedelta, timezone
from decimal import Decimal

import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from unde_recog.attributes import product_attributes
from unde_recog.catalogue.columns import PriceColumn, TimeColumn, currency_of, in_utc, read_price
from unde_recog.catalogue.imports import import_products, import_stores
from unde_recog.catalogue.reading import ReadOptions, open_table
from unde_recog.catalogue.stock import import_availability
from unde_recog.catalogue.values import read_id, read_key, read_sizes, read_text, read_zone
from unde_recog.folding import is_null
from unde_recog.text_encoding import TWICE, EncodingUnclear, find_encoding

from tests.catalogue.test_kinds import HEADER, products, refused, write

LOCALES = """
    ar_AE ar_EG bn_BD cs_CZ da_DK de_AT de_CH de_DE el_GR en_GB en_IN en_US en_ZA es_AR es_CL es_ES
    es_MX et_EE fa_IR fi_FI fr_BE fr_CA fr_CH fr_FR he_IL hi_IN hr_HR hu_HU id_ID it_CH it_IT ja_JP
    ka_GE kk_KZ ko_KR lt_LT lv_LV ms_MY nb_NO nl_NL pl_PL pt_BR pt_PT ro_RO ru_RU sk_SK sl_SI sv_SE
    th_TH tr_TR uk_UA vi_VN zh_CN zh_TW
""".split()


# prices and times


@examples(max_examples=150, deadline=None)
@given(st.sampled_from(LOCALES), st.integers(1, 10**8), st.sampled_from([None, "EUR", "USD"]))
def test_prices_as_any_country_writes_them(locale, cents, currency):
    numbers = pytest.importorskip("babel.numbers")
    code = currency or numbers.get_territory_currencies(locale[-2:])[0]
    value = round(Decimal(cents) / 100, numbers.get_currency_precision(code))
    written = numbers.format_currency(value, code, locale=locale)
    try:
        found = read_price(written)
    except ValueError:
        return
    assert found == value and currency_of(written) in (None, code)


@examples(max_examples=150, deadline=None)
@given(
    st.sampled_from(LOCALES),
    st.sampled_from(["short", "medium", "long"]),
    st.integers(1, 28),
    st.integers(1, 12),
)
def test_times_as_any_country_writes_them(locale, length, day, month):
    dates = pytest.importorskip("babel.dates")
    at = datetime(datetime.now(timezone.utc).year - 1, month, day, 9, 5)
    column = TimeColumn()
    for n in {day, 13, 27}:
        column.observe(dates.format_datetime(at.replace(day=n), length, locale=locale))
    try:
        found = column.read(dates.format_datetime(at, length, locale=locale))
    except ValueError:
        return
    assert found.replace(tzinfo=None) == at


@pytest.mark.parametrize(
    "text, price, currency",
    [
        ("CHF 1'299.–", 1299, "CHF"),
        ("CHF 1’299.—", 1299, "CHF"),
        ("1 299:-", 1299, None),
        ("Rp 129.000", 129000, "IDR"),
        ("₹ 1,29,999/-", 129999, "INR"),
        ("12,800円(税込)", 12800, "JPY"),
        ("12.990 Ft", 12990, "HUF"),
        ("NT$1299", 1299, "TWD"),
        ("١٬٢٩٩٫٥٠ ر.س", "1299.50", "SAR"),
        ("$1,299.00 USD", 1299, "USD"),
        ("R1299.90", "1299.90", "ZAR"),
        ("19,95 € TTC", "19.95", "EUR"),
        ("S/. 129.90", "129.90", "PEN"),
        ("&euro;5", 5, "EUR"),
        ("\u202a€19.95\u202c", "19.95", "EUR"),
        ("sFr. 19.95", "19.95", "CHF"),
        ("1 299,00 грн.", 1299, "UAH"),
        ("129.99 лв", "129.99", "BGN"),
    ],
)
def test_further_ways_to_write_a_price(text, price, currency):
    assert (read_price(text), currency_of(text)) == (Decimal(price), currency)


@pytest.mark.parametrize(
    "text", ["$5 EUR", "£5 USD", "19.95-", "(19.95)", "from 19.95", "ab 19,95 €", "19.95 / pc", "¥12,800"]
)
def test_what_is_not_one_price(text):
    with pytest.raises(ValueError):
        read_price(text)


def test_years_first_in_two_digits():
    now = datetime.now(timezone.utc).year % 100
    column = TimeColumn()
    for day in ("02", "13", "25"):
        column.observe(f"{now}/11/{day} 09:05")
    assert column.read(f"{now}/11/02 09:05") == datetime(2000 + now, 11, 2, 9, 5)
    assert column.read(f"{now}/11/2 09:05") == datetime(2000 + now, 11, 2, 9, 5)
    with pytest.raises(ValueError):
        TimeColumn("dmy").read(f"{now}/11/2")  # no year has one digit


@pytest.mark.parametrize("year", [1, 1448, 1900, 1970])
def test_a_time_from_before_there_were_polls(year):
    with pytest.raises(ValueError, match="before the year 2000"):
        in_utc(datetime(year, 1, 2, tzinfo=timezone.utc), None)


# sizes

DISGUISES = {
    "|": "|",
    ";": ";",
    ",": ", ",
    "full width": "，",
    "ideographic": "、",
    "semicolon": "；",
    "arabic": "،",
    "bullet": " • ",
    "br": "<br/>",
    "line": "\n",
    "slash": " / ",
    "nbsp": "&nbsp;",
    "spaces": " ",
    "entity": "&#44; ",
}


@examples(max_examples=100, deadline=None)
@given(
    st.lists(st.sampled_from("XS S M L XL 2XL 36 38 104".split()), min_size=2, max_size=5, unique=True),
    st.sampled_from([*DISGUISES]),
    st.booleans(),
)
def test_sizes_between_any_signs(sizes, sign, wide):
    shown = [s.translate({n: n + 0xFEE0 for n in b"SML0123468"}) if wide else s for s in sizes]
    text = DISGUISES[sign].join(shown)
    try:
        assert read_sizes(text) == sizes
    except ValueError as e:
        assert "--list-separator" in str(e)


@examples(max_examples=100, deadline=None)
@given(
    st.lists(st.booleans(), min_size=2, max_size=4),
    st.sampled_from(
        [
            "{} (sold out)",
            "{}: out of stock",
            "{} - ausverkauft",
            "{} (agotado)",
            "{}=0",
            "{} x0",
            "{}:нет",
        ]
    ),
    st.sampled_from([", ", " | ", ";"]),
)
def test_no_size_that_is_sold_out_is_offered(there, gone, sign):
    sizes = ["S", "M", "L", "XL"][: len(there)]
    counted = gone in ("{}=0", "{} x0")
    have = gone.replace("0", "2") if counted else "{}"
    text = sign.join((have if is_there else gone).format(s) for s, is_there in zip(sizes, there))
    assert read_sizes(text, in_stock=True) == [s for s, is_there in zip(sizes, there) if is_there]


@pytest.mark.parametrize(
    "cell, sizes",
    [
        ("['S' 'M']", ["S", "M"]),
        ('["S", "M"]', ["S", "M"]),
        ("S(2) M(0)", ["S"]),
        ('[["S", 2], ["M", 0]]', ["S"]),
        ('[{"size": "S", "qty": 2}, {"size": "M", "qty": 0}]', ["S"]),
        ('{"S": {"qty": 1}, "M": {"qty": 0}}', ["S"]),
        ("EU 36 / UK 8 / US 4", ["EU 36 / UK 8 / US 4"]),
        ("UK 8, UK 10", ["UK 8", "UK 10"]),
        ("S/M/L", ["S", "M", "L"]),
        ("S/M", ["S/M"]),
        ("XS/S, M/L", ["XS/S", "M/L"]),
        ("32/34", ["32/34"]),
        ("S-M", ["S-M"]),
        ("3-4 años, 5-6 años", ["3-4 años", "5-6 años"]),
        ("36.5 37 37.5", ["36.5", "37", "37.5"]),
        ("S, M & L", ["S", "M", "L"]),
        ("44.0", ["44"]),
        ("s, S", ["s"]),
        ("#REF!", []),
        ("Talla única", ["Talla única"]),
        ("S (only 2 left)", ["S"]),
    ],
)
def test_sizes_of_still_further_shapes(cell, sizes):
    assert read_sizes(cell, in_stock=True) == sizes


@pytest.mark.parametrize(
    "cell", ["4-Mar", "Mar-36", "2026-03-04", "2026-03-04T00:00:00", "1-Dez, 2-Dez", "4.Okt"]
)
def test_sizes_that_a_spreadsheet_took_for_dates(cell):
    with pytest.raises(ValueError, match="date that a spreadsheet"):
        read_sizes(cell)


# texts and keys


@pytest.mark.parametrize(
    "word",
    [
        "#REF!",
        "#N/A",
        "#WERT!",
        "#BEZUG!",
        "#NV",
        "#¡VALOR!",
        "#¿NOMBRE?",
        "#N/D",
        "#ЗНАЧ!",
        "#Н/Д",
        "#DIV/0!",
        "#####",
        "#SPILL!",
    ],
)
def test_errors_of_a_spreadsheet_are_no_text(word):
    assert is_null(word) and read_text(word) is None and read_key(word) is None and read_sizes(word) == []


def test_entities_controls_and_formulas():
    assert (
        read_text("Caf&eacute; &amp;amp; Bar\x07") == "Café & Bar"
        and read_key("Mall &amp; More") == "Mall & More"
    )
    assert read_text("<p>a &lt; b</p>") == "a < b" and read_text("a?x=1&copy=2") == "a?x=1&copy=2"
    for formula in ("=A2", "=VLOOKUP(A2;B:C;2)", "='Other sheet'!B2", "=Sheet1!$A$1"):
        with pytest.raises(ValueError, match="formula"):
            read_key(formula)
    assert read_text("=) happy socks") == "=) happy socks"


@pytest.mark.parametrize(
    "text", ["Total", "TOTALS", "Итого: 12", "Summe", "Gesamtsumme", "Grand Total", "合計"]
)
def test_a_row_of_totals_is_no_product(text):
    with pytest.raises(ValueError, match="totals"):
        read_id(text)


def test_zones_in_any_case_and_only_those_of_places():
    assert (
        read_zone("europe/madrid") == "Europe/Madrid"
        and read_zone("America/New York") == "America/New_York"
    )
    for name in ("localtime", "posixrules", "Factory", "../UTC", "GMT+1"):
        with pytest.raises(ValueError):
            read_zone(name)


@pytest.mark.parametrize("field", ["name", "description", "composition", "category"])
def test_a_very_long_text_takes_no_time_squared(field):
    assert product_attributes({field: "x" * 400_000}) == {}


# whole files


@pytest.mark.parametrize(
    "encoding, names",
    [
        ("cp874", ["ชุดเดรสสีแดง", "เสื้อเชิ้ต", "กางเกงยีนส์"]),
        ("cp874", ["ชุดเดรส"]),
        ("cp932", ["ﾜﾝﾋﾟｰｽ", "ﾄﾞﾚｽ 赤"]),
        ("cp932", ["ﾜﾝﾋﾟｰｽ"]),
        ("cp1255", ["שמלה אדומה", "חולצה כחולה"]),
        ("iso8859_7", ["Φόρεμα", "Ά Μπλούζα"]),
        ("mac_cyrillic", ["Платье красное", "Рубашка"]),
        ("iso8859_5", ["Платье", "Рубашка"]),
        ("koi8_u", ["Сукня їжак"]),
        ("iso8859_6", ["فستان أحمر"]),
        ("iso2022_jp", ["ワンピース"]),
        ("utf-16-le", ["пальто тёплое " * 30] * 9),
        ("utf-16-be", ["連身裙紅色女裝春季" * 9] * 9),
        ("utf-32-le", ["Größe"]),
        ("cp1251", ["Платье", "ПЛАТЬЕ"]),
        ("cp1253", ["Ποδήλατο", "Φόρεμα"]),
        ("cp1252", ["Größe für Männer", "naïve"]),
        ("gb18030", ["连衣裙 红色"]),
    ],
)
def test_more_encodings_are_read_right_or_asked_for(tmp_path, encoding, names):
    lines = [f"{n},Zara,{name},5\n" for n, name in enumerate(names)]
    file = write(tmp_path, (HEADER + "".join(lines)).encode(encoding))
    try:
        table = open_table(file)
    except EncodingUnclear as e:
        assert encoding in str(e) and "--encoding" in str(e)
        table = open_table(file, ReadOptions(encoding=encoding))
    assert [r.cells[2].strip() for r in table.rows()] == [name.strip() for name in names]


@examples(max_examples=60, deadline=None)
@given(st.lists(st.text("abcéüñßÁÀøł€’–日", min_size=1, max_size=9), min_size=1, max_size=6))
def test_utf8_that_was_written_twice_is_mended(tmp_path_factory, names):
    text = HEADER + "".join(f"{n},Zara,{name}é,5\n" for n, name in enumerate(names))
    as_cp1252 = "".join(
        bytes([b]).decode("cp1252") if b not in (0x81, 0x8D, 0x8F, 0x90, 0x9D) else chr(b)
        for b in text.encode()
    )
    file = write(tmp_path_factory.mktemp("twice"), as_cp1252)
    assert find_encoding(file) == TWICE
    assert [r.cells[2] for r in open_table(file).rows()] == [f"{name}é" for name in names]


@pytest.mark.parametrize(
    "above",
    [
        "Products of 2026\n",
        "Products of 2026,,,\n",
        "# exported by Ana\n# shop: x\n",
        "Goods,,,Money\n",
        "\n\nPrice list\n\n",
    ],
)
def test_lines_above_the_header(db, tmp_path, above):
    report = import_products(db, write(tmp_path, above + HEADER + "1,Zara,Top,5\n"))
    assert products(db)["1"]["price"] == 5 and "what is above it is not read" in str(report)


def test_headers_in_the_styles_of_programmers(db, tmp_path):
    import_products(
        db, write(tmp_path, "externalId,BRAND,Name,IMAGE-URLS\n1,Zara,Top,https://a.example/1.jpg\n")
    )
    assert products(db)["1"]["image_urls"] == ["https://a.example/1.jpg"]


def test_lines_that_stand_in_quotes_as_a_whole(tmp_path):
    with pytest.raises(ValueError, match="quotes as a whole"):
        open_table(
            write(tmp_path, '"external_id,brand,name"\n"1,Zara,""Top, blue"""\n'),
            None,
            {"external_id", "brand"},
        )


def test_a_cell_longer_than_csv_takes_by_itself(db, tmp_path):
    report = import_products(db, write(tmp_path, f"{HEADER}1,Zara,{'long ' * 40_000},5\n2,Zara,Top,5\n"))
    assert set(products(db)) == {"1", "2"} and report.exit_code == 0


def test_a_total_at_the_end_is_refused(db, tmp_path):
    report = import_products(
        db, write(tmp_path, "external_id,name,price\n1,Top,5\n2,Top,6\nTotal,,11\n"), brand="Zara"
    )
    assert set(products(db)) == {"1", "2"} and "totals" in refused(report)[4]


# workbooks and Parquet

ROW = ["external_id", "brand", "name", "price", "sizes"]


def workbook(folder, fill):
    book = openpyxl.Workbook()
    fill(book, book.active)
    book.save(folder / "t.xlsx")
    return folder / "t.xlsx"


def fill(sheet, *rows):
    for row in rows:
        sheet.append(row)


def test_the_sheet_with_the_goods_is_read_and_the_others_are_told(db, tmp_path):
    def sheets(book, first):
        first.title = "Info"
        fill(first, ["Export of 2026"], ["by Ana"])
        fill(book.create_sheet("Old"), ROW, ["9", "Zara", "Old", 5, "S"])
        book["Old"].sheet_state = "hidden"
        fill(
            book.create_sheet("Goods"),
            ["Spring"],
            ROW,
            ["1", "Zara", "Top", 5, "S"],
            ["2", "Zara", "Top", 5, "S"],
        )
        book["Goods"].row_dimensions[4].hidden = True

    report = import_products(db, workbook(tmp_path, sheets))
    assert set(products(db)) == {"1", "2"} and report.exit_code == 0
    told = "\n".join(report.notes)
    for said in ("'Goods' is read, not 'Info', 'Old'", "1 rows are hidden", "stands in row 2"):
        assert said in told


def test_numbers_of_a_workbook_and_texts_that_look_like_them(db, tmp_path):
    def goods(book, sheet):
        fill(
            sheet,
            ROW,
            [123, "Zara", "a", 19.95 * 3, 36],
            ["2", "Zara", "b", "19,95", "36,5"],
            ["3", "Zara", "c", "1.299", "S"],
            ["4", "Zara", "d", "=2+3", "S"],
            ["5", "Zara", "e", "#N/A", datetime(2026, 3, 4)],
        )
        sheet["A2"].number_format = "00000"

    report = import_products(db, workbook(tmp_path, goods))
    found = {k: r["price"] for k, r in products(db).items()}
    assert found == {"00123": Decimal("59.85"), "2": Decimal("19.95"), "3": Decimal(1299), "4": None}
    assert "formulas have no stored value" in str(report) and "spreadsheet" in refused(report)[6]


def test_nested_types_of_parquet(db, tmp_path):
    pq.write_table(
        pa.table(
            {
                "external_id": pa.array([b"1", b"2", b"3"]),
                "brand": pa.array(["Zara"] * 3).dictionary_encode(),
                "price": pa.array([19.95, 1299.0, None], pa.float32()),
                "sizes": pa.array([[("S", 2), ("M", 0)], None, []], pa.map_(pa.string(), pa.int32())),
                "attributes": [{"fit": "slim", "pattern": None}, None, {"fit": None, "pattern": None}],
            }
        ),
        tmp_path / "t.parquet",
    )
    report = import_products(db, tmp_path / "t.parquet")
    found = {k: (r["price"], r["sizes"]) for k, r in products(db).items()}
    assert found == {"1": (Decimal("19.95"), ["S", "M"]), "2": (Decimal(1299), []), "3": (None, [])}
    assert report.exit_code == 0


def test_text_prices_of_parquet_follow_their_column(db, tmp_path):
    table = pa.table({"external_id": ["1", "2"], "brand": ["Zara"] * 2, "price": ["19,95", "1.299"]})
    pq.write_table(table, tmp_path / "t.parquet")
    import_products(db, tmp_path / "t.parquet")
    assert [r["price"] for r in products(db).values()] == [Decimal("19.95"), Decimal(1299)]


def test_typed_numbers_need_no_column():
    from unde_recog.catalogue.reading import TypedText

    column = PriceColumn()
    for text in ("1.299,00", "19,95"):
        column.observe(text)
    assert column.read(TypedText("1.299")) == Decimal("1.299") and column.read("1.299") == 1299


# stores and stock


def test_malls_behind_entities_are_one(db, tmp_path):
    rows = "brand,store_id,name,mall_name\na,1,A,Mall &amp; More\nb,1,B,Mall & More\nc,1,C,MALL & MORE\n"
    import_stores(db, write(tmp_path, rows))
    with db.connect("catalogue") as conn:
        assert conn.execute("select distinct mall_name from raw_stores").fetchall() == [("Mall & More",)]


def test_notes_of_a_workbook_reach_every_report(db, tmp_path):
    at = (datetime.now(timezone.utc) - timedelta(minutes=9)).isoformat()

    def stock(book, sheet):
        fill(
            sheet,
            ["brand", "store_id", "product_id", "sizes_in_stock", "fetched_at"],
            ["zara", 1, "1", "S", at],
        )
        fill(book.create_sheet("Notes"), ["x"], ["y"])

    assert "not 'Notes'" in str(import_availability(db, workbook(tmp_path, stock)))

    def stores(book, sheet):
        fill(sheet, ["brand", "store_id", "name"], ["zara", 1, "Z"])
        fill(book.create_sheet("Notes"), ["x"], ["y"])

    assert "not 'Notes'" in str(import_stores(db, workbook(tmp_path, stores)))


# shop systems


@pytest.mark.parametrize("word", ["FALSE", "FALSO", "FALSCH", "ЛОЖЬ", "Faux"])
def test_a_product_unpublished_in_any_language_is_left_out(db, tmp_path, word):
    rows = (
        "Handle,Title,Vendor,Published,Option1 Name,Option1 Value,Variant SKU,Variant Price,Image Src\n"
        f"a,,,,,,,,https://a.example/2.jpg\na,Top,Nordlys,TRUE,Size,S,A1,5,https://a.example/1.jpg\n"
        f"b,Old,Nordlys,{word},Size,S,B1,5,\n"
    )
    report = import_products(db, write(tmp_path, rows), mapping="shopify")
    found = products(db)
    assert set(found) == {"a"} and len(found["a"]["image_urls"]) == 2 and found["a"]["sizes"] == ["S"]
    assert any("unpublished" in note for note in report.notes)
