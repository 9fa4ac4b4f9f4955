"""What happens when a visitor does something: each function takes values of the page and returns values of the page."""
import html
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Callable

import adapters
import exports
import gradio as gr
import views
from geoalignclip_nb.core import GeoAlignError
from geoalignclip_nb.ground import DEFAULT_METHOD
from geoalignclip_nb.phrases import ParsedPhrases, read_phrases
from geoalignclip_nb.viz import HEAT_OPACITY
from grounder import BUNDLED, Answer, Question
from service import public, spoken
from uploads import Opened, Subject, open_image, preview_path, shown_by_browsers, subject_of

PHRASES = 24  # at most, for one image
RESULTS = ('gallery', 'bar', 'picker', 'slider', 'table', 'hint', 'about', 'record', 'places', 'files', 'saved',
           'shown')
SCORES = ('Raw cosines of each box (RoIAlign on the dense feature map) with each phrase; ★ marks the best phrase of a '
          'box.')


def in_order(values: dict[str, object]) -> tuple:
    "Values of the results in the order of the page's outputs"
    return tuple(values[name] for name in RESULTS)


def cleared() -> tuple:
    "Results that say nothing"
    return in_order(views.nothing_shown())


def checked_phrases(text: str) -> ParsedPhrases:
    "The phrases of a text and notes about them; raises `GeoAlignError` where there are too many"
    parsed = read_phrases(text or '')
    if len(parsed.phrases) > PHRASES:
        raise GeoAlignError(f'There are {len(parsed.phrases)} phrases, more than {PHRASES}; remove some.')
    return parsed


def left_out_sentence(count: int) -> str:
    "Why boxes are missing from the result"
    boxes = '1 box was' if count == 1 else f'{count} boxes were'
    return f'{boxes} left out: thinner than {adapters.SMALLEST} pixels, outside the image, or twice the same.'


@dataclass(frozen=True)
class Told:
    "Sentences about a result, without folders of this computer"
    notes: list[str]
    warnings: list[str]


def distinct(sentences: list[str]) -> list[str]:
    "Each sentence once, fit for the page"
    return list(dict.fromkeys(public(sentence) for sentence in sentences))


def ask(grounder, question: Question, progress) -> tuple[Answer, Told]:
    "Ask the model and hear its warnings"
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter('always', UserWarning)
        answer = grounder(question, progress)
    told = [str(w.message) for w in heard if w.category is UserWarning]
    result = answer.result
    return answer, Told(distinct(result.notes), distinct([*result.warnings, *told]))


def saved_sentence(missing: str, subject: Subject) -> str:
    "HTML: what the files hold, and why one is missing"
    if missing and not isinstance(subject.image, Path): missing = exports.TURNED
    return ''.join(f'<p>{html.escape(text)}</p>' for text in (exports.HELD, missing) if text)


def results_of(answer: Answer, subject: Subject, told: Told, look: views.Look) -> dict[str, object]:
    "Everything that the page shows about an answer"
    result = answer.result
    shown = views.keep_result(answer, subject.name)
    saved = exports.write_data(result, subject.name)
    shown.notes, shown.warnings, shown.files = told.notes, told.warnings, saved.paths
    drawing = views.render(shown, look, None)
    phrases = shown.result.phrases
    told_too = dict(weights=answer.weights, warnings=told.warnings, notes=told.notes)
    return dict(gallery=drawing.gallery, bar=drawing.bar, slider=drawing.slider, shown=shown,
                picker=gr.Dropdown(choices=phrases, value=phrases[0], interactive=True),
                table=views.score_table(shown), hint=SCORES if len(shown.boxes) else views.NO_BOXES,
                about=views.describe(shown), record=result.to_dict() | told_too,
                places=views.places_table(shown, result.places()), files=[str(f) for f in saved.paths],
                saved=saved_sentence(saved.missing, subject))


@dataclass(frozen=True)
class Handlers:
    "The handlers of one page"
    ground: Callable
    open: Callable
    upload: Callable
    bands: Callable
    redraw: Callable
    compare: Callable
    png: Callable


def make_ground(grounder) -> Callable:
    "The handler of Ground, also the endpoint `/ground`; its arguments are the inputs of the page"
    @spoken
    def on_ground(  # noqa: PLR0913, PLR0917  (one argument for each input of the page)
        scene, phrases, method=DEFAULT_METHOD, model=BUNDLED, opacity=HEAT_OPACITY, common=True, typed='', opened=None,
        show_absent=False, bands='', progress=gr.Progress(),
    ):
        if scene is None: raise GeoAlignError('There is no image; drop one on the left or choose an example.')
        parsed = checked_phrases(phrases)
        progress(0, desc='Reading the image')
        subject = subject_of(scene, typed, opened, bands)
        boxes = subject.boxes if len(subject.boxes) else None
        question = Question(model, subject.image, parsed.phrases, boxes, method, subject.bands)
        answer, told = ask(grounder, question, progress)
        told.notes.extend(parsed.notes)
        if subject.left_out: told.notes.append(left_out_sentence(subject.left_out))
        return in_order(results_of(answer, subject, told, views.Look(opacity, common, show_absent)))
    return on_ground


# ---- images in ---------------------------------------------------------------------------------------------

def bands_field(opened: Opened | None) -> dict:
    "The field for bands, seen only where a file has more than three"
    if opened is None or opened.band_count <= 3: return gr.Textbox(value='', visible=False)
    info = f'{opened.name} has {opened.band_count} bands. Write the three to show as red, green and blue, or one.'
    return gr.Textbox(value=opened.bands or '', visible=True, info=info)


@spoken
def on_open(path: str):
    "Open a file of any kind: (path of its preview, what the preview stands for, the field for bands)"
    opened = open_image(path, Path(path).name)
    return str(preview_path(opened)), opened, bands_field(opened)


@spoken
def on_upload(scene):
    "A file that no browser shows asks for a PNG of the same image; any other stays as it is"
    if scene is None or shown_by_browsers(scene.path): return gr.skip(), None, bands_field(None)
    opened = open_image(scene.path, scene.name)
    return str(preview_path(opened)), opened, bands_field(opened)


@spoken
def on_bands(opened: Opened | None, bands: str):
    "Show an opened file in other bands"
    if opened is None: raise GeoAlignError('There is no file with bands to choose; open a TIFF first.')
    again = open_image(opened.path, opened.name, bands)
    return str(preview_path(again)), again


# ---- results again -----------------------------------------------------------------------------------------

@spoken
def on_redraw(shown, opacity, common, picked, show_absent):
    "The same maps in another look"
    if not shown: return gr.skip(), gr.skip(), gr.skip()
    drawing = views.render(shown, views.Look(opacity, common, show_absent), picked)
    return drawing.gallery, drawing.bar, drawing.slider


@spoken
def on_compare(shown, opacity, common, picked, show_absent):
    "Another phrase beside the plain image"
    if not shown or picked not in shown.result.phrases: return gr.skip()
    look = views.Look(opacity, common, show_absent)
    return shown.image, views.heat_image(shown, shown.result.phrases.index(picked), look)


@spoken
def on_png(shown, show_absent):
    "The files of a result with the PNG of all phrases"
    if not shown: return gr.skip()
    png = exports.write_png(shown, show_absent=show_absent)
    return [str(path) for path in (png, *shown.files)]


def make_handlers(grounder) -> Handlers:
    "Handlers for a grounder: callable(question, progress) -> Answer"
    return Handlers(make_ground(grounder), on_open, on_upload, on_bands, on_redraw, on_compare, on_png)
