"""Classification of the cells of a grid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import numpy as np
import scipy.optimize
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from ..errors import whole_number
from .base import (
    ImageScores,
    KeepingReadout,
    Values,
    as_features,
    as_targets,
    check_fitted,
    check_seen,
    choose_alphas,
    with_controls,
)

CELLS = "cells"
"""Target of the classification: the cell of a grid."""


class Softmax(KeepingReadout):
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
        self.alphas, self.iterations = choose_alphas(alphas), iterations
        self.reset()

    @classmethod
    def describe(cls, kernel: int = 1) -> str:
        return (
            "A readout is a multinomial logistic regression, the same at every place, of the cells "
            "of a grid; a target's prediction is its expectation over cells. It is fitted by "
            "L-BFGS, its regularisation chosen on a fold of images,"
        )

    def reset(self) -> Self:
        self._models: list[tuple[Tensor, Tensor]] = []
        return super().reset()

    def solve(self, targets: Values, order: ArrayLike | None = None) -> Self:
        features = torch.cat(check_seen(self._features))
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
        models = [self._fit(samples, held_out, c.to(samples.device)) for c in classes]
        self.reset()
        self._models = models
        return self

    def grid(self, height: int, width: int) -> NDArray[np.int64]:
        """Number of the cell that each of h × w places belongs to."""
        rows, columns = min(self.cells, height), min(self.cells, width)
        row, column = np.arange(height) * rows // height, np.arange(width) * columns // width
        return row[:, None] * columns + column[None, :]

    def predict_proba(self, features: Values) -> Tensor:
        """Probability of each cell at each place: float64, shape (B, K, h, w).

        After ``solve`` with an order (B, 2 K, h, w), those of the control task after the others.
        """
        if not self._models:
            check_fitted(None)
        features = as_features(features)
        shares = [
            torch.softmax(
                torch.einsum("bchw,ck->bkhw", features.to(weight.dtype), weight)
                + bias[:, None, None],
                1,
            )
            for weight, bias in self._models
        ]
        return torch.cat(shares, 1).to(torch.float64)

    def predict(self, features: Values) -> Tensor:
        return self.expectation(self.predict_proba(features))

    def extra_chance(self, height: int, width: int) -> dict[tuple[str, str], float]:
        _, sizes = np.unique(self.grid(height, width), return_counts=True)
        return {(CELLS, "top1"): float(sizes.max() / sizes.sum())}

    def predict_and_score(self, features: Values) -> tuple[Tensor, ImageScores]:
        probabilities = self.predict_proba(features)
        return self.expectation(probabilities), {(CELLS, "top1"): self.accuracy(probabilities)}

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

        solution = scipy.optimize.minimize(
            objective,
            start.ravel(),
            jac=True,
            method="L-BFGS-B",
            options={"maxiter": self.iterations},
        )
        return solution.x.reshape(start.shape)


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
