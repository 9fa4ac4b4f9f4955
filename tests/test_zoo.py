"""Every format of the compared models, written small and random in its project's own style, against a reference that knows nothing of our loader."""
import copy
import json
import math
import os
import re
import zipfile
from pathlib import Path

import open_clip
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file, save_file
from torchvision.ops import roi_align

from geoalignclip_nb import zoo
from geoalignclip_nb.architectures import DEBUG, PRESETS, activation, architecture, build_clip, image_size
from geoalignclip_nb.checkpoints import normalise, read_tensors, save_hugging_face, to_hugging_face, unwrap
from geoalignclip_nb.core import GeoAlignError, sha256_of
from geoalignclip_nb.model import GeoAlignCLIP
from geoalignclip_nb.scenes import make_scene
from geoalignclip_nb.text import stretch_positions

CONFIG = DEBUG | dict(quick_gelu=True)
RN = dict(embed_dim=32, quick_gelu=True, vision_cfg=dict(image_size=64, layers=[1, 2, 1, 1], width=16, patch_size=None), text_cfg=DEBUG['text_cfg'])
SHORT, LONG = ['a white plane on the apron', 'ship'], ['two white planes stand on the grey apron beside a long terminal ' * 9]


@pytest.fixture(autouse=True)
def no_network(monkeypatch, tmp_path):
    "Every way to the network ends in an error, and the caches are empty"
    def refuse(*a, **k): raise ConnectionError('no network in tests')
    monkeypatch.setenv('GEOALIGN_CACHE', str(tmp_path/'cache'))
    for name in ('huggingface_hub.hf_hub_download', 'huggingface_hub.HfApi', 'torch.hub.download_url_to_file'): monkeypatch.setattr(name, refuse)


def random_clip(config, seed=0):
    "An open_clip module in which no tensor is zero or one: a swapped or forgotten one would show"
    torch.manual_seed(seed)
    clip = build_clip(config).eval()
    with torch.no_grad():
        for n, p in clip.named_parameters():
            if p.ndim < 2 and n != 'logit_scale': p.add_(torch.randn_like(p) * .1)
        for n, b in clip.named_buffers():
            if 'running' in n: b.add_(torch.rand_like(b) * .1)
    return clip


def picture(size, seed=0): return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(seed))


def save(found, path):
    save_file({n: v.contiguous().clone() for n, v in found.items()}, path) if path.suffix == '.safetensors' else torch.save(found, path)
    return path


def same(a, b): torch.testing.assert_close(a, b, atol=1e-5, rtol=0)


@torch.no_grad()
def reference(clip, images, texts, context=77):
    "Unit vectors by open_clip alone"
    ids = open_clip.tokenize(texts, context_length=context)
    return F.normalize(clip.encode_image(images), dim=-1), F.normalize(clip.encode_text(ids), dim=-1)


def plain(s): return s
def skyscript(s): return {'epoch': 20, 'name': 'SkyCLIP_ViT_L14_top30pct', 'state_dict': {f'module.{n}': v for n, v in s.items()}, 'optimizer': {'state': {0: {'step': torch.tensor(9.), 'exp_avg': torch.ones(3)}}, 'param_groups': [{'lr': 1e-4, 'params': [0]}]}}
def itra(s): return {'state_dict': {f'module.image_backbone.{n[7:]}' if n.startswith('visual.') else f'module.text_backbone.{n}': v for n, v in s.items()}}
def wrapped(s): return {'model': s, 'iteration': 7}
def openai(s): return {n: v.half() if v.is_floating_point() and v.ndim > 1 else v for n, v in s.items()} | {k: torch.tensor(v) for k, v in (('input_resolution', 64), ('context_length', 77), ('vocab_size', 49408))}
def with_mask(s): return s | {'attn_mask': torch.zeros(77, 77)}
def scalar_in_a_row(s): return s | {'logit_scale': s['logit_scale'].reshape(1)}


STYLES = [('ViT-L-14-quickgelu.remoteclip', plain, 'RemoteCLIP-ViT-L-14.pt'), ('ViT-L-14-quickgelu.skyclip-top30pct', skyscript, 'epoch_20.pt'), ('ViT-B-32-quickgelu.georsclip', plain, 'RS5M_ViT-B-32.pt'),
          ('ViT-B-32-quickgelu.georsclip', itra, 'trained.pt'), ('ViT-B-16-quickgelu.openai', plain, 'open_clip_model.safetensors'), ('ViT-B-16-quickgelu.openai', with_mask, 'mask.pt'),
          ('ViT-L-14-quickgelu.remoteclip', wrapped, 'model.pth'), ('ViT-L-14-quickgelu.remoteclip', scalar_in_a_row, 'scale.pt')]


@pytest.mark.parametrize('name, style, file', STYLES, ids=[f'{n}-{f}' for n, _, f in STYLES])
def test_every_style_of_77_tokens_is_what_open_clip_computes(tmp_path, name, style, file):
    clip = random_clip(CONFIG)
    model = zoo.load(name, save(style(clip.state_dict()), tmp_path/file), config=CONFIG)
    x = picture(64)
    image, text = reference(clip, x, SHORT)
    with torch.no_grad(): same(model.encode_image(x), image); same(model.encode_text(SHORT), text)
    entry = zoo.ENTRIES[name]
    assert (model.name, model.family, model.context_length, model.checkpoint) == (name, entry.family, 77, sha256_of(tmp_path/file))
    assert activation(model.clip) == entry.activation and model.config['arch'] == entry.arch and 'loaded weights' in repr(model)
    with pytest.warns(UserWarning, match='more than 77 tokens'): model.encode_text(LONG)  # CLIP's protocol: cut, and said so


def test_half_precision_files_become_float32(tmp_path):
    clip = random_clip(CONFIG)
    state = openai(clip.state_dict())
    model = zoo.load('ViT-B-16-quickgelu.openai', save(state, tmp_path/'clip.pt'), config=CONFIG)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    clip.load_state_dict({n: v.float() for n, v in state.items() if n not in ('input_resolution', 'context_length', 'vocab_size')})
    image, text = reference(clip, picture(64), SHORT)
    with torch.no_grad(): same(model.encode_image(picture(64)), image); same(model.encode_text(SHORT), text)


