"""Shared fixtures: small seeded models, and the real pairs and model where they are at hand."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import pytest
import torch
from torch import Tensor

from captum_face import PairSimilarity
from captum_face.decoder import FaceDecoder
from captum_face.testing import SmallNet, small_net

# Networks this small gain nothing from a second thread, and threads that wait for a busy core cost a lot:
# here, and in the processes that tests start.
torch.set_num_threads(1)
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with the real pairs and the real model, beside the checkout."""
    folder = Path(os.environ.get("CAPTUM_FACE_SHARED", Path(__file__).parents[2] / "shared"))
    if not (folder / "data" / "pairs.csv").is_file():
        reason = f"needs the real face pairs and the real model in {folder} (or CAPTUM_FACE_SHARED)"
        if os.environ.get("CAPTUM_FACE_REQUIRE_SHARED"):
            pytest.fail(reason)
        pytest.skip(reason)
    return folder


@pytest.fixture(scope="session")
def real_pair(shared: Path) -> PairSimilarity:
    from captum_face.models import mobilefacenet

    model = mobilefacenet(shared / "models" / "mobilefacenet.pt").eval()
    return PairSimilarity(model, preprocess="imagenet", threshold=0.15)


@pytest.fixture(scope="session")
def real_images(shared: Path) -> tuple[Tensor, Tensor]:
    """A genuine and an impostor pair, as two batches of two."""
    from captum_face.data.images import load_image

    with open(shared / "data" / "pairs.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    chosen = [next(row for row in rows if row["same"] == same) for same in "10"]
    sides = (
        torch.cat([load_image(shared / "data" / "lfw_crops" / row[side]) for row in chosen])
        for side in ("image_a", "image_b")
    )
    return next(sides), next(sides)


@pytest.fixture(scope="session")
def chips(shared: Path) -> Tensor:
    """Faces of three photos as chips for dlib's network, ``(3, 3, 150, 150)``: the last is another person."""
    from captum_face.photos import find_faces

    photos = ("one_a.jpg", "one_b.jpg", "other.jpg")
    return torch.cat([find_faces(shared / "photos" / name)[0].crop("dlib", (150, 150)) for name in photos])


def small_decoder() -> FaceDecoder:
    """A seeded decoder, not trained, that fits :func:`small_net` and the fixture ``images``."""
    with torch.random.fork_rng():
        torch.manual_seed(4)
        return FaceDecoder(7, (18, 14), width=8).eval()


@pytest.fixture
def net() -> SmallNet:
    return small_net().eval()


@pytest.fixture
def pair(net: SmallNet) -> PairSimilarity:
    return PairSimilarity(net, threshold=0.2, preprocess="arcface")


@pytest.fixture
def images() -> tuple[Tensor, Tensor]:
    """Three pairs of non-square images."""
    generator = torch.Generator().manual_seed(5)
    return torch.rand(3, 3, 18, 14, generator=generator), torch.rand(3, 3, 18, 14, generator=generator)
