"""All readers at once: boxes in the frame of the upright image, names in other spellings, files that Windows and macOS touched."""
import bz2
import dataclasses
import gzip
import json
import lzma
import re
import tarfile
import unicodedata
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from data.captions import make as captions
from data.coco import make as coco
from data.pictures import PICTURES, UNTURN, Style
from data.rsfg import make as rsfg
from data.rsvg_hr import make as rsvg_hr
from geoalignclip_nb.bench import box_sets as B, datasets as D, near_misses, tables
from geoalignclip_nb.bench.datasets import BenchSet
from geoalignclip_nb.bench.embeddings import Embedder
from geoalignclip_nb.bench.formats import rsvg_line
from geoalignclip_nb.core import GeoAlignError, asset, turn_boxes
from geoalignclip_nb.data import concepts, sources as S
from geoalignclip_nb.data.shards import open_shards, scan_tar
from geoalignclip_nb.io.images import image_header, load_image
from geoalignclip_nb.train import presets
from readers import BOX_READERS, JSON_READERS, NAME_READERS, READERS
from small_towers import VIT, small_model

UPRIGHT = {p.name: sorted(tuple(np.array(b) / (*p.image.size, *p.image.size)) for b in p.boxes) for p in PICTURES}
EXIF = range(1, 9)


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch): monkeypatch.setenv('GEOALIGN_CACHE', str(tmp_path_factory.mktemp('cache')))


def read(reader, root, **options):
    "Samples of a reader and the sentences that it told"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        found = reader.read(root, **options)
    told = [str(w.message) for w in caught if w.category is UserWarning]
    if isinstance(found, BenchSet): return found.samples, told + found.notes + [f'{n} {why}' for why, n in found.skipped.items()]
    return found, told


def boxes_of(samples) -> dict[str, list[tuple]]:
    "Stem of the image -> sorted boxes"
    found = {}
    for s in samples: found.setdefault(Path(s.source_image_id).stem, []).extend(r.box for r in s.regions)
    return {name: sorted(set(boxes)) for name, boxes in found.items()}


def same_boxes(samples):
    found = boxes_of(samples)
    assert set(found) == set(UPRIGHT)
    for name, boxes in UPRIGHT.items(): np.testing.assert_allclose(found[name], boxes, atol=1e-9, err_msg=name)


# One frame

@pytest.mark.parametrize('orientation', EXIF)
def test_boxes_turn_with_the_image(orientation):
    "Against Pillow's own transposition"
    image = Image.new('L', (24, 16))
    image.paste(255, (4, 2, 12, 10))
    stored = image if orientation == 1 else image.transpose(UNTURN[orientation])
    width, height = stored.size
    box = np.array(stored.getbbox()) / (width, height, width, height)
    upright = np.array((4, 2, 12, 10)) / (24, 16, 24, 16)
    np.testing.assert_allclose(turn_boxes([box], orientation), [upright])
    np.testing.assert_allclose(turn_boxes([upright], orientation, back=True), [box])


@pytest.mark.parametrize('orientation', EXIF)
@pytest.mark.parametrize('ending', ['jpg', 'png', 'tif', 'webp'])
def test_headers_agree_with_the_image_reader(ending, orientation, tmp_path):
    exif = Image.Exif()
    exif[274] = orientation
    Image.new('RGB', (40, 24)).save(tmp_path/f'a.{ending}', exif=exif)
    header = image_header(tmp_path/f'a.{ending}')
    assert (header.stored, header.orientation) == ((40, 24), orientation)
    assert header.upright == load_image(tmp_path/f'a.{ending}').size


@pytest.mark.parametrize('orientation', EXIF)
@pytest.mark.parametrize('reader', BOX_READERS, ids=str)
def test_annotations_of_the_upright_image(reader, orientation, tmp_path):
    root = reader.build(tmp_path/'set', Style(orientation))
    same_boxes(read(reader, root)[0])
    same_boxes(read(reader, root, frame='upright')[0])


