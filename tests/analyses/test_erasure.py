"""Ways of taking position out, side by side: tables, words, pictures, files, page, section."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import probe
from probe.analyses.erasure import component_colours, patch_similarity
from probe.records.erasure import read_erasure

SMALL = {"image_size": 48, "progress": False, "batch_size": 32, "seed": 0}
WAYS = ["mean", "project", "constant"]


class Padded(nn.Module):
    """A net of one padded convolution, whose zeros tell of the border."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.conv = nn.Conv2d(3, 8, 9, 6, padding=4)
        self.conv.weight.data = torch.rand(8, 3, 9, 9, generator=generator)
        self.out = nn.ReLU()

    def forward(self, x):
        return self.out(self.conv(x))


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos_of_mine")
    rng = np.random.default_rng(0)
    for index in range(4):
        pixels = rng.integers(0, 255, (20, 20, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((160, 160)).save(folder / f"{index}.png")
    return folder


@pytest.fixture(scope="module")
def model():
    return Padded()


@pytest.fixture(scope="module")
def erased(model, photos):
    counts = {"train_images": 512, "test_images": 16, "pairs": 6}
    readers = [("ridge", 1), ("ridge", 3)]
    return probe.erasure(
        model, "out", images=photos, targets=["gaussian"], readers=readers, **counts, **SMALL
    )


def test_all_ways_stand_side_by_side(erased, photos):
    table = erased.table.query("metric == 'spc' and readout == 'ridge'")
    spc = table.set_index("method")["value"]
    assert list(spc.index) == ["plain", *WAYS]
    assert spc["plain"] > 0.4 and abs(spc[["mean", "project"]]).max() < 0.2
    assert set(erased.matches["images"]) == {"leaves", str(photos)}
    assert (erased.matches["low"] >= 0).all() and (erased.matches["high"] <= 1).all()
    rows = [r for r in erased.side_by_side("position") if r["readout"] == "ridge"]
    assert [r["metric"] for r in rows] == ["spc", "r2"]
    assert all(r["target"] == "gaussian" and len(r["cells"]) == 4 for r in rows)
    first = erased.summary()[0]
    assert re.match(r"Ridge reads position at out with \|SPC\| up to 0\.\d\d; after mean 0", first)
    assert any(s.startswith("Mean takes") for s in erased.summary())


def test_files_are_read_back_and_the_page_asks_for_nothing(erased, tmp_path):
    folder = erased.save(tmp_path / "net")
    again = read_erasure(folder)
    assert again.summary() == erased.summary()
    assert again.side_by_side("matches") == erased.side_by_side("matches")
    loaded = torch.load(folder / "eraser-project.pt", weights_only=False)
    x = torch.randn(2, 8, 8, 8)
    assert torch.equal(loaded(x), erased.erasers["project"](x))
    page = (folder / "erasure.html").read_text()
    assert not re.search(r'(?:src|href)="(?!data:|#|https://arxiv)', page)
    for word in ("mean", "project", "constant", "photos_of_mine", "ridge(kernel=3)"):
        assert word in page
    (folder / "erasure.csv").write_text("nothing\n")
    with pytest.raises(probe.ProbeError):
        read_erasure(folder)


def test_the_report_has_a_section_of_the_same_weights(erased, model, tmp_path):
    counts = {"train_images": 8, "test_images": 8, "layers": ["out"], "variants": "original"}
    result = probe.run(model, targets=["gaussian"], **counts, **SMALL)
    erased.save(tmp_path)
    result.save(tmp_path, report=True)
    assert "Position taken out" in (tmp_path / "report.html").read_text()
    with torch.no_grad():
        other = Padded()
        other.conv.bias += 1
    probe.run(other, targets=["gaussian"], **counts, **SMALL).save(tmp_path, report=True)
    assert "Position taken out" not in (tmp_path / "report.html").read_text()


@pytest.mark.filterwarnings("ignore:random weights are no control")
def test_random_weights_are_measured_as_they_were_drawn():
    small = {"weights": "random", "image_size": 64, "progress": False}
    eraser = probe.erase("test_resnet", ["conv1"], train_images=16, **small)["conv1"]
    few = {"train_images": 4, "test_images": 4, "readers": [("ridge", 1)]}
    assert eraser.evaluate(**few).cautions == []
    with pytest.warns(probe.ProbeWarning, match="other weights"):
        eraser.evaluate("test_resnet", drawn=3, **few, **small)


def test_similarity_and_components_are_what_they_say():
    features = np.zeros((4, 2, 3))
    features[0], features[1, 0, 0] = 1, 1
    similarity = patch_similarity(features, (1, 1))
    assert similarity[1, 1] == pytest.approx(1) and similarity[0, 0] == pytest.approx(0.5**0.5)
    ramp = np.arange(12.0).reshape(3, 4)
    colours = component_colours(np.stack([ramp, np.zeros((3, 4))]))
    assert colours.shape == (3, 4, 3)
    assert colours[-1, -1, 0] == 1 and colours[0, 0, 0] == 0 and (colours[..., 1:] == 0).all()
