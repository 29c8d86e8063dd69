"""Is the image an aligned face? How often the check says no, on real crops and on what is made of them.

    python docs/studies/alignment.py --shared FOLDER [--half report]

Every row is a change of the crops of one half of the people. What was drawn and set by hand in the check was
set with the crops of ``choose`` (odd numbers), none with those of ``report``. ``found`` is the share of
images in which landmarks are found, ``px`` the median of their mean distance from the template. ``alarms``
are images that fail: false alarms in the first rows, detections below; ``without`` are the alarms of the
check where the extra photos is not installed, by appearance alone. ``named`` is the share of all images of
the row that fail and are told what was done to them, ``misnamed`` that are told something else."""

from __future__ import annotations

import argparse
import math
import re
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from halves import person
from torch import Tensor
from torch.nn import functional as F

from captum_face.data import check_faces, render_faces
from captum_face.data.alignment import FARTHEST, LIMIT
from captum_face.data.images import load_image
from captum_face.maps.templates import FIVE_POINTS, TEMPLATES
from captum_face.photos import check_crops, find_landmarks
from captum_face.photos.crops import realign

SIDE = 112
DIRECTIONS = {"right": (1, 0), "left": (-1, 0), "down": (0, 1), "up": (0, -1)}


def changed(
    images: Tensor, *, right: float = 0, down: float = 0, degrees: float = 0, scale: float = 1
) -> Tensor:
    """Moved, turned clockwise about the middle and enlarged; the border continues."""
    angle = math.radians(degrees)
    cosine, sine = math.cos(angle) / scale, math.sin(angle) / scale
    x, y = -2 * right / SIDE, -2 * down / SIDE
    matrix = torch.tensor(
        [
            [cosine, sine, cosine * x + sine * y],
            [-sine, cosine, -sine * x + cosine * y],
        ]
    )
    grid = F.affine_grid(matrix.expand(len(images), 2, 3), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def resized(images: Tensor) -> Tensor:
    """To 112 x 112 pixels, whatever that does to the aspect."""
    return F.interpolate(images, (SIDE, SIDE), mode="bilinear", antialias=True, align_corners=False)


def shuffled(images: Tensor, cells: int, generator: torch.Generator) -> Tensor:
    """Tiles of all images, put together anew: what photos hold, but no face."""
    size = SIDE // cells
    tiles = (
        images.unfold(2, size, size)
        .unfold(3, size, size)
        .permute(0, 2, 3, 1, 4, 5)
        .reshape(-1, 3, size, size)
    )
    tiles = tiles[torch.randperm(len(tiles), generator=generator)]
    grid = tiles.reshape(len(images), cells, cells, 3, size, size).permute(0, 3, 1, 4, 2, 5)
    return grid.reshape(len(images), 3, SIDE, SIDE)


def occluded(images: Tensor, rows: slice, columns: slice) -> Tensor:
    """Grey in a rectangle."""
    images = images.clone()
    images[..., rows, columns] = 0.5
    return images


Row = tuple[str, Tensor, str]


def rows(crops: Tensor, photos: Tensor) -> Iterator[Row]:
    """Name, images and a pattern of what a failed image should be said to look like."""
    generator = torch.Generator().manual_seed(0)
    yield "aligned crops", crops, ""
    yield "mirrored left to right", crops.flip(3), ""
    yield "in grey, at half the size", F.avg_pool2d(crops.mean(1, keepdim=True), 2), ""
    yield "mouth and chin covered", occluded(crops, slice(76, None), slice(None)), ""
    yield "eyes covered", occluded(crops, slice(36, 60), slice(None)), ""
    yield "left half covered", occluded(crops, slice(None), slice(0, 56)), ""
    yield "rendered faces", render_faces(len(crops), strength=1.0), ""
    for pixels in (4, 8, 16):
        for name, (right, down) in DIRECTIONS.items():
            images = changed(crops, right=pixels * right, down=pixels * down)
            yield f"moved {pixels} px {name}", images, f"^it looks moved by about \\d+( of 112)? px {name}"
    for degrees in (10, 20, 90, 180):
        near = "|".join(str(value) for value in range(max(degrees - 12, 5), degrees + 13))
        turned = f"turned by about ({near}) "
        yield (
            f"turned by {degrees} degrees",
            changed(crops, degrees=degrees),
            ("upside down" if degrees == 180 else f"{turned}degrees clockwise"),
        )
    yield "upside down (mirrored)", crops.flip(2), "upside down"
    for scale in (0.5, 0.8, 1.25, 2):
        yield f"scaled by {scale}", changed(crops, scale=scale), "too large" if scale > 1 else "too small"
    yield "narrowed to 0.7 of the width", squeezed(crops), ""
    two = torch.cat([crops, crops.roll(1, 0)], 3)
    yield "two faces side by side", two, ""
    yield "two faces, squeezed", resized(two), ""
    yield "two faces, one above the other", resized(torch.cat([crops, crops.roll(1, 0)], 2)), ""
    yield "halves of two neighbours", crops.roll(56, 3), ""
    yield "whole photos, squeezed", photos, ""
    yield "faces cut into 4 x 4 tiles, mixed", shuffled(crops, 4, generator), ""
    yield "faces cut into 7 x 7 tiles, mixed", shuffled(crops, 7, generator), ""
    for cells in (7, 14, 28, 112):
        noise = torch.rand(len(crops), 3, cells, cells, generator=generator)
        yield f"noise of {SIDE // cells} px", resized(noise), ""
    yield "one colour", torch.rand(len(crops), 3, 1, 1, generator=generator).expand(-1, -1, SIDE, SIDE), ""
    yield "background (corners of the crops)", resized(crops[..., :28, :28]), ""


def squeezed(images: Tensor) -> Tensor:
    """To seven tenths of the width, between borders that continue."""
    height, width = images.shape[-2:]
    narrow = F.interpolate(images, (height, round(0.7 * width)), mode="bilinear", antialias=True)
    rest = width - narrow.shape[-1]
    return F.pad(narrow, (rest // 2, rest - rest // 2, 0, 0), mode="replicate")


def read(folder: Path, half: str) -> Tensor:
    """The crops of one half of the people."""
    files = sorted((folder / "data" / "lfw_crops").glob("*.png"))
    own = [path for path in files if (int(person(path.name)) % 2 == 1) == (half == "choose")]
    return torch.cat([load_image(path) for path in own])


def distances(crops: Tensor) -> None:
    """How far the five points lie from each template, and how many faces pass."""
    print("the five points of aligned crops, in pixels from the template's")
    print(
        f"{'':12}{'found':>8}{'median':>9}{'95 %':>7}"
        + "".join(f"{name:>13}" for name in FIVE_POINTS)
        + f"{'passed':>9}{'without':>9}"
    )
    for name, template in TEMPLATES.items():
        images = crops if name == "arcface" else realign(crops, TEMPLATES["arcface"], template)
        landmarks = find_landmarks(images) or []
        away = torch.tensor(
            [[*found.distances(template).values()] for found in landmarks if found], dtype=torch.float64
        )
        passed = [check.passed for check in check_crops(images, template)]
        without = [check.passed for check in check_faces(images, template)]
        print(
            f"{name:12}{len(away) / len(images):8.0%}{away.median():9.1f}{away.quantile(0.95):7.1f}"
            + "".join(f"{away[:, point].median():13.1f}" for point in range(len(FIVE_POINTS)))
            + f"{sum(passed) / len(passed):9.1%}"
            + (f"{sum(without) / len(without):9.1%}" if without else f"{'-':>9}")
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--shared", type=Path, required=True, help="the folder with data/ and photos/")
    parser.add_argument("--half", choices=("choose", "report"), default="report")
    parser.add_argument("--limit", type=int, help="the most crops")
    options = parser.parse_args()
    crops = read(options.shared, options.half)[: options.limit]
    photos = torch.cat([resized(load_image(path)) for path in sorted((options.shared / "photos").iterdir())])
    farthest = FARTHEST * TEMPLATES["arcface"].eye_distance
    print(
        f"{len(crops)} crops of one half of the people ({options.half}), limits {farthest:.1f} px, "
        f"and {LIMIT} by appearance"
    )
    distances(crops)
    print(f"{'':36}{'images':>8}{'found':>8}{'px':>8}{'alarms':>8}{'named':>8}{'misnamed':>10}{'without':>9}")
    for name, images, pattern in rows(crops, photos):
        checks = check_crops(images, "arcface")
        alarms = [check for check in checks if not check.passed]
        named = sum(bool(pattern) and re.search(pattern, check.looks) is not None for check in alarms)
        misnamed = sum("no clear face" not in check.looks for check in alarms) - named
        measured = [check.figure for check in checks if check.by == "landmarks"]
        without = [check for check in check_faces(images) if not check.passed]
        print(
            f"{name:36}{len(checks):8}{len(measured) / len(checks):8.0%}"
            f"{f'{statistics.median(measured):.1f}' if measured else '-':>8}"
            f"{len(alarms) / len(checks):8.0%}{f'{named / len(checks):.0%}' if pattern else '':>8}"
            f"{misnamed / len(checks):10.0%}{len(without) / len(checks):9.0%}",
            flush=True,
        )
    print(
        f"time for an image: by landmarks {milliseconds(crops[:20], check_crops):.0f} ms, by appearance ",
        end="",
    )
    print(
        f"{milliseconds(crops[:20]):.1f} ms where it passes, "
        f"{milliseconds(crops[:20].flip(2)):.1f} ms where it fails"
    )


def milliseconds(images: Tensor, check: Callable[[Tensor, str], object] = check_faces) -> float:
    """The median over images, each a little changed, as answers to known ones are remembered."""
    times = []
    for image in images[:, None]:
        start = time.perf_counter()
        check((image + 1e-4).clamp(0, 1), "arcface")
        times.append(time.perf_counter() - start)
    return 1000 * statistics.median(times)


if __name__ == "__main__":
    main()
