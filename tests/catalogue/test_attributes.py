"Attributes of products against labels made by hand, and what must stay unknown."
import csv
import json
from collections import Counter
from pathlib import Path

import pytest

from unde_recog.attributes import (
    ATTRIBUTES, canonical_value, load_vocabulary, product_attributes, read_vocabulary, value_likeness,
)
from unde_recog.catalogue.shops import ShopContext, magento_products

LABELS = Path(__file__).with_name('luma_attributes.csv')
HEADER = 'attribute,value,parent,language,terms\n'


def read_labels():
    "(sku, attribute) → the values that are right; none where neither text nor photo tells."
    with LABELS.open(encoding='utf-8') as f:
        rows = list(csv.DictReader(f))
    return {(r['sku'], r['attribute']): {v for v in r['value'].split('|') if v} for r in rows}


@pytest.fixture(scope='module')
def luma(shared_data):
    path = shared_data/'magento'/'products.csv'
    if not path.is_file(): pytest.skip(f'{path} is not here')
    with path.open(encoding='utf-8') as f:
        rows = list(enumerate(csv.DictReader(f), 2))
    return {p['external_id']: p for _, p in magento_products(rows, ShopContext(brand='luma'))}


def test_a_hundred_luma_products_by_hand(luma):
    "A value that is given is right for nine of ten; what the shop does not say stays unknown."
    labels = read_labels()
    skus = {sku for sku, _ in labels}
    assert len(skus) == 100 and skus <= luma.keys()
    given, right, wrong = Counter(), Counter(), []
    for sku in sorted(skus):
        said = json.loads(luma[sku]['attributes'] or '{}')
        for attribute, value in product_attributes(luma[sku] | said).items():
            given[attribute] += 1
            if value in labels[sku, attribute]: right[attribute] += 1
            else: wrong.append((sku, attribute, value))
    assert right.total()/given.total() >= .9, wrong
    for attribute in ('type', 'material', 'pattern', 'fit', 'style'):
        assert right[attribute]/given[attribute] >= .9, (attribute, wrong)
    assert given['type'] == 100 and given['pattern'] >= 90 and given['material'] >= 20 and given['fit'] >= 35


@pytest.mark.parametrize('row', [
    {}, {'name': None}, {'name': ''}, {'name': 'Gift card'}, {'name': '%%% 100% ¶'},
    {'name': 'x'*5000, 'composition': '%'*500}, {'composition': '100% love'},
])
def test_nothing_is_made_up(row):
    assert product_attributes(row) == {}


@pytest.mark.parametrize('name, category, expected', [
    ('Fleece-lined leather gloves', '', 'gloves'),
    ('Jacket with hood', 'Hoodies', 'jacket'),
    ('Shirt dress', '', 'shirt dress'),
    ('Bag for shoes', '', 'bag'),
    ('Nova', 'Women > Knitwear', 'knitwear'),
    ('Nova', 'Women/Shoes & Bags', None),
])
def test_the_head_of_a_name_is_its_type(name, category, expected):
    assert product_attributes({'name': name, 'category': category}).get('type') == expected


def test_a_part_of_a_garment_is_not_its_pattern():
    row = {'name': 'Tank', 'description': '• Contrast stripes at the side. • Machine wash.'}
    assert 'pattern' not in product_attributes(row)
    row['description'] = '• Mint striped tank. • Machine wash.'
    assert product_attributes(row)['pattern'] == 'striped'


def test_what_the_shop_says_outright_goes_first():
    row = {'name': 'Striped tee', 'pattern': 'Solid', 'type': 'Tank|Tee'}
    read = product_attributes(row)
    assert read['pattern'] == 'plain' and read['type'] == 't-shirt'


def test_another_language_is_a_table():
    spanish = read_vocabulary(HEADER + 'type,trousers,,es,pantalón|vaquero\nmaterial,cotton,,es,algodón\n')
    row = {'name': 'Pantalón recto', 'composition': '98% algodón, 2% elastano'}
    assert product_attributes(row, spanish) == {'type': 'trousers', 'material': 'cotton'}


def test_the_table_is_sound():
    known = load_vocabulary()
    for attribute in ATTRIBUTES:
        words = Counter((t.words) for t in known.terms[attribute])
        assert [w for w, n in words.items() if n > 1] == []
        for term in known.terms[attribute]:
            assert canonical_value(attribute, term.words) == term.value, term


def test_likeness_is_symmetric_and_graded():
    for a, b in (('cardigan', 'coat'), ('t-shirt', 'tank top'), ('sneakers', 'dress')):
        assert value_likeness('type', a, b) == value_likeness('type', b, a) < 1
    assert value_likeness('type', 'cardigan', 'sweater') > value_likeness('type', 'cardigan', 'coat') > 0
    assert value_likeness('type', 'sneakers', 'dress') == 0
