"""Places of a map: maxima, what separates two of them, and boxes in fractions."""
import numpy as np
import pytest

from geoalignclip_nb.core import GeoAlignError
from geoalignclip_nb.localization import Place, find_places, local_maxima, nearest_maximum, separate_maxima, suppress_overlaps


def block(shape, *boxes):
    "A map with rectangles (row1, row2, column1, column2, value) on 0"
    heat = np.zeros(shape, np.float32)
    for top, bottom, left, right, value in boxes: heat[top:bottom, left:right] = value
    return heat


def test_a_rectangle_gives_its_box():
    heat = block((40, 80), (10, 20, 20, 60, .8))
    place, = find_places(heat, .5, 'ship')
    np.testing.assert_allclose(place.box, (20 / 80, 10 / 40, 60 / 80, 20 / 40), atol=.013)
    assert place.phrase == 'ship' and place.score == pytest.approx(.8) and place.kind == 'box'
    x, y = place.point
    assert 20 / 80 < x < 60 / 80 and 10 / 40 < y < 20 / 40


def test_two_things_are_two_places_and_the_higher_one_is_first():
    heat = block((20, 20), (2, 6, 2, 6, .6), (12, 17, 12, 17, .9))
    assert [round(p.score, 2) for p in find_places(heat, .5)] == [.9, .6]
    assert [round(p.score, 2) for p in find_places(heat, .7)] == [.9]


@pytest.mark.parametrize('valley, count', [(.1, 2), (.5, 2), (.79, 1), (.8, 1)])
def test_a_valley_separates_two_maxima(valley, count):
    heat = np.array([[0, .8, valley, .9, 0]], np.float32)
    assert len(separate_maxima(heat, local_maxima(heat, .5), 0.)) == count


def test_a_place_is_the_middle_of_the_highest_cell():
    heat = block((8, 8), (3, 4, 6, 7, 1))
    place, = find_places(heat, .5)
    assert place.point == (6.5 / 8, 3.5 / 8) and place.kind == 'point'


@pytest.mark.parametrize('heat', [np.zeros((4, 4)), np.full((4, 4), np.nan), np.full((1, 1), .2)])
def test_no_place_below_the_threshold(heat): assert find_places(heat, .5) == []


def test_a_constant_map_is_one_place_of_the_whole_image():
    place, = find_places(np.ones((5, 9)), .5)
    assert place.box == (0, 0, 1, 1)


def test_cells_without_a_value_hold_no_place():
    heat = block((10, 10), (2, 4, 2, 4, .9), (6, 8, 6, 8, .8))
    heat[:5] = np.nan
    place, = find_places(heat, .5)
    assert place.score == pytest.approx(.8) and place.box[1] >= .5


def test_negative_scales():
    heat = block((10, 10), (2, 5, 2, 5, .5)) - .6
    place, = find_places(heat, -.2, bottom=-.6)
    assert place.score == pytest.approx(-.1, abs=1e-6) and place.box[0] == pytest.approx(.2, abs=.06)


def test_each_cell_belongs_to_the_nearest_maximum():
    assert nearest_maximum((1, 6), [(0, 5), (0, 0)]).tolist() == [[1, 1, 1, 0, 0, 0]]


def test_overlaps_are_suppressed():
    boxes = np.array([[0, 0, 4, 4], [1, 1, 3, 3], [3, 3, 6, 6], [8, 8, 9, 9]])
    assert suppress_overlaps(boxes) == [0, 2, 3] and suppress_overlaps(boxes, most=.01) == [0, 3]


def test_a_place_has_one_of_two_kinds():
    with pytest.raises(GeoAlignError, match='circle'): Place('a', 1., (0, 0, 1, 1), (.5, .5), 'circle')


@pytest.mark.parametrize('seed', range(5))
def test_places_of_noise_lie_in_the_image_and_do_not_repeat(seed):
    heat = np.random.default_rng(seed).random((13, 17))
    places = find_places(heat, .6)
    assert len({p.point for p in places}) == len(places)
    for p in places:
        assert 0 <= p.box[0] <= p.point[0] <= p.box[2] <= 1 and 0 <= p.box[1] <= p.point[1] <= p.box[3] <= 1
        assert p.score >= .6
