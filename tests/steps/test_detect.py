"""Which photos are looked up as a whole: drawn pictures without goods against drawn product photos."""
import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from unde_recog.contracts import Box, Item
from unde_recog.detect import WholePhoto, first_finds, is_whole, looks_like_goods
from unde_recog.wardrobe.world import World


def colour(rng, low=0, high=255): return tuple(int(v) for v in rng.integers(low, high, 3))


def page(rng):
    "Lines of letters, dark on light or light on dark."
    light, dark = colour(rng, 225), colour(rng, 0, 60)
    ground, ink = (light, dark) if rng.random() < .6 else (dark, light)
    width, height = int(rng.integers(500, 1100)), int(rng.integers(500, 1400))
    picture = Image.new('RGB', (width, height), ground)
    pen, size = ImageDraw.Draw(picture), int(rng.integers(16, 34))
    for y in range(30, int(height*rng.uniform(.6, .95)), int(size*1.5)):
        letters = rng.choice(list('abcdefghijklmnopqrstuvwxyz   '), int(width*rng.uniform(1, 1.8)/size))
        pen.text((30, y), ''.join(letters), fill=ink, font=ImageFont.load_default(size=size))
    return picture


def gradient(rng):
    y, x = np.mgrid[0:1:400j, 0:1:500j]
    angle, (a, b) = rng.uniform(0, 6.28), rng.integers(0, 255, (2, 3))
    t = x*np.cos(angle) + y*np.sin(angle) if rng.random() < .7 else np.hypot(x - .5, y - .5)
    t = (t - t.min())/np.ptp(t)
    return Image.fromarray((a + (b - a)*t[..., None]).astype('uint8'))


def landscape(rng):
    width, height = 640, 420
    sky = np.linspace(0, 1, height)[:, None, None]*np.array([60, 40, 10]) + np.array([110, 160, 230])
    picture = Image.fromarray(np.broadcast_to(sky, (height, width, 3)).astype('uint8'))
    pen = ImageDraw.Draw(picture)
    for layer in range(int(rng.integers(1, 4))):
        ridge = height*(.4 + .17*layer) - rng.integers(0, 90, 9)
        hills = [(float(x), float(y)) for x, y in zip(np.linspace(0, width, 9), ridge)]
        pen.polygon([(0, height), *hills, (width, height)], fill=colour(rng, 30, 120))
    for _ in range(int(rng.integers(0, 5))):
        x, y = int(rng.integers(0, width)), int(rng.integers(250, 380))
        pen.ellipse((x, y - 50, x + 35, y), fill='#2f5b2c')
    return picture


def face(rng):
    skin = ['#f1c9a5', '#e0ac7e', '#c68642', '#8d5524'][int(rng.integers(4))]
    hair = ['#2b1b10', '#3d2b1f', '#111111', '#5b2a12'][int(rng.integers(4))]
    picture = Image.new('RGB', (400, 500), ['#7fb2e5', '#e8ecef', '#5d7f6b'][int(rng.integers(3))])
    pen = ImageDraw.Draw(picture)
    x, y = 200 + int(rng.integers(-20, 20)), 240
    w, h = int(rng.integers(95, 130)), int(rng.integers(130, 160))
    pen.ellipse((x - w - 14, y - h - 24, x + w + 14, y + h//3), fill=hair)
    pen.ellipse((x - w, y - h, x + w, y + h), fill=skin)
    for side in (-1, 1):
        eye = x + side*w*.42
        pen.ellipse((eye - 20, y - 40, eye + 20, y - 16), fill='white')
        pen.ellipse((eye - 9, y - 37, eye + 9, y - 19), fill='#222222')
    pen.arc((x - 40, y + 40, x + 40, y + 95), 10, 170, fill='#aa3333', width=6)
    return picture


def mug(rng):
    picture = Image.new('RGB', (500, 500), colour(rng, 225))
    pen, body = ImageDraw.Draw(picture), colour(rng, 10, 170)
    pen.arc((300, 170, 420, 330), -90, 90, fill=body, width=25)
    pen.rounded_rectangle((150, 130, 350, 380), 20, fill=body)
    if rng.random() < .5: pen.text((190, 230), 'HELLO', fill='white', font=ImageFont.load_default(size=40))
    return picture


def power_bank(rng):
    picture = Image.new('RGB', (600, 400), colour(rng, 230))
    pen = ImageDraw.Draw(picture)
    pen.rounded_rectangle((120, 120, 480, 290), 25, fill=colour(rng, 10, 120))
    for lamp in range(4): pen.ellipse((160 + 25*lamp, 260, 170 + 25*lamp, 270), fill='#77ccff')
    return picture


def share(draws, seed):
    "The share of 50 drawn pictures that would be looked up whole."
    rng = np.random.default_rng(seed)
    return np.mean([looks_like_goods(draws[n % len(draws)](rng)) for n in range(50)])


def test_pictures_without_goods_are_not_looked_up(): assert share([page, gradient, landscape, face], 1) <= .06


def test_product_photos_are_looked_up():
    world = World(seed=9, skus=40)
    views = iter([(key, view) for view in ('front', 'back') for key in world.keys])
    flat = lambda rng: world.photo(*next(views))
    assert share([flat, flat, mug, power_bank], 2) >= .95


@pytest.mark.parametrize('value', ['red', 'white', '#1b2440'])
def test_a_plain_colour_is_no_goods(value): assert not looks_like_goods(Image.new('RGB', (60, 80), value))


async def nothing(detector, call): return None


@pytest.mark.parametrize('size', [(3, 500), (500, 3), (1, 1)])
def test_a_photo_of_any_size_is_judged(size):
    "No size breaks the look, and a photo that stands in for itself is known as such."
    import asyncio
    photo = Image.new('RGB', size, 'red')
    items = asyncio.run(first_finds([WholePhoto()], photo, nothing))
    assert is_whole(items, photo) and looks_like_goods(photo) is False
    assert not is_whole([Item(Box(0, 0, *size), 'top', 1., photo)], photo) and not is_whole([], photo)
