"""The loader: original pixels, one resize, a cache on disk that mends itself, and inputs of their own for every loss."""
import os
import random
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from PIL import Image

from geoalignclip_nb.core import Region, Sample
from geoalignclip_nb.data import loader as L
from geoalignclip_nb.io.images import crop_box, resize_image
from geoalignclip_nb.text import Tokenizer
from geoalignclip_nb.vision import Preprocess

MEAN, STD = (.48, .46, .41), (.27, .26, .28)
TURNS = [L.View(turns=t, mirror=m) for t, m in product(range(4), (False, True))]


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    "A cache folder of its own for every test"
    folder = tmp_path_factory.mktemp('cache')
    monkeypatch.setenv('GEOALIGN_CACHE', str(folder))
    return folder


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def saved(folder, name: str = 'a.png', size=(70, 40), seed: int = 0, **metadata) -> Sample:
    noise(*size, seed).save(folder/name, **metadata)
    return Sample(str(folder/name), f'image {name}', id=name)


def same(a: Image.Image, b: Image.Image) -> bool: return a.size == b.size and np.array_equal(np.asarray(a), np.asarray(b))


def pixel_files(cache) -> list: return sorted((cache/'pixels').rglob('*.rgb'))


# the cache of decoded images

def test_an_image_is_decoded_once(tmp_path, cache, monkeypatch):
    samples = [saved(tmp_path), saved(tmp_path, 'b.png', seed=1)]
    first = L.ImageCache([*samples, samples[0]])
    assert len(first) == 3 and len(pixel_files(cache)) == 2
    monkeypatch.setattr(L, 'load_image', lambda *a: pytest.fail('decoded again'))
    again = L.ImageCache(samples)
    assert same(again.image(0), noise(70, 40)) and same(again.read(samples[1]), noise(70, 40, 1))


@pytest.mark.parametrize('damage', [lambda d: b'', lambda d: d[:10], lambda d: d[:-1], lambda d: d + b'x', lambda d: b'x' * len(d),
                                    lambda d: d[:500] + bytes([d[500] ^ 1]) + d[501:]])
def test_a_broken_file_is_written_again(tmp_path, cache, damage):
    sample = saved(tmp_path)
    L.ImageCache([sample])
    file, = pixel_files(cache)
    whole = file.read_bytes()
    file.write_bytes(damage(whole))
    assert same(L.ImageCache([sample]).image(0), noise(70, 40)) and file.read_bytes() == whole


def test_a_file_that_vanishes_is_decoded(tmp_path, cache):
    images = L.ImageCache([saved(tmp_path)])
    for file in pixel_files(cache): file.unlink()
    assert same(images.image(0), noise(70, 40))


def test_a_changed_image_is_decoded_again(tmp_path):
    L.ImageCache([saved(tmp_path)])
    sample = saved(tmp_path, seed=5)
    os.utime(sample.image, ns=(1, 1))
    assert same(L.ImageCache([sample]).image(0), noise(70, 40, 5))


def test_another_reader_decodes_again(tmp_path, cache, monkeypatch):
    sample = saved(tmp_path)
    L.ImageCache([sample])
    monkeypatch.setattr(L, '_reader_version', lambda: 'another')
    L.ImageCache([sample])
    assert len(pixel_files(cache)) == 2


def test_no_temporary_files_stay(tmp_path, cache):
    L.ImageCache([saved(tmp_path)])
    assert [f.suffix for f in (cache/'pixels').rglob('*') if f.is_file()] == ['.rgb'] and not list(cache.rglob('*.tmp*'))


def test_side_keeps_the_aspect_and_never_enlarges(tmp_path):
    sample = saved(tmp_path, size=(200, 50))
    for side, size in ((0, (200, 50)), (100, (100, 25)), (7, (7, 2)), (1, (1, 1)), (999, (200, 50))):
        image = L.ImageCache([sample], side).image(0)
        assert image.size == size
        if size != (200, 50): assert same(image, resize_image(noise(200, 50), size))


