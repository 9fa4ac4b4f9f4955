"""What did VIC and HTC train, and what did they not? Their own questions, asked of every finished row of an ablation.

    geoalign ablate --out FOLDER --rows '1a;2;3;...'
    python tests/benchmarks/ablation_why.py FOLDER

VIC: cosines of boxes with their own crops and with other boxes' crops. HTC: retrieval between pictures and their detailed texts. Reads the weights that the rows left in FOLDER/runs/*/model
(fp16, words that a run never read share one vector) and Stage I's in FOLDER/stage1/model. The result goes to nbs/assets/results/ablation_why.json, where page 60a_variants reads it.
About 20 seconds a row on 2 threads; called again it keeps what it already measured of the same weights.
"""
import argparse
import datetime
import hashlib
import json
import platform
import sys
import time
import warnings
from dataclasses import replace
from pathlib import Path

import torch

from geoalignclip_nb.bench.embeddings import Embedder
from geoalignclip_nb.core import GeoAlignError, assets_dir, cpu_name, write_beside
from geoalignclip_nb.model import GeoAlignCLIP
from geoalignclip_nb.study.ablation import InputSizes, crop_agreement, detailed_columns, open_probes, read_row
from geoalignclip_nb.train.presets import load_preset


def runs(folder: Path):
    "(row, seed, folder of weights, pixels, pixels of crops) of every finished row"
    found = [json.loads(p.read_text()) | dict(path=p.stem) for p in sorted(folder.glob('*-seed*.json'))]
    if not found: raise GeoAlignError(f'{folder} holds no finished row; run geoalign ablate --out {folder} first.')
    for r in found:
        where, stage2 = folder/'runs'/r['path'] if r['losses'] is not None else folder/'stage1', r['settings']['stage2']
        yield r['row'], r['seed'], where/'model', stage2['size'], stage2['crop_size'] or stage2['size']


def kept(out: Path, preset: str, sets: list) -> dict:
    "Rows of an earlier call with the same preset and sets"
    old = json.loads(out.read_text()) if out.exists() else {}
    return old.get('rows', {}) if (old.get('preset'), old.get('sets')) == (preset, sets) else {}


def ask(model, probes: dict, sizes: InputSizes, precision: str) -> dict:
    "set -> answers of one model"
    out = {}
    for name, images in probes.items():
        found, samples = {}, images.samples
        embed = Embedder(model, precision=precision, size=sizes.image, read=images.read)
        if any(s.regions for s in samples): found |= crop_agreement(embed, replace(embed, size=sizes.crop), samples)
        if any(s.detailed for s in samples):
            found |= {k: v for k, (v, _) in detailed_columns(embed, samples).items()}
            found['n_pictures'] = len(images)
        out[name.partition(':')[0]] = found
    return out


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('folder', type=Path, help='--out of geoalign ablate')
    p.add_argument('--preset', default='ablation')
    p.add_argument('--sets', nargs='+', default=['ucm:val', 'rsod:val', 'scenes:200'], help='of those that the preset measures on')
    p.add_argument('--rows', nargs='+', help='rows to measure; all when left out')
    p.add_argument('--out', type=Path, default=assets_dir()/'results'/'ablation_why.json')
    a = p.parse_args()
    warnings.filterwarnings('ignore', message='.*never saw in training.*')
    preset, start = load_preset(a.preset), time.time()
    known = preset.stage2.validation
    if strange := [s for s in a.sets if s not in known]: raise GeoAlignError(f"Set '{strange[0]}' is not measured by preset '{a.preset}'; choose {', '.join(known)}.")
    wanted = {read_row(r).key for r in a.rows} if a.rows else None
    preset.stage2.validation = a.sets
    probes, old, rows = open_probes(preset), kept(a.out, a.preset, a.sets), {}
    for row, seed, weights, size, crop_size in runs(a.folder):
        sha = hashlib.sha256((weights/'model.safetensors').read_bytes()).hexdigest()
        found = old.get(row, {}).get(str(seed), {})
        if found.get('weights') != sha:
            if wanted and row not in wanted: continue
            found = ask(GeoAlignCLIP.from_pretrained(weights).eval(), probes, InputSizes(size, crop_size), preset.precision) | dict(weights=sha)
        rows.setdefault(row, {})[str(seed)] = found
        print(row, 'seed', seed, {f'{name} {k}': round(v, 1) for name, answers in found.items() if name != 'weights' for k, v in answers.items()}, flush=True)
        out = dict(task='ablation why', command=f'geoalign ablate --out FOLDER, python tests/benchmarks/ablation_why.py FOLDER --preset {a.preset} --sets {" ".join(a.sets)}', preset=a.preset, sets=a.sets,
                   rows=rows, precision=preset.precision, seconds=round(time.time() - start, 1), device='cpu', threads=torch.get_num_threads(), cpu=cpu_name(), versions=dict(torch=torch.__version__, python=platform.python_version()), date=datetime.date.today().isoformat())
        with write_beside(a.out) as file: file.write_text(json.dumps(out, indent=1, allow_nan=False) + '\n')


if __name__ == '__main__':
    try: main()
    except GeoAlignError as e: print(e, file=sys.stderr); sys.exit(2)
