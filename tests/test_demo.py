"""The demo behind its page: adapters of the annotator, mistakes as one sentence, the endpoint `/ground`."""
import html
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import warnings
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

DEMO = Path(__file__).resolve().parent.parent/'demo'
sys.path.insert(0, str(DEMO))

import adapters
import app
import exports
import gallery
import gradio as gr
import grounder as grounders
import handlers
import service
import uploads
import views
from geoalignclip_nb.core import GeoAlignError
from geoalignclip_nb.ground import DEFAULT_METHOD, METHODS, GroundResult
from geoalignclip_nb.io.images import load_image, read_image
from geoalignclip_nb.presence import Presence
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError


def quiet(*args, **more): pass  # progress that nobody sees


def loaded_of(question):
    "The image of a question, as the library reads it"
    if isinstance(question.image, Path): return read_image(question.image, bands=question.bands)
    return SimpleNamespace(rgb=load_image(question.image), valid=None, georeference=None, notes=[])


class Fake:
    "A grounder that needs no weights: the heat of phrase i is a spot in column i; scores rise along the phrases"
    def __init__(self):
        self.calls = []
        self.go_on = threading.Event()

    def __call__(self, question, progress):
        loaded = loaded_of(question)
        phrases, boxes = question.phrases, question.boxes
        self.calls.append(dict(vars(question), name=question.model, size=loaded.rgb.size, image=loaded.rgb))
        weights = '/data/weights.bin'
        if phrases[0] == 'warn':
            warnings.warn(f'File {weights} is old, and so is /home/me/models/tiny/weights.bin.', stacklevel=1)
        if phrases[0] == 'refuse': raise GeoAlignError(f'File {weights} cannot be read; copy it again.')
        if phrases[0].startswith('<b>'): raise GeoAlignError(f"'{phrases[0]}' cannot be used; write words.")
        if phrases[0] == 'explode': raise RuntimeError(f'broken at {Path(__file__).resolve()} line 1')
        if phrases[0] == 'slow': self.go_on.wait(60)
        if question.method not in METHODS: raise GeoAlignError(f'Method {question.method!r} is unknown.')
        maps = np.zeros((len(phrases), 6, 8), np.float32)
        for i in range(len(phrases)): maps[i, 2, i % 8] = .3
        scores = np.zeros((0, len(phrases)))
        if boxes is not None: scores = np.tile(np.linspace(.1, .3, len(phrases)), (len(boxes), 1))
        kind = 'cosine' if question.method == 'similarity' else 'relevance'
        result = GroundResult(maps, scores, boxes, phrases, kind, question.method, question.model, loaded.rgb,
                              (-.1, .35), valid=loaded.valid, georeference=loaded.georeference, notes=loaded.notes)
        return grounders.Answer(result, 'trained')


def launch(demo) -> str:
    "Address of the running demo. Gradio's own look at its page gives up after seconds, which a busy machine may need"
    import gradio.networking
    before = gradio.networking.url_ok
    gradio.networking.url_ok = lambda url: True
    try: return demo.launch(prevent_thread_lock=True, quiet=True, **app.launch_settings())[1]
    finally: gradio.networking.url_ok = before


@pytest.fixture(scope='module')
def served():
    fake = Fake()
    demo = app.build_demo(fake)
    url = launch(demo)
    client = Client(url, verbose=False)
    yield fake, client, url
    demo.close()


def write_geotiff(path: Path, bands: int = 3, dtype: str = 'uint8', nodata: float | None = None):
    "A georeferenced image of 200 × 160 pixels (10 m each, EPSG:32633) with another ramp in every band"
    import rasterio
    from rasterio.transform import from_origin
    across = np.linspace(20, 230, 200)[None] * np.ones((160, 1))
    pixels = np.stack([np.roll(across, 40 * i, axis=1) for i in range(bands)]).astype(dtype)
    if nodata is not None: pixels[:, :, :100] = nodata
    with rasterio.open(path, 'w', driver='GTiff', width=200, height=160, count=bands, dtype=dtype, nodata=nodata,
                       crs='EPSG:32633', transform=from_origin(500000, 4600000, 10, 10)) as file: file.write(pixels)


@pytest.fixture(scope='module')
def pictures(tmp_path_factory):
    "Name -> file: what people upload"
    folder, noise = tmp_path_factory.mktemp('pictures'), np.random.default_rng(0)
    rgb = noise.integers(0, 255, (240, 320, 3), dtype=np.uint8)
    Image.fromarray(rgb).save(folder/'plain.png')
    Image.fromarray(rgb[:, :150]).save(folder/'portrait.jpg')
    Image.fromarray(rgb).convert('RGBA').save(folder/'rgba.png')
    Image.fromarray(noise.integers(900, 4000, (200, 300), dtype=np.uint16)).save(folder/'sixteen.tif')
    turned = Image.Exif()
    turned[274] = 6
    Image.fromarray(rgb).save(folder/'phone.jpg', exif=turned)
    Image.new('RGB', (6000, 4000), (90, 110, 80)).save(folder/'large.jpg')
    (folder/'broken.png').write_bytes((folder/'plain.png').read_bytes()[:300])
    (folder/'empty.png').write_bytes(b'')
    (folder/'text.png').write_text('not an image')
    write_geotiff(folder/'geo.tif')
    write_geotiff(folder/'four.tif', bands=4)
    write_geotiff(folder/'nodata.tif', dtype='uint16', nodata=0)
    return {f.stem: f for f in folder.iterdir()}


def scene(path, boxes=(), **more):
    keys = ('xmin', 'ymin', 'xmax', 'ymax')
    return dict(image=handle_file(path), boxes=[dict(zip(keys, b)) for b in boxes], **more)


