"""Words in the space of the photos: random weights in the real formats, against open_clip and
transformers, and through the service.
"""

import logging
import os

import numpy as np
import pytest
from PIL import Image

from unde_recog.models import convert as c
from unde_recog.embedder import load_embedder
from unde_recog.models.onnx import OnnxTower
from unde_recog.media.images import to_jpeg
from unde_recog.settings import load_settings
from unde_recog.models.text import encode, open_tokenizer

from tests.web_shop import Shop

for _module in ('torch', 'onnxscript', 'safetensors', 'tokenizers'):
    pytest.importorskip(
        _module, reason=f"{_module} is missing: pip install 'unde_recog[export,text]'"
    )
c.import_torchvision()
open_clip = pytest.importorskip(
    'open_clip', reason="open_clip is missing: pip install 'unde_recog[export]'"
)
transformers = pytest.importorskip(
    'transformers', reason='transformers is missing: every tower is compared with its CLIPModel'
)
import torch  # noqa: E402

TEXTS = [
    'a khaki bomber jacket',
    'Red   DRESS, size 38/40!',
    "it's a coat: don't touch",
    'голубое пальто',
    'café — crème № 7 👗',
    '',
    'x',
    'very ' + 'long ' * 90 + 'skirt',
    '日本のシャツ',
]


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
    """A small CLIP of transformers with CLIP's own vocabulary, 224 pixels and 512 dimensions,
    random weights.
    """
    folder = tmp_path_factory.mktemp('clip')
    torch.manual_seed(0)
    small = dict(hidden_size=64, intermediate_size=256, num_hidden_layers=2, num_attention_heads=1)
    model = transformers.CLIPModel(
        transformers.CLIPConfig(
            vision_config=dict(small, image_size=224, patch_size=32),
            text_config=dict(small, bos_token_id=49406, eos_token_id=49407),
            projection_dim=512,
        )
    ).eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.ndim == 1: p.add_(torch.randn_like(p)*.1)
            if 'embedding' in name: p.mul_(20)  # fresh ones hardly tell words apart
    model.save_pretrained(folder)
    return folder, model


@pytest.fixture(scope='module')
def towers(checkpoint, tmp_path_factory):
    "A data folder with `clip-vit-b-32` as two towers, as `convert` makes them."
    data = tmp_path_factory.mktemp('towers')
    c.convert(checkpoint[0], data/'models'/'clip-vit-b-32')
    return data


@pytest.fixture(scope='module')
def joint(checkpoint, towers, tmp_path_factory):
    """A data folder with `fashionclip-2.0` as its hub has it: one graph with three inputs, and a
    tokenizer.json.
    """
    data = tmp_path_factory.mktemp('joint')
    folder = data/'models'/'fashionclip-2.0'
    folder.mkdir(parents=True)

    class Whole(torch.nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model = model
        def forward(self, input_ids, pixel_values, attention_mask):
            out = self.model(input_ids=input_ids, pixel_values=pixel_values, attention_mask=attention_mask)
            return out.logits_per_image, out.logits_per_text, out.text_embeds, out.image_embeds
    ids = torch.randint(1, 49000, (2, 77))
    ids[:, 30] = 49407
    n, m = torch.export.Dim('n', min=1), torch.export.Dim('m', min=1)
    torch.onnx.export(
        Whole(checkpoint[1]),
        (ids, torch.randn(3, 3, 224, 224), torch.ones_like(ids)),
        input_names=['input_ids', 'pixel_values', 'attention_mask'],
        output_names=['logits_per_image', 'logits_per_text', 'text_embeds', 'image_embeds'],
        dynamic_shapes=({0: n}, {0: m}, {0: n}),
        dynamo=True,
        opset_version=18,
        verbose=False,
        optimize=False,
    ).save(folder / 'model.onnx', external_data=False)
    (folder/'tokenizer.json').write_bytes((towers/'models'/'clip-vit-b-32'/'tokenizer.json').read_bytes())
    return data


@torch.inference_mode()
def of_open_clip(checkpoint, texts):
    "open_clip's own way, from text to unit vectors."
    model = c.build_model(*c.prepare(c.load_checkpoint(checkpoint[0]), checkpoint[0]))
    return model.encode_text(open_clip.get_tokenizer('ViT-B-32')(texts), normalize=True).numpy()


@torch.inference_mode()
def of_transformers(checkpoint, tokenizer_file, texts):
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(tokenizer_file),
        pad_token='<end_of_text>',
        eos_token='<end_of_text>',
        bos_token='<start_of_text>',
    )
    asked = tokenizer(texts, padding='max_length', truncation=True, max_length=77, return_tensors='pt')
    out = checkpoint[1].text_projection(
        checkpoint[1]
        .text_model(input_ids=asked['input_ids'], attention_mask=asked['attention_mask'])
        .pooler_output
    )
    return torch.nn.functional.normalize(out, dim=-1).numpy()


def test_numbers_are_those_of_open_clip(towers):
    ids, mask = encode(open_tokenizer(towers/'models'/'clip-vit-b-32'/'tokenizer.json', 77), TEXTS)
    assert np.array_equal(
        ids, open_clip.get_tokenizer('ViT-B-32')(TEXTS).numpy()
    ) and ids.shape == (len(TEXTS), 77)
    assert mask.sum(1).tolist() == [int(np.flatnonzero(row == 49407)[0]) + 1 for row in ids]


