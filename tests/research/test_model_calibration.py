"""A model from elsewhere is usable the first day: calibrated on a folder or on the catalogue, with colours
or without, by the report; and one that is not says so, with the command.
"""
import json
import logging

import pytest
from typer.testing import CliRunner

from unde_recog.commands.models import models_app
from unde_recog.embedder import load_embedder
from unde_recog.gating import thresholds
from unde_recog.jobs.index import index_catalogue
from unde_recog.models.registry import DEFAULT_MODEL, UnknownModel, cards, get_card, models_dir, sha256_of
from unde_recog.research.photo_sets import drawn_photos
from unde_recog.research.report import run_report
from unde_recog.session import evidence_for, open_recognizer, read_zero_shot
from unde_recog.wardrobe.world import World

from tests.jobs.test_width import pull_random
from tests.web_shop import Shop


@pytest.fixture(scope='module')
def shop(server_url, template, tmp_path_factory):
    made = Shop(server_url, template, tmp_path_factory.mktemp('shop'), 'test_calibrate', skus=60)
    made.card = pull_random(made.settings(), made.folder, 768)
    yield made
    made.drop()


@pytest.fixture
def here(shop, monkeypatch):
    "The shop's settings in the environment, for reports and commands."
    monkeypatch.setenv('UNDE_DATA_DIR', str(shop.data))
    monkeypatch.setenv('DATABASE_URL', shop.url)
    return shop.settings()


def calibrate(tmp_path, **parameters):
    run_report('calibrate_model', {k: str(v) for k, v in parameters.items()}, tmp_path)
    return json.loads((tmp_path/'calibrate_model'/'metrics.json').read_text())


def test_without_thresholds_it_says_so_with_the_command(shop, here, caplog):
    name = shop.card.name
    listed = CliRunner().invoke(models_app, ['list'], env={'COLUMNS': '200'})
    assert any(name in line and 'none' in line for line in listed.output.splitlines())
    assert 'calibrate_model -p model NAME' in listed.output
    with pytest.raises(UnknownModel, match=r'not fitted yet.*calibrate_model -p model shop--wide768\+colour'):
        get_card(f'{name}+colour', here)
    with shop.db() as db:
        report = index_catalogue(db, load_embedder(name, 'batch', settings=here), storage=shop.storage)
    with caplog.at_level(logging.WARNING, 'unde_recog'):
        with open_recognizer(here.model_copy(update={'BLEND_EMBEDDING_VERSION': report.version})) as session:
            answer = session.recognize(shop.photo(0))
            assert session.recognizer.parts.primary.card.threshold is None
    assert answer.items and {i.match_type for i in answer.items} == {'style'}
    assert f'report calibrate_model -p model {name}`' in caplog.text


def test_random_weights_with_colour_fit_and_answer(shop, here, tmp_path):
    table = drawn_photos(tmp_path/'photos', skus=72, scenes=0, studio=72, size=(120, 160)).table
    world = World(seed=0, skus=72)
    kinds = {f'{k.brand}/{k.external_id}': world.garment(k).category for k in world.keys}
    table.assign(category=table.identity.map(kinds)).to_csv(tmp_path/'photos'/'photos.csv', index=False)
    name = f'{shop.card.name}+colour'
    found = calibrate(tmp_path, model=name, folder=tmp_path/'photos')
    assert found['colour']['0'] < max(found['colour'].values())  # colour helps a tower of random weights
    card, folder = get_card(name, here), models_dir(here)/shop.card.folder
    assert (card.dims, card.threshold, card.margin) == (
        768 + 128, found['fitted']['threshold'], found['fitted']['margin'])
    assert 'calibrate_model' in card.calibrated_on and card.band_medium is not None
    assert get_card(shop.card.name, here).threshold is None  # another space, other thresholds
    assert sha256_of(folder/'colour.npz') == card.files[-1].sha256
    embedder = load_embedder(name, settings=here)
    assert embedder.embed_text(['navy coat']).shape == (1, 896)
    words = read_zero_shot(here, embedder)  # of random weights: whatever they are, they are told and used
    assert list(words) == ['category'] and words['category']._asdict() == found['words']['category']
    assert words['category'].photos > 30
    with shop.db() as db:
        report = index_catalogue(db, load_embedder(name, 'batch', settings=here), storage=shop.storage)
    with open_recognizer(here.model_copy(update={'BLEND_EMBEDDING_VERSION': report.version})) as session:
        parts = session.recognizer.parts
        assert thresholds(session.recognizer.settings, parts.primary.card) == (card.threshold, card.margin)
        assert parts.primary.evidence.scale == card.evidence_scale or card.evidence_scale is None
        assert parts.local_tagger.taggers[1].calibrated == words
        answers = [session.recognize(shop.photo(n)) for n in range(6)]
    first = [[m.external_id for m in a.items[0].matches[:1]] for a in answers if a.items]
    mine = [[shop.world.keys[n].external_id] for n in range(6)]
    assert sum(a in mine for a in first) >= 3


def test_the_catalogue_itself_calibrates_a_model_of_the_package(shop, here, tmp_path):
    shipped = cards()[DEFAULT_MODEL]
    found = calibrate(tmp_path, model=DEFAULT_MODEL)
    card = get_card(DEFAULT_MODEL, here)
    assert card.model_version == shipped.model_version  # the index stays
    assert card.threshold == found['fitted']['threshold'] and 'the catalogue' in card.calibrated_on
    assert cards()[DEFAULT_MODEL] == shipped and found['before']['threshold'] == shipped.threshold
    assert evidence_for(card, here).scale == (found['scale'] or .05)


def test_too_few_photos_are_refused_with_the_number(tmp_path):
    from unde_recog.research.model_calibration import folder_set
    drawn_photos(tmp_path, skus=12, scenes=0, studio=12, size=(60, 80))
    with pytest.raises(ValueError, match='12 products have two photos'): folder_set(tmp_path)
