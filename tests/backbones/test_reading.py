"""How outputs lie over the image: by what a module is, by measuring; guesses are said."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn

import probe
from probe.backbones.hooks import evaluating
from probe.backbones.layer import Layer
from probe.backbones.probed import ProbedLayers, probe_layers
from probe.backbones.reading import CLEAR, Seen, _agreement, decide, readings


def probed(model: nn.Module, layers: str | list[str], size: int | tuple[int, int]) -> ProbedLayers:
    height, width = (size, size) if isinstance(size, int) else size
    x = torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(0))
    with evaluating(model):
        return probe_layers(model, layers, x)


def features(model: nn.Module, layer: str, size: int) -> Tensor:
    """What a readout sees of one grey image, shape (C, H, W)."""
    kept: list[Tensor] = []
    taken = probed(model, [layer], size)
    with evaluating(model):
        taken.run(model, torch.zeros(1, 3, size, size), lambda _, x: kept.append(x[0].clone()))
    return kept[0]


class Tokens(nn.Module):
    """Patches, with tokens before them that no attribute tells of."""

    def __init__(self, extra: int, sequence_first: bool = False) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 24, 14, 14)
        self.extra = nn.Parameter(torch.randn(1, extra, 24))
        self.mix = nn.Linear(24, 24)
        self.block = Act()
        self.sequence_first = sequence_first

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.extra.expand(len(x), -1, -1), x], 1)
        if self.sequence_first:
            x = x.transpose(0, 1)
        return self.block(self.mix(x))


class Act(nn.Module):
    """Says nothing of the layout."""

    def forward(self, x: Tensor) -> Tensor:
        return x.tanh()


@pytest.mark.parametrize("sequence_first", [False, True])
@pytest.mark.parametrize("extra", [0, 1, 5])
def test_tokens_before_the_places_are_counted_by_measuring(extra, sequence_first):
    for layer in probed(Tokens(extra, sequence_first), ["mix", "block"], 224).layers:
        assert (layer.height, layer.width, layer.channels) == (16, 16, 24)
        assert (layer.prefix, layer.suffix) == (extra, 0)
        assert layer.layout == ("LNC" if sequence_first else "NLC")
        assert "measured" in layer.decided


def test_as_many_channels_as_rows_mislead_nobody():
    """At 384 px ConvNeXt's and Swin's first maps are 96 × 96 places of 96 channels."""
    convnext = timm.create_model("convnext_tiny", depths=(1, 1, 1, 1))
    names = ["stages.0.blocks.0.conv_dw", "stages.0.blocks.0.norm", "stages.0.blocks.0.mlp.fc2"]
    layouts = {layer.name: layer.layout for layer in probed(convnext, names, 384).layers}
    assert layouts == dict(zip(names, ["NCHW", "NHWC", "NHWC"], strict=True))
    swin = timm.create_model("swin_tiny_patch4_window7_224", img_size=384, depths=(1, 1, 1, 1))
    names = ["patch_embed.proj", "patch_embed", "layers.0.blocks.0"]
    layouts = {layer.name: layer.layout for layer in probed(swin, names, 384).layers}
    assert layouts == dict(zip(names, ["NCHW", "NHWC", "NHWC"], strict=True))


@pytest.mark.parametrize(
    ("name", "layer", "size"),
    [
        ("hiera_tiny_224", "blocks.0", 224),
        ("nest_tiny", "levels.0.transformer_encoder.0", 224),
        ("vit_tiny_patch16_224", "blocks.0", 224),
        ("deit_tiny_distilled_patch16_224", "blocks.0", 224),
        ("cait_xxs24_224", "blocks.0", 224),
        ("tnt_s_patch16_224", "blocks.0", 224),
    ],
)
def test_a_ramp_planted_in_the_embedding_is_found_at_the_next_layer(name, layer, size):
    torch.manual_seed(0)
    model = timm.create_model(name).eval()
    table = next(
        p for n, p in model.named_parameters() if n.rpartition(".")[2] in ("pos_embed", "patch_pos")
    )
    seen = probed(model, [layer], size).layers[0]
    places = seen.height * seen.width
    ramp = torch.linspace(-1, 1, seen.height)[:, None].expand(-1, seen.width).flatten()
    with torch.no_grad():
        table.zero_()
        flat = table.view(-1, table.shape[-1])
        if name.startswith("nest"):  # blocks of places, row by row within each
            side = round((table.shape[1]) ** 0.5)
            inner = round(table.shape[2] ** 0.5)
            grid = ramp.view(side, inner, side, inner).transpose(1, 2)
            flat[:, :8] = 5 * grid.reshape(-1, 1)
        else:
            flat[len(flat) - places :, :8] = 5 * ramp[:, None]
    x = features(model, layer, size).flatten(1).T.double().numpy()
    x = np.column_stack([x, np.ones(len(x))])
    weights, *_ = np.linalg.lstsq(x, ramp.numpy(), rcond=1e-6)
    left = ramp.numpy() - x @ weights
    assert seen.height == seen.width == round(places**0.5)
    assert 1 - left.var() / ramp.numpy().var() > 0.95


def test_register_tokens_are_told_from_the_grid_at_the_default_size():
    assert probe.certify("vit_small_patch14_reg4_dinov2", "no_pos_embed").passed


def test_gradient_checkpointing_is_off_for_a_run_and_on_again():
    model = timm.create_model("resnet10t").eval()
    plain = [layer.name for layer in probed(model, "stages", 64).layers]
    model.set_grad_checkpointing(True)
    assert [layer.name for layer in probed(model, "stages", 64).layers] == plain
    assert model.grad_checkpointing is True


class CallsForward(nn.Module):
    """Runs the forward of one of its stages, past its hooks; and another one twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stage0 = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU())
        self.stage1 = nn.Sequential(nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU())
        self.again = nn.Conv2d(8, 8, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.again(self.again(self.stage1.forward(self.stage0(x))))


def test_layers_that_do_not_fire_are_said_with_the_reason():
    with pytest.warns(probe.ProbeWarning, match=r"stage1 \(never runs itself, only its parts do"):
        seen = probed(CallsForward(), ["stage*"], 32)
    assert [layer.name for layer in seen.layers] == ["stage0"]


def test_single_calls_of_a_module_that_runs_twice():
    model = CallsForward()
    with pytest.raises(probe.ProbeError, match="again:0 to again:1"):
        probed(model, ["again"], 32)
    kept: dict[str, Tensor] = {}
    seen = probed(model, ["again:0", "again:1"], 32)
    x = torch.rand(2, 3, 32, 32)
    with evaluating(model):
        seen.run(model, x, lambda layer, f: kept.update({layer.name: f.clone()}))
        torch.testing.assert_close(model.again(kept["again:0"]), kept["again:1"])


def test_torchscript_is_said_to_be_out_of_sight():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), torch.jit.script(nn.Sequential(nn.Conv2d(4, 4, 3))))
    with pytest.raises(probe.ProbeError, match="TorchScript module, into which hooks can't see"):
        probed(model, ["1.0"], 32)


