"""``captum-face methods``."""

from __future__ import annotations

import io
import os
import re
import shutil
import sys

import pytest

from captum_face import METHODS
from captum_face.attr.spec import MethodSpec, option_meanings
from captum_face.cli._tables import table
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


@pytest.mark.parametrize("name", METHODS)
def test_all_about_one_method(name):
    result = run("methods", name)
    assert result.exit_code == 0, result.output
    kind = METHODS[name]
    for text in (kind.display, kind.source, kind.passes, kind.needs, "smooth=0.0"):
        assert text in result.output
    assert not re.search(r":\w+:`|``", result.output)
    named = dict(line[2:].split("=", 1) for line in result.output.splitlines() if re.match(r"  \w+=", line))
    wanted = {*kind.options(), *kind.arguments()} - {"threshold", "generator"}
    assert named.keys() == wanted | {"smooth"}
    assert wanted <= option_meanings(kind).keys()  # each option is said what it means
    MethodSpec.of(result.output.rpartition("--method ")[2].strip())  # the example is a method


def test_all_about_a_class_of_captum_and_a_plug_in(plug_in):
    output = run("methods", "captum.attr.Occlusion").output
    assert "sliding_window_shapes=needs a value" in output
    assert "--method captum.attr.Occlusion:sliding_window_shapes=VALUE" in output
    assert "layer=needs a value" in run("methods", "captum.attr.LayerGradCam").output
    assert "level=0.5" in run("methods", "plain_grey").output


def test_the_nearest_method_is_named():
    result = run("methods", "corise")
    assert result.exit_code == 1
    assert "did you mean 'corrrise'" in result.output


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("columns", [60, 80, 100, 300])
@pytest.mark.parametrize("arguments", [["methods"], ["methods", "lrp"], ["methods", "fggb"]])
def test_on_a_terminal_nothing_is_wider_than_it(monkeypatch, arguments, columns):
    from captum_face.cli import main

    whole = run(*arguments).output
    with monkeypatch.context() as patched:
        patched.setattr(sys, "stdout", Terminal())
        patched.setattr(shutil, "get_terminal_size", lambda *_: os.terminal_size((columns, 24)))
        with pytest.raises(SystemExit):
            main(arguments)
        shown = sys.stdout.getvalue()
    example = "--method"  # a command is not broken, so that it can be copied
    assert all(len(line) <= columns for line in shown.splitlines() if example not in line)
    if columns == 300:
        assert shown == whole
    if len(arguments) == 1:
        assert {*METHODS} <= {line.split()[0] for line in shown.splitlines() if line[0] != " "}


def test_tables():
    rows = [("name", "what"), ("a", "one two three"), ("bb", "four")]
    assert table(rows, None) == "name  what\na     one two three\nbb    four"
    assert table(rows, 14) == "name  what\na     one two\n      three\nbb    four"
    assert table(rows, 9, spare=(1,)) == "name\na\nbb"
    assert table([("1", "x"), ("10", "y")], None, right=(0,)) == " 1  x\n10  y"
