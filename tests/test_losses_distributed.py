"""Two gloo processes give the loss and the averaged gradients of one process that holds the whole batch."""
import datetime

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from geoalignclip_nb.losses.consistency import visual_consistency
from geoalignclip_nb.losses.contrastive import DUPLICATES, chunked_info_nce, gather_with_grad, global_loss, rpa_loss
from geoalignclip_nb.losses.hard_negative import DIVIDE, hard_negative_loss
from geoalignclip_nb.losses.objective import Objective

WORLD, D = 2, 6
SPLITS = [(5, 0), (0, 4), (3, 4), (1, 1), (0, 0)]  # regions per rank


def batch(counts, dtype, images=3, seed=0):
    "The whole batch: raw inputs of a linear 'model', ids with repeats across ranks, negatives with owners; and the rank of every row"
    g = torch.Generator().manual_seed(seed)
    b, k = images * WORLD, sum(counts)
    new = lambda n: torch.randn(n, D, generator=g, dtype=torch.float64).to(dtype)
    x = dict(image=new(b), brief=new(b), detailed=new(b), region=new(k), region_text=new(k), crop=new(k))
    owner = torch.tensor([i for i in range(k) for _ in range((0, 3, 1)[i % 3])], dtype=torch.long)  # every third region has none
    x['negative'] = new(len(owner))
    ids = dict(brief_id=torch.arange(b) % 4, detailed_id=torch.arange(b), region_text_id=torch.arange(k) % 3)
    rank = dict(image=torch.arange(b) // images, region=torch.arange(WORLD).repeat_interleave(torch.tensor(counts)))
    return x, ids, owner, dict(rank, negative=rank['region'][owner])


def part(whole, mine):
    "The rows of one rank, owners counted from its own first region"
    x, ids, owner, rank = whole
    rows_of = lambda k: rank[k if k in rank else 'region' if k.startswith(('region', 'crop')) else 'image'] == mine
    first = int((rank['region'] < mine).sum())
    return {k: v[rows_of(k)] for k, v in x.items()}, {k: v[rows_of(k)] for k, v in ids.items()}, owner[rank['negative'] == mine] - first


def gradients(loss_of, x, ids, owner, dtype):
    "Loss and gradients of shared parameters: one matrix for pictures, one for texts, three log-scales"
    g = torch.Generator().manual_seed(1)
    w = [torch.randn(D, D, generator=g, dtype=torch.float64).to(dtype).requires_grad_() for _ in 'iT']
    scales = [torch.tensor(v, dtype=dtype, requires_grad=True) for v in (1., 1.5, 2.)]
    out = {k: v @ w[k in ('brief', 'detailed', 'region_text', 'negative')] for k, v in x.items()}
    out.update(ids, negative_owner=owner, **dict(zip(('log_scale', 'log_scale_rpa', 'log_scale_hna'), scales)))
    loss = loss_of(out)
    return loss, torch.autograd.grad(loss, [*w, *scales], allow_unused=True, materialize_grads=True)


def losses(gather):
    o, nce = dict(gather=gather), lambda out: (out['region'], out['region_text'], out['log_scale_rpa'], out['region_text_id'])
    found = {}
    for d in DUPLICATES:
        found[f'global {d}'] = lambda out, d=d: global_loss(out['image'], out['brief'], out['log_scale'], out['brief_id'], d, **o)
        found[f'rpa {d}'] = lambda out, d=d: rpa_loss(*nce(out), d, **o)
        found[f'chunked rpa {d}'] = lambda out, d=d: chunked_info_nce(*nce(out), d, **o, chunk=2)
    for d in DIVIDE:
        found[f'hna {d}'] = lambda out, d=d: hard_negative_loss(out['region'], out['region_text'], out['negative'], out['negative_owner'], out['log_scale_hna'], d, **o)
    found['vic'] = lambda out: visual_consistency(out['region'], out['crop'], **o)
    found['stage 1'] = lambda out: Objective(stage=1, **o)(**out)['total']
    found['stage 2'] = lambda out: Objective(**o)(**out)['total']
    found['stage 2 in strips'] = lambda out: Objective(chunk=2, htc=False, **o)(**out)['total']
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
            for g, w in zip(averaged(grads), want_grads): assert (g - w).abs().max() <= tolerance * max(largest, 1e-3), f'{where}: gradients differ'


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
    make = lambda: torch.nn.Linear(D, D, dtype=torch.float64)
    torch.manual_seed(0); alone = make()
    ddp = torch.nn.parallel.DistributedDataParallel(type(alone)(D, D, dtype=torch.float64))
    ddp.module.load_state_dict(alone.state_dict())
    x, _, _ = part(whole, rank)
    run = lambda net, x, gather: rpa_loss(*net(torch.cat([x['region'], x['crop']])).chunk(2), 1., gather=gather).backward()
    run(alone, whole[0], False)
    run(ddp, x, True)
    for p, q in zip(alone.parameters(), ddp.module.parameters()): torch.testing.assert_close(q.grad, p.grad, rtol=1e-10, atol=1e-12)


JOBS = (
    lambda r: equal_to_the_whole(r, torch.float64, 1e-10), lambda r: equal_to_the_whole(r, torch.float32, 1e-5),
    same_value_everywhere, a_rank_without_a_graph_takes_part, ragged_gather, under_ddp)


def worker(rank, meeting):
    torch.set_num_threads(1)
    dist.init_process_group('gloo', init_method=f'file://{meeting}', rank=rank,  # a file, because a free port may be taken before it is used
                            world_size=WORLD, timeout=datetime.timedelta(seconds=60))
    for job in JOBS: job(rank)
    dist.barrier()  # nobody leaves while the other still speaks
    dist.destroy_process_group()  # not after a failure: it would wait for the other rank


def test_two_processes_equal_one(monkeypatch, tmp_path):
    monkeypatch.setenv('OMP_NUM_THREADS', '1')
    mp.spawn(worker, (str(tmp_path/'meeting'),), nprocs=WORLD)
