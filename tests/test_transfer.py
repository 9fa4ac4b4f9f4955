"""Transfer: known maps give known numbers, no metric rewards a model that does not read, and a run loses nothing."""
import json

import numpy as np
import pytest
import torch
from PIL import Image

from geoalignclip_nb.bench.embeddings import Embedder
from geoalignclip_nb.bench.holdouts import (HOLDOUTS, LEFT_OUT_WORDS, kept_row, measure_models,
                                            parse_settings, run_transfer, transfer_table, word_metrics)
from geoalignclip_nb.bench.transfer import (Ask, TransferSettings, ask_image, auroc, blind_maps, chance_recall,
                                            check_sets, map_scores, mean_auroc, measure_maps, measure_regions,
                                            measure_transfer, phrase_maps)
from geoalignclip_nb.bench.transfer_sets import (AIRBUS_FOILS, AIRBUS_WORDS, BOX_WORDS, PHRASE_KINDS, RSOD_WORDS,
                                                 SCALES, SCENE_WORDS, TRANSFER_SETS, SetPhrase, TransferSet, at_scale,
                                                 inner_boxes, set_phrases, read_window, scene_set, stuff_masks, tile_set,
                                                 transfer_set, ucm_objects)
from geoalignclip_nb.core import GeoAlignError, Region, Sample, asset
from geoalignclip_nb.data.concepts import holds_word
from geoalignclip_nb.ground import ground
from geoalignclip_nb.model import GeoAlignCLIP
from geoalignclip_nb.scenes import make_scene
from geoalignclip_nb.train.head_data import without_words

QUICK = TransferSettings(sets=('scenes',), scales=('native',), captions=(), limit=3, stuff=False, baselines=False)


@pytest.fixture(scope='module')
def model(): return GeoAlignCLIP.create('geoalign-debug', seed=0)


@pytest.fixture(scope='module')
def scenes(): return scene_set(6, size=128)


def image(*boxes, size=(80, 80), name='a'):
    "An image with boxes (category, box)"
    return Sample(Image.new('RGB', size), regions=[Region(box, category=c) for c, box in boxes], id=name)


def phrase(text, *classes): return SetPhrase(text, frozenset(classes))


def dot(x, y, cells=8, height=1.):
    "A map with one high cell"
    heat = np.zeros((cells, cells), np.float32)
    heat[y, x] = height
    return heat


def test_names_are_the_training_words_and_the_rest_is_not():
    written = {r.phrase.rpartition(' ')[2] for seed in range(30) for r in make_scene(seed=seed, size=64).regions}
    for words in SCENE_WORDS.values(): assert not written & {*words.synonyms, words.hypernym}
    for words in BOX_WORDS.values():
        names = {w.name for w in words.values()}
        for w in words.values(): assert w.synonyms and not names & {*w.synonyms, w.hypernym}


def test_a_hypernym_names_all_classes_below_it():
    data = TransferSet('x', [], BOX_WORDS['vedai'])
    vehicles = next(p for p in set_phrases(data, 'hypernyms') if p.text == 'vehicle')
    assert vehicles.classes == {'car', 'pickup', 'van', 'camping car', 'truck', 'tractor'}


def test_a_scene_has_boxes_for_more_than_twelve_things_and_knows_what_is_absent(scenes):
    assert max(len(s.regions) for s in scene_set(15, size=64).samples) > 12
    for s in scenes.samples: assert not scenes.absent[s.id] & {r.category for r in s.regions}


def test_the_scene_of_the_set_is_the_scene_of_make_scene():
    own = scene_set(1, seed=7, size=128).samples[0]
    kind, _, seed = own.id.rpartition('-')
    other = make_scene(kind, int(seed), 128)
    assert {r.box for r in other.regions} <= {r.box for r in own.regions}


def test_masks_of_stuff_agree_with_the_pixels():
    bridge = next(s for s in scene_set(9, size=128).samples if s.id.startswith('bridge'))
    masks, pixels = stuff_masks(bridge, 128), np.asarray(bridge.image).astype(float)
    blue = pixels[..., 2] - pixels[..., 0]
    assert blue[masks['water']].mean() > blue[~masks['water']].mean() + 10
    assert pixels[masks['trees']].mean() < pixels[~masks['trees']].mean()


