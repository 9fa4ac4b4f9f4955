"""Language models: boxes in words, answers in words, a real server on the loopback address, files of answers."""
import base64
import io
import json
import random
import socket
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from PIL import Image

from geoalignclip_nb.boxtext import BOX_FORMS, FORMS, as_box, corners, from_box, from_square, read_box, read_boxes, smallest_rectangle, to_square, upright, write_box
from geoalignclip_nb.chat import AnswerFile, ChatServer, question_key
from geoalignclip_nb.choices import read_choice
from geoalignclip_nb.core import GeoAlignError
from geoalignclip_nb.lvlm import LVLMS, LVLM, ChatModel, QuestionWriter, SavedAnswers, item_key, load, pad_square, question_text, read_rows

OPTIONS = ['plane', 'ship', 'storage tank', 'tank']


# boxes

def worst(form, size):
    "Half a unit, in fractions; SkySenseGPT rounds the centre and half of each side, and may write a side along the other axis"
    f = BOX_FORMS[form]
    unit = 10.**-f.decimals / f.scale
    return unit / 2 + (unit / 4 * max(size) / min(size) if f.centre else 0) + 1e-9

def apart(a, b, size):
    "Largest distance of two boxes' corners in pixels, whichever corner is first"
    a, b = corners(a, size) * size, corners(b, size) * size
    return min(np.abs(a - np.roll(b, k, axis=0)).max() for k in range(4))

side = st.integers(100, 2000)
fraction = st.floats(0, 1, allow_nan=False)

@settings(max_examples=60, deadline=None)
@given(side, side, fraction, fraction, st.floats(.05, .5), st.floats(.05, .5), st.sampled_from(sorted(BOX_FORMS)), st.sampled_from(['picture', 'square']))
def test_upright_boxes_return_to_the_stated_rounding(w, h, x, y, bw, bh, form, frame):
    if max(w, h) > 4 * min(w, h): h = w
    x, y = x * (1 - bw), y * (1 - bh)
    box, size = np.array([x, y, x + bw, y + bh]), np.array([w, h])
    back = np.array(read_box(write_box(box, form, size, frame), form, size, frame))
    limit = worst(form, size) if frame == 'picture' else worst(form, (1, 1)) * max(w, h) / np.tile(size, 2)
    assert back.shape == (4,) and (np.abs(back - box) <= limit).all()

@settings(max_examples=60, deadline=None)
@given(side, side, st.floats(-400, 400), st.floats(.1, .4), st.floats(.1, .4), st.sampled_from(['geochat', 'skysensegpt']), st.sampled_from(['picture', 'square']))
def test_turned_boxes_return_to_half_a_degree(w, h, angle, bw, bh, form, frame):
    size = (w, h)
    box = as_box([.5 * w, .5 * h, bw * min(size), bh * min(size), angle], 'rotated', size, pixels=True)
    half = np.hypot(bw, bh) * min(size) / 2
    back = read_box(write_box(box, form, size, frame), form, size, frame)
    assert apart(back, box, size) <= 2 * worst(form, size) * max(size) + np.deg2rad(.5 + 1e-6) * half

def test_written_forms_are_the_models_own():
    box = (.1, .25, .4, .5)
    assert write_box(box, 'geochat') == '{<10><25><40><50>}'
    assert write_box(box, 'vhm') == '[100,250,400,500]'
    assert write_box(box, 'skysensegpt') == '<rbox>({<25.00><37.50><25.00><30.00>|<90>})</rbox>'  # OpenCV's older angle: upright is 90
    assert write_box((.2, .2, .4, .8, 30), 'geochat') == '{<0><40><60><60>|<60>}'  # counter-clockwise: -30, or 60 with sides exchanged

def test_turning_is_clockwise_on_the_screen():
    wide = corners((.25, .45, .75, .55, 10))
    assert wide[1, 1] > wide[0, 1]  # the right end goes down, where y points down

def test_sign_of_the_angle_differs_between_models():
    tilted = (.2, .4, .8, .6, 20)
    assert write_box(tilted, 'skysensegpt').endswith('|<20>})</rbox>') and write_box(tilted, 'geochat').endswith('|<70>}')
    for form in ('skysensegpt', 'geochat'): assert apart(read_box(write_box(tilted, form), form), tilted, (1, 1)) < .011

