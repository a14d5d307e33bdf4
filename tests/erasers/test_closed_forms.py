"""Closed forms of erasers, and the modules on every layout."""

from __future__ import annotations

import copy
import io

import numpy as np
import pytest
import torch

from probe import ProbeError, ProbeWarning
from probe.erasers import (
    MeanEraser,
    PositionEraser,
    ProjectEraser,
    chance_of,
    constant_directions,
    leace,
)
from probe.targets import TARGETS, layer_targets

TARGET_NAMES = ("horizontal", "vertical", "gaussian")


def features(images=48, channels=8, height=5, width=6, position=1.0, seed=0):
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(channels, channels)) / channels**0.5
    noise = np.einsum("ij,njhw->nihw", mixing, rng.normal(size=(images, channels, height, width)))
    mean_map = np.stack([target_maps(height, width)[c % 3] for c in range(channels)])
    return torch.from_numpy(noise + position * mean_map + 2).float()


def target_maps(height=5, width=6, names=TARGET_NAMES):
    return layer_targets(list(names), (height, width), np.eye(height), np.eye(width))


def samples(x):
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1]).double()


def cross(x):
    z = torch.from_numpy(target_maps()).flatten(1).T.repeat(len(x), 1)
    x = samples(x)
    return (x - x.mean(0)).T @ (z - z.mean(0)) / len(x)


@pytest.fixture(scope="module")
def erasers():
    x = features()
    made = {how: PositionEraser(how, TARGET_NAMES).fit(x).eraser_ for how in ("mean", "project")}
    return x, made


@pytest.mark.parametrize("shrinkage", [True, False])
def test_project_is_the_reference_implementation(shrinkage):
    reference = pytest.importorskip("concept_erasure")
    x = features(position=0.8)
    z = torch.from_numpy(target_maps()).flatten(1).T.repeat(len(x), 1)
    flat = samples(x)
    fitter = reference.LeaceFitter.fit(flat, z, shrinkage=shrinkage)
    wanted = fitter.eraser(flat)
    eraser = PositionEraser("project", TARGET_NAMES, shrinkage=shrinkage).fit(x)
    assert torch.allclose(samples(eraser.transform(x)), wanted, atol=1e-4)


def test_project_leaves_no_covariance_by_the_least_change():
    x = features()
    flat = samples(x)
    centred = flat - flat.mean(0)
    sigma, sigma_xz = centred.T @ centred / len(flat), cross(x)
    left, right = leace(sigma, sigma_xz)
    change = left @ right
    assert torch.allclose(change @ sigma_xz, sigma_xz, atol=1e-9)

    def cost(matrix):
        return float((matrix @ sigma * matrix).sum())

    # Any other map that removes the covariance differs by rows orthogonal to it.
    free = torch.eye(len(sigma)).double() - sigma_xz @ torch.linalg.pinv(sigma_xz)
    for seed in range(20):
        step = torch.randn(8, 8, generator=torch.Generator().manual_seed(seed)).double() @ free
        for size in (0.01, -0.01, 0.5):
            assert cost(change + size * step) >= cost(change)


@pytest.mark.parametrize("how", ["mean", "project"])
def test_position_goes_and_the_mean_stays(erasers, how):
    x, made = erasers
    y = made[how](x)
    assert float(cross(x).abs().max()) > 0.01
    assert float(cross(y).abs().max()) < 1e-6
    assert torch.allclose(samples(y).mean(0), samples(x).mean(0), atol=1e-5)
    again = PositionEraser(how, TARGET_NAMES).fit(y).transform(y)
    assert torch.equal(again, y)
    record = made[how].record
    assert record["rank"] == {"project": 3, "mean": 8}[how]  # the noise of the map spans all
    kept = float(samples(y - x).var(0).sum() / samples(x).var(0).sum())
    assert record["share"] == pytest.approx(kept, rel=0.01)
    assert f"rank {record['rank']} of 8" in made[how].summary()


def test_projecting_twice_is_projecting_once(erasers):
    x, made = erasers
    once = made["project"](x)
    assert torch.allclose(made["project"](once), once, atol=1e-5)


def test_the_mean_map_is_exact_at_every_place(erasers):
    x, made = erasers
    means = made["mean"](x).mean(0)
    assert torch.allclose(means, means.mean((1, 2), keepdim=True).expand_as(means), atol=1e-5)


@pytest.mark.parametrize("how", ["mean", "project"])
def test_features_without_position_come_back_unchanged(how):
    changed = 0
    for seed in range(20):
        x = features(position=0.0, seed=seed)
        changed += not torch.allclose(PositionEraser(how).fit_transform(x), x, atol=1e-3)
    assert changed == 0
    taken = PositionEraser(how, significance=None).fit_transform(x)
    assert not torch.allclose(taken, x, atol=1e-3)


