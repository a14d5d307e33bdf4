"""What a record says in words: the strongest first, cautions after.

A sentence that picks the best of many scores quotes the interval that holds for all of them at
once, and says of how many.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import pandas as pd
from scipy import stats

from ..certificates.certificate import kinds
from ..scores.tables import within_range
from ..targets import knowledge
from ..text import families, interval, is_random, percent, short_name, signed
from ..variants.kinds import PADDING
from ..variants.variant import parse_variant
from .record import SIMULTANEOUS, Record
from .words import certified, how, plural, window_of

KNOWS = 0.5
"""SPC from which the verdict says that a layer knows a target."""

LOCATES = 0.75
"""Part of the localisation error of chance below which the verdict quotes a layer's."""

_VALUE = ["value", "low", "high"]
_AT_ONCE = ["value", *SIMULTANEOUS]
_DIFFERENCE = ["difference", "difference_low", "difference_high"]


@dataclass(frozen=True)
class _Facts:
    """What the sentences are made from."""

    record: Record
    table: pd.DataFrame
    spc: pd.DataFrame
    layers: list[str]
    variants: list[str]
    groups: Mapping[str, Sequence[str]]
    reference: str
    pads: bool
    kinds: Sequence[str]
    untested: str

    @property
    def removal(self) -> str | None:
        """The variant to compare with: the cleanest on these stimuli, with the fewest sources."""
        others = [v for v in self.variants if v != self.reference]
        if not self.pads:
            others = [v for v in others if self.gone(v)] or [
                v for v in others if parse_variant(v).embedding
            ]
        return min(others, key=self._doubts, default=None)

    def gone(self, variant: str) -> list[str]:
        """Kinds of sources that the network has and the variant takes away."""
        removed = parse_variant(variant).removed_kinds
        return [kind for kind in self.kinds if kind in removed]

    def _doubts(self, variant: str) -> tuple[Any, ...]:
        """Sort key: leaves padding; leaves or makes landmarks; leaves more; isn't proven."""
        parsed, stimuli = parse_variant(variant), self.record.provenance["stimuli"]
        certificates = [c for (_, v), c in self.record.certificates.items() if v == variant]
        seam = parsed.rule == "circular" and not stimuli["tileable"]
        reached = any(c.contact for c in certificates)
        order = ("circular", "canvas", "valid")
        plain = order.index(variant) if variant in order else len(order)
        proven = all(c.passed for c in certificates)
        return (
            self.pads and not parsed.removes_padding,
            seam or reached,
            -len(self.gone(variant)),
            bool(parsed.embedding),
            not proven,
            plain,
        )


def verdict_of(record: Record) -> list[str]:
    """Say what a record shows, one sentence after another."""
    facts = _facts(record)
    sentences: list[str] = []
    if facts.untested:
        sentences.append(
            f"These scores have no test: {facts.untested}. They say what a readout can be fitted "
            "to, not what a layer knows on other images."
        )
    for group, members in facts.groups.items():
        sentences += _knowledge(facts, group, members)
    if not facts.pads:
        sentences.append(_unpadded(facts))
    sentences += _pixels(facts)
    if facts.removal is not None and not facts.untested:
        sentences += [_removal(facts, members) for members in facts.groups.values()]
    for v in facts.variants:
        for group, members in (
            facts.groups.items() if not v == facts.reference == "original" else ()
        ):
            certificates = record.certificates
            of_group = {w: certificates[w, v] for w in members if (w, v) in certificates}
            sentences += certified(v, group, of_group)
    if not facts.untested:
        sentences += _random_beats_trained(facts)
    return sentences


def _facts(record: Record) -> _Facts:
    table = _with_simultaneous(record.table)
    rows = table[table["metric"] == "spc"]
    columns = ["weights", "variant", "layer", "target"]
    variants = list(dict.fromkeys(v for _, v in record.conditions))
    reference = "original" if "original" in variants else variants[0]
    sources = [
        source
        for (_, v), c in record.certificates.items()
        if v == reference
        for source in c.sources
    ]
    return _Facts(
        record,
        table,
        rows.set_index(columns)[[*_AT_ONCE, *_VALUE[1:], *_DIFFERENCE, "share"]].sort_index(),
        [layer for layer in record.layers if layer != "input"],
        variants,
        families(w for w, _ in record.conditions),
        reference,
        reference != "original" or any(s.startswith(f"{PADDING}:") for s in sources),
        list(dict.fromkeys(source.partition(":")[0] for source in sources)),
        record.provenance["stimuli"].get("untested", ""),
    )


