"""Keyword arguments of a network's own forward pass."""

from __future__ import annotations

import inspect

import pytest
import torch
from torch import nn

import probe

K = {"train_images": 8, "test_images": 8, "batch_size": 8, "progress": False}


class Fixed(nn.Module):
    """A network that takes 32 × 32 pixels unless told to resample, as those of transformers do."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.patches = nn.Conv2d(3, 8, 8, 8)
            self.table = nn.Parameter(torch.randn(1, 8, 4, 4))
        self.block = nn.Identity()

    def forward(self, pixel_values, interpolate_pos_encoding=False, *, scale=1.0):
        x = self.patches(pixel_values)
        table = self.table
        if x.shape[2:] != table.shape[2:]:
            if not interpolate_pos_encoding:
                raise ValueError("image size doesn't match model")
            table = nn.functional.interpolate(table, x.shape[2:])
        return self.block(x + scale * table)

    def forward_features(self, x):
        raise AssertionError("takes no such keyword")


def test_they_reach_every_call_and_nothing_is_left(state_of):
    model = Fixed()
    before = state_of(model)
    options = {"forward_kwargs": {"interpolate_pos_encoding": True}}
    given = probe.run(model, layers=["block"], image_size=64, targets="vertical", **K, **options)
    assert given.layers == ["input", "block"]
    assert given.provenance["options"]["forward_kwargs"] == options["forward_kwargs"]
    assert "forward_kwargs={'interpolate_pos_encoding': True}" in given.command()
    assert probe.certify(model, "no_pos_embed", image_size=64, **options).passed
    assert not probe.certify(model, "circular", image_size=64, **options).passed
    assert "position embedding" in set(probe.sources(model, image_size=64, **options)["kind"])
    assert "block" in set(probe.layers(model, image_size=64, **options)["name"])
    arrays = probe.features(model, layers=["block"], count=2, image_size=64, **options)
    assert arrays["block"].shape == (2, 8, 8, 8)
    assert state_of(model) == before
    with pytest.raises(probe.ProbeError, match="image size doesn't match"):
        probe.certify(model, image_size=64)


def test_their_values_count():
    shown = {
        scale: probe.features(
            Fixed(), layers=["block"], count=1, image_size=32, forward_kwargs={"scale": scale}
        )["block"]
        for scale in (0.0, 1.0)
    }
    assert abs(shown[1.0] - shown[0.0] - Fixed().table.detach().numpy()).max() < 1e-6


@pytest.mark.parametrize(
    ("model", "given", "words"),
    [
        (Fixed(), {"interpolate": True}, "unknown forward_kwargs 'interpolate'.*interpolate_pos"),
        (Fixed(), {"pixel_values": 1}, "unknown forward_kwargs 'pixel_values'"),
        (Fixed(), ["scale"], "expected a mapping of names, got"),
        ("resnet10t", {"scale": 2}, "are for a module"),
    ],
)
def test_what_can_not_be_passed_is_refused(model, given, words):
    with pytest.raises(probe.ProbeError, match=words):
        probe.run(model, weights="random", image_size=32, forward_kwargs=given, **K)


def test_every_analysis_of_one_network_takes_them():
    for name in (
        *("run", "attribute", "calibrate", "ladder", "consistency", "features", "erase"),
        *("erasure", "pooled", "certify", "sources", "layers"),
    ):
        assert "forward_kwargs" in inspect.signature(getattr(probe, name)).parameters, name


def test_networks_of_the_transformers_library_take_their_own():
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = transformers.Dinov2Config(**sizes, image_size=28, patch_size=14, mlp_ratio=2)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = transformers.Dinov2Model(config).eval()
    with pytest.raises(probe.ProbeError):
        probe.certify(
            transformers.SiglipVisionModel(
                transformers.SiglipVisionConfig(
                    **sizes, intermediate_size=32, image_size=32, patch_size=8
                )
            ),
            image_size=64,
        )
    got = probe.run(model, layers=["encoder.layer.*"], image_size=56, targets="vertical", **K)
    assert len(got.layers) == 3
