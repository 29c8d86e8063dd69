"""Methods x metrics x pairs: resumable, sharded over processes, one table at the end."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from captum_face._batching import default_batch_size
from captum_face._validation import require_choice, require_threshold
from captum_face.benchmark._distribution import gathered, process
from captum_face.benchmark._records import Recorder, check_config, read_records, write_atomically
from captum_face.benchmark._report import render_report
from captum_face.benchmark._specs import MethodSpec, parse_methods
from captum_face.benchmark._strangers import People, choose_stranger
from captum_face.benchmark._tables import Row, curve_rows, flat, metric_rows, subsets, to_csv
from captum_face.benchmark.measures import PROTOCOLS, Case, Maps, Metric, Scene, get_metric
from captum_face.data.pairs import FacePairs
from captum_face.explanation import versions
from captum_face.metrics.verification import eer
from captum_face.pair import PairSimilarity
from captum_face.postprocessing import pixel_map

__all__ = ["BenchmarkResult", "benchmark"]


@dataclass(frozen=True, eq=False)
class BenchmarkResult:
    """What a run found; made by :func:`benchmark`."""

    folder: Path  #: where the tables and the report are
    rows: list[Row]  #: one for each method, metric and subset
    curves: list[dict[str, Any]]  #: the rows of ``curves.csv``
    config: dict[str, Any]  #: everything that defines the run
    failures: list[str]  #: what failed, one line for each pair and method

    def text(self) -> str:
        """The main table as plain text: means on the pairs each metric is meant for.

        ``+`` marks what beats both null baselines beyond the interval of the paired difference.
        """
        own = [row for row in self.rows if row.subset == row.metric.subset]
        metrics = list(dict.fromkeys(row.metric.name for row in own))
        cells = {
            (row.method, row.metric.name): f"{row.mean:.3f}{'+' if row.beats_null else ' '}" for row in own
        }
        methods = list(dict.fromkeys(row.method for row in own))
        width = max(map(len, ["method", *methods]))
        lines = [f"{'method':{width}}  " + "  ".join(f"{name:>9}" for name in metrics)]
        for method in methods:
            columns = (f"{cells.get((method, name), ''):>{max(9, len(name))}}" for name in metrics)
            lines.append(f"{method:{width}}  " + "  ".join(columns))
        return "\n".join(line.rstrip() for line in lines)

    def value(self, method: str, metric: str, subset: str | None = None) -> float:
        """The mean of one method by one metric, on the subset it is meant for unless told otherwise.

        Raises:
            ValueError: no such row.
        """
        subset = subset or get_metric(metric).subset
        for row in self.rows:
            if (row.method, row.metric.name, row.subset) == (method, metric, subset):
                return row.mean
        raise ValueError(f"expected a row of {method!r}, {metric!r} and {subset!r} in the table, found none")


@dataclass(frozen=True)
class _Plan:
    """What all processes of a run agree on before the first explanation."""

    pair: PairSimilarity
    pairs: FacePairs
    specs: list[MethodSpec]
    metrics: list[Metric]
    threshold: float
    seed: int
    scores: list[float | None]  #: of the pairs; None where an image cannot be read
    accepted: list[bool]
    strangers: list[str | None]
    problems: dict[int, str]  #: why a pair cannot be explained at all
    examples: list[int]  #: pairs whose maps the report shows


def benchmark(
    pair: PairSimilarity,
    pairs: FacePairs,
    output: str | Path,
    *,
    methods: Sequence[str] = ("all",),
    metrics: Sequence[str] = (),
    protocol: str | Sequence[str] = "swap",
    threshold: float | None = None,
    seed: int = 0,
    examples: int = 4,
    model_name: str | None = None,
    show_progress: bool = False,
) -> BenchmarkResult:
    """Measures methods on pairs, and whether they beat maps that explain nothing.

    Every method explains every pair, and every metric judges it. Killed at any moment, the same call goes on
    where it was and ends with the same tables; what has failed is tried again. Under ``torchrun`` (with
    ``torch.distributed`` initialised) the pairs are split over the processes, and the first one writes the
    tables.

    Args:
        pair: The model. While the run lasts its threshold is the run's.
        pairs: The pairs, such as :func:`captum_face.data.read_pairs` gives.
        output: Folder for ``config.json``, ``pairs.csv``, ``metrics.csv``, ``curves.csv``, ``report.html``
            and the records of the run.
        methods: ``"NAME"``, ``"NAME:KEY=VALUE,..."`` with options of the method and ``smooth`` (pixels), or
            ``"all"``. ``random`` and ``center`` are always in.
        metrics: Names of :data:`~captum_face.benchmark.METRICS`; none for those of the protocol.
        protocol: ``"swap"``; ``"published"`` for the papers' black deletion and insertion; ``"sanity"`` for
            checks of the methods themselves; or several of these.
        threshold: The verification threshold in units of the score. None for the threshold of the pairs' own
            equal error rate.
        seed: Of everything random. Each pair has seeds of its own, whatever else is in the run.
        examples: How many pairs the report shows with all maps.
        model_name: What the tables call the model; None for its class.
        show_progress: Show a progress bar with the time left.

    Returns:
        A :class:`BenchmarkResult`; in processes other than the first one without rows.

    Cost: for each pair every method's own cost, once more for genuine pairs where a metric pastes patches,
    and for each curve 11 forward passes.

    Raises:
        TypeError, ValueError: unknown names; pairs of one class only without a threshold; nobody who
            could stand in for another person; an output folder of another run. All before the first
            explanation.
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
    named = metrics or [metric for name in protocols for metric in PROTOCOLS[name]]
    chosen = [get_metric(name) for name in dict.fromkeys(named)]
    folder = Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    if threshold is not None:
        threshold = require_threshold(threshold, pair.score.limits)

    plan = _make_plan(pair, pairs, specs, chosen, threshold, seed, examples, show_progress)
    rank, world = process()
    config = _config(plan, model_name, given=threshold is not None)
    check_config(folder / "config.json", config, write=rank == 0)
    gathered(None)

    before = pair.threshold
    pair.threshold = plan.threshold
    try:
        records = _explain_all(plan, folder, rank, world, show_progress and rank == 0)
    finally:
        pair.threshold = before
    if rank != 0:
        return BenchmarkResult(folder, [], [], config, [])
    return _write_tables(plan, folder, config, records)


