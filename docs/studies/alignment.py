"""Is the image an aligned face? How often the check says no, on real crops and on what is made of them.

    python docs/studies/alignment.py --shared FOLDER [--half report]

Every row is a change of the crops of one half of the people. What was drawn and set by hand in the check was
set with the crops of ``choose`` (odd numbers), none with those of ``report``. ``alarms`` are images that
fail: false alarms in the first rows, detections below. ``named`` is the share of all images of the row that
fail and are told what was done to them, ``misnamed`` that are told something else. ``edges`` are the alarms
of the test that the check replaced: the correlation of edges with the mean of eight other crops is below
0.15."""

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
from captum_face.data.alignment import LIMIT
from captum_face.data.images import load_image
from captum_face.maps.signed import smooth

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


def edges_test(crops: Tensor, mean: Tensor) -> Tensor:
    """The figure of the former test: the correlation of edges with those of a mean face."""
    places = (torch.arange(SIDE) + 0.5) / SIDE
    window = (-0.5 * (((places[:, None] - 0.54) ** 2 + (places - 0.5) ** 2) / 0.27**2)).exp()

    def edges(images: Tensor) -> Tensor:
        return torch.stack(torch.gradient(smooth(images.mean(1), 2), dim=(1, 2)), 1) * window.sqrt()

    return F.cosine_similarity(edges(crops).flatten(1), edges(mean).flatten(1))


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
            yield f"moved {pixels} px {name}", images, f"^it looks moved by about \\d+ of 112 px {name}"
    for degrees in (10, 20, 90, 180):
        turned = f"turned by about {degrees} " if degrees == 90 else "turned by about (15|30) "
        yield (
            f"turned by {degrees} degrees",
            changed(crops, degrees=degrees),
            ("upside down" if degrees == 180 else f"{turned}degrees clockwise"),
        )
    yield "upside down (mirrored)", crops.flip(2), "upside down"
    for scale in (0.5, 0.8, 1.25, 2):
        yield f"scaled by {scale}", changed(crops, scale=scale), "too large" if scale > 1 else "too small"
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


def read(folder: Path, half: str) -> tuple[Tensor, Tensor]:
    """The crops of one half of the people, and the mean of eight crops of the other."""
    files = sorted((folder / "data" / "lfw_crops").glob("*.png"))
    odd = [int(person(path.name)) % 2 == 1 for path in files]
    crops = torch.cat([load_image(path) for path in files])
    own = torch.tensor(odd) == (half == "choose")
    return crops[own], crops[~own][:8].mean(0, keepdim=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--shared", type=Path, required=True, help="the folder with data/ and photos/")
    parser.add_argument("--half", choices=("choose", "report"), default="report")
    options = parser.parse_args()
    crops, mean = read(options.shared, options.half)
    photos = torch.cat([resized(load_image(path)) for path in sorted((options.shared / "photos").iterdir())])
    print(f"{len(crops)} crops of one half of the people ({options.half}), limit {LIMIT}")
    print(f"{'':36}{'images':>8}{'median':>8}{'alarms':>8}{'named':>8}{'misnamed':>10}{'edges':>8}")
    for name, images, pattern in rows(crops, photos):
        checks = check_faces(images)
        alarms = [check for check in checks if not check.passed]
        named = sum(bool(pattern) and re.search(pattern, check.looks) is not None for check in alarms)
        misnamed = sum("no clear face" not in check.looks for check in alarms) - named
        square = resized(images).expand(-1, 3, -1, -1)
        print(
            f"{name:36}{len(checks):8}{statistics.median(check.figure for check in checks):8.2f}"
            f"{len(alarms) / len(checks):8.0%}{f'{named / len(checks):.0%}' if pattern else '':>8}"
            f"{misnamed / len(checks):10.0%}"
            f"{float((edges_test(square, mean) < 0.15).double().mean()):8.0%}",
            flush=True,
        )
    print(f"time for an image that passes: {milliseconds(crops[:1]):.1f} ms, that fails: ", end="")
    print(f"{milliseconds(crops[:1].flip(2)):.1f} ms")


def milliseconds(image: Tensor, check: Callable[[Tensor], object] = check_faces) -> float:
    """The median over twenty calls."""
    times = []
    for _ in range(20):
        start = time.perf_counter()
        check(image)
        times.append(time.perf_counter() - start)
    return 1000 * statistics.median(times)


if __name__ == "__main__":
    main()
