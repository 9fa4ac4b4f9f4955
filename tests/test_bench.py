"""The benchmark pages against twins that write out what a number means, and against bad input."""
import itertools
import json
from dataclasses import asdict

import numpy as np
import pytest
import torch
from PIL import Image

from geoalignclip_nb.bench import fine_grained as fine
from geoalignclip_nb.bench import region_classification as region
from geoalignclip_nb.bench import metrics, retrieval
from geoalignclip_nb.bench.embeddings import Embedder
from geoalignclip_nb.bench import scene_classification as scene
from geoalignclip_nb.core import GeoAlignError, Region, Sample, stable_hash
from geoalignclip_nb.model import GeoAlignCLIP
from geoalignclip_nb.vision import Preprocess
from geoalignclip_nb.zoo import random_twin

WORDS = ['plane', 'ship', 'tank', 'red plane', 'blue plane', 'a plane on the left', 'a ship on the left', 'a plane on the right', 'pool', 'field']


class Colours:
    "A stand-in for the model: pictures and boxes are their mean colour, texts are fixed vectors; the arithmetic around it is what is tested"
    def __init__(self, table=None, flat=False):
        self.preprocess = Preprocess(size=32, mode='squash', mean=(0, 0, 0), std=(1, 1, 1))
        self.table, self.flat, self.texts = table or {}, flat, []
        self.device = torch.device('cpu')

    def eval(self): return self

    def unit(self, x): return torch.nn.functional.normalize(torch.ones_like(x) if self.flat else x + 1e-3, dim=-1)

    def encode_image(self, images): return self.unit(images.mean((2, 3)))

    def encode_regions(self, images, boxes):
        b = boxes.round().long().tolist()
        return self.unit(torch.stack([images[i, :, y1:y2, x1:x2].mean((1, 2)) for i, x1, y1, x2, y2 in b]))

    def encode_text(self, texts):
        self.texts += texts
        rows = [self.table.get(t) or np.random.default_rng(stable_hash(t)).uniform(0, 1, 3).tolist() for t in texts]
        return self.unit(torch.tensor(rows, dtype=torch.float32))


def colours(*a, **k): return Embedder(Colours(*a, **k), precision='fp32')


RED, GREEN, BLUE = [1., 0, 0], [0, 1., 0], [0, 0, 1.]
TABLE = {'red': RED, 'green': GREEN, 'blue': BLUE}


def picture(left, right, regions=(), id='p', **words) -> Sample:
    "Two halves of plain colour, 32 × 32"
    a = np.zeros((32, 32, 3), np.uint8)
    a[:, :16], a[:, 16:] = np.array(left) * 255, np.array(right) * 255
    return Sample(Image.fromarray(a), regions=list(regions), id=id, **words)


def place(r):  # where the truth lands when ties are written out: a list of possible ranks, equally likely
    positive, negatives = r
    greater, equal = sum(n > positive for n in negatives), sum(n == positive for n in negatives)
    return range(greater, greater + equal + 1)


LEFT, RIGHT = (0, 0, .5, 1), (.5, 0, 1, 1)


# Fine-grained choice

@pytest.mark.parametrize('seed', range(5))
def test_choice_hits_equals_double_loop(seed):
    rng = np.random.default_rng(seed)
    positive = rng.integers(0, 4, 30) / 4  # coarse steps: many ties
    owner = rng.integers(0, 30, 150)
    negative = rng.integers(0, 4, 150) / 4
    got = fine.choice_hits(positive, negative, owner, ks=(1, 2, 5))
    for k, row in enumerate(got):
        ranks = place((positive[k], [n for n, o in zip(negative, owner) if o == k]))
        assert row == pytest.approx([np.mean([r < top for r in ranks]) for top in (1, 2, 5)])


def test_choice_hits_equals_all_orders():
    positive, negatives = .5, [.5, .5, .2, .7]
    orders = [np.array(o) for o in itertools.permutations(range(5))]
    scores = np.array([positive, *negatives])
    first = np.mean([np.flatnonzero(o[np.argsort(-scores[o], kind='stable')] == 0)[0] < 3 for o in orders])
    assert fine.choice_hits([positive], negatives, [0] * 4, ks=(3,))[0, 0] == pytest.approx(first)


def test_choice_hits_of_nothing():
    assert fine.choice_hits([], [], []).shape == (0, 2)
    assert fine.choice_hits([.1], [], []).tolist() == [[1, 1]]


def negatives(*texts, kind='attribute'): return [(t, kind) for t in texts]


def test_fine_grained_by_hand():
    "Left half red, right half green: the truths are right, the near misses wrong, one region has none"
    s = picture(RED, GREEN, [Region(LEFT, 'red', 'red', negatives('green', 'blue')), Region(RIGHT, 'green', 'green', negatives('blue', kind='category')), Region(LEFT, 'blue')])
    got = fine.evaluate_hard_negatives(colours(TABLE), [s])
    assert (got.metrics, got.n, got.skipped) == (dict(acc1=100, acc5=100), 2, {'no near misses': 1})
    assert got.details['chance']['acc1'] == pytest.approx(100 * (1/3 + 1/2) / 2) and got.n_texts == 3 and got.details['negatives'] == 1.5
    json.dumps(asdict(got), allow_nan=False)
    assert {k: (v['n'], v['chance']) for k, v in got.details['kinds'].items()} == {'attribute': (1, pytest.approx(100/3)), 'category': (1, 50)}


