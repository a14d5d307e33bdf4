"""The main job: facts about its results, and what it leaves behind, which is nothing."""

from __future__ import annotations

import copy
import itertools
import re
from collections import OrderedDict

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from PIL import Image
from scipy import stats
from sklearn.linear_model import Ridge
from torch import nn

import probe
from probe.backbones.probed import evaluating, probe_layers
from probe.borders.rules import RULES
from probe.runner import job, rows
from probe.stimuli.opening import open_stimuli
from probe.stimuli.scenes import antithetic_batch


def spc(result: probe.Result, **wanted: str) -> pd.DataFrame:
    rows = result.table[result.table["metric"] == "spc"]
    for column, value in wanted.items():
        rows = rows[rows[column] == value]
    return rows


def test_the_trained_network_knows_where_it_is(result):
    last = spc(result, weights="pretrained", variant="original", layer="blocks.5").set_index(
        "target"
    )
    assert last.loc["vertical", "value"] >= 0.9
    assert last.loc["gaussian", "value"] >= 0.9
    random_last = spc(result, weights="random", variant="original", layer="blocks.6")
    assert (random_last["value"] >= 0.8).all()


def test_on_a_torus_there_is_no_position_to_find(result):
    bare = spc(result, variant="circular")
    assert len(bare) == 3 * 4 * 5
    assert (bare["value"].abs() <= 0.1).all()
    contains = (bare["low"] <= 0) & (bare["high"] >= 0)
    assert contains.mean() >= 0.85  # 0.95 on average; cells share their images
    for (_, variant), certificate in result.certificates.items():
        assert certificate.passed == (variant == "circular")


def test_the_table_is_tidy(result):
    keys = "model weights variant stimuli readout layer depth channels height width target metric"
    table = result.table
    assert list(table.columns)[:12] == keys.split()
    assert list(table.columns)[12:15] == ["value", "low", "high"]
    layers = ["input", "blocks.3", "blocks.5", "blocks.6"]
    assert result.layers == layers
    assert len(table) == 3 * 2 * 4 * (5 * 5 + 1)
    assert set(table["metric"]) == {"spc", "mae", "r2", "control", "selectivity", "error_px"}
    always = [*keys.split(), "value", "low", "high", "chance"]
    assert not table[always].isna().any().any()
    assert not table.duplicated(keys.split()).any()
    assert (table["low"] <= table["value"] + 1e-12).all()
    assert (table["value"] <= table["high"] + 1e-12).all()
    assert len(result.maps) == 3 * 2 * 4 * 5
    assert result.maps["pretrained", "circular", "blocks.6", "gaussian"].shape == (7, 7)
    assert result.true_map("blocks.3", "vertical").shape == (14, 14)
    with pytest.raises(probe.ProbeError, match=r"blocks\.3"):
        result.true_map("blocks.0", "vertical")


def test_random_weights_are_drawn_anew_for_each_seed(result):
    prints = {b["weights"]: b["sha256"] for b in result.provenance["backbones"]}
    assert len(set(prints.values())) == 3
    again = probe.load_backbone("tf_efficientnet_lite0", "random:1", seed=0)
    assert again.sha256 == prints["random:1"]
    moved = probe.load_backbone("tf_efficientnet_lite0", "random", seed=1)
    assert moved.sha256 == prints["random:1"]


def test_differences_are_paired_and_shares_are_of_what_lies_beyond_chance(result):
    table = result.table.set_index(["weights", "variant", "layer", "target", "metric"])
    original, bare = table.xs("original", level=1), table.xs("circular", level=1)
    assert original["difference"].isna().all()
    apart = original["value"] - bare["value"]
    np.testing.assert_allclose(bare["difference"], apart, atol=1e-9)
    known = bare["padding_share"].notna()
    beyond = original["value"] - original["chance"]
    np.testing.assert_allclose(bare["padding_share"][known], (apart / beyond)[known], atol=1e-9)
    deep = bare.sort_index().loc["pretrained", "blocks.5"]
    for target in ("horizontal", "vertical", "gaussian"):
        for metric in ("spc", "mae", "r2"):
            row = deep.loc[target, metric]
            assert row["padding_share"] == pytest.approx(1, abs=0.1)
            assert row["padding_share_low"] <= row["padding_share"] <= row["padding_share_high"]
        assert deep.loc[(target, "spc"), "difference_low"] > 0.7
    # The input is the same under every variant, and knows nothing.
    pixels = bare.xs("input", level="layer")
    assert (pixels[["difference", "difference_low", "difference_high"]] == 0).all(axis=None)
    assert pixels["padding_share"].isna().all()
    assert len(result.differences) == int(table["difference"].notna().sum())
    np.testing.assert_allclose(
        result.differences["original"] - result.differences["value"],
        result.differences["difference"],
    )


