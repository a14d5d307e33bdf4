"""The readout of the published protocol, trained by gradient descent."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product
from typing import Self

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike
from torch import Tensor
from tqdm.auto import tqdm

from .base import (
    KeepingReadout,
    Values,
    as_features,
    as_targets,
    check_fitted,
    check_seen,
    with_controls,
)


class PoseNet(KeepingReadout):
    r"""The published readout: one 3 × 3 convolution without padding, trained by gradient descent.

    Convolution, batch norm and sigmoid give a map, upsampled (bilinear) to the targets' size; the
    loss is the mean squared error there. SGD with batches of 32 images, 15 epochs; after
    ``drop_epoch`` of them the learning rate falls to a tenth. ``seed`` draws the initial weights
    (Xavier's initialisation) and the batches. With ``align_corners`` the first place lies on the
    first row of pixels, as on the grid that a run scores on; without, in the middle of the rows
    that it stands for, as in the authors' code.

    All targets train together: they share features and batches, but neither weights nor loss, so
    that each is trained as it would be alone, all from the same initial weights. With U the
    upsampling along an axis, the loss of a map X is :math:`\|U_y X U_x^T - T\|^2`; it is computed
    on the small map, from :math:`U_y^T U_y`, :math:`U_x^T U_x` and :math:`U_y^T T U_x`, which is
    the same number.

    References
    ----------
    Islam, Jia, Bruce (2020), "How much position information do convolutional neural networks
    encode?", arXiv 2001.08248, sections 2.1 to 3.2; Glorot, Bengio (2010), "Understanding the
    difficulty of training deep feedforward neural networks", AISTATS, for the initialisation.
    """

    name = "posenet"
    kernels = (3,)
    kernel = 3
    concat = gridded = pixel_targets = True
    train_images = 2048  # 15 epochs of 256 are 120 steps, of which it learns little
    copies = 1

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
        align_corners: bool = True,
    ) -> None:
        self.epochs, self.batch_size, self.drop_epoch = epochs, batch_size, drop_epoch
        self.learning_rate, self.momentum = learning_rate, momentum
        self.weight_decay, self.seed, self.progress = weight_decay, seed, progress
        self.align_corners = align_corners
        self.reset()

    @classmethod
    def describe(cls, kernel: int = 3) -> str:
        return (
            "A readout is a 3 × 3 convolution with batch norm and a sigmoid, the same at every "
            "place, trained by gradient descent as published by Islam et al. (2020)"
        )

    def reset(self) -> Self:
        self._state: _PoseNetState | None = None
        return super().reset()

    @torch.inference_mode(False)
    def solve(self, targets: Values, order: ArrayLike | None = None) -> Self:
        batches = check_seen(self._features)
        if batches[0].is_inference():  # which keep no gradients
            batches = [batch.clone() for batch in batches]
        images = [image for batch in batches for image in batch]
        device, channels = images[0].device, len(images[0])
        places = self.places(*images[0].shape[1:])
        truth = as_targets(targets, places, larger=True).cpu()
        size = tuple(truth.shape[1:])
        up = [self._upsampling(n, m) for n, m in zip(size, places, strict=True)]
        if order is not None:
            small = F.interpolate(
                truth[None], places, mode="bilinear", align_corners=self.align_corners
            )[0]
            controls = with_controls(small, order)[len(truth) :]
            truth = torch.cat([truth, up[0] @ controls @ up[1].T])
        # The loss without its constant term: tr(Gy X Gx Xᵀ) − 2 tr(X Bᵀ), over the pixels.
        single = {"dtype": torch.float32, "device": device}
        gram_y, gram_x = ((u.T @ u).to(**single) for u in up)
        pull = (up[0].T @ truth @ up[1]).to(**single)
        pixels = size[0] * size[1]

        wanted = len(truth)
        zeros, ones = torch.zeros(wanted, **single), torch.ones(wanted, **single)
        state = _PoseNetState(
            weight=self.initial_weight(channels).to(device).repeat(wanted, 1, 1, 1),
            bias=zeros.clone(),
            gain=ones.clone(),
            shift=zeros.clone(),
            mean=zeros,
            variance=ones,
        )
        parameters = [state.weight, state.bias, state.gain, state.shift]
        generator = torch.Generator().manual_seed(self.seed)
        with torch.enable_grad():
            for parameter in parameters:
                parameter.requires_grad_(True)
            optimiser = torch.optim.SGD(
                parameters, self.learning_rate, self.momentum, weight_decay=self.weight_decay
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
        self.reset()
        self._state = state
        return self

    def _upsampling(self, size: int, places: int) -> Tensor:
        """Matrix (size, places) of bilinear interpolation along one axis."""
        unit = torch.eye(places, dtype=torch.float64)[None]
        return F.interpolate(unit, size, mode="linear", align_corners=self.align_corners)[0].T

    def upsample(self, maps: Tensor, size: tuple[int, int]) -> Tensor:
        """Bring predicted maps (B, T, h', w') to a size in pixels, as in the loss."""
        return F.interpolate(maps, size, mode="bilinear", align_corners=self.align_corners)

    def initial_weight(self, channels: int) -> Tensor:
        """Draw the kernel that each target starts from: Xavier's, shape (1, C, 3, 3)."""
        bound = math.sqrt(6 / ((channels + 1) * self.kernel**2))
        rng = np.random.Generator(np.random.Philox(key=[self.seed % 2**64, 2**60]))
        drawn = rng.uniform(-bound, bound, (1, channels, self.kernel, self.kernel))
        return torch.tensor(drawn, dtype=torch.float32)

    def predict(self, features: Values) -> Tensor:
        state: _PoseNetState = check_fitted(self._state)
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
