"""The command ``probe``."""

from __future__ import annotations

import io
import re
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import typer

from . import __version__
from .attribution import GROUPS, attribute
from .backbones import available, expand_models, known_model, load_backbone
from .calibration import calibrate
from .certificates import certify, sources
from .coordconv.experiment import CoordConvStudy, run_tasks
from .coordconv.networks import PADDINGS
from .coordconv.tasks import SPLITS
from .coordconv.tasks import TASKS as COORDINATE_TASKS
from .errors import ProbeError, ProbeWarning
from .files import check_folder, write_files
from .instances.experiment import SCENES, InstanceStudy, run_instances
from .instances.experiment import TASKS as SEGMENTATIONS
from .instances.networks import BORDERS
from .ladders import STRENGTH, instance_rungs, ladder
from .ladders import TARGETS as LADDER_TARGETS
from .layers import PRESETS, choose_layers
from .planted import planted_summary, planted_truth
from .readouts import READOUTS
from .report.html import write_index
from .reproduction import PAPERS, reproduce
from .results import PLANTED, Result, interval, load, short_name
from .runner import DEFAULT_WEIGHTS, check_options, make_head, run
from .stimuli import STIMULI
from .surveys import findings, survey
from .targets import TARGETS
from .variants import VARIANTS, parse_variant

DEFAULT_MODEL = "tf_efficientnet_lite0"

# ---------------------------------------------------------------- options that commands share

Models = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="MODEL",
        help=f"timm names or globs such as 'resnet*'; without any, {DEFAULT_MODEL}.",
        show_default=False,
    ),
]
OneWeights = Annotated[
    str,
    typer.Option(
        help="pretrained, random (further draws: random:1, …), or a .safetensors or .pth file."
    ),
]
Layers = Annotated[
    list[str],
    typer.Option(help=f"{', '.join(PRESETS)}, or module names and globs such as 'blocks.*'."),
]
Targets = Annotated[
    list[str] | None,
    typer.Option(help=f"{', '.join(TARGETS)}; all by default.", show_default=False),
]
Source = Annotated[str, typer.Option(help=f"{', '.join(STIMULI)}, or a folder of photographs.")]
TrainImages = Annotated[int, typer.Option(help="Images to fit the readouts on.")]
TestImages = Annotated[int, typer.Option(help="Images to score the readouts on.")]
ImageSize = Annotated[
    str | None,
    typer.Option(
        metavar="PIXELS",
        help="224, or 224x320 for height x width; by default what timm says, rounded up to a "
        "multiple of the network's stride.",
        show_default=False,
    ),
]
BatchSize = Annotated[int, typer.Option(help="Images per forward pass.")]
ReadoutName = Annotated[str, typer.Option(help=f"{', '.join(READOUTS)}.")]
Kernel = Annotated[
    int | None,
    typer.Option(
        help="Of ridge: 1, or 3 to read neighbourhoods of 3 x 3 places.", show_default=False
    ),
]
Concat = Annotated[
    bool | None,
    typer.Option(
        help="Read all layers together, resized to a common grid; by default posenet alone does.",
        show_default=False,
    ),
]
Seed = Annotated[int, typer.Option(help="Of random weights, images and whatever else is drawn.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, …")]
Progress = Annotated[bool, typer.Option(help="Show progress bars.")]
Out = Annotated[Path, typer.Option(help="Folder of the reports.")]

REPORTS = Path("reports")
STAGES = ["stages"]


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


