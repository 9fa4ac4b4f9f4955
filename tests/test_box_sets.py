"Box sets, near-miss sets and the near misses themselves: every trap of the official files in a small set of the official layout"
import json
import os
import pickle
import random
import re
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from PIL import Image

from geoalignclip_nb.bench import box_sets as B, formats as F, near_misses as N
from geoalignclip_nb.bench.datasets import BenchSet
from geoalignclip_nb.core import GeoAlignError, Region, Sample
from geoalignclip_nb.data.frames import BoxFrame
from geoalignclip_nb.scenes import make_scene

SIDE = 128


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch): monkeypatch.setenv('GEOALIGN_CACHE', str(tmp_path/'cache'))


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else (content if isinstance(content, str) else json.dumps(content)).encode())


def picture(path, seed=0, size=(SIDE, SIDE)):
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists(): make_scene('storage tanks', seed, SIDE).image.resize(size).save(path)


def refused(call, *words):
    "The call raises one sentence that holds all `words`"
    with pytest.raises(GeoAlignError) as e: call()
    said = str(e.value)
    assert all(w in said for w in words), said
    assert '\n' not in said and not re.search(r'[.!?] [A-Z]', said), f'not one sentence: {said}'


# Masks

def encode(mask) -> str:
    "COCO's compressed run lengths, written pixel by pixel from the definition"
    runs, last = [0], 0
    for column in np.asarray(mask).T.astype(int).tolist():
        for v in column:
            if v != last: runs.append(0); last = v
            runs[-1] += 1
    text = ''
    for i, run in enumerate(runs):
        v = run - runs[i - 2] if i > 2 else run
        bits = []
        while True:
            bits.append(v & 31)
            v >>= 5
            if v == (-1 if bits[-1] & 16 else 0): break
        text += ''.join(chr(48 + b + 32 * (k < len(bits) - 1)) for k, b in enumerate(bits))
    return text


def rle(mask) -> dict: return dict(size=list(np.asarray(mask).shape), counts=encode(mask))


def block(x1, y1, x2, y2, size=(SIDE, SIDE)):
    m = np.zeros(size[::-1], bool)
    m[y1:y2, x1:x2] = True
    return m


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 10**6), st.floats(0, 1))
def test_masks_come_back(h, w, seed, share):
    mask = np.random.default_rng(seed).random((h, w)) < share
    assert (F.rle_mask(rle(mask)) == mask).all()
    ys, xs = np.nonzero(mask)
    assert F.mask_box(mask) == ((xs.min(), ys.min(), xs.max() + 1, ys.max() + 1) if len(xs) else None)


def test_long_runs_need_several_letters():
    mask = block(100, 200, 700, 220, (800, 800))
    assert max(map(len, re.findall(r'[P-o]*[0-O]', encode(mask)))) > 2
    assert F.mask_box(F.rle_mask([rle(mask)])) == (100, 200, 700, 220)


def test_broken_masks():
    whole = rle(block(3, 4, 50, 60))
    for cut in range(len(whole['counts'])): refused(lambda: F.rle_mask(whole | dict(counts=whole['counts'][:cut])), 'download the annotations again')
    refused(lambda: F.rle_mask(whole | dict(size=[SIDE, SIDE + 1])), f'{SIDE + 1} × {SIDE}')
    refused(lambda: F.rle_mask(whole | dict(counts='é')), 'letter')
    refused(lambda: F.rle_mask([whole, whole]), 'no polygons')
    refused(lambda: F.rle_mask(None), 'no polygons')
    refused(lambda: F.rle_mask(dict(size=[2, 2], counts=[5, -1])), 'runs')


# Pickles

class Attack:
    def __init__(self, path): self.path = str(path)
    def __reduce__(self): return open, (self.path, 'w')


@pytest.mark.parametrize('protocol', range(6))
def test_a_pickle_never_runs_anything(tmp_path, protocol):
    write(tmp_path/'refs(unc).p', pickle.dumps([Attack(tmp_path/'made')], protocol))
    refused(lambda: F.plain_pickle(tmp_path/'refs(unc).p'), 'refs(unc).p', 'io.open')
    assert not (tmp_path/'made').exists()


class Named:
    "A pickle that asks for any function by name"
    def __init__(self, call, *args): self.call, self.args = call, args
    def __reduce__(self): return self.call, self.args


@pytest.mark.parametrize('protocol', range(6))
@pytest.mark.parametrize('call, argument', [(eval, '[].append(1)'), (exec, 'pass'), (getattr, 'real'), (complex, '1'), (bytearray, 'a'), (os.getenv, 'HOME')],
                         ids=lambda v: getattr(v, '__name__', None))
def test_a_pickle_gets_no_function_of_any_module(tmp_path, call, argument, protocol):
    args = (1, argument) if call is getattr else (argument, 'utf-8') if call is bytearray else (argument,)
    write(tmp_path/'p', pickle.dumps([Named(call, *args)], protocol))
    refused(lambda: F.plain_pickle(tmp_path/'p'), 'p cannot be read', 'it asks for', call.__name__)


@pytest.mark.parametrize('protocol', range(6))
def test_plain_pickles_of_every_protocol(tmp_path, protocol):
    plain = [dict(a=[1, -2, 2**40], b=('é', None, True), c=1.5)]
    write(tmp_path/'p', pickle.dumps(plain, protocol))
    assert F.plain_pickle(tmp_path/'p') == plain


