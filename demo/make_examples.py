"""Write `examples/`: procedural scenes that the demo starts from. `python demo/make_examples.py`

Scenes are the library's own (`geoalignclip_nb.scenes`), so no licence of a data set is touched. Each example says why it is there;
the last phrase of each is certainly not in the picture, so that one sees how absence looks.
"""
import argparse
import json
from pathlib import Path

from geoalignclip_nb.core import to_pixels
from geoalignclip_nb.scenes import absent_phrases, make_scene

EXAMPLES = [  # kind of scene (part of a name in scenes.KINDS), seed, why this example
    ('apron', 3, 'Many small objects'),
    ('harbo', 1, 'Boats on water'),
    ('tennis', 2, 'Colours decide'),
    ('tank', 4, 'Round objects'),
    ('roundabout', 5, 'A ring of road'),
    ('parking', 6, 'A crowd of cars'),
]


def area(region): return (region.box[2] - region.box[0]) * (region.box[3] - region.box[1])


def main(argv=None):
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('--out', type=Path, default=Path(__file__).resolve().parent/'examples')
    p.add_argument('--size', type=int, default=512, help='pixels (default 512)')
    args = p.parse_args(argv)
    from geoalignclip_nb.scenes import KINDS
    args.out.mkdir(exist_ok=True)
    listing = []
    for part, seed, label in EXAMPLES:
        kind = next(k for k in KINDS if part in k)
        sample = make_scene(kind, seed=seed, size=args.size)
        name = f'{kind.replace(" ", "_")}.jpg'
        sample.image.save(args.out/name, quality=88)
        boxes = to_pixels([r.box for r in sorted(sample.regions, key=area)[-2:]], *sample.image.size).round().astype(int).tolist()
        listing.append(dict(file=name, label=label, phrases=[*sample.phrases[:3], *absent_phrases(sample, 1, seed=seed)], boxes=boxes))
    (args.out/'examples.json').write_text(json.dumps(listing, indent=1) + '\n', encoding='utf-8')
    print(f'{len(listing)} examples, {sum(f.stat().st_size for f in args.out.iterdir()) / 1e3:.0f} kB')


if __name__ == '__main__': main()
