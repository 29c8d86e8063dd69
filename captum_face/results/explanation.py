"""One call from two photos to an explanation that can be shown, saved and read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from captum_face._files import printable
from captum_face._notebook import paragraphs, picture, table
from captum_face._validation import require_choice, require_pair
from captum_face.attr.base import PairAttribution
from captum_face.attr.spec import AnyMethod, MethodSpec
from captum_face.data.alignment import FaceCheck
from captum_face.data.images import AnyImage
from captum_face.figures._style import png_of
from captum_face.figures.explanation import show_explanation
from captum_face.figures.on_photos import show_on_photos
from captum_face.maps.agreement import Agreement
from captum_face.maps.regions import RegionShares, face_regions, region_shares
from captum_face.maps.signed import pixel_map
from captum_face.pair.embedding import device_of
from captum_face.pair.scores import Threshold, decision_text, decision_word, shown_summary, threshold_source
from captum_face.pair.similarity import PairSimilarity
from captum_face.photos.crops import PhotoCrop, load_crop
from captum_face.photos.detectors import Detector
from captum_face.photos.faces import Face
from captum_face.photos.finding import FaceChoice
from captum_face.photos.landmarks import check_crops, find_landmarks
from captum_face.photos.photo import Photo
from captum_face.results._loading import as_image, read_saved
from captum_face.results._saving import (
    ENDINGS,
    FORMATS,
    file_name,
    label_of,
    save_figure,
    save_result,
    settings,
    versions,
)

__all__ = ["Explanation", "explain"]


@dataclass(frozen=True, repr=False, eq=False)  # tensors have no single answer to ==
class Explanation:
    """Why one pair was accepted or rejected; made by :func:`explain`.

    A notebook shows it as its figure with the shares of the face regions below.
    """

    method: str  #: name in the registry, with the options that were written behind it
    score: float  #: the pair's similarity; it knows the distance it stands for, if it does
    threshold: float | None  #: the verification threshold; None if there is none
    images: tuple[Tensor, Tensor]  #: ``(1, C, H, W)`` each, as explained
    attributions: tuple[Tensor, Tensor]  #: ``(1, C, H, W)`` each, positive = for the same person
    settings: dict[str, Any]  #: the method's options, defaults included, and the pair wrapper's
    names: tuple[str, str] = ("image A", "image B")  #: what the figure calls the two images
    #: Shares of the evidence by face region for both images, see
    #: :func:`~captum_face.maps.region_shares`; None unless both images pass their check.
    regions: tuple[dict[str, dict[str, float]], dict[str, dict[str, float]]] | None = field(default=None)
    #: Whether each image looks like a face, aligned as the model expects; empty if that is an alignment that
    #: cannot be checked (the ``alignment`` of its :class:`~captum_face.PairSimilarity` is None).
    checks: tuple[FaceCheck, ...] = ()
    #: Where each image was cut out of its photo; None for one that was taken as it is.
    crops: tuple[PhotoCrop | None, PhotoCrop | None] = (None, None)
    #: Versions of the packages that made it.
    versions: dict[str, str] = field(default_factory=versions)

    @property
    def decision(self) -> bool | None:
        """True if the pair is accepted as the same person; None without a threshold."""
        return None if self.threshold is None else self.score >= self.threshold

    @property
    def verdict(self) -> str:
        """Score, threshold and decision in words."""
        return decision_text(self.score, self.threshold)

    @property
    def remarks(self) -> dict[str, str]:
        """Sentences on the maps by topic, such as failed checks, faces cut by the border, the cohort."""
        of_photos = {
            f"{topic}_{side}": remark
            for side, crop in zip("ab", self.crops, strict=True)
            for topic, remark in (crop.remarks if crop else {}).items()
        }
        return self.failed_checks | of_photos | self.settings.get("remarks", {})

    @property
    def failed_checks(self) -> dict[str, str]:
        """A sentence on ``"image_a"`` and ``"image_b"`` where they fail their check; empty if both pass."""
        return {
            f"image_{side}": f"{check.message(name)}; region shares are withheld"
            for side, name, check in zip("ab", self.names, self.checks, strict=False)
            if not check.passed
        }

    @property
    def maps(self) -> tuple[Tensor, Tensor]:
        """One signed value per pixel, ``(H, W)`` for each image."""
        map_a, map_b = (pixel_map(attr)[0] for attr in self.attributions)
        return map_a, map_b

    def dissimilar_shares(self, masks: tuple[Tensor, Tensor]) -> tuple[float, float]:
        """The share of each dissimilarity map that lies inside a mask.

        Args:
            masks: ``(1, H, W)`` or ``(H, W)`` bool for both images, such as what is known to differ.

        Returns:
            Two values in [0, 1]; 0 where the dissimilarity map is empty.
        """
        share_a, share_b = (
            float(against[mask.reshape(against.shape)].sum() / against.sum().clamp(min=1e-30))
            for mask, against in zip(
                masks, ((-m).clamp(min=0).cpu().double() for m in self.maps), strict=True
            )
        )
        return share_a, share_b

    def plot(self, **options: Any) -> Figure:
        """The figure; ``options`` go to :func:`~captum_face.show_explanation`."""
        return show_explanation(self.images, self.attributions, **{**self._captions, **options})

    def on_photos(self, **options: Any) -> Figure:
        """The figure on the photos; ``options`` go to :func:`~captum_face.figures.show_on_photos`.

        Raises:
            ValueError: neither image was cut from a photo.
        """
        return show_on_photos(self.images, self.attributions, self.crops, **{**self._captions, **options})

    def photo_maps(self) -> tuple[np.ndarray | None, np.ndarray | None]:
        """The :attr:`maps` in the pixels of the photos, float32 ``(H, W)`` each, 0 outside the crop.

        None for an image that was not cut from a photo.
        """
        map_a, map_b = (
            None if crop is None else crop.to_photo(one)
            for crop, one in zip(self.crops, self.maps, strict=True)
        )
        return map_a, map_b

    @property
    def _captions(self) -> dict[str, Any]:
        return {
            "score": self.score,
            "threshold": self.threshold,
            "method": self.method,
            "names": self.names,
            "remarks": list(self.remarks.values()),
        }

    def summary(self) -> dict[str, Any]:
        """Everything but images and maps, ready for JSON."""
        summary: dict[str, Any] = {
            "kind": "explanation",
            "method": self.method,
            "images": list(self.names),
            "score": self.score,
            "threshold": self.threshold,
            "threshold_source": threshold_source(self.threshold),
            **shown_summary(self.score, self.threshold),
            "decision": decision_word(self.score, self.threshold, "same person", "different people"),
            "accepted": self.decision,
            "checks": {f"image_{side}": c.summary() for side, c in zip("ab", self.checks, strict=False)},
            "protocol": self.settings,
            "versions": self.versions,
        }
        if self.regions is not None:
            summary["regions"] = dict(zip(("image_a", "image_b"), self.regions, strict=True))
        if any(self.crops):
            summary["photos"] = {
                f"image_{side}": crop and crop.summary() for side, crop in zip("ab", self.crops, strict=True)
            }
        return summary

    @property
    def pair_label(self) -> str:
        """How the names of its files begin, such as ``"010_1__010_2-1f4e09ab"``.

        The names of both images, and eight digits that stand for names and pixels: two pairs have different
        labels, also where their files have the same names in two folders.
        """
        return label_of(self.names, self.images)

    def save(
        self, folder: str | Path, *, format: str = "png", on_photos: bool | None = None, **options: Any
    ) -> dict[str, Path]:
        """Writes the figure, the maps and a summary into a folder.

        Args:
            folder: Made if it is not there. The files are called ``<pair_label>.<method>.png``, ``.npz`` and
                ``.json``, and replace files of these names: those of the same pair and method.
            format: Of the figure: ``"png"``, ``"pdf"`` or ``"svg"``.
            on_photos: Whether to write :meth:`on_photos` as well; None where an image was cut from a photo.
            options: Go to :func:`~captum_face.show_explanation`.

        Returns:
            The paths, by ``"figure"``, ``"maps"`` and ``"summary"``, and ``"photos"`` of the figure on the
            photos, ``<pair_label>.<method>.photos.png``. The ``.npz`` holds ``attr_a`` and
            ``attr_b`` ``(C, H, W)``, ``map_a`` and ``map_b`` ``(H, W)``, float32 and signed, ``image_a`` and
            ``image_b`` ``(C, H, W)`` as they were explained (in bytes of 0 to 255 where that loses nothing),
            and ``score`` and ``threshold`` (NaN if there is none); of photos also ``photo_a`` (of at most
            1024 pixels in the longer side) and ``closeup_a`` ``(H, W, 3)`` in bytes. :meth:`load` reads it
            back.

        Raises:
            ValueError: another ``format``; ``on_photos=True`` without a photo.
        """
        require_choice(format, FORMATS, "format of a figure")
        photos = any(self.crops) if on_photos is None else on_photos
        figure_on_photos = self.on_photos(**options) if photos else None
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        stem = f"{self.pair_label}.{file_name(self.method)}"
        paths = {kind: folder / f"{stem}{end}" for kind, end in {"figure": f".{format}", **ENDINGS}.items()}
        arrays = {}
        for side, attr, image in zip("ab", self.attributions, self.images, strict=True):
            attr = attr.detach().float().cpu()  # the maps are those of what load gives
            arrays[f"attr_{side}"], arrays[f"map_{side}"] = attr[0].numpy(), pixel_map(attr)[0].numpy()
            arrays[f"image_{side}"] = as_image(image[0])
        for side, crop in zip("ab", self.crops, strict=True):
            if crop:
                arrays |= {f"photo_{side}": crop.whole.pixels, f"closeup_{side}": crop.closeup.pixels}
        threshold = np.nan if self.threshold is None else float(self.threshold)
        arrays |= {"score": np.array(self.score), "threshold": np.array(threshold)}
        if figure_on_photos is not None:
            paths["photos"] = folder / f"{stem}.photos.{format}"
            save_figure(figure_on_photos, paths["photos"])
        save_result(paths, arrays, self.plot(**options), self.summary(), options)
        return paths

    @classmethod
    def load(cls, path: str | Path) -> Explanation:
        """Reads what :meth:`save` wrote. Saved again, it gives the same files, byte for byte.

        Args:
            path: One of the files (``.json``, ``.npz`` or the figure), or a folder that holds one
                explanation.

        Returns:
            The :class:`Explanation` on the CPU, attributions in float32. Nothing is computed, and no code in
            the files is executed.

        Raises:
            FileNotFoundError: no such file, or no explanation in the folder.
            ValueError: several explanations in the folder; files that are damaged, of something else, or of
                version 0.1.0, which did not save the images.

        Example::

            >>> import tempfile
            >>> from captum_face.data import synthetic
            >>> from captum_face.models import load_pair
            >>> faces = synthetic.pair(seed=1)
            >>> explanation = explain(load_pair("synthetic"), faces.image_a, faces.image_b)
            >>> folder = tempfile.mkdtemp()
            >>> paths = explanation.save(folder)
            >>> Explanation.load(folder).verdict == explanation.verdict
            True
        """
        saved = read_saved(path, "explanation", "Explanation.save")
        images = saved.pair(saved.images("image_a")[None], saved.images("image_b")[None])
        attributions = saved.tensor("attr_a")[None], saved.tensor("attr_b")[None]
        names, regions = saved.field("images", list), saved.summary.get("regions")
        if any(attr.shape != image.shape for attr, image in zip(attributions, images, strict=True)):
            raise saved.wrong("got maps and images of different shapes")
        if len(names) != 2 or not all(isinstance(name, str) for name in names):
            raise saved.wrong(f"got {names!r} as names of the two images")
        if regions is not None and (
            not isinstance(regions, dict) or regions.keys() != {"image_a", "image_b"}
        ):
            raise saved.wrong(f"got {regions!r} as shares of the regions")
        score = saved.score(saved.field("score", (int, float)))
        if not np.array_equal(saved.array("score"), score):
            raise saved.wrong("got two scores")
        return cls(
            method=saved.field("method", str),
            score=score,
            threshold=saved.threshold(),
            images=images,
            attributions=attributions,
            settings=saved.field("protocol", dict),
            names=(names[0], names[1]),
            checks=tuple(
                check
                for side in "ab"
                if (check := saved.check(saved.field("checks", dict).get(f"image_{side}")))
            ),
            regions=None
            if regions is None
            else (RegionShares(regions["image_a"]), RegionShares(regions["image_b"])),
            crops=saved.crops(images),
            versions=saved.field("versions", dict),
        )

    def __repr__(self) -> str:
        return f"Explanation(method={self.method!r}, {self.verdict})"

    def _repr_html_(self) -> str:
        said = [] if self.threshold is None else [f"threshold: {threshold_source(self.threshold)}"]
        parts = [picture(png_of(self.plot()), repr(self)), paragraphs([*said, *self.remarks.values()])]
        if self.regions is not None:
            kinds = {"for": "similar", "against": "dissimilar"}
            head = ["share of", "area", *(f"{name}: {kind}" for name in self.names for kind in kinds)]
            rows = (
                [region.replace("_", " "), f"{share['area']:.0%}"]
                + [f"{side[region][kind]:.0%}" for side in self.regions for kind in kinds.values()]
                for region, share in self.regions[0].items()
            )
            parts.append(table(head, rows))
        return "".join(parts)


def explain(
    pair: PairSimilarity,
    image_a: AnyImage | Photo | Face | PhotoCrop,
    image_b: AnyImage | Photo | Face | PhotoCrop,
    method: AnyMethod = "fggb",
    *,
    channels: str | None = None,
    names: tuple[str, str] | None = None,
    align: str = "auto",
    face: FaceChoice = None,
    face_a: FaceChoice = None,
    face_b: FaceChoice = None,
    detector: Detector | None = None,
    max_pixels: int | None = None,
    **options: Any,
) -> Explanation:
    """Explains one pair of face images, which may be photos.

    Args:
        pair: The model with its preprocessing, and the threshold that decides. Without a threshold nothing is
            decided, and methods that use one say what they took instead: see :attr:`Explanation.remarks`.
        image_a: A path, a Pillow image, a float tensor ``(3, H, W)`` or ``(1, 3, H, W)`` in [0, 1], or a
            numpy array ``(H, W, 3)`` or ``(H, W)`` of uint8 or of floats in [0, 1]. How each is read stands
            at :func:`~captum_face.load_image`.
        image_b: The other one. Both may also be what :func:`~captum_face.photos.find_faces` and
            :func:`~captum_face.photos.align_face` gave.
        method: ``"NAME"`` or ``"NAME:KEY=VALUE,..."`` as the command line takes it, with a name of
            :data:`captum_face.METHODS` or the dotted name of a class of Captum; a class; or an instance on
            this pair. See :meth:`MethodSpec.of <captum_face.attr.spec.MethodSpec.of>`.
        channels: Order of the colours of numpy arrays, ``"rgb"`` or ``"bgr"`` (OpenCV); they need it.
        names: What figures call the two images; None for file names where there are any.
        align: ``"auto"`` finds the face in an image that is not of the model's size and cuts it out as the
            model expects; tensors, and images for a model whose size or alignment is not known, are taken as
            they are. ``"always"`` aligns all images, ``"never"`` none.
        face: Which face of a photo that shows several: its number from 0 in the order of size, or a point
            ``(x, y)`` of the photo, whose nearest face is taken. None for the largest.
        face_a: The same for image A alone; it must be there.
        face_b: The same for image B alone.
        detector: What finds faces in photos; None for dlib's
            (:class:`~captum_face.photos.DlibDetector`), which the extra ``photos`` installs.
        max_pixels: The most pixels of a photo; None for :data:`~captum_face.photos.MAX_PIXELS`.
        options: Options of the method's ``attribute``. Methods with a ``seed`` get 0 unless told
            otherwise, so that the same call gives the same explanation.

    Returns:
        The :class:`Explanation`.

    Cost: at most one forward pass for each image more than the method.

    Raises:
        FileNotFoundError, ValueError, TypeError: unreadable or unfit images, more than one pair, an
            unknown method or option (the message says the nearest one); before any computation.
        NoFaceError: a photo in which no face was found; the message says what was tried.
        ImportError: a photo, without the extra ``photos``.

    Example::

        >>> from captum_face.data import synthetic
        >>> from captum_face.models import synthetic as synthetic_model
        >>> pair = PairSimilarity(synthetic_model(), preprocess="arcface", threshold=0.5)
        >>> faces = synthetic.pair(seed=1)
        >>> explanation = explain(pair, faces.image_a, faces.image_b)
        >>> explanation.maps[0].shape
        torch.Size([112, 112])
    """
    spec, attribution, options = prepared_method(pair, method, options)
    if names is not None and len(names) != 2:
        raise ValueError(f"expected names for two images, got {names!r}")
    called = names or (name_of(image_a, "image A"), name_of(image_b, "image B"))
    found_crops = load_crops(
        pair,
        (image_a, image_b),
        names=called,
        align=align,
        faces=(face_a, face_b),
        among_several=face,
        detector=detector,
        channels=channels,
        max_pixels=max_pixels,
    )
    images = require_pair(tuple(image for image, _ in found_crops))
    if len(images[0]) != 1 or len(images[1]) != 1:
        raise ValueError(
            f"expected one pair, got batches of {len(images[0])} and {len(images[1])}; explain them one by "
            f"one, or call {type(attribution).__name__}(pair).attribute on the batch"
        )
    found = attribution.attribute_detailed(images, **options)
    attr_a, attr_b = map(spec.smoothed, found.attributions)
    checks = tuple(check for image in images for check in check_crops(image, pair.template))
    regions = None
    if pair.template is not None and checks and all(check.passed for check in checks):
        regions = tuple(
            region_shares(attr, face_regions(pair.template, (image.shape[-2], image.shape[-1]), landmarks))
            for image, attr, check in zip(images, (attr_a, attr_b), checks, strict=True)
            for landmarks in (check.by == "landmarks" and find_landmarks(image)) or [None]
        )
    return Explanation(
        method=spec.label,
        score=pair.score.value(float(found.scores)),
        threshold=threshold_of(pair, options),
        images=images,
        attributions=(attr_a, attr_b),
        settings=settings(pair, spec, options, images[0], found.remarks)
        | {"details": {name: values[0].tolist() for name, values in found.details.items()}},
        names=called,
        crops=(found_crops[0][1], found_crops[1][1]),
        regions=None if regions is None else (regions[0], regions[1]),
        checks=checks,
    )


def comparison_summary(explanations: Sequence[Explanation], agreed: Agreement | None) -> dict[str, Any]:
    """What the comparison of several methods says, ready for JSON."""
    first = explanations[0]
    return {
        "methods": [explanation.method for explanation in explanations],
        "images": list(first.names),
        "score": first.score,
        "threshold": first.threshold,
        "threshold_source": threshold_source(first.threshold),
        **shown_summary(first.score, first.threshold),
        "decision": decision_word(first.score, first.threshold, "same person", "different people"),
        "remarks": {e.method: e.remarks for e in explanations if e.remarks},
        "agreement": None if agreed is None else agreed._asdict() | {"in_words": str(agreed)},
        "versions": versions(),
    }


def prepared_method(
    pair: PairSimilarity,
    method: AnyMethod,
    options: dict[str, Any],
) -> tuple[MethodSpec, PairAttribution, dict[str, Any]]:
    """What is asked for, the method on the pair, and the options to call it with; a seed not given is 0."""
    spec = MethodSpec.of(method)
    if not isinstance(pair, PairSimilarity):
        raise TypeError(
            f"expected pair as a PairSimilarity, got {type(pair).__name__}; wrap the model in one"
        )
    spec.require_options(options)
    options = {**spec.options, **options}
    if not spec.kind.deterministic() and options.get("seed") is None and options.get("generator") is None:
        options = {**options, "seed": 0}
    return spec, spec.build(pair), options


def threshold_of(pair: PairSimilarity, options: dict[str, Any]) -> Threshold | None:
    """The threshold that decides: the one among a method's options, or else the pair's own."""
    given = options.get("threshold")
    return pair.threshold if given is None else pair.score.given(given)


def load_crops(
    pair: PairSimilarity,
    images: tuple[AnyImage | Photo | Face | PhotoCrop, AnyImage | Photo | Face | PhotoCrop],
    *,
    names: tuple[str, str] = ("image A", "image B"),
    faces: tuple[FaceChoice, FaceChoice] = (None, None),
    among_several: FaceChoice = None,
    align: str = "auto",
    **options: Any,
) -> list[tuple[Tensor, PhotoCrop | None]]:
    """Both images of a pair as the model wants them; arguments are those of :func:`explain`.

    Raises:
        ValueError: a face is chosen, and neither image is a photo.
    """
    loaded = [
        load_crop(
            image,
            pair.template,
            pair.image_size,
            face=face,
            among_several=among_several,
            align=align,
            device=device_of(pair),
            name=name,
            **options,
        )
        for image, face, name in zip(images, faces, names, strict=True)
    ]
    if among_several is not None and not any(crop for _, crop in loaded):
        raise ValueError(
            f"expected face={among_several!r} with a photo that is aligned, got two images that are taken as "
            "they are; align='always' aligns them"
        )
    sizes = [tuple(image.shape[-2:]) for image, _ in loaded]
    if pair.image_size is None and sizes[0] != sizes[1]:
        got = " and ".join(
            f"{name} of {size[1]} x {size[0]}" for name, size in zip(names, sizes, strict=True)
        )
        raise ValueError(
            f"expected two crops of one size, as the size of the model's images is not known, got {got}; say "
            "it with PairSimilarity(image_size=(height, width)), and photos are aligned to it"
        )
    return loaded


def name_of(image: object, default: str) -> str:
    """What figures call an image."""
    if isinstance(image, (str, Path)):
        return printable(Path(image).name)
    photo = image.photo if isinstance(image, Face) else image
    return photo.name if isinstance(photo, (Photo, PhotoCrop)) else default
