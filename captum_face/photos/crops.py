"""Crops for a model, and the photos they came from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from captum_face._validation import require_choice
from captum_face.data.images import AnyImage, image_size, single_image
from captum_face.maps.landmarks import Landmarks
from captum_face.maps.templates import FIVE_POINTS, Template, resolve_template
from captum_face.photos._warping import apply, fit, inverted, require_extra, warp
from captum_face.photos.detectors import Detector, resolve_detector
from captum_face.photos.detectors._looking import resized, shrinking
from captum_face.photos.faces import Face
from captum_face.photos.finding import FaceChoice, NoFaceError, choose_face, find_faces
from captum_face.photos.landmarks import remember_landmarks
from captum_face.photos.photo import Photo, load_photo

__all__ = ["ALIGN", "PhotoCrop", "PhotoView", "align_face", "is_aligned", "load_crop", "realign"]

#: Which images are aligned, those that are no crops of the model's size, all, or none.
ALIGN = ("auto", "always", "never")
# Longest sides in pixels of the copies of a photo that a crop keeps for figures: the whole, and the face.
_WHOLE, _CLOSEUP = 1024, 512
# How much wider than the crop the second one is.
_AROUND = 1.4
#: A face is cut by the border if more than this share of its box is outside.
_CUT = 0.02


@dataclass(frozen=True, eq=False)
class PhotoView:
    """A part of a photo as figures show it, often shrunk."""

    pixels: NDArray[np.uint8] = field(repr=False)  #: ``(h, w, 3)``
    #: Left, top, right and bottom edge of the part; 0, 0, W and H for all of a photo of H x W pixels.
    edges: tuple[float, float, float, float]

    @property
    def to_photo(self) -> NDArray[np.float64]:
        """The transform ``(2, 3)`` from points ``(x, y)`` of this picture to the photo's."""
        left, top, right, bottom = self.edges
        x, y = (right - left) / self.pixels.shape[1], (bottom - top) / self.pixels.shape[0]
        return np.array([[x, 0, left + x / 2 - 0.5], [0, y, top + y / 2 - 0.5]])


