"""Erasers of a network's layers: gathered in one pass, applied inside it, built in."""

from __future__ import annotations

import copy
import io

import numpy as np
import pytest
import timm
import torch
from torch import nn

import probe
from probe.backbones.backbone import fingerprint
from probe.erasers import gather
from probe.erasers.erase import shifted_batch
from probe.readouts import Ridge
from probe.scores.metrics import spearman
from probe.stimuli.leaves import Leaves
from probe.targets import layer_targets

SMALL = {"image_size": 64, "progress": False, "batch_size": 64}


@pytest.fixture(scope="module")
def network():
    from conftest import Tiny

    torch.manual_seed(0)
    return Tiny().eval()


@pytest.fixture(scope="module")
def gathered(network):
    return gather(network, ["stages.1", "stages.2"], train_images=512, **SMALL)


def features_of(model, layer, x):
    seen = {}
    handle = model.get_submodule(layer).register_forward_hook(lambda m, i, o: seen.update(o=o))
    with torch.no_grad():
        model(x)
    handle.remove()
    return seen["o"]


def spc(model, layer, maps=lambda x: x):
    """SPC of each target on leaves that no eraser has seen."""
    source = Leaves((64, 64), 5)
    train, test = (
        maps(features_of(model, layer, source.batch(split, 0, n)))
        for split, n in (("train", 192), ("test", 128))
    )
    height, width = train.shape[2:]
    truth = layer_targets(list(probe.TARGETS), (height, width), np.eye(height), np.eye(width))
    predicted = Ridge().fit(train, truth).predict(test).flatten(2).numpy()
    return np.array([spearman(predicted[:, t], truth[t].ravel()).mean() for t in range(5)])


@pytest.mark.parametrize("how", ["mean", "project"])
def test_position_is_gone_on_fresh_leaves(network, gathered, how):
    layer = "stages.2"
    eraser = gathered.eraser(layer, how)
    before, after = spc(network, layer), spc(eraser.attach(network), layer)
    assert before[:3].min() > 0.25
    assert np.abs(after).max() <= 0.05
    assert (0 < eraser.record["share"] < 0.5) and eraser.record["chance"] < 1e-4
    assert eraser.record["layer"] == layer and eraser.record["model"] == "Tiny"


def test_a_network_without_position_is_left_alone(network):
    with probe.padding("circular"):
        eraser = probe.erase(network, ["stages.2"], how="mean", train_images=64, **SMALL)
        x = torch.rand(2, 3, 64, 64)
        erased = eraser["stages.2"].attach(network)
        assert torch.equal(erased(x), network(x))
    assert "no position was found" in eraser["stages.2"].summary()


def test_later_layers_see_cleaned_features(network, gathered):
    x = torch.rand(3, 3, 64, 64)
    eraser = gathered.eraser("stages.1", "project")
    state, plain = fingerprint(network), network(x)
    wanted = network.stages[2](eraser(network.stages[1](network.stages[0](x))))
    seen = {}
    network.stages[2].register_forward_hook(lambda m, i, o: seen.update(o=o))
    with probe.erasing(network, {"stages.1": eraser}):
        network(x)
    assert torch.equal(seen["o"], wanted)
    with pytest.raises(RuntimeError), probe.erasing(network, {"stages.1": eraser}):
        raise RuntimeError
    assert torch.equal(network(x), plain) and fingerprint(network) == state
    network.stages[2]._forward_hooks.clear()
    built = eraser.attach(network)
    assert torch.equal(built.stages[2](built.stages[1](built.stages[0](x))), wanted)
    assert torch.equal(network(x), plain) and fingerprint(network) == state


def test_an_attached_eraser_is_saved_copied_and_compiled(gathered, network):
    x = torch.rand(2, 3, 64, 64)
    for layer in ("stages.2", "stages.2.0"):  # a Sequential, and a convolution
        eraser = gathered.eraser("stages.2", "project")
        built = eraser.attach(network, layer)
        wanted = built(x)
        assert not torch.allclose(wanted, network(x))
        file = io.BytesIO()
        torch.save(built, file)
        file.seek(0)
        assert torch.equal(torch.load(file, weights_only=False)(x), wanted)
        assert torch.equal(copy.deepcopy(built)(x), wanted)
        assert f"{layer}.eraser.left" in built.state_dict()
        twice = eraser.attach(built, layer)
        assert f"{layer}.eraser_2.left" in twice.state_dict()


