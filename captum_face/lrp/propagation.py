"""Relevance from embedding channels down to the image."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn
from zennit.canonizers import Canonizer
from zennit.composites import MixedComposite
from zennit.core import Composite

from captum_face._validation import not_differentiable, require_images, require_positive_int
from captum_face.engines.channels import ChannelMaps
from captum_face.lrp._checking import first_departure, first_difference
from captum_face.lrp.canonizers import canonize
from captum_face.lrp.composites import resolve_composite
from captum_face.pair.passes import default_batch_size
from captum_face.pair.similarity import PairSimilarity

__all__ = ["Propagation", "relevance_maps_chunked"]

#: Largest relative error of a canonized model's embedding; a cosine of 1 - 1e-5.
TOLERANCE = (2 * 1e-5) ** 0.5
#: The same where the model switches autocast on by itself: it rounds to 8 bits, and the rules to 24.
AUTOCAST_TOLERANCE = 0.03


class Propagation:
    """An embedding model with relevance rules, for images of one size.

    Args:
        pair: The pair wrapper; make and use this inside ``pair.frozen()``.
        example: An image ``(1, C, H, W)`` in [0, 1] along which the model is traced.
        composite: A name of :data:`~captum_face.lrp.COMPOSITES`, or a Zennit ``Composite``.
        canonizers: ``"auto"`` to trace and rewrite the model (:func:`~captum_face.lrp.canonize`), None to
            take its modules as they are, or a sequence of Zennit canonizers for it.
        unknown_layers: ``"raise"`` or ``"gradient"``, for ``"auto"``.
        biases: Whether biases take relevance, in composites by name.

    Raises:
        TypeError: a model that is no module, a composite or canonizers of another type.
        ValueError: an unknown composite, a layer without a rule.
        RuntimeError: a model that cannot be traced.
    """

    def __init__(
        self,
        pair: PairSimilarity,
        example: Tensor,
        *,
        composite: str | Composite = "face",
        canonizers: str | Sequence[Canonizer] | None = "auto",
        unknown_layers: str = "raise",
        biases: bool = False,
    ) -> None:
        self.pair = pair = pair.in_float32()  # in which the rules work
        self.linear: bool | None = None  # not known yet
        with torch.inference_mode(False), torch.no_grad():
            # Clones, as tensors of inference mode cannot take part in a backward pass.
            example = example.detach().clone()
            given = pair.preprocess(example.clone())  # which may work in place
            low, high = (pair.preprocess(torch.full_like(example, value)) for value in (0.0, 1.0))
            self.composite = resolve_composite(composite, low, high, biases)
            original = _EmbeddingModel(pair)
            self.model: nn.Module = original
            self.hooked: nn.Module = original.model
            self.canonizers: list[Canonizer] = []
            self.layout = torch.preserve_format
            self.canonized = isinstance(canonizers, str) and canonizers == "auto"
            self.tolerance = TOLERANCE
            if self.canonized:
                self.model = self.hooked = canonize(original, given, unknown_layers=unknown_layers)
                if self.model.meta["trace"].autocast:
                    self.tolerance = AUTOCAST_TOLERANCE
                if example.device.type == "cpu":  # where convolutions are faster with channels side by side
                    self.layout = torch.channels_last
                    self.model.to(memory_format=self.layout)
            else:
                self.canonizers = [] if canonizers is None else _require_canonizers(canonizers)
                self.composite = MixedComposite([self.composite], list(self.canonizers))

    def maps(self, image: Tensor, seeds: Tensor, internal_batch_size: int | None = None) -> ChannelMaps:
        """Yields what each of K starting relevances becomes at the image, some of them at a time.

        The image is replicated once for each starting relevance of a chunk and goes forward once; each
        chunk is one backward pass through that graph.

        Args:
            image: One image ``(1, C, H, W)`` in [0, 1].
            seeds: ``(K, D)``: relevance of each embedding channel.
            internal_batch_size: Starting relevances in one backward pass; memory grows with it.

        Yields:
            ``(rows, relevance)``: a slice of the K, and ``(len, C, H, W)``, of any sign. Positive where the
            image speaks for a positive start.

        Raises:
            ValueError: the canonized model does not give the model's embedding; a layer that is called
                twice, where the model is not canonized; NaN or infinite relevance.
            TypeError: preprocessing or a model that cannot be differentiated.
        """
        if len(require_images(image)) != 1:
            raise ValueError(f"expected one image (1, C, H, W), got {tuple(image.shape)}")
        limit = default_batch_size(image.device) if internal_batch_size is None else internal_batch_size
        require_positive_int(limit, "internal_batch_size")
        if not self.canonized:
            limit = min(limit, self.pair.max_batch_size or limit)
        passes = -(-len(seeds) // limit)
        size = -(-len(seeds) // passes)
        # Modes are left before each yield, so that they do not reach the caller.
        with torch.inference_mode(False), torch.no_grad():
            image, seeds = image.detach().clone(), seeds.detach().clone()
            expected = self.pair.embed(image)
            given = self.pair.preprocess(image.clone())
        with self._registered():
            replicas, embeddings = self._replicated(given, size, expected)
            for start in range(0, len(seeds), size):
                rows = slice(start, min(start + size, len(seeds)))
                with torch.inference_mode(False), torch.enable_grad():
                    padded = torch.zeros_like(embeddings)
                    padded[: rows.stop - start] = seeds[rows]
                    (relevance,) = torch.autograd.grad(
                        embeddings, replicas, padded, retain_graph=rows.stop < len(seeds)
                    )
                    relevance = relevance[: rows.stop - start]
                    if not torch.isfinite(relevance).all():
                        raise ValueError(
                            "expected finite relevance, got NaN or infinite values: the composite's rules "
                            "are unstable on this model; the default composite, 'face', is not"
                        )
                    relevance = _through_preprocessing(self.pair, image, relevance)
                yield rows, relevance

    def sums(self, image: Tensor, internal_batch_size: int | None = None) -> Tensor:
        r"""What the relevance of each embedding channel sums to at the image, ``(D,)``, without its D maps.

        A map is linear in the relevance that it starts with, so that these sums are the gradient of a map's
        sum by its start: one relevance pass and the way back through it. Rules that are not linear (guided
        backpropagation) have other gradients at other starts; then the D maps are summed.

        Args:
            image: One image ``(1, C, H, W)`` in [0, 1].
            internal_batch_size: For the D maps, where they are needed: as for :meth:`maps`.

        Raises:
            ValueError, TypeError: as :meth:`maps`.
        """
        with torch.inference_mode(False), torch.no_grad():
            image = require_images(image).detach().clone()
            expected = self.pair.embed(image)
            given = self.pair.preprocess(image.clone())
        if self.linear is not False:
            with self._registered():
                replica, embedding = self._replicated(given, 1, expected)
                with torch.inference_mode(False), torch.enable_grad():
                    seen = _seen(self.pair, image)
                    starts = (0,) if self.linear else (0, 1)
                    found = [_gradient_by_start(embedding, replica, seen, seed) for seed in starts]
            first, last = found[0], found[-1]
            if first is not None and last is not None and torch.allclose(first, last, rtol=1e-3, atol=1e-4):
                self.linear = True
                return first
            self.linear = False
        chunks = self.maps(image, torch.eye(expected.shape[1]).to(expected), internal_batch_size)
        return torch.cat([relevance.flatten(1).sum(1) for _, relevance in chunks])

    def _replicated(self, given: Tensor, size: int, expected: Tensor) -> tuple[Tensor, Tensor]:
        """So many replicas of a preprocessed image, and their embeddings as a function of them."""
        with torch.inference_mode(False), torch.enable_grad():
            replicas = given.expand(size, *given.shape[1:]).clone(memory_format=self.layout)
            replicas.requires_grad_()
            with self._single_calls():
                embeddings = self._embedded(replicas.clone())  # the model may work in place
        self._require_same(embeddings.detach(), expected, given)
        if not embeddings.requires_grad:
            raise not_differentiable()
        return replicas, embeddings

    def _embedded(self, images: Tensor) -> Tensor:
        try:
            return self.model(images)
        except AttributeError as error:
            if "register_hook" in str(error):  # zennit's, where there is no graph to hook into
                raise not_differentiable() from error
            raise

    @contextmanager
    def _registered(self) -> Iterator[None]:
        try:
            self.composite.register(self.hooked)
            yield
        finally:  # also what was registered before an error
            self.composite.remove()

    @contextmanager
    def _single_calls(self) -> Iterator[None]:
        """Refuses modules that are called twice, as a rule remembers its layer's last input alone."""
        calls: Counter[str] = Counter()
        handles = []

        def count(name: str) -> Any:
            def hook(_: nn.Module, args: tuple[Any, ...]) -> None:
                if args and isinstance(args[0], Tensor) and torch.is_autocast_enabled(args[0].device.type):
                    raise ValueError(
                        f"expected layers that run in the precision of the image, got {name!r} under the "
                        "autocast that the model switches on; use canonizers='auto', which runs without it"
                    )
                calls[name] += 1
                if calls[name] > 1:
                    raise ValueError(
                        f"expected each layer to be called once, got two calls of {name!r}, of which "
                        "relevance would see the last alone; use canonizers='auto', which gives every "
                        "call a layer of its own, or max_batch_size=1 and internal_batch_size=1 for "
                        "models that split their batch"
                    )

            return hook

        if not self.canonized:
            leaves = [(n, m) for n, m in self.hooked.named_modules() if not [*m.children()]]
            handles = [m.register_forward_pre_hook(count(name)) for name, m in leaves]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _require_same(self, embeddings: Tensor, expected: Tensor, given: Tensor) -> None:
        error = (embeddings - expected).norm(dim=1) / expected.norm(dim=1)
        if bool((error <= self.tolerance).all()):
            return
        self.composite.remove()
        if isinstance(self.model, fx.GraphModule):
            name = first_difference(self.model)
        else:
            name = first_departure(self.model, given, self.canonizers)
        where = (
            f"; the first layer that differs is {(name or '').removeprefix('model.')!r}"
            if name
            else "; its layers agree on the first image, so it branches on what is in the image, or a hook "
            "changes it"
        )
        cosine = torch.cosine_similarity(embeddings, expected).min()
        raise ValueError(
            f"expected the canonized model to give the model's embedding, got one that differs by "
            f"{float(error.max()):.2g} of its length (cosine {float(cosine):.6f}){where}; pass "
            "canonizers= that fit the model, or canonizers=None"
        )


