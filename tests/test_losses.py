"""The losses on one process: known answers, equal forms, edge cases, settings."""
import inspect
import json
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings, strategies as st

from geoalignclip_nb.core import GeoAlignError, asset, stable_hash
from geoalignclip_nb.losses.consistency import contrastive_consistency, textual_consistency, visual_consistency
from geoalignclip_nb.losses.contrastive import (
    DUPLICATES, MAX_LOG_SCALE, NceOptions, as_scale, check_loss, chunked_info_nce, global_loss, info_nce, l2_normalize,
    rpa_loss, to_full_precision, _Strips)
from geoalignclip_nb.losses.hard_negative import DIVIDE, hard_negative_loss, margins, ragged_softplus
from geoalignclip_nb.losses.objective import (
    SETTING_TERMS, WEIGHTS, Objective, active_parts, named_weights, parse_loss_weights, region_outputs, require_outputs,
    unused_settings, unused_weights, with_htc)

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


def output(b=4, k=5, counts=(3, 0, 1, 0, 2), d=8, seed=0):
    "What the model returns, with random vectors"
    g = torch.Generator().manual_seed(seed)
    owner = torch.tensor([i for i in range(k) for _ in range(counts[i])], dtype=torch.long)
    sizes = dict.fromkeys(('image', 'brief', 'detailed'), b)
    sizes |= dict.fromkeys(('region', 'region_text', 'crop', 'hna_text'), k)
    sizes['negative'] = len(owner)
    out = {name: torch.randn(n, d, generator=g).requires_grad_() for name, n in sizes.items()}
    scales = dict(log_scale=2., log_scale_rpa=2.5, log_scale_hna=3.)
    out |= {name: torch.tensor(v, requires_grad=True) for name, v in scales.items()}
    ids = dict(brief_id=torch.arange(b), detailed_id=torch.arange(b), region_text_id=torch.arange(k))
    return out | ids | dict(negative_owner=owner)


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


# Unit vectors, precision, temperature

def test_unit_vectors_and_zero_vectors():
    x = torch.tensor([[3., 4.], [0., 0.], [1e-5, 0.], [1e-7, 0.]], requires_grad=True)
    y = l2_normalize(x)
    torch.testing.assert_close(y, torch.tensor([[.6, .8], [0., 0.], [1., 0.], [1e-7, 0.]]))
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
    assert as_scale(9., a).item() == pytest.approx(100) and NceOptions().max_scale == 100
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
    out = output()
    for stop, moved in (('none', (True, True)), ('crop', (True, False)), ('region', (False, True))):
        parts = Objective(agreement='contrast', stop_gradient=stop)(**out)
        inputs = out['region'], out['crop'], out['log_scale_rpa']
        grads = torch.autograd.grad(parts['vic'], inputs, allow_unused=True)
        assert tuple(x is not None for x in grads) == (*moved, False)


# HTC: each caption with its own ids and weight

def repeated_captions():
    "An output whose brief captions repeat in another pattern than its detailed captions"
    return output() | dict(brief_id=torch.tensor([0, 0, 1, 2]), detailed_id=torch.tensor([0, 1, 2, 1]))


@pytest.mark.parametrize('duplicates', ['mask', 'multi_positive'])
def test_each_caption_has_its_own_ids(duplicates):
    out = repeated_captions()
    parts = Objective(duplicates=duplicates)(**out)
    image, scale = out['image'], out['log_scale']
    brief = info_nce(image, out['brief'], scale, out['brief_id'], duplicates=duplicates)
    detailed = info_nce(image, out['detailed'], scale, out['detailed_id'], duplicates=duplicates)
    torch.testing.assert_close(parts['htc_brief'], brief)
    torch.testing.assert_close(parts['htc_detailed'], detailed)
    torch.testing.assert_close(parts['htc'], brief + detailed)
    ids = dict(brief_id=out['brief_id'], detailed_id=out['detailed_id'])
    whole = textual_consistency(image, out['brief'], out['detailed'], scale, **ids, duplicates=duplicates)
    torch.testing.assert_close(whole, parts['htc'])
    assert detailed != info_nce(image, out['detailed'], scale, out['brief_id'], duplicates=duplicates)


