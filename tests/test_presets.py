"Presets: ranges and sentences of all values, contradictions found before data is read, settings of old runs"
import dataclasses
import itertools
import json
import re

import pytest

from geoalignclip_nb.core import GeoAlignError, assets_dir
from geoalignclip_nb.losses.objective import SETTING_TERMS
from geoalignclip_nb.train import engine, recipe
from geoalignclip_nb.train import presets as P
from geoalignclip_nb.train.presets import (
    Preset, StageSettings, change, check_preset, from_record, load_preset, preset_names)

BODY = '[stage1]\nsources = ["scenes:24"]\n'

# key, TOML value, a part of what the sentence allows
WRONG = [
    ('seed', '"x"', 'a whole number'), ('seed', '-1', 'at least 0'), ('seed', '1.5', 'a whole number'),
    ('seed', 'true', 'a whole number'), ('seed', '4294967296', 'at most 4294967295'),
    ('seed', 'inf', 'a whole number'), ('precision', '"fp16"', 'one of auto, fp32, bf16'),
    ('precision', '16', 'one of auto'), ('checkpoint_steps', '0', 'at least 1'), ('workers', '-1', 'at least 0'),
    ('report', '["x"]', 'tensorboard, wandb'), ('report', '["wandb", "wandb"]', 'different names'),
    ('report', '"wandb"', 'a list'), ('model', '3', 'a text'), ('compile', '1', 'true or false'),
    ('ground_size', '-64', 'at least 0'), ('stage1', '5', 'a table'), ('stage1', '[1]', 'a table'),
    ('stage1.lr', '"fast"', 'a number'), ('stage1.lr', 'nan', 'a number'), ('stage1.lr', '-1', 'at least 0'),
    ('stage1.lr', 'inf', 'a number'), ('stage1.lr', 'true', 'a number'), ('stage1.lr', '[1e-4]', 'a number'),
    ('stage1.epochs', '1.5', 'a whole number'), ('stage1.epochs', '0', 'at least 1'),
    ('stage1.epochs', '-3', 'at least 1'), ('stage1.epochs', 'false', 'a whole number'),
    ('stage1.size', '"64"', 'a whole number'), ('stage1.size', '0', 'at least 16'),
    ('stage1.batch_size', '0', 'at least 1'), ('stage1.evaluate_epochs', '0', 'at least 1'),
    ('stage1.weights', '3', 'a table of numbers'), ('stage2.weights', '[1]', 'a table of numbers'),
    ('stage1.weights', '{x = 1}', 'names from global'), ('stage1.weights', '{rpa = -1}', 'at least 0'),
    ('stage1.weights', '{rpa = true}', 'a table of numbers'), ('stage1.weights', '{rpa = nan}', 'a table of numbers'),
    ('stage1.patch_dropout', '1.0', 'below 1'), ('stage1.warmup', '-1', 'at least 0'),
    ('stage1.clip_norm', '0', 'above 0'), ('stage1.min_area', '0', 'above 0'),
    ('stage1.min_area', '1.1', 'at most 1'), ('stage1.light', '2', 'at most 1'),
    ('stage1.sources', '"scenes:24"', '["scenes:24"]'), ('stage1.sources', '[24]', 'a list of texts'),
    ('stage1.sources', '[""]', 'a list of texts'), ('stage2.losses', '["x"]', 'rpa, hna, vic, htc'),
    ('stage2.losses', '["rpa", "rpa"]', 'different names'), ('stage2.losses', '"rpa"', 'a list'),
    ('stage2.region_text', '"words"', 'phrase, description, random'),
    ('stage2.hna_text', '"x"', 'phrase, description, random'), ('stage2.duplicates', '"keep"', 'mask'),
    ('stage2.divide', '"x"', 'with_negatives'), ('stage2.stop_gradient', '"x"', 'none'),
    ('stage2.agreement', '"maybe"', 'cosine, contrast'), ('stage2.max_scale', '1', "above 1, or 'none'"),
    ('stage2.rpa_gather', '"yes"', "true or false, or 'none'"), ('stage2.crop_size', '-1', 'at least 0'),
    ('stage2.crop_padding', '-0.1', 'at least 0'), ('stage2.sibling_negatives', '1', 'true or false'),
    ('stage2.max_negatives', '0', 'at least 1'), ('stage2.max_regions', '0', 'at least 1'),
    ('stage2.background', '-1', 'at least 0'), ('stage2.zoom', '2', 'at most 1')]


