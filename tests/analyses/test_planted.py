"""Planted truth: drawn moments are those of features, the pipeline recovers what was planted."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from probe.analyses.planted.recovery import enough_images, planted_truth, recover
from probe.analyses.planted.truth import Planted
from probe.errors import ProbeError
from probe.readouts.moments import Moments, symmetric
from probe.readouts.ridge import fit_ridge
from probe.scores.metrics import r_squared
from probe.targets import TARGETS


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Most matrices here are small: beside other work, threads wait for one another."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def vector(moments: Moments) -> np.ndarray:
    rows, columns = np.tril_indices(len(moments.second))
    second = moments.second.numpy()[rows, columns]
    return np.concatenate([moments.first.numpy().ravel(), second])


def assert_same_mean(a: np.ndarray, b: np.ndarray) -> None:
    """Of samples (N, …), to within 5 standard errors."""
    error = np.sqrt(a.var(0) / len(a) + b.var(0) / len(b))
    assert (np.abs(a.mean(0) - b.mean(0)) <= 5 * error + 1e-9).all()


def products(samples: np.ndarray) -> np.ndarray:
    """Products of all pairs of deviations from the mean, whose means are the covariances."""
    deviations = samples - samples.mean(0)
    return deviations[:, :, None] * deviations[:, None, :]


# With 2 images of 2 places, the second moment within places has rank 2 in 3 channels.
@pytest.mark.parametrize(("images", "size"), [(4, (2, 2)), (2, (1, 2))])
def test_drawn_moments_are_distributed_as_those_of_features(images, size):
    planted = Planted(3, 2.0, "horizontal", size, correlation=0.6, seed=4)
    drawn, summed = [], []
    for repeat in range(2000):
        drawn.append(planted.moments(images, repeat))
        summed.append(Moments.empty(drawn[-1].origin, planted.places))
        summed[-1].update(planted.features("train", repeat * images, (repeat + 1) * images))
    assert {m.images for m in (*drawn, *summed)} == {images}
    drawn, summed = (np.stack([vector(m) for m in moments]) for moments in (drawn, summed))
    assert_same_mean(drawn, summed)
    assert_same_mean(products(drawn), products(summed))


def test_noise_correlates_as_declared():
    planted = Planted(4, 1e-6, correlation=0.7, seed=2)
    moments = planted.moments(10**6)
    covariance = symmetric(moments.second).numpy() / (10**6 * planted.places)
    deviation = np.sqrt(covariance.diagonal())
    lags = np.abs(np.subtract.outer(range(4), range(4)))
    np.testing.assert_allclose(covariance / np.outer(deviation, deviation), 0.7**lags, atol=2e-3)


@pytest.mark.parametrize("correlation", [0, 0.8])
@pytest.mark.parametrize("snr", [0.03, 2, 300])
def test_attainable_is_the_expected_r_squared_of_the_best_readout(snr, correlation):
    planted = Planted(5, snr, "vertical", (3, 4), correlation, seed=1)
    truth = torch.from_numpy(planted.map).reshape(1, -1)
    best = fit_ridge([planted.moments(10**6)], truth, [1e-9])
    scores = r_squared(best(planted.features("test", 0, 4000))[:, 0].numpy(), truth[0].numpy())
    error = scores.std() / np.sqrt(len(scores))
    assert abs(scores.mean() - snr / (1 + snr)) < 4 * error
    # The spread that the number of training images is derived from.
    spread = np.sqrt((4 * snr + 2 * snr**2) / planted.places) / (1 + snr) ** 2
    assert scores.std() == pytest.approx(spread, rel=0.1)


def test_a_finite_training_set_costs_what_enough_images_assumes():
    channels, snr, images, test_images = 32, 1.0, 16, 200
    found = [recover(Planted(channels, snr, seed=s), images, test_images).value for s in range(40)]
    expected = channels / (images * 49 * (1 + snr))
    assert snr / (1 + snr) - np.mean(found) == pytest.approx(expected, rel=0.25)


@given(
    channels=st.integers(1, 2048),
    decades=st.floats(-4, 4),
    places=st.integers(2, 400),
    test_images=st.integers(2, 1000),
)
def test_enough_images_is_more_for_more_channels_and_a_narrower_interval(
    channels, decades, places, test_images
):
    few = enough_images(channels, 10**decades, places, test_images)
    assert few * places >= 20 * channels
    assert enough_images(2 * channels, 10**decades, places, test_images) >= few
    assert enough_images(channels, 10**decades, places, 2 * test_images) >= few


def test_made_features_and_drawn_moments_recover_alike():
    cases = [
        Planted(channels, snr, target, seed=channels)
        for channels in (8, 64)
        for snr, target in zip((0.1, 1.0, 1e1, 1e2, 1e3), TARGETS, strict=True)
    ]
    for drawn in (True, False):
        assert np.mean([recover(case, drawn=drawn).recovered for case in cases]) >= 0.9


def test_planted_truth_is_recovered_over_five_decades():
    found = []

    @settings(max_examples=60, phases=[Phase.generate], database=None)
    @given(
        snr=st.sampled_from(np.logspace(-2, 3, 101).tolist()),
        channels=st.sampled_from(np.geomspace(8, 640, 101).round().astype(int).tolist()),
        target=st.sampled_from(list(TARGETS)),
        seed=st.integers(0, 2**32),
    )
    def one(snr: float, channels: int, target: str, seed: int) -> None:
        found.append(recover(Planted(channels, snr, target, seed=seed)))

    one()
    assert len(found) >= 50
    assert {math.floor(math.log10(f.snr)) for f in found} >= {-2, -1, 0, 1, 2}
    assert min(f.channels for f in found) < 16 and max(f.channels for f in found) > 400
    assert np.mean([f.recovered for f in found]) >= 0.9
    # Not because intervals are wide: half or twice the ratio would be told from it.
    clear = [f for f in found if f.snr >= 0.1]
    for factor in (0.5, 2):
        wrong = [replace(f, attainable=factor * f.snr / (1 + factor * f.snr)) for f in clear]
        assert not any(w.recovered for w in wrong)


def test_the_same_seed_gives_the_same_bits_and_another_others():
    a, b, other = (Planted(6, 1.0, seed=s) for s in (1, 1, 2))
    assert torch.equal(a.features("test", 0, 5)[2:4], b.features("test", 2, 4))
    assert torch.equal(a.moments(9, 1).second, b.moments(9, 1).second)
    assert recover(a) == recover(b) != recover(other)
    assert not torch.equal(a.features("test", 0, 1), a.features("train", 0, 1))
    assert not torch.equal(a.features("test", 0, 1), other.features("test", 0, 1))
    assert not torch.equal(a.moments(9, 0).first, a.moments(9, 1).first)
    assert a.features("test", 3, 5).dtype == torch.float32
    assert a.features("test", 3, 5).shape == (2, 6, 7, 7)


def test_the_table_has_a_row_for_each_truth():
    options = {"channels": [4, 9], "snrs": [1, 100], "repeats": 3, "progress": False}
    table = planted_truth(**options)
    assert list(table) == [
        *("target", "channels", "snr", "train_images", "alpha"),
        *("attainable", "value", "low", "high", "recovered"),
    ]
    assert table.groupby(["channels", "snr"]).size().tolist() == [3] * 4
    assert set(table["target"]) == set(TARGETS)
    inside = table["attainable"].between(table["low"], table["high"])
    assert (table["recovered"] == inside).all()
    assert table.equals(planted_truth(**options))
    assert table["value"].nunique() == len(table)
    assert not table.equals(planted_truth(**options, seed=1))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Planted(0, 1.0), "channels: expected a whole number of at least 1, got 0"),
        (lambda: Planted(2.5, 1.0), "channels: expected a whole number"),
        (lambda: Planted(8, 0.0), "snr: expected a finite number greater than 0, got 0.0"),
        (lambda: Planted(8, float("nan")), "snr: expected a finite number"),
        (lambda: Planted(8, "high"), "snr: expected a finite number"),
        (lambda: Planted(8, 1.0, "diagonal"), "unknown target 'diagonal'"),
        (lambda: Planted(8, 1.0, size=(7,)), "size: expected .height, width., got .7,."),
        (lambda: Planted(8, 1.0, size=7), "size: expected .height, width., got 7"),
        (lambda: Planted(8, 1.0, size=(7, 0)), "size: expected a whole number of at least 1"),
        (lambda: Planted(8, 1.0, "vertical", (1, 7)), "same at every one of 1 × 7 places.*larger"),
        (lambda: Planted(8, 1.0, correlation=1), "correlation: expected a number from 0"),
        (lambda: Planted(8, 1.0, seed=-1), "seed: expected a whole number of at least 0"),
        (lambda: Planted(8, 1.0).features("moments", 0, 1), "unknown split 'moments'"),
        (lambda: Planted(8, 1.0).moments(0), "images: expected a whole number of at least 1"),
        (lambda: Planted(8, 1.0).moments(2, -1), "fold: expected a whole number"),
        (lambda: recover(Planted(8, 1.0), 3), "train_images: expected a whole number of at least"),
        (lambda: recover(Planted(8, 1.0), 8, 1), "test_images: expected a whole number"),
        (lambda: planted_truth(repeats=0), "repeats: expected a whole number of at least 1"),
        (lambda: planted_truth(channels=[]), "channels, snrs: expected at least one of each"),
    ],
)
def test_what_can_not_be_is_explained(make, words):
    with pytest.raises(ProbeError, match=words):
        make()
