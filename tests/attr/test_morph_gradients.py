from __future__ import annotations

import warnings

import pytest
import torch
from captum.attr import IntegratedGradients
from torch import nn

from captum_face import MorphGradients, PairSimilarity
from captum_face.attr import morph_gradients
from captum_face.engines.cohort import cycle_members, draw_cohort, require_cohort
from captum_face.engines.morphs import morphs
from captum_face.maps.signed import smooth

warnings.filterwarnings("ignore", message="Input Tensor 0 did not already require gradients")
SIZE = (18, 14)


@pytest.fixture
def cohort():
    return torch.rand(5, 3, *SIZE, generator=torch.Generator().manual_seed(9))


@pytest.fixture
def strict(net):
    """A threshold that no member reaches."""
    return PairSimilarity(net, threshold=0.99999, preprocess="arcface")


def linear_pair(threshold=1.5):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIZE[0] * SIZE[1], 6, bias=False)).double().eval()
    return PairSimilarity(net, score="dot", threshold=threshold), net[1].weight.detach()


def test_closed_form_on_a_linear_model(images, cohort):
    """The gradient is the same everywhere, so that any way gives the change of each pixel times it."""
    pair, weight = linear_pair()
    a, b = (image.double() for image in images)
    cohort = cohort.double()
    found = MorphGradients(pair, cohort).components((a, b), n_points=30, smoothing=0, seed=0)
    gradient_b = (b.flatten(1) @ weight.T @ weight).reshape(b.shape)
    gradient_a = (a.flatten(1) @ weight.T @ weight).reshape(a.shape)
    mean = cohort.mean(0)
    # The morphs are in single precision.
    for got, want in (
        (found.cohort[0], (a - mean) * gradient_b),
        (found.cohort[1], (b - mean) * gradient_a),
        (found.partner[0], (a - b) * gradient_b),
        (found.partner[1], (b - a) * gradient_a),
    ):
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)


def looped(pair, image, partner, starts, points, swapped):
    """The definition, point by point."""
    total = torch.zeros_like(image)
    for start, share, weight in zip(starts, *points, strict=True):
        point = (start + share.double() * (image - start)).detach().requires_grad_()
        ends = (partner[None], point[None]) if swapped else (point[None], partner[None])
        (gradient,) = torch.autograd.grad(pair(*ends).sum(), point)
        total += gradient * weight.double() * (image - start)
    return total


def test_equals_the_loop_over_points_in_double_precision(strict, images, cohort):
    pair = strict.double()
    a, b = (image.double() for image in images)
    method = MorphGradients(pair, cohort.double())
    options = {"n_points": 13, "seed": 7, "softness": 0.7}
    found = method.components((a, b), smoothing=0, internal_batch_size=5, **options)
    generator = torch.Generator().manual_seed(7)
    lines = morphs(13, SIZE, softness=None, generator=generator)
    regions = morphs(13, SIZE, softness=0.7, generator=generator)
    drawn = draw_cohort(require_cohort(cohort, (a, b)), 13, generator).faces
    starts = drawn[cycle_members(drawn, 13)]
    with pair.frozen():
        for i in range(3):
            for side, (image, partner) in enumerate(((a[i], b[i]), (b[i], a[i]))):
                above = looped(pair, image, partner, starts, lines, side == 1)
                below = looped(pair, image, partner, partner.expand(13, -1, -1, -1), regions, side == 1)
                torch.testing.assert_close(found.cohort[side][i], above, rtol=1e-5, atol=1e-8)
                torch.testing.assert_close(found.partner[side][i], below, rtol=1e-5, atol=1e-8)
            against = pair(starts, b[i, None].expand(13, -1, -1, -1)).mean()
            torch.testing.assert_close(found.cohort_scores[0][i], against)
            torch.testing.assert_close(found.scores[i], pair(a[i, None], b[i, None])[0])
    # attribute() joins these, smoothed.
    positions = found.positions(pair.threshold)
    joined = found.joined(positions)
    for got, want in zip(method.attribute((a, b), **options, smoothing=1.0), joined, strict=True):
        torch.testing.assert_close(got, smooth(want, 1.0, keep_sum=True))


def test_each_question_has_a_smoothing_of_its_own(strict, images, cohort):
    method = MorphGradients(strict, cohort)
    plain = method.components(images, n_points=4, smoothing=0, seed=0)
    own = method.components(images, n_points=4, smoothing=(1.0, 2.0), seed=0)
    default = method.components(images, n_points=4, seed=0)
    for sigmas, found in (((1.0, 2.0), own), ((5 / 112 * 14, 8 / 112 * 14), default)):
        for sigma, raw, spread in zip(sigmas, plain[:2], found[:2], strict=True):
            torch.testing.assert_close(spread[0], smooth(raw[0], sigma, keep_sum=True))