def preset_in(folder, text, name='mine.toml'):
    "The path of a preset file"
    (folder/name).write_text(text)
    return str(folder/name)


def toml_with(key, value):
    "A preset file with one setting more"
    stage, _, name = key.rpartition('.')
    tables = {'': {}, (stage or 'stage1'): {'sources': '["scenes:24"]'}}
    if key in P.STAGE_NAMES: tables = {'': {}}
    tables[stage][name] = value
    lines = []
    for table, settings in tables.items():
        if table: lines.append(f'[{table}]')
        lines += [f'{n} = {v}' for n, v in settings.items()]
    return '\n'.join(lines)


def refused(call, *parts):
    "`call` raises `GeoAlignError` with one sentence that holds all `parts`"
    with pytest.raises(GeoAlignError) as error: call()
    said = str(error.value)
    assert said[0].isupper() and said[-1] in '.?' and '\n' not in said, said
    assert not re.search(r'\. [A-Z]', said), said
    for part in parts: assert part in said, (part, said)


def short(value): return str(value)[:30]


@pytest.mark.parametrize('key, value, allowed', WRONG, ids=short)
def test_a_wrong_value_in_a_file_is_one_sentence(key, value, allowed, tmp_path):
    refused(lambda: load_preset(preset_in(tmp_path, toml_with(key, value))), f"'{key}'", allowed, 'give')


@pytest.mark.parametrize('key, value, allowed', WRONG, ids=short)
def test_a_wrong_value_in_python_is_one_sentence(key, value, allowed):
    "Construction and `dataclasses.replace`"
    stage, _, name = key.rpartition('.')
    value = P.tomllib.loads(f'x = {value}')['x']
    settings = StageSettings if stage else Preset
    refused(lambda: settings(**{name: value}), f"'{name}'", allowed)
    refused(lambda: dataclasses.replace(settings(), **{name: value}), f"'{name}'", allowed)


# On the command line a word is a list of one, every text is a model, and 64 in quotes is a number.
TEXTS = {('report', '"wandb"'), ('stage1.sources', '"scenes:24"'), ('stage2.losses', '"rpa"'), ('model', '3'),
         ('stage1.size', '"64"')}


@pytest.mark.parametrize('key, value, allowed', [row for row in WRONG if row[:2] not in TEXTS], ids=short)
def test_a_wrong_value_on_the_command_line_is_one_sentence(key, value, allowed):
    refused(lambda: load_preset('debug', {key: value.strip('"')}), f"'{key}'", allowed)


def test_plain_conversions(tmp_path):
    "An int is a float; 1e3 and 2.0 are whole numbers, stored as int; tuples are lists; 'none' is None"
    text = BODY + 'warmup = 1e3\nepochs = 2.0\nlr = 1\nmax_scale = "none"\n'
    made = load_preset(preset_in(tmp_path, text)).stage1
    assert (made.warmup, made.epochs, made.lr, made.max_scale) == (1000, 2, 1., None)
    assert [type(v) for v in (made.warmup, made.epochs, made.lr)] == [int, int, float]
    assert StageSettings(losses=('rpa',)).losses == ['rpa']
    assert StageSettings(weights={'global_': 2}).weights == {'global': 2.}
    changed = change(load_preset('debug'), {'stage2.max_scale': 'none', 'stage2.epochs': '2.0', 'stage1.lr': '1'})
    assert (changed.stage2.max_scale, changed.stage2.epochs, changed.stage1.lr) == (None, 2, 1.)


def test_lists_and_tables_belong_to_one_instance():
    sources = ['scenes:24']
    first, second = StageSettings(sources=sources), StageSettings()
    sources.append('x')
    second.losses.clear()
    second.weights.clear()
    assert first.sources == ['scenes:24']
    assert len(StageSettings().losses) == 4 and StageSettings().weights['rpa'] == .1


def test_settings_cannot_be_changed_in_place():
    with pytest.raises(dataclasses.FrozenInstanceError): StageSettings().lr = -1


