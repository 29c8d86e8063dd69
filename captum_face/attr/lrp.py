"""LRP: layer-wise relevance propagation of a pair's score."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from captum_face.attr.base import PairAttribution, on_sides
from captum_face.attr.registry import method
from captum_face.engines.sides import Side, Sides
from captum_face.pair.passes import BatchSize
from captum_face.pair.similarity import PairSimilarity

if TYPE_CHECKING:
    from zennit.canonizers import Canonizer
    from zennit.core import Composite

    from captum_face.lrp.propagation import Propagation

__all__ = ["LRP", "RelevanceAttribution"]


class RelevanceAttribution(PairAttribution):
    """What methods of relevance propagation share: the rules.

    Needs the extra ``lrp``: ``pip install "captum-face[lrp]"``.

    Args:
        forward_func: The :class:`~captum_face.PairSimilarity` to explain. Its model must be an
            ``nn.Module``, and for ``canonizers="auto"`` one that can be traced.
        composite: Which rule each layer gets: ``"face"``, the default, one of Zennit's by name
            (:data:`captum_face.lrp.COMPOSITES`), or a Zennit ``Composite``, which is used as it is.
        canonizers: ``"auto"`` rewrites a copy of the model into layers that have rules, with every
            BatchNorm folded (:func:`captum_face.lrp.canonize`), and checks that it gives the model's
            embeddings. None takes the model's modules as they are. A list of Zennit canonizers is applied
            to the model for the time of the call, and checked in the same way.
        unknown_layers: What ``"auto"`` does at an operation without a rule: ``"raise"``, or
            ``"gradient"`` to multiply relevance by its gradient, which does not conserve it.
        biases: Whether biases take their share of relevance, which never reaches the image then.
            Composites by name only.
    """

    forward_func: PairSimilarity
    float32 = True  # in which the rules work

    def __init__(
        self,
        forward_func: PairSimilarity,
        composite: str | Composite = "face",
        canonizers: str | Sequence[Canonizer] | None = "auto",
        unknown_layers: str = "raise",
        biases: bool = False,
    ) -> None:
        super().__init__(forward_func)
        self.composite = composite
        self.canonizers = canonizers
        self.unknown_layers = unknown_layers
        self.biases = biases

    def _propagation(self, sides: Sides) -> Propagation:
        from captum_face.lrp.propagation import Propagation  # zennit is an extra

        return Propagation(
            sides.pair,
            sides.images[0][:1],
            composite=self.composite,
            canonizers=self.canonizers,
            unknown_layers=self.unknown_layers,
            biases=self.biases,
        )


@method(
    "lrp",
    display="LRP",
    family="relevance",
    source="10.1371/journal.pone.0130140",
    passes="8 backward, about 24 forward",
    needs="gradients",
)
class LRP(RelevanceAttribution):
    r"""Layer-wise relevance propagation (Bach et al., PLoS ONE 2015, 10.1371/journal.pone.0130140).

    The score is a sum over embedding channels, :math:`s = \sum_k c_k` (for the cosine
    :math:`c_k = f_{A,k} f_{B,k}`). Each channel starts with its share :math:`c_k` as relevance at A's
    embedding, and every layer hands the relevance of its outputs to its inputs, in proportion to what they
    contributed (Bach's eq. 13, :math:`R_i = \sum_j z_{ij} / z_j \, R_j`, in the forms that the composite
    says), with B fixed; and likewise down B with A fixed. What the embedding is divided by for the cosine
    is a factor common to all channels and takes no relevance.

    Relevance at the preprocessed image is laid over the image: normalisation changes the units of a pixel
    and not its relevance.

    Arguments are those of :class:`~captum_face.attr.lrp.RelevanceAttribution`.

    Example::

        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 5)).eval()
        >>> images = torch.rand(2, 3, 8, 8), torch.rand(2, 3, 8, 8)
        >>> maps, delta = LRP(PairSimilarity(model)).attribute(images, return_convergence_delta=True)
        >>> maps[0].shape, delta.shape, bool(delta.abs().max() < 1e-5)
        (torch.Size([2, 3, 8, 8]), torch.Size([2, 2]), True)
    """

    @on_sides(convergence_delta=True)
    def attribute(self, sides: Sides, *, internal_batch_size: BatchSize = None) -> tuple[Tensor, ...]:
        """Signed relevance of both images, as :class:`~captum_face.PairAttribution` says.

        Args:
            internal_batch_size: Pairs of one image in one backward pass, where it stands against many.
                None for what suits the device.

        Returns:
            ``(attr_a, attr_b)``, a value for each colour channel, in units of the score: the values of
            each map sum to the pair's score where the composite conserves relevance, as the default one
            does. Positive where the image speaks for a higher score. Deterministic.

            With ``return_convergence_delta`` the tuple ``((attr_a, attr_b), delta)``: ``delta`` ``(N, 2)``
            is the sum of each map minus the score, for both images of each pair.

        Cost: for each image 3 forward passes, and with the default composite the price of about 8 more and
        of 2 backward passes for each pair it stands in; the model is traced once.

        Raises:
            ImportError: the extra ``lrp`` is not installed.
            TypeError: ``forward_func`` is not a :class:`~captum_face.PairSimilarity`, its model is no
                module or cannot be differentiated, or options of other types.
            ValueError: bad images, embeddings or options; a layer without a rule; a canonized model that
                does not give the model's embeddings; relevance that is NaN.
            RuntimeError: a model that cannot be traced.
        """
        shares = sides.contributions
        propagation, size = self._propagation(sides), sides.images_per_pass(backward=True)

        def one(side: Side) -> Tensor:
            chunks = propagation.maps(side.image, shares[side.rows], size)
            maps = torch.cat([relevance for _, relevance in chunks])
            side.note("convergence_delta", maps.flatten(1).sum(1) - shares[side.rows].sum(1))
            side.done()
            return maps

        return sides.explain(one)
