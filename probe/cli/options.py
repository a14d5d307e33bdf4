"""Options that commands share."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from ..backbones.choice import PRESETS
from ..errors import ProbeError
from ..readouts.base import READOUTS
from ..stimuli.opening import STIMULI
from ..targets import TARGETS

DEFAULT_MODEL = "tf_efficientnet_lite0"

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


def split_items(values: Iterable[str]) -> list[str]:
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


def parse_size(text: str | None) -> int | tuple[int, int] | None:
    if text is None:
        return None
    match = re.fullmatch(r"(\d+)(?:[x×](\d+))?", text.strip())
    if match is None:
        raise ProbeError(f"image size: expected 224, or 224x320 for height x width, got {text!r}")
    height, width = match.groups()
    return int(height) if width is None else (int(height), int(width))


def folder_name(model: str) -> str:
    return re.sub(r"[^\w.+-]+", "_", model).strip(".") or "model"
