"""Commands in README, CONTRIBUTING and the pages are real: they parse, and what they name exists."""
import argparse
import json
import re
import shlex

import pytest
from conftest import ROOT
from pages import NAMES, source, text_cells

from geoalignclip_nb.bench.runs import find_set, parse_benchmark, read_options
from geoalignclip_nb.bench.tables import check_rows, paper_table
from geoalignclip_nb.cli import make_parser
from geoalignclip_nb.core import GeoAlignError
from geoalignclip_nb.lvlm import LVLMS
from geoalignclip_nb.train.presets import load_preset, parse_overrides
from geoalignclip_nb.zoo import list_models

FENCE = re.compile(r'^```(?:bash|sh)?\n(.*?)^```', re.MULTILINE | re.DOTALL)
SPAN = re.compile(r'(?<!`)`(geoalign [^`\n]+)`(?!`)')
OWN_FOLDERS = 'runs/', 'my_', './'  # models and data that a reader makes


def text_of(name: str) -> str:
    "The prose of a document or of a notebook"
    if name.endswith('.md'): return (ROOT/name).read_text(encoding='utf-8')
    return '\n\n'.join(source(cell) for cell in text_cells(name))


def fenced_commands(text: str) -> list[str]:
    "Every command line that begins with `geoalign` in the code blocks of a text, continued lines joined"
    lines = []
    for block in FENCE.findall(text):
        lines += block.replace('\\\n', '').splitlines()
    return [line for line in lines if line.startswith('geoalign ')]


def inline_commands(text: str) -> list[str]:
    "Command lines in single backquotes that are whole: none that ends in an ellipsis or names a placeholder"
    found = SPAN.findall(FENCE.sub('', text))
    return [c for c in found if '…' not in c and not re.search(r'\b[A-Z]{3,}\b|key=value', c)]


DOCUMENTS = ['README.md', 'CONTRIBUTING.md', *NAMES]
COMMANDS = [(name, c) for name in DOCUMENTS for c in fenced_commands(text_of(name))]
INLINE = [(name, c) for name in DOCUMENTS for c in inline_commands(text_of(name))]


def parse(command: str) -> argparse.Namespace:
    return make_parser().parse_args(shlex.split(command, comments=True)[1:])


def is_placeholder(command: str) -> bool:
    "A verb alone, as prose names it"
    return len(command.split()) == 2


def faults_of(args: argparse.Namespace) -> list[str]:
    "What a parsed command names that does not exist"
    faults = []
    checks = (check_models, check_benchmarks, check_settings, check_rows_of)
    for check in checks:
        try: check(args)
        except (GeoAlignError, AssertionError) as e: faults.append(f'{check.__name__}: {e}')
    return faults


def check_models(args):
    "Models are names of the zoo, language models, or folders of the reader"
    asked = [getattr(args, 'model', None), *(getattr(args, 'models', None) or '').split(';')]
    known = {*list_models(), *LVLMS}
    for name in filter(None, (str(a or '').strip().partition('=')[0] for a in asked)):
        plain = name.removesuffix('.random')  # the same architecture with random weights
        assert plain in known or name.startswith(OWN_FOLDERS), f'model {name} is unknown'


def check_benchmarks(args):
    "Tasks, data sets, splits and options of readers"
    if args.verb == 'bench':
        data = find_set(args.task, args.dataset)
        read_options(data, parse_overrides(args.option))
        assert args.split in (None, 'all', *data.splits) or not data.splits, f'split {args.split} is unknown'
    if args.verb in ('sweep', 'matrix'):
        for text in args.benchmarks.split(';'): parse_benchmark(text)


def check_settings(args):
    "Presets and their settings"
    if args.verb not in ('train', 'ablate') or str(args.preset).endswith('.toml'): return
    words = parse_overrides(args.settings)
    launch = {'processes', 'zero', 'accumulation', 'gather', 'checkpointing', 'fused'}
    load_preset(args.preset, {k: v for k, v in words.items() if k not in launch})


def check_rows_of(args):
    "Rows of the paper that `tables` is told"
    if args.verb == 'tables': check_rows(dict(r.partition('=')[::2] for r in args.row))


def test_there_are_commands():
    assert len([c for name, c in COMMANDS if name == 'README.md']) > 8
    assert len([c for name, c in COMMANDS if 'reproduce_' in name]) > 15


@pytest.mark.parametrize('name, command', COMMANDS)
def test_a_command_in_a_code_block(name, command):
    faults = faults_of(parse(command))
    assert not faults, f'{name}: {command}\n' + '\n'.join(faults)


@pytest.mark.parametrize('name, command', INLINE)
def test_a_command_in_prose(name, command, capsys):
    if is_placeholder(command):
        verbs = make_parser()._subparsers._group_actions[0].choices
        word = command.split()[1]
        assert word in verbs or word.startswith('-'), f'{name}: {command} is not a verb'
        return
    try: args = parse(command)
    except SystemExit:  # prose may leave out what the sentence is not about
        assert re.search('arguments are required|expected one argument', capsys.readouterr().err), f'{name}: {command}'
        return
    faults = faults_of(args)
    assert not faults, f'{name}: {command}\n' + '\n'.join(faults)


@pytest.mark.parametrize('command, fault', [
    ('geoalign bench retrieval --dataset rsicdd', 'rsicdd'),
    ('geoalign bench retrieval --dataset rsicd --model ViT-B-16.nobody', 'nobody'),
    ('geoalign bench retrieval --dataset rsicd --split minival', 'minival'),
    ('geoalign bench fine_grained --dataset rrsis-hr --option colour=red', 'colour'),
    ('geoalign sweep --models geoalign-tiny --benchmarks retrieval:vhr10 --out r', 'vhr10'),
    ('geoalign train paper-b17', 'paper-b17'),
    ('geoalign train paper-b16 stage1.epoch=2', 'epoch'),
    ('geoalign tables r --row "x=Ours ViT-H/14"', 'ViT-H/14'),
])
def test_what_does_not_exist_is_found(command, fault):
    assert fault in ' '.join(faults_of(parse(command)))


def test_continued_lines_are_joined():
    text = '```bash\ngeoalign sweep --out r \\\n  --models "a;\\\nb"\n```\n'
    assert shlex.split(fenced_commands(text)[0]) == ['geoalign', 'sweep', '--out', 'r', '--models', 'a;b']


@pytest.mark.parametrize('number', range(1, 8))
def test_every_table_has_a_page(number):
    "The README names a page for every table, and the page prints the table's numbers from the library"
    section = text_of('README.md').split('## Reproduce the paper')[1].split('\n## ')[0]
    row = next(line for line in section.splitlines() if re.match(rf'\| [^|]*Tables? (\d and )?{number}\b', line))
    page = re.search(r'nbs/(tutorials/reproduce_\w+\.ipynb)', row)[1]
    cells = json.loads((ROOT/'nbs'/page).read_text(encoding='utf-8'))['cells']
    shown = [''.join(o.get('data', {}).get('text/markdown', '')) for c in cells for o in c.get('outputs', [])]
    printed = [str(cell) for row in paper_table(number).values() for cell in row.values()]
    missing = [p for p in printed if not any(f' {p} ' in text for text in shown)]
    assert not missing, f'{page} does not show {missing[:5]} of Table {number}'
    commands = [''.join(c['source']) for c in cells if c['cell_type'] == 'code']
    assert any(f'paper_markdown({number}' in c for c in commands)