def _with_simultaneous(table: pd.DataFrame) -> pd.DataFrame:
    """Fill in what results of version 0.4 lack: their intervals, widened as Šidák has it."""
    absent = table[SIMULTANEOUS[0]].isna() & table["low"].notna()
    if not absent.any():
        return table
    kind = table["weights"].map(lambda w: "random" if is_random(w) else w)
    keys = [kind, table["variant"], table["metric"], table["layer"] == "input"]
    count = table.groupby(keys)["value"].transform("size")
    wider = stats.norm.ppf((1 + 0.95 ** (1 / count)) / 2) / stats.norm.ppf(0.975)
    filled = table.copy()
    low, high = (
        (table["value"] + (table[b] - table["value"]) * wider).to_numpy(float)
        for b in ("low", "high")
    )
    bounds = within_range(list(table["metric"]), low, high)
    for column, bound in zip(SIMULTANEOUS, bounds, strict=True):
        filled[column] = table[column].where(~absent, bound)
    return filled


def _whose(facts: _Facts, group: str, members: Sequence[str], w: str) -> str:
    if len(members) > 1:
        return f"{short_name(group)} weights, the best of {len(members)} seeds"
    return f"{short_name(w)} weights"


def _best_of(count: int, low: float) -> str:
    """How a score was picked, and what its interval is."""
    if math.isnan(low):
        return f" (best of {count}; one scene gives no interval)"
    return f" (best of {count}, its interval corrected for the choice)" if count > 1 else ""


def _knowledge(facts: _Facts, group: str, members: Sequence[str]) -> Iterator[str]:
    """What the layers know, best first, and how much of it goes with the variant."""
    rows = facts.spc.loc[(list(members), [facts.reference], facts.layers), :]
    key: Any = rows["value"].idxmax()
    w, _, layer, target = key
    best = rows.loc[key]
    certificate = facts.record.certificates[(w, facts.reference)]
    certified = certificate.passed and not window_of(certificate)
    whose = _whose(facts, group, members, w)
    who = f"{layer} ({whose})" if len(facts.groups) > 1 else layer
    score = interval(*best[_AT_ONCE]) + _best_of(len(rows), best["low"])
    shown = best["simultaneous_low"] > 0 or (math.isnan(best["low"]) and best["value"] >= KNOWS)
    if certified:
        text = (
            f"No layer knows its position under {short_name(group)} weights, {facts.reference}: "
            f"the network is translation equivariant, highest SPC {score}"
        )
    elif facts.untested:
        text = f"A readout of {who} can be fitted to {knowledge(target)}: SPC {score}"
    elif shown and best["value"] >= KNOWS:
        text = f"{who} knows {knowledge(target)}: SPC {score}"
    elif shown:
        text = f"{who} hints at {knowledge(target)}: SPC {score}"
    else:
        text = f"No layer shows its position under {whose}: highest SPC {score}"
    claims = shown and not certified
    yield text + _without(facts, (w, layer, target), claims) + "."
    if claims and not facts.untested:
        yield from _each_alone(facts, (w, layer, target))
        yield from _following(facts, (w, layer, target))
        yield from _located(facts, w, whose)


def _without(facts: _Facts, key: tuple[str, str, str], claims: bool) -> str:
    """What is left of the best score under the variant that removes its source."""
    removal = facts.removal
    if removal is None:
        return ""
    w, layer, target = key
    bare: Any = facts.spc.loc[cast(Any, (w, removal, layer, target))]
    text = f"; {how(removal)} {interval(*bare[_VALUE])}"
    if not claims:
        return text
    if not math.isnan(bare["difference"]):
        text += f", a difference of {interval(*bare[_DIFFERENCE])}"
    if not math.isnan(bare["share"]):
        gone = [plural(kind) for kind in facts.gone(removal)] or [PADDING]
        part = "all" if bare["share"] >= 0.995 else percent(bare["share"])
        text += f": {part} of it came from {' and '.join(gone)}"
        if not facts.pads:
            text += "; padding has no part in it"
    return text


