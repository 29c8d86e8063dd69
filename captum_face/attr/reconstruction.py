"""Reconstruction: channel maps from a decoder that draws the face from its embedding."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from captum_face._validation import require_choice
from captum_face.attr.base import PairAttribution, on_sides
from captum_face.attr.registry import method
from captum_face.decoder.evaluation import warn_without_identity
from captum_face.decoder.maps import REMOVALS, decoder_channel_maps_chunked
from captum_face.decoder.network import FaceDecoder, find_decoder
from captum_face.engines.channels import weighted_channel_maps
from captum_face.engines.sides import Side, Sides
from captum_face.pair.passes import BatchSize
from captum_face.pair.similarity import PairSimilarity

__all__ = ["Reconstruction"]


@method(
    "reconstruction",
    family="feature-guided",
    source="after arXiv 2306.00402",
    passes="about 3 forward, and 2 D + 2 of the decoder",
    needs="embeddings",
)
class Reconstruction(PairAttribution):
    r"""Face reconstruction, after Xu, Lu and Ebrahimi (MMSP 2023, arXiv 2306.00402).

    A decoder g, trained to draw the face from its unit embedding f, says which region each channel stands
    for: what changes in the picture when the channel is removed,

    .. math:: M_k = \frac{D_k}{\lVert D_k \rVert_2}, \qquad
        D_k = \operatorname{mean}_c \left| g(f_A) - g(f_A^{\setminus k}) \right| .

    The maps are summed as :class:`~captum_face.FGGB` sums its own,

    .. math:: S_A = \sum_k \left(f_{A,k} f_{B,k} - \theta / D\right) M_k

    and likewise for B. Of that paper only the abstract is public. The decoder, how a channel is removed, the
    difference that makes a map and the weights are choices of this package.

    Args:
        forward_func: The :class:`~captum_face.PairSimilarity` to explain; its model need not be
            differentiable.
        decoder: The model's decoder (:func:`captum_face.decoder.train_decoder`) or the file of one;
            None for the shipped decoder of the bundled synthetic model.
    """

    forward_func: PairSimilarity

    def __init__(self, forward_func: PairSimilarity, decoder: FaceDecoder | str | Path | None = None) -> None:
        super().__init__(forward_func)
        self.decoder = decoder

    @on_sides
    def attribute(
        self,
        sides: Sides,
        *,
        threshold: float | None = None,
        decoder: FaceDecoder | str | Path | None = None,
        removal: str = "zero",
        internal_batch_size: BatchSize = None,
    ) -> tuple[Tensor, ...]:
        """Signed maps of both images, as :class:`~captum_face.PairAttribution` says.

        Args:
            threshold: The threshold :math:`\\theta` in units of the score; None for the pair's own. At
                the score itself the weights sum to zero.
            decoder: A decoder or the file of one, for the command line; None for the constructor's.
            removal: A removed channel becomes ``"zero"``, or its ``"mean"`` over the faces that the decoder
                was trained on.
            internal_batch_size: Pictures drawn at once. None for what suits the device.

        Returns:
            ``(attr_a, attr_b)``, unbounded: the size of a value has no unit, its sign has a meaning, and
            both maps of a pair share one scale. Deterministic.

        Cost: for each image one forward pass of the model, and D + 1 of the decoder; one more of the model
        for a look whether the decoder is its own. An image that stands against N others is drawn once.

        Raises:
            TypeError: ``forward_func`` is not a :class:`~captum_face.PairSimilarity`, ``decoder`` no decoder.
            ValueError: no decoder for this model, or one of another model, embedding size or image size; bad
                images, embeddings or options.

        Warns:
            UserWarning: the decoder does not keep identity.
        """
        require_choice(removal, REMOVALS, "removal")
        sides.threshold(threshold)
        drawer = find_decoder(
            sides.pair, self.decoder if decoder is None else decoder, sides.embeddings(False), sides.images[0]
        )
        warn_without_identity(drawer.report)
        weights = sides.contributions - sides.threshold_share(threshold)
        n_channels = weights.shape[1]

        def one(side: Side) -> Tensor:
            maps = decoder_channel_maps_chunked(
                drawer, side.embedding, removal=removal, internal_batch_size=internal_batch_size
            )
            return weighted_channel_maps(maps, weights[side.rows], side.done)

        return sides.explain(one, n_channels)
