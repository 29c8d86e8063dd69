from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

from captum_face import PairSimilarity
from captum_face.attr._morphing import Ends, MorphComponents
from captum_face.data import synthetic
from captum_face.data.faces import render_faces
from captum_face.engines.cohort import Cohort, cycle_members, draw_cohort, require_cohort
from captum_face.engines.morphs import morphs
from captum_face.engines.sides import Sides


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("softness", [None, 0.1, 0.5, 3.0])
@pytest.mark.parametrize("n", [1, 2, 9])
def test_all_of_a_pixels_change_is_accounted_for(softness, n):
    points = morphs(n, (20, 16), softness=softness, generator=generator())
    assert points.shares.shape == points.weights.shape == (n, 20, 16)
    assert points.weights.min() >= 0
    torch.testing.assert_close(points.weights.sum(0), torch.ones(20, 16))
    assert points.shares.min() >= 0
    assert points.shares.max() <= 1


def test_regions_have_their_own_time_with_soft_borders():
    points = morphs(32, (32, 32), softness=0.2, scale=4 / 32, generator=generator())
    ways = points.shares.reshape(4, 8, 32, 32)
    assert (ways.diff(dim=1) >= 0).all()  # from the other face to the image
    middle = ways[0, 4]
    assert (middle == 0).float().mean() > 0.25
    assert (middle == 1).float().mean() > 0.25
    assert middle.diff(dim=0).abs().mean() < 0.15  # of noise it were about a third
    # The second morph goes through the same regions the other way round.
    torch.testing.assert_close(ways[1].flip(0), 1 - ways[0])
    assert (ways[2] - ways[0]).abs().mean() > 0.1


def test_a_weight_is_what_changes_around_the_point():
    points = morphs(200, (10, 10), softness=0.5, generator=generator())
    ways, weights = (values.reshape(4, 50, 10, 10) for values in points)
    # Between the middles of two stretches half of each of them.
    expected = (weights[:, 1:] + weights[:, :-1]) / 2 * 4
    assert (ways.diff(dim=1) - expected).abs().max() < 0.02


def test_cohort_take_turns_along_the_straight_lines():
    """So that the points of each are spread over all of the way."""
    shares = morphs(12, (2, 2), softness=None).shares[:, 0, 0]
    people = cycle_members(torch.arange(3.0), 12)
    for member in range(3):
        torch.testing.assert_close(shares[people == member].diff(), torch.full((3,), 0.25))


@pytest.mark.parametrize("options", [{"softness": 0}, {"softness": -1.0}, {"scale": 0}])
def test_bad_options_of_morphs(options):
    with pytest.raises(ValueError, match=f"expected {next(iter(options))} above 0"):
        morphs(2, (8, 8), **options)


def given(faces):
    return Cohort(faces, tuple(map(str, range(len(faces)))), f"{len(faces)} images", rendered=False)


def components(cohort, perfect, scores):
    both = torch.tensor([cohort]), torch.tensor([perfect])
    maps = torch.ones(1, 1, 2, 2)
    return MorphComponents(
        (maps, maps), (-maps, -maps), (both[0],) * 2, (both[1],) * 2, torch.tensor([scores])
    )


def odds(value):
    return value / (1 - value)


@pytest.mark.parametrize("score", [0.15, 0.3, 0.5, 0.8])
def test_the_odds_of_score_and_threshold_say_how_much_each_question_counts(score):
    found = components(cohort=0.1, perfect=0.9, scores=score)
    (weight,), _ = positions = found.positions(0.3)
    assert odds(1 - float(weight)) == pytest.approx(odds((score - 0.1) / 0.8) / odds(0.2 / 0.8), rel=1e-4)
    torch.testing.assert_close(found.joined(positions)[1], (1 - 2 * weight).expand(1, 1, 2, 2))
    reached = 0.1 * (1 - weight) + 0.9 * weight
    torch.testing.assert_close(found.explained(positions), (score - reached).expand(1, 2))


