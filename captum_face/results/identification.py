"""Who is this? The best matches of a probe in a gallery, each with what speaks for it and against."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from captum_face._files import printable, write_whole
from captum_face._notebook import paragraphs, picture
from captum_face._progress import progress_bar
from captum_face._validation import require_choice, require_images, require_positive_int
from captum_face.attr.spec import AnyMethod
from captum_face.data.alignment import FaceCheck
from captum_face.data.faces import image_files
from captum_face.data.images import AnyImage, image_size, single_image
from captum_face.figures._style import png_of
from captum_face.figures.identification import show_identification
from captum_face.maps.signed import pixel_map
from captum_face.pair.embedding import device_of, gallery_scores, read_images
from captum_face.pair.passes import BatchSize, require_batch_size
from captum_face.pair.scores import Distance, decision_text, shown, shown_summary, threshold_source
from captum_face.pair.similarity import PairSimilarity
from captum_face.pair.speed import accelerated, images_per_pass
from captum_face.photos.crops import PhotoCrop, is_aligned, load_crop
from captum_face.photos.detectors import Detector
from captum_face.photos.faces import Face
from captum_face.photos.finding import FaceChoice
from captum_face.photos.landmarks import check_crops
from captum_face.photos.photo import Photo
from captum_face.results._loading import Saved, as_image, read_saved
from captum_face.results._saving import ENDINGS, FORMATS, file_name, label_of, save_result, settings, versions
from captum_face.results.explanation import name_of, prepared_method, threshold_of
from captum_face.results.gallery import attribute_gallery, select_baselines

__all__ = ["Identification", "Match", "identify"]


@dataclass(frozen=True, repr=False, eq=False)  # tensors have no single answer to ==
class Match:
    """One of the best matches of an :class:`Identification`."""

    name: str  #: of the gallery image
    score: float  #: the probe's similarity to it; it knows the distance it stands for, if it does
    image: Tensor  #: ``(1, C, H, W)``: the gallery image
    attribution: Tensor  #: ``(1, C, H, W)``: the probe's map against it; positive = for the same person
    own_attribution: Tensor | None = None  #: its own map against the probe, where asked for
    check: FaceCheck | None = None  #: whether it is an aligned face; None for an alignment not checked

    def __repr__(self) -> str:
        quantity = distance.name if (distance := getattr(self.score, "distance", None)) else "score"
        return f"Match({self.name!r}, {quantity}={shown(self.score):.3f})"


@dataclass(frozen=True, repr=False, eq=False)
class Identification:
    """The best matches of a probe in a gallery, explained; made by :func:`identify`."""

    method: str  #: name in the registry
    threshold: float | None  #: the threshold from which a match is accepted; None if there is none
    probe: Tensor  #: ``(1, C, H, W)``
    name: str  #: what figures call the probe
    matches: tuple[Match, ...]  #: the best first
    ranking: tuple[tuple[str, float], ...]  #: names and scores of the whole gallery, the best first
    settings: dict[str, Any]  #: the method's options, defaults included, and the pair wrapper's
    left_out: dict[str, str] = field(default_factory=dict)  #: gallery files that were not searched, and why
    check: FaceCheck | None = None  #: whether the probe is an aligned face; None for an alignment not checked
    #: Versions of the packages that made it.
    versions: dict[str, str] = field(default_factory=versions)

    @property
    def _distance(self) -> Distance | None:
        """What the scores stand for; None for scores that are shown as they are."""
        return getattr(self.matches[0].score, "distance", None)

    @property
    def decision(self) -> bool | None:
        """True if the best match is accepted as the same person; else the probe is nobody in the gallery.

        None without a threshold.
        """
        return None if self.threshold is None else self.matches[0].score >= self.threshold

    @property
    def verdict(self) -> str:
        """The best match, its score and the decision in words."""
        best = self.matches[0]
        return f"best match of {len(self.ranking)}: {best.name}, {decision_text(best.score, self.threshold)}"

    @property
    def remarks(self) -> dict[str, str]:
        """Sentences on the maps by topic, such as failed checks, a threshold not given, the cohort."""
        return self.failed_checks | self.settings.get("remarks", {})

    @property
    def failed_checks(self) -> dict[str, str]:
        """A sentence on ``"probe"`` and each ``"match_RANK"`` that fails its check; empty if all pass."""
        checks = {"probe": (self.name, self.check)}
        checks |= {
            f"match_{rank}": (f"match {rank} ({match.name})", match.check)
            for rank, match in enumerate(self.matches, start=1)
        }
        return {
            topic: check.message(name)
            for topic, (name, check) in checks.items()
            if check and not check.passed
        }

    @property
    def maps(self) -> Tensor:
        """One signed value per pixel of the probe for each match, ``(k, H, W)``."""
        return pixel_map(torch.cat([match.attribution for match in self.matches]))

    def plot(self, **options: Any) -> Figure:
        """The figure; ``options`` go to :func:`~captum_face.show_identification`."""
        return show_identification(self, **options)

    def summary(self) -> dict[str, Any]:
        """Everything but images and maps, ready for JSON."""
        return {
            "kind": "identification",
            "method": self.method,
            "probe": self.name,
            "threshold": self.threshold,
            "threshold_source": threshold_source(self.threshold),
            **shown_summary(self.matches[0].score, self.threshold),
            "accepted": self.decision,
            "check": self.check.summary() if self.check else None,
            "matches": [
                {
                    "name": match.name,
                    "score": match.score,
                    **({} if self._distance is None else {"shown": shown(match.score)}),
                    "accepted": None if self.threshold is None else match.score >= self.threshold,
                    "check": match.check.summary() if match.check else None,
                }
                for match in self.matches
            ],
            "searched": len(self.ranking),
            "left_out": self.left_out,
            "protocol": self.settings,
            "versions": self.versions,
        }

    @property
    def search_label(self) -> str:
        """How the names of its files begin, such as ``"010_1-1f4e09ab"``.

        The probe's name, and eight digits that stand for it, its pixels and the names in the gallery.
        """
        return label_of([self.name], [self.probe], sorted(name for name, _ in self.ranking))

    def save(self, folder: str | Path, *, format: str = "png", **options: Any) -> dict[str, Path]:
        """Writes the figure, the maps, a summary and the whole ranking into a folder.

        Args:
            folder: Made if it is not there. The files are called ``<search_label>.<method>.png``, ``.npz``,
                ``.json`` and ``.csv``, and replace files of these names.
            format: Of the figure: ``"png"``, ``"pdf"`` or ``"svg"``.
            options: Go to :func:`~captum_face.show_identification`.

        Returns:
            The paths, by ``"figure"``, ``"maps"``, ``"summary"`` and ``"ranking"``. The ``.npz`` holds
            ``attributions`` ``(k, C, H, W)`` and ``maps`` ``(k, H, W)`` of the probe, float32 and signed,
            ``probe`` ``(1, C, H, W)`` and ``images`` ``(k, C, H, W)`` as they were explained (in bytes of 0
            to 255 where that loses nothing), ``names`` and ``scores`` of the matches and the ``threshold``
            (NaN if there is none); with the matches' own maps also ``own_attributions``. The ranking has a
            line for each image that was searched. :meth:`load` reads it back.

        Raises:
            ValueError: another ``format``.
        """
        require_choice(format, FORMATS, "format of a figure")
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        stem = f"{self.search_label}.{file_name(self.method)}"
        endings = {"figure": f".{format}", **ENDINGS, "ranking": ".csv"}
        paths = {kind: folder / f"{stem}{end}" for kind, end in endings.items()}
        probe_maps = _array([match.attribution for match in self.matches])
        arrays = {
            "attributions": probe_maps,
            "maps": pixel_map(torch.from_numpy(probe_maps)).numpy(),
            "probe": as_image(self.probe),
            "images": as_image(torch.cat([match.image for match in self.matches])),
            "names": np.array([match.name for match in self.matches]),
            "scores": np.array([match.score for match in self.matches]),
            "threshold": np.array(np.nan if self.threshold is None else float(self.threshold)),
        }
        own = [match.own_attribution for match in self.matches if match.own_attribution is not None]
        if own:
            arrays["own_attributions"] = _array(own)
        save_result(paths, arrays, self.plot(**options), self.summary(), options)
        write_whole(paths["ranking"], self._write_ranking)
        return paths

    @classmethod
    def load(cls, path: str | Path) -> Identification:
        """Reads what :meth:`save` wrote. Saved again, it gives the same files, byte for byte.

        Args:
            path: One of the files (``.json``, ``.npz`` or the figure), or a folder that holds one
                identification.

        Returns:
            The :class:`Identification` on the CPU, attributions in float32. Nothing is computed, and no code
            in the files is executed.

        Raises:
            FileNotFoundError: no such file, or no identification in the folder.
            ValueError: several identifications in the folder; files that are damaged, of something else, or
                of version 0.1.0, which did not save the images.
        """
        saved = read_saved(path, "identification", "Identification.save")
        maps, images, probe = saved.tensor("attributions"), saved.images("images"), saved.images("probe")
        own = saved.tensor("own_attributions") if "own_attributions" in saved.arrays else None
        saved.pair(probe, images)
        ranking = _read_ranking(saved)
        best = ranking[: len(images)]
        told = [(row.get("name"), row.get("score")) for row in saved.field("matches", list)]
        if told != best or any(attr is not None and attr.shape != images.shape for attr in (maps, own)):
            raise saved.wrong("got matches that do not fit the ranking, or maps that do not fit the images")
        return cls(
            method=saved.field("method", str),
            threshold=saved.threshold(),
            probe=probe,
            name=saved.field("probe", str),
            check=saved.check(saved.summary.get("check")),
            matches=tuple(
                Match(
                    name,
                    saved.score(score),
                    images[[i]],
                    maps[[i]],
                    None if own is None else own[[i]],
                    saved.check(saved.summary["matches"][i].get("check")),
                )
                for i, (name, score) in enumerate(best)
            ),
            ranking=tuple(ranking),
            settings=saved.field("protocol", dict),
            left_out=saved.field("left_out", dict),
            versions=saved.field("versions", dict),
        )

    def _write_ranking(self, path: Path) -> None:
        with open(path, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            distance = self._distance
            writer.writerow(["rank", "name", "score", *(["distance"] if distance else [])])
            writer.writerows(
                [rank, name, repr(score), *([repr(distance.of(score))] if distance else [])]
                for rank, (name, score) in enumerate(self.ranking, start=1)
            )

    def __repr__(self) -> str:
        return f"Identification(method={self.method!r}, {self.verdict})"

    def _repr_html_(self) -> str:
        return picture(png_of(self.plot()), repr(self)) + paragraphs(self.remarks.values())


def _read_ranking(saved: Saved) -> list[tuple[str, float]]:
    path = saved.path.with_suffix(".csv")
    if not path.is_file():
        raise FileNotFoundError(f"expected the ranking {path} beside the summary, found none")
    try:
        with open(path, newline="", encoding="utf-8") as file:
            return [(row["name"], float(row["score"])) for row in csv.DictReader(file)]
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise saved.wrong(f"got a ranking {path.name} that cannot be read") from error


def identify(
    pair: PairSimilarity,
    probe: AnyImage | Photo | Face | PhotoCrop,
    gallery: str | Path | Sequence[str | Path] | Sequence[np.ndarray] | np.ndarray | Tensor,
    method: AnyMethod = "corrrise",
    *,
    channels: str | None = None,
    top_k: int = 5,
    both: bool = False,
    names: Sequence[str] | None = None,
    batch_size: BatchSize = None,
    align: str = "auto",
    face: FaceChoice = None,
    detector: Detector | None = None,
    max_pixels: int | None = None,
    **options: Any,
) -> Identification:
    """Searches a gallery for a probe and explains the best matches.

    Each of the best matches has a map of the probe of its own, which says what speaks for that match and what
    against (after Lu and Ebrahimi, arXiv 2407.05983, who explain identification by CorrRISE).

    Args:
        pair: The model with its preprocessing, and the threshold that decides; without one nothing is
            decided.
        probe: An image, as for :func:`~captum_face.explain`.
        gallery: A folder, searched with its subfolders for image files; a sequence of paths; a tensor
            ``(K, 3, H, W)`` in [0, 1]; or a sequence of numpy arrays. All of the probe's size, and aligned
            like it. The probe's own file is left out, and so are files that cannot be read:
            :attr:`Identification.left_out` names them.
        method: As for :func:`~captum_face.explain`.
        channels: As for :func:`~captum_face.explain`.
        top_k: Matches to explain. More than the gallery has are all.
        both: Also explain each match's own image against the probe.
        names: Of the images of a gallery of tensors or arrays; None for their numbers.
        batch_size: Gallery images in one forward pass; None for what suits the device, ``"auto"`` for what
            is measured to be cheapest. Half as many from where memory runs out.
        align: As for :func:`~captum_face.explain`, for the probe and for files of the gallery, of which the
            largest face is searched; a photo without a face is left out.
        face: Which face of a probe that is a photo: as for :func:`~captum_face.explain`.
        detector: As for :func:`~captum_face.explain`.
        max_pixels: The same.
        options: Options of the method's ``attribute``. Methods with a ``seed`` get 0 unless told otherwise.
            ``show_progress`` also shows a bar over the gallery.

    Returns:
        The :class:`Identification`.

    Cost: a forward pass for each gallery image, and :func:`~captum_face.attribute_gallery`; with ``both``
    also one side's explanation for each match. Of the gallery, embeddings and the matches are kept in
    memory.

    Raises:
        FileNotFoundError, ValueError, TypeError: an unreadable probe, no image in the gallery, images of
            another size than the probe's (all files are looked at before anything is computed), an unknown
            method or option.

    Example::

        >>> from captum_face.data import synthetic
        >>> from captum_face.models import load_pair
        >>> pair, faces = load_pair("synthetic"), synthetic.pair(seed=1)
        >>> others = torch.cat([synthetic.pair(seed=seed).image_a for seed in range(2, 5)])
        >>> found = identify(pair, faces.image_a, torch.cat([others, faces.image_b]), "xssab", top_k=2)
        >>> found.matches[0].name, found.maps.shape
        ('3', torch.Size([2, 112, 112]))
    """
    spec, attribution, options = prepared_method(pair, method, options)
    require_positive_int(top_k, "top_k")
    require_batch_size(batch_size, "batch_size")
    read_crop = partial(
        load_crop,
        template=pair.template,
        size=pair.image_size,
        align=align,
        detector=detector,
        max_pixels=max_pixels,
    )
    image, crop = read_crop(
        probe, face=face, channels=channels, device=device_of(pair), name=name_of(probe, "the probe")
    )
    image = require_images(image, "probe")
    if len(image) != 1:
        raise ValueError(f"expected one probe (1, C, H, W), got {tuple(image.shape)}; give them one by one")
    own_file = Path(probe) if isinstance(probe, (str, Path)) else None
    aligned = partial(is_aligned, template=pair.template, size=pair.image_size, align=align)
    loaders, left_out = _gallery(
        _read_arrays(gallery, channels), names, image, own_file, lambda path: read_crop(path)[0], aligned
    )
    show_progress = bool(options.get("show_progress", False))

    known: list[str] = []
    embeddings: list[Tensor] = []
    with (
        pair.frozen(),
        torch.inference_mode(False),
        torch.no_grad(),
        progress_bar(total=len(loaders), desc="gallery", disable=not show_progress) as bar,
    ):
        own = pair.embed(image)  # first: a model that does not take such images says so at once
        quick = accelerated(pair, image)
        size = images_per_pass(batch_size, quick, image)
        for read, unread in read_images(lambda name: loaders[name](), list(loaders), size):
            left_out.update(unread)
            known += read
            if read:
                batch = torch.cat([*read.values()]).to(image)
                embeddings.append(quick.embed_in_passes(batch, size))
            bar.update(len(read) + len(unread))
        if not known:
            raise ValueError(_nothing_left(left_out))
        table = torch.cat(embeddings)
        scores = gallery_scores(pair, own, table)[0]
    order = scores.argsort(descending=True, stable=True)
    best = order[:top_k]
    images = torch.cat([loaders[known[i]]().to(image) for i in best.tolist()])
    options = select_baselines(attribution, options, best, len(known))
    if both:
        detailed = attribution.attribute_detailed((image, images), **options)
        (maps, own_maps), remarks = detailed.attributions, detailed.remarks
    else:
        found = attribute_gallery(attribution, image, images, gallery_embeddings=table[best], **options)
        maps, own_maps, remarks = found.attributions, None, found.remarks
    maps, own_maps = spec.smoothed(maps), None if own_maps is None else spec.smoothed(own_maps)
    of_probe = {f"{topic}_probe": remark for topic, remark in (crop.remarks if crop else {}).items()}
    checks = check_crops(torch.cat([image, images]), pair.template) or (None,) * (len(images) + 1)
    return Identification(
        method=spec.label,
        threshold=threshold_of(pair, options),
        probe=image,
        name=name_of(probe, "probe"),
        matches=tuple(
            Match(
                known[i],
                pair.score.value(float(scores[i])),
                images[[row]],
                maps[[row]],
                None if own_maps is None else own_maps[[row]],
                checks[row + 1],
            )
            for row, i in enumerate(best.tolist())
        ),
        ranking=tuple((known[i], float(scores[i])) for i in order.tolist()),
        settings=settings(pair, spec, options, image, of_probe | remarks) | {"top_k": top_k},
        left_out=left_out,
        check=checks[0],
    )


def _read_arrays(gallery: object, channels: str | None) -> object:
    """A tensor of a gallery of numpy arrays; any other one as it is."""
    if isinstance(gallery, np.ndarray) and gallery.ndim != 4:
        raise ValueError(f"expected a gallery of arrays (K, H, W, 3), or a list of them, got {gallery.shape}")
    if not isinstance(gallery, (Sequence, np.ndarray)) or not any(
        isinstance(image, np.ndarray) for image in gallery
    ):
        return gallery
    images = [single_image(image, channels) for image in gallery]
    sizes = {tuple(image.shape[-2:]) for image in images}
    if len(sizes) > 1:
        raise ValueError(f"expected gallery images of one size (H, W), got {sorted(sizes)}")
    return torch.cat(images)


def _gallery(
    gallery: object,
    names: Sequence[str] | None,
    probe: Tensor,
    own_file: Path | None,
    read: Callable[[Path], Tensor],
    aligned: Callable[[Path], bool],
) -> tuple[dict[str, Callable[[], Tensor]], dict[str, str]]:
    """What loads each gallery image, by its name; and what is left out, and why."""
    if isinstance(gallery, Tensor):
        images = require_images(gallery, "gallery")
        if images.shape[1:] != probe.shape[1:]:
            raise ValueError(
                f"expected gallery images {tuple(probe.shape[1:])} like the probe, got "
                f"{tuple(images.shape[1:])}"
            )
        names = [str(i) for i in range(len(images))] if names is None else list(names)
        if len(names) != len(images) or len(set(names)) != len(names):
            raise ValueError(
                f"expected {len(images)} different names, one for each gallery image, got {len(names)}, "
                f"{len(set(names))} of them different"
            )
        return {name: partial(images.narrow, 0, i, 1) for i, name in enumerate(names)}, {}
    if names is not None:
        raise ValueError(
            "expected names for a gallery of tensors or arrays alone; files have names of their own"
        )
    files = _files(gallery)
    loaders: dict[str, Callable[[], Tensor]] = {}
    left_out: dict[str, str] = {}
    height, width = probe.shape[-2:]
    wrong = []
    for name, path in files.items():
        if own_file is not None and path.exists() and path.samefile(own_file):
            left_out[name] = "the probe's own file"
            continue
        try:
            size = image_size(path)
        except ValueError as error:
            left_out[name] = str(error)
            continue
        if size != (height, width) and not aligned(path):
            wrong.append(f"{name} ({size[1]}x{size[0]})")
        loaders[name] = partial(read, path)
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise ValueError(
            f"expected gallery images of {width}x{height} pixels, the probe's size, got {len(wrong)} of "
            f"{len(files)} of another: {', '.join(wrong[:3])}{more}; align and crop all images as the model "
            "expects them, as captum-face align and align='always' do"
        )
    if not loaders:
        raise ValueError(_nothing_left(left_out))
    return loaders, left_out


def _files(gallery: object) -> dict[str, Path]:
    """Paths by name: below a folder relative to it, else as given."""
    if isinstance(gallery, (str, Path)):
        return image_files(gallery)
    if isinstance(gallery, Sequence) and all(isinstance(path, (str, Path)) for path in gallery):
        if not gallery:
            raise ValueError("expected at least one gallery image, got an empty list")
        return {printable(str(path)): Path(path) for path in gallery}
    raise TypeError(
        "expected gallery as a folder, a sequence of paths or of arrays, or a tensor (K, C, H, W), got "
        f"{type(gallery).__name__}"
    )


def _nothing_left(left_out: dict[str, str]) -> str:
    name, reason = next(iter(left_out.items()))
    return (
        f"expected a gallery with at least one image to search, got none: all {len(left_out)} were left out, "
        f"such as {name}: {reason}"
    )


def _array(attributions: list[Tensor]) -> np.ndarray:
    return torch.cat(attributions).detach().float().cpu().numpy()
