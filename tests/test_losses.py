"""The losses on one process: known answers, equal forms, edge cases, settings."""
import inspect
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings, strategies as st

from geoalignclip_nb.core import GeoAlignError, stable_hash
from geoalignclip_nb.losses.consistency import contrastive_consistency, textual_consistency, visual_consistency
from geoalignclip_nb.losses.contrastive import (DUPLICATES, MAX_LOG_SCALE, as_scale, check_loss, chunked_info_nce, global_loss, info_nce,
                                                rpa_loss, unit)
from geoalignclip_nb.losses.hard_negative import DIVIDE, hard_negative_loss
from geoalignclip_nb.losses.objective import WEIGHTS, Objective


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
    new = lambda n: torch.randn(n, d, generator=g).requires_grad_()
    owner = torch.tensor([i for i in range(k) for _ in range(counts[i])], dtype=torch.long)
    scale = lambda v: torch.tensor(v, requires_grad=True)
    return dict(image=new(b), brief=new(b), detailed=new(b), region=new(k), region_text=new(k), crop=new(k), negative=new(len(owner)), negative_owner=owner,
                brief_id=torch.arange(b), detailed_id=torch.arange(b), region_text_id=torch.arange(k),
                log_scale=scale(2.), log_scale_rpa=scale(2.5), log_scale_hna=scale(3.))


