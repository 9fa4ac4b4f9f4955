"""The demo: type phrases, draw boxes, see where each phrase fits (paper §5.5, Figure 5). `python demo/app.py`

The library finds the places (`geoalignclip_nb.ground`). The parts: `adapters` (the scene with boxes), `uploads` (files
in), `grounder` (the model), `views` (results out), `exports` (files out), `handlers` (what happens), `service` (what
Gradio lacks).
"""
import argparse
import json
import logging
import os
import sys
import threading
import warnings
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault('GRADIO_ANALYTICS_ENABLED', 'False')  # read by Gradio when it is imported
os.environ.setdefault('HF_HUB_ETAG_TIMEOUT', '5')  # seconds; without a network nobody must wait for minutes
os.environ.setdefault('HF_HUB_DOWNLOAD_TIMEOUT', '15')
sys.path.insert(0, str(Path(__file__).resolve().parent))

import adapters
import gradio as gr
import views
from geoalignclip_nb.core import GeoAlignError
from geoalignclip_nb.ground import DEFAULT_METHOD, METHODS
from geoalignclip_nb.viz import HEAT_OPACITY
from gallery import BUNDLED_EXAMPLES, HERE, Example, load_examples
from grounder import MODELS, Grounder
from handlers import RESULTS, bands_field, cleared, make_handlers
from service import TOO_LARGE, DemoBlocks, keep_quiet, say_when_busy, spoken
from uploads import COMMAND, FILE_TYPES, UPLOAD_MB, open_image, preview_path, shown_by_browsers

FORGET = 3600  # seconds after which a session's result is dropped from memory
SESSIONS = 500  # whose values are kept; the oldest go first
WAITING = 16  # requests in the queue
TITLE = 'GeoAlignCLIP: phrases and places in aerial images'
TOO_MANY_BYTES = (f'{TOO_LARGE}: This file is larger than {UPLOAD_MB} MB, the limit of this page; '
                  f'run `{COMMAND.format(name="FILE")}` on your computer, or cut the image into parts.')
METHOD_INFO = ('How heat is computed: similarity is the raw cosine, contrast measures against “background”, legrad '
               'needs a ViT. Scores of boxes are always cosines.')
PRIVATE = dict(api_visibility='private')
QUIET = dict(show_progress='hidden', **PRIVATE)
ON_MODEL = dict(concurrency_limit=1, concurrency_id='model')


def launch_settings() -> dict[str, object]:
    "Arguments of `Blocks.launch` that the page relies on: look, limits, no network, no tracebacks"
    fonts = ['system-ui', '-apple-system', 'Segoe UI', 'Roboto', 'Ubuntu', 'sans-serif']
    theme = gr.themes.Default(primary_hue='indigo', neutral_hue='slate', font=fonts,
                              font_mono=['ui-monospace', 'monospace'], spacing_size='sm', radius_size='md')
    script = (HERE/'page.js').read_text(encoding='utf-8')
    too_many = f'window.geoalignTooManyBytes = {json.dumps(TOO_MANY_BYTES)};'
    return dict(theme=theme, css=(HERE/'page.css').read_text(encoding='utf-8'),
                head=f'<script>{too_many}\n{script}</script>', max_file_size=f'{UPLOAD_MB}mb', show_error=False,
                ssr_mode=False, footer_links=['api'], server_name='127.0.0.1', state_session_capacity=SESSIONS,
                allowed_paths=[str(BUNDLED_EXAMPLES)])  # the committed images and nothing else


# ---- parts of the page -------------------------------------------------------------------------------------

@dataclass
class Asked:
    "Fields that a visitor fills in"
    scene: gr.components.Component
    phrases: gr.Textbox
    button: gr.Button
    upload: gr.UploadButton
    typed: gr.Textbox
    bands: gr.Textbox
    model: gr.Dropdown
    method: gr.Radio
    opacity: gr.Slider
    common: gr.Checkbox
    show_absent: gr.Checkbox


def phrase_row(first: Example | None) -> tuple[gr.Textbox, gr.Button]:
    "The line at the top: what is looked for"
    with gr.Row(elem_id='ask', equal_height=True):
        phrases = gr.Textbox(
            label='Phrases, separated by commas or lines', value=', '.join(first.phrases) if first else '', lines=2,
            max_lines=6, placeholder='white airplane, terminal building, parking lot', elem_id='phrases', scale=8)
        button = gr.Button('Ground', variant='primary', elem_id='ground', scale=1, min_width=120)
    return phrases, button


