"""More test images until differences are precise: nothing twice, the same bits, true coverage."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import probe
from probe.errors import ProbeError
from probe.runner.precision import grow
from probe.scores.intervals import bootstrap_interval
from probe.stimuli import Leaves

OPTIONS = {
    "layers": ["0"], "targets": "vertical", "variants": ["original", "circular"],
    "train_images": 8, "batch_size": 16, "image_size": 32, "device": "cpu", "progress": False,
}  # fmt: skip


def coverage(draws: int, first: int = 16, precision: float = 0.1, seed: int = 0) -> float:
    """How often the interval at the stopping time holds the true mean."""
    rng, holds = np.random.default_rng(seed), 0
    for draw in range(draws):
        truth = rng.uniform(-0.5, 0.5)
        spread = rng.uniform(0.1, 0.3)
        scenes = [truth + spread * rng.standard_normal(first)]

        def interval(draw=draw, scenes=scenes):
            return bootstrap_interval(np.concatenate(scenes), draw)

        def width(_, interval=interval):
            low, high = interval()
            return float(high - low)

        def add(start, stop, truth=truth, spread=spread, scenes=scenes):
            scenes.append(truth + spread * rng.standard_normal(stop - start))

        counts = grow(first, 1024, 1, precision, width, add)
        assert counts[-1] == sum(map(len, scenes)) and width(0) <= precision
        low, high = interval()
        holds += low <= truth <= high
    return holds / draws


def test_intervals_at_the_stopping_time_cover_the_truth():
    assert coverage(60) >= 0.88  # 0.95 less 2.5 of its standard errors


def test_images_are_added_until_differences_are_precise_and_none_runs_twice(monkeypatch):
    torch.manual_seed(0)
    net, seen = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU()), []
    batch = Leaves.batch

    def watched(self, split, start, stop, margin=0):
        seen.extend(range(start, stop) if split == "test" else ())
        return batch(self, split, start, stop, margin)

    monkeypatch.setattr(Leaves, "batch", watched)
    result = probe.run(net, test_images=16, precision=0.01, **OPTIONS)
    record, taken = result.provenance["precision"], result.provenance["options"]["test_images"]
    assert record["met"] and record["reached"] <= 0.01 == record["asked"]
    assert record["steps"][0] == 16 < record["steps"][-1] == taken
    later = [scene for scene in seen if scene]  # the first is looked at before the run too
    assert sorted(later) == list(range(1, taken // 4))  # scenes of four, each once
    assert "test_images=16, precision=0.01" in result.command()
    spc = result.table.query("metric == 'spc'")
    assert (spc["difference_high"] - spc["difference_low"]).max() == record["reached"]
    assert result.per_image["image"].max() == taken - 1
    assert result.table.equals(probe.run(net, test_images=taken, **OPTIONS).table)


def test_what_can_not_be_reached_is_said():
    net, images = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1)), np.random.default_rng(0).random
    with pytest.warns(probe.ProbeWarning, match=r"precision 0.001 was not reached: after 8 test"):
        result = probe.run(
            net, stimuli=images((40, 3, 32, 32)), test_images=8, precision=0.001, **OPTIONS
        )
    assert not result.provenance["precision"]["met"]
    with pytest.raises(ProbeError, match="a width of intervals"):
        probe.run(net, precision=0, **OPTIONS)
