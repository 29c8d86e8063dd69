"""What a metric of the benchmark is, and what it is handed: one pair as one method explains it."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

from torch import Tensor

from captum_face._validation import require_choice
from captum_face.attr.base import PairAttribution
from captum_face.metrics.patches import Patched, paste_patches
from captum_face.pair.similarity import PairSimilarity
from captum_face.pair.speed import accelerated

__all__ = ["Case", "Measured", "Metric", "Scene"]

Maps = tuple[Tensor, Tensor]

#: What ``--protocol`` takes.
PROTOCOL_NAMES = ("swap", "published", "sanity")

#: Patches of another person, in cells of a raster over the part of an aligned crop where the face is.
PATCHES: dict[str, Any] = {"n_patches": 8, "patch_size": "side / 7", "layout": "grid", "central": 0.75}

# In the order in which everything that defines a metric is written.
_WRITTEN_FIRST = ("perturb", "mode", "n_steps", "order", "fill")


@dataclass(frozen=True)
class Scene:
    """One pair and all that does not depend on the method."""

    pair: PairSimilarity  #: the model
    inputs: Maps  #: the two images, ``(1, C, H, W)`` each
    same: bool  #: whether the pair is genuine
    threshold: float  #: the verification threshold
    #: ``(1, C, H, W)``: another person than both, whose pixels stand in for theirs; None where there is none.
    member: Tensor | None
    truth: Maps | None  #: masks ``(1, H, W)`` of what is known to differ, or None
    seed: int  #: of everything random about this pair
    needs_both: bool  #: whether image B is explained too, where something is known to differ and for reports
    cohort: Tensor | None = None  #: ``(M, C, H, W)``, other people, for methods that compare with some

    @cached_property
    def quick(self) -> PairSimilarity:
        """The model as perturbed images go through it, see :func:`~captum_face.pair.speed.accelerated`."""
        with self.pair.frozen():
            return accelerated(self.pair, self.inputs[0])

    @cached_property
    def embedded(self) -> dict[Hashable, Tensor]:
        """What the curves of all methods and metrics share."""
        return {}

    def require_member(self) -> Tensor:
        """:attr:`member`.

        Raises:
            ValueError: there is none.
        """
        if self.member is None:
            raise ValueError(
                "expected an image of another person in the list, of this size and scored below the "
                "threshold with both images, found none; add pairs of other people"
            )
        return self.member

    @property
    def patch_size(self) -> int:
        """Side of a patch in pixels, as large as Patch-LFW's 16 on crops of 112."""
        return max(1, round(min(self.inputs[0].shape[-2:]) / 7))

    @cached_property
    def patched(self) -> Patched:
        """Image A with patches of the other person on the face."""
        return paste_patches(
            self.inputs[0],
            self.require_member(),
            **{**PATCHES, "patch_size": self.patch_size},
            seed=self.seed,
        )


@dataclass(frozen=True)
class Case:
    """One pair as one method explains it: what a metric is computed from.

    What several metrics share is computed once, and only if one of them asks for it.
    """

    scene: Scene
    explain: Callable[[Maps], Maps]  #: from images to the method's maps; each pair is explained once
    method: PairAttribution  #: the method itself, with its options, for metrics that explain anew

    @cached_property
    def maps(self) -> Maps:
        """The method's attributions; that of image B is empty unless the scene needs both."""
        return self.explain(self.scene.inputs)

    @cached_property
    def patched_map(self) -> Tensor:
        """The attributions of the patched image A."""
        return self.explain((self.scene.patched.images, self.scene.inputs[1]))[0]

    def negated(self) -> Case:
        """The same with maps that say the opposite."""

        def opposite(inputs: Maps) -> Maps:
            attr_a, attr_b = self.explain(inputs)
            return -attr_a, -attr_b

        return replace(self, explain=opposite)


class Measured(NamedTuple):
    """What a metric says about one case."""

    value: float
    curve: tuple[float, ...] = ()  #: scores along the perturbation, if there is one


@dataclass(frozen=True)
class Metric:
    """A metric of the benchmark.

    Raises:
        ValueError: a field with a value that it cannot have, or one that is named in ``settings`` instead.
    """

    name: str  #: what ``--metric`` calls it
    asks: str  #: what it asks of a map, in one line
    better: str  #: ``"lower"`` or ``"higher"``
    subset: str  #: the pairs on which it is meant to be read, ``"genuine"``, ``"impostor"`` or ``"all"``
    statistic: str  #: what the value is
    measure: Callable[[Case], Measured | None]  #: None where it does not apply to the pair
    #: What else defines it. A resumed run knows a metric by its fields and these, not by its code.
    settings: Mapping[str, object] = field(default_factory=dict)
    #: Pairs it applies to, ``"all"``, ``"genuine"``, or ``"truth"`` for those whose difference is known.
    needs: str = "all"
    #: Whether it needs :attr:`Scene.member`: pixels of another person stand in or are pasted in.
    needs_member: bool = False
    #: The evidence that it asks for, ``"similar"``, ``"dissimilar"`` (against a match) or ``"irrelevant"``.
    order: str | None = None
    fill: str | None = None  #: what replaced pixels show
    mode: str | None = None  #: of a curve, ``"deletion"`` or ``"insertion"``
    curve: str = "score"  #: what the report draws of its curve, ``"score"`` or ``"accuracy"``
    protocol: str | None = None  #: ``"swap"``, ``"published"`` or ``"sanity"``; None for none of these

    def __post_init__(self) -> None:
        require_choice(self.better, ("lower", "higher"), "direction that is better")
        require_choice(self.subset, ("all", "genuine", "impostor"), "subset of pairs")
        require_choice(self.needs, ("all", "genuine", "truth"), "kind of pairs that a metric needs")
        require_choice(self.curve, ("score", "accuracy"), "curve")
        for name, choices in (
            ("order", ("similar", "dissimilar", "irrelevant")),
            ("mode", ("deletion", "insertion")),
            ("protocol", PROTOCOL_NAMES),
        ):
            if (value := getattr(self, name)) is not None:
                require_choice(value, choices, name)
        for name in ("order", "fill", "mode"):
            if name in self.settings:
                raise ValueError(
                    f"expected {name}= as a field of the metric {self.name!r}, got it in settings"
                )

    def definition(self) -> dict[str, object]:
        """How it is measured, as ``config.json``, ``metrics.csv`` and the report name it."""
        fields = {"mode": self.mode, "order": self.order, "fill": self.fill}
        named = {**{name: value for name, value in fields.items() if value is not None}, **self.settings}
        return {name: named[name] for name in dict.fromkeys((*_WRITTEN_FIRST, *named)) if name in named}

    def applies(self, same: bool, known: bool) -> bool:
        """Whether it can judge a pair that is genuine or not, of which is known or not what differs."""
        return {"all": True, "genuine": same, "truth": known}[self.needs]


def require_metric(name: str, entry: object) -> None:
    """Checks what stands under a metric's name, such as what a plug-in brings.

    Raises:
        TypeError: no :class:`Metric`.
        ValueError: a metric of another name.
    """
    if not isinstance(entry, Metric):
        raise TypeError(f"expected a captum_face.benchmark.Metric, got {entry!r}")
    if entry.name != name:
        raise ValueError(f"expected a metric of the name {name!r}, got one of the name {entry.name!r}")
