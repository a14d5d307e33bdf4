"""The readouts as estimators: each against an independent implementation of the same thing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.linear_model import Ridge as SklearnRidge
from torch import nn

import probe
from probe.backbones.layer import GridLayer, Layer, grid_size
from probe.readouts.base import Readout
from probe.readouts.posenet import PoseNet
from probe.readouts.ridge import Ridge
from probe.readouts.softmax import Softmax
from probe.targets import target_map

READOUTS = [
    Ridge(),
    Ridge(kernel=3),
    PoseNet(epochs=60, batch_size=8, drop_epoch=40),
    Softmax(cells=4),
]


def problem(images=40, channels=6, height=9, width=11, seed=0, strength=2.0):
    """Features of which the first two know their column and row."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(images, channels, height, width, generator=generator)
    x[:, 0] += strength * torch.linspace(0, 1, width)
    x[:, 1] += strength * torch.linspace(0, 1, height)[:, None]
    return x * torch.linspace(0.5, 20, channels)[:, None, None] + 7


def maps(readout: Readout, height=9, width=11):
    rows, columns = readout.places(height, width)
    return np.stack([target_map(t, rows, columns) for t in ("horizontal", "vertical")])


def test_posenet_does_not_depend_on_the_default_type():
    x, readout = problem(8, 3, 5, 5), PoseNet(epochs=2, batch_size=4)
    wanted = readout.fit(x, maps(readout, 5, 5)).predict(x)
    torch.set_default_dtype(torch.float64)
    try:
        got = readout.fit(x, maps(readout, 5, 5)).predict(x)
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(got, wanted)


def test_the_order_of_regularisation_values_does_not_matter():
    x = problem(16, 4, 5, 5)
    for folds in (1, 4):
        fits = [
            Ridge(alphas=a).fit(x, maps(Ridge(), 5, 5), folds) for a in ((1e-2, 1, 9), (9, 1e-2, 1))
        ]
        assert torch.equal(*(fit.map.alphas for fit in fits))
    assert Ridge(alphas=(9.0, 1.0)).fit(x, maps(Ridge(), 5, 5), 1).map.alphas.tolist() == [9, 9]


@given(seed=st.integers(0, 100), exponent=st.integers(-4, 2), size=st.integers(3, 7))
@settings(max_examples=15)
def test_ridge_of_neighbourhoods_is_scikit_learns_on_stacked_columns(seed, exponent, size):
    x = problem(12, 3, size, size + 2, seed).double()
    alpha = 10.0**exponent
    readout = Ridge(kernel=3, alphas=[alpha])
    targets = maps(readout, size, size + 2)
    got = readout.fit(x, targets).predict(x)
    columns = F.unfold(x, 3).transpose(1, 2).flatten(0, 1).numpy()
    z = (columns - columns.mean(0)) / columns.std(0)
    wanted = SklearnRidge(alpha=alpha * len(z)).fit(z, np.tile(targets.reshape(2, -1).T, (12, 1)))
    predicted = wanted.predict(z).reshape(12, -1, 2).transpose(0, 2, 1).reshape(got.shape)
    np.testing.assert_allclose(got, predicted, atol=1e-6)


class Published(nn.Module):
    """The published head for one target, written down with torch's own modules."""

    def __init__(self, channels, weight, bias):
        super().__init__()
        self.conv = nn.Conv2d(channels, 1, 3)
        self.norm = nn.BatchNorm2d(1)
        with torch.no_grad():
            self.conv.weight.copy_(weight)
            self.conv.bias.copy_(bias)

    def forward(self, x, size):
        x = torch.sigmoid(self.norm(self.conv(x)))
        return F.interpolate(x, size, mode="bilinear", align_corners=True)


def test_posenet_is_the_published_protocol_one_training_per_target():
    """All targets at once on small maps: what a plain training of each on large ones gives."""
    x = problem(24, 5, 8, 8)
    size, epochs = (40, 40), 6
    targets = torch.tensor(
        np.stack([target_map(t, *size) for t in ("horizontal", "gaussian")]), dtype=torch.float32
    )
    readout = PoseNet(epochs=epochs, batch_size=8, drop_epoch=4, seed=3).fit(x, targets)
    for place in range(2):
        generator = torch.Generator().manual_seed(3)
        weight, bias = readout.initial_weight(5), torch.zeros(1)
        assert weight.abs().max() <= np.sqrt(6 / (5 * 9 + 9))
        head = Published(5, weight, bias)
        optimiser = torch.optim.SGD(head.parameters(), 0.1, momentum=0.9, weight_decay=1e-4)
        schedule = torch.optim.lr_scheduler.StepLR(optimiser, 4, 0.1)
        head.train()
        for _ in range(epochs):
            for batch in torch.randperm(24, generator=generator).split(8):
                loss = F.mse_loss(
                    head(x[batch], size)[:, 0], targets[place].expand(len(batch), -1, -1)
                )
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
            schedule.step()
        head.eval()
        with torch.no_grad():
            wanted = head(x, (6, 6))[:, 0]
        np.testing.assert_allclose(readout.predict(x)[:, place], wanted, atol=2e-4)


