"Average precision against COCO's own tool and against brute force; the street protocol; a run that is stopped and goes on; the training report on drawn scenes."
import json

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip('torch', reason="training needs torch: pip install 'unde_recog[train]'")

from unde_recog.onnx_detect import OnnxDetector, overlaps, read_detector_card  # noqa: E402
from unde_recog.research.report import run_report  # noqa: E402
from unde_recog.training.detector import Recipe, Run, split_held, targets, train  # noqa: E402
from unde_recog.training.examples import GARMENTS, LABELS, Moves, drawn_examples, instances, kept_box, kind_table, move_boxes, pack, street_examples, street_rows  # noqa: E402
from unde_recog.training.judge import choose_threshold, street_photos  # noqa: E402
from unde_recog.training.precision import IOUS, Boxes, average_precision, right_finds, score_classes  # noqa: E402


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
    coco = pytest.importorskip('pycocotools.coco', reason='the independent implementation: pip install pycocotools')
    from pycocotools.cocoeval import COCOeval
    truth, found = crowd(seed)
    world = coco.COCO()
    boxes = [(i, b) for i, t in enumerate(truth) for b in t]
    world.dataset = {'images': [{'id': i} for i in range(len(truth))], 'categories': [{'id': 1, 'name': 'top'}],
                     'annotations': [{'id': k + 1, 'image_id': i, 'category_id': 1, 'bbox': [b[0], b[1], b[2] - b[0], b[3] - b[1]], 'area': (b[2] - b[0])*(b[3] - b[1]), 'iscrowd': 0} for k, (i, b) in enumerate(boxes)]}
    world.createIndex()
    finds = world.loadRes([{'image_id': i, 'category_id': 1, 'bbox': [b[0], b[1], b[2] - b[0], b[3] - b[1]], 'score': float(s)} for i, f in enumerate(found) for b, s in zip(f.boxes, f.scores)])
    theirs = COCOeval(world, finds, 'bbox')
    theirs.params.areaRng, theirs.params.areaRngLbl = [[0, 1e10]], ['all']
    theirs.evaluate()
    theirs.accumulate()
    precision = theirs.eval['precision'][:, :, 0, 0, -1]
    for k, iou in enumerate(IOUS): assert average_precision(truth, found, iou) == pytest.approx(precision[k].mean(), abs=1e-9)
    assert score_classes([{'top': Boxes(t, np.zeros(len(t)))} for t in truth], [{'top': f} for f in found], ['top'])['top'].ap == pytest.approx(precision.mean(), abs=1e-9)


@pytest.mark.parametrize('seed', range(3))
def test_average_precision_by_brute_force(seed):
    truth, found = crowd(seed, 12)
    for iou in (.5, .75):
        listed = sorted(((s, i, j) for i, f in enumerate(found) for j, s in enumerate(f.scores)), reverse=True)
        taken, right = set(), []
        for _, i, j in listed:
            best = max(((overlaps(found[i].boxes[j], t[None])[0], k) for k, t in enumerate(truth[i]) if (i, k) not in taken), default=(0, None))
            right.append(best[0] >= iou)
            if right[-1]: taken.add((i, best[1]))
        n, points = sum(map(len, truth)), []
        for k in range(1, len(right) + 1): points.append((sum(right[:k])/n, sum(right[:k])/k))
        want = np.mean([max((p for r, p in points if r >= at), default=0.) for at in np.linspace(0, 1, 101)])
        assert average_precision(truth, found, iou) == pytest.approx(want, abs=1e-12)


def test_average_precision_at_its_ends():
    t = [np.array([[0, 0, 10, 10.]])]
    assert average_precision(t, [Boxes(t[0], np.ones(1))], .95) == pytest.approx(1) and average_precision(t, [Boxes(np.zeros((0, 4)), np.zeros(0))]) == 0
    assert np.isnan(average_precision([np.zeros((0, 4))], [Boxes(t[0], np.ones(1))]))
    assert right_finds(t[0], Boxes(np.repeat(t[0], 3, 0), np.array([.1, .9, .5])), .5).tolist() == [False, True, False]
    assert choose_threshold(t, [Boxes(np.array([[50, 50, 60, 60.]]), np.ones(1))]) is None


def test_protocol_of_the_street_set():
    names = ['null', *sum((v.split() for v in LABELS.values()), []), 'skin', 'suit']
    assert kind_table(names)[:len(names)].tolist() == [0, *(1 + i for i, c in enumerate(GARMENTS) for _ in LABELS[c].split()), 9, 255]
    labels = np.zeros((200, 100), np.uint8)
    shirt, jumper, boots, sneakers, belt = (names.index(n) for n in ('shirt', 'jumper', 'boots', 'sneakers', 'belt'))
    labels[20:60, 20:70], labels[30:40, 30:50] = jumper, shirt
    labels[190:199, 20:30], labels[190:199, 60:72] = boots, sneakers
    labels[0:2, 95:99], labels[62, 20:38] = jumper, belt  # a speck; an instance under a thousandth
    boxes, kinds = instances(labels, names)
    assert sorted((GARMENTS[k], b.tolist()) for b, k in zip(boxes, kinds)) == [('shoes', [20, 190, 72, 199]), ('top', [20, 20, 70, 60]), ('top', [30, 30, 50, 40])]
    assert kept_box(labels == jumper, share=0)[0] == (20, 0, 99, 60)


