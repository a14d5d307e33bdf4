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
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, ClassVar, Self

import numpy as np
import scipy.optimize
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from tqdm.auto import tqdm

from .errors import ProbeError, whole_number
from .moments import Moments, centred, pilot_origin, symmetric

READOUTS: tuple[str, ...] = ("ridge", "posenet", "softmax")
"""Names of the readouts."""

ALPHAS: tuple[float, ...] = (1e-4, 1e-2, 1.0, 1e2)
"""Regularisation values that cross-validation chooses from, per standardised sample.

The held-out error is flat in log α: with nine values, 1e-5 … 1e3, no SPC of the reference network
changes by more than 0.002.
"""

FOLDS = 4
"""Folds of training images for cross-validation."""

_START = 1  # where the search over ALPHAS begins
_SHARE_OF_MEMORY = 0.5  # of the machine's, that a readout may fill


class Readout(ABC):
    """Predicts position targets from features, with the same head at every place.

    ``partial_fit`` takes features as they stream by, ``solve`` fits to targets: these are maps
    over places, the same for every image, and need not be known before. ``fit`` does both.
    """

    name: ClassVar[str]
    train_images: ClassVar[int] = 256
    """How many training images it takes by default."""
    copies: ClassVar[int] = 0
    """Copies of all training features that it needs room for at a time."""
    kernel: int = 1

    @abstractmethod
    def partial_fit(self, features: ArrayLike | Tensor, fold: int = 0) -> Self:
        """Take a batch of training features in.

        Parameters
        ----------
        features : Tensor or ndarray, shape (B, C, h, w)
            Of B images.
        fold : int
            Number of the fold of images that they belong to.

        Raises
        ------
        ProbeError
            If the readout would need more memory than there is, or features of another size came
            before.
        """

    @abstractmethod
    def solve(self, targets: ArrayLike | Tensor, order: ArrayLike | None = None) -> Self:
        """Fit to what came in, and let it go.

        Parameters
        ----------
        targets : ndarray or Tensor, shape (T, h', w')
            Target maps at the places that the readout predicts, see :meth:`places`.
        order : array of int, shape (h' · w',), optional
            A permutation of places. With it the readout is also fitted to the control task
            (Hewitt and Liang 2019): each target with its places so permuted.
        """

    @abstractmethod
    def predict(self, features: ArrayLike | Tensor) -> Tensor:
        """Predict the targets of a batch.

        Parameters
        ----------
        features : Tensor or ndarray, shape (B, C, h, w)
            Of the size that came in before.

        Returns
        -------
        Tensor of float64, shape (B, T, h', w')
            With an ``order`` (B, 2 T, h', w'): the targets first, their controls after.
        """

    @abstractmethod
    def reset(self) -> Self:
        """Forget everything."""

    def places(self, height: int, width: int) -> tuple[int, int]:
        """Places (h', w') that are predicted from maps of h × w cells: those of whole kernels.

        Raises
        ------
        ProbeError
            If there is no more than one.
        """
        size = height - self.kernel + 1, width - self.kernel + 1
        if min(size) < 1 or max(size) < 2:
            raise ProbeError(
                f"a map of {height} × {width} cells has too few neighbourhoods of {self.kernel} × "
                f"{self.kernel} cells: choose kernel 1, earlier layers or a larger image size"
            )
        return size

    def fit(
        self, features: ArrayLike | Tensor, targets: ArrayLike | Tensor, folds: int = FOLDS
    ) -> Self:
        """Fit to features of training images.

        Parameters
        ----------
        features : Tensor or ndarray, shape (N, C, h, w)
            Of N images.
        targets : ndarray or Tensor, shape (T, h', w')
            See :meth:`places`.
        folds : int
            Of consecutive images, for the choice of the regularisation.

        Raises
        ------
        ProbeError
            If shapes do not fit, or there are no images.
        """
        features = as_features(features)
        targets = as_targets(targets, self.places(*features.shape[2:]), self.larger_targets)
        self.reset()
        for fold, part in enumerate(torch.tensor_split(features, min(folds, len(features)))):
            self.partial_fit(part, fold)
        return self.solve(targets)

    def score(self, features: ArrayLike | Tensor, targets: ArrayLike | Tensor) -> float:
        """Coefficient of determination R² per image and target, averaged."""
        predictions = self.predict(features).cpu()
        truth = as_targets(targets, tuple(predictions.shape[2:])).to(predictions)
        residual = ((predictions - truth) ** 2).sum((2, 3))
        total = ((truth - truth.mean((1, 2), keepdim=True)) ** 2).sum((1, 2))
        return float((1 - residual / total).mean())

    larger_targets: ClassVar[bool] = False
    """Whether ``solve`` takes maps of a larger size too."""

    # What scikit-learn's clone calls.

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return what the readout was made with."""
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

    def set_params(self, **params: Any) -> Self:
        """Change what the readout was made with; it has to be fitted again."""
        self.__init__(**(self.get_params() | params))
        return self

    def __repr__(self) -> str:
        given = ", ".join(f"{k}={v!r}" for k, v in self.get_params().items())
        return f"{type(self).__name__}({given})"


def as_features(features: ArrayLike | Tensor) -> Tensor:
    """Features as a tensor (B, C, h, w) of floating-point values."""
    x = features if isinstance(features, Tensor) else torch.from_numpy(np.asarray(features))
    if x.ndim != 4 or 0 in x.shape:
        raise ProbeError(f"features: expected a tensor (B, C, h, w), got shape {tuple(x.shape)}")
    wide = x.dtype in (torch.float32, torch.float64)
    return x if wide else x.to(torch.float32)


def as_targets(
    targets: ArrayLike | Tensor, places: Sequence[int] | None = None, larger: bool = False
) -> Tensor:
    """Targets as a tensor (T, h', w') of float64."""
    t = torch.as_tensor(targets, dtype=torch.float64)
    fits = t.ndim == 3 and len(t) > 0
    if fits and places is not None:
        here = tuple(t.shape[1:])
        fits = here == tuple(places) or (
            larger and all(n >= m for n, m in zip(here, places, strict=True))
        )
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
    """Refuse what would fill the machine's memory, before it does.

    Raises
    ------
    ProbeError
        Which says what it would need.
    """
    if device.type == "cuda":
        there = torch.cuda.get_device_properties(device).total_memory
    else:
        try:
            there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        except (AttributeError, ValueError, OSError):
            there = 16 * 2**30
    if needed > _SHARE_OF_MEMORY * there:
        raise ProbeError(
            f"{what} would need {needed / 2**30:,.1f} GiB of memory, more than "
            f"{_SHARE_OF_MEMORY:.0%} of the {there / 2**30:,.1f} GiB there are: {instead}"
        )


def _fitted(value: Any) -> Any:
    if value is None:
        raise ProbeError("the readout is not fitted: call fit, or partial_fit and solve, first")
    return value


# ---------------------------------------------------------------- ridge


class Ridge(Readout):
    """Linear readout of each place, or of its 3 × 3 neighbourhood, in closed form.

    Parameters
    ----------
    kernel : int
        1: from a place's own features. 3: from those of its neighbourhood, without padding.
    alphas : sequence of float
        Cross-validation over folds chooses one for each target.

    Attributes
    ----------
    moments : dict of int to Moments
        Of each fold; empty once solved.
    map : LinearMap
        The solution, see :func:`fit_ridge`.

    Examples
    --------
    >>> readout = Ridge(kernel=3).fit(features, targets)  # (N, C, h, w), (T, h − 2, w − 2)
    >>> readout.predict(features)  # (N, T, h − 2, w − 2)
    """

    name = "ridge"

    def __init__(self, kernel: int = 1, alphas: Sequence[float] = ALPHAS) -> None:
        if kernel not in (1, 3):
            raise ProbeError(f"kernel: expected 1 or 3, got {kernel!r}")
        self.kernel = kernel
        self.alphas = _alphas(alphas)
        self.reset()

    def reset(self) -> Self:
        self.moments: dict[int, Moments] = {}
        self.map: LinearMap | None = None
        self._origin: Tensor | None = None
        return self

    def check(self, channels: int, places: int, device: torch.device, layer: str = "") -> None:
        """Refuse features of so many channels that their moments would not fit in memory.

        Raises
        ------
        ProbeError
            Which says what it would need.
        """
        size = channels * self.kernel**2
        of = f" of layer {layer}" if layer else ""
        check_memory(
            8 * size * (2 * (FOLDS + 2) * size + FOLDS * places),
            device,
            f"a ridge readout{of} of {size:,} dimensions ({channels:,} channels, kernel "
            f"{self.kernel})",
            "choose kernel 1, fewer layers, or the readout posenet",
        )

    def partial_fit(self, features: ArrayLike | Tensor, fold: int = 0) -> Self:
        features = as_features(features)
        height, width = self.places(*features.shape[2:])
        if self._origin is None:
            self.check(features.shape[1], height * width, features.device)
            self._origin, self._shape = pilot_origin(features), features.shape[1:]
        _like(features, self._shape)
        if fold not in self.moments:
            self.moments[fold] = Moments.empty(self._origin, height * width, self.kernel)
        self.moments[fold].update(features)
        self._size = height, width
        return self

    def solve(self, targets: ArrayLike | Tensor, order: ArrayLike | None = None) -> Self:
        if not self.moments:
            raise ProbeError("the readout has seen no features: call partial_fit first")
        wanted = with_controls(as_targets(targets, self._size), order)
        folds = [self.moments[fold] for fold in sorted(self.moments)]
        self.map = fit_ridge(folds, wanted.flatten(1), self.alphas)
        self.moments = {}
        return self

    def predict(self, features: ArrayLike | Tensor) -> Tensor:
        linear, features = _fitted(self.map), as_features(features)
        return linear(features).unflatten(2, self.places(*features.shape[2:]))


@dataclass(frozen=True)
class LinearMap:
    """A linear map from features to targets, the same at every place.

    ``prediction_t(p) = weights_t · (f(p) − origin) + intercept_t``

    Attributes
    ----------
    origin : Tensor, shape (D,)
    weights : Tensor of float64, shape (T, D)
    intercept : Tensor of float64, shape (T,)
    alphas : Tensor of float64, shape (T,)
        The regularisation of each target.
    kernel : int
        1, or 3 for neighbourhoods: D = 9 C, see :class:`~probe.moments.Moments`.
    """

    origin: Tensor
    weights: Tensor
    intercept: Tensor
    alphas: Tensor
    kernel: int = 1

    def __call__(self, features: Tensor) -> Tensor:
        """Predict the targets of a batch.

        Parameters
        ----------
        features : Tensor, shape (B, C, h, w)
            Reduced as those that it was fitted to.

        Returns
        -------
        Tensor of float64, shape (B, T, P)
            Of the places that have a whole kernel.
        """
        channels = features.shape[1]
        # Constant targets have all weights 0: their scale is left alone.
        scale = self.weights.abs().amax(1).clamp_min(torch.finfo(torch.float64).tiny)
        unit = (self.weights / scale[:, None]).to(features.dtype)
        samples = centred(features, self.origin[:channels])
        if self.kernel == 1:
            values = (samples @ unit.T).transpose(1, 2)
        else:
            # Each cell's share in each neighbourhood it belongs to, then summed: 9 T maps.
            k = self.kernel
            height, width = features.shape[2:]
            parts = unit.unflatten(1, (k * k, channels)).flatten(0, 1)
            shares = (samples @ parts.T).transpose(1, 2)
            shares = shares.reshape(len(features), len(unit), k, k, height, width)
            rows, columns = height - k + 1, width - k + 1
            values = sum(
                shares[:, :, y, x, y : y + rows, x : x + columns]
                for y, x in product(range(k), repeat=2)
            ).flatten(2)
        return values.to(torch.float64) * scale[:, None] + self.intercept[:, None]


@dataclass(frozen=True)
class Statistics:
    """Means and covariances over images and places, of features and targets.

    Attributes
    ----------
    mean : Tensor, shape (C,)
        Of the features, about the moments' origin.
    covariance : Tensor, shape (C, C)
        Of the features; the lower triangle counts.
    cross : Tensor, shape (C, T)
        Covariance of features and targets.
    """

    mean: Tensor
    covariance: Tensor
    cross: Tensor

    @classmethod
    def of(cls, moments: Moments, targets: Tensor) -> Statistics:
        """Compute them from moments and targets of shape (T, P)."""
        mean = whole_mean(moments)
        second = moments.second / (moments.images * moments.places)
        return cls(mean, second.addr_(mean, mean, alpha=-1), _cross(moments, targets))


def fit_ridge(
    folds: Sequence[Moments], targets: Tensor, alphas: Sequence[float] = ALPHAS
) -> LinearMap:
    """Fit a ridge readout for each target, its regularisation chosen by cross-validation.

    The search starts at the second of ``alphas`` (0.01 by default) and walks downhill along them to
    the nearest minimum of the held-out error. Channels without variance (standard deviation
    ≤ 1e-5 of the mean, or ≤ 1e-6 of the layer's root mean square) get weight 0.

    Parameters
    ----------
    folds : sequence of Moments
        Of disjoint folds of images. One fold alone leaves nothing to validate on: then the
        largest α is taken.
    targets : Tensor of float64, shape (T, P)
        One row for each target.
    alphas : sequence of float
        In any order.

    Returns
    -------
    LinearMap

    References
    ----------
    Hoerl, Kennard (1970), "Ridge regression", Technometrics 12; Stone (1974), "Cross-validatory
    choice and assessment of statistical predictions", JRSS B 36.
    """
    alphas = sorted(alphas)
    total = folds[0]
    for fold in folds[1:]:
        total = total + fold
    targets = targets.to(total.first)
    whole = Statistics.of(total, targets)
    scale = _standardisation(whole, total.origin)
    whole = _scaled(whole, scale)
    chosen = torch.full((len(targets),), alphas[-1], dtype=torch.float64)
    if len(folds) > 1:
        chosen = _cross_validate(folds, total, targets, scale, alphas)
    standard = whole.cross.new_zeros(len(targets), len(scale))
    for alpha in chosen.unique().tolist():
        mine = (chosen == alpha).to(targets.device)
        solved, _ = solve_ridge(whole.covariance, whole.cross[:, mine], alpha)
        standard[mine] = solved.T
    weights = standard * scale
    intercept = targets.mean(1) - weights @ whole_mean(total)
    return LinearMap(total.origin, weights, intercept, chosen, total.kernel)


def solve_ridge(covariance: Tensor, cross: Tensor, alpha: float) -> tuple[Tensor, bool]:
    """Solve ``(R + α I) v = c`` for every column of c by Cholesky decomposition.

    Parameters
    ----------
    covariance : Tensor, shape (C, C)
        R; only its lower triangle is read.
    cross : Tensor, shape (C, T)
        c.
    alpha : float
        α ≥ 0.

    Returns
    -------
    Tensor, shape (C, T)
        v, and whether ``R + α I`` was positive definite; if not, v is 0.
    """
    diagonal = covariance.diagonal()
    before = diagonal.clone()
    try:
        diagonal.add_(alpha)
        factor, fault = torch.linalg.cholesky_ex(covariance)
    finally:
        diagonal.copy_(before)
    if int(fault):
        return torch.zeros_like(cross), False
    return torch.cholesky_solve(cross, factor), True


def whole_mean(moments: Moments) -> Tensor:
    """Mean feature over images and places, about the moments' origin, shape (C,)."""
    return moments.first.sum(1) / (moments.images * moments.places)


def _cross(moments: Moments, targets: Tensor) -> Tensor:
    """Covariance of features and targets, shape (C, T)."""
    centred_targets = targets - targets.mean(1, keepdim=True)
    return moments.first @ centred_targets.T / (moments.images * moments.places)


def _standardisation(statistics: Statistics, origin: Tensor) -> Tensor:
    """One over the standard deviation of each channel; 0 where there is none to speak of."""
    variance = statistics.covariance.diagonal().clamp_min(0)
    deviation = variance.sqrt()
    mean = statistics.mean + origin.to(torch.float64)
    rms = (variance + mean**2).mean().sqrt()
    alive = (deviation > 1e-5 * mean.abs()) & (deviation > 1e-6 * rms)
    return torch.where(alive, 1 / torch.where(alive, deviation, 1.0), 0.0)


def _scaled(statistics: Statistics, scale: Tensor) -> Statistics:
    """Standardise the features; the covariance, a large matrix, is scaled in place."""
    return Statistics(
        statistics.mean * scale,
        statistics.covariance.mul_(scale).mul_(scale[:, None]),
        statistics.cross * scale[:, None],
    )


def _cross_validate(
    folds: Sequence[Moments],
    total: Moments,
    targets: Tensor,
    scale: Tensor,
    alphas: Sequence[float],
) -> Tensor:
    # About the moments' origin o, with standardised z: E[z zᵀ] over all images, and for each fold
    # the covariance of the others. E over a fold is what the others leave of E over all.
    whole = symmetric(total.second) * scale * scale[:, None] / (total.images * total.places)
    splits = []
    for fold in folds:
        train = _scaled(Statistics.of(total - fold, targets), scale)
        share = fold.images / total.images
        held_out_mean = whole_mean(fold) * scale
        held_out_cross = _cross(fold, targets) * scale[:, None]
        splits.append((train, share, held_out_mean, held_out_cross))
    errors: dict[int, Tensor] = {}

    def error(place: int) -> Tensor:
        """Held-out mean squared error of each target, less the target's variance."""
        if place not in errors:
            sums = torch.zeros(len(targets), dtype=torch.float64)
            for train, share, held_out_mean, held_out_cross in splits:
                v, definite = solve_ridge(train.covariance, train.cross, alphas[place])
                if not definite:
                    sums += torch.inf
                    continue
                inside = train.mean @ v
                # R v = c − α v, so that vᵀ R v needs no second pass over R.
                explained = (v * (train.cross - alphas[place] * v)).sum(0)
                all_images = (v * (whole @ v)).sum(0)
                square = (all_images - (1 - share) * (explained + inside**2)) / share
                square = square - 2 * inside * (held_out_mean @ v) + inside**2
                sums += (share * (square - 2 * (v * held_out_cross).sum(0))).cpu()
            errors[place] = sums
        return errors[place]

    chosen = []
    for target in range(len(targets)):
        place = min(_START, len(alphas) - 1)
        while True:
            near = [p for p in (place + 1, place, place - 1) if 0 <= p < len(alphas)]
            best = min(near, key=lambda p: float(error(p)[target]))
            if best == place:
                break
            place = best
        chosen.append(alphas[place])
    return torch.tensor(chosen, dtype=torch.float64)


# ---------------------------------------------------------------- the published protocol


class PoseNet(Readout):
    r"""The published readout: one 3 × 3 convolution without padding, trained by gradient descent.

    Convolution, batch norm and sigmoid give a map, upsampled (bilinear, corners aligned) to the
    targets' size; the loss is the mean squared error there. SGD with learning rate 0.1, momentum
    0.9, weight decay 1e-4, batches of 32 images, 15 epochs, learning rate × 0.1 after epoch 10.

    All targets train together: they share features and batches, but neither weights nor loss, so
    that each is trained as it would be alone, all from the same initial weights. With U the
    upsampling along an axis, the loss of a map X is :math:`\|U_y X U_x^T - T\|^2`; it is computed
    on the small map, from :math:`U_y^T U_y`, :math:`U_x^T U_x` and :math:`U_y^T T U_x`, which is
    the same number.

    Parameters
    ----------
    epochs, batch_size : int
    learning_rate, momentum, weight_decay : float
    drop_epoch : int
        After how many epochs the learning rate falls to a tenth.
    seed : int
        Of the initial weights (Xavier's initialisation) and of the batches.
    progress : bool
        Show a bar over epochs.

    References
    ----------
    Islam, Jia, Bruce (2020), "How much position information do convolutional neural networks
    encode?", arXiv 2001.08248, sections 2.1 to 3.2; Glorot, Bengio (2010), "Understanding the
    difficulty of training deep feedforward neural networks", AISTATS, for the initialisation.
    """

    name = "posenet"
    train_images = 2048  # 15 epochs of 256 are 120 steps, of which it learns little
    copies = 1
    kernel = 3
    larger_targets = True

    def __init__(
        self,
        epochs: int = 15,
        learning_rate: float = 0.1,
        momentum: float = 0.9,
        weight_decay: float = 1e-4,
        batch_size: int = 32,
        drop_epoch: int = 10,
        seed: int = 0,
        progress: bool = False,
    ) -> None:
        self.epochs, self.batch_size, self.drop_epoch = epochs, batch_size, drop_epoch
        self.learning_rate, self.momentum = learning_rate, momentum
        self.weight_decay, self.seed, self.progress = weight_decay, seed, progress
        self.reset()

    def reset(self) -> Self:
        self._features: list[Tensor] = []
        self._state: _PoseNetState | None = None
        return self

    def partial_fit(self, features: ArrayLike | Tensor, fold: int = 0) -> Self:
        _keep(self._features, as_features(features), self)
        return self

    @torch.inference_mode(False)
    def solve(self, targets: ArrayLike | Tensor, order: ArrayLike | None = None) -> Self:
        batches = _seen(self._features)
        if batches[0].is_inference():  # which keep no gradients
            batches = [batch.clone() for batch in batches]
        images = [image for batch in batches for image in batch]
        device, channels = images[0].device, len(images[0])
        places = self.places(*images[0].shape[1:])
        truth = as_targets(targets, places, larger=True).cpu()
        size = tuple(truth.shape[1:])
        up = [_upsampling(n, m) for n, m in zip(size, places, strict=True)]
        if order is not None:
            corners = {"size": places, "mode": "bilinear", "align_corners": True}
            small = F.interpolate(truth[None], **corners)[0]
            controls = with_controls(small, order)[len(truth) :]
            truth = torch.cat([truth, up[0] @ controls @ up[1].T])
        # The loss without its constant term: tr(Gy X Gx Xᵀ) − 2 tr(X Bᵀ), over the pixels.
        single = {"dtype": torch.float32, "device": device}
        gram_y, gram_x = ((u.T @ u).to(**single) for u in up)
        pull = (up[0].T @ truth @ up[1]).to(**single)
        pixels = size[0] * size[1]

        wanted = len(truth)
        weight, bias = self._initial(channels, wanted)
        state = _PoseNetState(
            weight=weight.to(device),
            bias=bias.to(device),
            gain=torch.ones(wanted, **single),
            shift=torch.zeros(wanted, **single),
            mean=torch.zeros(wanted, **single),
            variance=torch.ones(wanted, **single),
        )
        parameters = [state.weight, state.bias, state.gain, state.shift]
        generator = torch.Generator().manual_seed(self.seed)
        with torch.enable_grad():
            for parameter in parameters:
                parameter.requires_grad_(True)
            optimiser = torch.optim.SGD(
                parameters,
                lr=self.learning_rate,
                momentum=self.momentum,
                weight_decay=self.weight_decay,
            )
            schedule = torch.optim.lr_scheduler.MultiStepLR(optimiser, [self.drop_epoch], 0.1)
            for _ in tqdm(
                range(self.epochs),
                desc="posenet",
                unit="epoch",
                leave=False,
                disable=not self.progress,
                dynamic_ncols=True,
            ):
                shuffled = torch.randperm(len(images), generator=generator)
                for batch in shuffled.split(self.batch_size):
                    features = torch.stack([images[number] for number in batch.tolist()])
                    x = state.forward(features, training=True)
                    products = ((gram_y @ x @ gram_x) * x).sum() - 2 * (x * pull).sum()
                    # Summed over targets: their parameters have nothing in common.
                    loss = products / (pixels * len(batch))
                    optimiser.zero_grad()
                    loss.backward()
                    optimiser.step()
                schedule.step()
            for parameter in parameters:
                parameter.requires_grad_(False)
        self._state = state
        self._features = []
        return self

    def _initial(self, channels: int, targets: int) -> tuple[Tensor, Tensor]:
        """Draw Xavier's initialisation, the same for each target."""
        bound = math.sqrt(6 / ((channels + 1) * self.kernel**2))
        rng = np.random.Generator(np.random.Philox(key=[self.seed % 2**64, 2**60]))
        weight = rng.uniform(-bound, bound, (1, channels, self.kernel, self.kernel))
        weight = torch.tensor(weight, dtype=torch.float32).repeat(targets, 1, 1, 1)
        return weight, torch.zeros(targets, dtype=torch.float32)

    def predict(self, features: ArrayLike | Tensor) -> Tensor:
        state: _PoseNetState = _fitted(self._state)
        with torch.no_grad():
            x = as_features(features).to(torch.float32)
            return state.forward(x, training=False).to(torch.float64)


@dataclass
class _PoseNetState:
    weight: Tensor
    bias: Tensor
    gain: Tensor
    shift: Tensor
    mean: Tensor
    variance: Tensor

    def forward(self, features: Tensor, training: bool) -> Tensor:
        """Map features (B, C, h, w) to (B, T, h − 2, w − 2), in (0, 1)."""
        # So few output channels are convolved faster as one product for all shifts of the kernel.
        targets, channels, k, _ = self.weight.shape
        kernels = self.weight.permute(2, 3, 0, 1).reshape(-1, channels)
        shares = (kernels @ features.flatten(2)).unflatten(1, (k, k, targets))
        shares = shares.unflatten(4, features.shape[2:])
        rows, columns = (side - k + 1 for side in features.shape[2:])
        x = sum(
            shares[:, i, j, :, i : i + rows, j : j + columns]
            for i, j in product(range(k), repeat=2)
        )
        x = x + self.bias[:, None, None]
        x = F.batch_norm(x, self.mean, self.variance, self.gain, self.shift, training)
        return torch.sigmoid(x)


def _upsampling(size: int, places: int) -> Tensor:
    """Matrix (size, places) of bilinear interpolation with aligned corners along one axis."""
    unit = torch.eye(places, dtype=torch.float64)[None]
    return F.interpolate(unit, size, mode="linear", align_corners=True)[0].T


# ---------------------------------------------------------------- classification


class Softmax(Readout):
    r"""Position as classification over a grid of cells: multinomial logistic regression.

    With standardised features z and K cells, :math:`π_k(z) = e^{w_k^T z + b_k} / Σ_j e^{w_j^T z +
    b_j}`; the weights minimise the mean cross-entropy plus :math:`\frac{α}{2} \|W\|^2`, by L-BFGS.
    α is the one of ``alphas`` with the least cross-entropy on the last fold. A target's prediction
    is its expectation, :math:`Σ_k π_k \bar t_k`, :math:`\bar t_k` being its mean over cell k.

    Parameters
    ----------
    cells : int
        Rows and columns of the grid; fewer where a layer has fewer places.
    alphas : sequence of float
        Regularisation values to choose from.
    iterations : int
        Of L-BFGS, at most.

    References
    ----------
    Liu et al. (2018), "An intriguing failing of convolutional neural networks and the CoordConv
    solution", arXiv 1807.03247, section 3, for position as a one-hot map.
    """

    name = "softmax"
    copies = 4

    def __init__(
        self, cells: int = 7, alphas: Sequence[float] = (1e-4, 1e-2, 1.0), iterations: int = 100
    ) -> None:
        self.cells = whole_number(cells, "cells", 2)
        self.alphas, self.iterations = _alphas(alphas), iterations
        self.reset()

    def reset(self) -> Self:
        self._features: list[Tensor] = []
        self._folds: list[int] = []
        self._models: list[tuple[Tensor, Tensor]] = []
        return self

    def partial_fit(self, features: ArrayLike | Tensor, fold: int = 0) -> Self:
        _keep(self._features, as_features(features), self)
        self._folds += [fold] * len(self._features[-1])
        return self

    def solve(self, targets: ArrayLike | Tensor, order: ArrayLike | None = None) -> Self:
        features = torch.cat(_seen(self._features))
        self._size = tuple(features.shape[2:])
        truth = as_targets(targets, self._size).cpu()
        grid = self.grid(*self._size)
        member = torch.from_numpy(grid).flatten()
        one_hot = F.one_hot(member).to(torch.float64)
        self._levels = (truth.flatten(1) @ one_hot) / one_hot.sum(0)
        samples = features.permute(0, 2, 3, 1).flatten(1, 2)
        held_out = torch.tensor(self._folds) == max(self._folds)
        classes = [member]
        if order is not None:
            classes.append(with_controls(member.double()[None, :, None], order)[1, :, 0].long())
        self._models = [self._fit(samples, held_out, c.to(samples.device)) for c in classes]
        self._features, self._folds = [], []
        return self

    def grid(self, height: int, width: int) -> NDArray[np.int64]:
        """Number of the cell that each of h × w places belongs to."""
        rows, columns = min(self.cells, height), min(self.cells, width)
        row, column = np.arange(height) * rows // height, np.arange(width) * columns // width
        return row[:, None] * columns + column[None, :]

    def predict_proba(self, features: ArrayLike | Tensor) -> Tensor:
        """Probability of each cell at each place: float64, shape (B, K, h, w).

        After ``solve`` with an order (B, 2 K, h, w), those of the control task after the others.
        """
        if not self._models:
            _fitted(None)
        features = as_features(features)
        found = [
            torch.softmax(
                torch.einsum("bchw,ck->bkhw", features.to(weight.dtype), weight)
                + bias[:, None, None],
                1,
            )
            for weight, bias in self._models
        ]
        return torch.cat(found, 1).to(torch.float64)

    def predict(self, features: ArrayLike | Tensor) -> Tensor:
        return self.expectation(self.predict_proba(features))

    def expectation(self, probabilities: Tensor) -> Tensor:
        """Expected targets (B, T, h, w) under probabilities of cells, see :meth:`predict_proba`."""
        levels = self._levels.to(probabilities)
        parts = probabilities.split(levels.shape[1], 1)
        return torch.cat([torch.einsum("bkhw,tk->bthw", part, levels) for part in parts], 1)

    def accuracy(self, probabilities: Tensor) -> Tensor:
        """Share of places whose most probable cell is the true one, by image, shape (B,)."""
        member = torch.from_numpy(self.grid(*probabilities.shape[2:])).to(probabilities.device)
        first = probabilities[:, : self._levels.shape[1]]
        return (first.argmax(1) == member).to(torch.float64).mean((1, 2))

    def _fit(self, samples: Tensor, held_out: Tensor, member: Tensor) -> tuple[Tensor, Tensor]:
        """Weights (C, K) and biases (K,) of features as they are."""
        mean = samples.mean((0, 1), dtype=torch.float64).to(samples.dtype)
        deviation = (samples - mean).square().mean((0, 1), dtype=torch.float64).sqrt()
        alive = deviation > 1e-5 * mean.abs()
        scale = torch.where(alive, 1 / torch.where(alive, deviation, 1.0), 0.0).to(samples.dtype)
        z = (samples - mean) * scale
        cells = int(member.max()) + 1
        start = np.zeros((samples.shape[2] + 1, cells))
        best = max(self.alphas)
        if len(self.alphas) > 1 and 0 < int(held_out.sum()) < len(held_out):
            losses = {}
            for alpha in sorted(self.alphas, reverse=True):  # from the smoothest on
                start = self._minimise(z[~held_out], member, alpha, start)
                losses[alpha] = _cross_entropy(z[held_out], member, start, 0.0)[0]
            best = min(losses, key=losses.__getitem__)
        solution = torch.from_numpy(self._minimise(z, member, best, start)).to(z)
        weight = solution[:-1] * scale[:, None]
        return weight, solution[-1] - mean @ weight

    def _minimise(
        self, z: Tensor, member: Tensor, alpha: float, start: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        def objective(flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
            value, slope = _cross_entropy(z, member, flat.reshape(start.shape), alpha)
            return value, slope.ravel()

        found = scipy.optimize.minimize(
            objective,
            start.ravel(),
            jac=True,
            method="L-BFGS-B",
            options={"maxiter": self.iterations},
        )
        return found.x.reshape(start.shape)


def _cross_entropy(
    z: Tensor, member: Tensor, solution: NDArray[np.float64], alpha: float
) -> tuple[float, NDArray[np.float64]]:
    """Mean cross-entropy of samples (N, P, C) with its penalty, and the gradient.

    The last row of the solution (C + 1, K) is the bias. Every image has the same classes (P,).
    """
    theta = torch.from_numpy(solution).to(z)
    slope = torch.zeros_like(theta, dtype=torch.float64)
    count, total = z.shape[0] * z.shape[1], 0.0
    for part in z.split(max(1, 2**22 // (z.shape[1] * theta.shape[1]))):
        logits = part @ theta[:-1] + theta[-1]
        log_pi = torch.log_softmax(logits, 2)
        index = member[None, :, None].expand(len(part), -1, 1)
        total -= float(log_pi.gather(2, index).sum(dtype=torch.float64))
        error = log_pi.exp_()
        error.scatter_add_(2, index, torch.full_like(index, -1, dtype=error.dtype))
        flat = error.flatten(0, 1)
        slope[:-1] += part.flatten(0, 1).T @ flat
        slope[-1] += flat.sum(0)
    gradient = slope.cpu().numpy() / count
    gradient[:-1] += alpha * solution[:-1]
    return total / count + alpha / 2 * float((solution[:-1] ** 2).sum()), gradient


def _alphas(alphas: Sequence[float]) -> tuple[float, ...]:
    try:
        right = len(alphas) > 0 and min(alphas) > 0
    except TypeError:
        right = False
    if not right:
        raise ProbeError(f"alphas: expected one or several numbers above 0, got {alphas!r}")
    return tuple(alphas)


def _keep(features: list[Tensor], batch: Tensor, readout: Readout) -> None:
    """Keep a batch for later, if as many copies as the fit makes have room."""
    batch = batch.detach().to(torch.float32)
    if features:
        _like(batch, features[0].shape[1:])
    images = sum(map(len, features)) + len(batch)
    check_memory(
        4 * readout.copies * images * math.prod(batch.shape[1:]),
        batch.device,
        f"the readout {readout.name} keeps its features: {images:,} images of "
        f"{' × '.join(map(str, batch.shape[1:]))} values",
        "choose fewer images or layers, or the readout ridge, which keeps none",
    )
    features.append(batch.clone())


def _like(batch: Tensor, shape: torch.Size) -> None:
    """Refuse maps of another shape (C, h, w) than came before."""
    if batch.shape[1:] != shape:
        raise ProbeError(
            f"features: expected maps of shape {tuple(shape)} as before, got "
            f"{tuple(batch.shape[1:])}"
        )


def _seen(features: list[Tensor]) -> list[Tensor]:
    if not features:
        raise ProbeError("the readout has seen no features: call partial_fit first")
    return features
