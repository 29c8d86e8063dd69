"""Faces of many people: folders of crops, and rendered people."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from captum_face._files import printable
from captum_face.data import synthetic
from captum_face.data.images import load_image

__all__ = ["image_files", "read_faces", "render_faces"]

#: Rendered people to learn from have seeds from here on; nobody else's are as high.
_SEED = 2**28


def image_files(folder: str | Path) -> dict[str, Path]:
    """The image files of a folder and its subfolders by their path below it, in the order of these.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: no image file in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        found = "a file" if folder.exists() else "nothing"
        raise FileNotFoundError(f"expected a folder of images, found {found} at {folder}")
    endings = Image.registered_extensions()
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in endings and path.is_file())
    if not paths:
        raise ValueError(f"expected image files (PNG, JPEG, ...) in the folder {folder}, found none")
    return {printable(path.relative_to(folder).as_posix()): path for path in paths}


def read_faces(folder: str | Path) -> tuple[Tensor, list[str], dict[str, str]]:
    """All images below a folder, and whom they show.

    In subfolders (``NAME/0001.jpg``) the subfolder says who; else the file's name up to its last number
    (``NAME_0001.jpg``). A file name without a number is a person of its own.

    Returns:
        Images ``(N, 3, H, W)`` in [0, 1] in the order of their paths; N names; and why files were left out,
        by path: those that cannot be read or are of another size than the first.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: no image in it.
    """
    images: list[Tensor] = []
    people: list[str] = []
    left_out: dict[str, str] = {}
    for name, path in image_files(folder).items():
        try:
            image = load_image(path)
        except (OSError, ValueError) as error:
            left_out[name] = str(error)
            continue
        if images and image.shape != images[0].shape:
            left_out[name] = (
                f"{tuple(image.shape[-2:])} pixels, the first image has {tuple(images[0].shape[-2:])}"
            )
            continue
        images.append(image)
        people.append(path.parent.name if "/" in name else re.sub(r"[ _-]?\d+$", "", path.stem) or path.stem)
    if not images:
        raise ValueError(f"expected face images (PNG, JPEG, ...) in {folder}, found none that can be read")
    return torch.cat(images), people, left_out


def render_faces(n: int, seed: int = 0, strength: float = 0.5) -> Tensor:
    """Photos ``(n, 3, 112, 112)`` of n rendered people.

    Args:
        n: How many.
        seed: Decides people and circumstances.
        strength: As in :func:`captum_face.data.synthetic.sample_nuisance`.
    """
    people = synthetic.sample_identities(n, _SEED + seed)
    return synthetic.render(people, synthetic.sample_nuisance(n, _SEED + seed, strength))
