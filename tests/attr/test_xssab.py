from __future__ import annotations

import pytest
import torch
from torch import nn

from captum_face import PairSimilarity
from captum_face.attr.xssab import XSSAB
from captum_face.pair.scores import unit


def looped_map(pair, image, partner, threshold):
    """Two gradients, channel by channel."""
    image = image.clone().requires_grad_()
    own, other = unit(pair.embed(image))[0], unit(pair.embed(partner))[0].detach()
    sums = {True: torch.zeros_like(image), False: torch.zeros_like(image)}
    for k in range(len(own)):
        share = own[k] * other[k]
        (gradient,) = torch.autograd.grad(share, image, retain_graph=True)
        sums[bool(share >= threshold / len(own))] += gradient
    return (sums[True].abs() - sums[False].abs()).mean(1)[0].detach()


@pytest.mark.parametrize(("threshold", "error"), [(float("nan"), ValueError), ("0.2", TypeError)])
def test_thresholds_that_will_not_do(pair, images, threshold, error):
    with pytest.raises(error, match="threshold"):
        XSSAB(pair).attribute(images, threshold=threshold)


@pytest.mark.parametrize("threshold", [None, -0.3, 0.6])
def test_is_positive_minus_negative(pair, images, threshold):
    pair.double()
    a, b = (image.double() for image in images)
    attr_a, attr_b = XSSAB(pair).attribute((a, b), threshold=threshold)
    theta = 0.2 if threshold is None else threshold
    for i in range(3):
        for channel in range(3):
            expected = looped_map(pair, a[i, None], b[i, None], theta)
            torch.testing.assert_close(attr_a[i, channel], expected, rtol=1e-9, atol=1e-12)
            expected = looped_map(pair, b[i, None], a[i, None], theta)
            torch.testing.assert_close(attr_b[i, channel], expected, rtol=1e-9, atol=1e-12)


def test_a_channel_that_brings_just_its_share_agrees():
    pair = PairSimilarity(nn.Flatten(), score="dot", threshold=4.0)
    attr, _ = XSSAB(pair).attribute((torch.ones(1, 1, 2, 2), torch.ones(1, 1, 2, 2)))
    assert (attr > 0).all()


def test_all_channels_on_one_side_leave_one_sign(net, images):
    pair = PairSimilarity(net, score="dot")  # whose threshold has no limits
    assert all((attr >= 0).all() for attr in XSSAB(pair).attribute(images, threshold=-100.0))
    assert all((attr <= 0).all() for attr in XSSAB(pair).attribute(images, threshold=100.0))


def test_signs_follow_the_channels_of_a_planted_model():
    """Two channels, each the mean of one half: the faces agree on the left, and differ on the right."""

    class Halves(nn.Module):
        def forward(self, x):
            return torch.stack([x[..., :4].mean((1, 2, 3)), x[..., 4:].mean((1, 2, 3)) - 0.5], 1)

    a, b = torch.full((1, 3, 6, 8), 0.9), torch.full((1, 3, 6, 8), 0.9)
    b[..., 4:] = 0.1
    for attr in XSSAB(PairSimilarity(Halves(), score="dot")).attribute((a, b)):
        assert (attr[..., :4] > 0).all()
        assert (attr[..., 4:] < 0).all()


def test_a_model_without_gradients_is_refused(images):
    def numpy_model(x):
        return x.flatten(1).detach().numpy()

    with pytest.raises(TypeError, match="can be differentiated"):
        XSSAB(PairSimilarity(numpy_model)).attribute(images)


def test_gradients_that_are_not_finite_are_refused():
    class Root(nn.Module):
        def forward(self, x):
            return torch.sqrt(x.flatten(1))

    images = torch.zeros(1, 3, 4, 4), torch.ones(1, 3, 4, 4)
    with pytest.raises(ValueError, match="finite gradients"):
        XSSAB(PairSimilarity(Root(), score="dot")).attribute(images)
