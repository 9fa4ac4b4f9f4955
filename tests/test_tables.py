"""The paper's numbers against arithmetic, result files against everything that can lie in a folder, and the comparison of both."""
import copy
import csv
import json
import os
import re
from collections import Counter
from functools import lru_cache

import pytest

from geoalignclip_nb.bench import comparison, tables
from geoalignclip_nb.bench.tables import BLOCKS, METRICS, PAPER_N, Results, is_share, paper_n, paper_row, paper_table, paper_tables, paper_value, read_results
from geoalignclip_nb.core import GeoAlignError, asset

LINES = list(csv.DictReader(asset('paper_tables.csv').read_text(encoding='utf-8').splitlines()))
CELLS = {(int(x['table']), x['row'], x['column']): x for x in LINES}
TOY = dict(task='retrieval', dataset='rsicd', split='test', n=1093, n_texts=5465, skipped={}, model='ViT-B-16-quickgelu.openai', checkpoint='a' * 64, resolution=224, context_length=77,
           resize_mode='squash', templates=[], metrics=dict(i2t_r1=6.0, i2t_r5=15.0, t2i_r1=5.0), ci95=dict(i2t_r1=[5.0, 7.0], i2t_r5=[15.5, 16.0]), seconds=2.5, device='cpu',
           versions=dict(torch='2'), seed=0)


# The paper's numbers

def test_the_file_is_a_plain_table():
    assert list(LINES[0]) == ['table', 'row', 'column', 'value', 'unit', 'doubt'] and len(CELLS) == len(LINES)
    assert Counter(t for t, _, _ in CELLS) == {1: 11, 2: 177, 3: 42, 4: 16, 5: 288, 6: 30, 7: 20}
    for x in LINES:
        assert re.fullmatch(r'\d+(\.\d+)?', x['value']) and x['unit'] in ('percent', 'items', 'px', 'iterations', 'million', 'ms/token', 'TeraFLOPs', ''), x
        assert x['unit'] != 'percent' or float(x['value']) <= 100, x
        assert x['doubt'] == x['doubt'].strip() and not x['doubt'].endswith('.'), x


@pytest.mark.parametrize('column', sorted({c for t, _, c in CELLS if t in (2, 5, 6) and 'mAP' not in c}))
def test_accuracies_are_shares_of_n_or_doubted(column):
    "Whatever is printed is k of N, N known; what is not says so"
    for (t, row, c), x in CELLS.items():
        if c != column or t not in (2, 5, 6): continue
        n = paper_n(row, column)
        shares = n and x['value'] in printed_shares(n)
        assert shares or x['doubt'], (t, row, column, x['value'], n)
        if n: assert is_share(x['value'], n) == bool(shares), (x['value'], n)


def two_decimals(v: float) -> set:
    "The ways to print a percentage: halves rounded up or down, a last zero kept or dropped"
    both = {f'{round(v + e, 2):.2f}' for e in (-1e-9, 1e-9)}
    return both | {s[:-1] for s in both if s.endswith('0')}


@lru_cache(maxsize=None)
def printed_shares(n: int) -> set: return {s for k in range(n + 1) for s in two_decimals(100 * k / n)}


def test_published_sizes_do_not_fit():
    "The N of the three unpublished subsets explain every value, the sizes of the published splits do not"
    def misses(start, n): return sum(not is_share(x['value'], n) for (t, row, c), x in CELLS.items() if t == 2 and c.startswith(start) and paper_n(row, c) and not row.startswith(('Geo', 'Sky', 'VHM')))
    for start, published in (('RRSIS-HR', (2118, 268, 264)), ('NWPU-VHR-10', (3775, 3921)), ('RRSIS-D', (3481, 1740, 5221))):
        assert misses(start, PAPER_N[start]) == 0 and all(misses(start, n) > 0 for n in published), start


def test_language_models_were_asked_about_other_items():
    values = [CELLS[2, r, 'NWPU-VHR-10 Acc@1']['value'] for r in ('GeoChat', 'SkySenseGPT', 'VHM')]
    assert all(is_share(v, 650) and not is_share(v, 2898) for v in values)
    assert not all(is_share(CELLS[2, r, 'RRSIS-D Acc@1']['value'], 5833) for r in ('GeoChat', 'SkySenseGPT', 'VHM'))


