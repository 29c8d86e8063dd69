from __future__ import annotations

import sys

import pytest


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_prints_memory_of_a_run(run):
    printed = run("scale", "--pairs", 2)
    assert "peak, tables included" in printed
    assert "2 pairs" in printed
