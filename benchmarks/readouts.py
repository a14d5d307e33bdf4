"""What readouts cost, from images to fitted heads, and how they score.

In one process, on the same images and the same network:

- the published protocol as published: one training per target, each of 15 epochs, in every epoch
  a forward pass of all images (75 passes); features of all stages resized to 28 × 28 and
  concatenated, a 3 × 3 convolution, batch norm, sigmoid, upsampled to the image, SGD;
- ``ridge(kernel=1, concat=True)``: the same features, one pass, closed form;
- ``ridge`` on each layer, ``ridge(kernel=3, concat=True)``, and Probe's own ``posenet``, which
  keeps the features and trains all targets together.

Cost is everything from the first image to the last fitted head, features included; all heads are
scored on the same test images afterwards. Prints each cost as a ratio to ridge(kernel=1,
concat=True), and SPC.

    python benchmarks/readouts.py [MODEL] [--weights pretrained] [--train-images 256] [--quick]

``--quick`` trains the published protocol for one target only and counts it five times.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm.auto import tqdm

from probe.backbones.backbone import input_size, load_backbone
from probe.backbones.choice import total_stride
from probe.backbones.layer import GridLayer
from probe.backbones.probed import evaluating, probe_layers
from probe.machine import exact_float32
from probe.readouts import ReadoutSpec
from probe.runner.job import Condition, Job
from probe.runner.passes import fit, score, test, train
from probe.scores.metrics import spearman
from probe.stimuli.leaves import Leaves
from probe.targets import TARGETS, target_map
from probe.variants.run import open_variant
from probe.variants.variant import parse_variant

EPOCHS, DROP, BATCH = 15, 10, 32


class Images(Leaves):
    """Leaves that are painted once and kept."""

    def __init__(self, image_size: tuple[int, int], counts: dict[str, int]) -> None:
        super().__init__(image_size, 0)
        self._kept = {s: super(Images, self).batch(s, 0, n) for s, n in counts.items()}

    def batch(self, split: str, start: int, stop: int, margin: int = 0) -> Tensor:
        return self._kept[split][start:stop]


class Published:
    """The published protocol, one training per target, with a forward pass every epoch."""

    def __init__(self, job: Job, condition: Condition) -> None:
        self.job, self.condition = job, condition
        self.layers = [GridLayer.like(layer) for layer in condition.view.layers]

    def features(self, split: str, order: Tensor) -> Tensor:
        """Features of a batch: all stages at 28 × 28, concatenated."""
        images = torch.cat([self.job.source.batch(split, i, i + 1) for i in order.tolist()])
        x = self.condition.backbone.normalise(images)
        found: dict[str, Tensor] = {}
        resize = {layer.name: layer.reduce for layer in self.layers}

        def receive(layer: GridLayer, f: Tensor) -> None:
            found[layer.name] = resize[layer.name](f)

        self.condition.view.probed.run(self.condition.backbone.model, x, receive)
        return torch.cat([found[layer.name] for layer in self.layers], 1)

    def train(self, target: str, seed: int) -> nn.Module:
        """Train the head of one target."""
        size = self.job.source.image_size
        truth = torch.from_numpy(target_map(target, *size)).to(torch.float32)
        channels = sum(layer.channels for layer in self.layers)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            head = nn.Sequential(nn.Conv2d(channels, 1, 3), nn.BatchNorm2d(1), nn.Sigmoid())
            nn.init.xavier_uniform_(head[0].weight)
            nn.init.zeros_(head[0].bias)
        options = {"lr": 0.1, "momentum": 0.9, "weight_decay": 1e-4}
        optimiser = torch.optim.SGD(head.parameters(), **options)
        schedule = torch.optim.lr_scheduler.MultiStepLR(optimiser, [DROP], 0.1)
        generator = torch.Generator().manual_seed(seed)
        for _ in tqdm(range(EPOCHS), desc=f"published, {target}", leave=False):
            for order in torch.randperm(self.job.train_images, generator=generator).split(BATCH):
                features = self.features("train", order)
                with torch.enable_grad():
                    prediction = F.interpolate(
                        head(features), size, mode="bilinear", align_corners=True
                    )
                    loss = F.mse_loss(prediction[:, 0], truth.expand(len(order), -1, -1))
                    optimiser.zero_grad()
                    loss.backward()
                    optimiser.step()
            schedule.step()
        return head.eval()

    def spc(self, head: nn.Module, target: str) -> float:
        """Mean SPC over the test images, at the head's own places."""
        order = torch.arange(self.job.test_images)
        maps = torch.cat([head(self.features("test", part)) for part in order.split(BATCH)])
        truth = target_map(target, *maps.shape[2:]).ravel()
        return float(spearman(maps.flatten(1).double().numpy(), truth).mean())


