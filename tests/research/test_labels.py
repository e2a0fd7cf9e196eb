"""Labelling: sampling, words on disk at once, resuming, clicks, files from elsewhere, disks that
are full."""
import os
import random
import uuid

import pytest
from PIL import Image

from unde_recog.contracts import SkuKey
from unde_recog.media.images import ImageError, to_jpeg
from unde_recog.media.storage import FolderStorage, open_storage
from unde_recog.request_log import ItemRow, RequestRow, write_request
from unde_recog.research.labeller import Labeller, framed, labeller
from unde_recog.research.labels import (
    LabelSession,
    LabelSet,
    logged_set,
    sample_to_label,
    set_to_label,
)
from unde_recog.research.records import LabelError, outcomes, read_labels
from unde_recog.research.simulate import simulate_items
from unde_recog.settings import load_settings


@pytest.fixture
def data():
    items, _ = simulate_items(6, (1, 4), explore=.5, seed=2)
    items['box'] = [[10*i, 10, 10*i + 40, 90] for i in items['item']]
    return LabelSet(
        items,
        lambda photo: Image.new('RGB', (120, 180), '#446'),
        lambda key: None if key.external_id.endswith('7') else Image.new('RGB', (60, 80), '#a83'),
        lambda key: f"{key.brand} {int(key.external_id[1:]) // 8}",
    )


def test_a_sample_is_even_whole_and_repeatable():
    items, _ = simulate_items(200, (1, 5), seed=1)
    sizes = items.groupby('photo').size()
    seen = {p: 0 for p in sizes.index}
    for seed in range(150):
        few = sample_to_label(items, 40, seed)
        assert (
            few.photo.nunique() == 40
            and (few.groupby('photo').size() == sizes[few.photo.unique()]).all()
        )
        for p in few.photo.unique(): seen[p] += 1
    # 150·40/200 = 30 on average, 4.9 standard deviations
    assert 12 <= min(seen.values()) and max(seen.values()) <= 50
    big, small = (
        [seen[p] for p in sizes.index if pick(sizes[p])]
        for pick in (lambda n: n >= 4, lambda n: n <= 2)
    )
    assert abs(sum(big)/len(big) - sum(small)/len(small)) < 3  # photos, not garments, have equal chances
    assert sample_to_label(items, 1000).photo.nunique() == 200


def test_every_word_is_on_disk_at_once_and_is_found_again(tmp_path, data):
    path, rng = tmp_path/'labels.csv', random.Random(0)
    session = LabelSession(data, path, by='Ana')
    for _ in range(60):
        keys = [k for ks in session.lists(20).values() for k in ks]
        rng.choice(
            [
                lambda: session.right(rng.choice(keys)),
                lambda: session.colour(rng.choice(keys)),
                session.nothing,
                lambda: session.answer(None),
                lambda: session.go(rng.randrange(len(session.rows))),
            ]
        )()
        assert path.exists() or not session.answers
        if path.exists():
            again = LabelSession(data, path)
            assert again.answers == session.answers and again.by == session.by and again.done == session.done
            assert again.done == len(session.rows) or again.grades is None
    assert os.listdir(tmp_path) == ['labels.csv'] and all(
        sum(g == 2 for g in said.values()) <= 1 for said in session.answers.values()
    )
    # garments passed over on the way are rows of their own, and no answers
    told = outcomes(data.items, session.table())
    assert (told.answer != 'unanswered').sum() == session.done


def test_before_the_first_answer_nothing_was_passed_over(tmp_path, data):
    session = LabelSession(data, tmp_path/'labels.csv')
    assert session.table().empty
    session.nothing()
    session.answer(None)  # taken back
    assert session.table().empty and read_labels(tmp_path/'labels.csv').empty


def test_another_sample_leaves_earlier_photos_their_chances(tmp_path, data):
    "More photos, or a longer log, give other chances: what was chosen with .3 stays so in the file."
    photos = sorted(data.items.photo.unique())
    path = tmp_path/'labels.csv'
    data.chances = {photos[0]: .3, photos[1]: 1.}
    LabelSession(data, path).nothing()
    data.chances = {photos[1]: .5, photos[2]: .6}  # the first photo would not be chosen today
    later = LabelSession(data, path)
    later.nothing()
    kept = read_labels(path).drop_duplicates('photo').set_index('photo').chance.astype(float)
    assert kept[photos[0]] == .3 and kept[later.garments[0][0]] == .5


