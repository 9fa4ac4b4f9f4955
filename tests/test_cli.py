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


def called(capsys, *words):
    "The same words in this process (no start-up of a second and more): exit code, standard output, standard error"
    from geoalignclip_nb.cli import main
    try: code = main([str(w) for w in words])
    except SystemExit as e: code = e.code
    return (code, *capsys.readouterr())


@pytest.fixture(scope='module')
def scene(tmp_path_factory):
    from geoalignclip_nb.scenes import make_scene
    folder = tmp_path_factory.mktemp('cli')
    sample = make_scene(seed=1, size=320)
    sample.image.crop((0, 0, 320, 240)).save(folder/'scene.png')
    return folder/'scene.png', sample


@pytest.mark.parametrize('verb', [[], ['ground'], ['models'], ['demo'], ['train'], ['ablate']])
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
    'box outside': (['ground', 'scene.png', '--phrases', 'a', '--boxes', '0,0,9,9;900,0,950,50'], "'900,0,950,50' lies outside the picture; x runs from 0 to 320 and y from 0 to 240 (pixels)"),
    'infinite box': (['ground', 'scene.png', '--phrases', 'a', '--boxes', '0,0,inf,nan'], 'finite'),
    'method': (['ground', 'scene.png', '--phrases', 'a', '--method', 'magic'], 'magic'),
    'model': (['ground', 'scene.png', '--phrases', 'a', '--model', 'no-such-model'], 'no-such-model'),
    'folder of --out': (['ground', 'scene.png', '--phrases', 'a', '--out', 'nowhere/a.png'], 'nowhere'),
    'suffix of --out': (['ground', 'scene.png', '--phrases', 'a', '--out', 'a.gif'], 'a.gif'),
    '--out is the picture': (['ground', 'scene.png', '--phrases', 'a', '--out', 'scene.png'], 'scene.png'),
    '--json is a folder': (['ground', 'scene.png', '--phrases', 'a', '--json', '..'], '--json'),
    'suffix of --json': (['ground', 'scene.png', '--phrases', 'a', '--json', 'a.txt'], 'a.txt'),
    'a file as the folder of --out': (['ground', 'scene.png', '--phrases', 'a', '--out', 'scene.png/a.png'], 'is a file'),
    'a folder that refuses': (['ground', 'scene.png', '--phrases', 'a', '--out', '/sys/a.png'] , '/sys'),
    'models': (['models', 'no-such-model'], 'no-such-model'),
    'preset': (['train', 'no-such-preset'], 'no-such-preset'),
    'setting': (['train', 'vit-tiny', 'steps'], 'steps'),
    'unknown setting': (['train', 'vit-tiny', 'no_such_key=1'], 'no_such_key'),
    'processes that are no number': (['train', 'debug', 'processes=two'], 'processes=2'),
    'no processes': (['train', 'debug', 'processes=0'], 'at least 1'),
    'option': (['train', 'debug', 'gather=maybe'], 'gather=false'),
}


def prepare(folder, picture):
    "A folder with a good, a broken and an empty picture; what it holds"
    good = picture.read_bytes()
    for name, data in (('scene.png', good), ('broken.png', good[:200]), ('empty.png', b'')): (folder/name).write_bytes(data)
    return held(folder)


def held(folder): return {p.name: p.read_bytes() for p in folder.iterdir()}


def with_target(words): return words if words[:1] != ['ground'] or '--out' in words else [*words, '--out', 'map.png']


@pytest.mark.parametrize('case', WRONG)
def test_a_mistake_is_one_sentence_and_exit_code_2(case, scene, tmp_path, monkeypatch, capsys):
    words, named = WRONG[case]
    monkeypatch.chdir(tmp_path)
    before = prepare(tmp_path, scene[0])
    code, out, err = called(capsys, *with_target(words))
    assert code == 2 and not out, (code, err)
    said = err.strip()
    assert said.startswith('geoalign') and '\n' not in said and 'Traceback' not in said and named in said, said
    assert held(tmp_path) == before, 'a mistake leaves files'


@pytest.mark.parametrize('case', ['no phrases', 'no picture', 'broken picture'])
def test_a_mistake_in_a_process(case, scene, tmp_path):
    words, named = WRONG[case]
    before = prepare(tmp_path, scene[0])
    done = geoalign(*with_target(words), cwd=tmp_path)
    assert done.returncode == 2 and not done.stdout, done.stderr
    assert named in done.stderr and done.stderr.count('\n') == 1 and held(tmp_path) == before


def test_models(capsys):
    code, out, err = called(capsys, 'models')
    names = [line.split()[0] for line in out.splitlines()[1:]]
    assert code == 0 and names[0] == 'geoalign-tiny' and 'ViT-B-16-quickgelu.openai' in names and len(set(names)) == len(names)
    assert 'ViT-B-16.openai' not in names, 'the right weights with the wrong activation'