@pytest.mark.parametrize('text', ['', 'a plane', '{<1><2><3>}', '{<1><2><3><4><5>}', '[1,2,3]', '[1,2,3,4', '{<a><b><c><d>}', '[nan,1,2,3]', '[1,2,1,9]', '[1e9,1,2,3]',
                                  '[99999,0,999999,5]', '{<5><5><5', '<rbox>()</rbox>', '{<-50><10><20><30>}', '[[[', '\x00\ud800', '{<10,20><30,40><50,60>}', '[300,1500,400,1600]', None, 7])
@pytest.mark.parametrize('form', sorted(BOX_FORMS))
def test_no_box_is_none(text, form): assert read_box(text, form) is None and read_boxes(text, form, (640, 480), 'square') == []

def test_boxes_without_area_are_none():
    assert read_box('{<10><10><10><20>}', 'geochat') is None and read_box('{<10><10><0.00><20>|<90>}', 'skysensegpt') is None and read_box('{<10><10><-5><20>}', 'skysensegpt') is None
    assert read_box('{<10><10><10><20>}', 'skysensegpt') == (.05, 0, .15, .2)  # centre and size there

@settings(max_examples=60, deadline=None)
@given(st.text(alphabet='<>{}[](),|.0123456789-& lt;rbox/', max_size=80), st.sampled_from(sorted(BOX_FORMS)), st.sampled_from(['picture', 'square']))
def test_any_text_reads_without_a_crash(text, form, frame):
    for box in read_boxes(text, form, (300, 200), frame):
        assert len(box) in (4, 5) and np.isfinite(box).all() and box[2] > box[0] and box[3] > box[1]

def test_boxes_in_an_answer_keep_their_order():
    text = 'There are 3: <rbox>({<20.00><20.00><10.00><5.00>|<0>}, {<60.00><60.00><8.00><20.00>|<30>})</rbox> and {<10,20><30,20><30,60><10,60>}'
    first, second, third = read_boxes(text, 'skysensegpt')
    assert first == (.15, .175, .25, .225) and second[4] == 30 and third == (.1, .2, .3, .6)
    assert read_boxes('[[100,200,300,400],[1,2,30,40]] [0, 0, 1000, 1000]', 'vhm')[2] == (0, 0, 1, 1)

def test_scale_is_never_guessed():
    assert read_box('[0.1,0.2,0.3,0.4]', 'vhm') == (.0001, .0002, .0003, .0004)
    assert read_box('[10,20,30,40]', 'vhm') == (.01, .02, .03, .04)
    assert read_box('{<100><200><300><400>}', 'geochat') is None

def test_small_things_stay_boxes():
    for form in BOX_FORMS:
        for box in ((.5, .5, .5001, .5001), (.9999, .9999, 1, 1), (0, 0, .0001, .0001)):
            assert read_box(write_box(box, form), form) is not None

def test_other_forms_and_their_mistakes():
    assert as_box([10, 20, 40, 80], 'xyxy', (100, 200), pixels=True) == (.1, .1, .4, .4)
    assert from_box((.1, .1, .4, .4), 'cxcywh', (100, 200), pixels=True) == pytest.approx((25, 50, 30, 60))
    for bad, words in (([1, 2], 'has 4 numbers'), ([.4, .1, .1, .4], 'has no area'), ([0, 0, np.inf, 1], 'inf')):
        with pytest.raises(GeoAlignError, match=words): as_box(bad)
    with pytest.raises(GeoAlignError, match='has 5 numbers'): as_box([1, 2, 3, 4], 'rotated')
    with pytest.raises(GeoAlignError, match='on one line'): as_box([0, 0, 1, 1, 2, 2, 3, 3], 'polygon')
    with pytest.raises(GeoAlignError, match='choose one of'): as_box([1, 2, 3, 4], 'coco')
    assert set(FORMS) == {'xyxy', 'cxcywh', 'rotated', 'polygon'}

def test_smallest_rectangle_beats_every_angle():
    rng = random.Random(0)
    for _ in range(20):
        p = np.array([[rng.random(), rng.random()] for _ in range(rng.randint(3, 12))])
        cx, cy, w, h, angle = smallest_rectangle(p)
        box = (cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2, angle)
        c = corners(box)
        axes = np.array([c[1] - c[0], c[3] - c[0]]) / np.array([[w], [h]])
        inside = (p - c[0]) @ axes.T
        assert (inside > -1e-9).all() and (inside < np.array([w, h]) + 1e-9).all()
        for a in np.linspace(0, np.pi / 2, 180):
            along = p @ np.array([[np.cos(a), np.sin(a)], [-np.sin(a), np.cos(a)]]).T
            assert w * h <= np.ptp(along, axis=0).prod() + 1e-9

