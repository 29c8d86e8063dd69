from __future__ import annotations

import pytest
import torch

from captum_face import PairSimilarity
from captum_face.engines.masks import apply_masks, masked_scores, random_patches, require_masks


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("sampling", ["plain", "stratified"])
def test_patches_lie_inside_and_are_uniform(sampling):
    options = {"n_patches": 1, "patch_size": (2, 4), "sampling": sampling, "generator": generator()}
    masks = random_patches(4000, (6, 9), **options)
    hidden = ~masks
    assert (hidden.sum((1, 2)) == 8).all()
    # A patch at every one of 5 x 6 places: the expected visibility follows by counting.
    rows = torch.tensor([1, 2, 2, 2, 2, 1]) / 5
    columns = torch.tensor([1, 2, 3, 4, 4, 4, 3, 2, 1]) / 6
    assert (hidden.float().mean(0) - rows[:, None] * columns).abs().max() < 0.04


def test_stratified_patches_fill_the_image_evenly():
    """Of 5 x 8 places each patch takes every one equally often in 40 masks, but for one or two."""
    masks = random_patches(
        640, (6, 9), n_patches=1, patch_size=(2, 2), sampling="stratified", generator=generator()
    )
    counts = torch.stack([(~m).nonzero()[0] for m in masks]).float()
    histogram = torch.bincount((counts[:, 0] * 8 + counts[:, 1]).long(), minlength=40)
    assert (histogram - 16).abs().max() <= 4
    plain = random_patches(640, (6, 9), n_patches=1, patch_size=(2, 2), generator=generator())
    places = torch.stack([(~m).nonzero()[0] for m in plain])
    assert (torch.bincount(places[:, 0] * 8 + places[:, 1], minlength=40) - 16).abs().max() > 6


def test_stratified_patches_are_seeded_and_begin_alike():
    def draw(n, seed):
        return random_patches(n, (20, 30), sampling="stratified", generator=generator(seed))

    state = torch.get_rng_state()
    assert torch.equal(draw(9, 1), draw(30, 1)[:9])
    assert not torch.equal(draw(9, 1), draw(9, 2))
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(3)
    first = random_patches(5, (20, 30), sampling="stratified")
    torch.manual_seed(3)
    assert torch.equal(first, random_patches(5, (20, 30), sampling="stratified"))


def test_patches_are_the_union_of_rectangles():
    masks = random_patches(50, (20, 20), n_patches=3, patch_size=5, generator=generator())
    hidden = (~masks).sum((1, 2))
    assert hidden.max() <= 75
    assert (hidden == 75).any()
    assert (hidden < 75).any()


def test_default_patch_is_30_of_112_of_each_side():
    hidden = ~random_patches(5, (112, 224), n_patches=1, generator=generator())
    assert (hidden.any(2).sum(1) == 30).all()
    assert (hidden.any(1).sum(1) == 60).all()


def test_seeded():
    assert torch.equal(
        random_patches(9, (8, 8), generator=generator(1)), random_patches(9, (8, 8), generator=generator(1))
    )
    assert not torch.equal(
        random_patches(9, (8, 8), generator=generator(1)), random_patches(9, (8, 8), generator=generator(2))
    )


def test_apply_masks(images):
    image = images[0][:1]
    masks = torch.rand(4, 18, 14, generator=generator())
    torch.testing.assert_close(apply_masks(image, masks), image * masks[:, None])
    fill = torch.rand(1, 3, 18, 14)
    expected = torch.stack([image[0] * m + fill[0] * (1 - m) for m in masks])
    torch.testing.assert_close(apply_masks(image, masks, fill), expected)
    hard = masks > 0.5
    filled = apply_masks(image, hard, 0.25)
    assert torch.equal(filled[:, 0][hard], image[:, 0].expand(4, -1, -1)[hard])
    assert filled[:, 0][~hard].eq(0.25).all()


@pytest.mark.parametrize("swapped", [False, True])
def test_scores_of_masked_images_equal_a_loop(pair, images, swapped):
    """Against all partners at once, through the embeddings and through a callable of someone else's."""
    a, b = images
    masks = random_patches(10, (18, 14), generator=generator())

    def ordered(x, y):
        assert len(x) == len(y)
        return pair(x, y) + x.mean((1, 2, 3))

    with torch.no_grad():
        for forward_func, own in ((pair, pair), (ordered, ordered)):
            scores = masked_scores(forward_func, a[:1], b, masks, swapped=swapped, perturbations_per_eval=4)
            assert scores.shape == (3, 10)
            for k in range(3):
                for i in range(10):
                    masked = a[:1] * masks[i]
                    sides = (b[k : k + 1], masked) if swapped else (masked, b[k : k + 1])
                    assert scores[k, i].item() == pytest.approx(own(*sides).item(), abs=1e-6)


def test_a_pair_wrapper_embeds_the_intact_side_once(images):
    seen = []

    def model(x):
        seen.append(len(x))
        return x.flatten(1)

    masked_scores(
        PairSimilarity(model), images[0][:1], images[1], torch.ones(9, 18, 14), perturbations_per_eval=4
    )
    assert seen == [3, 4, 4, 1]


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        (lambda a, b: a.mean(), ValueError, r"shape \(4,\), got \(\)"),
        (lambda a, b: a.mean((2, 3)), ValueError, r"shape \(4,\), got \(4, 3\)"),
        (lambda a, b: a.mean((1, 2, 3)) / 0, ValueError, "finite scores"),
        (lambda a, b: "same", TypeError, "got str"),
    ],
)
def test_bad_scores(images, answer, error, message):
    with pytest.raises(error, match=message):
        masked_scores(answer, images[0][:1], images[1], torch.ones(4, 18, 14))


def test_own_masks():
    masks = torch.rand(5, 1, 4, 6, generator=generator())
    assert torch.equal(require_masks(masks, (4, 6)), masks[:, 0])
    assert require_masks((masks > 0.5).long(), (4, 6)).dtype == torch.bool
    for bad, message in (
        (masks[..., 1:], r"\(n, 4, 6\).*got \(5, 1, 4, 5\)"),
        (masks[:1], "at least 2 masks"),
        (masks[0, 0], r"at least 2 masks.*got \(4, 6\)"),
        (2 * masks, r"in \[0, 1\]"),
        (masks.where(masks > 0.1, float("nan")), r"in \[0, 1\]"),
    ):
        with pytest.raises(ValueError, match=message):
            require_masks(bad, (4, 6))
    with pytest.raises(TypeError, match="got list"):
        require_masks([[1]], (4, 6))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patch_size": 20}, "inside the image of 18x14"),
        ({"patch_size": (19, 3)}, "inside the image of 18x14"),
        ({"patch_size": 0}, "patch_size"),
        ({"n_patches": 0}, "n_patches"),
        ({"n_masks": 0}, "n_masks"),
        ({"n_masks": 2.5}, "n_masks"),
        ({"sampling": "stratifed"}, "did you mean 'stratified'"),
    ],
)
def test_bad_patches(options, message):
    with pytest.raises(ValueError, match=message):
        random_patches(**{"n_masks": 3, "size": (18, 14), **options})
