"""What all commands share: help that loads nothing, errors and warnings of one line."""

from __future__ import annotations

import warnings

import click
import pytest

import captum_face
from captum_face.cli import COMMANDS, main
from tests.cli.conftest import run


def test_help_lists_every_command_with_its_first_line():
    result = run("--help")
    assert result.exit_code == 0
    with click.Context(main) as context:
        assert main.list_commands(context) == sorted(COMMANDS)
        for name, text in COMMANDS.items():
            command = main.get_command(context, name)
            assert isinstance(command, click.Command)
            assert command.name == name
            assert f"{name} " in result.output
            assert text in " ".join(result.output.split())
            assert run(name, "--help").exit_code == 0


def test_version():
    assert run("--version").output.split() == ["main,", "version", captum_face.__version__]


def test_the_nearest_command_is_named():
    result = run("explian")
    assert result.exit_code == 2
    assert "No such command 'explian'" in result.output


def test_debug_shows_where_an_error_came_from(folder):
    result = run("--debug", "explain", "a.png", "none.png", "--model", "own_models:build")
    assert isinstance(result.exception, FileNotFoundError)


@pytest.mark.filterwarnings("default::UserWarning", "default::FutureWarning")
def test_a_warning_is_one_line(monkeypatch):
    @click.command()
    def warns():
        warnings.warn("two\n  lines", UserWarning, stacklevel=1)
        warnings.warn("of Python", FutureWarning, stacklevel=1)

    monkeypatch.setattr("captum_face.cli.methods.methods", warns)
    shown = warnings.showwarning
    with pytest.warns(FutureWarning, match="of Python"):  # as Python shows it
        result = run("methods")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "Warning: two lines\n")
    assert warnings.showwarning is shown
