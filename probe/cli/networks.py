"""Commands about networks: glossary, models, sources, padding-sizes, layers, certify, survey."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from tqdm.auto import tqdm

import probe

from .. import backbones
from ..analyses import survey as surveys
from ..errors import ProbeError
from ..files import check_folder
from ..glossary import GLOSSARY
from ..variants import parse_variant
from .app import aligned, app, one_by_one
from .options import REPORTS, split_items, with_options

MaxParameters = Annotated[
    float | None,
    typer.Option(metavar="MILLIONS", help="Leave larger architectures out.", show_default=False),
]

VariantName = Annotated[str, typer.Option(help="{variants}; parts are joined by +.")]


@app.command("glossary")
def glossary_command(
    word: Annotated[str, typer.Argument(help="One of its words, or a part of one.")] = "",
) -> None:
    """Say what Probe's words mean."""
    found = {w: meaning for w, meaning in GLOSSARY.items() if word.lower() in w.lower()}
    if not found:
        raise ProbeError(f"no such word: {word!r}; the glossary has {', '.join(GLOSSARY)}")
    for known, meaning in found.items():
        typer.echo(f"{known}: {meaning.replace('`', '')}")


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
    table = probe.available(pattern)
    if offline:
        table = table[table["offline"] != ""]
    if table.empty:
        raise ProbeError(f"no timm model{' with weights at hand' * offline} matches {pattern!r}")
    lines = [("model", "pixels", "pretrained", "at hand offline")]
    for row in table.to_dict("records"):
        pixels = str(row["image_size"])
        lines.append((row["model"], pixels, row["pretrained"] or "-", row["offline"] or "-"))
    for line in aligned(lines):
        typer.echo(line)
    at_hand = int((table["offline"] != "").sum())
    typer.echo(
        f"\n{len(table)} models, every one of which can be probed with random weights or a "
        f"checkpoint file; pretrained weights at hand offline: {at_hand}"
    )


@app.command("sources")
@with_options("image_size")
def sources_command(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A timm name.")], **options: Any
) -> None:
    """List every place from which position can enter a network."""
    table = probe.sources(model, **options)
    words = {True: "yes", False: "no"}
    table = table.assign(**{n: table[n].map(words) for n in ("consumed", "even")}).fillna("")
    if table.empty:
        typer.echo(f"{model}: no source of position was found")
        return
    lines = [tuple(table.columns)]
    lines += [tuple(str(cell) for cell in row) for row in table.itertuples(index=False)]
    for line in aligned(lines):
        typer.echo(line)
    counted = ", ".join(f"{kind} ({n})" for kind, n in table["kind"].value_counts().items())
    typer.echo(f"\n{model}: {counted}")


