"Training: resume, refusal, logs"
import json
import math
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from geoalignclip_nb.core import GeoAlignError
from geoalignclip_nb.data.loader import ImageCache, LoaderSettings, Loader, open_source
from geoalignclip_nb.losses.objective import Objective
from geoalignclip_nb.model import GeoAlignCLIP
from geoalignclip_nb.train import engine, recipe, run_folder
from geoalignclip_nb.train.presets import StageSettings, load_preset
from geoalignclip_nb.train.run_folder import Progress, Vocabulary, load_checkpoint


@pytest.fixture(scope='module')
def pictures(): return ImageCache(open_source('scenes:8'), side=96)


def loader_for(model, pictures, batch=4, **settings):
    s = LoaderSettings(**(dict(size=64, crop_size=32, regions=True, detailed=True, max_negatives=2) | settings))
    return Loader([pictures], model.tokenizer, s, batch, model.preprocess.mean, model.preprocess.std)


def test_a_loss_that_is_not_finite_leaves_the_weights(pictures):
    model = GeoAlignCLIP.create('vit-tiny')
    batch = loader_for(model, pictures).batch(0, 0)
    batch['images'][0, 0, 0, 0] = float('nan')
    before = model.clip.visual.proj.detach().clone()
    with pytest.raises(GeoAlignError, match='not finite'):
        engine.train_step(model, batch, Objective(stage=2), engine.make_optimizer(model, engine.StageSettings()), engine.StepOptions(1e-3))
    assert torch.equal(before, model.clip.visual.proj)


def test_temperatures_learn_under_bf16(pictures):
    model = GeoAlignCLIP.create('vit-tiny')
    optimizer, loader = engine.make_optimizer(model, engine.StageSettings()), loader_for(model, pictures)
    before = [float(p) for p in (model.clip.logit_scale, model.log_scale_rpa, model.log_scale_hna)]
    for step in range(2): engine.train_step(model, loader.batch(0, step), Objective(stage=2), optimizer, engine.StepOptions(1e-4, precision='bf16'))
    after = [float(p) for p in (model.clip.logit_scale, model.log_scale_rpa, model.log_scale_hna)]
    assert all(a != b for a, b in zip(after, before)) and model.log_scale_rpa.dtype == torch.float32


def test_scales_are_clamped():
    model = GeoAlignCLIP.create('vit-tiny')
    with torch.no_grad(): model.log_scale_rpa.fill_(9.)
    engine.clamp_scales(model)
    assert abs(float(model.log_scale_rpa.detach().exp()) - 100) < 1e-3


