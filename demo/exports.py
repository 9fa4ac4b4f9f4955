"""Files that a visitor can save: one PNG of all phrases, JSON, CSV, GeoJSON, raw maps."""
import uuid
import warnings
from dataclasses import dataclass, replace
from pathlib import Path

from geoalignclip_nb.core import GeoAlignError
from uploads import work_folder
from views import Shown

TURNED = 'GeoJSON is not offered: the image was turned on the screen, so its georeference no longer holds.'
HELD = ('PNG: every phrase with its heat and the color bar. JSON: all numbers. CSV: places and boxes. NPZ: the raw '
        'maps, one array for each phrase.')


def result_folder() -> Path:
    folder = work_folder()/uuid.uuid4().hex
    folder.mkdir()
    return folder


def stem_of(name: str) -> str:
    "A file name without its ending, safe on every system"
    stem = Path(name).stem
    return ''.join(c if c.isalnum() or c in '-_' else '_' for c in stem)[:60] or 'image'


@dataclass(frozen=True)
class Saved:
    "Files of a result"
    paths: list[Path]
    missing: str = ''  # why there is no GeoJSON


def write_data(result, name: str) -> Saved:
    "JSON, CSV, NPZ and, with a georeference, GeoJSON of a `GroundResult`"
    start = f'{stem_of(name)}_ground'
    folder = result_folder()
    writers = dict(json=result.save_json, csv=result.save_csv, npz=result.save_npz, geojson=result.save_geojson)
    paths, missing = [], ''
    for ending, write in writers.items():
        path = folder/f'{start}.{ending}'
        try: write(path)
        except GeoAlignError as e:
            if ending != 'geojson': raise
            missing = f'GeoJSON is not offered: {e}'
        else: paths.append(path)
    return Saved(paths, missing)


def write_png(shown: Shown, *, show_absent: bool = False) -> Path:
    "All phrases with their heat and the color bar"
    path = result_folder()/f'{stem_of(shown.name)}_ground.png'
    with warnings.catch_warnings():
        warnings.filterwarnings('ignore', message='Glyph')  # a font without the letters of a phrase
        replace(shown.result, image=shown.image).save_png(path, show_absent=show_absent)
    return path
