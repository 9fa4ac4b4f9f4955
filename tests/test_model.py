"The model's doors: names, folders, files, strictness, ragged forward"
import json
import warnings

import open_clip
import pytest
import torch
from small_towers import PYRAMID, small_model

from geoalignclip_nb import zoo
from geoalignclip_nb.core import GeoAlignError
from geoalignclip_nb.architectures import activation, architecture, build_clip
from geoalignclip_nb.ledger import count_parameters
from geoalignclip_nb.model import GeoAlignCLIP, load_open_clip, start_vocabulary
from geoalignclip_nb.text import token_table


@pytest.fixture(scope='module')
def model(): return GeoAlignCLIP.create('vit-tiny')


@pytest.mark.parametrize('name, most', [('geoalign-tiny', 31e6), ('vit-tiny', 30e6)])
def test_bundled_models_load_without_network_and_are_small(name, most):
    model = GeoAlignCLIP.from_pretrained(name)
    assert model.trained and sum(p.numel() for p in model.parameters()) <= most
    assert model.tokenizer.context_length == 248
    vectors = model.encode_text(['white plane', 'storage tank'])
    assert torch.isfinite(vectors).all() and torch.allclose(vectors.norm(dim=-1), torch.ones(2), atol=1e-4)


@pytest.mark.parametrize('name, most', [('geoalign-tiny', 64e6), ('vit-tiny', 32e6)])
def test_bundled_files_are_small(name, most):
    from geoalignclip_nb.core import asset
    assert sum(f.stat().st_size for f in asset(name).glob('*.safetensors')) <= most


def test_an_installation_without_vit_tiny_does_not_list_it(monkeypatch, tmp_path):
    from geoalignclip_nb import model as module, zoo
    (tmp_path/'geoalign-tiny').mkdir()
    monkeypatch.setattr(module, 'assets_dir', lambda: tmp_path)
    assert zoo.list_models()[0] == 'geoalign-tiny' and 'vit-tiny' not in zoo.list_models()


def test_unknown_word_is_warned_about_once():
    model = GeoAlignCLIP.from_pretrained('vit-tiny')
    with pytest.warns(UserWarning, match='never saw'): model.encode_text(['qzxj zyzzyva'])
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        model.encode_text(['qzxj zyzzyva', 'white plane'])


def test_one_call_gives_one_warning_that_counts_texts():
    model = GeoAlignCLIP.from_pretrained('vit-tiny')
    texts = ['a qzxj boat', 'white plane', 'Qzxj, xylophon', 'zyzzyva psaltery quokka okapi']
    assert model.unknown_words(texts) == ['qzxj', 'xylophon', 'zyzzyva', 'psaltery', 'quokka', 'okapi']
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter('always')
        model.encode_text(texts)
        model.encode_text(texts)
    assert [str(w.message) for w in told] == ['3 of 4 texts hold words that vit-tiny never saw in training (qzxj, xylophon, zyzzyva, psaltery, '
                                              'quokka, …); their scores mean little.']


def test_unknown_words_of_a_whole_vocabulary(model): assert model.unknown_words(['qzxj zyzzyva']) == []


def test_punctuation_does_not_make_a_word_unknown():
    model = GeoAlignCLIP.from_pretrained('vit-tiny')
    assert model.unknown_words(['white plane.', '"plane"', '(road)']) == []


def test_same_seed_same_weights(model):
    again, other = GeoAlignCLIP.create('vit-tiny'), GeoAlignCLIP.create('vit-tiny', seed=1)
    assert torch.equal(again.clip.visual.proj, model.clip.visual.proj) and not torch.equal(other.clip.visual.proj, model.clip.visual.proj)


def test_folder_round_trip_is_exact(model, tmp_path):
    model.save_pretrained(tmp_path/'m')
    back = GeoAlignCLIP.from_pretrained(tmp_path/'m')
    for (name, a), (_, b) in zip(model.state_dict().items(), back.state_dict().items()): assert torch.equal(a, b), name
    images = torch.randn(2, 3, 128, 128)
    with torch.no_grad(): assert torch.equal(model.dense(images), back.dense(images))


