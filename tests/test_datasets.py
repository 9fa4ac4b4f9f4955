"""The official layouts of the caption and scene sets and users' own folders: every trap has a small file that holds it; real sets where GEOALIGN_TEST_DATA names them."""
import csv, hashlib, io, json
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import pytest
from PIL import Image

from geoalignclip_nb.bench import datasets as D, packings as P
from geoalignclip_nb.bench.region_classification import class_index
from geoalignclip_nb.core import GeoAlignError, asset
from geoalignclip_nb.data.loader import ImageCache
from geoalignclip_nb.data.sources import read_json
from geoalignclip_nb.scenes import make_scenes

SCENES = make_scenes(3, seed=4, size=64)
FIVE = ['a plane .', 'a plane .', 'a white plane, near a “terminal” .', 'a plane .', 'there is a plane .']
NAMES = ['airport_1.png', 'river_2.png', '00623.png']
JSON = dict(rsicd='dataset_rsicd.json', rsitmd='dataset_RSITMD.json', ucm='dataset.json')


def pictures(folder: Path, names=NAMES) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for i, n in enumerate(names):
        (folder/n).parent.mkdir(parents=True, exist_ok=True)
        SCENES[i % 3].image.save(folder/n, 'PNG')
    return folder


def karpathy(root: Path, name='rsicd', names=NAMES, splits=('test', 'test', 'valid'), captions=FIVE) -> Path:
    pictures(root/D.IMAGES[name], names)
    images = [dict(filename=n, imgid=i, split=s, sentences=[dict(raw=c, tokens=c.split()) for c in captions]) for i, (n, s) in enumerate(zip(names, splits))]
    (root/JSON[name]).write_text(json.dumps(dict(dataset=name, images=images)))
    return root


def pairs(path: Path, names=NAMES, captions=FIVE, key='filename', encoding='utf-8', delimiter=',') -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, 'w', newline='', encoding=encoding) as f:
        csv.writer(f, delimiter=delimiter).writerows([(key, 'title')] + [(n, c) for n in names for c in captions])
    return path


def precomp(folder: Path, split='test', names=NAMES, captions=FIVE, repeat=5) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder/f'{split}_caps.txt').write_text('\n'.join(c for _ in names for c in captions) + '\n')
    (folder/f'{split}_filename.txt').write_text('\n'.join(n for n in names for _ in range(repeat)) + '\n')
    return folder


def png(i=0) -> bytes:
    f = io.BytesIO(); SCENES[i].image.save(f, 'PNG')
    return f.getvalue()


def words(items): return {s.source_image_id: s.captions for s in items.samples}


# What is known before a file is opened

def test_every_set_says_what_it_is():
    tables = dict(retrieval=D.CAPTION_SETS, scene_classification=D.SCENE_SETS)
    for task, table in tables.items():
        for name, d in table.items():
            assert (d.name, d.task) == (name, task) and d.split in (*d.splits, 'all') and d.where and d.terms and d.layout
    names = [n for t in (D.CAPTION_SETS, D.SCENE_SETS, D.OWN_SETS) for n in t]
    assert len(names) == len(set(names))
    assert all(set(d.paper_n) <= set(d.n) for t in (D.CAPTION_SETS, D.SCENE_SETS) for d in t.values())


@pytest.mark.parametrize('table', [D.CAPTION_SETS, D.SCENE_SETS, D.OWN_SETS])
def test_missing_set_is_one_sentence(table, tmp_path, monkeypatch):
    monkeypatch.delenv('GEOALIGN_TEST_DATA', raising=False)
    monkeypatch.setenv('GEOALIGN_DATA', str(tmp_path))
    for d in table.values():
        for root in (tmp_path/'nowhere', None):
            with pytest.raises(GeoAlignError) as e: d.read(root)
            text = str(e.value)
            assert text.startswith(f'Data set {d.name} was not found') and text.count('\n') == 0 and text.endswith('--root.')
            assert f'lay it out as {d.layout}' in text
            if d.where: assert d.terms and f"get it from {d.where} ({d.size or 'size not known'}, {d.terms})" in text
            else: assert d.name in ('folder', 'coco') and 'get it' not in text  # the reader's own pictures come from nowhere
            assert f'into the folder {D.FOLDERS.get(d.name, d.name)} under' in text or root is not None
            assert ('nowhere' in text) == (root is not None) and ('GEOALIGN_DATA' in text) == (root is None)


