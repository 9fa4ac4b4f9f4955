"""Every reader of every data set, with the maker of its small files. A reader that is added here gets all tests of the kind."""
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from data.captions import make as captions
from data.choice import make as choice
from data.class_folders import make as class_folders
from data.coco import make as coco
from data.dior_rsvg import make as dior_rsvg
from data.pictures import PICTURES, Style
from data.refer import make as refer
from data.rsfg import make as rsfg
from data.rsvg_hr import make as rsvg_hr
from data.vhr10 import make as vhr10
from geoalignclip_nb.bench import box_sets as B, datasets as D
from geoalignclip_nb.core import Sample
from geoalignclip_nb.data import sources as S
from geoalignclip_nb.data.shards import open_shards
from geoalignclip_nb.data.visual_grounding import dior_rsvg as read_dior_rsvg


@dataclass(frozen=True)
class ReaderCase:
    "A reader and the maker of its files"
    name: str
    make: Callable  # make(folder, pictures, style) -> root
    read: Callable  # read(root, **options) -> list of samples or BenchSet
    boxes: bool = False  # whether it delivers boxes
    sized: bool = False  # whether its annotations state sizes of images
    names: bool = True  # whether its annotations write names of images; False: they follow from other names
    json: tuple[str, ...] = ()  # patterns of the JSON files that it reads

    def __str__(self): return self.name

    def build(self, folder: Path, style: Style = Style()) -> Path: return self.make(folder, PICTURES, style)


def bench(data, **fixed):
    "A reader of a benchmark, its split fixed"
    return lambda root, **options: data.read(root, **fixed, **options)


def shard_samples(root, **options): return list(open_shards(f'rsfg:{root}', **options))


KARPATHY = {name: (lambda folder, pictures, style, name=name: captions.make(folder, pictures, style, name)) for name in captions.FILES}
CHOICE_INS = B.NEAR_MISS_SETS['choice-ins']
READERS = [
    ReaderCase('rsicd (training)', KARPATHY['rsicd'], lambda root: S.rsicd(root, 'test'), json=('dataset_rsicd.json',)),
    ReaderCase('ucm (training)', KARPATHY['ucm'], lambda root: S.ucm(root, 'test'), json=('dataset.json',)),
    *(ReaderCase(f'{name} json', KARPATHY[name], bench(D.CAPTION_SETS[name]), json=(captions.FILES[name][0],)) for name in captions.FILES),
    ReaderCase('rsicd csv', captions.make_csv, bench(D.CAPTION_SETS['rsicd'])),
    ReaderCase('rsicd precomp', captions.make_precomp, bench(D.CAPTION_SETS['rsicd'])),
    ReaderCase('class folders', class_folders.make, bench(D.OWN_SETS['folder']), names=False),
    ReaderCase('coco (training)', coco.make, lambda root, **options: S.coco_boxes(root, source='demo', **options), True, True, json=('annotations.json',)),
    ReaderCase('coco', coco.make, bench(D.OWN_SETS['coco']), True, True, json=('annotations.json',)),
    ReaderCase('vhr10', vhr10.make, bench(B.BOX_SETS['vhr10']), True, True, json=('annotations.json',)),
    ReaderCase('vhr10 original', vhr10.make, bench(B.BOX_SETS['vhr10'], boxes='original'), True, names=False),
    ReaderCase('rrsis-d', refer.make, bench(B.BOX_SETS['rrsis-d'], box='mask'), True, True, json=('rrsisd/instances.json',)),
    ReaderCase('rrsis-d bbox', refer.make, bench(B.BOX_SETS['rrsis-d']), True, True, json=('rrsisd/instances.json',)),
    ReaderCase('rrsis-d all', refer.make, bench(B.BOX_SETS['rrsis-d'], objects='all'), True, True, names=False),
    ReaderCase('rrsis-hr', lambda *a: refer.make(*a, name='rrsishr'), bench(B.NEAR_MISS_SETS['rrsis-hr']), True, True, json=('rrsishr/instances.json',)),
    ReaderCase('rsvg-hr', rsvg_hr.make, bench(B.NEAR_MISS_SETS['rrsis-hr'], source='rsvg-hr'), True),
    ReaderCase('choice masks', choice.make, bench(CHOICE_INS), True, True, json=('perception/*/referring_expression_segmentation/*.json',)),
    ReaderCase('choice corners', choice.make, bench(CHOICE_INS, task='visual_grounding'), True, json=('perception/*/visual_grounding/*.json',)),
    ReaderCase('dior-rsvg', dior_rsvg.make, lambda root, **options: read_dior_rsvg(root, 'test', **options), True, True, names=False),
    ReaderCase('dior-rsvg without sizes', lambda *a: dior_rsvg.make(*a, sized=False), lambda root, **options: read_dior_rsvg(root, 'test', **options), True, names=False),
    ReaderCase('rsfg records', rsfg.make, shard_samples, True, True, json=('a.json',)),
    ReaderCase('rsfg records without sizes', lambda *a: rsfg.make(*a, sized=False), shard_samples, True, json=('a.json',)),
    ReaderCase('rsfg lines', lambda *a: rsfg.make(*a, lines=True), shard_samples, True, True, json=('a.jsonl',)),
    ReaderCase('rsfg shards', rsfg.make_shard, shard_samples, True, True, names=False),
]
BOX_READERS = [r for r in READERS if r.boxes]
JSON_READERS = [r for r in READERS if r.json]
NAME_READERS = [r for r in READERS if r.name not in ('class folders', 'rsfg shards')]
