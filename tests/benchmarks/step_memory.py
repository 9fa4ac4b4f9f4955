"""Peak memory of a Stage II step against batch size, with and without gradient checkpointing, each point in a process of its own.

    python tests/benchmarks/step_memory.py                      # ViT-B/16: about four minutes on 2 idle cores, and as much memory as the points need
    python tests/benchmarks/step_memory.py --model vit-tiny --size 64 --batches 1 2 --out /elsewhere/memory.json   # a trial

The peak is the high-water mark of resident memory (Linux) minus what is resident before the step begins: weights, batch and libraries. It holds the
gradients (`gradient_bytes`) and all that the backward pass needs. The forms are those of step_forms.py, here each as one graph. A point that does not fit into the
free memory is recorded as such. The result is written after every point to nbs/assets/results/step_memory.json, where page 43_step_cost reads it.
"""
import argparse
import ctypes
import datetime
import json
import os
import platform
import re
import subprocess
import sys
import time
from pathlib import Path


def resident(peak=False) -> int:
    "Bytes of resident memory of this process, now or at its highest (Linux)"
    status = Path('/proc/self/status').read_text()
    return int(re.search(r'VmHWM:\s+(\d+)' if peak else r'VmRSS:\s+(\d+)', status).group(1)) * 1024


def settle():
    "Give freed memory back, and start the high-water mark anew"
    try:
        ctypes.CDLL(None).malloc_trim(0)
        Path('/proc/self/clear_refs').write_text('5')
    except (AttributeError, OSError): pass


def measure(a) -> dict:
    "One step; printed as JSON by the child process"
    import torch
    from geoalignclip_nb.losses.objective import Objective
    from geoalignclip_nb.model import GeoAlignCLIP
    from geoalignclip_nb.train.zero import enable_checkpointing
    from step_forms import Baseline, limit_memory, our_step, records
    torch.set_num_threads(a.threads)
    limit_memory()
    objective, small = Objective(), GeoAlignCLIP.create('geoalign-debug').train()
    our_step(small, records(1, a.seed, 32, 32, small), objective)  # libraries load what they load on first use
    model = enable_checkpointing(GeoAlignCLIP.create(a.model, seed=a.seed).train(), a.checkpointing)
    batch = records(a.batch, a.seed, a.size, a.size, model)
    settle()
    before, start = resident(), time.process_time()
    try: parts = our_step(model, batch, objective) if a.form == 'ours' else Baseline(model, batch, a.form).whole(objective)
    except (RuntimeError, MemoryError) as e:
        if not re.search('alloc|memory', str(e).lower()): raise
        return dict(peak_bytes=None, why='did not fit into the free memory')
    return dict(peak_bytes=resident(peak=True) - before, before_bytes=before, gradient_bytes=4 * sum(p.numel() for p in model.parameters()), regions=len(batch['boxes']),
                loss=round(parts['total'], 4), seconds=round(time.process_time() - start, 2))


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--model', default='ViT-B-16-quickgelu', help='architecture, random weights')
    p.add_argument('--size', type=int, default=224, help='pixels of pictures and crops')
    p.add_argument('--batches', type=int, nargs='+', default=[1, 2, 4, 8], help='batch sizes of ours and of fgclip; literal: those up to 2')
    p.add_argument('--threads', type=int, default=os.cpu_count())
    p.add_argument('--seed', type=int, default=0)
    p.add_argument('--out', help='JSON file; default: nbs/assets/results/step_memory.json')
    p.add_argument('--form', help=argparse.SUPPRESS)
    p.add_argument('--batch', type=int, help=argparse.SUPPRESS)
    p.add_argument('--checkpointing', action='store_true', help=argparse.SUPPRESS)
    a = p.parse_args()
    if a.form: return print(json.dumps(measure(a)))

    import torch
    from geoalignclip_nb.core import assets_dir, cpu_name, write_beside
    target = Path(a.out or assets_dir()/'results'/'step_memory.json')
    target.parent.mkdir(parents=True, exist_ok=True)
    flags = [f'--{k}={getattr(a, k)}' for k in ('model', 'size', 'threads', 'seed')]
    points = [('ours', n, c) for c in (False, True) for n in a.batches] + [('fgclip', n, False) for n in a.batches] + [('literal', n, False) for n in a.batches if n <= 2]
    out = dict(task='step_memory', command='python tests/benchmarks/step_memory.py ' + ' '.join(flags), model=a.model, weights='random', precision='bf16 autocast', optimiser='left out',
               resolution=a.size, crop_size=a.size, threads=a.threads, device='cpu', machine=platform.machine(), cpu=cpu_name(), versions=dict(torch=torch.__version__, python=platform.python_version()),
               seed=a.seed, date=datetime.date.today().isoformat(), rows=[])
    for form, n, checkpointing in points:
        run = subprocess.run([sys.executable, __file__, *flags, f'--form={form}', f'--batch={n}'] + ['--checkpointing'] * checkpointing, capture_output=True, text=True)
        if run.returncode > 0: sys.exit(f'{form} at batch {n} failed: {run.stderr.strip().splitlines()[-1]}')
        found = json.loads(run.stdout.strip().splitlines()[-1]) if not run.returncode else dict(peak_bytes=None, why='was ended by the system')
        out['rows'].append(dict(form=form, batch=n, checkpointing=checkpointing, **found))
        print(f"{form:8} batch {n:3} {'checkpointing' if checkpointing else '':14}", f"{found['peak_bytes'] / 1e9:7.2f} GB" if found['peak_bytes'] else found['why'], flush=True)
        with write_beside(target) as file: file.write_text(json.dumps(out, indent=1) + '\n')


if __name__ == '__main__': main()
