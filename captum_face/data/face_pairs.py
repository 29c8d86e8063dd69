"""Pairs of face images with their labels, read when they are asked for."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from numbers import Integral
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from captum_face._validation import require_generator, require_labels, require_positive_int
from captum_face.data.images import load_image

__all__ = ["FacePair", "FacePairs", "ImageFiles", "ImageSource"]


class FacePair(NamedTuple):
    """One pair; PyTorch's ``DataLoader`` makes batches of it with the same fields.

    Attributes:
        image_a: Probe ``(3, H, W)``, float RGB in [0, 1].
        image_b: The other image, likewise and of the same size.
        same: ``()`` bool, True if both show one person (a genuine pair).
    """

    image_a: Tensor
    image_b: Tensor
    same: Tensor


class ImageSource(ABC):
    """Where the images of pairs come from; remembers the few that were asked for last.

    A subclass says how an image is read (:meth:`_read`) and what it is (:meth:`identity`). Data sets
    that share a source, as a subset does with its origin, share its memory too.
    """

    #: How many images are remembered: those of 112 px take 150 kB each.
    remembered = 32

    def __init__(self) -> None:
        self._recent: dict[str, Tensor] = {}  # in the order of their last use

    @abstractmethod
    def _read(self, name: str) -> Tensor:
        """The image ``(3, H, W)``, float RGB in [0, 1]; ValueError or OSError if it cannot be had."""

    @abstractmethod
    def identity(self, name: str) -> str:
        """What changes when the image, or what :meth:`truth` says of it, does: as a hash of its file."""

    def truth(self, name_a: str, name_b: str) -> tuple[Tensor, Tensor] | None:
        """Masks ``(H, W)`` bool of what is known to differ in either image of a pair, if it is known."""
        return None

    def image(self, name: str) -> Tensor:
        """The image ``(3, H, W)``: a copy, so that what its user does to it stays with them."""
        image = self._recent.pop(name, None)
        if image is None:
            image = self._read(name)
            while len(self._recent) >= self.remembered:
                del self._recent[next(iter(self._recent))]
        self._recent[name] = image
        return image.clone()

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"_recent": {}}  # a worker process fills its own


class ImageFiles(ImageSource):
    """Images that lie in files.

    Args:
        paths: The file of each image's name.
    """

    def __init__(self, paths: Mapping[str, Path]) -> None:
        super().__init__()
        self.paths = dict(paths)

    def _read(self, name: str) -> Tensor:
        return load_image(self.paths[name])[0]

    def identity(self, name: str) -> str:
        return hashlib.sha256(self.paths[name].read_bytes()).hexdigest()


class FacePairs(Dataset[FacePair]):
    """Labelled pairs of face images; an image is read when it is asked for.

    ``pairs[i]`` is a :class:`FacePair`. Works with PyTorch's ``DataLoader``, worker processes
    included, where all images are of one size. The images asked for last are remembered, so an image
    that neighbouring pairs share is decoded once; no image is held twice.

    Args:
        names: The names of both images of each pair; an image that several pairs share has one name.
        same: For each pair whether both images show one person.
        images: Where the images come from.
        source: What the pairs were read from, for messages and for the record of a run.
        places: For each pair where it stands in ``source`` (``"line 7"``), for messages.
        folds: For each pair the part of a cross-validation that it belongs to, if there is one.

    Attributes:
        names: As given.
        same: ``(N,)`` bool, True for genuine pairs.
        source: As given.
        folds: ``(N,)`` int64 from 0, or None.
        image_names: The names of all images, in the order of their first appearance.

    Raises:
        TypeError: labels that are not numbers.
        ValueError: numbers of names, labels, places or folds that differ, or a label that is neither 0 nor 1.

    Examples::

        >>> from torch.utils.data import DataLoader
        >>> from captum_face.data import synthetic_pairs
        >>> pairs = synthetic_pairs(6)
        >>> pairs
        FacePairs(6 pairs, 2 of them genuine, of 12 images; source='synthetic_pairs(6, seed=0)')
        >>> pairs[0].image_a.shape, pairs[0].same
        (torch.Size([3, 112, 112]), tensor(True))
        >>> [batch.image_b.shape[0] for batch in DataLoader(pairs, batch_size=4)]
        [4, 2]
    """

    def __init__(
        self,
        names: Sequence[tuple[str, str]],
        same: Sequence[bool] | Tensor,
        images: ImageSource,
        *,
        source: str,
        places: Sequence[str] | None = None,
        folds: Sequence[int] | Tensor | None = None,
    ) -> None:
        self.names = tuple((a, b) for a, b in names)
        self.same = require_labels(same, len(self.names))
        self.source = source
        self.folds = None if folds is None else torch.as_tensor(folds, dtype=torch.int64)
        self._first_use: dict[str, int] = {}
        for i, two in enumerate(self.names):
            for name in two:
                self._first_use.setdefault(name, i)
        self.image_names = tuple(self._first_use)
        self._images = images
        self._places = None if places is None else tuple(places)
        for what, rows in (("places", self._places), ("folds", self.folds)):
            if rows is not None and len(rows) != len(self.names):
                raise ValueError(f"expected {what} for {len(self.names)} pairs, got {len(rows)}")

    def __repr__(self) -> str:
        return (
            f"FacePairs({len(self)} pairs, {int(self.same.sum())} of them genuine, "
            f"of {len(self.image_names)} images; source={self.source!r})"
        )

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> FacePair:
        """Reads a pair; a negative index counts from the end.

        Raises:
            IndexError: there is no such pair.
            ValueError: an image cannot be read, or the two differ in size.
        """
        index = self._index(index)
        image_a, image_b = (self._read(name, index) for name in self.names[index])
        if image_a.shape != image_b.shape:
            sizes = " and ".join(
                f"{name} of {image.shape[1]}x{image.shape[2]}"
                for name, image in zip(self.names[index], (image_a, image_b), strict=True)
            )
            raise ValueError(
                f"{self._place(index)}: expected two images of one size, got {sizes} (height x width); "
                "align and crop all faces alike"
            )
        return FacePair(image_a, image_b, self.same[index])

    def image(self, name: str) -> Tensor:
        """Reads an image by its name: ``(3, H, W)``, float RGB in [0, 1].

        Raises:
            ValueError: no pair has such an image, or it cannot be read.
        """
        if name not in self._first_use:
            like = f", such as {self.image_names[0]!r}" if self.image_names else ""
            raise ValueError(f"expected the name of an image of {self.source}{like}, got {name!r}")
        return self._read(name, self._first_use[name])

    def truth(self, index: int) -> tuple[Tensor, Tensor] | None:
        """Where the two images of a pair are known to differ: masks ``(H, W)`` bool for a and b.

        None where nobody knows, as for photos.

        Raises:
            IndexError: there is no such pair.
        """
        return self._images.truth(*self.names[self._index(index)])

    def subset(self, indices: Sequence[int] | Tensor) -> FacePairs:
        """Some of the pairs, in the order given.

        Args:
            indices: Their numbers; for a mask give ``mask.nonzero().flatten()``.

        Raises:
            IndexError: there is no such pair.
            TypeError: an index is no integer.
        """
        rows = [self._index(i) for i in (indices.tolist() if isinstance(indices, Tensor) else indices)]
        return FacePairs(
            [self.names[i] for i in rows],
            self.same[rows],
            self._images,
            source=self.source,
            places=None if self._places is None else [self._places[i] for i in rows],
            folds=None if self.folds is None else self.folds[rows],
        )

    def balanced(self, n: int, seed: int = 0) -> FacePairs:
        """``n`` pairs drawn at random, half of them genuine, in their original order.

        Where a class has too few pairs, all of them are taken and the other one fills up; of an odd
        ``n`` the genuine pairs get one more. With the same seed a smaller draw is part of a larger one.

        Args:
            n: Number of pairs.
            seed: Decides which; the same seed gives the same pairs.

        Raises:
            ValueError: there are fewer than ``n`` pairs.
        """
        n = require_positive_int(n, "n")
        if n > len(self):
            raise ValueError(f"expected n of at most {len(self)}, the pairs of {self.source}, got {n}")
        generator = require_generator(seed, None)
        genuine, impostor = (
            rows[torch.randperm(len(rows), generator=generator)]
            for rows in (self.same.nonzero().flatten(), (~self.same).nonzero().flatten())
        )
        n_genuine = min(max((n + 1) // 2, n - len(impostor)), len(genuine))
        chosen = torch.cat([genuine[:n_genuine], impostor[: n - n_genuine]])
        return self.subset(chosen.sort().values)

    def fingerprint(self) -> str:
        """A SHA-256 (hexadecimal) of everything that defines these pairs.

        Covers names, labels, folds and the contents of the images, not where they lie: the same files
        in another folder have the same fingerprint. Files are read once in full, about a second for
        the 13 000 images of LFW. Synthetic faces count by the arguments they are drawn from, so
        compare the package's version too.

        Raises:
            ValueError: an image's file cannot be read.
        """
        digest = hashlib.sha256()
        content = {
            "names": self.names,
            "same": self.same.tolist(),
            "folds": None if self.folds is None else self.folds.tolist(),
        }
        digest.update(json.dumps(content).encode())
        for name in self.image_names:
            digest.update(f"\n{self.identity(name)}".encode())
        return digest.hexdigest()

    def identity(self, name: str) -> str:
        """What changes when an image does: the SHA-256 of its file, or what a synthetic face is drawn from.

        Raises:
            ValueError: the image's file cannot be read.
        """
        try:
            return self._images.identity(name)
        except OSError as error:
            raise ValueError(f"could not read the image {name} of {self.source}: {error}") from error

    def _index(self, index: int) -> int:
        if isinstance(index, bool) or not isinstance(index, Integral):
            raise TypeError(f"expected the index of a pair as an integer, got {index!r}")
        if not -len(self) <= index < len(self):
            raise IndexError(f"expected a pair below {len(self)}, the pairs of {self.source}, got {index}")
        return int(index) % len(self)

    def _place(self, index: int) -> str:
        where = self.source if self._places is None else f"{self._places[index]} of {self.source}"
        return f"pair {index} ({where})"

    def _read(self, name: str, index: int) -> Tensor:
        try:
            return self._images.image(name)
        except (ValueError, OSError) as error:
            raise ValueError(f"{self._place(index)}: {error}") from error