def _make_plan(
    pair: PairSimilarity,
    pairs: FacePairs,
    specs: list[MethodSpec],
    metrics: list[Metric],
    threshold: float | None,
    seed: int,
    examples: int,
    show_progress: bool,
) -> _Plan:
    embeddings, unreadable = _embed_images(pair, pairs, show_progress)
    known = {name: embedding for group in embeddings.values() for name, embedding in group.items()}
    problems: dict[int, str] = {}
    scores: list[float | None] = []
    for index, names in enumerate(pairs.names):
        try:
            scores.append(_score(pair, names, known, unreadable))
        except ValueError as error:
            problems[index] = str(error)
            scores.append(None)
    readable = {index: score for index, score in enumerate(scores) if score is not None}
    if not readable:
        raise ValueError(f"expected at least one pair that can be scored, got none: {problems[0]}")
    same = pairs.same.tolist()
    if threshold is None:
        try:
            threshold = float(eer(list(readable.values()), [same[i] for i in readable]).threshold)
        except ValueError as error:
            raise ValueError(f"no threshold is given, and the pairs' own cannot be found: {error}") from error
    people = People(names for names, genuine in zip(pairs.names, same, strict=True) if genuine)
    strangers = [
        choose_stranger(
            pair,
            names,
            next(group for group in embeddings.values() if names[0] in group),
            people,
            threshold=threshold,
            seed=_pair_seed(seed, names),
        )
        if index in readable
        else None
        for index, names in enumerate(pairs.names)
    ]
    accepted = [score is not None and score >= threshold for score in scores]
    shown = _choose_examples(list(readable), same, accepted, examples)
    return _Plan(pair, pairs, specs, metrics, threshold, seed, scores, accepted, strangers, problems, shown)


def _embed_images(
    pair: PairSimilarity, pairs: FacePairs, show_progress: bool
) -> tuple[dict[torch.Size, dict[str, Tensor]], dict[str, str]]:
    """Embeddings ``(D,)`` by image size and name, and why images could not be read."""
    embeddings: dict[torch.Size, dict[str, Tensor]] = {}
    unreadable: dict[str, str] = {}
    device = _device(pair)
    size = default_batch_size(device)
    names = pairs.image_names
    with (
        pair.frozen(),
        torch.no_grad(),
        tqdm(total=len(names), desc="embedding", disable=not show_progress) as bar,
    ):
        for start in range(0, len(names), size):
            batches: dict[torch.Size, dict[str, Tensor]] = {}
            for name in names[start : start + size]:
                try:
                    image = pairs.image(name)
                except (OSError, ValueError) as error:
                    unreadable[name] = str(error)
                else:
                    batches.setdefault(image.shape, {})[name] = image
            for shape, batch in batches.items():
                answers = pair.embed(torch.stack(list(batch.values())).to(device))
                embeddings.setdefault(shape, {}).update(zip(batch, answers, strict=True))
            bar.update(len(names[start : start + size]))
    return embeddings, unreadable


