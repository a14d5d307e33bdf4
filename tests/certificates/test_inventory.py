"""The inventory names every source of position of real networks, and nothing else."""

from __future__ import annotations

import pytest
import timm
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import probe
from probe.certificates.inventory import COLUMNS
from probe.coordconv import AddCoords, inflate
from probe.variants.kinds import (
    COORDINATES,
    EMBEDDING,
    FACTOR,
    KINDS,
    MASK,
    MIXING,
    PADDING,
    RECURRENCE,
    RELATIVE,
    RESAMPLING,
    ROTARY,
    WINDOWS,
)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Small maps are faster without the others."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def others(model, **options):
    """Rows besides padding."""
    table = probe.sources(model, **options)
    return table[table["kind"] != PADDING]


# ------------------------------------------------------------ padding


def test_the_table_has_one_row_for_each_source():
    table = probe.sources("test_resnet", image_size=64)
    assert list(table.columns) == COLUMNS
    assert COLUMNS[:4] == ["kind", "module", "function", "parameter"]
    assert COLUMNS[4:] == ["kernel", "stride", "pad", "consumed", "even", "calls"]
    assert set(table["kind"]) <= set(KINDS)
    assert not table.duplicated(["kind", "module", "function", "parameter"]).any()
    assert (table["calls"] >= 1).all()


def test_padded_calls_of_a_residual_network_are_those_of_its_padded_modules():
    model = timm.create_model("resnet18")
    table = probe.sources(model, image_size=64)
    assert set(table["kind"]) == {PADDING}
    wanted = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d | nn.MaxPool2d):
            pad = nn.modules.utils._pair(module.padding)
            if any(pad):
                kernel, stride = map(nn.modules.utils._pair, (module.kernel_size, module.stride))
                wanted[name] = (kernel, stride, (pad[0], pad[0], pad[1], pad[1]))
    assert len(wanted) == 18
    found = {row.module: (row.kernel, row.stride, row.pad) for row in table.itertuples()}
    assert found == wanted
    assert (table["calls"] == 1).all()
    assert set(table["function"]) == {"conv2d", "max_pool2d"}


def test_functional_padding_has_the_path_of_the_module_that_calls_it():
    class Inner(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(3, 3, 3, 3))

        def forward(self, x):
            return F.conv2d(F.pad(x, (1, 2, 0, 3)), self.weight)

    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks = nn.ModuleList([Inner(), Inner()])
            self.weight = nn.Parameter(torch.randn(3, 1, 5, 5))

        def forward(self, x):
            for block in self.blocks:
                x = block(x)
            for _ in range(2):
                x = F.conv2d(x, self.weight, padding=2, groups=3)
            return F.avg_pool2d(x, 2)

    table = probe.sources(Outer(), image_size=32)
    rows = [(r.kind, r.module, r.function, r.pad, r.calls) for r in table.itertuples()]
    assert rows == [
        (PADDING, "blocks.0", "pad", (0, 3, 1, 2), 1),
        (PADDING, "blocks.1", "pad", (0, 3, 1, 2), 1),
        (PADDING, "", "conv2d", (2, 2, 2, 2), 2),
    ]


@pytest.mark.parametrize(
    "name",
    [
        "resnet18",
        "convnext_atto",
        "tf_efficientnet_lite0",
        "focalnet_tiny_srf",
        "pvt_v2_b0",
        "mobilevit_xxs",
        "efficientvit_b0",
        "twins_pcpvt_small",
        "seresnet18",
        "mobilenetv3_small_100",
        "inception_v3",
        "nf_resnet26",
    ],
)
def test_networks_whose_every_source_is_padding(name):
    table = probe.sources(name)
    assert len(table)
    assert set(table["kind"]) == {PADDING}


