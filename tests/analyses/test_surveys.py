"""Surveys: the table, that they go on where they stopped, their sentences and their page."""

from __future__ import annotations

import gc
import os
import re
import signal
import weakref

import pandas as pd
import pytest
import timm
from pandas.testing import assert_frame_equal

import probe
from probe.analyses.survey import survey as surveys
from probe.analyses.survey.page import survey_page
from probe.analyses.survey.survey import file_of, match, survey
from probe.analyses.survey.table import COLUMNS, findings, load_survey
from probe.certificates.certificate import CONTRAST, THRESHOLD

NAMES = ["test_convnext", "test_resnet", "test_vit"]
QUIET = {"progress": False, "device": "cpu", "variants": "circular"}


@pytest.fixture(scope="module")
def surveyed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("survey")
    return survey(NAMES, folder, **QUIET), folder


def made(**columns) -> pd.DataFrame:
    """A table by hand, of certified architectures unless ``columns`` say otherwise."""
    number = len(next(iter(columns.values())))
    usual = {
        "model": [f"net{i}" for i in range(number)],
        "file": "resnet",
        "parameters": 1.5,
        "variant": "circular",
        "status": "certified",
        "reason": "",
        "sources": "",
        "padded_calls": 10,
        "residual": 2e-15,
        "contrast": 0.5,
        "threshold": 1e-8,
        "first_break": "",
        "height": 128,
        "width": 96,
        "shift": "32x48",
        "precision": "float64",
        "seconds": 1.0,
        "timm": "1.0",
    }
    assert list(usual) == COLUMNS
    return pd.DataFrame(usual | columns)


def prohibited(*words, **options):
    raise AssertionError("measured again")


def test_each_architecture_has_a_row_with_what_was_measured(surveyed):
    table, _ = surveyed
    assert list(table.columns) == COLUMNS
    assert list(table["model"]) == NAMES
    assert list(table["file"]) == ["convnext", "resnet", "vision_transformer"]
    assert list(table["status"]) == ["certified", "certified", "not certified"]
    assert set(table["variant"]) == {"circular"}
    assert set(table["timm"]) == {timm.__version__}
    assert set(table["precision"]) == {"float64"}
    assert (table["threshold"] == THRESHOLD).all()
    assert (table["contrast"] > CONTRAST).all()
    certified = table["status"] == "certified"
    assert (table.loc[certified, "residual"] <= THRESHOLD).all()
    assert (table.loc[certified, ["reason", "sources", "first_break"]] == "").all(axis=None)
    vit = table.set_index("model").loc["test_vit"]
    assert vit["reason"] == "position enters at or before pos_drop: position embedding"
    assert vit["sources"] == "position embedding"
    assert vit["first_break"] == "pos_drop"
    assert vit["padded_calls"] == 0
    resnet = table.set_index("model").loc["test_resnet"]
    assert resnet["parameters"] == 0.47
    assert (resnet["height"], resnet["width"], resnet["shift"]) == (128, 128, "32x32")
    assert resnet["padded_calls"] == len(probe.sources("test_resnet", device="cpu"))


def test_the_folder_holds_the_table_and_the_page(surveyed):
    table, folder = surveyed
    assert sorted(p.name for p in folder.iterdir()) == ["survey.csv", "survey.html"]
    assert_frame_equal(load_survey(folder), table)
    assert (folder / "survey.html").read_text() == survey_page(table)


def test_what_is_finished_is_not_done_again(surveyed, monkeypatch):
    table, folder = surveyed
    monkeypatch.setattr(surveys, "prepare", prohibited)
    assert_frame_equal(survey(NAMES, folder, **QUIET), table)
    one = survey("test_vit", str(folder), **(QUIET | {"variants": " circular "}))
    assert list(one["model"]) == ["test_vit"]
    assert len(load_survey(folder)) == 3


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_what_was_finished_before_an_interruption_is_kept(tmp_path, monkeypatch, error):
    prepare, begun = surveys.prepare, []

    def interrupted(name, **options):
        begun.append(name)
        if len(begun) == 2:
            raise error
        return prepare(name, **options)

    monkeypatch.setattr(surveys, "prepare", interrupted)
    with pytest.raises(error):
        survey(NAMES[:2], tmp_path, **QUIET)
    assert list(load_survey(tmp_path)["model"]) == NAMES[:1]
    assert NAMES[0] in (tmp_path / "survey.html").read_text()
    table = survey(NAMES[:2], tmp_path, **QUIET)
    assert begun == [NAMES[0], NAMES[1], NAMES[1]]
    assert list(table["status"]) == ["certified", "certified"]


