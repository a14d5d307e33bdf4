"""Stimuli: seeded, tileable and stationary where they say so."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import probe
from probe.errors import ProbeError
from probe.stimuli.leaves import Leaves, paint_discs
from probe.stimuli.opening import STIMULI, open_stimuli
from probe.stimuli.photos import Photos
from probe.stimuli.scenes import antithetic_batch, scenes


@pytest.mark.parametrize("name", STIMULI)
def test_images_depend_on_seed_split_and_index_alone(name):
    source = open_stimuli(name, (48, 64), 5)
    batch = source.batch("train", 0, 6)
    assert batch.shape == (6, 3, 48, 64)
    assert batch.dtype == torch.float32
    assert 0 <= batch.min() <= batch.max() <= 1
    again = open_stimuli(name, (48, 64), 5)
    assert torch.equal(again.batch("train", 4, 6), batch[4:])
    if name not in ("black", "white"):
        assert not torch.equal(source.batch("test", 0, 6), batch)
        assert not torch.equal(open_stimuli(name, (48, 64), 6).batch("train", 0, 6), batch)
        assert not torch.equal(batch[0], batch[1])


@given(
    height=st.integers(3, 40),
    width=st.integers(3, 40),
    seed=st.integers(0, 99),
    discs=st.integers(1, 40),
)
def test_painting_is_that_of_a_painter(height, width, seed, discs):
    """Disc after disc, on a torus, against the table of powers of two."""
    rng = np.random.default_rng(seed)
    radii = rng.integers(0, (min(height, width) - 1) // 2 + 1, discs)
    ys, xs = rng.integers(0, height, discs), rng.integers(0, width, discs)
    canvas = np.zeros((height, width), int)
    for number, (r, y, x) in enumerate(zip(radii, ys, xs, strict=True), 1):
        dy, dx = np.abs(np.arange(height) - y), np.abs(np.arange(width) - x)
        dy, dx = np.minimum(dy, height - dy)[:, None], np.minimum(dx, width - dx)[None, :]
        canvas[dy**2 + dx**2 <= r * r + r] = number
    np.testing.assert_array_equal(paint_discs(radii, ys, xs, height, width), canvas)


def test_leaves_have_the_radii_of_natural_images():
    leaves = Leaves((224, 224))
    assert leaves.r_min == pytest.approx(3)
    assert leaves.r_max == pytest.approx(80)
    background = np.exp(-Leaves.LAYERS)
    assert background < 0.01


@pytest.mark.parametrize("name", ["leaves", "noise", "pink"])
def test_tileable_sources_have_no_seam_and_no_place(name):
    source = open_stimuli(name, (64, 64), 1)
    assert source.tileable
    assert source.stationary
    x = source.batch("train", 0, 400).double()
    steps = (x - torch.roll(x, 1, 3)).abs().mean((0, 1, 2))  # column 0: across the seam
    spread = steps[1:].std()
    assert abs(steps[0] - steps[1:].mean()) < 4 * spread
    for statistic in (x, (x - 0.5) ** 2):
        # Each pixel's mean over images, against what its variance over images allows.
        error = statistic.mean((0, 1)) - statistic.mean()
        expected = statistic.mean(1).var(0) / len(x)
        z = (error**2 / expected).mean()
        assert 0.7 < z < 1.3


def test_pink_noise_has_power_one_over_frequency_squared():
    x = open_stimuli("pink", (128, 128), 0).batch("train", 0, 64).double() - 0.5
    power = np.abs(np.fft.rfft2(x.numpy())) ** 2
    power = power.mean((0, 1))[0]
    slope = np.polyfit(np.log(np.arange(2, 24)), np.log(power[2:24]), 1)[0]
    assert slope == pytest.approx(-2, abs=0.15)
    assert float(x.std()) == pytest.approx(0.2, abs=0.02)


def test_test_images_are_scenes_in_four_places():
    source = open_stimuli("leaves", (64, 96), 0)
    images = antithetic_batch(source, 0, 12, stride=16)
    scenes = source.batch("test", 0, 3)
    for index, image in enumerate(images):
        scene, step = scenes[index // 4], index % 4
        assert torch.equal(image, torch.roll(scene, (16 * step, round(step * 1.5) * 16), (1, 2)))
    assert torch.equal(antithetic_batch(source, 5, 11, stride=16), images[5:11])
    for side in (16, 32, 64):  # fewer than four strides: shifts by pixels, all different
        small = antithetic_batch(open_stimuli("leaves", (side, side), 0), 0, 4, stride=32)
        assert len(torch.unique(small, dim=0)) == 4
    photos = open_stimuli(torch.rand(9, 3, 64, 96), (64, 96), train_images=5, test_images=4)
    assert torch.equal(antithetic_batch(photos, 0, 4, stride=16), photos.batch("test", 0, 4))


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "deep").mkdir()
    for number, name in enumerate(["a.png", "b.jpg", "c.png", "deep/d.png", "e.bmp"]):
        pixels = np.full((90, 120, 3), 40 * number + 20, np.uint8)
        pixels[:, :60] = rng.integers(0, 256, (90, 60, 3))
        Image.fromarray(pixels).save(tmp_path / name)
    (tmp_path / "broken.png").write_bytes(b"not a picture")
    whole = (tmp_path / "b.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "notes.txt").write_text("no picture")
    return tmp_path


def test_photos_are_split_cropped_flipped_and_the_unreadable_named(folder):
    source = open_stimuli(folder, (32, 32), 0, train_images=30, test_images=10)
    train, test = source.batch("train", 0, 30), source.batch("test", 0, 10)
    assert train.shape == (30, 3, 32, 32)
    assert not source.tileable
    assert not source.stationary
    assert set(source.skipped) == {"broken.png", "cut.jpg"}
    assert not set(source.files["train"]) & set(source.files["test"])
    again = open_stimuli(folder, (32, 32), 0, train_images=30, test_images=10)
    assert torch.equal(again.batch("test", 0, 10), test)
    noisy_left = (
        train.var(1).mean(1)[:, :8].mean(1) > train.var(1).mean(1)[:, -8:].mean(1)
    ).float()
    assert 0 < noisy_left.mean() < 1  # flipped now and then
    assert "cut.jpg" in source.cautions[0]


def test_what_stands_in_for_a_photograph_is_the_same_scene(folder):
    for seed in range(8):  # until the broken one is among those for testing
        source = open_stimuli(folder, (32, 32), seed, train_images=3, test_images=3)
        names = [path.name for path in source.files["test"]]
        source.batch("test", 0, 2 * len(names))
        shown = scenes(source, 2 * len(names))
        broken = names.index("cut.jpg") if "cut.jpg" in names else None
        wanted = np.arange(2 * len(names)) % len(names)
        if broken is not None:
            wanted[wanted == broken] = (broken + 1) % len(names)
        np.testing.assert_array_equal(shown, wanted)


def test_sixteen_bits_are_scaled_not_clipped(tmp_path):
    ramp = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)
    for number in range(2):
        Image.fromarray(ramp).save(tmp_path / f"{number}.png")
    x = open_stimuli(tmp_path, (32, 32), train_images=4, test_images=4).batch("train", 0, 8)
    assert x.max() - x.min() > 0.4


def test_what_is_no_source_is_explained(tmp_path):
    with pytest.raises(probe.ProbeError, match="'leaves'"):
        open_stimuli("leafs", (8, 8))
    with pytest.raises(probe.ProbeError, match="no folder"):
        open_stimuli("./nowhere", (8, 8))
    with pytest.raises(probe.ProbeError, match="holds no photographs"):
        open_stimuli(tmp_path, (8, 8))
    (tmp_path / "x.png").write_bytes(b"")
    with pytest.raises(probe.ProbeError, match="can be read"):
        open_stimuli(tmp_path, (8, 8))
    for images, message in [
        (torch.rand(4, 8, 8, 1), r"\(N, C, H, W\)"),
        (torch.rand(4, 3, 8, 8), "holds 4"),
        (torch.rand(400, 3, 8, 8) * 255, r"\[0, 1\]"),
        (torch.full((400, 3, 8, 8), torch.nan), r"\[0, 1\]"),
    ]:
        with pytest.raises(probe.ProbeError, match=message):
            open_stimuli(images, (8, 8))
    for nothing in ("", None, 7, []):
        with pytest.raises(probe.ProbeError, match="expected one of"):
            open_stimuli(nothing, (8, 8))
    with pytest.raises(probe.ProbeError, match="int64"):
        open_stimuli(torch.ones(400, 3, 8, 8, dtype=torch.int64), (8, 8))
    with pytest.raises(probe.ProbeError, match="no folder"):
        open_stimuli("./" + "x" * 300, (8, 8))
    with pytest.raises(probe.ProbeError, match="8 × 8"):
        open_stimuli(torch.rand(400, 3, 9, 9), (8, 8))


def test_no_file_is_opened_as_another_format(tmp_path):
    script = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\nshowpage\n%%EOF\n"
    (tmp_path / "holiday.jpg").write_bytes(script)
    with pytest.raises(ProbeError, match="none of the 1 image files"):
        Photos(tmp_path, (32, 32))
    Image.new("RGB", (64, 64), (10, 200, 30)).save(tmp_path / "fine.png")
    assert Photos(tmp_path, (32, 32)).skipped == ["holiday.jpg"]


def test_what_lies_under_transparency_is_not_shown(tmp_path):
    pixels = np.zeros((64, 64, 4), np.uint8)
    pixels[:, :32] = (200, 100, 50, 255)
    pixels[:, 32:] = (255, 255, 255, 0)  # white that nobody should see
    Image.fromarray(pixels).save(tmp_path / "half.png")
    photos = Photos(tmp_path, (32, 32))
    batch = photos.batch("train", 0, 4)
    wanted = torch.tensor([200, 100, 50]).view(1, 3, 1, 1) / 255
    assert float((batch - wanted).abs().max()) < 0.01
    assert any("transparent" in caution for caution in photos.cautions)


@pytest.mark.parametrize("name", ["leaves", "noise", "pink", "black", "white"])
@pytest.mark.parametrize("channels", [1, 2, 13])
def test_images_of_any_number_of_channels(name, channels):
    source = open_stimuli(name, (32, 48), 5, channels=channels)
    batch = source.batch("train", 0, 3, 4)
    assert batch.shape == (3, channels, 40, 56)
    assert torch.equal(batch[..., :4, :], batch[..., 32:36, :])  # a torus
    assert torch.equal(open_stimuli(name, (32, 48), 5, channels=channels).batch("train", 1, 2, 4),
                       batch[1:2])  # fmt: skip
    assert source.picture().shape[2] == 4
    if name not in ("black", "white"):
        means = batch.mean((0, 2, 3))
        assert 0.25 < means.min() <= means.max() < 0.75
        flat = batch.transpose(0, 1).flatten(1)
        correlations = torch.corrcoef(flat).reshape(channels, channels).fill_diagonal_(0)
        assert correlations.abs().max() < 0.6  # of few leaves, colours are alike by chance


def test_leaves_of_all_channels_have_one_geometry():
    colours = Leaves((64, 64), 2).batch("train", 0, 1)
    bands = Leaves((64, 64), 2).with_channels(13).batch("train", 0, 1)

    def edges(x):  # between columns, in any channel
        return (x[..., 1:] != x[..., :-1]).any(1)

    assert torch.equal(edges(colours), edges(bands))
    assert Leaves((64, 64), 2).with_channels(3).batch("train", 0, 1).equal(colours)


def test_what_can_not_be_made_of_images_is_said(tmp_path):
    for number in range(3):
        pixels = np.full((40, 40, 3), (200, 100, 50 + number), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    grey = open_stimuli(tmp_path, (32, 32), channels=1).batch("test", 0, 2)
    assert grey.shape == (2, 1, 32, 32)
    assert grey.mean() * 255 == pytest.approx(0.299 * 200 + 0.587 * 100 + 0.114 * 51, abs=0.2)
    with pytest.raises(ProbeError, match="takes 13-channel images, but these have 3"):
        open_stimuli(tmp_path, (32, 32), channels=13)
    bands = torch.rand(6, 13, 8, 8)
    shares = {"train_images": 4, "test_images": 2}
    assert open_stimuli(bands, (8, 8), channels=13, **shares).batch("test", 0, 2).equal(bands[4:])
    for channels in (1, 3):
        with pytest.raises(ProbeError, match=f"takes {channels}-channel images, but these have 13"):
            open_stimuli(bands, (8, 8), channels=channels, **shares)
    with pytest.raises(ProbeError, match="takes 1-channel images, but these have 3"):
        open_stimuli(torch.rand(6, 3, 8, 8), (8, 8), channels=1, **shares)
    with pytest.raises(ProbeError, match=r"\(N, C, H, W\)"):
        open_stimuli(torch.rand(6, 8, 8, 3), (8, 8), **shares)


@pytest.mark.skipif(sys.platform != "linux", reason="names of files are text elsewhere")
def test_folders_whose_names_are_not_utf8_have_a_name_that_can_be_written(tmp_path):
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))
    folder.mkdir()
    for i in range(4):
        Image.new("RGB", (64, 64), (60 * i, 0, 0)).save(folder / os.fsdecode(b"%d\xfe.png" % i))
    source = Photos(folder, (32, 32), 0, train_images=2, test_images=2)
    assert source.name == f"{tmp_path}/\ufffd"
    assert source.batch("train", 0, 2).shape == (2, 3, 32, 32)


def test_photographs_that_were_enlarged_are_said(tmp_path):
    for number, size in enumerate([(40, 30), (200, 150), (200, 150)]):
        Image.new("RGB", size, (number, 9, 9)).save(tmp_path / f"{number}.png")
    photos = Photos(tmp_path, (64, 64), train_images=2, test_images=1)
    for split in ("train", "test"):
        for index in range(3):
            photos.batch(split, index, index + 1)
    (said,) = [s for s in photos.cautions if "enlarged" in s]
    assert said.endswith("smaller than the images of 64 × 64 pixels were enlarged: 1")
