"""Samples per second of the loader, the share of that time that a step hides, and the ratio to another commit.

    python tests/benchmarks/loader_speed.py                       # about three minutes on 2 idle cores
    git worktree add ../before af98a37 && python tests/benchmarks/loader_speed.py --before ../before

Drawn scenes are written as RSTeller-like and RSFG-like shards (448 px JPEG) and as JPEG files of 1,000 px ('files', read through the cache of
decoded images with the Stage II settings of preset `ablation`), then read by the loader: decode, cut and turn, crops, tokens.
`alone` is the loader by itself. Beside a step that computes about as long as a batch takes to load (matrix products on one thread), the same
batches are taken one after the other (`in turn`) and prepared in the background (`ahead`). The cases are interleaved, so that a busy machine slows all of
them alike; medians over the rounds, ratios within one run. At best `ahead` is twice `in turn`.
`step` is a Stage II step of `vit-tiny` on the batches of 'files', and `step / batch` the number of batches that the loader makes in that time.
With `--before FOLDER` (a checkout of another commit) both commits load the same data in turn, in processes of their own, and count their CPU time, which
other work on the machine changes little.
The result goes to nbs/assets/results/loader_speed.json.
"""
import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from geoalignclip_nb import core
from geoalignclip_nb.core import Sample, assets_dir, write_beside
from geoalignclip_nb.data import loader as loaders, stream
from geoalignclip_nb.data.shards import open_shards, write_shards
from geoalignclip_nb.scenes import make_scenes
from geoalignclip_nb.text import Tokenizer

MEAN, STD = [.48, .46, .41], [.27, .26, .28]
KINDS = ('rsteller', 'rsfg', 'files')
Shards = getattr(stream, 'ShardImages', None) or stream.ShardPictures  # the names before and after, so that one script measures both
Files = getattr(loaders, 'ImageCache', None) or loaders.Pictures


def busy(seconds: float):
    "Products of matrices for about so long"
    x = torch.ones(256, 256)
    end = time.perf_counter() + seconds
    while time.perf_counter() < end: x @ x


def write_data(room: Path, a):
    "Shards of both kinds, and JPEG files beside their records"
    scenes = make_scenes(min(a.samples, 16), seed=a.seed, size=448)
    made = [Sample(**(vars(scenes[i % len(scenes)]) | dict(id=f'{i:07d}'))) for i in range(a.samples)]
    for kind in ('rsteller', 'rsfg'): write_shards(made, f'{room}/{kind}', 32, kind=kind)
    large = make_scenes(8, seed=a.seed, size=1000)
    (room/'files').mkdir()
    for i in range(a.samples): large[i % 8].image.save(room/'files'/f'{i}.jpg', quality=90)


def file_samples(room: Path, a) -> list:
    large = make_scenes(8, seed=a.seed, size=64)  # the same texts and boxes as the files
    return [Sample(**(vars(large[i % 8]) | dict(id=f'{i}', image=str(room/'files'/f'{i}.jpg')))) for i in range(a.samples)]


def opened(kind: str, room: Path, a):
    "The loader of one kind of data"
    if kind == 'files':
        stage2 = dict(size=160, crop_size=64, regions=True, detailed=True, zoom=.5, background=1., max_negatives=4)
        images = Files(file_samples(room, a), a.side or (384 if Files.__name__ == 'Pictures' else 0))
        return loaders.Loader([images], Tokenizer(), loaders.LoaderSettings(**stage2), min(64, a.samples), MEAN, STD, a.seed)
    stage = dict(regions=True, detailed=True, crop_size=a.crop_size) if kind == 'rsfg' else {}
    images = Shards(open_shards(f'{kind}:{room}/{kind}'), a.side or (256 if Files.__name__ == 'Pictures' else 0))
    return loaders.Loader([images], Tokenizer(), loaders.LoaderSettings(size=a.size, **stage), a.batch, MEAN, STD, a.seed)


def seconds_alone(loader, epoch: int) -> float:
    start = time.perf_counter()
    for k in range(len(loader)): loader.batch(epoch, k)
    return time.perf_counter() - start


def rounds(loader, a) -> dict:
    "Seconds per epoch of each case"
    times = {'alone': [], 'in turn': [], 'ahead': []}
    for e in range(a.repeats + 1):
        alone = seconds_alone(loader, e)
        work = alone / len(loader)
        start = time.perf_counter()
        for k in range(len(loader)):
            loader.batch(e, k)
            busy(work)
        turn = time.perf_counter() - start
        start = time.perf_counter()
        for _ in loader.epoch(e): busy(work)
        ahead = time.perf_counter() - start
        if e:  # the first round warms up
            for name, t in zip(times, (alone, turn, ahead)): times[name].append(t)
    return times