def test_kill_9_then_the_same_command(tmp_path):
    "A real process, really killed, continued by the same call: the log equals the uninterrupted one"
    code = "import sys; from geoalignclip_nb.train.recipe import train_preset; train_preset('debug', dict(precision='fp32', checkpoint_steps='1'), out=sys.argv[1], quiet=True)"
    env = os.environ | dict(OMP_NUM_THREADS='1')
    run = lambda name: [sys.executable, '-c', code, str(tmp_path/name)]
    subprocess.run(run('whole'), check=True, env=env, capture_output=True)
    rows = lambda name: [r['total'] for r in engine.Log(tmp_path/name/'log.jsonl').read() if 'total' in r]
    process = subprocess.Popen(run('killed'), env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    limit = time.time() + 120
    while len(rows('killed')) < 2 and time.time() < limit and process.poll() is None: time.sleep(.02)
    process.send_signal(signal.SIGKILL); process.wait()
    assert process.returncode == -signal.SIGKILL, 'the run ended before it could be killed'
    subprocess.run(run('killed'), check=True, env=env, capture_output=True)
    assert rows('killed') == rows('whole')
    assert GeoAlignCLIP.from_pretrained(tmp_path/'killed'/'model').trained


def test_other_settings_are_refused_and_nothing_is_lost(tmp_path):
    recipe.train_preset('debug', out=tmp_path, quiet=True)
    before = (tmp_path/'latest.pt').read_bytes()
    with pytest.raises(GeoAlignError, match='other settings'): recipe.train_preset('debug', dict(seed='5'), out=tmp_path, quiet=True)
    assert (tmp_path/'latest.pt').read_bytes() == before


def test_log_survives_a_line_cut_in_half(tmp_path):
    log = engine.Log(tmp_path/'log.jsonl')
    log.add(stage=1, step=1, total=2.)
    with log.path.open('a') as f: f.write('{"stage": 1, "st')
    assert [r['step'] for r in log.read()] == [1]


def test_model_card_holds_only_logged_numbers():
    preset = load_preset('debug')
    words = Vocabulary(torch.zeros(9, dtype=torch.bool), torch.arange(9) < 5)
    card = recipe.model_card(preset, [dict(stage=1, step=1, total=1., seconds=3600., images=8, regions=0)], words)
    assert '1 step of 8 images' in card and '5 of the 9 tokens are known' in card and '1.00 h of steps' in card and 'Stage 2' not in card.split('## Settings')[0]


def test_real_captions_reach_the_loader(real_data):
    pictures = ImageCache(open_source('ucm:val')[:6], side=96)
    assert len(pictures) == 6 and all(len(s.captions) == 5 for s in pictures.samples)


def test_a_run_starts_from_given_weights_and_leaves_tables(tmp_path):
    start = GeoAlignCLIP.create('geoalign-debug', seed=9)
    start.save_pretrained(tmp_path/'start')
    settings = {'init': str(tmp_path/'start'), 'precision': 'fp32', 'stage1.lr': '0', 'stage2.lr': '0'}
    made = GeoAlignCLIP.from_pretrained(recipe.train_preset('debug', settings, out=tmp_path/'run', quiet=True))
    assert torch.equal(made.clip.visual.proj, start.clip.visual.proj.half().float())
    table = (tmp_path/'run'/'log.csv').read_text().splitlines()
    assert {'stage', 'step', 'lr', 'total', 'mean_recall'} <= set(table[0].split(',')) and len(table) - 1 == len(engine.Log(tmp_path/'run'/'log.jsonl').read())
    assert (tmp_path/'run'/'best.pt').exists()


def test_stage_2_may_change_while_stage_1_runs():
    old = json.loads(json.dumps({'seed': 0, 'stage1': {'lr': 1e-4}, 'stage2': {'lr': 1e-6}}))
    assert recipe.is_compatible(old, old | {'stage2': {'lr': 1.}}, 1) and not recipe.is_compatible(old, old | {'stage2': {'lr': 1.}}, 2)
    assert not recipe.is_compatible(old, old | {'stage1': {'lr': 1.}}, 1) and recipe.is_compatible(old, old | {'report': []}, 2)


def test_a_full_disk_keeps_the_last_checkpoint(tmp_path, monkeypatch):
    "The sentence holds the reason of the operating system, not PyTorch's source line"
    model, preset = GeoAlignCLIP.create('geoalign-debug'), load_preset('debug')
    words = Vocabulary(torch.zeros(1, dtype=torch.bool), torch.zeros(1, dtype=torch.bool))
    optimizer = engine.make_optimizer(model, preset.stage1)
    def write(step): run_folder.save_checkpoint(tmp_path/'latest.pt', model, optimizer, Progress(1, step, words), {})
    write(8)
    before = (tmp_path/'latest.pt').read_bytes()

    def save(state, file):
        file.write(b'half of it')
        try: raise OSError(28, 'No space left on device')
        except OSError: raise RuntimeError('[enforce fail at inline_container.cc:672] . unexpected pos 704 vs 598')
    monkeypatch.setattr(torch, 'save', save)
    with pytest.raises(GeoAlignError, match=r'\(No space left on device\).*free some space') as e: write(9)
    assert 'enforce' not in str(e.value)
    assert (tmp_path/'latest.pt').read_bytes() == before
    assert not [p.name for p in tmp_path.iterdir() if 'tmp' in p.name or p.name.startswith('.')]


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path):
    (tmp_path/'file').write_text('in the way')
    with pytest.raises(GeoAlignError, match='choose another'): recipe.train_preset('debug', out=tmp_path/'file'/'run', quiet=True)


