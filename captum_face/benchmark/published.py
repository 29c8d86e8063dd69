"""Values that papers report, to stand beside those of a run."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["PUBLISHED", "Published"]


class Published(NamedTuple):
    """One value of a paper's table."""

    method: str  #: its name in the registry
    metric: str  #: the benchmark's metric of the same protocol
    percent: float  #: area under the accuracy curve
    source: str  #: where it stands


_FGGB, _CORRRISE = "LFW, arXiv 2403.04549", "LFW, arXiv 2305.08546"

#: Deletion and insertion on LFW.
PUBLISHED = (
    Published("fggb", "published_deletion", 24.18, _FGGB),
    Published("corrrise", "published_deletion", 24.51, _FGGB),
    Published("corrrise", "published_deletion", 23.29, _CORRRISE),
    Published("corrrise", "published_insertion", 85.70, _CORRRISE),
    Published("layer_gradcam", "published_deletion", 50.65, _CORRRISE),
    Published("layer_gradcam", "published_insertion", 65.00, _CORRRISE),
    Published("fggb", "published_dissimilar_deletion", 44.03, _FGGB),
    Published("xssab", "published_dissimilar_deletion", 49.72, _FGGB),
)