def step_ratio(loader) -> dict:
    "A Stage II step of preset `ablation` beside a batch of the loader, in turn"
    from geoalignclip_nb.model import GeoAlignCLIP
    from geoalignclip_nb.train import engine, presets
    stage2 = presets.load_preset('ablation').stage2
    model = GeoAlignCLIP.create('vit-tiny')
    optimizer, objective = engine.make_optimizer(model, stage2), engine.stage_objective(stage2, 2)
    steps, batches = [], []
    for e in range(3):
        start = time.perf_counter()
        batch = loader.batch(e, 0)
        batches.append(time.perf_counter() - start)
        start = time.perf_counter()
        engine.train_step(model, batch, objective, optimizer, engine.StepOptions(1e-4, precision='fp32'))
        steps.append(time.perf_counter() - start)
    ratios = np.divide(steps, batches)[1:]
    return dict(images=len(batch['images']), regions=len(batch['boxes']), seconds_per_step=round(float(np.median(steps[1:])), 3),
                seconds_per_batch=round(float(np.median(batches[1:])), 3), **{'step / batch': round(float(np.median(ratios)), 1)})


def beside(room: Path, a) -> dict:
    "CPU time per sample of both commits, each in processes of its own, in turn"
    here = Path(loaders.__file__).resolve().parents[2]
    costs = dict(before={k: [] for k in KINDS}, now={k: [] for k in KINDS})
    for _ in range(a.repeats + 1):
        for name, folder in (('before', Path(a.before).resolve()), ('now', here)):
            command = [sys.executable, __file__, '--room', str(room), *sys.argv[1:]]
            environment = dict(os.environ, PYTHONPATH=str(folder))
            found = subprocess.run(command, capture_output=True, text=True, check=True, env=environment, cwd=folder)
            for kind, cost in json.loads(found.stdout.splitlines()[-1]).items(): costs[name][kind].append(cost)
    ratios = {k: round(float(np.median(np.divide(costs['before'][k], costs['now'][k]))), 2) for k in KINDS}
    commit = subprocess.run(['git', 'rev-parse', '--short', 'HEAD'], capture_output=True, text=True, cwd=a.before).stdout.strip()
    rounded = {name: {k: np.round(sorted(v), 2).tolist() for k, v in kinds.items()} for name, kinds in costs.items()}
    return dict(commit=commit, cpu_ms_per_sample=rounded, **{'speed now / before': ratios})


def child(room: Path, a):
    "Milliseconds of CPU time per sample by kind, one line of JSON"
    costs = {}
    for kind in KINDS:
        loader = opened(kind, room, a)
        seconds_alone(loader, 0)
        start = time.process_time()
        seconds_alone(loader, 1)
        costs[kind] = 1e3 * (time.process_time() - start) / (len(loader) * loader.batch_size)
    print(json.dumps(costs))


def arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--samples', type=int, default=64)
    p.add_argument('--batch', type=int, default=8)
    p.add_argument('--size', type=int, default=224)
    p.add_argument('--side', type=int, default=0, help='longest side at which pixels are kept; 0: the original pixels')
    p.add_argument('--crop-size', type=int, default=224)
    p.add_argument('--repeats', type=int, default=2)
    p.add_argument('--threads', type=int, default=1)
    p.add_argument('--seed', type=int, default=0)
    p.add_argument('--before', help='a checkout of another commit to compare with')
    p.add_argument('--room', help='a folder with the data of a run; measures CPU time only and prints JSON')
    p.add_argument('--out', default=assets_dir()/'results'/'loader_speed.json')
    return p.parse_args()


def main():
    a = arguments()
    torch.set_num_threads(a.threads)
    if a.room:
        child(Path(a.room), a)
        return
    out = {}
    with tempfile.TemporaryDirectory() as room:
        os.environ['GEOALIGN_CACHE'] = f'{room}/cache'
        write_data(Path(room), a)
        for kind in KINDS:
            loader = opened(kind, Path(room), a)
            n = len(loader) * loader.batch_size
            times = rounds(loader, a)
            rate = {k: round(n / float(np.median(t)), 1) for k, t in times.items()}
            ahead = np.divide(times['in turn'], times['ahead'])
            out[kind] = dict(samples_per_second=rate, spread={k: sorted(round(n / t, 1) for t in v) for k, v in times.items()},
                             ratios={'ahead / in turn': round(float(np.median(ahead)), 2)})
            print(f'{kind:9}', {k: f'{v:.1f}/s' for k, v in rate.items()}, out[kind]['ratios'], flush=True)
        out['step'] = step_ratio(opened('files', Path(room), a))
        print('step     ', out['step'], flush=True)
        if a.before:
            out['before'] = beside(Path(room), a)
            print('before   ', out['before']['speed now / before'])
    command = 'python tests/benchmarks/loader_speed.py' + (' --before CHECKOUT' if a.before else '')
    result = dict(task='loader_speed', n=a.samples, picture='448 px JPEG; files: 1,000 px JPEG', resolution=a.size, side=a.side, crop_size=a.crop_size,
                  batch=a.batch, **out, repeats=a.repeats, threads=a.threads, command=command, device=f'cpu, {os.cpu_count()} cores',
                  cpu=core.cpu_name(), versions=dict(torch=torch.__version__, python=platform.python_version()), seed=a.seed, date=datetime.date.today().isoformat())
    Path(a.out).parent.mkdir(parents=True, exist_ok=True)
    with write_beside(a.out) as file: file.write_text(json.dumps(result, indent=1) + '\n')


if __name__ == '__main__': main()