@pytest.mark.parametrize('content', [b'', b'hello', b'\x80\x04', pickle.dumps(list(range(99)))[:-4], pickle.dumps(np.float64(1))])
def test_unreadable_pickles(tmp_path, content):
    write(tmp_path/'p', content)
    refused(lambda: F.plain_pickle(tmp_path/'p'), 'p cannot be read')


# NWPU VHR-10

def vhr(root, lines='(1,2),(3,4),1', boxes=((0, 1, (1, 2, 2, 2)),), n=2):
    for i in range(n): picture(root/'positive image set'/f'{i + 1:03d}.jpg', i)
    picture(root/'negative image set'/'001.jpg')
    write(root/'ground truth'/'001.txt', lines)
    write(root/'annotations.json', dict(
        images=[dict(id=i, file_name=f'{i + 1:03d}.jpg', width=SIDE, height=SIDE) for i in range(n)],
        categories=[dict(id=i + 1, name=c) for i, c in enumerate(B.VHR10)],
        annotations=[dict(id=k, image_id=i, category_id=c, bbox=list(b), iscrowd=0, segmentation=[[1, 2, 3, 4, 5, 6]]) for k, (i, c, b) in enumerate(boxes)]))
    return root


def pixels(sample, size=(SIDE, SIDE)): return [tuple(np.round(np.array(r.box) * (*size, *size), 6)) for r in sample.regions]


def test_vhr_lines_with_irregular_blanks(tmp_path):
    got = B.vhr10(vhr(tmp_path, '(563,478),(630,573),1 \r\n'.replace('563,478', '5,6').replace('630,573', '20,30') + '( 1, 2),(3 ,40 ),10\n\n  (7,8) , (9,10), 3\n'), boxes='original')
    (s,) = got.samples
    assert pixels(s) == [(5, 6, 20, 30), (1, 2, 3, 40), (7, 8, 9, 10)] and [r.category for r in s.regions] == ['airplane', 'vehicle', 'storage_tank']
    assert not got.skipped


def test_vhr_numbers_are_off_by_one(tmp_path):
    got = B.vhr10(vhr(tmp_path, boxes=[(0, 1, (1, 2, 3, 4)), (1, 10, (5, 6, 7, 8))]))
    assert {s.source_image_id: (pixels(s), s.regions[0].category) for s in got.samples} == {'001.jpg': ([(1, 2, 4, 6)], 'airplane'), '002.jpg': ([(5, 6, 12, 14)], 'vehicle')}
    assert set(got.files) == {'annotations.json'} and all(len(h) == 64 for h in got.files.values())


def test_vhr_names_for_prompts(tmp_path):
    classes = B.vhr10(vhr(tmp_path)).classes
    assert list(classes) == list(B.VHR10) and classes['ground_track_field'] == ['ground track field'] and not any('_' in n for ns in classes.values() for n in ns)


def test_vhr_counts_what_it_leaves_out(tmp_path):
    bad = [(0, 0, (1, 1, 5, 5)), (0, 11, (1, 1, 5, 5)), (9, 1, (1, 1, 5, 5)), (0, 1, (5, 5, 0, 9)), (0, 1, (SIDE, 0, 9, 9)), (0, 1, (1, 2, 3)), (0, 1, ('a', 1, 1, 1)), (0, 2, (-5, 100, 20, 99))]
    got = B.vhr10(vhr(tmp_path, boxes=bad))
    assert got.skipped == Counter({'unknown category 0': 1, 'unknown category 11': 1, 'picture is not listed': 1, 'box has no area': 1, 'box lies outside': 1, 'box is unreadable': 2})
    assert pixels(got.samples[0]) == [(0, 100, 15, SIDE)]
    got = B.vhr10(vhr(tmp_path, '(1,1),(5,5),0\n(1,1),(5,5)\n(1,1),(5,5),1,2\n(9,9),(1,1),2\n(1,1),(5,5),4'), boxes='original')
    assert got.skipped == Counter({'unknown category 0': 1, 'line is unreadable': 2, 'box has no area': 1}) and got.samples[0].regions[0].category == 'baseball_diamond'


def test_vhr_duplicate_file_names_and_broken_json(tmp_path):
    vhr(tmp_path)
    d = json.loads((tmp_path/'annotations.json').read_text())
    d['images'][1]['file_name'] = '001.jpg'
    write(tmp_path/'annotations.json', d)
    refused(lambda: B.vhr10(tmp_path), 'lists a picture twice')
    for k in ('images', 'annotations', 'categories'):
        write(tmp_path/'annotations.json', {n: v for n, v in d.items() if n != k})
        refused(lambda: B.vhr10(tmp_path), 'annotations.json', k)
    write(tmp_path/'annotations.json', '{')
    refused(lambda: B.vhr10(tmp_path), 'not JSON')