@pytest.mark.parametrize('name', ['rsicd', 'rsitmd', 'ucm', 'siri-whu', 'ucm-scenes', 'rsicd-scenes', 'coco', 'rsod', 'vedai'])
def test_empty_folder_is_a_missing_set(name, tmp_path):
    d = {**D.CAPTION_SETS, **D.SCENE_SETS, **D.OWN_SETS}[name]
    with pytest.raises(GeoAlignError, match='was not found in'): d.read(tmp_path)


def test_root_from_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv('GEOALIGN_DATA', str(tmp_path))
    karpathy(tmp_path/'ucm_captions', 'ucm', ['1.tif'], ['test'])
    assert [s.id for s in D.CAPTION_SETS['ucm'].read().samples] == ['ucm/1.tif']


def test_unknown_split_names_the_known(tmp_path):
    karpathy(tmp_path)
    with pytest.raises(GeoAlignError, match="rsicd has no split 'minival'; choose train, val, test or all"): D.caption_set('rsicd', tmp_path, 'minival')
    with pytest.raises(GeoAlignError, match='dataset_RSITMD.json has no split val'): D.caption_set('rsitmd', karpathy(tmp_path/'r', 'rsitmd', splits=['test'] * 3), 'val')
    with pytest.raises(GeoAlignError, match="siri-whu has no split 'test'; choose train or all"): D.siri_whu(tmp_path, 'test')


# Captions

def test_json_keeps_five_and_knows_valid(tmp_path):
    karpathy(tmp_path)
    test, val = D.caption_set('rsicd', tmp_path), D.caption_set('rsicd', tmp_path, 'val')
    assert words(test) == {n: FIVE for n in NAMES[:2]} and test.split == 'test'
    assert words(val) == words(D.caption_set('rsicd', tmp_path, 'valid')) == {NAMES[2]: FIVE} and val.split == 'val'
    assert set(words(D.caption_set('rsicd', tmp_path, 'all'))) == set(NAMES)
    assert test.files == {'dataset_rsicd.json': hashlib.sha256((tmp_path/'dataset_rsicd.json').read_bytes()).hexdigest()}
    assert D.count_items(D.CAPTION_SETS['rsicd'], test) == dict(n=2, n_texts=10) and not test.skipped


@pytest.mark.parametrize('blank', ['', '  ', None])
@pytest.mark.parametrize('form', ['json', 'csv', 'precomp'])
def test_empty_sentence_is_left_out_and_counted(form, blank, tmp_path):
    captions = FIVE[:3] + [blank or ''] + FIVE[4:]
    if form == 'json': karpathy(tmp_path, captions=captions, splits=['test'] * 3)
    else: pictures(tmp_path/'RSICD_images')
    if form == 'csv': pairs(tmp_path/'rsicd_test.csv', captions=captions)
    if form == 'precomp': precomp(tmp_path/'rsicd_precomp', captions=captions)
    got = D.caption_set('rsicd', tmp_path)
    assert words(got) == {n: FIVE[:3] + FIVE[4:] for n in NAMES} and got.skipped == {'blank sentence': 3}


def test_short_csv_line_is_an_empty_sentence(tmp_path):
    pictures(tmp_path/'RSICD_images')
    (tmp_path/'rsicd_test.csv').write_text('filename,title\nairport_1.png,a plane .\nairport_1.png\nriver_2.png\n')
    got = D.caption_set('rsicd', tmp_path)
    assert words(got) == {'airport_1.png': ['a plane .']}
    assert got.skipped == {'blank sentence': 2, 'image with blank sentences only': 1}


@pytest.mark.parametrize('form', ['json', 'csv'])
def test_captions_and_pictures_that_disagree(form, tmp_path):
    if form == 'json': karpathy(tmp_path, splits=['test'] * 3)
    else: pictures(tmp_path/'RSICD_images'); pairs(tmp_path/'rsicd_test.csv')
    for n in NAMES[1:]: (tmp_path/'RSICD_images'/n).unlink()
    with pytest.raises(GeoAlignError, match='2 of 3 pictures are missing, the first is river_2.png'): D.caption_set('rsicd', tmp_path)


def test_captions_without_any_picture_folder(tmp_path):
    karpathy(tmp_path)
    (tmp_path/'RSICD_images').rename(tmp_path/'elsewhere')
    with pytest.raises(GeoAlignError, match='2 of 2 pictures are missing, the first is airport_1.png'): D.caption_set('rsicd', tmp_path)


def test_file_name_listed_twice_is_counted_and_named(tmp_path):
    karpathy(tmp_path, names=[NAMES[0], NAMES[1], NAMES[0]], splits=['test'] * 3)
    got = D.caption_set('rsicd', tmp_path)
    assert [s.source_image_id for s in got.samples] == NAMES[:2] and got.skipped == {'duplicate file name': 1}
    assert any('repeat a file name: 1, the first is airport_1.png' in n for n in got.notes)


