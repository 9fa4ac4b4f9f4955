"Caption sets: Karpathy's JSON (RSICD, RSITMD, UCM-Captions) and the packings of RSICD"
import csv
import json
from pathlib import Path

from data.pictures import PICTURES, Style

FILES = {'rsicd': ('dataset_rsicd.json', 'RSICD_images'), 'rsitmd': ('dataset_RSITMD.json', 'images'),
         'ucm': ('dataset.json', 'imgs')}


def make(folder: Path, pictures=PICTURES, style: Style = Style(), name: str = 'rsicd') -> Path:
    "The official layout, all images in split test"
    file, images = FILES[name]
    records = []
    for picture in pictures:
        style.save(picture, folder/images/f'{picture.name}.jpg')
        sentences = [dict(raw=c) for c in picture.captions]
        records.append(dict(filename=style.spell(f'{picture.name}.jpg'), split='test', sentences=sentences))
    (folder/file).write_text(json.dumps(dict(images=records)))
    return folder


def make_csv(folder: Path, pictures=PICTURES, style: Style = Style(), delimiter: str = ',', file: str = 'rsicd_test.csv') -> Path:
    "RS5M's packing: a line per sentence"
    rows = [('filename', 'title')]
    for picture in pictures:
        style.save(picture, folder/'RSICD_images'/f'{picture.name}.jpg')
        rows += [(style.spell(f'{picture.name}.jpg'), c) for c in picture.captions]
    with open(folder/file, 'w', newline='') as f: csv.writer(f, delimiter=delimiter).writerows(rows)
    return folder


def make_precomp(folder: Path, pictures=PICTURES, style: Style = Style(), *, name: str = 'rsicd', split: str = 'test',
                 ending: str = '') -> Path:
    "AMFMN's packing: two text files with a line per sentence; SWAN's with `ending='_verify'`"
    captions, names = [], []
    for picture in pictures:
        style.save(picture, folder/FILES[name][1]/f'{picture.name}.jpg')
        captions += picture.captions
        names += [style.spell(f'{picture.name}.jpg')] * len(picture.captions)
    lists = folder/f'{name}_precomp'
    lists.mkdir(parents=True, exist_ok=True)
    for what, lines in dict(caps=captions, filename=names).items():
        (lists/f'{split}_{what}{ending}.txt').write_text('\n'.join(lines) + '\n')
    return folder
