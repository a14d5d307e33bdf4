r"""Readouts: heads that predict position targets from a layer's features.

One interface for all (:class:`Readout`): fit from what streaming gives, predict maps. Each is also
an estimator of its own, in the style of scikit-learn.

- :class:`Ridge`: linear, in closed form from position moments. With standardised features
  :math:`z` (mean 0, variance 1 by channel), correlation matrix :math:`R = E[z z^T]` and
  :math:`c = E[z (t - \bar t)]`,

  .. math:: v = (R + α I)^{-1} c,

  the minimiser of :math:`E[(v^T z + \bar t - t)^2] + α \|v\|^2`, means being taken over images and
  places. α is chosen for each target by cross-validation over folds of images; the held-out error
  of a fold follows from that fold's own moments.
- :class:`PoseNet`: the published protocol (Islam, Jia, Bruce 2020).
- :class:`Softmax`: position as classification over a grid of cells (Liu et al. 2018).
"""

from __future__ import annotations

import inspect
import math
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar, Self, TypeVar

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from ..errors import ProbeError
from .moments import Moments

T = TypeVar("T")

Values = ArrayLike | Tensor

ImageScores = dict[tuple[str, str], Tensor]
"""Scores of each image (B,), by target and metric."""

FOLDS = 4
"""Folds of training images for cross-validation."""

_SHARE_OF_MEMORY = 0.5  # of the machine's, that a readout may fill


