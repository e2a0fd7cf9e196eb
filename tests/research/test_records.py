"""The log read back from a real database, labels from files that people have edited, outcomes
against other implementations, and the simulator against its own truth."""

import itertools
import uuid
from datetime import datetime, timedelta, timezone

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import settings as hyp
from hypothesis import strategies as st
from sklearn.metrics import ndcg_score

from unde_recog.contracts import Candidate, SkuKey
from unde_recog.gating import fuse
from unde_recog.request_log import ItemRow, RequestRow, write_request
from unde_recog.research.log_rows import COLUMNS, as_items
from unde_recog.research.label_checks import check_products
from unde_recog.research.records import (
    LABEL_COLUMNS,
    LabelError,
    answers_by_garment,
    booster_any,
    check_labels,
    ndcg,
    outcomes,
    place,
    read_items,
    read_labels,
    sampled_labels,
    unknown,
    write_labels,
)
from unde_recog.research.simulate import (
    Street,
    draw,
    exploration_chances,
    latents,
    oracle,
    quantile_path,
    simulate_items,
    truth,
)

START = datetime(2026, 11, 1, tzinfo=timezone.utc)


def entries(n, scale=1., first=0, **more):
    return [
        {
            'brand': 'zara',
            'external_id': f'S{first + i}',
            'item_index': 0,
            'score': scale * (1 - 0.01 * i),
            **more,
        }
        for i in range(n)
    ]


def request(n, *items, at=START, user=None, url=None):
    return RequestRow(id=uuid.UUID(int=n), items=list(items), user_id=user, photo_url=url, created_at=at)


def item(index=0, version='m1', **values):
    values = {
        'settings': {'FUSION': 'weighted'},
        'gate_confident': True,
        'propensity': 0.0,
        'confidence_threshold': 0.8,
        'margin_threshold': 0.1,
    } | values
    return ItemRow(item_index=index, category='top', box=[0, 0, 9, 9], model_version=version, **values)


def test_what_was_written_is_read(db):
    with db.connect('log') as conn:
        write_request(
            conn,
            request(
                1,
                item(
                    pgvector_top1_score=0.9,
                    pgvector_margin=0.2,
                    pgvector_list=entries(50),
                    merged_list=entries(50),
                    final_matches=entries(3)[::-1],
                    tokens={'gemini in': 5, 'out': 2},
                    credits=15,
                    degraded=['gemini_rerank'],
                    candidates_after_availability=7,
                    match_type='exact',
                ),
                item(1, gate_confident=None),
                user='simulated',
                url='a.jpg',
            ),
        )
    table = read_items(db)
    assert tuple(table.columns) == COLUMNS and table['item'].tolist() == [0, 1] and table.simulated.all()
    first = table.iloc[0]
    assert (
        (first.top1, first.margin, first.credits, first.tokens, first.candidates, first.match_type)
        == (0.9, 0.2, 15, 7, 7, 'exact')
        and first.degraded == ('gemini_rerank',)
        and first.photo_url == 'a.jpg'
    )
    assert (
        first.final_top1 == 1.0
        and len(first.primary) == 50
        and first.primary[0] == SkuKey('zara', 'S0')
        and first.final[0] == SkuKey('zara', 'S2')
    )
    assert (
        np.isnan(table.top1[1])
        and table.confident.isna()[1]
        and table.primary[1] is None
        and first.created_at == pd.Timestamp(START)
    )


def test_limits_are_by_time_and_version(db):
    with db.connect('log') as conn:
        for n in range(6):
            write_request(conn, request(n, item(version=f'm{n % 2}'), at=START + timedelta(days=n)))
        assert (
            len(read_items(conn)) == 6
            and len(read_items(conn, START + timedelta(days=2))) == 4
            and len(read_items(conn, until=START + timedelta(days=2))) == 2
        )
        assert set(read_items(conn, model_version='m1').model_version) == {'m1'}
        assert read_items(conn, lists=False).primary.isna().all()
    with pytest.raises(ValueError, match='time zone'): read_items(db, datetime(2026, 1, 1))
    with pytest.raises(ValueError, match="'request', 'item' or 'none'"): read_items(db, older='all')


