"""Files that a visitor can save: one PNG of all phrases, JSON, CSV, GeoJSON, raw maps."""
import uuid
from dataclasses import replace
from pathlib import Path

from uploads import work_folder
from views import Shown

NO_GEOJSON = ('GeoJSON is not offered: this file has no georeference (CRS and transform), so places have no coordinates '
              'on a map. Open a GeoTIFF to get it.')
TURNED = 'GeoJSON is not offered: the image was turned on the screen, so its georeference no longer holds.'
HELD = ('PNG: every phrase with its heat and the color bar. JSON: all numbers. CSV: places and boxes. NPZ: the raw maps, '
        'one array for each phrase.')


def result_folder() -> Path:
    folder = work_folder()/uuid.uuid4().hex
    folder.mkdir()
    return folder


def stem_of(name: str) -> str:
    "A file name without its ending, safe on every system"
    stem = Path(name).stem
    return ''.join(c if c.isalnum() or c in '-_' else '_' for c in stem)[:60] or 'image'


def write_data(result, name: str) -> list[Path]:
    "JSON, CSV, NPZ and, with a georeference, GeoJSON of a `GroundResult`"
    start = result_folder()/f'{stem_of(name)}_ground'
    writers = dict(json=result.save_json, csv=result.save_csv, npz=result.save_npz)
    if result.georeference is not None: writers['geojson'] = result.save_geojson
    paths = []
    for ending, write in writers.items():
        path = start.with_name(f'{start.name}.{ending}')
        write(path)
        paths.append(path)
    return paths


def write_png(shown: Shown, *, show_absent: bool = False) -> Path:
    "All phrases with their heat and the color bar"
    path = result_folder()/f'{stem_of(shown.name)}_ground.png'
    replace(shown.result, image=shown.image).save_png(path, show_absent=show_absent)
    return path
