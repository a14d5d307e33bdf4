"""What taking position out costs, and with ``--study`` what it leaves.

In one process, alternately, for each way (mean, project, constant):

- fitting: from gathered moments to an eraser, over the pass that gathered them;
- applying: the forward pass of the network with the eraser built in after the layer, over that of
  the network as it is, in inference mode on the same batch, in seconds of the process.

Prints medians of rounds with their least and greatest. ``--study`` prints instead, for each layer,
what ridge with kernel 1 finds on held-out leaves before and after, target by target, and whether
every target that was above 0.9 is within 0.05 of 0 with its interval over 0.

    python benchmarks/erasure.py [MODEL] [--layers blocks.5,blocks.6] [--weights pretrained]
        [--image-size 224] [--train-images N] [--rounds 5] [--study]
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
import warnings
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from torch import nn

from probe.backbones.backbone import load_backbone
from probe.erasers import HOWS, Eraser, Gathered, gather
from probe.errors import ProbeWarning

HIGH, LOW, SHARE = 0.9, 0.05, 0.95


def spread(values: list[float], form: str = ".4f") -> str:
    """Median with the least and the greatest."""
    middle = statistics.median(values)
    return f"{middle:{form}} ({min(values):{form}} to {max(values):{form}})"


def cost(gathered: Gathered, layer: str, passes: list[float], model: nn.Module, opts: Any) -> None:
    """Measure fitting and applying at one layer, and print their ratios."""
    for how in HOWS:
        fits: list[float] = []
        for seconds in passes:
            start = time.perf_counter()
            eraser = gathered.eraser(layer, how)
            fits.append((time.perf_counter() - start) / seconds)
        ratios = applied(model, eraser, opts)
        print(
            f"{layer}, {how}: fitting over pass {spread(fits, '.5f')}, "
            f"forward with over without {spread(ratios)}",
            flush=True,
        )


def applied(model: nn.Module, eraser: Eraser, opts: Any) -> list[float]:
    """Ratios of forward passes with and without an eraser, each the least of a few in turn."""
    images = torch.rand(opts.batch_size, 3, opts.image_size, opts.image_size)
    networks = {"bare": model, "with": eraser.attach(model)}
    ratios = []
    with torch.inference_mode():
        for network in networks.values():
            network(images)
        for _ in range(opts.rounds):
            times: dict[str, list[float]] = {name: [] for name in networks}
            for turn in range(opts.turns):
                order = list(networks.items())[:: 1 if turn % 2 else -1]
                for name, network in order:
                    start = time.process_time()
                    network(images)
                    times[name].append(time.process_time() - start)
            ratios.append(min(times["with"]) / min(times["bare"]))
    return ratios


def study(gathered: Gathered, layer: str, given: dict[str, Any]) -> bool:
    """Print what is left at one layer; return whether it is little enough."""
    good = True
    for how in ("mean", "project"):
        eraser = gathered.eraser(layer, how)
        table = eraser.evaluate(readers=[("ridge", 1)], progress=False, **given).table
        rows = table[table["metric"] == "spc"].set_index(["target", "state"])
        print(f"{eraser.summary()}")
        high, over = [], []
        for target in dict.fromkeys(rows.index.get_level_values(0)):
            before, after = (rows.loc[(target, state)] for state in ("before", "after"))
            print(
                f"  {target:20} {before['value']:6.3f} → {after['value']:6.3f} "
                f"[{after['low']:6.3f}, {after['high']:6.3f}]"
            )
            if before["value"] > HIGH:
                high.append(abs(after["value"]))
                over.append(after["low"] <= 0 <= after["high"])
        passed = not high or (max(high) <= LOW and sum(over) >= SHARE * len(over))
        good &= passed
        print(
            f"  of {len(high)} targets above {HIGH}: |SPC| at most {max(high, default=0):.3f}, "
            f"{sum(over)} intervals over 0: {'passes' if passed else 'FAILS'}",
            flush=True,
        )
    return good


def main() -> None:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", default="tf_efficientnet_lite0")
    parser.add_argument("--layers", default="blocks.5,blocks.6")
    parser.add_argument("--weights", default="pretrained")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--train-images", type=int)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--turns", type=int, default=8)
    parser.add_argument("--study", action="store_true")
    opts = parser.parse_args()
    warnings.simplefilter("ignore", ProbeWarning)
    layers = opts.layers.split(",")
    given: dict[str, Any] = {"weights": opts.weights, "image_size": opts.image_size}
    if opts.train_images:
        given["train_images"] = opts.train_images
    elif not opts.study:
        given["train_images"] = 256
    passes = []
    for _ in range(1 if opts.study else opts.rounds):
        start = time.perf_counter()
        gathered = gather(opts.model, layers, progress=False, **given)
        passes.append(time.perf_counter() - start)
    print(f"{opts.model}, a pass of {gathered.record['train_images']} images: {spread(passes)} s")
    if opts.study:
        given.pop("train_images", None)
        if not min([study(gathered, layer, given) for layer in layers]):
            sys.exit(1)
        return
    model = load_backbone(opts.model, opts.weights, image_size=opts.image_size, device="cpu").model
    for layer in layers:
        cost(gathered, layer, passes, model.eval(), opts)


if __name__ == "__main__":
    main()
