"""Detectors of every convention over real ONNX files with synthetic answers.

Errors that name the thing; concurrency.
"""

import asyncio
import json

import numpy as np
import onnx
import pytest
from PIL import Image

from unde_recog.contracts import Detector
from unde_recog.models.registry import ModelUnavailable, sha256_of
from unde_recog.models.detector import (
    OWN_DETECTOR,
    OnnxDetector,
    as_item,
    open_detector,
)
from unde_recog.models.detector_card import (
    DetectorCard,
    frame,
    input_tensor,
    read_detector_card,
    to_photo,
)
from unde_recog.models.detector_outputs import (
    Finds,
    Found,
    corners,
    gather,
    join_pairs,
    mask_box,
    overlaps,
    peaks,
    suppress,
    without_rivals,
)
from unde_recog.models.groups import Worn
from unde_recog.settings import load_settings
from unde_recog.wardrobe.world import World

PHOTO = Image.new('RGB', (300, 600), '#808080')


def network(path, size, **outputs):
    "An ONNX graph that gives these outputs for any photo."
    nodes = [
        onnx.helper.make_node(
            'Constant', [], [n], value=onnx.numpy_helper.from_array(np.asarray(v, np.float32))
        )
        for n, v in outputs.items()
    ]
    pixels = onnx.helper.make_tensor_value_info('pixels', 1, [1, 3, size[1], size[0]])
    infos = [onnx.helper.make_tensor_value_info(n, 1, np.shape(v)) for n, v in outputs.items()]
    onnx.save(
        onnx.helper.make_model(
            onnx.helper.make_graph(nodes, 'g', [pixels], infos),
            opset_imports=[onnx.helper.make_opsetid('', 17)],
            ir_version=9,
        ),
        path,
    )


def open_toy(folder, outputs, **fields):
    card = DetectorCard(
        **(
            {
                'name': 'toy',
                'file': 'toy.onnx',
                'size': (100, 100),
                'resize': 'stretch',
                'classes': ['top', 'trousers', 'sleeve'],
                'categories': {'trousers': 'bottom', 'sleeve': None},
            }
            | fields
        )
    )
    network(folder/'toy.onnx', card.size, **outputs)
    return OnnxDetector(card, folder, threads=1)


def logit(p): return np.log(p/(1 - p))


TRUE = np.array([[.2, .1, .8, .4], [.3, .4, .7, .9]])  # corners, as shares
CENTRES = np.concatenate([(TRUE[:, :2] + TRUE[:, 2:])/2, TRUE[:, 2:] - TRUE[:, :2]], 1)
EXPECTED = {'top': (60, 60, 240, 240), 'bottom': (90, 240, 210, 540)}


def conventions():
    "The same two garments (and a dropped sleeve, and a double) in every convention."
    boxes = np.concatenate([CENTRES, CENTRES[:1] + .005, [[.5, .5, .1, .1]]])[None]
    soft = np.log(
        np.array(
            [
                [
                    [0.9, 0.02, 0.02, 0.06],
                    [0.03, 0.8, 0.02, 0.15],
                    [0.6, 0.1, 0.1, 0.2],
                    [0.05, 0.05, 0.85, 0.05],
                ]
            ]
        )
    )
    sure = logit(np.array([[[.9, .01, .01], [.01, .8, .01], [.6, .01, .01], [.01, .01, .85]]]))
    yolo = np.concatenate([boxes[0].T*100, np.array([[.9, 0, .6, 0], [0, .8, 0, 0], [0, 0, 0, .85]])])[None]
    return {
        'detr softmax': (
            {'logits': soft, 'pred_boxes': boxes},
            {'convention': 'detr', 'activation': 'softmax'},
        ),
        'detr sigmoid': ({'logits': sure, 'pred_boxes': boxes}, {'convention': 'detr'}),
        'rf-detr': ({'dets': boxes, 'labels': sure}, {'convention': 'rf-detr'}),
        'yolo': ({'output0': yolo}, {'convention': 'yolo'}),
    }


@pytest.mark.parametrize('name', conventions())
def test_every_convention_says_the_same(name, tmp_path):
    outputs, fields = conventions()[name]
    detector = open_toy(tmp_path, outputs, **fields)
    assert isinstance(detector, Detector)
    items = asyncio.run(detector.detect(PHOTO, timeout=10))
    assert [(i.category, i.label) for i in items] == [('top', 'top'), ('bottom', 'trousers')]
    for i in items:
        assert np.abs(np.array(i.box) - EXPECTED[i.category]).max() <= 1 and i.crop.size == (
            i.box.xmax - i.box.xmin,
            i.box.ymax - i.box.ymin,
        )
    assert [round(i.confidence, 3) for i in items] == [.9, .8]


