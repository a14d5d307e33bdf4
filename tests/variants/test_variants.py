"""Variants: each takes away what its name says, and nothing else, for as long as it runs."""

from __future__ import annotations

import copy
import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.layers.bottleneck_attn import rel_logits_1d
from torch import nn

import probe
from probe.backbones.probed import evaluating, probe_layers
from probe.borders.rules import RULES
from probe.stimuli.leaves import Leaves
from probe.stimuli.source import stretch
from probe.variants.canvas import (
    MARGINS,
    WHOLE_IMAGE_MARGIN,
    exact_copy,
    find_margin,
    padding_leakage,
)
from probe.variants.removals import NO_POSITION, REMOVALS
from probe.variants.run import VariantRun, open_variant, running
from probe.variants.variant import VARIANTS, parse_variant


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Small maps are faster without the others."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def leaves(size, count=1, seed=0):
    sides = (size, size) if isinstance(size, int) else size
    return Leaves(sides, seed).batch("train", 0, count)


def given_backbone(model):
    return probe.load_backbone(model.double().eval(), "given", device="cpu")


def taps_of(backbone, layers, images):
    with evaluating(backbone.model):
        return probe_layers(backbone.model, layers, backbone.normalise(images))


def maps(seen, backbone, images, **options):
    """Each layer's map under a variant."""
    found = {}
    with evaluating(backbone.model):
        seen.run(backbone, images, lambda at, f: found.__setitem__(at.name, f.clone()), **options)
    return found


def under(name, model, x, seed=0):
    with torch.no_grad(), running(parse_variant(name), model, x, seed=seed):
        return model.forward_features(x)


# ------------------------------------------------------------ names


@given(parts=st.lists(st.sampled_from(list(VARIANTS)), min_size=1, max_size=3))
def test_a_name_has_one_border_and_one_removal_of_a_kind_at_most_in_any_order(parts):
    borders = [part for part in parts if part in RULES or part == "canvas"]
    removals = [part for part in REMOVALS if part in parts]
    kinds = {REMOVALS[part].kind for part in removals}
    if len(borders) > 1 or len(kinds) < len(removals) or len(set(parts)) < len(parts):
        with pytest.raises(probe.ProbeError, match=f"got {len(parts)} parts"):
            parse_variant("+".join(parts))
        return
    first, *rest = (parse_variant(" + ".join(order)) for order in itertools.permutations(parts))
    assert all(other == first for other in rest)
    assert parse_variant(first.name) == first
    assert first.canvas == ("canvas" in parts)
    everything = "no_position" in parts
    usual = "circular" if everything else "original"
    assert first.rule == ("original" if first.canvas else ([*borders, usual])[0])
    assert set(removals) <= set(first.removals)
    assert {REMOVALS[r].kind for r in first.removals} >= {
        REMOVALS[r].kind for r in NO_POSITION if everything
    }
    assert first.torus == ("valid" not in parts)


@pytest.mark.parametrize(
    ("name", "canonical"),
    [
        ("no_pos_embed+circular", "circular+no_pos_embed"),
        ("original+no_pos_embed", "no_pos_embed"),
        ("original", "original"),
        (" canvas + shuffled_pos_embed", "canvas+shuffled_pos_embed"),
    ],
)
def test_a_name_is_written_in_one_way(name, canonical):
    assert parse_variant(name).name == canonical


@pytest.mark.parametrize("name", ["", "+", "circular+", "torus", "Circular", None, "circular,mean"])
def test_unknown_names_are_refused_with_those_that_exist(name):
    with pytest.raises(probe.ProbeError, match=r"variant.*circular"):
        parse_variant(name)


# ------------------------------------------------------------ position embeddings


def with_position(name, size):
    """A network whose position embedding is far from 0, an image, and its tokens of no place."""
    backbone = probe.load_backbone(name, "random", image_size=(size, size), device="cpu")
    model = backbone.model
    stream = torch.Generator().manual_seed(1)
    for parameter_name, parameter in model.named_parameters():
        if "pos_embed" in parameter_name:
            parameter.data = torch.randn(parameter.shape, generator=stream)
    return model, backbone.normalise(leaves(size, 2)), getattr(model, "num_prefix_tokens", 0)


