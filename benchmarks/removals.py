"""What removing sources of position costs over the plain forward pass.

In one process, alternately: the plain ``forward_features`` of a batch under ``inference_mode``,
and the same batch under each variant, removals entered and left as a run does for every batch.
Prints for each variant the median over rounds of its time over the plain one's beside it, with the
quartiles; machines are noisy, and so each ratio is paired.

    python benchmarks/removals.py [MODEL...] [--rounds 15] [--batch 16]
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import timm
import torch

from probe.backbones.probed import evaluating
from probe.variants.run import running
from probe.variants.variant import parse_variant

VARIANTS = {
    "vit_small_patch16_224": ("no_pos_embed", "shuffled_pos_embed", "no_position"),
    "swin_tiny_patch4_window7_224": (
        "no_rel_bias",
        "no_mask",
        "no_rel_bias+no_mask",
        "no_position",
    ),
}

MOST = 1.15
"""Greatest ratio that is thought cheap."""


def cost(name: str, rounds: int, batch: int) -> None:
    """Measure one model and print its ratios."""
    torch.manual_seed(0)
    model = timm.create_model(name, pretrained=False).eval()
    x = torch.randn(batch, *model.pretrained_cfg["input_size"])
    variants = [parse_variant(v) for v in VARIANTS.get(name, ("no_position",))]

    def seconds(variant: str = "original") -> float:
        start = time.perf_counter()
        with evaluating(model), torch.inference_mode(), running(parse_variant(variant), model, x):
            model.forward_features(x)
        return time.perf_counter() - start

    seconds()
    for variant in variants:
        seconds(variant.name)
        pairs = []
        for _ in range(rounds):
            before, removed, after = seconds(), seconds(variant.name), seconds()
            pairs.append((removed, (before + after) / 2))
        ratios = [removed / plain for removed, plain in pairs]
        low, middle, high = np.quantile(ratios, [0.25, 0.5, 0.75])
        plain = 1000 * float(np.median([p for _, p in pairs]))
        print(
            f"{name}, {variant.name}: {middle:.3f} of the plain pass ({low:.3f} to {high:.3f}, "
            f"{rounds} rounds, plain {plain:.0f} ms){'' if middle <= MOST else ' TOO MUCH'}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("models", nargs="*", default=list(VARIANTS))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batch", type=int, default=16)
    options = parser.parse_args()
    for name in options.models:
        cost(name, options.rounds, options.batch)


if __name__ == "__main__":
    main()
