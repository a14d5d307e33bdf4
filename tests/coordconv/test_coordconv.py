"""CoordConv: the layers are what the paper says, and an inflated network is the network it was."""

from __future__ import annotations

import copy
import functools
import inspect
import io
import math
import pickle
import shutil
import warnings

import numpy as np
import pytest
import timm
import timm.layers
import torch
import torch.nn.functional as F
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.func import functional_call, grad, stack_module_state, vmap

import probe
from probe.backbones.initialisation import expose_borders
from probe.backbones.probed import hooked
from probe.coordconv import (
    AddCoords,
    CoordConv2d,
    CoordConvTranspose2d,
    coordinates,
    deflate,
    inflate,
)

FORMATS = (torch.contiguous_format, torch.channels_last)
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Small maps are faster without the others."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def same_numbers():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


# ------------------------------------------------------------ coordinates


def test_coordinates_are_rows_then_columns_then_the_radius():
    i, j, r = coordinates(3, 5, True)
    assert i.tolist() == [[-1.0] * 5, [0.0] * 5, [1.0] * 5]
    assert j.tolist() == [[-1.0, -0.5, 0.0, 0.5, 1.0]] * 3
    assert r.tolist() == [
        pytest.approx([math.sqrt(2), math.sqrt(1.25), 1.0, math.sqrt(1.25), math.sqrt(2)]),
        pytest.approx([1.0, 0.5, 0.0, 0.5, 1.0]),
        pytest.approx([math.sqrt(2), math.sqrt(1.25), 1.0, math.sqrt(1.25), math.sqrt(2)]),
    ]
    assert torch.equal(coordinates(3, 5), torch.stack([i, j]))


@given(
    size=st.tuples(st.integers(1, 300), st.integers(1, 300)),
    dtype=st.sampled_from(FLOATS),
    radius=st.booleans(),
)
def test_coordinates_of_any_size_and_precision(size, dtype, radius):
    places = coordinates(*size, radius, dtype=dtype)
    assert places.shape == (3 if radius else 2, *size)
    assert places.dtype == dtype
    axes = [(2 * np.arange(n) - (n - 1)) / max(n - 1, 1) for n in size]
    wanted = [*np.meshgrid(*axes, indexing="ij"), np.hypot(axes[0][:, None], axes[1])]
    for seen, exact in zip(places, wanted, strict=False):
        # Rounded once from float32: two roundings, of half a unit in the last place each.
        assert np.abs(seen.double().numpy() - exact).max() <= 2 * torch.finfo(dtype).eps
    i, j = places[0, :, 0], places[1, 0]
    for axis, n in zip((i, j), size, strict=True):
        assert torch.equal(axis, -axis.flip(0))
        assert (axis[0], axis[-1]) == ((-1, 1) if n > 1 else (0, 0))


def test_coordinates_have_no_integer_form():
    with pytest.raises(probe.ProbeError, match=r"floating-point dtype, got torch\.uint8"):
        AddCoords()(torch.zeros(1, 3, 4, 4, dtype=torch.uint8))


def test_coordinates_are_made_where_they_are_asked_for():
    assert coordinates(2, 3, device="meta").device.type == "meta"
    assert AddCoords()(torch.empty(1, 3, 4, 5, device="meta")).shape == (1, 5, 4, 5)


# ------------------------------------------------------------ AddCoords


@pytest.mark.parametrize("radius", [False, True])
@pytest.mark.parametrize("lead", [(), (1,), (3,), (0,)])
@pytest.mark.parametrize("size", [(4, 6), (1, 6), (4, 1), (1, 1)])
def test_coordinates_come_after_the_channels_of_the_map(radius, lead, size):
    x = torch.rand(*lead, 5, *size)
    out = AddCoords(radius)(x)
    assert out.shape == (*lead, 8 if radius else 7, *size)
    assert torch.equal(out[..., :5, :, :], x)
    assert torch.equal(out[..., 5:, :, :], coordinates(*size, radius).expand(*lead, -1, -1, -1))


