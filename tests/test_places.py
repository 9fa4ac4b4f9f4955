"""Losses of places and the words behind them: known answers and the words that may be true or absent."""
import random

import pytest
import torch
import torch.nn.functional as F

from geoalignclip_nb.core import GeoAlignError
from geoalignclip_nb.data.concepts import is_true_of, known_classes, load_concepts, negative_nouns, same_class
from geoalignclip_nb.losses.places import cell_loss, cells_inside, label_loss, mention_loss, name_loss, pool_cells

CONCEPTS = load_concepts()


def test_the_soft_maximum_is_near_the_best_cell_for_any_number_of_cells():
    torch.manual_seed(0)
    texts = F.normalize(torch.randn(3, 8), dim=-1)
    for count in (16, 64, 1024):
        cells = F.normalize(torch.randn(2, count, 8), dim=-1)
        cells[0, 5] = texts[1]
        pooled = pool_cells(cells, texts, 20.)
        assert (pooled - 20 * (cells @ texts.T).amax(1)).abs().max() < 3
        assert pooled[0].argmax() == 1


@pytest.mark.parametrize('count', [16, 64, 1024])
def test_an_eighth_of_equal_cells_gives_the_maximum_itself(count):
    text, cells = torch.eye(4)[:1], -torch.eye(4)[0].expand(1, count, 4).clone()
    cells[0, :count // 8] *= -1
    assert pool_cells(cells, text, 20.).item() == pytest.approx(20, abs=1e-4)


def test_a_mention_ranks_images_and_nouns():
    scores = torch.tensor([[4., 0.], [0., 4.]], requires_grad=True)
    loss = mention_loss(scores, torch.eye(2, dtype=torch.bool))
    loss.backward()
    assert (scores.grad.diag() < 0).all() and scores.grad[0, 1] > 0 and scores.grad[1, 0] > 0
    assert mention_loss(scores, torch.ones(2, 2, dtype=torch.bool)) == 0  # nothing to be ranked against


def test_labels_are_yes_or_no_per_label():
    scores, labels = torch.tensor([[3., -3.]]), torch.tensor([[True, False]])
    assert label_loss(scores, labels) == pytest.approx(F.softplus(torch.tensor(-3.)).item())


@pytest.mark.parametrize('box', [(.1, .2, .45, .9), (.99, .99, 1, 1), (.5, .5, .501, .501)])
def test_cells_of_a_mirrored_box_are_the_mirrored_cells(box):
    x1, y1, x2, y2 = box
    inside = cells_inside([box], 8, 8)
    assert inside.sum() >= 1
    if inside.sum() > 1: assert torch.equal(cells_inside([(1 - x2, y1, 1 - x1, y2)], 8, 8), inside.flip(1))


def test_few_cells_inside_weigh_as_much_as_the_many_outside():
    inside = cells_inside([(0, 0, .25, .25)], 8, 8)[None]  # 4 of 64 cells
    logits = torch.zeros_like(inside, requires_grad=True)
    cell_loss(logits, inside).backward()
    within, outside = -logits.grad[inside > 0].sum(), logits.grad[inside == 0].sum()
    assert within / outside == pytest.approx(8 / 15, rel=.01) and within > 7 * outside / 15


def test_shapes_that_differ_are_told():
    for loss in (mention_loss, label_loss, cell_loss):
        with pytest.raises(GeoAlignError, match='one truth per score'): loss(torch.zeros(2, 3), torch.zeros(3, 2))


def test_equal_names_share_the_target():
    names = torch.eye(3)
    both = name_loss(names[:1], names, torch.tensor([[.5, .5, 0.]]), 5.)
    logits = torch.tensor([5., 0., 0.])
    assert both.item() == pytest.approx(logits.logsumexp(0).item() - 2.5)
    assert both < name_loss(names[:1], names, torch.tensor([[0., 1., 0.]]), 5.)


def test_words_of_the_concepts_agree():
    classes = sorted(CONCEPTS.classes)
    assert known_classes(['car', 'nothing', 'car'], CONCEPTS) == ['car']
    for a in classes:
        assert all(is_true_of(word, a, CONCEPTS) for word in CONCEPTS.classes[a].phrases)
        nouns = negative_nouns([a], CONCEPTS)
        assert not any(is_true_of(word, a, CONCEPTS) for n in nouns for word in CONCEPTS.nouns[n].phrases)
    for a, b in random.Random(0).choices([(a, b) for a in classes for b in classes], k=200):
        assert same_class(a, b, CONCEPTS) == same_class(b, a, CONCEPTS)