@pytest.mark.parametrize('orientation', EXIF)
@pytest.mark.parametrize('reader', BOX_READERS, ids=str)
def test_annotations_of_the_stored_bitmap(reader, orientation, tmp_path):
    root = reader.build(tmp_path/'set', Style(orientation, 'stored'))
    same_boxes(read(reader, root, frame='stored')[0])
    if not reader.sized or orientation < 5: return
    samples, told = read(reader, root)  # the sizes tell
    same_boxes(samples)
    assert sum('stored bitmap' in t and 'turned with the image' in t for t in told) == 1


@pytest.mark.parametrize('reader', BOX_READERS, ids=str)
def test_a_frame_that_does_not_exist(reader, tmp_path):
    with pytest.raises(GeoAlignError, match="Unknown frame 'exif'"): read(reader, reader.build(tmp_path/'set'), frame='exif')


@pytest.mark.parametrize('reader', [r for r in BOX_READERS if not r.name.startswith('rsfg')], ids=str)
def test_a_choice_is_told_once_with_a_count(reader, tmp_path):
    _, told = read(reader, reader.build(tmp_path/'set', Style(3)))  # half a turn: no size tells it
    about = [t for t in told if 'do not tell' in t]
    assert len(about) == 1 and 'for 2 images' in about[0] and 'upright was chosen' in about[0] and 'option frame' in about[0]
    assert not any('do not tell' in t for t in read(reader, tmp_path/'set', frame='stored')[1])


def test_an_image_that_cannot_tell_follows_the_others(tmp_path):
    reader = next(r for r in BOX_READERS if r.name == 'coco')
    root = reader.build(tmp_path/'set', Style(6, 'stored'))
    Style(3).save(PICTURES[1], root/'images'/'002.jpg')
    content = json.loads((root/'annotations.json').read_text())
    content['images'][1].update(width=96, height=64)
    content['annotations'][2]['bbox'] = [72, 2, 20, 32]  # (4, 30, 24, 62) turned by half a turn
    (root/'annotations.json').write_text(json.dumps(content))
    samples, told = read(reader, root)
    same_boxes(samples)
    assert any('1 of 2 images' in t and 'for 1 images' in t and 'stored was chosen' in t for t in told)


def test_region_vectors_are_equal_in_all_orientations(tmp_path):
    "Every reader, orientation and frame: the RoI vectors of the boxes are those of the upright file"
    samples = []
    for reader in BOX_READERS:
        for orientation, frame in [(1, 'upright'), *((o, f) for o in range(2, 9) for f in ('upright', 'stored'))]:
            root = reader.build(tmp_path/f'{reader.name} {orientation} {frame}', Style(orientation, frame))
            samples += read(reader, root, frame=frame)[0]
    vectors = region_vectors(small_model(VIT), samples)
    assert len(vectors) == 3
    for key, found in vectors.items():
        assert len(found) >= 15 * len(BOX_READERS), key
        torch.testing.assert_close(torch.stack(found), found[0].expand(len(found), -1), atol=1e-5, rtol=0)


def region_vectors(model, samples) -> dict:
    "(stem, box in pixels) -> its RoI vectors"
    embed = Embedder(model, precision='fp32', threads=1)
    rows = embed.boxes(samples, [[r.box for r in s.regions] for s in samples])
    found = {}
    for (i, j), vector in zip(rows.kept, rows.vectors):
        size = load_image(samples[i].image).size
        box = np.array(samples[i].regions[j].box) * (*size, *size)
        found.setdefault((Path(samples[i].source_image_id).stem, *box.round().astype(int).tolist()), []).append(vector)
    return found


# Names

def rename_images(root: Path, change):
    for path in sorted(root.rglob('*')):
        if path.suffix == '.jpg': path.rename(path.with_name(change(path.name)))


CHANGES = dict(upper_ending=lambda n: n.replace('.jpg', '.JPG'), title=str.upper, same=str)


