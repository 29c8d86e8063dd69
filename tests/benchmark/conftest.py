"""A small list of photos, and a model that tells the people on them apart."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from captum_face import PairSimilarity


@pytest.fixture
def photos(tmp_path):
    """Six photos of three people, two genuine and two impostor pairs, and a model that tells them apart."""
    random = np.random.default_rng(0)
    faces = random.integers(0, 256, (3, 16, 16, 3))
    for person in range(3):
        for photo in range(2):
            noisy = np.clip(faces[person] + random.normal(0, 8, faces[person].shape), 0, 255)
            Image.fromarray(noisy.astype(np.uint8)).save(tmp_path / f"{person}_{photo}.png")
    lines = ["image_a,image_b,same", "0_0.png,0_1.png,1", "0_0.png,1_0.png,0", "1_0.png,1_1.png,1"]
    (tmp_path / "pairs.csv").write_text("\n".join([*lines, "0_1.png,2_0.png,0", "2_0.png,2_1.png,1"]) + "\n")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(16 * 16 * 3, 8))
    return tmp_path, PairSimilarity(model, preprocess="arcface")