def test_a_loss_that_becomes_nan_keeps_the_last_good_checkpoint(tmp_path, monkeypatch):
    real, calls = engine.train_step, []

    def poisoned(model, batch, *rest):
        calls.append(1)
        if len(calls) == 3: batch['images'] = batch['images'] * float('nan')
        return real(model, batch, *rest)
    monkeypatch.setattr(engine, 'train_step', poisoned)
    with pytest.raises(GeoAlignError, match='not finite'): recipe.train_preset('debug', {'checkpoint_steps': '1'}, out=tmp_path, quiet=True)
    assert load_checkpoint(tmp_path/'latest.pt').progress.step == 2  # it refuses weights that are not finite


def test_both_stages_train_from_shards(tmp_path, monkeypatch):
    from geoalignclip_nb.data.shards import write_shards
    from geoalignclip_nb.scenes import make_scenes
    monkeypatch.setenv('GEOALIGN_DATA', str(tmp_path))
    for kind in ('rsteller', 'rsfg'): write_shards(make_scenes(8, seed=3, size=96), tmp_path/kind, 4, kind=kind)
    settings = {'stage1.sources': 'rsteller', 'stage2.sources': 'rsfg', 'stage1.batch_size': '4', 'stage2.batch_size': '4'}
    recipe.train_preset('debug', settings, out=tmp_path/'run', quiet=True)
    rows = engine.Log(tmp_path/'run'/'log.jsonl').read()
    assert sum(r.get('regions', 0) for r in rows if r['stage'] == 2) > 0 and all(math.isfinite(r['total']) for r in rows if 'total' in r)


def test_tensorboard_gets_every_number_of_the_log(tmp_path):
    accumulator = pytest.importorskip('tensorboard.backend.event_processing.event_accumulator')
    recipe.train_preset('debug', {'report': 'tensorboard'}, out=tmp_path, quiet=True)
    events = accumulator.EventAccumulator(str(tmp_path/'tensorboard')).Reload()
    rows = [r for r in engine.Log(tmp_path/'log.jsonl').read() if r['stage'] == 2 and 'total' in r]
    assert [round(e.value, 4) for e in events.Scalars('stage2/total')] == [round(r['total'], 4) for r in rows]
    assert any(k.endswith('mean_recall') for k in events.Tags()['scalars'])


def test_wandb_gets_every_number_of_the_log(tmp_path, monkeypatch):
    "The real package, without a network: what it wrote into its own file"
    wandb = pytest.importorskip('wandb')
    for key, value in dict(WANDB_MODE='offline', WANDB_SILENT='true', WANDB_ERROR_REPORTING='false', WANDB_DIR=str(tmp_path)).items(): monkeypatch.setenv(key, value)
    rows = [dict(stage=1, step=1, total=2.515625), dict(stage=1, step=2, validation='ucm:val', mean_recall=30.28125), dict(stage=2, step=1, total=1.578125)]
    tell, = recipe.make_reporters(['wandb'], tmp_path, {'seed': 0})
    for r in rows: tell(r)
    wandb.finish()
    file, = tmp_path.glob('wandb/offline-run-*/*.wandb')
    limit = time.time() + 60  # the package writes from a process of its own
    while b'stage2/step' not in file.read_bytes() and time.time() < limit: time.sleep(.2)
    written = file.read_bytes()
    for name, value in {k: v for r in rows for k, v in recipe.scalar_metrics(r).items()}.items(): assert name.encode() in written and str(value).encode() in written, name
    assert b'stage1/step' in written and b'stage2/step' in written
