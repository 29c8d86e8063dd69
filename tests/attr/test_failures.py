"""A model that fails at any of its passes is left as it was, by every method, and can be explained then."""

from __future__ import annotations

import warnings

import pytest
import torch
import torch.fx.experimental.symbolic_shapes  # adds a warning filter; autograd imports it when it needs it
from torch import nn

from captum_face import METHODS, PairSimilarity
from captum_face.attr import EachSide
from captum_face.testing import model_state
from tests.attr.test_contract import FAST, every_method, same_state
from tests.conftest import small_net

MOST = 40  # passes at which a method is made to fail


class Broken(RuntimeError):
    pass


class Failing(nn.Module):
    """Fails at one of its passes, in the middle of its layers or behind the last."""

    def __init__(self, late):
        super().__init__()
        self.net, self.late, self.left = small_net(), late, None
        self.net.prelu.register_forward_hook(lambda *_: self.count() if not late else None)

    def count(self):
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                raise Broken

    def forward(self, x):
        answer = self.net(x)
        if self.late:
            self.count()
        return answer


def run(method, pair, images):
    return torch.cat(method.build(pair).attribute(images, **FAST.get(method.name, {})))


@pytest.mark.parametrize("late", [False, True], ids=["inside", "behind"])
@every_method
def test_at_each_pass(method, late, images):
    images = tuple(image[:1] for image in images)
    model = Failing(late).train()
    pair = PairSimilarity(model, threshold=0.2)
    before, filters = model_state(model), list(warnings.filters)
    random, grad = torch.get_rng_state(), torch.is_grad_enabled()
    want = run(method, pair, images)
    failed = 0
    for k in range(MOST):
        model.left = k
        try:
            run(method, pair, images)
        except (Broken, RuntimeError, ValueError):  # a trace says what stopped it
            failed += 1
        else:
            break
        finally:
            model.left = None
        assert same_state(before, model_state(model)), f"pass {k}"
        assert list(warnings.filters) == filters, f"pass {k}"
        assert torch.is_grad_enabled() == grad
        assert torch.equal(torch.get_rng_state(), random), f"pass {k}"
    assert failed or method.null
    torch.testing.assert_close(run(method, pair, images), want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "name", ["DeepLift", "GuidedBackprop", "Deconvolution", "LayerGradCam", "GuidedGradCam"]
)
@pytest.mark.filterwarnings("ignore")
def test_captums_own_hooks_are_gone(name, images):
    """Captum leaves its hooks on a model whose forward fails."""
    import captum.attr

    model = Failing(late=True).eval()
    pair = PairSimilarity(model)
    options = {"layer": "net.conv2"} if "Cam" in name else {}
    before = model_state(model)
    for k in range(8):
        model.left = k
        try:
            EachSide(pair, getattr(captum.attr, name), **options).attribute(images)
        except Broken:
            pass
        finally:
            model.left = None
        assert model_state(model)[0] == before[0], f"pass {k}"
    assert METHODS["saliency"].build(pair).attribute(images)[0].abs().sum() > 0
