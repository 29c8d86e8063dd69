"""What the benchmark is asked to run: a method with its options, written as one short text."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from captum_face._validation import require_choice
from captum_face.attr import METHODS, PairAttribution, get_method
from captum_face.attr._base import first_side_alone
from captum_face.engines.morphs import FEWEST_STRANGERS
from captum_face.maps.signed import smooth
from captum_face.pair.similarity import PairSimilarity

__all__ = ["NULL_BASELINES", "MethodSpec", "parse_methods"]

#: The methods that explain nothing; in every table.
NULL_BASELINES = ("random", "center")


@dataclass(frozen=True)
class MethodSpec:
    """A method as a row of the tables: its label, its options and what is done to its maps."""

    label: str  #: as it was asked for, such as ``"corrrise:n_patches=10,smooth=5"``
    name: str  #: in the registry
    options: dict[str, Any]  #: of the method's ``attribute``
    sigma: float = 0.0  #: standard deviation in pixels of the Gaussian that smooths the maps

    def build(self, pair: PairSimilarity, seed: int, faces: Tensor | None = None) -> Prepared:
        """The method on a pair wrapper, with its options.

        Args:
            pair: The pair wrapper.
            seed: For methods that draw, unless the options hold one.
            faces: Other people, for methods that compare with some.
        """
        return Prepared(get_method(self.name).build(pair), self, seed, faces)

    @property
    def faces(self) -> str | None:
        """The option for which the run has to find other people; None if there is none, or it is given."""
        option = get_method(self.name).faces
        return None if option in self.options else option

    @property
    def raw(self) -> str:
        """What rows that differ in their smoothing alone have in common."""
        return json.dumps([self.name, self.options], sort_keys=True)

    def settings(self) -> dict[str, Any]:
        """Every option with its value, defaults included, and the content of files such as decoders."""
        defaults = {
            name: parameter.default
            for name, parameter in get_method(self.name).build(print).options().items()
            if name not in ("seed", "generator", "show_progress")
        }
        files = {
            f"{name}_sha256": hashlib.sha256(Path(value).read_bytes()).hexdigest()
            for name, value in self.options.items()
            if isinstance(value, (str, Path)) and Path(value).is_file()
        }
        faces = {self.faces: "other people of the list"} if self.faces else {}
        options = {**defaults, **self.options, **files, **faces}
        return {"method": self.name, "options": options, "smooth": self.sigma}


class Prepared(PairAttribution):
    """A method with its options bound, and its maps smoothed: what stands behind a row of the tables.

    Args:
        method: The method.
        spec: Its options.
        seed: For methods that draw, unless the options hold one.
        faces: Other people, for methods that compare with some.
    """

    def __init__(
        self, method: PairAttribution, spec: MethodSpec, seed: int, faces: Tensor | None = None
    ) -> None:
        super().__init__(method.forward_func)
        self._faces = faces
        seeded = {"seed": seed} if "seed" in method.options() else {}
        self._method, self._spec, self._options = method, spec, {**seeded, **spec.options}

    def attribute(self, inputs: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Maps of both images."""
        return self.smoothed(self.raw(inputs, both=True))

    def raw(self, inputs: tuple[Tensor, Tensor], *, both: bool) -> tuple[Tensor, Tensor]:
        """Maps before smoothing, of both images or of image A alone (then the second one is empty)."""
        method = self._method if both else first_side_alone(self._method)
        options = self._options
        if self._spec.faces is not None:
            found = 0 if self._faces is None else len(self._faces)
            if found < FEWEST_STRANGERS:
                raise ValueError(
                    f"expected at least {FEWEST_STRANGERS} people of this size in the list whom the model "
                    f"tells from those of the pair, found {found}; add pairs of other people, or name faces "
                    f"with {self._spec.name}:{self._spec.faces}=..."
                )
            options = {**options, self._spec.faces: self._faces}
        with warnings.catch_warnings():
            # They are told from the pair's people, but perhaps not from an image with patches of others.
            warnings.filterwarnings("ignore", r"\d+ of \d+ strangers look like")
            return method.attribute(inputs, **options)

    def smoothed(self, maps: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """What is done to raw maps."""
        attr_a, attr_b = (smooth(attr, self._spec.sigma) if len(attr) else attr for attr in maps)
        return attr_a, attr_b


def parse_methods(texts: Iterable[str]) -> list[MethodSpec]:
    """The methods that texts ask for, each once, with the null baselines at the end.

    Args:
        texts: ``"NAME"``, ``"NAME:KEY=VALUE,..."`` or ``"all"``. Keys are options of the method's
            ``attribute`` and ``smooth``, a standard deviation in pixels; values are numbers, true, false,
            null or plain words.

    Raises:
        ValueError: an unknown method or option, the same method twice, or what is not KEY=VALUE.
    """
    wanted: list[str] = []
    for text in texts:
        wanted += list(METHODS) if text == "all" else [text]
    specs = [_parse(text) for text in dict.fromkeys([*wanted, *NULL_BASELINES])]
    # The baselines last, wherever they were asked for; a variant of one is a row like any other.
    return sorted(specs, key=lambda spec: spec.label in NULL_BASELINES)


def _parse(text: str) -> MethodSpec:
    name, _, rest = text.partition(":")
    entry = get_method(name)
    known = [*entry.build(print).options(), "smooth"]
    options: dict[str, Any] = {}
    for item in filter(None, rest.split(",")):
        key, separator, value = item.partition("=")
        if not separator:
            raise ValueError(f"expected NAME:KEY=VALUE,KEY=VALUE, got {text!r}")
        require_choice(key, known, f"option of {name}")
        try:
            options[key] = json.loads(value)
        except json.JSONDecodeError:
            options[key] = value
    sigma = options.pop("smooth", 0.0)
    if isinstance(sigma, bool) or not isinstance(sigma, (int, float)) or not 0 <= sigma < float("inf"):
        raise ValueError(f"expected smooth of at least 0 pixels in {text!r}, got {sigma!r}")
    return MethodSpec(text, name, options, float(sigma))