@pytest.mark.parametrize('resize', ['stretch', 'letterbox', 'corner'])
@pytest.mark.parametrize('size', [(300, 600), (601, 299), (57, 57)])
def test_boxes_find_their_way_back(resize, size):
    card = DetectorCard(
        name='x', file='x', convention='yolo', size=(96, 128), resize=resize, classes=['top']
    )
    f = frame(size, card)
    box = np.array([[.2*size[0], .3*size[1], .7*size[0], .9*size[1]]])
    shares = (
        box * np.array((f.width, f.height) * 2) / np.array(size * 2) + np.array((f.left, f.top) * 2)
    ) / np.array(card.size * 2)
    assert np.allclose(to_photo(shares, f), box, atol=1e-3)
    tensor, again = input_tensor(Image.new('RGB', size, 'white'), card)
    assert tensor.shape == (1, 3, 128, 96) and again == f and tensor.max() == pytest.approx(1.)


def test_input_is_what_the_card_says():
    card = DetectorCard(
        name='x',
        file='x',
        convention='yolo',
        size=(8, 8),
        resize='stretch',
        scale=1.0,
        mean=(10, 20, 30),
        std=(2, 4, 5),
        classes=['top'],
    )
    tensor, _ = input_tensor(Image.new('RGB', (20, 20), (110, 120, 130)), card)
    assert tensor[0, :, 0, 0].tolist() == [50, 25, 20]


def test_errors_name_the_thing(tmp_path):
    outputs, fields = conventions()['rf-detr']
    with pytest.raises(
        ValueError,
        match=r"toy: convention 'detr' needs an output 'logits'; the file has dets, labels",
    ):
        open_toy(tmp_path, outputs, convention='detr').find(PHOTO)
    with pytest.raises(
        ValueError, match=r'need logits \[1, queries, 4\].*the file gives \[1, 4, 3\]'
    ):
        open_toy(tmp_path, outputs, convention='rf-detr', activation='softmax').find(PHOTO)
    with pytest.raises(ValueError, match='objectness'):
        open_toy(tmp_path, {'o': np.zeros((1, 8, 20))}, convention='yolo').find(PHOTO)
    with pytest.raises(ValueError, match='not finite'):
        open_toy(
            tmp_path,
            {'dets': np.full((1, 2, 4), np.nan), 'labels': np.full((1, 2, 3), 3.0)},
            convention='rf-detr',
        ).find(PHOTO)
    detector = open_toy(tmp_path, outputs, **fields)
    with pytest.raises(ValueError, match='card says .1, 3, 50, 100.'):
        OnnxDetector(detector.card.model_copy(update={'size': (100, 50)}), tmp_path)
    with pytest.raises(ModelUnavailable, match='is not the 0000'):
        OnnxDetector(detector.card.model_copy(update={'sha256': '0' * 64}), tmp_path)
    OnnxDetector(detector.card.model_copy(update={'sha256': sha256_of(tmp_path/'toy.onnx')}), tmp_path)
    with pytest.raises(ModelUnavailable, match='gone.onnx is not in'):
        OnnxDetector(detector.card.model_copy(update={'file': 'gone.onnx'}), tmp_path)


def test_cards_refuse_what_they_do_not_know(tmp_path):
    good = {'name': 'n', 'file': 'f.onnx', 'convention': 'yolo', 'size': [64, 64], 'classes': ['top']}
    def written(**fields):
        (tmp_path/'c.json').write_text(json.dumps(good | fields))
        return tmp_path/'c.json'
    assert read_detector_card(written()).category(0) == 'top'
    for fields, words in (
        ({'convention': 'ssd'}, 'convention'),
        ({'classes': ['gown']}, 'gown are mapped to no category'),
        ({'categories': {'top': 'shirt'}}, 'categories.top'),
        ({'colour': 1}, 'colour'),
        ({'size': [64]}, 'size'),
    ):
        with pytest.raises(ValueError, match='c.json: .*' + words): read_detector_card(written(**fields))
    assert read_detector_card(written(classes=['top', None])).category(1) is None


def test_thresholds_by_category_and_fallback(tmp_path):
    outputs, fields = conventions()['yolo']

    def found(**more):
        return [
            i.category
            for i in asyncio.run(
                open_toy(tmp_path, outputs, **fields, **more).detect(PHOTO, timeout=10)
            )
        ]

    assert (
        found(threshold={'top': 0.95, 'bottom': 0.2}) == ['bottom']
        and found(threshold=0.99) == ['other']
        and found(threshold=0.99, fallback='none') == []
        and found(max_finds=1) == ['top']
    )