@pytest.mark.parametrize('name', ['ViT-B-16-quickgelu.longclip', 'ViT-L-14-quickgelu.lrsclip'])
def test_two_tables_are_masks_in_the_reader(tmp_path, name):
    "Reference: the sum of both tables under masks of 20 and 228 ones, in an open_clip module of 248 positions"
    config = copy.deepcopy(CONFIG)
    config['text_cfg']['context_length'] = 248
    clip = random_clip(config)
    first, rest = torch.randn(248, 32) * .1, torch.randn(248, 32) * .1
    early = (torch.arange(248) < 20).float()[:, None]
    state = clip.state_dict() | {'positional_embedding': first, 'positional_embedding_res': rest}
    with torch.no_grad(): clip.positional_embedding.copy_(first * early + rest * (1 - early))
    model = zoo.load(name, save(state, tmp_path/'longclip-B.pt'), config=CONFIG)  # 248 is read from the table, not from CONFIG
    image, text = reference(clip, picture(64), SHORT + LONG, 248)
    with torch.no_grad(): same(model.encode_image(picture(64)), image); same(model.encode_text(SHORT + LONG), text)
    assert model.context_length == 248 and model.tokenizer.truncated == 0


def test_a_name_of_248_tokens_refuses_a_file_of_77(tmp_path):
    path = save(random_clip(CONFIG).state_dict(), tmp_path/'clip.pt')
    with pytest.raises(GeoAlignError, match='reads 248 tokens, but the file holds 77'): zoo.load('ViT-B-16-quickgelu.longclip', path, config=CONFIG)


def test_lengths_are_read_from_the_tables(tmp_path):
    config = copy.deepcopy(CONFIG)
    config['vision_cfg']['image_size'] = 96
    clip = random_clip(config)
    model = zoo.load(save(clip.state_dict(), tmp_path/'larger.pt'), config=CONFIG)
    assert model.preprocess.size == 96
    with torch.no_grad(): same(model.encode_image(picture(96)), reference(clip, picture(96), SHORT)[0])


# --- Hugging Face and FG-CLIP: a reference in plain tensor operations, read from the file's own keys ---

def hf_block(s, stem, x, heads, mask=None, values_only=False):
    linear = lambda name, v: F.linear(v, s[f'{stem}.{name}.weight'], s[f'{stem}.{name}.bias'])
    norm = lambda name, v: F.layer_norm(v, v.shape[-1:], s[f'{stem}.{name}.weight'], s[f'{stem}.{name}.bias'])
    h = norm('layer_norm1', x)
    q, k, v = (linear(f'self_attn.{p}_proj', h) for p in 'qkv')
    if not values_only:
        q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, k, v))
        scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
        v = ((scores if mask is None else scores + mask).softmax(-1) @ v).transpose(1, 2).flatten(2)
    x = x + linear('self_attn.out_proj', v)
    h = linear('mlp.fc1', norm('layer_norm2', x))
    return x + linear('mlp.fc2', h * torch.sigmoid(1.702 * h))


@torch.no_grad()
def hf_text(s, texts, table, head, heads=2, layers=2):
    ids = open_clip.tokenize(texts, context_length=len(table))
    x = s['text_model.embeddings.token_embedding.weight'][ids] + table
    mask = torch.full((len(table),) * 2, -math.inf).triu_(1)
    for i in range(layers): x = hf_block(s, f'text_model.encoder.layers.{i}', x, heads, mask)
    x = F.layer_norm(x, x.shape[-1:], s['text_model.final_layer_norm.weight'], s['text_model.final_layer_norm.bias'])
    return F.normalize(x[torch.arange(len(x)), ids.argmax(1)] @ s[f'{head}.weight'].T, dim=-1)


@torch.no_grad()
def hf_image(s, images, boxes=None, heads=2, layers=2):
    "Picture vectors, or region vectors as FG-CLIP makes them: value-only last block, RoIAlign 1 x 1"
    v = 'vision_model'
    norm = lambda name, x: F.layer_norm(x, x.shape[-1:], s[f'{v}.{name}.weight'], s[f'{v}.{name}.bias'])
    x = F.conv2d(images, s[f'{v}.embeddings.patch_embedding.weight'], stride=16)
    side, x = x.shape[-1], x.flatten(2).transpose(1, 2)
    x = torch.cat([s[f'{v}.embeddings.class_embedding'].expand(len(x), 1, -1), x], 1) + s[f'{v}.embeddings.position_embedding.weight']
    x = norm('pre_layrnorm', x)
    for i in range(layers): x = hf_block(s, f'{v}.encoder.layers.{i}', x, heads, values_only=boxes is not None and i == layers - 1)
    x = norm('post_layernorm', x) @ s['visual_projection.weight'].T
    if boxes is None: return F.normalize(x[:, 0], dim=-1)
    cells = x[:, 1:].transpose(1, 2).unflatten(2, (side, side))
    grid = torch.cat([boxes[:, :1], boxes[:, 1:] / 16], 1)
    return F.normalize(roi_align(cells, grid, (1, 1), 1., -1, True)[..., 0, 0], dim=-1)


def fg_state(seed=0) -> dict:
    "FG-CLIP's keys: Hugging Face's names, three text tables, a second text head, three temperatures, ids of positions"
    s = to_hugging_face(unwrap(random_clip(CONFIG, seed).state_dict()))
    g = torch.Generator().manual_seed(seed + 1)
    for name in ('_ori', '_res'): s[f'text_model.embeddings.position_embedding{name}.weight'] = torch.randn(248, 32, generator=g) * .1
    s['text_filip_projection.weight'] = torch.randn(32, 32, generator=g)
    s |= {'logit_scale_finegraind': torch.tensor(3.5), 'logit_scale_hardneg': torch.tensor(2.5)}
    return s | {'text_model.embeddings.position_ids': torch.arange(248)[None], 'vision_model.embeddings.position_ids': torch.arange(17)[None]}


def fg_long_table(s):
    early = (torch.arange(248) < 20).float()[:, None]
    return s['text_model.embeddings.position_embedding_ori.weight'] * early + s['text_model.embeddings.position_embedding_res.weight'] * (1 - early)


@pytest.fixture
def fg(tmp_path):
    s = fg_state()
    return s, zoo.load('ViT-B-16-quickgelu.fgclip', save(s, tmp_path/'model.safetensors'), config=CONFIG)