def relevance_maps_chunked(
    pair: PairSimilarity,
    image: Tensor,
    seeds: Tensor | None = None,
    *,
    internal_batch_size: int | None = None,
    **options: Any,
) -> ChannelMaps:
    """Yields LRP's channel maps of one image, some channels at a time.

    The counterpart of :func:`captum_face.engines.channels.gradient_channel_maps_chunked`.

    Args:
        pair: The pair wrapper; call this inside ``pair.frozen()``.
        image: One image ``(1, C, H, W)`` in [0, 1].
        seeds: ``(K, D)`` starting relevances; None for one unit in each embedding channel.
        internal_batch_size: Starting relevances in one backward pass. None for what suits the device.
        options: Those of :class:`Propagation`.

    Yields:
        ``(rows, maps)``: a slice of the K, and ``(len, C, H, W)``, each of the sum of its starting
        relevance where the composite conserves it.
    """
    if seeds is None:
        with torch.no_grad():
            dimensions = pair.embed(image).shape[1]
        seeds = torch.eye(dimensions, dtype=image.dtype, device=image.device)
    yield from Propagation(pair, image, **options).maps(image, seeds, internal_batch_size)


class _EmbeddingModel(nn.Module):
    """Preprocessed images to embeddings, as the pair wrapper selects them from the model's answer."""

    def __init__(self, pair: PairSimilarity) -> None:
        super().__init__()
        model = getattr(pair.embedding_model, "__self__", pair.embedding_model)
        if not isinstance(model, nn.Module):
            name = getattr(pair.embedding_model, "__name__", type(pair.embedding_model).__name__)
            raise TypeError(
                f"LRP needs the layers of the embedding model and expected an nn.Module, got {name!r}; give "
                "PairSimilarity the module itself, with preprocess= and select= for what happens around it"
            )
        self.model = model
        self.select = lambda answer: pair._selected(answer)  # no method, which a copy would copy the pair for
        # Of a bound method the function, so that a copy of this module runs its own copy of the model.
        self.call = getattr(pair.embedding_model, "__func__", None)

    def forward(self, images: Tensor) -> Tensor:
        answer = self.model(images) if self.call is None else self.call(self.model, images)
        return self.select(answer)


