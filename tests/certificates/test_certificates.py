"""Certificates: networks without position pass, any planted source of position fails them."""

from __future__ import annotations

import copy
import math
import random
from collections import OrderedDict

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import probe
from probe.backbones.initialisation import expose_borders
from probe.certificates.certificate import CONTRAST, SINGLE_THRESHOLD, THRESHOLD
from probe.certificates.prepare import prepare
from probe.variants.variant import parse_variant

pytestmark = [
    pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated"),
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor"),
]


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Small maps are faster without the others."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def seeded(build, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build()


# ------------------------------------------------------------ the real network


def test_on_a_torus_every_module_of_the_real_network_is_equivariant(lite):
    """Every convolution, normalisation and activation with a map, not only the stages."""
    seen = probe.certify(lite.model, layers=["conv_stem", "blocks.**", "conv_head"], image_size=128)
    assert len(seen.layers) > 100
    assert seen.passed
    assert seen.precision == "float64"
    assert seen.residual == max(seen.layers.values()) <= seen.threshold == THRESHOLD == 1e-8
    assert seen.first_break is None
    assert seen.sources == ()
    assert seen.shift == (32, 32)


def test_the_stages_of_the_real_network_pass_at_the_size_they_were_trained_at(lite):
    seen = probe.certify(lite.model)
    assert seen.image_size == (224, 224)
    assert seen.passed
    assert set(seen.layers) == {"blocks.0", *(f"blocks.{n}" for n in (1, 2, 4, 6)), "output"}


@pytest.mark.parametrize(
    "rule", ["original", "zeros", "reflect", "replicate", "mean", "noise", "partial"]
)
def test_every_other_border_lets_position_in_from_the_first_layer_on(lite, rule):
    seen = probe.certify(lite.model, rule, image_size=128)
    assert not seen.passed
    assert seen.residual > 0.01
    assert seen.contrast > 1e-2
    assert seen.first_break == "conv_stem"
    assert "padding: conv_stem" in seen.sources
    assert seen.reason == "position enters at or before conv_stem: padding"
    if rule == "original":
        assert seen.residual == seen.contrast


# ------------------------------------------------------------ other architectures


@pytest.mark.parametrize(
    "name",
    [
        "resnet18",
        pytest.param("vgg11", marks=pytest.mark.slow),
        "mobilenetv3_small_100",
        "convnext_atto",
        "inception_v3",  # its stem drops cells
        "mobilevit_xxs",
        pytest.param("selecsls42", marks=pytest.mark.slow),  # its shift is two strides
    ],
)
def test_networks_whose_only_source_is_padding_pass_on_a_torus_alone(name):
    subject = prepare(name)
    torus, own = (subject.certify(parse_variant(v)) for v in ("circular", "original"))
    assert torus.passed, torus.reason
    assert torus.sources == ()
    assert torus.residual <= THRESHOLD
    assert torus.contrast > 1e-2
    assert torus.shift == ((64, 64) if name == "selecsls42" else (32, 32))
    assert not own.passed
    assert own.reason
    assert own.sources
    assert all(source.startswith("padding: ") for source in own.sources)


def test_a_name_is_certified_as_it_is_prepared():
    assert probe.certify("resnet10t") == prepare("resnet10t").certify(parse_variant("circular"))


def test_a_vision_transformer_passes_without_its_position_embedding_alone():
    name = "vit_tiny_patch16_224"
    torus = probe.certify(name)
    assert not torus.passed
    assert torus.sources == ("position embedding: VisionTransformer",)
    assert torus.reason.endswith("pos_drop: position embedding")
    without = probe.certify(name, "no_pos_embed")
    assert without.passed
    assert without.sources == ()
    shuffled = probe.certify(name, "shuffled_pos_embed")
    assert not shuffled.passed
    assert shuffled.sources == torus.sources


def test_a_hybrid_passes_without_both_of_its_sources_alone():
    name = "vit_tiny_r_s16_p8_224"
    for variant, kind in (("circular", "position embedding"), ("no_pos_embed", "padding")):
        seen = probe.certify(name, variant)
        assert not seen.passed
        assert {source.partition(":")[0] for source in seen.sources} == {kind}
    for variant in ("circular+no_pos_embed", "no_pos_embed+circular"):
        assert probe.certify(name, variant).passed