@pytest.mark.parametrize(
    ("score", "threshold", "position"),
    [
        (0.3, 0.3, 0.5),
        (0.1, 0.3, 1),
        (-0.2, 0.3, 1),
        (0.9, 0.3, 0),
        (0.5, 0.05, 0),
        (0.5, 0.95, 1),
        (0.1, 0.1, 0.5),
    ],
)
def test_at_the_threshold_and_at_the_ends(score, threshold, position):
    found = components(cohort=0.1, perfect=0.9, scores=score)
    assert float(found.positions(threshold)[0]) == pytest.approx(position, abs=1e-6)
    assert float(found.positions(threshold, 0.25)[1]) == 0.25


def test_cohort_no_less_alike_than_the_partner_itself():
    assert float(components(cohort=1.0, perfect=1.0, scores=1.0).positions(0.3)[0]) == 0.5


def test_every_stranger_has_as_many_cycle_members():
    people = torch.arange(3.0)
    drawn = draw_cohort(given(people), 8, generator())
    assert sorted(drawn.faces.tolist()) == people.tolist()
    assert drawn.origin == "3 images"
    assert sorted(cycle_members(drawn.faces, 8).bincount().tolist()) == [2, 3, 3]
    many = draw_cohort(given(torch.arange(50.0)), 8, generator())
    assert len(many.faces.unique()) == 8
    assert many.faces.max() > 8
    assert [float(name) for name in many.names] == many.faces.tolist()
    assert many.origin == "8 of 50 images"


def test_cohort_count_as_often_as_they_have_cycle_members():
    pair = pixels()
    images = [torch.rand(1, 3, 12, 12, generator=generator(seed)) for seed in (0, 1)]
    faces = torch.rand(3, 3, 12, 12, generator=generator(2))
    found = Ends.of(Sides(pair, (images[0], images[1])), given(faces), None, n_points=5)
    scores = pair(faces, images[1].expand(3, -1, -1, -1))
    expected = (scores[[0, 1, 2, 0, 1]]).mean()
    torch.testing.assert_close(found.cohort_scores[0], expected[None])


def test_cohort_from_a_folder(tmp_path):
    from torchvision.utils import save_image

    faces = torch.rand(5, 3, 12, 10, generator=generator())
    for index, face in enumerate(faces):
        save_image(face, tmp_path / f"someone_{index}.png")
    like = (torch.rand(1, 3, 12, 10), torch.rand(1, 3, 12, 10))
    (tmp_path / "broken.png").write_bytes(b"no image")
    found = require_cohort(tmp_path, like)
    assert (found.faces - faces).abs().max() < 1 / 255
    assert found.names == tuple(f"someone_{index}.png" for index in range(5))
    assert found.origin == f"5 images of {tmp_path}, 1 left out (broken.png)"
    assert not found.rendered


def test_rendered_cohort_take_the_images_form():
    images = torch.rand(2, 1, 40, 36, dtype=torch.float64), torch.rand(2, 1, 40, 36, dtype=torch.float64)
    found = require_cohort(None, images)
    faces = found.faces
    assert (found.origin, found.rendered) == ("8 rendered faces", True)
    assert faces.shape[1:] == (1, 40, 36)
    assert faces.dtype == torch.float64
    assert faces.std(0).mean() > 0.05  # different people


def test_few_cohort_warn():
    images = torch.rand(1, 3, 12, 12), torch.rand(1, 3, 12, 12)
    with pytest.warns(UserWarning, match="a cohort of 3 is small"):
        require_cohort(torch.rand(3, 3, 12, 12), images)


