"""Crops, frames and boxes, and the two vectors of one pass (random weights)."""
import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings, strategies as st
from open_clip.model import CLIP, CustomTextCLIP
from PIL import Image
from timm import create_model

from geoalignclip_nb.architectures import build_clip
from geoalignclip_nb.core import GeoAlignError
from geoalignclip_nb.io.images import crop_box, pixel_box, resize_image
from geoalignclip_nb.vision import Preprocess, encode_image, image_tower, resize_positions, value_only

# ---- crops and resizes ---------------------------------------------------------------------------------------------------

def noise(width, height, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


@settings(max_examples=150, deadline=None)
@given(x=st.floats(-.5, 1), y=st.floats(-.5, 1), w=st.floats(1e-6, 1.5), h=st.floats(1e-6, 1.5), padding=st.floats(0, 2),
       width=st.integers(1, 90), height=st.integers(1, 90))
def test_a_crop_holds_the_pixels_that_the_box_touches(x, y, w, h, padding, width, height):
    x1, y1, x2, y2 = pixel_box((x, y, x + w, y + h), width, height, padding)
    assert 0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height
    for low, high, first, last, side in ((x, x + w, x1, x2, width), (y, y + h, y1, y2, height)):
        low, high = (low - padding * (high - low)) * side, (high + padding * (high - low)) * side
        if low >= side or high <= 0: continue  # outside: the pixel at the edge
        assert first <= max(low, 0) + 2e-3 and last >= min(high, side) - 2e-3  # nothing is missing
        assert first > low - 1 - 2e-3 or first == 0
        assert last < high + 1 + 2e-3 or last == side or last == first + 1


def test_a_crop_from_pixel_numbers_is_exact():
    image = noise(300, 170)
    for k in range(200):
        r = np.random.default_rng(k)
        x1, y1 = int(r.integers(0, 299)), int(r.integers(0, 169))
        x2, y2 = int(r.integers(x1 + 1, 301)), int(r.integers(y1 + 1, 171))
        crop = crop_box(image, (x1 / 300, y1 / 170, x2 / 300, y2 / 170))
        assert np.array_equal(np.asarray(crop), np.asarray(image)[y1:y2, x1:x2])
    assert crop_box(image, (.25, .25, .75, .75), .5).size == (300, 170) == crop_box(image, (-1, -1, 2, 2)).size
    assert crop_box(image, (100 / 300, 0, 120 / 300, 1), .25).size == (30, 170)


def test_one_resize():
    image = noise(200, 100)
    assert resize_image(image, 50).size == (50, 50) and resize_image(image, (30, 20)).size == (30, 20)
    for window in (None, (0, 0, 1, 1), (0., 0., 1., 1.)):
        want = image.resize((64, 64), Image.BICUBIC, reducing_gap=3.0)
        assert np.array_equal(np.asarray(resize_image(image, 64, window)), np.asarray(want))
    bilinear = image.resize((9, 9), Image.BILINEAR, (20, 50, 120, 75))
    assert np.array_equal(np.asarray(resize_image(image, 9, (.1, .5, .6, .75), 'bilinear', None)), np.asarray(bilinear))
    assert np.array_equal(np.asarray(Preprocess(64).picture(image)), np.asarray(resize_image(image, 64)))


# ---- frames --------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('size, width, height', [(224, 333, 500), (224, 500, 333), (97, 640, 481), (64, 64, 64), (32, 33, 32), (224, 100, 37), (16, 999, 20),
                                                 (50, 51, 50), (50, 53, 50), (7, 1, 30), (1, 5, 9), (48, 1300, 700)])
def test_shortest_is_open_clips_transform(size, width, height):
    "To the bit, and boxes go where the pixels go"
    theirs = open_clip.image_transform(size, is_train=False, resize_mode='shortest', interpolation='bicubic')
    ours = Preprocess(size, 'shortest')
    image = noise(width, height)
    assert torch.equal(ours(image), theirs(image))
    x1, y1, x2, y2 = ours.frame(width, height)
    assert (x2 - x1, y2 - y1) == ours.resized(width, height) and {v % 1 for v in (x1, y1, x2, y2)} == {0}



