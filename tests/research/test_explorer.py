"""The explorer: its numbers against the rows, its page by widgets, its log by a real database, and
all of it in a real JupyterLab."""

import shutil
import uuid
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.research.test_lab_browser import browser, lab, opened, pages, shot  # noqa: F401
from unde_recog.media.images import to_jpeg
from unde_recog.media.storage import open_storage
from unde_recog.request_log import ItemRow, RequestRow, write_request
from unde_recog.research.calibration import calibrate, declare_path
from unde_recog.research.certificate import apply_fragment, read_certificate
from unde_recog.research.explorer import ExplorerState, logged_state, simulated_state
from unde_recog.research.explorer_page import Explorer, changed_html, scatter_svg
from unde_recog.research.records import write_labels
from unde_recog.settings import load_settings


@pytest.fixture(scope='module')
def base(): return simulated_state(100, seed=5)


def fresh(base, **kw):
    return ExplorerState(
        base.rows, *base.in_force, simulated=True, data='simulated', date='2026-10-31', **kw
    )


@settings(max_examples=40, deadline=None)
@given(threshold=st.floats(.4, 1), margin=st.floats(0, .3))
def test_the_photos_explain_the_numbers(base, threshold, margin):
    state = fresh(base)
    state.move(threshold, margin)
    table, changed, rows = state.compare(), state.changed(), state.rows
    now, before = ((rows.top1 >= t) & (rows.margin >= m - 1e-9) for t, m in (state.pair, state.in_force))
    assert (
        len(changed) == (now != before).sum()
        and (changed.to == 'trusted').sum() == (now & ~before).sum()
    )
    effects = changed.effect.value_counts()
    assert round(table.loc['top-3 right', 'difference'] * len(rows)) == effects.get(
        'won', 0
    ) + effects.get('repaired', 0) - effects.get('lost', 0) - effects.get('spoiled', 0)
    assert table.loc['credits per 100 items', 'tried'] == pytest.approx(
        1000 * (1 - now.mean())
    ) and table.loc['trusted', 'tried'] == pytest.approx(now.mean())
    if now.any():
        assert (
            table.loc['harmed among trusted', 'tried']
            == pytest.approx(rows.loss[now].astype(float).mean())
            and table.loc['not ruled out up to', 'tried']
            > table.loc['harmed among trusted', 'tried'] - 1e-12
        )
    assert scatter_svg(state).count('r="4.5"') == len(changed)


def test_back_where_it_began_nothing_differs(base):
    state = fresh(base)
    state.move(.99, .5)
    state.move(*state.in_force)
    assert (
        state.changed().empty
        and (state.compare().difference.dropna() == 0).all()
        and 'No garment' in changed_html(state)
    )


def test_nobody_trusted_is_a_state_too(base):
    state = fresh(base)
    state.move(1., 1.)
    assert (
        np.isnan(state.compare().loc['harmed among trusted', 'tried'])
        and state.compare().loc['not ruled out up to', 'tried'] == 1
    )
    assert state.certificate().selected == 0 and not state.certificate().certified


def test_what_is_found_by_hand_says_so_down_to_the_settings(base, tmp_path):
    state = fresh(base)
    state.move(.75, .03)
    applied = apply_fragment(state.write(tmp_path), tmp_path/'settings.ini', 'simulated-1')
    assert (
        load_settings(tmp_path / 'settings.ini', env={}).CONFIDENCE_THRESHOLD,
        applied.margin,
    ) == (0.75, 0.03)
    assert any('not certified' in n for n in applied.notes) and any('simulated' in n for n in applied.notes)


def test_the_page_follows_its_sliders_and_buttons(base, tmp_path):
    proof = simulated_state(300).rows
    c = calibrate(
        proof,
        declare_path(proof.top1, proof.margin, photo=proof.photo, labelled=len(proof)),
        date='2026-10-31',
        data='simulated',
        simulated=True,
    ).certificate
    page = Explorer(
        fresh(base, certificate=c), lambda photo, item: Image.new('RGB', (40, 60), 'grey'), tmp_path
    )
    before = page.map.value
    page.sliders[0].value = .70
    assert page.map.value != before and page.state.pair[0] == .70 and 'data:image/jpeg' in page.sides.value
    page.buttons['certified'].click()
    assert page.state.pair == (c.threshold, c.margin)
    page.buttons['write'].click()
    assert (
        read_certificate(tmp_path / 'gate.json').certified
        and 'unde-recog settings apply' in page.message.value
    )
    page.buttons['back'].click()
    assert page.state.pair == page.state.in_force
    page.folder = tmp_path/'gate.ini'  # a file, where a folder is needed
    page.buttons['write'].click()
    assert 'not written' in page.message.value


def test_words_of_the_log_stay_words(base):
    rows = base.rows.assign(category='<script>alert(1)</script>', photo=base.rows.photo + '<b>')
    state = ExplorerState(rows, *base.in_force)
    state.move(0., 0.)
    shown = changed_html(state)
    assert '<script>' not in shown and '<b>,' not in shown and '&lt;script&gt;' in shown


