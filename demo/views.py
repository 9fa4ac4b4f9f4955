"""Results out: heat over the image, the color bar, tables and sentences. No model runs here."""
import html
from dataclasses import dataclass, field, replace
from pathlib import Path

import gradio as gr
import numpy as np
from geoalignclip_nb.core import GeoAlignError, to_pixels
from PIL import Image, ImageDraw, ImageFont
from uploads import SHOWN, keep_png, shrink

COLORS = 'magma'
LARGE_CELL = 48  # pixels of the image; a larger cell hides things that people look for
STOPS = 16  # colors named in the bar
GONE = 'The result is no longer on the server; press Ground again.'
NO_RESULT = 'Press Ground. The heatmap shows how well places fit a phrase; it is not detection.'
NO_BOXES = 'Draw boxes, or type them as numbers, and press Ground to compare them with the phrases.'


@dataclass
class Shown:
    "What a session keeps to draw again: maps and scores in memory (kilobytes), the image on the disk"
    result: object  # GroundResult without its image; `valid` as small as the image on the disk
    image_path: Path
    size: tuple[int, int]  # width and height of the visitor's image
    name: str  # of the visitor's file
    weights: str
    notes: list[str] = field(default_factory=list)
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


def keep_result(answer, subject, notes: list[str]) -> Shown:
    "Put a result where it costs little: its image goes to the disk, small"
    result = answer.result
    image = shrink(result.image, SHOWN)
    maps = np.nan_to_num(np.asarray(result.maps, dtype=np.float32))
    kept = replace(result, image=None, maps=maps)
    kept.valid = small_mask(getattr(result, 'valid', None), image.size)
    return Shown(kept, keep_png(image, 'result-'), result.image.size, subject.name, answer.weights, notes)


# ---- heat -------------------------------------------------------------------------------------------------------------

def scale_of(shown: Shown, common: bool, index: int) -> tuple[float, float]:  # (vmin, vmax)
    "Scale of one phrase's colors: the stated scale of all phrases, or the phrase's own range"
    if common: low, high = shown.result.scale
    else: low, high = shown.result.maps[index].min(), shown.result.maps[index].max()
    return float(low), max(float(high), float(low) + 1e-6)


def has_heat(shown: Shown, index: int, show_absent: bool) -> bool:
    "Whether a phrase is drawn: it was found, or nobody can say, or the visitor wants to see it all the same"
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


def only_valid(heated: Image.Image, image: Image.Image, valid: np.ndarray | None) -> Image.Image:
    "The image without heat where its file holds no data"
    if valid is None: return heated
    mask = Image.fromarray(np.asarray(valid, dtype=bool)).convert('L')
    return Image.composite(heated, image, mask.resize(image.size, Image.Resampling.NEAREST))


def blend(image: Image.Image, heat: np.ndarray, scale: tuple[float, float], opacity: float) -> Image.Image:
    "Heat over an image: the higher the value, the less of the image is seen; at the scale's foot it is untouched"
    from geoalignclip_nb.viz import blend_heat
    return Image.blend(image, blend_heat(image, heat, *scale, COLORS), min(1., max(0., opacity)))


def heat_image(shown: Shown, index: int, look: 'Look') -> Image.Image:
    "One phrase's heat over the image, with the boxes; no heat where the phrase is not found"
    image = shown.image
    heated = image
    if has_heat(shown, index, look.show_absent):
        heated = blend(image, shown.result.maps[index], scale_of(shown, look.common, index), look.opacity)
        heated = only_valid(heated, image, shown.result.valid)
    return draw_boxes(heated, shown.boxes)


# ---- the color bar ----------------------------------------------------------------------------------------------------

def bar_colors(opacity: float) -> list[str]:  # '#rrggbb'
    "The colors that a reader sees over gray, from the foot of the scale to its top"
    ramp = np.linspace(0, 1, STOPS, dtype=np.float32)[None]
    gray = Image.new('RGB', (STOPS, 1), (128, 128, 128))
    row = np.asarray(blend(gray, ramp, (0., 1.), opacity))[0]
    return ['#%02x%02x%02x' % tuple(int(v) for v in color) for color in row]


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


# ---- captions and pictures --------------------------------------------------------------------------------------------

def unknown_words(shown: Shown, index: int) -> list[str]:
    words = getattr(shown.result, 'unknown', None) or []
    return list(words[index]) if index < len(words) else []


def caption(shown: Shown, index: int) -> str:
    "The phrase, the range of its map, and whether it was found"
    result = shown.result
    phrase, heat = result.phrases[index], result.maps[index]
    measured = f'{phrase}  ·  {heat.min():.3f} … {heat.max():.3f}'
    if unknown_words(shown, index) and heat.max() <= heat.min(): return f'{phrase}  ·  unknown to the model, no heat'
    if result.found[index] is None: return measured
    told = result.presence[index]
    numbers = f'presence {told.score:.2f}, threshold {told.threshold:.2f}'
    if result.found[index]: return f'{measured}  ·  {numbers}'
    return f'{phrase}  ·  not found ({numbers})'


@dataclass(frozen=True)
class Look:
    "How heat is drawn"
    opacity: float = 1.
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