PUBLIC = [name for name in handlers.RESULTS if name != 'shown']


def ground(client, value, phrases='white plane\nroad', **more):
    "The outputs of `/ground` by name"
    return dict(zip(PUBLIC, client.predict(scene=value, phrases=phrases, api_name='/ground', **more)))


def ask(grounder, drawn, phrases, **more):
    "What the handler of Ground returns, by name"
    answer = handlers.make_ground(grounder)(drawn, phrases, progress=quiet, **more)
    return dict(zip(handlers.RESULTS, answer))


def drawn_on(path: Path, *boxes) -> adapters.Scene:
    keys = ('xmin', 'ymin', 'xmax', 'ymax')
    return adapters.Scene(path, path.name, [dict(zip(keys, box)) for box in boxes])


# ---- adapters: the five traps ------------------------------------------------------------------------------

needs_annotator = pytest.mark.skipif(not adapters.has_annotator(), reason='gradio_image_annotation is not installed')


@needs_annotator
def test_colors_survive_the_way_back(pictures):
    value = adapters.scene_value(pictures['plain'], [(10, 20, 30, 40)])
    assert re.fullmatch(r'rgb\(\d+, \d+, \d+\)', value['boxes'][0]['color'])
    assert adapters.image_annotator().preprocess_boxes(value['boxes'])[0]['color'] == (255, 196, 0)


@needs_annotator
def test_the_picture_goes_out_as_the_same_file(pictures):
    sent = adapters.scene_input().postprocess(adapters.scene_value(pictures['plain']))
    assert Path(sent.image.path).read_bytes() == pictures['plain'].read_bytes(), 'no lossy copy'


@pytest.mark.parametrize('turns', range(4))
def test_a_turned_picture_is_turned_with_its_boxes(turns):
    "The screen shows the picture turned clockwise and reports boxes in that frame"
    a = np.zeros((40, 60, 3), np.uint8)
    a[5:15, 10:30] = 255
    seen = np.asarray(adapters.turn(Image.fromarray(a), turns))
    assert (seen == np.rot90(a, -turns)).all()
    ys, xs = np.nonzero(seen[..., 0])
    w, h = 60, 40
    expected = [(10, 5, 30, 15), (h - 15, 10, h - 5, 30), (w - 30, h - 15, w - 10, h - 5), (5, w - 30, 15, w - 10)]
    assert (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1) == expected[turns]


def test_boxes_are_put_in_order():
    rows = [(90, 80, 50, 60), (-5, -5, 20, 20), (30, 5, 400, 9), (10, 10, 11, 50), (500, 500, 600, 600)]
    rows.append((50, 60, 90, 80))
    boxes, dropped = adapters.tidy_boxes(rows, 100, 100)
    assert boxes.tolist() == [[0, 0, 20, 20], [30, 5, 100, 9], [50, 60, 90, 80]] and dropped == 3
    assert adapters.tidy_boxes([], 10, 10)[0].shape == (0, 4)
    many = [(i, 0, i + 3, 5) for i in range(100)]
    with pytest.raises(GeoAlignError, match='boxes'): adapters.tidy_boxes(many, 1000, 10)


@needs_annotator
def test_nothing_is_changed_in_place(pictures):
    value = adapters.scene_value(pictures['plain'], [(1, 2, 30, 40)])
    before = json.dumps(value)
    adapters.scene_input(value)
    assert json.dumps(value) == before
    assert adapters.scene_value(pictures['plain'])['boxes'] is not adapters.scene_value(pictures['plain'])['boxes']


@pytest.mark.parametrize('box', [
    {}, dict(xmin=1, ymin=2, xmax=3), dict(xmin='a', ymin=1, xmax=2, ymax=3),
    dict(xmin=float('nan'), ymin=1, xmax=2, ymax=3), None, 'box'])
def test_a_box_without_four_numbers_is_refused(box):
    with pytest.raises(GeoAlignError, match='numbers|number'): adapters.box_numbers(box)


@pytest.mark.parametrize('turns', [float('nan'), float('inf'), 1.5, 'up', None])
def test_an_orientation_is_a_whole_number(turns):
    with pytest.raises(GeoAlignError, match='quarter turns'): adapters.quarter_turns(turns)
    assert [adapters.quarter_turns(t) for t in (0, 5, -1, 2.)] == [0, 1, 3, 2]


def test_scale_factor():
    box = dict(xmin=10, ymin=20, xmax=30, ymax=40, scaleFactor=.5)
    assert adapters.box_numbers(box) == [20, 40, 60, 80]


def test_typed_boxes():
    assert adapters.typed_boxes('1, 2, 3, 4\n(5 6 7.5 8);\n') == [[1, 2, 3, 4], [5, 6, 7.5, 8]]
    assert adapters.typed_boxes('') == []
    for wrong in ('1,2,3', 'a,b,c,d', '1,2,3,inf', '🛩'):
        with pytest.raises(GeoAlignError, match='not a box'): adapters.typed_boxes(wrong)


# ---- the endpoint ------------------------------------------------------------------------------------------

def test_one_public_endpoint_with_plain_inputs(served):
    named = served[1].view_api(return_format='dict')['named_endpoints']
    assert list(named) == ['/ground']
    names = [p['parameter_name'] for p in named['/ground']['parameters']]
    assert names == ['scene', 'phrases', 'method', 'model', 'opacity', 'common', 'typed', 'show_absent', 'bands']