def test_other_number_of_sentences_is_noted(tmp_path):
    got = D.caption_set('rsicd', karpathy(tmp_path, captions=FIVE[:4]))
    assert any('without exactly five sentences: 2, the first is airport_1.png' in n for n in got.notes)
    assert not any('five sentences' in n for n in D.caption_set('rsicd', karpathy(tmp_path/'b')).notes)


@pytest.mark.parametrize('text', ['[]', '{"images": [{"filename": "a.png", "split": "test"}]}', '{"images": [["a.png"]]}', '{"images": {"a": 1}}', '{"annotations": []}', '{"images"'])
def test_json_of_another_kind(text, tmp_path):
    karpathy(tmp_path); (tmp_path/'dataset_rsicd.json').write_text(text)
    with pytest.raises(GeoAlignError, match='dataset_rsicd.json'): D.caption_set('rsicd', tmp_path)


def test_unreadable_picture_is_found_at_decoding(tmp_path):
    karpathy(tmp_path); (tmp_path/'RSICD_images'/NAMES[0]).write_bytes(png()[:60])
    got = D.caption_set('rsicd', tmp_path)
    decoded = ImageCache(got.samples, side=32)
    assert len(got.samples) == 2 and [s.source_image_id for s in decoded.samples] == [NAMES[1]] and [i for i, _ in decoded.skipped] == [f'rsicd/{NAMES[0]}']


def test_archive_in_a_folder_of_its_own_name(tmp_path):
    karpathy(tmp_path); flat = D.caption_set('rsicd', tmp_path)
    (tmp_path/'RSICD_images').rename(tmp_path/'x'); (tmp_path/'RSICD_images').mkdir(); (tmp_path/'x').rename(tmp_path/'RSICD_images'/'RSICD_images')
    nested = D.caption_set('rsicd', tmp_path)
    assert words(nested) == words(flat) and all(Path(s.image).is_file() for s in nested.samples)
    pairs(tmp_path/'rsicd_test.csv')
    assert len(D.caption_set('rsicd', tmp_path, form='csv').samples) == 3


# The packings hold the same items

def packed(root: Path, form: str) -> Path:
    karpathy(root, splits=['test'] * 3)
    if form == 'csv': pairs(root/'rsicd_test.csv', encoding='gb18030')
    if form == 'pairs': pairs(root/'RSICD_img_txt_pairs_test.csv', [f'RSICD/RSICD_images/{n}' for n in NAMES], key='filepath')
    if form == 'precomp': precomp(root/'rsicd_precomp')
    return root


@pytest.mark.parametrize('form', ['json', 'csv', 'pairs', 'precomp'])
def test_packings_give_the_same_samples(form, tmp_path):
    official, got = D.caption_set('rsicd', packed(tmp_path, form)), D.caption_set('rsicd', tmp_path, form=form)
    assert got.samples == official.samples and all(Path(s.image).is_file() for s in got.samples)
    assert form in got.notes[0] and len(got.files) == (2 if form == 'precomp' else 1)
    for f, digest in got.files.items(): assert digest == hashlib.sha256(next(tmp_path.rglob(f)).read_bytes()).hexdigest()


def test_rsicd_csv_is_gb18030(tmp_path):
    path = pairs(tmp_path/'rsicd_test.csv', encoding='gb18030')
    with pytest.raises(UnicodeDecodeError): path.read_text('utf-8')
    assert P.pair_rows(path) == [(n, FIVE) for n in NAMES]
    assert P.pair_rows(pairs(tmp_path/'bom.csv', encoding='utf-8-sig')) == P.pair_rows(pairs(tmp_path/'tab.csv', delimiter='\t')) == [(n, FIVE) for n in NAMES]


@pytest.mark.parametrize('path', ['RSICD/RSICD_images/{}', 'RSICD_images/{}', 'images/{}', '{}', 'RSICD/images/{}'])
def test_pair_paths_with_and_without_folders(path, tmp_path):
    pictures(tmp_path/('images' if 'images/' in path and 'RSICD_images' not in path else 'RSICD_images'))
    pairs(tmp_path/'RSICD_img_txt_pairs_test.csv', [path.format(n) for n in NAMES], key='filepath')
    assert [s.id for s in D.caption_set('rsicd', tmp_path).samples] == [f'rsicd/{n}' for n in NAMES]


