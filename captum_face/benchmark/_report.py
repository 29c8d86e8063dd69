"""The run as one HTML file: tables, curves, example sheets, protocols, failures. It needs no network."""

from __future__ import annotations

import base64
import html
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from captum_face.attr.registry import null_baselines
from captum_face.attr.spec import display_name
from captum_face.benchmark._tables import FEWEST, Row, beside_published
from captum_face.benchmark.metric import Metric
from captum_face.benchmark.result import BenchmarkResult
from captum_face.data.pairs import FacePairs
from captum_face.figures import show_comparison
from captum_face.metrics.verification import best_accuracy, eer
from captum_face.pair.scores import Distance, ScoreValue, distance_of_summary, shown
from captum_face.results._saving import file_name, save_figure
from captum_face.results.explanation import Explanation

__all__ = ["Pictures", "render_report"]

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222 }
body { max-width: 1200px; margin: 2em auto; padding: 0 1em }
table { border-collapse: collapse; margin: .6em 0 1.6em; font-size: 13px }
th, td { padding: .25em .6em; text-align: right; border-bottom: 1px solid #ddd; white-space: nowrap }
th:first-child, td:first-child { text-align: left; position: sticky; left: 0; background: #fff }
thead th { border-bottom: 2px solid #555; vertical-align: bottom }
.wide { overflow-x: auto }
.best { font-weight: 700; background: #e8f1fb }
.null td { color: #777; font-style: italic }
.yes { color: #05703b } .no { color: #a33 } .interval { color: #777; font-size: 11px }
.curves { display: grid; grid-template-columns: 1fr 1fr } .curves p { margin: 0 }
img { max-width: 100% } summary { cursor: pointer; font-weight: 600; margin: .4em 0 }
pre { background: #f6f6f6; padding: 1em; overflow-x: auto; font-size: 12px }
"""


@dataclass(frozen=True)
class Pictures:
    """Pictures of a report, in the page and, if wanted, in files of their own."""

    folder: Path | None = None  #: where the files go; None for none
    format: str | None = None  #: ``"png"``, ``"pdf"`` or ``"svg"``

    def embed(self, figure: Figure, name: str, what: str) -> str:
        """A figure as part of the page; ``name`` is its file's, ``what`` says what it shows."""
        if self.folder is not None and self.format is not None:
            self.folder.mkdir(exist_ok=True)
            save_figure(figure, self.folder / f"{name}.{self.format}")
        buffer = io.BytesIO()
        # The default of 6 takes three times as long and saves 7 % of the size.
        figure.savefig(buffer, format="png", dpi=110, pil_kwargs={"compress_level": 3})
        data = base64.b64encode(buffer.getvalue()).decode()
        return f"<p><img alt='{html.escape(what, quote=True)}' src='data:image/png;base64,{data}'></p>"


def render_report(
    result: BenchmarkResult,
    pairs: FacePairs,
    records: Sequence[Mapping[str, Any]],
    pair_rows: Sequence[Mapping[str, Any]],
    pictures: Pictures,
) -> str:
    """The report of a finished run as the text of an HTML file.

    Args:
        result: Rows, curves, configuration and failures.
        pairs: What was explained; the example sheets show some of it.
        records: What the run wrote, with the maps of the examples.
        pair_rows: The rows of ``pairs.csv``.
        pictures: Where its pictures go besides.
    """
    config, distance = result.config, distance_of_summary(result.config["threshold"])
    name = html.escape(str(config["model"]["name"]))
    # Metrics that apply to none of the pairs have no rows.
    metrics = list({row.metric.name: row.metric for row in result.rows}.values())
    parts = [
        f"<!doctype html><html lang='en'><head><meta charset='utf-8'><title>captum_face: {name}</title>",
        f"<style>{_STYLE}</style></head><body><h1>Which explanations of {name} can be trusted?</h1>",
        _facts(result, pairs, pair_rows),
        "<h2>Every metric on the pairs it is meant for</h2>",
        "<p>Mean over pairs, below it the 95 % bootstrap interval. The best value of a column is marked. "
        "<span class='yes'>✓</span>: better than both null baselines, the interval of the paired difference "
        "beyond 0. These do not look at the images: random is noise, center a Gaussian in the middle, which "
        "argues for the match or against it as the metric asks. <span class='no'>✗</span>: not shown to be "
        f"better than a map that explains nothing. No mark: fewer than {FEWEST} pairs, too few to tell. "
        "↓: lower is better, ↑: higher is better.</p>",
        *_tables(result.rows, metrics, None, _seconds(records)),
        _published(result.rows),
        *_by_subset(result.rows, metrics),
        "<h2>Curves</h2>",
        "<div class='curves'>",
        *(_curve_figure(result.curves, metric, pictures, distance) for metric in metrics),
        "</div>",
        "<h2>Examples</h2>",
        *_examples(config, pairs, records, pair_rows, pictures),
        "<h2>Protocols</h2>",
        _protocols(metrics),
        f"<h2>Failures</h2>{_failures(result.failures)}",
        "<h2>Configuration</h2>",
        f"<pre>{html.escape(json.dumps(config, indent=2))}</pre></body></html>\n",
    ]
    return "\n".join(part for part in parts if part)


def _facts(result: BenchmarkResult, pairs: FacePairs, pair_rows: Sequence[Mapping[str, Any]]) -> str:
    scored = [row for row in pair_rows if not math.isnan(row["score"])]
    scores, same = [row["score"] for row in scored], [row["same"] for row in scored]
    distance = distance_of_summary(result.config["threshold"])
    quantity = "" if distance is None else f"{distance.name}, "
    config, accepted = result.config, [row["accepted"] for row in scored]
    facts = [
        f"{config['pairs']['n']} pairs of {html.escape(config['pairs']['source'])}, "
        f"{config['pairs']['n_genuine']} genuine and "
        f"{config['pairs']['n'] - config['pairs']['n_genuine']} impostor",
        f"threshold {shown(config['threshold']['value'], distance):.4f} ({quantity}"
        f"{config['threshold']['source']}): "
        f"{sum(s and a for s, a in zip(same, accepted, strict=True))} genuine and "
        f"{sum(a and not s for s, a in zip(same, accepted, strict=True))} impostor pairs accepted",
    ]
    if 0 < sum(same) < len(same):
        rate, (accuracy, best) = eer(scores, same), best_accuracy(scores, same)
        facts.append(
            f"equal error rate {rate.rate:.2%} at {shown(rate.threshold, distance):.4f}, best accuracy "
            f"{accuracy:.2%} at {shown(best, distance):.4f}"
        )
    if len(scored) < len(pair_rows):
        facts.append(f"<b>{len(pair_rows) - len(scored)} pairs could not be scored</b>, see the failures")
    if result.unaligned:
        facts.append(
            f"<b>{len(result.unaligned)} of {len(pairs.image_names)} images do not look like aligned "
            "faces</b>; the column <code>unaligned</code> of pairs.csv says which, and all are measured"
        )
    if result.failures:
        facts.append(f"<b>{len(result.failures)} failures</b>, listed below")
    return f"<ul>{''.join(f'<li>{fact}</li>' for fact in facts)}</ul>"


def _seconds(records: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    times: dict[str, list[float]] = {}
    for record in records:
        if record["seconds"] is not None:
            times.setdefault(record["method"], []).append(record["seconds"])
    return {method: float(np.median(values)) for method, values in times.items()}


def _tables(
    rows: Sequence[Row], metrics: Sequence[Metric], subset: str | None, seconds: Mapping[str, float]
) -> Iterable[str]:
    """One table for each question, as all metrics side by side are wider than a page."""
    grouped: dict[str, list[Metric]] = {}
    for metric in metrics:
        if metric.protocol == "published":
            question = "The papers' protocol"
        elif metric.protocol == "sanity":
            question = "Sanity of the method"
        elif metric.order == "dissimilar":
            question = "Dissimilarity: what lowers the score?"
        else:
            question = "Similarity: what does the match rest on?"
        grouped.setdefault(question, []).append(metric)
    for question, group in grouped.items():
        if table := _table(rows, group, subset, seconds):
            yield f"<h3>{question}</h3>{table}"


def _table(
    rows: Iterable[Row], metrics: Sequence[Metric], subset: str | None, seconds: Mapping[str, float]
) -> str:
    """Methods as rows, metrics as columns; ``subset`` None for each metric's own."""
    cells = {
        (row.method, row.metric.name): row for row in rows if row.subset == (subset or row.metric.subset)
    }
    shown = [metric for metric in metrics if any(name == metric.name for _, name in cells)]
    if not shown:
        return ""
    best = {}
    for metric in shown:
        column = [row for (_, name), row in cells.items() if name == metric.name and row.n_pairs]
        # A method that failed on the hard pairs has an easier mean.
        most = max((row.n_pairs for row in column), default=0)
        means = [row.mean for row in column if row.n_pairs == most]
        if means:
            best[metric.name] = max(means) if metric.better == "higher" else min(means)
    arrows = {"higher": "↑", "lower": "↓"}
    head = "".join(
        f"<th title='{html.escape(metric.asks, quote=True)}'>"
        f"{html.escape(metric.name).replace('_', '<br>')} "
        f"{arrows[metric.better]}<br><span class='interval'>{subset or metric.subset}, "
        f"n={max(row.n_pairs for (_, name), row in cells.items() if name == metric.name)}</span></th>"
        for metric in shown
    )
    body = []
    for method in dict.fromkeys(method for method, _ in cells):
        columns = "".join(_cell(cells.get((method, metric.name)), best.get(metric.name)) for metric in shown)
        style = " class='null'" if method in null_baselines() else ""
        time = f"{seconds[method]:.2g}" if method in seconds else ""
        body.append(f"<tr{style}><td>{html.escape(method)}</td>{columns}<td>{time}</td></tr>")
    return (
        f"<div class='wide'><table><thead><tr><th>method</th>{head}<th>seconds<br>an image</th></tr></thead>"
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )


def _cell(row: Row | None, best: float | None) -> str:
    if row is None:
        return "<td></td>"
    if not row.n_pairs:
        return f"<td class='no'>{row.n_failed} failed</td>"
    mark = ""
    if row.method not in null_baselines() and row.decided:
        mark = " <span class='yes'>✓</span>" if row.beats_null else " <span class='no'>✗</span>"
    failed = f"<br><span class='no'>{row.n_failed} failed</span>" if row.n_failed else ""
    style = " class='best'" if row.mean == best else ""
    low, high = row.interval
    shown = "one pair" if math.isnan(low) else f"{low:.3f} … {high:.3f}"
    return f"<td{style}>{row.mean:.3f}{mark}<br><span class='interval'>{shown}</span>{failed}</td>"


def _by_subset(rows: Sequence[Row], metrics: Sequence[Metric]) -> Iterable[str]:
    yield "<h2>By subset</h2>"
    for subset in dict.fromkeys(row.subset for row in rows):
        tables = "".join(_tables(rows, metrics, subset, {}))
        yield f"<details><summary>{subset}</summary>{tables}</details>"


def _published(rows: Sequence[Row]) -> str:
    """The papers' values beside those of the run, in percent."""
    lines = [
        f"<tr><td>{html.escape(label)}</td><td>{value.metric}</td><td>{value.percent:.2f}</td>"
        + "".join(f"<td>{ours.get(subset, '')}</td>" for subset in ("all", "genuine", "impostor"))
        + f"<td>{html.escape(value.source)}</td></tr>"
        for value, label, ours in beside_published(rows)
    ]
    if not lines:
        return ""
    return (
        "<h2>Beside the published values</h2><p>Area under the accuracy curve in percent. The papers used "
        "other networks, and LFW's own pairs; they do not say which pairs the deletion is averaged over, and "
        "values near 24 can only be reached on genuine pairs alone: an impostor pair stays rejected.</p>"
        "<table><thead><tr><th>method</th><th>metric</th><th>published</th><th>here: all</th>"
        "<th>genuine</th><th>impostor</th><th>source</th></tr></thead><tbody>"
        + "".join(lines)
        + "</tbody></table>"
    )


def _curve_figure(
    curves: Sequence[Mapping[str, Any]], metric: Metric, pictures: Pictures, distance: Distance | None
) -> str:
    chosen = [row for row in curves if row["metric"] == metric.name and row["subset"] == metric.subset]
    if not chosen:
        return ""
    figure = Figure(figsize=(8, 4.2), layout="constrained")
    axes = figure.subplots()
    methods = list(dict.fromkeys(row["method"] for row in chosen))
    for place, method in enumerate(methods):
        points = [row for row in chosen if row["method"] == method]
        null = method in null_baselines()
        axes.plot(
            [row["fraction"] for row in points],
            [row[metric.curve] for row in points],
            label=display_name(method),
            color="black" if null else f"C{place % 10}",
            linestyle={"random": ":", "center": "--"}.get(method, ["-", "-.", (0, (5, 1))][place // 10 % 3]),
            linewidth=1.8 if null else 1.3,
        )
    # A mean of scores is no score of a mean distance, so the axis stays in units of the score.
    unit = f" ({distance.unit})" if distance is not None and metric.curve == "score" else ""
    done = "inserted" if metric.mode == "insertion" else "replaced"
    axes.set(xlabel=f"share of the pixels {done}", ylabel=f"mean {metric.curve}{unit}", xlim=(0, 1))
    axes.set_title(f"{metric.name} ({metric.subset} pairs; {metric.better} is better)", fontsize=10)
    axes.legend(fontsize=7, bbox_to_anchor=(1.01, 1), loc="upper left")
    return pictures.embed(figure, f"curves-{file_name(metric.name)}", f"curves of {metric.name}")


def _examples(
    config: Mapping[str, Any],
    pairs: FacePairs,
    records: Sequence[Mapping[str, Any]],
    pair_rows: Sequence[Mapping[str, Any]],
    pictures: Pictures,
) -> Iterable[str]:
    distance, order = distance_of_summary(config["threshold"]), list(config["methods"])
    threshold = ScoreValue(config["threshold"]["value"], distance=distance)
    for index in config["examples"]:
        mapped = [record for record in records if record["pair"] == index and "maps" in record]
        if not mapped:
            continue
        mapped.sort(key=lambda record: order.index(record["method"]))
        face, truth = pairs[index], pairs.truth(index)
        explanations = [
            Explanation(
                method=record["method"],
                score=pair_rows[index]["score"],
                threshold=threshold,
                images=(face.image_a[None], face.image_b[None]),
                attributions=(_unpacked(record["maps"][0]), _unpacked(record["maps"][1])),
                settings={},
                names=pairs.names[index],
            )
            for record in mapped
        ]
        kind = "genuine" if face.same else "impostor"
        title = f"{' and '.join(pairs.names[index])}: {kind}"
        figure = show_comparison(explanations, masks=truth)
        sheet = pictures.embed(figure, f"example-{explanations[0].pair_label}", f"maps of {title}")
        yield f"<details open><summary>{html.escape(title)}</summary>{sheet}</details>"


def _unpacked(packed: Mapping[str, Any]) -> Tensor:
    values = np.frombuffer(base64.b64decode(packed["float16"]), dtype=np.float16)
    return torch.from_numpy(values.astype(np.float32)).reshape(1, *packed["shape"])


def _protocols(metrics: Sequence[Metric]) -> str:
    lines = [
        f"<tr><td>{html.escape(metric.name)}</td>"
        f"<td style='text-align:left;white-space:normal'>{html.escape(metric.asks)}</td>"
        f"<td>{html.escape(metric.statistic)}</td><td>{metric.better}</td><td>{metric.subset}</td>"
        f"<td>{html.escape(', '.join(f'{key}={value}' for key, value in definition.items()))}</td></tr>"
        for metric in metrics
        for definition in (metric.definition(),)
    ]
    return (
        "<div class='wide'><table><thead><tr><th>metric</th><th>asks</th><th>value</th><th>better</th>"
        f"<th>meant for</th><th>protocol</th></tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
    )


def _failures(failures: Sequence[str]) -> str:
    if not failures:
        return "<p>None: every method explained every pair.</p>"
    return f"<ul>{''.join(f'<li>{html.escape(line)}</li>' for line in failures)}</ul>"
