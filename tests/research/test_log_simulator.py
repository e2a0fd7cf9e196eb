"""The log maker on a real database and a real socket: marked rows, true labels, killed and gone on,
drift, and goods that are not its own."""

import io
import os
import signal
import subprocess
import sys
import uuid
from datetime import datetime, timedelta, timezone

import numpy as np
import psycopg
import pytest
from PIL import Image

from tests.conftest import sibling
from unde_recog.contracts import SkuKey
from unde_recog.db.database import LOGICALS, Databases
from unde_recog.media.storage import FolderStorage, open_storage
from unde_recog.research.labels import LabelSession, logged_set
from unde_recog.research.log_simulator import batches, make_log, mark_rows
from unde_recog.research.records import outcomes, read_items, read_labels
from unde_recog.research.simulated_street import (
    Drift,
    Plan,
    draw_photo,
    draw_photos,
    outfit,
    photo_key,
    read_scene,
)
from unde_recog.sandbox.vendors import Quality
from unde_recog.settings import load_settings
from unde_recog.wardrobe.world import World

WORLD = World(seed=11, skus=24)


@pytest.fixture(scope='module')
def place(server_url, template, tmp_path_factory):
    "(address of a database, data folder): drawn once, shared."
    with psycopg.connect(server_url, autocommit=True) as conn:
        conn.execute('drop database if exists test_logmaker with (force)')
        conn.execute(f'create database test_logmaker template {template}')
    yield sibling(server_url, 'test_logmaker'), tmp_path_factory.mktemp('made')
    with psycopg.connect(server_url, autocommit=True) as conn:
        conn.execute('drop database if exists test_logmaker with (force)')


@pytest.fixture
def chosen(place):
    "Settings on that database, its log emptied."
    with psycopg.connect(place[0], autocommit=True) as conn:
        conn.execute('truncate recognition_requests cascade; truncate paid_answers')
    return lambda **more: load_settings(
        env={},
        **{
            'DATABASE_URL': place[0],
            'UNDE_DATA_DIR': place[1],
            'SEARCH_BACKEND': 'dual',
            'CONFIDENCE_THRESHOLD': 0.4,
            'MARGIN': 0.02,
        }
        | more,
    )


@pytest.fixture
def read(place):
    def items():
        with Databases(dict.fromkeys(LOGICALS, place[0])) as db: return read_items(db)
    return items


def test_what_is_made_is_marked_dated_and_true(chosen, read, tmp_path):
    plan = Plan(5, days=10, seed=2)
    made = make_log(chosen(), WORLD, plan, tmp_path/'l.csv', judge=False)
    items, labels = read(), read_labels(tmp_path/'l.csv')
    assert (
        made.asked == 5
        and made.degraded == 0
        and made.items == len(items)
        and made.items_per_second > 0
        and made.credits >= 10 * len(items)
    )
    assert (
        items.simulated.all()
        and items.photo.nunique() == 5
        and all(s['simulated']['seed'] == 2 for s in items.settings)
        and (labels.by == 'simulated').all()
    )
    assert sorted(items.created_at.dt.to_pydatetime()) == sorted(
        plan.when(n) for n, i in enumerate(made.ids) for _ in range((items.photo == str(i)).sum())
    )
    assert (
        items.boosted.all()
        and items.booster.notna().all()
        and items.primary.notna().all()
        and (items.propensity == 1).all()
        and (items.reranked == False).all()
    )  # noqa: E712
    judged = outcomes(items, labels)
    assert len(judged) == len(items) and judged.answerable.all() and judged.attrs['unmatched'] == 0
    # 24 SKUs are all in a list of 50: the right one must be found somewhere, and the simulated booster
    # puts it first about as often as it was set to
    assert all(
        any(
            SkuKey(b, e) in ranked
            for b, e in labels[(labels.photo == p) & (labels['item'] == i) & (labels.grade == 2)][
                ['brand', 'external_id']
            ].itertuples(index=False)
        )
        for p, i, ranked in items[['photo', 'item', 'merged']].itertuples(index=False)
    )
    assert .3 < judged['booster@1'].mean() <= 1


def test_made_photos_can_be_labelled(chosen, read, tmp_path, place):
    own = chosen()
    make_log(own, WORLD, Plan(2, seed=2), tmp_path/'l.csv', judge=False)
    with Databases(dict.fromkeys(LOGICALS, place[0])) as db:
        data = logged_set(read(), db, open_storage(own))
    session = LabelSession(data, tmp_path/'mine.csv')
    truth = read_labels(tmp_path/'l.csv')
    right = truth[
        (truth.photo == session.row['photo'])
        & (truth['item'] == session.row['item'])
        & (truth.grade == 2)
    ].iloc[0]
    session.right(SkuKey(right.brand, right.external_id))
    mates = {
        SkuKey(b, e)
        for b, e in truth[
            (truth.photo == session.row['photo'])
            & (truth['item'] == session.row['item'])
            & (truth.grade == 1)
        ][['brand', 'external_id']].itertuples(index=False)
    }
    # the catalogue's styles are the world's
    assert {k for k, g in session.grades.items() if g == 1} == mates
    assert (
        data.photos(session.row['photo']).size == (512, 768)
        and data.pictures(SkuKey(right.brand, right.external_id)) is not None
    )


