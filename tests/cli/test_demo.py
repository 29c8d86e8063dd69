"""``captum-face demo``."""

from __future__ import annotations

from tests.cli.conftest import run


def test_it_prints_shares_and_writes_the_figure(folder):
    (folder / ".captum_face").write_text("mine")
    result = run("demo", "--output", "figures/demo.png", "--format", "svg")
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
    assert [path.name for path in (folder / "figures").iterdir()] == ["demo.svg"]
    assert "Morph gradients" in (folder / "figures" / "demo.svg").read_text(encoding="utf-8")
    assert (folder / ".captum_face").read_text() == "mine"  # no file of the user is touched


def test_parts_are_checked_first(folder):
    result = run("demo", "--changed", "moth")
    assert result.exit_code != 0
    assert "did you mean 'mouth'" in result.output


def test_figure_endings_are_checked_first(folder):
    result = run("demo", "--output", "demo.xyz")
    assert result.exit_code != 0
    assert "unknown ending of a figure" in result.output