@pytest.mark.parametrize('name', ['../a.png', '/etc/a.png', 'RSICD/../../a.png'])
def test_pair_paths_stay_inside(name, tmp_path):
    pairs(tmp_path/'rsicd_test.csv', [name])
    with pytest.raises(GeoAlignError, match='leaves the folder'): D.caption_set('rsicd', tmp_path)


def test_packing_without_the_split(tmp_path):
    pictures(tmp_path/'RSICD_images'); pairs(tmp_path/'rsicd_test.csv')
    with pytest.raises(GeoAlignError, match=r'rsicd_train.csv was not found in .*, which has test; choose another split'): D.caption_set('rsicd', tmp_path, 'train')
    assert len(D.caption_set('rsicd', tmp_path, 'all').samples) == 3


def test_form_that_is_not_there(tmp_path):
    with pytest.raises(GeoAlignError, match="does not lie in .* in the form 'precomp'; choose json, csv"): D.caption_set('rsicd', packed(tmp_path, 'csv'), form='precomp')


def test_csv_with_other_columns(tmp_path):
    (tmp_path/'a.csv').write_text('image,caption\na.png,a plane\n'); (tmp_path/'b.csv').write_text(''); (tmp_path/'c.csv').write_bytes(b'\xff\xff\xff')
    for n in 'ab':
        with pytest.raises(GeoAlignError, match=f'{n}.csv holds no lines with filename'): P.pair_rows(tmp_path/f'{n}.csv')
    with pytest.raises(GeoAlignError, match='c.csv is neither UTF-8 nor GB18030'): P.pair_rows(tmp_path/'c.csv')
    (tmp_path/'d.csv').write_text('filename,title\na.png,"' + 'a plane ' * 20_000)  # a quotation mark that nobody closes
    with pytest.raises(GeoAlignError, match='d.csv is not a csv file'): P.pair_rows(tmp_path/'d.csv')


def test_precomp_names_repeated_in_test_and_not_in_train(tmp_path):
    folder = precomp(tmp_path); precomp(tmp_path, 'train', repeat=1)
    assert P.precomp_rows(folder/'test_caps.txt') == P.precomp_rows(folder/'train_caps.txt') == [(n, FIVE) for n in NAMES]


@pytest.mark.parametrize('repeat', [2, 4, 6])
def test_precomp_with_lost_lines(repeat, tmp_path):
    with pytest.raises(GeoAlignError, match=f'test_caps.txt has 15 sentences for {3 * repeat} names'): P.precomp_rows(precomp(tmp_path, repeat=repeat)/'test_caps.txt')


def test_precomp_without_names(tmp_path):
    precomp(tmp_path); (tmp_path/'test_filename.txt').unlink()
    with pytest.raises(GeoAlignError, match='test_filename.txt was not found beside test_caps.txt'): P.precomp_rows(tmp_path/'test_caps.txt')
    (tmp_path/'test_filename.txt').write_text('')
    with pytest.raises(GeoAlignError, match='for 0 names'): P.precomp_rows(tmp_path/'test_caps.txt')


def test_only_a_line_feed_ends_a_sentence(tmp_path):
    strange = [f'a{c}plane .' for c in '\x0b\x0c\x1c\x85\u2028']
    (tmp_path/'test_caps.txt').write_bytes('\r\n'.join(strange).encode() + b'\r\n')
    (tmp_path/'test_filename.txt').write_text('1.tif\n')
    assert P.precomp_rows(tmp_path/'test_caps.txt') == [('1.tif', strange)]


def test_precomp_train_of_rsicd_is_train_and_val(tmp_path):
    pictures(tmp_path/'RSICD_images'); precomp(tmp_path/'rsicd_precomp', 'train', repeat=1); precomp(tmp_path/'rsicd_precomp', 'test')
    assert any('train and val' in n for n in D.caption_set('rsicd', tmp_path, 'train').notes)
    assert not any('train and val' in n for n in D.caption_set('rsicd', tmp_path).notes)
    pictures(tmp_path/'imgs'); precomp(tmp_path/'ucm_precomp', 'train', repeat=1)
    assert not any('train and val' in n for n in D.caption_set('ucm', tmp_path, 'train').notes)


# Parquet

def hub(rows, monkeypatch, where='test'):
    "Rows as pyarrow gives them, without pyarrow"
    monkeypatch.setattr(P, 'parquet_rows', lambda path: rows if where in Path(path).name else [])
    monkeypatch.setattr(D, 'parquet_rows', lambda path: rows)


