"""What the demo adds to Gradio: mistakes as one sentence, a queue that says when to come back, a quiet terminal."""
import functools
import html
import logging
import math
import re

import gradio as gr
import gradio.routes
from geoalignclip_nb.core import GeoAlignError

log = logging.getLogger('geoalign.demo')
CHECK = 'Please check'  # titles of messages; `page.js` knows them too
TOO_LARGE = 'Too large'
MEMORY = 'Out of memory'
BUSY = 'Busy'
FAULT = 'Fault of the demo'
UNFORESEEN = 'Something went wrong that we did not foresee; the terminal of the demo shows the details.'
SECONDS = 15  # one request, as long as none was measured


class TooLargeError(GeoAlignError):
    "An image that the page does not take; the sentence names the command that does"


# ---- sentences ---------------------------------------------------------------------------------------------

def public(message: str) -> str:
    "A sentence without folders of this computer"
    return re.sub(r'(?<![\w.])(?:[A-Za-z]:)?[\\/](?:[^\s\\/\'"]+[\\/])+([^\s\\/\'"]*)', r'\1', str(message))


def failure(title: str, sentence: str) -> gr.Error:
    "An error for the page and for programs; what a user typed stays text, because the page shows messages as HTML"
    message = f'{title}: {html.escape(public(sentence), quote=False)}'
    return gr.Error(message, title=title, duration=12, print_exception=False)


def spoken(handler):
    "A handler whose mistakes reach the page as one sentence, without traceback and without a path of the server"
    @functools.wraps(handler)
    def run(*args, **kwargs):
        try:
            return handler(*args, **kwargs)
        except gr.Error:
            raise
        except TooLargeError as e:
            raise failure(TOO_LARGE, str(e)) from None
        except GeoAlignError as e:
            raise failure(CHECK, str(e)) from None
        except MemoryError:
            raise failure(MEMORY, 'This image needs more memory than there is; make it smaller.') from None
        except Exception:
            log.exception('unexpected')  # for the one who runs the server
            raise failure(FAULT, UNFORESEEN) from None
    return run


# ---- requests that do not fit ------------------------------------------------------------------------------

def input_names(block_fn) -> list[str]:
    "Names of the values that a request gives, in order; values that the session keeps are left out"
    return [block.elem_id or block.label for block in block_fn.inputs if not block.stateful]


def too_few(block_fn, given: int) -> str:
    "The sentence for a request with too few values"
    names = input_names(block_fn)
    return f'This request takes {len(names)} values and {given} came; give {", ".join(names)}.'


def unusable(block_fn, error: Exception) -> str:
    "The sentence for a request with a value of the wrong kind"
    found = re.search(r'component at index (\d+)', str(error))
    block = block_fn.inputs[int(found[1])] if found else block_fn.inputs[0]
    name = block.elem_id or block.label
    return f'The value of {name} cannot be used; see "Use via API" at the foot of the page for its form.'


class DemoBlocks(gr.Blocks):
    "`gr.Blocks` whose answer to a malformed request is a sentence; Gradio answers with `{\"error\": null}`"

    async def preprocess_data(self, block_fn, inputs, *args, **kwargs):
        if len(inputs) < len(block_fn.inputs):
            kept = sum(block.stateful for block in block_fn.inputs)
            raise failure(CHECK, too_few(block_fn, max(0, len(inputs) - kept)))
        try:
            return await super().preprocess_data(block_fn, inputs, *args, **kwargs)
        except Exception as e:
            log.debug('request refused', exc_info=True)
            sentence = str(e) if type(e) is gr.Error else unusable(block_fn, e)
            raise failure(CHECK, sentence) from None


# ---- a full queue ------------------------------------------------------------------------------------------

def wait_text(seconds: float) -> str:
    "A duration as people say it"
    if seconds < 50: return f'{max(5, 5 * math.ceil(seconds / 5))} seconds'
    minutes = math.ceil(seconds / 60)
    return '1 minute' if minutes == 1 else f'{minutes} minutes'


def busy_sentence(queue) -> str:
    "When a queue that is full will have room, from the mean duration of its requests"
    means = [times.avg_time for times in queue.process_time_per_fn.values() if times.avg_time]
    seconds = (max(means) if means else SECONDS) * max(1, len(queue))
    waiting = '1 request waits' if len(queue) == 1 else f'{len(queue)} requests wait'
    return f'{BUSY}: {waiting} already; come back in about {wait_text(seconds)}.'


def say_when_busy(demo: gr.Blocks):
    "The answer of a full queue names a time. For status 503 Gradio's page has its own text, so a browser gets 400"
    queue = demo._queue
    push = queue.push

    async def push_or_say(body, request, username):
        done, answer, kind = await push(body, request, username)
        if kind != 'queue_full': return done, answer, kind
        browser = 'mozilla' in request.headers.get('user-agent', '').lower()
        return done, busy_sentence(queue), 'error' if browser else kind
    queue.push = push_or_say


def keep_quiet():
    "Gradio prints a line for every file of a custom component that a visitor loads; it goes to the log"
    gradio.routes.print = log.debug