@pytest.mark.parametrize(
    ("name", "size", "prefix"),
    [
        ("vit_tiny_patch16_224", 64, 1),
        ("deit_tiny_distilled_patch16_224", 64, 2),
        ("vit_tiny_r_s16_p8_224", 64, 1),
    ],
)
def test_position_embeddings_change_as_by_hand(name, size, prefix):
    """Entries of class and distillation tokens stay; the weights of the network do, too."""
    model, x, tokens = with_position(name, size)
    assert tokens == prefix
    before = copy.deepcopy(model.state_dict())
    places = model.pos_embed[:, prefix:].detach()
    order = torch.randperm(places.shape[1], generator=torch.Generator().manual_seed(7))
    for variant, changed in (
        ("no_pos_embed", places.mean(1, keepdim=True).expand_as(places)),
        ("shuffled_pos_embed", places[:, order]),
    ):
        seen = under(variant, model, x, seed=7)
        assert all(torch.equal(before[n], t) for n, t in model.state_dict().items())
        by_hand = copy.deepcopy(model)
        by_hand.pos_embed.data = torch.cat([by_hand.pos_embed[:, :prefix], changed], 1)
        with torch.no_grad():
            wanted, plain = by_hand.forward_features(x), model.forward_features(x)
        torch.testing.assert_close(seen, wanted, rtol=1e-5, atol=1e-5)
        assert (seen - plain).abs().max() > 0.01


def test_position_embeddings_of_maps_change_as_by_hand():
    model, x, _ = with_position("visformer_tiny", 64)
    names = [n for n, _ in model.named_parameters() if "pos_embed" in n]
    assert len(names) == 3
    shuffled = under("shuffled_pos_embed", model, x, seed=3)
    seen = under("no_pos_embed", model, x)
    by_hand = copy.deepcopy(model)
    for name in names:
        parameter = by_hand.get_parameter(name)
        parameter.data = parameter.data.mean((2, 3), keepdim=True).expand_as(parameter)
    with torch.no_grad():
        torch.testing.assert_close(seen, by_hand.forward_features(x), rtol=1e-5, atol=1e-5)
    by_hand = copy.deepcopy(model)
    for name in names:
        parameter = by_hand.get_parameter(name)
        stream = torch.Generator().manual_seed(3)
        order = torch.randperm(parameter[0, 0].numel(), generator=stream)
        parameter.data = parameter.data.flatten(2)[..., order].reshape(parameter.shape)
    with torch.no_grad():
        torch.testing.assert_close(shuffled, by_hand.forward_features(x), rtol=1e-5, atol=1e-5)


class Axial(nn.Module):
    """Rows and columns with an embedding each, as maps in either layout."""

    def __init__(self, last):
        super().__init__()
        self.stem, self.last = nn.Conv2d(3, 4, 4, 4), last
        shapes = ((8, 1, 4), (1, 8, 4)) if last else ((4, 8, 1), (4, 1, 8))
        self.row, self.column = (nn.Parameter(torch.randn(shape)) for shape in shapes)

    def forward_features(self, x):
        x = self.stem(x)
        return (x.permute(0, 2, 3, 1) if self.last else x) + self.row + self.column


@pytest.mark.parametrize("last", [False, True])
def test_no_place_is_left_of_an_embedding_of_rows_and_one_of_columns(last):
    torch.manual_seed(0)
    model, x = Axial(last), torch.zeros(1, 3, 32, 32)
    out = under("no_pos_embed", model, x)
    dims = (1, 2) if last else (2, 3)
    assert out.std(dims).max() < 1e-6
    wanted = model.forward_features(x).detach().mean(dims)
    torch.testing.assert_close(out.mean(dims), wanted)


class Offsets(nn.Module):
    """Attention along rows by a table of offsets, as BoTNet's; its bias alone moves with place."""

    def __init__(self):
        super().__init__()
        self.stem, self.width_rel = nn.Conv2d(3, 4, 4, 4), nn.Parameter(torch.randn(15, 4))

    def forward_features(self, x):
        x = self.stem(x).permute(0, 2, 3, 1)
        logits = rel_logits_1d(x, self.width_rel, [0, 1, 3, 2, 4])[:, :, 0]
        return (logits.softmax(-1) @ x).permute(0, 3, 1, 2)


class Lambdas(nn.Module):
    """A table for each pair of places, summed over those of keys, as in lambda networks."""

    def __init__(self):
        super().__init__()
        self.stem, self.rel_pos = nn.Conv2d(3, 4, 4, 4), nn.Parameter(torch.randn(64, 64, 4))

    def forward_features(self, x):
        v = self.stem(x).flatten(2).transpose(1, 2)
        table = self.rel_pos.expand(len(x), -1, -1, -1).transpose(-1, -2)
        return (table @ v.unsqueeze(1)).sum(2).transpose(1, 2).unflatten(2, (8, 8))


