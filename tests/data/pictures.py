"""What the small files of all sets share: drawn images, how they are stored, and what their annotations speak of."""
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from PIL import Image

from geoalignclip_nb.core import to_fractions, to_pixels, turn_boxes

UNTURN = {2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
          5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
          8: Image.Transpose.ROTATE_270}  # orientation -> from the upright image to the stored bitmap


@dataclass(frozen=True)
class Picture:
    "An upright image with boxes"
    name: str  # stem of the file
    image: Image.Image
    boxes: tuple[tuple[int, int, int, int], ...]  # xyxy, pixels of the upright image
    classes: tuple[str, ...]  # of the boxes: words that every set knows
    captions: tuple[str, ...] = ('a plane .', 'a white plane .', 'a ship .', 'a plane near a ship .', 'a place .')


def drawn(seed: int, size: tuple[int, int] = (96, 64)) -> Image.Image:
    "Blocks of random color"
    width, height = size
    blocks = np.random.default_rng(seed).integers(0, 255, (height // 8, width // 8, 3), dtype=np.uint8)
    return Image.fromarray(blocks).resize(size, Image.Resampling.BICUBIC)


PICTURES = (Picture('001', drawn(1), ((8, 10, 40, 30), (50, 20, 90, 60)), ('airplane', 'ship')),
            Picture('002', drawn(2), ((4, 30, 24, 62),), ('ship',)))


@dataclass(frozen=True)
class Style:
    "How a set is written: orientation and frame of its images, spelling of names in annotations"
    orientation: int = 1  # EXIF orientation of every image file
    frame: str = 'upright'  # what boxes and sizes of the annotation refer to, or 'stored'
    spell: Callable[[str], str] = field(default=lambda name: name)  # file name -> name in the annotation

    @property
    def turned(self) -> bool: return self.frame == 'stored' and self.orientation != 1

    def save(self, picture: Picture, path: Path):
        "Store an image turned, without loss, whatever the ending says"
        path.parent.mkdir(parents=True, exist_ok=True)
        exif = Image.Exif()
        exif[274] = self.orientation
        stored = picture.image
        if self.orientation != 1: stored = stored.transpose(UNTURN[self.orientation])
        stored.save(path, 'PNG', exif=exif)

    def size(self, picture: Picture) -> tuple[int, int]:
        "(width, height) in the frame of the annotation"
        width, height = picture.image.size
        return (height, width) if self.turned and self.orientation > 4 else (width, height)

    def boxes(self, picture: Picture) -> list[tuple[int, int, int, int]]:
        "Boxes in pixels of the frame of the annotation"
        if not self.turned: return list(picture.boxes)
        upright = to_fractions(picture.boxes, *picture.image.size)
        stored = to_pixels(turn_boxes(upright, self.orientation, back=True), *self.size(picture))
        return [tuple(map(int, box)) for box in stored.round().tolist()]


def xywh(box: tuple[int, int, int, int]) -> list[int]:
    x1, y1, x2, y2 = box
    return [x1, y1, x2 - x1, y2 - y1]


def mask(box: tuple[int, int, int, int], size: tuple[int, int]) -> np.ndarray:  # (H,W) bool
    "A mask that fills a box"
    filled = np.zeros(size[::-1], bool)
    x1, y1, x2, y2 = box
    filled[y1:y2, x1:x2] = True
    return filled