# ---- tables -----------------------------------------------------------------------------------------------------------

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


def score_row(number: int, scores: np.ndarray, box: np.ndarray, phrases: list[str]) -> list[str]:
    "One region: its number, its box, its best phrase, and all cosines with the best one marked"
    best = int(np.argmax(scores))
    cells = [f'{"★ " if i == best else ""}{value:.3f}' for i, value in enumerate(scores)]
    return [str(number), box_text(box), plain(phrases[best]), *cells]


def score_table(shown: Shown) -> dict[str, list]:
    "Cosines of regions with phrases, as text"
    scores = np.asarray(shown.result.scores)
    boxes = to_pixels(shown.boxes, *shown.size)
    rows = [score_row(i, row, box, shown.result.phrases) for i, (row, box) in enumerate(zip(scores, boxes), 1)]
    return dict(headers=['#', 'box (px)', 'best match', *column_names(shown)], data=rows)


def map_point(shown: Shown, x: float, y: float) -> str:
    "A point (pixels) in the coordinates of the file's CRS; '' without a georeference"
    if shown.result.georeference is None: return ''
    east, north = shown.result.georeference.to_map(x, y)
    digits = 6 if max(abs(east), abs(north)) < 400 else 1
    return f'{east:.{digits}f}, {north:.{digits}f}'


def place_row(shown: Shown, place) -> list[str]:
    "One place: phrase, score, where"
    width, height = shown.size
    x, y = place.point[0] * width, place.point[1] * height
    box = '' if place.box is None else box_text(to_pixels(np.asarray([place.box]), width, height)[0])
    return [plain(place.phrase), f'{place.score:.3f}', f'{x:.0f}, {y:.0f}', box, map_point(shown, x, y)]


def places_table(shown: Shown, places: list[list]) -> dict[str, list]:
    "Places of all phrases, the best first within a phrase; the last column only with a georeference"
    georeference = shown.result.georeference
    rows = [place_row(shown, place) for found in places for place in found]
    headers = ['phrase', 'score', 'point (px)', 'box (px)']
    if georeference is None: return dict(headers=headers, data=[row[:4] for row in rows])
    return dict(headers=[*headers, f'point ({plain(georeference.crs)})'], data=rows)


# ---- sentences --------------------------------------------------------------------------------------------------------

def cell_sentence(size: tuple[int, int], shape: tuple[int, ...]) -> str:
    "What is too small to be seen, where a cell covers many pixels of the image; '' where it does not"
    side = max(size[0] / shape[-1], size[1] / shape[-2])
    if side < LARGE_CELL: return ''
    return (f'One cell of the heatmap covers {side:.0f} × {side:.0f} pixels of the image, so smaller things cannot be '
            'seen; cut out the part that matters, or use geoalign ground --size.')


def presence_sentence(presence: list) -> str:
    "HTML: the phrases that are not found, and the coverage of the thresholds; '' for a model without calibration"
    known = [told for told in presence if told.found is not None]
    if not known: return ''
    absent = ', '.join(told.phrase for told in known if not told.found)
    coverage = f'at least {known[0].coverage:.0%} of present phrases are found on images like those of the calibration'
    if absent: return f'<b>Not found: {html.escape(absent)}</b> ({coverage}).'
    return f'All phrases found ({coverage}).'


WEIGHTS = dict(trained='trained weights', random='<b>random weights: the heat means nothing</b>')


def summary_sentence(shown: Shown) -> str:
    "HTML: model, weights, cells, range of the maps"
    maps = shown.result.maps
    grid = f'{maps.shape[2]} × {maps.shape[1]} cells'
    state = WEIGHTS.get(shown.weights, 'weights of unknown state')
    measured = f'{html.escape(shown.result.says())} {maps.min():.3f} … {maps.max():.3f}'
    return f'<b>{html.escape(shown.result.model)}</b> · {state} · {grid} · {measured}'


def place_sentence(shown: Shown) -> str:
    "HTML: whether results have map coordinates"
    if shown.result.georeference is None: return 'This file has no georeference: places are in pixels only.'
    return f'Coordinates are in {html.escape(shown.result.georeference.crs)}, the system of the file.'


def describe(shown: Shown) -> str:
    "HTML: what was computed, by what, and what it is not"
    lines = [summary_sentence(shown), 'The heatmap shows how well places fit a phrase; it is not detection.',
             presence_sentence(shown.result.presence), place_sentence(shown)]
    notes = [f'⚠ {html.escape(note)}' for note in shown.notes]
    return ''.join(f'<p>{line}</p>' for line in [*lines, *notes] if line)


def nothing_shown() -> dict[str, object]:
    "Values of all results before the first question and after an image was replaced or a question failed"
    return dict(gallery=[], bar='', picker=gr.Dropdown(choices=[], value=None), slider=None,
                table=dict(headers=['#', 'box (px)', 'best match'], data=[]), hint=NO_BOXES,
                about=f'<p>{NO_RESULT}</p>', record=None, places=dict(headers=['phrase', 'score', 'point (px)', 'box (px)'], data=[]),
                files=[], saved='<p>Files appear here after Ground.</p>', shown=None)
