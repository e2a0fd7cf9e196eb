"""Certificates and settings fragments: written, read back, applied, refused."""

import dataclasses
import json
import math
import os
from dataclasses import asdict, replace

import pandas as pd
import pytest

from unde_recog.research.certificate import (
    Certificate,
    apply_fragment,
    certificate_json,
    contradictions,
    in_words,
    read_certificate,
    refusal,
    write_fragment,
)
from unde_recog.settings import SettingsError, load_settings, read_ini


def test_a_fragment_goes_in_force(certified, tmp_path):
    ini = tmp_path/'settings.ini'
    ini.write_text('; ours\n[unde_recog]\nMARGIN = 0.3  ; old\nSEARCH_BACKEND = pgvector\n')
    fragment = write_fragment(tmp_path/'out', certified)
    applied = apply_fragment(fragment, ini, certified.model_version)
    in_force = load_settings(ini, env={})
    assert (in_force.CONFIDENCE_THRESHOLD, in_force.MARGIN, in_force.SEARCH_BACKEND) == (
        certified.threshold,
        certified.margin,
        'pgvector',
    )
    assert applied.notes[0] == 'it was calibrated on simulated data' and '; ours' in ini.read_text()
    assert 'no stranger was labelled' in applied.notes[1]
    new = apply_fragment(fragment, tmp_path/'new.ini', certified.model_version)
    assert read_ini(tmp_path / 'new.ini') == {
        'CONFIDENCE_THRESHOLD': f'{new.threshold}',
        'MARGIN': f'{new.margin}',
    }


def test_certificates_come_back_as_they_were(certified, tmp_path):
    path = write_fragment(tmp_path, certified).with_suffix('.json')
    again, then = asdict(read_certificate(path)), asdict(certified)
    assert (
        again
        == {k: pytest.approx(v, abs=1e-6) if isinstance(v, float) else v for k, v in then.items()}
        and certificate_json(read_certificate(path)) == path.read_text()
    )


@pytest.mark.parametrize(
    'damage, message',
    [
        (lambda p: p.with_suffix('.json').unlink(), 'no certificate'),
        (lambda p: p.with_suffix('.json').write_text('{'), 'not JSON'),
        (lambda p: p.with_suffix('.json').write_text('[]'), 'not a gate certificate'),
        (lambda p: p.unlink(), 'no such fragment'),
        (lambda p: p.write_text('[unde_recog]\nCONFIDENCE_THRESHOLD = 0.8\n'), 'and nothing else'),
        (lambda p: p.write_text(p.read_text() + 'SEARCH_BACKEND = ximilar\n'), 'and nothing else'),
        (
            lambda p: p.write_text(p.read_text().replace('MARGIN = 0.', 'MARGIN = 0.9')),
            'one of the two was changed',
        ),
        (
            lambda p: p.write_text('[unde_recog]\nCONFIDENCE_THRESHOLD = high\nMARGIN = 0.1\n'),
            'must be numbers',
        ),
        (lambda p: p.write_text('nothing'), 'not an ini file'),
    ],
)
def test_a_damaged_fragment_is_refused_and_nothing_is_touched(certified, tmp_path, damage, message):
    ini, fragment = tmp_path/'settings.ini', write_fragment(tmp_path/'out', certified)
    ini.write_text('[unde_recog]\nMARGIN = 0.3\n')
    damage(fragment)
    with pytest.raises(SettingsError, match=message):
        apply_fragment(fragment, ini, certified.model_version)
    assert ini.read_text() == '[unde_recog]\nMARGIN = 0.3\n' and sorted(os.listdir(tmp_path)) == [
        'out',
        'settings.ini',
    ]


DEFAULTS = {f.name: f.default for f in dataclasses.fields(Certificate)}
OLDER = {n for n, v in DEFAULTS.items() if v is not dataclasses.MISSING}


def certified_as_written(values): return Certificate(**values)


@pytest.mark.parametrize('field', [f.name for f in dataclasses.fields(Certificate)])
def test_every_field_of_a_certificate_is_checked(certified, tmp_path, field):
    path = write_fragment(tmp_path, certified).with_suffix('.json')
    values = json.loads(path.read_text())
    for wrong in (None, [], True if not isinstance(values[field], bool) else 1, {}):
        path.write_text(json.dumps(values | {field: wrong}))
        with pytest.raises(SettingsError, match=field): read_certificate(path)
    path.write_text(json.dumps({k: v for k, v in values.items() if k != field}))
    if field in OLDER:
        assert read_certificate(path) == dataclasses.replace(certified_as_written(values),
                                                             **{field: DEFAULTS[field]})
    else:
        with pytest.raises(SettingsError, match=field): read_certificate(path)


