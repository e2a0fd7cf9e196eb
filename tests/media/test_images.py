"""Broken, hostile and unusual image bytes: an `ImageError` with its class, or an upright RGB
photo; nothing else ever comes out.
"""

import io
import struct
import zlib
import os
import subprocess
import sys
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from unde_recog.media.images import (
    MAX_PIXELS_WHOLE,
    ImageError,
    decode,
    formats,
    from_full,
    full_size,
    open_header,
    pad_square,
    shrink,
    to_full,
    to_jpeg,
    to_rgb,
)
from unde_recog.media.profiles import WIDE_GAMUTS, in_gamut

MAKERS = {
    'jpeg': ('JPEG', {'quality': 90}),
    'progressive': ('JPEG', {'quality': 90, 'progressive': True}),
    'png': ('PNG', {}),
    'webp': ('WEBP', {'quality': 90}),
    'lossless webp': ('WEBP', {'lossless': True}),
}


def picture(width=64, height=48, seed=0):
    "A picture with structure and noise, so that every part of the file matters."
    y, x = np.mgrid[:height, :width]
    base = np.stack([x * 255 / width, y * 255 / height, (x * y) % 256], -1)
    return Image.fromarray(
        (base + np.random.default_rng(seed).normal(0, 12, base.shape)).clip(0, 255).astype('uint8')
    )


def encode(image, fmt, **options):
    buffer = io.BytesIO()
    image.save(buffer, fmt, **options)
    return buffer.getvalue()


@lru_cache
def whole(name): return encode(picture(), MAKERS[name][0], **MAKERS[name][1])


def chunk(kind, data):
    return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))


def png(width, height, body, depth=8, colour=2):
    header = chunk(b'IHDR', struct.pack('>IIBBBBB', width, height, depth, colour, 0, 0, 0))
    return b'\x89PNG\r\n\x1a\n' + header + chunk(b'IDAT', body) + chunk(b'IEND', b'')


def outcome(data, **options):
    "The photo, or the error's class; anything else is a failure of the test."
    try: image = decode(data, **options)
    except ImageError as e: return e.kind
    assert image.mode == 'RGB' and min(image.size) > 0
    assert np.asarray(image).shape == (image.height, image.width, 3)
    return image


def fails(data, **options):
    with pytest.raises(ImageError) as e: decode(data, name='shirt.jpg', **options)
    assert 'shirt.jpg' in str(e.value)
    return e.value.kind