def test_orientation_is_that_of_load_image(tmp_path):
    exif = Image.Exif()
    exif[274] = 6
    assert L.ImageCache([saved(tmp_path, exif=exif)]).image(0).size == (40, 70)


def test_drawn_images_stay_in_memory(cache):
    drawn = noise(30, 20)
    images = L.ImageCache([Sample(drawn, id='a'), Sample(drawn, id='b'), Sample(noise(30, 20).convert('L'), id='c')])
    assert images.image(0) is images.image(1) is drawn and images.image(2).mode == 'RGB'
    assert not (cache/'pixels').exists()


def test_unreadable_images_are_counted_once(tmp_path):
    (tmp_path/'broken.png').write_bytes(b'x')
    broken, missing = (Sample(str(tmp_path/n), id=n) for n in ('broken.png', 'missing.png'))
    images = L.ImageCache([broken, saved(tmp_path), missing, broken])
    assert [s.id for s in images.samples] == ['a.png']
    assert [name for name, _ in images.skipped] == ['broken.png', 'missing.png'] and all(str(tmp_path) not in f for _, f in images.skipped)


def test_a_full_disk_is_one_sentence(tmp_path, cache, monkeypatch):
    monkeypatch.setattr(L, 'FREE_BYTES', 10**18)
    images = L.ImageCache([saved(tmp_path)])
    assert same(images.image(0), noise(70, 40)) and not pixel_files(cache)
    assert 'GB left' in images.note and images.note.endswith('folder on another disk.')


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path/'taken').touch()
    images = L.ImageCache([saved(tmp_path)], folder=tmp_path/'taken')
    assert same(images.image(0), noise(70, 40)) and 'cannot be written' in images.note


# views: one resize of the original pixels

def loader(samples, batch: int = 1, **changes) -> L.Loader:
    items = L.LoaderSettings(**(dict(size=32, crop_size=16, regions=True, detailed=True, sibling_negatives=True) | changes))
    return L.Loader([L.ImageCache(samples)], Tokenizer(), items, batch, MEAN, STD)


@given(width=st.integers(1, 300), height=st.integers(1, 300), size=st.integers(1, 64))
@settings(max_examples=60, deadline=None)
def test_training_without_augmentation_is_the_evaluation_tensor(width, height, size):
    image = noise(width, height)
    batch = loader([Sample(image, 'a field')], size=size, augment=False, regions=False).batch(0, 0)
    assert torch.equal(batch['images'][0], Preprocess(size, mean=MEAN, std=STD)(image))


def test_files_too(tmp_path):
    sample = saved(tmp_path, 'a.jpg', (123, 77), quality=90)
    batch = loader([sample], augment=False).batch(0, 0)
    assert torch.equal(batch['images'][0], Preprocess(32, mean=MEAN, std=STD)(Image.open(sample.image)))


def test_a_window_is_resized_once():
    image = noise(400, 300)
    shown = L.view_image(image, L.View((.25, .5, .75, 1.)), 100)
    assert np.array_equal(shown, np.asarray(image.resize((100, 100), Image.BICUBIC, (100, 150, 300, 300), reducing_gap=3.0)))
    assert np.array_equal(L.view_image(image, L.View((0., 0., .25, 1 / 3)), 100), np.asarray(image)[:100, :100])  # its own size: no filter


def test_crops_are_the_original_pixels():
    "A box of 50 pixels in an image of 1,000 keeps every pixel"
    image = noise(1000, 800)
    region = Region((.3, .25, .35, .3125), 'plane')
    item = L.make_item(Sample(image, regions=[region]), image, L.LoaderSettings(size=32, crop_size=50, regions=True, augment=False), random.Random(0))
    assert np.array_equal(item['regions'][0].crop, np.asarray(image)[200:250, 300:350])


