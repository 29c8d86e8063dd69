"""Perturbation curves: a looped reference, a planted model with known best and worst, ties, errors."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from captum_face import PairSimilarity
from captum_face.maps.signed import smooth
from captum_face.metrics import perturbation_curve
from tests.conftest import small_net

SIZE = 12


@pytest.fixture
def pair():
    return PairSimilarity(small_net(), preprocess="arcface", threshold=0.2)


@pytest.fixture
def images():
    generator = torch.Generator().manual_seed(1)
    return tuple(torch.rand(3, 3, 24, 20, generator=generator) for _ in range(2))


@pytest.fixture
def maps():
    generator = torch.Generator().manual_seed(2)
    return tuple(torch.randn(3, 3, 24, 20, generator=generator) for _ in range(2))


class Inside(nn.Module):
    """An embedding that sees the pixels inside a mask alone, and a constant."""

    def __init__(self, mask):
        super().__init__()
        self.mask = mask

    def forward(self, images):
        seen = images[:, :, self.mask].flatten(1)
        return torch.cat([seen, torch.full((len(images), 1), 0.1)], dim=1)


@pytest.fixture
def planted():
    """A model that sees a square of 36 of 144 pixels, a genuine pair of one picture, and somebody else.

    That face is black inside the square, so that what is left of the square is what is left of the score.
    """
    mask = torch.zeros(SIZE, SIZE, dtype=torch.bool)
    mask[2:8, 3:9] = True
    pair = PairSimilarity(Inside(mask), score="dot")
    image = torch.full((1, 3, SIZE, SIZE), 0.5)
    return pair, mask, image


def reference(pair, images, maps, *, mode, order, fill, perturb, n_steps, cohort=None):
    """One image at a time, in float64, pixels put in order by Python's sort."""
    double = PairSimilarity(small_net().double().eval(), preprocess="arcface")
    rows = []
    for index in range(len(images[0])):
        row = []
        for step in range(n_steps + 1):
            now = []
            for side, name in ((0, "a"), (1, "b")):
                image = images[side][index].double().clone()
                if perturb in (name, "both"):
                    signed = maps[side][index].double().mean(0).flatten()
                    key = {
                        "similar": lambda p, s=signed: -float(s[p]),
                        "dissimilar": lambda p, s=signed: float(s[p]),
                        "irrelevant": lambda p, s=signed: abs(float(s[p])),
                    }[order]
                    pixels = sorted(range(signed.numel()), key=key)
                    count = -(-len(pixels) * step // n_steps)
                    first = set(pixels[:count])
                    filled = {
                        "black": lambda i=image: torch.zeros_like(i),
                        "mean": lambda i=image: i.mean((1, 2), keepdim=True).expand_as(i),
                        "blur": lambda i=image: smooth(i[None], 20 * 10 / 112)[0],
                        "swap": lambda s=side, n=index: (
                            images[1 - s][n] if order == "dissimilar" else cohort[n]
                        ).double(),
                    }[fill]().flatten(1)
                    flat = image.flatten(1)
                    for pixel in range(flat.shape[1]):
                        if (pixel in first) == (mode == "deletion"):
                            flat[:, pixel] = filled[:, pixel]
                    image = flat.reshape(image.shape)
                now.append(image[None])
            with torch.no_grad():
                row.append(float(double(*now)))
        rows.append(row)
    return torch.tensor(rows, dtype=torch.float64)


@pytest.mark.parametrize("mode", ["deletion", "insertion"])
@pytest.mark.parametrize(
    ("order", "fill", "perturb"),
    [
        ("similar", "black", "a"),
        ("similar", "swap", "b"),
        ("dissimilar", "swap", "a"),
        ("dissimilar", "mean", "both"),
        ("irrelevant", "blur", "both"),
        ("irrelevant", "swap", "a"),
    ],
)
def test_equals_a_loop_over_single_images(pair, images, maps, mode, order, fill, perturb):
    generator = torch.Generator().manual_seed(9)
    cohort = torch.rand(3, 3, 24, 20, generator=generator)
    needs_cohort = fill == "swap" and order != "dissimilar"
    options = {"mode": mode, "order": order, "fill": fill, "perturb": perturb, "n_steps": 4}
    curve = perturbation_curve(
        pair, images, maps, cohort=cohort if needs_cohort else None, perturbations_per_eval=5, **options
    )
    expected = reference(pair, images, maps, cohort=cohort, **options)
    torch.testing.assert_close(curve.scores, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(curve.fractions, torch.linspace(0, 1, 5, dtype=torch.float64))


def test_the_planted_map_is_best_and_its_opposite_worst(planted):
    pair, mask, image = planted
    inputs = (image, image)
    perfect = (mask.float()[None], mask.float()[None])
    full = 36 * 3 * 0.25  # what the square contributes to the score, beside the constant's 0.01

    best = perturbation_curve(pair, inputs, perfect, n_steps=4)
    worst = perturbation_curve(pair, inputs, (-perfect[0], -perfect[1]), n_steps=4)
    # A quarter of the pixels is the square: after one of four steps nothing is left, or all still there.
    expected = torch.tensor([[full, 0, 0, 0, 0]]) + 0.01
    torch.testing.assert_close(best.scores, expected.double(), rtol=1e-5, atol=1e-5)
    expected = torch.tensor([[full, full, full, full, 0]]) + 0.01
    torch.testing.assert_close(worst.scores, expected.double(), rtol=1e-5, atol=1e-5)
    assert best.auc().item() == pytest.approx(full / 8 + 0.01, rel=1e-5)
    assert worst.auc().item() == pytest.approx(full * 7 / 8 + 0.01, rel=1e-5)
    inserted = perturbation_curve(pair, inputs, perfect, n_steps=4, mode="insertion")
    assert inserted.auc().item() == pytest.approx(full * 7 / 8 + 0.01, rel=1e-5)
    hidden = perturbation_curve(pair, inputs, perfect, n_steps=4, order="irrelevant")
    torch.testing.assert_close(hidden.scores, worst.scores)


def test_the_partners_pixels_raise_the_score_where_the_map_says(planted):
    pair, mask, image = planted
    probe = torch.where(mask, 0.0, image)
    against = (-mask.float()[None], torch.zeros(1, SIZE, SIZE))
    curve = perturbation_curve(pair, (probe, image), against, order="dissimilar", fill="swap", n_steps=4)
    full = 36 * 3 * 0.25
    expected = torch.tensor([[0, full, full, full, full]]) + 0.01
    torch.testing.assert_close(curve.scores, expected.double(), rtol=1e-5, atol=1e-5)


def test_a_constant_map_is_scored_as_random_and_favours_no_corner(planted):
    pair, _, image = planted
    constant = (torch.ones(1, SIZE, SIZE), torch.ones(1, SIZE, SIZE))
    areas = []
    for seed in range(40):
        curve = perturbation_curve(pair, (image, image), constant, seed=seed)
        areas.append(curve.auc().item())
    half = 36 * 3 * 0.25 / 2 + 0.01
    # Areas have a standard deviation of 8 % of that: the mean rank of 36 of 144 pixels.
    assert sum(areas) / 40 == pytest.approx(half, rel=0.03)
    assert max(abs(area - half) for area in areas) < 0.35 * half
    assert len(set(areas)) > 30


def test_ties_do_not_change_the_order_of_what_is_not_tied(planted):
    pair, mask, image = planted
    clipped = mask.float()[None].repeat(1, 1, 1)
    for seed in range(3):
        curve = perturbation_curve(pair, (image, image), (clipped, clipped), n_steps=4, seed=seed)
        assert curve.scores[0, 1].item() == pytest.approx(0.01, abs=1e-5)


def test_patches_are_replaced_as_a_whole(pair, images, maps):
    seen = []
    original = pair.embedding_model.forward

    def spy(batch):
        seen.append(batch.clone())
        return original(batch)

    pair.embedding_model.forward = spy
    raw = PairSimilarity(pair.embedding_model)  # without preprocessing, to see the images themselves
    perturbation_curve(raw, images, maps, patch_size=8, n_steps=9, perturbations_per_eval=1)
    # 24 x 20 pixels: 3 x 3 cells, the last column 4 pixels wide; one more of them is black at each step.
    steps = [batch for batch in seen if len(batch) == 1][-24:-16]  # between both ends of the first
    for step, batch in enumerate(steps, start=1):
        black = (batch[0] == 0).all(0)
        cells = [black[y : y + 8, x : x + 8] for y in (0, 8, 16) for x in (0, 8, 16)]
        assert all(cell.all() or not cell.any() for cell in cells)
        assert sum(bool(cell.all()) for cell in cells) == step


def test_a_batch_gives_what_its_pairs_give(pair, images, maps):
    together = perturbation_curve(pair, images, maps, fill="blur", perturb="both")
    for index in range(3):
        rows = slice(index, index + 1)
        alone = perturbation_curve(
            pair,
            tuple(image[rows] for image in images),
            tuple(attr[rows] for attr in maps),
            fill="blur",
            perturb="both",
        )
        torch.testing.assert_close(alone.scores, together.scores[rows], rtol=1e-5, atol=1e-6)


def test_what_is_the_same_for_all_maps_passes_once(images, maps):
    passed = []

    def model(batch):
        passed.append(len(batch))
        return batch.mean((2, 3)) + batch.amax((2, 3))

    pair, n, steps = PairSimilarity(model, score="dot"), 3, 5
    want = perturbation_curve(pair, images, maps, n_steps=steps)
    # Both images of each pair, one black image, and what lies between.
    assert sum(passed) == 2 * n + 1 + n * (steps - 1)
    passed.clear()
    known = {}
    got = perturbation_curve(pair, images, maps, n_steps=steps, embedded=known)
    assert len(known) == 2 * n + 1
    torch.testing.assert_close(got.scores, want.scores, rtol=0, atol=0)
    for options in ({"mode": "insertion"}, {"order": "dissimilar"}, {"order": "irrelevant"}):
        want = perturbation_curve(pair, images, maps, n_steps=steps, **options)
        passed.clear()
        got = perturbation_curve(pair, images, maps, n_steps=steps, embedded=known, **options)
        assert sum(passed) == n * (steps - 1)
        torch.testing.assert_close(got.scores, want.scores, rtol=0, atol=0)
    passed.clear()
    perturbation_curve(pair, images, maps, n_steps=steps, fill="blur", perturb="both", embedded=known)
    assert sum(passed) == 2 * n + 2 * n * (steps - 1)
    assert perturbation_curve(pair, images, maps, n_steps=1, embedded=known).scores.shape == (n, 2)


@pytest.mark.real
def test_the_scores_of_a_real_model(real_pair, real_images):
    maps = (torch.randn(2, 3, 112, 112, generator=torch.Generator().manual_seed(0)), None)
    curve = perturbation_curve(real_pair, real_images, maps, fill="blur", n_steps=4)
    blurred = smooth(real_images[0], 10)
    for row in range(2):
        order = maps[0][row].mean(0).flatten().double().argsort(descending=True, stable=True)
        for step in range(5):
            image = real_images[0][row].flatten(1).clone()
            first = order[: -(-112 * 112 * step // 4)]
            image[:, first] = blurred[row].flatten(1)[:, first]
            expected = real_pair.eval()(image.reshape(1, 3, 112, 112), real_images[1][row : row + 1])
            assert curve.scores[row, step].item() == pytest.approx(expected.item(), abs=1e-5)


def test_decisions_and_error_rates(pair, images, maps):
    curve = perturbation_curve(pair, images, maps, n_steps=2)
    object.__setattr__(
        curve, "scores", torch.tensor([[0.9, 0.4, 0.1], [0.5, 0.5, 0.5], [0.2, 0.6, 0.0]]).double()
    )
    same = torch.tensor([True, True, False])
    assert curve.correct(0.5, same).tolist() == [[True, False, False], [True] * 3, [True, False, True]]
    torch.testing.assert_close(curve.accuracy(0.5, same), torch.tensor([3.0, 1.0, 2.0]).double() / 3)
    assert curve.accuracy_auc(0.5, same) == pytest.approx((3 / 3 + 2 * 1 / 3 + 2 / 3) / 4)
    assert curve.fnmr(0.5, same).tolist() == [0.0, 0.5, 0.5]
    assert curve.fmr(0.5, same).tolist() == [0.0, 1.0, 0.0]
    with pytest.raises(ValueError, match="at least one impostor pair"):
        curve.fmr(0.5, [1, 1, 1])
    with pytest.raises(ValueError, match="neither|0, got 2"):
        curve.accuracy(0.5, [1, 2, 0])
    with pytest.raises(ValueError, match="threshold that the score can reach, -1 to 1, got 1.5"):
        curve.accuracy(1.5, same)


def test_decisions_by_distance(images, maps):
    pair = PairSimilarity(small_net().eval(), score="euclidean")
    curve = perturbation_curve(pair, images, maps, n_steps=4)
    away = (-curve.scores[0, 1].item()) ** 0.5
    for distance in (0.999 * away, 1.001 * away):
        want = (-curve.scores).sqrt() <= distance
        assert torch.equal(curve.correct(distance, [1] * len(curve.scores)), want)
        assert torch.equal(curve.correct(pair.score.given(distance), [1] * len(curve.scores)), want)


def test_the_model_is_left_as_it_was(pair, images, maps):
    assert pair.embedding_model.training
    with torch.enable_grad():
        curve = perturbation_curve(pair, images, maps)
    assert pair.embedding_model.training
    assert all(parameter.requires_grad for parameter in pair.parameters())
    assert not curve.scores.requires_grad


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "removal"}, "unknown mode 'removal'"),
        ({"order": "simlar"}, "did you mean 'similar'"),
        ({"fill": "grey"}, "unknown fill 'grey'"),
        ({"perturb": "c"}, "unknown image to perturb"),
        ({"n_steps": 0}, "n_steps"),
        ({"patch_size": 0}, "patch_size"),
        ({"fill": "swap"}, "expected cohort="),
        ({"cohort": torch.rand(1, 3, 24, 20)}, "cohort= only with fill='swap'"),
        ({"fill": "swap", "cohort": torch.rand(1, 3, 20, 20)}, "expected baselines that fit"),
        ({"fill": torch.rand(2, 3, 24, 20)}, "expected baselines that fit"),
    ],
)
def test_bad_options_are_refused_before_any_pass(pair, images, maps, options, message):
    pair.embedding_model.forward = None  # would fail at the first pass
    with pytest.raises(ValueError, match=message):
        perturbation_curve(pair, images, maps, **options)


def test_bad_maps_are_refused(pair, images, maps):
    broken = maps[0].clone()
    broken[1, 0, 3, 3] = float("nan")
    with pytest.raises(ValueError, match="finite attributions"):
        perturbation_curve(pair, images, (broken, maps[1]))
    with pytest.raises(ValueError, match="expected attributions for 3 images of 24x20"):
        perturbation_curve(pair, images, (maps[0][:, :, :20], maps[1]))
    with pytest.raises(TypeError, match="pair"):
        perturbation_curve(pair, images, maps[0])
