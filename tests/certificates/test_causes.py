"""A certificate that fails names what can have broken equivariance where it broke."""

from __future__ import annotations

import torch
from torch import nn

import probe


class Late(nn.Module):
    """Padding early, a position embedding late."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, 2, 1)
        self.second = nn.Conv2d(8, 8, 1)
        self.late = Table()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.late(self.second(self.first(x)))


class Table(nn.Module):
    """Adds a learned table."""

    def __init__(self) -> None:
        super().__init__()
        self.pos_embed = nn.Parameter(torch.randn(1, 8, 32, 32))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.pos_embed


def test_what_comes_after_the_break_is_no_cause():
    torch.manual_seed(0)
    net = Late()
    reason = probe.certify(net, "original", image_size=64).reason
    assert "at or before first: padding" in reason and "embedding" not in reason
    reason = probe.certify(net, "circular", image_size=64).reason
    assert "at or before late" in reason and "embedding" in reason
