"""The command `probe run`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

import probe

from .. import backbones, records, report
from ..files import check_folder
from ..runner.options import Options
from ..text import is_random
from .app import app, one_by_one
from .options import DEFAULT_MODEL, REPORTS, Models, Out, folder_name, split_items, with_options


@app.command(
    "run",
    help="Probe one or more models and write a report for each.\n\n"
    "Lists are given comma-separated or by repeating the option. Each model's report.html, scores "
    "and profile (as .csv and .parquet), maps.npz, pattern.npz, channels.parquet and run.json go "
    "to OUT/MODEL/, and OUT/index.html covers all that is there. A run with other options than the "
    "one that lies there is written beside it, to OUT/MODEL-HASH/. Of several models, those that "
    "are finished already, with the same options, weights by name and versions, are not run "
    "again.\n\n"
    "Exit status: 0 if all went well; 2 if what was asked for can't be done; 1 if some of several "
    "models failed; 130 after Ctrl-C.",
)
@with_options(
    *("weights", "variants", "layers", "targets", "stimuli", "train_images", "test_images"),
    *("image_size", "batch_size", "margin", "readout", "kernel", "concat", "seed", "device"),
    "progress",
)
def run_command(models: Models = None, out: Out = REPORTS, **options: Any) -> None:
    """Run the main job for each model, one after another."""
    asked = Options.of(options)  # what is wrong with them is said before the first model
    names = backbones.expand_models(split_items(models) if models else [DEFAULT_MODEL])
    check_folder(out)
    if len(names) > 1 and all(w == "pretrained" or is_random(w) for w in asked.weights):
        names = _unfinished(names, out, asked)

    def probe_one(name: str) -> None:
        if len(names) > 1:
            typer.echo(f"[{names.index(name) + 1}/{len(names)}] {name}")
        result = probe.run(name, **options)
        usual = out / folder_name(name)
        folder = result.save(records.own_folder(usual, result.provenance), report=True)
        if folder != usual:
            typer.echo(f"{usual} holds a run with other options, which stays as it is.")
        index = report.write_index(out)
        typer.echo(records.summary(result))
        typer.echo(f"\nReport: {folder / 'report.html'}\nAll reports: {index}\n")

    one_by_one(names, probe_one)


def _unfinished(names: list[str], out: Path, asked: Options) -> list[str]:
    """Leave out the models whose runs are finished, and say so."""
    places = {
        name: records.finished_run(out / folder_name(name), asked.fingerprint()) for name in names
    }
    done = [f"{name} ({place})" for name, place in places.items() if place]
    if done:
        typer.echo(
            f"{len(done)} of {len(names)} models are done already, with these options: "
            f"{', '.join(done)}; delete a folder to run it again."
        )
    return [name for name, place in places.items() if place is None]
