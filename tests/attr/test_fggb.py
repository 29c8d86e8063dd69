from __future__ import annotations

import pytest
import torch

from captum_face import FGGB, PairSimilarity
from tests.conftest import small_net
from tests.engines.test_channels import looped_maps


def looped_fggb(pair, image_a, image_b, threshold):
    """The paper's definition in double precision, one pair and one channel at a time."""
    unit = [e / e.norm() for e in (pair.embed(image)[0].detach() for image in (image_a, image_b))]
    dimensions = len(unit[0])
    attributions = []
    for image in (image_a, image_b):
        total = torch.zeros(image.shape[-2:], dtype=image.dtype)
        for k, channel_map in enumerate(looped_maps(pair, image)):
            total += (unit[0][k] * unit[1][k] - threshold / dimensions) * channel_map
        attributions.append(total.expand_as(image))
    return attributions


@pytest.mark.parametrize("threshold", [None, 0.0, 0.7])
def test_equals_the_definition(pair, images, threshold):
    pair.double()
    a, b = (image.double() for image in images)
    attr_a, attr_b = FGGB(pair).attribute((a, b), threshold=threshold, internal_batch_size=3)
    for i in range(3):
        theta = 0.2 if threshold is None else threshold
        expected_a, expected_b = looped_fggb(pair, a[i : i + 1], b[i : i + 1], theta)
        torch.testing.assert_close(attr_a[i : i + 1], expected_a, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(attr_b[i : i + 1], expected_b, rtol=1e-9, atol=1e-12)


def test_the_threshold_is_shared_by_the_channels(pair, images):
    """Weights c_k - theta / D: with all maps alike the sign of the map is that of score - theta."""
    model = torch.nn.Conv2d(3, 5, 1, bias=False)
    torch.nn.init.ones_(model.weight)
    # Every channel has the same gradient, so M_k is one map M and S = (score - theta) M.
    constant = PairSimilarity(
        lambda x: model(x).mean((2, 3)) + torch.tensor([1.0, -2, 3, 0.5, -1]), score="dot"
    )
    a, b = images[0][:1], images[1][:1]
    score = constant(a, b).item()
    for theta in (score - 1, score + 1, score):
        attr_a, attr_b = FGGB(constant).attribute((a, b), threshold=theta, embedding="raw")
        area = 18 * 14
        expected = torch.full_like(a, (score - theta) / area**0.5)
        torch.testing.assert_close(attr_a, expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(attr_b, expected, rtol=1e-4, atol=1e-5)


def test_works_under_no_grad_and_inference_mode(pair, images):
    expected = FGGB(pair).attribute(images)
    for context in (torch.no_grad, torch.inference_mode):
        with context():
            inside = FGGB(pair).attribute(tuple(image.clone() for image in images))
        for got, want in zip(inside, expected, strict=True):
            torch.testing.assert_close(got, want)


@pytest.mark.parametrize("single", [None, 0, 1])
@pytest.mark.parametrize("options", [{}, {"gradient": "signed"}, {"embedding": "raw"}, {"threshold": 0.9}])
def test_the_error_of_a_tolerance_is_below_the_bound(images, single, options):
    net, passes = small_net(dimensions=60).double().eval(), []
    pair = PairSimilarity(net, threshold=0.1)
    inputs = tuple(image[:1].double() if i == single else image.double() for i, image in enumerate(images))
    found = FGGB(pair).attribute_detailed(inputs, **options)
    exact = found.attributions
    assert found.details["error_bound"].eq(0).all()

    def count_the_way_back(_, args, out):
        if out.requires_grad:
            out.register_hook(lambda gradient: passes.append(len(gradient)))

    net.fc.register_forward_hook(count_the_way_back)
    for tolerance in (0.02, 0.1, 0.5):
        passes.clear()
        found = FGGB(pair).attribute_detailed(inputs, tolerance=tolerance, internal_batch_size=1, **options)
        maps, bound = found.attributions, found.details["error_bound"]
        assert bound.shape == (3, 2)
        with torch.no_grad():
            weights = pair.contributions(pair.embed(inputs[0]), pair.embed(inputs[1]))
        weights = (weights - options.get("threshold", 0.1) / 60).abs().sum(1, keepdim=True)
        assert (bound <= 1.00001 * tolerance * weights).all()
        errors = torch.stack(
            [(x - y)[:, 0].flatten(1).norm(dim=1) for x, y in zip(maps, exact, strict=True)], 1
        )
        assert (errors <= bound).all()
        assert (errors > 0).all() == (bound > 0).all()
        images_differentiated = 6 if single is None else 4
        assert len(passes) < 60 * images_differentiated
        if tolerance == 0.5:
            assert len(passes) < 0.6 * 60 * images_differentiated
    alone = FGGB(pair).attribute(inputs, tolerance=0.5, **options)
    assert all(torch.equal(x, y) or torch.allclose(x, y) for x, y in zip(alone, maps, strict=True))


def test_a_pair_without_weights_has_an_empty_map(images):
    """Orthogonal embeddings channel by channel, threshold 0: nothing speaks for or against."""
    disjoint = PairSimilarity(
        lambda x: torch.stack([x.mean((1, 2, 3)), 0 * x.mean((1, 2, 3))], 1) + torch.tensor([0.0, 0.0]),
        score="dot",
    )
    a, black = images[0][:1], torch.zeros_like(images[0][:1])
    found = FGGB(disjoint).attribute_detailed((a, black), embedding="raw", tolerance=0.3)
    assert all(attr.eq(0).all() for attr in found.attributions)
    assert found.details["error_bound"].eq(0).all()


@pytest.mark.real
def test_a_tolerance_on_real_pairs(real_pair, real_images):
    exact = FGGB(real_pair).attribute(real_images)
    found = FGGB(real_pair).attribute_detailed(real_images, tolerance=0.1)
    maps, bound = found.attributions, found.details["error_bound"]
    for side in (0, 1):
        errors = (maps[side] - exact[side])[:, 0].flatten(1).norm(dim=1)
        assert (errors < bound[:, side]).all()
        assert (errors < 0.2 * exact[side][:, 0].flatten(1).norm(dim=1)).all()


@pytest.mark.parametrize(
    ("tolerance", "error"),
    [(1, ValueError), (-0.1, ValueError), (float("nan"), ValueError), ("0.1", TypeError), (True, TypeError)],
)
def test_bad_tolerances(pair, images, tolerance, error):
    with pytest.raises(error, match="expected tolerance"):
        FGGB(pair).attribute(images, tolerance=tolerance)


def test_needs_a_pair_wrapper(images):
    with pytest.raises(TypeError, match="expected a PairSimilarity, got function.*CorrRISE"):
        FGGB(lambda a, b: a.mean((1, 2, 3))).attribute(images)


def test_memory_holds_no_more_replicas_than_asked(images):
    seen = []

    def model(x):
        seen.append(len(x))
        return x.flatten(1)

    FGGB(PairSimilarity(model)).attribute((images[0][:1], images[1][:1]), internal_batch_size=8)
    assert max(seen) == 8  # of D = 756 channels


@pytest.mark.real
def test_real_pairs_equal_the_definition(real_pair, real_images):
    from copy import deepcopy

    pair = deepcopy(real_pair).double()
    impostor = tuple(image[1:] for image in real_images)
    attributions = FGGB(real_pair).attribute(impostor)
    with pair.frozen():
        expected = looped_fggb(pair, *(image.double() for image in impostor), 0.15)
    for got, want in zip(attributions, expected, strict=True):
        assert (got - want).norm() / want.norm() < 1e-4


@pytest.mark.parametrize(
    ("threshold", "error"),
    [(float("nan"), ValueError), (float("inf"), ValueError), ("0.3", TypeError), (True, TypeError)],
)
def test_bad_thresholds_before_any_pass(images, threshold, error):
    def never(x):
        raise AssertionError("embedded before the threshold was checked")

    with pytest.raises(error, match="threshold"):
        FGGB(PairSimilarity(never)).attribute(images, threshold=threshold)
    with pytest.raises(error, match="threshold"):
        PairSimilarity(never, threshold=threshold)
