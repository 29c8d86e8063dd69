"""``captum-face methods``."""

from __future__ import annotations

import inspect
import json
import re
import warnings

import click

from captum_face.attr import METHODS, PairAttribution
from captum_face.attr.spec import MethodSpec, display_name, option_meanings
from captum_face.cli._options import complete_methods
from captum_face.cli._tables import fitted, table, terminal_width

__all__ = ["methods"]

#: The threshold is an option of commands; a generator has no text, and commands have no use for deltas.
_ELSEWHERE = ("threshold", "generator", "return_convergence_delta")


@click.command()
@click.argument("name", required=False, shell_complete=complete_methods)
def methods(name: str | None) -> None:
    """List the methods that --method knows, or say all about NAME: options, cost, source, an example.

    NAME may also be the dotted name of a class of Captum. Methods of installed plug-ins come last. A plug-in
    that cannot be used is left out, with a line on standard error that says why. On a terminal the list is as
    wide as that; columns that do not fit are left out.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the problems are printed below, however often asked
        listed = list(METHODS.values())
        found = None if name is None else MethodSpec.of(name)
    if found is not None:
        click.echo(_described(found, terminal_width()))
        return
    head = ("name", "family", "needs", "without a seed", "passes for a pair", "source")
    rows = [
        (method.name, method.family, method.needs, _repeats(method), method.passes, method.source)
        for method in listed
    ]
    click.echo(table([head, *rows], terminal_width(), spare=(5, 3, 1)))
    for problem in METHODS.problems:
        click.echo(problem, err=True)


def _repeats(method: type[PairAttribution]) -> str:
    return "deterministic" if method.deterministic() else "random"


def _described(spec: MethodSpec, width: int | None) -> str:
    """All about one method."""
    kind = spec.kind
    meanings = {name: _plain(text) for name, text in option_meanings(kind).items()}
    made_by = vars(kind).get("captum_class", kind)
    constructor = inspect.signature(made_by).parameters
    options = {name: constructor[name].default for name in sorted(kind.arguments()) if name in constructor}
    options |= {
        name: option.default
        for name, option in kind.options().items()
        if option.kind is not option.VAR_KEYWORD and name not in _ELSEWHERE
    }
    meanings["smooth"] = "Standard deviation in pixels of the Gaussian that smooths the maps."
    facts = [
        ("family", kind.family),
        ("needs", kind.needs),
        ("without a seed", _repeats(kind)),
        ("passes for a pair", kind.passes),
        ("source", kind.source),
    ]
    lines = [
        display_name(spec.name),
        fitted(_plain(_first_paragraph(made_by)), width),
        "",
        table([fact for fact in facts if fact[1]], width),
        "",
        "Options, behind the name as KEY=VALUE:",
    ]
    for name, default in {**options, "smooth": 0.0}.items():
        given = "needs a value" if default is inspect.Parameter.empty else _as_text(default)
        lines.append(f"  {name}={given}")
        if name in meanings:
            lines.append(fitted(_first_sentence(meanings[name]), width, 6))
    needed = [name for name, default in options.items() if default is inspect.Parameter.empty]
    shown = [f"{name}=VALUE" for name in needed] or [
        f"{name}={_as_text(default)}" for name, default in options.items() if _simple(default)
    ]
    example = ":" * bool(shown) + ",".join(shown if needed else shown[:1])
    command = f"captum-face explain a.png b.png --model synthetic --method {spec.name}{example}"
    return "\n".join([*lines, "", "Example:", f"  {command}"])


def _simple(value: object) -> bool:
    return isinstance(value, (int, float, str)) and not isinstance(value, bool)


def _as_text(value: object) -> str:
    """A default as the text of a method takes it."""
    return value if isinstance(value, str) else json.dumps(value, default=repr)


def _first_paragraph(kind: type) -> str:
    return (inspect.getdoc(kind) or "").partition("\n\n")[0]


def _first_sentence(text: str) -> str:
    return re.split(r"(?<=[.;])\s", text, maxsplit=1)[0].rstrip(";")


def _plain(text: str) -> str:
    """A docstring's text as a terminal shows it."""
    text = re.sub(
        r":[\w:]+:`~?([^`<]*?)(?:\s*<[^`]*>)?`", lambda found: found[1].rpartition(".")[2] or found[1], text
    )
    text = re.sub(r"\\(\w+)", r"\1", text.replace("``", ""))
    return " ".join(text.split())
