"""What a detector is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from captum_face.photos.faces import Face
from captum_face.photos.photo import Photo

__all__ = ["Detector"]


@runtime_checkable
class Detector(Protocol):
    """Finds faces in photos. One of your own needs no base class, just this method.

    A ``name`` is shown in messages, and ``tried(photo)``, if it is there, says in words what was looked at
    where no face was found.
    """

    def find(self, photo: Photo) -> Sequence[Face]:
        """The faces, in any order."""
        ...
