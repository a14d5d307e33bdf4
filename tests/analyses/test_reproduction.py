"""The published table: its figures, what is measured beside them, and what says why it isn't."""

from __future__ import annotations

import html
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pandas.testing import assert_frame_equal
from PIL import Image

from probe.analyses.reproduction import reproduction
from probe.analyses.reproduction.page import page
from probe.analyses.reproduction.published import (
    COLUMNS,
    LEAVES,
    MEASURED,
    METRICS,
    PHOTOGRAPHS,
    TESTED,
    published,
)
from probe.analyses.reproduction.reproduction import reproduce
from probe.analyses.reproduction.table import Reproduction, load_reproduction
from probe.backbones.layer import Layer
from probe.errors import ProbeError
from probe.readouts import PoseNet
from probe.readouts.spec import ReadoutSpec
from probe.runner.job import CONCAT, layer_truth
from probe.stimuli.noise import Constant, GaussianNoise
from probe.stimuli.photos import WholePhotos
from probe.targets import TARGETS
from probe.text import number_text

LITE = "tf_efficientnet_lite0"
SMALL = {"train_images": 16, "test_images": 8, "image_size": 128, "device": "cpu"}
SMALL["progress"] = False
SEEN = ("NCHW", 0, (20, 30))

CERTAIN = """
    pixels     .012 .251  .131 .248  -.001 .233
    VGG16      .742 .149  .816 .129   .814 .109  .405 .556  .374 .567
    ResNet152  .933 .084  .951 .083   .936 .070  .534 .528  .520 .537
"""  # on PASCAL-S, for the targets in order, as in Probe's design


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photographs")
    rng = np.random.default_rng(0)
    for place in range(10):
        coarse = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((200, 150)).save(folder / f"{place}.png")
    return folder


