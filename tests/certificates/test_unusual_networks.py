"""Networks as people write them outside timm: what their sources are, and what removes them."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

import probe

SIZE = 64


class Patches(nn.Module):
    """Patches of 8 × 8 pixels, which know of no place, and what a subclass makes of them."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 8, 8)
        self.last = nn.Linear(width, width)


class SequenceFirst(Patches):
    """Tokens (L, B, C), as torch's own transformers have them, with an embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.pos = nn.Parameter(torch.randn(64, 1, 24))

    def forward(self, x):
        return self.last(self.patches(x).flatten(2).permute(2, 0, 1) + self.pos)


class Square(Patches):
    """As many channels as rows and columns, in maps (B, H, W, C), with an embedding of rows."""

    def __init__(self) -> None:
        super().__init__(8)
        self.rows = nn.Embedding(8, 8)

    def forward(self, x):
        y = self.patches(x).permute(0, 2, 3, 1)
        return self.last(y + self.rows(torch.arange(8))[None, :, None])


class Causal(Patches):
    """Each token sees those before it."""

    def forward(self, x):
        y = self.patches(x).flatten(2).transpose(1, 2)
        return self.last(F.scaled_dot_product_attention(y, y, y, is_causal=True))


class Fourier(Patches):
    """A product in the frequencies of a map is a convolution on the torus."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(24, 8, 5, dtype=torch.cfloat))

    def forward(self, x):
        y = torch.fft.rfft2(self.patches(x), norm="ortho")
        return torch.fft.irfft2(y * self.weight, s=(8, 8), norm="ortho")


class Volume(Patches):
    """Channels as the depth of a volume, padded on all sides."""

    def __init__(self) -> None:
        super().__init__()
        self.volume = nn.Conv3d(1, 2, 3, padding=1)

    def forward(self, x):
        return self.volume(self.patches(x).unsqueeze(1)).flatten(1, 2)


class SameVolume(Volume):
    def __init__(self) -> None:
        super().__init__()
        self.volume = nn.Conv3d(1, 2, (2, 3, 4), padding="same")


class Depth(Patches):
    """A number for each place, without an axis of channels."""

    def forward(self, x):
        return self.patches(x).square().sum(1)


class Classes(Patches):
    """The number of a class for each place."""

    def forward(self, x):
        return self.patches(x).argmax(1)


class InPlace(Patches):
    """Writes into its input."""

    def forward(self, x):
        return self.patches(x.mul_(2).add_(1))


class Asking(Patches):
    """Asks where a condition holds, as detectors do, and makes nothing of it."""

    def forward(self, x):
        y = self.patches(x)
        torch.where(y > 0)
        return y


@pytest.mark.parametrize(
    ("network", "kinds", "variant"),
    [
        (SequenceFirst, {"position embedding"}, "no_pos_embed"),
        (Square, {"position embedding"}, "no_pos_embed"),
        (Causal, {"attention mask"}, "no_mask"),
        (Fourier, set(), "circular"),
        (Volume, {"padding"}, "circular"),
        (SameVolume, {"padding"}, "circular"),
        (Depth, set(), "circular"),
        (Classes, set(), "circular"),
        (InPlace, set(), "circular"),
        (Asking, set(), "circular"),
    ],
)
def test_sources_are_named_and_removed(network, kinds, variant):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = network()
    assert set(probe.sources(model, image_size=SIZE)["kind"]) == kinds
    assert probe.certify(model, variant, image_size=SIZE).passed
    as_it_is = probe.certify(model, "original", image_size=SIZE)
    assert as_it_is.passed == (not kinds)
    assert {source.partition(":")[0] for source in as_it_is.sources} == kinds


class Sampled(Patches):
    """Sampled at places given by their coordinates."""

    def forward(self, x):
        y = self.patches(x)
        theta = 0.9 * torch.eye(2, 3, dtype=y.dtype).expand(len(y), 2, 3)
        return F.grid_sample(y, F.affine_grid(theta, y.shape, align_corners=False))


class Deformed(Patches):
    def __init__(self) -> None:
        super().__init__()
        self.offsets = nn.Conv2d(24, 18, 1)
        self.deformed = torchvision.ops.DeformConv2d(24, 24, 3, padding=1)

    def forward(self, x):
        y = self.patches(x)
        return self.deformed(y, self.offsets(y))


@pytest.mark.filterwarnings("ignore:Default grid_sample")
@pytest.mark.parametrize("network", [Sampled, Deformed])
def test_sampling_is_named_and_stays(network):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        certificate = probe.certify(network(), "circular", image_size=SIZE)
    assert not certificate.passed
    assert "resampling" in certificate.reason


def test_a_map_of_no_channels_is_read_and_not_erased():
    class Named(Patches):
        def __init__(self) -> None:
            super().__init__()
            self.depth = Depth()

        def forward(self, x):
            return self.depth(x)

    table = probe.layers(Named(), image_size=SIZE).set_index("name")
    assert table.loc["depth", ["layout", "channels", "height", "width"]].tolist() == [
        "NHW",
        1,
        8,
        8,
    ]
    options = {"image_size": SIZE, "train_images": 8, "batch_size": 4, "progress": False}
    result = probe.run(Named(), layers=["depth"], test_images=8, **options)
    assert set(result.table["layer"]) == {"input", "depth"}
    with pytest.raises(probe.ProbeError, match="one channel without an axis"):
        probe.erase(Named(), ["depth"], **options)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (lambda: nn.Sequential(nn.LazyConv2d(8, 3), nn.ReLU()), "no shape yet"),
        (lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()).to("meta"), "meta device"),
    ],
)
def test_weights_that_hold_no_numbers_are_refused(module, message):
    with pytest.raises(probe.ProbeError, match=message):
        probe.run(module(), image_size=SIZE, progress=False)


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_a_whole_network_in_torchscript_is_said_to_be_out_of_sight():
    traced = torch.jit.trace(Depth().eval(), torch.zeros(1, 3, SIZE, SIZE))
    with pytest.raises(probe.ProbeError, match="hooks can't see"):
        probe.run(traced, image_size=SIZE, progress=False)
