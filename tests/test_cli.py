"""The `geoalign` command as a person meets it: a process, its exit code, its files."""
import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

GEOALIGN = Path(sys.executable).parent/('geoalign.exe' if sys.platform == 'win32' else 'geoalign')


def geoalign(*words, cwd):
    return subprocess.run([str(GEOALIGN), *map(str, words)], cwd=cwd, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope='module')
def scene(tmp_path_factory):
    from geoalignclip_nb.scenes import make_scene
    folder = tmp_path_factory.mktemp('cli')
    sample = make_scene(seed=1, size=320)
    sample.image.crop((0, 0, 320, 240)).save(folder/'scene.png')
    return folder/'scene.png', sample


@pytest.mark.parametrize('verb', [[], ['ground'], ['models'], ['demo'], ['train']])
def test_help(verb, tmp_path):
    done = geoalign(*verb, '--help', cwd=tmp_path)
    assert done.returncode == 0 and 'usage: geoalign' in done.stdout and not done.stderr


def test_help_is_light():
    "Help and a mistyped verb answer without importing torch"
    code = "import sys, geoalignclip_nb.cli as c; c.make_parser().format_help(); print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, '-c', code], capture_output=True, text=True).stdout.strip() == 'False'


WRONG = {
    'no verb': ([], 'VERB'),
    'unknown verb': (['fly'], "'fly'"),
    'no phrases': (['ground', 'scene.png'], '--phrases'),
    'no picture': (['ground', 'nothing.png', '--phrases', 'a'], 'nothing.png'),
    'broken picture': (['ground', 'broken.png', '--phrases', 'a'], 'broken.png'),
    'empty picture': (['ground', 'empty.png', '--phrases', 'a'], 'empty.png'),
    'a folder': (['ground', '.', '--phrases', 'a'], ''),
    'empty phrases': (['ground', 'scene.png', '--phrases', ' ; '], 'phrase'),
    'control characters': (['ground', 'scene.png', '--phrases', '\x01\x02'], 'phrase'),
    'long phrase': (['ground', 'scene.png', '--phrases', 'a ' * 10_001], 'characters'),
    'three numbers': (['ground', 'scene.png', '--phrases', 'a', '--boxes', '1,2,3'], '--boxes'),
    'words as a box': (['ground', 'scene.png', '--phrases', 'a', '--boxes', 'a,b,c,d'], '--boxes'),
    'inverted box': (['ground', 'scene.png', '--phrases', 'a', '--boxes', '9,9,1,1'], 'area'),
    'box outside': (['ground', 'scene.png', '--phrases', 'a', '--boxes', '900,0,950,50'], 'outside'),
    'infinite box': (['ground', 'scene.png', '--phrases', 'a', '--boxes', '0,0,inf,nan'], 'finite'),
    'method': (['ground', 'scene.png', '--phrases', 'a', '--method', 'magic'], 'magic'),
    'model': (['ground', 'scene.png', '--phrases', 'a', '--model', 'no-such-model'], 'no-such-model'),
    'folder of --out': (['ground', 'scene.png', '--phrases', 'a', '--out', 'nowhere/a.png'], 'nowhere'),
    'suffix of --out': (['ground', 'scene.png', '--phrases', 'a', '--out', 'a.gif'], 'a.gif'),
    '--out is the picture': (['ground', 'scene.png', '--phrases', 'a', '--out', 'scene.png'], 'scene.png'),
    'suffix of --json': (['ground', 'scene.png', '--phrases', 'a', '--json', 'a.txt'], 'a.txt'),
    'models': (['models', 'no-such-model'], 'no-such-model'),
    'preset': (['train', 'no-such-preset'], 'no-such-preset'),
    'setting': (['train', 'tiny', 'steps'], 'steps'),
    'unknown setting': (['train', 'tiny', 'no_such_key=1'], 'no_such_key'),
}


