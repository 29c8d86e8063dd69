"""``captum-face benchmark``: what it answers, and how it ends."""

from __future__ import annotations

import csv
import json

import pytest
from click.testing import CliRunner

from captum_face.cli import main

DRAWN = ("--synthetic", "3", "--model", "synthetic")


def run(*arguments, output):
    return CliRunner().invoke(main, ["benchmark", *map(str, arguments), "--output", str(output)])


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--model", "synthetic"), 2, "expected one of --pairs, --bin and --synthetic, got 0 of them"),
        ((*DRAWN, "--pairs", "pairs.csv"), 2, "got 2 of them"),
        ((*DRAWN, "--images", "."), 2, "expected --images with --pairs alone"),
        ((*DRAWN, "--device", "cuda:99"), 1, "expected a device that is there, got cuda:99"),
        ((*DRAWN, "--threshold", "2"), 1, "a threshold that the score can reach, -1 to 1, got 2"),
        ((*DRAWN, "--metric", "deletion"), 1, "unknown metric 'deletion'"),
        ((*DRAWN, "--method", "fgbb"), 1, "did you mean 'fggb'"),
        ((*DRAWN, "--method", "all", "--method", "fggb:n_mask=3"), 1, "unknown option of fggb 'n_mask'"),
        ((*DRAWN, "--method", "captum.attr.Saliency:abso=1"), 1, "did you mean 'abs'"),
        ((*DRAWN, "--method", "reconstruction:decoder=no.file"), 1, "found nothing at no.file"),
        ((*DRAWN, "--score", "cosin"), 1, "did you mean 'cosine'"),
        (
            (*DRAWN, "--score", "euclidean", "--threshold", "1e200"),
            1,
            "expected a distance as threshold, got 1e+200",
        ),
        ((*DRAWN, "--protocol", "black"), 1, "unknown protocol 'black'"),
        ((*DRAWN, "--limit", "1"), 2, "--limit"),
        (("--synthetic", "0", "--model", "synthetic"), 2, "--synthetic"),
        (("--bin", "none.bin", "--model", "synthetic"), 1, "expected a .bin file of pairs, found nothing at"),
    ],
)
def test_bad_input_ends_with_a_message(tmp_path, arguments, code, message):
    result = run(*arguments, output=tmp_path / "out")
    assert (result.exit_code, "Traceback" in result.output) == (code, False), result.output
    assert message in result.output
    assert not (tmp_path / "out" / "config.json").exists()


def test_a_missing_image_is_named_with_its_pair_and_line(tmp_path):
    (tmp_path / "pairs.csv").write_text("image_a,image_b,same\nann.png,bob.png,0\n")
    result = run("--pairs", tmp_path / "pairs.csv", "--model", "synthetic", output=tmp_path / "out")
    assert result.exit_code == 1
    assert "Error: pair 0 (line 2 of " in result.output
    assert "expected an image, found nothing at" in result.output
    assert not (tmp_path / "out").exists()


def test_a_table_and_where_the_report_is(tmp_path):
    arguments = ("--method", "center", "--metric", "deletion_black", "--threshold", "0.5", "--examples", "0")
    result = run(*DRAWN, "--limit", "5", *arguments, output=tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "method  deletion_black" in result.output
    assert f"Report: {tmp_path / 'out' / 'report.html'}" in result.output


@pytest.mark.filterwarnings("default:method 'broken'")
def test_plug_ins_classes_of_captum_and_scores(tmp_path, plug_in):
    texts = ("plain_grey:level=0.25", "captum.attr.Saliency:smooth=2")
    arguments = ("--metric", "deletion_black", "--examples", "0", "--score", "euclidean")
    methods = [word for text in texts for word in ("--method", text)]
    result = run(*DRAWN, *methods, *arguments, output=tmp_path / "out")
    assert result.exit_code == 0, result.output
    config = json.loads((tmp_path / "out" / "config.json").read_text("utf-8"))
    assert config["model"]["score"] == "euclidean"
    assert list(config["methods"]) == [*texts, "random", "center"]
    with open(tmp_path / "out" / "metrics.csv", newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["method"] in texts]
    assert {row["method"] for row in rows} == set(texts)
    assert all(row["n_failed"] == "0" for row in rows)
