"""The one place that knows `gradio_image_annotation`: an image with boxes drawn by hand, in and out.

Five traps of the component are dealt with here: colors must be written as 'rgb(r, g, b)'; a start image must be a path
(an array is stored as lossy webp); an image turned on the screen comes back unturned beside boxes that are turned;
boxes come newest first and, through the API, reversed or outside; values are changed in place, so every call gets a
fresh copy.
Without the component the demo works with `gr.Image` and boxes typed as numbers.
"""
import copy
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
from geoalignclip_nb.core import GeoAlignError
from gradio.data_classes import FileData, GradioModel

try:
    from gradio_image_annotation import image_annotator
except Exception:  # missing, or made for another Gradio: the demo must start all the same
    image_annotator = None

COLOR = 'rgb(255, 196, 0)'
SMALLEST = 2  # pixels; a box thinner than this is a slip of the mouse
MOST = 64  # boxes in one image


class Payload(GradioModel):
    # What the page sends; looser than the component's own model, so that a mistake gets our sentence, not pydantic's
    image: FileData | None = None
    boxes: Any = None
    orientation: Any = 0


@dataclass
class Scene:
    "An image as a file and boxes in pixels of the image as it is seen on the screen"
    path: Path  # in Gradio's upload folder
    name: str  # the user's name for the file, safe to show
    boxes: Any = field(default_factory=list)  # as the page sent them, see `drawn_rows`
    turns: Any = 0  # quarter turns clockwise, made on the screen, see `quarter_turns`


def read_payload(payload) -> Scene | None:
    "The page's value as a `Scene`; None where there is no image. The file is not opened here"
    if payload is None: return None
    if hasattr(payload, 'path'):  # of gr.Image
        payload = Payload(image=FileData(path=payload.path, orig_name=payload.orig_name))
    if payload.image is None or not payload.image.path: return None
    path = Path(payload.image.path)
    name = Path(payload.image.orig_name or path).name
    # boxes and orientation are judged in a handler, where a sentence reaches the page
    return Scene(path, name, payload.boxes or [], payload.orientation or 0)


def has_annotator() -> bool: return image_annotator is not None


def scene_input(value: dict | None = None, height: int = 420):
    "The scene of the page: `image_annotator`, or `gr.Image` where that is missing. It hands a `Scene` to the handlers"
    common = dict(label='Scene', show_label=False, elem_id='scene', height=height, sources=['upload', 'clipboard'])
    if has_annotator():
        box = image_annotator(
            value=copy.deepcopy(value), image_type='filepath', boxes_alpha=.15, box_min_size=SMALLEST, box_thickness=2,
            box_selected_thickness=3, handle_size=7, disable_edit_boxes=True, label_list=['region'],
            label_colors=['#ffc400'], use_default_label=True, show_download_button=False, show_remove_button=True,
            **common)
        box.data_model = Payload
    else:
        box = gr.Image(value=value['image'] if value else None, type='filepath', buttons=[], **common)
    box.preprocess = read_payload  # the file is read by `io.images`, which knows 16 bits and says what is wrong
    return box


def scene_value(path: str | Path | None, boxes=()):
    "What a handler returns to show an image (a path, never an array) with boxes (K,4) in its pixels; None: no image"
    if path is None: return None
    if not has_annotator(): return str(path)
    return dict(image=str(path), boxes=[box_value(box) for box in boxes])


def box_value(box) -> dict[str, object]:
    "A box as the component takes it"
    keys = ('xmin', 'ymin', 'xmax', 'ymax')
    corners = {key: round(float(value)) for key, value in zip(keys, box)}
    return corners | dict(color=COLOR)


def box_numbers(
    box: dict[str, object],  # from the page or from a client
) -> list[float]:  # [xmin, ymin, xmax, ymax]
    "Four numbers of a box, divided by its `scaleFactor`; raises `GeoAlignError` where one is missing or no number"
    try:
        scale = float(box.get('scaleFactor') or 1)
        row = [float(box[k]) / scale for k in ('xmin', 'ymin', 'xmax', 'ymax')]
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError, ZeroDivisionError):
        raise GeoAlignError('A box lacks one of the numbers xmin, ymin, xmax, ymax; give all four in pixels.') from None
    if not np.isfinite(row).all():
        raise GeoAlignError('A box holds a number that is not finite; give four numbers in pixels.')
    return row


def drawn_rows(boxes) -> list[list[float]]:  # rows of four numbers
    "The boxes of a `Scene`; raises `GeoAlignError` where they are not a list of boxes"
    if not isinstance(boxes, (list, tuple)):
        raise GeoAlignError('The boxes are not a list; give dicts with xmin, ymin, xmax, ymax.')
    return [box_numbers(b) for b in boxes]


def quarter_turns(value) -> int:  # 0 to 3
    "The quarter turns of a `Scene`; raises `GeoAlignError` for anything but a whole number"
    if isinstance(value, int) or (isinstance(value, float) and value.is_integer()): return int(value) % 4
    raise GeoAlignError(f'The orientation {str(value)[:40]!r} is not a number of quarter turns; give 0, 1, 2 or 3.')


def typed_boxes(
    text: str,  # one box per line or between semicolons: x1, y1, x2, y2
) -> list[list[float]]:  # rows of four numbers
    "Boxes typed as numbers; raises `GeoAlignError` that quotes the line that is not a box"
    rows = []
    for line in re.split(r'[\n;]+', text or ''):
        if not line.strip(): continue
        try: row = [float(v) for v in re.split(r'[,\s]+', line.strip().strip('()[]'))]
        except ValueError: row = []
        if len(row) != 4 or not np.isfinite(row).all():
            raise GeoAlignError(f'"{line.strip()[:60]}" is not a box; write four numbers such as 10, 20, 110, 120.')
        rows.append(row)
    return rows


def ordered_corners(rows, width: int, height: int) -> np.ndarray:  # (K,4)
    "Boxes with x1 <= x2 and y1 <= y2, cut at the edge of the image"
    boxes = np.asarray(rows, dtype=float).reshape(-1, 4)
    xs = np.sort(boxes[:, [0, 2]], axis=1).clip(0, width)
    ys = np.sort(boxes[:, [1, 3]], axis=1).clip(0, height)
    return np.stack([xs[:, 0], ys[:, 0], xs[:, 1], ys[:, 1]], 1)


def tidy_boxes(
    rows,  # rows of [x1, y1, x2, y2] in pixels, any order of corners
    width: int,  # of the image on the screen
    height: int,
) -> tuple[np.ndarray, int]:  # (K,4) boxes inside the image in reading order, number of boxes left out
    "Corners put in order, cut at the edge, boxes under 2 px and repeats left out, sorted from top to bottom"
    boxes = ordered_corners(rows, width, height)
    is_large = ((boxes[:, 2:] - boxes[:, :2]) >= SMALLEST).all(1)
    kept = np.unique(boxes[is_large], axis=0)
    kept = kept[np.lexsort((kept[:, 0], kept[:, 1]))]
    if len(kept) > MOST: raise GeoAlignError(f'There are {len(kept)} boxes, more than {MOST}; remove some.')
    return kept, len(boxes) - len(kept)


def turn(image, turns: int):
    "The image as it is seen on the screen: `turns` quarter turns clockwise"
    from PIL.Image import Transpose
    ways = {1: Transpose.ROTATE_270, 2: Transpose.ROTATE_180, 3: Transpose.ROTATE_90}  # PIL turns the other way round
    return image.transpose(ways[turns]) if turns else image