def test_missing_and_damaged_pictures(tmp_path):
    vhr(tmp_path, boxes=[(0, 1, (1, 2, 3, 4)), (1, 1, (5, 6, 7, 8)), (1, 2, (5, 6, 7, 8))])
    (tmp_path/'positive image set'/'002.jpg').unlink()
    refused(lambda: B.vhr10(tmp_path), '1 of 2', '002.jpg', 'missing')
    assert (got := B.vhr10(tmp_path, partial=True)).skipped == {'picture is missing': 2} and len(got.samples) == 1
    write(tmp_path/'positive image set'/'002.jpg', b'no picture')
    refused(lambda: B.vhr10(tmp_path), '002.jpg', 'unreadable')
    assert B.vhr10(tmp_path, partial=True).skipped == {'picture is unreadable': 2}


def test_a_set_inside_the_folder_of_its_archive(tmp_path):
    vhr(tmp_path/'a'/'NWPU VHR-10 dataset')
    assert len(B.vhr10(tmp_path/'a').samples) == 1


def test_vhr_as_the_hub_unpacks(tmp_path):
    whole = vhr(tmp_path/'hub'/'NWPU VHR-10 dataset', boxes=[(0, 1, (1, 2, 3, 4))])
    inside = B.vhr10(tmp_path/'hub')
    (whole/'annotations.json').rename(tmp_path/'hub'/'annotations.json')  # beside the folder of the zip
    for root in (tmp_path/'hub', whole): assert (got := B.vhr10(root)).samples == inside.samples and got.files == inside.files
    assert len(B.vhr10(tmp_path/'hub', boxes='original').samples) == 1
    (tmp_path/'hub'/'annotations.json').unlink()
    refused(lambda: B.vhr10(tmp_path/'hub'), 'vhr10 was not found', 'chaozhong2010')
    assert len(B.vhr10(tmp_path/'hub', boxes='original').samples) == 1


@pytest.mark.parametrize('name', ['vhr10', 'rrsis-d', 'rrsis-hr', 'choice-img', 'choice-ins'])
def test_a_set_that_is_not_there(tmp_path, name):
    data = (B.BOX_SETS | B.NEAR_MISS_SETS)[name]
    for root in (tmp_path, tmp_path/'none'): refused(lambda: data.read(root), name, f"{data.where} ({data.size or 'size not known'}, {data.terms})", data.layout, '--root')
    refused(lambda: data.read(tmp_path, 'tset'), 'tset')
    assert data.name == name and data.split in data.splits
    assert data.n and data.paper_n


def test_numbers_of_the_paper():
    known = B.BOX_SETS | B.NEAR_MISS_SETS
    assert {k: (d.n['n'], d.paper_n['n']) for k, d in known.items() if d.n} == {'vhr10': (3921, 2898), 'rrsis-d': (3481, 5833), 'rrsis-hr': (264, 577), 'choice-img': (200, 200), 'choice-ins': (500, 500)}


# RRSIS-D and RRSIS-HR

def refer(root, folder='rrsisd', rows=None, names=B.RRSIS_D, size=(SIDE, SIDE), disk=None, spelling='categories_id'):
    "`rows`: (file name, split, class number, box as written, mask, sentences)"
    refs, images, anns = [], [], []
    for i, (name, split, c, box, mask, texts) in enumerate(rows):
        refs.append(dict(ref_id=i, ann_id=i, image_id=i, category_id=c, file_name=name, split=split, sent_ids=[i], sentences=[dict(sent_id=i, sent=t, raw=t, tokens=t.split()) for t in texts]))
        images.append(dict(id=i, file_name=name, height=size[1], width=size[0]))
        anns.append({'id': i, 'image_id': i, spelling: c, 'bbox': list(box), 'area': 7, 'segmentation': [rle(mask)]})
        picture(root/'images'/folder/'JPEGImages'/name, i, disk or size)
    write(root/folder/'refs(unc).p', pickle.dumps(refs))
    write(root/folder/'instances.json', dict(images=images, annotations=anns, categories=[dict(id=i, name=n) for i, n in enumerate(names)]))
    return root


ROWS = [('00001.jpg', 'test', 2, (20, 30, 59, 49), block(20, 30, 60, 50), ['A plane  on the left']),
        ('00002.jpg', 'test', 15, (90, 80, 119, 119), block(90, 80, 120, 120), ['a tank']),
        ('00003.jpg', 'val', 0, (1, 1, 9, 9), block(1, 1, 10, 10), ['a service area'])]


def change(root, edit, file='rrsisd/instances.json'):
    d = json.loads((root/file).read_text())
    edit(d)
    write(root/file, d)


def test_corners_under_a_key_that_says_bbox(tmp_path):
    got = B.rrsis_d(refer(tmp_path, rows=ROWS))
    assert [pixels(s) for s in got.samples] == [[(20, 30, 59, 49)], [(90, 80, 119, 119)]]
    assert 'read as xyxy' in got.notes[0]


def test_a_copy_with_width_and_height(tmp_path):
    rows = [(n, s, c, (b[0], b[1], b[2] - b[0], b[3] - b[1]), m, t) for n, s, c, b, m, t in ROWS]
    got = B.rrsis_d(refer(tmp_path, rows=rows))
    assert [pixels(s) for s in got.samples] == [[(20, 30, 59, 49)], [(90, 80, 119, 119)]] and 'read as xywh' in got.notes[0]


def test_boxes_that_fit_no_mask(tmp_path):
    refer(tmp_path, rows=[(n, s, c, (100, 1, 101, 2), m, t) for n, s, c, _, m, t in ROWS[:1]])
    refused(lambda: B.rrsis_d(tmp_path), 'box=mask')
    assert pixels(B.rrsis_d(tmp_path, box='mask').samples[0]) == [(20, 30, 60, 50)]


