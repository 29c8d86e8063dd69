from __future__ import annotations

import pytest
import torch
from torch import nn

from captum_face import (
    PairBlurredIntegratedGradients,
    PairGradientShap,
    PairInputXGradient,
    PairIntegratedGradients,
    PairPartnerIntegratedGradients,
    PairSaliency,
    PairSimilarity,
)
from captum_face.maps.signed import smooth


def test_saliency_and_input_x_gradient_are_gradients_of_the_score(pair, images):
    a, b = (image.clone().requires_grad_() for image in images)
    gradients = torch.autograd.grad(pair(a, b).sum(), (a, b))
    for i, image in enumerate(images):
        torch.testing.assert_close(PairSaliency(pair).attribute(images)[i], gradients[i])
        torch.testing.assert_close(PairSaliency(pair).attribute(images, abs=True)[i], gradients[i].abs())
        torch.testing.assert_close(PairInputXGradient(pair).attribute(images)[i], gradients[i] * image)


BASELINES = {
    "black": lambda own, partner: torch.zeros_like(own),
    "blurred": lambda own, partner: smooth(own, 0.1 * 14),
    "partner": lambda own, partner: partner,
}


@pytest.mark.parametrize(
    ("method_class", "baseline"),
    [
        (PairIntegratedGradients, "black"),
        (PairBlurredIntegratedGradients, "blurred"),
        (PairPartnerIntegratedGradients, "partner"),
    ],
)
@pytest.mark.parametrize("named", [True, False])
def test_integrated_gradients_are_complete(pair, images, method_class, baseline, named):
    pair.double()
    a, b = (image.double() for image in images)
    method, options = (PairIntegratedGradients, {"baselines": baseline}) if named else (method_class, {})
    attr_a, attr_b = method(pair).attribute((a, b), n_steps=400, internal_batch_size=50, **options)
    base_a, base_b = BASELINES[baseline](a, b), BASELINES[baseline](b, a)
    with torch.no_grad():
        torch.testing.assert_close(attr_a.sum((1, 2, 3)), pair(a, b) - pair(base_a, b), rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(attr_b.sum((1, 2, 3)), pair(a, b) - pair(a, base_b), rtol=1e-3, atol=1e-4)


def test_the_partner_baseline_of_an_identical_pair_is_empty(pair, images):
    for attr in PairPartnerIntegratedGradients(pair).attribute((images[0], images[0]), n_steps=3):
        assert attr.eq(0).all()


def test_signs_on_a_linear_model():
    """A bright pixel where the partner is bright, and one where the partner is dark (after centring)."""
    pair = PairSimilarity(nn.Flatten(), score="dot", preprocess=lambda x: x - 0.5)
    a, b = torch.full((2, 1, 1, 4, 4), 0.5)
    a[0, 0, 0, 0] = a[0, 0, 3, 3] = b[0, 0, 0, 0] = 1
    b[0, 0, 3, 3] = 0
    for method in (
        PairInputXGradient,
        PairIntegratedGradients,
        PairBlurredIntegratedGradients,
        PairGradientShap,
    ):
        for attr in method(pair).attribute((a, b), **({"seed": 0} if method is PairGradientShap else {})):
            assert attr[0, 0, 0, 0] > 0
        attr, _ = method(pair).attribute((a, b), **({"seed": 0} if method is PairGradientShap else {}))
        assert attr[0, 0, 3, 3] < 0


def test_gradient_shap_sums_to_the_scores_difference_on_average(pair, images):
    pair.double()
    a, b = (image[:1].double() for image in images)
    faces = torch.rand(6, 3, 18, 14, generator=torch.Generator().manual_seed(0)).double()
    attr, _ = PairGradientShap(pair).attribute((a, b), baselines=faces, n_samples=4000, seed=0)
    with torch.no_grad():
        expected = pair(a, b) - pair(faces, b).mean()
    assert float(attr.sum()) == pytest.approx(float(expected), abs=0.02)


def test_gradient_shap_falls_back_on_the_blurred_image(pair, images):
    got = PairGradientShap(pair).attribute(images, seed=1, n_samples=3)
    want = PairGradientShap(pair).attribute(images, seed=1, n_samples=3, baselines="blurred")
    assert torch.equal(got[0], want[0])


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        (PairIntegratedGradients, {"n_steps": 0}, "n_steps"),
        (PairIntegratedGradients, {"internal_batch_size": 0}, "internal_batch_size"),
        (PairIntegratedGradients, {"method": "simpson"}, "unknown method of integration 'simpson'"),
        (PairIntegratedGradients, {"baselines": "grey"}, "unknown baseline 'grey'"),
        (PairIntegratedGradients, {"n_steps": 1, "method": "riemann_trapezoid"}, "n_steps of at least 2"),
        (PairGradientShap, {"n_samples": 0}, "n_samples"),
        (PairGradientShap, {"stdevs": -1.0}, "stdevs"),
        (PairGradientShap, {"baselines": 0.5}, "sample of images"),
        (PairGradientShap, {"seed": 1, "generator": torch.Generator()}, "got both"),
    ],
)
def test_bad_options(pair, images, method, options, message):
    with pytest.raises(ValueError, match=message):
        method(pair).attribute(images, **options)


@pytest.mark.real
def test_real_pairs_are_complete_from_the_partner(real_pair, real_images):
    a, b = (image[:1] for image in real_images)
    attr, _ = PairPartnerIntegratedGradients(real_pair).attribute((a, b), n_steps=60)
    with torch.no_grad():
        expected = float(real_pair(a, b) - 1)
    assert float(attr.sum()) == pytest.approx(expected, abs=0.03)