def test_selectivity_is_what_the_control_task_leaves(result):
    wide = result.table.pivot_table(
        index=["weights", "variant", "layer", "target"], columns="metric", values="value"
    ).drop(index="position", level="target")
    np.testing.assert_allclose(wide["selectivity"], wide["spc"] - wide["control"], atol=1e-9)
    assert wide.loc["pretrained", "original", "blocks.5", "vertical"]["selectivity"] > 0.4


def test_the_localisation_error_is_in_pixels_with_its_chance_level(result):
    rows = result.table.query("metric == 'error_px'").set_index(["weights", "variant", "layer"])
    chance = rows.loc[("pretrained", "original", "blocks.5"), "chance"]
    assert chance == pytest.approx(224 * 0.4, rel=0.05)  # median distance from the centre
    assert rows.loc[("pretrained", "original", "blocks.5"), "value"] < 0.5 * chance
    bare = rows.xs("circular", level="variant")
    np.testing.assert_allclose(bare["value"], bare["chance"], rtol=0.1)


def test_the_profile_adds_up_to_the_mean_absolute_error(result):
    mae = result.table.query("metric == 'mae'").set_index(["weights", "variant", "layer", "target"])
    keys = ["weights", "variant", "layer", "target"]
    rows = result.profile.assign(total=result.profile["error"] * result.profile["places"])
    sums = rows.groupby(keys)[["total", "places"]].sum()
    np.testing.assert_allclose(
        sums["total"] / sums["places"], mae.loc[sums.index, "value"], atol=1e-9
    )
    deep = result.profile.query("layer == 'blocks.6' and target == 'vertical'")
    assert sorted(set(deep["distance"])) == [16, 48, 80, 112]
    assert set(deep["places"]) == {24, 16, 8, 1}


def test_the_pattern_is_the_mean_map_and_knows_its_noise(result):
    for (_, variant, layer), pattern in result.pattern.items():
        assert pattern.eta2.max() <= 1
        assert len(pattern.eta2) == len(pattern.channels) == len(pattern.mean)
        if variant == "circular" or layer == "input":
            assert abs(pattern.snr) < 0.02
        else:
            assert pattern.snr > 0.02
    original = result.pattern["pretrained", "original", "blocks.5"]
    bare = result.pattern["pretrained", "circular", "blocks.5"]
    np.testing.assert_allclose(bare.difference, original.mean - bare.mean, atol=1e-4)
    assert bare.difference_snr == pytest.approx(original.snr, rel=0.1)
    best = original.tuned(1)[0]
    assert original.eta2[best] == original.eta2.max()
    table = result.channels
    assert table.query("weights == 'pretrained' and variant == 'original' and layer == 'blocks.5'")[
        "eta2"
    ].max() == pytest.approx(original.eta2[best])


