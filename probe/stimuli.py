"""Stimuli: the images fed to a backbone, each a function of a seed and an index alone.

Every source can make any image of its train and its test split on its own, in any order, so that
a run streams images and never holds them. A source says whether its images are *tileable*
(periodic, so that a border joins the opposite one without a seam) and *stationary* (of the same
statistics at every pixel, so that they carry no position themselves).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np
import scipy.fft
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from .borders import extend
from .errors import ProbeError, one_of

SPLITS: tuple[str, ...] = ("train", "test", "certificate")
"""Splits of a source: streams of images that have none in common."""

_PHOTO_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm")


class Stimuli(ABC):
    """A seeded source of images of one size.

    Parameters
    ----------
    image_size : (int, int)
        Height H and width W in pixels.
    seed : int
        The same seed gives the same images, bit for bit.

    Attributes
    ----------
    name : str
        What reports call it.
    tileable, stationary : bool
        See the module's text.
    margin : int
        Pixels around each image that can be had besides; of no concern to tileable ones.
    scenes : int
        After how many test images the same scenes come again.
    skipped : list of str
        Files that could not be read.
    """

    name: str
    tileable: bool
    stationary: bool
    margin: int = 0
    scenes: int = 2**62

    def __init__(self, image_size: tuple[int, int], seed: int = 0) -> None:
        self.image_size = (int(image_size[0]), int(image_size[1]))
        self.seed = seed
        self.skipped: list[str] = []

    @property
    def cautions(self) -> list[str]:
        """What a reader of results on these images should know, in sentences."""
        return []

    def batch(self, split: str, start: int, stop: int, margin: int = 0) -> Tensor:
        """Return images ``start … stop − 1`` of a split.

        Parameters
        ----------
        split : str
            One of :data:`SPLITS`.
        start, stop : int
            First image, and the one after the last.
        margin : int
            Pixels to show beyond each edge: of tileable images their continuation.

        Returns
        -------
        Tensor of float32, shape (stop − start, 3, H + 2 margin, W + 2 margin), in [0, 1]
            In channels-last memory format.

        Raises
        ------
        ProbeError
            If the source has no such margin.
        """
        one_of(split, SPLITS, "split")
        if margin > self.margin and not self.tileable:
            raise ProbeError(
                f"stimuli {self.name}: a margin of {margin} pixels was asked for, but only "
                f"{self.margin} pixels are there beyond the edges; use tileable stimuli such as "
                "leaves, photographs, or larger images"
            )
        height, width = (side + 2 * self.margin for side in self.image_size)
        images = np.empty((stop - start, height, width, 4), np.uint8)
        for row, index in enumerate(range(start, stop)):
            self.paint(split, index, images[row])
        x = torch.from_numpy(images).to(torch.float32).div_(255)[..., :3].permute(0, 3, 1, 2)
        return stretch(x.contiguous(memory_format=torch.channels_last), margin - self.margin)

    @abstractmethod
    def paint(self, split: str, index: int, canvas: NDArray[np.uint8]) -> None:
        """Write one image, with the source's margin, into a canvas of shape (H, W, 4).

        The last layer of the canvas is spare.
        """

    def scene(self, index: int) -> int:
        """Number of the scene that a test image shows."""
        return index % self.scenes

    def rng(self, split: str, index: int) -> np.random.Generator:
        """Random numbers of one image: independent of every other image's."""
        stream = (SPLITS.index(split) << 48) + index
        return np.random.Generator(np.random.Philox(key=[self.seed % 2**64, stream]))


def stretch(images: Tensor, margin: int) -> Tensor:
    """Show more of periodic images, by so many pixels at each edge; less if negative.

    Parameters
    ----------
    images : Tensor, shape (B, 3, H, W)
        A torus each.
    margin : int
        In pixels.

    Returns
    -------
    Tensor, shape (B, 3, H + 2 margin, W + 2 margin)
    """
    return extend(images, {-2: (margin, margin), -1: (margin, margin)}, "circular")