@pytest.mark.parametrize('change', ['upper_ending', 'title'])
@pytest.mark.parametrize('reader', NAME_READERS, ids=str)
def test_files_with_other_letters(reader, change, tmp_path):
    root = reader.build(tmp_path/'set')
    rename_images(root, CHANGES[change])
    samples, told = read(reader, root)
    assert len({s.image for s in samples}) == 2 and all(Path(s.image).is_file() for s in samples)
    assert sum('spelled otherwise on this disk' in t for t in told) == 1


SPELLINGS = dict(backslash=lambda n: 'images\\' + n if '/' not in n else n.replace('/', '\\'), prefix='data/images/{}'.format,
                 upper=str.upper, drive=lambda n: 'C:\\set\\' + n.replace('/', '\\'))


@pytest.mark.parametrize('spelling', SPELLINGS)
@pytest.mark.parametrize('reader', [r for r in NAME_READERS if r.names], ids=str)
def test_names_in_other_spellings(reader, spelling, tmp_path):
    root = reader.build(tmp_path/'set', Style(spell=SPELLINGS[spelling]))
    samples, told = read(reader, root)
    assert len({s.image for s in samples}) == 2 and all(Path(s.image).is_file() for s in samples)
    assert sum('spelled otherwise on this disk' in t for t in told) == 1
    if reader.boxes: assert sorted(map(len, boxes_of(samples).values())) == [1, 2]


@pytest.mark.parametrize('form', ['NFC', 'NFD'])
@pytest.mark.parametrize('reader', [r for r in NAME_READERS if r.names], ids=str)
def test_accents_in_one_or_two_code_points(reader, form, tmp_path):
    other = dict(NFC='NFD', NFD='NFC')[form]
    accent = lambda n: n.replace('00', 'é0')
    root = reader.build(tmp_path/'set', Style(spell=lambda n: unicodedata.normalize(form, accent(n))))
    rename_images(root, lambda n: unicodedata.normalize(other, accent(n)))
    samples, _ = read(reader, root)
    assert len({s.image for s in samples}) == 2 and all(Path(s.image).is_file() for s in samples)


@pytest.mark.parametrize('reader', [r for r in NAME_READERS if r.names and not r.name.startswith('rsfg')], ids=str)
def test_two_files_that_fit_are_not_guessed(reader, tmp_path):
    root = reader.build(tmp_path/'set', Style(spell=str.upper))
    for path in list(root.rglob('001.jpg')): path.with_name('001.Jpg').write_bytes(path.read_bytes())
    with pytest.raises(GeoAlignError, match='(missing|fail)'): read(reader, root)


@pytest.mark.parametrize('reader', [r for r in NAME_READERS if r.names and not r.name.startswith('rsfg')], ids=str)
@pytest.mark.parametrize('name', ['../{}', '/etc/{}', 'x\\..\\..\\{}'])
def test_names_that_leave_the_folder(reader, name, tmp_path):
    root = reader.build(tmp_path/'set', Style(spell=name.format))
    with pytest.raises(GeoAlignError, match='leaves the folder'): read(reader, root)


# Files that Windows and macOS touched

def json_files(reader, root): return [f for pattern in reader.json for f in sorted(root.glob(pattern))]


@pytest.mark.parametrize('reader', JSON_READERS, ids=str)
def test_byte_order_marks(reader, tmp_path):
    root = reader.build(tmp_path/'set')
    plain = [(s.id, s.regions, s.captions) for s in read(reader, root)[0]]
    for f in json_files(reader, root): f.write_bytes(b'\xef\xbb\xbf' + f.read_bytes())
    assert [(s.id, s.regions, s.captions) for s in read(reader, root)[0]] == plain and plain


