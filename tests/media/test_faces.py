"""BLUR_FACES: what arrives at a vendor shows no face, whichever way it went.

A network in the real format says where faces are.
"""

import base64
import json
import re
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from unde_recog.media.faces import FaceFinder, blur
from unde_recog.media.images import decode, to_jpeg
from unde_recog.sandbox.server import App, Sandbox
from unde_recog.session import open_recognizer
from unde_recog.settings import SettingsError
from unde_recog.vendors.ximilar import Ximilar
from unde_recog.wardrobe.world import Truth

from tests.web_shop import Shop

onnx = pytest.importorskip('onnx')


@pytest.fixture(scope='module')
def shop(server_url, template, tmp_path_factory):
    made = Shop(server_url, template, tmp_path_factory.mktemp('shop'), 'test_faces', skus=12)
    yield made
    made.drop()


@pytest.fixture(scope='module')
def network(tmp_path_factory):
    """A file in YuNet's format whose weights say of every picture: a face in row 2, column 4 of
    the coarse grid.
    """
    from onnx import TensorProto, helper, numpy_helper
    outputs, tensors = [], []
    for s in (8, 16, 32):
        n = (640//s)**2
        for kind, width in (('cls', 1), ('obj', 1), ('bbox', 4), ('kps', 10)):
            value = np.zeros((1, n, width), np.float32)
            if s == 32 and kind in ('cls', 'obj'): value[0, 2*20 + 4] = .95
            if s == 32 and kind == 'bbox': value[0, 2*20 + 4] = .5, .5, np.log(2), np.log(2)
            tensors.append(numpy_helper.from_array(value, f'{kind}_{s}_value'))
            outputs.append((f'{kind}_{s}', value.shape))
    nodes = [
        helper.make_node('ReduceSum', ['input'], ['sum'], keepdims=0),
        helper.make_node('Mul', ['sum', 'nought'], ['none']),
    ]
    nodes += [helper.make_node('Add', [f'{name}_value', 'none'], [name]) for name, _ in outputs]
    graph = helper.make_graph(
        nodes,
        'yunet',
        [helper.make_tensor_value_info('input', TensorProto.FLOAT, [1, 3, 640, 640])],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, list(shape)) for n, shape in outputs],
        [*tensors, numpy_helper.from_array(np.float32(0), 'nought')],
    )
    file = tmp_path_factory.mktemp('faces')/'yunet.onnx'
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid('', 13)], ir_version=8), file)
    return file


class Listening(App):
    """The simulated vendors.

    `arrived` keeps (operation, pictures) of every call, as their bytes came over the socket.
    """

    def __init__(self, *args):
        super().__init__(*args)
        self.arrived = []

    def answer(self, vendor, operation, body, collection='sandbox'):
        found = [
            decode(base64.b64decode(text, altchars=b'-_' if re.search('[-_]', text) else None))
            for text in re.findall(r'"(_?[/_]9j[/_][\w+/=-]{200,})"', body.decode())
        ]
        self.arrived.append((operation, found))
        return super().answer(vendor, operation, body, collection)


@pytest.fixture(scope='module')
def scene(shop):
    "A scene under grain, so that every place in it that was blurred shows."
    drawn, grain = shop.world.scene(2), np.random.default_rng(0)
    image = Image.fromarray(
        np.clip(
            np.asarray(drawn.image, int) + grain.integers(-25, 26, np.asarray(drawn.image).shape),
            0,
            255,
        ).astype('uint8')
    )
    return replace(drawn, data=to_jpeg(image, 95))


@pytest.fixture
def vendors(shop, scene):
    truth = Truth()
    truth.add_scene(scene)
    for key in shop.world.keys:
        truth.add_photo(
            (shop.folder / 'images' / key.brand / key.external_id / 'on_model.jpg').read_bytes(),
            key,
        )
    with Sandbox(Listening(shop.world, truth)) as box: yield box


def grain_of(image, box):
    return float(np.abs(np.diff(np.asarray(image.convert('L').crop(box), float), axis=1)).mean())