def test_without_position_embeddings_there_is_none_to_take_away():
    with pytest.raises(probe.ProbeError, match=r"would change nothing.*nothing but padding"):
        probe.certify("resnet18", "no_pos_embed")


# ------------------------------------------------------------ planted sources


class Coordinates(nn.Module):
    def __init__(self):
        super().__init__()
        self.mix = nn.Conv2d(9, 8, 1)

    def forward(self, x):
        rows = torch.linspace(0, 1, x.shape[2], dtype=x.dtype).view(1, 1, -1, 1)
        return self.mix(torch.cat([x, rows.expand(len(x), 1, *x.shape[2:])], 1))


class ConcatenatedZeros(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3)

    def forward(self, x):
        row = torch.zeros_like(x[:, :, :1])
        x = torch.cat([row, x, row], 2)
        column = torch.zeros_like(x[..., :1])
        return self.conv(torch.cat([column, x, column], 3))


class WrittenInto(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3)

    def forward(self, x):
        wide = x.new_zeros((*x.shape[:2], x.shape[2] + 2, x.shape[3] + 2))
        wide[..., 1:-1, 1:-1] = x
        return self.conv(wide)


class Embedding(nn.Module):
    """A learned position embedding, faint: 0.01 is the norm of the whole tensor."""

    def __init__(self, norm=0.01):
        super().__init__()
        position = torch.randn(1, 8, 28, 28)
        self.pos_embed = nn.Parameter(position * norm / position.norm())

    def forward(self, x):
        return x + self.pos_embed


