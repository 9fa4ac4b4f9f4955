"""Three training steps by two processes under DeepSpeed ZeRO and by one process: how far apart are losses and weights?

    python tests/benchmarks/zero_equals_one.py --out nbs/assets/results/zero_equals_one.json

Two CPU processes over gloo, eight procedural scenes, the architecture geoalign-debug. Without --out the numbers are only printed.
"""
import argparse
import json
import platform
import sys
import tempfile
from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(TESTS))


def both(out):
    "What each process does: the cases of the tests, and DeepSpeed's own bf16 mode"
    import torch.distributed as dist
    import zero_worker
    zero_worker.equalities(f'{out}.cases')
    stock = zero_worker.stock_bf16()
    if dist.get_rank() == 0: Path(out).write_text(json.dumps(dict(cases=json.loads(Path(f'{out}.cases').read_text()), stock_bf16=stock)))


def main(argv=None):
    import deepspeed
    import open_clip
    import torch
    import zero_worker
    from geoalignclip_nb.core import cpu_name
    from geoalignclip_nb.train.launch import launch
    p = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    p.add_argument('--out', help='JSON file')
    a = p.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)/'found.json'
        launch('zero_equals_one:both', path, processes=2, timeout=3600, env=dict(PYTHONPATH=str(Path(__file__).resolve().parent)))
        found = json.loads(path.read_text())
    result = dict(
        task='zero_equals_one', n=zero_worker.PICTURES, steps=zero_worker.STEPS, lr=zero_worker.LR, processes=2, seed=0, scenes_seed=3, model='geoalign-debug', device='cpu',
        machine=platform.machine(), backend='gloo', **found,
        cpu=cpu_name(), versions=dict(python=platform.python_version(), torch=torch.__version__, deepspeed=deepspeed.__version__, open_clip=open_clip.__version__))
    text = json.dumps(result, indent=1)
    if a.out: Path(a.out).write_text(text + '\n')
    print(text)


if __name__ == '__main__': main()
