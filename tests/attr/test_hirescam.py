from __future__ import annotations

import csv

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from captum_face import PairSimilarity
from captum_face.attr.hirescam import PairHiResCam
from captum_face.attr.layer_gradcam import PairGradCam, last_feature_layer
from captum_face.data.images import load_image
from captum_face.pair.scores import Cosine


def place_by_place(net, pair, own, partner, *, fixed):
    """Each place's features times their own gradient, one feature map at a time."""
    features = net.bn2(net.conv2(net.prelu(net.bn1(net.conv1(pair.preprocess(own))))))
    features = features.detach().requires_grad_()
    shortcut = net.prelu(net.bn1(net.conv1(pair.preprocess(own)))).detach()
    embedding = net.fc(net.pool(shortcut + features).flatten(1))
    other = pair.embed(partner).detach()
    length = embedding.norm().detach() if fixed else embedding.norm()
    score = (embedding * other).sum() / length / other.norm()
    (gradient,) = torch.autograd.grad(score, features)
    cam = torch.zeros(1, 1, *features.shape[2:], dtype=own.dtype)
    for c in range(features.shape[1]):
        for y in range(features.shape[2]):
            for x in range(features.shape[3]):
                cam[0, 0, y, x] += (features[0, c, y, x] * gradient[0, c, y, x]).detach()
    return F.interpolate(cam, own.shape[-2:], mode="bilinear")[0, 0]


@pytest.mark.parametrize("fixed", [True, False])
def test_place_by_place(net, pair, images, fixed):
    pair.double()
    a, b = (image[:1].double() for image in images)
    attr_a, attr_b = PairHiResCam(pair).attribute((a, b), fixed_length=fixed)
    for channel in range(3):
        torch.testing.assert_close(attr_a[0, channel], place_by_place(net, pair, a, b, fixed=fixed))
        torch.testing.assert_close(attr_b[0, channel], place_by_place(net, pair, b, a, fixed=fixed))


