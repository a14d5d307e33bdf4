"""Checkpoints that people have: what is taken of them, and onto which grid."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from torch import nn

import probe
from probe.backbones.backbone import fingerprint

NAME = "mobilenetv3_small_050"


@pytest.fixture(scope="module")
def trained() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(42)
        return timm.create_model(NAME, pretrained=False)


# ------------------------------------------------------------ position embeddings on their grid


def ramped(name: str) -> dict[str, torch.Tensor]:
    """Weights whose position embedding rises from left to right, 0 to 1, at every place."""
    with torch.random.fork_rng():
        state = timm.create_model(name, pretrained=False).state_dict()
    table = state["pos_embed"]
    places = table.shape[1] - table.shape[1] % 14  # 14 × 14, after a class token or none
    ramp = (torch.arange(14) / 13).repeat(14)[None, :, None]
    table[:, -places:] = ramp.expand(1, -1, table.shape[2])
    return state


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "convit_tiny"])
@pytest.mark.parametrize("origin", ["file", "pretrained"])
def test_position_embeddings_are_resampled_to_a_grid_of_as_many_places(
    tmp_path, monkeypatch, name, origin
):
    """14 × 14 and 7 × 28 places: a ramp along the width stays one, the same in every row."""
    from timm.models import _builder

    state, path = ramped(name), "pretrained"
    if origin == "file":
        path = tmp_path / "w.safetensors"
        safetensors.torch.save_file(state, path)
    else:
        config = timm.get_pretrained_cfg(name)
        monkeypatch.setattr(_builder, "load_state_dict_from_hf", lambda *_, **__: dict(state))
        monkeypatch.setattr(_builder, "load_state_dict_from_url", lambda *_, **__: dict(state))
        assert config.hf_hub_id or config.url
    backbone = probe.load_backbone(name, path, image_size=(112, 448), device="cpu")
    table = backbone.model.pos_embed.detach()[0, -196:, 0].reshape(7, 28)
    torch.testing.assert_close(table, table[:1].expand(7, 28))
    assert (table.diff(dim=1) > -1e-6).all()
    middle = (torch.arange(28) + 0.5) / 2 - 0.5
    torch.testing.assert_close(table[0, 3:-3], middle[3:-3] / 13, atol=5e-3, rtol=0)
    if origin == "file":
        assert backbone.source == (
            "file w.safetensors, its pos_embed resampled for the size of the images"
        )


def test_weights_that_mix_places_are_not_used_on_a_grid_of_another_shape(tmp_path):
    name = "resmlp_12_224"
    with torch.random.fork_rng():
        state = timm.create_model(name, pretrained=False).state_dict()
    safetensors.torch.save_file(state, tmp_path / "w.safetensors")
    assert probe.load_backbone(name, tmp_path / "w.safetensors", image_size=224)
    with pytest.raises(probe.ProbeError, match=r"14 × 14 places .* to 7 × 28: .* 224 × 224"):
        probe.load_backbone(name, tmp_path / "w.safetensors", image_size=(112, 448))


# ------------------------------------------------------------ what training scripts write


def saved(tmp_path: Path, content: object, name: str = "best.pth") -> Path:
    torch.save(content, tmp_path / name)
    return tmp_path / name


def prefixed(prefix: str, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {f"{prefix}{k}": v for k, v in state.items()}


def other(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {k: v + 1 for k, v in state.items()}


def test_timms_training_script(tmp_path, trained):
    """It keeps its command line, and averaged weights beside the last ones."""
    state = trained.state_dict()
    content = {
        "epoch": 3,
        "arch": NAME,
        "state_dict": other(state),
        "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 0.1}]},
        "version": 2,
        "args": argparse.Namespace(lr=0.1, output=Path("runs"), opt_betas=None),
        "state_dict_ema": state,
        "metric": np.float64(71.3),
    }
    backbone = probe.load_backbone(NAME, saved(tmp_path, content), device="cpu")
    assert backbone.sha256 == fingerprint(trained)
    assert backbone.source == "file best.pth, its state_dict_ema rather than state_dict"


def test_tensors_of_no_numbers_are_refused_and_sparse_ones_are_read(tmp_path, trained):
    state = trained.state_dict()
    sparse = {k: v.to_sparse() if v.ndim == 2 else v for k, v in state.items()}
    backbone = probe.load_backbone(NAME, saved(tmp_path, sparse), device="cpu")
    assert backbone.sha256 == fingerprint(trained)
    meta = {k: v.to("meta") for k, v in state.items()}
    with pytest.raises(probe.ProbeError, match="have no numbers"):
        probe.load_backbone(NAME, saved(tmp_path, meta), device="cpu")


def test_dino_and_moco_and_lightning(tmp_path, trained):
    state = trained.state_dict()
    features = {k: v for k, v in state.items() if not k.startswith("classifier")}
    head = {"head.mlp.0.weight": torch.zeros(2, 2), "head.last_layer.weight_g": torch.ones(1)}
    dino = {
        "student": prefixed("module.backbone.", other(features)),
        "teacher": prefixed("backbone.", features) | head,
        "args": argparse.Namespace(),
    }
    moco = {
        "state_dict": prefixed("module.encoder_q.", features)
        | {"module.encoder_q.classifier.0.weight": torch.zeros(3, 3)}
        | prefixed("module.encoder_k.", other(features))
        | {"module.queue": torch.zeros(4, 4)}
    }
    lightning = {
        "pytorch-lightning_version": "2.0",
        "hyper_parameters": {"lr": 0.1},
        "state_dict": prefixed("model.backbone.", features)
        | {"model.head.weight": torch.zeros(5, 5)},
    }
    compiled = {"ema": prefixed("_orig_mod.module.net.", state), "net": other(state)}
    wrapped = {"model": {"module": prefixed("net.", state)}}
    for content, source in (
        (
            dino,
            "its teacher rather than student, names after 'backbone.', leaving out head, "
            "without its head",
        ),
        (
            moco,
            "its state_dict, names after 'module.encoder_q.', leaving out module.encoder_k, "
            "module.queue, without its head",
        ),
        (
            lightning,
            "its state_dict, names after 'model.backbone.', leaving out model.head, "
            "without its head",
        ),
        (compiled, "its ema rather than net, names after '_orig_mod.module.net.'"),
        (wrapped, "its model.module, names after 'net.'"),
        (state | head, "leaving out its head"),
    ):
        backbone = probe.load_backbone(NAME, saved(tmp_path, content), device="cpu")
        assert backbone.source == f"file best.pth, {source}"
        for key, value in features.items():
            assert torch.equal(backbone.model.state_dict()[key], value), (source, key)


def test_extra_tensors_inside_the_features_are_another_network(tmp_path, trained):
    state = trained.state_dict() | {"blocks.0.0.se.gate.weight": torch.zeros(1)}
    with pytest.raises(probe.ProbeError, match=r"1 unexpected: blocks\.0\.0\.se\.gate\.weight"):
        probe.load_backbone(NAME, saved(tmp_path, {"model": prefixed("net.", state)}))


@pytest.mark.parametrize("suffix", [".pth", ".PTH", ".SafeTensors", ".ckpt"])
def test_files_are_opened_by_what_they_hold(tmp_path, trained, suffix):
    path = tmp_path / f"w{suffix}"
    safetensors.torch.save_file(trained.state_dict(), path)
    assert probe.load_backbone(NAME, path).sha256 == fingerprint(trained)
    torch.save(trained.state_dict(), path)
    assert probe.load_backbone(NAME, path).sha256 == fingerprint(trained)
    with pytest.raises(probe.ProbeError, match="no such checkpoint file"):
        probe.load_backbone(NAME, f"nowhere{suffix}")


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_tensors_of_another_type_are_never_taken_for_numbers(tmp_path, trained):
    state = dict(trained.state_dict())
    state["conv_stem.weight"] = torch.quantize_per_tensor(
        state["conv_stem.weight"], 0.01, 0, torch.qint8
    )
    backbone = probe.load_backbone(NAME, saved(tmp_path, state), device="cpu")
    wanted = state["conv_stem.weight"].dequantize()
    assert torch.equal(backbone.model.conv_stem.weight, wanted)
    assert backbone.source == "file best.pth, conv_stem.weight dequantised"
    state["conv_stem.weight"] = torch.ones(16, 3, 3, 3, dtype=torch.int8)
    message = r"1 of another type: conv_stem\.weight int8 instead of float32"
    with pytest.raises(probe.ProbeError, match=message):
        probe.load_backbone(NAME, saved(tmp_path, state))


def test_torchscript_archives_say_what_to_save(tmp_path):
    torch.jit.script(nn.Conv2d(3, 4, 3)).save(tmp_path / "w.pt")
    with pytest.raises(probe.ProbeError, match=r"TorchScript archive.*state_dict\(\)"):
        probe.load_backbone(NAME, tmp_path / "w.pt")


def test_paths_that_cannot_be(tmp_path):
    for path in ("~nouser/x.pth", "a\0b.pth", "x" * 5000 + ".pth"):
        with pytest.raises(probe.ProbeError, match="no such checkpoint file"):
            probe.load_backbone(NAME, path)
