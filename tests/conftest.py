"""Shared by all tests: quiet libraries, a sensible number of threads, and the door to real pictures."""
import os
from pathlib import Path

os.environ.setdefault('MPLBACKEND', 'Agg')
os.environ.setdefault('GRADIO_ANALYTICS_ENABLED', 'False')
os.environ.setdefault('TOKENIZERS_PARALLELISM', 'false')

import pytest
import torch

torch.set_num_threads(min(4, os.cpu_count() or 1))
ROOT = Path(__file__).resolve().parent.parent
SECONDS = {}  # page -> seconds, filled by test_notebooks


@pytest.fixture(scope='session')
def root() -> Path:
    "The checkout"
    return ROOT


@pytest.fixture(scope='session')
def real_data() -> Path:
    """The folder with real pictures: `GEOALIGN_TEST_DATA`.

    On a developer's machine a missing folder skips the test. Where CI=true it fails, so that nothing is left out in
    silence; `GEOALIGN_TEST_DATA=none` says that there are none on purpose (public runners must not hold the pictures).
    """
    value = os.environ.get('GEOALIGN_TEST_DATA', '')
    if value == 'none': pytest.skip('GEOALIGN_TEST_DATA=none: no real pictures on this machine, on purpose')
    if value and Path(value).is_dir(): return Path(value)
    reason = f'GEOALIGN_TEST_DATA={value!r} is not a folder with real pictures'
    if os.environ.get('CI', '').lower() == 'true': pytest.fail(reason + '; CI needs them, or GEOALIGN_TEST_DATA=none')
    pytest.skip(reason)


def pytest_terminal_summary(terminalreporter):
    if not SECONDS: return
    terminalreporter.section('seconds per page')
    for name, s in sorted(SECONDS.items()): terminalreporter.write_line(f'{s:6.1f}  {name}')
    terminalreporter.write_line(f'{sum(SECONDS.values()):6.1f}  all {len(SECONDS)} pages')
