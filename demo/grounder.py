"""The model behind the page: loaded once, kept in memory, with the time left while someone waits."""
import contextlib
import contextvars
import json
import threading
import time
import urllib.error
import urllib.request
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from geoalignclip_nb.core import GeoAlignError, cache_dir, default_device
from PIL import Image

BUNDLED = 'geoalign-tiny'
MODELS = (BUNDLED, 'ViT-B-16-quickgelu.openai', 'ViT-L-14-quickgelu.openai', 'ViT-L-14-336-quickgelu.openai')
FIRST_GUESS = dict(load=20., ground=4.)  # seconds, as long as nothing was measured on this computer


@dataclass(frozen=True)
class Question:
    "What a visitor asks"
    model: str  # name
    image: Path | Image.Image  # a file, or an image that was turned on the screen
    phrases: list[str]
    boxes: np.ndarray | None  # (R,4) fractions of the image
    method: str
    bands: str | None = None  # such as '4,3,2'


@dataclass(frozen=True)
class Answer:
    "What the library found"
    result: object  # geoalignclip_nb.ground.GroundResult
    weights: str  # 'trained', 'random', or '' where that is unknown


# ---- time left ---------------------------------------------------------------------------------------------

class Durations:
    "Seconds that each step took the last time on this computer, kept in a small JSON file"

    def __init__(self, path: Path | None = None):
        self.path = path or cache_dir()/'demo_seconds.json'
        try: self.seconds = {str(k): float(v) for k, v in json.loads(self.path.read_text()).items()}
        except (OSError, ValueError, AttributeError, TypeError): self.seconds = {}

    def expected(self, step: str, name: str) -> float:
        return self.seconds.get(f'{step} {name}', FIRST_GUESS[step])

    def record(self, step: str, name: str, seconds: float):
        self.seconds[f'{step} {name}'] = round(seconds, 2)
        with contextlib.suppress(OSError):  # a folder that cannot be written costs the estimate and nothing else
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.write_text(json.dumps(self.seconds))


def time_left(title: str, elapsed: float, expected: float) -> str:
    "What the page says while a step runs"
    left = expected - elapsed
    if left > 1: return f'{title}, about {left:.0f} s left'
    if left > -.3 * expected: return f'{title}, nearly done'
    return f'{title}, slower than the last time ({elapsed:.0f} s so far)'


@contextlib.contextmanager
def countdown(progress, title: str, expected: float):
    "Tell `progress` the time left twice a second while the body runs"
    start = time.monotonic()
    done = threading.Event()

    def tell():
        while not done.is_set():
            elapsed = time.monotonic() - start
            progress(min(.97, elapsed / max(expected, .1)), desc=time_left(title, elapsed, expected))
            done.wait(.5)
    context = contextvars.copy_context()  # Gradio finds the visitor's page through context variables
    thread = threading.Thread(target=context.run, args=(tell,), daemon=True)
    thread.start()
    try: yield
    finally:
        done.set()
        thread.join()


# ---- models ------------------------------------------------------------------------------------------------

def is_downloaded(name: str) -> bool:
    "True where the weights of an open_clip `architecture.tag` are in the cache of this computer"
    import open_clip
    from huggingface_hub import try_to_load_from_cache
    arch, _, tag = name.rpartition('.')
    repo = (open_clip.get_pretrained_cfg(arch, tag) or {}).get('hf_hub', '').strip('/')
    names = ('open_clip_model.safetensors', 'open_clip_pytorch_model.bin')
    return bool(repo) and any(isinstance(try_to_load_from_cache(repo, n), str) for n in names)


def network_answers(seconds: float = 6) -> bool:
    "True where the model hub answers within `seconds`; in a thread, because a name look-up has no time limit"
    from huggingface_hub import constants
    answers = []

    def ask():
        request = urllib.request.Request(constants.ENDPOINT, method='HEAD')
        try: urllib.request.urlopen(request, timeout=seconds)
        except urllib.error.HTTPError: pass  # it refuses us, but it is there
        except Exception: return
        answers.append(True)
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(seconds)
    return bool(answers)


def check_reachable(name: str, progress):
    "Raises `GeoAlignError` where a model is neither on this computer nor can be downloaded"
    if name == BUNDLED or Path(name).exists() or is_downloaded(name): return
    progress(.05, desc='Looking for the network')
    if not network_answers():
        raise GeoAlignError(f'{name} is not on this computer and there is no network to download it; '
                            f'choose {BUNDLED}, which is bundled.')


class Grounder:
    "Calls the library; keeps the last models in memory. `build_demo` takes any callable of the same form"

    def __init__(self, keep: int = 2, durations: Durations | None = None):
        self.keep = keep
        self.models = OrderedDict()
        self.lock = threading.Lock()
        self.durations = durations or Durations()

    def _load(self, name: str):
        from geoalignclip_nb.model import GeoAlignCLIP
        start = time.monotonic()
        self.models[name] = GeoAlignCLIP.from_pretrained(name, device=default_device())
        self.durations.record('load', name, time.monotonic() - start)
        while len(self.models) > self.keep: self.models.popitem(last=False)

    def model(self, name: str, progress):
        "The model, loaded where it is not in memory"
        if name not in self.models: check_reachable(name, progress)
        with countdown(progress, f'Loading {name}', self.durations.expected('load', name)), self.lock:
            if name not in self.models: self._load(name)
            self.models.move_to_end(name)
            return self.models[name]

    def warm_up(self, name: str = BUNDLED):
        "Load a model before the first visitor asks; an error shows itself when someone asks"
        with contextlib.suppress(Exception): self.model(name, lambda *a, **k: None)

    def __call__(self, question: Question, progress) -> Answer:
        from geoalignclip_nb.ground import ground
        model = self.model(question.model, progress)
        getattr(model, 'warned', set()).clear()  # a word the model never saw is told each time, not once per process
        start = time.monotonic()
        with countdown(progress, 'Grounding', self.durations.expected('ground', question.model)):
            result = ground(model, question.image, question.phrases, boxes=question.boxes, method=question.method,
                            bands=question.bands)
        self.durations.record('ground', question.model, time.monotonic() - start)
        return Answer(result, 'trained' if getattr(model, 'trained', True) else 'random')
