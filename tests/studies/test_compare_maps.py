from __future__ import annotations

import subprocess

import compare_maps
import pytest
import torch

from captum_face import METHODS

FAST = ["saliency", "random"]


def maps(value: float, seconds: float = 0.1) -> tuple[torch.Tensor, torch.Tensor, float]:
    return torch.tensor([1.0, -2.0]), torch.tensor([4.0, value]), seconds


def test_difference_is_relative_to_the_largest_value_before():
    assert compare_maps.difference(maps(1.0), maps(1.0)) == 0
    assert compare_maps.difference(maps(1.0), maps(1.5)) == 0.125
    assert compare_maps.difference(maps(0.0), "ValueError: no") == "before a map; after ValueError: no"
    assert "before (2,)" in compare_maps.difference(maps(0.0), (torch.zeros(1), torch.zeros(1), 0))


@pytest.mark.parametrize(
    ("after", "equal", "word"),
    [
        (maps(1.0), True, "OK"),
        (maps(1.0 + 1e-3), False, "differs"),
        (maps(float("nan")), False, "differs"),
        (None, False, "not registered"),
    ],
)
def test_table_says_what_differs(after, equal, word, capsys):
    found = {} if after is None else {("fggb", "synthetic"): after}
    assert compare_maps.print_table({("fggb", "synthetic"): maps(1.0)}, found) is equal
    assert word in capsys.readouterr().out.splitlines()[1]


def test_an_error_on_both_sides_is_no_difference(capsys):
    found = {("fggb", "synthetic"): "ValueError: no"}
    assert compare_maps.print_table(found, dict(found))
    assert "alike" in capsys.readouterr().out


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_maps_of_the_synthetic_pair(dtype):
    found = compare_maps.compute(None, [*FAST, "unknown"], dtype)
    assert list(found) == [(name, "synthetic") for name in FAST]
    for attr_a, attr_b, _ in found.values():
        assert attr_a.shape == attr_b.shape == (1, 3, 112, 112)
        assert attr_a.dtype == dtype


def test_a_decoder_for_a_model_that_has_none(pair, images):
    method = METHODS["reconstruction"].build(pair)
    maps = compare_maps.explained("reconstruction", method, (images[0][:1], images[1][:1]), "genuine")
    assert all(attr.abs().sum() > 0 for attr in maps)


def test_smaller_settings_are_options_of_their_methods():
    for name, options in compare_maps.SETTINGS.items():
        assert options.keys() <= METHODS[name].options().keys()


def test_checkout_against_its_last_commit(run, tmp_path, capsys):
    if subprocess.run(["git", "rev-parse", "HEAD"], cwd=compare_maps.ROOT, capture_output=True).returncode:
        pytest.skip("needs the git repository")
    words = [word for name in FAST for word in ("--method", name)]
    with pytest.raises(SystemExit) as stopped:
        run("compare_maps", "--against", "HEAD", "--shared", tmp_path, *words)
    assert stopped.value.code == 0
    printed = capsys.readouterr().out
    assert "no real pairs" in printed
    assert printed.count("OK") == 2


@pytest.mark.real
def test_real_pairs(shared):
    found = compare_maps.compute(shared, ["saliency"])
    assert list(found) == [("saliency", name) for name in ("synthetic", "genuine", "impostor")]
