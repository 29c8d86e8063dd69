"""Directives that print what the package says about itself, so that the documentation cannot drift from it.

``{method-table}``, ``{method-facts} NAME``, ``{method-options} NAME``, ``{method-figure} NAME``,
``{preset-table}``, ``{score-table}``, ``{model-table}``, ``{region-table}``, ``{room-table}``,
``{metric-table}``,
``{results-table} FILE [METRIC]...``, ``{speed-table} FILE SECTION``, ``{cli-help} [COMMAND]``; and checks
that fail the build: every registered method has a page that follows the template and shows a map, every
command stands in ``cli.md``, every public name in ``api.md``.
"""

from __future__ import annotations

import csv
import json
import re
import sys
from pathlib import Path
from typing import Any

from click.testing import CliRunner
from docutils import nodes
from rooms import read_rooms
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

import captum_face
from captum_face.attr import METHODS, PairAttribution, get_method
from captum_face.attr.spec import option_meanings
from captum_face.benchmark import METRICS
from captum_face.cli import COMMANDS
from captum_face.cli import main as command_line
from captum_face.maps.regions import face_regions
from captum_face.models import MODELS
from captum_face.pair.preprocessing import PRESETS
from captum_face.pair.scores import SCORES

logger = logging.getLogger(__name__)

#: The headings of every method's page, in this order.
TEMPLATE = (
    "What it shows",
    "Definition",
    "Options",
    "Cost",
    "How to read the map",
    "When not to trust it",
    "Example",
)
#: Packages that nobody imports from: the commands are on a page of their own.
NOT_IN_API = {"captum_face.cli"}


class Table(SphinxDirective):
    """A Markdown table of what :meth:`rows` gives; the first row is the head."""

    def rows(self) -> list[list[str]]:
        raise NotImplementedError

    def run(self) -> list[nodes.Node]:
        head, *body = self.rows()
        lines = [head, ["---"] * len(head), *body]
        text = "\n".join("| " + " | ".join(cell.replace("|", r"\|") for cell in row) + " |" for row in lines)
        return self.parse_text_to_nodes(text)


class MethodTable(Table):
    def rows(self) -> list[list[str]]:
        head = ["name", "class", "family", "model", "without a seed", "passes for a pair", "source"]
        return [head, *(self.row(method) for method in METHODS.values())]

    def row(self, method: type[PairAttribution]) -> list[str]:
        return [
            f"[`{method.name}`](/methods/{method.name}.md)",
            class_role(method),
            method.family,
            method.needs,
            repeats(method),
            method.passes,
            source(method),
        ]


class MethodFacts(Table):
    required_arguments = 1

    def rows(self) -> list[list[str]]:
        method = get_method(self.arguments[0])
        return [
            [f"`{method.name}`", class_role(method)],
            ["family", method.family],
            ["needs", method.needs],
            ["without a seed", repeats(method)],
            ["passes for a pair", method.passes],
            ["source", source(method)],
        ]


class MethodOptions(Table):
    required_arguments = 1

    def rows(self) -> list[list[str]]:
        cls = get_method(self.arguments[0])
        meaning = {name: as_markdown(text) for name, text in option_meanings(cls).items()}
        options = cls.options()
        undocumented = options.keys() - meaning.keys()
        if undocumented:
            raise ExtensionError(f"{cls.__name__}.attribute does not document {sorted(undocumented)}")
        return [
            ["option", "default", "meaning"],
            *([f"`{name}`", f"`{p.default!r}`", meaning[name]] for name, p in options.items()),
        ]


