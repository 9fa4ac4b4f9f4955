"RSVG-HR: a line per sentence, with the corners of its box"
from pathlib import Path

from data.pictures import PICTURES, Style


def make(folder: Path, pictures=PICTURES, style: Style = Style()) -> Path:
    lines = []
    for picture in pictures:
        style.save(picture, folder/'images'/f'{picture.name}.jpg')
        for box, category in zip(style.boxes(picture), picture.classes):
            numbers = ','.join(f'{v:.1f}' for v in box)
            lines.append(f"{style.spell(f'{picture.name}.jpg')},{numbers},a {category} on the left\n")
    (folder/'Annotations').mkdir()
    (folder/'Annotations'/'rsvg_hr_test.txt').write_text(''.join(lines))
    return folder
