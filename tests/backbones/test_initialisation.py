"""Random weights: drawn from a seed, with the branches open that timm closes."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

import probe


def test_random_residual_branches_are_open():
    """As timm builds them with zero_init_last=False, from the same seed."""
    backbone = probe.load_backbone("resnet10t", "random", seed=3, device="cpu")
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


class Plain(nn.Module):
    """Modules that know how they are initialised, and perhaps a table of the network's own."""

    def __init__(self, table=False):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8)
        self.block = nn.Conv2d(8, 8, 3, 1, 1)
        self.table = nn.Parameter(torch.randn(1, 8, 1, 1)) if table else 0

    def forward(self, x):
        return self.block(self.norm(self.stem(x)).relu() + self.table)


class Told(Plain):
    def init_weights(self):
        nn.init.normal_(self.table)


class Library(Plain):
    def init_weights(self):
        raise NotImplementedError("of pretrained ones alone")

    def _init_weights(self, module):
        if module is self:
            nn.init.normal_(self.table)


@pytest.mark.parametrize(("kind", "table"), [(Plain, False), (Told, True), (Library, True)])
def test_modules_are_drawn_anew_on_a_copy(kind, table, state_of):
    with torch.random.fork_rng():
        torch.manual_seed(5)
        model = kind(table).eval()
    model.norm.running_mean += 3
    before = state_of(model)
    one, again, other = (probe.load_backbone(model, w) for w in ("random", "random", "random:1"))
    assert state_of(model) == before
    assert one.sha256 == again.sha256 != other.sha256
    assert not one.model.norm.running_mean.any()
    assert one.source == "the module's own initialisation, seed 0"
    pairs = zip(model.named_parameters(), one.model.parameters(), strict=True)
    assert not any(torch.equal(p, q) for (name, p), q in pairs if "norm" not in name)
    options = {"image_size": 32, "train_images": 8, "test_images": 8, "progress": False}
    got = probe.run(model, weights=["given", "random"], layers=["block"], **options)
    assert set(got.table["weights"]) == {"given", "random"}
    assert "weights=['given', 'random']" in got.command()
    assert state_of(model) == before


def test_a_module_that_does_not_say_how_is_refused():
    with pytest.raises(probe.ProbeError, match=r"Plain does not say how table is initialised"):
        probe.load_backbone(Plain(table=True), "random")
    shared = nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 8, 3))
    with pytest.raises(probe.ProbeError, match="original"):
        probe.load_backbone(nn.Sequential(shared), "random")
