"""The leaderboard, and what it ranks, in a real browser where there is one."""

from __future__ import annotations

import json
import re
import time

import pandas as pd
import pytest
from chromium import PROGRAM, Chromium
from zoo_frames import zoo

from probe.analyses.zoo.accuracy import join_accuracy, read_accuracy
from probe.analyses.zoo.page import zoo_page
from probe.analyses.zoo.ranking import comparable, differences, ranks, standing
from probe.errors import ProbeError
from probe.files import write_files

browser = pytest.mark.skipif(PROGRAM is None, reason="no Chromium")


def data_of(page: str):
    text = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)
    return json.loads(text[1])


def test_ranks_ties_and_groups():
    models, curves = zoo(6)
    finished = models[models["status"] == "finished"]
    close = curves["cell0001"]["vertical"]["image"]
    curves["cell0000"]["vertical"]["image"] = [
        v + (0.2 if i % 4 < 2 else -0.19) for i, v in enumerate(close)
    ]
    ranked = ranks(finished, "vertical", curves)
    assert ranked["rank"].tolist() == [1, 2, 3, 4, 5, 6]
    assert ranked["tied"].tolist() == [False, True, False, False, False, False]
    assert ranked["paired"].tolist()[1:] == [True] * 5
    assert ranked["difference"].iloc[1] == pytest.approx(0.005)
    alone = ranks(finished, "vertical", {})
    assert alone["paired"].tolist()[1:] == [False] * 5  # from the rows' own intervals
    step = differences(finished, "vertical", {}, [(0, 1)]).iloc[0]
    assert (step["high"] - step["low"]) / 2 == pytest.approx(0.04 * 2**0.5)

    models.loc[5, "options"] = json.dumps({"seed": 0, "image_size": [32, 32]})
    models.loc[4, "stimuli"] = "photographs"
    groups, words = comparable(models)
    assert groups.tolist() == [0, 0, 0, 0, 1, 2, -1]
    assert words[1] == "stimuli: photographs rather than leaves"
    assert words[2] == "image size: 32 rather than each network's own"
    models.loc[3, "options"] = json.dumps({"seed": 0, "train_images": 16, "batch_size": 7})
    assert comparable(models)[0].tolist() == groups.tolist()  # what changes no score parts nobody


def test_outliers_of_a_family_and_at_equal_accuracy():
    models, _ = zoo(12)
    rows = models[models["status"] == "finished"].assign(family="resnet", weights="pretrained")
    rows = rows.assign(top1=[80.0, 80.5, 79.5, *range(40, 58, 2)], spc_vertical=0.8)
    rows.loc[1, "spc_vertical"] = 0.5
    stands = standing(rows, "vertical")
    assert stands["from_family"].idxmin() == 1
    assert stands.loc[1, "from_equals"] == pytest.approx(-0.3)
    assert stands.loc[1, "equals"] == 2
    assert stands["from_equals"].isna()[3:].all()  # nobody is as accurate


def test_accuracy_joins_names_with_and_without_tags(tmp_path):
    path = tmp_path / "results-imagenet.csv"
    path.write_text(
        "model,img_size,top1,top1_err\nresnet50.a1_in1k,224,80.2,19.8\nresnet18,224,69.7,30.3\n"
        "resnet50.a2_in1k,224,79.8,20.2\n"
    )
    models = pd.DataFrame(
        [
            ("resnet50", "a1_in1k", "finished"),
            ("resnet50.a2_in1k", "a2_in1k", "finished"),
            ("resnet50", "pretrained", "finished"),
            ("resnet18", "a1_in1k", "finished"),
            ("resnet18", "tv_in1k", "finished"),
            ("resnet50", "random", "finished"),
            ("resnet50", "epoch_3-0011aabb", "finished"),
            ("resnet34", "pretrained", "finished"),
        ],
        columns=["model", "weights", "status"],
    )
    joined, missing = join_accuracy(models, read_accuracy(path))
    assert joined["top1"].fillna(-1).tolist() == [80.2, 79.8, 80.2, 69.7, -1, -1, -1, -1]
    assert [name.partition(".")[0] for name in missing] == ["resnet18", "resnet34"]
    assert missing[0] == "resnet18.tv_in1k"
    path.write_text("name,acc\na,1\n")
    with pytest.raises(ProbeError, match="model and top1, got name, acc"):
        read_accuracy(path)


def test_page_needs_nothing_else_and_escapes_names():
    models, curves = zoo(4)
    models.loc[0, "model"] = models.loc[1, "family"] = "</script><img src=x onerror=alert(1)>"
    page = zoo_page(models, curves)
    assert "<img src=x" not in page
    assert "<b>bad" not in page and "&lt;b&gt;bad&lt;/b&gt;&lt;/script&gt;" in page
    assert data_of(page)["rows"][0]["model"] == models.loc[0, "model"]
    assert not re.search(r'(?:src|href)="(?:https?:)?//', page)
    assert "sourceMappingURL" not in page
    assert "needs 9 GB &amp; has 2" in page
    assert 'href="cells/cellx/traceback.txt">traceback</a>' in page


