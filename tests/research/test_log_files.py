"""A log that has been through somebody's spreadsheet is read as meant, or refused by line and column."""

import os
import uuid

import pandas as pd
import pytest
from typer.testing import CliRunner

from unde_recog.commands.log_files import export_app
from unde_recog.research.log_files import LogFileError, flat, log_source, read_log, write_log
from unde_recog.research.records import write_labels
from unde_recog.research.simulate import simulate_items


@pytest.fixture(scope='module')
def text(): return flat(simulate_items(4, 2, seed=0)[0]).astype(object)


def saved(table, path, **how):
    table.to_csv(path, index=False, **how)
    return path


def test_exports_of_two_days_lie_in_one_file(text, tmp_path):
    times = ['2026-11-20 09:00:00.5+00:00', '2026-11-20 09:00:00+00:00', '2026-11-20T11:00:00+02:00',
             '2026-11-20T09:00:00Z', '2026-11-20 09:00', '1795165200', *['2026-11-20T09:00+00:00']*2]
    log = read_log(saved(text.assign(created_at=times), tmp_path/'log.csv'))
    assert set(log.created_at.dt.floor('s')) == {pd.Timestamp('2026-11-20T09:00Z')}


@pytest.mark.parametrize('encoding', ['utf-8-sig', 'utf-16'])
def test_what_a_spreadsheet_saves_is_read(text, tmp_path, encoding):
    def comma(v): return v if pd.isna(v) else f'{v:.6f}'.replace('.', ',')
    sheet = text.assign(
        top1=text.top1.map(comma),
        confident=text.confident.map({True: 'WAHR', False: 'FALSCH'}),
        created_at='20.11.2026 09:00',
        mall='Galería',
    )
    log = read_log(saved(sheet, tmp_path/'LOG.CSV', sep=';', encoding=encoding))
    assert log.top1.tolist() == pytest.approx(text.top1.astype(float).tolist(), abs=1e-5)
    assert log.confident.tolist() == text.confident.tolist() and set(log.mall) == {'Galería'}
    assert log.created_at.dt.hour.eq(9).all() and log.user_id.tolist() == text.user_id.tolist()


@pytest.mark.parametrize('column, wrong, reason', [
    ('created_at', 'yesterday', 'no certain time'), ('created_at', '11/12/2026 10:00', 'no certain time'),
    ('created_at', None, 'is missing'), ('item', '1.5', 'no whole number'), ('top1', 'high', 'no number'),
    ('confident', 'perhaps', 'neither true nor false'), ('primary', '[["zara", ', 'no JSON'),
    ('merged', '[["zara", "1", "x"]]', r'no list of \[brand, external_id\]'),
    ('settings', '[]', 'no JSON object'), ('degraded', '{}', 'no JSON list'),
])
def test_a_cell_that_cannot_be_read_is_named(text, tmp_path, column, wrong, reason):
    broken = text.copy()
    broken.loc[2, column] = wrong
    with pytest.raises(LogFileError, match=f'log.csv: line 4, column {column}: .*{reason}'):
        read_log(saved(broken, tmp_path/'log.csv'))


def test_a_garment_counts_once(text, tmp_path):
    with pytest.raises(LogFileError, match='line 10 repeats item 0 of photo .* of line 2'):
        read_log(saved(pd.concat([text, text.head(1)]), tmp_path/'log.csv'))


def test_other_files_are_told_apart(tmp_path):
    (tmp_path/'log.parquet').write_text('hello')
    (tmp_path/'log.csv').touch()
    for name, reason in (('log.parquet', 'cannot be read'), ('log.csv', 'is empty')):
        with pytest.raises(LogFileError, match=f'{name}.* {reason}'): read_log(tmp_path/name)
    (tmp_path/'log.csv').write_bytes('photo;item;mall\n1;0;Galería\n'.encode('cp1252'))
    with pytest.raises(LogFileError, match='save it as UTF-8'): read_log(tmp_path/'log.csv')
    with pytest.raises(FileNotFoundError): read_log(tmp_path/'nowhere.csv')


def test_an_export_names_nobody(tmp_path, monkeypatch):
    "Neither the log nor the outcomes: both outlive what is deleted."
    items, labels = simulate_items(3, 2, seed=0)
    people = items.assign(user_id='ana', content_hash='abc123')
    monkeypatch.setattr('unde_recog.research.log_files.log_source', lambda *_, **how: people)
    write_labels(labels, tmp_path/'labels.csv')
    for extra in ([], ['--labels', str(tmp_path/'labels.csv')]):
        done = CliRunner().invoke(export_app, ['log', str(tmp_path/'out.csv'), *extra])
        text = (tmp_path/'out.csv').read_text('utf-8')
        assert done.exit_code == 0 and 'user_id' in text and 'ana' not in text and 'abc123' not in text
    wrong = CliRunner().invoke(export_app, ['log', str(tmp_path/'out.csv'), '--since', 'yesterday'])
    assert wrong.exit_code == 2 and 'YYYY-MM-DD' in wrong.stderr