def test_htc_has_two_weights():
    out = output()
    parts = Objective(dict(htc_brief=2, htc_detailed=3), rpa=False, hna=False, vic=False)(**out)
    assert list(parts) == ['htc_brief', 'htc_detailed', 'htc', 'total']
    torch.testing.assert_close(parts['total'], 2 * parts['htc_brief'] + 3 * parts['htc_detailed'])
    assert parse_loss_weights(dict(htc=.5)) == WEIGHTS | dict(htc_brief=.5, htc_detailed=.5)
    assert parse_loss_weights(dict(htc_detailed=2, htc=.5)) == WEIGHTS | dict(htc_brief=.5, htc_detailed=2.)
    assert with_htc({'rpa': 1.}) == {'rpa': 1.}
    assert with_htc(dict(htc_brief=1., htc_detailed=2.))['htc'] == 3


# Objective

def test_objective_is_the_weighted_sum():
    out = output()
    objective = Objective()
    parts = objective(**out)
    assert list(parts) == ['rpa', 'hna', 'vic', 'htc_brief', 'htc_detailed', 'htc', 'total']
    torch.testing.assert_close(parts['total'], sum(WEIGHTS[k] * parts[k] for k in objective.names))
    torch.testing.assert_close(parts['rpa'], rpa_loss(out['region'], out['region_text'], out['log_scale_rpa']))
    assert list(Objective(stage=1)(**out)) == ['global', 'total']
    doubled = Objective(dict(global_=2), htc=False)(**out)
    torch.testing.assert_close(doubled['global'], global_loss(out['image'], out['brief'], out['log_scale']))
    want = 2 * doubled['global'] + .1 * doubled['rpa'] + .5 * doubled['hna'] + .5 * doubled['vic']
    torch.testing.assert_close(doubled['total'], want)


def test_all_five_terms_of_eq_5():
    out = output()
    literal_form = Objective(dict(global_=7), literal_total=True)
    assert literal_form.names == tuple(WEIGHTS)
    parts = literal_form(**out)
    torch.testing.assert_close(parts['global'], parts['htc_brief'])
    torch.testing.assert_close(parts['total'], Objective()(**out)['total'] + 7 * parts['global'])


def test_every_row_of_table_6_has_a_global_term():
    rows = {'': 'global', 'rpa': 'global rpa', 'rpa vic': 'global rpa vic', 'rpa vic hna': 'global rpa hna vic',
            'rpa vic htc': 'rpa vic htc_brief htc_detailed', 'rpa vic hna htc': 'rpa hna vic htc_brief htc_detailed'}
    for on, names in rows.items():
        switches = {k: k in on.split() for k in ('rpa', 'hna', 'vic', 'htc')}
        assert ' '.join(Objective(**switches).names) == names
        assert ' '.join(active_parts(2, **switches)) == names


def test_temperatures_are_separate_or_shared():
    out = output()
    Objective()(**out)['total'].backward()
    assert all(out[k].grad != 0 for k in out if k.startswith('log_scale'))
    out = output()
    Objective(shared_scale=True)(**out)['total'].backward()
    assert out['log_scale'].grad != 0 and out['log_scale_rpa'].grad is None and out['log_scale_hna'].grad is None


@pytest.mark.parametrize('name', ['rpa', 'hna', 'vic'])
def test_every_region_term_reads_its_own_inputs(name):
    out = output()
    parts = Objective(agreement='contrast')(**out)
    rpa = rpa_loss(out['region'], out['region_text'], out['log_scale_rpa'], out['region_text_id'])
    hard = out['hna_text'], out['negative'], out['negative_owner']
    hna = hard_negative_loss(out['region'], *hard, out['log_scale_hna'])
    vic = contrastive_consistency(out['region'], out['crop'], out['log_scale_rpa'])
    torch.testing.assert_close(parts[name], dict(rpa=rpa, hna=hna, vic=vic)[name])


