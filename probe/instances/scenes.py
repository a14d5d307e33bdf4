"""Scenes: images whose every pixel is labelled with its class and its object.

Things (discs, squares, triangles) lie on stuff (grass, water). Like all stimuli, every scene is a
function of a seed, a split and an index alone, and a torus: it tiles the plane without a seam.
"""

from __future__ import annotations

import colorsys
import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import ProbeError, one_of
from ..stimuli.source import SPLITS, Stimuli

STUFF: tuple[str, ...] = ("grass", "water")
"""Classes without objects: 0 and 1."""

THINGS: tuple[str, ...] = ("disc", "square", "triangle")
"""Classes that come as objects: 2, 3 and 4."""

CLASSES: tuple[str, ...] = (*STUFF, *THINGS)
_HUES = (0.06, 0.46, 0.82)  # orange, turquoise, purple: about these
_STRIPES = 3.5  # px from one to the next
_RIM = 1.2  # px
_Size = tuple[int, int]
_Offsets = tuple[NDArray[np.float64], NDArray[np.float64]]

Drawn = tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64]]
"""Image (H, W, 3), instances (H, W) and classes (H, W) of one scene."""


@dataclass(frozen=True)
class Scene:
    """Labelled images.

    Attributes
    ----------
    images : Tensor of float32, shape (B, 3, H, W), in [0, 1]
    instances : Tensor of int64, shape (B, H, W)
        Number of the object, from 1 in each image; 0 where there is stuff.
    classes : Tensor of int64, shape (B, H, W)
        Index into :data:`CLASSES`.
    """

    images: Tensor
    instances: Tensor
    classes: Tensor

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, rows: slice | Tensor) -> Scene:
        return Scene(self.images[rows], self.instances[rows], self.classes[rows])

    def to(self, device: torch.device | str) -> Scene:
        return Scene(*(x.to(device) for x in (self.images, self.instances, self.classes)))


class Scenes(Stimuli):
    """A seeded source of labelled scenes of one size; see :class:`probe.stimuli.Stimuli`."""

    tileable = True

    @abstractmethod
    def draw(self, split: str, index: int) -> Drawn:
        """Draw one scene."""

    def paint(self, split: str, index: int, canvas: NDArray[np.uint8]) -> None:
        canvas[..., :3] = self.draw(split, index)[0]

    def labelled(self, split: str, start: int, stop: int) -> Scene:
        """Return scenes ``start … stop − 1`` of a split with their labels."""
        one_of(split, SPLITS, "split")
        drawn = [self.draw(split, index) for index in range(start, stop)]
        images, instances, classes = (
            torch.from_numpy(np.stack(x)) for x in zip(*drawn, strict=True)
        )
        images = images.permute(0, 3, 1, 2).to(torch.float32).div_(255)
        return Scene(images.contiguous(), instances, classes)


class OrdinaryScenes(Scenes):
    """Things of several classes, shapes, textures and colours at random places of a torus.

    Later things lie on earlier ones; of none less than :data:`VISIBLE` is to be seen. They wrap
    around the edges: what leaves the image on one side comes in on the other and is one object.

    Parameters
    ----------
    image_size : (int, int)
        Height and width in pixels, at least 16 each.
    seed : int
        The same seed gives the same scenes, bit for bit.
    things : (int, int)
        Least and largest number of things to place; hidden ones are taken away again.
    radius : (float, float)
        Least and largest radius of their circumcircles, in pixels.
    """

    name = "ordinary"
    stationary = True

    VISIBLE = 0.35
    """Least share of a thing that others leave to be seen."""

    def __init__(
        self,
        image_size: _Size,
        seed: int = 0,
        *,
        things: tuple[int, int] = (3, 6),
        radius: tuple[float, float] = (4.5, 8.0),
    ) -> None:
        super().__init__(image_size, seed)
        _check_size(self.image_size, radius)
        self.things, self.radius = things, radius

    def draw(self, split: str, index: int) -> Drawn:
        rng = self.rng(split, index)
        height, width = self.image_size
        image, classes = _stuff(rng, self.image_size)
        things = []
        for _ in range(rng.integers(*self.things, endpoint=True)):
            thing = _Thing.random(rng, self.radius)
            y, x = rng.uniform(0, (height, width))
            things.append((thing, *thing.drawn(_offsets(self.image_size, y, x))))
        covers = np.stack([mask for _, mask, _ in things])
        kept = _seen(covers, self.VISIBLE)
        instances = np.zeros(self.image_size, np.int64)
        for number, row in enumerate(kept, 1):
            thing, mask, colours = things[row]
            image[mask], classes[mask], instances[mask] = colours[mask], thing.label, number
        return _bytes(image), instances, classes


