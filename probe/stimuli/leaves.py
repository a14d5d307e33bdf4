"""Dead leaves on a torus: the statistics of natural images, and no position at all."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from .source import Stimuli


class Leaves(Stimuli):
    r"""Dead leaves on a torus: discs that occlude one another, of natural-image statistics.

    Discs of random colour fall at random places; their radii have the density
    :math:`∝ r^{-3}` between 3 and 80 px on an image of 224 px (in proportion on others), which
    makes the image scale invariant. They wrap around the edges. Each channel of a disc has a
    colour of its own, however many channels there are.

    References
    ----------
    Lee, Mumford, Huang (2001), "Occlusion models for natural images", IJCV 41, section 3.
    """

    name = "leaves"
    tileable = True
    stationary = True
    paints_channels = True

    LAYERS = 5.0
    """Mean number of discs over a pixel: exp(−5), under 1 %, see the background."""

    def __init__(self, image_size: tuple[int, int], seed: int = 0) -> None:
        super().__init__(image_size, seed)
        height, width = self.image_size
        side = min(height, width)
        self.r_min = max(1.0, 3 * side / 224)
        # A disc wider than the torus would meet itself.
        self.r_max = max(self.r_min + 0.5, min(80 * side / 224, (side - 1) / 2))
        inverse = self.r_min**-2 - self.r_max**-2
        mean_area = 2 * math.pi * math.log(self.r_max / self.r_min) / inverse
        self.discs = max(1, math.ceil(self.LAYERS * height * width / mean_area))

    def paint(self, split: str, index: int, canvas: NDArray[np.uint8]) -> None:
        rng = self.rng(split, index)
        height, width = self.image_size
        u = rng.random(self.discs)
        drawn = (self.r_min**-2 - u * (self.r_min**-2 - self.r_max**-2)) ** -0.5
        radii = np.rint(drawn).astype(np.int64)
        ys = rng.integers(0, height, self.discs)
        xs = rng.integers(0, width, self.discs)
        top = paint_discs(radii, ys, xs, height, width)
        if self.channels == 3:  # the four bytes of a pixel at once
            colours = rng.integers(0, 2**24, self.discs + 1, dtype=np.uint32)
            colours.take(top, out=canvas.view(np.uint32)[..., 0])
        else:
            shades = rng.integers(0, 256, (self.discs + 1, self.channels), dtype=np.uint8)
            shades.take(top, axis=0, out=canvas)


def paint_discs(
    radii: NDArray[np.int64], ys: NDArray[np.int64], xs: NDArray[np.int64], height: int, width: int
) -> NDArray[np.int32]:
    """Number of the topmost disc at every pixel of a torus, counted from 1; 0 where there is none.

    Later discs lie on earlier ones. A disc of radius r covers the pixels with
    ``dy² + dx² ≤ r² + r``. Each of its rows is a span, and a span of n pixels is the union of two
    blocks of the greatest power of two ≤ n: so that painting is one assignment into a table with
    a level for each power, and handing each level's maximum down to the two halves below.
    """
    offset, half, level = _disc_rows(int(radii.max()))
    counts = 2 * radii + 1
    disc = np.repeat(np.arange(len(radii)), counts)
    # Row k of a disc of radius r stands at r² + k of the table of all discs' rows.
    before = np.cumsum(counts) - counts
    entry = np.arange(len(disc)) + (radii * radii - before)[disc]
    rows = (offset[entry] + ys[disc]) % height
    half, level = half[entry], level[entry]
    length = 2 * half + 1
    levels = int(level.max()) + 1
    table = np.zeros((levels, height, width), np.int16 if len(radii) < 2**15 else np.int32)
    line = (level * height + rows) * width
    first = xs[disc] - half
    both = np.empty((len(disc), 2), np.int64)
    both[:, 0] = line + first % width
    both[:, 1] = line + (first + length - (1 << level)) % width
    # Discs come in order, and of repeated places the last assignment stays.
    table.reshape(-1)[both.reshape(-1)] = np.repeat(np.arange(1, len(radii) + 1), 2 * counts)
    for k in range(levels - 1, 0, -1):
        step = 1 << (k - 1)
        upper, lower = table[k], table[k - 1]
        np.maximum(lower, upper, out=lower)
        np.maximum(lower[:, step:], upper[:, :-step], out=lower[:, step:])
        np.maximum(lower[:, :step], upper[:, -step:], out=lower[:, :step])
    return table[0]


@lru_cache(maxsize=8)
def _disc_rows(
    r_max: int,
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Rows of the discs of radius 0 … r_max, one after another: offset from the centre, half the
    span, and the exponent of the greatest power of two within the span.
    """
    radius = np.repeat(np.arange(r_max + 1), 2 * np.arange(r_max + 1) + 1)
    offset = np.concatenate([np.arange(-r, r + 1) for r in range(r_max + 1)])
    half = np.sqrt(radius * radius + radius - offset * offset).astype(np.int64)
    level = np.frexp((2 * half + 1).astype(np.float64))[1].astype(np.int64) - 1
    return offset, half, level
