"""A folder of photos, aligned: crops, a table, and why photos were left out."""

from __future__ import annotations

import csv
import io
import json
import time
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from captum_face._files import write_text, write_whole
from captum_face._progress import progress_bar
from captum_face._runs import Recorder, claimed, require_same, write_config
from captum_face._version import __version__
from captum_face.data.faces import image_files
from captum_face.maps.templates import Template, resolve_template
from captum_face.photos._warping import require_extra
from captum_face.photos.crops import align_face
from captum_face.photos.detectors import Detector, resolve_detector
from captum_face.photos.photo import MAX_PIXELS

__all__ = ["AlignedFolder", "align_folder"]

Row = dict[str, Any]

_SETTINGS, _RECORDS, _TABLE = "settings.json", "records.jsonl", "faces.csv"


@dataclass(frozen=True)
class AlignedFolder:
    """What became of the photos of a folder; made by :func:`align_folder`."""

    table: Path  #: the CSV file
    rows: Sequence[Mapping[str, Any]]  #: one for each photo, in the order of their paths
    new: int  #: how many photos this call looked at
    seconds: float  #: what that took
    gone: tuple[str, ...]  #: crops of an earlier call whose photos are no longer there

    @property
    def aligned(self) -> int:
        """How many photos have a crop."""
        return sum(bool(row["crop"]) for row in self.rows)

    @property
    def remarked(self) -> int:
        """How many of those have a remark, such as several faces, a cut face, a small one."""
        return sum(bool(row["crop"] and row["remarks"]) for row in self.rows)

    @property
    def refused(self) -> dict[str, str]:
        """Why photos have no crop, by their paths."""
        return {row["image"]: row["reason"] for row in self.rows if not row["crop"]}

    def __str__(self) -> str:
        count = f"{len(self.rows)} photo" + "s" * (len(self.rows) != 1)
        text = f"{count}: {self.aligned} aligned, {self.remarked} of them with remarks"
        text += f", {len(self.refused)} refused"
        if self.new:
            text += f"; {self.new} looked at, {self.seconds / self.new:.2f} s each"
        return text


def align_folder(
    folder: str | Path,
    output: str | Path,
    template: str | Template = "arcface",
    size: int | tuple[int, int] | None = None,
    *,
    detector: Detector | str | Path | None = None,
    max_pixels: int | None = None,
    show_progress: bool = False,
) -> AlignedFolder:
    """Aligns the largest face of every photo below a folder.

    Crops are PNG files in ``output``, in folders as the photos are; ``a.jpg`` becomes ``a.png``, but where
    several photos of a folder would get one name, all of them keep their endings: ``a.jpg.png``. The table
    ``faces.csv`` has a row for each photo: its crop or the reason for which there is none, remarks, the
    number of faces, the transform (``transform_a11`` to ``transform_a23``, the rows of the 2 x 3 matrix from
    pixels of the upright photo to the crop's), box, landmarks and confidence. It is a
    :class:`~captum_face.photos.LandmarkFile`.

    The same call continues an interrupted one and does what is missing: photos that are new or have changed,
    and refused ones under another ``max_pixels``.

    Args:
        folder: Of the photos; subfolders count.
        output: Folder for the crops: new, empty, or of an earlier call with the same settings. It may lie in
            ``folder``.
        template: A name of :data:`~captum_face.photos.TEMPLATES`, or a template of your own.
        size: Height and width of the crops; None for the template's.
        detector: What finds faces, or its text as :func:`~captum_face.photos.resolve_detector` takes it; None
            for dlib's.
        max_pixels: The most pixels of a photo; None for :data:`~captum_face.photos.MAX_PIXELS`.
        show_progress: Show a progress bar.

    Returns:
        An :class:`AlignedFolder`, with the rows of the table.

    Raises:
        FileNotFoundError, ImportError, ValueError: no such folder, no photo in it, no such template or
            detector; an ``output`` of other settings, or with files that are not from an earlier call. All
            before the first photo.
    """
    folder, output = Path(folder), Path(output)
    template = resolve_template(template)
    chosen = template.resized(size)
    require_extra("skimage.transform", "alignment of faces")
    finder = resolve_detector(detector)
    limit = MAX_PIXELS if max_pixels is None else max_pixels
    if output.resolve() == folder.resolve():
        raise ValueError(f"expected an output folder of its own, got that of the photos, {output}")
    photos = {
        name: path
        for name, path in image_files(folder).items()
        if output.resolve() not in path.resolve().parents
    }
    settings = {
        "captum_face": __version__,
        "folder": str(folder.resolve()),
        "template": chosen.name,
        "size": list(chosen.size),
        "points": {name: list(point) for name, point in template.points.items()},
        "margin": template.margin,
        "detector": _described(finder),
    }
    start = time.perf_counter()
    with claimed(output, first=True):
        earlier = _continued(output, settings)
        names = _crop_names(photos)
        done: dict[str, Row] = {}
        waiting = []
        for name, path in photos.items():
            row = earlier.get(name)
            if row is not None and _still_right(row, path, output, names[name], limit):
                done[name] = row
            else:
                waiting.append(name)
        with (
            closing(Recorder(output / _RECORDS)) as recorder,
            progress_bar(total=len(waiting), desc="align", unit="photo", disable=not show_progress) as bar,
        ):
            for name in waiting:
                row, image = _aligned(name, photos[name], chosen, finder, limit)
                former = earlier.get(name, {}).get("crop")
                if former and former != names[name] and former not in names.values():
                    (output / former).unlink(missing_ok=True)
                if image is None:
                    (output / names[name]).unlink(missing_ok=True)  # of the photo as it was
                else:
                    row["crop"] = names[name]
                    _write_png(output / names[name], image)
                recorder.write(row)
                done[name] = row
                bar.update()
        rows = [done[name] for name in photos]
        write_text(output / _TABLE, _table(rows))
    gone = [row["crop"] for name, row in earlier.items() if name not in photos and row["crop"]]
    gone = [crop for crop in gone if crop not in names.values() and (output / crop).exists()]
    return AlignedFolder(output / _TABLE, tuple(rows), len(waiting), time.perf_counter() - start, tuple(gone))


