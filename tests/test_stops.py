"""Training keeps what it must keep: the start vocabulary, good checkpoints, measurements, one process per folder."""
import dataclasses
import math
import multiprocessing
import random
import shutil
import signal
import time

import pytest
import torch

from geoalignclip_nb.core import GeoAlignError
from geoalignclip_nb.losses.objective import Objective
from geoalignclip_nb.model import GeoAlignCLIP
from geoalignclip_nb.text import token_ids
from geoalignclip_nb.train import engine, recipe
from geoalignclip_nb.train.presets import StageSettings, load_preset
from geoalignclip_nb.train.run_folder import Log, load_checkpoint, lock_folder, value_hash

UNTOUCHED = ('church', 'forest', 'mountain')  # words that vit-tiny knows and procedural scenes never say
STAGE_2 = {'precision': 'fp32', 'stage2.lr': '1e-3', 'stage2.warmup': '1', 'stage2.weight_decay': '0.5'}


def stage_2_only(settings):
    return dataclasses.replace(load_preset('debug', STAGE_2 | settings), stage1=None)


def table_of(model): return model.clip.token_embedding.weight.detach()


def rows_of(words): return sorted({i for w in words for i in token_ids(w)})


@pytest.fixture(scope='module')
def full_model(tmp_path_factory):
    "A model with a full vocabulary in open_clip's public format: no row is shared"
    model = GeoAlignCLIP.create('geoalign-debug', seed=11)
    path = tmp_path_factory.mktemp('full')/'full.pt'
    torch.save(model.clip.state_dict(), path)
    return path


def check_untouched_words(start: GeoAlignCLIP, made: GeoAlignCLIP, words=UNTOUCHED):
    "Rows stay to the bit; the vectors move only as far as the shared weights move them"
    rows = rows_of(words)
    assert torch.equal(table_of(made)[rows], table_of(start)[rows].half().float())
    after = made.encode_text(list(words))
    with torch.no_grad():
        swapped = table_of(made).clone()
        swapped[rows] = table_of(start)[rows].half().float()
        made.clip.token_embedding.weight.copy_(swapped)
    assert torch.equal(made.encode_text(list(words)), after)
    cosines = after @ after.T
    assert cosines.fill_diagonal_(0).max() < .999, 'different words have one vector'


def test_a_full_vocabulary_stays(full_model, tmp_path):
    preset = stage_2_only({'init': str(full_model)})
    start = recipe.start_model(preset)
    made = GeoAlignCLIP.from_pretrained(recipe.run_preset(preset, tmp_path/'run', quiet=True))
    assert start.known_tokens is None and made.known_tokens is None
    check_untouched_words(start, made)


def test_the_vocabulary_of_geoalign_tiny_stays(tmp_path):
    preset = stage_2_only({'init': 'vit-tiny', 'model': 'vit-tiny'})
    start = recipe.start_model(preset)
    made = GeoAlignCLIP.from_pretrained(recipe.run_preset(preset, tmp_path/'run', quiet=True))
    assert not (start.known_tokens & ~made.known_tokens).any()
    check_untouched_words(start, made)
    assert len(table_of(made).unique(dim=0)) > 2700


def test_random_weights_know_only_what_they_saw(tmp_path):
    made = GeoAlignCLIP.from_pretrained(recipe.train_preset('debug', {'precision': 'fp32'}, out=tmp_path/'run', quiet=True))
    assert 0 < made.known_tokens.sum() < 1000


def test_the_token_table_gains_and_biases_do_not_decay():
    model = GeoAlignCLIP.create('geoalign-debug')
    optimizer = engine.make_optimizer(model, StageSettings(weight_decay=.5))
    decay = {id(p): g['weight_decay'] for g in optimizer.param_groups for p in g['params']}
    for name, p in model.named_parameters():
        wanted = 0. if p.ndim < 2 or name.endswith('token_embedding.weight') else .5
        assert decay[id(p)] == wanted, name


class Overflow(torch.autograd.Function):
    "A finite value with an infinite gradient"
    @staticmethod
    def forward(ctx, x): return x.clone()
    @staticmethod
    def backward(ctx, g): return g * math.inf


def overflowing(objective):
    "The same losses, whose total has a gradient that is not finite"
    def call(**out):
        parts = objective(**out)
        return parts | dict(total=Overflow.apply(parts['total']))
    call.max_log_scale = objective.max_log_scale
    return call


def test_a_gradient_that_is_not_finite_leaves_the_weights(tmp_path, monkeypatch):
    real = engine.stage_objective
    monkeypatch.setattr(engine, 'stage_objective', lambda settings, stage, *rest: overflowing(real(settings, stage)) if stage == 2 else real(settings, stage))
    with pytest.raises(GeoAlignError, match='The gradient is not finite'):
        recipe.train_preset('debug', {'precision': 'fp32', 'checkpoint_steps': '1'}, out=tmp_path, quiet=True)
    progress = load_checkpoint(tmp_path/'latest.pt').progress
    assert (progress.stage, progress.step) == (1, 3)


