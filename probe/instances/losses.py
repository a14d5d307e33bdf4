"""The discriminative loss: pixels of one object together, objects apart, everything near 0.

De Brabandere, Neven, Van Gool (2017), "Semantic instance segmentation with a discriminative loss
function", arXiv 1708.02551.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..errors import ProbeError

NORMS: tuple[float, ...] = (1, 2, math.inf)
"""Orders of the norm that measures distances between embeddings."""

_FEW = 32  # instances, background included, that are taken faster by products with a one-hot map
_BLOCK = 2**18  # values of the embedding that stay in a core's cache beside their centres
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


class Terms(NamedTuple):
    """The parts of the discriminative loss, each a tensor of shape (B,)."""

    variance: Tensor
    distance: Tensor
    regularisation: Tensor


def discriminative_loss(
    embedding: Tensor,
    labels: Tensor,
    delta_var: float = 0.5,
    delta_dist: float = 1.5,
    norm: float = 2,
    weights: Sequence[float] = (1, 1, 0.001),
    ignore_index: int | None = 255,
) -> Tensor:
    r"""Weighted sum of the :func:`discriminative_terms`, averaged over images; a scalar.

    .. math:: L = \frac1B \sum_b \left(α\, L_{var} + β\, L_{dist} + γ\, L_{reg}\right)_b

    ``weights`` are α, β and γ; other parameters and errors are those of
    :func:`discriminative_terms`. An image without instances counts with 0.

    References
    ----------
    De Brabandere, Neven, Van Gool (2017), arXiv 1708.02551, section 3.1, equation 4.
    """
    if len(weights) != 3:
        raise ProbeError(
            f"weights: expected three, of variance, distance and regularisation, got {len(weights)}"
        )
    terms = discriminative_terms(embedding, labels, delta_var, delta_dist, norm, ignore_index)
    weighted = [weight * term for weight, term in zip(weights, terms, strict=True)]
    return torch.as_tensor(sum(weighted)).mean()


def discriminative_terms(
    embedding: Tensor,
    labels: Tensor,
    delta_var: float = 0.5,
    delta_dist: float = 1.5,
    norm: float = 2,
    ignore_index: int | None = 255,
) -> Terms:
    r"""Compute the three terms of the discriminative loss for each image.

    With instances :math:`c = 1 … K` of :math:`N_c` pixels :math:`x_i`, their means :math:`μ_c` and
    :math:`[x]_+ = \max(0, x)`,

    .. math::

        L_{var} &= \frac1K \sum_c \frac1{N_c} \sum_i [\|μ_c - x_i\| - δ_v]_+^2 \\
        L_{dist} &= \frac1{K(K-1)} \sum_{a ≠ b} [2 δ_d - \|μ_a - μ_b\|]_+^2 \\
        L_{reg} &= \frac1K \sum_c \|μ_c\|

    Two instances of the same centre cost :math:`(2 δ_d)^2`.

    Parameters
    ----------
    embedding : Tensor, shape (B, D, H, W)
        Of any floating-point type; half precision is summed in float32. Pixels of the background
        do not count, but must be finite too.
    labels : Tensor of integers, shape (B, H, W)
        0 is background, every other value of an image an instance; at least 0.
    delta_var : float
        :math:`δ_v` ≥ 0, the distance from its centre below which a pixel is left alone.
    delta_dist : float
        :math:`δ_d` ≥ 0, half of the distance from which two centres leave one another alone. With
        :math:`δ_d > 2 δ_v` a pixel within its margin is nearest to its own centre.
    norm : float
        Order of the norm: 1, 2 or ``math.inf``.
    ignore_index : int, optional
        Label of pixels that count as background, as VOC and Cityscapes mark void; None for none.

    Returns
    -------
    Terms
        ``variance``, ``distance`` and ``regularisation``, each of shape (B,) and at least 0; of
        the embedding's type, float32 for half precision. All are 0 for an image without instances,
        and ``distance`` is for one alone.

    Raises
    ------
    ProbeError
        If shapes, types or devices do not fit, a label is negative, or an option is out of range.

    Notes
    -----
    Where the norm has no derivative at 0, 0 is taken, so that gradients are finite between
    identical centres too. Derivatives are of first order only, by autograd and not by torch.func.

    References
    ----------
    De Brabandere, Neven, Van Gool (2017), arXiv 1708.02551, section 3.1, equations 1 to 3.
    """
    _check(embedding, labels, delta_var, delta_dist, norm)
    x = embedding.flatten(2)
    if x.dtype.itemsize < 4:
        x = x.float()
    numbers = labels.flatten(1).long()
    if ignore_index is not None:
        numbers = numbers.masked_fill(numbers == ignore_index, 0)
    member, pixels = _members(numbers)
    x, member = _foreground(x, member, pixels.sum(1))

    present = (pixels > 0).to(x.dtype)
    count = present.sum(1, keepdim=True)
    share = present / count.clamp(min=1)
    pixels = pixels.clamp(min=1)
    centres, variance = _Variance.apply(x, member, pixels, share / pixels, delta_var, norm)

    lengths = torch.linalg.vector_norm(centres, norm, 2)
    regularisation = (lengths * share).sum(1)

    # The other ways to compute the distances round those of near centres to 0.
    exact = "donot_use_mm_for_euclid_dist"
    distances = torch.cdist(centres, centres, float(norm), compute_mode=exact)
    pairs = share[:, :, None] * (present / (count - 1).clamp(min=1))[:, None]
    pairs.diagonal(dim1=1, dim2=2).zero_()
    distance = ((2 * delta_dist - distances).relu().square() * pairs).sum((1, 2))
    return Terms(variance, distance, regularisation)


def _check(
    embedding: Tensor, labels: Tensor, delta_var: float, delta_dist: float, norm: float
) -> None:
    if embedding.ndim != 4 or embedding.dtype not in _FLOATS or 0 in embedding.shape:
        raise ProbeError(
            "embedding: expected a tensor (B, D, H, W) of floating-point values, "
            f"got shape {tuple(embedding.shape)} of {embedding.dtype}"
        )
    batch, _, *size = embedding.shape
    if labels.shape != (batch, *size) or labels.dtype not in _INTEGERS:
        raise ProbeError(
            f"labels: expected a tensor {(batch, *size)} of integers, one for each pixel of the "
            f"embedding, got shape {tuple(labels.shape)} of {labels.dtype}"
        )
    if labels.device != embedding.device:
        raise ProbeError(
            f"labels are on {labels.device} and the embedding is on {embedding.device}: "
            "move one to the other"
        )
    for name, value in {"delta_var": delta_var, "delta_dist": delta_dist}.items():
        if not value >= 0:
            raise ProbeError(f"{name}: expected a number of at least 0, got {value!r}")
    if norm not in NORMS:
        raise ProbeError(f"norm: expected 1, 2 or math.inf, got {norm!r}")


def _members(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Number the instances of each image from 1, where their labels are not small numbers already.

    Returns the number of each pixel's instance, 0 for background, and how many pixels each number
    has, shape (B, S), with 0 for the background.
    """
    least, greatest = (int(bound) for bound in labels.aminmax())
    if least < 0:
        raise ProbeError(f"labels: expected 0 for background and positive ones, got {least}")
    if greatest >= _FEW:
        labels = _ranks(labels)
        greatest = int(labels.max())
    slots = greatest + 1
    firsts = torch.arange(0, len(labels) * slots, slots, device=labels.device)
    pixels = (labels + firsts[:, None]).flatten().bincount(minlength=len(labels) * slots)
    pixels = pixels.view(-1, slots)
    pixels[:, 0] = 0
    return labels, pixels