def shows_a_face(image):
    "Whether the place where the network sees a face is as sharp as the rest of the picture."
    x0, y0, x1, y1 = (round(v*max(image.size)/640) for v in (112, 48, 176, 112))
    return grain_of(image, (x0, y0, x1, y1)) > 0.4 * grain_of(
        image, (0, image.height // 2, image.width, image.height)
    )


def test_the_network_in_the_real_format(network, tmp_path):
    photo = Image.effect_noise((320, 640), 80).convert('RGB')
    faces = FaceFinder(network)(photo)
    assert (
        [tuple(f) for f in faces] == [(112, 48, 176, 112)]
        and shows_a_face(photo)
        and not shows_a_face(blur(photo, faces))
    )
    with pytest.raises(SettingsError, match='no such file'): FaceFinder(tmp_path/'absent.onnx')
    (tmp_path/'other.onnx').write_bytes(b'no network')
    with pytest.raises(SettingsError, match='YuNet'): FaceFinder(tmp_path/'other.onnx')


def recognised(how, shop, scene, settings):
    "The scene, recognised in one of the ways that there are."
    if how == 'library':
        with open_recognizer(settings) as session:
            return session.recognize(scene.data).model_dump(mode='json')
    if how == 'worker':
        from unde_recog.queue.worker import recognize_once
        shop.storage.put('street/faces.jpg', scene.data)
        with open_recognizer(settings) as session:
            return recognize_once(
                session, 'faces', 'storage:street/faces.jpg', None, user_mall=None
            ).model_dump(mode='json')
    with shop.running(
        **{
            n: getattr(settings, n)
            for n in type(settings).model_fields
            if settings.origin(n) == 'keyword'
        }
    ) as (client, _):
        return client.post('/api/v1/recognize', files={'image': scene.data}).json()


@pytest.mark.parametrize('blurred', [True, False])
@pytest.mark.parametrize('how', ['library', 'worker', 'service'])
def test_no_face_arrives(shop, scene, vendors, network, how, blurred):
    shop.log('delete from paid_answers returning 1')
    settings = shop.settings(
        SEARCH_BACKEND='dual',
        TAGGING_MODE='always',
        REQUEST_DEADLINE='30s',
        COUNCIL=True,
        BLUR_FACES=blurred,
        FACE_MODEL=network,
        **vendors.settings(),
    )
    told = recognised(how, shop, scene, settings)
    assert told['degraded'] == [] and len(told['items']) >= 2 and all(i['reranked'] for i in told['items'])
    # a shoe's crop has no room for a face
    measured = [
        (operation, pictures)
        for operation, pictures in vendors.app.arrived
        if pictures and min(pictures[0].size) > 100
    ]
    assert {operation for operation, _ in measured} == {
        'detect',
        'tags',
        'visual_search',
        'generateContent',
        'messages',
    }
    # of a judge's two pictures the first is the person's, the other the catalogue's own
    for operation, pictures in measured:
        assert len(pictures) <= 2 and shows_a_face(pictures[0]) == (not blurred), operation
    shop.log("delete from recognition_requests returning 1")


def test_roles_in_between_see_no_face_either(shop, scene, vendors, network):
    "The app blurs before it asks a gateway whose own settings do not say so."
    shop.log('delete from paid_answers returning 1')
    with (
        shop.running('gateway', **vendors.settings()) as (gateway, _),
        shop.running(
            XIMILAR_GW_URL=str(gateway.base_url),
            SEARCH_BACKEND='dual',
            TAGGING_MODE='always',
            REQUEST_DEADLINE='30s',
            BLUR_FACES=True,
            FACE_MODEL=network,
        ) as (client, _),
    ):
        assert client.post('/api/v1/recognize', files={'image': scene.data}).json()['degraded'] == []
    arrived = [(operation, p) for operation, pictures in vendors.app.arrived for p in pictures]
    assert {operation for operation, _ in arrived} == {
        'detect',
        'tags',
        'visual_search',
    } and not any(shows_a_face(p) for _, p in arrived if min(p.size) > 100)


@pytest.mark.parametrize('how', ['library', 'service'])
def test_without_a_way_to_find_faces_nothing_leaves(shop, scene, vendors, how, tmp_path):
    settings = shop.settings(
        SEARCH_BACKEND='dual',
        BLUR_FACES=True,
        FACE_MODEL=tmp_path / 'absent.onnx',
        **vendors.settings(),
    )
    assert (
        recognised(how, shop, scene, settings)['items']
        and vendors.app.arrived == []
        and not vendors.app.calls
    )
    with pytest.raises(SettingsError, match='no such file'): Ximilar(settings)
    assert json.dumps(dict(vendors.app.ximilar.spent)) == '{}'