def _described(detector: Detector) -> str:
    """A detector with its settings, the same in every process."""
    kind = type(detector)
    own = kind.__repr__ is not object.__repr__
    return repr(detector) if own else f"{kind.__module__}.{kind.__qualname__}"


def _continued(output: Path, settings: Row) -> dict[str, Row]:
    """The rows of an earlier call by photo, the last of each.

    Raises:
        ValueError: the folder holds something else.
    """
    path = output / _SETTINGS
    if not path.exists():
        others = sorted(entry.name for entry in output.iterdir() if entry.name != ".lock")
        if others:
            raise ValueError(
                f"expected an output folder that is new, empty or of an earlier call, got {output} with "
                f"{', '.join(others[:3])}; choose another"
            )
        write_config(path, settings)
        return {}
    message = (
        f"{output} holds crops that were made otherwise; choose another output folder, or repeat the call "
        "that it was begun with"
    )
    try:
        there = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"expected settings in {path}, which is damaged: {error}; choose another") from error
    require_same(there, settings, message)
    for unfinished in output.rglob(".*.part"):  # of a call that was killed
        unfinished.unlink(missing_ok=True)
    rows: dict[str, Row] = {}
    records = output / _RECORDS
    for line in records.read_bytes().splitlines(keepends=True) if records.exists() else ():
        try:
            row = json.loads(line) if line.endswith(b"\n") else None
        except ValueError:
            row = None
        if isinstance(row, dict) and row.keys() >= _EMPTY.keys():
            rows[row["image"]] = row
    return rows


def _crop_names(photos: Mapping[str, Path]) -> dict[str, str]:
    """Where each photo's crop lies below the output folder."""
    plain = {name: Path(name).with_suffix(".png").as_posix() for name in photos}
    whole = {name: f"{name}.png" for name in photos}
    # Some file systems do not tell upper from lower case.
    wanted = Counter(crop.casefold() for crop in [*plain.values(), *whole.values()])
    return {name: crop if wanted[crop.casefold()] == 1 else whole[name] for name, crop in plain.items()}


def _state(path: Path) -> list[int]:
    """By what a changed file is known: its bytes and when it was written."""
    found = path.stat()
    return [found.st_size, found.st_mtime_ns]


def _still_right(row: Row, path: Path, output: Path, crop: str, limit: int) -> bool:
    if row["file"] != _state(path):
        return False
    if not row["crop"]:
        return bool(row["limit"] == limit)
    return bool(row["crop"] == crop) and (output / crop).is_file()


#: A photo of which nothing is known.
_EMPTY: Row = {
    "image": "",
    "file": [0, 0],
    "limit": 0,
    "crop": "",
    "reason": "",
    "remarks": [],
    "faces": 0,
    "photo_size": None,
    "confidence": None,
    "box": None,
    "transform": None,
    "landmarks": {},
}


def _aligned(
    name: str, path: Path, template: Template, detector: Detector, limit: int
) -> tuple[Row, Tensor | None]:
    """What is known of a photo, and its crop if it has one."""
    row = _EMPTY | {"image": name, "file": _state(path), "limit": limit}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        try:
            crop = align_face(path, template, detector=detector, max_pixels=limit)
        except (ValueError, TypeError, OSError, RuntimeError, MemoryError) as error:
            return row | {"reason": " ".join(str(error).split()) or type(error).__name__}, None
    return row | {
        "remarks": [*(str(warning.message) for warning in caught), *crop.remarks.values()],
        "faces": len(crop.boxes),
        "photo_size": list(crop.photo_size),
        "confidence": crop.confidence,
        "box": list(crop.box),
        "transform": crop.transform.tolist(),
        "landmarks": {point: list(place) for point, place in crop.landmarks.items()},
    }, crop.image


def _write_png(path: Path, image: Tensor) -> None:
    pixels = (image[0] * 255).round().byte().permute(1, 2, 0).cpu().numpy()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, lambda unfinished: Image.fromarray(pixels).save(unfinished, format="PNG"))


def _table(rows: Sequence[Row]) -> str:
    points = list(dict.fromkeys(point for row in rows for point in row["landmarks"]))
    sides = ("left", "top", "right", "bottom")
    places = [f"a{i}{j}" for i in (1, 2) for j in (1, 2, 3)]
    columns = [
        *("image", "crop", "reason", "remarks", "faces", "photo_width", "photo_height", "confidence"),
        *(f"box_{side}" for side in sides),
        *(f"transform_{place}" for place in places),
        *(f"{point}_{axis}" for point in points for axis in "xy"),
    ]
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        height, width = row["photo_size"] or (None, None)
        numbers = [value for line in row["transform"] or () for value in line]
        writer.writerow(
            {
                **{name: row[name] for name in ("image", "crop", "reason", "confidence")},
                "remarks": "; ".join(row["remarks"]),
                "faces": row["faces"] if row["crop"] else "",
                "photo_width": width,
                "photo_height": height,
                **{f"box_{side}": value for side, value in zip(sides, row["box"] or (), strict=False)},
                **{f"transform_{p}": value for p, value in zip(places, numbers, strict=False)},
                **{
                    f"{point}_{axis}": value
                    for point, place in row["landmarks"].items()
                    for axis, value in zip("xy", place, strict=True)
                },
            }
        )
    return text.getvalue()
