"""The losses of Eq 1 to 4 on one process: known answers, equal forms, edge cases."""
import json
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings, strategies as st

from geoalignclip_nb.core import GeoAlignError, asset, stable_hash
from geoalignclip_nb.losses.consistency import contrastive_consistency, textual_consistency, visual_consistency
from geoalignclip_nb.losses.contrastive import (
    DUPLICATES, MAX_LOG_SCALE, NceOptions, _Strips, as_scale, check_loss, chunked_info_nce, gather_with_grad,
    global_loss, info_nce, l2_normalize, mean_over_ranks, rank_and_world_size, rpa_loss, to_full_precision)
from geoalignclip_nb.losses.hard_negative import DIVIDE, hard_negative_loss, margins, ragged_softplus
from geoalignclip_nb.losses.objective import Objective

SCALES = dict(log_scale=2., log_scale_rpa=2., log_scale_hna=2.)


def pair(n, d=8, seed=0, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(n, d, generator=g, dtype=torch.float64).to(dtype).requires_grad_() for _ in 'ab']


def literal(a, b, scale, ids, duplicates):
    "Eq 1 in loops, without logsumexp"
    n, total = len(a), 0.
    for x, y in ((a, b), (b, a)):
        s = torch.exp(scale * F.normalize(x, dim=1) @ F.normalize(y, dim=1).T)
        for i in range(n):
            twins = [j for j in range(n) if ids[j] == ids[i]]
            bottom = sum(s[i, j] for j in range(n) if duplicates != 'mask' or j == i or j not in twins)
            good = twins if duplicates == 'multi_positive' else [i]
            total = total - sum((s[i, j] / bottom).log() for j in good) / len(good)
    return total / (2 * n)


def same_gradients(x, y, leaves, **tolerance):
    grads = [torch.autograd.grad(loss, leaves, retain_graph=True) for loss in (x, y)]
    for p, q in zip(*grads): torch.testing.assert_close(p, q, **tolerance)


# Eq 1 and Eq 2

@pytest.mark.parametrize('duplicates', DUPLICATES)
@pytest.mark.parametrize('options', [dict(), dict(chunk=3)], ids=['matrix', 'strips'])
def test_loops_and_matrix_and_strips_agree(options, duplicates):
    form = chunked_info_nce if options else info_nce
    a, b = pair(7)
    ids = torch.tensor([0, 1, 0, 2, 2, 0, 3])
    s = torch.tensor(1.7, dtype=torch.float64, requires_grad=True)
    want = literal(a, b, s.exp(), ids, duplicates)
    got = form(a, b, s, ids, duplicates=duplicates, **options)
    torch.testing.assert_close(got, want, rtol=1e-12, atol=0)
    same_gradients(got, want, (a, b, s), rtol=1e-9, atol=1e-12)
    same_gradients(3 * got, 3 * want, (a, b, s), rtol=1e-9, atol=1e-12)  # a gradient from outside is passed on


@pytest.mark.parametrize('n', [1, 2, 17])
def test_identical_items_give_log_n(n):
    x = torch.ones(n, 4)
    for s in (0., 3., 9.): assert info_nce(x, x, s).item() == pytest.approx(math.log(n), abs=1e-5)


def test_open_clip_agrees():
    ClipLoss = pytest.importorskip('open_clip.loss').ClipLoss
    a, b = map(l2_normalize, pair(9, dtype=torch.float32))
    assert info_nce(a, b, math.log(20)).item() == pytest.approx(ClipLoss()(a, b, 20.).item(), abs=1e-5)


def test_masked_twins_exert_no_push_in_either_direction():
    a, b = pair(3)
    ids = torch.tensor([5, 5, 6])
    alone = [[0, 2], [1, 2]]  # with twins masked, each sees itself and the third item only
    loss = info_nce(a, b, 1., ids)

    def log_softmax(x, y): return F.log_softmax(math.e * F.normalize(x, dim=1) @ F.normalize(y, dim=1).T, 1)
    def twins(x, y): return sum(-log_softmax(x[[i]], y[alone[i]])[0, 0] for i in (0, 1))
    third = sum(-log_softmax(x[[2]], y)[0, 2] for x, y in ((a, b), (b, a)))
    torch.testing.assert_close(loss, (twins(a, b) + twins(b, a) + third) / 6)
    torch.testing.assert_close(info_nce(b, a, 1., ids), loss)  # symmetric


