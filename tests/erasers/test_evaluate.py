"""What is left after erasing, what else changed, and matching with a known truth."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

import probe
from probe.backbones.layer import Layer
from probe.erasers import MeanEraser, content_maps, gather, match
from probe.erasers.evaluate import _ranks_alone, _read
from probe.readouts.spec import ReadoutSpec
from probe.scores.tables import score_rows

PLANTED = ("horizontal", "vertical")
SMALL = {"image_size": 64, "progress": False, "batch_size": 64}


class Planted(nn.Module):
    """Mean colours of patches, a position map added to two more channels."""

    def __init__(self, strength=1.0):
        super().__init__()
        self.patches = nn.AvgPool2d(8)
        self.out = nn.Identity()
        ramp = torch.linspace(-1, 1, 8)
        grids = torch.stack([ramp.expand(8, 8), ramp.expand(8, 8).T])
        self.register_buffer("grids", strength * grids)

    def forward(self, x):
        colours = self.patches(x)
        mixed = colours[:, :2] + colours[:, 2:] + self.grids
        return self.out(torch.cat([colours, mixed], 1))


@pytest.fixture(scope="module")
def gathered():
    return gather(Planted(), ["out"], train_images=256, **SMALL)


def test_what_is_left_and_what_stays(gathered):
    options = {"train_images": 64, "test_images": 64, "readers": [("ridge", 1), ("softmax", None)]}
    for how in ("mean", "project"):
        evaluation = gathered.eraser("out", how, PLANTED).evaluate(Planted(), **options, **SMALL)
        table = evaluation.table
        spc = table[(table["metric"] == "spc") & (table["readout"] == "ridge")]
        spc = spc.set_index(["target", "state"])
        assert spc.loc[("vertical", "before"), "value"] > 0.95
        assert (spc.xs("after", level="state")["value"].abs() < 0.1).all()
        assert (spc["low"] <= spc["value"]).all() and (spc["value"] <= spc["high"]).all()
        assert set(table["readout"]) >= {"ridge", "softmax"}
        colour = table[table["target"] == "mean colour"].set_index("state")["value"]
        assert colour["before"] > 0.99 and colour["after"] > 0.99
        change = table[table["kind"] == "change"].set_index("metric")
        share = gathered.eraser("out", how, PLANTED).record["share"]
        assert change.loc["variance kept", "value"] == pytest.approx(1 - share, abs=0.05)
        assert 0 < change.loc["cosine", "value"] < 1
        assert any("SPC of ridge: before at most" in s for s in evaluation.summary())
    with pytest.raises(probe.ProbeError, match="give both"):
        gathered.eraser("out", how).evaluate()


def test_an_eraser_of_nothing_changes_no_number():
    eraser = MeanEraser(torch.zeros(5, 8, 8))
    few = {"train_images": 16, "test_images": 8, "readers": [("ridge", 1)]}
    table = eraser.evaluate(Planted(), "out", **few, **SMALL).table
    wide = table.pivot(index=["readout", "target", "metric"], columns="state", values="value")
    kept = wide.drop(index=[i for i in wide.index if i[1] == "features"])
    assert np.array_equal(kept["before"], kept["after"])
    change = table[table["kind"] == "change"]["value"]
    assert np.allclose(change, 1)


def test_a_readout_that_cannot_see_the_layer_is_left_out_and_said():
    eraser = MeanEraser(torch.zeros(5, 2, 2))
    with pytest.warns(probe.ProbeWarning, match="left out"):
        eraser.evaluate(
            nn.Sequential(Planted().patches, nn.AvgPool2d(4), nn.Conv2d(3, 5, 1)), "2",
            train_images=8, test_images=8, readers=[("ridge", 1), ("ridge", 3)], **SMALL,
        )  # fmt: skip


def test_colour_and_orientation_of_patches():
    layer = Layer("", 1, 1, 2, 2, "NCHW", 0, (64, 64))
    y, x = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    for angle in (0, 30, 90):
        turn = math.radians(angle)
        wave = 0.5 + 0.4 * torch.sin(0.4 * (x * math.cos(turn) + y * math.sin(turn)))
        maps = content_maps(wave.expand(1, 3, -1, -1), layer)
        wanted = torch.tensor([math.cos(2 * turn), math.sin(2 * turn)])
        assert torch.allclose(maps[0, 3:].mean((1, 2)), wanted, atol=0.06)
    image = torch.zeros(1, 3, 64, 64)
    image[:, 0, :32] = 1
    assert torch.allclose(content_maps(image, layer)[0, 0], torch.tensor([[1.0, 1], [0, 0]]))


def test_matches_are_right_without_position_and_pulled_by_it():
    clean = match(Planted(0.0), "out", {}, pairs=16, **SMALL).set_index("match")
    assert clean.loc["right", "value"] > 0.99
    assert clean.loc["same", "value"] < 0.05
    assert clean.loc["right", "chance"] == pytest.approx(9 / 64, abs=0.04)
    pulled = gather(Planted(5.0), ["out"], train_images=256, **SMALL)
    erasers = {how: pulled.eraser("out", how, PLANTED) for how in ("mean", "project")}
    table = match(Planted(5.0), "out", erasers, pairs=16, **SMALL)
    assert list(table["method"].unique()) == ["plain", "mean", "project"]
    values = table.set_index(["method", "match"])["value"]
    assert values["plain", "same"] > 0.9 > 0.1 > values["plain", "right"]
    assert values["mean", "right"] > 0.8 and values["mean", "same"] < 0.1
    assert values["project", "same"] < 0.1 and values["project", "right"] > 0.8
    with pytest.raises(probe.ProbeError, match="too few for shifts"):
        match(nn.Sequential(nn.AvgPool2d(16)), "0", {}, pairs=2, **SMALL)


@pytest.mark.parametrize(
    ("kind", "said"), [("skewed", True), ("noise", False), ("position", False)]
)
def test_ranks_that_no_linear_readout_explains_are_told_apart(kind, said):
    """Features of mean 0 at every place, whose median rises from left to right, have no R²."""
    draw = np.random.default_rng(0)
    ramp, size = np.linspace(-1, 1, 8), (256, 1, 8, 8)
    noise = draw.normal(size=size)
    maps = {
        "skewed": -ramp * (np.exp(1.5 * noise - 1.125) - 1),
        "noise": noise,
        "position": ramp + 0.5 * noise,
    }[kind]
    train, test = torch.from_numpy(maps).float().split(128)
    layer = Layer("x", 1, 1, 8, 8, "NCHW", 0, (64, 64))
    scored = _read(ReadoutSpec("ridge", 1, False, 0), layer, ["horizontal"], train, test, 0)
    rows = score_rows(scored, None, False, 0, np.arange(128))
    table = rows.assign(kind="position", readout="ridge", state="after")
    assert bool(_ranks_alone(table)) == said
    spc, r2 = (table.loc[table["metric"] == m, "value"].item() for m in ("spc", "r2"))
    assert (abs(spc) > 0.2) == (kind != "noise")
    assert (r2 > 0.5) == (kind == "position")
