"""Whether strided calls read as much padding on opposite sides, and at which sizes all do."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

import probe
from probe.borders import padding
from probe.errors import ProbeError


@given(
    size=st.integers(3, 20), kernel=st.integers(1, 5), stride=st.integers(2, 4),
    dilation=st.integers(1, 2), pad=st.integers(1, 4), earlier=st.tuples(*[st.integers(0, 2)] * 2),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_unread_padding_equals_what_windows_leave_out(size, kernel, stride, dilation, pad, earlier):
    """Each window's gradient marks the rows between its first and its last."""
    first, last = earlier
    assume(dilation * (kernel - 1) + 1 <= size)
    x = torch.zeros(1, 1, size, size)
    weight = torch.ones(1, 1, kernel, kernel)
    with padding("original") as seen:
        wide = F.pad(x, (first, last, first, last)) if first and last else x
        F.conv2d(wide, weight, None, stride, pad, dilation)
    (step,) = seen.steps
    before, after = (first + pad, last + pad) if first and last else (pad, pad)
    assert step.pad == (before, after) * 2
    rows = torch.arange(before + size + after)
    reach = dilation * (kernel - 1) + 1
    read = rows.unfold(0, reach, stride)[-1, -1] + 1
    assert step.unread == (len(rows) - read,) * 2
    assert step.consumed == (read == len(rows))
    assert step.even == (before == read - before - size)


class Strided(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Conv2d(3, 4, 3, 2, 1), nn.MaxPool2d(3, 2, 1), nn.Conv2d(4, 4, 1, 2))


def test_sizes_at_which_padding_is_even_everywhere():
    """Two halvings with kernels of 3 are even at 4 n + 1 pixels alone."""
    table = probe.padding_sizes(Strided(), image_size=32, within=8)
    assert table.loc[table["even"], "image_size"].tolist() == [25, 29, 33, 37]
    assert (table["calls"] == 2).all() and (table["first"][~table["even"]] != "").all()
    assert (table["even"] == (table["unread"] == 0)).all()  # pads are the same on all sides


def test_a_size_that_is_refused_says_so():
    class Picky(Strided):
        def forward(self, x):
            if x.shape[-1] % 2:
                raise ValueError("odd images are refused")
            return super().forward(x)

    table = probe.padding_sizes(Picky(), image_size=32, within=1)
    assert table["refused"].tolist() == ["odd images are refused", "", "odd images are refused"]
    with pytest.raises(ProbeError, match="odd images are refused; choose another image_size"):
        probe.padding_sizes(Picky(), image_size=33, within=0)


def test_tensorflow_padding_is_consumed_but_not_even():
    """Timm's tf_ models pad at the bottom and right alone where sizes are even."""
    table = probe.sources("tf_efficientnet_lite0", image_size=64)
    strided = table[table["even"].notna()]
    assert strided["consumed"].all() and not strided["even"].any() and len(strided) == 5
    table = probe.sources("tf_efficientnet_lite0", image_size=65)
    assert table.loc[table["even"].notna(), "even"].all()


@pytest.mark.parametrize("size, even", [(128, False), (129, True)])
def test_mean_maps_are_skewed_where_padding_is_uneven(size, even):
    """Where a strided call of lite0 alone keeps its padding, its mean map tells which edges."""
    call = "blocks.1.0.conv_dw"
    table = probe.sources("tf_efficientnet_lite0", image_size=size).set_index("module")
    assert table.loc[call, "even"] == even
    backbone = probe.load_backbone("tf_efficientnet_lite0", device="cpu")
    images = probe.stimuli.open_stimuli("leaves", (size, size), 0).batch("test", 0, 8)
    maps: list[torch.Tensor] = []
    hook = backbone.model.blocks[1][0].bn2.register_forward_hook(lambda *a: maps.append(a[2]))
    with torch.no_grad(), padding("circular"):
        backbone.model.forward_features(backbone.normalise(images))
        with padding("original", call):
            backbone.model.forward_features(backbone.normalise(images))
    hook.remove()
    circular, alone = maps
    effect = (alone - circular).mean(0).abs().mean(0)
    top, bottom = effect[0, 2:-2].mean(), effect[-1, 2:-2].mean()
    left, right = effect[2:-2, 0].mean(), effect[2:-2, -1].mean()
    assert effect[2:-2, 2:-2].max() == 0 and min(bottom, right) > 0.01
    assert (min(top, left) > 0.01) == even and (max(top, left) == 0) != even