def test_scores_and_maps_are_those_of_a_fit_on_stacked_features(tiny, tiny_options):
    """The whole way again by hand: features, scikit-learn's ridge, scipy's SPC."""
    got = probe.run(tiny, variants="circular", targets="gaussian", **tiny_options)
    source = open_stimuli("leaves", (64, 64), 0)
    kept: dict[str, list[torch.Tensor]] = {"train": [], "test": []}
    with evaluating(tiny), probe.padding("circular"):
        for split, images in (
            ("train", source.batch("train", 0, 12)),
            ("test", antithetic_batch(source, 0, 8, stride=32)),
        ):
            taps = probe_layers(tiny, ["stages.2"], images)
            taps.run(tiny, images, lambda _, f, split=split: kept[split].append(f.clone()))
    flat = {k: v[0].permute(0, 2, 3, 1).reshape(-1, 16).double().numpy() for k, v in kept.items()}
    mean, deviation = flat["train"].mean(0), flat["train"].std(0)
    alive = deviation > 0
    z = {k: (v[:, alive] - mean[alive]) / deviation[alive] for k, v in flat.items()}
    alpha = next(a["alpha"] for a in got.provenance["alphas"] if a["layer"] == "stages.2")
    truth = got.true_map("stages.2", "gaussian").ravel()
    model = Ridge(alpha=alpha * len(z["train"])).fit(z["train"], np.tile(truth, 12))
    predictions = model.predict(z["test"]).reshape(8, -1)
    got_map = got.maps["given", "circular", "stages.2", "gaussian"]
    np.testing.assert_allclose(got_map, predictions.mean(0).reshape(8, 8), atol=1e-5)
    expected = np.mean([stats.spearmanr(p, truth).statistic for p in predictions])
    value = spc(got, layer="stages.2")["value"].item()
    assert value == pytest.approx(expected, abs=0.02)  # rounding may swap near ties


def test_the_same_seed_gives_the_same_bits_and_batches_change_only_rounding(tiny, tiny_options):
    first = probe.run(tiny, **tiny_options)
    again = probe.run(tiny, **tiny_options)
    pd.testing.assert_frame_equal(first.table, again.table, check_exact=True)
    assert all(np.array_equal(first.maps[k], again.maps[k]) for k in first.maps)
    other = probe.run(tiny, **{**tiny_options, "batch_size": 12})
    for key, values in first.maps.items():
        np.testing.assert_allclose(values, other.maps[key], atol=1e-3)
    seeded = probe.run(tiny, **tiny_options, seed=1)
    assert not first.table["value"].equals(seeded.table["value"])


class Boom(RuntimeError):
    pass


def test_the_run_leaves_everything_as_it_was(tiny, tiny_options, state_of):
    tiny.train()
    tiny.stages[1].eval()
    before = state_of(tiny)
    probe.run(tiny, **tiny_options)
    assert state_of(tiny) == before


@pytest.mark.parametrize("precision", ["highest", "high", "medium"])
def test_also_with_torchs_precision_set(tiny, tiny_options, precision):
    """A run is exact, whatever the process was set to, and the setting stays."""
    exact = probe.run(tiny, **tiny_options).table
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision(precision)
        seen = probe.run(tiny, **tiny_options).table
        assert torch.get_float32_matmul_precision() == precision
    finally:
        torch.set_float32_matmul_precision(before)
    pd.testing.assert_frame_equal(seen, exact, check_exact=True)


@pytest.mark.parametrize("call", [1, 4, 9, 14])
def test_also_after_an_exception_inside(tiny, tiny_options, call, monkeypatch, state_of):
    """In the dry run, the certificates, the training pass, the test pass."""
    forward, calls = nn.BatchNorm2d.forward, []

    def failing(self, x):
        calls.append(x)
        if len(calls) == 3 * call:
            raise Boom
        return forward(self, x)

    tiny.train()
    before = state_of(tiny)
    monkeypatch.setattr(nn.BatchNorm2d, "forward", failing)
    with pytest.raises((Boom, probe.ProbeError)):
        probe.run(tiny, **{**tiny_options, "variants": ("circular", "reflect")})
        raise Boom  # the dry run tries a second memory format
    assert state_of(tiny) == before


def test_every_variant_runs_and_only_borders_differ(tiny, tiny_options):
    variants = [*RULES, "canvas"]
    options = {**tiny_options, "layers": ["stages.0", "stages.1"]}
    got = probe.run(tiny, variants=variants, **options)
    values = {v: spc(got, variant=v)["value"].to_numpy() for v in variants}
    np.testing.assert_allclose(values["zeros"], values["original"], atol=1e-6)
    values = {v: values[v][5:] for v in variants}  # the pixels are the same to all
    others = [v for v in variants if v not in ("original", "canvas")]
    for one, other in itertools.combinations(others, 2):
        assert not np.allclose(values[one], values[other], atol=1e-3), (one, other)
    heights = {v: spc(got, variant=v)["height"].to_numpy()[5:] for v in ("original", "valid")}
    assert (heights["valid"] < heights["original"]).all()
    removed = {v for (_, v), c in got.certificates.items() if c.passed}
    assert removed == {"circular", "valid", "canvas"}


