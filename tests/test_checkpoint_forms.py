"""Checkpoints as people have them: containers, prefixes, shards and folders of every kind around the same small random weights give the same model."""
import json
from pathlib import Path

import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from geoalignclip_nb import zoo
from geoalignclip_nb.architectures import DEBUG, build_clip
from geoalignclip_nb.checkpoints import read_tensors, save_hugging_face, split_part, to_hugging_face, unwrap
from geoalignclip_nb.core import GeoAlignError
from geoalignclip_nb.model import GeoAlignCLIP
from geoalignclip_nb.model_folders import read_model_path, weight_file

CONFIG = DEBUG | dict(quick_gelu=True)
TEXTS = ['a white plane on the apron', 'ship']
OPTIMIZER = {'state': {0: {'exp_avg': torch.ones(3)}}, 'param_groups': [{'lr': .1}]}


def random_state(seed=0) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    clip = build_clip(CONFIG)
    with torch.no_grad():
        for name, p in clip.named_parameters():
            if p.ndim < 2 and name != 'logit_scale': p.add_(torch.randn_like(p) * .1)
    return {name: v.clone() for name, v in clip.state_dict().items() if not name.endswith('attn_mask')}


STATE = random_state()


def prefixed(before: str, state=STATE) -> dict[str, torch.Tensor]:
    return {f'{before}{name}': v for name, v in state.items()}


def compiled_inside(state=STATE) -> dict[str, torch.Tensor]:
    "Only the image tower was compiled"
    return {name.replace('visual.', 'visual._orig_mod.', 1) if name.startswith('visual.') else name: v for name, v in state.items()}


@pytest.fixture(scope='module')
def images():
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(5))


@pytest.fixture(scope='module')
def vectors(images):
    clip = build_clip(CONFIG).eval()
    clip.load_state_dict(STATE, strict=False)
    with torch.no_grad():
        return (torch.nn.functional.normalize(clip.encode_image(images), dim=-1),
                torch.nn.functional.normalize(clip.encode_text(open_clip.tokenize(TEXTS)), dim=-1))


def assert_same(model, images, vectors):
    with torch.no_grad():
        torch.testing.assert_close(model.encode_image(images), vectors[0], atol=1e-6, rtol=0)
        torch.testing.assert_close(model.encode_text(TEXTS), vectors[1], atol=1e-6, rtol=0)


def save(found, path: Path) -> Path:
    if path.suffix == '.safetensors': save_file({n: v.contiguous().clone() for n, v in found.items()}, path)
    else: torch.save(found, path)
    return path


PREFIXES = ['', '_orig_mod.', 'module.', 'model.', 'clip_model.', 'clip.', 'net.', 'student.', 'ema.', 'ema_model.module.',
            'module._orig_mod.', '_orig_mod.module.', 'model.module.', 'model.clip_model._orig_mod.', 'my_tower.backbone.inner.']
CONTAINERS = {
    'bare': lambda s: s,
    'state_dict': lambda s: {'state_dict': s, 'epoch': 3, 'optimizer': OPTIMIZER},
    'model_state_dict': lambda s: {'model_state_dict': s, 'optimizer_state_dict': OPTIMIZER, 'step': 7},
    'model': lambda s: {'model': s, 'optimizer': OPTIMIZER},
    'module': lambda s: {'module': s, 'optimizer': None, 'lr_scheduler': {'last': 3}, 'global_steps': 7},
    'net': lambda s: {'net': s, 'acc': 90.},
    'nested': lambda s: {'checkpoint': {'model': {'state_dict': s}}, 'rng': torch.zeros(4)},
    'lightning': lambda s: {'state_dict': s, 'optimizer_states': [OPTIMIZER], 'callbacks': {}, 'loops': {}, 'epoch': 2,
                            'pytorch-lightning_version': '2.4.0', 'hyper_parameters': {'lr': .1}},
    'ema twice the same': lambda s: {'state_dict': s, 'state_dict_ema': dict(s)},
}


