"""Morph gradients, one choice at a time: cohort, joining, smoothing, softness, points.

    python docs/studies/morphs.py --shared FOLDER [--half choose] [--pairs 20]
        [--n-points 24] [--study NAME]

MobileFaceNet on one half of the people (see ``halves.py``); defaults were chosen on ``choose``. Printed are
means over ``--pairs`` genuine and as many impostor pairs, by metrics of the benchmark, with standard
errors."""

from __future__ import annotations

import argparse
import statistics
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from halves import of_folder, person
from torch import Tensor

from captum_face import MorphGradients, PairSimilarity, SwapRISE
from captum_face.attr._morphing import MorphComponents
from captum_face.benchmark import METRICS, Case, Scene
from captum_face.benchmark._plan import own_seed
from captum_face.data.images import load_image
from captum_face.engines.cohort import People, choose_cohort
from captum_face.engines.sides import Sides
from captum_face.maps.signed import smooth
from captum_face.models import load_pair

THRESHOLD = 0.15  # of the equal error rate of pairs.csv
COLUMNS = (
    "deletion_black",
    "deletion_blur",
    "deletion_swap",
    "insertion_swap",
    "partner_swap",
    "patch_effect",
    "patch_auc",
)
SWAP_MASKS = (125, 250, 500)
COHORTS = (1, 4, 8, 16, 32)
SOFTNESSES = (None, 0.25, 0.5, 1.0, 2.0)


@dataclass
class Pair:
    """A pair as the benchmark has it, with a cohort."""

    scene: Scene
    cohort: Tensor  #: ``(M, C, H, W)``
    n_points: int

    @cached_property
    def inputs(self) -> list[tuple[Tensor, Tensor]]:
        """The pair, and for a genuine one also the pair with patches in image A."""
        inputs = self.scene.inputs
        return [inputs, (self.scene.patched.images, inputs[1])] if self.scene.same else [inputs]


def read_pairs(shared: Path, half: str, n: int, n_points: int) -> list[Pair]:
    folder = shared / "data" / "lfw_crops"
    pair = load_pair("mobilefacenet", weights=shared / "models" / "mobilefacenet.pt", threshold=THRESHOLD)
    listed = of_folder(folder, shared / "data" / "pairs.csv")[half]
    chosen = [row for same in (1, 0) for row in [r for r in listed if r[2] == same][:n]]
    names = dict.fromkeys(name for row in listed for name in row[:2])
    images = {name: load_image(folder / name) for name in names}
    with torch.no_grad():
        embeddings = {name: pair.embed(image)[0] for name, image in images.items()}
    people = People((a, b) for a in names for b in names if person(a) == person(b))
    found = []
    for a, b, same in chosen:
        seed = own_seed(0, a, b)
        options = {"threshold": THRESHOLD, "seed": seed}
        (fill,) = choose_cohort(pair, (a, b), embeddings, people, n=1, **options)
        members = choose_cohort(pair, (a, b), embeddings, people, n=32, without=[fill], **options)
        scene = Scene(pair, (images[a], images[b]), bool(same), THRESHOLD, images[fill], None, seed, False)
        found.append(Pair(scene, torch.cat([images[name] for name in members]), n_points))
    return found


def judged(pairs: list[Pair], maps: list[list[Tensor]]) -> dict[str, tuple[float, float]]:
    """Mean and standard error of each metric; maps ``(1, C, H, W)`` for each of a pair's inputs."""
    values: dict[str, list[float]] = {}
    for one, own in zip(pairs, maps, strict=True):

        def explain(inputs: tuple[Tensor, Tensor], one: Pair = one, own: list[Tensor] = own):
            return own[inputs[0] is not one.scene.inputs[0]], own[0][:0]

        case = Case(one.scene, explain, None)
        for name in COLUMNS:
            if one.scene.same == (METRICS[name].subset == "genuine"):
                values.setdefault(name, []).append(METRICS[name].measure(case).value)
    return {
        name: (statistics.mean(v), statistics.stdev(v) / len(v) ** 0.5 if len(v) > 1 else float("nan"))
        for name, v in values.items()
    }


def row(label: str, found: dict[str, tuple[float, float]]) -> None:
    cells = "".join(f"{found[name][0]:8.3f} ({found[name][1]:.3f})" for name in COLUMNS)
    print(f"{label:34}{cells}", flush=True)


def components_of_probe(
    pair: PairSimilarity, cohort: Tensor | None, inputs: tuple[Tensor, Tensor], **options
) -> MorphComponents:
    """What :meth:`MorphGradients.components` gives for image A, without the cost of image B."""
    sides = Sides(pair, inputs, which=(False,))
    with pair.frozen(), torch.no_grad():
        return MorphGradients.components.on_sides(MorphGradients(pair, cohort), sides, **options)


