"""Embeddings that are kept, evaluators, result files and the sweep."""
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from geoalignclip_nb.bench import runs
from geoalignclip_nb.bench.datasets import BenchSet
from geoalignclip_nb.bench.embeddings import Embedder, pictures_hash, read_ahead, weights_hash
from geoalignclip_nb.bench.evaluation import Question, Settings, evaluate, evaluate_multiple_choice
from geoalignclip_nb.cli import main
from geoalignclip_nb.core import GeoAlignError, Region, Sample
from geoalignclip_nb.model import GeoAlignCLIP
from geoalignclip_nb.scenes import make_scenes


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch): monkeypatch.setenv('GEOALIGN_CACHE', str(tmp_path/'cache'))


@pytest.fixture(scope='module')
def model(): return GeoAlignCLIP.create('geoalign-debug', seed=0)


@pytest.fixture
def folder(tmp_path):
    "A folder of classes with procedural pictures"
    for i, s in enumerate(make_scenes(6, size=96)):
        place = tmp_path/'set'/('park', 'beach', 'bridge')[i % 3]
        place.mkdir(parents=True, exist_ok=True)
        s.image.save(place/f'{i}.png')
    return tmp_path/'set'


class Counting(torch.nn.Module):
    "A model that counts how often its picture tower is asked"
    def __init__(self, model): super().__init__(); self.model, self.calls, self.checkpoint = model, 0, 'a' * 64
    def __getattr__(self, name):
        try: return super().__getattr__(name)
        except AttributeError: return getattr(super().__getattr__('model'), name)
    def encode_image(self, images): self.calls += 1; return self.model.encode_image(images)
    def encode_regions(self, *a): self.calls += 1; return self.model.encode_regions(*a)


def test_another_template_asks_the_picture_tower_nothing(model, folder, tmp_path):
    counting = Counting(model)
    items = runs.open_set('scene_classification', 'folder', folder)
    for templates in ('plain', 'aerial', 'skyscript'): evaluate(counting, items, 'scene_classification', Settings(templates, cache=str(tmp_path/'kept')))
    assert counting.calls == 1


def test_another_resolution_mode_precision_or_checkpoint_is_another_file(model, folder, tmp_path):
    samples, kept = runs.open_set('scene_classification', 'folder', folder).samples, tmp_path/'kept'
    def n(**k): Embedder(model, **({'cache': kept, 'precision': 'fp32'} | k)).images(samples); return len(list(kept.iterdir()))
    assert n() == 1 and n() == 1 and n(precision='bf16') == 2 and n(resize='longest') == 3
    model.preprocess.size, old = 128, model.preprocess.size
    assert n() == 4
    model.preprocess.size = old
    Embedder(GeoAlignCLIP.create('geoalign-debug', seed=1), cache=kept).images(samples)
    assert len(list(kept.iterdir())) == 5
    Embedder(model, cache=kept, precision='fp32', size=32).images(samples)
    assert len(list(kept.iterdir())) == 6


def test_a_replaced_picture_is_embedded_again(model, tmp_path):
    path = tmp_path/'a.png'
    Image.new('RGB', (40, 40), 'red').save(path)
    sample, embed = [Sample(str(path), id='a')], Embedder(model, cache=tmp_path/'kept', precision='fp32')
    before = embed.images(sample)[0]
    Image.effect_noise((48, 40), 80).convert('RGB').save(path)
    after = embed.images(sample)[0]
    assert not torch.equal(before, after)
    assert torch.allclose(after, model.encode_image([path]), atol=1e-5)


def test_boxes_in_the_padded_mode_lie_where_the_picture_does(model):
    s = make_scenes(1, size=128)[0]
    wide = Sample(s.image.crop((0, 0, 128, 64)), id='w')
    got = Embedder(model, 'longest', 'fp32').boxes([wide], [[(0, 0, 1, 1)]])[0]
    frame = Embedder(model, 'longest').preprocess
    x1, y1, x2, y2 = frame.frame(128, 64)
    want = model.encode_regions(torch.stack([frame(wide.image)]), torch.tensor([[0, x1, y1, x2, y2]]))
    assert y1 > 0 and torch.allclose(got, want, atol=1e-5)