def test_fgclip_pictures_regions_and_both_text_ways(fg):
    s, model = fg
    x, boxes = picture(64), torch.tensor([[0, 3., 5, 40, 60], [1, 0, 0, 64, 64], [1, 20, 20, 30, 33]])
    with torch.no_grad():
        same(model.encode_image(x), hf_image(s, x))
        same(model.encode_regions(x, boxes), hf_image(s, x, boxes))
        short, long = model.encode_text(SHORT), model.encode_text(LONG)
    same(short, hf_text(s, SHORT, s['text_model.embeddings.position_embedding.weight'], 'text_projection'))
    same(long, hf_text(s, LONG, fg_long_table(s), 'text_filip_projection'))
    assert (model.log_scale_rpa.item(), model.log_scale_hna.item()) == (3.5, 2.5) and model.context_length == 248


def test_fgclip_head_can_be_chosen(fg):
    s, model = fg
    model.text_head = 'long'
    want = hf_text(s, SHORT, fg_long_table(s), 'text_filip_projection')
    with torch.no_grad(): same(model.encode_text(SHORT), want)
    model.text_head = 'auto'
    with torch.no_grad(): same(model.encode_text(SHORT, 'long'), want)
    with pytest.raises(GeoAlignError, match='text head'): model.encode_text(SHORT, 'length')


def test_fgclip_takes_one_head_for_a_list(fg):
    "The longest text decides for all; before, each text chose by its own length"
    s, model = fg
    with torch.no_grad(): same(model.encode_text([SHORT[0], *LONG]), hf_text(s, [SHORT[0], *LONG], fg_long_table(s), 'text_filip_projection'))


def test_fgclip_short_head_cuts_after_77_tokens(fg):
    s, model = fg
    text = ['plane ' * 90]
    cut = hf_text(s, ['plane ' * 75], s['text_model.embeddings.position_embedding.weight'], 'text_projection')
    with torch.no_grad(): same(model.encode_text(text, 'short'), cut)


def test_sentences_of_74_and_79_tokens_are_near_each_other(fg):
    "Two sentences that differ in five words had a cosine of 0.02, because each took a head of its own"
    from geoalignclip_nb.bench.embeddings import Embedder
    s, model = fg
    torch.nn.init.normal_(model.long['text_projection'])  # heads as different as trained ones
    with torch.no_grad(): model.long['positional_embedding'].copy_(stretch_positions(model.clip.positional_embedding))
    one, two = 'plane ' * 72, 'plane ' * 72 + 'tank ship pool field road'
    assert [len(model.tokenizer([t])[0]) for t in (one, two)] == [74, 79]
    alone = [Embedder(model).texts([t])[0] for t in (one, two)]
    embed = Embedder(model)
    together = embed.texts([one, two])
    assert embed.used_head == 'long' and together[0] @ together[1] > .9 > abs(alone[0] @ alone[1]) + .3
    short = Embedder(model, text_head='short')
    vectors = short.texts([one, two])
    assert short.used_head == 'short' and vectors[0] @ vectors[1] > .9


def test_one_head_for_all_batches_of_a_set(fg):
    "The long text is in the second batch only"
    from geoalignclip_nb.bench.embeddings import Embedder, embed_texts
    s, model = fg
    vectors = embed_texts(Embedder(model), ['plane', 'plane ' * 80], batch=1)
    with torch.no_grad(): same(vectors[:1], model.encode_text(['plane'], 'long'))


def test_published_preprocessing(tmp_path):
    from geoalignclip_nb.bench.embeddings import Embedder
    path = save(random_clip(CONFIG).state_dict(), tmp_path/'w.pt')
    model = zoo.load('ViT-B-32-quickgelu.remoteclip', path, config=CONFIG)
    found = Embedder(model, 'published').preprocess
    assert (found.mode, found.mean, found.std, model.preprocess.mode) == ('shortest', model.preprocess.mean, model.preprocess.std, 'squash')
    with pytest.raises(GeoAlignError, match='not known'): Embedder(zoo.load(path, config=CONFIG), 'published')
    with pytest.raises(GeoAlignError, match='not known'): zoo.load(path, config=CONFIG, mode='published')


@pytest.mark.parametrize('width, height', [(90, 61), (61, 90), (300, 200), (64, 64), (65, 129), (31, 97), (1000, 333)])
def test_published_shortest_is_open_clips_transform_to_the_bit(tmp_path, width, height):
    from geoalignclip_nb.bench.embeddings import Embedder
    path = save(random_clip(CONFIG).state_dict(), tmp_path/'w.pt')
    model = zoo.load('ViT-B-32-quickgelu.remoteclip', path, config=CONFIG)
    image = Image.effect_noise((width, height), 60).convert('RGB')
    frame = Embedder(model, 'published').preprocess
    transform = open_clip.image_transform(frame.size, is_train=False, mean=frame.mean, std=frame.std, resize_mode='shortest')
    assert torch.equal(frame(image), transform(image))


@pytest.mark.parametrize('words, long', [(75, False), (76, True)])
def test_fgclip_changes_over_after_77_tokens(fg, words, long):
    s, model = fg
    text = ['plane ' * words]  # one token each, and two marks
    table, head = (fg_long_table(s), 'text_filip_projection') if long else (s['text_model.embeddings.position_embedding.weight'], 'text_projection')
    with torch.no_grad(): same(model.encode_text(text), hf_text(s, text, table, head))


def test_fgclip_keys_both_ways(fg, tmp_path):
    s, model = fg
    ours = normalise(s)
    back = to_hugging_face(ours)
    changed = {f'text_model.embeddings.position_embedding{n}.weight' for n in ('_ori', '_res')}
    assert back.keys() == {k for k in s if not k.endswith('position_ids')}
    for k in back.keys() - changed: assert torch.equal(back[k], s[k]), k
    for k in changed: assert torch.equal(back[k], fg_long_table(s)), k  # folded once; FG-CLIP's reader makes the same table of it
    again = normalise(back)
    assert again.keys() == ours.keys() and all(torch.equal(again[k], ours[k]) for k in ours)


def test_fgclip_survives_our_own_folder(fg, tmp_path):
    s, model = fg
    model.save_pretrained(tmp_path/'ours')
    back = zoo.load(tmp_path/'ours')
    with torch.no_grad(): assert torch.equal(back.encode_text(SHORT + LONG), model.encode_text(SHORT + LONG))
    assert type(back) is zoo.TwoHeads and back.checkpoint == sha256_of(tmp_path/'ours'/'model.safetensors')
    with pytest.raises(GeoAlignError, match='to be compared with'): back({})