def test_hub_rsicd(tmp_path, monkeypatch):
    (tmp_path/'data').mkdir()
    for s in ('test', 'valid'): (tmp_path/'data'/f'{s}-00000-of-00001-abc.parquet').write_bytes(s.encode())
    hub([dict(filename=f'rsicd_images/{n}', captions=FIVE, image=dict(bytes=png(i) if i else b'broken', path=None)) for i, n in enumerate(NAMES)], monkeypatch)
    got = D.caption_set('rsicd', tmp_path)
    assert [s.id for s in got.samples] == [f'rsicd/{n}' for n in NAMES[1:]] and got.skipped == {'unreadable': 1} and words(got)[NAMES[1]] == FIVE
    assert got.samples[0].image.size == (64, 64) and list(got.files) == ['test-00000-of-00001-abc.parquet']
    assert len(ImageCache(got.samples, side=32)) == 2
    with pytest.raises(GeoAlignError, match="no column 'image'"): P.hub_rows(tmp_path/'x.parquet', [dict(filename='a', captions=[])])


@pytest.mark.parametrize('read, name', [(lambda r: D.caption_set('rsicd', r), 'data/test-00000-of-00001.parquet'), (D.siri_whu, 'data/train-00000-of-00001.parquet')])
def test_parquet_without_or_with_pyarrow(read, name, tmp_path):
    (tmp_path/'data').mkdir(); (tmp_path/name).write_bytes(b'no parquet')
    expected = 'is not a parquet file' if find_spec('pyarrow') else f'Reading {Path(name).name} needs pyarrow; install it with `pip install pyarrow`'
    with pytest.raises(GeoAlignError, match=expected): read(tmp_path)


def test_parquet_sentence_where_pyarrow_is_absent(tmp_path, monkeypatch):
    monkeypatch.setattr(P, 'find_spec', lambda name: None)
    with pytest.raises(GeoAlignError, match='Reading a.parquet needs pyarrow; install it with `pip install pyarrow`'): P.parquet_rows(tmp_path/'a.parquet')


@pytest.mark.skipif(not find_spec('pyarrow'), reason='pyarrow is no requirement; the sentence that asks for it is tested above')
def test_parquet_round_trip(tmp_path):
    import pyarrow as pa, pyarrow.parquet
    (tmp_path/'data').mkdir()
    rows = [dict(filename=f'rsicd_images/{n}', captions=FIVE, image=dict(bytes=png(i), path=None)) for i, n in enumerate(NAMES)]
    pa.parquet.write_table(pa.Table.from_pylist(rows), tmp_path/'data'/'valid-00000-of-00001.parquet')
    assert words(D.caption_set('rsicd', tmp_path, 'val')) == {n: FIVE for n in NAMES}
    (tmp_path/'siri'/'data').mkdir(parents=True)
    pa.parquet.write_table(pa.Table.from_pylist([dict(image=dict(bytes=png(i), path=None), label=i) for i in range(3)]), tmp_path/'siri'/'data'/'train-00000-of-00001.parquet')
    assert list(D.siri_whu(tmp_path/'siri').labels.values()) == list(D.SIRI_CLASSES)[:3]


# SIRI-WHU

def siri(root: Path, keys=tuple(D.SIRI_CLASSES), each=2) -> Path:
    for k in keys: pictures(root/k, [f'{i}.tif' for i in range(each)])
    return root


@pytest.mark.parametrize('below', ['', '12class_tif'])
def test_siri_folders(below, tmp_path):
    siri(tmp_path/below)
    got = D.SCENE_SETS['siri-whu'].read(tmp_path)
    assert (len(got.samples), got.split) == (24, 'train') and Counter(got.labels.values()) == {k: 2 for k in D.SIRI_CLASSES}
    assert got.classes['idle_land'] == ['idle land'] and {s.id for s in got.samples} == set(got.labels)
    assert D.siri_whu(tmp_path, 'all').files == got.files
    (tmp_path/below/'river'/'0.tif').unlink()
    assert D.siri_whu(tmp_path).files != got.files


def test_siri_folder_missing_strange_or_twice(tmp_path):
    siri(tmp_path/'a', list(D.SIRI_CLASSES)[:-1])
    with pytest.raises(GeoAlignError, match="a lacks the class folder 'water'"): D.siri_whu(tmp_path/'a')
    siri(tmp_path/'b'); pictures(tmp_path/'b'/'forest')
    with pytest.raises(GeoAlignError, match="b holds the folder 'forest'"): D.siri_whu(tmp_path/'b')
    siri(tmp_path/'c'); pictures(tmp_path/'c'/'Idle Land')
    with pytest.raises(GeoAlignError, match="Classes 'Idle Land' and 'idle_land' share the name 'idleland'"): D.siri_whu(tmp_path/'c')
    siri(tmp_path/'d'); (tmp_path/'d'/'empty').mkdir()
    with pytest.raises(GeoAlignError, match='Class folder empty holds no images'): D.siri_whu(tmp_path/'d')


