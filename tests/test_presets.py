"Presets: every value has a range and one sentence, contradictions are found before data is read, old records stay readable"
import dataclasses
import itertools
import json
import os
import re

import pytest
import torch

from geoalignclip_nb.architectures import architecture
from geoalignclip_nb.core import GeoAlignError, precision_context
from geoalignclip_nb.model import GeoAlignCLIP
from geoalignclip_nb.train import engine, recipe
from geoalignclip_nb.train import presets as P
from geoalignclip_nb.train.presets import Preset, StageSettings, change, check_preset, from_record, load_preset, preset_names

BODY = '[stage1]\nsources = ["scenes:24"]\n'
# key, TOML value, what the sentence says is allowed
WRONG = [
    ('seed', '"x"', 'a whole number'), ('seed', '-1', 'at least 0'), ('seed', '1.5', 'a whole number'), ('seed', 'true', 'a whole number'),
    ('seed', '4294967296', 'at most 4294967295'), ('seed', 'inf', 'a whole number'),
    ('precision', '"fp16"', 'one of auto, fp32, bf16'), ('precision', '16', 'one of auto'), ('checkpoint_steps', '0', 'at least 1'),
    ('workers', '-1', 'at least 0'), ('report', '["x"]', 'tensorboard, wandb'), ('report', '["wandb", "wandb"]', 'different names'),
    ('report', '"wandb"', 'a list'), ('model', '3', 'a text'), ('compile', '1', 'true or false'), ('ground_size', '-64', 'at least 0'),
    ('stage1', '5', 'a table'), ('stage1', '[1]', 'a table'),
    ('stage1.lr', '"fast"', 'a number'), ('stage1.lr', 'nan', 'a number'), ('stage1.lr', '-1', 'at least 0'), ('stage1.lr', 'inf', 'a number'),
    ('stage1.lr', 'true', 'a number'), ('stage1.lr', '[1e-4]', 'a number'), ('stage1.epochs', '1.5', 'a whole number'),
    ('stage1.epochs', '0', 'at least 1'), ('stage1.epochs', '-3', 'at least 1'), ('stage1.epochs', 'false', 'a whole number'),
    ('stage1.size', '"64"', 'a whole number'), ('stage1.size', '0', 'at least 16'), ('stage1.batch_size', '0', 'at least 1'),
    ('stage1.evaluate_epochs', '0', 'at least 1'), ('stage1.weights', '3', 'a table of numbers'), ('stage2.weights', '[1]', 'a table of numbers'),
    ('stage1.weights', '{x = 1}', 'names from global'), ('stage1.weights', '{rpa = -1}', 'at least 0'), ('stage1.weights', '{rpa = true}', 'a table of numbers'),
    ('stage1.weights', '{rpa = nan}', 'a table of numbers'), ('stage1.patch_dropout', '1.0', 'below 1'), ('stage1.warmup', '-1', 'at least 0'),
    ('stage1.clip_norm', '0', 'above 0'), ('stage1.min_area', '0', 'above 0'), ('stage1.min_area', '1.1', 'at most 1'), ('stage1.light', '2', 'at most 1'),
    ('stage1.sources', '"scenes:24"', '["scenes:24"]'), ('stage1.sources', '[24]', 'a list of texts'), ('stage1.sources', '[""]', 'a list of texts'),
    ('stage2.losses', '["x"]', 'rpa, hna, vic, htc'), ('stage2.losses', '["rpa", "rpa"]', 'different names'), ('stage2.losses', '"rpa"', 'a list'),
    ('stage2.region_text', '"words"', 'phrase, description, random'), ('stage2.hna_text', '"x"', 'phrase, description, random'),
    ('stage2.duplicates', '"keep"', 'mask'), ('stage2.divide', '"x"', 'with_negatives'), ('stage2.stop_gradient', '"x"', 'none'),
    ('stage2.agreement', '"maybe"', 'cosine, contrast'), ('stage2.max_scale', '1', "above 1, or 'none'"), ('stage2.rpa_gather', '"yes"', "true or false, or 'none'"),
    ('stage2.crop_size', '-1', 'at least 0'), ('stage2.crop_padding', '-0.1', 'at least 0'), ('stage2.sibling_negatives', '1', 'true or false'),
    ('stage2.max_negatives', '0', 'at least 1'), ('stage2.max_regions', '0', 'at least 1'), ('stage2.background', '-1', 'at least 0'), ('stage2.zoom', '2', 'at most 1'),
]


