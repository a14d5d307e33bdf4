"""Whether a change leaves every number the same: results of many small analyses against kept ones.

``python benchmarks/same_bits.py`` runs the cases and compares them with ``same_bits.json`` beside
this file; ``--write FILE`` keeps them in a file. On the machine and with the versions that wrote
the file, digests of all bits have to agree. Elsewhere rounding differs, and summaries of each table
and array (sum, least, greatest) have to agree to 1e-3.

To compare two commits, run both from a worktree of their own with ``PYTHONPATH`` set to it: write
with one, compare with the other.
"""

from __future__ import annotations

import argparse
import fnmatch
import hashlib
import json
import platform
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import timm
import torch
from PIL import Image
from torch import nn

import probe

KEPT = Path(__file__).with_name("same_bits.json")
LITE, RESNET, VIT = "tf_efficientnet_lite0", "resnet10t", "vit_tiny_patch16_224"
SMALL: dict[str, Any] = {
    "train_images": 12,
    "test_images": 32,
    "targets": ["horizontal", "vertical", "gaussian"],
    "image_size": 64,
    "batch_size": 5,
    "device": "cpu",
    "progress": False,
}
TOLERANCE = 1e-3
CHANGED = {
    "*: verdict": "says of how many scores the best was picked, with intervals that allow for it",
    "* summary": "groups have other names",
    "ladder: table: rung": "the rung of the network's own padding is called as trained",
    "ladder: summary": "the rung of the network's own padding is called as trained",
    "run: vit: *padding_share*": "where nothing pads there is no share of padding",
    "reproduce: *": "follows the authors' code: stripes, normalisation, resizing, upsampling",
    "*: simultaneous_*": "new columns",
    "*: share": "new column",
    "*: share_*": "new columns",
    "certify: sources of *: consumed": "new column",
    "certify: sources of *: even": "new column",
    "run: resnet, canvas: *": "a canvas is run in smaller batches, so that sums round otherwise",
    "run: vit: *certificate *": "tokens that stand for no place are compared by themselves",
    "certify: vit_tiny_patch16_224 no_pos_embed": "tokens of no place are compared by themselves",
}
"""What is not the same any more, by patterns of case and part, and why.

Not in any case: targets with stripes, which are the authors' own now; random weights by name of
networks whose residual branches timm closes, which are opened; intervals of fewer than 8 scenes,
which end where their metric does; random draws beside other weights on a torus, which are not run
where their certificates pass.
"""
Case = Callable[[Path], Iterator[tuple[str, Any]]]
CASES: dict[str, Case] = {}


def case(name: str) -> Callable[[Case], Case]:
    """Add a case, a function that yields named tables, arrays and values."""

    def add(function: Case) -> Case:
        CASES[name] = function
        return function

    return add


def result_parts(result: Any) -> Iterator[tuple[str, Any]]:
    """Everything that a result holds."""
    yield "table", result.table
    yield "profile", result.profile
    yield "channels", result.channels
    yield "differences", result.differences
    for key, values in result.maps.items():
        yield f"map {'/'.join(key)}", values
    for key, pattern in result.pattern.items():
        yield f"pattern {'/'.join(key)}", pattern.mean
        yield f"snr {'/'.join(key)}", np.array([pattern.snr])
    for key, certificate in result.certificates.items():
        yield f"certificate {'/'.join(key)}", certificate_parts(certificate)


def certificate_parts(certificate: Any) -> np.ndarray:
    """The numbers of a certificate."""
    residuals = list(certificate.layers.values())
    return np.array([certificate.residual, certificate.contrast, *certificate.shift, *residuals])


def photographs(folder: Path) -> Path:
    """A folder of pictures that are the same every time."""
    draw = np.random.default_rng(7)
    for index in range(6):
        rough = draw.integers(0, 256, (12, 15, 3), dtype=np.uint8)
        Image.fromarray(rough).resize((300, 240), Image.Resampling.BICUBIC).save(
            folder / f"{index}.png"
        )
    return folder


def resnet() -> nn.Module:
    """A ResNet with random weights, all of its branches open."""
    with torch.random.fork_rng():
        torch.manual_seed(11)
        return timm.create_model(RESNET, zero_init_last=False).eval()


