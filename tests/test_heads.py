"""Heads above frozen towers: stores, questions, the run and its stops, the exported folder."""
import dataclasses
import json
import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from geoalignclip_nb.core import GeoAlignError, Region, Sample, assets_dir
from geoalignclip_nb.data.concepts import ClassWords, holds_word, is_true_of, load_concepts, same_class
from geoalignclip_nb.data.loader import View
from geoalignclip_nb.losses.places import cells_inside
from geoalignclip_nb.model import GeoAlignCLIP
from geoalignclip_nb.scenes import make_scene, make_scenes
from geoalignclip_nb.train import heads, stores
from geoalignclip_nb.train.frozen import dense_cells, image_vectors, small_frozen_model
from geoalignclip_nb.train.head_data import BoxItem, box_items
from geoalignclip_nb.train.head_losses import Readouts, draw_regions, head_losses, mirrored, questions
from geoalignclip_nb.train.heads import HeadSettings, cosine_scale, fit_heads, load_head_settings, open_trainer
from geoalignclip_nb.train.stores import FeatureStore, Item, TextStore, fill_store, item_tensor, items_hash, load_sample_image

SMALL = HeadSettings(
    captions=['scenes:6*2'], boxes=['scenes:5'], size=64, box_size=64, caption_views=2, steps=4, warmup=1,
    caption_batch=4, bag_batch=3, box_batch=2, max_negatives=2, checkpoint_steps=2)


@pytest.fixture(scope='module')
def cache(tmp_path_factory):
    folder = tmp_path_factory.mktemp('stores')
    open_trainer(SMALL, small_frozen_model(), folder, quiet=True)
    return folder


@pytest.fixture
def trainer(cache): return open_trainer(SMALL, small_frozen_model(), cache, quiet=True)


def run(settings, out, cache):
    "Exported vectors and checkpoint of a run"
    folder = fit_heads(settings, out, 'small', small_frozen_model(), cache, quiet=True)
    return folder, torch.load(out/'heads.pt', weights_only=True)


# The run

def test_a_stopped_run_ends_like_one_that_was_not(cache, tmp_path, monkeypatch):
    _, whole = run(SMALL, tmp_path/'whole', cache)
    class Stop(Exception): pass
    def stopping(trainer, optimizer, step, losses):
        if step == 3: raise Stop  # the checkpoint of step 2 is written, step 3 is lost
        return take(trainer, optimizer, step, losses)
    take = heads.take_step
    monkeypatch.setattr(heads, 'take_step', stopping)
    with pytest.raises(Stop): run(SMALL, tmp_path/'stopped', cache)
    monkeypatch.undo()
    assert torch.load(tmp_path/'stopped'/'heads.pt', weights_only=True)['step'] == 2
    _, again = run(SMALL, tmp_path/'stopped', cache)
    assert again['step'] == whole['step'] == 4
    assert all(torch.equal(a, b) for a, b in zip(again['parameters'], whole['parameters'], strict=True))


def test_other_settings_in_the_same_folder_are_refused(cache, tmp_path):
    quick = dataclasses.replace(SMALL, steps=1)
    run(quick, tmp_path/'run', cache)
    with pytest.raises(GeoAlignError, match='other settings'): run(dataclasses.replace(quick, lr=.5), tmp_path/'run', cache)


def test_the_exported_folder_gives_the_same_vectors(cache, tmp_path):
    model = small_frozen_model()
    folder = fit_heads(dataclasses.replace(SMALL, steps=2), tmp_path/'run', 'small', model, cache, quiet=True)
    made = GeoAlignCLIP.from_pretrained(folder)
    scene = make_scene('harbour', seed=3, size=64).image
    for name, given in (('encode_image', [scene]), ('encode_text', ['two boats']), ('dense', [scene])):
        with torch.no_grad(): ours, theirs = (getattr(m, name)(given) for m in (model, made))
        assert (ours - theirs).abs().max() < 5e-3, name
    assert made.trained and made.config['ground_size'] == heads.GROUND_SIZE
    assert 'scenes:6*2' in (folder/'README.md').read_text(encoding='utf-8')


