"""Traces leave nothing behind, and see models as they are today."""

from __future__ import annotations

import linecache
import threading

import pytest
import torch
from torch import nn
from torch.fx import graph_module

from captum_face import LRP, PairSimilarity
from tests.conftest import small_net


def test_nothing_is_kept_by_the_process():
    """Code that torch.fx compiles is kept for ever, 33 to 62 kB for each model it was made of."""
    pair, images = PairSimilarity(small_net().eval()), (torch.rand(1, 3, 18, 14), torch.rand(1, 3, 18, 14))
    LRP(pair).attribute(images)
    before = len(graph_module._loader.eval_cache), len(linecache.cache)
    for _ in range(3):
        LRP(pair).attribute(images)
    assert (len(graph_module._loader.eval_cache), len(linecache.cache)) == before


class _Autocast(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = small_net().eval()

    def forward(self, x):
        with torch.autocast("cpu", torch.bfloat16):
            return self.net(x).float()


def test_a_model_that_switches_autocast_on():
    """Its relevance is that of the network without; Zennit's own canonizers cannot switch it off."""
    model, images = _Autocast().eval(), (torch.rand(1, 3, 18, 14), torch.rand(1, 3, 18, 14))
    got = LRP(PairSimilarity(model, score="dot")).attribute(images)
    want = LRP(PairSimilarity(model.net, score="dot")).attribute(images)
    for own, other in zip(got, want, strict=True):
        assert (own - other).norm() < 0.1 * other.norm()
    with pytest.raises(ValueError, match="under the autocast that the model switches on"):
        LRP(PairSimilarity(model), canonizers=None).attribute(images)


def test_what_cannot_be_copied_is_traced_all_the_same():
    images = torch.rand(1, 3, 18, 14), torch.rand(1, 3, 18, 14)
    net = small_net().eval()
    want = LRP(PairSimilarity(net)).attribute(images)
    net.lock, net.seen = threading.Lock(), [net.conv1(images[0])]
    for own, other in zip(LRP(PairSimilarity(net)).attribute(images), want, strict=True):
        torch.testing.assert_close(own, other)
