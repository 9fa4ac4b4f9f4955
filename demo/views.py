"""Results out: heat over the image, the color bar, tables and sentences. No model runs here."""
import html
from dataclasses import dataclass, field, replace
from pathlib import Path

import gradio as gr
import numpy as np
from geoalignclip_nb.core import GeoAlignError, to_pixels
from geoalignclip_nb.phrases import has_meaning
from geoalignclip_nb.viz import HEAT_OPACITY, blend_heat, heat_bar
from PIL import Image, ImageDraw, ImageFont
from uploads import SHOWN, keep_png, shrink

STOPS = 16  # colors named in the bar
GONE = 'The result is no longer on the server; press Ground again.'
NOT_DETECTION = 'The heatmap shows how well places fit a phrase; it is not detection.'
NO_RESULT = f'Press Ground. {NOT_DETECTION}'
NO_FILES = 'Files appear here after Ground.'
SCORE_HEADS = ['#', 'box (px)', 'best match']
PLACE_HEADS = ['phrase', 'score', 'point (px)', 'box (px)']
NO_BOXES = 'Draw boxes, or type them as numbers, and press Ground to compare them with the phrases.'


@dataclass
class Shown:
    "What a session keeps to draw again: maps and scores in memory (kilobytes), the image on the disk"
    result: object  # GroundResult without its image; `valid` as small as the image on the disk
    image_path: Path
    size: tuple[int, int]  # width and height of the visitor's image
    name: str  # of the visitor's file
    weights: str
    notes: list[str] = field(default_factory=list)  # sentences about the file and the request
    warnings: list[str] = field(default_factory=list)  # reasons to doubt the result
    files: list[Path] = field(default_factory=list)  # JSON, CSV and others

    @property
    def image(self) -> Image.Image:
        try:
            with Image.open(self.image_path) as im: return im.convert('RGB')
        except OSError: raise GeoAlignError(GONE) from None

    @property
    def boxes(self) -> np.ndarray:  # (R,4) fractions
        boxes = self.result.boxes
        return np.zeros((0, 4)) if boxes is None else np.asarray(boxes, dtype=float).reshape(-1, 4)


def small_mask(valid: np.ndarray | None, size: tuple[int, int]) -> np.ndarray | None:
    "A mask (H,W) at the size (width, height) of the drawn image"
    if valid is None: return None
    return np.asarray(Image.fromarray(np.asarray(valid, dtype=bool)).resize(size, Image.Resampling.NEAREST))


def keep_result(answer, name: str) -> Shown:
    "Put a result where it costs little: its image goes to the disk, small"
    result = answer.result
    image = shrink(result.image, SHOWN)
    kept = replace(result, image=None, valid=small_mask(result.valid, image.size))
    return Shown(kept, keep_png(image, 'result-'), result.image.size, name, answer.weights)


# ---- heat --------------------------------------------------------------------------------------------------

def range_of(heat: np.ndarray) -> tuple[float, float]:
    "Lowest and highest value of a map; cells without data hold NaN and do not count"
    if not np.isfinite(heat).any(): return 0., 0.
    return float(np.nanmin(heat)), float(np.nanmax(heat))


def scale_of(shown: Shown, common: bool, index: int) -> tuple[float, float]:  # (vmin, vmax)
    "Scale of one phrase's colors: the stated scale of all phrases, or the phrase's own range"
    low, high = shown.result.scale if common else range_of(shown.result.maps[index])
    return float(low), max(float(high), float(low) + 1e-6)


def is_understood(shown: Shown, index: int) -> bool:
    "Whether a phrase holds a word that the model knows"
    return has_meaning(shown.result.phrases[index], shown.result.unknown[index])


def has_heat(shown: Shown, index: int, show_absent: bool) -> bool:
    "Whether a phrase is drawn: it was found, or nobody can say, or the visitor wants to see it all the same"
    if not is_understood(shown, index): return False
    return shown.result.found[index] is not False or show_absent


