"A COCO folder: annotations.json and images/"
import json
from pathlib import Path

from data.pictures import PICTURES, Style, xywh


def content(pictures=PICTURES, style: Style = Style()) -> dict:
    "What annotations.json holds"
    names = sorted({c for p in pictures for c in p.classes})
    images, boxes = [], []
    for number, picture in enumerate(pictures, 1):
        width, height = style.size(picture)
        images.append(dict(id=number, file_name=style.spell(f'{picture.name}.jpg'), width=width, height=height))
        for box, category in zip(style.boxes(picture), picture.classes):
            boxes.append(dict(id=len(boxes) + 1, image_id=number, category_id=names.index(category) + 1, bbox=xywh(box), iscrowd=0))
    categories = [dict(id=i, name=n) for i, n in enumerate(names, 1)]
    return dict(images=images, annotations=boxes, categories=categories)


def make(folder: Path, pictures=PICTURES, style: Style = Style()) -> Path:
    for picture in pictures: style.save(picture, folder/'images'/f'{picture.name}.jpg')
    (folder/'annotations.json').write_text(json.dumps(content(pictures, style)))
    return folder