# ------------------------------------------------------------ other sources of real networks


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("vit_tiny_patch16_224", {EMBEDDING}),
        ("deit_tiny_distilled_patch16_224", {EMBEDDING}),
        ("cait_xxs24_224", {EMBEDDING}),
        ("visformer_tiny", {EMBEDDING}),
        ("xcit_nano_12_p16_224", {EMBEDDING}),
        ("test_vit_relpos", {RELATIVE}),
        ("levit_128s", {RELATIVE}),
        ("vit_tiny_patch16_dinov3_qkvb", {ROTARY}),
        ("eva02_tiny_patch14_224", {EMBEDDING, ROTARY}),
        ("mixer_s32_224", {MIXING}),
        ("sequencer2d_s", {RECURRENCE}),
        ("efficientvit_m0", {RELATIVE, WINDOWS}),
    ],
)
def test_other_networks_have_the_sources_their_papers_give_them(name, kinds):
    assert set(others(name)["kind"]) == kinds


def test_a_position_embedding_is_named_by_its_parameter():
    table = probe.sources("vit_tiny_patch16_224")
    assert list(table["kind"]) == [EMBEDDING]
    assert list(table["parameter"]) == ["pos_embed"]
    assert list(table["module"]) == [""]
    assert list(table["calls"]) == [1]


def test_a_position_embedding_that_is_computed_is_named_by_what_it_is_made_from():
    (row,) = others("xcit_nano_12_p16_224").itertuples()
    assert set(row.parameter.split(", ")) == {
        "pos_embed.token_projection.weight",
        "pos_embed.token_projection.bias",
    }


def test_shifted_windows_have_biases_masks_and_windows():
    table = others("swin_tiny_patch4_window7_224")
    assert set(table["kind"]) == {RELATIVE, WINDOWS, MASK}
    biases = table[table["kind"] == RELATIVE]
    assert len(biases) == 12  # blocks
    assert biases["module"].str.fullmatch(r"layers\.\d\.blocks\.\d\.attn").all()
    assert biases["parameter"].str.contains("relative_position_bias_table").all()
    windows = table[table["kind"] == WINDOWS]
    assert len(windows) == 10  # the last stage is a single window
    masks = table[table["kind"] == MASK]
    assert len(masks) == 5
    assert masks["parameter"].str.endswith("attn_mask").all()


def test_a_mixer_mixes_tokens_twice_in_each_block():
    table = others("mixer_s32_224")
    assert list(table["module"]) == [
        f"blocks.{n}.mlp_tokens.{fc}" for n in range(8) for fc in ("fc1", "fc2")
    ]


# ------------------------------------------------------------ small networks


class Planted(nn.Module):
    """A stride-4 map; ``change`` takes the module and the map (B, 6, H, W)."""

    def __init__(self, change, **parameters):
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 4, 4)
        self.change = change
        for name, tensor in parameters.items():
            self.register_parameter(name, nn.Parameter(tensor))

    def forward(self, x):
        return self.change(self, self.stem(x))


def kinds(change, **parameters):
    return list(probe.sources(Planted(change, **parameters), image_size=32)["kind"])


def tokens(x):
    return x.flatten(2).transpose(1, 2)


def with_rows(model, x):
    rows = torch.arange(8.0).view(1, 1, 8, 1).expand(len(x), 1, 8, 8)
    return torch.cat([x, rows], 1)


def with_columns_last(model, x):
    columns = torch.linspace(-1, 1, 8).view(1, 1, 8, 1).expand(len(x), 8, 8, 1)
    return torch.cat([x.permute(0, 2, 3, 1), columns], -1)


def with_places_of_tokens(model, x):
    x = tokens(x)
    places = torch.arange(64.0).view(1, 64, 1).expand(len(x), 64, 1)
    return torch.cat([x, places], 2)


def windowed(model, x):
    x = x.permute(0, 2, 3, 1).view(-1, 2, 4, 2, 4, 6).permute(0, 1, 3, 2, 4, 5)
    x = x.reshape(-1, 16, 6)
    return x - x.mean(1, keepdim=True)


def logits(model, x):
    x = tokens(x)
    return x @ x.transpose(1, 2) + model.bias


def attended(model, x):
    x = tokens(x)[:, None]
    return F.scaled_dot_product_attention(x, x, x, attn_mask=model.bias)


