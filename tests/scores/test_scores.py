"""Scores against scipy and scikit-learn; intervals against their promise."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import mean_absolute_error, r2_score

from probe import scores


@given(seed=st.integers(0, 999), places=st.integers(3, 60), ties=st.booleans())
def test_scores_are_scipys_and_scikit_learns(seed, places, ties):
    rng = np.random.default_rng(seed)
    target = rng.random(places)
    predictions = rng.normal(size=(4, places)) + target
    if ties:
        target, predictions = target.round(1), predictions.round(1)
        target[0] += 1  # not constant
        predictions[:, 0] += 3
    spc = scores.spearman(predictions, target)
    for got, prediction in zip(spc, predictions, strict=True):
        assert got == pytest.approx(stats.spearmanr(prediction, target).statistic, abs=1e-12)
    for got, prediction in zip(
        scores.mean_absolute_error(predictions, target), predictions, strict=True
    ):
        assert got == pytest.approx(mean_absolute_error(target, prediction))
    for got, prediction in zip(scores.r_squared(predictions, target), predictions, strict=True):
        assert got == pytest.approx(r2_score(target, prediction))


@pytest.mark.parametrize("value", [0.0, 0.5, -3e6])
def test_a_constant_prediction_scores_zero(value):
    rng = np.random.default_rng(0)
    target = rng.random(49)
    constant = np.full((2, 49), value)
    constant[1] += value * rng.uniform(-1, 1, 49) * np.finfo(np.float32).eps  # rounding
    assert scores.spearman(constant, target).tolist() == [0, 0]
    assert np.isfinite(scores.r_squared(constant, target)).all()


def test_rank_order_alone_counts_however_small_the_prediction():
    target = np.linspace(0, 1, 49)
    assert scores.spearman(0.5 + 1e-4 * target[None], target) == pytest.approx(1)
    assert scores.spearman(0.5 - 1e-4 * target[None], target) == pytest.approx(-1)


def test_intervals_cover_the_mean_as_often_as_they_say():
    """2,000 experiments of 64 images each, normal and skewed."""
    rng = np.random.default_rng(1)
    for draw, truth in ((rng.normal, 0.0), (rng.exponential, 1.0)):
        low, high = scores.bootstrap_interval(draw(size=(64, 2000)))
        coverage = np.mean((low <= truth) & (truth <= high))
        assert coverage == pytest.approx(0.95, abs=0.03)


def test_intervals_are_those_of_student_for_normal_scores():
    values = np.random.default_rng(2).normal(size=(16, 500))
    low, high = scores.bootstrap_interval(values)
    half = stats.t.ppf(0.975, 15) * values.std(0, ddof=1) / 4
    assert np.mean(high - low) == pytest.approx(2 * half.mean(), rel=0.05)


def test_intervals_of_images_of_common_scenes_are_those_of_the_scenes():
    """Copies say nothing new; images that cancel make the mean more certain."""
    rng = np.random.default_rng(3)
    scenes = np.arange(64) // 4
    means = rng.normal(size=(16, 50))
    alike = np.repeat(means, 4, axis=0)
    bounds = scores.bootstrap_interval(alike, scenes=scenes)
    np.testing.assert_allclose(bounds, scores.bootstrap_interval(means), atol=1e-12)
    noise = rng.normal(size=(16, 1, 50)) * np.array([[1], [-1], [1], [-1]])
    opposed = (means[:, None] + noise).reshape(64, 50)
    bounds_opposed = scores.bootstrap_interval(opposed, scenes=scenes)
    np.testing.assert_allclose(bounds_opposed, bounds, atol=1e-12)


@pytest.mark.parametrize("size", [3, 6, 10, 16, 40])
def test_intervals_over_scenes_cover_the_mean_as_often_as_they_say(size):
    """2,000 experiments of scenes of four images each, alike and antithetic."""
    rng = np.random.default_rng(size)
    for likeness in (1.0, 0.0):
        shared = rng.normal(size=(size, 1, 2000)) * likeness
        own = rng.normal(size=(size, 4, 2000))
        values = (shared + own - own.mean(1, keepdims=True) * 0.9).reshape(4 * size, 2000)
        low, high = scores.bootstrap_interval(values, scenes=np.arange(4 * size) // 4)
        assert np.mean((low <= 0) & (high >= 0)) == pytest.approx(0.95, abs=0.025)


@pytest.mark.parametrize(("size", "columns"), [(4, 25), (8, 60), (16, 25), (48, 60)])
def test_simultaneous_intervals_hold_all_at_once(size, columns):
    """Of correlated scores without position, a claim about the best is false in 5 % at most."""
    rng, held, trials = np.random.default_rng(size), 0, 200
    for seed in range(trials):
        common = rng.standard_normal((size, 1))
        values = 0.5 * common + rng.standard_normal((size, columns))
        low, high = scores.simultaneous_interval(values, seed, resamples=500)
        held += bool(np.all((low <= 0) & (high >= 0)))
    assert held / trials >= 0.90
    single = np.array(scores.bootstrap_interval(values, seed, resamples=500))
    assert (high - low > single[1] - single[0]).all()


def test_what_cancels_exactly_contains_0():
    values = np.tile([[0.3], [-0.1], [-0.3], [0.1]], (16, 1)) + 1e-17
    low, high = scores.bootstrap_interval(values, scenes=np.arange(64) // 4)
    assert low == high == 0


def test_share_of_a_mean_with_its_interval():
    """2,000 experiments: ratio of means, paired over images."""
    rng = np.random.default_rng(7)
    whole = 1 + 0.3 * rng.normal(size=(40, 2000))
    part = 0.6 * whole + 0.1 * rng.normal(size=whole.shape)
    share, low, high = scores.bootstrap_share(part, whole)
    np.testing.assert_allclose(share, part.mean(0) / whole.mean(0))
    assert np.mean((low <= 0.6) & (high >= 0.6)) == pytest.approx(0.95, abs=0.02)
    assert np.mean(high - low) < 0.08  # pairing takes the images' own spread away


def test_localisation_error_is_the_median_distance():
    truth = np.array([[0.0, 10, 20], [0, 0, 0]])
    shift = np.array([[3.0, 0, 30], [4, 0, 40]])
    found = scores.localisation_error(np.stack([truth, truth + shift]), truth)
    np.testing.assert_allclose(found, [0, 5])


def test_one_image_says_nothing_of_the_spread():
    low, high = scores.bootstrap_interval(np.ones((1, 3)))
    assert np.isnan(low).all()
    assert np.isnan(high).all()
    low, high = scores.bootstrap_interval(np.ones((5, 3)))
    np.testing.assert_array_equal(low, 1)
    np.testing.assert_array_equal(high, 1)


def test_intervals_are_seeded():
    values = np.random.default_rng(0).normal(size=(20, 2))
    np.testing.assert_array_equal(
        scores.bootstrap_interval(values, 3), scores.bootstrap_interval(values, 3)
    )
    assert (
        scores.bootstrap_interval(values, 3)[0] != scores.bootstrap_interval(values, 4)[0]
    ).all()


def test_a_target_without_variance_scores_zero():
    flat = np.full(9, 0.3)
    guesses = np.stack([flat, np.linspace(0, 1, 9)])
    assert scores.r_squared(guesses, flat).tolist() == [0, 0]
    assert scores.spearman(guesses, flat).tolist() == [0, 0]