def test_what_the_booster_would_have_said(db):
    """Explored items are merged as the pipeline merges; asked ones keep what was served; a failed
    booster says nothing."""
    primary, explored = entries(50), entries(50, 100., first=40)
    with db.connect('log') as conn:
        write_request(
            conn,
            request(
                1,
                item(
                    pgvector_list=primary,
                    merged_list=primary,
                    explored=True,
                    explored_list=explored,
                    propensity=0.05,
                ),
                item(
                    1,
                    gate_confident=False,
                    used_ximilar_booster=True,
                    ximilar_list=explored[:3],
                    pgvector_list=primary,
                    merged_list=entries(4, first=7),
                    propensity=1.0,
                ),
                item(
                    2,
                    gate_confident=False,
                    used_ximilar_booster=True,
                    pgvector_list=primary,
                    merged_list=primary,
                    degraded=['ximilar_search'],
                ),
                item(3, pgvector_list=primary, merged_list=primary),
                item(
                    4,
                    gate_confident=None,
                    used_ximilar_booster=True,
                    ximilar_list=explored[:3],
                    merged_list=explored[:3],
                ),
            ),
        )
    table = read_items(db)
    c = lambda es: [Candidate(key=SkuKey(e['brand'], e['external_id']), score=e['score']) for e in es]
    assert table.fused[0] == tuple(
        x.key for x in fuse(c(primary), c(explored)[:30])
    ) and table.merged[0] == tuple(x.key for x in c(primary))
    assert table.fused[1] == tuple(x.key for x in c(entries(4, first=7))) and len(table.booster[1]) == 3
    assert table.booster[2] is None and table.fused[2] is None and table.fused[3] is None
    # SEARCH_BACKEND=ximilar: the primary was not asked
    assert table.primary[4] is None and table.fused[4] is None
    assert [len(x) if x is not None else None for x in booster_any(table)] == [50, 3, None, None, 3]
    assert any(
        s.startswith('1 of 5 items were sent to the booster and got no answer')
        for s in unknown(table)
    )


@pytest.mark.parametrize('table_there', [True, False])
def test_logs_in_the_older_shape(db, table_there):
    with db.connect('log') as conn:
        for n, (found, count) in enumerate(
            [
                (entries(3), 1),
                (entries(2) + [e | {'item_index': 1} for e in entries(2, first=9)], 2),
                ([], 3),
            ]
        ):
            row = request(n, at=START + timedelta(days=n)).columns() | {
                'items_detected': count,
                'pgvector_top1_score': 0.7,
                'used_ximilar_booster': True,
            }
            conn.execute(
                'insert into recognition_requests (id, created_at, items_detected, '
                'pgvector_top1_score, used_ximilar_booster, search_results, final_matches) values '
                '(%s, %s, %s, %s, %s, %s, %s)',
                (
                    row['id'],
                    row['created_at'],
                    count,
                    0.7,
                    True,
                    psycopg_json(found),
                    psycopg_json(found[:1]),
                ),
            )
        if table_there: write_request(conn, request(9, item(), at=START + timedelta(days=9)))
        else: conn.execute('drop table recognition_items')
    table = read_items(db)
    old = table[table['shape'] == 'request']
    assert (
        len(old) == 3
        and len(table) == 3 + table_there
        and (old['item'] == -1).all()
        and (old.top1 == 0.7).all()
        and old.boosted.all()
    )
    assert (
        [len(x) if x else None for x in old.merged] == [3, None, None]
        and old.primary.isna().all()
        and old.confident.isna().all()
        and old.credits.isna().all()
    )
    assert unknown(table)[0].startswith(f'3 of {len(table)} rows come from a log in the older shape')
    assert (
        len(read_items(db, older='none')) == table_there
        and len(read_items(db, model_version='m1')) == table_there
    )
    by_item = read_items(db, older='item')
    by_item = by_item[by_item['shape'] == 'request']
    assert (
        by_item['item'].tolist() == [0, 0, 1]
        and by_item.top1.isna().all()
        and by_item.merged.iloc[2][0] == SkuKey('zara', 'S9')
    )