@pytest.mark.parametrize("kind", [Offsets, Lambdas])
def test_products_with_tables_of_relative_position_lose_it(kind):
    torch.manual_seed(0)
    model, x = kind().double(), torch.rand(1, 3, 32, 32, dtype=torch.float64)
    moved = x.roll((8, 12), (2, 3))
    for variant, still in (("original", False), ("no_rel_bias", True)):
        one, other = (under(variant, model, images) for images in (x, moved))
        apart = (one.roll((2, 3), (2, 3)) - other).abs().max() / one.std()
        assert (apart < 1e-12) == still


def test_two_seeds_shuffle_two_ways():
    model, x, _ = with_position("vit_tiny_patch16_224", 64)
    one, again, other = (under("shuffled_pos_embed", model, x, seed=s) for s in (0, 0, 1))
    assert torch.equal(one, again)
    assert not torch.allclose(one, other)


@pytest.mark.parametrize("variant", list(REMOVALS))
def test_a_network_without_position_embedding_is_refused(tiny, variant):
    x = torch.zeros(1, 3, 32, 32)
    with (
        pytest.raises(probe.ProbeError, match=r"would change nothing.*nothing but padding"),
        running(parse_variant(variant), tiny, x),
    ):
        tiny(x)


# ------------------------------------------------------------ runs


def test_noise_goes_with_the_image_in_whichever_batch(tiny):
    backbone, images = given_backbone(tiny), leaves(64, 5)
    taps = taps_of(backbone, ["stages.*"], images)
    seen = VariantRun(parse_variant("noise"), taps, taps.layers)
    whole = maps(seen, backbone, images, seed=2)
    for size in (1, 2, 3):
        parts = [
            maps(seen, backbone, images[first : first + size], seed=2, first=first)
            for first in range(0, 5, size)
        ]
        for name, features in whole.items():
            joined = torch.cat([part[name] for part in parts])
            torch.testing.assert_close(joined, features, rtol=0, atol=1e-12)
    later = maps(seen, backbone, images, seed=2, first=1)
    other = maps(seen, backbone, images, seed=3)
    assert all((later[name] - whole[name]).abs().max() > 1e-3 for name in whole)
    assert all((other[name] - whole[name]).abs().max() > 1e-3 for name in whole)


def test_without_padding_layers_know_what_they_leave_out():
    model = nn.Sequential(nn.Conv2d(3, 4, 5, 1, 2), nn.Conv2d(4, 4, 3, 2, 1))
    backbone, images = given_backbone(model), leaves((64, 96))
    taps = taps_of(backbone, ["0", "1"], images)
    seen = open_variant(backbone, parse_variant("valid"), taps, images)
    first, second = seen.layers
    assert (first.height, first.width) == (60, 92)
    assert first.inset == (2.0, 2.0)
    assert (second.height, second.width) == (29, 45)
    assert second.inset == (3.0, 3.0)
    with pytest.raises(probe.ProbeError, match="choose a larger image size"):
        open_variant(backbone, parse_variant("valid"), taps, leaves(4))


# ------------------------------------------------------------ the canvas


CONVOLUTIONS = st.lists(
    st.tuples(st.sampled_from([1, 3, 5, 7]), st.sampled_from([1, 2])), min_size=1, max_size=4
)
"""Kernels and strides."""