def _each_alone(facts: _Facts, key: tuple[str, str, str]) -> Iterator[str]:
    """What is left of the best score where one of several kinds of sources is taken away."""
    if facts.removal is None or len(facts.gone(facts.removal)) < 2:
        return
    w, layer, target = key
    alone = [v for v in facts.variants if v != facts.reference and len(facts.gone(v)) == 1]
    left = {v: facts.spc.loc[cast(Any, (w, v, layer, target))][_VALUE] for v in alone}
    if left:
        scores = "; ".join(f"{how(v)} {interval(*score)}" for v, score in left.items())
        yield f"Where one kind of source alone is taken away, {layer} is left with: {scores}."


def _following(facts: _Facts, key: tuple[str, str, str]) -> Iterator[str]:
    """Whether the best score follows position embeddings that are shifted."""
    w, layer, target = key
    table = facts.table
    for variant, shift in facts.record.provenance.get("shifts", {}).items():
        of = (table["weights"] == w) & (table["variant"] == variant)
        of &= (table["layer"] == layer) & (table["target"] == target)
        rows = table[of].set_index("metric")[_VALUE]
        if "follows" not in rows.index:
            continue
        (down, right), (height, width) = shift["by"], shift["places"]
        yield (
            f"With position embeddings shifted by {down} rows and {right} columns of {height} × "
            f"{width} places, the readout of {layer} as trained finds {knowledge(target)} shifted "
            f"likewise: SPC {interval(*rows.loc['follows'])}; 1 is to follow the embeddings alone."
        )


def _located(facts: _Facts, w: str, whose: str) -> Iterator[str]:
    """How near the best layer's readout comes to the true place, in pixels."""
    table = facts.table
    rows = table[
        (table["metric"] == "error_px") & (table["weights"] == w) & (table["layer"] != "input")
    ]
    seen = rows[rows["variant"] == facts.reference]
    if seen.empty:
        return
    nearest = seen.iloc[int(seen["value"].argmin())]
    unsure = nearest["simultaneous_high"] > nearest["chance"]
    if not nearest["value"] < LOCATES * nearest["chance"] or unsure:
        return
    side = max(facts.record.provenance["options"]["image_size"])
    text = (
        f"{nearest['layer']}{f' ({whose})' * (len(facts.groups) > 1)} knows where it is to within "
        f"{nearest['value']:.0f} px of {side}"
    )
    if not math.isnan(nearest["low"]):
        low, high = (max(nearest[bound], 0) for bound in SIMULTANEOUS)
        text += f" [{low:.0f}, {high:.0f}]"
    text += _best_of(len(seen), nearest["low"])
    if facts.removal is not None:
        same = (rows["variant"] == facts.removal) & (rows["layer"] == nearest["layer"])
        bare = rows[same].iloc[0]
        text += f"; {how(facts.removal)} {bare['value']:.0f} px"
        if not math.isclose(bare["chance"], nearest["chance"], rel_tol=0.05):
            text += f" of the middle alone, where chance is {bare['chance']:.0f} px"
    yield f"{text}; chance is {nearest['chance']:.0f} px."


def _unpadded(facts: _Facts) -> str:
    """Of a network where nothing pads: what else tells position."""
    sources = [
        source
        for (_, v), c in facts.record.certificates.items()
        if v == facts.reference
        for source in c.sources
    ]
    if not sources:
        return "Nothing in this network pads, and no other source of position was found in it."
    return (
        f"Nothing in this network pads, so that no position comes from padding; found in it: "
        f"{kinds(sources)}."
    )


