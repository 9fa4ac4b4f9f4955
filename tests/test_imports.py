"""Who may import whom. The arrows below are the plan of the house; `A: [B]` means that A may import B and what B may import."""
import ast
from fnmatch import fnmatch
from pathlib import Path

import pytest

PACKAGE = 'geoalignclip_nb'
ROOT = Path(__file__).resolve().parent.parent/PACKAGE
ARROWS = {
    'core': [],
    **{room: ['core'] for room in ('things', 'text', 'regions')},
    'io.*': ['core', 'io.*'],
    'viz': ['core', 'io.images'],
    'truth': ['core', 'things'],
    'scenes': ['core', 'things', 'truth'],
    'vision': ['core', 'io.images'],
    'losses.*': ['core', 'losses.*'],
    'data.loader': ['core', 'data.*', 'io.images', 'scenes'],  # procedural scenes are one of its sources
    'data.*': ['core', 'data.*', 'io.images'],
    'pyramid': ['core', 'vision'],
    'architectures': ['core', 'text', 'pyramid'],
    'model_folders': ['architectures', 'checkpoints'],
    'model': ['architectures', 'checkpoints', 'model_folders', 'text', 'vision', 'regions'],
    'ledger': ['architectures', 'model'],
    'phrases': ['core'],
    'localization': ['core', 'viz'],
    'result_files': ['core', 'io.rasters'],
    # `ground` asks `presence.judge` and loads a model by its name, both inside functions
    'ground': ['model', 'viz', 'io.images', 'phrases', 'localization', 'result_files', 'presence', 'zoo'],
    'presence': ['ground', 'vision'],
    'pointing': ['ground', 'viz'],
    'checkpoints': ['architectures', 'text'],
    'model_list': ['zoo', 'model_folders', 'lvlm', 'architectures'],
    'zoo': ['model', 'checkpoints', 'model_folders', 'lvlm'],
    'boxtext': ['core'],
    'choices': ['core'],
    'chat': ['core', 'io.images'],
    'lvlm': ['core', 'boxtext', 'chat', 'choices', 'io.images'],
    'bench.transfer_sets': ['data.*', 'scenes', 'things', 'io.images'],  # procedural scenes are one of its sets
    'bench.transfer': ['zoo', 'model', 'bench.*', 'bench.transfer_sets', 'ground', 'pointing', 'viz'],  # it measures heatmaps
    'bench.pointing_task': ['zoo', 'model', 'bench.*', 'bench.transfer', 'bench.transfer_sets', 'ground', 'pointing'],
    'bench.holdouts': ['zoo', 'bench.*', 'bench.transfer', 'bench.transfer_sets'],
    'bench.*': ['zoo', 'model', 'data.*', 'bench.*'],
    'detection.*': ['zoo', 'model', 'data.*', 'bench.metrics', 'detection.*'],
    'train.recipe': ['model', 'losses.*', 'data.*', 'scenes', 'train.*', 'bench.validation'],  # a run's default evaluation
    'train.*': ['model', 'losses.*', 'data.*', 'scenes', 'train.*'],
    'study.finetune_report': ['zoo', 'presence', 'scenes', 'train.*', 'bench.*', 'study.*', 'data.*', 'bench.pointing_task', 'bench.transfer'],
    'study.*': ['train.*', 'bench.*', 'detection.*', 'ground', 'pointing', 'study.*'],
    'ground_command': ['ground', 'io.images', 'phrases', 'result_files'],
    'cli': ['*'],
}
MODULES = sorted('.'.join(p.relative_to(ROOT).with_suffix('').parts) for p in ROOT.rglob('*.py') if not p.name.startswith('_'))


def room_of(module): return next((k for k in ARROWS if k != '*' and fnmatch(module, k)), None)


def reachable(room) -> set:
    "Patterns that a room may import: its arrows, and theirs"
    seen, todo = set(), list(ARROWS[room])
    while todo:
        to = todo.pop()
        if to not in seen: seen.add(to); todo += ARROWS.get(room_of(to) or to, [])
    return seen


def imports(module) -> set:
    "Rooms of the package that a module imports, at the top or inside a function"
    path = ROOT/(module.replace('.', '/') + '.py')
    here, found = [PACKAGE] + module.split('.')[:-1], set()
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        if isinstance(node, ast.Import): full = [a.name for a in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = '.'.join(here[:len(here) - node.level + 1] + ([node.module] if node.module else [])) if node.level else node.module
            # `from geoalignclip_nb import core` names the room on the right-hand side
            full = [f'{base}.{a.name}' for a in node.names] if (ROOT.parent/base.replace('.', '/')).is_dir() else [base]
        else: continue
        found |= {f.removeprefix(PACKAGE + '.') for f in full if f.startswith(PACKAGE + '.')}
    return found - {'assets'}


def test_there_are_rooms(): assert 'core' in MODULES


@pytest.mark.parametrize('module', MODULES)
def test_arrows(module):
    room = room_of(module)
    assert room, f'{module} is not on the map; add it to ARROWS and to index.ipynb'
    allowed = reachable(room)
    wrong = sorted(i for i in imports(module) if i != module and not any(fnmatch(i, a) for a in allowed))
    assert not wrong, f'{module} imports {", ".join(wrong)}, which the plan does not allow'


@pytest.mark.parametrize('module', MODULES)
def test_nobody_imports_the_doors(module):
    if module == 'cli': return
    text = (ROOT/(module.replace('.', '/') + '.py')).read_text(encoding='utf-8')
    names = {n.module if isinstance(n, ast.ImportFrom) else a.name for n in ast.walk(ast.parse(text)) if isinstance(n, (ast.Import, ast.ImportFrom)) for a in n.names}
    assert 'cli' not in imports(module) and not any((n or '').split('.')[0] in ('demo', 'tests') for n in names)


@pytest.mark.parametrize('module, room, bad', [('losses.x', 'losses.*', 'model'), ('data.x', 'data.*', 'losses.contrastive'), ('bench.x', 'bench.*', 'train.engine'), ('train.x', 'train.*', 'bench.retrieval')])
def test_never(module, room, bad): assert not any(fnmatch(bad, a) for a in reachable(room))
