"""Commands of position in use: erase, pooled."""

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
    train_images=4096,
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


@app.command("pooled")
@with_options(
    *("stimuli", "train_images", "test_images", "image_size", "batch_size", "seed", "device"),
    "progress",
    train_images=32,
    test_images=32,
)
def pooled_command(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A timm name.")],
    layer: Annotated[
        str | None,
        typer.Option(help="Whose features are pooled; by default the last stage."),
    ] = None,
    weights: OneWeights = "pretrained",
    grid: Annotated[int, typer.Option(help="Places of a patch along each side.")] = 5,
    fill: Annotated[float, typer.Option(help="Around the patch; 0 is black, 1 white.")] = 0.0,
    seeds: Annotated[int, typer.Option(help="Draws of permutations and random channels.")] = 5,
    out: Out = REPORTS,
    **options: Any,
) -> None:
    """Read where a patch lies from a pooled vector, and rank the channels that tell it.

    Images are patches, each shown at every place. Writes pooled.csv, pooled_channels.csv,
    pooled.json and pooled.html to OUT/MODEL/.
    """
    folder = out / folder_name(model)
    check_folder(folder)
    choice: dict[str, Any] = {"weights": weights, "grid": grid, "fill": fill, "seeds": seeds}
    found = probe.pooled(model, layer, **choice, **options)
    found.save(folder)
    report.write_index(out)
    for sentence in found.summary():
        typer.echo(f"* {sentence}")
    typer.echo(f"\nPage: {folder / 'pooled.html'}")
