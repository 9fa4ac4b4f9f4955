"""What each of two processes does in `test_zero.py` and in `benchmarks/zero_equals_one.py`: the same steps under ZeRO-2 and, beside it, in one process."""
import copy
import json
import random
from pathlib import Path

import torch
import torch.distributed as dist

from geoalignclip_nb.core import GeoAlignError
from geoalignclip_nb.data.loader import ImageCache, LoaderSettings, collate, make_item
from geoalignclip_nb.losses.contrastive import l2_normalize
from geoalignclip_nb.losses.objective import Objective, with_htc
from geoalignclip_nb.model import GeoAlignCLIP
from geoalignclip_nb.scenes import make_scenes
from geoalignclip_nb.train.engine import StepOptions, make_optimizer, train_step
from geoalignclip_nb.train.presets import StageSettings
from geoalignclip_nb.train import engine as train_engine
from geoalignclip_nb.train import zero, zero_runs
from geoalignclip_nb.train.zero import ZeroOptions, init_zero, join_ranks, zero_step
from geoalignclip_nb.train.zero_runs import load_zero, save_zero

PICTURES, LR, STEPS = 8, 1e-4, 3
SPLITS = {'equal': None, 'unequal': (0, 1), 'one rank without': (0, 1, 2, 3)}  # which pictures lose their regions


