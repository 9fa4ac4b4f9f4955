"""How well do the maps point? Pointing game, energy in box, present or absent, each beside baselines.

    python tests/benchmarks/grounding_quality.py                                   # the bundled model, scenes only
    python tests/benchmarks/grounding_quality.py --data FOLDER_WITH_rsod           # and the validation part of RSOD
    python tests/benchmarks/grounding_quality.py --data FOLDER --part train --size 320 --out /elsewhere/320.json   # to choose a size
    python tests/benchmarks/grounding_quality.py --model ViT-B-16-quickgelu.openai --n 50 --out /elsewhere/b16.json

`--data` defaults to GEOALIGN_DATA, else GEOALIGN_TEST_DATA. The result goes to nbs/assets/results/grounding_quality.json, where
page 14a_pointing reads it; its `cosine_scale` and `contrast_scale` become the colour scales of that model. At most 3 minutes on 2 threads for the
small model. Without trained weights: `--model random:vit-tiny`.
"""
import argparse
import datetime
import hashlib
import json
import os
import platform
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import torch

from geoalignclip_nb.zoo import random_twin
from geoalignclip_nb.core import GeoAlignError, asset, assets_dir, cpu_name, stable_hash, write_beside
from geoalignclip_nb.ground import METHODS, RESULTS, ground, usable_methods
from geoalignclip_nb.model import BUNDLED_MODELS, GeoAlignCLIP
from geoalignclip_nb.pointing import centre_map, energy_in_box, pointing_hit
from geoalignclip_nb.scenes import absent_phrases, make_scenes
from geoalignclip_nb.vision import load_image

RSOD = {'aircraft': 'aircraft', 'oiltank': 'oil tank', 'overpass': 'overpass', 'playground': 'playground'}
COLOURS = set('white black grey gray red green blue yellow orange brown turquoise beige silver pink purple tan'.split())
KEYS = 'pointing_game', 'energy_in_box', 'auroc'


def boxes_of(sample, region):
    "All boxes that the phrase of `region` fits: the same category, and the colour that the phrase names, if it names one"
    colours = COLOURS & set(region.phrase.lower().split())
    return [r.box for r in sample.regions if r.category == region.category and colours <= set(r.text.lower().replace(',', ' ').replace('.', ' ').split())]


def scenes(n, seed):
    "Pictures with (phrase, boxes, class) of what is there, and phrases of what is not; at most 12 things of a scene have a box"
    for i, s in enumerate(make_scenes(n, seed=seed, size=384)):
        chosen = {r.phrase: r for r in s.regions[::-1]}
        present = [(r.phrase, boxes_of(s, r) or [r.box], None) for r in list(chosen.values())[-4:]]
        yield s.image, present, absent_phrases(s, 2, seed=seed + i)


def rsod(root, n, seed, part='val'):
    "Pictures of one part of RSOD, one phrase per class present; the other classes are absent as far as the annotation goes"
    from geoalignclip_nb.data.sources import coco_boxes
    samples = coco_boxes(Path(root)/'rsod', part, 'rsod')
    samples = sorted(samples, key=lambda s: stable_hash(f'{seed}{s.id}'))[:n]
    for s in samples:
        kinds = list(dict.fromkeys(r.category for r in s.regions))
        present = [(RSOD[k], [r.box for r in s.regions if r.category == k], k) for k in kinds]
        if present: yield s.image, present, [p for k, p in RSOD.items() if k not in kinds]


def auroc(present, absent):
    "Chance that a present phrase has the higher peak; ties count one half"
    a, b = np.asarray(present)[:, None], np.asarray(absent)[None]
    return float((a > b).mean() + .5 * (a == b).mean())


def ask(model, image, present, absent, method):
    "One picture: per present phrase (hit, energy, class), the peaks of present and absent phrases, and what three quarters of the cells stay below where a phrase is absent (not where numbers are shares of a maximum)"
    whether = bool(METHODS[method].scale)
    if not whether: absent = []
    r = ground(model, image, [p for p, _, _ in present] + absent, method=method)
    peaks = [float(m.max()) for m in r.maps] if whether else []
    marks = [(pointing_hit(m, b), energy_in_box(m, b, (128, 128)), k) for m, (_, b, k) in zip(r.maps, present)]
    floors = [float(np.percentile(m, 75)) for m in r.maps[len(present):]]
    return marks, peaks[:len(present)], peaks[len(present):], floors, r.maps.shape[1:]


def blind(maps, present):
    "The same without looking: `maps` gives one map"
    return [(pointing_hit(m, b), energy_in_box(m, b, (128, 128)), k) for _, b, k in present for m in [maps()]], [], [], []


def numbers(items):
    "Metrics of a list of pictures, each (marks, present peaks, absent peaks): percent, but for the area under the curve"
    marks = [m for i in items for m in i[0]]
    up, down = [p for i in items for p in i[1]], [p for i in items for p in i[2]]
    return dict(pointing_game=100 * float(np.mean([m[0] for m in marks])), energy_in_box=100 * float(np.mean([m[1] for m in marks])),
                auroc=auroc(up, down) if up and down else None)


def with_interval(items, seed, resamples):
    "Metrics of a list of pictures, and their 95 % intervals over pictures"
    rng, value = np.random.default_rng(seed), numbers(items)
    drawn = [numbers([items[j] for j in rng.integers(0, len(items), len(items))]) for _ in range(resamples)]
    return value, {k: None if value[k] is None else [float(v) for v in np.percentile([d[k] for d in drawn if d[k] is not None], [2.5, 97.5])] for k in KEYS}