def preset_in(folder, text, name='mine.toml'):
    "The path of a preset file"
    (folder/name).write_text(text)
    return str(folder/name)


def toml_with(key, value):
    "A preset with one setting more"
    stage, dot, name = key.rpartition('.')
    if stage == 'stage1': return BODY + f'{name} = {value}\n'.replace('sources = ["scenes:24"]\n', '') if name != 'sources' else f'[stage1]\nsources = {value}\n'
    if stage == 'stage2': return f'[stage2]\nsources = ["scenes:24"]\n{name} = {value}\n'
    return f'{name} = {value}\n' + (BODY if name != 'stage1' else '')


def one_sentence(error, *parts):
    said = str(error.value)
    assert said[0].isupper() and said[-1] in '.?' and '\n' not in said and not re.search(r'\. [A-Z]', said), said
    for part in parts: assert part in said, (part, said)


@pytest.mark.parametrize('key, value, allowed', WRONG, ids=lambda v: str(v)[:30])
def test_a_wrong_value_in_a_file_is_one_sentence(key, value, allowed, tmp_path):
    with pytest.raises(GeoAlignError) as e: load_preset(preset_in(tmp_path, toml_with(key, value)))
    one_sentence(e, f"'{key}'", allowed, 'give')


@pytest.mark.parametrize('key, value, allowed', WRONG, ids=lambda v: str(v)[:30])
def test_a_wrong_value_in_python_is_one_sentence(key, value, allowed):
    "Construction and `dataclasses.replace`"
    stage, _, name = key.rpartition('.')
    value = P.tomllib.loads(f'x = {value}')['x']
    settings = StageSettings if stage else Preset
    for make in (lambda: settings(**{name: value}), lambda: dataclasses.replace(settings(), **{name: value})):
        with pytest.raises(GeoAlignError) as e: make()
        one_sentence(e, f"'{name}'", allowed)


LISTS = {'report', 'sources', 'losses'}  # on the command line a single word is a list of one


@pytest.mark.parametrize('key, value, allowed', [w for w in WRONG if not (w[0].rpartition('.')[2] in LISTS and w[1][0] == '"' or w[0] == 'model')], ids=lambda v: str(v)[:30])
def test_a_wrong_value_on_the_command_line_is_one_sentence(key, value, allowed):
    if (key, value) in [('stage1.sources', '[""]')]: value = '[""]'
    text = value.strip('"')
    if key == 'stage1.size': text = 'large'
    with pytest.raises(GeoAlignError) as e: load_preset('debug', {key: text})
    one_sentence(e, f"'{key}'", allowed)


def test_plain_conversions(tmp_path):
    "An int is a float; 1e3 and 2.0 are whole numbers, stored as int; tuples are lists; 'none' is None"
    made = load_preset(preset_in(tmp_path, BODY + 'warmup = 1e3\nepochs = 2.0\nlr = 1\nmax_scale = "none"\n')).stage1
    assert (made.warmup, made.epochs, made.lr, made.max_scale) == (1000, 2, 1., None)
    assert [type(v) for v in (made.warmup, made.epochs, made.lr)] == [int, int, float]
    assert StageSettings(losses=('rpa',)).losses == ['rpa'] and StageSettings(weights={'global_': 2}).weights == {'global': 2.}
    assert change(load_preset('debug'), {'stage2.max_scale': 'none', 'stage2.epochs': '2.0', 'stage1.lr': '1'}).stage2.epochs == 2


def test_lists_and_tables_belong_to_one_instance():
    sources = ['scenes:24']
    first, second = StageSettings(sources=sources), StageSettings()
    sources.append('x'), second.losses.clear(), second.weights.clear()
    assert first.sources == ['scenes:24'] and len(StageSettings().losses) == 4 and StageSettings().weights['rpa'] == .1


def test_settings_cannot_be_changed_in_place():
    with pytest.raises(dataclasses.FrozenInstanceError): StageSettings().lr = -1


def test_every_setting_has_a_rule_and_a_default_that_keeps_it():
    for settings in (Preset, StageSettings):
        for f in dataclasses.fields(settings):
            assert P.check_value(f.name, P.default_of(f), f) == P.default_of(f) and f.metadata['rule'].meaning
            assert f'| `{f.name}` |' in P.settings_table(settings)
    check_preset(Preset(stage2=StageSettings(sources=['scenes:24'])))  # all defaults together


