"""Where the image's own size leaves no shift, another one is found."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from torch import nn

import probe


def seeded(build):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build().eval()


def halving(*strides):
    layers = [nn.Conv2d(3, 4, strides[0], strides[0])]
    layers += [nn.Conv2d(4, 4, 3, s, 1) for s in strides[1:]]
    return seeded(lambda: nn.Sequential(OrderedDict(zip("abcd", layers, strict=False))))


def test_a_size_that_no_shift_fits_is_left_for_one_that_it_does():
    # 224 pixels: 14, 7 and 4 places, of which only shifts by 224 pixels move whole ones.
    found = probe.certify(halving(16, 2, 2), "circular", layers=["a", "b", "c"])
    assert found.passed
    assert (found.image_size, found.shift) == ((448, 448), (64, 64))


def test_a_size_that_was_asked_for_stays():
    found = probe.certify(halving(16, 2, 2), layers=["a", "b", "c"], image_size=224)
    assert not found.passed
    assert "choose a larger image size" in found.reason


class Overlapping(nn.Module):
    """Patches that overlap, unpadded: 7 × 7 of them, but 8 × 8 around a torus."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Conv2d(3, 4, 16, 8)
        self.pos_embed = nn.Parameter(torch.randn(1, 4, 7, 7))
        self.conv = nn.Conv2d(4, 4, 3, 1, 1)

    def forward(self, x):
        return self.conv((self.embed(x) + self.pos_embed).tanh())


def test_an_embedding_for_fewer_places_than_a_torus_has_is_taken_away():
    net = seeded(Overlapping)
    kept = probe.certify(net, "circular", layers=["conv"], image_size=64)
    assert not kept.passed
    found = probe.certify(net, "no_position", layers=["conv"], image_size=64)
    assert found.passed
    assert found.shift == (32, 32)


class GlobalQuery(nn.Module):
    """Each place of a window asks with the query of that place of the whole map."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Conv2d(3, 8, 4, 4)
        self.pool = nn.AvgPool2d(4)

    def forward(self, x):
        x = self.embed(x)
        b, c, h, w = x.shape
        query = self.pool(x).flatten(2).transpose(1, 2).unsqueeze(1)
        windows = x.reshape(b, c, h // 4, 4, w // 4, 4).permute(0, 2, 4, 3, 5, 1)
        keys = windows.reshape(-1, 16, c).unsqueeze(1)
        query = query.repeat_interleave(len(keys) // b, dim=0)
        out = (query @ keys.transpose(-2, -1)).softmax(-1) @ keys
        out = out.reshape(b, h // 4, w // 4, 4, 4, c).permute(0, 1, 3, 2, 4, 5)
        return out.reshape(b, h, w, c).permute(0, 3, 1, 2)


def test_a_query_of_the_whole_map_for_each_window_is_named():
    net = seeded(GlobalQuery)
    found = probe.certify(net, "no_position", layers=["embed"], image_size=64)
    assert not found.passed
    assert found.sources == ("token mixing: GlobalQuery",)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pit_ti_224", "levit_128s", "vitamin_small_224"])
def test_families_that_want_another_size(name):
    assert probe.certify(name, "no_position").passed


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Conv2d(3, 4, 8, 8, bias=False)
        self.conv = nn.Conv2d(4, 4, 3, 1, 1)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x):
        x = self.embed(x)
        return x + self.norm(self.conv(x))


def test_branches_that_scales_of_zero_silence_are_counted_and_said():
    net = seeded(Residual)
    heard = probe.certify(net, "circular", layers=["embed", "norm"], image_size=64)
    assert heard.silent == () and "silent" not in heard.reason
    nn.init.zeros_(net.norm.weight)
    found = probe.certify(net, "circular", layers=["embed", "norm"], image_size=64)
    assert found.silent == ("norm.weight",)
    words = "1 branch is silent, by scales of 0 (norm.weight): nothing is "
    assert f"{words}proven about what they compute" in found.reason
    assert f"{words}shown" in probe.load_backbone(net, "given").caution
    nn.init.ones_(net.norm.weight)
    assert probe.load_backbone(net, "given").caution == ""
