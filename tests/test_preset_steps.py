"""Every shipped preset makes one step of each stage at its own image sizes, with random weights.

The large models keep two blocks per tower here, which is enough for every code path. The whole models take minutes and up to
12 GB: `pytest -m whole` runs them, and so does the scheduled job in .github/workflows/whole-models.yml.
"""
import math

import pytest

from geoalignclip_nb.architectures import architecture
from geoalignclip_nb.core import assets_dir
from geoalignclip_nb.data.loader import ImageCache, Loader, LoaderSettings, open_source
from geoalignclip_nb.model import GeoAlignCLIP
from geoalignclip_nb.train import engine
from geoalignclip_nb.train.presets import Preset, StageSettings, load_preset

PRESET_NAMES = sorted(p.stem for p in (assets_dir()/'presets').glob('*.toml'))


@pytest.fixture(scope='module')
def images(): return ImageCache(open_source('scenes:4'))


def with_few_blocks(name: str, blocks: int = 2) -> dict:
    "The configuration of an architecture with `blocks` residual blocks in each tower"
    config = architecture(name)
    for tower in ('vision_cfg', 'text_cfg'): config[tower]['layers'] = min(blocks, config[tower]['layers'])
    return config


def step(model: GeoAlignCLIP, preset: Preset, stage: int, part: StageSettings, images: ImageCache) -> dict[str, float]:
    "Named losses of one step on one image with one region"
    items = LoaderSettings(size=part.size, crop_size=part.crop_pixels if stage == 2 else 0, regions=stage == 2, detailed=stage == 2, max_regions=1)
    loader = Loader([images], model.tokenizer, items, 1, model.preprocess.mean, model.preprocess.std)
    objective, optimizer = engine.stage_objective(part, stage), engine.make_optimizer(model, part)
    return engine.train_step(model, loader.batch(0, 0), objective, optimizer, part.lr, precision=preset.precision)


def check_both_stages(model: GeoAlignCLIP, preset: Preset, images: ImageCache):
    for stage, part in ((1, preset.stage1), (2, preset.stage2)):
        values = step(model, preset, stage, part, images)
        assert all(math.isfinite(v) for v in values.values()), (stage, values)


@pytest.mark.parametrize('name', PRESET_NAMES)
def test_every_preset_makes_a_step_with_few_blocks(name, images):
    preset = load_preset(name)
    check_both_stages(GeoAlignCLIP.create(with_few_blocks(preset.model)), preset, images)


@pytest.mark.whole
@pytest.mark.parametrize('name', PRESET_NAMES)
def test_every_preset_makes_a_step_whole(name, images):
    preset = load_preset(name)
    check_both_stages(GeoAlignCLIP.create(preset.model), preset, images)


def test_every_preset_leaves_the_precision_to_the_device():
    assert {load_preset(name).precision for name in PRESET_NAMES} == {'auto'}
