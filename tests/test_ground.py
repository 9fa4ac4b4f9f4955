"""Grounding: the three methods against their definitions, a model that is left as it was, and a door that takes anything."""
import contextlib
import copy
import hashlib
import json
import math
import sys
import threading
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings, strategies as st
from PIL import Image

from small_towers import small_model

from geoalignclip_nb.core import GeoAlignError, asset, to_pixels
from geoalignclip_nb.ground import (METHODS, RESULTS, GroundResult, Method, block_inputs, contrast, cosines, frozen_eval, gradcam, ground, measured_scale, last_norm, legrad, crop_to_image, peak, similarity, to_grid, usable_methods, visible_attention)
from geoalignclip_nb.pointing import centre_map, cover, energy_in_box, pointing_hit
from geoalignclip_nb.model import GeoAlignCLIP
from geoalignclip_nb.scenes import make_scene

PHRASES = ['white plane', 'tennis court']
quick = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


def noise(width=96, height=64, seed=0): return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8))


@pytest.fixture(scope='module')
def model(): return GeoAlignCLIP.create('vit-tiny')


@pytest.fixture(scope='module')
def asked(model):
    with torch.no_grad(): return model.to_tensor([noise()]), model.encode_text(PHRASES)


def test_similarity_is_the_cosine_of_every_cell(model, asked):
    images, text = asked
    maps = similarity(model, images, text)
    with torch.no_grad(): dense = model.dense(images)[0]
    for p, y, x in [(0, 0, 0), (1, 3, 5), (0, 7, 2)]:
        assert maps[p, y, x] == pytest.approx(float(F.cosine_similarity(dense[:, y, x], text[p], dim=0)), abs=1e-5)


def test_similarity_needs_one_image_pass(model):
    calls = []
    hook = model.clip.visual.transformer.resblocks[0].register_forward_hook(lambda *a: calls.append(1))
    try: ground(model, noise(), ['a', 'b', 'c', 'd', 'e', 'f', 'g', 'h'])
    finally: hook.remove()
    assert len(calls) == 1


def test_gradcam_without_the_package(model, asked):
    images, text = asked
    (layer, prefix), tokens = last_norm(model.clip.visual), []
    hook = layer.register_forward_hook(lambda m, a, out: tokens.append(out) or out)
    try: cosines = model.encode_image(images) @ text.T
    finally: hook.remove()
    maps = gradcam(model, images, text)
    for p in range(len(text)):
        slope = torch.autograd.grad(cosines[0, p], tokens[0], retain_graph=True)[0]
        weights = to_grid(slope, prefix).mean((2, 3), keepdim=True)
        torch.testing.assert_close(maps[p], (weights * to_grid(tokens[0], prefix)).sum(1)[0].relu().detach(), atol=1e-7, rtol=1e-3)


def test_written_out_attention_is_open_clips(model, asked):
    for block, x in block_inputs(model, asked[0], 3):
        with torch.no_grad(): expected = block(x)
        with visible_attention(block) as kept: seen = block(x)
        torch.testing.assert_close(seen.detach(), expected, atol=1e-5, rtol=1e-4)
        assert kept[0].shape[2:] == (x.shape[1],) * 2


def test_written_out_attention_adds_the_mask(model):
    block, x = model.clip.visual.transformer.resblocks[0], torch.randn(2, 5, 320)
    mask = torch.full((5, 5), float('-inf')).triu(1)
    with torch.no_grad(): expected = block(x, attn_mask=mask)
    with visible_attention(block): torch.testing.assert_close(block(x, attn_mask=mask).detach(), expected, atol=1e-5, rtol=1e-4)


def test_legrad_slopes_by_hand(model, asked):
    "The gradient with respect to single attention weights equals what nudging them does"
    images, text = asked
    visual, model = model.clip.visual.double(), model
    try:
        (block, x), = block_inputs(model, images.double(), 1)
        a = block.attn

        def cosine(weights):
            v = F.linear(block.ln_1(x), a.in_proj_weight, a.in_proj_bias).unflatten(-1, (3, a.num_heads, -1)).permute(2, 0, 3, 1, 4)[2]
            h = x + a.out_proj((weights @ v).transpose(1, 2).flatten(2))
            out = h + block.mlp(block.ln_2(h))
            return F.normalize(visual.ln_post(out.mean(1)) @ visual.proj, dim=-1)[0] @ text[0].double()
        with visible_attention(block) as kept: block(x)
        slope = torch.autograd.grad(cosine(kept[0]), kept[0])[0]
        for h, q, k in [(0, 5, 9), (2, 0, 1), (4, 60, 64)]:
            step = torch.zeros_like(kept[0]); step[0, h, q, k] = 1e-3
            with torch.no_grad(): nudged = (cosine(kept[0] + step) - cosine(kept[0] - step)) / 2e-3
            assert float(slope[0, h, q, k]) == pytest.approx(float(nudged), rel=1e-3, abs=1e-12)
        by_hand = slope.relu().mean((1, 2))[0, 1:].reshape(8, 8)
    finally: visual.float()
    torch.testing.assert_close(legrad(model, images, text, last=1)[0], by_hand.float(), atol=1e-8, rtol=1e-3)