def test_the_color_scale_is_that_of_the_cells():
    readouts = Readouts()
    with torch.no_grad():
        readouts.cell_scale.fill_(2.)
        readouts.cell_bias.fill_(-1.5)
    cosines = torch.tensor(cosine_scale(readouts))
    chances = torch.sigmoid(readouts.cell_scale.exp() * cosines + readouts.cell_bias)
    torch.testing.assert_close(chances, torch.tensor([.5, .95]))


def test_only_heads_and_scales_change(trainer, tmp_path):
    before = {k: v.clone() for k, v in trainer.model.state_dict().items()}
    heads.train_heads(trainer, tmp_path, quiet=True)
    changed = {k for k, v in trainer.model.state_dict().items() if not torch.equal(v, before[k])}
    assert changed and not any('.trunk.' in k or '.transformer.' in k for k in changed)


@pytest.mark.parametrize('changes', [dict(captions=[]), dict(boxes=[])])
def test_captions_or_boxes_alone_are_enough(cache, changes):
    t = open_trainer(dataclasses.replace(SMALL, **changes), small_frozen_model(), cache, quiet=True)
    terms = head_losses(t, random.Random(0))
    assert set(terms) == ({'cell', 'name', 'hna'} if 'captions' in changes else {'global', 'mention'})


# Stores

def test_a_stopped_store_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(stores, 'BLOCK', 2)
    items, model = [Item(s, View()) for s in make_scenes(5, size=64)], small_frozen_model()
    whole = fill_store(FeatureStore(tmp_path/'whole', items, 64), model, precision='fp32')
    class Stop(Exception): pass
    def stopping(blocks):
        for number, block in enumerate(blocks):
            if number == 1: raise Stop
            yield block
    with pytest.raises(Stop): fill_store(FeatureStore(tmp_path/'part', items, 64), model, stopping, precision='fp32')
    assert json.loads((tmp_path/'part'/'done.json').read_text()) == 2
    read = []
    def reading(sample):
        read.append(sample.id)
        return load_sample_image(sample)
    part = fill_store(FeatureStore(tmp_path/'part', items, 64), model, read=reading, precision='fp32')
    assert sorted(read) == sorted(item.sample.id for item in items[2:]) and part.done == 5
    for a, b in zip(part.arrays, whole.arrays, strict=True): np.testing.assert_array_equal(a, b)


def test_stored_features_give_the_vectors_of_the_model(tmp_path):
    model = small_frozen_model()
    items = [Item(s, View()) for s in make_scenes(3, size=64)]
    store = fill_store(FeatureStore(tmp_path/'store', items, 64), model, precision='fp32')
    stores.fit_statistics(model, store)
    images = torch.stack([item_tensor(model, item, 64, load_sample_image) for item in items])
    with torch.no_grad():
        assert (image_vectors(model, store.pooled([2, 0])) - model.encode_image(images)[[2, 0]]).abs().max() < .01
        cells = F.normalize(dense_cells(model, store.levels([2, 0]), 64), dim=1)
        assert (cells - model.dense(images)[[2, 0]]).abs().max() < .01
        assert (TextStore(model)(['a pier', 'boats']) - model.encode_text(['a pier', 'boats'])).abs().max() < 1e-5


# Words

def item_of(trainer, *categories):
    "A view with one box per class, side by side"
    width = 1 / len(categories)
    boxes = [(k * width, 0., (k + 1) * width, .5) for k in range(len(categories))]
    regions = [Region(box, category=c, phrase=c) for box, c in zip(boxes, categories)]
    return BoxItem(Item(Sample(None, '', id='x'), View()), np.array(boxes), regions, 'set')


def test_a_hypernym_covers_all_classes_that_it_is_true_of(trainer):
    words = {'car': ClassWords(('car',), ('vehicle',)), 'truck': ClassWords(('truck',), ('vehicle',)), 'boat': ClassWords(('boat',))}
    trainer.concepts = dataclasses.replace(trainer.concepts, classes=words, absent={})
    trainer.boxes = dataclasses.replace(trainer.boxes, classes={'set': sorted(words)})
    item, seen = item_of(trainer, 'car', 'truck', 'boat'), set()
    for seed in range(20):
        for q in questions(item, trainer, random.Random(seed), 12):
            true = [is_true_of(q.phrase, r.category, trainer.concepts) for r in item.regions]
            assert torch.equal(q.inside, cells_inside(item.boxes[true], 12, 12))
            seen.add((q.phrase, int(q.inside.sum())))
    assert seen == {('car', 24), ('truck', 24), ('vehicle', 48), ('boat', 24)}