@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize("dtype", FLOATS)
def test_added_coordinates_keep_dtype_and_memory_format(layout, dtype):
    x = torch.rand(2, 5, 4, 6).to(dtype).contiguous(memory_format=layout)
    out = AddCoords()(x)
    assert out.dtype == dtype
    assert out.is_contiguous(memory_format=layout)


# ------------------------------------------------------------ CoordConv


def _fits(border, size):
    return all(cells < n for cells, n in zip(border, size, strict=True))


def draw_conv(data, transposed=False):
    """Draw a CoordConv layer in float64, the plain one over all channels, and an input."""

    def integers(low, high):
        return data.draw(st.tuples(st.integers(low, high), st.integers(low, high)))

    kernel, stride, dilation, pads = integers(1, 4), integers(1, 3), integers(1, 2), integers(0, 3)
    size, radius, bias = integers(1, 9), data.draw(st.booleans()), data.draw(st.booleans())
    options = {"stride": stride, "dilation": dilation, "padding": pads, "bias": bias}
    if transposed:
        options["output_padding"] = tuple(
            data.draw(st.integers(0, max(s, d) - 1)) for s, d in zip(stride, dilation, strict=True)
        )
        layer, plain = CoordConvTranspose2d, nn.ConvTranspose2d
        spans = [
            (n - 1) * s - 2 * p + d * (k - 1) + 1 + o
            for n, s, p, d, k, o in zip(
                size, stride, pads, dilation, kernel, options["output_padding"], strict=True
            )
        ]
    else:
        mode = data.draw(st.sampled_from(["zeros", "reflect", "replicate", "circular"]))
        options["padding_mode"] = mode
        # torch writes no border that is wider than the map; with zeros there is none.
        assume(mode in ("zeros", "replicate") or _fits(pads, size))
        layer, plain = CoordConv2d, nn.Conv2d
        spans = [
            n + 2 * p - d * (k - 1) for n, p, d, k in zip(size, pads, dilation, kernel, strict=True)
        ]
        if stride == (1, 1) and data.draw(st.booleans()):
            options["padding"] = data.draw(st.sampled_from(["same", "valid"]))
            reach = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
            if options["padding"] == "same":
                assume(mode in ("zeros", "replicate") or _fits(reach, size))
                spans = [1, 1]
            else:
                spans = [n - r for n, r in zip(size, reach, strict=True)]
    assume(min(spans) > 0)
    made = layer(3, 4, kernel, radius=radius, **options).double()
    joint = plain(6 if radius else 5, 4, kernel, **options).double()
    along = 0 if transposed else 1
    joint.load_state_dict(
        {"weight": torch.cat([made.weight, made.coord_weight], along)}
        | ({"bias": made.bias} if bias else {})
    )
    x = torch.randn(data.draw(st.integers(0, 3)), 3, *size, dtype=torch.float64)
    return made, nn.Sequential(AddCoords(radius), joint), x


@given(data=st.data())
def test_it_is_a_convolution_over_the_map_and_its_coordinates(data):
    layer, joint, x = draw_conv(data)
    torch.testing.assert_close(layer(x), joint(x), rtol=1e-12, atol=1e-12)
    if len(x):
        torch.testing.assert_close(layer(x[0]), joint(x)[0], rtol=1e-12, atol=1e-12)


