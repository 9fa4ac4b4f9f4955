"NWPU VHR-10: images, the authors' text files, and the COCO copy"
import json
from pathlib import Path

from data.coco.make import content
from data.pictures import PICTURES, Style

CLASSES = ('airplane', 'ship')  # numbers 1 and 2


def make(folder: Path, pictures=PICTURES, style: Style = Style()) -> Path:
    for picture in pictures:
        style.save(picture, folder/'positive image set'/f'{picture.name}.jpg')
        lines = []
        for (x1, y1, x2, y2), category in zip(style.boxes(picture), picture.classes):
            lines.append(f'({x1},{y1}),({x2},{y2}),{CLASSES.index(category) + 1}\n')
        (folder/'ground truth').mkdir(exist_ok=True)
        (folder/'ground truth'/f'{picture.name}.txt').write_text(''.join(lines))
    (folder/'annotations.json').write_text(json.dumps(content(pictures, style)))
    return folder
