"""The long part of a run: every method on every pair, an image's work done once for all its pairs."""

from __future__ import annotations

import base64
import contextlib
import math
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from captum_face._progress import progress_bar
from captum_face._runs import Recorder
from captum_face.attr.spec import MethodSpec
from captum_face.benchmark._keys import Group, Keys
from captum_face.benchmark._plan import Plan, device_of, own_seed
from captum_face.benchmark._prepared import Prepared
from captum_face.benchmark.metric import Case, Maps, Metric, Scene
from captum_face.pair.embedding import read_ahead

__all__ = ["Job", "explain_all", "jobs"]


class Job(NamedTuple):
    """What is left to be done on a group."""

    group: Group
    todo: dict[int, dict[str, list[Metric]]]  #: metrics by pair and method's label


def jobs(plan: Plan, groups: Sequence[Group], done: set[tuple[int, str, str]]) -> list[Job]:
    """What is left of a run, but for what is ``done``: names of metrics, with pair and method."""
    found = []
    for group in groups:
        todo: dict[int, dict[str, list[Metric]]] = {}
        for index in group.pairs:
            for spec in plan.specs:
                left = [m for m in plan.metrics if (index, spec.label, m.name) not in done]
                if left:
                    todo.setdefault(index, {})[spec.label] = left
        if todo:
            found.append(Job(group, todo))
    return found


def explain_all(plan: Plan, keys: Keys, mine: Sequence[Job], recorder: Recorder, show_progress: bool) -> None:
    """Does this process' part of what is left of a run."""
    total = sum(len(by_method) for job in mine for by_method in job.todo.values())
    with progress_bar(total=total, desc="benchmark", disable=not show_progress) as bar:
        for job, scenes in read_ahead(lambda job: _scenes(plan, job.group), mine):
            for record in _explain_group(plan, keys, job, scenes):
                recorder.write(record)
                bar.set_postfix_str(record["method"], refresh=False)
                bar.update()


def _scenes(plan: Plan, group: Group) -> dict[int, Scene | str]:
    """All pairs of a group, or why there is none."""
    scenes: dict[int, Scene | str] = {}
    faces = [plan.pairs.image(name) for name in plan.cohorts.get(group.probe, ())]
    cohort = torch.stack(faces).to(device_of(plan.pair)) if faces else None
    for index in group.pairs:
        try:
            scenes[index] = plan.problems.get(index) or _scene(plan, index, cohort)
        except (OSError, ValueError) as error:
            scenes[index] = str(error)
    return scenes


def _scene(plan: Plan, index: int, cohort: Tensor | None) -> Scene:
    face, device = plan.pairs[index], device_of(plan.pair)
    truth, member = plan.pairs.truth(index), plan.members[index]
    return Scene(
        pair=plan.pair,
        inputs=(face.image_a[None].to(device), face.image_b[None].to(device)),
        same=bool(face.same),
        threshold=plan.threshold,
        member=None if member is None else plan.pairs.image(member)[None].to(device),
        truth=None if truth is None else (truth[0][None], truth[1][None]),
        seed=own_seed(plan.seed, *plan.pairs.names[index]),
        needs_both=truth is not None or index in plan.examples,
        cohort=cohort,
    )


def _explain_group(
    plan: Plan, keys: Keys, job: Job, scenes: dict[int, Scene | str]
) -> Iterator[dict[str, Any]]:
    """What each method does on each pair, by every metric; a failure is a result too."""
    explainers: dict[str, _Explainer] = {}
    cohort = next((scene.cohort for scene in scenes.values() if isinstance(scene, Scene)), None)
    for spec in plan.specs:
        # Rows that differ in their smoothing alone share the maps before it.
        if spec.raw not in explainers:
            explainers[spec.raw] = _Explainer(
                Prepared(spec, plan.pair, own_seed(plan.seed, job.group.probe), cohort), list(scenes.values())
            )
        for index, by_method in job.todo.items():
            if metrics := by_method.get(spec.label):
                record = _record(plan, index, spec, metrics, scenes[index], explainers[spec.raw])
                tried = {metric.name: keys.metrics[metric.name] for metric in metrics}
                yield {"key": keys.records[index, spec.label], "tried": tried, **record}