def test_ground(served, pictures):
    fake, client, _ = served
    out = ground(client, scene(pictures['plain'], [(150, 100, 50, 20), (0, 0, 160, 1), (160, 120, 400, 400)]))
    call = fake.calls[-1]
    assert call['phrases'] == ['white plane', 'road'] and call['size'] == (320, 240)
    assert (call['name'], call['method']) == ('geoalign-tiny', DEFAULT_METHOD)
    assert np.allclose(call['boxes'], [[50 / 320, 20 / 240, 150 / 320, 100 / 240], [.5, .5, 1, 1]])
    record = out['record']
    assert record['boxes'] == [[50, 20, 150, 100], [160, 120, 320, 240]] and record['weights'] == 'trained'
    assert len(out['gallery']) == 2 and 'white plane' in out['gallery'][0]['caption']
    assert out['table']['headers'] == ['#', 'box (px)', 'best match', 'white plane', 'road']
    assert out['table']['data'][0] == ['1', '50, 20 – 150, 100', 'road', '0.100', '★ 0.300']
    about = html.unescape(out['about'])
    expected = 'geoalign-tiny', 'trained weights', '8 × 6 cells', 'cosine 0.000 … 0.300', 'not detection', 'left out'
    for said in expected:
        assert said in about, said
    assert '-0.100' in out['bar'] and '0.350' in out['bar'] and 'one scale' in out['bar']


def test_the_bundled_model_behind_the_endpoint():
    "No stand-in: the weights that ship with the package, asked the way a program asks"
    demo = app.build_demo()
    try:
        client = Client(launch(demo), verbose=False)
        drawn = scene(DEMO/'examples'/'harbour.jpg', [(10, 10, 120, 120)])
        out = ground(client, drawn, 'find all ships, a zebra crossing, 飞机')
    finally: demo.close()
    record = out['record']
    assert record['phrases'] == ['ships', 'a zebra crossing', '飞机'] and len(record['boxes']) == 1
    assert record['model'] == 'geoalign-tiny' and record['weights'] == 'trained'
    assert 'unknown to the model' in out['gallery'][2]['caption'] and '飞机' in html.unescape(out['about'])
    assert {Path(f).suffix for f in out['files']} == {'.json', '.csv', '.npz'} and 'georeference' in out['saved']


@pytest.mark.parametrize('text, phrases', [
    ('white plane, road', ['white plane', 'road']),
    ('white plane; 🛩 plane\n\nwhite plane', ['white plane', '🛩 plane']),
    ('find all ships, show me the road', ['ships', 'road']),
    ('"red, white and blue roof", road', ['red, white and blue roof', 'road']),
])
def test_phrases_are_split(served, pictures, text, phrases):
    out = ground(served[1], scene(pictures['plain']), text)
    assert out['record']['phrases'] == phrases and out['table']['data'] == [] and 'Draw boxes' in out['hint']


def test_scales(served, pictures):
    own = ground(served[1], scene(pictures['plain']), common=False)
    assert 'its own range' in own['bar']
    other = ground(served[1], scene(pictures['plain']), method='gradcam')
    assert 'gradcam relevance' in other['about'] and 'gradcam relevance' in other['bar']


@pytest.mark.parametrize('name, size', [('portrait', (150, 240)), ('rgba', (320, 240)), ('sixteen', (300, 200)),
                                        ('phone', (240, 320)), ('large', (6000, 4000))])
def test_any_image(served, pictures, name, size):
    out = ground(served[1], scene(pictures[name], [(10, 10, 60, 90)]))
    assert served[0].calls[-1]['size'] == size and (out['record']['width'], out['record']['height']) == size
    assert out['record']['boxes'] == [[10, 10, 60, 90]]
    with Image.open(out['gallery'][0]['image']) as shown:
        assert max(shown.size) <= uploads.SHOWN and (shown.width > shown.height) == (size[0] > size[1])
    if name == 'sixteen': assert np.asarray(served[0].calls[-1]['image']).std() > 30, 'stretched, not clipped to white'


def test_typed_and_turned(served, pictures):
    out = ground(served[1], scene(pictures['plain'], orientation=1), typed='10, 20, 110, 220')
    assert served[0].calls[-1]['size'] == (240, 320) and out['record']['boxes'] == [[10, 20, 110, 220]]


# ---- files in: previews, bands, limits ---------------------------------------------------------------------

@pytest.mark.parametrize('turns, box', [(0, [30, 20, 150, 100]), (1, [30, 20, 150, 100])])
def test_opened_files_count_in_their_own_pixels(pictures, monkeypatch, turns, box):
    "A TIFF or huge image is shown as a small PNG; boxes are told in pixels of the original"
    monkeypatch.setattr(uploads, 'PREVIEW', 150)
    shown, opened, _ = handlers.on_open(str(pictures['sixteen']))
    with Image.open(shown) as im: assert im.size == opened.seen == (150, 100) and im.format == 'PNG'
    drawn = drawn_on(Path(shown), (15, 10, 75, 50))
    drawn.turns = turns
    record = ask(Fake(), drawn, 'road', opened=opened)['record']
    assert record['boxes'] == [box] and {record['width'], record['height']} == {300, 200}


def test_only_files_that_no_browser_shows_get_a_preview(pictures):
    assert handlers.on_upload(adapters.Scene(pictures['sixteen'], 'sixteen.tif'))[1].seen == (300, 200)
    assert handlers.on_upload(adapters.Scene(pictures['plain'], 'plain.png'))[1] is None, 'shown as it is'


def test_a_preview_without_its_original_is_not_taken_for_the_original(pictures):
    shown, opened, _ = handlers.on_open(str(pictures['sixteen']))
    for kept in (None, replace(opened, path='/nowhere/sixteen.tif')):
        with pytest.raises(gr.Error, match='no longer on the server'):
            ask(Fake(), drawn_on(Path(shown)), 'road', opened=kept)