class MethodFigure(SphinxDirective):
    """What the method draws of the pair with known changes."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        method = get_method(self.arguments[0])
        pair = "A synthetic pair; brows, eyes and mouth of image B come from another face."
        return self.parse_text_to_nodes(
            f"""```{{eval-rst}}
.. plot::
   :alt: A synthetic pair whose brows, eyes and mouth differ, explained by {method.name}
   :caption: {pair}

   from common import explained, show

   show(explained({method.name!r}).plot())
```"""
        )


class PresetTable(Table):
    def rows(self) -> list[list[str]]:
        presets = ((name, build()) for name, build in PRESETS.items())
        return [
            ["`preprocess=`", "channels", "mean", "standard deviation"],
            *(
                [f"`{name}`", "BGR" if preset.bgr else "RGB", number(preset.mean), number(preset.std)]
                for name, preset in presets
            ),
        ]


class ScoreTable(Table):
    def rows(self) -> list[list[str]]:
        return [
            ["`score=`", "class", "lowest", "highest"],
            *(
                [
                    f"`{name}`",
                    f"{{py:class}}`~captum_face.pair.scores.{score.__name__}`",
                    *map(limit, score.limits),
                ]
                for name, score in SCORES.items()
            ),
        ]


class ModelTable(Table):
    def rows(self) -> list[list[str]]:
        return [
            ["`--model`", "what it is", "input", "`preprocess`", "weights"],
            *(
                [
                    f"`{name}`",
                    entry.description,
                    "x".join(map(str, entry.input_size)),
                    f"`{entry.preprocess}`",
                    (f"extra `{entry.extra}`" if entry.extra else "bundled")
                    if entry.ships_weights
                    else "yours",
                ]
                for name, entry in MODELS.items()
            ),
        ]


class RegionTable(Table):
    def rows(self) -> list[list[str]]:
        areas = ((name, float(mask.double().mean())) for name, mask in face_regions().items())
        return [["region", "share of the area"], *([f"`{name}`", f"{area:.1%}"] for name, area in areas)]


class RoomTable(Table):
    def rows(self) -> list[list[str]]:
        return [["room", "holds"], *([f"`{name}`", holds] for name, holds in reversed(read_rooms().items()))]


class MetricTable(Table):
    def rows(self) -> list[list[str]]:
        return [
            ["metric", "`--protocol`", "asks", "value", "better", "meant for", "how"],
            *(
                [
                    f"`{metric.name}`",
                    metric.protocol or "",
                    metric.asks,
                    metric.statistic,
                    metric.better,
                    metric.subset,
                    ", ".join(f"{key} {value}" for key, value in metric.definition().items()),
                ]
                for metric in METRICS.values()
            ),
        ]


class ResultsTable(Table):
    """The main table of a benchmark's ``metrics.csv``: methods by the metrics that are named, all if none."""

    required_arguments = 1
    optional_arguments = 30

    def rows(self) -> list[list[str]]:
        _, path = self.env.relfn2path(self.arguments[0])
        self.env.note_dependency(path)
        with open(path, newline="", encoding="utf-8") as file:
            rows = [row for row in csv.DictReader(file) if row["subset"] == row["meant_for"]]
        metrics = self.arguments[1:] or list(dict.fromkeys(row["metric"] for row in rows))
        chosen = {(row["method"], row["metric"]): row for row in rows}
        head, columns = ["method"], []
        for metric in metrics:
            column = [row for row in rows if row["metric"] == metric]
            if not column:
                raise ExtensionError(f"{path} has no metric {metric!r}")
            # Who fails on the hard pairs has an easier mean: the best is one of those that have all.
            most = max(int(row["n_pairs"]) for row in column)
            pick = max if column[0]["better"] == "higher" else min
            best = pick(float(row["mean"]) for row in column if int(row["n_pairs"]) == most)
            columns.append((metric, most, best))
            arrow = "↑" if column[0]["better"] == "higher" else "↓"
            head.append(f"`{metric}` {arrow} ({column[0]['subset']}, {most})")
        return [
            head,
            *(
                [
                    f"`{method}`",
                    *(result(chosen.get((method, metric)), most, best) for metric, most, best in columns),
                ]
                for method in dict.fromkeys(row["method"] for row in rows)
            ),
        ]


