"""Random draws that a certificate leaves nothing to read in are not run again."""

from __future__ import annotations

import pytest

import probe
from probe.runner import passes

OPTIONS = {"image_size": 64, "train_images": 16, "test_images": 16, "progress": False}
DRAWS = ("random", "random:1", "random:2")


@pytest.fixture(scope="module")
def drawn():
    return probe.run("resnet10t", weights=DRAWS, layers=["layer1", "layer3"], **OPTIONS)


def test_one_draw_is_run_on_a_torus_and_the_others_are_given_as_chance(drawn):
    proven = [["random:1", "circular"], ["random:2", "circular"]]
    assert drawn.provenance["proven"] == proven
    assert all(drawn.certificates[tuple(pair)].passed for pair in proven)
    table = drawn.table.set_index(["weights", "variant"])
    for pair in proven:
        rows = table.loc[tuple(pair)]
        pixels = rows["layer"] == "input"
        assert (rows.loc[pixels, "difference"] == 0).all()
        rows = rows[~pixels]
        assert (rows["value"] - rows["chance"]).abs().max() < 1e-9
        spc = rows[rows["metric"] == "spc"]
        assert (spc["low"] == 0).all() and (spc["high"] == 0).all()
        own = table.loc[(pair[0], "original")].query("metric == 'spc' and layer != 'input'")
        assert spc["difference"].values == pytest.approx(own["value"].values)
    assert (table.loc[("random", "circular")].query("metric == 'r2'")["value"] != 0).any()
    seen = set(zip(drawn.per_image["weights"], drawn.per_image["variant"], strict=True))
    assert seen == {(w, "original") for w in DRAWS} | {("random", "circular")}
    (said,) = [s for s in drawn.verdict() if "not run" in s]
    assert said.startswith("Without padding the network leaves |SPC| ≤")
    assert "2 more draws were not run, as certificates pass" in said


def test_images_are_shown_to_the_others_alone(drawn, monkeypatch):
    counted = []
    run = passes.stream

    def stream(job, group, *args, **kwargs):
        counted.append([condition.key for condition in group])
        return run(job, group, *args, **kwargs)

    monkeypatch.setattr(passes, "stream", stream)
    again = probe.run("resnet10t", weights=DRAWS, layers=["layer1", "layer3"], **OPTIONS)
    assert {key for group in counted for key in group} == {
        *((w, "original") for w in DRAWS),
        ("random", "circular"),
    }
    assert again.table.equals(drawn.table)


def test_what_is_not_proven_is_run(tiny, tiny_options):
    for options in (
        {"stimuli": "noise", "variants": ["original", "reflect"]},
        {"variants": ["original"]},
    ):
        given = {**tiny_options, "weights": ["given", "random"], **options}
        assert probe.run(tiny, **given).provenance["proven"] == []