def test_hugging_face_folder_is_complete(tmp_path):
    "A folder in Hugging Face's layout needs no architecture; the reference reads the folder's own keys"
    clip = random_clip(CONFIG)
    save_hugging_face(unwrap(clip.state_dict()), CONFIG, tmp_path/'hf')
    s, model = load_file(tmp_path/'hf'/'model.safetensors'), zoo.load(tmp_path/'hf')
    with torch.no_grad():
        same(model.encode_image(picture(64)), hf_image(s, picture(64)))
        same(model.encode_text(SHORT), hf_text(s, SHORT, s['text_model.embeddings.position_embedding.weight'], 'text_projection'))
    same(hf_image(s, picture(64)), reference(clip, picture(64), SHORT)[0])


def test_hugging_face_activation_is_compared(tmp_path):
    save_hugging_face(unwrap(random_clip(CONFIG).state_dict()), CONFIG, tmp_path/'hf')
    with pytest.raises(GeoAlignError, match='says hidden_act quick_gelu'): zoo.load('ViT-B-32.other', tmp_path/'hf', config=CONFIG | dict(quick_gelu=False))
    said = json.loads((tmp_path/'hf'/'config.json').read_text())
    said['text_config']['hidden_act'] = 'gelu'
    (tmp_path/'hf'/'config.json').write_text(json.dumps(said))
    with pytest.raises(GeoAlignError, match='the same in both towers'): zoo.load(tmp_path/'hf')


@pytest.mark.parametrize('act', ['quick_gelu', 'gelu'])
def test_transformers_agrees_in_both_directions(tmp_path, act):
    transformers = pytest.importorskip('transformers', reason='the reference of Hugging Face; `pip install transformers` to compare with it')
    torch.manual_seed(3)
    side = dict(num_hidden_layers=2, num_attention_heads=2, hidden_act=act)
    theirs = transformers.CLIPModel(transformers.CLIPConfig(projection_dim=24,
        text_config=side | dict(hidden_size=32, intermediate_size=96, vocab_size=49408, max_position_embeddings=77, bos_token_id=49406, eos_token_id=49407, pad_token_id=49407),
        vision_config=side | dict(hidden_size=48, intermediate_size=144, image_size=64, patch_size=16))).eval()
    for p in theirs.parameters(): torch.nn.init.normal_(p, std=.2) if p.ndim < 2 else None
    theirs.save_pretrained(tmp_path/'theirs')
    ours = zoo.load(tmp_path/'theirs')
    assert activation(ours.clip) == {'quick_gelu': 'QuickGELU', 'gelu': 'GELU'}[act]

    def agree(theirs, ours):
        unit = lambda v: F.normalize(v if torch.is_tensor(v) else v.pooler_output, dim=-1)
        with torch.no_grad():
            same(ours.encode_image(picture(64)), unit(theirs.get_image_features(pixel_values=picture(64))))
            same(ours.encode_text(SHORT), unit(theirs.get_text_features(input_ids=open_clip.tokenize(SHORT))))
    agree(theirs, ours)
    config = CONFIG | dict(quick_gelu=act == 'quick_gelu')
    clip = random_clip(config)
    save_hugging_face(unwrap(clip.state_dict()), config, tmp_path/'written')
    agree(transformers.CLIPModel.from_pretrained(tmp_path/'written').eval(), zoo.load(tmp_path/'written'))


# --- ResNets ---

def test_resnet_has_all_five_methods(tmp_path):
    clip = random_clip(RN)
    for n, p in clip.visual.named_parameters(): torch.nn.init.normal_(p, .3, .1) if 'bn3' in n else None
    model = zoo.load('RN50-quickgelu.remoteclip', save(clip.state_dict(), tmp_path/'RemoteCLIP-RN50.pt'), config=RN)
    x = picture(64)
    image, text = reference(clip, x, SHORT)
    with torch.no_grad():
        same(model.encode_image(x), image); same(model.encode_text(SHORT), text)
        a, v = clip.visual.attnpool, clip.visual
        f = v.layer4(v.layer3(v.layer2(v.layer1(v.stem(x)))))  # (2,C,2,2)
        cells = a.c_proj(a.v_proj(f.flatten(2).transpose(1, 2) + a.positional_embedding[1:])).transpose(1, 2).unflatten(2, (2, 2))
        same(model.dense(x), F.normalize(cells, dim=1))
        whole = model.encode_regions(x, [[1, 0, 0, 64, 64]])
        same(whole, F.normalize(cells[1].mean((1, 2))[None], dim=-1))
        assert model.dense(picture(96)).shape == (2, 32, 3, 3)
        assert model.encode_image(Image.new('RGB', (50, 70))).shape == (1, 32)
    with pytest.raises(GeoAlignError, match='multiple of 32'): model.dense(picture(80))


# --- Files that must not be read ---

class Trap:
    def __init__(self, path): self.path = str(path)
    def __reduce__(self): return (os.mkdir, (self.path,))


@pytest.mark.parametrize('zipped', [True, False])
@pytest.mark.parametrize('way', [lambda p: read_tensors(p), lambda p: zoo.load(p, config=CONFIG), lambda p: zoo.load('ViT-L-14-quickgelu.remoteclip', p, config=CONFIG),
                                 lambda p: GeoAlignCLIP.from_pretrained(p, arch='geoalign-debug')])
def test_code_in_a_pickle_does_not_run(tmp_path, way, zipped):
    torch.save({'state_dict': random_clip(CONFIG).state_dict(), 'args': Trap(tmp_path/'touched')}, tmp_path/'evil.pt', _use_new_zipfile_serialization=zipped)
    with pytest.raises(GeoAlignError, match='holds Python objects.*unsafe=True') as e: way(tmp_path/'evil.pt')
    assert '\n' not in str(e.value) and not (tmp_path/'touched').exists()


def test_unsafe_is_the_readers_own_decision(tmp_path):
    clip = random_clip(CONFIG)
    torch.save({'state_dict': clip.state_dict(), 'args': Trap(tmp_path/'touched')}, tmp_path/'trusted.pt')
    model = zoo.load(tmp_path/'trusted.pt', config=CONFIG, unsafe=True)
    assert (tmp_path/'touched').is_dir() and torch.equal(model.clip.visual.proj, clip.visual.proj)


