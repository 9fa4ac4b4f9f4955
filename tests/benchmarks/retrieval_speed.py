"""How long does an RSICD-sized retrieval take, and does the fast way find the same? ViT-B/16 with random weights is timed, `vit-tiny` proves the recalls.

    GEOALIGN_DATA=/data python tests/benchmarks/retrieval_speed.py               # RSICD val; on 2 threads about half an hour
    GEOALIGN_DATA=/data python tests/benchmarks/retrieval_speed.py --share 0.1   # a tenth of the pictures: a few minutes

Plain: open_clip alone, fp32, every sentence encoded as it comes and padded to 77 tokens, pictures through one loader process.
Ours: `bench.embeddings.Embedder` and `bench.retrieval.embed_texts` - each distinct sentence once, cut to the longest of its batch, decoding in threads
beside the model - with pictures in fp32 and in bf16, texts in fp32. The three are timed one after the other in one run; the ratios are of their wall clocks.
The recalls are those of `vit-tiny` on all pictures and sentences of the split, each way; bf16 counts as exact enough where no recall moves by more than 0.1.
The result goes to nbs/assets/results/retrieval_speed.json, where page 53_retrieval reads it.
Goal: at least 2 times as fast as plain.
"""
import argparse
import datetime
import json
import platform
import sys
import time
import warnings

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from PIL import Image

from geoalignclip_nb.bench.embeddings import Embedder
from geoalignclip_nb.bench.metrics import retrieval_metrics
from geoalignclip_nb.bench.retrieval import sentences
from geoalignclip_nb.core import assets_dir, cpu_name, data_dir, write_beside
from geoalignclip_nb.data.sources import rsicd
from geoalignclip_nb.model import GeoAlignCLIP

GOAL, EXACT = 2., .1


class Pictures(torch.utils.data.Dataset):
    "What a plain script does: open, transform"
    def __init__(self, samples, transform): self.samples, self.transform = samples, transform
    def __len__(self): return len(self.samples)
    def __getitem__(self, i): return self.transform(Image.open(self.samples[i].image).convert('RGB'))


@torch.no_grad()
def plain(model, samples, texts, batch=64):
    "open_clip as its README uses it"
    clip, size = model.clip, model.preprocess.size
    transform = open_clip.image_transform(size, is_train=False, mean=model.preprocess.mean, std=model.preprocess.std, resize_mode='squash')
    loader = torch.utils.data.DataLoader(Pictures(samples, transform), batch, num_workers=1)
    start = time.perf_counter()
    image = torch.cat([F.normalize(clip.encode_image(x), dim=-1) for x in loader])
    middle = time.perf_counter()
    tokens = open_clip.SimpleTokenizer(context_length=clip.context_length)
    text = torch.cat([F.normalize(clip.encode_text(tokens(texts[i:i+batch])), dim=-1) for i in range(0, len(texts), batch)])
    return image, text, middle - start, time.perf_counter() - middle


@torch.no_grad()
def ours(model, samples, texts, precision):
    start = time.perf_counter()
    embed = Embedder(model, precision=precision)
    image, kept = embed.images(samples)
    assert len(kept) == len(samples)
    middle = time.perf_counter()
    text = embed.texts(texts)
    return image, text, middle - start, time.perf_counter() - middle


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--model', default='ViT-B-16', help='architecture that is timed, random weights')
    p.add_argument('--split', default='val')
    p.add_argument('--share', type=float, default=1., help='share of the pictures that is timed')
    p.add_argument('--threads', type=int, default=2)
    p.add_argument('--seed', type=int, default=0)
    p.add_argument('--out', default=assets_dir()/'results'/'retrieval_speed.json')
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    warnings.simplefilter('ignore')  # words that vit-tiny never saw
    everything = rsicd(data_dir('rsicd'), a.split)
    pick = np.random.default_rng(a.seed).permutation(len(everything))[:max(1, round(a.share * len(everything)))]
    samples = [everything[i] for i in sorted(pick)]
    texts = sentences(samples)[0]
    model = GeoAlignCLIP.create(a.model, seed=a.seed, stretch=False)
    ways = {'plain': lambda *x: plain(*x), 'ours fp32': lambda *x: ours(*x, 'fp32'), 'ours bf16': lambda *x: ours(*x, 'bf16')}
    for way in ways.values(): way(model, samples[:8], texts[:40])  # warm up
    seconds, vectors = {}, {}
    for name, way in ways.items():
        *vectors[name], pictures, words = way(model, samples, texts)
        seconds[name] = dict(pictures=round(pictures, 2), texts=round(words, 2), all=round(pictures + words, 2))
        print(name, seconds[name], file=sys.stderr)
    tiny, (texts_all, owner) = GeoAlignCLIP.from_pretrained('vit-tiny', size=128), sentences(everything)  # at the size of its own table, which open_clip needs
    recalls = {name: {k: round(v, 3) for k, v in retrieval_metrics(*(v.numpy() for v in way(tiny, everything, texts_all)[:2]), owner).items()} for name, way in ways.items()}
    moved = {name: max(abs(r[k] - recalls['plain'][k]) for k in r) for name, r in recalls.items()}
    fair = [n for n in ways if n != 'plain' and moved[n] <= EXACT + 1e-9]
    ratios = {n: round(seconds['plain']['all'] / seconds[n]['all'], 2) for n in ways if n != 'plain'}
    best = max((ratios[n] for n in fair), default=0.)
    out = dict(task='retrieval_speed', command=f'python tests/benchmarks/retrieval_speed.py --model {a.model} --split {a.split} --share {a.share:g} --threads {a.threads} --seed {a.seed}',
               model=a.model, weights='random', dataset='rsicd', split=a.split, n=len(samples), n_texts=len(texts), distinct_texts=len(set(texts)), resolution=model.preprocess.size,
               seconds=seconds, ratios=ratios, largest_difference={n: float((torch.cat(vectors[n]) - torch.cat(vectors['plain'])).abs().max()) for n in ratios},
               recalls=dict(model='vit-tiny', resolution=128, n=len(everything), n_texts=len(texts_all), **recalls), recall_moved={n: round(v, 3) for n, v in moved.items()}, exact_enough=fair,
               goal=f'at least {GOAL} among the ways whose recalls move by at most {EXACT}', met=best >= GOAL, threads=a.threads, device='cpu',
               cpu=cpu_name(), versions=dict(torch=torch.__version__, open_clip=open_clip.__version__, python=platform.python_version()), seed=a.seed, date=datetime.date.today().isoformat())
    with write_beside(a.out) as file: file.write_text(json.dumps(out, indent=1) + '\n')
    for n in ratios: print(f"{n:10} {seconds[n]['all']:8.1f} s, {ratios[n]:5.2f} times as fast as plain ({seconds['plain']['all']:.1f} s); recalls move by {moved[n]:.3f} at most")
    print(f"goal ({out['goal']}): {'met' if out['met'] else 'MISSED'}")


if __name__ == '__main__': main()
