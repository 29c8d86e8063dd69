"""From photos to distances, beside dlib's own functions; and how far landmarks lie from templates.

    python docs/studies/photos.py --shared FOLDER [--mtcnn]

The first table has every face of the photos in dlib's own way (its detector on the photo at twice the size,
its predictor of five points, ``get_face_chip``, ``compute_face_descriptor``) and in this package's
(``find_faces``, ``Face.crop("dlib")`` and ``dlib_resnet``, which is dlib's network in PyTorch). ``turned``
(degrees) and ``scale`` compare both transforms for dlib's own five points, ``pixels`` the chips (mean
absolute difference of 255), and ``points`` says how far our five points are from dlib's, in pixels of the
chip. ``descriptor`` is the distance between both descriptors of the face. The second table has the distance
of every two faces in both ways.

Then: how far the five landmarks that are found in aligned LFW crops lie from ArcFace's template, and with
``--mtcnn`` (facenet-pytorch has to be installed) what the template ``facenet`` is made of: where MTCNN's
points lie in its boxes, and how well its boxes are estimated from landmarks."""

from __future__ import annotations

import argparse
import itertools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from captum_face.maps.templates import FIVE_POINTS, TEMPLATES
from captum_face.models import load_pair
from captum_face.models.dlib_net import dlib_file as network_file
from captum_face.photos import DlibDetector, Face, MTCNNDetector, Photo, find_faces, load_photo
from captum_face.photos._warping import apply
from captum_face.photos.detectors._looking import resized
from captum_face.photos.detectors.dlib import SMALL_PREDICTOR, dlib_file

#: MTCNN's faces below this confidence are none, or badly found.
SURE = 0.95


class Row(NamedTuple):
    """A face in both ways."""

    name: str
    turned: float
    scale: float
    pixels: float
    points: float
    ours: torch.Tensor
    theirs: torch.Tensor


def dlib_rows(photos: Sequence[Photo]) -> list[Row]:
    """The faces that dlib finds, each beside the nearest of ours, with the number that ``face=`` takes."""
    import dlib

    detector = dlib.get_frontal_face_detector()
    predictor = dlib.shape_predictor(str(dlib_file("shape_predictor_5_face_landmarks.dat")))
    network = dlib.face_recognition_model_v1(str(network_file()))
    pair = load_pair("dlib")
    rows = []
    for photo in photos:
        ours = find_faces(photo)
        for box in detector(photo.pixels, 1):
            shape = predictor(photo.pixels, box)
            details = dlib.get_face_chip_details(shape, 150, 0.25)
            chip = dlib.get_face_chip(photo.pixels, shape, size=150, padding=0.25)
            centre = box.center().x, box.center().y
            face = min(ours, key=lambda face: math.dist(centre, _centre(face.box)), default=None)
            if face is None or math.dist(centre, _centre(face.box)) > box.width() / 2:
                raise ValueError(f"dlib finds a face in {photo.name} at {centre} that find_faces does not")
            theirs = dict(zip(SMALL_PREDICTOR, ((p.x, p.y) for p in shape.parts()), strict=True))
            matrix = replace(face, landmarks={**face.landmarks, **theirs}).transform("dlib")
            own = np.array([face.landmarks[name] for name in SMALL_PREDICTOR])
            away = apply(matrix, own) - apply(matrix, [*theirs.values()])
            crop = replace(face, landmarks={**face.landmarks, **theirs}).crop("dlib")
            with torch.no_grad():
                descriptor = pair.embed(face.crop("dlib"))[0]
            rows.append(
                Row(
                    f"{photo.name} {ours.index(face)}",
                    math.degrees(math.atan2(-matrix[1, 0], matrix[0, 0]) - details.angle),
                    math.hypot(*matrix[:, 0]) * details.rect.width() / 150,
                    float((crop[0].permute(1, 2, 0) * 255 - torch.from_numpy(chip)).abs().mean()),
                    float(np.linalg.norm(away, axis=1).mean()),
                    descriptor,
                    torch.tensor(list(network.compute_face_descriptor(chip))),
                )
            )
    return rows


def _centre(box: tuple[float, float, float, float]) -> tuple[float, float]:
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2


def show_dlib(rows: Sequence[Row]) -> None:
    """Prints both tables."""
    print(f"{'face':24}{'turned':>8}{'scale':>8}{'pixels':>8}{'points':>8}{'descriptor':>12}")
    for row in rows:
        print(
            f"{row.name:24}{row.turned:8.3f}{row.scale:8.4f}{row.pixels:8.2f}{row.points:8.2f}"
            f"{float(torch.dist(row.ours, row.theirs)):12.3f}"
        )
    print(f"\n{'two faces':40}{'dlib':>8}{'ours':>8}{'difference':>12}")
    differences = []
    for a, b in itertools.combinations(rows, 2):
        theirs, ours = float(torch.dist(a.theirs, b.theirs)), float(torch.dist(a.ours, b.ours))
        differences.append(abs(ours - theirs))
        print(f"{f'{a.name}, {b.name}':40}{theirs:8.3f}{ours:8.3f}{ours - theirs:12.3f}")
    if differences:
        print(f"largest difference: {max(differences):.3f}, mean {np.mean(differences):.3f}")


def enlarged(crop: Photo) -> Photo:
    """An aligned crop as detectors need it: three times as large, with room around it."""
    pixels = resized(crop.pixels, 3.0)
    room = pixels.shape[0] // 4
    return Photo(np.pad(pixels, ((room, room), (room, room), (0, 0)), mode="edge"), crop.name)


