"""What happens to the best match in a gallery when the pixels that a map points at are replaced."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from captum_face._progress import progress_bar
from captum_face._validation import require_images
from captum_face.metrics._replacing import Replacing, side_map
from captum_face.pair.embedding import embed_gallery, gallery_scores, require_embeddings
from captum_face.pair.passes import BatchSize, require_batch_size
from captum_face.pair.similarity import PairSimilarity
from captum_face.pair.speed import accelerated, images_per_pass

__all__ = ["IdentificationCurve", "identification_curve"]


@dataclass(frozen=True, eq=False)  # tensors have no single answer to ==
class IdentificationCurve:
    """The rank-1 match along a perturbation of the probes; made by :func:`identification_curve`."""

    fractions: Tensor  #: ``(S,)`` float64, from 0 to 1: the share of pixels replaced (or inserted)
    scores: Tensor  #: ``(N, S)`` float64: of the identity that is rank 1 for the intact probe
    runners_up: Tensor  #: ``(N, S)`` float64: the best score of another identity
    matches: Tensor  #: ``(N,)`` int64: which gallery image is rank 1 for the intact probe
    protocol: dict[str, Any]  #: mode, order, fill, n_steps, patch_size, seed, gallery, identities

    def margin(self) -> Tensor:
        """How far the rank-1 match leads, ``(N, S)`` in units of the score; negative where it has lost."""
        return self.scores - self.runners_up

    def kept(self) -> Tensor:
        """Whether the rank-1 match of the intact probe is still rank 1, alone, ``(N, S)`` bool."""
        return self.margin() > 0

    def rank1(self) -> Tensor:
        """The share of probes that keep their rank-1 match at each fraction, ``(S,)`` float64 in [0, 1]."""
        return self.kept().double().mean(0)

    def auc(self) -> Tensor:
        """Area under each probe's :meth:`margin`, ``(N,)`` float64 (trapezoidal rule)."""
        return torch.trapezoid(self.margin(), self.fractions, dim=1)

    def rank1_auc(self) -> float:
        """Area under :meth:`rank1`, in [0, 1]."""
        return float(torch.trapezoid(self.rank1(), self.fractions))


