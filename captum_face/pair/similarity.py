"""Two face images to one similarity score: the ``forward_func`` of everything in this package."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from captum_face._validation import (
    require_choice,
    require_images,
    require_pair,
    require_positive_int,
    require_scores,
    require_size,
)
from captum_face.maps.templates import Template, resolve_template
from captum_face.pair._state import alone, holds, owner_of, tensor_float_32, without_autocast
from captum_face.pair.passes import BatchSize, default_batch_size, in_passes
from captum_face.pair.preprocessing import PRESETS, resolve_preprocess
from captum_face.pair.scores import Score, Threshold, resolve_score, shown

__all__ = ["AgainstReference", "PairSimilarity", "frozen", "score_pairs"]

#: What ``PairSimilarity(precision=...)`` knows.
PRECISIONS = ("float32", "tf32", "bfloat16")
_BATCH_NORM = nn.modules.batchnorm._BatchNorm
_MODE_DEPENDENT = (_BATCH_NORM, nn.modules.dropout._DropoutNd)
#: Operations of exported graphs that have a mode, with the place of the argument that says training.
_EXPORTED_MODES = {
    "batch_norm": 5, "native_batch_norm": 5, "_native_batch_norm_legit": 5,
    "_native_batch_norm_legit_functional": 5, "dropout": 2, "native_dropout": 2,
}  # fmt: skip


@contextmanager
def frozen(module: object) -> Iterator[None]:
    """Runs its body with ``module`` in eval mode and its parameters without gradients.

    A BatchNorm in training mode would explain another function, and gradients for parameters double the
    cost of a backward pass. Every module's training flag and every parameter's ``requires_grad`` come
    back as they were, also after an exception, when contexts are nested and when threads share a model:
    then with the last of them. What is not an :class:`torch.nn.Module` has nothing to freeze and passes.

    Args:
        module: A module, a bound method of one, or a partial of either. A module that another callable
            hides (a lambda, a closure) cannot be seen: call its ``.eval()`` yourself.
    """
    owner = owner_of(module)
    # Frozen TorchScript has no training flag, and inference tensors no gradients to switch off.
    modules = [m for m in (owner.modules() if owner is not None else ()) if hasattr(m, "training")]
    parameters = [p for p in (owner.parameters() if owner is not None else ()) if not p.is_inference()]
    flags = chain(
        ((m, "training", False) for m in modules), ((p, "requires_grad", False) for p in parameters)
    )
    # TF32 here as well as around the model: a backward pass starts outside of it.
    with holds(flags), tensor_float_32(getattr(owner, "precision", None) == "tf32"):
        yield


def _require_inference_graphs(model: object) -> None:
    """Refuses graphs of :mod:`torch.export` and :mod:`torch.fx` that were made of a model in training mode.

    Their mode is written into them: a BatchNorm would mix the images of a batch, and change at every pass.
    """
    owner = owner_of(model)
    for module in owner.modules() if owner is not None else ():
        for node in module.graph.nodes if isinstance(module, torch.fx.GraphModule) else ():
            name = getattr(getattr(node.target, "overloadpacket", None), "__name__", "")
            place = _EXPORTED_MODES.get(name)
            if place is not None and len(node.args) > place and node.args[place] is True:
                raise ValueError(
                    f"expected a model exported for inference, got one with {name} in training mode, which "
                    "is written into its graph; export it again after model.eval()"
                )


class PairSimilarity(nn.Module):
    """Similarity of two batches of face images under any embedding model.

    This is the ``forward_func`` of every method in this package and of Captum's own:
    ``Saliency(pair).attribute((a, b))`` and ``captum.metrics.infidelity(pair, ...)`` work.

    Args:
        embedding_model: Module or callable, ``(N, C, H, W)`` preprocessed images to ``(N, D)``
            embeddings, normalised or not. A bound method of a module (``clip.encode_image``) counts as
            that module; a callable may answer with a numpy array, but then has no gradients.
        score: ``"cosine"``, ``"dot"``, ``"euclidean"`` (negative squared distance) or a
            :class:`~captum_face.pair.scores.Score` object. Higher means more alike.
        threshold: The verification threshold in units of the score; pairs at or above it are accepted. With
            a score that stands for a distance (``"euclidean"``) a number above 0 is a distance:
            ``threshold=0.6``. None for none: scores and maps are computed, and nothing is decided. The
            attribute of this name can be set, and is checked then.
        preprocess: A name of :data:`captum_face.pair.preprocessing.PRESETS`, a callable on ``[0, 1]`` images,
            or None for models that normalise their input themselves.
        max_batch_size: Most images that the model sees in one call; 1 for models exported with a
            fixed batch of 1. None for no limit.
        select: Which part of the model's answer is the embedding, where it is not a tensor: an index of
            a tuple (AdaFace answers ``(feature, norm)``: ``select=0``), a key of a dict, or a callable
            on the answer.
        precision: What the model computes in: ``"float32"`` leaves that to the model, its images and the
            switches of PyTorch; ``"tf32"`` switches TF32 on for matrix products and convolutions of CUDA
            devices while the model or a method runs, and is ``"float32"`` elsewhere; ``"bfloat16"`` runs
            the model under :class:`torch.autocast`, forward and backward, which is faster only on devices
            with units for it. Both change maps: see the page on speed. Embeddings of half precision come in
            the dtype of the images, and scores are computed in that. LRP and BiLRP, which rewrite the model,
            don't heed ``"bfloat16"``. Nothing heeds an autocast around a call.
        alignment: How the model expects faces to lie in its images: a name of
            :data:`captum_face.photos.TEMPLATES`, such as ``"arcface"`` for InsightFace's five points; a
            :class:`~captum_face.photos.Template` of your own; None for an alignment that is not known.
            Photos are aligned to it, and results check crops against it. ``"auto"`` is the preset's, and
            ``"arcface"`` where there is no preset.
        image_size: Height and width of the model's images, or one number for both, to which photos are
            cropped. None for the ``input_size`` of the model, if that is height and width, or else the
            preset's. Where neither is there the size is not known, and photos are cropped only if that is
            asked for.

    Shape: images ``(N, C, H, W)`` in [0, 1], RGB; a batch of 1 on one side broadcasts against N.

    Raises:
        ValueError: unknown score, preset, precision or alignment, a ``max_batch_size`` below 1, a threshold
            that the score cannot reach.
        TypeError: ``embedding_model`` cannot be called, or the threshold is not a number.

    Example::

        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 4)).eval()
        >>> pair = PairSimilarity(model, threshold=0.3, preprocess="arcface")
        >>> a, b = torch.rand(5, 3, 8, 8), torch.rand(1, 3, 8, 8)
        >>> pair(a, b).shape, pair.embed(a).shape
        (torch.Size([5]), torch.Size([5, 4]))
    """

    def __init__(
        self,
        embedding_model: Callable[[Tensor], Any],
        *,
        score: str | Score = "cosine",
        threshold: float | None = None,
        preprocess: str | Callable[[Tensor], Tensor] | None = None,
        max_batch_size: int | None = None,
        select: int | str | Callable[[Any], Tensor] | None = None,
        precision: str = "float32",
        alignment: str | Template | None = "auto",
        image_size: int | tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        if not callable(embedding_model):
            raise TypeError(
                f"expected embedding_model to be a module or callable, got {type(embedding_model).__name__}"
            )
        if isinstance(embedding_model, type):
            raise TypeError(f"expected an embedding model, got the class {embedding_model.__name__}")
        if max_batch_size is not None:
            require_positive_int(max_batch_size, "max_batch_size")
        _require_inference_graphs(embedding_model)
        self.embedding_model = embedding_model
        if not isinstance(embedding_model, nn.Module):
            # Registered, so that frozen() and .to() reach the module behind a bound method.
            self.embedding_owner = owner_of(embedding_model)
        self.score = resolve_score(score)
        self.threshold = threshold
        self.preprocess = resolve_preprocess(preprocess)
        self.max_batch_size = max_batch_size
        self.select = select
        self.precision = require_choice(precision, PRECISIONS, "precision")
        preset = PRESETS.get(preprocess) if isinstance(preprocess, str) else None
        #: Height and width of the model's images; None if they are not known.
        self.image_size = require_size(image_size, "image_size")
        if self.image_size is None:
            self.image_size = _own_size(embedding_model) or (preset.size if preset else None)
        if alignment == "auto":
            alignment = preset.template if preset else "arcface"
        self.alignment = alignment

    @property
    def alignment(self) -> str | None:
        """Name of the template to which the model's images are aligned; None for one that is not known."""
        return None if self.template is None else self.template.name

    @alignment.setter
    def alignment(self, value: str | Template | None) -> None:
        self._template = None if value is None else resolve_template(value)

    @property
    def template(self) -> Template | None:
        """Where landmarks lie in the model's images, in :attr:`image_size`; None if that is not known."""
        return None if self._template is None else self._template.resized(self.image_size)

    @property
    def threshold(self) -> Threshold | None:
        """The verification threshold in units of the score, a float that knows its source; None for none."""
        return self._threshold

    @threshold.setter
    def threshold(self, value: float | None) -> None:
        self._threshold = None if value is None else self.score.given(value)

    @property
    def model_name(self) -> str:
        """What results call the model, by its class and the name that it gives itself, as services do."""
        own = getattr(self.embedding_model, "name", None)
        kind = type(self.embedding_model).__name__
        return f"{kind} ({own})" if isinstance(own, str) else kind

    def needed_threshold(self) -> Threshold:
        """The threshold, for what cannot do without.

        Raises:
            ValueError: there is none.
        """
        if self.threshold is None:
            raise ValueError(
                "expected a threshold to decide by, got none; give PairSimilarity(threshold=...), or set "
                "pair.threshold = captum_face.metrics.calibrate_threshold(pair, pairs)"
            )
        return self.threshold

    def train(self, mode: bool = True) -> PairSimilarity:
        """Sets the mode of the model, but for parts that keep the one they were exported in."""
        self.training = mode
        for child in self.children():
            with suppress(NotImplementedError):  # torch.export's
                child.train(mode)
        return self

    def forward(self, image_a: Tensor, image_b: Tensor) -> Tensor:
        """Scores ``(N,)``. Cost: one forward pass per image of each side (a batch of 1 is embedded once).

        Raises:
            TypeError, ValueError: see :meth:`embed`; also images of different size, dtype or device.
        """
        image_a, image_b = require_pair((image_a, image_b))
        return self.contributions(self.embed(image_a), self.embed(image_b)).sum(-1)

    def embed(self, images: Tensor) -> Tensor:
        """Embeddings ``(N, D)`` of ``(N, C, H, W)`` images, as the model gives them; differentiable.

        Cost: one forward pass per image.

        Raises:
            TypeError: images that are not floats; a model that answers with something else than a tensor.
            ValueError: images that are not ``(N, C, H, W)``, finite and in [0, 1]; embeddings that are
                not ``(N, D)`` or not finite; a model of fixed batch size.
        """
        require_images(images)
        if any(isinstance(m, _MODE_DEPENDENT) and m.training for m in self.modules()):
            warnings.warn(
                "the embedding model is in training mode, so that scores depend on the batch; call "
                "pair.eval() (attribution methods do that themselves while they run)",
                UserWarning,
                stacklevel=2,
            )
        if self.max_batch_size != 1 and any(
            isinstance(m, _BATCH_NORM) and m.running_mean is None for m in self.modules()
        ):
            warnings.warn(
                "the embedding model has a BatchNorm without running statistics (track_running_stats=False), "
                "so that scores depend on the batch; set max_batch_size=1",
                UserWarning,
                stacklevel=2,
            )
        size = self.max_batch_size or len(images)
        with alone(self):
            return torch.cat([self._embed_batch(batch) for batch in images.split(size)])

    def embed_in_passes(self, images: Tensor, batch_size: BatchSize = None) -> Tensor:
        """:meth:`embed` a few images at a time, for batches that memory may not hold at once.

        Args:
            images: ``(N, C, H, W)`` in [0, 1].
            batch_size: Images in one pass; anything but a number is what suits the device. Half as many from
                where memory runs out.
        """
        size = (
            batch_size if isinstance(batch_size, int) else default_batch_size(images.device, self.precision)
        )
        return torch.cat([*in_passes(self.embed, images, size)])

    def _embed_batch(self, images: Tensor) -> Tensor:
        # A copy: models and preprocessing that work in place must not change the caller's images.
        images = images.clone()
        reduced = self.precision == "bfloat16"
        kind = images.device.type
        autocast = torch.autocast(kind, torch.bfloat16) if reduced else without_autocast(images.device)
        with autocast, tensor_float_32(self.precision == "tf32"):
            try:
                answer = self.embedding_model(self.preprocess(images))
            except RuntimeError as error:
                own = {p.dtype for p in self.parameters() if p.is_floating_point()}
                if not own or images.dtype in own:
                    raise
                raise TypeError(
                    f"expected images in the dtype of the model, {', '.join(map(str, own))}, got "
                    f"{images.dtype}, and the model fails with it ({error}); convert one of them, as with "
                    "pair.float() or images.to(dtype)"
                ) from error
            embeddings = self._selected(answer)
        if isinstance(embeddings, np.ndarray):
            embeddings = torch.from_numpy(embeddings).to(images.device)
        if not isinstance(embeddings, Tensor):
            raise TypeError(
                f"expected the model to answer with a tensor (N, D), got {_describe(embeddings)}; choose the "
                "embedding with select=: an index, a key or a callable"
            )
        if embeddings.ndim != 2 or len(embeddings) != len(images) or embeddings.shape[1] == 0:
            if self.select is not None:
                remedy = f"check select={self.select!r}, and leave it out where the answer is the embedding"
            elif embeddings.ndim == 2 and len(images) > 1:
                remedy = "a model exported with a fixed batch does that: set max_batch_size=1"
            elif embeddings.ndim < 2:
                remedy = (
                    "a .squeeze() at the end of the model takes the batch away where it is 1: give it the "
                    "dimensions to squeeze, or restore them with select=lambda out: out.reshape(-1, D), with "
                    "the embedding's length for D"
                )
            else:
                remedy = "flatten it to (N, D), for example with select=lambda out: out.flatten(1)"
            raise ValueError(
                f"expected an embedding of shape ({len(images)}, D) for {len(images)} image(s), got "
                f"{tuple(embeddings.shape)}; {remedy}"
            )
        if not embeddings.is_floating_point():
            raise TypeError(f"expected embeddings of floats, got {embeddings.dtype}")
        if not torch.isfinite(embeddings.detach()).all():
            raise ValueError(
                "expected finite embeddings, got NaN or infinite values; check the weights and "
                "the preprocessing"
            )
        # Scores in half precision have three digits, too few beside a threshold.
        half = embeddings.dtype in (torch.float16, torch.bfloat16)
        return embeddings.to(images.dtype) if reduced or half else embeddings

    def _selected(self, answer: Any) -> Any:
        if self.select is None:
            return answer
        if callable(self.select):
            return self.select(answer)
        try:
            return answer[self.select]
        except (IndexError, KeyError, TypeError) as error:
            raise ValueError(
                f"select={self.select!r} does not fit the model's answer: {_describe(answer)}"
            ) from error

    def contributions(self, emb_a: Tensor, emb_b: Tensor) -> Tensor:
        """Each embedding channel's share of the score, ``(N, D)``; the sum over D is the score.

        Args:
            emb_a: ``(N, D)`` embeddings from :meth:`embed`.
            emb_b: The same for the other side; a batch of 1 broadcasts.

        Raises:
            ValueError: an all-zero embedding under the cosine; a score of your own that gives something
                else than one finite value per channel.
        """
        contributions = self.score.contributions(emb_a, emb_b)
        expected = np.broadcast_shapes(emb_a.shape, emb_b.shape)  # torch's imports sympy
        if contributions.shape != expected:
            raise ValueError(
                f"expected contributions of shape {tuple(expected)} from the score {self.score.name!r}, one "
                f"for each channel, got {tuple(contributions.shape)}"
            )
        if not torch.isfinite(contributions.detach()).all():
            raise ValueError(f"expected finite scores, got NaN or infinite ones from {self.score.name!r}")
        return contributions

    def decide(self, image_a: Tensor, image_b: Tensor) -> Tensor:
        """True where the pair is accepted as the same person (score >= threshold), ``(N,)`` bool.

        Runs in eval mode without gradients, whatever mode the model is in.

        Raises:
            ValueError: there is no threshold.
        """
        threshold = self.needed_threshold()
        with self.frozen(), torch.no_grad():
            scores = self(image_a, image_b)
        # As Python's floats, like everywhere else: a tensor would round the threshold to its own dtype.
        return torch.tensor([score >= threshold for score in scores.tolist()], device=scores.device)

    def against(self, reference: Tensor) -> AgainstReference:
        """The score as a function of one image, for methods that are made for one input.

        The reference is embedded here, once, in eval mode; weights changed later do not reach it.

        Args:
            reference: ``(1, C, H, W)``, or ``(N, C, H, W)`` for batches of exactly N images.
        """
        with self.frozen(), torch.no_grad():
            return AgainstReference(self, self.embed(reference))

    def frozen(self) -> Any:
        """Context manager: eval mode and parameters without gradients, restored at the end.

        See :func:`frozen`. Every method of this package runs inside it.
        """
        return frozen(self)

    def variant(
        self, *, embedding_model: nn.Module | None = None, precision: str | None = None
    ) -> PairSimilarity:
        """This wrapper with another model or precision; everything else is shared."""
        other = copy.copy(self)
        if embedding_model is not None:
            other._modules = {**self._modules, "embedding_model": embedding_model}
        if precision is not None:
            other.precision = require_choice(precision, PRECISIONS, "precision")
        return other

    def in_float32(self) -> PairSimilarity:
        """This wrapper without its reduced precision."""
        return self if self.precision == "float32" else self.variant(precision="float32")

    def __repr__(self) -> str:
        # In one line: the network's layers are its own to show.
        model, preprocess = _short(self.embedding_model), _short(self.preprocess)
        return f"{type(self).__name__}({model}, preprocess={preprocess}, {self.extra_repr()})"

    def extra_repr(self) -> str:
        reduced = "" if self.precision == "float32" else f", precision={self.precision}"
        batch = f"max_batch_size={self.max_batch_size}"
        threshold = "None" if self.threshold is None else f"{shown(self.threshold):g}"
        if self.threshold is not None and self.score.distance is not None:
            threshold = f"{self.score.distance.name} {threshold}"
        return f"score={self.score.name}, threshold={threshold}, {batch}{reduced}"