def test_rows_of_another_timm_are_measured_again(surveyed, tmp_path):
    table, _ = surveyed
    old = table.head(2).assign(timm=["0.1", timm.__version__], status="not run", reason="old")
    old.to_csv(tmp_path / "survey.csv", index=False)
    again = survey(NAMES[:2], tmp_path, **QUIET)
    assert list(again["status"]) == ["certified", "not run"]
    assert list(again["timm"]) == [timm.__version__] * 2


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe\x00",
        b"model,score\nresnet18,3\n",
        b"%PDF-1.4 not a table at all\n\n",
        ",".join(COLUMNS).encode() + b"\nresnet18,resnet,11.69,circular,certif",
        ",".join(COLUMNS).encode() + b"\n" + b",".join([b"x"] * len(COLUMNS)) + b"\n",
    ],
)
def test_a_file_that_is_no_survey_is_left_alone(tmp_path, monkeypatch, content):
    monkeypatch.setattr(surveys, "prepare", prohibited)
    (tmp_path / "survey.csv").write_bytes(content)
    for call in (load_survey, lambda folder: survey("test_resnet", folder, **QUIET)):
        with pytest.raises(probe.ProbeError, match=r"survey\.csv"):
            call(tmp_path)
    assert (tmp_path / "survey.csv").read_bytes() == content
    assert len(list(tmp_path.iterdir())) == 1


def test_each_variant_has_a_row_and_the_folder_holds_both(surveyed, tmp_path, monkeypatch):
    table, folder = surveyed
    (tmp_path / "survey.csv").write_bytes((folder / "survey.csv").read_bytes())
    both = survey("test_vit", tmp_path, progress=False, device="cpu", processes=True)
    assert list(both["variant"]) == ["circular", "no_position"]
    assert list(both["status"]) == ["not certified", "certified"]
    assert set(both["sources"]) == {"position embedding"}
    assert len(load_survey(tmp_path)) == len(table) + 1
    assert findings(both) == [
        "0 of 1 architecture, from 1 file of timm, are certified under circular; 1 are not, 0 "
        "could not be run.",
        "What else lets position in, where one is not certified: position embedding (1).",
        "1 of 1 architecture, from 1 file of timm, is certified under no_position; 0 are not, 0 "
        "could not be run.",
        "Of the 1 in which no source of position that the variant leaves was found, 1 are "
        f"certified (100.0 %), with residuals of at most {both['residual'][1]:.1e}.",
    ]


def test_a_process_that_ends_costs_one_row(monkeypatch):
    prepare = surveys.prepare

    def ended(name, **options):
        if name == "test_vit":
            os.kill(os.getpid(), signal.SIGKILL)
        return prepare(name, **options)

    monkeypatch.setattr(surveys, "prepare", ended)
    table = survey(["test_resnet", "test_vit"], processes=True, **QUIET)
    assert list(table["status"]) == ["certified", "not run"]
    assert "signal 9" in table["reason"][1]