@pytest.mark.parametrize('row', sorted({r for t, r, _ in CELLS if t == 3}))
def test_detection_means_follow_from_their_parts_or_are_doubted(row):
    base, novel = (16, 4) if row.startswith('DIOR') else (13, 2)
    n, b, both = (paper_value(3, row, c) for c in ('mAP_n', 'mAP_b', 'mAP'))
    assert abs((base * b + novel * n) / (base + novel) - both) <= .1 or 'does not follow' in CELLS[3, row, 'mAP']['doubt']


def test_table_1_mean_is_doubted_with_the_right_number():
    rows = {r: (paper_value(1, r, 'Vol.'), paper_value(1, r, 'Pass')) for r in paper_table(1) if r != 'Overall'}
    weighted = sum(v * p for v, p in rows.values()) / sum(v for v, _ in rows.values())
    doubt = CELLS[1, 'Overall', 'Pass']['doubt']
    assert f'{weighted:.1f}' in doubt and f'{sum(p for _, p in rows.values()) / len(rows) + 1e-9:.1f}' in doubt and weighted != paper_value(1, 'Overall', 'Pass')
    assert sum(v for v, _ in rows.values()) == paper_value(1, 'Overall', 'Vol.')


def test_numbers_that_stand_in_two_tables():
    assert [paper_value(6, '6', f'UCM-Caption {c}') for c in ('I2T R@1', 'T2I R@1')] == [paper_value(5, 'Ours ViT-L/14', f'UCM-Caption {c}') for c in ('I2T R@1', 'T2I R@1')]
    assert paper_value(6, '6', 'DOTAv1.0 mAP_n') == paper_value(3, 'DOTAv1.0 Ours', 'mAP_n')
    for short, long in dict(RemoteCLIP='RemoteCLIP ViT-L/14', SkyCLIP='SkyCLIP ViT-L/14-pct30', GeoRSCLIP='GeoRSCLIP ViT-L/14-336', LRSCLIP='LRSCLIP ViT-L/14', Ours='Ours ViT-L/14').items():
        assert paper_value(7, short, 'Acc.') == paper_value(2, long, 'RRSIS-HR Acc@1')
    assert paper_value(6, '6', 'RRSIS-HR Acc@1') != paper_value(2, 'Ours ViT-L/14', 'RRSIS-HR Acc@1') and paper_table(6)['6']['RRSIS-HR Acc@1'].doubt
    assert paper_value(7, 'Ours', 'Param.') - paper_value(7, 'LRSCLIP', 'Param.') == pytest.approx(1.30)


@pytest.mark.parametrize('cell, value', [  # spot checks by eye, from each corner of each table
    ((1, 'Overall', "Cohen's Kappa"), .82), ((2, 'CLIP ViT-B/16', 'RRSIS-HR Acc@1'), 19.41), ((2, 'VHM', 'RRSIS-D Acc@1'), 77.86), ((2, 'Ours ViT-L/14', 'RRSIS-D Acc@5'), 98.03),
    ((2, 'SkyCLIP ViT-L/14-pct50', 'CHOICE-img. Acc.'), 84.5), ((3, 'DIOR ViLD', 'mAP_n'), .7), ((3, 'DOTAv1.0 Ours', 'mAP'), 58.3), ((4, 'Max Training Iterations', 'Value'), 10000),
    ((5, 'CLIP ViT-B/16', 'RSICD I2T R@1'), 5.67), ((5, 'CLIP ViT-B/16', 'UCM-Caption T2I R@10'), 64.1), ((5, 'FG-CLIP ViT-L/14-336', 'RSITMD T2I R@10'), 58.1),
    ((5, 'Ours ViT-L/14', 'UCM-Caption T2I R@10'), 86.1), ((6, '1', 'SIRI-WHU Acc@1'), 51.92), ((6, '4', 'UCM-Caption T2I R@1'), 16.48), ((7, 'Ours', 'Lat.'), .1327)])
def test_values(cell, value): assert paper_value(*cell) == value