def summary(dataset, method, items, seed, resamples=300):
    "One row: metrics, bootstrap intervals over pictures, metrics per class"
    marks, classes = [m for i in items for m in i[0]], {}
    value, ci = with_interval(items, seed, resamples)
    for k in [k for k in RSOD if any(m[2] == k for m in marks)]:
        own = [([m for m in i[0] if m[2] == k], [], []) for i in items if any(m[2] == k for m in i[0])]
        found, limits = with_interval(own, seed, resamples)
        classes[k] = dict(pointing_game=found['pointing_game'], energy_in_box=found['energy_in_box'], n_texts=sum(len(i[0]) for i in own), ci95={m: v for m, v in limits.items() if v})
    return dict(dataset=dataset, method=method, n=len(items), n_texts=len(marks), n_absent=sum(len(i[2]) for i in items), metrics=value, ci95=ci, classes=classes)


def measure(dataset, pictures, model, untrained, seed):
    "All rows of one set of pictures, and what gives the colour scales: peaks of present phrases, floors of absent ones, contrasts of present ones"
    rng, items, methods = np.random.default_rng(seed), {}, usable_methods(model)
    for image, present, absent in pictures:
        image = load_image(image)
        for name in methods:
            *item, shape = ask(model, image, present, absent, name)
            items.setdefault(name, []).append(item)
        items.setdefault('random weights', []).append(ask(untrained, image, present, absent, 'similarity')[:4])
        items.setdefault('centre', []).append(blind(centre_map, present))
        items.setdefault('random map', []).append(blind(lambda: rng.random(shape), present))
    found = items['similarity']
    return [summary(dataset, k, v, seed) for k, v in items.items()], [p for i in found for p in i[1]], [p for i in found for p in i[3]], [p for i in items['contrast'] for p in i[1]]


def load(name):
    "(model, the same architecture with random weights, sha256 of the weights file or '')"
    if name.startswith('random:'): model, sha = GeoAlignCLIP.create(name.removeprefix('random:')), ''
    else:
        model = GeoAlignCLIP.from_pretrained(name)
        folder = asset(name) if name in BUNDLED_MODELS else Path(name)
        file = folder/'model.safetensors' if folder.is_dir() else folder
        sha = hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else ''
    return model, random_twin(model, seed=1), sha


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--model', default='geoalign-tiny')
    p.add_argument('--n', type=int, default=160, help='pictures of each set at most')
    p.add_argument('--seed', type=int, default=70_000, help='of the scenes (far from training seeds), the bootstrap and the random maps')
    p.add_argument('--data', default=os.environ.get('GEOALIGN_DATA') or os.environ.get('GEOALIGN_TEST_DATA'), help='folder that holds rsod/')
    p.add_argument('--part', default='val', choices=('train', 'val'), help='part of RSOD; settings are chosen on train, numbers are reported on val')
    p.add_argument('--size', type=int, help='pixels of the frame; without it the size that ground takes by itself')
    p.add_argument('--out', default=assets_dir()/RESULTS)
    a = p.parse_args()
    start, rows, present, floors, contrasts = time.time(), [], [], [], []
    warnings.filterwarnings('ignore', message='.*never saw in training.*')
    model, untrained, sha = load(a.model)
    if a.size: model.config['ground_size'] = a.size
    untrained.config['ground_size'] = size = model.config.get('ground_size') or model.preprocess.size
    sets = {'scenes': scenes(a.n, a.seed)}
    if a.data and (Path(a.data)/'rsod').is_dir(): sets[f'RSOD {a.part}'] = rsod(a.data, a.n, a.seed, a.part)
    for name, pictures in sets.items():
        r, up, down, more = measure(name, pictures, model, untrained, a.seed)
        rows += r; present += up; floors += down; contrasts += more
        for row in r:
            print(f"{name:9} {row['method']:15} N={row['n_texts']:4} " + ' '.join(f'{k} {v:.3g}' for k, v in row['metrics'].items() if v is not None)
                  + ' | ' + ' '.join(f"{k} {c['pointing_game']:.0f}" for k, c in row['classes'].items()))
    low, high = float(np.median(floors)), float(np.percentile(present, 90))
    main_row = next(r for r in rows[::-1] if r['method'] == 'similarity')
    out = dict(task='grounding', dataset=main_row['dataset'], split=a.part, n=main_row['n'], n_texts=main_row['n_texts'],
               skipped={} if len(sets) == 2 else {'RSOD was not found': 1}, model=model.name, trained=model.trained, checkpoint=sha,
               resolution=size, context_length=model.tokenizer.context_length, resize_mode=model.preprocess.mode, templates=['{}'],
               metrics=main_row['metrics'], ci95=main_row['ci95'], rows=rows, cosine_scale=[round(low, 3), round(high, 3)] if high > low + .01 else None,
               contrast_scale=[0, round(float(np.percentile(contrasts, 90)), 3)],
               seconds=round(time.time() - start, 1), device='cpu', threads=torch.get_num_threads(),
               cpu=cpu_name(), versions=dict(torch=torch.__version__, python=platform.python_version()), seed=a.seed, date=datetime.date.today().isoformat())
    Path(a.out).parent.mkdir(parents=True, exist_ok=True)
    with write_beside(a.out) as file: file.write_text(json.dumps(out, indent=1, allow_nan=False) + '\n')
    print(f"colour scale {out['cosine_scale']}; {out['seconds']} s; wrote {Path(a.out).name}")


if __name__ == '__main__':
    try: main()
    except GeoAlignError as e: print(e, file=sys.stderr); sys.exit(2)
