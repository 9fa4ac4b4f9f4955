"""The demo as a person meets it, in a real Chromium: draw a box, type phrases, press the button, read the result.

`GEOALIGN_SHOTS=folder pytest tests/test_demo_browser.py` keeps screenshots there. The grounder is a fake, so that this test is about
the page; `test_demo.py` runs the library behind it.
"""
import os
import re
import shutil
from pathlib import Path

import pytest

from test_demo import Fake, app, launch  # the same page, the same fake

pytestmark = pytest.mark.browser
PATIENCE = 1000 * int(os.environ.get('GEOALIGN_PATIENCE', '30'))  # milliseconds for one step; a busy machine may need more


def find_chromium() -> str:
    "Path of a Chromium (GEOALIGN_CHROMIUM, or one on the path); without one the test skips on a developer's machine and fails where CI=true"
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
def page():
    chromium = find_chromium()
    from playwright.sync_api import sync_playwright
    fake = Fake()
    demo = app.build_demo(fake)
    url = launch(demo)
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=chromium, args=['--no-sandbox'])
        page = browser.new_page(viewport=dict(width=1200, height=900))
        page.set_default_timeout(PATIENCE)
        page.wrong, page.outside, page.fake = [], [], fake
        page.on('console', lambda m: page.wrong.append(m.text) if m.type == 'error' else None)
        page.on('pageerror', lambda e: page.wrong.append(str(e)))
        page.route(lambda address: not address.startswith((url.rstrip('/'), 'data:', 'blob:')), lambda route: (page.outside.append(route.request.url), route.abort()))
        page.goto(url)
        page.wait_for_function(DRAWN)
        yield page
        browser.close()
    demo.close()


DRAWN = "() => { const c = document.querySelector('#scene canvas'); return c && c.height > 50 }"


def shot(page, name: str):
    if os.environ.get('GEOALIGN_SHOTS'): page.wait_for_timeout(800); page.screenshot(path=str(Path(os.environ['GEOALIGN_SHOTS'])/f'{name}.png'))


def draw(page, x1, y1, x2, y2):
    "A box by mouse, in fractions of the picture"
    c = page.locator('#scene canvas').bounding_box()
    at = lambda x, y: (c['x'] + x * c['width'], c['y'] + y * c['height'])
    page.mouse.move(*at(x1, y1)); page.mouse.down()
    page.mouse.move(*at((x1 + x2) / 2, (y1 + y2) / 2), steps=4); page.mouse.move(*at(x2, y2), steps=4); page.mouse.up()


def press(page) -> dict:
    "Press Ground, wait for the grounder to be asked and the page to answer; what the grounder was asked"
    before = len(page.fake.calls)
    page.locator('#ground').click()
    page.wait_for_function("n => !document.querySelector('#heat .generating, #heat .progress-text') && document.querySelectorAll('#heat img').length > 0")
    for _ in range(PATIENCE // 100):
        if len(page.fake.calls) > before: break
        page.wait_for_timeout(100)
    assert len(page.fake.calls) == before + 1
    return page.fake.calls[-1]


def test_the_page_opens_with_an_example(page):
    assert page.locator('#head h1').inner_text() == 'Words and places in aerial pictures'
    assert page.locator('#phrases textarea').input_value().count('\n') >= 2
    assert page.locator('#ground').bounding_box()['y'] < 900, 'one screen: the button is seen without scrolling'
    shot(page, '1_start')


def test_an_empty_phrase_is_a_toast(page):
    kept = page.locator('#phrases textarea').input_value()
    page.locator('#phrases textarea').fill('  \n ')
    page.locator('#ground').click()
    toast = page.locator('.toast-body').first
    toast.wait_for()
    said = toast.inner_text()
    assert 'No phrase was given' in said and 'Traceback' not in said and not re.search(r'/\w+/\w+', said), said
    shot(page, '2_toast')
    page.locator('.toast-close').first.click()
    page.locator('#phrases textarea').fill(kept)


def test_draw_type_press_read(page):
    page.get_by_role('button', name='Create box').first.click()
    draw(page, .12, .55, .45, .9)
    page.locator('#phrases textarea').fill('white plane\nterminal building\nred roof')
    call = press(page)
    assert call['phrases'] == ['white plane', 'terminal building', 'red roof']
    assert any(abs(b - [.12, .55, .45, .9]).max() < .02 for b in call['boxes']), call['boxes']
    page.wait_for_function("() => document.querySelectorAll('#heat img').length == 3")
    assert 'not detection' in page.locator('#about').inner_text() and '8 × 6 cells' in page.locator('#about').inner_text()
    assert 'one scale for all phrases' in page.locator('#bar').inner_text()
    shot(page, '3_heatmap')


def test_scores(page):
    page.get_by_role('tab', name='Scores').click()
    page.wait_for_function("() => document.querySelector('#table').innerText.includes('★ 0.300')")
    said = page.locator('#table').inner_text()
    assert 'terminal building' in said and '★ 0.300' in said and 'best match' in said
    shot(page, '4_scores')


def test_compare(page):
    page.get_by_role('tab', name='Compare').click()
    page.locator('#slider img').first.wait_for()
    before = [i.get_attribute('src') for i in page.locator('#slider img').all()]
    page.locator('#picker input').click()
    page.get_by_role('option', name='red roof').click()
    page.wait_for_function("old => [...document.querySelectorAll('#slider img')].some(i => i.src && !old.includes(i.getAttribute('src')))", arg=before)
    assert len(page.fake.calls) == 1, 'another phrase is drawn from the kept maps'
    shot(page, '5_compare')


def test_data(page):
    page.get_by_role('tab', name='Data').click()
    page.locator('#record').get_by_text('geoalign-tiny').first.wait_for()


def test_an_example_is_one_click(page):
    page.get_by_role('tab', name='Heatmap').click()
    before = page.locator('#phrases textarea').input_value()
    page.locator('#examples button.thumbnail-item, #examples .thumbnail-item').nth(1).click()
    page.wait_for_function("old => document.querySelector('#phrases textarea').value != old", arg=before)
    page.wait_for_function(DRAWN)
    shot(page, '6_example')


def test_a_tiff_is_shown(page, tmp_path):
    import numpy as np
    from PIL import Image
    rows = np.linspace(500, 3000, 300, dtype=np.uint16)
    Image.fromarray(np.tile(rows, (200, 1))).save(tmp_path/'sixteen.tif')
    page.locator('input[type=file][accept*=".tif"]').first.set_input_files(tmp_path/'sixteen.tif')
    page.wait_for_function("() => { const c = document.querySelector('#scene canvas'); return c && Math.abs(c.height / Math.min(c.width, 300) - 2 / 3) < .05 }")
    assert press(page)['size'] == (300, 200)


def test_nothing_went_wrong_and_nothing_was_fetched_from_elsewhere(page):
    assert not page.wrong and not page.outside, (page.wrong, page.outside)