def test_page_of_failures_alone_and_of_one_layer():
    models, curves = zoo(2, layers=1)
    assert "Failed: 1" in zoo_page(models[models["status"] == "failed"], {})
    assert len(data_of(zoo_page(models, curves))["rows"]) == 2


@browser
def test_leaderboard_in_a_browser(tmp_path):
    models, curves = zoo(24)
    models.loc[0, "model"] = "</script><img src=x onerror=console.log(1)>"
    models.loc[20:21, "stimuli"] = "photographs"
    accuracy = pd.DataFrame({"model": ["vgg16", "resnet18"], "top1": [70.0, 71.0]})
    path = tmp_path / "index.html"
    path.write_text(zoo_page(models, curves, accuracy))
    for report in models["report"].dropna():
        write_files((tmp_path / report).parent, {"report.html": b"<title>one</title>"})
    names = (
        "[...document.querySelectorAll('#tables > .tabulator .tabulator-row "
        "[tabulator-field=name]')].map(e => e.textContent)"
    )
    with Chromium() as page:
        page.open(path)
        page.wait("document.querySelectorAll('.tabulator-row').length > 3")
        assert page.do(names)[0] == models.loc[0, "model"]
        assert "photographs rather than leaves" in page.do("document.body.textContent")
        page.do("document.querySelector('.tabulator-col[tabulator-field=parameters]').click()")
        assert page.do(names)[0] == "convnext32, random"  # the largest
        page.do(
            "(() => { const box = document.getElementById('name'); box.value = 'VGG random';"
            "box.dispatchEvent(new Event('input')); })()"
        )
        assert page.do(names) and all("vgg" in n and "random" in n for n in page.do(names))
        page.do(
            "(() => { const box = document.getElementById('name'); box.value = 'VGG';"
            "box.dispatchEvent(new Event('input')); })()"
        )
        assert page.do(names) and all("vgg" in name for name in page.do(names))
        page.do(
            "document.querySelectorAll('#tables .tabulator-row input')[0].click();"
            "document.querySelectorAll('#tables .tabulator-row input')[1].click()"
        )
        assert page.do("!document.getElementById('overlay').hidden")
        assert page.do("Chart.getChart('ticked').data.datasets.filter(d => d.label).length") == 2
        page.do("document.getElementById('by-parameters').scrollIntoView({block: 'center'})")
        page.do("new Promise(r => setTimeout(r, 200))")
        x, y = page.do(
            "(() => { const c = Chart.getChart('by-parameters');"
            "const b = c.canvas.getBoundingClientRect(), p = c.getDatasetMeta(0).data[0];"
            "return [b.left + p.x, b.top + p.y]; })()"
        )
        page.mouse("mouseMoved", x, y)
        hovered = "Chart.getChart('by-parameters').tooltip.body?.[0]?.lines?.[0] || ''"
        page.wait(f"({hovered}).startsWith('vgg')")
        page.mouse("mousePressed", x, y)
        page.mouse("mouseReleased", x, y)
        page.wait("location.href.endsWith('/report.html')")
        page.open(path, 400, 800, dark=True)
        page.wait("document.querySelectorAll('.tabulator-row').length > 3")
        assert page.do("document.documentElement.scrollWidth") <= 400
        assert page.do("getComputedStyle(document.querySelector('.tabulator-row')).backgroundColor")
        assert page.requests == []
        assert page.messages == []


@browser
def test_two_thousand_rows_are_quick(tmp_path):
    models, curves = zoo(2000, layers=16, images=8)
    started = time.perf_counter()
    page = zoo_page(models, curves)
    assert time.perf_counter() - started < 20
    assert len(page) < 10e6
    path = tmp_path / "index.html"
    path.write_text(page)
    clock = (
        "(async act => { const t = performance.now(); await act();"
        "document.body.offsetHeight; return performance.now() - t; })"
    )
    with Chromium() as chromium:
        chromium.open(path)
        chromium.wait("document.querySelectorAll('.tabulator-row').length > 3")
        chromium.do("new Promise(r => setTimeout(r, 500))")
        sort = "document.querySelector('.tabulator-col[tabulator-field=parameters]').click()"
        filter_ = (
            "(() => { const box = document.getElementById('name'); box.value = 'vgg 1';"
            "box.dispatchEvent(new Event('input')); })()"
        )
        times = [chromium.do(f"{clock}(() => {act})") for act in (sort, filter_)]
        assert max(times) < 200, times
        assert chromium.messages == []


def test_sentences_say_of_how_many_and_of_which_weights():
    """The best of all has random weights: a sentence on trained networks says that it is that."""
    models, curves = zoo(6)
    finished = models["status"] == "finished"
    best = models[finished & (models["weights"] == "random")].index[0]
    models.loc[best, ["spc_vertical", "spc_vertical_low", "spc_vertical_high"]] = 0.99, 0.98, 1.0
    trained, drawn = (
        next(s for s in data_of(zoo_page(models, curves))["findings"]["vertical"] if words in s)
        for words in (
            "Knows most of vertical, of 3 trained",
            "Knows most of vertical, of 3 sets of random",
        )
    )
    assert "random" not in trained
    assert f"{models.loc[best, 'model']}, random: SPC 0.99 [0.98, 1.00]" in drawn