def test_hna_has_its_own_positive():
    out = output()
    own = Objective()(**out)
    without = Objective()(**{**out, 'hna_text': None})
    same = Objective()(**{**out, 'hna_text': out['region_text']})
    assert own['hna'] != without['hna'] and torch.equal(without['hna'], same['hna'])
    assert torch.equal(own['rpa'], without['rpa'])
    grads = torch.autograd.grad(own['hna'], (out['hna_text'], out['region_text']), allow_unused=True)
    assert grads[0] is not None and grads[1] is None


def test_texts_that_repeat_count_in_rpa():
    out = output() | dict(region_text_id=torch.tensor([0, 1, 0, 2, 1]))
    for d in DUPLICATES:
        want = info_nce(out['region'], out['region_text'], 2.5, out['region_text_id'], duplicates=d)
        torch.testing.assert_close(Objective(duplicates=d)(**out)['rpa'], want)


@pytest.mark.parametrize('setting, term', [
    (dict(divide='all'), 'hna'), (dict(max_scale=5.), 'rpa'), (dict(max_scale=5.), 'hna'),
    (dict(max_scale=5.), 'htc_brief'),
    (dict(duplicates='none'), 'rpa'), (dict(agreement='contrast'), 'vic')])
def test_settings_reach_their_term(setting, term):
    out = repeated_captions() | dict(region_text_id=torch.tensor([0, 1, 0, 2, 1]))
    assert Objective(**setting)(**out)[term] != Objective()(**out)[term]


def test_strips_of_the_objective():
    out = repeated_captions() | dict(region_text_id=torch.tensor([0, 1, 0, 2, 1]))
    plain, strips = (Objective(agreement='contrast', chunk=chunk)(**out) for chunk in (None, 2))
    for name in plain: torch.testing.assert_close(plain[name], strips[name])


def test_each_term_says_whether_it_is_gathered():
    for gather in (False, True):
        assert all(Objective(gather=gather).gathers(name) is gather for name in WEIGHTS)
        for own in (False, True):
            objective = Objective(gather=gather, rpa_gather=own)
            assert objective.gathers('rpa') is own and objective.nce_options('rpa')['gather'] is own
            assert all(objective.gathers(name) is gather for name in WEIGHTS if name != 'rpa')


def test_limit_of_the_log_scales_for_the_trainer():
    assert Objective().max_log_scale() == pytest.approx(math.log(100))
    assert Objective(max_scale=20.).max_log_scale() == pytest.approx(math.log(20))
    assert Objective(max_scale=None).max_log_scale() == math.inf


def test_repr_lists_weights_and_terms():
    assert repr(Objective(stage=1)) == 'Objective(stage 1: 1 global)'
    assert repr(Objective(dict(htc_brief=.5))) == (
        'Objective(stage 2: 0.1 rpa + 0.5 hna + 0.5 vic + 0.5 htc_brief + 1 htc_detailed)')


@pytest.mark.parametrize('empty', ['missing', 'zero rows'])
def test_a_batch_without_regions_trains_the_rest(empty):
    out = output(k=0, counts=())
    if empty == 'missing':
        out = {k: v for k, v in out.items() if not k.startswith(('region', 'crop', 'negative', 'hna'))}
    parts = Objective()(**out)
    assert all(v.isfinite() and v.requires_grad for v in parts.values())
    assert parts['rpa'] == parts['hna'] == parts['vic'] == 0
    parts['total'].backward()
    assert out['image'].grad.abs().sum() > 0
    assert all(out[k].grad is not None and out[k].grad.isfinite() for k in out if k.startswith('log_scale'))


def test_outputs_are_taken_in_order():
    out = dict(image=torch.ones(2, 3), brief=torch.zeros(1), region=None)
    assert [x.shape for x in require_outputs(out, 'global', 'brief', 'image')] == [(1,), (2, 3)]
    rows = region_outputs(out, 'rpa', 'region', 'region_text')
    assert [x.shape for x in rows] == [(0, 3)] * 2
    with pytest.raises(GeoAlignError, match="The global term needs 'crop'.* switch global off"):
        require_outputs(out, 'global', 'image', 'crop')


