"""Two gloo processes give the loss and the averaged gradients of one process that holds the whole batch."""
import datetime
import os

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from geoalignclip_nb.losses.consistency import visual_consistency
from geoalignclip_nb.losses.contrastive import (
    DUPLICATES, chunked_info_nce, gather_with_grad, global_loss, mean_over_ranks, rpa_loss)
from geoalignclip_nb.losses.hard_negative import DIVIDE, hard_negative_loss
from geoalignclip_nb.losses.objective import Objective

WORLD, D = 2, 6
SPLITS = [(5, 0), (0, 4), (3, 4), (1, 1), (0, 0)]  # regions per rank


def batch(counts, dtype, images=3, seed=0):
    "The whole batch: inputs of a linear model, ids that repeat across ranks, owners of negatives; rank of each row"
    g = torch.Generator().manual_seed(seed)
    b, k = images * WORLD, sum(counts)
    def new(n): return torch.randn(n, D, generator=g, dtype=torch.float64).to(dtype)
    sizes = dict.fromkeys(('image', 'brief', 'detailed'), b)
    sizes |= dict.fromkeys(('region', 'region_text', 'hna_text', 'crop'), k)
    x = {name: new(n) for name, n in sizes.items()}
    counts_of = torch.tensor([0, 3, 1])[torch.arange(k) % 3]  # every third region has no negatives
    owner = torch.arange(k).repeat_interleave(counts_of)
    x['negative'] = new(len(owner))
    ids = dict(brief_id=torch.arange(b) % 4, detailed_id=torch.arange(b), region_text_id=torch.arange(k) % 3)
    rank = dict(image=torch.arange(b) // images, region=torch.arange(WORLD).repeat_interleave(torch.tensor(counts)))
    return x, ids, owner, dict(rank, negative=rank['region'][owner])


def part(whole, mine):
    "The rows of one rank, owners counted from its own first region"
    x, ids, owner, rank = whole
    def rows_of(name):
        if name in rank: return rank[name] == mine
        return rank['region' if name.startswith(('region', 'crop', 'hna')) else 'image'] == mine
    first = int((rank['region'] < mine).sum())
    own, own_ids = ({k: v[rows_of(k)] for k, v in table.items()} for table in (x, ids))
    return own, own_ids, owner[rank['negative'] == mine] - first


def gradients(loss_of, x, ids, owner, dtype):
    "Loss and gradients of shared parameters: one matrix for pictures, one for texts, three log-scales"
    g = torch.Generator().manual_seed(1)
    w = [torch.randn(D, D, generator=g, dtype=torch.float64).to(dtype).requires_grad_() for _ in 'iT']
    scales = [torch.tensor(v, dtype=dtype, requires_grad=True) for v in (1., 1.5, 2.)]
    out = {k: v @ w[k in ('brief', 'detailed', 'region_text', 'hna_text', 'negative')] for k, v in x.items()}
    out.update(ids, negative_owner=owner, **dict(zip(('log_scale', 'log_scale_rpa', 'log_scale_hna'), scales)))
    loss = loss_of(out)
    return loss, torch.autograd.grad(loss, [*w, *scales], allow_unused=True, materialize_grads=True)


def contrastive_losses(duplicates, gather) -> dict:
    o = dict(duplicates=duplicates, gather=gather)
    def phrases(out): return out['region'], out['region_text'], out['log_scale_rpa'], out['region_text_id']
    def captions(out): return out['image'], out['brief'], out['log_scale'], out['brief_id']
    return {
        f'global {duplicates}': lambda out: global_loss(*captions(out), **o),
        f'rpa {duplicates}': lambda out: rpa_loss(*phrases(out), **o),
        f'chunked rpa {duplicates}': lambda out: chunked_info_nce(*phrases(out), **o, chunk=2),
        f'rpa without ids {duplicates}': lambda out: rpa_loss(*phrases(out)[:3], **o)}


def objectives(gather) -> dict:
    "Objectives whose terms are all gathered, or all of one process"
    settings = {
        'stage 1': dict(stage=1), 'stage 2': {}, 'stage 2 in strips': dict(chunk=2, htc=False),
        'literal': dict(literal_total=True, duplicates='none', divide='all', shared_scale=True),
        'contrast': dict(agreement='contrast'), 'rpa on its own': dict(rpa_gather=gather)}
    return {name: Objective(gather=gather, **s) for name, s in settings.items()}


def losses(gather) -> dict:
    found = {}
    for d in DUPLICATES: found |= contrastive_losses(d, gather)
    def hard(out): return out['region'], out['hna_text'], out['negative'], out['negative_owner'], out['log_scale_hna']
    for d in DIVIDE: found[f'hna {d}'] = lambda out, d=d: hard_negative_loss(*hard(out), divide=d, gather=gather)
    found['vic'] = lambda out: visual_consistency(out['region'], out['crop'], gather=gather)
    for name, o in objectives(gather).items(): found[name] = lambda out, o=o: o(**out)['total']
    return found


def averaged(tensors):
    "What DDP does with gradients"
    for t in tensors: dist.all_reduce(t)
    return [t / WORLD for t in tensors]


def equal_to_the_whole(rank, dtype, tolerance):
    for counts in SPLITS:
        whole = batch(counts, dtype)
        mine = part(whole, rank)
        for name, loss_of in losses(gather=True).items():
            where = f'{name}, {counts} regions, {dtype}'
            want, want_grads = gradients(losses(gather=False)[name], *whole[:3], dtype)
            got, grads = gradients(loss_of, *mine, dtype)
            assert abs(got - want) <= tolerance * max(abs(want), 1), f'{where}: {got} is not {want}'
            largest = max(g.abs().max() for g in want_grads)
            for g, w in zip(averaged(grads), want_grads):
                assert (g - w).abs().max() <= tolerance * max(largest, 1e-3), f'{where}: gradients differ'


def same_value_everywhere(rank):
    loss = losses(gather=True)['stage 2']
    value, _ = gradients(loss, *part(batch((3, 1), torch.float32), rank), torch.float32)
    values = [torch.empty_like(value) for _ in range(WORLD)]
    dist.all_gather(values, value.detach())
    assert values[0] == values[1]


def a_rank_without_a_graph_takes_part(rank):
    "No region and no gradient on rank 1: the exchange of the backward pass must not wait for it"
    k = 3 if rank == 0 else 0
    a, b = torch.randn(k, D, requires_grad=rank == 0), torch.randn(k, D, requires_grad=rank == 0)
    loss = rpa_loss(a, b, 1., torch.arange(k), gather=True)
    assert loss.isfinite() and loss.requires_grad
    loss.backward()


def ragged_gather(rank):
    x = torch.arange(2. * rank, 2. * rank + (2, 1)[rank])[:, None].requires_grad_()
    y = gather_with_grad(x)
    assert y.flatten().tolist() == [0., 1., 2.]
    (y * torch.tensor([1., 10., 100.])[:, None] * (rank + 1)).sum().backward()
    assert x.grad.flatten().tolist() == ([3., 30.], [300.])[rank]  # both ranks' wishes: 1 + 2 times
    assert gather_with_grad(torch.full((rank,), 7)).tolist() == [7]


def under_ddp(rank):
    "The convention, with DistributedDataParallel itself"
    whole = batch((2, 3), torch.float64)
    torch.manual_seed(0)
    alone = torch.nn.Linear(D, D, dtype=torch.float64)
    ddp = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(D, D, dtype=torch.float64))
    ddp.module.load_state_dict(alone.state_dict())
    x, _, _ = part(whole, rank)
    def run(net, x, gather):
        region, crop = net(torch.cat([x['region'], x['crop']])).chunk(2)
        rpa_loss(region, crop, 1., gather=gather).backward()
    run(alone, whole[0], False)
    run(ddp, x, True)
    for p, q in zip(alone.parameters(), ddp.module.parameters()):
        torch.testing.assert_close(q.grad, p.grad, rtol=1e-10, atol=1e-12)