def test_killed_and_gone_on(chosen, read, tmp_path, place):
    """A process killed in the middle leaves whole photos; the next run asks only for the others and
    comes to the same set."""
    plan = Plan(6, seed=3)
    code = f'''
import sys
from unde_recog.research.simulated_street import Plan
from unde_recog.research.log_simulator import make_log
from unde_recog.settings import load_settings
from unde_recog.wardrobe.world import World
settings = load_settings(
    env={{}},
    DATABASE_URL={place[0]!r},
    UNDE_DATA_DIR={str(place[1])!r},
    SEARCH_BACKEND='dual',
    CONFIDENCE_THRESHOLD=.4,
    MARGIN=.02,
    REQUEST_DEADLINE={str(chosen().REQUEST_DEADLINE.total_seconds()) + 's'!r},
)
say = lambda what, done, total: print(what, done, flush=True)
labels = {str(tmp_path / 'l.csv')!r}
make_log(settings, World(seed=11, skus=24), Plan(6, seed=3), labels, judge=False, batch=2, on_event=say)
'''
    child = subprocess.Popen(
        [sys.executable, '-c', code],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, 'OMP_NUM_THREADS': '1'},
    )
    for line in child.stdout:
        if line.startswith('recognising 2'): child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL and not (tmp_path/'l.csv').exists()
    half = read()
    assert 2 <= half.photo.nunique() < 6
    made = make_log(chosen(), WORLD, plan, tmp_path/'l.csv', judge=False)
    assert made.found == half.photo.nunique() and made.asked == 6 - made.found
    items = read()
    assert (
        set(items.photo) == {str(i) for i in made.ids}
        and not items.duplicated(['photo', 'item']).any()
        and items.created_at.nunique() == 6
    )
    assert (
        items.set_index(['photo', 'item'])
        .primary[list(map(tuple, half[['photo', 'item']].itertuples(index=False)))]
        .tolist()
        == half.primary.tolist()
    )
    again = make_log(chosen(), WORLD, plan, tmp_path/'again.csv', judge=False)
    assert (again.found, again.asked, again.drawn) == (6, 0, 0) and (
        tmp_path / 'again.csv'
    ).read_text() == (tmp_path / 'l.csv').read_text()


def test_a_broken_and_a_bad_booster_show_in_the_log(chosen, read, tmp_path, place):
    broken = Plan(4, days=4, seed=2, drift=Drift(after=2, broken='server_error'))
    make_log(chosen(), WORLD, broken, tmp_path/'a.csv', judge=False)
    items = read()
    late = items.created_at >= broken.start + timedelta(days=2)
    assert (
        late.any()
        and all('ximilar_search' in d for d in items.degraded[late])
        and not items.degraded[~late].any()
    )
    assert (
        items.booster[late].isna().all()
        and items.fused[late].isna().all()
        and items.final[late].notna().all()
        and items.booster[~late].notna().all()
    )
    worse = Plan(4, days=4, seed=2, drift=Drift(after=2, search=0.))
    with psycopg.connect(place[0], autocommit=True) as conn:
        conn.execute('truncate recognition_requests cascade; truncate paid_answers')
    made = make_log(chosen(), WORLD, worse, tmp_path/'b.csv', judge=False, quality=Quality(search=1.))
    judged = outcomes(read(), read_labels(tmp_path/'b.csv'))
    late = judged.created_at >= worse.start + timedelta(days=2)
    assert (
        made.drawn == 0
        and judged['booster@1'][~late].mean() > 0.6
        and not judged['booster@1'][late].any()
    )


def test_conditional_with_judge_and_malls(chosen, read, tmp_path):
    made = make_log(
        chosen(
            SEARCH_BACKEND='conditional',
            EXPLORATION_SHARE=1.0,
            CONFIDENCE_THRESHOLD=0.1,
            MARGIN=0.01,
        ),
        WORLD,
        Plan(2, seed=2),
        tmp_path / 'l.csv',
        malls=True,
    )
    items = read()
    assert (
        made.items == len(items)
        and made.degraded == 0
        and items.reranked.any()
        and items.tokens.sum() > 0
        and (items.candidates <= 50).all()
    )
    sure = items[items.confident.astype(bool)]
    # few in the mall: the booster may have been asked after all
    assert len(sure) and (sure.explored | sure.boosted).all() and sure.fused.notna().all()
    assert items.booster[~items.confident.astype(bool)].notna().all()


