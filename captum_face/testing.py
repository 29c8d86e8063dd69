"""The contract of a method as checks that anybody can run on a class of their own.

``check_method(MyMethod)`` runs them all and raises at the first that fails. For pytest, a test for each::

    from captum_face.testing import method_checks

    @pytest.mark.parametrize("check", method_checks(MyMethod, {"n_masks": 12, "seed": 0}), ids=str)
    def test_contract(check):
        check()

The package's own methods pass the same checks.
"""

from __future__ import annotations

import contextlib
import inspect
import io
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from captum.attr import NoiseTunnel, visualization
from captum.metrics import infidelity, sensitivity_max
from torch import Tensor, nn

from captum_face.attr.base import PairAttribution
from captum_face.attr.registry import require_method
from captum_face.maps.signed import split_attribution
from captum_face.pair.passes import BATCH_OPTIONS
from captum_face.pair.scores import Score
from captum_face.pair.similarity import PairSimilarity
from captum_face.results.gallery import attribute_gallery

__all__ = ["CHECKS", "Check", "SmallNet", "check_method", "method_checks", "model_state", "small_net"]


class SmallNet(nn.Module):
    """A convolutional embedding with what face networks have: BatchNorm, PReLU, a residual, dropout."""

    def __init__(self, dimensions: int = 7, channels: int = 3) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 6, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(6)
        self.prelu = nn.PReLU(6)
        self.conv2 = nn.Conv2d(6, 6, 3, padding=1, groups=6)
        self.bn2 = nn.BatchNorm2d(6)
        self.pool = nn.AdaptiveAvgPool2d((3, 3))
        self.dropout = nn.Dropout(0.5)
        self.fc = nn.Linear(54, dimensions)

    def forward(self, images: Tensor) -> Tensor:
        """Images ``(N, C, H, W)`` to embeddings ``(N, D)``."""
        x = self.prelu(self.bn1(self.conv1(images)))
        x = x + self.bn2(self.conv2(x))
        return self.fc(self.dropout(self.pool(x).flatten(1)))


