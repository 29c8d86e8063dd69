"""Lists of pairs in text files, beside a folder of images: CSV and LFW's ``pairs.txt``."""

from __future__ import annotations

import csv
import io
import os
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path

from captum_face.data.face_pairs import FacePairs, ImageFiles

__all__ = ["read_csv", "read_lfw"]

COLUMNS = ("image_a", "image_b", "same")
ENDINGS = (".jpg", ".jpeg", ".png")


def read_csv(path: str | Path, images: str | Path | None = None) -> FacePairs:
    """Reads pairs from a CSV file with the columns ``image_a``, ``image_b`` and ``same``.

    The first line names the columns, in any order; other columns are ignored, and so are blank lines.
    ``same`` is 1 for two images of one person and 0 for two people. That all images exist is checked at
    once, what they hold when they are read.

    Args:
        path: The file, in UTF-8.
        images: The folder that the images' paths are relative to; None for the folder of ``path``.

    Raises:
        FileNotFoundError: no such file or folder, or images are missing; says which, of which line.
        ValueError: other columns, another label than 0 and 1, a pair with both labels, or no pair at all.

    Warns:
        UserWarning: a line repeats another one; the pair counts once.
    """
    path, folder = _file_and_folder(path, images)
    rows: dict[tuple[str, str], tuple[bool, int]] = {}
    repeated: list[int] = []
    for line, row in _rows(path):
        name_a, name_b = (Path(name).as_posix() for name in row[:2])  # ./a.png is a.png
        if row[2] not in ("0", "1"):
            raise ValueError(
                f"expected same as 1 (one person) or 0 (two people), got {row[2]!r} in line {line} of {path}"
            )
        same = row[2] == "1"
        for known in ((name_a, name_b), (name_b, name_a)):
            if known in rows and rows[known][0] != same:
                raise ValueError(
                    f"expected one label for each pair, got {int(same)} for {name_a} and {name_b} in line "
                    f"{line} of {path} and {int(not same)} in line {rows[known][1]}"
                )
        if (name_a, name_b) in rows:
            repeated.append(line)
        else:
            rows[name_a, name_b] = same, line
    if not rows:
        raise ValueError(f"expected pairs below the first line of {path}, found none")
    if repeated:
        warnings.warn(
            f"{len(repeated)} lines of {path} repeat a pair, which counts once: {_some(repeated)}",
            stacklevel=2,
        )
    names, lines = list(rows), [line for _, line in rows.values()]
    files = {name: folder / name for two in names for name in two}
    _require_files(files, names, lines, path, folder)
    return FacePairs(
        names,
        [same for same, _ in rows.values()],
        ImageFiles(files),
        source=str(path),
        places=[f"line {line}" for line in lines],
    )


def read_lfw(path: str | Path, images: str | Path | None = None) -> FacePairs:
    """Reads pairs from a ``pairs.txt`` of Labeled Faces in the Wild (LFW).

    The first line has the number of folds and of the pairs of each class in a fold (``10 300``), or the
    latter alone. Each other line is a pair: ``name n1 n2`` for two images of a person, or
    ``name1 n1 name2 n2`` for two people. Image ``n`` of ``name`` is ``name/name_000n.jpg`` in the folder
    of images, or ``name_000n.jpg``; ``.jpeg`` and ``.png`` do as well.

    Args:
        path: The file.
        images: The folder of images; None for the folder of ``path``.

    Returns:
        The pairs, with their fold in ``folds`` if the first line has a number of folds.

    Raises:
        FileNotFoundError: no such file or folder, or images are missing; says which, of which line.
        ValueError: a line that is none of these, or another number of pairs than the first line says.
    """
    path, folder = _file_and_folder(path, images)
    (first, head), *body = _words(path)
    if len(head) > 2 or not all(word.isdecimal() and int(word) > 0 for word in head):
        raise ValueError(
            f"expected '10 300' (folds, and pairs of each class in a fold) or a number of pairs in line "
            f"{first} of {path}, got {' '.join(head)!r}"
        )
    n_folds, per_class = (int(word) for word in ("1", *head)[-2:])
    photos = [_lfw_pair(words, line, path) for line, words in body]
    same = [a[0] == b[0] for a, b in photos]
    if len(photos) != 2 * n_folds * per_class:
        raise ValueError(
            f"expected {2 * n_folds * per_class} pairs in {path}, as its first line says, got {len(photos)}"
        )
    for fold in range(n_folds):
        genuine = sum(same[2 * per_class * fold : 2 * per_class * (fold + 1)])
        if genuine != per_class:
            raise ValueError(
                f"expected {per_class} genuine and {per_class} impostor pairs in fold {fold + 1} of {path}, "
                f"got {genuine} genuine ones"
            )
    found = {photo: _lfw_file(folder, *photo) for two in photos for photo in two}
    files = {file.relative_to(folder).as_posix(): file for file in found.values()}
    names = [tuple(found[photo].relative_to(folder).as_posix() for photo in two) for two in photos]
    pairs = [(a, b) for a, b in names]
    lines = [line for line, _ in body]
    _require_files(files, pairs, lines, path, folder)
    return FacePairs(
        pairs,
        same,
        ImageFiles(files),
        source=str(path),
        places=[f"line {line}" for line in lines],
        folds=[i // (2 * per_class) for i in range(len(pairs))] if len(head) == 2 else None,
    )


def _file_and_folder(path: str | Path, images: str | Path | None) -> tuple[Path, Path]:
    path = Path(path)
    if not path.is_file():
        found = "a folder" if path.is_dir() else "nothing"
        raise FileNotFoundError(f"expected a file of pairs, found {found} at {path}")
    folder = path.parent if images is None else Path(images)
    if not folder.is_dir():
        found = "a file" if folder.is_file() else "nothing"
        raise FileNotFoundError(f"expected a folder of images, found {found} at {folder}")
    return path, folder


def _text(path: Path) -> str:
    try:
        text = path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"expected text in UTF-8 in {path}, got other bytes ({error})") from error
    if not text.strip():
        raise ValueError(f"expected a list of pairs in {path}, which is empty")
    return text


