"""Drawn scenes: complete, repeatable, the same layout at every size, and hard negatives that are false."""
import re
import time

import numpy as np
import pytest

from geoalignclip_nb.core import GeoAlignError, Sample
from geoalignclip_nb.scenes import KINDS, absent_phrases, compose, make_scene, make_scenes
from geoalignclip_nb.things import NEAR, PAINT, THINGS
from geoalignclip_nb.truth import PLACES, WAYS, alike, may_hold, near_way

BATCH = [make_scene(kind, seed, 64) for kind in KINDS for seed in range(8)]


def parse(text) -> tuple:
    "Colour, category, place and direction as a reader takes them from a sentence"
    s = text.lower()
    names = {n: k for k, t in THINGS.items() for n in t.names}
    noun = max((n for n in names if re.search(rf'\b{re.escape(n)}\b', s)), key=len)
    colours = [c for c in PAINT if re.search(rf'\b{c}\b', s)]
    place = next((p for p in sorted(PLACES.values(), key=len, reverse=True) if re.search(rf'\b(in|at|on) the {p}\b', s)), None)
    way = re.search(r'(?:pointing to the|stretching) (upper \w+|lower \w+|\w+)', s)
    return colours, names[noun], place, way and way[1]


def test_at_least_twelve_kinds():
    assert len(KINDS) >= 12 and len(set(KINDS)) == len(KINDS)


@pytest.mark.parametrize('kind', KINDS)
def test_a_scene_is_complete(kind):
    for s in [b for b in BATCH if b.id.startswith(kind + '-')]:
        assert isinstance(s, Sample) and s.image.mode == 'RGB' and s.image.size == (64, 64) and s.source == 'scenes'
        assert 2 <= len(s.regions) <= 12, s.id
        assert len(s.detailed) > len(s.brief) > 8 and s.detailed.count('.') >= 3
        for r in s.regions:
            assert r.phrase and r.text.endswith('.') and r.category in THINGS and len(r.negatives) <= 10
            assert 0 <= r.box[0] < r.box[2] <= 1 and 0 <= r.box[1] < r.box[3] <= 1
            assert any(n in r.phrase for n in THINGS[r.category].names)
            assert {k for _, k in r.negatives} <= {'attribute', 'orientation', 'category'}
            assert r.text not in [t for t, _ in r.negatives] and len({t for t, _ in r.negatives}) == len(r.negatives)
            assert not re.search(r'\ba (orange|oil|aircraft|airplane|overpass|umbrella|industrial|athletic)\b|\ban (?![aeiou])', r.text.lower())


def test_all_three_kinds_of_negatives_occur():
    kinds = [k for s in BATCH for r in s.regions for _, k in r.negatives]
    assert min(kinds.count(k) for k in ('attribute', 'orientation', 'category')) > .08 * len(kinds)
    assert np.mean([len(r.negatives) for s in BATCH for r in s.regions]) > 5
    assert all(r.negatives for s in BATCH for r in s.regions)


def test_negatives_are_false_of_their_region():
    "Read back from the sentences alone, without the code that wrote them"
    for s in BATCH:
        for r in s.regions:
            colours, name, place, way = parse(r.text)
            assert name == r.category
            for text, kind in r.negatives:
                colours2, name2, place2, way2 = parse(text)
                if kind == 'category': assert THINGS[name2].family not in {THINGS[o.category].family for o in s.regions}, (r.text, text)
                elif kind == 'orientation': assert name2 == name and colours2 == colours and (place2 != place or way2 != way), (r.text, text)
                elif colours2 != colours: assert not any({colours[0], colours2[0]} <= near for near in NEAR), (r.text, text)
                else: assert {'large', 'small'} <= set(re.findall('large|small', r.text + text)), (r.text, text)


