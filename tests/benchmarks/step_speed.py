"""What a Stage II training step costs: ours, the literal form and FG-CLIP v1's (see step_forms.py), and where the time of ours goes.

    python tests/benchmarks/step_speed.py                       # ViT-B/16 at batch 8: about eleven minutes on 2 idle cores
    python tests/benchmarks/step_speed.py --model vit-tiny --size 64 --batch 2 --rounds 1 --out /elsewhere/speed.json   # a trial, seconds

Timed are forward, five losses and backward in bf16 (as `train.engine.train_step`, without the optimiser, which is the same for all). First the three
forms are held against each other on a small model in fp32: losses equal to 1e-4, gradients to 0.1 %; the script stops where they are not. Then every
round times each form once, ours with smaller crops, and each part of ours alone, one after the other, so that a busy machine slows all alike. `ms` and
the ratios count the processor time of this process, which other processes lengthen little; `wall_ms` is the clock. The result is written after every
round to nbs/assets/results/step_speed.json, where page 43_step_cost reads it. Goals: literal / ours at least 4, fgclip / ours at least 1.55.
"""
import argparse
import datetime
import json
import os
import platform
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch

from geoalignclip_nb.core import assets_dir, cpu_name, write_beside
from geoalignclip_nb.losses.objective import Objective
from geoalignclip_nb.model import GeoAlignCLIP
from geoalignclip_nb.train.cost import FORMS, TEXTS, distinct_lengths, padding_cost, step_flops, time_parts
from geoalignclip_nb.core import precision_context
from geoalignclip_nb.vision import encode_image
from step_forms import Baseline, check_equal, limit_memory, our_losses, our_step, records, region, trunk, unit

GOALS = {'literal / ours': 4., 'fgclip / ours': 1.55}


def stages(model, forward, backward=None) -> list:
    "Forward and backward of something, as two stages of `time_parts`; the gradients of the last case are dropped first"
    def there(_):
        model.zero_grad(set_to_none=True)
        with precision_context('cpu'): return forward()
    def back(out):
        with precision_context('cpu', 'fp32'): (backward or (lambda o: torch.autograd.backward(o, [torch.full_like(v, 1e-3) for v in o])))(out)
    return [there, back]


def our_parts(model, batch, other_crops, objective) -> dict:
    "Each part of our step by itself"
    clip, size = model.clip, batch['images'].shape[-2:]
    with torch.no_grad(), precision_context('cpu'):
        tower, x, grid = trunk(clip, batch['images'])
        vectors = model(batch)
    x = x.detach().requires_grad_()
    leaves = {k: v.detach().clone().requires_grad_() if v.is_floating_point() and v.ndim else v for k, v in vectors.items()}
    picture = lambda images: [unit(encode_image(clip, images, dense=False)[0])]
    crops = {s: b['crops'] for s, b in [(batch['crops'].shape[-1], batch), *other_crops.items()]}
    cases = {'pictures': lambda: picture(batch['images']), 'dense map and RoIAlign': lambda: [region(tower, x, grid, batch['boxes'], size)]}
    cases |= {f'crops {s} px': partial(picture, c) for s, c in crops.items()}
    cases |= {'texts': lambda: model.encode_texts_once(*(batch[k] for k in TEXTS))} | {f'{k} alone': partial(model.encode_texts_once, batch[k]) for k in TEXTS}
    return {k: stages(model, f) for k, f in cases.items()} | {'losses': stages(model, lambda: objective(**leaves), lambda parts: parts['total'].backward())}