def _require_canonizers(canonizers: object) -> list[Canonizer]:
    if isinstance(canonizers, (list, tuple)) and all(isinstance(c, Canonizer) for c in canonizers):
        return list(canonizers)
    hint = "; write Canonizer() for the class" if inspect.isclass(canonizers) else ""
    raise TypeError(
        f"expected canonizers as 'auto', None or a list of zennit canonizers, got {canonizers!r}{hint}"
    )


def _through_preprocessing(pair: PairSimilarity, image: Tensor, relevance: Tensor) -> Tensor:
    r"""Lays relevance at the preprocessed image over the image itself.

    Normalisation changes units and not places: a pixel's relevance stays its own. In general each
    preprocessed value hands its relevance to the pixels it is made of, in proportion to their weight in
    it, :math:`J^T (R / J 1)` with the Jacobian J. So the flip of BGR is undone, and resizing conserves.
    """
    if isinstance(pair.preprocess, nn.Identity):
        return relevance
    leaf, given, sums = _preprocessing(pair, image)
    shares = torch.where(sums == 0, 0.0, relevance / torch.where(sums == 0, 1.0, sums))
    rows = [torch.autograd.grad(given, leaf, row[None], retain_graph=True)[0] for row in shares]
    return torch.cat(rows)


def _seen(pair: PairSimilarity, image: Tensor) -> Tensor:
    """Which preprocessed values depend on the image: the others' relevance does not reach it."""
    if isinstance(pair.preprocess, nn.Identity):
        return torch.ones_like(image)
    return (_preprocessing(pair, image)[2] != 0).to(image)


