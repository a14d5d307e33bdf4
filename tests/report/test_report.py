"""The report: figures whose lines and pictures carry the result's numbers, sections, one file."""

from __future__ import annotations

import dataclasses
import io
import re
import warnings
from collections.abc import Iterator
from html.parser import HTMLParser

import matplotlib
import numpy as np
import pandas as pd
import pytest
import torch
from markupsafe import escape
from matplotlib import pyplot as plt
from torch import nn

import probe
from probe.analyses.attribution.attribution import attribute
from probe.records.record import PROFILE_COLUMNS
from probe.report.figures.conditions import CHANCE, best_score, handles, leading, look
from probe.report.figures.depth import layer_figure
from probe.report.figures.maps import pattern_rows
from probe.report.index import write_index
from probe.report.page import page
from probe.report.parts import slim
from probe.report.sections.scores import control_rows, padding_tables, score_row
from probe.report.style import PAGE, PALETTE, PAPER
from probe.stimuli.given import Given
from probe.stimuli.leaves import Leaves
from probe.text import families, interval, number_text, percent

TARGETS = ["horizontal", "vertical", "gaussian"]
SEEDS = ["random", "random:1", "random:2"]
HOSTILE = "<img src=x onerror=alert('$1$')>&\"--><"
SECTIONS = ["padding", "reach", "pattern", "controls"]
ALWAYS = ["images", "depth", "maps", "certificate", "all", "how"]


@pytest.fixture(scope="module")
def seeded() -> probe.Result:
    """A real run under three draws of random weights."""
    return probe.run(
        "mobilenetv3_small_050",
        weights=SEEDS,
        layers=["blocks.0", "blocks.1", "blocks.3"],
        targets=TARGETS,
        train_images=12,
        test_images=12,
        image_size=64,
        progress=False,
    )


@pytest.fixture(scope="module")
def written(seeded) -> str:
    """Its report."""
    return page(seeded)


@pytest.fixture(scope="module")
def trained(seeded) -> probe.Result:
    """The same with the first draw called pretrained."""

    def put(key: tuple[str, ...]) -> tuple[str, ...]:
        return ("pretrained" if key[0] == "random" else key[0], *key[1:])

    tables = {"table": seeded.table, "profile": seeded.profile}
    parts = {name: getattr(seeded, name) for name in ("maps", "pattern", "certificates")}
    return dataclasses.replace(
        seeded,
        **{
            k: v.assign(weights=v["weights"].replace("random", "pretrained"))
            for k, v in tables.items()
        },
        **{k: {put(key): value for key, value in v.items()} for k, v in parts.items()},
    )


@pytest.fixture
def old(seeded) -> probe.Result:
    """The same as version 0.2 left it."""
    table = seeded.table[
        (seeded.table["layer"] != "input") & seeded.table["metric"].isin(["spc", "mae", "r2"])
    ].copy()
    late = table.columns[table.columns.get_loc("chance") :]
    table[late] = np.nan
    empty = pd.DataFrame(columns=PROFILE_COLUMNS)
    return dataclasses.replace(seeded, table=table, profile=empty, pattern={})


@pytest.fixture(autouse=True)
def settings() -> Iterator[None]:
    """Nothing here may change matplotlib's settings."""
    before = dict(matplotlib.rcParams)
    yield
    assert dict(matplotlib.rcParams) == before
    plt.close("all")


class Page(HTMLParser):
    """Tags of a document, and the ones that were opened and closed wrongly."""

    VOID = ("meta", "link", "img", "br", "input", "col", "path", "line", "circle", "rect", "use")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.stack: list[str] = []
        self.wrong: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if tag in self.VOID:
            return
        if not self.stack or self.stack.pop() != tag:
            self.wrong.append(tag)

    @property
    def ids(self) -> list[str]:
        return [attrs["id"] for _, attrs in self.tags if "id" in attrs]

    @property
    def addresses(self) -> list[str]:
        wanted = ("src", "href", "xlink:href", "action", "data", "poster", "srcset")
        return [v for _, attrs in self.tags for k, v in attrs.items() if k in wanted and v]


def lines_of(axes, colour: str, dashes: object) -> list:
    """Lines of a colour, continuous or dashed."""
    dashed = "-" if dashes == "-" else "--"
    return [
        line
        for line in axes.lines
        if line.get_color() == colour and line.get_linestyle() == dashed and len(line.get_xdata())
    ]


