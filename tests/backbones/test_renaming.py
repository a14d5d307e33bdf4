"""Vision transformers saved in the transformers library's names load into timm's networks."""

import re

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from probe.backbones import load_backbone
from probe.backbones.checkpoint import State
from probe.backbones.renaming import renamed

VIT = (
    *((".ls1.gamma", ".layer_scale1.lambda1"), (".ls2.gamma", ".layer_scale2.lambda1")),
    *(("cls_token", "embeddings.cls_token"), ("reg_token", "embeddings.register_tokens")),
    ("pos_embed", "embeddings.position_embeddings"),
    ("patch_embed.proj.", "embeddings.patch_embeddings.projection."),
    *(("blocks.", "encoder.layer."), (".mlp.fc1.", ".intermediate.dense.")),
    *((".norm1.", ".layernorm_before."), (".norm2.", ".layernorm_after.")),
    *((".attn.proj.", ".attention.output.dense."), (".mlp.fc2.", ".output.dense.")),
    (".attn.qkv.", ".attention.attention.{query,key,value}."),
)
SIGLIP = (
    ("pos_embed", "embeddings.position_embedding.weight"),
    ("patch_embed.proj.", "embeddings.patch_embedding."),
    *(("blocks.", "encoder.layers."), (".attn.proj.", ".self_attn.out_proj.")),
    *((".norm1.", ".layer_norm1."), (".norm2.", ".layer_norm2.")),
    (".attn.qkv.", ".self_attn.{q_proj,k_proj,v_proj}."),
)


def network(name: str) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        if name == "siglip":
            small = {"embed_dim": 16, "depth": 2, "num_heads": 2, "img_size": 32}
            return VisionTransformer(class_token=False, num_classes=0, global_pool="", **small)
        return timm.create_model(name, num_classes=0)


def as_saved(model: nn.Module, names: tuple[tuple[str, str], ...], last: str) -> dict[str, Tensor]:
    """The network's tensors under the other library's names, queries, keys and values apart."""
    saved = {}
    for key, value in model.state_dict().items():
        for ours, theirs in names:
            key = key.replace(ours, theirs)
        key = re.sub(r"^norm\.", f"{last}.", key)
        parts = re.search(r"\{(.+)\}", key)
        pieces = value.chunk(3) if parts else [value]
        for part, piece in zip(parts[1].split(",") if parts else [""], pieces, strict=True):
            saved[re.sub(r"\{.+\}", part, key)] = piece.clone()
    return saved


@pytest.mark.parametrize(
    "name, prefix", [("test_vit", ""), ("test_vit2", "vit."), ("test_vit", "backbone.")]
)
def test_weights_of_the_transformers_library_load(tmp_path, name, prefix):
    model = network(name)
    tensors = {prefix + k: v for k, v in as_saved(model, VIT, "layernorm").items()}
    beside = {"classifier.weight": torch.ones(3, 5), f"{prefix}pooler.dense.bias": torch.ones(2)}
    save_file(tensors | beside, tmp_path / "model.safetensors")
    backbone = load_backbone(name, str(tmp_path / "model.safetensors"), device="cpu")
    assert "its names converted from the transformers library's" in backbone.source
    loaded = backbone.model.state_dict()
    for key, value in model.state_dict().items():
        assert torch.equal(loaded[key], value), key


def test_names_of_other_families():
    """SigLIP's position table has no axis for the batch; a bias that only some have is 0."""
    model = network("siglip")
    saved = as_saved(model, SIGLIP, "post_layernorm")
    saved["embeddings.position_embedding.weight"].squeeze_(0)
    state = renamed(State("", saved, ()))
    assert state is not None
    ours = model.state_dict()
    assert set(ours) == set(state.tensors)
    assert all(torch.equal(value, state.tensors[key]) for key, value in ours.items())
    del saved["encoder.layers.0.self_attn.k_proj.bias"]
    bias = renamed(State("", saved, ())).tensors["blocks.0.attn.qkv.bias"]
    assert torch.equal(
        bias, ours["blocks.0.attn.qkv.bias"] * torch.tensor([1.0, 0, 1]).repeat_interleave(16)
    )


def test_other_names_stay():
    assert renamed(State("", network("test_vit").state_dict(), ())) is None
