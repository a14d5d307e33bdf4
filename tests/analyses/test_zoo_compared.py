"""Networks beside each other: tables for scripts, figures, paired differences, checkpoints."""

from __future__ import annotations

import io
import json

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from typer.testing import CliRunner

import probe
from probe.analyses import zoo as zoos
from probe.cli.main import app
from probe.errors import ProbeError

OPTIONS = {
    "layers": "stages", "targets": ["vertical", "gaussian"], "variants": ["original", "circular"],
    "train_images": 8, "test_images": 8, "image_size": 64, "device": "cpu", "progress": False,
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("zoo") / "zoo"
    probe.zoo(
        ["resnet10t"], folder, weights=["random", "random:1"], engine="inside", report=False,
        **OPTIONS,
    )  # fmt: skip
    return folder


def test_tables_have_the_documented_columns_and_types(folder):
    scores, models = (pd.read_parquet(folder / f"{n}.parquet") for n in ("zoo", "models"))
    assert list(scores.columns) == list(zoos.SCORES)
    assert list(models.columns)[: len(zoos.MODELS)] == list(zoos.MODELS)
    assert scores.attrs["schema"] == models.attrs["schema"] == zoos.SCHEMA
    assert str(models["attempts"].dtype) == "Int64"  # also where no cell has one
    assert str(scores["padding_share"].dtype) == "float64"
    assert {"spc_vertical", "spc_vertical_low", "layer_gaussian"} <= set(models.columns)
    page = (folder / "index.html").read_text()
    assert page.count("resnet10t") >= 2 and "random:1" in page


def test_tables_for_scripts_and_papers(folder, tmp_path):
    words = ["table", str(folder), "--metric", "spc", "--target", "vertical", "--format"]
    done = CliRunner().invoke(app, [*words, "csv"])
    assert done.exit_code == 0, done.exception
    table = pd.read_csv(io.StringIO(done.stdout))
    assert set(table["metric"]) == {"spc"} and set(table["target"]) == {"vertical"}
    assert table["cell"].nunique() == 2
    first = CliRunner().invoke(app, [*words, "markdown"]).stdout.splitlines()
    assert first[0].startswith("| model | weights | variant | layer |") and len(first) > 8
    latex = CliRunner().invoke(app, [*words, "latex"]).stdout
    assert r"\toprule" in latex
    file = tmp_path / "scores.parquet"
    assert CliRunner().invoke(app, [*words, "parquet", "--out", str(file)]).exit_code == 0
    assert len(pd.read_parquet(file)) == len(table)
    models = CliRunner().invoke(app, ["table", str(folder), "--models"]).stdout
    assert len(pd.read_csv(io.StringIO(models))) == 2
    wrong = CliRunner().invoke(app, ["table", str(folder), "--target", "vertica"])
    assert "Did you mean 'vertical'" in str(wrong.exception)
    odd = pd.DataFrame({"model": ["a|b_1"], "weights": ["50%"], "value": [0.5]})
    assert zoos.export(odd, "scores", "markdown").decode().endswith("| a\\|b_1 | 50% | 0.500 |\n")
    assert r"a|b\_1 & 50\% & 0.500" in zoos.export(odd, "scores", "latex").decode()


def test_results_beside_each_other(folder):
    zoo = probe.load(folder)
    both = probe.compare(list(zoo.values()))
    np.testing.assert_allclose(
        sorted(both.models["spc_vertical"]), sorted(zoo.models["spc_vertical"])
    )
    (pair,) = both.pairs("vertical").to_dict("records")
    spc = both.models.set_index("cell")["spc_vertical"]
    assert pair["difference"] == pytest.approx(spc[pair["a"]] - spc[pair["b"]], abs=1e-5)
    assert pair["low"] <= pair["difference"] <= pair["high"]
    images = zoo.pairs("vertical").iloc[0]
    assert images["paired"] and pair["paired"]  # over the same test images
    first, second = (
        zoo[cell]
        .per_image.query(
            "metric == 'spc' and target == 'vertical' and variant == 'original' and layer == @best"
        )["value"]
        .to_numpy()
        for cell, best in zoo.models[["cell", "layer_vertical"]].to_numpy()
    )
    assert images["difference"] == pytest.approx((first - second).mean(), abs=1e-5)
    for drawn in (both.plot_layers(), zoo.plot_layers(targets=["vertical"], hue="family")):
        assert isinstance(drawn, Figure)
    axes = zoo.plot_scatter(x="parameters", y="spc_gaussian").axes[0]
    assert axes.get_xscale() == "log" and axes.get_ylabel() == "Best SPC, gaussian"
    with pytest.raises(ProbeError, match="unknown column for x"):
        zoo.plot_scatter(x="size")
    with pytest.raises(ProbeError, match="at least one"):
        probe.compare([])
    with pytest.raises(ProbeError, match=r"probe\.run returns, got str"):
        probe.compare(["resnet10t"])


def test_a_folder_of_several_runs_is_one_table(folder, tmp_path):
    for name, result in probe.load(folder).items():
        result.save(tmp_path / name)
    done = CliRunner().invoke(app, ["table", str(tmp_path), "--models"])
    assert pd.read_csv(io.StringIO(done.stdout))["weights"].tolist() == ["random", "random:1"]
    with pytest.raises(ProbeError, match="holds no result"):
        zoos.open_compared(tmp_path.parent / "nothing")


def test_a_result_as_json(folder, tmp_path):
    result = next(iter(probe.load(folder).values()))
    summary = json.loads(json.dumps(result.summary, allow_nan=False))
    spc = result.table[(result.table["metric"] == "spc") & (result.table["depth"] > 0)]
    best = summary["best"][0]
    rows = spc[(spc["variant"] == best["variant"]) & (spc["target"] == best["target"])]
    assert best["value"] == rows["value"].max()
    assert summary["verdict"] == result.verdict()
    words = ["--layers", "layer4", "--targets", "vertical", "--image-size", "64"]
    words += ["--train-images", "4", "--test-images", "4", "--variants", "original", "--json"]
    words += ["--weights", "random", "--out", str(tmp_path), "--no-progress", "--device", "cpu"]
    done = CliRunner().invoke(app, ["run", "resnet10t", *words])
    assert json.loads(done.stdout)["model"] == "resnet10t"
    assert "All reports" in done.stderr
