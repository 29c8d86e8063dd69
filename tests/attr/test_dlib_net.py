"""Every method on dlib's residual network: shortcuts by pooling and zeros, and squared distances."""

from __future__ import annotations

import pytest
import torch

from captum_face import METHODS, PairSimilarity
from captum_face.decoder import FaceDecoder
from captum_face.models import DlibResNet, load_pair
from captum_face.testing import model_state
from tests.attr.test_contract import FAST, every_method, same_state

#: Options for images of 150 x 150 pixels.
QUICK = {
    "corrrise": {"n_masks": 40, "seed": 0},
    "rise": {"n_masks": 40, "seed": 0},
    "xface": {"sizes": (50,), "stride": 25},
    "minplus": {"grid": 4, "n_steps": 2},
    "occlusion": {"window": 40, "strides": 20},
    "kernel_shap": {"n_samples": 60, "seed": 0},
    "swap_rise": {"n_masks": 40, "n_cohort": 3, "seed": 0},
}


def options(name, size, dimensions):
    chosen = {**FAST, **QUICK}.get(name, {}) if size == 150 else FAST.get(name, {})
    if name == "reconstruction":
        with torch.random.fork_rng():
            torch.manual_seed(4)
            chosen = {"decoder": FaceDecoder(dimensions, (size, size), width=8).eval()}
    return chosen


def tiny_pair(size, score="euclidean", stages=((4, 1), (6, 2), (6, 1))):
    """A seeded network; its weights are larger than PyTorch's, so that it tells images apart."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        network = DlibResNet(stages, 7, size).eval()
        with torch.no_grad():
            for parameter in network.parameters():
                parameter *= 2
    return PairSimilarity(
        network, score=score, threshold=-0.36 if score == "euclidean" else 0.2, preprocess="dlib"
    )


def images_of(size, dtype=torch.float32):
    generator = torch.Generator().manual_seed(5)
    return tuple(torch.rand(2, 3, size, size, generator=generator, dtype=dtype) for _ in range(2))


@every_method
def test_every_method_explains_a_small_one(method):
    pair, images = tiny_pair(44, stages=((4, 1), (6, 2))), images_of(44)
    before = model_state(pair)
    together = method.build(pair).attribute(images, **options(method.name, 44, 7))
    assert same_state(before, model_state(pair))
    for attr in together:
        assert attr.shape == images[0].shape
        assert attr.isfinite().all()
        assert (attr.flatten(1).abs().sum(1) > 0).all()


# Sides of 8, 9, 10 and 11 before the first block that goes down: with and without a row that is filled.
@pytest.mark.parametrize("size", [40, 44, 48, 52])
@pytest.mark.parametrize("score", ["cosine", "euclidean"])
@pytest.mark.parametrize("name", ["lrp", "bilrp", "deep_lift"])
def test_relevance_sums_to_the_score(name, score, size):
    pair = tiny_pair(size, score).double()
    images = images_of(size, torch.float64)
    with torch.no_grad():
        expected = [pair(*images)] * 2
        if name == "deep_lift":
            black = torch.zeros_like(images[0])
            expected = [expected[0] - pair(black, images[1]), expected[0] - pair(images[0], black)]
    assert min(side.abs().min() for side in expected) > 1e-4
    for attr, total in zip(METHODS[name].build(pair).attribute(images), expected, strict=True):
        torch.testing.assert_close(attr.sum((1, 2, 3)), total, rtol=1e-6, atol=0)


@pytest.fixture(scope="module")
def real_dlib():
    return load_pair("dlib")


@pytest.mark.real
@every_method
def test_every_method_explains_real_faces(method, real_dlib, chips):
    images = chips[[0]], chips[[1]]
    before = model_state(real_dlib)
    got = method.build(real_dlib).attribute(images, **options(method.name, 150, 128))
    assert same_state(before, model_state(real_dlib))
    for attr in got:
        assert attr.shape == (1, 3, 150, 150)
        assert attr.isfinite().all()
        assert attr.abs().sum() > 0


@pytest.mark.real
@pytest.mark.parametrize("score", ["cosine", "euclidean"])
def test_relevance_of_real_faces_sums_to_the_score(real_dlib, chips, score):
    pair = PairSimilarity(real_dlib.embedding_model, score=score, preprocess="dlib")
    for other in (1, 2):
        images = chips[[0]], chips[[other]]
        with torch.no_grad():
            expected = pair(*images)
        for name in ("lrp", "bilrp"):
            for attr in METHODS[name].build(pair).attribute(images):
                torch.testing.assert_close(attr.sum((1, 2, 3)), expected, rtol=1e-4, atol=1e-6)
