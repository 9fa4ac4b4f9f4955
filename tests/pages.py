"""Reading notebooks: what the style and hygiene tests share."""
import ast
import json
import re
from functools import lru_cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NBS = ROOT/'nbs'
# The same folders that nbdev skips: names that begin with _ or .
PAGES = sorted(p for p in NBS.rglob('*.ipynb') if not any(s.startswith(('_', '.')) for s in p.relative_to(NBS).parts))
NAMES = [p.relative_to(NBS).as_posix() for p in PAGES]
LIBRARY = [n for n in NAMES if '/' not in n and n[0].isdigit()]
OPEN_END = 'What the paper leaves open and what we chose'


@lru_cache(maxsize=None)
def read(name: str) -> dict:
    return json.loads((NBS/name).read_text(encoding='utf-8'))


def source(cell) -> str:
    return cell['source'] if isinstance(cell['source'], str) else ''.join(cell['source'])


def directives(cell) -> set:
    "`{'export', 'eval: false'}`: the `#|` lines at the head of a cell"
    found = set()
    for line in source(cell).splitlines():
        if not line.startswith('#|'): break
        found.add(' '.join(line[2:].split()))
    return found


def code_cells(name): return [c for c in read(name)['cells'] if c['cell_type'] == 'code']


def text_cells(name): return [c for c in read(name)['cells'] if c['cell_type'] == 'markdown']


def is_export(cell): return any(d.split()[0] in ('export', 'exporti', 'exports') for d in directives(cell) if d)


def lines(cell) -> int:
    "Lines of code: neither blank nor only a comment"
    return sum(1 for s in source(cell).splitlines() if s.strip() and not s.strip().startswith('#'))


def code_lines(cell) -> int:
    "`lines` without documentation: docstrings do not count, and a signature with one documented argument per line counts once"
    spare = 0
    for n in ast.walk(tree(cell)):
        if not isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)): continue
        first = n.body[0]
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
            spare += first.end_lineno - first.lineno + 1
        spare += max(0, first.lineno - n.lineno - 1) if not isinstance(n, ast.ClassDef) and first.lineno > n.lineno else 0
    return max(1, lines(cell) - spare)


def tree(cell):
    "The cell's syntax tree; lines of IPython magic are left out"
    return ast.parse('\n'.join('' if re.match(r'\s*[%!]', s) else s for s in source(cell).splitlines()))


def is_import(cell) -> bool:
    body = tree(cell).body
    return bool(body) and all(isinstance(n, (ast.Import, ast.ImportFrom)) for n in body)


def is_check(cell) -> bool:
    "A cell that holds nothing but asserts and calls of `test_…`: it stands behind its example"
    def checks(node):
        call = getattr(node, 'value', None)
        name = getattr(getattr(call, 'func', None), 'id', '')
        return isinstance(node, ast.Assert) or name.startswith(('test_', 'expect_fail'))
    body = tree(cell).body
    return bool(body) and all(map(checks, body))


def exported(name) -> list:
    "Exported cells that do more than import"
    return [c for c in code_cells(name) if is_export(c) and not is_import(c)]


def public_names(name) -> list:
    "Names of functions and classes that a page exports; methods grown by `@patch` count as their own name"
    return [n.name for c in exported(name) for n in tree(c).body
            if isinstance(n, (ast.FunctionDef, ast.ClassDef, ast.AsyncFunctionDef)) and not n.name.startswith('_')]


def checks(name) -> int:
    "Number of asserts and of `test_…` calls in the cells of a page that are not exported"
    def one(node):
        if isinstance(node, ast.Assert): return True
        f = getattr(node, 'func', None)
        return isinstance(node, ast.Call) and getattr(f, 'id', getattr(f, 'attr', '')).startswith(('test_', 'expect_fail'))
    return sum(one(n) for c in code_cells(name) if not is_export(c) for n in ast.walk(tree(c)))