@pytest.mark.parametrize('encoding', ['utf-16', 'utf-16-be'])
@pytest.mark.parametrize('reader', JSON_READERS, ids=str)
def test_utf_16_is_one_sentence(reader, encoding, tmp_path):
    root = reader.build(tmp_path/'set')
    file = json_files(reader, root)[0]
    mark = b'\xfe\xff' if encoding == 'utf-16-be' else b''
    file.write_bytes(mark + file.read_text().encode(encoding))
    with pytest.raises(GeoAlignError, match=rf'^{file.name} is UTF-16 text; save it as UTF-8\.$'): read(reader, root)


@pytest.mark.parametrize('reader', READERS, ids=str)
def test_files_of_macos_and_windows_are_passed_over(reader, tmp_path):
    root = reader.build(tmp_path/'set')
    plain = [(s.id, s.image if isinstance(s.image, str) else None, s.regions) for s in read(reader, root)[0]]
    for folder in [root, *(d for d in sorted(root.rglob('*')) if d.is_dir())]:
        for path in [f for f in folder.iterdir() if f.is_file()]: path.with_name('._' + path.name).write_bytes(b'\0\5\x16\7')
        for name in ('.DS_Store', 'Thumbs.db', 'desktop.ini'): (folder/name).write_bytes(b'\0')
    (root/'__MACOSX'/'images').mkdir(parents=True)
    (root/'__MACOSX'/'images'/'._001.jpg').write_bytes(b'\0')
    assert [(s.id, s.image if isinstance(s.image, str) else None, s.regions) for s in read(reader, root)[0]] == plain and plain


# What is left out is counted

CAPTION_READERS = [r for r in READERS if r.name.split()[0] in ('rsicd', 'ucm', 'rsitmd')]


@pytest.mark.parametrize('blank', ['', '   ', '\t'])
@pytest.mark.parametrize('reader', CAPTION_READERS, ids=str)
def test_blank_sentences_and_images_without_words(reader, blank, tmp_path):
    first, second = PICTURES
    pictures = (dataclasses.replace(first, captions=('a plane .', blank, 'a ship .', 'a place .', 'a pond .')),
                dataclasses.replace(second, captions=(blank,) * 5))
    samples, told = read(reader, reader.make(tmp_path/'set', pictures, Style()))
    assert [s.captions for s in samples] == [['a plane .', 'a ship .', 'a place .', 'a pond .']]
    counts = ' '.join(told)
    assert re.search('6 (× )?blank sentence', counts) and re.search('1 (× )?image with blank sentences only', counts)


@pytest.mark.parametrize('reader', CAPTION_READERS, ids=str)
def test_a_set_without_any_sentence(reader, tmp_path):
    pictures = [dataclasses.replace(p, captions=('', ' ', '', '', '')) for p in PICTURES]
    root = reader.make(tmp_path/'set', pictures, Style())
    with pytest.raises(GeoAlignError, match='No image of .* has a sentence that is not empty'): read(reader, root)


def test_lists_of_swan(tmp_path):
    root = captions.make_precomp(tmp_path/'a', name='rsitmd', split='val', ending='_verify')
    got = D.caption_set('rsitmd', root, 'val')
    assert len(got.samples) == 2 and set(got.files) == {'val_caps_verify.txt', 'val_filename_verify.txt'}
    with pytest.raises(GeoAlignError, match='test_caps.txt was not found in rsitmd_precomp|test_caps.txt was not found in a, which has val'):
        D.caption_set('rsitmd', root)


@pytest.mark.parametrize('delimiter', [',', ';', '\t', '|'])
@pytest.mark.parametrize('mark', [b'', b'\xef\xbb\xbf'])
def test_delimiters_of_a_csv(delimiter, mark, tmp_path):
    pictures = [dataclasses.replace(p, captions=('a plane, white; or "gray" | red .',) * 5) for p in PICTURES]
    root = captions.make_csv(tmp_path/'a', pictures, delimiter=delimiter)
    file = root/'rsicd_test.csv'
    file.write_bytes(mark + file.read_bytes())
    assert [s.captions for s in D.caption_set('rsicd', root).samples] == [list(p.captions) for p in pictures]


