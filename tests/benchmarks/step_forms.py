"""The Stage II step in three forms with the same losses; step_speed.py and step_memory.py time and weigh them.

ours     `model(batch)`: distinct texts once, in groups of like length; regions as they are; one trunk pass for vector and dense map.
literal  every text padded to 248 tokens, four box slots per picture whose empty ones are computed too (box, crop, text and ten near misses) and masked
         out, empty and repeated texts encoded again, one trunk pass for the vector and a second one for the dense map.
fgclip   FG-CLIP v1's form: short texts padded to 77, detailed captions to 248, four slots for boxes and region texts, one trunk pass and a value-only
         last block beside it. Where FG-CLIP v1 leaves a choice the cheaper one is taken: near misses exist for real regions only, their positive is not
         encoded a second time, and crops, which it does not have, are those of real regions.

Both baselines use the towers as open_clip has them: the last block computes all tokens, and no position after the end mark is left out. They have
one position table and one text head here, so that the losses are equal. Whole, the literal form at batch 8 needs more memory than most computers
have. `Baseline.step` therefore goes through it in parts and computes nothing twice: `learn` (not timed) has found the gradient of the losses by every
vector, so each part goes forward and back at once, with exactly the gradients that the whole would send.
"""
import random
from functools import lru_cache, partial

import numpy as np
import torch
import torch.nn.functional as F

from geoalignclip_nb.data.loader import LoaderSettings, RegionItem, View, collate, region_crop, view_image
from geoalignclip_nb.regions import roi_features
from geoalignclip_nb.scenes import make_scenes
from geoalignclip_nb.text import text_tower
from geoalignclip_nb.train.cost import FORMS, NEGATIVES, SLOTS
from geoalignclip_nb.core import precision_context
from geoalignclip_nb.vision import image_tower, value_only

EMPTY = 49406, 49407  # start and end mark: the empty text
ROOM = 12_000  # token places of one part of a baseline


drawn = lru_cache(4)(make_scenes)  # the same pictures at another size need not be drawn again


def records(n: int, seed: int, size: int, crop_size: int, model) -> dict:
    "A batch of `n` drawn pictures like RSFG's records: 2-4 regions, each with its phrase or its description and ten near misses"
    rng, items = random.Random(seed), []
    made = [s for s in drawn(max(16, 3 * n), seed=seed, size=256) if len(s.regions) > 1]
    scenes, words = made[:n], [r for s in made[:max(n, 8)] for r in s.regions]  # a small batch borrows words from its neighbours
    if len(scenes) < n: raise SystemExit(f'Only {len(scenes)} of {n} scenes hold two regions; choose another seed.')
    phrases, sentences = sorted({r.phrase for r in words}), sorted({r.text for r in words})
    for s in scenes:
        image, regions = s.image.convert('RGB'), []
        for r in rng.sample(s.regions, min(len(s.regions), rng.randint(2, SLOTS))):
            short = rng.random() < .5
            text, others = (r.phrase, phrases) if short else (r.text, sentences)
            near = [] if short else [t for t, _ in r.negatives]
            near += rng.sample([t for t in others if t != text and t not in near], NEGATIVES)
            crop = region_crop(image, r.box, View(), LoaderSettings(crop_size=crop_size))
            regions.append(RegionItem(np.array(r.box), text, text, near[:NEGATIVES], crop))
        items.append(dict(image=view_image(image, View(), size), brief=s.brief, detailed=s.detailed, regions=regions))
    settings = LoaderSettings(size=size, crop_size=crop_size, detailed=True, regions=True)
    return collate(items, model.tokenizer, settings, model.preprocess.mean, model.preprocess.std)