@pytest.mark.parametrize('spelling', ['categories_id', 'category_id'])
def test_the_odd_key_of_the_class(tmp_path, spelling):
    got = B.rrsis_d(refer(tmp_path, rows=ROWS, spelling=spelling), 'all')
    assert [s.regions[0].category for s in got.samples] == ['airplane', 'storagetank', 'Expressway-Service-area']


def test_twenty_names_are_split():
    spoken = [F.readable_class_name(n) for n in B.RRSIS_D]
    assert len(set(spoken)) == 20
    assert {'baseball field', 'basketball court', 'golf field', 'ground track field', 'storage tank', 'tennis court', 'train station', 'expressway service area', 'expressway toll station',
            'airport', 'stadium', 'windmill', 'overpass'} <= set(spoken)


def test_splits(tmp_path):
    refer(tmp_path, rows=ROWS)
    assert [len(B.rrsis_d(tmp_path, s).samples) for s in ('test', 'val', 'all')] == [2, 1, 3]
    refused(lambda: B.rrsis_d(tmp_path, 'train'), 'train', 'test, val')
    assert [s.regions[0].text for s in B.rrsis_d(tmp_path).samples] == ['A plane on the left', 'a tank']


@pytest.mark.parametrize('disk', [(SIDE, SIDE + 1), (SIDE + 1, SIDE), (SIDE, SIDE - 13)])
def test_a_picture_that_differs_by_a_pixel(tmp_path, disk):
    row = ('00001.jpg', 'test', 2, (100, 100, SIDE + 3, SIDE), block(100, 100, SIDE, SIDE), ['a plane'])
    got = B.rrsis_d(refer(tmp_path, rows=[row], disk=disk))
    assert got.samples[0].regions[0].box == (100/SIDE, 100/SIDE, 1, 1)
    assert any('00001.jpg' in n and f'{disk[0]} × {disk[1]}' in n for n in got.notes)


def test_refs_and_annotations_that_disagree(tmp_path):
    rows = [*ROWS, ('00004.jpg', 'test', 3, (5, 5, 99, 99), block(5, 5, 100, 100), ['an airport'])]
    refer(tmp_path, rows=rows)
    assert not B.rrsis_d(tmp_path).skipped
    for edit, reason in [(lambda d: d['annotations'].pop(0), 'annotation is missing'), (lambda d: d['annotations'][0].update(categories_id=99), 'unknown category'),
                         (lambda d: d['annotations'][0].update(segmentation=[dict(size=[SIDE, SIDE], counts='04')]), 'mask is unreadable'),
                         (lambda d: d['annotations'][0].update(segmentation=[[1, 2, 3, 4]]), 'mask is unreadable'), (lambda d: d['annotations'][0].update(segmentation=[dict(size=7, counts='04')]), 'mask is unreadable'),
                         (lambda d: d['annotations'][0].update(segmentation=[rle(block(0, 0, 0, 0))]), 'mask is empty'), (lambda d: d['images'][0].update(file_name='9.jpg'), 'file names disagree'),
                         (lambda d: d['annotations'].append(d['annotations'][0]), 'annotation id repeats'), (lambda d: d['annotations'][0].update(bbox=[1, 2]), 'box is unreadable'),
                         (lambda d: d['annotations'][0].update(bbox=[30, 40, 30, 50]), 'box has no area'), (lambda d: d['annotations'][0].update(bbox=[500, 500, 510, 510]), 'box lies outside')]:
        refer(tmp_path, rows=rows)
        change(tmp_path, edit)
        got = B.rrsis_d(tmp_path)
        assert got.skipped == {reason: 1} and [s.source_image_id for s in got.samples] == ['00002.jpg', '00004.jpg'], reason
    refer(tmp_path, rows=rows)
    change(tmp_path, lambda d: d.pop('categories'))
    refused(lambda: B.rrsis_d(tmp_path), 'instances.json', 'categories')
    write(tmp_path/'rrsisd/refs(unc).p', pickle.dumps([Attack(tmp_path/'made')]))
    refused(lambda: B.rrsis_d(tmp_path), 'refs(unc).p')
    write(tmp_path/'rrsisd/refs(unc).p', pickle.dumps(dict(a=1)))
    refused(lambda: B.rrsis_d(tmp_path), 'refs(unc).p')


XML = '<annotation><filename>{0}.jpg</filename>{1}<object><name>{2}</name><bndbox><xmin>1</xmin><ymin>2</ymin><xmax>30</xmax><ymax>40</ymax></bndbox></object>' \
      '<object><name>harbor</name><bndbox><xmin>50</xmin><ymin>60</ymin><xmax>90</xmax><ymax>100</ymax></bndbox><segmentation/></object></annotation>'