# Settings and weights without effect

NO_EFFECT = {
    'global beside HTC': dict(weights=dict(global_=50)), 'global by its own name': dict(weights={'global': 2}),
    'weight without its term': dict(weights=dict(vic=2.), vic=False),
    'htc without HTC': dict(weights=dict(htc=2.), htc=False),
    'one of HTC without HTC': dict(weights=dict(htc_detailed=2.), htc=False),
    'htc beside both': dict(weights=dict(htc=2, htc_brief=1, htc_detailed=1)),
    'regions in Stage I': dict(stage=1, weights=dict(rpa=1.)), 'divide': dict(hna=False, divide='all'),
    'stop_gradient': dict(vic=False, stop_gradient='crop'), 'agreement': dict(vic=False, agreement='contrast'),
    'rpa_gather': dict(rpa=False, rpa_gather=False), 'literal_total without HTC': dict(htc=False, literal_total=True),
    'shared_scale': dict(rpa=False, hna=False, shared_scale=True), 'Stage I': dict(stage=1, divide='all')}


@pytest.mark.parametrize('name', NO_EFFECT)
def test_no_effect_is_refused(name):
    with pytest.raises(GeoAlignError, match='has no effect') as e: Objective(**NO_EFFECT[name])
    assert str(e.value).endswith('.') and '\n' not in str(e.value)


IDLE = 'has no effect on the terms that are on; remove it or set'


@pytest.mark.parametrize('kwargs, words', [
    (dict(weights=dict(global_=50)), f"Weight 'global' {IDLE} literal_total=True."),
    (dict(hna=False, divide='all'), f"Setting divide='all' {IDLE} hna=True."),
    (dict(htc=False, literal_total=True), f'Setting literal_total=True {IDLE} htc=True.'),
    (dict(htc=False, weights=dict(htc_brief=3)), f"Weight 'htc_brief' {IDLE} htc=True."),
    (dict(htc=False, weights=dict(htc_detailed=3)), f"Weight 'htc_detailed' {IDLE} htc=True."),
    (dict(stage=1, weights=dict(rpa=3)), f"Weight 'rpa' {IDLE} stage=2."),
    (dict(stage=1, stop_gradient='crop'), f"Setting stop_gradient='crop' {IDLE} stage=2."),
    (dict(weights=dict(htc=2, htc_brief=1, htc_detailed=1)),
     "Weight 'htc' has no effect beside htc_brief and htc_detailed; remove one of the three.")])
def test_the_remedy_is_named(kwargs, words):
    with pytest.raises(GeoAlignError) as e: Objective(**kwargs)
    assert str(e.value) == words


@pytest.mark.parametrize('kwargs', [
    dict(weights=dict(global_=1)), dict(weights=dict(vic=0), vic=False), dict(hna=False, divide='with_negatives'),
    dict(weights=dict(WEIGHTS), htc=False), dict(stage=1, weights=dict(WEIGHTS)),
    dict(weights=dict(htc=2, htc_brief=1)), dict(weights=dict(htc=1), htc=False),
    dict(weights=dict(htc=1, htc_brief=2, htc_detailed=3)), dict(weights=dict(global_=50), literal_total=True),
    dict(vic=True, rpa=False, hna=False, agreement='contrast', shared_scale=True), dict(rpa=False, shared_scale=True),
    dict(rpa_gather=True), dict(stage=1, max_scale=None, chunk=4, duplicates='none', gather=True)])
def test_what_has_an_effect_or_asks_for_the_default_is_accepted(kwargs): Objective(**kwargs)


def test_rows_can_drop_what_is_unused():
    row_2 = active_parts(2, rpa=True, hna=False, vic=False, htc=False)
    assert unused_settings(['lr', *SETTING_TERMS], row_2) == ['divide', 'stop_gradient', 'agreement', 'literal_total']
    assert unused_weights(dict(global_=2, rpa=1, hna=1, htc=1, htc_brief=1), row_2) == ['hna', 'htc', 'htc_brief']
    assert unused_weights(dict(global_=2), ('rpa',)) == ['global_']
    assert unused_weights(dict(rpn=2), row_2) == []  # an unknown name is refused elsewhere
    assert unused_weights(dict(htc=1, htc_brief=1, htc_detailed=1), WEIGHTS) == ['htc']


