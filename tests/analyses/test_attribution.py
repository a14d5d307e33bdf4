"""Attribution: what single calls and sides bring, that shared work changes no bit, and that the
model is left as it was.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from matplotlib.figure import Figure
from pandas.testing import assert_frame_equal
from torch import nn

import probe
from probe.analyses.attribution.attribution import Attribution, attribute, load_attribution
from probe.records.attribution import COLUMNS
from probe.report.figures.attribution import plot_attribution
from probe.runner import job
from probe.scores.metrics import METRICS

SMALL = {"train_images": 16, "test_images": 16, "image_size": 32, "progress": False}
LITE = "tf_efficientnet_lite0"
NUMBERS = ["value", "low", "high"]


def seeded(make: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(4)
        return make()


def network(*more: nn.Module, pad: int = 1) -> nn.Sequential:
    """Two convolutions, of which the first pads, and more."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=pad), nn.ReLU(), nn.Conv2d(8, 8, 4, 4), nn.ReLU(), *more
    )


def two() -> nn.Sequential:
    def make() -> nn.Sequential:
        last = nn.Conv2d(12, 12, 5, padding=2)
        return network(nn.Conv2d(8, 12, 3, padding=1), nn.ReLU(), last)

    return seeded(make)


def pick(table: pd.DataFrame, unit: str, keeps: str, **other: str) -> pd.DataFrame:
    found = table[(table["unit"] == unit) & (table["keeps"] == keeps)]
    for column, value in other.items():
        found = found[found[column] == value]
    return found.set_index(["target", "metric"])


@pytest.fixture(scope="module")
def found() -> Attribution:
    options = SMALL | {"train_images": 48, "test_images": 32}
    return attribute(two(), "6", ["horizontal", "vertical"], name="net", **options)


# ---------------------------------------------------------------- what the table says


def test_only_calls_that_run_before_the_layer_has_fired_count():
    table = attribute(two(), "3", **SMALL).table
    assert set(table.loc[table["kind"] == "call", "unit"]) == {"0"}
    table = attribute(two(), "4", **SMALL).table
    calls = table[table["kind"] == "call"]
    assert list(dict.fromkeys(calls["unit"])) == ["0", "4"]
    assert set(calls["function"]) == {"conv2d"}
    assert (calls["order"] == calls["unit"].map({"0": 1, "4": 2})).all()


def test_the_table_is_tidy(found):
    table = found.table
    assert list(table.columns) == COLUMNS
    keys = ["target", "kind", "unit", "keeps", "metric"]
    assert not table.duplicated(keys).any()
    assert not table.isna().any().any()
    assert len(table) == (2 + 2 * 3 + 2 * 4) * 2 * len(METRICS)
    assert set(table["kind"]) == {"network", "call", "side"}
    assert set(table.loc[table["kind"] == "network", "unit"]) == {"original", "circular"}
    for value, low, high in (NUMBERS, ["effect", "effect_low", "effect_high"]):
        assert (table[low] <= table[value] + 1e-12).all()
        assert (table[value] <= table[high] + 1e-12).all()


def test_an_effect_is_the_paired_difference_to_its_base(found):
    table = found.table
    whole, bare = pick(table, "original", "all"), pick(table, "circular", "none")
    np.testing.assert_allclose(whole["effect"], whole["value"] - bare["value"], atol=1e-12)
    np.testing.assert_allclose(bare["effect"], whole["effect"], atol=1e-12)
    for unit in ("0", "4", "6", "top", "left"):
        only, all_but = pick(table, unit, "only"), pick(table, unit, "all but")
        np.testing.assert_allclose(only["effect"], only["value"] - bare["value"], atol=1e-12)
        np.testing.assert_allclose(all_but["effect"], whole["value"] - all_but["value"], atol=1e-12)


def test_with_one_padded_call_only_it_is_all_and_all_but_it_is_none():
    table = attribute(seeded(network), "3", ["vertical", "gaussian"], **SMALL).table
    columns = [*NUMBERS, "effect", "effect_low", "effect_high"]
    same = (("0", "only", "original", "all"), ("0", "all but", "circular", "none"))
    for unit, keeps, variant, all_or_none in same:
        assert_frame_equal(
            pick(table, unit, keeps)[columns],
            pick(table, variant, all_or_none)[columns],
            check_exact=True,
        )