def test_every_setting_has_a_rule_and_a_default_that_keeps_it():
    for settings in (Preset, StageSettings):
        for f in dataclasses.fields(settings):
            assert P.check_value(f.name, P.default_of(f), f) == P.default_of(f) and f.metadata['rule'].meaning
            assert f'| `{f.name}` |' in P.settings_table(settings)
    check_preset(Preset(stage2=StageSettings(sources=['scenes:24'])))  # all defaults together


STAGES = "'stage1.{0}' or 'stage2.{0}'"
MISPLACED = [
    ('epochs', STAGES.format('epochs')), ('epoch', STAGES.format('epochs')), ('sources', STAGES.format('sources')),
    ('stage1.epoch', "'stage1.epochs'?"), ('stage2.batchsize', "'stage2.batch_size'"), ('stage1.seed', "mean 'seed'"),
    ('seeed', "'seed'"), ('precison', "'precision'")]


@pytest.mark.parametrize('key, places', MISPLACED)
def test_a_misplaced_key_gets_its_place(key, places, tmp_path):
    "The same in a file and on the command line"
    refused(lambda: load_preset('debug', {key: '1'}), f'{key!r} is unknown', places)
    refused(lambda: load_preset(preset_in(tmp_path, toml_with(key, 1))), f'{key!r} is unknown', places)


def test_a_third_stage_is_unknown(tmp_path):
    refused(lambda: load_preset('debug', {'stage3.lr': '1'}), STAGES.format('lr'))
    refused(lambda: load_preset(preset_in(tmp_path, toml_with('stage3.lr', 1))), "'stage3' is unknown", "'stage")


@pytest.mark.parametrize('key', ['no_such_key', 'stage1.no_such_key', 'stage1.epochs.x', 'stage1.', 'weights.rpa'])
def test_a_key_like_no_other_gets_the_list(key):
    refused(lambda: load_preset('debug', {key: '1'}), f'{key!r} is unknown', 'choose from')


def test_an_entry_of_a_table_can_be_changed_alone():
    made = load_preset('vit-tiny', {'stage2.weights.rpa': '0.2'})
    assert made.stage2.weights == dict(rpa=.2, hna=.5, vic=.5, htc=1.)
    for key, value in (('stage2.weights.x', '1'), ('stage2.weights.rpa', 'much'), ('stage2.weights.rpa', '-1')):
        refused(lambda: load_preset('vit-tiny', {key: value}), "'stage2.weights'", 'a table of numbers')


@pytest.mark.parametrize('text', ['rpa,hna', '["rpa", "hna"]'])
def test_lists_on_the_command_line(text):
    assert load_preset('debug', {'stage2.losses': text}).stage2.losses == ['rpa', 'hna']


@pytest.mark.parametrize('text', ['{"rpa": 1.0}', '{rpa = 1.0}'])
def test_tables_on_the_command_line(text):
    assert load_preset('debug', {'stage2.weights': text}).stage2.weights == {'rpa': 1.}


def test_a_stage_can_be_switched_off():
    second = load_preset('debug', {'stage1': 'none'})
    assert second.stage1 is None and second.stage2
    refused(lambda: change(second, {'stage1.lr': '1'}), 'no stage1')
    refused(lambda: load_preset('debug', {'stage1': 'none', 'stage2': 'none'}), 'no stage')


# --- files

def test_a_byte_order_mark_is_skipped(tmp_path):
    (tmp_path/'bom.toml').write_bytes(b'\xef\xbb\xbfseed = 3\n' + BODY.encode())
    assert load_preset(str(tmp_path/'bom.toml')).seed == 3


NOT_PRESETS = [('folder', 'is a folder'), ('latin', 'UTF-8'), ('cut', 'not valid TOML'), ('deep', 'not valid TOML'),
               ('missing', 'choose ablation')]


@pytest.mark.parametrize('name, part', NOT_PRESETS)
def test_what_is_not_a_preset_file_is_one_sentence(name, part, tmp_path):
    (tmp_path/'folder.toml').mkdir()
    (tmp_path/'latin.toml').write_bytes('seed = 3  # Größe\n'.encode('latin-1'))
    preset_in(tmp_path, 'model = ', 'cut.toml')
    preset_in(tmp_path, 'seed = ' + '[' * 5000, 'deep.toml')
    refused(lambda: load_preset(str(tmp_path/f'{name}.toml')), f'{name}.toml', part)


