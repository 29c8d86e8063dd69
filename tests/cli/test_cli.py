from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from captum_face import METHODS
from captum_face.cli import main

FACTORY = """
import torch
from captum_face import PairSimilarity
from tests.conftest import small_net

def build():
    return small_net()

def build_pair():
    return PairSimilarity(small_net(), threshold=0.3, preprocess="arcface")

def build_number():
    return 3

def build_picky():
    def model(images):
        raise RuntimeError("only 20 pixels")
    return model
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Two images and a module with factories in the current folder."""
    random = np.random.default_rng(0)
    for name in ("a.png", "b.png"):
        Image.fromarray(random.integers(0, 256, (112, 112, 3), dtype=np.uint8)).save(tmp_path / name)
    (tmp_path / "own_models.py").write_text(FACTORY)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_explain_writes_what_it_says(folder):
    result = run(
        "explain", "a.png", "b.png", "--model", "own_models:build", "--preprocess", "arcface",
        "--threshold", "0.5", "--method", "fggb", "--method", "corrrise", "--option", "n_masks=20",
        "--output", "out",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "threshold 0.500" in result.output
    names = {path.name for path in (folder / "out").iterdir()}
    assert names == {f"{m}{end}" for m in ("fggb", "corrrise") for end in (".png", ".npz", ".json")} | {
        "comparison.png"
    }
    summary = json.loads((folder / "out" / "corrrise.json").read_text(encoding="utf-8"))
    assert summary["protocol"]["options"]["n_masks"] == 20
    assert summary["protocol"]["model"] == "own_models:build"
    assert summary["protocol"]["preprocess"].startswith("Normalize(mean=0.5")
    assert summary["threshold"] == 0.5
    assert sum(share["area"] for share in summary["regions"]["image_a"].values()) == pytest.approx(1)


def test_methods_lists_the_registry():
    lines = run("methods").output.splitlines()
    assert [line.split()[0] for line in lines[1:]] == list(METHODS)


def test_all_methods_skips_and_names_those_that_do_not_suit(folder, monkeypatch):
    monkeypatch.setattr(
        "captum_face.cli.METHODS", {name: METHODS[name] for name in ("fggb", "saliency", "xssab")}
    )
    monkeypatch.setattr("captum_face.cli.explain_pair", suits_all_but("saliency"))
    result = run(
        "explain", "a.png", "b.png", "--model", "own_models:build", "--method", "all", "--output", "out"
    )
    assert result.exit_code == 0, result.output
    assert "saliency: skipped, expected another model" in result.output
    assert {path.stem for path in (folder / "out").iterdir()} == {"fggb", "xssab", "comparison"}


@pytest.mark.parametrize("error", [ImportError, RuntimeError, ValueError])
def test_all_methods_survives_a_missing_package_and_says_where_none_suits(folder, monkeypatch, error):
    monkeypatch.setattr("captum_face.cli.METHODS", {name: METHODS[name] for name in ("fggb", "lrp")})
    monkeypatch.setattr("captum_face.cli.explain_pair", suits_all_but("lrp", error=error))
    arguments = ["explain", "a.png", "b.png", "--model", "own_models:build", "--method", "all"]
    result = run(*arguments, "--output", "out")
    assert result.exit_code == 0, result.output
    assert "lrp: skipped, expected another model" in result.output
    monkeypatch.setattr("captum_face.cli.explain_pair", suits_all_but("lrp", "fggb", error=error))
    result = run(*arguments, "--output", "none")
    assert result.exit_code != 0
    assert "no method could explain this pair" in result.output


def test_images_that_the_model_refuses_end_before_any_method(folder):
    Image.new("RGB", (160, 160)).save("large.png")
    result = run("explain", "large.png", "large.png", "--model", "synthetic", "--method", "all")
    assert result.exit_code != 0
    assert "got (1, 3, 160, 160)" in result.output
    assert "skipped" not in result.output


def suits_all_but(*names, error=TypeError):
    from captum_face import explain

    def explain_or_refuse(*arguments, method, **options):
        if method in names:
            raise error("expected another model")
        return explain(*arguments, method=method, **options)

    return explain_or_refuse


def test_factories_may_give_a_finished_pair(folder):
    result = run("explain", "a.png", "b.png", "--model", "own_models:build_pair", "--output", "out")
    assert result.exit_code == 0, result.output
    assert "threshold 0.300" in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a.png", "none.png", "--model", "own_models:build"], "found nothing at none.png"),
        (["a.png", "own_models.py", "--model", "own_models:build"], "expected an image file"),
        (["a.png", "b.png", "--model", "mobilefacnet"], "did you mean 'mobilefacenet'"),
        (["a.png", "b.png", "--model", "mobilefacenet"], "expected weights for mobilefacenet"),
        (["a.png", "b.png", "--model", "mobilefacenet", "--weights", "no.pt"], "no.pt"),
        (["a.png", "b.png", "--model", "none.onnx"], "none.onnx"),
        (["a.png", "b.png", "--model", "no_module:build"], "could not import"),
        (["a.png", "b.png", "--model", "own_models:none"], "expected a function 'none'"),
        (["a.png", "b.png", "--model", "own_models:build_number"], "got int"),
        (
            ["a.png", "b.png", "--model", "own_models:build", "--preprocess", "arkface"],
            "did you mean 'arcface'",
        ),
        (["a.png", "b.png", "--model", "own_models:build", "--method", "fgb"], "did you mean 'fggb'"),
        (["a.png", "b.png", "--model", "own_models:build", "--option", "n_mask=3"], "unknown option"),
        (["a.png", "b.png", "--model", "own_models:build", "--option", "n_masks"], "KEY=VALUE"),
        (
            ["a.png", "b.png", "--model", "own_models:build", "--method", "all", "--method", "fgb"],
            "did you mean",
        ),
        (["a.png", "b.png", "--model", "own_models:build", "--smooth", "-1"], "--smooth"),
        (["a.png", "b.png", "--model", "own_models:build", "--threshold", "nan"], "finite threshold"),
        (["a.png", "b.png", "--model", "own_models:build", "--option", "threshold=1"], "--threshold"),
        (["a.png", "b.png", "--model", "own_models:build_picky"], "only 20 pixels"),
        (["a.png", "b.png"], "--model"),
    ],
)
def test_bad_input_is_one_readable_message(folder, arguments, message):
    result = run("explain", *arguments)
    assert result.exit_code != 0
    assert message in " ".join(result.output.split())
    assert "Traceback" not in result.output
    assert not list(folder.glob("captum_face_output/*"))