def test_square_frame():
    assert to_square((0, 0, 1, 1), (800, 400)) == (0, .25, 1, .75)
    assert from_square((0, .25, 1, .75), (800, 400)) == (0, 0, 1, 1)
    assert read_box('[0,0,1000,200]', 'vhm', (800, 400), 'square') is None  # lies in the padding
    assert upright((.25, .25, .75, .75, 45)) == pytest.approx((.5 - .5**.5 / 2, .5 - .5**.5 / 2, .5 + .5**.5 / 2, .5 + .5**.5 / 2))


# answers in words

@pytest.mark.parametrize('text,want', [
    ('C', 2), ('c', 2), ('C.', 2), ('(c)', 2), ('"C"', 2), ('**C**', 2), (' C\n', 2), ('C)', 2), ('Option C', 2), ('Answer: C', 2), ('The answer is C', 2), ('The correct answer is (c).', 2),
    ('The best answer is C because of its shape.', 2), ('C. storage tank', 2), ('C: storage tank', 2), ('(c) storage tank', 2), ('storage tank', 2), ('Storage_Tank.', 2), ('It is a storage tank.', 2),
    ('I would choose C', 2), ('<think>perhaps B, no, A</think>\nC', 2), ('A tank', 3), ('A', 0), ('A.', 0), ('answer is A', 0), ('D</s>', 3), ('A. plane B. ship C. storage tank D. tank. The answer is C', 2),
    ('The answer is C, not B.', 2), ('The answer is C. A and B are wrong.', 2)])
def test_answers_that_name_an_option(text, want): assert read_choice(text, OPTIONS)[0] == want

@pytest.mark.parametrize('text,why', [
    ('', 'empty'), ('   \n', 'empty'), ('...', 'empty'), ('<think>C', 'empty'), ('A or B', 'several options'), ('B, C', 'several options'), ('(a) or (b)', 'several options'), ('A. plane B. ship', 'several options'),
    ('The answer is A or B', 'several options'), ('The answer is (a) or (b)', 'several options'), ('B. or C.', 'several options'), ('A/B', 'several options'), ('Answer: B, C', 'several options'),
    ('a plane or a ship', 'several options'), ('C. ship', 'letter and text disagree'), ('The answer is C: ship', 'letter and text disagree'), ('It is not C', 'denied'), ('This is not a ship.', 'denied'), ("I can't say. B?", 'denied'),
    ('Sorry', 'denied'), ('None of them', 'denied'), ('a harbour', 'no option'), ('E', 'no option'), ('7', 'no option'), ('A harbour', 'no option'), ('I see water', 'no option'), ('The answer is a harbour', 'no option')])
def test_answers_that_do_not(text, why): assert read_choice(text, OPTIONS) == (None, why)

def test_names_instead_of_letters():
    assert read_choice('b', OPTIONS, letters=False) == (None, 'no option')
    assert read_choice('Ship', OPTIONS, letters=False) == (1, 'text')
    assert read_choice('tennis court', ['court', 'tennis court', 'basketball court']) == (1, 'text')
    assert read_choice('no', ['yes', 'no']) == (1, 'text')
    assert read_choice('A', ['a', 'b']) == (0, 'text')  # the option itself

def test_own_rules_of_the_models():
    assert LVLMS['geochat'].first == ''
    for text, sky, vhm in (('B', 1, 1), ('Answer: C', 2, 0), ('A plane', 0, 0), ('c', None, None), ('E', None, None)):
        assert read_choice(text, OPTIONS, first=LVLMS['skysensegpt'].first)[0] == sky
        assert read_choice(text, OPTIONS, first=LVLMS['vhm'].first)[0] == vhm

@settings(max_examples=60, deadline=None)
@given(st.text(max_size=60), st.booleans(), st.sampled_from([f.first for f in LVLMS.values()]))
def test_any_answer_reads_without_a_crash(text, letters, first):
    index, how = read_choice(text, OPTIONS, letters, first)
    assert (index is None) == (how not in ('letter', 'text')) and (index is None or 0 <= index < 4)

def test_more_than_nine_options_and_the_pronoun():
    options = [f'thing {w}' for w in 'one two three four five six seven eight nine ten'.split()]
    assert read_choice('I', options)[0] == 8 and read_choice('I think J', options)[0] == 9 and read_choice('I see water', options)[0] is None


# questions

