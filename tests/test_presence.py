"""Presence: comparisons that no scale changes, thresholds that keep what they promise, and what `ground` says with and without a calibration."""
import json
import math
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from geoalignclip_nb.core import GeoAlignError, Region, Sample
from geoalignclip_nb.ground import frame_of, ground
from geoalignclip_nb.model import GeoAlignCLIP
from geoalignclip_nb.presence import (BANK, EVIDENCE, POOLED, Calibration, Presence, Scorer, Threshold, bank_vectors, calibration_of, conformal_threshold, evidence, fit_scorer,
                                      group_thresholds, image_evidence, presence)
from geoalignclip_nb.bench.transfer_sets import BOX_WORDS
from geoalignclip_nb.study.absence import (FAR, CalibrationSettings, Pair, PairTable, calibrate, collect_pairs, coverage_report, labelled_images, labelled_pairs, scene_pairs,
                                           separation, separations, write_calibration)

ANYTHING = Scorer([0.] * 4, [1.] * 4, [1.] * 4, 0.)


def noise(width=96, height=64, seed=0): return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8))


@pytest.fixture(scope='module')
def untouched(): return GeoAlignCLIP.create('vit-tiny')


@pytest.fixture
def model(untouched):
    "One model for all tests; a calibration is taken away after each"
    yield untouched
    untouched.presence = None


def calibrated(model, **thresholds):
    "The model with a threshold per phrase; `pooled` is the one of all others"
    pooled = Threshold(thresholds.pop('pooled', .5), 100)
    found = {POOLED: pooled} | {phrase: Threshold(value, 60) for phrase, value in thresholds.items()}
    model.presence = json.loads(json.dumps(dict(calibration=Calibration(ANYTHING, found, .1, frame_of(model).size).to_dict())))
    return model


# ---- comparisons ----------------------------------------------------------------------------------------------------------------

def test_comparisons_by_hand():
    maps = torch.zeros(3, 2, 2)
    maps[0] = torch.tensor([[.5, .1], [.1, .1]])
    maps[1, 0, 0], maps[2, 0, 0] = .3, .1  # the bank at the best cell of the phrase
    image = torch.tensor([.4, .2, .1])
    (found,) = evidence(maps, image, torch.tensor([[False, False]])).tolist()
    level, spread = (.5 - .2) / .1, .1  # the bank's peaks are .3 and .1: mean .2, standard deviation .1
    own = maps[0].flatten().double()
    assert found == pytest.approx([level, (.5 - .3) / spread, float((.5 - own.mean()) / own.std(correction=0)), (.4 - .15) / .05], rel=1e-3)
    (close,) = evidence(maps, image, torch.tensor([[True, False]])).tolist()
    assert close[1] == pytest.approx((.5 - .1) / spread, rel=1e-3), 'a name that means the same does not compete'
    assert close[:1] + close[2:] == found[:1] + found[2:]


@pytest.mark.parametrize('factor, constant', [(.1, 0), (1, .3), (.5, -.2)])
def test_the_scale_of_the_cosines_does_not_matter(factor, constant):
    random = torch.Generator().manual_seed(1)
    maps, image = torch.randn(25, 9, 9, generator=random), torch.randn(25, generator=random)
    close = torch.rand(5, 20, generator=random) < .1
    torch.testing.assert_close(evidence(maps * factor + constant, image * factor + constant, close), evidence(maps, image, close), atol=1e-3, rtol=1e-3)


def test_one_cell_and_equal_cosines_stay_finite():
    assert evidence(torch.ones(4, 1, 1), torch.ones(4), torch.zeros(2, 2, dtype=torch.bool)).isfinite().all()


