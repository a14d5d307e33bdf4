"""A readout of one's own, put into the registry, runs, scores and is reported like the others."""

from __future__ import annotations

import subprocess
import sys
from typing import Self

import numpy as np
import pytest
import torch
from torch import Tensor

import probe
from probe.readouts import READOUTS, Readout, ReadoutSpec, as_features, as_targets, with_controls


class LeastSquares(Readout):
    """Ordinary least squares at each place, the same everywhere.

    It also says how often it is right about the upper half.
    """

    name = "squares"
    kernels = (1, 3)  # of which it sees but the middle

    def __init__(self, kernel: int = 1) -> None:
        self.kernel = kernel
        self.reset()

    def reset(self) -> Self:
        self.batches: list[Tensor] = []
        self.weights: Tensor | None = None
        return self

    def partial_fit(self, features, fold: int = 0) -> Self:
        self.batches.append(self._columns(features))
        return self

    def solve(self, targets, order=None) -> Self:
        wanted = with_controls(as_targets(targets), order).flatten(1).T
        x = torch.cat(self.batches)
        y = wanted.repeat(len(x) // len(wanted), 1)
        self.weights = torch.linalg.lstsq(x, y, driver="gelsd").solution
        self.batches = []
        return self

    def predict(self, features) -> Tensor:
        size = self.places(*features.shape[2:])
        values = self._columns(features) @ self.weights
        return values.unflatten(0, (len(features), *size)).movedim(-1, 1)

    def extra_chance(self, height, width):
        return {("half", "share"): 0.5}

    def predict_and_score(self, features):
        maps = self.predict(features)
        upper = torch.arange(maps.shape[2])[:, None] < maps.shape[2] / 2
        right = (maps[:, 0] < 0.5) == upper
        return maps, {("half", "share"): right.double().mean((1, 2))}

    def _columns(self, features) -> Tensor:
        edge, x = self.kernel // 2, as_features(features).double()
        x = x[:, :, edge : x.shape[2] - edge, edge : x.shape[3] - edge]
        flat = x.movedim(1, -1).flatten(0, 2)
        return torch.cat([flat, torch.ones(len(flat), 1, dtype=flat.dtype)], 1)


@pytest.fixture
def squares(monkeypatch):
    monkeypatch.setitem(READOUTS, "squares", LeastSquares)


def test_it_runs_scores_and_is_reported(squares, tiny, tiny_options, tmp_path):
    options = tiny_options | {"targets": ["vertical", "horizontal"], "train_images": 32}
    got = probe.run(tiny, readout="squares", **options)
    assert set(got.table["readout"]) == {"squares"}
    rows = got.table.query("layer == 'stages.2' and variant == 'original'").set_index("metric")
    assert rows.loc["spc", "value"].min() > 0.3
    assert rows.loc["share", "low"] > 0.5 and rows.loc["share", "chance"] == 0.5
    # It is a ridge without regularisation, of which there is next to none either.
    ridge = probe.run(tiny, **options).table
    values = got.table.merge(ridge, on=["variant", "layer", "target", "metric"])
    deep = values.query("layer == 'stages.2' and metric == 'spc'")
    np.testing.assert_allclose(deep["value_x"], deep["value_y"], atol=0.1)
    assert got.provenance["alphas"] == []
    assert "--readout squares" in got.command() or "readout='squares'" in got.command()
    folder = got.save(tmp_path / "run")
    words = "Ordinary least squares at each place, the same everywhere"
    assert words in got.to_html(tmp_path / "page.html").read_text()
    READOUTS.pop("squares")  # whoever reads the folder need not have it
    again = probe.load(folder)
    assert (
        again.true_map("stages.2", "vertical").shape
        == again.maps["given", "original", "stages.2", "vertical"].shape
    )
    assert words in again.to_html(tmp_path / "again.html").read_text()


def test_its_options_are_checked_and_named(squares, tiny, tiny_options):
    got = probe.run(tiny, readout="squares", kernel=3, **tiny_options)
    assert set(got.table["readout"]) == {"squares(kernel=3)"}
    assert got.maps["given", "original", "stages.0", "vertical"].shape == (14, 14)
    READOUTS.pop("squares")
    with pytest.raises(probe.ProbeError, match="unknown readout 'squares'"):
        probe.run(tiny, readout="squares", **tiny_options)
    with pytest.raises(probe.ProbeError, match=r"unknown readout 'rigde'.*Did you mean 'ridge'"):
        ReadoutSpec("rigde")


def test_what_readouts_say_of_themselves():
    labels = [ReadoutSpec(name).label for name in READOUTS]
    assert labels == ["ridge", "posenet", "softmax"]
    assert ReadoutSpec("ridge", 3).label == "ridge(kernel=3)"
    assert [ReadoutSpec(name).kernel for name in READOUTS] == [1, 3, 1]
    assert [name for name in READOUTS if ReadoutSpec(name).gridded] == ["posenet"]
    assert ReadoutSpec("softmax", concat=True).gridded
    for name, kind in READOUTS.items():
        assert kind.name == name
        assert READOUTS.words[name]
    # Moments of single places hold the sums that patterns are made of.
    needs = {spec: spec.make().needs_sums for spec in map(ReadoutSpec, READOUTS)}
    assert [spec.readout for spec, needed in needs.items() if not needed] == ["ridge"]
    assert ReadoutSpec("ridge", 3).make().needs_sums


@pytest.mark.parametrize("name", ["ridge", "posenet", "softmax"])
def test_bytes_held_grow_as_what_is_held(name):
    """Moments do not grow with images, kept features do."""
    readout = ReadoutSpec(name).make()
    few, many = (readout.bytes_held(10, 49, images) for images in (16, 160))
    if name == "ridge":
        held = readout.fit(torch.randn(16, 10, 7, 7), torch.rand(1, 7, 7)) and few
        readout.reset().partial_fit(torch.randn(4, 10, 7, 7))
        (fold,) = readout.moments.values()
        assert held == many == 4 * 8 * (fold.first.numel() + fold.second.numel())
    else:
        assert many == 10 * few >= 10 * 4 * 16 * 10 * 49


def test_names_and_words_of_readouts_need_no_torch():
    code = (
        "import sys; from probe.readouts import READOUTS; "
        "print(*READOUTS, *READOUTS.words.values()); sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("ridge posenet softmax a linear readout")
