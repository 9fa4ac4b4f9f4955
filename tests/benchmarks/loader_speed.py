"""How many samples per second come out of shards, and how much of that time a step hides?

    python tests/benchmarks/loader_speed.py                       # about a minute on 2 idle cores
    python tests/benchmarks/loader_speed.py --samples 2000 --repeats 9 --out /elsewhere/loader_speed.json

Drawn scenes are written as RSTeller-like and RSFG-like shards (448 px JPEG), then read by the loader: decode, cut and turn, crops, tokens.
`alone` is the loader by itself. Beside a step that computes about as long as a batch takes to load (matrix products on one thread), the same
batches are taken one after the other (`in turn`) and prepared in the background (`ahead`). The cases are interleaved, so that a busy machine slows all of
them alike; medians over the rounds, ratios within one run. At best `ahead` is twice `in turn`.
The result goes to nbs/assets/results/loader_speed.json.
"""
import argparse
import datetime
import json
import os
import platform
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from geoalignclip_nb.core import assets_dir, write_beside
from geoalignclip_nb.data.loader import Loader, LoaderSettings
from geoalignclip_nb.data.shards import open_shards, write_shards
from geoalignclip_nb.data.stream import ShardPictures
from geoalignclip_nb.scenes import make_scenes
from geoalignclip_nb.text import Tokenizer


def busy(seconds: float):
    "Products of matrices for about so long"
    x, end = torch.ones(256, 256), time.perf_counter() + seconds
    while time.perf_counter() < end: x @ x


def opened(kind: str, folder: str, a) -> Loader:
    stage = dict(regions=True, detailed=True, crop_size=a.crop_size) if kind == 'rsfg' else {}
    return Loader([ShardPictures(open_shards(f'{kind}:{folder}'), a.side)], Tokenizer(), LoaderSettings(size=a.size, **stage), a.batch, [.48, .46, .41], [.27, .26, .28], a.seed)


def rounds(loader, a) -> dict:
    "Seconds per epoch of each case"
    times, steps = {'alone': [], 'in turn': [], 'ahead': []}, range(len(loader))
    for e in range(a.repeats + 1):
        start = time.perf_counter()
        for k in steps: loader.batch(e, k)
        alone = time.perf_counter() - start
        work = alone / len(loader)
        start = time.perf_counter()
        for k in steps: loader.batch(e, k); busy(work)
        turn = time.perf_counter() - start
        start = time.perf_counter()
        for _ in loader.epoch(e): busy(work)
        ahead = time.perf_counter() - start
        if e:  # the first round warms up
            for name, t in zip(times, (alone, turn, ahead)): times[name].append(t)
    return times


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--samples', type=int, default=64)
    p.add_argument('--batch', type=int, default=8)
    p.add_argument('--size', type=int, default=224)
    p.add_argument('--side', type=int, default=256)
    p.add_argument('--crop-size', type=int, default=224)
    p.add_argument('--repeats', type=int, default=2)
    p.add_argument('--threads', type=int, default=1)
    p.add_argument('--seed', type=int, default=0)
    p.add_argument('--out', default=assets_dir()/'results'/'loader_speed.json')
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    scenes = make_scenes(min(a.samples, 16), seed=a.seed, size=448)
    made = [type(s)(**(vars(s) | dict(id=f'{i:07d}'))) for i, s in enumerate((scenes * -(-a.samples // len(scenes)))[:a.samples])]
    out = {}
    with tempfile.TemporaryDirectory() as room:
        os.environ['GEOALIGN_CACHE'] = f'{room}/cache'
        for kind in ('rsteller', 'rsfg'):
            write_shards(made, f'{room}/{kind}', 32, kind=kind)
            loader = opened(kind, f'{room}/{kind}', a)
            n, times = len(loader) * a.batch, rounds(loader, a)
            rate = {k: round(n / float(np.median(t)), 1) for k, t in times.items()}
            out[kind] = dict(samples_per_second=rate, spread={k: sorted(round(n / t, 1) for t in v) for k, v in times.items()},
                             ratios={'ahead / in turn': round(float(np.median(np.divide(times['in turn'], times['ahead']))), 2)})
            print(f"{kind:9}", {k: f'{v:.1f}/s' for k, v in rate.items()}, out[kind]['ratios'])
    result = dict(task='loader_speed', n=a.samples, picture='448 px JPEG', resolution=a.size, side=a.side, crop_size=a.crop_size, batch=a.batch, **out, repeats=a.repeats, threads=a.threads,
                  device=f'cpu, {os.cpu_count()} cores', versions=dict(torch=torch.__version__, python=platform.python_version()), seed=a.seed, date=datetime.date.today().isoformat())
    Path(a.out).parent.mkdir(parents=True, exist_ok=True)
    with write_beside(a.out) as file: file.write_text(json.dumps(result, indent=1) + '\n')


if __name__ == '__main__': main()