def test_models_says_size_and_what_is_on_disk(capsys, tmp_path, monkeypatch):
    "No model is built; an entry's weights are found where the sentence of the zoo says to put them"
    from geoalignclip_nb import zoo
    monkeypatch.setenv('GEOALIGN_CACHE', str(tmp_path))
    monkeypatch.setattr('geoalignclip_nb.architectures.build_clip', None)
    entry = zoo.ENTRIES['ViT-L-14-quickgelu.remoteclip']
    zoo.home(entry).mkdir(parents=True)
    (zoo.home(entry)/'RemoteCLIP-ViT-L-14.pt').write_bytes(b'x' * 3_000_000)
    code, out, err = called(capsys, 'models', '--json')
    rows = {row['name']: row for row in json.loads(out)}
    assert code == 0 and not err
    assert rows['geoalign-tiny']['state'] == 'bundled' and rows['geoalign-tiny']['bytes'] > 1e7
    assert rows['paper-b16']['state'] == 'no published weights' and rows['vhm']['state'] == 'needs a server'
    found = rows['ViT-L-14-quickgelu.remoteclip']
    assert (found['state'], found['bytes'], found['parameters']) == ('cached', 3_000_000, 427_616_513)
    assert rows['ViT-L-14-quickgelu.longclip']['state'] == 'not on disk' and rows['ViT-L-14-quickgelu.longclip']['download'] == '1.71 GB'
    code, out, err = called(capsys, 'models', '*.remoteclip')
    assert '427.6 M' in out and '3 MB' in out and 'RemoteCLIP-ViT-L-14.pt' in out and 'not on disk' in out


