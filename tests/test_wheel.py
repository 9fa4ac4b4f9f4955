"""The wheel holds every module, the bundled files and nothing else, and it works outside the checkout."""
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CLEAN = shutil.ignore_patterns('__pycache__', '*.pyc', '.ipynb_checkpoints')


@pytest.fixture(scope='module')
def wheel(tmp_path_factory) -> Path:
    "Built from a copy, so that no build folder appears in the checkout"
    to = tmp_path_factory.mktemp('wheel')
    shutil.copytree(ROOT/'geoalignclip_nb', to/'src/geoalignclip_nb', ignore=CLEAN)
    shutil.copytree(ROOT/'nbs/assets', to/'src/nbs/assets', ignore=CLEAN)
    for name in ('settings.ini', 'setup.py', 'pyproject.toml', 'README.md', 'LICENSE'): shutil.copy(ROOT/name, to/'src'/name)
    # A stray file of another run must not travel.
    (to/'src/nbs/assets/__pycache__').mkdir(); (to/'src/nbs/assets/__pycache__/x.pyc').write_bytes(b'')
    done = subprocess.run([sys.executable, '-m', 'build', '--wheel', '--no-isolation', '--outdir', str(to/'dist'), str(to/'src')],
                          capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return next((to/'dist').glob('*.whl'))


def test_contents(wheel):
    inside = set(zipfile.ZipFile(wheel).namelist())
    modules = {p.relative_to(ROOT).as_posix() for p in (ROOT/'geoalignclip_nb').rglob('*.py')}
    assets = {'geoalignclip_nb/assets/' + p.relative_to(ROOT/'nbs/assets').as_posix() for p in (ROOT/'nbs/assets').rglob('*')
              if p.is_file() and 'vit-tiny' not in p.parts and '__pycache__' not in p.parts and '.ipynb_checkpoints' not in p.parts and '.tmp' not in p.name}
    package = {n for n in inside if '.dist-info/' not in n}
    assert package == modules | assets
    assert any(n.endswith('/licenses/LICENSE') or n.endswith('.dist-info/LICENSE') for n in inside)


def test_size(wheel): assert wheel.stat().st_size <= 64_000_000, 'weights take 58 MB; what else grew?'


def test_entry_points(wheel):
    z = zipfile.ZipFile(wheel)
    text = z.read(next(n for n in z.namelist() if n.endswith('entry_points.txt'))).decode()
    assert 'geoalign = geoalignclip_nb.cli:main' in text and 'geoalignclip_nb._modidx:d' in text


def test_requirements(wheel):
    z = zipfile.ZipFile(wheel)
    meta = z.read(next(n for n in z.namelist() if n.endswith('METADATA'))).decode()
    need = [s.split(':', 1)[1].strip() for s in meta.splitlines() if s.startswith('Requires-Dist:')]
    assert any(n.startswith('torch>=') for n in need) and any(n.startswith('deepspeed') and 'linux' in n for n in need)
    assert any(n.startswith('nbdev==2.4.14') and 'dev' in n for n in need)
    assert re.search(r'^License(-Expression)?: Apache-2.0$', meta, re.M)


def test_imports_outside_the_checkout(wheel, tmp_path):
    "Every module is imported from the wheel, in a folder of its own, and never from the checkout"
    target = tmp_path/'site'
    zipfile.ZipFile(wheel).extractall(target)
    code = '''
import importlib, pathlib, pkgutil, sys
import geoalignclip_nb
here = pathlib.Path(sys.argv[1]).resolve()
names = ['geoalignclip_nb'] + [m.name for m in pkgutil.walk_packages(geoalignclip_nb.__path__, 'geoalignclip_nb.')]
for n in names:
    f = pathlib.Path(importlib.import_module(n).__file__).resolve()
    assert here in f.parents, (n, f)
from geoalignclip_nb.core import asset, assets_dir
assert here in assets_dir().resolve().parents
print(len(names))
'''
    env = {**os.environ, 'PYTHONPATH': str(target)}
    done = subprocess.run([sys.executable, '-c', code, str(target)], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= len(list((ROOT/'geoalignclip_nb').rglob('[a-z]*.py')))
