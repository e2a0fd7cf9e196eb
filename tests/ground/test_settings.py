"""Settings: precedence and refusals for every name, and secrets that must never show."""
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unde_recog.settings import (
    Settings,
    SettingsError,
    describe,
    format_duration,
    load_settings,
    mask_url,
    parse_duration,
    read_ini,
    write_ini,
)

SECRET = 'pl4nted-s3cret'


def test_every_layer_wins_over_the_next(tmp_path):
    ini = tmp_path/'settings.ini'
    ini.write_text('[unde_recog]\nMARGIN = 0.1\nMIN_CANDIDATES = 4\nPORT = 81\n')
    s = load_settings(ini, env={'MIN_CANDIDATES': '5', 'PORT': '82'}, PORT=83)
    assert (s.MARGIN, s.MIN_CANDIDATES, s.PORT, s.WORKERS) == (.1, 5, 83, 1)
    assert [s.origin(n) for n in ('MARGIN', 'MIN_CANDIDATES', 'PORT', 'WORKERS')] == [
        str(ini),
        'environment',
        'keyword',
        'default',
    ]


SECRETS = [
    n
    for n, f in Settings.model_fields.items()
    if 'SecretStr' in str(f.annotation) or n.endswith(('_DB_URL', 'DATABASE_URL'))
]


@pytest.mark.parametrize('name', SECRETS)
def test_no_secret_shows(name, tmp_path):
    value = f'postgresql://me:{SECRET}@host/db' if 'URL' in name else SECRET
    s = load_settings(env={name: value})
    assert SECRET not in repr(s)
    assert SECRET not in json.dumps(describe(s))


@pytest.mark.parametrize(
    ('env', 'said'),
    [
        ({'SEARCH_BACKEND': 'x'}, "'conditional'"),
        ({'MARGIN': '1.5'}, 'MARGIN'),
        ({'MIN_CANDIDATES': '0'}, 'MIN_CANDIDATES'),
        ({'AVAILABILITY_WINDOW': '24'}, '24h'),
        ({'REQUEST_DEADLINE': '-1s'}, 'REQUEST_DEADLINE'),
        ({'PORT': 'http'}, 'PORT'),
        ({'ALLOW_PRIVATE_URLS': 'perhaps'}, 'ALLOW_PRIVATE_URLS'),
        ({'MARGIN': 'nan'}, 'MARGIN'),
    ],
)
def test_bad_values_are_named(env, said):
    with pytest.raises(SettingsError, match=next(iter(env))) as e: load_settings(env=env)
    assert said in str(e.value) and next(iter(env.values())) in str(e.value)


def test_a_bad_secret_is_not_repeated():
    with pytest.raises(SettingsError) as e: load_settings(env={}, XIMILAR_API_TOKEN=[SECRET])
    assert SECRET not in str(e.value)


def test_unknown_key_in_the_ini_stops_the_start(tmp_path):
    ini = tmp_path/'x.ini'
    ini.write_text('[unde_recog]\nCONFIDENCE_TRESHOLD = 0.8\n')
    with pytest.raises(SettingsError, match='did you mean CONFIDENCE_THRESHOLD') as e:
        load_settings(ini, env={})
    assert str(ini) in str(e.value)


def test_a_named_file_must_exist(tmp_path):
    with pytest.raises(SettingsError, match='does not exist'):
        load_settings(env={'UNDE_SETTINGS': str(tmp_path / 'none.ini')})


@given(st.integers(1, 10**6), st.sampled_from(['ms', 's', 'm', 'h', 'd']))
def test_durations_round_trip(n, unit):
    assert parse_duration(format_duration(parse_duration(f'{n}{unit}'))) == parse_duration(
        f'{n}{unit}'
    )


@pytest.mark.parametrize('text', ['', '5', 'h', '1w', '0s', '-3s', '1h30m', 'inf s', None])
def test_bad_durations(text):
    with pytest.raises(ValueError, match='duration'): parse_duration(text)


@given(st.text(st.characters(categories=['L', 'N']), min_size=1, max_size=12))
def test_masking_never_leaks_a_password(password):
    assert f':{password}@' not in mask_url(f'postgresql://user:{password}@host:5432/db?x=1')


def test_write_ini_keeps_the_rest_and_refuses_nonsense(tmp_path):
    ini = tmp_path/'settings.ini'
    ini.write_text('# first\n\n[unde_recog]\n# MARGIN = 0.5\nPORT = 81 # why\n\n[other]\nMARGIN = 9\n')
    write_ini(ini, CONFIDENCE_THRESHOLD=.91, MARGIN=.04)
    assert read_ini(ini) == {'CONFIDENCE_THRESHOLD': '0.91', 'MARGIN': '0.04', 'PORT': '81'}
    assert '# MARGIN = 0.5' in ini.read_text() and 'MARGIN = 9' in ini.read_text()
    before = ini.read_text()
    with pytest.raises(SettingsError): write_ini(ini, MARGIN=3)
    assert ini.read_text() == before and not list(tmp_path.glob('*.tmp'))
