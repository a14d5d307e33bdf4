"""Cells: model × weights × options, each with a name that nothing else has."""

from __future__ import annotations

import functools
import glob
import hashlib
import json
import pickle
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import timm

from ..._version import __version__
from ...backbones.catalogue import expand_models
from ...errors import ProbeError
from ...files import folder_name
from ...runner.options import Options, listed
from ...text import is_random

HUBS = ("hf-hub:", "hf_hub:", "local-dir:")


@dataclass(frozen=True)
class Cell:
    """One run: a model, its weights, and the options.

    Attributes
    ----------
    model : str
        As :func:`probe.run` takes it.
    weights : tuple of str
        As :func:`probe.run` takes them; in a zoo one.
    options : mapping
        The other options that :func:`probe.run` takes.
    label : str
        Weights in a word: the pretrained tag, ``random``, or name and hash of the file.
    digest : str
        SHA-256 of model, weights (tag, or SHA-256 of the file), options and Probe's version.
    family : str
        timm's file that implements it, or nothing.
    imports : tuple of str
        Python modules to import first, which register models.
    """

    model: str
    weights: tuple[str, ...]
    options: Mapping[str, Any] = field(hash=False)
    label: str
    digest: str
    family: str = ""
    imports: tuple[str, ...] = field(default=(), compare=False)

    @property
    def name(self) -> str:
        """Name of its folder."""
        return "-".join(
            [folder_name(self.model)[:80], folder_name(self.label)[:80], self.digest[:8]]
        )

    @property
    def title(self) -> str:
        """Name for people."""
        return f"{self.model}, {self.label} weights"

    def about(self) -> dict[str, Any]:
        """What is known of it before it runs."""
        return {
            "cell": self.name,
            "digest": self.digest,
            "model": self.model,
            "weights": self.label,
            "family": self.family,
            "options": {k: v if _is_plain(v) else _hash(v) for k, v in self.options.items()},
        }


def list_cells(
    models: str | Sequence[str],
    options: Mapping[str, Any],
    imports: Sequence[str] = (),
    *,
    together: bool = False,
) -> list[Cell]:
    """List what is asked for: every model with each of the weights, in order, without repeats.

    Parameters
    ----------
    models : str or sequence of str
        Names, globs over timm's architectures or (with a dot) over pretrained tags, ``hf-hub:`` and
        ``local-dir:`` names, and files with one of these a line.
    options : mapping
        Options of :func:`probe.run`; among ``weights`` may be globs of checkpoint files.
    imports : sequence of str
        Python modules to import first.
    together : bool
        All weights of a model in one cell, as in ``probe run``.

    Raises
    ------
    ProbeError
        If an option is not what it should be, or a glob matches nothing.
    """
    asked = Options.of(options)  # what is wrong with them is said before the first model
    names = expand_models(list(_read_names(models)))
    weights = list(_expand_weights(asked.weights))
    groups = [tuple(weights)] if together else [(w,) for w in weights]
    others = {k: v for k, v in options.items() if k not in ("weights", "progress")}
    kept = {f.name: getattr(asked, f.name) for f in fields(asked)}
    for name in ("weights", "progress"):
        del kept[name]
    plain = {k: v if _is_plain(v) else _hash(v) for k, v in kept.items()}
    cells: dict[str, Cell] = {}
    for model in names:
        for group in groups:
            labels, marks = zip(*(_marked(model, w) for w in group), strict=True)
            identity = [_marked(model, "")[1], marks, plain, __version__]
            digest = hashlib.sha256(json.dumps(identity, default=str).encode()).hexdigest()
            label = "+".join(labels)
            cell = Cell(model, group, others, label, digest, family_of(model), tuple(imports))
            cells.setdefault(cell.digest, cell)
    return list(cells.values())


def _read_names(models: str | Sequence[str]) -> Iterator[str]:
    """Names, those in files one a line; ``#`` starts a comment."""
    for item in listed(models, "models"):
        path = Path(item).expanduser()
        if "*" in str(item) or timm.is_model(str(item)) or not path.is_file():
            yield str(item)
            continue
        lines = [line.partition("#")[0].strip() for line in path.read_text().splitlines()]
        if not any(lines):
            raise ProbeError(f"{item} holds no names of models: expected one a line")
        yield from filter(None, lines)


def _expand_weights(weights: Sequence[str]) -> Iterator[str]:
    """Weights, globs of checkpoint files replaced by the files: epoch_9 before epoch_10."""
    for item in weights:
        if not any(c in item for c in "*?[") or Path(item).expanduser().is_file():
            yield item
            continue
        files = glob.glob(str(Path(item).expanduser()), recursive=True)
        if not files:
            raise ProbeError(f"weights: no file matches {item!r}")
        yield from sorted(files, key=_natural)


def _natural(path: str) -> list[Any]:
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path)]


def family_of(model: str) -> str:
    """File of timm that implements a model; nothing for a model from elsewhere."""
    plain = model.partition(".")[0]
    if model.startswith(HUBS) or not timm.is_model(plain):
        return ""
    return str(timm.models.model_entrypoint(plain).__module__.rpartition(".")[2])


def _marked(model: str, weights: str) -> tuple[str, str]:
    """Label of weights, and what tells them apart; without weights, of the model."""
    if not weights:
        if not model.startswith("local-dir:"):
            return model, model
        folder = Path(model.removeprefix("local-dir:")).expanduser()
        kept = [
            p for p in sorted(folder.glob("*")) if p.suffix in (".safetensors", ".bin", ".json")
        ]
        return model, f"{model} {[_sha256_of(path) for path in kept]}"
    if is_random(weights):
        return weights, weights
    if weights == "pretrained":
        tag = ""
        if not model.startswith(HUBS):
            config = timm.get_pretrained_cfg(model, allow_unregistered=True)
            tag = "" if config is None else config.tag or ""
        return tag or weights, f"{weights} {tag}"
    path = Path(weights).expanduser()
    if not path.is_file():
        return path.stem, weights  # said where it runs
    digest = _sha256_of(path)
    return f"{path.stem}-{digest[:8]}", digest


def _sha256_of(path: Path) -> str:
    about = path.stat()
    return _sha256(path, about.st_mtime_ns, about.st_size)


@functools.lru_cache(4096)
def _sha256(path: Path, changed: int, size: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, str | int | float | bool | Path)


def _hash(value: Any) -> str:
    """Stand-in for images given from Python."""
    return f"sha256:{hashlib.sha256(pickle.dumps(value)).hexdigest()}"
