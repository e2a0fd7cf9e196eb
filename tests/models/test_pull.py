"""The whole way from a hub to an embedder, against a server that speaks the hub's protocol: what can
go wrong, and random weights in every source format.
"""
import errno
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unde_recog.embedder import load_embedder, square, to_tensor
from unde_recog.models import hub as hub_module
from unde_recog.models import pull as pull_module
from unde_recog.models.pull import pull_model
from unde_recog.models.registry import ModelUnavailable, get_card, models_dir
from unde_recog.sandbox.hub import serve_hub
from unde_recog.settings import load_settings

hf = pytest.importorskip('huggingface_hub', reason="pip install 'unde_recog[models]'")
onnx = pytest.importorskip('onnx', reason="pip install 'unde_recog[models]'")
tokenizers = pytest.importorskip('tokenizers', reason="pip install 'unde_recog[text]'")
RED, PRE = Image.new('RGB', (40, 90), 'crimson'), {
    'size': {'shortest_edge': 32}, 'crop_size': 32, 'do_center_crop': True, 'image_mean': [.5]*3,
    'image_std': [.5]*3, 'resample': 3,
}


def joint_graph(dims=8):
    "A joint graph as fashion-clip's: both towers, and logits that need both."
    from onnx import helper, numpy_helper
    rng, node, value = np.random.default_rng(0), helper.make_node, helper.make_tensor_value_info
    weights = [
        numpy_helper.from_array(rng.normal(size=s).astype('float32'), n)
        for n, s in (('colours', (3, dims)), ('words', (20, dims)))
    ]
    axes = [numpy_helper.from_array(np.array(a), n) for n, a in (('plane', [2, 3]), ('row', [1]), ('z', [2]))]
    nodes = [
        node('ReduceMean', ['pixel_values', 'plane'], ['mean'], keepdims=0),
        node('MatMul', ['mean', 'colours'], ['image_embeds']),
        node('Gather', ['words', 'input_ids'], ['seen']),
        node('Cast', ['attention_mask'], ['mask'], to=1),
        node('Unsqueeze', ['mask', 'z'], ['mask3']),
        node('Mul', ['seen', 'mask3'], ['kept']),
        node('ReduceSum', ['kept', 'row'], ['text_embeds'], keepdims=0),
        node('Transpose', ['text_embeds'], ['turned']),
        node('MatMul', ['image_embeds', 'turned'], ['logits_per_image']),
    ]
    read = [value('input_ids', 7, ['m', 't']), value('pixel_values', 1, ['n', 3, 's', 's']),
            value('attention_mask', 7, ['m', 't'])]
    out = [value('logits_per_image', 1, ['n', 'm']), value('text_embeds', 1, ['m', dims]),
           value('image_embeds', 1, ['n', dims])]
    graph = helper.make_graph(nodes, 'joint', read, out, weights + axes)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid('', 18)], ir_version=9)
    return made.SerializeToString()


def write_words(folder):
    words = {w: i for i, w in enumerate(['[pad]', '[unk]', 'red', 'navy', 'dress', 'coat'])}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token='[unk]'))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.save(str(folder/'tokenizer.json'))


@pytest.fixture
def tower(tmp_path):
    "Folder of the repository shop/tower."
    folder = tmp_path/'hub/shop/tower'
    (folder/'onnx').mkdir(parents=True)
    (folder/'onnx/model.onnx').write_bytes(joint_graph())
    (folder/'preprocessor_config.json').write_text(json.dumps(PRE))
    config = {'model_type': 'clip', 'text_config': {'max_position_embeddings': 6}}
    (folder/'config.json').write_text(json.dumps(config))
    (folder/'LICENSE').write_text('MIT')
    write_words(folder)
    return folder


@pytest.fixture
def server(tower):
    with serve_hub(tower.parent.parent) as hub: yield hub


