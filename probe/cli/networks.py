"""Commands about networks: models, sources, certify, survey."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..analyses.survey.survey import survey
from ..analyses.survey.table import findings
from ..backbones.catalogue import available, expand_models
from ..certificates.certify import certify, sources
from ..errors import ProbeError
from ..files import check_folder
from ..variants.variant import VARIANTS, parse_variant
from .app import aligned, app, one_by_one
from .options import Device, ImageSize, Progress, Seed, parse_size, split_items


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
    for line in aligned(lines):
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
    table = sources(model, image_size=parse_size(image_size)).fillna("")
    if table.empty:
        typer.echo(f"{model}: no source of position was found")
        return
    lines = [tuple(table.columns)]
    lines += [tuple(str(cell) for cell in row) for row in table.itertuples(index=False)]
    for line in aligned([(*line[:3], line[3][:48], *line[4:]) for line in lines]):
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
    names = expand_models(split_items(models))
    size, failed = parse_size(image_size), []

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

    one_by_one(names, certify_one, again=False)
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
            split_items(models) if models else "*",
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