def test_crops_have_context_where_it_is_wanted():
    image = noise(100, 100)
    region = Region((.4, .4, .6, .6), 'plane')
    padded = L.LoaderSettings(crop_size=40, crop_padding=.5)
    assert np.array_equal(L.region_crop(image, region.box, L.View(), padded), np.asarray(image)[30:70, 30:70])


@pytest.mark.parametrize('view', TURNS, ids=str)
def test_crops_turn_with_the_image(view):
    "The crop of the whole image is the image, in all eight turns"
    image = noise(48, 48)
    sample = Sample(image, regions=[Region((0, 0, 1, 1), 'field')])
    region, = L.keep_regions(sample, image, view, settings=L.LoaderSettings(size=48, crop_size=48, regions=True), rng=random.Random(0))
    assert np.array_equal(region.crop, L.view_image(image, view, 48))


@pytest.mark.parametrize('view', TURNS, ids=str)
def test_boxes_turn_with_the_image(view):
    pixels = np.zeros((100, 100, 3), np.uint8)
    pixels[10:30, 50:90] = 255
    x1, y1, x2, y2 = (L.view_boxes([(.5, .1, .9, .3)], view)[0] * 100).round().astype(int)
    seen = L.view_image(Image.fromarray(pixels), view, 100)
    assert seen[y1:y2, x1:x2].min() == 255 and seen.sum() == pixels.sum()


def test_every_epoch_has_other_views():
    "Each sample is seen in another view in almost every epoch, and the same again when an epoch is repeated"
    samples = [Sample(noise(40, 40, i), f'field {i}', regions=[Region((.1, .1, .9, .9), 'barn', 'A red barn.')]) for i in range(6)]
    a = loader(samples, plain_share=0.)
    for j in range(6):
        shown = [a.item(epoch, j)['image'] for epoch in range(4)]
        assert all(not np.array_equal(shown[0], s) for s in shown[1:])
        assert np.array_equal(shown[2], loader(samples, plain_share=0.).item(2, j)['image'])


# texts and hard negatives

BOTH = Region((0, 0, .4, .4), 'white car', 'A white car stands on the grey road.',
              [('red car', 'attribute'), ('white truck', 'category'), ('A white truck stands on the grey road.', 'category'),
               ('A white car stands on the green road.', 'attribute')], 'car')


def words(region, seed: int = 0, siblings=(), turned: bool = False, **changes) -> L.RegionTexts:
    return L.region_words(region, list(siblings), random.Random(seed), settings=L.LoaderSettings(**changes), turned=turned)


def of(region, base) -> set: return {t for t, _ in region.negatives if L.negative_base(region, t) == base}


@pytest.mark.parametrize('phrase, text, negative, base', [
    ('white car', 'A white car on a road.', 'red car', 'phrase'),
    ('white car', 'A white car on a road.', 'A red car on a road.', 'description'),
    ('car', 'A car on a road.', 'boat', 'phrase'),
    ('a man wearing a blue shirt', 'A man wearing a blue shirt.', 'A man wearing a red shirt.', 'phrase'),
    ('large white storage tank beside a road', 'A tank.', 'small white storage tank beside a road', 'phrase'),  # the phrase may be the longer one
    ('large white storage tank beside a road', 'A tank.', 'A pool.', 'description'),
    ('plane', 'The second plane from the left.', 'The second plane from the right.', 'description'),
    ('', 'A car.', 'boat', 'description'), ('car', '', 'A boat on the sea.', 'phrase')])
def test_the_base_of_a_hard_negative(phrase, text, negative, base):
    assert L.negative_base(Region((0, 0, 1, 1), phrase, text), negative) == base