class Leaves(Stimuli):
    r"""Dead leaves on a torus: discs that occlude one another, of natural-image statistics.

    Discs of random colour fall at random places; their radii have the density
    :math:`∝ r^{-3}` between 3 and 80 px on an image of 224 px (in proportion on others), which
    makes the image scale invariant. They wrap around the edges.

    References
    ----------
    Lee, Mumford, Huang (2001), "Occlusion models for natural images", IJCV 41, section 3.
    """

    name = "leaves"
    tileable = True
    stationary = True

    LAYERS = 5.0
    """Mean number of discs over a pixel: exp(−5), under 1 %, see the background."""

    def __init__(self, image_size: tuple[int, int], seed: int = 0) -> None:
        super().__init__(image_size, seed)
        height, width = self.image_size
        side = min(height, width)
        self.r_min = max(1.0, 3 * side / 224)
        # A disc wider than the torus would meet itself.
        self.r_max = max(self.r_min + 0.5, min(80 * side / 224, (side - 1) / 2))
        inverse = self.r_min**-2 - self.r_max**-2
        mean_area = 2 * math.pi * math.log(self.r_max / self.r_min) / inverse
        self.discs = max(1, math.ceil(self.LAYERS * height * width / mean_area))

    def paint(self, split: str, index: int, canvas: NDArray[np.uint8]) -> None:
        rng = self.rng(split, index)
        height, width = self.image_size
        u = rng.random(self.discs)
        radii = (self.r_min**-2 - u * (self.r_min**-2 - self.r_max**-2)) ** -0.5
        radii = np.rint(radii).astype(np.int64)
        ys = rng.integers(0, height, self.discs)
        xs = rng.integers(0, width, self.discs)
        colours = rng.integers(0, 2**24, self.discs + 1, dtype=np.uint32)
        top = _paint(radii, ys, xs, height, width)
        colours.take(top, out=canvas.view(np.uint32)[..., 0])


def _paint(
    radii: NDArray[np.int64], ys: NDArray[np.int64], xs: NDArray[np.int64], height: int, width: int
) -> NDArray[np.int32]:
    """Number of the topmost disc at every pixel of a torus, counted from 1; 0 where there is none.

    Later discs lie on earlier ones. A disc of radius r covers the pixels with
    ``dy² + dx² ≤ r² + r``. Each of its rows is a span, and a span of n pixels is the union of two
    blocks of the greatest power of two ≤ n: so that painting is one assignment into a table with
    a level for each power, and handing each level's maximum down to the two halves below.
    """
    offset, half, level = _disc_rows(int(radii.max()))
    counts = 2 * radii + 1
    disc = np.repeat(np.arange(len(radii)), counts)
    # Row k of a disc of radius r stands at r² + k of the table of all discs' rows.
    before = np.cumsum(counts) - counts
    entry = np.arange(len(disc)) + (radii * radii - before)[disc]
    rows = (offset[entry] + ys[disc]) % height
    half, level = half[entry], level[entry]
    length = 2 * half + 1
    levels = int(level.max()) + 1
    table = np.zeros((levels, height, width), np.int16 if len(radii) < 2**15 else np.int32)
    line = (level * height + rows) * width
    first = xs[disc] - half
    both = np.empty((len(disc), 2), np.int64)
    both[:, 0] = line + first % width
    both[:, 1] = line + (first + length - (1 << level)) % width
    # Discs come in order, and of repeated places the last assignment stays.
    table.reshape(-1)[both.reshape(-1)] = np.repeat(np.arange(1, len(radii) + 1), 2 * counts)
    for k in range(levels - 1, 0, -1):
        step = 1 << (k - 1)
        upper, lower = table[k], table[k - 1]
        np.maximum(lower, upper, out=lower)
        np.maximum(lower[:, step:], upper[:, :-step], out=lower[:, step:])
        np.maximum(lower[:, :step], upper[:, -step:], out=lower[:, :step])
    return table[0]