def test_on_periodic_images_a_canvas_is_a_torus(tiny, tiny_options):
    got = probe.run(tiny, variants=["circular", "canvas"], **tiny_options)
    torus, canvas = (spc(got, variant=v)["value"].to_numpy() for v in ("circular", "canvas"))
    np.testing.assert_allclose(canvas, torus, atol=1e-5)
    certificate = got.certificates["given", "canvas"]
    assert certificate.contact == 0
    assert certificate.margin == got.provenance["options"]["margin"] > 0


def test_a_canvas_runs_no_more_pixels_at_a_time_and_says_its_cost(tiny, tiny_options):
    pixels = []

    class Recorder(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            pixels.append(x.shape[0] * x.shape[2] * x.shape[3])
            return x

    model = copy.deepcopy(tiny)
    model.stages[0].insert(0, Recorder())
    options = {**tiny_options, "batch_size": 8, "image_size": 32}
    with pytest.warns(probe.ProbeWarning, match=r"has 25 times .*; margin=32 halves"):
        got = probe.run(model, variants="canvas", margin=64, **options)
    assert got.certificates["given", "canvas"].margin == 64
    assert max(pixels) <= 2 * 160**2  # the certificate's two images


def test_a_canvas_with_too_small_a_margin_says_what_remains(tiny, tiny_options):
    deep = nn.Sequential(tiny.stages, *(nn.Conv2d(16, 16, 3, padding=1) for _ in range(5)))
    options = {**tiny_options, "layers": ["5"]}
    got = probe.run(deep, variants="canvas", margin=32, **options)
    certificate = got.certificates["given", "canvas"]
    assert certificate.contact > 0
    assert not certificate.passed
    assert any("still reaches" in sentence for sentence in got.verdict())
    with pytest.raises(probe.ProbeError, match="multiple of the network's stride"):
        probe.run(deep, variants="canvas", margin=33, **options)


def test_without_padding_a_layer_is_probed_where_it_lies(tiny, tiny_options):
    got = probe.run(tiny, variants=["original", "valid"], **tiny_options)
    whole, middle = (got.true_map("stages.2", "vertical", v)[:, 0] for v in ("original", "valid"))
    assert len(middle) < len(whole)
    assert middle[0] > whole[0]
    assert middle[-1] < whole[-1]
    np.testing.assert_allclose(middle.mean(), whole.mean(), atol=0.02)
    assert got.maps["given", "valid", "stages.2", "vertical"].shape == (len(middle),) * 2
    # Of the deeper layers a difference would be one between the whole and its middle.
    assert set(got.differences["layer"]) == {"input", "stages.0"}
    quoted = " ".join(got.verdict())
    assert "came from padding" not in quoted
    if "to within" in quoted:
        assert "px of the middle alone, where chance is" in quoted


def test_what_images_show_is_no_false_positive(tiny, tiny_options):
    """A vertical gradient in every image: intervals without padding should not contain 0."""
    ramp = torch.linspace(0, 1, 64)[:, None].expand(20, 3, 64, 64)
    noise = torch.rand(20, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with pytest.warns(probe.ProbeWarning, match="do not tile"):
        got = probe.run(tiny, stimuli=0.8 * ramp + 0.2 * noise, **tiny_options)
    quoted = " ".join(got.verdict())
    assert re.search(r"of \d+ intervals that hold at once (one excludes|\d+ exclude) 0", quoted)
    assert "certificate says" not in quoted
    assert "−0 %" not in quoted


def test_noise_beyond_the_edge_does_not_depend_on_the_batch(tiny, tiny_options):
    tables = [
        probe.run(tiny, variants="noise", **{**tiny_options, "batch_size": size}).table["value"]
        for size in (5, 12)
    ]
    np.testing.assert_allclose(*tables, atol=1e-4)


def test_photographs_on_a_canvas_are_the_same_photographs(tmp_path):
    rng = np.random.default_rng(0)
    for name in "abcdef":
        pixels = rng.integers(0, 256, (160, 240, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    options = {"train_images": 4, "test_images": 2, "margin": 32}
    source = open_stimuli(tmp_path, (64, 96), 3, **options)
    wide = source.batch("train", 0, 4, 32)
    assert wide.shape == (4, 3, 128, 160)
    assert torch.equal(wide[:, :, 32:-32, 32:-32], source.batch("train", 0, 4))
    assert torch.equal(wide[:, :, 16:-16, 16:-16], source.batch("train", 0, 4, 16))
    with pytest.raises(probe.ProbeError, match="margin of 33"):
        source.batch("train", 0, 4, 33)


def test_a_canvas_needs_a_margin_to_show(tiny, tiny_options):
    images = torch.rand(20, 3, 64, 64)
    with pytest.raises(probe.ProbeError, match="pass larger images"):
        probe.run(tiny, variants="canvas", stimuli=images, **tiny_options)
    wide = torch.rand(20, 3, 64 + 64, 64 + 64)
    got = probe.run(tiny, variants=["original", "canvas"], stimuli=wide, **tiny_options, margin=32)
    assert got.certificates["given", "canvas"].margin == 32
    with pytest.raises(probe.ProbeError, match="same margin on all sides"):
        probe.run(tiny, stimuli=wide[..., :-1], **tiny_options)


def test_position_embeddings_can_be_taken_out(tiny, tiny_options):
    vit = timm.create_model("test_vit")
    with torch.no_grad():
        vit.pos_embed.mul_(50)
    variants = ["original", "no_pos_embed", "shuffled_pos_embed"]
    options = {"train_images": 12, "test_images": 8, "progress": False, "targets": "vertical"}
    got = probe.run(vit, variants=variants, **options)
    best = spc(got).groupby("variant")["value"].max()
    assert best["original"] > 0.5
    assert best["shuffled_pos_embed"] > 0.5  # another order, as much position
    assert best["no_pos_embed"] < 0.2
    passed = {v: c.passed for (_, v), c in got.certificates.items()}
    assert passed == {"original": False, "no_pos_embed": True, "shuffled_pos_embed": False}
    with pytest.raises(probe.ProbeError, match="the network has no position embedding"):
        probe.run(tiny, variants="no_pos_embed", **tiny_options)


@pytest.mark.parametrize("colour", ["black", "white"])
def test_uniform_images_show_padding_alone(tiny, tiny_options, colour):
    got = probe.run(tiny, stimuli=colour, **tiny_options)
    bare = spc(got, variant="circular")
    assert (bare["value"] == 0).all()  # constant predictions score 0
    padded = spc(got, variant="original", layer="stages.2", target="gaussian")
    assert padded["value"].item() > 0.3 and padded["low"].isna().all()  # one scene
    r2 = got.table.query("metric == 'r2' and variant == 'circular'")["value"]
    np.testing.assert_allclose(r2, 0, atol=1e-9)


def test_stimuli_of_every_kind(tiny, tiny_options, tmp_path):
    options = {**tiny_options, "variants": "original", "targets": ["vertical"]}
    images = torch.rand(20, 3, 64, 64)
    for stimuli in ("noise", "pink", images):
        got = probe.run(tiny, stimuli=stimuli, **options)
        assert len(got.table) == 4 * 5
    del options["image_size"]
    assert probe.run(tiny, stimuli=images, **options).table.equals(got.table)
    with pytest.warns(probe.ProbeWarning, match="do not tile"):
        got = probe.run(tiny, stimuli=images, **{**options, "variants": "circular"})
    assert any("seam" in caution for caution in got.provenance["warnings"])


def test_an_image_size_that_does_not_close_the_torus_is_cautioned(tiny, tiny_options):
    with pytest.warns(probe.ProbeWarning, match="does not close"):
        got = probe.run(tiny, **{**tiny_options, "image_size": (64, 60)})
    assert not got.certificates["given", "circular"].passed


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"variants": "circlar"}, "circular"),
        ({"variants": "circular+reflect"}, "one border rule"),
        ({"variants": "canvas", "margin": 0}, "margin"),
        ({"margin": 32}, "variant canvas"),
        ({"targets": ["vertical", "diagonal"]}, "diagonal"),
        ({"readout": "forest"}, "ridge"),
        ({"train_images": 0}, "train_images.*at least 2.*0"),
        ({"test_images": 0}, "test_images.*at least 1"),
        ({"batch_size": 2.5}, "batch_size"),
        ({"seed": -1}, "seed"),
        ({"image_size": (1, 2, 3)}, "image_size"),
        ({"image_size": 0}, "image_size"),
        ({"layers": ["nothing.*"]}, "nothing"),
        ({"layers": []}, "layers"),
        ({"stimuli": "leafs"}, "leaves"),
        ({"weights": "mine.pth"}, "given"),
        ({"device": "tpu7"}, "device"),
        ({"variants": []}, "variants"),
        ({"variants": None}, "variants"),
        ({"targets": [1]}, "target"),
        ({"layers": None}, "layers"),
        ({"layers": [1]}, "layers"),
        ({"image_size": 64.5}, "image_size"),
        ({"train_images": float("inf")}, "train_images"),
        ({"stimuli": None}, "stimuli"),
        ({"device": "meta"}, "device"),
        ({"mean": "abc"}, "mean"),
        ({"image_size": 30_000_000}, "out of memory"),
    ],
)
def test_bad_input_is_one_clear_sentence(tiny, tiny_options, change, message):
    with pytest.raises(probe.ProbeError, match=message) as caught:
        probe.run(tiny, **{**tiny_options, **change})
    assert "\n" not in str(caught.value)


