"""Conservation, stability and time of LRP, for all composites and networks.

    python docs/studies/conservation.py [--pairs 4] [--shared DIR] [--networks mobilefacenet,...]

Prints for each composite and network, over both sides of real pairs with |score| > 0.1:

* kept: the sum of relevance at the image over the score, lowest to highest; 1 is conservation;
* size: the largest total absolute relevance over |score|; 1 where all relevance has one sign;
* time: seconds for one image, everything included, on one thread;

and for the default composite with other gammas how well a map locates a change. The second face of a pair
is changed in one known place, a part of a synthetic face or a patch of another person on a real one. The
maps before and after are compared, and the area under the ROC curve says whether relevance was lost in that
place (0.5 is chance).

MobileFaceNet has its real weights, and its PReLU variant the same weights with slopes of 0.25. iResNets
have random weights with BatchNorm statistics of real faces, so that activations are spread as in a trained
network; their maps say nothing about faces."""

from __future__ import annotations

import argparse
import csv
import math
import time
import warnings
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from zennit import types
from zennit.composites import LayerMapComposite, layer_map_base
from zennit.core import Composite
from zennit.rules import Epsilon, Gamma, Pass, ZPlus

from captum_face import FGGB, PairSimilarity, smooth
from captum_face.attr.lrp import LRP
from captum_face.data import synthetic
from captum_face.data.images import load_image
from captum_face.lrp import COMPOSITES, face
from captum_face.models import iresnet18, iresnet50, load_onnx, mobilefacenet
from captum_face.models.loading import load_pair

Pair = tuple[Tensor, Tensor]


class Change(NamedTuple):
    """A pair, its second image with a known change, and where that is in both."""

    images: Pair
    changed_b: Tensor
    mask_a: Tensor
    mask_b: Tensor


NONE = {"zero_params": ["bias"]}


def everywhere(rule: Callable[[], object]) -> Callable[[], Composite]:
    """One rule for every convolution and linear layer, Zennit's for the rest."""
    return lambda: LayerMapComposite([(types.Linear, rule()), (types.Activation, Pass()), *layer_map_base()])


RULES: dict[str, Callable[[], Composite]] = {
    "z-plus": everywhere(lambda: ZPlus(**NONE)),
    "z-plus with biases": everywhere(lambda: ZPlus()),
    "epsilon 1e-6": everywhere(lambda: Epsilon(1e-6, **NONE)),
    "epsilon 0.25": everywhere(lambda: Epsilon(0.25, **NONE)),
    "gamma 0.25": everywhere(lambda: Gamma(0.25, **NONE)),
    "gamma 1": everywhere(lambda: Gamma(1, **NONE)),
    "gamma 10": everywhere(lambda: Gamma(10, **NONE)),
}
# In the tables of localisation: gammas of the default composite, below the top and at it, and other rules.
GAMMAS = ((0.5, 0.2), (0.5, 0.5), (0.1, 0.1), (1, 1), (10, 10), (math.inf, math.inf))
COMPARED = ("gamma 10", "z-plus", "epsilon 0.25")