def chosen(table: pd.DataFrame, **values: object) -> pd.DataFrame:
    for column, value in values.items():
        table = table[table[column] == value]
    return table


# ---------------------------------------------------------------- seeds


def test_seeds_are_one_family_in_the_legend_and_one_row_in_pictures(seeded):
    figure = seeded.plot_layers()
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["random (3 seeds), original", "random (3 seeds), circular"]
    first, second = (look(seeded.conditions, (w, "original")) for w in SEEDS[:2])
    assert first == second
    assert len(lines_of(figure.axes[0], first[0], first[1])) == 3
    assert leading(seeded.conditions) == [("random", "original"), ("random", "circular")]
    maps = seeded.plot_maps("blocks.1")
    assert sum(bool(axes.images) for axes in maps.axes[: 3 * 3]) == 3 * 3


def test_the_same_variant_has_the_same_colour_and_other_weights_other_dashes(trained):
    looks = {c: look(trained.conditions, c) for c in trained.conditions}
    for (weights, variant), (colour, dashes, marker) in looks.items():
        assert colour == looks["pretrained", variant][0]
        assert dashes == looks[weights, "original"][1]
        assert marker == looks[weights, "original"][2]
    groups = families(w for w, _ in trained.conditions)
    assert len({looks[members[0], "original"][1] for members in groups.values()}) == len(groups)
    labels = [h.get_label() for h in handles(trained.conditions)]
    assert len(labels) == len(set(labels)) == 2 * len(groups)


def test_the_best_layer_is_none_but_a_layer(seeded):
    table = seeded.table.copy()
    table.loc[(table["layer"] == "input") & (table["metric"] == "spc"), "value"] = 0.999
    doctored = dataclasses.replace(seeded, table=table)
    assert best_score(doctored.table)[0] == best_score(seeded.table)[0] != "input"


# ---------------------------------------------------------------- figures


@pytest.mark.parametrize("metric", ["spc", "mae", "r2", "control", "selectivity"])
def test_lines_over_depth_are_the_scores_and_the_input_stands_apart(seeded, metric):
    figure = seeded.plot_layers(metric)
    titles = [title for axes in figure.axes if (title := axes.get_title("left"))]
    assert titles == TARGETS
    for axes, target in zip(figure.axes, TARGETS, strict=False):
        scores = chosen(seeded.table, metric=metric, target=target)
        expected = [
            chosen(scores, weights=w, variant="original").query("depth > 0")["value"] for w in SEEDS
        ]
        colour, dashes, _ = look(seeded.conditions, ("random", "original"))
        for line, values in zip(lines_of(axes, colour, dashes), expected, strict=True):
            np.testing.assert_array_equal(line.get_xdata(), [1, 2, 3])
            np.testing.assert_allclose(line.get_ydata(), values)
        hollow = next(line for line in axes.lines if line.get_markerfacecolor() == PAPER)
        assert set(hollow.get_xdata()) == {0}
        assert hollow.get_linestyle() == "None"
        pixels = chosen(scores, layer="input")["value"]
        assert np.isclose(pixels.to_numpy()[:, None], hollow.get_ydata(), atol=1e-3).any(1).all()
        assert axes.get_xticklabels()[0].get_text() == "input"
    chance = [text.get_text() for text in figure.legends[0].get_texts()].count("chance")
    assert chance == (metric == "mae")


def test_the_localisation_error_has_one_panel_from_zero_and_its_chance(seeded):
    figure = seeded.plot_layers("error_px")
    (axes,) = figure.axes
    rows = chosen(seeded.table, metric="error_px", weights="random", variant="original")
    rows = rows.query("depth > 0")
    drawn = [line.get_ydata() for line in axes.lines]
    for column in ("value", "chance"):
        assert any(len(y) == 3 and np.allclose(y, rows[column]) for y in drawn)
    assert axes.get_ylim()[0] == 0
    assert axes.get_ylabel() == "Localisation error (px)"
    assert figure.legends[0].get_texts()[-1].get_text() == "chance"


def test_a_metric_that_was_not_measured_is_explained(seeded, old):
    with pytest.raises(probe.ProbeError, match="metric"):
        seeded.plot_layers("rmse")
    with pytest.raises(probe.ProbeError, match="no scores 'error_px'"):
        old.plot_layers("error_px")
    for metric in ("spc", "mae", "r2"):
        old.plot_layers(metric)


