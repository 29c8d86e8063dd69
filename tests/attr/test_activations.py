from __future__ import annotations

import captum.attr
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from captum_face import PairSimilarity
from captum_face.attr.deep_lift import ELEMENTWISE, PairDeepLift
from captum_face.attr.guided_backprop import PairGuidedBackprop
from tests.conftest import small_net


def relu_net(activation=nn.ReLU):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, 5, 3),
            activation(),
            nn.Conv2d(5, 4, 3),
            activation(),
            nn.Flatten(),
            nn.Linear(560, 6),
        ).eval()


@pytest.mark.filterwarnings("ignore:Setting", "ignore:\\s*Setting", "ignore:Input Tensor")
def test_guided_backprop_equals_captums_on_relus(images):
    pair = PairSimilarity(relu_net())
    got = PairGuidedBackprop(pair).attribute(images)
    for i, (own, partner) in enumerate((images, images[::-1])):
        want = captum.attr.GuidedBackprop(pair.against(partner)).attribute(own.clone())
        torch.testing.assert_close(got[i], want.detach(), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("activation", [nn.ReLU, nn.ReLU6, nn.PReLU, nn.LeakyReLU])
def test_guided_backprop_by_hand(activation):
    """linear - rectifier - linear: only positive gradients go through the rectifier."""
    torch.manual_seed(0)
    first, second = nn.Linear(12, 8, bias=False).double(), nn.Linear(8, 5, bias=False).double()
    rectifier = activation().double()
    pair = PairSimilarity(nn.Sequential(nn.Flatten(), first, rectifier, second), score="dot")
    a, b = torch.rand(2, 1, 3, 2, 2, dtype=torch.float64)
    x = first(a.flatten(1)).detach().requires_grad_()
    (slope,) = torch.autograd.grad(rectifier(x).sum(), x)
    with torch.no_grad():
        gradient = pair.embed(b) @ second.weight
        want = ((gradient * slope).clamp(min=0) @ first.weight).reshape(a.shape)
    torch.testing.assert_close(PairGuidedBackprop(pair).attribute((a, b))[0], want)


def test_guided_backprop_leaves_shortcuts_alone():
    """x + relu(x): the shortcut keeps its negative gradient."""

    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.relu = nn.ReLU()

        def forward(self, x):
            x = x.flatten(1) * 1
            return x + self.relu(x)

    a, b = torch.full((1, 1, 1, 2), 0.5), torch.tensor([[[[0.5, -0.4]]]])
    attr, _ = PairGuidedBackprop(PairSimilarity(Residual(), score="dot")).attribute((a, b))
    with torch.no_grad():
        torch.testing.assert_close(attr[0, 0, 0], torch.tensor([2 * 1.0, -0.4]))


def test_guided_backprop_refuses_a_model_without_rectifiers(images):
    class Functional(nn.Module):
        def forward(self, x):
            return F.relu(x - 0.5).flatten(1)

    for model in (Functional(), relu_net(nn.Tanh)):
        with pytest.raises(ValueError, match="rectifiers as modules"):
            PairGuidedBackprop(PairSimilarity(model)).attribute(images)


@pytest.mark.filterwarnings("ignore:Setting", "ignore:\\s*Setting", "ignore:Input Tensor")
def test_deep_lift_equals_captums_on_relus_under_the_inner_product(images):
    pair = PairSimilarity(relu_net().double(), score="dot")
    images = tuple(image.double() for image in images)
    got = PairDeepLift(pair).attribute(images, baselines=0.2)
    for i, (own, partner) in enumerate((images, images[::-1])):
        for row in range(3):
            x, y = own[row, None].clone(), partner[row, None]
            want = captum.attr.DeepLift(pair.against(y)).attribute(x, baselines=torch.full_like(x, 0.2))
            torch.testing.assert_close(got[i][row, None], want.detach())


@pytest.mark.parametrize("score", ["cosine", "dot", "euclidean"])
@pytest.mark.parametrize("activation", [a for a in ELEMENTWISE if a is not nn.RReLU])
def test_deep_lift_is_complete_for_every_activation(images, activation, score):
    pair = PairSimilarity(relu_net(activation).double(), score=score)
    a, b = (image.double() for image in images)
    attr_a, attr_b = PairDeepLift(pair).attribute((a, b), baselines="partner")
    with torch.no_grad():
        torch.testing.assert_close(attr_a.sum((1, 2, 3)), pair(a, b) - pair(b, b))
        torch.testing.assert_close(attr_b.sum((1, 2, 3)), pair(a, b) - pair(a, a))


def test_deep_lift_is_complete_on_a_face_network_with_prelu_batchnorm_and_shortcut(images):
    pair = PairSimilarity(small_net().double().eval(), preprocess="arcface")
    a, b = (image.double() for image in images)
    for baselines, base in (("black", torch.zeros_like(a)), (0.5, torch.full_like(a, 0.5))):
        attr, _ = PairDeepLift(pair).attribute((a, b), baselines=baselines)
        with torch.no_grad():
            torch.testing.assert_close(attr.sum((1, 2, 3)), pair(a, b) - pair(base, b))


def test_deep_lift_is_complete_in_single_precision(pair, images):
    attr, _ = PairDeepLift(pair).attribute(images)
    with torch.no_grad():
        expected = pair(*images) - pair(torch.zeros_like(images[0]), images[1])
    torch.testing.assert_close(attr.sum((1, 2, 3)), expected, rtol=1e-3, atol=1e-4)


def test_deep_lift_of_activations_in_place_and_used_twice():
    class Reused(nn.Module):
        def __init__(self, inplace):
            super().__init__()
            self.act, self.fc = nn.LeakyReLU(0.1, inplace=inplace), nn.Linear(12, 12)

        def forward(self, x):
            x = self.act(self.fc(x.flatten(1)))
            return self.act(self.fc(x))

    a, b = torch.rand(2, 2, 3, 2, 2, dtype=torch.float64)
    torch.manual_seed(0)
    model = Reused(False).double()
    in_place = Reused(True).double()
    in_place.load_state_dict(model.state_dict())
    want, got = (PairDeepLift(PairSimilarity(m)).attribute((a, b))[0] for m in (model, in_place))
    torch.testing.assert_close(got, want)
    pair = PairSimilarity(model)
    black = torch.zeros_like(a)
    with torch.no_grad():
        torch.testing.assert_close(want.sum((1, 2, 3)), pair(a, b) - pair(black, b))


def test_deep_lift_with_max_pooling_leaves_nothing_behind(images):
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(192, 5)
    ).double()
    pair = PairSimilarity(model)
    a, b = (image.double() for image in images)
    names = [sorted(vars(m)) for m in model.modules()]
    attr, _ = PairDeepLift(pair).attribute((a, b))
    with torch.no_grad():
        torch.testing.assert_close(attr.sum((1, 2, 3)), pair(a, b) - pair(torch.zeros_like(a), b))
    model[4].register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        PairDeepLift(pair).attribute((a, b))
    assert [sorted(vars(m)) for m in model.modules()] == names


