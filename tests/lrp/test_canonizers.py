"""The graph that LRP works on is the model's own function, for all ways in which models are written."""

from __future__ import annotations

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from zennit.canonizers import SequentialMergeBatchNorm
from zennit.layer import Sum

from captum_face.lrp._checking import first_departure, first_difference
from captum_face.lrp._layers import BiasMapConv2d, ConstantOp, Rescale
from captum_face.lrp.canonizers import canonize
from captum_face.models import iresnet18, mobilefacenet
from captum_face.models.iresnet import Add
from captum_face.models.onnx import OnnxEmbedding
from captum_face.models.synthetic_net import synthetic
from tests.conftest import small_net


def with_statistics(model, seed=0):
    """BatchNorms that do something, negative scales included."""
    torch.manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
            if module.affine:
                nn.init.normal_(module.weight, 1)
                nn.init.normal_(module.bias)
    return model.eval()


def images(n=2, size=(12, 10)):
    return torch.rand(n, 3, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def of_kind(module, kind):
    return [name for name, layer in module.named_modules() if isinstance(layer, kind)]


def check(model, size=(12, 10), tolerance=1e-9):
    """Canonizes on one image, compares on others, returns the graph."""
    model = with_statistics(model.double())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    inputs = images(3, size)
    module = canonize(model, inputs[:1])
    with torch.no_grad():
        torch.testing.assert_close(module(inputs), model(inputs), rtol=tolerance, atol=tolerance)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert first_difference(module) is None
    return module


class Functional(nn.Module):
    """One network with its operations written in some way."""

    def __init__(self, forward, **layers):
        super().__init__()
        for name, layer in layers.items():
            setattr(self, name, layer)
        self.function = forward

    def forward(self, x):
        return self.function(self, x)


def head(channels=4):
    return nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * channels, 5))


def conv(inputs=3, outputs=4, **options):
    return nn.Conv2d(inputs, outputs, 3, padding=1, **options)


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_batchnorm_after_and_before(affine, bias):
    module = check(
        nn.Sequential(
            conv(bias=bias), nn.BatchNorm2d(4, affine=affine), nn.PReLU(4),
            Functional(lambda self, x: self.conv(self.norm(x)) + x, norm=nn.BatchNorm2d(4, affine=affine),
                       conv=conv(4, 4, groups=2, bias=bias)),
            nn.BatchNorm2d(4, affine=affine), nn.Dropout(), nn.Flatten(), nn.Linear(480, 5, bias=bias),
            nn.BatchNorm1d(5, affine=affine),
        )
    )  # fmt: skip
    assert not of_kind(module, nn.modules.batchnorm._BatchNorm)
    assert of_kind(module, BiasMapConv2d) == ["3.conv"]


@pytest.mark.parametrize(
    "options",
    [{}, {"padding": 1}, {"padding": "same"}, {"padding": 1, "padding_mode": "reflect"},
     {"padding": 2, "stride": 2}, {"padding": 1, "dilation": 2}, {"padding": (0, 1)}],
)  # fmt: skip
def test_a_batchnorm_before_every_kind_of_padding(options):
    module = check(
        nn.Sequential(nn.ReLU(), nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3, **options), nn.PReLU(4), head())
    )
    assert not of_kind(module, nn.BatchNorm2d)


def test_a_batchnorm_between_nonlinear_layers_stays():
    module = check(nn.Sequential(conv(), nn.ReLU(), nn.BatchNorm2d(4), nn.ReLU(), head()))
    assert of_kind(module, nn.BatchNorm2d) == ["2"]


def test_a_batchnorm_used_twice_goes_into_both_users_or_stays():
    def forward(self, x):
        x = self.norm(x.relu())
        return self.head(self.a(x) + self.b(x))

    layers = {"norm": nn.BatchNorm2d(3), "a": conv(), "head": head()}
    assert not of_kind(check(Functional(forward, b=conv(), **layers)), nn.BatchNorm2d)
    mixed = nn.Sequential(nn.ReLU(), conv())
    assert of_kind(check(Functional(forward, b=mixed, **layers)), nn.BatchNorm2d) == ["norm"]


