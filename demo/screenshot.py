"""The README's picture: the demo with its first example grounded by the bundled model. `python demo/screenshot.py shot.png` (needs playwright and Chromium)"""
import argparse
import os
import shutil

import app


def main(argv=None):
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('out', help='PNG or JPEG to write')
    p.add_argument('--example', type=int, default=0, help='which example to press first (0: the one that is open already)')
    p.add_argument('--tab', default='Heatmap', help='Heatmap, Compare or Scores')
    p.add_argument('--seconds', type=float, default=120, help='patience for one step')
    args = p.parse_args(argv)
    from playwright.sync_api import sync_playwright
    demo = app.build_demo()
    _, url, _ = demo.launch(prevent_thread_lock=True, quiet=True, **app.launch_settings())
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=os.environ.get('GEOALIGN_CHROMIUM') or shutil.which('chromium'), args=['--no-sandbox'])
        page = browser.new_page(viewport=dict(width=1200, height=900), device_scale_factor=1.5)
        page.set_default_timeout(1000 * args.seconds)
        page.goto(url)
        drawn = "() => { const c = document.querySelector('#scene canvas'); return c && c.height > 50 }"
        page.wait_for_function(drawn)
        if args.example:
            page.locator('#examples .thumbnail-item').nth(args.example).click()
            page.wait_for_timeout(3000); page.wait_for_function(drawn)
        page.locator('#ground').click()
        page.locator('#heat img').first.wait_for()
        page.get_by_role('tab', name=args.tab).click()
        page.wait_for_timeout(3000)
        kind = dict(type='jpeg', quality=85) if args.out.lower().endswith(('.jpg', '.jpeg')) else {}
        page.screenshot(path=args.out, **kind)
        browser.close()
    demo.close()


if __name__ == '__main__': main()