@pytest.mark.parametrize('spoil,word', [
    (lambda f: (f/'config.json').unlink(), 'config.json'),
    (lambda f: (f/'config.json').write_text('{'), 'config.json'),
    (lambda f: (f/'model.safetensors').write_bytes(b'12345'), 'model.safetensors'),
    (lambda f: (f/'model.safetensors').unlink(), 'missing'),
    (lambda f: (f/'config.json').write_text((f/'config.json').read_text().replace('"activation": "GELU"', '"activation": "QuickGELU"')), 'QuickGELU'),
])
def test_broken_folders_are_one_sentence(model, tmp_path, spoil, word):
    model.save_pretrained(tmp_path/'m'); spoil(tmp_path/'m')
    with pytest.raises(GeoAlignError, match=word) as e: GeoAlignCLIP.from_pretrained(tmp_path/'m')
    assert '\n' not in str(e.value)


@pytest.mark.parametrize('name', ['', 'geoalign', 'nothing.here', 'ViT-B-16.nope', 'ViT-B-16.openai', 'missing/folder'])
def test_unknown_names_are_one_sentence(name):
    with pytest.raises(GeoAlignError) as e: GeoAlignCLIP.from_pretrained(name)
    assert '\n' not in str(e.value)


def test_quickgelu_is_refused_where_it_is_wrong():
    with pytest.raises(GeoAlignError, match='ViT-B-16-quickgelu.openai'): load_open_clip('ViT-B-16.openai')


def test_activation_is_read_from_modules():
    tiny = architecture('vit-tiny')
    assert activation(build_clip(tiny)) == 'GELU' and activation(build_clip({**tiny, 'quick_gelu': True})) == 'QuickGELU'


@pytest.mark.parametrize('wrap', [lambda s: s, lambda s: {'state_dict': s}, lambda s: {'state_dict': {f'module.{k}': v for k, v in s.items()}}])
def test_open_clip_files_load_strictly(tmp_path, wrap):
    torch.manual_seed(5)
    clip = build_clip(architecture('vit-tiny')).eval()
    torch.save(wrap(clip.state_dict()), tmp_path/'w.pt')
    model = GeoAlignCLIP.from_pretrained(tmp_path/'w.pt', arch='vit-tiny')
    text = open_clip.tokenize(['a white plane on the apron'])
    with torch.no_grad():
        ours = model.encode_text(['a white plane on the apron'])
        theirs = torch.nn.functional.normalize(clip.encode_text(text), dim=-1)
    assert (ours - theirs).abs().max() < 1e-5


def test_weights_are_named_after_where_they_come_from(model, tmp_path):
    "random: from a seed; trained: from a training that said so; loaded: from a file that says nothing about itself"
    assert 'random weights' in repr(model) and not model.trained
    assert 'trained weights' in repr(GeoAlignCLIP.from_pretrained('vit-tiny'))
    torch.save(model.state_dict(), tmp_path/'some.pt')
    loaded = GeoAlignCLIP.from_pretrained(tmp_path/'some.pt', arch='vit-tiny')
    loaded.save_pretrained(tmp_path/'folder')
    for m in (loaded, GeoAlignCLIP.from_pretrained(tmp_path/'folder')):
        assert 'loaded weights' in repr(m) and 'trained weights' not in repr(m) and m.trained  # not known to be random


def test_wrong_architecture_says_which_keys(tmp_path):
    torch.save(build_clip(architecture('vit-tiny')).state_dict(), tmp_path/'w.pt')
    with pytest.raises(GeoAlignError, match='instead of|missing'): GeoAlignCLIP.from_pretrained(tmp_path/'w.pt', arch='ViT-B-16')


def test_pickles_are_not_executed(tmp_path):
    class Evil:
        def __reduce__(self): return (open, (str(tmp_path/'touched'), 'w'))
    torch.save({'a': Evil()}, tmp_path/'evil.pt')
    with pytest.raises(GeoAlignError, match='weights-only'): GeoAlignCLIP.from_pretrained(tmp_path/'evil.pt', arch='vit-tiny')
    assert not (tmp_path/'touched').exists()


def test_table_7_counts():
    assert count_parameters('ViT-L-14', stretch=False)['total'] == 427_616_513
    assert count_parameters('ViT-L-14-336', stretch=False)['total'] == 427_944_193


def test_forward_without_regions_is_finite(model):
    batch = dict(images=torch.randn(2, 3, 128, 128), brief=model.tokenize(['a field', 'a road']), boxes=torch.zeros(0, 5),
                 region_text=torch.zeros(0, 3, dtype=torch.long), negatives=torch.zeros(0, 3, dtype=torch.long),
                 negative_owner=torch.zeros(0, dtype=torch.long), crops=torch.zeros(0, 3, 64, 64))
    out = model(batch)
    assert out['region'].shape == out['crop'].shape == (0, 256) and out['negative'].shape == (0, 256)
    assert all(torch.isfinite(v).all() for v in out.values() if v.is_floating_point())