def module() -> nn.Module:
    """A small network of one's own."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 12, 3, 2, 1), nn.ReLU()
        )


RUNS: dict[str, tuple[str, dict[str, Any]]] = {
    "lite0": (LITE, {"weights": "pretrained", "layers": ["blocks.1", "blocks.3"]}),
    "lite0, random": (LITE, {"weights": "random", "layers": ["blocks.1", "blocks.3"]}),
    "lite0, rules": (
        LITE,
        {
            "weights": "pretrained",
            "layers": ["blocks.1", "blocks.2"],
            "variants": ["original", "reflect", "replicate", "mean", "noise", "partial", "zeros"],
        },
    ),
    "resnet": (RESNET, {"layers": "blocks"}),
    "resnet, canvas": (
        RESNET,
        {"layers": "layer1", "variants": ["original", "canvas"], "margin": 96},
    ),
    "resnet, valid": (
        RESNET,
        {
            "layers": ["layer1", "layer2"],
            "variants": ["original", "valid"],
            "image_size": 256,
        },
    ),
    "vit": (
        VIT,
        {
            "weights": "random",
            "layers": ["blocks.0", "blocks.5"],
            "variants": ["original", "no_pos_embed", "circular+shuffled_pos_embed"],
        },
    ),
    "kernel 3": (LITE, {"weights": "pretrained", "layers": ["blocks.1"], "kernel": 3}),
    "concat": (
        LITE,
        {"weights": "pretrained", "layers": ["blocks.1", "blocks.2"], "concat": True},
    ),
    "softmax": (LITE, {"weights": "pretrained", "layers": ["blocks.2"], "readout": "softmax"}),
    "posenet": (LITE, {"weights": "pretrained", "layers": ["blocks.2"], "readout": "posenet"}),
    "noise": (RESNET, {"layers": ["layer2"], "stimuli": "noise"}),
    "pink": (RESNET, {"layers": ["layer2"], "stimuli": "pink"}),
}


def run_case(name: str) -> Case:
    model, options = RUNS[name]

    def measured(folder: Path) -> Iterator[tuple[str, Any]]:
        given = {"name": RESNET} if model == RESNET else {}
        result = probe.run(resnet() if given else model, **{**SMALL, **options, **given})
        yield from result_parts(result)
        result.save(folder / "saved")
        for part, value in result_parts(probe.load(folder / "saved")):
            if "pattern" not in part:
                yield f"loaded {part}", value
        yield "verdict", result.verdict()

    return measured


for _name in RUNS:
    CASES[f"run: {_name}"] = run_case(_name)


@case("run: photographs")
def _photographs(folder: Path) -> Iterator[tuple[str, Any]]:
    options = {**SMALL, "layers": ["layer2"], "variants": ["original", "circular"]}
    yield from result_parts(probe.run(resnet(), stimuli=photographs(folder), **options))


@case("run: module and tensor")
def _module(folder: Path) -> Iterator[tuple[str, Any]]:
    images = torch.from_numpy(np.random.default_rng(5).random((44, 3, 64, 64), dtype=np.float32))
    options = {**SMALL, "stimuli": images, "layers": ["1", "3"], "name": "own"}
    yield from result_parts(probe.run(module(), **options))


@case("attribute")
def _attribute(folder: Path) -> Iterator[tuple[str, Any]]:
    options = {k: v for k, v in SMALL.items() if k != "targets"}
    for model, layer, groups in ((LITE, "blocks.2", "blocks"), (resnet(), "layer2", "calls")):
        targets = ["vertical", "gaussian"]
        attribution = probe.attribute(model, layer, targets, groups=groups, **options)
        yield groups, attribution.table
        yield f"{groups} summary", attribution.summary()


@case("calibrate")
def _calibrate(folder: Path) -> Iterator[tuple[str, Any]]:
    options = {**SMALL, "layers": ["blocks.1", "blocks.2"], "seeds": 2}
    yield "table", probe.calibrate(LITE, **options).table


@case("ladder")
def _ladder(folder: Path) -> Iterator[tuple[str, Any]]:
    options = {k: v for k, v in SMALL.items() if k != "targets"}
    ladder = probe.ladder(LITE, layers=["blocks.1", "blocks.2"], **options)
    yield "table", ladder.table
    yield "summary", ladder.summary()


@case("reproduce")
def _reproduce(folder: Path) -> Iterator[tuple[str, Any]]:
    options = {k: v for k, v in SMALL.items() if k != "targets"}
    options |= {"weights": "random", "readout": "ridge"}
    reproduction = probe.reproduce("islam2020", photographs(folder), RESNET, **options)
    yield "table", reproduction.table


@case("certify")
def _certify(folder: Path) -> Iterator[tuple[str, Any]]:
    for model, variant in ((LITE, "circular"), (RESNET, "circular"), (VIT, "no_pos_embed")):
        certificate = probe.certify(model, variant, device="cpu")
        yield f"{model} {variant}", certificate_parts(certificate)
    for model in (RESNET, VIT, "swin_tiny_patch4_window7_224"):
        yield f"sources of {model}", probe.sources(model)


@case("padding")
def _padding(folder: Path) -> Iterator[tuple[str, Any]]:
    images = torch.from_numpy(np.random.default_rng(1).random((2, 3, 64, 64), dtype=np.float32))
    network = module().eval()
    for rule in ("circular", "reflect", "replicate", "zeros", "mean", "noise", "partial", "valid"):
        with torch.no_grad(), probe.padding(rule) as mode:
            yield rule, network(images).numpy()
        yield f"{rule} rewritten", mode.rewritten


@case("studies")
def _studies(folder: Path) -> Iterator[tuple[str, Any]]:
    few = {"seeds": 1, "quick": True, "workers": 1, "progress": False, "device": "cpu"}
    tasks = probe.coordconv.run_tasks("regression", "uniform", epochs=0.004, **few)
    yield "coordconv", tasks.table
    instances = probe.instances.run_instances("twins", "zeros", "instance", steps=2, **few)
    yield "instances", instances.table


def digest(value: Any) -> dict[str, Any]:
    """Hash all bits of a value, and summarise its numbers."""
    if isinstance(value, pd.Series):
        number = pd.api.types.is_numeric_dtype(value)
        numbers = value.to_numpy(float) if number else np.zeros(0)
        text = json.dumps([] if number else value.astype(str).tolist())
    elif isinstance(value, np.ndarray):
        numbers, text = np.asarray(value, dtype=float), str(value.shape)
    else:
        numbers, text = np.zeros(0), json.dumps(value)
    numbers = np.ascontiguousarray(numbers) + 0.0  # one zero alone
    known = numbers[np.isfinite(numbers)]
    summary = [known.sum(), known.min(), known.max()] if known.size else []
    bits = hashlib.sha256(text.encode() + numbers.tobytes()).hexdigest()[:24]
    return {"bits": bits, "shape": list(numbers.shape), "summary": [float(s) for s in summary]}


def columns(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """A table column by column, so that a new column changes none of the others."""
    if not isinstance(value, pd.DataFrame):
        yield name, value
        return
    for column in value.columns:
        if column != "stimuli":  # the path of a folder
            yield f"{name}: {column}", value[column]


def machine() -> dict[str, str]:
    """What bits may depend on besides the code."""
    versions = {m.__name__: m.__version__ for m in (torch, timm, np, pd)}
    processor = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            processor = line.split(":")[1].strip()
            break
    return {"processor": processor, **versions}


def measure(pattern: str) -> dict[str, dict[str, Any]]:
    """Run the cases."""
    measured = {}
    for name, function in CASES.items():
        if not fnmatch.fnmatch(name, pattern):
            continue
        clock = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            measured[name] = {
                part: digest(value)
                for whole, table in function(Path(folder))
                for part, value in columns(whole, table)
            }
        print(f"{name}: {len(measured[name])} parts, {time.perf_counter() - clock:.0f} s")
    return measured


def differences(kept: dict[str, Any], now: dict[str, Any], exact: bool) -> Iterator[str]:
    """What is not the same, one sentence each."""
    for name, parts in now.items():
        for part in kept.get(name, {}).keys() | parts.keys():
            before, after = kept.get(name, {}).get(part), parts.get(part)
            if any(fnmatch.fnmatchcase(f"{name}: {part}", pattern) for pattern in CHANGED):
                continue
            if before is None or after is None:
                yield f"{name}: {part} is there {'now' if before is None else 'before'} alone"
            elif exact and before["bits"] != after["bits"]:
                yield f"{name}: {part} differs: {before['summary']} before, {after['summary']} now"
            elif before["shape"] != after["shape"] or not np.allclose(
                before["summary"], after["summary"], rtol=TOLERANCE, atol=TOLERANCE
            ):
                yield f"{name}: {part}: {before['summary']} before, {after['summary']} now"


def in_lines(kept: dict[str, Any]) -> str:
    """JSON with a line for each part of a case."""
    cases = (
        f"{json.dumps(name)}: {{\n"
        + ",\n".join(f"{json.dumps(part)}: {json.dumps(d)}" for part, d in parts.items())
        + "\n}"
        for name, parts in kept["cases"].items()
    )
    machine = json.dumps(kept["machine"])
    return f'{{"machine": {machine},\n"cases": {{\n' + ",\n".join(cases) + "\n}}\n"


def main() -> None:
    """Write the file, or compare with it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", type=Path, metavar="FILE")
    parser.add_argument("--against", type=Path, metavar="FILE", default=KEPT)
    parser.add_argument("--only", default="*", metavar="PATTERN", help="a glob over cases")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    print(f"probe {probe.__version__}")
    now = {"machine": machine(), "cases": measure(asked.only)}
    if asked.write:
        asked.write.write_text(in_lines(now))
        return
    kept = json.loads(asked.against.read_text())
    exact = kept["machine"] == now["machine"]
    print("bit by bit" if exact else f"another machine or versions: to {TOLERANCE:g}")
    wrong = list(differences(kept["cases"], now["cases"], exact))
    print("\n".join(wrong) or "the same, but for what was changed on purpose:")
    print("\n".join(f"- {pattern}: {reason}" for pattern, reason in CHANGED.items()))
    raise SystemExit(bool(wrong))


if __name__ == "__main__":
    main()
