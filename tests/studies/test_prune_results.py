from __future__ import annotations

import json
from pathlib import Path

import prune_results

DOCS = Path(__file__).parents[2] / "docs"
HEAD = "method,metric,subset,meant_for,mean\n"
ROWS = "fggb,deletion,genuine,genuine,1\nfggb,deletion,all,genuine,2\nfggb,symmetry,all,all,3\n"


def test_rows_that_no_page_shows_are_removed(run, tmp_path):
    results = tmp_path / "results"
    results.mkdir()
    for name in ("some.csv", "whole.csv", "unnamed.csv"):
        (results / name).write_text(HEAD + ROWS)
    (results / "speed.json").write_text(json.dumps({"fggb": {"rows": {}}, "leak": {}}))
    (results / "shown.txt").write_text("as it is\n")
    (tmp_path / "methods").mkdir()
    (tmp_path / "page.md").write_text(
        "```{results-table} results/some.csv symmetry\n```\n```{results-table} results/whole.csv\n```\n"
        "```{literalinclude} results/shown.txt\n```\n"
    )
    (tmp_path / "methods" / "fggb.md").write_text("```{speed-table} ../results/speed.json fggb\n```\n")
    printed = run("prune_results", "--docs", tmp_path)
    assert (results / "some.csv").read_text() == HEAD + "fggb,symmetry,all,all,3\n"
    assert (results / "whole.csv").read_text() == HEAD + ROWS.replace("fggb,deletion,all,genuine,2\n", "")
    assert (results / "unnamed.csv").read_text() == HEAD + ROWS
    assert json.loads((results / "speed.json").read_text()) == {"fggb": {"rows": {}}}
    assert (results / "shown.txt").read_text() == "as it is\n"
    assert [line.split()[0] for line in printed.splitlines() if line.endswith("named by no page")] == [
        "unnamed.csv"
    ]


def test_the_repository_holds_only_results_that_its_pages_show():
    parts = prune_results.shown(DOCS)
    for path in (DOCS / "results").iterdir():
        assert path.resolve() in parts, f"no page shows {path.name}"
        text = path.read_text("utf-8")
        assert prune_results.pruned(path, text, parts) == text, (
            f"run docs/studies/prune_results.py: {path.name}"
        )