def test_ids_that_never_repeat_change_nothing():
    a, b = pair(6)
    ids = torch.tensor([stable_hash(str(i)) for i in range(6)])
    for d in DUPLICATES: torch.testing.assert_close(info_nce(a, b, 2., ids, duplicates=d), info_nce(a, b, 2.))


@settings(max_examples=25, deadline=None)
@given(n=st.integers(0, 9), chunk=st.integers(1, 12), words=st.integers(1, 4), d=st.sampled_from(DUPLICATES),
       seed=st.integers(0, 99))
def test_any_strip_length_is_exact(n, chunk, words, d, seed):
    a, b = pair(n, seed=seed)
    ids = torch.randint(words, (n,), generator=torch.Generator().manual_seed(seed))
    plain = info_nce(a, b, 2., ids, duplicates=d)
    strips = chunked_info_nce(a, b, 2., ids, duplicates=d, chunk=chunk)
    torch.testing.assert_close(plain, strips)
    same_gradients(plain, strips, (a, b))


def test_strips_are_used_where_a_number_is_given(monkeypatch):
    from geoalignclip_nb.losses import contrastive
    given = []
    def strips(*args, chunk, **options): given.append(chunk)
    monkeypatch.setattr(contrastive, 'chunked_info_nce', strips)
    a, b = pair(3)
    global_loss(a, b, 1., chunk=2)
    rpa_loss(a, b, 1.)
    assert given == [2]


def chunked_rows(chunk, n=5):
    strips = _Strips(None, None, 7, 'mask', chunk)
    return [(len(range(n)[rows]), same, start) for rows, same, start in strips.of(n)]


def test_strips_cover_all_rows():
    assert chunked_rows(2) == [(2, None, 7), (2, None, 9), (1, None, 11)]
    assert chunked_rows(5) == chunked_rows(9) == [(5, None, 7)]


def test_gathering_without_a_process_group_changes_nothing():
    assert rank_and_world_size() == (0, 1)
    a, b = pair(5)
    ids = torch.tensor([0, 1, 0, 2, 1])
    assert gather_with_grad(a) is a
    assert mean_over_ranks(a.sum(), 5, gather=True) == a.sum() / 5 and mean_over_ranks(a[:0].sum(), 0) == 0
    for d in DUPLICATES:
        for texts in (ids, None):
            alone = info_nce(a, b, 1., texts, duplicates=d)
            assert info_nce(a, b, 1., texts, duplicates=d, gather=True) == alone


# Unit vectors, precision, temperature

def test_unit_vectors_and_zero_vectors():
    x = torch.tensor([[3., 4.], [0., 0.], [1e-5, 0.], [1e-7, 0.]], requires_grad=True)
    y = l2_normalize(x)
    torch.testing.assert_close(y, torch.tensor([[.6, .8], [0., 0.], [1., 0.], [1e-7, 0.]]), rtol=1e-6, atol=0)
    y.sum().backward()
    assert x.grad[1].abs().max() <= 1 and x.grad.isfinite().all()


def test_float64_stays_and_the_rest_becomes_float32():
    low, double = torch.ones(1).bfloat16(), torch.ones(1).double()
    assert [x.dtype for x in to_full_precision(low, low)] == [torch.float32] * 2
    assert [x.dtype for x in to_full_precision(low, double)] == [torch.float64] * 2


@pytest.mark.parametrize('limit', [100., 20., 1.])
def test_scale_stops_at_the_limit_and_can_come_back(limit):
    a, b = pair(4)
    top = math.log(limit)
    torch.testing.assert_close(info_nce(a, b, 50., max_scale=limit), info_nce(a, b, top, max_scale=None))
    for start, up_is_open in ((top + 1, False), (top, True), (top - 1, True)):
        s = torch.tensor(start, dtype=torch.float64, requires_grad=True)
        value = as_scale(s, a, limit)
        assert value.item() == pytest.approx(math.exp(min(start, top)))
        down, = torch.autograd.grad(value, s, retain_graph=True)
        up, = torch.autograd.grad(-value, s)
        assert down == pytest.approx(value.item()) and up == pytest.approx(-value.item() * up_is_open)


