"""What a zoo of random networks shows: which families know most, and what goes with it.

    probe zoo MODELS.txt --out FOLDER --weights random --image-size 160 \
        --train-images 48 --test-images 48 --targets horizontal,vertical,gaussian --no-report
    python benchmarks/zoo_study.py FOLDER [reports/survey/survey.csv]

The score of a network is its best SPC over layers, averaged over targets. Intervals are 95 %
bootstrap intervals over architectures, of which those of one family are alike: they are drawn by
family. ``survey.csv`` gives how many padded calls an architecture has.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

import probe

TARGETS = ("horizontal", "vertical", "gaussian")


def interval(
    table: pd.DataFrame, measure: Callable[[pd.DataFrame], float], draws: int = 1000
) -> str:
    """A number with its bootstrap interval over families."""
    families = [rows for _, rows in table.groupby("family")]
    rng = np.random.default_rng(0)
    found = [
        measure(pd.concat([families[i] for i in rng.integers(len(families), size=len(families))]))
        for _ in range(draws)
    ]
    low, high = np.nanquantile(found, [0.025, 0.975])
    return f"{measure(table):.2f} [{low:.2f}, {high:.2f}]"


def main() -> None:
    zoo = probe.load(sys.argv[1])
    models = zoo.models[zoo.models["status"] == "finished"].copy()
    models["score"] = models[[f"spc_{t}" for t in TARGETS]].mean(axis=1)
    random = models[models["weights"] == "random"]
    print(f"{len(random)} architectures with random weights, {random['family'].nunique()} families")
    print(f"median score {interval(random, lambda t: t['score'].median())}")
    for level in (0.9, 0.5, 0.1):
        share = interval(random, lambda t, x=level: (t["score"] >= x).mean())
        print(f"share with a score of at least {level}: {share}")

    size = random.groupby("family")["score"].agg(["median", "min", "max", "size"])
    size = size[size["size"] >= 3].sort_values("median", ascending=False)
    print("\nfamilies of three or more:\n" + size.round(2).to_string())

    measures = {"parameters": "parameters", "layers": "layers"}
    if len(sys.argv) > 2:
        survey = pd.read_csv(sys.argv[2])
        calls = survey[survey["variant"] == "circular"].set_index("model")["padded_calls"]
        random = random.assign(padded_calls=random["model"].map(calls))
        measures["padded calls"] = "padded_calls"
        pads = random[random["padded_calls"] > 0]
        bare = random[random["padded_calls"] == 0]
        print(f"\nnothing pads: {len(bare)}, median score {bare['score'].median():.2f}")
        print(f"something pads: {len(pads)}, {interval(pads, lambda t: t['score'].median())}")
    for name, column in measures.items():
        known = random[random[column].notna()]
        rank = interval(known, lambda t, c=column: spearmanr(t[c], t["score"])[0])
        print(f"rank correlation of the score with {name}: {rank}")
    depth = random[random["depth_known"].notna()]
    print(f"first known at a depth of {interval(depth, lambda t: t['depth_known'].median())}")

    shares = [c for c in random.columns if c.startswith("share_")]
    print("\nmedian share by source:")
    for column in shares:
        if (known := random[column].dropna()).size:
            print(f"  {column}: {known.median():.2f}, of {known.size}")

    draws = models[models["weights"].str.startswith("random")]
    spread = draws.groupby("model")["score"].agg(["std", "size"])
    spread = spread[spread["size"] >= 3]["std"]
    if len(spread):
        print(f"\nthree draws: {len(spread)} architectures, median deviation {spread.median():.3f}")
    trained = models[~models["weights"].str.startswith("random")]
    for row in trained.itertuples():
        theirs = draws.loc[draws["model"] == row.model, "score"]
        drawn = ", ".join(f"{v:.2f}" for v in theirs)
        print(f"{row.model}: trained {row.score:.2f}, random {drawn}")


if __name__ == "__main__":
    main()