def components(pairs: list[Pair], cohort: Callable[[Pair], Tensor | None], **options) -> list[list]:
    """Components of image A without smoothing, for each of a pair's inputs."""
    return [
        [
            components_of_probe(
                one.scene.pair,
                cohort(one),
                inputs,
                n_points=one.n_points,
                smoothing=0,
                seed=one.scene.seed,
                **options,
            )
            for inputs in one.inputs
        ]
        for one in pairs
    ]


def joined(found: MorphComponents, position=None, sigmas=(5, 8)) -> Tensor:
    """The map of image A, joined by a number, by the rule (None) or at the place of the threshold."""
    if position == "threshold":
        low, high = found.cohort_scores[0], found.perfect_scores[0]
        position = float((THRESHOLD - low) / (high - low))
    above, below = (
        smooth(maps[0], sigma, keep_sum=True)
        for maps, sigma in zip((found.cohort, found.partner), sigmas, strict=True)
    )
    weight = found.positions(THRESHOLD, position)[0][:, None, None, None]
    return (1 - weight) * above + weight * below


def study_joining(pairs: list[Pair]) -> None:
    found = components(pairs, lambda one: one.cohort)
    for label, position in (
        ("cohort alone", 0.0),
        ("partner alone", 1.0),
        ("both alike", 0.5),
        ("where the threshold lies", "threshold"),
        ("odds of score and threshold", None),
    ):
        row(label, judged(pairs, [[joined(c, position) for c in own] for own in found]))
    for sigmas in ((0, 0), (5, 5), (8, 8)):
        row(
            f"odds, smoothed by {sigmas}",
            judged(pairs, [[joined(c, None, sigmas) for c in own] for own in found]),
        )


def study_cohort(pairs: list[Pair]) -> None:
    for n in COHORTS:
        found = components(pairs, lambda one, n=n: one.cohort[:n])
        row(f"cohort of {n}", judged(pairs, [[joined(c) for c in own] for own in found]))
    found = components(pairs, lambda one: None)
    row("rendered cohort", judged(pairs, [[joined(c) for c in own] for own in found]))
    blurred = components(pairs, lambda one: smooth(one.scene.inputs[0], 11).expand(4, -1, -1, -1))
    row("blurred copies of the image", judged(pairs, [[joined(c) for c in own] for own in blurred]))


def study_softness(pairs: list[Pair]) -> None:
    for softness in SOFTNESSES:
        found = components(pairs, lambda one: one.cohort, softness=softness)
        row(f"softness {softness}", judged(pairs, [[joined(c) for c in own] for own in found]))


def study_points(pairs: list[Pair]) -> None:
    """How far sums are from what they explain, root mean square over images, in units of score."""
    default = pairs[0].n_points
    for n_points in (default, 2 * default, 4 * default):
        deltas: list[list[float]] = [[], []]
        for one in pairs:
            scene = one.scene
            found = components_of_probe(
                scene.pair, one.cohort, scene.inputs, n_points=n_points, seed=scene.seed
            )
            for maps, reference, own in zip(found[:2], found[2:4], deltas, strict=True):
                own.append(float(maps[0].sum() - (found.scores - reference[0])))
        above, below = (statistics.fmean(d * d for d in own) ** 0.5 for own in deltas)
        print(f"n_points {n_points:4}: from the cohort {above:.3f}, from the partner {below:.3f}", flush=True)


def study_swap(pairs: list[Pair]) -> None:
    for n_masks in SWAP_MASKS:
        maps = [
            [
                SwapRISE(one.scene.pair, one.cohort).attribute_probe(
                    inputs, n_masks=n_masks, seed=one.scene.seed
                )
                for inputs in one.inputs
            ]
            for one in pairs
        ]
        row(f"SwapRISE, n_masks {n_masks}", judged(pairs, maps))


STUDIES: dict[str, Callable[[list[Pair]], None]] = {
    name.removeprefix("study_"): study for name, study in dict(globals()).items() if name.startswith("study_")
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--shared", type=Path, required=True, help="the folder with data/ and models/")
    parser.add_argument("--half", choices=("choose", "report"), default="choose")
    parser.add_argument("--pairs", type=int, default=20, help="of each class")
    default = MorphGradients.options()["n_points"].default
    parser.add_argument("--n-points", type=int, default=default, help="of morph gradients")
    parser.add_argument("--study", nargs="+", choices=STUDIES, default=list(STUDIES))
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    pairs = read_pairs(options.shared, options.half, options.pairs, options.n_points)
    for name in options.study:
        print(f"\n{name}: {sum(one.scene.same for one in pairs)} genuine of {len(pairs)} pairs")
        if name != "points":
            print(" " * 34 + "".join(f"{column:>16}" for column in COLUMNS))
        STUDIES[name](pairs)


if __name__ == "__main__":
    main()
