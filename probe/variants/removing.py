"""Removing sources of position from a pass: which of a tensor's values belong to places."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..backbones.layer import Layer, as_tokens
from ..backbones.reading import describe
from .follower import Meeting
from .kinds import EMBEDDING, RELATIVE
from .removals import REMOVALS, Change, Grid, level, shift_to


@dataclass(frozen=True)
class _Places:
    """Places along one dimension: their grid, and how many entries before them are of none."""

    grid: Grid
    prefix: int = 0

    @property
    def count(self) -> int:
        return math.prod(self.grid)


class Removing:
    """Puts in the place of each source what a variant's removals make of it.

    Entries of tokens that stand for no place, such as a class token, stay as they are; those of
    logits between one and a place are changed over the places alone.
    """

    def __init__(
        self, removals: Sequence[str], model: nn.Module, image_size: tuple[int, int], seed: int
    ) -> None:
        self._removals = {REMOVALS[name].kind: REMOVALS[name] for name in removals}
        self._model, self._seed = model, seed
        self._image = Layer("", 1, 0, 0, 0, "", 0, image_size)
        self._layers: dict[tuple[int, ...], Layer | None] = {}
        self.grids: set[Grid] = set()  # places of position embeddings that were met

    def __call__(self, meeting: Meeting) -> Tensor:
        removal = self._removals.get(meeting.source.kind)
        if removal is None:
            return meeting.c
        if removal.change is None:
            return torch.full_like(meeting.c, meeting.neutral)
        if _of_offsets(meeting):
            return meeting.c.mean(meeting.places, keepdim=True).expand_as(meeting.c)
        if meeting.of_map and removal.change is level and _of_another_map(meeting):
            return meeting.c.mean(meeting.places, keepdim=True)
        if meeting.source.kind == EMBEDDING and (laid := self._laid_out(meeting, removal.change)):
            return laid[0]
        return self._along(meeting, removal.change)

    def _described(self, shape: tuple[int, ...]) -> Layer | None:
        if shape not in self._layers:
            self._layers[shape] = describe(self._image, self._model, shape)
        return self._layers[shape]

    def _order(self, places: int, device: torch.device) -> Tensor:
        return _drawn(places, self._seed).to(device)

    def _laid_out(self, meeting: Meeting, change: Change) -> tuple[Tensor] | None:
        """Change an embedding that is added to a map or to tokens of the image, if it is."""
        x, c = meeting.x, meeting.c
        shape = (1, *x.shape[1:])
        layer = self._described(shape)
        if layer is None or (c.ndim == x.ndim and c.shape[0] not in (1, x.shape[0])):
            return None
        if meeting.layout not in ("", layer.layout):  # as many channels as rows
            if not meeting.of_map:
                return None
            height, width, channels = (shape[meeting.layout.index(letter)] for letter in "HWC")
            layer = Layer("", 1, channels, height, width, meeting.layout, 0, layer.image_size)
        c = c[:1] if c.ndim == x.ndim else c
        tokens = as_tokens(c.expand(shape), layer.layout).clone()
        last = tokens.shape[1] - layer.suffix
        places = tokens[:, layer.prefix : last].transpose(1, 2)
        self.grids.add((layer.height, layer.width))
        order = self._order(places.shape[2], c.device)
        changed = change(places, ((layer.height, layer.width),), order)
        tokens[:, layer.prefix : last] = changed.transpose(1, 2)
        if layer.layout[1] == "C":
            tokens = tokens.transpose(1, 2)
        return (tokens.reshape(shape),)

    def _along(self, meeting: Meeting, change: Change) -> Tensor:
        """Change a tensor along its dimensions of places, whichever they are."""
        c, dims = meeting.c, [d % meeting.c.ndim for d in meeting.places]
        logits = meeting.places == (-2, -1)
        others = [d for d in range(c.ndim) if d not in dims]
        back = sorted(range(c.ndim), key=[*others, *dims].__getitem__)
        turned = c.permute(*others, *dims)
        if logits or len(dims) == 1:
            axes = [self._places(c.shape[d], meeting.of_map) for d in dims]
            if meeting.source.kind == EMBEDDING:
                self.grids.update(axis.grid for axis in axes)
            order = self._order(axes[0].count, c.device)
            return _in_blocks(turned, axes, change, order).permute(back)
        sizes = [c.shape[d] for d in dims]
        flat = turned.flatten(len(others))
        grid = (sizes[0], math.prod(sizes[1:]))
        if meeting.source.kind == EMBEDDING:
            self.grids.add(grid)
        changed = change(flat, (grid,), self._order(flat.shape[-1], c.device))
        return changed.unflatten(-1, sizes).permute(back)

    def _places(self, length: int, of_map: bool) -> _Places:
        if of_map:
            return _Places((1, length))
        side = math.isqrt(length)
        layer = self._described((1, length, 2))
        if layer is None or layer.suffix:
            return _Places((side, side) if side * side == length else (1, length))
        return _Places((layer.height, layer.width), layer.prefix)


def _drawn(places: int, seed: int) -> Tensor:
    return torch.randperm(places, generator=torch.Generator().manual_seed(seed))


def shift_of(grid: Grid, seed: int) -> Grid:
    """By how many rows and columns ``shifted_pos_embed`` moves embeddings: up and to the left."""
    return shift_to(_drawn(math.prod(grid), seed), grid)


def _of_another_map(meeting: Meeting) -> bool:
    """Whether a table has another number of places than the map it meets, padded as it is now."""
    x, c = meeting.x, meeting.c
    return any(c.shape[d] not in (1, x.shape[d]) for d in meeting.places)


def _of_offsets(meeting: Meeting) -> bool:
    """Whether a product is taken with a table of offsets along one side, none of which is a token.

    ``2 n − 1`` offsets for the n places of a row or column (Ramachandran et al. 2019, arXiv
    1906.05909; Srinivas et al. 2021, arXiv 2101.11605).
    """
    (*_, side) = meeting.places
    products = ("matmul", "bmm", "einsum")
    offsets = meeting.c.shape[side]
    alone = len(meeting.places) == 1 and meeting.source.kind == RELATIVE
    alone = alone and meeting.source.function.strip("_") in products and meeting.c.ndim == 2
    return alone and offsets % 2 == 1 and (offsets + 1) // 2 in meeting.x.shape


def _in_blocks(c: Tensor, axes: Sequence[_Places], change: Change, order: Tensor) -> Tensor:
    """Change values over places, and those of tokens of no place over the places they meet."""
    out = c.clone()
    first = axes[0].prefix
    if len(axes) == 1:
        out[..., first:] = change(c[..., first:], (axes[0].grid,), order)
        return out
    last = axes[1].prefix
    places = c[..., first:, last:]
    out[..., first:, last:] = change(places, (axes[0].grid, axes[1].grid), order)
    if first:
        out[..., :first, last:] = change(c[..., :first, last:], (axes[1].grid,), order)
    if last:
        rows = c[..., first:, :last].transpose(-1, -2)
        out[..., first:, :last] = change(rows, (axes[0].grid,), order).transpose(-1, -2)
    return out