def result(row: dict[str, str] | None, most: int, best: float) -> str:
    """Mean and half the width of the interval; bold if best, with a mark if it beats both null baselines."""
    if row is None or not row["mean"]:
        return "" if row is None else "failed"
    mean, half = float(row["mean"]), (float(row["interval_high"]) - float(row["interval_low"])) / 2
    complete = int(row["n_pairs"]) == most
    text = f"**{mean:.3f}**" if complete and mean == best else f"{mean:.3f}"
    text = f"{text} ± {half:.3f}{' ✓' if row['beats_null'] == 'yes' else ''}"
    return text if complete else f"{text} (of {row['n_pairs']})"


class SpeedTable(Table):
    """A section of what ``docs/studies/speed.py --json`` wrote, and where that was measured."""

    required_arguments = 2

    def rows(self) -> list[list[str]]:
        section = self.section()
        models = list(dict.fromkeys(model for row in section["rows"].values() for model in row["values"]))
        head = [section["title"], *models]
        aims = any(row["aim"] for row in section["rows"].values())
        return [
            [*head, "aim"] if aims else head,
            *(
                [
                    what,
                    *(measured(row["values"].get(model), row["unit"]) for model in models),
                    *([row["aim"]] if aims else []),
                ]
                for what, row in section["rows"].items()
            ),
        ]

    def section(self) -> dict[str, Any]:
        _, path = self.env.relfn2path(self.arguments[0])
        self.env.note_dependency(path)
        known: dict[str, dict[str, Any]] = json.loads(Path(path).read_text("utf-8"))
        return known.get(self.arguments[1], {})

    def run(self) -> list[nodes.Node]:
        section = self.section()
        if not section:
            command = f"python docs/studies/speed.py --only {self.arguments[1]}"
            return self.parse_text_to_nodes(f"*Not measured yet: `{command}`.*")
        facts = ", ".join(f"{key} {value}" for key, value in section["machine"].items())
        return [*super().run(), *self.parse_text_to_nodes(f"*{facts}*")]


def measured(value: dict[str, float] | None, unit: str) -> str:
    """The median, and the lowest and highest where there are several."""
    if value is None:
        return ""
    text = f"{value['median']:.3g}" if unit else f"{value['median']:.5g}"
    if value["n"] > 1:
        text += f" ({value['low']:.3g} to {value['high']:.3g})" if unit else f" (from {value['low']:.5g})"
    return f"{text} {unit}" if unit not in ("", "x") else text


class CommandHelp(SphinxDirective):
    """What ``captum-face [COMMAND] --help`` prints."""

    optional_arguments = 1

    def run(self) -> list[nodes.Node]:
        words = [*self.arguments, "--help"]
        answer = CliRunner().invoke(command_line, words, prog_name="captum-face", terminal_width=90)
        if answer.exit_code:
            raise ExtensionError(f"captum-face {' '.join(words)} failed: {answer.output}")
        text = f"$ captum-face {' '.join(words)}\n{answer.output}"
        return [nodes.literal_block(text, text, language="text")]


def class_role(method: type[PairAttribution]) -> str:
    return f"{{py:class}}`~captum_face.{method.__name__}`"


def repeats(method: type[PairAttribution]) -> str:
    return "deterministic" if method.deterministic() else "random"


def source(method: type[PairAttribution]) -> str:
    return re.sub(r"arXiv (\d{4}\.\d{4,5})", r"[arXiv \1](https://arxiv.org/abs/\1)", method.source)


def number(value: float | tuple[float, ...]) -> str:
    return ", ".join(f"{v:g}" for v in value) if isinstance(value, tuple) else f"{value:g}"


def limit(value: float) -> str:
    return "none" if value in (float("inf"), -float("inf")) else f"{value:g}"


def as_markdown(text: str) -> str:
    """Roles of reStructuredText in the way of Markdown."""
    return re.sub(r":([\w:]+):`", r"{\1}`", text)