@pytest.mark.parametrize('key, places', [
    ('epochs', "'stage1.epochs' or 'stage2.epochs'"), ('epoch', "'stage1.epochs' or 'stage2.epochs'"), ('stage1.epoch', "'stage1.epochs'?"),
    ('stage2.batchsize', "'stage2.batch_size'"), ('stage1.seed', "mean 'seed'"), ('stage3.lr', "'stage1.lr' or 'stage2.lr'"), ('seeed', "'seed'"), ('precison', "'precision'"),
    ('sources', "'stage1.sources' or 'stage2.sources'")])
def test_a_misplaced_key_gets_its_place(key, places, tmp_path):
    "The same in a file and on the command line"
    stage, _, name = key.rpartition('.')
    head = f'{name} = 1\n' + BODY if not stage else f'{BODY}\n[{stage}]\n{name} = 1\n'.replace('[stage1]\nsources = ["scenes:24"]\n\n[stage1]', '[stage1]')
    for load in (lambda: load_preset('debug', {key: '1'}), lambda: load_preset(preset_in(tmp_path, head))):
        with pytest.raises(GeoAlignError) as e: load()
        if stage != 'stage3': one_sentence(e, f'{key!r} is unknown', places)
        one_sentence(e, 'is unknown')


@pytest.mark.parametrize('key', ['no_such_key', 'stage1.no_such_key', 'stage1.epochs.x', 'seed.x', 'stage1.'])
def test_a_key_like_no_other_gets_the_list(key):
    with pytest.raises(GeoAlignError) as e: load_preset('debug', {key: '1'})
    one_sentence(e, 'is unknown', 'choose from' if key != 'seed.x' else 'unknown')


def test_an_entry_of_a_table_can_be_changed_alone():
    made = load_preset('tiny', {'stage2.weights.rpa': '0.2'})
    assert made.stage2.weights == dict(rpa=.2, hna=.5, vic=.5, htc=1.)
    for key, value in (('stage2.weights.x', '1'), ('stage2.weights.rpa', 'much'), ('stage2.weights.rpa', '-1')):
        with pytest.raises(GeoAlignError) as e: load_preset('tiny', {key: value})
        one_sentence(e, "'stage2.weights'", 'a table of numbers')


@pytest.mark.parametrize('text', ['rpa,hna', '["rpa", "hna"]'])
def test_lists_on_the_command_line(text): assert load_preset('debug', {'stage2.losses': text}).stage2.losses == ['rpa', 'hna']


@pytest.mark.parametrize('text', ['{"rpa": 1.0}', '{rpa = 1.0}'])
def test_tables_on_the_command_line(text): assert load_preset('debug', {'stage2.weights': text}).stage2.weights == {'rpa': 1.}


def test_a_stage_can_be_switched_off():
    assert load_preset('debug', {'stage1': 'none'}).stage1 is None
    with pytest.raises(GeoAlignError) as e: change(load_preset('debug', {'stage1': 'none'}), {'stage1.lr': '1'})
    one_sentence(e, 'no stage1')
    with pytest.raises(GeoAlignError) as e: load_preset('debug', {'stage1': 'none', 'stage2': 'none'})
    one_sentence(e, 'no stage')


# --- files

def test_a_byte_order_mark_is_skipped(tmp_path):
    (tmp_path/'bom.toml').write_bytes(b'\xef\xbb\xbfseed = 3\n' + BODY.encode())
    assert load_preset(str(tmp_path/'bom.toml')).seed == 3


def test_what_is_not_a_preset_file_is_one_sentence(tmp_path):
    (tmp_path/'folder.toml').mkdir()
    (tmp_path/'latin.toml').write_bytes('seed = 3  # Größe\n'.encode('latin-1'))
    preset_in(tmp_path, 'model = ', 'cut.toml')
    preset_in(tmp_path, 'seed = ' + '[' * 5000, 'deep.toml')
    for name, part in (('folder', 'is a folder'), ('latin', 'UTF-8'), ('cut', 'not valid TOML'), ('deep', 'not valid TOML'), ('missing', 'choose ablation')):
        with pytest.raises(GeoAlignError) as e: load_preset(str(tmp_path/f'{name}.toml'))
        one_sentence(e, f'{name}.toml', part)
    with pytest.raises(GeoAlignError, match='debug, paper-b16'): load_preset('nothing')


