"The model's doors: names, folders, files, strictness, ragged forward"
import json
import warnings

import open_clip
import pytest
import torch

from geoalignclip_nb.core import GeoAlignError
from geoalignclip_nb.architectures import activation, architecture, build_clip
from geoalignclip_nb.ledger import count_parameters
from geoalignclip_nb.model import GeoAlignCLIP, load_tag


@pytest.fixture(scope='module')
def model(): return GeoAlignCLIP.create('geoalign-tiny')


def test_bundled_model_loads_without_network_and_is_small():
    model = GeoAlignCLIP.from_pretrained('geoalign-tiny')
    assert model.trained and sum(p.numel() for p in model.parameters()) <= 30e6
    assert len(model.clip.positional_embedding) == 248
    vectors = model.encode_text(['white plane', 'storage tank'])
    assert torch.isfinite(vectors).all() and torch.allclose(vectors.norm(dim=-1), torch.ones(2), atol=1e-4)


def test_bundled_file_is_at_most_32_mb():
    from geoalignclip_nb.core import asset
    assert sum(f.stat().st_size for f in asset('geoalign-tiny').glob('*.safetensors')) <= 32e6


def test_unknown_word_is_warned_about_once():
    model = GeoAlignCLIP.from_pretrained('geoalign-tiny')
    with pytest.warns(UserWarning, match='never saw'): model.encode_text(['qzxj zyzzyva'])
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        model.encode_text(['qzxj zyzzyva', 'white plane'])


def test_one_call_gives_one_warning_that_counts_texts():
    model = GeoAlignCLIP.from_pretrained('geoalign-tiny')
    texts = ['a qzxj boat', 'white plane', 'Qzxj, xylophon', 'zyzzyva psaltery quokka okapi']
    assert model.unknown_words(texts) == ['qzxj', 'xylophon', 'zyzzyva', 'psaltery', 'quokka', 'okapi']
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter('always')
        model.encode_text(texts)
        model.encode_text(texts)
    assert [str(w.message) for w in told] == ['3 of 4 texts hold words that geoalign-tiny never saw in training (qzxj, xylophon, zyzzyva, psaltery, '
                                              'quokka, …); their scores mean little.']


def test_unknown_words_of_a_whole_vocabulary(model): assert model.unknown_words(['qzxj zyzzyva']) == []


def test_punctuation_does_not_make_a_word_unknown():
    model = GeoAlignCLIP.from_pretrained('geoalign-tiny')
    assert model.unknown_words(['white plane.', '"plane"', '(road)']) == []


def test_same_seed_same_weights(model):
    again, other = GeoAlignCLIP.create('geoalign-tiny'), GeoAlignCLIP.create('geoalign-tiny', seed=1)
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
    with pytest.raises(GeoAlignError, match='ViT-B-16-quickgelu.openai'): load_tag('ViT-B-16.openai')


def test_activation_is_read_from_modules():
    tiny = architecture('geoalign-tiny')
    assert activation(build_clip(tiny)) == 'GELU' and activation(build_clip({**tiny, 'quick_gelu': True})) == 'QuickGELU'


@pytest.mark.parametrize('wrap', [lambda s: s, lambda s: {'state_dict': s}, lambda s: {'state_dict': {f'module.{k}': v for k, v in s.items()}}])
def test_open_clip_files_load_strictly(tmp_path, wrap):
    torch.manual_seed(5)
    clip = build_clip(architecture('geoalign-tiny')).eval()
    torch.save(wrap(clip.state_dict()), tmp_path/'w.pt')
    model = GeoAlignCLIP.from_pretrained(tmp_path/'w.pt', arch='geoalign-tiny')
    text = open_clip.tokenize(['a white plane on the apron'])
    with torch.no_grad():
        ours = model.encode_text(['a white plane on the apron'])
        theirs = torch.nn.functional.normalize(clip.encode_text(text), dim=-1)
    assert (ours - theirs).abs().max() < 1e-5


def test_weights_are_named_after_where_they_come_from(model, tmp_path):
    "random: from a seed; trained: from a training that said so; loaded: from a file that says nothing about itself"
    assert 'random weights' in repr(model) and not model.trained
    assert 'trained weights' in repr(GeoAlignCLIP.from_pretrained('geoalign-tiny'))
    torch.save(model.state_dict(), tmp_path/'some.pt')
    loaded = GeoAlignCLIP.from_pretrained(tmp_path/'some.pt', arch='geoalign-tiny')
    loaded.save_pretrained(tmp_path/'folder')
    for m in (loaded, GeoAlignCLIP.from_pretrained(tmp_path/'folder')):
        assert 'loaded weights' in repr(m) and 'trained weights' not in repr(m) and m.trained  # not known to be random


def test_wrong_architecture_says_which_keys(tmp_path):
    torch.save(build_clip(architecture('geoalign-tiny')).state_dict(), tmp_path/'w.pt')
    with pytest.raises(GeoAlignError, match='instead of|missing'): GeoAlignCLIP.from_pretrained(tmp_path/'w.pt', arch='ViT-B-16')


def test_pickles_are_not_executed(tmp_path):
    class Evil:
        def __reduce__(self): return (open, (str(tmp_path/'touched'), 'w'))
    torch.save({'a': Evil()}, tmp_path/'evil.pt')
    with pytest.raises(GeoAlignError, match='weights-only'): GeoAlignCLIP.from_pretrained(tmp_path/'evil.pt', arch='geoalign-tiny')
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


def test_config_is_plain_json(model, tmp_path):
    model.save_pretrained(tmp_path, half=True, note='x')
    assert json.loads((tmp_path/'config.json').read_text())['note'] == 'x'