X = torch.zeros(3, 4)
BAD = {
    'unpaired': lambda: info_nce(X, X[:2], 1.), 'not rows': lambda: info_nce(X[0], X[0], 1.),
    'ids': lambda: info_nce(X, X, 1., torch.zeros(2)), 'duplicates': lambda: info_nce(X, X, 1., duplicates='drop'),
    'chunk': lambda: chunked_info_nce(X, X, 1., chunk=0),
    'owner count': lambda: hard_negative_loss(X, X, X, torch.zeros(2).long(), 1.),
    'owner range': lambda: hard_negative_loss(X, X, X, torch.tensor([0, 1, 3]), 1.),
    'owner sign': lambda: hard_negative_loss(X, X, X, torch.tensor([0, 1, -1]), 1.),
    'positive': lambda: hard_negative_loss(X, X[:1], X, torch.zeros(3).long(), 1.),
    'divide': lambda: hard_negative_loss(X, X, X, torch.zeros(3).long(), 1., divide='q'),
    'hna limit': lambda: hard_negative_loss(X, X, X, torch.zeros(3).long(), 1., max_scale=0),
    'crops': lambda: visual_consistency(X, X[:2]), 'stop': lambda: visual_consistency(X, X, 'both'),
    'contrast crops': lambda: contrastive_consistency(X, X[:2], 1.),
    'missing': lambda: Objective()(**{**output(), 'detailed': None}),
    'missing crop': lambda: Objective()(**{**output(), 'crop': None}),
    **{f'objective {k}={v!r}': lambda k=k, v=v: Objective(**{k: v}) for k, v in (
        ('agreement', 'both'), ('stage', 3), ('stage', 0), ('duplicates', 'x'), ('chunk', 0), ('chunk', True),
        ('chunk', 2.), ('chunk', -1),
        ('hna', 'yes'), ('hna', 1), ('literal_total', 1), ('gather', 1), ('rpa_gather', 0), ('shared_scale', 'no'),
        ('divide', 'x'), ('stop_gradient', 'x'), ('max_scale', 0), ('max_scale', .9), ('max_scale', math.inf),
        ('max_scale', math.nan), ('max_scale', '9'), ('max_scale', True), ('weights', 3), ('weights', [1]))},
    **{f'weights {w}': lambda w=w: Objective(w) for w in (
        dict(rpa=-1), dict(rpn=1), dict(rpa='1'), dict(rpa=True), dict(rpa=math.nan), dict(rpa=math.inf),
        dict(rpa=None), {'global': 1, 'global_': 1}, {1: 2})}}


@pytest.mark.parametrize('name', BAD)
def test_mistakes_end_in_one_sentence(name):
    with pytest.raises(GeoAlignError) as e: BAD[name]()
    assert str(e.value).endswith(('.', '?')) and '\n' not in str(e.value)


def test_limits_that_are_allowed():
    for limit in (1, 1., 100, None): assert Objective(max_scale=limit).max_scale == limit
    assert named_weights(dict(rpa=0, hna=3)) == dict(rpa=0., hna=3.) and named_weights(None) == {}


def test_objective_signature_is_the_contract():
    names = list(inspect.signature(Objective).parameters)
    assert names[:8] == ['weights', 'stage', 'rpa', 'hna', 'vic', 'htc', 'duplicates', 'gather']
    assert {'rpa_gather', 'literal_total', 'max_scale'} < set(names)


def test_chunked_file_meets_its_goal():
    "The committed measurement of tests/benchmarks/chunked_contrastive.py"
    measured = json.loads(asset('results/chunked_contrastive.json').read_text())
    assert (measured['n'], measured['d']) == (16384, 512) and measured['ratio'] < .25
