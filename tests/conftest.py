"""Shared fixtures: real weights, a tiny network, and one small run of the real one."""

from __future__ import annotations

import os
import pickle
import random
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock
from hypothesis import settings
from torch import nn

import probe
from probe.backbones.backbone import fingerprint

if "PYTEST_XDIST_WORKER" in os.environ:  # as many threads as cores, over all of them
    workers = int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    threads = max(1, (os.cpu_count() or 1) // workers)
    torch.set_num_threads(threads)
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))


def pytest_cmdline_main(config: pytest.Config) -> None:
    """Run on all cores where the whole suite is asked for, unless told otherwise.

    A part of it, or ``--pdb``, runs in one process.
    """
    asked = config.option
    whole = all(Path(arg).name == "tests" or "=" in arg for arg in config.args)
    free = getattr(asked, "numprocesses", 0) is None and getattr(asked, "dist", "no") == "no"
    worker = hasattr(config, "workerinput")
    if whole and free and not (worker or asked.usepdb or asked.collectonly):
        asked.numprocesses = os.cpu_count()
        asked.tx = ["popen"] * asked.numprocesses
        asked.dist = "loadfile"
        asked.loadscopereorder = False


LONGEST = (
    *("test_project", "test_cli", "test_instances", "test_coordconv_tasks", "test_readme"),
    *("test_certificates", "test_zoo", "test_report", "test_results", "test_runner"),
    *("test_attribution", "test_studies", "test_coordconv", "test_backbones"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest, so that no process is left alone with one."""
    rank = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(rank)))


settings.register_profile("probe", deadline=None, max_examples=40, derandomize=True)
settings.load_profile("probe")

LITE = "tf_efficientnet_lite0"


class Tiny(nn.Module):
    """A plain network with zero padding: stride 8, with a normalisation layer and dropout."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 8, 12, 16)
        self.stages = nn.Sequential(
            *(
                nn.Sequential(
                    nn.Conv2d(a, b, 3, 2, 1), nn.BatchNorm2d(b), nn.ReLU(), nn.Dropout(0.5)
                )
                for a, b in pairwise(widths)
            )
        )
        self.head = nn.Linear(16, 5)

    def forward(self, x):
        return self.head(self.stages(x).mean((2, 3)))


@pytest.fixture
def tiny() -> Tiny:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return Tiny()


TINY_OPTIONS = {
    "layers": ["stages.*"],
    "train_images": 12,
    "test_images": 8,
    "image_size": 64,
    "batch_size": 5,
    "progress": False,
}


@pytest.fixture
def tiny_options() -> dict:
    return dict(TINY_OPTIONS)


@pytest.fixture(scope="session")
def lite() -> probe.Backbone:
    """Backbone with ImageNet weights, from the extra ``bundled``."""
    backbone = probe.load_backbone(LITE, "pretrained", device="cpu")
    backbone.model.requires_grad_(False)
    return backbone


@pytest.fixture(scope="session")
def result(tmp_path_factory: pytest.TempPathFactory) -> probe.Result:
    """A real run, smaller than the default one; one process runs it for all."""
    kept = tmp_path_factory.getbasetemp().parent / "result.pickle"
    with FileLock(f"{kept}.lock"):
        if "PYTEST_XDIST_WORKER" in os.environ and kept.exists():
            return pickle.loads(kept.read_bytes())
        done = probe.run(
            LITE,
            weights=("pretrained", "random", "random:1"),
            layers=["blocks.3", "blocks.5", "blocks.6"],
            train_images=64,
            test_images=32,
            progress=False,
        )
        if "PYTEST_XDIST_WORKER" in os.environ:
            kept.write_bytes(pickle.dumps(done))
    return done


@pytest.fixture(scope="session")
def state_of() -> Callable[[nn.Module], tuple]:
    """What a model and the process are like: equal before and after what leaves nothing behind."""

    def state_of(model: nn.Module) -> tuple:
        return (
            fingerprint(model),
            [m.training for m in model.modules()],
            [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()],
            [(p.requires_grad, p.grad is None) for p in model.parameters()],
            torch.get_rng_state().tolist(),
            np.random.get_state()[1].tolist(),  # noqa: NPY002 - the global one
            random.getstate(),
            torch.is_grad_enabled(),
            torch.get_float32_matmul_precision(),
            torch.overrides._len_torch_function_stack(),
        )

    return state_of
