from __future__ import annotations

import pytest
import torch
from torch import nn

from captum_face import PairSimilarity
from captum_face.engines.channels import (
    gradient_channel_maps,
    gradient_channel_maps_chunked,
    heaviest_channels,
    weighted_channel_maps,
)
from captum_face.pair.scores import unit


def looped_maps(pair, image, *, gradient="absolute", embedding="normalized"):
    """One channel at a time, straight from the paper's definition."""
    maps = []
    leaf = image.clone().requires_grad_()
    embeddings = pair.embed(leaf)
    if embedding == "normalized":
        embeddings = embeddings / embeddings.norm()
    for value in embeddings[0]:
        (grad,) = torch.autograd.grad(value, leaf, retain_graph=True)
        grad = grad.abs() if gradient == "absolute" else grad
        channel_map = grad[0].sum(0) / grad.shape[1]
        maps.append(channel_map / channel_map.pow(2).sum().sqrt())
    return torch.stack(maps)


@pytest.mark.parametrize("gradient", ["absolute", "signed"])
@pytest.mark.parametrize("embedding", ["normalized", "raw"])
@pytest.mark.parametrize("size", [1, 3, 16])
def test_maps_equal_one_channel_at_a_time(pair, images, gradient, embedding, size):
    pair.double()
    image = images[0][:1].double()
    options = {"gradient": gradient, "embedding": embedding}
    maps = gradient_channel_maps(pair, image, internal_batch_size=size, **options)
    torch.testing.assert_close(maps, looped_maps(pair, image, **options), rtol=1e-10, atol=1e-12)


def test_closed_form_on_a_linear_embedding():
    torch.manual_seed(0)
    linear = nn.Linear(3 * 5 * 4, 6).double()
    pair = PairSimilarity(nn.Sequential(nn.Flatten(), linear))
    image = torch.rand(1, 3, 5, 4, dtype=torch.float64)
    weight = linear.weight.detach().reshape(6, 3, 5, 4)
    maps = gradient_channel_maps(pair, image, embedding="raw", gradient="signed")
    expected = weight.mean(1)
    torch.testing.assert_close(maps, expected / expected.flatten(1).norm(dim=1)[:, None, None])
    # The unit embedding f = e / |e|: df_k = (W_k - f_k sum_j f_j W_j) / |e|.
    f = unit(pair.embed(image)).detach()[0]
    projected = (weight - f[:, None, None, None] * torch.einsum("j,jchw->chw", f, weight)).abs().mean(1)
    maps = gradient_channel_maps(pair, image)
    torch.testing.assert_close(maps, projected / projected.flatten(1).norm(dim=1)[:, None, None])


def test_chunks_cover_the_channels_in_order_and_bound_the_batch(images):
    seen = []

    class Recording(nn.Module):
        def forward(self, x):
            seen.append(len(x))
            return x.flatten(1)[:, :11] ** 2

    pair = PairSimilarity(Recording())
    chunks = list(gradient_channel_maps_chunked(pair, images[0][:1], internal_batch_size=4))
    assert [c for c, _ in chunks] == [slice(0, 4), slice(4, 8), slice(8, 11)]
    assert max(seen) == 4
    maps = torch.cat([m for _, m in chunks])
    weights = torch.rand(2, 11)
    expected = (weights @ maps.flatten(1)).reshape(2, *maps.shape[1:])
    torch.testing.assert_close(weighted_channel_maps(iter(chunks), weights), expected)


def test_some_channels_alone(pair, images):
    image, channels = images[0][:1], torch.tensor([1, 2, 5])
    maps = gradient_channel_maps(pair, image, channels=channels, internal_batch_size=2)
    torch.testing.assert_close(maps, gradient_channel_maps(pair, image)[channels], rtol=1e-4, atol=1e-6)


def test_the_lightest_channels_are_left_out_first():
    weights = torch.tensor([[0.5, -0.05, 0.3, 0.15]])
    for tolerance, kept in (
        (0, [0, 1, 2, 3]), (0.04, [0, 1, 2, 3]), (0.05, [0, 2, 3]), (0.19, [0, 2, 3]), (0.2, [0, 2]),
        (0.6, [0]), (0.99, [0]),
    ):  # fmt: skip
        channels, bound = heaviest_channels(weights, tolerance)
        assert channels.tolist() == kept
        assert bound.item() == pytest.approx(1 - weights[:, channels].abs().sum().item(), abs=1e-6)


