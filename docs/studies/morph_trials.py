"""Other ways to walk from face to face, against the one that morph gradients take.

    PYTHONPATH=. python docs/studies/morph_trials.py --shared FOLDER [--half choose] [--pairs 20]

Pairs, metrics and columns are those of ``morphs.py``. Each trial changes one thing: where the points lie,
what is added to them, which layer is morphed, where the way begins, or what is done with the maps.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from morphs import COLUMNS, THRESHOLD, Pair, judged, read_pairs, row
from torch import Tensor, nn
from torch.nn import functional as F

from captum_face import PairSimilarity
from captum_face.decoder import load_decoder
from captum_face.decoder.network import decode
from captum_face.engines.morphs import Ends, drawn_strangers, morphs, turns
from captum_face.maps.signed import smooth

N = 28  # points of each trial; the method's default of 24 was chosen by them
SIGMAS = (5.0, 8.0)


class Way(NamedTuple):
    """Points from other faces to an image, and the step that each of them stands for, ``(n, ...)`` both."""

    points: Tensor
    steps: Tensor


Ways = tuple[Way, Way]  # from strangers, from the partner
Trial = Callable[[Pair, tuple[Tensor, Tensor]], tuple[Tensor, Tensor]]


def charged(pair: PairSimilarity, way: Way, partner: Tensor) -> Tensor:
    """Gradients of the score at the points, times their steps, ``(1, C, H, W)``."""
    total = torch.zeros_like(way.points[:1])
    target = pair.embed(partner).detach()
    for points, steps in zip(way.points.split(8), way.steps.split(8), strict=True):
        points = points.detach().requires_grad_()
        score = pair.contributions(pair.embed(points), target).sum()
        (gradient,) = torch.autograd.grad(score, points)
        total += (gradient * steps).sum(0, keepdim=True)
    return total


def line(start: Tensor, end: Tensor, nodes: Tensor, weights: Tensor) -> Way:
    change = (end - start).expand(len(nodes), *end.shape[1:])
    shape = (-1, *[1] * (end.ndim - 1))
    return Way(start + nodes.reshape(shape) * change, weights.reshape(shape) * change)


def even(n: int = N) -> tuple[Tensor, Tensor]:
    return (torch.arange(n) + 0.5) / n, torch.full((n,), 1 / n)


def gauss_legendre(n: int = N) -> tuple[Tensor, Tensor]:
    nodes, weights = np.polynomial.legendre.leggauss(n)
    return torch.tensor((nodes + 1) / 2).float(), torch.tensor(weights / 2).float()


def strangers_of(one: Pair, generator: torch.Generator, n: int = N) -> Tensor:
    """Where the way to each point begins."""
    drawn = drawn_strangers(one.strangers, n, generator)
    return drawn[turns(drawn, n)]


def random_of(one: Pair) -> torch.Generator:
    return torch.Generator().manual_seed(one.scene.seed)


def ways(one: Pair, image: Tensor, partner: Tensor, n: int = N, **options) -> Ways:
    """Those of the method."""
    generator = random_of(one)
    regions = morphs(n, (image.shape[2], image.shape[3]), generator=generator, **options)
    strangers = line(strangers_of(one, generator, n), image, *even(n))
    change = image - partner
    shares, weights = (values[:, None] for values in regions)
    return strangers, Way(partner + shares * change, weights * change)


def both(one: Pair, found: Ways, partner: Tensor) -> tuple[Tensor, Tensor]:
    above, below = (charged(one.scene.pair, way, partner) for way in found)
    return above, below


def as_it_is(one: Pair, inputs: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    return both(one, ways(one, *inputs), inputs[1])


def with_options(n: int = N, **options) -> Trial:
    """The method's ways with other numbers of points and other regions."""

    def trial(one: Pair, inputs: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return both(one, ways(one, *inputs, n=n, **options), inputs[1])

    return trial


def straight(nodes: tuple[Tensor, Tensor]) -> Trial:
    def trial(one: Pair, inputs: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        image, partner = inputs
        starts = strangers_of(one, random_of(one))
        return both(one, (line(starts, image, *nodes), line(partner, image, *nodes)), partner)

    return trial


def noisy(sigma: float) -> Trial:
    def trial(one: Pair, inputs: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        generator = random_of(one)
        found = [
            Way(way.points + sigma * torch.randn(way.points.shape, generator=generator), way.steps)
            for way in ways(one, *inputs)
        ]
        return both(one, (found[0], found[1]), inputs[1])

    return trial


def blurred(sigma: float) -> Trial:
    """Straight morphs that are sharp at both ends and blurred in between; steps are what really changes."""

    def bent(start: Tensor, end: Tensor, n: int) -> Way:
        def at(time: float) -> Tensor:
            face = start + time * (end - start)
            width = sigma * 4 * time * (1 - time)
            return smooth(face, width) if width > 0 else face

        edges = torch.cat([at(i / n) for i in range(n + 1)])
        return Way(torch.cat([at((i + 0.5) / n) for i in range(n)]), edges.diff(dim=0))

    def trial(one: Pair, inputs: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        image, partner = inputs
        # A bent way cannot be split over strangers point by point: seven points for each of four.
        parts = [bent(stranger[None], image, N // 4) for stranger in one.strangers[:4]]
        strangers = Way(torch.cat([p.points for p in parts]), torch.cat([p.steps for p in parts]) / 4)
        return both(one, (strangers, bent(partner, image, N)), partner)

    return trial


@contextmanager
def replaced(layer: nn.Module, values: Tensor | None, seen: list[Tensor]) -> Iterator[None]:
    """Notes what a layer gives, and makes it give other values."""

    def hook(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
        seen.append(output)
        return output if values is None else values

    handle = layer.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def through_features(name: str, *, regional: bool) -> Trial:
    """Morphs of a layer's activations; the layer's map is spread over the image."""

    def trial(one: Pair, inputs: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        image, partner = inputs
        pair = one.scene.pair
        layer = pair.embedding_model.get_submodule(name)
        generator = random_of(one)
        starts = strangers_of(one, generator)
        with torch.no_grad():
            target = pair.embed(partner)
            seen: list[Tensor] = []
            with replaced(layer, None, seen):
                pair.embed(torch.cat([image, partner, starts]))
            own, other, strangers = seen[0].split([1, 1, N])
        shares, weights = morphs(
            N, (own.shape[2], own.shape[3]), softness=1.0 if regional else None, generator=generator
        )
        found = (
            line(strangers, own, *even()),
            Way(other + shares[:, None] * (own - other), weights[:, None] * (own - other)),
        )
        maps = []
        for way in found:
            points = way.points.detach().requires_grad_()
            with replaced(layer, points, []):
                embedded = pair.embed(image.expand(N, -1, -1, -1))
            score = pair.contributions(embedded, target).sum()
            (gradient,) = torch.autograd.grad(score, points)
            small = (gradient * way.steps).sum((0, 1), keepdim=True)
            ratio = image.shape[-1] / small.shape[-1]
            maps.append(F.interpolate(small, image.shape[-2:], mode="bilinear") / ratio**2)
        return maps[0], maps[1]

    return trial


def through_decoder(path: Path) -> Trial:
    """Morphs between embeddings, each made a face by a decoder, from the partner's; strangers as ever."""
    decoder = load_decoder(path)

    def trial(one: Pair, inputs: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        image, partner = inputs
        pair = one.scene.pair
        with torch.no_grad():
            ends = [F.normalize(pair.embed(face), dim=1) for face in (partner, image)]
            faces = decode(
                decoder,
                torch.cat([ends[0] + t * (ends[1] - ends[0]) for t in torch.linspace(0, 1, 2 * N + 1)]),
            )
        way = Way(faces[1::2], faces[::2].diff(dim=0))
        return both(one, (ways(one, image, partner)[0], way), partner)

    return trial


def joined(
    ends: Ends, maps: tuple[Tensor, Tensor], scales: tuple[tuple[float, ...], tuple[float, ...]]
) -> Tensor:
    """One map from two by the method's rule, each smoothed by the mean of several Gaussians."""
    above, below = (
        torch.stack([smooth(own, sigma, keep_sum=True) for sigma in sigmas]).mean(0)
        for own, sigmas in zip(maps, scales, strict=True)
    )
    sides = ends.components((above, above[:0]), (below, below[:0]))
    return sides.joined(sides.positions(THRESHOLD))[0]


TRIALS: dict[str, Trial] = {
    "as it is": as_it_is,
    "16 points": with_options(16),
    "20 points": with_options(20),
    "24 points": with_options(24),
    "56 points": with_options(56),
    "softness .5": with_options(softness=0.5),
    "softness 2": with_options(softness=2.0),
    "regions of 3 px": with_options(scale=3 / 112),
    "regions of 12 px": with_options(scale=12 / 112),
    "straight from the partner": straight(even()),
    "straight, Gauss-Legendre": straight(gauss_legendre()),
    "noise .05": noisy(0.05),
    "noise .1": noisy(0.1),
    "noise .2": noisy(0.2),
    "blurred by 3 px": blurred(3),
    "blurred by 8 px": blurred(8),
    "features at 56 x 56": through_features("dw_conv", regional=True),
    "features at 28 x 28": through_features("features.4", regional=True),
    "features at 14 x 14": through_features("features.11", regional=True),
    "features at 14 x 14, straight": through_features("features.11", regional=False),
}
SCALES = {
    "smoothed by 3, 5, 8 / 8": ((3.0, 5.0, 8.0), (8.0,)),
    "smoothed by 2, 5, 12 / 8": ((2.0, 5.0, 12.0), (8.0,)),
    "smoothed by 3, 8 / 8": ((3.0, 8.0), (8.0,)),
    "smoothed by 2, 4, 8 / 4, 8, 16": ((2.0, 4.0, 8.0), (4.0, 8.0, 16.0)),
    "smoothed by 3 and 5": ((3.0,), (5.0,)),
    "smoothed by 5 and 12": ((5.0,), (12.0,)),
    "smoothed by 8 and 12": ((8.0,), (12.0,)),
    "smoothed by 3, 5, 8 / 5, 8, 12": ((3.0, 5.0, 8.0), (5.0, 8.0, 12.0)),
    "smoothed by 2, 5, 12 / 2, 5, 12": ((2.0, 5.0, 12.0), (2.0, 5.0, 12.0)),
}
PLAIN = ((SIGMAS[0],), (SIGMAS[1],))


def symmetric(one: Pair, inputs: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """The mean of both images' maps."""
    own, other = as_it_is(one, inputs), as_it_is(one, (inputs[1], inputs[0]))
    return (own[0] + other[0]) / 2, (own[1] + other[1]) / 2


def several_partners(one: Pair, inputs: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """The mean over all photos of the partner."""
    maps = [as_it_is(one, (inputs[0], partner[None])) for partner in torch.cat([inputs[1], one.more])]
    above, below = (torch.stack(own).mean(0) for own in zip(*maps, strict=True))
    return above, below


def tried(name: str, trial: Trial, pairs: list[Pair]) -> None:
    ends = [
        [Ends.of(one.scene.pair, inputs, one.strangers[:N], None) for inputs in one.inputs] for one in pairs
    ]
    maps = [[trial(one, inputs) for inputs in one.inputs] for one in pairs]
    for label, scales in {name: PLAIN, **(SCALES if name == "as it is" else {})}.items():
        found = [
            [joined(own, both_maps, scales) for own, both_maps in zip(e, m, strict=True)]
            for e, m in zip(ends, maps, strict=True)
        ]
        row(label, judged(pairs, found))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--shared", type=Path, required=True, help="the folder with data/ and models/")
    parser.add_argument("--half", choices=("choose", "report"), default="choose")
    parser.add_argument("--pairs", type=int, default=20, help="of each class")
    parser.add_argument("--only", nargs="+", help="trials by name")
    parser.add_argument("--decoder", type=Path, help="one for MobileFaceNet, for morphs of embeddings")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    pairs = read_pairs(options.shared, options.half, options.pairs, N)
    trials = TRIALS | {"mean of both images' maps": symmetric}
    if options.decoder:
        trials["decoded embeddings"] = through_decoder(options.decoder)
    known = [one for one in pairs if len(one.more)]
    with pairs[0].scene.pair.frozen():
        print(f"{sum(one.scene.same for one in pairs)} genuine of {len(pairs)} pairs of {options.half}.csv")
        print(" " * 34 + "".join(f"{column:>16}" for column in COLUMNS))
        for name, trial in trials.items():
            if not options.only or name in options.only:
                tried(name, trial, pairs)
        if known and (not options.only or "several photos" in options.only):
            n_genuine = sum(one.scene.same for one in known)
            print(f"partners of whom there are more photos: {n_genuine} genuine of {len(known)} pairs")
            tried("one photo", as_it_is, known)
            tried("mean over their photos", several_partners, known)


if __name__ == "__main__":
    main()