def test_a_batchnorm_whose_channels_are_mixed_before_the_convolution_stays():
    def forward(self, x):
        return self.head(self.conv(self.norm(x.relu()).reshape(-1, 6, 6, 10)))

    module = check(Functional(forward, norm=nn.BatchNorm2d(3), conv=conv(6, 4), head=head()))
    assert of_kind(module, nn.BatchNorm2d) == ["norm"]


def test_a_convolution_used_by_others_keeps_its_weights():
    def forward(self, x):
        x = self.conv(x)
        return self.head(self.norm(x) + x)

    module = check(Functional(forward, conv=conv(), norm=nn.BatchNorm2d(4), head=head()))
    assert of_kind(module, nn.BatchNorm2d) == ["norm"]


@pytest.mark.parametrize(
    "add",
    [lambda a, b: a + b, torch.add, lambda a, b: a.add(b), lambda a, b: a.add_(b), Add(),
     lambda a, b: a.__iadd__(b)],
)  # fmt: skip
def test_residual_sums_become_layers(add):
    net = Functional(lambda self, x: self.add(self.conv(x), x), conv=conv(3, 3), add=add)
    module = check(nn.Sequential(net, head(3)))
    assert len(of_kind(module, Sum)) == 1


def test_a_layer_called_twice_becomes_two():
    def forward(self, x):
        return self.head(self.act(self.conv(self.act(self.conv(x)))))

    module = check(Functional(forward, conv=conv(3, 3), act=nn.ReLU(inplace=True), head=head(3)))
    assert of_kind(module, nn.Conv2d) == ["conv", "conv_1"]
    assert of_kind(module, nn.ReLU) == ["act", "act_1"]


def test_a_sum_with_a_parameter_is_no_residual():
    net = Functional(
        lambda self, x: self.conv(x) + self.place, conv=conv(), place=nn.Parameter(torch.rand(1, 4, 12, 10))
    )
    module = check(nn.Sequential(net, head()))
    assert not of_kind(module, Sum)
    assert len(of_kind(module, ConstantOp)) == 1


def test_all_names_of_a_tensor_see_what_is_done_to_it_in_place():
    def activated(self, x):
        x = self.conv(x)
        return self.head(self.inner(self.act(x)) + x)  # x went through the activation

    check(Functional(activated, conv=conv(), inner=conv(4, 4), act=nn.ReLU(inplace=True), head=head()))

    def added(self, x):
        x = other = self.conv(x)
        other += self.inner(x).relu_()
        other *= 2
        other -= 1
        other /= 3
        return self.head(x)

    module = check(Functional(added, conv=conv(), inner=conv(4, 4), head=head()))
    assert len(of_kind(module, Sum)) == 1
    assert len(of_kind(module, ConstantOp)) == 3


@pytest.mark.parametrize("wrap", [nn.DataParallel, partial(torch.compile, backend="eager")])
def test_wrapped_models_are_seen_through(wrap):
    module = check(nn.Sequential(wrap(nn.Sequential(conv(), nn.BatchNorm2d(4), nn.ReLU())), head()))
    assert of_kind(module, nn.Conv2d)
    assert not of_kind(module, nn.BatchNorm2d)


def test_torchscript_cannot_be_traced():
    model = torch.jit.script(nn.Sequential(conv(), head()).double().eval())
    with pytest.raises(RuntimeError, match=r"cannot be traced.*TorchScript hides its layers.*torch.jit out"):
        canonize(nn.Sequential(model), images(1))


@pytest.mark.parametrize("pad", [nn.ReflectionPad2d, nn.ReplicationPad2d, nn.ZeroPad2d])
def test_padding_layers(pad):
    check(nn.Sequential(pad(1), nn.Conv2d(3, 4, 3), nn.ReLU(), head()))