def test_an_unknown_preset_gets_the_list(): refused(lambda: load_preset('nothing'), 'debug, paper-b16')


def test_a_base_gives_what_a_preset_does_not_say():
    "Numbers of paper section 5.1"
    large, base = load_preset('paper-l14-336'), load_preset('paper-b16')
    assert (large.stage1.size, base.stage1.size) == (336, 224) and large.init == 'ViT-L-14-336-quickgelu.openai'
    stage = large.stage2
    assert (stage.lr, stage.weight_decay, stage.warmup, stage.epochs) == (1e-6, 1e-3, 50, 5)


def test_a_base_is_found_beside_its_file_and_tables_are_merged(tmp_path):
    (tmp_path/'sub').mkdir()
    preset_in(tmp_path/'sub', BODY + 'lr = 3e-4\n[stage1.weights]\nglobal = 2\n', 'base.toml')
    made = load_preset(preset_in(tmp_path/'sub', 'base = "base.toml"\n[stage1]\nepochs = 2\n')).stage1
    assert (made.lr, made.epochs, made.weights, made.sources) == (3e-4, 2, {'global': 2.}, ['scenes:24'])


def test_a_preset_of_ones_own_may_have_the_name_of_its_base(tmp_path):
    assert load_preset(preset_in(tmp_path, 'base = "debug"\nseed = 9\n', 'debug.toml')).seed == 9


BAD_BASES = [
    ('"mine.toml"', 'leads back to itself (mine.toml → mine.toml)'),
    ('"other.toml"', '(mine.toml → other.toml → third.toml → other.toml)'),
    ('"nowhere.toml"', "'base' of mine.toml"), ('"nowhere"', "'base' of mine.toml"), ('3', "'base' of mine.toml is 3"),
    ('""', "'base' of mine.toml")]


@pytest.mark.parametrize('base, part', BAD_BASES)
def test_a_base_that_cannot_be_is_one_sentence(base, part, tmp_path):
    preset_in(tmp_path, 'base = "third.toml"\n', 'other.toml')
    preset_in(tmp_path, 'base = "other.toml"\n', 'third.toml')
    with pytest.raises(GeoAlignError) as e: load_preset(preset_in(tmp_path, f'base = {base}\n{BODY}'))
    assert part in str(e.value) and '\n' not in str(e.value)


# --- contradictions and settings without effect

CONTRADICTIONS = [
    ('stage2.crop_size=0', "'stage2.crop_size' is 0", 'vic'), ('stage2.patch_dropout=0.5', "'stage2.patch_dropout'"),
    ('stage1.sources=', "'stage1.sources' is empty"), ('stage2.sources=', "'stage2.sources' is empty"),
    ('stage2.losses=rpa,hna,htc stage2.crop_padding=0.1', "'stage2.crop_padding' has no effect", 'lacks vic'),
    ('stage2.losses=rpa stage2.hna_text=phrase', "'stage2.hna_text'", 'lacks hna'),
    ('stage2.losses=rpa stage2.sibling_negatives=true', 'lacks hna'),
    ('stage2.losses=rpa stage2.max_negatives=3', 'lacks hna'), ('stage2.losses=rpa stage2.divide=all', 'lacks hna'),
    ('stage2.losses=vic stage2.rpa_gather=false', 'lacks rpa'),
    ('stage2.losses=vic stage2.shared_scale=true', 'lacks rpa and hna'),
    ('stage2.losses=rpa stage2.agreement=contrast', 'lacks vic'),
    ('stage2.losses=rpa stage2.stop_gradient=crop', 'lacks vic'),
    ('stage2.losses=rpa stage2.literal_total=true', 'lacks htc'),
    ('stage1.crop_size=64', 'Stage I has the global term alone'), ('stage1.shared_scale=true', 'Stage I has'),
    ('stage1.losses=rpa', 'belongs to stage2'), ('stage1.max_regions=2', 'belongs to stage2'),
    ('stage1.augment=false stage1.min_area=0.9', "'stage1.min_area'", 'augment is false'),
    ('stage2.augment=false stage2.zoom=0.9', 'augment is false'),
    ('stage2.weights={"global":50}', "'stage2.weights'", 'literal_total'),
    ('stage2.weights.global=50', 'literal_total'), ('stage1.weights.rpa=2', 'Stage I'),
    ('stage2.losses=rpa stage2.weights.vic=2', "'stage2.weights.vic'", 'lacks vic')]