def test_bands_are_a_choice(pictures):
    _, opened, field = handlers.on_open(str(pictures['four']))
    assert opened.band_count == 4 and field.visible and '4 bands' in field.info
    shown, again = handlers.on_bands(opened, '4,3,2')
    assert again.bands == '4,3,2'
    first, other = (np.asarray(load_image(pictures['four'], bands=bands)).astype(int) for bands in (None, '4,3,2'))
    assert abs(first - other).mean() > 10, 'another choice, another image'
    fake = Fake()
    ask(fake, drawn_on(Path(shown)), 'road', opened=again, bands='4,3,2')
    assert (np.asarray(fake.calls[-1]['image']) == other).all()
    assert handlers.on_open(str(pictures['plain']))[2].visible is False, 'three bands need no choice'
    with pytest.raises(gr.Error, match='[Bb]and'): handlers.on_bands(opened, '7,1')


def test_no_data_has_no_heat(pictures):
    out = ask(Fake(), drawn_on(pictures['nodata']), 'white plane')
    plain, heated = (np.asarray(im).astype(int) for im in (out['shown'].image, out['gallery'][0][0]))
    changed = abs(heated - plain).sum(2) > 0
    assert not changed[:, :100].any() and changed[:, 101:].any()


@pytest.mark.parametrize('size, mode', [((14_000, 14_000), 'L'), ((10_001, 10_000), '1')])
def test_too_many_pixels_are_refused_before_they_are_decoded(tmp_path, size, mode, monkeypatch):
    "A file of a few kilobytes must not cost gigabytes, and the sentence names the command that takes it"
    Image.new(mode, size).save(tmp_path/'huge.png', compress_level=9)
    monkeypatch.setattr(uploads, 'read_image', lambda *a, **k: pytest.fail('decoded'))
    path = tmp_path/'huge.png'
    for refuse in (lambda: handlers.on_open(str(path)), lambda: ask(Fake(), drawn_on(path), 'road')):
        with pytest.raises(gr.Error) as told: refuse()
        said = str(told.value)
        assert f'{size[0]} × {size[1]} pixels' in said and 'geoalign ground huge.png' in said, said
        assert told.value.title == service.TOO_LARGE


def test_too_many_bytes(served, tmp_path):
    with open(tmp_path/'huge.tif', 'wb') as f: f.truncate(uploads.UPLOAD_MB * 2**20 + 1)
    with pytest.raises(Exception, match='(?i)size|large|exceed'): ground(served[1], scene(tmp_path/'huge.tif'))
    assert 'geoalign ground FILE' in app.TOO_MANY_BYTES and f'{uploads.UPLOAD_MB} MB' in app.TOO_MANY_BYTES


def test_large_cells_are_told(served, pictures):
    "Whoever looks for cars in a scene of 10,000 pixels is told that a cell is larger than a car"
    from geoalignclip_nb.model import GeoAlignCLIP
    grounder = grounders.Grounder()
    grounder.models['geoalign-tiny'] = GeoAlignCLIP.create('vit-tiny')
    told = ask(grounder, drawn_on(pictures['large']), 'road')['about']
    assert re.search(r'covers \d+ × \d+ pixels', told), told


# ---- mistakes ----------------------------------------------------------------------------------------------

MISTAKES = {
    'empty phrases': (dict(phrases=' \n ; '), 'No phrase'),
    'control characters': (dict(phrases='\x01\x02'), 'phrase'),
    'long phrase': (dict(phrases='a ' * 10_001), 'characters'),
    'many phrases': (dict(phrases='\n'.join(f'plane {i}' for i in range(99))), '99 phrases'),
    'broken image': (dict(name='broken'), 'broken.png'),
    'empty image': (dict(name='empty'), 'empty.png'),
    'no image at all': (dict(name='text'), 'text.png'),
    'no scene': (dict(name=None), 'no image'),
    'box without a corner': (dict(boxes=[(1, 2, 3)]), 'xmax'),
    'boxes that are not a list': (dict(raw=dict(boxes='everywhere')), 'not a list'),
    'box of a huge number': (dict(raw=dict(boxes=[dict(xmin=10**400, ymin=0, xmax=1, ymax=1)])), 'number'),
    'orientation that is not a turn': (dict(raw=dict(orientation='up')), 'quarter turns'),
    'typed words': (dict(typed='left of the plane'), 'not a box'),
    'typed three numbers': (dict(typed='1,2,3'), 'not a box'),
    'bands that the file lacks': (dict(bands='9,8,7'), 'band'),
    'unknown method': (dict(method='magic'), 'magic'),
    'unknown model': (dict(model='/etc/passwd'), ''),
    'a fault of ours': (dict(phrases='explode'), 'terminal'),
}


@pytest.mark.parametrize('case', MISTAKES)
def test_a_mistake_is_one_sentence(served, pictures, case):
    given, named = MISTAKES[case]
    given = dict(given)
    name, boxes, raw = given.pop('name', 'plain'), given.pop('boxes', ()), given.pop('raw', {})
    with pytest.raises((AppError, ValueError)) as told:
        ground(served[1], scene(pictures[name], boxes) | raw if name else None, **given)
    said = str(told.value)
    assert named in said, said
    assert 'Traceback' not in said and '\n' not in said.strip(), said
    if case != 'unknown model': assert not re.search(r'(^|[\s\'"])/\w+/', said), said


def test_scene_without_an_image(served):
    with pytest.raises((AppError, ValueError), match='no image'): ground(served[1], dict(image=None, boxes=[]))


def post(url: str, data) -> dict:
    "The answer of `/ground` to a plain request, as a program without our client sends it"
    address = f'{url.rstrip("/")}/gradio_api/call/ground'
    body = json.dumps(dict(data=data)).encode()
    request = urllib.request.Request(address, body, {'Content-Type': 'application/json'})
    with urllib.request.urlopen(request, timeout=30) as answer: event = json.load(answer)['event_id']
    with urllib.request.urlopen(f'{address}/{event}', timeout=30) as answer: lines = answer.read().decode().splitlines()
    found = [json.loads(line[6:]) for line in lines if line.startswith('data: ')]
    return found[-1]


