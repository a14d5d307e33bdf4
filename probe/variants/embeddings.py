"""Absolute position embeddings at their mean, or permuted."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn

from ..backbones.probed import describe
from ..errors import ProbeWarning
from .follower import EMBEDDING, Source
from .removals import REMOVALS


class Embeddings:
    """Takes the place of absolute position embeddings: their mean over places, or a permutation.

    Entries of tokens that stand for no place, such as a class token, stay as they are.
    """

    def __init__(self, how: str, model: nn.Module, image_size: tuple[int, int], seed: int) -> None:
        self.how, self.model, self.image_size, self.seed = how, model, image_size, seed

    def __call__(self, source: Source, x: Tensor, c: Tensor) -> Tensor:
        if source.kind != EMBEDDING:
            return c
        shape = (1, *x.shape[1:])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ProbeWarning)
            layer = describe(self.model, "", 1, shape, 1, self.image_size)
        if layer is None:
            return c
        c = c[:1] if c.ndim == x.ndim else c
        full = c.expand(shape).clone()
        if layer.layout == "NCHW":
            places = full.flatten(2).transpose(1, 2)
        elif layer.layout == "NHWC":
            places = full.flatten(1, 2)
        else:
            tokens = full if layer.layout == "NLC" else full.transpose(1, 2)
            places = tokens[:, layer.prefix :]
        stream = torch.Generator().manual_seed(self.seed)
        order = torch.randperm(places.shape[1], generator=stream).to(places.device)
        places = REMOVALS[self.how].change(places, order)
        if layer.layout == "NCHW":
            return places.transpose(1, 2).reshape(shape)
        if layer.layout == "NHWC":
            return places.reshape(shape)
        tokens = torch.cat([tokens[:, : layer.prefix], places], 1)
        return tokens if layer.layout == "NLC" else tokens.transpose(1, 2)
