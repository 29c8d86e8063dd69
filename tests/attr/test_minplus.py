from __future__ import annotations

import math

import pytest
import torch

from captum_face.attr.minplus import MinPlus, gaussian_spots


def spot(height, width, grid, index, sigma):
    row, column = divmod(index, grid)
    values = torch.zeros(height, width, dtype=torch.float64)
    for y in range(height):
        for x in range(width):
            dy = (y - ((row + 0.5) * height / grid - 0.5)) / (sigma * height / grid)
            dx = (x - ((column + 0.5) * width / grid - 0.5)) / (sigma * width / grid)
            values[y, x] = math.exp(-0.5 * (dy**2 + dx**2))
    return values


def looped_map(score, spots, n_steps):
    """Four maps of one image; ``score`` takes a mask."""
    count = len(spots)
    full, empty = score(torch.ones_like(spots[0])), score(torch.zeros_like(spots[0]))
    removal = sum((full - score(1 - g)) * g for g in spots) / sum(spots)
    addition = sum((score(g) - empty) * g for g in spots) / sum(spots)
    greedy = []
    for shown in (False, True):
        total, taken, current = torch.zeros_like(spots[0]), [], empty if shown else full
        for _ in range(n_steps):
            best, best_change = None, 0.0
            for i in range(count):
                if i in taken:
                    continue
                rest = math.prod((1 - spots[j] for j in (*taken, i)), start=torch.ones_like(spots[0]))
                after = score(1 - rest if shown else rest)
                change = after - current if shown else current - after
                if best is None or abs(change) > abs(best_change):
                    best, best_change = i, change
            taken.append(best)
            current = current + best_change if shown else current - best_change
            total += best_change * spots[best]
        greedy.append(total)
    return sum(part / part.abs().max() for part in (removal, addition, *greedy)) / 4


def test_equals_a_loop(pair, images):
    pair.double()
    a, b = (image[:2].double() for image in images)
    attr_a, attr_b = MinPlus(pair).attribute((a, b), grid=3, sigma=0.6, n_steps=3)
    spots = [spot(18, 14, 3, i, 0.6) for i in range(9)]
    with torch.no_grad():
        for i in range(2):
            x, y = a[i, None], b[i, None]
            expected_a = looped_map(lambda m, x=x, y=y: pair(x * m, y).item(), spots, 3)
            expected_b = looped_map(lambda m, x=x, y=y: pair(x, y * m).item(), spots, 3)
            for channel in range(3):
                torch.testing.assert_close(attr_a[i, channel], expected_a, rtol=1e-4, atol=1e-5)
                torch.testing.assert_close(attr_b[i, channel], expected_b, rtol=1e-4, atol=1e-5)


def test_signs_on_a_planted_model():
    image = torch.ones(1, 3, 20, 20)
    for sign in (1, -1):
        attr, untouched = MinPlus(lambda x, y, s=sign: s * x[:, 0, 12, 5]).attribute(
            (image, image), grid=5, n_steps=2
        )
        assert sign * attr[0, 0, 12, 5] > 0.5
        y, x = divmod(int((sign * attr[0, 0]).argmax()), 20)
        assert abs(y - 12) <= 2
        assert abs(x - 5) <= 2
        assert untouched.abs().max() < 1e-6


def test_both_signs_at_once():
    """One spot for the match and one against it: greedy choices find both."""
    image = torch.ones(1, 3, 20, 20)
    attr, _ = MinPlus(lambda x, y: x[:, 0, 4, 4] - x[:, 0, 16, 16]).attribute(
        (image, image), grid=5, n_steps=2
    )
    assert attr[0, 0, 4, 4] > 0.5
    assert attr[0, 0, 16, 16] < -0.5


def test_a_constant_score_gives_an_empty_map(images):
    for attr in MinPlus(lambda a, b: torch.full((len(a),), 0.3)).attribute(images, grid=3, n_steps=2):
        assert attr.eq(0).all()


def test_spots_cover_the_image():
    spots = gaussian_spots((112, 112), 10, 0.75)
    assert spots.shape == (100, 112, 112)
    assert spots.amax(0).min() > 0.35
    # The last spot lies as far from its border as the first from its own.
    torch.testing.assert_close(spots[0], spots[-1].flip(0, 1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"grid": 0}, "grid"),
        ({"grid": 15}, "one spot a pixel of 18x14"),
        ({"sigma": 0}, "sigma, .*above 0"),
        ({"sigma": 1e-9, "grid": 3}, "gaps at sigma=1e-09"),
        ({"n_steps": 0}, "n_steps"),
        ({"grid": 2, "n_steps": 5}, "at most grid.2 = 4, got 5"),
        ({"perturbations_per_eval": 0}, "perturbations_per_eval"),
    ],
)
def test_bad_options(images, options, message):
    with pytest.raises(ValueError, match=message):
        MinPlus(lambda a, b: a.mean((1, 2, 3))).attribute(images, **options)
