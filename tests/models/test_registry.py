"Cards, and embedders over real ONNX files."
import threading

import numpy as np
import pytest
from PIL import Image

from unde_recog.embedder import Embedder, embedder_for, load_embedder, to_tensor
from unde_recog.models.onnx import OnnxTower
from unde_recog.models.registry import (
    ModelCard,
    ModelFile,
    ModelUnavailable,
    Preprocessing,
    cards,
    get_card,
    is_available,
    model_file,
    models_dir,
    pulled_cards,
    require_files,
    sha256_of,
)
from unde_recog.settings import load_settings

def card(**more):
    fields = dict(name='toy', revision='1', title='', kind='onnx', dims=8, crop='pad',
                  files=[ModelFile(name='m.onnx')])
    return ModelCard(**{**fields, **more})


@pytest.fixture
def home(tmp_path): return load_settings(env={}, UNDE_DATA_DIR=tmp_path)


def test_what_is_not_here_says_how_to_get_it(home):
    with pytest.raises(ModelUnavailable, match='models pull toy'): require_files(card(), home)
    assert not is_available(card(), home)


def test_a_pulled_card_goes_before_the_packages(home):
    folder = models_dir(home)/'fashionclip-2.0'
    folder.mkdir(parents=True)
    mine = get_card('fashionclip-2.0', home).model_copy(update={'revision': 'abc', 'dims': 8})
    (folder/'card.json').write_text(mine.model_dump_json(exclude_defaults=True))
    assert get_card('fashionclip-2.0', home) == mine and 'fashionclip-2.0' in pulled_cards(home)
    (folder/'card.json').write_text('{"name": 3}')
    with pytest.raises(ValueError, match='is no card'): get_card('fashionclip-2.0', home)


def test_every_model_of_the_table_has_an_address():
    for c in cards().values(): assert (c.hub is None) == all(f.asset for f in c.files), c.name


def test_every_card_is_whole():
    for c in cards().values():
        assert c.model_version == f'{c.name}-{c.revision}+{c.crop}' and (c.threshold is None) == (
            c.margin is None
        ) == (c.band_high is None)
        for f in c.files:
            if f.asset:
                assert (
                    sha256_of(model_file(c, f, load_settings(env={}))) == f.sha256
                    and f.bytes == model_file(c, f, load_settings(env={})).stat().st_size
                )
    assert {
        'fashionclip-2.0': 512,
        'marqo-fashionsiglip': 768,
        'efficientnet-b0': 1280,
        'dino-vits16': 384,
    }.items() <= {c.name: c.dims for c in cards().values()}.items()


def graph(path, inputs=('pixel_values',), outputs=('image_embeds',), dims=8):
    onnx = pytest.importorskip('onnx')
    from onnx import TensorProto, helper, numpy_helper
    matrix = np.random.default_rng(0).normal(size=(3, dims)).astype('float32')
    nodes = [helper.make_node('ReduceMean', [inputs[0], 'axes'], ['mean'], keepdims=0)] + [
        helper.make_node('MatMul', ['mean', 'matrix'], [o]) for o in outputs
    ]
    made = [helper.make_tensor_value_info(inputs[0], TensorProto.FLOAT, ['n', 3, 's', 's'])] + [
        helper.make_tensor_value_info(i, TensorProto.INT64, ['m', 't']) for i in inputs[1:]
    ]
    g = helper.make_graph(
        nodes,
        'g',
        made,
        [helper.make_tensor_value_info(o, TensorProto.FLOAT, ['n', dims]) for o in outputs],
        [
            numpy_helper.from_array(matrix, 'matrix'),
            numpy_helper.from_array(np.array([2, 3]), 'axes'),
        ],
    )
    onnx.save(helper.make_model(g, opset_imports=[helper.make_opsetid('', 18)], ir_version=9), path)
    return matrix


def test_a_joint_graph_gets_an_empty_text(tmp_path):
    matrix = graph(
        tmp_path / 'joint.onnx',
        ('pixel_values', 'input_ids', 'attention_mask'),
        ('text_embeds', 'image_embeds'),
    )
    tensor = to_tensor([Image.new('RGB', (30, 60), c) for c in ('red', 'navy')], 'pad', Preprocessing())
    assert np.allclose(OnnxTower(tmp_path/'joint.onnx')(tensor), tensor.mean((2, 3)) @ matrix, atol=1e-4)


def test_a_graph_without_an_image_is_refused(tmp_path):
    graph(tmp_path/'text.onnx', ('tokens', 'mask'), ('a',))
    with pytest.raises(ValueError, match='no image input'): OnnxTower(tmp_path/'text.onnx')
    graph(tmp_path/'two.onnx', ('x',), ('a', 'b'))
    with pytest.raises(ValueError, match='image_embeds'): OnnxTower(tmp_path/'two.onnx')


def test_batches_and_presets_change_nothing(tmp_path):
    graph(tmp_path/'m.onnx')
    rng = np.random.default_rng(1)
    images = [
        Image.fromarray(rng.integers(0, 255, (int(h), int(w), 3), dtype=np.uint8))
        for h, w in rng.integers(20, 90, (9, 2))
    ]
    c = card()
    made = [
        Embedder(
            c,
            lambda ims, t=OnnxTower(tmp_path / 'm.onnx', preset): t(
                to_tensor(ims, 'pad', c.preprocessing)
            ),
            batch=b,
        ).embed(images)
        for preset, b in (('runtime', 1), ('batch', 4), ('batch', 16))
    ]
    assert (
        np.allclose(made[0], made[1], atol=1e-5)
        and np.allclose(made[0], made[2], atol=1e-5)
        and np.allclose(np.linalg.norm(made[0], axis=1), 1, atol=1e-6)
    )


def test_threads_share_an_embedder():
    embedder, image = load_embedder(), Image.new('RGB', (80, 100), '#a33')
    one, results = embedder.embed([image]), []
    threads = [threading.Thread(target=lambda: results.append(embedder.embed([image]*3))) for _ in range(8)]
    for t in threads: t.start()
    for t in threads: t.join()
    assert all(np.array_equal(r, np.repeat(one, 3, 0)) for r in results) and len(results) == 8


def test_a_version_of_other_weights_is_refused():
    with pytest.raises(ValueError, match='the index was made with'):
        embedder_for('classical-colour-shape-0+whole', 'classical-colour-shape')