def test_a_call_that_pads_nothing_in_effect_changes_nothing():
    """The second branch ends in zeros: its padding can't matter, alone or missing."""

    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.dead = network(), nn.Conv2d(8, 8, 3, padding=1)

        def forward(self, x):
            x = self.body(x)
            return x + 0 * self.dead(x)

    table = attribute(seeded(lambda: nn.Sequential(Branches())), "0", **SMALL).table
    assert pick(table, "0.dead", "only")["effect"].abs().max() == 0
    assert pick(table, "0.dead", "all but")["effect"].abs().max() == 0


def test_a_side_encodes_the_axis_that_it_bounds(found):
    spc = found.table[found.table["metric"] == "spc"].set_index(["unit", "keeps", "target"])
    bare = spc.loc["circular"].droplevel(0)["value"]
    assert (bare.abs() < 0.15).all()
    for axis, sides in (("horizontal", ("left", "right")), ("vertical", ("top", "bottom"))):
        other = "vertical" if axis == "horizontal" else "horizontal"
        for side in sides:
            assert spc.loc[(side, "only", axis), "value"] > 0.4
            assert abs(spc.loc[(side, "only", other), "value"]) < 0.2


def test_numbers_are_those_of_a_run():
    """As trained and without padding the same features, readout and scores."""
    options = SMALL | {"targets": "vertical", "layers": ["6"], "weights": "given"}
    run = probe.run(two(), variants=["original", "circular"], **options).table
    table = attribute(two(), "6", **SMALL).table
    for variant, keeps in (("original", "all"), ("circular", "none")):
        mine = pick(table, variant, keeps).droplevel(0)
        rows = run[(run["variant"] == variant) & (run["layer"] == "6")].set_index("metric")
        for metric in METRICS:
            np.testing.assert_allclose(
                mine.loc[metric, NUMBERS].astype(float), rows.loc[metric, NUMBERS].astype(float)
            )


def test_the_seed_gives_the_same_numbers_and_batches_change_only_rounding():
    first = attribute(two(), "6", **SMALL).table
    assert_frame_equal(first, attribute(two(), "6", **SMALL).table, check_exact=True)
    batches = attribute(two(), "6", batch_size=5, **SMALL).table
    np.testing.assert_allclose(first["value"], batches["value"], atol=1e-3)
    assert not first["value"].equals(attribute(two(), "6", seed=1, **SMALL).table["value"])


# ---------------------------------------------------------------- units


class Blocks(nn.Module):
    """Two blocks of two padded convolutions, a pool before them and a bare pad in ``forward``."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2, 1)
        self.pool = nn.MaxPool2d(3, 2, 1)

        def block() -> nn.Module:
            return nn.Sequential(
                nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1)
            )

        self.blocks = nn.ModuleList([block(), block()])
        self.last = nn.Conv2d(8, 8, 3)
        self.feature_info = [
            {"module": "pool", "reduction": 4, "num_chs": 8},
            {"module": "blocks.1", "reduction": 4, "num_chs": 8},
        ]

    def forward(self, x):
        x = self.pool(self.stem(x))
        for block in self.blocks:
            x = x + block(x)
        return self.last(nn.functional.pad(x, (1, 1, 1, 1)))


def test_a_stage_that_ends_after_the_layer_gives_it_nothing():
    """In EfficientNet's ``feature_info`` blocks.5 belongs to the stage that blocks.6 ends."""
    options = SMALL | {"image_size": 64, "train_images": 4, "test_images": 8}
    found = attribute(LITE, "blocks.5.1", weights="random", groups="stages", **options)
    units = list(dict.fromkeys(found.table.loc[found.table["kind"] == "stage", "unit"]))
    assert units == [
        *("conv_stem, blocks.0", "blocks.1", "blocks.2", "blocks.3, blocks.4", "blocks.5")
    ]


@pytest.mark.parametrize(
    ("groups", "units"),
    [
        ("calls", ["stem", "pool", *(f"blocks.{b}.{c}" for b in "01" for c in "02"), "(forward)"]),
        ("blocks", ["stem", "pool", "blocks.0", "blocks.1", "(forward)"]),
        ("stages", ["stem, pool", "blocks.0, blocks.1", "(forward)"]),
    ],
)
def test_calls_go_together_as_asked(groups, units):
    options = SMALL | {"train_images": 4, "test_images": 4}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", probe.ProbeWarning)
        table = attribute(seeded(Blocks), "last", groups=groups, **options).table
    mine = table[table["kind"] == groups.removesuffix("s")]
    assert list(dict.fromkeys(mine["unit"])) == units
    functions = mine.drop_duplicates("unit").set_index("unit")["function"]
    assert functions["(forward)"] == "pad"
    stem = functions[[u for u in units if u.endswith("pool")]].tolist()
    assert stem == (["conv2d, max_pool2d"] if groups == "stages" else ["max_pool2d"])


