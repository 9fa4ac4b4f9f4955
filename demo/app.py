"""The demo: draw boxes on an aerial picture, type phrases, see where each is (paper §5.5, Figure 5). `python demo/app.py`

The library does the thinking (`geoalignclip_nb.ground`); this file converts types, renders, and turns every mistake into one sentence.
"""
import argparse
import contextlib
import functools
import html
import json
import logging
import os
import re
import sys
import threading
import uuid
import warnings
from collections import OrderedDict
from pathlib import Path

os.environ.setdefault('GRADIO_ANALYTICS_ENABLED', 'False')  # read by Gradio when it is imported
os.environ.setdefault('HF_HUB_ETAG_TIMEOUT', '5')  # seconds; a computer without network must not wait for minutes
os.environ.setdefault('HF_HUB_DOWNLOAD_TIMEOUT', '15')

import adapters
import gradio as gr
import numpy as np
from geoalignclip_nb.core import GeoAlignError, default_device, to_fractions, to_pixels
from geoalignclip_nb.phrases import parse_phrases
from gradio.utils import get_upload_folder
from PIL import Image, ImageDraw, ImageFont

log = logging.getLogger('geoalign.demo')
HERE = Path(__file__).resolve().parent
BUNDLED = 'geoalign-tiny'
MODELS = (BUNDLED, 'ViT-B-16-quickgelu.openai', 'ViT-L-14-quickgelu.openai', 'ViT-L-14-336-quickgelu.openai')
METHODS = ('similarity', 'contrast', 'gradcam', 'legrad')
SHOWN = 1024  # longest side of pictures that results are drawn on
PREVIEW = 2048  # longest side of a picture opened from a file the browser cannot show
PIXELS = 200_000_000  # larger pictures are refused before they are decoded
PHRASES = 24  # at most, for one picture
FILE_TYPES = ['.tif', '.tiff', '.png', '.jpg', '.jpeg', '.webp', '.bmp', '.jp2']


# ---- models -----------------------------------------------------------------------------------------------------------------

def is_downloaded(name: str) -> bool:
    "True where the weights of an open_clip `architecture.tag` lie in the cache of this computer"
    import open_clip
    from huggingface_hub import try_to_load_from_cache
    arch, _, tag = name.rpartition('.')
    repo = (open_clip.get_pretrained_cfg(arch, tag) or {}).get('hf_hub', '').strip('/')
    names = ('open_clip_model.safetensors', 'open_clip_pytorch_model.bin')
    return bool(repo) and any(isinstance(try_to_load_from_cache(repo, n), str) for n in names)


def network_answers(seconds: float = 6) -> bool:
    "True where the model hub answers within `seconds`; in a thread of its own, because a look-up of the name has no limit of its own"
    from huggingface_hub import constants
    import urllib.error
    import urllib.request
    answers = []

    def ask():
        try: urllib.request.urlopen(urllib.request.Request(constants.ENDPOINT, method='HEAD'), timeout=seconds); answers.append(True)
        except urllib.error.HTTPError: answers.append(True)  # it refuses us, but it is there
        except Exception: pass
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(seconds)
    return bool(answers)


