"""Layers: choosing them, hooking them, and seeing each one's output as ``(B, C, H, W)``.

What a layer is (name, channels, size, layout) is data, found out by one dry run of the backbone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

MAX_PLACES = 28
"""Greatest height and width at which a layer is probed; larger ones are averaged down."""


@dataclass(frozen=True)
class Layer:
    """A module whose output feature map is probed.

    Attributes
    ----------
    name : str
        Its name in ``model.named_modules()``; ``name:0``, ``name:1``, … where a module that runs
        several times for each image is probed in one of its calls.
    depth : int
        Its rank in order of execution among the probed layers, from 1.
    channels, height, width : int
        Of its feature map.
    layout : str
        How the module returns it, a letter for each axis: N images, C channels, H rows, W columns,
        L tokens, T blocks of tokens; such as ``NCHW``, ``NHWC``, ``NLC``, ``LNC``, ``NTLC``, and
        ``NHW`` for a single channel without an axis of its own.
    prefix : int
        Tokens before those of the places, such as a class token.
    image_size : (int, int)
        Height and width in pixels of the images behind.
    inset : (float, float)
        Pixels at the top and bottom, and at the left and right, that the map leaves out.
    suffix : int
        Tokens after those of the places.
    order : tuple of int
        Which token stands for each place, row by row; empty if the tokens are in this order.
    decided : str
        How the layout was found out, in words.
    """

    name: str
    depth: int
    channels: int
    height: int
    width: int
    layout: str
    prefix: int
    image_size: tuple[int, int]
    inset: tuple[float, float] = (0.0, 0.0)
    suffix: int = 0
    order: tuple[int, ...] = ()
    decided: str = ""

    @property
    def places(self) -> tuple[int, int]:
        """Height and width at which it is probed, at most :data:`MAX_PLACES` each."""
        return _windows(self.height)[0].size, _windows(self.width)[0].size

    @cached_property
    def rows(self) -> NDArray[np.float64]:
        """Weight of each row of pixels in each row of places, shape (places, pixels)."""
        return _averaging(self.height, self.image_size[0], self.inset[0])

    @cached_property
    def columns(self) -> NDArray[np.float64]:
        """Weight of each column of pixels in each column of places, shape (places, pixels)."""
        return _averaging(self.width, self.image_size[1], self.inset[1])

    def windows(self, kernel: int = 1) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Weights of pixel rows and columns in the places that have a whole kernel around them."""
        edge = kernel // 2
        rows, columns = self.rows, self.columns
        return rows[edge : len(rows) - edge], columns[edge : len(columns) - edge]

    def border_distance(self, kernel: int = 1) -> NDArray[np.float64]:
        """Pixels of the input from each place's centre to the nearest border, shape (h', w')."""
        sides = []
        for weights, pixels in zip(self.windows(kernel), self.image_size, strict=True):
            centre = weights @ (np.arange(pixels) + 0.5)
            sides.append(np.minimum(centre, pixels - centre))
        return np.minimum(sides[0][:, None], sides[1][None, :])

    def canonical(self, output: Any, batch: int | None = None) -> Tensor:
        """See the module's output as ``(B, C, H, W)``, whatever its layout; a view."""
        x = first_tensor(output, batch, self.layout.index("N"), len(self.layout))
        assert x is not None  # the dry run saw one
        if self.layout == "NCHW":
            return x
        if "C" not in self.layout:
            x, letters = x.unsqueeze(-1), f"{self.layout}C"
            return x.permute([letters.index(letter) for letter in "NCHW"])
        if "H" in self.layout:
            return x.permute([self.layout.index(letter) for letter in "NCHW"])
        return self.of_tokens(as_tokens(x, self.layout))

    def of_tokens(self, tokens: Tensor) -> Tensor:
        """Lay all tokens of a layer, shape (B, L, C), out as ``(B, C, H, W)``."""
        x = tokens[:, self.prefix : self.prefix + self.height * self.width]
        if self.order:
            x = x[:, torch.tensor(self.order, device=x.device)]
        return x.transpose(1, 2).reshape(len(x), x.shape[2], self.height, self.width)

    def reduce(self, x: Tensor) -> Tensor:
        """Average a map ``(B, C, H, W)`` over equal windows, one for each place.

        The windows are squares of ``⌈size / 28⌉`` cells. Where they do not tile the map, they are
        spread evenly and leave some cells out, so that every place averages as many cells.
        """
        (starts_y, k_y), (starts_x, k_x) = _windows(self.height), _windows(self.width)
        if k_y == k_x == 1:
            return x
        if starts_y.size * k_y == self.height and starts_x.size * k_x == self.width:
            return F.avg_pool2d(x, (k_y, k_x))
        rows, columns = (
            torch.from_numpy(_window_weights(n)).to(x) for n in (self.height, self.width)
        )
        return rows @ x @ columns.T


