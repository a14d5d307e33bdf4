"""The command `probe`, and what its commands share."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from tqdm.auto import tqdm

import probe

from .. import report
from .._version import __version__
from ..errors import ProbeError

app = typer.Typer(
    name="probe",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Which layers of a pretrained network know where they are, and how much of that comes "
    "from padding?",
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"probe {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


def one_by_one(
    names: Sequence[str],
    work: Callable[[str], None],
    *,
    again: bool = True,
    bar: str | None = None,
) -> None:
    """Do something for one model after another; go on with the others where one of them fails.

    What one model took of memory is free before the next has its turn. With the title of a
    ``bar`` one is shown. Ends with status 1 if some of several failed, named once more if
    ``again``; with 130 after Ctrl-C.
    """
    failures: list[tuple[str, str]] = []
    shown = tqdm(names, desc=bar, unit="model", leave=False, disable=not bar, dynamic_ncols=True)
    for name in shown:
        shown.set_postfix_str(name)
        try:
            with interruptible():
                work(name)
        except typer.Exit:
            shown.close()
            raise
        except Exception as error:  # whatever it is, the other models still have their turn
            if len(names) == 1:
                raise
            reason = str(error)
            if not isinstance(error, ProbeError):
                reason = f"{type(error).__name__}: {' '.join(reason.split())[:200]}"
            tqdm.write(f"{name}: error: {reason}", sys.stderr)
            failures.append((name, reason))
        finally:
            gc.collect()  # modules hold one another in circles
    if failures and again:
        tell_failures(failures, len(names))
    if failures:
        raise typer.Exit(1)


@contextmanager
def interruptible() -> Iterator[None]:
    """Say after Ctrl-C that what was finished is kept, and end with status 130."""
    try:
        yield
    except KeyboardInterrupt:
        typer.echo("\nInterrupted. What was finished is kept in the output folder.", err=True)
        raise typer.Exit(130) from None


def tell_failures(failures: Sequence[tuple[str, str]], of: int) -> None:
    """Name what failed, and why."""
    typer.echo(f"{len(failures)} of {of} models failed:", err=True)
    for name, reason in failures:
        typer.echo(f"  {name}: {reason}", err=True)


def write_again(folder: Path, out: Path) -> None:
    """Bring the report in a folder up to date with what lies beside it."""
    result = probe.load(folder) if (folder / "run.json").exists() else None
    if isinstance(result, probe.Result):
        result.to_html(folder / "report.html")
        report.write_index(out)
        typer.echo(f"Report: {folder / 'report.html'}")


def aligned(lines: Sequence[tuple[str, ...]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        cells = [cell.ljust(width) for cell, width in zip(line, widths, strict=True)]
        yield "  ".join(cells).rstrip()