def test_all_objects_of_a_picture(tmp_path):
    refer(tmp_path, rows=ROWS)
    refused(lambda: B.rrsis_d(tmp_path, objects='all'), 'ann_split')
    folder = tmp_path/'images/rrsisd/ann_split'
    for n, split, name in (('00001', '<split>test</split>', 'Ship'), ('00002', '', 'zeppelin'), ('00003', '<split>val</split>', 'dam')): write(folder/f'{n}.xml', XML.format(n, split, name))
    got = B.rrsis_d(tmp_path, objects='all')
    assert {s.source_image_id: [r.category for r in s.regions] for s in got.samples} == {'00001.jpg': ['ship', 'harbor'], '00002.jpg': ['harbor']}
    assert got.skipped == {'unknown category': 1} and pixels(got.samples[0])[1] == (50, 60, 90, 100)
    assert sum(len(s.regions) for s in B.rrsis_d(tmp_path, 'all', objects='all').samples) == 5
    write(folder/'00001.xml', '<annotation><object>')
    refused(lambda: B.rrsis_d(tmp_path, objects='all'), '00001.xml')


HR = ('baseball field', 'storagetank')
HR_ROWS = [('a.jpg', 'test', 1, (1, 2, 3, 4), block(20, 30, 60, 50), ['the largest storage tank on the upper left']), ('a.jpg', 'test', 1, (5, 6, 7, 8), block(80, 80, 90, 90), ['find a storage tank on the lower right']),
           ('b.jpg', 'train', 0, (1, 1, 9, 9), block(1, 1, 10, 10), ['a baseball field near the woods'])]


def test_rrsis_hr_box_from_the_mask(tmp_path):
    got = B.rrsis_hr(refer(tmp_path, 'rrsishr', HR_ROWS, HR))
    (s,) = got.samples
    assert pixels(s) == [(20, 30, 60, 50), (80, 80, 90, 90)] and [r.text for r in s.regions] == [t for *_, ts in HR_ROWS[:2] for t in ts]
    assert all(len(r.negatives) == 10 and not r.phrase for r in s.regions) and len(got.files['near misses']) == 64
    assert any('near-misses 1' in n and 'seed 0' in n for n in got.notes) and any('around the mask' in n for n in got.notes)
    refused(lambda: B.rrsis_hr(tmp_path, box='bbox'), 'neither reading')


def test_rrsis_hr_frozen(tmp_path):
    refer(tmp_path, 'rrsishr', HR_ROWS, HR)
    first = B.rrsis_hr(tmp_path, negatives=tmp_path/'n.json')
    again = B.rrsis_hr(tmp_path, negatives=tmp_path/'n.json', seed=5)  # the file decides
    assert first.samples == again.samples and first.files == again.files and 'seed 0' in again.notes[-1]
    refused(lambda: B.rrsis_hr(tmp_path, 'train', negatives=tmp_path/'n.json'), 'do not know', 'baseball field')
    (tmp_path/'n.json').write_text((tmp_path/'n.json').read_text().replace('upper left', 'upper  left', 1))
    refused(lambda: B.rrsis_hr(tmp_path, negatives=tmp_path/'n.json'), 'n.json', 'changed')


def test_near_misses_without_a_file_are_frozen_in_the_cache(tmp_path):
    refer(tmp_path, 'rrsishr', HR_ROWS, HR)
    first, folder = B.rrsis_hr(tmp_path), tmp_path/'cache'/'near_misses'
    (file,) = folder.iterdir()
    assert re.fullmatch(r'rrsis-hr-test-[0-9a-f]{8}\.json', file.name) and N.load(file)['sha256'] == first.files['near misses'] and first.seed == 0
    assert f'frozen in near_misses/{file.name} of the cache' in first.notes[-1] and not any(str(tmp_path) in n for n in first.notes)
    other = N.make([(s.source_image_id, r.text) for s in first.samples for r in s.regions], seed=3)
    file.unlink(); N.freeze(file, other)  # what lies there is read, not made anew
    assert (again := B.rrsis_hr(tmp_path)).files['near misses'] == other['sha256'] != first.files['near misses'] and again.seed == 3
    assert B.rrsis_hr(tmp_path, seed=1).seed == 1 and B.rrsis_hr(tmp_path, n=4).samples != again.samples and B.rrsis_hr(tmp_path, 'train').seed == 0
    assert len(list(folder.iterdir())) == 4
    file.write_text(file.read_text().replace('"n": 10', '"n": 9'))
    refused(lambda: B.rrsis_hr(tmp_path), file.name, 'changed')


def test_a_cache_that_cannot_be_written(tmp_path, monkeypatch):
    refer(tmp_path, 'rrsishr', HR_ROWS, HR); (tmp_path/'file').write_text('')
    monkeypatch.setenv('GEOALIGN_CACHE', str(tmp_path/'file'/'cache'))
    refused(lambda: B.rrsis_hr(tmp_path), 'GEOALIGN_CACHE', 'option negatives')
    assert B.rrsis_hr(tmp_path, negatives=tmp_path/'n.json').seed == 0


# RSVG-HR lines