def slots(batch: dict) -> tuple:  # (batch with four slots per picture, slot of each region, slot of each near miss)
    "What a fixed shape computes: empty slots hold the whole frame, a black crop and empty texts"
    b, k, side = len(batch['images']), len(batch['boxes']), batch['images'].shape[-1]
    owner = batch['boxes'][:, 0].long()
    of_region = owner * SLOTS + torch.tensor([int((owner[:i] == owner[i]).sum()) for i in range(k)])
    mine = batch['negative_owner']
    of_negative = of_region[mine] * NEGATIVES + torch.tensor([int((mine[:i] == mine[i]).sum()) for i in range(len(mine))])
    blank = lambda n: F.pad(torch.tensor([EMPTY]).repeat(n, 1), (0, 246))
    fill = lambda base, where, rows: base.index_copy(0, where, rows)
    boxes = torch.tensor([[i, 0, 0, side, side] for i in range(b) for _ in range(SLOTS)], dtype=torch.float32)
    crops = batch['crops'].new_zeros(b * SLOTS, *batch['crops'].shape[1:])
    out = dict(batch, boxes=fill(boxes, of_region, batch['boxes']), crops=fill(crops, of_region, batch['crops']),
               region_text=fill(blank(b * SLOTS), of_region, padded(batch['region_text'], 248)),
               negatives=fill(blank(b * SLOTS * NEGATIVES), of_negative, padded(batch['negatives'], 248)))
    return out, of_region, of_negative


def padded(ids, width): return F.pad(ids, (0, width - ids.shape[1])) if ids.shape[1] <= width else ids[:, :width]


def unit(x): return F.normalize(x.float(), dim=-1)


def whole_texts(clip, ids) -> tuple:
    "Unit vectors (N,D) with every token place computed, as open_clip does it"
    tower, width = text_tower(clip), ids.shape[1]
    x = tower.transformer(tower.token_embedding(ids) + tower.positional_embedding[:width], attn_mask=tower.attn_mask[:width, :width])
    return unit(tower.ln_final(x)[torch.arange(len(x)), ids.argmax(-1)] @ tower.text_projection),


def trunk(clip, images):
    tower = image_tower(clip.visual)
    x, grid = tower.tokens(images)
    for block in tower.blocks[:-1]: x = block(x)
    return tower, x, grid


def picture(clip, images) -> tuple:
    tower, x, _ = trunk(clip, images)
    return unit(tower.pool(tower.blocks[-1](x))),


def region(tower, x, grid, boxes, size):
    cells = tower.cell(value_only(tower.blocks[-1], x[:, tower.prefix:]))
    return unit(roi_features(cells.transpose(1, 2).unflatten(2, grid), boxes, size))


def regions(clip, images, boxes) -> tuple: return region(*trunk(clip, images), boxes, images.shape[-2:]),


def both(clip, images, boxes) -> tuple:
    tower, x, grid = trunk(clip, images)
    return unit(tower.pool(tower.blocks[-1](x))), region(tower, x, grid, boxes, images.shape[-2:])


