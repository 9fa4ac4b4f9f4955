"""From an image file to result files: georeference, masks, unknown words, a folder that is continued."""
import csv
import json
import warnings

import numpy as np
import pytest
from PIL import Image

from geoalignclip_nb.core import GeoAlignError
from geoalignclip_nb.ground import DEFAULT_METHOD, METHODS, ground, method_name, nearest_valid, peak, valid_cells
from geoalignclip_nb.ground_command import GroundRequest, find_images, ground_files, output_names, parse_boxes
from geoalignclip_nb.io.images import LoadedImage
from geoalignclip_nb.io.rasters import Georeference
from geoalignclip_nb.model import GeoAlignCLIP
from geoalignclip_nb.viz import HEAT_MAP, blend_heat, colour, heat_bar

SIZE = 60, 40
TRANSFORM = 2., 0., 500_000., 0., -2., 4_600_000.  # EPSG:32633, 2 m
PHRASES = ['white plane', 'tennis court']


@pytest.fixture(scope='module')
def model(): return GeoAlignCLIP.create('geoalign-debug')


def pixels(seed=0): return np.random.default_rng(seed).integers(0, 255, (*SIZE[::-1], 3), dtype=np.uint8)


def geotiff(path, crs='EPSG:32633', transform=TRANSFORM, seed=0):
    import rasterio
    profile = dict(driver='GTiff', width=SIZE[0], height=SIZE[1], count=3, dtype='uint8', crs=crs, transform=rasterio.Affine(*transform))
    with rasterio.open(path, 'w', **profile) as file: file.write(pixels(seed).transpose(2, 0, 1))
    return path


def by_hand(x, y, transform=TRANSFORM):
    a, b, c, d, e, f = transform
    return [a * x + b * y + c, d * x + e * y + f]


def test_json_holds_pixels_and_map_coordinates(model, tmp_path):
    result = ground(model, geotiff(tmp_path/'a.tif'), PHRASES, boxes=[(.25, .25, .5, .75)])
    result.save_json(tmp_path/'a.json')
    record = json.loads((tmp_path/'a.json').read_text(encoding='utf-8'))
    assert record['crs'] == 'EPSG:32633' and record['transform'] == list(TRANSFORM) and not any('georeference' in n for n in record['notes'])
    for m in record['maps']:
        assert m['peak_map'] == pytest.approx(by_hand(*m['peak']))
        for place in m['places']:
            x1, y1, x2, y2 = place['box']
            assert place['point_map'] == pytest.approx(by_hand(*place['point']))
            np.testing.assert_allclose(place['corners_map'], [by_hand(x1, y1), by_hand(x1, y2), by_hand(x2, y2), by_hand(x2, y1)], atol=.01)
    np.testing.assert_allclose(record['boxes_map'][0], [by_hand(15, 10), by_hand(15, 30), by_hand(30, 30), by_hand(30, 10)])


def turned(): return 1.4, 1.4, 500_000., 1.4, -1.4, 4_600_000.


@pytest.mark.parametrize('transform', [TRANSFORM, turned()], ids=['north up', 'turned'])
def test_geojson_in_the_crs_of_the_file(model, tmp_path, transform):
    result = ground(model, geotiff(tmp_path/'a.tif', transform=transform), PHRASES, boxes=[(.25, .25, .5, .75)])
    result.save_geojson(tmp_path/'a.geojson')
    found = json.loads((tmp_path/'a.geojson').read_text(encoding='utf-8'))
    assert found['type'] == 'FeatureCollection' and found['crs']['properties']['name'] == 'urn:ogc:def:crs:EPSG::32633'
    peaks = [f for f in found['features'] if f['properties']['kind'] == 'peak']
    given = [f for f in found['features'] if f['properties']['kind'] == 'given box']
    assert [f['properties']['phrase'] for f in peaks] == PHRASES and len(given) == 2
    for f, m in zip(peaks, result.to_dict()['maps']):
        assert f['geometry'] == dict(type='Point', coordinates=pytest.approx(by_hand(*m['peak'], transform)))
        assert f['properties']['score'] == m['maximum']
    ring = given[0]['geometry']['coordinates'][0]
    corners = {tuple(np.round(by_hand(x, y, transform), 6)) for x in (15, 30) for y in (10, 30)}
    assert ring[0] == ring[-1] and {tuple(np.round(c, 6)) for c in ring} == corners
    x, y = np.array(ring[:-1]).T
    assert np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y) > 0, 'counterclockwise'


