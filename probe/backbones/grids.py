"""Grids of tokens: how many stand for no place, and in which order the others do."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import nn

from .choice import core

MOST_EXTRA = 16
"""Tokens that stand for no place, at most, where neither network nor measurement tells."""


def near_grid(tokens: int, image_size: tuple[int, int]) -> tuple[int, int] | None:
    """Rows and columns of a number of tokens laid out as the image is, to within a cell."""
    if tokens < 1:
        return None
    height, width = image_size
    rows = round(math.sqrt(tokens * height / width))
    for h in (rows, rows - 1, rows + 1):
        if h > 0 and tokens % h == 0:
            w = tokens // h
            if abs(h * width - w * height) <= max(width, height) and h <= height and w <= width:
                return h, w
    return None


def known_extra(model: nn.Module) -> dict[int, str]:
    """Numbers of tokens that stand for no place, as the network tells them, with their source."""
    extra: dict[int, str] = {}
    for holder in (core(model), getattr(model, "config", None)):
        for name, more in (
            ("num_prefix_tokens", 0),
            ("num_register_tokens", 1),
            ("num_registers", 1),
            ("n_storage_tokens", 1),
        ):
            count = getattr(holder, name, None)
            if isinstance(count, int) and not isinstance(count, bool):
                extra.setdefault(count + more, name)
    return extra


def grids(
    image_size: tuple[int, int], model: nn.Module, tokens: int
) -> Iterator[tuple[str, tuple[int, int], int, int]]:
    """Yield what tells, grid, and tokens before and after, likeliest first."""
    height, width = image_size
    known = known_extra(model)
    exact: dict[int, tuple[int, int]] = {}
    common = math.gcd(height, width)
    for cells in range(1, common + 1):
        grid = (height // common * cells, width // common * cells)
        if grid[0] * grid[1] > tokens:
            break
        if grid[0] * grid[1] > 1:
            exact[tokens - grid[0] * grid[1]] = grid
    whole = {e: g for e, g in exact.items() if height % g[0] == 0 and width % g[1] == 0}
    likely = [e for e in (*known, 0) if e in whole] + [e for e in (*known, 0) if e in exact]
    near = [e for e in (*known, 0, 1, 2) if near_grid(tokens - e, image_size)]
    others = [e for e in sorted(whole) if e <= MOST_EXTRA]
    others += [e for e in sorted(exact) if e <= MOST_EXTRA and e not in whole]
    for extra in dict.fromkeys([*likely, *others, *near, *sorted(whole)]):
        grid_here = exact.get(extra) or near_grid(tokens - extra, image_size)
        assert grid_here is not None
        for prefix in dict.fromkeys((extra, 0, min(1, extra))):
            says = known.get(extra, "") if prefix == extra else ""
            yield says, grid_here, prefix, extra - prefix


def orders(
    model: nn.Module, grid: tuple[int, int], tokens: int
) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield in which orders tokens may stand: as the network puts them back, and row by row."""
    reroll = getattr(core(model), "reroll", None)
    schedule = getattr(reroll, "schedule", None)
    if grid[0] * grid[1] == tokens and isinstance(schedule, Mapping) and callable(reroll):
        numbers = torch.arange(tokens).view(1, tokens, 1)
        for block, (_, size) in schedule.items():
            if math.prod(size) == tokens:
                order = reroll(numbers, block).flatten().tolist()
                if order != sorted(order):
                    yield "the network's reroll", tuple(order)
                break
    yield "", ()


def block_order(
    count: int, tokens: int, image_size: tuple[int, int]
) -> tuple[tuple[int, int], tuple[int, ...]] | None:
    """Grid of square-cut blocks of tokens, and which token stands for each place."""
    blocks, inside = near_grid(count, image_size), near_grid(tokens, image_size)
    if blocks is None or inside is None:
        return None
    numbers = np.arange(count * tokens).reshape(*blocks, *inside)
    grid = (blocks[0] * inside[0], blocks[1] * inside[1])
    order = numbers.transpose(0, 2, 1, 3).ravel().tolist()
    return grid, () if order == sorted(order) else tuple(order)
