"""What happens to the score when the pixels that a map points at are replaced, most important first.

What the pixels are replaced by decides what is measured. Scattered black pixels break a face network whatever
they hide, so that deletion to black ranks noise above every method. With pixels of another aligned face
(``fill="swap"``) the image remains a face.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from captum_face._progress import progress_bar
from captum_face._validation import require_choice, require_labels, require_pair
from captum_face.metrics._replacing import Replacing, side_map
from captum_face.pair.embedding import embed_once
from captum_face.pair.passes import BatchSize, require_batch_size
from captum_face.pair.scores import Score
from captum_face.pair.similarity import PairSimilarity
from captum_face.pair.speed import accelerated, images_per_pass

__all__ = ["PerturbationCurve", "perturbation_curve"]


@dataclass(frozen=True, eq=False)  # tensors have no single answer to ==
class PerturbationCurve:
    """Scores along a perturbation; made by :func:`perturbation_curve`."""

    fractions: Tensor  #: ``(S,)`` float64, from 0 to 1: the share of pixels replaced (or inserted)
    scores: Tensor  #: ``(N, S)`` float64, in units of the score
    score: Score  #: what the scores are of
    protocol: dict[str, Any]  #: mode, order, fill, n_steps, patch_size, seed, perturb

    def auc(self) -> Tensor:
        """Area under each pair's curve, ``(N,)`` float64, in units of the score (trapezoidal rule)."""
        return torch.trapezoid(self.scores, self.fractions, dim=1)

    def correct(self, threshold: float, same: Any) -> Tensor:
        """Whether each decision is right, ``(N, S)`` bool: accepted (score >= threshold) if the same person.

        Args:
            threshold: The verification threshold, as :class:`~captum_face.PairSimilarity` takes it.
            same: ``(N,)`` bool, True for genuine pairs.

        Raises:
            TypeError, ValueError: labels that are not N of 0 and 1; a threshold that the score cannot reach.
        """
        same = require_labels(same, len(self.scores))
        return (self.scores >= self.score.given(threshold)) == same[:, None]

    def accuracy(self, threshold: float, same: Any) -> Tensor:
        """Share of right decisions at each fraction, ``(S,)`` float64 in [0, 1]; see :meth:`correct`."""
        return self.correct(threshold, same).double().mean(0)

    def accuracy_auc(self, threshold: float, same: Any) -> float:
        """Area under :meth:`accuracy`, in [0, 1]: the figure of the published tables, there in percent."""
        return float(torch.trapezoid(self.accuracy(threshold, same), self.fractions))

    def fnmr(self, threshold: float, same: Any) -> Tensor:
        """False non-match rate at each fraction, ``(S,)``: the share of genuine pairs that is rejected.

        Raises:
            ValueError: no genuine pair; and see :meth:`correct`.
        """
        return self._error_rate(threshold, same, genuine=True)

    def fmr(self, threshold: float, same: Any) -> Tensor:
        """False match rate at each fraction, ``(S,)``: the share of impostor pairs that is accepted.

        Raises:
            ValueError: no impostor pair; and see :meth:`correct`.
        """
        return self._error_rate(threshold, same, genuine=False)

    def _error_rate(self, threshold: float, same: Any, *, genuine: bool) -> Tensor:
        chosen = require_labels(same, len(self.scores)) == genuine
        if not chosen.any():
            kind = "genuine" if genuine else "impostor"
            raise ValueError(f"expected at least one {kind} pair, got {len(chosen)} pairs of the other class")
        return (~self.correct(threshold, same)[chosen]).double().mean(0)


