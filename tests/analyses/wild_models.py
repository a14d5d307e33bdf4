"""Networks that behave badly, registered with timm; `probe zoo --import` takes such modules."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import torch
from timm.models import register_model
from torch import nn


class Wild(nn.Module):
    """Two padded convolutions; ``act`` is called with their features."""

    def __init__(self, act=None):
        super().__init__()
        self.act = act
        self.conv1 = nn.Conv2d(3, 8, 3, 2, 1)
        self.conv2 = nn.Conv2d(8, 8, 3, 2, 1)

    def forward(self, x):
        x = self.conv2(torch.relu(self.conv1(x)))
        if self.act is not None:
            self.act(x)
        return x.mean((2, 3))


def crash(_):
    os.kill(os.getpid(), signal.SIGSEGV)


def hang(_):
    time.sleep(1e6)


def grow(_):
    kept = []
    while True:
        kept.append(torch.ones(2**24))


def fail(_):
    raise KeyError("no such thing")


def die_once(x):
    """End like a process that the system kills, the first time."""
    mark = Path(os.environ["WILD_MARK"])
    if not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)


def greedy(x):
    if len(x) > 4:
        raise MemoryError


def not_a_number(net):
    nn.init.constant_(net.conv1.weight, float("nan"))


def add(name, act=None, change=None):
    def build(pretrained=False, **options):
        net = Wild(act)
        if change:
            change(net)
        return net

    build.__name__, build.__module__ = name, __name__
    globals()[name] = build
    register_model(build)


__all__: list[str] = []
for number in range(40):
    add(f"wild_good{number:02d}")
for name, act in {
    "wild_crash": crash,
    "wild_hang": hang,
    "wild_grow": grow,
    "wild_raise": fail,
    "wild_killed": die_once,
    "wild_greedy": greedy,
}.items():
    add(name, act)
add("wild_nan", change=not_a_number)