def test_hash_of_weights_sees_a_single_number(model):
    other = GeoAlignCLIP.create('geoalign-debug', seed=0)
    assert weights_hash(other) == weights_hash(model)
    with torch.no_grad(): other.clip.token_embedding.weight[0, 0] += 1
    assert weights_hash(other) != weights_hash(model)


def test_pictures_hash_sees_boxes_move_between_pictures():
    samples = make_scenes(2, size=64)
    assert pictures_hash(samples, [[(0, 0, 1, 1)], []]) != pictures_hash(samples, [[], [(0, 0, 1, 1)]])


def test_read_ahead_does_not_hide_a_fault_of_ours():
    with pytest.raises(ZeroDivisionError): list(read_ahead([1, 0], lambda i: 1 / i))


def test_an_unreadable_picture_is_counted_and_the_rest_is_judged(model, folder):
    (folder/'park'/'0.png').write_bytes(b'no picture')
    got = runs.run_benchmark('scene_classification', 'folder', model, folder, quiet=True)
    assert got['n'] == 5 and got['skipped'] == {'unreadable picture': 1}


def test_a_result_holds_what_the_house_asks_for(model, folder, tmp_path):
    runs.run_benchmark('scene_classification', 'folder', model, folder, out=tmp_path/'r.json', quiet=True)
    r = json.loads((tmp_path/'r.json').read_text())
    assert set('task dataset split n skipped model checkpoint resolution context_length resize_mode templates metrics ci95 seconds device versions seed'.split()) <= set(r)
    assert r['resolution'] == 64 and r['context_length'] == 248 and r['resize_mode'] == 'squash' and r['checkpoint'] == weights_hash(model)
    assert set(r['metrics']) == set(r['ci95']) == {'acc1', 'acc5', 'acc1_macro'} and all(v['ci95'] is None or v['ci95'][0] <= v['acc1'] <= v['ci95'][1] for v in r['details']['per_class'].values())


def test_a_failing_run_leaves_no_file(model, folder, tmp_path):
    for wrong in (dict(settings=Settings(templates='no such set')), dict(settings=Settings(precision='int8')), dict(root=tmp_path/'nothing')):
        with pytest.raises(GeoAlignError): runs.run_benchmark('scene_classification', 'folder', model, **({'root': folder, 'out': tmp_path/'r.json', 'quiet': True} | wrong))
    assert not list(tmp_path.glob('*r*.json'))


def test_a_matrix_goes_on_and_names_what_fails(model, folder, tmp_path):
    job = dict(models=[model, 'no-such-model'], benchmarks=[('scene_classification', 'folder', 'all'), ('retrieval', 'rsitmd', None)], out=tmp_path/'out', roots=dict(folder=folder, rsitmd=tmp_path/'nothing'), quiet=True)
    first = runs.run_matrix(**job)
    assert [len(first[k]) for k in ('done', 'kept', 'failed')] == [1, 0, 3]
    assert any('no-such-model' in v for v in first['failed'].values()) and any('rsitmd' in v for v in first['failed'].values())
    path = tmp_path/'out'/first['done'][0]
    before = path.read_bytes()
    assert runs.run_matrix(**job)['kept'] == first['done'] and path.read_bytes() == before
    path.write_bytes(before[:50])  # a file that was cut off is computed again
    again = runs.run_matrix(**job)
    assert again['done'] == first['done'] and json.loads(path.read_text())['metrics'] == json.loads(before)['metrics']


def test_a_result_with_other_settings_is_not_taken_for_this_one(model, folder, tmp_path):
    job = dict(models=[model], benchmarks=[('scene_classification', 'folder', 'all')], out=tmp_path, roots=dict(folder=folder), quiet=True)
    runs.run_matrix(**job)
    got = runs.run_matrix(**job, settings=Settings('plain'))
    assert not got['done'] and 'other settings' in next(iter(got['failed'].values()))


