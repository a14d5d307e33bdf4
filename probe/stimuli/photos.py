"""A folder of photographs."""

from __future__ import annotations

import filecmp
import math
from collections.abc import Iterator
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from ..errors import ProbeError
from .source import SPLITS, Stimuli

_FORMATS = {
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".png": "PNG",
    ".webp": "WEBP",
    ".bmp": "BMP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".gif": "GIF",
    ".ppm": "PPM",
}
"""Formats by suffix. No file is opened as another one: PostScript would start a program."""

_MOST_PIXELS = 2**28
"""Pixels of the largest photograph that is opened, a gigabyte in memory."""


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
        self._transparent: set[Path] = set()
        self.folder = Path(folder).expanduser()
        self.name = _readable(folder)
        try:
            missing = not self.folder.is_dir()
        except OSError:
            missing = True
        if missing:
            raise ProbeError(f"no folder of photographs at {str(folder)!r}")
        files = sorted(
            p for p in self.folder.rglob("*") if p.suffix.lower() in _FORMATS and p.is_file()
        )
        if not files:
            raise ProbeError(
                f"the folder {str(folder)!r} holds no photographs; "
                f"expected files ending in {', '.join(_FORMATS)}"
            )
        readable = [p for p in files if self._identified(p)]
        if not readable:
            raise ProbeError(
                f"none of the {len(files)} image files in {str(folder)!r} can be read, "
                f"for example {self.skipped[0]}"
            )
        order = np.random.Generator(np.random.Philox(key=[seed % 2**64, 2**63]))
        files = [readable[i] for i in order.permutation(len(readable))]
        if len(files) == 1:
            self.files = dict.fromkeys(SPLITS, files)
        else:
            share = test_images / max(train_images + test_images, 1)
            held_out = min(max(1, round(len(files) * share)), len(files) - 1)
            train, test = files[:-held_out], files[-held_out:]
            self.files = {"train": train, "test": test, "certificate": train}
        self.scenes = len(self.files["test"])
        self._load = lru_cache(maxsize=32)(self._decode)

    @property
    def untested(self) -> str:
        """Why scores are no test: train and test images are crops of the same photographs."""
        if self._copies == len(self.files["test"]):
            return "train and test images are crops of the same photographs"
        return ""

    @cached_property
    def _copies(self) -> int:
        """How many test photographs are, byte for byte, training ones too."""
        sizes: dict[int, list[Path]] = {}
        for path in self.files["train"]:
            sizes.setdefault(path.stat().st_size, []).append(path)
        return sum(
            any(filecmp.cmp(path, other, shallow=False) for other in alike)
            for path in self.files["test"]
            if (alike := sizes.get(path.stat().st_size))
        )

    @property
    def cautions(self) -> list[str]:
        sentences = []
        if 0 < self._copies < len(self.files["test"]):
            sentences.append(
                f"{self._copies} of {len(self.files['test'])} test photographs in {self.name} are "
                "copies of training ones"
            )
        if self._enlarged:
            height, width = self.image_size
            size = f"their margin of {self.margin} pixels" if self.margin else ""
            size = f"images with {size}" if size else f"the images of {height} × {width} pixels"
            sentences.append(
                f"photographs in {self.name} that are smaller than {size} were enlarged: "
                f"{len(self._enlarged)}"
            )
        if self._transparent:
            sentences.append(
                f"pictures in {self.name} that are transparent in places show the mean colour of "
                f"the rest there: {len(self._transparent)}"
            )
        if self.skipped:
            names = ", ".join(self.skipped[:5]) + (", …" if len(self.skipped) > 5 else "")
            sentences.append(
                f"files in {self.name} that could not be read were skipped "
                f"({len(self.skipped)}): {names}"
            )
        return sentences

    def _shown(self, split: str, index: int) -> tuple[Path, Image.Image]:
        """The photograph of an image, or the next one that can be read."""
        for _, path in self._from(split, index):
            photo = self._load(path)
            if photo is not None:
                return path, photo
        raise ProbeError(f"no {split} photograph in {self.name!r} can be read to its end")

    def paint(self, split: str, index: int, canvas: NDArray[np.uint8]) -> None:
        path, photo = self._shown(split, index)
        rng = self.rng(split, index)
        height, width = canvas.shape[:2]
        whole = min(photo.width / width, photo.height / height)
        scale = whole * rng.uniform(0.5, 1)
        if (scale if self.margin else whole) < 1:
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
        files = self.files[split]
        for step in range(len(files)):
            number = (index + step) % len(files)
            yield number, files[number]

    def _identified(self, path: Path) -> bool:
        try:
            with self._open(path):
                return True
        except Exception:  # decoders raise whatever bytes ask for
            self._skip(path)
            return False

    def _open(self, path: Path) -> Image.Image:
        file = Image.open(path, formats=sorted(set(_FORMATS.values())))
        if file.width * file.height > _MOST_PIXELS:
            raise ValueError(f"more than {_MOST_PIXELS:,} pixels")
        return file

    def _decode(self, path: Path) -> Image.Image | None:
        height, width = (side + 2 * self.margin for side in self.image_size)
        try:
            with self._open(path) as file:
                file.draft("RGB", (2 * width, 2 * height))
                photo = _eight_bit(ImageOps.exif_transpose(file))
                if "A" in photo.getbands() or "transparency" in photo.info:
                    self._transparent.add(path)
                    photo = _opaque(photo.convert("RGBA"))
                photo = photo.convert("RGB")
        except Exception:  # as above; what it is is the same to the reader
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
        return _readable(path.relative_to(self.folder))


def _readable(path: str | Path) -> str:
    """Return a path as text that can be written: names of files need not be UTF-8."""
    return str(path).encode(errors="surrogateescape").decode(errors="replace")


class WholePhotos(Photos):
    """The photographs in a folder, each resized to the image size, whatever its shape.

    As in published protocols: nothing is cropped or flipped, so that what is always above, such
    as the sky, tells of position. Shares and attributes are those of :class:`Photos`.
    """

    def paint(self, split: str, index: int, canvas: NDArray[np.uint8]) -> None:
        _, photo = self._shown(split, index)
        size = canvas.shape[1], canvas.shape[0]
        canvas[..., :3] = np.asarray(photo.resize(size, Image.Resampling.BILINEAR))


def _opaque(photo: Image.Image) -> Image.Image:
    """Lay a picture on its mean colour: what lies under its alpha was never to be seen."""
    pixels = np.asarray(photo, np.float64)
    weight = pixels[..., 3:].sum()
    mean = (pixels[..., :3] * pixels[..., 3:]).sum((0, 1)) / weight if weight else np.full(3, 128.0)
    ground = Image.new("RGBA", photo.size, (*(int(v) for v in mean.round()), 255))
    return Image.alpha_composite(ground, photo)


def _eight_bit(photo: Image.Image) -> Image.Image:
    """Scale a 16-bit grey photograph, which Pillow would clip, to 8 bits."""
    if photo.mode == "F":
        raise ValueError("floating-point pictures have no known white")
    if not photo.mode.startswith("I"):
        return photo
    return Image.fromarray(
        (np.asarray(photo).astype(np.float64) / 257).clip(0, 255).astype(np.uint8)
    )