class Baseline:
    "The literal form or FG-CLIP's, on one batch"
    def __init__(self, model, batch: dict, form: str):
        self.model, self.batch, self.jobs = model, batch, []  # jobs: (names of what it returns, function)
        wide, self.of_region, self.of_negative = slots(batch)
        self.all_slots = dict(region=True, region_text=True, crop=form == 'literal', negative=form == 'literal')
        short = 248 if form == 'literal' else 77
        for name, key, width in (('brief', 'brief', short), ('region_text', 'region_text', short), ('negative', 'negatives', short), ('detailed', 'detailed', 248)):
            ids = padded((wide if self.all_slots.get(name) else batch)[key], width)
            for rows in ids.split(max(1, ROOM // width)): self.add([name], whole_texts, rows)
        images, boxes = batch['images'], wide['boxes']
        if form == 'literal': self.add(['image'], picture, images); self.add(['region'], regions, images, boxes)
        else: self.add(['image', 'region'], both, images, boxes)
        for rows in (wide if self.all_slots['crop'] else batch)['crops'].split(16): self.add(['crop'], picture, rows)

    def add(self, names, fn, *args): self.jobs.append((names, partial(fn, self.model.clip, *args)))

    def output(self, pieces) -> dict:
        "The model's output from what the jobs returned; empty slots are left out"
        found = {}
        for (names, _), values in zip(self.jobs, pieces):
            for name, v in zip(names, values): found.setdefault(name, []).append(v)
        out = {k: torch.cat(v) for k, v in found.items()}
        for k, wide in self.all_slots.items():
            if wide: out[k] = out[k][self.of_negative if k == 'negative' else self.of_region]
        ids = {k: self.batch[k] for k in ('brief_id', 'detailed_id', 'region_text_id', 'negative_owner')}
        return out | ids | dict(log_scale=self.model.clip.logit_scale, log_scale_rpa=self.model.log_scale_rpa, log_scale_hna=self.model.log_scale_hna)

    def losses(self, pieces, objective) -> tuple:
        "(named parts, gradients by every piece) of pieces that are cut off from the towers"
        leaves = [tuple(v.detach().requires_grad_() for v in p) for p in pieces]
        parts = objective(**self.output(leaves))
        parts['total'].backward()
        return {k: float(v.detach()) for k, v in parts.items()}, [[v.grad for v in p] for p in leaves]

    def learn(self, objective, precision='bf16') -> dict:
        "The gradients that `step` sends, and the parts of the loss; forward only"
        with torch.no_grad(), precision_context('cpu', precision): pieces = [job() for _, job in self.jobs]
        parts, self.grads = self.losses(pieces, objective)
        self.model.zero_grad(set_to_none=True)
        return parts

    def step(self, objective, precision='bf16') -> dict:
        "Forward, losses and backward, part by part; the gradients arrive in the model's parameters"
        pieces = []
        with precision_context('cpu', 'fp32'):
            for (_, job), grads in zip(self.jobs, self.grads):
                with precision_context('cpu', precision): values = job()
                torch.autograd.backward(values, grads)
                pieces.append([v.detach() for v in values])
            return self.losses(pieces, objective)[0]

    def whole(self, objective, precision='bf16') -> dict:
        "The same step as one graph, for as much memory as that takes"
        with precision_context('cpu', 'fp32'):
            with precision_context('cpu', precision): parts = objective(**self.output([job() for _, job in self.jobs]))
            parts['total'].backward()
        return {k: float(v.detach()) for k, v in parts.items()}


def our_losses(model, batch, objective, precision='bf16'):
    "The way there of `train.engine.train_step`"
    with precision_context('cpu', precision): return objective(**model(batch))


def our_step(model, batch, objective, precision='bf16') -> dict:
    "`train.engine.train_step` without the optimiser"
    with precision_context('cpu', 'fp32'):
        parts = our_losses(model, batch, objective, precision)
        parts['total'].backward()
    return {k: float(v.detach()) for k, v in parts.items()}


def gradients(model) -> dict: return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def check_equal(objective, arch='vit-tiny', n=3, size=64, seed=1) -> dict:
    "Largest differences of losses and gradients between the forms, in fp32; stops where a loss differs by more than 1e-4 or a gradient by more than 0.1 %"
    from geoalignclip_nb.model import GeoAlignCLIP
    model = GeoAlignCLIP.create(arch).train()
    batch, found = records(n, seed, size, size, model), {}
    ways = {'ours': lambda: our_step(model, batch, objective, 'fp32')}
    for form in FORMS[1:]:
        b = Baseline(model, batch, form)
        b.learn(objective, 'fp32')
        ways |= {form: partial(b.whole, objective, 'fp32'), f'{form} in parts': partial(b.step, objective, 'fp32')}
    for name, way in ways.items():
        model.zero_grad(set_to_none=True)
        found[name] = way(), gradients(model)
    parts, grads = found['ours']
    worst = lambda values: float(torch.tensor(list(values)).max())  # unlike Python's max, it does not lose a nan
    loss = {k: worst(abs(v[0][p] - parts[p]) for p in parts) for k, v in found.items() if k != 'ours'}
    grad = {k: worst((v[1][n] - g).norm() / (g.norm() + 1e-6) for n, g in grads.items()) for k, v in found.items() if k != 'ours'}
    for k in loss: assert found[k][1].keys() == grads.keys() and loss[k] < 1e-4 and grad[k] < 1e-3, f'{k}: losses differ by {loss[k]:.2e}, gradients by {grad[k]:.2e}'
    return dict(model=arch, precision='fp32', batch=n, resolution=size, largest_loss_difference=worst(loss.values()), largest_gradient_difference=worst(grad.values()))


def limit_memory(share=.92):
    "Let this process ask for `share` of the free memory and no more: it fails by itself before it pushes others out (Linux)"
    try:
        import resource
        free, mine = (int(next(s for s in open(f).read().splitlines() if s.startswith(k)).split()[1]) * 1024 for f, k in (('/proc/meminfo', 'MemAvailable'), ('/proc/self/status', 'VmData')))
        resource.setrlimit(resource.RLIMIT_DATA, (mine + int(share * free), resource.RLIM_INFINITY))
    except (ImportError, OSError, StopIteration, ValueError): pass
