"""The demo behind its page: adapters of the annotator, every mistake as one sentence, the `/ground` endpoint through `gradio_client`."""
import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

DEMO = Path(__file__).resolve().parent.parent/'demo'
sys.path.insert(0, str(DEMO))

import adapters
import app
import gradio as gr
from geoalignclip_nb.core import GeoAlignError
from geoalignclip_nb.ground import GroundResult
from geoalignclip_nb.presence import Presence
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError


class Fake:
    "A grounder that needs no weights: the heat of phrase i is a spot in column i; scores rise along the phrases"
    def __init__(self): self.calls = []

    def __call__(self, name, image, phrases, boxes, method, progress):
        self.calls.append(dict(name=name, size=image.size, phrases=phrases, boxes=boxes, method=method, image=image))
        if phrases[0] == 'warn': warnings.warn('File /data/weights.bin is old, and so is /home/me/models/tiny/weights.bin.')
        if phrases[0] == 'refuse': raise GeoAlignError('File /data/weights.bin cannot be read, nor /home/me/models/tiny/weights.bin; copy it again.')
        if phrases[0] == 'explode': raise RuntimeError(f'broken at {Path(__file__).resolve()} line 1')
        maps = np.zeros((len(phrases), 6, 8), np.float32)
        for i in range(len(phrases)): maps[i, 2, i % 8] = .3
        scores = np.zeros((0, len(phrases))) if boxes is None else np.tile(np.linspace(.1, .3, len(phrases)), (len(boxes), 1))
        kind = 'cosine' if method == 'similarity' else 'relevance'
        return GroundResult(maps, scores, boxes, phrases, kind, method, name, image, (-.1, .4)), 'trained'


def launch(demo) -> str:
    "Address of the running demo. Gradio's own look at its page gives up after seconds, which a busy machine may need; the tests look themselves"
    import gradio.networking
    before, gradio.networking.url_ok = gradio.networking.url_ok, lambda url: True
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


@pytest.fixture(scope='module')
def pictures(tmp_path_factory):
    "Name -> file: what people upload"
    folder, noise = tmp_path_factory.mktemp('pictures'), np.random.default_rng(0)
    rgb = noise.integers(0, 255, (240, 320, 3), dtype=np.uint8)
    Image.fromarray(rgb).save(folder/'plain.png')
    Image.fromarray(rgb[:, :150]).save(folder/'portrait.jpg')
    Image.fromarray(rgb).save(folder/'rgba.png')
    Image.fromarray(noise.integers(900, 4000, (200, 300), dtype=np.uint16)).save(folder/'sixteen.tif')
    turned = Image.Exif(); turned[274] = 6
    Image.fromarray(rgb).save(folder/'phone.jpg', exif=turned)
    Image.new('RGB', (6000, 4000), (90, 110, 80)).save(folder/'large.jpg')
    (folder/'broken.png').write_bytes((folder/'plain.png').read_bytes()[:300])
    (folder/'empty.png').write_bytes(b'')
    (folder/'text.png').write_text('not a picture')
    return {f.stem: f for f in folder.iterdir()}


def scene(path, boxes=(), **more): return dict(image=handle_file(path), boxes=[dict(zip(('xmin', 'ymin', 'xmax', 'ymax'), b)) for b in boxes], **more)


def ground(client, value, phrases='white plane\nroad', **more):
    "The eight outputs of `/ground` by name"
    out = client.predict(scene=value, phrases=phrases, api_name='/ground', **more)
    return dict(zip(('gallery', 'bar', 'picker', 'slider', 'table', 'hint', 'about', 'record'), out))


# ---- adapters: the five traps -------------------------------------------------------------------------------------------------

needs_annotator = pytest.mark.skipif(not adapters.has_annotator(), reason='gradio_image_annotation is not installed')


@needs_annotator
def test_colours_survive_the_way_back(pictures):
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
    x1, y1, x2, y2 = [(10, 5, 30, 15), (h - 15, 10, h - 5, 30), (w - 30, h - 15, w - 10, h - 5), (5, w - 30, 15, w - 10)][turns]
    assert (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1) == (x1, y1, x2, y2)