@app.command(
    "run",
    help="Probe one or more models and write a report for each.\n\n"
    "Lists are given comma-separated or by repeating the option. Each model's report.html, scores "
    "and profile (as .csv and .parquet), maps.npz, pattern.npz, channels.parquet and run.json go "
    "to OUT/MODEL/, and OUT/index.html covers all that is there.\n\n"
    "Exit status: 0 if all went well; 2 if what was asked for can't be done; 1 if some of several "
    "models failed; 130 after Ctrl-C.",
)
def run_command(
    models: Models = None,
    weights: Annotated[
        list[str],
        typer.Option(
            help="pretrained, random (further draws: random:1, random:2, …), or the path of a "
            ".safetensors or .pth file."
        ),
    ] = list(DEFAULT_WEIGHTS),  # noqa: B006 - typer reads it, nobody writes it
    variants: Annotated[
        list[str],
        typer.Option(
            help=f"How the backbone is run: {', '.join(VARIANTS)}; a border and an embedding part "
            "joined by +, as in circular+no_pos_embed."
        ),
    ] = ["original", "circular"],  # noqa: B006
    layers: Layers = STAGES,
    targets: Targets = None,
    stimuli: Source = "leaves",
    train_images: Annotated[
        int | None,
        typer.Option(
            help="Images to fit the readouts on: 256 by default, 2,048 for posenet.",
            show_default=False,
        ),
    ] = None,
    test_images: TestImages = 64,
    image_size: ImageSize = None,
    batch_size: BatchSize = 32,
    margin: Annotated[
        int | None,
        typer.Option(
            metavar="PIXELS",
            help="What the variant canvas shows on each side of the image; by default enough to "
            "keep it out of padding's reach.",
            show_default=False,
        ),
    ] = None,
    readout: ReadoutName = "ridge",
    kernel: Kernel = None,
    concat: Concat = None,
    seed: Seed = 0,
    device: Device = "auto",
    progress: Progress = True,
    out: Out = REPORTS,
) -> None:
    """Run the main job for each model, one after another."""
    head = make_head(readout, kernel, concat)
    options: dict[str, Any] = {
        "variants": _items(variants),
        "targets": _items(targets) if targets else list(TARGETS),
        "train_images": head.make().train_images if train_images is None else train_images,
        "test_images": test_images,
        "batch_size": batch_size,
        "readout": readout,
        "seed": seed,
    }
    check_options(**options)
    names = expand_models(_items(models) if models else [DEFAULT_MODEL])
    options |= {
        "kernel": kernel,
        "concat": concat,
        "weights": _items(weights),
        "layers": _items(layers),
        "stimuli": stimuli,
        "image_size": _pixels(image_size),
        "margin": margin,
        "device": device,
        "progress": progress,
    }
    check_folder(out)

    def probe_one(name: str) -> None:
        if len(names) > 1:
            typer.echo(f"[{names.index(name) + 1}/{len(names)}] {name}")
        result = run(name, **options)
        folder = result.save(out / _folder_name(name), report=True)
        index = write_index(out)
        typer.echo(summary(result))
        typer.echo(f"\nReport: {folder / 'report.html'}\nAll reports: {index}\n")

    _one_by_one(names, probe_one)


def _one_by_one(names: Sequence[str], work: Callable[[str], None], *, again: bool = True) -> None:
    """Do something for one model after another; go on with the others where one of them fails.

    Ends with status 1 if some of several failed, named once more if ``again``; with 130 after
    Ctrl-C.
    """
    failures: list[tuple[str, str]] = []
    for name in names:
        try:
            work(name)
        except KeyboardInterrupt:
            typer.echo("\nInterrupted. What was finished is kept in the output folder.", err=True)
            raise typer.Exit(130) from None
        except Exception as error:  # whatever it is, the other models still have their turn
            if len(names) == 1:
                raise
            reason = str(error)
            if not isinstance(error, ProbeError):
                reason = f"{type(error).__name__}: {' '.join(reason.split())[:200]}"
            typer.echo(f"{name}: error: {reason}", err=True)
            failures.append((name, reason))
    if failures and again:
        typer.echo(f"{len(failures)} of {len(names)} models failed:", err=True)
        for name, reason in failures:
            typer.echo(f"  {name}: {reason}", err=True)
    if failures:
        raise typer.Exit(1)


@app.command("models")
def models_command(
    pattern: Annotated[str, typer.Argument(help="A glob over timm's names.")] = "*",
    offline: Annotated[
        bool, typer.Option("--offline", help="Only those whose pretrained weights are at hand.")
    ] = False,
) -> None:
    """List the models that can be probed, and which pretrained weights are at hand offline."""
    if not any(c in pattern for c in "*?["):
        pattern = f"*{pattern}*"
    table = available(pattern)
    if offline:
        table = table[table["offline"] != ""]
    if table.empty:
        raise ProbeError(f"no timm model{' with weights at hand' * offline} matches {pattern!r}")
    lines = [("model", "pixels", "pretrained", "at hand offline")]
    for row in table.itertuples(index=False):
        lines.append((row.model, str(row.image_size), row.pretrained or "-", row.offline or "-"))
    for line in _aligned(lines):
        typer.echo(line)
    at_hand = int((table["offline"] != "").sum())
    typer.echo(
        f"\n{len(table)} models, every one of which can be probed with random weights or a "
        f"checkpoint file; pretrained weights at hand offline: {at_hand}"
    )