@app.command("padding-sizes")
def padding_sizes_command(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A timm name.")],
    image_size: Annotated[
        int | None,
        typer.Option(
            help="Pixels around which to look; by default the network's own.", show_default=False
        ),
    ] = None,
    within: Annotated[
        int | None,
        typer.Option(
            help="How many pixels below and above it; by default the network's total stride.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Find image sizes at which every strided call reads as much padding on opposite sides."""
    table = probe.padding_sizes(model, image_size=image_size, within=within)
    ran = table[table["refused"] == ""]
    span = f"{table['image_size'].iloc[0]} to {table['image_size'].iloc[-1]} pixels"
    if not ran["calls"].max():
        typer.echo(f"{model}: no call with a stride pads, so that padding is even at every size")
        return
    sizes = ", ".join(map(str, ran.loc[ran["even"], "image_size"])) or "none"
    typer.echo(f"{model}: of {span} padding is even everywhere at: {sizes}")
    middle = ran.iloc[(ran["image_size"] - table["image_size"].median()).abs().argmin()]
    typer.echo(
        f"at {middle['image_size']} pixels it is uneven in {middle['uneven']} of "
        f"{middle['calls']} padded calls with a stride"
        + (f", the first {middle['first']}" if middle["uneven"] else "")
    )
    if len(ran) < len(table):
        refused = table[table["refused"] != ""]
        why = refused["refused"].iloc[0]
        typer.echo(f"{len(refused)} of {len(table)} sizes are refused: {why}")


@app.command("layers")
@with_options("image_size", "device")
def layers_command(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A timm name.")],
    left_out: Annotated[
        bool, typer.Option("--left-out", help="List what can't be probed too, and why.")
    ] = False,
    **options: Any,
) -> None:
    """List the layers of a network that can be probed, and how that was found out."""
    table = probe.layers(model, left_out=True, **options)
    faulty = table["fault"] != ""
    lines = [("name", "kind", "shape", "stride", "layout", "extra", "calls", "decided", "taken by")]
    for row in table[~faulty].to_dict("records"):
        strides = [f"{row[word]:.3g}" for word in ("row_stride", "column_stride")]
        cells = (
            *(row["name"], row["kind"], f"{row['channels']} x {row['height']} x {row['width']}"),
            *(" x ".join(dict.fromkeys(strides)), row["layout"]),
            f"{row['prefix']}+{row['suffix']}" if row["suffix"] else str(row["prefix"]),
            *(str(row["calls"]), row["decided"]),
            " ".join(preset for preset in backbones.PRESETS if row[preset]),
        )
        lines.append(cells)
    for line in aligned(lines):
        typer.echo(line)
    taken = ", ".join(f"{preset} {table[preset].sum()}" for preset in backbones.PRESETS)
    typer.echo(
        f"\n{model}: {(~faulty).sum()} layers can be probed. Each name can be given to --layers, "
        f"and so can a group of them: {taken}.\n"
        "shape: channels x rows x columns; stride: pixels of the image from one place to the "
        "next; layout: the axes of the output (N images, C channels, H rows, W columns, L tokens, "
        "T blocks of tokens); extra: tokens that stand for no place; decided: how the layout was "
        "found out."
    )
    if left_out:
        for name, fault in table.loc[faulty, ["name", "fault"]].itertuples(index=False):
            typer.echo(f"{name}: {fault}")
    elif faulty.any():
        typer.echo(f"{faulty.sum()} modules can't be probed; --left-out says why.")


@app.command("certify")
@with_options("image_size", "margin", "seed", "device", "progress")
def certify_command(
    models: Annotated[list[str], typer.Argument(metavar="MODEL...", help="timm names or globs.")],
    variant: VariantName = "circular",
    weights: Annotated[
        str, typer.Option(help="random, pretrained, or a .safetensors or .pth file.")
    ] = "random",
    max_parameters: MaxParameters = None,
    **options: Any,
) -> None:
    """Measure whether a variant leaves a network any source of position.

    Exit status: 0 if every model passes; 1 if one does not; 2 if what was asked for can't be done.
    """
    parse_variant(variant)
    names = backbones.expand_models(split_items(models))
    progress, failed = options.pop("progress"), []

    def certify_one(name: str) -> None:
        if max_parameters is not None and surveys.parameters(name) > max_parameters * 1e6:
            tqdm.write(f"{name}: left out, {surveys.parameters(name) / 1e6:,.0f} M parameters")
            return
        certificate = probe.certify(name, variant, weights=weights, **options)
        if not certificate.passed:
            failed.append(name)
        (down, right), (height, width) = certificate.shift, certificate.image_size
        tqdm.write(
            f"{name}, {variant}: {'passes' if certificate.passed else 'fails'}; residual "
            f"{certificate.residual:.1e} (threshold {certificate.threshold:.0e}), contrast "
            f"{certificate.contrast:.1e}, shift {down} x {right} of {height} x {width} pixels; "
            f"{certificate.reason}"
        )
        if certificate.contact is not None:
            tqdm.write(f"  margin {certificate.margin} pixels, contact {certificate.contact:.1e}")
        if not certificate.passed and certificate.sources:
            shown = ", ".join(certificate.sources[:4]) + (
                ", …" if len(certificate.sources) > 4 else ""
            )
            count = len(certificate.sources)
            remain = "1 source remains" if count == 1 else f"{count} sources remain"
            tqdm.write(f"  {remain}: {shown}")

    one_by_one(names, certify_one, again=False, bar="certify" if progress else None)
    if failed:
        raise typer.Exit(1)


@app.command("survey")
@with_options("seed", "device", "progress")
def survey_command(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="MODEL",
            help="timm names or globs; without any, all architectures.",
            show_default=False,
        ),
    ] = None,
    variants: Annotated[
        str, typer.Option(help="Variants, separated by commas, see `probe run --help`.")
    ] = "circular,no_position",
    max_parameters: MaxParameters = None,
    processes: Annotated[
        bool,
        typer.Option(
            "--processes/--inside",
            help="Each architecture in a process of its own, on one thread, or all in this one.",
        ),
    ] = False,
    out: Annotated[Path, typer.Option(help="Folder of survey.csv and survey.html.")] = REPORTS
    / "survey",
    **options: Any,
) -> None:
    """Certify all architectures of timm, or some, with random weights; resumable."""
    check_folder(out)
    try:
        table = probe.survey(
            split_items(models) if models else "*",
            out,
            variants=split_items([variants]),
            max_parameters=max_parameters,
            processes=processes,
            **options,
        )
    except KeyboardInterrupt:
        typer.echo("\nInterrupted. What was finished is kept; run it again to go on.", err=True)
        raise typer.Exit(130) from None
    for sentence in surveys.findings(table):
        typer.echo(f"* {sentence}")
    if (out / "survey.csv").exists():
        typer.echo(f"\nTable: {out / 'survey.csv'}\nPage: {out / 'survey.html'}")