def test_softmax_is_scikit_learns_logistic_regression():
    x = problem(30, 4, 6, 6, strength=4).double()
    readout = Softmax(cells=3, alphas=[1e-2], iterations=2000)
    readout.fit(x, maps(readout, 6, 6))
    got = readout.predict_proba(x)
    columns = x.permute(0, 2, 3, 1).reshape(-1, 4).numpy()
    z = (columns - columns.mean(0)) / columns.std(0)
    member = np.tile(readout.grid(6, 6).ravel(), 30)
    # scikit-learn's penalty is ‖W‖² / (2 C) beside the sum of the cross-entropies.
    theirs = LogisticRegression(C=1 / (1e-2 * len(z)), max_iter=5000, tol=1e-10).fit(z, member)
    wanted = theirs.predict_proba(z).reshape(30, 36, 9).transpose(0, 2, 1).reshape(got.shape)
    np.testing.assert_allclose(got, wanted, atol=2e-3)
    assert readout.accuracy(got).mean() == pytest.approx(theirs.score(z, member), abs=0.01)
    # A target's prediction is its expectation over cells.
    levels = [target_map("vertical", 6, 6)[readout.grid(6, 6) == k].mean() for k in range(9)]
    expected = np.einsum("bkhw,k->bhw", got, levels)
    np.testing.assert_allclose(readout.predict(x)[:, 1], expected, atol=1e-9)


@pytest.mark.parametrize("readout", READOUTS, ids=lambda r: f"{r.name}{r.kernel}")
def test_one_interface(readout):
    """Fitted at once or as features stream by, cloned, seeded; controls beside the targets."""
    readout = clone(readout)
    x = problem()
    targets = maps(readout)
    torch_state = torch.get_rng_state()
    with pytest.raises(probe.ProbeError, match="not fitted"):
        readout.predict(x)
    at_once = readout.fit(x[:32], targets).predict(x[32:])
    assert at_once.shape == (8, *targets.shape)
    assert at_once.dtype == torch.float64
    assert readout.score(x[32:], targets) > 0.3
    streamed = clone(readout)
    for fold, part in enumerate(x[:32].split(8)):
        for batch in part.split(3):
            streamed.partial_fit(batch, fold)
    streamed.solve(targets)
    np.testing.assert_allclose(streamed.predict(x[32:].numpy()), at_once, atol=1e-3)
    again = clone(readout).fit(x[:32].numpy(), targets).predict(x[32:])
    np.testing.assert_array_equal(again, at_once)
    order = np.random.default_rng(0).permutation(targets[0].size)
    with_order = in_folds(clone(readout), x[:32]).solve(targets, order)
    both = with_order.predict(x[32:])
    assert both.shape == (8, 4, *targets.shape[1:])
    np.testing.assert_allclose(both[:, :2], at_once, atol=1e-4)
    if isinstance(readout, Ridge):
        control = in_folds(clone(readout), x[:32]).solve(shuffled(targets, order))
        np.testing.assert_allclose(both[:, 2:], control.predict(x[32:]), atol=1e-9)
    else:
        assert (both[:, 2:] - both[:, :2]).abs().max() > 0.1
    assert torch.equal(torch.get_rng_state(), torch_state)


def in_folds(readout, x):
    for fold, part in enumerate(x.split(8)):
        readout.partial_fit(part, fold)
    return readout


def shuffled(targets, order):
    return targets.reshape(len(targets), -1)[:, order].reshape(targets.shape)


@pytest.mark.parametrize("readout", READOUTS, ids=lambda r: f"{r.name}{r.kernel}")
def test_what_does_not_fit_is_said(readout):
    readout = clone(readout)
    x = problem(8)
    with pytest.raises(probe.ProbeError, match=r"targets: expected shape"):
        readout.fit(x, np.zeros((2, 3, 3)))
    with pytest.raises(probe.ProbeError, match=r"features: expected a tensor \(B, C, h, w\)"):
        readout.fit(x[0], maps(readout))
    with pytest.raises(probe.ProbeError, match="has seen no features"):
        readout.reset().solve(maps(readout))
    if readout.kernel == 3:
        with pytest.raises(probe.ProbeError, match="too few neighbourhoods"):
            readout.fit(x[..., :2], np.zeros((2, 7, 1)))


def test_a_dimension_that_is_too_large_says_what_it_would_need():
    with pytest.raises(probe.ProbeError, match=r"180,000 dimensions .* would need [\d,.]+ GiB"):
        Ridge(kernel=3).partial_fit(torch.zeros(1, 20_000, 4, 4))
    with pytest.raises(probe.ProbeError, match=r"layer stages.1 .*choose kernel 1"):
        wide = nn.Module()
        wide.stages = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 60_000, 1))
        wide.forward = wide.stages.forward
        options = {"image_size": 16, "train_images": 2, "test_images": 2, "progress": False}
        probe.run(wide, layers=["stages.*"], variants="original", kernel=3, **options)