def small_net(dimensions: int = 7, channels: int = 3) -> SmallNet:
    """A seeded :class:`SmallNet` whose BatchNorms have seen data, in training mode with gradients on."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        net = SmallNet(dimensions, channels)
        with torch.no_grad():
            for _ in range(3):
                net(torch.rand(16, channels, 16, 16))
    return net


def model_state(module: nn.Module) -> tuple[Any, ...]:
    """What a method must leave as it was: hooks, training flags, gradients, attributes and values."""
    hooks = [
        len(hooks)
        for m in module.modules()
        for hooks in (m._forward_hooks, m._forward_pre_hooks, m._backward_hooks, m._backward_pre_hooks)
    ]
    return (
        hooks,
        [m.training for m in module.modules()],
        [(p.requires_grad, p.grad is None) for p in module.parameters()],
        [sorted(vars(m)) for m in module.modules()],
        [t.detach().clone() for t in module.state_dict().values()],
    )


@dataclass(frozen=True)
class Check:
    """One check of one method; call it to run it."""

    name: str  #: of the check
    run: Callable[[Any], None]  #: raises if the method breaks the rule
    case: Any  #: the method under test

    def __call__(self) -> None:
        """Runs the check.

        Raises:
            AssertionError: the method breaks the contract; the message says how.
        """
        try:
            self.run(self.case)
        except Exception as error:  # a method may fail in any way
            what = str(error) if isinstance(error, AssertionError) else f"{type(error).__name__}: {error}"
            who = self.case.method.__name__
            raise AssertionError(f"{who} breaks the contract, {self.name}: {what}") from error

    def __str__(self) -> str:
        return f"{self.case.method.name}-{self.name}"


def method_checks(method: type[PairAttribution], options: dict[str, Any] | None = None) -> list[Check]:
    """The contract as one check a rule, for pytest's ``parametrize``.

    Args:
        method: The class, under :func:`~captum_face.method`.
        options: Options of its ``attribute`` that make it quick on images of 18 x 14 pixels; a ``seed`` for
            methods that draw.
    """
    return [Check(name, run, _Case(method, dict(options or {}))) for name, run in CHECKS.items()]


def check_method(method: type[PairAttribution], options: dict[str, Any] | None = None) -> None:
    """Runs the contract on a class, as scikit-learn's ``check_estimator`` does on an estimator.

    Args:
        method: The class, under :func:`~captum_face.method`.
        options: As for :func:`method_checks`.

    Raises:
        AssertionError: the first rule that the class breaks, and how.

    Cost: some hundred calls of the method on a network of 800 parameters; seconds.

    Example::

        >>> from captum_face import Center
        >>> check_method(Center)
    """
    for check in method_checks(method, options):
        check()


@dataclass(frozen=True)
class _Case:
    """A method under test, with what the checks share."""

    method: type[PairAttribution]
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def images(self) -> tuple[Tensor, Tensor]:
        """Three pairs of images that are not square."""
        generator = torch.Generator().manual_seed(5)
        return torch.rand(3, 3, 18, 14, generator=generator), torch.rand(3, 3, 18, 14, generator=generator)

    @property
    def one_against_many(self) -> tuple[Tensor, Tensor]:
        a, b = self.images
        return a[:1], torch.cat([b, a.flip(-1), b.flip(-1)])

    @property
    def pair(self) -> PairSimilarity:
        return PairSimilarity(small_net().eval(), threshold=0.2, preprocess="arcface")

    @property
    def batch_options(self) -> list[str]:
        return [name for name in BATCH_OPTIONS if name in self.method.options()]

    def attribute(self, forward_func: Any, inputs: Any, **options: Any) -> Any:
        return self.method(forward_func).attribute(inputs, **{**self.options, **options})


class _Before(nn.Module):
    """The small network, and what is done with images before it."""

    def __init__(self, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.net = small_net()
        self.change = change

    def forward(self, x: Tensor) -> Tensor:
        return self.net(self.change(x))


class _Leaning(Score):
    """A score of which image A and image B are not alike."""

    name = "leaning"

    def compare(self, emb_a: Tensor, emb_b: Tensor) -> Tensor:
        return emb_a * emb_b.roll(1, -1)


class _LeaningBack(_Leaning):
    def compare(self, emb_a: Tensor, emb_b: Tensor) -> Tensor:
        return super().compare(emb_b, emb_a)


def _expect(condition: object, message: str) -> None:
    if not condition:
        raise AssertionError(message)


def _expect_close(got: Any, want: Any, message: str, tolerance: float = 1e-5) -> None:
    for left, right in zip(got, want, strict=True):
        try:
            torch.testing.assert_close(left, right, rtol=tolerance, atol=tolerance)
        except AssertionError as error:
            raise AssertionError(f"{message}: {' '.join(str(error).split())}") from error


def _expect_same_state(before: tuple[Any, ...], after: tuple[Any, ...], message: str) -> None:
    _expect(before[:4] == after[:4], message)
    same = all(torch.equal(x, y) for x, y in zip(before[4], after[4], strict=True))
    _expect(same, f"{message}: its values")


@contextlib.contextmanager
def _raises(errors: tuple[type[Exception], ...], text: str, message: str) -> Iterator[None]:
    try:
        yield
    except errors as error:
        _expect(text in str(error), f"{message} with {text!r} in it, got {error!r}")
        return
    raise AssertionError(f"{message}, got none")


def _registered(case: _Case) -> None:
    """It is registered, and its name, needs and options are in order."""
    require_method(case.method.name, case.method)
    for fact in ("name", "family", "passes", "source"):
        _expect(getattr(case.method, fact), f"expected {fact}= in @method(...), got nothing")


def _constructor(case: _Case) -> None:
    """The constructor stores its arguments and nothing else."""
    pair = case.pair
    built = case.method(pair)
    parameters = inspect.signature(case.method).parameters
    _expect(next(iter(parameters)) == "forward_func", "expected forward_func as the first argument")
    stored = {name: parameter.default for name, parameter in parameters.items()}
    _expect(
        vars(built) == {**stored, "forward_func": pair},
        f"expected the arguments {sorted(parameters)} as attributes, got {sorted(vars(built))}",
    )


def _shapes(case: _Case) -> None:
    """Attributions have the inputs' shapes, dtype and device, no gradients, and are not empty."""
    for dtype in (torch.float32, torch.float64):
        a, b = (image.to(dtype) for image in case.images)
        for attr, image in zip(case.attribute(case.pair.to(dtype), (a, b)), (a, b), strict=True):
            shape = tuple(image.shape)
            _expect(attr.shape == image.shape, f"expected shape {shape}, got {tuple(attr.shape)}")
            _expect(attr.dtype == dtype, f"expected {dtype}, got {attr.dtype}")
            _expect(attr.device == image.device, f"expected {image.device}, got {attr.device}")
            _expect(not attr.requires_grad, "expected attributions without gradients")
            _expect(torch.isfinite(attr).all(), "expected finite attributions")
            _expect(attr.abs().sum() > 0, "expected attributions that are not all zero")


