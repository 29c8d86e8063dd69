"""Commands of studies that the documentation quotes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    *(page for page in sorted((ROOT / "docs").rglob("*.md")) if "_build" not in page.parts),
    *sorted((ROOT / "docs" / "studies").glob("*.py")),
    *sorted((ROOT / "captum_face").rglob("*.py")),
]
QUOTED = [
    (page.relative_to(ROOT).as_posix(), study, words)
    for page in PAGES
    for study, words in re.findall(r"docs/studies/(\w+\.py)([^`\n]*)", page.read_text("utf-8"))
]


@pytest.mark.parametrize(("page", "study", "words"), QUOTED)
def test_quoted_command_exists(page, study, words):
    path = ROOT / "docs" / "studies" / study
    assert path.is_file(), f"{page} names {path}"
    options = set(re.findall(r"\"(--[\w-]+)\"", path.read_text("utf-8")))
    assert set(re.findall(r"--[\w-]+", words)) <= options, page


def test_no_page_names_the_former_folder():
    for page in PAGES:
        assert "tests/benchmarks" not in page.read_text("utf-8"), page
    assert len(QUOTED) > 10
