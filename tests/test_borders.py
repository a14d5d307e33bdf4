"""Border rules against torch's own padding modes, and against equivariance on a torus."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import probe
from probe.borders import extend

NUMPY_MODES = {"zeros": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}
widths = st.tuples(st.integers(0, 9), st.integers(0, 9))


@given(
    rule=st.sampled_from(sorted(NUMPY_MODES)),
    shape=st.tuples(st.integers(1, 3), st.integers(1, 2), st.integers(1, 6), st.integers(1, 6)),
    rows=widths,
    columns=widths,
    channels_last=st.booleans(),
)
def test_extend_is_numpys_pad(rule, shape, rows, columns, channels_last):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    ours = extend(x, {-1: columns, -2: rows}, rule).numpy()
    theirs = np.pad(x.numpy(), ((0, 0), (0, 0), rows, columns), mode=NUMPY_MODES[rule])
    np.testing.assert_array_equal(ours, theirs)


def test_extend_crops_on_negative_widths():
    x = torch.arange(20.0).reshape(1, 1, 4, 5)
    cropped = extend(x, {-2: (-1, 0), -1: (0, -2)}, "circular")
    assert torch.equal(cropped, x[..., 1:, :-2])


@pytest.mark.parametrize("rule", ["zeros", "reflect", "replicate", "circular"])
@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": 3, "padding": 1},
        {"kernel_size": 5, "padding": 2, "stride": 2},
        {"kernel_size": 3, "padding": 2, "dilation": 2, "groups": 2},
        {"kernel_size": (3, 5), "padding": (1, 2)},
        {"kernel_size": 4, "padding": "same"},
    ],
)
def test_convolutions_follow_torchs_padding_modes(rule, options):
    torch.manual_seed(0)
    built = nn.Conv2d(4, 6, **options)
    wanted = nn.Conv2d(4, 6, **options, padding_mode=rule)
    wanted.load_state_dict(built.state_dict())
    x = torch.randn(2, 4, 11, 12)
    with probe.padding(rule) as mode:
        got = built(x)
    torch.testing.assert_close(got, wanted(x))
    assert mode.rewritten["function"].tolist() == ["conv2d"]
    # A padding mode that the network was built with is overruled as well.
    with probe.padding("zeros"):
        torch.testing.assert_close(wanted(x), nn.Conv2d.forward(_zeros(wanted, options), x))


def _zeros(module: nn.Conv2d, options: dict) -> nn.Conv2d:
    plain = nn.Conv2d(4, 6, **options)
    plain.load_state_dict(module.state_dict())
    return plain


@settings(deadline=None)
@given(
    kernel=st.integers(1, 5),
    stride=st.integers(1, 4),
    padding=st.integers(0, 2),
    ceil=st.booleans(),
    kind=st.sampled_from(["max", "avg"]),
    size=st.integers(5, 13),
    rule=st.sampled_from(["circular", "reflect", "replicate"]),
)
def test_pooling_sees_the_extended_map(kernel, stride, padding, ceil, kind, size, rule):
    padding = min(padding, kernel // 2)
    x = torch.randn(1, 2, size, size, generator=torch.Generator().manual_seed(size))
    pool = (nn.MaxPool2d if kind == "max" else nn.AvgPool2d)(
        kernel, stride, padding, ceil_mode=ceil
    )
    plain = pool(x)
    with probe.padding(rule):
        got = pool(x)
    closes = rule == "circular" and padding == 0 and not ceil and size % stride == 0
    if closes and kernel > stride:
        assert got.shape[2:] == (size // stride, size // stride)
    else:
        assert got.shape == plain.shape
    far = 2 * (kernel + stride)  # more than any window reads
    wide = np.pad(x.numpy(), ((0, 0), (0, 0), (padding, far), (padding, far)), mode="wrap")
    if rule == "circular":
        windows = np.lib.stride_tricks.sliding_window_view(wide, (kernel, kernel), (2, 3))
        windows = windows[:, :, ::stride, ::stride][:, :, : got.shape[2], : got.shape[3]]
        brute = windows.max((-1, -2)) if kind == "max" else windows.mean((-1, -2))
        np.testing.assert_allclose(got.numpy(), brute, rtol=1e-5, atol=1e-6)
    inside = slice(-(-padding // stride), max((size + padding - kernel) // stride, 0) + 1)
    torch.testing.assert_close(got[..., inside, inside], plain[..., inside, inside])


@settings(deadline=None)
@given(
    kernel=st.integers(1, 5),
    stride=st.integers(1, 3),
    padding=st.integers(0, 2),
    extra=st.integers(0, 2),
    dilation=st.integers(1, 2),
)
def test_zeros_are_what_zero_padding_is(kernel, stride, padding, extra, dilation):
    padding = min(padding, dilation * (kernel - 1))
    extra = min(extra, max(stride, dilation) - 1)
    up = nn.ConvTranspose2d(2, 3, kernel, stride, padding, extra, dilation=dilation)
    down = nn.Conv2d(2, 3, kernel, stride, padding, dilation=dilation)
    x = torch.randn(1, 2, 12, 12)
    with probe.padding("zeros"):
        got = up(x), down(x), F.unfold(x, kernel, dilation, padding, stride)
    torch.testing.assert_close(got[0], up(x))
    torch.testing.assert_close(got[1], down(x))
    torch.testing.assert_close(got[2], F.unfold(x, kernel, dilation, padding, stride))


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
    for rule in ("original", "zeros", "reflect", "replicate"):
        assert residual(rule) > 1e-2


def test_channels_tokens_and_relative_positions_are_left_alone():
    x = torch.randn(2, 3, 4, 5)
    tokens = torch.randn(2, 6, 8)
    with probe.padding("circular") as mode:
        assert torch.equal(F.pad(x, (0, 0, 0, 0, 1, 1)), F.pad(x, (0, 0, 0, 0, 1, 1)))
        assert F.pad(x, (0, 0, 0, 0, 1, 1))[:, 0].abs().max() == 0
        assert F.pad(tokens, (1, 0))[..., 0].abs().max() == 0
    assert mode.rewritten.empty


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
    with probe.padding("circular"):
        assert F.pad(torch.rand(2, 3, 4, 4), (0, 1))[..., -1].abs().max() == 0  # relative logits
        same = F.pad(x, (0, 1, 0, 1))  # TensorFlow's "same" at an even size: a border
    assert torch.equal(same, torch.nn.functional.pad(x, (0, 1, 0, 1), mode="circular"))


def test_indices_of_max_pooling_point_at_what_was_pooled():
    x = torch.randn(2, 3, 9, 8)
    for rule in ("circular", "reflect", "replicate"):
        with probe.padding(rule):
            values, indices = F.max_pool2d(x, 3, 2, 1, return_indices=True)
            alone = F.max_pool2d(x, 3, 2, 1)
        assert torch.equal(values, alone)
        assert torch.equal(x.flatten(2).gather(2, indices.flatten(2)).view_as(values), values)


def test_what_inference_mode_cached_does_not_break_gradients():
    conv, x = nn.Conv2d(3, 3, 3, padding=1), torch.randn(1, 3, 17, 19)
    with torch.inference_mode(), probe.padding("circular"):
        conv(x)
    with probe.padding("circular"):
        conv(x.requires_grad_()).sum().backward()
    assert x.grad.shape == x.shape


def test_blocks_nest_and_the_inner_one_wins():
    torch.manual_seed(0)
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


def test_other_threads_and_later_calls_are_not_affected():
    torch.manual_seed(0)
    conv, x = nn.Conv2d(3, 3, 3, padding=1), torch.randn(1, 3, 8, 8)
    plain, seen = conv(x), []
    with probe.padding("circular"):
        thread = threading.Thread(target=lambda: seen.append(conv(x)))
        thread.start()
        thread.join()
    assert torch.equal(seen[0], plain)
    with pytest.raises(RuntimeError, match="inside"), probe.padding("circular"):
        raise RuntimeError("inside")
    assert torch.equal(conv(x), plain)


def test_unknown_rules_are_named_with_near_matches():
    with pytest.raises(probe.ProbeError, match="circular"):
        probe.padding("circlar")
