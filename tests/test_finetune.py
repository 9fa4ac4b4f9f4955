"""Folders that users have become samples, near duplicates stay on one side, and the heads continue from the start model."""
import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from geoalignclip_nb.core import GeoAlignError
from geoalignclip_nb.data.loader import open_source, parse_source
from geoalignclip_nb.data.own_folders import OwnFolder, OwnSplit, read_own_folder, split_own_folder
from geoalignclip_nb.model import GeoAlignCLIP
from geoalignclip_nb.scenes import make_scenes
from geoalignclip_nb.study import finetune_report
from geoalignclip_nb.study.finetune_report import finetune_folder, finetune_settings
from geoalignclip_nb.train.finetune import FinetuneSettings
from geoalignclip_nb.train.frozen import small_frozen_model

SIZE = 96
SCENES = make_scenes(8, seed=21, size=SIZE)
QUICK = FinetuneSettings(steps=4, views=1, size=64, box_size=64, scenes=2, checkpoint_steps=2)


def coco_of(names) -> dict:
    classes = sorted({r.category for s in SCENES for r in s.regions})
    images, boxes = [], []
    for i, (scene, name) in enumerate(zip(SCENES, names)):
        images.append(dict(id=i, file_name=name, width=SIZE, height=SIZE))
        for r in scene.regions:
            x1, y1, x2, y2 = (v * SIZE for v in r.box)
            boxes.append(dict(id=len(boxes), image_id=i, category_id=classes.index(r.category), bbox=[x1, y1, x2 - x1, y2 - y1]))
    return dict(images=images, annotations=boxes, categories=[dict(id=i, name=n) for i, n in enumerate(classes)])


def save_images(folder: Path, suffix='.png') -> list[str]:
    folder.mkdir(parents=True, exist_ok=True)
    names = [f'{i}{suffix}' for i in range(len(SCENES))]
    for scene, name in zip(SCENES, names): scene.image.save(folder/name)
    return names


def plain(folder):
    names = save_images(folder/'images')
    (folder/'annotations.json').write_text(json.dumps(coco_of(names)), encoding='utf-8-sig')


def roboflow(folder):
    names = save_images(folder/'train')
    (folder/'train'/'_annotations.coco.json').write_text(json.dumps(coco_of(names)))
    (folder/'valid').mkdir()
    (folder/'README.roboflow.txt').write_text('exported')


def instances(folder):
    names = save_images(folder/'train2017')
    (folder/'annotations').mkdir()
    (folder/'annotations'/'instances_train2017.json').write_text(json.dumps(coco_of(names)))
    (folder/'annotations'/'captions_train2017.json').write_text(json.dumps(dict(images=[], annotations=[{'caption': 'x'}])))


def yolo(folder, images='images', labels='labels', classes='data.yaml'):
    save_images(folder/images)
    (folder/labels).mkdir(parents=True, exist_ok=True)
    coco = coco_of([f'{i}.png' for i in range(len(SCENES))])
    for image in coco['images']:
        lines = []
        for a in coco['annotations']:
            x, y, w, h = (v / SIZE for v in a['bbox'])
            if a['image_id'] == image['id']: lines.append(f"{a['category_id']} {x + w / 2} {y + h / 2} {w} {h}")
        (folder/labels/f"{image['id']}.txt").write_text('\n'.join(lines))
    names = [c['name'] for c in coco['categories']]
    told = json.dumps(dict(names=names, nc=len(names))) if classes.endswith('yaml') else '\n'.join(names)
    (folder/classes).write_text(told)


def yolo_roboflow(folder): yolo(folder, 'train/images', 'train/labels')
def yolo_flat(folder): yolo(folder, '.', '.', 'classes.txt')


@pytest.mark.parametrize('make', [plain, roboflow, instances, yolo, yolo_roboflow, yolo_flat])
def test_every_form_has_the_same_boxes(tmp_path, make):
    folder = tmp_path/'übung mit @ und *'
    folder.mkdir()
    make(folder)
    own = read_own_folder(folder)
    assert len(own.samples) == len(SCENES) and own.classes == sorted({r.category for s in SCENES for r in s.regions})
    by_number = {int(Path(s.image).stem): s for s in own.samples}
    for i, scene in enumerate(SCENES):
        got = sorted((r.category, *(round(v, 3) for v in r.box)) for r in by_number[i].regions)
        want = {(r.category, *(round(v, 3) for v in r.box)) for r in scene.regions}
        assert len(got) == len(want)
        assert all(any(g[0] == w[0] and max(abs(a - b) for a, b in zip(g[1:], w[1:])) < .002 for w in want) for g in got)