def test_many_layers_leave_room_for_the_input(seeded):
    parts = [
        seeded.table[seeded.table["layer"] == "blocks.1"].assign(layer=f"layer{k}", depth=k)
        for k in range(1, 41)
    ]
    table = pd.concat([seeded.table[seeded.table["layer"] == "input"], *parts])
    figure = dataclasses.replace(seeded, table=table).plot_layers()
    places = figure.axes[0].get_xticks()
    assert len(places) <= 16
    assert len(set(np.diff(places))) == 1


def test_profiles_are_the_errors_by_distance(seeded):
    figure = seeded.plot_profile("vertical")
    layers = [name for name in seeded.layers if name != "input"]
    assert [axes.get_title("left") for axes in figure.axes] == layers
    for axes, layer in zip(figure.axes, layers, strict=True):
        rows = chosen(seeded.profile, layer=layer, target="vertical")
        for variant in ("original", "circular"):
            colour, dashes, _ = look(seeded.conditions, ("random", variant))
            drawn = lines_of(axes, colour, dashes)
            for line, weights in zip(drawn, SEEDS, strict=True):
                mine = chosen(rows, weights=weights, variant=variant).sort_values("distance")
                np.testing.assert_allclose(line.get_xdata(), mine["distance"])
                np.testing.assert_allclose(line.get_ydata(), mine["error"])
        blind = axes.lines[-1]
        mine = chosen(rows, weights="random", variant="original").sort_values("distance")
        np.testing.assert_allclose(blind.get_ydata(), mine["chance"])
    assert axes.get_ylim()[0] == 0
    assert figure.axes[0].get_ylim() == figure.axes[-1].get_ylim()
    assert "horizontal" in seeded.plot_profile().get_suptitle()


def test_patterns_are_the_mean_maps_of_the_most_tuned_channels(seeded):
    figure = seeded.plot_pattern("blocks.1", channels=4)
    as_trained, bare = (seeded.pattern["random", v, "blocks.1"] for v in ("original", "circular"))
    pictures = [axes for axes in figure.axes if axes.images]
    for column, channel in enumerate(as_trained.tuned(4)):
        maps = [p.map_of(channel).astype(float) for p in (as_trained, bare)]
        maps = [m - m.mean() for m in maps]
        largest = max(abs(m).max() for m in maps)
        for row, values in enumerate(maps):
            picture = pictures[4 * row + column].images[0]
            np.testing.assert_allclose(picture.get_array(), values / largest, atol=1e-9)
            assert picture.get_clim() == (-1, 1)
        eta2 = number_text(as_trained.eta2[channel])
        assert pictures[column].get_title() == f"channel {channel}\nη² {eta2}"
        eta2 = number_text(bare.eta2[channel])
        assert pictures[4 + column].get_title() == f"η² {eta2}"
    snr = number_text(as_trained.snr)
    assert pictures[0].get_ylabel() == f"random\noriginal\nSNR {snr}"


def test_patterns_of_a_saved_result_leave_out_what_was_not_kept(trained):
    most = {key[::2]: pattern.tuned(3) for key, pattern in reversed(trained.pattern.items())}
    small = dataclasses.replace(
        trained, pattern={k: pattern.keep(most[k[::2]]) for k, pattern in trained.pattern.items()}
    )
    rows = pattern_rows(small.pattern, "blocks.3", 8)
    leading = [row for row in rows if row.leads]
    assert [row.condition[0] for row in leading] == ["pretrained", "random:1"]
    for row in leading:
        pattern = trained.pattern[(*row.condition, "blocks.3")]
        assert [cell.channel for cell in row.cells] == list(pattern.tuned(3))
    for row in rows:
        pattern = small.pattern[(*row.condition, "blocks.3")]
        assert all(cell.eta2 == pattern.eta2[cell.channel] for cell in row.cells)
        assert all(cell.channel in pattern.channels for cell in row.cells)
        assert all(np.abs(cell.relative).max() <= 1 for cell in row.cells)
    assert small.plot_pattern("blocks.3").axes


