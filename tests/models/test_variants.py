"""Faster variants: fusion in both exporters' spelling, 8 bits beside loud channels, versions that
never mix, a pull of other weights, the commands.
"""
import importlib.util

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from unde_recog.embedder import embedder_for, load_embedder, to_tensor
from unde_recog.models.graphs import apart, image_half, probe, run_graph
from unde_recog.models.registry import ModelUnavailable, UnknownModel, get_card, models_dir
from unde_recog.settings import load_settings

onnx = pytest.importorskip('onnx', reason="pip install 'unde_recog[models]'")

from unde_recog.commands.models import models_app
from unde_recog.models.fusion import fuse
from unde_recog.models.pull import card_of_export, drop_variants
from unde_recog.models.variants import make_variant

SIZE = 64


def photos(n=12):
    "Pictures with structure, not one colour."
    rng = np.random.default_rng(0)
    coarse = [rng.integers(0, 255, (9, 7, 3), dtype=np.uint8) for _ in range(n)]
    return [Image.fromarray(c).resize((90, 120), Image.Resampling.BICUBIC) for c in coarse]


def prepare(card): return to_tensor(photos(), card.crop, card.preprocessing)


@pytest.fixture(scope='module')
def towers(tmp_path_factory):
    "A small CLIP with loud channels, as open_clip's tower by dynamo and as a joint graph of opset 14."
    for name in ('torch', 'onnxscript', 'safetensors', 'transformers', 'open_clip'):
        if name in ('transformers', 'open_clip'):
            from unde_recog.models.convert import import_torchvision
            import_torchvision()
        pytest.importorskip(name, reason=f"{name} is missing: pip install 'unde_recog[export]'")
    import torch
    import transformers
    from unde_recog.models.convert import build_model, export_towers, load_checkpoint, prepare as as_open_clip
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp('clip')
    wide = {'hidden_size': 128, 'intermediate_size': 512, 'num_hidden_layers': 2, 'num_attention_heads': 2}
    config = transformers.CLIPConfig(
        vision_config={**wide, 'image_size': SIZE, 'patch_size': 32},
        text_config={**wide, 'vocab_size': 64, 'max_position_embeddings': 8, 'bos_token_id': 1,
                     'eos_token_id': 2},
        projection_dim=32,
    )
    model = transformers.CLIPModel(config).eval()
    for name, values in model.named_parameters():
        if 'norm' in name and name.endswith('weight'): values.data[:3] *= 20
    model.save_pretrained(folder)
    export_towers(build_model(*as_open_clip(load_checkpoint(folder), folder)), folder/'towers')
    model = transformers.CLIPModel.from_pretrained(folder, attn_implementation='eager').eval()

    class Seen(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model
        def forward(self, pixel_values):
            return self.model.visual_projection(self.model.vision_model(pixel_values=pixel_values)[1])

    torch.onnx.export(Seen(), (torch.randn(2, 3, SIZE, SIZE),), str(folder/'older.onnx'), dynamo=False,
                      input_names=['pixel_values'], output_names=['image_embeds'], opset_version=14,
                      dynamic_axes={'pixel_values': {0: 'n'}, 'image_embeds': {0: 'n'}})
    onnx.save(image_half(onnx.load(folder/'older.onnx')), folder/'older.onnx')
    return folder


@pytest.fixture
def home(towers, tmp_path):
    "An installation with the small tower in the place of fashionclip-2.0."
    settings = load_settings(env={}, UNDE_DATA_DIR=tmp_path)
    folder = models_dir(settings)/'fashionclip-2.0'
    folder.mkdir(parents=True)
    (folder/'image.onnx').write_bytes((towers/'towers/image.onnx').read_bytes())
    card = get_card('fashionclip-2.0')
    small = card.preprocessing.model_copy(update={'size': SIZE})
    card_of_export(card.model_copy(update={'preprocessing': small}), folder)
    return settings


@pytest.mark.parametrize('name', ['towers/image.onnx', 'older.onnx'])
def test_fusion_counts_the_same_in_either_spelling(towers, name):
    model, found = fuse(towers/name, SIZE)
    feed = {'pixel_values': probe(SIZE)['pixel_values']}
    kinds = [n.op_type for n in model.graph.node]
    assert found == kinds.count('MultiHeadAttention') == 2 and 'Softmax' not in kinds
    assert apart(run_graph(towers/name, feed), run_graph(model.SerializeToString(), feed)) < 1e-5


def test_smoothing_is_what_loud_channels_need(home, towers, tmp_path):
    from unde_recog.models.variants import mean_cosine, to_int8
    card = make_variant('fashionclip-2.0:int8', home, prepare)
    rough = to_int8(fuse(towers/'towers/image.onnx', SIZE)[0], tmp_path/'rough.onnx')
    pixels = prepare(card)[-8:]
    one_by_one = [run_graph(rough, {'pixel_values': row[None]}) for row in pixels]
    plain = run_graph(towers/'towers/image.onnx', {'pixel_values': pixels})
    unsmoothed = mean_cosine(np.concatenate(one_by_one), plain)[0]
    assert card.metrics['cosine']['mean'] > .999 and 1 - unsmoothed > 2*(1 - card.metrics['cosine']['mean'])


def test_a_variant_is_a_version_of_its_own(home):
    with pytest.raises(UnknownModel, match='models optimise fashionclip-2.0:int8'):
        load_embedder('fashionclip-2.0:int8', settings=home)
    for name in ('fashionclip-2.0:fused', 'fashionclip-2.0:int8'): make_variant(name, home, prepare)
    names = ['fashionclip-2.0', 'fashionclip-2.0:fused', 'fashionclip-2.0:int8']
    embedders = [load_embedder(n, settings=home) for n in names]
    versions = {e.model_version for e in embedders}
    assert len(versions) == 3 and all(e.card.threshold is None for e in embedders[1:])
    plain, fused, small = (e.embed(photos(3)) for e in embedders)
    assert np.abs(plain - fused).max() < 1e-5 and (plain*small).sum(1).min() > .99
    with pytest.raises(ValueError, match='the index was made with'):
        embedder_for(embedders[0].model_version, names[2], settings=home)


def test_a_photo_in_8_bits_does_not_hang_on_its_neighbours(home):
    make_variant('fashionclip-2.0:int8', home, prepare)
    both = load_embedder('fashionclip-2.0:int8', 'batch', settings=home)
    assert np.array_equal(both.embed(photos(5))[2:3], both.embed(photos(5)[2:3]))


def test_other_weights_take_the_variants_with_them(home):
    make_variant('fashionclip-2.0:fused', home, prepare)
    folder = models_dir(home)/'fashionclip-2.0'
    assert (folder/'image-fused.onnx').is_file()
    assert drop_variants(folder) == ['fashionclip-2.0:fused'] and not list(folder.glob('*fused*'))
    assert load_embedder('fashionclip-2.0', settings=home).dims == 32


def test_a_variant_that_breaks_its_promise_leaves_nothing(home, monkeypatch):
    from unde_recog.models import variants
    monkeypatch.setattr(variants, 'mean_cosine', lambda a, b: (.9, .8))
    with pytest.raises(ModelUnavailable, match='mean cosine'):
        make_variant('fashionclip-2.0:int8', home, prepare)
    left = {p.name for p in (models_dir(home)/'fashionclip-2.0').iterdir()}
    assert left == {'image.onnx', 'card.json'}


def test_openvino_where_it_is_not_installed(home):
    if importlib.util.find_spec('openvino'): pytest.skip('openvino is installed')
    with pytest.raises(ImportError, match=r'unde_recog\[openvino\]'):
        make_variant('fashionclip-2.0:openvino', home, prepare)


def test_openvino_where_it_is(home):
    for name in ('openvino', 'nncf'):
        if not importlib.util.find_spec(name): pytest.skip(f"{name}: pip install 'unde_recog[openvino]'")
    card = make_variant('fashionclip-2.0:openvino', home, prepare)
    found = load_embedder(card.name, settings=home).embed(photos(3))
    plain = load_embedder('fashionclip-2.0', settings=home).embed(photos(3))
    assert (found*plain).sum(1).min() > .97


def test_optimise_and_bench_by_hand(home, monkeypatch, tmp_path):
    for i, im in enumerate(photos()): im.save(tmp_path/f'{i}.png')
    monkeypatch.setenv('UNDE_DATA_DIR', str(home.UNDE_DATA_DIR))
    monkeypatch.setenv('COLUMNS', '240')
    made = CliRunner().invoke(models_app, ['optimise', 'fashionclip-2.0:int8', '--photos', str(tmp_path)])
    assert made.exit_code == 0 and 'variant_loss' in made.output, made.output
    how = ['--seconds', '0', '--photos', str(tmp_path)]
    shown = CliRunner().invoke(models_app, ['bench', 'fashionclip-2.0', *how])
    assert shown.exit_code == 0 and 'fashionclip-2.0:int8' in shown.output and 'VNNI' in shown.output