@pytest.mark.parametrize('parts', [False, True])
def test_class_folders(tmp_path, parts):
    for i, scene in enumerate(SCENES):
        place = tmp_path/(('train', 'val')[i % 2] if parts else '.')/('beach', 'port')[i // 4]
        place.mkdir(parents=True, exist_ok=True)
        scene.image.save(place/f'{i}.png')
    (tmp_path/'__MACOSX'/'beach').mkdir(parents=True) if not parts else None
    own = read_own_folder(tmp_path)
    assert own.classes == ['beach', 'port'] and len(own.samples) == 8 and set(own.labels) == {s.id for s in own.samples}


def nothing(folder): pass
def no_labels(folder): save_images(folder)
def one_class(folder): save_images(folder/'beach')
def images_missing(folder): plain(folder); shutil.rmtree(folder/'images')
def no_boxes(folder):
    plain(folder)
    coco = coco_of([f'{i}.png' for i in range(len(SCENES))])
    for a in coco['annotations']: a['bbox'] = [5, 5, 0, 0]
    (folder/'annotations.json').write_text(json.dumps(coco))
def no_names(folder): yolo(folder); (folder/'data.yaml').unlink()
def strange_number(folder): yolo(folder); (folder/'labels'/'0.txt').write_text('99 .5 .5 .1 .1')
def broken_json(folder): plain(folder); (folder/'annotations.json').write_text('{')
def all_duplicates(folder):
    plain(folder)
    for i in range(len(SCENES)): SCENES[0].image.save(folder/'images'/f'{i}.png')


BAD = [(nothing, 'holds no images'), (no_labels, 'no labels; add annotations.json'), (one_class, "one class \\('beach'\\)"),
       (images_missing, 'None of the images'), (no_boxes, 'no usable box .*no area'), (no_names, 'no names of the classes'),
       (strange_number, 'class number 99'), (broken_json, 'annotations.json'), (all_duplicates, 'near duplicates of each other')]


@pytest.mark.parametrize('make, words', BAD, ids=[m.__name__ for m, _ in BAD])
def test_a_bad_folder_is_one_sentence(tmp_path, make, words):
    folder = tmp_path/'own'
    folder.mkdir()
    make(folder)
    with pytest.raises(GeoAlignError, match=words) as e: split_own_folder(read_own_folder(folder))
    assert '\n' not in str(e.value)


def test_near_duplicates_stay_together(tmp_path):
    "Copies, turned copies, shifted crops and augmented copies of Roboflow are in one part"
    base = make_scenes(10, seed=60, size=160)
    for i, scene in enumerate(base):
        scene.image.crop((0, 0, 150, 150)).save(tmp_path/f'{i}-a.png')
        scene.image.crop((8, 6, 158, 156)).save(tmp_path/f'{i}-b.png')
        scene.image.crop((0, 0, 150, 150)).transpose(Image.Transpose.ROTATE_90).save(tmp_path/f'{i}-c.png')
        scene.image.crop((0, 0, 150, 150)).save(tmp_path/f'{i}-d.jpg', quality=60)
    Image.effect_noise((96, 96), 90).convert('RGB').save(tmp_path/'x_jpg.rf.0a1.jpg')
    Image.effect_noise((96, 96), 90).convert('RGB').save(tmp_path/'x_jpg.rf.7b2.jpg')
    names = sorted(p.name for p in tmp_path.iterdir())
    coco = dict(categories=[dict(id=0, name='car')], images=[dict(id=i, file_name=n, width=90, height=90) for i, n in enumerate(names)],
                annotations=[dict(id=i, image_id=i, category_id=0, bbox=[1, 1, 20, 20]) for i in range(len(names))])
    (tmp_path/'own.json').write_text(json.dumps(coco))
    for seed in range(4):
        split = split_own_folder(read_own_folder(tmp_path), .3, seed)
        part = {Path(s.image).name: k for k, own in enumerate((split.train, split.held_out)) for s in own}
        assert len(part) == len(names) and 0 < len(split.held_out) < len(names)
        for i in range(10): assert len({part[f'{i}-{c}'] for c in ('a.png', 'b.png', 'c.png', 'd.jpg')}) == 1, i
        assert part['x_jpg.rf.0a1.jpg'] == part['x_jpg.rf.7b2.jpg']


@pytest.fixture(scope='module')
def start(tmp_path_factory):
    folder = tmp_path_factory.mktemp('start')/'small'
    model = small_frozen_model(seed=1)
    model.config['ground_size'] = 64
    model.save_pretrained(folder)
    return folder


def quiet(sentence): pass


def test_the_whole_way_and_its_continuation(tmp_path, start, monkeypatch):
    monkeypatch.setenv('GEOALIGN_CACHE', str(tmp_path/'cache'))
    plain(tmp_path/'own')
    told = []
    done = finetune_folder(tmp_path/'own', tmp_path/'run', QUICK, model=str(start), scenes=2, say=told.append)
    record = json.loads((tmp_path/'run'/'finetune.json').read_text())
    assert record['n_train'] + record['n_held_out'] == len(SCENES) and record['before'].keys() == record['after'].keys()
    assert all({'value', 'low', 'high', 'n'} == set(v) for v in record['after'].values()) and record['seed'] == 0
    assert any('no group is in both parts' in t for t in told) and 'not calibrated' in record['presence']
    old, new = GeoAlignCLIP.from_pretrained(start), GeoAlignCLIP.from_pretrained(tmp_path/'run')
    assert new.presence is None and new.name == 'run'
    after = new.state_dict()  # saved in fp16
    moved = [k for k, v in old.state_dict().items() if not (torch.equal(v, after[k]) or torch.equal(v.half().to(v.dtype), after[k]))]
    assert moved and all(k.startswith('clip.visual.dense_head') for k in moved)
    weights = (tmp_path/'run'/'model'/'model.safetensors').read_bytes()
    again = finetune_folder(tmp_path/'own', tmp_path/'run', QUICK, model=str(start), scenes=2, say=quiet)
    assert again.record['after'] == done.record['after'] and (tmp_path/'run'/'model'/'model.safetensors').read_bytes() == weights
    with pytest.raises(GeoAlignError, match='other settings'):
        finetune_folder(tmp_path/'own', tmp_path/'run', FinetuneSettings(steps=5), model=str(start), say=quiet)


def test_training_learns_and_keeps(tmp_path, start, monkeypatch):
    "Losses of the boxes fall; with a larger weight of keep the head moves less"
    monkeypatch.setenv('GEOALIGN_CACHE', str(tmp_path/'cache'))
    plain(tmp_path/'own')
    settings = dict(steps=40, lr=3e-3, views=1, size=64, box_size=64, scenes=2)
    moved = {}
    for keep in (0., 300.):
        own = FinetuneSettings(**settings, weights={'cell': 1., 'name': 1., 'hna': 0., 'class': 1., 'keep': keep})
        finetune_folder(tmp_path/'own', tmp_path/f'{keep}', own, model=str(start), scenes=2, say=quiet)
        rows = [json.loads(line) for line in (tmp_path/f'{keep}'/'log.jsonl').read_text().splitlines()]
        moved[keep] = rows[-1]['keep']
        if not keep: assert rows[-1]['cell'] < rows[0]['cell']
    assert moved[300.] < moved[0.]


def test_a_model_without_heads_is_one_sentence(tmp_path):
    plain(tmp_path/'own')
    GeoAlignCLIP.create('geoalign-debug').save_pretrained(tmp_path/'vit')
    with pytest.raises(GeoAlignError, match='geoalign train') as e:
        finetune_folder(tmp_path/'own', tmp_path/'run', QUICK, model=str(tmp_path/'vit'), say=quiet)
    assert '\n' not in str(e.value)


@pytest.mark.parametrize('words', [{'epochs': '2'}, {'lr': 'fast'}, {'steps': '0'}, {'weights.other': '1'}, {'held_out': '1'}])
def test_bad_settings_are_one_sentence(words):
    with pytest.raises(GeoAlignError) as e: finetune_settings(words)
    assert '\n' not in str(e.value)


@pytest.mark.parametrize('name', ['own-folder', 'my images', 'übung', 'a@3', 'a*2', 'x-fit', "it's"])
@pytest.mark.parametrize('quoted', [False, True])
def test_sources_by_path_with_any_character(tmp_path, name, quoted):
    folder = tmp_path/name
    plain(folder)
    spec = f'coco:"{folder}"' if quoted else f'coco:{folder}'
    samples = open_source(spec)
    assert len(samples) == len(SCENES) and all(r.phrase and r.text for s in samples for r in s.regions)
    if quoted:
        assert parse_source(spec + '-held@5*2')[1:] == (str(folder), 'held', 5, 2)
        assert len(open_source(spec + '@3*2')) == 6


@pytest.mark.parametrize('spec, words', [('coco:"/tmp/x', 'closing quote'), ('coco:"/tmp/x"*0', 'cannot be read'), ('coco:/not/here', 'not a folder')])
def test_a_bad_path_source_is_one_sentence(spec, words):
    with pytest.raises(GeoAlignError, match=words): open_source(spec)


def test_a_frozen_split_does_not_filter_foreign_files(tmp_path):
    from geoalignclip_nb.data.sources import coco_boxes
    plain(tmp_path/'rsod')
    with pytest.raises(GeoAlignError, match='None of the 8 images is in the frozen split'): coco_boxes(tmp_path/'rsod', 'train', 'rsod')


def test_presence_is_calibrated_on_enough_phrases(monkeypatch, tmp_path):
    "The branch of folders with many phrases, on few: thresholds come from the held-out part"
    monkeypatch.setattr(finetune_report, 'LEAST_PRESENT', 5)
    monkeypatch.setattr(finetune_report, 'labelled_images', lambda *a: [])
    own = OwnFolder(tmp_path, 'coco', SCENES)
    calibration, told = finetune_report.calibrate_own(
        GeoAlignCLIP.from_pretrained('geoalign-tiny'), own, OwnSplit(SCENES[:4], SCENES[4:], 8, 1))
    present = sum(len({r.category for r in s.regions}) for s in SCENES[4:])
    assert f'calibrated on {present} present phrases' in told
    assert calibration.thresholds[''].n == present


def test_class_folders_have_no_calibration(tmp_path):
    own = OwnFolder(tmp_path, 'classes', SCENES, labels={s.id: 'a' for s in SCENES})
    calibration, told = finetune_report.calibrate_own(None, own, OwnSplit(SCENES[:4], SCENES[4:], 8, 1))
    assert calibration is None and 'class folders' in told