@pytest.mark.parametrize(
    "mean",
    [lambda x: x.mean((2, 3)), lambda x: x.mean([-1, -2], keepdim=True).flatten(1),
     lambda x: x.mean(3).mean(2), lambda x: x.mean(2, keepdim=True).mean(-1).flatten(1),
     lambda x: x.flatten(2).mean(-1)],
)  # fmt: skip
def test_means_over_places_become_layers(mean):
    net = Functional(lambda self, x: mean(self.conv(x)), conv=conv())
    module = check(nn.Sequential(net, nn.Linear(4, 5)))
    assert of_kind(module, (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d))
    with pytest.raises(ValueError, match="no rule for mean"):
        canonize(Functional(lambda self, x: x.mean(1), conv=conv()).double().eval(), images(1))


def test_a_reshape_that_stays_does_not_mind_the_memory_layout():
    """Two images inside for each one outside: no layer for it, so that the operation stays."""

    def both(self, x):
        x = self.conv(torch.cat([x, x.flip(3)]))
        a, b = self.head(x.view(-1, 480)).chunk(2)
        return a + b

    model = Functional(both, conv=conv(), head=nn.Linear(480, 5)).double().eval()
    with pytest.raises(ValueError, match="no rule for view"):
        canonize(model, images(1))
    module = canonize(model, images(1), unknown_layers="gradient").to(memory_format=torch.channels_last)
    torch.testing.assert_close(module(images(1).to(memory_format=torch.channels_last)), model(images(1)))


def test_functions_called_by_keyword():
    def forward(self, x):
        return self.head(nn.functional.relu(input=F.conv2d(input=x, weight=self.kernel, padding=1)))

    module = check(Functional(forward, kernel=nn.Parameter(torch.randn(4, 3, 3, 3)), head=head()))
    assert len(of_kind(module, nn.Conv2d)) == len(of_kind(module, nn.ReLU)) == 1


def test_functions_become_layers():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.kernel = nn.Parameter(torch.randn(4, 3, 3, 3))
            self.slope = nn.Parameter(torch.full((4,), 0.3))
            self.matrix = nn.Parameter(torch.randn(5, 4))
            self.register_buffer("mean", torch.randn(3, 1, 1))
            self.norm = nn.BatchNorm2d(4)

        def forward(self, x):
            if x.ndim != 4 or x.shape[1:] != (3, 12, 10) or len(x) < 1:
                raise ValueError("shape")
            x = (x - self.mean) * 2
            x = F.conv2d(x, self.kernel, padding=1)
            x = F.batch_norm(
                x, self.norm.running_mean, self.norm.running_var, self.norm.weight, self.norm.bias
            )
            x = F.dropout(F.prelu(x, self.slope), 0.5, self.training).clamp(max=6)
            x = F.avg_pool2d(F.max_pool2d(x, 2), 2).mean((2, 3))
            return F.linear(x.view(x.size(0), -1), self.matrix)

    module = check(Net())
    assert len(of_kind(module, ConstantOp)) == 2
    assert len(of_kind(module, (nn.Conv2d, nn.Linear))) == 2
    assert not of_kind(module, nn.BatchNorm2d)


@pytest.mark.parametrize(
    "scale",
    [lambda x: F.normalize(x), lambda x: x / x.norm(dim=1, keepdim=True),
     lambda x: torch.div(x, torch.norm(x, 2, 1, True)),
     lambda x: x / x.pow(2).sum(1, keepdim=True).sqrt().clamp(min=1e-9),
     lambda x: F.normalize(x[..., None, None]).flatten(1)],
)  # fmt: skip
def test_an_embedding_that_is_normalised_inside(scale):
    module = check(nn.Sequential(conv(), head(), Functional(lambda self, x: scale(x))))
    assert len(of_kind(module, Rescale)) == 1