def test_the_default_limit_is_100_and_none_is_no_limit():
    a, b = pair(4)
    torch.testing.assert_close(info_nce(a, b, 50.), info_nce(a, b, MAX_LOG_SCALE))
    assert as_scale(9., a).item() == pytest.approx(100)
    assert NceOptions() == NceOptions(duplicates='mask', gather=False, max_scale=100.)
    assert as_scale(9., a, None).item() == pytest.approx(math.exp(9))
    torch.testing.assert_close(info_nce(a, b, 6., max_scale=None), literal(a, b, math.exp(6), range(4), 'mask'))


@pytest.mark.parametrize('max_scale', [None, 100., 7.])
def test_every_loss_takes_the_limit(max_scale):
    a, b = pair(4)
    limit = math.inf if max_scale is None else math.log(max_scale)
    owner = torch.arange(4)
    for log_scale in (1., 5.):
        used = min(log_scale, limit)
        losses = dict(
            strips=lambda s, m: chunked_info_nce(a, b, s, chunk=3, max_scale=m),
            hna=lambda s, m: hard_negative_loss(a, b, -b, owner, s, max_scale=m),
            htc=lambda s, m: textual_consistency(a, b, b.flip(1), s, max_scale=m),
            contrast=lambda s, m: contrastive_consistency(a, b, s, max_scale=m))
        for loss in losses.values():
            torch.testing.assert_close(loss(log_scale, max_scale), loss(used, None), rtol=1e-12, atol=1e-12)


# Promises of all losses

def objective_total(a, b):
    vectors = dict(image=a, brief=b, detailed=b, region=a, region_text=b, crop=b.flip(1))
    return Objective()(**vectors, **SCALES)['total']


def hna(a, b, divide):
    return hard_negative_loss(a, b, torch.cat([b.flip(1), -b]), torch.arange(len(a)).repeat(2), 2., divide=divide)


def named_losses():
    found = dict(vic=visual_consistency, objective=objective_total)
    for d in DUPLICATES:
        for form in (info_nce, chunked_info_nce):
            name = f'{form.__name__} {d}'
            found[name] = lambda a, b, f=form, d=d: f(a, b, 2., torch.arange(len(a)), duplicates=d)
    for d in DIVIDE: found[f'hna {d}'] = lambda a, b, d=d: hna(a, b, d)
    found['htc'] = lambda a, b: textual_consistency(a, b, b.flip(1), 2.)
    return found


LOSSES = named_losses()


@pytest.mark.parametrize('name', LOSSES)
def test_every_loss_keeps_its_promises(name): check_loss(LOSSES[name])


def broken(kind):
    "A loss that breaks one promise of `check_loss`"
    def loss(a, b):
        good = info_nce(a, b, 2.)
        if kind == 'vector': return good[None]
        if kind == 'nan': return F.mse_loss(*to_full_precision(a, b))
        if kind == 'no graph': return good.detach()
        if kind == 'precision': return good.double()
        if kind == 'one side': return info_nce(a, b.detach(), 2.)
        if kind == 'order': return good + (a[:1].sum() if len(a) else 0.)
        if kind == 'gradient': return good + (a - a).norm(dim=-1).sqrt().sum().to(good.dtype)
        raise ValueError(kind)
    return loss


@pytest.mark.parametrize('kind', ['vector', 'nan', 'no graph', 'precision', 'one side', 'order', 'gradient'])
def test_check_loss_finds(kind):
    with pytest.raises(AssertionError): check_loss(broken(kind))


def test_check_loss_looks_at_every_case():
    seen = []
    def watched(a, b):
        seen.append((len(a), a.shape[1], a.dtype))
        return info_nce(a, b, 2.)
    check_loss(watched, k=4, width=5)
    low, high = torch.bfloat16, torch.float64
    assert seen[:5] == [(4, 5, torch.float32), (4, 5, low), (4, 5, high), (1, 5, torch.float32), (0, 5, torch.float32)]
    assert seen[5:] == [(4, 5, high)] * 2


