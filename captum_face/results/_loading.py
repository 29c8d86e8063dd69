"""How saved results are read back; nothing in them is executed."""

from __future__ import annotations

import json
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from captum_face._validation import require_pair
from captum_face.data.alignment import FaceCheck
from captum_face.pair.scores import Distance, ScoreValue, Threshold, distance_of_summary
from captum_face.photos.crops import PhotoCrop

__all__ = ["Saved", "as_image", "read_saved"]

_FIGURES = (".png", ".pdf", ".svg")


@dataclass(frozen=True)
class Saved:
    """The summary and the arrays of one saved result."""

    path: Path  #: of the summary
    summary: dict[str, Any]
    arrays: dict[str, np.ndarray]

    def wrong(self, reason: str) -> ValueError:
        """What to raise where the files hold something else than what was saved."""
        return ValueError(
            f"expected {self.path} and its .npz as they were saved, {reason}; they were changed or damaged: "
            "explain anew"
        )

    def field(self, name: str, kind: type | tuple[type, ...]) -> Any:
        """One entry of the summary."""
        value = self.summary.get(name)
        if not isinstance(value, kind) or isinstance(value, bool):
            raise self.wrong(f"got {value!r} as {name}")
        return value

    def array(self, name: str) -> np.ndarray:
        """One array."""
        if name not in self.arrays:
            raise self.wrong(f"got no array {name}")
        return self.arrays[name]

    def tensor(self, name: str) -> Tensor:
        """One array of finite numbers ``(N, C, H, W)`` or ``(C, H, W)``, without the scale of pictures."""
        array = self.array(name)
        if array.dtype.kind != "f" or not np.isfinite(array).all():
            raise self.wrong(f"got {name} of the type {array.dtype} or with values that are not finite")
        return torch.from_numpy(array)

    def images(self, name: str) -> Tensor:
        """Images as :func:`as_image` stores them."""
        array = self.array(name)
        if array.dtype == np.uint8:
            return torch.from_numpy(array).float() / 255
        return self.tensor(name)

    def distance(self) -> Distance | None:
        """What scores stand for: what the file says, without the score's class."""
        try:
            return distance_of_summary(self.summary)
        except (KeyError, TypeError, ValueError) as error:
            raise self.wrong(f"got {self.summary['shown']!r} as shown") from error

    def score(self, value: float) -> ScoreValue:
        """A value of the score, which knows how it is read."""
        return ScoreValue(value, score=self._score_name(), distance=self.distance())

    def threshold(self) -> Threshold | None:
        """The threshold with its source."""
        value = self.summary.get("threshold")
        if value is None:
            return None
        return Threshold(
            float(self.field("threshold", (int, float))),
            self.field("threshold_source", str),
            self._score_name(),
            self.distance(),
        )

    def _score_name(self) -> str | None:
        name = self.field("protocol", dict).get("score")
        return name if isinstance(name, str) else None

    def check(self, entry: object) -> FaceCheck | None:
        """The check of an image, of which ``entry`` is the summary."""
        if entry is None:
            return None
        try:
            return FaceCheck.of_summary(entry)
        except (KeyError, TypeError, ValueError) as error:
            raise self.wrong(f"got {entry!r} as the check of an image") from error

    def crops(self, images: tuple[Tensor, Tensor]) -> tuple[PhotoCrop | None, PhotoCrop | None]:
        """Where the images were cut out of photos."""
        found: list[PhotoCrop | None] = []
        for side, image in zip("ab", images, strict=True):
            entry = (self.summary.get("photos") or {}).get(f"image_{side}")
            try:
                found.append(
                    entry
                    and PhotoCrop.of_summary(
                        entry, image, self.array(f"photo_{side}"), self.array(f"closeup_{side}")
                    )
                )
            except (KeyError, TypeError, AttributeError) as error:
                raise self.wrong(f"got {entry!r} as the photo of an image") from error
        return found[0], found[1]

    def pair(self, image_a: Tensor, image_b: Tensor) -> tuple[Tensor, Tensor]:
        """Two images that fit each other."""
        try:
            return require_pair((image_a, image_b))
        except (TypeError, ValueError) as error:
            raise self.wrong(f"got images that are none ({error})") from error


