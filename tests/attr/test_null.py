from __future__ import annotations

import pytest
import torch

from captum_face import Center, Random


def never(a, b):
    raise AssertionError("null baselines must not look")


def test_random_covers_its_range_and_both_signs():
    images = torch.rand(1, 3, 64, 48), torch.rand(1, 3, 64, 48)
    attr_a, attr_b = Random(never).attribute(images, seed=0)
    assert attr_a.min() >= -1
    assert attr_a.max() < 1
    assert abs(float(attr_a.mean())) < 0.05
    assert float(attr_a.std()) == pytest.approx(1 / 3**0.5, rel=0.05)
    assert not torch.equal(attr_a, attr_b)
    assert torch.equal(attr_a[:, 0], attr_a[:, 2])


def test_random_repeats_with_a_seed_only(images):
    first, again, other = (Random(never).attribute(images, seed=seed)[0] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    generator = torch.Generator().manual_seed(1)
    assert torch.equal(first, Random(never).attribute(images, generator=generator)[0])
    assert not torch.equal(first, Random(never).attribute(images, generator=generator)[0])
    torch.manual_seed(3)
    assert not torch.equal(Random(never).attribute(images)[0], Random(never).attribute(images)[0])


def test_center_is_a_gaussian_in_the_middle():
    images = torch.rand(2, 3, 9, 5), torch.rand(2, 3, 9, 5)
    attr_a, attr_b = Center(never).attribute(images, sigma=0.3)
    assert torch.equal(attr_a, attr_b)
    for y in range(9):
        for x in range(5):
            expected = torch.tensor(-0.5 * (((y - 4) / 8 / 0.3) ** 2 + ((x - 2) / 4 / 0.3) ** 2)).exp()
            torch.testing.assert_close(attr_a[1, 2, y, x], expected.float())
    assert attr_a.argmax() == 4 * 5 + 2


def test_center_is_a_quarter_of_the_side_wide():
    images = torch.rand(2, 1, 3, 9, 5).unbind()
    attr, _ = Center(never).attribute(images)
    # The border is two standard deviations from the middle.
    torch.testing.assert_close(attr[0, 0, 0, 2], torch.tensor(-2.0).exp())
    torch.testing.assert_close(attr[0, 0, 4, 4], torch.tensor(-2.0).exp())


@pytest.mark.parametrize(
    ("method", "options", "error", "message"),
    [
        (Center, {"sigma": 0}, ValueError, "sigma, .*above 0"),
        (Center, {"sigma": float("nan")}, ValueError, "sigma, .*above 0"),
        (Center, {"sigma": "wide"}, TypeError, "sigma, .*number, got 'wide'"),
        (Random, {"seed": 0, "generator": torch.Generator()}, ValueError, "got both"),
        (Random, {"seed": "0"}, TypeError, "seed as an integer"),
    ],
)
def test_bad_options(images, method, options, error, message):
    with pytest.raises(error, match=message):
        method(never).attribute(images, **options)