def test_an_absent_phrase_is_never_true_of_a_present_class(trainer):
    concepts = load_concepts()
    names = sorted(concepts.classes)
    trainer.boxes = dataclasses.replace(trainer.boxes, classes={'set': names})
    asked = 0
    for name in names:
        item = item_of(trainer, name)
        for seed in range(4):
            for q in questions(item, trainer, random.Random(seed), 8):
                true = is_true_of(q.phrase, name, concepts)
                assert bool(q.inside.any()) == true, (name, q.phrase)
                if true: continue
                asked += 1
                assert not any(same_class(n, name, concepts) for n in names if q.phrase in concepts.classes[n].phrases)
    assert asked > len(names)


def test_left_out_words_never_reach_a_text(cache, monkeypatch):
    words, given = ['plane', 'boat'], []
    settings = dataclasses.replace(SMALL, captions=[], without_words=words)
    add = TextStore.add
    def spying(self, texts, progress=None):
        given.extend(texts)
        return add(self, texts, progress)
    monkeypatch.setattr(TextStore, 'add', spying)
    t = open_trainer(settings, small_frozen_model(), cache/'without', quiet=True)
    for seed in range(10): head_losses(t, random.Random(seed))
    assert len(set(given)) > 50
    asked = [q.phrase for i in t.boxes.items for seed in range(9) for q in questions(i, t, random.Random(seed), 8)]
    boxes = [text for i in t.boxes.items for r in i.regions for text in (r.category, r.phrase, r.text, *(n for n, _ in r.negatives))]
    assert not [text for text in asked + boxes if holds_word(text, words)]
    assert not [text for text in set(given) if holds_word(text, words)]


# Boxes

def test_mirrored_boxes_match_mirrored_maps():
    rng, seen = np.random.default_rng(0), set()
    for seed in range(16):
        corner = rng.uniform(0, .5, (3, 2))
        boxes = np.concatenate([corner, corner + rng.uniform(.2, .5, (3, 2))], 1)
        item = BoxItem(None, boxes, [None] * 3, 'set')
        maps = [torch.stack([cells_inside([b], 32, 32) for b in boxes])[None]]
        levels, moved = mirrored(maps, [item], random.Random(seed))
        again = torch.stack([cells_inside([b], 32, 32) for b in moved[0].boxes])
        assert (levels[0][0] - again).abs().sum((1, 2)).max() <= 64  # a row and a column where a box ends between cells
        centers = (moved[0].boxes[:, :2] + moved[0].boxes[:, 2:]) / 2
        for cells, (x, y) in zip(levels[0][0], centers): assert cells[int(y * 32), int(x * 32)] == 1
        seen.add((bool((moved[0].boxes[:, 0] != boxes[:, 0]).all()), bool((moved[0].boxes[:, 1] != boxes[:, 1]).all())))
        assert (item.boxes == boxes).all()
    assert len(seen) == 4


def test_boxes_of_a_view_are_those_of_its_regions():
    scene = make_scene('airport apron', seed=3, size=256)
    items = list(box_items(scene, 6))
    assert min(len(i.regions) for i in items) < len(scene.regions)
    for item in items:
        assert len(item.boxes) == len(item.regions)
        window = np.array(item.item.view.window or (0, 0, 1, 1))
        if item.item.view.plain: np.testing.assert_allclose(item.boxes, [r.box for r in item.regions])
        assert (item.boxes[:, 2:] > item.boxes[:, :2]).all() and window.shape == (4,)


def test_every_class_of_an_image_is_drawn():
    scene = make_scene('harbour', seed=1, size=256)
    item = next(box_items(scene, 1))
    drawn = draw_regions([item], 2, random.Random(0))
    assert {d.region.category for d in drawn} == {r.category for r in scene.regions}
    for d in drawn: assert tuple(d.box) == pytest.approx(d.region.box)


