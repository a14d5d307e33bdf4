"""Commands of analyses: calibrate, attribute, reproduce, ladder."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Annotated

import typer

from ..analyses.attribution.attribution import attribute
from ..analyses.attribution.units import GROUPS
from ..analyses.calibration import calibrate
from ..analyses.ladder.ladder import ladder
from ..analyses.ladder.rungs import STRENGTH, instance_rungs
from ..analyses.ladder.rungs import TARGETS as LADDER_TARGETS
from ..analyses.planted.recovery import planted_summary, planted_truth
from ..analyses.reproduction.published import PAPERS
from ..analyses.reproduction.reproduction import reproduce
from ..backbones.backbone import load_backbone
from ..backbones.catalogue import expand_models, known_model
from ..backbones.choice import choose_layers
from ..files import check_folder, write_files
from ..report.index import write_index
from ..results import PLANTED, load
from ..targets import TARGETS
from ..text import interval
from .app import aligned, app, one_by_one, write_again
from .options import (
    DEFAULT_MODEL,
    REPORTS,
    STAGES,
    BatchSize,
    Concat,
    Device,
    ImageSize,
    Kernel,
    Layers,
    Models,
    OneWeights,
    Out,
    Progress,
    ReadoutName,
    Seed,
    Source,
    Targets,
    TestImages,
    TrainImages,
    folder_name,
    parse_size,
    split_items,
)


@app.command("calibrate")
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
    layers: Layers = STAGES,
    targets: Targets = None,
    train_images: TrainImages = 256,
    test_images: TestImages = 64,
    image_size: ImageSize = None,
    batch_size: BatchSize = 32,
    readout: ReadoutName = "ridge",
    kernel: Kernel = None,
    concat: Concat = None,
    planted: Annotated[
        bool, typer.Option(help="Also recover planted truth, which takes a minute or two.")
    ] = True,
    seed: Seed = 0,
    device: Device = "auto",
    progress: Progress = True,
    out: Out = REPORTS,
) -> None:
    """Measure how often intervals find position where there is none; resumable.

    Runs the pipeline under circular padding on leaves, with other images each time: the truth is 0,
    and 5 % of 95 % intervals should exclude it. Writes calibration.csv and calibration.json to
    OUT/MODEL/, and a section into the report that lies there.
    """
    names = expand_models(split_items(models) if models else [DEFAULT_MODEL])
    check_folder(out)
    if len(names) == 1:
        known_model(names[0])
    if planted:
        table = planted_truth(repeats=2, seed=seed, progress=progress)
        write_files(out, {PLANTED: table.to_csv(index=False).encode()})
        typer.echo(f"* Planted truth: {planted_summary(table)} Table: {out / PLANTED}")

    def calibrate_one(name: str) -> None:
        folder = out / folder_name(name)
        found = calibrate(
            name,
            weights,
            seeds=seeds,
            layers=split_items(layers),
            targets=split_items(targets) if targets else TARGETS,
            train_images=train_images,
            test_images=test_images,
            image_size=parse_size(image_size),
            batch_size=batch_size,
            readout=readout,
            kernel=kernel,
            concat=concat,
            seed=seed,
            device=device,
            progress=progress,
            folder=folder,
        )
        for sentence in found.summary():
            typer.echo(f"* {sentence}")
        write_again(folder, out)

    one_by_one(names, calibrate_one)


@app.command("attribute")
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
        list[str] | None,
        typer.Option(
            help=f"{', '.join(TARGETS)}; horizontal and vertical by default.", show_default=False
        ),
    ] = None,
    weights: OneWeights = "pretrained",
    groups: Annotated[
        str, typer.Option(help=f"{', '.join(GROUPS)}: which padded calls go together.")
    ] = "calls",
    stimuli: Source = "leaves",
    train_images: TrainImages = 128,
    test_images: TestImages = 64,
    image_size: ImageSize = None,
    batch_size: BatchSize = 32,
    seed: Seed = 0,
    device: Device = "auto",
    progress: Progress = True,
    out: Out = REPORTS,
) -> None:
    """Find out which padded calls, and which sides of the image, a layer has its position from.

    For each of them the score when it alone keeps its padding, and when all but it do. Writes
    attribution.csv, attribution.json and attribution.png to OUT/MODEL/, and a section into the
    report that lies there.
    """
    folder = out / folder_name(model)
    check_folder(folder)
    found = attribute(
        model,
        layer or _best_layer(model, folder, weights),
        split_items(targets) if targets else ["horizontal", "vertical"],
        weights=weights,
        groups=groups,
        stimuli=stimuli,
        train_images=train_images,
        test_images=test_images,
        image_size=parse_size(image_size),
        batch_size=batch_size,
        seed=seed,
        device=device,
        progress=progress,
    )
    found.save(folder)
    picture = io.BytesIO()
    found.plot().savefig(picture, dpi=150)
    write_files(folder, {"attribution.png": picture.getvalue()})
    rows = found.table[found.table["metric"] == "spc"]
    lines = [("unit", "target", "keeps", "SPC", "effect")]
    lines += [
        (
            row.unit,
            row.target,
            row.keeps,
            interval(row.value, row.low, row.high),
            interval(row.effect, row.effect_low, row.effect_high),
        )
        for row in rows.itertuples()
    ]
    for line in aligned(lines):
        typer.echo(line)
    typer.echo("")
    for sentence in found.summary():
        typer.echo(f"* {sentence}")
    typer.echo(f"\nTable: {folder / 'attribution.csv'}\nFigure: {folder / 'attribution.png'}")
    write_again(folder, out)


@app.command("reproduce")
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
    train_images: TrainImages = 512,
    test_images: TestImages = 64,
    image_size: Annotated[str, typer.Option(metavar="PIXELS", help="224, or 224x320.")] = "224",
    batch_size: BatchSize = 32,
    readout: ReadoutName = "posenet",
    seed: Seed = 0,
    device: Device = "auto",
    progress: Progress = True,
    out: Annotated[Path, typer.Option(help="Folder of table and page.")] = Path(
        "reports/reproduction"
    ),
) -> None:
    """Measure a published table again, beside the published figures.

    Rows whose weights or images can't be had say so. Writes reproduction.csv, reproduction.json and
    reproduction.html to OUT.
    """
    check_folder(out)
    found = reproduce(
        paper,
        images,
        split_items(models) if models else None,
        weights=weights,
        train_images=train_images,
        test_images=test_images,
        image_size=parse_size(image_size) or 224,
        batch_size=batch_size,
        readout=readout,
        seed=seed,
        device=device,
        progress=progress,
        folder=out,
    )
    found.save(out)
    page = found.to_html(out / "reproduction.html")
    for sentence in found.summary():
        typer.echo(f"* {sentence}")
    typer.echo(f"\nPage: {page}")


@app.command("ladder")
def ladder_command(
    models: Models = None,
    weights: OneWeights = "pretrained",
    layers: Layers = STAGES,
    targets: Annotated[
        list[str] | None,
        typer.Option(
            help=f"{', '.join(TARGETS)}; horizontal, vertical and gaussian by default.",
            show_default=False,
        ),
    ] = None,
    train_images: TrainImages = 256,
    test_images: TestImages = 64,
    image_size: ImageSize = None,
    batch_size: BatchSize = 32,
    at: Annotated[
        list[str],
        typer.Option(help="Which convolutions get coordinates: convs, stem, or names and globs."),
    ] = ["convs"],  # noqa: B006
    strength: Annotated[
        float,
        typer.Option(help="Deviation of the coordinates' part of a channel over the channel's."),
    ] = STRENGTH,
    seed: Seed = 0,
    device: Device = "auto",
    progress: Progress = True,
    out: Out = REPORTS,
) -> None:
    """Probe a network on three rungs: no border, zero padding, coordinates given.

    Writes ladder.html, ladder.png, ladder.csv, ladder.parquet and ladder.json to OUT/MODEL/. Where
    `probe instances` has been run into OUT, its rungs stand beside.
    """
    names = expand_models(split_items(models) if models else [DEFAULT_MODEL])
    check_folder(out)
    where = split_items(at)

    def climb(name: str) -> None:
        found = ladder(
            name,
            weights,
            layers=split_items(layers),
            targets=split_items(targets) if targets else LADDER_TARGETS,
            train_images=train_images,
            test_images=test_images,
            image_size=parse_size(image_size),
            batch_size=batch_size,
            at=where[0] if len(where) == 1 else where,
            strength=strength,
            seed=seed,
            device=device,
            progress=progress,
            instances=instance_rungs(out / "instances"),
        )
        folder = found.save(out / folder_name(name))
        page = found.to_html(folder / "ladder.html")
        typer.echo(f"\nSPC, mean over targets\n{found.heights.round(2).to_string()}\n")
        for sentence in found.summary():
            typer.echo(f"* {sentence}")
        write_index(out)
        typer.echo(f"\nPage: {page}\nFigure: {folder / 'ladder.png'}")

    one_by_one(names, climb)


def _best_layer(model: str, folder: Path, weights: str) -> str:
    """Layer that knows most in the result that lies in a folder, else the last stage."""
    if (folder / "run.json").exists():
        table = load(folder).table
        rows = table.query(
            "metric == 'spc' and variant == 'original' and layer not in ('input', 'concat')"
        )
        mine = rows[rows["weights"] == weights]
        if len(mine):
            return str(mine.loc[mine["value"].idxmax(), "layer"])
    known_model(model)
    network = load_backbone(model, "random", device="cpu").model
    return choose_layers(network, "stages", model)[0][-1]
