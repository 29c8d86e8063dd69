"""Every method by name: what the contract tests, ``explain`` and the command line run over."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from captum_face._validation import require_choice
from captum_face.attr._base import PairAttribution
from captum_face.attr.corrrise import CorrRISE
from captum_face.attr.fggb import FGGB

__all__ = ["METHODS", "Method", "get_method"]


@dataclass(frozen=True)
class Method:
    """A registered method."""

    name: str  #: what ``explain(method=...)`` and ``--method`` call it
    build: Callable[[Any], PairAttribution]  #: from the ``forward_func``
    family: str  #: ``"feature-guided"``, ``"occlusion"``, ...
    needs_gradients: bool  #: whether the model must be differentiable, and a PairSimilarity
    deterministic: bool  #: whether equal inputs give equal maps without a seed
    passes: str  #: forward and backward passes for a pair, D = embedding size
    source: str  #: the publication


#: All methods, in the order in which tables list them.
METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method(
            "fggb",
            FGGB,
            "feature-guided",
            True,
            True,
            "2 D backward, 12 forward",
            "arXiv 2403.04549",
        ),
        Method(
            "corrrise",
            CorrRISE,
            "occlusion",
            False,
            False,
            "2 n_masks + 2 forward",
            "arXiv 2305.08546",
        ),
    )
}


def get_method(name: str) -> Method:
    """The registered method of that name.

    Raises:
        ValueError: no such method; the message says the nearest one.
    """
    return METHODS[require_choice(name, METHODS, "method")]
