"""FashionCLIP's architecture at its real size, all the way: transformers' checkpoint → open_clip
→ ONNX, random weights, against transformers itself.
"""

import hashlib
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from unde_recog.models import convert as c
from unde_recog.models.onnx import OnnxTower

for _module in ('torch', 'onnxscript', 'safetensors'):
    pytest.importorskip(_module, reason=f"{_module} is missing: pip install 'unde_recog[export]'")
c.import_torchvision()
open_clip = pytest.importorskip(
    'open_clip', reason="open_clip is missing: pip install 'unde_recog[export]'"
)
transformers = pytest.importorskip(
    'transformers', reason='transformers is missing: every tower is compared with its CLIPModel'
)
import torch  # noqa: E402

SMALL = dict(hidden_size=64, intermediate_size=256, num_hidden_layers=2, num_attention_heads=1)


def clip(**more):
    "A tiny random CLIP of transformers."
    torch.manual_seed(3)
    text = dict(SMALL, vocab_size=99, max_position_embeddings=12, bos_token_id=97, eos_token_id=98)
    return transformers.CLIPModel(
        transformers.CLIPConfig(
            vision_config=dict(SMALL, image_size=32, patch_size=8, **more),
            text_config=text | more,
            projection_dim=16,
        )
    ).eval()


@pytest.fixture(scope='module')
def tiny(tmp_path_factory):
    "Folder of a tiny checkpoint as transformers saves it, and its state."
    folder = tmp_path_factory.mktemp('tiny')
    model = clip()
    model.save_pretrained(folder)
    return folder, model.state_dict()


@torch.inference_mode()
def answers(model, pixels, ids):
    "transformers' own image and text vectors, not normalised."
    return model.visual_projection(
        model.vision_model(pixels).pooler_output
    ).numpy(), model.text_projection(model.text_model(ids).pooler_output).numpy()


def sentences(n, context, start, end):
    "Token rows of different lengths, padded with zeros as open_clip pads."
    rng, ids = np.random.default_rng(1), np.zeros((n, context), np.int64)
    for i, row in enumerate(ids):
        length = 3 + 5*i % (context - 4)
        row[0], row[1:length], row[length] = start, rng.integers(1, start, length - 1), end
    return torch.from_numpy(ids)


