"""One reader for every kind of image: the same pixels, mask, frame and map coordinates, however it is stored."""

import io
import os
import re
import struct
import subprocess
import sys
import tracemalloc
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from hypothesis import given, settings, strategies as st
from PIL import Image
from rasterio.control import GroundControlPoint
from rasterio.enums import ColorInterp
from rasterio.transform import from_origin

import geoalignclip_nb
from geoalignclip_nb.core import GeoAlignError, Sample
from geoalignclip_nb.data.describe import as_array
from geoalignclip_nb.data.shards import _jpeg
from geoalignclip_nb.io.images import (
    band_axis,
    convert_image,
    from_array,
    load_image,
    read_image,
    stretch_to_8bit,
    to_rgb,
    upright_size,
)
from geoalignclip_nb.io.rasters import orientation_of, read_georeference, reproject_points, turn_upright
from geoalignclip_nb.viz import as_image

RNG = np.random.default_rng(0)
HEIGHT, WIDTH = 40, 56
COLOR = RNG.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)  # (H,W,3), the plain 8-bit image
HOLE = np.ones((HEIGHT, WIDTH), bool)  # which pixels are valid
HOLE[:11, 7:30] = False
UTM = {'crs': 'EPSG:32633', 'transform': from_origin(500000, 4000000, 10, 10)}


def write(path, bands, colors=None, mask=None, **profile):
    "Bands (H,W) or (H,W,C) as a raster"
    bands = bands.reshape(*bands.shape[:2], -1)
    height, width, count = bands.shape
    profile = {'driver': 'GTiff', 'count': count, 'height': height, 'width': width, 'dtype': bands.dtype} | profile
    with rasterio.open(path, 'w', **profile) as dataset:
        dataset.write(np.moveaxis(bands, 2, 0))
        if colors:
            dataset.colorinterp = [ColorInterp[color] for color in colors]
        if mask is not None:
            dataset.write_mask(mask)
    return path


def tiff(bands, order='<', tags=()):
    "Bytes of a TIFF of one uncompressed strip, with any tags"
    bands = np.ascontiguousarray(bands.astype(bands.dtype.newbyteorder(order)))
    height, width, count = bands.shape
    entries = {
        256: width,
        257: height,
        258: bands.itemsize * 8,
        259: 1,
        262: 2 if count == 3 else 1,
        273: 8,
        277: count,
        278: height,
        279: bands.nbytes,
        339: ' uif'.index(bands.dtype.kind),
    } | dict(tags)
    rows = b''.join(struct.pack(f'{order}HHII', tag, 4, 1, value) for tag, value in sorted(entries.items()))
    head = (b'II*\0' if order == '<' else b'MM\0*') + struct.pack(f'{order}I', 8 + bands.nbytes)
    return head + bands.tobytes() + struct.pack(f'{order}H', len(entries)) + rows + b'\0' * 4


def encoded(pixels=COLOR, format='PNG', **options):
    "Bytes of an image that Pillow writes"
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, format, **options)
    return out.getvalue()


def save(path, data):
    path.write_bytes(data)
    return path


def rgb(source, **options):
    return np.asarray(load_image(source, **options)).astype(int)


def assert_close(got, want):
    assert abs(np.asarray(got).astype(int) - np.asarray(want).astype(int)).max() <= 1


# ---- 8 bits: exactly the plain pixels --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    'name, options',
    [('a.png', {}), ('a.bmp', {}), ('a.tga', {}), ('a.ppm', {}), ('a.tif', {}), ('a.webp', {'lossless': True})],
)
def test_formats_of_pillow(tmp_path, name, options):
    Image.fromarray(COLOR).save(tmp_path / name, **options)
    assert np.array_equal(rgb(tmp_path / name), COLOR)


@pytest.mark.parametrize(
    'name, profile',
    [
        ('a.jp2', {'driver': 'JP2OpenJPEG', 'quality': 100, 'reversible': 'yes'}),
        ('a.img', {'driver': 'HFA'}),
        ('a.bin', {'driver': 'ENVI'}),
        ('a.ntf', {'driver': 'NITF'}),
        ('a.tif', {'driver': 'COG'}),
    ],
)
def test_formats_of_gdal(tmp_path, name, profile):
    write(tmp_path / name, COLOR, **profile)
    assert np.array_equal(rgb(tmp_path / name), COLOR)
    assert upright_size(tmp_path / name) == (WIDTH, HEIGHT)


TILES = {'tiled': True, 'blockxsize': 16, 'blockysize': 16}
LOSSLESS = 'none', 'lzw', 'deflate', 'packbits', 'zstd', 'lzma', 'lerc', 'lerc_deflate', 'lerc_zstd'


@pytest.mark.parametrize('interleave', ['pixel', 'band'])
@pytest.mark.parametrize('blocks', [{}, TILES], ids=['strips', 'tiles'])
@pytest.mark.parametrize('compress', LOSSLESS)
def test_tiff_layouts(tmp_path, compress, blocks, interleave):
    path = write(tmp_path / 'a.tif', COLOR, compress=compress, interleave=interleave, **blocks)
    assert np.array_equal(rgb(path), COLOR)
    deep = write(
        tmp_path / 'b.tif', COLOR.astype(np.uint16) * 40 + 500, compress=compress, interleave=interleave, **blocks
    )
    assert_close(rgb(deep), stretch_to_8bit(COLOR))
    assert np.array_equal(rgb(path.read_bytes()), COLOR)


@pytest.mark.parametrize('big', ['yes', 'no'])
@pytest.mark.parametrize('endianness', ['little', 'big'])
@pytest.mark.parametrize('predictor, kind', [(1, 'u1'), (2, 'u1'), (2, 'u2'), (2, 'i4'), (3, 'f4'), (3, 'f8')])
def test_tiff_byte_orders_and_predictors(tmp_path, big, endianness, predictor, kind):
    path = write(
        tmp_path / 'a.tif',
        COLOR.astype(kind),
        bigtiff=big,
        endianness=endianness,
        predictor=predictor,
        compress='deflate',
    )
    assert_close(rgb(path), COLOR if kind == 'u1' else stretch_to_8bit(COLOR))


def test_jpeg_in_tiff(tmp_path):
    smooth = np.asarray(Image.fromarray(COLOR).resize((8, 6)).resize((64, 48), Image.BICUBIC))
    for photometric in ('ycbcr', 'rgb'):
        path = write(tmp_path / 'a.tif', smooth, compress='jpeg', photometric=photometric, jpeg_quality=95, **TILES)
        assert abs(rgb(path) - smooth).mean() < 4