def _short(part: object) -> str:
    """A part of a wrapper in one line: in full if that is short and the same in every process."""
    text = repr(part)
    if len(text) <= 60 and "\n" not in text and " at 0x" not in text:
        return text
    return str(getattr(part, "__name__", type(part).__name__))


class AgainstReference(nn.Module):
    """Similarity of images to a fixed reference; made by :meth:`PairSimilarity.against`.

    Shape: ``(N, C, H, W)`` to scores ``(N,)``.
    """

    reference: Tensor

    def __init__(self, pair: PairSimilarity, reference: Tensor) -> None:
        super().__init__()
        self.pair = pair
        self.register_buffer("reference", reference, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Scores ``(N,)``. Cost: one forward pass per image.

        Raises:
            ValueError: a batch other than that of the reference, where that is not 1.
        """
        if len(self.reference) not in (1, len(images)):
            raise ValueError(
                f"expected a batch of {len(self.reference)} images, as many as references, got "
                f"{len(images)}; methods that enlarge the batch need a single reference"
            )
        return self.pair.contributions(self.pair.embed(images), self.reference).sum(-1)


def score_pairs(forward_func: Callable[..., Tensor], image_a: Tensor, image_b: Tensor) -> Tensor:
    """Scores ``(N,)`` of two batches, of which one may be 1, by a pair wrapper or any other callable."""
    if isinstance(forward_func, PairSimilarity):
        return forward_func(image_a, image_b)
    # Any other callable need not broadcast.
    count = max(len(image_a), len(image_b))
    ends = (images.expand(count, -1, -1, -1) for images in (image_a, image_b))
    return require_scores(forward_func(*ends), count, image_a)


def _own_size(model: object) -> tuple[int, int] | None:
    """What a model says of its images; an attribute that is no height and width means something else."""
    size = getattr(model, "input_size", None)
    if isinstance(size, (tuple, list)) and len(size) == 2 and all(isinstance(n, int) and n > 0 for n in size):
        return size[0], size[1]
    return None


def _describe(answer: Any) -> str:
    if isinstance(answer, Mapping):
        return f"a dict with keys {list(answer)}"
    if isinstance(answer, Sequence) and not isinstance(answer, str):
        parts = [str(tuple(p.shape)) if hasattr(p, "shape") else type(p).__name__ for p in answer]
        return f"a {type(answer).__name__} of {len(answer)}: {', '.join(parts)}"
    return (
        f"{type(answer).__name__} {tuple(answer.shape)}"
        if hasattr(answer, "shape")
        else type(answer).__name__
    )
