"""Border rules against the same operation, unpadded, on a map that numpy extended."""

from __future__ import annotations

import copy
import math
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from timm.layers import AvgPool2dSame, Conv2dSame
from timm.layers.pool2d_same import MaxPool2dSame
from torch import Tensor, nn

import probe
from probe.borders.fills import extend
from probe.borders.rules import SIDES

MODES = {"reflect": "reflect", "replicate": "edge", "circular": "wrap"}
FILLS = ("zeros", "mean", *MODES)
"""Rules whose border numpy can write."""

fills = st.sampled_from(sorted(FILLS))
widths = st.tuples(st.integers(0, 9), st.integers(0, 9))

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same'")


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Small maps are faster without the others."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def rand(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def bordered(x: Tensor, rows: tuple, columns: tuple, fills: Any, dims: tuple = (-2, -1)) -> Tensor:
    """A border written by numpy alone: top and bottom, then left and right.

    ``fills`` are rules or numbers, one or one for each side.
    """
    fills = fills if isinstance(fills, tuple) else (fills,) * 4
    mean = x.numpy().mean(dims, keepdims=True)
    wide = x.numpy()
    for axis, (d, pair) in enumerate(zip(dims, (rows, columns), strict=True)):
        strips = []
        for end in (0, 1):
            amount = [(0, 0)] * x.ndim
            amount[d] = (pair[0], 0) if end == 0 else (0, pair[1])
            fill = fills[2 * axis + end]
            if fill in MODES:
                padded = np.pad(wide, amount, mode=MODES[fill])
            else:
                padded = np.pad(wide, amount, constant_values=0.0 if fill == "mean" else fill)
            cut = [slice(None)] * x.ndim
            cut[d] = slice(0, pair[0]) if end == 0 else slice(x.shape[d], None)
            strip = padded[tuple(cut)]
            strips.append(np.zeros_like(strip) + mean if fill == "mean" else strip)
        wide = np.concatenate((strips[0], wide, strips[1]), d)
    return torch.from_numpy(wide.copy())


def number(fill: Any) -> Any:
    return 0.0 if fill == "zeros" else fill


# ------------------------------------------------------------ the border itself


@given(
    rule=fills,
    shape=st.tuples(st.integers(1, 3), st.integers(1, 2), st.integers(1, 6), st.integers(1, 6)),
    rows=widths,
    columns=widths,
    channels_last=st.booleans(),
)
def test_extend_is_numpys_pad(rule, shape, rows, columns, channels_last):
    x = rand(*shape)
    wanted = bordered(x, rows, columns, number(rule))
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    got = extend(x, {-1: columns, -2: rows}, rule)
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-12 if rule == "mean" else 0)
    assert not channels_last or got.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("rule", sorted(FILLS))
def test_extend_crops_on_negative_widths(rule):
    x = rand(2, 3, 6, 5)
    assert torch.equal(extend(x, {-2: (-1, 0), -1: (0, -2)}, rule), x[..., 1:, :-2])
    # A cropped end is still what the other end and the channel's mean see.
    got = extend(x, {-2: (-2, 3), -1: (1, 1)}, rule)
    wanted = bordered(x, (0, 3), (1, 1), number(rule))[..., 2:, :]
    torch.testing.assert_close(got, wanted)
    # In channels last, too, with a border along the width alone.
    last = x.permute(0, 2, 3, 1)
    got = extend(last, {1: (0, 0), 2: (2, 1)}, rule)
    torch.testing.assert_close(got, bordered(last, (0, 0), (2, 1), number(rule), (1, 2)))


def test_noise_has_the_moments_of_its_channel_and_image():
    x = 5 * rand(3, 2, 8, 8) + torch.arange(6).view(3, 2, 1, 1)
    wide = extend(x, {-2: (150, 150), -1: (150, 150)}, "noise")
    cells = torch.cat((wide[..., :150, :].flatten(2), wide[..., 158:, :].flatten(2)), 2)
    deviation = x.std((2, 3), correction=0)
    error = deviation / math.sqrt(cells.shape[2])
    assert ((cells.mean(2) - x.mean((2, 3))).abs() < 5 * error).all()
    assert ((cells.std(2) / deviation - 1).abs() < 0.02).all()
    # Independent: between images, channels, neighbours and sides.
    flat = cells.flatten(0, 1)
    correlation = torch.corrcoef(torch.cat((flat, flat.roll(1, 1), flat.flip(1))))
    assert (correlation - torch.eye(18)).abs().max() < 0.02
    assert torch.equal(wide[..., 150:158, 150:158], x)


