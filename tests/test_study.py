"The ablation: paired rows, resuming, refusal, the table"
import json
import math

import pytest
import torch

from geoalignclip_nb.core import GeoAlignError, Region, Sample
from geoalignclip_nb.study.ablation import ROWS, STEPS, TABLE6, ablate, collect, gain, ladder, markdown, read_row, row_preset, spread
from geoalignclip_nb.train import recipe
from geoalignclip_nb.train.engine import Log, stage_loader, stage_objective
from geoalignclip_nb.train.presets import load_preset


@pytest.fixture(scope='module')
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp('ablation')
    ablate('debug', folder, seeds=(0, 1), rows=('1a', '1b', '6'), overrides={'precision': 'fp32'}, quiet=True)
    return folder


def test_rows_are_the_papers():
    assert set(TABLE6) == {'1', '2', '3', '4', '5', '6'} and list(ROWS) == ['1a', '1b', '2', '3', '4', '5', '6']
    assert all(set(pair) <= set(ROWS) for pair in STEPS.values())
    for name, (new, old) in STEPS.items():
        if name.split()[0] not in ('all', 'more'): assert set(ROWS[new].losses) - set(ROWS[old].losses) == {name.split()[0].lower()}


@pytest.mark.parametrize('key, names', [('1b', ('global',)), ('2', ('global', 'rpa')), ('3', ('global', 'rpa', 'vic')), ('4', ('global', 'rpa', 'hna', 'vic')), ('5', ('rpa', 'vic', 'htc')), ('6', ('rpa', 'hna', 'vic', 'htc'))])
def test_a_row_trains_its_terms(key, names):
    preset = row_preset(load_preset('debug'), read_row(key), 1, 'latest.pt')
    assert stage_objective(preset.stage2, 2).names == names and preset.seed == 1 and preset.stage1 is None


def test_rows_of_a_seed_see_the_same_pictures():
    debug = load_preset('debug')
    model = recipe.start_model(debug)
    batches = {}
    for key in ('1b', '4', '6'):
        preset = row_preset(debug, read_row(key), 2, 'latest.pt')
        batches[key] = stage_loader(model, 2, preset.stage2, preset, True).batch(0, 1)
    for key in ('1b', '4'):
        for name in ('images', 'brief', 'boxes', 'region_text'): assert torch.equal(batches[key][name], batches['6'][name]), (key, name)
    assert 'crops' not in batches['1b'] and 'detailed' not in batches['4'] and len(batches['6']['negatives']) and not len(batches['1b']['negatives'])


def test_one_file_per_row_and_seed(done):
    names = sorted(p.name for p in done.glob('*-seed*.json'))
    assert names == ['1a-seed0.json', '1b-seed0.json', '1b-seed1.json', '6-seed0.json', '6-seed1.json']
    assert not list(done.glob('runs/*/latest.pt')) and (done/'runs'/'6-seed1'/'model'/'model.safetensors').is_file()
    first = {k: [r['total'] for r in Log(done/'runs'/k/'log.jsonl').read()] for k in ('6-seed0', '6-seed1')}
    assert first['6-seed0'] != first['6-seed1']
    assert '| 6 rpa vic hna htc |' in (done/'ablation.md').read_text()


def test_resume_trains_only_what_is_missing(done, tmp_path, monkeypatch):
    import shutil
    folder = tmp_path/'again'
    shutil.copytree(done, folder)
    (folder/'6-seed1.json').unlink(); shutil.rmtree(folder/'runs'/'6-seed1')
    trained = []
    real = recipe.run_preset
    monkeypatch.setattr('geoalignclip_nb.study.ablation.run_preset', lambda preset, out, quiet=False: trained.append(out.name) or real(preset, out, quiet))
    ablate('debug', folder, seeds=(0, 1), rows=('1a', '1b', '6'), overrides={'precision': 'fp32'}, quiet=True)
    assert trained == ['6-seed1']
    assert json.loads((folder/'ablation.json').read_text())['rows'] == json.loads((done/'ablation.json').read_text())['rows']  # fp32: to the last bit