@pytest.mark.parametrize("fixed", [True, False])
def test_it_sums_to_the_score_only_with_the_length_fixed(fixed):
    """Behind the layer all is linear: what the places bring adds up to the score, and cancels otherwise."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.Flatten(), nn.Linear(6 * 81, 4, bias=False))
    pair = PairSimilarity(net.double())
    a, b = torch.rand(2, 1, 3, 9, 9, dtype=torch.float64)
    attr, _ = PairHiResCam(pair).attribute((a, b), **({} if fixed else {"fixed_length": False}))
    with torch.no_grad():
        expected = pair(a, b)[0] if fixed else torch.zeros((), dtype=torch.float64)
    torch.testing.assert_close(attr[0, 0].sum(), expected)


def test_equals_grad_cam_where_the_head_averages(images):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Conv2d(3, 6, 3), nn.PReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4)
        )
    pair = PairSimilarity(net)
    for hires, cam in zip(
        PairHiResCam(pair).attribute(images, fixed_length=False),
        PairGradCam(pair).attribute(images),
        strict=True,
    ):
        # Each place has the mean weight, if the gradient of a mean is what it is at every place.
        torch.testing.assert_close(hires, cam)


def test_each_place_has_a_sign_of_its_own():
    """One detector, whose finds speak for a match on the left and against it on the right."""

    class Planted(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(1, 1, 1, bias=False)
            self.conv.weight.data.fill_(1)

        def forward(self, x):
            x = self.conv(x)
            return torch.stack([x[:, 0, :, :4].mean((1, 2)), x[:, 0, :, 4:].mean((1, 2)) - 0.5], 1)

    a, b = torch.ones(2, 1, 1, 8, 8)
    b[..., 4:] = 0.2
    attr, _ = PairHiResCam(PairSimilarity(Planted())).attribute((a, b))
    assert (attr[..., :3] > 0).all()
    assert (attr[..., 5:] < 0).all()
    cam, _ = PairGradCam(PairSimilarity(Planted())).attribute((a, b))
    assert cam.max() - cam.min() < 1e-6


def test_relu_keeps_the_positive_part_of_the_layer(images):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Flatten(), nn.Linear(4 * 252, 5))
    signed, _ = PairHiResCam(PairSimilarity(net)).attribute(images)
    positive, _ = PairHiResCam(PairSimilarity(net)).attribute(images, relu=True)
    assert signed.min() < 0
    # A layer of the image's size: nothing is interpolated between the two.
    torch.testing.assert_close(positive, signed.clamp(min=0))


def test_a_layer_by_name(net, pair, images):
    by_name, _ = PairHiResCam(pair).attribute(images, layer="conv1")
    assert torch.equal(by_name, PairHiResCam(pair).attribute(images, layer=net.conv1)[0])
    with pytest.raises(ValueError, match="did you mean 'conv"):
        PairHiResCam(pair).attribute(images, layer="conv3")


@pytest.mark.real
def test_on_real_pairs_the_sum_follows_the_score_as_grad_cams_does_not(shared, real_pair):
    """What the pages of both methods say: a head with a weight for each place is not one that averages."""
    with open(shared / "data" / "pairs.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    chosen = [row for same in "10" for row in [r for r in rows if r["same"] == same][:12]]
    images = tuple(
        torch.cat([load_image(shared / "data" / "lfw_crops" / row[side]) for row in chosen])
        for side in ("image_a", "image_b")
    )
    with torch.no_grad():
        scores = real_pair(*images).repeat(2)
    maps = {m: torch.cat(m(real_pair).attribute(images))[:, 0] for m in (PairHiResCam, PairGradCam)}
    means = {m: torch.corrcoef(torch.stack([scores, found.mean((1, 2))]))[0, 1] for m, found in maps.items()}
    blue = {m: found.clamp(min=0).sum((1, 2)) / found.abs().sum((1, 2)) for m, found in maps.items()}
    one_sign = {m: float(((share > 0.95) | (share < 0.05)).float().mean()) for m, share in blue.items()}
    assert means[PairHiResCam] > 0.7
    assert means[PairGradCam] < 0.2
    assert one_sign[PairGradCam] > 0.75
    assert one_sign[PairHiResCam] < 0.15
    genuine = torch.tensor([row["same"] == "1" for row in chosen]).repeat(2)
    mostly_red = {m: float((share[genuine] < 0.5).float().mean()) for m, share in blue.items()}
    assert mostly_red[PairGradCam] > 0.3
    assert mostly_red[PairHiResCam] < 0.1


class OwnCosine(Cosine):
    """Another name for the same."""

    name = "own"


class Weighted(Cosine):
    """A score of unit embeddings with weights of its own."""

    name = "weighted"

    def compare(self, emb_a, emb_b):
        return torch.linspace(0, 2, emb_a.shape[-1]) * emb_a * emb_b


class Overridden(Cosine):
    """The same, written past compare()."""

    name = "overridden"

    def contributions(self, emb_a, emb_b):
        return torch.linspace(0, 2, emb_a.shape[-1]) * super().contributions(emb_a, emb_b)


def test_a_subclass_of_the_cosine_gives_the_map_of_the_cosine(net, images):
    want = PairHiResCam(PairSimilarity(net)).attribute(images)
    got = PairHiResCam(PairSimilarity(net, score=OwnCosine())).attribute(images)
    assert all(torch.equal(x, y) for x, y in zip(got, want, strict=True))


def test_a_score_is_asked_how_it_compares_unit_embeddings(net, images):
    """The length of the embedding is held fixed for any score that normalises, with its own weights."""
    weighted = PairSimilarity(net, score=Weighted())
    (got, _) = PairHiResCam(weighted).attribute(tuple(image[:1] for image in images))
    features, handle = [], net.bn2.register_forward_hook(lambda _, args, out: features.append(out))
    with weighted.frozen():
        unit_b = torch.nn.functional.normalize(net(images[1][:1]))
        image = images[0][:1].clone().requires_grad_()
        features.clear()
        own = net(image)
        handle.remove()
        score = (torch.linspace(0, 2, 7) * own / own.detach().norm() * unit_b).sum()
        layer = last_feature_layer(weighted, images[0][:1])
        assert layer is net.bn2
        (gradient,) = torch.autograd.grad(score, features[0])
    cells = (gradient * features[0]).sum(1, keepdim=True)
    want = torch.nn.functional.interpolate(cells, images[0].shape[-2:], mode="bilinear")
    torch.testing.assert_close(got[:, :1], want.detach(), rtol=1e-4, atol=1e-6)


def test_a_score_that_hides_how_it_compares_is_said_to(net, images):
    with pytest.warns(UserWarning, match=r"'overridden' normalises, but its contributions"):
        PairHiResCam(PairSimilarity(net, score=Overridden())).attribute(images)
