"""Targets and readouts of one's own, scores by image, and readouts that predict again."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import probe
from probe.readouts import Ridge
from probe.targets import target_map

K = {
    "image_size": 32,
    "train_images": 8,
    "test_images": 8,
    "batch_size": 4,
    "variants": "original",
    "layers": ["0", "2"],
    "progress": False,
}


@pytest.fixture(scope="module")
def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(3, 6, 3, 4, 1), nn.ReLU(), nn.Conv2d(6, 8, 3, 2, 1))


def diagonal(u, v):
    return u + v


@pytest.fixture(scope="module")
def result(network):
    half = np.zeros((4, 4))
    half[:, 2:] = 3.0
    return probe.run(
        network, targets={"horizontal": "horizontal", "sum": diagonal, "half": half}, **K
    )


def test_own_targets_are_functions_of_u_and_v_or_maps_and_are_scaled(result, tmp_path):
    assert result.targets == ["horizontal", "sum", "half"]
    across, down = np.meshgrid(np.linspace(0, 1, 32), np.linspace(0, 1, 32))
    assert np.allclose(result.given_maps["sum"], (across + down) / 2)
    assert result.given_maps["half"][:, 0].max() == 0
    assert result.given_maps["half"][:, -1].min() == 1
    assert result.given_maps["half"][0, 15] == pytest.approx(15 / 31 * 3 - 1)
    rows = result.table.query("target == 'sum' and metric == 'spc'")
    assert len(rows) == 3
    loaded = probe.load(result.save(tmp_path))
    for target in result.targets:
        assert np.array_equal(loaded.true_map("2", target), result.true_map("2", target))
    assert "targets=targets" in loaded.command()
    assert "half" in loaded.to_html(tmp_path / "page.html").read_text()


def test_a_named_target_of_ones_own_gives_the_scores_of_the_same_built_in_one(network):
    def across(u, v):
        return u

    given = probe.run(network, targets=across, **K)
    known = probe.run(network, targets="horizontal", **K)
    for metric in ("spc", "mae", "r2"):  # not those whose places are permuted
        one, other = (r.table[r.table["metric"] == metric]["value"] for r in (given, known))
        assert list(one) == list(other)
    exact = probe.run(network, targets=target_map("horizontal", 32, 32), **K)
    assert list(exact.table["value"]) == list(given.table["value"])
    assert exact.targets == ["target 1"]


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (lambda x, y: x, "a function of u and v"),
        (lambda u, v: 1 / (u - u), "finite"),
        (lambda u, v: u[:, 99], "IndexError"),
        (np.zeros(3), "a map of rows and columns"),
        ({"horizontal": diagonal}, "can't be the name"),
        ({"a/b": diagonal}, "no slash"),
        ([diagonal, diagonal], "two are called 'diagonal'"),
        (3, "a map of rows and columns"),
        ([], "expected one or several"),
        ("diagonal", "unknown target"),
    ],
)
def test_what_is_no_target_is_refused_in_a_sentence(network, targets, message):
    with np.errstate(all="ignore"), pytest.raises(probe.ProbeError, match=message):
        probe.run(network, targets=targets, **K)


def test_scores_of_each_image_average_to_the_table_and_are_saved(result, tmp_path):
    keys = ["weights", "variant", "layer", "target", "metric"]
    means = result.per_image.groupby(keys, observed=True)["value"].mean()
    table = result.table.set_index(keys)["value"]
    assert len(means) == len(table)
    assert np.allclose(means.reindex(table.index), table, atol=1e-11)
    assert sorted(result.per_image["image"].unique()) == list(range(8))
    assert result.per_image.query("image < 4")["scene"].nunique() == 1  # shifted copies
    loaded = probe.load(result.save(tmp_path))
    assert loaded.per_image.equals(result.per_image)


def test_error_px_of_each_image(network):
    both = probe.run(network, targets=["horizontal", "vertical"], **K)
    errors = both.per_image.query("metric == 'error_px' and layer == '2'")["value"]
    (row,) = both.table.query("metric == 'error_px' and layer == '2'").to_dict("records")
    assert len(errors) == 8
    assert errors.mean() == pytest.approx(row["value"])


def test_readouts_predict_again_what_the_run_scored(result, network, tmp_path):
    readout = result.readouts["given", "original", "2"]
    assert readout.map.weights.shape == (3, 8)
    (features,) = probe.features(
        network, "leaves", ["2"], count=8, split="test", image_size=32, progress=False
    ).values()
    mean = readout.predict(features).mean(0).numpy()
    for number, target in enumerate(result.targets):
        assert np.allclose(mean[number], result.maps["given", "original", "2", target], atol=1e-6)
    loaded = probe.load(result.save(tmp_path)).readouts
    assert list(loaded) == list(result.readouts)
    again = loaded["given", "original", "2"].predict(features)
    assert torch.equal(again, readout.predict(features))


def test_features_of_given_images_in_memory_or_on_disk_in_any_batches(network, tmp_path):
    images = torch.rand(5, 3, 40, 120, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        first = network[0](images)
        last = network(images)
    found = probe.features(network, images, ["0", "2"], batch_size=2, progress=False)
    assert list(found) == ["0", "2"]
    assert found["0"].shape == (5, 6, 10, 15)  # 30 columns, averaged in twos as readouts see them
    assert np.allclose(found["2"], last, atol=1e-5)
    told = {"whole": True, "out": tmp_path / "new" / "folder", "progress": False}
    on_disk = probe.features(network, images.numpy(), ["0"], **told)["0"]
    assert isinstance(on_disk, np.memmap)
    assert np.allclose(np.load(tmp_path / "new" / "folder" / "0.npy"), first, atol=1e-5)
    (one,) = probe.features(network, images[:1], ["2"], progress=False).values()
    assert np.allclose(one, last[:1], atol=1e-5)


def test_features_that_cannot_be_had(network, tmp_path):
    with pytest.raises(probe.ProbeError, match="split"):
        probe.features(network, split="validation")
    with pytest.raises(probe.ProbeError, match="count: expected a whole number"):
        probe.features(network, count=0)
    with pytest.raises(probe.ProbeError, match="out="):
        probe.features(network, layers=["0"], count=10**9, image_size=32, progress=False)
    (tmp_path / "file").write_text("")
    with pytest.raises(probe.ProbeError, match="can't write"):
        probe.features(network, layers=["0"], image_size=32, out=tmp_path / "file" / "x")


class Middle(Ridge):
    """A readout of one's own: ridge with one regularisation."""

    name = "middle"

    def __init__(self, alpha: float = 1.0) -> None:
        self.alpha = alpha
        super().__init__(1, [alpha])

    def set_params(self, **params):
        raise NotImplementedError


def test_an_instance_of_a_readout_is_taken_and_stays_as_it_was(network, tmp_path):
    given = Middle(100.0)
    result = probe.run(network, targets="horizontal", readout=given, **K)
    assert given.map is None
    assert set(result.table["readout"]) == {"Middle(alpha=100.0)"}
    assert {row["alpha"] for row in result.provenance["alphas"]} == {100.0}
    assert "readout=readout" in result.command()
    assert probe.load(result.save(tmp_path)).readouts == {}  # nobody can say what it was
    same = probe.run(network, targets="horizontal", readout=Ridge(alphas=[100.0]), **K)
    assert list(same.table["value"]) == list(result.table["value"])
    with pytest.raises(probe.ProbeError, match="instance of a class of"):
        probe.run(network, readout=Middle, **K)
    with pytest.raises(probe.ProbeError, match="kernel: the readout that was given has 1"):
        probe.run(network, readout=given, kernel=3, **K)