def test_questions_of_each_model():
    box = (.1, .25, .4, .5)
    assert question_text('geochat', OPTIONS, box).startswith('[identify] What is the object present at {<10><25><40><50>}? Classes: plane,')
    assert '<rbox>({<25.00>' in question_text('skysensegpt', OPTIONS, box) and '\nC. storage tank\n' in question_text('skysensegpt', OPTIONS, box)
    assert question_text('vhm', OPTIONS, box).startswith('{VQA} ') and question_text('vhm', OPTIONS, style='names').startswith('{CLS} ')
    assert question_text('vhm', OPTIONS, box, 'What is {box}?').count('[100,250,400,500]') == 1
    assert question_text('vhm', OPTIONS, box, size=(800, 400), frame='square').count('[100,375,400,500]') == 1
    assert 'A. a' in question_text('geochat', ['a plane that stands on the apron', 'b']) and 'Classes: ' in question_text('vhm', [f'class {i}' for i in range(40)])

@pytest.mark.parametrize('options,words', [([], 'at least two'), (['a'], 'at least two'), (['a', 'A.'], 'stands twice'), (['a', ''], 'is empty')])
def test_options_that_cannot_be_told_apart(options, words):
    with pytest.raises(GeoAlignError, match=words): question_text('vhm', options)
    with pytest.raises(GeoAlignError, match=words): load('vhm', base_url='http://127.0.0.1:9/v1').choose(Image.new('RGB', (9, 9)), options)


# a real server

def reply(text): return json.dumps(dict(choices=[dict(message=dict(role='assistant', content=text), finish_reason='stop')]))

class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        s = self.server
        s.seen.append((self.path, dict(self.headers), json.loads(self.rfile.read(int(self.headers['Content-Length'])))))
        step = s.script.pop(0) if s.script else (200, reply('A'))
        if step == 'silent': s.free.wait(10); return
        if step == 'hang up': return self.connection.shutdown(socket.SHUT_RDWR)
        status, text, *headers = step
        self.send_response(status)
        for k, v in headers: self.send_header(k, v)
        self.end_headers(); self.wfile.write(text.encode())

    do_GET = do_POST
    def log_message(self, *args): pass

@contextmanager
def server(*script):
    "An HTTP server on the loopback address that answers as the script says: text, (status, body, headers …), 'silent' or 'hang up'"
    s = ThreadingHTTPServer(('127.0.0.1', 0), Handler)
    s.daemon_threads, s.seen, s.free = True, [], threading.Event()
    s.script = [(200, reply(x)) if isinstance(x, str) and x not in ('silent', 'hang up') else x for x in script]
    s.url = f'http://127.0.0.1:{s.server_port}/v1'
    thread = threading.Thread(target=s.serve_forever, daemon=True)
    thread.start()
    try: yield s
    finally: s.free.set(); s.shutdown(); s.server_close(); thread.join(5)

@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    "Waits are noted, not waited"
    waits = []
    monkeypatch.setattr('geoalignclip_nb.chat.time.sleep', waits.append)
    monkeypatch.delenv('GEOALIGN_LVLM_KEY', raising=False)
    return waits

def picture(seed=0, size=(31, 17)): return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
def arrived(seen): return Image.open(io.BytesIO(base64.b64decode(seen[2]['messages'][0]['content'][0]['image_url']['url'].partition('base64,')[2])))


def test_the_picture_arrives(tmp_path):
    picture().save(tmp_path/'a.tif')
    with server() as s:
        ChatModel('geochat', s.url, pad=False).choose(tmp_path/'a.tif', OPTIONS)
        ChatModel('geochat', s.url, model='geochat-7b').choose(picture(), OPTIONS, box=(.1, .2, .3, .4))
    (path, headers, body), padded = s.seen
    assert path == '/v1/chat/completions' and body['temperature'] == 0 and body['model'] == 'geochat' and 'Authorization' not in headers
    assert arrived(s.seen[0]).tobytes() == picture().tobytes()
    assert padded[2]['model'] == 'geochat-7b' and arrived(padded).size == (31, 31) and arrived(padded).crop((0, 7, 31, 24)).tobytes() == picture().tobytes()
    assert '{<10><20><30><40>}' in padded[2]['messages'][0]['content'][1]['text']

def test_the_key_is_sent_and_never_told(monkeypatch, tmp_path):
    monkeypatch.setenv('MY_KEY', 'sk-secret\n')
    with server('B', (401, 'bad key sk-secret')) as s:
        model = ChatModel('vhm', s.url, key_env='MY_KEY', answers=tmp_path/'a.jsonl')
        assert model.choose(picture(), OPTIONS) == 1
        with pytest.raises(GeoAlignError, match='HTTP 401') as e: model.choose(picture(1), OPTIONS)
    assert s.seen[0][1]['Authorization'] == 'Bearer sk-secret'
    assert 'secret' not in str(e.value) + (tmp_path/'a.jsonl').read_text() + str(model.config)

