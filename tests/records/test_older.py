"""Folders that 0.4.0 saved: read with everything in them, and shown."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import probe
from probe.report import page

SAVED = Path(__file__).parent.parent / "data" / "0.4.0"
EXPECTED = json.loads((SAVED / "expected.json").read_text())


@pytest.fixture(scope="module")
def older():
    return probe.load(SAVED / "resnet10t")


def test_it_says_what_it_held(older):
    """In today's words, with intervals that allow for the choice of the best."""
    assert older.provenance["versions"]["position-probe"] == "0.4.0"
    assert older.verdict() == EXPECTED["verdict"]
    assert older.command() == EXPECTED["command"]
    assert len(older.table) == EXPECTED["rows"]
    rows = older.table.query("metric == 'spc' and layer == 'layer2' and target == 'vertical'")
    assert rows.query("variant == 'original'")["value"].iloc[0] == EXPECTED["spc"]
    assert older.pattern["random", "original", "layer2"].snr == EXPECTED["snr"]


def test_its_stripes_are_those_of_then_and_it_says_so(tmp_path):
    with pytest.warns(probe.ProbeWarning, match=r"stripes are those of version 0\.4\.0"):
        older = probe.load(SAVED / "resnet10t")
    assert sum("2.56 periods" in text for text in older.provenance["warnings"]) == 1
    assert "2.56 periods" in page(older)
    stripes = older.true_map("layer1", "horizontal_stripes")
    assert np.ptp(stripes, axis=1).min() > 0.5  # along the horizontal axis
    np.testing.assert_allclose(np.ptp(stripes, axis=0), 0, atol=1e-12)
    with pytest.warns(probe.ProbeWarning, match=r"stripes are those of version 0\.4\.0"):
        again = probe.load(older.save(tmp_path))
    np.testing.assert_array_equal(again.true_map("layer1", "horizontal_stripes"), stripes)


def test_what_lies_beside_it_is_read(older):
    assert len(older.attribution) == EXPECTED["attribution"]
    assert older.calibration.summary() == EXPECTED["calibration"]
    assert len(older.planted) == EXPECTED["planted"]


def test_it_is_drawn_and_saved_again(older, tmp_path):
    text = page(older)
    for anchor in (
        "depth",
        "padding",
        "maps",
        "reach",
        "pattern",
        "who",
        "controls",
        "certificate",
    ):
        assert f'<h2 id="{anchor}">' in text
        assert f'<a href="#{anchor}">' in text
    again = probe.load(older.save(tmp_path / "again"))
    assert again.table.equals(older.table)
    assert again.verdict() == older.verdict()