def test_a_base_gives_what_a_preset_does_not_say():
    large, base = load_preset('paper-l14-336'), load_preset('paper-b16')
    assert (large.stage1.size, base.stage1.size) == (336, 224) and large.init == 'ViT-L-14-336-quickgelu.openai'
    assert (large.stage2.lr, large.stage2.weight_decay, large.stage2.warmup, large.stage2.epochs) == (1e-6, 1e-3, 50, 5)  # paper section 5.1


def test_a_base_is_found_beside_its_file_and_tables_are_merged(tmp_path):
    (tmp_path/'sub').mkdir()
    preset_in(tmp_path/'sub', BODY + 'lr = 3e-4\n[stage1.weights]\nglobal = 2\n', 'base.toml')
    made = load_preset(preset_in(tmp_path/'sub', 'base = "base.toml"\n[stage1]\nepochs = 2\n'))
    assert (made.stage1.lr, made.stage1.epochs, made.stage1.weights, made.stage1.sources) == (3e-4, 2, {'global': 2.}, ['scenes:24'])


def test_a_preset_of_ones_own_may_have_the_name_of_its_base(tmp_path):
    assert load_preset(preset_in(tmp_path, 'base = "debug"\nseed = 9\n', 'debug.toml')).seed == 9


@pytest.mark.parametrize('text, parts', [
    ('base = "mine.toml"\n', ['leads back', 'mine.toml → mine.toml']), ('base = "other.toml"\n', ['leads back', 'mine.toml → other.toml → third.toml → other.toml']),
    ('base = "nowhere.toml"\n', ["'base' of mine.toml", 'nowhere.toml']), ('base = "nowhere"\n', ["'base' of mine.toml", 'nowhere']), ('base = 3\n', ["'base' of mine.toml is 3"])])
def test_a_base_that_cannot_be_is_one_sentence(text, parts, tmp_path):
    preset_in(tmp_path, 'base = "third.toml"\n', 'other.toml'), preset_in(tmp_path, 'base = "other.toml"\n', 'third.toml')
    with pytest.raises(GeoAlignError) as e: load_preset(preset_in(tmp_path, text + BODY))
    said = str(e.value)
    assert '\n' not in said and said[-1] in '.?' and all(p in said for p in parts), said


# --- contradictions and settings without effect

@pytest.mark.parametrize('overrides, parts', [
    ({'stage2.crop_size': '0'}, ["'stage2.crop_size' is 0", 'vic']), ({'stage2.patch_dropout': '0.5'}, ["'stage2.patch_dropout'"]),
    ({'stage1.sources': ''}, ["'stage1.sources' is empty"]),
    ({'stage2.losses': 'rpa,hna,htc', 'stage2.crop_padding': '0.1'}, ["'stage2.crop_padding' has no effect", 'lacks vic']),
    ({'stage2.losses': 'rpa', 'stage2.hna_text': 'phrase'}, ["'stage2.hna_text'", 'lacks hna']), ({'stage2.losses': 'rpa', 'stage2.sibling_negatives': 'true'}, ['lacks hna']),
    ({'stage2.losses': 'rpa', 'stage2.max_negatives': '3'}, ['lacks hna']), ({'stage2.losses': 'vic', 'stage2.rpa_gather': 'false'}, ['lacks rpa']),
    ({'stage2.losses': 'rpa', 'stage2.agreement': 'contrast'}, ['lacks vic']), ({'stage2.losses': 'rpa', 'stage2.stop_gradient': 'crop'}, ['lacks vic']),
    ({'stage2.losses': 'rpa', 'stage2.divide': 'all'}, ['lacks hna']), ({'stage2.losses': 'rpa', 'stage2.literal_total': 'true'}, ['lacks htc']),
    ({'stage1.crop_size': '64'}, ['Stage I has the global term alone']), ({'stage1.losses': 'rpa'}, ['belongs to stage2']), ({'stage1.max_regions': '2'}, ['belongs to stage2']),
    ({'stage1.augment': 'false', 'stage1.min_area': '0.9'}, ["'stage1.min_area'", 'augment is false']), ({'stage2.augment': 'false', 'stage2.zoom': '0.9'}, ['augment is false']),
    ({'stage2.weights': '{"global": 50}'}, ["'stage2.weights'", 'literal_total']), ({'stage2.weights.global': '50'}, ['literal_total']),
    ({'stage2.losses': 'rpa', 'stage2.weights.vic': '2'}, ["'stage2.weights.vic'", 'lacks vic']), ({'stage1.weights.rpa': '2'}, ['Stage I'])])
