from __future__ import annotations

import itertools
import math

import captum.attr
import pytest
import torch

from captum_face import PairFeatureAblation, PairKernelShap, PairOcclusion, PairSimilarity
from captum_face.engines.masks import grid_labels
from captum_face.maps.regions import face_regions


def cells(size=(18, 14)):
    """Six unequal cells, numbered with gaps."""
    labels = torch.full(size, 3)
    labels[:6, :7], labels[:6, 7:], labels[6:9], labels[9:, :3], labels[9:, 10:] = 0, 1, 5, 8, 9
    return labels


def test_occlusion_equals_captums(pair, images):
    pair.double()
    images = tuple(image.double() for image in images)
    got = PairOcclusion(pair).attribute(images, window=(6, 4), strides=(3, 2), baselines=0.5)
    for i, (own, partner) in enumerate((images, images[::-1])):
        want = captum.attr.Occlusion(pair.against(partner)).attribute(
            own, sliding_window_shapes=(3, 6, 4), strides=(3, 3, 2), baselines=0.5
        )
        # Captum's accumulates in single precision.
        torch.testing.assert_close(got[i], want.double(), rtol=1e-4, atol=1e-6)


def test_windows_may_be_lists_as_the_command_line_gives_them(pair, images):
    got = PairOcclusion(pair).attribute(images, window=[6, 4], strides=[3, 2])
    want = PairOcclusion(pair).attribute(images, window=(6, 4), strides=(3, 2))
    assert torch.equal(got[0], want[0])


def test_default_windows_are_a_seventh_of_each_side_in_steps_of_half(images):
    seen = []
    inputs = tuple(image[:1].repeat(1, 1, 4, 4) for image in images)  # 72 x 56

    def spy(a, b):
        seen.append(a)
        return a.mean((1, 2, 3))

    PairOcclusion(spy).attribute(inputs, perturbations_per_eval=1000)
    hidden = (seen[0] == 0).all(1)
    assert hidden[1].sum() == 10 * 8
    assert hidden[1, :10, :8].all()
    assert hidden[2, :10, 4:12].all()
    assert len(hidden) == 1 + 14 * 13


def test_feature_ablation_equals_captums(pair, images):
    pair.double()
    images = tuple(image.double() for image in images)
    fills = torch.rand(3, 3, 18, 14).double(), 0.25
    got = PairFeatureAblation(pair).attribute(images, feature_mask=cells(), baselines=fills)
    for i, (own, partner) in enumerate((images, images[::-1])):
        want = captum.attr.FeatureAblation(pair.against(partner)).attribute(
            own, feature_mask=cells()[None, None], baselines=fills[i]
        )
        torch.testing.assert_close(got[i], want)


def test_feature_ablation_takes_face_regions_on_aligned_crops():
    images = torch.rand(1, 3, 112, 112), torch.rand(1, 3, 112, 112)
    attr, _ = PairFeatureAblation(lambda a, b: a[:, 0, 60:90, 50:60].mean((1, 2))).attribute(images)
    for name, mask in face_regions().items():
        values = attr[0, 0][mask]
        # One value in a region, up to rounding.
        assert float(values.max() - values.min()) == 0
        hidden = images[0] * ~mask
        expected = images[0][:, 0, 60:90, 50:60].mean() - hidden[:, 0, 60:90, 50:60].mean()
        assert float(values[0]) == pytest.approx(float(expected), abs=1e-6), name


def test_feature_ablation_takes_a_grid_for_another_alignment():
    images = torch.rand(1, 3, 112, 112), torch.rand(1, 3, 112, 112)
    for alignment, expected in (("arcface", len(face_regions())), (None, 49)):
        pair = PairSimilarity(torch.nn.Flatten(), alignment=alignment)
        attr, _ = PairFeatureAblation(pair).attribute(images)
        assert len(attr[0, 0].unique()) == expected


def test_feature_ablation_takes_a_grid_elsewhere(images):
    attr, _ = PairFeatureAblation(lambda a, b: (a * torch.arange(14.0)).mean((1, 2, 3))).attribute(images)
    labels = grid_labels((18, 14), 7)
    assert len(attr[0, 0].unique()) == 49
    assert all(len(attr[0, 0][labels == k].unique()) == 1 for k in range(49))


def exact_shapley(score, a, labels):
    """Shapley values from all coalitions."""
    names = labels.unique().tolist()
    worth = {}
    for size in range(len(names) + 1):
        for shown in itertools.combinations(names, size):
            mask = (
                torch.isin(labels, torch.tensor(shown))
                if shown
                else torch.zeros_like(labels, dtype=torch.bool)
            )
            worth[frozenset(shown)] = score(a * mask)
    values = torch.zeros(labels.shape, dtype=torch.float64)
    n = len(names)
    for name in names:
        rest = [other for other in names if other != name]
        total = 0.0
        for size in range(n):
            weight = math.factorial(size) * math.factorial(n - size - 1) / math.factorial(n)
            for shown in itertools.combinations(rest, size):
                total += weight * (worth[frozenset((*shown, name))] - worth[frozenset(shown)])
        values[labels == name] = total
    return values


def test_kernel_shap_approaches_shapley_values(pair, images):
    pair.double()
    a, b = (image[:1].double() for image in images)
    attr_a, attr_b = PairKernelShap(pair).attribute((a, b), feature_mask=cells(), n_samples=3000, seed=0)
    with torch.no_grad():
        want_a = exact_shapley(lambda x: pair(x, b).item(), a, cells())
        want_b = exact_shapley(lambda x: pair(a, x).item(), b, cells())
    for got, want in ((attr_a, want_a), (attr_b, want_b)):
        assert (got[0, 1] - want).abs().max() < 0.05 * want.abs().max()


