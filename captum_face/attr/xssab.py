"""xSSAB: backpropagation of the similarity score's arguments."""

from __future__ import annotations

from collections.abc import Callable

import torch
from captum.log import log_usage
from torch import Tensor

from captum_face._validation import require_threshold
from captum_face.attr._base import PairAttribution, Side, gradients_enabled, image_gradient

__all__ = ["XSSAB"]


class XSSAB(PairAttribution):
    r"""Similarity score argument backpropagation (Huber et al., WACV 2024, arXiv 2304.13409).

    The score is split into the channels that bring at least their share of the threshold and those that
    don't, :math:`P = \{k : f_{A,k} f_{B,k} \ge \theta / D\}` and its complement :math:`Q`. Each part is
    propagated back by itself, and the map is the difference of the two gradients' sizes:

    .. math:: S_A = \operatorname{mean}_c \left| \frac{\partial}{\partial A} \sum_{k \in P}
        f_{A,k} f_{B,k} \right| - \operatorname{mean}_c \left| \frac{\partial}{\partial A}
        \sum_{k \in Q} f_{A,k} f_{B,k} \right|

    Args:
        forward_func: The :class:`~captum_face.PairSimilarity` to explain; its model must be
            differentiable.
    """

    @log_usage()
    def attribute(
        self,
        inputs: tuple[Tensor, Tensor],
        *,
        threshold: float | None = None,
        show_progress: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """Signed maps of both images; what the inputs and the result are stands at
        :class:`~captum_face.PairAttribution`.

        Args:
            inputs: ``(image_a, image_b)``.
            threshold: The threshold :math:`\\theta` in units of the score; None for the pair's own.
            show_progress: Show a progress bar over the images.

        Returns:
            ``(attr_a, attr_b)`` in units of score per unit of brightness. Positive where the channels
            that agree are the more sensitive ones. Deterministic.

        Cost: for each image 2 backward passes for each of its partners and 2 forward passes.

        Raises:
            TypeError: ``forward_func`` is not a :class:`~captum_face.PairSimilarity`, or its model cannot
                be differentiated.
            ValueError: bad images or embeddings, a threshold that is not finite.
        """
        pair = self._require_pair_similarity()
        theta = pair.threshold if threshold is None else require_threshold(threshold)
        with self._prepared(inputs) as images:

            def explain(side: Side, progress: Callable[[int], object]) -> Tensor:
                with gradients_enabled():
                    image = side.image.clone().requires_grad_()
                    own = pair.embed(image)
                    with torch.no_grad():
                        partners = pair.embed_in_passes(side.partners.clone())
                    ends = (partners, own) if side.swapped else (own, partners)
                    contributions = pair.contributions(*ends)
                    agree = contributions.detach() >= theta / contributions.shape[1]
                    parts = torch.stack([contributions * agree, contributions * ~agree]).sum(-1)
                    sizes = [
                        image_gradient(part, image, retain_graph=True).abs().mean(1)
                        for part in parts.flatten()
                    ]
                progress(1)
                positive, negative = torch.cat(sizes).chunk(2)
                return positive - negative

            return self._explain_sides(images, explain, 1, show_progress)
