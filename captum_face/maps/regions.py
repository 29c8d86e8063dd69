"""Regions of an aligned face, and how a map's evidence is shared among them.

They are drawn around the five landmarks of the 112 x 112 template to which ArcFace-style models align
(left eye, right eye, nose tip, mouth corners). Left and right are the viewer's. On images that are not
aligned to it they mean nothing: :func:`~captum_face.data.check_faces` tells clear cases.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from captum_face._notebook import table
from captum_face.maps.signed import split_attribution

__all__ = ["LANDMARKS", "TEMPLATE_SIZE", "RegionShares", "face_regions", "region_shares"]

#: Side of the aligned crop in pixels.
TEMPLATE_SIZE = 112

#: ``(x, y)`` of the template's landmarks in pixels.
LANDMARKS: dict[str, tuple[float, float]] = {
    "left_eye": (38.2946, 51.6963),
    "right_eye": (73.5318, 51.5014),
    "nose": (56.0252, 71.7366),
    "mouth_left": (41.5493, 92.3655),
    "mouth_right": (70.7299, 92.2041),
}


@lru_cache(maxsize=1)
def face_regions() -> dict[str, Tensor]:
    """Masks ``(112, 112)`` bool by name. Each pixel is in exactly one region.

    ``surroundings`` is what lies outside the face: hair, ears, neck, background.
    """
    y, x = torch.meshgrid(torch.arange(TEMPLATE_SIZE), torch.arange(TEMPLATE_SIZE), indexing="ij")

    def ellipse(centre: tuple[float, float], width: float, height: float) -> Tensor:
        return ((x - centre[0]) / width).square() + ((y - centre[1]) / height).square() <= 1

    (left_x, left_y), (right_x, right_y) = LANDMARKS["left_eye"], LANDMARKS["right_eye"]
    nose_x, nose_y = LANDMARKS["nose"]
    mouth_y = (LANDMARKS["mouth_left"][1] + LANDMARKS["mouth_right"][1]) / 2
    eye_y = (left_y + right_y) / 2
    face = ellipse((nose_x, 63), 43, 52)
    # The nose widens from its root between the eyes to its wings just below the tip.
    nose = (
        (y >= eye_y - 3)
        & (y <= nose_y + 7)
        & ((x - nose_x).abs() <= 5 + 8 * (y - eye_y + 3) / (nose_y + 10 - eye_y))
    )
    drawn = {
        "left_eye": ellipse((left_x, left_y), 12, 7),
        "right_eye": ellipse((right_x, right_y), 12, 7),
        "left_brow": (y >= eye_y - 17) & (y < eye_y - 5) & ((x - left_x).abs() <= 15),
        "right_brow": (y >= eye_y - 17) & (y < eye_y - 5) & ((x - right_x).abs() <= 15),
        "nose": nose,
        "mouth": ellipse((nose_x, mouth_y), 20, 9),
        "forehead": face & (y < eye_y - 5),
        "chin": face & (y > mouth_y),
        "left_cheek": face & (x < nose_x),
        "right_cheek": face,
        "surroundings": torch.ones_like(face),
    }
    # In this order: each region takes what those before it left.
    free = torch.ones_like(face)
    regions = {}
    for name, mask in drawn.items():
        regions[name] = mask & free
        free &= ~mask
    return regions


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


def region_shares(attr: Tensor) -> RegionShares:
    """How the evidence in one aligned face's map is shared among its regions.

    Args:
        attr: ``(1, C, 112, 112)`` or ``(1, 112, 112)``, signed.

    Returns:
        For each region ``{"area": ..., "similar": ..., "dissimilar": ...}``: the region's share of the
        image's area, of the similarity map's sum and of the dissimilarity map's. Each of the three
        sums to 1 over the regions, and is all 0 where the map is empty. A share above the area means
        denser evidence than on average.

    Raises:
        ValueError: another size than 112 x 112, or more than one image.
    """
    if attr.shape[0] != 1 or tuple(attr.shape[-2:]) != (TEMPLATE_SIZE, TEMPLATE_SIZE):
        raise ValueError(
            f"expected one aligned {TEMPLATE_SIZE}x{TEMPLATE_SIZE} map (1, C, H, W), got {tuple(attr.shape)}"
        )
    maps = [split.double().cpu()[0] for split in split_attribution(attr)]
    totals = [float(m.sum()) or 1.0 for m in maps]
    shares = RegionShares()
    for name, mask in face_regions().items():
        similar, dissimilar = (float(m[mask].sum()) / total for m, total in zip(maps, totals, strict=True))
        shares[name] = {
            "area": float(mask.double().mean()),
            "similar": similar,
            "dissimilar": dissimilar,
        }
    return shares