def test_layers_keep_their_paths_and_the_order_of_execution():
    module = check(mobilefacenet(), size=(112, 112))
    names = of_kind(module, nn.Conv2d)
    assert names[:3] == ["conv1.0", "dw_conv.depthwise", "dw_conv.pointwise"]
    assert names[-1] == "conv3"  # executed last, registered before "features"
    assert len(of_kind(module, Sum)) == 12


@pytest.mark.parametrize(
    "build", [iresnet18, lambda: mobilefacenet(activation="prelu"), lambda: synthetic(False)]
)
def test_the_networks_of_the_package(build):
    module = check(build(), size=(112, 112), tolerance=1e-7)
    assert not of_kind(module, nn.modules.batchnorm._BatchNorm)
    assert of_kind(module, Sum)


def test_the_small_network_of_the_tests():
    check(small_net())


def test_a_converted_graph_of_fixed_batch_takes_any():
    class Converted(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.linear = conv(), nn.Linear(480, 5)

        def forward(self, x):
            return self.linear(self.conv(x).reshape(1, 480))

    embedding = OnnxEmbedding(Converted(), fixed_batch=True, input_size=(12, 10))
    check(nn.Sequential(embedding))


def test_hooks_and_modes_of_the_original_stay_and_are_not_copied():
    model = with_statistics(nn.Sequential(conv(), nn.ReLU(inplace=True), head()).double())
    seen = []
    model[0].register_forward_hook(lambda *_: seen.append(1))
    module = canonize(model, images(1))
    seen.clear()
    module(images(1))
    assert not seen
    assert model[1].inplace
    assert not next(iter(m for m in module.modules() if isinstance(m, nn.ReLU))).inplace
    assert model[0].weight.requires_grad


@pytest.mark.parametrize(
    ("layer", "name"), [(nn.LayerNorm(5), "LayerNorm"), (nn.Softmax(1), "Softmax"), (nn.GLU(), "GLU")]
)
def test_an_unknown_layer_is_named(layer, name):
    model = (
        nn.Sequential(
            nn.Sequential(*head(3)[:2], nn.Linear(12, 6 if name == "GLU" else 5)), nn.Sequential(layer)
        )
        .double()
        .eval()
    )
    with pytest.raises(ValueError, match=rf"no rule for {name} at '1.0'.*unknown_layers='gradient'"):
        canonize(model, images(1))
    module = canonize(model, images(1), unknown_layers="gradient")
    torch.testing.assert_close(module(images()), model(images()))


@pytest.mark.parametrize(
    ("function", "name"),
    [(lambda self, x: self.a(x) * self.b(x), "mul"), (lambda self, x: self.a(x).exp(), "exp"),
     (lambda self, x: self.a(x) - self.b(x), "sub"), (lambda self, x: (lambda y: y * y)(self.a(x)), "mul"),
     (lambda self, x: torch.add(self.a(x), 2, alpha=3), "add"),
     (lambda self, x: self.a(x).clamp(0, 0) + self.b(x), "clamp"),
     (lambda self, x: torch.add(self.a(x), self.b(x), alpha=2), "add")],
)  # fmt: skip
def test_an_unknown_function_is_named(function, name):
    model = nn.Sequential(Functional(function, a=head(3), b=head(3))).double().eval()
    with pytest.raises(ValueError, match=rf"no rule for {name} at '0.{name}'"):
        canonize(model, images(1))
    module = canonize(model, images(1), unknown_layers="gradient")
    torch.testing.assert_close(module(images()), model(images()))


def test_parts_of_an_unknown_layer_are_out_of_sight_of_composites():
    layer = nn.TransformerEncoderLayer(10, 2, 7, batch_first=True)

    def forward(self, x):
        x = self.conv(x).flatten(2).transpose(1, 2)
        return self.fc(self.attention(x, x, value=x, need_weights=False)[0].mean(1) + self.layer(x)[:, 0])

    attention = nn.MultiheadAttention(10, 2, batch_first=True)
    model = Functional(forward, conv=conv(3, 10), layer=layer, attention=attention, fc=nn.Linear(10, 5))
    module = canonize(model.double().eval(), images(1), unknown_layers="gradient")
    torch.testing.assert_close(module(images()), model(images()))
    assert of_kind(module, nn.Linear) == ["fc"]
    assert not of_kind(module, nn.MultiheadAttention)


@pytest.mark.parametrize("join", [torch.cat, lambda both, dim: torch.stack(both, dim).flatten(1, 2)])
def test_constants_of_the_examples_batch_fit_any(join):
    """A class token, or zeros for channels that a shortcut lacks."""

    def forward(self, x):
        zeros = torch.zeros(len(x), *x.shape[1:], dtype=x.dtype)
        return self.head(join([self.place.expand(len(x), -1, -1, -1), self.conv(x), zeros], dim=1))

    place = nn.Parameter(torch.rand(1, 3, 12, 10))
    check(Functional(forward, conv=conv(3, 3), head=head(9), place=place))


@pytest.mark.parametrize("maximum", [torch.max, torch.maximum])
def test_the_larger_of_two_maps_is_a_routing(maximum):
    check(
        Functional(
            lambda self, x: self.head(maximum(*self.conv(x).chunk(2, 1))), conv=conv(3, 8), head=head()
        )
    )
    with pytest.raises(ValueError, match="no rule for max"):
        canonize(Functional(lambda self, x: self.head(x).max(1)[0], head=head(3)).double().eval(), images(1))


def test_batchnorms_of_distributed_training():
    module = check(
        nn.Sequential(conv(), nn.SyncBatchNorm(4), nn.ReLU(), nn.SyncBatchNorm(4), conv(4, 4), head())
    )
    assert not of_kind(module, nn.modules.batchnorm._BatchNorm)


def test_a_batchnorm_of_the_batch_at_hand_has_no_rule():
    model = nn.Sequential(conv(), nn.BatchNorm2d(4, track_running_stats=False), head()).double().eval()
    with pytest.raises(ValueError, match="no rule for BatchNorm2d at '1'"):
        canonize(model, images(1))


def test_models_that_cannot_be_traced():
    def forward(self, x):
        return torch.from_numpy(self.head(x).numpy())

    with pytest.raises(RuntimeError, match=r"cannot be traced.*canonizers=None"):
        canonize(Functional(forward, head=head(3)).double().eval(), images(1))


def test_an_unknown_way_to_treat_unknown_layers():
    with pytest.raises(ValueError, match="did you mean 'raise'"):
        canonize(head(3).double(), images(1), unknown_layers="raises")


def test_where_a_changed_graph_departs_is_named():
    module = check(nn.Sequential(conv(), nn.ReLU(), conv(4, 4), nn.ReLU(), head()))
    with torch.no_grad():
        module.get_submodule("2").weight += 1
    assert first_difference(module) == "2"


def test_where_a_zennit_canonizer_departs_is_named():
    """Registered as convolution, convolution, norm, norm; executed as convolution, norm, twice."""

    class Crossed(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = conv(3, 3), conv(3, 3)
            self.norm_a, self.norm_b = nn.BatchNorm2d(3), nn.BatchNorm2d(3)

        def forward(self, x):
            return self.norm_b(self.b(self.norm_a(self.a(x))))

    model = with_statistics(nn.Sequential(Crossed(), head(3)).double())
    before = [value.clone() for value in model.state_dict().values()]
    assert first_departure(model, images(1), [SequentialMergeBatchNorm()]) == "0.norm_a"
    for value, copy in zip(model.state_dict().values(), before, strict=True):
        torch.testing.assert_close(value, copy, rtol=0, atol=0)
    straight = with_statistics(nn.Sequential(conv(), nn.BatchNorm2d(4), nn.ReLU(), head()).double())
    assert first_departure(straight, images(1), [SequentialMergeBatchNorm()]) is None
