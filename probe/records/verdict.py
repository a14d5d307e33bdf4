"""What a record says in words: the strongest first, cautions after."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import pandas as pd

from ..certificates.certificate import Certificate
from ..targets import knowledge
from ..text import families, interval, percent, short_name, signed
from ..variants.variant import parse_variant
from .record import Record

KNOWS = 0.5
"""SPC from which the verdict says that a layer knows a target."""

LOCATES = 0.75
"""Part of the localisation error of chance below which the verdict quotes a layer's."""

_SPC_COLUMNS = [
    *("value", "low", "high", "difference", "difference_low", "difference_high", "padding_share"),
]


def _spc(record: Record) -> pd.DataFrame:
    rows = record.table[record.table["metric"] == "spc"]
    columns = ["weights", "variant", "layer", "target"]
    return rows.set_index(columns)[_SPC_COLUMNS].sort_index()


def verdict_of(record: Record) -> list[str]:
    spc = _spc(record)
    layers = [layer for layer in record.layers if layer != "input"]
    variants = list(dict.fromkeys(v for _, v in record.conditions))
    groups = families(w for w, _ in record.conditions)
    reference = "original" if "original" in variants else variants[0]
    first = ("circular", "canvas", "valid", *variants)
    removal = next((v for v in first if v in variants and v != reference), None)
    sentences: list[str] = []
    for group, members in groups.items():
        sentences += _knowledge(record, spc, group, members, layers, reference, removal, groups)
    sentences += _pixels(record, spc, reference)
    if removal is not None:
        for members in groups.values():
            sentences.append(_removal(record, spc, members, layers, removal, groups))

    for v in variants:
        for group, members in groups.items() if not v == reference == "original" else ():
            found = {w: record.certificates[w, v] for w in members if (w, v) in record.certificates}
            sentences += _certified(v, group, found)
    sentences += _random_beats_trained(spc, groups, layers, record.targets, reference)
    return sentences


def _knowledge(
    record: Record,
    spc: pd.DataFrame,
    group: str,
    members: Sequence[str],
    layers: Sequence[str],
    reference: str,
    removal: str | None,
    groups: Mapping[str, Sequence[str]],
) -> Iterator[str]:
    """What the layers know, best first, and how much of it goes with padding."""
    mine = spc.loc[(list(members), [reference], list(layers)), :]
    key: Any = mine["value"].idxmax()
    w, _, layer, target = key
    best = mine.loc[key]
    # Of many intervals about 0 some exclude it by chance; a certificate does not.
    certified = record.certificates[(w, reference)].passed
    named = f"{short_name(w)} weights"
    if len(members) > 1:
        named = f"{short_name(group)} weights, the best of {len(members)} seeds"
    who = f"{layer} ({named})" if len(groups) > 1 else layer
    score = interval(*best[["value", "low", "high"]])
    shown = math.isnan(best["low"]) or best["low"] > 0
    if certified:
        text = (
            f"No layer knows its position under {short_name(group)} weights, {reference}: the "
            f"network is translation equivariant, highest SPC {score}"
        )
    elif shown and best["value"] >= KNOWS:
        text = f"{who} knows {knowledge(target)}: SPC {score}"
    elif shown:
        text = f"{who} hints at {knowledge(target)}: SPC {score}, the highest of all layers"
    else:
        text = f"No layer shows its position under {named}: highest SPC {score}"
    if removal is not None:
        bare: Any = spc.loc[cast(Any, (w, removal, layer, target))]
        text += f"; {_how(removal)} {interval(*bare[['value', 'low', 'high']])}"
        if shown and not certified and not math.isnan(bare["difference"]):
            names = ["difference", "difference_low", "difference_high"]
            text += f", a difference of {interval(*bare[names])}"
        if not math.isnan(bare["padding_share"]):
            text += f": {percent(bare['padding_share'])} of it came from padding"
    yield text + "."

    rows = record.table[
        (record.table["metric"] == "error_px")
        & (record.table["weights"] == w)
        & (record.table["layer"] != "input")
    ]
    there = rows[rows["variant"] == reference]
    if there.empty or certified:
        return
    nearest = there.iloc[int(there["value"].argmin())]
    if not nearest["value"] < LOCATES * nearest["chance"] or nearest["high"] > nearest["chance"]:
        return
    side = max(record.provenance["options"]["image_size"])
    text = (
        f"{nearest['layer']}{f' ({named})' * (len(groups) > 1)} knows where it is to within "
        f"{nearest['value']:.0f} px of {side}"
    )
    if not math.isnan(nearest["low"]):
        text += f" [{max(nearest['low'], 0):.0f}, {nearest['high']:.0f}]"
    if removal is not None:
        bare = rows[(rows["variant"] == removal) & (rows["layer"] == nearest["layer"])].iloc[0]
        text += f"; {_how(removal)} {bare['value']:.0f} px"
        if not math.isclose(bare["chance"], nearest["chance"], rel_tol=0.05):
            text += f" of the middle alone, where chance is {bare['chance']:.0f} px"
    yield f"{text}; chance is {nearest['chance']:.0f} px."


def _pixels(record: Record, spc: pd.DataFrame, reference: str) -> Iterator[str]:
    """What can be read from the input itself."""
    w = record.conditions[0][0]
    if "input" not in record.layers:
        return
    mine = spc.loc[cast(Any, (w, reference, "input"))]
    target = str(mine["value"].idxmax())
    best = mine.loc[target]
    score = interval(*best[["value", "low", "high"]])
    unsure = math.isnan(best["low"])
    if (best["low"] > 0 or unsure) and best["value"] > 0.1:
        yield (
            f"Caution: {knowledge(target).replace('its ', '')} can be read from the pixels "
            f"themselves, SPC {score}: the stimuli carry position of their own."
        )
    else:
        little = "hardly any" if best["low"] > 0 or unsure else "no"
        yield f"From the pixels themselves {little} position can be read: highest SPC {score}."


