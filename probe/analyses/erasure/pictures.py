"""Features of one picture before and after erasing, as people show them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from ...report.style import CMAP, new_figure, shown_once, style

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Shown:
    """What is drawn of one picture under one method.

    Attributes
    ----------
    method : str
    similarity : ndarray, shape (h, w)
        See :func:`patch_similarity`.
    colours : ndarray, shape (h, w, 3), in [0, 1]
        See :func:`component_colours`.
    """

    method: str
    similarity: Array
    colours: Array


def patch_similarity(features: Array, place: tuple[int, int]) -> Array:
    """Cosine of the features (C, h, w) of every place with those of one, shape (h, w)."""
    unit = features / np.maximum(np.linalg.norm(features, axis=0, keepdims=True), 1e-12)
    return np.einsum("chw,c->hw", unit, unit[:, place[0], place[1]])


def component_colours(features: Array) -> Array:
    """First three principal components of features (C, h, w) over places, as red, green, blue.

    Each from its 2nd to its 98th percentile; signs such that the largest loading is positive.
    """
    flat = features.reshape(len(features), -1)
    flat = flat - flat.mean(1, keepdims=True)
    directions, _, _ = np.linalg.svd(flat, full_matrices=False)
    directions = directions[:, :3]
    largest = np.abs(directions).argmax(0)
    directions = directions * np.sign(directions[largest, np.arange(directions.shape[1])])
    values = np.zeros((3, flat.shape[1]))
    values[: directions.shape[1]] = directions.T @ flat
    low, high = np.percentile(values, [2, 98], axis=1)[:, :, None]
    scaled = np.clip((values - low) / np.where(high > low, high - low, 1), 0, 1)
    return np.moveaxis(scaled.reshape(3, *features.shape[1:]), 0, -1)


def plot_erased(image: Array, place: tuple[int, int], shown: Sequence[Shown]) -> Figure:
    """Draw a picture, the similarity of its patches to one, and components as colours.

    Parameters
    ----------
    image : ndarray, shape (H, W, 3), in [0, 1]
        The picture.
    place : (int, int)
        Row and column of the patch.
    shown : sequence of Shown
        A column for each method.
    """
    with style():
        size = (1.7 * (len(shown) + 1), 3.9)
        figure = new_figure(figsize=size)
        axes = figure.subplots(2, len(shown) + 1)
        height, width = shown[0].similarity.shape
        step = image.shape[0] / height, image.shape[1] / width
        box: dict[str, Any] = {"fill": False, "edgecolor": "white", "linewidth": 1.5}
        axes[0, 0].imshow(image)
        corner = place[1] * step[1] - 0.5, place[0] * step[0] - 0.5
        axes[0, 0].add_patch(Rectangle(corner, step[1], step[0], **box))
        axes[0, 0].set_title("picture")
        for column, part in enumerate(shown, 1):
            axes[0, column].imshow(part.similarity, cmap=CMAP, vmin=-1, vmax=1)
            axes[0, column].set_title(part.method)
            axes[1, column].imshow(part.colours)
        for one in axes.flat:
            one.set_axis_off()
    return shown_once(figure)