def psycopg_json(value):
    from psycopg.types.json import Jsonb
    return Jsonb(value)


def test_an_empty_log_is_an_empty_table(db):
    table = read_items(db)
    assert len(table) == 0 and tuple(table.columns) == COLUMNS and unknown(table) == []
    assert len(outcomes(table, check_labels([]))) == 0


names = st.text(
    st.characters(codec='utf-8', exclude_categories=['Cs', 'Cc', 'Zs', 'Zl', 'Zp']),
    min_size=1,
    max_size=12,
)
a_label = st.tuples(
    names, st.integers(0, 9), st.sampled_from(['zara', 'hm']), names, st.sampled_from([1, 2])
)


@hyp(max_examples=60, deadline=None)
@given(st.lists(a_label, max_size=12, unique_by=lambda r: r[:4]), st.sets(st.integers(0, 5)))
def test_labels_survive_a_file(tmp_path_factory, rows, nothing):
    table = check_labels(
        (0, dict(zip(LABEL_COLUMNS, r)))
        for r in [*rows, *(('nowhere', n, None, None, 0) for n in nothing)]
        if r[0] != 'nowhere' or r[4] == 0
    )
    path = write_labels(table, tmp_path_factory.mktemp('labels')/'l.csv')
    pd.testing.assert_frame_equal(read_labels(path), table, check_dtype=False)
    assert [p.name for p in path.parent.iterdir()] == ['l.csv']


@pytest.mark.parametrize(
    'line,why',
    [
        ('p,0,zara,1,3', "grade '3'"),
        ('p,0,zara,1,', "grade ''"),
        ('p,x,zara,1,2', "item 'x'"),
        ('p,-1,zara,1,2', "item '-1'"),
        (',0,zara,1,2', 'photo is empty'),
        ('p,0,zara,,2', 'without a product'),
        ('p,0,zara,1,0', 'names a product'),
        ('p,0,™,1,2', 'leaves no brand name'),
        ('q,0,zara,1,1', 'labelled in line 3'),
        ('q,0,,,0', 'says nothing is right'),
    ],
)
def test_a_wrong_line_is_named(tmp_path, line, why):
    path = tmp_path/'l.csv'
    path.write_text(
        f'photo,item,brand,external_id,grade,note\n\nq,0,zara,1,2,"two\nlines"\n{line},\n',
        encoding='utf-8-sig',
    )
    if 'line 3' in why: why = 'labelled in line'
    with pytest.raises(LabelError, match=r'^l.csv: line 5: ') as e: read_labels(path)
    assert why in str(e.value)


def saved_labels(path, rows, header='photo;item;brand;external_id;grade;answer;chance;by'):
    path.write_text('\n'.join([header, *rows]) + '\n', encoding='utf-8-sig')
    return path


def test_a_spreadsheet_may_have_saved_labels(tmp_path):
    "Brands as people write them, decimal commas, capitals; read back as the page would have written them."
    rows = 'p;0;H&M;1;2;;0,5;ana', 'p;1;;;0;Stranger;0,5;ana'
    found = read_labels(saved_labels(tmp_path/'l.csv', rows))
    assert found.brand.tolist() == ['hm', None] and found.answer.tolist() == ['', 'stranger']
    assert sampled_labels(found).chance.tolist() == ['0.5', '0.5']