@dataclass(frozen=True, eq=False, repr=False)
class PhotoCrop:
    """An aligned crop, and where in its photo it came from; made by :func:`align_face`.

    Coordinates are in pixels of the upright photo, the centre of the first pixel being ``(0, 0)``.
    """

    image: Tensor  #: the crop, ``(1, 3, H, W)`` in [0, 1]
    template: Template  #: to which it is aligned, in its size
    transform: NDArray[np.float64]  #: ``(2, 3)``, from points ``(x, y)`` of the photo to the crop's
    landmarks: Mapping[str, tuple[float, float]]  #: of the face, by name
    outline: NDArray[np.float64] | None  #: its 68 points ``(68, 2)``, if the detector knows them
    confidence: float | None  #: of the detector
    boxes: NDArray[np.float64]  #: ``(F, 4)`` left, top, right, bottom of all faces found, the largest first
    chosen: int  #: which of them this face is
    asked: bool  #: whether that one was asked for
    photo_size: tuple[int, int]  #: height and width of the photo
    whole: PhotoView  #: the photo, of at most 1024 pixels in its longer side
    closeup: PhotoView  #: the part around the face, of at most 512 pixels in its longer side
    name: str  #: of the photo

    def __repr__(self) -> str:
        height, width = self.template.size
        return f"PhotoCrop({width} x {height} of {self.name}, {self.template.name})"

    @property
    def points(self) -> dict[str, tuple[float, float]]:
        """The landmarks in pixels of the crop."""
        return {
            name: (float(x), float(y))
            for name, (x, y) in zip(
                self.landmarks, apply(self.transform, [*self.landmarks.values()]), strict=True
            )
        }

    @property
    def crop_outline(self) -> NDArray[np.float64] | None:
        """The 68 points in pixels of the crop."""
        return None if self.outline is None else apply(self.transform, self.outline)

    @property
    def box(self) -> tuple[float, float, float, float]:
        """The face's box."""
        left, top, right, bottom = map(float, self.boxes[self.chosen])
        return left, top, right, bottom

    @property
    def eye_distance(self) -> float:
        """Pixels of the photo between the centres of the eyes."""
        left, right = (np.array(self.landmarks[f"{side}_eye"]) for side in ("left", "right"))
        return float(np.linalg.norm(left - right))

    @property
    def cut(self) -> float:
        """The share of the face's box that lies outside the photo."""
        left, top, right, bottom = self.box
        height, width = self.photo_size
        seen = max(min(right, width) - max(left, 0), 0) * max(min(bottom, height) - max(top, 0), 0)
        return 1 - seen / ((right - left) * (bottom - top))

    @property
    def remarks(self) -> dict[str, str]:
        """Sentences by topic (``faces``, ``cut``, ``small``) on what a reader has to know of the crop."""
        found = {}
        if len(self.boxes) > 1:
            which = "the largest" if self.chosen == 0 else f"number {self.chosen} by size"
            found["faces"] = f"{self.name} shows {len(self.boxes)} faces; this is {which}" + (
                "" if self.asked else ", as no other was asked for"
            )
        if self.cut > _CUT:
            found["cut"] = (
                f"the border of {self.name} cuts the face: {self.cut:.0%} of it lies outside, and is black "
                "in the crop"
            )
        if self.eye_distance < self.template.eye_distance - 0.5:
            found["small"] = (
                f"the face in {self.name} is small: {self.eye_distance:.0f} pixels between the eyes, where "
                f"the model's crop has {self.template.eye_distance:.0f}; the crop is enlarged and blurred"
            )
        return found

    def to_photo(self, values: Tensor | NDArray[Any], *, outside: float = 0.0) -> NDArray[np.float32]:
        """A map on the crop in the photo's own pixels.

        Args:
            values: ``(H, W)`` or ``(H, W, C)`` of the crop's size.
            outside: What pixels get that are not in the crop.

        Returns:
            float32, of the height and width of the photo.

        Raises:
            ValueError: another size.
        """
        return self._warped(values, self.transform, self.photo_size, outside)

    def to_view(
        self, view: PhotoView, values: Tensor | NDArray[Any], *, outside: float = 0.0
    ) -> NDArray[np.float32]:
        """The same in the pixels of :attr:`whole` or :attr:`closeup`."""
        return self._warped(values, self.view_transform(view), view.pixels.shape[:2], outside)

    def view_transform(self, view: PhotoView) -> NDArray[np.float64]:
        """The transform ``(2, 3)`` from points of :attr:`whole` or :attr:`closeup` to the crop's."""
        return self.transform @ np.vstack([view.to_photo, (0, 0, 1)])

    def _warped(
        self, values: Tensor | NDArray[Any], transform: NDArray[Any], size: Sequence[int], outside: float
    ) -> NDArray[np.float32]:
        array = values.detach().float().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
        if tuple(array.shape[:2]) != self.template.size:
            raise ValueError(
                f"expected values of the crop's size {self.template.size} (height, width), got {array.shape}"
            )
        return warp(array, inverted(transform), size, outside=outside)

    def summary(self) -> dict[str, Any]:
        """Everything but pixels, ready for JSON."""
        return {
            "photo": self.name,
            "photo_size": list(self.photo_size),
            "template": self.template.name,
            "crop_size": list(self.template.size),
            "transform": self.transform.tolist(),
            "box": list(self.box),
            "landmarks": {name: list(point) for name, point in self.landmarks.items()},
            "outline": None if self.outline is None else self.outline.tolist(),
            "confidence": self.confidence,
            "boxes": self.boxes.tolist(),
            "chosen": self.chosen,
            "asked": self.asked,
            "closeup": list(self.closeup.edges),
            "template_points": {name: list(point) for name, point in self.template.points.items()},
        }

    @classmethod
    def of_summary(
        cls, summary: Any, image: Tensor, whole: NDArray[np.uint8], closeup: NDArray[np.uint8]
    ) -> PhotoCrop:
        """The crop of which :meth:`summary` tells, with the pixels of both views.

        Raises:
            KeyError, TypeError, ValueError: another object.
        """
        height, width = summary["crop_size"]
        tall, wide = summary["photo_size"]
        template = Template(
            str(summary["template"]),
            (int(height), int(width)),
            {str(name): (float(x), float(y)) for name, (x, y) in summary["template_points"].items()},
        )
        left, top, right, bottom = summary["closeup"]
        outline, confidence = summary["outline"], summary["confidence"]
        return cls(
            image=image,
            template=template,
            transform=np.array(summary["transform"], float).reshape(2, 3),
            landmarks={str(name): (float(x), float(y)) for name, (x, y) in summary["landmarks"].items()},
            outline=None if outline is None else np.array(outline, float).reshape(68, 2),
            confidence=None if confidence is None else float(confidence),
            boxes=np.array(summary["boxes"], float).reshape(-1, 4),
            chosen=int(summary["chosen"]),
            asked=bool(summary["asked"]),
            photo_size=(int(tall), int(wide)),
            whole=PhotoView(whole, (0.0, 0.0, float(wide), float(tall))),
            closeup=PhotoView(closeup, (float(left), float(top), float(right), float(bottom))),
            name=str(summary["photo"]),
        )