def test_geojson_in_degrees(model, tmp_path):
    result = ground(model, geotiff(tmp_path/'a.tif'), PHRASES)
    result.save_geojson(tmp_path/'a.geojson', wgs84=True)
    found = json.loads((tmp_path/'a.geojson').read_text())
    longitude, latitude = found['features'][0]['geometry']['coordinates']
    assert 'crs' not in found and longitude == pytest.approx(15, abs=.01) and latitude == pytest.approx(41.55, abs=.01)


@pytest.mark.parametrize('crs, words', [(None, 'names no CRS')])
def test_geojson_needs_a_crs(model, tmp_path, crs, words):
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        result = ground(model, geotiff(tmp_path/'a.tif', crs=crs), PHRASES)
    with pytest.raises(GeoAlignError, match=words): result.save_geojson(tmp_path/'a.geojson')
    assert not (tmp_path/'a.geojson').exists()


def test_an_image_without_georeference_says_so(model, tmp_path):
    result = ground(model, Image.fromarray(pixels()), PHRASES)
    assert any('no georeference' in note for note in result.notes) and result.to_dict()['crs'] is None
    with pytest.raises(GeoAlignError, match='no georeference'): result.save_geojson(tmp_path/'a.geojson')


def test_a_smaller_image_in_memory_keeps_the_map(model):
    "The georeference is of the whole file, also where the pixels in memory are fewer"
    where = Georeference('EPSG:32633', TRANSFORM, 600, 400)
    result = ground(model, LoadedImage(Image.fromarray(pixels()), georeference=where), PHRASES)
    m = result.to_dict()['maps'][0]
    assert m['peak_map'] == pytest.approx(by_hand(m['peak'][0] * 10, m['peak'][1] * 10))


def test_rows_and_raw_maps(model, tmp_path):
    result = ground(model, geotiff(tmp_path/'a.tif'), PHRASES, boxes=[(0, 0, .5, .5)])
    result.save_csv(tmp_path/'a.csv')
    result.save_npz(tmp_path/'a.npz')
    rows = list(csv.DictReader(open(tmp_path/'a.csv', encoding='utf-8', newline='')))
    assert {row['kind'].split()[0] for row in rows} >= {'peak', 'given'} and all(row['crs'] == 'EPSG:32633' for row in rows)
    row = next(row for row in rows if row['kind'] == 'peak')
    assert [float(row['map_x']), float(row['map_y'])] == pytest.approx(by_hand(float(row['x']), float(row['y'])))
    raw = np.load(tmp_path/'a.npz')
    np.testing.assert_array_equal(raw['maps'], result.maps)
    assert raw['phrases'].tolist() == PHRASES and str(raw['crs']) == 'EPSG:32633' and raw['transform'].tolist() == list(TRANSFORM)