@pytest.mark.parametrize(
    ("change", "parameters", "kind"),
    [
        (with_rows, {}, COORDINATES),
        (with_columns_last, {}, COORDINATES),
        (with_places_of_tokens, {}, COORDINATES),
        (windowed, {}, WINDOWS),
        (logits, {"bias": (64, 64)}, RELATIVE),
        (attended, {"bias": (64, 64)}, RELATIVE),
        (lambda m, x: x + m.shift, {"shift": (1, 6, 8, 8)}, EMBEDDING),
        (lambda m, x: m.shift + x, {"shift": (1, 6, 8, 8)}, EMBEDDING),
        (lambda m, x: x.add_(m.shift), {"shift": (6, 8, 8)}, EMBEDDING),
        (lambda m, x: tokens(x) + m.shift, {"shift": (64, 6)}, EMBEDDING),
        (lambda m, x: x + m.rows, {"rows": (8, 1)}, EMBEDDING),
        (lambda m, x: x + m.columns, {"columns": (6, 1, 8)}, EMBEDDING),
        (lambda m, x: x.permute(0, 2, 3, 1) + m.rows, {"rows": (8, 1, 6)}, EMBEDDING),
        (lambda m, x: x.permute(0, 2, 3, 1) + m.columns, {"columns": (8, 6)}, EMBEDDING),
        (lambda m, x: x.movedim(1, -1) * m.columns, {"columns": (8, 1)}, FACTOR),
        (lambda m, x: tokens(x) + m.shift, {"shift": (64, 1)}, EMBEDDING),
        (lambda m, x: x.flatten(2) * m.gain, {"gain": (64,)}, FACTOR),
        (lambda m, x: torch.add(x, m.shift, alpha=2), {"shift": (6, 8, 8)}, EMBEDDING),
        (lambda m, x: x * m.gain, {"gain": (1, 6, 8, 8)}, FACTOR),
        (lambda m, x: F.linear(x.flatten(2), m.mix), {"mix": (9, 64)}, MIXING),
        (lambda m, x: F.interpolate(x, scale_factor=1.5), {}, RESAMPLING),
        (lambda m, x: F.adaptive_avg_pool2d(x, 3), {}, RESAMPLING),
    ],
)
def test_a_planted_source_is_found(change, parameters, kind):
    drawn = {name: torch.randn(shape) for name, shape in parameters.items()}
    assert kinds(change, **drawn) == [kind]
    # What is 0 now may not be after training.
    blank = {name: torch.zeros(shape) for name, shape in parameters.items()}
    assert kinds(change, **blank) == [kind]


def gated(model, x):
    return x * torch.sigmoid(F.conv2d(x.mean((2, 3), keepdim=True), model.gate))


def with_class_token(model, x):
    return torch.cat([model.token.expand(len(x), -1, -1), tokens(x)], 1)


@pytest.mark.parametrize(
    ("change", "parameters"),
    [
        (lambda m, x: x * m.gamma, {"gamma": (6, 1, 1)}),
        (lambda m, x: m.gamma * tokens(x), {"gamma": (6,)}),
        (lambda m, x: x.permute(0, 2, 3, 1).mul_(m.gamma), {"gamma": (6,)}),
        (lambda m, x: x.movedim(1, -1) * m.gamma, {"gamma": (6,)}),
        (lambda m, x: x.transpose(1, 3).transpose(1, 2) * m.gamma, {"gamma": (6,)}),
        (lambda m, x: x + m.bias, {"bias": (1, 6, 1, 1)}),
        (lambda m, x: tokens(x) + m.bias, {"bias": (1, 1, 6)}),
        (lambda m, x: F.conv2d(x, m.weight, m.bias), {"weight": (4, 6, 1, 1), "bias": (4,)}),
        (lambda m, x: F.linear(tokens(x), m.weight), {"weight": (9, 6)}),
        (gated, {"gate": (6, 6, 1, 1)}),
        (with_class_token, {"token": (1, 1, 6)}),
        (lambda m, x: F.layer_norm(tokens(x), (6,), m.gain, m.bias), {"gain": (6,), "bias": (6,)}),
        (lambda m, x: F.group_norm(x, 2, m.gain, m.bias), {"gain": (6,), "bias": (6,)}),
        (lambda m, x: tokens(x).view(-1, 64, 2, 3).transpose(1, 2) * m.scale, {"scale": (2, 1, 1)}),
        (lambda m, x: F.prelu(x, m.slope), {"slope": (6,)}),
        (lambda m, x: F.interpolate(x, scale_factor=2, mode="bilinear"), {}),
        (lambda m, x: F.adaptive_avg_pool2d(x, 4), {}),
        (lambda m, x: F.adaptive_avg_pool2d(x, 1).flatten(1) * torch.arange(6.0), {}),
        (lambda m, x: torch.roll(x, 3, 2), {}),
        (lambda m, x: x + torch.full((8, 8), 2.0), {}),
        (lambda m, x: x @ x.transpose(-1, -2), {}),
    ],
)
def test_what_is_the_same_at_every_place_is_no_source(change, parameters):
    assert kinds(change, **{n: torch.randn(shape) for n, shape in parameters.items()}) == []


