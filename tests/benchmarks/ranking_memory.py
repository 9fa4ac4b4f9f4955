"""Peak memory of ranking with and without the whole matrix of scores, each in a process of its own.

    python tests/benchmarks/ranking_memory.py --full --out nbs/assets/results/ranking_memory.json

Both forms rank a small set first and must agree. Then the block form ranks the large set (100,000 pictures and 500,000 sentences with --full), whose matrix would not fit.
The peak is the high-water mark of resident memory minus what is resident before ranking begins (vectors and libraries). Without --out the numbers are only printed.
"""
import argparse
import datetime
import json
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


def vectors(n: int, m: int, d: int, seed: int) -> tuple:
    "Pictures, their sentences and whose they are; four in ten sentences repeat another one word for word, as in RSICD"
    import torch
    g = torch.Generator().manual_seed(seed)
    image = torch.nn.functional.normalize(torch.randn(n, d, generator=g), dim=1)
    owner = torch.arange(m) % n
    text = torch.randn(m, d, generator=g).mul_(1.5 / d**.5).add_(image[owner])
    twins = torch.rand(m, generator=g) < .4
    text[twins] = text[torch.randint(m, (int(twins.sum()),), generator=g)]
    return image, torch.nn.functional.normalize(text, dim=1), owner


def with_the_matrix(image, text, owner) -> dict:
    "The plain form; distinct sentences are scored once, so that twins tie in it, too"
    import numpy as np
    from geoalignclip_nb.bench.metrics import distinct_rows, hits_at
    rows, number, _ = distinct_rows(text)
    scores = (image @ rows.T)[:, number].numpy()
    right = owner.numpy()[None] == np.arange(len(image))[:, None]
    hits = hits_at(scores, right), hits_at(scores.T, right.T)
    return {f'{way}_r{k}': 100 * float(h) for way, both in zip(('i2t', 't2i'), hits) for k, h in zip((1, 5, 10), both.mean(0))}


def measure(form: str, n: int, m: int, a) -> dict:
    "One ranking; printed as JSON by the child process"
    import torch
    from geoalignclip_nb.bench.metrics import retrieval_metrics
    torch.set_num_threads(a.threads)
    rank = with_the_matrix if form == 'matrix' else lambda *x: retrieval_metrics(*x, size=(a.rows, a.columns))
    rank(*vectors(64, 128, a.d, 1))  # libraries load what they load on first use
    data = vectors(n, m, a.d, a.seed)
    before, start = resident(), time.perf_counter()
    found = rank(*data)
    seconds = time.perf_counter() - start
    found = {k: round(v, 6) for k, v in found.items() if k != 'mean_recall'}
    return dict(n=n, m=m, matrix_bytes=4 * n * m, peak_bytes=max(0, resident(peak=True) - before), seconds=round(seconds, 2), recalls=found)


def main(argv=None):
    p = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    p.add_argument('--n', type=int, default=10_000, help='pictures')
    p.add_argument('--m', type=int, default=50_000, help='sentences')
    p.add_argument('--full', action='store_true', help='100,000 pictures and 500,000 sentences')
    p.add_argument('--small', type=int, default=2000, help='pictures of the set that both forms rank, with five sentences each')
    p.add_argument('--d', type=int, default=64)
    p.add_argument('--rows', type=int, default=512)
    p.add_argument('--columns', type=int, default=4096)
    p.add_argument('--seed', type=int, default=0)
    p.add_argument('--threads', type=int, default=2)
    p.add_argument('--out', help='JSON file')
    p.add_argument('--form', choices=('matrix', 'blocks'), help=argparse.SUPPRESS)
    a = p.parse_args(argv)
    if a.full: a.n, a.m = 100_000, 500_000
    if a.form: return print(json.dumps(measure(a.form, a.n, a.m, a)))

    import torch
    keep = [f'--{k}={getattr(a, k)}' for k in ('d', 'rows', 'columns', 'seed', 'threads')]

    def child(form, n, m):
        run = subprocess.run([sys.executable, __file__, *keep, f'--n={n}', f'--m={m}', '--form', form], capture_output=True, text=True)
        if run.returncode: sys.exit(f'The {form} form failed: {(run.stderr.strip().splitlines() or ["killed, probably for memory"])[-1]}')
        return json.loads(run.stdout.strip().splitlines()[-1])

    matrix, blocks = (child(form, a.small, 5 * a.small) for form in ('matrix', 'blocks'))
    worst = max(abs(matrix['recalls'][k] - v) for k, v in blocks['recalls'].items())
    if worst > 1e-5: sys.exit(f'The two forms differ by {worst} percent on {a.small} pictures.')
    large = child('blocks', a.n, a.m)
    result = dict(
        task='ranking_memory', command='python tests/benchmarks/ranking_memory.py ' + ' '.join([f'--n={a.n}', f'--m={a.m}', f'--small={a.small}', *keep]), n=a.n, m=a.m, d=a.d, rows=a.rows, columns=a.columns,
        dtype='float32', seed=a.seed, threads=a.threads, device='cpu', machine=platform.machine(), matrix_bytes=large['matrix_bytes'], large=large,
        small=dict(matrix=matrix, blocks=blocks, largest_difference=worst, ratio=round(blocks['peak_bytes'] / matrix['peak_bytes'], 4)),
        ratio=round(large['peak_bytes'] / large['matrix_bytes'], 6), date=str(datetime.date.today()), versions=dict(python=platform.python_version(), torch=torch.__version__))
    text = json.dumps(result, indent=1)
    if a.out: Path(a.out).write_text(text + '\n')
    print(text)


if __name__ == '__main__': main()