def test_fine_grained_of_a_liar():
    s = picture(RED, GREEN, [Region(LEFT, 'green', 'green', negatives('red'))])
    for view in ('roi', 'crop'): assert fine.evaluate_hard_negatives(colours(TABLE), [s], view=view).metrics['acc1'] == 0


def test_a_silent_model_is_at_chance():
    "Every vector the same: all ties, so every accuracy is its chance (FG-CLIP's rule would say 100)"
    regions = [Region(LEFT, w, w, negatives(*(x for x in WORDS if x != w))) for w in WORDS[:3]]
    got = fine.evaluate_hard_negatives(colours(flat=True), [picture(RED, BLUE, regions)])
    assert got.metrics == pytest.approx(got.details['chance'])
    assert all(v['acc1'] == pytest.approx(v['chance']) for v in got.details['kinds'].values())


def test_distinct_texts_are_encoded_once():
    regions = [Region(LEFT, 'red', 'red', negatives('green', 'blue'))] * 5
    embed = colours(TABLE)
    fine.evaluate_hard_negatives(embed, [picture(RED, GREEN, regions)])
    assert sorted(embed.model.texts) == ['blue', 'green', 'red']


def test_limit():
    s = picture(RED, GREEN, [Region(LEFT, 'red', 'red', negatives('green', 'blue', 'pool'))])
    got = fine.evaluate_hard_negatives(colours(TABLE), [s], limit=1)
    assert got.details['negatives'] == 1 and got.details['chance']['acc1'] == 50


@pytest.mark.parametrize('samples', [[], [picture(RED, RED)], [picture(RED, RED, [Region(LEFT, 'red')])], [picture(RED, RED, [Region(LEFT, 'red', 'red', negatives('red', ''))])]])
def test_fine_grained_without_near_misses(samples):
    with pytest.raises(GeoAlignError, match='near misses'): fine.evaluate_hard_negatives(colours(), samples)


def test_near_misses_stay_with_their_text():
    r = Region(LEFT, 'white plane', 'A white plane on the left.', [('A red plane on the left.', 'attribute'), ('ship', 'category'), ('red plane', 'attribute'), ('A white plane on the right.', 'orientation')])
    sentence, phrase, both = (fine.near_misses(r, t)[1] for t in ('description', 'phrase', 'any'))
    assert [t for t, _ in sentence] == ['A red plane on the left.', 'A white plane on the right.'] and [t for t, _ in phrase] == ['ship', 'red plane']
    assert len(both) == 4


# Regions

def test_region_vectors_keep_their_order():
    "Pictures without boxes in between, batches of one: the same rows"
    samples = [picture(c, d) for c, d in itertools.product((RED, GREEN, BLUE), repeat=2)]
    boxes = [[LEFT, RIGHT], [], [RIGHT], [], [LEFT, LEFT, RIGHT], [LEFT]]
    samples, arrays = samples[:6], [np.asarray(s.image) for s in samples[:6]]
    rows = [[a[:, :16] if b == LEFT else a[:, 16:], b] for a, bs in zip(arrays, boxes) for b in bs]
    want = torch.nn.functional.normalize(torch.tensor(np.array([r[0].mean((0, 1)) / 255 + 1e-3 for r in rows]), dtype=torch.float32), dim=-1)
    for batch in (1, 2, 64):
        embed = Embedder(Colours(), precision='fp32', batch=batch)
        for view in ('roi', 'crop'): assert torch.allclose(embed.boxes(samples, boxes, view).vectors, want, atol=.02), (batch, view)


def test_boxes_that_hang_over_are_cut():
    got = colours().boxes([picture(RED, GREEN)], [[(-.5, -.2, .5, 1.2)]], 'crop').vectors
    assert got[0].argmax() == 0 and torch.isfinite(got).all()


@pytest.mark.parametrize('view', ['roi', 'crop'])
def test_one_region_of_the_bundled_size(view):
    "The real model's own path: one picture, one box"
    model = GeoAlignCLIP.from_pretrained('geoalign-tiny')
    s = picture(RED, GREEN, [Region(LEFT, 'a plane', 'a plane', negatives('a ship'), category='plane')])
    embed = Embedder(model, size=64)
    got = fine.evaluate_hard_negatives(embed, [s], view=view)
    assert got.n == 1 and got.metrics['acc1'] in (0, 50, 100) and got.ci95['acc1'] == (got.metrics['acc1'],) * 2
    got = region.evaluate_regions(embed, [s], dict(plane=['plane'], ship=['ship']), templates='plain', view=view)
    assert got.n == 1 and sum(map(sum, got.details['confusion'])) == 1


# Classes

CLASSES = dict(red=['red'], green=['green'], blue=['blue'])


def test_region_classification_by_hand():
    regions = [Region(LEFT, category='Red'), Region(RIGHT, category='green'), Region(RIGHT, category='red'), Region(LEFT, category='volcano'), Region(LEFT)]
    for view in ('roi', 'crop'):
        got = region.evaluate_regions(colours(TABLE), [picture(RED, GREEN, regions)], CLASSES, templates=['{}'], view=view)
        assert got.metrics == pytest.approx(dict(acc1=200/3, acc5=100, acc1_macro=75)) and got.view == view
        assert got.skipped == {'unknown class volcano': 1, 'unknown class (none)': 1}
        red, green = dict(n=2, acc1=50, ci95=(50, 50)), dict(n=1, acc1=100, ci95=(100, 100))  # one image: nothing varies
        assert got.details['per_class'] == dict(red=red, green=green, blue=dict(n=0, acc1=None, ci95=None))
        assert got.ci95['acc1_macro'] == (75, 75)
        assert got.details['confusion'] == [[1, 1, 0], [0, 1, 0], [0, 0, 0]] and got.details['majority'] == pytest.approx(200/3)
        json.dumps(asdict(got), allow_nan=False)