def test_a_file_partly_filled_counts_what_was_passed_over(tmp_path):
    "As the page does: what lies before the last answer has been passed over, the rest waits."
    rows = 'p;0;;;;;;', 'p;1;zara;1;2;;;', 'q;0;;;;;;', 'r;0;;;;;;'
    found = read_labels(saved_labels(tmp_path/'l.csv', rows))
    assert answers_by_garment(found) == {('p', 0): 'unanswered', ('p', 1): 'answered'}
    with pytest.raises(LabelError, match="line 3: grade ''"):
        read_labels(saved_labels(tmp_path/'l.csv', ['p;0;zara;1;2;;;', 'p;1;zara;1;;;;']))


def test_two_people_in_one_file_are_told_apart(tmp_path):
    "Else two right products would stand there, and the garment be right by either."
    rows = 'p;0;zara;1;2;;;ana', 'p;0;zara;2;2;;;ben'
    with pytest.raises(LabelError, match='l.csv: line 3: ben labels .* that ana has labelled in line 2'):
        read_labels(saved_labels(tmp_path/'l.csv', rows))
    assert len(read_labels(saved_labels(tmp_path/'l.csv', [r.replace('ben', 'ana') for r in rows]))) == 2


def test_many_wrong_lines_and_missing_columns(tmp_path):
    path = tmp_path/'l.csv'
    path.write_text('photo,item,brand,external_id,grade\n' + 'p,0,zara,1,9\n'*8)
    with pytest.raises(LabelError, match='and 3 more lines'): read_labels(path)
    path.write_text('photo,item,brand\np,0,zara\n')
    with pytest.raises(LabelError, match='no column external_id, grade'): read_labels(path)
    path.write_text('')
    with pytest.raises(LabelError, match='is empty'): read_labels(path)
    good = tmp_path/'g.csv'
    good.write_text('photo,item,brand,external_id,grade\nkept,0,zara,1,2\n')
    with pytest.raises(LabelError):
        write_labels(pd.DataFrame([('p', 0, 'zara', '1', 7)], columns=LABEL_COLUMNS), good)
    assert 'kept' in good.read_text()


@hyp(max_examples=150, deadline=None)
@given(
    st.lists(st.integers(0, 30), min_size=2, max_size=25, unique=True),
    st.dictionaries(st.integers(0, 40), st.sampled_from([1, 2]), min_size=1, max_size=14),
)
def test_ndcg_and_place_against_scikit_learn(ranked, grades):
    keys, known = [SkuKey('z', str(i)) for i in ranked], {SkuKey('z', str(i)): g for i, g in grades.items()}
    everyone = [*keys, *(k for k in known if k not in keys)]
    if len(everyone) < 2: return
    truly, score = [[known.get(k, 0) for k in everyone]], [[-float(n) for n in range(len(everyone))]]
    # what is not in the list comes after it there, and within ten only if the list is shorter:
    # cut it as ours does
    gains = truly[0][:len(keys)][:10]
    ideal = sorted(known.values(), reverse=True)[:10]
    dcg = lambda g: sum(v/np.log2(n) for n, v in enumerate(g, 2))
    assert ndcg(keys, known) == pytest.approx(dcg(gains)/dcg(ideal))
    if len(keys) >= 10 or len(everyone) == len(keys):
        assert ndcg(keys, known) == pytest.approx(ndcg_score(truly, score, k=10))
    right = {k for k, g in known.items() if g == 2}
    assert place(keys, right) == min((keys.index(k) + 1 for k in right if k in keys), default=0)


def test_outcomes_count_what_is_known():
    items, labels = simulate_items(80, (3, 5), explore=.3, seed=4)
    table = outcomes(items, labels)
    assert len(table) == len(items) and (table['merged@3'].isna() == (items.fused.isna().to_numpy())).all()
    assert (table.loss == (~table['primary@3'] & table['merged@3'])).dropna().all() and table[
        'primary@3'
    ].notna().all()
    assert (table['primary@1'] <= table['primary@3']).all() and (
        table['primary@3'] <= table['primary@5']
    ).all()
    assert ((table.primary_rr >= 1 / 3 - 1e-9) == table['primary@3']).all() and not table[
        table.answerable == False
    ]['primary@5'].any()  # noqa: E712
    half = labels[labels.photo.isin(labels.photo.unique()[:40])]
    assert (
        len(outcomes(items, half)) < len(items)
        and outcomes(items.head(50), labels).attrs['unmatched'] == len(items) - 50
    )


