"""Pictures to try a service on: the same for the same seed, boxes where they are said to be."""

import random

import numpy as np
import pytest
from PIL import Image

from unde_recog.research.pictures import (
    WITHOUT_GOODS,
    draw_mug,
    draw_power_bank,
    far_away,
    moved,
    side_by_side,
)


@pytest.mark.parametrize('draw', [*WITHOUT_GOODS.values(), draw_mug, draw_power_bank])
def test_a_seed_gives_one_picture_and_another_seed_another(draw):
    a, again, b = (np.asarray(draw(random.Random(s))) for s in (1, 1, 2))
    assert (a == again).all() and (a != b).any() and a.std() > 1


def test_boxes_follow_their_pictures():
    people = [Image.new('RGB', (400, 600), (0, 0, 0)) for _ in range(3)]
    for n, image in enumerate(people): image.paste((255, 60*n, 0), (100, 150, 200, 450))
    for whole, parts in ((side_by_side(people), people), (far_away(people[1]), people[1:2])):
        for place, image in zip(whole.places, parts):
            x0, y0, x1, y1 = moved((100, 150, 200, 450), place)
            middle = whole.image.getpixel((round((x0 + x1)/2), round((y0 + y1)/2)))
            assert middle == image.getpixel((150, 300))