def rpa_on_its_own(rank):
    "One setting decides for RPA: per rank while the rest is gathered, and the other way round"
    out, ids, owner = part(batch((3, 4), torch.float64), rank)
    out = {**out, **ids, 'negative_owner': owner, 'log_scale': 1., 'log_scale_rpa': 1.5, 'log_scale_hna': 2.}
    everywhere, alone = Objective(gather=True)(**out), Objective()(**out)
    assert everywhere['rpa'] != alone['rpa'] and everywhere['htc'] != alone['htc']
    for gather, rpa in ((True, False), (False, True)):
        mixed = Objective(gather=gather, rpa_gather=rpa)(**out)
        assert mixed['rpa'] == (everywhere if rpa else alone)['rpa']
        for name in ('hna', 'vic', 'htc'): assert mixed[name] == (everywhere if gather else alone)[name]


def without_gather_a_rank_is_alone(rank):
    "The default of every loss sees the batch of its own rank"
    x, ids, owner = part(batch((3, 4), torch.float64), rank)
    hard = x['region'], x['hna_text'], x['negative'], owner
    pairs = dict(region=x['region'], crop=x['crop'])
    forms = {
        'nce': lambda **o: rpa_loss(x['region'], x['region_text'], 1., ids['region_text_id'], **o),
        'strips': lambda **o: chunked_info_nce(x['region'], x['region_text'], 1., ids['region_text_id'], chunk=2, **o),
        'hna': lambda **o: hard_negative_loss(*hard, 1., **o), 'vic': lambda **o: visual_consistency(**pairs, **o),
        'mean': lambda **o: mean_over_ranks(x['region'].sum(), len(x['region']), **o)}
    for name, loss in forms.items():
        assert loss() == loss(gather=False) != loss(gather=True), name


