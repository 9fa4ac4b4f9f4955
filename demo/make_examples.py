"""Write `examples/`: procedural scenes that the demo starts from. `python demo/make_examples.py`

The scenes are the library's own (`geoalignclip_nb.scenes`), so no license of a data set is touched. `CHOICES` says
where the bundled model is right and where it fails; this program asks the model again and reports where that no longer
holds.
The last phrase of each example is not in the image, to show what absence looks like.
"""
import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path

from geoalignclip_nb.core import Region, Sample, to_pixels
from geoalignclip_nb.io.images import load_image
from geoalignclip_nb.scenes import make_scene

SIZE = 512  # pixels
MARGIN = .03  # of the image; a place this near to a bounding box counts as inside


@dataclass(frozen=True)
class Choice:
    "A scene of `scenes.make_scene` and what the bundled model makes of it"
    kind: str
    seed: int
    label: str  # what to see
    phrases: tuple[str, ...]  # the last one is absent
    right: bool = True  # False: the model fails here, and the label says so


CHOICES = [
    Choice('airport apron', 3, 'Six planes beside a terminal', ('plane', 'beige terminal', 'orange basketball court')),
    Choice('storage tanks', 3, 'Tanks beside a building', ('storage tank', 'industrial building', 'red airplane')),
    Choice('stadium', 5, 'Two kinds of sports ground', ('running track', 'basketball court', 'aircraft')),
    Choice('bridge', 2, 'A bridge and a house', ('bridge', 'house', 'circular field')),
    Choice('roundabout', 6, 'A ring of road and two trucks', ('traffic circle', 'lorry', 'tennis court')),
    Choice('residential', 6, 'Four swimming pools', ('swimming pool', 'tennis court')),
    Choice('harbour', 1, 'A building at the quay', ('industrial building', 'baseball field')),
    Choice('airport apron', 3, 'A failure: “white airplane” also lights the red and the blue one',
           ('white airplane', 'bridge'), right=False),
]


COLORS = ('beige', 'black', 'blue', 'brown', 'green', 'grey', 'orange', 'red', 'turquoise', 'white', 'yellow')
SAME_THING = ({'plane', 'airplane', 'aircraft'}, {'ship', 'boat', 'motorboat'}, {'truck', 'lorry'},
              {'tank', 'storage tank', 'oil tank'}, {'pool', 'swimming pool'}, {'traffic circle', 'roundabout'})


def color_and_noun(phrase: str) -> tuple[str, str]:
    "Color ('' where a phrase names none) and thing"
    first, _, rest = phrase.partition(' ')
    return (first, rest) if first in COLORS and rest else ('', phrase)


def is_true(region: Region, phrase: str) -> bool:
    "Whether a phrase names a region; where only one of the two names a color, the things decide"
    color, noun = color_and_noun(phrase)
    own_color, own_noun = color_and_noun(region.phrase)
    same_thing = noun == own_noun or any({noun, own_noun} <= names for names in SAME_THING)
    return same_thing and (not color or not own_color or color == own_color)


def is_inside(point: tuple[float, float], box: tuple[float, float, float, float]) -> bool:
    "Whether a point (fractions) is in a bounding box or near it"
    x1, y1, x2, y2 = box
    return x1 - MARGIN <= point[0] <= x2 + MARGIN and y1 - MARGIN <= point[1] <= y2 + MARGIN


def faults_of(result, sample: Sample) -> list[str]:
    "What is wrong in a result whose last phrase is absent: one sentence each"
    faults = []
    *present, absent = result.phrases
    if result.found[-1] is not False: faults.append(f'{absent} is absent and was found')
    for phrase, found, places in zip(present, result.found, result.places()):
        boxes = [region.box for region in sample.regions if is_true(region, phrase)]
        outside = [p for p in places if not any(is_inside(p.point, box) for box in boxes)]
        if found is False or not places: faults.append(f'{phrase} is present and was not found')
        if outside: faults.append(f'{len(outside)} of {len(places)} places of {phrase} are elsewhere')
    return faults


def scene_of(choice: Choice) -> Sample: return make_scene(choice.kind, seed=choice.seed, size=SIZE)


def file_name(choice: Choice) -> str:
    return f'{choice.kind.replace(" ", "_")}.jpg'


def check(choice: Choice, model, folder: Path) -> list[str]:
    "Ask a model about the written image; what is wrong in its answer"
    from geoalignclip_nb.ground import ground
    return faults_of(ground(model, load_image(folder/file_name(choice)), list(choice.phrases)), scene_of(choice))


def area(region: Region) -> float:
    x1, y1, x2, y2 = region.box
    return (x2 - x1) * (y2 - y1)


def write(choice: Choice, folder: Path) -> dict[str, object]:
    "Write the image; its row of the listing, with boxes of the two largest regions"
    sample = scene_of(choice)
    sample.image.save(folder/file_name(choice), quality=88)
    largest = sorted(sample.regions, key=area)[-2:]
    boxes = to_pixels([region.box for region in largest], SIZE, SIZE).round().astype(int).tolist()
    return dict(file=file_name(choice), label=choice.label, phrases=list(choice.phrases), boxes=boxes,
                right=choice.right)


def main(argv: list[str] | None = None):
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('--out', type=Path, default=Path(__file__).resolve().parent/'examples')
    args = p.parse_args(argv)
    from geoalignclip_nb.model import GeoAlignCLIP
    args.out.mkdir(exist_ok=True)
    listing = [write(choice, args.out) for choice in CHOICES]
    (args.out/'examples.json').write_text(json.dumps(listing, indent=1, ensure_ascii=False) + '\n', encoding='utf-8')
    model = GeoAlignCLIP.from_pretrained('geoalign-tiny')
    wrong = 0
    for choice in CHOICES:
        faults = check(choice, model, args.out)
        wrong += choice.right == bool(faults)
        print(f'{choice.kind}: {"; ".join(faults) or "right"}')
    sys.exit(f'{wrong} examples are not what CHOICES says; choose others.' if wrong else 0)


if __name__ == '__main__': main()