def test_boxes_move_with_their_photo():
    rng = np.random.default_rng(0)
    for _ in range(20):
        x0, y0 = rng.uniform(.1, .5, 2)
        box = np.array([x0, y0, x0 + rng.uniform(.1, .4), y0 + rng.uniform(.1, .4)], np.float32)
        m = Moves(*(torch.tensor([v], dtype=torch.float32) for v in (rng.choice([-1, 1])*rng.uniform(.7, 1.3), rng.uniform(.7, 1.3), *rng.uniform(-.15, .15, 2))))
        mask = np.zeros((400, 400), np.float32)
        mask[round(box[1]*400):round(box[3]*400), round(box[0]*400):round(box[2]*400)] = 1
        maps = torch.tensor([[[float(m.sx), 0, float(m.dx)], [0, float(m.sy), float(m.dy)]]])
        seen = torch.nn.functional.grid_sample(torch.from_numpy(mask)[None, None], torch.nn.functional.affine_grid(maps, [1, 1, 400, 400], align_corners=False), align_corners=False)[0, 0].numpy() > .5
        rows, columns = np.flatnonzero(seen.any(1)), np.flatnonzero(seen.any(0))
        moved, _ = move_boxes(torch.from_numpy(box)[None, None], torch.tensor([[0]]), m)
        assert np.abs(moved[0, 0].numpy()*400 - [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]).max() < 3


def test_targets_ask_the_cells_under_a_garment():
    heat, which = targets(torch.tensor([[[.1, .1, .9, .9], [.4, .4, .6, .6], [0, 0, 0, 0]]]), torch.tensor([[2, 2, -1]]), 32, 20)
    assert heat.max() == 1 and which[0, 2, 16, 10] == 1 and (which[0, 2] == 0).any() and (which[0, [0, 1, 3, 4, 5, 6, 7]] == -1).all()


def test_a_stopped_run_goes_on_to_the_same_weights(tmp_path):
    drawn = pack(drawn_examples(5))
    recipe = Recipe(epochs=4, batch=5, drawn=5)
    whole = Run(None, drawn, recipe, tmp_path/'whole')
    train(whole)
    stopped = Run(None, drawn, recipe, tmp_path/'parts')
    class Stop(Exception): pass
    def told(row):
        if row['epoch'] == 2: raise Stop
    with pytest.raises(Stop): train(stopped, told)
    going_on = Run(None, drawn, recipe, tmp_path/'parts')
    assert going_on.epoch == 2
    train(going_on)
    for a, b in zip(whole.average.state_dict().values(), going_on.average.state_dict().values()): assert torch.equal(a, b)
    assert [r['heat'] for r in whole.history] == [r['heat'] for r in going_on.history]


def test_held_photos_are_the_same_for_everyone():
    held, used = split_held(100, 20)
    assert len(held) == 20 and not set(held) & set(used) and len({*held, *used}) == 100 and (split_held(100, 20)[0] == held).all()


def test_training_report_on_drawn_scenes(tmp_path):
    out = run_report('train_detector', {'data': '', 'epochs': '1', 'drawn': '10', 'judge': '3', 'batch': '5', 'run': str(tmp_path/'run')}, tmp_path)
    metrics = json.loads((out/'metrics.json').read_text())
    card = read_detector_card(tmp_path/'run'/'street-garments.json')
    assert metrics['epochs'] == 1 and metrics['bytes'] == card.bytes < 12e6 and 'learning curve' in card.metrics and str(tmp_path) not in (out/'report.md').read_text()
    detector = OnnxDetector(card, tmp_path/'run', threads=1)
    assert isinstance(detector.find(Image.new('RGB', (300, 450), 'grey')), list)


def test_missing_photos_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match='photos.csv is missing'): next(street_examples(tmp_path))
    (tmp_path/'photos.csv').write_text('photo,split\n1.jpg,train\n')
    with pytest.raises(ValueError, match="no photos in split 'dev-test'"): street_rows(tmp_path, 'dev-test')


def test_the_real_set_reads_as_its_readme_says(street):
    judged = street_photos(street, 'dev-test', range(6))
    assert len(judged.photos) == 6 and all(set(t) <= set(GARMENTS) for t in judged.truth)
    for photo, truth in zip(*judged):
        for b in truth.values(): assert (b.boxes[:, :2] >= 0).all() and (b.boxes[:, 2:] <= np.array(photo.size)).all()
        assert len(truth.get('shoes', Boxes(np.zeros((0, 4)), np.zeros(0))).boxes) <= 1


@pytest.fixture
def street():
    from pathlib import Path
    folder = Path(__file__).parents[2]/'shared'/'data'/'street'
    if not (folder/'photos.csv').is_file(): pytest.skip('../shared/data/street is not here')
    return folder