def stack(convolutions):
    torch.manual_seed(0)
    widths = [3, *[4] * len(convolutions)]
    return nn.Sequential(
        *(
            nn.Conv2d(a, b, kernel, stride, kernel // 2)
            for (kernel, stride), a, b in zip(convolutions, widths[:-1], widths[1:], strict=True)
        )
    )


def reach(convolutions):
    """Pixels from the edge that padding reaches: the most over the layers and both ends.

    An output cell i reads the input cells i s − p … i s − p + k − 1.
    """
    before = after = most = 0
    jump = 1
    for kernel, stride in convolutions:
        pad = kernel // 2
        before = -(-(before + pad) // stride)
        after = max(0, (after - pad + kernel - 1) // stride)
        jump *= stride
        most = max(most, before * jump, after * jump)
    return most


@given(convolutions=CONVOLUTIONS)
@settings(max_examples=25)
def test_the_margin_is_what_padding_reaches(convolutions):
    backbone, images = given_backbone(stack(convolutions)), leaves(64)
    taps = taps_of(backbone, ["*"], images)
    total = math.prod(stride for _, stride in convolutions)
    margin, found = find_margin(backbone, taps, total)
    assert found
    assert margin == max(1, math.ceil(reach(convolutions) / total)) * total


def test_a_margin_may_differ_between_rows_and_columns_and_is_the_larger_one():
    model = nn.Conv2d(3, 4, (1, 9), padding=(0, 4))
    backbone, images = given_backbone(nn.Sequential(model)), leaves(64)
    assert find_margin(backbone, taps_of(backbone, ["0"], images), 1) == (4, True)


class Gated(nn.Module):
    """Every place sees the whole map."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, 1, 1)
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(4, 4, 1), nn.Sigmoid())
        self.last = nn.Conv2d(4, 4, 1)

    def forward(self, x):
        x = self.conv(x)
        return self.last(x * self.gate(x))


def test_no_margin_is_out_of_reach_where_every_place_sees_the_whole_map():
    torch.manual_seed(0)
    backbone, images = given_backbone(Gated()), leaves(32)
    taps = taps_of(backbone, ["last"], images)
    margin, found = find_margin(backbone, taps, 12)
    assert not found
    assert margin == 264  # whole strides
    assert margin - 12 < WHOLE_IMAGE_MARGIN <= margin
    assert MARGINS[-1] >= WHOLE_IMAGE_MARGIN
    with evaluating(backbone.model):
        near, far = (
            padding_leakage(
                backbone, open_variant(backbone, parse_variant("canvas"), taps, images, m), images
            )
            for m in (4, 64)
        )
    assert 0 < far < near < 1


@given(convolutions=CONVOLUTIONS, steps=st.integers(1, 4), count=st.integers(1, 2))
@settings(max_examples=15)
def test_a_canvas_is_the_middle_of_what_the_network_makes_of_the_tiled_image(
    convolutions, steps, count
):
    backbone, images = given_backbone(stack(convolutions)), leaves(48, count)
    margin = 16 * steps
    taps = taps_of(backbone, ["*"], images)
    seen = open_variant(backbone, parse_variant("canvas"), taps, images, margin)
    assert seen.margin == margin
    assert seen.layers == taps.layers
    found = maps(seen, backbone, stretch(images, margin))
    tiled = images.tile(1, 1, 5, 5)[..., 96 - margin : 144 + margin, 96 - margin : 144 + margin]
    x, cells, jump = backbone.normalise(tiled), 48, 1
    for (name, module), (_, stride) in zip(
        backbone.model.named_children(), convolutions, strict=True
    ):
        with torch.no_grad():
            x = module(x)
        cells, jump = cells // stride, jump * stride
        top = margin // jump
        wanted = x[..., top : top + cells, top : top + cells]
        torch.testing.assert_close(found[name], wanted, rtol=0, atol=1e-12)


@given(convolutions=CONVOLUTIONS)
@settings(max_examples=15)
def test_out_of_reach_of_padding_a_canvas_is_a_torus(convolutions):
    backbone, images = given_backbone(stack(convolutions)), leaves(64)
    taps = taps_of(backbone, ["*"], images)
    total = math.prod(stride for _, stride in convolutions)
    margin, _ = find_margin(backbone, taps, total)
    canvas = open_variant(backbone, parse_variant("canvas"), taps, images, margin)
    torus = open_variant(backbone, parse_variant("circular"), taps, images)
    with evaluating(backbone.model):
        assert padding_leakage(backbone, canvas, images) == 0.0
    found = maps(canvas, backbone, stretch(images, margin))
    for name, wanted in maps(torus, backbone, images).items():
        torch.testing.assert_close(found[name], wanted, rtol=0, atol=1e-10)
    if margin > total and any(kernel > 1 for kernel, _ in convolutions):
        close = open_variant(backbone, parse_variant("canvas"), taps, images, margin - total)
        with evaluating(backbone.model):
            assert padding_leakage(backbone, close, images) > 0


def test_a_copy_is_exact_and_the_original_stays(tiny):
    backbone = probe.load_backbone(tiny, "given")
    copied = exact_copy(backbone)
    assert copied.dtype == torch.float64
    assert backbone.dtype == torch.float32
    for a, b in zip(tiny.parameters(), copied.model.parameters(), strict=True):
        assert torch.equal(a.double(), b)

    class Whole(nn.Module):
        def __deepcopy__(self, memo):
            raise TypeError("no copies")

    alone = probe.load_backbone(Whole(), "given")
    assert exact_copy(alone) is alone