@pytest.mark.parametrize('before', PREFIXES, ids=[p or 'plain' for p in PREFIXES])
@pytest.mark.parametrize('container', CONTAINERS)
def test_every_container_with_every_prefix(container, before):
    "Bare names and equal tensors; the encoders are compared below"
    found = unwrap(CONTAINERS[container](prefixed(before)))
    assert found.keys() == STATE.keys() and all(torch.equal(found[n], STATE[n]) for n in STATE)


@pytest.mark.parametrize('before', ['module._orig_mod.', 'clip_model.', 'student.'])
@pytest.mark.parametrize('container', CONTAINERS)
@pytest.mark.parametrize('hugging_face', [False, True], ids=['open_clip', 'transformers'])
def test_encoders_are_those_of_the_original(tmp_path, images, vectors, container, before, hugging_face):
    state = to_hugging_face(STATE) if hugging_face else STATE
    path = save(CONTAINERS[container](prefixed(before, state)), tmp_path/'w.pt')
    assert_same(zoo.load(path, config=CONFIG), images, vectors)


@pytest.mark.parametrize('suffix', ['.pt', '.pth', '.bin', '.ckpt', '.th', '.pth.tar'])
def test_every_suffix_alone_in_a_folder(tmp_path, images, vectors, suffix):
    save({'state_dict': compiled_inside()}, tmp_path/f'epoch=3{suffix}')
    for other in ('optimizer.pt', 'rng_state_0.pth', 'training_args.bin', 'scheduler.pt', '.hidden.pt', 'log.txt'): (tmp_path/other).touch()
    assert_same(zoo.load(tmp_path, config=CONFIG), images, vectors)


@pytest.mark.parametrize('suffix', ['.safetensors', '.bin'])
def test_shards_with_an_index(tmp_path, images, vectors, suffix):
    stem = 'model' if suffix == '.safetensors' else 'pytorch_model'
    names = sorted(STATE)
    parts = {f'{stem}-0000{i}-of-00003{suffix}': names[i - 1::3] for i in (1, 2, 3)}
    for file, own in parts.items(): save({f'module.{n}': STATE[n] for n in own}, tmp_path/file)
    index = tmp_path/f'{stem}{suffix}.index.json'
    index.write_text(json.dumps(dict(metadata={}, weight_map={f'module.{n}': f for f, own in parts.items() for n in own})))
    assert weight_file(tmp_path) == index
    for path in (tmp_path, index): assert_same(zoo.load(path, config=CONFIG), images, vectors)
    digest = zoo.load(tmp_path, config=CONFIG).checkpoint
    (tmp_path/f'{stem}-00002-of-00003{suffix}').rename(tmp_path/'gone')
    with pytest.raises(GeoAlignError, match='1 of 3 shards .* are missing') as e: zoo.load(tmp_path, config=CONFIG)
    assert '\n' not in str(e.value) and len(digest) == 64
    index.unlink()
    with pytest.raises(GeoAlignError, match='without their index'): zoo.load(tmp_path, config=CONFIG)


def open_clip_folder(folder: Path, file='open_clip_model.safetensors', **preprocess) -> Path:
    folder.mkdir(exist_ok=True)
    save(STATE, folder/file)
    told = dict(model_cfg=CONFIG, preprocess_cfg=preprocess)
    (folder/'open_clip_config.json').write_text(json.dumps(told), encoding='utf-8-sig')
    return folder


@pytest.mark.parametrize('file', ['open_clip_model.safetensors', 'open_clip_pytorch_model.bin', 'epoch_9.pt'])
@pytest.mark.parametrize('how', [zoo.load, GeoAlignCLIP.from_pretrained], ids=['zoo', 'from_pretrained'])
def test_open_clip_folder_needs_no_name(tmp_path, images, vectors, file, how):
    folder = open_clip_folder(tmp_path/'hub', file, mean=[.5, .4, .3], std=[.2, .3, .4], interpolation='bilinear', resize_mode='squash')
    model = how(folder)
    assert_same(model, images, vectors)
    assert (model.preprocess.mean, model.preprocess.std) == ([.5, .4, .3], [.2, .3, .4])
    assert (model.preprocess.mode, model.preprocess.interpolation, model.preprocess.size) == ('squash', 'bilinear', 64)


