"""Shoppers ask in ten languages: every word of the table, in its forms, and whole questions."""
import re

import pytest
from hypothesis import assume, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from unde_recog.catalogue.languages import (
    LANGUAGES_TABLE, NOTES, folded, inflected, load_lexicon, plain_letters, read_table,
)
from unde_recog.catalogue.price_limits import number_in_words, price_limit, with_digits
from unde_recog.catalogue.values import canonical_category
from unde_recog.catalogue.wordings import Vocabulary, correct, in_catalogue, split_query, synonyms
from unde_recog.catalogue.words import WordIndex

ROWS = [row for row in read_table(LANGUAGES_TABLE) if row[1] not in NOTES]
TONGUES = sorted({tongue for tongue, _, _ in ROWS})
TERMS = list(dict.fromkeys(term for _, term, _ in ROWS))
TABLE = {(tongue, term): words for tongue, term, words in ROWS}
COLOURS = TERMS[TERMS.index('black'):TERMS.index('navy') + 1]
KINDS = TERMS[:TERMS.index('black')]


BESIDE = {  # words that only one language has
    'es': 'falda azul', 'de': 'jacke schwarz', 'fr': 'jupe noire', 'it': 'gonna nera', 'pt': 'saia preta',
    'tr': 'etek siyah', 'pl': 'spódnica czarna', 'uk': 'спідниця чорна',
}


def wordings(text): return set().union(*(part.wordings for part in split_query(text)))


def test_the_table_speaks_of_terms_that_there_are():
    assert [term for term in TERMS if folded(term) not in synonyms()] == []
    assert [key for key in TABLE if not TABLE[key]] == [] and len(TONGUES) == 8


@pytest.mark.parametrize('tongue', TONGUES)
def test_every_word_leads_to_its_term(tongue):
    "Also without accents, among words of its language."
    lost = []
    for term in TERMS:
        for word in TABLE[tongue, term]:
            for form in {word, *plain_letters(word, tongue)}:
                if term not in wordings(f'{BESIDE[tongue]} {form}'): lost.append((term, form))
    assert lost == []


@pytest.mark.parametrize('tongue', TONGUES)
@hypothesis_settings(deadline=None, max_examples=150)
@given(data=st.data())
def test_kind_and_colour_in_any_form(tongue, data):
    kind, colour = (data.draw(st.sampled_from(terms)) for terms in (KINDS, COLOURS))
    words = []
    for term in (kind, colour):
        word = data.draw(st.sampled_from([w for w in TABLE[tongue, term] if ' ' not in w] or ['?']))
        assume(word != '?')
        names, cases = inflected(word, tongue)
        words.append(data.draw(st.sampled_from([word, *names, *cases])))
    if data.draw(st.booleans()): words.reverse()
    found = load_lexicon().meaning(words[0]), load_lexicon().meaning(words[1])
    meant = {term for of in found for term in of.get(tongue, ())}
    assert meant <= wordings(' '.join(words))


QUESTIONS = {  # what is found first in the shop below
    'falda verde': 'skirt', 'vestidos rojos de mujer': 'dress', 'camiseta a rayas': 'tee',
    'abrigo de lana': 'coat', 'Minirock in Grün': 'skirt', 'rotes Kleid': 'dress',
    'Wollmantel für Damen': 'coat', 'Guertel aus Leder': 'belt', 'jupe verte': 'skirt',
    'robe rouge d’été': 'dress', 'T-shirt à rayures': 'tee', 'ceinture en cuir': 'belt',
    'gonna verde': 'skirt', 'vestiti rossi': 'dress', 'maglietta a righe': 'tee',
    'cintura di pelle': 'belt', 'saia verde': 'skirt', 'vestido vermelho': 'dress',
    'casaco de lã': 'coat', 'cinto de couro': 'belt', 'YEŞİL ETEK': 'skirt', 'kırmızı elbise': 'dress',
    'çizgili tişört': 'tee', 'deri kemer': 'belt', 'zielona spódnica': 'skirt',
    'czerwoną sukienkę': 'dress', 'koszulka w paski': 'tee', 'wełniany płaszcz': 'coat',
    'зелена спідниця': 'skirt', 'червону сукню': 'dress', 'футболка у смужку': 'tee',
    'шкіряний ремінь': 'belt', 'green skirt': 'skirt', 'зелёная юбка': 'skirt', 'gonna verdee': 'skirt',
    'spodnica zielona do 100 zł': 'skirt',
}
GOODS = [
    ('skirt', 'Pleated midi skirt', 'green', 'skirts'), ('trousers', 'Wide trousers', 'green', 'trousers'),
    ('dress', 'Wrap dress', 'red', 'dresses'), ('top', 'Ribbed top', 'red', 'tops'),
    ('tee', 'Striped cotton tee', 'white', 't-shirts'), ('coat', 'Wool coat', 'grey', 'coats'),
    ('belt', 'Leather belt', 'brown', 'accessories'), ('bag', 'Shopping bag', 'yellow', 'bags'),
]
SPANISH = [('falda', 'Falda midi plisada', 'verde'), ('vestidos', 'Vestido cruzado', 'rojo'),
           ('abrigo', 'Abrigo de lana', 'gris')]