@pytest.mark.parametrize('name', ['log.csv', 'log.parquet'])
def test_a_file_is_asked_as_the_database_is(tmp_path, name):
    "Of two models and many days only what was asked for; photos without garments stay."
    items, _ = simulate_items(20, 2, seed=0, days=10)
    two = items.assign(model_version=['a', 'a', 'b', 'b']*10)
    empty = items.head(1).assign(photo='empty', item=-1, shape='photo', model_version=None, top1=None)
    path = str(write_log(pd.concat([two, empty]).sample(frac=1, random_state=1), tmp_path/name))
    day = items.created_at.min().floor('D') + pd.Timedelta(days=5)
    kept = log_source(path, model_version='a', since=day, until=day + pd.Timedelta(days=2))
    expected = two[(two.model_version == 'a') & two.created_at.between(day, day + pd.Timedelta(days=2),
                                                                      inclusive='left')]
    assert kept.photo.tolist() == expected.photo.tolist() and len(kept)
    assert set(log_source(path, model_version='b')['shape']) == {'items', 'photo'}
    assert log_source(path).created_at.is_monotonic_increasing


def test_what_a_colleague_saves_is_read(text, tmp_path):
    "Kinds in capitals, an index in the file, tabs; a packed file and a number of no sense are refused."
    log = read_log(saved(text.assign(category=text.category.str.upper()), tmp_path/'log.csv'))
    assert set(log.category) == set(text.category)
    text.set_index(['photo', 'item']).to_parquet(tmp_path/'log.parquet')
    assert read_log(tmp_path/'log.parquet').photo.tolist() == text.photo.tolist()
    assert len(read_log(saved(text, tmp_path/'log.tsv', sep='\t'))) == len(text)
    with pytest.raises(LogFileError, match='unpack it first'):
        read_log(saved(text, tmp_path/'log.csv.gz'))
    with pytest.raises(LogFileError, match='line 2, column top1: .* too large'):
        read_log(saved(text.assign(top1='1e308'), tmp_path/'log.csv'))


@pytest.mark.parametrize('unit', [1, 1000, 1_000_000, 1_000_000_000])
def test_times_count_from_1970_in_any_unit(text, tmp_path, unit):
    "pandas and polars write microseconds or nanoseconds where a time becomes a number."
    text.assign(created_at=1795165200*unit).to_parquet(tmp_path/'log.parquet')
    saved(text.assign(created_at=1795165200*unit), tmp_path/'log.csv')
    for name in ('log.parquet', 'log.csv'):
        assert set(read_log(tmp_path/name).created_at) == {pd.Timestamp('2026-11-20T09:00Z')}
    text.assign(created_at=pd.Timestamp('2026-11-20').date()).to_parquet(tmp_path/'day.parquet')
    assert set(read_log(tmp_path/'day.parquet').created_at) == {pd.Timestamp('2026-11-20T00:00Z')}


def test_lists_of_objects_are_lists_of_products(text, tmp_path):
    "As the database has them, and as structs of Parquet: never products named after the fields."
    lists = read_log(saved(text, tmp_path/'log.csv')).primary
    objects = [[{'brand': k.brand.title(), 'external_id': k.external_id, 'score': .5} for k in keys]
               for keys in lists]
    text.assign(primary=objects).to_parquet(tmp_path/'log.parquet')
    assert read_log(tmp_path/'log.parquet').primary.tolist() == lists.tolist()
    for wrong in ('[{"sku": "1", "shop": "zara"}]', '[["zara", null]]', '["za", "ra"]'):
        with pytest.raises(LogFileError, match=r'column primary: .*no list of \[brand, external_id\]'):
            read_log(saved(text.assign(primary=wrong), tmp_path/'log.csv'))


def test_identifiers_are_those_of_the_labels(text, tmp_path):
    "Whatever type a tool gives a photo or a user; what means nobody is nobody, and joins no photos."
    ids = [uuid.UUID(int=n) for n in range(len(text))]
    text.assign(photo=ids, user_id='NULL').to_parquet(tmp_path/'log.parquet')
    log = read_log(tmp_path/'log.parquet')
    assert set(log.photo) == set(map(str, ids)) and log.user_id.isna().all()
    text.assign(photo=range(len(text)), item=0).to_parquet(tmp_path/'log.parquet')
    assert set(read_log(tmp_path/'log.parquet').photo) == set(map(str, range(len(text))))