def region_batch(model, **more):
    return dict(images=torch.randn(1, 3, 128, 128), boxes=torch.tensor([[0, 8, 8, 60, 60], [0, 0, 0, 128, 128.]]),
                region_text=model.tokenize(['white plane', 'a long road']), **more)


def test_forward_encodes_the_positive_of_each_hard_negative(model):
    "`hna_text` is a text input of its own: row k is the positive that the negatives of region k were made from"
    positives = ['a white plane on the apron', 'a long road']
    with torch.no_grad():
        out = model(region_batch(model, hna_text=model.tokenize(positives)))
        expected = model.encode_text(positives)
    torch.testing.assert_close(out['hna_text'], expected, atol=1e-5, rtol=0)
    assert not torch.allclose(out['hna_text'][0], out['region_text'][0], atol=1e-3)


def test_forward_without_hna_text_returns_none(model):
    with torch.no_grad(): assert 'hna_text' not in model(region_batch(model))


def test_forward_of_images_alone(model):
    with torch.no_grad(): out = model(dict(images=torch.randn(2, 3, 128, 128)))
    assert set(out) == {'image', 'log_scale', 'log_scale_rpa', 'log_scale_hna'}


def test_region_texts_without_boxes_are_left_out(model):
    with torch.no_grad(): out = model(dict(images=torch.randn(1, 3, 128, 128), brief=model.tokenize(['a']), hna_text=model.tokenize(['b'])))
    assert 'hna_text' not in out and 'brief' in out


# ---- vocabulary ----------------------------------------------------------------------------------------------------------

VOCABULARY = 49408
WORDS = ['a white plane on the apron', 'storage tank']


def mask(model, texts):
    known = torch.zeros(VOCABULARY, dtype=torch.bool)
    known[model.tokenize(texts)] = True
    return known


def table(model): return model.clip.token_embedding.weight.detach()


def again(model, tmp_path, way, **more):
    "The model read from the folder, or from its weight file alone"
    model.save_pretrained(tmp_path/'m', **more)
    if way == 'folder': return GeoAlignCLIP.from_pretrained(tmp_path/'m')
    return GeoAlignCLIP.from_pretrained(tmp_path/'m'/'model.safetensors', arch='vit-tiny')


def test_keep_tokens_merges_the_others_alone():
    model = GeoAlignCLIP.create('vit-tiny')
    before, known = table(model).clone(), mask(model, WORDS)
    assert model.keep_tokens(known) is model and torch.equal(model.known_tokens, known)
    assert torch.equal(table(model)[known], before[known])
    torch.testing.assert_close(table(model)[~known], before[~known].mean(0).expand_as(before[~known]), atol=1e-7, rtol=0)
    known[:] = False
    assert not model.known_tokens.equal(known), 'the mask of the caller is not shared'


def test_keeping_more_tokens_changes_no_row():
    "A second training knows more: neither the known rows nor the shared one move"
    model = GeoAlignCLIP.from_pretrained('vit-tiny')
    before, known = table(model).clone(), model.known_tokens | mask(model, ['zyzzyva quokka'])
    assert known.sum() > model.known_tokens.sum()
    model.keep_tokens(known)
    assert torch.equal(table(model), before) and torch.equal(model.known_tokens, known)


@pytest.mark.parametrize('known', [torch.ones(VOCABULARY), torch.ones(7, dtype=torch.bool), torch.ones(VOCABULARY, 1, dtype=torch.bool)])
def test_a_mask_of_another_shape_is_refused(model, known):
    with pytest.raises(GeoAlignError, match='one bool per token'): model.keep_tokens(known)


@pytest.mark.parametrize('way', ['folder', 'file'])
@pytest.mark.parametrize('half', [False, True])
def test_a_part_of_the_vocabulary_round_trips(tmp_path, way, half):
    model = GeoAlignCLIP.create('vit-tiny')
    model.keep_tokens(mask(model, WORDS))
    back = again(model, tmp_path, way, half=half)
    assert torch.equal(back.known_tokens, model.known_tokens) and back.known_tokens.dtype == torch.bool
    expected = table(model).half().float() if half else table(model)
    assert torch.equal(table(back), expected)
    if not half:
        with torch.no_grad(): assert torch.equal(back.encode_text(WORDS), model.encode_text(WORDS))
    assert (tmp_path/'m'/'model.safetensors').stat().st_size < (30e6 if half else 60e6)  # 52 and 104 MB with the whole table