@pytest.fixture(scope='module')
def real(tmp_path_factory):
    """ViT-B/32 with random weights from transformers, through safetensors and `convert`: towers,
    inputs, transformers' answers, plain-GELU answers.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    folder = tmp_path_factory.mktemp('real')
    torch.manual_seed(0)
    model = transformers.CLIPModel(
        transformers.CLIPConfig(text_config=dict(bos_token_id=49406, eos_token_id=49407))
    ).eval()
    # fresh layer norms are all 1 and 0, fresh biases 0: a swap of two would go unseen
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.ndim == 1: p.add_(torch.randn_like(p)*.1)
            if '.mlp.' in name: p.mul_(2)  # trained activations are larger than fresh ones
    model.save_pretrained(folder, safe_serialization=True)
    # large fields, some noise
    pixels = (
        torch.randn(3, 3, 7, 7).repeat_interleave(32, 2).repeat_interleave(32, 3)
        + torch.randn(3, 3, 224, 224) / 4
    )
    ids = sentences(3, 77, 49406, 49407)
    theirs = answers(model, pixels, ids)
    del model
    paths = c.convert(folder, folder/'onnx')
    state = c.to_open_clip(c.load_checkpoint(folder))
    plain = c.build_model(state, open_clip.get_model_config('ViT-B-32'))
    with torch.inference_mode(): gelu = plain.encode_image(pixels).numpy(), plain.encode_text(ids).numpy()
    yield paths, (pixels, ids), theirs, gelu, c.config_of(state)
    (folder/'model.safetensors').unlink()
    for p in paths.values(): p.unlink()
    torch.set_num_threads(threads)


@pytest.mark.parametrize('tower', ['image', 'text'])
@pytest.mark.parametrize('rows', [1, 3])
def test_real_size_equals_transformers(real, tower, rows):
    paths, inputs, theirs, _, _ = real
    at = ['image', 'text'].index(tower)
    got = c.run_onnx(paths[tower], inputs[at][:rows])
    assert got.shape == (rows, 512) and got.dtype == np.float32
    assert c.difference(got, theirs[at][:rows]) < 1e-4
    # not normalised: the length is the original's too
    assert np.allclose(got, theirs[at][:rows], atol=1e-3)


def test_random_weights_tell_rows_apart(real):
    "Else equal vectors would prove nothing."
    for vectors in real[2]:
        assert (
            min(c.difference(vectors[[i]], vectors[[j]]) for i in range(3) for j in range(i))
            > 10 * c.TOLERANCE
        )


def test_plain_gelu_would_differ(real):
    _, _, theirs, gelu, _ = real
    for a, b in zip(theirs, gelu): assert c.difference(a, b) > 1e-3


def test_real_size_is_open_clips_quickgelu_model(real):
    assert real[4] == open_clip.get_model_config('ViT-B-32-quickgelu')


def test_checksums_and_names(real):
    paths = real[0]
    listed = dict(
        reversed(line.split('  '))
        for line in (paths['image'].parent / 'SHA256SUMS').read_text().splitlines()
    )
    assert listed == {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in paths.values()}
    import onnxruntime as ort

    for tower, wanted in (
        ('image', ('pixel_values', ['n', 3, 224, 224], 'image_embeds')),
        ('text', ('input_ids', ['n', 77], 'text_embeds')),
    ):
        session = ort.InferenceSession(str(paths[tower]), providers=['CPUExecutionProvider'])
        (given,), (out,) = session.get_inputs(), session.get_outputs()
        assert (given.name, given.shape[1:], out.name) == (wanted[0], wanted[1][1:], wanted[2])
        assert isinstance(given.shape[0], str) and out.shape[1] == 512  # the batch is free
        del session


def test_the_embedder_loads_the_image_tower(real):
    paths, (pixels, _), theirs, _, _ = real
    assert c.difference(OnnxTower(paths['image'], threads=2)(pixels[:1].numpy()), theirs[0][:1]) < 1e-4


@pytest.mark.parametrize(
    'key',
    [
        'logit_scale',
        'visual_projection.weight',
        'vision_model.pre_layrnorm.weight',
        'text_model.encoder.layers.0.self_attn.v_proj.bias',
        'vision_model.encoder.layers.0.mlp.fc1.weight',
    ],
)
def test_a_missing_key_is_named(tiny, key):
    with pytest.raises(ValueError, match=f'missing: {key}$'):
        c.to_open_clip({k: v for k, v in tiny[1].items() if k != key})


def test_every_single_missing_key_is_refused(tiny):
    for key in tiny[1]:
        with pytest.raises(ValueError, match='missing'):
            c.to_open_clip({k: v for k, v in tiny[1].items() if k != key})


def test_an_unknown_key_is_named(tiny):
    with pytest.raises(ValueError, match='unknown: vision_model.head.weight$'):
        c.to_open_clip({**tiny[1], 'vision_model.head.weight': torch.zeros(2)})
    with pytest.raises(ValueError, match='open_clip names already'): c.to_open_clip(c.to_open_clip(tiny[1]))
    with pytest.raises(ValueError, match='it is empty'): c.to_open_clip({})


def test_old_and_wrapped_checkpoints(tiny, tmp_path):
    "position_ids of older transformers; the trainer's wrapping; half precision."
    old = {
        **tiny[1],
        'text_model.embeddings.position_ids': torch.arange(12)[None],
        'vision_model.embeddings.position_ids': torch.arange(17)[None],
    }
    torch.save(
        {
            'epoch': 3,
            'state_dict': {
                f'module.{k}': v.half() if v.is_floating_point() else v for k, v in old.items()
            },
        },
        tmp_path / 'pytorch_model.bin',
    )
    state = c.load_checkpoint(tmp_path)
    assert all(v.dtype == torch.float32 for k, v in state.items() if not k.endswith('position_ids'))
    new, wanted = c.to_open_clip(state), c.to_open_clip(tiny[1])
    assert new.keys() == wanted.keys() and all(torch.allclose(new[k], wanted[k], atol=1e-3) for k in new)


def test_numpy_and_torch_convert_alike(tiny):
    tensors, arrays = c.to_open_clip(tiny[1]), c.to_open_clip({k: v.numpy() for k, v in tiny[1].items()})
    assert list(tensors) == list(arrays) and all(
        isinstance(v, (np.ndarray, np.generic)) and np.array_equal(v, tensors[k].numpy())
        for k, v in arrays.items()
    )


def test_weights_that_do_not_fit_are_named(tiny):
    state = c.to_open_clip(tiny[1])
    with pytest.raises(ValueError, match='visual.ln_post.bias'):
        c.build_model({**state, 'visual.ln_post.bias': torch.zeros(3)}, c.config_of(state))
    with pytest.raises(ValueError, match='hub'):
        c.build_model(
            state, {'embed_dim': 16, 'vision_cfg': {}, 'text_cfg': {'hf_model_name': 'some/model'}}
        )


@pytest.mark.parametrize('cut', [0, 7, 1000, -100])
@pytest.mark.parametrize('name', ['model.safetensors', 'pytorch_model.bin'])
def test_cut_off_files(tiny, tmp_path, name, cut):
    path = tmp_path/name
    if name.endswith('.bin'): torch.save(tiny[1], path)
    whole = path.read_bytes() if name.endswith('.bin') else (tiny[0]/name).read_bytes()
    path.write_bytes(whole[:cut])
    with pytest.raises(ValueError, match=name): c.convert(tmp_path, tmp_path/'out')
    assert not (tmp_path/'out').exists()


def test_code_in_a_pickle_is_not_run(tmp_path):
    class Evil:
        def __reduce__(self): return os.mkdir, (str(tmp_path/'broken_in'),)
    torch.save({'w': Evil()}, tmp_path/'pytorch_model.bin')
    with pytest.raises(ValueError, match='more than tensors'): c.load_checkpoint(tmp_path)
    assert not (tmp_path/'broken_in').exists()


def test_config_json_decides_the_activation(tiny, tmp_path):
    model = clip(hidden_act='gelu')
    model.save_pretrained(tmp_path)
    paths = c.convert(tmp_path, tmp_path/'onnx')
    pixels, ids = torch.randn(2, 3, 32, 32), sentences(2, 12, 97, 98)
    for got, wanted in zip(
        (c.run_onnx(paths['image'], pixels), c.run_onnx(paths['text'], ids)),
        answers(model, pixels, ids),
    ):
        assert c.difference(got, wanted) < 1e-4
    (tmp_path/'config.json').unlink()
    with torch.inference_mode():
        quick = c.build_model(*c.prepare(model.state_dict(), tmp_path)).encode_image(pixels)
    assert c.difference(quick, answers(model, pixels, ids)[0]) > 10*c.TOLERANCE


def test_open_clip_format_with_a_text_tower_of_its_own(tmp_path):
    """What Marqo publishes: open_clip's names and open_clip_config.json.

    Here with a text tower as FashionSigLIP has it (own module, no causal mask, last token,
    bias).
    """
    torch.manual_seed(0)
    config = {
        'embed_dim': 64,
        'init_logit_bias': -10,
        'custom_text': True,
        'vision_cfg': {'image_size': 32, 'layers': 2, 'width': 64, 'patch_size': 8},
        'text_cfg': {
            'context_length': 10,
            'vocab_size': 50,
            'width': 64,
            'heads': 1,
            'layers': 2,
            'no_causal_mask': True,
            'proj_bias': True,
            'pool_type': 'last',
            'norm_kwargs': {'eps': 1e-6},
        },
    }
    model = open_clip.CustomTextCLIP(**{k: v for k, v in config.items() if k != 'custom_text'}).eval()
    torch.save(model.state_dict(), tmp_path/'open_clip_pytorch_model.bin')
    with pytest.raises(ValueError, match='need their open_clip_config.json'):
        c.convert(tmp_path, tmp_path / 'onnx')
    (tmp_path/'open_clip_config.json').write_text(json.dumps({'model_cfg': config}))
    paths = c.convert(tmp_path, tmp_path/'onnx')
    pixels, ids = torch.randn(3, 3, 32, 32), torch.randint(0, 50, (3, 10))
    with torch.inference_mode(): wanted = model.encode_image(pixels), model.encode_text(ids)
    assert (
        c.difference(c.run_onnx(paths['image'], pixels), wanted[0]) < 1e-4
        and c.difference(c.run_onnx(paths['text'], ids), wanted[1]) < 1e-4
    )


def test_weights_that_are_not_numbers_leave_nothing(tiny, tmp_path):
    bad = {k: v.clone() for k, v in tiny[1].items()}
    bad['vision_model.post_layernorm.weight'][0] = float('nan')
    torch.save(bad, tmp_path/'pytorch_model.bin')
    with pytest.raises(ValueError, match='image.onnx: .* not finite'): c.convert(tmp_path, tmp_path/'onnx')
    assert list((tmp_path/'onnx').iterdir()) == []


def test_the_module_needs_no_torch_until_it_is_used():
    code = (
        'import sys, unde_recog.models.convert\n'
        'heavy = "torch", "open_clip", "transformers", "onnxruntime", "matplotlib"\n'
        'sys.exit(", ".join(m for m in heavy if m in sys.modules))'
    )
    command = [sys.executable, '-c', code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.stderr.strip() == ''