@pytest.mark.parametrize('cell, says', [((9, 'x', 'y'), '1 to 7'), ((5, 'RemoteCLIP ViT-L/14', 'x'), 'CLIP ViT-B/16, CLIP ViT-L/14'), ((7, 'Ours', 'Speed'), 'Param., Lat., FLOPs, Acc.')])
def test_unknown_cells_are_answered_by_the_known_ones(cell, says):
    with pytest.raises(GeoAlignError) as e: paper_value(*cell)
    assert says in str(e.value)


def test_blocks_agree_with_the_data_sets():
    "The splits and the paper's N are said in two rooms"
    from geoalignclip_nb.bench import box_sets, datasets
    known = datasets.CAPTION_SETS | datasets.SCENE_SETS | box_sets.BOX_SETS | box_sets.NEAR_MISS_SETS
    for b in BLOCKS:
        d = known[b.dataset]
        assert d.task == b.task and d.split in b.splits, b
        for key, way in (('n', ' I2T'), ('n_texts', ' T2I')):
            if key in d.paper_n: assert d.paper_n[key] == (PAPER_N.get(b.title) or PAPER_N[b.title + way]), (b, key)


def test_model_names_of_the_zoo_have_their_rows():
    from geoalignclip_nb.zoo import ENTRIES
    from geoalignclip_nb.lvlm import LVLMS
    found = {n: paper_row(n) for n in [*ENTRIES, *LVLMS]}
    assert {n for n, row in found.items() if row is None} == {'ViT-L-14-336-quickgelu.openai', 'RN50-quickgelu.remoteclip', 'ViT-H-14.georsclip'}  # sizes that no table has
    rows = [row for row in found.values() if row]
    assert len(rows) == len(set(rows)) and set(rows) == {r for t in (2, 5) for r in paper_table(t)} - {'Ours ViT-B/16', 'Ours ViT-L/14'}


# Result files

def put(folder, name, r):
    (folder/name).parent.mkdir(exist_ok=True)
    (folder/name).write_text(r if isinstance(r, str) else json.dumps(r), encoding='utf-8')


def test_what_is_no_result_is_named_and_passed_over(tmp_path):
    for name, r in {'ok.json': TOY, 'below/ok.json': TOY | dict(split='val'), 'half.json': json.dumps(TOY)[:-40], 'empty.json': '', 'list.json': '[1]', 'speed.json': dict(task='speed', n=3),
                    'deep.json': '[' * 200_000, '.x.12.tmp.json': TOY, 'notes.txt': 'x'}.items(): put(tmp_path, name, r)
    (tmp_path/'binary.json').write_bytes(b'\xff\xfe\x00{'); (tmp_path/'folder.json').mkdir()
    got = read_results(tmp_path)
    assert [r['file'] for r in got.runs] == ['below/ok.json', 'ok.json']
    assert {k: v.split(',')[0] for k, v in got.skipped.items()} == {'half.json': 'no JSON', 'empty.json': 'no JSON', 'deep.json': 'no JSON', 'binary.json': 'no JSON', 'list.json': 'JSON of another kind',
                                                     'speed.json': 'JSON of another kind', '.x.12.tmp.json': 'a temporary file of a run that did not finish'}
    text = comparison.tables_text(tmp_path)
    assert all(name in text for name in got.skipped)


@pytest.mark.parametrize('change, says', [
    *((dict.fromkeys([k], '-'), f"'{k}' is missing") for k in tables.KEYS if k not in ('task', 'dataset', 'metrics')),
    (dict(n=0), 'nothing'), (dict(n=True), "'n' is true"), (dict(n='9'), "'n' is"), (dict(metrics=dict(acc1=101)), 'percentage'), (dict(metrics=dict(acc1=-1)), 'percentage'), (dict(metrics=dict(acc1='5')), 'percentage'),
    (dict(metrics=dict(acc1=None)), 'percentage'), (dict(metrics=dict(loss=1)), 'none of its metrics'), (dict(metrics=[]), "'metrics' is"), (dict(ci95=dict(i2t_r1=[7, 5])), 'low, high'), (dict(ci95=dict(i2t_r1=5)), 'low, high'),
    (dict(ci95=dict(i2t_r1=[1, 2, 3])), 'low, high'), (dict(skipped=[]), "'skipped' is"), (dict(model=None), "'model' is null"), (dict(settings=[]), "'settings' is"), (dict(settings=dict(options=[])), "'settings' is"), (dict(n_texts='5'), 'nothing')])