def test_the_chance_of_signs_is_exact():
    folds = torch.ones(5, 3).double()
    assert chance_of(folds) == 1 / 16  # no other signs sum to as much
    assert chance_of(torch.tensor([[1.0], [-1.0]]).double()) == 1
    draws = torch.randn(400, 6, 10, generator=torch.Generator().manual_seed(0)).double()
    chances = np.array([chance_of(draw) for draw in draws])
    assert abs((chances <= 0.125).mean() - 0.125) < 0.05


def test_constant_directions_are_those_of_the_map():
    basis = torch.linalg.qr(torch.randn(6, 2, generator=torch.Generator().manual_seed(1)))[0]
    maps = (basis @ torch.tensor([[3.0, -3, 0, 0], [0, 0, 1, -1]])).double() + 4
    found = constant_directions(maps)
    assert torch.allclose(found @ found.T, (basis @ basis.T).double(), atol=1e-6)
    assert constant_directions(maps, rank=1).shape == (6, 1)
    assert constant_directions(torch.full((6, 4), 2.0).double()).shape == (6, 0)


@pytest.mark.parametrize("how", ["mean", "project"])
def test_every_layout_gives_the_same(erasers, how):
    x, made = erasers
    eraser, y = made[how], made[how](x)
    channels_last = x.contiguous(memory_format=torch.channels_last)
    assert torch.allclose(eraser(channels_last), y, atol=1e-6)
    nhwc = eraser.on("NHWC")(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    assert torch.allclose(nhwc, y, atol=1e-6)
    assert torch.allclose(eraser(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), y, atol=1e-6)
    ends = torch.randn(len(x), 2, 8), torch.randn(len(x), 1, 8)
    tokens = torch.cat([ends[0], x.flatten(2).transpose(1, 2), ends[1]], 1)
    cleaned = eraser.on("NLC", prefix=2, suffix=1)(tokens)
    assert torch.equal(cleaned[:, :2], ends[0]) and torch.equal(cleaned[:, -1:], ends[1])
    assert torch.allclose(cleaned[:, 2:-1].transpose(1, 2).reshape(x.shape), y, atol=1e-6)
    first = eraser.on("LNC", prefix=2, suffix=1)(tokens.transpose(0, 1)).transpose(0, 1)
    assert torch.allclose(first, cleaned)
    with pytest.raises(ProbeError, match="takes 8 channels"):
        eraser(x[:, :5])
    with pytest.raises(ProbeError, match="letters of NCHW"):
        eraser.on("NCL!")


def test_tokens_in_an_order_of_their_own(erasers):
    x, made = erasers
    order = tuple(np.random.default_rng(0).permutation(30))
    eraser = MeanEraser(made["mean"].offset, layout="NLC", order=order)
    tokens = torch.empty(len(x), 30, 8)
    tokens[:, list(order)] = x.flatten(2).transpose(1, 2)
    cleaned = eraser(tokens)[:, list(order)].transpose(1, 2).reshape(x.shape)
    assert torch.allclose(cleaned, made["mean"](x), atol=1e-6)


def test_another_size_is_said_to_be_an_approximation(erasers):
    x, made = erasers
    large = torch.nn.functional.interpolate(x, scale_factor=2)
    with pytest.warns(ProbeWarning, match="5 × 6 cells is resampled to 10 × 12"):
        made["mean"](large)
    assert torch.isfinite(made["project"](large)).all()
    with pytest.raises(ProbeError, match="says how many lead"):
        made["mean"](torch.zeros(1, 31, 8))


@pytest.mark.parametrize("how", ["mean", "project"])
def test_saved_copied_and_compiled(erasers, how):
    x, made = erasers
    eraser, y = made[how], made[how](x)
    file = io.BytesIO()
    torch.save(eraser, file)
    file.seek(0)
    assert torch.equal(torch.load(file, weights_only=False)(x), y)
    other = copy.deepcopy(eraser)
    for buffer in other.buffers():
        buffer.zero_()
    other.load_state_dict(eraser.state_dict())
    assert torch.equal(other(x), y)
    compiled = torch.compile(eraser, backend="eager", fullgraph=True)
    assert torch.allclose(compiled(x), y)
    exported = torch.export.export(eraser, (x,)).module()
    assert torch.allclose(exported(x), y)
    assert eraser.half()(x.half()).dtype == torch.float16


def test_the_estimator_is_one_of_scikit_learns():
    from sklearn.base import clone

    x = features()
    estimator = PositionEraser("mean", TARGET_NAMES)
    assert clone(estimator).get_params()["how"] == "mean"
    cleaned = estimator.fit_transform(x.numpy())
    assert isinstance(cleaned, np.ndarray) and cleaned.shape == x.shape
    with pytest.raises(ProbeError, match="not fitted"):
        clone(estimator).transform(x)
    with pytest.raises(ProbeError, match="needs a network"):
        PositionEraser("constant").fit(x)
    assert isinstance(PositionEraser("project").fit(x).eraser_, ProjectEraser)
    assert tuple(TARGETS) == PositionEraser().targets
