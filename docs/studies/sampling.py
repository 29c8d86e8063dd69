"""Error of CorrRISE's maps by how masks are drawn, at equal cost, and whether its stated error is right.

    python docs/studies/sampling.py [--shared ../shared] [--pairs 2] [--seeds 8] [--reference 20000]

For the first genuine and impostor pairs of the shared folder with its MobileFaceNet, and for a synthetic
pair with the model that ships with the package: the root mean square error over pixels and seeds of maps of
100, 250 and 500 masks, against a map of ``--reference`` plain masks, for

- plain: every patch anywhere, as ``random_patches`` draws;
- antithetic: every mask is followed by its reflection through the centre of the image;
- stratified: the masks of a run are a scrambled Sobol sequence, so that they fill the image evenly.

And for plain masks what is estimated without a reference beside what is measured: the standard error of a
pixel ``(1 - r^2) / sqrt(n - 1)`` beside the spread over seeds (means over pixels); the relative error that
``target_error=`` uses, beside the distance from the reference.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from captum_face import PairSimilarity
from captum_face.attr.corrrise import correlation_map, relative_error
from captum_face.data import synthetic
from captum_face.data.images import load_image
from captum_face.engines.masks import masked_scores, random_patches
from captum_face.models import load_pair

SIDE, PATCH, PATCHES = 112, 30, 3
COUNTS = (100, 250, 500)


def from_places(places: Tensor) -> Tensor:
    """Masks ``(n, H, W)`` from the patches' upper left corners ``(n, patches, 2)`` in [0, 1)."""
    start = (places * (SIDE - PATCH + 1)).long()[..., None]
    position = torch.arange(SIDE)
    rows, columns = ((position >= start) & (position < start + PATCH)).float().unbind(2)
    return torch.matmul(rows.mT, columns) == 0


def antithetic(n: int, seed: int) -> Tensor:
    half = torch.rand(n // 2, PATCHES, 2, generator=torch.Generator().manual_seed(seed))
    return from_places(torch.stack([half, (1 - half).clamp(max=1 - 1e-6)], 1).flatten(0, 1))


def stratified(n: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return random_patches(n, (SIDE, SIDE), sampling="stratified", generator=generator)


def plain(n: int, seed: int) -> Tensor:
    return random_patches(n, (SIDE, SIDE), generator=torch.Generator().manual_seed(seed))


def measure(name: str, pair: PairSimilarity, image: Tensor, partner: Tensor, seeds: int, many: int) -> None:
    def scores(masks: Tensor) -> Tensor:
        with pair.frozen():
            return masked_scores(pair, image, partner, masks, perturbations_per_eval=8)

    masks = plain(many, 10**6)
    reference = correlation_map(scores(masks), masks)
    ways: dict[str, Callable[[int, int], Tensor]] = {
        "plain": plain,
        "antithetic": antithetic,
        "stratified": stratified,
    }
    errors: dict[tuple[str, int], Tensor] = {}
    known: dict[int, str] = {}
    for way, draw in ways.items():
        runs = [draw(max(COUNTS), seed) for seed in range(seeds)]
        answers = [scores(masks) for masks in runs]
        for n in COUNTS:
            maps = torch.cat([correlation_map(s[:, :n], m[:n]) for s, m in zip(answers, runs, strict=True)])
            errors[way, n] = (maps - reference).square().mean((1, 2)).sqrt()
            if way == "plain":
                standard = (1 - maps.square()).mean() / (n - 1) ** 0.5
                relative = errors[way, n] / maps.square().mean((1, 2)).sqrt()
                known[n] = (
                    f"standard error said {standard:.4f}, is {maps.std(0).mean():.4f}; "
                    f"relative said {relative_error(maps, n).mean():.3f}, is {relative.mean():.3f}"
                )
    for n in COUNTS:
        usual = errors["plain", n].mean()
        parts = [f"plain {usual:.4f}"]
        for way in ("antithetic", "stratified"):
            spread = torch.stack([errors[way, n], errors["plain", n]]).std(1).norm() / usual / seeds**0.5
            parts.append(f"{way} x{errors[way, n].mean() / usual:.2f} +- {spread:.2f}")
        print(f"{name}, {n} masks: error {', '.join(parts)}; {known[n]}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shared", type=Path, help="folder with the real pairs and the MobileFaceNet")
    parser.add_argument("--pairs", type=int, default=2, help="real pairs, genuine and impostor in turn")
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--reference", type=int, default=20000, help="masks of the reference")
    options = parser.parse_args()

    faces = synthetic.pair(seed=0, changed=("brows", "eyes"))
    measure(
        "synthetic", load_pair("synthetic"), faces.image_a, faces.image_b, options.seeds, options.reference
    )
    if options.shared is None:
        return
    pair = load_pair("mobilefacenet", weights=options.shared / "models" / "mobilefacenet.pt")
    with open(options.shared / "data" / "pairs.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    kinds = [[row for row in rows if row["same"] == same] for same in "10"]
    for row in [row for both in zip(*kinds, strict=False) for row in both][: options.pairs]:
        images = [
            load_image(options.shared / "data" / "lfw_crops" / row[side]) for side in ("image_a", "image_b")
        ]
        name = f"{'genuine' if row['same'] == '1' else 'impostor'} {row['image_a']} {row['image_b']}"
        measure(name, pair, images[0], images[1], options.seeds, options.reference)


if __name__ == "__main__":
    main()
