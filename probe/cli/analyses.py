"""Commands of analyses: calibrate, attribute, consistency, reproduce, ladder."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

import probe

from .. import backbones, records, report
from ..analyses import ladder as ladders
from ..analyses import planted
from ..analyses.names import GROUPS, LADDER_TARGETS, PAPERS, PLANTED_FILE, STRENGTH
from ..files import check_folder, folder_name, write_files
from ..text import interval
from .app import aligned, app, one_by_one, write_again
from .options import DEFAULT_MODEL, REPORTS, Models, OneWeights, Out, split_items, with_options

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@app.command("calibrate")
@with_options(
    *("layers", "targets", "train_images", "test_images", "image_size", "batch_size"),
    *("readout", "kernel", "concat", "seed", "device", "progress"),
    train_images=256,
)
def calibrate_command(
    models: Models = None,
    weights: OneWeights = "pretrained",
    seeds: Annotated[
        int | None,
        typer.Option(
            help="How many runs; by default as many as give 1,000 intervals, and at least 40.",
            show_default=False,
        ),
    ] = None,
    truth: Annotated[
        bool,
        typer.Option(
            "--planted/--no-planted",
            help="Also recover planted truth, which takes a minute or two.",
        ),
    ] = True,
    out: Out = REPORTS,
    **options: Any,
) -> None:
    """Measure how often intervals find position where there is none; resumable.

    Runs the pipeline under circular padding on leaves, with other images each time: the truth is 0,
    and 5 % of 95 % intervals should exclude it. Writes calibration.csv and calibration.json to
    OUT/MODEL/, and a section into the report that lies there.
    """
    names = backbones.expand_models(split_items(models) if models else [DEFAULT_MODEL])
    check_folder(out)
    if len(names) == 1:
        backbones.known_model(names[0])
    if truth:
        table = planted.planted_truth(repeats=2, seed=options["seed"], progress=options["progress"])
        write_files(out, {PLANTED_FILE: table.to_csv(index=False).encode()})
        said = records.planted_summary(table)
        typer.echo(f"* Planted truth: {said} Table: {out / PLANTED_FILE}")

    def calibrate_one(name: str) -> None:
        folder = out / folder_name(name)
        calibration = probe.calibrate(name, weights, seeds=seeds, folder=folder, **options)
        for sentence in calibration.summary():
            typer.echo(f"* {sentence}")
        write_again(folder, out)

    one_by_one(names, calibrate_one)


@app.command("attribute")
@with_options(
    *("stimuli", "train_images", "test_images", "image_size", "batch_size", "seed", "device"),
    "progress",
    train_images=128,
)
def attribute_command(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A timm name.")] = DEFAULT_MODEL,
    layer: Annotated[
        str | None,
        typer.Option(
            help="The layer whose position to attribute; by default the one of the report in "
            "OUT/MODEL that knows most, else the last stage.",
            show_default=False,
        ),
    ] = None,
    targets: Annotated[
        list[str],
        typer.Option(help="Which position maps are read: {targets}."),
    ] = ["horizontal", "vertical"],  # noqa: B006 - typer reads it, nobody writes it
    weights: OneWeights = "pretrained",
    groups: Annotated[
        str, typer.Option(help=f"{', '.join(GROUPS)}: which padded calls go together.")
    ] = "calls",
    out: Out = REPORTS,
    **options: Any,
) -> None:
    """Find out which padded calls, and which sides of the image, a layer has its position from.

    For each of them the score when it alone keeps its padding, and when all but it do. Writes
    attribution.csv, attribution.json and attribution.png to OUT/MODEL/, and a section into the
    report that lies there.
    """
    folder = out / folder_name(model)
    check_folder(folder)
    layer = layer or _best_layer(model, folder, weights)
    attribution = probe.attribute(
        model, layer, split_items(targets), weights=weights, groups=groups, **options
    )
    attribution.save(folder)
    picture = io.BytesIO()
    attribution.plot().savefig(picture, dpi=150)
    write_files(folder, {"attribution.png": picture.getvalue()})
    rows = attribution.table[attribution.table["metric"] == "spc"]
    lines = [("unit", "target", "keeps", "SPC", "effect")]
    lines += [
        (
            *(row["unit"], row["target"], row["keeps"]),
            interval(row["value"], row["low"], row["high"]),
            interval(row["effect"], row["effect_low"], row["effect_high"]),
        )
        for row in rows.to_dict("records")
    ]
    for line in aligned(lines):
        typer.echo(line)
    typer.echo("")
    for sentence in attribution.summary():
        typer.echo(f"* {sentence}")
    typer.echo(f"\nTable: {folder / 'attribution.csv'}\nFigure: {folder / 'attribution.png'}")
    write_again(folder, out)


@app.command("consistency")
@with_options(
    *("layers", "variants", "image_size", "batch_size", "seed", "device", "progress"),
    variants="circular",
    batch_size=8,
)
def consistency_command(
    models: Models = None,
    weights: OneWeights = "pretrained",
    images: Annotated[int, typer.Option(help="How many leaves, images that tile.")] = 16,
    out: Out = REPORTS,
    **options: Any,
) -> None:
    """Measure how features follow an image that moves by less than the network's stride.

    Writes consistency.csv, consistency.json and consistency.png to OUT/MODEL/.
    """
    names = backbones.expand_models(split_items(models) if models else [DEFAULT_MODEL])
    check_folder(out)

    def one(name: str) -> None:
        folder = out / folder_name(name)
        found = probe.consistency(name, weights, images=images, **options)
        found.save(folder)
        picture = io.BytesIO()
        cast("Figure", found.plot()).savefig(picture, format="png", dpi=150)
        write_files(folder, {"consistency.png": picture.getvalue()})
        for sentence in found.summary():
            typer.echo(f"* {sentence}")
        typer.echo(f"Figure: {folder / 'consistency.png'}")

    one_by_one(names, one)


@app.command("reproduce")
@with_options(
    *("train_images", "test_images", "image_size", "batch_size", "readout", "seed", "device"),
    "progress",
    train_images=512,
    image_size=224,
    readout="posenet",
)
def reproduce_command(
    paper: Annotated[str, typer.Argument(help=f"{', '.join(PAPERS)}.")] = "islam2020",
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="MODEL",
            help="timm names or globs; without any, the paper's own.",
            show_default=False,
        ),
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Photographs to train and test on; leaves otherwise.",
            show_default=False,
        ),
    ] = None,
    weights: OneWeights = "pretrained",
    out: Annotated[Path, typer.Option(help="Folder of table and page.")] = REPORTS / "reproduction",
    **options: Any,
) -> None:
    """Measure a published table again, beside the published figures.

    Rows whose weights or images can't be had say so. Writes reproduction.csv, reproduction.json and
    reproduction.html to OUT.
    """
    check_folder(out)
    names = split_items(models) if models else None
    reproduction = probe.reproduce(paper, images, names, weights=weights, folder=out, **options)
    reproduction.save(out)
    page = reproduction.to_html(out / "reproduction.html")
    for sentence in reproduction.summary():
        typer.echo(f"* {sentence}")
    typer.echo(f"\nPage: {page}")


@app.command("ladder")
@with_options(
    *("layers", "targets", "train_images", "test_images", "image_size", "batch_size", "seed"),
    *("device", "progress"),
    train_images=256,
    targets=LADDER_TARGETS,
)
def ladder_command(
    models: Models = None,
    weights: OneWeights = "pretrained",
    at: Annotated[
        list[str],
        typer.Option(help="Which convolutions get coordinates: convs, stem, or names and globs."),
    ] = ["convs"],  # noqa: B006
    strength: Annotated[
        float,
        typer.Option(help="Deviation of the coordinates' part of a channel over the channel's."),
    ] = STRENGTH,
    out: Out = REPORTS,
    **options: Any,
) -> None:
    """Probe a network on three rungs: no border, as trained, coordinates given.

    Writes ladder.html, ladder.png, ladder.csv, ladder.parquet and ladder.json to OUT/MODEL/. Where
    `probe instances` has been run into OUT, its rungs stand beside.
    """
    names = backbones.expand_models(split_items(models) if models else [DEFAULT_MODEL])
    check_folder(out)
    where = split_items(at)

    def climb(name: str) -> None:
        ladder = probe.ladder(
            name,
            weights,
            at=where[0] if len(where) == 1 else where,
            strength=strength,
            instances=ladders.instance_rungs(out / "instances"),
            **options,
        )
        folder = ladder.save(out / folder_name(name))
        page = ladder.to_html(folder / "ladder.html")
        typer.echo(f"\nSPC, mean over targets\n{ladder.heights.round(2).to_string()}\n")
        for sentence in ladder.summary():
            typer.echo(f"* {sentence}")
        report.write_index(out)
        typer.echo(f"\nPage: {page}\nFigure: {folder / 'ladder.png'}")

    one_by_one(names, climb)


def _best_layer(model: str, folder: Path, weights: str) -> str:
    """Layer that knows most in the result that lies in a folder, else the last stage."""
    if (folder / "run.json").exists():
        table = probe.load(folder).table
        rows = table.query(
            "metric == 'spc' and variant == 'original' and layer not in ('input', 'concat')"
        )
        rows_of_weights = rows[rows["weights"] == weights]
        if len(rows_of_weights):
            return str(rows_of_weights["layer"].iloc[rows_of_weights["value"].argmax()])
    backbones.known_model(model)
    network = probe.load_backbone(model, "random", device="cpu").model
    return backbones.choose_layers(network, "stages", model)[0][-1]