@pytest.mark.parametrize('way', ['folder', 'file'])
@pytest.mark.parametrize('half', [False, True])
@pytest.mark.parametrize('known', ['None', 'kept', 'set by hand'])
def test_a_whole_vocabulary_round_trips(tmp_path, way, half, known):
    "All tokens known is the same as no mask: the file holds the whole table"
    model = GeoAlignCLIP.create('vit-tiny')
    before = table(model).clone()
    everything = torch.ones(VOCABULARY, dtype=torch.bool)
    if known == 'kept': model.keep_tokens(everything)
    if known == 'set by hand': model.known_tokens = everything
    back = again(model, tmp_path, way, half=half)
    assert back.known_tokens is None and model.unknown_words(['qzxj']) == back.unknown_words(['qzxj']) == []
    assert torch.equal(table(model), before) and torch.equal(table(back), before.half().float() if half else before)


def test_an_empty_vocabulary_round_trips(tmp_path):
    model = GeoAlignCLIP.create('vit-tiny').keep_tokens(torch.zeros(VOCABULARY, dtype=torch.bool))
    back = again(model, tmp_path, 'folder')
    assert not back.known_tokens.any() and torch.equal(table(back), table(model)) and len(table(back).unique(dim=0)) == 1


def test_vit_tiny_knows_exactly_its_tokens(tmp_path):
    from geoalignclip_nb.core import asset
    from safetensors.torch import load_file
    model, file = GeoAlignCLIP.from_pretrained('vit-tiny'), load_file(asset('vit-tiny')/'model.safetensors')
    assert torch.equal(model.known_tokens.nonzero()[:, 0], file['token_ids'].long())
    back = again(model, tmp_path, 'folder')
    assert torch.equal(back.known_tokens, model.known_tokens) and torch.equal(table(back), table(model))
    with torch.no_grad(): assert torch.equal(back.encode_text(WORDS), model.encode_text(WORDS))


def test_every_precision_of_a_file_has_the_known_rows(tmp_path):
    model = GeoAlignCLIP.from_pretrained('vit-tiny').to(torch.bfloat16)
    back = again(model, tmp_path, 'folder')
    assert torch.equal(back.known_tokens, model.known_tokens) and torch.equal(table(back), table(model).float())


@pytest.mark.parametrize('spoil, word', [
    (lambda s: s.update(token_ids=s['token_ids'] + VOCABULARY), 'outside 0 to 49407'),
    (lambda s: s.update(token_ids=s['token_ids'] - 1000), 'outside 0 to 49407'),
    (lambda s: s.update(token_ids=s['token_ids'].float()), 'float32'),
    (lambda s: s.update(token_ids=s['token_ids'][:, None]), 'token_ids is'),
    (lambda s: s.update(token_ids=s['token_ids'] * 0 + 5), 'twice'),
    (lambda s: s.update(token_ids=s['token_ids'][1:]), 'token_rows is'),
    (lambda s: s.update(token_rows=s['token_rows'][:, 1:].contiguous()), 'token_rows is'),
    (lambda s: s.update(token_shared=s['token_shared'][None]), 'token_shared is'),
    (lambda s: s.pop('token_rows'), 'token_rows is missing'),
    (lambda s: s.pop('token_ids'), 'token_ids is missing'),
    (lambda s: s.pop('token_shared'), 'token_shared is missing'),
    (lambda s: s.update({'clip.token_embedding.weight': torch.zeros(VOCABULARY, 256)}), 'is there too'),
])
def test_a_damaged_token_table_is_one_sentence(tmp_path, spoil, word):
    from safetensors.torch import load_file, save_file
    model = GeoAlignCLIP.create('vit-tiny')
    model.keep_tokens(mask(model, WORDS)).save_pretrained(tmp_path/'m')
    state = load_file(tmp_path/'m'/'model.safetensors')
    spoil(state)
    save_file(state, tmp_path/'m'/'model.safetensors')
    with pytest.raises(GeoAlignError, match=word) as e: GeoAlignCLIP.from_pretrained(tmp_path/'m')
    assert '\n' not in str(e.value) and str(e.value).startswith('The token table of m is damaged')