def test_deep_lift_says_when_its_map_does_not_add_up(images):
    class Functional(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(768, 5)

        def forward(self, x):
            return self.fc(F.relu(self.conv(x) - 0.2).flatten(1))

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Functional()
    with pytest.warns(UserWarning, match=r"some of the model \(.*\) has no rule"):
        PairDeepLift(PairSimilarity(model)).attribute(images)


@pytest.mark.parametrize(
    "pool",
    [nn.MaxPool2d(3, 2, padding=1), nn.MaxPool2d(3, 1), nn.MaxPool2d((2, 3), dilation=2, ceil_mode=True),
     nn.AdaptiveMaxPool2d(5)],
)  # fmt: skip
def test_deep_lift_is_complete_where_pooling_windows_overlap(images, pool):
    """As in the first layers of a ResNet; Captum's own loses what two windows share."""
    torch.manual_seed(0)
    front = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.PReLU(), pool, nn.Conv2d(4, 4, 2, padding=1), pool, nn.Flatten()
    )
    size = front(images[0]).shape[1]
    pair = PairSimilarity(nn.Sequential(front, nn.Linear(size, 5)).double())
    a, b = (image.double() for image in images)
    for baselines, base in (("black", torch.zeros_like(a)), ("partner", b)):
        attr, _ = PairDeepLift(pair).attribute((a, b), baselines=baselines)
        with torch.no_grad():
            torch.testing.assert_close(attr.sum((1, 2, 3)), pair(a, b) - pair(base, b))


def test_deep_lift_gives_a_maximum_to_the_place_of_the_larger_one():
    """By hand: image 0 3 1, baseline 2 0 1, windows of two."""
    model = nn.Sequential(nn.MaxPool2d((1, 2), 1), nn.Flatten())
    image, baseline = torch.tensor([[[[[0.0, 3.0, 1.0]]]], [[[[2.0, 0.0, 1.0]]]]]).double()
    weights = torch.tensor([[[[1.0, 10.0, 0.0]]]]).double()  # maxima of 1 and 10
    attr, _ = PairDeepLift(PairSimilarity(model, score="dot")).attribute((image, weights), baselines=baseline)
    # Both maxima are the 3 in the middle, which was 0: from 2 to 3 in the first window, from 1 in the second.
    torch.testing.assert_close(attr, torch.tensor([[[[0.0, 10 * (3 - 2) + 10 * (3 - 1), 0.0]]]]).double())


def test_deep_lift_refuses_a_softmax_that_runs_twice(images):
    class Gated(nn.Module):
        def __init__(self):
            super().__init__()
            self.gate = nn.Softmax(1)

        def forward(self, x):
            return self.gate(self.gate(x)).flatten(1)

    with pytest.raises(ValueError, match="expected each Softmax to be used once"):
        PairDeepLift(PairSimilarity(Gated())).attribute(images)


@pytest.mark.parametrize(
    "layer", [nn.GLU(1), nn.LayerNorm([4, 16, 12]), nn.InstanceNorm2d(4), nn.Hardshrink()]
)
def test_deep_lift_refuses_layers_without_a_rule(images, layer):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), layer, nn.Flatten())
    with pytest.raises(ValueError, match=f"got {type(layer).__name__} at 'embedding_model.1'"):
        PairDeepLift(PairSimilarity(model)).attribute(images)


def test_deep_lift_refuses_models_of_one_image_at_a_time(net, images):
    with pytest.raises(ValueError, match="max_batch_size=1"):
        PairDeepLift(PairSimilarity(net, max_batch_size=1)).attribute(images)


@pytest.mark.real
def test_deep_lift_is_complete_on_the_real_model(real_pair, real_images):
    """ReLU6 and BatchNorm throughout, and a cosine: Captum's own would be off by the whole score."""
    a, b = real_images
    attr, _ = PairDeepLift(real_pair).attribute((a, b))
    with torch.no_grad():
        expected = real_pair(a, b) - real_pair(torch.zeros_like(a), b)
    torch.testing.assert_close(attr.sum((1, 2, 3)), expected, rtol=1e-2, atol=1e-3)
