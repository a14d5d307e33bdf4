"""Commands of taking position out: erase."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

import probe

from .. import report
from ..files import check_folder, folder_name
from .app import app
from .options import REPORTS, OneWeights, Out, split_items, with_options


@app.command("erase")
@with_options(
    *("targets", "train_images", "test_images", "image_size", "batch_size", "seed", "device"),
    "progress",
    train_images=2048,
    test_images=256,
)
def erase_command(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A timm name.")],
    layer: Annotated[str, typer.Option(help="The layer to take position out of.")],
    ways: Annotated[
        list[str], typer.Option("--how", help="mean, project (LEACE) or constant; by default all.")
    ] = ["mean", "project", "constant"],  # noqa: B006
    images: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="Photographs for matches and pictures.", show_default=False
        ),
    ] = None,
    weights: OneWeights = "pretrained",
    pairs: Annotated[int, typer.Option(help="Pairs of crops of the matching test.")] = 64,
    out: Out = REPORTS,
    **options: Any,
) -> None:
    """Take position out of a layer, and measure what is left and what else changed.

    Writes the erasers (eraser-mean.pt, ...), erasure.csv, matches.csv, erasure.json and
    erasure.html to OUT/MODEL/.
    """
    folder = out / folder_name(model)
    check_folder(folder)
    erased = probe.erasure(
        model, layer, split_items(ways), images=images, weights=weights, pairs=pairs, **options
    )
    erased.save(folder)
    report.write_index(out)
    for sentence in erased.summary():
        typer.echo(f"* {sentence}")
    typer.echo(f"\nPage: {folder / 'erasure.html'}")
