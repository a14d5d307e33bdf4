"""The coordinate tasks of Not-so-Clevr: squares on a canvas, and where they are.

A canvas of 64 × 64 pixels, a square of 9 × 9, and its 56 × 56 possible centres. Positions become
pixels (classification), squares (rendering), or pixels become positions (regression). Nothing is
random but the uniform split.

References
----------
Liu et al. (2018), arXiv 1807.03247, sections 2 and 4.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..errors import one_of
from ..text import number_text
from .names import SPLITS

NETWORKS: tuple[str, ...] = ("coordconv", "plain")
"""Networks of each task."""

KEYS = ["task", "split", "network", "padding", "seed"]
"""Columns that tell cells apart; ``padding`` is ``none`` for CoordConv, whose kernels are 1 × 1."""

PUBLISHED: dict[str, str] = {
    "classification": "CoordConv perfect on both splits, trained 150 times faster and with 10 to "
    "100 times fewer parameters; deconvolution at most about 86 % on the uniform test centres and "
    "near 0 on the quadrant's",
    "rendering": "CoordConv generalises on both splits, deconvolution fails on the quadrant",
    "regression": "CoordConv near 0 on both splits, convolution fails on the quadrant",
}
"""What Liu et al. (2018) found, sections 4.1 to 4.3."""


def score_text(metric: str, value: float) -> str:
    """Write a score as sentences and tables do: percent, or pixels."""
    if metric == "error_px":
        return f"{number_text(value, '.1f' if value >= 1 else '.2f')} px"
    if metric == "accuracy":
        shown = number_text(100 * value, ".1f")
        return f"{shown.removesuffix('.0')} %"
    return number_text(value, ".3f")


PADDING_WORDS: dict[str, str] = {
    "none": "",
    "zeros": "zero padding",
    "circular": "circular padding",
    "valid": "no padding",
}
"""What paddings are called."""


def network_words(network: str, rule: str) -> str:
    """What tables and sentences call a network with its padding."""
    return "CoordConv" if network == "coordconv" else f"plain, {PADDING_WORDS[rule]}"


SIDE = 64
"""Pixels along each side of the canvas."""

SQUARE = 9
"""Pixels along each side of the square."""

PLACES = SIDE - SQUARE + 1
"""Centres along each side for which the square lies whole on the canvas: 56."""

METRICS: dict[str, tuple[str, str]] = {
    "classification": ("accuracy", "share of centres whose pixel gets the highest score"),
    "rendering": ("iou", "intersection over union of the painted and the true square"),
    "regression": ("error_px", "mean distance of the predicted from the true centre, in pixels"),
}
"""Leading metric of each task, and what it is."""


def centres() -> Tensor:
    """Row and column of every centre: int64, shape (3136, 2), row by row."""
    along = torch.arange(SQUARE // 2, SIDE - SQUARE // 2)
    return torch.cartesian_prod(along, along)


def split_centres(split: str, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Numbers of the centres that train, and of those that test, in increasing order.

    Of 3,136 the uniform split, which the seed draws, trains 2,509, and ``quadrant`` 2,352.
    """
    one_of(split, SPLITS, "split")
    if split == "quadrant":
        held_out = (centres() >= SIDE // 2).all(1)
    else:
        order = np.random.default_rng(seed).permutation(PLACES**2)
        held_out = torch.zeros(PLACES**2, dtype=torch.bool)
        held_out[torch.from_numpy(order[round(0.8 * PLACES**2) :])] = True
    return (~held_out).nonzero()[:, 0], held_out.nonzero()[:, 0]


def positions(places: Tensor) -> Tensor:
    """Row and column (N, 2) as coordinates in [−1, 1], those of :class:`AddCoords`."""
    return (2 * places - (SIDE - 1)) / (SIDE - 1)


def pixels(places: Tensor) -> Tensor:
    """Number of the pixel, 0 to 4,095, at each row and column (N, 2)."""
    return places[:, 0] * SIDE + places[:, 1]


def one_hot(places: Tensor) -> Tensor:
    """Pictures (N, 1, 64, 64) of float32, with a one at each row and column (N, 2)."""
    picture = torch.zeros(len(places), SIDE * SIDE, device=places.device)
    return picture.scatter_(1, pixels(places)[:, None], 1.0).unflatten(1, (1, SIDE, SIDE))


def squares(places: Tensor) -> Tensor:
    """Pictures (N, 64, 64) of float32, with a 9 × 9 square of ones about each place (N, 2)."""
    along = torch.arange(SIDE, device=places.device)
    inside = (along - places[:, :, None]).abs() <= SQUARE // 2
    return (inside[:, 0, :, None] & inside[:, 1, None, :]).to(torch.float32)
