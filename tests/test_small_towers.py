"Training of a model with a convolutional image tower and a text tower of Hugging Face: both stages, frozen trunks, resume"
import json

import pytest
import torch
from small_towers import small_model

from geoalignclip_nb.core import GeoAlignError
from geoalignclip_nb.model import GeoAlignCLIP
from geoalignclip_nb.train.engine import set_patch_dropout
from geoalignclip_nb.train.presets import load_preset
from geoalignclip_nb.train.recipe import run_preset, start_model


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp('start')/'small'
    small_model().save_pretrained(path)
    return path


def preset(folder, freeze=()):
    changes = {'init': str(folder), 'precision': 'fp32', 'freeze': ','.join(freeze), 'stage2.crop_size': '64'}
    return load_preset('debug', changes)


def validate(model, images, size, precision): return dict(mean_recall=1., n=len(images), n_texts=1, **{k: 0. for k in (
    'i2t_r1', 'i2t_r5', 'i2t_r10', 't2i_r1', 't2i_r5', 't2i_r10')})


@pytest.mark.parametrize('freeze', [[], ['image', 'text']])
def test_both_stages_train_and_frozen_trunks_stay(folder, tmp_path, freeze):
    made = GeoAlignCLIP.from_pretrained(run_preset(preset(folder, freeze), tmp_path/'run', quiet=True, validate=validate))
    rows = [json.loads(line) for line in (tmp_path/'run'/'log.jsonl').read_text().splitlines()]
    assert {r['stage'] for r in rows} == {1, 2} and all(torch.isfinite(torch.tensor(r['total'])) for r in rows if 'total' in r)
    before, after = GeoAlignCLIP.from_pretrained(folder).state_dict(), made.state_dict()
    for key, value in before.items():
        trunk = '.trunk.' in key or '.text.transformer.' in key
        same = torch.equal(value if 'running' in key or not value.is_floating_point() else value.half().float(), after[key])
        if trunk and freeze: assert same, key
    assert not torch.equal(before['clip.visual.dense_head.leave.weight'], after['clip.visual.dense_head.leave.weight'])
    moved = not torch.equal(before['clip.visual.trunk.bn1.running_mean'], after['clip.visual.trunk.bn1.running_mean'])
    assert moved != bool(freeze) and made.tokenizer.content == small_model().tokenizer.content


def test_a_frozen_run_goes_on_after_a_stop(folder, tmp_path):
    class Stop(Exception): pass
    def stopping(*args): raise Stop
    settings = preset(folder, ['image', 'text'])
    with pytest.raises(Stop): run_preset(settings, tmp_path/'run', quiet=True, validate=stopping)
    whole = GeoAlignCLIP.from_pretrained(run_preset(settings, tmp_path/'whole', quiet=True, validate=validate)).state_dict()
    again = GeoAlignCLIP.from_pretrained(run_preset(settings, tmp_path/'run', quiet=True, validate=validate)).state_dict()
    assert all(torch.equal(v, again[k]) for k, v in whole.items())


def test_only_trunks_can_be_frozen(folder):
    model = start_model(preset(folder, ['text']))
    assert not model.train().clip.text.transformer.training and model.clip.text.proj.training and model.clip.visual.trunk.training
    with pytest.raises(GeoAlignError, match='image tower of vit-tiny has no trunk'): GeoAlignCLIP.create('vit-tiny').freeze(['image'])
    with pytest.raises(GeoAlignError, match='freeze'): preset(folder, ['images'])
    with pytest.raises(GeoAlignError, match='patch_dropout needs'): set_patch_dropout(model, .5)