def ids_on_one_rank_only(rank):
    "A rank without ids counts its texts as different, and both ranks make the same exchanges"
    a, b = torch.randn(2, 4, D, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    ids = torch.tensor([0, 0])
    loss = rpa_loss(a[2 * rank:2 * rank + 2], b[2 * rank:2 * rank + 2], 1., ids if rank else None, gather=True)
    torch.testing.assert_close(loss, rpa_loss(a, b, 1., torch.tensor([1, 2, 0, 0])))


JOBS = (
    lambda r: equal_to_the_whole(r, torch.float64, 1e-10), lambda r: equal_to_the_whole(r, torch.float32, 1e-5),
    same_value_everywhere, a_rank_without_a_graph_takes_part, ragged_gather, under_ddp,
    rpa_on_its_own, ids_on_one_rank_only, without_gather_a_rank_is_alone)


def worker(rank, port):
    torch.set_num_threads(1)
    limit = datetime.timedelta(seconds=60)
    store = dist.TCPStore('127.0.0.1', port, WORLD, is_master=False, timeout=limit)
    dist.init_process_group('gloo', rank=rank, world_size=WORLD, store=store, timeout=limit)
    for job in JOBS: job(rank)
    dist.barrier()  # nobody leaves while the other still speaks
    dist.destroy_process_group()  # not after a failure: it would wait for the other rank
    os._exit(0)  # threads of gloo that still run abort an orderly exit now and then


def test_two_processes_equal_one(monkeypatch):
    "The store lives in this process: its port is taken before the ranks start, and it outlives both"
    monkeypatch.setenv('OMP_NUM_THREADS', '1')
    store = dist.TCPStore('127.0.0.1', 0, WORLD, is_master=True, wait_for_workers=False)
    mp.spawn(worker, (store.port,), nprocs=WORLD)