def perturbation_curve(
    pair: PairSimilarity,
    inputs: tuple[Tensor, Tensor],
    attributions: tuple[Tensor | None, Tensor | None],
    *,
    mode: str = "deletion",
    order: str = "similar",
    fill: str | Tensor | tuple[Tensor, Tensor] = "black",
    perturb: str = "a",
    n_steps: int = 10,
    cohort: Tensor | tuple[Tensor, Tensor] | None = None,
    patch_size: int = 1,
    seed: int = 0,
    embedded: dict[Hashable, Tensor] | None = None,
    perturbations_per_eval: BatchSize = None,
    show_progress: bool = False,
) -> PerturbationCurve:
    """Replaces pixels in the order of a map and scores the pair at every step.

    A map of the similarity (``order="similar"``) is good if deletion by it lowers the score fast: a small
    :meth:`~PerturbationCurve.auc`. With ``order="dissimilar"`` and ``fill="swap"`` the pixels that argue
    against a match become the partner's own, and the score should rise fast: a large area. Insertion goes
    the other way: from an image that is all fill, the first pixels come back first.

    Pixels are ranked by the signed map (its mean over colour), so that what argues most against a match is
    the last of the similar ones. Ties are broken by a seeded random order; a constant map is thus scored as
    a random one.

    Args:
        pair: The model.
        inputs: ``(image_a, image_b)``, each ``(N, C, H, W)`` in [0, 1].
        attributions: ``(attr_a, attr_b)`` as a method gives them, ``(N, C, H, W)`` or ``(N, H, W)``;
            positive speaks for the same person. None for an image that is not perturbed.
        mode: ``"deletion"`` or ``"insertion"``.
        order: ``"similar"``: the largest values first. ``"dissimilar"``: the smallest first.
            ``"irrelevant"``: the smallest absolute values first, which is the hiding game (after Castanon and
            Byrne, FG 2018): a good map hides much without changing the decision.
        fill: What replaced pixels show.

            * ``"black"``: 0.
            * ``"mean"``: the image's mean colour.
            * ``"blur"``: the image after a Gaussian blur (sigma 10 px at 112 px; ours, no paper's).
            * ``"swap"``: the same place in another aligned face: the partner's for ``order="dissimilar"``,
              else that of a member of the ``cohort``.
            * A tensor that broadcasts with the images, or one for each side.
        perturb: ``"a"``, ``"b"`` or ``"both"``: the image that is perturbed, by its own map.
        n_steps: Steps between nothing and everything.
        cohort: ``(N, C, H, W)`` or ``(1, C, H, W)``: the other people of ``fill="swap"``, aligned faces, one
            for each image or one for all; a tuple for two sides (with ``perturb="both"`` two people, or the
            score will rise).
        patch_size: Side in pixels of the raster's cells that are replaced as a whole, ranked by their mean;
            1 for single pixels. 16 with ``fill="swap"`` gives the patch replacement curves of Patch-LFW
            (Huber et al., arXiv 2304.13409): :meth:`~PerturbationCurve.fnmr` of genuine pairs in the order
            ``"similar"``, :meth:`~PerturbationCurve.fmr` of impostor pairs in the order ``"dissimilar"``.
        seed: Of the order among ties.
        embedded: Embeddings of intact and of wholly replaced images, which are the same for all orders, modes
            and maps. Give one dictionary to all curves of a set of pairs, and each such image goes through
            the model once; it is filled here, and serves one model with one set of weights.
        perturbations_per_eval: Images in one forward pass; None for what suits the device, ``"auto"`` for
            what is measured to be cheapest.
        show_progress: Show a progress bar over the perturbed images.

    Returns:
        A :class:`PerturbationCurve` of ``n_steps + 1`` points.

    Cost: N (n_steps - 1) forward passes for each side that is perturbed, and one for each different image
    that is intact or wholly replaced, unless ``embedded`` has it; two more on a CPU, see
    :mod:`captum_face.pair.speed`.

    Raises:
        TypeError, ValueError: unknown names; images, maps (NaN, another size) or fills that do not fit;
            ``fill="swap"`` without the cohort it needs; before any pass.

    Example::

        >>> import captum_face
        >>> from captum_face.data import synthetic
        >>> from captum_face.models import load_pair
        >>> pair, faces = load_pair("synthetic"), synthetic.pair(seed=1)
        >>> images = (faces.image_a, faces.image_b)
        >>> maps = captum_face.XSSAB(pair).attribute(images)
        >>> other = synthetic.pair(seed=2).image_a
        >>> curve = perturbation_curve(pair, images, maps, fill="swap", cohort=other)
        >>> curve.scores.shape, bool(curve.scores[0, 0] > curve.scores[0, -1])
        (torch.Size([1, 11]), True)
    """
    if not isinstance(pair, PairSimilarity):
        raise TypeError(f"expected pair as a PairSimilarity, got {type(pair).__name__}")
    require_choice(perturb, ("a", "b", "both"), "image to perturb")
    how = Replacing(mode, order, fill, cohort, n_steps, patch_size, seed)
    image_a, image_b = (image.detach() for image in require_pair(inputs))
    n = max(len(image_a), len(image_b))
    images = (image_a.expand(n, -1, -1, -1), image_b.expand(n, -1, -1, -1))
    sides = {"a": (0,), "b": (1,), "both": (0, 1)}[perturb]
    ranks = {s: how.ranks(side_map(attributions, s, images[s])).to(image_a.device) for s in sides}
    fills = how.fills(images)
    require_batch_size(perturbations_per_eval, "perturbations_per_eval")

    embedded = {} if embedded is None else embedded
    scores = torch.empty(n, n_steps + 1, dtype=torch.float64)
    with (
        pair.frozen(),
        torch.no_grad(),
        progress_bar(total=n * (n_steps + 1), desc="perturbation", disable=not show_progress) as bar,
    ):
        pair = accelerated(pair, image_a[:1])
        size = images_per_pass(perturbations_per_eval, pair, image_a[:1])
        intact = [embed_once(pair, of_side, size, embedded).expand(n, -1) for of_side in (image_a, image_b)]
        # A side that is not perturbed is the same at both ends.
        replaced = [
            embed_once(pair, fills[side], size, embedded) if side in sides else intact[side]
            for side in (0, 1)
        ]
        ends = (intact, replaced) if mode == "deletion" else (replaced, intact)
        for step, embeddings in zip((0, n_steps), ends, strict=True):
            scores[:, step] = pair.contributions(*embeddings).sum(-1).cpu().double()
            bar.update(n)

        def score(row: Tensor, step: Tensor) -> Tensor:
            embeddings = [
                pair.embed(how.replaced(images[side], fills[side], ranks[side], row, step))
                if side in sides
                else intact[side][row]
                for side in (0, 1)
            ]
            return pair.contributions(*embeddings).sum(-1).cpu().double()

        if n_steps > 1:
            scores[:, 1:-1] = how.scores(score, n, range(1, n_steps), size, bar)
    return PerturbationCurve(how.fractions, scores, pair.score, {**how.protocol(), "perturb": perturb})