def test_one_module_that_pads_twice_is_one_unit():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.again = network(), nn.Conv2d(8, 8, 3, padding=1)

        def forward(self, x):
            return self.again(self.again(self.stem(x)))

    shared = attribute(seeded(lambda: nn.Sequential(Twice())), "0", **SMALL).table
    assert list(dict.fromkeys(shared.loc[shared["kind"] == "call", "unit"])) == [
        "0.stem.0",
        "0.again",
    ]
    bare = attribute(seeded(lambda: nn.Sequential(Twice())), "0", share=False, **SMALL).table
    assert_frame_equal(shared, bare, check_exact=True)


# ---------------------------------------------------------------- shared work


@pytest.mark.parametrize(
    ("name", "layer", "groups"),
    [
        ("resnet18", "layer2", "calls"),
        ("tf_efficientnet_lite0", "blocks.4", "blocks"),
        ("densenet121", "features.denseblock1", "blocks"),
        ("regnety_002", "s3", "blocks"),
        ("mobilenetv3_small_100", "blocks.3", "calls"),
        ("convnext_atto", "stages.2", "blocks"),
        ("vgg11", "features.7", "calls"),
        ("inception_v3", "Mixed_5b", "blocks"),
    ],
)
def test_shared_work_changes_no_bit(name, layer, groups):
    options = {"train_images": 2, "test_images": 4, "progress": False, "groups": groups}
    options["image_size"] = {"inception_v3": 96, "vgg11": 32}.get(name, 64)
    model = seeded(lambda: timm.create_model(name)).eval()
    if name == "vgg11":
        model.pre_logits = model.head = nn.Identity()  # 120 M parameters that nothing here uses
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", probe.ProbeWarning)
        shared = attribute(model, layer, **options)
        bare = attribute(model, layer, share=False, **options)
    assert_frame_equal(shared.table, bare.table, check_exact=True)
    cost, without = shared.provenance["cost"], bare.provenance["cost"]
    assert cost["shared_forwards"] > 0 == without["shared_forwards"]
    assert sum(cost.values()) == sum(without.values())


class Notes(nn.Module):
    """Hands something on besides what it returns: what replaces it can't be exact."""

    def __init__(self) -> None:
        super().__init__()
        self.left = None

    def forward(self, x):
        self.left = x.mean((2, 3), keepdim=True)
        return x


class Secretive(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.notes = network(), Notes()
        self.last = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x):
        x = self.notes(self.stem(x))
        return self.last(x) + self.notes.left


def test_where_replaying_would_not_be_exact_modules_run():
    model = seeded(lambda: nn.Sequential(Secretive()))
    shared = attribute(model, "0", **SMALL)
    bare = attribute(seeded(lambda: nn.Sequential(Secretive())), "0", share=False, **SMALL)
    assert_frame_equal(shared.table, bare.table, check_exact=True)