def real_pairs(shared: Path) -> Iterator[Pair]:
    """Genuine and impostor pairs alternate."""
    with open(shared / "data" / "pairs.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    sides = [[row for row in rows if row["same"] == same] for same in "10"]
    for two in zip(*sides, strict=False):
        for row in two:
            yield (
                load_image(shared / "data" / "lfw_crops" / row["image_a"]),
                load_image(shared / "data" / "lfw_crops" / row["image_b"]),
            )


def synthetic_pairs(shared: Path) -> Iterator[Pair]:
    many = synthetic.pairs(40)
    for a, b in zip(many.image_a, many.image_b, strict=True):
        yield a[None], b[None]


def with_data_statistics(pair: PairSimilarity, images: Tensor) -> PairSimilarity:
    """BatchNorms as after training: statistics from images, weights around 1."""
    generator = torch.Generator().manual_seed(0)
    for norm in pair.modules():
        if isinstance(norm, nn.modules.batchnorm._BatchNorm):
            norm.reset_running_stats()
            norm.momentum = None
            with torch.no_grad():
                norm.weight.copy_(0.6 + 0.8 * torch.rand(norm.weight.shape, generator=generator))
                norm.bias.copy_(0.2 * torch.randn(norm.bias.shape, generator=generator))
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # training mode is meant here
        pair.train().embed(images)
    return pair.eval()


def build(network: str, shared: Path) -> PairSimilarity:
    torch.manual_seed(0)
    weights = shared / "models" / "mobilefacenet.pt"
    if network == "synthetic":
        return load_pair("synthetic")
    if network == "mobilefacenet":
        return PairSimilarity(mobilefacenet(weights), preprocess="imagenet", threshold=0.15)
    if network == "prelu":
        model = mobilefacenet(activation="prelu")
        model.load_state_dict(mobilefacenet(weights).state_dict(), strict=False)  # slopes stay 0.25
        return PairSimilarity(model.eval(), preprocess="imagenet")
    if network == "onnx":
        return PairSimilarity(load_onnx(shared / "models" / "mobilefacenet.onnx"), preprocess="imagenet")
    pair = PairSimilarity({"iresnet18": iresnet18, "iresnet50": iresnet50}[network](), preprocess="arcface")
    faces = [image for two, _ in zip(real_pairs(shared), range(12), strict=False) for image in two]
    return with_data_statistics(pair, torch.cat(faces))


NETWORKS = ("mobilefacenet", "prelu", "onnx", "iresnet18", "iresnet50", "synthetic")


def chosen(pair: PairSimilarity, pairs: Iterator[Pair], count: int) -> Pair:
    """The first pairs with |score| > 0.1, as two batches."""
    found: list[Pair] = []
    for images in pairs:
        with torch.no_grad():
            if abs(float(pair(*images))) > 0.1:
                found.append(images)
        if len(found) == count:
            break
    return torch.cat([a for a, _ in found]), torch.cat([b for _, b in found])


def row(pair: PairSimilarity, images: Pair, composite: str | Composite) -> str:
    started = time.perf_counter()
    try:
        maps, delta = LRP(pair, composite=composite).attribute(images, return_convergence_delta=True)
    except ValueError as error:
        return f"{'not finite' if 'finite' in str(error) else 'error':>18}{'-':>10}{'-':>8}"
    seconds = (time.perf_counter() - started) / 2 / len(delta)
    with torch.no_grad():
        score = pair(*images)[:, None]
    kept = 1 + delta / score
    size = torch.stack([side.abs().flatten(1).sum(1) for side in maps], 1) / score.abs()
    return f"{short(kept.min()):>9}{short(kept.max()):>9}{short(size.max()):>10}{seconds:8.2f}"


def short(value: Tensor) -> str:
    return f"{float(value):.3f}" if abs(float(value)) < 1e3 else f"{float(value):.0e}"


def exchanged_parts(count: int) -> Iterator[Change]:
    """Synthetic pairs, one part of the second face exchanged."""
    for seed in range(count):
        base = synthetic.pair(seed)
        for part in ("eyes", "brows", "nose", "mouth", "jaw"):
            two = synthetic.pair(seed, changed=(part,))
            yield Change((base.image_a, base.image_b), two.image_b, two.mask_a[0], two.mask_b[0])


def pasted_patches(shared: Path, count: int) -> Iterator[Change]:
    """Genuine real pairs, a square of the second face from another person's at the same place."""
    generator = torch.Generator().manual_seed(0)
    genuine = [
        images for i, images in zip(range(2 * count + 2), real_pairs(shared), strict=False) if i % 2 == 0
    ]
    for images, (other, _) in pairwise(genuine):
        for _ in range(2):
            y, x = torch.randint(20, 70, (2,), generator=generator).tolist()
            mask = torch.zeros(112, 112, dtype=torch.bool)
            mask[y : y + 24, x : x + 24] = True
            yield Change(images, torch.where(mask, other, images[1]), mask, mask)


def localisation(changes: list[Change], method: Callable[[Pair], Pair]) -> tuple[float, float]:
    """How well lost relevance finds the change, in the unchanged face and in the changed one."""
    found: tuple[list[float], list[float]] = ([], [])
    for change in changes:
        before = method(change.images)
        after = method((change.images[0], change.changed_b))
        for side, mask in enumerate((change.mask_a, change.mask_b)):
            lost = smooth((before[side] - after[side]).sum(1, keepdim=True), 3)[0, 0]
            found[side].append(roc_area(lost, mask))
    return sum(found[0]) / len(found[0]), sum(found[1]) / len(found[1])


def print_localisation(title: str, pair: PairSimilarity, changes: list[Change]) -> None:
    print(f"\n{title}, {len(changes)} pairs: ROC area")
    print(f"{'composite':28}{'unchanged face':>16}{'changed face':>16}")
    methods: dict[str, Callable[[Pair], Pair]] = {}
    for gamma, head in GAMMAS:
        label = f"face(gamma={gamma:g}, head={head:g})"
        methods[label] = LRP(pair, composite=face(gamma, head)).attribute
    for name in COMPARED:
        methods[name] = LRP(pair, composite=RULES[name]()).attribute
    methods["FGGB"] = FGGB(pair).attribute
    for label, method in methods.items():
        left, right = localisation(changes, method)
        print(f"{label:28}{left:16.2f}{right:16.2f}", flush=True)


def roc_area(values: Tensor, mask: Tensor) -> float:
    ranks = values.flatten().argsort().argsort().double() + 1
    inside = mask.flatten()
    n = int(inside.sum())
    return float((ranks[inside].sum() - n * (n + 1) / 2) / (n * (len(ranks) - n)))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=4)
    parser.add_argument("--shared", type=Path, default=Path(__file__).parents[3] / "shared")
    parser.add_argument("--networks", default=",".join(NETWORKS))
    parser.add_argument("--composites", default=",".join([*COMPOSITES, *RULES]))
    parser.add_argument(
        "--localisation", type=int, default=3, help="size of the localisation tables; 0: none"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)

    names = options.composites.split(",")
    for network in filter(None, options.networks.split(",")):
        pair = build(network, options.shared)
        source = synthetic_pairs if network == "synthetic" else real_pairs
        images = chosen(pair, source(options.shared), options.pairs)
        with torch.no_grad():
            scores = ", ".join(f"{score:.2f}" for score in pair(*images).tolist())
        print(f"\n{network}, {len(images[0])} pairs of scores {scores}")
        print(f"{'composite':28}{'kept':>9}{'':9}{'size':>10}{'s/image':>8}")
        for name in names:
            composite = RULES[name]() if name in RULES else name
            print(f"{name:28}{row(pair, images, composite)}", flush=True)

    if options.localisation:
        title = "finding an exchanged part, bundled network"
        print_localisation(title, load_pair("synthetic"), list(exchanged_parts(options.localisation)))
        title = "finding a pasted patch, MobileFaceNet"
        changes = list(pasted_patches(options.shared, 2 * options.localisation))
        print_localisation(title, build("mobilefacenet", options.shared), changes)


if __name__ == "__main__":
    main()
