"""The house: floors, sizes, tables of contents, types, and what importing costs."""

from __future__ import annotations

import ast
import importlib
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

import probe

ROOT = Path(__file__).parent.parent
FILES = sorted((ROOT / "probe").rglob("*.py"))
ROOMS = sorted(
    ".".join(path.parent.relative_to(ROOT).parts)
    for path in (ROOT / "probe").rglob("__init__.pyi")
    if path.parent.name != "probe"
)
MOST_LINES, MOST_STATEMENT_LINES = 400, 80
COMMANDS = (
    *(
        "run",
        "zoo",
        "table",
        "attribute",
        "calibrate",
        "reproduce",
        "ladder",
        "erase",
        "pooled",
        "coordconv",
        "instances",
    ),
    *("models", "sources", "certify", "survey"),
)


def done(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*words], cwd=ROOT, capture_output=True, text=True)


def tool(name: str, *words: str) -> subprocess.CompletedProcess[str]:
    return done(str(Path(sys.executable).with_name(name)), *words)


def test_rooms_import_only_from_floors_below_and_in_no_circle():
    checked = tool("lint-imports", "--no-cache")
    assert checked.returncode == 0, checked.stdout
    assert "2 kept, 0 broken" in checked.stdout


def test_types_are_right():
    checked = done(sys.executable, "-m", "mypy")
    assert checked.returncode == 0, checked.stdout


def functions(path: Path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0]
            documented = ast.get_docstring(node) is not None
            text = first.end_lineno - first.lineno + 1 if documented else 0
            yield node.name, node.end_lineno - node.lineno + 1 - text


def test_files_and_functions_are_short():
    assert len(FILES) > 100
    lines = {str(path): len(path.read_text().splitlines()) for path in FILES}
    assert {path: n for path, n in lines.items() if n > MOST_LINES} == {}
    long = [(p.name, f, n) for p in FILES for f, n in functions(p) if n > MOST_STATEMENT_LINES]
    assert long == []


@pytest.mark.parametrize("room", ["probe", *ROOMS])
def test_what_a_room_lists_is_there(room):
    module = importlib.import_module(room)
    assert module.__all__
    assert set(module.__all__) <= set(dir(module))
    for name in module.__all__:
        assert getattr(module, name) is not None
    if room.count(".") == 1 and room not in ("probe.coordconv", "probe.instances"):
        said = [line.partition(":")[0] for line in module.__doc__.splitlines()]
        assert {"In", "Out", "Not here"} <= set(said)


def loaded(code: str) -> set[str]:
    heavy = "print(*{m.partition('.')[0] for m in sys.modules})"
    run = done(sys.executable, "-c", f"import sys\n{code}\n{heavy}")
    assert run.returncode == 0, run.stderr
    return set(run.stdout.splitlines()[-1].split())


def test_importing_probe_imports_nothing_heavy_until_it_is_used():
    heavy = {"torch", "timm", "pandas", "scipy", "matplotlib", "sklearn"}
    assert not heavy & loaded("import probe; dir(probe); probe.__version__; probe.TARGETS")
    assert "torch" in loaded("from probe import run")
    with pytest.raises(AttributeError):
        probe.nothing_of_this_name  # noqa: B018


@pytest.mark.parametrize("command", [None, *COMMANDS])
def test_help_imports_nothing_heavy(command):
    words = ["probe", *([command] if command else []), "--help"]
    start = "from probe.cli.main import main\ntry: main()\nexcept SystemExit: pass"
    code = f"sys.argv = {words!r}\n{start}"
    assert not {"torch", "timm", "pandas"} & loaded(code)


def test_lazily_loaded_things_are_pickled_by_reference():
    for thing in (probe.run, probe.Certificate, probe.padding, probe.ProbeError):
        assert pickle.loads(pickle.dumps(thing)) is thing