@pytest.fixture
def home(tmp_path, server, monkeypatch):
    monkeypatch.setattr('huggingface_hub.file_download.time.sleep', lambda seconds: None)  # between retries
    monkeypatch.setattr(hf.constants, 'HF_HUB_OFFLINE', False)
    return load_settings(env={}, UNDE_DATA_DIR=tmp_path/'home', HF_ENDPOINT=server.url)


def kept(settings): return sorted(p.name for p in models_dir(settings).glob('*') if p.name != '.download')


def test_a_joint_graph_becomes_a_folder_that_can_be_carried(server, home, tmp_path):
    plans, events = [], []
    card = pull_model('hf:shop/tower', home, on_plan=plans.append, on_progress=lambda *e: events.append(e))
    folder = models_dir(home)/card.folder
    assert 'licence mit' in plans[0].describe() and events
    assert sorted(p.name for p in folder.iterdir()) == [
        'LICENSE', 'SHA256SUMS', 'card.json', 'image.onnx', 'text.onnx', 'tokenizer.json']
    assert kept(home) == [card.folder] and not list((models_dir(home)/'.download').rglob('*.onnx'))
    other = load_settings(env={}, UNDE_DATA_DIR=tmp_path/'other', HF_ENDPOINT='http://127.0.0.1:1')
    shutil.copytree(folder, models_dir(other)/card.folder)
    a, b = (load_embedder('hf:shop/tower', settings=s) for s in (home, other))
    assert a.model_version == b.model_version and np.array_equal(a.embed([RED]), b.embed([RED]))
    assert np.allclose(a.embed_text(['navy coat']), b.embed_text(['navy  coat']))
    known = [-.1042, -.2443, .3208, .2380, -.5112]  # of this graph and this photo
    assert np.allclose(a.embed([RED])[0, :5], known, atol=2e-3), a.embed([RED])[0, :5]


def test_a_pull_is_asked_once_and_pinned(server, home, tower):
    card = pull_model('hf:shop/tower', home)
    asked = len(server.asked)
    (tower/'README.md').write_text('a new commit')
    assert pull_model('hf:shop/tower', home) == card and len(server.asked) == asked
    newer = pull_model('hf:shop/tower@main', home)
    assert newer.hub.revision != card.hub.revision and newer.model_version != card.model_version


def test_photos_alone(home):
    card = pull_model('hf:shop/tower', home, text=False, crop='centre')
    assert not card.text and card.crop == 'centre'
    assert not hasattr(load_embedder('hf:shop/tower', settings=home), 'embed_text')


@pytest.mark.parametrize(('name', 'words'), [
    ('hf:shop/tower@v9', 'no revision v9'), ('hf:shop/hat', 'there is no shop/hat'), ('hf:tower', 'write hf:'),
])
def test_wrong_names(home, name, words):
    with pytest.raises((ModelUnavailable, ValueError), match=words): pull_model(name, home)
    assert kept(home) == []


def test_a_line_that_breaks_goes_on_where_it_stopped(server, home, monkeypatch):
    monkeypatch.setattr(hf.constants, 'DOWNLOAD_CHUNK_SIZE', 200)
    server.cut = 700
    with pytest.raises(ModelUnavailable, match='What came is kept'): pull_model('hf:shop/tower', home)
    assert kept(home) == []
    server.cut = None
    pull_model('hf:shop/tower', home)
    spans = [int(s.removeprefix('bytes=').split('-')[0]) for _, p, s in server.asked if s and 'onnx' in p]
    assert spans and max(spans) >= 600, server.asked


def test_other_bytes_are_refused_and_removed(server, home):
    server.changed = True
    with pytest.raises(ModelUnavailable, match='changed or broken'): pull_model('hf:shop/tower', home)
    assert kept(home) == [] and not list((models_dir(home)/'.download').rglob('model.onnx'))
    server.changed = False
    assert pull_model('hf:shop/tower', home).dims == 8