@pytest.mark.filterwarnings('ignore')
def test_torchscript_is_named(tmp_path):
    "OpenAI's own files are TorchScript"
    clip = random_clip(CONFIG)
    torch.jit.save(torch.jit.script(torch.nn.ModuleDict({'visual': torch.nn.Linear(2, 2)})['visual']), tmp_path/'ViT-B-16.pt')
    with pytest.raises(GeoAlignError, match='ViT-B-16.pt is TorchScript'): read_tensors(tmp_path/'ViT-B-16.pt')
    assert set(read_tensors(tmp_path/'ViT-B-16.pt', unsafe=True)) == {'weight', 'bias'}


@pytest.mark.parametrize('suffix', ['.pt', '.safetensors'])
@pytest.mark.parametrize('keep', [0, 3, 100, .5, .999])
def test_cut_off_files(tmp_path, suffix, keep):
    path = save(random_clip(CONFIG).state_dict(), tmp_path/f'cut{suffix}')
    whole = path.read_bytes()
    path.write_bytes(whole[:keep if isinstance(keep, int) else int(keep * len(whole))])
    with pytest.raises(GeoAlignError, match='cut.* is not a whole') as e: zoo.load(path, config=CONFIG)
    assert '\n' not in str(e.value)


@pytest.mark.parametrize('found, words', [([1, 2], 'list, not named tensors'), ({'epoch': 3}, 'odd.pt holds no named tensors'), ({'a.weight': torch.ones(2)}, '1 unexpected')])
def test_files_without_a_model(tmp_path, found, words):
    torch.save(found, tmp_path/'odd.pt')
    with pytest.raises(GeoAlignError, match=words): zoo.load(tmp_path/'odd.pt', config=CONFIG)


def test_an_archive_is_no_checkpoint(tmp_path):
    with zipfile.ZipFile(tmp_path/'SkyCLIP.pt', 'w') as z: z.writestr('SkyCLIP/epoch_20.pt', b'1')
    with pytest.raises(GeoAlignError, match='is an archive'): read_tensors(tmp_path/'SkyCLIP.pt')


@pytest.mark.parametrize('spoil, words', [(lambda s: s.pop('text_projection'), '1 missing'), (lambda s: s.update({'visual.extra': torch.ones(1)}), '1 unexpected'),
                                          (lambda s: s.update({'visual.proj': torch.ones(3, 3)}), '1 of another shape'), (lambda s: s.update({'positional_embedding_res': torch.ones(248, 32)}), 'do not fold')])
def test_nothing_is_skipped_without_a_word(tmp_path, spoil, words):
    state = random_clip(CONFIG).state_dict()
    spoil(state)
    with pytest.raises(GeoAlignError, match=words) as e: zoo.load(save(state, tmp_path/'w.pt'), config=CONFIG)
    assert '\n' not in str(e.value)


def test_wrong_architecture(tmp_path):
    path = save(random_clip(RN).state_dict(), tmp_path/'rn.pt')
    for config in (CONFIG, architecture('vit-tiny')):
        with pytest.raises(GeoAlignError, match='rn.pt does not fit this architecture'): zoo.load(path, config=config)


def test_two_models_in_one_file(tmp_path):
    with pytest.raises(GeoAlignError, match='are both ln_final.bias and differ'): unwrap({'ln_final.bias': torch.ones(2), 'module.ln_final.bias': torch.zeros(2)})


# --- Names ---

def test_the_models_of_the_paper_are_there():
    want = {'CLIP': 3, 'LongCLIP': 2, 'FG-CLIP': 2, 'RemoteCLIP': 3, 'SkyCLIP': 3, 'GeoRSCLIP': 4, 'LRSCLIP': 2}
    families = [e.family for e in zoo.ENTRIES.values()]
    assert {f: families.count(f) for f in families} == want


# open_clip 3.3, random weights, counted: what an entry's architecture has to be
PARAMETERS = {'RN50': 102_007_137, 'ViT-B-32': 151_277_313, 'ViT-B-16': 149_620_737, 'ViT-L-14': 427_616_513, 'ViT-L-14-336': 427_944_193, 'ViT-H-14': 986_109_441}


@pytest.mark.parametrize('arch', sorted({e.arch for e in zoo.ENTRIES.values()}))
def test_architectures_exist_and_have_the_right_size(arch):
    config = architecture(arch)
    with torch.device('meta'): clip = build_clip(config)
    assert sum(p.numel() for p in clip.parameters()) == PARAMETERS[arch.removesuffix('-quickgelu')]
    assert image_size(config) == (336 if '336' in arch else 224) and config['text_cfg']['context_length'] == 77
    assert activation(clip) == ('QuickGELU' if arch.endswith('-quickgelu') else 'GELU')


def test_entries_agree_with_what_is_known():
    for e in zoo.ENTRIES.values():
        assert e.context == (248 if e.family in ('LongCLIP', 'FG-CLIP', 'LRSCLIP') else 77) and e.mode == ('squash' if e.family == 'FG-CLIP' else 'shortest')
        assert bool(e.repo) != bool(e.url) and e.licence and e.sure in ('stated', 'lineage', 'open')
    gelu = {e.name for e in zoo.ENTRIES.values() if e.activation == 'GELU'}
    assert gelu == {'ViT-B-32.skyclip-top50pct', 'ViT-H-14.georsclip'}  # the two that began with LAION's weights


def test_openai_entries_are_the_files_that_open_clip_takes():
    for name in ('ViT-B-16-quickgelu', 'ViT-L-14-quickgelu', 'ViT-L-14-336-quickgelu'):
        assert zoo.ENTRIES[f'{name}.openai'].repo == open_clip.get_pretrained_cfg(name, 'openai')['hf_hub'].strip('/')


def test_every_listed_open_clip_name_has_an_architecture():
    names = zoo.list_models()
    assert len(names) == len(set(names)) and names[0] == 'geoalign-tiny'
    assert {'ViT-B-16.laion2b_s34b_b88k', 'ViT-B-16-quickgelu.openai', 'RN50-quickgelu.openai'} <= set(names)
    assert not {'ViT-B-16.openai', 'RN50.openai'} & set(names)  # the wrong activation


@pytest.mark.parametrize('pattern, found', [('TINY', ['geoalign-tiny', 'vit-tiny']), ('*b-16*longclip', ['ViT-B-16-quickgelu.longclip']), ('RemoteCLIP', [n for n in zoo.ENTRIES if 'remote' in n])])
def test_patterns(pattern, found): assert zoo.list_models(pattern) == found