def test_kernel_shap_draws_sizes_by_the_shapley_kernel_and_cells_alike(images):
    """A set of k of 6 cells has weight 1 / (k (6 - k)) over all sets of its size."""
    seen = []

    def spy(a, b):
        seen.append(a[:, 0])
        return a.mean((1, 2, 3))

    ones = torch.ones(1, 3, 18, 14)
    PairKernelShap(spy).attribute((ones, ones), feature_mask=cells(), n_samples=8000, seed=0)
    masks = torch.cat(seen)[2:8002]
    visible = torch.stack([masks[:, cells() == name][:, 0] for name in cells().unique()], 1)
    weights = torch.tensor([1 / (k * (6 - k)) for k in range(1, 6)])
    counts = torch.bincount(visible.sum(1).int(), minlength=7)
    assert counts[0] == counts[6] == 0
    torch.testing.assert_close(counts[1:6] / 8000, weights / weights.sum(), rtol=0, atol=0.02)
    # The second half complements the first.
    torch.testing.assert_close(visible[:4000].mean(0), torch.full((6,), 0.5), rtol=0, atol=0.03)
    assert torch.equal(visible[4000:], 1 - visible[:4000])


@pytest.mark.parametrize("n_samples", [3, 60])
def test_kernel_shap_sums_to_the_scores_difference(pair, images, n_samples):
    """Exactly, also where there are fewer coalitions than cells."""
    pair.double()
    a, b = (image.double() for image in images)
    attr, _ = PairKernelShap(pair).attribute((a, b), feature_mask=cells(), n_samples=n_samples, seed=0)
    total = sum(attr[:, 0][:, cells() == name][:, 0] for name in cells().unique())
    with torch.no_grad():
        torch.testing.assert_close(total, pair(a, b) - pair(torch.zeros_like(a), b))


def test_kernel_shap_is_exact_for_sums(images):
    weights = torch.rand(18, 14).double() - 0.5
    a, b = (image.double() for image in images)
    attr, untouched = PairKernelShap(lambda x, y: (x[:, 0] * weights).sum((1, 2))).attribute(
        (a, b), feature_mask=cells(), n_samples=40, seed=1
    )
    for name in cells().unique():
        inside = cells() == name
        expected = (a[:, 0] * weights)[:, inside].sum(1)
        torch.testing.assert_close(attr[:, 0][:, inside][:, 0], expected)
    assert untouched.abs().max() < 1e-9


@pytest.mark.parametrize("method", [PairOcclusion, PairFeatureAblation, PairKernelShap])
def test_positive_where_hiding_lowers_the_score(method):
    a = torch.ones(1, 3, 28, 28)
    options = {"seed": 0} if method is PairKernelShap else {}
    for sign in (1, -1):
        attr, untouched = method(lambda x, y, s=sign: s * x[:, 0, 14, 9]).attribute((a, a), **options)
        assert sign * attr[0, 0, 14, 9] > 0.5
        assert (sign * attr).max() == pytest.approx(float(sign * attr[0, 0, 14, 9]))
        assert untouched.abs().max() < 1e-6


def test_one_image_against_many_is_hidden_once(pair, images):
    seen = []
    pair.embedding_model.register_forward_hook(lambda m, args, out: seen.append(len(args[0])))
    a, b = images
    PairKernelShap(pair).attribute((a[:1], b), n_samples=10, seed=0)
    # 12 coalitions of a and of each b, and each intact image once.
    assert sum(seen) == 12 * 4 + 3 + 1


@pytest.mark.parametrize(
    ("method", "options", "error", "message"),
    [
        (PairOcclusion, {"window": 15}, ValueError, "inside the image of 18x14"),
        (PairOcclusion, {"window": 0}, ValueError, "window"),
        (PairOcclusion, {"window": 4, "strides": 5}, ValueError, "strides of at most"),
        (PairOcclusion, {"strides": 0}, ValueError, "stride"),
        (PairOcclusion, {"window": "x"}, ValueError, "window to be an integer"),
        (PairOcclusion, {"window": (3, 4, 4)}, ValueError, "window as a number or as two"),
        (PairOcclusion, {"window": ()}, ValueError, "window as a number or as two"),
        (PairFeatureAblation, {"feature_mask": "face"}, TypeError, "tensor of integers"),
        (PairFeatureAblation, {"feature_mask": torch.rand(18, 14)}, TypeError, "torch.float32"),
        (PairFeatureAblation, {"feature_mask": torch.zeros(14, 18).long()}, ValueError, r"got \(14, 18\)"),
        (PairKernelShap, {"feature_mask": torch.zeros(18, 14).long()}, ValueError, "at least two cells"),
        (PairKernelShap, {"n_samples": 0}, ValueError, "n_samples"),
        (PairKernelShap, {"seed": 1.5}, TypeError, "seed as an integer"),
        (PairKernelShap, {"baselines": 255}, ValueError, r"in \[0, 1\]"),
        (PairKernelShap, {"perturbations_per_eval": 0}, ValueError, "perturbations_per_eval"),
    ],
)
def test_bad_options_before_any_score(images, method, options, error, message):
    def never(a, b):
        raise AssertionError("scored before the options were checked")

    with pytest.raises(error, match=message):
        method(never).attribute(images, **options)