def test_features_that_are_not_finite_name_the_first_layer(tiny, tiny_options):
    with torch.no_grad():
        tiny.stages[1][0].weight[0, 0, 0, 0] = torch.inf
    with pytest.raises(probe.ProbeError, match=r"first at layer stages\.1 "):
        probe.run(tiny, **tiny_options)


def test_a_module_without_a_name_is_called_by_its_class(tiny, tiny_options):
    got = probe.run(tiny, **tiny_options)
    assert got.model == "Tiny"
    assert got.table["weights"].unique().tolist() == ["given"]
    assert probe.run(tiny, **tiny_options, name="mine").model == "mine"


def test_weights_may_be_a_timm_name_and_files_together(tmp_path):
    name = "mobilenetv3_small_050"
    file = tmp_path / "mine.pth"
    torch.save(probe.load_backbone(name, "random", seed=5).model.state_dict(), file)
    options = {"train_images": 4, "test_images": 4, "image_size": 64, "progress": False}
    got = probe.run(name, weights=[file, "random"], variants="original", **options)
    assert got.table["weights"].unique().tolist() == [str(file), "random"]
    hashes = [b["sha256"] for b in got.provenance["backbones"]]
    assert hashes[0] == probe.load_backbone(name, "random", seed=5).sha256 != hashes[1]