def summary(seconds) -> dict:
    "Seconds (rounds, stages, 2 clocks) -> median milliseconds, and the quartiles"
    ms = seconds.sum(1) * 1e3
    each = [round(float(v), 1) for v in np.median(seconds[..., 0], 0) * 1e3]
    return dict(ms=round(float(np.median(ms[:, 0])), 1), wall_ms=round(float(np.median(ms[:, 1])), 1), spread_ms=[round(float(q), 1) for q in np.percentile(ms[:, 0], [25, 75])],
                **(dict(forward_ms=each[0], backward_ms=each[1]) if len(each) == 2 else {}))


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--model', default='ViT-B-16-quickgelu', help='architecture, random weights')
    p.add_argument('--batch', type=int, default=8)
    p.add_argument('--size', type=int, default=224, help='pixels of pictures and crops')
    p.add_argument('--crops', type=int, nargs='*', default=[112, 64], help='other crop sizes, multiples of the patch')
    p.add_argument('--rounds', type=int, default=3)
    p.add_argument('--threads', type=int, default=os.cpu_count())
    p.add_argument('--seed', type=int, default=0)
    p.add_argument('--out', default=assets_dir()/'results'/'step_speed.json')
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    limit_memory()
    begin, objective = time.perf_counter(), Objective()
    say = lambda *words: print(f'{time.perf_counter() - begin:6.0f} s ', *words, file=sys.stderr, flush=True)
    equal = check_equal(objective)
    say(f"the forms agree: losses to {equal['largest_loss_difference']:.1e}, gradients to {equal['largest_gradient_difference']:.1e}")
    model = GeoAlignCLIP.create(a.model, seed=a.seed).train()
    batch = records(a.batch, a.seed, a.size, a.size, model)
    other = {s: records(a.batch, a.seed, a.size, s, model) for s in a.crops if s != a.size}
    baselines = {f: Baseline(model, batch, f) for f in FORMS[1:]}
    losses = {'ours': our_step(model, batch, objective)}
    for f, b in baselines.items():
        losses[f] = b.learn(objective)
        say(f'{f}: gradients learned, losses', {k: round(v, 4) for k, v in losses[f].items()})
    ours = lambda b: stages(model, partial(our_losses, model, b, objective), lambda parts: parts['total'].backward())
    one = lambda b: [lambda _: (model.zero_grad(set_to_none=True), b.step(objective))]
    cases = {'ours': ours(batch)} | {f: one(b) for f, b in baselines.items()} | {f'ours, crops {s} px': ours(b) for s, b in other.items()}
    parts = our_parts(model, batch, other, objective)

    flops = {f: {k: round(v / 1e9, 1) for k, v in step_flops(model.config['clip'], batch, f).items()} for f in FORMS}
    out = dict(task='step_speed', command='python tests/benchmarks/step_speed.py ' + ' '.join(f'--{k} {getattr(a, k)}' for k in ('model', 'batch', 'size', 'rounds', 'threads', 'seed')),
               model=a.model, weights='random', precision='bf16 autocast', optimiser='left out', resolution=a.size, crop_size=a.size, n=a.batch, regions=len(batch['boxes']),
               negatives=len(batch['negatives']), texts=sum(len(batch[k]) for k in TEXTS), distinct_texts=len(distinct_lengths(batch)),
               tokens={k: dict(zip(('median', 'longest'), (int(v.median()), int(v.max())))) for k in TEXTS for v in [batch[k].argmax(1) + 1]},
               padding={f: round(padding_cost(batch, f), 4) for f in FORMS}, gflop=flops, equal=equal, losses=losses,
               largest_bf16_loss_difference=max(abs(losses[f][k] - v) for f in FORMS[1:] for k, v in losses['ours'].items()),
               goals={k: f'at least {v:g}' for k, v in GOALS.items()}, threads=a.threads, device='cpu', machine=platform.machine(),
               cpu=cpu_name(), versions=dict(torch=torch.__version__, python=platform.python_version()), seed=a.seed, date=datetime.date.today().isoformat())
    found = {}
    Path(a.out).parent.mkdir(parents=True, exist_ok=True)
    for r in range(a.rounds):
        for k, v in time_parts(cases | parts, 1, 0, lambda k, s: say(f'round {r + 1} of {a.rounds}: {k:24} {s.sum(0)[1]:8.2f} s')).items():
            found[k] = np.concatenate([found[k], v]) if k in found else v
        ratio = lambda f, clock: round(float(np.median(found[f].sum(1)[:, clock]) / np.median(found['ours'].sum(1)[:, clock])), 2)
        out |= dict(rounds=r + 1, forms={k: summary(found[k]) for k in cases}, parts={k: summary(found[k]) for k in parts},
                    ratios={k: ratio(k.split()[0], 0) for k in GOALS}, wall_ratios={k: ratio(k.split()[0], 1) for k in GOALS})
        out |= dict(met={k: out['ratios'][k] >= g for k, g in GOALS.items()}, seconds=round(time.perf_counter() - begin))
        with write_beside(a.out) as file: file.write_text(json.dumps(out, indent=1) + '\n')
    for k, v in (out['forms'] | out['parts']).items(): print(f"{k:24} {v['ms']:9.1f} ms of processor, {v['wall_ms']:9.1f} ms by the clock")
    for k, v in out['ratios'].items(): print(f"{k:24} {v:5.2f}  ({out['goals'][k]}: {'met' if out['met'][k] else 'MISSED'})")


if __name__ == '__main__': main()