@pytest.mark.parametrize('made', ['towers', 'joint'])
def test_vectors_are_those_of_open_clip_and_transformers(checkpoint, towers, joint, made):
    data, name = (towers, 'clip-vit-b-32') if made == 'towers' else (joint, 'fashionclip-2.0')
    embedder = load_embedder(name, settings=load_settings(env={}, UNDE_DATA_DIR=data))
    got, wanted = embedder.embed_text(TEXTS), of_open_clip(checkpoint, TEXTS)
    assert got.shape == (len(TEXTS), 512) and got.dtype == np.float32 and np.abs(got - wanted).max() < 1e-5
    assert (
        np.abs(
            got - of_transformers(checkpoint, data / 'models' / name / 'tokenizer.json', TEXTS)
        ).max()
        < 1e-5
    )
    assert np.abs(embedder.embed_text(TEXTS[:1]) - wanted[:1]).max() < 1e-5 and embedder.embed_text(
        []
    ).shape == (0, 512)
    # else equal vectors would prove nothing
    assert min(np.abs(wanted[i] - wanted[j]).max() for i in range(len(TEXTS)) for j in range(i)) > 1e-3


def test_the_joint_graph_is_in_memory_once(joint):
    embedder = load_embedder('fashionclip-2.0', settings=load_settings(env={}, UNDE_DATA_DIR=joint))
    assert embedder.embed([Image.new('RGB', (30, 40), 'red')]).shape == (1, 512)
    texts = next(
        cell.cell_contents
        for cell in embedder.embed_text.__closure__
        if hasattr(cell.cell_contents, 'tokenizer')
    )
    assert texts.session is embedder.tower.session
    pixels = np.random.default_rng(0).normal(size=(1, 3, 224, 224)).astype('float32')
    assert OnnxTower(joint/'models'/'fashionclip-2.0'/'model.onnx')(pixels).shape == (1, 512)


def test_without_its_files_a_model_has_no_words(towers, tmp_path, caplog, monkeypatch):
    # a service started in this process keeps its lines to itself
    monkeypatch.setattr(logging.getLogger('unde_recog'), 'propagate', True)
    folder = tmp_path/'models'/'clip-vit-b-32'
    folder.mkdir(parents=True)
    for n in ('image.onnx',): (folder/n).write_bytes((towers/'models'/'clip-vit-b-32'/n).read_bytes())
    load = lambda: load_embedder('clip-vit-b-32', settings=load_settings(env={}, UNDE_DATA_DIR=tmp_path))
    assert not hasattr(load(), 'embed_text') and not caplog.records
    (folder/'text.onnx').write_bytes((towers/'models'/'clip-vit-b-32'/'text.onnx').read_bytes())
    assert not hasattr(load(), 'embed_text') and 'tokenizer.json is not beside' in caplog.text
    (folder/'tokenizer.json').write_text('{"no": "tokenizer"}')
    with pytest.raises(ValueError, match='tokenizer.json of the model'): load()
    assert not hasattr(load_embedder(), 'embed_text')  # the offline default has none at all


def test_search_by_text_through_the_service(server_url, template, tmp_path, joint):
    """An index by a model with words is searched by them, in the order that the vectors say.

    Zero-shot tags wake up too.
    """
    from unde_recog.jobs.index import index_catalogue
    from unde_recog.tagging import LocalTagger
    shop = Shop(server_url, template, tmp_path, 'test_text', skus=10)
    try:
        (shop.data/'models').symlink_to(joint/'models')
        with shop.running() as (client, _):
            told = client.get('/api/v1/search', params={'q': 'a red dress'})
            assert (
                told.status_code == 503
                and 'needs an index by a model that reads text' in told.json()['detail']
            )
        embedder = load_embedder('fashionclip-2.0', 'batch', settings=shop.settings())
        assert not hasattr(embedder, 'embed_text')
        with shop.db() as db: index_catalogue(db, embedder, storage=shop.storage)
        asker = load_embedder('fashionclip-2.0', settings=shop.settings())
        with shop.running() as (client, server):
            told = client.get('/api/v1/search', params={'q': 'a khaki bomber jacket', 'k': 5}).json()
            assert isinstance(
                server.app.state.state.engine.session.recognizer.parts.local_tagger, LocalTagger
            )
            assert (
                client.post(
                    '/api/v1/recognize', files={'image': to_jpeg(shop.world.scene(1).image)}
                ).json()['degraded']
                == []
            )
        rows = shop.log(
            "select brand, sku_id, embedding::text from sku_image_embeddings where model_version = %s",
            asker.model_version,
        )
        word, best = asker.embed_text(['a khaki bomber jacket'])[0], {}
        for brand, sku, vector in rows:
            best[brand, sku] = max(
                best.get((brand, sku), -2), float(np.array(vector[1:-1].split(','), float) @ word)
            )
        wanted = sorted(best, key=best.get, reverse=True)[:5]
        assert (
            told['model_version'] == asker.model_version
            and [(m['brand'], m['external_id']) for m in told['matches']] == wanted
            and all(m['name'] for m in told['matches'])
        )
        (shop.data/'models').unlink()
        (shop.data/'models'/'fashionclip-2.0').mkdir(parents=True)
        (shop.data / 'models' / 'fashionclip-2.0' / 'model.onnx').symlink_to(
            joint / 'models' / 'fashionclip-2.0' / 'model.onnx'
        )
        with shop.running() as (client, _):
            assert (
                'tokenizer.json is not beside'
                in client.get('/api/v1/search', params={'q': 'a red dress'}).json()['detail']
            )
    finally: shop.drop()