def test_what_has_neither_profile_nor_pattern_is_explained(old, seeded):
    with pytest.raises(probe.ProbeError, match="run it again"):
        old.plot_profile()
    with pytest.raises(probe.ProbeError, match="run it again"):
        old.plot_pattern()
    with pytest.raises(probe.ProbeError, match="target"):
        seeded.plot_profile("diagonal")
    with pytest.raises(probe.ProbeError, match="layer"):
        seeded.plot_pattern("blocks.9")
    with pytest.raises(probe.ProbeError, match="at least 1"):
        seeded.plot_pattern(channels=0)
    assert not plt.get_fignums()


def test_numbers_in_words():
    said = [number_text(v) for v in (0.123, -0.123, -0.001, np.nan, np.inf)]
    assert said == ["0.12", "−0.12", "0.00", "–", "∞"]
    assert number_text(-0.4, ".0f") == "0"


# ---------------------------------------------------------------- the report


def test_every_section_is_there_and_nothing_is_asked_for(seeded, written):
    text, page = written, Page(written)
    assert {*SECTIONS, *ALWAYS} <= set(page.ids)
    assert "who" not in page.ids
    assert len(page.ids) == len(set(page.ids))
    assert all(a.startswith(("data:", "#")) for a in page.addresses)
    assert {a[1:] for a in page.addresses if a.startswith("#")} <= set(page.ids)
    assert not re.search(r"@import|url\((?!#)", text)
    assert not page.wrong
    assert not page.stack
    assert len(text.encode()) < 3e6
    assert text.count("random (3 seeds), original") >= 2
    for sentence in seeded.verdict():
        shown = sentence.replace("'", "&#39;") in text
        assert shown != (": passes, " in sentence)  # the table of certificates says so


def test_a_result_of_an_older_version_has_fewer_sections(old):
    text = page(old)
    ids = Page(text).ids
    assert not set(SECTIONS) & set(ids)
    assert set(ALWAYS) <= set(ids)
    assert 'tabindex="0">share<' not in text
    assert "nan" not in re.sub(r"<script>.*", "", text, flags=re.DOTALL).lower().split()
    assert all(str(escape(sentence)) in old._repr_html_() for sentence in old.verdict())


def test_what_padding_gives_is_the_differences(seeded):
    (table,) = padding_tables(seeded)
    assert table["columns"] == [*TARGETS, "localisation, px"]
    assert [row["layer"] for row in table["rows"]] == ["blocks.0", "blocks.1", "blocks.3"]
    frame = chosen(seeded.differences, weights="random", metric="spc", variant="circular")
    for row in table["rows"]:
        for cell, target in zip(row["cells"], TARGETS, strict=False):
            expected = chosen(frame, layer=row["layer"], target=target).iloc[0]
            assert cell["original"] == number_text(expected["original"])
            assert cell["value"] == number_text(expected["value"])
            assert cell["difference"].startswith(number_text(expected["difference"]))
            share = expected["share"]
            assert cell["share"] == ("–" if np.isnan(share) else percent(share))


def test_pixels_over_other_places_make_no_difference(seeded):
    table = seeded.table.copy()
    cropped = (table["variant"] == "circular") & (table["metric"] == "error_px")
    effects = [c for c in table if c.startswith(("difference", "share"))]
    table.loc[cropped, effects] = np.nan  # as under valid, where the middle alone is left
    table.loc[cropped, "chance"] *= 0.6
    (found,) = padding_tables(dataclasses.replace(seeded, table=table))
    for row in found["rows"]:
        assert row["cells"][-1]["difference"] == "middle alone"
        assert row["cells"][-1]["share"] == "–"
    figure = dataclasses.replace(seeded, table=table).plot_layers("error_px")
    grey = CHANCE["color"]
    assert sum(line.get_color() == grey for line in figure.axes[0].lines) == 2


def test_every_variant_has_its_own_colour(seeded):
    variants = ["original", "circular", "reflect", "valid", "canvas", "zeros"]
    passed = seeded.certificates["random", "circular"]
    mine = dataclasses.replace(seeded, certificates={("random", v): passed for v in variants})
    assert len({look(mine.conditions, ("random", v))[0] for v in variants}) == len(variants)