@pytest.mark.parametrize('duplicates', DUPLICATES)
@pytest.mark.parametrize('form', [info_nce, lambda *a: chunked_info_nce(*a, chunk=3)], ids=['matrix', 'strips'])
def test_loops_and_matrix_and_strips_agree(form, duplicates):
    (a, b), ids, s = pair(7), torch.tensor([0, 1, 0, 2, 2, 0, 3]), torch.tensor(1.7, dtype=torch.float64, requires_grad=True)
    want, got = literal(a, b, s.exp(), ids, duplicates), form(a, b, s, ids, duplicates)
    torch.testing.assert_close(got, want, rtol=1e-12, atol=0)
    for x, y in zip(torch.autograd.grad(got, (a, b, s)), torch.autograd.grad(want, (a, b, s))): torch.testing.assert_close(x, y, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize('n', [1, 2, 17])
def test_identical_items_give_log_n(n):
    x = torch.ones(n, 4)
    for s in (0., 3., 9.): assert info_nce(x, x, s).item() == pytest.approx(math.log(n), abs=1e-5)


def test_open_clip_agrees():
    ClipLoss = pytest.importorskip('open_clip.loss').ClipLoss
    a, b = map(unit, pair(9, dtype=torch.float32))
    assert info_nce(a, b, math.log(20)).item() == pytest.approx(ClipLoss()(a, b, 20.).item(), abs=1e-5)


def test_masked_twins_exert_no_push_in_either_direction():
    a, b = pair(3)
    ids = torch.tensor([5, 5, 6])
    alone = [[0, 2], [1, 2]]  # with twins masked, each sees itself and the third item only
    loss = info_nce(a, b, 1., ids)
    rows_of = lambda x, y: sum(-F.log_softmax(math.e * F.normalize(x[[i]], dim=1) @ F.normalize(y[alone[i]], dim=1).T, 1)[0, 0] for i in (0, 1))
    third = sum(-F.log_softmax(math.e * F.normalize(x[[2]], dim=1) @ F.normalize(y, dim=1).T, 1)[0, 2] for x, y in ((a, b), (b, a)))
    torch.testing.assert_close(loss, (rows_of(a, b) + rows_of(b, a) + third) / 6)
    torch.testing.assert_close(info_nce(b, a, 1., ids), loss)  # symmetric


def test_ids_that_never_repeat_change_nothing():
    a, b = pair(6)
    for d in DUPLICATES: torch.testing.assert_close(info_nce(a, b, 2., torch.tensor([stable_hash(str(i)) for i in range(6)]), d), info_nce(a, b, 2.))


@settings(max_examples=25, deadline=None)
@given(n=st.integers(0, 9), chunk=st.integers(1, 12), words=st.integers(1, 4), d=st.sampled_from(DUPLICATES), seed=st.integers(0, 99))
def test_any_strip_length_is_exact(n, chunk, words, d, seed):
    a, b = pair(n, seed=seed)
    ids = torch.randint(words, (n,), generator=torch.Generator().manual_seed(seed))
    x, y = info_nce(a, b, 2., ids, d), chunked_info_nce(a, b, 2., ids, d, chunk=chunk)
    torch.testing.assert_close(x, y)
    for p, q in zip(torch.autograd.grad(x, (a, b)), torch.autograd.grad(y, (a, b))): torch.testing.assert_close(p, q)


LOSSES = {
    **{f'{f.__name__} {d}': lambda a, b, f=f, d=d: f(a, b, 2., torch.arange(len(a)), d) for f in (info_nce, chunked_info_nce) for d in DUPLICATES},
    **{f'hna {d}': lambda a, b, d=d: hard_negative_loss(a, b, torch.cat([b.flip(1), -b]), torch.arange(len(a)).repeat(2), 2., d) for d in DIVIDE},
    'vic': visual_consistency, 'htc': lambda a, b: textual_consistency(a, b, b.flip(1), 2.),
    'objective': lambda a, b: Objective()(image=a, brief=b, detailed=b, region=a, region_text=b, crop=b.flip(1), log_scale=2., log_scale_rpa=2., log_scale_hna=2.)['total']}


@pytest.mark.parametrize('name', LOSSES)
def test_every_loss_keeps_its_promises(name): check_loss(LOSSES[name])


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


def test_scale_stops_at_100_and_can_come_back():
    a, b = pair(4)
    torch.testing.assert_close(info_nce(a, b, 50.), info_nce(a, b, MAX_LOG_SCALE))
    s = torch.tensor(6., requires_grad=True)
    as_scale(s, a).backward()
    assert s.grad > 0
    s.grad = None
    (-as_scale(s, a)).backward()
    assert s.grad == 0


def test_hard_negatives_are_eq_3():
    g = torch.Generator().manual_seed(0)
    r, p, n = torch.randn(3, 8, generator=g), torch.randn(3, 8, generator=g), torch.randn(5, 8, generator=g)
    owner, cos = torch.tensor([2, 0, 2, 2, 0]), F.cosine_similarity
    terms = {k: -F.log_softmax(torch.stack([10 * cos(r[k], p[k], 0)] + [10 * cos(r[k], n[m], 0) for m in range(5) if owner[m] == k]), 0)[0] for k in (0, 2)}
    for divide, by in (('with_negatives', 2), ('all', 3)):
        torch.testing.assert_close(hard_negative_loss(r, p, n, owner, math.log(10), divide), sum(terms.values()) / by)
    order = torch.tensor([3, 0, 4, 1, 2])
    torch.testing.assert_close(hard_negative_loss(r, p, n[order], owner[order], 1.), hard_negative_loss(r, p, n, owner, 1.))


@pytest.mark.parametrize('m', [0, 1, 10, 200])
def test_negatives_equal_to_the_positive(m):
    x = torch.ones(1, 4, requires_grad=True)
    loss = hard_negative_loss(x, torch.ones(1, 4), torch.ones(m, 4), torch.zeros(m, dtype=torch.long), 9.)
    loss.backward()
    assert loss.item() == pytest.approx(math.log(1 + m), abs=1e-5) and x.grad.isfinite().all()


def test_visual_consistency_values_and_stopped_sides():
    a, b = pair(3)
    assert visual_consistency(a, 3 * a).item() == pytest.approx(0) and visual_consistency(a, -a).item() == pytest.approx(2)
    for side, (ga, gb) in dict(none=(1, 1), region=(0, 1), crop=(1, 0)).items():
        grads = torch.autograd.grad(visual_consistency(a, b, side), (a, b), allow_unused=True, materialize_grads=True)
        assert [int(g.abs().sum() > 0) for g in grads] == [ga, gb]


def test_objective_is_the_weighted_sum():
    out = output()
    parts = Objective()(**out)
    assert list(parts) == ['rpa', 'hna', 'vic', 'htc', 'total']
    torch.testing.assert_close(parts['total'], sum(WEIGHTS[k] * v for k, v in parts.items() if k != 'total'))
    torch.testing.assert_close(parts['rpa'], rpa_loss(out['region'], out['region_text'], out['log_scale_rpa']))
    assert list(Objective(stage=1)(**out)) == ['global', 'total']
    doubled = Objective(dict(global_=2), htc=False)(**out)
    torch.testing.assert_close(doubled['global'], global_loss(out['image'], out['brief'], out['log_scale']))
    torch.testing.assert_close(doubled['total'], 2 * doubled['global'] + .1 * doubled['rpa'] + .5 * doubled['hna'] + .5 * doubled['vic'])


def test_every_row_of_table_6_has_a_global_term():
    rows = {(0, 0, 0, 0): 'global', (1, 0, 0, 0): 'global rpa', (1, 1, 0, 0): 'global rpa vic', (1, 1, 1, 0): 'global rpa hna vic',
            (1, 1, 0, 1): 'rpa vic htc', (1, 1, 1, 1): 'rpa hna vic htc'}
    for (rpa, vic, hna, htc), names in rows.items(): assert ' '.join(Objective(rpa=bool(rpa), vic=bool(vic), hna=bool(hna), htc=bool(htc)).names) == names


def test_temperatures_are_separate_or_shared():
    out = output()
    Objective()(**out)['total'].backward()
    assert all(out[k].grad != 0 for k in out if k.startswith('log_scale'))
    out = output()
    Objective(shared_scale=True)(**out)['total'].backward()
    assert out['log_scale'].grad != 0 and out['log_scale_rpa'].grad is None and out['log_scale_hna'].grad is None


@pytest.mark.parametrize('empty', ['missing', 'zero rows'])
def test_a_batch_without_regions_trains_the_rest(empty):
    out = output(k=0, counts=())
    if empty == 'missing': out = {k: v for k, v in out.items() if not k.startswith(('region', 'crop', 'negative'))}
    parts = Objective()(**out)
    assert all(v.isfinite() and v.requires_grad for v in parts.values()) and parts['rpa'] == parts['hna'] == parts['vic'] == 0
    parts['total'].backward()
    assert out['image'].grad.abs().sum() > 0 and all(out[k].grad is not None and out[k].grad.isfinite() for k in out if k.startswith('log_scale'))


X = torch.zeros(3, 4)
BAD = {
    'unpaired': lambda: info_nce(X, X[:2], 1.), 'ids': lambda: info_nce(X, X, 1., torch.zeros(2)), 'duplicates': lambda: info_nce(X, X, 1., duplicates='drop'),
    'chunk': lambda: chunked_info_nce(X, X, 1., chunk=0), 'owner count': lambda: hard_negative_loss(X, X, X, torch.zeros(2).long(), 1.),
    'owner range': lambda: hard_negative_loss(X, X, X, torch.tensor([0, 1, 3]), 1.), 'positive': lambda: hard_negative_loss(X, X[:1], X, torch.zeros(3).long(), 1.),
    'divide': lambda: hard_negative_loss(X, X, X, torch.zeros(3).long(), 1., divide='q'), 'crops': lambda: visual_consistency(X, X[:2]),
    'stop': lambda: visual_consistency(X, X, 'both'), 'contrast crops': lambda: contrastive_consistency(X, X[:2], 1.), 'agreement': lambda: Objective(agreement='both'), 'stage': lambda: Objective(stage=3), 'weight': lambda: Objective(dict(rpa=-1)),
    'weight name': lambda: Objective(dict(rpn=1)), 'weight text': lambda: Objective(dict(rpa='1')), 'nan': lambda: Objective(dict(rpa=float('nan'))),
    'objective duplicates': lambda: Objective(duplicates='x'), 'objective chunk': lambda: Objective(chunk=0), 'objective switch': lambda: Objective(hna='yes'),
    'missing': lambda: Objective()(**{**output(), 'detailed': None}), 'missing crop': lambda: Objective()(**{**output(), 'crop': None})}


@pytest.mark.parametrize('name', BAD)
def test_mistakes_end_in_one_sentence(name):
    with pytest.raises(GeoAlignError) as e: BAD[name]()
    assert str(e.value).endswith('.') and '\n' not in str(e.value)


def test_objective_signature_is_the_contract():
    names = list(inspect.signature(Objective).parameters)
    assert names[:8] == ['weights', 'stage', 'rpa', 'hna', 'vic', 'htc', 'duplicates', 'gather']


def test_chunked_file_meets_its_goal():
    "The committed measurement of tests/benchmarks/chunked_contrastive.py"
    import json
    from geoalignclip_nb.core import asset
    measured = json.loads(asset('results/chunked_contrastive.json').read_text())
    assert (measured['n'], measured['d']) == (16384, 512) and measured['ratio'] < .25


def test_agreement_with_opponents():
    "Eq 4 cannot tell a shared direction from agreement; the form with opponents can, and it moves no temperature"
    g = torch.Generator().manual_seed(0)
    region, crop, shared = torch.randn(40, 16, generator=g), torch.randn(40, 16, generator=g), 10 * torch.randn(16, generator=g)
    assert visual_consistency(region + shared, crop + shared) < .1 < visual_consistency(region, crop)
    assert contrastive_consistency(region + shared, crop + shared, 2.) > .9 * math.log(40)
    out = output()
    for stop, moved in (('none', (True, True)), ('crop', (True, False)), ('region', (False, True))):
        parts = Objective(agreement='contrast', stop_gradient=stop)(**out)
        grads = torch.autograd.grad(parts['vic'], (out['region'], out['crop'], out['log_scale_rpa']), allow_unused=True)
        assert tuple(x is not None for x in grads) == (*moved, False)
