"""The README's Python blocks and command lines run as printed, on smaller images and networks."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import timm
from PIL import Image
from safetensors.torch import save_file
from timm.models import _builder
from typer.testing import CliRunner

from probe.analyses import calibration
from probe.analyses.zoo.engines import ENGINES, Inside
from probe.analyses.zoo.folder import open_folder
from probe.backbones.catalogue import expand_models
from probe.cli.main import app
from probe.runner import setup
from probe.runner.options import Options

README = (Path(__file__).parent.parent / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
LINES = [
    line
    for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    for line in block.splitlines()
    if line.startswith("probe ")
]
SMALLER = {
    "resnet50": "test_resnet",
    "convnext_tiny": "test_convnext",
    "convnext*": "test_convnext?",
    "tf_efficientnet_lite*": "tf_efficientnet_lite0",
    "resnet18": "resnet10t",
    "vgg16": "vgg11",
    "regnet*": "test_r*net",
    "vit_tiny_patch16_224": "test_vit",
    "vit_small_patch14_dinov2": "test_vit",
}
SHORTER = {
    "run": ("--targets", "vertical"),
    "zoo": ("--targets", "vertical", "--weights", "random", "--no-report"),
    "calibrate": ("--no-planted",),
    "erase": ("--image-size", "128"),
    "reproduce": ("test_resnet",),
    "coordconv": (
        *("--seeds", "1", "--epochs", "0.004", "--workers", "1"),
        *("--tasks", "regression", "--splits", "uniform"),
    ),
    "instances": (
        *("--seeds", "1", "--steps", "2", "--workers", "1"),
        *("--scenes", "twins", "--tasks", "instance", "--borders", "zeros"),
    ),
}


@pytest.fixture(autouse=True)
def small_and_offline(monkeypatch, tmp_path):
    """Few small images, a stand-in for the download of weights, and a home of one's own."""
    settle = Options.of.__func__

    def smaller(cls, given, **fixed):
        given = {**given, "train_images": 8, "test_images": 8, "batch_size": 8, "progress": False}
        if given.get("image_size") is None and not hasattr(given.get("stimuli"), "shape"):
            given["image_size"] = 64
        return settle(cls, given, **fixed)

    monkeypatch.setattr(Options, "of", classmethod(smaller))
    all_asked = setup.weights_asked
    monkeypatch.setattr(setup, "weights_asked", lambda *given: all_asked(*given)[:2])
    monkeypatch.setattr(_builder, "load_pretrained", lambda *args, **kwargs: None)
    monkeypatch.setattr(calibration, "CELLS", 1)
    monkeypatch.setattr(calibration, "SEEDS", 2)
    monkeypatch.setitem(ENGINES, "processes", Inside)
    open_folder(tmp_path / "zoo")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    photographs = tmp_path / "photographs"
    photographs.mkdir()
    draw = np.random.default_rng(0)
    for index in range(4):
        pixels = draw.integers(0, 256, (400, 400, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(photographs / f"{index}.png")
    save_file(timm.create_model("test_resnet").state_dict(), tmp_path / "mine.safetensors")


@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_python_blocks_run_as_printed(block):
    exec(compile(block, "README.md", "exec"), {"__name__": "readme"})


@pytest.mark.parametrize("line", LINES, ids=range(len(LINES)))
def test_command_lines_run_as_printed(line):
    words = [SMALLER.get(word, word) for word in shlex.split(line, comments=True)[1:]]
    for word in shlex.split(line, comments=True):
        assert word not in SMALLER or expand_models([word])
    words = [word.replace("~", str(Path.home())) for word in words]
    done = CliRunner().invoke(app, [*words, *SHORTER.get(words[0], ())])
    assert done.exit_code == 0, done.output + repr(done.exception)