class Windows(nn.Module):
    """What differs from the mean of its window."""

    side = 7

    def forward(self, x):
        b, c, h, w = x.shape
        s = self.side
        x = x.permute(0, 2, 3, 1).reshape(b, h // s, s, w // s, s, c)
        x = x.permute(0, 1, 3, 2, 4, 5).reshape(-1, s * s, c)
        x = x - x.mean(1, keepdim=True)
        x = x.reshape(b, h // s, w // s, s, s, c).permute(0, 1, 3, 2, 4, 5)
        return x.reshape(b, h, w, c).permute(0, 3, 1, 2)


class Hiding(Windows):
    """As large as the shift, which takes windows to windows."""

    side = 4


class RelativeBias(nn.Module):
    def __init__(self):
        super().__init__()
        self.relative_position_bias = nn.Parameter(0.1 * torch.randn(784, 784))

    def forward(self, x):
        tokens = x.flatten(2).transpose(1, 2)
        attention = tokens @ tokens.transpose(1, 2) + self.relative_position_bias
        return (attention.softmax(-1) @ tokens).transpose(1, 2).reshape(x.shape)


def network(planted):
    """Stride 8, with something between two convolutions."""
    return seeded(
        lambda: nn.Sequential(
            OrderedDict(
                stem=nn.Conv2d(3, 8, 7, 2, 3),
                pool=nn.MaxPool2d(3, 2, 1),
                norm=nn.BatchNorm2d(8),
                act=nn.GELU(),
                down=nn.Conv2d(8, 8, 3, 2, 1),
                planted=planted(),
                late=nn.Conv2d(8, 8, 3, 1, 1),
            )
        )
    )


NETWORK = {"layers": ["stem", "down", "late"]}


def test_with_nothing_planted_the_network_is_clean():
    seen = probe.certify(network(nn.Identity), **NETWORK)
    assert seen.passed
    assert seen.image_size == (224, 224)


@pytest.mark.parametrize(
    ("planted", "source"),
    [
        (Coordinates, "coordinates: planted"),
        (Embedding, "position embedding: planted"),
        (RelativeBias, "relative position bias: planted"),
    ],
)
def test_no_planted_source_of_position_passes(planted, source):
    seen = probe.certify(network(planted), **NETWORK)
    assert not seen.passed
    assert seen.sources == (source,)
    assert source.partition(":")[0] in seen.reason
    assert seen.layers["down"] <= THRESHOLD
    assert seen.layers["late"] > THRESHOLD
    assert seen.first_break == ("planted.mix" if planted is Coordinates else "planted")


@pytest.mark.parametrize(("planted", "pixels"), [(Windows, 56), (Hiding, 32)])
def test_windows_leave_the_place_within_them_and_the_certificate_says_so(planted, pixels):
    seen = probe.certify(network(planted), **NETWORK)
    assert seen.passed and seen.residual <= THRESHOLD
    assert seen.shift[0] % pixels == 0 < seen.shift[0] < seen.image_size[0]
    down, right = seen.shift
    assert f"up to its place within a window of {down} × {right} pixels" in seen.reason


def test_a_layer_left_with_zero_padding_that_torch_hides_does_not_pass():
    scripted = network(lambda: torch.jit.script(nn.Conv2d(8, 8, 3, padding=1)))
    seen = probe.certify(scripted, **NETWORK)
    assert not seen.passed
    assert seen.layers["down"] <= THRESHOLD < 1e-3 < seen.layers["late"]
    assert seen.first_break == "late"  # nothing looks into a scripted module


@pytest.mark.parametrize("planted", [ConcatenatedZeros, WrittenInto])
def test_zeros_that_no_padded_call_writes_do_not_pass(planted):
    """On a torus the widened map is a ring of its own, of which no shift is a whole place."""
    seen = probe.certify(network(planted), **NETWORK)
    assert not seen.passed
    assert math.isnan(seen.residual)
    assert "30 rows of late" in seen.reason


@given(norm=st.floats(-5, 2))
@settings(max_examples=10)
def test_no_position_embedding_is_too_faint(norm):
    faint = network(lambda: Embedding(10**norm))
    seen = probe.certify(faint, **NETWORK)
    assert not seen.passed
    assert seen.first_break == "planted"
    without = probe.certify(faint, "circular+no_pos_embed", **NETWORK)
    assert without.passed


@given(data=st.data())
@settings(max_examples=15)
def test_any_stack_of_convolutions_passes_on_a_torus_alone(data):
    modules, channels, padded = [], 3, False
    for _ in range(data.draw(st.integers(1, 3))):
        kernel, dilation = data.draw(st.sampled_from([1, 3, 5])), data.draw(st.integers(1, 2))
        stride = data.draw(st.integers(1, 2))
        pad = data.draw(st.sampled_from([0, dilation * (kernel - 1) // 2]))
        padded |= pad > 0
        modules.append(nn.Conv2d(channels, 4, kernel, stride, pad, dilation))
        modules.append(nn.GELU())
        channels = 4
    model = seeded(lambda: nn.Sequential(*modules))
    last = {"layers": [str(len(modules) - 1)], "image_size": 64}
    torus = probe.certify(model, **last)
    assert torus.passed, torus.reason
    assert padded != torus.reason.endswith("nothing pads")
    if padded:
        assert not probe.certify(model, "original", **last).passed


def test_a_network_that_upsamples_is_shifted_by_its_greatest_stride():
    down = [nn.Conv2d(a, 6, 3, 2, 1) for a in (3, 6, 6)]
    up = [nn.ConvTranspose2d(6, 6, 4, 2, 1) for _ in range(3)]
    seen = probe.certify(nn.Sequential(*down, *up), layers=["5"], image_size=64)
    assert seen.passed
    assert seen.shift == (32, 32)


# ------------------------------------------------------------ weights that hide borders


def test_weights_that_hide_borders_certify_nothing():
    """LayerScale at 1e-6 leaves no trace of padding; the name's weights are made to show it."""
    model = seeded(lambda: timm.create_model("convnext_atto"))
    scales = [p for n, p in model.named_parameters() if n.endswith("gamma")]
    assert not scales or max(float(p.detach().abs().max()) for p in scales) <= 1e-6
    hidden = probe.certify(model, image_size=128)
    assert hidden.residual <= THRESHOLD
    assert hidden.contrast < CONTRAST
    assert not hidden.passed
    assert hidden.reason.startswith("inconclusive")
    assert "contrast" in hidden.reason
    assert hidden.first_break is None
    expose_borders(model)
    assert probe.certify(model, image_size=128).passed


class Hidden(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3)
        self.norm = nn.LayerNorm(4)
        self.gamma = nn.Parameter(1e-6 * torch.ones(4))
        self.last = nn.BatchNorm2d(4)
        self.gain = nn.Parameter(torch.zeros(()))
        self.enough = nn.Parameter(torch.full((4,), 0.5))
        self.pos_embed = nn.Parameter(torch.zeros(1, 500, 40))
        self.zero_conv = nn.Conv2d(4, 300, 5)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, 4))
        self.steps = nn.Parameter(torch.zeros(3, dtype=torch.long), requires_grad=False)
        nn.init.zeros_(self.conv.bias)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.zero_conv.weight)


def test_only_what_an_initialisation_set_to_nearly_nothing_is_exposed():
    model = seeded(Hidden)
    before = copy.deepcopy(model.state_dict())
    expose_borders(model, 3)
    after = model.state_dict()
    changed = {n for n in before if not torch.equal(before[n], after[n])}
    assert changed == {"gamma", "last.weight", "gain", "pos_embed", "zero_conv.weight"}
    for name in ("gamma", "last.weight", "gain"):
        assert (after[name] == 1).all()
    for name, fan_in in (("pos_embed", 500 * 40), ("zero_conv.weight", 4 * 5 * 5)):
        assert abs(float(after[name].var()) * fan_in - 1) < 0.05
    again, other = seeded(Hidden), seeded(Hidden)
    expose_borders(again, 3)
    expose_borders(other, 4)
    assert all(torch.equal(again.state_dict()[n], after[n]) for n in after)
    assert not torch.equal(other.pos_embed, model.pos_embed)


def test_where_nothing_pads_there_is_no_contrast_to_ask_for():
    model = seeded(lambda: nn.Sequential(nn.Conv2d(3, 8, 8, 8), nn.GELU(), nn.Conv2d(8, 8, 1)))
    for variant in ("circular", "original"):
        seen = probe.certify(model, variant, layers=["0", "2"])
        assert seen.passed
        assert seen.reason.endswith("nothing pads")
        assert seen.contrast <= THRESHOLD


# ------------------------------------------------------------ where it is not defined


class Infinite(nn.Module):
    def forward(self, x):
        return (1e200 * x) ** 2


@pytest.mark.parametrize(
    ("model", "size", "reason"),
    [
        (nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.ReLU()), 64, "31 rows"),
        (nn.Sequential(nn.Conv2d(3, 4, 4, 16)), 16, "can't be probed"),
        (nn.Sequential(nn.Conv2d(3, 4, 16, 16)), (16, 48), "choose a larger image size"),
        (nn.Sequential(nn.Conv2d(3, 4, 4, 4), Infinite()), 64, "not finite"),
    ],
)
def test_where_a_certificate_is_not_defined_it_says_why(model, size, reason):
    options = {"layers": ["0"] if "finite" not in reason else ["1"], "image_size": size}
    if "probed" in reason:
        with pytest.raises(probe.ProbeError, match=reason):
            probe.certify(model, "original", **options)
        return
    seen = probe.certify(model, "original", **options)
    assert math.isnan(seen.residual)
    assert not seen.passed
    assert seen.reason.startswith("not defined")
    assert reason in seen.reason


# ------------------------------------------------------------ what it leaves behind


def state(model):
    numbers = np.random.mtrand._rand.get_state()[1].tolist()  # those of the legacy functions
    return {
        "weights": {n: t.clone() for n, t in model.state_dict().items()},
        "tensors": [id(t) for t in (*model.parameters(), *model.buffers())],
        "modes": [m.training for m in model.modules()],
        "dtypes": [t.dtype for t in model.state_dict().values()],
        "gradients": [(p.requires_grad, p.grad) for p in model.parameters()],
        "hooks": sum(
            len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks)
            for m in model.modules()
        ),
        "random": (torch.get_rng_state(), numbers, random.getstate()),
        "enabled": torch.is_grad_enabled(),
    }