@pytest.mark.parametrize('kind', PHRASE_KINDS)
def test_maps_are_those_of_ground(model, scenes, kind):
    texts = [p.text for p in set_phrases(scenes, kind)][:5]
    with torch.no_grad(): text = model.encode_text(texts)
    images = [s.image for s in scenes.samples[:2]]
    for picture, maps in zip(images, phrase_maps(model, images, text)):
        np.testing.assert_allclose(maps, ground(model, picture, texts).maps, atol=1e-5)


def test_one_pass_per_image_for_all_phrases(model, scenes):
    calls = []
    hook = model.clip.visual.transformer.resblocks[0].register_forward_hook(lambda m, a, out: calls.append(len(out)))
    try:
        with torch.no_grad(): text = model.encode_text(['a', 'b', 'c', 'd'])
        phrase_maps(model, [s.image for s in scenes.samples], text)
    finally: hook.remove()
    assert calls == [6]


def test_coarse_things_are_half_as_large_and_fine_things_twice():
    picture = Image.new('RGB', (80, 80))
    picture.paste((255, 0, 0), (40, 20, 60, 40))
    data = TransferSet('x', [Sample(picture, regions=[Region((.5, .25, .75, .5), category='car')], id='a')], {})
    for scale, pixels in zip(SCALES, (20, 10, 20)):
        view = at_scale(data, scale)
        sample = view.samples[0]
        shown = np.asarray(read_window(view, sample)).astype(int)
        x1, y1, x2, y2 = np.round(np.array(sample.regions[0].box) * np.tile(shown.shape[1::-1], 2)).astype(int)
        assert (x2 - x1, y2 - y1) == (pixels, pixels)
        assert shown[(y1 + y2) // 2, (x1 + x2) // 2, 0] > 200
    assert np.asarray(read_window(at_scale(data, 'fine'), data.samples[0])).shape == (40, 40, 3)


def test_maps_of_the_inner_part_get_boxes_of_the_inner_part(scenes):
    coarse = at_scale(scenes, 'coarse')
    for whole, shown in zip(scenes.samples, coarse.samples):
        for a, b in zip(whole.regions, inner_boxes(coarse, shown).regions): np.testing.assert_allclose(a.box, b.box)
    kinds = {'names': set_phrases(scenes)}
    native, small = (measure_maps(d, blind_maps(), kinds)['image center']['names'].metrics for d in (scenes, coarse))
    assert native['pointing_game'] == small['pointing_game']


def test_a_class_that_the_window_cuts_is_neither_present_nor_absent():
    words = {c: SCENE_WORDS[c] for c in ('car', 'house', 'boat')}
    data = TransferSet('x', [image(('house', (.05, .05, .15, .15)), ('car', (.4, .1, .7, .2)))], words)
    tile = tile_set(data, 2).samples[0]
    kept = tile_set(data, 2)
    assert [r.category for r in tile.regions] == ['house']
    np.testing.assert_allclose(tile.regions[0].box, (.1, .1, .3, .3))
    assert kept.absent_classes(tile) == {'boat'}


def test_tiles_cover_the_image(scenes):
    tiles = tile_set(scenes, 2)
    pixels = sum(np.prod(s.image.size) for s in tiles.samples)
    assert pixels == sum(np.prod(s.image.size) for s in scenes.samples)


def test_questions_to_a_known_map():
    sample = image(('car', (0, 0, .25, .25)), name='s')
    phrases = [phrase('car', 'car'), phrase('boat', 'boat'), phrase('house', 'house')]
    maps = np.stack([dot(1, 1), dot(0, 0, height=.5), dot(7, 7)])
    asks = ask_image(maps, phrases, sample, {'boat'})  # a house is neither present nor absent
    assert [(a.phrase, a.present) for a in asks] == [(1, False), (0, True)]
    car = asks[1]
    assert car.hit and car.decoy and car.peak == 1 and car.energy > .6


def test_energy_is_counted_above_the_minimum():
    sample = image(('car', (0, 0, .5, 1)))
    flat = np.full((1, 8, 8), .3, np.float32)
    tilted = flat + np.linspace(.2, 0, 8, dtype=np.float32)
    for maps, low, high in ((flat, 0, 0), (tilted, .7, .9)):
        assert low <= ask_image(maps, [phrase('car', 'car')], sample, set())[0].energy <= high


@pytest.mark.parametrize('seed', range(5))
def test_auroc_is_the_share_of_ordered_pairs(seed):
    rng = np.random.default_rng(seed)
    a, b = rng.integers(0, 5, 9), rng.integers(0, 5, 7)
    pairs = [(x > y) + .5 * (x == y) for x in a for y in b]
    assert auroc(a, b) == pytest.approx(100 * np.mean(pairs))


def test_a_phrase_that_is_always_high_does_not_raise_the_mean_auroc():
    scores = np.array([.9, .9, .1, .1])
    present = np.array([True, False, True, False])
    assert mean_auroc(scores, present, np.array([0, 0, 1, 1])) == 50


def test_scores_of_known_answers():
    asks = [Ask(0, 0, .9, True, True, .5, False), Ask(1, 0, .8, True, False, .3, True), Ask(2, 0, .1, False),
            Ask(0, 1, .7, True, True, .1, False), Ask(1, 1, .75, False)]
    found = map_scores(asks, [phrase('car', 'car'), phrase('boat', 'boat')])
    assert found.metrics['pointing_game'] == pytest.approx(200 / 3)
    assert found.metrics['pointing_game_macro'] == pytest.approx(75)
    assert found.metrics['pointing_absent'] == pytest.approx(100 / 3)
    assert found.metrics['energy_in_box'] == pytest.approx(30)
    assert found.metrics['auroc'] == pytest.approx(50)  # car 100, boat 0
    assert (found.n_present, found.n_absent) == (3, 2)


def test_maps_that_do_not_read_the_phrase_gain_nothing(scenes):
    kinds = {'names': set_phrases(scenes)}
    found = measure_maps(scenes, blind_maps(), kinds)
    center = found['image center']['names'].metrics
    assert center['pointing_absent'] == pytest.approx(center['pointing_game'], abs=15)
    assert center['auroc'] == center['auroc_pooled'] == 50


def test_a_model_that_knows_every_box_is_always_right(scenes):
    kinds = {'names': set_phrases(scenes)}
    by_pixels = {s.image.tobytes(): s for s in scenes.samples}

    def oracle(images, total):
        for picture in images:
            sample = by_pixels[picture.tobytes()]
            maps = np.zeros((total, 128, 128), np.float32)
            for p, asked in enumerate(kinds['names']):
                for r in sample.regions:
                    if r.category not in asked.classes: continue
                    x1, y1, x2, y2 = (np.array(r.box) * 128).clip(0, 127).astype(int)
                    maps[p, y1 + 1:max(y2, y1 + 2), x1 + 1:max(x2, x1 + 2)] = 1
            yield maps
    scores = measure_maps(scenes, {'oracle': oracle}, kinds)['oracle']['names'].metrics
    assert scores['pointing_game'] > 95 and scores['energy_in_box'] > 85 and scores['auroc'] == 100


def test_regions_compete_with_foils_and_synonyms_take_turns(model):
    picture = make_scene(seed=1, size=96).image
    sample = Sample(picture, regions=[Region((0, 0, .5, .5), category='airplane')], id='a')
    found = measure_regions(Embedder(model), TransferSet('airbus', [sample], AIRBUS_WORDS, AIRBUS_FOILS))
    assert found['names']['chance'] == pytest.approx(100 / 7)
    assert set(found['synonyms']['per_class']) == {'aircraft', 'plane', 'jet'}
    assert found['hypernyms']['per_class'].keys() == {'flying machine'}


def test_chance_of_recall_is_that_of_random_vectors():
    from geoalignclip_nb.bench.metrics import retrieval_metrics
    rng = np.random.default_rng(0)
    means = []
    for _ in range(20):
        vectors = rng.standard_normal((60, 8)), rng.standard_normal((300, 8))
        means.append(retrieval_metrics(*vectors, np.repeat(np.arange(60), 5))['mean_recall'])
    assert np.mean(means) == pytest.approx(chance_recall(60, 300), abs=1)


def test_settings_are_checked_before_a_model_is_asked(monkeypatch, tmp_path):
    monkeypatch.setenv('GEOALIGN_DATA', str(tmp_path))
    with pytest.raises(GeoAlignError, match='rsod'): check_sets(TransferSettings(sets=('rsod',), captions=()))
    with pytest.raises(GeoAlignError, match='scale'): check_sets(TransferSettings(sets=(), scales=('half',)))
    with pytest.raises(GeoAlignError, match='did you mean'): parse_settings(dict(limits='3'))


def test_words_are_found_whole_and_in_the_plural():
    assert holds_word('two minibuses', ['minibus']) and holds_word('The VAN.', ['van'])
    assert not holds_word('advantage of a planet', ['van', 'plane'])


def test_holdouts_leave_out_what_they_say():
    for name in TRANSFER_SETS:
        case = HOLDOUTS[f'without-{name}']
        assert name not in case.sources and case.left_out == (name,) and len(case.sources) == 3
    case = HOLDOUTS['without-words']
    for words in (RSOD_WORDS['aircraft'], RSOD_WORDS['overpass'], BOX_WORDS['vedai']['van'], AIRBUS_WORDS['airplane']):
        for text in (words.name, *words.synonyms): assert holds_word(text, LEFT_OUT_WORDS), text
    box, negatives = (0, 0, 1, 1), [('van', 'category'), ('boat', 'category')]
    regions = [Region(box, 'white aircraft'), Region(box, 'car', negatives=negatives), Region(box, 'jetty')]
    left = without_words(Sample(None, regions=regions), case.words).regions
    assert [r.phrase for r in left] == ['car', 'jetty'] and left[0].negatives == [('boat', 'category')]


def test_a_run_that_stopped_goes_on(tmp_path):
    trained = []

    def fit(holdout, seed):
        if len(trained) == 2: raise KeyboardInterrupt
        trained.append((holdout.name, seed))
        return GeoAlignCLIP.create('geoalign-debug', seed=seed)
    with pytest.raises(KeyboardInterrupt):
        run_transfer(fit, tmp_path, ['all', 'without-words'], [0, 1], QUICK, quiet=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ['all-0.json', 'all-1.json']
    trained.pop()
    rows = run_transfer(fit, tmp_path, ['all', 'without-words'], [0], QUICK, quiet=True)
    assert trained == [('all', 0), ('without-words', 0)]
    assert rows[1]['holdout']['words'] == list(LEFT_OUT_WORDS)
    assert '| words: pointing game |  | **' in transfer_table(rows)


def test_a_kept_result_has_the_same_settings_and_weights(tmp_path):
    path = tmp_path/'a.json'
    assert kept_row(path, QUICK) == {}
    path.write_text('{"task": "transfer"', encoding='utf-8')
    assert kept_row(path, QUICK) == {}
    path.write_text(json.dumps(dict(task='transfer', settings={}, checkpoint='x')), encoding='utf-8')
    with pytest.raises(GeoAlignError, match='settings'): kept_row(path, QUICK)


def test_the_result_says_what_it_depends_on(model, tmp_path):
    result = measure_transfer(model, QUICK)
    wanted = ('task dataset split n model checkpoint resolution context_length resize_mode precision metrics ci95 '
              'seconds device versions seed')
    assert set(wanted.split()) <= set(result) and result['task'] == 'transfer' and result['n'] == 3
    again = measure_transfer(model, QUICK)
    assert again['metrics'] == result['metrics']
    json.dumps(result, allow_nan=False)


def test_the_command_measures_and_keeps(tmp_path, capsys):
    from geoalignclip_nb.cli import main
    words = ['transfer', '--out', str(tmp_path), 'sets=scenes', 'scales=native', 'captions=', 'stuff=false', 'limit=2',
             'baselines=false']
    assert main(words) == 0
    first = capsys.readouterr().out
    assert first.startswith('| percent | geoalign-tiny |')
    files = {p: p.stat().st_mtime_ns for p in tmp_path.iterdir()}
    assert main(words) == 0 and capsys.readouterr().out == first
    assert {p: p.stat().st_mtime_ns for p in tmp_path.iterdir()} == files
    assert main(['transfer', '--out', str(tmp_path), '--fit', 'nothing:here']) == 2
    assert main(['transfer', '--out', str(tmp_path), 'limit=3', *words[3:7]]) == 2


def test_the_committed_baseline_is_whole():
    before = json.loads(asset('results/transfer_tiny.json').read_text())
    assert before['task'] == 'transfer' and before['model'] == 'geoalign-tiny'
    for name in TRANSFER_SETS:
        for kind in PHRASE_KINDS: assert f'{name}/native/{kind}/acc1_macro' in before['metrics']
    assert {'image center', 'random', 'random weights', 'commonest class'} == set(before['baselines'])
    assert word_metrics(before, LEFT_OUT_WORDS)


def test_real_sets(real_data):
    counts = {name: len(transfer_set(name, limit=5).samples) for name in BOX_WORDS}
    assert counts == dict(rsod=5, vedai=5, airbus=5)
    labels = ucm_objects(real_data/'ucm_captions')
    assert labels.shown.shape == (210, 17) and 'bare soil' in labels.names