def test_another_file_under_a_known_name_is_refused_before_it_comes(server, home, tower, monkeypatch):
    card = get_card('fashionclip-2.0', home)
    mine = card.model_copy(update={'hub': card.hub.model_copy(update={'repo': 'shop/tower'})})
    monkeypatch.setattr(pull_module, 'get_card', lambda *a: mine)
    with pytest.raises(ModelUnavailable, match='is not the file of the card'): pull_model('fashionclip-2.0', home)
    assert not [p for _, p, _ in server.asked if 'resolve' in p]


def test_a_full_disk(home, monkeypatch):
    usage = shutil.disk_usage(home.UNDE_DATA_DIR.parent)
    monkeypatch.setattr(hub_module.shutil, 'disk_usage', lambda path: usage._replace(free=100))
    with pytest.raises(ModelUnavailable, match='MB are needed'): pull_model('hf:shop/tower', home)
    monkeypatch.undo()

    def full(*args, **how): raise OSError(errno.ENOSPC, 'No space left on device')
    monkeypatch.setattr(hf.file_download, 'http_get', full)
    with pytest.raises(ModelUnavailable, match='is full'): pull_model('hf:shop/tower', home)
    assert kept(home) == []


def test_no_network_and_offline(home, tmp_path):
    far = load_settings(env={}, UNDE_DATA_DIR=tmp_path/'far', HF_ENDPOINT='http://127.0.0.1:1')
    with pytest.raises(ModelUnavailable, match='could not be read.*HF_ENDPOINT'): pull_model('hf:shop/tower', far)
    off = load_settings(env={}, UNDE_DATA_DIR=home.UNDE_DATA_DIR, HF_HUB_OFFLINE='1')
    with pytest.raises(ModelUnavailable, match='HF_HUB_OFFLINE'): pull_model('hf:shop/tower', off)
    card = pull_model('hf:shop/tower', home)
    assert pull_model('hf:shop/tower', off) == card  # what is here needs no hub


def test_a_gated_repository_wants_a_token(server, home):
    server.gated = True
    with pytest.raises(ModelUnavailable, match='behind terms.*HF_TOKEN'): pull_model('hf:shop/tower', home)
    mine = load_settings(env={}, UNDE_DATA_DIR=home.UNDE_DATA_DIR, HF_ENDPOINT=server.url, HF_TOKEN='hf_x')
    assert pull_model('hf:shop/tower', mine).dims == 8


def test_a_missing_tokenizer(home, tower, monkeypatch):
    (tower/'tokenizer.json').unlink()
    with pytest.raises(ModelUnavailable, match='--no-text'): pull_model('hf:shop/tower', home)
    assert pull_model('hf:shop/tower', home, text=False).text is False


def test_pickles_are_not_even_fetched(server, home, tower):
    shutil.rmtree(tower/'onnx')
    (tower/'pytorch_model.bin').write_bytes(b'cos\nsystem\n')
    with pytest.raises(ModelUnavailable, match='as pickles only'): pull_model('hf:shop/tower', home)
    assert not [p for _, p, _ in server.asked if 'resolve' in p]


def test_weights_without_the_export_extra(home, tower, monkeypatch):
    shutil.rmtree(tower/'onnx')
    (tower/'model.safetensors').write_bytes(b'x')

    def missing(*names): raise ImportError("torch is not installed: pip install 'unde_recog[export]'")
    monkeypatch.setattr(pull_module, 'need', missing)
    with pytest.raises(ImportError, match=r'unde_recog\[export\]'): pull_model('hf:shop/tower', home)