def test_a_word_that_cannot_be_written_was_not_said(tmp_path, data):
    folder = tmp_path/'gone'
    folder.mkdir()
    session = LabelSession(data, folder/'labels.csv')
    session.nothing()
    (folder/'labels.csv').unlink(), folder.rmdir()
    page = Labeller(session, k=3)
    page.session.go(1)
    page.show()
    page.bar['none'].click()
    assert (
        session.at == 1
        and session.done == 1
        and session.grades is None
        and 'not kept' in page.message.value
    )
    folder.mkdir()
    page.bar['none'].click()
    assert (
        session.done == 2
        and 'not kept' not in page.message.value
        and len(read_labels(folder / 'labels.csv')) == 2
    )


def test_other_colours_follow_the_right_one_and_leave_with_it(tmp_path, data):
    session = LabelSession(data, tmp_path/'l.csv')
    key = next(k for k in session.row['primary'] if session.mates(k))
    session.right(key)
    assert session.grades == {key: 2} | dict.fromkeys(session.mates(key), 1)
    other = next(k for k in session.row['primary'] if k != key and k not in session.mates(key))
    session.colour(other)
    session.right(key)
    assert session.grades == {other: 1}
    session.colour(other)
    assert session.grades is None and session.done == 0


def test_files_from_elsewhere(tmp_path, data):
    mine, hers = (
        LabelSession(data, tmp_path / 'mine.csv', by='Ana'),
        LabelSession(data, tmp_path / 'hers.csv', by='Eva'),
    )
    mine.nothing()
    hers.right(hers.row['primary'][0]), hers.go(1), hers.nothing()
    assert mine.take(hers.export(tmp_path/'sent.csv')) == 2
    assert mine.answers == hers.answers and set(mine.table().by) == {'Eva'} and mine.first_open() == 2
    (tmp_path/'bad.csv').write_text('photo,item,brand,external_id,grade\np,0,zara,1,9\n')
    with pytest.raises(LabelError, match='line 2'): mine.take(tmp_path/'bad.csv')
    assert mine.answers == hers.answers
    foreign = LabelSession(
        LabelSet(
            data.items[data.items.photo != data.items.photo[0]],
            data.photos,
            data.pictures,
            data.styles,
        ),
        tmp_path / 'mine.csv',
    )
    assert foreign.done == 0
    foreign.nothing()
    # words on photos that are not shown today are kept
    assert len(LabelSession(data, tmp_path/'mine.csv').answers) == 3


def test_answers_of_somebody_else_replace_words_as_well(tmp_path, data):
    "Where one could not tell, the other knew the product; and the other way round."
    mine, theirs = (LabelSession(data, tmp_path/f'{who}.csv', by=who) for who in ('ana', 'ben'))
    mine.cannot_tell(), mine.go(1), mine.right(mine.row['primary'][0])
    theirs.right(theirs.row['primary'][0]), theirs.go(1), theirs.stranger()
    assert mine.take(tmp_path/'ben.csv') == 2
    again = LabelSession(data, tmp_path/'ana.csv')
    assert again.words == {mine.garment: 'stranger'} and set(again.by.values()) == {'ben'}
    # of a file that does not say who, nobody is named
    (tmp_path/'x.csv').write_text(f'photo,item,brand,external_id,grade\n{mine.row["photo"]},1,,,0\n')
    mine.take(tmp_path/'x.csv')
    assert mine.garment not in mine.by and not mine.words


def test_two_pages_do_not_overwrite_each_other(tmp_path, data):
    "Two notebooks over one file: the second answer is refused, not the first one lost."
    first, second = (Labeller(LabelSession(data, tmp_path/'l.csv'), k=4) for _ in range(2))
    first.bar['none'].click()
    second.bar['stranger'].click()
    assert 'written by another page' in second.message.value and second.session.done == 0
    first.bar['none'].click()
    assert read_labels(tmp_path/'l.csv').photo.nunique() >= 1 and first.session.done == 2
    (tmp_path/'l.csv').unlink()  # thrown away by hand: it is there again
    first.bar['back'].click(), first.bar['unsure'].click()
    assert (tmp_path/'l.csv').exists()