@pytest.mark.parametrize('seed', range(4))
def test_classification_result_equals_double_loop(seed):
    rng = np.random.default_rng(seed)
    scores, target, owner = rng.integers(0, 5, (40, 8)) / 5, rng.integers(0, 6, 40), rng.integers(0, 12, 40)  # ties, two classes absent
    got = region.classification_result(scores, target, owner, list('abcdefgh'))
    hits = {1: [], 5: []}
    for row, t in zip(scores, target):
        ranks = place((row[t], [s for c, s in enumerate(row) if c != t]))
        for k in hits: hits[k].append(np.mean([r < k for r in ranks]))
    assert got.metrics['acc1'] == pytest.approx(100 * np.mean(hits[1])) and got.metrics['acc5'] == pytest.approx(100 * np.mean(hits[5]))
    per = [100 * np.mean([h for h, t in zip(hits[1], target) if t == c]) for c in range(8) if c in target]
    assert got.metrics['acc1_macro'] == pytest.approx(np.mean(per)) and got.details['per_class']['h'] == dict(n=0, acc1=None, ci95=None)
    macro, own = [], {c: [] for c in range(8)}  # the bootstrap of the classes, item by item
    names, one = sorted(set(owner)), [np.mean([r < 1 for r in place((row[t], [s for c, s in enumerate(row) if c != t]))]) for row, t in zip(scores, target)]
    for times in np.random.default_rng(0).multinomial(len(names), np.full(len(names), 1 / len(names)), 1000):
        items = [k for p, m in zip(names, times) for _ in range(m) for k in range(40) if owner[k] == p]
        got_now = {c: np.mean(v) for c in range(8) if (v := [one[k] for k in items if target[k] == c])}
        for c, v in got_now.items(): own[c].append(100 * v)
        macro.append(100 * np.mean(list(got_now.values())))
    assert got.ci95['acc1_macro'] == pytest.approx(tuple(np.percentile(macro, [2.5, 97.5])))
    for c, k in enumerate('abcdefgh'):
        if own[c]: assert got.details['per_class'][k]['ci95'] == pytest.approx(tuple(np.percentile(own[c], [2.5, 97.5])))
    m = np.zeros((8, 8))
    for row, t in zip(scores, target):
        best = [c for c in range(8) if row[c] == max(row)]
        for c in best: m[t, c] += 1 / len(best)
    assert np.allclose(got.details['confusion'], m) and got.metrics['acc1'] == pytest.approx(100 * np.trace(m) / 40)
    assert got.ci95['acc1'][0] <= got.metrics['acc1'] <= got.ci95['acc1'][1]


def test_class_vectors_are_renormalised_means():
    embed = colours(TABLE)
    got = region.class_vectors(embed, dict(warm=['red', 'green'], cold=['blue']), ['{}'])
    a = embed.model.encode_text(['red', 'green']).mean(0)
    assert torch.allclose(got[0], a / a.norm()) and torch.allclose(got[1], embed.model.encode_text(['blue'])[0])


def test_only_the_empty_braces_are_replaced():
    embed = colours()
    region.class_vectors(embed, {'a': ['{0} tank']}, ['a {} {b}.'])
    assert embed.model.texts == ['a {0} tank {b}.']


@pytest.mark.parametrize('templates, says', [('nosuch', 'unknown'), ([], 'empty'), (['a plane'], 'has no {}'), (('{}', 'plane'), "'plane' has no")])
def test_bad_templates(templates, says):
    with pytest.raises(GeoAlignError, match=says): region.class_vectors(colours(), CLASSES, templates)


@pytest.mark.parametrize('classes, says', [({}, 'no class'), ({'a': []}, 'no list'), ({'a': 'plane'}, 'no list'), ({'a': ['plane'], 'b': ['Plane']}, 'share'), ({'oil_tank': ['x'], 'oiltank': ['y']}, 'share')])
def test_bad_class_lists(classes, says):
    with pytest.raises(GeoAlignError, match=says): region.class_index(classes)


@pytest.mark.parametrize('samples', [[], [picture(RED, RED)], [picture(RED, RED, [Region(LEFT, category='volcano')])]])
def test_no_region_of_a_known_class(samples):
    with pytest.raises(GeoAlignError, match='None of'): region.evaluate_regions(colours(), samples, CLASSES)


# Scenes

def test_scene_classification_by_hand():
    samples = [picture(RED, RED, id='a'), picture(GREEN, GREEN, id='b'), picture(BLUE, BLUE, id='c'), picture(RED, RED, id='d'), Sample('missing.png', id='e')]
    labels = dict(a='red', b='green', c='red', d='volcano', e='red')
    got = scene.evaluate_scenes(colours(TABLE), samples, labels, CLASSES, templates='plain')
    assert got.n == 3 and got.metrics['acc1'] == pytest.approx(200/3)
    assert got.details['confusion'] == [[1, 0, 1], [0, 1, 0], [0, 0, 0]]
    assert got.skipped == {'unknown class volcano': 1, 'unreadable picture': 1}
    got = scene.evaluate_scenes(colours(TABLE), samples, dict(a='red', c='blue', d='red'), CLASSES, templates='plain')
    assert got.metrics['acc1'] == 100 and got.skipped == {'no label': 2}