@lru_cache(maxsize=8)
def _disc_rows(
    r_max: int,
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Rows of the discs of radius 0 … r_max, one after another: offset from the centre, half the
    span, and the exponent of the greatest power of two within the span.
    """
    radius = np.repeat(np.arange(r_max + 1), 2 * np.arange(r_max + 1) + 1)
    offset = np.concatenate([np.arange(-r, r + 1) for r in range(r_max + 1)])
    half = np.sqrt(radius * radius + radius - offset * offset).astype(np.int64)
    level = np.frexp((2 * half + 1).astype(np.float64))[1].astype(np.int64) - 1
    return offset, half, level


class WhiteNoise(Stimuli):
    """Every value of every pixel uniform in [0, 1], independent of all others."""

    name = "noise"
    tileable = True
    stationary = True

    def paint(self, split: str, index: int, canvas: NDArray[np.uint8]) -> None:
        noise = self.rng(split, index).integers(0, 256, canvas.shape, dtype=np.uint8)
        canvas[...] = noise


class PinkNoise(Stimuli):
    """Gaussian noise of amplitude ∝ 1/frequency by colour channel, as in natural images.

    Made by an inverse Fourier transform, hence periodic; of mean 0.5 and standard deviation 0.2
    per pixel, clipped to [0, 1].
    """

    name = "pink"
    tileable = True
    stationary = True

    def __init__(self, image_size: tuple[int, int], seed: int = 0) -> None:
        super().__init__(image_size, seed)
        height, width = self.image_size
        fy = scipy.fft.fftfreq(height)[:, None]
        fx = scipy.fft.rfftfreq(width)[None, :]
        frequency = np.hypot(fy, fx)
        frequency[0, 0] = np.inf
        amplitude = 1 / frequency
        # Each pixel's variance is the sum of the power; middle columns stand for two.
        weight = np.full(fx.shape[1], 2.0)
        weight[0] = 1
        if width % 2 == 0:
            weight[-1] = 1
        power = (amplitude**2 * weight).sum() * 2
        scale = 0.2 * height * width / math.sqrt(power) if power > 0 else 0.0
        self._amplitude = (amplitude * scale).astype(np.float32)

    def paint(self, split: str, index: int, canvas: NDArray[np.uint8]) -> None:
        height, width = self.image_size
        rng = self.rng(split, index)
        noise = rng.standard_normal((3, *self._amplitude.shape, 2), np.float32)
        spectrum = noise.view(np.complex64)[..., 0] * self._amplitude
        values = scipy.fft.irfft2(spectrum, s=(height, width), overwrite_x=True)
        canvas[..., :3] = np.clip(values * 255 + 128, 0, 255).astype(np.uint8).transpose(1, 2, 0)


class Constant(Stimuli):
    """The same uniform image again and again: black or white."""

    tileable = True
    stationary = True

    def __init__(self, image_size: tuple[int, int], seed: int = 0, *, name: str) -> None:
        super().__init__(image_size, seed)
        self.name = name
        self._level = 255 if name == "white" else 0

    def paint(self, split: str, index: int, canvas: NDArray[np.uint8]) -> None:
        canvas[...] = self._level


class Photos(Stimuli):
    """Random crops of the photographs in a folder, flipped at random in both directions.

    Image i shows file ``i mod n`` of its split: a random crop of the image's aspect, between half
    and all of the photograph's largest such crop, scaled to the image size. Files are shared out
    between train and test (in proportion to their numbers of images), so that no photograph is
    in both. Flips in both directions take away the sky that is always above; the subject in the
    middle stays, which is why photographs do not count as stationary.

    Parameters
    ----------
    folder : str or Path
        Searched with all its subfolders.
    image_size : (int, int)
        Height and width in pixels.
    seed : int
        Of the shares, crops and flips.
    train_images, test_images : int
        How many images the run takes of each split.
    margin : int
        Pixels around each image that a run may ask for: crops are so much larger.

    Attributes
    ----------
    skipped : list of str
        Files that could not be read as an image, by path within the folder.

    Raises
    ------
    ProbeError
        If the folder is missing, holds no image files, or none that can be read.
    """

    tileable = False
    stationary = False

    def __init__(
        self,
        folder: str | Path,
        image_size: tuple[int, int],
        seed: int = 0,
        *,
        train_images: int = 256,
        test_images: int = 64,
        margin: int = 0,
    ) -> None:
        super().__init__(image_size, seed)
        self.margin = margin
        self._enlarged: set[Path] = set()
        self.folder = Path(folder).expanduser()
        self.name = str(folder)
        try:
            missing = not self.folder.is_dir()
        except OSError:
            missing = True
        if missing:
            raise ProbeError(f"no folder of photographs at {str(folder)!r}")
        found = sorted(
            p for p in self.folder.rglob("*") if p.suffix.lower() in _PHOTO_SUFFIXES and p.is_file()
        )
        if not found:
            raise ProbeError(
                f"the folder {str(folder)!r} holds no photographs; "
                f"expected files ending in {', '.join(_PHOTO_SUFFIXES)}"
            )
        readable = [p for p in found if self._identified(p)]
        if not readable:
            raise ProbeError(
                f"none of the {len(found)} image files in {str(folder)!r} can be read, "
                f"for example {self.skipped[0]}"
            )
        order = np.random.Generator(np.random.Philox(key=[seed % 2**64, 2**63]))
        files = [readable[i] for i in order.permutation(len(readable))]
        if len(files) == 1:
            self._files = dict.fromkeys(SPLITS, files)
        else:
            share = test_images / max(train_images + test_images, 1)
            held_out = min(max(1, round(len(files) * share)), len(files) - 1)
            train, test = files[:-held_out], files[-held_out:]
            self._files = {"train": train, "test": test, "certificate": train}
        self.scenes = len(self._files["test"])
        self._load = lru_cache(maxsize=32)(self._decode)

    @property
    def cautions(self) -> list[str]:
        found = []
        if self._files["train"] == self._files["test"]:
            found.append(f"{self.name} holds one photograph: train and test images are crops of it")
        if self.margin and self._enlarged:
            found.append(
                f"{len(self._enlarged)} photographs in {self.name} are smaller than images with "
                f"their margin of {self.margin} pixels and were enlarged"
            )
        if self.skipped:
            names = ", ".join(self.skipped[:5]) + (", …" if len(self.skipped) > 5 else "")
            found.append(
                f"files in {self.name} that could not be read were skipped "
                f"({len(self.skipped)}): {names}"
            )
        return found

    def paint(self, split: str, index: int, canvas: NDArray[np.uint8]) -> None:
        for _, path in self._from(split, index):
            photo = self._load(path)
            if photo is not None:
                break
        else:
            raise ProbeError(f"no {split} photograph in {self.name!r} can be read to its end")
        rng = self.rng(split, index)
        height, width = canvas.shape[:2]
        scale = min(photo.width / width, photo.height / height) * rng.uniform(0.5, 1)
        if scale < 1:
            self._enlarged.add(path)
        crop_w, crop_h = width * scale, height * scale
        left = rng.uniform(0, photo.width - crop_w)
        top = rng.uniform(0, photo.height - crop_h)
        box = (left, top, left + crop_w, top + crop_h)
        image = photo.resize((width, height), Image.Resampling.BICUBIC, box=box)
        pixels = np.asarray(image)
        flip_x, flip_y = rng.random(2) < 0.5
        canvas[..., :3] = pixels[:: -1 if flip_y else 1, :: -1 if flip_x else 1]

    def scene(self, index: int) -> int:
        """Number of the photograph that a test image shows; known once it was shown."""
        return next(
            (n for n, p in self._from("test", index) if self._named(p) not in self.skipped), 0
        )

    def _from(self, split: str, index: int) -> Iterator[tuple[int, Path]]:
        """The photograph of an image, then those that stand in for it if it can't be read."""
        files = self._files[split]
        for step in range(len(files)):
            number = (index + step) % len(files)
            yield number, files[number]

    def _identified(self, path: Path) -> bool:
        try:
            with Image.open(path):
                return True
        except (UnidentifiedImageError, OSError, ValueError, Image.DecompressionBombError):
            self._skip(path)
            return False

    def _decode(self, path: Path) -> Image.Image | None:
        height, width = (side + 2 * self.margin for side in self.image_size)
        try:
            with Image.open(path) as file:
                file.draft("RGB", (2 * width, 2 * height))
                photo = _eight_bit(ImageOps.exif_transpose(file)).convert("RGB")
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            self._skip(path)
            return None
        excess = min(photo.width / (2 * width), photo.height / (2 * height))
        if excess > 1:
            size = (math.ceil(photo.width / excess), math.ceil(photo.height / excess))
            photo = photo.resize(size, Image.Resampling.BICUBIC, reducing_gap=2.0)
        return photo

    def _skip(self, path: Path) -> None:
        name = self._named(path)
        if name not in self.skipped:
            self.skipped.append(name)

    def _named(self, path: Path) -> str:
        return str(path.relative_to(self.folder))


def _eight_bit(photo: Image.Image) -> Image.Image:
    """Scale a 16-bit grey photograph, which Pillow would clip, to 8 bits."""
    if photo.mode == "F":
        raise ValueError("floating-point pictures have no known white")
    if not photo.mode.startswith("I"):
        return photo
    return Image.fromarray(
        (np.asarray(photo).astype(np.float64) / 257).clip(0, 255).astype(np.uint8)
    )


class Given(Stimuli):
    """Images from a tensor: the first for training, the next for testing.

    Parameters
    ----------
    images : Tensor, shape (N, 3, H, W), in [0, 1]
    train_images, test_images : int
        How many a run takes; together at most N.
    image_size : (int, int), optional
        Height and width in pixels of what is probed, the middle of the images: what lies around
        it is their margin. All by default.

    Raises
    ------
    ProbeError
        If the tensor has another shape, values outside [0, 1], or too few images.
    """

    name = "tensor"
    tileable = False
    stationary = False

    def __init__(
        self,
        images: Tensor,
        *,
        train_images: int = 256,
        test_images: int = 64,
        image_size: tuple[int, int] | None = None,
    ) -> None:
        if images.ndim != 4 or images.shape[1] != 3:
            raise ProbeError(
                f"stimuli: expected a tensor (N, 3, H, W), got shape {tuple(images.shape)}"
            )
        needed = train_images + test_images
        if len(images) < needed:
            raise ProbeError(
                f"stimuli: {train_images} train and {test_images} test images need {needed}, "
                f"but the tensor holds {len(images)}"
            )
        if images.dtype == torch.uint8:
            images = images / 255
        if not images.is_floating_point() or images.layout != torch.strided or images.is_meta:
            raise ProbeError(
                f"stimuli: expected a dense tensor of floating-point values in [0, 1], got "
                f"{images.dtype}, {images.layout}, on {images.device}"
            )
        if 0 in images.shape:
            raise ProbeError(f"stimuli: images of no pixels, shape {tuple(images.shape)}")
        # Of a tensor on disk or larger than memory only what is used is looked at.
        low, high = (float(v) for v in torch.aminmax(images[:needed]))
        if not (low >= 0 and high <= 1):
            raise ProbeError(
                f"stimuli: expected values in [0, 1], got {low:.3g} … {high:.3g}; "
                "pass images before normalisation, Probe normalises them itself"
            )
        whole = (int(images.shape[2]), int(images.shape[3]))
        super().__init__(image_size or whole)
        around = [w - side for w, side in zip(whole, self.image_size, strict=True)]
        if around[0] != around[1] or around[0] < 0 or around[0] % 2:
            raise ProbeError(
                f"stimuli: expected images of {self.image_size[0]} × {self.image_size[1]} pixels, "
                f"or with the same margin on all sides, got {whole[0]} × {whole[1]}"
            )
        self.margin = around[0] // 2
        self._images = images.detach()
        self._start = {"train": 0, "test": train_images, "certificate": 0}

    def batch(self, split: str, start: int, stop: int, margin: int = 0) -> Tensor:
        first = self._start[one_of(split, SPLITS, "split")]
        if margin > self.margin:
            raise ProbeError(
                f"stimuli: a margin of {margin} pixels was asked for, but the tensor's images "
                f"show only {self.margin} beyond the {self.image_size[0]} × {self.image_size[1]} "
                "pixels that are probed; pass larger images and image_size, or tileable stimuli"
            )
        part = stretch(self._images[first + start : first + stop], margin - self.margin)
        return part.to(torch.float32).contiguous(memory_format=torch.channels_last)

    def paint(self, split: str, index: int, canvas: NDArray[np.uint8]) -> None:
        pixels = self.batch(split, index, index + 1, self.margin)[0].permute(1, 2, 0).cpu().numpy()
        canvas[..., :3] = np.rint(pixels * 255)


SHIFTS = 4
"""Test images of one scene, see :func:`antithetic_batch`."""


def scene_size(source: Stimuli) -> int:
    """Consecutive test images of one scene: :data:`SHIFTS` on a stationary torus, else 1."""
    return SHIFTS if source.tileable and source.stationary else 1


def scenes(source: Stimuli, count: int) -> NDArray[np.int64]:
    """Number the scenes that test images show: shifted copies of one, crops of one photograph.

    Parameters
    ----------
    source : Stimuli
        Whose test split :func:`antithetic_batch` took.
    count : int
        How many images.

    Returns
    -------
    ndarray of int, shape (count,)
    """
    return np.array([source.scene(index // scene_size(source)) for index in range(count)])


def antithetic_batch(
    source: Stimuli, start: int, stop: int, margin: int = 0, *, stride: int = 1
) -> Tensor:
    """Return test images ``start … stop − 1``, on a stationary torus in antithetic fours.

    There, images ``4 s … 4 s + 3`` are scene s of the source, shifted down and to the right by 0,
    ¼, ½ and ¾ of the torus. A shifted image is as likely as the original, so that no expectation
    changes; but what a readout takes for position in the content of a scene moves around with it
    and averages out, while position that comes with the place stays. That cuts the noise of the
    scores of a network without position to about a third.

    Parameters
    ----------
    source : Stimuli
        Whose test split to take.
    start, stop : int
        First image, and the one after the last.
    margin : int
        Pixels to show beyond each edge, see :meth:`Stimuli.batch`.
    stride : int
        Shifts are rounded to multiples of it where it divides the image's side into four parts
        or more: on these, an equivariant network's features move by whole places.

    Returns
    -------
    Tensor of float32, shape (stop − start, 3, H + 2 margin, W + 2 margin), in [0, 1]
        In channels-last memory format.

    References
    ----------
    Hammersley, Morton (1956), "A new Monte Carlo technique: antithetic variates", Proc. Cambridge
    Phil. Soc. 52; Cranley, Patterson (1976), "Randomization of number theoretic methods for
    multiple integration", SIAM J. Numer. Anal. 13, for rotations of the torus.
    """
    size = scene_size(source)
    if size == 1:
        return source.batch("test", start, stop, margin)
    first = start // size
    scenes = source.batch("test", first, (stop - 1) // size + 1)
    images = torch.empty_like(scenes[:1].expand(stop - start, -1, -1, -1))
    images = images.contiguous(memory_format=torch.channels_last)
    for row, index in enumerate(range(start, stop)):
        moves = []
        for side in source.image_size:
            step = stride if side % stride == 0 and side // stride >= size else 1
            moves.append(round(index % size * side / step / size) * step)
        images[row] = torch.roll(scenes[index // size - first], moves, (1, 2))
    return stretch(images, margin)


STIMULI: tuple[str, ...] = ("leaves", "noise", "pink", "black", "white")
"""Names of the sources that need no files."""


def open_stimuli(
    stimuli: str | Path | Tensor | Stimuli,
    image_size: tuple[int, int],
    seed: int = 0,
    *,
    train_images: int = 256,
    test_images: int = 64,
    margin: int = 0,
) -> Stimuli:
    """Return the source that a name, a folder or a tensor stands for.

    Parameters
    ----------
    stimuli : str, Path, Tensor, ndarray or Stimuli
        One of :data:`STIMULI`, a folder of photographs, images (N, 3, H, W) in [0, 1], or a
        source of one's own.
    image_size : (int, int)
        Height and width in pixels.
    seed : int
        Seed of the images.
    train_images, test_images : int
        How many images the run takes of each split.
    margin : int
        Pixels beyond each edge that the run asks for.

    Raises
    ------
    ProbeError
        If there is no such source, or its images are of another size.
    """
    if isinstance(stimuli, np.ndarray):
        stimuli = torch.from_numpy(stimuli)
    if isinstance(stimuli, Tensor):
        shares = {"train_images": train_images, "test_images": test_images}
        stimuli = Given(stimuli, **shares, image_size=tuple(image_size))
    if isinstance(stimuli, Stimuli):
        if stimuli.image_size != tuple(image_size):
            raise ProbeError(
                f"stimuli: expected images of {image_size[0]} × {image_size[1]} pixels, "
                f"got {stimuli.image_size[0]} × {stimuli.image_size[1]}"
            )
        return stimuli
    if not isinstance(stimuli, str | Path) or not str(stimuli).strip():
        raise ProbeError(
            f"stimuli: expected one of {', '.join(STIMULI)}, a folder of photographs or a tensor "
            f"(N, 3, H, W), got {stimuli!r}"
        )
    if stimuli == "leaves":
        return Leaves(image_size, seed)
    if stimuli == "noise":
        return WhiteNoise(image_size, seed)
    if stimuli == "pink":
        return PinkNoise(image_size, seed)
    if stimuli in ("black", "white"):
        return Constant(image_size, seed, name=str(stimuli))
    if isinstance(stimuli, str) and not _looks_like_path(stimuli):
        one_of(stimuli, STIMULI, "stimuli (no folder has this name either)")
    shares = {"train_images": train_images, "test_images": test_images}
    return Photos(stimuli, image_size, seed, **shares, margin=margin)


def _looks_like_path(text: str) -> bool:
    if "/" in text or "\\" in text or text[:1] in ".~":
        return True
    try:
        return Path(text).exists()
    except OSError:
        return False
