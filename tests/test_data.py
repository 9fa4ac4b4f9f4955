"Sources, descriptions and negatives: contracts on drawn pictures, invariants on real ones where GEOALIGN_TEST_DATA names them"
import json, os, random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from PIL import Image

from geoalignclip_nb.core import GeoAlignError, Region, Sample, asset, clean_text
from geoalignclip_nb.data import describe as D, negatives as N, sources as S, visual_grounding as V
from geoalignclip_nb.data.image_files import picture_path


def real(name: str) -> Path:
    "Folder of a real set; skips where there is none, but never hides a missing folder on CI"
    root = os.environ.get('GEOALIGN_TEST_DATA') or os.environ.get('GEOALIGN_DATA')
    if os.environ.get('CI') == 'true' and root: return Path(root)/name
    if not root or not (Path(root)/name).is_dir(): pytest.skip(f'no pictures of {name} here (set GEOALIGN_TEST_DATA)')
    return Path(root)/name


def coco_folder(root: Path, boxes, size=(100, 50)) -> Path:
    (root/'images').mkdir()
    Image.new('RGB', size, (120, 120, 120)).save(root/'images'/'a.png')
    (root/'annotations.json').write_text(json.dumps(dict(
        images=[dict(id=1, file_name='a.png', width=size[0], height=size[1])], categories=[dict(id=3, name='car')],
        annotations=[dict(image_id=1, category_id=3, bbox=b) for b in boxes])))
    return root


# sources

def karpathy(root, names, sentences, split='train'):
    (root/'imgs').mkdir(exist_ok=True)
    for n in names: Image.new('RGB', (8, 8)).save(root/'imgs'/n)
    (root/'dataset.json').write_text(json.dumps(dict(images=[dict(filename=n, split=split, sentences=[dict(raw=s) for s in sentences]) for n in names])))

def test_captions_keep_all_five_with_repeats(tmp_path):
    karpathy(tmp_path, ['1.tif'], ['a plane .'] * 4 + ['two planes .'])
    s, = S.ucm(tmp_path)
    assert s.captions == ['a plane .'] * 4 + ['two planes .']
    assert (s.brief, s.detailed) == ('A plane.', 'A plane. Two planes.')

def test_captions_split_valid_is_val_and_dot_is_kept(tmp_path):
    karpathy(tmp_path, ['1.tif'], ['.', 'a plane .'], split='valid')
    s, = S.ucm(tmp_path, 'val')
    assert s.captions == ['.', 'a plane .'] and s.brief == 'A plane.'

@pytest.mark.parametrize('sentences', [['', ' '], ['.', '.'], []])
def test_captions_refuse_a_set_without_words(tmp_path, sentences):
    karpathy(tmp_path, ['1.tif'], sentences)
    with pytest.raises(GeoAlignError, match='No image of ucm has a sentence that is not empty'): S.ucm(tmp_path)

def test_missing_picture_is_named(tmp_path):
    karpathy(tmp_path, ['1.tif', '2.tif'], ['a plane .'])
    (tmp_path/'imgs'/'2.tif').unlink()
    with pytest.raises(GeoAlignError, match='1 of 2 pictures are missing, the first is 2.tif'): S.ucm(tmp_path)

def test_unknown_split_and_missing_file(tmp_path):
    karpathy(tmp_path, ['1.tif'], ['a plane .'])
    with pytest.raises(GeoAlignError, match="has no split test; choose one of \\['train'\\]"): S.ucm(tmp_path, 'test')
    with pytest.raises(GeoAlignError, match='dataset_rsicd.json was not found'): S.rsicd(tmp_path)

@pytest.mark.parametrize('name', ['../a.png', '/etc/a.png', 'x/../../a.png'])
def test_picture_names_stay_inside(name):
    with pytest.raises(GeoAlignError, match='leaves the folder'): picture_path('imgs', name)

def test_boxes_clipped_counted_skipped(tmp_path):
    skipped = Counter()
    s, = S.coco_boxes(coco_folder(tmp_path, [[90, 10, 30, 20], [5, 5, 0, 9], [200, 0, 5, 5], [1, 1, float('nan'), 2]]), source='demo', skipped=skipped)
    assert [r.box for r in s.regions] == [(.9, .2, 1., .6)] and skipped == {'no area': 3}
    assert s.id == 'demo/a.png' and s.regions[0].category == 'car'