def first_scene(first: Example | None):
    "Start value of the scene"
    if first is None: return None
    if adapters.has_annotator(): return adapters.scene_value(first.path, first.boxes)
    return dict(image=str(first.path))


def settings(models: tuple[str, ...]) -> dict[str, gr.components.Component]:
    "Fields that few visitors need"
    model = gr.Dropdown(list(models), value=models[0], label='Model', elem_id='model',
                        info='The first is bundled; the others are downloaded once.')
    with gr.Accordion('Advanced', open=False, elem_id='advanced'):
        method = gr.Radio(list(METHODS), value=DEFAULT_METHOD, label='Method', info=METHOD_INFO, elem_id='method')
        opacity = gr.Slider(0, 1, HEAT_OPACITY, step=.05, label='Opacity of the heat', elem_id='opacity',
                            info='At the top of the scale; lower values let more of the image through.')
        common = gr.Checkbox(True, label='One scale for all phrases', elem_id='common',
                             info='Off: each phrase on its own range, which makes an absent object look found.')
        show_absent = gr.Checkbox(False, label='Heat of phrases that are not found', elem_id='show_absent',
                                  info='Off: the image stays plain where a phrase is not found.')
    return dict(model=model, method=method, opacity=opacity, common=common, show_absent=show_absent)


def asked_column(first: Example | None) -> dict[str, gr.components.Component]:
    "The scene and what belongs to it"
    scene = adapters.scene_input(first_scene(first), height=360)
    upload = gr.UploadButton('Open image (TIFF, PNG, JPEG …), or drop one on the page', file_types=FILE_TYPES,
                             size='sm', variant='secondary', elem_id='open')
    bands = gr.Textbox('', label='Bands', placeholder='4, 3, 2', visible=False, elem_id='bands')
    typed = gr.Textbox('', label='Boxes as numbers', lines=1, max_lines=4, elem_id='typed',
                       placeholder='10, 20, 110, 120',
                       info='x1, y1, x2, y2 in pixels of the image; separate boxes by semicolons.')
    return dict(scene=scene, upload=upload, bands=bands, typed=typed)


def result_tabs() -> dict[str, gr.components.Component]:
    "The results, in tabs"
    found = {}
    with gr.Tabs():
        with gr.Tab('Heatmap', id='heat'):
            found['bar'] = gr.HTML(label='Scale', elem_id='bar')
            found['gallery'] = gr.Gallery(
                label='Heatmaps', show_label=False, columns=2, height='auto', object_fit='contain', format='jpeg',
                interactive=False, elem_id='heat', buttons=['fullscreen'])
        with gr.Tab('Compare', id='compare'):
            found['picker'] = gr.Dropdown([], label='Phrase', interactive=True, elem_id='picker')
            found['slider'] = gr.ImageSlider(label='Compare', show_label=False, format='jpeg', interactive=False,
                                             max_height=560, elem_id='slider')
        with gr.Tab('Places', id='places'):
            found['places'] = gr.Dataframe(
                label='Places', show_label=False, interactive=False, wrap=True, elem_id='places', buttons=['copy'],
                headers=views.PLACE_HEADS, column_widths=['26%', '12%', '18%', '24%', '20%'])
        with gr.Tab('Scores', id='scores'):
            found['hint'] = gr.Markdown(views.NO_BOXES, label='Hint', elem_id='hint')
            found['table'] = gr.Dataframe(label='Scores', show_label=False, interactive=False, wrap=True,
                                          elem_id='table', buttons=['copy'])
        with gr.Tab('Save', id='save'):
            found['saved'] = gr.HTML(f'<p>{views.NO_FILES}</p>', label='Saved', elem_id='saved')
            found['files'] = gr.File(label='Files', file_count='multiple', interactive=False, elem_id='files')
        with gr.Tab('Data', id='data'):
            found['record'] = gr.JSON(label='Data', show_label=False, max_height=600, elem_id='record')
    found['about'] = gr.HTML(f'<p>{views.NO_RESULT}</p>', label='About', elem_id='about')
    return found