@pytest.fixture(scope="module")
def on_photographs(photographs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("reproduction")
    return reproduce(images=photographs, models=LITE, folder=folder, **SMALL), folder


@pytest.fixture
def nothing_at_hand(monkeypatch):
    """No pretrained weights; what was asked for."""
    load, asked = reproduction.load_backbone, []

    def refused(model, *words, **options):
        if not isinstance(model, str):
            return load(model, *words, **options)
        asked.append(model)
        raise ProbeError(f"the pretrained weights of {model} can't be had")

    monkeypatch.setattr(reproduction, "load_backbone", refused)
    return asked


@pytest.fixture
def bare(nothing_at_hand):
    """The default rows, of which only the pixels can be had, on leaves."""
    options = SMALL | {"image_size": 56, "train_images": 32, "test_images": 32}
    return reproduce(**options), nothing_at_hand


def of(found: Reproduction, **wanted):
    table = found.table
    for column, value in wanted.items():
        table = table[table[column] == value]
    return table


# ---------------------------------------------------------------- published


def test_published_figures_are_those_that_are_certain():
    table = published()
    first = table[(table["table"] == "1") & (table["stimuli"] == PHOTOGRAPHS)]
    values = first.set_index(["row", "target", "metric"])["published"]
    for line in CERTAIN.strip().splitlines():
        row, *numbers = line.split()
        cells = [(row, target, metric) for target in TARGETS for metric in METRICS]
        for cell, text in zip(cells, numbers, strict=False):
            assert values[cell] == float(text)
    bare = table[table["variant"] == "valid"].set_index(["row", "target", "metric"])["published"]
    assert bare["VGG16", "horizontal", "spc"] == 0.381
    assert bare["VGG16", "horizontal", "mae"] == 0.223
    assert bare["VGG16", "gaussian", "spc"] == 0.359
    assert bare["VGG16", "gaussian", "mae"] == 0.174


def test_published_figures_are_whole_and_agree_between_tables():
    table = published()
    assert len(table) == 3 * len(TARGETS) * len(TESTED) * len(METRICS) + 3 * 3 * len(METRICS)
    keys = ["table", "row", "variant", "stimuli", "target", "metric"]
    assert not table.duplicated(keys).any()
    assert table["published"].between(-1, 1).all()
    twice = table[table["variant"] == "original"].groupby(keys[1:])["published"]
    assert (twice.nunique() == 1).all()


# ---------------------------------------------------------------- what is measured


def test_a_named_model_is_measured_on_every_kind_of_images(on_photographs):
    found, _ = on_photographs
    table = found.table
    assert list(table.columns) == COLUMNS
    assert set(table["stimuli"]) == set(TESTED)
    mine = of(found, table="1", row=LITE)
    assert len(mine) == len(TESTED) * len(TARGETS) * len(METRICS)
    assert set(mine["status"]) == {MEASURED}
    assert set(mine["weights"]) == {"pretrained"}
    assert mine["value"].notna().all()
    assert mine["published"].isna().all()
    assert (mine.loc[mine["metric"] == "spc", "value"].abs() <= 1).all()
    assert (mine.loc[mine["metric"] == "mae", "value"].between(0, 1)).all()
    for stimuli in TESTED:
        spc = of(found, table="1", stimuli=stimuli, target="vertical", metric="spc")
        spc = spc.set_index("row")["value"]
        assert spc[LITE] > 0.3 > spc["pixels"] + 0.1
    black = mine[mine["stimuli"].isin(["black", "white"])]
    assert black[["low", "high"]].isna().all(axis=None)  # one image has no interval
    others = mine[~mine["stimuli"].isin(["black", "white"])]
    assert (others["low"] <= others["value"]).all() and (others["value"] <= others["high"]).all()


def test_the_padding_table_repeats_the_original_and_says_what_cannot_be_run(on_photographs):
    found, _ = on_photographs
    keys = ["target", "metric", "value", "published"]
    assert set(of(found, table="padding")["stimuli"]) == {PHOTOGRAPHS}
    again = of(found, table="padding", row=LITE)
    first = of(found, table="1", row=LITE, stimuli=PHOTOGRAPHS)
    assert_frame_equal(again[keys].reset_index(drop=True), first[keys].reset_index(drop=True))
    bare = of(found, variant="valid")
    assert set(bare["row"]) == {f"{LITE} without padding"}
    assert bare["value"].isna().all()
    assert bare["status"].str.contains("without padding (valid)", regex=False).all()
    assert list(found.missing()) == [f"{LITE} without padding"]


def test_pixels_stand_beside_the_published_ones(on_photographs):
    found, _ = on_photographs
    pixels = of(found, table="1", row="pixels")
    assert pixels["published"].notna().all() and pixels["value"].notna().all()
    plain = pixels[pixels["stimuli"].isin(["black", "white"]) & (pixels["metric"] == "spc")]
    assert (plain["value"] == 0).all()


def test_rows_without_weights_say_so_and_are_asked_for_once(bare):
    found, asked = bare
    assert asked == ["vgg16.tv_in1k", "resnet152.tv_in1k"]
    for row, model in (("VGG16", asked[0]), ("ResNet152", asked[1])):
        rows = of(found, row=row)
        assert set(rows["status"]) == {f"the pretrained weights of {model} can't be had"}
        assert rows["value"].isna().all()
        first = rows[(rows["table"] == "1") & (rows["stimuli"] != LEAVES)]
        assert first["published"].notna().all()
    assert list(found.missing()) == ["VGG16", "ResNet152", "VGG16 without padding"]
    assert sum(s.startswith("Not measured: ") for s in found.summary()) == 2
    assert "VGG16, VGG16 without padding: the pretrained" in " ".join(found.summary())


def test_without_images_leaves_take_their_place(bare):
    found, _ = bare
    pixels = of(found, row="pixels")
    status = pixels.groupby("stimuli")["status"].unique().str.join("|")
    assert status[PHOTOGRAPHS] == "needs --images FOLDER"
    assert status[LEAVES] == MEASURED
    assert status["black"] == status["white"] == status["noise"] == "measured, trained on leaves"
    assert pixels.loc[pixels["stimuli"] == PHOTOGRAPHS, "value"].isna().all()
    assert found.summary()[-1].startswith("Caution: readouts were trained on 32 leaves")
    spc = of(found, row="pixels", stimuli=LEAVES, metric="spc", table="1")
    assert (spc["value"].abs() < 0.1).all()  # leaves carry no position
    assert spc["published"].isna().all()


def test_published_networks_are_recognised_by_their_architecture(nothing_at_hand):
    options = SMALL | {"image_size": 56}
    found = reproduce(models=["vgg16", "resnet152.a1_in1k", "resnet18"], **options)
    assert nothing_at_hand == ["vgg16", "resnet152.a1_in1k", "resnet18"]
    black = of(found, stimuli="black", target="horizontal", metric="spc").set_index("row")
    assert black["published"].fillna(-9).to_dict() == {
        "pixels": 0.0,
        "vgg16": 0.751,
        "resnet152.a1_in1k": 0.987,
        "resnet18": -9,
    }
    random = reproduce(models="vgg16", weights="random", **options)
    assert of(random, row="vgg16")["published"].isna().all()


@pytest.mark.slow
def test_vgg16_has_a_map_to_read_without_padding():
    options = SMALL | {"image_size": 224, "train_images": 2, "test_images": 1}
    found = reproduce(models="vgg16", weights="random", **options)
    bare = of(found, row="vgg16 without padding", stimuli=LEAVES)
    assert set(bare["status"]) == {MEASURED}
    assert bare["value"].notna().all()


def test_what_is_finished_is_kept(photographs, tmp_path, monkeypatch):
    load = reproduction.load_backbone

    def interrupted(model, *words, **options):
        if isinstance(model, str):
            raise KeyboardInterrupt
        return load(model, *words, **options)

    monkeypatch.setattr(reproduction, "load_backbone", interrupted)
    with pytest.raises(KeyboardInterrupt):
        reproduce(images=photographs, folder=tmp_path, **SMALL)
    kept = load_reproduction(tmp_path)
    assert set(kept.table["row"]) == {"pixels"}
    assert kept.table["value"].notna().all()


# ---------------------------------------------------------------- as the authors' code


def test_photographs_keep_neither_shape_nor_crop(tmp_path):
    wide = np.zeros((40, 160, 3), dtype=np.uint8)
    wide[:, :80, 0] = 255  # red on the left, black on the right
    for name in ("0.png", "1.png"):
        Image.fromarray(wide).save(tmp_path / name)
    images = WholePhotos(tmp_path, (64, 64), train_images=1, test_images=1).batch("train", 0, 3)
    red = images[:, 0].round()
    assert (red[..., :31] == 1).all() and (red[..., 33:] == 0).all()
    assert (images[:, 1:] == 0).all()


def test_networks_see_images_in_0_to_1(photographs, monkeypatch):
    load, normalised = reproduction.load_backbone, []

    def watched(*words, **options):
        backbone = load(*words, **options)
        normalised.append((*backbone.mean, *backbone.std))
        return backbone

    monkeypatch.setattr(reproduction, "load_backbone", watched)
    options = SMALL | {"image_size": 32, "train_images": 2, "test_images": 1, "readout": "ridge"}
    found = reproduce(images=photographs, models=LITE, weights="random", **options)
    assert normalised == [(0, 0, 0, 1, 1, 1)] * 2
    differs = " ".join(found.differences())
    assert "The readout is ridge" in differs and "32 × 32 pixels" in differs
    shown = html.unescape(page(found.table, found.provenance, []))
    assert all(text in shown for text in found.differences())


def test_posenet_is_scored_at_pixels_after_upsampling_its_map():
    readout = PoseNet(align_corners=False)
    maps = torch.rand(1, 2, 5, 7, dtype=torch.float64)
    expected = F.interpolate(maps, (20, 30), mode="bilinear", align_corners=False)
    torch.testing.assert_close(readout.upsample(maps, (20, 30)), expected)
    truth = layer_truth(ReadoutSpec("posenet"), ["vertical"], Layer("x", 1, 1, 28, 28, *SEEN))
    condition = SimpleNamespace(
        readouts={CONCAT: readout}, truths={CONCAT: truth}, predictions={CONCAT: [maps.numpy()]}
    )
    scored = reproduction._scored(condition)
    mae = np.abs(expected[0, 0].numpy() - np.linspace(0, 1, 20)[:, None]).mean()
    np.testing.assert_allclose(scored.values[0, scored.columns.index(("vertical", "mae"))], mae)


# ---------------------------------------------------------------- images


@pytest.mark.parametrize(("name", "level"), [("black", 0.0), ("white", 1.0)])
def test_black_and_white_are_constant(name, level):
    images = Constant((24, 32), name=name).batch("test", 0, 3)
    assert images.shape == (3, 3, 24, 32)
    assert (images == level).all()


def test_noise_is_gaussian_and_seeded():
    images = GaussianNoise((128, 128), 3).batch("test", 0, 4)
    assert abs(float(images.mean()) - 0.5) < 0.01
    assert abs(float(images.std()) - 0.24) < 0.01  # of ¼ before clipping
    inside = float(((images - 0.5).abs() < 0.25).float().mean())
    assert abs(inside - 0.683) < 0.01
    assert (GaussianNoise((128, 128), 3).batch("test", 2, 3)[0] == images[2]).all()
    assert not (images[0] == images[1]).all()


# ---------------------------------------------------------------- files and page


def test_save_and_load(on_photographs, bare, tmp_path):
    found, folder = on_photographs
    assert sorted(p.name for p in folder.iterdir()) == ["reproduction.csv", "reproduction.json"]
    again = load_reproduction(folder)
    assert_frame_equal(again.table, found.table)
    assert again.summary() == found.summary()
    assert again.provenance["trained_on"] == PHOTOGRAPHS
    assert [b["row"] for b in again.provenance["backbones"]] == ["pixels", LITE]
    assert_frame_equal(load_reproduction(bare[0].save(tmp_path / "b")).table, bare[0].table)


def test_the_page_shows_measured_beside_published(on_photographs, tmp_path):
    found, _ = on_photographs
    path = found.to_html(tmp_path / "new" / "page.html")
    text = path.read_text()
    assert text == page(found.table, found.provenance, found.summary())
    assert "<title>Probe: Islam, Jia, Bruce (2020)" in text
    for heading in ("SPC", "MAE", "Padding, on photographs"):
        assert f"<h2>{heading}</h2>" in text
    score = of(found, table="1", row=LITE, stimuli=PHOTOGRAPHS, metric="spc")["value"].iloc[0]
    assert f">{number_text(score, '.3f')}<" in text
    assert ">0.131</td>" in text
    assert "http" not in re.sub(r"https?://www\.w3\.org", "", text)


def test_the_page_escapes_names(bare):
    found, _ = bare
    evil = '<script>alert(1)</script>&"'
    table = found.table.replace({"row": {"VGG16": evil}}).replace({"status": {MEASURED: evil}})
    provenance = found.provenance | {"title": evil, "warnings": [evil]}
    made = Reproduction(table, provenance)
    text = page(made.table, made.provenance, made.summary())
    assert "<script" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;&amp;" in text


# ---------------------------------------------------------------- what can't be done


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"paper": "islam2021"}, "unknown paper 'islam2021': expected one of islam2020"),
        ({"models": "no_such_net"}, "timm has no model named 'no_such_net'"),
        ({"models": []}, "models: expected one or several timm names, got []"),
        ({"images": "/no/such/folder"}, "no folder of photographs at '/no/such/folder'"),
        ({"readout": "tree"}, "unknown readout 'tree'"),
        ({"train_images": 1}, "train_images: expected a whole number of at least 2, got 1"),
        ({"image_size": 0}, "image_size: expected a whole number of at least 1, got 0"),
    ],
)
def test_what_cannot_be_done_is_said_first(options, message, nothing_at_hand):
    with pytest.raises(ProbeError, match=re.escape(message)):
        reproduce(**(SMALL | options))
    assert nothing_at_hand == []


def test_a_folder_without_a_reproduction(tmp_path):
    with pytest.raises(ProbeError, match=r"holds no reproduction: reproduction\.json is missing"):
        load_reproduction(tmp_path)
    (tmp_path / "reproduction.json").write_text("{}")
    (tmp_path / "reproduction.csv").write_text("model,score\nresnet18,3\n")
    with pytest.raises(ProbeError, match="can't be read"):
        load_reproduction(tmp_path)
