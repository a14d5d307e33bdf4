"""How often a verdict claims position where there is none.

Networks with random weights, each under a variant that leaves it no source of position (its
certificate passes), on leaves, with images of another seed each time. Every such run is measured:
a single set of weights, so that nothing is taken from a certificate. A verdict claims position if
one of its sentences says that a layer knows, or hints at, its position. As a verdict also looks at
the certificate, the rule without it is counted beside: whether the interval of any score, corrected
for the choice, lies above 0. Prints how many do, with Wilson's 95 % interval, and the sentences.

    python benchmarks/false_claims.py [--seeds 5] [--train-images 32] [--test-images 32]
"""

from __future__ import annotations

import argparse
import re
import sys
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from scipy.stats import binomtest

import probe

NULLS = {
    "resnet10t": "circular",
    "mobilenetv3_small_050": "circular",
    "efficientnet_lite0": "circular",
    "regnetx_002": "circular",
    "convnext_atto": "circular",
    "vit_tiny_patch16_224": "no_pos_embed",
    "deit_tiny_patch16_224": "no_position",
    "mobilevit_xxs": "circular",
}
CLAIM = re.compile(r"\b(knows|know|hints?)\b.*\bposition\b|\bknows where it is\b")


def main() -> None:
    """Run, count and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--train-images", type=int, default=32)
    parser.add_argument("--test-images", type=int, default=32)
    asked = parser.parse_args()
    claims, above, runs = [], 0, 0
    for name, variant in NULLS.items():
        for seed in range(asked.seeds):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", probe.ProbeWarning)
                result = probe.run(
                    name,
                    weights="random",
                    variants=variant,
                    image_size=128,
                    train_images=asked.train_images,
                    test_images=asked.test_images,
                    seed=seed,
                    progress=False,
                )
            ((_, certificate),) = result.certificates.items()
            if not certificate.passed:
                raise SystemExit(f"{name} is no null under {variant}: {certificate.reason}")
            runs += 1
            said = [s for s in result.verdict() if CLAIM.search(s) and not s.startswith("No ")]
            if said:
                claims.append(f"{name}, {variant}, seed {seed}: {said[0]}")
            rows = result.table.query("metric == 'spc' and layer != 'input'")
            above += bool((rows["simultaneous_low"] > 0).any())
            outside = ((rows["low"] > 0) | (rows["high"] < 0)).mean()
            print(f"{name} {variant} seed {seed}: {outside:.0%} of intervals exclude 0", flush=True)
    for count, what in ((len(claims), "verdicts claim position"), (above, "runs would by scores")):
        low, high = binomtest(count, runs).proportion_ci(method="wilson")
        print(f"{count} of {runs} {what} [{low:.1%}, {high:.1%}]")
    print("\n".join(claims))


if __name__ == "__main__":
    main()
