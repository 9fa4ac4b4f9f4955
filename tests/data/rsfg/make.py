"FineHARD-like records with boxes: a JSON list, JSON lines, or tar shards"
import io
import json
import tarfile
from pathlib import Path

from data.pictures import PICTURES, Style


def record(picture, style: Style, sized: bool) -> dict:
    "One record; boxes are fractions of the frame that it speaks of"
    width, height = style.size(picture)
    boxes = []
    for (x1, y1, x2, y2), category in zip(style.boxes(picture), picture.classes):
        boxes.append(dict(bbox=[x1 / width, y1 / height, x2 / width, y2 / height, 1], short_expr=category, long_expr=f'A {category}.'))
    size = dict(width=width, height=height) if sized else {}
    return dict(f_path=style.spell(f'{picture.name}.jpg'), caption=picture.captions[0], bbox_info=boxes) | size


def make(folder: Path, pictures=PICTURES, style: Style = Style(), *, lines: bool = False, sized: bool = True) -> Path:
    for picture in pictures: style.save(picture, folder/f'{picture.name}.jpg')
    records = [record(p, style, sized) for p in pictures]
    if lines: (folder/'a.jsonl').write_text(''.join(json.dumps(r) + '\n' for r in records))
    else: (folder/'a.json').write_text(json.dumps(records))
    return folder


def make_shard(folder: Path, pictures=PICTURES, style: Style = Style(), sized: bool = True) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(folder/'train-000000.tar', 'w') as tar:
        for picture in pictures:
            path = folder/'unpacked'/f'{picture.name}.jpg'
            style.save(picture, path)
            for name, data in ((path.name, path.read_bytes()), (f'{picture.name}.json', json.dumps(record(picture, style, sized)).encode())):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
            path.unlink()
    return folder
