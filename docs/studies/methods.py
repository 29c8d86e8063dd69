"""Time and conservation of every registered method on one real pair.

    python docs/studies/methods.py --shared ../shared [--pair 0] [--method NAME]...

For each method: seconds for the pair on the MobileFaceNet of the shared folder, and for the methods whose
maps are meant to add up to something, what that is and each image's sum divided by it: 1 is exact. The others
measure something else, and have no sum to look at. One thread, options at their defaults.
"""

from __future__ import annotations

import argparse
import csv
import time
from pathlib import Path

import torch
from torch import Tensor

from captum_face import METHODS, PairSimilarity
from captum_face.attr.each_side import BLUR
from captum_face.data.images import load_image
from captum_face.maps.signed import smooth
from captum_face.models import load_pair

# What the maps of a method add up to: the score less that of a baseline.
BASELINES = {
    "lrp": "nothing",
    "bilrp": "nothing",
    "hirescam": "nothing",
    "integrated_gradients": "black",
    "integrated_gradients_blurred": "blurred",
    "integrated_gradients_partner": "partner",
    "gradient_shap": "blurred",
    "deep_lift": "black",
    "kernel_shap": "black",
}
# Values that stand for a cell of so many each side of the crop, and are repeated over pixels and colours.
CELLS = {"hirescam": 7, "kernel_shap": 7}


def expected_sums(pair: PairSimilarity, images: tuple[Tensor, Tensor], baseline: str) -> list[float]:
    """The score less that of each image's baseline against the other, intact image."""
    a, b = images
    replaced = {
        "black": lambda own, _: torch.zeros_like(own),
        "blurred": lambda own, _: smooth(own, BLUR * min(own.shape[-2:])),
        "partner": lambda _, partner: partner,
    }
    with torch.no_grad():
        score = float(pair(a, b))
        if baseline == "nothing":
            return [score, score]
        instead = replaced[baseline]
        return [score - float(pair(instead(a, b), b)), score - float(pair(a, instead(b, a)))]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shared", type=Path, default=Path(__file__).parents[3] / "shared")
    parser.add_argument("--pair", type=int, default=0, help="row of pairs.csv")
    parser.add_argument("--method", action="append", choices=list(METHODS))
    options = parser.parse_args()

    torch.set_num_threads(1)
    pair = load_pair("mobilefacenet", weights=options.shared / "models" / "mobilefacenet.pt", threshold=0.15)
    with open(options.shared / "data" / "pairs.csv", newline="") as file:
        row = list(csv.DictReader(file))[options.pair]
    image_a, image_b = (
        load_image(options.shared / "data" / "lfw_crops" / row[key]) for key in ("image_a", "image_b")
    )
    score = expected_sums(pair, (image_a, image_b), "nothing")[0]
    print(f"{row['image_a']} and {row['image_b']}, score {score:.3f}\n")
    print(f"{'method':30}{'family':16}{'seconds':>9}{'A':>8}{'B':>8}  sums divided by")
    # Reconstruction needs a decoder of this very model first.
    for name in options.method or [name for name in METHODS if name != "reconstruction"]:
        method = METHODS[name]
        built = method.build(pair)
        seed = {"seed": 0} if "seed" in built.options() else {}
        started = time.perf_counter()
        attributions = built.attribute((image_a, image_b), **seed)
        line = f"{name:30}{method.family:16}{time.perf_counter() - started:9.2f}"
        if name in BASELINES:
            targets = expected_sums(pair, (image_a, image_b), BASELINES[name])
            shares = CELLS[name] ** 2 / image_a.numel() if name in CELLS else 1
            sums = [
                float(attr.double().sum()) * shares / target
                for attr, target in zip(attributions, targets, strict=True)
            ]
            less = "" if BASELINES[name] == "nothing" else f" less that of the {BASELINES[name]} image"
            line += "".join(f"{value:8.3f}" for value in sums) + f"  the score{less}"
        else:
            line += f"{'-':>8}{'-':>8}"
        print(line, flush=True)


if __name__ == "__main__":
    main()
