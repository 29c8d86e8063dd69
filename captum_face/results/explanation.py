"""One call from two photos to an explanation that can be shown, saved and read."""

from __future__ import annotations

import base64
import html
import io
import json
import platform
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import captum
import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from captum_face._files import write_text, write_whole
from captum_face._validation import require_choice, require_pair
from captum_face.attr import PairAttribution, get_method
from captum_face.data.images import load_image
from captum_face.figures.explanation import decision_text, show_explanation
from captum_face.maps.regions import TEMPLATE_SIZE, region_shares
from captum_face.maps.signed import pixel_map
from captum_face.pair.similarity import PairSimilarity

__all__ = ["Explanation", "explain"]


@dataclass(frozen=True, repr=False, eq=False)  # tensors have no single answer to ==
class Explanation:
    """Why one pair was accepted or rejected; made by :func:`explain`.

    A notebook shows it as its figure with the shares of the face regions below.
    """

    method: str  #: name in the registry
    score: float  #: the pair's similarity
    threshold: float  #: the verification threshold
    images: tuple[Tensor, Tensor]  #: ``(1, C, H, W)`` each, as explained
    attributions: tuple[Tensor, Tensor]  #: ``(1, C, H, W)`` each, positive = for the same person
    settings: dict[str, Any]  #: the method's options, defaults included, and the pair wrapper's
    names: tuple[str, str] = ("image A", "image B")  #: what the figure calls the two images
    #: Shares of the evidence by face region for both images, see
    #: :func:`~captum_face.maps.regions.region_shares`; None unless they are 112 x 112 pixels.
    regions: tuple[dict[str, dict[str, float]], dict[str, dict[str, float]]] | None = field(default=None)

    @property
    def decision(self) -> bool:
        """True if the pair is accepted as the same person."""
        return self.score >= self.threshold

    @property
    def verdict(self) -> str:
        """Score, threshold and decision in words."""
        return decision_text(self.score, self.threshold)

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
        defaults: dict[str, Any] = {
            "score": self.score,
            "threshold": self.threshold,
            "method": self.method,
            "names": self.names,
        }
        return show_explanation(self.images, self.attributions, **{**defaults, **options})

    def summary(self) -> dict[str, Any]:
        """Everything but images and maps, ready for JSON."""
        summary: dict[str, Any] = {
            "method": self.method,
            "images": list(self.names),
            "score": self.score,
            "threshold": self.threshold,
            "decision": "same person" if self.decision else "different people",
            "accepted": self.decision,
            "protocol": self.settings,
            "versions": versions(),
        }
        if self.regions is not None:
            summary["regions"] = dict(zip(("image_a", "image_b"), self.regions, strict=True))
        return summary

    def save(self, folder: str | Path, **options: Any) -> dict[str, Path]:
        """Writes ``<method>.png``, ``<method>.npz`` and ``<method>.json`` into a folder.

        Args:
            folder: Made if it is not there. Files of these names are replaced.
            options: Go to :func:`~captum_face.show_explanation`.

        Returns:
            The paths, by ``"figure"``, ``"maps"`` and ``"summary"``. The ``.npz`` holds ``attr_a`` and
            ``attr_b`` ``(C, H, W)``, ``map_a`` and ``map_b`` ``(H, W)``, float32 and signed, and
            ``score`` and ``threshold``.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        paths = {kind: folder / f"{self.method}{end}" for kind, end in _ENDINGS.items()}
        arrays = {
            f"{kind}_{side}": value.float().cpu().numpy()
            for kind, values in (
                ("attr", [attr[0] for attr in self.attributions]),
                ("map", self.maps),
            )
            for side, value in zip("ab", values, strict=True)
        }
        arrays |= {"score": np.array(self.score), "threshold": np.array(self.threshold)}
        save_result(paths, arrays, self.plot(**options), self.summary(), options)
        return paths

    def __repr__(self) -> str:
        return f"Explanation(method={self.method!r}, {self.verdict})"

    def _repr_html_(self) -> str:
        buffer = io.BytesIO()
        self.plot().savefig(buffer, format="png")
        picture = base64.b64encode(buffer.getvalue()).decode()
        parts = [
            f'<img alt="{html.escape(repr(self))}" style="max-width: 720px" '
            f'src="data:image/png;base64,{picture}">'
        ]
        if self.regions is not None:
            head = "".join(
                f"<th>{html.escape(name)}: {kind}</th>" for name in self.names for kind in ("for", "against")
            )
            rows = "".join(
                f"<tr><td>{region.replace('_', ' ')}</td><td>{share['area']:.0%}</td>"
                + "".join(
                    f"<td>{side[region][kind]:.0%}</td>"
                    for side in self.regions
                    for kind in ("similar", "dissimilar")
                )
                + "</tr>"
                for region, share in self.regions[0].items()
            )
            parts.append(f"<table><tr><th>share of</th><th>area</th>{head}</tr>{rows}</table>")
        return "".join(parts)


_ENDINGS = {"figure": ".png", "maps": ".npz", "summary": ".json"}


def explain(
    pair: PairSimilarity,
    image_a: str | Path | Image.Image | Tensor,
    image_b: str | Path | Image.Image | Tensor,
    method: str = "fggb",
    *,
    names: tuple[str, str] | None = None,
    **options: Any,
) -> Explanation:
    """Explains one pair of face images.

    Args:
        pair: The model with its threshold and preprocessing.
        image_a: A path, a PIL image, or a float tensor ``(3, H, W)`` or ``(1, 3, H, W)`` in [0, 1].
        image_b: The other one.
        method: A name of :data:`captum_face.METHODS`.
        names: What figures call the two images; None for file names where there are any.
        options: Options of the method's ``attribute``. Methods with a ``seed`` get 0 unless told
            otherwise, so that the same call gives the same explanation.

    Returns:
        The :class:`Explanation`.

    Cost: two forward passes more than the method.

    Raises:
        FileNotFoundError, ValueError, TypeError: unreadable or unfit images, more than one pair, an
            unknown method or option (the message says the nearest one); before any computation.

    Example::

        >>> from captum_face.data import synthetic
        >>> from captum_face.models import synthetic as synthetic_model
        >>> pair = PairSimilarity(synthetic_model(), preprocess="arcface", threshold=0.5)
        >>> faces = synthetic.pair(seed=1)
        >>> explanation = explain(pair, faces.image_a, faces.image_b)
        >>> explanation.maps[0].shape
        torch.Size([112, 112])
    """
    attribution, options = prepared_method(pair, method, options)
    if names is not None and len(names) != 2:
        raise ValueError(f"expected names for two images, got {names!r}")
    images = require_pair(tuple(single_image(image) for image in (image_a, image_b)))
    if len(images[0]) != 1 or len(images[1]) != 1:
        raise ValueError(
            f"expected one pair, got batches of {len(images[0])} and {len(images[1])}; explain them one by "
            f"one, or call {type(attribution).__name__}(pair).attribute on the batch"
        )
    attributions = attribution.attribute(images, **options)
    with pair.frozen(), torch.no_grad():
        score = float(pair(*images))
    threshold = options.get("threshold")
    aligned = tuple(images[0].shape[-2:]) == (TEMPLATE_SIZE, TEMPLATE_SIZE)
    return Explanation(
        method=method,
        score=score,
        threshold=pair.threshold if threshold is None else float(threshold),
        images=images,
        attributions=attributions,
        settings=settings(pair, attribution, options, images[0]),
        names=names or (_name(image_a, "image A"), _name(image_b, "image B")),
        regions=(region_shares(attributions[0]), region_shares(attributions[1])) if aligned else None,
    )


def save_result(
    paths: dict[str, Path],
    arrays: dict[str, np.ndarray],
    figure: Figure,
    summary: dict[str, Any],
    figure_options: dict[str, Any],
) -> None:
    """Writes maps, figure and summary of a result, each of them wholly or not at all."""
    summary = summary | {"figure": {name: plain(value) for name, value in figure_options.items()}}
    text = json.dumps(summary, indent=2, ensure_ascii=False, default=str)

    def save_maps(path: Path) -> None:
        with path.open("wb") as file:
            np.savez_compressed(file, **arrays)  # type: ignore[arg-type] # its last option is a bool

    write_whole(paths["maps"], save_maps)
    write_whole(paths["figure"], lambda path: figure.savefig(path, format="png"))
    write_text(paths["summary"], text + "\n")


def prepared_method(
    pair: PairSimilarity, method: str, options: dict[str, Any]
) -> tuple[PairAttribution, dict[str, Any]]:
    """A registered method and the options to call it with; a seed that is not given is 0."""
    entry = get_method(method)
    if not isinstance(pair, PairSimilarity):
        raise TypeError(
            f"expected pair as a PairSimilarity, got {type(pair).__name__}; wrap the model in one"
        )
    attribution = entry.build(pair)
    known = attribution.options()
    for name in options:
        require_choice(name, known, f"option of {method}")
    if "seed" in known and options.get("seed") is None and options.get("generator") is None:
        options = {**options, "seed": 0}
    return attribution, options


def settings(
    pair: PairSimilarity, attribution: PairAttribution, options: dict[str, Any], image: Tensor
) -> dict[str, Any]:
    """What decides an explanation, the method's defaults included, as JSON can hold it."""
    defaults = {name: parameter.default for name, parameter in attribution.options().items()}
    return {
        "options": {
            name: plain(value) for name, value in {**defaults, **options}.items() if name != "show_progress"
        },
        "score": pair.score.name,
        "precision": pair.precision,
        "preprocess": repr(pair.preprocess),
        "embedding_model": type(pair.embedding_model).__name__,
        "image_size": list(image.shape[-2:]),
    }


def single_image(image: str | Path | Image.Image | Tensor) -> Tensor:
    if isinstance(image, Tensor):
        return image[None] if image.ndim == 3 else image
    if isinstance(image, (str, Path, Image.Image)):
        return load_image(image)
    raise TypeError(
        f"expected an image as a path, a PIL image or a tensor (3, H, W), got {type(image).__name__}"
    )


def _name(image: object, default: str) -> str:
    return Path(image).name if isinstance(image, (str, Path)) else default


def plain(value: Any) -> Any:
    """An option as JSON can hold it: tensors by shape, anything else unknown by its repr."""
    if isinstance(value, Tensor):
        return f"tensor of shape {tuple(value.shape)}"
    if isinstance(value, (tuple, list)):
        return [plain(item) for item in value]
    return value if isinstance(value, (str, int, float, bool, type(None))) else repr(value)


def versions() -> dict[str, str]:
    """Versions of what decides the numbers."""
    from captum_face import __version__

    return {
        "captum_face": __version__,
        "captum": captum.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