def blocks(n): return [range(i, i + PICTURES // n) for i in range(0, PICTURES, PICTURES // n)]


def batches(model, split, parts, seed=0):
    "The whole batch, and the same pictures in `parts` batches; `split` names the pictures without regions"
    settings = LoaderSettings(size=64, crop_size=32, detailed=True, regions=True, max_negatives=3)
    pictures = ImageCache(make_scenes(PICTURES, seed=3 + seed, size=96), 96)
    items = [make_item(s, pictures.image(i), settings, random.Random(i)) for i, s in enumerate(pictures.samples)]
    for i in SPLITS[split] or (): items[i]['regions'] = []
    make = lambda rows: collate([items[i] for i in rows], model.tokenizer, settings, model.preprocess.mean, model.preprocess.std)
    return make(range(PICTURES)), [make(b) for b in blocks(parts)]


def masked_nce(a, b, log_scale, ids, block):
    "Symmetric InfoNCE in which rows of other blocks and identical texts are no negatives, a mean over all rows, spelled out"
    a, b, scale = l2_normalize(a.float()), l2_normalize(b.float()), log_scale.exp()
    keep = (block[:, None] == block[None]) & ((ids[:, None] != ids[None]) | torch.eye(len(a), dtype=torch.bool))
    logits = (scale * a @ b.T).masked_fill(~keep, -torch.inf)
    rows = logits.logsumexp(1) + logits.logsumexp(0) - 2 * logits.diagonal()
    return rows.sum() / 2 / max(len(a), 1)


def block_objective(boxes, n):
    "Eq 5 in one process whose contrastive terms see negatives of their own block only"
    plain, image = Objective(), torch.arange(PICTURES) // (PICTURES // n)
    region = image[boxes[:, 0].long()]
    def objective(**out):
        with torch.autocast('cpu', enabled=False):
            parts = plain(**out)
            parts['rpa'] = masked_nce(out['region'], out['region_text'], out['log_scale_rpa'], out['region_text_id'], region)
            for k in ('brief', 'detailed'):
                parts[f'htc_{k}'] = masked_nce(out['image'], out[k], out['log_scale'], out[f'{k}_id'], image)
        return with_htc(parts) | {'total': sum(plain.weights[k] * parts[k] for k in plain.names)}
    objective.max_log_scale = plain.max_log_scale
    return objective


def one_process(model, whole, objective, precision, steps=STEPS, lr=LR):
    "Steps of the engine page on the whole batch"
    model, losses = copy.deepcopy(model).train(), []
    optimizer = make_optimizer(model, StageSettings())
    for _ in range(steps): losses.append(train_step(model, whole, objective, optimizer, StepOptions(lr, 1., precision)))
    return model, losses


def zero_engine(model, precision, accumulation=1, stage=2, checkpointing=False, batch=PICTURES):
    world = dist.get_world_size() if dist.is_initialized() else 1
    options = ZeroOptions(stage, accumulation, checkpointing=checkpointing)
    return init_zero(copy.deepcopy(model).train(), StageSettings(batch_size=batch // world // accumulation), options, precision, device='cpu')


def differences(model, split, gather, precision, accumulation=1, stage=2, checkpointing=False):
    "Largest differences between the processes under ZeRO and one process: of the losses (relative to 1 or more) and of a weight; the distance of all weights relative to the way they went; how far the log-scales moved"
    rank, world = join_ranks('cpu')
    whole, parts = batches(model, split, world * accumulation)
    mine = parts[rank * accumulation:(rank + 1) * accumulation]
    # negatives come from one pass: of all processes (gather), or of one
    if gather and accumulation == 1: reference = Objective()
    elif gather: raise ValueError('with gathering, a pass of all processes is no contiguous block; not needed here')
    else: reference = block_objective(whole['boxes'], world * accumulation)
    engine = zero_engine(model, precision, accumulation, stage, checkpointing)
    got = [zero_step(engine, mine, Objective(gather=gather), LR) for _ in range(STEPS)]
    ours = dict(engine.module.named_parameters())
    found = dict(regions=[len(p['boxes']) for p in parts], same_everywhere=same_everywhere(ours), first=got[0], last=got[-1])
    if rank == 0:
        one, want = one_process(model, whole, reference, precision)
        theirs, start = (dict(m.named_parameters()) for m in (one, model))
        far = lambda a, b: max(float((a[k] - b[k]).detach().abs().max()) for k in a)
        length = lambda a, b: sum(float((a[k] - b[k]).detach().double().square().sum()) for k in a) ** .5
        found |= dict(loss=max(abs(g[k] - w[k]) / max(abs(w[k]), 1) for g, w in zip(got, want) for k in w), weights=far(ours, theirs), update=far(theirs, start), relative=length(ours, theirs) / length(theirs, start),
                      scales_moved={k: float((ours[k] - start[k]).detach().abs()) for k in ours if not ours[k].ndim})
    engine.destroy()
    return found


def same_everywhere(parameters):
    "Whether all processes hold the same bits"
    mine = torch.cat([p.detach().flatten() for p in parameters.values()])
    other = mine.clone()
    dist.broadcast(other, 0)
    return bool((mine == other).all())


PLAIN = dict(split='unequal', gather=True, precision='fp32', accumulation=1, stage=2, checkpointing=False)
CASES = [dict(split=s, gather=g, precision=p) for g in (True, False) for p in ('fp32', 'bf16') for s in SPLITS]
CASES += [dict(gather=False, accumulation=2), dict(stage=1), dict(checkpointing=True, precision='bf16')]


def equalities(out):
    "All cases, into a JSON file"
    torch.set_num_threads(1)
    rank, world = join_ranks('cpu')
    model = GeoAlignCLIP.create('geoalign-debug')
    found = []
    for case in CASES:
        found.append({**PLAIN, **case, **differences(model, **{**PLAIN, **case})})
        if rank == 0: Path(out).write_text(json.dumps(found))


def stock_bf16(steps=3, lr=LR):
    "DeepSpeed's own bf16 mode, which casts the module: how far a temperature moves in the forward pass, and its fp32 master"
    import deepspeed
    from deepspeed.utils import safe_get_full_fp32_param
    model = torch.nn.Linear(4, 4)
    model.log_scale = torch.nn.Parameter(torch.tensor([2.6593]))  # one dimension: it cannot send around a parameter without any
    start = model.log_scale.detach().bfloat16().float().clone()
    config = dict(train_micro_batch_size_per_gpu=1, bf16=dict(enabled=True), zero_optimization=dict(stage=2), optimizer=dict(type='AdamW', params=dict(lr=lr, weight_decay=0., torch_adam=True)))
    engine = deepspeed.initialize(model=model, model_parameters=[dict(params=list(model.parameters()))], config=config, dist_init_required=False)[0]
    first = float(safe_get_full_fp32_param(engine.module.log_scale))
    for _ in range(steps):
        out = engine(torch.ones(1, 4).bfloat16()).float().square().mean() * engine.module.log_scale.float().exp()
        engine.backward(out.sum()); engine.step()
    found = dict(steps=steps, lr=lr, moved=float((engine.module.log_scale.detach().float() - start).abs()), master_moved=abs(float(safe_get_full_fp32_param(engine.module.log_scale)) - first))
    engine.destroy()
    return found


FOUR = {'precision': 'fp32', 'checkpoint_steps': '1', 'stage2.epochs': '4', 'stage2.evaluate_epochs': '2'}  # one step of Stage I, four of Stage II, measured after the second and the last


def said(action) -> str:
    "The sentence of a failure"
    try: action()
    except GeoAlignError as e: return str(e)
    return 'nothing said'


def no_space(*args, **kwargs): raise OSError(28, 'No space left on device')


def ill(folder, rank) -> list:
    "The same command three times: a measurement that fails on rank 0; a loss that is not finite on rank 1; a log that cannot be written. What is said, and the newest checkpoint"
    run = lambda: [said(lambda: zero_runs.train_zero('debug', {'stage1.epochs': '2', 'stage1.evaluate_epochs': '1', 'checkpoint_steps': '1'}, out=folder)), zero_runs.newest(folder/'stage1').name]
    measure, step, add = train_engine.measure, zero_runs.zero_step, train_engine.Log.add

    def broken(*args): raise RuntimeError('no memory is left')
    def poisoned(engine, batches, *rest):
        if rank: batches = [{**b, 'images': b['images'] * float('nan')} for b in batches]
        return step(engine, batches, *rest)
    train_engine.measure = broken
    found = [run()]
    train_engine.measure, zero_runs.zero_step = measure, poisoned
    found.append(run())
    zero_runs.zero_step, train_engine.Log.add = step, no_space
    found.append(run())
    train_engine.Log.add = add
    return found


class Overflow(torch.autograd.Function):
    "A finite value with an infinite gradient"
    @staticmethod
    def forward(ctx, x): return x.clone()
    @staticmethod
    def backward(ctx, g): return g * float('inf')


def overflowing(objective):
    "The same objective, whose first part has a gradient that is not finite"
    real = type(objective).__call__

    class Steep(type(objective)):
        def __call__(self, **out):
            parts = real(self, **out)
            return parts | {self.names[0]: Overflow.apply(parts[self.names[0]])}
    objective.__class__ = Steep
    return objective


def vocabulary_run(folder, rank) -> bool:
    "Stage II from vit-tiny, resumed after its first epoch; whether the untouched token rows stay to the bit"
    settings = {'init': 'vit-tiny', 'model': 'vit-tiny', 'precision': 'fp32', 'stage1.epochs': '1', 'stage2.lr': '1e-3', 'checkpoint_steps': '1'}
    measure = train_engine.measure

    def stopped(backend, run, *rest):
        if run.number == 2: raise GeoAlignError('stopped')
        return measure(backend, run, *rest)
    train_engine.measure = stopped
    said(lambda: zero_runs.train_zero('debug', settings, out=folder))
    train_engine.measure = measure
    made = GeoAlignCLIP.from_pretrained(zero_runs.train_zero('debug', settings, out=folder))
    start = GeoAlignCLIP.from_pretrained('vit-tiny')
    tables = [m.clip.token_embedding.weight for m in (start, made)]
    changed = (tables[0].half() != tables[1].half()).any(1)
    rare = start.known_tokens & ~changed
    return bool((start.known_tokens & ~made.known_tokens).sum() == 0) and int(rare.sum()) > 2000


def checkpoints(folder):
    "Save, go on, resume; a loss that is not finite on one rank; the two stages of a preset; a run with every illness; then death in the middle of a write"
    torch.set_num_threads(1)
    rank, world = join_ranks('cpu')
    folder, told = Path(folder), {}
    model = GeoAlignCLIP.create('geoalign-debug')
    _, parts = batches(model, 'unequal', world)
    step = lambda engine: zero_step(engine, [parts[rank]], Objective(gather=True), LR)

    engine = zero_engine(model, 'bf16')
    for i in range(2): step(engine)
    save_zero(engine, folder/'run', 2, seen=torch.arange(5))
    kept = copy.deepcopy(engine.module).eval()
    straight = step(engine)
    after = {k: v.detach().clone() for k, v in engine.module.named_parameters()}

    again = zero_engine(GeoAlignCLIP.create('geoalign-debug', seed=9), 'bf16')
    state = load_zero(again, folder/'run')
    told['state'] = [state['step'], state['seen'].tolist()]
    told['loaded'] = all(torch.equal(p, q) for p, q in zip(again.module.parameters(), kept.parameters()))
    told['resumed'] = [step(again) == straight, all(torch.equal(p, after[k]) for k, p in again.module.named_parameters())]

    bad = {**parts[rank], 'images': parts[rank]['images'] * (float('nan') if rank else 1)}
    told['bad'] = said(lambda: zero_step(again, [bad], Objective(gather=True), LR))
    told['untouched'] = all(torch.equal(p, after[k]) for k, p in again.module.named_parameters())
    steep = Objective(gather=True)
    if rank == 1: steep = overflowing(steep)
    told['overflow'] = said(lambda: zero_step(again, [parts[rank]], steep, LR))
    told['untouched by overflow'] = all(torch.equal(p, after[k]) for k, p in again.module.named_parameters())
    again.destroy()
    told['vocabulary'] = vocabulary_run(folder/'tiny', rank)

    clamped = zero_engine(model, 'bf16')
    with torch.no_grad():
        for p, v in ((clamped.module.clip.logit_scale, 9.), (clamped.module.log_scale_hna, -1.)): p.fill_(v)
    zero.clamp_masters(clamped)
    step(clamped)  # the copy of the optimiser decides what the weights are after a step
    told['clamped'] = [float(p.detach()) for p in (clamped.module.clip.logit_scale, clamped.module.log_scale_hna)]
    clamped.destroy()

    heard, real = [], zero_runs.make_reporters
    zero_runs.make_reporters = lambda names, out, settings: [heard.append]
    told['preset'] = str(zero_runs.train_zero('debug', FOUR, out=folder/'debug'))
    told['heard'], zero_runs.make_reporters = heard, real

    (folder/'blocked').write_text('a file where a folder should be')
    told['blocked'] = said(lambda: save_zero(engine, folder/'blocked', 3))
    told['no folder'] = said(lambda: zero_runs.train_zero('debug', out=folder/'blocked'/'run'))
    if rank == 1: engine.checkpoint_engine.save = no_space  # in the middle of a write, on one rank
    told['full'] = [said(lambda: save_zero(engine, folder/'run', 3)), zero_runs.newest(folder/'run').name]
    told['ill'] = ill(folder/'ill', rank)
    if rank == 1: del engine.checkpoint_engine.save

    if rank == 0:
        torch.save([kept.encode_image(parts[0]['images']), kept.encode_text(['two white planes', 'a harbour']), kept.state_dict()], folder/'embeddings.pt')
    (folder/f'told-{rank}.json').write_text(json.dumps(told))
    dist.barrier()
    zero_runs._publish = lambda *a: __import__('os')._exit(9)  # everything is written, nothing is renamed
    save_zero(engine, folder/'run', 3)