@pytest.mark.parametrize(
    ("cohort", "error", "message"),
    [
        (
            torch.rand(8, 3, 10, 12),
            ValueError,
            r"expected cohort \(M, 3, 12, 12\), .* got \(8, 3, 10, 12\)",
        ),
        (torch.rand(3, 12, 12), ValueError, "expected cohort of shape"),
        ([1, 2], TypeError, "expected cohort as a torch.Tensor"),
        ("no such folder", FileNotFoundError, "expected a folder of images, found nothing at no such folder"),
    ],
)
def test_what_no_cohort_are(cohort, error, message):
    with pytest.raises(error, match=message):
        require_cohort(cohort, (torch.rand(1, 3, 12, 12), torch.rand(1, 3, 12, 12)))


def pixels() -> PairSimilarity:
    """Scores by the images themselves: an image is like itself and like nobody else."""
    return PairSimilarity(nn.Flatten(), threshold=0.9)


def test_who_is_no_member():
    images = tuple(torch.rand(2, 3, 12, 12, generator=generator(seed)) - 0.4 for seed in (0, 1))
    others = torch.rand(5, 3, 12, 12, generator=generator(2)) - 0.4
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for threshold in (0.9, None):
            Ends.of(Sides(pixels(), images), given(others), threshold)
    for image in images:
        known = given(torch.cat([others, image[1:] + 0.01]))
        known = known._replace(names=(*"abcde", "same/person.png"))
        for threshold, said in ((0.9, "the threshold is 0.900"), (None, "no threshold is given")):
            sides = Sides(pixels(), images)
            with pytest.warns(
                UserWarning,
                match=rf"1 of 6 members .* look like .*{said}; .* same/person.png \((0.99|1.00)\d\)\)",
            ):
                Ends.of(sides, known, threshold)
            assert "same/person.png" in sides.remarks["similar_members"]


def test_ends_are_scored_alike_with_a_module_and_a_function():
    pair = pixels()
    images = (
        torch.rand(1, 3, 12, 12, generator=generator(0)),
        torch.rand(4, 3, 12, 12, generator=generator(1)),
    )
    starts = torch.rand(5, 3, 12, 12, generator=generator(2))
    first = Ends.of(Sides(pair, images), given(starts), None)
    second = Ends.of(Sides(lambda a, b: pair(a, b), images), given(starts), None)
    for x, y in zip(
        [*first.cohort_scores, *first.perfect_scores, first.scores],
        [*second.cohort_scores, *second.perfect_scores, second.scores],
        strict=True,
    ):
        assert x.shape == (4,)
        torch.testing.assert_close(x, y)
    expected = torch.stack([pair(start[None], images[1]) for start in starts]).mean(0)
    torch.testing.assert_close(first.cohort_scores[0], expected)
    torch.testing.assert_close(first.perfect_scores[0], torch.ones(4))


def test_images_that_are_not_aligned_are_noticed():
    faces = render_faces(8)
    two = synthetic.pair(seed=0)
    images = two.image_a, two.image_b
    shifted = two.image_b.roll(24, 2)
    pair = PairSimilarity(nn.Flatten(), threshold=0.999999)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Ends.of(Sides(pair, images), given(faces), 1.0)
    with pytest.warns(UserWarning, match=r"image_b\[0\] does not look like a face .* align all images"):
        Ends.of(Sides(pair, (two.image_a, shifted)), given(faces), 1.0)
    pair.alignment = None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Ends.of(Sides(pair, (two.image_a, shifted)), given(faces), 1.0)


def test_images_that_share_their_memory_are_told_apart():
    """A batch against its own first image, which begins at the same address."""
    images = torch.rand(3, 3, 12, 12, generator=generator(0))
    starts = torch.rand(4, 3, 12, 12, generator=generator(1))
    pair = pixels()
    got, want = (
        Ends.of(Sides(pair, (images, first)), given(starts), None)
        for first in (images[:1], images[:1].clone())
    )
    torch.testing.assert_close(got.scores, want.scores)
    torch.testing.assert_close(got.scores, pair(images, images[:1]))
    for x, y in zip(
        got.cohort_scores + got.perfect_scores, want.cohort_scores + want.perfect_scores, strict=True
    ):
        torch.testing.assert_close(x, y)
