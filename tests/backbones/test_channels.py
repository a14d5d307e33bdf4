"""Networks of other than three channels."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

import probe


class Gathered(nn.Module):
    """Four pixels become one before the first convolution, which is not the first in order."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.last = nn.Conv2d(8, 6, 3, 1, 1)
        self.first = nn.Conv2d(4 * channels, 8, 3, 1, 1)

    def forward(self, x):
        return self.last(self.first(nn.functional.pixel_unshuffle(x, 2)).relu())


class Patches(nn.Module):
    """Patches by a linear layer, as tokens."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm, self.embed = nn.LayerNorm(16 * channels), nn.Linear(16 * channels, 24)

    def forward(self, x):
        return self.embed(self.norm(nn.functional.unfold(x, 4, stride=4).transpose(1, 2)))


@pytest.mark.parametrize("channels", [1, 2, 3, 13])
def test_how_many_channels_a_network_takes(channels, state_of):
    norm_first = nn.Sequential(nn.BatchNorm2d(channels), nn.Conv2d(channels, 4, 3))
    for net in (Gathered(channels), Patches(channels), norm_first):
        net.train()
        before = state_of(net)
        assert probe.load_backbone(net, "given").channels == channels
        assert state_of(net) == before
    vit = timm.create_model("test_vit", in_chans=channels, img_size=32)
    backbone = probe.load_backbone(vit, "given", image_size=32)
    assert backbone.channels == len(backbone.std) == channels
    assert ("mean over these" in backbone.caution) == (channels != 3)
    stated = probe.load_backbone(vit, "given", image_size=32, mean=0.5, std=[0.2] * channels)
    assert stated.std == (0.2,) * channels and not stated.caution
    with pytest.raises(probe.ProbeError, match=f"mean: expected {channels} numbers"):
        probe.load_backbone(vit, "given", image_size=32, mean=[0.5] * 5)


@pytest.mark.parametrize("channels", [1, 13])
def test_every_analysis_takes_any_number_of_channels(channels):
    net = Gathered(channels).eval()
    options = {"image_size": 32, "train_images": 8, "test_images": 4, "progress": False}
    options |= {"targets": "vertical", "layers": "convs"}
    result = probe.run(net, variants=("original", "circular", "canvas"), **options)
    assert result.table["layer"].drop_duplicates().tolist() == ["input", "first", "last"]
    assert result.provenance["backbones"][0]["mean"] == [0.0] * channels
    images = torch.rand(12, channels, 32, 32)
    given = probe.run(net, variants="original", stimuli=images, **options)
    assert given.provenance["stimuli"]["name"] == "tensor"
    with pytest.raises(probe.ProbeError, match=f"takes {channels}-channel images"):
        probe.run(net, stimuli=torch.rand(12, 3, 32, 32), **options)
    assert probe.certify(net, image_size=32).passed
    assert not probe.certify(net, "original", image_size=32).passed
    assert set(probe.sources(net, image_size=32)["kind"]) == {"padding"}
    few = {k: v for k, v in options.items() if k not in ("layers", "targets")}
    assert len(probe.calibrate(net, layers="last", seeds=2, **{**few, "test_images": 8}).table)
    assert len(probe.attribute(net, "last", **few).table)
