"""The command `probe run`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

import probe

from .. import backbones, records, report
from ..analyses import zoo
from ..files import check_folder, folder_name
from ..runner.options import Options
from .app import app, interruptible, tell_failures
from .options import DEFAULT_MODEL, REPORTS, Models, Out, split_items, with_options


@app.command(
    "run",
    help="Probe one or more models and write a report for each.\n\n"
    "Lists are given comma-separated or by repeating the option. Each model's report.html, scores "
    "and profile (as .csv and .parquet), maps.npz, pattern.npz, channels.parquet and run.json go "
    "to OUT/MODEL/, and OUT/index.html covers all that is there. A run with other options than the "
    "one that lies there is written beside it, to OUT/MODEL-HASH/. Several models run "
    "each in a process of its own, and those that are finished already, with the same options, "
    "weights and versions, are not run again.\n\n"
    "Exit status: 0 if all went well; 2 if what was asked for can't be done; 1 if some of several "
    "models failed; 130 after Ctrl-C.",
)
@with_options(
    *("weights", "variants", "layers", "targets", "stimuli", "train_images", "test_images"),
    *(
        "precision",
        "image_size",
        "batch_size",
        "margin",
        "readout",
        "kernel",
        "concat",
        "seed",
        "device",
    ),
    "progress",
)
def run_command(
    models: Models = None,
    out: Out = REPORTS,
    as_json: Annotated[
        bool, typer.Option("--json", help="Say each result on a line of JSON, all else on stderr.")
    ] = False,
    **options: Any,
) -> None:
    """Run the main job for each model."""
    names = backbones.expand_models(split_items(models) if models else [DEFAULT_MODEL])
    Options.of(options)  # what is wrong with them is said before the first model
    check_folder(out)
    if len(names) > 1 or _is_list(names[0]):
        _run_several(names, out, options, as_json)
        return
    with interruptible():
        result = probe.run(names[0], **options)
    usual = out / folder_name(names[0])
    folder = result.save(records.own_folder(usual, result.provenance), report=True)
    if folder != usual:
        typer.echo(f"{usual} holds a run with other options, which stays as it is.", err=as_json)
    _tell_result(result, folder, as_json)
    typer.echo(f"All reports: {report.write_index(out)}\n", err=as_json)


def _is_list(name: str) -> bool:
    path = Path(name).expanduser()
    return path.is_file() and path.suffix.lower() not in (".py", ".pth", ".safetensors")


def _tell_result(result: probe.Result, folder: Path, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps({**result.summary, "folder": str(folder)}))
        return
    typer.echo(records.summary(result))
    typer.echo(f"\nReport: {folder / 'report.html'}")


def _run_several(names: list[str], out: Path, options: dict[str, Any], as_json: bool) -> None:
    """Run models as cells, each in a process of its own; go on where a run was interrupted."""
    how = zoo.How()
    cells = zoo.list_cells(names, options, together=True)
    store = zoo.ReportStore(out)
    done = {cell: place for cell in cells if (place := store.place(cell))}
    if done:
        places = ", ".join(f"{cell.model} ({place})" for cell, place in done.items())
        typer.echo(
            f"{len(done)} of {len(cells)} models are done already, with these options: {places}; "
            "delete a folder to run it again.",
            err=as_json,
        )
    for place in done.values() if as_json else ():
        _tell_result(probe.results.load(place), place, as_json)
    failures: list[tuple[str, str]] = []
    ended = len(done)

    def tell(cell: zoo.Cell, outcome: zoo.Outcome) -> None:
        nonlocal ended
        ended += 1
        typer.echo(f"[{ended}/{len(cells)}] {cell.model}", err=as_json)
        if outcome.status != "finished":
            failures.append((cell.model, outcome.sentence))
            typer.echo(f"{cell.model}: error: {outcome.sentence}", err=True)
        elif place := store.place(cell):
            _tell_result(probe.results.load(place), place, as_json)

    try:
        with interruptible():
            left = [cell for cell in cells if cell not in done]
            zoo.run_cells(left, store, how, Options.of(options), tell)
    finally:
        zoo.clean(out)
        if any(out.glob("*/run.json")):
            typer.echo(f"All reports: {report.write_index(out)}\n", err=as_json)
    if failures:
        tell_failures(failures, len(cells))
        raise typer.Exit(1)
