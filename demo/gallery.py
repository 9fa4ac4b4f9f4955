"""The examples of the page: procedural scenes of this repository, and images of the visitor's own data sets."""
import json
import os
from dataclasses import dataclass, field
from pathlib import Path

from geoalignclip_nb.core import GeoAlignError, data_dir
from geoalignclip_nb.io.images import load_image
from PIL import Image
from uploads import shown_by_browsers

HERE = Path(__file__).resolve().parent
BUNDLED_EXAMPLES = HERE/'examples'
LISTING = 'examples.json'
REAL_LISTING = HERE/'examples'/'ucm.json'  # names images of UC Merced Land Use; the images are not in this repository
REAL_FOLDERS = ('ucm_captions/imgs', 'UCM_captions/imgs', 'ucm/imgs')  # under GEOALIGN_DATA


@dataclass(frozen=True)
class Example:
    "An image with phrases and boxes, and a sentence about what to see"
    path: Path
    label: str
    phrases: list[str]
    boxes: list[list[int]] = field(default_factory=list)  # x1, y1, x2, y2 in pixels

    @property
    def thumbnail(self) -> str | Image.Image:
        "What a gallery shows: the file itself, or its pixels where no browser shows the file"
        return str(self.path) if shown_by_browsers(self.path) else load_image(self.path)


def read_listing(listing: Path, folder: Path) -> list[Example]:
    "Examples of a JSON list whose images are in `folder`; raises `GeoAlignError` where the list cannot be read"
    try: rows = json.loads(listing.read_text(encoding='utf-8'))
    except (OSError, ValueError):
        raise GeoAlignError(f'{listing.name} is not a list of examples; '
                            'give a JSON list of file, label, phrases and boxes.') from None
    found = [Example(folder/row['file'], row['label'], row['phrases'], row.get('boxes', [])) for row in rows]
    return [example for example in found if example.path.is_file()]


def real_folder() -> Path | None:
    "The images of UC Merced Land Use under GEOALIGN_DATA, or None"
    if not os.environ.get('GEOALIGN_DATA'): return None
    for name in REAL_FOLDERS:
        try: return data_dir(name)
        except GeoAlignError: continue
    return None


def load_examples(folder: Path | None = None) -> list[Example]:
    "Bundled scenes, then those of UC Merced where the visitor has it; or the examples of another folder"
    if folder is not None: return read_listing(Path(folder)/LISTING, Path(folder))
    examples = read_listing(BUNDLED_EXAMPLES/LISTING, BUNDLED_EXAMPLES)
    images = real_folder()
    if images is not None and REAL_LISTING.is_file(): examples += read_listing(REAL_LISTING, images)
    return examples
