"""Vision transformers in the names of the transformers library, told in timm's."""

from __future__ import annotations

import re

import torch
from torch import Tensor

from .checkpoint import State

_START = re.compile(
    r"^(?P<prefix>.*?)embeddings\.(patch_embeddings\.projection|patch_embeddings|patch_embedding)"
    r"\.weight$"
)
"""The tensor that every vision transformer there has, after whatever prefix."""

_NAMES = [
    (re.compile(f"^{theirs}$"), ours)
    for theirs, ours in (
        (r"embeddings\.(cls_token|class_embedding)", "cls_token"),
        (r"embeddings\.distillation_token", "dist_token"),
        (r"embeddings\.register_tokens", "reg_token"),
        (r"embeddings\.(position_embeddings|position_embedding\.weight)", "pos_embed"),
        (
            r"embeddings\.(?:patch_embeddings\.projection|patch_embeddings|patch_embedding)\.(\w+)",
            r"patch_embed.proj.\1",
        ),
        (r"pre_la?y?e?r?_?rnorm\.(\w+)", r"norm_pre.\1"),
        (r"(?:layernorm|layer_norm|post_layernorm|norm)\.(\w+)", r"norm.\1"),
    )
]

_BLOCK = re.compile(r"^(?:encoder\.layers?|model\.layer|layer)\.(\d+)\.(.+)$")

_IN_BLOCK = [
    (re.compile(f"^{theirs}$"), ours)
    for theirs, ours in (
        (r"(?:norm1|layernorm_before|layer_norm1)\.(\w+)", r"norm1.\1"),
        (r"(?:norm2|layernorm_after|layer_norm2)\.(\w+)", r"norm2.\1"),
        (r"attention\.output\.dense\.(\w+)", r"attn.proj.\1"),
        (r"(?:self_attn\.out_proj|attention\.o_proj)\.(\w+)", r"attn.proj.\1"),
        (r"(?:mlp\.fc1|intermediate\.dense|mlp\.up_proj)\.(\w+)", r"mlp.fc1.\1"),
        (r"(?:mlp\.fc2|output\.dense|mlp\.down_proj)\.(\w+)", r"mlp.fc2.\1"),
        (r"mlp\.weights_in\.(\w+)", r"mlp.fc1.\1"),
        (r"mlp\.weights_out\.(\w+)", r"mlp.fc2.\1"),
        (r"layer_scale([12])\.lambda1", r"ls\1.gamma"),
    )
]

_JOINED = re.compile(
    r"^(?:attention\.attention\.(query|key|value)|(?:self_attn|attention)\.([qkv])_proj)\.(\w+)$"
)

_UNUSED = re.compile(r"^(embeddings\.(mask_token|position_ids)|pooler\..*)$")


def renamed(state: State) -> State | None:
    """Return a vision transformer's tensors in timm's names; nothing where they are no such.

    ViT, DeiT, DINOv2 (with registers too), CLIP's and SigLIP's image towers and DINOv3, as the
    transformers library saves them: queries, keys and values are joined into one matrix (a bias
    that only some of them have is 0 for the others), and position embeddings get the axis of the
    batch. Tensors beside the transformer keep their names.

    Parameters
    ----------
    state : State
        Tensors as they lie in the file.
    """
    prefix = next((m["prefix"] for key in state.tensors if (m := _START.match(key))), None)
    if prefix is None:
        return None
    ours: dict[str, Tensor] = {}
    parts: dict[str, dict[str, Tensor]] = {}
    for key, value in state.tensors.items():
        if not key.startswith(prefix):
            ours[key] = value
            continue
        name = key.removeprefix(prefix)
        block = _BLOCK.match(name)
        if _UNUSED.match(name):
            continue
        if block and (joined := _JOINED.match(block[2])):
            letter = (joined[1] or joined[2])[0]
            parts.setdefault(f"blocks.{block[1]}.attn.qkv.{joined[3]}", {})[letter] = value
            continue
        ours[_renamed(name, block)] = value
    for key, pieces in parts.items():
        empty = torch.zeros_like(next(iter(pieces.values())))
        ours[key] = torch.cat([pieces.get(letter, empty) for letter in "qkv"])
    for key in ("cls_token", "pos_embed"):
        if key in ours:
            ours[key] = ours[key].reshape(1, -1, ours[key].shape[-1])
    words = "its names converted from the transformers library's"
    return State(state.where, ours, state.quantised, words)


def _renamed(name: str, block: re.Match[str] | None) -> str:
    start, rest, table = ("", name, _NAMES)
    if block:
        start, rest, table = f"blocks.{block[1]}.", block[2], _IN_BLOCK
    for theirs, ours in table:
        if theirs.match(rest):
            return start + theirs.sub(ours, rest)
    return start + rest


def with_renamed(states: list[State]) -> list[State]:
    """Add to each group of tensors the same in timm's names, where they have others."""
    return [each for state in states for each in (state, renamed(state)) if each is not None]
