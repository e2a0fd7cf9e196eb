"""Fine-tuning on a shop's own pairs: a run that is stopped and goes on, what is held out, what is
registered, and the report at one per cent.
"""
import json

import numpy as np
import pytest

torch = pytest.importorskip('torch', reason="training needs torch: pip install 'unde_recog[train]'")

from unde_recog.embedder import load_embedder
from unde_recog.models.registry import DEFAULT_MODEL, get_card, models_dir
from unde_recog.research.photo_sets import drawn_photos
from unde_recog.research.report import run_report
from unde_recog.research.shop_pairs import folder_pairs, picture_reader
from unde_recog.settings import load_settings
from unde_recog.training import fine_tune as module
from unde_recog.training.metric import one_step, save_state
from unde_recog.training.fine_tune import (
    FineTuning,
    Shop,
    Trial,
    choose_trial,
    fine_tune,
    hold_out,
    own_places,
    register,
    start_from,
)

TINY = FineTuning(steps=2, garments=4, size=(48, 40), drawn=6, copies=1, keep_every=1, asked=6, threads=1,
                  shares=(1.,), sure=-99.)  # whatever is learnt is kept


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
    assert again.kept == made.kept and again.scores == pytest.approx(made.scores, abs=1e-3)
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


def test_the_start_stays_where_nothing_is_surely_better(shop, made, tmp_path):
    same = made._replace(kept=0, look=made.start.look, halves=made.start.halves)
    settings = load_settings(env={}, UNDE_DATA_DIR=tmp_path)
    card = register(same, 'as-it-was', settings, about='', metrics={})
    photos = [shop.pictures(i)[0] for i in range(4)]
    mine, old = (load_embedder(n, settings=settings).embed(photos) for n in ('as-it-was', DEFAULT_MODEL))
    assert np.array_equal(mine, old) and 'nothing learnt was better' in card.title
    register(made, 'changed', settings, about='', metrics={})
    assert not np.allclose(load_embedder('changed', settings=settings).embed(photos), old, atol=1e-3)
    on = start_from('changed', settings)
    assert np.allclose(on.halves.seen.matrix, made.halves.seen.matrix, rtol=2e-3, atol=2e-3)


def test_chance_seldom_moves_a_model():
    "Of 400 trials that are no better than the start (simulated), few are kept."
    rng, family, kept = np.random.default_rng(0), np.repeat(np.arange(20), 3).astype(str), 0
    for _ in range(400):
        style = np.repeat(rng.normal(size=20), 3)
        first = Trial(0., False, np.zeros(60))
        kept += choose_trial([first, Trial(1., True, style + rng.normal(size=60))], family, 2.) > 0
    assert kept <= 24  # 2.3 % one-sided, a little more with an estimated error


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
        'sure': '-99.',
    }, tmp_path)
    found = json.loads((out/'metrics.json').read_text())
    drawn = found['drawn world (simulated)']
    assert {'over untuned, as it is', 'over shipped, as it is'} == set(drawn['gain']) and drawn['queries'] > 0
    text = (out/'report.md').read_text()
    assert 'simulated' in text and 'Registered as drawn-shop' in text and str(tmp_path) not in text
    card = get_card('drawn-shop', load_settings())
    assert load_embedder('drawn-shop', settings=load_settings()).model_version == card.model_version
