"""What results depend on, as digests: a run takes from its folder what was computed under the same ones."""

from __future__ import annotations

import hashlib
import json
from typing import Any, NamedTuple

from captum_face.attr.spec import describe
from captum_face.benchmark._plan import Plan

__all__ = ["Group", "Keys", "grouped", "make_keys"]

# Pairs of one probe that are explained at once: bounds memory where a probe stands against thousands.
_GROUP = 32


class Group(NamedTuple):
    """Pairs with one probe, the unit in which work is shared out and repeated."""

    probe: str
    pairs: list[int]


class Keys(NamedTuple):
    """What results depend on; of equal keys results are equal, to the last bit."""

    records: dict[tuple[int, str], str]  #: all but the metric, by pair and method's label
    metrics: dict[str, str]  #: how a metric is defined


def grouped(plan: Plan) -> list[Group]:
    """The pairs of each probe, in groups that do not depend on the list's order.

    A group also ends after some partners, by their names: so one partner more changes one group and not
    all of a probe that stands against thousands.
    """
    by_probe: dict[str, list[int]] = {}
    for index, (probe, _) in enumerate(plan.pairs.names):
        by_probe.setdefault(probe, []).append(index)
    groups = []
    for probe, indices in by_probe.items():
        open_group: list[int] = []
        for index in sorted(indices, key=lambda index: (plan.pairs.names[index], plan.pairs.same[index])):
            open_group.append(index)
            last_of_group = int(_digest(plan.pairs.names[index][1]), 16) % _GROUP == 0
            if len(open_group) == _GROUP or last_of_group:
                groups.append(Group(probe, open_group))
                open_group = []
        if open_group:
            groups.append(Group(probe, open_group))
    return groups


def make_keys(plan: Plan, groups: list[Group], run: dict[str, Any]) -> Keys:
    """The keys of all results of a run.

    Args:
        plan: The run.
        groups: Its groups: what is explained together may differ in the last bit from what is not.
        run: What else holds for the whole run, such as the model.
    """
    images = {name: plan.pairs.identity(name) for name in plan.pairs.image_names}
    methods = {spec.label: _digest(spec.label, spec.settings()) for spec in plan.specs}
    whole = _digest(run, plan.threshold)
    records = {}
    for group in groups:
        explained_together = [
            (
                *plan.pairs.names[i],
                *map(images.get, plan.pairs.names[i]),
                i in plan.examples,
                i in plan.problems,
            )
            for i in group.pairs
        ]
        cohort = [(name, images[name]) for name in plan.cohorts.get(group.probe, ())]
        shared = _digest(whole, explained_together)
        for place, index in enumerate(group.pairs):
            member = plan.members[index]
            own = _digest(shared, place, bool(plan.pairs.same[index]), member, member and images[member])
            for spec in plan.specs:
                compared = cohort if spec.cohort_option else None
                records[index, spec.label] = _digest(own, methods[spec.label], compared)
    metrics = {
        metric.name: _digest(
            metric.statistic, metric.better, metric.subset, metric.needs, metric.definition()
        )
        for metric in plan.metrics
    }
    return Keys(records, metrics)


def _digest(*parts: object) -> str:
    """Half of a SHA-256, in hexadecimal."""
    text = json.dumps(parts, sort_keys=True, default=describe)
    return hashlib.sha256(text.encode()).hexdigest()[:32]