def test_no_file_of_the_user_is_touched(folder):
    (folder / ".captum_face").write_text("mine")
    run("demo", "--output", "demo.png")
    assert (folder / ".captum_face").read_text() == "mine"


def test_smoothing_and_options_reach_figure_and_method(folder):
    result = run(
        "explain", "a.png", "b.png", "--model", "synthetic", "--threshold", "0", "--method", "corrrise",
        "--option", "n_masks=6", "--option", "patch_size=[10, 12]", "--option", "show_progress=false",
        "--smooth", "2", "--output", "out",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "threshold 0.000" in result.output
    summary = json.loads((folder / "out" / "corrrise.json").read_text(encoding="utf-8"))
    assert summary["figure"] == {"sigma": 2.0}
    assert summary["protocol"]["options"]["patch_size"] == [10, 12]
    assert summary["protocol"]["image_a"] == "a.png"


def test_debug_shows_where_an_error_came_from(folder):
    result = run("--debug", "explain", "a.png", "none.png", "--model", "own_models:build")
    assert isinstance(result.exception, FileNotFoundError)


def test_demo_prints_shares_and_writes_the_figure(folder):
    result = run("demo", "--output", "figures/demo.png")
    assert result.exit_code == 0, result.output
    for part in (
        "Score",
        "threshold",
        "of the area",
        "of fggb's",
        "of corrrise's",
        "of morph_gradients's",
        "of reconstruction's",
    ):
        assert part in result.output
    assert Image.open(folder / "figures" / "demo.png").size[0] > 1000
    result = run("demo", "--changed", "moth")
    assert result.exit_code != 0
    assert "did you mean 'mouth'" in result.output


@pytest.fixture
def gallery(folder):
    """Three images, one of them the probe's own file, and a file that is no image."""
    random = np.random.default_rng(1)
    (folder / "people").mkdir()
    for name in ("ann.png", "bob.png", "probe.png"):
        Image.fromarray(random.integers(0, 256, (112, 112, 3), dtype=np.uint8)).save(folder / "people" / name)
    (folder / "people" / "broken.jpg").write_text("no image")
    return folder / "people"


def test_identify_writes_what_it_says(folder, gallery):
    result = run(
        "identify", "people/probe.png", "people", "--model", "own_models:build_pair", "--top-k", "1",
        "--option", "n_masks=12", "--smooth", "2", "--both", "--output", "out",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "left out: probe.png: the probe's own file" in result.output
    assert "left out: broken.jpg: could not be read" in result.output
    assert "2 images searched, 2 left out" in result.output
    assert "Best match of 2: " in result.output
    assert {path.name for path in (folder / "out").iterdir()} == {
        "corrrise.png", "corrrise.npz", "corrrise.json", "ranking.csv",
    }  # fmt: skip
    summary = json.loads((folder / "out" / "corrrise.json").read_text(encoding="utf-8"))
    assert summary["protocol"]["model"] == "own_models:build_pair"
    assert summary["protocol"]["options"]["n_masks"] == 12
    assert len(summary["matches"]) == 1
    assert summary["left_out"].keys() == {"probe.png", "broken.jpg"}


def test_identify_says_what_does_not_fit(folder, gallery):
    Image.new("RGB", (100, 100)).save(gallery / "small.png")
    arguments = ("identify", "a.png", "people", "--model", "own_models:build")
    result = run(*arguments)
    assert result.exit_code != 0
    assert "expected gallery images of 112x112 pixels" in result.output
    assert "small.png (100x100)" in result.output
    for extra, message in (
        (("--method", "corise"), "did you mean 'corrrise'"),
        (("--option", "n_mask=3"), "did you mean 'n_masks'"),
        (("--top-k", "0"), "top-k"),
        (("--output", "people/out"), "expected an output folder outside the gallery"),
    ):
        result = run(*arguments, *extra)
        assert result.exit_code != 0
        assert message in result.output


@pytest.mark.real
def test_explain_real_pair(shared, folder):
    crops = shared / "data" / "lfw_crops"
    result = run(
        "explain", crops / "010_1.png", crops / "010_2.png", "--model", "mobilefacenet",
        "--weights", shared / "models" / "mobilefacenet.pt", "--threshold", "0.15", "--output", "out",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    summary = json.loads((folder / "out" / "fggb.json").read_text(encoding="utf-8"))
    assert summary["decision"] == "same person"


def test_figure_endings_are_checked_first(folder):
    result = run("demo", "--output", "demo.xyz")
    assert result.exit_code != 0
    assert "unknown ending of a figure" in result.output
