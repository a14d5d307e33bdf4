"""The glossary: one source for the README, the pages and the command line."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from probe.cli.main import app
from probe.glossary import GLOSSARY, RARE, used
from probe.report.parts import templates

README = (Path(__file__).parent.parent / "README.md").read_text()


def test_the_readme_says_the_same():
    table = README.partition("## Glossary")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (.+?) \| (.+) \|$", table, re.MULTILINE)
    assert dict(rows[1:]) == GLOSSARY  # after the heads of the columns
    assert set(RARE) <= set(GLOSSARY)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Targets on a torus", {"target", "torus"}),
        ("spc <b title='canvas'>0.9</b>", {"SPC"}),
        ("<style>.layer {}</style><script>var torus</script><svg>SPC</svg>", set()),
        ("a player's tortoise", set()),
        ("what a window leaves", {"window"}),
        ("images (leaves, 64 pixels)", {"leaves"}),
    ],
)
def test_words_are_found_in_what_is_read(text, words):
    assert set(used(text)) == words


def test_a_page_explains_the_words_that_it_uses_and_links_the_rare_ones():
    page = templates().from_string(
        '{% extends "base.html" %}{% block body %}<h1>{{ name }}</h1><p>SPC of a layer</p>'
        "{% endblock %}"
    )
    html = page.render(name="<torus>")
    assert re.findall(r'<dt id="word-([^"]+)">', html) == ["torus", "layer", "spc"]
    assert re.findall(r'<a href="#word-([^"]+)">', html) == ["torus", "spc"]
    assert "<h1>&lt;torus&gt;</h1>" in html


def test_the_command_says_one_or_all():
    run = CliRunner().invoke
    assert len(run(app, ["glossary"]).output.splitlines()) == len(GLOSSARY)
    assert run(app, ["glossary", "spc"]).output == f"SPC: {GLOSSARY['SPC']}\n"
    assert run(app, ["glossary", "zzz"]).exit_code != 0