def test_memory_that_runs_out_is_explained(tiny, tiny_options, monkeypatch):
    forward = nn.BatchNorm2d.forward

    def greedy(self, x):
        if len(x) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(self, x)

    monkeypatch.setattr(nn.BatchNorm2d, "forward", greedy)
    with pytest.raises(probe.ProbeError, match=r"batch of 5 images.*smaller batch size"):
        probe.run(tiny, **tiny_options)


def test_targets_that_a_layer_is_too_small_for_are_cautioned(tiny, tiny_options):
    with pytest.warns(probe.ProbeWarning, match=r"at stages\.2 the target gaussian"):
        probe.run(tiny, **{**tiny_options, "image_size": 16})


def test_deep_copies_agree(tiny, tiny_options):
    """Nothing is remembered from one model to the next."""
    a = probe.run(copy.deepcopy(tiny), **tiny_options)
    b = probe.run(tiny, **tiny_options)
    pd.testing.assert_frame_equal(a.table, b.table, check_exact=True)


def test_no_layer_is_called_like_the_input(tiny, tiny_options):
    model = nn.Sequential(OrderedDict(input=nn.Conv2d(3, 4, 3, padding=1), rest=tiny))
    tiny.stages[0][0] = nn.Conv2d(4, 8, 3, 2, 1)
    with pytest.raises(probe.ProbeError, match="'input' is what the control"):
        probe.run(model, **{**tiny_options, "layers": ["input"]})


