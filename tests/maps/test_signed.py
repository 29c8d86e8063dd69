from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from captum_face import smooth, split_attribution
from captum_face.maps.signed import pixel_map


def test_split_is_the_signed_mean_over_colour():
    attr = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    similar, dissimilar = split_attribution(attr)
    signed = attr.mean(1)
    assert torch.equal(similar, signed * (signed > 0))
    assert torch.equal(dissimilar, -signed * (signed < 0))
    assert torch.equal(split_attribution(signed)[0], similar)


@pytest.mark.parametrize("sigma", [1.0, 5.0])
def test_smooth_equals_scipy(sigma):
    attr = torch.randn(2, 3, 40, 30, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    radius = int(2.5 * sigma)
    expected = [gaussian_filter(m, sigma, mode="mirror", radius=radius) for m in attr.flatten(0, 1).numpy()]
    got = smooth(attr, sigma)
    assert got.shape == attr.shape
    np.testing.assert_allclose(got.flatten(0, 1).numpy(), np.stack(expected), atol=1e-12)
    torch.testing.assert_close(smooth(attr[:, 0], sigma), got[:, 0])


def test_published_blur_is_kernel_25_for_sigma_5():
    impulse = torch.zeros(1, 61, 61)
    impulse[0, 30, 30] = 1
    assert int((smooth(impulse, 5)[0, 30] > 0).sum()) == 25
    assert int((smooth(impulse, 5, kernel_size=9)[0, 30] > 0).sum()) == 9


def test_smooth_keeps_constants_and_small_images():
    flat = torch.full((1, 1, 6, 3), 2.0)
    torch.testing.assert_close(smooth(flat, 5), flat)
    attr = torch.randn(1, 2, 6, 6)
    assert torch.equal(smooth(attr, 0), attr)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: smooth(torch.zeros(1, 4, 4), -1), "sigma of at least 0"),
        (lambda: smooth(torch.zeros(1, 4, 4), float("nan")), "sigma of at least 0"),
        (lambda: smooth(torch.zeros(1, 4, 4), 1, kernel_size=4), "odd number"),
        (lambda: smooth(torch.zeros(4, 4), 1), r"got shape \(4, 4\)"),
        (lambda: split_attribution(torch.zeros(4)), r"got shape \(4,\)"),
        (lambda: split_attribution((torch.zeros(1, 4, 4),) * 2), "tuple; call this for each side"),
        (lambda: smooth(torch.zeros(1, 4, 4, dtype=torch.int64), 1), "attributions of floats"),
        (lambda: pixel_map(torch.full((1, 2, 2), float("nan"))), "finite attributions"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises((ValueError, TypeError), match=message):
        call()
