"""LRP: layer-wise relevance propagation of a pair's score."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, overload

import torch
from captum.log import log_usage
from torch import Tensor

from captum_face._validation import require_positive_int
from captum_face.attr._base import PairAttribution, Side
from captum_face.pair.similarity import PairSimilarity, in_float32

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

    def _require_pair_similarity(self) -> PairSimilarity:
        return in_float32(super()._require_pair_similarity())  # in which the rules work

    def _propagation(self, pair: PairSimilarity, example: Tensor) -> Propagation:
        from captum_face.lrp.propagation import Propagation  # zennit is an extra

        return Propagation(
            pair,
            example,
            composite=self.composite,
            canonizers=self.canonizers,
            unknown_layers=self.unknown_layers,
            biases=self.biases,
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

    @overload
    def attribute(
        self,
        inputs: tuple[Tensor, Tensor],
        *,
        internal_batch_size: int | None = None,
        return_convergence_delta: Literal[False] = False,
        show_progress: bool = False,
    ) -> tuple[Tensor, Tensor]: ...

    @overload
    def attribute(
        self,
        inputs: tuple[Tensor, Tensor],
        *,
        internal_batch_size: int | None = None,
        return_convergence_delta: Literal[True],
        show_progress: bool = False,
    ) -> tuple[tuple[Tensor, Tensor], Tensor]: ...

    @log_usage()
    def attribute(
        self,
        inputs: tuple[Tensor, Tensor],
        *,
        internal_batch_size: int | None = None,
        return_convergence_delta: bool = False,
        show_progress: bool = False,
    ) -> Any:
        """Signed relevance of both images; what the inputs and the result are stands at
        :class:`~captum_face.PairAttribution`.

        Args:
            inputs: ``(image_a, image_b)``.
            internal_batch_size: Pairs of one image in one backward pass, where it stands against many.
                None for what suits the device.
            return_convergence_delta: Also return by how much relevance was not conserved.
            show_progress: Show a progress bar over the images.

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
        pair = self._require_pair_similarity()
        if internal_batch_size is not None:
            require_positive_int(internal_batch_size, "internal_batch_size")
        with self._prepared(inputs) as images:
            with torch.no_grad():
                shares = pair.contributions(
                    *(pair.embed_in_passes(image, internal_batch_size) for image in images)
                )
            propagation = self._propagation(pair, images[0][:1])

            def explain(side: Side, progress: Callable[[int], object]) -> Tensor:
                chunks = propagation.maps(side.image, shares[side.rows], internal_batch_size)
                maps = torch.cat([relevance for _, relevance in chunks])
                progress(1)
                return maps

            maps = self._explain_sides(images, explain, 1, show_progress)
        if not return_convergence_delta:
            return maps
        sums = torch.stack([side.flatten(1).sum(1) for side in maps], 1)
        return maps, sums - shares.sum(1, keepdim=True)

    def has_convergence_delta(self) -> bool:
        """True: relevance is to be conserved, and ``return_convergence_delta`` says how far it is."""
        return True
