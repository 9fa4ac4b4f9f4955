"""How long does the one reader need, compared with Pillow alone?

    python tests/benchmarks/image_speed.py /data/rsicd/RSICD_images               # 500 images, sorted by name
    python tests/benchmarks/image_speed.py /data/rsicd/RSICD_images --limit 1000 --repeats 5

Each image is read with `load_image` and with `Image.open(path).convert('RGB')`, in one process. The order of the two
alternates, and the first pass over the files is not counted, so both find them in the file cache. The result is the
ratio of the two sums, per repeat and as the median.
Goal: at most 1.2 times the time of Pillow alone on JPEG.
"""

import argparse
import statistics
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


def compare(paths, first, second) -> float:
    "Time of `second` divided by the time of `first`, over all files"
    sums = [0.0, 0.0]
    for k, path in enumerate(paths):
        pair = [(0, first), (1, second)]
        for which, read in pair if k % 2 else reversed(pair):
            sums[which] += seconds(read, path)
    return sums[1] / sums[0]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('folder', type=Path)
    parser.add_argument('--pattern', default='*.*')
    parser.add_argument('--limit', type=int, default=500)
    parser.add_argument('--repeats', type=int, default=3)
    options = parser.parse_args()
    paths = sorted(options.folder.glob(options.pattern))[: options.limit]
    for path in paths:
        assert largest_difference(path) <= 2, path  # two JPEG decoders may round differently
    ratios = [compare(paths, with_pillow, load_image) for _ in range(options.repeats)]
    print(
        f'{len(paths)} files; load_image / Pillow:',
        *(f'{ratio:.3f}' for ratio in ratios),
        f'median {statistics.median(ratios):.3f} (goal {GOAL})',
    )


if __name__ == '__main__':
    main()
