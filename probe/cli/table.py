"""The command `probe table`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from ..analyses import zoo
from ..errors import ProbeError
from ..files import write_files
from .app import app
from .options import split_items

Names = list[str] | None


@app.command("table")
def table_command(
    folder: Annotated[Path, typer.Argument(help="What probe zoo or probe run wrote.")],
    metric: Annotated[Names, typer.Option(help="Only these: spc, mae, r2, …")] = None,
    target: Annotated[Names, typer.Option(help="Only these: vertical, gaussian, …")] = None,
    models: Annotated[bool, typer.Option("--models", help="A row per network, not score.")] = False,
    form: Annotated[str, typer.Option("--format", help="csv, parquet, markdown or latex.")] = "csv",
    out: Annotated[
        Path | None, typer.Option(help="File to write, in place of the terminal.")
    ] = None,
) -> None:
    """Write the scores of a zoo or of results as a table, one row per score.

    Exit status: 0 if all went well; 2 if what was asked for can't be done.
    """
    zoo.FORMATS.find(form)
    compared = zoo.open_compared(folder)
    name = "models" if models else "scores"
    if models and (metric or target):
        raise ProbeError("metric and target choose scores: leave them out, or --models")
    table = compared.models
    if not models:
        table = zoo.selected(compared.table, split_items(metric or []), split_items(target or []))
    written = zoo.export(table, name, form)
    if out is not None:
        write_files(out.parent, {out.name: written})
    elif form == "parquet" and sys.stdout.isatty():
        raise ProbeError("a Parquet file is no text: give --out FILE, or send it to a file")
    else:
        typer.echo(written, nl=False)