NO_SCENE = dict(image=None, boxes=[])
REST = ['contrast', 'geoalign-tiny', .5, True, '', False, '']
REQUESTS = {
    'nothing': ([], '9 values'),
    'one None': ([None], '9 values'),
    'too few': ([NO_SCENE, 'road'], '9 values'),
    'only None': ([None] * 9, 'opacity'),
    'a list as scene': ([[1, 2, 3], 'road', *REST], 'scene'),
    'text as scene': (['scene.png', 'road', *REST], 'scene'),
    'an image that was not uploaded': ([dict(image=dict(path='/etc/passwd')), 'road', *REST], 'scene'),
    'an image without a path': ([dict(image='x'), 'road', *REST], 'scene'),
    'text as opacity': ([NO_SCENE, 'road', 'contrast', 'geoalign-tiny', 'much', True, '', False, ''], 'opacity'),
}


@pytest.mark.parametrize('case', REQUESTS)
def test_a_malformed_request_is_one_sentence(served, case):
    data, named = REQUESTS[case]
    said = post(served[2], data)['error']
    assert said and named in said and '/etc' not in said, said
    assert 'Traceback' not in said and '\n' not in said.strip() and 'foresee' not in said, said


def test_quoted_text_is_never_html(served, pictures):
    with pytest.raises(AppError) as told:
        ground(served[1], scene(pictures['plain']), '<b>x</b><img src=a onerror=alert(1)>')
    assert '<' not in str(told.value) and '&lt;b&gt;' in str(told.value)
    out = ground(served[1], scene(pictures['plain'], [(10, 10, 90, 90)]), 'road, <i>roof</i>, ![x](http://a.b/c.png)')
    assert '<i>' not in out['about'] and '<i>' not in str(out['table']) and '<i>' not in str(out['places'])


@pytest.mark.parametrize('error, title', [
    (GeoAlignError('Give a number.'), service.CHECK), (service.TooLargeError('It is large.'), service.TOO_LARGE),
    (MemoryError(), service.MEMORY), (KeyError('/srv/secret/file'), service.FAULT)])
def test_every_message_has_the_title_of_its_kind(error, title):
    def fail(): raise error
    with pytest.raises(gr.Error) as told: service.spoken(fail)()
    said = str(told.value).strip("'")
    assert told.value.title == title and said.startswith(f'{title}: ') and 'secret' not in said
    assert re.search(rf'[(|]{title}[|)]', (DEMO/'page.js').read_text()), 'page.js knows it'


def test_files_of_the_server_are_not_served(served):
    url = served[2].rstrip('/')
    for path in ('/etc/passwd', str(DEMO/'app.py'), str(DEMO.parent/'settings.ini')):
        with pytest.raises(urllib.error.HTTPError) as told:
            urllib.request.urlopen(f'{url}/gradio_api/file={path}', timeout=20)
        assert told.value.code in (403, 404)


def test_public_hides_folders():
    assert service.public('/home/me/a b.png') != '/home/me/a b.png'
    assert service.public('File /tmp/gradio/12ab/scene.png is broken.') == 'File scene.png is broken.'
    assert service.public('red/green roof and 1/2 road') == 'red/green roof and 1/2 road'


@pytest.mark.parametrize('path, name', [('/tmp/scene.png', 'scene.png'), ('/srv/a/scene.png', 'scene.png'),
                                        (r'C:\data\scene.png', 'scene.png'), ('/a/b/c/d/e.tif', 'e.tif')])
def test_public_hides_a_folder_of_any_depth(path, name):
    assert service.public(f'File {path} is broken.') == f'File {name} is broken.' and service.public(path) == name


def test_warnings_and_foreseen_errors_name_no_folder(served, pictures):
    out = ground(served[1], scene(pictures['plain']), 'warn')
    told = 'File weights.bin is old, and so is weights.bin.'
    assert out['record']['warnings'] == [told] and told in out['about'] and '/home/me' not in json.dumps(out)
    with pytest.raises(AppError) as e: ground(served[1], scene(pictures['plain']), 'refuse')
    assert 'File weights.bin cannot be read; copy it again.' in str(e.value)


# ---- many visitors -----------------------------------------------------------------------------------------

def test_limits():
    s = app.launch_settings()
    assert s['max_file_size'] == f'{uploads.UPLOAD_MB}mb' and s['show_error'] is False
    assert s['server_name'] == '127.0.0.1' and not s.get('share') and s['allowed_paths'] == [str(DEMO/'examples')]
    assert not any('http' in str(f) for f in (s['theme']._stylesheets, s['css'])), 'works without a network'


def test_what_a_visitor_costs_is_small_and_forgotten(served, pictures):
    import pickle
    shown = ask(Fake(), drawn_on(pictures['large']), 'road\nroof')['shown']
    assert len(pickle.dumps(shown)) < 100_000, 'maps stay in memory, the image does not'
    demo = app.build_demo(Fake())
    states = [block for block in demo.blocks.values() if isinstance(block, gr.State)]
    assert states and all(state.time_to_live == app.FORGET for state in states)
    assert app.launch_settings()['state_session_capacity'] <= 1000 and demo.delete_cache


def test_old_files_leave_the_disk(pictures):
    shown, _, _ = handlers.on_open(str(pictures['sixteen']))
    old = time.time() - uploads.KEPT - 60
    os.utime(shown, (old, old))
    fresh, _, _ = handlers.on_open(str(pictures['sixteen']))
    assert not Path(shown).exists() and Path(fresh).exists()