def test_controls_name_the_input_the_selectivity_and_every_seed(seeded, written):
    rows = {row["layer"]: row["lines"] for row in control_rows(seeded)}
    assert [len(lines) for lines in rows.values()] == [1, 3, 3, 3]
    spc = chosen(seeded.table, metric="spc", variant="original", layer="blocks.3")
    values = chosen(spc, target="vertical").set_index("weights")["value"]
    drawn = " / ".join(number_text(values[w]) for w in SEEDS[1:])
    assert rows["blocks.3"][2]["cells"][1] == drawn
    assert "probe calibrate" in written
    truths = pd.DataFrame(
        {
            "channels": [8, 2048],
            "snr": [1.0, 1.0],
            "attainable": [0.5, 0.5],
            "value": [0.48, 0.51],
            "low": [0.4, 0.505],
            "high": [0.6, 0.515],
            "recovered": [True, False],
        }
    )
    text = page(dataclasses.replace(seeded, planted=truths))
    assert "within its interval in 50 % of 2 cases, 8 to 2,048 channels" in text
    assert '<td class="n">1 of 2</td>' in text and '<td class="n">0.495</td>' in text


def test_the_table_of_all_scores_has_every_number(seeded, written):
    row = chosen(
        seeded.table, metric="spc", target="vertical", layer="blocks.3", variant="circular"
    )
    shown = score_row(row.iloc[0].to_dict())
    assert shown["value"] == number_text(row.iloc[0]["value"], ".3f")
    assert shown["chance"] == "0"
    for heading in ("chance", "difference", "share"):
        assert re.search(rf'<th scope="col" class="n" tabindex="0">{heading}</th>', written)


def test_the_first_screen_tells_the_main_result(trained):
    text = page(trained)
    lead = text[text.index('<div class="lead">') : text.index("<nav")]
    verdict = trained.verdict()
    assert verdict[0] in lead
    assert "passes, equivariance residual" not in lead
    assert "<svg" in lead


