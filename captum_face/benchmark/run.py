"""Methods x metrics x pairs: resumable, sharded over processes, one table at the end."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import closing
from itertools import chain
from pathlib import Path
from typing import Any

from captum_face._files import write_text
from captum_face._runs import Recorder, claimed, require_same, write_config
from captum_face._validation import require_choice, require_generator
from captum_face.attr.spec import AnyMethod, parse_methods
from captum_face.benchmark._distribution import gathered, gathered_by_first, process
from captum_face.benchmark._keys import grouped, make_keys
from captum_face.benchmark._plan import Plan, make_plan, run_config
from captum_face.benchmark._records import finished, merged, read_config, read_records
from captum_face.benchmark._report import Pictures, render_report
from captum_face.benchmark._tables import (
    curve_rows,
    flat,
    metric_rows,
    subsets,
    to_csv,
)
from captum_face.benchmark._work import explain_all, jobs
from captum_face.benchmark.measures import PROTOCOLS, get_metric
from captum_face.benchmark.metric import Metric
from captum_face.benchmark.result import BenchmarkResult
from captum_face.data.pairs import FacePairs
from captum_face.pair.similarity import PairSimilarity
from captum_face.results._saving import FORMATS

__all__ = ["benchmark"]

# Scores of one model differ by less on any processor and in any precision.
_ANOTHER_MODEL = 0.05


def benchmark(
    pair: PairSimilarity,
    pairs: FacePairs,
    output: str | Path,
    *,
    methods: AnyMethod | Sequence[AnyMethod] = "all",
    metrics: str | Metric | Sequence[str | Metric] = (),
    protocol: str | Sequence[str] = "swap",
    threshold: float | None = None,
    seed: int = 0,
    examples: int = 4,
    model_name: str | None = None,
    figures: str | None = None,
    show_progress: bool = False,
) -> BenchmarkResult:
    """Measures methods on pairs, and whether they beat maps that explain nothing.

    Every method explains every pair, and every metric judges it. A folder's values are reused by every later
    call that they are right for: the same call continues an interrupted run, and one with another method,
    metric, example or pair computes what is new. The tables are those of the same call in a new folder. What
    has failed is tried again. Under ``torchrun`` (with ``torch.distributed`` initialised) the pairs are split
    over the processes, and the first one writes the tables.

    Args:
        pair: The model. While the run lasts its threshold is the run's.
        pairs: The pairs, such as :func:`captum_face.data.read_pairs` gives.
        output: Folder for ``config.json``, ``pairs.csv``, ``metrics.csv``, ``curves.csv``, ``report.html``
            and the records of the run.
        methods: ``"NAME"``, ``"NAME:KEY=VALUE,..."`` with options of the method and ``smooth`` (pixels), a
            class, an instance on ``pair``, or ``"all"``; or several of these. ``random`` and ``center`` are
            always in; ``center`` argues against the match where a metric asks for such evidence.
        metrics: Names of :data:`~captum_face.benchmark.METRICS`, installed plug-ins among them, or a
            :class:`Metric` of your own; none for those of the protocol.
        protocol: ``"swap"``; ``"published"`` for the papers' black deletion and insertion; ``"sanity"`` for
            checks of the methods themselves; or several of these.
        threshold: The verification threshold in units of the score. None for the threshold of the pairs' own
            equal error rate, which moves when pairs are added: then nothing in the folder can be reused.
        seed: Of everything random, 0 or more. Each probe has a seed of its own for the methods that draw, and
            each pair one for what metrics draw, whatever else is in the run.
        examples: How many pairs the report shows with all maps.
        model_name: What the tables call the model; None for its class.
        figures: ``"png"``, ``"pdf"`` or ``"svg"`` to write the report's pictures into ``figures`` of the
            folder too; None for the report alone.
        show_progress: Show a progress bar with the time left.

    Returns:
        A :class:`BenchmarkResult`; in processes other than the first one without rows.

    Cost: for each pair every method's cost of image A, once more for genuine pairs where a metric pastes
    patches, and for each curve 11 forward passes. Pairs with the same image A are explained together, so that
    its part of the work is done once. Image B is explained too where a metric needs its map (parts known to
    differ, sanity checks) and for the examples.

    Raises:
        TypeError, ValueError, OSError: unknown names; pairs of one class only without a threshold; nobody
            who could stand in for another person in any pair; an output folder of a run with another model,
            seed, device or version, or in which one is at work, or that cannot be written into. All before
            the first explanation.

    Warns:
        UserWarning: the folder's values are at another threshold, so that all are computed; damaged records,
            which are computed again.
    """
    if not isinstance(pair, PairSimilarity):
        raise TypeError(f"expected pair as a PairSimilarity, got {type(pair).__name__}")
    if not isinstance(pairs, FacePairs) or len(pairs) == 0:
        came = "no pair" if isinstance(pairs, FacePairs) else type(pairs).__name__
        raise ValueError(f"expected pairs as FacePairs with at least one pair, got {came}")
    protocols = [protocol] if isinstance(protocol, str) else list(protocol)
    for name in protocols:
        require_choice(name, PROTOCOLS, "protocol")
    specs = parse_methods(methods)
    chosen = _chosen_metrics(metrics, protocols)
    require_generator(seed, None)
    if figures is not None:
        require_choice(figures, FORMATS, "format of a figure")
    for what, number in (("seed", seed), ("examples", examples)):
        if isinstance(number, bool) or not isinstance(number, int) or number < 0:
            raise ValueError(f"expected {what} as an integer of at least 0, got {number!r}")
    if threshold is not None:
        threshold = pair.score.given(threshold)

    folder = Path(output)
    rank, world = process()
    with claimed(folder, first=rank == 0):
        run = run_config(pair, seed, model_name)
        earlier = read_config(folder / "config.json", run)
        plan = make_plan(
            pair, pairs, specs, chosen, threshold, seed, examples, earlier, show_progress
        ).agreed()
        config = {**run, **plan.config()}
        same = "expected all processes to run the same, got another run than the first one's"
        require_same(gathered(config)[0], config, same)
        if not (folder / "config.json").exists():  # in every folder, where processes share none
            write_config(folder / "config.json", config)

        groups = grouped(plan)
        keys = make_keys(plan, groups, run)
        names = [metric.name for metric in plan.metrics]
        # Without a shared folder no process sees the others' records, so what is done is exchanged.
        known = merged(read_records(folder), keys, names)
        _require_scores(known, plan, folder)
        done = set().union(*gathered(finished(known)))
        left = jobs(plan, groups, done)
        n_reused = len(done)
        if left and rank == 0:
            _warn_of_threshold(earlier, plan.threshold)
        before = pair.threshold
        pair.threshold = plan.threshold
        try:
            with closing(Recorder(folder / f"records-{rank}.jsonl")) as recorder:
                explain_all(plan, keys, left[rank::world], recorder, show_progress and rank == 0)
        finally:
            pair.threshold = before
        of_run = set(keys.records.values())
        found = gathered_by_first([record for record in read_records(folder) if record["key"] in of_run])
        if rank != 0:
            return BenchmarkResult(folder, [], [], config, [], n_reused)
        return _write_tables(plan, folder, config, merged(chain(*found), keys, names), n_reused, figures)


def _require_scores(records: list[dict[str, Any]], plan: Plan, folder: Path) -> None:
    """Tells a model from another one where both hide their weights, as a function does."""
    for record in records:
        was, now = record["score"], plan.scores[record["pair"]]
        if was is not None and now is not None and abs(was - now) > _ANOTHER_MODEL * max(1, abs(now)):
            raise ValueError(
                f"{folder} holds results of another model: {' and '.join(plan.pairs.names[record['pair']])} "
                f"scored {was:.3f} there and score {now:.3f} now; choose another output folder"
            )


def _warn_of_threshold(earlier: dict[str, Any] | None, threshold: float) -> None:
    there = threshold if earlier is None else earlier["threshold"]["value"]
    if there != threshold:
        warnings.warn(
            f"the threshold is {threshold!r}, and that of the results in the folder {there!r}: these are not "
            f"used, and all is computed anew. Give the threshold {there!r} to use them",
            stacklevel=3,
        )


def _chosen_metrics(metrics: str | Metric | Sequence[str | Metric], protocols: Sequence[str]) -> list[Metric]:
    """The metrics that are asked for, or else those of the protocols, each once."""
    named = [metrics] if isinstance(metrics, (str, Metric)) else list(metrics)
    named = named or [metric for name in protocols for metric in PROTOCOLS[name]]
    if not named:
        raise ValueError("expected at least one metric or protocol, got none")
    chosen: dict[str, Metric] = {}
    for entry in named:
        metric = entry if isinstance(entry, Metric) else get_metric(entry)
        if chosen.setdefault(metric.name, metric) is not metric:
            raise ValueError(f"expected metrics of different names, got two of the name {metric.name!r}")
    return list(chosen.values())


def _write_tables(
    plan: Plan,
    folder: Path,
    config: dict[str, Any],
    records: list[dict[str, Any]],
    n_reused: int,
    figures: str | None,
) -> BenchmarkResult:
    labels, names = [spec.label for spec in plan.specs], [metric.name for metric in plan.metrics]
    same, distance = plan.pairs.same.tolist(), plan.pair.score.distance
    groups = subsets(same, plan.accepted)
    rows = metric_rows(records, labels, plan.metrics, groups, plan.seed)
    curves = curve_rows(records, labels, names, groups, same, plan.threshold)
    failures = [
        f"{record['method']} on {' and '.join(plan.pairs.names[record['pair']])}: {message}"
        for record in records
        for message in dict.fromkeys(record["errors"].values())
    ]
    pair_rows = [
        {
            "image_a": image_a,
            "image_b": image_b,
            "same": int(same[index]),
            "score": float("nan") if (score := plan.scores[index]) is None else score,
            **({} if distance is None else {"distance": "" if score is None else distance.of(score)}),
            "accepted": int(plan.accepted[index]),
            "cohort": plan.members[index] or "",
            "unaligned": " ".join(
                side for side, name in zip("ab", (image_a, image_b), strict=True) if name in plan.unaligned
            ),
        }
        for index, (image_a, image_b) in enumerate(plan.pairs.names)
    ]
    result = BenchmarkResult(folder, rows, curves, config, failures, n_reused, plan.unaligned)
    write_config(folder / "config.json", config)
    write_text(folder / "pairs.csv", to_csv(pair_rows))
    write_text(folder / "metrics.csv", to_csv([flat(row, plan.threshold, plan.seed) for row in rows]))
    write_text(folder / "curves.csv", to_csv(curves))
    pictures = Pictures(folder / "figures", figures)
    write_text(folder / "report.html", render_report(result, plan.pairs, records, pair_rows, pictures))
    return result
