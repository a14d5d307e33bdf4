"""Moments add up, whatever the batches, the order and the origin."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from probe.readouts.moments import Moments, centred, pilot_origin, symmetric


def features(images: int, channels: int = 5, offset: float = 3.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(images * 31 + channels)
    x = torch.randn(images, channels, 3, 4, generator=generator, dtype=torch.float64)
    return x * torch.arange(1, channels + 1)[:, None, None] + offset


def of(x: torch.Tensor, origin: torch.Tensor) -> Moments:
    moments = Moments.empty(origin, x.shape[2] * x.shape[3])
    moments.update(x)
    return moments


def same(a: Moments, b: Moments) -> None:
    b = b.about(a.origin)
    assert a.images == b.images
    torch.testing.assert_close(a.first, b.first, rtol=1e-9, atol=1e-8)
    torch.testing.assert_close(a.second.tril(), b.second.tril(), rtol=1e-9, atol=1e-8)


@given(
    cuts=st.lists(st.integers(0, 20), max_size=4).map(sorted),
    order=st.randoms(use_true_random=False),
    offset=st.floats(-50, 50),
)
def test_any_split_merged_in_any_order_is_the_whole(cuts, order, offset):
    x = features(20, offset=offset)
    pieces = [p for p in torch.tensor_split(x, cuts) if len(p)]
    # Every piece brings its own origin, as on another machine.
    parts = [of(piece, pilot_origin(piece)) for piece in pieces]
    order.shuffle(parts)
    merged = parts[0]
    for part in parts[1:]:
        merged = merged + part
    same(of(x, pilot_origin(x)), merged)


def test_moments_are_the_sums_they_say():
    x = features(7, channels=600)  # more than one block
    origin = pilot_origin(x)
    moments = of(x, origin)
    samples = centred(x, origin)
    torch.testing.assert_close(moments.first, samples.sum(0).T)
    flat = samples.reshape(-1, 600)
    torch.testing.assert_close(moments.second.tril(), (flat.T @ flat).tril())
    torch.testing.assert_close(samples[2, 5], x[2, :, 1, 1] - origin, msg="places run row by row")


def test_subtraction_leaves_the_rest():
    x = features(9)
    origin = pilot_origin(x[:3])
    same(of(x[4:], origin), of(x, origin) - of(x[:4], pilot_origin(x[4:])))


def test_float32_features_with_a_large_mean_keep_their_variance():
    x = (features(40, offset=0.0) * 0.01 + 1000).float()
    moments = of(x, pilot_origin(x))
    flat = centred(x.double(), moments.origin.double()).reshape(-1, 5)
    torch.testing.assert_close(moments.second.tril(), (flat.T @ flat).tril(), rtol=1e-4, atol=1e-4)


def test_moments_of_other_layers_do_not_mix():
    with pytest.raises(ValueError, match="5"):
        of(features(2), torch.zeros(5)) + of(features(2, channels=4), torch.zeros(4))


@given(
    height=st.integers(3, 9),
    width=st.integers(3, 9),
    channels=st.integers(1, 5),
    seed=st.integers(),
)
def test_moments_of_neighbourhoods_are_those_of_nine_times_the_channels(
    height, width, channels, seed
):
    """By lags or directly, in batches or at once: as if the columns had been formed."""
    generator = torch.Generator().manual_seed(seed % 2**32)
    x = torch.randn(5, channels, height, width, generator=generator, dtype=torch.float64) + 3
    origin = torch.randn(channels, generator=generator, dtype=torch.float64)
    places = (height - 2) * (width - 2)
    moments = Moments.empty(origin, places, 3)
    for part in x.split(2):
        moments.update(part)
    columns = F.unfold(x - origin[:, None, None], 3).unflatten(1, (channels, 9)).transpose(1, 2)
    columns = columns.flatten(1, 2)
    torch.testing.assert_close(moments.first, columns.sum(0))
    second = torch.einsum("bdp,bep->de", columns, columns)
    torch.testing.assert_close(symmetric(moments.second), second)


def test_features_of_another_size_are_refused():
    moments = Moments.empty(torch.zeros(2), 9, 3)
    with pytest.raises(ValueError, match="do not have the 9 places"):
        moments.update(torch.zeros(1, 2, 4, 4))
