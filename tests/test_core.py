"Regions: fractions in, pixels refused"
import numpy as np
import pytest
import torch

from geoalignclip_nb import core
from geoalignclip_nb.core import GeoAlignError, Region, to_fractions


@pytest.mark.parametrize('box', [(0, 0, 120, 80), (10, 20, 120, 80), (0, 0, 2, 2), (0, 0, .5, 1.6), (120, 80, 0, 0), (10, 20, 10, 80)])
def test_a_region_in_pixels_is_refused_with_the_remedy(box):
    with pytest.raises(GeoAlignError, match='looks like pixels') as e: Region(box)
    assert 'to_fractions' in str(e.value) and '\n' not in str(e.value) and str(e.value).count('. ') == 0


def test_pixels_become_a_region_through_to_fractions():
    box, = to_fractions([(10, 20, 120, 80)], 240, 160)
    np.testing.assert_allclose(Region(box).box, (10/240, 20/160, .5, .5))


@pytest.mark.parametrize('box', [(0, 0, 1, 1), (-.2, .5, .3, 1.4), (.9, .9, 1.5, 1.5)])
def test_a_box_that_hangs_over_the_edge_is_a_region(box): assert Region(box).box == box


@pytest.mark.parametrize('box, word', [((1.1, 0, 1.3, 1), 'outside'), ((.4, .2, .1, .5), 'area'), ((0, 0, float('nan'), 1), 'finite'), ((0, 0, float('inf'), 1), 'finite')])
def test_other_faults_keep_their_own_sentence(box, word):
    with pytest.raises(GeoAlignError, match=word): Region(box)


def test_a_place_is_tried_before_it_is_needed(tmp_path, monkeypatch):
    from geoalignclip_nb import core
    (tmp_path/'file').write_text('x')
    core.check_writable(tmp_path/'a.json'); core.check_writable(tmp_path/'file'); core.check_writable(tmp_path/'new'/'folder', folder=True)
    for path, folder, says in ((tmp_path, False, 'is a folder'), (tmp_path/'no'/'a.json', False, 'does not exist'), (tmp_path/'file'/'a.json', False, 'is a file'),
                               (tmp_path/'file', True, 'is a file'), (tmp_path/'file'/'below', True, 'is a file')):
        with pytest.raises(GeoAlignError, match=says): core.check_writable(path, folder)
    assert [p.name for p in tmp_path.iterdir()] == ['file'], 'trying leaves nothing behind'
    def refuse(**more): raise PermissionError(13, 'Permission denied')
    monkeypatch.setattr(core.tempfile, 'TemporaryFile', refuse)
    with pytest.raises(GeoAlignError, match='cannot be written to .Permission denied'): core.check_writable(tmp_path/'a.json')


def test_a_cpu_without_bf16_instructions_computes_in_fp32(monkeypatch):
    "No trial is run where the instructions are missing: emulated products take seconds"
    core._measured_precision.cache_clear()
    monkeypatch.setattr(core, 'has_bf16', lambda device: False)
    monkeypatch.setattr(core, 'bf16_trial', lambda: pytest.fail('the trial ran'))
    choice = core.choose_precision('cpu')
    core._measured_precision.cache_clear()
    assert choice.precision == 'fp32' and 'no bf16 instructions' in choice.reason


@pytest.mark.parametrize('ratio, precision', [(.4, 'bf16'), (20., 'fp32')])
def test_with_bf16_instructions_the_trial_decides(monkeypatch, ratio, precision):
    core._measured_precision.cache_clear()
    monkeypatch.setattr(core, 'has_bf16', lambda device: True)
    monkeypatch.setattr(core, 'bf16_trial', lambda: ratio)
    choice = core.choose_precision('cpu')
    core._measured_precision.cache_clear()
    assert choice.precision == precision and f'{ratio:.2g}' in choice.reason


@pytest.mark.parametrize('wanted', ['fp32', 'bf16'])
def test_a_precision_that_is_asked_for_is_taken(wanted):
    with core.precision_context('cpu', wanted): product = torch.ones(2, 2) @ torch.ones(2, 2)
    assert product.dtype == dict(fp32=torch.float32, bf16=torch.bfloat16)[wanted]


@pytest.mark.parametrize('wanted', ['fp16', 'float32', '', None, True])
def test_an_unknown_precision_is_refused(wanted):
    with pytest.raises(GeoAlignError, match='Unknown precision'): core.choose_precision('cpu', wanted)
