"""Scenes, the network and the experiment: what equivariance forbids, and what borders allow."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import probe
from probe.analyses.ladder.rungs import instance_rungs
from probe.instances import (
    BORDERS,
    CLASSES,
    InstanceStudy,
    OrdinaryScenes,
    SegmentationNetwork,
    TwinScenes,
    discriminative_terms,
    names,
    run_instances,
    training,
)
from probe.instances import settings as chosen_settings
from probe.instances import study as studies

TINY = {"seeds": 1, "quick": True, "steps": 2, "workers": 1, "progress": False}


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        few = {
            kind: chosen_settings.TrainingSettings(steps=2, batch=2, train_scenes=4, test_scenes=4)
            for kind in names.SCENES
        }
        patch.setattr(studies, "QUICK", few)
        yield run_instances(folder=tmp_path_factory.mktemp("instances"), **TINY)


@given(seed=st.integers(0, 1000), across=st.booleans())
def test_twin_scenes_are_unchanged_by_the_shift_that_carries_one_copy_to_the_next(seed, across):
    shifts = ((0, 16),) if across else ((16, 0), (0, 16))
    source = TwinScenes((32, 48), seed, shifts=shifts)
    scene = source.labelled("test", 0, 2)
    for shift in shifts:
        for part in (scene.images, scene.classes):
            assert torch.equal(torch.roll(part, shift, (-2, -1)), part)
        moved = torch.roll(scene.instances, shift, (-2, -1))
        assert torch.equal(moved > 0, scene.instances > 0)
        assert not (moved == scene.instances)[scene.instances > 0].any()
    copies = 3 if across else 6
    assert scene.instances.amax((1, 2)).tolist() == [copies] * 2
    sizes = torch.bincount(scene.instances[0].flatten())[1:]
    assert (sizes == sizes[0]).all() and sizes[0] > 10


@pytest.mark.parametrize("kind", [OrdinaryScenes, TwinScenes])
def test_scenes_are_labelled_and_depend_on_seed_split_and_index_alone(kind):
    source = kind((40, 40), 5)
    scene, again = source.labelled("train", 0, 6), kind((40, 40), 5).labelled("train", 4, 6)
    assert torch.equal(scene.images[4:], again.images)
    assert torch.equal(scene.instances[4:], again.instances)
    assert torch.equal(scene.images, source.batch("train", 0, 6))
    assert not torch.equal(scene.images, source.labelled("test", 0, 6).images)
    assert scene.images.min() >= 0 and scene.images.max() <= 1
    things = scene.classes >= chosen_settings.THINGS.start
    assert torch.equal(things, scene.instances > 0)
    for image, kinds in zip(scene.instances, scene.classes, strict=True):
        for number in range(1, int(image.max()) + 1):
            assert len(kinds[image == number].unique()) == 1
    assert set(scene.classes.unique().tolist()) <= set(range(len(CLASSES)))


@given(seed=st.integers(0, 1000), scale=st.floats(0.1, 3))
@settings(max_examples=10)
def test_whatever_its_weights_an_equivariant_network_can_not_tell_copies_apart(seed, scale):
    scene = TwinScenes((24, 24), seed).labelled("test", 0, 2)
    for borders in ("circular", "canvas"):
        network = SegmentationNetwork(borders, dilations=(1, 2, 4), seed=seed).double()
        with torch.no_grad():
            for parameter in network.parameters():
                parameter *= scale
            embedding, _ = network(scene.images.double())
        assert (discriminative_terms(embedding, scene.instances).distance >= 9 - 1e-9).all()
    for borders in ("zeros", "reflect", "coordconv"):
        network = SegmentationNetwork(borders, dilations=(1, 2, 4), seed=seed).double()
        with torch.no_grad():
            embedding, _ = network(scene.images.double())
        rolled = torch.roll(embedding, (12, 0), (2, 3))
        assert (rolled - embedding).abs().max() > 1e-6


def test_a_canvas_is_a_torus_and_weights_are_the_same_over_borders():
    images = OrdinaryScenes((32, 40), 1).labelled("test", 0, 2).images.double()
    networks = {b: SegmentationNetwork(b, seed=3).double() for b in BORDERS}
    with torch.no_grad():
        (one, classes), (other, _) = (networks[b](images) for b in ("circular", "canvas"))
    torch.testing.assert_close(one, other, atol=1e-10, rtol=0)
    assert one.shape == (2, 8, 32, 40) and classes.shape == (2, len(CLASSES), 32, 40)
    weights = networks["circular"].state_dict()
    for borders, network in networks.items():
        state = network.state_dict()
        more = {"layers.0.coord_weight"} if borders == "coordconv" else set()
        assert set(state) - set(weights) == more
        assert all(torch.equal(state[k], v) for k, v in weights.items())
    assert networks["zeros"].reach == sum((1, 2, 4, 8, 4, 2))


@pytest.mark.parametrize("borders", ["zeros", "reflect"])
def test_out_of_reach_of_the_border_nothing_tells_copies_apart(borders):
    setting = chosen_settings.SETTINGS["large"]
    scene = setting.source("large", 0).labelled("test", 0, 1)
    network = SegmentationNetwork(borders, dilations=setting.dilations).double()
    with torch.no_grad():
        embedding, _ = network(scene.images.double())
    reach = network.reach
    inner = slice(reach, 128 - reach - 16)
    same, moved = embedding[..., inner], torch.roll(embedding, -16, 3)[..., inner]
    torch.testing.assert_close(same, moved, atol=1e-12, rtol=0)
    edge = (embedding - torch.roll(embedding, -16, 3))[..., :reach]
    assert edge.abs().max() > 1e-6


def test_a_little_training_tells_copies_apart_where_there_is_a_border():
    options = {"seeds": 1, "quick": True, "steps": 120, "progress": False}
    got = run_instances("twins", ["circular", "zeros"], "instance", **options)
    scores = got.table.set_index(["borders", "metric"])["value"]
    assert scores["circular", "distance"] == pytest.approx(9, abs=1e-4)
    assert abs(scores["circular", "pair_f1"] - scores["circular", "chance_pair_f1"]) < 0.02
    assert scores["zeros", "pair_f1"] > 0.9
    assert scores["zeros", "loss"] < 1


def test_tables_are_complete(study):
    table = study.table
    assert list(table.columns) == [*chosen_settings.KEYS, "metric", "distance", "objects", "value"]
    cells = set(map(tuple, table[["scenes", "task", "borders"]].values))
    wanted = {(s, t, b) for s in ("twins", "ordinary") for t in names.TASKS for b in BORDERS}
    assert cells == wanted | {("large", "instance", b) for b in BORDERS}
    whole = table[table["distance"].isna()]
    by_task = whole.groupby("task")["metric"].apply(set)
    assert by_task["semantic"] == {"mean_iou"}
    assert {"pair_f1", "best_dice", "average_precision", "count_difference", "loss"} <= by_task[
        "instance"
    ]
    assert {"quality", "segmentation", "recognition", "mean_iou"} <= by_task["panoptic"]
    assert whole["value"].notna().all()
    large = study.by_distance.query("scenes == 'large'")
    assert large["distance"].max() > study.provenance["reach"]["large"]


def test_what_is_found_is_counted_by_distance():
    true = np.zeros((1, 4, 40), np.int64)
    true[0, :, 1:4], true[0, :, 18:22] = 1, 2
    right = np.where(true == 2, 7, 0)
    got = {r["distance"]: r["value"] for r in training.found_by_distance(right, true, 6)}
    assert got == {3.0: 0.0, 21.0: 1.0}
    one = (true > 0).astype(int)
    assert {r["value"] for r in training.found_by_distance(one, true, 6)} == {0.0, 1.0}


def test_the_sentence_on_reach_counts_copies_and_not_distances(study):
    """Nine of ten near copies are found, at two distances; of thirty far ones, at one, none."""
    rows = [(3.5, 9, 1.0), (10.5, 1, 0.0), (17.5, 30, 0.0)]
    table = pd.DataFrame(rows, columns=["distance", "objects", "value"]).assign(
        scenes="large", task="instance", borders="zeros", seed=0, metric="found"
    )
    whole = study.table.query("scenes == 'large' and borders == 'zeros' and distance.isna()")
    few = dataclasses.replace(study, table=pd.concat([whole, table]))
    assert few.summary()[-1].endswith("are found 90 and 0 % with zero padding.")


def test_a_study_is_resumed_and_gives_the_same_bits(tmp_path, monkeypatch):
    options = {**TINY, "scenes": "twins", "tasks": "panoptic", "borders": ["zeros", "coordconv"]}
    whole = run_instances(folder=tmp_path, **options)
    fresh = run_instances(**options)
    pd.testing.assert_frame_equal(fresh.table, whole.table)
    monkeypatch.setattr(studies, "train_network", lambda *a, **k: pytest.fail("trained again"))
    again = run_instances(folder=tmp_path, **options)
    pd.testing.assert_frame_equal(again.table, whole.table)
    loaded = InstanceStudy.load(again.save(tmp_path))
    assert loaded.summary() == whole.summary()
    assert all(np.array_equal(loaded.arrays[k], v) for k, v in whole.arrays.items())


def test_the_ladder_takes_its_rungs_from_the_study(study, tmp_path):
    study.save(tmp_path)
    rungs = instance_rungs(tmp_path)
    assert rungs["border"].tolist() == ["circular", "zeros", "coordconv"]
    assert rungs["chance"].between(0.3, 0.5).all()
    assert instance_rungs(tmp_path / "nowhere") is None


def test_the_page_is_whole_and_asks_for_nothing(study, tmp_path):
    text = study.to_html(tmp_path / "page.html").read_text()
    assert "http" not in text.replace("http://www.w3.org/", "")
    for kind in names.SCENES:
        assert f'id="{kind}"' in text
    assert text.count("<img") == 3 + 3 + 1
    assert len(study.summary()) == 4 + 3 + 2
    with pytest.raises(probe.ProbeError, match="no semantic task on scenes 'large'"):
        study.plot_scenes("large", "semantic")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scenes": "street"}, "unknown scenes 'street'"),
        ({"borders": "partial"}, "unknown borders"),
        ({"tasks": []}, "tasks: expected at least one"),
        ({"scenes": "large", "tasks": "semantic"}, "large scenes have the task instance alone"),
        ({"steps": 1}, "steps: expected a whole number"),
    ],
)
def test_what_can_not_be_done_is_said(change, message):
    with pytest.raises(probe.ProbeError, match=message):
        run_instances(**{**TINY, **change})