def _batches(case: _Case) -> None:
    """A batch gives what its items give, and image A alone what both give for it."""
    together = case.attribute(case.pair, case.images)
    items = [case.attribute(case.pair, tuple(image[[i]] for image in case.images)) for i in range(3)]
    _expect_close(
        together,
        [torch.cat(side) for side in zip(*items, strict=True)],
        "expected a batch to give what its items give one by one",
    )
    alone = case.method(case.pair).attribute_probe(case.images, **case.options)
    _expect_close([alone], together[:1], "expected attribute_probe() to give attribute()'s map of image A")


def _convergence_delta(case: _Case) -> None:
    """What says that it has a convergence delta returns one, and nothing else does."""
    built, options = case.method(case.pair), {**case.options, "return_convergence_delta": True}
    known = "return_convergence_delta" in inspect.signature(built.attribute).parameters
    says = built.has_convergence_delta()
    _expect(says == known, f"has_convergence_delta() says {says}, attribute() takes the flag: {known}")
    if known:
        maps, delta = built.attribute(case.images, **options)
        _expect_close(maps, built.attribute(case.images, **case.options), "expected the same maps")
        _expect(delta.shape == (3, 2), f"expected a delta (3, 2), got {tuple(delta.shape)}")


def _broadcasting(case: _Case) -> None:
    """A side of batch 1 stands against all N of the other."""
    for single in (0, 1):
        inputs = tuple(image[:1] if side == single else image for side, image in enumerate(case.images))
        expanded = tuple(image.expand(3, -1, -1, -1) for image in inputs)
        _expect_close(
            case.attribute(case.pair, inputs),
            case.attribute(case.pair, expanded),
            f"expected a batch of 1 as image {'ab'[single]} to stand against 3",
        )


def _batch_limit(case: _Case) -> None:
    """No pass has more images than the caller allows."""
    if not case.batch_options:
        return
    seen: list[int] = []

    def noted(x: Tensor) -> Tensor:
        seen.append(len(x))
        return x

    options = {**case.options, **dict.fromkeys(case.batch_options, 2)}
    pair = PairSimilarity(_Before(noted), threshold=0.2)
    case.attribute(pair, case.one_against_many, **options)
    attribute_gallery(case.method(pair), *case.one_against_many, **options)
    most = max(seen, default=0)
    _expect(most <= 2, f"expected passes of at most 2 images, got {most}")


def _batch_sizes(case: _Case) -> None:
    """What is no batch size is refused, and "auto" gives the maps that any number gives."""
    for name in case.batch_options:
        for value in (0, -1, True, "all"):
            with _raises((TypeError, ValueError), name, f"expected an error for {name}={value!r}"):
                case.attribute(case.pair, case.images, **{name: value})
        got = case.attribute(case.pair, case.images, **{name: "auto"})
        want = case.attribute(case.pair, case.images)
        _expect_close(got, want, f'expected the same maps for {name}="auto"', 1e-4)


