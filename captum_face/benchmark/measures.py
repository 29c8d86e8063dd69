"""What the benchmark measures: every metric by name, with its protocol and the direction that is better."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

from torch import Tensor

from captum_face._validation import require_choice
from captum_face.attr import PairAttribution
from captum_face.metrics.localisation import pixel_auc, pointing_game, relevance_mass
from captum_face.metrics.patches import Patched, paste_patches, patch_effect
from captum_face.metrics.perturbation import perturbation_curve
from captum_face.metrics.sanity import infidelity, randomization, sensitivity, symmetry
from captum_face.pair.similarity import PairSimilarity
from captum_face.pair.speed import accelerated

__all__ = ["METRICS", "PROTOCOLS", "Case", "Measured", "Metric", "Scene", "get_metric"]

Maps = tuple[Tensor, Tensor]

# Patches of a stranger, on the raster over the part of an aligned crop where the face is.
_N_PATCHES, _CENTRAL = 8, 0.75
_PATCH_SIZE = "side / 7"


@dataclass(frozen=True)
class Scene:
    """One pair and all that does not depend on the method."""

    pair: PairSimilarity  #: the model
    inputs: Maps  #: the two images, ``(1, C, H, W)`` each
    same: bool  #: whether the pair is genuine
    threshold: float  #: the verification threshold
    other: Tensor | None  #: ``(1, C, H, W)``, another person than both, or None where there is nobody
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

    @property
    def stranger(self) -> Tensor:
        """``(1, C, H, W)``, another person than both.

        Raises:
            ValueError: there is nobody.
        """
        if self.other is None:
            raise ValueError(
                "expected an image of another person in the list, of this size and scored below the "
                "threshold with both images, found none; add pairs of other people"
            )
        return self.other

    @property
    def patch_size(self) -> int:
        """Side of a patch in pixels, as large as Patch-LFW's 16 on crops of 112."""
        return max(1, round(min(self.inputs[0].shape[-2:]) / 7))

    @cached_property
    def patched(self) -> Patched:
        """Image A with patches of the stranger on the face."""
        return paste_patches(
            self.inputs[0],
            self.stranger,
            n_patches=_N_PATCHES,
            patch_size=self.patch_size,
            layout="grid",
            central=_CENTRAL,
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
    """A metric of the benchmark."""

    name: str  #: what ``--metric`` calls it
    asks: str  #: what it asks of a map, in one line
    better: str  #: ``"lower"`` or ``"higher"``
    subset: str  #: the pairs on which it is meant to be read, ``"genuine"``, ``"impostor"`` or ``"all"``
    statistic: str  #: what the value is
    measure: Callable[[Case], Measured | None]  #: None where it does not apply to the pair
    #: Everything else that defines it; ``"order": "dissimilar"`` if it asks for the evidence against a match.
    protocol: Mapping[str, object] = field(default_factory=dict)
    #: Pairs it applies to, ``"all"``, ``"genuine"``, or ``"truth"`` for those whose difference is known.
    needs: str = "all"

    def __post_init__(self) -> None:
        require_choice(self.better, ("lower", "higher"), "direction that is better")
        require_choice(self.subset, ("all", "genuine", "impostor"), "subset of pairs")
        require_choice(self.needs, ("all", "genuine", "truth"), "kind of pairs that a metric needs")

    @property
    def dissimilar(self) -> bool:
        """Whether it asks for the evidence against a match."""
        return self.protocol.get("order") == "dissimilar"

    @property
    def needs_other(self) -> bool:
        """Whether pixels of another person stand in for hidden ones or are pasted in."""
        pasted = "n_patches" in self.protocol
        return self.protocol.get("fill") == "swap" and (pasted or not self.dissimilar)

    def applies(self, same: bool, known: bool) -> bool:
        """Whether it can judge a pair that is genuine or not, of which is known or not what differs."""
        return {"all": True, "genuine": same, "truth": known}[self.needs]


def _curve(
    name: str,
    asks: str,
    better: str,
    subset: str,
    statistic: str,
    *,
    patches: bool = False,
    **protocol: Any,
) -> Metric:
    """A metric that is the area under a perturbation curve of image A."""
    protocol = {"perturb": "a", "mode": "deletion", "n_steps": 10, **protocol}
    needs_other = protocol["fill"] == "swap" and protocol["order"] != "dissimilar"

    def measure(case: Case) -> Measured:
        scene = case.scene
        curve = perturbation_curve(
            scene.quick,
            scene.inputs,
            (case.maps[0], None),
            cohort=scene.stranger if needs_other else None,
            seed=scene.seed,
            embedded=scene.embedded,
            patch_size=scene.patch_size if patches else 1,
            **protocol,
        )
        area = curve.auc()[0] if statistic == "score" else curve.accuracy_auc(scene.threshold, [scene.same])
        return Measured(float(area), tuple(curve.scores[0].tolist()))

    shown = "area under the " + {"score": "score", "accuracy": "accuracy at the threshold"}[statistic]
    unit = _PATCH_SIZE if patches else 1
    return Metric(name, asks, better, subset, shown, measure, {**protocol, "patch_size": unit})


def _patched(
    name: str, asks: str, statistic: str, value: Callable[[Case], Tensor], **protocol: Any
) -> Metric:
    """A metric on genuine pairs with patches of a stranger on image A."""

    def measure(case: Case) -> Measured | None:
        return Measured(float(value(case)[0])) if case.scene.same else None

    protocol = {
        "perturb": "a",
        "order": "dissimilar",
        "fill": "swap",
        "n_patches": _N_PATCHES,
        "patch_size": _PATCH_SIZE,
        "layout": "grid",
        "central": _CENTRAL,
        **protocol,
    }
    return Metric(name, asks, "higher", "genuine", statistic, measure, protocol, needs="genuine")


def _where_patches_can_be(case: Case) -> Maps:
    """The map and the mask of patches there: what knows no more than that shall score as noise does."""
    patched = case.scene.patched
    rows, columns = patched.region
    return case.patched_map[..., rows, columns], patched.masks[..., rows, columns]


def _changed(name: str, asks: str, statistic: str, value: Callable[[Tensor, Tensor], Tensor]) -> Metric:
    """A metric on pairs of which is known what differs, the mean over both images."""

    def measure(case: Case) -> Measured | None:
        truth = case.scene.truth
        if truth is None:
            return None
        sides = [float(value(attr, mask)[0]) for attr, mask in zip(case.maps, truth, strict=True)]
        return Measured(sum(sides) / 2)

    protocol = {"perturb": "both", "order": "dissimilar"}
    return Metric(name, asks, "higher", "impostor", statistic, measure, protocol, needs="truth")


def _sanity(
    name: str, asks: str, better: str, statistic: str, value: Callable[..., Tensor], **protocol: Any
) -> Metric:
    """A metric of the method rather than of what it found; it means the same on every pair."""

    def measure(case: Case) -> Measured:
        return Measured(float(value(case, **protocol)))

    return Metric(name, asks, better, "all", statistic, measure, {"perturb": "both", **protocol})


#: Every metric, in the order in which tables list them.
METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        _curve(
            "deletion_swap",
            "Do the most similar pixels carry the match? They become another person's.",
            "lower",
            "genuine",
            "score",
            order="similar",
            fill="swap",
        ),
        _curve(
            "insertion_swap",
            "Do the most similar pixels make a match? They come first into another person's face.",
            "higher",
            "genuine",
            "score",
            mode="insertion",
            order="similar",
            fill="swap",
        ),
        _curve(
            "partner_swap",
            "Do the most dissimilar pixels cost the match? They become the partner's.",
            "higher",
            "impostor",
            "score",
            order="dissimilar",
            fill="swap",
        ),
        _curve(
            "hiding_swap",
            "Hiding game: does the decision stay when the irrelevant pixels become another person's?",
            "higher",
            "genuine",
            "accuracy",
            order="irrelevant",
            fill="swap",
        ),
        _curve(
            "patches_fnmr",
            "Patch replacement: accepted genuine pairs while similar patches become another person's.",
            "lower",
            "genuine",
            "accuracy",
            order="similar",
            fill="swap",
            patches=True,
        ),
        _curve(
            "patches_fmr",
            "Patch replacement: rejected impostor pairs while dissimilar patches become the partner's.",
            "lower",
            "impostor",
            "accuracy",
            order="dissimilar",
            fill="swap",
            patches=True,
        ),
        _curve(
            "deletion_blur",
            "As deletion_swap, but they are blurred.",
            "lower",
            "genuine",
            "score",
            order="similar",
            fill="blur",
        ),
        _curve(
            "deletion_black",
            "As deletion_swap, but they become black, which breaks the face: noise does well here.",
            "lower",
            "genuine",
            "score",
            order="similar",
            fill="black",
        ),
        _patched(
            "patch_effect",
            "Does the map know what each pasted patch did to the score?",
            "Spearman correlation",
            lambda case: (
                patch_effect(
                    case.scene.quick,
                    (case.scene.patched.images, case.scene.inputs[1]),
                    (case.patched_map, None),
                    case.scene.patched,
                    case.scene.inputs[0],
                    side="a",
                ).correlation
            ),
        ),
        _patched(
            "patch_auc",
            "Do the most dissimilar pixels lie in the pasted patches?",
            "pixel ROC-AUC",
            lambda case: pixel_auc(*_where_patches_can_be(case), order="dissimilar"),
            pixels="where patches can be",
        ),
        _patched(
            "patch_mass",
            "How much of the dissimilarity map lies in the pasted patches?",
            "share of the mass",
            lambda case: relevance_mass(*_where_patches_can_be(case), order="dissimilar"),
            pixels="where patches can be",
        ),
        _patched(
            "patch_pointing",
            "Does the most dissimilar pixel lie in a pasted patch?",
            "hit rate",
            lambda case: pointing_game(*_where_patches_can_be(case), order="dissimilar"),
            pixels="where patches can be",
        ),
        _changed(
            "changed_auc",
            "Do the most dissimilar pixels lie in the parts that are known to differ?",
            "pixel ROC-AUC",
            lambda attr, mask: pixel_auc(attr, mask, order="dissimilar"),
        ),
        _changed(
            "changed_mass",
            "How much of the dissimilarity map lies in the parts that are known to differ?",
            "share of the mass",
            lambda attr, mask: relevance_mass(attr, mask, order="dissimilar"),
        ),
        _changed(
            "changed_pointing",
            "Does the most dissimilar pixel lie in a part that is known to differ?",
            "hit rate",
            lambda attr, mask: pointing_game(attr, mask, order="dissimilar"),
        ),
        _curve(
            "published_deletion",
            "The papers' deletion: the most similar pixels become black.",
            "lower",
            "genuine",
            "accuracy",
            order="similar",
            fill="black",
        ),
        _curve(
            "published_insertion",
            "The papers' insertion: the most similar pixels come first into a black image.",
            "higher",
            "genuine",
            "accuracy",
            mode="insertion",
            order="similar",
            fill="black",
        ),
        _curve(
            "published_dissimilar_deletion",
            "The papers' deletion for dissimilarity maps: the most dissimilar pixels become black.",
            "lower",
            "all",
            "accuracy",
            order="dissimilar",
            fill="black",
        ),
        _sanity(
            "randomization",
            "Does the map change when the model's weights become random? Correlation with the map before.",
            "lower",
            "absolute Spearman correlation, all weights random",
            lambda case, **protocol: (
                randomization(case.method, case.scene.inputs, seed=case.scene.seed, **protocol)
                .similarity[-1]
                .abs()
                .mean()
            ),
            n_steps=1,
        ),
        _sanity(
            "symmetry",
            "Does an image keep its map when the pair is given the other way round?",
            "higher",
            "Spearman correlation",
            lambda case: symmetry(case.method, case.scene.inputs),
        ),
        _sanity(
            "sensitivity",
            "How much does the map change, at most, under noise that nobody sees?",
            "lower",
            "largest relative change",
            lambda case, **protocol: sensitivity(
                case.method, case.scene.inputs, seed=case.scene.seed, **protocol
            ),
            perturb_radius=0.02,
            n_perturb_samples=10,
        ),
        _sanity(
            "infidelity",
            "How badly does the map predict what noise does to the score?",
            "lower",
            "mean squared error of the score",
            lambda case, **protocol: infidelity(
                case.scene.pair,
                case.scene.inputs,
                case.method.attribute(case.scene.inputs),
                seed=case.scene.seed,
                **protocol,
            ),
            perturb_radius=0.1,
            n_perturb_samples=50,
        ),
    )
}

_PUBLISHED = tuple(name for name in METRICS if name.startswith("published_"))
_SANITY = ("randomization", "symmetry", "sensitivity", "infidelity")

#: The metrics of ``--protocol``.
PROTOCOLS: dict[str, tuple[str, ...]] = {
    "swap": tuple(name for name in METRICS if name not in _PUBLISHED + _SANITY),
    "published": _PUBLISHED,
    "sanity": _SANITY,
}


def get_metric(name: str) -> Metric:
    """The metric of that name.

    Raises:
        ValueError: no such metric; the message says the nearest one.
    """
    return METRICS[require_choice(name, METRICS, "metric")]
