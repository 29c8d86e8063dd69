"""Regions of a face, and how a map's evidence is shared among them.

The names are those of the components in FISWG's *Facial Image Comparison Feature List for Morphological
Analysis* (version 2.0, 2018-09-11) that are places of a face; what is found anywhere on it (skin, lines,
scars, marks) is no region. ``surroundings`` is the rest: hair, neck, background. Left and right are the
viewer's.

Regions are drawn around 68 landmarks where they are known, else around those of a mean face that is fitted to
five landmarks or to a template. On images that are not aligned to their template the latter mean nothing:
:func:`~captum_face.data.check_faces` tells clear cases.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from captum_face._notebook import table
from captum_face.maps.landmarks import Landmarks
from captum_face.maps.signed import split_attribution
from captum_face.maps.templates import Template, resolve_template

__all__ = ["REGIONS", "RegionShares", "face_regions", "region_shares"]

#: The regions of a face from the top to the bottom, as FISWG's list has them.
REGIONS = (
    "forehead", "left_eyebrow", "right_eyebrow", "left_eye", "right_eye", "left_cheek", "right_cheek", "nose",
    "left_ear", "right_ear", "mouth", "mouth_area", "chin_jawline", "surroundings",
)  # fmt: skip


def face_regions(
    template: str | Template = "arcface",
    size: tuple[int, int] | None = None,
    landmarks: Landmarks | None = None,
) -> dict[str, Tensor]:
    """Masks ``(H, W)`` bool by the names of :data:`~captum_face.maps.regions.REGIONS`.

    Each pixel is in exactly one region.

    Args:
        template: To which the image is aligned: a name of :data:`~captum_face.photos.TEMPLATES` or a
            template.
        size: Height and width of the image; None for the template's.
        landmarks: Of the face in the image; None for the template's own. With 68 points the regions follow
            them. With five they are those of a mean face, moved, turned and resized to fit the five.

    A part of the face may lie outside of the image, such as the chin in ArcFace's crops; its region is then
    smaller, or empty. Ears are where they are expected beside the jaw, also where hair or the head itself
    hides them. The forehead ends where thirds of the face put the hairline.

    Raises:
        ValueError, TypeError: no such template.

    Example::

        >>> masks = face_regions("dlib", (75, 75))
        >>> masks["nose"].shape, int(sum(mask.int() for mask in masks.values()).unique())
        (torch.Size([75, 75]), 1)
    """
    chosen = resolve_template(template).resized(size)
    drawn = _drawn((landmarks or Landmarks(chosen.points)).face, chosen.size)
    # In this order: each region takes what those before it left.
    free = np.ones(chosen.size, bool)
    regions = {}
    for name, mask in drawn.items():
        regions[name] = torch.from_numpy(mask & free)
        free &= ~mask
    return {name: regions.get(name, torch.from_numpy(free)) for name in REGIONS}


def _drawn(face: NDArray[np.float64], size: tuple[int, int]) -> dict[str, NDArray[np.bool_]]:
    """Masks of regions around the 68 points of a face, those in front first; they overlap.

    Drawn in the frame of the face: from the middle between the eyes to the viewer's right and down to the
    chin, in distances between the eyes of a face that looks ahead.
    """
    from matplotlib.path import Path

    left_eye, right_eye = face[36:42].mean(0), face[42:48].mean(0)
    middle, across = (left_eye + right_eye) / 2, right_eye - left_eye
    across = across / np.linalg.norm(across)
    down = np.array([-across[1], across[0]])
    down *= 1 if (face[8] - middle) @ down >= 0 else -1
    # Turned heads have eyes nearer to each other, and a nose of the same length.
    unit = max(np.linalg.norm(right_eye - left_eye), np.linalg.norm(face[33] - middle) / _NOSE)
    frame = np.column_stack([across, down]) / unit

    points = (face - middle) @ frame
    y, x = np.mgrid[: size[0], : size[1]]
    pixels = (np.column_stack([x.ravel(), y.ravel()]) - middle) @ frame
    right, low = (pixels[:, axis].reshape(size) for axis in (0, 1))

    def inside(*corners: NDArray[np.float64]) -> NDArray[np.bool_]:
        return Path(np.vstack(corners)).contains_points(pixels).reshape(size)

    def at(index: int, x: float = 0.0, y: float = 0.0) -> NDArray[np.float64]:
        return points[index] + (x, y)

    def eye(corners: NDArray[np.float64]) -> NDArray[np.bool_]:
        """With lids and folds, wider than the opening and higher, also where it is closed."""
        (centre_x, centre_y), width = corners.mean(0), np.linalg.norm(corners[3] - corners[0])
        return ((right - centre_x) / (0.75 * width)) ** 2 + ((low - centre_y) / 0.2) ** 2 <= 1

    def eyebrow(row: NDArray[np.float64]) -> NDArray[np.bool_]:
        wider = np.vstack([row[0] - (0.07, -0.02), row[1:4], row[4] + (0.07, 0.02)])
        lower = wider[::-1] + np.array([0, 0.13])
        return inside(wider - (0, 0.09), lower)

    brow, base = points[17:27, 1].mean(), points[33, 1]
    temples, half = (points[0] + points[16]) / 2, (points[0] - points[16]) / 2
    angles = np.linspace(np.pi, 0, 33)[:, None]
    # The face has three thirds: chin to nose, nose to brows, brows to hairline.
    top = temples - half * np.cos(angles) + np.sin(angles) * (0, min(2 * brow - base - temples[1], 0))
    oval = inside(points[:17], top)
    lips = points[48:60]
    nose_line = points[27, 0] + (low - points[27, 1]) * (points[8, 0] - points[27, 0]) / (
        points[8, 1] - points[27, 1]
    )
    return {
        "left_eye": eye(points[36:42]),
        "right_eye": eye(points[[45, 44, 43, 42, 47, 46]]),
        "left_eyebrow": eyebrow(points[17:22]),
        "right_eyebrow": eyebrow(points[22:27]),
        "mouth": inside(lips.mean(0) + 1.1 * (lips - lips.mean(0))),
        "nose": inside(
            at(27, -0.12, -0.05), at(27, 0.12, -0.05), at(29, 0.17), at(35, 0.1, -0.1), at(35, 0.09, 0.04),
            at(33, 0, 0.08), at(31, -0.09, 0.04), at(31, -0.1, -0.1), at(29, -0.17),
        ),
        "mouth_area": inside(
            at(31, -0.1, 0.04), at(33, 0, 0.04), at(35, 0.1, 0.04), at(54, 0.22), at(54, 0.18, 0.22),
            0.6 * points[57] + 0.4 * points[8], at(48, -0.18, 0.22), at(48, -0.22),
        ),
        "forehead": oval & (low < 0.45 * brow),
        "chin_jawline": oval & (low > (points[48, 1] + points[54, 1]) / 2),
        "left_cheek": oval & (right < nose_line),
        "right_cheek": oval,
        "left_ear": inside(
            at(0, 0, -0.25), at(0), at(1), at(2), at(2, -0.12), at(1, -0.28), at(0, -0.3, -0.25)
        ),
        "right_ear": inside(
            at(16, 0, -0.25), at(16), at(15), at(14), at(14, 0.12), at(15, 0.28), at(16, 0.3, -0.25)
        ),
    }  # fmt: skip


#: From the eyes to the base of the nose, in distances between the eyes, on dlib's mean face.
_NOSE = 0.78


class RegionShares(dict[str, dict[str, float]]):
    """Shares by face region; a dict that a notebook shows as a table.

    Made by :func:`~captum_face.maps.region_shares`.
    """

    def _repr_html_(self) -> str:
        kinds = list(next(iter(self.values()), {}))
        rows = (
            [region.replace("_", " "), *(f"{share[kind]:.0%}" for kind in kinds)]
            for region, share in self.items()
        )
        return table(["share of", *kinds], rows)


def region_shares(attr: Tensor, regions: Mapping[str, Tensor] | None = None) -> RegionShares:
    """How the evidence in one aligned face's map is shared among its regions.

    Args:
        attr: ``(1, C, H, W)`` or ``(1, H, W)``, signed.
        regions: Masks ``(H, W)`` bool by name, of which each pixel is in one: from :func:`face_regions`; None
            for those of ArcFace's template in the size of the map.

    Returns:
        For each region ``{"area": ..., "similar": ..., "dissimilar": ...}``: the region's share of the
        image's area, of the similarity map's sum and of the dissimilarity map's. Each of the three
        sums to 1 over the regions, and is all 0 where the map is empty. A share above the area means
        denser evidence than on average.

    Raises:
        ValueError: more than one image, or masks of another size.
    """
    height, width = attr.shape[-2:]
    if attr.shape[0] != 1:
        raise ValueError(f"expected the map of one aligned face (1, C, H, W), got {tuple(attr.shape)}")
    masks = face_regions(size=(height, width)) if regions is None else regions
    wrong = next((mask.shape for mask in masks.values() if mask.shape != (height, width)), None)
    if wrong is not None:
        raise ValueError(f"expected masks of {height} x {width} pixels as the map has, got {tuple(wrong)}")
    maps = [split.double().cpu()[0] for split in split_attribution(attr)]
    totals = [float(m.sum()) or 1.0 for m in maps]
    shares = RegionShares()
    for name, mask in masks.items():
        similar, dissimilar = (
            float(m[mask.cpu()].sum()) / total for m, total in zip(maps, totals, strict=True)
        )
        shares[name] = {
            "area": float(mask.double().mean()),
            "similar": similar,
            "dissimilar": dissimilar,
        }
    return shares