@pytest.mark.parametrize('case', WRONG)
def test_a_mistake_is_one_sentence_and_exit_code_2(case, scene, tmp_path):
    words, named = WRONG[case]
    (tmp_path/'scene.png').write_bytes(scene[0].read_bytes())
    (tmp_path/'broken.png').write_bytes(scene[0].read_bytes()[:200])
    (tmp_path/'empty.png').write_bytes(b'')
    before = {p: p.read_bytes() for p in tmp_path.iterdir()}
    done = geoalign(*words, *([] if '--out' in words or words[:1] != ['ground'] else ['--out', 'map.png']), cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    said = done.stderr.strip()
    assert said.startswith('geoalign') and '\n' not in said and 'Traceback' not in said and named in said, said
    assert {p: p.read_bytes() for p in tmp_path.iterdir()} == before, 'a mistake leaves files'


def test_models(tmp_path):
    names = geoalign('models', cwd=tmp_path).stdout.split()
    assert names[0] == 'geoalign-tiny' and 'ViT-B-16-quickgelu.openai' in names and len(set(names)) == len(names)
    assert geoalign('models', 'tiny', cwd=tmp_path).stdout.split() == ['geoalign-tiny']


def test_ground(scene, tmp_path):
    path, sample = scene
    done = geoalign('ground', path, '--phrases', 'white plane;solar panel; white plane', '--boxes', '10,20,110,120;0,0,400,240',
                    '--out', 'map.png', '--json', 'map.json', cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ['map.json', 'map.png']
    Image.open(tmp_path/'map.png').verify()
    record = json.loads((tmp_path/'map.json').read_text(encoding='utf-8'))
    assert record['phrases'] == ['white plane', 'solar panel'] and record['kind'] == 'cosine' and record['model'] == 'geoalign-tiny'
    assert record['boxes'] == [[10, 20, 110, 120], [0, 0, 320, 240]], 'pixels of the picture, cut at its edge'
    assert len(record['scores']) == 2 and all(len(row) == 2 and all(-1 <= s <= 1 for s in row) for row in record['scores'])
    for m, phrase in zip(record['maps'], record['phrases']):
        assert m['phrase'] == phrase and -1 <= m['minimum'] <= m['maximum'] <= 1
        assert 0 <= m['peak'][0] <= 320 and 0 <= m['peak'][1] <= 240


def test_ground_without_files_prints(scene, tmp_path):
    done = geoalign('ground', scene[0], '--phrases', 'roof', cwd=tmp_path)
    assert done.returncode == 0 and 'roof: peak' in done.stdout and not list(tmp_path.iterdir())


@pytest.mark.parametrize('method', ['gradcam', 'legrad'])
def test_ground_with_other_methods(method, scene, tmp_path):
    done = geoalign('ground', scene[0], '--phrases', 'roof;road', '--method', method, '--json', 'a.json', cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path/'a.json').read_text())
    assert record['kind'] == 'relevance' and record['method'] == method and all(m['minimum'] >= 0 for m in record['maps'])
    assert record['boxes'] == []


def test_ground_on_a_real_picture(real_data, tmp_path):
    path = next((real_data/'scenes').glob('*.jpg'))
    done = geoalign('ground', path, '--phrases', 'building;runway', '--out', 'map.png', '--json', 'map.json', cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    width, height = Image.open(path).size
    record = json.loads((tmp_path/'map.json').read_text())
    assert (record['width'], record['height']) == (width, height) and len(record['maps']) == 2


def test_unwritable_folder(scene, tmp_path):
    "Half of the output is no output: where the JSON cannot be written the picture is not written either"
    (tmp_path/'a.json').mkdir()
    done = geoalign('ground', scene[0], '--phrases', 'roof', '--out', 'a.png', '--json', 'a.json', cwd=tmp_path)
    assert done.returncode == 2 and [p.name for p in tmp_path.iterdir()] == ['a.json']