@app.command("sources")
def sources_command(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A timm name.")],
    image_size: ImageSize = None,
) -> None:
    """List every place from which position can enter a network."""
    table = sources(model, image_size=_pixels(image_size)).fillna("")
    if table.empty:
        typer.echo(f"{model}: no source of position was found")
        return
    lines = [tuple(table.columns)]
    lines += [tuple(str(cell) for cell in row) for row in table.itertuples(index=False)]
    for line in _aligned([(*line[:3], line[3][:48], *line[4:]) for line in lines]):
        typer.echo(line)
    counted = ", ".join(f"{kind} ({n})" for kind, n in table["kind"].value_counts().items())
    typer.echo(f"\n{model}: {counted}")


@app.command("certify")
def certify_command(
    models: Annotated[list[str], typer.Argument(metavar="MODEL...", help="timm names or globs.")],
    variant: Annotated[
        str,
        typer.Option(help=f"{', '.join(VARIANTS)}; parts are joined by +."),
    ] = "circular",
    weights: Annotated[
        str, typer.Option(help="random, pretrained, or a .safetensors or .pth file.")
    ] = "random",
    image_size: Annotated[
        str | None,
        typer.Option(
            metavar="PIXELS",
            help="224, or 224x320; by default the smallest that does.",
            show_default=False,
        ),
    ] = None,
    margin: Annotated[
        int | None,
        typer.Option(metavar="PIXELS", help="Of the variant canvas.", show_default=False),
    ] = None,
    seed: Seed = 0,
    device: Device = "auto",
) -> None:
    """Measure whether a variant leaves a network any source of position.

    Exit status: 0 if every model passes; 1 if one does not; 2 if what was asked for can't be done.
    """
    parse_variant(variant)
    names = expand_models(_items(models))
    size, failed = _pixels(image_size), []

    def certify_one(name: str) -> None:
        options = {"weights": weights, "image_size": size, "margin": margin}
        found = certify(name, variant, **options, seed=seed, device=device)
        if not found.passed:
            failed.append(name)
        typer.echo(
            f"{name}, {variant}: {'passes' if found.passed else 'fails'}; residual "
            f"{found.residual:.1e} (threshold {found.threshold:.0e}), contrast "
            f"{found.contrast:.1e}, shift {found.shift[0]} x {found.shift[1]} of "
            f"{found.image_size[0]} x {found.image_size[1]} pixels; {found.reason}"
        )
        if found.contact is not None:
            typer.echo(f"  margin {found.margin} pixels, contact {found.contact:.1e}")
        if not found.passed and found.sources:
            shown = ", ".join(found.sources[:4]) + (", …" if len(found.sources) > 4 else "")
            count = len(found.sources)
            remain = "1 source remains" if count == 1 else f"{count} sources remain"
            typer.echo(f"  {remain}: {shown}")

    _one_by_one(names, certify_one, again=False)
    if failed:
        raise typer.Exit(1)