def test_siri_parquet(tmp_path, monkeypatch):
    (tmp_path/'data').mkdir(); (tmp_path/'data'/'train-00000-of-00001.parquet').write_bytes(b'x')
    hub([dict(image=dict(bytes=png()), label=3), dict(image=dict(bytes=b''), label=0), dict(image=dict(bytes=png(1)), label=11)], monkeypatch)
    got = D.siri_whu(tmp_path)
    assert list(got.labels.values()) == ['idle_land', 'water'] and got.skipped == {'unreadable': 1} and len({s.id for s in got.samples}) == 2
    assert got.files == {'train-00000-of-00001.parquet': hashlib.sha256(b'x').hexdigest()}


@pytest.mark.parametrize('label', [12, -1, None, 'river'])
def test_siri_label_without_a_class(label):
    with pytest.raises(GeoAlignError, match=f'Row 1 has label {label}'): P.siri_rows([dict(image=None, label=0), dict(image=None, label=label)])


# Scenes of UCM and RSICD

def ucm_folder(root: Path, numbers=(1, 100, 101, 2100), labels=True) -> Path:
    names = [f'{i}.tif' for i in numbers]
    karpathy(root, 'ucm', names, ['test'] * len(names))
    scenes = ['agricultural', 'agricultural', 'airplane', 'tenniscourt']
    if labels: (root/'labels.json').write_text(json.dumps({n: dict(scene=s, objects=[]) for n, s in zip(names, scenes)}))
    return root


def test_ucm_scenes_by_labels_and_by_number(tmp_path):
    with_file, by_number = D.ucm_scene_set(ucm_folder(tmp_path/'a')), D.ucm_scene_set(ucm_folder(tmp_path/'b', labels=False))
    assert with_file.labels == by_number.labels == dict(zip([f'ucm/{i}.tif' for i in (1, 100, 101, 2100)], ['agricultural', 'agricultural', 'airplane', 'tenniscourt']))
    assert list(with_file.files) == ['dataset.json', 'labels.json'] and list(by_number.files) == ['dataset.json']
    assert not with_file.notes and 'unverified' in by_number.notes[0]


@pytest.mark.parametrize('number', [0, 2101])
def test_ucm_number_outside_the_rule(number, tmp_path):
    with pytest.raises(GeoAlignError, match=f'{number}.tif is not one of 1.tif to 2100.tif'): D.ucm_scene_set(ucm_folder(tmp_path, [number], labels=False))


def test_ucm_labels_of_another_copy(tmp_path):
    ucm_folder(tmp_path); (tmp_path/'labels.json').write_text(json.dumps({'1.tif': dict(scene='agricultural')}))
    with pytest.raises(GeoAlignError, match='labels.json names no scene for 3 pictures, the first is 100.tif'): D.ucm_scene_set(tmp_path)


def test_rsicd_scenes_by_file_name(tmp_path):
    karpathy(tmp_path, names=NAMES + ['volcano_3.png'], splits=['test'] * 4)
    got = D.rsicd_scene_set(tmp_path)
    assert got.labels == {'rsicd/airport_1.png': 'airport', 'rsicd/river_2.png': 'river'} and set(got.labels) == {s.id for s in got.samples}
    assert got.skipped == {'no class in the file name': 1, "unknown class 'volcano'": 1} and len(class_index(got.classes)) == 30


# Users' own pictures

def test_folder_of_classes(tmp_path):
    pictures(tmp_path/'idle_land'); pictures(tmp_path/'River')
    got = D.folder_set(tmp_path)
    assert got.classes == {'River': ['river'], 'idle_land': ['idle land']} and Counter(got.labels.values()) == {'River': 3, 'idle_land': 3}
    assert got.split == 'all' and len({s.id for s in got.samples}) == 6  # equal file names in two classes stay apart
    assert 'no official number is known' in D.compare_n(D.OWN_SETS['folder'], got)


def test_folder_of_classes_under_splits(tmp_path):
    for s in ('train', 'valid'): pictures(tmp_path/s/'river')
    assert D.folder_set(tmp_path, 'val').split == 'val' and D.folder_set(tmp_path, 'train').classes == {'river': ['river']}
    with pytest.raises(GeoAlignError, match='holds .*which are splits, not classes; choose one with --split'): D.folder_set(tmp_path)
    with pytest.raises(GeoAlignError, match="has no folder 'test'"): D.folder_set(tmp_path, 'test')