def test_hostile_names_are_escaped(seeded):
    def renamed(name: str) -> str:
        return HOSTILE if name == "blocks.1" else name

    def put(key: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(renamed(part) for part in key)

    mine = dataclasses.replace(
        seeded,
        table=seeded.table.assign(layer=seeded.table["layer"].map(renamed)),
        profile=seeded.profile.assign(layer=seeded.profile["layer"].map(renamed)),
        maps={put(key): value for key, value in seeded.maps.items()},
        pattern={put(key): value for key, value in seeded.pattern.items()},
    )
    text = page(mine)
    parsed = Page(text)
    assert "<img src=x" not in text
    assert "&lt;img src=x" in text
    assert not any("onerror" in attrs for _, attrs in parsed.tags)
    assert not parsed.wrong
    assert "<img src=x" not in mine._repr_html_()
    mine.plot_profile()
    mine.plot_pattern(HOSTILE).canvas.draw()


def test_a_notebook_shows_the_first_seed_and_no_input(seeded):
    text = seeded._repr_html_()
    assert Page(text).tags.count(("td", {"style": "text-align: left"})) == 3 * 2
    assert "random, original" in text
    assert "random:1" not in re.sub(r"<ul.*?</ul>", "", text, flags=re.DOTALL)


def test_the_index_gathers_seeds(seeded, tmp_path):
    seeded.save(tmp_path / "one", report=True)
    text = write_index(tmp_path).read_text(encoding="utf-8")
    assert text.count("random (3 seeds)") == 2
    assert "random:1" not in text
    best = seeded.table.query("metric == 'spc' and variant == 'original' and layer != 'input'")
    assert number_text(best["value"].max()) in text


def test_the_index_says_what_each_run_was_made_of(seeded, tmp_path):
    seeded.save(tmp_path / "one", report=True)
    text = write_index(tmp_path).read_text(encoding="utf-8")
    made_of = "3 layers · ridge readout · 12 train and 12 test images · leaves · 64 × 64 pixels"
    assert made_of in text


def test_what_was_never_meant_to_be_free_of_position_is_not_red(seeded, tmp_path):
    seeded.save(tmp_path / "one")
    text = write_index(tmp_path).read_text(encoding="utf-8")
    assert '<span class="pass">yes</span>' in text
    assert '<span class="fail">' not in text + page(seeded)
    bare = ("random", "circular")
    failed = dataclasses.replace(seeded.certificates[bare], passed=False, reason="why ever")
    doubtful = dataclasses.replace(seeded, certificates={**seeded.certificates, bare: failed})
    assert '<span class="fail">not certified</span>' in page(doubtful)
    left = dataclasses.replace(failed, sources=("position embedding: pos_embed",))
    doubtful = dataclasses.replace(seeded, certificates={**seeded.certificates, bare: left})
    assert '<span class="fail">' not in page(doubtful)


class Patches(nn.Module):
    """Nothing in it pads: it knows its position from an embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 12, 8, 8)
        self.mix = nn.Conv2d(12, 12, 1)
        ramp = torch.linspace(0, 3, 8).expand(1, 12, 8, 8)
        self.pos_embed = nn.Parameter(ramp.clone())

    def forward(self, x):
        return self.mix(self.patches(x) + self.pos_embed)


def test_a_network_without_padding_is_not_told_of_padding(tmp_path):
    found = probe.run(
        Patches(), layers=["mix"], train_images=12, test_images=8, image_size=64, progress=False
    )
    assert not found.pads
    assert found.table["padding_share"].isna().all()
    (row,) = chosen(
        found.table, variant="no_pos_embed", layer="mix", target="horizontal", metric="spc"
    ).to_dict("records")
    assert row["share"] == pytest.approx(1, abs=0.15)
    part = "all" if row["share"] >= 0.995 else percent(row["share"])
    said = f"{part} of it came from position embeddings; padding has no part in it"
    assert said in found.verdict()[0]
    text = re.sub(r"<(style|script|pre).*?</\1>", "", page(found), flags=re.DOTALL)
    text = text[text.index("</nav>") :]
    for words in ("without padding", "came from padding", "padding share", "share of padding"):
        assert words not in text
    found.save(tmp_path / "one")
    assert '"fail"' not in write_index(tmp_path).read_text(encoding="utf-8")
    assert probe.load(tmp_path / "one").pads is False


def test_a_network_with_padding_is(seeded):
    assert seeded.pads
    bare = {k: v for k, v in seeded.certificates.items() if k[1] == "circular"}
    assert dataclasses.replace(seeded, certificates=bare).pads
    assert "came from padding" in page(seeded)


def luminance(colour: str) -> float:
    """WCAG 2.2, relative luminance."""
    parts = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return float(np.dot([0.2126, 0.7152, 0.0722], linear))


def contrast(one: str, other: str) -> float:
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def test_all_colours_stand_out_in_the_light_and_in_the_dark(seeded, written):
    light, dark = (
        dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", block))
        for block in re.findall(r":root \{(.*?)\}", written, re.DOTALL)
    )
    assert {role: light[role] for role in PAGE} == PAGE
    assert set(light) == set(dark)
    for colours in (light, dark):
        for colour in PALETTE:
            assert contrast(colour, colours["paper"]) >= 3, colour
        for role in ("ink", "soft", "blue", "good", "bad", "care"):
            assert contrast(colours[role], colours["paper"]) >= 4.5, role
            assert contrast(colours[role], colours["tint"]) >= 4.5, role
    assert len(set(PALETTE)) == len(PALETTE) >= 9
    variants = [
        *("original", "circular", "canvas", "no_pos_embed", "shuffled_pos_embed"),
        *("canvas+no_pos_embed", "reflect", "zeros", "replicate"),
    ]
    looks = [look([("random", v) for v in variants], ("random", v))[0] for v in variants]
    assert len(set(looks)) == len(variants)
    assert set(looks) <= set(PALETTE)


def test_nothing_in_a_page_has_a_colour_that_the_dark_does_not_know(written):
    body = re.sub(r"<style>.*?</style>", "", written, flags=re.DOTALL)
    used = set(re.findall(r"(?:fill|stroke)[:=] ?\"?(#[0-9a-fA-F]{3,6})", body))
    assert used <= set(PALETTE)
    assert not re.search(r"(?:fill|stroke)[:=] ?\"?(?:black|white)", body)
    texts = re.findall(r"<text([^>]*)>", body)
    assert texts
    assert all("var(--" in attributes for attributes in texts)


def test_the_stimuli_are_shown_also_after_loading(seeded, tmp_path):
    first = Leaves((64, 64), 0).batch("train", 0, 4)
    assert seeded.picture.shape == (64, 4 * 68 - 4, 4)
    for number, x in enumerate(first):
        seen = seeded.picture[:, 68 * number : 68 * number + 64]
        np.testing.assert_array_equal(seen[..., 3], 255)
        np.testing.assert_allclose(seen[..., :3] / 255, x.permute(1, 2, 0), atol=1e-6)
    assert not seeded.picture[:, 64:68].any()
    seeded.save(tmp_path / "one", report=True)
    loaded = probe.load(tmp_path / "one")
    np.testing.assert_array_equal(loaded.picture, seeded.picture)
    address = re.search(r'class="strip"><img src="(data:image/png;base64,[^"]+)"', page(loaded))
    assert address
    assert address[1] in (tmp_path / "one" / "report.html").read_text(encoding="utf-8")
    (tmp_path / "one" / "stimuli.png").unlink()  # as version 0.4 left it
    assert probe.load(tmp_path / "one").picture is None
    assert 'class="strip"' not in page(probe.load(tmp_path / "one"))


def test_few_large_or_grey_images_are_shown_too():
    given = Given(torch.rand(3, 3, 200, 100), train_images=2, test_images=1)
    assert given.picture(2).shape == (96, 2 * 52 - 4, 4)


def test_who_put_it_there(seeded, tiny):
    found = attribute(
        tiny,
        "stages.2",
        ["horizontal", "vertical"],
        train_images=8,
        test_images=8,
        image_size=64,
        progress=False,
    ).table
    first = found.loc[found["kind"] == "call", "unit"].iloc[0]
    table = found.assign(unit=found["unit"].replace(first, HOSTILE))
    table = table.astype(
        dict.fromkeys(["value", "low", "effect_low"], str)
    )  # as some files have it
    before = plt.get_fignums()
    text = page(dataclasses.replace(seeded, attribution=table))
    assert plt.get_fignums() == before
    parsed = Page(text)
    assert "who" in parsed.ids
    assert len(parsed.ids) == len(set(parsed.ids))
    assert not parsed.wrong
    assert "<img src=x" not in text
    assert "&lt;img src=x" in text
    for side in set(found.loc[found["kind"] == "side", "unit"]):
        assert f"{side} side" in text
    row = chosen(found, kind="side", keeps="only", target="vertical", metric="spc").iloc[0]
    assert interval(row["value"], row["low"], row["high"]) in text


def test_drawing_leaves_matplotlib_as_it_was_and_honours_a_theme(seeded):
    before, numbers = dict(plt.rcParams), plt.get_fignums()
    figure, axes = plt.subplots(1, 2)
    returned = probe.plot_layers(seeded.table, "spc", ["vertical"], ax=axes[0])
    assert returned is axes[0] and axes[0].lines
    assert seeded.plot_profile("vertical", "blocks.3", ax=axes[1]) is axes[1]
    assert axes[1].get_title(loc="left") == "blocks.3" and axes[1].get_legend_handles_labels()[1]
    plt.close(figure)
    assert dict(plt.rcParams) == before and plt.get_fignums() == numbers
    with pytest.raises(probe.ProbeError, match="one target"):
        probe.plot_layers(seeded.table, ax=axes[0])
    with pytest.raises(probe.ProbeError, match="one layer"):
        probe.plot_profile(seeded.profile, ax=axes[0])
    with plt.rc_context({"axes.facecolor": "#123456"}):
        figure = probe.plot_layers(seeded.table, targets=["vertical"])
    plt.close(figure)
    assert figure.axes[0].get_facecolor() == pytest.approx(plt.matplotlib.colors.to_rgba("#123456"))


def test_the_first_plot_of_a_kernel_does_not_switch_the_inline_backend_off():
    import nbformat
    from nbclient import NotebookClient

    cells = [
        "import pandas as pd, probe\n"
        "rows = dict(model='m', weights='w', variant='original', target='vertical', metric='spc',"
        " value=[.1, .5], low=[0, .4], high=[.2, .6], chance=0., layer=['a', 'b'], depth=[1, 2])\n"
        "probe.plot_layers(pd.DataFrame(rows))",
        "import matplotlib.pyplot as plt\nplt.plot([1, 2]);",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells])
    NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    for cell in notebook.cells:
        pictures = [o for o in cell.outputs if "image/png" in o.get("data", {})]
        assert len(pictures) == 1


def test_fonts_in_a_pdf_are_truetype_and_settings_stay(tiny, tiny_options, tmp_path):
    figure = probe.run(tiny, **tiny_options).plot_layers(targets=["vertical"])
    figure = getattr(figure, "figure", figure)
    before = dict(matplotlib.rcParams)
    figure.savefig(tmp_path / "layers.pdf")
    with matplotlib.rc_context({"pdf.fonttype": 42}):
        figure.savefig(tmp_path / "again.pdf")
    assert dict(matplotlib.rcParams) == before
    for name in ("layers.pdf", "again.pdf"):
        content = (tmp_path / name).read_bytes()
        assert b"/Type3" not in content and b"/CIDFontType2" in content


def test_one_target_can_be_named_by_itself(tiny, tiny_options):
    result = probe.run(tiny, **tiny_options)
    one, listed = result.plot_layers(targets="vertical"), result.plot_layers(targets=["vertical"])
    assert [a.get_title() for a in one.axes] == [a.get_title() for a in listed.axes]
    with pytest.raises(probe.ProbeError, match="at least one of"):
        result.plot_layers(targets=[])


@pytest.mark.parametrize("metric", ["spc", "error_px"])
def test_lines_drawn_on_axes_of_ones_own_can_be_named_in_its_legend(tiny, tiny_options, metric):
    options = tiny_options | {"weights": ["given", "random", "random:1"]}
    result = probe.run(tiny, **options)
    target = "position" if metric == "error_px" else "vertical"
    _, ax = plt.subplots()
    result.plot_layers(metric, target, ax=ax)
    names = ax.get_legend_handles_labels()[1]
    figure = result.plot_layers(metric, target)
    assert names == [text.get_text() for text in figure.legends[0].get_texts()]
    assert len(set(names)) == len(names) > 1
    lines = dict(zip(names, ax.get_legend_handles_labels()[0], strict=True))
    for handle in figure.legends[0].legend_handles:
        line = lines[handle.get_label()]
        assert (line.get_color(), line.get_linestyle()) == (
            handle.get_color(), handle.get_linestyle(),
        )  # fmt: skip
    plt.close("all")


def test_names_in_other_scripts_are_drawn_without_a_warning_for_each_sign(tiny, tiny_options):
    result = probe.run(tiny, **tiny_options, name="模型 🦊 $x_1$")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for figure in (result.plot_layers(), result.plot_profile(), result.plot_maps()):
            figure.savefig(io.BytesIO(), bbox_inches="tight")
    plt.close("all")


def test_figures_are_as_wide_as_asked_for(tiny, tiny_options):
    result = probe.run(tiny, **tiny_options | {"targets": ["horizontal", "vertical", "gaussian"]})
    assert result.plot_layers().get_figwidth() == 10.5
    column = result.plot_layers(width=3.3)
    assert column.get_figwidth() == 3.3
    assert len({axes.get_position().x0 for axes in column.axes}) == 1  # one below the other
    assert probe.compare([result, result]).plot_layers(width=6.6).get_figwidth() == 6.6
    with pytest.raises(probe.ProbeError, match="inches above 0"):
        result.plot_layers(width=0)
    plt.close("all")


def test_the_index_links_zoos(tmp_path):
    (tmp_path / "zoo").mkdir()
    (tmp_path / "zoo" / "zoo.json").write_text("{}")
    assert "A zoo" not in write_index(tmp_path).read_text(encoding="utf-8")
    (tmp_path / "zoo" / "index.html").write_text("")
    assert '<a href="zoo/index.html">A zoo</a>' in write_index(tmp_path).read_text(encoding="utf-8")


def test_figures_within_pages_are_small_and_whole(seeded):
    for figure in (layer_figure(seeded.table, "spc", "vertical"), seeded.plot_maps()):
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None})
        before = file.getvalue()[file.getvalue().index("<svg") :]
        after = slim(before)
        assert len(after) < 0.9 * len(before) and slim(after) == after
        referred = set(re.findall(r'(?:href="|url\()#([^")]+)', after))
        assert referred <= set(re.findall(r'\sid="([^"]+)"', after))
        assert re.findall(r">([^<>\n]+)</text>", after) == re.findall(r">([^<>\n]+)</text>", before)
        paths = [re.findall(r' d="([^"]*)"', text) for text in (before, after)]
        numbers = [[float(n) for n in re.findall(r"-?\d+\.?\d*", " ".join(d))] for d in paths]
        np.testing.assert_allclose(*numbers, atol=0.051)
    plt.close("all")
