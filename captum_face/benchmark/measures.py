"""The metrics of the benchmark by name, and the protocols that they make up."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from captum_face._plugins import Registry
from captum_face.benchmark.metric import PATCHES, PROTOCOL_NAMES, Case, Maps, Measured, Metric, require_metric
from captum_face.metrics.localisation import pixel_auc, pointing_game, relevance_mass
from captum_face.metrics.patches import patch_effect
from captum_face.metrics.perturbation import perturbation_curve
from captum_face.metrics.sanity import infidelity, randomization, sensitivity, symmetry

__all__ = ["METRICS", "PROTOCOLS", "get_metric"]

_N_STEPS = 10


def _curve(
    name: str,
    asks: str,
    better: str,
    subset: str,
    statistic: str,
    *,
    order: str = "similar",
    fill: str = "swap",
    mode: str = "deletion",
    patches: bool = False,
    protocol: str = "swap",
) -> Metric:
    """A metric that is the area under a perturbation curve of image A."""
    needs_member = fill == "swap" and order != "dissimilar"

    def measure(case: Case) -> Measured:
        scene = case.scene
        curve = perturbation_curve(
            scene.quick,
            scene.inputs,
            (case.maps[0], None),
            mode=mode,
            order=order,
            fill=fill,
            cohort=scene.require_member() if needs_member else None,
            n_steps=_N_STEPS,
            patch_size=scene.patch_size if patches else 1,
            seed=scene.seed,
            embedded=scene.embedded,
        )
        area = curve.auc()[0] if statistic == "score" else curve.accuracy_auc(scene.threshold, [scene.same])
        return Measured(float(area), tuple(curve.scores[0].tolist()))

    return Metric(
        name,
        asks,
        better,
        subset,
        "area under the " + {"score": "score", "accuracy": "accuracy at the threshold"}[statistic],
        measure,
        {"perturb": "a", "n_steps": _N_STEPS, "patch_size": PATCHES["patch_size"] if patches else 1},
        needs_member=needs_member,
        order=order,
        fill=fill,
        mode=mode,
        curve=statistic,
        protocol=protocol,
    )


def _patched(
    name: str, asks: str, statistic: str, value: Callable[[Case], Tensor], **settings: object
) -> Metric:
    """A metric on genuine pairs with patches of another person on image A."""

    def measure(case: Case) -> Measured | None:
        return Measured(float(value(case)[0])) if case.scene.same else None

    return Metric(
        name,
        asks,
        "higher",
        "genuine",
        statistic,
        measure,
        {"perturb": "a", **PATCHES, **settings},
        needs="genuine",
        needs_member=True,
        order="dissimilar",
        fill="swap",
        protocol="swap",
    )


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

    return Metric(
        name,
        asks,
        "higher",
        "impostor",
        statistic,
        measure,
        {"perturb": "both"},
        needs="truth",
        order="dissimilar",
        protocol="swap",
    )


def _sanity(
    name: str, asks: str, better: str, statistic: str, value: Callable[..., Tensor], **settings: float
) -> Metric:
    """A metric of the method rather than of what it found; it means the same on every pair."""

    def measure(case: Case) -> Measured:
        return Measured(float(value(case, **settings)))

    written = {"perturb": "both", **settings}
    return Metric(name, asks, better, "all", statistic, measure, written, protocol="sanity")


_OWN = (
    _curve(
        "deletion_swap",
        "Do the most similar pixels carry the match? They become another person's.",
        "lower",
        "genuine",
        "score",
    ),
    _curve(
        "insertion_swap",
        "Do the most similar pixels make a match? They come first into another person's face.",
        "higher",
        "genuine",
        "score",
        mode="insertion",
    ),
    _curve(
        "partner_swap",
        "Do the most dissimilar pixels lower the score? They become the partner's.",
        "higher",
        "impostor",
        "score",
        order="dissimilar",
    ),
    _curve(
        "hiding_swap",
        "Hiding game: does the decision stay when the irrelevant pixels become another person's?",
        "higher",
        "genuine",
        "accuracy",
        order="irrelevant",
    ),
    _curve(
        "patches_fnmr",
        "Patch replacement: accepted genuine pairs while similar patches become another person's.",
        "lower",
        "genuine",
        "accuracy",
        patches=True,
    ),
    _curve(
        "patches_fmr",
        "Patch replacement: rejected impostor pairs while dissimilar patches become the partner's.",
        "lower",
        "impostor",
        "accuracy",
        order="dissimilar",
        patches=True,
    ),
    _curve(
        "deletion_blur",
        "As deletion_swap, but they are blurred.",
        "lower",
        "genuine",
        "score",
        fill="blur",
    ),
    _curve(
        "deletion_black",
        "As deletion_swap, but they become black, which breaks the face: noise does well here.",
        "lower",
        "genuine",
        "score",
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
        fill="black",
        protocol="published",
    ),
    _curve(
        "published_insertion",
        "The papers' insertion: the most similar pixels come first into a black image.",
        "higher",
        "genuine",
        "accuracy",
        mode="insertion",
        fill="black",
        protocol="published",
    ),
    _curve(
        "published_dissimilar_deletion",
        "The papers' deletion for dissimilarity maps: the most dissimilar pixels become black.",
        "lower",
        "all",
        "accuracy",
        order="dissimilar",
        fill="black",
        protocol="published",
    ),
    _sanity(
        "randomization",
        "Does the map change when the model's weights become random? Correlation with the map before.",
        "lower",
        "absolute Spearman correlation, all weights random",
        lambda case, **settings: (
            randomization(case.method, case.scene.inputs, seed=case.scene.seed, **settings)
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
        lambda case, **settings: sensitivity(
            case.method, case.scene.inputs, seed=case.scene.seed, **settings
        ),
        perturb_radius=0.02,
        n_perturb_samples=10,
    ),
    _sanity(
        "infidelity",
        "How badly does the map predict what noise does to the score?",
        "lower",
        "mean squared error of the score",
        lambda case, **settings: infidelity(
            case.scene.pair,
            case.scene.inputs,
            case.method.attribute(case.scene.inputs),
            seed=case.scene.seed,
            **settings,
        ),
        perturb_radius=0.1,
        n_perturb_samples=50,
    ),
)

#: Every metric, in the order in which tables list them; those of installed plug-ins
#: (entry-point group ``captum_face.metrics``) come last.
METRICS: Registry[Metric] = Registry(
    "metric", "captum_face.metrics", require_metric, ("protocol", "asks", "better", "subset")
)
for _metric in _OWN:
    METRICS.register(_metric.name, _metric)

#: The metrics of ``--protocol``: the package's own, whatever is installed.
PROTOCOLS: dict[str, tuple[str, ...]] = {
    protocol: tuple(metric.name for metric in _OWN if metric.protocol == protocol)
    for protocol in PROTOCOL_NAMES
}


def get_metric(name: str) -> Metric:
    """The metric of that name.

    Raises:
        TypeError: the name is no text.
        ValueError: no such metric (the message says the nearest one), or a plug-in that cannot be used.
    """
    return METRICS.find(name)
