"""What the zoo costs over the runs in it, and what cells side by side gain.

The same small networks with random weights, each job on one thread:

(a) one after another in this process, by ``probe.run`` and ``result.save``;
(b) as a zoo with one job;
(c) as a zoo with two.

Prints seconds of each, the overhead b/a, the gain b/c, and the peak memory of this process and of
the largest worker.

    python benchmarks/zoo.py [MODEL...] [--train-images 64] [--image-size 224]
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
import warnings
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import probe
from probe.analyses.zoo.work import peak_memory

MODELS = (
    *("resnet10t", "resnet18", "mobilenetv3_small_050", "mobilenetv3_small_100", "lcnet_050"),
    *("lcnet_100", "tinynet_e", "tinynet_d", "mnasnet_small", "regnetx_002", "regnety_002"),
    *(
        "tf_efficientnet_lite0",
        "efficientnet_lite0",
        "mobilenetv2_050",
        "ghostnet_050",
        "hardcorenas_a",
    ),
)


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("models", nargs="*", default=MODELS)
    parser.add_argument("--train-images", type=int, default=64)
    parser.add_argument("--image-size", type=int, default=224)
    asked = parser.parse_args()
    options = {
        "train_images": asked.train_images,
        "image_size": asked.image_size,
        "weights": "random",
        "device": "cpu",
        "progress": False,
    }
    seconds = {}
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore", probe.ProbeWarning)
        started = time.perf_counter()
        for name in asked.models:
            probe.run(name, **options).save(Path(folder) / name, report=True)
        seconds["inside"] = time.perf_counter() - started
        for jobs in (1, 2):
            started = time.perf_counter()
            collection = probe.zoo(asked.models, Path(folder) / f"zoo{jobs}", jobs=jobs, **options)
            seconds[f"{jobs} jobs"] = time.perf_counter() - started
            assert len(collection) == len(asked.models), collection.failures
        workers = collection.models["peak_memory"].max()
    for name, value in seconds.items():
        print(f"{name:10s} {value:8.1f} s")
    print(f"overhead of the zoo   {seconds['1 jobs'] / seconds['inside']:.3f}")
    print(f"gain of two jobs      {seconds['1 jobs'] / seconds['2 jobs']:.2f}")
    print(
        f"peak memory: this process {peak_memory() / 2**30:.2f} GiB, "
        f"largest worker {workers / 2**30:.2f} GiB"
    )


if __name__ == "__main__":
    main()