@pytest.mark.parametrize('name', LOSSES)
def test_autocast_changes_nothing(name):
    a, b = pair(5, dtype=torch.float32)
    want = LOSSES[name](a, b)
    with torch.autocast('cpu', dtype=torch.bfloat16): got = LOSSES[name](a, b)
    assert got.dtype == torch.float32 and torch.equal(got, want)


@pytest.mark.parametrize('name', LOSSES)
def test_zero_vectors_are_harmless(name):
    a, b = (torch.zeros(3, 8, requires_grad=True) for _ in 'ab')
    loss = LOSSES[name](a, b)
    loss.backward()
    assert loss.isfinite() and a.grad.isfinite().all() and a.grad.abs().max() < 1e3


# Eq 3

def test_hard_negatives_are_eq_3():
    g = torch.Generator().manual_seed(0)
    r, p, n = [torch.randn(count, 8, generator=g) for count in (3, 3, 5)]
    owner = torch.tensor([2, 0, 2, 2, 0])
    terms = {}
    for k in (0, 2):
        texts = torch.stack([p[k], *n[owner == k]])
        terms[k] = -F.log_softmax(10 * F.cosine_similarity(r[k], texts), 0)[0]
    for divide, by in (('with_negatives', 2), ('all', 3)):
        loss = hard_negative_loss(r, p, n, owner, math.log(10), divide=divide)
        torch.testing.assert_close(loss, sum(terms.values()) / by)
    order = torch.tensor([3, 0, 4, 1, 2])
    shuffled = hard_negative_loss(r, p, n[order], owner[order], 1.)
    torch.testing.assert_close(shuffled, hard_negative_loss(r, p, n, owner, 1.))


def test_fg_clip_agrees():
    "FG-CLIP's own arithmetic, for exactly ten negatives per region: cross entropy over 1 + 10 texts with label 0"
    g = torch.Generator().manual_seed(0)
    region, texts = torch.randn(6, 8, generator=g), torch.randn(6, 11, 8, generator=g)
    cosines = (F.normalize(region, dim=-1)[:, None] * F.normalize(texts, dim=-1)).sum(-1)
    theirs = F.cross_entropy(14 * cosines, torch.zeros(6, dtype=torch.long))
    negative, owner = texts[:, 1:].flatten(0, 1), torch.arange(6).repeat_interleave(10)
    ours = hard_negative_loss(region, texts[:, 0], negative, owner, math.log(14))
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize('m', [0, 1, 10, 200])
def test_negatives_equal_to_the_positive(m):
    x = torch.ones(1, 4, requires_grad=True)
    loss = hard_negative_loss(x, torch.ones(1, 4), torch.ones(m, 4), torch.zeros(m, dtype=torch.long), 9.)
    loss.backward()
    assert loss.item() == pytest.approx(math.log(1 + m), abs=1e-5) and x.grad.isfinite().all()


def test_softplus_does_not_overflow():
    d = torch.tensor([500., -500., 2., 3.], requires_grad=True)
    loss = ragged_softplus(d, torch.tensor([0, 1, 3, 3]), 4)
    want = torch.tensor([500., 0., 0., math.log(1 + math.exp(2) + math.exp(3))])
    torch.testing.assert_close(loss, want)
    loss.sum().backward()
    weights = torch.tensor([2., 3.]).exp() / (1 + math.exp(2) + math.exp(3))
    torch.testing.assert_close(d.grad, torch.tensor([1., 0., *weights.tolist()]))


def test_margins_by_hand():
    region, positive = torch.eye(2), torch.tensor([[.6, .8], [.8, .6]])
    got = margins(region, positive, torch.tensor([[0., 1.], [1., 0.]]), torch.tensor([1, 0]), 10.)
    torch.testing.assert_close(got, torch.tensor([10 * (1 - .6), 10 * (1 - .6)]))


# Eq 4