# COCO

COCO_READERS = [r for r in READERS if r.name in ('coco', 'coco (training)', 'vhr10')]


def edit(root: Path, change):
    content = json.loads((root/'annotations.json').read_text())
    change(content)
    (root/'annotations.json').write_text(json.dumps(content))


def as_text(entries, *keys):
    for e in entries: e.update({k: str(e[k]) for k in keys})


def ids_as_text(content, *parts):
    if 'images' in parts: as_text(content['images'], 'id')
    if 'categories' in parts: as_text(content['categories'], 'id')
    if 'image_id' in parts: as_text(content['annotations'], 'image_id')
    if 'category_id' in parts: as_text(content['annotations'], 'category_id')


@pytest.mark.parametrize('parts', [['images'], ['image_id'], ['categories'], ['category_id'], ['images', 'category_id']], ids='+'.join)
@pytest.mark.parametrize('reader', COCO_READERS, ids=str)
def test_ids_as_text(reader, parts, tmp_path):
    root = reader.build(tmp_path/'set')
    edit(root, lambda content: ids_as_text(content, *parts))
    same_boxes(read(reader, root)[0])


@pytest.mark.parametrize('value, same', [(12, True), ('12', True), (12.0, True), (' 12', True), ('012', False), ('12a', False), ('x', False)])
def test_ids_that_are_equal(value, same): assert (S.coco_id(value) == 12) is same


def test_group_category_is_no_class(tmp_path):
    root = coco.make(tmp_path/'set')
    def group(content):
        for c in content['categories']: c['supercategory'] = 'objects'
        content['categories'].insert(0, dict(id=0, name='objects', supercategory='none'))
    edit(root, group)
    got = D.coco_set('coco', root)
    assert list(got.classes) == ['airplane', 'ship'] and sum("left out of the classes: 'objects'" in n for n in got.notes) == 1
    edit(root, lambda content: content['annotations'].append(dict(image_id=1, category_id=0, bbox=[0, 0, 9, 9])))
    assert list(D.coco_set('coco', root).classes) == ['objects', 'airplane', 'ship']  # with boxes it is a class


def test_own_supercategory_is_a_class(tmp_path):
    root = coco.make(tmp_path/'set')
    edit(root, lambda content: content['categories'].append(dict(id=9, name='person', supercategory='person')))
    assert list(D.coco_set('coco', root).classes) == ['airplane', 'ship', 'person']


def test_class_list_with_a_mark(tmp_path):
    root = coco.make(tmp_path/'set')
    (tmp_path/'classes.json').write_text('{"airplane": ["plane"], "ship": ["ship"]}', encoding='utf-8-sig')
    assert D.coco_set('coco', root, classes=tmp_path/'classes.json').classes['airplane'] == ['plane']


# Shards

@pytest.mark.parametrize('pack', [gzip.compress, bz2.compress, lzma.compress])
def test_compressed_shards(pack, tmp_path):
    root = rsfg.make_shard(tmp_path/'set')
    plain = [(s.id, s.regions) for s in open_shards(f'rsfg:{root}')]
    file = root/'train-000000.tar'
    file.write_bytes(pack(file.read_bytes()))
    with pytest.warns(UserWarning, match='1 of 1 shards are compressed'): reader = open_shards(f'rsfg:{root}')
    assert [(s.id, s.regions) for s in reader] == plain and not reader.faults
    assert load_image(reader[1].image).size == PICTURES[1].image.size
    if pack is not gzip.compress: return  # the others lose a whole block where they are cut
    packed = file.read_bytes()
    file.write_bytes(packed[:len(packed) - 40])
    with pytest.warns(UserWarning): assert open_shards(f'rsfg:{root}').faults == [('train-000000.tar', 'cut shard')]


