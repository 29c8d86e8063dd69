from __future__ import annotations

import json

import pytest

from captum_face.metrics import calibrate_threshold
from captum_face.models import load_pair
from tests.cli.conftest import run

PAIRS = ("--synthetic", 45, "--model", "synthetic")


def test_a_threshold_is_chosen_and_taken_by_other_commands(folder):
    from captum_face.data import synthetic_pairs

    result = run("threshold", *PAIRS, "--far", 0.1, "--output", "found/threshold.json")
    assert result.exit_code == 0, result.output
    found = json.loads((folder / "found/threshold.json").read_text())
    want = calibrate_threshold(load_pair("synthetic"), synthetic_pairs(45), criterion="far", far=0.1)
    assert found["threshold"] == pytest.approx(want)
    assert f"threshold {want:.4f} at FMR 0.1 (95 % interval" in result.output
    for line in ("FNMR ", "EER ", "of 30 impostor pairs", "of 15 genuine pairs", "bootstrap over 75 people"):
        assert line in result.output
    model = ("--model", "own_models:build", "--method", "xssab", "--output", "out")
    result = run("explain", "a.png", "b.png", *model, "--threshold", "found/threshold.json")
    assert result.exit_code == 0, result.output
    source = "chosen at FMR 0.1 on 30 impostor pairs of synthetic_pairs(45, seed=0) with synthetic"
    assert f"(threshold {source})" in result.output
    (path,) = (folder / "out").glob("*.xssab.json")
    summary = json.loads(path.read_text())
    assert (summary["threshold"], summary["threshold_source"]) == (found["threshold"], source)


def test_a_threshold_of_distances(folder):
    euclidean = ("--score", "euclidean")
    result = run("threshold", *PAIRS, *euclidean, "--far", 0.1, "--output", "found.json")
    assert result.exit_code == 0, result.output
    found = json.loads((folder / "found.json").read_text())
    distance = (-found["threshold"]) ** 0.5
    assert f"threshold {distance:.4f} (distance) at FMR 0.1 (95 % interval" in result.output
    assert f"at {(-found['eer_threshold']) ** 0.5:.4f}" in result.output
    assert found["shown"]["threshold"] == pytest.approx(distance)
    low, high = found["shown"]["interval"]
    assert low <= distance <= high
    common = ("explain", "a.png", "b.png", "--model", "synthetic", "--method", "xssab", "--output")
    for given in ("found.json", f"{distance:.9f}", repr(found["threshold"])):
        result = run(*common, f"by {given}", *euclidean, "--threshold", given)
        assert result.exit_code == 0, result.output
        assert f"threshold {distance:.3f}: " in result.output
        (path,) = (folder / f"by {given}").glob("*.xssab.json")
        assert json.loads(path.read_text())["threshold"] == pytest.approx(found["threshold"])
    result = run(*common, "out", "--threshold", "found.json")  # of the cosine
    assert result.exit_code != 0
    assert "expected a threshold of the score 'cosine', got one of 'euclidean'" in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((*PAIRS, "--far", 0.05), "expected at least 60 impostor pairs (3 / FMR) for an FMR of 0.05, got 30"),
        ((*PAIRS, "--far", 2), "expected far as a rate in (0, 1], got 2.0"),
        (("--model", "synthetic", "--far", 0.1), "expected one of --pairs, --bin and --synthetic, got 0"),
    ],
)
def test_what_is_refused_before_the_model_runs(folder, monkeypatch, arguments, message):
    monkeypatch.setattr("captum_face.cli.threshold.load_pair", None)
    result = run("threshold", *arguments)
    assert result.exit_code != 0
    assert message in " ".join(result.output.split())


@pytest.mark.parametrize(
    ("threshold", "message"),
    [
        ("30", "expected a threshold that the score can reach, -1 to 1, got 30"),
        ("nan", "expected a finite threshold"),
        ("none.json", "expected a number, or a .json file of the command threshold, got 'none.json'"),
        ("own_models.py", "expected a number, or a .json file of the command threshold, got 'own_models.py'"),
    ],
)
@pytest.mark.parametrize("command", ["explain", "identify"])
def test_thresholds_that_are_none(folder, command, threshold, message):
    other = "." if command == "identify" else "b.png"
    result = run(
        command, "a.png", other, "--model", "synthetic", "--threshold", threshold, "--output", "../o"
    )
    assert result.exit_code != 0
    assert message in " ".join(result.output.split())