def measure(job: Job, condition: Condition, **options: object) -> tuple[float, dict[str, float]]:
    """Seconds that one of Probe's readouts takes, and its SPC by target."""
    job = replace(job, head=ReadoutSpec(**options))
    condition = Condition.of(job, condition.backbone, condition.view)
    with tqdm(disable=True) as bar:
        start = time.perf_counter()
        train(job, [condition], bar)
        fit(job, condition)
        seconds = time.perf_counter() - start
        test(job, [condition], bar)
    score(condition)
    last = condition.scored[condition.layers[-1].name]
    means = dict(zip(last.columns, last.values.mean(0), strict=True))
    return seconds, {target: float(means[target, "spc"]) for target in job.targets}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", default="tf_efficientnet_lite0")
    parser.add_argument("--weights", default="pretrained")
    parser.add_argument("--train-images", type=int, default=256)
    parser.add_argument("--test-images", type=int, default=64)
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    backbone = load_backbone(given.model, given.weights)
    stride = total_stride(backbone.model)
    size = input_size(backbone.config, stride)
    counts = {"train": given.train_images, "test": given.test_images}
    source = Images(size, counts | {"certificate": 2})
    shares = {"train_images": given.train_images, "test_images": given.test_images}
    job = Job(source, list(TARGETS), stride, 0, BATCH, 0, **shares, head=ReadoutSpec("ridge"))
    rows: list[tuple[str, float, dict[str, float]]] = []
    with exact_float32(), evaluating(backbone.model):
        first = source.batch("certificate", 0, 2)
        taps = probe_layers(backbone.model, "stages", backbone.normalise(first), backbone.name)
        seen = open_variant(backbone, parse_variant("original"), taps, first)
        condition = Condition.of(job, backbone, seen)
        measure(job, condition, readout="ridge", concat=True)  # warm up
        for label, options in (
            ("ridge(kernel=1, concat=True)", {"readout": "ridge", "concat": True}),
            ("ridge, each layer (SPC: the last)", {"readout": "ridge"}),
            ("ridge(kernel=3, concat=True)", {"readout": "ridge", "kernel": 3, "concat": True}),
            ("posenet", {"readout": "posenet"}),
        ):
            rows.append((label, *measure(job, condition, **options)))
            print(f"{label}: {rows[-1][1]:.1f} s", flush=True)
        published, seconds, found = Published(job, condition), 0.0, {}
        for number, target in enumerate(list(TARGETS)[:1] if given.quick else TARGETS):
            start = time.perf_counter()
            head = published.train(target, number)
            seconds += time.perf_counter() - start
            found[target] = published.spc(head, target)
        seconds *= len(TARGETS) / len(found)
        label = "published protocol" + f" (1 of {len(TARGETS)} run)" * given.quick
        rows.append((label, seconds, found))

    base = rows[0][1]
    print(f"\n{backbone.name}, {given.weights} weights, {given.train_images} training images")
    print(f"{'readout':36}{'cost':>8}  " + "".join(f"{t.replace('_', ' '):>20}" for t in TARGETS))
    for label, seconds, spc in rows:
        shown = "".join(f"{spc.get(t, np.nan):20.3f}" for t in TARGETS)
        print(f"{label:36}{seconds / base:7.1f}x  {shown}")


if __name__ == "__main__":
    main()
