from __future__ import annotations

import pytest
import sampling

WAYS = {"plain": sampling.plain, "antithetic": sampling.antithetic, "stratified": sampling.stratified}


@pytest.mark.parametrize("way", WAYS)
def test_masks_hide_patches(way):
    masks = WAYS[way](6, 0)
    assert masks.shape == (6, sampling.SIDE, sampling.SIDE)
    hidden = (masks == 0).flatten(1).sum(1)
    assert (hidden >= sampling.PATCH**2).all()
    assert (hidden <= sampling.PATCHES * sampling.PATCH**2).all()


def test_an_antithetic_mask_is_followed_by_its_reflection():
    first, second = sampling.antithetic(2, 0)
    assert (first.flip(0, 1) == second).float().mean() > 0.98  # to a pixel: places are rounded down


def test_prints_errors_of_each_way(run, monkeypatch):
    monkeypatch.setattr(sampling, "COUNTS", (4, 8))
    printed = run("sampling", "--seeds", 2, "--reference", 16)
    assert [line.partition(":")[0] for line in printed.splitlines()] == [
        "synthetic, 4 masks",
        "synthetic, 8 masks",
    ]
    assert all(
        word in printed for word in ("plain 0.", "antithetic x", "stratified x", "standard error said")
    )


@pytest.mark.real
def test_real_pairs(run, monkeypatch, shared):
    monkeypatch.setattr(sampling, "COUNTS", (4,))
    printed = run("sampling", "--shared", shared, "--pairs", 1, "--seeds", 2, "--reference", 8)
    assert "genuine 010_1.png 010_2.png, 4 masks" in printed
