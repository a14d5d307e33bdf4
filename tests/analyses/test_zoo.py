"""The zoo: cells in processes of their own, none of them lost."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import torch

import probe
from probe.analyses import zoo as zoos
from probe.analyses.zoo.cells import list_cells
from probe.analyses.zoo.estimate import estimate
from probe.analyses.zoo.folder import ZooStore, clean
from probe.analyses.zoo.locks import LOCKS, holders, locked
from probe.analyses.zoo.supervise import Slot, supervise
from probe.analyses.zoo.tables import failure
from probe.analyses.zoo.work import Outcome
from probe.errors import ProbeError
from probe.runner.options import Options

HERE = Path(__file__).parent
OPTIONS = {
    "weights": "random",
    "layers": "convs",
    "train_images": 8,
    "test_images": 8,
    "image_size": 64,
    "device": "cpu",
    "progress": False,
}
RANDOMLY = {"seconds", "peak_memory"}


@pytest.fixture
def wild(monkeypatch):
    """Networks that behave badly can be imported, here and in processes of cells."""
    monkeypatch.syspath_prepend(HERE)
    return "wild_models"


@pytest.fixture
def make(wild, tmp_path):
    """Run a zoo of them inside this process."""

    def make(models, out="zoo", **options):
        engine = {"engine": "inside", "imports": wild, "report": False}
        return probe.zoo(models, tmp_path / out, **{**engine, **OPTIONS, **options})

    return make


def left_over(folder: Path) -> list[str]:
    return [p.name for p in folder.rglob(".*")]


def same(a: Path, b: Path) -> bool:
    tables = [[pd.read_parquet(f / f"{n}.parquet") for n in ("zoo", "models")] for f in (a, b)]
    (scores, models), (other_scores, other_models) = tables
    kept = [c for c in models.columns if c not in RANDOMLY]
    return scores.equals(other_scores) and models[kept].equals(other_models[kept])


def test_each_network_that_behaves_badly_is_one_failure(make, monkeypatch, tmp_path):
    monkeypatch.setenv("WILD_MARK", str(tmp_path / "mark"))
    bad = ["crash", "hang", "grow", "raise", "nan", "killed", "greedy"]
    names = [f"wild_{name}" for name in bad] + ["wild_good00"]
    how = {"engine": "processes", "jobs": 2, "time_limit": 8, "memory": 1.2}
    collection = make(names, **how)
    models = collection.models.set_index("model")
    kinds = {"crash": "crash", "hang": "time", "grow": "memory", "raise": "raised"}
    for name, kind in {**kinds, "nan": "not finite"}.items():
        row = models.loc[f"wild_{name}"]
        assert (row["status"], row["kind"]) == ("failed", kind)
        assert row["sentence"] and "\n" not in row["sentence"]
        place = collection.folder / "cells" / row["cell"]
        assert (place / "traceback.txt").exists()
    assert "signal 11" in models.loc["wild_crash", "sentence"]
    assert (
        "wild_models.py"
        in (
            collection.folder / "cells" / models.loc["wild_hang", "cell"] / "traceback.txt"
        ).read_text()
    )
    assert models.loc["wild_grow", "attempts"] == 6  # 32, 16, … 1
    for name in ("killed", "greedy", "good00"):
        assert models.loc[f"wild_{name}", "status"] == "finished"
    assert models.loc["wild_killed", ["attempts", "batch_size"]].tolist() == [2, 32]
    assert models.loc["wild_greedy", ["attempts", "batch_size"]].tolist() == [4, 4]
    assert left_over(collection.folder) == []
    # The same as inside, to the bit.
    make("wild_good00", "inside")
    cell = models.loc["wild_good00", "cell"]
    inside = probe.load(tmp_path / "inside")[cell]
    assert collection[cell].table.equals(inside.table)


def test_what_is_finished_is_not_run_again(make, monkeypatch, tmp_path):
    first = make(["wild_good00", "wild_raise"])
    assert len(first) == 1 and first.failures["kind"].tolist() == ["raised"]
    written = {p: p.stat().st_mtime_ns for p in first.folder.glob("cells/*/*")}
    again = make(["wild_good00", "wild_raise"])
    assert {p: p.stat().st_mtime_ns for p in again.folder.glob("cells/*/*")} == written
    retried = make(["wild_good00", "wild_raise"], retry="failed")
    changed = [p for p in written if p.stat().st_mtime_ns != written[p]]
    assert {p.name for p in changed} == {"failure.json", "traceback.txt"}
    assert repr(retried) == f"<Zoo in {tmp_path / 'zoo'}: 1 cells finished, 1 failed>"
    beside = make("wild_good00", seed=1, weights=["random", "random:1"])
    assert beside.models["cell"].nunique() == 4
    assert set(beside.table["cell"]) == set(beside)


def test_cells_are_told_apart_by_what_their_numbers_depend_on(wild, tmp_path):
    module = probe.load_backbone("test_vit", "random").model
    for epoch in (2, 10):
        torch.save(module.state_dict(), tmp_path / f"epoch_{epoch}.pth")
    glob = str(tmp_path / "epoch_*.pth")
    cells = list_cells("test_vit", {**OPTIONS, "weights": [glob, "random"]})
    labels = [cell.label.partition("-")[0] for cell in cells]
    assert labels == ["epoch_2", "epoch_10", "random"]
    torch.save({**module.state_dict(), "more": torch.ones(1)}, tmp_path / "epoch_2.pth")
    changed = list_cells("test_vit", {**OPTIONS, "weights": [glob, "random"]})
    assert [a.digest == b.digest for a, b in zip(cells, changed, strict=True)] == [
        False,
        True,
        True,
    ]
    names = tmp_path / "names.txt"
    names.write_text("# of two\ntest_vit\n\nresnet10t.*  # tags\n")
    listed = list_cells(str(names), OPTIONS)
    assert [cell.model for cell in listed] == ["test_vit", "resnet10t.c3_in1k"]
    assert listed[1].family == "resnet"
    assert list_cells("resnet10t", {**OPTIONS, "weights": "pretrained"})[0].label == "c3_in1k"
    with pytest.raises(ProbeError, match="no file matches"):
        list_cells("test_vit", {**OPTIONS, "weights": str(tmp_path / "no*.pth")})


def test_shards_in_any_order_and_merged_are_the_whole(make, monkeypatch, tmp_path):
    names = ["wild_good00", "wild_raise", "wild_good01", "wild_nan"]
    whole = make(names)
    for shard in ("3/3", "1/3", "2/3"):
        make(names, f"part{shard[0]}", shard=shard)
    parts = [tmp_path / f"part{n}" for n in "123"]
    assert not (parts[0] / "zoo.parquet").exists()
    assert zoos.merge(tmp_path / "all", parts) == 4
    zoos.write_tables(tmp_path / "all")
    assert same(tmp_path / "all", whole.folder)
    assert zoos.merge(tmp_path / "all", parts) == 0
    monkeypatch.setenv("SLURM_ARRAY_TASK_COUNT", "4")
    with pytest.raises(ProbeError, match="SLURM's array has 4 tasks"):
        make(names, shard="1/3")
    with pytest.raises(ProbeError, match="expected i/n"):
        make(names, shard="4/3")


def test_locks_end_with_their_process_and_leave_nothing(tmp_path):
    with locked(tmp_path, "a") as first, locked(tmp_path, "b") as other:
        assert first and other
        with locked(tmp_path, "a") as second:
            assert not second
        assert holders(tmp_path)["a"]["pid"] == os.getpid()
    assert left_over(tmp_path) == []
    (tmp_path / LOCKS).mkdir()
    (tmp_path / LOCKS / "dead.lock").write_text("{}")
    (tmp_path / "cells" / ".dead.tmp").mkdir(parents=True)
    clean(tmp_path)
    assert left_over(tmp_path) == []


class Scripted:
    """An engine whose tasks end as told; it notes their batch sizes."""

    def __init__(self, *outcomes):
        self.outcomes, self.seen, self.ended = list(outcomes), [], []

    def start(self, task):
        self.seen.append(task.batch_size)
        self.ended.append((task.key, self.outcomes.pop(0)))

    def poll(self, timeout):
        ended, self.ended = self.ended, []
        return ended

    def close(self):
        pass


@pytest.mark.parametrize(
    ("statuses", "batches"),
    [
        ([Outcome("failed", "memory"), Outcome("finished")], [32, 16]),
        ([Outcome("failed", "killed")] * 2 + [Outcome("finished")], [32, 32, 16]),
        ([Outcome("lost")] * 2 + [Outcome("finished")], [32, 32, 32]),
        ([Outcome("busy"), Outcome("finished")], [32, 32]),
    ],
)
def test_what_is_tried_again(statuses, batches, tmp_path):
    engine, told = Scripted(*statuses), []
    supervise(
        list_cells("test_vit", OPTIONS),
        ZooStore(tmp_path),
        engine,
        [Slot()],
        time_limit=9,
        batch_size=32,
        tell=lambda cell, outcome: told.append(outcome.status),
    )
    assert (engine.seen, told) == (batches, ["finished"])


def test_a_full_disk_ends_the_zoo_and_not_what_is_finished(make, monkeypatch):
    def full(self, cell, result, about):
        raise probe.files.unwritable(self.folder, OSError(28, "No space left on device"))

    make("wild_good00")
    with monkeypatch.context() as patch:
        patch.setattr(ZooStore, "keep", full)
        with pytest.raises(ProbeError, match=r"No space left on device.*start again to go on"):
            make(["wild_good00", "wild_good01"])
    assert len(make(["wild_good00", "wild_good01"])) == 2


def test_what_can_not_fit_is_refused_with_what_it_needs():
    options = Options.of({**OPTIONS, "batch_size": 1})
    small, large = (estimate(name, options) for name in ("resnet18", "resnet50"))
    assert (small.parameters, large.parameters) == (11_689_512, 25_557_032)
    per_image = estimate("resnet18", Options.of({"image_size": 224})).operations
    assert per_image == pytest.approx(2 * 1.82e9, rel=0.02)  # multiply and add, at 224 pixels
    assert small.memory(options) < large.memory(options) < 3 * 2**30


def test_tables_hold_finished_and_failed_cells(make):
    collection = make(["wild_good00", "wild_raise"])
    table, models = collection.table, collection.models.set_index("model")
    good = models.loc["wild_good00"]
    spc = table.query("metric == 'spc' and target == 'vertical' and variant == 'original'")
    best = spc[spc["depth"] > 0].sort_values("value").iloc[-1]
    assert good["spc_vertical"] == best["value"] and good["layer_vertical"] == best["layer"]
    assert good["parameters"] == 808 and good["image_size"] == "64x64"
    assert bool(good["certified"]) and good["residual"] < 1e-6
    assert json.loads(good["options"])["train_images"] == 8
    assert failure({"cell": "x"}, "crash", "one\ntwo", 1)["sentence"] == "one two"
    result = collection[good["cell"]]
    assert result.model == "wild_good00"
    with pytest.raises(ProbeError, match="holds no result"):
        probe.load(collection.folder / "cells")


COMMAND = [sys.executable, "-m", "probe", "zoo", "--import", "wild_models", "--no-report"]
COMMAND += ["--weights", "random", "--train-images", "8", "--test-images", "8", "--layers", "convs"]
COMMAND += ["--image-size", "64", "--device", "cpu", "--no-progress"]


def started(models, out, *words):
    paths = os.pathsep.join([str(HERE), str(HERE.parent.parent)])
    return subprocess.Popen(
        [*COMMAND, *models, "--out", str(out), *words],
        env=os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finished(out: Path) -> dict[str, int]:
    return {p.parent.name: p.stat().st_mtime_ns for p in out.glob("cells/[!.]*/run.json")}


def servers(out: Path) -> int:
    """How many processes of cells and their servers there are that write to a folder."""
    count = 0
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            count += f"WILD_MARK={out}".encode() in path.read_bytes().split(b"\0")
        except OSError:
            continue
    return count


def wait_until(true, seconds=60.0):
    deadline = time.monotonic() + seconds
    while not true() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert true()


def test_two_zoos_share_the_work_and_one_is_killed(tmp_path, monkeypatch):
    out, names = tmp_path / "zoo", [f"wild_good{n:02d}" for n in range(12)]
    monkeypatch.setenv("WILD_MARK", str(out))
    first, second = started(names, out), started(names, out, "--jobs", "2")
    wait_until(lambda: len(finished(out)) >= 2)
    first.kill()
    kept = finished(out)
    said, _ = second.communicate(timeout=60)
    assert second.returncode == 0, said
    now = finished(out)
    assert len(now) == len(names) and {n: now[n] for n in kept} == kept
    first.communicate()
    wait_until(lambda: servers(out) == 0)
    assert left_over(out) == []


@pytest.mark.slow
def test_killed_ten_times_the_tables_are_those_of_an_undisturbed_run(tmp_path, monkeypatch):
    names, draw, seen = ["wild_good*"], random.Random(0), {}
    monkeypatch.setenv("WILD_MARK", str(tmp_path))
    assert started(names, tmp_path / "calm", "--jobs", "2").wait() == 0
    for _ in range(10):
        process = started(names, tmp_path / "zoo", "--jobs", "2")
        time.sleep(draw.uniform(3, 12))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        now = finished(tmp_path / "zoo")
        assert {name: now[name] for name in seen} == seen
        seen = now
    assert started(names, tmp_path / "zoo", "--jobs", "2").wait() == 0
    assert same(tmp_path / "zoo", tmp_path / "calm")
    wait_until(lambda: servers(tmp_path) == 0)
    assert left_over(tmp_path / "zoo") == []