def test_settings_that_a_task_does_not_read_do_not_matter_and_sentences_do(model, folder, tmp_path, monkeypatch):
    from geoalignclip_nb.bench import region_classification
    scenes, boxes = Settings('plain', view='crop', limit=3), runs.settings_of(Settings('skyscript'), 'region_classification')
    assert runs.settings_of(scenes, 'scene_classification') == runs.settings_of(Settings('plain'), 'scene_classification') and 'templates' not in runs.settings_of(scenes, 'retrieval')
    assert boxes['templates'] == ['a satellite photo of {}.', 'a satellite image of {}']
    job = dict(models=[model], benchmarks=[('scene_classification', 'folder', 'all')], out=tmp_path/'out', roots=dict(folder=folder), quiet=True)
    done, = runs.run_matrix(**job)['done']
    r = json.loads((tmp_path/'out'/done).read_text())
    assert r['templates'] == 'skyscript' and r['settings']['templates'] == boxes['templates']
    monkeypatch.setitem(region_classification.TEMPLATES, 'skyscript', ('{} from space',))  # the name stays, the sentences change
    assert 'other settings' in runs.run_matrix(**job)['failed'][done]


def test_the_sentences_are_those_of_their_sources():
    import open_clip
    from geoalignclip_nb.bench.region_classification import TEMPLATES
    assert TEMPLATES['skyscript'] == ('a satellite photo of {}.', 'a satellite image of {}')
    assert len(TEMPLATES['imagenet']) == 80 and TEMPLATES['imagenet'] == tuple(t('{}') for t in open_clip.OPENAI_IMAGENET_TEMPLATES) and TEMPLATES['castdet'] == ('a photo of {}',)


class Talker:
    family, name = 'lvlm', 'talker'
    def __init__(self, answer): self.answer, self.seen = answer, []
    def choose(self, image, options, box=None, **more): self.seen.append((options, box)); return self.answer(options)


def test_a_talker_sees_the_truth_at_every_place():
    questions = [Question(i, 0, [f'truth {i}', 'a', 'b', 'c']) for i in range(60)]
    items = BenchSet('x', '', [Sample(Image.new('RGB', (8, 8)), id=str(i), regions=[Region((0, 0, .5, 1))]) for i in range(60)])
    talker = Talker(lambda o: next(k for k, t in enumerate(o) if t.startswith('truth')))
    got = evaluate_multiple_choice(talker, items, questions)
    assert got.metrics['acc1'] == 100 and all(box == (0, 0, .5, 1) for _, box in talker.seen)
    places = np.bincount([next(k for k, t in enumerate(o) if t.startswith('truth')) for o, _ in talker.seen], minlength=4)
    assert places.min() > 0
    again = Talker(lambda o: 0)
    evaluate_multiple_choice(again, items, questions)
    assert [o for o, _ in again.seen] == [o for o, _ in talker.seen]  # the order is fixed