def test_two_model_versions_are_refused(base):
    with pytest.raises(ValueError, match='2 model versions'):
        ExplorerState(base.rows.assign(model_version=['a', 'b'] * (len(base.rows) // 2)), 0.8, 0.1)


def small_log(db, storage, folder, photos=8):
    """Photos in storage, a log that asked both, and labels: the first of each photo right, the
    second repaired by the booster."""
    rows = []
    match = lambda sku, score: {'brand': 'zara', 'external_id': sku, 'item_index': 0, 'score': score}
    with db.connect('log') as conn:
        for n in range(photos):
            key, request = f'photos/{n}.jpg', uuid.uuid4()
            storage.put(key, to_jpeg(Image.new('RGB', (80, 120), (20*n, 90, 120)), 90))
            common = {
                'model_version': 'm-1',
                'confidence_threshold': 0.8,
                'margin_threshold': 0.1,
                'used_ximilar_booster': True,
                'propensity': 1.0,
                'settings': {'SEARCH_BACKEND': 'dual'},
            }
            found = lambda a, b: {
                'pgvector_list': [match(a, .9 if a == b else .7)],
                'ximilar_list': [match(b, 90)],
                'merged_list': [match(b, .9 if a == b else .8)],
            }
            items = [
                ItemRow(item_index=0, category='top', box=[0, 0, 40, 120], gate_confident=True,
                        pgvector_top1_score=.9, pgvector_margin=.2, **found('A', 'A'), **common),
                ItemRow(item_index=1, category='bag', box=[40, 0, 80, 120], gate_confident=False,
                        pgvector_top1_score=.7, pgvector_margin=.05, **found('C', 'B'), **common),
            ]
            write_request(
                conn,
                RequestRow(
                    id=request,
                    items=items,
                    photo_url=f'storage:{key}',
                    created_at=datetime(2026, 11, 1 + n, tzinfo=timezone.utc),
                ),
            )
            rows += [(str(request), 0, 'zara', 'A', 2), (str(request), 1, 'zara', 'B', 2)]
    return write_labels(
        pd.DataFrame(rows, columns=['photo', 'item', 'brand', 'external_id', 'grade']),
        folder / 'labels.csv',
    )


def test_a_logged_state_has_the_logs_pair_and_pictures(db, tmp_path):
    storage = open_storage(load_settings(env={}, UNDE_DATA_DIR=tmp_path))
    labels = small_log(db, storage, tmp_path)
    state, picture = logged_state(db, storage, labels)
    assert (
        state.in_force == (0.8, 0.1)
        and state.model_version == 'm-1'
        and not state.simulated
        and state.date == '2026-11-08'
    )
    state.move(.6, 0.)
    assert state.changed().effect.tolist() == ['lost']*8
    first = state.changed().iloc[0]
    assert (
        picture(first.photo, int(first['item'])).size == (40, 120)
        and changed_html(state, picture).count('<img') == 8
    )
    with pytest.raises(ValueError, match='another log|no item'):
        logged_state(
            db,
            storage,
            write_labels(
                pd.read_csv(labels).assign(photo=str(uuid.uuid4()), item=range(16)),
                tmp_path / 'theirs.csv',
            ),
        )


def test_a_photo_that_is_gone_leaves_a_card_without_picture(db, tmp_path):
    storage = open_storage(load_settings(env={}, UNDE_DATA_DIR=tmp_path))
    state, picture = logged_state(db, storage, small_log(db, storage, tmp_path))
    storage.delete('photos/0.jpg') if hasattr(storage, 'delete') else next(tmp_path.rglob('0.jpg')).unlink()
    state.move(.6, 0.)
    shown = changed_html(state, picture)
    assert shown.count('<img') == 7 and shown.count('no picture') == 1


def test_exploring_in_jupyterlab(pages, lab):  # noqa: F811
    """Sliders by keyboard, the numbers and photos follow, the button writes, and what it wrote goes
    in force."""
    _, _, folder, _ = lab
    shutil.copy(Path(__file__).parents[2]/'eval'/'explorer.ipynb', folder)
    page = opened(pages, lab, 'explorer.ipynb')
    page.wait_for_selector('.unde-explorer .unde-numbers')
    page.locator('.unde-explorer').scroll_into_view_if_needed()
    assert 'No garment changes sides' in page.locator('.unde-sides').inner_text()
    before = page.locator('.unde-trusted').inner_text()
    readout = page.locator('.unde-confidence_threshold .widget-readout')
    readout.click()
    page.keyboard.press('Control+A')
    page.keyboard.type('0.66')
    page.keyboard.press('Enter')
    page.wait_for_function("document.querySelector('.unde-sides').innerText.includes('change sides (')")
    assert (
        page.locator('.unde-trusted').inner_text() != before
        and page.locator('.unde-changed').count() > 0
    )
    shot(page, 'explorer-1')
    page.locator('button.unde-write').click()
    page.wait_for_selector('.unde-written')
    shot(page, 'explorer-2')
    applied = apply_fragment(folder/'gate.ini', folder/'settings.ini', 'simulated-1')
    assert applied.threshold == pytest.approx(.66) and not applied.certificate.certified
    assert load_settings(folder/'settings.ini', env={}).CONFIDENCE_THRESHOLD == pytest.approx(.66)
    page.locator('button.unde-back').click()
    page.wait_for_function("document.querySelector('.unde-sides').innerText.includes('No garment')")