class Tuples(nn.Module):
    """Returns its map among other things."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Module()
        self.inner.forward = lambda x: {"aux": x.mean(), "map": (x, x + 1)}

    def forward(self, x):
        return self.inner(x)


def test_the_fitting_tensor_among_several_is_replaced(gathered):
    eraser = gathered.eraser("stages.2", "project")
    x = torch.rand(2, 16, 8, 8)
    model = Tuples()
    with probe.erasing(model, {"inner": eraser}):
        out = model(x)
    assert torch.equal(out["map"][0], eraser(x)) and torch.equal(out["map"][1], x + 1)
    assert out["aux"] == x.mean()


def test_a_transformer_keeps_its_prefix_tokens():
    size = {"img_size": 64, "depth": 2, "embed_dim": 24, "num_heads": 2, "num_classes": 0}
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        model = timm.create_model("vit_tiny_patch16_224", **size).eval()
        nn.init.normal_(model.pos_embed, std=0.5)
    erasers = {
        how: probe.erase(model, ["blocks.1"], how=how, train_images=1024, **SMALL)["blocks.1"]
        for how in ("mean", "project")
    }
    x = torch.rand(2, 3, 64, 64)

    def laid_out(tokens):
        return tokens[:, 1:].transpose(1, 2).unflatten(2, (4, 4))

    assert spc(model, "blocks.1", laid_out)[:3].min() > 0.9
    for how, eraser in erasers.items():
        assert (eraser.layout, eraser.prefix) == ("NLC", 1)
        seen = model.blocks(model._pos_embed(model.patch_embed(x)))
        with probe.erasing(model, {"blocks.1": eraser}):
            cleaned = model.blocks(model._pos_embed(model.patch_embed(x)))
        assert torch.equal(cleaned[:, :1], seen[:, :1])
        assert not torch.allclose(cleaned[:, 1:], seen[:, 1:], atol=1e-3)
        # On 16 places ranks move by chance; the share of variance that is read does not.
        images = {"train_images": 256, "test_images": 64, **SMALL}
        clean = eraser.attach(model)
        run = probe.run(clean, layers=["blocks.1"], variants="original", **images)
        left = run.table.query("layer == 'blocks.1' and metric == 'r2'")["value"]
        assert len(left) == 5 and left.abs().max() <= 0.01, how
        maps = seen[:, 1:].transpose(1, 2).reshape(2, 24, 4, 4)
        assert torch.allclose(eraser(maps).flatten(2).transpose(1, 2), cleaned[:, 1:], atol=1e-5)


def test_shifted_images_are_each_scene_at_two_shifts():
    source = Leaves((64, 64), 0)
    images, scenes = shifted_batch(source, 0, 8, 64, 8)
    assert scenes.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert torch.equal(images[5], torch.roll(images[4], (32, 32), (1, 2)))
    part, _ = shifted_batch(source, 3, 7, 64, 8)
    assert torch.equal(part, images[3:7])
    few, scenes = shifted_batch(source, 0, 4, 31, 8)
    assert torch.equal(few, source.batch("train", 0, 4)) and scenes.tolist() == [0, 1, 2, 3]


def test_a_result_opens_its_run_again(network):
    result = probe.run(
        network, layers=["stages.2"], variants="original", train_images=16, test_images=8, **SMALL
    )
    with pytest.raises(probe.ProbeError, match="model: the run was given one from Python"):
        result.erase("stages.2")
    eraser = result.erase("stages.2", "mean", model=network, train_images=64)
    direct = probe.erase(network, ["stages.2"], how="mean", train_images=64, **SMALL)["stages.2"]
    assert torch.equal(eraser.offset, direct.offset)
    with pytest.raises(probe.ProbeError, match=r"stages\.9"):
        result.erase("stages.9", model=network)


def test_what_cannot_be_is_said(network, gathered):
    with pytest.raises(probe.ProbeError, match="how"):
        probe.erase(network, how="meen")
    eraser = gathered.eraser("stages.1", "constant", rank=2)
    assert eraser.record["rank"] == 2 and eraser.how == "constant"
    with pytest.raises(probe.ProbeError, match="layer"):
        eraser.attach(network, "stages.7")
    with pytest.raises(probe.ProbeError, match="one call of a module"):
        eraser.attach(network, "stages.1:0")
    with pytest.raises(probe.ProbeError, match="after which it stands"):
        probe.PositionEraser("mean").fit(np.zeros((4, 3, 2, 2)) + 1).eraser_.attach(network)