def test_folder_class_in_two_spellings(tmp_path):
    pictures(tmp_path/'idle_land'); pictures(tmp_path/'IdleLand')
    with pytest.raises(GeoAlignError, match="Classes 'IdleLand' and 'idle_land' share the name 'idleland'"): D.folder_set(tmp_path)


@pytest.mark.parametrize('classes, problem', [
    ({'river': ['river'], 'meadow': ['river']}, "share the name 'river'"), ({'river': ['river']}, "does not name 'meadow'"), (['river'], 'The class list is no dict'),
    ({'river': 'river', 'meadow': ['meadow']}, 'no list of names')])
def test_class_list_that_does_not_fit(classes, problem, tmp_path):
    for k in ('meadow', 'river'): pictures(tmp_path/'p'/k)
    (tmp_path/'classes.json').write_text(json.dumps(classes))
    with pytest.raises(GeoAlignError, match=problem): D.folder_set(tmp_path/'p', classes=tmp_path/'classes.json')


def test_class_list_of_ones_own(tmp_path):
    pictures(tmp_path/'river')
    assert D.folder_set(tmp_path, classes={'river': ['river', 'stream'], 'sea': ['sea']}).classes == {'river': ['river', 'stream'], 'sea': ['sea']}


def coco(root: Path, boxes, categories=((7, 'storageTank'), (3, 'car')), names=('a.png',)) -> Path:
    "Boxes: (category, x, y, width, height) or (category, x, y, width, height, image)"
    pictures(root/'images', set(names))
    (root/'annotations.json').write_text(json.dumps(dict(
        images=[dict(id=i + 1, file_name=n, width=64, height=64) for i, n in enumerate(names)], categories=[dict(id=i, name=n) for i, n in categories],
        annotations=[dict(id=j, category_id=c, image_id=more[0] if more else 1, bbox=list(b)) for j, (c, *b4) in enumerate(boxes) for b, more in [(b4[:4], b4[4:])]])))
    return root


def test_coco_boxes(tmp_path):
    got = D.OWN_SETS['coco'].read(coco(tmp_path, [(7, 0, 0, 32, 64), (3, 60, 0, 10, 10), (3, 1, 1, 0, 5), (3, 90, 1, 5, 5), (3, 0, 0, 5, 5, 9)]))
    assert [(r.category, r.box) for r in got.samples[0].regions] == [('storageTank', (0, 0, .5, 1)), ('car', (60/64, 0, 1, 10/64))]
    assert got.skipped == {'no area': 2, 'box of no listed picture': 1} and got.classes == {'storageTank': ['storage tank'], 'car': ['car']}
    assert D.count_items(D.OWN_SETS['coco'], got) == dict(n=2, n_pictures=1) and list(got.files) == ['annotations.json']


def test_coco_picture_listed_twice(tmp_path):
    got = D.coco_set('coco', coco(tmp_path, [(3, 0, 0, 5, 5), (3, 0, 0, 5, 5, 2), (7, 9, 9, 5, 5, 2)], names=('a.png', 'a.png')))
    assert len(got.samples) == 1 and len(got.samples[0].regions) == 2 and got.skipped == {'repeated': 1} and 'listed again in annotations.json: 1;' in got.notes[0]


@pytest.mark.parametrize('categories, boxes, problem', [
    ([(1, 'car'), (2, 'Car')], [], "lists the class 'car' 2 times"), ([(1, 'storage tank'), (2, 'storage_tank')], [], "lists the class 'storagetank' 2 times"),
    ([(1, 'car')], [(1, 0, 0, 5, 5), (8, 0, 0, 5, 5)], '1 boxes of no listed class, the first has category_id 8'), ([], [], 'There is no class')])
def test_coco_class_list_with_a_mistake(categories, boxes, problem, tmp_path):
    with pytest.raises(GeoAlignError, match=problem): D.coco_set('coco', coco(tmp_path, boxes, categories))


@pytest.mark.parametrize('text', ['[]', '{}', '{"images": [{"id": 1}], "categories": [], "annotations": []}', '{"images": [], "categories": [{"id": 1, "name": "car"}], "annotations": [{"image_id": 1}]}'])
def test_coco_of_another_kind(text, tmp_path):
    coco(tmp_path, []); (tmp_path/'annotations.json').write_text(text)
    with pytest.raises(GeoAlignError, match='annotations.json is not in COCO form'): D.coco_set('coco', tmp_path)


def test_coco_missing_pictures(tmp_path):
    coco(tmp_path, [(3, 0, 0, 5, 5)]); (tmp_path/'images'/'a.png').unlink()
    with pytest.raises(GeoAlignError, match='1 of 1 pictures are missing, the first is a.png'): D.coco_set('coco', tmp_path)