def test_labels_stay_with_their_picture():
    "An unreadable image in front does not shift the labels"
    samples = [Sample('missing.png', id='a'), picture(RED, RED, id='b')]
    got = scene.evaluate_scenes(colours(TABLE), samples, dict(a='green', b='red'), CLASSES, templates='plain')
    assert (got.n, got.metrics['acc1']) == (1, 100)


def write_ucm(root, scenes):
    (root/'imgs').mkdir()
    images = []
    for i in (1, 2, 3):
        Image.new('RGB', (8, 8)).save(root/'imgs'/f'{i}.tif')
        images.append(dict(filename=f'{i}.tif', split='val' if i > 1 else 'train', sentences=[dict(raw='There is a river .')]))
    (root/'dataset.json').write_text(json.dumps(dict(dataset='ucm', images=images)))
    if scenes is not None: (root/'labels.json').write_text(json.dumps(scenes))


def test_ucm_scenes(tmp_path):
    write_ucm(tmp_path, {'1.tif': dict(scene='river'), '2.tif': dict(scene='beach'), '3.tif': dict(scene='river')})
    samples, labels, classes = scene.ucm_scenes(tmp_path, 'val')
    assert [labels[s.id] for s in samples] == ['beach', 'river'] and len(classes) == 21


@pytest.mark.parametrize('scenes, says', [(None, 'labels.json was not found'), ({'1.tif': dict(scene='river'), '2.tif': {}}, 'no scene for 2 pictures, the first is 2.tif')])
def test_ucm_scenes_refuses(tmp_path, scenes, says):
    write_ucm(tmp_path, scenes)
    with pytest.raises(GeoAlignError, match=says): scene.ucm_scenes(tmp_path, 'val')


def test_ucm_scenes_in_the_real_file(real_data):
    samples, labels, classes = scene.ucm_scenes(real_data/'ucm_captions', 'val')
    assert len(samples) == len(labels) == 210 and set(labels.values()) == set(classes)


def test_folder_of_classes(tmp_path):
    for name in ('river', 'idle_land'):
        (tmp_path/name).mkdir()
        for i in (1, 2): Image.new('RGB', (8, 8)).save(tmp_path/name/f'{i}.png')
    (tmp_path/'README.txt').write_text('x'); (tmp_path/'river'/'notes.txt').write_text('x')
    samples, labels, classes = scene.folder_of_classes(tmp_path)
    assert list(classes.items()) == [('idle_land', ['idle land']), ('river', ['river'])] and [labels[s.id] for s in samples] == ['idle_land'] * 2 + ['river'] * 2


@pytest.mark.parametrize('make, says', [(lambda p: None, 'no class folders'), (lambda p: (p/'empty').mkdir(), 'empty holds no images')])
def test_folder_of_classes_refuses(tmp_path, make, says):
    make(tmp_path)
    with pytest.raises(GeoAlignError, match=says): scene.folder_of_classes(tmp_path)
    with pytest.raises(GeoAlignError, match='no class folders'): scene.folder_of_classes(tmp_path/'nowhere')


# Retrieval

def recall_by_hand(scores, right, k):
    "Every order of equal scores for one query at a time"
    out = []
    for s, r in zip(scores, right):
        orders = list(itertools.permutations(range(len(s))))
        out.append(np.mean([any(r[i] for i in sorted(o, key=lambda i: -s[i])[:k]) for o in orders]))
    return 100 * np.mean(out)


def test_evaluate_retrieval_by_hand():
    "A shared sentence and a shared color: ties both ways, all of them between equal rows"
    samples = [picture(RED, RED, id='a', captions=['red', 'blue']), picture(RED, RED, id='b', captions=['red']), picture(GREEN, GREEN, id='c', brief='green')]
    reddish_blue = [.1, 0, 1.]  # nearer to red than to green, so that no tie depends on rounding
    got = retrieval.evaluate_retrieval(colours(TABLE | {'blue': reddish_blue}), samples)
    assert (got.n, got.n_texts) == (3, 4)
    scores = np.array([[3, 2, 3, 1], [3, 2, 3, 1], [1, 1, 1, 3]])
    owner = np.array([0, 0, 1, 2])
    right = owner[None] == np.arange(3)[:, None]
    assert got.metrics['i2t_r1'] == pytest.approx(recall_by_hand(scores, right, 1)) and got.metrics['t2i_r1'] == pytest.approx(recall_by_hand(scores.T, right.T, 1))
    assert got.metrics['i2t_r5'] == got.metrics['t2i_r5'] == 100


def test_no_pictures():
    with pytest.raises(GeoAlignError, match='no image'): retrieval.evaluate_retrieval(colours(), [])


