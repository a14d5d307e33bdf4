"""Ridge from moments against brute force on the stacked features, and against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import Ridge

from probe.backbones.layer import Layer
from probe.backbones.probed import evaluating, probe_layers
from probe.readouts.moments import Moments, centred, pilot_origin
from probe.readouts.ridge import ALPHAS, Statistics, fit_ridge, solve_ridge
from probe.stimuli.leaves import Leaves
from probe.targets import layer_targets


def folded(x: torch.Tensor, folds: int) -> list[Moments]:
    origin = pilot_origin(x)
    parts = []
    for piece in torch.tensor_split(x, folds):
        parts.append(Moments.empty(origin, x.shape[2] * x.shape[3]))
        parts[-1].update(piece)
    return parts


def random_problem(seed: int, channels: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(24, channels, 5, 6, generator=generator, dtype=torch.float64)
    mixing = torch.randn(channels, channels, generator=generator, dtype=torch.float64)
    x = torch.einsum("bchw,cd->bdhw", x, mixing) + 2
    x[:, 0] += torch.linspace(0, 2, 6, dtype=torch.float64)  # a channel that knows its column
    layer = Layer("x", 1, channels, 5, 6, "NCHW", 0, (50, 60))
    truth = layer_targets(
        ["horizontal", "vertical", "gaussian"], (50, 60), layer.rows, layer.columns
    )
    return x, torch.from_numpy(truth).flatten(1)


def brute_force(x, targets, alpha):
    """Least squares on the stacked, standardised features with √(nα) I appended."""
    flat = x.permute(0, 2, 3, 1).reshape(-1, x.shape[1]).double().numpy()
    y = np.tile(targets.numpy().T, (len(x), 1))
    mean, deviation = flat.mean(0), flat.std(0)
    z = (flat - mean) / deviation
    rows = np.vstack([z, np.sqrt(len(z) * alpha) * np.eye(z.shape[1])])
    wanted = np.vstack([y - y.mean(0), np.zeros((z.shape[1], y.shape[1]))])
    v = np.linalg.lstsq(rows, wanted, rcond=None)[0]
    return z @ v + y.mean(0), v


@given(seed=st.integers(0, 50), exponent=st.integers(-5, 3))
def test_ridge_from_moments_is_the_brute_force_fit(seed, exponent):
    x, targets = random_problem(seed)
    alpha = 10.0**exponent
    readout = fit_ridge(folded(x, 3), targets, [alpha])
    wanted, _ = brute_force(x, targets, alpha)
    got = readout(x).permute(0, 2, 1).reshape(-1, 3).numpy()
    np.testing.assert_allclose(got, wanted, rtol=1e-6, atol=1e-6)
    flat = x.permute(0, 2, 3, 1).reshape(-1, x.shape[1]).numpy()
    z = (flat - flat.mean(0)) / flat.std(0)
    sklearns = Ridge(alpha=alpha * len(z)).fit(z, np.tile(targets.numpy().T, (len(x), 1)))
    np.testing.assert_allclose(got, sklearns.predict(z), rtol=1e-6, atol=1e-6)


def test_ridge_on_real_features_is_the_brute_force_fit(lite):
    """The network's own float32 features of a trained layer, 320 channels."""
    images = Leaves((224, 224), 9).batch("train", 0, 24)
    kept = []
    with evaluating(lite.model):
        taps = probe_layers(lite.model, ["blocks.6"], lite.normalise(images[:2]))
        taps.run(lite.model, lite.normalise(images), lambda _, f: kept.append(f.clone()))
    layer, x = taps.layers[0], kept[0]
    names = ["horizontal", "vertical", "gaussian"]
    targets = torch.from_numpy(layer_targets(names, (224, 224), layer.rows, layer.columns)).flatten(
        1
    )
    for alpha in (1e-3, 1e-1, 10.0):
        readout = fit_ridge(folded(x, 4), targets, [alpha])
        wanted, _ = brute_force(x, targets, alpha)
        exact = fit_ridge(folded(x.double(), 4), targets, [alpha])
        got = exact(x.double()).permute(0, 2, 1).reshape(-1, 3).numpy()
        np.testing.assert_allclose(got, wanted, rtol=1e-6, atol=1e-6)
        # Products in float32, as in a run: far below what 64 test images can resolve.
        single = readout(x).permute(0, 2, 1).reshape(-1, 3).numpy()
        np.testing.assert_allclose(single, wanted, atol=1e-4)


@given(seed=st.integers(0, 20))
def test_cross_validation_from_moments_is_cross_validation(seed):
    """The α that the moments choose has the least held-out error found by fitting each fold."""
    x, targets = random_problem(seed, channels=10)
    pieces = torch.tensor_split(x, 4)
    scale = x.permute(0, 2, 3, 1).reshape(-1, 10).std(0, correction=0)
    errors = np.zeros((len(ALPHAS), len(targets)))
    for number, alpha in enumerate(ALPHAS):
        for held_out, piece in enumerate(pieces):
            train = torch.cat([p for k, p in enumerate(pieces) if k != held_out])
            flat = (train / scale[:, None, None]).permute(0, 2, 3, 1).reshape(-1, 10).numpy()
            y = np.tile(targets.numpy().T, (len(train), 1))
            model = Ridge(alpha=alpha * len(flat)).fit(flat, y)
            test = (piece / scale[:, None, None]).permute(0, 2, 3, 1).reshape(-1, 10).numpy()
            residual = model.predict(test) - np.tile(targets.numpy().T, (len(piece), 1))
            errors[number] += (residual**2).sum(0)
    chosen = fit_ridge(folded(x, 4), targets).alphas.numpy()
    for target, alpha in enumerate(chosen):
        place = ALPHAS.index(alpha)
        near = errors[max(place - 1, 0) : place + 2, target]
        assert errors[place, target] == near.min()


def test_dead_channels_and_constant_features_are_no_position():
    x, targets = random_problem(1)
    x[:, 2] = 7.25
    readout = fit_ridge(folded(x.float(), 4), targets)
    assert (readout.weights[:, 2] == 0).all()
    assert readout.weights.abs().sum() > 0
    flat = fit_ridge(folded(torch.full((8, 3, 5, 6), 0.1), 4), targets)
    assert (flat.weights == 0).all()
    predictions = flat(torch.full((2, 3, 5, 6), 0.1))
    torch.testing.assert_close(predictions, targets.mean(1)[None, :, None].expand(2, -1, 30))


def test_an_indefinite_matrix_is_reported_not_solved():
    values, definite = solve_ridge(-torch.eye(3).double(), torch.ones(3, 1).double(), 0.0)
    assert not definite
    assert (values == 0).all()


def test_statistics_are_means_and_covariances():
    x, targets = random_problem(4)
    whole = folded(x, 1)[0]
    statistics = Statistics.of(whole, targets)
    flat = centred(x, whole.origin).reshape(-1, x.shape[1])
    y = targets.T.repeat(len(x), 1)
    both = torch.cov(torch.cat([flat, y], 1).T, correction=0)
    channels = x.shape[1]
    torch.testing.assert_close(statistics.covariance.tril(), both[:channels, :channels].tril())
    torch.testing.assert_close(statistics.cross, both[:channels, channels:])


@pytest.mark.parametrize("images", [1, 2, 3])
def test_few_images_still_give_a_readout(images):
    x, targets = random_problem(2)
    readout = fit_ridge(folded(x[:images], images), targets)
    assert torch.isfinite(readout(x)).all()