def same(a, b):
    equal = [torch.equal(a["weights"][n], b["weights"][n]) for n in a["weights"] | b["weights"]]
    rest = ("tensors", "modes", "dtypes", "gradients", "hooks", "enabled")
    assert all(equal)
    assert all(a[key] == b[key] for key in rest)
    assert torch.equal(a["random"][0], b["random"][0])
    assert a["random"][1:] == b["random"][1:]


class Copyless(nn.Sequential):
    """Refuses to be copied, so that it is measured as it is."""

    def __deepcopy__(self, memo):
        raise TypeError("no copies")


class Fragile(nn.Module):
    """Breaks when it has run so many times."""

    def __init__(self, runs):
        super().__init__()
        self.left = [runs]

    def forward(self, x):
        self.left[0] -= 1
        if self.left[0] < 0:
            raise RuntimeError("worn out")
        return x


@pytest.mark.parametrize("variant", ["circular", "original", "noise", "canvas", "valid"])
@pytest.mark.parametrize("kind", [nn.Sequential, Copyless])
def test_a_module_is_left_as_it_was(tiny, variant, kind):
    model = kind(OrderedDict(stages=tiny.stages))
    model.train()
    tiny.stages[1].eval()
    before = state(model)
    probe.certify(model, variant, layers=["stages.*"], image_size=96)
    same(before, state(model))


