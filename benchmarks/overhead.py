"""What probing costs over the bare forward pass of the same images.

In one process, alternately:

(a) the bare forward pass: ``forward_features`` under ``inference_mode`` of the images that a run
    uses, once in torch's default memory format and once in channels last, the faster one for most
    convolutional networks on a CPU and the one that ``probe.run`` uses itself;
(b) ``probe.run``'s pure probing of the same images for one weights and variant: stages, all five
    targets, cross-validated ridge, scores, intervals; model and stimuli already in memory.

Prints the ratios b/a, medians over rounds, each paired because machines are noisy.
With ``--memory``, prints instead the peak memory of runs with 256 and 4,096 training images.

    python benchmarks/overhead.py [MODEL...] [--rounds 3] [--memory]
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import timm
import torch

import probe
from probe.backbones.probed import evaluating
from probe.stimuli.leaves import Leaves

MODELS = ("tf_efficientnet_lite0", "resnet50", "vgg16")


def overhead(name: str, rounds: int, train: int, test: int, batch: int) -> None:
    """Measure one model and print its ratios."""
    torch.manual_seed(0)
    model = timm.create_model(name, pretrained=False).eval()
    height, width = model.pretrained_cfg["input_size"][1:]
    leaves = Leaves((height, width), 0)
    images = torch.cat([leaves.batch("train", i, i + 1) for i in range(train + test)])

    def bare(memory_format: torch.memory_format) -> float:
        start = time.perf_counter()
        with evaluating(model), torch.inference_mode():
            for first in range(0, train + test, batch):
                model.forward_features(
                    images[first : first + batch].contiguous(memory_format=memory_format)
                )
        return time.perf_counter() - start

    def probing() -> float:
        start = time.perf_counter()
        probe.run(
            model,
            name=name,
            variants="original",
            stimuli=images,
            train_images=train,
            test_images=test,
            batch_size=batch,
            progress=False,
        )
        return time.perf_counter() - start

    bare(torch.channels_last)
    over_plain, over_last = [], []
    for number in range(rounds):
        a_last, b = bare(torch.channels_last), probing()
        a_plain = bare(torch.contiguous_format)
        over_plain.append(b / a_plain)
        over_last.append(b / a_last)
        print(
            f"  round {number + 1}: bare {a_plain:.1f} s (default format), {a_last:.1f} s "
            f"(channels last), probing {b:.1f} s: b/a {b / a_plain:.3f}, {b / a_last:.3f}",
            flush=True,
        )
    print(
        f"{name}: b/a = {statistics.median(over_plain):.3f} over the default format, "
        f"{statistics.median(over_last):.3f} over channels last (medians of {rounds} rounds)",
        flush=True,
    )


def peak_memory(name: str, train: int) -> float:
    """Peak resident memory in MiB of a run in a process of its own."""
    code = (
        f"import probe; probe.run({name!r}, weights='random', variants='original', "
        f"train_images={train}, progress=False)"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parent.parent)
    after = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return max(before, after) / 1024


def main() -> None:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", default=MODELS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--train-images", type=int, default=256)
    parser.add_argument("--test-images", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--memory", action="store_true")
    options = parser.parse_args()
    for name in options.models:
        if options.memory:
            # Small first: the greatest of all children so far is what the system tells.
            few, many = peak_memory(name, 256), peak_memory(name, 4096)
            print(f"{name}: peak {few:.0f} MiB with 256, {many:.0f} MiB with 4096 train images,")
            print(f"  {100 * (many / few - 1):+.1f} %", flush=True)
        else:
            overhead(
                name, options.rounds, options.train_images, options.test_images, options.batch_size
            )


if __name__ == "__main__":
    main()