@pytest.mark.parametrize(
    'mode', ['1', 'L', 'LA', 'P', 'RGB', 'RGBA', 'CMYK', 'YCbCr', 'HSV', 'LAB', 'I', 'F', 'I;16', 'PA']
)
def test_modes_of_pillow(mode):
    if mode == 'I;16':
        image = Image.fromarray(RNG.integers(0, 4000, (24, 36)).astype(np.uint16))
    elif mode == 'LAB':
        image = Image.merge('LAB', Image.fromarray(COLOR[:24, :36]).split())
    else:
        image = Image.fromarray(COLOR[:24, :36]).convert('P' if mode == 'PA' else mode)
    if mode == 'PA':
        image = image.convert('PA')
    out = load_image(image)
    assert out.mode == 'RGB' and out.size == (36, 24) and np.asarray(out).std() > 1
    read = read_image(image)
    assert read.band_count == len(image.getbands()) and read.valid is None


@pytest.mark.parametrize('photometric', ['cmyk', 'ycbcr', 'lab'])
@pytest.mark.parametrize('interleave', ['pixel', 'band'])
def test_color_spaces_of_tiff(tmp_path, photometric, interleave):
    image = Image.fromarray(np.full((16, 16, 3), (200, 60, 30), np.uint8))
    if photometric == 'cmyk':
        path = write(tmp_path / 'a.tif', np.asarray(image.convert('CMYK')), photometric='cmyk', interleave=interleave)
    elif photometric == 'ycbcr':
        path = tmp_path / 'a.tif'
        image.convert('YCbCr').save(path)
    else:
        path = tmp_path / 'a.tif'
        Image.merge('LAB', [Image.new('L', (16, 16), value) for value in (117, 182, 176)]).save(
            path
        )  # L 46, a 54, b 48
    found = rgb(path)[8, 8]
    assert abs(found - (200, 60, 30)).max() <= (3 if photometric != 'lab' else 40) and read_image(path).valid is None


# ---- depth: one stretch rule -----------------------------------------------------------------------------------------

DEEP = {
    'i1': (1, -128),
    'u2': (40, 500),
    'i2': (30, -4000),
    'u4': (1000, 7),
    'i4': (1000, -90000),
    'u8': (10**6, 3),
    'i8': (10**6, -3),
    'f4': (1 / 255, 0),
    'f8': (1e-5, -0.1),
}


def deepened(kind, pixels=COLOR):
    scale, offset = DEEP[kind]
    values = pixels.astype(np.float64) * scale + offset
    return values.astype(kind)


@pytest.mark.parametrize('bands', [1, 3, 5])
@pytest.mark.parametrize('kind', DEEP)
def test_every_number_type(tmp_path, kind, bands):
    pixels = np.dstack([COLOR, COLOR[..., ::-1]])[..., :bands]
    path = write(tmp_path / 'a.tif', deepened(kind, pixels))
    want = stretch_to_8bit(pixels[..., :3])
    assert_close(rgb(path), want)
    assert_close(rgb(deepened(kind, pixels)), want)  # the array


@pytest.mark.parametrize('bits', [9, 10, 11, 12, 14, 15, 16, 20, 24, 31])
def test_odd_depths(tmp_path, bits):
    kind = np.uint16 if bits <= 16 else np.uint32
    path = write(tmp_path / 'a.tif', COLOR.astype(kind) << (bits - 8), nbits=bits)
    assert_close(rgb(path), stretch_to_8bit(COLOR))


def test_half_floats(tmp_path):
    assert_close(rgb(write(tmp_path / 'a.tif', COLOR.astype(np.float32), nbits=16)), stretch_to_8bit(COLOR))


@pytest.mark.parametrize('bits', [1, 2, 3, 4, 5, 7])
@pytest.mark.parametrize('bands', [1, 3])
def test_few_bits_reach_white(tmp_path, bits, bands):
    numbers = COLOR[..., :bands] >> (8 - bits)
    got = rgb(write(tmp_path / 'a.tif', numbers, nbits=bits))
    assert_close(got, (numbers * (255 / (2**bits - 1))).round())


@pytest.mark.parametrize(
    'kind, bits', [('u1', 1), ('u1', 4), ('u1', 8), ('u2', 12), ('u2', 16), ('i2', 16), ('f4', 32)]
)
def test_min_is_white(tmp_path, kind, bits):
    top = 2**bits - 1
    black = COLOR[..., 0].astype(kind) if bits >= 8 else COLOR[..., 0] >> (8 - bits)
    white = -black if kind in ('i2', 'f4') else (top - black).astype(kind)
    want = write(tmp_path / 'black.tif', black, nbits=bits) if bits < 16 else write(tmp_path / 'black.tif', black)
    got = write(tmp_path / 'white.tif', white, photometric='miniswhite', nbits=bits)
    assert_close(rgb(got), rgb(want))
    assert rgb(want).std() > 50


@pytest.mark.parametrize('order', '<>')
@pytest.mark.parametrize('kind', ['u1', 'u2', 'i2', 'u4', 'f4', 'f8'])
@pytest.mark.parametrize('bands', [1, 3, 4, 8])
def test_handmade_tiff(tmp_path, order, kind, bands):
    a = RNG.integers(0, 120 if kind == 'u1' else 4000, (24, 36, bands)).astype(kind)
    out = load_image(save(tmp_path / 'a.tif', tiff(a, order)))
    want = a[..., :3] if bands >= 3 else a[..., :1].repeat(3, 2)
    assert np.array_equal(np.asarray(out), want if kind == 'u1' else stretch_to_8bit(want))


@pytest.mark.parametrize('bands', [1, 2, 3, 4])
def test_sixteen_bit_png_keeps_its_low_bytes(tmp_path, bands):
    pixels = RNG.integers(0, 250, (24, 36, bands)).astype(np.uint16)  # Pillow alone would give black
    if bands in (2, 4):
        pixels[..., -1] = 65535
    path = write(tmp_path / 'a.png', pixels, driver='PNG')
    want = stretch_to_8bit(pixels[..., : 1 if bands < 3 else 3])
    assert np.array_equal(rgb(path), want + np.zeros(3, int))
    assert np.array_equal(rgb(io.BytesIO(path.read_bytes())), rgb(path))