@pytest.mark.parametrize("runs", [1, 2, 3, 4, 6, 8, 10, 12, 14])
def test_a_module_is_left_as_it_was_after_an_exception(tiny, runs):
    model = Copyless(OrderedDict(stages=tiny.stages, fragile=Fragile(runs)))
    before = state(model)
    try:
        seen = probe.certify(model, "reflect", layers=["stages.2"], image_size=64)
    except (probe.ProbeError, RuntimeError):
        assert model.fragile.left[0] < 0
    else:
        assert not seen.passed
    same(before, state(model))


def test_what_can_not_be_copied_is_measured_in_float32(tiny):
    model = Copyless(OrderedDict(stages=tiny.stages)).eval()
    torus = probe.certify(model, layers=["stages.*"], image_size=64)
    assert torus.passed
    assert torus.precision == "float32"
    assert torus.residual <= torus.threshold == SINGLE_THRESHOLD == 1e-4
    assert not probe.certify(model, "original", layers=["stages.*"], image_size=64).passed


# ------------------------------------------------------------ larger and smaller maps


def headless(name):
    """Without the head, whose weights are most of VGG's."""
    model = seeded(lambda: timm.create_model(name, num_classes=0))
    if name == "vgg11":
        model.pre_logits = nn.Identity()
    expose_borders(model)
    return model


@pytest.mark.slow
def test_without_padding_a_plain_network_passes_on_images_large_enough():
    vgg = headless("vgg11")
    assert probe.certify(vgg, "valid", image_size=192).passed
    for size in (64, 128):
        with pytest.raises(probe.ProbeError, match="choose a larger image size"):
            probe.certify(vgg, "valid", image_size=size)


def test_without_padding_a_name_gets_images_large_enough():
    seen = probe.certify("test_resnet", "valid")
    assert seen.passed
    assert seen.image_size == (256, 256)
    assert seen.contrast > 1e-2
    with pytest.raises(probe.ProbeError, match="choose a larger image size"):
        probe.certify("test_resnet", "valid", image_size=64)


@pytest.mark.parametrize("name", ["vgg11", "resnet18"])
def test_out_of_reach_of_padding_a_canvas_touches_nothing(name):
    model = headless(name)
    seen = probe.certify(model, "canvas", image_size=64)
    assert seen.passed
    assert seen.contact == 0.0
    assert seen.margin > 32
    assert seen.residual <= THRESHOLD
    assert seen.sources == ()
    close = probe.certify(model, "canvas", image_size=64, margin=32)
    assert not close.passed
    assert close.contact > 0
    assert close.margin == 32
    assert "padding reaches the probed region" in close.reason