@pytest.mark.parametrize('name, near', [('remoteclip', 'RN50-quickgelu.remoteclip'), ('ViT-L-14.remoteclip', 'ViT-L-14-quickgelu.remoteclip'), ('ViT-B-16-quickgelu.longclp', 'ViT-B-16-quickgelu.longclip'),
                                        ('geoalign-tinny', 'geoalign-tiny'), ('', 'geoalign models'), ('no/such/thing', 'geoalign models')])
def test_unknown_names(name, near):
    with pytest.raises(GeoAlignError) as e: zoo.load(name)
    assert near in str(e.value) and '\n' not in str(e.value)


@pytest.mark.parametrize('call, words', [(lambda: zoo.load('gone.pt', arch='ViT-B-32'), 'gone.pt is not here'), (lambda: zoo.load('ViT-B-32-quickgelu.remoteclip', 'gone'), 'gone is not here'),
                                         (lambda: zoo.load('ViT-B-99.random'), "'ViT-B-99' is unknown")])
def test_places_that_are_not_there(call, words):
    with pytest.raises(GeoAlignError, match=words): call()


PAPER = ['paper-b16', 'paper-l14', 'paper-l14-336']


def test_presets_of_the_paper_are_listed_and_marked(capsys):
    from geoalignclip_nb.cli import main
    assert zoo.list_models()[2:5] == zoo.list_models('paper-*') == PAPER
    assert main(['models', 'paper-']) == 0
    _, *rows = capsys.readouterr().out.splitlines()
    assert [row.split()[0] for row in rows] == PAPER
    for name, row in zip(PAPER, rows): assert row.endswith(f'no published weights, train it with `geoalign train {name}`')
    assert main(['models', '*tiny']) == 0
    _, *rows = capsys.readouterr().out.splitlines()
    assert [row.split()[0] for row in rows] == ['geoalign-tiny', 'vit-tiny']


@pytest.mark.parametrize('name', PAPER)
def test_a_preset_without_weights_says_how_to_make_them(name, tmp_path):
    from geoalignclip_nb.train.presets import load_preset
    with pytest.raises(GeoAlignError) as e: zoo.load(name)
    assert str(e.value) == f'No weights of {name} are published; `geoalign train {name}` makes them, then give their folder as {name}=FOLDER.'
    assert load_preset(name).model == PRESETS[name] and architecture(name) == architecture(PRESETS[name])
    zoo.load('geoalign-debug.random').save_pretrained(tmp_path/'run')  # stands for what a training leaves
    model = zoo.load(f"{name}={tmp_path/'run'}")
    assert model.name == name and torch.equal(model.clip.visual.proj, zoo.load(tmp_path/'run').clip.visual.proj)


def test_bundled_model_and_its_control():
    model, control, other = zoo.load('geoalign-tiny'), zoo.load('geoalign-tiny.random'), zoo.load('geoalign-tiny.random-1')
    assert (model.name, model.context_length, model.trained, control.trained, control.name) == ('geoalign-tiny', 248, True, False, 'geoalign-tiny.random')
    assert control.preprocess == model.preprocess and len({model.checkpoint, control.checkpoint, other.checkpoint}) == 3
    def head(m): return m.clip.visual.dense_head.leave.weight
    assert torch.equal(head(control), head(zoo.load('geoalign-tiny.random')))
    assert not torch.equal(head(control), head(other))
    assert control.checkpoint == zoo.load('geoalign-tiny.random').checkpoint


def test_control_of_a_baseline_is_not_stretched(tmp_path):
    model = zoo.load('ViT-B-32-quickgelu.remoteclip', save(random_clip(CONFIG).state_dict(), tmp_path/'w.pt'), config=CONFIG)
    assert zoo.random_twin(model).context_length == 77 and zoo.load('geoalign-debug.random').context_length == 77


# --- Where files come from ---

@pytest.mark.parametrize('name', sorted(zoo.ENTRIES))
def test_without_a_network_one_sentence_says_everything(name):
    e = zoo.ENTRIES[name]
    with pytest.raises(GeoAlignError) as error: zoo.load(name)
    said = str(error.value)
    assert '\n' not in said and name in said and Path(e.file).name in said and (e.url or e.repo) in said and e.licence in said and (e.size or 'size not known') in said and str(zoo.home(e)) in said


def test_a_file_put_by_hand_is_found(tmp_path):
    e, clip = zoo.ENTRIES['ViT-L-14-quickgelu.georsclip'], random_clip(CONFIG)
    zoo.home(e).mkdir(parents=True)
    save(clip.state_dict(), zoo.home(e)/'RS5M_ViT-L-14.pt')
    model = zoo.load(e.name, config=CONFIG)
    assert torch.equal(model.clip.visual.proj, clip.visual.proj) and 'trained weights' in repr(model)


def hub_cache(tmp_path, monkeypatch, name):
    "A hub that puts the file where its cache puts files: a blob named by its hash, behind a link"
    path = save(random_clip(CONFIG).state_dict(), tmp_path/'RemoteCLIP-RN50.pt')
    blob = tmp_path/'blobs'/(name or sha256_of(path))
    blob.parent.mkdir()
    path.rename(blob); path.symlink_to(blob)
    asked = []
    monkeypatch.setattr('huggingface_hub.hf_hub_download', lambda repo, file: asked.append((repo, file)) or str(path))
    return asked


def test_hub_files_are_checked_by_their_own_name(tmp_path, monkeypatch):
    asked = hub_cache(tmp_path, monkeypatch, '')
    assert zoo.load('ViT-B-32-quickgelu.georsclip', config=CONFIG).trained and asked == [('Zilun/GeoRSCLIP', 'ckpt/RS5M_ViT-B-32.pt')]


def test_a_damaged_hub_file_is_refused(tmp_path, monkeypatch):
    hub_cache(tmp_path, monkeypatch, 'ab' * 32)
    with pytest.raises(GeoAlignError, match='instead of abababababab'): zoo.load('ViT-B-32-quickgelu.georsclip', config=CONFIG)


def test_a_repository_with_one_unnamed_file(tmp_path, monkeypatch):
    asked = hub_cache(tmp_path, monkeypatch, '')
    monkeypatch.setattr('huggingface_hub.HfApi', lambda: type('Api', (), dict(list_repo_files=lambda self, repo: ['README.md', 'a.bin', 'weights/LRSCLIP.pt']))())
    with pytest.raises(GeoAlignError, match='reads 248 tokens'): zoo.load('ViT-B-16-quickgelu.lrsclip', config=CONFIG)  # the file of this test has 77
    assert asked == [('MitsuiChen14/DGTRS-CLIP-ViT-B-16', 'weights/LRSCLIP.pt')]