def test_contradictions_are_found_before_data_is_read(overrides, parts, monkeypatch):
    from geoalignclip_nb.train import engine
    monkeypatch.setattr(engine, 'open_sources', lambda *a, **k: pytest.fail('data was read'))
    with pytest.raises(GeoAlignError) as e: load_preset('debug', overrides)
    one_sentence(e, *parts)


def test_a_file_is_asked_about_its_own_settings_only(tmp_path):
    "What a base gives may rest; what the file writes itself has an effect"
    made = load_preset(preset_in(tmp_path, 'base = "debug"\n[stage2]\nlosses = ["rpa"]\n'))
    assert made.stage2.max_negatives == 2 and made.stage2.sibling_negatives
    with pytest.raises(GeoAlignError, match="'stage2.max_negatives' has no effect"): load_preset(preset_in(tmp_path, 'base = "debug"\n[stage2]\nlosses = ["rpa"]\nmax_negatives = 3\n'))
    load_preset(preset_in(tmp_path, 'base = "debug"\n[stage2]\nlosses = ["rpa"]\ncrop_padding = 0.0\ndivide = "with_negatives"\n'))  # defaults


def test_inherited_settings_may_rest():
    "Those of the data stay; weights of terms that are off are dropped, because the objective refuses them"
    made = load_preset('tiny', {'stage2.losses': 'vic', 'stage2.weights.vic': '2'}).stage2
    assert made.max_negatives == 4 and made.weights == dict(hna=.5, vic=2., htc=1.)


SUBSETS = [','.join(s) for n in range(5) for s in itertools.combinations(P.LOSS_TERMS, n)]


@pytest.mark.parametrize('name', ['tiny', 'paper-b16', 'paper-b16-literal'])
@pytest.mark.parametrize('losses', SUBSETS)
def test_every_preset_takes_every_choice_of_losses(name, losses):
    "`load_preset` builds the objective, which refuses settings without effect"
    assert load_preset(name, {'stage2.losses': losses}).stage2.losses == losses.split(',') * bool(losses)


def test_the_contrast_of_vic_reads_the_shared_scale():
    settings = {'stage2.losses': 'vic', 'stage2.agreement': 'contrast'}
    assert load_preset('paper-b16-literal', settings).stage2.shared_scale
    assert not load_preset('paper-b16-literal', {'stage2.losses': 'vic'}).stage2.shared_scale


def test_terms_of_stage_1_and_of_the_literal_total_take_their_weight():
    assert load_preset('debug', {'stage1.weights.global': '2'}).stage1.weights['global'] == 2
    assert load_preset('debug', {'stage2.literal_total': 'true', 'stage2.weights.global': '2'}).stage2.literal_total
    assert load_preset('debug', {'stage2.losses': 'rpa', 'stage2.weights.global': '2'}).stage2.weights['global'] == 2


def test_crops_are_as_large_as_the_image_unless_a_size_is_given():
    assert [StageSettings(size=224, crop_size=c).crop_pixels for c in (None, 64, 0)] == [224, 64, 0]


# --- shipped presets

LITERAL = dict(literal_total=True, duplicates='none', shared_scale=True, region_text='description', hna_text='description', divide='all')


@pytest.mark.parametrize('name', ['paper-b16', 'paper-l14', 'paper-l14-336'])
def test_a_literal_preset_differs_in_its_losses_only(name):
    plain, literal = dataclasses.asdict(load_preset(name)), dataclasses.asdict(load_preset(f'{name}-literal'))
    stages = [(plain.pop(s), literal.pop(s)) for s in P.STAGE_NAMES]
    assert plain == literal
    assert [{k: new[k] for k in new if new[k] != old[k]} for old, new in stages] == [dict(duplicates='none'), LITERAL]
    assert (literal_stage := stages[1][1])['sibling_negatives'] is False and literal_stage['stop_gradient'] == 'none' and literal_stage['agreement'] == 'cosine'