def test_resampling_equals_drawing_pictures_one_by_one():
    rng = np.random.default_rng(1)
    owner, values = rng.integers(0, 8, 60), rng.uniform(size=60)
    groups = [values[owner == o] for o in np.unique(owner)]
    by_hand = [np.concatenate([groups[i] for i in rng.integers(0, len(groups), len(groups))]).mean() for _ in range(4000)]
    got = metrics.resampled_means(values, owner, n=4000)[:, 0]
    assert got.mean() == pytest.approx(np.mean(by_hand), abs=4 * np.std(by_hand) / 4000**.5) and got.std() == pytest.approx(np.std(by_hand), rel=.06)


def test_intervals_hold_the_number_and_name_it():
    rng = np.random.default_rng(2)
    image = rng.normal(size=(30, 6)); text = np.repeat(image, 2, 0) + rng.normal(size=(60, 6))
    owner = np.repeat(np.arange(30), 2)
    value, limits = retrieval.retrieval_metrics(image, text, owner), retrieval.retrieval_ci(image, text, owner)
    assert value.keys() == limits.keys() and all(a <= value[k] <= b for k, (a, b) in limits.items())
    assert retrieval.retrieval_ci(image, text, owner) == limits  # the same seed, the same interval


def test_one_picture_has_an_interval_of_no_width():
    assert metrics.picture_ci([1, 0], [7, 7]) == [(.5, .5)]


def test_random_twin_is_another_model_of_the_same_shape():
    model = GeoAlignCLIP.from_pretrained('geoalign-tiny')
    a, b = random_twin(model), random_twin(model, seed=1)
    assert {k: v.shape for k, v in a.state_dict().items()} == {k: v.shape for k, v in model.state_dict().items()} and not a.trained
    name = 'clip.visual.global_head.layers.1.weight'
    assert not torch.equal(a.state_dict()[name], model.state_dict()[name]) and not torch.equal(a.state_dict()[name], b.state_dict()[name])
    assert torch.equal(a.state_dict()[name], random_twin(model).state_dict()[name])


# Ranking without the matrix

def plain_hits(image, text, owner, ks=(1, 5, 10)):
    "The whole matrix of scores, one comparison at a time"
    image, text, out = np.asarray(image, float), np.asarray(text, float), []
    for queries, candidates, is_right in ((image, text, lambda q, c: owner[c] == q), (text, image, lambda q, c: owner[q] == c)):
        rows = []
        for q, v in enumerate(queries):
            scored = [(float(v @ w), is_right(q, c)) for c, w in enumerate(candidates)]
            best = max(s for s, r in scored if r)
            above, own, other = (sum(s > best for s, _ in scored), sum(s == best and r for s, r in scored), sum(s == best and not r for s, r in scored))
            rows.append([np.mean([any(place < k for place in places) for places in itertools.combinations(range(above, above + own + other), own)]) for k in ks])
        out.append(np.array(rows))
    return out


def whole_numbers(rng, n, m, d=3): return rng.integers(-1, 2, (n, d)).astype(np.float32), rng.integers(-1, 2, (m, d)).astype(np.float32)  # products are exact, ties everywhere


@pytest.mark.parametrize('seed', range(3))
@pytest.mark.parametrize('size', [(1, 1), (3, 4), (5, 1000), (1000, 2), (512, 4096)])
def test_blocks_of_any_size_rank_like_the_plain_loops(seed, size):
    rng = np.random.default_rng(seed)
    image, text = whole_numbers(rng, 11, 30)
    owner = np.concatenate([np.arange(11), rng.integers(0, 11, 19)]); rng.shuffle(owner)
    want, got = plain_hits(image, text, owner), metrics.retrieval_hits(image, text, owner, size=size)
    for a, b in zip(want, got): assert np.allclose(a, b, atol=1e-12)
    assert (want[0] % 1 > 0).any() and (want[1] % 1 > 0).any()  # there are ties to be broken


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int64])
def test_number_formats_rank_alike(dtype):
    rng = np.random.default_rng(5)
    image, text = whole_numbers(rng, 9, 27)
    owner = np.arange(27) % 9
    want, got = metrics.retrieval_hits(image, text, owner), metrics.retrieval_hits(torch.from_numpy(image).to(dtype), torch.from_numpy(text).requires_grad_(), torch.from_numpy(owner))
    for a, b in zip(want, got): assert np.array_equal(a, b)


@pytest.mark.parametrize('m', [5, 63, 64, 65, 700])
def test_identical_sentences_tie_whatever_the_product_does(m):
    "One sentence under all pictures, vectors of odd numbers: a picture finds one of its own by chance alone"
    rng = np.random.default_rng(m)
    image, text = rng.normal(size=(m, 37)), np.tile(rng.normal(size=37), (m, 1))
    i2t, t2i = metrics.retrieval_hits(image, text, np.arange(m), ks=(1, 5), size=(16, 7))
    assert np.allclose(i2t, [1 / m, 5 / m]) and t2i.sum() == pytest.approx(6, abs=1e-9)  # the sentences' ranks of distinct pictures are 0 ... m-1


def test_identical_pictures_tie():
    rng = np.random.default_rng(0)
    image = np.tile(rng.normal(size=37), (40, 1)); text = rng.normal(size=(80, 37))
    assert np.allclose(metrics.retrieval_hits(image, text, np.arange(80) % 40, ks=(1, 5), size=(7, 16))[1], [1 / 40, 5 / 40])


def test_signs_of_zero_do_not_part_twins():
    got = metrics.distinct_rows(np.array([[0., 1], [-0., 1]]))
    assert len(got[0]) == 1 and got[2].tolist() == [2]