def test_legrad_layers_add_up(model, asked):
    one, two = legrad(model, *asked, last=1), legrad(model, *asked, last=2)
    assert (two >= one - 1e-9).all() and not torch.equal(one, two)


# largest difference to float32, measured on four scenes: bf16 weights 0.0096, fp16 weights 0.0011, autocast 0.0061 (relevance is a share of the maximum)
HALF = {'bf16 weights': (torch.bfloat16, .02), 'fp16 weights': (torch.float16, .003), 'autocast': (None, .02)}


@pytest.fixture(scope='module')
def trained(): return GeoAlignCLIP.from_pretrained('vit-tiny')


def in_half(model, form):
    "(the model in another precision, the context that a caller puts around it)"
    dtype = HALF[form][0]
    return (model, torch.autocast('cpu', torch.bfloat16)) if dtype is None else (copy.deepcopy(model).to(dtype), contextlib.nullcontext())


@pytest.mark.parametrize('form', HALF)
@pytest.mark.parametrize('method', METHODS)
def test_half_precision_gives_nearly_the_same_maps(trained, method, form):
    image, phrases = make_scene('airport apron', 1, 256).image, ['plane', 'road', 'storage tank']
    boxes, tolerance = [(.1, .1, .5, .6), (0, 0, 1, 1)], HALF[form][1]
    full = ground(trained, image, phrases, boxes, method)
    other, context = in_half(trained, form)
    with context: half = ground(other, image, phrases, boxes, method)
    assert half.maps.dtype == np.float32 and half.maps.max() > .05 and not half.warnings
    np.testing.assert_allclose(half.maps, full.maps, atol=tolerance)
    np.testing.assert_allclose(half.scores, full.scores, atol=tolerance / 4)
    assert half.unit == pytest.approx(full.unit, rel=tolerance)


@pytest.mark.parametrize('form', HALF)
def test_half_precision_gives_nearly_the_same_vectors(trained, form):
    images, boxes = trained.to_tensor([noise(), make_scene(seed=2, size=128).image]), [[0, 10, 10, 60, 80], [1, 0, 0, 128, 128]]
    asked = dict(image=lambda m: m.encode_image(images), dense=lambda m: m.dense(images), regions=lambda m: m.encode_regions(images, boxes),
                 text=lambda m: m.encode_text(PHRASES), batch=lambda m: m(dict(images=images, boxes=torch.tensor(boxes), crops=images))['crop'])
    other, context = in_half(trained, form)
    for name, ask in asked.items():
        with torch.no_grad():
            full = ask(trained)
            with context: half = ask(other)
        assert half.dtype == torch.float32, name
        torch.testing.assert_close(half, full, atol=HALF[form][1] / 2, rtol=0, msg=name)
        torch.testing.assert_close(half.norm(dim=1), torch.ones_like(half.norm(dim=1)), atol=1e-5, rtol=0, msg=name)