def test_a_result_whose_image_is_gone_says_so(pictures):
    shown = ask(Fake(), drawn_on(pictures['plain']), 'road')['shown']
    shown.image_path.unlink()
    with pytest.raises(gr.Error, match='press Ground again'): handlers.on_redraw(shown, .5, True, 'road', False)


def wait_for(condition, seconds: float = 60):
    "Wait until a condition holds"
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, 'it never happened'
        time.sleep(.05)


@pytest.mark.parametrize('seconds, said', [(3, '5 seconds'), (31, '35 seconds'), (55, '1 minute'), (150, '3 minutes')])
def test_a_wait_is_said_as_people_say_it(seconds, said): assert service.wait_text(seconds) == said


def test_a_full_queue_says_when_to_come_back(pictures):
    fake = Fake()
    demo = app.build_demo(fake)
    demo.queue(max_size=1)
    service.say_when_busy(demo)
    url = launch(demo)
    try:
        client = Client(url, verbose=False)
        jobs = [client.submit(scene=scene(pictures['plain']), phrases='slow', api_name='/ground') for _ in range(2)]
        wait_for(lambda: fake.calls and len(demo._queue))
        with pytest.raises(urllib.error.HTTPError) as refused: post(url, [NO_SCENE, 'road', *REST])
        fake.go_on.set()
        for job in jobs: job.result(timeout=60)
    finally: demo.close()
    said = json.load(refused.value)['detail']
    assert refused.value.code == 503 and re.search(r'^Busy: 1 request waits.*come back in about \d+ ', said), said


# ---- time left ---------------------------------------------------------------------------------------------

@pytest.mark.parametrize('elapsed, expected, said', [
    (2, 10, 'Loading, about 8 s left'), (10, 10, 'Loading, nearly done'),
    (30, 10, 'Loading, slower than the last time (30 s so far)')])
def test_time_left(elapsed, expected, said): assert grounders.time_left('Loading', elapsed, expected) == said


def test_durations_are_learned(tmp_path):
    kept = grounders.Durations(tmp_path/'seconds.json')
    assert kept.expected('load', 'm') == grounders.FIRST_GUESS['load']
    kept.record('load', 'm', 3.21)
    assert grounders.Durations(tmp_path/'seconds.json').expected('load', 'm') == 3.21
    (tmp_path/'seconds.json').write_text('[broken')
    assert grounders.Durations(tmp_path/'seconds.json').seconds == {}


def test_a_countdown_tells_and_ends():
    heard = []
    with grounders.countdown(lambda share, desc: heard.append((share, desc)), 'Loading', 1.): time.sleep(.7)
    count = len(heard)
    assert count >= 2 and heard[0][1].startswith('Loading') and all(0 <= share < 1 for share, _ in heard)
    time.sleep(.6)
    assert len(heard) == count, 'silent afterwards'


# ---- results again -----------------------------------------------------------------------------------------

def test_sliders_do_not_run_the_model(pictures):
    fake = Fake()
    shown = ask(fake, drawn_on(pictures['plain']), 'a plane, a road')['shown']
    plain, full = (handlers.on_redraw(shown, opacity, True, 'a road', False)[2] for opacity in (0., 1.))
    assert len(fake.calls) == 1 and plain[0] == plain[1] and full[0] != full[1]
    assert views.scale_of(shown, True, 0) == (-.1, .35) and views.scale_of(shown, False, 0)[0] == 0
    assert handlers.on_redraw(None, .5, True, None, False)[0] == gr.skip()


def test_heat_hides_nothing_where_there_is_none(pictures):
    "Where the map is at the foot of the scale, the image is what it was"
    fake = Fake()
    shown = ask(fake, drawn_on(pictures['plain']), 'a plane')['shown']
    heated = np.asarray(views.heat_image(shown, 0, views.Look(common=False)))
    same = (heated == np.asarray(shown.image)).all(2)
    assert same[160:].all() and not same[80:120, :40].all()


def test_the_bar_shows_what_the_heat_looks_like():
    from geoalignclip_nb.viz import blend_heat
    gray = Image.new('RGB', (8, 8), (128, 128, 128))
    for value, color in ((0., views.bar_colors(.8)[0]), (1., views.bar_colors(.8)[-1])):
        seen = np.asarray(blend_heat(gray, np.full((2, 2), value), 0, 1, opacity=.8))[4, 4]
        assert '#%02x%02x%02x' % tuple(seen) == color
    assert views.bar_colors(.8)[0] == '#808080', 'no heat, no color'


def half_found(question, progress):
    "Every second phrase is not found"
    answer = Fake()(question, progress)
    phrases = enumerate(question.phrases)
    answer.result.presence = [Presence(p, .9 - .8 * (i % 2), .4, i % 2 == 0, .9, 120) for i, p in phrases]
    return answer


def asked_for(pictures, **more):
    return ask(half_found, drawn_on(pictures['plain'], (10, 10, 90, 80)), 'road\nzebra <b>', opacity=1., **more)


def test_a_phrase_that_is_not_found_has_no_heat(pictures):
    plain, shown = (asked_for(pictures, show_absent=on)['gallery'] for on in (False, True))
    kept = asked_for(pictures)['shown']
    without = np.asarray(views.draw_boxes(kept.image, kept.boxes))
    assert (np.asarray(plain[1][0]) == without).all() and (np.asarray(shown[1][0]) != without).any()
    assert (np.asarray(plain[0][0]) == np.asarray(shown[0][0])).all() and (np.asarray(plain[0][0]) != without).any()