def test_random_vectors_rank_like_the_matrix():
    rng = np.random.default_rng(3)
    image = rng.normal(size=(60, 24)).astype(np.float32); text = np.repeat(image, 3, 0) + rng.normal(size=(180, 24)).astype(np.float32) * 2
    owner = np.repeat(np.arange(60), 3)
    right = owner[None] == np.arange(60)[:, None]
    scores = image.astype(float) @ text.T.astype(float)
    for size in ((512, 4096), (7, 11)):
        i2t, t2i = metrics.retrieval_hits(image, text, owner, size=size)
        assert np.array_equal(i2t, metrics.hits_at(scores, right)) and np.array_equal(t2i, metrics.hits_at(scores.T, right.T))


def test_own_picture_alone_counts():
    "Strict: the same sentence under another picture is wrong, at the same score"
    i2t, t2i = metrics.retrieval_hits(np.eye(3), np.array([[1, 0, 0], [1, 0, 0], [0, 0, 1.]]), [0, 1, 2], ks=(1, 2))
    assert i2t.tolist() == [[.5, 1], [pytest.approx(1/3), pytest.approx(2/3)], [1, 1]] and t2i.tolist() == [[1, 1], [0, .5], [1, 1]]


@pytest.mark.parametrize('image, text, owner, says', [
    (np.eye(2), np.eye(2), [0], '1 owners for 2'), (np.eye(2), np.eye(3), [0, 1, 1], 'shape'), (np.eye(2), np.eye(2), [0, 0], 'Picture 1 has no sentence'), (np.eye(2), np.eye(2), [0, 2], 'picture 2'),
    (np.eye(2), np.eye(2), [0, -1], 'picture'), (np.eye(2) * np.nan, np.eye(2), [0, 1], 'pictures is not finite'), (np.eye(2), np.full((2, 2), np.inf), [0, 1], 'sentences is not finite'), (np.ones(2), np.eye(2), [0, 1], 'shape'),
    (np.eye(2), np.zeros((0, 2)), [], 'no sentence')])
def test_retrieval_refuses(image, text, owner, says):
    with pytest.raises(GeoAlignError, match=says): metrics.retrieval_hits(image, text, owner)


def test_a_diverged_model_wins_nothing():
    with pytest.raises(GeoAlignError, match='not a number'): metrics.hits_at(np.full((2, 3), np.nan), np.eye(2, 3, dtype=bool))
    with pytest.raises(GeoAlignError, match='Query 1'): metrics.hits_at(np.ones((2, 2)), [[1, 0], [0, 0]])


# Average precision

def precision_by_hand(scores, right):
    "The mean over every order of the file"
    found = []
    for order in itertools.permutations(range(len(scores))):
        ranked = [right[i] for i in sorted(order, key=lambda i: -scores[i])]
        found.append(np.mean([sum(ranked[:n + 1]) / (n + 1) for n, r in enumerate(ranked) if r]))
    return np.mean(found)


@pytest.mark.parametrize('seed', range(8))
def test_average_precision_is_the_mean_over_all_orders(seed):
    rng = np.random.default_rng(seed)
    scores, right = rng.integers(0, 3, 6) / 2, rng.integers(0, 2, 6)
    right[seed % 6] = 1
    assert metrics.average_precision(scores, right) == pytest.approx(precision_by_hand(scores, right), abs=1e-12)
    order = rng.permutation(6)
    assert metrics.average_precision(scores[order], right[order]) == pytest.approx(metrics.average_precision(scores, right), abs=1e-12)


def test_average_precision_by_hand():
    assert metrics.average_precision([3, 2, 1], [1, 0, 1]) == pytest.approx((1 + 2/3) / 2)
    assert metrics.average_precision([1, 1, 1, 1], [1, 1, 1, 1]) == 1
    assert metrics.average_precision([-np.inf, 5], [1, 0]) == .5
    for bad, says in (([[1, 2], [0, 0]], 'No item'), ([[np.nan, 1], [1, 0]], 'not a number')):
        with pytest.raises(GeoAlignError, match=says): metrics.average_precision(*bad)


def test_mean_average_precision_counts_what_it_leaves_out():
    scores, right = np.array([[3, 2], [1, 1], [1, 2]]), np.array([[0, 1], [0, 0], [0, 1]])
    assert metrics.mean_average_precision(scores, right) == dict(map=75., n=2, skipped={'nothing right': 1})
    with pytest.raises(GeoAlignError, match='check the labels'): metrics.mean_average_precision(scores, right * 0)


def test_recalls_are_the_same_under_autocast():
    rng = np.random.default_rng(0)
    unit = lambda x: x / np.linalg.norm(x, axis=1, keepdims=True)
    image = unit(rng.normal(size=(300, 16))).astype(np.float32)
    text, owner = unit(np.repeat(image, 5, 0) + rng.normal(size=(1500, 16)) * .3).astype(np.float32), np.repeat(np.arange(300), 5)
    want = metrics.retrieval_metrics(image, text, owner)
    with torch.autocast('cpu', torch.bfloat16): assert metrics.retrieval_metrics(image, text, owner) == want


# Protocols of others