# Settings

@pytest.mark.parametrize('call, told', [
    (lambda: load_head_settings('tiny', {'step': '1'}), "setting of heads 'step'; did you mean 'steps'"),
    (lambda: load_head_settings('tiny', {'weights.hna': '1'}), "did you mean 'weights'"),
    (lambda: load_head_settings('tiny', {'zzz': '1'}), 'choose captions, boxes, without_words'),
    (lambda: load_head_settings('tiny', {'steps': 'many'}), 'steps'),
    (lambda: load_head_settings('tny'), "did you mean 'tiny'"),
    (lambda: load_head_settings('nowhere.toml'), 'was not found'),
    (lambda: heads.caption_data(HeadSettings(captions=['scenes:x']), load_concepts(), None, ''), 'cannot be read'),
    (lambda: heads.box_data(HeadSettings(boxes=['rsodd:train']), load_concepts(), None, ''), "'rsodd' is unknown"),
])
def test_a_wrong_setting_is_told_in_one_sentence(call, told):
    with pytest.raises(GeoAlignError) as caught: call()
    assert told in str(caught.value) and '\n' not in str(caught.value)


def test_nothing_to_train_on_is_told(tmp_path):
    with pytest.raises(GeoAlignError, match='name no image'):
        open_trainer(HeadSettings(captions=[], boxes=[]), small_frozen_model(), tmp_path, quiet=True)


def test_the_bundled_model_reads_real_words_and_finds_things_in_a_scene():
    from geoalignclip_nb.ground import ground, peak
    model = GeoAlignCLIP.from_pretrained('geoalign-tiny')
    assert sum(p.numel() for p in model.parameters()) <= 31e6 and model.unknown_words(['helipad xqzzt']) == ['xqzzt']
    hits = []
    for seed in range(4):
        scene = make_scene('airport apron', seed=seed, size=256)
        x, y = peak(ground(model, scene.image, ['airplane']).maps[0])
        planes = [r.box for r in scene.regions if r.category == 'plane']
        hits.append(any(b[0] <= x <= b[2] and b[1] <= y <= b[3] for b in planes))
    assert np.mean(hits) >= .75


def test_the_log_of_a_run_can_be_read_again(cache, tmp_path):
    from geoalignclip_nb.train.run_folder import Log
    run(dataclasses.replace(SMALL, steps=1), tmp_path/'run', cache)
    rows = Log(tmp_path/'run'/'log.jsonl').read()
    assert [(r['stage'], r['step']) for r in rows] == [(2, 1)] and rows[0]['total'] > 0


def test_other_pixels_under_the_same_name_are_not_taken_from_the_store(tmp_path):
    model = small_frozen_model()
    def pooled(color, folder):
        Image.new('RGB', (64, 64), color).save(tmp_path/'a.png')
        items = [Item(Sample(tmp_path/'a.png', 'a field', id='x/a.png'), View())]
        where = tmp_path/folder/items_hash(items, 64, 'weights')
        where.parent.mkdir(exist_ok=True)
        return fill_store(FeatureStore(where, items, 64), model, precision='fp32').pooled([0])
    pooled('green', 'stores')
    assert torch.equal(pooled('red', 'stores'), pooled('red', 'fresh'))


def test_a_store_without_its_arrays_is_filled_again(tmp_path):
    model, items = small_frozen_model(), [Item(s, View()) for s in make_scenes(2, size=64)]
    whole = fill_store(FeatureStore(tmp_path/'store', items, 64), model, precision='fp32').pooled([0, 1])
    (tmp_path/'store'/'pooled.npy').unlink()
    again = fill_store(FeatureStore(tmp_path/'store', items, 64), model, precision='fp32')
    assert torch.equal(again.pooled([0, 1]), whole)


def test_damaged_text_vectors_are_one_sentence(tmp_path):
    (tmp_path/'texts.pt').write_bytes(b'12345')
    with pytest.raises(GeoAlignError, match='texts.pt is not a whole checkpoint'): TextStore(small_frozen_model()).load(tmp_path/'texts.pt')