@app.command("survey")
def survey_command(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="MODEL",
            help="timm names or globs; without any, all architectures.",
            show_default=False,
        ),
    ] = None,
    variant: Annotated[
        str, typer.Option(help=f"{', '.join(VARIANTS)}; parts are joined by +.")
    ] = "circular",
    max_parameters: Annotated[
        float | None,
        typer.Option(
            metavar="MILLIONS", help="Leave larger architectures out.", show_default=False
        ),
    ] = None,
    seed: Seed = 0,
    device: Device = "auto",
    progress: Progress = True,
    out: Annotated[Path, typer.Option(help="Folder of survey.csv and survey.html.")] = Path(
        "reports/survey"
    ),
) -> None:
    """Certify all architectures of timm, or some, with random weights; resumable."""
    check_folder(out)
    try:
        table = survey(
            _items(models) if models else "*",
            out,
            variant=variant,
            max_parameters=max_parameters,
            seed=seed,
            device=device,
            progress=progress,
        )
    except KeyboardInterrupt:
        typer.echo("\nInterrupted. What was finished is kept; run it again to go on.", err=True)
        raise typer.Exit(130) from None
    for sentence in findings(table):
        typer.echo(f"* {sentence}")
    if (out / "survey.csv").exists():
        typer.echo(f"\nTable: {out / 'survey.csv'}\nPage: {out / 'survey.html'}")


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
    names = expand_models(_items(models) if models else [DEFAULT_MODEL])
    check_folder(out)
    if len(names) == 1:
        known_model(names[0])
    if planted:
        table = planted_truth(repeats=2, seed=seed, progress=progress)
        write_files(out, {PLANTED: table.to_csv(index=False).encode()})
        typer.echo(f"* Planted truth: {planted_summary(table)} Table: {out / PLANTED}")

    def calibrate_one(name: str) -> None:
        folder = out / _folder_name(name)
        found = calibrate(
            name,
            weights,
            seeds=seeds,
            layers=_items(layers),
            targets=_items(targets) if targets else TARGETS,
            train_images=train_images,
            test_images=test_images,
            image_size=_pixels(image_size),
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
        _write_again(folder, out)

    _one_by_one(names, calibrate_one)


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
    folder = out / _folder_name(model)
    check_folder(folder)
    found = attribute(
        model,
        layer or _best_layer(model, folder, weights),
        _items(targets) if targets else ["horizontal", "vertical"],
        weights=weights,
        groups=groups,
        stimuli=stimuli,
        train_images=train_images,
        test_images=test_images,
        image_size=_pixels(image_size),
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
    for line in _aligned(lines):
        typer.echo(line)
    typer.echo("")
    for sentence in found.summary():
        typer.echo(f"* {sentence}")
    typer.echo(f"\nTable: {folder / 'attribution.csv'}\nFigure: {folder / 'attribution.png'}")
    _write_again(folder, out)


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
        _items(models) if models else None,
        weights=weights,
        train_images=train_images,
        test_images=test_images,
        image_size=_pixels(image_size) or 224,
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
    names = expand_models(_items(models) if models else [DEFAULT_MODEL])
    check_folder(out)
    where = _items(at)

    def climb(name: str) -> None:
        found = ladder(
            name,
            weights,
            layers=_items(layers),
            targets=_items(targets) if targets else LADDER_TARGETS,
            train_images=train_images,
            test_images=test_images,
            image_size=_pixels(image_size),
            batch_size=batch_size,
            at=where[0] if len(where) == 1 else where,
            strength=strength,
            seed=seed,
            device=device,
            progress=progress,
            instances=instance_rungs(out / "instances"),
        )
        folder = found.save(out / _folder_name(name))
        page = found.to_html(folder / "ladder.html")
        typer.echo(f"\nSPC, mean over targets\n{found.heights.round(2).to_string()}\n")
        for sentence in found.summary():
            typer.echo(f"* {sentence}")
        write_index(out)
        typer.echo(f"\nPage: {page}\nFigure: {folder / 'ladder.png'}")

    _one_by_one(names, climb)


QUICK = "A small profile of under 10 minutes on 2 cores, in place of the full one."
Seeds = Annotated[int, typer.Option(help="How many seeds.")]
FirstSeed = Annotated[int, typer.Option(help="The first seed.")]
Workers = Annotated[
    int | None,
    typer.Option(
        help="How many networks are trained side by side; by default one for each core, and one "
        "on a GPU.",
        show_default=False,
    ),
]


@app.command("coordconv")
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
    seed: FirstSeed = 0,
    device: Device = "auto",
    workers: Workers = None,
    progress: Progress = True,
    out: Out = REPORTS,
) -> None:
    """Teach networks positions and pixels, with coordinates and without; resumable.

    The coordinate tasks of Liu et al. (2018), with the column that the paper lacks: plain networks
    with zero, circular and no padding. Writes coordconv.html and the study's tables to
    OUT/coordconv/.
    """
    _study(
        out / "coordconv",
        lambda folder: run_tasks(
            _items(tasks or COORDINATE_TASKS),
            _items(splits or SPLITS),
            paddings=_items(paddings or PADDINGS),
            seeds=seeds,
            quick=quick,
            epochs=epochs,
            seed=seed,
            device=device,
            workers=workers,
            progress=progress,
            folder=folder,
        ),
    )


@app.command("instances")
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
    seed: FirstSeed = 0,
    device: Device = "auto",
    workers: Workers = None,
    progress: Progress = True,
    out: Out = REPORTS,
) -> None:
    """Teach a small network to tell objects apart, with every kind of border; resumable.

    Exact copies of an object look the same to an equivariant network: it takes position to tell
    them apart, and none to name them. Writes instances.html and the study's tables to
    OUT/instances/.
    """
    _study(
        out / "instances",
        lambda folder: run_instances(
            _items(scenes or SCENES),
            _items(borders or BORDERS),
            _items(tasks or SEGMENTATIONS),
            seeds=seeds,
            quick=quick,
            steps=steps,
            seed=seed,
            device=device,
            workers=workers,
            progress=progress,
            folder=folder,
        ),
    )