def test_skyscript_merges_captions_and_accepts_every_image_that_has_one():
    "Both images have the first caption; strictly each of them wins half of the ties, merged both are right"
    prefix = retrieval.SKYSCRIPT_PREFIX
    assert prefix == 'a satellite image. '
    table = {prefix + 'red': RED, prefix + 'blue': BLUE, 'red': RED, 'blue': BLUE}
    samples = [picture(RED, RED, id='a', captions=['red', 'red']), picture(RED, RED, id='b', captions=['red', 'blue'])]
    strict = retrieval.evaluate_retrieval(colours(table), samples)
    embed = colours(table)
    merged = retrieval.evaluate_retrieval(embed, samples, 'skyscript')
    assert sorted(embed.model.texts) == [prefix + 'blue', prefix + 'red']
    assert (strict.n, strict.n_texts, merged.n, merged.n_texts) == (2, 4, 2, 2)
    assert merged.metrics['i2t_r1'] == 100 and merged.metrics['t2i_r1'] == pytest.approx(75)  # 'blue' ties between two images
    assert strict.metrics['i2t_r1'] == pytest.approx(100 * (2/3 + 1/3) / 2) and strict.metrics['t2i_r1'] == 50
    assert merged.ci95.keys() == merged.metrics.keys()


def test_merged_hits_equal_a_double_loop():
    rng = np.random.default_rng(4)
    image, text = rng.normal(size=(7, 5)), rng.normal(size=(9, 5))
    right = rng.random((7, 9)) < .3
    right[np.arange(7), np.arange(7)] = right[0, 7:] = True
    got = retrieval.merged_hits(image, text, right, ks=(1, 3))
    scores = image @ text.T
    for j, k in enumerate((1, 3)):
        assert got.i2t[:, j].tolist() == [float(right[i, np.argsort(-scores[i])[:k]].any()) for i in range(7)]
        assert got.t2i[:, j].tolist() == [float(right[np.argsort(-scores[:, u])[:k], u].any()) for u in range(9)]
    assert all(right[i, u] for u, i in enumerate(got.owner))


class Unnormalized:
    "An embedder whose texts have lengths of their own"
    table = {'a': [3., 0.], 'b': [0., 1.], 'c': [0., 2.]}
    def texts(self, texts, normalize=True):
        vectors = torch.tensor([self.table[t] for t in texts])
        return torch.nn.functional.normalize(vectors, dim=-1) if normalize else vectors


def test_class_vectors_of_rs5m_by_hand():
    "Mean before and after the vectors are brought to unit length: (3, 1) / √10 against (1, 1) / √2"
    classes = dict(x=['a', 'b'], y=['c'])
    assert torch.allclose(region.class_vectors(Unnormalized(), classes, 'plain')[0], torch.tensor([1., 1.]) / 2**.5)
    assert torch.allclose(region.class_vectors(Unnormalized(), classes, 'plain', 'rs5m')[0], torch.tensor([3., 1.]) / 10**.5)
    with pytest.raises(GeoAlignError, match='average of class vectors'): region.class_vectors(Unnormalized(), classes, 'plain', 'median')


def test_vectors_before_normalization_have_the_same_direction():
    embed = Embedder(GeoAlignCLIP.create('geoalign-debug', seed=0))
    raw = embed.texts(['a plane', 'a ship', 'a plane'], normalize=False)
    assert torch.equal(raw[0], raw[2]) and (raw.norm(dim=1) - 1).abs().min() > .01
    assert torch.allclose(torch.nn.functional.normalize(raw, dim=-1), embed.texts(['a plane', 'a ship', 'a plane']), atol=1e-6)


# One embedder

def test_crops_of_training_ablation_and_command_line_are_equal(tmp_path, monkeypatch):
    "One box, three callers, the same vector to 1e-6; wide images, so that a squashed copy would show"
    from geoalignclip_nb.bench import embeddings, evaluation, runs, validation
    from geoalignclip_nb.data.loader import ImageCache
    from geoalignclip_nb.scenes import make_scenes
    from geoalignclip_nb.study import ablation
    monkeypatch.setenv('GEOALIGN_CACHE', str(tmp_path/'cache'))
    model, samples = GeoAlignCLIP.create('geoalign-debug', seed=0), []
    for i, s in enumerate(make_scenes(3, size=256)):
        wide = s.image.resize((512, 256))
        wide.save(tmp_path/f'{i}.png')
        samples.append(Sample(str(tmp_path/f'{i}.png'), s.brief, id=str(i), regions=s.regions, captions=[s.brief]))
    caught, real = [], embeddings._crop
    monkeypatch.setattr(embeddings, '_crop', lambda *a: caught.append(real(*a).vectors) or real(*a))
    images = ImageCache(samples)
    size = model.preprocess.size
    evaluation.evaluate(model, evaluation.BenchSet('x', '', samples, ablation.short_classes(samples)), 'region_classification', evaluation.Settings(view='crop', precision='fp32'))
    ablation.measure_row(model, {'x': images}, ablation.InputSizes(size, size), 'fp32')
    embed = validation.Embedder(model, precision='fp32', size=size, read=images.read)
    embed.boxes(images.samples, [[r.box for r in s.regions] for s in images.samples], 'crop')
    assert len(caught) >= 4 and all(torch.allclose(v, caught[0], atol=1e-6) for v in caught)
    box, image = samples[0].regions[0].box, Image.open(samples[0].image).convert('RGB')
    x1, y1, x2, y2 = (v * n for v, n in zip(box, (512, 256) * 2))
    cut = image.crop((int(np.floor(x1 + 1e-3)), int(np.floor(y1 + 1e-3)), int(np.ceil(x2 - 1e-3)), int(np.ceil(y2 - 1e-3))))
    assert torch.allclose(caught[0][0], model.encode_image([cut])[0], atol=1e-5)