def test_boxes_are_put_in_order():
    boxes, dropped = adapters.tidy_boxes([(90, 80, 50, 60), (-5, -5, 20, 20), (30, 5, 400, 9), (10, 10, 11, 50), (500, 500, 600, 600), (50, 60, 90, 80)], 100, 100)
    assert boxes.tolist() == [[0, 0, 20, 20], [30, 5, 100, 9], [50, 60, 90, 80]] and dropped == 3
    assert adapters.tidy_boxes([], 10, 10)[0].shape == (0, 4)
    with pytest.raises(GeoAlignError, match='boxes'): adapters.tidy_boxes([(i, 0, i + 3, 5) for i in range(100)], 1000, 10)


@needs_annotator
def test_nothing_is_changed_in_place(pictures):
    value = adapters.scene_value(pictures['plain'], [(1, 2, 30, 40)])
    before = json.dumps(value)
    adapters.scene_input(value)
    assert json.dumps(value) == before
    assert adapters.scene_value(pictures['plain'])['boxes'] is not adapters.scene_value(pictures['plain'])['boxes']


@pytest.mark.parametrize('box', [{}, dict(xmin=1, ymin=2, xmax=3), dict(xmin='a', ymin=1, xmax=2, ymax=3), dict(xmin=float('nan'), ymin=1, xmax=2, ymax=3), None, 'box'])
def test_a_box_without_four_numbers_is_refused(box):
    with pytest.raises(GeoAlignError, match='numbers|number'): adapters.box_numbers(box)


@pytest.mark.parametrize('turns', [float('nan'), float('inf'), 1.5, 'up', None])
def test_an_orientation_is_a_whole_number(turns):
    with pytest.raises(GeoAlignError, match='quarter turns'): adapters.quarter_turns(turns)
    assert [adapters.quarter_turns(t) for t in (0, 5, -1, 2.)] == [0, 1, 3, 2]


def test_scale_factor(): assert adapters.box_numbers(dict(xmin=10, ymin=20, xmax=30, ymax=40, scaleFactor=.5)) == [20, 40, 60, 80]


def test_typed_boxes():
    assert adapters.typed_boxes('1, 2, 3, 4\n(5 6 7.5 8);\n') == [[1, 2, 3, 4], [5, 6, 7.5, 8]] and adapters.typed_boxes('') == []
    for wrong in ('1,2,3', 'a,b,c,d', '1,2,3,inf', '🛩'):
        with pytest.raises(GeoAlignError, match='not a box'): adapters.typed_boxes(wrong)


# ---- the endpoint -------------------------------------------------------------------------------------------------------------

def test_one_public_endpoint_with_plain_inputs(served):
    named = served[1].view_api(return_format='dict')['named_endpoints']
    assert list(named) == ['/ground']
    assert [p['parameter_name'] for p in named['/ground']['parameters']] == ['scene', 'phrases', 'method', 'model', 'opacity', 'common', 'typed', 'show_absent']


def test_ground(served, pictures):
    fake, client, _ = served
    out = ground(client, scene(pictures['plain'], [(150, 100, 50, 20), (0, 0, 160, 1), (160, 120, 400, 400)]))
    call = fake.calls[-1]
    assert call['phrases'] == ['white plane', 'road'] and call['size'] == (320, 240) and call['name'] == 'geoalign-tiny'
    assert np.allclose(call['boxes'], [[50 / 320, 20 / 240, 150 / 320, 100 / 240], [.5, .5, 1, 1]])
    record = out['record']
    assert record['boxes'] == [[50, 20, 150, 100], [160, 120, 320, 240]] and record['model'] == 'geoalign-tiny' and record['weights'] == 'trained'
    assert len(out['gallery']) == 2 and 'white plane' in out['gallery'][0]['caption']
    assert out['table']['headers'] == ['#', 'box (px)', 'best match', 'white plane', 'road']
    assert out['table']['data'][0] == ['1', '50, 20 – 150, 100', 'road', '0.100', '★ 0.300']
    for said in ('geoalign-tiny', 'trained weights', '8 × 6 cells', 'cosine above “background” 0.000 … 0.300', 'not detection', 'left out'): assert said in out['about'], said
    assert '-0.100' in out['bar'] and '0.400' in out['bar'] and 'one scale' in out['bar']


