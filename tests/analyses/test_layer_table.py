"""The table of layers: it says what a run would probe, and how."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

import probe
from probe.backbones import probe_layers
from probe.stimuli.leaves import Leaves


class Repeats(nn.Module):
    """One convolution that runs twice, a list, and a part that never runs."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 4, 4)
        self.twice = nn.Conv2d(6, 6, 3, padding=1)
        self.parts = nn.ModuleList([nn.Conv2d(6, 8, 2, 2)])
        self.idle = nn.Conv2d(3, 3, 1)
        self.head = nn.Linear(8, 2)

    def forward(self, x):
        x = self.twice(self.twice(self.stem(x)))
        return self.head(self.parts[0](x).mean((2, 3)))


def vit() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return timm.create_model("test_vit").eval()


def test_layers_stand_with_kind_shape_layout_stride_calls_and_what_takes_them():
    model = Repeats()
    table = probe.layers(model, image_size=(32, 48)).set_index("name")
    assert list(table.index) == ["stem", "twice:0", "twice:1", "parts.0"]
    assert list(table["kind"]) == ["Conv2d"] * 4
    assert list(table["calls"]) == [1, 2, 2, 1]
    assert list(table["convs"]) == [True, False, False, True]  # one of two calls is a choice
    last = table.loc["parts.0"]
    assert (last["channels"], last["height"], last["width"]) == (8, 4, 6)
    assert (last["row_stride"], last["column_stride"], last["layout"]) == (8, 8, "NCHW")
    assert last["decided"] == "Conv2d and measured"

    whole = probe.layers(model, image_size=32, left_out=True).set_index("name")["fault"]
    assert list(whole.index[4:]) == ["head", "parts", "idle"]
    assert "single place" in whole["head"]
    assert "list of modules" in whole["parts"]
    assert whole["idle"] == "never runs on an image"
    assert model.training


def test_the_table_tells_what_a_run_probes():
    model = vit()
    table = probe.layers(model)
    assert set(table["prefix"]) == {0, 1}
    x = Leaves((160, 160), 0).batch("certificate", 0, 2)
    with torch.no_grad():
        for preset in ("stages", "blocks", "convs"):
            probed = probe_layers(model, preset, x).layers
            assert [layer.name for layer in probed] == list(table.query(preset)["name"])
        everything = probe_layers(model, list(table["name"]), x).layers
    assert [layer.layout for layer in everything] == list(table["layout"])
    assert [layer.prefix for layer in everything] == list(table["prefix"])


def test_a_module_that_has_the_name_of_a_choice_can_be_chosen_as_the_table_says():
    model = vit()
    table = probe.layers(model, left_out=True).set_index("name")
    assert table.loc["blocks", "fault"].endswith("the glob [b]locks takes it")
    with torch.no_grad():
        (layer,) = probe_layers(
            model, "[b]locks", Leaves((160, 160), 0).batch("certificate", 0, 2)
        ).layers
    assert layer.name == "blocks"


def test_a_network_that_refuses_says_so():
    with pytest.raises(probe.ProbeError, match="refuses images of 2 × 2 pixels"):
        probe.layers(Repeats(), image_size=2)
