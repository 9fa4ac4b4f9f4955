"""How long does the one reader need, compared with Pillow alone?

    python tests/benchmarks/image_speed.py /data/rsicd/RSICD_images               # 500 images, sorted by name
    python tests/benchmarks/image_speed.py /data/rsicd/RSICD_images --limit 1000 --repeats 5

Each image is read with `load_image` and with `Image.open(path).convert('RGB')`, in one process and in turn, several
times. The shortest time of each image counts, because other programs only ever make it longer. The result is the
ratio of the two sums.
Goal: at most 1.2 times the time of Pillow alone on JPEG.
"""

import argparse
import time
from pathlib import Path

import numpy as np
from PIL import Image

from geoalignclip_nb.io.images import load_image

GOAL = 1.2


def with_pillow(path):
    return Image.open(path).convert('RGB')


def seconds(read, path) -> float:
    start = time.perf_counter()
    read(path)
    return time.perf_counter() - start


def largest_difference(path) -> int:
    pair = [np.asarray(read(path)).astype(int) for read in (with_pillow, load_image)]
    return abs(pair[0] - pair[1]).max()


def fastest(paths, readers, repeats: int) -> list[float]:
    "For each reader, the sum over all files of the shortest time, in seconds"
    shortest = np.full((len(readers), len(paths)), np.inf)
    for repeat in range(repeats):
        order = list(enumerate(readers))
        for k, path in enumerate(paths):
            for which, read in order if repeat % 2 else order[::-1]:
                shortest[which, k] = min(shortest[which, k], seconds(read, path))
    return shortest.sum(1).tolist()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('folder', type=Path)
    parser.add_argument('--pattern', default='*.*')
    parser.add_argument('--limit', type=int, default=500)
    parser.add_argument('--repeats', type=int, default=7)
    options = parser.parse_args()
    paths = sorted(options.folder.glob(options.pattern))[: options.limit]
    for path in paths:
        assert largest_difference(path) <= 2, path  # two JPEG decoders may round differently
    pillow, ours = fastest(paths, (with_pillow, load_image), options.repeats)
    per_image = 1000 / len(paths)
    print(f'{len(paths)} files: Pillow {pillow * per_image:.3f} ms, load_image {ours * per_image:.3f} ms per image')
    print(f'ratio {ours / pillow:.3f} (goal: at most {GOAL})')


if __name__ == '__main__':
    main()