def _removal(
    record: Record,
    spc: pd.DataFrame,
    members: Sequence[str],
    layers: Sequence[str],
    removal: str,
    groups: Mapping[str, Sequence[str]],
) -> str:
    gone = spc.loc[(list(members), removal, list(layers)), :]
    holds = int(((gone["low"] <= 0) & (gone["high"] >= 0)).sum())
    extreme = float(gone["value"].abs().max())
    who = "the network leaves"
    if len(groups) > 1:
        who = f"{short_name(members[0])} weights leave"
        if len(members) > 1:
            who = f"random weights ({len(members)} seeds) leave"
    counted = f"; {holds} of {len(gone)} intervals contain 0"
    if _is_null(record, members, removal):
        counted += " (about 95 % should)"
    return (
        f"{_how(removal).capitalize()} {who} "
        f"|SPC| ≤ {math.ceil(extreme * 100 - 1e-9) / 100:.2f} at every layer and target"
        f"{'' if gone['low'].isna().any() else counted}."
    )


def _is_null(record: Record, members: Sequence[str], variant: str) -> bool:
    """Whether there is no position to be found: neither the network's own nor the stimuli's."""
    found, stimuli = record.certificates.items(), record.provenance["stimuli"]
    return (
        parse_variant(variant).removes_padding
        and bool(stimuli["stationary"])
        and bool(stimuli["tileable"] or "circular" not in variant)
        and all(c.passed for (w, v), c in found if v == variant and w in members)
    )


def _certified(variant: str, group: str, found: Mapping[str, Certificate]) -> Iterator[str]:
    """What the certificates of one variant say; of several random draws the worst."""
    if not found:
        return
    failed = {w: c for w, c in found.items() if not c.passed}
    w, certificate = max((failed or found).items(), key=lambda item: _order(item[1].residual))
    who = f"{variant}, {short_name(w)} weights"
    if len(found) > 1:
        who = f"{variant}, {short_name(group)} weights ({len(found)} seeds)"
    if certificate.passed:
        yield (
            f"Certificate of {who}: passes, equivariance residual "
            f"{certificate.residual:.1e} ≤ {certificate.threshold:.0e}."
        )
    elif parse_variant(variant).removes_padding:
        if math.isnan(certificate.residual) or certificate.residual <= certificate.threshold:
            yield (
                f"Certificate of {who}: fails ({certificate.reason}); "
                "position that this variant still shows is not ruled out to be padding's."
            )
        else:
            yield (
                f"Certificate of {who}: fails, equivariance residual "
                f"{certificate.residual:.1e}: {certificate.reason}. A source of position is left."
            )
    touching = [c for c in found.values() if c.contact]
    if touching:
        worst = max(touching, key=lambda c: _order(c.contact or 0.0))
        yield (
            f"Caution: on the canvas of {who} padding still reaches the probed region "
            f"(contact {worst.contact:.1e} at a margin of {worst.margin} pixels): "
            "some operation spans the whole image, or the margin is too small."
        )
    elif certificate.contact == 0:
        yield (
            f"Canvas of {who}: with a margin of {certificate.margin} pixels nothing that "
            "padding writes reaches the probed region."
        )


def _order(value: float) -> float:
    return math.inf if math.isnan(value) else value


def _how(variant: str) -> str:
    """How a verdict names what a variant did."""
    names = {
        "original": "as trained",
        "circular": "without padding",
        "canvas": "on a canvas",
        "valid": "without padding (valid)",
        "no_pos_embed": "without position embeddings",
        "shuffled_pos_embed": "with shuffled position embeddings",
    }
    parts = variant.split("+")
    return " and ".join(names.get(part, f"with {part} padding") for part in parts)


def _random_beats_trained(
    spc: pd.DataFrame,
    groups: Mapping[str, Sequence[str]],
    layers: Sequence[str],
    targets: Sequence[str],
    reference: str,
) -> Iterator[str]:
    """A network that was never trained may encode more position; a reader must not miss it."""
    drawn = groups.get("random")
    if not drawn:
        return
    cells = [(layer, target) for layer in layers for target in targets]
    for w in (w for group, members in groups.items() if group != "random" for w in members):
        more: dict[tuple[str, str], float] = {}
        for cell in cells:
            ours = spc.loc[(drawn, reference, *cell), :]
            theirs = spc.loc[cast(Any, (w, reference, *cell))]
            if ours["low"].min() > theirs["high"]:
                more[cell] = ours["value"].mean() - theirs["value"]
        if not more:
            continue
        layer, target = max(more, key=more.__getitem__)
        ours = spc.loc[(drawn, reference, layer, target), :]
        trained = spc.loc[cast(Any, (w, reference, layer, target))]
        against = interval(*trained[["value", "low", "high"]])
        shown = " / ".join(signed(v) for v in ours["value"])
        seeds = f", with every one of {len(drawn)} seeds" * (len(drawn) > 1)
        yield (
            f"Caution: random weights encode more position than {short_name(w)} ones in "
            f"{len(more)} of {len(cells)} layers and targets{seeds}, most at {layer}, {target}: "
            f"SPC {shown} against {against}. There, position owes nothing to training."
        )
