"""All readers at once: boxes in the frame of the upright image, names in other spellings, files that Windows and macOS touched."""
import json
import unicodedata
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from data.pictures import PICTURES, UNTURN, Style
from geoalignclip_nb.bench.datasets import BenchSet
from geoalignclip_nb.bench.embeddings import Embedder
from geoalignclip_nb.core import GeoAlignError, turn_boxes
from geoalignclip_nb.data.frames import image_header
from geoalignclip_nb.io.images import load_image
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