def _memory(case: _Case) -> None:
    """Where memory runs out half as many images go in one pass, of partners too; the maps are the same."""

    def at_most_three(x: Tensor) -> Tensor:
        if len(x) > 3:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: 3 is all there is")
        return x

    inputs = case.one_against_many
    got = case.attribute(PairSimilarity(_Before(at_most_three), threshold=0.2), inputs)
    want = case.attribute(PairSimilarity(small_net(), threshold=0.2), inputs)
    _expect_close(got, want, "expected the maps that more memory gives", 1e-4)


def _precision(case: _Case) -> None:
    """Every precision gives repeatable maps near those of float32 and leaves the process as it was."""
    exact = case.attribute(
        PairSimilarity(small_net().eval(), preprocess="arcface", threshold=0.2), case.images
    )
    for precision in ("tf32", "bfloat16"):
        pair = PairSimilarity(small_net().eval(), preprocess="arcface", threshold=0.2, precision=precision)
        before = model_state(pair), torch.get_rng_state(), torch.backends.cudnn.allow_tf32
        maps, again = (case.attribute(pair, case.images) for _ in range(2))
        _expect_same_state(before[0], model_state(pair), f"expected the model as it was after {precision}")
        _expect(torch.equal(before[1], torch.get_rng_state()), "expected torch's random state as it was")
        _expect(before[2] == torch.backends.cudnn.allow_tf32, "expected the switches for TF32 as they were")
        for got, same, want in zip(maps, again, exact, strict=True):
            _expect(got.dtype == torch.float32, f"expected float32 maps in {precision}, got {got.dtype}")
            _expect(torch.isfinite(got).all(), f"expected finite maps in {precision}")
            _expect(torch.equal(got, same), f"expected the same maps again in {precision}")
            if precision == "tf32":  # which only CUDA devices have
                _expect(torch.equal(got, want), "expected the maps of float32 on a CPU in tf32")
            else:
                pearson = float(torch.corrcoef(torch.stack([got.flatten(), want.flatten()]))[0, 1])
                _expect(pearson > 0.9, f"expected maps like those of float32, correlation {pearson:.2f}")
        items = [case.attribute(pair, tuple(image[[i]] for image in case.images)) for i in range(3)]
        scale = max(float(side.abs().max()) for side in maps)
        tolerance = 0.1 * scale if precision == "bfloat16" else 1e-5
        for got, parts in zip(maps, zip(*items, strict=True), strict=True):
            worst = float((got - torch.cat(parts)).abs().max())
            _expect(worst <= tolerance, f"expected a batch to give its items' maps, got {worst:.2g} apart")


def _sides(case: _Case) -> None:
    """Exchanged images give exchanged maps, also under a score of which A and B are not alike."""
    if case.method.null:
        return
    a, b = case.images
    for score, turned in (("cosine", "cosine"), (_Leaning(), _LeaningBack())):
        pair, other = (PairSimilarity(small_net().eval(), score=s, threshold=0.2) for s in (score, turned))
        want = case.attribute(pair, (a, b))[::-1]
        _expect_close(case.attribute(other, (b, a)), want, "expected exchanged maps from exchanged images")


def _repeatable(case: _Case) -> None:
    """Equal calls give equal maps, and another seed gives others; torch's random state is left alone."""
    maps = []
    for global_seed in (1, 2):
        with torch.random.fork_rng():
            torch.manual_seed(global_seed)
            state = torch.get_rng_state()
            maps.append(case.attribute(case.pair, case.images))
            _expect(torch.equal(torch.get_rng_state(), state), "expected torch's random state as it was")
    same = all(torch.equal(x, y) for x, y in zip(*maps, strict=True))
    _expect(same, "expected the same maps again; a method that draws takes seed= and generator=")
    options = case.method.options()
    _expect(("seed" in options) == ("generator" in options), "expected seed= and generator= together")
    if "seed" in options:
        other = case.attribute(case.pair, case.images, seed=case.options.get("seed", 0) + 1)
        differ = all(not torch.equal(x, y) for x, y in zip(maps[0], other, strict=True))
        _expect(differ, "expected other maps from another seed")


