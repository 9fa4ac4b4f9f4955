"""Peak memory of the plain and the chunked contrastive loss, forwards and backwards, each in a process of its own.

    python tests/benchmarks/chunked_contrastive.py --out nbs/assets/results/chunked_contrastive.json

The peak is the high-water mark of resident memory minus what is resident before the loss begins (inputs and libraries).
Without --out the numbers are only printed.
"""
import argparse
import json
import platform
import re
import subprocess
import sys
from pathlib import Path

FORMS = 'plain', 'chunked'


def resident(peak=False) -> int:
    "Bytes of resident memory of this process, now or at its highest (Linux)"
    status = Path('/proc/self/status').read_text()
    return int(re.search(r'VmHWM:\s+(\d+)' if peak else r'VmRSS:\s+(\d+)', status).group(1)) * 1024


def measure(form: str, a) -> dict:
    "One loss with gradients; printed as JSON by the child process"
    import torch
    from geoalignclip_nb.losses.contrastive import chunked_info_nce, info_nce
    torch.set_num_threads(a.threads)
    torch.manual_seed(a.seed)
    loss_of = info_nce if form == 'plain' else (lambda *x: chunked_info_nce(*x, chunk=a.chunk))

    def step(n):
        image, text = (torch.randn(n, a.d, requires_grad=True) for _ in 'ab')
        log_scale, ids = torch.tensor(2.66, requires_grad=True), torch.randint(n // 2, (n,))
        before = resident()
        loss = loss_of(image, text, log_scale, ids if a.ids else None)
        loss.backward()
        return before, dict(loss=loss.item(), grad=image.grad.norm().item(), scale_grad=log_scale.grad.item())

    step(64)  # libraries load what they load on first use
    before, found = step(a.n)
    return dict(found, peak_bytes=resident(peak=True) - before)


def main(argv=None):
    p = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    p.add_argument('--n', type=int, default=16384)
    p.add_argument('--d', type=int, default=512)
    p.add_argument('--chunk', type=int, default=1024)
    p.add_argument('--seed', type=int, default=0)
    p.add_argument('--threads', type=int, default=1)
    p.add_argument('--ids', action='store_true', help='mark identical texts (about two of each)')
    p.add_argument('--out', help='JSON file')
    p.add_argument('--form', choices=FORMS, help=argparse.SUPPRESS)
    a = p.parse_args(argv)
    if a.form: return print(json.dumps(measure(a.form, a)))

    import torch
    flags = [f'--{k}={getattr(a, k)}' for k in ('n', 'd', 'chunk', 'seed', 'threads')] + ['--ids'] * a.ids
    forms = {}
    for f in FORMS:
        run = subprocess.run([sys.executable, __file__, *flags, '--form', f], capture_output=True, text=True)
        if run.returncode: sys.exit(f'The {f} form failed: {run.stderr.strip().splitlines()[-1]}')
        forms[f] = json.loads(run.stdout.strip().splitlines()[-1])
    result = dict(
        task='chunked_contrastive', command='python tests/benchmarks/chunked_contrastive.py ' + ' '.join(flags), n=a.n, d=a.d, chunk=a.chunk,
        ids=a.ids, dtype='float32', seed=a.seed, threads=a.threads, device='cpu', machine=platform.machine(), matrix_bytes=4 * a.n ** 2, **forms,
        ratio=round(forms['chunked']['peak_bytes'] / forms['plain']['peak_bytes'], 4),
        versions=dict(python=platform.python_version(), torch=torch.__version__))
    text = json.dumps(result, indent=1)
    if a.out: Path(a.out).write_text(text + '\n')
    print(text)


if __name__ == '__main__': main()