def test_rsvg_lines(tmp_path):
    for i, n in enumerate(('a.jpg', 'b.jpg')): picture(tmp_path/'images'/n, i)
    write(tmp_path/'Annotations/rsvg_hr_test.txt', '\n'.join([
        'a.jpg,10.00,20.0,30.5,40,find a tennis court near a pond', 'b.jpg,10.0,20,00,50.0,60.0,a swimming pool on the left', 'a.jpg,100.0,100.0,130.0,129.0,a roundabout on the far right',
        'a.jpg,50.0,60.0,50.0,70.0,a pond', 'a.jpg,50.0,60.0,40.0,70.0,a pond', 'a.jpg,1,2,3,4,5,a pond', 'a.jpg,1,2,3,a pond', 'a.jpg,1,2,3,4', '']))
    got = B.rrsis_hr(tmp_path, source='rsvg-hr')
    assert {s.source_image_id: pixels(s) for s in got.samples} == {'a.jpg': [(10, 20, 30.5, 40), (100, 100, SIDE, SIDE)], 'b.jpg': [(10, 20, 50, 60)]}
    assert got.skipped == {'box has no area': 2, 'line is unreadable': 3}
    write(tmp_path/'Annotations/rsvg_hr_train.txt', 'a.jpg,1,2,3,4,a pool\n')
    assert sum(len(s.regions) for s in B.rrsis_hr(tmp_path, 'all', source='rsvg-hr').samples) == 4


def test_decimal_comma_is_repaired_only_where_it_is_certain():
    assert F.rsvg_line('a.jpg,100.0,216,00,150.0,250.0,a pond') == ('a.jpg', (100, 216, 150, 250), 'a pond')
    assert F.rsvg_line('a.jpg,216,00,20.0,250.0,50.0,a pond') == ('a.jpg', (216, 20, 250, 50), 'a pond')
    assert F.rsvg_line('a.jpg,1,2,30,40,50,a pond') is None  # (1.2, 30, 40, 50) and (1, 2, 30, 40.50) are both boxes
    assert F.rsvg_line('a.jpg,1.5,2.5,30.5,40.5,50.5,a pond') is None
    assert F.rsvg_line('a.jpg,1,2,3,4,') is None and F.rsvg_line('') is None


# CHOICE

CAPTIONS = 'Describe this bridge scene.\nA.A bridge over a river.\nB. A street. \nC.A pond.'


def choice(root, task, items, level='perception/x'):
    write(root/level/task/f'{task}.json', items)
    picture(root/'images'/'1.png')
    return root


def item(**change): return dict(id='a', image_path='images/1.png', question=CAPTIONS, answer='A') | change


def test_options_with_or_without_a_blank(tmp_path):
    got = B.choice_image(choice(tmp_path, 'image_caption', [item(), item(id='b', answer='C', question=CAPTIONS + '\nD.  A lake.')]))
    assert [(r.box, r.text, r.negatives) for s in got.samples for r in s.regions] == [
        ((0, 0, 1, 1), 'A bridge over a river.', [('A street.', 'option'), ('A pond.', 'option')]),
        ((0, 0, 1, 1), 'A pond.', [('A bridge over a river.', 'option'), ('A street.', 'option'), ('A lake.', 'option')])]
    assert not any('Describe' in t for s in got.samples for r in s.regions for t in (r.text, *(n for n, _ in r.negatives)))
    assert any('whole picture' in n for n in got.notes) and any('image_caption' in n for n in got.notes)
    assert len({s.id for s in got.samples}) == 2


def test_questions_that_cannot_be_used(tmp_path):
    bad = [item(id='1', question='Describe.'), item(id='2', answer='D'), item(id='3', answer=None), item(id='4', question='x\nA.one\nC.two'), item(id='5', question='x\nA.one\nB.one'), item(id='6', question='x\nA.one\nB.\nC.two'), item(id='7')]
    got = B.choice_image(choice(tmp_path, 'image_caption', bad))
    assert got.skipped == {'question without options': 3, 'answer is none of the options': 2, 'options repeat': 1} and [s.id for s in got.samples] == ['choice-img/7']
    refused(lambda: B.choice_image(choice(tmp_path, 'image_caption', [item(), item()])), 'image_caption.json', 'twice')
    refused(lambda: B.choice_image(choice(tmp_path, 'image_caption', [dict(id=1)])), 'not laid out')
    refused(lambda: B.choice_image(choice(tmp_path, 'image_caption', [item(image_path='images/2.png')])), '2.png')
    refused(lambda: B.choice_image(choice(tmp_path, 'image_caption', [item(image_path='../2.png')])), 'leaves')
    assert B.choice_image(tmp_path := choice(tmp_path, 'image_caption', [item(image_path='images/2.png')]), partial=True).skipped == {'picture is missing': 1}


def masked(root, mask, name='1.png', **change):
    (root/'masks').mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.repeat(np.uint8(mask)[..., None] * 255, 3, 2)).save(root/'masks'/name)
    return {k: v for k, v in item(mask_path=f'masks/{name}', **change).items() if k != 'answer'}


def test_referring_phrases_and_mask_boxes(tmp_path):
    task = 'referring_expression_segmentation'
    two = block(10, 20, 30, 40) | block(90, 100, 110, 120)
    items = [masked(tmp_path, two, id='a', question='Give me the mask of the two ships in this image.'), masked(tmp_path, block(0, 0, 0, 0), '2.png', id='b', question='Give me the mask of the dam.'),
             masked(tmp_path, two, '3.png', id='c', question='Where is the dam?'), masked(tmp_path, two, id='d', question='Give me the mask of the dam.') | dict(mask_path='masks/9.png')]
    got = B.choice_instances(choice(tmp_path, task, items))
    (s,) = got.samples
    assert pixels(s) == [(10, 20, 110, 120)] and s.regions[0].text == 'the two ships in this image' and len(s.regions[0].negatives) == 10
    assert got.skipped == {'mask is empty': 1, 'question without a phrase': 1, 'mask is missing or unreadable': 1} and any(task in n for n in got.notes)
    assert {'the three ships in this image', 'the two dams in this image'} & {t for t, _ in s.regions[0].negatives}