def _inference_mode(case: _Case) -> None:
    """Under torch.inference_mode() the maps are the same, and ordinary tensors."""
    pair, want = case.pair, case.attribute(case.pair, case.images)
    with torch.inference_mode():
        got = case.attribute(pair, case.images)
    _expect_close(got, want, "expected the same maps under inference_mode()")
    _expect(not any(side.is_inference() for side in got), "expected tensors that autograd can use")


def _model_as_it_was(case: _Case) -> None:
    """A model in training mode with gradients is explained as in eval mode, and comes back untouched."""
    net = small_net()
    net.fc.bias.requires_grad_(False)
    net.prelu.eval()
    net.conv1.register_forward_hook(lambda *_: None)
    pair = PairSimilarity(net, preprocess="arcface")
    before = model_state(pair)
    got = case.attribute(pair, case.images)
    _expect_same_state(before, model_state(pair), "expected the model as it was")
    want = case.attribute(PairSimilarity(small_net().eval(), preprocess="arcface"), case.images)
    _expect_close(got, want, "expected a model in training mode to be explained as in eval mode")
    bound = small_net()
    before = model_state(bound)
    case.attribute(PairSimilarity(bound.forward, preprocess="arcface"), case.images)
    _expect_same_state(before, model_state(bound), "expected the model behind a bound method as it was")


def _failing_forward(case: _Case) -> None:
    """A forward pass that fails midway leaves the model as it was."""

    passes = 0

    def fail(x: Tensor) -> Tensor:
        nonlocal passes
        passes += 1
        if passes >= call:  # from then on: an accelerated copy of the model may fail first
            raise RuntimeError("midway")
        return x

    for call in (1, 2, 3, 4):
        passes, pair = 0, PairSimilarity(_Before(fail))
        before, failed = model_state(pair), False
        try:
            case.attribute(pair, case.images)
        except RuntimeError as error:
            _expect("midway" in str(error), f"expected the model's own error, got {error!r}")
            failed = True
        _expect(failed == (passes >= call), f"expected the error of forward pass {call}, got attributions")
        _expect_same_state(
            before, model_state(pair), f"expected the model as it was after pass {call} failed"
        )


def _inputs_as_they_were(case: _Case) -> None:
    """The caller's images stay as they were, also where model and preprocessing work in place."""

    def change(x: Tensor) -> Tensor:
        return x.sub_(0.5).div_(0.5)

    leaves = tuple(image.requires_grad_() for image in case.images)
    case.attribute(case.pair, leaves)
    for image, original in zip(leaves, case.images, strict=True):
        _expect(torch.equal(image, original), "expected the images as they were")
        _expect(image.requires_grad and image.grad is None, "expected no gradients in the images")
    images = case.images
    expected = case.attribute(PairSimilarity(small_net(), preprocess="arcface"), images)
    for pair in (PairSimilarity(_Before(change)), PairSimilarity(small_net(), preprocess=change)):
        _expect_close(case.attribute(pair, images), expected, "expected what copies of the images give")
        same = all(torch.equal(image, original) for image, original in zip(images, case.images, strict=True))
        _expect(same, "expected the images as they were after work in place")


def _black_box(case: _Case) -> None:
    """A method that needs scores alone takes any callable; another refuses it."""
    pair = case.pair

    def black_box(a: Tensor, b: Tensor) -> Tensor:
        with torch.no_grad():
            return pair(a, b)

    if case.method.needs == "scores alone":
        attr, _ = case.attribute(black_box, case.images)
        _expect(attr.shape == case.images[0].shape, "expected a map from scores alone")
        return
    with _raises((TypeError,), "expected a PairSimilarity", "expected an error for a callable"):
        case.attribute(black_box, case.images)


def _bad_images(case: _Case) -> None:
    """Bad images are refused with a message that says what was expected."""
    a, b = case.images
    for what, bad in (
        ("batches of 2 and 3", (a[:2], b)),
        ("images of two sizes", (a, b[..., 1:])),
        ("values up to 255", (a * 255, b)),
        ("NaN", (a, b * float("nan"))),
        ("an image without a batch", (a[0], b)),
        ("one image", (a,)),
        ("a tensor", a),
        ("whole numbers", ((255 * a).byte(), b)),
    ):
        with _raises((ValueError, TypeError), "expected", f"expected an error for {what}"):
            case.attribute(case.pair, bad)


