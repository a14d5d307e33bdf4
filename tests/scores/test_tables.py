"""Scores beside chance and controls, paired differences and shares, profile and pattern."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from probe.backbones.layer import Layer
from probe.readouts.softmax import Softmax
from probe.readouts.spec import ReadoutSpec
from probe.runner.job import layer_truth
from probe.scores.patterns import PlaceSums, find_pattern
from probe.scores.tables import Scored, control_order, profile_rows, score_layer, score_rows

TARGETS = ("horizontal", "vertical")
SIZE = (96, 128)
LAYER = Layer("x", 1, 4, 6, 8, "NCHW", 0, SIZE)


def truth(kernel=1, readout="ridge"):
    return layer_truth(ReadoutSpec(readout, kernel), TARGETS, LAYER)


def predicted(noise: float, images=40, seed=0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    wanted = np.concatenate([truth().flat, truth().controls]).reshape(1, 4, 6, 8)
    return wanted + noise * rng.normal(size=(images, 4, 6, 8))


def mean_of(scored, target, metric):
    return scored.values.mean(0)[scored.columns.index((target, metric))]


def test_perfect_predictions_and_blind_ones():
    perfect = score_layer(predicted(0), truth())
    assert mean_of(perfect, "vertical", "spc") == pytest.approx(1)
    assert mean_of(perfect, "vertical", "control") == pytest.approx(1)
    assert mean_of(perfect, "vertical", "selectivity") == pytest.approx(0)
    assert mean_of(perfect, "position", "error_px") == pytest.approx(0)
    blind = np.broadcast_to(truth().flat.mean(1)[:, None, None], (3, 2, 6, 8))
    scored = score_layer(np.concatenate([blind, blind], 1), truth())
    np.testing.assert_allclose(scored.values.mean(0), scored.chance, atol=1e-12)


def test_the_localisation_error_is_in_pixels_of_images_that_need_not_be_square():
    off = predicted(0)
    off[:, 0] += 3 / (SIZE[1] - 1)  # 3 pixels to the right
    off[:, 1] += 4 / (SIZE[0] - 1)  # 4 pixels down
    assert mean_of(score_layer(off, truth()), "position", "error_px") == pytest.approx(5)


def test_the_control_is_a_permutation_that_all_targets_share():
    order = control_order(48, 7)
    assert sorted(order) == list(range(48))
    assert not np.array_equal(order, control_order(48, 8))
    found = truth()
    np.testing.assert_array_equal(found.controls, found.flat[:, found.order])


def test_shares_are_defined_where_something_was_known():
    """The variant leaves a quarter of what the original has beyond chance."""
    original = score_layer(predicted(0.1), truth())
    part = predicted(0.1, seed=1)
    mean = truth().flat.mean(1)[:, None, None]
    part[:, :2] = mean + 0.25 * (part[:, :2] - mean)
    scenes = np.arange(40)
    rows = score_rows(score_layer(part, truth()), original, True, 0, scenes)
    rows = rows.set_index(["target", "metric"])
    for metric in ("mae", "r2", "spc"):
        row = rows.loc[("vertical", metric)]
        beyond = row["value"] + row["difference"] - row["chance"]
        assert row["share"] == pytest.approx(row["difference"] / beyond)
        assert row["share_low"] < row["share"] < row["share_high"]
        assert row["difference_low"] < row["difference"] < row["difference_high"]
    assert np.isnan(rows.loc[("vertical", "control"), "share"])
    # Not of what kept its padding, nor of what knew nothing, nor where chance is another.
    kept = score_rows(score_layer(part, truth()), original, False, 0, scenes)
    assert kept["share"].isna().all()
    nothing = score_layer(np.random.default_rng(3).normal(size=part.shape), truth())
    rows = score_rows(nothing, nothing, True, 0, scenes)
    spc = rows[rows["metric"] == "spc"]
    assert spc["share"].isna().all()
    # Nor of what is little more than its own uncertainty, though its interval excludes chance.
    columns, chance = [("vertical", "spc"), ("vertical", "mae")], np.array([0.0, 0.3])
    noise = np.random.default_rng(4).normal(size=40)
    noise = (noise - noise.mean()) / noise.std()
    sides = np.array([1, -1])
    for error, defined in ((0.4, False), (0.15, True)):  # half widths are about twice that
        some = chance + sides * (0.1 + 0.1 * error * np.sqrt(40) * noise[:, None])
        bare = np.broadcast_to(chance, some.shape)
        rows = score_rows(
            Scored(columns, bare, chance), Scored(columns, some, chance), True, 0, scenes
        )
        assert (sides * rows["difference"]).min() > 0
        assert (rows["difference_low"] * rows["difference_high"] > 0).all()
        assert rows["share"].notna().tolist() == [defined, defined]
    # Nor is there a difference to the middle of the map alone, position or not.
    middle = score_layer(predicted(0.1)[:, :, 1:-1, 1:-1], truth(kernel=3))
    rows = score_rows(middle, original, True, 0, scenes)
    effects = [c for c in rows if c.startswith(("difference", "share"))]
    assert len(effects) == 6 and rows[effects].isna().all(axis=None)
    first = score_rows(original, None, False, 0, scenes)
    assert first[["difference", "share"]].isna().all(axis=None)


def test_top1_is_the_share_of_places_in_the_right_cell():
    readout, right = Softmax(), np.linspace(0.2, 0.6, 5)
    ((key, chance),) = readout.extra_chance(6, 8).items()
    scored = score_layer(predicted(0, 5), truth(readout="softmax"), {key: (right, chance)})
    assert scored.columns[-1] == ("cells", "top1")
    np.testing.assert_allclose(scored.values[:, -1], right)
    sizes = np.bincount(Softmax().grid(6, 8).ravel())
    assert scored.chance[-1] == sizes.max() / 48


@pytest.mark.parametrize("kernel", [1, 3])
def test_the_profile_is_by_distance_to_the_nearest_border(kernel):
    found = truth(kernel)
    rng = np.random.default_rng(0)
    height, width = found.maps.shape[1:]
    maps = found.maps[None] + rng.normal(size=(20, 2, height, width))
    rows = profile_rows(maps, found, 0, np.arange(20))
    # Cells are 16 px wide; a kernel of 3 leaves the outermost out.
    edge = kernel // 2
    for row in rows.itertuples():
        ring = [
            (y, x)
            for y in range(height)
            for x in range(width)
            if 16 * min(y + edge, 5 - y - edge, x + edge, 7 - x - edge) + 8 == row.distance
        ]
        assert len(ring) == row.places
        t = TARGETS.index(row.target)
        errors = [np.abs(maps[:, t, y, x] - found.maps[t, y, x]).mean() for y, x in ring]
        assert row.error == pytest.approx(np.mean(errors))
    assert set(rows["distance"]) == ({8, 24, 40} if kernel == 1 else {24, 40})


def sums(x: torch.Tensor, folds=4) -> list[PlaceSums]:
    found = []
    for part in torch.tensor_split(x, folds):
        found.append(PlaceSums.empty(x.mean((0, 2, 3)), x.shape[2] * x.shape[3]))
        found[-1].update(part)
    return found


def test_eta2_is_the_share_planted_and_without_bias():
    """Channels of known shares of position variance; 200 noise channels average to 0."""
    rng = np.random.default_rng(0)
    shares = np.array([0.0, 0.05, 0.3, 0.9])
    profile = rng.normal(size=(4, 7, 7))
    profile -= profile.mean((1, 2), keepdims=True)
    profile /= profile.std((1, 2), keepdims=True)
    noise = rng.normal(size=(600, 4, 7, 7))
    x = np.sqrt(shares)[:, None, None] * profile + np.sqrt(1 - shares)[:, None, None] * noise
    x = x * np.array([1, 10, 0.1, 5])[:, None, None] + 100
    pattern = find_pattern(sums(torch.from_numpy(x)), (7, 7))
    np.testing.assert_allclose(pattern.eta2, shares, atol=0.02)
    assert pattern.snr == pytest.approx(shares.sum() / (4 - shares.sum()), abs=0.02)
    np.testing.assert_allclose(pattern.mean, x.mean(0), atol=1e-4)
    assert list(pattern.tuned(2)) == [3, 2]
    dead = torch.from_numpy(np.concatenate([x, np.full_like(x, 3.0)], 1))
    assert find_pattern(sums(dead), (7, 7)).snr == pytest.approx(pattern.snr)
    few = torch.from_numpy(rng.normal(size=(8, 200, 7, 7)))
    eta2 = find_pattern(sums(few), (7, 7)).eta2
    error = eta2.std() / np.sqrt(200)
    assert abs(eta2.mean()) < 4 * error  # the plain share would be 1/8
    assert error < 0.005


def test_a_paired_difference_sees_what_images_hide():
    rng = np.random.default_rng(1)
    content = 20 * rng.normal(size=(16, 3, 6, 6))
    border = np.zeros((6, 6))
    border[0] = border[-1] = 1
    pattern = find_pattern(
        sums(torch.from_numpy(content)), (6, 6), sums(torch.from_numpy(content + border))
    )
    np.testing.assert_allclose(pattern.difference, np.broadcast_to(border, (3, 6, 6)), atol=1e-4)
    power = border.var()
    assert pattern.difference_snr == pytest.approx(power / 400, rel=0.2)
    kept = pattern.keep([2, 0])
    np.testing.assert_array_equal(kept.mean, pattern.mean[[2, 0]])
    np.testing.assert_array_equal(kept.map_of(0), pattern.mean[0])
    with pytest.raises(KeyError, match="channel 1 is not among"):
        kept.map_of(1)
