"""Results: saved, loaded, said in words, drawn and written as HTML."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
from collections import OrderedDict
from html.parser import HTMLParser
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
import timm
import torch
from PIL import Image
from torch import nn

import probe
from probe.analyses.planted.recovery import planted_truth
from probe.files import check_folder, write_files
from probe.report.index import write_index
from probe.text import interval


def test_what_is_saved_is_what_is_loaded(result, tmp_path):
    result.save(tmp_path / "deep" / "run")
    loaded = probe.load(tmp_path / "deep" / "run")
    pd.testing.assert_frame_equal(loaded.table, result.table, check_exact=True)
    assert loaded.certificates == result.certificates
    assert loaded.provenance == result.provenance
    assert loaded.maps.keys() == result.maps.keys()
    assert all(np.array_equal(loaded.maps[k], v) for k, v in result.maps.items())
    files = sorted(p.name for p in (tmp_path / "deep" / "run").iterdir())
    assert files == [
        *("channels.parquet", "maps.npz", "pattern.npz", "per_image.parquet"),
        *(
            "profile.csv",
            "profile.parquet",
            "readouts.npz",
            "run.json",
            "scores.csv",
            "scores.parquet",
            "stimuli.png",
        ),
    ]
    pd.testing.assert_frame_equal(loaded.profile, result.profile, check_exact=True)
    pd.testing.assert_frame_equal(loaded.channels, result.channels, check_exact=True)
    assert loaded.pattern.keys() == result.pattern.keys()
    for key, pattern in result.pattern.items():
        kept = loaded.pattern[key]
        weights, _, layer = key
        first = next(k for k in result.pattern if k[0] == weights and k[2] == layer)
        leading = result.pattern[first].tuned(len(kept.channels))
        assert len(leading) == min(16, len(pattern.channels))
        np.testing.assert_array_equal(kept.channels, leading)
        for row, channel in enumerate(kept.channels):
            np.testing.assert_array_equal(kept.map_of(channel), pattern.map_of(channel))
            if kept.difference is not None:
                np.testing.assert_array_equal(kept.difference[row], pattern.difference[channel])
        assert (kept.snr, kept.difference_snr) == (pattern.snr, pattern.difference_snr)
    csv = pd.read_csv(tmp_path / "deep" / "run" / "scores.csv")
    pd.testing.assert_frame_equal(csv, result.table, check_dtype=False)


def test_layers_with_slashes_and_calibrations_of_other_readouts(tmp_path):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        parts = {"a/b": nn.Conv2d(3, 4, 3, 2, 1), "b %2F": nn.Conv2d(4, 4, 3, 2, 1)}
    model = nn.Sequential(OrderedDict(parts)).eval()
    options = {"train_images": 8, "test_images": 8, "image_size": 32, "progress": False}
    got = probe.run(model, layers=list(parts), name="x", **options)
    got.save(tmp_path / "x")
    loaded = probe.load(tmp_path / "x")
    assert loaded.layers == got.layers == ["input", *parts]
    assert loaded.maps.keys() == got.maps.keys()
    assert loaded.pattern.keys() == got.pattern.keys()
    assert loaded.calibration is None and loaded.planted is None
    # A calibration is shown beside results of its own readout alone.
    for kernel, shown in ((1, True), (3, False)):
        probe.calibrate(model, seeds=2, layers=list(parts), kernel=kernel, **options).save(
            tmp_path / "x"
        )
        assert (probe.load(tmp_path / "x").calibration is not None) == shown
    table = planted_truth([4], [1.0], progress=False)
    (tmp_path / "planted.csv").write_text(table.to_csv(index=False))
    pd.testing.assert_frame_equal(probe.load(tmp_path / "x").planted, table)


def test_weights_with_slashes_and_certificates_without_a_number_survive(
    tiny, tiny_options, tmp_path
):
    got = probe.run(tiny, **{**tiny_options, "image_size": 64, "layers": ["stages.0"]})
    key = ("/a/b/../c.pth", "original", "stages.0", "vertical")
    got.maps[key] = np.zeros((2, 2), np.float32)
    condition = ("given", "circular")
    got.certificates[condition] = probe.Certificate(float("nan"), False, "not defined", {})
    got.save(tmp_path)
    loaded = probe.load(tmp_path)
    assert key in loaded.maps
    assert np.isnan(loaded.certificates[condition].residual)
    assert "not defined" in " ".join(loaded.verdict())


def test_provenance_says_what_ran(result):
    record = result.provenance
    assert record["options"]["seed"] == 0
    assert record["options"]["image_size"] == [224, 224]
    assert {b["weights"] for b in record["backbones"]} == {"pretrained", "random", "random:1"}
    assert all(re.fullmatch("[0-9a-f]{64}", b["sha256"]) for b in record["backbones"])
    assert record["versions"]["torch"] == torch.__version__
    json.dumps(record)


def test_the_verdict_names_score_control_and_random_weights(result):
    said = result.verdict()
    assert re.match(r"blocks\.\d \(pretrained weights\) knows its .*: SPC 0\.9\d \[", said[0])
    assert "without padding" in said[0]
    text = " ".join(said)
    assert "intervals that hold at once" in text
    assert re.search(r"\(best of \d+, its interval corrected for the choice\)", said[0])
    assert "passes, equivariance residual" in text
    assert "Caution: random weights encode more position than pretrained ones" in text


def test_the_verdict_of_a_network_without_position(tiny, tiny_options):
    got = probe.run(tiny, **{**tiny_options, "variants": "circular"})
    assert got.verdict()[0].startswith("No layer knows its position under given weights")


def test_the_verdict_without_intervals_still_says_what_was_found(tiny, tiny_options):
    with pytest.warns(probe.ProbeWarning, match="no interval"):
        got = probe.run(tiny, **{**tiny_options, "test_images": 1})
    assert re.search(
        r"SPC −?0\.\d\d \(best of \d+; one scene gives no interval\)", got.verdict()[0]
    )
    assert "intervals that hold" not in " ".join(got.verdict())


def test_scores_of_images_that_were_fitted_to_say_that_they_have_no_test(
    tiny, tiny_options, tmp_path
):
    pixels = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    for name in ("one.png", "its copy.png"):
        Image.fromarray(pixels).save(tmp_path / name)
    same = torch.rand(1, 3, 64, 64).expand(20, -1, -1, -1)
    for stimuli in ("black", tmp_path, same):
        with pytest.warns(probe.ProbeWarning, match="no test"):
            got = probe.run(tiny, stimuli=stimuli, **{**tiny_options, "variants": "original"})
        said = got.verdict()
        assert said[0].startswith("These scores have no test: train and test images are")
        assert not any("knows" in sentence and "not what" not in sentence for sentence in said)
        assert got.table.query("metric == 'spc'")["low"].isna().all()


def test_a_copied_photograph_among_others_is_cautioned(tmp_path):
    for number, seed in enumerate([0, 1, 2, 3, 0, 1, 2, 3]):
        pixels = np.random.default_rng(seed).integers(0, 256, (90, 120, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    source = probe.stimuli.open_stimuli(tmp_path, (64, 64), 0, train_images=4, test_images=4)
    assert not source.untested
    assert any("are copies of training ones" in caution for caution in source.cautions)


def test_photographs_are_compared_with_the_clean_canvas(tiny, tiny_options, tmp_path):
    """The seam that circular padding makes of a photograph is a landmark; a canvas has none."""
    across = np.linspace(0, 255, 400)[None, :, None]
    for seed in range(6):
        noise = np.random.default_rng(seed).integers(0, 80, (400, 400, 3))
        pixels = np.clip(across * 0.7 + noise, 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{seed}.png")
    variants = ["original", "circular", "canvas"]
    with pytest.warns(probe.ProbeWarning, match="do not tile"):
        got = probe.run(tiny, stimuli=tmp_path, **{**tiny_options, "variants": variants})
    assert "; on a canvas " in got.verdict()[0]
    leaves = probe.run(tiny, **{**tiny_options, "variants": ["original", "canvas", "circular"]})
    assert "; without padding " in leaves.verdict()[0]


def test_a_network_that_does_not_pad_is_not_asked_about_padding(tiny_options):
    net = nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.ReLU(), nn.Conv2d(8, 8, 1))
    got = probe.run(net, **{**tiny_options, "layers": ["0", "2"]})
    said = " ".join(got.verdict())
    assert "Nothing in this network pads" in said
    assert "without padding" not in said.lower() and "came from" not in said


def test_intervals_of_old_results_are_widened_for_the_choice(result):
    old = result.table.assign(simultaneous_low=np.nan, simultaneous_high=np.nan)
    said = dataclasses.replace(result, table=old).verdict()
    row = result.table.query(
        "metric == 'spc' and layer != 'input' and weights == 'pretrained' and variant == 'original'"
    )
    row = row.nlargest(1, "value").iloc[0]
    bounds = [float(b) for b in re.search(r"\[(0\.\d+), (\d\.\d+)\]", said[0]).groups()]
    assert bounds[0] <= row["low"] and bounds[1] >= row["high"] - 0.005


def test_scores_in_words():
    assert interval(0.981, 0.97, 0.99) == "0.98 [0.97, 0.99]"
    assert interval(-0.001, -0.03, 0.02) == "0.00 [−0.03, 0.02]"
    assert interval(0.5, float("nan"), float("nan")) == "0.50"


def test_the_command_repeats_the_run(result, tiny, tiny_options):
    command = result.command()
    assert command.startswith("probe run tf_efficientnet_lite0 --weights pretrained,random")
    for words in ("--layers blocks.3,blocks.5,blocks.6", "--image-size 224", "--seed 0"):
        assert words in command
    call = probe.run(tiny, **tiny_options, name="mine", mean=0.3, std=0.2).command()
    assert call.startswith("probe.run(module, name='mine', mean=[0.3, 0.3, 0.3], std=[0.2,")
    images = torch.rand(20, 3, 64, 64)
    call = probe.run(tiny, **{**tiny_options, "variants": "original"}, stimuli=images).command()
    assert "stimuli=stimuli" in call


# ---------------------------------------------------------------- files


def test_no_result_is_explained(tmp_path):
    with pytest.raises(probe.ProbeError, match=r"run\.json is missing"):
        probe.load(tmp_path)
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(probe.ProbeError, match="can't be read"):
        probe.load(tmp_path)


def test_damaged_results_are_explained_and_left_out_of_the_index(tiny, tiny_options, tmp_path):
    got = probe.run(tiny, **{**tiny_options, "layers": ["stages.0"]})
    got.save(tmp_path / "good", report=True)
    whole = {path.name: path.read_bytes() for path in (tmp_path / "good").iterdir()}
    bad = tmp_path / "bad"
    bad.mkdir()
    for name in ("run.json", "scores.parquet", "maps.npz"):
        for content in (b"", b"PK\x03\x04", b'{"certificates": []}'):
            for other, data in whole.items():
                (bad / other).write_bytes(content if other == name else data)
            with pytest.raises(probe.ProbeError, match="can't be read"):
                probe.load(bad)
            text = write_index(tmp_path).read_text()
            assert "good/report.html" in text
            assert "bad is left out" in text


def test_writing_is_all_or_nothing(tmp_path, monkeypatch):
    (tmp_path / "a").write_text("old")
    calls = []

    def full(descriptor):
        calls.append(descriptor)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(probe.ProbeError, match="No space left"):
        write_files(tmp_path, {"a": b"new", "b": b"new"})
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_text() == "old"
    calls.clear()
    with pytest.raises(probe.ProbeError, match="No space left"):
        write_files(tmp_path / "x" / "y", {"a": b"new", "b": b"new"})
    assert not (tmp_path / "x").exists()


def test_folders_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "deeper"):
        with pytest.raises(probe.ProbeError, match="can't write"):
            check_folder(folder)
        with pytest.raises(probe.ProbeError, match="can't write"):
            write_files(folder, {"a": b""})
    check_folder(tmp_path / "new" / "folder")
    assert not (tmp_path / "new").exists()


# ---------------------------------------------------------------- pictures and HTML


def test_figures_show_every_target_and_condition_and_change_no_settings(result):
    before = dict(matplotlib.rcParams)
    for metric in ("spc", "mae", "r2"):
        figure = result.plot_layers(metric)
        titles = [axes.get_title("left") for axes in figure.axes]
        assert [t for t in titles if t] == [t.replace("_", " ") for t in probe.TARGETS]
        assert len(figure.axes[0].lines) >= 8
    assert len(figure.legends[0].get_texts()) == 4
    maps = result.plot_maps("blocks.5")
    assert sum(bool(axes.images) for axes in maps.axes) >= 5 * 5
    shown = maps.axes[1 * 5 + 1].images[0].get_array()
    np.testing.assert_array_equal(
        shown, result.maps["pretrained", "original", "blocks.5", "vertical"]
    )
    assert dict(matplotlib.rcParams) == before
    with pytest.raises(probe.ProbeError, match="metric"):
        result.plot_layers("rmse")
    with pytest.raises(probe.ProbeError, match="layer"):
        result.plot_maps("blocks.9")
    matplotlib.pyplot.close("all")


class Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def addresses(self) -> list[str]:
        wanted = ("src", "href", "xlink:href", "action", "data", "poster", "srcset")
        return [v for _, attrs in self.tags for k, v in attrs.items() if k in wanted and v]

    def count(self, tag: str) -> int:
        return sum(t == tag for t, _ in self.tags)


def test_the_report_is_one_file_that_asks_for_nothing(result, tmp_path):
    path = result.to_html(tmp_path / "report.html")
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert all(a.startswith(("data:", "#")) for a in page.addresses())
    assert not re.search(r"@import|url\((?!#)", text)
    assert page.count("path") > 100
    maps = 2 + 5 * 3 * 5  # stimuli, scale; targets × layers × (true + conditions)
    assert page.count("img") == maps + 3 * 3 * 8  # layers × conditions that were run × channels
    assert page.count("tr") >= len(result.table)
    identifiers = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(identifiers) == len(set(identifiers))
    for sentence in result.verdict():
        assert sentence.replace("'", "&#39;") in text or ": passes, " in sentence
    for backbone in result.provenance["backbones"]:
        assert backbone["sha256"] in text


def test_names_are_escaped_everywhere(tiny, tiny_options, tmp_path):
    name = "<script>alert('$x$')</script>&"
    got = probe.run(tiny, name=name, **tiny_options)
    got.save(tmp_path / "run", report=True)
    index = write_index(tmp_path).read_text()
    report = (tmp_path / "run" / "report.html").read_text()
    for text in (index, report, got._repr_html_()):
        assert "<script>alert" not in text
        assert "&lt;script&gt;alert" in text
    got.plot_layers()
    got.plot_maps()
    matplotlib.pyplot.close("all")


def test_a_notebook_shows_verdict_and_scores(result):
    text = result._repr_html_()
    assert "knows its" in text
    assert Page(text).count("td") == 3 * 4 * (1 + 5)


def test_the_index_covers_every_run_and_names_what_it_cannot_read(tiny, tiny_options, tmp_path):
    for name in ("one", "two"):
        probe.run(tiny, name=name, **tiny_options).save(tmp_path / name, report=True)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "run.json").write_text("{}")
    text = write_index(tmp_path).read_text()
    assert 'href="one/report.html"' in text
    assert 'href="two/report.html"' in text
    assert "broken" in text


def test_the_example_in_the_repository_is_a_real_run_of_this_version():
    reports = Path(__file__).parent.parent.parent / "reports"
    page = (reports / "tf_efficientnet_lite0" / "report.html").read_text()
    assert f"position-probe {probe.__version__}" in page
    assert "256 train and 64 test images" in page
    assert probe.load_backbone("tf_efficientnet_lite0").sha256 in page
    listed = subprocess.run(
        ["git", "ls-files", "-z", "."], cwd=reports, capture_output=True, text=True
    )
    if listed.returncode:
        pytest.skip("which files belong to the repository can't be asked")
    names = [name for name in listed.stdout.split("\0") if name]
    for shown in (True, False):  # the study of a zoo; one example of each other kind
        files = [reports / name for name in names if name.startswith("zoo/") == shown]
        assert files and sum(path.stat().st_size for path in files) < 3_000_000


def test_a_result_is_one_line_and_equal_to_itself_alone(result, tmp_path):
    assert len(repr(result)) < 100 and "tf_efficientnet_lite0" in repr(result)
    assert result == result
    assert result != probe.load(result.save(tmp_path / "copy"))


def test_checkpoints_of_one_file_name_are_told_apart(tmp_path):
    net = timm.create_model("resnet10t")
    files = []
    for folder, seed in (("a", 1), ("b", 2)):
        (tmp_path / folder).mkdir()
        torch.manual_seed(seed)
        for p in net.parameters():
            nn.init.normal_(p, std=0.05)
        files.append(str(tmp_path / folder / "best.pth"))
        torch.save(net.state_dict(), files[-1])
    options = {"train_images": 4, "test_images": 8, "image_size": 32, "progress": False}
    got = probe.run("resnet10t", weights=files, variants="original", layers="layer1", **options)
    said = " ".join(got.verdict())
    assert "a/best.pth" in said and "b/best.pth" in said
    assert "a/best.pth" in got._repr_html_() and "b/best.pth" in got._repr_html_()