def test_another_models_fragment_is_refused(certified, tmp_path):
    ini = tmp_path/'settings.ini'
    with pytest.raises(
        SettingsError, match='calibrated for simulated-1, and classical-1.pad is in force'
    ):
        apply_fragment(write_fragment(tmp_path, certified), ini, 'classical-1+pad')
    assert not ini.exists()


def test_a_broken_settings_file_is_not_written_over(certified, tmp_path):
    ini = tmp_path/'settings.ini'
    ini.write_text('[unde_recog]\nMARGIM = 0.3\n')
    with pytest.raises(SettingsError, match='MARGIM'):
        apply_fragment(write_fragment(tmp_path, certified), ini, certified.model_version)
    assert ini.read_text() == '[unde_recog]\nMARGIM = 0.3\n'


def test_the_environment_wins_and_it_is_said(certified, tmp_path, monkeypatch):
    monkeypatch.setenv('MARGIN', '0.2')
    notes = apply_fragment(
        write_fragment(tmp_path, certified), tmp_path / 'settings.ini', certified.model_version
    ).notes
    assert any('MARGIN' in n and 'environment' in n for n in notes)


@pytest.mark.parametrize('change, message', [
    ({'upper': .2}, 'certified at'),
    ({'events': 10_000}, 'losses in'),
    ({'coverage': .99}, 'a coverage of'),
    ({'upper': 1e-4}, 'upper bound'),
    ({'n_eff': 1e6}, 'worth'),
    ({'strangers': 100, 'strangers_trusted': 50, 'stranger_upper': .6}, 'strangers trusted'),
    ({'photos': 100_000}, 'photos with'),
])
def test_a_certificate_that_contradicts_itself_is_not_applied(certified, tmp_path, change, message):
    assert contradictions(certified) == []
    ini, fragment = tmp_path/'settings.ini', write_fragment(tmp_path, certified)
    values = json.loads(fragment.with_suffix('.json').read_text())
    fragment.with_suffix('.json').write_text(json.dumps(values | change))
    with pytest.raises(SettingsError, match='contradicts itself') as refused:
        apply_fragment(fragment, ini, certified.model_version)
    assert message in str(refused.value) and not ini.exists()


@pytest.mark.parametrize('pair', [(75.4, .04), (.75, 4.3), (.75, -.01)])
def test_thresholds_that_cannot_be_set_are_not_written(certified, tmp_path, pair):
    "Nobody shall find out at `settings apply`, when the report is made and forgotten."
    other = replace(certified, threshold=pair[0], margin=pair[1])
    with pytest.raises(ValueError, match='cannot be set: .* on 0-1'): write_fragment(tmp_path, other)
    assert not list(tmp_path.iterdir())


def test_what_needs_no_booster_is_said_as_on_the_page(certified, tmp_path):
    "First of all that was logged, as the path was declared; the labels are a sample of that."
    assert 0 < certified.coverage_logged < 1
    said = in_words(replace(certified, coverage_logged=.38, coverage=.32, chosen=True))
    assert '38% of the logged items need no booster (32% of the labelled ones, weighted back)' in said
    old = json.loads(write_fragment(tmp_path, certified).with_suffix('.json').read_text())
    del old['coverage_logged']  # of a release before
    (tmp_path/'gate.json').write_text(json.dumps(old))
    said = in_words(read_certificate(tmp_path/'gate.json'))
    assert f'{certified.coverage:.0%} of items need no booster' in said


def test_a_refusal_says_what_would_help():
    steps = pd.DataFrame([{'selected': 182, 'events': 2, 'upper': 1., 'loss': .01, 'photos': 1}])
    assert 'label photos of other people' in refusal(steps, math.nan, 300, .05)
    none = steps.assign(selected=0, events=0, photos=0)
    assert 'label 30 at least' in refusal(none, math.nan, 1, .05)
    assert 'are these labels of the log' in refusal(none, math.nan, 300, .05)