def test_the_grid_is_the_published_one():
    assert grid_size((224, 224)) == (28, 28)
    assert grid_size((224, 448)) == (14, 28)
    layer = GridLayer.like(Layer("x", 1, 2, 7, 7, "NCHW", 0, (224, 224)))
    x = torch.randn(3, 2, 7, 7)
    wanted = F.interpolate(x, (28, 28), mode="bilinear", align_corners=True)
    torch.testing.assert_close(layer.reduce(x), wanted)
    for kernel, places in ((1, 28), (3, 26)):
        rows, columns = layer.windows(kernel)
        np.testing.assert_allclose(
            rows @ target_map("vertical", 224, 224)[:, 0], np.linspace(0, 1, places)
        )
        np.testing.assert_allclose(rows, columns)


@pytest.mark.parametrize(
    ("readout", "kernel", "concat", "layers", "side"),
    [
        ("ridge", 3, None, ["input", "stages.0", "stages.1"], (28, 30)),
        ("ridge", None, True, ["input", "concat"], (28, 28)),
        ("ridge", 3, True, ["input", "concat"], (26, 26)),
        ("posenet", None, None, ["input", "concat"], (26, 26)),
        ("posenet", None, False, ["input", "stages.0", "stages.1"], (26, 26)),
        ("softmax", None, None, ["input", "stages.0", "stages.1"], (28, 32)),
        ("softmax", None, True, ["input", "concat"], (28, 28)),
    ],
)  # fmt: skip
def test_every_readout_in_a_run(
    tiny, tiny_options, readout, kernel, concat, layers, side, tmp_path
):
    options = {**tiny_options, "layers": ["stages.0", "stages.1"], "train_images": 8}
    got = probe.run(tiny, readout=readout, kernel=kernel, concat=concat, **options)
    assert got.layers == layers
    assert set(got.table["readout"]) == {
        "ridge(kernel=3)" if (readout, kernel) == ("ridge", 3) else readout
    }
    for layer in layers:
        true = got.true_map(layer, "vertical")
        assert got.maps["given", "original", layer, "vertical"].shape == true.shape
    assert ("cells" in set(got.table["target"])) == (readout == "softmax")
    pixels = got.table.query("layer == 'input' and metric == 'spc'")["value"]
    assert pixels.abs().max() < 0.35
    assert got.pattern["given", "circular", layers[-1]].difference is not None
    again = probe.load(got.save(tmp_path))
    assert again.table.equals(got.table)
    assert readout in got.command()


def test_options_that_a_readout_does_not_have(tiny, tiny_options):
    for options, words in (
        ({"readout": "posenet", "kernel": 1}, "readout posenet has kernel 3"),
        ({"readout": "softmax", "kernel": 3}, "readout softmax has kernel 1"),
        ({"kernel": 2}, "kernel: expected 1 or 3, got 2"),
        ({"readout": "svm"}, "readout"),
    ):
        with pytest.raises(probe.ProbeError, match=words):
            probe.run(tiny, **tiny_options, **options)


def test_each_target_of_posenet_is_trained_as_it_would_be_alone():
    x, net = problem(), PoseNet(epochs=3, batch_size=8)
    both = net.fit(x, maps(net)).predict(x)
    for number in range(2):
        alone = net.fit(x, maps(net)[[number]]).predict(x)
        torch.testing.assert_close(both[:, [number]], alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize("readout", READOUTS, ids=lambda r: f"{r.name}{r.kernel}")
def test_readouts_are_fitted_also_in_inference_mode(readout):
    x = problem(12)
    wanted = clone(readout).fit(x, maps(readout)).predict(x)
    with torch.inference_mode():
        got = clone(readout).fit(x.clone(), maps(readout)).predict(x)
    torch.testing.assert_close(got, wanted)


@pytest.mark.parametrize("readout", READOUTS, ids=lambda r: f"{r.name}{r.kernel}")
@pytest.mark.parametrize("shape", [(2, 6, 11, 9), (2, 5, 9, 11), (2, 6, 9, 10)])
def test_features_of_another_shape_are_refused(readout, shape):
    readout = clone(readout).partial_fit(problem(4))
    with pytest.raises(probe.ProbeError, match=r"expected maps of shape \(6, 9, 11\) as before"):
        readout.partial_fit(torch.zeros(shape))


@pytest.mark.parametrize("alphas", [[], 1.0, [0.0], ["a"]])
def test_alphas_are_numbers_above_0(alphas):
    with pytest.raises(probe.ProbeError, match="alphas: expected one or several numbers above 0"):
        Ridge(alphas=alphas)
    with pytest.raises(probe.ProbeError, match="cells: expected a whole number"):
        Softmax(cells=2.5)
