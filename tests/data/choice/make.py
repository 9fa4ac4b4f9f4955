"CHOICE: questions about masks and about corners, one item per box"
import json
from pathlib import Path

from PIL import Image

from data.pictures import PICTURES, Style, mask

TASKS = dict(referring_expression_segmentation='Give me the mask of the {}.',
             visual_grounding='Please output the coordinates of the {} in the image in the format (x1, y1, x2, y2).')


def make(folder: Path, pictures=PICTURES, style: Style = Style()) -> Path:
    items = {task: [] for task in TASKS}
    (folder/'masks').mkdir(parents=True)
    for picture in pictures:
        style.save(picture, folder/'images'/f'{picture.name}.jpg')
        width, height = style.size(picture)
        for number, (box, category) in enumerate(zip(style.boxes(picture), picture.classes)):
            key = f'{picture.name}-{number}'
            Image.fromarray(mask(box, (width, height))).save(folder/'masks'/f'{key}.png')
            x1, y1, x2, y2 = box[0] / width, box[1] / height, box[2] / width, box[3] / height
            corners = [[x2, y1], [x1, y1], [x1, y2], [x2, y2]]
            for task, question in TASKS.items():
                items[task].append(dict(id=key, image_path=style.spell(f'images/{picture.name}.jpg'), question=question.format(category),
                                        mask_path=f'masks/{key}.png', answer=corners))
    for task, own in items.items():
        (folder/'perception'/'regions'/task).mkdir(parents=True)
        (folder/'perception'/'regions'/task/f'{task}.json').write_text(json.dumps(own))
    return folder
