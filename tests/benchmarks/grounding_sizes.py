"""Which frame shows phrases best? The pointing game of `similarity` and `contrast` at several sizes, on pictures that no page reports.

    python tests/benchmarks/grounding_sizes.py --data FOLDER_WITH_rsod

Scenes have seeds of their own, RSOD is its training part: a size is a setting, and settings are not chosen on the numbers that are shown. The result
goes to nbs/assets/results/grounding_sizes.json, where page 14a_pointing reads it. About 2 minutes on 2 threads for the small model.
"""
import argparse
import datetime
import json
import os
import platform
import sys
import time
import warnings
from pathlib import Path

import torch
from grounding_quality import ask, load, rsod, scenes, summary

from geoalignclip_nb.core import GeoAlignError, assets_dir, cpu_name, write_beside
from geoalignclip_nb.vision import load_image


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--model', default='geoalign-tiny')
    p.add_argument('--sizes', type=int, nargs='+', default=[160, 224, 288, 352])
    p.add_argument('--n', type=int, default=120, help='pictures of each set at most')
    p.add_argument('--seed', type=int, default=80_000)
    p.add_argument('--data', default=os.environ.get('GEOALIGN_DATA') or os.environ.get('GEOALIGN_TEST_DATA'), help='folder that holds rsod/')
    p.add_argument('--out', default=assets_dir()/'results'/'grounding_sizes.json')
    a = p.parse_args()
    start, rows = time.time(), []
    warnings.filterwarnings('ignore', message='.*never saw in training.*')
    model, _, sha = load(a.model)
    sets = {'scenes': list(scenes(a.n, a.seed))}
    if a.data and (Path(a.data)/'rsod').is_dir(): sets['RSOD train'] = list(rsod(a.data, a.n, a.seed, 'train'))
    for size in a.sizes:
        model.config['ground_size'] = size
        for name, pictures in sets.items():
            for method in ('similarity', 'contrast'):
                items = [ask(model, load_image(image), present, absent, method)[:3] for image, present, absent in pictures]
                rows.append(summary(name, method, items, a.seed) | dict(size=size))
                print(f"{name:10} {method:10} {size:4} px " + ' '.join(f'{k} {v:.3g}' for k, v in rows[-1]['metrics'].items() if v is not None) + ' | ' + ' '.join(f"{k} {c['pointing_game']:.0f}" for k, c in rows[-1]['classes'].items()), flush=True)
    out = dict(task='grounding sizes', model=model.name, trained=model.trained, checkpoint=sha, rows=rows, seed=a.seed, seconds=round(time.time() - start, 1), device='cpu',
               threads=torch.get_num_threads(), cpu=cpu_name(), versions=dict(torch=torch.__version__, python=platform.python_version()), date=datetime.date.today().isoformat())
    with write_beside(a.out) as file: file.write_text(json.dumps(out, indent=1, allow_nan=False) + '\n')


if __name__ == '__main__':
    try: main()
    except GeoAlignError as e: print(e, file=sys.stderr); sys.exit(2)
