"""Targets: those of Islam, Jia and Bruce (2020), averaged over a layer's places."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import probe
from probe.backbones.layer import Layer
from probe.targets import layer_targets, target_map


@given(
    name=st.sampled_from(list(probe.TARGETS)), height=st.integers(2, 60), width=st.integers(2, 60)
)
def test_targets_span_zero_to_one(name, height, width):
    values = target_map(name, height, width)
    assert values.shape == (height, width)
    assert values.min() >= 0
    assert values.max() == 1
    assert values.min() < 0.51  # stripes are not scaled: three pixels show none of their black


def test_targets_are_the_published_ones():
    x = np.linspace(0, 1, 101)
    np.testing.assert_allclose(target_map("horizontal", 7, 101), np.tile(x, (7, 1)))
    np.testing.assert_allclose(target_map("vertical", 101, 7), np.tile(x, (7, 1)).T)
    gaussian = np.exp(-((x[:, None] - 0.5) ** 2 + (x - 0.5) ** 2) / (2 * 0.5**2))
    gaussian = (gaussian - gaussian.min()) / (gaussian.max() - gaussian.min())
    np.testing.assert_allclose(target_map("gaussian", 101, 101), gaussian)
    stripes = target_map("horizontal_stripes", 101, 7)  # lie horizontally, white at the top
    np.testing.assert_allclose(stripes, np.tile((1 + np.cos(5 * np.pi * x)) / 2, (7, 1)).T)
    assert stripes[0, 0] == 1
    np.testing.assert_allclose(stripes[-1], 0, atol=1e-12)
    np.testing.assert_allclose(
        target_map("vertical_stripes", 30, 40), target_map("horizontal_stripes", 40, 30).T
    )


@given(cells=st.integers(1, 130), pixels=st.integers(130, 300))
def test_places_average_the_pixels_they_cover(cells, pixels):
    layer = Layer("x", 1, 1, cells, cells, "NCHW", 0, (pixels, pixels))
    rows = layer.rows
    assert rows.shape == (layer.places[0], pixels)
    assert max(layer.places) <= 28
    np.testing.assert_allclose(rows.sum(1), 1)
    centres = rows @ (np.arange(pixels) + 0.5) / pixels
    # Windows begin at whole cells and share pixels: off by a cell and a pixel at most.
    np.testing.assert_allclose(centres, 1 - centres[::-1], atol=1 / cells + 1 / pixels)
    assert (np.diff(centres) > 0).all()


def test_layer_targets_are_block_means_where_places_tile_the_image():
    layer = Layer("x", 1, 1, 56, 56, "NCHW", 0, (224, 224))
    got = layer_targets(["gaussian"], (224, 224), layer.rows, layer.columns)[0]
    blocks = target_map("gaussian", 224, 224).reshape(28, 8, 28, 8).mean((1, 3))
    np.testing.assert_allclose(got, blocks)


def test_unknown_targets_are_named():
    with pytest.raises(probe.ProbeError, match="'vertical'"):
        target_map("vertikal", 4, 4)
