"""Regions: RoIAlign against its definition and torchvision, bad boxes, gradients, crops."""
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings, strategies as st
from torchvision.ops import roi_align

from geoalignclip_nb.core import GeoAlignError
from geoalignclip_nb.regions import bilinear_at, frame_boxes, grid_boxes, roi_by_hand, roi_features, sampling_points


def random_boxes(count, images, width, height, seed=0):
    g = torch.Generator().manual_seed(seed)
    a, b = torch.rand(count, 2, generator=g), torch.rand(count, 2, generator=g)
    low, high = torch.minimum(a, b), torch.maximum(a, b) + 1e-3
    xy = torch.cat([low, high.clamp(max=1)], 1) * torch.tensor([width, height, width, height])
    return torch.cat([torch.randint(0, images, (count, 1), generator=g).float(), xy], 1)


@pytest.mark.parametrize('grid, frame', [((14, 14), (224, 224)), ((7, 12), (112, 192)), ((31, 24), (500, 336)), ((1, 1), (16, 16))])
def test_roi_features_equals_definition_and_torchvision(grid, frame):
    dense, boxes = torch.randn(3, 6, *grid, generator=torch.manual_seed(0)), random_boxes(60, 3, frame[1], frame[0])
    cells = boxes.clone()
    cells[:, 1::2] *= grid[1] / frame[1]; cells[:, 2::2] *= grid[0] / frame[0]
    ours = roi_features(dense, boxes, frame)
    torch.testing.assert_close(ours, roi_by_hand(dense, grid_boxes(boxes, frame, grid)), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(ours, roi_align(dense, cells, 1, 1., -1, True).flatten(1), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize('grid, frame', [((14, 14), (224, 224)), ((24, 24), (336, 336)), ((31, 24), (500, 336)), ((16, 16), (225, 223)), ((37, 37), (518, 518))])
def test_whole_picture_is_the_mean(grid, frame):
    dense = torch.randn(2, 4, *grid)
    whole = roi_features(dense, [[i, 0, 0, frame[1], frame[0]] for i in (0, 1)], frame)
    torch.testing.assert_close(whole, dense.mean((2, 3)), atol=1e-5, rtol=1e-5)


def test_points_are_symmetric_and_inside():
    p = sampling_points((1.2, 0, 4.7, 2.5))
    assert p.shape == (4 * 3, 2)
    torch.testing.assert_close(p.mean(0), torch.tensor([(1.2 + 4.7) / 2 - .5, 1.25 - .5]))
    torch.testing.assert_close(bilinear_at(torch.arange(6.).reshape(1, 2, 3), torch.tensor([[.5, .5]])), torch.tensor([[2.]]))


@pytest.mark.parametrize('row, word', [
    ([0, 5, 5, 5, 9], 'area'), ([0, 5, 5, 9, 5], 'area'), ([0, 9, 5, 5, 9], 'area'), ([0, 300, 5, 400, 9], 'outside'), ([0, -9, 5, 0, 9], 'outside'),
    ([0, 5, 224, 9, 240], 'outside'), ([0, float('nan'), 0, 1, 1], 'finite'), ([0, 0, 0, float('inf'), 1], 'finite'), ([float('nan'), 0, 0, 1, 1], 'finite'),
    ([2, 0, 0, 9, 9], 'image'), ([-1, 0, 0, 9, 9], 'image'), ([.5, 0, 0, 9, 9], 'image')])
def test_bad_boxes_are_named(row, word):
    boxes = [[1, 0, 0, 9, 9], row]
    with pytest.raises(GeoAlignError, match='Box 1') as e: roi_features(torch.randn(2, 3, 14, 14), boxes, (224, 224))
    assert word in str(e.value)


@pytest.mark.parametrize('boxes', [[0, 1, 2, 3, 4], [[1, 2, 3, 4]], [[0, 1], [1]], 'no boxes', [[0, 'a', 0, 1, 1]]])
def test_wrong_shapes_are_refused(boxes):
    with pytest.raises(GeoAlignError): roi_features(torch.randn(1, 3, 4, 4), boxes, (64, 64))


def test_a_box_over_the_edge_is_cut():
    dense = torch.randn(1, 3, 14, 14)
    torch.testing.assert_close(roi_features(dense, [[0, -40, 100, 50, 900]], (224, 224)), roi_features(dense, [[0, 0, 100, 50, 224]], (224, 224)))
    assert frame_boxes([[0, -40, 100, 50, 900]], 1, (224, 200)).tolist() == [[0, 0, 100, 50, 224]]


@settings(max_examples=60, deadline=None)
@given(st.floats(-50, 250), st.floats(-50, 250), st.floats(1e-7, 300), st.floats(1e-7, 300))
def test_never_a_zero_vector_or_nan(x, y, w, h):
    try: v = roi_features(torch.ones(1, 4, 14, 9), [[0, x, y, x + w, y + h]], (224, 144))
    except GeoAlignError: return
    torch.testing.assert_close(v, torch.ones(1, 4), atol=1e-5, rtol=0)
    assert F.normalize(v, dim=-1).isfinite().all()


def test_gradients_and_no_boxes():
    dense = torch.randn(2, 3, 6, 6, requires_grad=True)
    roi_features(dense, [[1, 10, 10, 60, 50]], (96, 96)).sum().backward()
    assert dense.grad[0].abs().sum() == 0
    torch.testing.assert_close(dense.grad[1].sum((1, 2)), torch.ones(3))
    dense.grad = None
    none = roi_features(dense, torch.zeros(0, 5), (96, 96))
    assert none.shape == (0, 3) and none.requires_grad
    none.sum().backward()
    assert dense.grad.abs().sum() == 0


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float64])
def test_float32_under_every_precision(dtype):
    dense, boxes = torch.randn(1, 3, 7, 7), [[0, 3, 4, 60, 80]]
    with torch.autocast('cpu', dtype=torch.bfloat16): out = roi_features(dense.to(dtype), boxes, (112, 112))
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, roi_features(dense.to(dtype).float(), boxes, (112, 112)))


