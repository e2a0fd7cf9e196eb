"""Values by column and by cell: each is right or refused, and the reason names the option."""
import html
from datetime import timezone
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from unde_recog.catalogue.columns import PriceColumn, TimeColumn, read_time
from unde_recog.catalogue.texts import read_text
from unde_recog.catalogue.values import bracketed, photo_address, read_photos, read_sizes
from unde_recog.folding import alias_key, brand_key, clean, fold


def written(value, decimal, group, places):
    text = f'{value:,.{places}f}'
    return text.translate({ord(','): group, ord('.'): decimal})


STYLES = [('.', ','), (',', '.'), (',', '\u00a0'), ('.', "'"), (',', ''), ('.', '')]


@hypothesis_settings(deadline=None)
@given(
    st.lists(st.decimals(0, 99999, places=2), min_size=1, max_size=12), st.sampled_from(STYLES),
    st.sampled_from(['{}', '€ {}', '{} EUR', '{}€']), st.booleans(),
)
def test_a_column_of_one_style_is_read_as_it_was_written(values, style, around, whole):
    "Cells without a fraction among them: `1.299` means what the others say."
    places = [0 if whole and n % 2 else 2 for n in range(len(values))]
    texts = [around.format(written(v, *style, p)) for v, p in zip(values, places)]
    column = PriceColumn()
    for text in texts: column.observe(text)
    assert [column.read(text) for text in texts] == [Decimal(f'{v:.{p}f}') for v, p in zip(values, places)]


@given(st.text('0123456789.,\' €-x', max_size=12))
def test_any_text_is_a_price_or_refused(text):
    column = PriceColumn()
    column.observe(text)
    try: value = column.read(text)
    except ValueError as e: assert str(e)
    else: assert value is None or 0 <= value < 10**9


def test_a_column_that_says_both_or_nothing_asks():
    for texts in (['1.299'], ['19.95', '19,95', '1.299']):
        column = PriceColumn()
        for text in texts: column.observe(text)
        with pytest.raises(ValueError, match='--decimal'): column.read('1.299')


URLS = [
    'https://cdn.example/w_300,h_400,c_fill/a.jpg', 'https://cdn.example/b.jpg?v=1,2',
    'http://x.example/High_Street,_1.jpg', 'https://cdn.example/a;b.jpg', 'https://cdn.example/ñ.jpg',
]


@given(
    st.lists(st.sampled_from(URLS), unique=True, max_size=5),
    st.sampled_from(['|', ', ', ';', ' ', '\n', ',']),
)
def test_addresses_come_apart_as_they_were_put_together(urls, separator):
    assert read_photos(separator.join(urls)) == urls


@given(st.text(max_size=30))
def test_any_cell_is_sizes_photos_or_refused(text):
    for reader in (read_sizes, read_photos, bracketed, photo_address):
        try: reader(text)
        except ValueError as e: assert str(e)


SIZES = ['S', 'M', 'XL', '36', '36,5', '38/40', 'One Size']


@given(st.lists(st.sampled_from(SIZES), unique=True, min_size=2, max_size=5))
def test_sizes_come_apart(sizes):
    assert read_sizes('|'.join(sizes)) == read_sizes('; '.join(sizes)) == sizes
    assert read_sizes('{' + ','.join(f'"{s}"' for s in sizes) + '}') == sizes


def test_dates_are_decided_by_the_column():
    column = TimeColumn()
    for text in ('03/04/2026', '28/11/2026 18:00'): column.observe(text)
    assert (column.read('03/04/2026').month, column.read('28.11.2026 6:05 pm').hour) == (4, 18)
    with pytest.raises(ValueError, match='--date-order'): TimeColumn().read('03/04/2026')
    assert TimeColumn('mdy').read('03/04/2026').month == 3
    with pytest.raises(ValueError, match='--timezone'): read_time('2026-11-20 09:00')
    assert read_time('2026-11-20 09:00', 'Europe/Madrid').astimezone(timezone.utc).hour == 8


@given(st.text(max_size=20))
def test_folding_is_stable(text):
    assert fold(fold(text)) == fold(text) == fold(clean(text)) and fold(text).isascii()
    assert fold(text.upper()) == fold(text.upper().upper())
    try: key = brand_key(text)
    except ValueError: return
    assert brand_key(key) == key and alias_key(key)


def test_no_letter_is_folded_to_what_folds_further():
    for letter in map(chr, (*range(0xd800), *range(0xe000, 0x30000))):
        assert fold(fold(letter)) == fold(letter), letter
    for text in ('&amp;amp;', '&Amp;', '&\u200bamp;', '&AMP;lt;'): assert fold(fold(text)) == fold(text), text


def test_signs_that_people_take_for_the_same():
    same = [
        ['AÑO-1', 'AN\u0303O-1', 'año–1', 'ANO-1\u200b'],
        ["L'Illa", 'L’ILLA', 'L`illa'],
        ['Ｈ＆Ｍ', 'h&amp;m'],
    ]
    assert all(len({fold(t) for t in texts}) == 1 for texts in same)
    assert fold('连衣裙') != fold('外套') and fold('Łódź') == 'lodz'


@pytest.mark.parametrize(
    'written, shown',
    [
        ('<b>Coat</b> &amp; belt', 'Coat & belt'),
        ('Caf&eacute; <br> coat', 'Café coat'),
        ('<p>Warm.</p><p>Soft.</p>', 'Warm. Soft.'),
        ('&lt;p&gt;50&amp;nbsp;%&lt;/p&gt;', '50 %'),
        ('<a href="x?a=1&b=2" title=\'1 > 0\'>Hat</a>', 'Hat'),
        ('<!-- note --><style>b {x: y}</style>Scarf<o:p></o:p>', 'Scarf'),
        ('<ul><li>Wool</li></ul>Long text that ends in <str', 'Wool Long text that ends in'),
        ('Dress <3', 'Dress <3'),
        ('A < B', 'A < B'),
        ('A <b and c> D', 'A <b and c> D'),
        ('for sizes <M and >S', 'for sizes <M and >S'),
        ('Size <S> & <L>', 'Size <S> & <L>'),
        ('Top [red]limited[/red] &copy 2', 'Top [red]limited[/red] &copy 2'),
        ('Q&A; H&M', 'Q&A; H&M'),
        ('<p> </p>', None),
    ],
)
def test_html_is_read_as_a_browser_shows_it(written, shown):
    "Tags and entities are read, also escaped once more; other brackets stay."
    assert read_text(written) == shown
    if shown and '<' not in shown: assert read_text(html.escape(written)) == shown