def test_a_redirection_is_not_followed(monkeypatch):
    monkeypatch.setenv('GEOALIGN_LVLM_KEY', 'k')
    with server() as thief:
        for status in (302, 307):
            with server((status, '', ('Location', thief.url))) as s:
                with pytest.raises(GeoAlignError, match=f'HTTP {status}'): ChatServer(s.url, 'm').ask(picture(), 'q')
    assert thief.seen == []

@pytest.mark.parametrize('fault,name', [((500, 'x'), 'HTTP 500'), ((503, ''), 'HTTP 503'), ((429, 'slow'), 'HTTP 429'), ('hang up', 'connection lost'), ((200, '{"choices": ['), 'reply is no chat completion'),
                                        ((200, '{"choices": []}'), 'reply is no chat completion'), ((200, '<html>'), 'reply is no chat completion'), ((200, '{"error": "full"}'), 'reply is no chat completion'),
                                        ((200, '7'), 'reply is no chat completion'), ('silent', 'time-out')])
def test_a_fault_that_passes(fault, name):
    with server(fault, 'B') as s:
        model = ChatModel('vhm', s.url, timeout=2 if fault == 'silent' else 60)
        assert model.choose(picture(), OPTIONS) == 1
    assert model.counts == {f'again: {name}': 1, 'asked': 1, 'letter': 1}

@pytest.mark.parametrize('fault,words', [((500, 'x'), 'failed 3 times, at last with "HTTP 500"'), ('silent', 'gave no answer within 0.2 s, 3 times'), ((200, 'x'), 'at last with "reply is no chat completion"')])
def test_a_fault_that_stays(fault, words):
    with server(*[fault] * 3) as s:
        line = ChatServer(s.url, 'm', tries=3, timeout=.2 if fault == 'silent' else 60)
        with pytest.raises(GeoAlignError, match=words) as e: line.ask(picture(), 'q')
    assert len(s.seen) == 3 and '\n' not in str(e.value)

@pytest.mark.parametrize('status', [400, 403, 404, 413])
def test_a_refusal_is_not_repeated(status):
    with server((status, '{"error": "the model is not there"}')) as s:
        with pytest.raises(GeoAlignError, match=f'HTTP {status}.*the model is not there'): ChatServer(s.url, 'm').ask(picture(), 'q')
    assert len(s.seen) == 1

def test_waits_grow_and_believe_the_server(no_waiting):
    with server((500, ''), (500, ''), (429, '', ('Retry-After', '7')), (429, '', ('Retry-After', '99999'))) as s: ChatServer(s.url, 'm', wait=.5).ask(picture(), 'q')
    assert no_waiting == [.5, 1, 7, 60]

def test_nobody_there():
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0)); port = free.getsockname()[1]
    line = ChatServer(f'http://127.0.0.1:{port}/v1', 'm', tries=2)
    with pytest.raises(GeoAlignError, match='^No server answers at http://127.0.0.1'): line.ask(picture(), 'q')
    assert line.counts['again: no connection'] == 2
    for url in ('', 'localhost:8000', 'ftp://x/v1', 'http:///v1', None):
        with pytest.raises(GeoAlignError, match='not the address of a server'): ChatServer(url, 'm')

def test_a_proxy_is_not_asked_for_our_own_machine(monkeypatch):
    with server() as s, server() as proxy:
        monkeypatch.setenv('http_proxy', proxy.url); monkeypatch.delenv('no_proxy', raising=False)
        ChatServer(s.url, 'm').ask(picture(), 'q')
    assert len(s.seen) == 1 and proxy.seen == []

def test_an_empty_answer_is_kept_and_counted(tmp_path):
    null = (200, json.dumps(dict(choices=[dict(message=dict(content=None))])))
    parts = (200, json.dumps(dict(choices=[dict(message=dict(content=[dict(type='text', text='B')]), finish_reason='length')])))
    with server('', null, parts) as s:
        model = ChatModel('vhm', s.url, answers=tmp_path/'a.jsonl')
        assert [model.choose(picture(i), OPTIONS) for i in (0, 1, 2, 0)] == [None, None, 1, None]
    assert model.counts == {'asked': 3, 'empty': 3, 'letter': 1, 'from the file': 1, 'cut off at max_tokens': 1}