def test_not_found_is_written_everywhere(pictures):
    out = asked_for(pictures)
    captions = [text for _, text in out['gallery']]
    assert 'not found (presence 0.10, threshold 0.40)' in captions[1] and 'not found' not in captions[0]
    assert out['table']['headers'][3:] == ['road', 'zebra ‹b› (not found)']
    assert '<b>Not found: zebra &lt;b&gt;</b> (at least 90% of present phrases' in out['about']
    record = out['record']
    assert (record['found'], record['presence'], record['threshold']) == ([True, False], [.9, .1], [.4, .4])
    assert views.presence_sentence(out['shown'].result.presence[:1]).startswith('All phrases found')
    assert {row[0] for row in out['places']['data']} <= {'road'}, 'places of a phrase that is not found are not listed'


def test_an_unknown_phrase_has_no_heat_and_a_hint(pictures):
    grounder = grounders.Grounder()
    out = ask(grounder, drawn_on(DEMO/'examples'/'harbour.jpg', (10, 10, 90, 80)), 'ship, shipp, 飞机')
    kept = out['shown']
    for i in (1, 2):
        heat = views.heat_image(kept, i, views.Look(show_absent=True))
        assert (np.asarray(heat) == np.asarray(views.draw_boxes(kept.image, kept.boxes))).all()
        assert 'unknown to the model' in out['gallery'][i][1] and out['table']['data'][0][3 + i] == '–'
    assert 'did you mean ship' in html.unescape(out['about'])


def test_a_model_without_calibration_says_nothing_about_presence(served, pictures):
    out = ground(served[1], scene(pictures['plain']), show_absent=True)
    assert out['record']['found'] == [None, None]
    assert 'ot found' not in out['about'] and 'phrases found' not in out['about']


# ---- places and files --------------------------------------------------------------------------------------

def test_places_in_pixels_and_on_the_map(pictures):
    plain = ask(Fake(), drawn_on(pictures['plain']), 'white plane, road')['places']
    assert plain['headers'] == views.PLACE_HEADS and plain['data'][0][:2] == ['white plane', '0.300']
    out = ask(Fake(), drawn_on(pictures['geo']), 'white plane')
    assert out['places']['headers'][-1] == 'point (EPSG:32633)'
    row = out['places']['data'][0]
    x, y = (float(v) for v in row[2].split(','))
    east, north = (float(v) for v in row[-1].split(','))
    assert 0 <= x <= 25 and 53 <= y <= 80, 'the cell of the spot, in pixels of the image'
    assert abs(east - (500000 + 10 * x)) <= 5 and abs(north - (4600000 - 10 * y)) <= 5


def test_files_hold_the_result(pictures):
    out = ask(Fake(), drawn_on(pictures['geo'], (10, 10, 90, 80)), 'white plane, road')
    files = {Path(f).suffix: Path(f) for f in out['files']}
    assert set(files) == {'.json', '.csv', '.npz', '.geojson'} and files['.json'].name == 'geo_ground.json'
    assert json.loads(files['.json'].read_text())['phrases'] == ['white plane', 'road']
    collection = json.loads(files['.geojson'].read_text())
    assert {feature['properties']['phrase'] for feature in collection['features']} == {'white plane', 'road'}
    with np.load(files['.npz']) as arrays: assert arrays['maps'].shape == (2, 6, 8)
    assert files['.csv'].read_text().count('white plane') >= 2
    assert 'not offered' not in out['saved']


@pytest.mark.parametrize('name, turns, reason', [
    ('plain', 0, 'has no georeference'), ('geo', 1, 'turned on the screen')])
def test_geojson_is_missing_with_a_reason(pictures, name, turns, reason):
    drawn = drawn_on(pictures[name])
    drawn.turns = turns
    out = ask(Fake(), drawn, 'road')
    assert not any(f.endswith('.geojson') for f in out['files']) and reason in out['saved']


def test_the_png_holds_every_phrase(pictures):
    shown = ask(Fake(), drawn_on(pictures['plain']), 'white plane, road, roof')['shown']
    files = handlers.on_png(shown, False)
    assert [Path(f).suffix for f in files] == ['.png', '.json', '.csv', '.npz']
    with Image.open(files[0]) as im: assert im.format == 'PNG' and im.width > 600
    one = handlers.on_png(ask(Fake(), drawn_on(pictures['plain']), 'road')['shown'], False)
    def area(path): return np.prod(Image.open(path).size)
    assert area(files[0]) > area(one[0])
    assert handlers.on_png(None, False) == gr.skip()


@pytest.mark.parametrize('name, stem', [
    ('a b.tif', 'a_b'), ('../../x.png', 'x'), ('.png', '_png'), ('é<i>.jpg', 'é_i_')])
def test_file_names_are_safe(name, stem): assert exports.stem_of(name) == stem


# ---- without the annotator, without a network --------------------------------------------------------------

def test_without_the_annotation_component(pictures, monkeypatch):
    monkeypatch.setattr(adapters, 'image_annotator', None)
    demo = app.build_demo(Fake())
    url = launch(demo)
    try:
        out = ground(Client(url, verbose=False), handle_file(pictures['plain']), typed='10, 20, 110, 120')
        assert out['record']['boxes'] == [[10, 20, 110, 120]]
    finally: demo.close()


def test_no_network_is_said_at_once(monkeypatch):
    from huggingface_hub import constants
    monkeypatch.setattr(constants, 'ENDPOINT', 'http://192.0.2.1')  # an address that never answers (RFC 5737)
    start = time.monotonic()
    assert grounders.network_answers(1.) is False and time.monotonic() - start < 5
    monkeypatch.setattr(grounders, 'network_answers', lambda *a: False)
    monkeypatch.setattr(grounders, 'is_downloaded', lambda name: False)
    with pytest.raises(GeoAlignError, match='no network.*geoalign-tiny'):
        grounders.Grounder().model('ViT-B-16-quickgelu.openai', quiet)