def test_the_vocabulary_that_a_training_starts_from(tmp_path):
    "None of random weights, all of weights from a file, else what the model knows"
    model = GeoAlignCLIP.create('vit-tiny')
    assert start_vocabulary(model).shape == (VOCABULARY,) and not start_vocabulary(model).any()
    for way in ('folder', 'file'): assert start_vocabulary(again(model, tmp_path, way)).all()
    bundled = GeoAlignCLIP.from_pretrained('vit-tiny')
    start = start_vocabulary(bundled)
    assert torch.equal(start, bundled.known_tokens) and 0 < start.sum() < VOCABULARY
    start[:] = True
    assert not bundled.known_tokens.all(), 'a copy: the trainer may write into it'
    model.keep_tokens(mask(model, WORDS))
    assert torch.equal(start_vocabulary(model), mask(model, WORDS))
    trained = GeoAlignCLIP.create('vit-tiny')
    trained.config['trained'] = True
    assert start_vocabulary(trained).all()


def test_config_is_plain_json(model, tmp_path):
    model.save_pretrained(tmp_path, half=True, note='x')
    assert json.loads((tmp_path/'config.json').read_text())['note'] == 'x'


# ---- a text tower of Hugging Face ----------------------------------------------------------------------------------------

PHRASES = ['a white plane', 'two storage tanks and a grey roundabout', 'boats']


@pytest.fixture(scope='module')
def bert(): return small_model()


@pytest.mark.parametrize('half', [False, True])
def test_a_folder_with_another_vocabulary_round_trips(bert, tmp_path, half, monkeypatch):
    "Without a network, and without a path of this computer in the configuration"
    monkeypatch.setenv('HF_HUB_OFFLINE', '1')
    bert.save_pretrained(tmp_path/'m', half=half)
    assert sorted(p.name for p in (tmp_path/'m').iterdir()) == ['config.json', 'model.safetensors', 'tokenizer.json']
    assert json.loads((tmp_path/'m'/'config.json').read_text())['clip']['text_cfg']['hf_model_name'] == 'bert'
    assert '/' not in (tmp_path/'m'/'config.json').read_text()
    back = GeoAlignCLIP.from_pretrained(tmp_path/'m')
    with torch.no_grad(): torch.testing.assert_close(back.encode_text(PHRASES), bert.encode_text(PHRASES), atol=1e-3 if half else 0, rtol=0)
    assert start_vocabulary(back).all() and not start_vocabulary(bert).any() and back.tokenizer.context_length == 48


def test_equal_texts_are_encoded_once_by_either_tower(bert):
    ids = bert.tokenize([*PHRASES, PHRASES[0]])
    with torch.no_grad():
        first, second = bert.encode_texts_once(ids, bert.tokenize(PHRASES[2]))
        torch.testing.assert_close(torch.cat([first, second]), bert.encode_text([*PHRASES, PHRASES[0], PHRASES[2]]), atol=1e-5, rtol=0)
        assert bert.encode_texts_once(ids[:0])[0].shape == (0, 32)


def test_only_words_without_meaning_are_named(bert):
    assert bert.unknown_words(['a white plane, 12 boats.', 'plane']) == []
    with pytest.warns(UserWarning, match=r"'a 東 boat' holds words that custom cannot read \(東\)"): bert.encode_text(['a 東 boat'])


def test_a_part_of_another_vocabulary_round_trips(tmp_path):
    model = small_model()
    known = torch.zeros(token_table(model.clip).num_embeddings, dtype=torch.bool)
    known[model.tokenize(PHRASES)] = True
    model.keep_tokens(known).save_pretrained(tmp_path/'m')
    back = GeoAlignCLIP.from_pretrained(tmp_path/'m')
    assert torch.equal(back.known_tokens, known) and back.unknown_words(['white terminal']) == ['terminal']
    assert torch.equal(token_table(back.clip).weight, token_table(model.clip).weight)


def test_another_vocabulary_needs_its_file(bert, tmp_path):
    bert.save_pretrained(tmp_path/'m')
    (tmp_path/'m'/'tokenizer.json').unlink()
    with pytest.raises(GeoAlignError, match='tokenizer.json is missing in folder m'): GeoAlignCLIP.from_pretrained(tmp_path/'m')
    with pytest.raises(GeoAlignError, match='needs its own tokenizer'): GeoAlignCLIP.create(bert.config['clip'])


