"""The coordinate tasks: canvases, networks, the study and its page."""

from __future__ import annotations

import re

import pandas as pd
import pytest
import torch

import probe
from probe.coordconv import CoordConvStudy, coordinates, run_tasks
from probe.coordconv import study as studies
from probe.coordconv.networks import Finder, Painter, PlainFinder, PlainPainter, build_network
from probe.coordconv.tasks import (
    KEYS,
    METRICS,
    PLACES,
    SIDE,
    centres,
    one_hot,
    pixels,
    positions,
    split_centres,
    squares,
)

TINY = {"seeds": 1, "quick": True, "epochs": 0.004, "workers": 1, "progress": False}


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tasks")
    return run_tasks(folder=folder, **TINY)


def test_splits_share_out_every_centre():
    assert len(centres()) == PLACES**2 == 3136
    for split, sizes in (("uniform", (2509, 627)), ("quadrant", (2352, 784))):
        train, test = split_centres(split, 3)
        assert (len(train), len(test)) == sizes
        assert torch.equal(torch.cat([train, test]).sort()[0], torch.arange(3136))
    held_out = centres()[split_centres("quadrant")[1]]
    assert held_out.amin(0).tolist() == [32, 32] and held_out.amax(0).tolist() == [59, 59]
    one, other = (split_centres("uniform", seed)[1] for seed in (0, 1))
    assert not torch.equal(one, other)
    assert torch.equal(one, split_centres("uniform", 0)[1])


def test_pictures_are_where_they_should_be():
    places = torch.tensor([[4, 59], [20, 31]])
    pictures = one_hot(places)
    assert pictures.sum() == 2
    assert pictures[0, 0, 4, 59] == pictures[1, 0, 20, 31] == 1
    assert pixels(places).tolist() == [4 * 64 + 59, 20 * 64 + 31]
    painted = squares(places)
    assert painted.sum((1, 2)).tolist() == [81, 81]
    assert painted[0, :9, 55:].all()
    # A position is what AddCoords says of its pixel.
    known = coordinates(SIDE, SIDE)
    torch.testing.assert_close(positions(places), known[:, places[:, 0], places[:, 1]].T)


def test_networks_are_of_the_published_kind():
    count = {type(m): sum(p.numel() for p in m.parameters()) for m in (Painter(), Finder())}
    assert count == {Painter: 7555, Finder: 914}
    for network in (Painter(), PlainPainter(4)):
        assert network(torch.zeros(2, 2)).shape == (2, SIDE, SIDE)
    for network in (Finder(), PlainFinder(4)):
        assert network(torch.zeros(2, 1, SIDE, SIDE)).shape == (2, 2)
    # The painter is a stack of 1 × 1 convolutions over [x, y, i, j].
    painter, position = Painter(), torch.tensor([[0.3, -0.7]])
    x = torch.cat(
        [position.view(1, 2, 1, 1).expand(-1, -1, SIDE, SIDE), coordinates(SIDE, SIDE)[None]], 1
    )
    for number, layer in enumerate([painter.first, *painter.rest]):
        x = torch.nn.functional.conv2d(x, layer.weight[:, :, None, None], layer.bias)
        x = x.relu() if number < 4 else x
    torch.testing.assert_close(painter(position), x[:, 0], atol=1e-5, rtol=1e-5)


def test_on_a_torus_a_plain_network_sees_a_pixels_place_within_its_stride_alone():
    network = build_network("regression", "plain", 4, 0).double().eval()
    places = torch.tensor([[13, 22], [13 + 8, 22 - 16], [14, 22]])
    with torch.no_grad(), probe.padding("circular"):
        same, moved, other = network(one_hot(places).double())
    torch.testing.assert_close(same, moved, atol=1e-12, rtol=0)
    assert (same - other).abs().max() > 1e-6
    with torch.no_grad():
        same, moved, _ = network(one_hot(places).double())
    assert (same - moved).abs().max() > 1e-6


def test_without_padding_a_plain_painter_is_what_it_is_on_a_torus():
    network = build_network("rendering", "plain", 4, 0).double().eval()
    position = torch.tensor([[0.3, -0.7]], dtype=torch.float64)
    tiled = position[:, :, None, None].expand(-1, -1, 4, 4)
    with torch.no_grad():
        with probe.padding("valid"):
            without = network.layers(tiled)[:, 0, 1 : 1 + SIDE, 1 : 1 + SIDE]
        with probe.padding("circular"):
            torus = network(position)
        zeros = network(position)
    torch.testing.assert_close(without, torus, atol=1e-12, rtol=0)
    assert (zeros - torus).abs().max() > 1e-6


