"""Signed maps: splitting by sign, smoothing, ranks, face regions."""

from captum_face.maps.ranks import average_ranks, rank_correlations, spearman
from captum_face.maps.regions import face_regions, region_shares
from captum_face.maps.signed import pixel_map, smooth, split_attribution

__all__ = [
    "average_ranks",
    "face_regions",
    "pixel_map",
    "rank_correlations",
    "region_shares",
    "smooth",
    "spearman",
    "split_attribution",
]