def test_processes_are_refused_where_cuda_is_in_use(tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_initialized", lambda: True)
    with pytest.raises(probe.ProbeError, match="CUDA is in use here already"):
        survey("test_vit", tmp_path / "out", processes=True, **QUIET | {"device": "auto"})
    assert not (tmp_path / "out").exists()
    assert len(survey("test_vit", processes=True, **QUIET)) == 1  # the CPU can be had


def test_there_is_no_survey_to_load(tmp_path):
    with pytest.raises(probe.ProbeError, match="No such file"):
        load_survey(tmp_path)


def test_what_cannot_be_built_does_not_stop_the_others(tmp_path, monkeypatch):
    create = timm.create_model

    def broken(name, *words, **options):
        if name == "test_convnext":
            raise ZeroDivisionError("a bug in a model,\nin two lines")
        return create(name, *words, **options)

    monkeypatch.setattr(timm, "create_model", broken)
    table = survey(NAMES[:2], tmp_path, **QUIET)
    assert list(table["status"]) == ["not run", "certified"]
    row = table.iloc[0]
    assert row["reason"] == "ZeroDivisionError: a bug in a model, in two lines"
    missing = ["parameters", "residual", "contrast", "threshold", "padded_calls", "height"]
    assert row[missing].isna().all()
    assert (row[["sources", "first_break", "shift", "precision"]] == "").all()
    assert_frame_equal(load_survey(tmp_path), table)
    page = (tmp_path / "survey.html").read_text()
    assert "ZeroDivisionError: a bug in a model, in two lines" in page


def test_what_a_variant_does_not_suit_is_not_run():
    table = survey("test_resnet", **(QUIET | {"variants": "no_pos_embed"}))
    assert list(table["status"]) == ["not run"]
    assert "the network has no position embedding" in table["reason"][0]


def test_what_memory_cannot_hold_is_not_run(monkeypatch):
    monkeypatch.setattr(surveys, "prepare", prohibited)
    monkeypatch.setattr(surveys, "free_memory", lambda: 1000)
    table = survey("test_resnet", **QUIET)
    assert list(table["status"]) == ["not run"]
    assert "GiB" in table["reason"][0]


def test_larger_ones_are_left_out(surveyed, tmp_path, monkeypatch):
    table, folder = surveyed
    monkeypatch.setattr(surveys, "prepare", prohibited)
    least = table["parameters"].min()
    small = survey(NAMES, folder, max_parameters=least + 0.01, **QUIET)
    assert list(small["parameters"]) == [least]
    assert len(load_survey(folder)) == 3
    nothing = survey(NAMES, tmp_path / "none", max_parameters=0.01, **QUIET)
    assert nothing.empty
    assert list(nothing.columns) == COLUMNS
    assert not (tmp_path / "none").exists()


def test_names_globs_and_their_order():
    known = timm.list_models()
    assert match("*") == known
    assert match(["test_vit*", "test_resnet", "test_vit"]) == [
        name for name in known if name.startswith("test_vit") or name == "test_resnet"
    ]
    assert file_of("test_vit") == "vision_transformer"
    for unknown in ("resnet8", "no_such*", ""):
        with pytest.raises(probe.ProbeError, match="no architecture of timm matches"):
            survey(["test_resnet", unknown], **QUIET)


def test_unknown_variants(tmp_path):
    with pytest.raises(probe.ProbeError, match="spherical"):
        survey("test_resnet", tmp_path, **(QUIET | {"variants": "spherical"}))
    assert not list(tmp_path.iterdir())


def test_a_network_is_forgotten_before_the_next(monkeypatch):
    prepare, alive, seen = surveys.prepare, [], []

    def watched(name, **options):
        seen.append([reference() is None for reference in alive])
        subject = prepare(name, **options)
        subject.backbone.model.itself = [subject.backbone.model]  # only collection frees it
        alive.append(weakref.ref(subject.backbone.model))
        return subject

    monkeypatch.setattr(surveys, "prepare", watched)
    gc.disable()
    try:
        survey(NAMES[1:], **QUIET)
    finally:
        gc.enable()
    assert seen == [[], [True]]


# ---------------------------------------------------------------- reading


def test_a_table_comes_back_as_it_was(tmp_path):
    table = made(
        model=["null", "nan", "1e5"],
        status=["certified", "not certified", "not run"],
        parameters=[0.1 + 0.2, 1e-30, float("nan")],
        residual=[1.692406515263213e-15, float("inf"), float("nan")],
        contrast=[1 / 3, float("nan"), float("nan")],
        threshold=[1e-8, 1e-4, float("nan")],
        reason=["", 'a "quoted", text\nin two lines', "NA"],
        height=pd.array([128, 64, pd.NA], "Int64"),
        width=pd.array([128, 64, pd.NA], "Int64"),
        padded_calls=pd.array([0, 3, pd.NA], "Int64"),
        shift=["32x32", "0x0", ""],
    )
    table.to_csv(tmp_path / "survey.csv", index=False)
    assert_frame_equal(load_survey(tmp_path), table)


# ---------------------------------------------------------------- sentences


def test_sentences_of_nothing():
    assert findings(made(model=[])) == ["No architecture was surveyed."]


def test_sentences_of_one():
    assert findings(made(model=["net"])) == [
        "1 of 1 architecture, from 1 file of timm, is certified under circular; 0 are not, 0 "
        "could not be run.",
        "Of the 1 in which no source of position besides padding was found, 1 are certified "
        "(100.0 %), with residuals of at most 2.0e-15.",
    ]


def test_sentences_count_statuses_and_sources():
    table = made(
        file=["a", "a", "b", "b", "c", "c"],
        status=["certified"] * 2 + ["not certified"] * 3 + ["not run"],
        sources=["", "resampling", "", "resampling; token mixing", "token mixing", ""],
        residual=[1e-15, 3e-9, 0.1, 0.2, 0.3, float("nan")],
    )
    assert findings(table) == [
        "2 of 6 architectures, from 3 files of timm, are certified under circular; 3 are not, 1 "
        "could not be run.",
        "Of the 2 in which no source of position besides padding was found, 1 are certified "
        "(50.0 %), with residuals of at most 1.0e-15.",
        "What else lets position in, where one is not certified: token mixing (2), resampling (1).",
        "Not certified, though no source besides padding was found: net2.",
    ]


def test_sentences_where_none_passes():
    [_, pure] = findings(made(status=["not certified"] * 3, variant=["zeros"] * 3))
    assert pure.endswith("0 are certified (0.0 %).")
    only = findings(made(status=["not run"], sources=[""]))
    assert len(only) == 1
    assert "1 could not be run" in only[0]


def test_a_sentence_does_not_name_hundreds():
    table = made(status=["certified"] + ["not certified"] * 30)
    assert findings(table)[-1].endswith("net8, ….")


# ---------------------------------------------------------------- the page


def test_the_page_has_every_row_and_the_counts():
    table = made(
        file=["a", "a", "b", "b"],
        status=["certified", "certified", "not certified", "not run"],
        first_break=["", "", "stem.conv", ""],
        reason=["", "", "position enters at or before stem.conv: resampling", "OSError: no disk"],
        sources=["", "", "resampling", ""],
        residual=[0.0, 1e-15, 0.25, float("nan")],
    )
    page = survey_page(table)
    for title, number in {"Certified": 2, "Not certified": 1, "Could not be run": 1}.items():
        assert f'{title}: <span class="count">{number}</span>' in page
    for name in table["model"]:
        assert page.count(f'<td class="model">{name}</td>') == 1
    for sentence in findings(table):
        assert f"<li>{sentence}</li>" in page
    assert "128 × 96" in page
    assert "32 × 48" in page
    assert '<td class="reason">position enters</td>' in page
    assert '<td class="place">stem.conv</td>' in page
    assert "OSError: no disk" in page
    summary = re.findall(r'<th scope="row">(\w)</th>(.*?)</tr>', page)
    assert [(name, re.findall(r">([^<]+)</td>", cells)) for name, cells in summary] == [
        ("a", ["circular", "2", "2", "–", "–"]),
        ("b", ["circular", "2", "–", "1", "1"]),
    ]
    assert "1e-08 in float64" in page
    assert "nan" not in page.lower().replace("number.isnan", "")


def test_the_page_escapes_everything():
    evil = "<script>alert('x')</script>&"
    table = made(status=["certified", "not certified", "not run"])
    for column in ("model", "file", "variant", "reason", "sources", "first_break", "timm"):
        table[column] = evil
    table["precision"] = table["shift"] = evil
    page = survey_page(table)
    assert evil not in page
    assert page.count("<script>") == page.count("</script>") == 1
    assert "&lt;script&gt;alert" in page


def test_the_page_loads_nothing_and_is_whole(surveyed):
    page = survey_page(surveyed[0])
    assert not re.search(r'(?:src|href)="(?!data:|#)', page)
    assert "http" not in page
    for tag in ("table", "div", "tr", "thead", "tbody", "p", "h2", "dl"):
        assert len(re.findall(rf"<{tag}[ >]", page)) == page.count(f"</{tag}>"), tag
    assert page.count("<table") == 3  # none could not be run
    assert '<p class="soft">None.</p>' in page


def test_a_reason_that_says_more_is_kept_whole():
    reason = "position enters at or before stem: resampling"
    table = made(
        status=["not certified"] * 2,
        reason=[reason, "inconclusive: weights hide borders"],
        sources=["position embedding; resampling", ""],
        first_break=["stem", ""],
    )
    page = survey_page(table)
    assert f'<td class="reason">{reason}</td>' in page
    assert '<td class="reason">inconclusive: weights hide borders</td>' in page


def test_the_page_of_nothing():
    page = survey_page(made(model=[]))
    assert "No architecture was surveyed." in page
    assert "<table" not in page