def test_a_layer_too_small_for_a_kernel_is_named_before_the_long_part(tiny, tiny_options):
    options = {**tiny_options, "image_size": 16, "variants": "original", "kernel": 3}
    with pytest.raises(probe.ProbeError, match=r"layer stages\.2 of .*2 × 2 cells"):
        probe.run(tiny, **options)


def test_where_a_common_grid_lies_is_not_known_without_padding(tiny, tiny_options):
    options = {**tiny_options, "layers": ["stages.0"], "concat": True}
    got = probe.run(tiny, variants=["original", "valid"], **options)
    for table in (got.profile, got.table[got.table["metric"] == "error_px"]):
        assert set(table["variant"]) == {"original"}
    assert {"original", "valid"} == set(got.table["variant"])
    assert got.differences.empty
    numbers = ["distance", "places", "error", "low", "high", "chance"]
    assert set(got.profile.select_dtypes("number")) >= set(numbers)


def test_sums_are_let_go(tiny, tiny_options, monkeypatch):
    """Patterns are computed once all variants of the weights are there, whatever their order."""
    held = []
    find = rows.find_pattern
    monkeypatch.setattr(rows, "find_pattern", lambda *a: held.append(a[2]) or find(*a))
    monkeypatch.setattr(job, "ROOM", 1)
    got = probe.run(tiny, variants=["circular", "original"], **tiny_options)
    assert [sums is None for sums in held] == [False] * 4 + [True] * 4
    assert all(p.difference is not None for k, p in got.pattern.items() if k[1] == "circular")


@pytest.mark.slow
def test_a_ridge_of_neighbourhoods_is_as_good_as_the_published_readout():
    found = {}
    for name, options in (
        ("posenet", {"readout": "posenet"}),
        ("ridge", {"kernel": 3, "concat": True}),
    ):
        got = probe.run(
            "tf_efficientnet_lite0", "pretrained", "original", progress=False, **options
        )
        table = got.table.query("layer == 'concat' and metric == 'spc'").set_index("target")
        assert (table.loc[["horizontal", "vertical", "gaussian"], "value"] >= 0.97).all(), name
        found[name] = table
    assert (found["ridge"]["high"] >= found["posenet"]["value"]).all()


# ------------------------------------------------------------ random weights as a control


def test_every_analysis_opens_closed_branches_and_says_so():
    """In timm's initialisation the blocks of a residual stage would all compute the same."""
    small = {"image_size": 64, "train_images": 4, "test_images": 8, "progress": False}
    with pytest.warns(probe.ProbeWarning, match="opened") as caught:
        result = probe.run(
            "resnet10t", weights=["random", "random:1"], variants="original",
            layers=["layer1"], targets="horizontal", **small,
        )  # fmt: skip
    assert sum("opened" in str(w.message) for w in caught) == 1
    (caution,) = result.provenance["warnings"]
    assert "4 scales and tables that start at about 0 were opened (layer1.0.bn2.weight" in caution
    first, second = result.provenance["backbones"]
    assert "seed 0, with 4 closed branches or tables opened" in first["source"]
    assert "seed 1, with 4 closed branches or tables opened" in second["source"]
    with pytest.warns(probe.ProbeWarning, match="opened"):
        found = probe.attribute("resnet10t", "layer1", weights="random", **small)
    assert found.provenance["warnings"][0] == caution
    assert found.provenance["backbone"]["sha256"] == first["sha256"]


class Overloaded(nn.Module):
    """Fails on more than so many images."""

    def __init__(self, most: int, error: Exception) -> None:
        super().__init__()
        self.conv, self.most, self.error = nn.Conv2d(3, 4, 3, 2, 1), most, error

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if len(x) > self.most:
            raise self.error
        return self.conv(x)


def test_a_network_that_fails_on_the_way_is_told_in_its_own_words(tiny_options):
    options = {**tiny_options, "layers": ["conv"], "variants": "original"}
    with pytest.raises(probe.ProbeError, match=r"failed on images \d+ to \d+: KeyError: 'worn'"):
        probe.run(Overloaded(2, KeyError("worn")), **options)


def test_running_out_of_memory_is_no_refusal():
    with pytest.raises(probe.ProbeError, match="out of memory"):
        probe.certify(Overloaded(0, MemoryError()), "circular", image_size=32)
