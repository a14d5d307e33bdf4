"""Layers: choosing them, and one canonical layout for every architecture."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import probe
from probe.backbones.choice import choose_layers, total_stride
from probe.backbones.layer import Layer
from probe.backbones.probed import evaluating, probe_layers


def tapped(name: str, layers="stages", size: int | None = None):
    model = timm.create_model(name, pretrained=False).eval()
    size = size or model.pretrained_cfg["input_size"][-1]
    x = torch.rand(2, 3, size, size)
    seen = {}
    with evaluating(model):
        taps = probe_layers(model, layers, x)
        taps.run(model, x, lambda layer, f: seen.__setitem__(layer.name, f.clone()))
        expected = model.forward_features(x)
    return taps, seen, expected


def test_stages_are_those_of_feature_info():
    taps, seen, _ = tapped("tf_efficientnet_lite0")
    assert [layer.name for layer in taps.layers] == [f"blocks.{i}" for i in (0, 1, 2, 4, 6)]
    assert [layer.channels for layer in taps.layers] == [16, 24, 40, 112, 320]
    assert [layer.height for layer in taps.layers] == [112, 56, 28, 14, 7]
    assert [layer.depth for layer in taps.layers] == [1, 2, 3, 4, 5]
    assert all(seen[layer.name].shape[1] == layer.channels for layer in taps.layers)
    # A module that happens to be called "stages" is not what the preset means.
    taps, _, _ = tapped("convnext_atto", size=64)
    assert [layer.name for layer in taps.layers] == [f"stages.{i}" for i in range(4)]


def test_tokens_come_without_their_prefix_in_rows():
    taps, seen, expected = tapped("deit_tiny_distilled_patch16_224", "blocks")
    layer = taps.layers[-1]
    assert (layer.layout, layer.prefix, layer.height, layer.width) == ("NLC", 2, 14, 14)
    assert len(taps.layers) == 12
    model_norm = seen[layer.name].permute(0, 2, 3, 1).reshape(2, 196, -1)
    torch.testing.assert_close(
        nn.functional.layer_norm(model_norm, (192,), eps=1e-6),
        expected[:, 2:],
        atol=1e-4,
        rtol=1e-4,
    )


def test_nhwc_comes_as_nchw():
    taps, seen, expected = tapped("swin_tiny_patch4_window7_224")
    assert {layer.layout for layer in taps.layers} == {"NHWC"}
    assert [layer.channels for layer in taps.layers] == [96, 192, 384, 768]
    last = seen[taps.layers[-1].name].permute(0, 2, 3, 1)
    torch.testing.assert_close(
        nn.functional.layer_norm(last, (768,)), expected, atol=1e-4, rtol=1e-4
    )


def test_images_that_are_not_square_keep_rows_and_columns_apart():
    model = timm.create_model("vit_tiny_patch16_224", img_size=(96, 160)).eval()
    x = torch.rand(2, 3, 96, 160)
    with evaluating(model):
        layer = probe_layers(model, ["blocks.0"], x).layers[0]
    assert (layer.height, layer.width, layer.prefix) == (6, 10, 1)


@pytest.mark.parametrize(
    ("name", "size", "first", "count"),
    [
        ("resnet18", 64, "layer1.0", 8),
        ("vit_tiny_patch16_224", 224, "blocks.0", 12),
        ("tf_efficientnet_lite0", 64, "blocks.0.0", 16),
        ("convnext_atto", 64, "stages.0.blocks.0", 12),
        ("swin_tiny_patch4_window7_224", 224, "layers.0.blocks.0", 12),
    ],
)
def test_blocks_are_the_architectures_blocks(name, size, first, count):
    taps, _, _ = tapped(name, "blocks", size)
    assert taps.layers[0].name == first
    assert len(taps.layers) == count


def test_convs_are_every_convolution_with_a_map():
    with pytest.warns(probe.ProbeWarning, match="single place"):
        taps, _, _ = tapped("mobilenetv3_small_100", "convs", 64)
    names = [layer.name for layer in taps.layers]
    assert "conv_stem" in names
    assert not any(".se." in name for name in names)


def test_globs_stay_within_a_part_of_a_name(tiny):
    assert choose_layers(tiny, ["stages.*"])[0] == ["stages.0", "stages.1", "stages.2"]
    assert len(choose_layers(tiny, ["stages.**"])[0]) == 3 + 12
    assert choose_layers(tiny, ["stages.[01].?"])[0] == [
        f"stages.{i}.{j}" for i in (0, 1) for j in range(4)
    ]
    names, exact = choose_layers(tiny, ["stages.2", "stages.*"])
    assert names == ["stages.2", "stages.0", "stages.1"]
    assert exact == {"stages.2"}


def test_what_matches_nothing_or_has_no_map_is_explained(tiny):
    x = torch.rand(2, 3, 64, 64)
    with pytest.raises(probe.ProbeError, match=r"stages\.0.*Did you mean"):
        choose_layers(tiny, ["stage.0"])
    with pytest.raises(probe.ProbeError, match=r"got \[\]"):
        choose_layers(tiny, [])
    with evaluating(tiny):
        with pytest.raises(probe.ProbeError, match="single place"):
            probe_layers(tiny, ["head"], x)
        tiny.stages[0][2] = tiny.stages[1][2]
        with pytest.raises(probe.ProbeError, match="2 times"):
            probe_layers(tiny, ["stages.0.2"], x)
        tiny.idle = nn.Conv2d(3, 3, 1)
        with pytest.raises(probe.ProbeError, match="never runs"):
            probe_layers(tiny, ["idle"], x)
        with pytest.raises(probe.ProbeError, match="64 × 64"):
            probe_layers(nn.Sequential(nn.Flatten(), nn.Linear(7, 7)), ["0"], x)


def test_models_that_refuse_channels_last_are_fed_the_default_format(tiny):
    class Strict(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = tiny.stages

        def forward(self, x):
            x = self.inner[1](self.inner[0](x))
            return self.inner[2](x.view(len(x), 12 * 16, -1).view(len(x), 12, 16, -1))

    x = torch.rand(2, 3, 64, 64)
    model = Strict()
    with evaluating(model):
        taps = probe_layers(model, ["inner.*"], x)
        seen = []
        taps.run(model, x, lambda layer, f: seen.append((layer.name, tuple(f.shape[2:]))))
    assert taps.memory_format == torch.contiguous_format
    assert seen == [("inner.0", (32, 32)), ("inner.1", (16, 16)), ("inner.2", (8, 8))]


def test_models_without_feature_info_have_their_blocks_probed(tiny):
    with evaluating(tiny), pytest.warns(probe.ProbeWarning, match="feature_info"):
        taps = probe_layers(tiny, "stages", torch.rand(2, 3, 64, 64))
    assert [layer.name for layer in taps.layers] == ["stages.0.0", "stages.1.0", "stages.2.0"]


@given(height=st.integers(1, 120), width=st.integers(1, 120))
def test_reduction_averages_equal_windows(height, width):
    layer = Layer("x", 1, 2, height, width, "NCHW", 0, (240, 240))
    x = torch.arange(2 * height * width, dtype=torch.float64).reshape(1, 2, height, width)
    reduced = layer.reduce(x)
    assert tuple(reduced.shape[2:]) == layer.places
    assert max(layer.places) <= 28
    # The image's rows, seen through the layer's cells, average to the same.
    up = np.kron(np.arange(height), np.ones(240))
    rows = Layer("x", 1, 1, height, 1, "NCHW", 0, (240 * height, 1)).rows @ up
    expected = torch.from_numpy(rows) * width + (x[0, 0, 0] @ _weights(width).T).mean()
    torch.testing.assert_close(reduced[0, 0].mean(1), expected, rtol=1e-6, atol=1e-6)


def _weights(size: int) -> torch.Tensor:
    from probe.backbones.layer import _window_weights

    return torch.from_numpy(_window_weights(size))


def test_total_stride_is_read_off_feature_info(tiny):
    assert total_stride(timm.create_model("resnet18")) == 32
    assert total_stride(timm.create_model("vit_tiny_patch16_224")) == 16
    assert total_stride(tiny, default=7) == 7


def test_what_receives_maps_is_out_of_the_reach_of_padding(tiny):
    """A readout's own convolutions and resizing must not be taken for the network's."""
    x = torch.rand(2, 3, 64, 64)
    with evaluating(tiny):
        taps = probe_layers(tiny, ["stages.1"], x)
        kept = {}

        def receive(layer, features):
            resized = F.interpolate(features, (28, 28), mode="bilinear", align_corners=True)
            kept["inside"] = (
                features.clone(),
                resized,
                F.conv2d(features, torch.ones(1, 12, 3, 3)),
            )

        with probe.padding("circular"):
            taps.run(tiny, x, receive)
    features, resized, summed = kept["inside"]
    outside = F.interpolate(features, (28, 28), mode="bilinear", align_corners=True)
    assert torch.equal(resized, outside)
    assert torch.equal(summed, F.conv2d(features, torch.ones(1, 12, 3, 3)))


SMALL_SWIN = {"img_size": 64, "window_size": 2, "embed_dim": 24, "num_heads": (1, 1, 2, 2)}


@pytest.mark.parametrize(
    ("name", "options", "first", "count", "stride"),
    [
        ("test_vit", {}, "model.blocks.0", 6, 16),
        ("test_resnet", {}, "act1", 5, 32),
        ("swin_tiny_patch4_window7_224", SMALL_SWIN, "layers_0", 4, 32),
    ],
)
def test_networks_of_features_only_keep_their_stages(name, options, first, count, stride, recwarn):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = timm.create_model(name, features_only=True, **options)
        images = torch.rand(2, 3, 64, 64)
    with evaluating(model):
        probed = probe_layers(model, "stages", images)
    assert (probed.layers[0].name, len(probed.layers)) == (first, count)
    assert total_stride(model) == stride
    assert not [w for w in recwarn if issubclass(w.category, probe.ProbeWarning)]


def test_registers_inside_features_only_are_no_places():
    options = {"img_size": 64, "patch_size": 16, "depth": 3, "embed_dim": 32, "num_heads": 2}
    model = timm.create_model("vit_small_patch14_reg4_dinov2", features_only=True, **options)
    with evaluating(model):
        layers = probe_layers(model, "stages", torch.rand(2, 3, 64, 64)).layers
    assert [(x.height, x.width, x.prefix) for x in layers] == [(4, 4, 5)] * 3


def test_stages_of_plain_modules_are_guessed_with_a_warning():
    def stage():
        block = [nn.Sequential(nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)) for _ in range(2)]
        return nn.Sequential(*block)

    model = nn.ModuleDict({"stem": nn.Conv2d(3, 3, 1), "body": nn.Sequential(stage(), stage())})
    with pytest.warns(probe.ProbeWarning, match=r"guessed to be body\.0 to body\.1"):
        assert choose_layers(model, "stages")[0] == ["body.0", "body.1"]