@given(
    shape=st.tuples(*(st.booleans() for _ in range(3))),
    name=st.sampled_from(["shift", "gamma", "pos_embed"]),
    how=st.sampled_from(["add", "sub", "mul"]),
)
@settings(max_examples=24)
def test_a_tensor_is_a_source_if_and_only_if_it_varies_over_places(shape, name, how):
    sides = [size if varies else 1 for varies, size in zip(shape, (6, 8, 8), strict=True)]
    found = kinds(
        lambda m, x: getattr(torch, how)(x, getattr(m, name)), **{name: torch.ones(sides)}
    )
    assert bool(found) == any(shape[1:])


def test_parts_of_real_networks_that_are_the_same_everywhere_are_never_listed():
    for name in ("convnext_atto", "seresnet18", "cait_xxs24_224", "vit_tiny_patch16_224"):
        parameters = " ".join(probe.sources(name)["parameter"])
        for part in ("gamma", "bias", "se.", "cls_token", "norm", "weight"):
            assert part not in parameters


def test_coordinates_given_to_a_network_are_a_source_once_their_weights_are_not_zero():
    model = inflate(timm.create_model("resnet18"), ["conv1", "layer2.**"], radius=True)
    assert len(others(model, image_size=64)) == 0
    torch.nn.init.normal_(model.conv1.coord_weight)
    torch.nn.init.normal_(model.layer2[0].downsample[0].coord_weight)
    table = others(model, image_size=64)
    assert list(table["kind"]) == [COORDINATES] * 2
    assert list(table["module"]) == ["conv1", "layer2.0.downsample.0"]
    assert list(table["parameter"]) == [f"{name}.coord_weight" for name in table["module"]]
    (row,) = others(nn.Sequential(AddCoords(), nn.Conv2d(5, 4, 1)), image_size=32).itertuples()
    assert (row.kind, row.module, row.parameter) == (COORDINATES, "0", "")


def test_a_certificate_names_the_coordinates(tiny):
    inflated = inflate(tiny, "convs")
    options = {"layers": ["stages.*"], "image_size": 64}
    assert probe.certify(inflated, "circular", **options).passed
    torch.nn.init.normal_(inflated.stages[1][0].coord_weight)
    for variant in ("circular", "circular+no_pos_embed", "canvas"):
        seen = probe.certify(inflated, variant, **options)
        assert not seen.passed
        assert seen.sources == ("coordinates: stages.1.0",)
    seen = probe.certify(inflated, "circular", **options)
    assert seen.residual > 1e-3
    assert seen.first_break == "stages.1.0"
    assert seen.reason == "position enters at or before stages.1.0: coordinates"


def test_taking_the_inventory_leaves_the_network_as_it_was(tiny):
    tiny.train()
    before = {n: t.clone() for n, t in tiny.state_dict().items()}
    probe.sources(tiny, image_size=64)
    assert all(torch.equal(before[n], t) for n, t in tiny.state_dict().items())
    assert all(m.training for m in tiny.modules())
    assert not any(m._forward_hooks for m in tiny.modules())


def test_an_image_size_that_a_network_refuses_is_an_error():
    with pytest.raises(probe.ProbeError, match="refuses images of 40 × 40 pixels"):
        probe.sources(timm.create_model("vit_tiny_patch16_224"), image_size=40)
