"""What a border rule costs over modules that pad by that rule themselves.

In one process, alternately, on the same images (channels last, no gradients):

(a) the forward pass of a copy of the network whose convolutions and poolings pad by the rule with
    one ``F.pad`` before the unpadded operation, as ``nn.Conv2d(padding_mode=...)`` does (zeros:
    the convolution's own padding);
(b) the forward pass of the network itself under ``probe.padding(rule)``.

Checks that both give the same features and prints the ratio b/a: its median over rounds, each
paired because machines are noisy, and its quartiles.

    python benchmarks/padding.py [MODEL...] [--rules circular reflect] [--rounds 9]
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import timm
import torch
import torch.nn.functional as F
from timm.layers import Conv2dSame
from torch import Tensor, nn

import probe

MODELS = ("resnet50", "tf_efficientnet_lite0")
RULES = ("circular", "reflect", "replicate", "zeros")


class ByHand(nn.Module):
    """A convolution or max pooling that pads by a rule and then runs without padding."""

    def __init__(self, module: nn.Conv2d | nn.MaxPool2d, rule: str) -> None:
        super().__init__()
        self.mode = "constant" if rule == "zeros" else rule
        self.same = isinstance(module, Conv2dSame)
        self.pad = _pair(module.padding)
        self.module = module
        self.kernel, self.stride = _pair(module.kernel_size), _pair(module.stride)
        self.dilation = _pair(module.dilation)
        module.padding = (0, 0)

    def forward(self, x: Tensor) -> Tensor:
        module, pads = self.module, []
        for d in (1, 0):
            if self.same:
                reach = self.dilation[d] * (self.kernel[d] - 1) + 1
                size, stride = x.shape[2 + d], self.stride[d]
                total = max((-(-size // stride) - 1) * stride + reach - size, 0)
                pads += [total // 2, total - total // 2]
            else:
                pads += [self.pad[d], self.pad[d]]
        if any(pads):
            x = F.pad(x, pads, mode=self.mode)
        if isinstance(module, nn.MaxPool2d):
            return F.max_pool2d(x, module.kernel_size, module.stride, 0, module.dilation)
        return F.conv2d(
            x, module.weight, module.bias, module.stride, 0, module.dilation, module.groups
        )


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return value if isinstance(value, tuple) else (value, value)


def padded_by_hand(model: nn.Module, rule: str) -> nn.Module:
    """Copy of a network whose modules pad by a rule."""
    model = copy.deepcopy(model)
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            pads = isinstance(child, Conv2dSame) or (
                isinstance(child, nn.Conv2d | nn.MaxPool2d) and _pair(child.padding) != (0, 0)
            )
            own = rule == "zeros" and type(child) is nn.Conv2d
            if pads and not own:
                setattr(parent, name, ByHand(child, rule))
    return model


def seconds(run: Callable[[], Tensor]) -> float:
    """Time one call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def overhead(name: str, rule: str, rounds: int, batch: int, size: int) -> None:
    """Measure one model under one rule and print a line of the table."""
    torch.manual_seed(0)
    model = timm.create_model(name, pretrained=False).eval()
    model = model.to(memory_format=torch.channels_last)
    hand = padded_by_hand(model, rule)
    images = torch.randn(batch, 3, size, size).contiguous(memory_format=torch.channels_last)

    def by_hand() -> Tensor:
        return hand.forward_features(images)

    def by_rule() -> Tensor:
        with probe.padding(rule):
            return model.forward_features(images)

    with torch.no_grad():
        torch.testing.assert_close(by_rule(), by_hand(), rtol=1e-4, atol=1e-5)
        ratios, bare = [], []
        for number in range(rounds):
            # Whichever comes first is warm from the other: take turns.
            if number % 2:
                b, a = seconds(by_rule), seconds(by_hand)
            else:
                a, b = seconds(by_hand), seconds(by_rule)
            ratios.append(b / a)
            bare.append(a)
    low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
    print(
        f"{name:24} {rule:10} {statistics.median(bare):8.2f} s {middle:8.3f} "
        f"[{low:.3f}, {high:.3f}]",
        flush=True,
    )


def main() -> None:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", default=MODELS)
    parser.add_argument("--rules", nargs="+", default=RULES, choices=RULES)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--image-size", type=int, default=224)
    options = parser.parse_args()
    print(f"{'model':24} {'rule':10} {'by hand':>10} {'b/a':>8} [quartiles]")
    for name in options.models:
        for rule in options.rules:
            overhead(name, rule, options.rounds, options.batch_size, options.image_size)


if __name__ == "__main__":
    main()
