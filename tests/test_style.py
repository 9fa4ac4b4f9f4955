"""How a page is shaped (CONTRIBUTING.md): small exported cells, each followed by an example, and as much text as code."""
from statistics import median

import pytest

from pages import LIBRARY, NAMES, OPEN_END, checks, code_cells, code_lines, directives, exported, is_check, is_export, is_import, lines, public_names, read, source, text_cells


def faults_of(name) -> list:
    "Everything about the shape of one page that misses its target"
    cells, codes, found = read(name)['cells'], code_cells(name), []
    library = name in LIBRARY

    if library:
        first = source(codes[0]).strip()
        if not (first.startswith('#| default_exp ') and '\n' not in first): found.append('the first code cell is not `#| default_exp` alone')
    head = source(text_cells(name)[0]).strip().splitlines()
    if not (head[0].startswith('# ') and any(s.startswith('> ') for s in head)): found.append('the head is not `# Title` and one `>` line')
    headings = [s for c in text_cells(name) for s in source(c).splitlines() if s.startswith('#')]
    if headings[-1].lstrip('# ') != OPEN_END: found.append(f'the last block is not "{OPEN_END}"')

    ratio = len(text_cells(name)) / sum(not is_check(c) for c in codes)
    if library and not .5 <= ratio <= 1: found.append(f'text : code cells is {ratio:.2f}, not 0.5-1.0')
    if '/' in name and ratio <= 1.2: found.append(f'text : code cells is {ratio:.2f}, not above 1.2 (tutorial)')

    for c in codes:
        mixed = is_export(c) and not is_import(c) and source(c).split('\n', 1)[-1].lstrip().startswith(('import ', 'from '))
        if mixed: found.append(f'cell {c["id"]} mixes imports with code')
    out = exported(name)
    if not out: return found
    for c in out:
        if lines(c) > 40: found.append(f'exported cell {c["id"]} has {lines(c)} lines with its documentation, more than 40')
        if code_lines(c) > 30: found.append(f'exported cell {c["id"]} has {code_lines(c)} lines of code, more than 30')
    middle = median(map(code_lines, out))
    if middle > 12: found.append(f'median of exported cells is {middle:g} lines, more than 12')
    after = {c['id']: n for c, n in zip(codes, codes[1:])}
    shown = [c for c in out if c['id'] in after and not is_export(after[c['id']]) and 'hide' not in directives(after[c['id']])]
    if len(shown) < .65 * len(out): found.append(f'{len(shown)} of {len(out)} exported cells are followed at once by an example, fewer than 65 %')
    if checks(name) < len(public_names(name)): found.append(f'{checks(name)} checks for {len(public_names(name))} exported names')
    return found


@pytest.mark.parametrize('name', NAMES)
def test_shape(name):
    found = faults_of(name)
    assert not found, '\n'.join([name] + found)


@pytest.mark.parametrize('name', [n for n in LIBRARY if n.split('_', 1)[1] in
                                  ('viz.ipynb', 'scenes.ipynb', 'vision.ipynb', 'roi_align.ipynb', 'grounding.ipynb', 'cli.ipynb')] + ['index.ipynb'])
def test_pages_about_pictures_show_one(name):
    assert any('image/jpeg' in o.get('data', {}) for c in code_cells(name) for o in c['outputs']), f'{name} saves no picture'