def example_strip(examples: list[Example]) -> gr.Gallery:
    "Images to press"
    gr.Markdown('**Examples.** The last phrase of each is absent on purpose.', elem_id='examples-title')
    shown = [(example.thumbnail, example.label) for example in examples]
    return gr.Gallery(shown, label='Examples', show_label=False, columns=min(len(examples), 6), height='auto',
                      allow_preview=False, interactive=False, object_fit='cover', buttons=[], elem_id='examples')


# ---- what happens ------------------------------------------------------------------------------------------

@dataclass
class Kept:
    "Values of a session that no one sees"
    shown: gr.State  # views.Shown, the last result
    opened: gr.State  # uploads.Opened, what a preview stands for
    pending: gr.State  # path of a preview that goes to the screen next


def connect_ground(asked: Asked, results: dict[str, object], kept: Kept, act):
    "Ground, and the same result in another look"
    outputs = [results[name] for name in RESULTS]
    inputs = [asked.scene, asked.phrases, asked.method, asked.model, asked.opacity, asked.common, asked.typed,
              kept.opened, asked.show_absent, asked.bands]
    starts = [asked.button.click, asked.phrases.submit, asked.typed.submit]
    gr.on(starts, None, js='() => window.geoalignShowResults()', **PRIVATE)
    done = gr.on(starts, act.ground, inputs, outputs, api_name='ground',
                 show_progress_on=[results['gallery'], results['slider'], results['table']], **ON_MODEL)
    done.failure(cleared, None, outputs, **QUIET)  # a result that answers another question does not stay
    done.success(act.png, [kept.shown, asked.show_absent], results['files'], **QUIET)
    look = [kept.shown, asked.opacity, asked.common, results['picker'], asked.show_absent]
    drawn = [results['gallery'], results['bar'], results['slider']]
    for event in (asked.opacity.release, asked.common.change, asked.show_absent.change):
        event(act.redraw, look, drawn, trigger_mode='always_last', **QUIET)
    results['picker'].input(act.compare, look, results['slider'], **QUIET)


def connect_images(asked: Asked, results: dict[str, object], kept: Kept, act):
    """Images that come and go.

    An event that may leave the scene alone must not have it as output: an update, even an empty one, clears the
    annotator. So a handler names the path of a preview, and its change brings the preview to the screen.
    """
    outputs = [results[name] for name in RESULTS]
    opened = [kept.pending, kept.opened, asked.bands]
    asked.upload.upload(act.open, asked.upload, opened, **QUIET, **ON_MODEL)
    asked.bands.submit(act.bands, [kept.opened, asked.bands], [kept.pending, kept.opened], **QUIET, **ON_MODEL)
    asked.scene.upload(act.upload, asked.scene, opened, **QUIET)
    asked.scene.upload(cleared, None, outputs, **QUIET)
    arrived = kept.pending.change(adapters.scene_value, kept.pending, asked.scene, **QUIET)
    arrived.then(lambda: ('', *cleared()), None, [asked.typed, *outputs], **QUIET)
    forgotten = [kept.opened, asked.bands, asked.typed, *outputs]
    asked.scene.clear(lambda: (None, bands_field(None), '', *cleared()), None, forgotten, **QUIET)


def connect_examples(strip: gr.Gallery, examples: list[Example], asked: Asked, results: dict[str, object], kept: Kept):
    "An example replaces the image, the phrases and the boxes"
    @spoken
    def on_example(event: gr.SelectData):
        example = examples[event.index]
        path, opened = example.path, None
        if not shown_by_browsers(path):
            opened = open_image(path, path.name)
            path = preview_path(opened)
        value = adapters.scene_value(path, example.boxes)
        return value, ', '.join(example.phrases), opened, bands_field(opened), '', *cleared()
    outputs = [asked.scene, asked.phrases, kept.opened, asked.bands, asked.typed, *(results[name] for name in RESULTS)]
    strip.select(on_example, None, outputs, **QUIET)