@pytest.mark.parametrize('cells_wide, cells_high', [(.8e-3, 4.), (1e-4, 1e-5), (3., .9e-3), (1.2e-3, 3e-3)])
def test_thin_boxes_get_a_thousandth_of_a_cell(cells_wide, cells_high):
    "A frame of 60 × 40 pixels over a map of 6 × 8 cells; the middle stays"
    x, y = cells_wide * 60 / 6, cells_high * 40 / 8
    box = torch.tensor([[0, 30 - x / 2, 20 - y / 2, 30 + x / 2, 20 + y / 2]], dtype=torch.float64)
    _, x1, y1, x2, y2 = grid_boxes(box, (40, 60), (8, 6))[0].tolist()
    assert (x1 + x2) / 2 == pytest.approx(3) and (y1 + y2) / 2 == pytest.approx(4)
    assert x2 - x1 == pytest.approx(max(cells_wide, 1e-3)) and y2 - y1 == pytest.approx(max(cells_high, 1e-3))


def test_points_outside_a_map_take_its_edge():
    plane = torch.arange(6.).reshape(1, 2, 3)  # two rows, three columns
    points = torch.tensor([[-5., -5.], [9., -5.], [-5., 9.], [9., 9.], [1., .25], [.5, 1.]])
    assert bilinear_at(plane, points).tolist() == [[0., 2., 3., 5., 1.75, 3.5]]


@pytest.mark.parametrize('row', [[0, 224, 5, 230, 9], [0, 5, 200, 9, 240], [0, -9, 5, 0, 9], [0, 5, -9, 9, 0]])
def test_boxes_that_touch_the_frame_from_outside(row):
    with pytest.raises(GeoAlignError, match='lies outside the frame of 224 × 200 pixels; move it inside.$'):
        frame_boxes([row], 1, (200, 224))


def test_boxes_are_cut_exactly_and_float32():
    rows = [[0, .25, .25, .5, .75], [0, -3, -4, 5, 6], [1, 200, 190, 300, 300]]
    want = [[0, .25, .25, .5, .75], [0, 0, 0, 5, 6], [1, 200, 190, 224, 200]]
    for boxes in (rows, torch.tensor(rows), torch.tensor(rows, dtype=torch.float64)):
        got = frame_boxes(boxes, 2, (200, 224))
        assert got.dtype == torch.float32 and got.tolist() == want
    assert frame_boxes([], 2, (200, 224)).shape == (0, 5)


@pytest.mark.parametrize('row, words', [
    ([0, float('nan'), 0, 1, 1], 'is not finite; give an image index and four numbers x1, y1, x2, y2.'),
    ([0, 5, 5, 5, 9], 'has no area; give x1 < x2 and y1 < y2.'), ([2, 0, 0, 9, 9], 'use whole numbers from 0 to 1.')])
def test_the_sentence_ends_with_the_remedy(row, words):
    with pytest.raises(GeoAlignError) as e: frame_boxes([row], 2, (200, 224))
    assert str(e.value).endswith(words)


def test_the_first_bad_box_is_named():
    with pytest.raises(GeoAlignError, match='^Box 1 .5, 5, 5, 9. has no area'):
        frame_boxes([[0, 0, 0, 9, 9], [0, 5, 5, 5, 9], [0, 1, 1, 2, 2], [7, 0, 0, 1, 1]], 1, (200, 224))


def test_a_feature_map_has_four_dimensions():
    with pytest.raises(GeoAlignError, match='give .B, D, h, w.'):
        roi_features(torch.randn(3, 14, 14), [[0, 1, 2, 3, 4]], (224, 224))