def test_a_run_resumes_after_half_of_the_questions(tmp_path):
    file, items = tmp_path/'a.jsonl', [picture(i) for i in range(8)]
    letters = list('ABCDDCBA')
    with server(*letters[:4], *[(500, '')] * 2) as s:
        with pytest.raises(GeoAlignError, match='failed 2 times'): [ChatModel('vhm', s.url, answers=file, tries=2).choose(p, OPTIONS) for p in items]
    file.write_bytes(file.read_bytes()[:-20])  # the machine stopped while it wrote the fourth
    with server(*letters[3:]) as s:
        model = ChatModel('vhm', s.url, answers=file)
        assert [model.choose(p, OPTIONS) for p in items] == [0, 1, 2, 3, 3, 2, 1, 0]
    assert len(s.seen) == 5 and model.counts['from the file'] == 3 and model.server.answers.broken == 1
    again = load('vhm', base_url='http://127.0.0.1:9/v1', answers=file)  # nobody has to be there any more
    assert [again.choose(p, OPTIONS) for p in items] == [0, 1, 2, 3, 3, 2, 1, 0]

def test_the_name_of_a_question(tmp_path):
    base = ('m', picture(), 'q', 9)
    assert question_key(*base) == question_key('m', picture().copy(), 'q', 9)
    picture().save(tmp_path/'a.png'); picture().save(tmp_path/'b.tif')
    assert question_key('m', tmp_path/'a.png', 'q', 9) == question_key('m', tmp_path/'b.tif', 'q', 9) == question_key(*base)
    assert len({question_key(*b) for b in (base, ('n', *base[1:]), ('m', picture(1), 'q', 9), ('m', picture(), 'r', 9), ('m', picture(), 'q', 8))}) == 5

def test_files_that_hold_no_answers(tmp_path):
    (tmp_path/'x.jsonl').write_text('{"key": 1}\nhello\n')
    with pytest.raises(GeoAlignError, match='x.jsonl is not a file of answers'): AnswerFile(tmp_path/'x.jsonl')
    assert (tmp_path/'x.jsonl').read_text() == '{"key": 1}\nhello\n'
    with pytest.raises(GeoAlignError, match='does not exist'): AnswerFile(tmp_path/'no'/'x.jsonl')
    (tmp_path/'x.jsonl').write_bytes(b'{"key": "a", "answ')  # the very first line was cut
    file = AnswerFile(tmp_path/'x.jsonl'); file.add('b', 'line\nbreak \u2028 \U0001f6e9')
    assert AnswerFile(tmp_path/'x.jsonl').answers == {'b': 'line\nbreak \u2028 \U0001f6e9'}


# the model's face

@pytest.mark.parametrize('name', ['encode_image', 'encode_text', 'encode_regions', 'dense', 'preprocess', 'to_tensor', 'tokenize', 'use_preprocess', 'save_pretrained'])
def test_refusals_are_one_sentence(name):
    model = load('skysensegpt', base_url='http://127.0.0.1:9/v1')
    assert model.family == 'lvlm' and model.name == 'skysensegpt' and isinstance(model, LVLM)
    with pytest.raises(GeoAlignError) as e: getattr(model, name)('anything', boxes=1)
    assert name in str(e.value) and str(e.value).count('.') == 1 and str(e.value).endswith('.')

@pytest.mark.parametrize('method', ['similarity', 'contrast', 'gradcam', 'legrad'])
def test_maps_of_a_model_that_talks_are_refused(method, tmp_path, capsys):
    from geoalignclip_nb.cli import main
    from geoalignclip_nb.ground import ground
    (tmp_path/'a.jsonl').write_text('{"key": "k", "answer": "A"}\n')
    picture().save(tmp_path/'p.png')
    model = load('vhm', answers=tmp_path/'a.jsonl')
    for more in ({}, dict(boxes=[(0, 0, 1, 1)]), dict(size=64)):
        with pytest.raises(GeoAlignError, match='vhm is a language model and has no dense; it can only choose'): ground(model, picture(), ['plane'], method=method, **more)
    assert main(['ground', str(tmp_path/'p.png'), '--phrases', 'plane', '--method', method, '--model', f"vhm={tmp_path/'a.jsonl'}", '--out', str(tmp_path/'o.png')]) == 2
    err = capsys.readouterr().err
    assert 'vhm is a language model' in err and 'Traceback' not in err and not (tmp_path/'o.png').exists()

