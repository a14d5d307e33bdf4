r"""Removals of sources of position other than padding, by name; nothing here needs torch.

Each says what takes the place of a tensor :math:`c` that does not depend on the image where it
meets one that does. Over a map of L places, with an average :math:`\bar c` over all of them:

- mean: :math:`c'(p) = \bar c`; of biases of logits :math:`b'(p, q) = \bar b`, so that softmax
  does not see them; rows and columns of tokens of no place keep means of their own.
- shuffled, shifted: :math:`c'(p) = c(π(p))`; π a permutation, or a shift around the torus.
- torus: :math:`b'(p, q) = b(m, m + (q - p))`, the offset taken modulo the map and m its middle:
  relative position stays, the border goes.
- one rotation: :math:`c'(p) = c(0)`, so that products of queries and keys know of no offset.
- whole turns: :math:`e^{i(a + ω y)}` becomes :math:`e^{i(a + ω' y)}` where ω' h is the nearest
  multiple of 2π, so that offsets count around the torus.

Rotary embeddings are those of Su et al. (2021), arXiv 2104.09864; relative biases those of Shaw
et al. (2018), arXiv 1803.02155, and Liu et al. (2021), arXiv 2103.14030, with the masks of
shifted windows.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import ProbeError
from .kinds import COORDINATES, EMBEDDING, FACTOR, MASK, RELATIVE, ROTARY

if TYPE_CHECKING:
    from torch import Tensor

Grid = tuple[int, int]
"""Rows and columns of places."""

Change = Callable[["Tensor", tuple[Grid, ...], "Tensor"], "Tensor"]


@dataclass(frozen=True)
class Removal:
    """What becomes of the tensors of one kind of source.

    ``change`` takes the values, of shape (…, L) at L places or (…, L, M) of L queries and M keys,
    the rows and columns of the places of each of these dimensions, and a permutation of places
    drawn with the run's seed, shape (L,); it returns what stands in their place, of the same
    shape. None: the tensor is left out, as 0 in a sum. ``removes``: nothing of the source is left.
    """

    words: str
    change: Change | None
    kind: str = EMBEDDING
    removes: bool = False


def level(values: Tensor, grids: tuple[Grid, ...], order: Tensor) -> Tensor:
    """Return the mean over places, at all places."""
    dims = tuple(range(-len(grids), 0))
    return values.mean(dims, keepdim=True).expand_as(values)


def shuffle(values: Tensor, grids: tuple[Grid, ...], order: Tensor) -> Tensor:
    return values[..., order]


def shift(values: Tensor, grids: tuple[Grid, ...], order: Tensor) -> Tensor:
    """Roll over the grid, so that the place which ``order`` has first comes first."""
    ((height, width),) = grids
    down, right = shift_to(order, (height, width))
    rolled = values.unflatten(-1, (height, width)).roll((-down, -right), (-2, -1))
    return rolled.flatten(-2)


def shift_to(order: Tensor, grid: Grid) -> Grid:
    """Row and column of the place that comes first; never the first as it is."""
    height, width = grid
    return divmod(int(order[0]) or height * width // 2, width)


def first_place(values: Tensor, grids: tuple[Grid, ...], order: Tensor) -> Tensor:
    return values[..., :1].expand_as(values)


def wrap_offsets(values: Tensor, grids: tuple[Grid, ...], order: Tensor) -> Tensor:
    """Give every query the biases of the one in the middle, by their offsets on the torus."""
    if len(grids) == 1:  # of tokens that stand for no place
        return level(values, grids, order)
    (rows, columns), (height, width) = grids
    if rows % height or columns % width or rows < height:
        raise ProbeError(
            f"circular_rel_bias: expected queries on a grid of whole multiples of the keys', got "
            f"{rows} × {columns} and {height} × {width}; use no_rel_bias"
        )
    down, right = rows // height, columns // width
    table = values.unflatten(-2, (rows, columns)).unflatten(-1, (height, width))
    middle = table[..., rows // 2, columns // 2, :, :]
    if (down, right) != (1, 1):
        middle = table[..., rows // 2 // down * down, columns // 2 // right * right, :, :]
    out = values.new_empty(table.shape)
    for y in range(rows):
        for x in range(columns):
            moves = (y // down - rows // 2 // down, x // right - columns // 2 // right)
            out[..., y, x, :, :] = middle.roll(moves, (-2, -1))
    return out.flatten(-4, -3).flatten(-2)


_UNTIE = 0.0131
"""Added before rounding, so that a sine and its cosine, known to some digits, go the same way."""


def whole_turns(values: Tensor, grids: tuple[Grid, ...], order: Tensor) -> Tensor:
    r"""Round the frequencies of sines and cosines over the grid to whole turns.

    A series of frequency ω obeys :math:`s(n + 1) + s(n - 1) = 2 \cos(ω) s(n)`, from which ω is
    found, and amplitude and phase by least squares.
    """
    ((height, width),) = grids
    table = values.unflatten(-1, (height, width)).double()
    for axis in (-1, -2):
        series = table.transpose(axis, -1)
        n = series.shape[-1]
        if n < 3:
            continue
        within, around = series[..., 1:-1], series[..., 2:] + series[..., :-2]
        # One frequency for all series along this axis.
        power = within.square().sum((-1, -2), keepdim=True)
        cosine = (within * around).sum((-1, -2), keepdim=True) / (2 * power.clamp(min=1e-30))
        turn = cosine.clamp(-1, 1).acos()
        rounded = (turn * n / (2 * math.pi) + _UNTIE).round() * (2 * math.pi / n)
        steps = values.new_tensor(range(n)).double()
        basis, torus = (_waves(angle * steps) for angle in (turn, rounded))
        weights = basis.pinverse(rcond=1e-7).transpose(-1, -2) @ series.transpose(-1, -2)
        apart = (basis.transpose(-1, -2) @ weights - series.transpose(-1, -2)).abs().amax()
        if not float(apart) < 0.1:
            raise ProbeError(
                "circular_rope: expected rotary factors of one frequency along each side, got "
                "others; use no_rope"
            )
        weights = weights.where(rounded == 0, _quarter(weights))
        table = (torus.transpose(-1, -2) @ weights).transpose(-1, -2).transpose(axis, -1)
    return table.flatten(-2).to(values.dtype)


def _quarter(weights: Tensor) -> Tensor:
    """Bring waves, shape (…, 2, series), to the nearest quarter of a turn and an amplitude of 1.

    A turn which all places share changes no product of queries and keys; the sine and the cosine
    of one rotation, which are changed one at a time, then agree to the last digit. Waves of which
    the series differ stay as they are.
    """
    mean = weights.mean(-1, keepdim=True)
    phase = mean[..., 1:, :].arctan2(mean[..., :1, :])
    quarter = (phase / (math.pi / 2) + _UNTIE).round() * (math.pi / 2)
    turned = quarter.expand_as(mean).clone()
    turned[..., :1, :], turned[..., 1:, :] = quarter.cos(), quarter.sin()
    same = (weights - mean).abs().amax((-1, -2), keepdim=True) < 1e-3
    return turned.expand_as(weights).where(same, weights)


def _waves(angles: Tensor) -> Tensor:
    """Cosine and sine, shape (…, 2, n), of angles of shape (…, 1, n)."""
    both = angles.expand(*angles.shape[:-2], 2, angles.shape[-1]).clone()
    both[..., 0, :] = angles[..., 0, :].cos()
    both[..., 1, :] = angles[..., 0, :].sin()
    return both


SHIFTED = "shifted_pos_embed"

REMOVALS: dict[str, Removal] = {
    "no_pos_embed": Removal(
        "absolute position embeddings at their mean over places", level, removes=True
    ),
    "shuffled_pos_embed": Removal("absolute position embeddings permuted over places", shuffle),
    SHIFTED: Removal("absolute position embeddings shifted around the torus of places", shift),
    "no_rel_bias": Removal(
        "relative position biases at their mean over offsets", level, RELATIVE, removes=True
    ),
    "circular_rel_bias": Removal(
        "relative position biases by offsets around the torus", wrap_offsets, RELATIVE, removes=True
    ),
    "no_rope": Removal(
        "one rotation of rotary position embeddings for all places",
        first_place,
        ROTARY,
        removes=True,
    ),
    "circular_rope": Removal(
        "rotary position embeddings of whole turns around the torus",
        whole_turns,
        ROTARY,
        removes=True,
    ),
    "no_mask": Removal("masks of attention lifted", None, MASK, removes=True),
    "no_coordinates": Removal(
        "coordinates at their mean over places", level, COORDINATES, removes=True
    ),
    "no_factor": Removal(
        "factors that depend on the place at their mean over places", level, FACTOR, removes=True
    ),
}
"""Parts of a variant's name that are about sources of position besides padding."""

NO_POSITION: tuple[str, ...] = (
    *("no_pos_embed", "no_rel_bias", "no_rope", "no_mask", "no_coordinates", "no_factor"),
)
"""The removals that ``no_position`` stands for, with circular padding."""


@dataclass(frozen=True)
class Everything:
    """Every removal at once: the part of a name that stands for :data:`NO_POSITION`."""

    words: str = (
        "circular padding, and every other source of position that the network has taken away"
    )