def test_models_into_a_closed_pipe(tmp_path):
    done = subprocess.run(f'"{GEOALIGN}" models | head -2', shell=True, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.stdout.splitlines()[1].split()[0] == 'geoalign-tiny' and not done.stderr


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


def test_a_box_over_the_edge_is_cut_and_said(scene, tmp_path, capsys):
    code, out, err = called(capsys, 'ground', scene[0], '--phrases', 'roof', '--boxes', '0,0,400,240;1,1,9,9')
    assert code == 0 and err.count('\n') == 1 and "'0,0,400,240' hangs over the edge" in err and '320 × 240' in err


def test_ground_without_files_prints(scene, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code, out, err = called(capsys, 'ground', scene[0], '--phrases', 'roof;roof of a building', '--model', 'vit-tiny')
    assert code == 0 and 'roof: peak' in out and not list(tmp_path.iterdir())


def test_legrad_without_attention_is_refused_in_one_sentence(scene, tmp_path, capsys):
    code, out, err = called(capsys, 'ground', scene[0], '--phrases', 'roof', '--method', 'legrad', '--json', tmp_path/'a.json')
    assert code == 2 and err.count('\n') == 1 and "legrad needs open_clip's own ViT" in err and not list(tmp_path.glob('a.json'))


@pytest.mark.parametrize('method, model', [('gradcam', 'geoalign-tiny'), ('gradcam', 'vit-tiny'), ('legrad', 'vit-tiny')])
def test_ground_with_other_methods(method, model, scene, tmp_path, capsys):
    words = '--phrases', 'roof;road', '--method', method, '--model', model
    code, out, err = called(capsys, 'ground', scene[0], *words, '--json', tmp_path/'a.json')
    assert code == 0, err
    record = json.loads((tmp_path/'a.json').read_text())
    assert record['kind'] == 'relevance' and record['method'] == method and all(m['minimum'] >= 0 for m in record['maps'])
    assert record['boxes'] == []


def test_ground_with_a_saved_folder(scene, tmp_path, capsys):
    from geoalignclip_nb.model import GeoAlignCLIP
    GeoAlignCLIP.create('vit-tiny', seed=3).save_pretrained(tmp_path/'mine', half=True)
    code, out, err = called(capsys, 'ground', scene[0], '--phrases', 'white plane', '--model', tmp_path/'mine', '--json', tmp_path/'a.json', '--out', tmp_path/'a.png')
    assert code == 0, err
    assert sorted(p.name for p in tmp_path.iterdir()) == ['a.json', 'a.png', 'mine']


def test_a_word_that_the_model_never_learned_is_a_plain_note(scene, capsys):
    code, out, err = called(capsys, 'ground', scene[0], '--phrases', 'zzyzx qwghlm')
    assert code == 0 and '.py' not in err
    assert all(line.startswith('geoalign ground: note: ') for line in err.splitlines())


def test_ground_on_a_real_picture(real_data, tmp_path, capsys):
    path = next((real_data/'scenes').glob('*.jpg'))
    code, out, err = called(capsys, 'ground', path, '--phrases', 'building;runway', '--out', tmp_path/'map.png', '--json', tmp_path/'map.json')
    assert code == 0, err
    with Image.open(path) as im: size = im.size
    record = json.loads((tmp_path/'map.json').read_text())
    assert (record['width'], record['height']) == size and len(record['maps']) == 2


def test_half_of_the_output_is_no_output(scene, tmp_path, monkeypatch, capsys):
    "Where the JSON cannot be written the picture is not written either"
    def full(*a, **k): raise OSError(28, 'No space left on device', 'a.json')
    monkeypatch.setattr('geoalignclip_nb.ground_command.json.dumps', full)
    code, out, err = called(capsys, 'ground', scene[0], '--phrases', 'roof', '--out', tmp_path/'a.png', '--json', tmp_path/'a.json')
    assert code == 2 and 'No space left' in err and not list(tmp_path.iterdir())


def test_choices_are_those_of_the_library():
    "Written out in the command, so that help needs no torch"
    from geoalignclip_nb.bench import embeddings, region_classification, retrieval, runs
    from geoalignclip_nb.bench.evaluation import Settings
    from geoalignclip_nb.cli import BENCH_CHOICES
    from geoalignclip_nb.core import PRECISIONS
    library = dict(task=runs.TASKS, templates=tuple(region_classification.TEMPLATES), view=embeddings.REGION_FEATURES, resize=embeddings.RESIZE_MODES, precision=PRECISIONS,
                   protocol=retrieval.PROTOCOLS, class_vectors=region_classification.AVERAGES, text_head=embeddings.TEXT_HEADS)
    assert {k: set(v) for k, v in BENCH_CHOICES.items()} == {k: set(v) for k, v in library.items()}
    assert all(getattr(Settings(), k) == v[0] for k, v in BENCH_CHOICES.items() if k != 'task')


@pytest.mark.parametrize('flag', ['--templates', '--view', '--region-features', '--resize', '--precision', '--protocol', '--class-vectors', '--text-head'])
def test_a_flag_of_bench_lists_its_choices(flag, capsys):
    code, _, err = called(capsys, 'bench', 'retrieval', '--dataset', 'ucm', flag, 'nonsense')
    assert code == 2 and 'nonsense' in err and 'choose from' in err and err.count('\n') == 1


def test_ctrl_c_is_no_success(capsys, monkeypatch):
    "130, as a shell expects of a process that was interrupted"
    from geoalignclip_nb import model_list
    def interrupted(*a): raise KeyboardInterrupt
    monkeypatch.setattr(model_list, 'list_models', interrupted)
    assert called(capsys, 'models')[0] == 130


@pytest.mark.parametrize('verb', ['sweep', 'matrix'])
def test_a_sweep_with_a_failed_cell_is_no_success(verb, capsys, tmp_path, monkeypatch):
    monkeypatch.setenv('GEOALIGN_DATA', str(tmp_path))
    monkeypatch.setenv('GEOALIGN_CACHE', str(tmp_path/'cache'))
    code, out, err = called(capsys, verb, '--models', 'geoalign-tiny', '--benchmarks', 'retrieval:rsitmd', '--out', tmp_path/'out')
    assert code == 2 and 'get it from' in out and '1 failed' in out and '1 of 1 cells failed' in err


def test_bench_names_its_choices_in_the_result(capsys, tmp_path, monkeypatch):
    from geoalignclip_nb.scenes import make_scenes
    monkeypatch.setenv('GEOALIGN_CACHE', str(tmp_path/'cache'))
    for i, s in enumerate(make_scenes(4, size=64)):
        (tmp_path/'set'/'ab'[i % 2]).mkdir(parents=True, exist_ok=True)
        s.image.save(tmp_path/'set'/'ab'[i % 2]/f'{i}.png')
    words = ['bench', 'scene_classification', '--dataset', 'folder', '--root', tmp_path/'set', '--resize', 'published', '--class-vectors', 'rs5m', '--out', tmp_path/'r.json']
    code, out, err = called(capsys, *words)
    r = json.loads((tmp_path/'r.json').read_text())
    assert code == 0 and r['precision'] in ('fp32', 'bf16') and r['precision_reason'] in out and r['settings']['precision'] == 'auto'
    assert (r['resize_mode'], r['class_vectors'], r['settings']['class_vectors'], r['preprocess']['mode'], r['text_head']) == ('published', 'rs5m', 'rs5m', 'squash', None)
    assert 'protocol' not in r['settings']  # of retrieval alone
    code, _, err = called(capsys, *words[:-2], '--text-head', 'long')
    assert code == 2 and 'one text head' in err


def test_bench_tells_unknown_words_once(capsys, tmp_path, monkeypatch):
    from geoalignclip_nb.scenes import make_scenes
    monkeypatch.setenv('GEOALIGN_CACHE', str(tmp_path/'cache'))
    for i, s in enumerate(make_scenes(6, size=64)):
        (tmp_path/'set'/f'xqzzt{i}wvkkq').mkdir(parents=True)
        s.image.save(tmp_path/'set'/f'xqzzt{i}wvkkq'/'a.png')
    code, out, err = called(capsys, 'bench', 'scene_classification', '--dataset', 'folder', '--root', tmp_path/'set', '--precision', 'fp32')
    assert code == 0 and (out + err).count('cannot read') == 1 and 'distinct texts' in out