def align_face(
    photo: AnyImage | Photo,
    template: str | Template = "arcface",
    size: int | tuple[int, int] | None = None,
    *,
    face: FaceChoice = None,
    among_several: FaceChoice = None,
    detector: Detector | str | Path | None = None,
    channels: str | None = None,
    max_pixels: int | None = None,
    name: str | None = None,
) -> PhotoCrop:
    """One face of a photo as an aligned crop.

    Args:
        photo: A path, a Pillow image, an array, a tensor or a :class:`~captum_face.photos.Photo`.
        template: A name of :data:`~captum_face.photos.TEMPLATES`, or a template of your own.
        size: Height and width of the crop, or one number for both; None for the template's.
        face: Which of several faces: a number in the order of :func:`~captum_face.photos.find_faces`, or a
            point ``(x, y)`` of the photo, whose nearest face is taken; None for the largest.
        among_several: The same, for photos of several faces alone.
        detector: What finds faces, or its text as :func:`~captum_face.photos.resolve_detector` takes it; None
            for dlib's.
        channels: Order of the colours of an array, ``"rgb"`` or ``"bgr"``.
        max_pixels: The most pixels of the photo; None for :data:`~captum_face.photos.MAX_PIXELS`.
        name: What messages call the photo; None for its file name, where there is one.

    Returns:
        The :class:`PhotoCrop`; its ``remarks`` say what a reader has to know.

    Raises:
        NoFaceError: no face was found; the message says what was tried.
        ImportError, FileNotFoundError, TypeError, ValueError: as
            :func:`~captum_face.photos.find_faces` and :func:`~captum_face.photos.choose_face`.
    """
    chosen = resolve_template(template).resized(size)
    require_extra("skimage.transform", "alignment of faces")
    photo = load_photo(photo, channels=channels, max_pixels=max_pixels, name=name)
    finder = resolve_detector(detector)
    faces = find_faces(photo, finder)
    if not faces:
        raise no_face(photo, finder)
    if face is None and len(faces) > 1:
        face = among_several
    index = choose_face(faces, face)
    return _crop(faces, index, chosen, face is not None)