def fill(db, goods):
    with db.connect('catalogue') as conn:
        for name, title, colour, *category in goods:
            conn.execute('''insert into raw_products (source, external_id, brand, name, colour, category,
                price, currency) values ('x', %s, 'x', %s, %s, %s, 20, 'PLN')''',
                         (name, title, colour, *(category or [None])))


def test_an_english_shop_is_asked_in_ten_languages(db):
    fill(db, GOODS)
    index = WordIndex()
    with db.connect('catalogue') as conn:
        hits = {q: index.search(conn, q, 3).candidates for q in QUESTIONS}
    first = {q: found[0].key.external_id if found else None for q, found in hits.items()}
    assert first == QUESTIONS


def test_a_spanish_shop_is_asked_in_other_languages(db):
    fill(db, SPANISH)
    index = WordIndex()
    questions = {'green skirt': 'falda', 'юбка': 'falda', 'jupe verte': 'falda', 'rotes Kleid': 'vestidos',
                 'wool coat': 'abrigo', 'cappotto': 'abrigo', 'red dresses': 'vestidos'}
    with db.connect('catalogue') as conn:
        first = {q: index.search(conn, q, 1).candidates[0].key.external_id for q in questions}
    assert first == questions


def test_english_and_russian_questions_mean_what_they_meant():
    "Another language adds wordings of a catalogue, and takes nothing of a question in ours."
    for text in ('black golf shirt', 'rose top', 'long coat with belt', 'plain tee', 'kids party dress',
                 'чёрная куртка', 'серое пальто', 'gold hoop bag'):
        for part in split_query(text, synonyms()):
            assert part.wordings <= wordings(text), (text, part.written)
    assert [p.written for p in split_query('dress for women')] == ['dress', 'women']
    assert 'skirt' not in wordings('rock band grey tee dress')


def test_typing_errors_in_any_language():
    shop = Vocabulary({'skirt': 3, 'green': 2, 'dress': 5})
    meant = {'spódnca': 'spódnica', 'sukeinka': 'sukienka', 'vestdio': 'vestido', 'chaqeuta': 'chaqueta'}
    assert {w: correct(w, shop)[0] for w in meant} == meant
    for known in ('falda', 'rotes', 'lederjacke', "robe d'été", 'spódnicę', 'dress', 'чорна'):
        assert correct(known, shop)[1] == {}, known
    assert correct('drses', shop)[0] == 'dress' and correct('gren skirt', shop)[0] == 'green skirt'


def test_words_of_a_catalogue_in_another_language():
    parts = in_catalogue(split_query('skirt'), Vocabulary({'faldas': 2, 'jupe': 1, 'mini': 1}))
    assert {'faldas', 'jupe', 'skirt'} <= parts[0].wordings and 'gonna' not in parts[0].wordings


