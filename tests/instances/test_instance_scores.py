"""Scores of segmentations against their literal definitions; clusters of planted blobs."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import probe
from probe.instances.clusters import cluster
from probe.instances.scores import (
    average_precision,
    chance_pair_f1,
    count_difference,
    mean_iou,
    pair_f1,
    panoptic_quality,
    symmetric_best_dice,
)

MAPS = arrays(np.int64, (4, 5), elements=st.integers(0, 3))


def objects(labels):
    return [labels == number for number in np.unique(labels) if number]


def iou(a, b):
    return (a & b).sum() / (a | b).sum()


@given(MAPS, MAPS)
def test_objects_are_matched_as_the_definitions_say(predicted, true):
    mine, theirs = objects(predicted), objects(true)
    assert count_difference(predicted, true) == len(mine) - len(theirs)
    found = sum(iou(a, b) > 0.5 for a in mine for b in theirs)
    every = len(mine) + len(theirs) - found
    assert average_precision(predicted, true) == (found / every if every else 1)

    def best_dice(one, other):
        return np.mean([max(2 * (a & b).sum() / (a.sum() + b.sum()) for b in other) for a in one])

    wanted = float(not mine and not theirs)
    if mine and theirs:
        wanted = min(best_dice(mine, theirs), best_dice(theirs, mine))
    assert symmetric_best_dice(predicted, true) == pytest.approx(wanted)


@given(MAPS, MAPS)
def test_pairs_are_counted_as_if_one_by_one(predicted, true):
    pixels = [(p, t) for p, t in zip(predicted.flat, true.flat, strict=True) if t]
    found = extra = missed = 0
    for (p, t), (q, u) in itertools.combinations(pixels, 2):
        together, one = p == q and p > 0, t == u
        found += together and one
        extra += together and not one
        missed += one and not together
    if 2 * found + extra + missed:
        assert pair_f1(predicted, true) == pytest.approx(2 * found / (2 * found + extra + missed))
    else:
        assert np.isnan(pair_f1(predicted, true))


@given(MAPS, MAPS, st.permutations(range(1, 4)))
def test_names_of_objects_do_not_matter(predicted, true, order):
    renamed = np.array([0, *order])[predicted] * 10
    for score in (symmetric_best_dice, count_difference, average_precision):
        assert score(renamed, true) == score(predicted, true)
    np.testing.assert_equal(pair_f1(renamed, true), pair_f1(predicted, true))


@given(MAPS, MAPS, MAPS, MAPS)
def test_panoptic_quality_is_kirillovs(kinds, numbers, true_kinds, true_numbers):
    classes, things = (0, 1, 2, 3), (2, 3)
    got = panoptic_quality([(kinds, numbers, true_kinds, true_numbers)], classes, things)
    for c in classes:

        def segments(kind, number, c=c):
            if c not in things:
                return [kind == c] if (kind == c).any() else []
            return [s for n in range(4) if (s := (kind == c) & (number == n)).any()]

        mine, theirs = segments(kinds, numbers), segments(true_kinds, true_numbers)
        if not mine and not theirs:
            assert c not in got.by_class
            continue
        matched = [o for a in mine for b in theirs if (o := iou(a, b)) > 0.5]
        recognition = len(matched) / ((len(mine) + len(theirs)) / 2)
        segmentation = np.mean(matched) if matched else 0
        wanted = (segmentation * recognition, segmentation, recognition)
        assert got.by_class[c] == pytest.approx(wanted)
    means = np.mean(list(got.by_class.values()), 0)
    assert (got.quality, got.segmentation, got.recognition) == pytest.approx(tuple(means))


@given(MAPS, MAPS)
def test_mean_iou_leaves_out_what_occurs_nowhere(predicted, true):
    there = [c for c in range(5) if (predicted == c).any() or (true == c).any()]
    wanted = np.mean([iou(predicted == c, true == c) for c in there])
    assert mean_iou(predicted, true, range(5)) == pytest.approx(wanted)


def test_what_is_right_scores_one_and_what_is_empty_is_said():
    true = np.array([[0, 1, 1], [2, 2, 0]])
    empty = np.zeros_like(true)
    assert symmetric_best_dice(true, true) == average_precision(true, true) == pair_f1(true, true)
    assert pair_f1(true, true) == 1
    assert symmetric_best_dice(empty, true) == average_precision(empty, true) == 0
    assert symmetric_best_dice(empty, empty) == average_precision(empty, empty) == 1
    assert np.isnan(panoptic_quality([], (0, 1), (1,)).quality)
    with pytest.raises(probe.ProbeError, match="one shape"):
        pair_f1(true, true[:1])
    with pytest.raises(probe.ProbeError, match="threshold"):
        average_precision(true, true, 0.3)


def test_chance_cannot_tell_objects_apart():
    true = np.repeat(np.arange(5), 100).reshape(25, 20)  # four objects of 100 pixels
    assert chance_pair_f1(true) == pytest.approx(2 / (4 + 1), abs=0.005)


def blobs(spread, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, (20, 24))
    centres = 3 * np.eye(4, 6)
    embedding = centres[labels] + spread * rng.normal(size=(20, 24, 6))
    return torch.from_numpy(embedding).permute(2, 0, 1), labels


def test_blobs_a_margin_apart_are_clusters():
    embedding, labels = blobs(0.1)
    found = cluster(embedding, labels > 0, most=200)
    assert pair_f1(found, labels) == 1
    assert (found[labels == 0] == 0).all()
    sizes = np.bincount(found.ravel())[1:]
    assert (np.diff(sizes) <= 0).all()
    assert np.array_equal(found, cluster(embedding, labels > 0, most=200))


@pytest.mark.parametrize(
    ("sizes", "radius"), [([40, *[400] * 5], 0.5), ([100, 400] * 6, 0.5), ([30] * 40, 0.05)]
)
def test_small_objects_are_found_among_large_and_many(sizes, radius):
    """Pixels at a distance from their centre, in all directions of 8 dimensions."""
    rng = np.random.default_rng(0)
    centres = []
    while len(centres) < len(sizes):
        new = 4 * rng.normal(size=8)
        if all(np.linalg.norm(new - other) >= 3 for other in centres):
            centres.append(new)
    labels = np.repeat(np.arange(1, len(sizes) + 1), sizes)
    away = rng.normal(size=(len(labels), 8))
    away *= radius / np.linalg.norm(away, axis=1, keepdims=True)
    embedding = (np.array(centres)[labels - 1] + away).T[:, None]
    assert average_precision(cluster(embedding, labels[None] > 0), labels[None]) == 1


def test_stragglers_are_no_clusters():
    embedding = np.zeros((2, 1, 104))
    embedding[0, 0, 50:] = 5
    embedding[1, 0, 100:] = 3, 6, 9, 12
    found = cluster(embedding, np.ones((1, 104), bool))
    assert found.max() == 2 and (found[0, 50:] == 1).all() and (found[0, :50] == 2).all()
    assert cluster(embedding, np.ones((1, 104), bool), least=1).max() == 6
    assert set(cluster(embedding[..., :1], np.ones((1, 1), bool)).ravel()) == {1}
    half = torch.from_numpy(embedding).bfloat16()
    assert np.array_equal(cluster(half, np.ones((1, 104), bool)), found)


def test_panoptic_quality_takes_labels_of_any_width():
    classes, instances = np.full((4, 4), 2), np.full((4, 4), 255, np.uint8)
    found = panoptic_quality([(classes, instances, classes, instances)], [2], [2])
    assert found.quality == 1


def test_what_coincides_is_one_cluster_also_up_to_rounding():
    embedding, labels = blobs(1e-6)
    embedding = embedding * 0 + 5 + 1e-6 * blobs(1.0)[0]
    assert set(cluster(embedding, labels > 0).ravel()) == {0, 1}
    assert not cluster(embedding, labels > 9).any()


def test_what_can_not_be_clustered_is_said():
    embedding, labels = blobs(0.1)
    for change, message in (
        ({"embedding": embedding[:, :3]}, "shapes"),
        ({"embedding": embedding * np.nan}, "not finite"),
        ({"bandwidth": 0}, "bandwidth"),
    ):
        with pytest.raises(probe.ProbeError, match=message):
            cluster(**{"embedding": embedding, "foreground": labels > 0, **change})
