"""``captum-face methods``."""

from __future__ import annotations

from captum_face import METHODS
from tests.cli.conftest import run


def test_it_lists_the_registry():
    lines = run("methods").stdout.splitlines()
    assert [line.split()[0] for line in lines[1:]] == list(METHODS)


def test_it_lists_plug_ins_and_says_which_are_left_out(plug_in):
    for _ in range(2):  # however often it is asked
        result = run("methods")
        assert result.exit_code == 0, result.output
        assert result.stdout.splitlines()[-1].split()[:2] == ["plain_grey", "test"]
        (line,) = result.stderr.splitlines()
        assert line.startswith("method 'broken' of broken_maps 1.2 is left out: ModuleNotFoundError")