def test_places_in_words_are_places_of_boxes():
    words, seen = dict(upper=0, top=0, lower=2, bottom=2, left=0, right=2), set()
    for s in BATCH:
        for r in s.regions:
            place = parse(r.text)[2]
            if not place: continue
            seen.add(place)
            column, row = (next((words[w] for w in place.split() if w in pair), 1) for pair in (('left', 'right'), ('upper', 'top', 'lower', 'bottom')))
            for k, v in ((column, (r.box[0] + r.box[2]) / 2), (row, (r.box[1] + r.box[3]) / 2)): assert (0, .36, .64)[k] - 1e-9 <= v <= (.36, .64, 1)[k] + 1e-9, (r.text, r.box)
    assert seen == set(PLACES.values())


def test_negatives_are_false_of_every_region_of_their_picture():
    for s in BATCH:
        true = {r.text for r in s.regions}
        for r in s.regions: assert not true & {t for t, _ in r.negatives}


# ---- hard negatives that might be true are no negatives ------------------------------------------------------------------

def thing(**claim):
    "A white plane of medium size in the middle that points to the top, or another one"
    claim = dict(name='plane', colour='white', place=(1, 1), size=None, way='top') | claim
    return dict(name=claim['name'], box=(.4, .4, .6, .6), claim=claim)


def claim(**change): return thing(**change)['claim']


def test_a_color_that_light_can_turn_into_the_true_one_may_hold():
    for near in NEAR:
        for colour in near:
            for other in near: assert may_hold(claim(colour=other), [thing(colour=colour)]), (colour, other)
    pairs = [(a, b) for a in PAINT for b in PAINT if a != b and not any({a, b} <= near for near in NEAR)]
    assert len(pairs) > 20
    for a, b in pairs: assert not may_hold(claim(colour=a), [thing(colour=b)]), (a, b)


def test_colors_are_alike_in_groups():
    for colour in PAINT: assert alike(colour) == {colour} | {other for near in NEAR if colour in near for other in near}


@pytest.mark.parametrize('turn', range(8))
@pytest.mark.parametrize('start', range(8))
def test_a_neighboring_direction_may_hold(start, turn):
    "Headings are rounded to 45 degrees, so the next direction may be as true; opposite and sideways ones are false"
    way, other = WAYS[start], WAYS[(start + turn) % 8]
    assert may_hold(claim(way=other), [thing(way=way)]) == (turn in (0, 1, 7))
    assert near_way(way, other) == (turn in (1, 7))


@pytest.mark.parametrize('change, real, holds', [
    (dict(name='boat'), dict(), False), (dict(name='truck', way=None), dict(name='car', way=None), True),
    (dict(place=(1, 1)), dict(), True), (dict(place=(0, 0)), dict(), False), (dict(place=(2, 1)), dict(), False), (dict(place=(1, 2)), dict(), False),
    (dict(place=None), dict(), True), (dict(place=(0, 0)), dict(place=None), True),
    (dict(size='large'), dict(size='small'), False), (dict(size='large'), dict(size='large'), True), (dict(size='large'), dict(size=None), True), (dict(size=None), dict(size='small'), True),
    (dict(way=None), dict(), True), (dict(way='bottom'), dict(way=None), True), (dict(way='vertically'), dict(way='horizontally'), False), (dict(way='vertically'), dict(way='vertically'), True),
])
def test_each_part_of_a_claim_counts(change, real, holds): assert may_hold(claim(**change), [thing(**real)]) == holds


def test_a_place_may_hold_near_its_middle():
    "Up to .28 of the picture between the middle of the box and the middle of the named place"
    for x, holds in ((.21, False), (.23, True), (.5, True), (.77, True), (.79, False)):
        for box in ((x - .05, .45, x + .05, .55), (.45, x - .05, .55, x + .05)):
            assert may_hold(claim(), [thing() | dict(box=box)]) == holds, (x, box)