def _ranks(labels: Tensor) -> Tensor:
    """Replace labels (B, P) by their rank within the image: 0 for background, or else from 1."""
    values, order = labels.sort(1)
    new = values > 0
    new[:, 1:] &= values[:, 1:] != values[:, :-1]
    return torch.empty_like(labels).scatter_(1, order, new.cumsum(1))


def _foreground(x: Tensor, member: Tensor, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Leave the background out where it is most of the pixels.

    ``x`` (B, D, P) and ``member`` (B, P) become (B, D, N) and (B, N), with N the greatest number
    of foreground ``pixels`` (B,) of an image; images of fewer have background at the end.
    """
    most = int(pixels.max())
    if 2 * most > member.shape[1]:
        return x, member
    filled = torch.arange(most, device=x.device) < pixels[:, None]
    place = member.nonzero()[:, 1]
    place = place.new_zeros(filled.shape).masked_scatter_(filled, place)
    picked = x.gather(2, place[:, None].expand(-1, x.shape[1], -1))
    return picked, member.gather(1, place).mul_(filled)


class _Variance(torch.autograd.Function):
    """Centres of instances and the variance term.

    Autograd's own way keeps many copies of the embedding, and on a CPU is several times slower:
    here pixels are taken block by block, with a derivative by hand.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        member: Tensor,
        pixels: Tensor,
        weight: Tensor,
        margin: float,
        norm: float,
    ) -> tuple[Tensor, Tensor]:
        """Compute centres (B, S, D) and the variance term (B,) of embeddings (B, D, N).

        ``member`` (B, N) numbers each pixel's instance; ``pixels`` and ``weight`` (B, S) say of
        each instance how many pixels it has, and what one of them weighs.
        """
        centres = x.new_zeros(*pixels.shape, x.shape[1])
        for part in _blocks(x):
            _add(centres, x[:, :, part], member[:, part])
        centres /= pixels[:, :, None]
        radius = x.new_empty(member.shape)
        for part, centre in _spread(centres, member, x):
            away = torch.sub(x[:, :, part], centre, out=centre)
            if norm == 2:
                torch.sum(away.square_(), 1, out=radius[:, part])
            elif norm == 1:
                torch.sum(away.abs_(), 1, out=radius[:, part])
            else:
                torch.amax(away.abs_(), 1, out=radius[:, part])
        if norm == 2:
            radius.sqrt_()
        ctx.save_for_backward(x, member, pixels, weight, centres, radius)
        ctx.margin, ctx.norm = margin, norm
        excess = (radius - margin).relu_()
        return centres, (excess.square_() * weight.gather(1, member)).sum(1)

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, grad_centres: Tensor, grad_variance: Tensor
    ) -> tuple[Tensor | None, ...]:
        """Differentiate by the embeddings; centres depend on them too."""
        x, member, pixels, weight, centres, radius = ctx.saved_tensors
        slope = (radius - ctx.margin).relu_().mul_(2)
        slope *= (weight * grad_variance[:, None]).gather(1, member)
        if ctx.norm == 2:
            slope /= radius.clamp(min=torch.finfo(radius.dtype).tiny)
        grad = torch.empty_like(x)
        pulls = torch.zeros_like(centres)
        for part, centre in _spread(centres, member, x):
            away = torch.sub(x[:, :, part], centre, out=grad[:, :, part])
            if ctx.norm == 1:
                away.sign_()
            elif ctx.norm == math.inf:
                greatest = away.abs() == radius[:, None, part]
                away.sign_().mul_(greatest).div_(greatest.sum(1, keepdim=True))
            away *= slope[:, None, part]
            _add(pulls, away, member[:, part])
        shared = (grad_centres - pulls) / pixels[:, :, None]
        for part, share in _spread(shared, member, x):
            grad[:, :, part].add_(share)
        return grad, None, None, None, None, None


