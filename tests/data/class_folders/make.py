"One folder of images per class"
from pathlib import Path

from data.pictures import PICTURES, Style


def make(folder: Path, pictures=PICTURES, style: Style = Style(), classes: tuple[str, ...] = ('airport', 'harbor')) -> Path:
    for category in classes:
        for picture in pictures: style.save(picture, folder/category/f'{picture.name}.jpg')
    return folder