def _score(
    pair: PairSimilarity, names: tuple[str, str], embeddings: dict[str, Tensor], unreadable: dict[str, str]
) -> float:
    for name in names:
        if name in unreadable:
            raise ValueError(unreadable[name])
    with torch.no_grad():
        return float(pair.contributions(*(embeddings[name][None] for name in names)).sum(-1))


def _choose_examples(readable: list[int], same: list[bool], accepted: list[bool], n: int) -> list[int]:
    """The first pair of each kind of decision, then the second of each, until there are ``n``."""
    kinds: dict[tuple[bool, bool], list[int]] = {}
    for index in readable:
        kinds.setdefault((same[index], accepted[index]), []).append(index)
    return [kind[i] for i in range(len(readable)) for kind in kinds.values() if i < len(kind)][:n]


def _pair_seed(seed: int, names: tuple[str, str]) -> int:
    """A seed of the pair's own, whatever else is in the run and whoever computes it."""
    digest = hashlib.sha256("\0".join((str(seed), *names)).encode()).digest()
    return int.from_bytes(digest[:4], "big")


def _device(pair: PairSimilarity) -> torch.device:
    return next(pair.parameters(), torch.empty(0)).device


def _config(plan: _Plan, model_name: str | None, *, given: bool) -> dict[str, Any]:
    """Everything that defines the results; what may change between sessions (threads) is not in it."""
    pair = plan.pair
    return {
        "versions": versions(),
        "model": {
            "name": model_name or type(pair.embedding_model).__name__,
            "weights": _digest(pair),
            "score": pair.score.name,
            "preprocess": repr(pair.preprocess),
        },
        "pairs": {
            "source": Path(plan.pairs.source).name,
            "n": len(plan.pairs),
            "n_genuine": int(plan.pairs.same.sum()),
            "fingerprint": plan.pairs.fingerprint(),
        },
        "threshold": {
            "value": plan.threshold,
            "from": "given" if given else "equal error rate of the pairs",
        },
        "seed": plan.seed,
        "device": _device(pair).type,
        "methods": {spec.label: spec.settings() for spec in plan.specs},
        "metrics": {
            metric.name: {
                "statistic": metric.statistic,
                "better": metric.better,
                "meant_for": metric.subset,
                **metric.protocol,
            }
            for metric in plan.metrics
        },
        "examples": plan.examples,
    }