def test_a_result_with_a_hole_is_left_out_by_name(tmp_path, change, says):
    r = {k: v for k, v in (TOY | change).items() if v != '-'}
    put(tmp_path, 'bad.json', r)
    with pytest.raises(GeoAlignError) as e: read_results(tmp_path)
    assert 'bad.json' in str(e.value) and says in str(e.value) and 'geoalign bench' in str(e.value) and '\n' not in str(e.value)
    put(tmp_path, 'a.json', TOY); put(tmp_path, 'speed.json', dict(task='speed'))
    found = read_results(tmp_path)
    assert [x['file'] for x in found.runs] == ['a.json'] and set(found.faulty) == {'bad.json'} and says in found.faulty['bad.json']
    assert comparison.tables_text(tmp_path) and 'speed.json' in found.skipped


def test_a_faulty_file_does_not_block_the_command(tmp_path, capsys):
    from geoalignclip_nb.cli import main
    for name, r in {'ok.json': TOY, 'half.json': json.dumps(TOY)[:-40], 'hole.json': TOY | dict(n='9'), 'speed.json': dict(task='speed')}.items(): put(tmp_path, name, r)
    assert main(['tables', str(tmp_path)]) == 0
    out, err = capsys.readouterr()
    assert 'RSICD' in out and [line.split(' is left out: ')[0] for line in err.strip().splitlines()] == ['geoalign tables: note: half.json', 'geoalign tables: note: hole.json'] and "'n' is" in err
    (tmp_path/'ok.json').unlink()
    assert main(['tables', str(tmp_path)]) == 2
    out, err = capsys.readouterr()
    assert not out and err.count('\n') == 1 and '2 faulty' in err and 'half.json' in err


def test_nan_is_refused(tmp_path):
    put(tmp_path, 'bad.json', TOY | dict(metrics=dict(acc1=float('nan'))))
    with pytest.raises(GeoAlignError, match='percentage'): read_results(tmp_path)


def test_a_served_model_may_have_no_checkpoint(tmp_path):
    put(tmp_path, 'a.json', TOY | dict.fromkeys(tables.MAY_BE_NULL) | dict(task='region_classification', dataset='vhr10', split='all', model='vhm', metrics=dict(acc1=70.), ci95={}))
    t = paper_tables(read_results(tmp_path))
    assert [(c.row, c.column, c.paper_n) for c in t.cells] == [('VHM', 'NWPU-VHR-10 Acc@1', None)] and '‡' in comparison.cell_text(t.cells[0])
    assert comparison.markdown_text(t)


@pytest.mark.parametrize('make', [lambda p: p/'nowhere', lambda p: put(p, 'x.json', '{}') or p, lambda p: p, lambda p: put(p, 'a.json', TOY) or p/'a.json'])
def test_folders_without_results(tmp_path, make):
    with pytest.raises(GeoAlignError, match='no folder|no whole result'): read_results(make(tmp_path))


# Comparison

def run(name='a.json', **change): return copy.deepcopy(TOY) | change | dict(file=name)


def cells(*runs, **kw): return paper_tables(Results(list(runs)), **kw)


def test_paper_ours_difference():
    got = {c.column: c for c in cells(run()).cells}
    assert list(got) == ['RSICD I2T R@1', 'RSICD I2T R@5', 'RSICD T2I R@1']
    assert got['RSICD I2T R@1'].delta == pytest.approx(6 - 5.67) and [c.inside for c in got.values()] == [True, False, False]
    assert [c.n for c in got.values()] == [1093, 1093, 5465] and all(c.n == c.paper_n for c in got.values())
    assert [comparison.cell_text(c) for c in got.values()] == ['5.67 · 6.00 · +0.33~', '14.82 · 15.00 · +0.18', '5.29 · 5.00 · -0.29']


def test_nothing_is_filled_in():
    text = comparison.markdown_text(cells(run()))
    assert text.count('CLIP ViT-B/16') == 1 and 'RSITMD' not in text and 'LongCLIP' not in text and '22.6' not in text  # R@10 was not measured