@pytest.mark.parametrize('name', preset_names())
def test_a_shipped_preset_measures_its_precision_and_keeps_whole_images(name):
    preset = load_preset(name)
    assert preset.precision == 'auto' and preset.stage2.sibling_negatives == (not name.startswith('paper'))
    assert (preset.stage1.side, preset.stage2.side) == (StageSettings().side,) * 2
    assert from_record(json.loads(json.dumps(dataclasses.asdict(preset)))) == preset


def short_model(name, blocks: int | None):
    "A model with random weights; towers longer than `blocks` are cut, so that the large presets fit"
    config = architecture(name)
    if blocks:
        for part in ('vision_cfg', 'text_cfg'): config[part]['layers'] = min(blocks, config[part].get('layers', 12))
    return GeoAlignCLIP.create(config)


@pytest.mark.parametrize('name', preset_names())
def test_every_preset_makes_a_step_of_each_stage(name):
    """At its own image and crop size, on one image with one region; with two blocks in each tower, or
    with GEOALIGN_WHOLE_PRESETS=1 with all of them (minutes)"""
    preset = load_preset(name)
    model = short_model(preset.model, None if os.environ.get('GEOALIGN_WHOLE_PRESETS') else 2)
    small = dict(sources=['scenes:2'], batch_size=1, max_regions=1, max_negatives=2, background=0.)
    for number, settings in ((1, preset.stage1), (2, preset.stage2)):
        loader = engine.stage_loader(model, number, dataclasses.replace(settings, **small), preset, True)
        batch = loader.batch(0, 0)
        assert batch['images'].shape[-1] == settings.size
        if number == 2: assert batch['crops'].shape[-1] == settings.crop_pixels
        optimizer = engine.make_optimizer(model, settings)
        before = model.clip.visual.conv1.weight.detach().clone()
        with precision_context('cpu', preset.precision): parts = engine.stage_objective(settings, number)(**model(batch))
        parts['total'].backward()
        optimizer.step()
        optimizer.zero_grad()
        assert all(part.isfinite() for part in parts.values())
        assert not torch.equal(before, model.clip.visual.conv1.weight)


def test_settings_of_a_run_are_a_file_and_one_line(tmp_path, capsys):
    recipe.train_preset('debug', {'stage1': 'none'}, out=tmp_path)
    lines = [line for line in capsys.readouterr().err.splitlines() if 'ettings' in line]
    assert lines == [f'Settings: {tmp_path/"settings.json"}']
    assert json.loads((tmp_path/'settings.json').read_text())['stage2']['batch_size'] == 8


def test_a_wrong_preset_leaves_no_folder(tmp_path):
    with pytest.raises(GeoAlignError, match="'report'"): recipe.train_preset('debug', dict(report='papyrus'), out=tmp_path/'run', quiet=True)
    crops = dataclasses.replace(load_preset('debug').stage2, crop_size=0)
    with pytest.raises(GeoAlignError, match='crop_size'): recipe.run_preset(Preset(stage2=crops), tmp_path/'run', quiet=True)
    assert not (tmp_path/'run').exists()


# --- records of earlier runs

def test_an_old_record_keeps_its_meaning():
    "Keys that are gone are dropped, missing ones get the value that the code had before they existed"
    old = {'model': 'geoalign-tiny', 'seed': 3, 'gone': 1, 'stage1': {'sources': ['scenes:24'], 'crop_size': 0, 'weights': {'global_': 1., 'rpa': .1, 'hna': .5, 'vic': .5, 'htc': 1.}},
           'stage2': {'sources': ['scenes:24'], 'crop_size': 64, 'also_gone': 2}}
    made = from_record(old)
    assert (made.precision, made.stage2.sibling_negatives, made.stage2.side, made.stage2.crop_size) == ('bf16', True, 160, 64)
    assert made.stage1.crop_size is None and made.stage1.weights == StageSettings().weights
    assert from_record({'stage1': None, 'stage2': None}) == Preset(precision='bf16')


def test_the_bundled_model_keeps_a_readable_record():
    from geoalignclip_nb.core import assets_dir
    found = [json.loads(p.read_text()) for p in assets_dir().rglob('config.json')]
    records = [c['preset'] for c in found if 'preset' in c]
    assert records and all(from_record(r).stage1.epochs >= 1 for r in records)


@pytest.mark.parametrize('record', [None, [], 'x', {'stage1': 5}, {'stage2': [1]}])
def test_a_damaged_record_is_one_sentence(record):
    with pytest.raises(GeoAlignError) as e: from_record(record)
    one_sentence(e, 'damaged')
