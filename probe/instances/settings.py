"""Settings of the instance experiment."""

from __future__ import annotations

from dataclasses import dataclass

from .scenes import CLASSES, STUFF, OrdinaryScenes, Scenes, TwinScenes

KEYS = ["scenes", "task", "borders", "seed"]
"""Columns that tell cells apart."""

LEADING: dict[str, str] = {"semantic": "mean_iou", "instance": "pair_f1", "panoptic": "quality"}
"""Leading score of each task."""

FLOOR = 9.0
"""Distance term of copies that coincide: (2 δ_dist)²."""

SHOWN = 4
"""Test scenes whose pictures are kept."""

THINGS = range(len(STUFF), len(CLASSES))


@dataclass(frozen=True)
class TrainingSettings:
    """How networks are trained: by Adam with a one-cycle learning rate and clipped gradients."""

    steps: int
    batch: int = 8
    train_scenes: int = 1024
    test_scenes: int = 64
    learning_rate: float = 0.01
    clip: float = 0.3


@dataclass(frozen=True)
class Setting:
    """Scenes and the network for them; ``shifts`` are those of twin scenes."""

    image_size: tuple[int, int]
    dilations: tuple[int, ...]
    shifts: tuple[tuple[int, int], ...] | None = None

    def source(self, kind: str, seed: int) -> Scenes:
        """Return the scenes."""
        if kind == "ordinary":
            return OrdinaryScenes(self.image_size, seed)
        return TwinScenes(self.image_size, seed, shifts=self.shifts)


SETTINGS: dict[str, Setting] = {
    "twins": Setting((24, 24), (1, 2, 4, 8, 4, 2)),
    "ordinary": Setting((40, 40), (1, 2, 4, 8, 4, 2)),
    "large": Setting((16, 128), (1, 1, 2, 4, 4, 2), ((0, 16),)),
}
"""The setting of each kind of scenes."""

QUICK: dict[str, TrainingSettings] = {
    "twins": TrainingSettings(steps=600),
    "ordinary": TrainingSettings(steps=400, train_scenes=512),
    "large": TrainingSettings(steps=400, batch=4, train_scenes=256),
}
"""Under 10 minutes on 2 cores, with three seeds; ordinary and large scenes with one."""

FULL: dict[str, TrainingSettings] = {
    "twins": TrainingSettings(steps=2000, train_scenes=4096, test_scenes=256),
    "ordinary": TrainingSettings(steps=4000, train_scenes=4096, test_scenes=256),
    "large": TrainingSettings(steps=1500, train_scenes=1024, test_scenes=128),
}
"""Longer, with all seeds on all scenes."""

BORDER_WORDS: dict[str, str] = {
    "circular": "circular padding",
    "canvas": "a canvas",
    "zeros": "zero padding",
    "reflect": "reflect padding",
    "coordconv": "coordinates",
}
"""What borders are called."""
