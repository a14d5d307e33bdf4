"""The null: what the pipeline finds where there is nothing, and how a calibration is kept."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import probe
from probe.analyses import calibration
from probe.analyses.calibration import COLUMNS, Calibration, load_calibration

OPTIONS = {
    "layers": ["stages.*"],
    "targets": ["horizontal", "gaussian"],
    "train_images": 12,
    "test_images": 32,
    "image_size": 64,
    "progress": False,
}


def test_intervals_exclude_nothing_that_is_there(tiny):
    """40 runs of a network without borders: a few of 240 intervals exclude 0, by chance."""
    found = probe.calibrate(tiny, seeds=40, **OPTIONS)
    assert list(found.table.columns) == COLUMNS
    assert len(found.table) == 40 * 3 * 2
    rate, low, high = found.rate
    excluded = (found.table["low"] > 0) | (found.table["high"] < 0)
    assert rate == pytest.approx(excluded.mean())
    assert low <= 0.05 <= high
    assert 0 < rate < 0.12
    assert abs(found.table["value"].mean()) < 0.01
    assert "5 % should" in found.summary()[0]


def test_a_network_with_position_is_no_null(tiny):
    class Given(type(tiny)):
        def forward(self, x):
            ramp = x.new_ones(x.shape[-1]).cumsum(0) / x.shape[-1]
            return super().forward(x + ramp)

    fixed = Given()
    with pytest.raises(probe.ProbeError, match="is no null"):
        probe.calibrate(fixed, seeds=2, **OPTIONS)
    with pytest.raises(probe.ProbeError, match="at least 8"):
        probe.calibrate(tiny, seeds=2, **{**OPTIONS, "test_images": 4})


def test_what_was_finished_is_kept_and_resumed(tiny, tmp_path, monkeypatch):
    whole = probe.calibrate(tiny, seeds=4, **OPTIONS)
    calls = []
    cells = calibration.seed_scores

    def interrupted(job, condition):
        calls.append(job.seed)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return cells(job, condition)

    monkeypatch.setattr(calibration, "seed_scores", interrupted)
    with pytest.raises(KeyboardInterrupt):
        probe.calibrate(tiny, seeds=4, folder=tmp_path, **OPTIONS)
    assert set(load_calibration(tmp_path).table["seed"]) == {0, 1}
    resumed = probe.calibrate(tiny, seeds=4, folder=tmp_path, **OPTIONS)
    assert calls == [0, 1, 2, 2, 3]
    pd.testing.assert_frame_equal(resumed.table, whole.table)
    again = load_calibration(tmp_path)
    pd.testing.assert_frame_equal(again.table, whole.table)
    np.testing.assert_equal(again.rate, whole.rate)
    # With other options nothing of it is taken over.
    probe.calibrate(tiny, seeds=2, folder=tmp_path, **{**OPTIONS, "train_images": 8})
    assert calls[5:] == [0, 1]


def test_a_folder_without_a_calibration(tmp_path):
    with pytest.raises(probe.ProbeError, match=r"calibration\.json is missing"):
        load_calibration(tmp_path)


def test_the_rate_has_an_interval_over_seeds():
    seeds = np.repeat(np.arange(40), 10)
    table = pd.DataFrame({"seed": seeds, "excludes_0": seeds < 2, "value": 0.0})
    table = table.assign(low=-0.1, high=0.1)
    exact = table.assign(low=0.0, high=0.0, excludes_0=False)  # says nothing, and is left out
    rate, low, high = Calibration(pd.concat([table, exact]), {}).rate
    assert rate == pytest.approx(0.05)
    assert low < 0.02  # two seeds of forty, not twenty cells of four hundred
    assert high > 0.1
    # Each interval counts, wherever seeds have fewer of them.
    fewer = pd.concat([table, exact]).drop(range(5))
    assert Calibration(fewer, {}).rate[0] == pytest.approx(15 / 395)
    none = table.assign(excludes_0=False)
    rate, low, high = Calibration(none, {}).rate
    assert (rate, low) == (0, 0)
    assert high == pytest.approx(1 - 0.025 ** (1 / 40))  # Clopper and Pearson, none of forty
    assert np.isnan(Calibration(none[none["seed"] < 7], {}).rate[1:]).all()