class Readout(ABC):
    """Predicts position targets from features, with the same head at every place.

    ``partial_fit`` takes features as they stream by; ``solve`` fits to targets, maps over places
    that are the same for every image and need not be known before. ``fit`` does both. A class says
    in its attributes what a run has to know of it.

    Attributes
    ----------
    name : str
    kernels : tuple of int
        Sides of the neighbourhoods that it can be asked to see, the default first.
    concat : bool
        Whether it reads all layers together by default.
    gridded : bool
        Whether layers are resized to the common grid also where it reads them one by one.
    pixel_targets : bool
        Whether ``solve`` takes targets larger than what is predicted; a run then gives maps of the
        image's pixels.
    train_images : int
        How many it takes by default.
    copies : int
        Copies of all training features that it needs room for at a time.
    needs_sums : bool
        Whether a run has to keep the sums of each place, which patterns are made of; if not, they
        are taken from ``moments``.
    moments : mapping of int to Moments
        Of each fold, where it keeps them, until solved.
    kernel : int
        Side of the neighbourhoods that it sees.
    """

    name: ClassVar[str]
    kernels: ClassVar[tuple[int, ...]] = (1,)
    concat: ClassVar[bool] = False
    gridded: ClassVar[bool] = False
    pixel_targets: ClassVar[bool] = False
    train_images: ClassVar[int] = 256
    copies: ClassVar[int] = 0
    moments: Mapping[int, Moments] = MappingProxyType({})
    kernel: int = 1

    @property
    def needs_sums(self) -> bool:
        return True

    @abstractmethod
    def partial_fit(self, features: Values, fold: int = 0) -> Self:
        """Accumulate one batch of training features.

        Parameters
        ----------
        features : Tensor or ndarray, shape (B, C, h, w)
            All batches of one size.
        fold : int
            Number of the fold of images that they belong to.

        Raises
        ------
        ProbeError
            If they don't fit into memory, or features of another size came before.
        """

    @abstractmethod
    def solve(self, targets: Values, order: ArrayLike | None = None) -> Self:
        """Fit to the accumulated features, then free them.

        Parameters
        ----------
        targets : ndarray or Tensor, shape (T, h', w')
            At the places that the readout predicts, see :meth:`places`.
        order : array of int, shape (h' · w',), optional
            A permutation of places: fit also the control task (Hewitt and Liang 2019), each target
            with its places so permuted.
        """

    @abstractmethod
    def predict(self, features: Values) -> Tensor:
        """Predict the targets of features (B, C, h, w): float64, shape (B, T, h', w').

        With an ``order`` (B, 2 T, h', w'): the targets first, their controls after.
        """

    @abstractmethod
    def reset(self) -> Self:
        """Forget everything."""

    @classmethod
    def describe(cls, kernel: int = 1) -> str:
        """Say in a report what it is and how it is fitted; “scored on other images” follows."""
        return f"The readout: {(inspect.getdoc(cls) or cls.name).splitlines()[0].rstrip('.')};"

    def bytes_held(self, channels: int, places: int, images: int) -> int:
        """Bytes that it holds of a layer once so many training images came in."""
        return 4 * self.copies * images * channels * places

    def check(self, channels: int, height: int, width: int, device: torch.device) -> None:
        """Refuse a layer that it can't see or has no memory for, before images stream."""
        self.places(height, width)

    def chosen_alphas(self) -> list[float]:
        """Regularisation of each target, of a readout that chooses it."""
        return []

    def kept(self, targets: int) -> Self:
        """Return the fitted readout as a result keeps it: for so many targets, without controls."""
        return self

    def arrays(self) -> dict[str, np.ndarray]:
        """Return what it was fitted to, for a file; empty if it can't be saved."""
        return {}

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Self:
        """Return the fitted readout that :meth:`arrays` tells of."""
        raise ProbeError(f"the readout {cls.name} can't be read from a file")

    def extra_chance(self, height: int, width: int) -> dict[tuple[str, str], float]:
        """Chance levels of what it alone is scored on, by target and metric."""
        return {}

    def predict_and_score(self, features: Values) -> tuple[Tensor, ImageScores]:
        """Predict, and score each image (B,) on what :meth:`extra_chance` names."""
        return self.predict(features), {}

    def places(self, height: int, width: int) -> tuple[int, int]:
        """Places (h', w') that are predicted from maps of h × w cells: those of whole kernels."""
        size = height - self.kernel + 1, width - self.kernel + 1
        if min(size) < 1 or max(size) < 2:
            raise ProbeError(
                f"a map of {height} × {width} cells has too few neighbourhoods of {self.kernel} × "
                f"{self.kernel} cells: choose kernel 1, earlier layers or a larger image size"
            )
        return size

    def fit(self, features: Values, targets: Values, folds: int = FOLDS) -> Self:
        """Fit to features (N, C, h, w) of training images and to targets (T, h', w').

        ``folds`` of consecutive images choose the regularisation.
        """
        features = as_features(features)
        targets = as_targets(targets, self.places(*features.shape[2:]), self.pixel_targets)
        self.reset()
        for fold, part in enumerate(torch.tensor_split(features, min(folds, len(features)))):
            self.partial_fit(part, fold)
        return self.solve(targets)

    def score(self, features: Values, targets: Values) -> float:
        """Coefficient of determination R² per image and target, averaged."""
        predictions = self.predict(features).cpu()
        truth = as_targets(targets, tuple(predictions.shape[2:])).to(predictions)
        residual = ((predictions - truth) ** 2).sum((2, 3))
        total = ((truth - truth.mean((1, 2), keepdim=True)) ** 2).sum((1, 2))
        return float((1 - residual / total).mean())

    @classmethod
    def make(cls, **options: Any) -> Self:
        """Make one with those of the options that it takes."""
        taken = inspect.signature(cls).parameters
        return cls(**{name: value for name, value in options.items() if name in taken})

    # What scikit-learn's clone calls.

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return what the readout was made with."""
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

    def set_params(self, **params: Any) -> Self:
        """Change what the readout was made with; it has to be fitted again."""
        self.__dict__ = type(self)(**(self.get_params() | params)).__dict__
        return self

    def __repr__(self) -> str:
        given = ", ".join(f"{k}={v!r}" for k, v in self.get_params().items())
        return f"{type(self).__name__}({given})"


def as_features(features: Values) -> Tensor:
    """Features as a tensor (B, C, h, w) of floating-point values."""
    x = features if isinstance(features, Tensor) else torch.from_numpy(np.asarray(features))
    if x.ndim != 4 or 0 in x.shape:
        raise ProbeError(f"features: expected a tensor (B, C, h, w), got shape {tuple(x.shape)}")
    wide = x.dtype in (torch.float32, torch.float64)
    return x if wide else x.to(torch.float32)


def as_targets(
    targets: Values, places: Sequence[int] | None = None, larger: bool = False
) -> Tensor:
    """Targets as a tensor (T, h', w') of float64."""
    t = torch.as_tensor(targets, dtype=torch.float64)
    size = tuple(t.shape[1:])
    fits = t.ndim == 3 and len(t) > 0
    if fits and places is not None and size != tuple(places):
        fits = larger and all(n >= m for n, m in zip(size, places, strict=True))
    if not fits:
        wanted = "h', w'" if places is None else f"{places[0]}, {places[1]}"
        raise ProbeError(f"targets: expected shape (T, {wanted}), got {tuple(t.shape)}")
    return t


def with_controls(targets: Tensor, order: ArrayLike | None) -> Tensor:
    """Targets (T, h, w), and after them the same with their places permuted."""
    if order is None:
        return targets
    order = torch.as_tensor(np.asarray(order), dtype=torch.int64, device=targets.device)
    flat = targets.flatten(1)
    if sorted(order.tolist()) != list(range(flat.shape[1])):
        raise ProbeError(f"order: expected a permutation of {flat.shape[1]} places")
    return torch.cat([targets, flat[:, order].reshape(targets.shape)])


def check_memory(needed: float, device: torch.device, what: str, instead: str) -> None:
    """Refuse what would fill the machine's memory, before it does."""
    if device.type == "cuda":
        memory = torch.cuda.get_device_properties(device).total_memory
    else:
        try:
            memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        except (AttributeError, ValueError, OSError):
            memory = 16 * 2**30
    if needed > _SHARE_OF_MEMORY * memory:
        raise ProbeError(
            f"{what} would need {needed / 2**30:,.1f} GiB of memory, more than "
            f"{_SHARE_OF_MEMORY:.0%} of the {memory / 2**30:,.1f} GiB there are: {instead}"
        )


