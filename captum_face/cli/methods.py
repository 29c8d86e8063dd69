"""``captum-face methods``."""

from __future__ import annotations

import warnings

import click

from captum_face.attr import METHODS

__all__ = ["methods"]


@click.command()
def methods() -> None:
    """List the methods that --method knows.

    Methods of installed plug-ins come last. A plug-in that cannot be used is left out, with a line on
    standard error that says why.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the problems are printed below, however often asked
        listed = list(METHODS.values())
    head = ("name", "family", "needs", "without a seed", "passes for a pair", "source")
    rows = [
        (
            method.name,
            method.family,
            method.needs,
            "deterministic" if method.deterministic() else "random",
            method.passes,
            method.source,
        )
        for method in listed
    ]
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    for row in (head, *rows):
        click.echo("  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())
    for problem in METHODS.problems:
        click.echo(problem, err=True)
