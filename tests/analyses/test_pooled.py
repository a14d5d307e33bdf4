"""Where a patch lies, read from a pooled vector: readers, controls, ablations, files, page."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from torch import nn

import probe
from probe.analyses.pooled import PlaceReader, channel_shares, load_pooled

SMALL = {"image_size": 32, "progress": False, "batch_size": 64}
COUNTS = {"train_images": 16, "test_images": 8, "grid": 3, "seeds": 2}


class Masked(nn.Module):
    """Channels that see one third of the rows or the columns each, and others that see all."""

    def __init__(self, tell=True):
        super().__init__()
        third = torch.arange(32) // 11
        rows = torch.stack([(third == n).float()[:, None].expand(32, 32) for n in range(3)])
        self.register_buffer("masks", torch.cat([rows, rows.mT]) if tell else torch.ones(6, 32, 32))
        self.out = nn.AvgPool2d(4)

    def forward(self, x):
        grey = x.mean(1, keepdim=True)
        generator = torch.Generator().manual_seed(0)
        mixed = torch.einsum("oc,bchw->bohw", torch.rand(10, 3, generator=generator), x)
        return self.out(torch.cat([mixed, grey * self.masks], 1))


@pytest.fixture(scope="module")
def found():
    return probe.pooled(Masked(), "out", name="masked", **COUNTS, **SMALL)


def values(found):
    return found.table.set_index(["channels", "ablated", "reader"])["value"]


def test_the_place_is_read_and_permuted_channels_do_not_tell_it(found):
    value = values(found)
    assert value["all", 0, "fixed"] > 0.95
    assert found.places.shape == (3, 3) and found.places.mean() == value["all", 0, "fixed"]
    assert value["permuted", 0, "refitted"] < 0.4
    table = found.table
    assert (table["low"] <= table["value"] + 1e-9).all() and table["low"].min() >= 0
    assert (table["high"] >= table["value"] - 1e-9).all() and table["high"].max() <= 1
    first = found.summary()[0]
    assert "at which of 3 × 3 places" in first and "(chance 0.11)" in first


def test_the_channels_that_tell_are_ranked_first_and_ablating_them_takes_it(found):
    assert set(found.ranking["channel"][:6]) == set(range(10, 16))
    value, half = values(found), 8
    assert value["without first", half, "refitted"] < 0.2
    assert value["without random", half, "refitted"] > value["without first", half, "refitted"]
    rows = found.table.set_index(["channels", "ablated", "reader"])
    row = rows.loc["without first", half, "refitted"]
    random = value["without random", half, "refitted"]
    assert row["difference"] == pytest.approx(row["value"] - random)
    assert row["difference_high"] < 0


def test_a_network_without_position_gives_chance():
    blind = probe.pooled(Masked(tell=False), "out", **COUNTS, **SMALL)
    assert blind.table.set_index("channels").loc["all", "value"] == pytest.approx(1 / 9, abs=0.06)
    assert blind.ranking["share"].max() < 1e-6


def test_a_reader_is_ridge_regression_in_either_form():
    rng = np.random.default_rng(0)
    wide = rng.normal(size=(4, 3, 40)) + 3 * rng.normal(size=(3, 40))
    reader = PlaceReader.fit(wide, 0.1)
    x = (wide.reshape(12, 40) - reader.mean) / reader.scale
    wanted = np.tile(np.eye(3) - 1 / 3, (4, 1))
    weights = np.linalg.solve(x.T @ x + 1.2 * np.eye(40), x.T @ wanted)
    assert np.allclose(reader.weights, weights)
    assert reader.hits(wide).all()
    shares = channel_shares(np.stack([wide[0], wide[0]]))
    assert np.allclose(shares, 1)


def test_files_are_read_back_and_the_page_asks_for_nothing(found, tmp_path):
    again = load_pooled(found.save(tmp_path))
    assert again.summary() == found.summary()
    assert again.table.equals(found.table) or np.allclose(
        again.table["value"], found.table["value"]
    )
    page = (tmp_path / "pooled.html").read_text()
    assert not re.search(r'(?:src|href)="(?!data:|#|https://arxiv)', page)
    assert "without random" in page


def test_what_cannot_be_done_is_said():
    for wrong, words in (
        ({"grid": 1}, "grid: expected a whole number of at least 2"),
        ({"grid": 16}, "expected at least 4 × 4"),
        ({"fill": 2}, "fill: expected"),
        ({"train_images": 2}, "at least 4 and 2 patches"),
    ):
        with pytest.raises(probe.ProbeError, match=words):
            probe.pooled(Masked(), "out", **{**COUNTS, **SMALL, **wrong})