def no_face(photo: Photo, detector: Detector) -> NoFaceError:
    """The error on a photo without a face, which says what was tried and what to do."""
    how = detector.tried(photo) if hasattr(detector, "tried") else f"{type(detector).__name__} found none"
    # In fewer pixels, as this is advice that people wait for.
    small = replace(photo, pixels=resized(photo.pixels, shrinking(photo, _TURNED_PIXELS)))
    turned = [
        way
        for quarters, way in enumerate(_TURNS, start=1)
        if _finds(detector, replace(small, pixels=np.rot90(small.pixels, quarters).copy()))
    ]
    advice = (
        f"There is one with the photo turned by {' or '.join(turned)}: turn it so"
        if turned
        else "Turn the photo upright, crop it around the face or take a larger one"
    )
    return NoFaceError(
        f"expected a face in {photo.name}, found none: {how}. {advice}, or give landmarks of your own "
        "(LandmarkFile, on the command line --detector FILE.csv)"
    )


#: The most pixels at which a turned photo is looked at.
_TURNED_PIXELS = 1_000_000
#: A photo turned by one, two and three quarters, as ``numpy.rot90`` does.
_TURNS = ("90 degrees anticlockwise", "180 degrees", "90 degrees clockwise")


def _finds(detector: Detector, photo: Photo) -> bool:
    try:
        return len(detector.find(photo)) > 0
    except ValueError:  # such as a file of landmarks for photos of another size
        return False


def _crop(faces: Sequence[Face], index: int, template: Template, asked: bool) -> PhotoCrop:
    face = faces[index]
    pixels, (height, width) = face.photo.pixels, face.photo.size
    transform = face.transform(template)
    corners = apply(
        inverted(transform), [(x, y) for x in (0, template.size[1]) for y in (0, template.size[0])]
    )
    middle, reach = (corners.min(0) + corners.max(0)) / 2, np.ptp(corners, axis=0) / 2 * _AROUND
    left, top = np.clip(np.floor(middle - reach), 0, (width - 1, height - 1))
    right, bottom = np.clip(np.ceil(middle + reach), (left + 1, top + 1), (width, height))
    return PhotoCrop(
        image=face.crop(template),
        template=template,
        transform=transform,
        landmarks=face.landmarks,
        outline=face.outline,
        confidence=face.confidence,
        boxes=np.array([other.box for other in faces], float),
        chosen=index,
        asked=asked,
        photo_size=face.photo.size,
        whole=_view(pixels, (0.0, 0.0, float(width), float(height)), _WHOLE),
        closeup=_view(pixels, (float(left), float(top), float(right), float(bottom)), _CLOSEUP),
        name=face.photo.name,
    )


def _view(pixels: NDArray[np.uint8], edges: tuple[float, float, float, float], longest: int) -> PhotoView:
    left, top, right, bottom = (int(edge) for edge in edges)
    part = pixels[top:bottom, left:right]
    scale = longest / max(part.shape)
    if scale < 1:
        size = [max(round(side * scale), 1) for side in part.shape[1::-1]]
        part = np.asarray(Image.fromarray(part).resize((size[0], size[1]), Image.Resampling.LANCZOS))
    return PhotoView(np.ascontiguousarray(part), edges)