def test_doubles_go_and_pairs_join():
    rng = np.random.default_rng(0)
    for _ in range(50):
        low = rng.uniform(0, 80, (12, 2))
        boxes, scores = np.concatenate([low, low + rng.uniform(5, 60, (12, 2))], 1), rng.random(12)
        kept = suppress(boxes, scores, .5)
        assert all(overlaps(boxes[i], boxes[[j]])[0] <= .5 for i in kept for j in kept if i != j)
        assert all(
            any(scores[j] >= scores[i] and overlaps(boxes[i], boxes[[j]])[0] > 0.5 for j in kept)
            for i in set(range(12)) - set(kept)
        )
    card = DetectorCard(
        name='x',
        file='x',
        convention='yolo',
        size=(100, 100),
        resize='stretch',
        classes=['shoes', 'bag'],
    )
    two = Finds(
        np.array(
            [
                [0.2, 0.9, 0.3, 0.97],
                [0.35, 0.9, 0.45, 0.98],
                [0.2, 0.5, 0.3, 0.6],
                [0.35, 0.5, 0.45, 0.6],
            ]
        ),
        np.array([0, 0, 1, 1]),
        np.array([0.9, 0.8, 0.7, 0.6]),
    )
    found = gather(two, card, frame((100, 100), card))
    assert [f.category for f in found] == ['shoes', 'bag', 'bag'] and np.allclose(
        found[0].box, (20, 90, 45, 98), atol=1e-3
    )
    far = np.array([[0, 90, 10, 97], [80, 90, 90, 97.]])
    assert len(join_pairs(far)) == 2 and len(join_pairs(far[:1])) == 1


COAT = Found((50, 90, 150, 420), 'outerwear', .5, '')
JUMPER = Found((80, 100, 120, 240), 'top', .4, '')
TROUSERS = Found((70, 230, 130, 600), 'bottom', .45, '')


@pytest.mark.parametrize('other, one', [
    (Found((55, 100, 150, 425), 'dress', .3, ''), COAT),  # a buttoned coat, taken for a dress
    (TROUSERS._replace(box=(70, 230, 130, 430), score=.4), TROUSERS),  # cut at the knee
])
def test_one_garment_is_found_once(other, one):
    outfit = [COAT, TROUSERS, JUMPER]
    found = without_rivals([*outfit, other])
    assert [g._replace(rivals=()) for g in found] == outfit
    assert one.category not in [g.category for g in without_rivals([other._replace(score=.6), *outfit])
                                if g.box == one.box]


def test_a_garment_notes_what_else_it_was_taken_for():
    as_dress = Found((60, 110, 140, 440), 'dress', .3, '')
    skirt = as_dress._replace(category='bottom', score=.4)
    again = skirt._replace(score=.2)
    (found,) = without_rivals([skirt, as_dress, again])
    assert found == skirt._replace(rivals=('dress',))
    (other,) = without_rivals([as_dress._replace(score=.5), found])  # of two looks at one person
    assert (other.category, other.rivals) == ('dress', ('bottom',))
    assert as_item(PHOTO, Worn(found, 1)).rivals == ('dress',)


@pytest.mark.parametrize('outfit', [
    [COAT, TROUSERS, JUMPER],
    [COAT, Found((75, 120, 125, 420), 'dress', .3, '')],  # an open coat over a dress
    [COAT, JUMPER._replace(box=(52, 95, 148, 410))],  # a jacket whose top shows above and below
    [TROUSERS, TROUSERS._replace(box=(85, 420, 115, 600))],  # a child stands in front
])
def test_what_is_worn_in_layers_stays(outfit): assert without_rivals(outfit) == outfit


def test_our_maps_read_back_the_boxes_they_were_drawn_from(tmp_path):
    h, w, box = 32, 20, np.array([.22, .31, .71, .63], np.float32)
    ys, xs = (np.arange(h) + .5)/h, (np.arange(w) + .5)/w
    heat = np.zeros((1, 2, h, w), np.float32)
    heat[0, 0] = .9*np.exp(-((ys[:, None] - .47)/.06)**2 - ((xs - .465)/.06)**2)
    y4, x4 = (np.arange(64) + .5)/64, (np.arange(40) + .5)/40
    mask = ((y4[:, None] > box[1]) & (y4[:, None] < box[3]) & (x4 > box[0]) & (x4 < box[2])).astype(
        np.float32
    )
    outputs = {
        'heat': heat,
        'boxes': np.broadcast_to(box[None, None, :, None, None], (1, 2, 4, h, w)),
        'kinds': np.stack([1 - mask, mask, 0 * mask])[None],
        'presence': np.array([[1.0, 1.0]]),
    }
    for blend in (0., .5, 1.):
        detector = open_toy(
            tmp_path,
            outputs,
            convention='garments',
            size=(160, 256),
            classes=['top', 'bag'],
            categories={},
            decoding={'blend': {'top': blend}},
        )
        (found,) = detector.find(PHOTO)
        assert (
            found.category == 'top'
            and np.abs(np.array(found.box) / np.array(PHOTO.size * 2) - box).max() < 0.02
        )
    assert detector.find(PHOTO, threshold=.999) == []

    def worn(p, **decoding):
        return open_toy(
            tmp_path,
            outputs | {'presence': np.array([[1.0, 1.0, p]])},
            convention='garments',
            size=(160, 256),
            classes=['top', 'bag'],
            categories={},
            decoding=decoding,
        ).find(PHOTO)

    assert worn(.4) == [] and len(worn(.6)) == len(worn(.4, worn=.3)) == 1 and worn(.6, worn=.7) == []