def build_demo(
    grounder=None,  # callable(grounder.Question, progress) -> grounder.Answer; None: the library
    models: tuple[str, ...] = MODELS,  # names to choose from, the first one is the start
    examples: list[Example] | None = None,  # None: those of this repository, and of GEOALIGN_DATA
) -> gr.Blocks:  # ready for `.launch(**launch_settings())`
    "The page. Nothing is loaded until *Ground* is pressed"
    act = make_handlers(grounder or Grounder())
    examples = load_examples() if examples is None else examples
    first = examples[0] if examples else None
    with DemoBlocks(title=TITLE, analytics_enabled=False, fill_width=True, delete_cache=(3600, 86400)) as demo:
        kept = Kept(*(gr.State(None, time_to_live=FORGET) for _ in range(3)))
        gr.HTML('<h1>Phrases and places in aerial images</h1><p>Type what you look for. Draw boxes around what you '
                'want named. GeoAlignCLIP shows where each phrase fits.</p>', elem_id='head')
        phrases, button = phrase_row(first)
        with gr.Row(equal_height=False):
            with gr.Column(scale=4, min_width=320): fields = asked_column(first) | settings(models)
            with gr.Column(scale=6, min_width=320, elem_id='results'): results = result_tabs()
        results['shown'] = kept.shown
        asked = Asked(phrases=phrases, button=button, **fields)
        connect_ground(asked, results, kept, act)
        connect_images(asked, results, kept, act)
        if examples: connect_examples(example_strip(examples), examples, asked, results, kept)
    demo.queue(max_size=WAITING)
    say_when_busy(demo)
    keep_quiet()
    return demo


# ---- the command -------------------------------------------------------------------------------------------

def read_flags(argv: list[str] | None) -> argparse.Namespace:
    p = argparse.ArgumentParser(description='Ground phrases in aerial images, in the browser.')
    p.add_argument('--host', default=os.environ.get('GRADIO_SERVER_NAME', '127.0.0.1'),
                   help='address to listen on (default: this computer only)')
    p.add_argument('--port', type=int, help='default: GRADIO_SERVER_PORT, else the first free one from 7860')
    p.add_argument('--share', action='store_true', help='ask Gradio for a public link')
    p.add_argument('--model', help='one more model: open_clip architecture.tag, or a folder')
    p.add_argument('--examples', type=Path, metavar='DIR',
                   help='your own examples: a folder with examples.json and images (default: those of the demo, and UC '
                        'Merced Land Use where GEOALIGN_DATA holds it)')
    return p.parse_args(argv)


def launch_or_exit(demo: gr.Blocks, port: int | None, **more):
    "Launch; a taken port or a blocked address ends the program with one sentence"
    try: demo.launch(**more)
    except OSError as e:
        if 'empty port' not in str(e) and 'in use' not in str(e): raise
        taken = port or os.environ.get('GRADIO_SERVER_PORT', '7860')
        sys.exit(f'demo: port {taken} is taken; give another with --port.')
    except ValueError as e:
        if 'localhost is not accessible' not in str(e): raise
        sys.exit('demo: the page started but does not answer on this computer; set NO_PROXY=127.0.0.1,localhost, '
                 'or try again when the computer is less busy.')


def has_screen() -> bool:
    "Whether a browser can be opened for the one who started the demo"
    if not sys.stdout.isatty(): return False
    windows = sys.platform in ('win32', 'darwin')
    return windows or bool(os.environ.get('DISPLAY') or os.environ.get('WAYLAND_DISPLAY'))


def main(argv: list[str] | None = None):
    "Parse, build, launch"
    args = read_flags(argv)
    warnings.filterwarnings('ignore', module='gradio')
    logging.basicConfig(level=logging.WARNING)
    names = (args.model, *(m for m in MODELS if m != args.model)) if args.model else MODELS
    os.environ.setdefault('NO_PROXY', '127.0.0.1,localhost')  # Gradio asks its own page whether it is up
    grounder = Grounder()
    try: examples = load_examples(args.examples)
    except GeoAlignError as e: sys.exit(f'demo: {e}')
    demo = build_demo(grounder, names, examples)
    threading.Thread(target=grounder.warm_up, args=(names[0],), daemon=True).start()
    more = dict(server_name=args.host, server_port=args.port, share=args.share, inbrowser=has_screen())
    launch_or_exit(demo, args.port, **launch_settings() | more)


if __name__ == '__main__': main()
