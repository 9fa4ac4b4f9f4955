"""The README keeps its promises: commands as in the contract, links that lead somewhere, every page on the map."""
import re
import subprocess
from configparser import ConfigParser

import pytest

from conftest import ROOT
from pages import NAMES, source, text_cells

README = (ROOT/'README.md').read_text(encoding='utf-8')
CONTRACT = {
    'demo': 'pip install -e . && python demo/app.py',
    'tests': "pip install -e '.[dev]' && pytest",
    'nbdev': "pip install 'nbdev==2.4.14' 'execnb<0.2' 'fastcore<2' 'ghapi<2'\nnbdev_export\npip install -e .",
}


@pytest.mark.parametrize('block', CONTRACT)
def test_commands(block):
    "What .ci/run reads out of the README is what was promised"
    done = subprocess.run(['bash', str(ROOT/'.ci/block'), block, str(ROOT/'README.md')], capture_output=True, text=True)
    assert done.stdout.strip() == CONTRACT[block], done.stderr


def test_an_unknown_block_fails():
    assert subprocess.run(['bash', str(ROOT/'.ci/block'), 'none', str(ROOT/'README.md')], capture_output=True).returncode != 0


def test_script_is_sound(): subprocess.run(['bash', '-n', str(ROOT/'.ci/run')], check=True)


@pytest.mark.parametrize('name', ['README.md', 'CONTRIBUTING.md'])
def test_links(name):
    links = re.findall(r'\]\((?!https?:|#)([^)\s]+)\)', (ROOT/name).read_text(encoding='utf-8'))
    missing = sorted(x for x in set(links) if not (ROOT/x.split('#')[0]).exists())
    assert not missing, missing


def test_every_page_is_on_both_maps():
    index = '\n'.join(source(c) for c in text_cells('index.ipynb'))
    for where, text in (('README.md', README), ('index.ipynb', index)):
        missing = [n for n in NAMES if n != 'index.ipynb' and f'{n})' not in text]
        assert not missing, f'{where} does not name {missing}'


def test_links_between_pages():
    for name in NAMES:
        here = (ROOT/'nbs'/name).parent
        links = re.findall(r'\]\((?!https?:|#)([^)\s]+)\)', '\n'.join(source(c) for c in text_cells(name)))
        missing = [x for x in links if not x.startswith('attachment:') and not (here/x.split('#')[0]).exists()]
        assert not missing, f'{name}: {missing}'


def test_versions_agree():
    cfg = ConfigParser(delimiters=['=']); cfg.read(ROOT/'settings.ini', encoding='utf-8'); cfg = cfg['DEFAULT']
    assert f'version: {cfg["version"]}\n' in (ROOT/'CITATION.cff').read_text()
    assert f'"{cfg["version"]}"' in (ROOT/'geoalignclip_nb/__init__.py').read_text()
    for pin in ('nbdev==2.4.14', 'execnb<0.2', 'fastcore<2', 'ghapi<2'): assert pin in cfg['dev_requirements'] and pin in CONTRACT['nbdev']
    assert 'fastcore<2' in cfg['requirements']
    yml = (ROOT/'nbs/nbdev.yml').read_text()
    assert cfg['title'] in yml and cfg['description'] in yml