class Shuffled(nn.Module):
    """Gives patches in an order of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 24, 8, 8)
        self.shuffle = Shuffle()

    def forward(self, x: Tensor) -> Tensor:
        return self.shuffle(self.patches(x).flatten(2).transpose(1, 2))


class Shuffle(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        order = torch.randperm(x.shape[1], generator=torch.Generator().manual_seed(1))
        return x[:, order].sin()


def test_tokens_out_of_order_are_refused():
    with pytest.raises(probe.ProbeError, match="not in the order of the image"):
        probed(Shuffled(), ["shuffle"], 128)


def test_what_was_left_out_stands_in_the_result():
    options = {"train_images": 4, "test_images": 4, "image_size": 32, "progress": False}
    with pytest.warns(probe.ProbeWarning, match="stage1"):
        got = probe.run(CallsForward(), layers=["stage*"], **options)
    assert any("stage1 (never runs itself" in said for said in got.provenance["warnings"])


def test_rows_that_do_not_cover_the_image_give_way_to_those_that_do():
    """Channels whose change falls off, as in dense blocks, agree by chance better than rows."""
    draw = np.random.default_rng(0)
    rows, columns = np.mgrid[:8, :8]
    change = np.zeros((64, 8, 8))
    change[:23] = (rows < 5) + 0.4 * ((rows < 3) & (columns < 5))
    change += 0.3 * draw.random(change.shape[1:])
    seen = Seen((2, 64, 8, 8), (1, 64, 8, 8), {1: change.sum(0), 3: change.sum(2)})
    blank = Layer("x", 1, 0, 0, 0, "", 0, (128, 128))
    first, last = readings(blank, Act(), Act(), seen.shape)
    assert (first.layout, last.layout) == ("NCHW", "NHWC")
    assert CLEAR < _agreement(first, seen) < _agreement(last, seen) - 0.02
    layer, fault = decide(blank, Act(), Act(), seen)
    assert not fault
    assert (layer.layout, layer.channels, layer.places) == ("NCHW", 64, (8, 8))