def test_validation_gives_the_numbers_of_the_evaluators(tmp_path, monkeypatch):
    from geoalignclip_nb.bench.validation import validate
    from geoalignclip_nb.data.loader import ImageCache
    from geoalignclip_nb.scenes import make_scenes
    monkeypatch.setenv('GEOALIGN_CACHE', str(tmp_path))
    model, samples = GeoAlignCLIP.create('geoalign-debug', seed=0), make_scenes(4, size=128)
    got, embed = validate(model, ImageCache(samples), 64, 'fp32'), Embedder(model, precision='fp32', size=64)
    assert {k: got[k] for k in ('i2t_r1', 'mean_recall')} == {k: retrieval.evaluate_retrieval(embed, samples).metrics[k] for k in ('i2t_r1', 'mean_recall')}
    assert got['near_miss_acc1'] == fine.evaluate_hard_negatives(embed, samples, text='any').metrics['acc1']
    assert got['n_regions'] == sum(len(s.regions) for s in samples) and 'region_acc1' in got
    assert 'region_acc1' not in validate(model, ImageCache([Sample(s.image, s.brief, id=s.id) for s in samples]), 64, 'fp32')


def test_unknown_words_are_noted_once_with_a_count(recwarn):
    model = GeoAlignCLIP.from_pretrained('geoalign-tiny')
    samples = [picture(RED, GREEN, id=str(i), captions=['a xqzzt', f'a wvkkq {i}', 'a plane']) for i in range(4)]
    embed = Embedder(model, batch=2)
    got = retrieval.evaluate_retrieval(embed, samples)
    note, = [n for n in got.notes if 'cannot read' in n]
    assert note.startswith('5 of 6 distinct texts') and 'xqzzt' in note and 'wvkkq' in note
    assert not [w for w in recwarn if 'cannot read' in str(w.message)]


def pointing_folder(folder, n=4):
    "A COCO folder of procedural scenes"
    from geoalignclip_nb.scenes import make_scenes
    (folder/'images').mkdir(parents=True)
    coco = dict(images=[], annotations=[], categories=[])
    names = []
    for i, scene in enumerate(make_scenes(n, seed=11, size=96)):
        scene.image.save(folder/'images'/f'{i}.png')
        coco['images'].append(dict(id=i, file_name=f'{i}.png', width=96, height=96))
        for region in scene.regions:
            if region.category not in names: names.append(region.category)
            x1, y1, x2, y2 = (v * 96 for v in region.box)
            coco['annotations'].append(dict(id=len(coco['annotations']), image_id=i, category_id=names.index(region.category),
                                            bbox=[x1, y1, x2 - x1, y2 - y1]))
    coco['categories'] = [dict(id=i, name=name) for i, name in enumerate(names)]
    (folder/'annotations.json').write_text(json.dumps(coco))
    return folder


def test_pointing_on_own_boxes(tmp_path, capsys):
    "The command gives the metrics of an independent count, beside chance and the center"
    from geoalignclip_nb.cli import main
    from geoalignclip_nb.ground import ground
    from geoalignclip_nb.model import GeoAlignCLIP
    root = pointing_folder(tmp_path/'own')
    out = tmp_path/'r.json'
    assert main(['bench', 'pointing', '--dataset', 'coco', '--root', str(root), '--out', str(out)]) == 0
    result = json.loads(out.read_text())
    coco, model = json.loads((root/'annotations.json').read_text()), GeoAlignCLIP.from_pretrained('geoalign-tiny')
    names = [c['name'] for c in coco['categories']]
    hits, areas = [], []
    for image in coco['images']:
        boxes = {}
        for a in coco['annotations']:
            if a['image_id'] == image['id']: boxes.setdefault(names[a['category_id']], []).append(a['bbox'])
        maps = ground(model, root/'images'/image['file_name'], list(boxes), method='similarity').maps
        for heat, own in zip(maps, boxes.values()):
            row, column = divmod(int(heat.argmax()), heat.shape[1])
            x, y = (column + .5) / heat.shape[1] * 96, (row + .5) / heat.shape[0] * 96
            hits.append(any(bx <= x <= bx + w and by <= y <= by + h for bx, by, w, h in own))
    assert abs(result['metrics']['pointing_game'] - 100 * sum(hits) / len(hits)) < 1e-6 and result['n'] == len(hits)
    assert set(result['metrics']) == {'pointing_game', 'energy_in_box', 'auroc'} == set(result['ci95'])
    assert 0 < result['details']['chance'] < 100 and 'image_center' in result['details'] and result['resolution'] == 512
    assert 'image center' in capsys.readouterr().out


def test_pointing_without_boxes_is_one_sentence(tmp_path, capsys):
    from geoalignclip_nb.cli import main
    root = pointing_folder(tmp_path/'own', 1)
    coco = json.loads((root/'annotations.json').read_text())
    (root/'annotations.json').write_text(json.dumps(coco | dict(annotations=[])))
    assert main(['bench', 'pointing', '--dataset', 'coco', '--root', str(root)]) == 2
    assert capsys.readouterr().err.count('\n') == 1
