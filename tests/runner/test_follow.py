"""Position that comes from embeddings follows them when they are shifted; other position stays."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import probe

K = {"image_size": 64, "train_images": 16, "test_images": 32, "progress": False}
SHIFTED = "shifted_pos_embed"


class Embedded(nn.Module):
    """Patches with an embedding of a ramp, then convolutions that pad, or do not."""

    def __init__(self, strength: float, pads: bool) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 12, 8, 8)
        body = [nn.Conv2d(12, 12, 3, padding=1), nn.ReLU()] * 3 if pads else [nn.Conv2d(12, 12, 1)]
        self.body = nn.Sequential(*body)
        ramp = torch.linspace(0, strength, 8).expand(1, 12, 8, 8)
        self.pos_embed = nn.Parameter(ramp.clone())

    def forward(self, x):
        return self.body(self.patches(x) + self.pos_embed)


def scores(strength: float, pads: bool):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Embedded(strength, pads).eval()
    options = {"variants": ["original", SHIFTED], "targets": "horizontal"}
    result = probe.run(network, layers=["body"], **options, **K)
    rows = result.table[result.table["layer"] == "body"]
    return result, rows.set_index(["variant", "metric"])["value"]


def test_position_of_embeddings_follows_them():
    result, found = scores(3.0, pads=False)
    known = found["original", "spc"]
    assert known > 0.95
    assert found[SHIFTED, "follows"] == pytest.approx(known, abs=0.05)
    assert found[SHIFTED, "stays"] < 0.5
    shift = result.provenance["shifts"][SHIFTED]
    (down, right) = shift["by"]
    assert shift["places"] == [8, 8] and (down, right) != (0, 0)
    said = f"shifted by {down} rows and {right} columns of 8 × 8 places"
    assert any(said in sentence for sentence in result.verdict())
    assert "follows" not in set(result.table.query("variant == 'original'")["metric"])


def test_position_of_padding_stays():
    _, found = scores(1e-3, pads=True)
    known = found["original", "spc"]
    assert known > 0.7
    assert found[SHIFTED, "stays"] == pytest.approx(known, abs=0.05)
    assert found[SHIFTED, "follows"] < 0.5


def test_without_the_network_as_trained_there_is_no_readout_to_follow():
    network = Embedded(3.0, pads=False).eval()
    result = probe.run(network, layers=["body"], variants=SHIFTED, targets="horizontal", **K)
    assert "follows" not in set(result.table["metric"])