@pytest.mark.parametrize('method', METHODS)
def test_half_precision_leaves_the_model_as_it_was(trained, method):
    model = copy.deepcopy(trained).half()
    state = {k: v.clone() for k, v in model.state_dict().items()}
    ground(model, noise(), PHRASES, method=method)
    assert all(v.dtype == state[k].dtype and torch.equal(v, state[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize('method', METHODS)
@pytest.mark.parametrize('fails', [False, True])
def test_the_model_is_left_as_it_was(method, fails):
    model = GeoAlignCLIP.create('vit-tiny').train()
    frozen = model.clip.visual.conv1.weight.requires_grad_(False)
    model.log_scale_rpa.grad = torch.tensor(3.)
    model.clip.visual.ln_post.weight.grad = grad = torch.ones_like(model.clip.visual.ln_post.weight)
    model.clip.visual.ln_pre.eval()
    state = {k: v.clone() for k, v in model.state_dict().items()}

    def books():
        return [(n, m.training, sorted(m.__dict__), len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks)) for n, m in model.named_modules()]
    before = books()
    if fails:
        hook = model.clip.visual.transformer.resblocks[-1].mlp.register_forward_pre_hook(lambda *a: 1 / 0)
        if method == 'similarity': hook.remove(); hook = model.clip.visual.ln_post.register_forward_pre_hook(lambda *a: 1 / 0)
        with pytest.raises(ZeroDivisionError): ground(model, noise(), PHRASES, method=method)
        hook.remove()
    else: ground(model, noise(), PHRASES, method=method)
    assert books() == before
    assert not frozen.requires_grad and model.clip.visual.proj.requires_grad
    assert model.log_scale_rpa.grad == 3 and model.clip.visual.ln_post.weight.grad is grad and bool((grad == 1).all())
    assert model.clip.visual.proj.grad is None
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())


def test_visible_attention_gives_back_an_earlier_replacement(model):
    block = model.clip.visual.transformer.resblocks[0]
    mine = block.attention
    block.attention = mine
    with pytest.raises(RuntimeError):
        with visible_attention(block): raise RuntimeError
    assert block.__dict__['attention'] is mine
    del block.attention


def test_many_visitors_at_once(model):
    "Methods hook into the model; threads must not see each other's hooks"
    expected = {m: ground(model, noise(), PHRASES, method=m).maps for m in METHODS}
    faults = []

    def visit(method):
        try: np.testing.assert_allclose(ground(model, noise(), PHRASES, method=method).maps, expected[method], atol=1e-5)
        except Exception as e: faults.append(e)
    threads = [threading.Thread(target=visit, args=(m,)) for m in list(METHODS) * 2]
    for t in threads: t.start()
    for t in threads: t.join()
    assert not faults


@pytest.mark.parametrize('method', METHODS)
def test_works_where_gradients_are_switched_off(model, method):
    expected = ground(model, noise(), PHRASES, method=method).maps
    with torch.no_grad(): np.testing.assert_allclose(ground(model, noise(), PHRASES, method=method).maps, expected, atol=1e-6)
    with torch.inference_mode(): np.testing.assert_allclose(ground(model, noise(), PHRASES, method=method).maps, expected, atol=1e-6)


@pytest.mark.parametrize('method', METHODS)
def test_another_size(model, method):
    r = ground(model, noise(), PHRASES, method=method, size=192)
    assert r.maps.shape == (2, 12, 12) and r.size == 192 and model.preprocess.size == 128


@pytest.mark.parametrize('size', [100, 0, -16, 3.5, 10**6, '128'])
def test_impossible_size(model, size):
    with pytest.raises(GeoAlignError): ground(model, noise(), PHRASES, size=size)


@pytest.mark.parametrize('mode', ['squash', 'longest', 'shortest'])
@pytest.mark.parametrize('shape', [(96, 64), (64, 96), (80, 80)])
def test_maps_span_exactly_the_picture(mode, shape):
    "A method that answers with the place in the frame: read at a place of the picture, it must give that place's position in the frame"
    model = GeoAlignCLIP.create('vit-tiny', mode=mode)
    place = (torch.arange(8.) + .5) / 8 * 128
    METHODS['place'] = Method(lambda m, images, text: torch.stack([place.expand(8, 8), place[:, None].expand(8, 8)]) / 1000, 'cosine')
    try: maps = ground(model, noise(*shape), PHRASES, method='place').maps * 1000
    finally: del METHODS['place']
    x1, y1, x2, y2 = model.preprocess.frame(*shape)
    rows, cols = maps.shape[1:]
    assert rows == round((y2 - y1) / 16) and cols == round((x2 - x1) / 16)
    for axis, n, low, high in ((0, cols, x1, x2), (1, rows, y1, y2)):
        expected = low + (np.arange(n) + .5) / n * (high - low)
        seen = (expected >= 0) & (expected <= 128)
        got = maps[0][rows // 2] if axis == 0 else maps[1][:, cols // 2]
        np.testing.assert_allclose(got[seen], expected[seen].clip(8, 120), atol=1e-3)


def test_scores_are_cosines_of_region_vectors(model):
    image, boxes = noise(), [(.1, .1, .5, .6), (0, 0, 1, 1)]
    r = ground(model, image, PHRASES, boxes=boxes)
    rows = [[0, *b] for b in model.preprocess.to_frame(boxes, *image.size)]
    with torch.no_grad(): expected = model.encode_regions([image], rows) @ model.encode_text(PHRASES).T
    np.testing.assert_allclose(r.scores, expected, atol=1e-5)
    assert ground(model, image, PHRASES).scores.shape == (0, 2) and ground(model, image, PHRASES).boxes is None
    assert ground(model, image, PHRASES, boxes=[]).scores.shape == (0, 2)


@pytest.mark.parametrize('how', ['argument', 'configuration'])
@pytest.mark.parametrize('mode', ['squash', 'longest', 'shortest'])
def test_boxes_are_carried_into_the_frame_that_is_used(how, mode):
    "With another side than the model's own, boxes are pixels of that frame"
    model, image, boxes = GeoAlignCLIP.create('vit-tiny', mode=mode), noise(120, 80), [(.3, .2, .6, .7), (.4, 0, .6, 1)]
    if how == 'configuration': model.config['ground_size'] = 192
    r = ground(model, image, PHRASES, boxes=boxes, size=192 if how == 'argument' else None)
    large = GeoAlignCLIP.create('vit-tiny', mode=mode, size=192)
    rows = [[0, *b] for b in large.preprocess.to_frame(boxes, *image.size)]
    with torch.no_grad(): expected = large.encode_regions([image], rows) @ large.encode_text(PHRASES).T
    np.testing.assert_allclose(r.scores, expected, atol=1e-5)
    assert r.size == 192 and model.preprocess.size == 128


@pytest.mark.parametrize('axis', [0, 1])
@pytest.mark.parametrize('low', [-.4, .2])
def test_places_that_the_model_did_not_see_get_the_lowest_value(axis, low):
    maps = low + torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(0)) / 10
    frame = (-64, 0, 192, 128) if axis == 0 else (0, -64, 128, 192)
    out = crop_to_image(maps, frame, 128)
    assert out.shape == ((3, 8, 16) if axis == 0 else (3, 16, 8))
    if axis: out = out.transpose(1, 2)
    unseen, lowest = torch.cat([out[..., :4], out[..., -4:]], -1), maps.amin((1, 2))
    assert torch.equal(unseen, lowest[:, None, None].expand_as(unseen)) and (out[..., 4:-4] >= lowest[:, None, None]).all()
    assert len(set(lowest.tolist())) == 3, 'each map has its own'


def test_the_dictionary_speaks_pixels(model, tmp_path):
    image = noise(200, 100)
    r = ground(model, image, PHRASES, boxes=[(.1, .2, .5, .6)])
    d = json.loads(json.dumps(r.to_dict(), allow_nan=False))
    assert d['boxes'] == [[20, 20, 100, 60]] and d['kind'] == 'cosine' and d['model'] == 'vit-tiny' and d['phrases'] == PHRASES
    for m, heat in zip(d['maps'], r.maps):
        y, x = np.unravel_index(heat.argmax(), heat.shape)
        assert m['peak'] == pytest.approx([(x + .5) * 25, (y + .5) * 12.5]) and m['maximum'] == pytest.approx(heat.max(), abs=1e-5)
    r.save_png(tmp_path/'a.png')
    assert Image.open(tmp_path/'a.png').size[0] > 200 and [p.name for p in tmp_path.iterdir()] == ['a.png']
    assert 'white plane' in r._repr_markdown_()
    with pytest.raises(GeoAlignError): r.save_png(tmp_path/'nowhere'/'a.png')


def test_relevance_of_nothing_is_told(model):
    METHODS['nothing'] = Method(lambda m, images, text: torch.stack([torch.ones(8, 8), torch.zeros(8, 8)]), 'relevance')
    METHODS['broken'] = Method(lambda m, images, text: torch.full((2, 8, 8), float('nan')), 'relevance')
    try:
        r = ground(model, noise(), PHRASES, method='nothing')
        with pytest.raises(GeoAlignError, match='NaN'): ground(model, noise(), PHRASES, method='broken')
    finally: del METHODS['nothing'], METHODS['broken']
    assert len(r.warnings) == 1 and 'tennis court' in r.warnings[0] and r.to_dict()['warnings'] == r.warnings and np.isfinite(r.maps).all()


def test_cosines_of_unit_vectors():
    a, b = F.normalize(torch.randn(5, 16), dim=1), F.normalize(torch.randn(3, 16), dim=1)
    exact = a.double() @ b.double().T
    with torch.autocast('cpu', torch.bfloat16): under = cosines(a, b)
    for got in (cosines(a, b), under): torch.testing.assert_close(got, exact.float(), atol=1e-6, rtol=0)
    assert cosines(a.bfloat16(), b).dtype == torch.float32 and cosines(a, b).shape == (5, 3)


def test_the_table_of_methods():
    assert {name: (m.maps, m.kind, m.scale) for name, m in METHODS.items()} == dict(
        similarity=(similarity, 'cosine', 'cosine_scale'), contrast=(contrast, 'relevance', 'contrast_scale'), gradcam=(gradcam, 'relevance', ''), legrad=(legrad, 'relevance', ''))


def test_contrast_is_what_exceeds_the_neutral_word(model, asked):
    images, text = asked
    with torch.no_grad(): neutral = model.encode_text(['background'])
    expected = (similarity(model, images, text) - similarity(model, images, neutral)).clamp(min=0)
    torch.testing.assert_close(contrast(model, images, text), expected, atol=1e-6, rtol=0)
    assert (expected > 0).any() and (expected == 0).any()


def test_the_last_norm_of_each_family(model):
    blocks = model.clip.visual.transformer.resblocks
    assert last_norm(model.clip.visual) == (blocks[-1].ln_1, 1)
    trunk = SimpleNamespace(blocks=[SimpleNamespace(norm1='first'), SimpleNamespace(norm1='last')], num_prefix_tokens=5)
    assert last_norm(SimpleNamespace(trunk=trunk)) == ('last', 5)
    with pytest.raises(GeoAlignError, match='SimpleNamespace has no blocks of tokens'): last_norm(SimpleNamespace(trunk=None))


@pytest.mark.parametrize('prefix', [0, 1, 3])
def test_tokens_to_a_grid(prefix):
    tokens = torch.arange(2 * (prefix + 9) * 4.).reshape(2, prefix + 9, 4)
    grid = to_grid(tokens, prefix)
    assert grid.shape == (2, 4, 3, 3) and torch.equal(grid[1, :, 2, 1], tokens[1, prefix + 7])
    if prefix == 1: assert torch.equal(to_grid(tokens), grid)


def test_block_inputs_are_those_of_one_pass(model, asked):
    blocks = list(model.clip.visual.transformer.resblocks)
    assert [b for b, _ in block_inputs(model, asked[0])] == blocks[-2:]
    for last in (1, 3):
        found = block_inputs(model, asked[0], last)
        assert [b for b, _ in found] == blocks[-last:] and not any(x.requires_grad for _, x in found)
    for (block, x), (_, following) in zip(found, found[1:]):
        with torch.no_grad(): torch.testing.assert_close(block(x), following, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize('visual', [SimpleNamespace(), SimpleNamespace(transformer=SimpleNamespace(resblocks=[1]), proj=None), SimpleNamespace(transformer=SimpleNamespace(), proj=1)])
def test_legrad_needs_a_tower_of_open_clip(visual):
    with pytest.raises(GeoAlignError, match="Method legrad needs open_clip's own ViT, not SimpleNamespace"): block_inputs(SimpleNamespace(clip=SimpleNamespace(visual=visual)), None)


def test_gradcam_needs_gradients_at_the_last_block():
    model = GeoAlignCLIP.create('vit-tiny').train()
    model.clip.visual.set_grad_checkpointing()
    try: sound(ground(model, noise(), PHRASES, method='gradcam'))
    except GeoAlignError as e: assert 'switch gradient checkpointing off' in str(e)


@pytest.mark.parametrize('most, expected', [(3, (3, 3)), (1024, (4, 8))])
def test_the_part_of_the_frame_has_a_largest_side(most, expected): assert crop_to_image(torch.rand(1, 8, 8), (0, 32, 128, 96), 128, most).shape[1:] == expected


def test_a_sliver_keeps_a_cell(): assert crop_to_image(torch.rand(2, 8, 8), (0, 63, 128, 65), 128).shape == (2, 1, 8) and crop_to_image(torch.rand(2, 8, 8), (63, 0, 65, 128), 128).shape == (2, 8, 1)


def test_a_map_of_the_whole_frame_is_returned_as_it_is():
    maps = torch.rand(1, 8, 8)
    assert crop_to_image(maps, (0., 0., 128., 128.), 128) is maps


class Named:
    def __init__(self, **config): self.name, self.config = 'mine', config


def test_scales_come_from_the_configuration_then_from_the_measurement(tmp_path, monkeypatch):
    file = tmp_path/'q.json'
    monkeypatch.setattr('geoalignclip_nb.ground.asset', lambda name: file)
    assert measured_scale(Named(trained=True)) == (0., .5), 'nothing was measured'
    file.write_text('{')
    assert measured_scale(Named(trained=True)) == (0., .5)
    file.write_text(json.dumps(dict(trained=True, model='mine', cosine_scale=[.1, .4], contrast_scale=[0, .2])))
    assert measured_scale(Named(trained=True)) == (.1, .4) and measured_scale(Named(trained=True), 'contrast_scale') == (0, .2)
    assert measured_scale(Named(trained=True, cosine_scale=[.3, .6])) == pytest.approx((0, .6))  # chances of 5 % to 95 %
    assert measured_scale(Named()) == measured_scale(object()) == (0., .5)
    for change in (dict(trained=False), dict(model='other'), dict(cosine_scale=None)):
        file.write_text(json.dumps(dict(trained=True, model='mine', cosine_scale=[.1, .4]) | change))
        assert measured_scale(Named(trained=True)) == (0., .5), change


def test_colors_of_each_method(model):
    assert ground(model, noise(), PHRASES).scale == (0., .5) and ground(model, noise(), PHRASES, method='gradcam').scale == (0., 1.)
    assert ground(model, noise(), PHRASES, scale=[.1, .2]).scale == (.1, .2)
    model.config['contrast_scale'] = [0, .3]
    try: assert ground(model, noise(), PHRASES, method='contrast').scale == (0, .3)
    finally: del model.config['contrast_scale']


@pytest.mark.parametrize('method', ['gradcam', 'legrad'])
def test_relevance_is_a_share_of_the_largest(model, asked, method):
    raw = METHODS[method].maps(model, *asked).numpy()
    r = ground(model, noise(), PHRASES, method=method)
    assert r.unit == pytest.approx(raw.max(), rel=1e-4) and r.maps.max() == pytest.approx(1)
    np.testing.assert_allclose(r.maps * r.unit, raw, atol=1e-3 * raw.max())
    assert f'{method} relevance (1 = {r.unit:.2g})' == r.says() and r.to_dict()['unit'] == pytest.approx(r.unit, rel=1e-5)


def test_contrast_is_not_stretched(model, asked):
    r = ground(model, noise(), PHRASES, method='contrast')
    np.testing.assert_allclose(r.maps, contrast(model, *asked).numpy(), atol=1e-5)
    assert r.unit == 1 and r.says() == 'cosine above “background”'


@pytest.mark.parametrize('value', [1.5, -1.5])
def test_a_cosine_is_clipped_to_its_range(model, value):
    METHODS['loud'] = Method(lambda m, images, text: torch.full((2, 8, 8), value), 'cosine')
    try: r = ground(model, noise(), PHRASES, method='loud')
    finally: del METHODS['loud']
    assert (r.maps == np.sign(value)).all() and r.unit == 1 and r.warnings == []


@pytest.mark.parametrize('size, told', [((96, 64), True), ((64, 96), True), ((64, 64), False)])
def test_a_cut_image_is_told(size, told):
    for mode in ('shortest', 'squash'):
        r = ground(GeoAlignCLIP.create('vit-tiny', mode=mode), noise(*size), PHRASES)
        assert any('middle square' in w for w in r.warnings) == (told and mode == 'shortest')


def test_sizes_from_the_caller_the_configuration_and_the_model():
    model = GeoAlignCLIP.create('vit-tiny')
    model.config['ground_size'] = 64
    assert [ground(model, noise(), 'a', size=s).size for s in (None, 96)] == [64, 96] and model.preprocess.size == 128
    for size in (2049, 0):
        with pytest.raises(GeoAlignError, match=f'A size of {size} is not possible'): ground(model, noise(), 'a', size=size)


def test_a_language_model_refuses_in_its_own_sentence(model):
    class Talks:
        family = 'lvlm'
        def dense(self): raise GeoAlignError('I only talk.')
    with pytest.raises(GeoAlignError, match='I only talk'): ground(Talks(), noise(), 'a')


def test_one_phrase_is_a_list_of_one(model):
    r = ground(model, noise(), '  white\t plane ')
    assert r.phrases == ['white plane'] and r.maps.shape[0] == 1
    for nothing in ([], None, ''):
        with pytest.raises(GeoAlignError, match='phrase'): ground(model, noise(), nothing)


def result(**change):
    maps = np.zeros((2, 2, 4), np.float32)
    maps[0, 1, 3], maps[1, 0, 0], maps[1, 1, 1] = .25, .123456789, -.5
    fields = dict(maps=maps, scores=np.array([[.1, .3], [.25, .25]]), boxes=np.array([[0, 0, .5, 1], [.5, .5, 1, 1]]), phrases=['a|b' + 'c' * 90, 'road'], kind='cosine',
                  method='similarity', model='mine', image=noise(200, 100), scale=(-.1, .4), size=128)
    return GroundResult(**fields | change)


PLACES_BY_HAND = []  # scale -0.1 to 0.4: the threshold is 0.325


def test_the_dictionary_by_hand():
    assert result(warnings=['x']).to_dict() == dict(
        phrases=['a|b' + 'c' * 90, 'road'], boxes=[[0, 0, 100, 100], [100, 50, 200, 100]], scores=[[.1, .3], [.25, .25]], kind='cosine', method='similarity', model='mine',
        width=200, height=100, unit=1, warnings=['x'], found=[None, None], presence=[None, None], threshold=[None, None], coverage=None,
        crs=None, transform=None, size=128, scale=[-.1, .4], unknown=[[], []], notes=[],
        maps=[dict(phrase='a|b' + 'c' * 90, peak=[175, 75], minimum=0, maximum=.25, places=PLACES_BY_HAND), dict(phrase='road', peak=[25, 25], minimum=-.5, maximum=.123457, places=[])])
    assert result(boxes=None, scores=np.zeros((0, 2))).to_dict()['boxes'] == []


def test_the_table_by_hand():
    name = 'a b' + 'c' * 90
    assert result(warnings=['look'])._repr_markdown_().splitlines() == [
        '**similarity** (cosine) by mine, 128 px', '', '| phrase | peak | at x, y |', '| --- | ---: | ---: |', f'| {name[:80]} | 0.250 | 175, 75 |', '| road | 0.123 | 25, 25 |', '',
        f'| box, pixels | {name[:40]} | road |', '| --- | ---: | ---: |', '| 0 0 100 100 | 0.10 | **0.30** |', '| 100 50 200 100 | **0.25** | **0.25** |', '', '⚠ look']
    assert 'box' not in result(boxes=None, scores=np.zeros((0, 2)))._repr_markdown_()


def test_the_label_states_scale_and_range():
    assert result().label() == 'cosine\nscale -0.10 to 0.40, maps -0.50 to 0.25'
    assert result(method='legrad', unit=.0123).label().startswith('legrad relevance (1 = 0.012)\n')


def test_show_passes_everything_on(monkeypatch):
    seen = {}
    monkeypatch.setattr('geoalignclip_nb.ground.show_heat', lambda image, maps, phrases, *scale, **more: seen.update(more, image=image, maps=maps, phrases=phrases, scale=scale) or 'drawn')
    r = result(image=Image.new('RGB', (3000, 1500)))
    assert r.show(ncols=3, boxes=[[], []], fig='f') == 'drawn'
    assert seen['image'].size == (1200, 600) and r.image.size == (3000, 1500) and seen['maps'] is r.maps and seen['phrases'] is r.phrases
    assert seen['scale'] == (-.1, .4) and seen['marks'] == [(.875, .75), (.125, .25)] and (seen['ncols'], seen['boxes'], seen['fig'], seen['label']) == (3, [[], []], 'f', r.label())


def test_dots_per_inch_of_a_file(tmp_path):
    for dpi in (60, 120): result().save_png(tmp_path/f'{dpi}.png', dpi=dpi)
    result().save_png(tmp_path/'own.png')
    sizes = {f.stem: Image.open(f).size[0] for f in tmp_path.iterdir()}
    assert sizes['own'] == sizes['120'] == pytest.approx(2 * sizes['60'], abs=2) and Image.open(tmp_path/'own.png').format == 'PNG'


def test_frozen_eval_gives_the_model_and_puts_back_after_an_error():
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Dropout()).train()
    model[1].eval()
    model[0].bias.requires_grad_(False)
    model[0].weight.grad = grad = torch.ones(2, 2)
    with pytest.raises(ZeroDivisionError):
        with frozen_eval(model) as same:
            assert same is model and not model[0].training and not model[0].weight.requires_grad
            model[0].weight.grad = None
            raise ZeroDivisionError
    assert model.training and model[0].training and not model[1].training
    assert model[0].weight.requires_grad and not model[0].bias.requires_grad and model[0].weight.grad is grad


# --- any input is accepted or refused in one sentence -------------------------------------------------------------------------------------------

def sound(result):
    assert np.isfinite(result.maps).all() and np.isfinite(result.scores).all() and result.maps.ndim == 3 and result.maps.size
    low, high = (-1, 1) if result.kind == 'cosine' else (0, 1)
    assert result.maps.min() >= low and result.maps.max() <= high + 1e-6 and np.abs(result.scores).max(initial=0) <= 1 + 1e-5
    json.dumps(result.to_dict(), allow_nan=False)


odd = st.one_of(st.text(max_size=40), st.sampled_from(['', ' ', '\x00\x07', '\u200b', 'a' * 10_000, 'a' * 10_001, 'plane ' * 1600, '🛩️🏟️', 'ü' * 500, '\ud800', '飞机', 'a;b\nc', '<|endoftext|>']))


@quick
@given(st.one_of(st.lists(odd, max_size=4), odd, st.lists(st.one_of(st.integers(), st.none()), min_size=1, max_size=2)))
def test_any_phrases(model, phrases):
    try: sound(ground(model, noise(), phrases))
    except GeoAlignError as e: assert str(e).strip().endswith('.')


number = st.one_of(st.floats(-2, 3), st.floats(0, 1), st.floats(allow_nan=True, allow_infinity=True), st.sampled_from([0, 1, 1e-12, 1 - 1e-12, 1e300]))


@quick
@given(st.lists(st.tuples(number, number, number, number), max_size=3))
def test_any_boxes(model, boxes):
    try: sound(ground(model, noise(), ['plane'], boxes=boxes))
    except GeoAlignError as e: assert str(e).strip().endswith('.')


@pytest.mark.parametrize('boxes', ['a,b', [('a', 'b', 'c', 'd')], [(0, 0, 1)], [None], 7, {'x': 1}, [[0, 0, 1, 1], [0, 0]]])
def test_boxes_that_are_none(model, boxes):
    with pytest.raises(GeoAlignError): ground(model, noise(), ['plane'], boxes=boxes)


@quick
@given(st.integers(1, 400), st.integers(1, 400), st.sampled_from(['RGB', 'L', 'RGBA', 'P', '1', 'I;16', 'F']), st.sampled_from(['squash', 'longest', 'shortest']))
def test_any_picture(width, height, kind, mode):
    model = GeoAlignCLIP.create('vit-tiny', mode=mode) if mode not in MODELS else MODELS[mode]
    MODELS[mode] = model
    try: sound(ground(model, Image.new(kind, (width, height), 1), ['plane'], boxes=[(0, 0, 1, 1)]))
    except GeoAlignError as e: assert str(e).strip().endswith('.')


MODELS = {}


@pytest.mark.parametrize('method', METHODS)
@pytest.mark.parametrize('shape', [(1, 1), (1, 5000), (5000, 1), (2, 3)])
@pytest.mark.parametrize('mode', ['squash', 'longest', 'shortest'])
def test_extreme_shapes(method, shape, mode, tmp_path):
    model = MODELS.setdefault(mode, GeoAlignCLIP.create('vit-tiny', mode=mode))
    r = ground(model, Image.new('RGB', shape, (90, 120, 60)), PHRASES, method=method)
    sound(r)
    if method == 'similarity' and mode == 'squash': r.save_png(tmp_path/'a.png')


@pytest.mark.parametrize('image', ['nowhere.png', np.zeros((0, 3)), np.zeros((4, 4, 3, 2)), np.full((8, 8), np.nan)])
def test_pictures_that_are_none(model, image):
    try: sound(ground(model, image, PHRASES))
    except GeoAlignError as e: assert str(e).strip().endswith('.')


def test_unknown_method(model):
    with pytest.raises(GeoAlignError, match='similarity, contrast, gradcam, legrad'): ground(model, noise(), PHRASES, method='magic')


# --- metrics ------------------------------------------------------------------------------------------------------------

@settings(max_examples=50, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 1000))
def test_pointing_by_counting(rows, cols, seed):
    rng = np.random.default_rng(seed)
    heat, box = rng.random((rows, cols)), np.sort(rng.random((2, 2)), 0).ravel()
    best, at = -1., None
    for y in range(rows):
        for x in range(cols):
            if heat[y, x] > best: best, at = heat[y, x], ((x + .5) / cols, (y + .5) / rows)
    assert peak(heat) == pytest.approx(at)
    assert pointing_hit(heat, [box]) == (box[0] <= at[0] <= box[2] and box[1] <= at[1] <= box[3])


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000))
def test_energy(seed):
    rng = np.random.default_rng(seed)
    heat, a, b = rng.normal(size=(7, 5)), np.sort(rng.random((2, 2)), 0).ravel(), np.sort(rng.random((2, 2)), 0).ravel()
    inside = energy_in_box(heat, [a])
    assert 0 <= inside <= 1 and energy_in_box(heat, [a, b]) >= inside - 1e-9
    assert energy_in_box(heat, [(0, 0, 1, 1)]) == pytest.approx(1) and energy_in_box(heat, []) == 0
    assert energy_in_box(3 * heat, [a]) == pytest.approx(inside, abs=1e-5)
    # pixel by pixel, with boxes whose edges lie on pixels
    box = np.array([3, 4, 11, 13]) / 16
    big = np.asarray(Image.fromarray(np.maximum(heat, 0).astype(np.float32)).resize((16, 16), Image.Resampling.BILINEAR), float)
    slow = sum(big[y, x] for y in range(4, 13) for x in range(3, 11)) / big.sum()
    assert energy_in_box(heat, [box], (16, 16)) == pytest.approx(slow, abs=1e-6)