def test_tables_are_complete(study):
    table = study.table
    assert list(table.columns) == [*KEYS, "parameters", "subset", "metric", "value"]
    kinds = table.groupby("task")[["network", "padding"]].apply(lambda t: set(map(tuple, t.values)))
    plain = {("plain", "zeros"), ("plain", "circular"), ("plain", "valid")}
    assert all(found == {("coordconv", "none"), *plain} for found in kinds)
    counts = table.groupby([*KEYS, "metric"]).size()
    assert (counts == 2).all()  # train and test
    assert len(counts) == (2 + 1 + 1) * 2 * 4  # metrics of tasks, splits, kinds
    assert table["value"].notna().all()
    maps = study.arrays
    assert len(maps) == 3 * 2 * 4
    key = "classification/quadrant/coordconv/none/0/map"
    _, test = split_centres("quadrant")
    rows = table.set_index([*KEYS, "subset", "metric"])["value"]
    value = rows["classification", "quadrant", "coordconv", "none", 0, "test", "accuracy"]
    assert maps[key].ravel()[test].mean() == pytest.approx(value)
    assert set(study.curves["subset"]) == {"train", "test"}


def test_a_study_is_resumed_and_gives_the_same_bits(study, tmp_path, monkeypatch):
    options = {**TINY, "tasks": "regression", "splits": "quadrant"}
    whole = run_tasks(folder=tmp_path, **options)
    same = study.table.query("task == 'regression' and split == 'quadrant'")
    pd.testing.assert_frame_equal(whole.table, same.reset_index(drop=True))
    together = run_tasks(**{**options, "workers": 2})
    pd.testing.assert_frame_equal(together.table, whole.table)
    monkeypatch.setattr(studies, "train_network", lambda *a, **k: pytest.fail("trained again"))
    again = run_tasks(folder=tmp_path, **options)
    pd.testing.assert_frame_equal(again.table, whole.table)
    loaded = CoordConvStudy.load(again.save(tmp_path))
    assert loaded.summary() == whole.summary()


def test_coordinates_are_learnt_in_a_few_steps():
    got = run_tasks(
        "regression", "quadrant", "coordconv", seeds=1, quick=True, epochs=0.5, progress=False
    )
    test = got.table.query("subset == 'test'")["value"].item()
    assert test < 3  # chance is above 20 px


def test_the_page_is_whole_and_asks_for_nothing(study, tmp_path):
    text = study.to_html(tmp_path / "page.html").read_text()
    assert "http" not in text.replace("http://www.w3.org/", "")
    for task in METRICS:
        assert f'id="{task}"' in text
    # For each task two splits over steps and over seconds, panels that a phone can show.
    assert text.count('role="img"') == 3 * 2 * 2
    assert all(float(w) <= 300 for w in re.findall(r'role="img".*?viewBox="0 0 ([\d.]+) ', text))
    kinds = study.table[["task", "split", "network", "padding"]].drop_duplicates()
    assert text.count('at every centre"') == len(kinds)
    assert all(s.split(":")[0] in text for s in study.summary())
    assert study.plot_maps("rendering", 0).axes
    more = study.table[study.table["network"] == "coordconv"].assign(seed=1)
    arrays = {key.replace("/0/map", "/1/map"): value for key, value in study.arrays.items()}
    two = CoordConvStudy(pd.concat([study.table, more]), study.curves, study.arrays | arrays, {})
    assert len(two.plot_maps("rendering", 1).axes) == 3  # two splits of CoordConv, a colour bar
    with pytest.raises(probe.ProbeError, match="seed: the study has 0, got 5"):
        study.plot_maps("rendering", 5)
    with pytest.raises(probe.ProbeError, match="task"):
        study.plot_curves("painting")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tasks": "paint"}, "unknown tasks 'paint'"),
        ({"splits": []}, "splits: expected at least one"),
        ({"paddings": "reflect"}, "unknown paddings"),
        ({"seeds": 0}, "seeds: expected a whole number"),
        ({"workers": 0}, "workers: expected a whole number"),
        ({"epochs": -1}, "epochs: expected a number above 0"),
        ({"epochs": float("inf")}, "epochs: expected a number above 0"),
        ({"device": "tpu"}, "device"),
    ],
)
def test_what_can_not_be_done_is_said(change, message):
    with pytest.raises(probe.ProbeError, match=message):
        run_tasks(**{**TINY, **change})


def test_nothing_is_left_changed():
    state = torch.random.get_rng_state()
    run_tasks("regression", "uniform", "coordconv", **TINY)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.is_grad_enabled()