def test_command_line(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv('GEOALIGN_CACHE', str(tmp_path/'cache'))
    words = ['bench', 'scene_classification', '--dataset', 'folder', '--root', str(folder), '--templates', 'aerial', '--out', str(tmp_path/'r.json')]
    assert main(words) == 0
    assert 'n = 6' in capsys.readouterr().out and len(list((tmp_path/'cache'/'embeddings').iterdir())) == 1
    assert json.loads((tmp_path/'r.json').read_text())['model'] == 'geoalign-tiny'
    assert main(['tables', str(tmp_path)]) == 0
    assert 'folder' in capsys.readouterr().out


@pytest.mark.parametrize('words,says', [
    (['bench', 'retrieval', '--dataset', 'nothing'], 'choose one of'), (['bench', 'retrieval', '--dataset', 'rsicd', '--root', 'nowhere'], 'get it from'),
    (['bench', 'scene_classification', '--dataset', 'folder', '--root', '.', '--out', 'nowhere/r.json'], 'does not exist'),
    (['bench', 'scene-classification', '--dataset', 'folder', '--root', '.', '--templates', 'sky'], "'sky'"),
    (['bench', 'caption', '--dataset', 'rsicd', '--out', 'r.json'], "Task 'caption' is unknown"),
    (['matrix', '--models', 'x', '--benchmarks', 'rsicd', '--out', 'results'], 'TASK:SET'), (['tables', 'nowhere'], 'nowhere')])
def test_mistakes_are_one_sentence(words, says, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    try: code = main(words)
    except SystemExit as e: code = e.code
    said = capsys.readouterr().err.strip()
    assert code == 2 and says in said and '\n' not in said and not list(Path('.').rglob('*.json'))


@pytest.mark.parametrize('out,says', [('nowhere/r.json', 'does not exist'), ('.', '.json'), ('set', '.json'), ('sub.json', 'is a folder'), ('a.txt/r.json', 'is a file')])
def test_a_place_for_the_result_is_checked_before_the_set_is_read(out, says, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path/'a.txt').write_text('x'); (tmp_path/'sub.json').mkdir()
    monkeypatch.setattr(runs, 'open_set', lambda *a, **k: pytest.fail('the set was read'))
    assert main(['bench', 'retrieval', '--dataset', 'rsicd', '--out', out]) == 2
    said = capsys.readouterr().err
    assert says in said and '--out' in said and said.count('\n') == 1


@pytest.mark.parametrize('out', ['a.txt', 'a.txt/results'])
def test_a_place_for_a_matrix_is_checked_first(out, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path/'a.txt').write_text('x')
    monkeypatch.setattr(runs, 'run_benchmark', lambda *a, **k: pytest.fail('a benchmark was run'))
    assert main(['matrix', '--models', 'geoalign-tiny', '--benchmarks', 'retrieval:rsicd', '--out', out]) == 2
    said = capsys.readouterr().err
    assert 'is a file' in said and said.count('\n') == 1


@pytest.mark.parametrize('task,name', [k for k in runs.SETS if k[1] not in ('folder', 'coco')])
def test_every_set_says_where_to_get_it_without_a_root(task, name, tmp_path, monkeypatch):
    monkeypatch.setenv('GEOALIGN_DATA', str(tmp_path))
    with pytest.raises(GeoAlignError, match='get it from'): runs.open_set(task, name)


def test_options_are_read_as_the_reader_means_them():
    data = runs.find_set('fine_grained', 'choice-ins')
    assert runs.read_options(data, dict(n='5', partial='false')) == dict(n=5, partial=False)
    with pytest.raises(GeoAlignError, match='no option'): runs.read_options(data, dict(clases='x'))
    with pytest.raises(GeoAlignError, match='whole number'): runs.read_options(data, dict(n='five'))
    with pytest.raises(GeoAlignError, match='true or false'): runs.read_options(data, dict(partial='perhaps'))


def test_other_weights_under_one_name_are_not_taken_for_these(model, folder, tmp_path):
    job = dict(benchmarks=[('scene_classification', 'folder', 'all')], out=tmp_path/'out', roots=dict(folder=folder), quiet=True)
    runs.run_matrix([model], **job)
    other = GeoAlignCLIP.create('geoalign-debug', seed=5)
    got = runs.run_matrix([other], **job)
    assert not got['kept'] and 'other weights' in next(iter(got['failed'].values()))


def test_one_file_in_two_networks_is_two_sets_of_vectors(folder, tmp_path):
    config = dict(GeoAlignCLIP.create('geoalign-debug').config['clip'])
    samples = runs.open_set('scene_classification', 'folder', folder).samples
    for quick in (False, True):
        m = GeoAlignCLIP.create(config | dict(quick_gelu=quick), seed=0)
        m.checkpoint = 'c' * 64
        Embedder(m, cache=tmp_path/'kept').images(samples)
    assert len(list((tmp_path/'kept').iterdir())) == 2


def test_counts_are_those_that_were_scored(model, folder):
    (folder/'park'/'0.png').write_bytes(b'no picture')
    assert 'n = 5' in runs.run_benchmark('scene_classification', 'folder', model, folder, quiet=True)['counts']


def test_a_picture_cut_off_in_memory_is_counted(model):
    import io
    whole = io.BytesIO()
    make_scenes(1, size=128)[0].image.save(whole, 'jpeg')
    cut = Image.open(io.BytesIO(whole.getvalue()[:len(whole.getvalue()) // 2]))
    embed = Embedder(model)
    vectors, kept = embed.images([Sample(cut, id='cut'), make_scenes(1, size=64)[0]])
    assert kept == [1] and dict(embed.skipped) == {'unreadable picture': 1}


def test_questions_make_no_result(folder, tmp_path, capsys):
    words = ['bench', 'scene_classification', '--dataset', 'folder', '--root', str(folder), '--model', 'vhm', '--no-cache', '--questions', str(tmp_path/'q.jsonl')]
    assert main([*words, '--out', str(tmp_path/'r.json')]) == 2 and not (tmp_path/'r.json').exists()
    assert 'give no result' in capsys.readouterr().err
    assert main(words) == 0
    assert '6 questions' in capsys.readouterr().out and len((tmp_path/'q.jsonl').read_text().splitlines()) == 6


def test_answers_are_read_back(folder, tmp_path, capsys):
    words = ['bench', 'scene_classification', '--dataset', 'folder', '--root', str(folder), '--model', 'vhm', '--no-cache']
    assert main([*words, '--questions', str(tmp_path/'q.jsonl')]) == 0
    rows = [json.loads(line) for line in (tmp_path/'q.jsonl').read_text().splitlines()]
    (tmp_path/'a.jsonl').write_text(''.join(json.dumps(dict(key=r['key'], answer='A')) + '\n' for r in rows))
    capsys.readouterr()
    assert main([*words, '--answers', str(tmp_path/'a.jsonl'), '--out', str(tmp_path/'r.json')]) == 0
    r = json.loads((tmp_path/'r.json').read_text())
    assert r['n'] == 6 and 0 <= r['metrics']['acc1'] <= 100 and r['model'] == 'vhm'


def test_a_row_of_the_paper_for_a_model_with_signs_in_its_name(tmp_path, capsys):
    assert main(['tables', str(tmp_path), '--row', 'my-model/l14=Ours ViT-L/14']) in (0, 2)
    assert 'MODEL=ROW' not in capsys.readouterr().err
    assert main(['tables', str(tmp_path), '--row', 'nonsense']) == 2 and 'MODEL=ROW' in capsys.readouterr().err


def test_a_result_is_not_replaced_by_an_answer_to_another_question(folder, tmp_path, model):
    out = tmp_path/'r.json'
    runs.run_benchmark('scene_classification', 'folder', model, folder, out=out, quiet=True)
    before = out.read_bytes()
    with pytest.raises(GeoAlignError, match='other settings'): runs.run_benchmark('scene_classification', 'folder', model, folder, out=out, settings=Settings('plain'), quiet=True)
    assert out.read_bytes() == before
    runs.run_benchmark('scene_classification', 'folder', model, folder, out=out, quiet=True)  # the same question again


def test_flags_of_talking_models_are_theirs_alone(folder, capsys):
    assert main(['bench', 'scene_classification', '--dataset', 'folder', '--root', str(folder), '--answers', 'a.jsonl']) == 2
    assert 'models that talk' in capsys.readouterr().err


def test_an_unreadable_picture_is_named(folder, model, tmp_path):
    (folder/'park'/'0.png').write_bytes(b'no picture')
    for _ in range(2):  # the second time from the kept vectors
        assert any('0.png' in n for n in runs.run_benchmark('scene_classification', 'folder', model, folder, settings=Settings(cache=str(tmp_path/'kept')), quiet=True)['notes'])


# near misses on boxes that nobody described

@pytest.fixture
def coco(tmp_path):
    "Six procedural pictures with boxes, as a COCO folder"
    root, pictures, boxes = tmp_path/'coco', [], []
    (root/'images').mkdir(parents=True)
    for i, s in enumerate(make_scenes(6, size=128)):
        s.image.save(root/'images'/f'{i}.png'); pictures.append(dict(id=i, file_name=f'{i}.png', width=128, height=128))
        boxes += [dict(id=len(boxes) + k, image_id=i, category_id=1 + (r.category == 'plane'), bbox=[128 * r.box[0], 128 * r.box[1], 128 * (r.box[2] - r.box[0]), 128 * (r.box[3] - r.box[1])]) for k, r in enumerate(s.regions[:4])]
    (root/'annotations.json').write_text(json.dumps(dict(images=pictures, annotations=boxes, categories=[dict(id=1, name='tennis court'), dict(id=2, name='plane')])))
    return root


def test_near_misses_of_boxes_are_frozen_and_run_from_the_command(coco, tmp_path, capsys):
    file, words = tmp_path/'near.json', ['bench', 'fine_grained', '--dataset', 'coco', '--root', str(coco), '--no-cache']
    assert main([*words, '--option', f'negatives={file}', '--out', str(tmp_path/'a.json')]) == 0
    assert 'fine_grained · coco' in capsys.readouterr().out
    first, before = json.loads((tmp_path/'a.json').read_text()), file.read_bytes()
    made = json.loads(before)
    assert first['n'] == made['counts']['sentences'] == len(made['items']) and first['files']['near misses'] == made['sha256'] and set(first['metrics']) == {'acc1', 'acc5'}
    assert first['settings']['options'] == {'negatives': 'near.json'} and str(tmp_path) not in (tmp_path/'a.json').read_text(), 'no path of a machine in a result'
    assert all(1 <= len(m) <= 10 and t not in [x for x, *_ in m] for _, t, m in made['items'])
    assert main([*words, '--out', str(tmp_path/'b.json')]) == 0  # made again, into the cache
    assert any('near_misses/coco-all-' in n and str(tmp_path) not in n for n in json.loads((tmp_path/'b.json').read_text())['notes'])
    assert json.loads((tmp_path/'b.json').read_text())['metrics'] == first['metrics'] and json.loads((tmp_path/'b.json').read_text())['files'] == first['files']
    changed = made | dict(items=[[p, 'Something else.', m] for p, _, m in made['items']])
    file.write_text(json.dumps(changed))
    assert main([*words, '--option', f'negatives={file}']) == 2 and 'was changed after it was frozen' in capsys.readouterr().err


def test_a_frozen_file_needs_no_pixels_and_knows_its_boxes(coco, tmp_path):
    from geoalignclip_nb.bench import box_sets, near_misses
    read = lambda **k: box_sets.written_boxes('coco', coco, negatives=tmp_path/'near.json', **k)
    first = read()
    Image.new('RGB', (128, 128), 'red').save(coco/'images'/'0.png')
    assert [r.text for s in read().samples for r in s.regions] == [r.text for s in first.samples for r in s.regions], 'the file decides, not the pixels'
    data = json.loads((coco/'annotations.json').read_text()); data['annotations'][0]['bbox'][2] += 5
    (coco/'annotations.json').write_text(json.dumps(data))
    with pytest.raises(GeoAlignError, match='do not know the box 0.png'): read()
    with pytest.raises(GeoAlignError, match='does not exist'): box_sets.written_boxes('coco', coco, negatives=tmp_path/'no'/'near.json')


def test_a_box_in_an_unreadable_picture_is_counted(coco, model):
    (coco/'images'/'0.png').write_bytes(b'no picture')
    got = runs.run_benchmark('fine_grained', 'coco', model, coco, quiet=True)
    assert got['skipped'] == {'unreadable picture': 1} and got['n'] > 0 and not any('0.png' in s for s in got['files'])
    assert any('not kept, because pictures are unreadable' in n for n in got['notes'])
    Image.new('RGB', (128, 128), 'red').save(coco/'images'/'0.png')  # repaired, and nothing remembers
    again = runs.run_benchmark('fine_grained', 'coco', model, coco, quiet=True)
    assert not again['skipped'] and again['n'] > got['n']


def test_the_seed_of_a_result_is_that_of_its_near_misses(coco, model, tmp_path):
    seed = lambda task='fine_grained', **options: runs.run_benchmark(task, 'coco', model, coco, settings=Settings(options=options), quiet=True)['seed']
    assert (seed(), seed(seed=2), seed(seed='3'), seed('region_classification')) == (0, 2, 3, 0)
    assert seed(seed=4, negatives=tmp_path/'n.json') == 4 and seed(seed=5, negatives=tmp_path/'n.json') == 4  # the file decides
    items = runs.open_set('region_classification', 'coco', coco)  # a set that was drawn otherwise: what was asked for
    assert runs.result_of(model, items, 'region_classification', Settings(options=dict(seed=6)))['seed'] == 6


@pytest.mark.parametrize('name,n', [('rsod', 1337), ('vedai', 538)])
def test_near_misses_on_real_boxes(name, n, model, real_data):
    "The validation lists of RSOD and VEDAI, through the same door as RRSIS-HR; random weights are at chance"
    items = runs.open_set('fine_grained', name, real_data/name)
    assert sum(len(s.regions) for s in items.samples) == n and all(r.negatives for s in items.samples for r in s.regions)
    items.samples = items.samples[:25]
    got = runs.result_of(model, items, 'fine_grained')
    assert got['details']['negatives'] > 8 and got['split'] == 'val' and 0 <= got['metrics']['acc1'] < 50