@pytest.mark.parametrize('kind', ['phrase', 'description', 'random'])
def test_every_draw_gives_hna_its_inputs(kind):
    "Whatever text RPA draws, the positive is the text that the negatives were made from (Eq. 3)"
    for seed in range(60):
        got = words(BOTH, seed, region_text=kind)
        base = 'phrase' if got.hna_text == BOTH.phrase else 'description'
        assert got.negatives and set(got.negatives) <= of(BOTH, base) and got.hna_text in (BOTH.phrase, BOTH.text)
        if kind != 'random': assert got.text == (BOTH.phrase if kind == 'phrase' else BOTH.text)


@pytest.mark.parametrize('kind', ['phrase', 'description', 'random'])
def test_ten_phrase_negatives_are_there_in_every_draw(kind):
    "FineHARD's records: all negatives belong to the phrase"
    region = Region((0, 0, 1, 1), 'white car', 'A white car stands on the grey road.', [(f'{c} car', 'attribute') for c in 'red green blue pink teal gold navy black brown plum'.split()])
    for seed in range(30):
        got = words(region, seed, region_text=kind)
        assert got.hna_text == 'white car' and len(got.negatives) == 10


def test_the_text_of_hna_can_be_chosen():
    assert {words(BOTH, i, hna_text='phrase').hna_text for i in range(20)} == {BOTH.phrase}
    assert {words(BOTH, i, hna_text='description').hna_text for i in range(20)} == {BOTH.text}
    assert {words(BOTH, i).hna_text for i in range(20)} == {BOTH.phrase, BOTH.text}
    only = Region((0, 0, 1, 1), 'white car', 'A white car on a road.', [('A red car on a road.', 'attribute')])
    assert words(only, hna_text='phrase')[1:] == (only.text, ['A red car on a road.'])  # only one text has hard negatives


def test_a_turned_view_hears_nothing_of_direction():
    region = Region((0, 0, .4, .4), 'left car', 'A car stands on the road.',
                    [('right car', 'orientation'), ('A car stands at the top of the road.', 'orientation'), ('A boat stands on the road.', 'category')])
    boat = Region((.5, .5, 1, 1), 'upper boat', category='boat')
    plane = Region((.5, .5, 1, 1), 'plane', category='plane')
    for seed in range(40):
        got = words(region, seed, [region, boat, plane], turned=True, sibling_negatives=True)
        assert got == ('A car stands on the road.', 'A car stands on the road.', ['A boat stands on the road.'])
    named = Region((0, 0, 1, 1), 'car', 'A car at the top.', [('boat on the left', 'category'), ('boat', 'category'), ('A car at the bottom.', 'orientation')])
    for seed in range(40): assert words(named, seed, turned=True) == ('car', 'car', ['boat'])
    silent = Region((0, 0, 1, 1), 'left car', 'A car at the top.', [('boat', 'category')])
    assert words(silent, turned=True) == ('', '', []) and words(silent).hna_text == 'left car'


def test_siblings_of_the_same_category_are_not_negatives():
    others = [Region((.5, 0, 1, .4), 'red car', category='car'), Region((.5, .5, 1, 1), 'blue boat', category='boat'), Region((0, .5, .4, 1), 'white car', category='truck')]
    bare = Region((0, 0, .4, .4), 'white car', 'A white car.', category='car')
    for seed in range(20):
        got = words(bare, seed, [bare, *others], sibling_negatives=True)
        assert (got.hna_text, got.negatives) == ('white car', ['blue boat'])
    assert words(bare, 0, [bare, *others]).negatives == []  # off by default: Eq. 3 has none


def test_siblings_join_the_phrase_alone():
    boat = Region((.5, .5, 1, 1), 'blue boat', category='boat')
    for seed in range(30):
        got = words(BOTH, seed, [BOTH, boat], sibling_negatives=True)
        assert ('blue boat' in got.negatives) == (got.hna_text == BOTH.phrase)


def test_a_region_without_negatives_repeats_its_text():
    for seed in range(10):
        got = words(Region((0, 0, 1, 1), 'car', 'A car on a road.'), seed)
        assert got.hna_text == got.text and got.negatives == []