def identification_curve(
    pair: PairSimilarity,
    probes: Tensor,
    gallery: Tensor,
    attributions: Tensor,
    *,
    identities: Sequence[Any] | Tensor | None = None,
    gallery_embeddings: Tensor | None = None,
    mode: str = "deletion",
    order: str = "similar",
    fill: str | Tensor = "black",
    cohort: Tensor | None = None,
    n_steps: int = 10,
    patch_size: int = 1,
    seed: int = 0,
    perturbations_per_eval: BatchSize = None,
    show_progress: bool = False,
) -> IdentificationCurve:
    """Replaces pixels of probes in the order of their maps, and searches the gallery at every step.

    The identification counterpart of :func:`perturbation_curve`: a map that finds what the rank-1 decision
    rests on loses it early by deletion, and by insertion wins it early. Null baselines tell what early is.

    Args:
        pair: The model.
        probes: ``(N, C, H, W)`` in [0, 1].
        gallery: ``(K, C, H, W)`` in [0, 1]: the same for all probes, without them.
        attributions: Each probe's map against its rank-1 match, ``(N, C, H, W)`` or ``(N, H, W)``: what
            :func:`~captum_face.attribute_gallery` gives with ``top_k=1``; positive speaks for the match.
        identities: Who each gallery image shows, K values such as names or numbers, where people have
            several: then rank 1 is kept as long as some image of that person leads, and the runner-up is
            the best image of another. None: each image is somebody else.
        gallery_embeddings: ``(K, D)`` from :func:`~captum_face.pair.embedding.embed_gallery`, where they are
            known.
        mode: ``"deletion"`` or ``"insertion"``.
        order: ``"similar"``, ``"dissimilar"`` or ``"irrelevant"``: see :func:`perturbation_curve`.
        fill: ``"black"``, ``"mean"``, ``"blur"``, a tensor that broadcasts with the probes, or ``"swap"``:
            pixels of the ``cohort``, or of the rank-1 match itself for ``order="dissimilar"``.
        cohort: ``(N, C, H, W)`` or ``(1, C, H, W)``: the other people of ``fill="swap"``, aligned faces. They
            must not be in the gallery, or they will be found.
        n_steps: Steps between nothing and everything.
        patch_size: Side in pixels of the raster's cells that are replaced as a whole; 1 for single pixels.
        seed: Of the order among ties.
        perturbations_per_eval: Images in one forward pass; None for what suits the device, ``"auto"`` for
            what is measured to be cheapest.
        show_progress: Show a progress bar over the perturbed images.

    Returns:
        An :class:`IdentificationCurve` of ``n_steps + 1`` points.

    Cost: K forward passes for the gallery, N for the intact probes and N (n_steps + 1) for the perturbed.
    Memory does not grow with the product of N and K.

    Raises:
        TypeError, ValueError: unknown names; images, maps, fills or identities that do not fit; a gallery
            of fewer than two identities, where nobody can be confused.

    Example::

        >>> from captum_face import XSSAB, attribute_gallery
        >>> from captum_face.data import synthetic
        >>> from captum_face.models import load_pair
        >>> pair, people = load_pair("synthetic"), [synthetic.pair(seed=seed) for seed in range(4)]
        >>> gallery = torch.cat([two.image_b for two in people[:3]])
        >>> probe = people[1].image_a
        >>> best = attribute_gallery(XSSAB(pair), probe, gallery, top_k=1)
        >>> curve = identification_curve(
        ...     pair, probe, gallery, best.attributions, fill="swap", cohort=people[3].image_a
        ... )
        >>> curve.matches, curve.kept()[0, 0], curve.rank1().shape
        (tensor([1]), tensor(True), torch.Size([11]))
    """
    if not isinstance(pair, PairSimilarity):
        raise TypeError(f"expected pair as a PairSimilarity, got {type(pair).__name__}")
    how = Replacing(mode, order, fill, cohort, n_steps, patch_size, seed)
    probes, gallery = (
        require_images(images, what).detach() for images, what in ((probes, "probes"), (gallery, "gallery"))
    )
    if probes.shape[1:] != gallery.shape[1:] or probes.dtype != gallery.dtype:
        raise ValueError(
            "expected probes and a gallery of the same channels, size and dtype, got "
            f"{tuple(probes.shape)} of {probes.dtype} and {tuple(gallery.shape)} of {gallery.dtype}"
        )
    people = _people(identities, len(gallery)).to(probes.device)
    require_batch_size(perturbations_per_eval, "perturbations_per_eval")
    ranks = how.ranks(side_map((attributions, None), 0, probes)).to(probes.device)
    how.fills((probes, probes))  # checked: images of the right shape for the matches, not known yet
    if gallery_embeddings is not None:
        require_embeddings(gallery_embeddings, len(gallery))
    else:
        gallery_embeddings = embed_gallery(
            pair, gallery, batch_size=perturbations_per_eval, show_progress=show_progress
        )
    known = gallery_embeddings.to(probes.device)
    n = len(probes)
    with (
        pair.frozen(),
        torch.no_grad(),
        progress_bar(total=n * (n_steps + 1), desc="identification", disable=not show_progress) as bar,
    ):
        pair = accelerated(pair, probes[:1])
        size = images_per_pass(perturbations_per_eval, pair, probes[:1])
        intact = pair.embed_in_passes(probes, size)
        require_embeddings(known, len(gallery), intact.shape[1])
        rankings = (
            gallery_scores(pair, part, known).argsort(dim=1, descending=True, stable=True)
            for part in intact.split(size)
        )
        matches = torch.cat([ranking[:, 0] for ranking in rankings])
        filled, _ = how.fills((probes, gallery[matches]))

        def score(row: Tensor, step: Tensor) -> Tensor:
            now = pair.embed(how.replaced(probes, filled, ranks, row, step))
            scores = gallery_scores(pair, now, known).double()
            own = people == people[matches[row]][:, None]
            return torch.stack(
                [scores.where(own, -torch.inf).amax(1), scores.where(~own, -torch.inf).amax(1)], 1
            ).cpu()

        found = how.scores(score, n, range(n_steps + 1), size, bar)
    leading, following = found.unbind(-1)
    sizes = {"gallery": len(gallery), "identities": len(people.unique())}
    return IdentificationCurve(how.fractions, leading, following, matches.cpu(), how.protocol() | sizes)


def _people(identities: Sequence[Any] | Tensor | None, n: int) -> Tensor:
    """A number ``(n,)`` for who each gallery image shows."""
    if identities is None:
        values: list[Any] = list(range(n))
    else:
        values = identities.tolist() if isinstance(identities, Tensor) else list(identities)
    if len(values) != n:
        raise ValueError(f"expected {n} identities, one for each gallery image, got {len(values)}")
    numbers = {value: number for number, value in enumerate(dict.fromkeys(values))}
    if len(numbers) < 2:
        raise ValueError("expected a gallery of at least two people, got one: nobody can be confused with it")
    return torch.tensor([numbers[value] for value in values])