def test_the_remedy_of_a_bad_gradient_is_accepted(tmp_path, monkeypatch):
    "The sentence says: start again with a lower learning rate. The folder accepts it, and the card says so"
    real = engine.stage_objective

    def broken(settings, stage, *rest):
        objective = real(settings, stage, *rest)
        return overflowing(objective) if stage == 2 else objective
    settings = {'precision': 'fp32', 'checkpoint_steps': '1'}
    with monkeypatch.context() as patch, pytest.raises(GeoAlignError, match='lower learning rate'):
        patch.setattr(engine, 'stage_objective', broken)
        recipe.train_preset('debug', settings, out=tmp_path, quiet=True)
    made = recipe.train_preset('debug', settings | {'stage2.lr': '1e-5'}, out=tmp_path, quiet=True)
    assert 'stage2.lr 0.0001 → 1e-05' in (made/'README.md').read_text()
    with pytest.raises(GeoAlignError, match=r'other settings \(stage2.lr=1e-05\)'):  # nothing is left to train with it
        recipe.train_preset('debug', settings | {'stage2.lr': '1e-6'}, out=tmp_path, quiet=True)


LONG = {'precision': 'fp32', 'checkpoint_steps': '1', 'stage2.epochs': '2', 'stage2.evaluate_epochs': '1'}


def train_long(out):
    torch.set_num_threads(1)  # sums of another number of threads round in another way
    recipe.train_preset('debug', LONG, out=out, quiet=True)


def log_of(folder):
    "The rows of a log but for the times"
    return [{k: v for k, v in r.items() if k != 'seconds'} for r in Log(folder/'log.jsonl').read()]


def model_of(folder): return (folder/'model'/'model.safetensors').read_bytes()


@pytest.fixture(scope='module')
def unbroken(tmp_path_factory):
    "The folder of a run that nothing stopped, and its seconds"
    out = tmp_path_factory.mktemp('unbroken')
    start = time.monotonic()
    train_long(out)
    return out, time.monotonic() - start


class Stopped(Exception): pass


def test_a_lost_measurement_is_made_up_for(unbroken, tmp_path, monkeypatch):
    "Three starts end between the checkpoint and its measurement, the last of Stage I included"
    real = engine.measure_missing
    stops = [(1, 3), (2, 2), (2, 4)]

    def stopping(backend, run, validation, validate, progress):
        if stops and (run.number, progress.step) == stops[0]:
            stops.pop(0)
            raise Stopped
        real(backend, run, validation, validate, progress)
    monkeypatch.setattr(engine, 'measure_missing', stopping)
    for _ in range(3):
        with pytest.raises(Stopped): train_long(tmp_path)
    train_long(tmp_path)
    assert log_of(tmp_path) == log_of(unbroken[0]) and model_of(tmp_path) == model_of(unbroken[0])
    words, wanted = (load_checkpoint(folder/'latest.pt').progress.vocabulary for folder in (tmp_path, unbroken[0]))
    assert torch.equal(words.seen, wanted.seen) and wanted.seen.sum() > 100
    best = [load_checkpoint(folder/'best.pt').progress for folder in (tmp_path, unbroken[0])]
    assert (best[0].stage, best[0].step) == (best[1].stage, best[1].step)


def test_best_follows_a_measurement_whose_run_was_killed(unbroken, tmp_path):
    "Measured, then killed before best.pt was written"
    shutil.copytree(unbroken[0], tmp_path/'run')
    step = load_checkpoint(tmp_path/'run'/'best.pt').progress.step
    (tmp_path/'run'/'best.pt').unlink()
    train_long(tmp_path/'run')
    last = load_checkpoint(unbroken[0]/'latest.pt').progress.step
    assert (tmp_path/'run'/'best.pt').exists() == (step == last)
    assert log_of(tmp_path/'run') == log_of(unbroken[0])


def test_the_learning_rate_of_a_step_is_that_of_its_number(unbroken):
    preset = load_preset('debug', LONG)
    rows = [r for r in log_of(unbroken[0]) if 'total' in r]
    for stage, part, total in ((1, preset.stage1, 3), (2, preset.stage2, 4)):
        wanted = [engine.learning_rate(step, total, part.lr, part.warmup) for step in range(total)]
        assert [r['lr'] for r in rows if r['stage'] == stage] == wanted and wanted[0] == part.lr


def test_six_kills_change_nothing(unbroken, tmp_path):
    "SIGKILL at random moments; the rest of the run equals the unbroken one to the bit"
    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload(['geoalignclip_nb.train.recipe', 'geoalignclip_nb.bench.validation'])
    rng, codes = random.Random(4), []
    for _ in range(6):
        job = context.Process(target=train_long, args=(tmp_path,))
        job.start()
        job.join(unbroken[1] * rng.uniform(.1, 1))
        job.kill()
        job.join()
        codes.append(job.exitcode)
    train_long(tmp_path)
    assert -signal.SIGKILL in codes, 'every run ended before it could be killed'
    assert log_of(tmp_path) == log_of(unbroken[0]) and model_of(tmp_path) == model_of(unbroken[0])
    assert not list(tmp_path.glob('.*.tmp*'))


