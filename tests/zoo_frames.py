"""Tables of a zoo that no network was run for."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd

TARGETS = ("horizontal", "vertical", "gaussian")


def zoo(count: int = 24, layers: int = 6, images: int = 16, seed: int = 0):
    """Return a table of models, in pairs of trained and random and a failure, and their curves."""
    rng = np.random.default_rng(seed)
    rows, curves = [], {}
    for k in range(count):
        family, drawn = ("resnet", "vgg", "convnext")[k // 2 % 3], k % 2 == 1
        row = {
            "cell": f"cell{k:04}", "model": f"{family}{k // 2 * 2 + 10}",
            "weights": "random" if drawn else "pretrained", "family": family,
            "status": "finished", "kind": "", "sentence": "",
            "parameters": int(1e6 * (1 + k)), "image_size": "64x64", "stimuli": "leaves",
            "train_images": 16, "test_images": images, "readout": "ridge",
            "targets": ",".join(TARGETS), "options": json.dumps({"seed": 0}), "version": "0.5.0",
            "layers": layers + k % 5, "certified": bool(k % 4), "residual": 1e-7,
            "depth_known": 0.5, "localisation_error": 5.0 + k, "seconds": 3.5,
            "report": f"cells/cell{k:04}/report.html",
        }  # fmt: skip
        curves[row["cell"]] = {}
        noise = rng.normal(0, 0.05, images)
        for target in TARGETS:
            best = 0.95 - 0.8 * k / max(count, 1)
            value = np.round(best * np.linspace(1 / layers, 1, layers), 4)
            scores = best + noise - noise.mean()
            row |= {
                f"spc_{target}": best, f"spc_{target}_low": best - 0.04,
                f"spc_{target}_high": best + 0.04, f"layer_{target}": f"layer{layers}",
                f"depth_{target}": 1.0, f"share_padding_{target}": (k % 10) / 10,
            }  # fmt: skip
            curves[row["cell"]][target] = {
                "depth": np.round(np.arange(1, layers + 1) / layers, 4).tolist(),
                "value": value.tolist(),
                "low": (value - 0.04).tolist(),
                "high": (value + 0.04).tolist(),
                "scene": [i // 2 for i in range(images)],
                "image": scores.tolist(),
            }
        rows.append(row)
    rows.append(
        {
            **{k: rows[0][k] for k in ("family", "options", "version")},
            "cell": "cellx",
            "model": "<b>bad</b></script>",
            "weights": "random",
            "status": "failed",
            "kind": "out of memory",
            "sentence": "needs 9 GB & has 2",
            "traceback": "cells/cellx/traceback.txt",
        }
    )
    return pd.DataFrame(rows), curves