@pytest.mark.parametrize('words, parts', [(row[0], row[1:]) for row in CONTRADICTIONS])
def test_contradictions_are_found_before_data_is_read(words, parts, monkeypatch):
    monkeypatch.setattr(engine, 'open_sources', lambda *a, **k: pytest.fail('data was read'))
    refused(lambda: load_preset('debug', P.parse_overrides(words.split())), *parts)


def test_a_file_is_asked_about_its_own_settings_only(tmp_path):
    "A file may inherit settings without effect; it may write them where they equal the default"
    start = 'base = "debug"\n[stage2]\nlosses = ["rpa"]\n'
    made = load_preset(preset_in(tmp_path, start)).stage2
    assert made.max_negatives == 2 and made.sibling_negatives
    wrong = preset_in(tmp_path, start + 'max_negatives = 3\n')
    refused(lambda: load_preset(wrong), "'stage2.max_negatives' has no effect")
    load_preset(preset_in(tmp_path, start + 'crop_padding = 0.0\ndivide = "with_negatives"\n'))


def test_inherited_weights_of_terms_that_are_off_are_dropped():
    "The objective refuses them; settings of the data stay"
    made = load_preset('vit-tiny', {'stage2.losses': 'vic', 'stage2.weights.vic': '2'}).stage2
    assert made.max_negatives == 4 and made.weights == dict(hna=.5, vic=2., htc=1.)


SUBSETS = [','.join(s) for n in range(5) for s in itertools.combinations(P.LOSS_TERMS, n)]


@pytest.mark.parametrize('name', ['vit-tiny', 'paper-b16', 'paper-b16-literal'])
@pytest.mark.parametrize('losses', SUBSETS)
def test_every_preset_takes_every_choice_of_losses(name, losses):
    "`load_preset` builds the objective, which refuses settings without effect"
    made = load_preset(name, {'stage2.losses': losses})
    assert made.stage2.losses == [name for name in losses.split(',') if name]


@pytest.mark.parametrize('name', SETTING_TERMS)
def test_the_objective_and_the_presets_agree_on_the_needs(name):
    "A setting that differs from its default, with the one term switched off that it belongs to"
    values = dict(divide='all', stop_gradient='crop', agreement='contrast', rpa_gather=True, literal_total=True,
                  shared_scale=True)
    terms = {term.partition('_')[0] for term in SETTING_TERMS[name]}
    rest = [term for term in P.LOSS_TERMS if term not in terms]
    on = StageSettings(sources=['scenes:24'], **{name: values[name]})
    assert P.drop_unused(on, 'stage2') == on
    off = P.drop_unused(dataclasses.replace(on, losses=rest), 'stage2')
    assert getattr(off, name) == getattr(StageSettings(), name)


def test_the_contrast_of_vic_reads_the_shared_scale():
    settings = {'stage2.losses': 'vic', 'stage2.agreement': 'contrast'}
    assert load_preset('paper-b16-literal', settings).stage2.shared_scale
    assert not load_preset('paper-b16-literal', {'stage2.losses': 'vic'}).stage2.shared_scale


@pytest.mark.parametrize('words', ['stage1.weights.global=2', 'stage2.losses=rpa stage2.weights.global=2',
                                   'stage2.literal_total=true stage2.weights.global=2', 'stage2.weights.htc_brief=2',
                                   'stage2.losses=rpa stage2.weights.vic=0'])
def test_weights_with_an_effect_are_taken(words):
    overrides = P.parse_overrides(words.split())
    key = list(overrides)[-1]
    stage, _, name = key.split('.')
    assert getattr(load_preset('debug', overrides), stage).weights[name] == float(overrides[key])


