"""On a torus every layer of a real network is equivariant; with its own padding none is."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import probe
from probe.certificates import certify
from probe.layers import evaluating, tap
from probe.stimuli import Leaves


def certificate(backbone, variant, layers, size=224, seed=0):
    images = Leaves((size, size), seed).batch("certificate", 0, 2)
    with evaluating(backbone.model):
        taps = tap(backbone.model, layers, backbone.normalise(images))
        return certify(backbone, variant, taps, images)


def test_on_a_torus_every_layer_of_the_real_network_is_equivariant(lite):
    """Every convolution, normalisation and activation with a map, not only the stages."""
    seen = certificate(lite, "circular", ["conv_stem", "blocks.**", "conv_head"])
    assert len(seen.layers) > 100
    assert seen.passes
    assert seen.residual == max(seen.layers.values()) <= 1e-5


@pytest.mark.parametrize("variant", ["original", "zeros", "reflect", "replicate"])
def test_every_other_border_leaves_position_behind(lite, variant):
    seen = certificate(lite, variant, "stages")
    assert not seen.passes
    assert seen.residual > 0.01
    assert "blocks.0" in seen.reason


@pytest.mark.parametrize(
    "name",
    [
        "tf_efficientnet_lite1",
        "tf_efficientnet_lite2",
        "resnet18",
        "vgg11",
        "mobilenetv3_small_100",
    ],
)
def test_other_architectures(name):
    weights = "pretrained" if name.startswith("tf_") else "random"
    backbone = probe.load_backbone(name, weights)
    size = 288 if name.endswith("lite2") else 128
    assert certificate(backbone, "circular", "stages", size).passes
    assert not certificate(backbone, "original", "stages", size).passes


def test_a_surviving_source_of_position_fails_the_torus():
    class Embedded(nn.Module):
        def __init__(self):
            super().__init__()
            self.early = nn.Conv2d(3, 4, 3, 2, 1)
            self.late = nn.Conv2d(4, 4, 3, 1, 1)
            self.position = nn.Parameter(torch.randn(1, 4, 16, 16))

        def forward(self, x):
            return self.late(self.early(x) + self.position)

    torch.manual_seed(0)
    backbone = probe.load_backbone(Embedded(), "given")
    seen = certificate(backbone, "circular", ["early", "late"], 32)
    assert seen.layers["early"] <= 1e-5 < seen.layers["late"]
    assert "late" in seen.reason
    assert not seen.passes


def test_a_network_that_upsamples_is_shifted_by_its_greatest_stride():
    torch.manual_seed(0)
    down = [nn.Conv2d(a, 6, 3, 2, 1) for a in (3, 6, 6)]
    up = [nn.ConvTranspose2d(6, 6, 4, 2, 1) for _ in range(3)]
    backbone = probe.load_backbone(nn.Sequential(*down, *up), "given")
    assert certificate(backbone, "circular", ["5"], 64).passes


def test_where_no_shift_moves_whole_places_nothing_is_certified():
    backbone = probe.load_backbone(nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.ReLU()), "given")
    seen = certificate(backbone, "circular", ["0"], 64)
    assert math.isnan(seen.residual)
    assert not seen.passes
    assert "31 rows" in seen.reason
