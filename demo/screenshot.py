"""The README's picture: the demo with an example, grounded by the bundled model. `python demo/screenshot.py shot.jpg`

Needs playwright and a Chromium (GEOALIGN_CHROMIUM, or one on the path).
"""
import argparse
import os
import shutil

import app

DRAWN = "() => { const c = document.querySelector('#scene canvas'); return c && c.height > 50 }"


def read_flags(argv: list[str] | None) -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('out', help='PNG or JPEG to write')
    p.add_argument('--example', type=int, default=0, help='the example to press (0: the one that is open already)')
    p.add_argument('--tab', default='Heatmap', help='Heatmap, Compare, Places, Scores, Save or Data')
    p.add_argument('--width', type=int, default=1280, help='of the window, in pixels (default 1280)')
    p.add_argument('--height', type=int, default=860, help='of the window, in pixels (default 860)')
    p.add_argument('--seconds', type=float, default=120, help='patience for one step')
    return p.parse_args(argv)


def ground_example(page, url: str, args: argparse.Namespace):
    "Open the page, press an example and Ground, and wait for the result"
    page.set_default_timeout(1000 * args.seconds)
    page.goto(url)
    page.wait_for_function(DRAWN)
    if args.example:
        page.locator('#examples .thumbnail-item').nth(args.example).click()
        page.wait_for_timeout(3000)
        page.wait_for_function(DRAWN)
    page.locator('#ground').click()
    page.locator('#heat img').first.wait_for()
    page.get_by_role('tab', name=args.tab).click()
    page.wait_for_timeout(3000)


def main(argv: list[str] | None = None):
    args = read_flags(argv)
    from playwright.sync_api import sync_playwright
    demo = app.build_demo(examples=app.load_examples(app.BUNDLED_EXAMPLES))  # the same picture on every computer
    _, url, _ = demo.launch(prevent_thread_lock=True, quiet=True, **app.launch_settings())
    chromium = os.environ.get('GEOALIGN_CHROMIUM') or shutil.which('chromium')
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium, args=['--no-sandbox'])
        page = browser.new_page(viewport=dict(width=args.width, height=args.height), device_scale_factor=1.25)
        ground_example(page, url, args)
        is_jpeg = args.out.lower().endswith(('.jpg', '.jpeg'))
        page.screenshot(path=args.out, **(dict(type='jpeg', quality=82) if is_jpeg else {}))
        browser.close()
    demo.close()


if __name__ == '__main__': main()
