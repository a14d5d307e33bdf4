"""A matching test with ground truth and no labels: two crops of one picture at a known shift."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..errors import ProbeError
from ..scores.intervals import bootstrap_interval
from ..stimuli.opening import open_stimuli
from .evaluate import layer_features, one_layer

SHIFTS: tuple[int, ...] = (3, 4, 5)
"""Places by which the second crop lies off the first, along each side."""


def match(
    model: str | nn.Module,
    layer: str,
    erasers: Mapping[str, Any],
    *,
    pairs: int = 64,
    **options: Any,
) -> pd.DataFrame:
    """Find each place of a crop in another crop of the same picture, with and without erasers.

    The nearest neighbour of a place's features, by cosine, is *right* within one place of where its
    patch lies in the second crop, and *same* within one place of where it lay in the first: the
    pull of position. The two never overlap.

    Parameters
    ----------
    model : str or Module
        A timm name or a module.
    layer : str
        Whose features.
    erasers : mapping of str to Eraser
        Methods to set beside ``plain``.
    pairs : int
        How many pairs of crops.
    **options
        ``weights``, ``stimuli`` (leaves, or a folder of photographs), ``image_size``, ``seed``, …

    Returns
    -------
    DataFrame
        ``method``, ``match`` (``right`` or ``same``), ``value`` with its 95 % interval over
        pictures, ``chance``.

    Raises
    ------
    ProbeError
        If the map has too few places, or images no pixels beyond the image size.
    """
    options = {"seed": 0} | options
    settings = {"train_images": 2, "test_images": pairs} | options
    with one_layer(model, layer, **settings) as (setup, view, seen):
        step = [side // places for side, places in zip(setup.size, seen.places, strict=True)]
        steps = [n for n in SHIFTS if n <= min(seen.places) - 2]
        if not steps:
            raise ProbeError(
                f"layer {layer} has {seen.places[0]} × {seen.places[1]} places, too few for shifts "
                f"of {SHIFTS[0]}: choose an earlier layer or a larger image size"
            )
        margin = -(-max(steps) * max(step) // 2)
        source = open_stimuli(
            setup.options.stimuli,
            setup.size,
            setup.options.seed,
            train_images=2,
            test_images=pairs,
            margin=margin,
        )
        rng = np.random.default_rng(setup.options.seed)
        shifts = rng.choice(steps, (pairs, 2)) * rng.choice([-1, 1], (pairs, 2))
        first, second = _crops(source.batch("test", 0, pairs, margin), shifts * step, setup.size)
        maps = [layer_features(setup, view, images) for images in (first, second)]
        numbers = np.array([source.scene(index) for index in range(pairs)])
    rows = []
    methods = {"plain": None} | dict(erasers)
    for method, eraser in methods.items():
        clean = (lambda m: m) if eraser is None else eraser.on("NCHW").to(maps[0].device)
        shown = [seen.reduce(clean(m)) for m in maps]
        values, chance = _matches(shown[0], shown[1], shifts)
        bounds = bootstrap_interval(values, setup.options.seed, scenes=numbers)
        low, high = np.clip(bounds, 0, 1)
        for column, name in enumerate(("right", "same")):
            numbers_of = values[:, column].mean(), low[column], high[column], chance[column]
            rows.append((layer, method, name, *map(float, numbers_of)))
    return pd.DataFrame(
        rows, columns=["layer", "method", "match", "value", "low", "high", "chance"]
    )


def _crops(
    images: Tensor, moves: NDArray[np.int64], size: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Two crops of each image, the second by so many pixels down and to the right of the first."""
    crops: tuple[list[Tensor], list[Tensor]] = ([], [])
    for image, move in zip(images, moves, strict=True):
        for crop, start in zip(crops, (np.maximum(-move, 0), np.maximum(move, 0)), strict=True):
            (top, left), (height, width) = start.tolist(), size
            crop.append(image[:, top : top + height, left : left + width])
    return torch.stack(crops[0]), torch.stack(crops[1])


def _matches(
    first: Tensor, second: Tensor, shifts: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Shares of right and same matches of each pair (N, 2), and what chance gives (2,)."""
    height, width = first.shape[2:]
    unit = [torch.nn.functional.normalize(m.flatten(2), dim=1) for m in (first, second)]
    nearest = (unit[0].transpose(1, 2) @ unit[1]).argmax(2).cpu().numpy()
    y, x = np.divmod(np.arange(height * width), width)
    values, chances = [], []
    for index, (down, right) in zip(nearest, shifts, strict=True):
        true_y, true_x = y - down, x - right
        shown = (true_y >= 0) & (true_y < height) & (true_x >= 0) & (true_x < width)
        at_y, at_x = np.divmod(index, width)
        scores, levels = [], []
        for wanted_y, wanted_x in ((true_y, true_x), (y, x)):
            near = np.maximum(np.abs(at_y - wanted_y), np.abs(at_x - wanted_x)) <= 1
            scores.append(near[shown].mean())
            levels.append((_near(wanted_y, height) * _near(wanted_x, width))[shown].mean())
        values.append(scores)
        chances.append(levels)
    return np.array(values), np.mean(chances, 0) / (height * width)


def _near(index: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """How many rows or columns lie within one of each."""
    return np.minimum(index + 1, size - 1) - np.maximum(index - 1, 0) + 1