def test_decimal_points_in_member_names(tmp_path):
    names = ('S2_10.00N_20.25E', 'S2_10.01N_20.25E')
    root = rsfg.make_shard(tmp_path/'set', [dataclasses.replace(p, name=n) for p, n in zip(PICTURES, names)])
    reader = open_shards(f'rsfg:{root}')
    assert [s.id for s in reader] == list(names) and not reader.skipped
    same = [r for s in reader for r in s.regions]
    assert len(same) == 3


def test_compound_endings_stay_with_their_sample(tmp_path):
    found, _ = scan_tar(make_tar(tmp_path/'a.tar', ['1.jpg', '1.json', '1.seg.png', '__MACOSX/1.jpg', '._1.jpg', '2.5.jpg', '2.5.json']))
    assert {k: sorted(v) for k, v in found.items()} == {'1': ['jpg', 'json', 'seg.png'], '2.5': ['jpg', 'json']}


def make_tar(path: Path, names) -> Path:
    with tarfile.open(path, 'w') as tar:
        for name in names: tar.addfile(tarfile.TarInfo(name))
    return path


# RSVG-HR

@pytest.mark.parametrize('numbers', ['10,-2,30,40,50', '-10,2,30,40,50', '10,2,30,-40,50', '10,2,30,40,-50', '10.5,-2,30,40,50'])
def test_five_numbers_with_a_sign(numbers):
    with pytest.raises(GeoAlignError, match=f"Line 'a.jpg,{re.escape(numbers)},a plane' has five numbers"): rsvg_line(f'a.jpg,{numbers},a plane')


@pytest.mark.parametrize('line', ['', ',', 'a.jpg', 'a.jpg,,,,,', 'a.jpg,1,2,3', 'a.jpg,1e3,2,3,4,x', 'a.jpg,nan,1,2,3,x', 'a.jpg,--1,2,3,4,x', 'a.jpg,1,2,3,4,5,6,x',
                                  'a.jpg,1..2,2,3,4,x', 'a.jpg,1,2,3,4,'])
def test_lines_that_are_no_box(line): assert rsvg_line(line) is None


def test_lines_with_a_sign_are_counted(tmp_path):
    root = rsvg_hr.make(tmp_path/'set')
    file = root/'Annotations'/'rsvg_hr_test.txt'
    file.write_text('\ufeff' + file.read_text() + '001.jpg,10,-2,30,40,50,a plane\n001.jpg,-2,10,30,40,a plane\n')
    got = B.rrsis_hr(root, source='rsvg-hr')
    assert got.skipped == {'line is unreadable': 1}
    assert (0, 10 / 64, 30 / 96, 40 / 64) in [r.box for s in got.samples for r in s.regions]


# Files of our own that a person may edit

def result(): return dict(task='retrieval', dataset='rsicd', metrics={}, settings={})


OWN_FILES = dict(
    result=(lambda path: path.write_text(json.dumps(result())), lambda path: tables.read_one(path)),
    concepts=(lambda path: path.write_bytes(asset('concepts.toml').read_bytes()), lambda path: concepts.load_concepts(path).templates),
    preset=(lambda path: path.write_text('seed = 3\n'), lambda path: presets.read_toml(path)),
    near_misses=(lambda path: path.write_text(json.dumps(near_misses.make([('1', 'the ship on the left')]))), lambda path: near_misses.load(path)))


@pytest.mark.parametrize('kind', OWN_FILES)
def test_own_files_with_a_mark(kind, tmp_path):
    write, read_it = OWN_FILES[kind]
    plain, marked, wide = (tmp_path/f'{n}.file' for n in 'abc')
    write(plain)
    marked.write_bytes(b'\xef\xbb\xbf' + plain.read_bytes())
    assert read_it(marked) == read_it(plain)
    wide.write_bytes(plain.read_text().encode('utf-16'))
    if kind == 'result': return  # a folder of results names it among the files that are no result
    with pytest.raises(GeoAlignError, match='UTF-(8|16)'): read_it(wide)