def test_attribute_recognition_uses_the_whole_list(tmp_path):
    items = [item(id='a', question='What color is the vehicle?\nA.orange\nB.yellow\nC.white\nD.red', answer='C'), item(id='b', question='What orientation is it?\nA.left to right\nB.top left to bottom right', answer='B'),
             item(id='c', question='What is it?\nA.striped\nB.dotted')]
    got = B.choice_instances(choice(tmp_path, 'attribute_recognition', items), task='attribute_recognition')
    regions = [s.regions[0] for s in got.samples]
    assert [(r.text, len(r.negatives), {k for _, k in r.negatives}) for r in regions] == [('white', 9, {'attribute'}), ('top left to bottom right', 7, {'orientation'}), ('striped', 1, {'option'})]
    assert all(r.text not in dict(r.negatives) for r in regions) and any('attribute_recognition' in n for n in got.notes)


def test_visual_grounding_corners_in_any_order(tmp_path):
    ask = 'Please output the coordinates of the {} in the image in the format (x1, y1, x2, y2).'
    corners = [[.1, .2], [.5, .2], [.5, .9], [.1, .9]]
    items = [item(id=n, question=ask.format(n), answer=random.Random(i).sample(corners, 4)) for i, n in enumerate(('storage-tank', 'dam', 'airplane'))]
    items += [item(id='x', question='Where?', answer=corners), item(id='y', question=ask.format('dam'), answer=corners[:3]), item(id='z', question=ask.format('dam'), answer='B'), item(id='w', question=ask.format('dam'), answer=[[.1, .2]] * 4)]
    got = B.choice_instances(choice(tmp_path, 'visual_grounding', items), task='visual_grounding')
    assert {s.regions[0].box for s in got.samples} == {(.1, .2, .5, .9)}
    assert [(s.regions[0].text, sorted(t for t, _ in s.regions[0].negatives)) for s in got.samples] == [('storage tank', ['airplane', 'dam']), ('dam', ['airplane', 'storage tank']), ('airplane', ['dam', 'storage tank'])]
    assert got.skipped == {'question without a class': 1, 'box is unreadable': 2, 'box has no area': 1}
    refused(lambda: B.choice_instances(tmp_path, task='visual_grounding', split='test'), "no split 'test'")


# Near misses

SENTENCES = ['find a swimming pool on the center of the far left and it is on the lower right of a white building', 'the largest storage tank on the upper left', 'search four adjacent tennis courts in the middle part and they are near the woods',
             'find the second roundabout from the left of some roundabouts that are on the far bottom and it is located at the left of the main road', 'a baseball field on the upper right and it is on the top of another baseball field',
             'search the first two adjacent tennis courts from the upper right of some tennis courts that are on the upper left and they are on the top of a parking lot', 'the largest white storage tank on the far right and it is on the lower left of another small storage tank']
PHRASES = ['the airplane on the left', 'all bridges in this image', 'the lower two bridges in this image', 'the bridge at the bottom of this image', 'the soccer ball fields in this image', 'the three ships in this image']
ALL = [(t, 'rrsis-hr') for t in SENTENCES] + [(t, 'choice') for t in PHRASES]


@pytest.mark.parametrize('text, words', ALL)
def test_near_misses_are_ten_different_and_false(text, words):
    made = N.near_texts(text, words=words)
    assert len(made) == 10 and len({N.canonical(t) for t, *_ in made} | {N.canonical(text)}) == 11
    assert {k for _, k, _ in made} <= {'attribute', 'orientation', 'category'} and all(k == N.KINDS[g[0]] for _, k, g in made)
    assert not any('  ' in t or re.search(r'\ba [aeiou]|\ban [^aeiou]|sss|woodss|[^s]ees\b', t) for t, *_ in made)


@pytest.mark.parametrize('text, words', ALL)
def test_a_single_swap_keeps_everything_else(text, words):
    for slot in [*N.place_slots(text), *N.word_slots(text), *N.noun_slots(text, words)]:
        for w in slot.new:
            made, (a, b) = N.put(text, [(slot, w)]), slot.spans[0]
            if len(slot.spans) == 1:
                head, tail = re.sub(r'\ban? $', '', text[:a]), re.sub(r'^e?s\b', '', text[b:])
                assert made.startswith(head) and made.endswith(tail)
                assert re.fullmatch(rf'(an? )?{w}(e?s)?', made[len(head):len(made) - len(tail)]), (text, made)
            else:  # there and back
                assert N.put(made, [(N.noun_slots(made, words)[0], text[a:b])]) == text


def test_plurals_of_nouns():
    (dams,) = N.noun_slots('all dams', 'choice')
    assert N.put('all dams', [(dams, 'overpass')]) == 'all overpasses'
    (passes,) = N.noun_slots('all overpasses', 'choice')
    assert N.put('all overpasses', [(passes, 'dam')]) == 'all dams'
    woods = N.noun_slots('a ship near the woods', 'choice')[1]
    assert N.put('a ship near the woods', [(woods, 'pond')]) == 'a ship near the pond'


