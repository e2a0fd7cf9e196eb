"""Tables of every dialect, encoding and damage: what is read equals what was written, or is refused.

Never shifted, never silent: a row that is not read is named by its line."""
import csv
import io
import random

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from unde_recog.catalogue.reading import ReadOptions, open_table
from unde_recog.text_encoding import EncodingUnclear, older_encoding

WORDS = {
    'utf-8': ['añil', 'Пальто', '羽绒服', "Levi's", 'S; M', 'a,b', 'x|y', '5" heel', 'e\u0301te', ''],
    'utf-8-sig': ['añil', 'Пальто', 'two\nlines', ''],
    'utf-16': ['añil', 'Пальто', '羽绒服', 'two, words'],
    'cp1252': ['Camiseta añil', 'pantalón', 'niño', 'azul', '“rouge”'],
    'cp1251': ['Пальто', 'шерстяное', 'Юбка', 'красная', 'coat'],
    'gb18030': ['羽绒服', '女款', '大衣', 'coat'],
    'cp1250': ['Šaty', 'květinové', 'příze', 'žluté', 'top'],
}
tables = st.sampled_from(list(WORDS)).flatmap(
    lambda encoding: st.tuples(
        st.just(encoding),
        st.lists(
            st.tuples(*[st.sampled_from(WORDS[encoding])] * 2, st.integers(0, 999)),
            min_size=3,
            max_size=12,
        ),
    )
)
dialects = st.fixed_dictionaries({
    'delimiter': st.sampled_from(',;\t|'), 'quoting': st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_MINIMAL]),
    'lineterminator': st.sampled_from(['\n', '\r\n', '\r']),
})


def text_of(rows, **dialect):
    out = io.StringIO(newline='')
    writer = csv.writer(out, **dialect)
    writer.writerow(['id', 'name', 'note', 'price'])
    writer.writerows([f'K{n}', name, note, f'{price}.50'] for n, (name, note, price) in enumerate(rows))
    return out.getvalue()


def as_read(cell): return cell.replace('\r\n', '\n').replace('\r', '\n').strip()


def written(rows):
    return {
        f'K{n}': [as_read(name), as_read(note), f'{price}.50']
        for n, (name, note, price) in enumerate(rows)
    }


def read(path, **options):
    "(id → cells of the rows that are read, lines that are refused)"
    rows = list(open_table(path, ReadOptions(**options)).rows())
    good = [[as_read(c) for c in r.cells] for r in rows if not r.fault]
    assert len({r[0] for r in good}) == len(good)
    return {r[0]: r[1:] for r in good}, [r.line for r in rows if r.fault]


@hypothesis_settings(deadline=None, max_examples=300)
@given(tables, dialects, st.sampled_from(['', 'sep', '\n\n', ';;;\n,,,\n']))
def test_what_was_written_is_read(tmp_path_factory, table, dialect, before):
    encoding, rows = table
    if dialect['lineterminator'] == '\r':  # csv's writer leaves a \n in a cell without quotes then
        rows = [(name.replace('\n', ' '), note.replace('\n', ' '), price) for name, note, price in rows]
    path = tmp_path_factory.mktemp('t')/'t.csv'
    first = f"sep={dialect['delimiter']}{dialect['lineterminator']}" if before == 'sep' else before
    path.write_bytes((first + text_of(rows, **dialect)).encode(encoding))
    try: found, refused = read(path)
    except EncodingUnclear as e:
        assert '--encoding' in str(e)
        found, refused = read(path, encoding=encoding)
    assert found == written(rows) and refused == []


DAMAGES = ['open quote', 'lost quote', 'extra cell', 'lost cell', 'bad byte', 'inner quote']


def damaged(line, damage, delimiter, rng):
    "One line of a table with a fault; None if this line cannot have it."
    cells = line.split(delimiter)
    at = rng.randrange(len(cells))
    if damage == 'open quote':
        if '"' in line: return None
        cells[at] = '"' + cells[at]
    elif damage == 'lost quote':
        if '"' not in line: return None
        return line[::-1].replace('"', '', 1)[::-1]
    elif damage == 'extra cell': cells.insert(at, 'x')
    elif damage == 'lost cell': del cells[at]
    elif damage == 'bad byte': cells[at] += '\udcff'
    else:
        if '"' in line: return None
        cells[at] = f'"{cells[at]}" x'
    return delimiter.join(cells)