def test_cover_of_one_small_box(): assert cover([(.5, .5, .501, .502)], 64, 48).sum() == pytest.approx(.001 * .002 * 64 * 48)


def test_centre(): assert peak(centre_map()) == (.5, .5)


# --- committed results ----------------------------------------------------------------------------------------------------

def result_file(name):
    try: return json.loads(asset(name).read_text())
    except GeoAlignError: pytest.skip(f'{name} has not been measured yet')


def test_quality_file():
    q = result_file(RESULTS)
    assert {'task', 'dataset', 'split', 'n', 'n_texts', 'skipped', 'model', 'checkpoint', 'resolution', 'context_length', 'resize_mode', 'templates',
            'metrics', 'ci95', 'seconds', 'device', 'versions', 'seed'} <= set(q)
    for r in q['rows']:
        for k, v in r['metrics'].items():
            if v is not None: assert r['ci95'][k][0] - 1e-9 <= v <= r['ci95'][k][1] + 1e-9
        for c in r['classes'].values(): assert c['ci95']['pointing_game'][0] - 1e-9 <= c['pointing_game'] <= c['ci95']['pointing_game'][1] + 1e-9
    for name in {r['dataset'] for r in q['rows']}:
        assert {*usable_methods(GeoAlignCLIP.from_pretrained(q['model'])), 'centre', 'random map', 'random weights'} == {r['method'] for r in q['rows'] if r['dataset'] == name}


