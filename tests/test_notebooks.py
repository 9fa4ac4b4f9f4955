"""Every page runs from top to bottom, and what it saves is small, private and real."""
import os
import re
import sys
import time
from configparser import ConfigParser

import nbformat
import pytest
from nbclient import NotebookClient

from conftest import ROOT, SECONDS
from pages import NAMES, NBS, code_cells, directives, read

# A page is written to run in 20 seconds with one thread; the limit leaves room for a busy machine.
PAGE_SECONDS, CELL_SECONDS = 90, 300
cfg = ConfigParser(delimiters=['=']); cfg.read(ROOT/'settings.ini', encoding='utf-8')
FLAGS = set(cfg['DEFAULT']['tst_flags'].split())
PRIVATE = re.compile(r'/home/|/root/|/wor[k]/|/tmp/|/Users/|/private/|/opt/|[A-Z]:\\\\?Users')


def skipped(cell) -> bool:
    "What nbdev_test skips: `eval: false`, cells that need a machine, and calls of nbdev_export"
    d = directives(cell)
    return bool({w for x in d for w in x.split()[:1]} & FLAGS) or 'eval: false' in {x.lower() for x in d} or 'nbdev_export(' in ''.join(cell['source'])


@pytest.mark.parametrize('name', NAMES)
def test_runs(name, monkeypatch, record_property):
    monkeypatch.setenv('IN_TEST', '1')
    # The kernel of this environment, not one that a person installed for another.
    monkeypatch.setenv('JUPYTER_PATH', os.path.join(sys.prefix, 'share', 'jupyter'))
    monkeypatch.setenv('OMP_NUM_THREADS', os.environ.get('OMP_NUM_THREADS', '1'))
    monkeypatch.delenv('MPLBACKEND', raising=False)  # the kernel draws inline, as JupyterLab does
    nb = nbformat.read(NBS/name, as_version=4)
    nb.cells = [c for c in nb.cells if c.cell_type != 'code' or not skipped(c)]
    start = time.time()
    NotebookClient(nb, timeout=CELL_SECONDS, kernel_name='python3', resources={'metadata': {'path': str((NBS/name).parent)}}).execute()
    SECONDS[name] = time.time() - start
    record_property('seconds', round(SECONDS[name], 1))
    assert SECONDS[name] < PAGE_SECONDS, f'{name} took {SECONDS[name]:.0f} s; a page runs in 20 s, longer work is a command with a result file'


def texts(output):
    "All text of one output, pictures left out (base64 may hold any letters)"
    yield ''.join(output.get('text', ''))
    for mime, data in output.get('data', {}).items():
        if not mime.startswith('image/') or mime == 'image/svg+xml': yield data if isinstance(data, str) else ''.join(map(str, data))


@pytest.mark.parametrize('name', NAMES)
def test_saved_outputs(name):
    nb, faults = read(name), []
    size = (NBS/name).stat().st_size
    if size > 500_000: faults.append(f'{size:,} bytes, more than 500,000')
    if 'widgets' in nb['metadata']: faults.append('widgets in the metadata')
    if (nb['nbformat'], nb['nbformat_minor']) < (4, 5): faults.append('older than format 4.5')
    ids = [c.get('id') for c in nb['cells']]
    if None in ids or len(set(ids)) != len(ids): faults.append('cells without an id, or with the same id')
    outputs = [(c, o) for c in code_cells(name) for o in c['outputs']]
    if not outputs: faults.append('no saved output')
    for c, o in outputs:
        where = f'cell {c.get("id")}'
        if o['output_type'] == 'error': faults.append(f'{where}: an error is saved')
        if any('jupyter.widget' in m for m in o.get('data', {})): faults.append(f'{where}: a widget is saved')
        if 'image/png' in o.get('data', {}): faults.append(f'{where}: a picture is saved as PNG; use JPEG')
        if o.get('name') == 'stderr': faults.append(f'{where}: something on standard error is saved')
        found = next((m for t in texts(o) if (m := PRIVATE.search(t))), None)
        if found: faults.append(f'{where}: shows the path {found.group()}…')
        if c.get('execution_count') is not None: faults.append(f'{where}: not cleaned; run nbdev_clean')
    assert not faults, '\n'.join([name] + faults)


def test_no_path_of_a_machine_is_committed():
    "Sources, documents and settings hold no absolute path of somebody's machine"
    mine = re.compile(r'/(home|Users)/(?!me/)[a-z]\w*/|/root/|/opt/venv|' + '/wo' + r'rk/|' + r'/var/folders')
    files = [p for d in ('nbs', 'geoalignclip_nb', 'demo', 'tests', '.github', '.ci') for p in (ROOT/d).rglob('*') if p.suffix in ('.py', '.ipynb', '.toml', '.json', '.md', '.yml', '')]
    files += [ROOT/n for n in ('README.md', 'CONTRIBUTING.md', 'settings.ini', 'setup.py', 'pyproject.toml')]
    found = []
    for p in files:
        if not p.is_file() or p.name == 'test_notebooks.py' or '__pycache__' in p.parts or p.name.endswith('-checkpoint.ipynb'): continue
        if p.suffix == '.ipynb': text = '\n'.join(''.join(c['source']) for c in read(p.relative_to(NBS).as_posix())['cells'])
        else: text = p.read_text(encoding='utf-8', errors='replace')
        found += [f'{p.relative_to(ROOT)}: {m.group()}' for m in [mine.search(text)] if m]
    assert not found, '\n'.join(found)