def test_peaks_and_masks_at_the_edges():
    heat = np.zeros((2, 5, 4), np.float32)
    heat[0, 0, 0], heat[0, 4, 3], heat[1, 2, 2] = .5, .9, .04
    assert (
        peaks(heat, 0.1) == [(0, 4, 3), (0, 0, 0)]
        and len(peaks(heat, 0.03)) == 3
        and peaks(heat, 0.1, limit=1) == [(0, 4, 3)]
    )
    assert mask_box(np.zeros((8, 8), np.float32), np.array([.1, .1, .5, .5]))[0] is None
    edge, share = mask_box(np.ones((8, 8), np.float32), np.array([-.2, -.2, 1.3, 1.2]))
    assert edge is not None and np.abs(edge - [0, 0, 1, 1]).max() < .08 and share == 1


def test_many_at_once_and_time_out(tmp_path):
    outputs, fields = conventions()['yolo']
    detector = open_toy(tmp_path, outputs, **fields)
    async def many(): return await asyncio.gather(*(detector.detect(PHOTO, timeout=20) for _ in range(24)))

    assert {tuple(i.box for i in items) for items in asyncio.run(many())} == {
        tuple(i.box for i in asyncio.run(detector.detect(PHOTO, timeout=10)))
    }
    with pytest.raises(TimeoutError):
        asyncio.run(detector.detect(Image.new('RGB', (6000, 6000)), timeout=1e-4))


def test_corners(): assert np.allclose(corners(CENTRES), TRUE)


def test_which_detector_opens(tmp_path):
    home = load_settings(env={}, UNDE_DATA_DIR=tmp_path)
    own = open_detector(home, threads=1)
    assert (
        own.name == OWN_DETECTOR
        and own.card.bytes < 12_000_000
        and own.card.licence
        and own.card.limits
        and own.card.not_for
        and own.card.data
    )
    with pytest.raises(
        ModelUnavailable, match='no detector card nobody: there are street-garments'
    ):
        open_detector(home, 'nobody')
    folder = tmp_path/'detectors'
    folder.mkdir()
    outputs, fields = conventions()['yolo']
    toy = open_toy(folder, outputs, **fields)
    (folder/'mine.json').write_text(toy.card.model_dump_json())
    assert (
        open_detector(home).name == 'toy'
        and open_detector(home, OWN_DETECTOR, threads=1).name == OWN_DETECTOR
        and open_detector(home, folder / 'mine.json').name == 'toy'
    )
    (folder/'other.json').write_text(toy.card.model_dump_json())
    with pytest.raises(ValueError, match='mine, other lie in'): open_detector(home)


def test_own_detector_finds_drawn_garments_in_place(tmp_path):
    own, world = open_detector(load_settings(env={}, UNDE_DATA_DIR=tmp_path), threads=1), World(seed=11)
    seen = total = 0
    for i in range(8):
        scene = world.scene(i, split='test', size=(512, 768), difficulty='easy')
        found = own.find(scene.image)
        assert len(found) <= own.card.max_finds and all(
            0 <= f.box[0] < f.box[2] <= 512 and 0 <= f.box[1] < f.box[3] <= 768 and 0 < f.score <= 1
            for f in found
        )
        for item in (
            i for i in scene.items if i.category in ('top', 'bottom', 'dress', 'outerwear', 'shoes')
        ):
            total += 1
            seen += any(
                f.category == item.category
                and overlaps(np.array(f.box), np.array([item.box], float))[0] >= 0.5
                for f in found
            )
    assert seen >= .6*total, (seen, total)


def test_a_blank_photo_is_one_item(tmp_path):
    own = open_detector(load_settings(env={}, UNDE_DATA_DIR=tmp_path), threads=1)
    (item,) = asyncio.run(own.detect(Image.new('RGB', (400, 300), 'white'), timeout=20))
    assert item.box == (0, 0, 400, 300) and item.category == 'other'