class Grounder:
    "Calls the library; keeps the last models in memory. Another callable of the same form may be given to `build_demo`"

    def __init__(self, keep: int = 2):
        self.keep, self.models, self.lock = keep, OrderedDict(), threading.Lock()

    def model(self, name: str, progress):
        with self.lock:
            if name not in self.models:
                from geoalignclip_nb.model import GeoAlignCLIP
                if name != BUNDLED and not Path(name).exists() and not is_downloaded(name):
                    progress(.05, desc='Looking for the network')
                    if not network_answers():
                        raise GeoAlignError(f'{name} is not on this computer and there is no network to download it; choose {BUNDLED}, which is bundled.')
                    progress(.1, desc=f'Downloading {name} (once)')
                else: progress(.1, desc=f'Loading {name}')
                self.models[name] = GeoAlignCLIP.from_pretrained(name, device=default_device())
                while len(self.models) > self.keep: self.models.popitem(last=False)
            self.models.move_to_end(name)
            return self.models[name]

    def __call__(
        self,
        name: str,  # of the model
        image,  # PIL.Image, RGB
        phrases: list,
        boxes,  # (R,4) fractions, or None
        method: str,  # one of METHODS
        progress,  # gr.Progress
    ) -> tuple:  # (GroundResult, 'trained' | 'random' | '')
        from geoalignclip_nb.ground import ground
        model = self.model(name, progress)
        getattr(model, 'warned', set()).clear()  # a word the model never saw is told each time, not once per process
        progress(.6, desc='Grounding')
        return ground(model, image, phrases, boxes=boxes, method=method), 'trained' if getattr(model, 'trained', True) else 'random'


# ---- mistakes become one sentence ---------------------------------------------------------------------------------------------

def public(message: str) -> str:
    "A sentence without folders of this computer"
    return re.sub(r'(?<![\w.])(?:[A-Za-z]:)?[\\/](?:[^\s\\/\'"]+[\\/])+([^\s\\/\'"]*)', r'\1', str(message))


def spoken(handler):
    "A handler whose mistakes reach the page as one sentence, without traceback and without a path of the server"
    @functools.wraps(handler)
    def run(*args, **kwargs):
        try: return handler(*args, **kwargs)
        except gr.Error: raise
        except GeoAlignError as e: raise gr.Error(public(e), title='Please check', duration=12, print_exception=False) from None
        except MemoryError: raise gr.Error('This picture needs more memory than there is; make it smaller.', title='Too large', print_exception=False) from None
        except Exception:
            log.exception('unexpected')  # for the one who runs the server
            raise gr.Error('Something went wrong that we did not foresee; the terminal of the demo says what.', title='Sorry', print_exception=False) from None
    return run


# ---- pictures in --------------------------------------------------------------------------------------------------------------

def read_picture(path, name: str):
    "The file as an RGB picture; raises `GeoAlignError` that calls it by the user's `name`"
    from geoalignclip_nb.vision import load_image
    path = Path(path)
    try: return load_image(path, max_pixels=PIXELS)
    except GeoAlignError as e: raise GeoAlignError(str(e).replace(str(path), name).replace(path.name, name)) from None


def shrink(image, side: int):
    "A copy whose longest side is at most `side`"
    image = image.copy()
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    return image


def open_picture(path, name: str) -> tuple:
    "(PNG that the browser can show, note for the session: what the PNG stands for) of any picture"
    image = shrink(read_picture(path, name), PREVIEW)
    folder = Path(get_upload_folder())/'previews'  # Gradio serves this folder and cleans it (`delete_cache`)
    folder.mkdir(parents=True, exist_ok=True)
    preview = folder/f'{uuid.uuid4().hex}.png'
    image.save(preview, compress_level=1)
    return preview, dict(preview=preview.name, seen=image.size, path=str(path), name=name)


# ---- pictures out -------------------------------------------------------------------------------------------------------------

def scale_of(shown: dict, common: bool, index: int) -> tuple:
    "(vmin, vmax) for one phrase: the stated scale of all phrases, or the phrase's own range"
    if common: return shown['scale']
    low, high = float(shown['maps'][index].min()), float(shown['maps'][index].max())
    return (low, high if high > low else low + 1e-6)