def test_the_stretch_needs_no_outliers():
    band = COLOR[..., 0].astype(np.float32)
    band[0, 0] = 1e9
    assert_close(stretch_to_8bit(band)[1:], stretch_to_8bit(COLOR[..., 0])[1:])
    large = COLOR[..., 0].astype(np.int64) + 2**40
    assert_close(stretch_to_8bit(large), stretch_to_8bit(COLOR[..., 0]))
    few = np.zeros((100, 100))
    few[0, :9] = np.arange(9)  # both percentiles are 0, so the smallest and the largest value count
    assert np.array_equal(stretch_to_8bit(few)[0, :9], np.arange(9) * 255 // 8)


# ---- masks -----------------------------------------------------------------------------------------------------------

HIDDEN = {'u1': 255, 'u2': 60000, 'i2': -32768, 'u4': 2**32 - 1, 'f4': -9999, 'f8': 1e20}


def masked_file(path, how, kind, pixels):
    "A file whose pixels under the hole hold an extreme number"
    values = pixels.astype(kind)
    values[~HOLE] = HIDDEN[kind]
    alpha_top = np.iinfo(kind).max if kind[0] in 'ui' else 1
    if how == 'nodata':
        return write(path, values, nodata=HIDDEN[kind])
    if how == 'alpha':
        colors = ['red', 'green', 'blue', 'alpha'] if values.shape[2] == 3 else ['gray', 'alpha']
        return write(path, np.dstack([values, (HOLE * alpha_top).astype(kind)]), colors)
    if how == 'nan':
        values[~HOLE] = np.nan
        return write(path, values)
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=how == 'internal mask'):
        return write(path, values, mask=HOLE)


MASKS = [
    (how, kind, orientation)
    for how in ('nodata', 'internal mask', 'mask file', 'alpha', 'nan', 'masked array')
    for kind in HIDDEN
    for orientation in (1, 6)
    if (how != 'nan' or kind[0] == 'f') and (how != 'masked array' or orientation == 1)
]


@pytest.mark.parametrize('bands', [1, 3])
@pytest.mark.parametrize('how, kind, orientation', MASKS)
def test_invalid_pixels_are_black_and_take_no_part(tmp_path, monkeypatch, how, kind, bands, orientation):
    pixels = np.minimum(COLOR[..., :bands], 254)
    if how == 'masked array':
        values = np.where(HOLE[..., None], pixels, HIDDEN[kind]).astype(kind)
        source = np.ma.masked_array(values, np.repeat(~HOLE[..., None], bands, 2))
    else:
        source = masked_file(tmp_path / 'a.tif', how, kind, pixels)
    monkeypatch.setattr('geoalignclip_nb.io.rasters.orientation_of', lambda path: orientation)
    read = read_image(source)
    want = pixels if kind == 'u1' else stretch_to_8bit(pixels, valid=HOLE)
    valid = turn_upright(HOLE, orientation)
    got = np.asarray(read.rgb)
    assert np.array_equal(read.valid, valid)
    assert not got[~valid].any()
    assert_close(got[valid], np.broadcast_to(turn_upright(want, orientation)[valid], got[valid].shape))


def test_a_file_with_a_mask_that_hides_nothing_is_all_valid(tmp_path):
    assert read_image(write(tmp_path / 'a.tif', COLOR, nodata=300 % 256, mask=np.ones_like(HOLE))).valid is None
    assert read_image(encoded(np.dstack([COLOR, np.full((HEIGHT, WIDTH), 255, np.uint8)]))).valid is None


@pytest.mark.parametrize('nodata', [0, 7, None])
def test_sparse_tiles_are_nodata_or_black(tmp_path, nodata):
    pixels = np.maximum(COLOR, 8)
    half = pixels.copy()
    half[:, 32:] = nodata or 0
    dense = write(tmp_path / 'dense.tif', half, nodata=nodata, compress='deflate', **TILES)
    with rasterio.open(
        tmp_path / 'sparse.tif',
        'w',
        driver='GTiff',
        width=WIDTH,
        height=HEIGHT,
        count=3,
        dtype='uint8',
        nodata=nodata,
        sparse_ok='yes',
        **TILES,
    ) as dataset:
        dataset.write(np.moveaxis(pixels[:, :32], 2, 0), window=((0, HEIGHT), (0, 32)))
    read = read_image(tmp_path / 'sparse.tif')
    assert np.array_equal(np.asarray(read.rgb), rgb(dense))
    assert np.array_equal(np.asarray(read.rgb)[:, :32], pixels[:, :32]) and not np.asarray(read.rgb)[:, 32:].any()
    if nodata is None:
        assert read.valid is None
    else:
        assert read.valid[:, :32].all() and not read.valid[:, 32:].any()


def test_a_band_without_value_is_not_an_invalid_pixel(tmp_path):
    values = COLOR.astype(np.float32) + 1
    values[:9, :, 0] = -9999
    read = read_image(write(tmp_path / 'a.tif', values, nodata=-9999))
    assert read.valid is None and not np.asarray(read.rgb)[:9, :, 0].any() and np.asarray(read.rgb)[:9, :, 1].std() > 50


@pytest.mark.parametrize('format', ['PNG', 'WEBP', 'TIFF'])
def test_alpha_lies_on_black(format):
    alpha = (HOLE * 255).astype(np.uint8)
    read = read_image(
        encoded(np.dstack([COLOR, alpha]), format, **({'lossless': True, 'exact': True} if format == 'WEBP' else {}))
    )
    assert np.array_equal(read.valid, HOLE) and read.band_count == 4
    assert np.array_equal(np.asarray(read.rgb), COLOR * HOLE[..., None])


def test_soft_alpha(tmp_path):
    soft = np.linspace(0, 65535, WIDTH).astype(np.uint16)[None].repeat(HEIGHT, 0)
    path = write(tmp_path / 'a.png', np.dstack([COLOR.astype(np.uint16) * 257, soft]), driver='PNG')
    eight = read_image(encoded(np.dstack([COLOR, (soft / 257).round().astype(np.uint8)])))
    assert np.array_equal(read_image(path).valid[:, 1:], eight.valid[:, 1:])
    fraction = soft[..., None] / 65535
    valid = read_image(path).valid
    assert_close(rgb(path), stretch_to_8bit(COLOR, valid=valid) * fraction * valid[..., None])