def test_visual_consistency_values_and_stopped_sides():
    a, b = pair(3)
    assert visual_consistency(a, 3 * a).item() == pytest.approx(0)
    assert visual_consistency(a, -a).item() == pytest.approx(2)
    for side, (ga, gb) in dict(none=(1, 1), region=(0, 1), crop=(1, 0)).items():
        for loss in (visual_consistency(a, b, side), contrastive_consistency(a, b, 1., side)):
            grads = torch.autograd.grad(loss, (a, b), allow_unused=True, materialize_grads=True)
            assert [int(g.abs().sum() > 0) for g in grads] == [ga, gb]
    assert visual_consistency(a, b).item() == pytest.approx(1 - F.cosine_similarity(a, b).mean().item())


def test_agreement_with_opponents():
    "Eq 4 cannot tell a shared direction from agreement; the contrastive form can, and it moves no temperature"
    g = torch.Generator().manual_seed(0)
    region, crop = torch.randn(40, 16, generator=g), torch.randn(40, 16, generator=g)
    shared = 10 * torch.randn(16, generator=g)
    assert visual_consistency(region + shared, crop + shared) < .1 < visual_consistency(region, crop)
    assert contrastive_consistency(region + shared, crop + shared, 2.) > .9 * math.log(40)
    torch.testing.assert_close(contrastive_consistency(region, crop, 2.), info_nce(region, crop, 2.))
    torch.testing.assert_close(contrastive_consistency(region, crop, 2., chunk=7), info_nce(region, crop, 2.))
    log_scale = torch.tensor(2., requires_grad=True)
    loss = contrastive_consistency(region.requires_grad_(), crop, log_scale)
    assert torch.autograd.grad(loss, log_scale, allow_unused=True) == (None,)


X = torch.zeros(3, 4)
BAD = {
    'unpaired': lambda: info_nce(X, X[:2], 1.), 'not rows': lambda: info_nce(X[0], X[0], 1.),
    'ids': lambda: info_nce(X, X, 1., torch.zeros(2)), 'duplicates': lambda: info_nce(X, X, 1., duplicates='drop'),
    'chunk': lambda: chunked_info_nce(X, X, 1., chunk=0), 'limit': lambda: info_nce(X, X, 1., max_scale=.5),
    'owner count': lambda: hard_negative_loss(X, X, X, torch.zeros(2).long(), 1.),
    'owner range': lambda: hard_negative_loss(X, X, X, torch.tensor([0, 1, 3]), 1.),
    'owner sign': lambda: hard_negative_loss(X, X, X, torch.tensor([0, 1, -1]), 1.),
    'positive': lambda: hard_negative_loss(X, X[:1], X, torch.zeros(3).long(), 1.),
    'divide': lambda: hard_negative_loss(X, X, X, torch.zeros(3).long(), 1., divide='q'),
    'hna limit': lambda: hard_negative_loss(X, X, X, torch.zeros(3).long(), 1., max_scale=0),
    'crops': lambda: visual_consistency(X, X[:2]), 'stop': lambda: visual_consistency(X, X, 'both'),
    'contrast crops': lambda: contrastive_consistency(X, X[:2], 1.)}


WORDS = {
    'unpaired': 'shapes .3, 4. and .2, 4.', 'not rows': 'two .N,D. tensors of paired rows.$',
    'ids': '2 ids for 3 pairs',
    'duplicates': "Unknown duplicates 'drop'", 'chunk': 'chunk=0',
    'limit': 'max_scale=0.5 is .* or None for no limit.$',
    'owner count': '2 owners for 3 negatives', 'owner range': 'outside 0 to 2', 'owner sign': 'outside 0 to 2',
    'positive': 'one positive per region', 'divide': "Unknown divide 'q'", 'hna limit': 'max_scale=0 ',
    'crops': 'one crop per region', 'stop': "Unknown stop_gradient 'both'", 'contrast crops': 'one crop per region'}


@pytest.mark.parametrize('name', BAD)
def test_mistakes_end_in_one_sentence(name):
    with pytest.raises(GeoAlignError, match=WORDS[name]) as e: BAD[name]()
    assert str(e.value).endswith(('.', '?')) and '\n' not in str(e.value)


def test_chunked_file_meets_its_goal():
    "The committed measurement of tests/benchmarks/chunked_contrastive.py"
    measured = json.loads(asset('results/chunked_contrastive.json').read_text())
    assert (measured['n'], measured['d']) == (16384, 512) and measured['ratio'] < .25