def test_load_says_what_it_needs():
    for name in LVLMS:
        with pytest.raises(GeoAlignError, match=f'{name}=http://.*--base-url.*{name}=FILE.*--questions') as e: load(name)
        assert LVLMS[name].hub in str(e.value)
    with pytest.raises(GeoAlignError, match='choose one of geochat'): load('blip', base_url='http://x/v1')
    with pytest.raises(GeoAlignError, match='picture or square'): load('vhm', base_url='http://x/v1', frame='crop').choose(picture(), OPTIONS, (0, 0, 1, 1))

def test_a_matrix_asks_a_server_and_keeps_what_it_says(tmp_path, capsys, monkeypatch):
    from geoalignclip_nb.bench.runs import run_matrix
    from geoalignclip_nb.cli import main
    for i, c in enumerate(('park', 'beach', 'bridge')):
        (tmp_path/'folder'/c).mkdir(parents=True); picture(i).save(tmp_path/'folder'/c/'1.png')
    monkeypatch.setenv('GEOALIGN_DATA', str(tmp_path))
    out = tmp_path/'out'
    words = lambda url: ['matrix', '--models', f'vhm={url}', '--benchmarks', 'scene_classification:folder;retrieval:rsicd', '--out', str(out), '--no-cache']
    (tmp_path/'rsicd').mkdir()
    with server('A', 'A', (500, ''), (500, ''), (500, ''), (500, ''), (500, '')) as s:
        assert main(words(s.url)) == 2 and len(s.seen) == 7
        assert 'answers so far are kept' in capsys.readouterr().out and not list(out.glob('*.json'))
        s.script.append((200, reply('B')))
        assert main(words(s.url)) == 2  # retrieval needs vectors
        assert len(s.seen) == 8, 'two answers were there already'
    said = capsys.readouterr()
    assert '1 computed, 0 there already, 1 failed' in said.out
    file, = out.glob('*.json')
    r = json.loads(file.read_text())
    assert file.name.startswith('scene_classification--folder--all--vhm-') and r['model'] == 'vhm' and r['n'] == 3 and r['checkpoint'] == '' and r['answers']['asked'] == 1 and r['answers']['from the file'] == 2
    assert main(['tables', str(out)]) == 0 and 'vhm' in capsys.readouterr().out
    again = run_matrix([f'vhm={s.url}'], [('scene_classification', 'folder', 'all')], out, roots=dict(folder=tmp_path/'folder'), quiet=True)
    assert again['kept'] == [file.name]


def test_a_matrix_reads_a_file_of_answers_and_sees_another_one(tmp_path):
    from geoalignclip_nb.bench.runs import run_benchmark, run_matrix
    for i, c in enumerate(('park', 'beach', 'bridge')):
        (tmp_path/'set'/c).mkdir(parents=True); picture(i).save(tmp_path/'set'/c/'1.png')
    run_benchmark('scene_classification', 'folder', load('vhm', questions=tmp_path/'q.jsonl'), tmp_path/'set', quiet=True)
    keys = [json.loads(line)['key'] for line in (tmp_path/'q.jsonl').read_text().splitlines()]
    job = dict(models=[f"vhm={tmp_path/'a.jsonl'}"], benchmarks=[('scene_classification', 'folder', 'all')], out=tmp_path/'out', roots=dict(folder=tmp_path/'set'), quiet=True)
    write = lambda letter: (tmp_path/'a.jsonl').write_text(''.join(json.dumps(dict(key=k, answer=letter)) + '\n' for k in keys))
    write('A'); first = run_matrix(**job)
    assert len(first['done']) == 1 and run_matrix(**job)['kept'] == first['done'] and json.loads((tmp_path/'out'/first['done'][0]).read_text())['checkpoint']
    write('B')
    assert 'other weights' in next(iter(run_matrix(**job)['failed'].values()))


def test_pad_square():
    tall = pad_square(picture(size=(10, 20)))
    assert tall.size == (20, 20) and tall.getpixel((0, 0)) == (122, 116, 104) and tall.crop((5, 0, 15, 20)).tobytes() == picture(size=(10, 20)).tobytes()
    assert pad_square(picture(size=(9, 9))).tobytes() == picture(size=(9, 9)).tobytes()


# saved answers

