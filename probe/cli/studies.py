"""Commands of studies: coordconv, instances."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

import probe

from .. import report
from ..coordconv.names import PADDINGS, SPLITS
from ..coordconv.names import TASKS as COORDINATE_TASKS
from ..files import check_folder
from ..instances.names import BORDERS, SCENES
from ..instances.names import TASKS as SEGMENTATIONS
from .app import app
from .options import QUICK, REPORTS, Out, Seeds, Workers, split_items, with_options


@app.command("coordconv")
@with_options("seed", "device", "progress")
def coordconv_command(
    tasks: Annotated[
        list[str] | None,
        typer.Option(help=f"{', '.join(COORDINATE_TASKS)}; all by default.", show_default=False),
    ] = None,
    splits: Annotated[
        list[str] | None,
        typer.Option(help=f"{', '.join(SPLITS)}; all by default.", show_default=False),
    ] = None,
    paddings: Annotated[
        list[str] | None,
        typer.Option(
            help=f"Of plain networks: {', '.join(PADDINGS)}; all by default.", show_default=False
        ),
    ] = None,
    seeds: Seeds = 3,
    quick: Annotated[bool, typer.Option("--quick", help=QUICK)] = False,
    epochs: Annotated[
        float | None, typer.Option(help="In place of the profile's.", show_default=False)
    ] = None,
    workers: Workers = None,
    out: Out = REPORTS,
    **options: Any,
) -> None:
    """Teach networks positions and pixels, with coordinates and without; resumable.

    The coordinate tasks of Liu et al. (2018), with the column that the paper lacks: plain networks
    with zero, circular and no padding. Writes coordconv.html and the study's tables to
    OUT/coordconv/.
    """
    _study(
        out / "coordconv",
        lambda folder: probe.coordconv.run_tasks(
            split_items(tasks or COORDINATE_TASKS),
            split_items(splits or SPLITS),
            paddings=split_items(paddings or PADDINGS),
            seeds=seeds,
            quick=quick,
            epochs=epochs,
            workers=workers,
            folder=folder,
            **options,
        ),
    )


@app.command("instances")
@with_options("seed", "device", "progress")
def instances_command(
    scenes: Annotated[
        list[str] | None,
        typer.Option(help=f"{', '.join(SCENES)}; all by default.", show_default=False),
    ] = None,
    borders: Annotated[
        list[str] | None,
        typer.Option(help=f"{', '.join(BORDERS)}; all by default.", show_default=False),
    ] = None,
    tasks: Annotated[
        list[str] | None,
        typer.Option(help=f"{', '.join(SEGMENTATIONS)}; all by default.", show_default=False),
    ] = None,
    seeds: Seeds = 3,
    quick: Annotated[bool, typer.Option("--quick", help=QUICK)] = False,
    steps: Annotated[
        int | None, typer.Option(help="In place of the profile's.", show_default=False)
    ] = None,
    workers: Workers = None,
    out: Out = REPORTS,
    **options: Any,
) -> None:
    """Teach a small network to tell objects apart, with every kind of border; resumable.

    Exact copies of an object look the same to an equivariant network: it takes position to tell
    them apart, and none to name them. Writes instances.html and the study's tables to
    OUT/instances/.
    """
    _study(
        out / "instances",
        lambda folder: probe.instances.run_instances(
            split_items(scenes or SCENES),
            split_items(borders or BORDERS),
            split_items(tasks or SEGMENTATIONS),
            seeds=seeds,
            quick=quick,
            steps=steps,
            workers=workers,
            folder=folder,
            **options,
        ),
    )


def _study(folder: Path, run_it: Callable[[Path], Any]) -> None:
    """Run a study, save it and its page, and say what it found."""
    check_folder(folder)
    try:
        study = run_it(folder)
    except KeyboardInterrupt:
        typer.echo("\nInterrupted. What was finished is kept; run it again to go on.", err=True)
        raise typer.Exit(130) from None
    study.save(folder)
    page = study.to_html(folder / f"{folder.name}.html")
    for sentence in study.summary():
        typer.echo(f"* {sentence}")
    report.write_index(folder.parent)
    typer.echo(f"\nTable: {folder / 'scores.csv'}\nPage: {page}")