def test_the_number_of_negatives_is_limited_and_without_repeats():
    for limit in (0, 1, 2):
        got = words(BOTH, max_negatives=limit, hna_text='phrase')
        assert len(got.negatives) == limit == len(set(got.negatives))


def test_settings_of_hna_change_nothing_else():
    samples = [Sample(noise(40, 40, i), f'field {i}', regions=[BOTH, Region((.5, .5, 1, 1), 'boat', 'A boat.', category='boat')]) for i in range(4)]
    plain = loader(samples, 4, background=1.)
    for change in (dict(hna_text='phrase'), dict(sibling_negatives=False), dict(max_negatives=1), dict(negatives=False)):
        a, b = plain.batch(1, 0), loader(samples, 4, background=1., **change).batch(1, 0)
        for key in ('images', 'brief', 'detailed', 'boxes', 'region_text', 'crops'): assert torch.equal(a[key], b[key]), (change, key)


# the batch

def test_the_batch_of_eq_3():
    "Row k of hna_text is the positive of the negatives that negative_owner gives to region k"
    samples = [Sample(noise(40, 40, i), f'field {i}', regions=[BOTH, Region((.5, .5, 1, 1), 'boat', 'A boat.')]) for i in range(3)]
    made = loader(samples, 3, augment=False, sibling_negatives=False)
    items = [made.item(0, j) for j in made.order(0)[0]]
    regions = [r for i in items for r in i['regions']]
    batch = made.batch(0, 0)
    assert torch.equal(batch['hna_text'], Tokenizer()([r.hna_text for r in regions]))
    assert torch.equal(batch['negatives'], Tokenizer()([t for r in regions for t in r.negatives]))
    assert batch['negative_owner'].tolist() == [k for k, r in enumerate(regions) for _ in r.negatives]
    assert batch['boxes'][:, 0].tolist() == [0, 0, 1, 1, 2, 2]
    assert len(set(batch['negative_owner'].tolist())) == 3  # every region that has negatives, in this and every other draw


def test_a_loss_that_is_off_costs_no_text():
    assert 'hna_text' not in loader([Sample(noise(9, 9), regions=[BOTH])], negatives=False).batch(0, 0)


def test_statistics_and_starved_terms():
    rich = loader([Sample(noise(40, 40), 'a field', regions=[BOTH])], augment=False, hna_text='phrase').batch(0, 0)
    assert L.batch_statistics(rich) == dict(regions=1, regions_with_negatives=1, negatives_per_region=2, crops=1)
    assert L.starved_terms(rich, ['rpa', 'hna', 'vic', 'htc']) == []
    poor = loader([Sample(noise(40, 40), 'a field', regions=[Region((0, 0, 1, 1), 'car')])], augment=False, crop_size=0, detailed=False).batch(0, 0)
    assert L.starved_terms(poor, ['rpa', 'hna', 'vic', 'htc']) == ['hna', 'vic', 'htc'] and L.starved_terms(poor, ['rpa']) == []
    captions = loader([Sample(noise(40, 40), 'a field')], regions=False).batch(0, 0)
    assert L.starved_terms(captions, ['rpa', 'hna', 'vic']) == ['rpa', 'hna', 'vic'] and set(L.batch_statistics(captions).values()) == {0}


def test_half_of_the_negatives_is_no_longer_lost(real_data):
    "B2 on real boxes: regions with hard negatives give them to HNA in every draw"
    samples = L.open_source('vedai:val@40')
    made = loader(samples, 20, augment=False, sibling_negatives=False, max_regions=50)
    for epoch in range(2):
        batch = made.batch(epoch, 0)
        kept = [made.pictures[0].samples[j] for j in made.order(epoch)[0]]
        assert L.batch_statistics(batch)['regions_with_negatives'] == sum(bool(r.negatives) for s in kept for r in s.regions)
