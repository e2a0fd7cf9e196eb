"""From photos to a certificate through a real log: recognitions run by the package into PostgreSQL,
labelled by a simulated labeller who knows the truth, calibrated and applied."""

import io

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from tests.web_shop import Shop
from unde_recog.contracts import Candidate, SkuKey
from unde_recog.research.bounds import clusters
from unde_recog.research.calibration import calibration_sample, declare_path
from unde_recog.research.certificate import apply_fragment, write_fragment
from unde_recog.research.certify import certify, stranger_settings
from unde_recog.research.cost import photo_credits
from unde_recog.research.quality import check_quality
from unde_recog.research.records import outcomes, read_items, read_labels, with_unanswered, write_labels
from unde_recog.settings import SettingsError, load_settings
from unde_recog.wardrobe.world import World

USERS, PHOTOS, RESENT = 36, 72, 3  # the first look takes thirty independent ones


class Oracle:
    "A booster that knows what is worn where; of strangers it finds something near."
    name = 'ximilar'

    def __init__(self, keys): self.keys, self.scene = keys, None

    async def search(self, item, k, *, brands, timeout):
        near = min(self.scene.items, key=lambda i: np.abs(np.subtract(i.box, item.box)).sum())
        first = [near.key] if near.key in self.keys else []
        listed = [*first, *(key for key in self.keys if key not in first)][:k]
        return [Candidate(key=SkuKey(*key), score=95. - n) for n, key in enumerate(listed)]


@pytest.fixture(scope='module')
def shop(server_url, template, tmp_path_factory):
    place = Shop(server_url, template, tmp_path_factory.mktemp('reallog'), 'reallog')
    yield place
    place.drop()


def blank():
    "A sky: nothing to wear in it."
    ramp = np.linspace(90, 200, 400)[:, None, None]*np.ones((1, 300, 3))
    data = io.BytesIO()
    Image.fromarray(ramp.astype(np.uint8)).save(data, 'JPEG')
    return data.getvalue()


@pytest.fixture(scope='module')
def logged(shop):
    "(scenes by photo, items of the log): photos of 36 users, some sent twice, some of strangers."
    abroad, oracle, scenes = World(seed=77, skus=24), Oracle(shop.world.keys), {}

    def plug(parts):
        parts.booster = oracle
        return parts

    settings = {'SEARCH_BACKEND': 'dual', 'CONFIDENCE_THRESHOLD': .5, 'MARGIN': .0, 'REQUEST_DEADLINE': '60s'}
    with shop.session(plug, **settings) as session:
        for n in range(PHOTOS + RESENT):
            # the last three are the first three, sent again by others
            first = n % PHOTOS
            foreign, user = first % 3 == 1, n + 3*(n >= PHOTOS)
            scene = (abroad if foreign else shop.world).scene(first, split='train')
            oracle.scene = scene
            boxes = [{'box': i.box, 'category': i.category} for i in scene.items]
            answer = session.recognize(scene.data, user_id=f'user {user % USERS}', boxes=boxes)
            scenes[answer.request_id] = scene, foreign
        for _ in range(3): session.recognize(blank(), user_id='user 1')
        session.drain()
    with shop.db() as db: return scenes, read_items(db)


def label(scenes, items):
    "What somebody who knows would write; the last garment is passed over, one cannot be told."
    own, rows = items[items['item'] >= 0], []
    for r in own.itertuples():
        scene, foreign = scenes[r.photo]
        key, last = scene.items[r.item].key, r.Index == own.index[-1]
        answer = 'unanswered' if last else 'stranger' if foreign else ''
        right = (None, None, 0) if answer else (*key, 2)
        rows.append((r.photo, r.item, *right, answer, 'simulated'))
    return pd.DataFrame(rows, columns=['photo', 'item', 'brand', 'external_id', 'grade', 'answer', 'by'])


def test_a_real_log_knows_users_contents_and_empty_photos(shop, logged):
    scenes, items = logged
    garments = items[items['shape'] == 'items']
    assert garments.photo.nunique() == PHOTOS + RESENT and garments.user_id.nunique() == USERS
    assert garments.content_hash.nunique() == PHOTOS
    empty = items[items['shape'] == 'photo']
    assert len(empty) == 3 and (empty.user_id == 'user 1').all() and (empty['item'] == -1).all()
    assert len(photo_credits(items)) == PHOTOS + RESENT + 3  # what was paid for nothing is paid all the same
    found = check_quality(items)
    assert found.days['empty'].dropna().iloc[-1] == pytest.approx(3/(PHOTOS + RESENT + 3))


def test_strangers_and_users_count_on_a_real_log(shop, logged, tmp_path):
    scenes, items = logged
    garments = items[items['shape'] == 'items']
    labels = read_labels(write_labels(label(scenes, items), tmp_path/'labels.csv'))
    found = with_unanswered(outcomes(garments, labels), garments)
    j = calibration_sample(found)
    # three users sent what others had sent: they are one witness with them
    assert j.photo.max() + 1 == len(np.unique(clusters(garments))) == USERS - RESENT < found.photo.nunique()
    assert f'{USERS} users' in j.rule and f'{PHOTOS} contents' in j.rule
    assert j.stranger.sum() == sum(len(s.items) for s, f in scenes.values() if f) and j.unsure.sum() == 1
    path = declare_path(garments.top1, garments.margin, photo=garments.photo, labelled=len(j.harm), alpha=.6,
                        delta=.2)
    settings = load_settings(env={}, STRANGER_LIMIT=.9, STRANGER_SHARE=.4)
    told = {'date': '2026-11-01', 'data': 'real', 'simulated': False}
    done = certify(found, path, **told, **stranger_settings(settings))
    strict = certify(found, path, **told, stranger_limit=.01, stranger_share=.4)
    assert strict.certificate is None  # of so few strangers one in a hundred cannot be proven
    if done.certificate is None: pytest.fail(done.message)
    c = done.certificate
    assert c.strangers > 0 and c.stranger_limit == .9 and c.stranger_share == .4 and c.unanswered <= 1
    fragment = write_fragment(tmp_path, c)
    assert f'of {c.strangers} strangers' in fragment.read_text() and 'strangers' in done.message
    ini = tmp_path/'settings.ini'
    ini.write_text('[unde_recog]\n')
    assert not any('no stranger' in n for n in apply_fragment(fragment, ini, c.model_version).notes)
    unmarked = found.assign(answer=found.answer.replace('stranger', 'answered'))
    none = certify(unmarked, path, **told).certificate
    assert none.strangers == 0
    notes = apply_fragment(write_fragment(tmp_path/'none', none), ini, none.model_version).notes
    assert any('no stranger was labelled' in n for n in notes)
    with pytest.raises(SettingsError): apply_fragment(fragment, ini, 'another model')