def test_one_thing_must_make_the_whole_claim_true():
    things = [thing(colour='red'), thing(way='bottom'), thing(size='small')]
    assert may_hold(claim(size='large'), things[:2] + [thing(size='large')])
    assert not may_hold(claim(size='large', way='right'), [thing(colour='red', way='right'), thing(way='bottom'), thing(size='small', way='right')])
    assert not may_hold(claim(), [])


def test_no_negative_of_a_scene_may_hold():
    "Of all scenes: no negative whose colors are alike or whose directions are neighbors while the rest of the claim is true"
    alike_words = {c: {c}.union(*(near for near in NEAR if c in near)) for c in PAINT}
    for s in BATCH:
        told = [(parse(r.text), r) for r in s.regions]
        for (colours, name, place, way), r in told:
            for text, kind in r.negatives:
                other = parse(text)
                if kind == 'attribute' and colours[0] != other[0][0]: assert other[0][0] not in alike_words[colours[0]], (r.text, text)
                if kind != 'orientation' or way in (None, other[3]) or other[2] != place: continue
                if way in WAYS: assert (WAYS.index(way) - WAYS.index(other[3])) % 8 == 4, (r.text, text)


@pytest.mark.parametrize('kind', KINDS)
def test_absent_phrases_are_absent(kind):
    s = make_scene(kind, 3, 64)
    phrases = absent_phrases(s, 6, seed=1)
    assert len(phrases) == 6 and phrases == absent_phrases(s, 6, seed=1) != absent_phrases(s, 6, seed=2)
    present = {THINGS[t['name']].family for t in compose(kind, 3, 64).things}
    assert all(THINGS[parse(f'in {p}')[1]].family not in present for p in phrases)


def test_the_seed_decides():
    a, b, other = make_scene('harbour', 4, 96), make_scene('harbour', 4, 96), make_scene('harbour', 5, 96)
    assert a.image.tobytes() == b.image.tobytes() != other.image.tobytes()
    assert a.regions == b.regions and (a.brief, a.detailed) == (b.brief, b.detailed)


@pytest.mark.parametrize('kind', KINDS)
def test_the_same_scene_at_every_size(kind):
    small, large = make_scene(kind, 2, 64), make_scene(kind, 2, 200)
    assert [(r.phrase, r.text) for r in small.regions] == [(r.phrase, r.text) for r in large.regions] and small.detailed == large.detailed
    np.testing.assert_allclose([r.box for r in small.regions], [r.box for r in large.regions], atol=1e-9)


def test_large_and_odd_sizes():
    for size in (65, 333, 2048): assert make_scene('bridge', 1, size).image.size == (size, size)


def test_boxes_hold_their_things():
    "A storage tank is round and of one colour: the middle of its box looks like its paint, as far as light and haze allow"
    errors = []
    for seed in range(12):
        s = make_scene('storage tanks', seed, 256)
        for r in s.regions:
            if r.category != 'storage tank' or 'white' not in r.text: continue
            x, y = int(128 * (r.box[0] + r.box[2])), int(128 * (r.box[1] + r.box[3]))
            errors.append(np.asarray(s.image)[max(0, y - 4):y + 5, max(0, x - 4):x + 5].mean() < 120)
    assert len(errors) > 5 and np.mean(errors) < .15


@pytest.mark.parametrize('call, words', [(lambda: make_scene('moon'), 'airport apron'), (lambda: make_scene(size=32), '64 to 2048'), (lambda: make_scene(size=4096), '64 to 2048'),
                                         (lambda: absent_phrases(Sample(None, id='x', source='rsicd')), 'not made by')])
def test_mistakes_are_explained(call, words):
    with pytest.raises(GeoAlignError, match=words): call()


def test_many_are_cheap():
    "About 20 ms a picture on a quiet core; the bound leaves room for a busy machine"
    start = time.process_time()
    scenes = make_scenes(30, size=256)
    assert (time.process_time() - start) / 30 < .2
    assert [s.id.rsplit('-', 1)[0] for s in scenes[:15]] == KINDS