def test_questions_go_out_and_answers_come_back(tmp_path):
    for i in range(3): picture(i).save(tmp_path/f'{i}.png')
    items = [dict(image=tmp_path/f'{i}.png', options=OPTIONS, box=(.1, .2, .3, .4 + i / 10)) for i in range(3)]
    items += [dict(image=tmp_path/'0.png', options=OPTIONS[::-1], box=(.1, .2, .3, .4)), dict(image=picture(5), options=OPTIONS)]  # another order; no file
    writer = load('vhm', questions=tmp_path/'q.jsonl')
    assert [writer.choose(**item) for item in items] == [None] * 5 and writer.counts == {'question written': 5}
    rows = [json.loads(s) for s in (tmp_path/'q.jsonl').read_text().splitlines()]
    assert '[100,200,300,500]' in rows[1]['prompt'] and 'A. tank' in rows[3]['prompt'] and len({r['key'] for r in rows}) == 5
    assert Image.open(tmp_path/rows[4]['image']).tobytes() == picture(5).tobytes()
    (tmp_path/'a.jsonl').write_text(''.join(json.dumps(dict(key=r['key'], answer='ABCDA'[i])) + '\n' for i, r in enumerate(rows)))
    model = load('vhm', answers=tmp_path/'a.jsonl')
    assert [model.choose(**item) for item in items] == [0, 1, 2, 3, 0] and model.missing == [] and model.unused() == []

def test_a_question_file_is_not_mixed_up(tmp_path):
    with pytest.raises(GeoAlignError, match='does not exist'): QuestionWriter('vhm', tmp_path/'no'/'q.jsonl')
    writer = QuestionWriter('vhm', tmp_path/'q.jsonl')
    for _ in range(2): writer.choose('a.jpg', OPTIONS, key='k')
    with pytest.raises(GeoAlignError, match='Two different questions have the key k'): writer.choose('b.jpg', OPTIONS[::-1], key='k')
    with pytest.raises(GeoAlignError, match='exists; remove it'): QuestionWriter('vhm', tmp_path/'q.jsonl')

def test_missing_doubled_and_contradicting_answers(tmp_path):
    (tmp_path/'a.csv').write_bytes(b'\xef\xbb\xbfkey,answer,more\r\n1,B,x\r\n2,A,x\r\n2,A,y\r\n3,A,\r\n3,C,\r\n4,"The answer,\r\nis D"\r\n5\r\n6,A,\r\n')
    model = SavedAnswers('vhm', tmp_path/'a.csv')
    assert [model.choose('x.jpg', OPTIONS, key=k) for k in (1, 2, 3, 4, 5, 99)] == [1, 0, None, 3, None, None]
    assert model.counts == {'letter': 3, 'no usable answer in the file': 3, 'two answers that differ': 1, 'same answer twice': 1}
    assert (model.missing, model.conflicts, model.repeats, model.unused()) == (['3', '5', '99'], ['3'], ['2'], ['6'])

def test_answer_files_that_are_wrong(tmp_path):
    def said(text, name='a.jsonl', **kw):
        (tmp_path/name).write_bytes(text)
        with pytest.raises(GeoAlignError) as e: SavedAnswers('vhm', tmp_path/name, **kw)
        return str(e.value)
    assert 'holds no answer' in said(b'') and 'holds no answer' in said(b'key,answer\n', 'a.csv')
    assert 'no column answer but key, text' in said(b'{"key": 1, "text": "A"}\n')
    assert 'no column uuid' in said(b'key,answer\n1,A\n', 'a.csv', columns=('uuid', 'answer'))
    assert 'Line 2 of a.jsonl' in said(b'{"key": 1, "answer": "A"}\noops\n{"key": 2, "answer": "A"}\n')
    assert 'not UTF-8' in said(b'\xff\xfe\x00{')
    assert 'was not found' in str(pytest.raises(GeoAlignError, SavedAnswers, 'vhm', tmp_path/'none.csv').value)
    (tmp_path/'a.jsonl').write_bytes(b'{"key": 1, "answer": "A"}\n{"key": 2, "ans')
    assert read_rows(tmp_path/'a.jsonl') == ([dict(key=1, answer='A')], 1)
    assert SavedAnswers('vhm', tmp_path/'a.jsonl').counts['half-written line'] == 1

def test_keys_of_questions(tmp_path):
    assert item_key('/data/harbor/0001.tif') == 'harbor/0001.tif' != item_key('/data/river/0001.tif')
    assert item_key('a.jpg', 'x') != item_key('a.jpg', 'y') and item_key('a.jpg', 'x').startswith('a.jpg#')
    assert item_key(picture(), 'x') == item_key(picture().copy(), 'x') != item_key(picture(1), 'x')
    (tmp_path/'a.csv').write_text('key,answer\nharbor/1.tif,B\n')  # one answer per picture: its name is enough
    assert SavedAnswers('vhm', tmp_path/'a.csv').choose('/data/harbor/1.tif', OPTIONS) == 1