@pytest.mark.parametrize('spoil, word', [
    (lambda text: text['hf_config'].update(pad_token_id=1), 'pad_token_id'), (lambda text: text.update(context_length=65), 'has 64 positions'),
    (lambda text: text['hf_config'].update(model_type='nothing'), 'builds no model')])
def test_a_wrong_text_configuration_is_one_sentence(bert, tmp_path, spoil, word):
    bert.save_pretrained(tmp_path/'m')
    config = json.loads((tmp_path/'m'/'config.json').read_text())
    spoil(config['clip']['text_cfg'])
    (tmp_path/'m'/'config.json').write_text(json.dumps(config))
    with pytest.raises(GeoAlignError, match=word) as e: GeoAlignCLIP.from_pretrained(tmp_path/'m')
    assert '\n' not in str(e.value)


def test_the_random_control_shares_the_tokenizer(bert):
    twin = zoo.random_twin(bert, 1)
    assert twin.tokenizer is bert.tokenizer and twin.encode_text(PHRASES).shape == (3, 32)
    assert not torch.equal(token_table(twin.clip).weight, token_table(bert.clip).weight)


def test_all_weights_of_the_pyramid_round_trip(bert, tmp_path):
    "In half precision, temperatures, statistics and counters stay whole"
    from safetensors.torch import load_file
    tower = bert.clip.visual
    tower.dense_head.standardize.spread.fill_(3e-6)
    tower.trunk.bn1.running_var.fill_(1e-7)
    tower.trunk.bn1.num_batches_tracked.fill_(70_000)
    bert.save_pretrained(tmp_path/'m', half=True)
    file = load_file(tmp_path/'m'/'model.safetensors')
    back = GeoAlignCLIP.from_pretrained(tmp_path/'m')
    for key, value in bert.state_dict().items():
        kept = not value.is_floating_point() or any(part in key for part in ('scale', 'running_', 'center', 'spread'))
        assert (file[key].dtype == torch.float16) != kept
        torch.testing.assert_close(back.state_dict()[key], value if kept else value.half().float(), atol=0, rtol=0)
    tower.dense_head.standardize.spread.fill_(1.)
    tower.trunk.bn1.running_var.fill_(1.)


def test_a_pyramid_model_encodes_everything(bert):
    assert list(bert.preprocess.mean) == [0.485, 0.456, 0.406]  # of the trunk
    images, boxes = torch.randn(2, 3, 64, 96), torch.tensor([[0, 8, 8, 60, 60], [1, 0, 0, 96, 64.]])
    with torch.no_grad():
        found = bert.encode_image(images), bert.encode_regions(images, boxes), bert.dense(images)
        out = bert(dict(images=images, boxes=boxes, region_text=bert.tokenize(PHRASES[:2]), brief=bert.tokenize(PHRASES[1:]),
                        negatives=torch.zeros(0, 3, dtype=torch.long), crops=torch.randn(2, 3, 32, 32)))
    assert [tuple(v.shape) for v in found] == [(2, 32), (2, 32), (2, 32, 4, 6)]
    assert {k: tuple(out[k].shape) for k in ('image', 'region', 'crop', 'negative')} == dict(image=(2, 32), region=(2, 32), crop=(2, 32), negative=(0, 32))
    assert all(torch.isfinite(v).all() for v in out.values())


def test_the_text_tower_of_clip_goes_with_a_pyramid():
    model = GeoAlignCLIP.create(dict(embed_dim=32, vision_cfg=PYRAMID, text_cfg=dict(context_length=77, vocab_size=49408, width=32, heads=2, layers=1)))
    with torch.no_grad(): assert model.encode_text(PHRASES).shape == (3, 32) and model.encode_image(torch.randn(1, 3, 64, 64)).shape == (1, 32)
    assert model.tokenizer.context_length == 248


def test_an_unknown_pyramid_setting_is_one_sentence(bert, tmp_path):
    bert.save_pretrained(tmp_path/'m')
    config = json.loads((tmp_path/'m'/'config.json').read_text())
    config['clip']['vision_cfg']['pyramid']['depth'] = 3
    (tmp_path/'m'/'config.json').write_text(json.dumps(config))
    with pytest.raises(GeoAlignError, match='config.json of m builds no model'): GeoAlignCLIP.from_pretrained(tmp_path/'m')