@hypothesis_settings(deadline=None, max_examples=400)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(['Bota', 'Top azul', 'a b c', 'Falda']),
            st.sampled_from(['x', 'two words', '']),
            st.integers(0, 999),
        ),
        min_size=4,
        max_size=15,
    ),
    dialects,
    st.sampled_from(DAMAGES),
    st.integers(0, 10**6),
)
def test_a_damaged_line_costs_itself_alone(tmp_path_factory, rows, dialect, damage, seed):
    rng, dialect = random.Random(seed), {**dialect, 'lineterminator': '\n'}
    rows = [('añil', 'marrón', 1), *rows]
    lines = text_of(rows, **dialect).split('\n')
    at = rng.randrange(2, len(rows) + 1)
    line = damaged(lines[at], damage, dialect['delimiter'], rng)
    if line is None: return
    lines[at] = line
    path = tmp_path_factory.mktemp('t')/'t.csv'
    path.write_bytes('\n'.join(lines).encode('utf-8', 'surrogateescape'))
    found, refused = read(path)
    expected = written(rows)
    own = expected.pop(f'K{at - 1}')
    assert {k: v for k, v in found.items() if k in expected} == expected
    extra = {k: v for k, v in found.items() if k not in expected}
    if extra: assert damage in ('inner quote', 'lost quote', 'open quote') or list(extra.values()) == [own]
    else: assert refused == [at + 1]


def test_a_multi_line_cell_between_stray_quotes(tmp_path):
    (tmp_path/'t.csv').write_text(
        'id,name,note,price\nK0,a,"first\nsecond, and third",1\nK1,"12-inch,x,2\nK2,b,y,3\n'
        'K3,"c\nd",z,4\nK4,e,w,5\n'
    )
    found, refused = read(tmp_path/'t.csv')
    assert found['K0'] == ['a', 'first\nsecond, and third', '1'] and found['K3'][0] == 'c\nd'
    assert set(found) == {'K0', 'K2', 'K3', 'K4'} and refused == [4]


def test_two_stray_quotes_do_not_swallow_the_rows_between(tmp_path):
    (tmp_path / 't.csv').write_text(
        'id,name,note,price\nK0,a,x,1\nK1,"12-inch,x,2\nK2,b,y,3\nK3,c",z,4\nK4,d,w,5\n'
    )
    found, refused = read(tmp_path/'t.csv')
    assert (
        {'K0', 'K2', 'K4'} <= set(found)
        and 3 in refused
        and all('\n' not in c for r in found.values() for c in r)
    )


@pytest.mark.parametrize(
    'encoding, text',
    [
        ('cp1252', 'Camiseta añil\nPantalón niño'),
        ('cp1251', 'Пальто шерстяное'),
        ('koi8_r', 'Пальто шерстяное красное'),
        ('cp1250', 'Šaty květinové, příze'),
        ('cp1253', 'Φόρεμα γυναικείο'),
        ('cp1255', 'שמלה אדומה'),
        ('gb18030', '羽绒服女款大衣'),
        ('cp949', '원피스 자켓 여성'),
        ('cp932', 'ワンピース レッド'),
        ('cp866', 'Пальто шерстяное'),
        ('mac_roman', 'Chemise légère, été'),
        ('cp850', 'Camiseta añil y pantalón'),
    ],
)
def test_older_encodings_are_read_right_or_asked_for(encoding, text):
    try: found = older_encoding(text.encode(encoding))
    except EncodingUnclear as e: assert '--encoding' in str(e)
    else: assert text.encode(encoding).decode(found) == text


def test_excel_and_parquet(tmp_path):
    pd = pytest.importorskip('pandas')
    pytest.importorskip('pyarrow'), pytest.importorskip('openpyxl')
    table = pd.DataFrame({'id': ['00123', '2'], 'price': [1.299, 20.0], 'name': ['añil', None]})
    table.to_parquet(tmp_path/'t.parquet')
    table.to_excel(tmp_path/'t.xlsx', index=False)
    for name in ('t.parquet', 't.xlsx'):
        found, refused = read(tmp_path/name)
        assert found == {'00123': ['1.299', 'añil'], '2': ['20', '']} and refused == []


def test_options_that_cannot_work(tmp_path):
    (tmp_path/'t.csv').write_text('a,b\n1,2\n')
    for options, said in (
        ({'encoding': 'klingon'}, 'no such encoding'),
        ({'delimiter': 'ab'}, '--delimiter'),
    ):
        with pytest.raises(ValueError, match=said): open_table(tmp_path/'t.csv', ReadOptions(**options))


@pytest.mark.parametrize('page', ['cp1251', 'koi8_r', 'cp866', 'iso8859_5'])
def test_one_russian_word_is_read_rightly_or_asked_about(page):
    "However often it stands in the file: its letters alone must not choose another code page."
    for word in 'Юбка белый Шорты размер ЮБКА Пальто Сапоги цвет Джинсы'.split():
        try: found = older_encoding('\n'.join([word]*9).encode(page))
        except EncodingUnclear: continue
        assert word.encode(page).decode(found) == word


@pytest.mark.parametrize('quote', ['', '"'])
@pytest.mark.parametrize('at', [1, 300])
def test_a_line_of_many_megabytes_is_refused_by_itself(tmp_path, quote, at):
    lines = [f'{n},Zara,coat' for n in range(302)]
    lines[at] = f'{at},Zara,{quote}{"y"*10_000_001}{quote}'
    (tmp_path/'t.csv').write_text('\n'.join(['id,brand,name', *lines]))
    rows = list(open_table(tmp_path/'t.csv').rows())
    assert [(r.line, 'longer than' in r.fault) for r in rows if r.fault] == [(at + 2, True)]
    assert len(rows) == 302