def test_a_graph_that_is_cut_off_leaves_nothing(home, tower):
    whole = (tower/'onnx/model.onnx').read_bytes()
    (tower/'onnx/model.onnx').write_bytes(whole[:len(whole)//2])  # and the hub lists it so
    with pytest.raises(ModelUnavailable, match='no whole ONNX'): pull_model('hf:shop/tower', home)
    assert kept(home) == []


# ---- weights in their own formats

def save(folder, state, config, pre):
    from safetensors.torch import save_file
    for p in folder.rglob('*'):
        if p.is_file(): p.unlink()
    save_file({k: v.contiguous() for k, v in state.items()}, folder/'model.safetensors')
    for name, data in {'config.json': config, **pre}.items():
        if data is not None: (folder/name).write_text(json.dumps(data))


@pytest.fixture(scope='module')
def torch():
    for name in ('torch', 'onnxscript', 'safetensors', 'transformers', 'timm', 'open_clip'):
        if name not in ('torch', 'onnxscript', 'safetensors'):
            from unde_recog.models.convert import import_torchvision
            import_torchvision()
        pytest.importorskip(name, reason=f"{name} is missing: pip install 'unde_recog[export]'")
    import torch
    torch.manual_seed(0)
    return torch


PHOTOS = [Image.open(p).convert('RGB') for p in
          sorted((Path(pull_module.__file__).parents[1]/'web/assets/samples').glob('*.jpg'))[:3]]
TINY = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2)


def same(card, home, wanted):
    "The pulled tower's vectors of real photos are those of `wanted`(pixels), within 1e-4 of a unit row."
    embedder = load_embedder(card.name, settings=home)
    pixels = to_tensor(PHOTOS, card.crop, card.preprocessing)
    theirs = np.asarray(wanted(pixels), float)
    theirs /= np.linalg.norm(theirs, axis=1, keepdims=True)
    assert np.abs(embedder.embed(PHOTOS) - theirs).max() < 1e-4
    return embedder


def test_siglip_of_transformers(torch, home, tower):
    import transformers
    config = transformers.SiglipConfig(
        vision_config={**TINY, 'image_size': 32, 'patch_size': 16},
        text_config={**TINY, 'vocab_size': 20, 'max_position_embeddings': 8, 'bos_token_id': 1,
                     'eos_token_id': 1, 'pad_token_id': 1, 'projection_size': 32},
    )
    model = transformers.SiglipModel(config).eval()
    save(tower, model.state_dict(), config.to_dict(), {'preprocessor_config.json': PRE})
    write_words(tower)
    (tower/'tokenizer_config.json').write_text('{"pad_token": "[unk]"}')
    card = pull_model('hf:shop/tower', home, crop='squash')
    with torch.inference_mode():
        embedder = same(card, home, lambda x: model.vision_model(torch.from_numpy(x)).pooler_output)
        ids = torch.tensor([[2, 4, 1, 1, 1, 1, 1, 1]])  # filled with the mark that the repository names
        wanted = model.text_model(ids).pooler_output.numpy()
    assert np.allclose(embedder.embed_text(['red dress']), wanted/np.linalg.norm(wanted), atol=1e-4)
    assert card.text_context == 8 and card.dims == 32


def test_dinov2_takes_its_first_token(torch, home, tower):
    import transformers
    small = {k: v for k, v in TINY.items() if k != 'intermediate_size'}
    config = transformers.Dinov2Config(**small, image_size=28, patch_size=14)
    model = transformers.Dinov2Model(config).eval()
    pre = {**PRE, 'crop_size': 28, 'size': {'shortest_edge': 32}}
    save(tower, model.state_dict(), config.to_dict(), {'preprocessor_config.json': pre})
    card = pull_model('hf:shop/tower', home, crop='centre')
    assert (card.preprocessing.size, card.preprocessing.edge, card.text) == (28, 32, False)
    with torch.inference_mode():
        same(card, home, lambda x: model(torch.from_numpy(x)).last_hidden_state[:, 0])


def test_timm_and_its_own_transform(torch, home, tower):
    import timm
    model = timm.create_model('test_efficientnet', num_classes=10).eval()
    pre = {'input_size': [3, 64, 64], 'mean': [.485, .456, .406], 'std': [.229, .224, .225],
           'crop_pct': .875, 'interpolation': 'bicubic'}
    config = {'architecture': 'test_efficientnet', 'num_classes': 10, 'pretrained_cfg': pre}
    save(tower, model.state_dict(), config, {})
    card = pull_model('hf:shop/tower', home, crop='centre')
    model.reset_classifier(0)
    transform = timm.data.create_transform(**timm.data.resolve_data_config(pre))
    theirs = torch.stack([transform(p) for p in PHOTOS])
    ours = to_tensor(PHOTOS, 'centre', card.preprocessing)
    assert np.abs(theirs.numpy() - ours).max() < 1e-5
    with torch.inference_mode(): same(card, home, lambda x: model(theirs))


def test_open_clip_with_siglips_words(torch, home, tower):
    import open_clip
    from open_clip.transform import image_transform
    vision = {'image_size': 32, 'layers': 1, 'width': 64, 'patch_size': 16, 'head_width': 32}
    read = {'context_length': 8, 'vocab_size': 20, 'width': 32, 'heads': 2, 'layers': 1,
            'no_causal_mask': True, 'pool_type': 'last', 'tokenizer_kwargs': {'clean': 'canonicalize'}}
    built = {k: v for k, v in read.items() if k != 'tokenizer_kwargs'}
    model = open_clip.model.CustomTextCLIP(embed_dim=24, vision_cfg=vision, text_cfg=built).eval()
    pre = {'mean': [.5]*3, 'std': [.5]*3, 'interpolation': 'bicubic', 'resize_mode': 'shortest'}
    own = {'embed_dim': 24, 'vision_cfg': vision, 'text_cfg': read, 'custom_text': True}
    save(tower, model.state_dict(), None, {'open_clip_config.json': {'model_cfg': own, 'preprocess_cfg': pre}})
    write_words(tower)
    card = pull_model('hf:shop/tower', home, crop='centre')
    transform = image_transform(32, is_train=False, mean=[.5]*3, std=[.5]*3)
    theirs = torch.stack([transform(p) for p in PHOTOS])
    assert np.abs(theirs.numpy() - to_tensor(PHOTOS, 'centre', card.preprocessing)).max() < 1e-6
    with torch.inference_mode():
        embedder = same(card, home, lambda x: model.encode_image(theirs))
        wanted = model.encode_text(torch.tensor([[2, 4, 0, 0, 0, 0, 0, 0]])).numpy()
    assert np.allclose(embedder.embed_text(['Red, dress!']), wanted/np.linalg.norm(wanted), atol=1e-4)


def test_the_quick_gelu_trap(torch, home, tower):
    import transformers
    text = {**TINY, 'vocab_size': 20, 'max_position_embeddings': 6, 'bos_token_id': 1, 'eos_token_id': 2}
    seen = {**TINY, 'image_size': 32, 'patch_size': 16}
    wide = {'hidden_size': 64, 'num_attention_heads': 1, 'intermediate_size': 256}
    config = transformers.CLIPConfig(text_config={**text, **wide}, vision_config={**seen, **wide}, projection_dim=16)
    model = transformers.CLIPModel(config).eval()
    plain = {'model_cfg': {'quick_gelu': False, 'vision_cfg': {'image_size': 32}}}
    save(tower, model.state_dict(), config.to_dict(),
         {'preprocessor_config.json': PRE, 'open_clip_config.json': plain})
    write_words(tower)
    with pytest.raises(ModelUnavailable, match='quick_gelu=False'): pull_model('hf:shop/tower', home)
    (tower/'open_clip_config.json').unlink()
    card = pull_model('hf:shop/tower', home, crop='centre')
    with torch.inference_mode():
        same(card, home, lambda x: model.visual_projection(model.vision_model(torch.from_numpy(x)).pooler_output))


def test_squash_is_what_siglip_does():
    card = get_card('marqo-fashionsiglip')
    made = square(PHOTOS[0], 'squash', card.preprocessing)
    assert made.size == (224, 224) and np.array_equal(
        np.asarray(made), np.asarray(PHOTOS[0].resize((224, 224), Image.Resampling.BICUBIC)))
