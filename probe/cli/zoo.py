"""The command `probe zoo`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

import typer

from ..analyses import zoo
from ..analyses.zoo.how import TIME_LIMIT, How
from ..errors import ProbeError
from ..runner.options import option_words
from ..text import duration_text
from .app import aligned, app, interruptible
from .options import DEFAULT_MODEL, Models, Out, parse_seconds, split_items, with_options

_DEFAULTS: dict[str, Any] = {field.name: field.default for field in fields(How)}


def _option(name: str, *flags: str) -> Any:
    text = option_words(How)[name].replace("``", "").split("; by default", 1)
    if "see :" in text[0]:
        text[0] = text[0].partition(", see :")[0] + "."
    return typer.Option(*flags, help="; by default".join(text), show_default=name != "time_limit")


Jobs = Annotated[int, _option("jobs")]
Gpus = Annotated[str | None, _option("gpus")]
TimeLimit = Annotated[str | None, _option("time_limit")]
Memory = Annotated[float | None, _option("memory")]
Retry = Annotated[list[str] | None, _option("retry")]
Shard = Annotated[str | None, _option("shard")]
EngineName = Annotated[str, _option("engine")]
RayAddress = Annotated[str | None, _option("ray_address")]
Imports = Annotated[list[str] | None, _option("imports", "--import")]
Report = Annotated[bool, _option("report")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="List the cells, with time and memory, and run none.")
]
Accuracy = Annotated[
    Path | None,
    typer.Option(help="timm's results-imagenet.csv, for the leaderboard; it is kept with the zoo."),
]


@app.command(
    "zoo",
    help="Probe many models, each with each of the weights, and keep what is known of them in one "
    "folder.\n\n"
    "Each runs in a process of its own, so that one that crashes, hangs or takes too much memory "
    "is one failure. What is finished is never run again: called again after whatever ended it, "
    "the zoo goes on, and several at once into one folder share the work. Weights may be globs of "
    "checkpoint files.\n\n"
    "probe zoo status FOLDER says how far a zoo is; probe zoo merge FOLDER [FOLDER…] takes the "
    "cells of the others into the first and makes its tables anew, as after shards.\n\n"
    "Exit status: 0 if all went well; 2 if what was asked for can't be done; 1 if some cells "
    "failed; 130 after Ctrl-C.",
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
def zoo_command(
    models: Models = None,
    jobs: Jobs = _DEFAULTS["jobs"],
    gpus: Gpus = None,
    time_limit: TimeLimit = None,
    memory: Memory = None,
    retry: Retry = None,
    shard: Shard = None,
    engine: EngineName = _DEFAULTS["engine"],
    ray_address: RayAddress = None,
    imports: Imports = None,
    report: Report = True,
    dry_run: DryRun = False,
    accuracy: Accuracy = None,
    out: Out = Path("zoo"),
    **options: Any,
) -> None:
    """Run a zoo, or say how far one is, or merge several."""
    names = split_items(models or [DEFAULT_MODEL])
    if names[0] in ("status", "merge"):
        return (_status if names[0] == "status" else _merge)([Path(n) for n in names[1:]])
    how = How(
        jobs=jobs,
        gpus=gpus,
        time_limit=parse_seconds(time_limit) if time_limit else TIME_LIMIT,
        memory=memory,
        retry=split_items(retry or []),
        shard=shard,
        engine=engine,
        ray_address=ray_address,
        imports=split_items(imports or []),
        report=report,
    )
    cells = zoo.plan_cells(names, how, options)
    if dry_run:
        return _list_cells(cells, out)
    if accuracy is not None:
        zoo.keep_accuracy(out, accuracy)
    ended = 0

    def tell(cell: zoo.Cell, outcome: zoo.Outcome) -> None:
        nonlocal ended
        ended += 1
        if not outcome.fresh:
            return
        words = f"finished in {duration_text(outcome.seconds)}"
        if outcome.status != "finished":
            words = f"failed ({outcome.kind}): {outcome.sentence}"
        typer.echo(f"[{ended}/{len(cells)}] {cell.title}: {words}")

    with interruptible():
        failed = zoo.fill(cells, out, how, options, tell)
    collection = zoo.Zoo(out)
    typer.echo(f"{len(cells) - len(failed)} of {len(cells)} cells are finished, in {out}")
    if failed:
        reasons = collection.failures.set_index("cell")
        typer.echo(f"{len(failed)} of {len(cells)} cells failed (--retry failed runs them again):")
        for cell in failed:
            kind, sentence = reasons.loc[cell.name, ["kind", "sentence"]]
            typer.echo(f"  {cell.title}: {kind}: {sentence}")
        raise typer.Exit(1)
    return None


def _list_cells(cells: Sequence[zoo.Cell], out: Path) -> None:
    """Say what would be run."""
    lines = [("model", "weights", "state", "parameters", "memory", "time")]
    total = 0.0
    for row in zoo.foresee(cells, out):
        known = "seconds" in row and row["seconds"] == row["seconds"]
        if known and row["state"] == "to run":
            total += row["seconds"]
        lines.append(
            (
                row["cell"].model,
                row["cell"].label,
                row["state"],
                f"{row['parameters'] / 1e6:.1f} M" if "parameters" in row else "?",
                f"{row['memory'] / 2**30:.1f} GiB" if "memory" in row else "?",
                duration_text(row["seconds"]) if known else "?",
            )
        )
    for line in aligned(lines):
        typer.echo(line)
    todo = sum(line[2] == "to run" for line in lines)
    typer.echo(
        f"\n{len(cells)} cells, {todo} to run: about {duration_text(total)} one after another, by "
        "operations and what was measured here; nothing was run"
    )


def _status(folders: list[Path]) -> None:
    """Say how far a zoo is."""
    for folder in folders or [Path("zoo")]:
        progress = zoo.progress_of(folder)
        failed = ", ".join(f"{n} {kind}" for kind, n in sorted(progress.failed.items()))
        typer.echo(f"finished  {progress.finished}")
        typer.echo(f"running   {len(progress.running)}")
        for name, who in progress.running.items():
            since = f"process {who.get('pid', '?')} on {who.get('host', '?')}"
            typer.echo(f"  {name}: {since}, since {who.get('started', '?')}")
        typer.echo(f"failed    {sum(progress.failed.values())}{f' ({failed})' if failed else ''}")
        typer.echo(f"left      {progress.left}")
        todo = progress.left + len(progress.running)
        if todo and progress.seconds == progress.seconds:
            typer.echo(f"about {duration_text(progress.remaining)} more")


def _merge(folders: list[Path]) -> None:
    """Take the cells of several zoos into the first, and make its tables."""
    if not folders:
        raise ProbeError("probe zoo merge: expected the folder of a zoo, and others to take in")
    taken = zoo.merge(folders[0], folders[1:])
    zoo.write_tables(folders[0])
    collection = zoo.Zoo(folders[0])
    typer.echo(f"{taken} cells came; {len(collection)} are finished in {folders[0]}")
    if len(collection.failures):
        typer.echo(f"{len(collection.failures)} cells failed", err=True)
        raise typer.Exit(1)
