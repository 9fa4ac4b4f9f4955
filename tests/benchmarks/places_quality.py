"""How good are the places of `GroundResult.places`? Points in boxes and boxes by IoU, on RSOD.

    python tests/benchmarks/places_quality.py --data FOLDER_WITH_rsod      # about 4 minutes on 2 threads

Threshold (share of the color scale) and separation are chosen on images of the training part by the F1 of points, the extent by the F1 of boxes
at IoU 0.5, and all three are reported on the validation part. All four classes are asked of every image, so a place of a class that the
image does not hold is a false one. The result goes to nbs/assets/results/places_quality.json, which page 14_grounding shows.
"""
import argparse
import datetime
import json
import platform
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torchvision.ops import box_iou

from geoalignclip_nb.core import GeoAlignError, assets_dir, cpu_name, data_dir, sha256_of, stable_hash, write_beside
from geoalignclip_nb.data.sources import coco_boxes
from geoalignclip_nb.ground import ground
from geoalignclip_nb.localization import find_places
from geoalignclip_nb.model import GeoAlignCLIP

CLASSES = {'aircraft': 'aircraft', 'oiltank': 'oil tank', 'overpass': 'overpass', 'playground': 'playground'}
SHARES = tuple(np.arange(.3, .91, .05).round(2).tolist())
SEPARATIONS = .8, .9, .95, .98
EXTENTS = .5, .6, .7
RULES = 'point', 'iou30', 'iou50'


def matches(places, boxes, rule):
    "How many places, best first, find a box that no better place has found"
    if not places or not len(boxes): return 0
    boxes = torch.tensor(boxes, dtype=torch.float64)
    if rule == 'point':
        points = torch.tensor([place.point for place in places], dtype=torch.float64)
        fits = ((points[:, None] >= boxes[None, :, :2]) & (points[:, None] <= boxes[None, :, 2:])).all(-1).double()
    else: fits = box_iou(torch.tensor([place.box for place in places], dtype=torch.float64), boxes)
    least, free, count = dict(point=.5, iou30=.3, iou50=.5)[rule], torch.ones(len(boxes), dtype=torch.bool), 0
    for row in fits:
        best = int(torch.where(free, row, -1.).argmax())
        if free[best] and row[best] >= least:
            free[best] = False
            count += 1
    return count


def answers(model, samples):
    "Per image and class (map, scale, found, boxes)"
    for sample in samples:
        result = ground(model, sample.image, list(CLASSES.values()))
        for i, name in enumerate(CLASSES):
            boxes = [region.box for region in sample.regions if region.category == name]
            yield result.maps[i], result.scale, result.found[i], boxes, name


def counts(items, separation, extent, shares):
    "Per share and rule the numbers (right, places, boxes), in all and per class"
    total = {(share, rule, name): np.zeros(3, int) for share in shares for rule in RULES for name in ('all', *CLASSES)}
    for heat, (low, high), found, boxes, name in items:
        lowest = low + min(shares) * (high - low)
        places = [] if found is False else find_places(heat, lowest, bottom=low, separation=separation, extent=extent)
        for share in shares:
            kept = [place for place in places if place.score >= low + share * (high - low)]
            if found and not kept: kept = find_places(heat, float(heat.max()), bottom=low, separation=separation, extent=extent)[:1]
            for rule in RULES:
                row = np.array([matches(kept, boxes, rule), len(kept), len(boxes)])
                for key in ('all', name): total[share, rule, key] += row
    return total


def scores(row):
    "Precision, recall and F1 in percent"
    right, places, boxes = (int(v) for v in row)
    precision, recall = 100 * right / max(places, 1), 100 * right / max(boxes, 1)
    f1 = 2 * precision * recall / max(precision + recall, 1e-9)
    return dict(precision=round(precision, 2), recall=round(recall, 2), f1=round(f1, 2), places=places, boxes=boxes)


def part(root, name, limit, seed):
    samples = coco_boxes(Path(root)/'rsod', name, 'rsod')
    return sorted(samples, key=lambda s: stable_hash(f'{seed}{s.id}'))[:limit]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--data', help='folder that holds rsod/ (default: GEOALIGN_DATA)')
    parser.add_argument('--model', default='geoalign-tiny')
    parser.add_argument('--limit', type=int, default=100, help='images of each part')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--out', default=str(assets_dir()/'results'/'places_quality.json'))
    args = parser.parse_args()
    start, root = time.time(), args.data or data_dir()
    model = GeoAlignCLIP.from_pretrained(args.model)
    train = list(answers(model, part(root, 'train', args.limit, args.seed)))
    table = {(sep, e): counts(train, sep, e, SHARES) for sep in SEPARATIONS for e in EXTENTS}
    def f1(sep, e, share, rule): return scores(table[sep, e][share, rule, 'all'])['f1']
    separation, share = max(((sep, s) for sep in SEPARATIONS for s in SHARES), key=lambda pair: f1(pair[0], .6, pair[1], 'point'))
    extent = max(EXTENTS, key=lambda e: f1(separation, e, share, 'iou50'))
    samples = part(root, 'val', args.limit, args.seed)
    val = counts(list(answers(model, samples)), separation, extent, [share])
    out = dict(
        task='places', dataset='RSOD', chosen_on='train', split='val', n=len(samples), n_train=len(train) // len(CLASSES),
        model=model.name, checkpoint=sha256_of(assets_dir()/args.model/'model.safetensors') if args.model == 'geoalign-tiny' else '',
        share=share, separation=separation, extent=extent,
        train={str(s): {rule: scores(table[separation, extent][s, rule, 'all']) for rule in RULES} for s in SHARES},
        train_rules={f'{sep} {e}': {rule: scores(table[sep, e][share, rule, 'all']) for rule in RULES} for sep, e in table},
        val={name: {rule: scores(val[share, rule, name]) for rule in RULES} for name in ('all', *CLASSES)},
        seconds=round(time.time() - start, 1), device='cpu', threads=torch.get_num_threads(), cpu=cpu_name(),
        versions=dict(torch=torch.__version__, python=platform.python_version()), seed=args.seed,
        date=datetime.date.today().isoformat())
    with write_beside(args.out) as file: file.write_text(json.dumps(out, indent=1, allow_nan=False) + '\n')
    print(f"share {share}, separation {separation}, extent {extent}; val {out['val']['all']}; {out['seconds']} s")


if __name__ == '__main__':
    try: main()
    except GeoAlignError as e:
        print(e, file=sys.stderr)
        sys.exit(2)