class _Explainer:
    """A method's raw maps on the pairs of a group: of the probe for all pairs at once, and each just once.

    Args:
        method: The method; any smoothing is left to the caller.
        scenes: The pairs of the group.
    """

    def __init__(self, method: Prepared, scenes: Sequence[Scene | str]) -> None:
        self._method = method
        self._waiting = [s for s in scenes if isinstance(s, Scene) and not s.needs_both]
        self._both = {id(s.inputs[0]) for s in scenes if isinstance(s, Scene) and s.needs_both}
        # By the identity of the probe's tensor, which tells the pairs and their patched copies apart and
        # lives as long as the scenes.
        self._maps: dict[int, Maps | Exception] = {}
        self.seconds: dict[int, float] = {}  #: for one image, likewise

    def __call__(self, inputs: Maps) -> Maps:
        key = id(inputs[0])
        if any(key == id(scene.inputs[0]) for scene in self._waiting):
            self._explain_waiting()
        if key not in self._maps:
            try:
                self._explain(inputs, [key])
            except Exception as error:  # not again for the next metric
                self._maps[key] = error
        maps = self._maps[key]
        if isinstance(maps, Exception):
            raise maps
        return maps

    def _explain_waiting(self) -> None:
        scenes, self._waiting = self._waiting, []
        if len(scenes) > 1:
            partners = torch.cat([scene.inputs[1] for scene in scenes])
            # If one pair of the group is what fails, each is explained on its own.
            with contextlib.suppress(Exception):
                self._explain((scenes[0].inputs[0], partners), [id(scene.inputs[0]) for scene in scenes])

    def _explain(self, inputs: Maps, keys: list[int]) -> None:
        both = keys[0] in self._both
        started = time.perf_counter()
        attr_a, attr_b = self._method.raw(inputs, both=both)
        seconds = (time.perf_counter() - started) / len(keys) / (1 + both)
        for place, key in enumerate(keys):
            self._maps[key] = (attr_a[place : place + 1], attr_b[place : place + 1])
            self.seconds[key] = seconds


def _record(
    plan: Plan,
    index: int,
    spec: MethodSpec,
    metrics: Sequence[Metric],
    scene: Scene | str,
    explainer: _Explainer,
) -> dict[str, Any]:
    """One method's values on one pair."""
    names = plan.pairs.names[index]
    record: dict[str, Any] = {"pair": list(names), "method": spec.label, "score": plan.scores[index]}
    record["seconds"] = None
    record |= {"measured": {}, "errors": {}}
    if isinstance(scene, str):
        same, known = bool(plan.pairs.same[index]), plan.pairs.truth(index) is not None
        record["errors"] = {metric.name: scene for metric in metrics if metric.applies(same, known)}
        return record
    method = Prepared(spec, plan.pair, own_seed(plan.seed, names[0]), scene.cohort)
    case = Case(scene, lambda inputs: method.smoothed(explainer(inputs)), method)
    # Where evidence against a match is asked for, a null baseline that argues for one would be worse than
    # noise and easy to outperform: a map of the face's place alone would pass for an explanation.
    against = case.negated() if spec.kind.argues == "for" else case
    for metric in metrics:
        try:
            applies = metric.applies(scene.same, scene.truth is not None)
            measured = metric.measure(against if metric.order == "dissimilar" else case) if applies else None
            if measured is not None and not math.isfinite(measured.value):
                raise ValueError(f"expected a finite value of {metric.name}, got {measured.value}")
        except Exception as error:  # whatever a model or a method raises must not end the run
            record["errors"][metric.name] = f"{type(error).__name__}: {error}"
            continue
        if measured is not None:
            record["measured"][metric.name] = measured._asdict()
    record["seconds"] = explainer.seconds.get(id(scene.inputs[0]))
    if index in plan.examples:
        # No metric may have asked for the maps; if there are none, the report shows the other ones.
        with contextlib.suppress(Exception):
            record["maps"] = [_packed(attr[0].mean(0)) for attr in case.maps]
    return record


def _packed(signed: Tensor) -> dict[str, Any]:
    """A map ``(H, W)`` as JSON can hold it, in units of its largest value."""
    scale = float(signed.abs().max()) or 1.0
    values = (signed.cpu().double() / scale).numpy().astype(np.float16)
    return {"shape": list(values.shape), "float16": base64.b64encode(values.tobytes()).decode()}