def test_clicks_walk_through_all_garments(tmp_path, data):
    session = LabelSession(data, tmp_path/'l.csv')
    page = Labeller(session, k=4)
    for n in range(len(session.rows)):
        assert session.done == n
        if n % 2: page.bar['none'].click()
        else: page.cards[n % len(page.cards)][1].children[2].children[0].click()
    assert session.done == len(session.rows) and '<b>all</b> answered' in page.head.value
    before = len(page.cards)
    page.bar['more'].click()
    assert len(page.cards) > before
    page.bar['open'].click(), page.bar['back'].click(), page.bar['clear'].click()
    assert session.done == len(session.rows) - 1
    page.go_on.value, at = False, session.at
    session.exists = lambda key: key == ('hm', '0071')
    page.other.value = 'H&M 071'
    assert 'the catalogue has no hm 071' in page.message.value and page.session.grades is None
    page.other.value = 'H&M 0071'
    assert session.at == at and session.grades[SkuKey('hm', '0071')] == 2 and page.other.value == ''
    assert type(labeller(session)).__name__ == 'VBox'


def test_a_long_page_holds_no_more_than_a_short_one(tmp_path, data):
    "What was shown before is closed: else each answer is slower, and a reload takes minutes."
    from ipywidgets import Widget
    page, held = Labeller(LabelSession(data, tmp_path/'l.csv'), k=4), []
    for n in range(12):
        page.bar['next' if n % 2 else 'back'].click()
        held.append(len(Widget.widgets))
    assert held[2:] == held[:2]*5


def test_lists_nobody_asked_for_are_not_shown(tmp_path, data):
    session = LabelSession(data, tmp_path/'l.csv')
    for n, row in enumerate(session.rows):
        session.go(n)
        assert ('booster' in session.lists()) == (
            row['booster'] is not None
        ) and 'primary' in session.lists()
        assert 'merged' not in session.lists() or row['merged'] != row['primary']


def test_pictures_that_cannot_be_had_are_said(tmp_path, data, db):
    items = data.items.assign(photo_url='nowhere.jpg')
    logged = logged_set(items, db, FolderStorage(tmp_path/'store'))
    assert logged.pictures(items.primary[0][0]) is None and logged.styles(items.primary[0][0]) is None
    with pytest.raises(ImageError): logged.photos(items.photo[0])
    page = Labeller(LabelSession(logged, tmp_path/'l.csv'))
    assert (
        'cannot be shown' in page.photo.children[0].value
        and 'no picture' in page.cards[0][1].children[0].value
    )
    page.bar['none'].click()
    assert page.session.done == 1


def test_the_frame_is_where_the_box_is():
    photo = Image.new('RGB', (200, 400), '#000')
    picture = framed(photo, [(20, 40, 120, 200), (60, 60, 100, 100)], 0, height=200)
    assert (
        picture.size == (100, 200)
        and picture.getpixel((10, 60)) == (0xD6, 0x33, 0x6C)
        and picture.getpixel((90, 150)) == (0, 0, 0)
        and picture.getpixel((50, 40)) == (255, 255, 255)
    )


def test_a_set_is_drawn_from_the_log(tmp_path, db, fresh_url):
    """Photos with an address, evenly; the others are counted; and a log of uploads only is refused
    with the remedy."""
    settings = load_settings(env={}, UNDE_DATA_DIR=tmp_path, DATABASE_URL=fresh_url)
    entry = {'brand': 'zara', 'external_id': 'S1', 'item_index': 0, 'score': .9}
    write = lambda conn, n, **more: write_request(
        conn,
        RequestRow(
            id=uuid.UUID(int=n),
            items=[
                ItemRow(
                    item_index=i,
                    category='top',
                    box=[0, 0, 5, 5],
                    model_version='m1',
                    pgvector_list=[entry],
                    merged_list=[entry],
                )
                for i in range(2)
            ],
            **more,
        ),
    )
    with db.connect('log') as conn:
        write(conn, 1)
        with pytest.raises(ValueError, match='none of the 1 photos in the log has an address'):
            set_to_label(settings)
        for n in range(2, 8):
            write(conn, n, photo_url=f'storage:p{n}.jpg', user_id='simulated' if n == 7 else None)
    everything, source = set_to_label(settings)
    assert (
        source
        == (
            '6 of 6 logged photos, drawn evenly (seed 0); 1 more have no address and cannot be '
            'shown; 1 of the sample are simulated.'
        )
        and len(everything.items) == 12
    )
    few, _ = set_to_label(settings, photos=2, seed=1)
    assert (
        few.items.photo.nunique() == 2
        and len(few.items) == 4
        and few.items.primary[0] == (SkuKey('zara', 'S1'),)
    )
    open_storage(settings).put('p3.jpg', to_jpeg(Image.new('RGB', (40, 60), '#789')))
    assert everything.photos(str(uuid.UUID(int=3))).size == (40, 60)