def test_other_settings_are_refused(done):
    with pytest.raises(GeoAlignError, match='other settings'): ablate('debug', done, seeds=(0,), rows=('6',), overrides={'precision': 'fp32', 'stage2.lr': '1'}, quiet=True)
    with pytest.raises(GeoAlignError, match='other settings'): ablate('debug', done, seeds=(0,), rows=('6',), overrides={'precision': 'fp32', 'stage1.lr': '1'}, quiet=True)


def test_one_folder_holds_one_table(done):
    "Another row with other settings would stand beside rows that it cannot be compared with"
    before = sorted(done.glob('*-seed*.json'))
    with pytest.raises(GeoAlignError, match='Row 1a with seed 0.*other settings'): ablate('debug', done, seeds=(0,), rows=('2',), overrides={'precision': 'fp32', 'stage2.validation': 'scenes:9'}, quiet=True)
    assert sorted(done.glob('*-seed*.json')) == before


@pytest.mark.parametrize('row', ['6 seed=5', '6 stage1.lr=1', '6 stage2.losses=rpa', '6 stage2.validation=scenes:4', '6 stage2.lr', '1a stage2.lr=1', '', '8'])
def test_rows_that_are_none(row):
    with pytest.raises(GeoAlignError): read_row(row)


def test_a_name_with_odd_signs_is_a_file(done):
    from geoalignclip_nb.study.ablation import open_probes, run_row, shared_stage
    preset = load_preset('debug', {'precision': 'fp32'})
    row = read_row('5 stage2.weights={"htc":0.5,"rpa":1.0}')
    run_row(preset, row, 0, shared_stage(preset, done, True), done, open_probes(preset), quiet=True)
    path, = done.glob('5_*-seed0.json')
    assert json.loads(path.read_text())['settings']['stage2']['weights'] == {'htc': .5, 'rpa': 1.}
    path.unlink()


def test_a_preset_with_one_stage_is_refused(tmp_path):
    (tmp_path/'half.toml').write_text('model = "geoalign-debug"\n[stage2]\nsources = ["scenes:8"]\nvalidation = ["scenes:8"]\n')
    with pytest.raises(GeoAlignError, match='both stages'): ablate(tmp_path/'half.toml', tmp_path/'out')


def test_gains_by_hand():
    rows = {'1b': {'x': dict(values={'0': 10., '1': 12., '2': 11.}, n=5)}, '2': {'x': dict(values={'0': 11., '1': 14., '2': 14., '3': 99.}, n=5)}}
    mean, error, n = gain(rows, '2', '1b', 'x')
    assert (mean, n) == (2., 3) and math.isclose(error, 1 / 3**.5)  # differences 1, 2, 3
    assert '+2.0 (+3.5 se)' in ladder(rows) and '11.0 ± 1.0' in markdown(rows)
    assert math.isnan(gain({'1b': {'x': dict(values={'0': 1.}, n=1)}, '2': {'x': dict(values={'0': 2.}, n=1)}}, '2', '1b', 'x')[1])
    assert spread({'0': 5.}) == '5.0'


def test_stage_one_is_compared_with_every_seed():
    rows = {'1a': {'x': dict(values={'0': 10.}, n=5)}, '1b': {'x': dict(values={'1': 11., '2': 13.}, n=5)}}
    assert gain(rows, '1b', '1a', 'x') == (2., 1., 2)


def test_variants_stand_behind_their_row(tmp_path):
    for row in ('6 stage2.crop_size=16', '6', '1b'):
        (tmp_path/f"{row.replace(' ', '_')}-seed0.json").write_text(json.dumps(dict(row=row, seed=0, columns={'x': dict(value=1., n=3)})))
    assert list(collect(tmp_path)) == ['1b', '6', '6 stage2.crop_size=16']
    assert '| 6 rpa vic hna htc stage2.crop_size=16 |' in markdown(collect(tmp_path))


