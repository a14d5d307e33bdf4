"""Consistency under shifts below the stride: exact where it must be, and where aliasing starts."""

import pytest
import torch
from torch import nn

import probe
from probe.analyses.consistency import load_consistency
from probe.errors import ProbeError

K = {"image_size": 32, "images": 4, "batch_size": 4, "progress": False, "device": "cpu"}


class Polyphase(nn.Module):
    """Adaptive polyphase sampling: of the four grids of every second place the largest."""

    def forward(self, x):
        grids = torch.stack([x[:, :, i::2, j::2] for i in (0, 1) for j in (0, 1)])
        largest = grids.flatten(2).norm(dim=2).argmax(0)
        return grids[largest, torch.arange(len(x))]


class Plain(nn.Module):
    def forward(self, x):
        return x[:, :, ::2, ::2]


class LowPass(nn.Module):
    """Only the frequencies that every second place can carry."""

    def forward(self, x):
        spectrum = torch.fft.fft2(x)
        rows, columns = (torch.fft.fftfreq(n).abs() < 0.25 for n in x.shape[2:])
        return torch.fft.ifft2(spectrum * (rows[:, None] & columns)).real


def network(*sampling):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        convolutions = [nn.Conv2d(c, 6, 3, padding=1) for c in (3, 6)]
    parts = zip(convolutions, sampling, strict=True)
    return nn.Sequential(*[nn.Sequential(c, nn.ReLU(), s) for c, s in parts])


def worst(model):
    found = probe.consistency(model, layers=["0", "1"], shifts=[1, 2, 3, 4], **K)
    residuals = found.table[found.table["metric"] == "residual"]
    return residuals.pivot(index="layer", columns="shift", values="value"), found


def test_adaptive_polyphase_sampling_is_exactly_consistent():
    table, found = worst(network(Polyphase(), Polyphase()))
    assert table.to_numpy().max() < 1e-5
    assert "follows shifts of 1 to 4 pixels" in found.summary()[0]


def test_plain_sampling_follows_whole_strides_alone():
    table, found = worst(network(Plain(), Plain()))
    assert (table.loc["0", [2, 4]] < 1e-5).all() and table.loc["1", 4] < 1e-5
    assert (table.loc["0", [1, 3]] > 0.05).all() and (table.loc["1", [1, 2, 3]] > 0.05).all()
    assert "stop following the image at 0" in found.summary()[0]


def test_maps_without_aliasing_follow_fractions_of_a_stride():
    aliased, _ = worst(network(Plain(), nn.Identity()))
    smooth, _ = worst(network(nn.Sequential(LowPass(), Plain()), nn.Identity()))
    assert smooth.loc["0"].max() < 1e-5 < 0.05 < aliased.loc["0"].max()


def test_a_network_with_a_head_keeps_its_class_under_whole_strides(tmp_path):
    found = probe.consistency("test_resnet", "random", **K | {"image_size": 64}, shifts=[5, 32])
    ends = found.table.query("metric != 'residual'").set_index(["metric", "shift"])["value"]
    assert ends["agreement", 32] == 1 and ends["cosine", 32] == pytest.approx(1)
    assert ends["cosine", 5] < 1
    found.save(tmp_path)
    again = load_consistency(tmp_path)
    assert again.summary() == found.summary()
    assert len(found.plot().axes) == 2


def test_what_can_not_be_measured_is_said():
    with pytest.raises(ProbeError, match="stride of 1"):
        probe.consistency(nn.Sequential(nn.Conv2d(3, 4, 3, padding=1)), layers=["0"], **K)
    with pytest.raises(ProbeError, match="below the image's 32"):
        probe.consistency("test_resnet", "random", shifts=[40], **K)
    with pytest.raises(ProbeError, match="expected one, got"):
        probe.consistency("test_resnet", "random", variants=["circular", "original"], **K)


def test_chance_is_not_taken_for_a_shift():
    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 4, 3, 2, 1)

        def forward(self, x):
            return self.last(nn.functional.dropout(self.first(x), 0.2, True))

    with pytest.raises(probe.ProbeError, match=r"not deterministic in eval mode.* from last on"):
        probe.consistency(Noisy(), layers="convs", image_size=32, progress=False)
