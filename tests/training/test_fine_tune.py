"""Fine-tuning on a shop's own pairs: a run that is stopped and goes on, what is held out, what is
registered, and the report at one per cent.
"""
import json

import numpy as np
import pytest

torch = pytest.importorskip('torch', reason="training needs torch: pip install 'unde_recog[train]'")

from unde_recog.embedder import load_embedder
from unde_recog.models.registry import get_card, models_dir
from unde_recog.research.photo_sets import drawn_photos
from unde_recog.research.report import run_report
from unde_recog.research.shop_pairs import folder_pairs, picture_reader
from unde_recog.settings import load_settings
from unde_recog.training import fine_tune as module
from unde_recog.training.metric import one_step, save_state
from unde_recog.training.fine_tune import FineTuning, Shop, fine_tune, hold_out, own_places, register

TINY = FineTuning(steps=2, garments=4, size=(48, 40), drawn=6, copies=1, keep_every=1, asked=6, threads=1,
                  shares=(0., 1.))


@pytest.fixture(scope='module')
def shop(tmp_path_factory):
    folder = tmp_path_factory.mktemp('shop')
    drawn_photos(folder, skus=8, scenes=2, studio=8, seed=3, size=(120, 160))
    pairs = folder_pairs(folder)
    return Shop(pairs.identity.to_numpy(), pairs['style'].to_numpy(), picture_reader(pairs, alone=False))


@pytest.fixture(scope='module')
def made(shop, tmp_path_factory): return fine_tune(shop, tmp_path_factory.mktemp('run'), TINY)


def test_whole_styles_are_held_out(shop):
    held = hold_out(shop.family, .3)
    assert held.any() and not set(shop.family[held]) & set(shop.family[~held])


def test_a_run_that_was_stopped_makes_the_same(shop, made, tmp_path, monkeypatch):
    tune = module.tune

    def stopped(run):
        run.net.train()
        run.history.append(one_step(run))
        save_state(run)
        raise KeyboardInterrupt

    monkeypatch.setattr(module, 'tune', stopped)
    with pytest.raises(KeyboardInterrupt): fine_tune(shop, tmp_path, TINY)
    monkeypatch.setattr(module, 'tune', tune)
    again = fine_tune(shop, tmp_path, TINY)
    assert again.share == made.share and again.scores == pytest.approx(made.scores, abs=1e-3)
    assert np.allclose(again.halves.colours.matrix, made.halves.colours.matrix, atol=1e-4)


def test_one_photo_a_product_is_refused(shop, tmp_path):
    with pytest.raises(ValueError, match='none with two photos'):
        fine_tune(shop._replace(garment=np.arange(len(shop.garment)).astype(str)), tmp_path, TINY)


def test_a_version_beside_the_old_one(shop, made, tmp_path):
    settings = load_settings(env={}, UNDE_DATA_DIR=tmp_path)
    card = register(made, 'my-shop', settings, about='8 drawn garments', metrics={})
    mine, old = load_embedder('my-shop', settings=settings), load_embedder(settings=settings)
    assert mine.model_version == card.model_version != old.model_version and card.threshold is None
    assert mine.embed([shop.pictures(0)[0]]).shape == (1, 512)
    register(made, 'my-shop', settings, about='again', metrics={})
    assert len(list((models_dir(settings)/'my-shop').glob('*.onnx'))) == 1
    assert get_card('my-shop', settings).title.endswith('again')
    with pytest.raises(ValueError, match='a model of the package'):
        register(made, 'lite-colour-shape', settings, about='', metrics={})


def test_places_by_brute_force():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(12, 4)).astype('f')
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    garment = [str(i//3) for i in range(12)]
    for i, place in enumerate(own_places(x, x, garment)):
        best = {g: max(float(x[i] @ x[j]) for j in range(12) if j != i and garment[j] == g) for g in garment}
        assert place == sum(v >= best[garment[i]] for v in best.values())


def test_the_report_at_one_per_cent(tmp_path, monkeypatch):
    monkeypatch.setenv('UNDE_DATA_DIR', str(tmp_path/'home'))
    out = run_report('fine_tune', {
        'photos': 'drawn', 'skus': '10', 'scenes': '3', 'steps': '2', 'garments': '4',
        'height': '48', 'drawn': '6', 'threads': '1', 'name': 'drawn-shop', 'run': str(tmp_path/'run'),
    }, tmp_path)
    found = json.loads((out/'metrics.json').read_text())
    assert {'over untuned, as it is', 'over shipped, as it is'} == set(found['gain']) and found['queries'] > 0
    text = (out/'report.md').read_text()
    assert 'simulated' in text and 'Registered as drawn-shop' in text and str(tmp_path) not in text
    card = get_card('drawn-shop', load_settings())
    assert load_embedder('drawn-shop', settings=load_settings()).model_version == card.model_version
