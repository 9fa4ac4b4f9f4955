"""The demo as a person meets it, in a real Chromium: draw a box, type phrases, press the button, read the result.

`GEOALIGN_SHOTS=folder pytest tests/test_demo_browser.py` keeps screenshots there. The grounder is a fake, so these
tests are about the page; `test_demo.py` runs the library behind it.
"""
import base64
import io
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from test_demo import Fake, app, launch, write_geotiff  # the same page, the same fake

pytestmark = pytest.mark.browser
PATIENCE = 1000 * int(os.environ.get('GEOALIGN_PATIENCE', '30'))  # milliseconds for one step
DRAWN = "() => { const c = document.querySelector('#scene canvas'); return c && c.height > 50 }"
IDLE = "() => !document.querySelector('#results .generating, #results .progress-text, #results .progress-level')"


def find_chromium() -> str:
    "Path of a Chromium (GEOALIGN_CHROMIUM, or one on the path); without one the test skips, and fails where CI=true"
    if os.environ.get('GEOALIGN_CHROMIUM'): return os.environ['GEOALIGN_CHROMIUM']
    for name in ('chromium', 'chromium-browser', 'google-chrome', 'chrome'):
        if shutil.which(name): return shutil.which(name)
    from playwright.sync_api import sync_playwright
    with sync_playwright() as p:
        if Path(p.chromium.executable_path).exists(): return p.chromium.executable_path
    reason = 'no Chromium; install it with `apt-get install chromium` or `playwright install chromium`'
    if os.environ.get('CI', '').lower() == 'true': pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope='module')
def site():
    "(browser, address of the demo, its fake grounder)"
    chromium = find_chromium()
    from playwright.sync_api import sync_playwright
    fake = Fake()
    demo = app.build_demo(fake)
    url = launch(demo)
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=chromium, args=['--no-sandbox'])
        yield browser, url, fake
        browser.close()
    demo.close()


def open_page(site, width: int, height: int):
    "A page that notes what goes wrong and what it asks of other servers"
    browser, url, fake = site
    page = browser.new_page(viewport=dict(width=width, height=height))
    page.set_default_timeout(PATIENCE)
    page.wrong, page.outside, page.fake = [], [], fake
    page.on('console', lambda m: page.wrong.append(m.text) if m.type == 'error' else None)
    page.on('pageerror', lambda e: page.wrong.append(str(e)))

    def refuse(route):
        page.outside.append(route.request.url)
        route.abort()
    page.route(lambda address: not address.startswith((url.rstrip('/'), 'data:', 'blob:')), refuse)
    page.goto(url)
    page.wait_for_function(DRAWN)
    return page


@pytest.fixture(scope='module')
def page(site):
    page = open_page(site, 1366, 768)
    yield page
    page.close()


@pytest.fixture
def narrow(site):
    page = open_page(site, 390, 844)
    yield page
    assert not page.wrong and not page.outside, (page.wrong, page.outside)
    page.close()


def shot(page, name: str):
    if not os.environ.get('GEOALIGN_SHOTS'): return
    page.wait_for_timeout(800)
    page.screenshot(path=str(Path(os.environ['GEOALIGN_SHOTS'])/f'{name}.png'))


def draw(page, x1, y1, x2, y2):
    "A box by mouse, in fractions of the image"
    c = page.locator('#scene canvas').bounding_box()
    def at(x, y): return c['x'] + x * c['width'], c['y'] + y * c['height']
    page.mouse.move(*at(x1, y1))
    page.mouse.down()
    page.mouse.move(*at((x1 + x2) / 2, (y1 + y2) / 2), steps=4)
    page.mouse.move(*at(x2, y2), steps=4)
    page.mouse.up()


