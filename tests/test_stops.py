"""Training keeps what it must keep: the start vocabulary, good checkpoints, measurements, one process per folder."""
import dataclasses
import math

import pytest
import torch

from geoalignclip_nb.core import GeoAlignError
from geoalignclip_nb.losses.objective import Objective
from geoalignclip_nb.model import GeoAlignCLIP
from geoalignclip_nb.text import token_ids
from geoalignclip_nb.train import engine, recipe
from geoalignclip_nb.train.presets import StageSettings, load_preset
from geoalignclip_nb.train.run_folder import load_checkpoint

UNTOUCHED = ('church', 'forest', 'mountain')  # words that geoalign-tiny knows and procedural scenes never say
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
    preset = stage_2_only({'init': 'geoalign-tiny', 'model': 'geoalign-tiny'})
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