def test_picture_listed_twice_is_one_sample(tmp_path):
    root = coco_folder(tmp_path, [[1, 1, 9, 9], [20, 1, 9, 9]])
    d = json.loads((root/'annotations.json').read_text())
    d['images'].append(dict(d['images'][0], id=2)); d['annotations'] += [dict(a, image_id=2) for a in d['annotations'][:1]] + [dict(image_id=2, category_id=3, bbox=[40, 1, 9, 9])]
    (root/'annotations.json').write_text(json.dumps(d))
    skipped = Counter(); s, = S.coco_boxes(root, skipped=skipped)
    assert len(s.regions) == 3 and skipped == {'repeated': 1}

def test_split_of_unknown_source(tmp_path):
    with pytest.raises(GeoAlignError, match='splits/demo.json'): S.coco_boxes(coco_folder(tmp_path, []), 'train', 'demo')

@pytest.mark.parametrize('source,n', [('rsod', 797), ('vedai', 680)])
def test_frozen_split_is_a_partition(source, n):
    j = S.read_json(asset(f'splits/{source}.json'))
    assert {'train', 'val', 'method', 'seed', 'n', 'groups'} <= set(j)
    assert j['n'] == n == len(set(j['train']) | set(j['val'])) == len(j['train']) + len(j['val'])
    assert .17 < len(j['val']) / n < .23