@dataclass
class Pen:
    "Sizes of lines and letters on an image"
    line: int
    font: ImageFont.ImageFont

    @classmethod
    def for_image(cls, image: Image.Image) -> 'Pen':
        side = max(image.size)
        return cls(max(2, side // 320), ImageFont.load_default(max(12, side // 40)))


def _number_box(draw: ImageDraw.ImageDraw, pen: Pen, number: int, box: np.ndarray):
    "One outline, white on black, with its number in the corner"
    x1, y1, x2, y2 = (float(v) for v in box)
    draw.rectangle((x1, y1, x2, y2), outline='black', width=pen.line + 2)
    inner = (x1 + 1, y1 + 1, x2 - 1, y2 - 1)
    is_wide = min(x2 - x1, y2 - y1) > 4
    draw.rectangle(inner if is_wide else (x1, y1, x2, y2), outline='white', width=pen.line)
    at = x1 + pen.line + 3, y1 + pen.line
    left, top, right, bottom = draw.textbbox(at, str(number), font=pen.font)
    draw.rectangle((left - 3, top - 2, right + 3, bottom + 2), fill='white')
    draw.text(at, str(number), fill='black', font=pen.font)


def draw_boxes(image: Image.Image, boxes: np.ndarray) -> Image.Image:
    "Numbered outlines (fractions) on a copy of an image"
    image = image.copy()
    draw = ImageDraw.Draw(image)
    pen = Pen.for_image(image)
    for number, box in enumerate(to_pixels(boxes, *image.size), 1): _number_box(draw, pen, number, box)
    return image


def heat_image(shown: Shown, index: int, look: 'Look') -> Image.Image:
    "One phrase's heat over the image, with the boxes; no heat where the phrase is not found"
    image = shown.image
    if has_heat(shown, index, look.show_absent):
        low, high = scale_of(shown, look.common, index)
        heat = shown.result.maps[index]
        image = blend_heat(image, heat, low, high, opacity=look.opacity, valid=shown.result.valid)
    return draw_boxes(image, shown.boxes)


# ---- the color bar -----------------------------------------------------------------------------------------

def bar_colors(opacity: float) -> list[str]:  # '#rrggbb'
    "The colors that a reader sees over gray, from the foot of the scale to its top"
    return ['#%02x%02x%02x' % tuple(int(v) for v in color) for color in heat_bar(STOPS, opacity=opacity)]


def color_bar(shown: Shown, look: 'Look') -> str:
    "HTML: the scale in the colors of the heatmaps, with its two numbers"
    stops = ', '.join(bar_colors(look.opacity))
    says = html.escape(shown.result.says())
    low, high = (f'{v:.3f}' for v in shown.result.scale)
    middle = f'{says}, one scale for all phrases'
    if not look.common:
        low, high = 'lowest', 'highest'
        middle = f'{says}, each phrase on its own range (see captions)'
    numbers = f'<span>{low}</span><span>{middle}</span><span>{high}</span>'
    return f'<div class="bar"><div style="background:linear-gradient(90deg, {stops})"></div><p>{numbers}</p></div>'


# ---- captions and pictures ---------------------------------------------------------------------------------

def presence_numbers(told) -> str:
    return f'presence {told.score:.2f}, threshold {told.threshold:.2f}'


def caption(shown: Shown, index: int) -> str:
    "The phrase, the range of its map, and whether it was found"
    result = shown.result
    phrase = result.phrases[index]
    if not is_understood(shown, index): return f'{phrase}  ·  unknown to the model, no heat'
    low, high = range_of(result.maps[index])
    measured = f'{phrase}  ·  {low:.3f} … {high:.3f}'
    if result.found[index] is None: return measured
    numbers = presence_numbers(result.presence[index])
    if result.found[index]: return f'{measured}  ·  {numbers}'
    return f'{phrase}  ·  not found ({numbers})'


@dataclass(frozen=True)
class Look:
    "How heat is drawn"
    opacity: float = HEAT_OPACITY  # at the top of the scale
    common: bool = True  # one scale for all phrases
    show_absent: bool = False  # draw the heat of phrases that are not found


@dataclass
class Drawing:
    "What the first two tabs show"
    gallery: list[tuple[Image.Image, str]]
    bar: str
    slider: tuple[Image.Image, Image.Image]


def render(shown: Shown, look: Look, picked: str | None) -> Drawing:
    "Heatmaps, color bar and comparison from the kept maps"
    phrases = shown.result.phrases
    images = [heat_image(shown, i, look) for i in range(len(phrases))]
    captions = [caption(shown, i) for i in range(len(phrases))]
    index = phrases.index(picked) if picked in phrases else 0
    return Drawing(list(zip(images, captions)), color_bar(shown, look), (shown.image, images[index]))


# ---- tables ------------------------------------------------------------------------------------------------

def plain(text: str) -> str:
    "Text for a table, whose cells and heads the page may read as markup"
    return text.replace('<', '‹').replace('>', '›')


def column_names(shown: Shown) -> list[str]:
    "Phrases as heads of columns, with a note where one is not found"
    heads = zip(shown.result.phrases, shown.result.found)
    return [plain(f'{phrase} (not found)' if found is False else phrase) for phrase, found in heads]


def box_text(box: np.ndarray) -> str:
    "Corners of a box in whole pixels"
    x1, y1, x2, y2 = (round(float(v)) for v in box)
    return f'{x1}, {y1} – {x2}, {y2}'


def score_cell(value: float, best: float) -> str:
    "A cosine as text; a phrase without meaning has none"
    if np.isnan(value): return '–'
    return f'{"★ " if value == best else ""}{value:.3f}'


def score_row(number: int, scores: np.ndarray, box: np.ndarray, phrases: list[str]) -> list[str]:
    "One region: its number, its box, its best phrase, and all cosines with the best one marked"
    known = np.isfinite(scores)
    best = np.nanmax(scores) if known.any() else np.nan
    name = phrases[int(np.nanargmax(scores))] if known.any() else '–'
    return [str(number), box_text(box), plain(name), *(score_cell(value, best) for value in scores)]


def score_table(shown: Shown) -> dict[str, list]:
    "Cosines of regions with phrases, as text"
    scores = np.asarray(shown.result.scores)
    boxes = to_pixels(shown.boxes, *shown.size)
    rows = [score_row(i, row, box, shown.result.phrases) for i, (row, box) in enumerate(zip(scores, boxes), 1)]
    return dict(headers=[*SCORE_HEADS, *column_names(shown)], data=rows)


def has_map(result) -> bool:
    "Whether the file says where on Earth it is, and in which system"
    return result.georeference is not None and bool(result.georeference.crs)


def map_point(shown: Shown, point: tuple[float, float]) -> str:
    "A point (fractions) in the coordinates of the file's CRS; '' without a georeference"
    place = shown.result.georeference
    if not has_map(shown.result): return ''
    east, north = (float(v) for v in place.to_map(point[0] * place.width, point[1] * place.height))
    digits = 6 if max(abs(east), abs(north)) < 400 else 1
    return f'{east:.{digits}f}, {north:.{digits}f}'


def place_row(shown: Shown, place) -> list[str]:
    "One place: phrase, score, where"
    x, y = np.multiply(place.point, shown.size)
    box = '' if place.kind == 'point' else box_text(to_pixels([place.box], *shown.size)[0])
    return [plain(place.phrase), f'{place.score:.3f}', f'{x:.0f}, {y:.0f}', box, map_point(shown, place.point)]


def places_table(shown: Shown, places: list[list]) -> dict[str, list]:
    "Places of all phrases, the best first within a phrase; the last column only with a georeference"
    rows = []
    for found in places: rows += [place_row(shown, place) for place in found]
    if not has_map(shown.result): return dict(headers=PLACE_HEADS, data=[row[:4] for row in rows])
    return dict(headers=[*PLACE_HEADS, f'point ({plain(shown.result.georeference.crs)})'], data=rows)


# ---- sentences ---------------------------------------------------------------------------------------------

def presence_sentence(presence: list) -> str:
    "HTML: the phrases that are not found, and the coverage of the thresholds; '' for a model without calibration"
    known = [told for told in presence if told.score is not None]
    if not known: return ''
    absent = ', '.join(told.phrase for told in known if not told.found)
    coverage = f'at least {known[0].coverage:.0%} of present phrases are found on images like those of the calibration'
    if absent: return f'<b>Not found: {html.escape(absent)}</b> ({coverage}).'
    subject = 'All phrases' if len(known) == len(presence) else 'The known phrases'
    return f'{subject} found ({coverage}).'


WEIGHTS = dict(trained='trained weights', random='<b>random weights: the heat means nothing</b>')


def summary_sentence(shown: Shown) -> str:
    "HTML: model, weights, cells, range of the maps"
    maps = shown.result.maps
    low, high = range_of(maps)
    grid = f'{maps.shape[2]} × {maps.shape[1]} cells'
    state = WEIGHTS.get(shown.weights, 'weights of unknown state')
    measured = f'{html.escape(shown.result.says())} {low:.3f} … {high:.3f}'
    return f'<b>{html.escape(shown.result.model)}</b> · {state} · {grid} · {measured}'


def map_sentence(result) -> str:
    "HTML: the system of map coordinates, where the file has one"
    if not has_map(result): return ''
    return f'Map coordinates are in {html.escape(result.georeference.crs)}, the system of the file.'


def describe(shown: Shown) -> str:
    "HTML: what was computed, by what, and what it is not"
    warned = [f'⚠ {html.escape(sentence)}' for sentence in shown.warnings]
    noted = [html.escape(sentence) for sentence in shown.notes]
    lines = [summary_sentence(shown), NOT_DETECTION, presence_sentence(shown.result.presence), *warned,
             map_sentence(shown.result), *noted]
    return ''.join(f'<p>{line}</p>' for line in lines if line)


def empty_table(heads: list[str]) -> dict[str, list]:
    return dict(headers=heads, data=[])


def nothing_shown() -> dict[str, object]:
    "Values of all results before the first question, and after an image was replaced or a question failed"
    return dict(
        gallery=[], bar='', picker=gr.Dropdown(choices=[], value=None), slider=None, table=empty_table(SCORE_HEADS),
        hint=NO_BOXES, about=f'<p>{NO_RESULT}</p>', record=None, places=empty_table(PLACE_HEADS), files=None,
        saved=f'<p>{NO_FILES}</p>', shown=None)