@pytest.mark.parametrize('change, why', [(dict(split='val'), "the paper's split is test"), (dict(split='test@60'), "the paper's split is test"), (dict(dataset='rsod', task='region_classification'), 'no such benchmark'),
                                         (dict(task='scene_classification'), 'no such benchmark'), (dict(model='ViT-L-14-quickgelu.remoteclip'), 'no row'), (dict(model='geoalign-tiny'), 'no row'), (dict(metrics=dict(map=3.)), 'none of its metrics')])
def test_runs_that_the_paper_does_not_have(change, why):
    t = cells(run(**change))
    assert not t.cells and why in t.others[0][1]
    assert 'Runs that the paper does not have' in comparison.markdown_text(t) and '· +' not in comparison.markdown_text(t)


def test_another_n_is_marked():
    t = cells(run(n=1000, skipped={'unreadable picture': 93}))
    marks = [comparison.cell_text(c)[-1] == '‡' or '‡' in comparison.cell_text(c) for c in t.cells]
    assert marks == [True, True, False]
    text = comparison.markdown_text(t)
    assert 'left out: 93 unreadable picture' in text and comparison.MARKS['‡'] in text and "the paper's N: 1,093 / 5,465" in text


def test_doubts_travel():
    t = cells(run(task='fine_grained', dataset='choice-img', split='all', n=200, model='ViT-L-14-quickgelu.lrsclip', metrics=dict(acc1=80.), ci95={}))
    assert comparison.cell_text(t.cells[0]) == '20.20? · 80.00 · +59.80' and comparison.MARKS['?'] in comparison.markdown_text(t)
    assert 'copied' in next(csv.DictReader(comparison.csv_text(t).splitlines()))['doubt']


def test_two_checkpoints_for_one_cell_are_both_shown(tmp_path):
    put(tmp_path, 'a.json', TOY); put(tmp_path, 'b.json', TOY | dict(checkpoint='b' * 64, metrics=dict(i2t_r1=9.)))
    shown = [comparison.tables_text(tmp_path)]
    for a, b in (('a', 'b'), ('b', 'a')):  # whichever is newer
        os.utime(tmp_path/f'{a}.json', (1, 1)); os.utime(tmp_path/f'{b}.json', (2e9, 2e9)); shown.append(comparison.tables_text(tmp_path))
    assert len(set(shown)) == 1 and 'aaaaaaaa' in shown[0] and 'bbbbbbbb' in shown[0] and '6.00' in shown[0] and '9.00' in shown[0]


def test_equal_settings_with_other_numbers_are_told_apart_by_file():
    t = cells(run('a.json'), run('b.json', metrics=dict(i2t_r1=9.)))
    text = comparison.markdown_text(t)
    assert '(a.json)' in text and '(b.json)' in text and '6.00' in text and '9.00' in text


def test_repeats_count_once():
    t = cells(run('a.json'), run('b.json', seconds=99., device='cuda', versions={}, date='2027-01-01'))
    assert len(t.cells) == 3 and 'the same in b.json' in comparison.markdown_text(t)
    assert len(cells(run('a.json'), run('b.json', skipped={'unreadable picture': 1})).cells) == 6  # another n of skipped is another run


def test_other_settings_are_visible():
    text = comparison.markdown_text(cells(run('a.json', templates=['{}']), run('b.json', templates=['a {}', 'b {}', 'c {}']), run('c.json', resolution=336), run('d.json', view='crop'), run('e.json', settings=dict(options=dict(boxes='original')))))
    for words in ("templates {}", '3 templates', '336 px squash', 'view crop', 'boxes original'): assert words in text
    assert '(a.json)' not in text


def test_our_own_models_need_a_word():
    ours = run(model='runs/l14', dataset='ucm', n=210, n_texts=1050)
    assert not cells(ours).cells
    t = cells(ours, rows={'runs/l14': 'Ours ViT-L/14'})
    assert [(c.block.table, c.row) for c in t.cells] == [(5, 'Ours ViT-L/14')] * 3 + [(6, '6')] * 2
    assert {c.row for c in cells(ours, rows={'runs/l14': '1'}).cells} == {'1'}
    with pytest.raises(GeoAlignError, match="no row 'Ours'"): cells(ours, rows={'runs/l14': 'Ours'})