@given(st.integers(2, 40), st.integers(0, 10**6))
@settings(max_examples=40, deadline=None)
def test_groups_never_split(n, seed):
    rng = random.Random(seed)
    pairs = [tuple(sorted(rng.sample(range(n), 2))) for _ in range(n // 2)]
    groups = S.group_pairs(pairs, n)
    split = S.assign_split([str(i) for i in range(n)], groups, [{rng.choice('abc')} for _ in range(n)], seed=seed)
    val = set(split['val'])
    assert all(groups[i] == groups[j] for i, j in pairs)
    assert all((str(i) in val) == (str(groups[i]) in val) for i in range(n))
    assert sorted(split['train'] + split['val']) == sorted(str(i) for i in range(n))

def test_shifted_and_reencoded_copies_are_found(tmp_path):
    rng = np.random.default_rng(0)
    def land(): return np.asarray(Image.fromarray(rng.uniform(0, 255, (24, 48)).astype(np.float32)).resize((320, 160), Image.BICUBIC)).clip(0, 255).astype(np.uint8)
    a, others = land(), [land()[:128, :128] for _ in range(5)]
    for i, c in enumerate([a[:128, :128], a[8:136, 40:168], *others]): Image.fromarray(c).save(tmp_path/f'{i}.png')
    Image.fromarray(a[:128, :128]).save(tmp_path/'7.jpg', quality=60)
    grey = S.thumbnails([tmp_path/f'{i}.png' for i in range(7)] + [tmp_path/'7.jpg'])
    groups = S.group_pairs(S.near_duplicates(grey), 8)
    assert groups == [0, 0, 2, 3, 4, 5, 6, 0]

@pytest.mark.parametrize('source', ['rsod', 'vedai'])
def test_frozen_split_is_derived_again(source):
    assert S.make_split(real(source), source) == S.read_json(asset(f'splits/{source}.json'))

@pytest.mark.parametrize('read,folder,counts', [(S.rsicd, 'rsicd', dict(train=8734, val=1094)), (S.ucm, 'ucm_captions', dict(train=1669, val=210))])
def test_caption_sets(read, folder, counts):
    for split, n in counts.items():
        got = read(real(folder), split)
        assert len(got) == n and all(len(s.captions) == 5 and s.brief and s.detailed for s in got)


# describe

def scene(paint, ground=(112, 112, 108), box=(30, 40, 72, 60), size=128, category='car'):
    im = np.full((size, size, 3), ground, np.float64)
    x1, y1, x2, y2 = box
    im[y1:y2, x1:x2] = paint
    im = (im + np.random.default_rng(0).normal(0, 4, im.shape)).clip(0, 255).astype(np.uint8)
    return Sample(Image.fromarray(im), regions=[Region(tuple(v / size for v in box), category=category)], id='s')

@pytest.mark.parametrize('paint,word', [((240, 240, 240), 'white'), ((200, 30, 35), 'red'), ((40, 80, 180), 'blue'), ((20, 20, 22), 'dark'), ((228, 198, 50), 'yellow'), ((112, 112, 108), '')])
def test_colours_named_or_left_out(paint, word):
    assert D.measure(scene(paint))[0]['colour'] == word
    assert D.describe(scene(paint)).regions[0].phrase.startswith(f'{word} ' if word else ('car', 'vehicle'))

def test_no_colour_of_the_ground():
    "a box on plain ground, whatever the ground's colour, gets no colour"
    for g in ((70, 120, 60), (200, 190, 170), (120, 90, 60), (30, 30, 35)): assert D.measure(scene(g, g))[0]['colour'] == ''

def test_describe_is_deterministic_keeps_texts_and_leaves_input_alone():
    s = scene((240, 240, 240))
    d = D.describe(s)
    assert d == D.describe(s) and s.brief == '' and s.regions[0].phrase == ''
    kept = D.describe(Sample(s.image, brief='B.', detailed='D.', regions=[Region((.1, .1, .2, .2), 'p', 't', category='car')]))
    assert (kept.brief, kept.detailed, kept.regions[0].phrase, kept.regions[0].text) == ('B.', 'D.', 'p', 't')

@pytest.mark.parametrize('picture', [Image.new('L', (40, 30)), Image.new('RGBA', (1, 1)), Image.new('RGB', (3000, 2))])
def test_describe_odd_pictures(picture):
    d = D.describe(Sample(picture, regions=[Region((0, 0, 1, 1), category='car'), Region((.5, .5, .50001, .50001), category='Swimming_Pool')], id='x'))
    assert all(clean_text(t) == t for r in d.regions for t in (r.phrase, r.text)) and d.brief and d.detailed

def test_describe_broken_picture(tmp_path):
    (tmp_path/'a.png').write_bytes(b'no picture')
    with pytest.raises(GeoAlignError, match='cannot be read'): D.describe(Sample(tmp_path/'a.png', id='a'))

boxes = st.tuples(st.floats(0, .9), st.floats(0, .9), st.floats(.01, 1), st.floats(.01, 1)).map(lambda b: (b[0], b[1], min(1, b[0] + b[2]), min(1, b[1] + b[3])))

@given(boxes)
def test_position_word_holds_the_centre(b):
    w, x, y = D.position_word(b), (b[0] + b[2]) / 2, (b[1] + b[3]) / 2
    assert ('left' in w) == (x < 1/3) or abs(x - 1/3) < 1e-9
    assert ('right' in w) == (x >= 2/3) or abs(x - 2/3) < 1e-9
    assert (w in ('top',) or 'upper' in w) == (y < 1/3) or abs(y - 1/3) < 1e-9

@given(st.sampled_from(sorted(D.CLASSES)), st.integers(1, 30))
def test_names_and_plurals(c, n):
    for name in D.class_names(c):
        assert D.class_of(name) in D.CLASSES and D.counted(n, name).split()[0] in (*D.NUMBERS, str(n))
        assert D.plural(name) != name or name == 'aircraft'


# negatives

def regions_of(colours, cats, seed):
    rng = random.Random(seed); out = []
    for c, k in zip(colours, cats):
        x, y = rng.uniform(0, .8), rng.uniform(0, .8); name = D.class_names(k)[0]; b = (x, y, x + .1, y + .1)
        out.append(Region(b, f'{c} {name}', f'A {c} {name} {D.place(D.position_word(b))} of the picture.', category=k))
    return out

@given(st.lists(st.sampled_from(D.COLOURS), min_size=1, max_size=4), st.integers(0, 10**6))
@settings(max_examples=60, deadline=None)
def test_negatives_are_false_near_and_deterministic(colours, seed):
    rng = random.Random(seed)
    regs = regions_of(colours, [rng.choice(['car', 'aircraft', 'oiltank', 'van', 'boat']) for _ in colours], seed)
    true = {N.canonical(t) for r in regs for t in (r.phrase, r.text)}
    for r in regs:
        neg = N.perturb(r, regs, seed=seed)
        assert neg == N.perturb(r, regs, seed=seed) and len(neg) == 10 == len({N.canonical(t) for t, _ in neg})
        colour = r.phrase.split()[0]
        for t, kind in neg:
            assert N.canonical(t) not in true and clean_text(t) == t and kind in ('attribute', 'orientation', 'category')
            words = set(t.lower().rstrip('.').split())
            if kind == 'attribute': assert not words & (N.NEAR[colour] | {colour})
            else: assert colour in words
            if kind == 'category': assert not any(f' {n} ' in f' {t.lower().rstrip(".")} ' for n in D.class_names(r.category))

@given(boxes)
def test_false_places_do_not_touch(b):
    for p in N.false_places(b):
        assert p != D.position_word(b)
        if 'left' in p: assert b[0] >= 1/3 or not (b[1] < (2/3 if p == 'left' else 1/3 if 'upper' in p else 1) and b[3] > (1/3 if p == 'left' else 0 if 'upper' in p else 2/3))

def test_false_colour_respects_measured_shares():
    shares = np.array([.6, 0, .1, .2, 0, 0, 0, .1])  # a white car with a red stripe, dark glass and some blue
    assert not {'dark', 'red', 'blue', 'grey', 'yellow'} & set(N.false_colours('white', shares))

def test_overlapping_classes_are_no_negatives():
    a, b = Region((.1, .1, .6, .6), 'overpass', 'An overpass.', category='overpass'), Region((.2, .2, .25, .25), 'red car', 'A red car.', category='car')
    assert not any('car' in t.split() or 'vehicle' in t for t, _ in N.perturb(a, [b], n=99))

def test_perturb_without_words():
    with pytest.raises(GeoAlignError, match='call describe'): N.perturb(Region((0, 0, 1, 1)))

def test_prepare_boxes_on_a_folder(tmp_path):
    s, = N.prepare_boxes(coco_folder(tmp_path, [[10, 10, 30, 14]]), 'demo')
    assert s.brief and s.detailed and s.regions[0].phrase and s.regions[0].negatives

@pytest.mark.parametrize('source', ['rsod', 'vedai'])
def test_real_negatives_are_not_true_of_the_picture(source):
    for s in S.coco_boxes(real(source), 'train', source)[::60]:
        s = N.complete(s)
        true = {N.canonical(t) for r in s.regions for t in (r.phrase, r.text)}
        assert s.brief and s.detailed
        for r in s.regions: assert len(r.negatives) == 10 and not true & {N.canonical(t) for t, _ in r.negatives}

# DIOR-RSVG

def rsvg_tree(root: Path, files: dict, lists: dict, size=(100, 80)) -> Path:
    "files: stem -> [(class, corners, sentence)], written in their order; lists: split -> running numbers"
    (root/'Annotations').mkdir(parents=True); (root/'JPEGImages').mkdir()
    for stem, objects in files.items():
        Image.new('RGB', size, (120, 120, 120)).save(root/'JPEGImages'/f'{stem}.jpg')
        one = lambda n, b, t: f'<object><name>{n}</name><pose>U</pose><bndbox><xmin>{b[0]}</xmin><ymin>{b[1]}</ymin><xmax>{b[2]}</xmax><ymax>{b[3]}</ymax></bndbox><description>{t}</description></object>'
        (root/'Annotations'/f'{stem}.xml').write_text('<annotation>' + ''.join(one(*o) for o in objects) + '</annotation>')
    for split, numbers in lists.items(): (root/f'{split}.txt').write_text('\n'.join(map(str, numbers)))
    return root

RSVG = {'00003': [('ship', (10, 10, 50, 30), 'a ship')], '00001': [('airplane', (0, 0, 50, 40), 'the left airplane'), ('airplane', (50, 0, 100, 40), 'the right airplane')],
        '00002': [('windmill', (20, 20, 40, 40), 'a windmill')]}
RSVG_LISTS = dict(train=[3, 0], val=[2], test=[1])

def pairs(samples): return {(s.source_image_id, r.text) for s in samples for r in s.regions}

def test_rsvg_numbers_count_objects_over_sorted_files(tmp_path, monkeypatch):
    root = rsvg_tree(tmp_path, RSVG, RSVG_LISTS)
    files, walk = sorted((root/'Annotations').iterdir()), Path.rglob
    for order in (files, files[::-1], [files[1], files[2], files[0]]):  # whatever a walk through the folder answers
        monkeypatch.setattr(Path, 'rglob', lambda self, pattern, order=order: iter(order))
        assert pairs(V.dior_rsvg(root)) == {('00001.jpg', 'The left airplane.'), ('00003.jpg', 'A ship.')}
        assert pairs(V.dior_rsvg(root, 'valid')) == {('00002.jpg', 'A windmill.')}
        assert pairs(V.dior_rsvg(root, 'test')) == {('00001.jpg', 'The right airplane.')}
    monkeypatch.setattr(Path, 'rglob', walk)
    assert len(pairs(V.dior_rsvg(root, None))) == 4 and pairs(V.dior_rsvg(root.parent/root.name, 'all')) == pairs(V.dior_rsvg(root, None))

def test_rsvg_picture_in_two_splits_is_left_out_alone(tmp_path):
    root = rsvg_tree(tmp_path/'DIOR_RSVG', RSVG, RSVG_LISTS)
    assert pairs(V.dior_rsvg(tmp_path, alone=True)) == {('00003.jpg', 'A ship.')}
    with pytest.raises(GeoAlignError, match='no pair in split test'): V.dior_rsvg(root, 'test', alone=True)

def test_rsvg_children_by_place_and_corners_as_they_stand(tmp_path):
    root = rsvg_tree(tmp_path, RSVG, RSVG_LISTS)
    f = root/'Annotations'/'00003.xml'
    f.write_text('<annotation><object><label>ship</label><angle>3</angle><box><xmin>1</xmin><ymin>1</ymin><xmax>100</xmax><ymax>80</ymax></box><words>a  ship .</words></object></annotation>')
    r, = [r for s in V.dior_rsvg(root) for r in s.regions if s.source_image_id == '00003.jpg']
    assert (r.category, r.phrase, r.text) == ('ship', 'ship', 'A ship.') and np.allclose(r.box, (.01, 1/80, 1, 1))

def test_rsvg_unreadable_object_keeps_its_number(tmp_path):
    root, lost = rsvg_tree(tmp_path, RSVG, RSVG_LISTS), Counter()
    f = root/'Annotations'/'00001.xml'
    f.write_text(f.read_text().replace('<description>the left airplane</description>', ''))
    assert pairs(V.dior_rsvg(root, skipped=lost)) == {('00003.jpg', 'A ship.')} and lost == {'unreadable object': 1}
    assert pairs(V.dior_rsvg(root, 'val')) == {('00002.jpg', 'A windmill.')}

@pytest.mark.parametrize('text', ['4', '0 0', 'one', '-1', '1.0'])
def test_rsvg_lists_of_another_release_are_refused(tmp_path, text):
    root = rsvg_tree(tmp_path, RSVG, RSVG_LISTS); (root/'train.txt').write_text(text)
    with pytest.raises(GeoAlignError, match='train.txt has the entry'): V.dior_rsvg(root)

def test_rsvg_faults_are_sentences(tmp_path):
    root = rsvg_tree(tmp_path, RSVG, dict(train=[0]))
    with pytest.raises(GeoAlignError, match='val.txt was not found'): V.dior_rsvg(root, 'val')
    with pytest.raises(GeoAlignError, match='choose train, val, test or all'): V.dior_rsvg(root, 'minival')
    (root/'JPEGImages'/'00001.jpg').unlink()
    with pytest.raises(GeoAlignError, match='the first is 00001.jpg'): V.dior_rsvg(root)
    (root/'Annotations'/'00002.xml').write_text('<annotation>')
    with pytest.raises(GeoAlignError, match='00002.xml is not XML'): V.dior_rsvg(root)

def test_rsvg_is_a_source_of_training(tmp_path, monkeypatch):
    from geoalignclip_nb.data.loader import open_source
    rsvg_tree(tmp_path/'dior-rsvg', RSVG, RSVG_LISTS)
    monkeypatch.setenv('GEOALIGN_DATA', str(tmp_path))
    s, = open_source('dior-rsvg:train')
    assert s.source_image_id == '00003.jpg' and s.brief and s.detailed and s.regions[0].text == 'A ship.' and s.regions[0].negatives
    assert [x.source_image_id for x in open_source('dior-rsvg:val*2')] == ['00002.jpg'] * 2
    assert sum(len(open_source(f'dior-rsvg:train-{t}')) for t in ('fit', 'held')) == 1
    with pytest.raises(GeoAlignError, match='-fit'): open_source('dior-rsvg:train-best')