def draw_boxes(image, boxes):
    "Numbered outlines (fractions) on a copy of a picture"
    image = image.copy()
    pen, side = ImageDraw.Draw(image), max(image.size)
    font, line = ImageFont.load_default(max(12, side // 40)), max(2, side // 320)
    for i, (x1, y1, x2, y2) in enumerate(to_pixels(boxes, *image.size), 1):
        pen.rectangle((x1, y1, x2, y2), outline='black', width=line + 2)
        pen.rectangle((x1 + 1, y1 + 1, x2 - 1, y2 - 1) if x2 - x1 > 4 and y2 - y1 > 4 else (x1, y1, x2, y2), outline='white', width=line)
        left, top, right, bottom = pen.textbbox((x1 + line + 3, y1 + line), str(i), font=font)
        pen.rectangle((left - 3, top - 2, right + 3, bottom + 2), fill='white')
        pen.text((x1 + line + 3, y1 + line), str(i), fill='black', font=font)
    return image


def heat_picture(shown: dict, index: int, opacity: float, common: bool, show_absent: bool = False):
    "One phrase's heat over the picture, with the boxes; no heat where the phrase is not found"
    from geoalignclip_nb.viz import overlay
    if shown['found'][index] is False and not show_absent: return draw_boxes(shown['image'], shown['boxes'])
    low, high = scale_of(shown, common, index)
    return draw_boxes(overlay(shown['image'], shown['maps'][index], low, high, cmap='magma', opacity=opacity), shown['boxes'])


def colour_bar(shown: dict, common: bool) -> str:
    "The one scale, as numbers beside the colours"
    from matplotlib import colormaps
    stops = ', '.join('#%02x%02x%02x' % tuple(int(255 * v) for v in colormaps['magma'](i / 12)[:3]) for i in range(13))
    low, high = (f'{v:.3f}' for v in shown['scale'])
    ends = (low, f'{shown["says"]}, one scale for all phrases', high) if common else ('lowest', f'{shown["says"]}, each phrase on its own range (see captions)', 'highest')
    return f'<div class="bar"><div style="background:linear-gradient(90deg, {stops})"></div><p><span>{ends[0]}</span><span>{ends[1]}</span><span>{ends[2]}</span></p></div>'


def caption(shown: dict, index: int) -> str:
    "The phrase, the range of its map, and whether it was found"
    phrase, heat, told = shown['phrases'][index], shown['maps'][index], shown['presence']
    text = f'{phrase}  ·  {heat.min():.3f} … {heat.max():.3f}'
    if shown['found'][index] is None: return text
    numbers = f'presence {told[index].score:.2f}, threshold {told[index].threshold:.2f}'
    return f'{text}  ·  {numbers}' if shown['found'][index] else f'{phrase}  ·  not found ({numbers})'


def render(shown: dict, opacity: float, common: bool, picked: str, show_absent: bool = False) -> tuple:
    "(gallery, colour bar, slider) from raw maps; no model is run"
    if not shown: return gr.skip(), gr.skip(), gr.skip()
    pictures = [heat_picture(shown, i, opacity, common, show_absent) for i in range(len(shown['phrases']))]
    captions = [caption(shown, i) for i in range(len(shown['phrases']))]
    index = shown['phrases'].index(picked) if picked in shown['phrases'] else 0
    return list(zip(pictures, captions)), colour_bar(shown, common), (shown['image'], pictures[index])


def score_table(scores, boxes, phrases: list, size: tuple) -> dict:
    "Region × phrase cosines as rows of text, the best phrase of each region marked"
    headers = ['#', 'box (px)', 'best match', *phrases]
    rows = []
    for i, (row, box) in enumerate(zip(scores, to_pixels(boxes, *size).round().astype(int)), 1):
        best = int(np.argmax(row))
        cells = [f'{"★ " if j == best else ""}{v:.3f}' for j, v in enumerate(row)]
        rows.append([str(i), f'{box[0]}, {box[1]} – {box[2]}, {box[3]}', phrases[best], *cells])
    return dict(headers=headers, data=rows)


def column_names(shown: dict) -> list:
    "Phrases as heads of columns, with a note where one is not found"
    return [f'{phrase} (not found)' if found is False else phrase for phrase, found in zip(shown['phrases'], shown['found'])]


def describe(shown: dict, model: str, weights: str, notes: list) -> str:
    "What was computed, by what, and what it is not"
    lows, highs = [float(m.min()) for m in shown['maps']], [float(m.max()) for m in shown['maps']]
    grid = ' × '.join(str(v) for v in shown['maps'].shape[:0:-1])
    state = {'trained': 'trained weights', 'random': '**random weights: the heat means nothing**'}.get(weights, 'weights of unknown state')
    said = f'**{html.escape(model)}** · {state} · {grid} cells · {shown["says"]} {min(lows):.3f} … {max(highs):.3f}  \nHeat says how well places fit a phrase; it is not detection.'
    return said + presence_sentence(shown) + ''.join(f'  \n⚠ {html.escape(n)}' for n in notes)


def presence_sentence(shown: dict) -> str:
    "The phrases that are not found, and the coverage of the thresholds; '' for a model without calibration"
    known = [told for told in shown['presence'] if told.found is not None]
    if not known: return ''
    absent = [told.phrase for told in known if not told.found]
    coverage = f'at least {known[0].coverage:.0%} of present phrases are found on images like those of the calibration'
    return f'  \n**Not found: {html.escape(", ".join(absent))}** ({coverage}).' if absent else f'  \nAll phrases found ({coverage}).'


# ---- handlers -----------------------------------------------------------------------------------------------------------------

def collect(scene, typed: str, opened: dict) -> tuple:
    "(picture as on the screen, in full size; boxes (R,4) fractions; boxes left out) of what the user gave"
    if opened and opened['preview'] == scene.path.name:  # the screen shows a small copy: read the original, carry the boxes over
        if not Path(opened['path']).exists(): raise GeoAlignError(f'{opened["name"]} is no longer on the server; open it again.')
        seen, image = opened['seen'], read_picture(opened['path'], opened['name'])
    else: image = read_picture(scene.path, scene.name); seen = image.size
    turns = adapters.quarter_turns(scene.turns)
    image = adapters.turn(image, turns)
    if turns % 2: seen = seen[::-1]
    drawn = to_pixels(to_fractions(adapters.drawn_rows(scene.boxes), *seen), *image.size)
    boxes, dropped = adapters.tidy_boxes([*drawn, *adapters.typed_boxes(typed)], *image.size)
    return image, to_fractions(boxes, *image.size), dropped


def prepare(result, image) -> dict:
    "What the session keeps to draw again: the small picture and the raw maps"
    maps = np.nan_to_num(np.asarray(result.maps, dtype=np.float32))
    low, high = result.scale
    boxes = np.zeros((0, 4)) if result.boxes is None else np.asarray(result.boxes, dtype=float).reshape(-1, 4)
    return dict(image=shrink(image, SHOWN), maps=maps, phrases=list(result.phrases), found=result.found, presence=list(result.presence), boxes=boxes, kind=result.kind, says=result.says(),
                scale=(float(low), float(high) if high > low else float(low) + 1e-6))


def make_handlers(grounder) -> tuple:
    "(ground, open a file, make an upload visible): the handlers that work"
    @spoken
    def on_ground(scene, phrases, method, model, opacity, common, typed, opened, show_absent=False, progress=gr.Progress(track_tqdm=True)):
        if scene is None: raise GeoAlignError('There is no picture; drop one on the left or choose an example.')
        phrases = parse_phrases(phrases)
        if len(phrases) > PHRASES: raise GeoAlignError(f'There are {len(phrases)} phrases, more than {PHRASES}; remove some.')
        progress(0, desc='Reading the picture')
        image, boxes, dropped = collect(scene, typed, opened)
        with warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter('always', UserWarning)
            result, weights = grounder(model, image, phrases, boxes if len(boxes) else None, method, progress)
        notes = list(dict.fromkeys([*result.warnings, *(public(w.message) for w in heard if w.category is UserWarning)]))
        if dropped: notes.append(f'{dropped} box{"es were" if dropped > 1 else " was"} left out: thinner than {adapters.SMALLEST} pixels, outside the picture, or twice the same.')
        shown = prepare(result, image)
        gallery, bar, slider = render(shown, opacity, common, phrases[0], show_absent)
        table = score_table(np.asarray(result.scores), shown['boxes'], shown['phrases'], image.size) if len(boxes) else dict(headers=['#', 'box (px)', 'best match', *phrases], data=[])
        table['headers'][3:] = column_names(shown)
        hint = ('Raw cosines of each box (RoIAlign on the dense feature map) with each phrase; ★ marks the best phrase of a box.' if len(boxes) else
                'No box was drawn. Draw one on the scene and press **Ground** to compare it with the phrases.')
        return (gallery, bar, gr.Dropdown(choices=shown['phrases'], value=shown['phrases'][0], interactive=True), slider, table, hint,
                describe(shown, result.model, weights, notes), result.to_dict() | dict(weights=weights, warnings=notes), shown)

    @spoken
    def on_open(path):
        preview, note = open_picture(path, Path(path).name)
        return adapters.scene_value(preview), note

    @spoken
    def on_upload(scene):
        "A file that no browser shows (TIFF, 16 bits) asks for a PNG of the same picture: its path and note, else nothing"
        if scene is None: return gr.skip(), None
        with contextlib.suppress(Exception), Image.open(scene.path) as head:
            if head.format in ('PNG', 'JPEG', 'MPO', 'WEBP', 'GIF', 'BMP') and head.mode in ('RGB', 'RGBA', 'L', 'P', '1', 'LA'): return gr.skip(), None
        preview, note = open_picture(scene.path, scene.name)
        return str(preview), note
    return on_ground, on_open, on_upload


def load_examples() -> list:
    "Committed scenes: dicts of path, label, phrases, boxes (pixels)"
    listing = HERE/'examples'/'examples.json'
    found = json.loads(listing.read_text(encoding='utf-8')) if listing.exists() else []
    return [e | dict(path=HERE/'examples'/e['file']) for e in found]


# ---- the page -----------------------------------------------------------------------------------------------------------------

CSS = '''
.gradio-container { max-width: 1280px !important; width: 100%; margin: 0 auto !important; }
.gradio-container main { padding: 14px 24px !important; }
#head { margin-bottom: -4px; }
#head h1 { font-size: 24px; margin: 0; letter-spacing: -.01em; }
#head p { margin: 2px 0 0; color: var(--body-text-color-subdued); font-size: 14px; }
#about p, #hint p, #examples-title p { font-size: 13px; line-height: 1.5; margin: 0; }
.bar { padding: 0 2px; } .bar div { height: 12px; border-radius: 6px; }
.bar p { display: flex; justify-content: space-between; font-size: 12px; margin: 4px 0 0; color: var(--body-text-color-subdued); font-variant-numeric: tabular-nums; }
#examples .caption-label, #heat .caption-label { font-size: 12px; max-width: 96%; }
#heat .grid-container:has(> :only-child) { grid-template-columns: 1fr; }
#table table, #table th, #table td, #table .cell-wrap, #table span { font-family: var(--font) !important; font-variant-numeric: tabular-nums; }
footer { opacity: .6; }
'''


def launch_settings() -> dict:
    "Arguments of `Blocks.launch` that the page relies on (in Gradio 6 theme and CSS belong there): limits, no network, no tracebacks"
    fonts = ['system-ui', '-apple-system', 'Segoe UI', 'Roboto', 'Ubuntu', 'sans-serif']
    theme = gr.themes.Default(primary_hue='indigo', neutral_hue='slate', font=fonts, font_mono=['ui-monospace', 'monospace'], spacing_size='sm', radius_size='md')
    return dict(theme=theme, css=CSS, max_file_size='100mb', show_error=False, ssr_mode=False, footer_links=['api'], server_name='127.0.0.1',
                allowed_paths=[str(HERE/'examples')])  # the committed pictures and nothing else


def build_demo(
    grounder=None,  # callable(model name, picture, phrases, boxes, method, progress) -> (GroundResult, 'trained' | 'random'); None: the library
    models=MODELS,  # names to choose from, the first one is the start
) -> gr.Blocks:  # ready for `.launch(**launch_settings())`
    "The page. Nothing is loaded until *Ground* is pressed"
    on_ground, on_open, on_upload = make_handlers(grounder or Grounder())
    examples = load_examples()
    first = examples[0] if examples else None
    model_events = dict(concurrency_limit=1, concurrency_id='model')
    private = dict(api_visibility='private')

    with gr.Blocks(title='GeoAlignCLIP: words and places in aerial pictures', analytics_enabled=False, fill_width=True, delete_cache=(3600, 86400)) as demo:
        shown, opened, unseen = gr.State(None), gr.State(None), gr.State(None)
        gr.HTML('<h1>Words and places in aerial pictures</h1><p>Type what you look for. Draw boxes around what you want named. GeoAlignCLIP shows where each phrase fits.</p>', elem_id='head')
        with gr.Row(equal_height=False):
            with gr.Column(scale=4, min_width=360):
                scene = adapters.scene_input(adapters.scene_value(first['path'], first['boxes']) if first and adapters.has_annotator() else
                                             dict(image=str(first['path'])) if first else None, height=400)
                upload = gr.UploadButton('Open TIFF or large picture', file_types=FILE_TYPES, size='sm', variant='secondary', elem_id='open')
                phrases = gr.Textbox(label='Phrases, one per line', value='\n'.join(first['phrases']) if first else '', lines=4, max_lines=8,
                                     placeholder='white plane\nterminal building\nparking lot', elem_id='phrases')
                button = gr.Button('Ground', variant='primary', elem_id='ground')
                model = gr.Dropdown(list(models), value=models[0], label='Model', info='The first is bundled; the others are downloaded once.', elem_id='model')
                with gr.Accordion('Advanced', open=not adapters.has_annotator(), elem_id='advanced'):
                    method = gr.Radio(list(METHODS), value='contrast', label='Method', info='How heat is computed: contrast is measured against “background”, similarity is the raw cosine, legrad needs a ViT. Scores of boxes are always cosines.')
                    opacity = gr.Slider(0, 1, .55, step=.05, label='Opacity of the heat')
                    common = gr.Checkbox(True, label='One scale for all phrases', info='Off: each phrase on its own range, which makes an absent object look found.')
                    show_absent = gr.Checkbox(False, label='Heat of phrases that are not found', info='Off: the picture stays plain where a phrase is not found.')
                    typed = gr.Textbox('', label='Boxes as numbers', lines=2, placeholder='x1, y1, x2, y2 in pixels of the picture, one box per line', elem_id='typed')
            with gr.Column(scale=6, min_width=400):
                with gr.Tabs():
                    with gr.Tab('Heatmap', id='heat'):
                        gallery = gr.Gallery(label='Heatmaps', show_label=False, columns=2, height=660, object_fit='contain', format='jpeg', interactive=False, elem_id='heat', buttons=['download', 'fullscreen'])
                        bar = gr.HTML(label='Scale', elem_id='bar')
                    with gr.Tab('Compare', id='compare'):
                        picker = gr.Dropdown([], label='Phrase', interactive=True, elem_id='picker')
                        slider = gr.ImageSlider(label='Compare', show_label=False, format='jpeg', interactive=False, max_height=560, elem_id='slider')
                    with gr.Tab('Scores', id='scores'):
                        hint = gr.Markdown('Draw boxes and press **Ground** to compare them with the phrases.', label='Hint', elem_id='hint')
                        table = gr.Dataframe(label='Scores', show_label=False, interactive=False, wrap=True, elem_id='table', buttons=['copy'])
                    with gr.Tab('Data', id='data'):
                        record = gr.JSON(label='Data', show_label=False, max_height=600, elem_id='record')
                about = gr.Markdown('Press **Ground**. Heat says how well places fit a phrase; it is not detection.', label='About', elem_id='about')
        if examples:
            gr.Markdown('Examples: procedural scenes; the last phrase of each is absent on purpose.', elem_id='examples-title')
            strip = gr.Gallery([(str(e['path']), e['label']) for e in examples], label='Examples', show_label=False, columns=len(examples), height=178,
                               allow_preview=False, interactive=False, object_fit='cover', buttons=[], elem_id='examples')

            def on_example(event: gr.SelectData):
                e = examples[event.index]
                return adapters.scene_value(e['path'], e['boxes']), '\n'.join(e['phrases']), None, ''
            strip.select(on_example, None, [scene, phrases, opened, typed], show_progress='hidden', **private)

        inputs = [scene, phrases, method, model, opacity, common, typed, opened, show_absent]
        outputs = [gallery, bar, picker, slider, table, hint, about, record, shown]
        gr.on([button.click, phrases.submit], on_ground, inputs, outputs, api_name='ground', show_progress_on=[gallery, slider, table], **model_events)
        redraw = spoken(render)
        for event in (opacity.release, common.change, show_absent.change):
            event(redraw, [shown, opacity, common, picker, show_absent], [gallery, bar, slider], show_progress='hidden', trigger_mode='always_last', **private)
        picker.input(spoken(lambda *a: render(*a)[2]), [shown, opacity, common, picker, show_absent], slider, show_progress='hidden', **private)
        upload.upload(on_open, upload, [scene, opened], **private, **model_events)
        # An event that may leave the scene alone must not have it as output: an update, even an empty one, clears the annotator.
        scene.upload(on_upload, scene, [unseen, opened], show_progress='hidden', **private)
        unseen.change(adapters.scene_value, unseen, scene, show_progress='hidden', **private)
    return demo.queue(max_size=16)


def main(argv=None):
    "Parse, build, launch"
    p = argparse.ArgumentParser(description='Ground phrases in aerial pictures, in the browser.')
    p.add_argument('--host', default=os.environ.get('GRADIO_SERVER_NAME', '127.0.0.1'), help='address to listen on (default: this computer only)')
    p.add_argument('--port', type=int, help='default: GRADIO_SERVER_PORT, else the first free one from 7860')
    p.add_argument('--share', action='store_true', help='ask Gradio for a public link')
    p.add_argument('--model', help='one more model: open_clip architecture.tag, or a folder')
    args = p.parse_args(argv)
    warnings.filterwarnings('ignore', module='gradio')
    logging.basicConfig(level=logging.WARNING)
    names = (args.model, *(m for m in MODELS if m != args.model)) if args.model else MODELS
    settings = launch_settings() | dict(server_name=args.host, server_port=args.port, share=args.share)
    screen = sys.stdout.isatty() and (sys.platform in ('win32', 'darwin') or os.environ.get('DISPLAY') or os.environ.get('WAYLAND_DISPLAY'))
    os.environ.setdefault('NO_PROXY', '127.0.0.1,localhost')  # Gradio asks its own page whether it is up, and a proxy would not know
    try: build_demo(models=names).launch(inbrowser=bool(screen), **settings)
    except OSError as e:
        if 'empty port' not in str(e) and 'in use' not in str(e): raise
        sys.exit(f'demo: port {args.port or os.environ.get("GRADIO_SERVER_PORT", "7860")} is taken; give another with --port.')
    except ValueError as e:
        if 'localhost is not accessible' not in str(e): raise
        sys.exit('demo: the page started but does not answer on this computer; set NO_PROXY=127.0.0.1,localhost, or try again when the computer is less busy.')


if __name__ == '__main__': main()