def _preprocessing(pair: PairSimilarity, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The image as a leaf, what it becomes, and :math:`J 1`: the weights in each preprocessed value."""
    leaf = image.detach().clone().requires_grad_()
    given = pair.preprocess(leaf.clone())
    if not given.requires_grad:
        raise TypeError(
            "expected preprocessing that can be differentiated, got one without gradient for the image; "
            "write it with torch operations"
        )
    probe = torch.zeros_like(given, requires_grad=True)
    (pulled,) = torch.autograd.grad(given, leaf, probe, create_graph=True)
    (sums,) = torch.autograd.grad(pulled, probe, torch.ones_like(pulled), retain_graph=True)
    return leaf, given, sums


def _gradient_by_start(embedding: Tensor, replica: Tensor, seen: Tensor, seed: int) -> Tensor | None:
    """The gradient ``(D,)`` of a map's sum by the relevance that it starts with, at some start.

    None where a rule has none: a rule of your own may work without a graph.
    """
    generator = torch.Generator().manual_seed(seed)
    start = (
        torch.randn(embedding.shape, generator=generator, dtype=torch.float32).to(embedding).requires_grad_()
    )
    try:
        (relevance,) = torch.autograd.grad(embedding, replica, start, create_graph=True)
        (gradient,) = torch.autograd.grad((relevance * seen).sum(), start, retain_graph=True)
    except RuntimeError:
        return None
    return gradient[0] if bool(torch.isfinite(gradient).all()) else None