def test_one_pass_gives_the_vectors_of_the_model(model):
    "The comparisons from the model's own methods are those of `image_evidence`"
    from geoalignclip_nb.ground import cosines, similarity
    words = ['white plane', 'road']
    with torch.no_grad():
        images, text = model.to_tensor([noise(64, 64)]), model.encode_text(words)
        both = torch.cat([text, bank_vectors(model)])
        close = torch.zeros(2, len(BANK), dtype=torch.bool).scatter_(1, cosines(text, bank_vectors(model)).topk(len(BANK) // 10).indices, True)
        expected = evidence(similarity(model, images, both), cosines(model.encode_image(images), both)[0], close)
    calls = []
    hook = model.clip.visual.register_forward_pre_hook(lambda *a: calls.append(1))
    try: found = image_evidence(model, noise(64, 64), words)
    finally: hook.remove()
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-3, rtol=1e-3)
    assert found.shape == (2, len(EVIDENCE)) and len(calls) <= 1
    with torch.no_grad(): np.testing.assert_allclose(image_evidence(model, noise(64, 64), model.encode_text(words)), found, atol=1e-5)


def test_the_bank_is_encoded_again_when_weights_change():
    model = GeoAlignCLIP.create('vit-tiny')
    before = bank_vectors(model)
    assert bank_vectors(model) is before
    with torch.no_grad():
        for p in model.parameters(): p.add_(.01 * torch.randn_like(p))
    assert not torch.equal(bank_vectors(model), before)


def test_the_bank_warns_of_nothing():
    model = GeoAlignCLIP.create('vit-tiny')
    model.keep_tokens(torch.zeros(49408, dtype=torch.bool))
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        bank_vectors(model)
    assert model.warned == set(), 'the user is still told about a word of the bank'


# ---- thresholds -----------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('n, alpha, rank', [(9, .1, 9), (19, .1, 18), (99, .1, 90), (100, .1, 91), (29, .1, 27), (3, .25, 3), (1, .5, 1)])
def test_the_rank_of_the_threshold(n, alpha, rank):
    "Of n scores the one of rank ceil((n + 1)(1 - alpha)) from above"
    scores = np.random.default_rng(n).permutation(n).astype(float)
    assert conformal_threshold(scores, alpha) == n - rank


@pytest.mark.parametrize('n, alpha, need', [(8, .1, 9), (0, .1, 9), (18, .05, 19)])
def test_too_few_present_phrases(n, alpha, need):
    with pytest.raises(GeoAlignError, match=f'give at least {need}'): conformal_threshold(np.zeros(n), alpha)
    conformal_threshold(np.zeros(need), alpha)


@pytest.mark.parametrize('alpha', [0, 1, -1, math.nan])
def test_alpha_is_a_share(alpha):
    with pytest.raises(GeoAlignError, match='share'): conformal_threshold(np.zeros(50), alpha)


@pytest.mark.parametrize('alpha', [.05, .1, .3])
@pytest.mark.parametrize('shape', ['normal', 'heavy', 'ties'])
def test_exchangeable_scores_are_covered(alpha, shape):
    rng = np.random.default_rng(0)
    scores = dict(normal=lambda: rng.normal(size=2000), heavy=lambda: rng.standard_cauchy(2000), ties=lambda: rng.integers(0, 5, 2000).astype(float))[shape]()
    coverage = []
    for _ in range(20):
        drawn = rng.permutation(scores)
        coverage.append((drawn[1000:] >= conformal_threshold(drawn[:1000], alpha)).mean())
    assert np.mean(coverage) >= 1 - alpha - .02
    if shape != 'ties': assert np.mean(coverage) <= 1 - alpha + .02


@pytest.mark.parametrize('n', [9, 20, 50])
def test_small_calibrations_cover_too(n):
    "The promise is about the mean over calibrations: (k/(n+1)) for any n"
    rng = np.random.default_rng(n)
    expected = math.ceil((n + 1) * .9 - 1e-9) / (n + 1)
    coverage = [(rng.normal(size=200) >= conformal_threshold(rng.normal(size=n))).mean() for _ in range(2000)]
    assert np.mean(coverage) == pytest.approx(expected, abs=.01) and expected >= .9


def test_groups_have_thresholds_of_their_own():
    rng = np.random.default_rng(0)
    scores = np.concatenate([rng.normal(3, size=500), rng.normal(0, size=500), rng.normal(-3, size=20)])
    found = group_thresholds(scores, ['Car'] * 500 + ['boat'] * 500 + ['van'] * 20)
    assert set(found) == {POOLED, 'car', 'boat'} and (found['car'].n, found[POOLED].n) == (500, 1020)
    assert found['car'].value > found[POOLED].value > rng.normal(-3) and found['boat'].value < found['car'].value
    more = group_thresholds(np.concatenate([scores, np.full(40, 7.)]), ['car'] * 500 + ['boat'] * 500 + ['van'] * 20 + ['bus'] * 40)
    assert more[POOLED] == Threshold(conformal_threshold(np.concatenate([scores[1000:], np.full(40, 7.)])), 60), 'the phrases without a threshold of their own'
    assert group_thresholds(scores, ['van'] * 1020, group_size=2000).keys() == {POOLED}


def test_the_scorer_is_a_logistic_regression():
    rng = np.random.default_rng(0)
    features, present = rng.normal([5, -3, 0, 100], [1, 2, 1, 30], (600, 4)), np.arange(600) < 100
    features[present, 0] += 3
    scorer = fit_scorer(features, present)
    scores = scorer(features)
    assert scorer.weight[0] > 5 * max(map(abs, scorer.weight[1:])) and ((0 < scores) & (scores < 1)).all()
    assert (scores[present] > .5).mean() == pytest.approx((scores[~present] < .5).mean(), abs=.06), 'both kinds count equally'
    np.testing.assert_allclose(fit_scorer(features * 10 + 3, present)(features * 10 + 3), scores, atol=1e-3)
    with pytest.raises(GeoAlignError, match='some of both'): fit_scorer(features, present & False)


# ---- what ground says -----------------------------------------------------------------------------------------------------------

def test_found_and_not_found(model):
    phrases = ['road', 'Plane', 'boat']
    r = ground(calibrated(model, pooled=.0, plane=1.), noise(), phrases)
    assert r.found == [True, False, True] and [p.n for p in r.presence] == [100, 60, 100] and [p.phrase for p in r.presence] == phrases
    scores = ANYTHING(image_evidence(model, noise(), phrases))
    np.testing.assert_allclose([p.score for p in r.presence], scores, atol=1e-4)
    d = json.loads(json.dumps(r.to_dict(), allow_nan=False))
    assert d['found'] == [True, False, True] and d['threshold'] == [0, 1, 0] and d['coverage'] == .9
    assert d['presence'] == pytest.approx(scores.tolist(), abs=1e-4)
    assert r._repr_markdown_().count('not found') == 1


@pytest.mark.parametrize('method', ['similarity', 'contrast', 'gradcam'])
def test_presence_does_not_depend_on_the_method(model, method):
    calibrated(model)
    assert [p.score for p in ground(model, noise(), ['road', 'boat'], method=method).presence] == pytest.approx([p.score for p in presence(model, noise(), ['road', 'boat'])], abs=1e-5)


def test_without_a_calibration_nothing_is_said(model):
    assert presence(model, noise(), 'road') == [Presence('road', None, None, None, None, 0)]
    assert ground(model, noise(), ['road', 'boat']).found == [None, None]


def test_another_frame_or_another_bank_is_not_calibrated(model):
    calibrated(model)
    assert ground(model, noise(), 'road').found != [None] and ground(model, noise(), 'road', size=64).found == [None]
    model.presence['calibration']['bank'] += 1
    assert calibration_of(model, frame_of(model).size) is None


@pytest.mark.parametrize('harm', [lambda c: c.pop('scorer'), lambda c: c.pop('thresholds'), lambda c: c['thresholds'].pop(POOLED), lambda c: c.update(more=1), lambda c: c.update(thresholds=[1])])
def test_a_damaged_calibration_is_one_sentence(model, harm):
    harm(calibrated(model).presence['calibration'])
    with pytest.raises(GeoAlignError, match='calibrate'): ground(model, noise(), 'road')


def test_the_model_folder_holds_the_calibration(model, tmp_path):
    calibrated(model, pooled=.25).save_pretrained(tmp_path/'a')
    assert not (tmp_path/'a'/'presence.json').exists(), 'weights that were trained on need a calibration of their own'
    assert write_calibration(model.presence, tmp_path/'a') == tmp_path/'a'/'presence.json'
    again = GeoAlignCLIP.from_pretrained(tmp_path/'a')
    assert again.presence['checkpoint'] and ground(again, noise(), 'road').presence[0].threshold == .25
    (tmp_path/'a'/'presence.json').write_text('{')
    with pytest.raises(GeoAlignError, match='presence.json of a'): GeoAlignCLIP.from_pretrained(tmp_path/'a')


def test_no_heat_where_nothing_was_found(model):
    r = ground(calibrated(model, pooled=0., boat=1.), noise(), ['road', 'boat'])
    from matplotlib.figure import Figure
    hidden, shown = r.show(fig=Figure()), r.show(fig=Figure(), show_absent=True)
    assert (np.asarray(hidden[1].images[0].get_array()) == np.asarray(noise())).all() and hidden[1].get_title() == 'boat · not found' and not hidden[1].lines
    assert (np.asarray(hidden[0].images[0].get_array()) == np.asarray(shown[0].images[0].get_array())).all() and hidden[0].lines
    assert (np.asarray(shown[1].images[0].get_array()) != np.asarray(noise())).any() and 'not found' not in shown[1].get_title()


# ---- labelled images and the report ---------------------------------------------------------------------------------------------

def test_absent_are_only_the_classes_of_the_set():
    region = Region((.1, .1, .4, .4), category='overpass')
    pairs = labelled_pairs(Sample('a.jpg', regions=[region], id='rsod/a.jpg', source='rsod'))
    words = BOX_WORDS['rsod']['overpass']
    assert {p.phrase for p in pairs if p.present} == {'overpass', *words.synonyms, words.hypernym}
    assert {p.phrase for p in pairs if p.kind == 'name' and not p.present} == {'aircraft', 'oil tank', 'playground'}
    assert {p.phrase for p in pairs if p.kind == 'far'} == set(FAR) and all(not p.present for p in pairs if p.kind == 'far')
    everything = {word for classes in BOX_WORDS.values() for w in classes.values() for word in (w.name, *w.synonyms)}
    assert not everything & set(FAR)


def test_a_hypernym_is_asked_once():
    regions = [Region((.1, .1, .4, .4), category=c) for c in ('car', 'truck', 'van')]
    pairs = labelled_pairs(Sample('a.jpg', regions=regions, id='vedai/a.jpg', source='vedai'))
    assert [p.phrase for p in pairs].count('vehicle') == 1


def test_scenes_know_what_they_hold():
    for sample, pairs in labelled_images('scenes', None, 'train', 6):
        assert pairs == scene_pairs(sample) and {p.phrase for p in pairs if p.present} <= set(sample.phrases) and any(not p.present for p in pairs)


def table(n=2000, gap=2.):
    "n pairs of n/4 images, one in four absent, with scores `gap` apart"
    rng = np.random.default_rng(0)
    pairs = [Pair(str(i // 4), 'rsod', ('aircraft', 'jet', 'overpass', 'aircraft')[i % 4], ('name', 'kin', 'name', 'name')[i % 4], i % 4 != 3) for i in range(n)]
    found = PairTable(pairs, np.zeros((n, 4)))
    return found, rng.normal(size=n) + gap * found.column('present')


def test_separation_by_hand():
    scores, present = np.array([.9, .8, .7, .6, .1, .85, .2, .05]), np.array([1, 1, 1, 1, 1, 0, 0, 0], bool)
    found = separation(scores, present)
    assert found == dict(auroc=pytest.approx((1 * 3 + 3 * 2 + 1) / 15), false_alarms=pytest.approx(1 / 3), n_present=5, n_absent=3)


def test_separations_are_of_names_and_by_set():
    t, scores = table()
    found = separations(t, scores)
    assert found['pooled'] == found['rsod'] and found['pooled']['n_present'] == 1000 and 'far' not in found
    assert found['macro']['n_phrases'] == 1 and found['pooled']['auroc'] == pytest.approx(.92, abs=.03)


def test_coverage_is_counted_on_images_that_gave_no_threshold():
    t, scores = table()
    found = coverage_report(t, scores)
    assert found['splits'] == 20 and found['coverage']['mean'] == pytest.approx(.9, abs=.02) and found['kin_lost']['mean'] == pytest.approx(.1, abs=.03)
    assert set(found['kin']) == {'jet'} and found['kin']['jet']['n'] == 20 * 250
    assert coverage_report(t, scores, seed=0) == found != coverage_report(t, scores, seed=1)


def test_calibrate_a_random_model(model, tmp_path):
    "Any model can be calibrated; scores that know nothing have the promised coverage and no separation"
    result = calibrate(model, CalibrationSettings(sources=('scenes',), limit=10))
    json.dumps(result, allow_nan=False)
    assert result['n'] == dict(scenes=10) and .2 < result['report']['separation']['pooled']['auroc'] < .85
    assert result['report']['coverage']['coverage']['mean'] == pytest.approx(.9, abs=.1)
    model.presence = json.loads(write_calibration(result, tmp_path/'a.json').read_text())
    assert presence(model, noise(), 'road')[0].found in (True, False)


def test_real_sets(real_data):
    for source, n in dict(rsod=3, vedai=3).items():
        images = labelled_images(source, real_data, 'val', n)
        assert len(images) == n and all(any(p.present for p in pairs) for _, pairs in images)
    found = collect_pairs(GeoAlignCLIP.create('vit-tiny'), images[:1])
    assert found.features.shape == (len(images[0][1]), 4)


def test_mistakes():
    with pytest.raises(GeoAlignError, match='Unknown Set'): labelled_images('dota', None, 'val', 1)
    with pytest.raises(GeoAlignError, match='neither'): write_calibration({}, 'a.txt')