def test_noise_is_seeded_and_goes_with_the_image():
    images = rand(6, 3, 9, 9)
    conv = nn.Conv2d(3, 3, 3, padding=1).double()

    def run(first: int, last: int, seed: int = 4) -> tuple[Tensor, Tensor, Tensor]:
        with torch.no_grad(), probe.padding("noise", seed=seed, first=first):
            one, two = (F.pad(images[first:last], (2, 1, 0, 3)) for _ in range(2))
            return one, two, conv(images[first:last])

    whole, again, other = run(0, 6), run(0, 6), run(0, 6, seed=5)
    assert all(torch.equal(a, b) for a, b in zip(whole, again, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(whole, other, strict=True))
    assert not torch.equal(whole[0], whole[1])
    for first, last in ((0, 1), (1, 4), (4, 6)):
        part = run(first, last)
        assert torch.equal(part[0], whole[0][first:last])
        assert torch.equal(part[1], whole[1][first:last])
        torch.testing.assert_close(part[2], whole[2][first:last])


def test_blocks_of_noise_draw_for_themselves():
    x = rand(1, 1, 4, 4)
    with probe.padding("noise", seed=1):
        alone = F.pad(x, (1, 1, 1, 1))
    with (
        probe.padding("noise", seed=2, sides=("left", "right")),
        probe.padding("noise", seed=1, sides=("top", "bottom")),
    ):
        both = F.pad(x, (1, 1, 1, 1))
    assert torch.equal(both[..., 0, 1:-1], alone[..., 0, 1:-1])
    assert not torch.equal(both[..., 0], alone[..., 0])


# ------------------------------------------------------------ every padded operation

WEIGHT, GROUPED, BIAS = rand(4, 4, 4, 3), rand(6, 2, 3, 3), rand(6)


@dataclass
class Case:
    """A padded operation, and how to do it by hand on an extended map of 8 × 9 places."""

    padded: Callable[[Tensor], Tensor]
    rows: tuple[int, int]
    columns: tuple[int, int]
    unpadded: Callable[[Tensor], Tensor]
    own: Any = 0.0
    function: str = "conv2d"
    sides: bool = True
    """Whether sides without a rule only need ``own`` cells."""
    before: tuple = field(default=(2, 4, 8, 9))


def same(module: nn.Module) -> nn.Module:
    for parameter in module.parameters():
        parameter.data = rand(*parameter.shape, seed=parameter.ndim)
    return module.requires_grad_(False)


def built(**options: Any) -> Callable[[Tensor], Tensor]:
    module = same(nn.Conv2d(4, 6, 3, groups=2, **options).double())
    module.weight.data, module.bias.data = GROUPED, BIAS
    return module


def lasts(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda x: function(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


TF = same(Conv2dSame(4, 4, (4, 3), stride=2, bias=False).double())
TF.weight.data = WEIGHT
TF_DILATED = same(Conv2dSame(4, 6, 3, stride=3, dilation=2, groups=2).double())
TF_DILATED.weight.data, TF_DILATED.bias.data = GROUPED, BIAS


def grouped(x: Tensor, **options: Any) -> Tensor:
    return F.conv2d(x, GROUPED, BIAS, groups=2, **options)


CASES = {
    "conv": Case(built(padding=1), (1, 1), (1, 1), grouped),
    "conv, strided": Case(
        built(padding=(2, 1), stride=2), (2, 2), (1, 1), lambda x: grouped(x, stride=2)
    ),
    "conv, dilated": Case(
        built(padding=2, dilation=2), (2, 2), (2, 2), lambda x: grouped(x, dilation=2)
    ),
    "conv, wider than the map": Case(
        lambda x: grouped(x, padding=(11, 20)), (11, 11), (20, 20), grouped
    ),
    "conv, even": Case(
        lambda x: F.conv2d(x, WEIGHT, padding=(2, 1), stride=(2, 1)),
        *((2, 2), (1, 1)),
        lambda x: F.conv2d(x, WEIGHT, stride=(2, 1)),
    ),
    "conv, padding of one number": Case(
        lambda x: F.conv2d(x, WEIGHT, padding=(2,)), (2, 2), (2, 2), lambda x: F.conv2d(x, WEIGHT)
    ),
    "conv, same": Case(
        lambda x: F.conv2d(x, WEIGHT, padding="same", dilation=(1, 2)),
        *((1, 2), (2, 2)),
        lambda x: F.conv2d(x, WEIGHT, dilation=(1, 2)),
    ),
    "conv, by keywords": Case(
        lambda x: F.conv2d(input=x, weight=WEIGHT, padding=1),
        *((1, 1), (1, 1)),
        lambda x: F.conv2d(x, WEIGHT),
    ),
    "conv, no batch": Case(
        lambda x: grouped(x, padding=1), (1, 1), (1, 1), grouped, before=(4, 8, 9)
    ),
    **{
        f"conv, {mode}": Case(
            built(padding=(1, 2), padding_mode=mode),
            *((1, 1), (2, 2), grouped),
            own=mode,
            function="pad",
        )
        for mode in MODES
    },
    "TensorFlow's conv": Case(
        TF, (1, 1), (1, 1), lambda x: F.conv2d(x, WEIGHT, stride=2), function="pad"
    ),
    "TensorFlow's conv, dilated": Case(
        TF_DILATED,
        *((1, 2), (1, 1)),
        lambda x: grouped(x, stride=3, dilation=2),
        function="pad",
    ),
    "TensorFlow's max pooling": Case(
        MaxPool2dSame(3, 2),
        *((0, 1), (1, 1)),
        lambda x: F.max_pool2d(x, 3, 2),
        own=-math.inf,
        function="pad",
    ),
    "TensorFlow's mean pooling": Case(
        AvgPool2dSame(3, 2), (0, 1), (1, 1), lambda x: F.avg_pool2d(x, 3, 2), function="pad"
    ),
    "max": Case(
        nn.MaxPool2d((4, 3), (2, 1), (2, 1)),
        *((2, 2), (1, 1)),
        lambda x: F.max_pool2d(x, (4, 3), (2, 1)),
        own=-math.inf,
        function="max_pool2d",
    ),
    "max, dilated, ceil mode": Case(
        nn.MaxPool2d(3, 2, 1, dilation=2, ceil_mode=True),
        *((1, 2), (1, 1)),
        lambda x: F.max_pool2d(x, 3, 2, 0, 2),
        own=-math.inf,
        function="max_pool2d",
    ),
    "torch.max_pool2d": Case(
        lambda x: torch.max_pool2d(x, 3, padding=1),
        *((1, 1), (1, 1)),
        lambda x: F.max_pool2d(x, 3),
        own=-math.inf,
        function="max_pool2d",
    ),
    "max, ceil mode without padding": Case(
        lambda x: F.max_pool2d(x, 3, ceil_mode=True),
        *((0, 1), (0, 0)),
        lambda x: F.max_pool2d(x, 3),
        own=-math.inf,
        function="max_pool2d",
    ),
    "mean": Case(
        nn.AvgPool2d(3, 2, 1),
        *((1, 1), (1, 1)),
        lambda x: F.avg_pool2d(x, 3, 2),
        function="avg_pool2d",
    ),
    "mean, no batch": Case(
        nn.AvgPool2d(3, 2, 1, count_include_pad=False),
        *((1, 1), (1, 1)),
        lambda x: F.avg_pool2d(x, 3, 2),
        function="avg_pool2d",
        sides=False,
        before=(4, 8, 9),
    ),
    "mean, border not counted": Case(
        nn.AvgPool2d(3, 2, 1, count_include_pad=False),
        *((1, 1), (1, 1)),
        lambda x: F.avg_pool2d(x, 3, 2),
        function="avg_pool2d",
        sides=False,
    ),
    "mean, ceil mode": Case(
        nn.AvgPool2d(5, 3, 1, ceil_mode=True),
        *((1, 2), (1, 1)),
        lambda x: F.avg_pool2d(x, 5, 3),
        function="avg_pool2d",
        sides=False,
    ),
    "mean, divisor": Case(
        lambda x: F.avg_pool2d(x, 4, 2, 2, divisor_override=3),
        *((2, 2), (2, 2)),
        lambda x: F.avg_pool2d(x, 4, 2, divisor_override=3),
        function="avg_pool2d",
    ),
    "power mean": Case(
        nn.LPPool2d(2, 3, 2, ceil_mode=True),
        *((0, 1), (0, 0)),
        lambda x: F.avg_pool2d(x**2, 3, 2).mul(9).sqrt(),
        function="lp_pool2d",
        sides=False,
    ),
    "unfold": Case(
        lambda x: F.unfold(x, (2, 3), (2, 1), (1, 2), (1, 2)),
        *((1, 1), (2, 2)),
        lambda x: F.unfold(x, (2, 3), (2, 1), 0, (1, 2)),
        function="unfold",
    ),
    "pad": Case(lambda x: F.pad(x, (3, 1, 0, 2)), (0, 2), (3, 1), lambda x: x, function="pad"),
    "pad, wider than the map": Case(
        nn.ZeroPad2d(12), (12, 12), (12, 12), lambda x: x, function="pad"
    ),
    "pad, rows alone": Case(
        lambda x: F.pad(x, (0, 0, 2, 1)), (2, 1), (0, 0), lambda x: x, function="pad"
    ),
    "pad, reflecting": Case(
        nn.ReflectionPad2d((1, 2, 0, 1)), (0, 1), (1, 2), lambda x: x, "reflect", function="pad"
    ),
    "pad, -inf": Case(
        lambda x: F.pad(x, (1, 1, 1, 1), value=-math.inf),
        *((1, 1), (1, 1), lambda x: x, -math.inf),
        function="pad",
    ),
    "pad, channels last": Case(
        lasts(lambda x: F.pad(x, (0, 0, 3, 1, 2, 1))),
        *((2, 1), (3, 1)),
        lambda x: x,
        function="pad",
    ),
    "pad, then pad": Case(
        lambda x: F.pad(F.pad(x, (1, 1, 1, 1)), (0, 2, 2, 1)),
        *((3, 2), (1, 3), lambda x: x),
        function="pad",
    ),
    "pad, then crop, then pad": Case(
        lambda x: F.pad(F.pad(F.pad(x, (2, 2, 2, 2)), (-1, 0, 0, -1)), (1, 1, 1, 1)),
        *((3, 2), (2, 3), lambda x: x),
        function="pad",
    ),
    "pad, then conv that pads": Case(
        lambda x: grouped(F.pad(x, (2, 1, 0, 3)) * 1.0, padding=1),
        *((1, 4), (3, 2), grouped),
        function="pad",
    ),
}
EVERY = pytest.mark.parametrize("name", CASES)


@pytest.mark.parametrize("rule", sorted(FILLS))
@EVERY
def test_operations_see_the_extended_map(name, rule):
    case = CASES[name]
    x = rand(*case.before)
    plain = case.padded(x)
    with probe.padding(rule) as mode:
        got = case.padded(x)
    wide = bordered(x, case.rows, case.columns, number(rule))
    torch.testing.assert_close(got, case.unpadded(wide))
    assert got.shape == plain.shape
    assert mode.rewritten["function"].iloc[0] == case.function
    assert mode.rewritten.equals(mode.padded)


@pytest.mark.parametrize("sides", [("top", "right"), ("left", "right"), "bottom"])
@pytest.mark.parametrize("rule", sorted(FILLS))
@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.sides])
def test_a_rule_can_be_for_some_sides(name, rule, sides):
    case = CASES[name]
    x = rand(*case.before)
    if "then" in name and rule == "mean":
        sides = ("left", "right")  # corners of two pads: rows before columns holds for each alone
    with probe.padding(rule, sides=sides):
        got = case.padded(x)
    chosen = tuple(number(rule) if side in sides else case.own for side in SIDES)
    wide = bordered(x, case.rows, case.columns, chosen)
    torch.testing.assert_close(got, case.unpadded(wide))


@EVERY
def test_original_is_bit_for_bit_what_the_network_does(name):
    case = CASES[name]
    x = rand(*case.before)
    plain = case.padded(x)
    with probe.padding("original") as mode:
        assert torch.equal(case.padded(x), plain)
    assert mode.rewritten.empty
    assert len(mode.padded)
    with probe.padding("circular", where=lambda call: False) as mode:
        assert torch.equal(case.padded(x), plain)
    assert mode.rewritten.empty
    with probe.padding("circular"), probe.padding("original") as inner:
        assert torch.equal(case.padded(x), plain)
    assert inner.padded["calls"].sum() == mode.padded["calls"].sum()
    assert torch.equal(case.padded(x), plain)


@pytest.mark.parametrize("name", [name for name in CASES if name not in ("unfold", "pad, -inf")])
def test_valid_is_the_unpadded_operation(name):
    case = CASES[name]
    x = rand(*case.before)
    with probe.padding("valid"):
        got = case.padded(x)
    # What is cropped stays cropped.
    x = x[..., :-1, 1:] if "crop" in name else x
    torch.testing.assert_close(got, case.unpadded(x))


@given(
    rule=fills,
    kind=st.sampled_from(["conv", "max", "mean", "unfold"]),
    kernel=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    stride=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    pad=st.tuples(st.integers(0, 9), st.integers(0, 9)),
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    groups=st.sampled_from([1, 2]),
    ceil=st.booleans(),
    size=st.tuples(st.integers(5, 11), st.integers(5, 11)),
)
def test_sliding_windows_see_the_extended_map(
    rule, kind, kernel, stride, pad, dilation, groups, ceil, size
):
    if kind in ("max", "mean"):
        pad = tuple(min(p, k // 2) for p, k in zip(pad, kernel, strict=True))
        dilation = (1, 1) if kind == "mean" else dilation
    x, weight = rand(2, 4, *size), rand(4, 4 // groups, *kernel, seed=1)
    reach = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    if any(r > n + 2 * p for r, n, p in zip(reach, size, pad, strict=True)):
        return
    padded, unpadded = {
        "conv": (
            lambda x: F.conv2d(x, weight, None, stride, pad, dilation, groups),
            lambda x: F.conv2d(x, weight, None, stride, 0, dilation, groups),
        ),
        "max": (
            lambda x: F.max_pool2d(x, kernel, stride, pad, dilation, ceil),
            lambda x: F.max_pool2d(x, kernel, stride, 0, dilation),
        ),
        "mean": (
            lambda x: F.avg_pool2d(x, kernel, stride, pad, ceil, False),
            lambda x: F.avg_pool2d(x, kernel, stride),
        ),
        "unfold": (
            lambda x: F.unfold(x, kernel, dilation, pad, stride),
            lambda x: F.unfold(x, kernel, dilation, 0, stride),
        ),
    }[kind]
    plain = padded(x)
    with probe.padding(rule):
        got = padded(x)
    needed = []
    for axis in (0, 1):
        n, p, s, r = size[axis], pad[axis], stride[axis], reach[axis]
        closes = rule == "circular" and kind != "unfold" and p == 0 and n % s == 0 and s < r < n
        if kind == "unfold" or (closes and not (ceil and (n - r) % s)):
            outputs = n // s if closes else (n + 2 * p - r) // s + 1
        else:
            outputs = plain.shape[2 + axis]
        if kind != "unfold":
            assert got.shape[2 + axis] == outputs
        needed.append((outputs - 1) * s + r - n - p)
    wide = bordered(x, (pad[0], max(needed[0], 0)), (pad[1], max(needed[1], 0)), number(rule))
    torch.testing.assert_close(got, unpadded(wide))


@given(
    rule=fills,
    kernel=st.tuples(st.integers(1, 5), st.integers(1, 4)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    pad=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    extra=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    size=st.tuples(st.integers(2, 4), st.integers(2, 4)),
)
def test_transposed_convolution_adds_what_comes_from_beyond_the_edge(
    rule, kernel, stride, pad, extra, dilation, size
):
    extra = tuple(min(e, max(s, d) - 1) for e, s, d in zip(extra, stride, dilation, strict=True))
    pad = tuple(min(p, d * (k - 1)) for p, d, k in zip(pad, dilation, kernel, strict=True))
    taps = zip(size, kernel, stride, pad, extra, dilation, strict=True)
    if any((n - 1) * s - 2 * p + d * (k - 1) + e < 0 for n, k, s, p, e, d in taps):
        return  # nothing is left
    x, weight, bias = rand(2, 2, *size), rand(2, 3, *kernel, seed=1), rand(3)
    with probe.padding(rule) as mode:
        got = F.conv_transpose2d(x, weight, bias, stride, pad, extra, 1, dilation)
    far = 12
    wide = bordered(x, (far, far), (far, far), number(rule))
    wanted = bias.view(-1, 1, 1) + torch.zeros_like(got)
    beyond = [False, False]
    for place in np.ndindex(*got.shape[2:]):
        for tap in np.ndindex(*kernel):
            steps = [o + p - d * k for o, p, d, k in zip(place, pad, dilation, tap, strict=True)]
            if any(step % s for step, s in zip(steps, stride, strict=True)):
                continue
            i, j = (step // s for step, s in zip(steps, stride, strict=True))
            cell = wide[..., i + far, j + far]
            wanted[..., place[0], place[1]] += cell @ weight[:, :, tap[0], tap[1]]
            beyond = [b or not 0 <= c < n for b, c, n in zip(beyond, (i, j), size, strict=True)]
    torch.testing.assert_close(got, wanted)
    # Only what looks beyond the edge is a padded call.
    assert len(mode.padded) == (any(beyond) or any(_reaches(kernel, stride, pad, extra, dilation)))


def _reaches(kernel, stride, pad, extra, dilation) -> list[bool]:
    taps = zip(kernel, stride, pad, extra, dilation, strict=True)
    return [d * (k - 1) + e - p >= s for k, s, p, e, d in taps]


def test_transposed_convolution_without_overlap_is_not_padded():
    up = nn.ConvTranspose2d(3, 3, 2, 2).double()
    x = rand(1, 3, 4, 4)
    for rule in ("circular", "partial", "valid"):
        with probe.padding(rule) as mode:
            assert torch.equal(up(x), up(x.clone()))
        assert mode.padded.empty


def test_fold_lands_on_the_other_side_of_a_ring():
    columns = rand(2, 3 * 6, 30)
    kernel, size = (2, 3), (5, 4)
    options = {"kernel_size": kernel, "padding": (1, 2), "stride": 1, "dilation": (2, 1)}
    columns = columns[..., : (5 + 2 - 2) * (4 + 4 - 2)]
    plain = F.fold(columns, size, **options)
    with probe.padding("circular") as mode:
        ring = F.fold(columns, size, **options)
    with probe.padding("circular", sides=("left", "right")) as cylinder:
        tube = F.fold(columns, size, **options)
    blocks = columns.view(2, 3, *kernel, 5, 6)
    wanted = {"ring": torch.zeros(2, 3, *size), "tube": torch.zeros(2, 3, *size)}
    for a, b, i, j in np.ndindex(*kernel, 5, 6):
        row, column = i + 2 * a - 1, j + b - 2
        wanted["ring"][..., row % 5, column % 4] += blocks[:, :, a, b, i, j]
        if 0 <= row < 5:
            wanted["tube"][..., row, column % 4] += blocks[:, :, a, b, i, j]
    torch.testing.assert_close(ring, wanted["ring"].double(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(tube, wanted["tube"].double(), rtol=1e-5, atol=1e-5)
    assert mode.rewritten["pad"].tolist() == cylinder.rewritten["pad"].tolist() == [(1, 1, 2, 2)]
    with probe.padding("reflect") as mode:  # nothing else than a ring has another side
        assert torch.equal(F.fold(columns, size, **options), plain)
    assert mode.rewritten.empty
    assert mode.padded["pad"].tolist() == [(1, 1, 2, 2)]


@pytest.mark.parametrize("rule", ["circular", "reflect"])
@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_upsampling_takes_neighbours_from_beyond_the_edge(mode, rule):
    x = rand(1, 2, 4, 5)
    with probe.padding(rule):
        by_factor = F.interpolate(x, scale_factor=(2, 3), mode=mode)
        by_size = F.interpolate(x, (8, 15), mode=mode)
        down = F.interpolate(x, (2, 5), mode=mode)
    wide = bordered(x, (3, 3), (3, 3), rule)
    wanted = F.interpolate(wide, scale_factor=(2, 3), mode=mode)[..., 6:-6, 9:-9]
    torch.testing.assert_close(by_factor, wanted)
    torch.testing.assert_close(by_size, wanted)
    assert torch.equal(down, F.interpolate(x, (2, 5), mode=mode))


@pytest.mark.parametrize("rule", ["circular", "reflect", "replicate", "valid", "original"])
@pytest.mark.parametrize("ceil", [False, True])
def test_indices_of_max_pooling_point_at_what_was_pooled(rule, ceil):
    x = rand(2, 3, 9, 8)
    with probe.padding(rule):
        values, indices = F.max_pool2d(x, 3, 2, 1, ceil_mode=ceil, return_indices=True)
        alone = F.max_pool2d(x, 3, 2, 1, ceil_mode=ceil)
    assert torch.equal(values, alone)
    assert torch.equal(x.flatten(2).gather(2, indices.flatten(2)).view_as(values), values)


def test_max_pooling_of_negative_maps_sees_zeros_only_by_that_rule():
    x = -rand(1, 2, 6, 6).abs() - 1
    pools = nn.MaxPool2d(3, 2, 1), MaxPool2dSame(3, 2)
    for pool in pools:
        for rule in ("original", "partial", "replicate", "valid"):
            with probe.padding(rule):
                assert pool(x).max() < -1
        with probe.padding("zeros"):
            assert pool(x).max() == 0


@given(
    kernel=st.integers(2, 5),
    stride=st.integers(1, 4),
    pad=st.integers(0, 2),
    ceil=st.booleans(),
    size=st.integers(5, 11),
    counted=st.booleans(),
)
def test_mean_pooling_counts_what_torch_counts_where_no_rule_is(
    kernel, stride, pad, ceil, size, counted
):
    x, pad = rand(1, 2, size, 8), min(pad, kernel // 2)
    pool = nn.AvgPool2d(kernel, stride, pad, ceil, counted)
    plain = pool(x)
    with probe.padding("replicate", sides="left"):
        got = pool(x)
    untouched = -(-pad // stride)
    torch.testing.assert_close(got[..., untouched:], plain[..., untouched:])
    power, x = nn.LPPool2d(3, kernel, stride, ceil), x.abs()
    with probe.padding("replicate", sides="left"):
        torch.testing.assert_close(power(x), power(x))
    with probe.padding("replicate", sides="right"):
        inside = max((8 - kernel) // stride + 1, 0)
        got = power(x)
    torch.testing.assert_close(got[..., :inside], power(x)[..., :inside])


# ------------------------------------------------------------ partial convolution


def partial(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: tuple,
    pads: tuple,
    dilation: tuple,
    groups: int,
) -> Tensor:
    """Equations 1 to 3 of arXiv 1811.11718, place by place: the mask is 1 on the map."""
    kernel, (top, bottom, left, right) = weight.shape[2:], pads
    reach = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    sizes = (x.shape[2] + top + bottom, x.shape[3] + left + right)
    shape = [(n - r) // s + 1 for n, r, s in zip(sizes, reach, stride, strict=True)]
    out = torch.zeros(x.shape[0], weight.shape[0], *shape, dtype=x.dtype)
    for r, c in np.ndindex(*shape):
        total, mask = torch.zeros(x.shape[0], weight.shape[0], dtype=x.dtype), 0
        for a, b in np.ndindex(*kernel):
            i, j = r * stride[0] + a * dilation[0] - top, c * stride[1] + b * dilation[1] - left
            if 0 <= i < x.shape[2] and 0 <= j < x.shape[3]:
                mask += 1
                cells, taps = x[:, :, i, j].chunk(groups, 1), weight[..., a, b].chunk(groups)
                total += torch.cat([p @ w.T for p, w in zip(cells, taps, strict=True)], 1)
        if mask:
            out[:, :, r, c] = total * kernel[0] * kernel[1] / mask
    return out if bias is None else out + bias.view(-1, 1, 1)


@given(
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    pad=st.tuples(st.integers(0, 5), st.integers(0, 5)),
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    groups=st.sampled_from([1, 2]),
    biased=st.booleans(),
    earlier=st.tuples(*[st.integers(0, 3)] * 4) | st.none(),
)
def test_partial_convolution_weighs_by_the_share_of_the_kernel_on_the_map(
    kernel, stride, pad, dilation, groups, biased, earlier
):
    x, weight = rand(2, 4, 7, 7), rand(6, 4 // groups, *kernel, seed=1)
    bias = rand(6, seed=2) if biased else None
    top, bottom, left, right = earlier or (0, 0, 0, 0)
    if (top, bottom) == (0, 0) or (left, right) == (0, 0):
        earlier = None  # padding along one dimension on one side is no border
        top = bottom = left = right = 0
    with probe.padding("partial"):
        y = x if earlier is None else F.pad(x, (left, right, top, bottom))
        got = F.conv2d(y, weight, bias, stride, pad, dilation, groups)
    pads = (top + pad[0], bottom + pad[0], left + pad[1], right + pad[1])
    torch.testing.assert_close(got, partial(x, weight, bias, stride, pads, dilation, groups))


@pytest.mark.parametrize("mode", ["zeros", *MODES])
def test_partial_convolution_of_modules_that_pad_by_themselves(mode):
    x = rand(2, 4, 8, 9)
    with probe.padding("partial"):
        own = built(padding=1, padding_mode=mode)(x)
        tf, even = TF_DILATED(x), TF(x)
        alone = built(padding=1, padding_mode=mode)(x[0])
    wanted = partial(x, GROUPED, BIAS, (1, 1), (1, 1, 1, 1), (1, 1), 2)
    torch.testing.assert_close(own, wanted)
    torch.testing.assert_close(alone, wanted[0])
    torch.testing.assert_close(tf, partial(x, GROUPED, BIAS, (3, 3), (1, 2, 1, 1), (2, 2), 2))
    torch.testing.assert_close(even, partial(x, WEIGHT, None, (2, 2), (1, 1, 1, 1), (1, 1), 1))


def test_partial_convolution_at_some_sides():
    x = rand(1, 4, 7, 7)
    with probe.padding("reflect"), probe.padding("partial", sides=("top", "bottom")):
        got = F.conv2d(x, GROUPED, BIAS, 1, 1, 1, 2)
    wide = bordered(x, (0, 0), (1, 1), "reflect")
    torch.testing.assert_close(got, partial(wide, GROUPED, BIAS, (1, 1), (1, 1, 0, 0), (1, 1), 2))


def test_partial_convolution_of_a_constant_map_is_constant():
    conv = nn.Conv2d(3, 5, 5, 2, 2).double()
    nn.init.ones_(conv.weight)
    with torch.no_grad(), probe.padding("partial"):
        out = conv(torch.ones(1, 3, 13, 13).double())
    torch.testing.assert_close(out, out[..., 2:3, 2:3].expand_as(out))


@pytest.mark.parametrize("counted", [False, True])
@pytest.mark.parametrize("ceil", [False, True])
def test_partial_pooling_leaves_the_border_out(counted, ceil):
    x = rand(1, 2, 8, 8)
    for pool in (
        nn.AvgPool2d(3, 2, 1, ceil, counted),
        AvgPool2dSame(3, 2, count_include_pad=counted),
        nn.Sequential(nn.ZeroPad2d((1, 4, 1, 4)), nn.AvgPool2d(2)),
        nn.Sequential(nn.ZeroPad2d((1, 4, 1, 4)), nn.LPPool2d(1, 2)),
    ):
        same_tf = isinstance(pool, AvgPool2dSame)
        with probe.padding("partial"):
            got = pool(x.abs())
            ones = pool(torch.ones_like(x))
        scale = 4 if isinstance(pool, nn.Sequential) and isinstance(pool[1], nn.LPPool2d) else 1
        assert set(ones.unique().tolist()) <= {0.0, scale}, pool  # 0 where nothing is
        first = 0 if same_tf else 1
        k = 2 if isinstance(pool, nn.Sequential) else 3
        corner = x.abs()[..., : k - first, : k - first].mean((2, 3)) * scale
        torch.testing.assert_close(got[..., 0, 0], corner)


def test_partial_transposed_convolution_weighs_by_the_cells_on_the_map():
    x, weight, bias = rand(1, 2, 4, 5), rand(2, 3, 4, 3), rand(3)
    with probe.padding("partial"):
        got = F.conv_transpose2d(x, weight, bias, 2, 1, 1)
    far, ones = 6, torch.ones(2, 3, 4, 3).double()
    cut = tuple(slice(2 * far, 2 * far + n) for n in got.shape[2:])

    def reaching(wide: Tensor, weight: Tensor) -> Tensor:
        return F.conv_transpose2d(wide, weight, None, 2, 1, 1)[..., cut[0], cut[1]]

    mask = bordered(torch.ones_like(x[:, :1]), (far, far), (far, far), 0.0).expand(-1, 2, -1, -1)
    share = reaching(torch.ones_like(mask), ones) / reaching(mask, ones)
    total = reaching(bordered(x, (far, far), (far, far), 0.0), weight)
    torch.testing.assert_close(got, total * share + bias.view(-1, 1, 1))


# ------------------------------------------------------------ without padding


def centre(x: Tensor, rows: int, columns: int) -> Tensor:
    top, left = (x.shape[-2] - rows) // 2, (x.shape[-1] - columns) // 2
    return x[..., top : top + rows, left : left + columns]


def unpadded(model: nn.Module) -> nn.Module:
    model = copy.deepcopy(model)
    for module in model.modules():
        if hasattr(module, "padding"):
            module.padding = 0
    return model


class Residual(nn.Module):
    """A residual branch, joined in a way of choice."""

    def __init__(self, join: Callable[[Tensor, Tensor], Tensor], stride: int = 1) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            nn.Conv2d(4, 4, 3, stride, 1), nn.ReLU(), nn.Conv2d(4, 4, 5, padding=2)
        )
        self.shortcut = nn.Conv2d(4, 4, 1, stride) if stride > 1 else nn.Identity()
        self.join = join

    def forward(self, x):
        return self.join(self.branch(x), self.shortcut(x))


def in_place(x: Tensor, y: Tensor) -> Tensor:
    y = y.clone()
    y += x
    return y


JOINS = {
    "x + y": lambda x, y: x + y,
    "y + x": lambda x, y: y + x,
    "x += y": lambda x, y: in_place(y, x),
    "y += x": in_place,
    "x * y": lambda x, y: x * y,
    "torch.add": lambda x, y: torch.add(x, y, alpha=2),
    "maximum": torch.maximum,
    "max": torch.max,
    "cat": lambda x, y: torch.cat((x, y), 1),
    "cat by name": lambda x, y: torch.cat([y, x], dim=1),
    "cat by axis": lambda x, y: torch.concatenate([y, x], axis=-3),
    "stack": lambda x, y: torch.stack([x, y]),
}


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("name", JOINS)
def test_valid_crops_the_larger_branch_about_its_centre(name, stride):
    torch.manual_seed(0)
    network, x = Residual(JOINS[name], stride).double().eval(), rand(2, 4, 17, 20)
    with torch.no_grad():
        with probe.padding("valid"):
            got = network(x)
        bare = unpadded(network)
        branch = bare.branch(x)
        shortcut = centre(bare.shortcut(x), *branch.shape[2:])
        torch.testing.assert_close(got, JOINS[name](branch, shortcut))
        assert network(x).shape[-2:] == bare.shortcut(x).shape[-2:]


@pytest.mark.parametrize("name", JOINS)
def test_valid_crops_to_a_single_cell_rather_than_broadcast_it(name):
    torch.manual_seed(0)
    network, x = Residual(JOINS[name]).double().eval(), rand(2, 4, 7, 9)
    with torch.no_grad():
        for size in ((7, 9), (9, 7), (7, 7)):
            part = x[..., : size[0], : size[1]] if size != (9, 7) else x.transpose(2, 3)
            with probe.padding("valid"):
                got = network(part)
            branch = unpadded(network).branch(part)
            assert 1 in branch.shape[2:]
            torch.testing.assert_close(got, JOINS[name](branch, centre(part, *branch.shape[2:])))


def test_valid_crops_concatenated_branches_of_three_sizes():
    convs = [nn.Conv2d(3, c, k, padding=k // 2).double() for c, k in ((2, 1), (3, 3), (4, 5))]
    x = rand(1, 3, 9, 9)
    with torch.no_grad():
        with probe.padding("valid"):
            got = torch.cat([conv(x) for conv in convs], 1)
            last = torch.cat([conv(x).permute(0, 2, 3, 1) for conv in convs], -1)
        parts = [centre(unpadded(conv)(x), 5, 5) for conv in convs]
    torch.testing.assert_close(got, torch.cat(parts, 1))
    torch.testing.assert_close(last.permute(0, 3, 1, 2), got)


def test_valid_leaves_gates_and_biases_to_broadcast():
    x, gate = rand(2, 3, 7, 7), rand(2, 3, 1, 1)
    with probe.padding("valid"):
        assert torch.equal(x * gate, torch.mul(x, gate))
        assert (x * gate).shape == x.shape


def test_valid_resnet_is_a_resnet_without_padding():
    torch.manual_seed(0)
    model = timm.create_model("resnet18", pretrained=False).eval()
    x = torch.randn(1, 3, 448, 480)
    with torch.no_grad(), probe.padding("valid"):
        got = model.forward_features(x)
    bare = unpadded(model)
    with torch.no_grad():
        y = bare.maxpool(bare.act1(bare.bn1(bare.conv1(x))))
        for block in (b for n in range(1, 5) for b in getattr(bare, f"layer{n}")):
            z = block.bn2(block.conv2(block.act1(block.bn1(block.conv1(y)))))
            y = y if block.downsample is None else block.downsample(y)
            y = F.relu(z + centre(y, *z.shape[2:]))
    torch.testing.assert_close(got, y)
    assert got.shape[2:] == (1, 2)


def test_valid_transposed_convolution_keeps_what_only_the_map_reaches():
    for stride, pad, extra, dilation in ((1, 0, 0, 1), (2, 1, 1, 1), (3, 0, 1, 2), (2, 2, 0, 2)):
        x, weight = rand(1, 2, 6, 6), rand(2, 3, 4, 4)
        with probe.padding("valid"):
            got = F.conv_transpose2d(x, weight, None, stride, pad, extra, 1, dilation)
        plain = F.conv_transpose2d(x, weight, None, stride, pad, extra, 1, dilation)
        reached = []
        for o in range(plain.shape[2]):
            steps = [o + pad - dilation * k for k in range(4)]
            cells = [step // stride for step in steps if step % stride == 0]
            reached.append(all(0 <= c < 6 for c in cells))
        # An output between the first and last that only the map reaches stays.
        kept = np.flatnonzero(reached)
        first, last = kept[0], kept[-1] + 1
        assert got.shape[2] <= last - first
        offset = max(0, dilation * 3 - stride + 1 - pad)
        cut = slice(offset, offset + got.shape[2])
        torch.testing.assert_close(got, plain[..., cut, cut])
        assert all(reached[cut])


class Flat(nn.Module):
    """A network for one size of images."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.pool = nn.MaxPool2d(4)
        self.head = nn.Linear(4 * 4 * 4, 5)

    def forward(self, x):
        return self.head(self.pool(self.conv(x)).flatten(1))


def test_valid_says_when_a_network_cannot():
    flat, x = Flat(), torch.randn(1, 3, 16, 16)
    plain = flat(x)
    with pytest.raises(probe.ProbeError, match="without padding"), probe.padding("valid"):
        flat(x)
    assert torch.equal(flat(x), plain)
    gone = nn.Sequential(*(nn.Conv2d(3, 3, 3, padding=1) for _ in range(8)))
    with pytest.raises(probe.ProbeError, match="larger image size"), probe.padding("valid"):
        gone(x)
    deep = timm.create_model("resnet18", pretrained=False).eval()
    with pytest.raises(probe.ProbeError), torch.no_grad(), probe.padding("valid"):
        deep(torch.randn(1, 3, 64, 64))
    # Nothing to do with padding: left as it is.
    with pytest.raises(RuntimeError, match="shapes cannot"), probe.padding("valid"):
        flat.head(torch.zeros(1, 3))


# ------------------------------------------------------------ which calls, which sides


class Stack(nn.Module):
    """Blocks of two convolutions, and a pad in the network's own forward."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(
            *(
                nn.Sequential(nn.Conv2d(2, 2, 3, padding=1), nn.Conv2d(2, 2, 5, padding=2))
                for _ in range(12)
            )
        )

    def forward_features(self, x):
        return F.avg_pool2d(F.pad(self.blocks(x), (1, 1, 1, 1)), 3, 2)

    def forward(self, x):
        return self.forward_features(x).mean((2, 3))

    def by_hand(self, x, rule: Callable[[str], Any]):
        for n, block in enumerate(self.blocks):
            for m, conv in enumerate(block):
                wide = bordered(x, (m + 1,) * 2, (m + 1,) * 2, number(rule(f"blocks.{n}.{m}")))
                x = F.conv2d(wide, conv.weight, conv.bias)
        return F.avg_pool2d(bordered(x, (1, 1), (1, 1), number(rule(""))), 3, 2)


@pytest.fixture
def stack() -> Stack:
    torch.manual_seed(0)
    return Stack().double().requires_grad_(False)


@pytest.mark.parametrize(
    ("where", "chosen"),
    [
        ("blocks.2", lambda path: path.startswith("blocks.2.")),
        ("blocks.1*", lambda path: path.split(".")[1:2] in (["1"], ["10"], ["11"])),
        ("blocks.*.1", lambda path: path.endswith(".1") and path.count(".") == 2),
        ("**.0", lambda path: path.endswith(".0") or path.startswith("blocks.0.")),
        (
            ["blocks.0", "blocks.4.1"],
            lambda path: path in ("blocks.0.0", "blocks.0.1", "blocks.4.1"),
        ),
        ("blocks", lambda path: path != ""),
        ("", lambda path: path == ""),
        (lambda call: call == "blocks.3.1", lambda path: path == "blocks.3.1"),
        (lambda call: call.kernel == (3, 3), lambda path: path.endswith(".0")),
        (lambda call: call.pad == (2, 2, 2, 2), lambda path: path.endswith(".1")),
        (lambda call: call.function == "pad", lambda path: path == ""),
    ],
)
@pytest.mark.parametrize("rule", ["circular", "mean"])
def test_where_chooses_calls(stack, where, chosen, rule):
    x = rand(1, 2, 8, 8)
    with probe.padding(rule, where=where) as mode:
        got = stack.forward_features(x)
    torch.testing.assert_close(got, stack.by_hand(x, lambda path: rule if chosen(path) else 0.0))
    assert all(map(chosen, mode.rewritten["module"]))
    assert len(mode.rewritten) == sum(map(chosen, mode.padded["module"]))
    assert len(mode.padded) == 25


def test_the_innermost_block_that_is_for_a_call_decides(stack):
    x = rand(1, 2, 8, 8)
    rules = {"blocks.2": "original", "blocks.3.1": "reflect", "": "mean"}
    with (
        probe.padding("circular") as outer,
        probe.padding("original", where="blocks.2"),
        probe.padding("reflect", where="blocks.3.1"),
        probe.padding("mean", where=lambda call: call.function == "pad") as inner,
    ):
        got = stack.forward_features(x)

    def rule(path: str) -> Any:
        found = rules.get(path, rules.get(path.rpartition(".")[0] if path else path, "circular"))
        return 0.0 if found == "original" else found

    torch.testing.assert_close(got, stack.by_hand(x, rule))
    assert len(outer.rewritten) == 25 - 4
    assert inner.rewritten["module"].tolist() == [""]
    assert len(outer.padded) == len(inner.padded) == 25


def test_blocks_for_different_sides_meet(stack):
    x = rand(1, 2, 8, 8)
    sides = ("reflect", "reflect", "circular", 0.0)
    with (
        probe.padding("circular", sides="left"),
        probe.padding("reflect", sides=["top", "bottom"]) as rows,
        probe.padding("original", sides="right"),
    ):
        got = stack.forward_features(x)
    torch.testing.assert_close(got, stack.by_hand(x, lambda path: sides))
    assert len(rows.rewritten) == 25


def test_a_block_inside_a_network_overrules_the_outer_one():
    conv, x = nn.Conv2d(3, 3, 3, padding=1), torch.randn(1, 3, 8, 8)
    with probe.padding("reflect"):
        alone = conv(x)
    with probe.padding("circular"):
        with probe.padding("reflect"):
            inner = conv(x)
        with probe.padding("original"):
            original = conv(x)
    assert torch.equal(inner, alone)
    assert torch.equal(original, conv(x))


def test_a_pad_by_another_rule_is_part_of_the_map():
    x = rand(1, 4, 8, 8)

    def network(x: Tensor) -> Tensor:
        return grouped(F.pad(x, (2, 2, 2, 2), mode="reflect"), padding=1)

    wide = bordered(x, (2, 2), (2, 2), "reflect")
    with probe.padding("circular", where=lambda call: call.function == "conv2d"):
        got = network(x)
    torch.testing.assert_close(got, grouped(bordered(wide, (1, 1), (1, 1), "circular")))
    with probe.padding("circular", where=lambda call: call.function == "pad"):
        got = network(x)
    torch.testing.assert_close(
        got, grouped(bordered(bordered(x, (2, 2), (2, 2), "circular"), (1, 1), (1, 1), 0.0))
    )
    # Sides without a rule keep what the pad wrote there.
    with probe.padding("circular", sides=("left", "right")):
        got = network(x)
    sides = ("reflect", "reflect", "circular", "circular")
    rows = bordered(x, (2, 2), (0, 0), sides)
    rows = bordered(rows, (1, 1), (0, 0), 0.0)
    torch.testing.assert_close(got, grouped(bordered(rows, (0, 0), (3, 3), "circular")))
    # Nor does pooling turn them into −∞.
    x = -x.abs()
    with probe.padding("circular", sides="left"):
        pooled = F.max_pool2d(F.pad(x, (0, 0, 1, 1)), 3, 1, 1)
    sides = (-math.inf, -math.inf, "circular", -math.inf)
    wide = bordered(bordered(x, (1, 1), (0, 0), 0.0), (1, 1), (1, 1), sides)
    torch.testing.assert_close(pooled, F.max_pool2d(wide, 3, 1))


def test_tables_list_paths_functions_and_counts(stack):
    x = rand(1, 2, 8, 8)
    with probe.padding("circular", where="blocks.1*") as mode:
        stack(x)
        stack.forward_features(x)
    first = mode.rewritten.iloc[0].to_dict()
    assert first == {
        "module": "blocks.1.0",
        "function": "conv2d",
        "kernel": (3, 3),
        "stride": (1, 1),
        "pad": (1, 1, 1, 1),
        "calls": 2,
    }
    assert mode.rewritten["module"].str.match(r"blocks\.1").all()
    last = mode.padded.iloc[-1].to_dict()
    wanted = {"module": "", "function": "pad", "kernel": None, "stride": None}
    assert last == wanted | {"pad": (1, 1, 1, 1), "calls": 2}
    assert (mode.padded["calls"] == 2).all()


def test_tables_of_a_real_network_name_its_padded_modules():
    model = timm.create_model("resnet18", pretrained=False).eval()
    padded = {
        name: (1,) * 4 if module.kernel_size in (3, (3, 3)) else (3,) * 4
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d | nn.MaxPool2d) and module.padding not in (0, (0, 0))
    }
    with torch.no_grad(), probe.padding("reflect") as mode:
        model.forward_features(torch.randn(1, 3, 64, 64))
    table = mode.rewritten.set_index("module")
    assert dict(table["pad"]) == padded
    assert (table["calls"] == 1).all()
    assert table.loc["maxpool", "function"] == "max_pool2d"
    assert table.loc["conv1", ["kernel", "stride"]].tolist() == [(7, 7), (2, 2)]


def test_tables_name_the_module_of_pads_in_functional_code():
    model = timm.create_model("tf_efficientnet_lite0", pretrained=False).eval()
    with torch.no_grad(), probe.padding("reflect") as mode:
        model.forward_features(torch.randn(1, 3, 64, 64))
    table = mode.rewritten.set_index("module")
    assert table.loc["conv_stem", ["function", "pad"]].tolist() == ["pad", (0, 1, 0, 1)]
    strided = [n for n, m in model.named_modules() if isinstance(m, Conv2dSame)]
    assert table.index[table["function"] == "pad"].tolist() == strided


# ------------------------------------------------------------ what is no border, what is wrong


def test_channels_tokens_and_relative_positions_are_left_alone():
    x = torch.randn(2, 3, 4, 5)
    tokens = torch.randn(2, 6, 8)
    for rule in ("circular", "mean", "noise", "partial", "valid"):
        with probe.padding(rule) as mode:
            assert F.pad(x, (0, 0, 0, 0, 1, 1))[:, 0].abs().max() == 0
            assert F.pad(tokens, (1, 0))[..., 0].abs().max() == 0
            assert (F.pad(x, (1, 1, 1, 1), value=1.0)[..., 0] == 1).all()
            assert F.pad(x, (0, 1))[..., -1].abs().max() == 0
        assert mode.rewritten.empty
        assert mode.padded.empty


def test_attention_and_relative_positions_of_real_models_are_left_alone():
    from timm.layers import RelPosMlp
    from timm.models.efficientvit_mit import LiteMLA

    torch.manual_seed(0)
    attention, x = LiteMLA(16, 16, dim=8, scales=()).eval(), torch.randn(1, 16, 8, 8)
    positions = RelPosMlp((4, 4), 2, prefix_tokens=1).eval()
    with torch.no_grad():
        plain = attention(x), positions.get_bias()
        with probe.padding("circular") as mode:
            torch.testing.assert_close((attention(x), positions.get_bias()), plain)
    assert mode.rewritten.empty


def test_unknown_rules_and_sides_are_named_with_near_matches():
    with pytest.raises(probe.ProbeError, match="circular"):
        probe.padding("circlar")
    with pytest.raises(probe.ProbeError, match="left"):
        probe.padding("circular", sides=("lef", "right"))
    for rule in ("original", "partial", "valid", "mena"):
        with pytest.raises(probe.ProbeError, match="border rule"):
            extend(torch.zeros(1, 1, 2, 2), {-1: (1, 1)}, rule)
    with pytest.raises(probe.ProbeError, match="where"):
        probe.padding("circular", where=[3])


# ------------------------------------------------------------ the torus


class Zoo(nn.Module):
    """Every padded operation, one after the other, at a total stride of 2."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 4, 3, 2, 1)
        self.b = nn.ConvTranspose2d(4, 4, 4, 2, 1)
        self.c = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.d = nn.AvgPool2d(3, 1, 1, count_include_pad=False)
        self.e = nn.ReflectionPad2d((1, 2, 0, 1))

    def forward(self, x):
        x = self.d(self.c(self.b(self.a(x))))
        x = F.conv2d(self.e(x), torch.ones(4, 1, 2, 4) / 8, groups=4)
        x = F.conv2d(F.pad(x, (1, 1, 1, 1)), torch.ones(4, 1, 3, 3) / 9, groups=4)
        rows, columns = x.shape[-2:]
        x = F.unfold(x, 3, padding=1).reshape(len(x), -1, rows, columns)
        x = F.interpolate(x, scale_factor=2, mode="bilinear")
        return F.avg_pool2d(x, 2)


def test_only_a_torus_is_equivariant():
    torch.manual_seed(0)
    zoo, x = Zoo().eval(), torch.randn(1, 3, 16, 24)
    shifted = torch.roll(x, (4, 6), (2, 3))

    def residual(rule: str) -> float:
        with torch.no_grad(), probe.padding(rule):
            plain, moved = zoo(x), zoo(shifted)
        return float((torch.roll(plain, (2, 3), (2, 3)) - moved).abs().max() / plain.abs().max())

    assert residual("circular") < 1e-5
    for rule in ("original", "zeros", "reflect", "replicate", "mean", "noise", "partial"):
        assert residual(rule) > 1e-2


# ------------------------------------------------------------ the network stays as it was

MODELS = ("resnet18", "tf_efficientnet_lite0", "convnext_atto")


@pytest.fixture(scope="module", params=MODELS)
def network(request) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return timm.create_model(request.param, pretrained=False).eval()


IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def features(network: nn.Module, images: Tensor = IMAGES) -> Tensor:
    with torch.no_grad():
        return network.forward_features(images)


def test_real_networks_are_bit_for_bit_themselves(network):
    plain, state = features(network), copy.deepcopy(network.state_dict())
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in network.modules()]
    with probe.padding("original"):
        assert torch.equal(features(network), plain)
    for rule in ("circular", "mean", "partial"):
        with probe.padding(rule):
            assert not torch.allclose(features(network), plain)
        assert torch.equal(features(network), plain)
    assert all(torch.equal(v, state[k]) for k, v in network.state_dict().items())
    assert hooks == [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in network.modules()]


def test_other_threads_and_exceptions_do_not_leak(network):
    plain, seen = features(network), []
    with probe.padding("circular"):
        thread = threading.Thread(target=lambda: seen.append(features(network)))
        thread.start()
        thread.join()
    assert torch.equal(seen[0], plain)
    with pytest.raises(RuntimeError, match="inside"), probe.padding("circular"):
        features(network)
        raise RuntimeError("inside")
    with pytest.raises(RuntimeError), probe.padding("circular"):
        F.conv2d(IMAGES, torch.zeros(1, 4, 3, 3), padding=1)  # inside a call
    assert torch.equal(features(network), plain)
    with probe.padding("circular"):
        torus = features(network)
    assert not torch.equal(torus, plain)


def test_gradients_are_those_of_the_network(network):
    def gradients() -> list[Tensor]:
        x = IMAGES.clone().requires_grad_()
        parameters = [x, *list(network.parameters())[:3]]
        return list(torch.autograd.grad(network.forward_features(x).square().sum(), parameters))

    plain = gradients()
    with probe.padding("original"):
        got = gradients()
    assert all(torch.equal(a, b) for a, b in zip(got, plain, strict=True))
    with probe.padding("circular"):
        torus = gradients()
    assert not torch.allclose(torus[0], plain[0])


def test_memory_formats_and_types_go_through(network):
    last = IMAGES.contiguous(memory_format=torch.channels_last)
    plain = features(network, last)
    with probe.padding("original"):
        assert torch.equal(features(network, last), plain)
    for rule in ("circular", "noise", "partial"):
        with probe.padding(rule):
            usual = features(network)
        with probe.padding(rule):
            torch.testing.assert_close(features(network, last), usual, rtol=1e-3, atol=1e-4)
    with torch.inference_mode():
        with probe.padding("original"):
            assert torch.equal(network.forward_features(IMAGES), features(network))
        with probe.padding("reflect"):
            inferred = network.forward_features(IMAGES)
    with probe.padding("reflect"):
        assert torch.equal(inferred, features(network))


def test_half_precision_goes_through():
    torch.manual_seed(0)
    network = timm.create_model("resnet18", pretrained=False).eval()
    low, images = copy.deepcopy(network).bfloat16(), IMAGES.bfloat16()
    plain = features(low, images)
    with probe.padding("original"):
        assert torch.equal(features(low, images), plain)
    for rule in ("zeros", "circular", "mean", "partial"):
        with probe.padding(rule):
            got, wanted = features(low, images), features(network)
        assert got.dtype == torch.bfloat16
        assert (got - wanted).square().mean() < 1e-3 * wanted.square().mean(), rule
    pool = nn.AvgPool2d(3, 2, 1, count_include_pad=False)
    with probe.padding("partial"):
        assert pool(images).dtype == torch.bfloat16


@pytest.mark.parametrize("rule", sorted(FILLS))
def test_gradients_flow_through_the_border(rule):
    conv = nn.Conv2d(2, 2, 3, padding=2).double()
    x = rand(1, 2, 4, 5).requires_grad_()
    with probe.padding(rule):
        assert torch.autograd.gradcheck(lambda x: conv(x), x)
    with probe.padding("partial"):
        assert torch.autograd.gradcheck(lambda x: conv(x), x)


def test_noise_has_gradients():
    x = rand(1, 2, 4, 5).requires_grad_()

    def noisy(x: Tensor) -> Tensor:
        with probe.padding("noise"):
            return F.pad(x, (1, 1, 1, 1))

    assert torch.autograd.gradcheck(noisy, x)


def test_what_inference_mode_cached_does_not_break_gradients():
    conv, x = nn.Conv2d(3, 3, 3, padding=1), torch.randn(1, 3, 17, 19)
    with torch.inference_mode(), probe.padding("circular"):
        conv(x)
    with probe.padding("circular"):
        conv(x.requires_grad_()).sum().backward()
    assert x.grad.shape == x.shape


def test_patterns_that_match_no_padded_call_are_an_error():
    network = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1))
    image = torch.zeros(1, 3, 8, 8)
    with (
        pytest.raises(probe.ProbeError, match=r"no padded call .*'3'.*: 0, 1"),
        torch.no_grad(),
        probe.padding("circular", where="3"),
    ):
        network(image)
    with torch.no_grad(), probe.padding("circular", where="1") as mode:
        network(image)
    assert list(mode.rewritten["module"]) == ["1"]