def test_modules_that_write_in_place_do_not_spoil_kept_outputs():
    class InPlace(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.one = network(), nn.Conv2d(8, 8, 3, padding=1)
            self.act, self.two = nn.ReLU(inplace=True), nn.Conv2d(8, 8, 3, padding=1)

        def forward(self, x):
            x = self.stem(x)
            y = self.one(x)
            x += y
            return self.two(self.act(x)) + y

    shared = attribute(seeded(lambda: nn.Sequential(InPlace())), "0", **SMALL)
    bare = attribute(seeded(lambda: nn.Sequential(InPlace())), "0", share=False, **SMALL)
    assert_frame_equal(shared.table, bare.table, check_exact=True)
    assert shared.provenance["cost"]["shared_forwards"] > 0


def test_conditions_that_do_not_fit_together_give_the_same(monkeypatch):
    whole = attribute(two(), "6", **SMALL).table
    monkeypatch.setattr(job, "ROOM", 1)
    assert_frame_equal(whole, attribute(two(), "6", **SMALL).table, check_exact=True)


# ---------------------------------------------------------------- what is left behind


def test_the_model_is_left_as_it_was(state_of):
    model = two()
    model.train()
    model[1].eval()
    before, attributes = state_of(model), [dict(vars(m)) for m in model.modules()]
    attribute(model, "6", **SMALL)
    assert state_of(model) == before
    assert [list(vars(m)) for m in model.modules()] == [list(a) for a in attributes]
    assert not any("forward" in vars(m) for m in model.modules())


class Boom(RuntimeError):
    pass


class Fuse(nn.Module):
    """Blows at one of its runs on so many images or more."""

    def __init__(self, runs: int, images: int) -> None:
        super().__init__()
        self.runs, self.images = [runs], images

    def forward(self, x):
        self.runs[0] -= len(x) >= self.images
        if self.runs[0] == 0:
            raise Boom
        return x


@pytest.mark.parametrize("runs", [1, 2, 12, 20])
def test_also_after_an_exception(runs, state_of):
    fuse = Fuse(runs, images=4)
    model = network(fuse, nn.Conv2d(8, 8, 3, padding=1), fuse, nn.Conv2d(8, 8, 3, padding=1))
    own = model[5].forward = model[5].forward  # a patch of someone else's stays
    before = state_of(model)
    with pytest.raises(probe.ProbeError, match="Boom"):
        attribute(model, "7", batch_size=4, **SMALL)
    assert state_of(model) == before
    assert [name for name, m in model.named_modules() if "forward" in vars(m)] == ["5"]
    assert model[5].forward is own


# ---------------------------------------------------------------- requests that can't be met


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"groups": "call"}, "unknown groups 'call'.*calls, blocks, stages.*Did you mean 'calls'"),
        ({"layer": "7"}, "no layer of Sequential matches '7'"),
        ({"layer": ["0"]}, "layer: expected the name of one module"),
        ({"layer": "*"}, "layer: expected the name of one module, got '\\*', which stands for 7"),
        ({"target": "diagonal"}, "unknown target 'diagonal'"),
        ({"train_images": 1}, "train_images: expected a whole number of at least 2, got 1"),
        ({"weights": "mine.pth"}, "a module brings its own"),
        ({"weights": ["given"]}, "weights: expected"),
        ({"stimuli": "leafs"}, "unknown stimuli"),
    ],
)
def test_what_is_wrong_is_said(change, words):
    options = {"layer": "6", **SMALL, **change}
    with pytest.raises(probe.ProbeError, match=words):
        attribute(two(), **options)


def test_without_padding_there_is_nothing_to_attribute():
    with pytest.raises(probe.ProbeError, match="no padded call runs before layer '2'"):
        attribute(network(pad=0), "2", **SMALL)
    with pytest.raises(probe.ProbeError, match="expected a timm name or a torch module, got 3"):
        attribute(3, "2")


