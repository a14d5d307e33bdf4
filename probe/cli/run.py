"""The command `probe run`."""

from __future__ import annotations

from typing import Annotated, Any

import pandas as pd
import typer

from ..analyses.run import run
from ..backbones.catalogue import expand_models
from ..files import check_folder
from ..report.index import write_index
from ..results import Result
from ..runner.options import DEFAULT_WEIGHTS, check_options, make_head
from ..targets import TARGETS
from ..text import short_name
from ..variants.variant import VARIANTS
from .app import app, one_by_one
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
    Out,
    Progress,
    ReadoutName,
    Seed,
    Source,
    Targets,
    TestImages,
    folder_name,
    parse_size,
    split_items,
)


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
        "variants": split_items(variants),
        "targets": split_items(targets) if targets else list(TARGETS),
        "train_images": head.make().train_images if train_images is None else train_images,
        "test_images": test_images,
        "batch_size": batch_size,
        "readout": readout,
        "seed": seed,
    }
    check_options(**options)
    names = expand_models(split_items(models) if models else [DEFAULT_MODEL])
    options |= {
        "kernel": kernel,
        "concat": concat,
        "weights": split_items(weights),
        "layers": split_items(layers),
        "stimuli": stimuli,
        "image_size": parse_size(image_size),
        "margin": margin,
        "device": device,
        "progress": progress,
    }
    check_folder(out)

    def probe_one(name: str) -> None:
        if len(names) > 1:
            typer.echo(f"[{names.index(name) + 1}/{len(names)}] {name}")
        result = run(name, **options)
        folder = result.save(out / folder_name(name), report=True)
        index = write_index(out)
        typer.echo(summary(result))
        typer.echo(f"\nReport: {folder / 'report.html'}\nAll reports: {index}\n")

    one_by_one(names, probe_one)


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


def _score(value: float) -> str:
    return f"{value:.2f}".replace("-0.00", "0.00").replace("-", "−")
