"""Attribution to kinds of sources: planted ones of known strength are told apart."""

import pytest
import torch
from torch import nn

import probe
from probe.errors import ProbeError

K = {"image_size": 32, "train_images": 24, "test_images": 16, "batch_size": 8, "progress": False}


class TwoSources(nn.Module):
    """A learned embedding rises from top to bottom, a factor from left to right."""

    def __init__(self, embedding: float = 1.0, factor: float = 1.0) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 4, 4)
        ramp = torch.linspace(-1, 1, 8)
        self.pos_embed = nn.Parameter(embedding * ramp[:, None] * torch.ones(1, 8, 8, 8))
        self.factor = factor
        self.body = nn.Sequential(nn.Conv2d(16, 16, 1), nn.Tanh())

    def forward(self, x):
        x = self.stem(x)
        columns = 1 + self.factor * torch.linspace(-1, 1, 8)
        return self.body(torch.cat([x + self.pos_embed, (1 + x) * columns], 1))


def planted(embedding: float = 1.0, factor: float = 1.0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return TwoSources(embedding, factor)


def test_two_planted_sources_are_told_apart():
    found = probe.attribute(
        planted(0.4, 0.25), "body", ["vertical", "horizontal"], groups="sources", **K
    )
    table = found.table[found.table["metric"] == "spc"]
    kinds = list(table.loc[table["kind"] == "source", "unit"].unique())
    assert kinds[0] == "position embedding" and len(kinds) == 2
    scores = table.set_index(["target", "unit", "keeps"])
    for target, source, other in (("vertical", *kinds), ("horizontal", *kinds[::-1])):
        whole = scores.loc[(target, "original", "all")]
        none = scores.loc[(target, "no_position", "none")]
        alone = scores.loc[(target, source, "only")]
        without = scores.loc[(target, source, "all but")]
        assert whole["value"] > 0.5 and none["low"] <= 0.1
        assert abs(alone["value"] - whole["value"]) < 0.02
        assert abs(without["value"] - none["value"]) < 0.02
        assert scores.loc[(target, other, "only"), "effect_low"] < 0.05
    assert any("1 of 2 sources is enough alone" in sentence for sentence in found.summary())
    figure = found.plot()
    assert len(figure.axes) == 2 and figure.axes[0].get_ylabel() == "sources"


@pytest.mark.parametrize("embedding, factor", [(0.4, 0.0), (0.0, 0.25)])
def test_what_one_source_gives_is_what_a_network_with_it_alone_has(embedding, factor):
    """The truth: the same weights, built with one of the sources at 0."""
    target = "vertical" if embedding else "horizontal"
    found = probe.attribute(planted(0.4, 0.25), "body", target, groups="sources", **K)
    truth = probe.run(planted(embedding, factor), layers=["body"], targets=target, **K)
    table = truth.table
    score = table[(table["metric"] == "spc") & (table["layer"] == "body")].iloc[0]["value"]
    rows = found.table[(found.table["metric"] == "spc") & (found.table["keeps"] == "only")]
    row = rows.iloc[0 if embedding else 1]
    assert row["low"] <= score <= row["high"]


def test_a_network_of_embeddings_alone_has_all_from_them():
    found = probe.attribute(
        "test_vit",
        "blocks.2",
        "vertical",
        weights="random",
        groups="sources",
        **K | {"image_size": 160},
    )
    assert found.provenance["cost"] == {"conditions": 2}
    assert found.summary()[-1] == "The whole difference comes from position embedding."


def test_a_network_without_sources_is_refused():
    model = nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.ReLU())
    with pytest.raises(ProbeError, match="no source of position that can be taken away"):
        probe.attribute(model, "1", groups="sources", **K)
