from __future__ import annotations

import captum.attr
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from captum_face import PairSimilarity
from captum_face.attr.guided_backprop import PairGuidedBackprop
from captum_face.attr.hirescam import PairHiResCam
from captum_face.attr.layer_gradcam import PairGradCam, last_feature_layer
from captum_face.models import iresnet18, mobilefacenet
from captum_face.pair.scores import unit
from tests.conftest import small_net


class Head(nn.Module):
    """Registers its layers in another order than it runs them, and ends in a 1 x 1 output."""

    def __init__(self):
        super().__init__()
        self.last = nn.Conv2d(5, 7, 5)
        self.act2, self.bn2 = nn.ReLU(), nn.BatchNorm2d(5)
        self.second = nn.Conv2d(4, 5, 3)
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.act1 = nn.PReLU()

    def forward(self, x):
        x = self.act2(self.bn2(self.second(self.act1(self.first(x)))))
        return self.last(x).flatten(1)


@pytest.fixture
def head():
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return Head().double().eval()


def by_hand(head, own, partner, *, fixed):
    """Grad-CAM of the last activation, from the head's own arithmetic."""
    with torch.no_grad():
        features = head.act2(head.bn2(head.second(head.act1(head.first(own)))))
        embedding = head.last(features).flatten(1)
        other = unit(head(partner))
        length = embedding.norm()
        slope = other / length
        if not fixed:
            slope = slope - (embedding @ other.T) * embedding / length**3
        # The head is one convolution over the whole feature map: its gradient is its kernel.
        gradient = torch.einsum("nd,dcyx->ncyx", slope, head.last.weight)
        cam = (gradient.mean((2, 3), keepdim=True) * features).sum(1, keepdim=True)
        return F.interpolate(cam, own.shape[-2:], mode="bilinear")[0, 0]


@pytest.mark.parametrize("fixed", [True, False])
def test_by_hand(head, fixed):
    a, b = torch.rand(2, 1, 3, 7, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    attr_a, attr_b = PairGradCam(PairSimilarity(head)).attribute((a, b), fixed_length=fixed)
    for channel in range(3):
        torch.testing.assert_close(attr_a[0, channel], by_hand(head, a, b, fixed=fixed))
        torch.testing.assert_close(attr_b[0, channel], by_hand(head, b, a, fixed=fixed))


def test_by_default_it_is_captums(pair, images):
    got = PairGradCam(pair).attribute(images, layer="conv2")
    for i, (own, partner) in enumerate((images, images[::-1])):
        cam = captum.attr.LayerGradCam(pair.against(partner), pair.embedding_model.conv2).attribute(own)
        want = F.interpolate(cam, (18, 14), mode="bilinear").expand(-1, 3, -1, -1)
        torch.testing.assert_close(got[i], want.detach(), rtol=1e-4, atol=1e-6)


def test_the_layer_is_found_by_execution(head):
    pair = PairSimilarity(head)
    assert last_feature_layer(pair, torch.rand(1, 3, 7, 7, dtype=torch.float64)) is head.act2


def test_the_layer_in_face_networks():
    """What the head sees: after BatchNorm, activation and shortcut, before the output is a single pixel."""
    image = torch.rand(1, 3, 112, 112)
    model = mobilefacenet()
    assert last_feature_layer(PairSimilarity(model), image) is model.conv2
    net = small_net().eval()
    assert last_feature_layer(PairSimilarity(net), image) is net.bn2
    model = iresnet18()
    features = last_feature_layer(PairSimilarity(model), image)
    seen = []
    for module in (features, model.fc):
        module.register_forward_hook(lambda _, args, out: seen.append((args[0], out)))
    with torch.no_grad():
        model(image)
    (_, last), (flat, _) = seen
    assert torch.equal(last.flatten(1), flat)


def test_a_layer_by_name_or_module(net, pair, images):
    by_name = PairGradCam(pair).attribute(images, layer="conv1")
    by_module = PairGradCam(pair).attribute(images, layer=net.conv1)
    assert all(torch.equal(x, y) for x, y in zip(by_name, by_module, strict=True))
    assert not torch.equal(by_name[0], PairGradCam(pair).attribute(images)[0])


def test_relu_keeps_the_positive_part_of_the_layer(pair, images):
    signed, _ = PairGradCam(pair).attribute(images)
    positive, _ = PairGradCam(pair).attribute(images, relu=True)
    assert signed.min() < 0
    assert positive.min() >= 0
    assert positive.max() >= signed.max()


def test_sign_of_a_planted_model():
    """A head that averages: one detector that both faces share on the left, one that differs on the right."""

    class Planted(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(2, 2, 1, bias=False)
            self.conv.weight.data = torch.eye(2)[..., None, None]

        def forward(self, x):
            return self.conv(x).mean((2, 3)) - torch.tensor([0.0, 0.25])

    a, b = torch.zeros(2, 1, 2, 8, 8)
    a[:, 0, :, :4] = b[:, 0, :, :4] = 1
    a[:, 1, :, 4:] = 1
    pair = PairSimilarity(Planted(), score="dot")
    for method in (PairGradCam, PairHiResCam):
        attr, _ = method(pair).attribute((a, b))
        assert (attr[..., :3] > 0).all()
        assert (attr[..., 5:] < 0).all()


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ("conv3", r"'conv3', which is not in it; did you mean 'conv\d'"),
        ("xyzzy", "named_modules"),
        (nn.Conv2d(3, 3, 1), "Conv2d that is not in it"),
        (7, "7, which is not in it"),
        ("fc", r"an output of shape \(1, 7\)"),
        ("spare", "one that does not run"),
    ],
)
def test_layers_that_will_not_do(net, images, layer, message):
    net.spare = nn.Conv2d(3, 3, 1)
    with pytest.raises(ValueError, match=message):
        PairGradCam(PairSimilarity(net)).attribute(images, layer=layer)


def test_models_without_convolutions(images):
    for model in (nn.Sequential(nn.Flatten(), nn.Linear(756, 4)), lambda x: x.flatten(1)):
        with pytest.raises(ValueError, match="found none that runs"):
            PairGradCam(PairSimilarity(model)).attribute(images)
        with pytest.raises(ValueError, match="found none that runs"):
            PairHiResCam(PairSimilarity(model)).attribute(images)


@pytest.mark.parametrize("method", [PairGradCam, PairHiResCam, PairGuidedBackprop])
def test_models_without_layers_or_gradients(images, method):
    """It is no use to send those to saliency, or to another layer."""
    with pytest.raises(TypeError, match=r"can be differentiated.*CorrRISE"):
        method(PairSimilarity(lambda x: x.flatten(1).detach().numpy())).attribute(images)
    with pytest.raises(ValueError, match="the nn.Module itself"):
        method(PairSimilarity(lambda x: x.flatten(1))).attribute(images)


def test_a_bound_methods_module_is_searched(net, images):
    bound = PairSimilarity(net.forward)
    attr, _ = PairGradCam(bound).attribute(images, layer="conv2")
    assert torch.equal(attr, PairGradCam(PairSimilarity(net)).attribute(images, layer="conv2")[0])
