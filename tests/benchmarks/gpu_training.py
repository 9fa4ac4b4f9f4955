"""What a GPU reaches in training: pictures per second and share of its measured bf16 matrix rate, Stage I and II, one process and ZeRO-2 with FusedAdam.

    python tests/benchmarks/gpu_training.py                     # ViT-B/16 and ViT-L/14-336 at batch 32: some minutes on one GPU, most of them compilation
    python tests/benchmarks/gpu_training.py --seconds 110       # what was not begun by then is left out and named in the result
    python tests/benchmarks/gpu_training.py --build-only        # only compile DeepSpeed's FusedAdam (about a minute, once per computer)
    python tests/benchmarks/gpu_training.py --models vit-tiny --size 64 --batch 2 --steps 2 --forms plain zero --out /elsewhere/gpu.json   # a trial without a GPU

Timed is the whole optimiser step of `train.engine.train_step` and `train.zero.zero_step`, as training calls them: forward, losses, backward, clipped
gradient, AdamW. Four forms: `plain`; `compiled` (blocks by `engine.compile_blocks`); `zero` (ZeRO-2, FusedAdam, blocks computed again in the backward pass:
the paper's §5.1); `zero-compiled` (the same with compiled blocks and nothing computed again). Batches are made beforehand and lie on the device already:
decoding is `loader_speed.py`. A few batches take turns, so that text lengths and numbers of regions vary. Stage II has 2-4 regions per picture with ten near
misses each and crops at the size of the pictures (see step_forms.py); Stage I has the same pictures, each with its text of several sentences for a caption.
The clock is the wall's, the device is waited for before and after each step; `step_ms` is the median. The first steps, compilation among them, do not count.

`share` is the products of the model, forward and backward, by `train.cost.step_flops` (without what checkpointing computes again and without most padding),
per second, over the rate of one 8192 x 8192 x 8192 product in bf16 on random data on the same device. Goal for Stage I: 50 %. Every measurement stands for
itself: where one fails, its error is kept, and the next begins. The result is written before and after each, where page 43_step_cost reads it.

FusedAdam is compiled by DeepSpeed when it is first used, with nvcc of the CUDA release that PyTorch was built with (13.0 needs 13.0: the check asks for both
numbers; DS_SKIP_CUDA_CHECK=1 turns it off) and ninja. Set CUDA_HOME to the folder above bin/nvcc; TORCH_CUDA_ARCH_LIST=9.0 names an H100 where the build
cannot see it; TORCH_EXTENSIONS_DIR is where the finished library is kept.
"""
import argparse
import datetime
import gc
import json
import platform
import re
import statistics
import sys
import time
import traceback
from functools import partial
from pathlib import Path

import torch

from geoalignclip_nb.core import assets_dir, cpu_name, default_device, write_beside
from geoalignclip_nb.losses.objective import Objective
from geoalignclip_nb.model import GeoAlignCLIP
from geoalignclip_nb.train.cost import TEXTS, distinct_lengths, step_flops
from geoalignclip_nb.train.engine import StepOptions, compile_blocks, make_optimizer, train_step
from geoalignclip_nb.train.presets import StageSettings
from geoalignclip_nb.train.zero import ZeroOptions, deepspeed_module, init_zero, zero_step
from step_forms import records

FORMS = 'plain', 'compiled', 'zero', 'zero-compiled'
ORDER = {1: FORMS, 2: ('plain', 'zero', 'compiled', 'zero-compiled')}  # what needs no compilation comes first
GOAL = .5
LR = 1e-5  # small: random weights and few pictures


def wait(device):
    if device == 'cuda': torch.cuda.synchronize()


def tidy(device):
    gc.collect()
    if device == 'cuda': torch.cuda.empty_cache()


def matrix_rate(device, n, repeats=20, rounds=5) -> float:
    "Operations per second of a bf16 product of n x n matrices of random numbers, the median of `rounds`"
    a, b = (torch.randn(n, n, device=device).bfloat16() for _ in 'ab')
    rates = []
    for r in range(rounds + 1):  # the first does not count
        wait(device)
        start = time.perf_counter()
        for _ in range(repeats): a @ b
        wait(device)
        rates.append(2 * n**3 * repeats / (time.perf_counter() - start))
    return statistics.median(rates[1:])


def batches(a, size) -> dict:  # stage -> list
    "A few different batches on the CPU"
    words = GeoAlignCLIP.create('geoalign-debug')  # tokenizer and means are the same for all
    made = [records(a.batch, a.seed + i, size, size, words) for i in range(a.batches)]
    return {1: [dict(images=b['images'], brief=b['detailed'], brief_id=b['detailed_id']) for b in made], 2: made}