def as_image(image: Tensor) -> np.ndarray:
    """Images without loss: as bytes where float32 values are all of 0/255 to 255/255, else as they are."""
    image = image.detach().cpu()
    if image.dtype == torch.float32:
        pixels = (image * 255).round().clamp(0, 255).to(torch.uint8)
        if torch.equal(pixels.float() / 255, image):
            return pixels.numpy()
    return (image.float() if image.dtype == torch.bfloat16 else image).numpy()


def read_saved(path: str | Path, kind: str, made_by: str) -> Saved:
    """Reads what one result's ``save`` wrote.

    Args:
        path: One of its files, or a folder that holds one such result alone.
        kind: ``"explanation"`` or ``"identification"``.
        made_by: What saves such results, as messages shall call it.

    Raises:
        FileNotFoundError: nothing there.
        ValueError: several results in a folder, another kind of result, a file that is none, is damaged,
            or was saved by a version that did not keep the images.
    """
    path = Path(path)
    if path.is_dir():
        summary_path = _only_one(path, kind, made_by)
    elif path.suffix in (".json", ".npz", *_FIGURES):
        figure = path.with_suffix("") if path.stem.endswith(".photos") else path
        summary_path = figure.with_suffix(".json")
    else:
        raise _missing_or_foreign(path, kind, made_by)
    if not path.exists() and not summary_path.is_file():
        raise _missing_or_foreign(path, kind, made_by)
    summary = _read_summary(summary_path)
    found = _kind(summary)
    if found != kind:
        what = f"one of {found}" if found else "another file"
        raise ValueError(
            f"expected the files of an {kind}, as {made_by} saves them, got {what}: {summary_path}"
        )
    maps_path = summary_path.with_suffix(".npz")
    saved = Saved(summary_path, summary, _read_arrays(maps_path))
    if "kind" not in summary:
        version = summary.get("versions", {}).get("captum_face", "an older version")
        raise ValueError(
            f"expected files with the images in them, got {maps_path} of captum_face {version}, which did "
            "not save them; explain anew, or read the maps with numpy.load"
        )
    return saved


def _kind(summary: object) -> str | None:
    """What a summary is of; summaries of version 0.1.0 are told by their entries."""
    if not isinstance(summary, dict):
        return None
    if "kind" in summary:
        return str(summary["kind"])
    if {"method", "protocol", "versions"} <= summary.keys():
        return "identification" if "probe" in summary else "explanation"
    return None


def _only_one(folder: Path, kind: str, made_by: str) -> Path:
    """The summary of the one result in a folder."""
    found = []
    for path in sorted(folder.glob("*.json")):
        try:
            if _kind(_read_summary(path)) == kind:
                found.append(path)
        except ValueError:
            if path.with_suffix(".npz").exists():  # a damaged summary beside its maps is not passed over
                raise
    if not found:
        raise FileNotFoundError(
            f"expected a folder with an {kind}, as {made_by} saves it, got none in {folder}"
        )
    if len(found) > 1:
        names = ", ".join(path.name for path in found[:5]) + (", ..." if len(found) > 5 else "")
        raise ValueError(f"expected one {kind} in {folder}, got {len(found)}; give one of the files: {names}")
    return found[0]


def _missing_or_foreign(path: Path, kind: str, made_by: str) -> Exception:
    wanted = f"expected a folder or a file (.json, .npz or the figure) of an {kind}, as {made_by} saves it"
    if path.exists():
        return ValueError(f"{wanted}, got {path}")
    return FileNotFoundError(f"{wanted}, found nothing at {path}")


def _read_summary(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(f"expected the summary {path} beside the other files, found none") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"expected a summary in JSON, got {path}, which is damaged or another file"
        ) from error


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise FileNotFoundError(f"expected the maps {path} beside the summary, found none")
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (
        AttributeError,  # an array alone
        EOFError,
        KeyError,
        NotImplementedError,
        OSError,
        RuntimeError,
        TypeError,  # an array alone is no context manager
        ValueError,  # pickles, among others
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        raise ValueError(
            f"expected the maps as a .npz file of numbers, got {path}, which is damaged or another file"
        ) from error