@pytest.mark.parametrize('text, rest, low, high, currency', [
    ('shorts under thirty', 'shorts', None, 30, ''),
    ('shorts under thirty five euros', 'shorts', None, 35, 'EUR'),
    ('coat over two hundred and fifty dollars', 'coat', 250, None, 'USD CAD AUD NZD SGD HKD'),
    ('falda hasta 30', 'falda', None, 30, ''), ('falda más de 30 €', 'falda', 30, None, 'EUR'),
    ('Kleid unter 50', 'Kleid', None, 50, ''), ('Mantel ab 100 Euro', 'Mantel', 100, None, 'EUR'),
    ('veste moins de 80', 'veste', None, 80, ''), ('sac entre 20 et 40 euros', 'sac', 20, 40, 'EUR'),
    ('borsa fino a 60', 'borsa', None, 60, ''), ('scarpe oltre 100 euro', 'scarpe', 100, None, 'EUR'),
    ('bolsa abaixo de 90', 'bolsa', None, 90, ''),
    ('casaco a partir de 100 euros', 'casaco', 100, None, 'EUR'),
    ('çanta 500 liraya kadar', 'çanta', None, 500, 'TRY'), ('mont en az 900 TL', 'mont', 900, None, 'TRY'),
    ('buty poniżej 300 zł', 'buty', None, 300, 'PLN'), ('buty od 100 do 200 zł', 'buty', 100, 200, 'PLN'),
    ('сумка до 900', 'сумка', None, 900, ''), ('сумка дешевше 900 грн', 'сумка', None, 900, 'UAH'),
])
def test_prices_in_any_language(text, rest, low, high, currency):
    left, limit = price_limit(text)
    assert (left, limit.low, limit.high, limit.currency) == (rest, low, high, currency)


@hypothesis_settings(deadline=None)
@given(st.integers(10, 9999))
def test_a_number_in_words_is_the_number(n):
    from unde_recog.catalogue.price_limits import _TEENS, _TENS
    def small(k): return _TEENS[k - 1] if k < 20 else '-'.join([_TENS[k//10 - 2], *_TEENS[k % 10 - 1:k % 10]])
    parts = [f'{_TEENS[n//1000 - 1]} thousand'] if n >= 1000 else []
    parts += [f'{_TEENS[n//100 % 10 - 1]} hundred'] if n//100 % 10 else []
    words = ' and '.join([' '.join(parts), *([small(n % 100)] if n % 100 else [])]).removeprefix(' and ')
    assert number_in_words(words) == n and with_digits(f'shorts under {words}') == f'shorts under {n}'


# English words too, or read by another word that a pattern of `categories.csv` knows
READ_OTHERWISE = re.compile('baskets?|tennis|bob|mala|.*(?:jean|jeans|jeansow.|джинсов).*|capen?')


@pytest.mark.parametrize('tongue', TONGUES)
def test_shelves_in_any_language_are_of_the_category_of_their_kind(tongue):
    "A word of two kinds (*tuta*, *кофта*) says nothing."
    wrong = []
    for term in KINDS:
        wanted = canonical_category(term)
        for word in TABLE[tongue, term] if wanted != 'other' else ():
            kinds = {canonical_category(t) for t in load_lexicon().meaning(word).get(tongue, ())}
            for form in {word, *inflected(word, tongue)[0][:1]}:
                named = canonical_category(f'X > {form.title()}')
                if named != wanted and len(kinds) == 1 and not READ_OTHERWISE.fullmatch(form):
                    wrong.append((form, named, wanted))
    assert wrong == []


@pytest.mark.parametrize('text, category', [
    ('Damen > Röcke & Kleider', 'dress'), ('Uomo > Borse di pelle', 'bag'), ('Kadın/Elbise', 'dress'),
    ('Moda > Mulher > Calças', 'bottom'), ('Жінкам > Взуття', 'shoes'), ('Home > Baskets', 'other'),
    ('Sport > Tennis', 'other'), ('Sale', 'other'), ('Black', 'other'), ('Kobiety', 'other'),
    ('Lana', 'other'),
])
def test_shelves_of_shops(text, category): assert canonical_category(text) == category


def test_a_part_with_many_synonyms_weighs_as_much_as_one_with_none(db):
    "Two parts of three fit better than one, also where the one is written as the shop writes it."
    fill(db, [('both', 'Skirt', 'green', 'skirts'), ('one', 'Midi dress', 'red', 'dresses'),
              ('other', 'Midi coat', 'grey', 'coats'), ('last', 'Tee', 'white', 'tees')])
    index = WordIndex()
    with db.connect('catalogue') as conn:
        for text in ('falda verde midi', 'зелёная юбка миди', 'green midi skirt'):
            assert index.search(conn, text, 3).candidates[0].key.external_id == 'both', text
