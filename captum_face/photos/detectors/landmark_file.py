"""Landmarks of one's own, from a file."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from captum_face._files import printable
from captum_face.maps.templates import FIVE_POINTS
from captum_face.photos.faces import Face
from captum_face.photos.photo import Photo

__all__ = ["LandmarkFile"]

_BOX = ("box_left", "box_top", "box_right", "box_bottom")
_SIZE = ("photo_width", "photo_height")
#: Half a face's box in root mean square distances of its five landmarks from their mean.
_HALF_BOX = 1.7


@dataclass(frozen=True)
class _Listed:
    """What one row says."""

    landmarks: dict[str, tuple[float, float]]  # empty if the photo is listed without a face
    box: tuple[float, float, float, float] | None = None
    confidence: float | None = None
    outline: NDArray[np.float64] | None = None
    size: tuple[int, int] | None = None  # width and height of the photo


class LandmarkFile:
    """Landmarks that another program found or a person clicked, from a CSV or JSON file.

    A CSV file has a row for each face and these columns; others are ignored:

    - ``image``: the photo's path below the folder of the file or below any other, such as ``a.jpg`` or
      ``holidays/a.jpg``.
    - ``left_eye_x``, ``left_eye_y``, and so on for all of :data:`FIVE_POINTS`, in pixels of the upright
      photo, the centre of the first pixel being (0, 0); left and right are the viewer's. Further points
      (``NAME_x``, ``NAME_y``) are landmarks too. A row without any says that the photo shows no face.
    - if you have them: ``box_left``, ``box_top``, ``box_right``, ``box_bottom``, else a box is made around
      the five points; ``confidence``; ``outline_0_x`` to ``outline_67_y``, the 68 points of iBUG;
      ``photo_width`` and ``photo_height``, by which landmarks of another picture are noticed.

    A JSON file holds a list of objects ``{"image": "a.jpg", "landmarks": {"left_eye": [x, y], ...}}``, if you
    have them with ``"box": [left, top, right, bottom]``, ``"confidence"``, ``"outline": [[x, y], ...]``,
    ``"photo_width"`` and ``"photo_height"``.

    The ``faces.csv`` of ``captum-face align`` is such a file.

    Args:
        path: ``FILE.csv`` or ``FILE.json``, in UTF-8.
        folder: Where the photos' paths begin; None for the folder of the file. Photos that are elsewhere are
            found by the end of their path, if that is clear.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is none of these, is empty, or lacks a column; a value is no number.

    Example::

        >>> from captum_face.photos import FIVE_POINTS
        >>> points = dict(zip(FIVE_POINTS, [[30, 40], [70, 40], [50, 60], [35, 80], [65, 80]]))
        >>> folder = getfixture("tmp_path")
        >>> _ = (folder / "own.json").write_text(json.dumps([{"image": "a.jpg", "landmarks": points}]))
        >>> photo = Photo(np.zeros((120, 100, 3), np.uint8), "a.jpg")
        >>> LandmarkFile(folder / "own.json").find(photo)
        [Face(box=(9, 19, 91, 101) of a.jpg)]
    """

    def __init__(self, path: str | Path, *, folder: str | Path | None = None) -> None:
        self.path = Path(path)
        self.folder = self.path.parent if folder is None else Path(folder)
        self.name = f"the landmark file {self.path}"
        if not self.path.is_file():
            found = "a folder" if self.path.is_dir() else "nothing"
            raise FileNotFoundError(f"expected landmarks in a .csv or .json file, found {found} at {path}")
        data = self.path.read_bytes()
        self._digest = hashlib.sha256(data).hexdigest()[:12]
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise ValueError(
                f"expected landmarks as text in UTF-8, got {path}, of which byte {error.start} is none; "
                "save it as UTF-8"
            ) from error
        rows = self._json(text) if self.path.suffix.lower() == ".json" else self._csv(text)
        self._listed: dict[tuple[str, ...], list[_Listed]] = {}
        for image, listed in rows:
            self._listed.setdefault(_parts(image), []).append(listed)
        self._by_name: dict[str, list[tuple[str, ...]]] = {}
        for key in self._listed:
            self._by_name.setdefault(key[-1], []).append(key)
        if not self._listed:
            raise ValueError(f"expected landmarks in {path}, got a file that lists no image")

    def __repr__(self) -> str:
        return f"LandmarkFile({self.path.name}, {len(self._listed)} images, sha256 {self._digest})"

    def find(self, photo: Photo) -> list[Face]:
        faces = []
        for listed in self._listed[self._entry(photo)]:
            if listed.size is not None and listed.size != photo.size[::-1]:
                raise ValueError(
                    f"expected {photo.name} with {listed.size[0]} x {listed.size[1]} pixels as {self.path} "
                    f"says, got {photo.size[1]} x {photo.size[0]}: the landmarks are of another picture, or "
                    "were found before it was turned upright"
                )
            if listed.landmarks:
                box = listed.box or _box_around(listed.landmarks)
                faces.append(Face(photo, box, listed.landmarks, listed.confidence, listed.outline))
        return faces

    def tried(self, photo: Photo) -> str:
        """What the file says, in words."""
        return f"{self.name} lists it without a face"

    def _entry(self, photo: Photo) -> tuple[str, ...]:
        """The key under which the file lists a photo.

        Raises:
            ValueError: under none, or it is not clear under which.
        """
        own = _parts(photo.name if photo.path is None else os.path.abspath(photo.path))
        same_name = self._by_name.get(own[-1], [])
        for key in same_name:
            if photo.path is not None and _parts(os.path.abspath(self.folder / Path(*key))) == own:
                return key
        ends = [key for key in same_name if own[-len(key) :] == key]
        best = max(ends, key=len, default=None)
        if best is not None and (len(best) > 1 or len(same_name) == 1):
            return best
        shown = ", ".join("/".join(key).replace("//", "/") for key in same_name[:5])
        if best is not None:
            raise ValueError(
                f"expected one image that can be {photo.name} in {self.path}, got several of this file name "
                f"({shown}); say in which folder their paths begin with LandmarkFile(path, folder=...), or "
                "put the file there"
            )
        if same_name:
            raise ValueError(
                f"expected {photo.path or photo.name} in {self.path}, which lists images of this file name "
                f"in other folders alone: {shown}; write their paths as they are"
            )
        hint = (
            "; name an image that is no file with load_photo(image, name=...)" if photo.path is None else ""
        )
        raise ValueError(
            f"expected {photo.name} in {self.path}, which does not list it among its {len(self._listed)} "
            f"images{hint}"
        )

    def _csv(self, text: str) -> Iterator[tuple[str, _Listed]]:
        rows = csv.DictReader(io.StringIO(text, newline=""))
        columns = [name.strip() for name in rows.fieldnames or ()]
        rows.fieldnames = columns
        points = {name[:-2] for name in columns if name.endswith("_x") and f"{name[:-2]}_y" in columns}
        needed = ["image", *(f"{name}_{axis}" for name in FIVE_POINTS for axis in "xy")]
        missing = [name for name in needed if name not in columns]
        if missing:
            found = f"got {', '.join(columns[:12])}" if any(columns) else "got an empty file"
            hint = "; separate them by commas" if any(";" in name or "\t" in name for name in columns) else ""
            raise ValueError(f"expected the columns {', '.join(missing)} in {self.path}, {found}{hint}")
        outline = [f"outline_{i}" for i in range(68)] if "outline_0" in points else []
        if absent := [name for name in outline if name not in points]:
            raise ValueError(
                f"expected the columns outline_0_x to outline_67_y in {self.path}, got none for "
                f"{', '.join(absent[:5])}"
            )
        for row in rows:
            cells = {name: (row[name] or "").strip() for name in columns}
            where = f"{self.path}, line {rows.line_num}"

            def together(names: list[str], cells: dict[str, str] = cells, where: str = where) -> list[str]:
                """Cells that are all filled, or none of them."""
                values = [cells.get(name, "") for name in names]
                if any(values) and not all(values):
                    raise ValueError(
                        f"expected a number for {names[values.index('')]} in {where}, got nothing"
                    )
                return values if all(values) else []

            values = {name: together([f"{name}_x", f"{name}_y"]) for name in sorted(points)}
            drawn = [values[name] for name in outline]
            yield self._listed_face(
                where,
                {
                    "image": cells["image"],
                    "landmarks": {n: point for n, point in values.items() if point and n not in outline},
                    "box": together([*_BOX]) or None,
                    "confidence": cells.get("confidence") or None,
                    "outline": drawn if drawn and all(drawn) else None,
                    **{name: cells.get(name) or None for name in _SIZE},
                },
            )

    def _json(self, text: str) -> Iterator[tuple[str, _Listed]]:
        try:
            rows = json.loads(text)
        except ValueError as error:
            raise ValueError(f"expected JSON in {self.path}: {error}") from error
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise ValueError(
                'expected a list of objects {"image": "a.jpg", "landmarks": {"left_eye": [x, y], ...}} in '
                f"{self.path}, got {text.strip()[:40]!r}"
            )
        for number, row in enumerate(rows, start=1):
            yield self._listed_face(f"{self.path}, object {number}", row)

    def _listed_face(self, where: str, row: Mapping[str, Any]) -> tuple[str, _Listed]:
        image = row.get("image")
        if not isinstance(image, str) or not image:
            raise ValueError(f"expected the path of a photo as image in {where}, got {image!r}")
        landmarks = row.get("landmarks") or {}
        if not isinstance(landmarks, dict):
            raise ValueError(
                f'expected landmarks as {{"left_eye": [x, y], ...}} in {where}, got {landmarks!r}'
            )
        missing = [name for name in FIVE_POINTS if name not in landmarks] if landmarks else []
        if missing:
            raise ValueError(f"expected the landmarks {', '.join(missing)} in {where}, got none")
        points = {}
        for name, point in landmarks.items():
            x, y = _numbers(point, 2, name, where)
            points[str(name)] = (x, y)
        box, confidence, outline = row.get("box"), row.get("confidence"), row.get("outline")
        sides = [row.get(name) for name in _SIZE]
        listed = _Listed(
            points,
            None if box is None else tuple(_numbers(box, 4, "box", where)),  # type: ignore[arg-type]
            None if confidence is None else _numbers([confidence], 1, "confidence", where)[0],
            None if outline is None else _outline(outline, where),
            None if None in sides else tuple(round(v) for v in _numbers(sides, 2, "photo_width", where)),  # type: ignore[arg-type]
        )
        return image, listed


def _outline(outline: Any, where: str) -> NDArray[np.float64]:
    if not isinstance(outline, list) or len(outline) != 68:
        raise ValueError(f"expected outline as 68 points [x, y] in {where}, got {str(outline)[:40]}")
    return np.array([_numbers(point, 2, f"outline_{i}", where) for i, point in enumerate(outline)])


def _numbers(values: Any, count: int, name: str, where: str) -> list[float]:
    try:
        if isinstance(values, str) or len(values) != count or any(isinstance(v, bool) for v in values):
            raise TypeError
        numbers = [float(value) for value in values]
    except (TypeError, ValueError):
        numbers = [math.nan]
    if not all(map(math.isfinite, numbers)):
        kind = "a finite number" if count == 1 else f"{count} finite numbers"
        raise ValueError(f"expected {kind} for {name} in {where}, got {values!r}")
    return numbers


def _parts(path: str) -> tuple[str, ...]:
    """The parts of a path, however its slashes lean."""
    parts = PurePosixPath(printable(path).replace("\\", "/")).parts
    return tuple(part for part in parts if part not in (".", "..")) or ("",)


def _box_around(landmarks: Mapping[str, tuple[float, float]]) -> tuple[float, float, float, float]:
    points = np.array([landmarks[name] for name in FIVE_POINTS])
    x, y = points.mean(0)
    half = _HALF_BOX * float(np.sqrt(((points - (x, y)) ** 2).sum(1).mean()))
    return float(x - half), float(y - half), float(x + half), float(y + half)
