"""The committed modules are what the notebooks write, and the notebooks are clean."""
import filecmp
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope='module')
def copy(tmp_path_factory) -> Path:
    "Notebooks and settings in a folder of their own, without the package: cleaned, then exported"
    to = tmp_path_factory.mktemp('export')/'checkout'
    shutil.copytree(ROOT/'nbs', to/'nbs', ignore=shutil.ignore_patterns('__pycache__', '.ipynb_checkpoints', '_proc', '*.safetensors', '*.pt'))
    for name in ('settings.ini', 'setup.py', 'pyproject.toml', 'README.md'): shutil.copy(ROOT/name, to/name)
    env = {k: v for k, v in os.environ.items() if k != 'IN_TEST'}  # under IN_TEST nbdev does nothing
    for verb in ('nbdev_clean', 'nbdev_export'):
        script = Path(sys.executable).parent/verb
        done = subprocess.run([str(script)], cwd=to, env=env, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
    return to


def differences(a: Path, b: Path, pattern: str) -> list:
    names = {p.relative_to(d).as_posix() for d in (a, b) for p in d.rglob(pattern) if '.ipynb_checkpoints' not in p.parts}
    return sorted(n for n in names if not ((a/n).exists() and (b/n).exists() and filecmp.cmp(a/n, b/n, shallow=False)))


def test_export_changes_nothing(copy):
    found = differences(ROOT/'geoalignclip_nb', copy/'geoalignclip_nb', '*.py')
    assert not found, f'not what the notebooks write: {found}; run nbdev_export'


def test_clean_changes_nothing(copy):
    found = differences(ROOT/'nbs', copy/'nbs', '*.ipynb')
    assert not found, f'not clean: {found}; run nbdev_clean'
