"RRSIS-D and RRSIS-HR: a pickled list of sentences, a JSON of annotations with masks, and VOC files"
import json
import pickle
from pathlib import Path

from data.pictures import PICTURES, Style, mask

CLASSES = ('airplane', 'ship')


def run_lengths(filled) -> list[int]:
    "COCO's run lengths, column by column, zeros first"
    runs, last = [0], 0
    for value in filled.T.astype(int).ravel().tolist():
        if value != last: runs.append(0)
        last = value
        runs[-1] += 1
    return runs


def voc(picture, style: Style) -> str:
    "The VOC file of an image"
    width, height = style.size(picture)
    objects = ''
    for box, category in zip(style.boxes(picture), picture.classes):
        tags = ''.join(f'<{k}>{v}</{k}>' for k, v in zip(('xmin', 'ymin', 'xmax', 'ymax'), box))
        objects += f'<object><name>{category}</name><bndbox>{tags}</bndbox></object>'
    return f'<annotation><size><width>{width}</width><height>{height}</height></size><split>test</split>{objects}</annotation>'


def make(folder: Path, pictures=PICTURES, style: Style = Style(), name: str = 'rrsisd') -> Path:
    "`name`: rrsisd or rrsishr"
    refs, images, annotations = [], [], []
    for number, picture in enumerate(pictures):
        style.save(picture, folder/f'images/{name}/JPEGImages/{picture.name}.jpg')
        file, (width, height) = style.spell(f'{picture.name}.jpg'), style.size(picture)
        images.append(dict(id=number, file_name=file, width=width, height=height))
        for box, category in zip(style.boxes(picture), picture.classes):
            key = len(annotations)
            filled = dict(size=[height, width], counts=run_lengths(mask(box, (width, height))))
            annotations.append(dict(id=key, image_id=number, categories_id=CLASSES.index(category), bbox=list(box), segmentation=[filled]))
            sentences = [dict(sent=f'a {category} on the left', sent_id=key)]
            refs.append(dict(ref_id=key, ann_id=key, image_id=number, file_name=file, split='test', sentences=sentences))
        (folder/f'images/{name}/ann_split').mkdir(exist_ok=True)
        (folder/f'images/{name}/ann_split/{picture.name}.xml').write_text(voc(picture, style))
    (folder/name).mkdir()
    (folder/name/'refs(unc).p').write_bytes(pickle.dumps(refs))
    categories = [dict(id=i, name=n) for i, n in enumerate(CLASSES)]
    (folder/name/'instances.json').write_text(json.dumps(dict(images=images, annotations=annotations, categories=categories)))
    return folder