def test_class_without_a_name_of_its_own_is_counted(tmp_path):
    name = read_json(asset('splits/vedai.json'))['val'][0]
    coco(tmp_path, [(1, 0, 0, 5, 5), (2, 9, 9, 5, 5)], [(1, 'car'), (2, 'other')], (name,))
    got = D.OWN_SETS['vedai'].read(tmp_path)
    assert got.classes == {'car': ['car']} and [r.category for s in got.samples for r in s.regions] == ['car'] and got.split == 'val'
    assert got.skipped == {"class 'other' without a name of its own": 1} and list(got.files) == ['annotations.json', 'vedai.json']


# Counts

def test_counts_against_the_official_and_the_papers(tmp_path):
    d = D.CAPTION_SETS['rsicd']
    items = D.caption_set('rsicd', karpathy(tmp_path))
    assert D.compare_n(d, items) == "rsicd test: n = 2, n_texts = 10; official 1,093, 5,465 (not the same list); the paper's 1,093, 5,465 (not the same list)."
    assert D.compare_n(d, items, dict(n=1093, n_texts=5465)) == "rsicd test: n = 1,093, n_texts = 5,465; official 1,093, 5,465; the paper's 1,093, 5,465."
    assert 'those of split test, so these do not compare' in D.compare_n(d, D.caption_set('rsicd', tmp_path, 'val'))
    official = [d.n for d in D.CAPTION_SETS.values() if d.n]  # rsicd-testlike is no official split
    assert len(official) >= 3 and all(n['n_texts'] == 5 * n['n'] for n in official)


# Real sets

@pytest.mark.parametrize('name, split', [('rsicd', 'val'), ('ucm', 'val'), ('ucm', 'train')])
def test_real_captions(name, split, real_data):
    root = real_data/D.FOLDERS.get(name, name)
    rows = [r for r in json.loads((root/JSON[name]).read_text())['images'] if r['split'] == split]
    got = D.CAPTION_SETS[name].read(root, split)
    assert D.count_items(D.CAPTION_SETS[name], got) == dict(n=len(rows), n_texts=sum(len(r['sentences']) for r in rows)) and rows
    assert words(got) == {r['filename']: [s['raw'].strip() for s in r['sentences']] for r in rows} and not got.skipped


def test_real_ucm_classes_and_the_rule_of_numbers(real_data):
    root = real_data/'ucm_captions'
    scene = {n: v['scene'] for n, v in json.loads((root/'labels.json').read_text()).items()}
    assert {n: P.ucm_class(n) for n in scene} == scene and set(scene.values()) == set(D.UCM_CLASSES)
    got = D.ucm_scene_set(root, 'all')
    assert got.labels == {f'ucm/{n}': s for n, s in scene.items()} and not got.notes


def test_real_rsicd_classes(real_data):
    rows = [r['filename'] for r in json.loads((real_data/'rsicd'/'dataset_rsicd.json').read_text())['images'] if r['split'] == 'val']
    got, plain = D.rsicd_scene_set(real_data/'rsicd', 'val'), [n for n in rows if '_' not in n]
    assert len(got.samples) == len(rows) - len(plain) and got.skipped == {'no class in the file name': len(plain)} and set(got.labels.values()) == set(got.classes)


@pytest.mark.parametrize('name', ['rsod', 'vedai'])
def test_real_boxes(name, real_data):
    file, val = json.loads((real_data/name/'annotations.json').read_text()), set(read_json(asset(f'splits/{name}.json'))['val'])
    got = D.OWN_SETS[name].read(real_data/name)
    ids = {i['id'] for i in file['images'] if i['file_name'] in val}
    assert {s.source_image_id for s in got.samples} == val and got.split == 'val'
    assert sum(len(s.regions) for s in got.samples) + sum(got.skipped.values()) == sum(a['image_id'] in ids for a in file['annotations'])
    nameless = {c['name'] for c in file['categories']} - set(got.classes)
    assert nameless == ({'other'} if name == 'vedai' else set()) and class_index(got.classes)


def test_pictures_that_no_sentence_names_are_counted(tmp_path):
    root = karpathy(tmp_path)
    assert not any('no sentence names' in n for n in D.caption_set('rsicd', root).notes)
    pictures(root/D.IMAGES['rsicd'], ['stray_2.jpg', 'stray_1.jpg'])
    assert any('left out: 2, the first is stray_1.jpg' in n for n in D.caption_set('rsicd', root).notes)