@settings(max_examples=80, deadline=None)
@given(w=st.integers(1, 3000), h=st.integers(1, 3000), s=st.integers(1, 300), mode=st.sampled_from(['squash', 'longest', 'shortest']))
def test_frames(w, h, s, mode):
    p = Preprocess(s, mode); x1, y1, x2, y2 = p.frame(w, h)
    assert x2 > x1 and y2 > y1 and np.allclose(p.to_frame([(0, 0, 1, 1)], w, h)[0], (x1, y1, x2, y2))
    if mode == 'shortest': assert x1 <= 1e-9 and y1 <= 1e-9 and x2 >= s - 1e-9 and y2 >= s - 1e-9
    else: assert min(x1, y1) >= 0 and max(x2, y2) <= s


@pytest.mark.parametrize('size', [(1, 1), (1, 4000), (4000, 1), (37, 53)])
@pytest.mark.parametrize('mode', ['squash', 'longest', 'shortest'])
def test_any_picture_fills_the_frame(size, mode):
    x = Preprocess(48, mode)(Image.new('RGB', size, (200, 100, 50)))
    assert x.shape == (3, 48, 48) and x.dtype == torch.float32 and x.isfinite().all()


# ---- towers --------------------------------------------------------------------------------------------------------------

def tiny(cls=CLIP, size=64, **vision):
    torch.manual_seed(0)
    return cls(32, dict(image_size=size, layers=3, width=64, patch_size=16, head_width=32) | vision, dict(context_length=8, vocab_size=99, width=32, heads=2, layers=1)).eval()


def timm(name, pool, **more): return tiny(CustomTextCLIP, 160, timm_model_name=name, timm_pool=pool, **more)


TOWERS = {'cls': tiny, 'average': lambda: tiny(pool_type='avg'), 'average, norm after': lambda: tiny(pool_type='avg', final_ln_after_pool=True), 'layer scale': lambda: tiny(ls_init_value=.5),
          'qk norm': lambda: tiny(qk_norm=True), 'no ln_pre': lambda: tiny(no_ln_pre=True), 'timm cls': lambda: timm('test_vit', 'token'), 'timm average': lambda: timm('test_vit', 'avg'),
          'timm no projection': lambda: timm('test_vit', 'token', timm_proj=''), 'timm registers': lambda: timm('test_vit2', 'avg'), 'timm map': lambda: timm('test_vit3', 'map', timm_proj='none')}


@pytest.fixture(params=TOWERS)
def clip(request): return TOWERS[request.param]()


def test_cls_is_open_clips(clip):
    x = torch.randn(2, 3, *clip.visual.image_size)
    with torch.no_grad():
        cls, dense = encode_image(clip, x)
        assert torch.equal(cls, clip.encode_image(x)) and torch.equal(encode_image(clip, x, dense=False)[0], cls)
    assert dense.shape[:2] == cls.shape and dense.isfinite().all()
    torch.testing.assert_close(encode_image(clip, x)[0], cls, atol=1e-5, rtol=0)


