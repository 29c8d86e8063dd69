from __future__ import annotations

import pytest
import torch

from captum_face.models.synthetic_net import WEIGHTS, synthetic, synthetic_metadata


def test_shipped_weights_are_small_and_say_how_good_they_are():
    assert WEIGHTS.stat().st_size < 1_000_000
    assert synthetic_metadata()["eer"] < 0.03


def test_the_network_can_be_explained():
    network = synthetic()
    assert not network.training
    assert not any(getattr(module, "inplace", False) for module in network.modules())
    x = torch.rand(2, 3, 112, 112, requires_grad=True)
    network(x).sum().backward()
    assert (x.grad.abs().amax(dim=1) > 0).float().mean() > 0.9


def test_images_of_another_size_are_refused():
    with pytest.raises(ValueError, match=r"expected images \(N, 3, 112, 112\), got \(1, 3, 160"):
        synthetic(pretrained=False)(torch.zeros(1, 3, 160, 160))
