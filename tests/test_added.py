"""Things added from outside the package: they run, and reports and --help name them."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from typer.testing import CliRunner

import probe
from probe.borders import RULES, Rule
from probe.cli.main import app
from probe.report import SECTIONS, Section, page
from probe.stimuli import STIMULI, Stimuli
from probe.targets import TARGETS, Target
from probe.variants import REMOVALS, Removal

SMALL = {"train_images": 8, "test_images": 8, "image_size": 64, "progress": False}


class Stripes(Stimuli):
    """Horizontal stripes of one colour, as an image source of one's own."""

    name, tileable, stationary = "stripes", True, False

    def paint(self, split, index, canvas):
        canvas[:] = self.rng(split, index).integers(0, 256)
        canvas[::8] = 255


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), nn.ReLU(), nn.Conv2d(6, 8, 3, 2, 1))


def run(**options) -> probe.Result:
    return probe.run(network(), **{"layers": ["2"], **SMALL, **options})


def help_of(command: str) -> str:
    return CliRunner().invoke(app, [command, "--help"], terminal_width=250).output


def test_a_border_rule(monkeypatch):
    monkeypatch.setitem(RULES, "half", Rule("one half beyond every edge", 0.5))
    monkeypatch.setitem(RULES, "bright", Rule("ones, by a function", torch.ones_like))
    conv = nn.Conv2d(1, 1, 3, padding=1, bias=False)
    nn.init.ones_(conv.weight)
    image = torch.zeros(1, 1, 4, 4)
    with torch.no_grad(), probe.padding("half") as mode:
        assert conv(image)[0, 0, 0].tolist() == [2.5, 1.5, 1.5, 2.5]
    assert len(mode.rewritten) == 1
    with torch.no_grad(), probe.padding("bright"):
        assert conv(image)[0, 0, 0].tolist() == [5, 3, 3, 5]
    result = run(variants=["original", "half"])
    assert not result.certificates["given", "half"].passed
    assert "one half beyond every edge" in page(result)
    assert "half" in help_of("run")


def test_a_removal(monkeypatch):
    flipped = Removal("embeddings upside down", lambda values, grids, order: values.flip(-1))
    monkeypatch.setitem(REMOVALS, "flipped_pos_embed", flipped)
    result = probe.run(
        "vit_tiny_patch16_224",
        weights="random",
        layers=["blocks.0"],
        variants=["original", "flipped_pos_embed", "circular+flipped_pos_embed"],
        targets="vertical",
        **SMALL,
    )
    as_trained, upside_down = (
        result.maps["random", variant, "blocks.0", "vertical"]
        for variant in ("original", "flipped_pos_embed")
    )
    assert np.isfinite(upside_down).all()
    assert not np.allclose(as_trained, upside_down)
    assert "embeddings upside down" in page(result)
    assert "flipped_pos_embed" in help_of("certify")


def test_stimuli(monkeypatch):
    monkeypatch.setitem(STIMULI, "stripes", Stripes)
    result = run(stimuli="stripes")
    assert set(result.table["stimuli"]) == {"stripes"}
    assert "stripes" in help_of("run")
    assert "stripes" in page(result)


def test_a_target(monkeypatch):
    corner = Target(lambda v, u: np.hypot(u, v), "its distance from the corner")
    monkeypatch.setitem(TARGETS, "corner", corner)
    result = run(targets=["corner", "vertical"])
    assert result.true_map("2", "corner")[0, 0] < 0.1
    spc = result.table.query("metric == 'spc' and layer == '2' and variant == 'original'")
    best = spc.loc[spc["value"].idxmax(), "target"]
    words = {"corner": "its distance from the corner", "vertical": "its vertical position"}
    assert words[best] in " ".join(result.verdict())
    assert "corner" in page(result)
    assert "corner" in help_of("run")
    monkeypatch.delitem(TARGETS, "corner")
    assert result.verdict()  # a record may have targets that are not here


def test_a_section_of_the_report(monkeypatch):
    def build(record):
        return {"name": record.model} if "2" in record.layers else None

    template = "<p>Of {{ name }} on {{ options.stimuli }}</p>"
    monkeypatch.setitem(SECTIONS, "mine", Section("mine", "A <b> of mine", template, build))
    text = page(run(name="<i>net"))
    assert '<a href="#mine">A &lt;b&gt; of mine</a>' in text
    assert '<h2 id="mine">A &lt;b&gt; of mine</h2>' in text
    assert "<p>Of &lt;i&gt;net on leaves</p>" in text
    monkeypatch.setitem(SECTIONS, "mine", Section("mine", "Absent", template, lambda record: None))
    assert "Absent" not in page(run())