def test_a_zip_is_unpacked_and_leaves_nothing_half(tmp_path, monkeypatch):
    import shutil
    e, state = zoo.ENTRIES['ViT-B-32.skyclip-top50pct'], random_clip(DEBUG).state_dict()
    save(skyscript(state), tmp_path/'epoch_20.pt')
    with zipfile.ZipFile(tmp_path/'sky.zip', 'w') as z: z.write(tmp_path/'epoch_20.pt', 'SkyCLIP_ViT_B32_top50pct/checkpoints/epoch_20.pt')
    monkeypatch.setattr('torch.hub.download_url_to_file', lambda url, to, progress: shutil.copy(tmp_path/'sky.zip', to))
    model = zoo.load(e.name, config=DEBUG)
    assert torch.equal(model.clip.visual.proj, state['visual.proj']) and activation(model.clip) == 'GELU'
    assert sorted(p.name for p in zoo.home(e).iterdir()) == ['epoch_20.pt', 'epoch_20.pt.sha256'] and (zoo.home(e)/'epoch_20.pt.sha256').read_text().strip() == model.checkpoint
    shutil.rmtree(zoo.home(e))
    (tmp_path/'sky.zip').write_bytes((tmp_path/'sky.zip').read_bytes()[:-100])  # cut off on the way
    with pytest.raises(GeoAlignError, match='BadZipFile'): zoo.load(e.name, config=DEBUG)
    assert list(zoo.home(e).iterdir()) == []


def test_a_killed_unpack_is_no_weight_file(tmp_path, monkeypatch):
    e = zoo.ENTRIES['ViT-B-32.skyclip-top50pct']
    zoo.home(e).mkdir(parents=True)
    (zoo.home(e)/'.epoch_20.123.tmp.pt').write_bytes(b'half')
    with pytest.raises(GeoAlignError, match='are not on this computer and could not be downloaded'): zoo.fetch(e)  # asks the network, which is not there
    monkeypatch.setattr(zoo, '_from_archive', lambda entry, folder: folder/'fresh.pt')
    assert zoo.fetch(e).name == 'fresh.pt'
    save({}, zoo.home(e)/'epoch_20.pt')
    assert zoo.fetch(e).name == 'epoch_20.pt'


def test_a_pinned_hash(tmp_path):
    path = save(random_clip(CONFIG).state_dict(), tmp_path/'w.pt')
    assert zoo.load(path, config=CONFIG, sha256=sha256_of(path)).checkpoint == sha256_of(path)
    with pytest.raises(GeoAlignError, match='instead of'): zoo.load(path, config=CONFIG, sha256='0' * 64)


def test_frames(tmp_path):
    path = save(random_clip(CONFIG).state_dict(), tmp_path/'w.pt')
    load = lambda **k: zoo.load('ViT-B-32-quickgelu.remoteclip', path, config=CONFIG, **k).preprocess
    assert (load().mode, load(mode='published').mode, load(mode='longest').mode, load(size=96).size, load().size) == ('squash', 'shortest', 'longest', 96, 64)
    square = Image.effect_noise((90, 90), 60).convert('RGB')
    assert torch.equal(load()(square), load(mode='published')(square))  # on square pictures the two are one


def test_our_loader_reads_the_same_formats(tmp_path):
    "`GeoAlignCLIP.from_pretrained` goes through the same names, and stretches"
    clip = random_clip(DEBUG)
    model = GeoAlignCLIP.from_pretrained(save(itra(clip.state_dict()), tmp_path/'w.pt'), arch='geoalign-debug')
    assert torch.equal(model.clip.positional_embedding, stretch_positions(clip.positional_embedding)) and torch.equal(model.clip.visual.conv1.weight, clip.visual.conv1.weight)
    back = GeoAlignCLIP.from_pretrained(save(model.state_dict(), tmp_path/'again.pt'), arch='geoalign-debug')
    assert all(torch.equal(v, back.state_dict()[k]) for k, v in model.state_dict().items())


# configuration files of a wrong shape

def edited(*path, value=None, drop=False):
    "A change deep in a config.json"
    def change(config):
        for key in path[:-1]: config = config[key]
        if drop: del config[path[-1]]
        else: config[path[-1]] = value
    return change


@pytest.mark.parametrize('change, words', [
    (edited('clip', drop=True), "lacks 'clip'"), (edited('clip', value=5), "under 'clip'"), (edited('clip', 'embed_dim', drop=True), "lacks 'clip.embed_dim'"), (edited('clip', 'embed_dim', value='32'), '"32" under \'clip.embed_dim\''),
    (edited('clip', 'vision_cfg', value=[]), 'clip.vision_cfg'), (edited('clip', 'text_cfg', drop=True), 'clip.text_cfg'), (edited('preprocess', drop=True), "lacks 'preprocess'"), (edited('preprocess', 'size', value='64'), 'preprocess.size'),
    (edited('preprocess', 'mean', value=None), 'preprocess.mean'), (edited('preprocess', 'mode', value='sideways'), 'sideways'), (edited('preprocess', 'colour', value='blue'), 'colour'), (edited('clip', 'text_cfg', 'heads', value=7), 'builds no model'),
    (edited('clip', 'vision_cfg', 'layers', value='two'), 'builds no model'), (edited('clip', 'no_such_setting', value=1), 'no_such_setting'), (edited('clip', 'embed_dim', value=48), 'does not fit this architecture')])
def test_a_config_of_a_wrong_shape_is_one_sentence(tmp_path, capsys, change, words):
    from geoalignclip_nb.cli import main
    GeoAlignCLIP.create('geoalign-debug').save_pretrained(tmp_path/'mine')
    config = json.loads((tmp_path/'mine'/'config.json').read_text()); change(config)
    (tmp_path/'mine'/'config.json').write_text(json.dumps(config))
    make_scene(seed=0, size=64).image.save(tmp_path/'a.png')
    with pytest.raises(GeoAlignError, match=re.escape(words)): GeoAlignCLIP.from_pretrained(tmp_path/'mine')
    with pytest.raises(GeoAlignError, match=re.escape(words) if 'clip' in config else 'does not say its architecture'): zoo.load(tmp_path/'mine')
    assert main(['ground', str(tmp_path/'a.png'), '--phrases', 'a', '--model', str(tmp_path/'mine')]) == 2
    said = capsys.readouterr().err
    assert said.count('\n') == 1 and 'mine' in said and len(said) < 420


