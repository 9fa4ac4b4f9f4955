"""Every shipped preset makes one step of each stage at its own image and crop sizes, with random weights.

Each tower keeps two blocks, which is enough for every code path. GEOALIGN_WHOLE_PRESETS=1 keeps all of them (minutes, up to
12 GB of memory); the scheduled job in .github/workflows/whole-models.yml sets it.
"""
import dataclasses
import math
import os

import pytest
import torch

from geoalignclip_nb.architectures import architecture
from geoalignclip_nb.model import GeoAlignCLIP
from geoalignclip_nb.train import engine
from geoalignclip_nb.train.presets import load_preset, preset_names

BLOCKS = None if os.environ.get('GEOALIGN_WHOLE_PRESETS') else 2


def model_of(preset) -> GeoAlignCLIP:
    "Random weights; each tower has at most BLOCKS blocks"
    config = architecture(preset.model)
    for tower in ('vision_cfg', 'text_cfg'):
        if BLOCKS: config[tower]['layers'] = min(BLOCKS, config[tower].get('layers', 12))
    return GeoAlignCLIP.create(config)


@pytest.mark.parametrize('name', preset_names())
def test_every_preset_makes_a_step_of_each_stage(name):
    preset = load_preset(name)
    model = model_of(preset)
    small = dict(sources=['scenes:2'], batch_size=1, max_regions=1, max_negatives=2, background=0.)
    for number, settings in ((1, preset.stage1), (2, preset.stage2)):
        loader = engine.stage_loader(model, number, dataclasses.replace(settings, **small), preset, True)
        batch = loader.batch(0, 0)
        assert batch['images'].shape[-1] == settings.size
        if number == 2: assert batch['crops'].shape[-1] == settings.crop_pixels
        objective, optimizer = engine.stage_objective(settings, number), engine.make_optimizer(model, settings)
        before = model.clip.visual.conv1.weight.detach().clone()
        values = engine.train_step(model, batch, objective, optimizer, engine.StepOptions(settings.lr, precision=preset.precision))
        assert all(math.isfinite(v) for v in values.values()), values
        assert not torch.equal(before, model.clip.visual.conv1.weight)


def test_every_preset_leaves_the_precision_to_the_device():
    assert {load_preset(name).precision for name in preset_names()} == {'auto'}
