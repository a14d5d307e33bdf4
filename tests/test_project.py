"""The project around the code: notebooks run, ruff is content, README and CI agree."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parent.parent
NOTEBOOKS = {  # cells at most, figures, tables at least
    "01_first_probe.ipynb": (13, 3, 3),
    "02_controls.ipynb": (20, 4, 5),
    "03_zero_to_hundred.ipynb": (16, 4, 1),
    "04_taking_position_out.ipynb": (9, 1, 2),
    "05_a_zoo.ipynb": (12, 3, 4),
}


def test_every_notebook_is_run():
    assert {path.name for path in (ROOT / "notebooks").glob("*.ipynb")} == set(NOTEBOOKS)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_notebooks_run(name, tmp_path, monkeypatch):
    cells, pictures, tables = NOTEBOOKS[name]
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = nbformat.read(ROOT / "notebooks" / name, as_version=4)
    assert len(notebook.cells) <= cells
    assert not any(cell.get("outputs") for cell in notebook.cells)
    client = NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    )
    client.execute()
    shown = [
        kind
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        for kind in output.get("data", {})
    ]
    assert shown.count("image/png") == pictures  # each once
    assert shown.count("text/html") >= tables
    if name.startswith("01"):
        assert (tmp_path / "first_probe" / "report.html").exists()


def test_ruff_is_content():
    for words in (["check"], ["format", "--check"]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *words, "."], cwd=ROOT, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_ci_finds_the_readmes_test_line():
    lines = re.findall(r"^pip install .*$", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert lines == [
        "pip install -e '.[bundled]' && probe run",
        "pip install -e '.[bundled,test]' && pytest",
    ]
    pattern = re.search(r'grep -E "(.*)" README.md', (ROOT / ".ci" / "run").read_text())[1]
    assert [line for line in lines if re.search(pattern, line)] == lines[1:]


def test_the_readmes_links_and_pictures_are_there():
    for address in re.findall(r"\]\((?!https?:)([^)#]+)\)", (ROOT / "README.md").read_text()):
        assert (ROOT / address).exists(), address
