"""Phrases from a person: how a text is split, and which words have no meaning for a model."""
import warnings

import numpy as np
import pytest

from geoalignclip_nb.core import GeoAlignError
from geoalignclip_nb.ground import ground
from geoalignclip_nb.model import GeoAlignCLIP
from geoalignclip_nb.phrases import (has_meaning, in_dictionary, nearest_words, parse_phrases, read_phrases, readable, split_parts,
                                     unknown_in, unknown_sentence)

TEXTS = {
    'planes, ships': ['planes', 'ships'],
    'planes;ships\nroads\r\nbridges': ['planes', 'ships', 'roads', 'bridges'],
    'planes，ships、roads；bridges': ['planes', 'ships', 'roads', 'bridges'],
    '"a red car, parked", truck': ['a red car, parked', 'truck'],
    '“a red car, parked”; truck': ['a red car, parked', 'truck'],
    "'a red car, parked', truck": ['a red car, parked', 'truck'],
    "the airport's apron, ship": ["the airport's apron", 'ship'],
    'find all planes': ['planes'],
    'Find all of the oil tanks.': ['oil tanks'],
    'find all planes, ships, and cars': ['planes', 'ships', 'cars'],
    'show me the red cars, please!': ['red cars'],
    'Please show every ship in this image': ['ship'],
    'where is the stadium?': ['stadium'],
    "Where are planes? Where's the runway?": ['planes? Where\'s the runway'],
    'Can you find any solar panels': ['solar panels'],
    'are there any ships?': ['ships'],
    '1,000 cars, 3,5 m boat': ['1,000 cars', '3,5 m boat'],
    'ship,,; ;ship.': ['ship'],
    'a white plane': ['a white plane'],
    'marked runway, locating beacon': ['marked runway', 'locating beacon'],
    '"find all planes"': ['find all planes'],
    'water': ['water'],
    'airplane \t\x00 hangar': ['airplane hangar'],
}


@pytest.mark.parametrize('text', TEXTS)
def test_a_text_is_split_as_a_person_means_it(text): assert parse_phrases(text) == TEXTS[text]


@pytest.mark.parametrize('text', ['', ' ', ',;\n', '?!', 'please', 'find all', '""', '\x00'])
def test_a_text_without_a_phrase_is_refused(text):
    with pytest.raises(GeoAlignError, match='phrase'): parse_phrases(text)


def test_a_phrase_must_be_text():
    for wrong in (None, 3, ['a']):
        with pytest.raises(GeoAlignError, match='must be text'): parse_phrases(wrong)


def test_repeats_are_dropped_with_a_note():
    found = read_phrases('Ship, plane, ship; SHIP')
    assert found.phrases == ['Ship', 'plane'] and found.notes == ["'Ship' was given 3 times and is shown once."]
    assert read_phrases('ship, plane').notes == []


def test_parts_say_whether_they_were_quoted(): assert split_parts('a, "b, c"') == [('a', False), ('b, c', True)]


ORDINARY = """airplane aircraft runway taxiway hangar helipad terminal bridge overpass roundabout highway railway station harbor harbour ship
ferry pier breakwater oil tank stadium court field farmland orchard greenhouse forest meadow river lake wetland beach desert quarry
mountain house roof warehouse factory chimney turbine solar parking truck van car bus""".split()
STRANGE = """airplan arplane runwai asdf xyzzy blorf flugzeug dachziegel lentokone samolot brillig lkjhg qwzx 飞机 самолёт 船 αεροπλάνο طائرة
aaaaaaaa plaaane zzzz""".split()


@pytest.fixture(scope='module')
def model(): return GeoAlignCLIP.from_pretrained('geoalign-tiny')


@pytest.mark.parametrize('word', ORDINARY)
def test_ordinary_words_are_known(model, word):
    assert unknown_in(model, word) == [] and unknown_in(model, word.upper()) == [] and readable(word)


@pytest.mark.parametrize('word', STRANGE)
def test_strange_words_are_unknown(model, word):
    assert unknown_in(model, word) == [word] and not has_meaning(word, [word])
    sentence = unknown_sentence(word, [word])
    assert 'gets no heat' in sentence and sentence.count('\n') == 0


def test_numbers_of_words_that_were_checked(): assert len(ORDINARY) >= 40 and len(STRANGE) >= 20


@pytest.mark.parametrize('word, near', [('airplan', 'airplane'), ('runwai', 'runway'), ('pleyground', 'playground'), ('truk', 'truck')])
def test_the_nearest_word_is_suggested(word, near): assert near in nearest_words(word) and near in unknown_sentence(word, [word])


@pytest.mark.parametrize('phrase', ['the', 'on the', '42', '12 3', 'of, in'])
def test_stop_words_and_numbers_name_nothing(model, phrase):
    assert not has_meaning(phrase, unknown_in(model, phrase)) and 'names no thing' in unknown_sentence(phrase, [])


def test_some_unknown_words_leave_meaning(model):
    unknown = unknown_in(model, 'white airplan')
    assert unknown == ['airplan'] and has_meaning('white airplan', unknown)
    assert 'means less' in unknown_sentence('white airplan', unknown) and unknown_sentence('white plane', []) == ''


def test_a_model_names_words_that_training_never_saw():
    model = GeoAlignCLIP.create('vit-tiny')
    known = GeoAlignCLIP.create('vit-tiny')
    ids = known.tokenizer.word_ids('ship')
    import torch
    seen = torch.zeros(known.clip.token_embedding.num_embeddings, dtype=torch.bool)
    seen[ids] = True
    known.keep_tokens(seen)
    assert unknown_in(known, 'ship') == [] and unknown_in(known, 'Truck') == ['Truck'] and unknown_in(model, 'truck') == []


def test_british_words_and_plurals_are_english():
    assert all(in_dictionary(word) for word in ('harbours', 'colour', 'Neighbourhood', 'aeroplanes', 'façade'))


def test_an_unknown_phrase_has_no_peak(tmp_path):
    "No row of the CSV, no peak in the JSON, and no warning about the font"
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        warnings.filterwarnings('ignore', category=DeprecationWarning)
        result = ground('geoalign-tiny', np.zeros((64, 64, 3), np.uint8), ['飞机', 'plane'])
        result.save_png(tmp_path/'heat.png')
    assert result.peaks()[0] is None and result.peaks()[1] is not None
    assert [m['peak'] is None for m in result.to_dict()['maps']] == [True, False]
    result.save_csv(tmp_path/'rows.csv')
    assert '飞机' not in (tmp_path/'rows.csv').read_text(encoding='utf-8')
