from __future__ import annotations

import pytest
import torch
from torch import nn

from captum_face import PairSimilarity
from captum_face.attr.fame import FAME
from captum_face.maps.signed import smooth


def looped_map(pair, image, partner, n_steps, step_size, direction, sigma):
    """One image moved step by step, with the gradient of the whole pair's score."""
    total = torch.zeros(image.shape[-2:], dtype=image.dtype)
    weights = torch.tensor([0.299, 0.587, 0.114], dtype=image.dtype)
    for name, sign in (("away", -1), ("towards", 1)):
        if direction not in (name, "both"):
            continue
        x = image.clone()
        for _ in range(n_steps):
            x = x.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(pair(x, partner).sum(), x)
            x = (x + sign * step_size * gradient / gradient.abs().max()).clamp(0, 1)
        change = ((x - image).detach()[0] * weights[:, None, None]).sum(0).abs()
        total -= sign * smooth(change[None], sigma)[0]
    return total


@pytest.mark.parametrize("direction", ["both", "away", "towards"])
def test_equals_a_loop(pair, images, direction):
    pair.double()
    a, b = (image[:2].double() for image in images)
    options = {"n_steps": 6, "step_size": 0.05, "direction": direction, "sigma": 1.5}
    attr_a, attr_b = FAME(pair).attribute((a, b), **options)
    for i in range(2):
        x, y = a[i, None], b[i, None]
        for channel in range(3):
            torch.testing.assert_close(attr_a[i, channel], looped_map(pair, x, y, **options))
            torch.testing.assert_close(attr_b[i, channel], looped_map(pair, y, x, **options))


def test_signs_on_a_planted_model():
    """A bright left half can only fall away from the partner, a dark right half only rise towards it."""

    class Mean(nn.Module):
        def forward(self, x):
            return torch.stack([x.mean((1, 2, 3)), torch.ones(len(x))], 1)

    image = torch.zeros(1, 3, 12, 12)
    image[..., :6] = 1
    attr, _ = FAME(PairSimilarity(Mean(), score="dot")).attribute(
        (image, torch.ones_like(image)), n_steps=5, sigma=0
    )
    assert (attr[..., :6] > 0).all()
    assert (attr[..., 6:] < 0).all()
    torch.testing.assert_close(attr.abs(), torch.full_like(attr, 5 / 255))


def test_the_blur_grows_with_the_image(pair, images):
    inputs = tuple(image[:1].repeat(1, 1, 4, 8) for image in images)  # 72 x 112
    default, _ = FAME(pair).attribute(inputs, n_steps=1)
    assert torch.equal(default, FAME(pair).attribute(inputs, n_steps=1, sigma=3 / 112 * 72)[0])
    assert not torch.equal(default, FAME(pair).attribute(inputs, n_steps=1, sigma=0)[0])


def test_a_score_without_slope_gives_an_empty_map():
    """An image against itself is at the cosine's maximum."""
    images = (torch.rand(1, 3, 6, 6),) * 2
    pair = PairSimilarity(nn.Sequential(nn.Flatten(), nn.Linear(108, 1, bias=False)))
    for attr in FAME(pair).attribute(images, n_steps=2):
        assert torch.isfinite(attr).all()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"n_steps": 0}, ValueError, "n_steps"),
        ({"step_size": 0.0}, ValueError, "step_size, .*above 0"),
        ({"step_size": "1"}, TypeError, "step_size, .*number"),
        ({"direction": "toward"}, ValueError, "did you mean 'towards'"),
        ({"sigma": -1.0}, ValueError, "sigma"),
        ({"sigma": "1"}, TypeError, "sigma, .*number"),
    ],
)
def test_bad_options_before_any_step(images, options, error, message):
    def never(x):
        raise AssertionError("embedded before the options were checked")

    with pytest.raises(error, match=message):
        FAME(PairSimilarity(never)).attribute(images, **{"n_steps": 1, **options})


def test_a_model_without_gradients_is_refused(images):
    with pytest.raises(TypeError, match="can be differentiated"):
        FAME(PairSimilarity(lambda x: x.flatten(1).detach().numpy())).attribute(images)