def test_the_straight_way_is_captums(strict, images, cohort):
    pair = strict.double()
    a, b = (image.double() for image in images)
    found = MorphGradients(pair, cohort.double()).components(
        (a, b), n_points=6, softness=None, smoothing=0, seed=0
    )
    for i in range(3):
        with pair.frozen():
            expected = IntegratedGradients(pair.against(b[i, None])).attribute(
                a[i, None], baselines=b[i, None], n_steps=6, method="riemann_middle"
            )
        torch.testing.assert_close(found.partner[0][i, None], expected)


@pytest.fixture(scope="module")
def walked():
    return {}


@pytest.fixture
def walked_once(walked, monkeypatch):
    """The walk along each image's morphs, computed once: smoothing and position touch only its result."""
    walk = morph_gradients._path_gradients

    def remembered(side, points, starts, limit):
        key = (
            side.swapped,
            side.rows.start,
            side.rows.stop,
            len(starts),
            float(points.shares.double().sum()),
        )
        if key not in walked:
            walked[key] = walk(side, points, starts, limit)
        return walked[key]

    monkeypatch.setattr(morph_gradients, "_path_gradients", remembered)


@pytest.mark.usefixtures("walked_once")
@pytest.mark.parametrize("smoothing", [0, None, 3.0])
@pytest.mark.parametrize("position", [0.0, 0.5, 1.0])
def test_complete_to_one_percent(strict, images, cohort, smoothing, position):
    method = MorphGradients(strict, cohort)
    options = {"n_points": 1000, "smoothing": smoothing, "seed": 0, "position": position}
    maps, delta = method.attribute(images, **options, return_convergence_delta=True)
    found = method.components(images, n_points=1000, seed=0)
    explained = found.explained(found.positions(strict.threshold, position))
    assert delta.shape == (3, 2)
    assert delta.abs().max() < 0.01 * explained.abs().max()
    sums = torch.stack([attr.sum((1, 2, 3)) for attr in maps], 1)
    torch.testing.assert_close(sums - explained, delta)


@pytest.mark.real
def test_complete_to_one_percent_on_real_faces(real_pair, real_images, shared):
    from captum_face.data.faces import read_faces

    faces, people, _ = read_faces(shared / "data" / "lfw_crops")
    faces = faces[[people.index(name) for name in dict.fromkeys(people)][100:120]]
    with torch.no_grad():
        nearest = torch.stack([real_pair(faces, own) for own in torch.cat(real_images)[:, None]]).amax(0)
    method = MorphGradients(real_pair, faces[nearest < real_pair.threshold])
    found = method.components(tuple(images[:1] for images in real_images), n_points=400, seed=0)
    for position in (0.0, 1.0):
        positions = found.positions(0.15, position)
        sums = torch.stack([attr.sum((1, 2, 3)) for attr in found.joined(positions)], 1)
        explained = found.explained(positions)
        assert ((sums - explained).abs() < 0.01 * explained.abs()).all()


def test_the_sign_of_the_evidence():
    """A spot that both have and cohort lack speaks for a match, one that the partner lacks against."""
    dark = torch.full((1, 3, 16, 16), 0.1)
    a, b = dark.clone(), dark.clone()
    a[..., 2:5, 2:5] = b[..., 2:5, 2:5] = 1
    a[..., 10:13, 10:13] = 1
    cohort = dark.expand(4, -1, -1, -1)
    pair = PairSimilarity(nn.Sequential(nn.AvgPool2d(2), nn.Flatten()), threshold=0.99)
    attr_a, _ = MorphGradients(pair, cohort).attribute((a, b), smoothing=0, position=0.5, seed=0)
    assert attr_a[0, :, 2:4, 2:4].sum() > 0.01
    assert attr_a[0, :, 10:12, 10:12].sum() < -0.01


def test_all_partners_share_the_cohort_points(strict, images, cohort):
    calls = []
    pair = PairSimilarity(lambda x: (calls.append(len(x)), strict.embed(x))[1], threshold=0.99999)
    method = MorphGradients(pair, cohort)
    image, partners = images[0][:1], images[1]

    def points(partners):
        calls.clear()
        method.attribute((image, partners), n_points=8, seed=0)
        return sum(calls)

    # A partner more costs its own side (16), its own morphs (8), and being embedded once.
    assert points(partners) - points(partners[:2]) == 16 + 8 + 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_points": 0}, "n_points"),
        ({"softness": 0}, "softness"),
        ({"smoothing": -1}, "smoothing"),
        ({"smoothing": (1, 2, 3)}, "expected smoothing for cohort and partner, got 3"),
        ({"position": 1.5}, r"expected position in \[0, 1\]"),
        ({"internal_batch_size": 0}, "internal_batch_size"),
        ({"threshold": float("nan")}, "finite threshold"),
        (
            {"cohort": torch.rand(5, 3, 8, 8)},
            "of the size of the images.*align FOLDER --template arcface --size",
        ),
    ],
)
def test_bad_options_before_any_pass(strict, images, cohort, options, message):
    def never(_):
        raise AssertionError("a pass")

    method = MorphGradients(PairSimilarity(never), cohort)
    with pytest.raises(ValueError, match=message):
        method.attribute(images, **options)