def test_crops_are_as_large_as_the_image_unless_a_size_is_given():
    assert [StageSettings(size=224, crop_size=size).crop_pixels for size in (None, 64, 0)] == [224, 64, 0]


# --- shipped presets

LITERAL = dict(literal_total=True, duplicates='none', shared_scale=True, region_text='description',
               hna_text='description', divide='all')
PRINTED = dict(sibling_negatives=False, stop_gradient='none', agreement='cosine')


@pytest.mark.parametrize('name', ['paper-b16', 'paper-l14', 'paper-l14-336'])
def test_a_literal_preset_differs_in_its_losses_only(name):
    plain = dataclasses.asdict(load_preset(name))
    literal = dataclasses.asdict(load_preset(f'{name}-literal'))
    stages = [(plain.pop(stage), literal.pop(stage)) for stage in P.STAGE_NAMES]
    changed = [{k: new[k] for k in new if new[k] != old[k]} for old, new in stages]
    assert plain == literal and changed == [dict(duplicates='none'), LITERAL]
    assert PRINTED.items() <= stages[1][1].items()


@pytest.mark.parametrize('name', preset_names())
def test_a_shipped_preset_keeps_the_original_pixels(name):
    preset = load_preset(name)
    assert preset.stage2.sibling_negatives == (not name.startswith('paper'))
    assert preset.stage1.side == preset.stage2.side == 0
    assert from_record(json.loads(json.dumps(dataclasses.asdict(preset)))) == preset


def test_settings_of_a_run_are_a_file_and_one_line(tmp_path, capsys):
    recipe.train_preset('debug', {'stage1': 'none'}, out=tmp_path)
    lines = [line for line in capsys.readouterr().err.splitlines() if 'ettings' in line]
    assert [line.lower() for line in lines] == [f'settings: {tmp_path/"settings.json"}'.lower()]
    assert json.loads((tmp_path/'settings.json').read_text())['stage2']['batch_size'] == 8


def test_a_wrong_preset_leaves_no_folder(tmp_path):
    run = tmp_path/'run'
    refused(lambda: recipe.train_preset('debug', dict(report='papyrus'), out=run, quiet=True), "'report'")
    crops = dataclasses.replace(load_preset('debug').stage2, crop_size=0)
    refused(lambda: recipe.run_preset(Preset(stage2=crops), run, quiet=True), 'crop_size')
    assert not run.exists()


# --- records of earlier runs

OLD_WEIGHTS = {'global_': 1., 'rpa': .1, 'hna': .5, 'vic': .5, 'htc': 1.}


def test_an_old_record_keeps_its_meaning():
    "Keys that are gone are dropped, missing ones get the value that the code had before they existed"
    first = {'sources': ['scenes:24'], 'crop_size': 0, 'weights': OLD_WEIGHTS}
    second = {'sources': ['scenes:24'], 'crop_size': 64, 'also_gone': 2}
    made = from_record({'model': 'vit-tiny', 'seed': 3, 'gone': 1, 'stage1': first, 'stage2': second})
    assert (made.precision, made.stage2.sibling_negatives, made.stage2.side) == ('bf16', True, 160)
    assert (made.stage1.crop_size, made.stage2.crop_size) == (None, 64)
    assert made.stage1.weights == StageSettings().weights
    assert from_record({'stage1': None, 'stage2': None}) == Preset(precision='bf16')


def test_vit_tiny_keeps_a_readable_record():
    configs = [json.loads(path.read_text()) for path in assets_dir().rglob('config.json')]
    records = [config['preset'] for config in configs if 'preset' in config]
    assert records
    for record in records: assert from_record(record).stage1.epochs == record['stage1']['epochs']


def test_old_defaults_written_out_are_the_same_settings():
    written = {'stage1': {'crop_size': 0, 'sources': ['scenes:24'], 'weights': OLD_WEIGHTS, 'side': 160}}
    assert from_record(written) == from_record({'stage1': {'sources': ['scenes:24']}})
    assert from_record(written) != from_record({'stage1': {'sources': ['scenes:25']}})


@pytest.mark.parametrize('record', [None, [], 'x', {'stage1': 5}, {'stage2': [1]}])
def test_a_damaged_record_is_one_sentence(record): refused(lambda: from_record(record), 'damaged')
