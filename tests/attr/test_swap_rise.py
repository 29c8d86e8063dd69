from __future__ import annotations

import pytest
import torch

from captum_face import CorrRISE, PairSimilarity, SwapRISE
from captum_face.attr.swap_rise import visibility_effect
from captum_face.engines.cohort import draw_cohort, require_cohort
from captum_face.engines.masks import random_patches

SIZE = (18, 14)


@pytest.fixture
def cohort():
    return torch.rand(5, 3, *SIZE, generator=torch.Generator().manual_seed(9))


@pytest.fixture
def strict(net):
    """A threshold that no member reaches."""
    return PairSimilarity(net, threshold=0.99999, preprocess="arcface").double()


def effect(scores, masks):
    """Covariance of visibility and score, for one standard deviation of the former, pixel by pixel."""
    found = torch.zeros(SIZE, dtype=torch.float64)
    for y in range(SIZE[0]):
        for x in range(SIZE[1]):
            seen = masks[:, y, x].double()
            if 0 < seen.sum() < len(seen):
                found[y, x] = ((seen - seen.mean()) * (scores - scores.mean())).mean() / seen.std(
                    correction=0
                )
    return found


def test_equals_the_loop_over_masks(strict, images, cohort):
    a, b = (image.double() for image in images)
    faces = cohort.double()
    options = {"n_masks": 20, "n_patches": 2, "n_cohort": 3, "seed": 4}
    found = SwapRISE(strict, faces).components((a, b), perturbations_per_eval=6, **options)
    generator = torch.Generator().manual_seed(4)
    masks = random_patches(20, SIZE, n_patches=2, generator=generator)
    starts = draw_cohort(require_cohort(faces, (a, b)), 3, generator).faces
    with torch.no_grad():
        for i in range(3):
            for side, (own, partner) in enumerate(((a[i], b[i]), (b[i], a[i]))):

                def score(image, partner=partner, side=side):
                    ends = (partner[None], image[None]) if side else (image[None], partner[None])
                    return strict(*ends).item()

                above = torch.tensor(
                    [score(torch.where(m, own, starts[n % 3])) for n, m in enumerate(masks)],
                    dtype=torch.float64,
                )
                for turn in range(3):
                    above[turn::3] -= above[turn::3].mean()
                below = above.new_tensor([score(torch.where(m, own, partner)) for m in masks])
                for maps, scores in ((found.cohort, above), (found.partner, below)):
                    for channel in maps[side][i]:
                        torch.testing.assert_close(channel, effect(scores, masks), rtol=1e-5, atol=1e-9)
    joined = found.joined(found.positions(strict.threshold))
    for got, want in zip(SwapRISE(strict, faces).attribute((a, b), **options), joined, strict=True):
        torch.testing.assert_close(got, want)


def test_the_sign_of_the_evidence():
    """A spot that both have and cohort lack speaks for a match, one that the partner lacks against."""
    dark = torch.full((1, 3, 24, 24), 0.1)
    a, b = dark.clone(), dark.clone()
    a[..., 4:8, 4:8] = b[..., 4:8, 4:8] = 1
    a[..., 20:24, 20:24] = 1

    def service(first, second):
        return -(first - second).square().mean((1, 2, 3))

    method = SwapRISE(service, dark.expand(4, -1, -1, -1))
    attr_a, _ = method.attribute((a, b), position=0.5, threshold=0.5, n_masks=400, seed=0)
    size = float(attr_a.abs().max())
    assert attr_a[0, 0, 5, 5] > 0.3 * size
    assert attr_a[0, 0, 21, 21] < -0.3 * size


def test_pixels_that_are_never_hidden_have_no_effect():
    masks = torch.ones(4, 1, 3, dtype=torch.bool)
    masks[:2, 0, 1] = False
    masks[:, 0, 2] = False
    found = visibility_effect(torch.tensor([[0.1, 0.3, 0.6, 0.8]]), masks)
    # Half of the time hidden: the mean of 0.7 less that of 0.2, for half a unit of visibility.
    torch.testing.assert_close(found, torch.tensor([[[0.0, 0.25, 0.0]]], dtype=torch.float64))


@pytest.mark.parametrize("swapped", [False, True])
def test_corrrise_with_the_partners_pixels(strict, images, swapped):
    """The name is the other image of the pair, whichever side has a batch of one."""
    a, b = images[0][:1].double(), images[1].double()
    inputs = (b, a) if swapped else (a, b)
    method, options = CorrRISE(strict), {"n_masks": 12, "seed": 0}
    by_name = method.attribute(inputs, baselines="partner", **options)
    by_hand = method.attribute(inputs, baselines=(inputs[1], inputs[0]), **options)
    for got, want in zip(by_name, by_hand, strict=True):
        assert got.shape == (3, 3, *SIZE)
        torch.testing.assert_close(got, want, rtol=0, atol=0)
    black = method.attribute(inputs, **options)
    assert (by_name[0] - black[0]).abs().max() > 0.1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_masks": 1}, "expected n_masks of at least 2"),
        ({"n_cohort": 0}, "n_cohort"),
        ({"position": -0.1}, r"expected position in \[0, 1\]"),
        ({"patch_size": 40}, "patches inside the image"),
        ({"cohort": torch.rand(5, 3, 8, 8)}, "of the size of the images"),
    ],
)
def test_bad_options_before_any_pass(images, cohort, options, message):
    def never(_):
        raise AssertionError("a pass")

    with pytest.raises(ValueError, match=message):
        SwapRISE(PairSimilarity(never), cohort).attribute(images, **options)


def test_more_cohort_than_masks_still_say_something(strict, images, cohort):
    """Each keeps two masks: of one, relative to its own mean, nothing would be left."""
    inputs = tuple(image.double() for image in images)
    method = SwapRISE(strict, cohort.double())
    many = method.components(inputs, n_masks=12, n_cohort=16, seed=0)
    few = method.components(inputs, n_masks=12, n_cohort=6, seed=0)
    assert many.cohort[0].abs().amax() > 0
    torch.testing.assert_close(many.cohort[0], few.cohort[0])
