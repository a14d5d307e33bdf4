"""Random weights: drawn from a seed, with the branches open that timm closes."""

from __future__ import annotations

import timm
import torch

import probe


def test_random_residual_branches_are_open():
    """As timm builds them with zero_init_last=False, from the same seed."""
    backbone = probe.load_backbone("resnet10t", "random", seed=3)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        wanted = timm.create_model("resnet10t", zero_init_last=False)
    for key, value in wanted.state_dict().items():
        assert torch.equal(backbone.model.state_dict()[key], value), key
    assert backbone.source == (
        "timm's initialisation, seed 3, with 4 closed branches or tables opened "
        "(layer1.0.bn2.weight, layer2.0.bn2.weight, …)"
    )
    assert "4 scales and tables that start at about 0 were opened" in backbone.caution


def test_where_nothing_is_closed_nothing_is_said():
    backbone = probe.load_backbone("mobilenetv3_small_050", "random", seed=3)
    assert backbone.source == "timm's initialisation, seed 3"
    assert not backbone.caution