def test_padding_reaches_everywhere_through_gates_over_the_whole_map():
    """Squeeze and excitation averages over the map, borders included."""
    seen = probe.certify("mobilenetv3_small_100", "canvas", margin=64)
    assert 0 < seen.contact < math.inf
    assert not seen.passed
    assert "contact" in seen.reason


@pytest.mark.parametrize("variant", ["torus", "circular+reflect", "no_pos_embed+no_pos_embed"])
def test_unknown_variants_are_refused(variant):
    with pytest.raises(probe.ProbeError):
        probe.certify("resnet18", variant)


def test_unknown_networks_are_refused():
    with pytest.raises(probe.ProbeError, match="resnet18"):
        probe.certify("resnet_18")


def test_zeros_written_by_functional_padding_are_rewritten():
    """The opposite of the planted zeros: what torch itself pads is not missed."""

    class Functional(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(8, 8, 3, 3))

        def forward(self, x):
            return F.conv2d(F.pad(x, (1, 1, 1, 1)), self.weight)

    assert probe.certify(network(Functional), **NETWORK).passed


# ------------------------------------------------------------ every file of timm

SMALLEST = {
    "beit": "beit_base_patch16_224",
    "byoanet": "halonet_h1",
    "byobnet": "test_byobnet",
    "cait": "cait_xxs24_224",
    "coat": "coat_tiny",
    "convit": "convit_tiny",
    "convmixer": "convmixer_768_32",
    "convnext": "test_convnext",
    "cpubone": "cpubone_nano",
    "crossvit": "crossvit_tiny_240",
    "csatv2": "csatv2",
    "cspnet": "cs3darknet_focus_s",
    "cspnext": "cspnext_tiny",
    "davit": "davit_tiny",
    "deit": "deit_tiny_patch16_224",
    "densenet": "densenet121",
    "dla": "dla46x_c",
    "dpn": "dpn48b",
    "edgenext": "edgenext_xx_small",
    "efficientformer": "efficientformer_l1",
    "efficientformer_v2": "efficientformerv2_s0",
    "efficientnet": "test_efficientnet",
    "efficientvim": "efficientvim_m1",
    "efficientvit_mit": "efficientvit_b0",
    "efficientvit_msra": "efficientvit_m0",
    "eva": "vit_tiny_patch16_dinov3_qkvb",
    "fasternet": "fasternet_t0",
    "fastvit": "fastvit_t8",
    "focalnet": "focalnet_tiny_srf",
    "gcvit": "gcvit_xxtiny",
    "gemma4_vit": "gemma4_vit_167m",
    "ghostnet": "ghostnet_050",
    "hardcorenas": "hardcorenas_b",
    "hgnet": "hgnetv2_b0",
    "hiera": "hiera_tiny_224",
    "hieradet_sam2": "sam2_hiera_tiny",
    "hrnet": "hrnet_w18_small",
    "iformer": "iformer_t",
    "inception_next": "inception_next_atto",
    "inception_resnet_v2": "inception_resnet_v2",
    "inception_v3": "inception_v3",
    "inception_v4": "inception_v4",
    "lcnetv2": "lcnetv2_small",
    "levit": "levit_128s",
    "lowformer": "lowformer_b0",
    "mambaout": "test_mambaout",
    "maxxvit": "test_coatnet",
    "metaformer": "poolformerv2_s12",
    "mlp_mixer": "gmlp_ti16_224",
    "mobilenetv3": "mobilenetv3_small_050",
    "mobilenetv5": "mobilenetv5_base",
    "mobilevit": "mobilevit_xxs",
    "mvitv2": "mvitv2_tiny",
    "naflexvit": "naflexvit_base_patch16_parfac_gap",
    "nasnet": "nasnetalarge",
    "nest": "nest_tiny",
    "nextvit": "nextvit_small",
    "nfnet": "test_nfnet",
    "pit": "pit_ti_224",
    "pnasnet": "pnasnet5large",
    "pvt_v2": "pvt_v2_b0",
    "qwen3_vit": "qwen3_vit_88m",
    "rdnet": "rdnet_tiny",
    "regnet": "regnetx_002",
    "repghost": "repghostnet_050",
    "repvit": "repvit_m1",
    "res2net": "res2next50",
    "resnest": "resnest14d",
    "resnet": "test_resnet",
    "resnetv2": "resnetv2_18",
    "rexnet": "rexnet_100",
    "selecsls": "selecsls42",
    "senet": "legacy_seresnet18",
    "sequencer": "sequencer2d_s",
    "shvit": "shvit_s1",
    "sknet": "skresnet18",
    "starnet": "starnet_s050",
    "swiftformer": "swiftformer_xs",
    "swin_transformer": "swin_tiny_patch4_window7_224",
    "swin_transformer_v2": "swinv2_tiny_window8_256",
    "swin_transformer_v2_cr": "swinv2_cr_tiny_224",
    "tiny_vit": "tiny_vit_5m_224",
    "tnt": "tnt_s_legacy_patch16_224",
    "tresnet": "tresnet_m",
    "twins": "twins_svt_small",
    "vgg": "vgg11",
    "visformer": "visformer_tiny",
    "vision_transformer": "test_vit",
    "vision_transformer_hybrid": "vit_tiny_r_s16_p8_224",
    "vision_transformer_relpos": "test_vit_relpos",
    "vision_transformer_sam": "samvit_base_patch16_224",
    "vitamin": "vitamin_small_224",
    "volo": "volo_d1_224",
    "vovnet": "ese_vovnet19b_slim_dw",
    "xception": "legacy_xception",
    "xception_aligned": "xception41p",
    "xcit": "xcit_nano_12_p8_224",
}
"""The smallest architecture of each of timm's files but one, which has 412 M parameters."""