def _study(folder: Path, run_it: Callable[[Path], CoordConvStudy | InstanceStudy]) -> None:
    """Run a study, save it and its page, and say what it found."""
    check_folder(folder)
    try:
        found = run_it(folder)
    except KeyboardInterrupt:
        typer.echo("\nInterrupted. What was finished is kept; run it again to go on.", err=True)
        raise typer.Exit(130) from None
    found.save(folder)
    page = found.to_html(folder / f"{folder.name}.html")
    for sentence in found.summary():
        typer.echo(f"* {sentence}")
    write_index(folder.parent)
    typer.echo(f"\nTable: {folder / 'scores.csv'}\nPage: {page}")


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


def _write_again(folder: Path, out: Path) -> None:
    """Bring the report in a folder up to date with what lies beside it."""
    if (folder / "run.json").exists():
        load(folder).to_html(folder / "report.html")
        write_index(out)
        typer.echo(f"Report: {folder / 'report.html'}")


def summary(result: Result) -> str:
    """Say a result in a terminal: SPC of each layer, then the verdict."""
    rows = result.table[result.table["metric"] == "spc"]
    conditions = result.conditions
    weights = list(dict.fromkeys(w for w, _ in conditions))
    variants = list(dict.fromkeys(v for _, v in conditions))
    blocks = []
    for w in weights:
        wide = rows[rows["weights"] == w].pivot_table(
            index="layer", columns=["variant", "target"], values="value"
        )
        table = pd.DataFrame(
            {
                target.replace("_", " "): [
                    " → ".join(_score(wide.loc[layer, (v, target)]) for v in variants)
                    for layer in result.layers
                ]
                for target in result.targets
            },
            index=result.layers,
        )
        title = f"SPC, {short_name(w)} weights, {' → '.join(variants)}"
        blocks.append(f"\n{title}\n{table.to_string()}")
    return "\n".join([*blocks, "", *(f"* {sentence}" for sentence in result.verdict())])


def _aligned(lines: Sequence[tuple[str, ...]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        cells = [cell.ljust(width) for cell, width in zip(line, widths, strict=True)]
        yield "  ".join(cells).rstrip()


def _score(value: float) -> str:
    return f"{value:.2f}".replace("-0.00", "0.00").replace("-", "−")


def _items(values: Iterable[str]) -> list[str]:
    """Split at commas, but not inside the brackets of a glob nor the path of a file."""
    items: list[str] = []
    for value in values:
        items += [value] if _exists(value) else re.split(r",(?![^\[]*\])", value)
    return [item.strip() for item in items if item.strip()]


def _exists(path: str) -> bool:
    try:
        return Path(path).expanduser().exists()
    except OSError:
        return False


def _pixels(text: str | None) -> int | tuple[int, int] | None:
    if text is None:
        return None
    match = re.fullmatch(r"(\d+)(?:[x×](\d+))?", text.strip())
    if match is None:
        raise ProbeError(f"image size: expected 224, or 224x320 for height x width, got {text!r}")
    height, width = match.groups()
    return int(height) if width is None else (int(height), int(width))


def _folder_name(model: str) -> str:
    return re.sub(r"[^\w.+-]+", "_", model).strip(".") or "model"


@contextmanager
def _plain_warnings() -> Iterator[None]:
    """Show Probe's cautions as one line each."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", ProbeWarning)
        show = warnings.showwarning

        def line(message: Any, category: Any, *rest: Any, **named: Any) -> None:
            if issubclass(category, ProbeWarning):
                typer.echo(f"warning: {message}", err=True)
            else:
                show(message, category, *rest, **named)

        warnings.showwarning = line
        yield


def main() -> None:
    """Run the command; explain what can't be done in one sentence and exit with status 2."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    try:
        with _plain_warnings():
            app()
    except ProbeError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(2)