def test_explored_items_say_what_dual_would_have_said(chosen, read, tmp_path):
    """The merge made afterwards is the merge the pipeline makes, where no exact score is missing
    (24 SKUs: all are in the primary's list)."""
    plan = Plan(2, seed=2)
    both = make_log(chosen(), WORLD, plan, tmp_path/'a.csv', judge=False)
    sure = make_log(
        chosen(
            SEARCH_BACKEND='conditional',
            EXPLORATION_SHARE=1.0,
            CONFIDENCE_THRESHOLD=0.01,
            MARGIN=0.0,
        ),
        WORLD,
        plan,
        tmp_path / 'b.csv',
        judge=False,
    )
    items = read().set_index('photo')
    dual, explored = (items.loc[[str(i) for i in made.ids]].reset_index() for made in (both, sure))
    assert (
        explored.explored.all()
        and not explored.boosted.any()
        and dual.boosted.all()
        and (explored.propensity == 1).all()
    )
    assert explored.primary.tolist() == dual.primary.tolist()
    # scores below zero are clipped, and such ties ordered by name in the merged list
    assert [set(m) for m in explored.merged] == [set(p) for p in explored.primary]
    assert explored.explored_list.tolist() == dual.booster.tolist()
    assert explored.fused.tolist() == dual.fused.tolist()


def test_a_poor_row_is_asked_again_and_another_day_has_stock(chosen, read, tmp_path, place):
    plan = Plan(2, seed=2, start=datetime(2026, 3, 9, tzinfo=timezone.utc))
    made = make_log(chosen(), WORLD, plan, tmp_path/'l.csv', judge=False, malls=True)
    assert (read().candidates > 0).any()
    with psycopg.connect(place[0], autocommit=True) as conn:
        conn.execute(
            "update recognition_items set degraded = '[\"pgvector_search\"]' where request_id = %s "
            "and item_index = 0",
            (made.ids[1],),
        )
    again = make_log(chosen(), WORLD, plan, tmp_path/'l.csv', judge=False, malls=True)
    assert (again.found, again.asked, again.degraded) == (1, 1, 0) and not any(read().degraded)


def test_other_goods_are_left_alone(tmp_path, db, fresh_url):
    with db.connect('catalogue') as conn:
        conn.execute(
            "insert into raw_products (source, external_id, brand, name, category) values ('shop', "
            "'1', 'zara', 'a real coat', 'coat')"
        )
    own = load_settings(env={}, DATABASE_URL=fresh_url, UNDE_DATA_DIR=tmp_path)
    with pytest.raises(ValueError, match='1 products that are not of this drawn world'):
        make_log(own, WORLD, 2, tmp_path / 'l.csv')
    with db.connect('catalogue') as conn:
        assert conn.execute('select count(*) from raw_products').fetchone() == (1,)
    assert not (tmp_path/'l.csv').exists()


def test_rows_of_people_are_never_dated_anew(db):
    with db.connect('log') as conn:
        conn.execute(
            "insert into recognition_requests (id, user_id) values (%s, 'simulated'), (%s, null), "
            "(%s, 'ana')",
            [uuid.UUID(int=n) for n in range(3)],
        )
        mark_rows(
            conn,
            [uuid.UUID(int=n) for n in range(3)],
            [datetime(2020, 1, 1, tzinfo=timezone.utc)] * 3,
            {'seed': 0},
        )
        assert [
            n
            for (n,) in conn.execute(
                "select user_id from recognition_requests where created_at < '2021-01-01'"
            ).fetchall()
        ] == ['simulated']


def test_drawing_is_kept_and_depends_on_nothing_else(tmp_path):
    storage, plan = FolderStorage(tmp_path), Plan(3, days=3, drift=Drift(after=2, darker=.6))
    assert (
        draw_photos(WORLD, plan, range(3), storage) == 3
        and draw_photos(WORLD, plan, range(3), storage) == 0
    )
    plain = Plan(3, days=30)
    assert draw_photos(WORLD, plain, range(3), storage) == 1  # the one that was dark
    light = lambda p, n: np.asarray(
        Image.open(io.BytesIO(storage.get(photo_key(WORLD, p, n)))), float
    ).mean()
    assert light(plan, 2) < .55*light(plain, 2) and light(plan, 0) == light(plain, 0)
    kept, drawn = (
        read_scene(*x)
        for x in (
            (
                storage.get(photo_key(WORLD, plain, 1)),
                storage.get(photo_key(WORLD, plain, 1) + '.json'),
            ),
            draw_photo(WORLD, plain, 1),
        )
    )
    assert kept.data == drawn.data and [(i.key, i.box) for i in kept.items] == [
        (i.key, i.box) for i in drawn.items
    ]
    storage.put(photo_key(WORLD, plan, 0), b'half')  # killed between photo and truth: drawn again
    (tmp_path/(photo_key(WORLD, plan, 0) + '.json')).unlink()
    assert (
        draw_photos(WORLD, plan, range(3), storage) == 1
        and storage.get(photo_key(WORLD, plan, 0)) != b'half'
    )


def test_another_season_is_worn_from_its_day_on():
    plan = Plan(8, days=8, drift=Drift(after=4, season='winter'))
    world = World(seed=1, skus=120)
    seasons = [{world.attributes(k)['season'] for k in outfit(world, plan, n)} for n in range(8)]
    assert (
        all('winter' not in s for s in seasons[:4])
        and all(s <= {'winter', 'all-season'} for s in seasons[4:])
        and any('winter' in s for s in seasons[4:])
    )
    assert all(
        len({plan.drifted(n) for n in b}) == 1 for b in batches(plan, range(8), 3)
    ) and sorted(sum(batches(plan, range(8), 3), [])) == list(range(8))
