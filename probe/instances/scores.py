"""Scores of segmentations: of objects, of classes, and of both together.

Label maps are arrays of whole numbers, 0 for background, of one image (H, W) unless said otherwise.
All scores come from one contingency table: how many pixels each pair of segments shares.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import ProbeError


def _shared(predicted: ArrayLike, true: ArrayLike) -> NDArray[np.int64]:
    """Pixels that segments share: rows predicted, columns true, the first of each background."""
    a, b = np.asarray(predicted), np.asarray(true)
    if a.shape != b.shape:
        raise ProbeError(f"label maps: expected two of one shape, got {a.shape} and {b.shape}")
    numbers = []
    for labels in (a.ravel(), b.ravel()):
        if labels.size and labels.min() < 0:
            raise ProbeError(f"label maps: expected 0 and positive labels, got {labels.min()}")
        known, inverse = np.unique(np.append(labels, 0), return_inverse=True)
        numbers.append((inverse[:-1], len(known)))
    (rows, height), (columns, width) = numbers
    return np.bincount(rows * width + columns, minlength=height * width).reshape(height, width)


def symmetric_best_dice(predicted: ArrayLike, true: ArrayLike) -> float:
    r"""Compute symmetric best Dice: the worse of two ways to match each object with its best.

    .. math:: \min(BD(A, B), BD(B, A)),\quad
        BD(A, B) = \frac1{|A|} \sum_{a ∈ A} \max_{b ∈ B} \frac{2 |a ∩ b|}{|a| + |b|}

    In [0, 1]; 1 if neither label map has an object, 0 if only one of them has.

    References
    ----------
    Scharr et al. (2016), "Leaf segmentation in plant phenotyping", Machine Vision and Applications
    27(4), section 4.1.
    """
    table = _shared(predicted, true)
    areas, others = table.sum(1)[1:], table.sum(0)[1:]
    if not len(areas) or not len(others):
        return float(len(areas) == len(others))
    dice = 2 * table[1:, 1:] / (areas[:, None] + others)
    return float(min(dice.max(1).mean(), dice.max(0).mean()))


def count_difference(predicted: ArrayLike, true: ArrayLike) -> int:
    """Objects predicted less objects there are (Scharr et al. 2016, section 4.1)."""
    rows, columns = _shared(predicted, true).shape
    return rows - columns


def _overlaps(table: NDArray[np.int64]) -> NDArray[np.float64]:
    """Intersection over union of every predicted object with every true one."""
    either = table.sum(1)[1:, None] + table.sum(0)[1:] - table[1:, 1:]
    return table[1:, 1:] / np.maximum(either, 1)


def average_precision(predicted: ArrayLike, true: ArrayLike, threshold: float = 0.5) -> float:
    r"""Compute average precision as it is used for segmentations without confidences.

    .. math:: \frac{TP}{TP + FP + FN}

    with a true positive for each pair of objects of an intersection over union above the
    threshold, which is at least 0.5, so that no object has two partners. In [0, 1]; 1 if neither
    label map has an object.

    References
    ----------
    Schmidt et al. (2018), "Cell detection with star-convex polygons", MICCAI, section 3.
    """
    if not 0.5 <= threshold < 1:
        raise ProbeError(f"threshold: expected a number in [0.5, 1), got {threshold!r}")
    overlaps = _overlaps(_shared(predicted, true))
    hits = int((overlaps > threshold).sum())
    every = sum(overlaps.shape) - hits
    return hits / every if every else 1.0


@dataclass(frozen=True)
class PanopticQuality:
    """Panoptic quality over images and its parts, means over the classes that occur.

    They are NaN if none does; ``by_class`` has the three of each class.
    """

    quality: float
    segmentation: float
    recognition: float
    by_class: dict[int, tuple[float, float, float]]


Segments = tuple[ArrayLike, ArrayLike, ArrayLike, ArrayLike]
"""Predicted classes and instances, true classes and instances, each of shape (H, W)."""


def panoptic_quality(
    images: Iterable[Segments], classes: Sequence[int], things: Sequence[int]
) -> PanopticQuality:
    r"""Compute panoptic quality, the score of classes and objects together.

    .. math:: PQ = \underbrace{\frac{\sum_{TP} IoU}{TP}}_{SQ} ·
        \underbrace{\frac{TP}{TP + \frac12 FP + \frac12 FN}}_{RQ}

    for each class, true positives being the pairs of segments with an intersection over union
    above ½, counted over all images.

    Parameters
    ----------
    images : iterable of four arrays
        See :data:`Segments`.
    classes : sequence of int
        Values of the class maps that count.
    things : sequence of int
        Those that come as instances; of the others an image has one segment.

    References
    ----------
    Kirillov et al. (2019), "Panoptic segmentation", arXiv 1801.00868, section 4.
    """
    counts = {c: np.zeros(4) for c in classes}  # Σ IoU, TP, FP, FN
    for predicted_classes, predicted_instances, true_classes, true_instances in images:
        for c, total in counts.items():
            maps = []
            for kinds, instances in (
                (predicted_classes, predicted_instances),
                (true_classes, true_instances),
            ):
                number = 1 + np.asarray(instances, np.int64) * (c in things)
                maps.append(np.where(np.asarray(kinds) == c, number, 0))
            overlaps = _overlaps(_shared(*maps))
            matched = overlaps[overlaps > 0.5]
            extra, missed = (side - len(matched) for side in overlaps.shape)
            total += matched.sum(), len(matched), extra, missed
    by_class: dict[int, tuple[float, float, float]] = {}
    for c, total in counts.items():
        overlap, hits, *wrong = map(float, total)
        if hits + sum(wrong):
            recognition = hits / (hits + sum(wrong) / 2)
            segmentation = overlap / hits if hits else 0.0
            by_class[c] = (segmentation * recognition, segmentation, recognition)
    means = np.mean(list(by_class.values()), 0) if by_class else np.full(3, np.nan)
    first, second, third = (float(mean) for mean in means)
    return PanopticQuality(first, second, third, by_class)


def mean_iou(predicted: ArrayLike, true: ArrayLike, classes: Sequence[int]) -> float:
    """Intersection over union of each class over all pixels, averaged over classes that occur.

    Class maps are of any number of images (..., H, W). In [0, 1]; NaN if no class occurs in either.
    """
    a, b = np.asarray(predicted), np.asarray(true)
    if a.shape != b.shape:
        raise ProbeError(f"class maps: expected two of one shape, got {a.shape} and {b.shape}")
    overlaps = []
    for c in classes:
        either = int(((a == c) | (b == c)).sum())
        if either:
            overlaps.append(int(((a == c) & (b == c)).sum()) / either)
    return float(np.mean(overlaps)) if overlaps else float("nan")


def pair_f1(predicted: ArrayLike, true: ArrayLike) -> float:
    r"""Compute F1 over pairs of pixels: are two pixels of objects of one object?

    Of all pairs of different pixels of the true foreground, those are positive that lie on one
    true object. A pixel predicted as background is a cluster of its own.

    .. math:: F_1 = \frac{2 \sum_{ab} \binom{n_{ab}}2}
        {\sum_a \binom{n_a}2 + \sum_b \binom{n_b}2}

    In [0, 1]; NaN if there is no pair of either kind. :func:`chance_pair_f1` is what one cluster
    for all scores.

    References
    ----------
    Manning, Raghavan, Schütze (2008), "Introduction to information retrieval", section 16.3.
    """
    table = _shared(predicted, true)[:, 1:]
    both = _pairs(table[1:]).sum()
    each = _pairs(table[1:].sum(1)).sum() + _pairs(table.sum(0)).sum()
    return float(2 * both / each) if each else float("nan")


def chance_pair_f1(true: ArrayLike) -> float:
    """:func:`pair_f1` of a prediction that can't tell objects apart: one cluster for all of them.

    For K objects of one size it is close to 2 / (K + 1).
    """
    return pair_f1((np.asarray(true) > 0).astype(int), true)


def _pairs(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    return counts * (counts - 1) // 2