def hold(folder, ready):
    with lock_folder(folder):
        ready.set()
        time.sleep(600)


def test_a_folder_belongs_to_one_process_and_is_free_after_its_death(tmp_path):
    context = multiprocessing.get_context('forkserver')
    ready = context.Event()
    job = context.Process(target=hold, args=(tmp_path, ready))
    job.start()
    assert ready.wait(120)
    with pytest.raises(GeoAlignError, match=f'in use by process {job.pid} on .* since 20'):
        recipe.train_preset('debug', out=tmp_path, quiet=True)
    job.kill()
    job.join()
    with lock_folder(tmp_path): pass
    assert not (tmp_path/'.lock.json').exists()


def rewritten(change):
    "A change of a checkpoint's content, whose checksum is that of the new content"
    def apply(path):
        state = torch.load(path, weights_only=True)
        state.pop('sha256')
        change(state)
        torch.save(state | dict(sha256=value_hash(state)), path)
    return apply


def flip_moments(path):
    state = torch.load(path, weights_only=True)
    state['optimizer']['state'][0]['exp_avg'] += 1e-3
    torch.save(state, path)


def spoil_weights(state): state['model']['clip.visual.proj'][0, 0] = math.nan


BROKEN = {
    'a list': (lambda path: torch.save([1, 2], path), 'is not a training checkpoint'),
    'no optimizer': (rewritten(lambda s: s.pop('optimizer')), r'not a training checkpoint of this version \(without optimizer\)'),
    'cut': (lambda path: path.write_bytes(path.read_bytes()[:9000]), 'is not a whole checkpoint'),
    'a missing tensor': (rewritten(lambda s: s['model'].pop('clip.visual.proj')), '1 missing'),
    'no moments': (rewritten(lambda s: s['optimizer'].pop('state')), 'optimizer state .* does not fit'),
    'flipped moments': (flip_moments, 'does not match its SHA-256'),
    'weights that are not finite': (rewritten(spoil_weights), 'weights that are not finite'),
}


@pytest.mark.parametrize('kind', BROKEN)
def test_a_broken_checkpoint_is_one_sentence_that_names_it(kind, unbroken, tmp_path):
    shutil.copytree(unbroken[0], tmp_path/'run')
    spoil, sentence = BROKEN[kind]
    spoil(tmp_path/'run'/'latest.pt')
    with pytest.raises(GeoAlignError, match=sentence) as e: train_long(tmp_path/'run')
    assert 'latest.pt' in str(e.value)
    assert model_of(tmp_path/'run') == model_of(unbroken[0])


@pytest.mark.parametrize('content', [b'\xff\xfe\x00\n', b'[1, 2]\n', b'{"total": 2}\n'])
def test_a_broken_log_is_one_sentence_that_names_it(content, unbroken, tmp_path):
    shutil.copytree(unbroken[0], tmp_path/'run')
    (tmp_path/'run'/'log.jsonl').write_bytes(content)
    with pytest.raises(GeoAlignError, match='log.jsonl'): train_long(tmp_path/'run')


def test_a_changed_precision_is_noted(unbroken, tmp_path):
    shutil.copytree(unbroken[0], tmp_path/'run', ignore=shutil.ignore_patterns('model'))
    made = recipe.train_preset('debug', LONG | {'precision': 'bf16'}, out=tmp_path/'run', quiet=True)
    assert 'precision fp32 on cpu (as set) → bf16 on cpu (as set)' in (made/'README.md').read_text()


def test_a_term_without_input_is_named_once(tmp_path, monkeypatch):
    from geoalignclip_nb.scenes import make_scenes
    from geoalignclip_nb.data import loader
    bare = [dataclasses.replace(s, regions=[]) for s in make_scenes(8, seed=3, size=64)]
    monkeypatch.setattr(engine, 'open_source', lambda spec, seed: bare)
    assert loader.open_source is not engine.open_source
    preset = dataclasses.replace(load_preset('debug', {'precision': 'fp32', 'stage2.epochs': '2'}), stage1=None)
    with pytest.warns(UserWarning, match='gets no input') as heard: recipe.run_preset(preset, tmp_path, quiet=True)
    named = [str(w.message) for w in heard if 'gets no input' in str(w.message)]
    assert len(named) == 3 and all(any(f"'{n}'" in m for m in named) for n in ('rpa', 'hna', 'vic'))


def test_training_does_not_import_benchmarks():
    from test_imports import MODULES, imports
    for module in MODULES:
        if module.startswith('train.') and module != 'train.recipe': assert not [i for i in imports(module) if i.startswith('bench')], module
