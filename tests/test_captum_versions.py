"""The versions of Captum that the package works with: CI runs the contract on the lowest and the newest."""

from __future__ import annotations

import re
from pathlib import Path

import captum

ROOT = Path(__file__).parents[1]


def numbers(version):
    return tuple(map(int, version.split(".")[:2]))


def test_the_range_is_stated_and_its_lowest_version_is_what_ci_runs():
    text = (ROOT / "pyproject.toml").read_text("utf-8")
    low, high = re.search(r'"captum>=([\d.]+),<([\d.]+)"', text).groups()
    assert numbers(low) <= numbers(captum.__version__) < numbers(high)
    (pinned,) = re.findall(r"captum==([\d.]+)", (ROOT / ".ci" / "run").read_text("utf-8"))
    assert numbers(pinned) == numbers(low)