@pytest.mark.parametrize('icc', [0., .2, 1.])
def test_icc_means_what_it_says(icc):
    "For every indicator alike, not on average over them."
    d = draw(60_000, 2, icc, 7, street=Street(primary=1.))
    for what in (d['harm'], d['gain'], d['right_primary'], d['top1'] > .8, d['harm'] & (d['margin'] > .02)):
        a, b = what.reshape(-1, 2).T
        assert np.corrcoef(a, b)[0, 1] == pytest.approx(icc, abs=.025)
    own = draw(60_000, 2, 0., 8, street=Street(primary=1.))
    assert d['harm'].mean() == pytest.approx(own['harm'].mean(), abs=.006)  # the margin stays
    with pytest.raises(ValueError, match='between 0 and 1'): latents(1, 1, -.1, np.random.default_rng(0))


@pytest.mark.parametrize(
    'street,drift',
    [
        (Street(), {}),
        (Street(correlation=0.95, weight=0.3, bonus=0.0), {}),
        (Street(primary=-1.0, booster_slope=2.0, fall=2.0), {'harder': 0.7}),
        (Street(booster=-2.0), {'decay': 1.5}),
    ],
)
def test_truth_is_what_happens(street, drift):
    d = draw(100_000, 4, 0., 3, street=street, **drift)
    for t, m in itertools.product((.66, .74, .8), (0., .03)):
        sure, exact = (d['top1'] >= t) & (d['margin'] >= m), truth(t, m, street, **drift)
        served = np.where(sure, d['right_primary'], d['right_fused'])
        for name, seen in (
            ('coverage', sure),
            ('loss', sure & d['harm']),
            ('gain', sure & d['gain']),
            ('merged', d['right_fused']),
            ('served', served),
        ):
            assert exact[name] == pytest.approx(seen.mean(), abs=.005), (name, t, m)
        assert exact['conditional'] == pytest.approx(d['harm'][sure].mean(), abs=0.012) and exact[
            'right'
        ] == pytest.approx(d['right_primary'][sure].mean(), abs=0.012)


def test_paths_are_nested_and_the_oracle_is_the_loosest_fine_pair():
    d = draw(3000, 4, rng=2)
    pairs = quantile_path(d['top1'], d['margin'], np.arange(.05, .95, .05))
    assert (np.diff(pairs, axis=0) <= 0).all()
    coverage = [((d['top1'] >= t) & (d['margin'] >= m)).mean() for t, m in pairs]
    assert np.allclose(coverage, np.arange(.05, .95, .05), atol=.01)
    best = oracle(pairs, .05)
    assert (
        best['conditional'] <= 0.05
        and (truth(pairs[:, 0], pairs[:, 1])['conditional'] > 0.05)[
            pairs[:, 0] < best['threshold']
        ].all()
    )
    assert oracle(pairs, 0.)['coverage'] == 0


def test_exploration_happens_as_often_as_it_says():
    items, _ = simulate_items(3000, 4, explore=.05, seed=11)
    sure = items[items.confident.astype(bool)]
    expected, spread = sure.propensity.sum(), np.sqrt((sure.propensity*(1 - sure.propensity)).sum())
    assert abs(sure.explored.sum() - expected) < 4*spread and expected > 100
    assert (items.propensity[items.boosted.astype(bool)] == 1).all() and np.allclose(
        sure.propensity, exploration_chances(sure.top1, sure.margin, 0.72, 0.03, share=0.05)
    )
    assert simulate_items(5, explore=.0)[0].propensity.isin([0., 1.]).all()