def test_every_partner_has_to_allow_that_a_channel_is_left_out():
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(4, 40, generator=generator, dtype=torch.float64) ** 3
    weights[0] *= 100  # shares count, not sizes
    for tolerance in (0.01, 0.1, 0.4):
        channels, bound = heaviest_channels(weights, tolerance)
        total, left_out = weights.abs().sum(1), weights.clone()
        left_out[:, channels] = 0
        torch.testing.assert_close(bound, left_out.abs().sum(1))
        assert (bound <= tolerance * total * 1.00001).all()
        # The next one in line would be too much for somebody.
        shares = (weights.abs() / total[:, None]).amax(0)
        following = channels[shares[channels].argmin()]
        assert (bound + weights[:, following].abs() > tolerance * total).any()


def test_channels_of_weight_zero_cost_nothing_and_one_channel_always_remains():
    channels, bound = heaviest_channels(torch.tensor([[0.0, 2.0, 0.0, -1.0]]), 0)
    assert channels.tolist() == [1, 3]
    assert bound.tolist() == [0]
    channels, bound = heaviest_channels(torch.zeros(2, 3), 0.5)
    assert len(channels) == 1
    assert bound.tolist() == [0, 0]


@pytest.mark.parametrize("flatten", ["view", "reshape"])
def test_networks_that_flatten_by_view(images, flatten):
    """On a CPU images go in with channels last, which ``view`` cannot flatten and ``reshape`` can."""
    torch.manual_seed(0)
    conv, layouts = nn.Conv2d(3, 4, 3), []

    def model(x):
        layouts.append(x.is_contiguous(memory_format=torch.channels_last))
        return getattr(conv(x), flatten)(len(x), -1)[:, ::50]

    pair = PairSimilarity(model)
    maps = gradient_channel_maps(pair, images[0][:1])
    assert layouts[-1] == (flatten == "reshape")
    torch.testing.assert_close(maps, looped_maps(pair, images[0][:1]), rtol=1e-4, atol=1e-6)


def test_a_channel_without_gradient_has_an_empty_map(images):
    pair = PairSimilarity(lambda x: torch.stack([x.sum((1, 2, 3)), x.sum((1, 2, 3)) * 0 + 1], 1))
    maps = gradient_channel_maps(pair, images[0][:1], embedding="raw")
    assert maps[1].eq(0).all()
    assert maps[0].norm().item() == pytest.approx(1)


@pytest.mark.parametrize(
    "model",
    [
        lambda x: x.detach().flatten(1),
        torch.no_grad()(lambda x: x.flatten(1)),
        lambda x: x.flatten(1).numpy(),  # as an onnxruntime session is called
        lambda x: torch.ones(len(x), 3, requires_grad=True),
    ],
    ids=["detach", "no_grad", "numpy", "unrelated"],
)
def test_models_without_gradients_are_told_of_corrrise(images, model):
    with pytest.raises(TypeError, match="can be differentiated.*CorrRISE"):
        gradient_channel_maps(PairSimilarity(model), images[0][:1])


def test_bad_options(pair, images):
    image = images[0][:1]
    with pytest.raises(ValueError, match="gradient option 'abs'"):
        gradient_channel_maps(pair, image, gradient="abs")
    with pytest.raises(ValueError, match="embedding option 'normalised'.*did you mean 'normalized'"):
        gradient_channel_maps(pair, image, embedding="normalised")
    with pytest.raises(ValueError, match="internal_batch_size.*got -1"):
        gradient_channel_maps(pair, image, internal_batch_size=-1)
    with pytest.raises(ValueError, match="internal_batch_size.*got 0"):
        gradient_channel_maps(pair, image, internal_batch_size=0)
    with pytest.raises(ValueError, match=r"one image \(1, C, H, W\)"):
        gradient_channel_maps(pair, images[0])


def test_infinite_gradients_are_an_error():
    pair = PairSimilarity(lambda x: x.flatten(1)[:, :3].sqrt())
    with pytest.raises(ValueError, match="finite gradients.*channels 0 to 2"):
        gradient_channel_maps(pair, torch.cat([torch.zeros(1, 3, 1, 2), torch.ones(1, 3, 1, 2)], 2))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_embeddings_of_another_dtype_than_the_images(net, images, dtype):
    from captum_face import FGGB

    attr, _ = FGGB(PairSimilarity(lambda x: net(x).to(dtype))).attribute(images)
    expected, _ = FGGB(PairSimilarity(net)).attribute(images)
    assert attr.dtype == images[0].dtype
    assert (attr - expected).norm() < 0.05 * expected.norm()


def test_a_compiled_model_is_differentiated_more_than_once(net, images):
    compiled = torch.compile(net, backend="aot_eager")
    maps = gradient_channel_maps(PairSimilarity(compiled), images[0][:1], internal_batch_size=2)
    expected = gradient_channel_maps(PairSimilarity(net), images[0][:1])
    torch.testing.assert_close(maps, expected, rtol=1e-4, atol=1e-6)