def until(page, condition):
    "Wait until a condition in Python holds, while the page goes on"
    for _ in range(PATIENCE // 100):
        if condition(): return
        page.wait_for_timeout(100)
    assert condition()


def press(page) -> dict:
    "Press Ground and wait for heatmaps; what the grounder was asked"
    before = len(page.fake.calls)
    page.locator('#ground').click()
    until(page, lambda: len(page.fake.calls) > before)
    page.wait_for_function("() => document.querySelectorAll('#heat img').length > 0")
    page.wait_for_function(IDLE)
    assert len(page.fake.calls) == before + 1
    return page.fake.calls[-1]


def fill(page, text: str): page.locator('#phrases textarea').fill(text)


def heatmaps(page) -> int: return page.locator('#heat img').count()


def no_results(page):
    "Wait until nothing of an earlier result is on the page"
    page.wait_for_function("() => document.querySelectorAll('#heat img').length == 0")
    page.wait_for_function("() => document.querySelector('#about').innerText.includes('Press Ground')")
    assert not page.locator('#bar').inner_text().strip()


def toast(page) -> tuple[str, str]:  # (title, text)
    "The message on the screen, which is then closed"
    page.locator('.toast-body').first.wait_for()
    page.wait_for_timeout(300)
    title = page.locator('.toast-title').first.inner_text().strip()
    text = page.locator('.toast-message-text').first.inner_text()
    shown = page.locator('.toast-message-text').first.inner_html()
    page.evaluate("() => document.querySelectorAll('.toast-close').forEach(button => button.click())")
    page.wait_for_function("() => !document.querySelector('.toast-body')")
    assert '<b>' not in shown and '<img' not in shown and 'Traceback' not in text, shown
    return title, text


def png_bytes(width: int, height: int, color: tuple[int, int, int]) -> bytes:
    data = io.BytesIO()
    Image.new('RGB', (width, height), color).save(data, 'png')
    return data.getvalue()


DROP = """([data, name, target]) => {
  const bytes = Uint8Array.from(atob(data), c => c.charCodeAt(0));
  const files = new DataTransfer();
  files.items.add(new File([bytes], name));
  const more = {dataTransfer: files, bubbles: true, cancelable: true};
  const place = document.querySelector(target);
  place.dispatchEvent(new DragEvent('dragover', more));
  const event = new DragEvent('drop', more);
  place.dispatchEvent(event);
  return event.defaultPrevented;
}"""


def drop(page, data: bytes, name: str, target: str = '#scene canvas') -> bool:
    "Drop a file on a place of the page; whether the browser stays on the page"
    return page.evaluate(DROP, [base64.b64encode(data).decode(), name, target])


def wait_for_scene(page, width: int, height: int):
    "Wait until the image on the screen has this shape; a small image is shown in its own pixels"
    page.wait_for_function("""([width, height]) => { const c = document.querySelector('#scene canvas');
        return c && Math.abs(c.height / Math.min(c.width, width) - height / width) < .03 }""", arg=[width, height])


def scene_height(page) -> float: return page.evaluate("() => document.querySelector('#scene canvas').height")


# ---- the first screen --------------------------------------------------------------------------------------

def test_phrases_and_button_are_on_the_first_screen(page):
    assert 'aerial images' in page.locator('#head h1').inner_text()
    assert ',' in page.locator('#phrases textarea').input_value()
    for name in ('#phrases textarea', '#ground', '#scene canvas'):
        box = page.locator(name).bounding_box()
        assert box['y'] >= 0 and box['y'] + min(box['height'], 200) <= 768, (name, box)
    assert page.evaluate('document.documentElement.scrollWidth') <= 1366
    shot(page, '1_start')


def test_draw_type_press_read(page):
    page.get_by_role('button', name='Create box').first.click()
    draw(page, .12, .55, .45, .9)
    fill(page, 'white plane, terminal building\nfind all red roofs')
    call = press(page)
    assert call['phrases'] == ['white plane', 'terminal building', 'red roofs']
    assert any(abs(b - [.12, .55, .45, .9]).max() < .02 for b in call['boxes']), call['boxes']
    page.wait_for_function("() => document.querySelectorAll('#heat img').length == 3")
    about = page.locator('#about').inner_text()
    assert 'not detection' in about and '8 × 6 cells' in about
    assert 'one scale for all phrases' in page.locator('#bar').inner_text()
    shot(page, '3_heatmap')


def test_captions_are_whole(page):
    "No caption is cut: each is as high as its text"
    fill(page, 'white plane with a very long description that does not fit into one line of the caption, road, roof')
    press(page)
    cut = page.evaluate("""() => [...document.querySelectorAll('.caption-label')].filter(
        e => e.scrollHeight > e.clientHeight + 1 || e.scrollWidth > e.clientWidth + 1).length""")
    assert page.locator('#heat .caption-label').count() == 3 and cut == 0
    last = page.locator('#heat .caption-label').first
    assert 'of the caption' in last.inner_text() and last.is_visible()


def test_scores_places_and_data(page):
    page.get_by_role('tab', name='Scores').click()
    page.wait_for_function("() => document.querySelector('#table').innerText.includes('★ 0.300')")
    assert 'best match' in page.locator('#table').inner_text()
    shot(page, '4_scores')
    page.get_by_role('tab', name='Places').click()
    page.wait_for_function("() => document.querySelector('#places').innerText.includes('0.300')")
    shot(page, '4_places')
    page.get_by_role('tab', name='Data').click()
    page.locator('#record').get_by_text('geoalign-tiny').first.wait_for()


def test_compare(page):
    asked = len(page.fake.calls)
    page.get_by_role('tab', name='Compare').click()
    page.locator('#slider img').first.wait_for()
    before = [i.get_attribute('src') for i in page.locator('#slider img').all()]
    page.locator('#picker input').click()
    page.get_by_role('option', name='roof').click()
    page.wait_for_function("""old => [...document.querySelectorAll('#slider img')].some(
        i => i.src && !old.includes(i.getAttribute('src')))""", arg=before)
    assert len(page.fake.calls) == asked, 'another phrase is drawn from the kept maps'
    shot(page, '5_compare')


def test_files_are_saved(page):
    page.get_by_role('tab', name='Save').click()
    page.wait_for_function("() => document.querySelector('#files').innerText.includes('png')")
    said = page.locator('#files').inner_text()
    for ending in ('png', 'json', 'csv', 'npz'): assert ending in said, said
    assert 'GeoJSON is not offered' in page.locator('#saved').inner_text()
    with page.expect_download() as waiting: page.locator('#files a[download], #files a[href*="npz"]').last.click()
    name = waiting.value.suggested_filename
    with np.load(waiting.value.path()) as arrays: assert name.endswith('.npz') and arrays['maps'].shape == (3, 6, 8)
    shot(page, '6_save')
    page.get_by_role('tab', name='Heatmap').click()


# ---- messages ----------------------------------------------------------------------------------------------

@pytest.mark.parametrize('phrases, title, said', [
    ('  \n ', 'Please check', 'No phrase was given'),
    ('refuse', 'Please check', 'cannot be read'),
    ('<b>x</b><img src=a>', 'Please check', "'<b>x</b><img src=a>' cannot be used"),
    ('explode', 'Fault of the demo', 'did not foresee'),
])
def test_a_mistake_is_a_message_and_no_result_stays(page, phrases, title, said):
    fill(page, 'white plane')
    press(page)
    fill(page, phrases)
    page.locator('#ground').click()
    found = toast(page)
    assert found[0] == title and said in found[1] and not re.search(r'/\w+/\w+', found[1].replace('</b>', '')), found
    no_results(page)
    assert page.locator('#phrases textarea').input_value() == phrases, 'the question stays to be mended'
    assert page.evaluate(DRAWN), 'the image stays'
    assert not page.locator('#results .error').count()


# ---- images that come and go -------------------------------------------------------------------------------

def test_an_example_replaces_all(page):
    fill(page, 'white plane')
    press(page)
    page.locator('#examples .thumbnail-item').nth(1).click()
    page.wait_for_function("() => document.querySelector('#phrases textarea').value != 'white plane'")
    page.wait_for_function(DRAWN)
    no_results(page)
    shot(page, '7_example')


@pytest.mark.parametrize('target', ['#scene canvas', '#phrases textarea', 'body'])
def test_a_dropped_image_replaces_the_present_one(page, target):
    height = dict(zip(('#scene canvas', '#phrases textarea', 'body'), (50, 150, 100)))[target]
    fill(page, 'white plane')
    press(page)
    address = page.url
    assert drop(page, png_bytes(200, height, (200, 60, 40)), 'dropped.png', target), 'the browser would leave the page'
    wait_for_scene(page, 200, height)
    no_results(page)
    call = press(page)
    assert page.url == address and call['size'] == (200, height)


@pytest.mark.parametrize('data, name', [(b'not an image', 'notes.png'), (png_bytes(40, 40, (1, 2, 3))[:60], 'cut.png'),
                                        (b'', 'empty.tif')])
def test_a_failed_open_leaves_the_image_and_its_result(page, data, name):
    if not heatmaps(page): press(page)
    before = scene_height(page)
    assert drop(page, data, name)
    title, said = toast(page)
    assert title == 'Please check' and name in said
    page.wait_for_timeout(500)
    assert page.evaluate(DRAWN) and scene_height(page) == before and heatmaps(page), 'as it was'
    assert not page.locator('#scene .error').count()


def test_a_tiff_is_shown_and_its_bands_are_a_choice(page, tmp_path):
    write_geotiff(tmp_path/'four.tif', bands=4)
    assert not page.locator('#bands').count()
    page.locator('input[type=file][accept*=".tif"]').first.set_input_files(tmp_path/'four.tif')
    wait_for_scene(page, 200, 160)
    page.locator('#bands').wait_for()
    assert '4 bands' in page.locator('#bands').inner_text()
    assert press(page)['size'] == (200, 160)
    page.locator('#bands textarea, #bands input').fill('4,3,2')
    page.locator('#bands textarea, #bands input').press('Enter')
    no_results(page)
    assert press(page)['bands'] == '4,3,2'
    page.get_by_role('tab', name='Places').click()
    page.wait_for_function("() => document.querySelector('#places').innerText.includes('EPSG:32633')")
    page.get_by_role('tab', name='Save').click()
    page.wait_for_function("() => document.querySelector('#files').innerText.includes('geojson')")
    page.get_by_role('tab', name='Heatmap').click()


def test_a_removed_image_takes_its_result_along(page):
    if not heatmaps(page): press(page)
    page.locator('#scene button[aria-label="Remove Image"]').first.click()
    no_results(page)
    assert not page.locator('#bands').count()
    page.locator('#ground').click()
    assert toast(page) == ('Please check', 'There is no image; drop one on the left or choose an example.')
    assert drop(page, png_bytes(100, 100, (40, 60, 200)), 'first.png', '#scene')
    page.wait_for_function(DRAWN)
    assert press(page)['size'] == (100, 100)


def test_a_box_by_keyboard(page):
    "No mouse: the numbers of a box, then Enter"
    fill(page, 'white plane, road')
    before = len(page.fake.calls)
    page.locator('#typed textarea, #typed input').first.focus()
    page.keyboard.type('10, 20, 60, 80')
    page.keyboard.press('Enter')
    until(page, lambda: len(page.fake.calls) > before)
    assert np.allclose(page.fake.calls[-1]['boxes'], [[.1, .2, .6, .8]])
    page.get_by_role('tab', name='Scores').click()
    page.wait_for_function("() => document.querySelector('#table').innerText.includes('10, 20 – 60, 80')")
    page.get_by_role('tab', name='Heatmap').click()


def test_a_file_that_is_too_large_names_the_command(page):
    page.evaluate("""size => { const input = document.querySelector('input[type=file][accept*=".tif"]');
        const files = new DataTransfer(); const file = new File(['x'], 'huge.tif');
        Object.defineProperty(file, 'size', {value: size}); files.items.add(file);
        Object.defineProperty(input, 'files', {value: [file], configurable: true});
        input.dispatchEvent(new Event('change', {bubbles: true})); }""", 2**30)
    title, said = toast(page)
    assert title == 'Too large' and 'geoalign ground FILE' in said and 'MB' in said


def test_nothing_went_wrong_and_nothing_was_fetched_from_elsewhere(page):
    assert not page.wrong and not page.outside, (page.wrong, page.outside)


# ---- a narrow window ---------------------------------------------------------------------------------------

def test_a_narrow_window(narrow):
    assert narrow.evaluate('document.documentElement.scrollWidth') <= 390
    for name in ('#phrases textarea', '#ground'):
        box = narrow.locator(name).bounding_box()
        assert box['y'] + box['height'] < 844 and box['width'] > 250, (name, box)
    press(narrow)
    narrow.wait_for_timeout(1200)
    heat = narrow.locator('#heat img').first.bounding_box()
    assert 0 <= heat['y'] < 600 and heat['width'] > 250, 'Ground brings its result into view'
    shot(narrow, '8_narrow')
