"""Drawing: the enlargement, one scale, labels inside the picture, odd shapes."""
import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from geoalignclip_nb.core import GeoAlignError, Region, Sample
from geoalignclip_nb.viz import (as_image, as_map, colour, contact_sheet, enlarge, grid_axes, ink, overlay, shared_scale, show_boxes,
                                 show_grid, show_heat)

SIZES = [(1, 1), (1, 300), (300, 1), (97, 61), (640, 200)]


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close('all')


@pytest.mark.parametrize('grid, size', [(g, s) for g in [(1, 1), (1, 14), (7, 7), (14, 9)] for s in SIZES + [(224, 224)]
                                        if g[0] <= s[1] and g[1] <= s[0]])  # enlargements only
def test_enlarge_is_bilinear_without_aligned_corners(grid, size):
    m = np.random.default_rng(0).normal(size=grid).astype('float32')
    other = F.interpolate(torch.tensor(m)[None, None], size[::-1], mode='bilinear', align_corners=False)[0, 0].numpy()
    np.testing.assert_allclose(enlarge(m, size), other, atol=2e-5)


@pytest.mark.parametrize('size', SIZES)
def test_enlarge_keeps_range_and_shape(size):
    m = np.random.default_rng(1).normal(size=(14, 14))
    out = enlarge(torch.tensor(m, requires_grad=True), size)
    assert out.shape == size[::-1] and out.min() >= m.min() - 1e-5 and out.max() <= m.max() + 1e-5
    np.testing.assert_allclose(enlarge(np.full((3, 5), .25), size), .25)


@pytest.mark.parametrize('bad', [np.zeros((0, 3)), np.zeros(4), np.zeros((1, 2, 3)), [[np.nan]], [[np.inf, 0]]])
def test_bad_maps_are_refused(bad):
    with pytest.raises(GeoAlignError): as_map(bad)


def test_a_colour_means_a_number():
    a, b = np.array([[0., .5]]), np.array([[.5, 2.]])
    assert (colour(a, 0, 1)[0, 1] == colour(b, 0, 1)[0, 0]).all()
    assert (colour([9.], 0, 1) == colour([1.], 0, 1)).all() and (colour([-9.], 0, 1) == colour([0.], 0, 1)).all()
    assert shared_scale([a, b]) == (0, 2) and shared_scale([a, b], -1) == (-1, 2)
    light = colour(np.linspace(0, 1, 256), 0, 1) @ [.2126, .7152, .0722]
    assert (np.diff(light) > -1).all()
    for ends in ((1, 0), (0, float('nan'))):
        with pytest.raises(GeoAlignError): shared_scale([], *ends)
    with pytest.raises(GeoAlignError): shared_scale([])


@pytest.mark.parametrize('size', SIZES)
def test_overlay_keeps_the_picture_size(size):
    image = Image.new('RGB', size, 'white')
    assert overlay(image, np.eye(3), 0, 1).size == size
    assert overlay(image, np.zeros((2, 2)), 0, 0).size == size  # a constant map
    assert overlay(image, np.eye(3), 0, 1, opacity=0).tobytes() == image.tobytes()
    with pytest.raises(GeoAlignError): overlay(image, np.eye(3), 0, 1, opacity=1.5)


def test_pictures_of_many_kinds(tmp_path):
    Image.new('L', (5, 4), 9).save(tmp_path/'a.png')
    for source in (tmp_path/'a.png', str(tmp_path/'a.png'), Image.new('RGBA', (5, 4)), np.zeros((4, 5)), np.zeros((4, 5, 1)), np.zeros((4, 5, 3), 'uint8')):
        image = as_image(source)
        assert image.mode == 'RGB' and image.size == (5, 4)
    (tmp_path/'b.png').write_text('no picture')
    for bad in (tmp_path/'b.png', tmp_path/'c.png', np.zeros((0, 3))):
        with pytest.raises(GeoAlignError): as_image(bad)


@pytest.mark.parametrize('ground', ['white', 'black'])
def test_boxes_read_on_bright_and_dark(ground):
    image = Image.new('RGB', (200, 120), ground)
    fig = mpl.figure.Figure(figsize=(5, 3))
    ax = show_boxes(image, [(.1, .3, .4, .8)], ['a plane'], fig.add_axes((0, 0, 1, 1)))
    mpl.backends.backend_agg.FigureCanvasAgg(fig).draw()
    shown = np.asarray(fig.canvas.buffer_rgba())[..., :3].astype(int)
    assert shown.sum(-1).min() < 120 and np.ptp(shown, axis=-1).max() > 100  # dark line and coloured line, on either ground
    assert ax.texts[0].get_color() in ('black', 'white')


def test_labels_stay_inside_and_apart():
    image = Image.new('RGB', (400, 300))
    boxes = [(0, 0, .1, .1), (.9, 0, 1, .1), (.9, .9, 1, 1), (0, .9, .1, 1), (.4, .4, .6, .6), (.41, .41, .6, .6)]
    ax = show_boxes(image, boxes, ['a rather long label', 'another long label', '$5 & $6', 'x_y^z', 'plane', 'aircraft'])
    ax.figure.canvas.draw()
    spots = [t.get_window_extent().transformed(ax.transData.inverted()) for t in ax.texts]
    for s in spots: assert s.x0 >= 0 and s.x1 <= 400 and min(s.y0, s.y1) >= 0 and max(s.y0, s.y1) <= 300
    assert not spots[4].overlaps(spots[5])


def test_one_bar_for_all_maps():
    image, maps = Image.new('RGB', (60, 40)), [np.eye(4), np.zeros((4, 4)), np.full((2, 2), .5)]
    axes = show_heat(image, maps, ['a', 'b', 'c'], fig=mpl.figure.Figure(), label='cosine')
    assert len(axes) == 3 and len(axes[0].figure.axes) == 4
    show_heat(image, [np.zeros((3, 3))], ['constant'])
    with pytest.raises(GeoAlignError): show_heat(image, maps, ['a'])
    with pytest.raises(GeoAlignError): show_heat(image, [], [])


def test_own_figures_leave_nothing_in_pyplot():
    show_grid([Image.new('RGB', (9, 9))] * 3, list('abc'), fig=mpl.figure.Figure())
    assert plt.get_fignums() == [] and len(grid_axes(7, 3, fig=mpl.figure.Figure())) == 7


def test_sample_shows_itself():
    s = Sample(Image.new('RGB', (30, 20)), 'a scene', regions=[Region((0, 0, .5, .5), 'plane'), Region((.5, .5, 1, 1))])
    ax = s.show()
    assert ax.get_title() == 'a scene' and len(ax.patches) == 2 and len(ax.texts) == 1  # a region without a phrase has no label
    Sample(Image.new('RGB', (1, 1))).show()


def test_contact_sheet_and_ink():
    sheet = contact_sheet([Image.new('RGB', s, 'red') for s in SIZES], ['a very long title that cannot fit'] * 5, ncols=3, size=40)
    assert sheet.size == (3 * 44, 2 * 58)
    assert ink('white') == 'black' and ink('black') == 'white'
    with pytest.raises(GeoAlignError): contact_sheet([])
