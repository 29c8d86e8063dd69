"""FGGB: feature-guided gradient backpropagation."""

from __future__ import annotations

from torch import Tensor

from captum_face._validation import require_positive
from captum_face.attr.base import PairAttribution, on_sides
from captum_face.attr.registry import method
from captum_face.engines.channels import (
    gradient_channel_maps_chunked,
    heaviest_channels,
    require_gradient_options,
    weighted_channel_maps,
)
from captum_face.engines.sides import Side, Sides
from captum_face.pair.passes import BatchSize

__all__ = ["FGGB"]


@method(
    "fggb",
    display="FGGB",
    family="feature-guided",
    source="arXiv 2403.04549",
    passes="2 D backward, 2 internal_batch_size + 2 forward",
    needs="gradients",
)
class FGGB(PairAttribution):
    r"""Feature-guided gradient backpropagation (Lu, Xu and Ebrahimi, FG 2024, arXiv 2403.04549).

    Each channel of the unit embedding is differentiated with respect to the image; the absolute gradient,
    averaged over colour and scaled to unit L2 norm, is the channel's map :math:`M_k`. The maps are summed
    with the channel's share of the score above the channel's share of the threshold:

    .. math:: S_A = \sum_k \left(f_{A,k} f_{B,k} - \theta / D\right) M_k

    and likewise for B. The similarity map of the paper is :math:`\max(S, 0)`, the dissimilarity map
    :math:`\max(-S, 0)`: see :func:`~captum_face.split_attribution`. The published maps were blurred
    (Gaussian, sigma 5 at 112 pixels) before scoring: :func:`~captum_face.smooth`.
    """

    @on_sides
    def attribute(
        self,
        sides: Sides,
        *,
        threshold: float | None = None,
        gradient: str = "absolute",
        embedding: str = "normalized",
        tolerance: float = 0.0,
        internal_batch_size: BatchSize = None,
    ) -> tuple[Tensor, ...]:
        """Signed maps of both images, as :class:`~captum_face.PairAttribution` says.

        Args:
            threshold: The threshold :math:`\\theta` in units of the score; None for the pair's own. At
                the score itself the weights sum to zero.
            gradient: ``"absolute"`` as published, or ``"signed"``.
            embedding: Differentiate the ``"normalized"`` embedding as published, or the ``"raw"`` one.
            tolerance: Leave out the channels of smallest absolute weight, as long as the absolute weights
                left out sum to at most this share of all: 0.1 saves half of the backward passes. An image
                that stands against N others leaves out only what each of them allows.
            internal_batch_size: Channels in one backward pass. Memory is that of so many images going
                forward and backward, whatever D is. None for what suits the device, ``"auto"`` for what is
                measured to be cheapest.

        Returns:
            ``(attr_a, attr_b)``, unbounded: the size of a value has no unit, its sign has a meaning, and
            both maps of a pair share one scale. Deterministic.

            :meth:`~captum_face.PairAttribution.attribute_detailed` gives ``details["error_bound"]`` ``(N,
            2)``: for both images of each pair, the sum of the absolute weights left out. Every channel map
            has unit L2 norm, so the L2 norm over pixels of a map's difference from that of ``tolerance=0`` is
            at most that.

        Cost: for each image D backward passes and ``internal_batch_size + 1`` forward passes. An image
        that stands against N others is differentiated once. A ``tolerance`` lessens D.
        """
        require_gradient_options(gradient, embedding, internal_batch_size)
        if not require_positive(tolerance, "tolerance", or_zero=True) < 1:
            raise ValueError(f"expected tolerance below 1, the share of all weights, got {tolerance!r}")
        share = sides.threshold_share(threshold)
        weights = sides.contributions - share
        n_channels = weights.shape[1]

        def one(side: Side) -> Tensor:
            own = weights[side.rows]
            channels, bound = heaviest_channels(own, tolerance)
            side.note("error_bound", bound)
            maps = gradient_channel_maps_chunked(
                side.quick,
                side.image,
                gradient=gradient,
                embedding=embedding,
                channels=channels,
                internal_batch_size=internal_batch_size,
            )
            side.done(n_channels - len(channels))
            return weighted_channel_maps(maps, own[:, channels], side.done)

        return sides.explain(one, n_channels)