@pytest.mark.parametrize('column, factor', [('top1', 100), ('margin', 100), ('margin', -1)])
def test_scores_of_another_scale_are_refused_first(text, tmp_path, column, factor):
    "The gate's settings are on 0-1: a certificate of other scores could not be applied."
    text.assign(**{column: factor*text[column].astype(float)}).to_parquet(tmp_path/'log.parquet')
    with pytest.raises(LogFileError, match=f'line 2, column {column}: .*not from 0 to 1.*divide the column'):
        read_log(tmp_path/'log.parquet')


def test_thousands_are_no_fractions(text, tmp_path):
    for sign, cell in ((',', '14,296'), ('.', '14.296')):
        top1 = text.top1.map(lambda v: f'{float(v):.4f}'.replace('.', '.' if sign == ',' else ','))
        table = text.assign(top1=top1, tokens=cell, margin='', **dict.fromkeys(
            ('style_margin', 'booster_top1', 'booster_margin', 'propensity', 'final_top1', 'credits',
             'confidence_threshold', 'margin_threshold'), ''))
        with pytest.raises(LogFileError, match='line 2, column tokens: .* may be thousands'):
            read_log(saved(table, tmp_path/'log.csv', sep=';'))


def test_a_folder_of_parts_is_one_log(text, tmp_path):
    "As Spark, duckdb and dask write it; a garment that is in two parts is named."
    parts, whole = tmp_path/'log', read_log(saved(text, tmp_path/'whole.csv'))
    parts.mkdir()
    (parts/'_SUCCESS').touch()
    with pytest.raises(LogFileError, match='log: the folder holds no'): read_log(parts)
    saved(text.head(3), parts/'part-0.csv')
    saved(text.tail(-3), parts/'part-1.csv')
    assert log_source(str(parts)).primary.tolist() == whole.primary.tolist()
    saved(text.tail(1), parts/'part-2.csv')
    with pytest.raises(LogFileError, match='is in two of its files'): read_log(parts)
    saved(text.head(1).assign(top1='high'), parts/'part-2.csv')
    with pytest.raises(LogFileError, match='part-2.csv: line 2, column top1'): read_log(parts)


def test_a_folder_may_hold_a_column_in_its_names(text, tmp_path):
    for name, part in text.groupby('category'):
        (tmp_path/f'log/category={name}').mkdir(parents=True)
        part.drop(columns='category').to_parquet(tmp_path/f'log/category={name}/data.parquet')
    assert sorted(read_log(tmp_path/'log').category) == sorted(text.category)


def test_a_pipe_is_refused_and_not_waited_for(text, tmp_path):
    os.mkfifo(tmp_path/'log.csv')
    with pytest.raises(LogFileError, match='log.csv: is a pipe'): read_log(tmp_path/'log.csv')


@pytest.mark.parametrize('yes, no', [('ja', 'nein'), ('oui', 'non'), ('sí', 'no'), ('Yes', 'No'), ('1', '0')])
def test_yes_and_no_are_truths(text, tmp_path, yes, no):
    file = saved(text.assign(confident=text.confident.map({True: yes, False: no})), tmp_path/'log.csv')
    assert read_log(file).confident.tolist() == text.confident.tolist()


def test_headers_count_whatever_their_case(text, tmp_path):
    text.rename(columns=str.upper).to_parquet(tmp_path/'log.parquet')
    assert read_log(tmp_path/'log.parquet').primary.notna().all()
    text.assign(TOP1=.5).to_parquet(tmp_path/'log.parquet')
    with pytest.raises(LogFileError, match='column top1 stands there twice'): read_log(tmp_path/'log.parquet')


def test_an_unclear_encoding_shows_what_is_unclear(text, tmp_path):
    "A row of a table has no spaces: the letters in doubt were beyond what was shown."
    file = saved(text.assign(mall='Galería'), tmp_path/'log.csv', sep=';', encoding='cp1252')
    with pytest.raises(LogFileError, match='Galería.*Galerķa.*save it as UTF-8'): read_log(file)


def test_lists_are_left_out_where_nobody_asks(text, tmp_path):
    for name in ('log.parquet', 'log.csv'):
        text.to_parquet(tmp_path/name) if name.endswith('t') else saved(text, tmp_path/name)
        assert log_source(str(tmp_path/name), lists=False).primary.isna().all()


def test_what_a_file_lacks_is_unknown(text, tmp_path):
    "None, as in the database, and not a number that is none."
    text[['photo', 'item', 'created_at', 'top1', 'margin', 'primary']].to_parquet(tmp_path/'log.parquet')
    log = read_log(tmp_path/'log.parquet')
    assert {*log.booster, *log.user_id, *log.category} == {None} and log.settings.tolist() == [{}]*len(log)