def _single_channel(case: _Case) -> None:
    """Images of one channel are explained too."""
    pair = PairSimilarity(small_net(channels=1).eval())
    a, b = (image[:, :1] for image in case.images)
    _expect(case.attribute(pair, (a, b))[0].shape == a.shape, "expected a map of one channel")


def _progress(case: _Case) -> None:
    """A progress bar is shown when it is asked for, and ends at 100 %."""
    for show in (False, True):
        with contextlib.redirect_stderr(io.StringIO()) as shown:
            case.attribute(case.pair, case.images, show_progress=show)
        text = shown.getvalue()
        _expect(("100%" in text) if show else not text, f"show_progress={show} printed {text[-60:]!r}")


def _no_warnings(case: _Case) -> None:
    """Good input gives no warning."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        case.attribute(case.pair, case.images)
    _expect(not caught, f"expected no warning, got {[str(w.message) for w in caught]}")


def _noise_tunnel(case: _Case) -> None:
    """Captum's NoiseTunnel works on it."""
    tunnel = NoiseTunnel(case.method(case.pair))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        attr = tunnel.attribute(case.images, nt_samples=2, stdevs=0.05, **case.options)
        torch.manual_seed(0)
        noisy = tunnel._add_noise_to_inputs(2, case.images, 0.05)
    expected = [want.reshape(3, 2, *want.shape[1:]).mean(1) for want in case.attribute(case.pair, noisy)]
    for got, want in zip(attr, expected, strict=True):
        same = torch.allclose(got, want, rtol=1e-4, atol=1e-6)
        _expect(same, "expected the mean over noisy images from NoiseTunnel")


def _captums_tools(case: _Case) -> None:
    """Captum's metrics and visualization take its attributions."""
    pair, images = case.pair, case.images
    attributions = case.attribute(pair, images)

    def perturb(inputs: tuple[Tensor, ...]) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        noise = tuple(0.03 * torch.randn_like(image) for image in inputs)
        return noise, tuple(image - n for image, n in zip(inputs, noise, strict=True))

    with torch.random.fork_rng():
        torch.manual_seed(0)
        values = infidelity(pair, perturb, images, attributions, n_perturb_samples=4)
        finite = values.shape == (3,) and bool(torch.isfinite(values).all())
        _expect(finite, "expected three finite values from infidelity")
        values = sensitivity_max(case.method(pair).attribute, images, n_perturb_samples=2, **case.options)
    _expect(values.shape == (3,), "expected three values from sensitivity_max")
    changes = bool(((values > 0) == (not case.method.null)).all())
    _expect(changes, "expected maps that change with the images, unless it is a null baseline")
    figure, _ = visualization.visualize_image_attr(
        attributions[0][0].permute(1, 2, 0).numpy(),
        images[0][0].permute(1, 2, 0).numpy(),
        method="blended_heat_map",
        sign="all",
        use_pyplot=False,
    )
    _expect(figure.axes, "expected a figure from Captum's visualization")
    similar, dissimilar = split_attribution(attributions[0])
    _expect_close([similar - dissimilar], [attributions[0].mean(1)], "expected maps that split by sign")


#: Every rule of the contract, by name.
CHECKS: dict[str, Callable[[Any], None]] = {
    check.__name__.removeprefix("_"): check
    for check in (
        _registered,
        _constructor,
        _shapes,
        _batches,
        _broadcasting,
        _convergence_delta,
        _batch_limit,
        _batch_sizes,
        _memory,
        _precision,
        _sides,
        _repeatable,
        _inference_mode,
        _model_as_it_was,
        _failing_forward,
        _inputs_as_they_were,
        _black_box,
        _bad_images,
        _single_channel,
        _progress,
        _no_warnings,
        _noise_tunnel,
        _captums_tools,
    )
}