@dataclass(frozen=True)
class GridLayer(Layer):
    """A layer, or several, resized to a common grid as in the published protocol.

    Bilinear with corners aligned: the first place lies on the first row of pixels and the last on
    the last, however far the layer's own cells are from the edge. What a readout predicts, which
    may be a place less on each side, is taken to cover the whole image again. Distances to the
    border are those on the grid.

    References
    ----------
    Islam, Jia, Bruce (2020), arXiv 2001.08248, section 3.2.
    """

    @classmethod
    def like(cls, layer: Layer) -> GridLayer:
        """Return the same layer, to be resized."""
        return cls(**{field.name: getattr(layer, field.name) for field in fields(Layer)})

    @property
    def places(self) -> tuple[int, int]:
        """Height and width of the grid."""
        return grid_size(self.image_size)

    def windows(self, kernel: int = 1) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Weights of pixel rows and columns in the places that a readout predicts."""
        rows, columns = (
            _sampling(places - kernel + 1, pixels)
            for places, pixels in zip(self.places, self.image_size, strict=True)
        )
        return rows, columns

    def reduce(self, x: Tensor) -> Tensor:
        """Resize a map ``(B, C, H, W)`` to the grid."""
        return F.interpolate(x, self.places, mode="bilinear", align_corners=True)


def grid_size(image_size: tuple[int, int]) -> tuple[int, int]:
    """Places of the common grid: 28 along the longer side, as many per pixel along the other."""
    height, width = (max(3, round(MAX_PLACES * n / max(image_size))) for n in image_size)
    return height, width


def _sampling(places: int, pixels: int) -> NDArray[np.float64]:
    """Weights of linear interpolation at evenly spread pixels, first and last among them."""
    at = np.linspace(0, pixels - 1, places) if places > 1 else np.array([(pixels - 1) / 2])
    return np.clip(1 - np.abs(at[:, None] - np.arange(pixels)[None, :]), 0, None)


def _windows(size: int) -> tuple[NDArray[np.int64], int]:
    """First cells of the windows over ``size`` cells, and the width of each."""
    width = math.ceil(size / MAX_PLACES)
    count = size // width
    return np.rint(np.linspace(0, size - width, count)).astype(np.int64), width


def _window_weights(size: int) -> NDArray[np.float64]:
    starts, width = _windows(size)
    cells = np.arange(size)[None, :] - starts[:, None]
    return ((cells >= 0) & (cells < width)) / width


def _averaging(cells: int, pixels: int, inset: float) -> NDArray[np.float64]:
    starts, width = _windows(cells)
    step = (pixels - 2 * inset) / cells
    low = inset + starts[:, None] * step
    high = inset + (starts[:, None] + width) * step
    pixel = np.arange(pixels)[None, :]
    covered = np.clip(np.minimum(pixel + 1, high) - np.maximum(pixel, low), 0, None)
    return covered / covered.sum(1, keepdims=True)


def as_tokens(x: Tensor, layout: str) -> Tensor:
    """See a tensor as ``(B, places, C)``, its places in the order of its axes."""
    places = [axis for axis, letter in enumerate(layout) if letter not in "NC"]
    return x.permute(layout.index("N"), *places, layout.index("C")).flatten(1, -2)


def first_tensor(
    output: Any, batch: int | None = None, axis: int = 0, rank: int | None = None
) -> Tensor | None:
    """Return the first tensor in what a module returned, best one of so many images, or None.

    Images are counted along ``axis``; with a ``rank``, one of so many axes is best.
    """
    tensors = list(all_tensors(output))
    fitting = (
        t
        for t in tensors
        if batch is not None and t.ndim > axis and t.shape[axis] == batch and rank in (None, t.ndim)
    )
    return next(fitting, next(iter(tensors), None))


def all_tensors(output: Any) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, Mapping | list | tuple):
        for item in output.values() if isinstance(output, Mapping) else output:
            yield from all_tensors(item)


def single_precision(features: Tensor) -> Tensor:
    """Half-precision features in float32; sums of their products would overflow."""
    wide = features.dtype in (torch.float32, torch.float64)
    return features if wide else features.to(torch.float32)
