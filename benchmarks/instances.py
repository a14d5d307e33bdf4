"""What the discriminative loss costs against a literal loop: ratios, side by side."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from test_instance_losses import literal

from probe.instances import discriminative_loss

ROUNDS = 15


def scene(batch: int, side: int = 128, objects: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    """Embeddings (B, 16, side, side) and discs of 8 objects on a background."""
    generator = torch.Generator().manual_seed(0)
    embedding = torch.randn(batch, 16, side, side, generator=generator)
    labels = torch.zeros(batch, side, side, dtype=torch.long)
    grid = torch.arange(side)
    for image in labels:
        for number in range(1, objects + 1):
            y, x = torch.randint(side, (2,), generator=generator)
            image[(grid[:, None] - y) ** 2 + (grid - x) ** 2 < (side / 7) ** 2] = number
    return embedding, labels


def seconds(loss, embedding: torch.Tensor, labels: torch.Tensor, backward: bool) -> float:
    x = embedding.clone().requires_grad_(backward)
    start = time.perf_counter()
    value = loss(x, labels)
    if backward:
        value.backward()
    return time.perf_counter() - start


def main() -> None:
    """Print ratios of the least times of alternating rounds."""
    for batch in (1, 4, 16):
        embedding, labels = scene(batch)
        torch.testing.assert_close(
            discriminative_loss(embedding, labels), literal(embedding, labels)
        )
        for backward in (False, True):
            taken = [
                (
                    seconds(discriminative_loss, embedding, labels, backward),
                    seconds(literal, embedding, labels, backward),
                )
                for _ in range(ROUNDS)
            ]
            mine, theirs = np.min(taken, 0)
            words = "forward and backward" if backward else "forward"
            print(
                f"{batch} × 16 × 128 × 128, 8 instances, {words}: loop / ours = {theirs / mine:.1f}"
            )


if __name__ == "__main__":
    main()