def show_alignment(crops: Sequence[Photo], detector: Any) -> None:
    """Prints how far landmarks in crops are from ArcFace's template, in pixels of 112."""
    wanted = np.array([TEMPLATES["arcface"].points[name] for name in FIVE_POINTS])
    distances = []
    for crop in crops:
        large = enlarged(crop)
        faces = find_faces(large, detector)
        if faces:
            room = (large.size[1] - 3 * crop.size[1]) / 2
            own = np.array([faces[0].landmarks[name] for name in FIVE_POINTS])
            distances.append(np.linalg.norm((own - room + 0.5) / 3 - 0.5 - wanted, axis=1))
    away = np.array(distances)
    print(f"\n{len(distances)} of {len(crops)} aligned crops with a face, {detector.name}")
    print(f"{'pixels of 112 from the template':34}{'median':>8}{'95 %':>8}")
    for i, name in enumerate(FIVE_POINTS):
        print(f"{name:34}{np.median(away[:, i]):8.2f}{np.percentile(away[:, i], 95):8.2f}")
    means = away.mean(1)
    print(f"{'mean of the five, of each crop':34}{np.median(means):8.2f}{np.percentile(means, 95):8.2f}")


def show_mtcnn(faces: Sequence[Face], others: Callable[[Face], Face | None]) -> None:
    """Prints what the template ``facenet`` is made of.

    Args:
        faces: MTCNN's.
        others: The same face as another detector finds it.
    """
    boxes = np.array([face.box for face in faces])
    points = np.array([[face.landmarks[name] for name in FIVE_POINTS] for face in faces])
    sides = boxes[:, 2:] - boxes[:, :2]
    inside = (points + 0.5 - boxes[:, None, :2]) / sides[:, None] * 160 - 0.5
    median = np.median(inside, 0)
    mirrored = median[[1, 0, 2, 4, 3]] * (-1, 1) + (159, 0)
    print(f"\nMTCNN: {len(faces)} faces; its points in its boxes, drawn to 160 x 160 pixels")
    for name, (x, y), (spread_x, spread_y) in zip(
        FIVE_POINTS, (median + mirrored) / 2, inside.std(0), strict=True
    ):
        print(f"{name:34}{x:8.1f}{y:8.1f}   standard deviation {spread_x:.1f} {spread_y:.1f}")
    around = points[:, [0, 1, 3, 4]].mean(1)[:, 0]
    nose = (points[:, 2, 0] - around) / sides[:, 1]
    middle = (boxes[:, [0, 2]].mean(1) - around) / sides[:, 1]
    print(f"{'width by height':34}{np.median(sides[:, 0] / sides[:, 1]):8.3f}")
    print(f"{'middle away from the nose':34}{-(nose * middle).sum() / (nose**2).sum():8.2f}")
    print(f"{'overlap with estimated boxes':34}{'median':>8}{'5 %':>8}   (intersection over union)")
    found = [(face, others(face)) for face in faces]
    for name, pairs in (
        ("from its own points", [(face, face) for face in faces]),
        ("from dlib's points", [(face, other) for face, other in found if other is not None]),
    ):
        overlaps = [overlap(face.box, estimated(other)) for face, other in pairs]
        if overlaps:
            low = np.percentile(overlaps, 5)
            print(f"{name:34}{np.median(overlaps):8.2f}{low:8.2f}   {len(overlaps)} faces")


def estimated(face: Face) -> tuple[float, ...]:
    """The box along which ``facenet`` crops a face that MTCNN did not find."""
    back = replace(face, mtcnn=False).inverse("facenet")
    return tuple((apply(back, [(-0.5, -0.5), (159.5, 159.5)]) + 0.5).ravel())


def overlap(a: Sequence[float], b: Sequence[float]) -> float:
    """Intersection over union of two boxes."""
    wide, high = (max(min(a[i + 2], b[i + 2]) - max(a[i], b[i]), 0) for i in (0, 1))
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b))
    return wide * high / (areas - wide * high)


def mtcnn_faces(photos: Sequence[Photo]) -> Iterator[Face]:
    """MTCNN's sure faces."""
    detector = MTCNNDetector()
    for photo in photos:
        yield from (face for face in find_faces(photo, detector) if (face.confidence or 0) > SURE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--shared", type=Path, required=True, help="the folder with data/ and photos/")
    parser.add_argument("--limit", type=int, help="crops to look at, for a quick look")
    parser.add_argument("--mtcnn", action="store_true", help="measure the template facenet too")
    options = parser.parse_args()
    photos = [load_photo(path) for path in sorted((options.shared / "photos").iterdir())]
    start = time.perf_counter()
    for photo in photos:
        find_faces(photo)
    seconds = (time.perf_counter() - start) / sum(photo.size[0] * photo.size[1] for photo in photos) * 1e6
    show_dlib(dlib_rows(photos))
    print(f"finding faces takes {seconds:.2f} s for a megapixel, in photos that show one")
    paths = sorted((options.shared / "data" / "lfw_crops").glob("*.png"))[: options.limit]
    crops = [load_photo(path) for path in paths]
    detector = DlibDetector()
    show_alignment(crops, detector)
    if options.mtcnn:

        def by_dlib(face: Face) -> Face | None:
            near = [
                other
                for other in find_faces(face.photo, detector)
                if math.dist(_centre(other.box), _centre(face.box)) < (face.box[2] - face.box[0]) / 2
            ]
            return near[0] if near else None

        show_mtcnn([*mtcnn_faces([*photos, *map(enlarged, crops)])], by_dlib)


if __name__ == "__main__":
    main()
