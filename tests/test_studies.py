import numpy as np
import pandas as pd
import pytest
import torch

import probe
from probe.studies.cells import Outcome, pick_workers, run_cells
from probe.studies.study import Study, over_seeds

CELLS = [{"net": "<a>/b", "seed": seed, "rate": 0.1} for seed in range(3)]


def outcome(cell):
    scores = [{"metric": "f1", "value": cell["seed"] / 2}, {"metric": "gap", "value": np.nan}]
    curve = [{"step": 1, "seconds": 0.5, "loss": float("inf")}]
    return Outcome(scores, curve, {"map": np.full((2, 3), cell["seed"], np.float32)}, 1.5)


def test_finished_cells_are_read_and_others_trained(tmp_path):
    trained = []

    def train(cell):
        trained.append(cell["seed"])
        if len(trained) == 3:
            raise KeyboardInterrupt
        return outcome(cell)

    options = {"folder": tmp_path, "progress": False}
    with pytest.raises(KeyboardInterrupt):
        run_cells(CELLS, train, **options)
    got = run_cells(CELLS, train, **options)
    assert trained == [0, 1, 2, 2]
    for cell, found in zip(CELLS, got, strict=True):
        wanted = outcome(cell)
        pd.testing.assert_frame_equal(pd.DataFrame(found.scores), pd.DataFrame(wanted.scores))
        assert (found.curve, found.seconds) == (wanted.curve, wanted.seconds)
        np.testing.assert_array_equal(found.arrays["map"], wanted.arrays["map"])
    run_cells([{**CELLS[0], "rate": 0.2}], train, **options)
    assert trained[-1] == 0 and len(trained) == 5
    # Outcomes kept from another environment are trained again.
    for version in ("1", "1", "2"):
        run_cells(CELLS[:1], train, environment={"versions": {"torch": version}}, **options)
    assert len(trained) == 7


def fails_at_the_last(cell):
    if cell["seed"] == 2:
        raise probe.ProbeError("seed: 2 is not liked")
    return outcome(cell)


def random_sum(cell):
    x = torch.randn(3000, 300, generator=torch.Generator().manual_seed(cell["seed"]))
    value = (x.T @ x).sum().item()
    return Outcome([{"value": value, "threads": torch.get_num_threads()}])


def test_workers_finish_the_same_cells(tmp_path):
    options = {"workers": 2, "progress": False}
    with pytest.raises(probe.ProbeError, match="2 is not liked"):
        run_cells(CELLS, fails_at_the_last, tmp_path, **options)
    kept = set((tmp_path / "cells").iterdir())
    assert len(kept) >= 1 and not any("-2-" in path.name for path in kept)
    got = run_cells(CELLS, outcome, tmp_path, **options)
    assert [found.scores[0]["value"] for found in got] == [0, 0.5, 1]
    before = torch.get_num_threads()
    alone, together = (run_cells(CELLS, random_sum, workers=n, progress=False) for n in (1, 2))
    assert [a.scores for a in alone] == [t.scores for t in together]
    assert all(found.scores[0]["threads"] == 1 for found in alone)
    assert torch.get_num_threads() == before


def test_workers_are_as_many_as_cores_unless_told():
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert pick_workers(None, gpu) == 1 <= pick_workers(None, cpu)
    assert pick_workers(3, gpu) == 3
    with pytest.raises(probe.ProbeError, match="workers: expected a whole number of at least 1"):
        pick_workers(0, cpu)


def test_a_damaged_cell_is_trained_again(tmp_path):
    run_cells(CELLS[:1], outcome, tmp_path, progress=False)
    (file,) = (tmp_path / "cells").iterdir()
    whole = file.read_bytes()
    flipped = [
        whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :]
        for place in range(0, len(whole), 11)
    ]
    for damaged in (b"", whole[:100], *flipped):
        file.write_bytes(damaged)
        (again,) = run_cells(CELLS[:1], outcome, tmp_path, progress=False)
        assert again.seconds == 1.5


def test_what_the_caller_has_set_does_not_reach_cells():
    def settings(cell):
        x = torch.ones(2, requires_grad=True)
        x.sum().backward()
        return Outcome([{"dtype": str(torch.ones(1).dtype), "slope": x.grad.sum().item()}])

    torch.set_default_dtype(torch.float64)
    try:
        with torch.inference_mode():
            (found,) = run_cells(CELLS[:1], settings, progress=False)
            assert torch.is_inference_mode_enabled()
        assert float(torch.tensor(1e-40, dtype=torch.float32) * 1) > 0
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    assert found.scores == [{"dtype": "torch.float32", "slope": 2.0}]


def test_a_study_is_loaded_as_it_was_saved(tmp_path):
    outcomes = run_cells(CELLS, outcome, progress=False)
    study = Study.of(CELLS, outcomes, ["net", "seed"], {"name": "x"})
    assert list(study.table.columns) == ["net", "seed", "metric", "value"]
    assert list(study.arrays) == [f"<a>/b/{seed}/map" for seed in range(3)]
    loaded = Study.load(study.save(tmp_path / "deep"))
    pd.testing.assert_frame_equal(loaded.table, study.table)
    pd.testing.assert_frame_equal(loaded.curves, study.curves)
    assert loaded.provenance == study.provenance
    assert all(np.array_equal(loaded.arrays[name], a) for name, a in study.arrays.items())
    (tmp_path / "deep" / "arrays.npz").write_bytes(b"")
    with pytest.raises(probe.ProbeError, match="can't be read"):
        Study.load(tmp_path / "deep")
    (tmp_path / "deep" / "arrays.npz").unlink()
    with pytest.raises(probe.ProbeError, match=r"arrays\.npz is missing"):
        Study.load(tmp_path / "deep")


def test_means_over_seeds_have_intervals():
    table = pd.DataFrame({"net": ["a"] * 3 + ["b"], "seed": [0, 1, 2, 0], "value": [1, 2, 3, 5.0]})
    got = over_seeds(table, ["net"]).set_index("net")
    # Student's t of two degrees of freedom: 4.303 standard errors.
    assert got.loc["a", "low"] == pytest.approx(2 - 4.303 / np.sqrt(3), abs=1e-3)
    assert got.loc["a", ["value", "least", "most", "seeds"]].tolist() == [2, 1, 3, 3]
    assert np.isnan(got.loc["b", "low"]) and got.loc["b", "value"] == 5