def test_batch_is_single_and_any_size(clip):
    for h, w in [(64, 96), (160, 160), (16, 32)]:
        x = torch.randn(2, 3, h, w)
        with torch.no_grad(): (cls, dense), (one, map) = encode_image(clip, x), encode_image(clip, x[1:])
        assert dense.shape[2:] == (h // 16, w // 16)
        torch.testing.assert_close(one, cls[1:], atol=1e-5, rtol=0); torch.testing.assert_close(map, dense[1:], atol=1e-5, rtol=0)


def test_checkpointing_and_gradients(clip):
    clip.train(); x = torch.randn(2, 3, *clip.visual.image_size)
    def gradients():
        clip.zero_grad(); cls, dense = encode_image(clip, x, normalize_dense=True)
        (cls.square().sum() + dense[:, 0].sum()).backward()
        return {n: p.grad for n, p in clip.visual.named_parameters() if p.grad is not None}
    plain = gradients(); clip.set_grad_checkpointing(); saved = gradients()
    assert plain.keys() == saved.keys() and len(plain) > 20
    for n in plain: torch.testing.assert_close(saved[n], plain[n], atol=1e-5, rtol=1e-4)


def test_bfloat16(clip):
    x = torch.randn(2, 3, *clip.visual.image_size)
    with torch.autocast('cpu', torch.bfloat16): cls, dense = encode_image(clip, x)
    (cls.float().sum() + dense.float().sum()).backward()
    assert torch.nn.functional.cosine_similarity(cls.float(), encode_image(clip, x)[0]).min() > .98


@pytest.mark.parametrize('dtype, tolerance', [(torch.bfloat16, .05), (torch.float16, .005)])
def test_half_precision_weights(clip, dtype, tolerance):
    "Images in float32 are read by a tower of any dtype"
    x = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        full = encode_image(clip, x, normalize_dense=True)
        half = encode_image(clip.to(dtype), x, normalize_dense=True)
    for a, b in zip(half, full):
        assert a.dtype == dtype and a.isfinite().all()
        torch.testing.assert_close(torch.nn.functional.normalize(a.float(), dim=1), torch.nn.functional.normalize(b, dim=1), atol=tolerance, rtol=0)


def test_value_only_is_the_diagonal_mask():
    block = tiny(ls_init_value=.3).visual.transformer.resblocks[-1]
    for p in block.attn.parameters(): torch.nn.init.normal_(p, std=.2)
    x = torch.randn(2, 7, 64)
    mask = torch.full((7, 7), float('-inf')).fill_diagonal_(0)
    torch.testing.assert_close(value_only(block, x), block(x, attn_mask=mask), atol=1e-5, rtol=0)


def prefixed(name='test_vit2', **settings):
    "A timm tower of open_clip with other settings of `timm.create_model`"
    clip = timm(name, 'avg')
    torch.manual_seed(1)
    clip.visual.trunk = create_model(name, num_classes=0, **settings).eval()
    for p in clip.visual.trunk.parameters(): torch.nn.init.normal_(p, std=.2)
    return clip


PREFIXES = {'cls and 3 registers': dict(class_token=True, reg_tokens=3), 'registers outside the table': dict(class_token=True, reg_tokens=3, no_embed_class=True),
            'cls outside the table': dict(class_token=True, reg_tokens=0, no_embed_class=True), 'no prefix': dict(class_token=False, reg_tokens=0)}


@pytest.mark.parametrize('settings', PREFIXES.values(), ids=PREFIXES)
@pytest.mark.parametrize('h, w', [(160, 160), (64, 96)])
def test_timm_prefixes(settings, h, w):
    "The picture's vector is timm's own at every size; a cell is what the head says of a token that attends to itself alone"
    clip, x = prefixed(**settings), torch.randn(2, 3, h, w)
    v, t = clip.visual, clip.visual.trunk
    theirs = create_model('test_vit2', num_classes=0, dynamic_img_size=True, **settings).eval()
    theirs.load_state_dict(t.state_dict())
    prefix, seen = t.num_prefix_tokens, []
    hook = theirs.blocks[-1].register_forward_pre_hook(lambda m, args: seen.append(args[0]))
    with torch.no_grad():
        expected = v.head(theirs.forward_head(theirs.forward_features(x)))
        cls, dense = encode_image(clip, x)
        hook.remove()
        patches = seen[0][:, prefix:]
        alone = theirs.blocks[-1](patches.reshape(-1, 1, patches.shape[-1])).reshape(patches.shape)  # each token in a sequence of its own
        cells = v.head(theirs.fc_norm(theirs.norm(alone)))
    torch.testing.assert_close(cls, expected, atol=1e-4, rtol=1e-4)
    assert dense.shape[2:] == (h // 16, w // 16)
    torch.testing.assert_close(dense.flatten(2).transpose(1, 2), cells, atol=1e-4, rtol=1e-4)


def slow_cell(m, x, i, j):
    "A cell by its definition: the last block under the diagonal mask, then pooled as if it were the whole image"
    tower = image_tower(m.visual)
    t, grid = tower.tokens(x)
    for block in tower.blocks[:-1]: t = block(t)
    t = tower.blocks[-1](t, attn_mask=torch.full((t.shape[1],) * 2, float('-inf')).fill_diagonal_(0))
    one = t[:, [tower.prefix + i * grid[1] + j]]
    return tower.pool(one if tower.prefix == 0 else torch.cat([one] * (tower.prefix + 1), 1))


def test_cells_by_their_definition(clip):
    for block in image_tower(clip.visual).blocks:
        for p in block.attn.parameters(): torch.nn.init.normal_(p, std=.1)  # biases too
    x = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        dense = encode_image(clip, x)[1]
        for i, j in [(0, 0), (1, 2), (3, 5)]: torch.testing.assert_close(dense[..., i, j], slow_cell(clip, x, i, j), atol=1e-5, rtol=1e-4)
        unit = encode_image(clip, x, normalize_dense=True)[1]
    torch.testing.assert_close(unit, torch.nn.functional.normalize(dense, dim=1))


def test_no_cells_where_none_are_wanted(clip):
    vectors, cells = encode_image(clip, torch.randn(1, 3, *clip.visual.image_size), dense=False, normalize_dense=True)
    assert cells is None and vectors.shape[0] == 1


def test_the_tower_tells_what_it_is():
    t = image_tower(tiny(size=64, layers=2).visual)
    assert (t.prefix, t.native, t.patch, len(t.blocks), t.first_only, t.checkpointing) == (1, (64, 64), (16, 16), 2, True, False)
    t = image_tower(tiny(pool_type='avg').visual)
    assert not t.first_only and t.cell is not None
    t = image_tower(tiny(attentional_pool=True).visual)
    assert t.cell is None and not t.first_only
    t = image_tower(timm('test_vit2', 'avg').visual)
    assert (t.prefix, t.native, t.patch, t.first_only) == (1, (160, 160), (16, 16), False)
    assert image_tower(torch.nn.Linear(2, 2)) is None


CONVNETS = ['test_convnext', 'test_efficientnet', 'test_resnet']


@pytest.mark.parametrize('name', CONVNETS)
@pytest.mark.parametrize('h, w', [(64, 64), (96, 160)])
def test_a_convnet_pools_each_cell_alone(name, h, w):
    clip, x = tiny(CustomTextCLIP, 64, timm_model_name=name, timm_pool='avg', timm_proj='linear'), torch.randn(2, 3, h, w)
    with torch.no_grad():
        vector, cells = encode_image(clip, x)
        assert torch.equal(encode_image(clip, x, dense=False)[0], clip.encode_image(x)) and encode_image(clip, x, dense=False)[1] is None
        features = clip.visual.trunk.forward_features(x)
        one = clip.visual.head(clip.visual.trunk.forward_head(features[:, :, -1:, 1:2]))
    assert cells.shape == (2, 32, h // 32, w // 32)
    torch.testing.assert_close(vector, clip.encode_image(x), atol=1e-5, rtol=0)
    torch.testing.assert_close(cells[:, :, -1, 1], one, atol=1e-5, rtol=0)
    linear = name != 'test_convnext'  # ConvNeXt has a norm between pooling and projection
    assert torch.allclose(cells.mean((2, 3)), vector, atol=1e-5) == linear


@pytest.mark.parametrize('proj', ['linear', 'mlp', ''])
def test_a_convnet_with_other_heads(proj):
    clip = tiny(CustomTextCLIP, 64, timm_model_name='test_convnext', timm_pool='avg', timm_proj=proj)
    assert encode_image(clip, torch.randn(1, 3, 64, 96))[1].shape == (1, 32, 2, 3)


def test_a_convnet_with_attention_pooling_gives_an_image_vector_alone():
    clip, x = tiny(CustomTextCLIP, 64, timm_model_name='test_resnet', timm_pool='avg'), torch.randn(1, 3, 64, 64)
    clip.visual.head.pool = torch.nn.Identity()  # open_clip's name of `abs_attn` and `rot_attn`
    assert encode_image(clip, x, dense=False)[0].shape == (1, 32)
    with pytest.raises(GeoAlignError, match='ResNet gives no dense map'): encode_image(clip, x)


def test_convnets_in_other_precisions():
    clip, x = tiny(CustomTextCLIP, 64, timm_model_name='test_convnext', timm_pool='avg'), torch.randn(1, 3, 64, 64)
    plain = encode_image(clip, x)[1].detach()
    with torch.autocast('cpu', torch.bfloat16): half = encode_image(clip, x)[1]
    assert F.cosine_similarity(half.float(), plain).min() > .99
    assert encode_image(clip.bfloat16(), x)[1].dtype == torch.bfloat16


# ---- pyramid tower -------------------------------------------------------------------------------------------------------

def pyramid(grid=16, name='test_efficientnet', **more):
    torch.manual_seed(0)
    settings = dict(grid=grid, hidden=32, width=16) | more
    clip = build_clip(dict(embed_dim=24, vision_cfg=dict(image_size=64, timm_model_name=name, pyramid=settings),
                           text_cfg=dict(context_length=77, width=32, heads=2, layers=1)))
    return clip.eval()


@pytest.mark.parametrize('grid', [8, 16, 32])
@pytest.mark.parametrize('h, w', [(64, 64), (96, 160)])
def test_pyramid_cells_fill_every_frame(grid, h, w):
    clip, x = pyramid(grid), torch.randn(2, 3, h, w)
    with torch.no_grad():
        vector, cells = encode_image(clip, x)
        torch.testing.assert_close(encode_image(clip, x, dense=False)[0], vector, atol=1e-5, rtol=0)
        torch.testing.assert_close(clip.encode_image(x), vector, atol=1e-5, rtol=0)
    assert vector.shape == (2, 24) and cells.shape == (2, 24, h // grid, w // grid)


@pytest.mark.parametrize('h, w', [(60, 64), (64, 80), (0, 64)])
def test_pyramid_frames_are_multiples_of_32(h, w):
    for dense in (True, False):
        with pytest.raises(GeoAlignError, match='multiple of 32'): encode_image(pyramid(), torch.randn(1, 3, h, w), dense=dense)


def test_a_pyramid_cell_sees_its_own_place():
    "A bright square in one corner changes the cells there most"
    clip, x = pyramid(8), torch.zeros(1, 3, 128, 128)
    y = x.clone()
    y[..., 96:, :32] = 3
    with torch.no_grad(): change = (encode_image(clip, y)[1] - encode_image(clip, x)[1]).norm(dim=1)[0]
    row, column = divmod(int(change.argmax()), 16)
    assert row >= 10 and column <= 5


def test_pyramid_of_another_trunk_and_its_refusals():
    clip = pyramid(name='test_convnext', levels=[1, 2, 3])
    assert encode_image(clip, torch.randn(1, 3, 64, 64))[1].shape == (1, 24, 4, 4)
    with pytest.raises(GeoAlignError, match='levels 0 to 3'): pyramid(name='test_convnext')
    with pytest.raises(GeoAlignError, match='stride of a dense map'): pyramid(12)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_pyramid_in_half_precision(dtype):
    clip, x = pyramid(), torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        plain = encode_image(clip, x)
        half = encode_image(clip.to(dtype), x)
    for a, b in zip(plain, half): assert b.dtype == dtype and F.cosine_similarity(a, b.float()).min() > .98


def test_statistics_of_features_change_both_maps():
    clip, x = pyramid(), torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        before = encode_image(clip, x)
        for head in (clip.visual.global_head, clip.visual.dense_head): head.standardize.spread.fill_(2.)
        after = encode_image(clip, x)
    assert all((a - b).abs().max() > 1e-4 for a, b in zip(before, after))


def test_checkpointing_runs_every_block_twice():
    clip, calls = tiny().train(), []
    for block in clip.visual.transformer.resblocks: block.ln_2.register_forward_hook(lambda *a: calls.append(1))
    def passes(wanted):
        calls.clear()
        with torch.set_grad_enabled(wanted): cls, dense = encode_image(clip, torch.randn(1, 3, 64, 64))
        if wanted: (cls.sum() + dense.sum()).backward()
        return len(calls)
    assert passes(True) == 4, 'the last block twice, for the vector and for the cells'
    clip.set_grad_checkpointing()
    assert passes(True) == 8 and passes(False) == 4


@pytest.mark.parametrize('pool, rows', [('tok', 1), ('avg', 17)])
def test_training_computes_the_rows_that_are_pooled(pool, rows):
    clip, seen = tiny(pool_type=pool), []
    clip.visual.transformer.resblocks[-1].mlp.register_forward_hook(lambda m, args, out: seen.append(args[0].shape[1]))
    encode_image(clip, torch.randn(1, 3, 64, 64), dense=False)
    with torch.no_grad(): encode_image(clip, torch.randn(1, 3, 64, 64), dense=False)
    assert seen == [rows, 17]


@pytest.mark.parametrize('wanted', [True, False])
def test_patches_stay_in_fp32_under_autocast_without_gradient(wanted):
    clip, seen = tiny(), []
    clip.visual.conv1.register_forward_hook(lambda m, args, out: seen.append(out.dtype))
    with torch.set_grad_enabled(wanted), torch.autocast('cpu', torch.bfloat16): encode_image(clip, torch.randn(1, 3, 64, 64))
    with torch.set_grad_enabled(wanted): encode_image(clip, torch.randn(1, 3, 64, 64))
    assert seen == [torch.bfloat16 if wanted else torch.float32, torch.float32]


def resnet():
    clip = tiny(layers=[1, 1, 1, 1], width=16)
    for name, p in clip.visual.named_parameters():
        if 'bn3' in name: torch.nn.init.normal_(p, .3, .1)  # fresh blocks end in zeros
    return clip


@pytest.mark.parametrize('h, w', [(64, 64), (64, 96), (32, 128)])
def test_resnet(h, w):
    "The image's vector is open_clip's own; a cell is its pooling with attention to that cell alone"
    clip, x = resnet(), torch.randn(2, 3, h, w)
    v, a = clip.visual, clip.visual.attnpool
    with torch.no_grad():
        cls, dense = encode_image(clip, x)
        f = v.layer4(v.layer3(v.layer2(v.layer1(v.stem(x)))))
        table = resize_positions(a.positional_embedding, (2, 2), f.shape[-2:])
        if (h, w) == (64, 64): torch.testing.assert_close(cls, clip.encode_image(x), atol=1e-5, rtol=0)
        assert dense.shape == (2, 32, h // 32, w // 32)
        for i in range(h // 32):
            for j in range(w // 32):
                alone = a.c_proj(a.v_proj(f[:, :, i, j] + table[1 + i * (w // 32) + j]))
                torch.testing.assert_close(dense[:, :, i, j], alone, atol=1e-5, rtol=1e-4)
        unit = encode_image(clip, x, normalize_dense=True)
    torch.testing.assert_close(unit[1], torch.nn.functional.normalize(dense, dim=1))
    assert torch.equal(unit[0], cls) and encode_image(clip, x, dense=False, normalize_dense=True)[1] is None
    assert encode_image(resnet().half(), x)[1].dtype == torch.float16


@pytest.mark.parametrize('h, w', [(5, 7), (2, 2), (8, 3)])
@pytest.mark.parametrize('prefix', [1, 0, 4])
def test_positions_are_resized_as_open_clip_does(h, w, prefix):
    from types import SimpleNamespace
    from open_clip.model import resize_pos_embed
    table = torch.randn(prefix + 16, 6)
    grid = SimpleNamespace(visual=SimpleNamespace(grid_size=(h, w)))
    state = {'visual.positional_embedding': torch.cat([torch.zeros(1, 6), table[prefix:]])}
    resize_pos_embed(state, grid)
    out = resize_positions(table, (4, 4), (h, w), prefix)
    torch.testing.assert_close(out[prefix:], state['visual.positional_embedding'][1:])
    assert torch.equal(out[:prefix], table[:prefix]) and torch.equal(resize_positions(table[None], (4, 4), (h, w), prefix)[0], out)
    assert resize_positions(table.half(), (4, 4), (h, w), prefix).dtype == torch.float16


def test_a_frame_of_the_native_size_need_not_be_whole_patches():
    clip = tiny(size=70)
    assert encode_image(clip, torch.randn(1, 3, 70, 70))[1].shape == (1, 32, 4, 4)
    with pytest.raises(GeoAlignError, match='A frame of 64 × 70 is not a whole number of 16 × 16 patches; choose a multiple of 16'): encode_image(clip, torch.randn(1, 3, 70, 64))
    for size in [(64, 70), (0, 64), (64, 0)]:
        with pytest.raises(GeoAlignError, match='multiple of 16'): encode_image(clip, torch.randn(1, 3, *size))


def test_positions():
    table = torch.randn(1 + 16, 5)
    assert resize_positions(table, (4, 4), (4, 4)) is table
    for new in [(8, 8), (3, 9)]:
        out = resize_positions(table, (4, 4), new)
        assert out.shape == (1 + new[0] * new[1], 5) and torch.equal(out[0], table[0])


@pytest.mark.parametrize('make, size, words', [(tiny, (60, 64), 'multiple of 16'), (lambda: tiny(layers=[1, 1, 1, 1], size=32), (32, 40), 'multiple of 32'), (lambda: tiny(attentional_pool=True), (64, 64), 'no dense map yet')])
def test_refusals(make, size, words):
    with pytest.raises(GeoAlignError, match=words): encode_image(make(), torch.randn(1, 3, *size))


def test_patch_dropout():
    clip, x = tiny(patch_dropout=.5).train(), torch.randn(2, 3, 64, 64)
    with pytest.raises(GeoAlignError, match='patch_dropout'): encode_image(clip, x)
    assert encode_image(clip, x, dense=False)[0].shape == (2, 32) and encode_image(clip.eval(), x)[1].shape == (2, 32, 4, 4)
