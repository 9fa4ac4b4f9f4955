"""What does a map cost? Eight phrases against one, and similarity against Grad-CAM, on ViT-B/16 at 224 px with random weights.

    python tests/benchmarks/ground_speed.py                    # about a minute on 2 threads
    python tests/benchmarks/ground_speed.py --repeats 5 --threads 1 --out /elsewhere/speed.json

The cases are interleaved (one of each per round), so that a busy machine slows all of them alike; medians and their ratios come
from one run. `ms` and the ratios count the processor time of this process, which other processes lengthen little; `wall_ms` is the
clock. Timed is the whole call `ground(...)`: the picture, the texts (nothing is cached), the image pass, the maps. The result goes to nbs/assets/results/ground_speed.json, where page 14a_pointing reads it.
Goals: eight phrases by similarity at most 1.2 times one phrase, and at least 6 times cheaper than Grad-CAM over the same eight.
"""
import argparse
import datetime
import json
import platform
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from geoalignclip_nb.core import assets_dir, cpu_name, write_beside
from geoalignclip_nb.ground import ground
from geoalignclip_nb.model import GeoAlignCLIP

PHRASES = ['white plane', 'storage tank', 'tennis court', 'parking lot', 'small boat', 'red roof', 'bridge over water', 'bare land']
GOALS = {'eight phrases / one phrase': ('at most', 1.2), 'gradcam / similarity, eight phrases': ('at least', 6.)}


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--model', default='ViT-B-16', help='architecture, random weights')
    p.add_argument('--repeats', type=int, default=9)
    p.add_argument('--threads', type=int, default=2)
    p.add_argument('--seed', type=int, default=0)
    p.add_argument('--out', default=assets_dir()/'results'/'ground_speed.json')
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    model = GeoAlignCLIP.create(a.model, seed=a.seed)
    image = Image.fromarray(np.random.default_rng(a.seed).integers(0, 255, (224, 224, 3), dtype=np.uint8))
    cases = {'similarity, 1 phrase': dict(phrases=PHRASES[:1]), 'similarity, 8 phrases': dict(phrases=PHRASES),
             'legrad, 8 phrases': dict(phrases=PHRASES, method='legrad'), 'gradcam, 8 phrases': dict(phrases=PHRASES, method='gradcam')}
    times, walls = {name: [] for name in cases}, {name: [] for name in cases}
    for r in range(a.repeats + 1):
        for name, case in cases.items():
            wall, start = time.perf_counter(), time.process_time()
            ground(model, image, **case)
            if not r: continue  # the first round warms up
            times[name].append(time.process_time() - start)
            walls[name].append(time.perf_counter() - wall)
    ms = {k: float(np.median(v)) * 1e3 for k, v in times.items()}
    ratios = {'eight phrases / one phrase': ms['similarity, 8 phrases'] / ms['similarity, 1 phrase'],
              'gradcam / similarity, eight phrases': ms['gradcam, 8 phrases'] / ms['similarity, 8 phrases']}
    met = {k: v <= GOALS[k][1] if GOALS[k][0] == 'at most' else v >= GOALS[k][1] for k, v in ratios.items()}
    out = dict(task='ground_speed', model=a.model, resolution=model.preprocess.size, phrases=PHRASES, ms={k: round(v, 1) for k, v in ms.items()},
               wall_ms={k: round(float(np.median(v)) * 1e3, 1) for k, v in walls.items()},
               spread_ms={k: [round(float(q) * 1e3, 1) for q in np.percentile(v, [25, 75])] for k, v in times.items()},
               ratios={k: round(v, 2) for k, v in ratios.items()}, goals={k: ' '.join(map(str, g)) for k, g in GOALS.items()}, met=met, repeats=a.repeats,
               threads=a.threads, device='cpu', cpu=cpu_name(), versions=dict(torch=torch.__version__, python=platform.python_version()), seed=a.seed,
               date=datetime.date.today().isoformat())
    Path(a.out).parent.mkdir(parents=True, exist_ok=True)
    with write_beside(a.out) as file: file.write_text(json.dumps(out, indent=1) + '\n')
    for k, v in ms.items(): print(f"{k:24} {v:8.1f} ms of processor, {out['wall_ms'][k]:8.1f} ms by the clock")
    for k, v in ratios.items(): print(f"{k:38} {v:5.2f}  ({out['goals'][k]}: {'met' if met[k] else 'MISSED'})")


if __name__ == '__main__': main()