@pytest.mark.parametrize('text, words', [('{"clip": ', 'not readable JSON'), ('[1, 2]', 'holds [1, 2]'), ('"clip"', 'holds "clip"'), ('', 'not readable JSON'), ('{"text_config": 5}', 'text_config'), ('{"text_config": {"hidden_size": "512"}}', "hidden_size '512'"),
                                         ('{"text_config": {}, "vision_config": {"hidden_size": 100, "num_attention_heads": 0}}', 'num_attention_heads 0'), ('{"text_config": {"hidden_size": 100, "num_attention_heads": 7}}', 'builds no model'), ('{"text_config": {}, "projection_dim": "x"}', 'projection_dim')])
def test_a_foreign_config_of_a_wrong_shape_is_one_sentence(tmp_path, text, words):
    (tmp_path/'hf').mkdir(); (tmp_path/'hf'/'config.json').write_text(text)
    save(random_clip(CONFIG).state_dict(), tmp_path/'hf'/'model.pt')
    with pytest.raises(GeoAlignError, match=re.escape(words)) as e: zoo.load(tmp_path/'hf')
    assert '\n' not in str(e.value)


# one name with its place, from the terminal

def test_a_checkpoint_file_from_the_terminal(tmp_path, capsys, monkeypatch):
    "A small random checkpoint through ground, bench and matrix; each spelling gives the same numbers"
    from geoalignclip_nb.cli import main
    file = save(GeoAlignCLIP.create('geoalign-debug', seed=3).clip.state_dict(), tmp_path/'mine.pt')
    for i in range(6):
        (tmp_path/'folder'/'abc'[i % 3]).mkdir(parents=True, exist_ok=True); make_scene(seed=i, size=64).image.save(tmp_path/'folder'/'abc'[i % 3]/f'{i}.png')
    monkeypatch.setenv('GEOALIGN_DATA', str(tmp_path))
    picture, found = str(tmp_path/'folder'/'a'/'0.png'), []
    spellings = [['--model', f'geoalign-debug.mine={file}'], ['--model', str(file), '--arch', 'geoalign-debug'], ['--model', 'geoalign-debug', '--weights', str(file)]]
    for k, words in enumerate(spellings):
        assert main(['ground', picture, '--phrases', 'roof', *words, '--json', str(tmp_path/'g.json')]) == 0
        assert main(['bench', 'scene_classification', '--dataset', 'folder', *words, '--no-cache', '--out', str(tmp_path/f'{k}.json')]) == 0
        r = json.loads((tmp_path/f'{k}.json').read_text())
        found.append((json.loads((tmp_path/'g.json').read_text())['maps'], r['metrics'], r['checkpoint']))
    assert found[0] == found[1] == found[2] and found[0][2] == sha256_of(file)
    capsys.readouterr()
    assert main(['matrix', '--models', f'geoalign-debug.mine={file}', '--benchmarks', 'scene_classification:folder', '--out', str(tmp_path/'out'), '--no-cache']) == 0
    assert '1 computed' in capsys.readouterr().out
    result, = (tmp_path/'out').iterdir()
    assert json.loads(result.read_text())['metrics'] == found[0][1] and json.loads(result.read_text())['model'] == 'geoalign-debug.mine'
    save(GeoAlignCLIP.create('geoalign-debug', seed=4).clip.state_dict(), file)
    assert main(['matrix', '--models', f'geoalign-debug.mine={file}', '--benchmarks', 'scene_classification:folder', '--out', str(tmp_path/'out'), '--no-cache']) == 2
    assert 'other weights' in capsys.readouterr().out


@pytest.mark.parametrize('words, says', [
    (['--model', 'FILE'], 'write it before the place, such as ViT-B-16-quickgelu='), (['--model', 'geoalign-debug=gone.pt'], 'gone.pt is not here'), (['--model', 'no-such=FILE'], "Architecture 'no-such' is unknown"),
    (['--model', 'EVIL', '--arch', 'geoalign-debug'], '--unsafe'), (['--model', 'vhm'], '--base-url')])
def test_sentences_at_the_terminal_name_its_own_words(tmp_path, capsys, words, says):
    from geoalignclip_nb.cli import main
    save(GeoAlignCLIP.create('geoalign-debug').clip.state_dict(), tmp_path/'w.pt'); torch.save(dict(a=Path('x')), tmp_path/'evil.pt')
    (tmp_path/'set'/'a').mkdir(parents=True); make_scene(seed=0, size=64).image.save(tmp_path/'set'/'a'/'0.png')
    words = [w.replace('FILE', str(tmp_path/'w.pt')).replace('EVIL', str(tmp_path/'evil.pt')) for w in words]
    assert main(['bench', 'scene_classification', '--dataset', 'folder', '--root', str(tmp_path/'set'), '--no-cache', *words]) == 2
    said = capsys.readouterr().err
    assert says in said and said.count('\n') == 1 and not re.search(r'\b(path|arch|unsafe)=|from_pretrained|save_pretrained', said.replace('(in Python unsafe=True)', ''))


def test_a_trusted_pickle_is_read_where_the_flag_allows_it(tmp_path):
    from geoalignclip_nb.cli import main
    state = GeoAlignCLIP.create('geoalign-debug').clip.state_dict()
    torch.save(dict(state_dict=state, args=Path('x')), tmp_path/'old.pt')
    make_scene(seed=0, size=64).image.save(tmp_path/'a.png')
    words = ['ground', str(tmp_path/'a.png'), '--phrases', 'a', '--model', f"geoalign-debug={tmp_path/'old.pt'}"]
    assert main(words) == 2 and main([*words, '--unsafe']) == 0


def test_a_name_with_a_sign_is_a_folder_where_there_is_one(tmp_path, monkeypatch):
    from geoalignclip_nb.architectures import split_name
    monkeypatch.chdir(tmp_path); (tmp_path/'lr=1').mkdir()
    assert split_name('lr=1') == ('lr=1', None) and split_name('lr=2') == ('lr', '2') and split_name('a.b=c=d') == ('a.b', 'c=d') and split_name('a=') == ('a=', None)