@pytest.mark.parametrize('name', MAKERS)
def test_a_cut_file_is_refused_unless_every_pixel_is_there(name):
    data = whole(name)
    full = np.asarray(decode(data))
    kinds = set()
    for cut in sorted(
        {*range(0, len(data), max(1, len(data) // 150)), *range(max(0, len(data) - 40), len(data))}
    ):
        got = outcome(data[:cut])
        if isinstance(got, str):
            kinds.add(got)
        else:
            assert np.array_equal(np.asarray(got), full), (
                f'cut at {cut} of {len(data)}: half a photo was taken'
            )
    assert kinds <= {'truncated', 'not_an_image'}
    assert outcome(data[:len(data) // 2]) == outcome(data[:len(data) - 60]) == 'truncated'


@pytest.mark.parametrize('name', MAKERS)
def test_a_cut_file_at_reduced_scale_is_refused_too(name):
    data = encode(picture(640, 480), MAKERS[name][0], **MAKERS[name][1])
    for part in (0.1, 0.3, 0.5, 0.7, 0.9, 0.98):
        assert outcome(data[: int(len(data) * part)], at_least=100) == 'truncated'


OTHERS = {
    'tiff': encode(picture(), 'TIFF'),
    'bmp': encode(picture(), 'BMP'),
    'ico': encode(picture(), 'ICO'),
    'ppm': encode(picture(), 'PPM'),
    'svg': b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>',
    'html': b'<!doctype html><title>404</title><p>no such photo',
    'nothing': b'',
    'one zero': b'\0',
    'zeros': bytes(5000),
    'text': b'hello',
    'pdf': b'%PDF-1.7\n',
    'zip': b'PK\3\4' + bytes(60),
    'eps': b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n',
    'wrong magic': b'\xff\xd7' + whole('jpeg')[2:],
    'png magic only': b'\x89PNG\r\n\x1a\n',
    'jpeg magic only': b'\xff\xd8\xff',
    'png magic, jpeg body': b'\x89PNG\r\n\x1a\n' + whole('jpeg'),
    'riff but no webp': b'RIFF' + struct.pack('<I', 100) + b'WAVE' + bytes(92),
}


@pytest.mark.parametrize('name', OTHERS)
def test_other_formats_and_nonsense_are_refused(name):
    assert fails(OTHERS[name]) in ({'truncated', 'not_an_image'} if 'only' in name else {'not_an_image'})


def test_a_png_bomb_is_refused_by_its_header_alone():
    "60,000 × 60,000 pixels in a few bytes; and a size that is legal for Pillow but not for us."
    assert fails(png(60_000, 60_000, zlib.compress(bytes(1000)))) == 'too_many_pixels'
    assert fails(png(2**31 - 1, 2**31 - 1, b'')) == 'too_many_pixels'
    assert fails(png(6000, 5000, zlib.compress(b''))) == 'too_many_pixels'
    assert fails(whole('png'), max_pixels=64 * 48 - 1) == 'too_many_pixels'
    assert decode(whole('png'), max_pixels=64 * 48).size == (64, 48)


def test_a_jpeg_whose_header_promises_too_much():
    data = bytearray(whole('jpeg'))
    at = data.index(b'\xff\xc0')
    data[at + 5:at + 9] = struct.pack('>HH', 65_000, 65_000)
    assert fails(bytes(data)) == 'too_many_pixels'
    # permitted; libjpeg fills what the file does not have
    data[at + 5:at + 9] = struct.pack('>HH', 4800, 640)
    outcome(bytes(data))


def test_a_webp_whose_header_promises_too_much():
    canvas = struct.pack('<I', 16_383)[:3]
    header = b'VP8X' + struct.pack('<I', 10) + bytes(4) + canvas + canvas
    body = b'WEBP' + header + b'VP8 ' + struct.pack('<I', 4) + bytes(4)
    assert fails(b'RIFF' + struct.pack('<I', len(body)) + body) in (
        'too_many_pixels',
        'not_an_image',
        'truncated',
    )


def test_a_compressed_text_bomb_inside_a_png():
    text = chunk(b'zTXt', b'Comment\0\0' + zlib.compress(bytes(80_000_000), 9))
    data = whole('png')
    assert outcome(data[:33] + text + data[33:]) in ('not_an_image', 'truncated') or outcome(
        data[:33] + text + data[33:]
    ).size == (64, 48)


def test_empty_pictures_are_refused():
    for size in ((0, 0), (0, 10), (10, 0)):
        assert fails(png(*size, zlib.compress(b''))) in ('not_an_image', 'truncated')


@pytest.mark.filterwarnings('ignore::UserWarning')
@given(st.sampled_from(sorted(MAKERS)), st.data())
@settings(max_examples=400, deadline=None)
def test_any_mutation_gives_an_error_or_a_photo(name, data):
    raw = bytearray(whole(name))
    for _ in range(data.draw(st.integers(1, 6))):
        at = (
            data.draw(st.integers(0, len(raw) - 1))
            if data.draw(st.booleans())
            else data.draw(st.integers(0, min(80, len(raw) - 1)))
        )
        match data.draw(st.sampled_from(['set', 'insert', 'cut', 'drop', 'repeat'])):
            case 'set': raw[at] = data.draw(st.integers(0, 255))
            case 'insert': raw[at:at] = data.draw(st.binary(min_size=1, max_size=12))
            case 'cut': del raw[max(4, at):]
            case 'drop': del raw[at:at + data.draw(st.integers(1, 30))]
            case 'repeat': raw[at:at] = raw[at:at + data.draw(st.integers(1, 60))]
        if not raw: break
    outcome(bytes(raw))
    outcome(bytes(raw), at_least=16)


@pytest.mark.filterwarnings('ignore::UserWarning')  # Pillow's, on broken EXIF
def test_thousands_of_mutations_gathered_at_the_headers():
    rng = np.random.default_rng(4)
    exif = Image.Exif()
    exif[0x0112], exif[0x010f], exif[0x9286] = 6, 'a maker', b'ASCII\0\0\0a comment'
    bases = [encode(picture(24, 16), fmt, exif=exif) for fmt in ('JPEG', 'PNG', 'WEBP')] + [
        encode(picture(24, 16).quantize(8), 'PNG', transparency=0)
    ]
    for i in range(3000):
        raw = np.frombuffer(bases[i % len(bases)], 'uint8').copy()
        some = rng.integers(0, min(len(raw), rng.choice([40, 160, len(raw)])), rng.integers(1, 5))
        raw[some] = rng.choice([0, 1, 127, 128, 255, int(rng.integers(256))], len(some))
        outcome(raw.tobytes())


@given(
    st.binary(max_size=300),
    st.sampled_from(
        [
            b'',
            b'\xff\xd8\xff\xe0',
            b'\xff\xd8\xff\xe1',
            b'\x89PNG\r\n\x1a\n',
            b'RIFF\x40\0\0\0WEBPVP8 ',
            b'RIFF\x40\0\0\0WEBPVP8X',
        ]
    ),
)
@settings(deadline=None)
def test_noise_behind_a_good_magic(body, magic): outcome(magic + body)


def oriented(orientation, fmt, mode='RGB'):
    """A file whose pixels are stored as a camera of this orientation stores them, and the
    upright picture.
    """
    upright = picture(60, 40).convert(mode)
    undo = {
        1: None,
        2: 'FLIP_LEFT_RIGHT',
        3: 'ROTATE_180',
        4: 'FLIP_TOP_BOTTOM',
        5: 'TRANSPOSE',
        6: 'ROTATE_90',
        7: 'TRANSVERSE',
        8: 'ROTATE_270',
    }[orientation]
    stored = upright.transpose(Image.Transpose[undo]) if undo else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encode(
        stored,
        fmt,
        exif=exif,
        **(
            {'quality': 98, 'subsampling': 0}
            if fmt == 'JPEG'
            else {'lossless': True}
            if fmt == 'WEBP'
            else {}
        ),
    ), upright.convert('RGB')


@pytest.mark.parametrize('fmt', ['JPEG', 'PNG', 'WEBP'])
@pytest.mark.parametrize('orientation', range(1, 9))
def test_all_eight_orientations(orientation, fmt):
    data, upright = oriented(orientation, fmt)
    turned = decode(data)
    assert turned.size == (60, 40)
    assert np.abs(np.asarray(turned, float) - np.asarray(upright, float)).mean() < (
        3 if fmt == 'JPEG' else 0.01
    )
    assert decode(to_jpeg(turned)).size == (60, 40)  # and it is not turned a second time


@pytest.mark.parametrize('orientation', range(1, 9))
def test_orientation_and_reduced_scale_together(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(picture(900, 600), 'JPEG', exif=exif)
    small = decode(data, at_least=100)
    assert (small.width > small.height) == (orientation < 5)
    assert 100 <= min(small.size) < 600


@pytest.mark.parametrize('number', [0, 9, 65535])
def test_a_nonsense_orientation_turns_nothing(number):
    exif = Image.Exif()
    exif[0x0112] = number
    assert decode(encode(picture(60, 40), 'JPEG', exif=exif)).size == (60, 40)


@pytest.mark.filterwarnings('ignore::UserWarning')
def test_broken_exif_does_not_cost_the_photo():
    data = whole('jpeg')
    app1 = b'Exif\0\0' + b'II*\0\xff\xff\xff\x7f' + bytes(20)
    assert decode(
        data[:2] + b'\xff\xe1' + struct.pack('>H', len(app1) + 2) + app1 + data[2:]
    ).size == (64, 48)


def near(image, colour, by=3): return np.abs(np.asarray(image, float) - colour).max() <= by


def test_cmyk_has_the_colours_of_the_same_picture_in_rgb():
    for colour in ((200, 40, 60), (20, 180, 90), (255, 255, 255), (10, 10, 10)):
        assert near(
            decode(encode(Image.new('RGB', (32, 32), colour).convert('CMYK'), 'JPEG', quality=98)),
            colour,
            8,
        )


def test_transparent_pixels_become_white():
    half = Image.new('RGBA', (4, 4), (255, 0, 0, 0))
    half.putpixel((0, 0), (255, 0, 0, 255))
    half.putpixel((1, 0), (0, 0, 0, 128))
    for fmt, options in (('PNG', {}), ('WEBP', {'lossless': True, 'exact': True})):
        got = decode(encode(half, fmt, **options))
        assert got.getpixel((0, 0)) == (255, 0, 0) and got.getpixel((3, 3)) == (255, 255, 255)
        assert all(abs(v - 127) <= 2 for v in got.getpixel((1, 0)))


def test_palettes_with_and_without_transparency():
    indexed = Image.new('P', (2, 1))
    indexed.putpalette([10, 20, 30, 200, 100, 50])
    indexed.putpixel((1, 0), 1)
    assert [decode(encode(indexed, 'PNG')).getpixel((x, 0)) for x in (0, 1)] == [
        (10, 20, 30),
        (200, 100, 50),
    ]
    assert [decode(encode(indexed, 'PNG', transparency=0)).getpixel((x, 0)) for x in (0, 1)] == [
        (255, 255, 255),
        (200, 100, 50),
    ]
    assert [
        decode(encode(indexed, 'PNG', transparency=bytes([255, 0]))).getpixel((x, 0))
        for x in (0, 1)
    ] == [(10, 20, 30), (255, 255, 255)]


def test_a_transparent_colour_in_rgb_and_grey():
    rgb = Image.new('RGB', (2, 1), (9, 8, 7))
    rgb.putpixel((1, 0), (1, 2, 3))
    assert [
        decode(encode(rgb, 'PNG', transparency=(9, 8, 7))).getpixel((x, 0)) for x in (0, 1)
    ] == [(255, 255, 255), (1, 2, 3)]
    grey = Image.new('L', (2, 1), 50)
    grey.putpixel((1, 0), 90)
    assert [decode(encode(grey, 'PNG', transparency=50)).getpixel((x, 0)) for x in (0, 1)] == [
        (255, 255, 255),
        (90, 90, 90),
    ]


def test_grey_grey_with_alpha_and_one_bit():
    assert near(decode(encode(Image.new('L', (8, 8), 77), 'PNG')), 77, 0)
    assert near(decode(encode(Image.new('L', (8, 8), 77), 'JPEG')), 77, 1)
    assert near(decode(encode(Image.new('LA', (8, 8), (77, 255)), 'PNG')), 77, 0)
    assert near(decode(encode(Image.new('LA', (8, 8), (77, 0)), 'PNG')), 255, 0)
    bits = Image.new('1', (2, 1))
    bits.putpixel((1, 0), 1)
    assert [decode(encode(bits, 'PNG')).getpixel((x, 0)) for x in (0, 1)] == [(0, 0, 0), (255, 255, 255)]


@pytest.mark.parametrize('top', [255, 4095, 65535])
def test_sixteen_bit_grey_is_scaled_by_its_depth_and_not_by_its_brightest_pixel(top):
    ramp = np.linspace(0, top, 256).astype('uint16').reshape(16, 16)
    assert (
        np.abs(
            np.asarray(decode(encode(Image.fromarray(ramp), 'PNG')), float)[..., 0] - ramp / 257
        ).max()
        <= 1
    )


def test_sixteen_bit_colour():
    line = b'\0' + struct.pack('>6H', 65535, 0, 32896, 0, 65535, 257)
    got = decode(png(2, 1, zlib.compress(line), depth=16))
    assert all(
        abs(a - b) <= 1
        for a, b in zip(got.getpixel((0, 0)) + got.getpixel((1, 0)), (255, 0, 128, 0, 255, 1))
    )


def test_animations_give_their_first_frame():
    frames = [Image.new('RGB', (20, 10), c) for c in ('red', 'blue')]
    for fmt in ('PNG', 'WEBP'):
        assert near(
            decode(
                encode(
                    frames[0],
                    fmt,
                    save_all=True,
                    append_images=frames[1:],
                    duration=50,
                    **({'lossless': True} if fmt == 'WEBP' else {}),
                )
            ),
            (255, 0, 0),
            1,
        )


@given(st.integers(1, 900), st.integers(1, 900), st.integers(1, 700))
@settings(max_examples=80, deadline=None)
def test_reduced_scale_never_takes_the_shortest_side_under_the_asked(width, height, least):
    image = decode(encode(Image.new('RGB', (width, height), 'teal'), 'JPEG'), at_least=least)
    assert min(image.size) >= min(least, min(width, height))
    assert image.width <= width and image.height <= height


@pytest.mark.parametrize('mode', ['RGB', 'L', 'CMYK'])
def test_reduced_scale_saves_work_and_shows_the_same_picture(mode):
    data = encode(
        picture(1600, 1200)
        .resize((16, 12))
        .resize((1600, 1200), Image.Resampling.BICUBIC)
        .convert(mode),
        'JPEG',
        quality=95,
    )
    full, small = decode(data), decode(data, at_least=150)
    assert small.size == (200, 150) and full.size == (1600, 1200)
    assert (
        np.abs(
            np.asarray(full.resize(small.size, Image.Resampling.BOX), float)
            - np.asarray(small, float)
        ).mean()
        < 2
    )


@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 80))
@settings(deadline=None)
def test_squares_and_shrunk_pictures_keep_the_whole_garment(width, height, side):
    image = Image.new('RGB', (width, height), (10, 20, 30))
    assert pad_square(image).size == (max(width, height),) * 2 and pad_square(image, side).size == (
        side,
        side,
    )
    assert (np.asarray(pad_square(image)) == (10, 20, 30)).all(-1).sum() == width * height
    assert max(shrink(image, side).size) == min(side, max(width, height))


def test_no_place_and_no_device_leave_with_a_jpeg():
    exif = Image.Exif()
    exif[0x010f] = 'Secret Phone 9'
    exif.get_ifd(0x8825)[1] = 'N'
    data = to_jpeg(ImageOps.exif_transpose(Image.open(io.BytesIO(encode(picture(), 'JPEG', exif=exif)))))
    assert b'Secret' not in data and not Image.open(io.BytesIO(data)).getexif()


@pytest.mark.parametrize(
    'mode',
    [
        '1',
        'L',
        'LA',
        'P',
        'PA',
        'RGB',
        'RGBA',
        'RGBX',
        'RGBa',
        'CMYK',
        'YCbCr',
        'LAB',
        'HSV',
        'I',
        'F',
        'I;16',
    ],
)
def test_to_rgb_knows_every_mode_of_pillow(mode): assert to_rgb(Image.new(mode, (5, 4))).mode == 'RGB'


CASES = Path(os.environ.get('UNDE_CASES', 'shared/cases')) / 'img'
if not CASES.is_dir(): CASES = Path(__file__).parents[3] / 'shared' / 'cases' / 'img'


@pytest.mark.parametrize(
    ('name', 'right'),
    [
        ('no_eoi.jpg', 'taken'),
        ('avif.avif', 'taken'),
        ('avif_named.jpg', 'taken'),
        ('gif.gif', 'taken'),
        ('tall_8x6000.png', 'taken'),
        ('heic_head.heic', 'a HEIC file'),
        ('jxl.jpg', 'a JPEG XL file'),
        ('tiff.tif', 'a TIFF file'),
        ('svg.jpg', 'an SVG drawing'),
        ('html.jpg', 'a web page'),
        ('zero.jpg', 'empty'),
    ],
)
def test_the_cases_of_real_shops(name, right):
    path = CASES / name
    if not path.is_file(): pytest.skip(f'{name}: the cases are not here (UNDE_CASES names their folder)')
    if right == 'taken':
        assert not isinstance(outcome(path.read_bytes()), str)
        return
    with pytest.raises(ImageError, match=right) as e: decode(path.read_bytes(), name=name)
    assert e.value.kind == 'not_an_image' and name in str(e.value)
    assert any(remedy in str(e.value) for remedy in ('send ', 'give ', 'empty'))


@pytest.mark.parametrize('fmt', ['GIF', 'AVIF'])
def test_the_first_frame_is_taken(fmt):
    red, blue = Image.new('RGB', (48, 32), 'red'), Image.new('RGB', (48, 32), 'blue')
    data = encode(red, fmt, save_all=True, append_images=[blue])
    assert near(decode(data), (255, 0, 0), 6)
    kinds = {k for part in (.3, .6, .9) if isinstance(k := outcome(data[:int(len(data) * part)]), str)}
    assert kinds <= {'truncated', 'not_an_image'}


def test_heic_is_read_where_its_library_is():
    heif = pytest.importorskip('pillow_heif', reason="pip install 'unde_recog[heic]'")
    formats.cache_clear()
    heif.register_heif_opener()
    made = encode(Image.new('RGB', (64, 48), (200, 40, 60)), 'HEIF', quality=95)
    assert near(decode(made), (200, 40, 60), 8)


@pytest.mark.parametrize('gamut', WIDE_GAMUTS)
@pytest.mark.parametrize('fmt', ['JPEG', 'PNG', 'WEBP', 'AVIF'])
def test_wide_gamuts_are_read_as_the_colours_that_they_mean(gamut, fmt):
    colours = Image.new('RGB', (3, 1))
    for x, c in enumerate(((200, 40, 60), (90, 140, 100), (120, 120, 130))): colours.putpixel((x, 0), c)
    written = in_gamut(colours.resize((96, 32), 0), WIDE_GAMUTS[gamut])
    exact = {
        'JPEG': {'quality': 98, 'subsampling': 0},
        'WEBP': {'lossless': True},
        'AVIF': {'quality': 100, 'subsampling': '4:4:4'},
    }
    data = encode(written, fmt, icc_profile=written.info['icc_profile'], **exact.get(fmt, {}))
    got = decode(data)
    assert not got.info
    for x in (16, 48, 80):
        want = colours.getpixel((x // 32, 0))
        assert all(abs(a - b) <= 12 for a, b in zip(got.getpixel((x, 16)), want)), (x, want)


def test_a_photo_without_a_profile_or_with_srgb_keeps_its_pixels():
    from PIL import ImageCms
    own = ImageCms.ImageCmsProfile(ImageCms.createProfile('sRGB')).tobytes()
    for fmt, options in MAKERS.values():
        plain = np.asarray(decode(encode(picture(), fmt, **options)))
        assert np.array_equal(plain, np.asarray(Image.open(io.BytesIO(encode(picture(), fmt, **options)))))
        assert np.array_equal(plain, np.asarray(decode(encode(picture(), fmt, icc_profile=own, **options))))


@pytest.mark.parametrize('icc', [b'', b'nonsense', bytes(128), WIDE_GAMUTS['Display P3'][:200]])
def test_a_broken_profile_costs_nothing(icc):
    assert decode(encode(picture(), 'JPEG', icc_profile=icc)).size == (64, 48)


def test_a_profile_for_another_kind_of_picture_is_ignored():
    p3 = WIDE_GAMUTS['Display P3']
    for mode in ('L', 'CMYK'):
        data = encode(picture().convert(mode), 'JPEG', icc_profile=p3)
        plain = decode(encode(picture().convert(mode), 'JPEG'))
        assert np.array_equal(np.asarray(decode(data)), np.asarray(plain))
    grey = encode(picture().convert('LA'), 'PNG', icc_profile=p3)
    assert decode(grey).size == (64, 48)


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_any_mutation_of_a_profile_gives_a_photo(data):
    icc = bytearray(WIDE_GAMUTS['Adobe RGB'])
    for _ in range(data.draw(st.integers(1, 8))):
        icc[data.draw(st.integers(0, len(icc) - 1))] = data.draw(st.integers(0, 255))
    assert outcome(encode(picture(), 'PNG', icc_profile=bytes(icc))).size == (64, 48)


@pytest.mark.parametrize('fmt', ['JPEG', 'PNG', 'WEBP'])
@pytest.mark.parametrize('orientation', [1, 6])
def test_a_large_photo_is_small_at_once_and_knows_its_size(fmt, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(picture(300, 260).resize((3000, 2600)), fmt, exif=exif)
    photo, whole = decode(data), decode(data, at_least=None)
    assert 1200 <= min(photo.size) < 2400 and full_size(photo) == whole.size == full_size(whole)
    assert (photo.width > photo.height) == (orientation == 1)
    box = (300, 200, 900, 1000)
    assert np.allclose(to_full(from_full(box, photo), photo), box)
    a = np.asarray(photo.resize((30, 30)), float)
    assert np.abs(a - np.asarray(whole.resize((30, 30)), float)).mean() < 6
    assert full_size(photo.crop((0, 0, 50, 50))) == (50, 50)


def test_phone_photos_of_fifty_million_pixels_are_taken_and_large_others_not():
    data = encode(Image.new('RGB', (8160, 6120), '#b3262e'), 'JPEG')
    photo = decode(data)
    assert full_size(photo) == (8160, 6120) and max(photo.size) == 2040
    large = Image.new('L', (6000, 4200))
    assert large.width * large.height > MAX_PIXELS_WHOLE
    for fmt, options in (('PNG', {}), ('JPEG', {'progressive': True})):
        assert fails(encode(large, fmt, **options)) == 'too_many_pixels'
    with pytest.raises(ImageError, match='full-size JPEG'): decode(data, at_least=None)


def test_a_header_is_read_without_its_pixels():
    image = open_header(encode(picture(900, 700), 'JPEG'), 10**6)
    assert image.size == (900, 700)


@pytest.mark.parametrize('name', ['jpeg', 'lossless webp', 'png'])
def test_only_a_jpeg_with_all_its_pixels_may_lack_its_end(name):
    data = encode(picture(200, 150), MAKERS[name][0], **MAKERS[name][1])
    full = np.asarray(decode(data))
    for cut in range(1, 40):
        got = outcome(data[:-cut])
        assert isinstance(got, str) or np.array_equal(np.asarray(got), full), cut
    if name == 'jpeg': assert outcome(data[:-2]).size == (200, 150)


@pytest.mark.skipif(not Path('/proc/self/status').is_file(), reason='memory is read from /proc')
def test_memory_of_many_large_photos_is_bounded(tmp_path):
    "Sixteen at once, in a process of its own: what is decoded at the same time is limited."
    (tmp_path / 'a.png').write_bytes(encode(Image.new('RGB', (5000, 4900)), 'PNG'))
    code = (
        'import sys\n'
        'from concurrent.futures import ThreadPoolExecutor\n'
        'from unde_recog.media.images import decode\n'
        'data = open(sys.argv[1], "rb").read()\n'
        'with ThreadPoolExecutor(16) as pool: small = list(pool.map(decode, [data]*16))\n'
        'assert small[0].size == (1250, 1225)\n'
        'peak = next(l for l in open("/proc/self/status") if l.startswith("VmHWM"))\n'
        'print(int(peak.split()[1])//1024)'
    )
    command = [sys.executable, '-c', code, str(tmp_path / 'a.png')]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 700  # MB; sixteen whole ones at once are 1,600


def test_a_strip_makes_no_huge_square():
    assert max(pad_square(Image.new('RGB', (8, 60_000))).size) <= 4096


def test_half_an_avif_is_named_as_such():
    import io

    from PIL import Image, features

    from unde_recog.media.images import ImageError, decode
    if not features.check('avif'): pytest.skip('Pillow has no AVIF here')
    buffer = io.BytesIO()
    Image.effect_noise((200, 300), 50).convert('RGB').save(buffer, 'AVIF')
    for part in (.2, .5, .9):
        with pytest.raises(ImageError) as e: decode(buffer.getvalue()[:int(part*buffer.tell())])
        assert e.value.kind == 'truncated' and 'HEIC' not in str(e.value)