def test_the_bundled_model_behind_the_endpoint():
    "No stand-in: the weights that ship with the package, asked the way a program asks"
    demo = app.build_demo()
    try:
        out = ground(Client(launch(demo), verbose=False), scene(DEMO/'examples'/'harbour.jpg', [(10, 10, 120, 120)]), 'ship; a zebra crossing')
    finally: demo.close()
    record = out['record']
    assert record['model'] == 'geoalign-tiny' and record['weights'] == 'trained' and len(record['boxes']) == 1
    assert all(np.isfinite([m['minimum'], m['maximum'], *m['peak']]).all() for m in record['maps']) and len(out['gallery']) == 2


def test_no_box_is_fine(served, pictures):
    out = ground(served[1], scene(pictures['plain']), 'white plane; 🛩 plane\n\nwhite plane')
    assert out['record']['phrases'] == ['white plane', '🛩 plane'] and out['table']['data'] == [] and 'No box' in out['hint']


def test_scales(served, pictures):
    own = ground(served[1], scene(pictures['plain']), common=False)
    assert 'its own range' in own['bar']
    other = ground(served[1], scene(pictures['plain']), method='gradcam')
    assert 'relevance' in other['about'] and 'gradcam relevance' in other['bar']


@pytest.mark.parametrize('name, size', [('portrait', (150, 240)), ('rgba', (320, 240)), ('sixteen', (300, 200)), ('phone', (240, 320)), ('large', (6000, 4000))])
def test_any_picture(served, pictures, name, size):
    out = ground(served[1], scene(pictures[name], [(10, 10, 60, 90)]))
    assert served[0].calls[-1]['size'] == size and (out['record']['width'], out['record']['height']) == size
    assert out['record']['boxes'] == [[10, 10, 60, 90]]
    with Image.open(out['gallery'][0]['image']) as shown: assert max(shown.size) <= app.SHOWN and (shown.width > shown.height) == (size[0] > size[1])
    if name == 'sixteen': assert np.asarray(served[0].calls[-1]['image']).std() > 30, 'stretched, not clipped to white'


def test_typed_and_turned(served, pictures):
    out = ground(served[1], scene(pictures['plain'], orientation=1), typed='10, 20, 110, 220')
    assert served[0].calls[-1]['size'] == (240, 320) and out['record']['boxes'] == [[10, 20, 110, 220]]


def test_opened_files_count_in_their_own_pixels(pictures, monkeypatch):
    "A TIFF or huge picture is shown as a small PNG; boxes are told in pixels of the original"
    monkeypatch.setattr(app, 'PREVIEW', 150)
    fake = Fake()
    on_ground, on_open, on_upload = app.make_handlers(fake)
    value, note = on_open(str(pictures['sixteen']))
    path = Path(value['image'] if adapters.has_annotator() else value)
    with Image.open(path) as im: assert im.size == (150, 100) and im.format == 'PNG'
    drawn = adapters.Scene(path, path.name, [dict(xmin=15, ymin=10, xmax=75, ymax=50)])
    record = on_ground(drawn, 'road', 'similarity', 'm', .5, True, '', note, progress=lambda *a, **k: None)[7]
    assert record['boxes'] == [[30, 20, 150, 100]] and (record['width'], record['height']) == (300, 200)
    assert on_upload(adapters.Scene(pictures['sixteen'], 'sixteen.tif'))[1]['seen'] == (150, 100)
    assert on_upload(adapters.Scene(pictures['plain'], 'plain.png'))[1] is None, 'the browser shows it as it is'