def _digest(pair: PairSimilarity) -> str:
    """SHA-256 of the model's weights; of nothing for a callable that hides them."""
    digest = hashlib.sha256()
    for name, value in pair.state_dict().items():
        digest.update(name.encode())
        if isinstance(value, Tensor):
            digest.update(value.detach().cpu().flatten().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _explain_all(plan: _Plan, folder: Path, rank: int, world: int, show_progress: bool) -> list[Any]:
    """All records of the run: those that are there, and those made now."""
    # Without a shared folder no process sees the others' records; so they are exchanged.
    earlier = {_key(record): record for part in gathered(read_records(folder)) for record in part}
    todo: dict[int, list[MethodSpec]] = {}
    for index in range(len(plan.pairs)):
        for spec in plan.specs:
            if earlier.get((index, spec.label), {"errors": True})["errors"]:
                todo.setdefault(index, []).append(spec)
    mine = list(todo)[rank::world]
    total = sum(len(todo[index]) for index in mine)
    made = []
    with (
        contextlib.closing(Recorder(folder, rank)) as recorder,
        tqdm(total=total, desc="benchmark", disable=not show_progress) as bar,
    ):
        for index in mine:
            for record in _explain_one(plan, index, todo[index]):
                recorder.write(record)
                made.append(record)
                bar.set_postfix_str(record["method"], refresh=False)
                bar.update()
    now = {_key(record): record for part in gathered(made) for record in part}
    return list({**earlier, **now}.values())


def _key(record: dict[str, Any]) -> tuple[int, str]:
    return record["pair"], record["method"]


def _explain_one(plan: _Plan, index: int, specs: list[MethodSpec]) -> Iterator[dict[str, Any]]:
    """What each method does on one pair, by every metric; a failure is a result too."""
    scene = None if index in plan.problems else _scene(plan, index)
    shared: dict[tuple[str, int], tuple[Maps, float]] = {}
    for spec in specs:
        record = {"pair": index, "method": spec.label, "seconds": None, "measured": {}, "errors": {}}
        if scene is None:
            record["errors"] = {metric.name: plan.problems[index] for metric in plan.metrics}
        else:
            _measure(plan, scene, spec, shared, record, keep_maps=index in plan.examples)
        yield record


def _scene(plan: _Plan, index: int) -> Scene:
    face, device = plan.pairs[index], _device(plan.pair)
    truth, stranger = plan.pairs.truth(index), plan.strangers[index]
    assert stranger is not None  # only pairs that cannot be scored have none
    return Scene(
        pair=plan.pair,
        inputs=(face.image_a[None].to(device), face.image_b[None].to(device)),
        same=bool(face.same),
        threshold=plan.threshold,
        stranger=plan.pairs.image(stranger)[None].to(device),
        truth=None if truth is None else (truth[0][None], truth[1][None]),
        seed=_pair_seed(plan.seed, plan.pairs.names[index]),
    )


def _measure(
    plan: _Plan,
    scene: Scene,
    spec: MethodSpec,
    shared: dict[tuple[str, int], tuple[Maps, float]],
    record: dict[str, Any],
    *,
    keep_maps: bool,
) -> None:
    """Fills a record with one method's values on one pair."""

    method = spec.build(plan.pair, scene.seed)

    def explain(inputs: Maps) -> Maps:
        # Rows that differ in their smoothing alone share the maps before it. The images live as long as
        # the scene, so that their identity tells the clean pair from the patched one.
        key = (spec.raw, id(inputs[0]))
        if key not in shared:
            started = time.perf_counter()
            maps = method.raw(inputs)
            shared[key] = (maps, time.perf_counter() - started)
        return method.smoothed(shared[key][0])

    case = Case(scene, explain, method)
    try:
        maps = [pixel_map(attr)[0] for attr in case.maps]
    except Exception as error:  # whatever a model or a method raises must not end the run
        message = f"{type(error).__name__}: {error}"
        record["errors"] = {metric.name: message for metric in plan.metrics}
        return
    record["seconds"] = shared[spec.raw, id(scene.inputs[0])][1]
    for metric in plan.metrics:
        try:
            measured = metric.measure(case)
        except Exception as error:
            record["errors"][metric.name] = f"{type(error).__name__}: {error}"
            continue
        if measured is not None:
            record["measured"][metric.name] = measured._asdict()
    if keep_maps:
        record["maps"] = [_packed(signed) for signed in maps]


def _packed(signed: Tensor) -> dict[str, Any]:
    """A map ``(H, W)`` as JSON can hold it, in units of its largest value."""
    scale = float(signed.abs().max()) or 1.0
    halves = (signed.cpu().double() / scale).numpy().astype(np.float16)
    return {"shape": list(halves.shape), "float16": base64.b64encode(halves.tobytes()).decode()}


def _write_tables(
    plan: _Plan, folder: Path, config: dict[str, Any], records: list[dict[str, Any]]
) -> BenchmarkResult:
    records = sorted(records, key=_key)
    labels, names = [spec.label for spec in plan.specs], [metric.name for metric in plan.metrics]
    same = plan.pairs.same.tolist()
    groups = subsets(same, plan.accepted)
    rows = metric_rows(records, labels, names, groups, plan.seed)
    curves = curve_rows(records, labels, names, groups, same, plan.threshold)
    failures = [
        f"{spec_label} on {' and '.join(plan.pairs.names[index])}: {message}"
        for (index, spec_label), messages in ((_key(r), list(r["errors"].values())) for r in records)
        for message in dict.fromkeys(messages)
    ]
    pair_rows = [
        {
            "image_a": image_a,
            "image_b": image_b,
            "same": int(same[index]),
            "score": float("nan") if (score := plan.scores[index]) is None else score,
            "accepted": int(plan.accepted[index]),
            "stranger": plan.strangers[index] or "",
        }
        for index, (image_a, image_b) in enumerate(plan.pairs.names)
    ]
    result = BenchmarkResult(folder, rows, curves, config, failures)
    write_atomically(folder / "pairs.csv", to_csv(pair_rows))
    write_atomically(folder / "metrics.csv", to_csv([flat(row, plan.threshold, plan.seed) for row in rows]))
    write_atomically(folder / "curves.csv", to_csv(curves))
    write_atomically(folder / "report.html", render_report(result, plan.pairs, records, pair_rows))
    return result