def test_is_downloaded_knows_the_models(monkeypatch):
    import huggingface_hub
    asked = []
    monkeypatch.setattr(huggingface_hub, 'try_to_load_from_cache', lambda repo, name: asked.append(repo))
    models = grounders.MODELS[1:]
    assert not any(grounders.is_downloaded(m) for m in models)
    assert len(set(asked)) == len(models) and all('/' in r for r in asked)


def test_models_are_kept_in_a_small_cache(monkeypatch, tmp_path):
    import geoalignclip_nb.model as m
    made = []
    monkeypatch.setattr(m.GeoAlignCLIP, 'from_pretrained', staticmethod(lambda name, **more: made.append(name) or name))
    monkeypatch.setattr(grounders, 'is_downloaded', lambda name: True)
    g = grounders.Grounder(keep=2, durations=grounders.Durations(tmp_path/'seconds.json'))
    for name in ('a.x', 'b.x', 'a.x', 'c.x', 'a.x', 'b.x'): g.model(name, quiet)
    assert made == ['a.x', 'b.x', 'c.x', 'b.x'] and list(g.models) == ['a.x', 'b.x']


# ---- the real library --------------------------------------------------------------------------------------

@pytest.mark.parametrize('method', METHODS)
def test_with_the_library(method, pictures):
    from geoalignclip_nb.model import GeoAlignCLIP
    grounder = grounders.Grounder()
    grounder.models['geoalign-tiny'] = GeoAlignCLIP.create('vit-tiny')
    out = ask(grounder, drawn_on(pictures['plain'], (10, 10, 90, 80)), 'roof\nroad', method=method)
    assert 'random weights' in out['about'] and len(out['record']['scores']) == 1
    assert out['shown'].result.maps.shape[0] == 2 and (out['shown'].result.kind == 'cosine') == (method == 'similarity')


# ---- examples ----------------------------------------------------------------------------------------------

def test_examples_are_small_and_true():
    examples = gallery.load_examples()
    bundled = [e for e in examples if e.path.parent == gallery.BUNDLED_EXAMPLES]
    assert 4 <= len(bundled) <= 9
    for e in examples:
        assert e.path.stat().st_size < 300_000 and e.phrases and e.label
        width, height = load_image(e.path).size
        assert all(0 <= b[0] < b[2] <= width and 0 <= b[1] < b[3] <= height for b in e.boxes)


def test_the_model_is_right_where_an_example_says_so_and_fails_where_it_says_so():
    "Places lie on what a phrase names, the absent phrase is not found; one example shows a failure and calls it one"
    import make_examples
    from geoalignclip_nb.model import GeoAlignCLIP
    model = GeoAlignCLIP.from_pretrained('geoalign-tiny')
    rows = json.loads((gallery.BUNDLED_EXAMPLES/gallery.LISTING).read_text(encoding='utf-8'))
    assert [row['file'] for row in rows] == [make_examples.file_name(choice) for choice in make_examples.CHOICES]
    for choice, row in zip(make_examples.CHOICES, rows):
        faults = make_examples.check(choice, model, gallery.BUNDLED_EXAMPLES)
        assert row['phrases'] == list(choice.phrases) and row['label'] == choice.label
        assert choice.right != bool(faults), (choice.kind, faults)
        assert ('failure' in choice.label) != choice.right
    assert rows[0]['right'] and not all(row['right'] for row in rows)


def test_own_examples(tmp_path, pictures):
    (tmp_path/'a.tif').write_bytes(pictures['sixteen'].read_bytes())
    rows = [dict(file='a.tif', label='Mine', phrases=['road']), dict(file='gone.tif', label='Gone', phrases=['road'])]
    (tmp_path/'examples.json').write_text(json.dumps(rows))
    found = gallery.load_examples(tmp_path)
    assert [e.label for e in found] == ['Mine'] and found[0].thumbnail.size == (300, 200)
    with pytest.raises(GeoAlignError, match='list of examples'): gallery.load_examples(tmp_path/'none')


# ---- the command -------------------------------------------------------------------------------------------

def free_port() -> int:
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]


def test_a_taken_port_is_one_sentence():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        s.listen()
        with pytest.raises(SystemExit, match='is taken'): app.main(['--port', str(s.getsockname()[1])])


def load_component_files(address: str, page: str) -> int:
    "Ask for the files that a browser loads for custom components; how many there were"
    loaded = 0
    for name in set(re.findall(r'"component_class_id": ?"([0-9a-f]+)"', page)):
        path = f'{address}gradio_api/custom_component/{name}/client/component/index.js'
        try: loaded += bool(urllib.request.urlopen(path, timeout=10).read())
        except urllib.error.HTTPError: continue  # a component of Gradio itself
    return loaded


def test_python_demo_app(tmp_path):
    "`python demo/app.py` answers from any folder on GRADIO_SERVER_PORT, here only, and prints no line per visit"
    port = free_port()
    environment = os.environ | dict(GRADIO_SERVER_PORT=str(port), PYTHONUNBUFFERED='1')
    server = subprocess.Popen([sys.executable, str(DEMO/'app.py')], cwd=tmp_path, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, env=environment)
    address = f'http://127.0.0.1:{port}/'
    try:
        for _ in range(180):
            try:
                page = urllib.request.urlopen(address, timeout=5).read().decode()
                break
            except OSError:
                time.sleep(1)
                assert server.poll() is None, server.stdout.read()
        assert 'GeoAlignCLIP' in page
        assert load_component_files(address, page) or not adapters.has_annotator()
    finally:
        server.terminate()
        said = server.communicate(timeout=60)[0]
    assert f'127.0.0.1:{port}' in said and 'Traceback' not in said, said
    assert 'environment=' not in said and len(said.strip().splitlines()) <= 3, said