MISTAKES = {
    'empty phrases': (dict(phrases=' \n ; '), 'No phrase'),
    'control characters': (dict(phrases='\x01\x02'), 'phrase'),
    'long phrase': (dict(phrases='a ' * 10_001), 'characters'),
    'many phrases': (dict(phrases='\n'.join(f'plane {i}' for i in range(99))), '99 phrases'),
    'broken picture': (dict(name='broken'), 'broken.png'),
    'empty picture': (dict(name='empty'), 'empty.png'),
    'no picture at all': (dict(name='text'), 'text.png'),
    'no scene': (dict(name=None), 'no picture'),
    'box without a corner': (dict(boxes=[(1, 2, 3)]), 'xmax'),
    'boxes that are no list': (dict(raw=dict(boxes='everywhere')), 'not a list'),
    'box of a huge number': (dict(raw=dict(boxes=[dict(xmin=10**400, ymin=0, xmax=1, ymax=1)])), 'number'),
    'orientation that is no turn': (dict(raw=dict(orientation='up')), 'quarter turns'),
    'typed words': (dict(typed='left of the plane'), 'not a box'),
    'typed three numbers': (dict(typed='1,2,3'), 'not a box'),
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


def test_scene_without_a_picture(served):
    with pytest.raises((AppError, ValueError), match='no picture'): ground(served[1], dict(image=None, boxes=[]))


def test_too_many_pixels(served, pictures, monkeypatch):
    monkeypatch.setattr(app, 'PIXELS', 1_000_000)
    with pytest.raises(AppError, match='large.jpg.*million'): ground(served[1], scene(pictures['large']))


def test_too_many_bytes(served, tmp_path):
    with open(tmp_path/'huge.tif', 'wb') as f: f.truncate(100 * 2**20 + 1)
    with pytest.raises(Exception, match='(?i)size|large|exceed'): ground(served[1], scene(tmp_path/'huge.tif'))


def test_files_of_the_server_are_not_served(served):
    url = served[2].rstrip('/')
    for path in ('/etc/passwd', str(DEMO/'app.py'), str(DEMO.parent/'settings.ini')):
        with pytest.raises(urllib.error.HTTPError) as told: urllib.request.urlopen(f'{url}/gradio_api/file={path}', timeout=20)
        assert told.value.code in (403, 404)


def test_public_hides_folders():
    assert app.public('/home/me/a b.png') != '/home/me/a b.png' and app.public("File /tmp/gradio/12ab/scene.png is broken.") == 'File scene.png is broken.'
    assert app.public('red/green roof and 1/2 road') == 'red/green roof and 1/2 road'


@pytest.mark.parametrize('path, name', [('/tmp/scene.png', 'scene.png'), ('/srv/a/scene.png', 'scene.png'), (r'C:\data\scene.png', 'scene.png'), ('/a/b/c/d/e.tif', 'e.tif')])
def test_public_hides_a_folder_of_any_depth(path, name):
    assert app.public(f'File {path} is broken.') == f'File {name} is broken.' and app.public(path) == name


def test_warnings_and_foreseen_errors_name_no_folder(served, pictures):
    out = ground(served[1], scene(pictures['plain']), 'warn')
    told = 'File weights.bin is old, and so is weights.bin.'
    assert out['record']['warnings'] == [told] and told in out['about'] and '/home/me' not in json.dumps(out)
    with pytest.raises(AppError) as e: ground(served[1], scene(pictures['plain']), 'refuse')
    assert 'File weights.bin cannot be read, nor weights.bin; copy it again.' in str(e.value)


def test_limits():
    s = app.launch_settings()
    assert s['max_file_size'] == '100mb' and s['server_name'] == '127.0.0.1' and s['show_error'] is False and not s.get('share')
    assert s['allowed_paths'] == [str(DEMO/'examples')]
    assert not any('http' in str(f) for f in (s['theme']._stylesheets, s['css'])), 'works without a network'


def test_sliders_do_not_run_the_model(pictures):
    fake = Fake()
    on_ground, *_ = app.make_handlers(fake)
    shown = on_ground(adapters.Scene(pictures['plain'], 'plain.png'), 'a\nb', 'similarity', 'm', .5, True, '', None, progress=lambda *a, **k: None)[-1]
    plain, full = (app.render(shown, o, True, 'b')[2] for o in (0., 1.))
    assert len(fake.calls) == 1 and plain[0] == plain[1] and full[0] != full[1]
    assert app.scale_of(shown, True, 0) == (-.1, .4) and app.scale_of(shown, False, 0)[0] == 0
    assert app.render(None, .5, True, None)[0] == gr.skip()


# ---- without the annotator, without a network -----------------------------------------------------------------------------------

def test_without_the_annotation_component(pictures, monkeypatch):
    monkeypatch.setattr(adapters, 'image_annotator', None)
    fake = Fake()
    demo = app.build_demo(fake)
    url = launch(demo)
    try:
        out = ground(Client(url, verbose=False), handle_file(pictures['plain']), typed='10, 20, 110, 120')
        assert out['record']['boxes'] == [[10, 20, 110, 120]]
    finally: demo.close()


def test_no_network_is_said_at_once(served, pictures, monkeypatch):
    from huggingface_hub import constants
    monkeypatch.setattr(constants, 'ENDPOINT', 'http://192.0.2.1')  # an address that never answers (RFC 5737)
    start = time.monotonic()
    assert app.network_answers(1.) is False and time.monotonic() - start < 5
    monkeypatch.setattr(app, 'network_answers', lambda *a: False)
    monkeypatch.setattr(app, 'is_downloaded', lambda name: False)
    with pytest.raises(GeoAlignError, match='no network.*geoalign-tiny'): app.Grounder().model('ViT-B-16-quickgelu.openai', lambda *a, **k: None)


def test_is_downloaded_knows_the_models(monkeypatch, tmp_path):
    import huggingface_hub
    asked = []
    monkeypatch.setattr(huggingface_hub, 'try_to_load_from_cache', lambda repo, name: asked.append(repo))
    assert not any(app.is_downloaded(m) for m in app.MODELS[1:]) and len(set(asked)) == len(app.MODELS) - 1 and all('/' in r for r in asked)


def test_models_are_kept_in_a_small_cache(monkeypatch):
    import geoalignclip_nb.model as m
    made = []
    monkeypatch.setattr(m.GeoAlignCLIP, 'from_pretrained', staticmethod(lambda name, **more: made.append(name) or name))
    monkeypatch.setattr(app, 'is_downloaded', lambda name: True)
    g, quiet = app.Grounder(keep=2), lambda *a, **k: None
    for name in ('a.x', 'b.x', 'a.x', 'c.x', 'a.x', 'b.x'): g.model(name, quiet)
    assert made == ['a.x', 'b.x', 'c.x', 'b.x'] and list(g.models) == ['a.x', 'b.x']


# ---- not found ------------------------------------------------------------------------------------------------------------------

def half_found(name, image, phrases, boxes, method, progress):
    "Every second phrase is not found"
    result, weights = Fake()(name, image, phrases, boxes, method, progress)
    result.presence = [Presence(p, .9 - .8 * (i % 2), .4, i % 2 == 0, .9, 120) for i, p in enumerate(phrases)]
    return result, weights


def asked_for(pictures, **more):
    on_ground, *_ = app.make_handlers(half_found)
    drawn = adapters.Scene(pictures['plain'], 'plain.png', [dict(xmin=10, ymin=10, xmax=90, ymax=80)])
    return on_ground(drawn, 'road\nzebra <b>', 'similarity', 'm', 1., True, '', None, progress=lambda *a, **k: None, **more)


def test_a_phrase_that_is_not_found_has_no_heat(pictures):
    plain, shown = asked_for(pictures), asked_for(pictures, show_absent=True)
    without = np.asarray(app.draw_boxes(plain[8]['image'], plain[8]['boxes']))
    assert (np.asarray(plain[0][1][0]) == without).all() and (np.asarray(shown[0][1][0]) != without).any()
    assert (np.asarray(plain[0][0][0]) == np.asarray(shown[0][0][0])).all() and (np.asarray(plain[0][0][0]) != without).any(), 'a found phrase keeps its heat'


def test_not_found_is_written_everywhere(pictures):
    gallery, _, _, _, table, _, about, record, shown = asked_for(pictures)
    assert 'not found (presence 0.10, threshold 0.40)' in gallery[1][1] and 'not found' not in gallery[0][1]
    assert table['headers'][3:] == ['road', 'zebra <b> (not found)']
    assert '**Not found: zebra &lt;b&gt;** (at least 90% of present phrases' in about
    assert (record['found'], record['presence'], record['threshold'], record['coverage']) == ([True, False], [.9, .1], [.4, .4], .9)
    assert app.presence_sentence(dict(presence=shown['presence'][:1])).startswith('  \nAll phrases found')


def test_a_model_without_calibration_says_nothing_about_presence(served, pictures):
    out = ground(served[1], scene(pictures['plain']), show_absent=True)
    assert out['record']['found'] == [None, None] and 'ot found' not in out['about'] and 'phrases found' not in out['about'] and 'not found' not in str(out['gallery'])


# ---- the real library -----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('method', app.METHODS)
def test_with_the_library(method, pictures):
    from geoalignclip_nb.ground import METHODS
    from geoalignclip_nb.model import GeoAlignCLIP
    assert tuple(METHODS)[:len(app.METHODS)] == app.METHODS
    grounder = app.Grounder()
    grounder.models['geoalign-tiny'] = GeoAlignCLIP.create('vit-tiny')
    on_ground, *_ = app.make_handlers(grounder)
    drawn = adapters.Scene(pictures['plain'], 'plain.png', [dict(xmin=10, ymin=10, xmax=90, ymax=80)])
    out = on_ground(drawn, 'roof\nroad', method, 'geoalign-tiny', .5, True, '', None, progress=lambda *a, **k: None)
    assert 'random weights' in out[6] and len(out[7]['scores']) == 1 and out[8]['maps'].shape[0] == 2
    assert (out[8]['kind'] == 'cosine') == (method == 'similarity')


def test_examples_are_small_and_true():
    examples = app.load_examples()
    assert 4 <= len(examples) <= 8
    for e in examples:
        assert e['path'].stat().st_size < 200_000 and e['phrases'] and e['label']
        with Image.open(e['path']) as im: w, h = im.size
        assert all(0 <= b[0] < b[2] <= w and 0 <= b[1] < b[3] <= h for b in e['boxes'])


# ---- the command ----------------------------------------------------------------------------------------------------------------

def free_port() -> int:
    with socket.socket() as s: s.bind(('127.0.0.1', 0)); return s.getsockname()[1]


def test_a_taken_port_is_one_sentence(monkeypatch):
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0)); s.listen()
        with pytest.raises(SystemExit, match='is taken'): app.main(['--port', str(s.getsockname()[1])])


def test_python_demo_app(tmp_path):
    "`python demo/app.py` from any folder answers on GRADIO_SERVER_PORT, on this computer only"
    port = free_port()
    server = subprocess.Popen([sys.executable, str(DEMO/'app.py')], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                              env=os.environ | dict(GRADIO_SERVER_PORT=str(port), PYTHONUNBUFFERED='1'))
    try:
        for _ in range(180):
            try: page = urllib.request.urlopen(f'http://127.0.0.1:{port}/', timeout=5).read().decode(); break
            except OSError: time.sleep(1); assert server.poll() is None, server.stdout.read()
        assert 'GeoAlignCLIP' in page
    finally:
        server.terminate()
        said = server.communicate(timeout=60)[0]
    assert f'127.0.0.1:{port}' in said and 'Traceback' not in said, said