def check_fitted(value: Any) -> Any:
    if value is None:
        raise ProbeError("the readout is not fitted: call fit, or partial_fit and solve, first")
    return value


def choose_alphas(alphas: Sequence[float]) -> tuple[float, ...]:
    try:
        right = len(alphas) > 0 and min(alphas) > 0
    except TypeError:
        right = False
    if not right:
        raise ProbeError(f"alphas: expected one or several numbers above 0, got {alphas!r}")
    return tuple(alphas)


def as_given(batch: Tensor, shape: torch.Size) -> None:
    """Refuse maps of another shape (C, h, w) than came before."""
    if batch.shape[1:] != shape:
        raise ProbeError(
            f"features: expected maps of shape {tuple(shape)} as before, got "
            f"{tuple(batch.shape[1:])}"
        )


def check_seen(kept: list[T]) -> list[T]:
    if not kept:
        raise ProbeError("the readout has seen no features: call partial_fit first")
    return kept


class KeepingReadout(Readout):
    """A readout that keeps its training features until it is solved."""

    def reset(self) -> Self:
        self._features: list[Tensor] = []
        self._folds: list[int] = []
        return self

    def partial_fit(self, features: Values, fold: int = 0) -> Self:
        batch = as_features(features).detach().to(torch.float32)
        if self._features:
            as_given(batch, self._features[0].shape[1:])
        images = len(self._folds) + len(batch)
        check_memory(
            4 * self.copies * images * math.prod(batch.shape[1:]),
            batch.device,
            f"the readout {self.name} keeps its features: {images:,} images of "
            f"{' × '.join(map(str, batch.shape[1:]))} values",
            "choose fewer images or layers, or the readout ridge, which keeps none",
        )
        self._features.append(batch.clone())
        self._folds += [fold] * len(batch)
        return self