def test_stimuli_that_do_not_tile_are_a_caution():
    images = torch.rand(24, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    options = {"stimuli": images, "train_images": 16, "test_images": 8, "progress": False}
    with pytest.warns(probe.ProbeWarning, match="do not tile"):
        found = attribute(two(), "6", **options)
    assert any("do not tile" in text for text in found.provenance["warnings"])


# ---------------------------------------------------------------- words, files, figures


def test_files_come_back_as_they_went(found, tmp_path):
    folder = found.save(tmp_path / "a" / "b")
    assert sorted(p.name for p in folder.iterdir()) == ["attribution.csv", "attribution.json"]
    again = load_attribution(folder)
    assert_frame_equal(again.table, found.table, check_exact=True, check_dtype=False)
    assert again.summary() == found.summary()
    assert again.provenance == found.provenance
    assert {"options", "backbone", "cost", "versions", "seconds"} <= set(again.provenance)
    (folder / "attribution.csv").write_text("a,b\n1,2\n")
    with pytest.raises(probe.ProbeError, match="can't be read"):
        load_attribution(folder)
    with pytest.raises(probe.ProbeError, match=r"attribution\.json is missing"):
        load_attribution(tmp_path)


def made(only: list[float], all_but: list[float]) -> pd.DataFrame:
    """A table by hand: 0.9 as trained, 0 without padding, half-widths of intervals 0.05."""
    rows = [("network", "original", 1, "all", 0.9), ("network", "circular", 2, "none", 0.0)]
    for order, (a, b) in enumerate(zip(only, all_but, strict=True), 1):
        rows += [("call", f"conv{order}", order, "only", a)]
        rows += [("call", f"conv{order}", order, "all but", b)]
    for order, side in enumerate(("top", "bottom", "left", "right"), 1):
        rows += [("side", side, order, "only", 0.4), ("side", side, order, "all but", 0.8)]
    table = pd.DataFrame(rows, columns=["kind", "unit", "order", "keeps", "value"])
    more = table["keeps"].isin(["only", "all"])
    table["effect"] = table["value"].where(more, 0.9 - table["value"])
    for column in ("value", "effect"):
        low, high = ("low", "high") if column == "value" else ("effect_low", "effect_high")
        table[low], table[high] = table[column] - 0.05, table[column] + 0.05
    fixed = {"model": "net", "weights": "given", "stimuli": "leaves", "readout": "ridge"}
    fixed |= {"layer": "last", "target": "vertical", "function": "conv2d", "metric": "spc"}
    return table.assign(**fixed)[COLUMNS]


def test_the_summary_names_what_is_enough_and_what_is_needed():
    first, enough, needed, *sides = Attribution(
        made([0.1, 0.8, 0.85], [0.9, 0.88, 0.3]), {}
    ).summary()
    assert first == (
        "Layer last of net (given weights): SPC for its vertical position is 0.90 [0.85, 0.95] as "
        "trained, 0.00 [−0.05, 0.05] without padding."
    )
    assert enough.startswith("2 of 3 padded calls are enough alone")
    assert enough.index("conv3") < enough.index("conv2")
    assert "conv1" not in enough
    assert needed.startswith("1 of 3 padded calls is needed")
    assert "without conv3 (SPC 0.30" in needed
    assert "top 0.40" in sides[0] and "left 0.80" in sides[1]
    _, enough, needed, *_ = Attribution(made([0.1, 0.2], [0.9, 0.89]), {}).summary()
    assert enough.startswith("None of 2 padded calls is enough alone")
    assert "the most comes from conv2" in enough
    assert needed.startswith("None of 2 padded calls is needed")
    assert "SPC is 0.89 [0.84, 0.94] or more" in needed


def test_where_padding_does_nothing_the_summary_says_so():
    table = made([0.0], [0.0])
    network = table["kind"] == "network"
    table.loc[network, ["effect", "effect_low", "effect_high"]] = (0.01, -0.02, 0.04)
    assert Attribution(table, {}).summary()[1:] == [
        "Padding makes no clear difference to its vertical position there."
    ]


def test_the_figure_has_a_row_for_each_unit_and_each_side(found):
    figure = found.plot()
    assert isinstance(figure, Figure)
    assert len(figure.axes) == 4  # calls and sides, for two targets
    labels = [[tick.get_text() for tick in axes.get_yticklabels()] for axes in figure.axes]
    assert ["0", "4", "6"] in labels
    assert ["top", "bottom", "left", "right"] in labels
    assert found.plot("mae").axes[-1].get_xlabel() == "Mean absolute error"
    with pytest.raises(probe.ProbeError, match="unknown metric"):
        found.plot("spearman")
    many = plot_attribution(made([0.1] * 50, [0.9] * 50))
    assert 8 < many.get_size_inches()[1] < 16


# ---------------------------------------------------------------- real weights


def test_the_trained_network_has_its_position_from_top_and_bottom(lite):
    found = attribute(
        lite.model,
        "blocks.5",
        groups="stages",
        train_images=16,
        test_images=12,
        image_size=128,
        mean=lite.mean,
        std=lite.std,
        progress=False,
    )
    spc = found.table[found.table["metric"] == "spc"].set_index(["unit", "keeps"])["value"]
    assert spc["original", "all"] > 0.9
    assert abs(spc["circular", "none"]) < 0.15
    units = found.table.loc[found.table["kind"] == "stage", "unit"]
    names = ["conv_stem, blocks.0", "blocks.1", "blocks.2", "blocks.3, blocks.4", "blocks.5"]
    assert list(dict.fromkeys(units)) == names
    assert spc["blocks.5", "only"] > 0.8
    for side in ("top", "bottom"):
        assert spc[side, "only"] > 0.8
    for side in ("left", "right"):
        assert abs(spc[side, "only"]) < 0.2
