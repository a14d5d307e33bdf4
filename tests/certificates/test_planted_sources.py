"""Sources of each kind, planted: none passes while it is there, all pass once taken away."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from torch import nn

import probe
from probe.variants.kinds import MASK, PADDING, RELATIVE, ROTARY

SIDE, HEADS, WIDTH = 8, 2, 4


def behind_the_curtain(work):
    """Do work that no mode of torch sees."""
    with torch._C.DisableTorchFunction():
        return work()


def offsets():
    """Number of the offset between each two places of the map, shape (L, L)."""
    at = torch.stack(torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij"))
    apart = at.flatten(1)[:, :, None] - at.flatten(1)[:, None] + SIDE - 1
    return apart[0] * (2 * SIDE - 1) + apart[1]


class Attention(nn.Module):
    """Patches of 8 × 8 pixels, and attention that knows of places in one way."""

    def __init__(self, planted, hidden):
        super().__init__()
        self.planted, self.hidden = planted, hidden
        self.embed = nn.Conv2d(3, HEADS * WIDTH, 8, 8)
        self.qkv = nn.Linear(HEADS * WIDTH, 3 * HEADS * WIDTH)
        self.out = nn.Conv2d(HEADS * WIDTH, 8, 1)
        table = torch.zeros(HEADS, (2 * SIDE - 1) ** 2)
        table[1, 3 * (2 * SIDE - 1) + 9] = 1.0  # one entry of one head
        self.register_buffer("rel_table", table)
        self.register_buffer("rel_rows", torch.randn(2 * SIDE - 1, WIDTH))
        turns = torch.arange(SIDE**2)[:, None] * torch.tensor([1.0, 0.1]).repeat(2)
        self.register_buffer("rope_cos", turns.cos())
        self.register_buffer("rope_sin", turns.sin())
        mask = torch.zeros(4, 16, 16)
        mask[-1, :8, 8:] = mask[-1, 8:, :8] = -100.0  # of the last window alone
        self.register_buffer("attn_mask", mask)
        with torch.no_grad():
            self.qkv.weight.mul_(4)

    def add(self, x, c):
        return behind_the_curtain(lambda: x + c) if self.hidden else x + c

    def forward(self, x):
        x = self.embed(x)
        b, c, h, w = x.shape
        if self.planted == "mask":
            x = x.permute(0, 2, 3, 1).reshape(b, h // 4, 4, w // 4, 4, c)
            tokens = x.permute(0, 1, 3, 2, 4, 5).reshape(-1, 16, c)
        else:
            tokens = x.flatten(2).transpose(1, 2)
        n, length = tokens.shape[:2]
        q, k, v = self.qkv(tokens).reshape(n, length, 3, HEADS, WIDTH).permute(2, 0, 3, 1, 4)
        if self.planted == "rope":
            q, k = (torch.cat([self.rotate(t[:, :1]), t[:, 1:]], 1) for t in (q, k))
        logits = q @ k.transpose(-2, -1)
        if self.planted == "table":
            logits = self.add(logits, self.rel_table[:, offsets()])
        if self.planted == "product":
            rows = torch.arange(SIDE**2) // SIDE
            table = self.rel_rows[rows[:, None] - rows[None] + SIDE - 1]  # (L, L, C)
            product = partial(torch.einsum, "bhlc,lmc->bhlm", q, table)
            logits = logits + (behind_the_curtain(product) if self.hidden else product())
        if self.planted == "mask":
            logits = logits.reshape(b, 4, HEADS, 16, 16)
            logits = self.add(logits, self.attn_mask[None, :, None]).reshape(-1, HEADS, 16, 16)
        tokens = (logits.softmax(-1) @ v).transpose(1, 2).reshape(n, length, c)
        if self.planted == "mask":
            x = tokens.reshape(b, h // 4, w // 4, 4, 4, c).permute(0, 1, 3, 2, 4, 5)
            return self.out(x.reshape(b, h, w, c).permute(0, 3, 1, 2))
        return self.out(tokens.transpose(1, 2).reshape(b, c, h, w))

    def rotate(self, t):
        def work():
            turned = torch.cat([-t[..., 2:], t[..., :2]], -1)
            return t * self.rope_cos + turned * self.rope_sin

        return behind_the_curtain(work) if self.hidden else work()


def certified(planted, variant, hidden=False):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = Attention(planted, hidden).double().eval()
    return probe.certify(net, variant, layers=["embed", "out"], image_size=64, device="cpu")


@pytest.mark.parametrize(
    ("planted", "kind"),
    [("table", RELATIVE), ("rope", ROTARY), ("product", RELATIVE), ("mask", MASK)],
)
def test_each_kind_fails_until_it_is_taken_away(planted, kind):
    kept = certified(planted, "circular")
    assert not kept.passed
    assert kept.residual > 1e-4
    assert kept.first_break == "out"
    assert {source.partition(":")[0] for source in kept.sources} == {kind}
    assert kind in kept.reason
    gone = certified(planted, "no_position")
    assert gone.passed
    assert gone.residual < 1e-13
    assert gone.sources == ()


@pytest.mark.parametrize("planted", ["table", "rope", "product", "mask"])
def test_what_no_removal_sees_is_measured_and_fails(planted):
    found = certified(planted, "no_position", hidden=True)
    assert not found.passed
    assert found.residual > 1e-4
    assert math.isfinite(found.residual)


def test_nothing_planted_passes_as_it_is():
    assert certified("nothing", "circular").passed


class OnePaddedCall(nn.Module):
    """Seven padded calls, of which one can't be seen."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Conv2d(3, 4, 8, 8)
        self.conv = nn.Conv2d(4, 4, 3, 1, 1)
        self.bare = nn.Conv2d(4, 4, 3, 1, 1)

    def forward(self, x):
        x = self.embed(x)
        for _ in range(6):
            x = self.conv(x).tanh()
        return behind_the_curtain(partial(self.bare, x))