def test_simulated_sets_are_marked_and_repeatable():
    one, two = simulate_items(20, (1, 6), icc=.2, seed=3), simulate_items(20, (1, 6), icc=.2, seed=3)
    for a, b in zip(one, two): pd.testing.assert_frame_equal(a, b)
    assert (
        one[0].simulated.all()
        and all(s['simulated'] for s in one[0].settings)
        and (one[1].by == 'simulated').all()
        and unknown(one[0])[-1].endswith('rows are simulated.')
    )
    typed = [c for c in COLUMNS if as_items([]).dtypes[c] != object and c != 'created_at']
    assert (
        tuple(one[0].columns) == COLUMNS
        and len(typed) > 15
        and (one[0].dtypes[typed] == as_items([]).dtypes[typed]).all()
    )


def test_labels_of_another_catalogue_are_refused(tmp_path):
    "With ids that a spreadsheet changed nobody is harmed: the loosest gate would look perfect."
    items, truth = simulate_items(30, 4, seed=0, backend='dual')
    check_products(items, truth)
    few = truth.assign(external_id=[None if s is None else s + 'x' if n % 40 == 0 else s
                                    for n, s in enumerate(truth.external_id)])
    check_products(items, few)  # some products are found by nobody
    with pytest.raises(LabelError, match='right products are in no list, as .*another catalogue'):
        check_products(items, truth.assign(external_id=truth.external_id.str.replace('S0', 'S')))


def test_photos_chosen_by_hand_are_no_sample(tmp_path):
    "A file that knows chances, and none of some photos, says that these were chosen by hand."
    _, truth = simulate_items(4, 1, seed=0)
    photos = sorted(truth.photo.unique())
    chances = dict(zip(photos, (.5, 1., '', '')))
    file = write_labels(truth.assign(chance=truth.photo.map(chances)), tmp_path/'l.csv')
    kept = sampled_labels(read_labels(file))
    assert set(kept.photo) == set(photos[:2]) and kept.attrs['by_hand'] == 2
    for wrong in ('0', '2', 'often'):
        with pytest.raises(LabelError, match=f"line 2: chance '{wrong}': a number above 0"):
            write_labels(truth.assign(chance=wrong), tmp_path/'l.csv')


def test_labels_that_prove_nothing_are_refused(judged_log):
    "Where nothing is right nothing is harmed: all would be certified. Or they count from 1."
    items, labels, _ = judged_log
    nothing = labels.drop_duplicates(['photo', 'item']).assign(brand=None, external_id=None, grade=0)
    for answer in ('', 'stranger', 'wrong box'):
        with pytest.raises(LabelError, match='none of the .* labelled garments has a right product'):
            check_products(items, nothing.assign(answer=answer))
    with pytest.raises(LabelError, match='counts the garments of a photo from 0'):
        check_products(items, labels.assign(item=labels['item'] + 1))
    check_products(items, labels[labels['item'] > 0])  # the first of each passed over


def test_products_that_became_numbers_are_named(judged_log):
    "pandas makes 712.0 of 0712 where a row names no product."
    items, labels, _ = judged_log
    def numbers(key): return SkuKey(key.brand, '0' + key.external_id.removeprefix('S'))
    log = items.assign(**{c: items[c].map(lambda keys: keys and tuple(map(numbers, keys)))
                          for c in ('primary', 'booster', 'merged', 'final')})
    ids = labels.external_id.map(lambda v: None if pd.isna(v) else f'{float(v.removeprefix("S")):g}.0')
    with pytest.raises(LabelError, match=r'\.0 may be .* was it taken for a number'):
        check_products(log, labels.assign(external_id=ids))


def test_a_file_with_lists_alone_knows_what_the_booster_said(judged_log):
    items = judged_log[0].assign(boosted=None, explored=None)
    assert not any('neither sent' in note for note in unknown(items))
    assert any('neither sent' in note for note in unknown(items.assign(booster=None, fused=None)))