def test_a_variant_is_counted_from_its_like():
    from geoalignclip_nb.study.variants import base_of, variants
    cell = lambda *v: {'x': dict(values=dict(zip('012', v)), n=5)}
    rows = {'2': cell(1., 1., 1.), '3': cell(2., 3., 4.), '2 stage2.epochs=2': cell(5., 5., 5.), '3 stage2.epochs=2': cell(5., 6., 7.), '3 stage2.crop_size=16': cell(0., 0., 0.), '4': cell(9., 9., 9.)}
    assert [base_of(rows, k) for k in ('3', '3 stage2.epochs=2', '3 stage2.crop_size=16')] == ['2', '2 stage2.epochs=2', '2']
    table = variants(rows, ['x'])
    lines = [line for line in table.splitlines() if line.startswith('| 3')]
    assert len(lines) == 3 and 'plain' in lines[0] and '+2.0 ± 0.6' in lines[0] and '+1.0 ± 0.6' in next(x for x in lines if 'epochs' in x) and '-1.0 ± 0.0' in next(x for x in lines if 'crop_size' in x)
    assert '| 4 |' not in table  # a row without variants is not repeated
    with pytest.raises(GeoAlignError, match='adds no term'): base_of(rows, '1a')


class Vectors:
    "An embedder with given vectors of boxes"
    def __init__(self, vectors): self.vectors = vectors
    def boxes(self, samples, boxes, view): return self


def test_agreement_by_hand():
    from geoalignclip_nb.study import ablation
    region, crop = torch.eye(3), torch.tensor([[1., 0, 0], [0, 0, 1], [0, .6, .8]])
    sample = Sample('a.png', regions=[Region((0, 0, 1, 1), category=c) for c in 'aab'])
    got = ablation.crop_agreement(Vectors(region), Vectors(crop), [sample])
    assert got['own'] == pytest.approx(60.) and got['same_class'] == 0. and got['other_class'] == pytest.approx(100 * 1.6 / 4) and got['n'] == 3
    assert got['r1'] == pytest.approx(100 / 3)  # the first finds its own; the second is beaten by .6 to 0, the third by 1 to .8


def test_crops_with_opponents_train(tmp_path):
    "agreement='contrast' is a row's setting, and its loss is no cosine"
    preset = row_preset(load_preset('debug', {'precision': 'fp32'}), read_row('3 stage2.agreement=contrast'), 0, 'latest.pt')
    assert stage_objective(preset.stage2, 2).agreement == 'contrast'
    with pytest.raises(GeoAlignError, match='agreement'): stage_objective(row_preset(load_preset('debug'), read_row('3 stage2.agreement=maybe'), 0, 'x').stage2, 2)


def test_the_committed_variants_say_what_the_page_says():
    "Page 60a: plain VIC moves boxes towards all crops alike; with opponents towards their own; row 5 at half of HTC's weight is there"
    from geoalignclip_nb.core import asset
    from geoalignclip_nb.study.variants import as_rows, base_of
    rows, why = json.loads(asset('results/ablation_variants.json').read_text())['rows'], json.loads(asset('results/ablation_why.json').read_text())
    own = as_rows(why)
    assert set(rows) == set(own) and all(len(v['values']) >= 3 for k, r in rows.items() if k != '1a' for v in r.values())
    for name in ('rsod', 'scenes'):
        rise = {q: gain(own, '3', '2', f'{name} {q}')[0] for q in ('own', 'other_class')}
        assert abs(rise['own'] - rise['other_class']) < .1 * rise['own']
        assert gain(own, '3 stage2.agreement=contrast', '2', f'{name} r1')[0] > 5 * gain(own, '3', '2', f'{name} r1')[0]
    for column in ('rsod near miss Acc@1', 'rsod region Acc@1', 'ucm mean recall'):
        mean, error, n = gain(rows, '3 stage2.agreement=contrast', '2', column)
        assert mean < -3 * error and n == 3
    assert all(base_of(rows, k) in rows for k in rows if k not in ('1a', '2'))
