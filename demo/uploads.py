"""Files in: limits, previews for what no browser shows, and the image and boxes that a visitor means."""
import contextlib
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

import adapters
import numpy as np
from geoalignclip_nb.core import GeoAlignError, to_fractions, to_pixels
from geoalignclip_nb.io.images import load_image, read_image, upright_size
from gradio.utils import get_upload_folder
from PIL import Image
from service import TooLargeError

SHOWN = 1024  # longest side of images that results are drawn on
PREVIEW = 2048  # longest side of an image opened from a file
PIXELS = 100_000_000  # larger images are refused before they are decoded; 3 bytes each while one is read
UPLOAD_MB = 400
KEPT = 2 * 3600  # seconds that files of a result or a preview stay on the disk
FILE_TYPES = ['.tif', '.tiff', '.png', '.jpg', '.jpeg', '.webp', '.bmp', '.jp2']
BROWSER_FORMATS = ('PNG', 'JPEG', 'MPO', 'WEBP', 'GIF', 'BMP')
BROWSER_MODES = ('RGB', 'RGBA', 'L', 'P', '1', 'LA')
PREFIX = 'geoalign-preview-'
COMMAND = 'geoalign ground {name} --phrases "white airplane"'


@dataclass(frozen=True)
class Opened:
    "What the preview on the screen stands for"
    preview: str  # file name of the PNG
    seen: tuple[int, int]  # width and height of the PNG
    path: str  # the original
    name: str  # as the visitor calls it
    bands: str | None = None
    band_count: int = 3


# ---- the disk ----------------------------------------------------------------------------------------------

def work_folder() -> Path:
    "Folder for previews and results; files that nobody touched for `KEPT` seconds are removed"
    folder = Path(get_upload_folder())/'geoalign'
    folder.mkdir(parents=True, exist_ok=True)
    oldest = time.time() - KEPT
    for path in folder.rglob('*'):
        with contextlib.suppress(OSError):
            if path.is_file() and path.stat().st_mtime < oldest: path.unlink()
    return folder


def keep_png(image: Image.Image, prefix: str) -> Path:
    "Write an image where the page can show it"
    path = work_folder()/f'{prefix}{uuid.uuid4().hex}.png'
    image.save(path, compress_level=1)
    return path


# ---- reading -----------------------------------------------------------------------------------------------

@contextlib.contextmanager
def called(path: Path, name: str):
    "Errors about a file call it by the visitor's name"
    try: yield
    except TooLargeError: raise
    except GeoAlignError as e:
        raise GeoAlignError(str(e).replace(str(path), name).replace(path.name, name)) from None


def image_size(path: Path) -> tuple[int, int]:
    "Width and height of an upright image; a file that is not an image raises `GeoAlignError`"
    try: return upright_size(path)
    except Exception: return load_image(path, PIXELS).size  # says in a sentence what is wrong


def check_pixels(path: Path, name: str):
    "Raises `TooLargeError` before an image is decoded that would take too much memory"
    with called(path, name): width, height = image_size(path)
    if width * height <= PIXELS: return
    command = COMMAND.format(name=name)
    raise TooLargeError(
        f'{name} has {width} × {height} pixels, more than the {PIXELS / 1e6:.0f} million of this page; '
        f'run `{command}` on your computer, or cut the image into parts.')


def shrink(image: Image.Image, side: int) -> Image.Image:
    "The image with a longest side of at most `side`"
    longest = max(image.size)
    if longest <= side: return image
    size = [max(1, round(v * side / longest)) for v in image.size]
    return image.resize(size, Image.Resampling.LANCZOS, reducing_gap=3)


def open_image(path: str | Path, name: str, bands: str = '') -> Opened:
    "Write a PNG that the browser can show, of any image"
    path = Path(path)
    check_pixels(path, name)
    with called(path, name): loaded = read_image(path, max_pixels=PIXELS, bands=bands.strip() or None)
    image = shrink(loaded.rgb, PREVIEW)
    preview = keep_png(image, PREFIX)
    return Opened(preview.name, image.size, str(path), name, bands.strip() or None, loaded.band_count)


def preview_path(opened: Opened) -> Path:
    return work_folder()/opened.preview


def shown_by_browsers(path: Path) -> bool:
    "Whether a browser shows a file as the library reads it"
    with contextlib.suppress(Exception), Image.open(path) as head:
        return head.format in BROWSER_FORMATS and head.mode in BROWSER_MODES
    return False


# ---- what the visitor means --------------------------------------------------------------------------------

@dataclass(frozen=True)
class Subject:
    "An image and the boxes on it"
    image: Path | Image.Image  # a file, or the image as it was turned on the screen
    path: Path
    name: str
    boxes: np.ndarray  # (R,4) fractions of the image
    left_out: int  # boxes that were too thin, outside, or twice the same
    bands: str | None = None


def _original(scene: adapters.Scene, opened: Opened | None) -> tuple[Path, str]:
    "File and name of the image on the screen"
    if not scene.path.name.startswith(PREFIX): return scene.path, scene.name
    if opened is None or opened.preview != scene.path.name or not Path(opened.path).exists():
        name = opened.name if opened else 'The image'
        raise GeoAlignError(f'{name} is no longer on the server; open it again.')
    return Path(opened.path), opened.name


def _size_on_screen(scene: adapters.Scene, opened: Opened | None, size: tuple[int, int]) -> tuple[int, int]:
    "Pixels in which boxes were drawn, before a turn"
    return opened.seen if opened and scene.path.name == opened.preview else size


def subject_of(scene: adapters.Scene, typed: str, opened: Opened | None, bands: str = '') -> Subject:
    "The image as on the screen, in full size, and its boxes"
    path, name = _original(scene, opened)
    check_pixels(path, name)
    bands = (bands or '').strip() or None
    turns = adapters.quarter_turns(scene.turns)
    image = path
    with called(path, name):
        if turns: image = adapters.turn(load_image(path, PIXELS, bands=bands), turns)
        size = image.size if turns else image_size(path)
    unturned = size[::-1] if turns % 2 else size
    seen = _size_on_screen(scene, opened, unturned)
    if turns % 2: seen = seen[::-1]
    drawn = to_pixels(to_fractions(adapters.drawn_rows(scene.boxes), *seen), *size)
    boxes, left_out = adapters.tidy_boxes([*drawn, *adapters.typed_boxes(typed)], *size)
    return Subject(image, path, name, to_fractions(boxes, *size), left_out, bands)