def test_order_is_the_papers():
    runs = [run(f'{i}.json', model=m, dataset=d) for i, (m, d) in enumerate([('ViT-L-14-quickgelu.lrsclip', 'rsitmd'), ('ViT-B-16-quickgelu.openai', 'ucm'), ('ViT-B-16-quickgelu.openai', 'rsitmd'), ('ViT-B-16-quickgelu.longclip', 'rsicd')])]
    got = list(dict.fromkeys((c.block.title, c.row) for c in cells(*runs).cells))
    assert got == [('RSICD', 'LongCLIP ViT-B/16'), ('RSITMD', 'CLIP ViT-B/16'), ('RSITMD', 'LRSCLIP ViT-L/14'), ('UCM-Caption', 'CLIP ViT-B/16')]


def test_table_6_gets_a_scene_run():
    t = cells(run(task='scene_classification', dataset='siri-whu', split='train', n=2400, n_texts=None, metrics=dict(acc1=60.), ci95={}, model='m'), rows={'m': '1'})
    assert [(c.column, c.paper.value, c.n == c.paper_n) for c in t.cells] == [('SIRI-WHU Acc@1', 51.92, True)]


# Text

def nasty(): return cells(run(model='a|b <script>\n', split='val', skipped={'<i>|': 1}))


def test_markdown_rows_have_one_width():
    t = cells(run(), run('b.json', split='val'), run('c.json', model='x|y', split='val'))
    for part in comparison.markdown_text(t).split('## ')[1:]:
        widths = {len(re.findall(r'(?<!\\)\|', line)) for line in part.splitlines() if line.startswith('|')}
        assert len(widths) == 1, part


def test_foreign_text_is_escaped():
    assert 'a\\|b <script> ' in comparison.markdown_text(nasty()) and '<script>' not in comparison.html_text(nasty()) and '&lt;script&gt;' in comparison.html_text(nasty())
    assert [x['model'] for x in csv.DictReader(comparison.csv_text(nasty()).splitlines(keepends=True))][0].startswith('a|b <script>')


def test_csv_holds_every_number():
    t = cells(run(), run('b.json', split='val'))
    lines = list(csv.DictReader(comparison.csv_text(t).splitlines()))
    assert len(lines) == 6 and [x['table'] for x in lines] == ['5'] * 3 + [''] * 3
    assert (lines[0]['paper'], lines[0]['ours'], lines[0]['low'], lines[0]['high'], float(lines[0]['delta'])) == ('5.67', '6.0', '5.0', '7.0', pytest.approx(.33))
    assert {x['checkpoint'] for x in lines} == {'a' * 64} and lines[3]['note'] == "the paper's split is test"


def test_runs_without_a_place_have_a_table_per_task_with_its_unit():
    point = run('p.json', task='grounding', dataset='x', metrics=dict(pointing_game=.36), ci95={})
    shown = comparison.parts(cells(run('b.json', split='val'), point))
    assert [p.title.rpartition(' ')[2] for p in shown] == ['retrieval', 'grounding'] and [p.notes[0].split(',')[0] for p in shown] == ['Percent', 'Shares from 0 to 1']
    assert shown[0].header[3:-2] == [k for k in METRICS if k in TOY['metrics']] and shown[0].lines[0][3] == '6.00 (5.00 to 7.00)' and shown[1].lines[0][3] == '0.36'


def test_files_and_formats(tmp_path):
    put(tmp_path, 'a.json', TOY); (tmp_path/'out').mkdir()
    paths = comparison.write_tables(tmp_path, tmp_path/'out')
    assert [p.name for p in paths] == ['tables.md', 'tables.html', 'tables.csv'] and sorted(p.name for p in (tmp_path/'out').iterdir()) == ['tables.csv', 'tables.html', 'tables.md']
    for p, f in zip(paths, ('markdown', 'html', 'csv')): assert p.read_text(encoding='utf-8') == comparison.tables_text(tmp_path, f)
    for bad in (lambda: comparison.tables_text(tmp_path, 'pdf'), lambda: comparison.write_tables(tmp_path, tmp_path/'none')):
        with pytest.raises(GeoAlignError): bad()