@pytest.mark.parametrize('told', [
    dict(resize_mode='shortest', interpolation='bicubic'), dict(resize_mode='longest', interpolation='bilinear', size=96),
    dict(resize_mode='squash', size=[64, 64]), dict()])
def test_open_clip_folder_prepares_images_as_open_clip(tmp_path, told):
    model = zoo.load(open_clip_folder(tmp_path/'hub', mean=[.5, .4, .3], std=[.2, .3, .4], **told))
    size = model.preprocess.size
    theirs = open_clip.image_transform(size, is_train=False, mean=(.5, .4, .3), std=(.2, .3, .4),
                                       resize_mode=told.get('resize_mode'), interpolation=told.get('interpolation'))
    image = Image.effect_noise((90, 90), 60).convert('RGB')
    torch.testing.assert_close(model.preprocess(image), theirs(image), atol=.02, rtol=0)
    assert zoo.published_preprocess(model) == model.preprocess


@pytest.mark.parametrize('told, words', [
    (dict(text_cfg=CONFIG['text_cfg'] | dict(hf_tokenizer_name='timm/x')), "only models with CLIP's own tokenizer"),
    (dict(text_cfg=CONFIG['text_cfg'] | dict(heads=7)), 'builds no model'),
    (dict(vision_cfg=7), 'no model_cfg with a vision_cfg'),
    (dict(vision_cfg=CONFIG['vision_cfg'] | dict(width=128)), 'does not fit this architecture')])
def test_a_wrong_open_clip_config_is_one_sentence(tmp_path, told, words):
    folder = open_clip_folder(tmp_path/'hub')
    (folder/'open_clip_config.json').write_text(json.dumps(dict(model_cfg=CONFIG | told)))
    for how in (zoo.load, GeoAlignCLIP.from_pretrained):
        with pytest.raises(GeoAlignError, match=words) as e: how(folder)
        assert '\n' not in str(e.value)


@pytest.mark.parametrize('told, mode, interpolation', [
    (dict(size={'shortest_edge': 64}, crop_size={'height': 64, 'width': 64}, do_center_crop=True, resample=3), 'shortest', 'bicubic'),
    (dict(size=64, crop_size=64, do_center_crop=True, resample=2), 'shortest', 'bilinear'),
    (dict(size={'height': 64, 'width': 64}, do_center_crop=False, resample=0), 'squash', 'nearest')])
def test_hugging_face_preprocessing_is_used(tmp_path, images, vectors, told, mode, interpolation):
    save_hugging_face(STATE, CONFIG, tmp_path)
    (tmp_path/'preprocessor_config.json').write_text(json.dumps(told | dict(image_mean=[.5] * 3, image_std=[.25] * 3)))
    model = zoo.load(tmp_path)
    assert_same(model, images, vectors)
    found = model.preprocess
    assert (found.mode, found.interpolation, found.mean, found.std) == (mode, interpolation, [.5] * 3, [.25] * 3)


@pytest.mark.parametrize('kind', ['siglip', 'blip-2', 'bert'])
def test_another_kind_of_model_is_named(tmp_path, kind):
    (tmp_path/'config.json').write_text(json.dumps(dict(model_type=kind)))
    (tmp_path/'model.safetensors').touch()
    with pytest.raises(GeoAlignError, match=f'of the kind {kind}; only CLIP'): read_model_path(tmp_path)


@pytest.mark.parametrize('found, part', [
    ({'state_dict': STATE, 'state_dict_ema': random_state(1)}, 'state_dict'),
    (prefixed('student.') | prefixed('teacher.', random_state(1)), 'student'),
    (prefixed('ema.', random_state(1)) | STATE, 'main'),
    ({'model': prefixed('module.'), 'model_ema': prefixed('module.', random_state(1))}, 'model')])
