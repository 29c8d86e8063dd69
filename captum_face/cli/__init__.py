"""The command line. Each command is a module of this package; it is imported when the command is run."""

from __future__ import annotations

import warnings
from importlib import import_module
from typing import Any, TextIO

import click

from captum_face._version import __version__
from captum_face.cli._console import any_console

__all__ = ["COMMANDS", "main"]

#: The commands with their help in one line; each is in the module of its name, ``-`` read as ``_``.
COMMANDS = {
    "demo": "Explain a synthetic pair whose changed parts are known.",
    "explain": "Explain why a model accepts or rejects a pair of images.",
    "align": "Cut the faces out of a folder of photos.",
    "identify": "Search a gallery for a probe, and explain the best matches.",
    "threshold": "Choose a verification threshold by a false match rate.",
    "benchmark": "Measure methods on many pairs.",
    "train-decoder": "Train the decoder that the method reconstruction needs.",
    "methods": "List the methods that --method knows.",
}


class _Commands(click.Group):
    """Imports a command's module when the command is asked for, so that ``--help`` needs none of them."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        name = cmd_name.replace("-", "_")
        command: click.Command = getattr(import_module(f"{__name__}.{name}"), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """As click does, on a console of any encoding."""
        with any_console():
            return super().main(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        """Runs a command: bad input ends with the message that says what to do, a warning is one line."""
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            try:
                return super().invoke(ctx)
            except (click.exceptions.Exit, click.Abort):  # RuntimeErrors by which click ends a command
                raise
            except (ValueError, TypeError, OSError, ImportError, RuntimeError) as error:
                if ctx.params["debug"]:
                    raise
                raise click.ClickException(str(error)) from error


_python_format = warnings.showwarning


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    if issubclass(category, UserWarning):
        click.echo(f"Warning: {' '.join(str(message).split())}", err=True)
    else:
        _python_format(message, category, filename, lineno, file, line)


@click.group(
    cls=_Commands,
    # Names and help alone: click suggests the nearest name, and the documentation lists them.
    commands=[click.Command(name, short_help=text) for name, text in COMMANDS.items()],
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__)
@click.option("--debug", is_flag=True, help="Show the traceback of errors.")
def main(debug: bool) -> None:
    """Which parts of two faces speak for a match, and which against."""