@pytest.mark.parametrize("variant", ["circular", "no_position"])
def test_padding_hidden_in_one_call_fails(variant):
    net = OnePaddedCall().eval()
    found = probe.certify(net, variant, layers=["embed", "conv:5"], image_size=64, device="cpu")
    assert not found.passed
    assert max(found.layers["embed"], found.layers["conv:5"]) < 1e-13
    assert found.layers["output"] > 1e-4
    assert PADDING not in found.reason


class Branch(nn.Module):
    """Adds to a map what a hidden function makes of it, times a parameter."""

    def __init__(self, planted):
        super().__init__()
        self.embed = nn.Conv2d(3, 4, 8, 8)
        self.gamma = nn.Parameter(torch.ones(4, 1, 1))
        self.planted = planted

    def forward(self, x):
        x = self.embed(x)
        steps = torch.arange(x.shape[-1], dtype=x.dtype) if self.planted else 1.0
        return x + self.gamma * behind_the_curtain(lambda: x * steps)


@pytest.mark.parametrize("planted", [False, True])
def test_a_hidden_branch_is_not_averaged_away_as_a_constant_of_its_scale(planted):
    torch.manual_seed(0)
    seen = probe.certify(Branch(planted), "no_position", layers=["embed"], image_size=64)
    if planted:
        assert not seen.passed
        assert seen.residual > 0.1
    else:
        assert 0 <= seen.residual <= 1e-8


class Embedded(nn.Module):
    def __init__(self, scale):
        super().__init__()
        self.embed = nn.Conv2d(3, 4, 8, 8)
        self.pos_embed = nn.Parameter(scale * torch.randn(1, 4, 8, 8))

    def forward(self, x):
        return self.embed(x) + self.pos_embed


@pytest.mark.parametrize(("scale", "shows"), [(1.0, True), (1e-6, False)])
def test_where_nothing_pads_sources_that_weights_hide_prove_nothing(scale, shows):
    torch.manual_seed(0)
    seen = probe.certify(Embedded(scale), "no_position", layers=["embed"], image_size=64)
    assert seen.residual <= 1e-8
    assert seen.passed == shows
    assert shows or "inconclusive: with its own sources of position" in seen.reason