def _blocks(x: Tensor) -> Iterator[slice]:
    """Take (B, D, N) apart along its pixels, on a CPU into parts that its cache can hold."""
    batch, channels, places = x.shape
    size = max(1, _BLOCK // (batch * channels)) if x.device.type == "cpu" else max(1, places)
    for start in range(0, places, size):
        yield slice(start, min(start + size, places))


def _spread(values: Tensor, member: Tensor, x: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Give pixels (B, D, n) the values (B, S, D) of their instances, in memory used again."""
    values = values.mT.contiguous()
    parts = list(_blocks(x))
    memory = torch.empty_like(x[:, :, parts[0]]) if parts else x
    for part in parts:
        numbers = member[:, part]
        out = memory[:, :, : numbers.shape[1]]
        if values.shape[2] <= _FEW and x.device.type == "cpu":
            yield part, torch.bmm(values, _one_hot(numbers, values.shape[2], x), out=out)
        else:
            index = numbers[:, None].expand(-1, x.shape[1], -1)
            yield part, torch.gather(values, 2, index, out=out)


def _add(sums: Tensor, x: Tensor, member: Tensor) -> None:
    """Add pixels (B, D, n) to the sums (B, S, D) of their instances."""
    if sums.shape[1] <= _FEW:
        sums.baddbmm_(_one_hot(member, sums.shape[1], x), x.mT)
    else:
        sums.mT.scatter_add_(2, member[:, None].expand_as(x), x)


def _one_hot(member: Tensor, slots: int, x: Tensor) -> Tensor:
    """Instances of pixels (B, n) as zeros and ones (B, S, n) of the type of ``x``."""
    numbers = torch.arange(slots, dtype=torch.uint8, device=x.device)[:, None]
    one_hot = x.new_empty(len(member), slots, member.shape[1])
    return torch.eq(member.to(torch.uint8)[:, None], numbers, out=one_hot)
