"""The ladder: no border, as trained, coordinates given."""

from __future__ import annotations

import copy
import dataclasses
import re

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import probe
from probe.analyses.ladder.coordinates import give_coordinates
from probe.analyses.ladder.ladder import load_ladder
from probe.analyses.ladder.rungs import INSTANCE_COLUMNS, RUNGS
from probe.coordconv.layers import CoordinateTerm
from probe.records.verdict import KNOWS
from probe.stimuli.leaves import Leaves

OPTIONS = {"layers": ["stages.*"], "image_size": 64, "batch_size": 16, "progress": False}
INSTANCES = pd.DataFrame(
    [("circular", 0.4, 0.4, 0.4), ("zeros", 0.97, 0.95, 0.99), ("coordconv", 1.0, 1.0, 1.0)],
    columns=["border", "value", "least", "most"],
).assign(low=np.nan, high=np.nan, seeds=3, chance=0.4)[INSTANCE_COLUMNS]


@pytest.fixture(scope="module")
def found(tiny_module):
    options = {"train_images": 48, "test_images": 32, "strength": 1.0, "name": "<i>tiny</i>"}
    return probe.ladder(tiny_module, **options, **OPTIONS)


@pytest.fixture(scope="module")
def tiny_module():
    from conftest import Tiny

    with torch.random.fork_rng():
        torch.manual_seed(3)
        return Tiny()


def test_position_climbs_from_nothing_to_what_is_given(found):
    heights = found.heights
    assert list(heights.columns) == list(RUNGS)
    assert list(heights.index) == ["stages.0", "stages.1", "stages.2"]
    assert heights["no border"].abs().max() < 0.1
    assert found.provenance["certified"]
    assert (heights["coordinates"] > heights["as trained"] + 0.1).all()
    rows = found.table.set_index(["rung", "layer", "target", "metric"]).sort_index()
    for layer in found.layers:
        for rung in ("coordinates", "coordinates, no border"):
            assert (rows.loc[(rung, layer, ["horizontal", "vertical"], "spc"), "low"] > KNOWS).all()
    assert set(rows.loc["no border", "variant"]) == {"circular"}
    assert set(found.table["weights"]) == {"given"}


def test_the_network_stays_as_it_was(tiny_module):
    before = copy.deepcopy(tiny_module.state_dict())
    tiny_module.train()
    state = torch.random.get_rng_state()
    probe.ladder(tiny_module, train_images=4, test_images=8, at="stem", **OPTIONS)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert tiny_module.training
    assert all(torch.equal(before[k], v) for k, v in tiny_module.state_dict().items())
    assert not any(m._forward_hooks for m in tiny_module.modules())


def test_coordinates_have_the_strength_that_was_asked_for(tiny_module):
    backbone = probe.load_backbone(tiny_module, "given")
    given = give_coordinates(backbone, (64, 64), strength=0.5)
    first, plain = given.stages[0][0], tiny_module.stages[0][0]
    images = backbone.normalise(Leaves((64, 64), 0).batch("train", 0, 8))
    with torch.no_grad():
        own = plain(images)
        part = first(images) - own
    ratio = part.std((0, 2, 3)) / own.std((0, 2, 3))
    np.testing.assert_allclose(ratio, 0.5, rtol=0.01)
    terms = [m for m in given.modules() if isinstance(m, CoordinateTerm)]
    assert len(terms) == 3
    assert all(m.coord_weight.count_nonzero() == 2 * m.out_channels for m in terms)
    again = give_coordinates(backbone, (64, 64), strength=0.5)
    assert torch.equal(again.stages[2][0].coord_weight, given.stages[2][0].coord_weight)
    other = give_coordinates(backbone, (64, 64), strength=0.5, seed=1)
    assert not torch.equal(other.stages[2][0].coord_weight, given.stages[2][0].coord_weight)


def test_coordinates_have_it_on_small_maps_and_in_transposed_convolutions_too():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(3, 8, 3, 16, 1),
            nn.ReLU(),
            nn.ConvTranspose2d(8, 5, 3, 2, 1),
            nn.ReLU(),
            nn.Conv2d(5, 2, 2, 2),
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(2, 4, 1),
        )
    backbone = probe.load_backbone(model.eval(), "given")
    given = give_coordinates(backbone, (64, 96), strength=0.4)
    x = backbone.normalise(Leaves((64, 96), 0).batch("train", 0, 8))
    with torch.no_grad():
        for plain, inflated in zip(model, given, strict=True):
            if isinstance(inflated, CoordinateTerm) and x.shape[-1] > 1:
                own = plain(x).double()
                part = inflated(x).double() - own
                spread = part[0].flatten(1).std(1) / own.transpose(0, 1).flatten(1).std(1)
                np.testing.assert_allclose(spread, 0.4, rtol=1e-3)
            x = plain(x)
    assert not given[6].coord_weight.any()
    found = probe.ladder(
        model, layers=["0", "2"], image_size=(64, 96), train_images=4, test_images=8, progress=False
    )
    assert found.provenance["inflated"] == ["0", "2", "4"]


def test_a_ladder_is_loaded_as_it_was_saved(found, tmp_path):
    whole = dataclasses.replace(found, instances=INSTANCES)
    loaded = load_ladder(whole.save(tmp_path / "deep"))
    pd.testing.assert_frame_equal(loaded.table, found.table)
    pd.testing.assert_frame_equal(loaded.instances, INSTANCES, check_dtype=False)
    assert loaded.summary() == whole.summary()
    assert (tmp_path / "deep" / "ladder.png").stat().st_size > 10_000
    assert load_ladder(found.save(tmp_path / "plain")).instances is None
    with pytest.raises(probe.ProbeError, match=r"ladder\.json is missing"):
        load_ladder(tmp_path)


def test_summary_and_page_say_what_was_measured(found, tmp_path):
    whole = dataclasses.replace(found, instances=INSTANCES)
    assert len(whole.plot().axes) == len(found.plot().axes) + 1
    sentences = whole.summary()
    assert f"{found.heights['coordinates'].mean():.2f} with coordinates" in sentences[1]
    assert "0.40 without a border, 0.97 with zero padding" in sentences[-1]
    text = whole.to_html(tmp_path / "ladder.html").read_text()
    # A panel each, so that a phone shows them one below the other, at their size.
    assert text.count('role="img"') == len(found.provenance["options"]["targets"]) + 1
    assert all(float(w) <= 300 for w in re.findall(r'viewBox="0 0 ([\d.]+) ', text))
    assert "<i>tiny</i>" not in text and "&lt;i&gt;tiny&lt;/i&gt;" in text
    assert "http" not in text.replace("http://www.w3.org/", "")
    doubtful = {**found.provenance, "certified": False, "reason": "an embedding"}
    assert "not certified" in dataclasses.replace(found, provenance=doubtful).summary()[-1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strength": 0}, "strength: expected a number greater than 0, got 0"),
        ({"at": "nowhere"}, "nowhere"),
        ({"targets": "diagonal"}, "diagonal"),
    ],
)
def test_what_can_not_be_done_is_said(tiny_module, options, message):
    with pytest.raises(probe.ProbeError, match=message):
        probe.ladder(tiny_module, train_images=4, test_images=8, **OPTIONS, **options)
