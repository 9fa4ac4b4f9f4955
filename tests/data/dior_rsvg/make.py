"DIOR-RSVG: VOC files with a sentence per object, and lists of object numbers"
from pathlib import Path

from data.pictures import PICTURES, Style


def make(folder: Path, pictures=PICTURES, style: Style = Style(), sized: bool = True) -> Path:
    "`sized`: whether the files state the sizes of their images"
    count = 0
    for picture in pictures:
        style.save(picture, folder/'JPEGImages'/f'{picture.name}.jpg')
        width, height = style.size(picture)
        text = f'<size><width>{width}</width><height>{height}</height></size>' if sized else ''
        for box, category in zip(style.boxes(picture), picture.classes):
            tags = ''.join(f'<{k}>{v}</{k}>' for k, v in zip(('xmin', 'ymin', 'xmax', 'ymax'), box))
            text += f'<object><name>{category}</name><pose/><bndbox>{tags}</bndbox><description>the {category}</description></object>'
            count += 1
        (folder/'Annotations').mkdir(exist_ok=True)
        (folder/'Annotations'/f'{picture.name}.xml').write_text(f'<annotation>{text}</annotation>')
    for split in ('train', 'val', 'test'):
        (folder/f'{split}.txt').write_text('\n'.join(map(str, range(count))) if split == 'test' else '')
    return folder