NAMES = sorted(SMALLEST.values())


QUICK = [
    *("convit_tiny", "edgenext_xx_small", "fasternet_t0", "ghostnet_050", "hgnetv2_b0"),
    *("levit_128s", "mobilenetv3_small_050", "mobilevit_xxs", "pit_ti_224", "test_byobnet"),
    *("test_coatnet", "test_convnext", "test_efficientnet", "test_resnet", "test_vit"),
    *("test_vit_relpos", "cs3darknet_focus_s", "regnetx_002"),
]


EVERY = pytest.param(NAMES, id="every", marks=pytest.mark.slow)


@pytest.fixture(scope="module", params=[pytest.param(QUICK, id="some"), EVERY])
def surveyed(request):
    return probe.survey(request.param, variants="circular", progress=False).set_index("model")


def test_every_file_of_timm_is_surveyed(surveyed):
    files = {name: file for file, name in SMALLEST.items() if name in surveyed.index}
    assert len(files) >= len(QUICK)
    assert dict(surveyed["file"]) == files
    assert (surveyed["status"] != "not run").all()
    assert (surveyed["precision"] == "float64").all()


def test_where_padding_is_the_only_source_known_an_architecture_is_certified(surveyed):
    pure = surveyed[surveyed["sources"] == ""]
    failed = pure[pure["status"] != "certified"]
    assert len(pure) > 0.4 * len(surveyed)
    assert len(failed) <= 0.02 * len(pure), failed["reason"].to_dict()
    passed = pure[pure["status"] == "certified"]
    assert (passed["residual"] <= passed["threshold"]).all()
    assert ((passed["contrast"] >= CONTRAST) | (passed["padded_calls"] == 0)).all()


def test_where_another_source_is_known_none_is_certified_and_each_says_why(surveyed):
    mixed = surveyed[surveyed["sources"] != ""]
    assert len(mixed) > 0.2 * len(surveyed)
    assert (mixed["reason"] != "").all()
    windowed = mixed["status"] == "certified"  # up to the place within a window, nothing else left
    assert mixed.loc[windowed, "sources"].str.contains("window partition").all()
    assert mixed.loc[windowed, "reason"].str.contains("up to its place within a window").all()
    mixed = mixed[~windowed]
    assert len(mixed) > 0.1 * len(surveyed)
    assert not (mixed["residual"] <= mixed["threshold"]).any()  # each does break
    for row in mixed.itertuples():
        assert any(kind in row.reason for kind in row.sources.split("; ")), row
