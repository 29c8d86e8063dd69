from __future__ import annotations

import itertools

import pytest
import torch

from captum_face.maps.agreement import AGREEMENT_SMOOTHING, agreement
from captum_face.maps.ranks import rank_correlations, spearman
from captum_face.maps.signed import smooth


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_it_is_the_mean_over_methods_and_images():
    maps = noise(3, 2, 1, 3, 30, 24)
    maps[1] += maps[0]
    expected = []
    for side in (0, 1):
        flat = [
            smooth(of_method[side].double().mean(1), AGREEMENT_SMOOTHING * 24).flatten() for of_method in maps
        ]
        expected += [float(spearman(x, y)) for x, y in itertools.combinations(flat, 2)]
    found = agreement([tuple(of_method) for of_method in maps])
    assert found.value == pytest.approx(sum(expected) / 6, abs=1e-5)
    assert found.n_methods == 3
    assert found.correlations[0][1] == pytest.approx((expected[0] + expected[3]) / 2, abs=1e-5)


def test_same_opposite_constant_and_single_maps():
    one = tuple(noise(2, 1, 3, 20, 20))
    assert agreement([one, tuple(3 * side + 1 for side in one)]).value == pytest.approx(1)
    assert agreement([one, tuple(-side for side in one)]).value == pytest.approx(-1)
    assert agreement([one, tuple(torch.zeros_like(side) for side in one)]).value == 0
    assert agreement([one]) is None
    with pytest.raises(ValueError, match="attributions of one size"):
        agreement([one, tuple(side[..., 1:] for side in one)])


@pytest.mark.parametrize("n_methods", [2, 4])
def test_one_in_twenty_sets_of_random_maps_exceeds_what_noise_is_said_to_reach(n_methods):
    drawn = [noise(n_methods, 2, 1, 1, 32, 32, seed=seed) for seed in range(300)]
    found = [agreement([tuple(of_method) for of_method in maps]) for maps in drawn]
    above = sum(f.value > f.noise for f in found) / len(found)
    assert 0.02 < above < 0.09
    assert "no more than noise" in str(min(found))
    assert "no more than noise" not in str(max(found))


def test_rank_correlations_are_spearmans():
    values = noise(4, 50).round(decimals=1)  # with ties
    values[3] = 2
    table = rank_correlations(values)
    for i, j in itertools.combinations(range(4), 2):
        assert float(table[i, j]) == pytest.approx(float(spearman(values[i], values[j])), abs=1e-12)