@pytest.mark.parametrize('how', ['palette', 'color key'])
def test_transparent_colors(tmp_path, how):
    image = Image.fromarray(COLOR).quantize(8) if how == 'palette' else Image.fromarray(COLOR // 200 * 200)
    key = 0 if how == 'palette' else (0, 0, 0)
    image.save(tmp_path / 'a.png', transparency=key)
    hidden = np.asarray(image) == 0 if how == 'palette' else (np.asarray(image) == 0).all(2)
    read = read_image(tmp_path / 'a.png')
    assert np.array_equal(read.valid, ~hidden) and not np.asarray(read.rgb)[hidden].any()


@pytest.mark.parametrize('kind', [np.uint8, np.uint16])
def test_palettes(tmp_path, kind):
    numbers = (COLOR[..., 0] % 5).astype(kind)
    colors = {i: (40 * i, 255 - 40 * i, 7 * i, 255) for i in range(5)}
    profile = {
        'driver': 'GTiff',
        'count': 1,
        'height': HEIGHT,
        'width': WIDTH,
        'dtype': kind,
        'nodata': 3,
        'photometric': 'palette',
    }
    with rasterio.open(tmp_path / 'a.tif', 'w', **profile) as dataset:
        dataset.write(numbers, 1)
        dataset.write_colormap(1, colors)
    table = np.array([colors[i][:3] for i in range(5)])
    read = read_image(tmp_path / 'a.tif')
    assert np.array_equal(read.valid, numbers != 3)
    assert np.array_equal(np.asarray(read.rgb), table[numbers] * (numbers != 3)[..., None])
    assert read.bands == (1,)


def test_a_palette_with_an_alpha_band(tmp_path):
    image = Image.fromarray(COLOR).quantize(8)
    with rasterio.open(
        tmp_path / 'a.tif',
        'w',
        driver='GTiff',
        count=2,
        height=HEIGHT,
        width=WIDTH,
        dtype='uint8',
        photometric='palette',
        alpha='yes',
    ) as dataset:
        dataset.write(np.stack([np.asarray(image), HOLE * np.uint8(255)]))
        dataset.write_colormap(
            1, {i: (*color, 255) for i, color in enumerate(np.array(image.getpalette()).reshape(-1, 3).tolist())}
        )
    read = read_image(tmp_path / 'a.tif')
    assert np.array_equal(read.valid, HOLE) and np.array_equal(
        np.asarray(read.rgb), np.asarray(image.convert('RGB')) * HOLE[..., None]
    )


def test_alpha_and_nodata_in_one_file(tmp_path):
    "A pixel is valid where alpha shows it and its bands do not hold the nodata value"
    values = np.full((4, HEIGHT, WIDTH), 900, np.uint16)
    values[3] = HOLE * np.uint16(65535)
    values[:3, :, -2:] = 7
    settings = dict(driver='GTiff', count=4, height=HEIGHT, width=WIDTH, dtype='uint16', photometric='RGB', nodata=7)
    with rasterio.open(tmp_path / 'a.tif', 'w', **settings) as dataset:
        dataset.write(values)
        dataset.colorinterp = [ColorInterp.red, ColorInterp.green, ColorInterp.blue, ColorInterp.alpha]
    expected = HOLE.copy()
    expected[:, -2:] = False
    assert np.array_equal(read_image(tmp_path / 'a.tif').valid, expected)


def test_min_is_white_with_nodata(tmp_path):
    white = np.where(HOLE, COLOR[..., 0], 255)
    read = read_image(write(tmp_path / 'a.tif', white, photometric='miniswhite', nodata=255))
    assert np.array_equal(read.valid, HOLE & (COLOR[..., 0] != 255)) and np.array_equal(
        np.asarray(read.rgb)[read.valid][:, 0], 255 - white[read.valid]
    )


def test_infinite_values_are_the_ends_of_the_scale(tmp_path):
    values = COLOR.astype(np.float32)
    values[0, 0], values[0, 1] = np.inf, -np.inf
    read = read_image(write(tmp_path / 'a.tif', values, nodata=float('nan')))
    assert read.valid is None and read.rgb.getpixel((0, 0)) == (255,) * 3 and read.rgb.getpixel((1, 0)) == (0,) * 3
    assert_close(np.asarray(read.rgb)[1:], stretch_to_8bit(COLOR)[1:])


def test_reduced_rasters_with_overviews_and_mask(tmp_path):
    large = np.kron(COLOR, np.ones((16, 16, 1), np.uint8))
    hole = np.kron(HOLE, np.ones((16, 16), bool))
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
        path = write(tmp_path / 'a.tif', large, mask=hole, **TILES)
        with rasterio.open(path, 'r+') as dataset:
            dataset.build_overviews([2, 4, 8, 16], rasterio.enums.Resampling.average)
    read = read_image(path, size=HEIGHT)
    assert read.rgb.size == (WIDTH, HEIGHT) and np.array_equal(read.valid, HOLE)
    assert_close(np.asarray(read.rgb)[HOLE], COLOR[HOLE])


# ---- which bands -----------------------------------------------------------------------------------------------------

INFRARED = (COLOR[..., :1] // 2 + 60).astype(np.uint8)


@pytest.mark.parametrize('kind', ['u1', 'u2'])
@pytest.mark.parametrize('tag', ['default', 'alpha', 'none'])
def test_near_infrared_is_not_transparency(tmp_path, kind, tag):
    scale = 1 if kind == 'u1' else 40
    profile = {'photometric': 'minisblack'} if tag == 'none' else {}
    colors = ['red', 'green', 'blue', 'alpha'] if tag == 'alpha' else None
    plain = write(tmp_path / 'rgb.tif', COLOR.astype(kind) * scale)
    path = write(tmp_path / 'rgbn.tif', np.dstack([COLOR, INFRARED]).astype(kind) * scale, colors, **profile)
    is_tagged = tag == 'alpha' or tag == 'default' and kind == 'u1'  # what GDAL writes
    read = read_image(path)
    assert np.array_equal(np.asarray(read.rgb), rgb(plain))
    assert read.valid is None and read.band_count == 4 and read.bands == (1, 2, 3)
    assert any('Band 4 of rgbn.tif is tagged as alpha' in note for note in read.notes) == is_tagged
    assert any("choose others with bands='4,3,2'" in note for note in read.notes)
    shown = read_image(path, bands='4,1,2')
    assert shown.bands == (4, 1, 2) and np.asarray(shown.rgb)[..., 1:].std() > 50
    if kind == 'u1':
        assert np.array_equal(np.asarray(shown.rgb), np.dstack([INFRARED, COLOR[..., :2]]))


@pytest.mark.parametrize(
    'labels, order',
    [
        (('blue', 'green', 'red', 'nir'), (3, 2, 1)),
        (('B02', 'B03', 'B04', 'B08'), (3, 2, 1)),
        (('nir', 'red edge', 'Red', 'Green', 'Blue'), (3, 4, 5)),
        (('coastal', 'blue', 'green', 'red'), (4, 3, 2)),
        (('coastal_blue', 'blue', 'green_i', 'green', 'red'), (5, 4, 2)),
        (('a', 'b', 'c', 'd'), (1, 2, 3)),
        (('red', 'red', 'green', 'blue'), (1, 2, 3)),
    ],
)
def test_names_of_bands_give_the_order(tmp_path, labels, order):
    bands = np.dstack([COLOR, INFRARED, COLOR[..., :1] // 3])[..., : len(labels)].astype(np.uint16)
    path = write(tmp_path / 'a.tif', bands)
    with rasterio.open(path, 'r+') as dataset:
        dataset.descriptions = labels
    read = read_image(path)
    assert read.bands == order
    assert np.array_equal(np.asarray(read.rgb), stretch_to_8bit(bands[..., [b - 1 for b in order]]))


@pytest.mark.parametrize('top', [1, 255, 40000])
def test_an_untagged_fourth_band_of_two_values_is_a_mask(tmp_path, top):
    bands = np.dstack([COLOR, HOLE * np.uint16(top)]).astype(np.uint16)
    want = stretch_to_8bit(COLOR, valid=HOLE)
    for source in (write(tmp_path / 'a.tif', bands), bands):
        read = read_image(source)
        assert np.array_equal(read.valid, HOLE) and any('is used as a mask' in note for note in read.notes)
        assert_close(np.asarray(read.rgb)[HOLE], want[HOLE])


@pytest.mark.parametrize('share, is_mask', [(1, True), (0.95, True), (0.8, False), (0.4, False)])
def test_share_of_a_mask(tmp_path, share, is_mask):
    "Soft edges of a mask are a few values; an infrared band may hold many zeros"
    alpha = (HOLE * 255).astype(np.uint8)
    soft = RNG.permutation(HEIGHT * WIDTH)[: round((1 - share) * HEIGHT * WIDTH)]
    alpha.ravel()[soft] = 100
    read = read_image(write(tmp_path / 'a.tif', np.dstack([COLOR, alpha])))
    assert (read.valid is not None) == is_mask
    if is_mask:
        assert np.array_equal(read.valid, alpha > 0)
    else:
        assert np.array_equal(np.asarray(read.rgb), COLOR)


def test_alpha_that_hides_everything_is_not_used(tmp_path):
    read = read_image(write(tmp_path / 'a.tif', np.dstack([COLOR, np.zeros((HEIGHT, WIDTH), np.uint8)])))
    assert (
        read.valid is None
        and np.array_equal(np.asarray(read.rgb), COLOR)
        and any('is tagged as alpha' in note for note in read.notes)
    )


def test_color_interpretation_gives_the_order(tmp_path):
    path = write(tmp_path / 'a.tif', COLOR[..., ::-1].astype(np.uint16), ['blue', 'green', 'red'])
    assert read_image(path).bands == (3, 2, 1) and np.array_equal(rgb(path), stretch_to_8bit(COLOR))


def test_two_bands_need_a_choice(tmp_path):
    path = write(tmp_path / 'vv_vh.tif', COLOR[..., :2])
    for source, name in ((path, 'vv_vh.tif'), (COLOR[..., :2], 'The array')):
        with pytest.raises(GeoAlignError, match=f"{name} has two bands.*bands='1'.*bands='1,2,1'"):
            load_image(source)
        assert np.array_equal(rgb(source, bands='2'), COLOR[..., 1:2].repeat(3, 2))
        assert np.array_equal(rgb(source, bands='1,2,1'), COLOR[..., [0, 1, 0]])
    gray = np.dstack([COLOR[..., 0], HOLE * np.uint8(255)])
    for source in (write(tmp_path / 'tagged.tif', gray, ['gray', 'alpha']), write(tmp_path / 'mask.tif', gray), gray):
        assert np.array_equal(read_image(source).valid, HOLE)


@pytest.mark.parametrize(
    'bands, words',
    [
        ('9', 'has no band 9; choose from 1 to 3'),
        ('0,1,2', 'has no band 0'),
        ('1,2', 'one or three numbers'),
        ('red', 'one or three numbers'),
        ((1.5,), 'one or three numbers'),
        ([1, 2, 3, 1], 'one or three numbers'),
    ],
)
def test_bad_choices(tmp_path, bands, words):
    Image.fromarray(COLOR).save(tmp_path / 'a.png')
    for source in (write(tmp_path / 'a.tif', COLOR), tmp_path / 'a.png', COLOR):
        with pytest.raises(GeoAlignError, match=words):
            load_image(source, bands=bands)


@pytest.mark.parametrize('bands', ['3,2,1', ' 3 2 1 ', '3;2;1', (3, 2, 1), [3, 2, 1], np.array([3, 2, 1])])
def test_forms_of_a_choice(tmp_path, bands):
    Image.fromarray(COLOR).save(tmp_path / 'a.png')
    for source in (write(tmp_path / 'a.tif', COLOR), tmp_path / 'a.png', Image.fromarray(COLOR), COLOR):
        assert np.array_equal(rgb(source, bands=bands), COLOR[..., ::-1])
        assert np.array_equal(rgb(source, bands=2), COLOR[..., 1:2].repeat(3, 2))
        assert np.array_equal(rgb(source, bands=''), COLOR)


# ---- one frame -------------------------------------------------------------------------------------------------------


@dataclass
class Turned:
    "A file that stores an image in one of eight orientations"

    data: bytes
    want: np.ndarray


def turned(form, orientation) -> Turned:
    "`COLOR` stored so that a reader has to turn it"
    stored = np.ascontiguousarray(
        {o: turn_upright(COLOR, o) for o in range(1, 9)}[{6: 8, 8: 6}.get(orientation, orientation)]
    )
    assert np.array_equal(turn_upright(stored, orientation), COLOR)
    exif = Image.Exif()
    exif[274] = orientation
    if form == 'jpeg':
        return Turned(encoded(stored, 'JPEG', quality=98, subsampling=0, exif=exif), COLOR)
    if form == 'png':
        return Turned(encoded(stored, 'PNG', exif=exif), COLOR)
    if form == 'webp':
        return Turned(encoded(stored, 'WEBP', lossless=True, exif=exif), COLOR)
    if form == 'png16':
        with rasterio.MemoryFile() as memory:
            profile = {
                'driver': 'PNG',
                'count': 3,
                'height': stored.shape[0],
                'width': stored.shape[1],
                'dtype': 'uint16',
            }
            with memory.open(**profile) as dataset:
                dataset.write(np.moveaxis(stored.astype(np.uint16), 2, 0))
            plain = memory.read()
        chunk = b'eXIf' + exif.tobytes().removeprefix(b'Exif\0\0')
        return Turned(
            plain[:33] + struct.pack('>I', len(chunk) - 4) + chunk + struct.pack('>I', zlib.crc32(chunk)) + plain[33:],
            stretch_to_8bit(COLOR),
        )
    kind = form.removeprefix('tiff')
    return Turned(tiff(stored.astype(kind), tags={274: orientation}), COLOR if kind == 'u1' else stretch_to_8bit(COLOR))


@pytest.mark.parametrize('orientation', range(1, 9))
@pytest.mark.parametrize('form', ['jpeg', 'png', 'webp', 'png16', 'tiffu1', 'tiffu2', 'tifff4'])
def test_eight_orientations(tmp_path, form, orientation):
    file = turned(form, orientation)
    path = save(tmp_path / f'a.{form[:3]}', file.data)
    assert orientation_of(path) == orientation
    assert upright_size(path) == (WIDTH, HEIGHT) == load_image(path).size
    if form == 'jpeg':
        assert abs(rgb(path) - file.want).mean() < 3
    else:
        assert np.array_equal(rgb(path), file.want)
    assert np.array_equal(rgb(file.data), rgb(path))


def test_the_orientation_of_a_png_needs_no_decoding(tmp_path, monkeypatch):
    plain = encoded()
    exif = Image.Exif()
    exif[274] = 6
    chunk = b'eXIf' + exif.tobytes().removeprefix(b'Exif\0\0')
    chunk = struct.pack('>I', len(chunk) - 4) + chunk + struct.pack('>I', zlib.crc32(chunk))
    for data in (plain[:33] + chunk + plain[33:], plain[:-12] + chunk + plain[-12:]):  # before and behind the pixels
        path = save(tmp_path / 'a.png', data)
        assert load_image(path).size == (HEIGHT, WIDTH)
        with monkeypatch.context() as patched:
            patched.setattr(Image.Image, 'load', lambda image: pytest.fail('decoded'))
            assert orientation_of(path) == 6 and upright_size(path) == (HEIGHT, WIDTH)


@pytest.mark.parametrize('value', [0, 9, 65535])
def test_nonsense_orientations_are_1(tmp_path, value):
    path = save(tmp_path / 'a.tif', tiff(COLOR, tags={274: value}))
    assert orientation_of(path) == 1 and np.array_equal(rgb(path), COLOR)


# ---- arrays and tensors ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize('bands', [1, 3, 4, 8])
@pytest.mark.parametrize('kind', ['u1', 'u2', 'f4'])
def test_arrays_with_bands_first_or_last(kind, bands):
    last = np.dstack([COLOR, COLOR, COLOR])[..., :bands].astype(kind)
    want = rgb(last)
    first = np.moveaxis(last, 2, 0)
    assert np.array_equal(rgb(first), want)
    assert np.array_equal(rgb(np.ascontiguousarray(first)), want)
    if kind != 'u2':
        for tensor in (
            torch.from_numpy(last.copy()),
            torch.from_numpy(first.copy()),
            torch.from_numpy(first.copy()).requires_grad_(kind == 'f4'),
        ):
            assert np.array_equal(rgb(tensor), want)
    masked = np.ma.masked_array(first, np.broadcast_to(~HOLE, first.shape))
    assert np.array_equal(read_image(masked).valid, HOLE)


def test_a_bfloat16_tensor_is_an_image():
    assert_close(rgb(torch.from_numpy(COLOR).to(torch.bfloat16)), stretch_to_8bit(COLOR))


@pytest.mark.parametrize(
    'array, words',
    [
        (np.zeros((0, 5)), 'empty'),
        (np.zeros(4), '1 axes'),
        (np.zeros((1, 3, 9, 9)), '4 axes'),
        (np.zeros((5, 6), complex), 'complex numbers'),
        (np.array('a'), 'not numbers'),
        (None, 'not numbers'),
        ({'a': 1}, 'not numbers'),
        (np.zeros((3, 512, 3)), 'may be the first or the last'),
        (np.zeros((64, 64, 64)), 'may be the first or the last'),
    ],
)
def test_bad_arrays(array, words):
    with pytest.raises(GeoAlignError, match=f'is not an image .*{words}'):
        load_image(array)


@settings(max_examples=100, deadline=None)
@given(height=st.integers(5, 400), width=st.integers(5, 400), bands=st.sampled_from([1, 3, 4]))
def test_the_band_axis_is_found(height, width, bands):
    assert band_axis((height, width, bands)) == 2 and band_axis((bands, height, width)) == 0


# ---- sources, names, limits ------------------------------------------------------------------------------------------


def test_every_source_gives_the_same_image(tmp_path):
    for path in (
        write(tmp_path / 'a.tif', COLOR.astype(np.uint16)),
        save(tmp_path / 'b.png', encoded()),
        write(tmp_path / 'c.jp2', COLOR, driver='JP2OpenJPEG'),
    ):
        want = rgb(path)
        with open(path, 'rb') as file:
            file.read(7)
            assert np.array_equal(rgb(file), want) and np.array_equal(rgb(file), want)
        for source in (str(path), path.read_bytes(), bytearray(path.read_bytes()), io.BytesIO(path.read_bytes())):
            assert np.array_equal(rgb(source), want)
        with rasterio.open(path) as dataset:
            assert np.array_equal(rgb(dataset), want)


def test_an_image_that_pillow_opened_and_did_not_decode(tmp_path):
    for path in (
        write(tmp_path / 'a.tif', COLOR[..., 0].astype(np.uint16) * 9, photometric='miniswhite'),
        write(tmp_path / 'b.tif', COLOR, nodata=0),
        write(tmp_path / 'c.png', COLOR.astype(np.uint16), driver='PNG'),
    ):
        assert np.array_equal(rgb(Image.open(path)), rgb(path))
    opened = Image.open(path)
    opened.thumbnail((20, 20))  # decodes and changes it
    assert load_image(opened).size == opened.size
    pages = [Image.fromarray(COLOR), Image.fromarray(COLOR[::-1].copy())]
    pages[0].save(tmp_path / 'pages.tif', save_all=True, append_images=pages[1:])
    read = read_image(tmp_path / 'pages.tif')
    assert np.array_equal(np.asarray(read.rgb), COLOR) and any(
        'holds 2 images, of which the first is read' in note for note in read.notes
    )
    second = Image.open(tmp_path / 'pages.tif')
    second.seek(1)
    assert np.array_equal(rgb(second), COLOR[::-1])


@pytest.mark.parametrize('name', ['a#b', 'a?b', 'a b%20', 'zip:a', 'a!b', 'ünï', os.fsdecode(b'\xff\xe9'), 'no suffix'])
@pytest.mark.parametrize('suffix', ['.tif', '.png', ''])
def test_odd_names(tmp_path, name, suffix):
    path = tmp_path / (name + suffix)
    try:
        path.write_bytes(encoded() if suffix == '.png' else tiff(COLOR))
    except OSError:
        pytest.skip('this file system refuses the name')
    assert np.array_equal(rgb(path), COLOR) and upright_size(path) == (WIDTH, HEIGHT)
    path.write_bytes(b'text')
    with pytest.raises(GeoAlignError) as caught:
        load_image(path)
    assert str(caught.value).encode('utf-8')  # it can be printed


def test_limit_is_ours(tmp_path):
    before = Image.MAX_IMAGE_PIXELS
    for source in (
        save(tmp_path / 'a.png', encoded()),
        write(tmp_path / 'a.tif', COLOR),
        COLOR,
        Image.fromarray(COLOR),
    ):
        with pytest.raises(GeoAlignError, match=f'{WIDTH} × {HEIGHT}'):
            load_image(source, max_pixels=800)
    assert Image.MAX_IMAGE_PIXELS == before
    deep = write(tmp_path / 'b.tif', COLOR.astype(np.float64))
    with pytest.raises(GeoAlignError, match='pixels of 24 bytes'):
        load_image(deep, max_pixels=WIDTH * HEIGHT * 5)
    assert load_image(deep, max_pixels=WIDTH * HEIGHT * 6).size == (WIDTH, HEIGHT)


def test_reduced_jpeg(tmp_path):
    path = save(tmp_path / 'a.jpg', encoded(np.zeros((800, 1200, 3), np.uint8), 'JPEG'))
    assert load_image(path).size == (1200, 800) and load_image(path, size=150).size == (300, 200)


@pytest.mark.parametrize('kind', ['u1', 'u2'])
def test_reduced_rasters_are_means(tmp_path, kind):
    pixels = np.asarray(Image.fromarray(COLOR).resize((512, 384), Image.BICUBIC)).astype(kind)
    path = write(tmp_path / 'a.tif', pixels, **UTM)
    small = read_image(path, size=90)
    means = pixels.reshape(96, 4, 128, 4, 3).mean((1, 3)).round()
    want = means if kind == 'u1' else stretch_to_8bit(means)
    assert abs(np.asarray(small.rgb) - want.astype(int)).max() <= 2
    assert small.georeference.to_map(128, 96) == (505120, 3996160)
    assert read_image(path, size=400).rgb.size == (512, 384)
    hole = np.ones((384, 512), bool)
    hole[:192] = False
    path = write(tmp_path / 'b.tif', np.where(hole[..., None], pixels // 2 + 1, 0).astype(kind), nodata=0)
    assert np.array_equal(read_image(path, size=90).valid, hole[::4, ::4])


def test_a_large_raster_is_read_in_pieces(tmp_path):
    "300 MB of pixels in a sparse file, read at 300 pixels"
    profile = {
        'driver': 'GTiff',
        'width': 10000,
        'height': 10000,
        'count': 3,
        'dtype': 'uint8',
        'sparse_ok': True,
        'tiled': True,
        'nodata': 0,
    }
    with rasterio.open(tmp_path / 'a.tif', 'w', **profile) as dataset:
        dataset.write(np.full((3, 512, 512), 99, np.uint8), window=((1024, 1536), (0, 512)))
    tracemalloc.start()
    small = read_image(tmp_path / 'a.tif', size=300)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert small.rgb.size == (313, 313) and peak < 30e6
    assert np.asarray(small.rgb)[34:46, 2:14].min() == 99 and small.valid.mean() < 0.01
    with pytest.raises(GeoAlignError, match='10000 × 10000'):
        load_image(tmp_path / 'a.tif', max_pixels=9e7)


def test_rasterio_is_imported_on_first_use(tmp_path):
    save(tmp_path / 'a.png', encoded())
    code = f"""import sys, geoalignclip_nb
from geoalignclip_nb.io.images import read_image, upright_size
read_image({str(tmp_path / 'a.png')!r}), upright_size({str(tmp_path / 'a.png')!r})
assert 'rasterio' not in sys.modules"""
    subprocess.run([sys.executable, '-c', code], check=True)


# ---- what cannot be read ---------------------------------------------------------------------------------------------


def bomb(side):
    "A PNG whose header promises far more than its few bytes hold"
    data = bytearray(encoded())
    data[16:24] = struct.pack('>II', side, side)
    data[29:33] = struct.pack('>I', zlib.crc32(data[12:29]))
    return bytes(data)


BAD = {
    'cut.png': (lambda: encoded()[:900], 'truncated|cut off'),
    'cut.jpg': (lambda: encoded(format='JPEG')[:700], 'truncated|cut off'),
    'head.png': (lambda: encoded()[:20], 'damaged|cut off|not an image'),
    'text.jpg': (lambda: b'no image', 'is not an image that can be read'),
    'empty.png': (lambda: b'', r'is empty \(0 bytes\)'),
    'zero.tif': (lambda: b'II*\0' + b'\0' * 12, 'damaged or cut off'),
    'cut.tif': (lambda: tiff(COLOR)[:50] + tiff(COLOR)[-200:], 'damaged or cut off'),
    'bomb.png': (lambda: bomb(60000), '60000 × 60000 pixels, more than 400 million'),
    'bomb.tif': (lambda: tiff(np.zeros((4, 4, 8), np.uint16), tags={256: 99999, 257: 99999}), '99999 × 99999 pixels'),
    'jxl.tif': (lambda: tiff(COLOR, tags={259: 50002}), 'compressed with JXL.*gdal_translate'),
    'code.tif': (lambda: tiff(COLOR, tags={259: 99}), 'compressed with'),
    'iphone.jpg': (lambda: b'\0\0\0\x18ftypheic' + b'\0' * 90, 'is a HEIC image'),
    'a.npy': (lambda: b'\x93NUMPY' + b'\0' * 90, 'is a NumPy file'),
    'a.pdf': (lambda: b'%PDF-1.7', 'is a PDF'),
    'a.zip': (lambda: b'PK\3\4' + b'\0' * 40, 'is a ZIP archive'),
    'a.vrt': (lambda: b'<VRTDataset rasterXSize="5">', 'is a VRT, which only names other files'),
    'a.eps': (lambda: b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n', 'PostScript'),
    'page.jpg': (lambda: b'<html><body>404', 'holds text'),
    'lfs.tif': (lambda: b'version https://git-lfs.github.com/spec/v1', 'Git LFS pointer'),
    'a.nc': (lambda: b'CDF\1' + b'\0' * 90, 'is a netCDF file'),
    'a.h5': (lambda: b'\x89HDF\r\n\x1a\n' + b'\0' * 90, 'is an HDF5 file'),
}


@pytest.mark.parametrize('name', BAD)
def test_bad_files_are_one_sentence(tmp_path, name, capfd):
    make, words = BAD[name]
    for source in (save(tmp_path / name, make()), make()):
        with pytest.raises(GeoAlignError, match=words) as caught:
            load_image(source)
        said = str(caught.value)
        assert said.startswith(name if source != make() else 'The image') and said.endswith('.')
        assert str(tmp_path) not in said and '\n' not in said
    assert capfd.readouterr().err == ''


@pytest.mark.parametrize('kind', ['complex64', 'complex128', 'complex_int16'])
def test_complex_numbers(tmp_path, kind):
    path = write(tmp_path / 'slc.tif', COLOR[..., :1].astype(np.complex64), dtype=kind)
    with pytest.raises(GeoAlignError, match=f'slc.tif holds complex numbers .{kind}.*AMPLITUDE'):
        load_image(path)


@pytest.mark.parametrize('compress', ['none', 'deflate', 'lzw'])
@pytest.mark.parametrize('share', [0.3, 0.9, 0.999])
def test_cut_tiffs_say_so(tmp_path, compress, share):
    data = write(tmp_path / 'a.tif', COLOR, compress=compress, **TILES).read_bytes()
    path = save(tmp_path / 'cut.tif', data[: int(len(data) * share)])
    with pytest.raises(GeoAlignError, match=r'cut.tif is cut off \(it has [\d,]+ of at least [\d,]+ bytes\)'):
        load_image(path)


def test_damaged_tiffs_say_so(tmp_path):
    data = bytearray(write(tmp_path / 'a.tif', COLOR, compress='deflate', **TILES).read_bytes())
    data[len(data) // 2 : len(data) // 2 + 90] = b'\xff' * 90
    with pytest.raises(GeoAlignError, match=r'a.tif is damaged \(block \d+, \d+ cannot be decoded\)'):
        load_image(save(tmp_path / 'a.tif', data))


def test_web_addresses():
    with pytest.raises(GeoAlignError, match='scene.png is a web address; download'):
        load_image('https://example.org/scene.png')


def test_missing_and_folder(tmp_path):
    for path in (tmp_path / 'missing.png', tmp_path):
        for read in (load_image, upright_size):
            with pytest.raises(GeoAlignError, match='does not exist or is not a file') as caught:
                read(path)
            assert str(tmp_path.parent) not in str(caught.value)


@pytest.mark.filterwarnings('ignore')
@settings(max_examples=40, deadline=None)
@given(data=st.binary(min_size=1, max_size=60), start=st.integers(0, 1500))
def test_damaged_bytes_never_escape(tmp_path_factory, data, start):
    for whole, name in ((encoded(), 'a.png'), (tiff(COLOR.astype(np.uint16).repeat(2, 2)), 'a.tif')):
        at = start % len(whole)
        path = save(tmp_path_factory.mktemp('f') / name, whole[:at] + data + whole[at + len(data) :])
        try:
            assert load_image(path, max_pixels=1e7).mode == 'RGB'
        except GeoAlignError:
            pass


# ---- where on Earth --------------------------------------------------------------------------------------------------


def test_georeference(tmp_path):
    place = read_image(write(tmp_path / 'a.tif', COLOR, **UTM)).georeference
    assert (place.crs, place.transform, place.width, place.height) == (
        'EPSG:32633',
        (10, 0, 500000, 0, -10, 4000000),
        WIDTH,
        HEIGHT,
    )
    assert place.to_map(0.5, 1.5) == (500005, 3999985) and place == read_georeference(tmp_path / 'a.tif')
    lonlat = reproject_points([place.to_map(0, 0)], place.crs)
    assert np.allclose(lonlat, [[15, 36.14]], atol=0.01)


def test_no_georeference(tmp_path):
    for path in (
        write(tmp_path / 'a.tif', COLOR),
        save(tmp_path / 'a.png', encoded()),
        write(tmp_path / 'b.tif', COLOR, crs='EPSG:4326'),
    ):
        assert read_image(path).georeference is None and read_georeference(path) is None


@pytest.mark.parametrize('orientation', range(1, 9))
def test_turned_files_keep_their_place(tmp_path, monkeypatch, orientation):
    path = write(
        tmp_path / 'a.tif', COLOR, crs='EPSG:32633', transform=rasterio.Affine(2, 0.5, 500000, 0.25, -3, 4000000)
    )
    stored = read_georeference(path)
    monkeypatch.setattr('geoalignclip_nb.io.rasters.orientation_of', lambda path: orientation)
    upright = read_georeference(path)
    y, x = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    at = turn_upright(np.stack(stored.to_map(x, y), 2), orientation)
    y, x = np.mgrid[: upright.height, : upright.width] + 0.5
    assert np.allclose(np.stack(upright.to_map(x, y), 2), at) and read_image(path).georeference == upright


@pytest.mark.parametrize(
    'name, world', [('a.tif', 'a.tfw'), ('a.jpg', 'a.jgw'), ('a.jpg', 'a.JGW'), ('a.png', 'a.pgw'), ('a.png', 'a.wld')]
)
def test_world_files(tmp_path, name, world):
    Image.fromarray(COLOR).save(tmp_path / name)
    (tmp_path / world).write_text('2\n0\n0\n-2\n101\n199\n')
    read = read_image(tmp_path / name)
    assert read.georeference.crs == '' and read.georeference.to_map(0, 0) == (100, 200)
    assert any('does not name a CRS' in note for note in read.notes)


def test_ground_control_points(tmp_path):
    corners = [
        (0, 0, 500000, 4000000),
        (0, WIDTH, 500560, 4000000),
        (HEIGHT, 0, 500000, 3999600),
        (HEIGHT, WIDTH, 500560, 3999600),
    ]
    path = write(tmp_path / 'a.tif', COLOR, gcps=[GroundControlPoint(*corner) for corner in corners], crs='EPSG:32633')
    read = read_image(path)
    assert read.georeference.crs == 'EPSG:32633' and np.allclose(read.georeference.to_map(5, 5), (500050, 3999950))
    assert any('4 ground control points' in note for note in read.notes)


# ---- one reader for everything ---------------------------------------------------------------------------------------


def test_everything_that_opens_an_image_uses_it(tmp_path):
    path = save(tmp_path / 'a.tif', turned('tiffu2', 6).data)
    want = rgb(path)
    assert np.array_equal(as_image(path), want)
    assert np.array_equal(as_array(Sample(path, id='1')), want)
    assert Image.open(io.BytesIO(_jpeg(path))).size == (WIDTH, HEIGHT)
    assert np.array_equal(to_rgb(Image.fromarray(COLOR)), COLOR) and np.array_equal(from_array(COLOR), COLOR)
    assert convert_image(Image.fromarray(COLOR)).bands == (1, 2, 3)


def test_drawing_scales_fractions_and_not_by_percentiles():
    half = np.full((4, 5, 3), 0.5)
    assert as_image(half).getpixel((0, 0)) == (128, 128, 128)
    assert np.array_equal(as_image(np.moveaxis(COLOR, 2, 0)), COLOR) and np.array_equal(
        as_image(torch.from_numpy(COLOR / 255)), COLOR
    )


OWN_OPENERS = {
    'bench/packings.py': 'bytes of a table cell, decoded later by `load_image`',
    'bench/box_sets.py': 'masks, which are not images of a scene',
}


def test_nothing_else_opens_images():
    package = Path(geoalignclip_nb.__file__).parent
    openers = {
        path.relative_to(package).as_posix()
        for path in package.rglob('*.py')
        if re.search(r'^[^"#`]*\bImage\.open\(', path.read_text(encoding='utf-8'), re.M)
    }
    assert {name for name in openers if not name.startswith('io/')} == set(OWN_OPENERS)
