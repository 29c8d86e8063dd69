"""Pairs of faces from files, and synthetic ones: all of one type, :class:`FacePairs`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from captum_face._validation import require_choice, require_positive_int
from captum_face.data import synthetic
from captum_face.data.bin import read_bin
from captum_face.data.face_pairs import FacePair, FacePairs, ImageSource
from captum_face.data.lists import read_csv, read_lfw

__all__ = [
    "FacePair",
    "FacePairs",
    "RenderedImages",
    "read_bin",
    "read_csv",
    "read_lfw",
    "read_pairs",
    "synthetic_pairs",
]

# The generators behind synthetic faces know 2**31 seeds. Each data set has its own 2**16 of them, so
# that no two data sets share a person; the first 2**16 stay with those who draw faces one by one.
_PAIRS = 2**16
_SEEDS = 2**15 - 1


def read_pairs(path: str | Path, images: str | Path | None = None) -> FacePairs:
    """Reads pairs from a file, by its ending: ``.csv``, ``.txt`` (LFW's ``pairs.txt``) or ``.bin``.

    A file with another ending is judged by how it begins.

    Args:
        path: The file; see :func:`read_csv`, :func:`read_lfw` and :func:`read_bin`.
        images: The folder of images, for the two lists; None for the folder of ``path``.

    Raises:
        FileNotFoundError: no such file, or images are missing.
        ValueError: the file is none of these or damaged, or ``images`` is given beside a ``.bin`` file.
    """
    kind = _kind(Path(path))
    if kind == ".bin":
        if images is not None:
            raise ValueError(f"expected no folder of images beside {path}, which holds its own, got {images}")
        return read_bin(path)
    return read_csv(path, images) if kind == ".csv" else read_lfw(path, images)


def _kind(path: Path) -> str:
    if path.suffix.lower() in (".csv", ".txt", ".bin"):
        return path.suffix.lower()
    if not path.is_file():
        found = "a folder" if path.is_dir() else "nothing"
        raise FileNotFoundError(f"expected a file of pairs (.csv, .txt or .bin), found {found} at {path}")
    with path.open("rb") as file:
        start = file.read(256)
    line = start.splitlines()[0] if start else b""
    if start[:1] == b"\x80":
        return ".bin"
    if b"image_a" in line:
        return ".csv"
    if line.replace(b"\t", b"").replace(b" ", b"").isdigit():
        return ".txt"
    raise ValueError(
        f"expected pairs as CSV (image_a,image_b,same), LFW's pairs.txt or an InsightFace .bin in {path}, "
        f"got a file that starts with {line[:32]!r}"
    )


class RenderedImages(ImageSource):
    """Synthetic faces, drawn when they are asked for.

    Args:
        pairs: What to draw for each pair of names: the seed, whether both are one person, and the parts
            of the second that are another's (see :func:`captum_face.data.synthetic.pair`).
        strength: How much the photos vary (0 to 1).
    """

    def __init__(
        self, pairs: dict[tuple[str, str], tuple[int, bool, tuple[str, ...]]], strength: float
    ) -> None:
        super().__init__()
        self.pairs = pairs
        self.strength = strength
        self._of_image = {name: names for names in pairs for name in names}
        self._last: tuple[tuple[str, str], synthetic.SyntheticPair] | None = None

    def _pair(self, names: tuple[str, str]) -> synthetic.SyntheticPair:
        # Both images and the masks come from one drawing.
        if self._last is None or self._last[0] != names:
            seed, same, changed = self.pairs[names]
            self._last = (
                names,
                synthetic.pair(seed, same=same, changed=changed, strength=self.strength),
            )
        return self._last[1]

    def _read(self, name: str) -> Tensor:
        names = self._of_image[name]
        drawn = self._pair(names)
        return (drawn.image_a if name == names[0] else drawn.image_b)[0]

    def identity(self, name: str) -> str:
        return repr((self.pairs[self._of_image[name]], self.strength))

    def truth(self, name_a: str, name_b: str) -> tuple[Tensor, Tensor] | None:
        if not self.pairs[name_a, name_b][2]:
            return None
        drawn = self._pair((name_a, name_b))
        return drawn.mask_a[0].clone(), drawn.mask_b[0].clone()


def synthetic_pairs(
    n: int,
    seed: int = 0,
    *,
    changed: Sequence[str] = ("brows", "eyes", "mouth"),
    strength: float = 0.5,
) -> FacePairs:
    """Pairs of synthetic faces, a third of them with a known difference, drawn when they are asked for.

    By turns: a genuine pair (two photos of one person), an impostor pair (two people), and a *changed*
    pair: one person, but in image b the parts ``changed`` are another's. Other parts make another
    person, so changed pairs count as impostors, and ``truth`` gives the masks of what differs; for the
    others it gives None. No two pairs share a person, whatever their seeds, and the pairs of a smaller
    ``n`` are the first of a larger one.

    Args:
        n: Number of pairs, up to 65 536.
        seed: Decides people and photos (0 to 32 766).
        changed: Parts that differ in changed pairs, of :data:`captum_face.data.synthetic.PARTS`.
        strength: How much light, pose, expression, background and noise vary (0 to 1).

    Raises:
        ValueError: an unknown part or none, or a number out of range.

    Examples::

        >>> pairs = synthetic_pairs(3, seed=1)
        >>> pairs.same.tolist()
        [True, False, False]
        >>> [pairs.truth(i) is not None for i in range(3)]
        [False, False, True]
    """
    n = require_positive_int(n, "n")
    if n > _PAIRS:
        raise ValueError(f"expected n of at most {_PAIRS} pairs, got {n}")
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < _SEEDS:
        raise ValueError(f"expected seed as an integer from 0 to {_SEEDS - 1}, got {seed!r}")
    listed = (changed,) if isinstance(changed, str) else changed
    parts = tuple(require_choice(part, synthetic.PARTS, "face part") for part in listed)
    if not parts:
        raise ValueError(f"expected at least one part to change, of {', '.join(synthetic.PARTS)}, got none")
    kinds: tuple[tuple[bool, tuple[str, ...]], ...] = ((True, ()), (False, ()), (True, parts))
    drawn = {
        (f"synthetic-{seed}-{i:05d}-a", f"synthetic-{seed}-{i:05d}-b"): (
            _PAIRS * (seed + 1) + i,
            *kinds[i % 3],
        )
        for i in range(n)
    }
    given = "" if parts == ("brows", "eyes", "mouth") else f", changed={parts}"
    given += "" if strength == 0.5 else f", strength={strength}"
    return FacePairs(
        list(drawn),
        [same and not parts for _, same, parts in drawn.values()],
        RenderedImages(drawn, strength),
        source=f"synthetic_pairs({n}, seed={seed}{given})",
    )