def test_several_models_are_listed_and_one_can_be_chosen(tmp_path, images, vectors, found, part):
    path = save(found, tmp_path/'both.pt')
    with pytest.raises(GeoAlignError, match='several models .*FILE#|both.pt#') as e: zoo.load(path, config=CONFIG)
    assert part in str(e.value) and '\n' not in str(e.value)
    assert_same(zoo.load(f'{path}#{part}', config=CONFIG), images, vectors)
    assert_same(zoo.load(f'ViT-B-16-quickgelu={path}#{part}', config=CONFIG), images, vectors)
    with pytest.raises(GeoAlignError, match="no single part 'other'; choose from"): zoo.load(f'{path}#other', config=CONFIG)


def test_a_path_with_a_hash_is_a_path(tmp_path):
    path = save(STATE, tmp_path/'run#3.pt')
    assert split_part(path) == (path, '')
    assert zoo.load(path, config=CONFIG).name == 'run#3'


def test_several_files_are_listed(tmp_path):
    for epoch in (1, 2): save(STATE, tmp_path/f'epoch_{epoch}.pt')
    with pytest.raises(GeoAlignError, match='epoch_1.pt, epoch_2.pt.*give one of them, such as') as e: zoo.load(tmp_path, config=CONFIG)
    assert '\n' not in str(e.value)


def test_the_folder_above_is_enough(tmp_path, images, vectors):
    inside = tmp_path/'lightning_logs'/'version_0'/'checkpoints'
    inside.mkdir(parents=True)
    save({'state_dict': prefixed('model.')}, inside/'last.ckpt')
    assert_same(zoo.load(tmp_path, config=CONFIG), images, vectors)


def test_a_run_folder_of_ours_is_a_model(tmp_path):
    model = GeoAlignCLIP.create('geoalign-debug')
    model.save_pretrained(tmp_path/'model')
    (tmp_path/'latest.pt').touch()
    for how in (zoo.load, GeoAlignCLIP.from_pretrained):
        assert torch.equal(how(tmp_path).clip.visual.proj, model.clip.visual.proj)


def test_deepspeed_folder(tmp_path, images, vectors):
    (tmp_path/'latest').write_text('global_step7\n')
    (tmp_path/'global_step7').mkdir()
    save({'module': prefixed('module.'), 'param_shapes': [{'a': 1}]}, tmp_path/'global_step7'/'mp_rank_00_model_states.pt')
    (tmp_path/'global_step7'/'bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt').touch()
    assert_same(zoo.load(tmp_path, config=CONFIG), images, vectors)
    save({}, tmp_path/'global_step7'/'mp_rank_01_model_states.pt')
    with pytest.raises(GeoAlignError, match='2 parts of DeepSpeed.*zero_to_fp32'): zoo.load(tmp_path, config=CONFIG)


@pytest.mark.parametrize('name, words', [
    ('tf_model.h5', 'weights of TensorFlow'), ('flax_model.msgpack', 'weights of Flax'), ('model.onnx', 'weights of ONNX'),
    ('__0_0.distcp', 'dcp_to_torch')])
def test_other_frameworks_are_named(tmp_path, name, words):
    (tmp_path/name).write_bytes(b'123')
    with pytest.raises(GeoAlignError, match=words) as e: zoo.load(tmp_path, config=CONFIG)
    assert '\n' not in str(e.value)


@pytest.mark.parametrize('name', ['w.pt', 'w.safetensors'])
def test_a_pointer_of_git_lfs_is_named(tmp_path, name):
    (tmp_path/name).write_bytes(b'version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 12\n')
    with pytest.raises(GeoAlignError, match='pointer of Git LFS'): read_tensors(tmp_path/name)


def test_entries_without_a_home_are_refused_by_name(tmp_path):
    path = save(prefixed('student.') | {'loss.center': torch.ones(3)}, tmp_path/'w.pt')
    with pytest.raises(GeoAlignError, match='loss.center'): zoo.load(path, config=CONFIG)