def test_invalid_pixels_get_no_heat_no_peak_and_no_place(model):
    valid = np.zeros(SIZE[::-1], bool)
    valid[:, 30:] = True
    result = ground(model, LoadedImage(Image.fromarray(pixels()), valid=valid), PHRASES)
    columns = result.maps.shape[2]
    assert np.isnan(result.maps[:, :, :columns // 2]).all() and np.isfinite(result.maps[:, :, columns // 2:]).all()
    assert all(x >= .5 for x, _ in result.peaks())
    assert all(p.box[0] >= .5 for found in result.places(threshold=-1) for p in found)
    record = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert all(m['peak'][0] >= 30 for m in record['maps'])
    drawn = np.asarray(blend_heat(result.image, result.maps[0] * 0 + 1, 0, 1, valid=valid))
    np.testing.assert_array_equal(drawn[:, :30], pixels()[:, :30])
    with pytest.raises(GeoAlignError, match='no valid pixel'): ground(model, LoadedImage(Image.fromarray(pixels()), valid=valid & False), PHRASES)


def test_cells_and_points_of_a_mask():
    valid = np.zeros((4, 8), bool)
    valid[:, 5:] = True
    assert valid_cells(valid, (2, 4)).tolist() == [[False, False, True, True]] * 2
    assert nearest_valid((.51, .1), valid, (.25, .5)) == (5.5 / 8, .5 / 4) and nearest_valid((.9, .1), valid, (.25, .5)) == (.9, .1)
    assert peak([[np.nan, 2, 3]]) == (2.5 / 3, .5) and peak([[np.nan]]) is None


@pytest.mark.parametrize('method', ['similarity', 'contrast', 'gradcam'])
def test_a_phrase_without_a_known_word_gets_no_heat(model, method):
    result = ground(model, Image.fromarray(pixels()), ['飞机', 'airplan', 'white plane', 'white airplan'], boxes=[(0, 0, 1, 1)], method=method)
    assert (result.maps[:2] == result.scale[0]).all() and np.isnan(result.scores[:, :2]).all()
    assert result.found[:2] == [False, False] and result.places()[:2] == [[], []]
    assert np.ptp(result.maps[2]) > 0 and np.isfinite(result.scores[:, 2:]).all()
    assert result.unknown == [['飞机'], ['airplan'], [], ['airplan']]
    assert sum('gets no heat' in w for w in result.warnings) == 2 and any('did you mean airplane' in w for w in result.warnings)
    assert json.loads(json.dumps(result.to_dict(), allow_nan=False))['scores'][0][:2] == [None, None]


def test_one_string_holds_several_phrases(model):
    result = ground(model, Image.fromarray(pixels()), 'find all white planes, tennis courts; White planes')
    assert result.phrases == ['white planes', 'tennis courts'] and any('2 times' in note for note in result.notes)
    assert ground(model, Image.fromarray(pixels()), ['a plane, parked']).phrases == ['a plane, parked']


def test_a_large_image_says_what_a_cell_covers(model):
    result = ground(model, Image.new('RGB', (4000, 2000)), PHRASES)
    across = 4000 / result.maps.shape[2]
    assert any(f'covers {across:.0f} × ' in note for note in result.notes)
    assert not any('covers' in note for note in ground(model, Image.fromarray(pixels()), PHRASES).notes)


def test_names_of_methods_and_of_models():
    assert DEFAULT_METHOD in METHODS and method_name('relevancy') == 'contrast'
    with pytest.raises(GeoAlignError, match="did you mean 'similarity'"): method_name('similarty')
    from geoalignclip_nb import ground as callable_module, list_models, load, load_image
    assert callable(callable_module) and callable(load) and callable(list_models) and callable(load_image)
    result = callable_module('geoalign-tiny', Image.fromarray(pixels()), 'airplane')
    assert result.model == 'geoalign-tiny' and result.method == DEFAULT_METHOD


def test_one_default_method_for_all():
    from geoalignclip_nb.cli import make_parser
    assert make_parser().parse_args(['ground', 'a.png', '--phrases', 'a']).method == DEFAULT_METHOD == GroundRequest(['a'], 'a', None).method


# ---- drawing --------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('value', [0, -3, .1])
def test_the_image_is_untouched_at_the_bottom_of_the_scale(value):
    image = Image.fromarray(pixels())
    assert blend_heat(image, np.full((4, 6), value), .1, .9).tobytes() == image.tobytes()


def test_opacity_follows_the_value():
    gray = Image.new('RGB', (8, 8), (128, 128, 128))
    change = [np.abs(np.asarray(blend_heat(gray, np.full((2, 2), v), 0, 1), float) - 128).sum() for v in (0, .1, .2, .3, .6, 1)]
    assert change == sorted(change) and change[0] == 0 and change[1] > 0
    top = np.asarray(blend_heat(gray, np.ones((2, 2)), 0, 1, opacity=.8))[0, 0]
    np.testing.assert_allclose(top, 128 + .8 * (colour([1.], 0, 1, HEAT_MAP)[0].astype(float) - 128), atol=1)


def test_the_bar_shows_the_blended_colors():
    bar = heat_bar(11)
    for i, value in enumerate(np.linspace(0, 1, 11)):
        seen = np.asarray(blend_heat(Image.new('RGB', (4, 4), (128,) * 3), np.full((2, 2), value), 0, 1))[0, 0]
        np.testing.assert_allclose(bar[i], seen, atol=1)


# ---- the command ----------------------------------------------------------------------------------------------------------------

def test_fractions_are_noticed():
    with pytest.raises(GeoAlignError, match='"64,48,320,240"'): parse_boxes('0.1,0.1,0.5,0.5', 640, 480)
    np.testing.assert_allclose(parse_boxes('0.1,0.1,1.5,0.5', 640, 480), [[.1 / 640, .1 / 480, 1.5 / 640, .5 / 480]])


def folder_of_images(tmp_path):
    for i in range(3): geotiff(tmp_path/f'{i}.tif', seed=i)
    (tmp_path/'broken.png').write_bytes(b'not an image')
    (tmp_path/'notes.txt').write_text('x')
    return tmp_path


def test_a_folder_is_continued_where_it_stopped(model, tmp_path, capsys):
    folder, loads = folder_of_images(tmp_path), []
    def load():
        loads.append(1)
        return model
    request = GroundRequest([str(folder)], 'white plane, ship', load, out=str(tmp_path/'out'), geojson=True)
    with pytest.raises(GeoAlignError, match=r'1 of 4 images failed \(broken.png\)'): ground_files(request)
    written = sorted(path.name for path in (tmp_path/'out').iterdir())
    assert written == [f'{i}.{kind}' for i in range(3) for kind in ('geojson', 'json', 'png')]
    first, before = capsys.readouterr().out, (tmp_path/'out'/'0.json').stat().st_mtime_ns
    assert '[1/4] 0.tif: white plane' in first and 's left' in first and 'broken.png: failed' in first
    (tmp_path/'broken.png').unlink()
    ground_files(request)
    assert '3 of 3 images are done already and kept' in capsys.readouterr().out and len(loads) == 1
    assert (tmp_path/'out'/'0.json').stat().st_mtime_ns == before
    request.overwrite = True
    ground_files(request)
    assert (tmp_path/'out'/'0.json').stat().st_mtime_ns > before


def test_results_of_another_request_are_not_kept(model, tmp_path):
    geotiff(tmp_path/'0.tif')
    ground_files(GroundRequest([str(tmp_path/'*.tif')], 'ship', lambda: model, out=str(tmp_path/'out')))
    for other in (dict(phrases='plane'), dict(phrases='ship', method='contrast'), dict(phrases='ship', size=64)):
        with pytest.raises(GeoAlignError, match='another request'):
            ground_files(GroundRequest([str(tmp_path/'*.tif')], load=lambda: model, out=str(tmp_path/'out'), **other))


@pytest.mark.parametrize('change, words', [
    (dict(), '--out DIR'), (dict(out='a.png'), 'several images need a folder'), (dict(out='o', boxes='1,1,2,2'), '--boxes'),
    (dict(out='o', geojson='a.geojson'), '--geojson names a file')])
def test_mistakes_in_a_batch(tmp_path, change, words):
    request = GroundRequest(['a.tif', 'b.tif'], 'ship', lambda: pytest.fail('the model was loaded'), **change)
    with pytest.raises(GeoAlignError, match=words): ground_files(request)


def test_geojson_without_georeference_is_refused_before_the_model(tmp_path):
    Image.fromarray(pixels()).save(tmp_path/'a.png')
    request = GroundRequest([str(tmp_path/'a.png')], 'ship', lambda: pytest.fail('the model was loaded'), geojson=str(tmp_path/'a.geojson'))
    with pytest.raises(GeoAlignError, match='no georeference'): ground_files(request)


def test_scores_of_boxes_are_printed(model, tmp_path, capsys):
    Image.fromarray(pixels()).save(tmp_path/'a.png')
    ground_files(GroundRequest([str(tmp_path/'a.png')], 'white plane, ship', lambda: model, boxes='10,5,30,25'))
    assert 'box 10,5,30,25: white plane ' in capsys.readouterr().out


def test_names_of_images_and_outputs(tmp_path):
    from pathlib import Path
    for name in ('b.TIF', 'a.png', '.hidden.png', 'x.txt'): (tmp_path/name).touch()
    assert [p.name for p in find_images([str(tmp_path)])] == ['a.png', 'b.TIF']
    assert [p.name for p in find_images([str(tmp_path/'*.TIF'), str(tmp_path/'a.png'), str(tmp_path/'b.TIF')])] == ['b.TIF', 'a.png']
    with pytest.raises(GeoAlignError, match='holds no image'): find_images([str(tmp_path/'*.jp2')])
    assert output_names([Path('x/a.tif'), Path('y/a.tif')]) == ['x_a.tif', 'y_a.tif']


@pytest.mark.parametrize('words, near', [(['grond', 'a.png'], 'ground'), (['tables', 'x', '--formt', 'csv'], '--format'), (['trian', 'debug'], 'train')])
def test_a_mistyped_word_gets_the_nearest(words, near, capsys):
    from geoalignclip_nb.cli import main
    with pytest.raises(SystemExit) as stopped: main(words)
    assert stopped.value.code == 2 and f'did you mean {near}?' in capsys.readouterr().err


def test_version(capsys):
    from geoalignclip_nb import __version__
    from geoalignclip_nb.cli import main
    with pytest.raises(SystemExit) as stopped: main(['--version'])
    assert stopped.value.code == 0 and capsys.readouterr().out == f'geoalign {__version__}\n'
