"""A method as it stands behind a row of the tables."""

from __future__ import annotations

import warnings

from torch import Tensor

from captum_face.attr.base import PairAttribution
from captum_face.attr.spec import MethodSpec
from captum_face.engines.cohort import FEWEST, SimilarMemberWarning
from captum_face.pair.similarity import PairSimilarity

__all__ = ["Prepared"]


class Prepared(PairAttribution):
    """A method with its options bound, and its maps smoothed.

    Args:
        spec: The method with its options.
        pair: The pair wrapper.
        seed: For methods that draw, unless the options hold one.
        cohort: Other people, for methods that compare with some.
    """

    def __init__(
        self, spec: MethodSpec, pair: PairSimilarity, seed: int, cohort: Tensor | None = None
    ) -> None:
        super().__init__(pair)
        self._cohort = cohort
        seeded = {} if spec.kind.deterministic() else {"seed": seed}
        self._method, self._spec, self._options = spec.build(pair), spec, {**seeded, **spec.options}

    def attribute(self, inputs: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Maps of both images."""
        return self.smoothed(self.raw(inputs, both=True))

    def raw(self, inputs: tuple[Tensor, Tensor], *, both: bool) -> tuple[Tensor, Tensor]:
        """Maps before smoothing, of both images or of image A alone (then the second one is empty)."""
        options, name = self._options, self._spec.cohort_option
        if name is not None:
            found = 0 if self._cohort is None else len(self._cohort)
            if found < FEWEST:
                raise ValueError(
                    f"expected at least {FEWEST} people of this size in the list whom the model tells from "
                    f"those of the pair, found {found}; add pairs of other people, or give faces by "
                    f"{self._spec.name}:{name}=..."
                )
            options = {**options, name: self._cohort}
        with warnings.catch_warnings():
            # They are told from the pair's people, but perhaps not from an image with patches in it.
            warnings.simplefilter("ignore", SimilarMemberWarning)
            if both:
                return self._method.attribute(inputs, **options)
            return self._method.attribute_probe(inputs, **options), inputs[1][:0]

    def smoothed(self, maps: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """What is done to raw maps."""
        attr_a, attr_b = map(self._spec.smoothed, maps)
        return attr_a, attr_b