def test_the_target_changes_everywhere_at_once():
    for text in SENTENCES:
        (target,) = [s for s in N.noun_slots(text) if s.group == 'target']
        old = text[slice(*target.spans[0])]
        for w in target.new: assert old not in N.put(text, [(target, w)])


def test_a_place_is_never_replaced_by_its_neighbour():
    sign = dict(left=(-1, 0), right=(1, 0), top=(0, -1), upper=(0, -1), bottom=(0, 1), lower=(0, 1))
    where = lambda p: tuple(np.clip(np.sum([sign[w] for w in p.split() if w in sign], 0), -1, 1))
    for p in ['left', 'right', 'top', 'bottom', 'upper', 'lower', *(f'{v} {h}' for v in ('upper', 'lower', 'top', 'bottom') for h in ('left', 'right'))]:
        for q in N.other_places(p): assert min(np.multiply(where(p), where(q))) == -1, (p, q)


def test_ordinal_and_direction_are_not_swapped_together():
    text = 'the first roundabout from the left of some roundabouts'
    made = N.near_texts(text, n=500)
    assert 'the second roundabout from the right of some roundabouts' not in [t for t, *_ in made]
    assert any(len(g) == 2 for *_, g in made) and not any({'ordinal', 'direction'} <= set(g) for *_, g in made)


def test_single_swaps_come_first_and_the_rest_is_counted():
    made = N.near_texts('the ship on the left', words='choice', n=40)
    sizes = [len(g) for *_, g in made]
    assert sizes == sorted(sizes) and set(sizes) == {1, 2}
    counts = N.make([('1', 'a helipad'), ('2', 'a pool on the left'), ('3', SENTENCES[0]), ('4', 'the largest swimming pool')])['counts']
    assert counts['sentences'] == 4 and counts['none'] == 1 and counts['full'] == 1 and counts['two swaps needed'] == 1 and counts['fewer'] == 1


def test_never_another_true_text_of_the_picture():
    true = 'a tennis court on the left'
    for other in (t for t, *_ in N.near_texts(true, n=99)):
        said = {N.canonical(t) for t, *_ in N.near_texts(true, ['Search ' + other], n=99)}
        assert N.canonical(other) not in said


def test_things_that_other_sentences_name_are_not_false():
    made = N.near_texts('a swimming pool near a building', ['a roundabout near a river', 'a tennis court near a woods'], n=99)
    near = [re.search(r'(?:near|far from) an? (.+)', t)[1] for t, *_ in made]
    assert not {'river', 'lake', 'pond', 'woods', 'lawn'} & set(near) and 'parking lot' in near
    black = [t for t, *_ in N.near_texts('a swimming pool near a white building', ['a pool near a black building'], n=99)]
    assert not any('black building' in t for t in black) and any('red building' in t for t in black)


def test_order_and_process_do_not_matter():
    pairs = [(f'{i % 3}.jpg', t) for i, t in enumerate(SENTENCES)]
    made = N.make(pairs)
    assert N.make(pairs[::-1]) == made == N.make(pairs * 2) and N.make(pairs, seed=1)['sha256'] != made['sha256']
    assert made['sha256'] == FROZEN, 'the generator changed: change GENERATOR too, then this hash'


FROZEN = 'f16fb2d49fe4e3cc0b3f509ba9cd8f88addb728a86cbaf6cfb4811e2f1f275d3'  # of SENTENCES under near-misses 1, seed 0


def test_frozen_file_refuses_every_change(tmp_path):
    made = N.make([('1.jpg', SENTENCES[0])])
    N.freeze(tmp_path/'n.json', made)
    assert N.load(tmp_path/'n.json') == made and not list(tmp_path.glob('.*'))
    for key, value in (('seed', 9), ('n', 3), ('generator', 'x'), ('items', []), ('counts', {}), ('sha256', '0' * 64)):
        write(tmp_path/'m.json', made | {key: value})
        refused(lambda: N.load(tmp_path/'m.json'), 'm.json', 'changed')
    write(tmp_path/'m.json', made | dict(extra=1))
    refused(lambda: N.load(tmp_path/'m.json'), 'changed')
    refused(lambda: N.freeze(tmp_path/'n.json', N.make([('1.jpg', SENTENCES[1])])), 'n.json', 'already')
    assert N.load(tmp_path/'n.json') == made


def test_attach_leaves_the_samples_alone():
    s = Sample('1.jpg', source_image_id='1.jpg', regions=[Region((0, 0, 1, 1), text=SENTENCES[0])])
    (got,) = N.attach([s], N.make([('1.jpg', SENTENCES[0])]))
    assert not s.regions[0].negatives and len(got.regions[0].negatives) == 10
    refused(lambda: N.attach([s], N.make([('2.jpg', SENTENCES[0])])), '1.jpg')


def test_bad_requests():
    refused(lambda: N.near_texts('a pond', n=0), 'at least 1')
    refused(lambda: N.near_texts('a pond', words='dior'), 'dior')
    refused(lambda: F.box_style([(0, 0, 1, 1)], [(5, 5, 9, 9)]), 'neither reading')
    out = BenchSet('x', 'all', [])
    assert F.kept_box((0, 0, float("inf"), 3), BoxFrame((9, 9)), out) is None and out.skipped == {'box is unreadable': 1}