def test_every_metric_of_a_block_is_a_known_one(): assert all(m in METRICS for b in BLOCKS for m in b.columns)


def test_a_real_run_is_a_whole_result(tmp_path):
    "What the runner writes is what this room reads"
    from geoalignclip_nb.bench.datasets import BenchSet
    from geoalignclip_nb.bench.runs import result_of
    from geoalignclip_nb.model import GeoAlignCLIP
    from geoalignclip_nb.scenes import make_scenes
    scenes = make_scenes(3, size=64)
    r = result_of(GeoAlignCLIP.create('geoalign-debug'), BenchSet('scenes', 'test', scenes), 'retrieval')
    put(tmp_path, 'r.json', r)
    t = paper_tables(read_results(tmp_path))
    assert not t.cells and t.others[0][1] == 'the paper has no such benchmark' and 'does not have · retrieval' in comparison.markdown_text(t) and '| scenes test |' in comparison.markdown_text(t)


@pytest.mark.parametrize('change, why', [
    (dict(dataset='rrsis-hr', split='test', settings=dict(options=dict(source='rsvg-hr'))), 'source rsvg-hr instead of rrsis-hr'),
    (dict(dataset='choice-ins', split='all', settings=dict(options=dict(task='attribute_recognition'))), 'task attribute_recognition instead of referring_expression_segmentation'),
    (dict(dataset='choice-ins', split='all', settings=dict(options=dict(n='4', seed=0))), 'n 4 instead of 10'),
    (dict(task='region_classification', dataset='vhr10', split='all', settings=dict(options=dict(boxes='original', partial='false'))), 'boxes original instead of coco')])
def test_another_way_to_read_a_set_fills_no_cell(change, why):
    ask = run(**(dict(task='fine_grained', model='ViT-L-14-quickgelu.lrsclip', metrics=dict(acc1=80., acc5=90.), ci95={}) | change))
    t = cells(ask)
    assert not t.cells and t.others[0][1] == f'read with {why}, which is another benchmark' and why in comparison.markdown_text(t)
    assert cells(ask | dict(settings=dict(options={}))).cells


@pytest.mark.parametrize('options', [dict(negatives='near.json'), dict(source='rrsis-hr'), dict(n='10', seed='0', partial='False')])
def test_the_default_way_to_read_fills_a_cell(options):
    assert cells(run(task='fine_grained', dataset='rrsis-hr', model='ViT-L-14-quickgelu.lrsclip', metrics=dict(acc1=80.), ci95={}, settings=dict(options=options))).cells


@pytest.mark.parametrize('cell, word', [
    *(((7, m, 'FLOPs'), 'counting convention') for m in ('Ours', 'RemoteCLIP', 'SkyCLIP', 'LRSCLIP')), ((7, 'Ours', 'Param.'), '336-pixel'),
    *(((6, str(k), 'RRSIS-HR Acc@1'), 'VRSBench') for k in range(1, 7)), ((3, 'DOTAv1.0 Ours', 'mAP_b'), '63.70'), ((6, '4', 'UCM-Caption I2T R@1'), '20.00'), ((6, '5', 'DOTAv1.0 mAP_n'), '21.50')])
def test_doubts_that_follow_from_other_cells(cell, word): assert word in CELLS[cell]['doubt']


def test_those_doubts_are_true():
    v = paper_value
    assert v(3, 'DOTAv1.0 FG-CLIP', 'mAP_b') == 63.7 > v(3, 'DOTAv1.0 Ours', 'mAP_b')
    assert v(6, '4', 'UCM-Caption I2T R@1') < v(6, '3', 'UCM-Caption I2T R@1') == 20 and v(6, '5', 'DOTAv1.0 mAP_n') < v(6, '3', 'DOTAv1.0 mAP_n') < v(6, '4', 'DOTAv1.0 mAP_n') == 21.5
    assert all(is_share(paper_table(6)[str(k)]['RRSIS-HR Acc@1'].printed, 577) for k in range(1, 6))
    assert {v(7, m, 'FLOPs') for m in ('RemoteCLIP', 'SkyCLIP', 'LRSCLIP')} == {5.4} and v(7, 'Ours', 'FLOPs') == 13.65