class TwinScenes(Scenes):
    """Exact copies of one thing, on a sub-lattice of the torus.

    ``shifts`` generate a group of shifts of the torus :math:`ℤ_H × ℤ_W`. There is one copy for
    each element, and the whole scene, stuff included, is unchanged by all of them. A network that
    is equivariant to these shifts gives all copies the same embedding, whatever its weights.

    No copy is cut by the edge of the image. Shape, size, angle, colours, texture, stuff and the
    place within the lattice's cell vary from scene to scene.

    Parameters
    ----------
    image_size : (int, int)
        Height and width in pixels.
    seed : int
        The same seed gives the same scenes, bit for bit.
    shifts : sequence of (int, int)
        Rows and columns that carry one copy to another. By default half the height and half the
        width: 2 × 2 copies.
    radius : (float, float)
        Least and largest radius of the thing's circumcircle, in pixels; it fits into the cell.

    Attributes
    ----------
    lattice : ndarray of int, shape (copies, 2)
        Where each copy lies from the first.
    cell : (int, int)
        Height and width of the cell of which each holds one copy at most.

    Raises
    ------
    ProbeError
        If the shifts don't make two copies, or a copy doesn't fit between them.
    """

    name = "twins"
    stationary = False

    def __init__(
        self,
        image_size: _Size,
        seed: int = 0,
        *,
        shifts: Sequence[_Size] | None = None,
        radius: tuple[float, float] = (3.6, 5.2),
    ) -> None:
        super().__init__(image_size, seed)
        height, width = self.image_size
        chosen = ((height // 2, 0), (0, width // 2)) if shifts is None else shifts
        self.shifts = tuple((int(dy), int(dx)) for dy, dx in chosen)
        self.lattice = _orbit(self.image_size, self.shifts)
        rows, columns = zip(*self.shifts, strict=True) if self.shifts else ((), ())
        self.cell = math.gcd(height, *rows), math.gcd(width, *columns)
        if len(self.lattice) < 2:
            raise ProbeError(
                f"shifts: {self.shifts} leave every place of {height} × {width} pixels where it "
                "is, which makes no second copy; give shifts such as half the height"
            )
        _check_size(self.cell, radius)
        self.radius = radius

    def draw(self, split: str, index: int) -> Drawn:
        rng = self.rng(split, index)
        times = [n // c for n, c in zip(self.image_size, self.cell, strict=True)]
        one_image, one_map = _stuff(rng, self.cell)
        image, classes = np.tile(one_image, (*times, 1)), np.tile(one_map, times)
        thing = _Thing.random(rng, self.radius)
        room = np.array(self.cell) - 1 - 2 * thing.radius
        y, x = thing.radius + rng.random(2) * room
        mask, colours = thing.drawn(_offsets(self.image_size, y, x))
        instances = np.zeros(self.image_size, np.int64)
        for number, (dy, dx) in enumerate(self.lattice, 1):
            copy, painted = (np.roll(part, (dy, dx), (0, 1)) for part in (mask, colours))
            image[copy], classes[copy], instances[copy] = painted[copy], thing.label, number
        return _bytes(image), instances, classes


@dataclass(frozen=True)
class _Thing:
    """A plain disc, a striped square or a triangle with a dark rim, each around a hue of its own.

    Light comes from above on the left.
    """

    kind: int
    radius: float
    angle: float
    phase: float
    colour: NDArray[np.float64]

    @classmethod
    def random(cls, rng: np.random.Generator, radius: tuple[float, float]) -> _Thing:
        kind = int(rng.integers(len(THINGS)))
        angle, phase, hue, saturation, value = rng.random(5)
        hue = (_HUES[kind] + 0.2 * (hue - 0.5)) % 1
        colour = colorsys.hsv_to_rgb(hue, 0.35 + 0.45 * saturation, 0.8 + 0.2 * value)
        turns = 2 * math.pi * angle, 2 * math.pi * phase
        return cls(kind, rng.uniform(*radius), *turns, np.array(colour))

    @property
    def label(self) -> int:
        return len(STUFF) + self.kind

    def drawn(self, offsets: _Offsets) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
        """Which pixels it covers, and its colour at each, shape (H, W, 3)."""
        dy, dx = (offset / self.radius for offset in offsets)
        v = math.cos(self.angle) * dy - math.sin(self.angle) * dx
        u = math.sin(self.angle) * dy + math.cos(self.angle) * dx
        if self.kind == 0:
            covered, dark = u**2 + v**2 <= 0.8, np.zeros_like(u, bool)
        elif self.kind == 1:
            covered = np.maximum(abs(u), abs(v)) <= 0.72
            dark = np.sin(2 * math.pi / _STRIPES * self.radius * u + self.phase) < 0
        else:
            sides = (math.sin(a) * u + math.cos(a) * v for a in 2 * math.pi / 3 * np.arange(3))
            side = np.max(list(sides), 0)
            covered, dark = side <= 0.5, side > 0.5 - _RIM / self.radius
        light = np.where(dark, 0.5, 1.0) * (0.8 - 0.25 * (dy + dx))
        return covered, light[..., None] * self.colour


def _stuff(rng: np.random.Generator, size: _Size) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Grass and water on a torus: colours, shape (H, W, 3), and classes, shape (H, W)."""
    y, x = (2 * math.pi * np.arange(n) / n for n in size)
    y, x = y[:, None], x[None, :]
    phases = 2 * math.pi * rng.random(4)
    land = np.cos(y + phases[0]) + np.cos(x + phases[1]) + 0.5 * np.cos(y - x + phases[2])
    water = land < rng.uniform(-0.6, 0.6)
    waves = 0.06 * np.sin(max(1, round(size[0] / 4)) * y + x + phases[3])
    blades = rng.uniform(-0.08, 0.08, size)
    shade = rng.uniform(-0.06, 0.06, (2, 3))
    grass = np.array([0.18, 0.36, 0.14]) + shade[0] + blades[..., None]
    sea = np.array([0.13, 0.22, 0.42]) + shade[1] + waves[..., None]
    return np.where(water[..., None], sea, grass), water.astype(np.int64)


def _offsets(size: _Size, y: float, x: float) -> _Offsets:
    """Rows and columns from a place to every pixel, the short way around the torus."""
    rows, columns = (
        (np.arange(n) - centre + n / 2) % n - n / 2 for n, centre in zip(size, (y, x), strict=True)
    )
    down, right = np.broadcast_arrays(rows[:, None], columns[None, :])
    return down, right


def _seen(covers: NDArray[np.bool_], share: float) -> list[int]:
    """Which things stay so that a share of each is seen; the most hidden one goes first."""
    kept = list(range(len(covers)))
    while True:
        above = np.logical_or.accumulate(covers[kept][::-1])[::-1]
        hidden = np.zeros_like(covers[kept])
        hidden[:-1] = above[1:]
        areas = covers[kept].sum((1, 2))
        seen = (covers[kept] & ~hidden).sum((1, 2)) / np.maximum(areas, 1)
        least = int(seen.argmin())
        if seen[least] >= share:
            return kept
        del kept[least]


def _orbit(size: _Size, shifts: Sequence[_Size]) -> NDArray[np.int64]:
    """Every place of the torus that the shifts, again and again, carry (0, 0) to."""
    reached, new = {(0, 0)}, {(0, 0)}
    while new:
        moved = {((y + dy) % size[0], (x + dx) % size[1]) for y, x in new for dy, dx in shifts}
        new = moved - reached
        reached |= new
    return np.array(sorted(reached))


def _check_size(size: _Size, radius: tuple[float, float]) -> None:
    if not 0 < radius[0] <= radius[1]:
        raise ProbeError(f"radius: expected a least and a larger one, above 0, got {radius}")
    if min(size) < 2 * radius[1] + 1:
        raise ProbeError(
            f"things of radius {radius[1]:g} need {math.ceil(2 * radius[1] + 1)} pixels each way, "
            f"but there are {size[0]} × {size[1]}; make them smaller, or the scenes larger"
        )


def _bytes(image: NDArray[np.float64]) -> NDArray[np.uint8]:
    return (np.clip(image, 0, 1) * 255).round().astype(np.uint8)