@given(data=st.data())
def test_it_is_a_transposed_convolution_over_the_map_and_its_coordinates(data):
    layer, joint, x = draw_conv(data, transposed=True)
    torch.testing.assert_close(layer(x), joint(x), rtol=1e-12, atol=1e-12)
    if len(x):
        torch.testing.assert_close(layer(x[0]), joint(x)[0], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("rule", ["circular", "reflect", "replicate", "mean", "partial", "valid"])
def test_border_rules_treat_coordinates_as_channels_of_the_map(rule):
    layer, joint = CoordConv2d(3, 4, 5, stride=2, padding=2), nn.Conv2d(5, 4, 5, 2, 2)
    joint.load_state_dict(
        {"weight": torch.cat([layer.weight, layer.coord_weight], 1), "bias": layer.bias}
    )
    x = torch.randn(2, 3, 8, 12)
    with torch.no_grad(), probe.padding(rule):
        torch.testing.assert_close(layer(x), joint(AddCoords()(x)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [(11, 15), (12, 16), (2, 4, 11, 16)])
def test_a_transposed_convolution_takes_the_size_of_its_output(size):
    layer = CoordConvTranspose2d(3, 4, 3, stride=2, padding=1)
    joint = nn.ConvTranspose2d(5, 4, 3, stride=2, padding=1)
    joint.load_state_dict(
        {"weight": torch.cat([layer.weight, layer.coord_weight]), "bias": layer.bias}
    )
    x = torch.randn(2, 3, 6, 8)
    out = layer(x, output_size=size)
    assert out.shape[-2:] == size[-2:]
    torch.testing.assert_close(out, joint(AddCoords()(x), output_size=size))
    with pytest.raises(ValueError, match="requested an output size"):
        layer(x, output_size=(20, 20))


def test_coordinates_reach_every_group():
    layer = CoordConv2d(4, 6, 3, padding=1, groups=2)
    assert layer.weight.shape == (6, 2, 3, 3)
    assert layer.coord_weight.shape == (6, 2, 3, 3)
    x = torch.randn(2, 4, 5, 7)
    plain = F.conv2d(x, layer.weight, layer.bias, padding=1, groups=2)
    term = F.conv2d(coordinates(5, 7)[None], layer.coord_weight, padding=1)
    torch.testing.assert_close(layer(x), plain + term)
    layer = CoordConvTranspose2d(4, 6, 3, groups=2, radius=True)
    assert layer.coord_weight.shape == (3, 6, 3, 3)
    plain = F.conv_transpose2d(x, layer.weight, layer.bias, groups=2)
    term = F.conv_transpose2d(coordinates(5, 7, True)[None], layer.coord_weight)
    torch.testing.assert_close(layer(x), plain + term)


@pytest.mark.parametrize(
    ("layer", "plain"), [(CoordConv2d, nn.Conv2d), (CoordConvTranspose2d, nn.ConvTranspose2d)]
)
def test_checkpoints_of_the_plain_layer_load(layer, plain):
    made, old = layer(3, 4, 3, padding=1), plain(3, 4, 3, padding=1)
    assert isinstance(made, plain)
    assert list(made.state_dict()) == ["weight", "bias", "coord_weight"]
    report = made.load_state_dict(old.state_dict(), strict=False)
    assert (report.missing_keys, report.unexpected_keys) == (["coord_weight"], [])
    nn.init.zeros_(made.coord_weight)
    x = torch.randn(2, 3, 6, 5)
    assert torch.equal(made(input=x), old(input=x))


def test_weights_are_drawn_with_the_fan_in_of_all_channels():
    def drawn(seed, **options):
        torch.manual_seed(seed)
        return CoordConv2d(30, 64, 3, **options)

    layer = drawn(0)
    bound = 1 / math.sqrt((30 + 2) * 9)
    for parameter in layer.parameters():
        assert parameter.abs().max() <= bound
        assert parameter.abs().max() > 0.9 * bound
        assert float(parameter.detach().std()) == pytest.approx(bound / math.sqrt(3), rel=0.15)
    assert drawn(0, groups=2, radius=True).weight.abs().max() <= 1 / math.sqrt((15 + 3) * 9)
    same, other = drawn(0), drawn(1)
    assert torch.equal(layer.coord_weight, same.coord_weight)
    assert not torch.equal(layer.coord_weight, other.coord_weight)
    up = CoordConvTranspose2d(30, 64, 3, radius=True)
    fan = nn.init._calculate_fan_in_and_fan_out(nn.ConvTranspose2d(33, 64, 3).weight)[0]
    for parameter in up.parameters():
        assert 0.9 / math.sqrt(fan) < parameter.abs().max() <= 1 / math.sqrt(fan)
    assert CoordConv2d(3, 4, 1, bias=False).bias is None


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize("size", [(5, 7), (1, 7), (1, 1)])
@pytest.mark.parametrize("batch", [1, 2])
def test_results_have_the_form_of_the_plain_layers(dtype, layout, size, batch):
    x = torch.randn(batch, 3, *size).to(dtype).contiguous(memory_format=layout)
    layer = CoordConv2d(3, 4, 3, padding=1, dtype=dtype).to(memory_format=layout)
    plain = nn.Conv2d(3, 4, 3, padding=1, dtype=dtype).to(memory_format=layout)
    out, wanted = layer(x), plain(x)
    assert (out.dtype, out.shape) == (wanted.dtype, wanted.shape)
    assert out.stride() == wanted.stride()


@pytest.mark.parametrize("layer", [CoordConv2d, CoordConvTranspose2d])
def test_autocast_treats_it_as_a_convolution(layer):
    layer, x = layer(3, 4, 3), torch.randn(2, 3, 6, 7)
    with torch.autocast("cpu", torch.bfloat16):
        out = layer(x)
    assert out.dtype == torch.bfloat16
    lower = copy.deepcopy(layer).bfloat16()
    torch.testing.assert_close(out, lower(x.bfloat16()), rtol=0, atol=0.02)
    out.float().square().sum().backward()
    assert layer.coord_weight.grad.dtype == torch.float32
    assert layer.coord_weight.grad.any()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_coordinates_follow_the_map_to_the_gpu():
    layer, x = CoordConv2d(3, 4, 3, radius=True).double(), torch.randn(2, 3, 6, 7).double()
    torch.testing.assert_close(layer.cuda()(x.cuda()).cpu(), layer.cpu()(x))


@pytest.mark.parametrize("kind", [CoordConv2d, CoordConvTranspose2d])
def test_it_takes_what_the_plain_layer_takes(kind):
    names = [list(inspect.signature(k).parameters) for k in (kind, kind.__mro__[2])]
    assert names[0] == [*names[1], "radius"]
    layer = torch.nn.utils.skip_init(kind, 3, 8, 3, dtype=torch.float64)
    assert layer.coord_weight.dtype == torch.float64 and not layer.weight.is_meta


def test_its_name_tells_the_radius():
    assert "radius=True" in repr(CoordConv2d(3, 4, 3, radius=True))
    assert repr(AddCoords()) == "AddCoords(radius=False)"


# ------------------------------------------------------------ compilers, exporters, transforms


class Chain(nn.Module):
    """Every layer once."""

    def __init__(self):
        super().__init__()
        self.coords = AddCoords(radius=True)
        self.conv = CoordConv2d(6, 4, 3, padding=1, radius=True, padding_mode="reflect")
        self.up = CoordConvTranspose2d(4, 3, 4, stride=2)
        self.same = CoordConv2d(3, 3, 3, padding="same")

    def forward(self, x):
        return self.same(self.up(self.conv(self.coords(x))))


SIZES = [(2, 3, 10, 14), (3, 3, 17, 9)]


@pytest.fixture
def chain():
    return Chain().eval()


def check(run, chain):
    for shape in SIZES:
        x = torch.rand(shape)
        with torch.no_grad():
            torch.testing.assert_close(torch.as_tensor(run(x)), chain(x))


def test_it_compiles_as_one_graph(chain):
    torch.compiler.reset()
    check(torch.compile(chain, backend="eager", fullgraph=True), chain)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch's inductor needs a compiler")
@pytest.mark.parametrize("kind", [CoordConv2d, CoordConvTranspose2d])
def test_it_trains_compiled_with_sizes_left_open(kind):
    torch.compiler.reset()
    layer = kind(3, 2, 3)
    compiled = torch.compile(layer, dynamic=True)
    for shape in SIZES:
        x, slopes = torch.rand(shape), []
        for run in (compiled, layer):
            layer.zero_grad()
            run(x).square().sum().backward()
            slopes.append({name: p.grad.clone() for name, p in layer.named_parameters()})
        torch.testing.assert_close(*slopes, rtol=1e-4, atol=1e-4)


def test_it_exports_with_sizes_left_open(chain):
    x = torch.rand(SIZES[0])
    open_sizes = {"x": dict.fromkeys((0, 2, 3), torch.export.Dim.DYNAMIC)}
    check(torch.export.export(chain, (x,), dynamic_shapes=open_sizes).module(), chain)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_it_becomes_onnx_with_sizes_left_open(chain, tmp_path):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    path = tmp_path / "chain.onnx"
    open_sizes = {"x": dict.fromkeys((0, 2, 3), torch.export.Dim.DYNAMIC)}
    x = torch.rand(SIZES[0])
    torch.onnx.export(
        chain, (x,), path, input_names=["x"], dynamo=True, dynamic_shapes=open_sizes, verbose=False
    )
    session = runtime.InferenceSession(path)
    check(lambda x: session.run(None, {"x": x.numpy()})[0], chain)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_it_traces(chain):
    check(torch.jit.trace(chain, torch.rand(SIZES[0])), chain)


def test_convolutions_trace_symbolically():
    layer = nn.Sequential(AddCoords(), CoordConv2d(5, 4, 3), CoordConvTranspose2d(4, 4, 3))
    check(torch.fx.symbolic_trace(layer), layer)


def test_functional_transforms_see_through_it(chain):
    chain, x = chain.double(), torch.rand(5, 3, 10, 14).double()
    torch.testing.assert_close(vmap(chain)(x), chain(x))
    others = [Chain().double() for _ in range(3)]
    parameters, _ = stack_module_state(others)
    out = vmap(lambda p: functional_call(chain, p, (x,)))(parameters)
    torch.testing.assert_close(out, torch.stack([other(x) for other in others]))

    def loss(parameters, x):
        return functional_call(chain, parameters, (x,)).square().sum()

    each = vmap(grad(loss), (None, 0))(dict(chain.named_parameters()), x)["conv.coord_weight"]
    loss(dict(chain.named_parameters()), x).backward()
    torch.testing.assert_close(each.sum(0), chain.conv.coord_weight.grad)


# ------------------------------------------------------------ inflating real networks

NETWORKS = {
    "resnet18": {},
    "tf_efficientnet_lite0": {},
    "convnext_atto": {},
    "vgg11": {"mlp_ratio": 0.02},
    "regnetx_002": {},
    "mobilenetv3_small_100": {},
    "resnetv2_50x1_bit": {},
    "vit_tiny_r_s16_p8_224": {"img_size": 64},
    "nf_regnet_b0": {},
    "tf_mixnet_s": {},
    "vit_tiny_patch16_224": {"img_size": 64},
    "resnet26t": {},
    "resnet10t": {"in_chans": 1},
}
"""Architectures, and what they are built with."""

TIMM = (
    timm.layers.Conv2dSame,
    timm.layers.StdConv2d,
    timm.layers.StdConv2dSame,
    timm.layers.ScaledStdConv2d,
    timm.layers.ScaledStdConv2dSame,
)
"""timm's own classes of convolutions."""


@functools.cache
def network(name: str) -> nn.Module:
    """Build a network in eval mode, to be left as it is."""
    if name == "tf_efficientnet_lite0":
        return probe.load_backbone(name, "pretrained", device="cpu").model
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = timm.create_model(name, **NETWORKS[name]).eval()
    # Residual branches start at 0 in many: nothing would get through them.
    expose_borders(model)
    return model


def images(name: str, count: int = 2) -> Tensor:
    return torch.rand(count, NETWORKS[name].get("in_chans", 3), 64, 64)


def coordinate_layers(model):
    return {n: m for n, m in model.named_modules() if hasattr(m, "coord_weight")}


def seeded(run, *args):
    with torch.random.fork_rng():
        torch.manual_seed(7)
        return run(*args)


@pytest.mark.parametrize("at", ["stem", "convs"])
@pytest.mark.parametrize("name", NETWORKS)
def test_an_inflated_network_gives_the_same_bits(name, at):
    model, x = network(name), images(name)
    inflated = inflate(model, at, radius=at == "convs")
    layers = coordinate_layers(inflated)
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert len(layers) == (len(convolutions) if at == "convs" else 1)
    with torch.no_grad():
        wanted = model.forward_features(x)
        assert torch.equal(inflated.forward_features(x), wanted)
        assert torch.equal(inflated(x), model.forward_head(wanted))

    # Position gets in, and can be trained, through each of its layers.
    sizes = {}
    with hooked(inflated, layers, lambda name, out: sizes.update({name: out.shape[-2:]})):
        inflated(x).square().mean().backward()
    trained = [n for n, m in layers.items() if m.coord_weight.grad.any()]
    # The coordinates of a single place are 0, as in what follows global pooling.
    assert set(layers) - set(trained) == {
        n for n, m in layers.items() if m.kernel_size == sizes[n] == (1, 1)
    }
    plain = deflate(inflated)
    before, after = model.state_dict(), plain.state_dict()
    assert list(before) == list(after)
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert [type(m) for m in plain.modules()] == [type(m) for m in model.modules()]
    assert repr(plain) == repr(model)
    nn.init.normal_(next(iter(layers.values())).coord_weight)
    with torch.no_grad():
        assert not torch.equal(inflated.forward_features(x), wanted)


@pytest.mark.parametrize(
    "name", ["resnet18", "tf_efficientnet_lite0", "vit_tiny_r_s16_p8_224", "convnext_atto"]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", FORMATS)
def test_the_same_bits_in_any_memory_format_precision_and_mode(name, dtype, layout):
    model = copy.deepcopy(network(name)).to(dtype, memory_format=layout).train()
    model.get_classifier().requires_grad_(False)
    x = images(name).to(dtype).contiguous(memory_format=layout)
    inflated = inflate(model, "convs")
    assert all(m.training for m in inflated.modules())
    for layer in coordinate_layers(inflated).values():
        assert layer.coord_weight.requires_grad
        assert layer.coord_weight.dtype == dtype
        if max(layer.kernel_size) > 1 < layer.weight.shape[1]:
            assert layer.coord_weight.is_contiguous(memory_format=layout)
    ours = dict(inflated.named_parameters())
    for key, parameter in model.named_parameters():
        assert ours[key].requires_grad == parameter.requires_grad
        assert ours[key].stride() == parameter.stride()
    wanted, out = seeded(model, x), seeded(inflated, x)
    assert torch.equal(out, wanted)
    assert out.dtype == dtype
    assert all(torch.equal(b, inflated.get_buffer(n)) for n, b in model.named_buffers())
    with torch.no_grad():
        features, others = model.eval().forward_features(x), inflated.eval().forward_features(x)
    assert torch.equal(features, others)
    assert features.stride() == others.stride()


@pytest.mark.parametrize("kind", TIMM)
def test_weight_standardisation_leaves_the_weights_of_coordinates_alone(kind):
    """The term is the plain one over coordinates padded as the map is, for every class."""
    model = nn.Sequential(kind(4, 6, (3, 5), stride=2, dilation=1))
    inflated = inflate(model, "convs", radius=True)
    x = torch.randn(2, 4, 9, 14)
    assert torch.equal(inflated(x), model(x))
    layer = inflated[0]
    assert (type(layer).__name__, isinstance(layer, kind)) == (f"Coord{kind.__name__}", True)
    nn.init.normal_(layer.coord_weight, 5.0, 3.0)
    term = inflated(x) - model(x)
    if kind.__name__.endswith("Same"):
        # TensorFlow's rule: ⌈n / stride⌉ outputs, the odd cell of padding at the end.
        (up, down), (left, right) = (1, 1), (1, 2)
    else:
        (up, down), (left, right) = ((p, p) for p in layer.padding)
    places = F.pad(coordinates(9, 14, True)[None], (left, right, up, down))
    wanted = F.conv2d(places, layer.coord_weight, stride=2)
    torch.testing.assert_close(term, wanted.expand_as(term), rtol=1e-4, atol=1e-4)
    assert type(pickle.loads(pickle.dumps(inflated))[0]) is type(layer)


def test_the_argument_stays_as_it_is(tiny):
    before = {key: tensor.clone() for key, tensor in tiny.state_dict().items()}
    kept = torch.random.get_rng_state()
    inflated = inflate(tiny.train(), "convs")
    nn.init.ones_(inflated.stages[0][0].coord_weight)
    with pytest.warns(probe.ProbeWarning):
        deflated = deflate(inflated)
    assert torch.equal(torch.random.get_rng_state(), kept)
    assert coordinate_layers(tiny) == {}
    assert len(coordinate_layers(inflated)) == 3
    assert all(torch.equal(before[key], tensor) for key, tensor in tiny.state_dict().items())
    shared = {p.data_ptr() for m in (tiny, inflated) for p in m.parameters()}
    assert len(shared) == len([*tiny.parameters(), *inflated.parameters()])
    assert not {p.data_ptr() for p in deflated.parameters()} & shared


def test_an_inflated_network_can_be_copied_saved_and_read(tiny):
    inflated = inflate(tiny.eval(), "convs", radius=True)
    for layer in coordinate_layers(inflated).values():
        nn.init.normal_(layer.coord_weight)
    x = torch.rand(2, 3, 32, 32)
    for other in (copy.deepcopy(inflated), pickle.loads(pickle.dumps(inflated))):
        assert torch.equal(other(x), inflated(x))
    file = io.BytesIO()
    torch.save(inflated.state_dict(), file)
    file.seek(0)
    other = inflate(tiny, "convs", radius=True)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(other(x), inflated(x))


def test_fine_tuning_moves_the_coordinates_and_deflating_tells(tiny):
    inflated = inflate(tiny.eval(), ["stages.0.0", "stages.2.*"])
    step = torch.optim.SGD(inflated.parameters(), 0.1)
    inflated(torch.rand(2, 3, 32, 32)).square().sum().backward()
    step.step()
    with pytest.warns(probe.ProbeWarning, match=r"outputs change, in stages\.0\.0, stages\.2\.0"):
        plain = deflate(inflated)
    assert type(plain.stages[0][0]) is nn.Conv2d
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        deflate(inflate(tiny))


# ------------------------------------------------------------ which convolutions


def chosen(model, at="stem"):
    return list(coordinate_layers(inflate(model, at)))


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("resnet18", "conv1"),
        ("resnet26t", "conv1.0"),
        ("vit_tiny_patch16_224", "patch_embed.proj"),
        ("vit_tiny_r_s16_p8_224", "patch_embed.backbone.conv"),
        ("resnet10t", "conv1.0"),
        ("tf_efficientnet_lite0", "conv_stem"),
    ],
)
def test_the_stem_is_what_sees_the_image(name, stem):
    assert chosen(network(name)) == [stem]


def test_a_network_may_have_two_stems():
    model = timm.create_model("crossvit_tiny_240")
    assert chosen(model) == ["patch_embed.0.proj", "patch_embed.1.proj"]


def test_without_a_name_the_stem_is_the_first_convolution_of_colours(tiny):
    assert chosen(tiny) == ["stages.0.0"]
    model = nn.Sequential(nn.Conv2d(1, 3, 1), nn.Conv2d(3, 4, 1))
    assert chosen(model) == ["1"]
    assert chosen(nn.Sequential(nn.Conv2d(1, 4, 1), nn.Conv2d(4, 4, 1))) == ["0"]
    for wrong in ("nowhere", "bn1", ("conv1", "nowhere"), None, ()):
        model = copy.deepcopy(network("resnet18"))
        model.pretrained_cfg = model.pretrained_cfg | {"first_conv": wrong}
        assert chosen(model) == ["conv1"]


def test_names_and_globs_choose():
    model = network("resnet18")
    assert chosen(model, "layer1.*.conv1") == ["layer1.0.conv1", "layer1.1.conv1"]
    assert chosen(model, "layer1.1.*") == ["layer1.1.conv1", "layer1.1.conv2"]
    assert chosen(model, ["stem", "layer4.**.conv2", "layer4.0.conv2"]) == [
        "conv1",
        "layer4.0.conv2",
        "layer4.1.conv2",
    ]


others = nn.Sequential(nn.Conv1d(3, 4, 3), nn.Conv3d(3, 4, 3), nn.Conv2d(3, 4, 3))


class Bottlenecked(nn.Conv2d):
    def forward(self, x):
        return super().forward(x) * 2


@pytest.mark.parametrize(
    ("model", "at", "message"),
    [
        (
            lambda: network("resnet18"),
            "layer9.*",
            r"no convolution of ResNet matches 'layer9\.\*'.*conv1",
        ),
        (lambda: network("resnet18"), "layer1", r"'layer1' is a Sequential.*layer1\.0\.conv1"),
        (lambda: network("resnet18"), ["conv1", "fc"], "'fc' is a Linear: expected one of Conv2d"),
        (lambda: others, ["0"], "'0' is a Conv1d: expected one of"),
        (lambda: others, ["stem", "1"], "'1' is a Conv3d: expected one of"),
        (lambda: others, [], r"at: expected stem, convs, or names of modules, got \[\]"),
        (lambda: network("resnet18"), "layer1.0.cnov1", "Did you mean .*'layer1.0.conv1'"),
        (lambda: nn.Sequential(nn.Conv1d(3, 4, 3)), "stem", "has no two-dimensional convolution"),
        (lambda: nn.Sequential(nn.Linear(3, 4)), "convs", "has no two-dimensional convolution"),
        (lambda: nn.Sequential(Bottlenecked(3, 4, 3)), "convs", "test_coordconv.Bottlenecked"),
        (lambda: nn.Sequential(Bottlenecked(3, 4, 3)), "stem", "may compute something else"),
        (
            lambda: timm.create_model("efficientnet_cc_b0_4e"),
            ["blocks.4.0.conv_pw"],
            "is a CondConv2d",
        ),
        (lambda: inflate(network("resnet18")), "convs", "'conv1' is a CoordConv2d already"),
        (lambda: network("resnet18"), 3, "at: expected stem, convs, or names"),
    ],
)
def test_what_is_no_known_convolution_is_refused(model, at, message):
    with pytest.raises(probe.ProbeError, match=message):
        inflate(model(), at)


def test_there_must_be_something_to_deflate(tiny):
    with pytest.raises(probe.ProbeError, match="Tiny has no CoordConv layers"):
        deflate(tiny)


def test_a_class_of_ones_own_can_not_be_deflated():
    class Own(CoordConv2d):
        pass

    with pytest.raises(probe.ProbeError, match="module '0' is a Own: expected one of CoordConv2d"):
        deflate(nn.Sequential(Own(3, 4, 3)))


def test_layers_made_by_hand_deflate_too():
    model = nn.Sequential(CoordConv2d(3, 4, 3, radius=True), CoordConvTranspose2d(4, 3, 3))
    with pytest.warns(probe.ProbeWarning, match="in 0, 1"):
        plain = deflate(model)
    assert [type(m) for m in plain] == [nn.Conv2d, nn.ConvTranspose2d]
    wanted = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ConvTranspose2d(4, 3, 3))
    wanted.load_state_dict(plain.state_dict())
    x = torch.rand(2, 3, 8, 9)
    assert torch.equal(plain(x), wanted(x))
    assert repr(plain) == repr(wanted)
    assert chosen(plain, "convs") == ["0", "1"]
    assert torch.equal(inflate(plain, "convs")(x), plain(x))
