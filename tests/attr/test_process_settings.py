"""Settings of the process that a user may have changed do not change a map."""

from __future__ import annotations

import pytest
import torch

from captum_face import PairSimilarity
from captum_face.data import synthetic
from tests.attr.test_contract import FAST, every_method
from tests.conftest import small_net


def explained(method, images):
    pair = PairSimilarity(small_net().eval(), threshold=0.2, preprocess="arcface")
    return method.build(pair).attribute(images, **FAST.get(method.name, {}))


@every_method
def test_default_dtype(method, images):
    want = explained(method, images)
    pair = PairSimilarity(small_net().eval(), threshold=0.2, preprocess="arcface")
    torch.set_default_dtype(torch.float64)
    try:
        got = method.build(pair).attribute(images, **FAST.get(method.name, {}))
    finally:
        torch.set_default_dtype(torch.float32)
    for own, other in zip(got, want, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-5, atol=1e-6)


def test_default_dtype_of_rendered_faces():
    want = synthetic.pair(seed=3, changed=("eyes",)).image_b
    torch.set_default_dtype(torch.float64)
    try:
        assert torch.equal(synthetic.pair(seed=3, changed=("eyes",)).image_b, want)
    finally:
        torch.set_default_dtype(torch.float32)


def test_a_model_in_another_dtype_says_what_to_do(images):
    pair = PairSimilarity(small_net().eval().double(), preprocess="arcface")
    with pytest.raises(
        TypeError, match=r"dtype of the model, torch.float64, got torch.float32.*pair.float\(\)"
    ):
        pair(*images)
    assert pair.float()(*images).dtype == torch.float32


@every_method
def test_an_autocast_around_the_call(method, images):
    want = explained(method, images)
    pair = PairSimilarity(small_net().eval(), threshold=0.2, preprocess="arcface")
    with torch.autocast("cpu", torch.bfloat16):
        got = method.build(pair).attribute(images, **FAST.get(method.name, {}))
    for own, other in zip(got, want, strict=True):
        assert torch.equal(own, other)


@every_method
def test_deterministic_algorithms(method, images):
    want = explained(method, images)
    torch.use_deterministic_algorithms(True)
    try:
        got = explained(method, images)
    finally:
        torch.use_deterministic_algorithms(False)
    for own, other in zip(got, want, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-5, atol=1e-6)
