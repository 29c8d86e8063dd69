"""The contract's checks themselves: what breaks a rule fails the check of that rule."""

from __future__ import annotations

import pytest
import torch

from captum_face import Center, PairAttribution, method
from captum_face.attr import on_sides
from captum_face.attr.registry import METHODS
from captum_face.engines.sides import image_gradient
from captum_face.pair.similarity import PairSimilarity
from captum_face.testing import CHECKS, check_method, method_checks


@pytest.fixture(autouse=True)
def _registry():
    before = dict(METHODS._own)
    yield
    METHODS._own = before


def made(one, steps=1):
    """A method that explains one image by a function, with the options that many methods have."""

    @method("broken", family="test", source="a test", passes="2", needs="embeddings")
    class Broken(PairAttribution):
        @on_sides
        def attribute(self, sides, *, seed=None, generator=None, internal_batch_size=None):
            return sides.explain(lambda side: one(side, seed), steps)

    return Broken


def gradient(side, seed=None):
    """What a sound method does; the checks are given this with one fault."""
    noise = torch.Generator().manual_seed(seed or 0)
    image = side.image.expand(len(side.partners), -1, -1, -1).clone()
    with torch.enable_grad():
        image.requires_grad_()
        scores = side.pair(*side.ordered(image, side.partners))
        maps = image_gradient(scores, image)
    side.done()
    return maps * (1 + torch.rand(maps.shape[-2:], generator=noise, dtype=maps.dtype))


def run(broken, rule, options=None):
    check = next(check for check in method_checks(broken, options or {"seed": 0}) if check.name == rule)
    with pytest.raises(AssertionError, match=f"breaks the contract, {rule}:") as error:
        check()
    return str(error.value)


def test_a_sound_method_passes_what_the_broken_ones_fail():
    sound = made(gradient)
    for check in method_checks(sound, {"seed": 0}):
        if check.name not in ("batch_limit", "memory", "batch_sizes", "precision", "black_box"):
            check()


def test_random_numbers_from_the_global_state():
    run(made(lambda side, seed: gradient(side) * torch.rand(1)), "repeatable")


def test_a_seed_without_effect():
    assert "another seed" in run(made(lambda side, seed: gradient(side)), "repeatable")


def test_a_side_that_is_not_looked_at():
    def one(side, seed):
        return gradient(side, seed) * (2 if side.swapped else 1)

    assert "exchanged" in run(made(one), "sides")


def test_a_score_of_images_in_the_wrong_order():
    def one(side, seed):
        image = side.image.expand(len(side.partners), -1, -1, -1).clone()
        with torch.enable_grad():
            return image_gradient(side.pair(image.requires_grad_(), side.partners), image)

    assert "exchanged" in run(made(one), "sides")


def test_maps_of_a_whole_batch():
    def one(side, seed):
        maps = gradient(side, seed)
        return maps + maps.mean() * (side.rows.start == 0)

    run(made(one), "batches")


def test_a_bar_that_does_not_end():
    run(made(gradient, steps=2), "progress")


def test_a_model_that_is_not_put_back():
    def one(side, seed):
        side.pair.model.extra = 1
        return gradient(side, seed)

    run(made(one), "model_as_it_was")


def test_an_error_of_the_method_itself():
    def one(side, seed):
        raise ZeroDivisionError("midway")

    message = run(made(one), "shapes")
    assert "ZeroDivisionError: midway" in message


def test_maps_of_a_wrong_shape_are_refused_by_the_package_already():
    assert "expected maps" in run(made(lambda side, seed: gradient(side, seed)[..., :-1]), "shapes")
    assert "finite" in run(made(lambda side, seed: gradient(side, seed) / 0), "shapes")


def test_every_check_says_what_it_asks_for():
    assert all(check.__doc__ for check in CHECKS.values())
    check_method(Center)


def test_details_have_a_value_for_each_pair():
    def one(side, seed):
        side.note("residual", torch.zeros(1, 2))
        return gradient(side, seed)

    pair = PairSimilarity(torch.nn.Flatten())
    with pytest.raises(ValueError, match="expected residual with a value for each of 1 pair"):
        made(one)(pair).attribute((torch.rand(1, 3, 4, 4), torch.rand(1, 3, 4, 4)))