def _rows(path: Path) -> Iterable[tuple[int, list[str]]]:
    """Line number and the three values of each row."""
    reader = csv.reader(io.StringIO(_text(path)), strict=True, skipinitialspace=True)
    order: list[int] | None = None
    try:
        for values in reader:
            row = [value.strip() for value in values]
            if not any(row):
                continue
            if order is None:
                if not set(COLUMNS) <= set(row):
                    raise ValueError(
                        f"expected the columns {','.join(COLUMNS)} in line {reader.line_num} of {path}, got "
                        f"{','.join(row)}"
                    )
                order, n_columns = [row.index(column) for column in COLUMNS], len(row)
                continue
            if len(row) != n_columns or not all(row[i] for i in order):
                raise ValueError(
                    f"expected {n_columns} values in line {reader.line_num} of {path}, got {','.join(row)!r}"
                )
            yield reader.line_num, [row[i] for i in order]
    except csv.Error as error:
        raise ValueError(f"could not read line {reader.line_num} of {path} as CSV: {error}") from error


def _words(path: Path) -> list[tuple[int, list[str]]]:
    lines = enumerate(_text(path).split("\n"), start=1)
    return [(n, line.split()) for n, line in lines if line.strip()]


Photo = tuple[str, int]


def _lfw_pair(words: list[str], line: int, path: Path) -> tuple[Photo, Photo]:
    wanted = {3: (0, 1, 0, 2), 4: (0, 1, 2, 3)}.get(len(words))
    if wanted is not None:
        name_a, n_a, name_b, n_b = (words[i] for i in wanted)
        different = len(words) == 3 or name_a != name_b
        if n_a.isdecimal() and n_b.isdecimal() and different:
            return (name_a, int(n_a)), (name_b, int(n_b))
    raise ValueError(
        f"expected 'name n1 n2' or 'name1 n1 name2 n2' in line {line} of {path}, got {' '.join(words)!r}"
    )


def _lfw_file(folder: Path, name: str, n: int) -> Path:
    stem = f"{name}_{n:04d}"
    places = [place / f"{stem}{ending}" for place in (folder / name, folder) for ending in ENDINGS]
    return next((file for file in places if os.path.isfile(file)), places[0])


def _require_files(
    files: dict[str, Path],
    names: Sequence[tuple[str, str]],
    lines: Sequence[int],
    source: Path,
    folder: Path,
) -> None:
    missing = {name for name, file in files.items() if not os.path.isfile(file)}
    if not missing:
        return
    index, name = next((i, name) for i, two in enumerate(names) for name in two if name in missing)
    more = f" ({len(missing) - 1} more images are missing)" if len(missing) > 1 else ""
    better = next((sub for sub in sorted(folder.iterdir()) if os.path.isfile(sub / name)), None)
    hint = f"it is in {better}" if better else "paths are relative to that folder"
    raise FileNotFoundError(
        f"pair {index} (line {lines[index]} of {source}): expected an image, found nothing at "
        f"{files[name]}{more}; {hint}: give the folder of images"
    )


def _some(lines: Sequence[int], at_most: int = 3) -> str:
    shown = ", ".join(f"line {line}" for line in lines[:at_most])
    return shown + (", ..." if len(lines) > at_most else "")