def describe(made) -> dict:
    lengths = torch.cat([distinct_lengths(b) for b in made]).float()
    mean = lambda name: round(sum(len(b.get(name, ())) for b in made) / len(made), 1)
    return dict(texts=round(sum(len(b[k]) for b in made for k in TEXTS if k in b) / len(made), 1), distinct_texts=round(len(lengths) / len(made), 1),
                tokens=dict(median=int(lengths.median()), longest=int(lengths.max())), regions=mean('boxes'), crops=mean('crops'))


def stepper(form, model, a, stage, device, texts=True) -> tuple:  # (function of a batch that makes one step, optimiser, function that ends it)
    objective, settings = Objective(stage=stage), StageSettings(batch_size=a.batch, lr=LR)
    if 'compiled' in form: compile_blocks(model, ragged=stage == 2, texts=texts)
    if 'zero' not in form:
        optimizer = make_optimizer(model, settings)
        options = StepOptions(LR, precision='bf16')
        return partial(train_step, model, objective=objective, optimizer=optimizer, options=options), 'AdamW of PyTorch', lambda: None
    engine = init_zero(model, settings, ZeroOptions(checkpointing=form == 'zero', fused=device == 'cuda'), device=device)
    def step(batch): return zero_step(engine, [batch], objective, LR)
    return step, type(engine.basic_optimizer).__name__ + ' under ZeRO-2', engine.destroy


def measure(arch, size, stage, form, made, a, device, texts=True) -> dict:
    if device == 'cuda': torch.cuda.reset_peak_memory_stats()
    with torch.device(device): model = GeoAlignCLIP.create(arch, seed=a.seed)
    model.to(device).train()
    flops = [sum(step_flops(model.config['clip'], b).values()) for b in made]
    on_device = [{k: v.to(device) for k, v in b.items()} for b in made]
    begin = time.perf_counter()
    step, optimizer, end = stepper(form, model, a, stage, device, texts)
    first, seconds = [], []
    for i in range(a.warm + a.steps):
        wait(device)
        start = time.perf_counter()
        parts = step(on_device[i % len(made)])
        wait(device)
        (first if i < a.warm else seconds).append(time.perf_counter() - start)
        if i + 1 == a.warm: warm_seconds = time.perf_counter() - begin
    speed = statistics.median(flops[(a.warm + i) % len(made)] / s for i, s in enumerate(seconds))
    peak = torch.cuda.max_memory_allocated() if device == 'cuda' else None
    end()
    middle = statistics.median(seconds)
    return dict(optimizer=optimizer, step_ms=round(1e3 * middle, 2), fastest_ms=round(1e3 * min(seconds), 2), slowest_ms=round(1e3 * max(seconds), 2), images_per_s=round(a.batch / middle, 1),
                tflop_per_step=round(sum(flops) / len(flops) / 1e12, 4), tflops=round(speed / 1e12, 2), peak_gib=peak and round(peak / 2**30, 2), first_steps_s=[round(s, 2) for s in first],
                start_s=round(warm_seconds, 1), loss={k: round(v, 4) for k, v in parts.items()})


def attempt(work) -> dict:
    "What `work` gives, or why it failed"
    try: return work()
    except Exception as e:
        traceback.print_exc()  # all of it; the result keeps the first line, without anybody's folders
        return dict(error=re.sub(r'(?<![\w.])/\S+', '(a file)', f'{type(e).__name__}: {str(e).strip().splitlines()[0] if str(e).strip() else ""}')[:300])


def build(say):
    "Compile (or only load) FusedAdam"
    deepspeed_module()
    from deepspeed.ops.op_builder import FusedAdamBuilder
    start = time.perf_counter()
    FusedAdamBuilder().load()
    say(f'FusedAdam is there after {time.perf_counter() - start:.0f} s')


def arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--models', nargs='+', default=['ViT-B-16-quickgelu:224', 'ViT-L-14-336-quickgelu:336'], help='architecture:pixels, random weights')
    p.add_argument('--size', type=int, default=224, help='pixels where a model names none')
    p.add_argument('--batch', type=int, default=32)
    p.add_argument('--batches', type=int, default=3, help='different ones that take turns')
    p.add_argument('--steps', type=int, default=12)
    p.add_argument('--warm', type=int, default=4, help='steps before that do not count')
    p.add_argument('--stages', type=int, nargs='+', default=[1, 2])
    p.add_argument('--forms', nargs='+', default=FORMS, choices=FORMS)
    p.add_argument('--matrix', type=int, default=0, help='side of the product; 0: 8192 on a GPU, 512 elsewhere')
    p.add_argument('--seconds', type=float, default=1e9, help='no case begins after that')
    p.add_argument('--seed', type=int, default=0)
    p.add_argument('--device', default=default_device())
    p.add_argument('--build-only', action='store_true')
    p.add_argument('--out', default=assets_dir()/'results'/'gpu_training.json')
    return p.parse_args()


def about(a) -> dict:
    deepspeed = attempt(lambda: deepspeed_module().__version__)
    cuda = a.device == 'cuda'
    return dict(task='gpu_training', command='python tests/benchmarks/gpu_training.py ' + re.sub(r' ?--out[ =]\S+', '', ' '.join(sys.argv[1:])), weights='random',
                precision='bf16 autocast', n=a.steps, batch=a.batch, batches=a.batches, warm=a.warm, goals={'share, stage I': f'at least {GOAL:g}'}, device=a.device,
                machine=torch.cuda.get_device_name() if cuda else platform.machine(), memory_gib=round(torch.cuda.get_device_properties(0).total_memory / 2**30, 1) if cuda else None,
                cpu=cpu_name(), versions=dict(torch=torch.__version__, cuda=torch.version.cuda, deepspeed=deepspeed, python=platform.python_version()), seed=a.seed, date=datetime.date.today().isoformat())


def main():
    a, begin = arguments(), time.perf_counter()
    say = lambda *words: print(f'{time.perf_counter() - begin:6.1f} s ', *words, file=sys.stderr, flush=True)
    if a.build_only: return build(say)
    out, n = about(a), a.matrix or (8192 if a.device == 'cuda' else 512)
    def keep():
        out['seconds'] = round(time.perf_counter() - begin, 1)
        with write_beside(a.out) as file: file.write_text(json.dumps(out, indent=1) + '\n')
    Path(a.out).parent.mkdir(parents=True, exist_ok=True)
    rate = attempt(lambda: dict(side=n, tflops=round(matrix_rate(a.device, n) / 1e12, 3)))
    out |= dict(matrix=rate, cases=[], left_out=[])
    say('matrix products', rate)
    sized = [(m.partition(':')[0], int(m.partition(':')[2] or a.size)) for m in a.models]
    made = {}  # pixels -> batches of both stages
    for stage in a.stages:
        for arch, size, form in ((*m, f) for m in sized for f in ORDER[stage] if f in a.forms):
            case = dict(model=arch, size=size, stage=stage, form=form, compiled='compiled' in form, checkpointing=form == 'zero')
            if time.perf_counter() - begin > a.seconds: out['left_out'].append(case); keep(); continue
            out['running'] = case; keep()
            if size not in made: made[size] = attempt(lambda: batches(a, size))
            found = made[size]
            if stage in found:
                case |= describe(found[stage])
                found = attempt(lambda: measure(arch, size, stage, form, made[size][stage], a, a.device))
                if case['compiled'] and 'error' in found and 'OutOfMemory' not in found['error']:  # once more with the image tower alone compiled
                    say(arch, f'stage {stage}', form, found)
                    tidy(a.device)
                    torch._dynamo.reset()
                    found = attempt(lambda: measure(arch, size, stage, form, made[size][stage], a, a.device, texts=False)) | dict(texts_compiled=False, first_error=found['error'])
            case |= found
            if 'tflops' in case and 'tflops' in rate: case['share'] = round(case['tflops'] / rate['tflops'], 4)
            if 'share' in case and stage == 1: case['met'] = case['share'] >= GOAL
            out['cases'].append(case); out.pop('running'); keep()
            say(arch, f'stage {stage}', form, {k: case[k] for k in ('images_per_s', 'step_ms', 'share', 'peak_gib', 'start_s', 'error') if k in case})
            tidy(a.device)
    best = {m: max((c['share'] for c in out['cases'] if c['model'] == m and c['stage'] == 1 and 'share' in c), default=None) for m, _ in sized}
    out |= dict(met={m: s >= GOAL for m, s in best.items() if s is not None})
    keep()
    for m, s in best.items(): print(f'{m:28} Stage I: ' + ('not measured' if s is None else f"best share {s:.1%} (goal {GOAL:.0%}: {'met' if out['met'][m] else 'MISSED'})"))


if __name__ == '__main__': main()