def plain_returns(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Makes what a function returns one text: types come from the annotations, so a colon ends no type."""
    for section, field in (("Returns:", ":returns:"), ("Yields:", ":Yields:")):
        if section in lines[:-1]:
            start = lines.index(section)
            lines[start : start + 2] = [f"{field} {lines[start + 1].strip()}"]


def check_pages(app: Sphinx) -> None:
    """Fails where a method or a command has no place in the documentation."""
    folder = Path(app.srcdir) / "methods"
    pages = {path.stem for path in folder.glob("*.md")} - {"index"}
    if pages != METHODS.keys():
        raise ExtensionError(
            f"expected a page in docs/methods for exactly the registered methods: missing "
            f"{sorted(METHODS.keys() - pages)}, of no method {sorted(pages - METHODS.keys())}"
        )
    for name in METHODS:
        text = (folder / f"{name}.md").read_text("utf-8")
        headings = tuple(re.findall(r"^## (.+)$", text, re.MULTILINE))
        if headings != TEMPLATE:
            raise ExtensionError(f"expected the headings {TEMPLATE} in methods/{name}.md, got {headings}")
        if not re.search(r"^\.\. plot::|^```\{method-figure\} " + name, text, re.MULTILINE):
            raise ExtensionError(f"expected a figure in methods/{name}.md, such as {{method-figure}} {name}")
    text = (Path(app.srcdir) / "cli.md").read_text("utf-8")
    shown = set(re.findall(r"^```\{cli-help\} ([\w-]+)$", text, re.MULTILINE))
    if shown != COMMANDS.keys():
        raise ExtensionError(f"expected cli.md to show {sorted(COMMANDS)}, got {sorted(shown)}")


def check_names(app: Sphinx, env: Any) -> None:
    """Warns, which is an error under -W, about public names that the API reference lacks.

    It looks at the modules that are loaded by now: those that the public names of ``captum_face`` need, and
    those that the reference names.
    """
    for name in captum_face.__all__:
        getattr(captum_face, name)
    documented = env.get_domain("py").objects
    for module, loaded in sorted(sys.modules.items()):
        parts = module.split(".")
        if (
            parts[0] != "captum_face"
            or ".".join(parts[:2]) in NOT_IN_API
            or any(part[0] == "_" for part in parts)
        ):
            continue
        for name in set(getattr(loaded, "__all__", ())) - {"__version__"}:
            if not any(f"{home}.{name}" in documented for home in homes(module)):
                logger.warning("api.md lacks %s.%s", module, name)


def homes(module: str) -> list[str]:
    """The module and the packages above it: a name may be documented at any of them."""
    parts = module.split(".")
    return [".".join(parts[:end]) for end in range(1, len(parts) + 1)]


def substitutions(app: Sphinx, config: Any) -> None:
    """What the bundled weights say about themselves."""
    from captum_face.models.synthetic_net import synthetic_metadata

    facts = synthetic_metadata()
    config.myst_substitutions = {
        **config.myst_substitutions,
        "synthetic_eer": f"{100 * facts['eer']:.2f} %",
        "synthetic_threshold": f"{facts['threshold']:.3f}",
    }


def setup(app: Sphinx) -> dict[str, Any]:
    for name, directive in (
        ("method-table", MethodTable),
        ("method-facts", MethodFacts),
        ("method-options", MethodOptions),
        ("method-figure", MethodFigure),
        ("preset-table", PresetTable),
        ("score-table", ScoreTable),
        ("model-table", ModelTable),
        ("region-table", RegionTable),
        ("room-table", RoomTable),
        ("metric-table", MetricTable),
        ("results-table", ResultsTable),
        ("speed-table", SpeedTable),
        ("cli-help", CommandHelp),
    ):
        app.add_directive(name, directive)
    app.connect("config-inited", substitutions)
    app.connect("autodoc-process-docstring", plain_returns, priority=400)  # before napoleon
    app.connect("builder-inited", check_pages)
    app.connect("env-check-consistency", check_names)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