def _pixels(facts: _Facts) -> Iterator[str]:
    """What can be read from the input itself."""
    w = facts.record.conditions[0][0]
    if "input" not in facts.record.layers or facts.untested:
        return
    rows = facts.spc.loc[cast(Any, (w, facts.reference, "input"))]
    target = str(rows["value"].idxmax())
    best = rows.loc[target]
    score = interval(*best[_AT_ONCE])
    unsure = math.isnan(best["low"])
    if (best["simultaneous_low"] > 0 or unsure) and best["value"] > 0.1:
        yield (
            f"Caution: {knowledge(target).replace('its ', '')} can be read from the pixels "
            f"themselves, SPC {score}: the stimuli carry position of their own."
        )
    else:
        little = "hardly any" if best["simultaneous_low"] > 0 or unsure else "no"
        yield f"From the pixels themselves {little} position can be read: highest SPC {score}."


def _removal(facts: _Facts, members: Sequence[str]) -> str:
    removal = cast(str, facts.removal)
    proven = [list(pair) for pair in facts.record.provenance.get("proven", [])]
    measured = [w for w in members if [w, removal] not in proven]
    if not measured:
        return (
            f"{how(removal).capitalize()} random weights were not run. Their certificates pass, as "
            "that of the weights that were run does: no position is left to read, and their "
            "scores are given as chance."
        )
    rest = ""
    if more := len(members) - len(measured):
        draws = "1 more draw was" if more == 1 else f"{more} more draws were"
        rest = f" {draws} not run, as certificates pass: their scores are given as chance."
    members = measured
    gone = facts.spc.loc[(list(members), removal, facts.layers), :]
    low, high = (gone[bound] for bound in SIMULTANEOUS)
    outside = int(((low > 0) | (high < 0)).sum())
    extreme = float(gone["value"].abs().max())
    who = "the network leaves"
    if len(facts.groups) > 1:
        who = f"{short_name(members[0])} weights leave"
        if len(members) > 1:
            who = f"random weights ({len(members)} seeds) leave"
    counted = ""
    if not gone["low"].isna().any():
        said = {0: "none excludes", 1: "one excludes"}.get(outside, f"{outside} exclude") + " 0"
        counted = f"; of {len(gone)} intervals that hold at once {said}"
        if outside and _is_null(facts.record, members, removal):
            counted += ", although the certificate says that no position is left"
    return (
        f"{how(removal).capitalize()} {who} "
        f"|SPC| ≤ {math.ceil(extreme * 100 - 1e-9) / 100:.2f} at every layer and target{counted}."
        + rest
    )


def _is_null(record: Record, members: Sequence[str], variant: str) -> bool:
    """Whether there is no position to be found: neither the network's own nor the stimuli's."""
    certificates, stimuli = record.certificates.items(), record.provenance["stimuli"]
    return (
        parse_variant(variant).removes_padding
        and bool(stimuli["stationary"])
        and bool(stimuli["tileable"] or "circular" not in variant)
        and all(c.passed for (w, v), c in certificates if v == variant and w in members)
    )


def _random_beats_trained(facts: _Facts) -> Iterator[str]:
    """A network that was never trained may encode more position; a reader must not miss it."""
    spc, reference, drawn = facts.spc, facts.reference, facts.groups.get("random")
    if not drawn:
        return
    pairs = [(layer, target) for layer in facts.layers for target in facts.record.targets]
    trained_ones = [w for group, ws in facts.groups.items() if group != "random" for w in ws]
    for w in trained_ones:
        more: dict[tuple[str, str], float] = {}
        for pair in pairs:
            random = spc.loc[(drawn, reference, *pair), :]
            trained = spc.loc[cast(Any, (w, reference, *pair))]
            if random["simultaneous_low"].min() > trained["simultaneous_high"]:
                more[pair] = random["value"].mean() - trained["value"]
        if not more:
            continue
        layer, target = max(more, key=more.__getitem__)
        random = spc.loc[(drawn, reference, layer, target), :]
        trained = spc.loc[cast(Any, (w, reference, layer, target))]
        shown = " / ".join(signed(v) for v in random["value"])
        seeds = f", with every one of {len(drawn)} seeds" * (len(drawn) > 1)
        yield (
            f"Caution: random weights encode more position than {short_name(w)} ones in "
            f"{len(more)} of {len(pairs)} layers and targets{seeds}, most at {layer}, {target}: "
            f"SPC {shown} against {interval(*trained[_AT_ONCE])}. "
            "There, position owes nothing to training."
        )