def load_crop(
    image: AnyImage | Photo | Face | PhotoCrop,
    template: Template | None,
    size: tuple[int, int] | None,
    *,
    align: str = "auto",
    face: FaceChoice = None,
    among_several: FaceChoice = None,
    detector: Detector | str | Path | None = None,
    channels: str | None = None,
    max_pixels: int | None = None,
    name: str | None = None,
    device: torch.device | None = None,
) -> tuple[Tensor, PhotoCrop | None]:
    """An image as a model wants it: a crop as it is, a photo aligned.

    Args:
        image: As :func:`align_face` takes it; a face of :func:`~captum_face.photos.find_faces`; or what
            :func:`align_face` gave.
        template: Of the model; None if it is not known.
        size: Height and width of the model's images; None if they are not known.
        align: ``"auto"`` aligns images that are not of ``size``; tensors, and images for models whose
            template or size is not known, are taken as they are. ``"always"`` aligns all, ``"never"`` none.
        face: As in :func:`align_face`; it is an error with an image that is not aligned.
        among_several: The same, where ``face`` is None and the photo shows several faces.
        device: Where the crop comes to; a tensor that is not aligned stays where it is.

    Returns:
        The image ``(N, C, H, W)``, and the :class:`PhotoCrop` it was cut from, None if it was not aligned.

    Raises:
        NoFaceError, ImportError, FileNotFoundError, TypeError, ValueError: as :func:`align_face`;
            ``"always"`` without a template.
    """
    require_choice(align, ALIGN, "align")
    if isinstance(image, (Face, PhotoCrop)):
        return _given(image, template, size, face, device)
    if align == "always" and template is None:
        raise ValueError(
            "expected a model whose alignment is known with align='always', got none: give "
            "PairSimilarity(alignment=...), a name of captum_face.photos.TEMPLATES or a Template"
        )
    if template is None or not is_aligned(image, template, size, align):
        if face is not None:
            raise ValueError(
                f"expected face={face!r} with a photo that is aligned, got an image that is taken as it is; "
                "align='always' aligns it"
            )
        if isinstance(image, Photo):
            return single_image(image.pixels, "rgb", device), None
        return single_image(image, channels, device), None
    try:
        crop = align_face(
            image,
            template,
            size,
            face=face,
            among_several=among_several,
            detector=detector,
            channels=channels if isinstance(image, np.ndarray) else None,
            max_pixels=max_pixels,
            name=name,
        )
    except NoFaceError as error:
        advice = "If the image is a crop that is aligned already, say align='never' (--align never)"
        raise NoFaceError(f"{error}. {advice}") from error
    return _kept(crop, device)


def _given(
    image: Face | PhotoCrop,
    template: Template | None,
    size: tuple[int, int] | None,
    face: FaceChoice,
    device: torch.device | None,
) -> tuple[Tensor, PhotoCrop]:
    """A face or crop that a caller made before, for a model of this template and size."""
    if face is not None:
        raise ValueError(f"expected face=None with a face that is chosen already, got {face!r}")
    if template is None:
        raise ValueError(
            "expected a model whose alignment is known with a face of a photo, got none: give "
            "PairSimilarity(alignment=...), a name of captum_face.photos.TEMPLATES or a Template"
        )
    wanted = template.resized(size)
    if isinstance(image, Face):
        image = _crop([image], 0, wanted, asked=True)
    if image.template != wanted:
        raise ValueError(
            f"expected a crop for the template {wanted.name} in {wanted.size} (height, width), as the model "
            f"has it, got {image.template.name} in {image.template.size}; align the photo to that"
        )
    return _kept(image, device)


def is_aligned(
    image: AnyImage | Photo, template: Template | None, size: tuple[int, int] | None, align: str
) -> bool:
    """Whether :func:`~captum_face.photos.load_crop` looks for a face in an image; arguments are its own."""
    if align != "auto":
        return align == "always"
    if template is None or size is None or isinstance(image, Tensor):
        return False
    if isinstance(image, Photo):
        return image.size != size
    if isinstance(image, np.ndarray):
        return image.shape[:2] != size
    try:
        height, width = image.size[::-1] if isinstance(image, Image.Image) else image_size(image)
    except ValueError:
        return False  # reading it says what is wrong
    return (height, width) != size


def _kept(crop: PhotoCrop, device: torch.device | None) -> tuple[Tensor, PhotoCrop]:
    """A crop for a caller, whose landmarks are known where the crop is looked at later."""
    remember_landmarks(crop.image, Landmarks(crop.points, crop.crop_outline))
    return crop.image.to(device), crop


def realign(images: Tensor, source: Template, target: Template) -> Tensor:
    """Aligned faces ``(N, C, H, W)`` as crops of another template, ``(N, C, h, w)`` of its size.

    Raises:
        ImportError: scikit-image is not installed: the extra ``photos``.
    """
    points = (np.array([template.points[name] for name in FIVE_POINTS]) for template in (source, target))
    matrix = fit(*points)
    drawn = [warp(image.permute(1, 2, 0).float().cpu(), matrix, target.size) for image in images]
    return torch.from_numpy(np.stack(drawn)).permute(0, 3, 1, 2).to(images)