def test_quality_file_belongs_to_the_bundled_weights():
    q = result_file(RESULTS)
    sha = hashlib.sha256(asset(q['model'] + '/model.safetensors').read_bytes()).hexdigest()
    assert q['checkpoint'] == sha, 'run tests/benchmarks/grounding_quality.py again: the bundled weights have changed'
    model = GeoAlignCLIP.from_pretrained(q['model'])
    assert measured_scale(model, 'contrast_scale') == tuple(q['contrast_scale'])
    if 'cosine_scale' not in model.config: assert measured_scale(model) == tuple(q['cosine_scale'] or (0, .5))


def test_speed_file():
    s = result_file('results/ground_speed.json')
    assert all(s['met'].values()), s['ratios']


def test_an_untrained_model_does_not_borrow_a_scale(model): assert measured_scale(model) == (0, .5)


# ---- a convolutional image tower -----------------------------------------------------------------------------------------

@pytest.fixture(scope='module')
def convnet(): return small_model()


@pytest.mark.parametrize('method', ['similarity', 'contrast', 'gradcam'])
@pytest.mark.parametrize('precision', ['fp32', 'autocast', 'bf16'])
def test_methods_of_a_convolutional_tower(convnet, method, precision):
    model = copy.deepcopy(convnet).bfloat16() if precision == 'bf16' else convnet
    with torch.autocast('cpu', torch.bfloat16, enabled=precision == 'autocast'):
        found = ground(model, noise(), ['white plane', 'boats'], [(0, 0, .5, .5)], method)
    assert found.maps.shape == ((2, 2, 2) if method == 'gradcam' else (2, 4, 4)) and found.scores.shape == (1, 2)
    assert np.isfinite(found.maps).all()
    if precision == 'fp32': return
    plain = ground(convnet, noise(), ['white plane', 'boats'], [(0, 0, .5, .5)], method)
    np.testing.assert_allclose(found.scores, plain.scores, atol=.05)


def test_gradcam_of_a_convolutional_tower_by_hand(convnet):
    images = convnet.to_tensor([noise()])
    with torch.no_grad(): text = convnet.encode_text(['white plane'])
    tower = convnet.clip.visual
    _, (stage,) = tower.trunk.forward_intermediates(images, indices=[4])
    stage = stage.detach().requires_grad_()
    last = tower.trunk.bn2(tower.trunk.conv_head(stage))
    score = F.normalize(tower.global_head(last), dim=-1) @ text.T
    slope, = torch.autograd.grad(score.sum(), stage)
    expected = (slope.mean((2, 3), keepdim=True) * stage).sum(1).relu()
    torch.testing.assert_close(gradcam(convnet, images, text), expected.detach(), atol=1e-6, rtol=1e-3)


def test_legrad_names_other_methods_for_a_convolutional_tower(convnet):
    with pytest.raises(GeoAlignError, match='not PyramidTower; use method similarity or contrast') as e:
        ground(convnet, noise(), ['white plane'], method='legrad')
    assert '\n' not in str(e.value)
