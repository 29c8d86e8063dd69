"""Layer-wise relevance propagation for face networks, on Zennit.

Needs the extra ``lrp``: ``pip install "captum-face[lrp]"``. Nothing outside of this package imports
Zennit, which imports torchvision, which fails where its build does not match that of torch.

The embedding model is traced in its order of execution and rewritten, as a copy, into layers that have
relevance rules (:func:`canonize`); a composite assigns the rules (:func:`face`,
:func:`resolve_composite`); and relevance is sent from embedding channels down to the image
(:class:`Propagation`, :func:`relevance_maps_chunked`).
"""

from __future__ import annotations

try:
    import zennit.core  # noqa: F401  (imports torchvision)
except ModuleNotFoundError as error:
    raise ImportError(
        f"LRP needs the package {error.name}, which is not installed; install the extra: "
        'pip install "captum-face[lrp]"'
    ) from error
except Exception as error:  # torchvision of another build fails with a RuntimeError
    raise ImportError(
        f"LRP needs zennit, whose import failed: {error}. If that names torchvision, its build does not "
        "match that of torch: install torch and torchvision together, from the same index, and then "
        'pip install "captum-face[lrp]"'
    ) from error

from captum_face.lrp.canonizers import canonize
from captum_face.lrp.composites import COMPOSITES, face, resolve_composite
from captum_face.lrp.propagation import Propagation, relevance_maps_chunked
from captum_face.lrp.rules import Signed

__all__ = [
    "COMPOSITES",
    "Propagation",
    "Signed",
    "canonize",
    "face",
    "relevance_maps_chunked",
    "resolve_composite",
]
