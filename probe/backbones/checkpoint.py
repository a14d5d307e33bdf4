"""Checkpoint files: reading them safely, and finding a network's tensors in what they hold."""

from __future__ import annotations

import argparse
import pathlib
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from ..errors import ProbeError
from ..text import first_line

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".tar")
"""What checkpoint files are called; they are opened by what they hold."""

_WRAPPERS = ("state_dict", "model_state_dict", "model", "module")

_HARMLESS = (
    *(argparse.Namespace, pathlib.PosixPath, pathlib.PurePosixPath, np.dtype),
    np.float64(0).__reduce__()[0],
    *(type(np.dtype(code)) for code in ("?", "i4", "i8", "f4", "f8")),
)
"""What training scripts keep beside tensors: their command line, scores as numpy's scalars."""

_DEEPEST = 4


@dataclass(frozen=True)
class State:
    """Tensors of a checkpoint that lie together.

    Attributes
    ----------
    where : str
        Keys on the way to them, such as ``teacher``; empty if they lie at the top.
    tensors : mapping
        By the checkpoint's names; quantised ones as the numbers they stand for.
    quantised : tuple of str
        Names of those that were quantised.
    converted : str
        How the names differ from the file's, in words; empty if they don't.
    """

    where: str
    tensors: Mapping[str, Tensor]
    quantised: tuple[str, ...]
    converted: str = ""


@dataclass(frozen=True)
class Taken:
    """The tensors of a checkpoint that carry a network's names.

    Attributes
    ----------
    state : State
        Where they were.
    tensors : mapping
        By the network's names.
    prefix : str
        What stood before them.
    outside : tuple of str
        Names of the others in the same place.
    matched : int
        How many of the network's tensors are among them.
    rather_than : tuple of str
        Other places in the file with as many.
    """

    state: State
    tensors: Mapping[str, Tensor]
    prefix: str
    outside: tuple[str, ...]
    matched: int
    rather_than: tuple[str, ...] = ()

    @property
    def words(self) -> list[str]:
        """Where the tensors were, and what was left, for provenance."""
        words = [f"its {self.state.where}"] if self.state.where else []
        if words and self.rather_than:
            words[0] += f" rather than {some(self.rather_than)}"
        if self.state.converted:
            words.append(self.state.converted)
        if self.prefix:
            words.append(f"names after {self.prefix!r}")
        quantised = [key for key in self.state.quantised if key.startswith(self.prefix)]
        if quantised:
            words.append(f"{some(quantised)} dequantised")
        if self.outside:
            words.append(f"leaving out {some(groups(self.outside, self.prefix))}")
        return words


def read_states(path: Path) -> list[State]:
    """Return every group of tensors in a checkpoint, averaged weights first.

    Raises
    ------
    ProbeError
        If the file can't be read, or holds more than is safe to load, or no tensors.
    """
    content = _content(path)
    if not isinstance(content, Mapping):
        raise ProbeError(
            f"{path} holds a {type(content).__name__}; expected a state_dict, bare or under "
            f"a key such as {', '.join(_WRAPPERS)}"
        )
    states = list(_states(content))
    if any(tensor.is_meta for state in states for tensor in state.tensors.values()):
        raise ProbeError(f"{path} holds tensors of the meta device, which have no numbers")
    if not states:
        raise ProbeError(f"{path} holds no tensors; expected a state_dict")
    return states


def read_tensors(path: Path) -> Mapping[str, Tensor]:
    """Return the tensors of a file that holds one state dict."""
    return read_states(path)[0].tensors


def take(states: Iterable[State], names: Sequence[str]) -> Taken:
    """Find among groups of tensors those that carry a network's names, after whatever prefix.

    Parameters
    ----------
    states : iterable of State
        At least one.
    names : sequence of str
        Of the network's tensors that matter.
    """
    ways = [_after(state, prefix, names) for state in states for prefix in _before(state, names)]
    best = max(ways, key=lambda way: way.matched)
    like = [w.state.where for w in ways if w.state is not best.state and w.matched == best.matched]
    return replace(best, rather_than=tuple(dict.fromkeys(like))) if best.matched else best


def groups(keys: Iterable[str], prefix: str = "") -> list[str]:
    """Shorten keys to the first part in which they differ from a prefix, each once."""
    start = prefix.split(".")[:-1]
    shortened: dict[str, None] = {}
    for key in keys:
        parts = key.split(".")
        same = 0
        while same < min(len(start), len(parts) - 1) and parts[same] == start[same]:
            same += 1
        shortened[".".join(parts[: same + 1])] = None
    return list(shortened)


def some(keys: Sequence[str], limit: int = 4) -> str:
    """List the first few."""
    more = f" and {len(keys) - limit} more" if len(keys) > limit else ""
    return ", ".join(keys[:limit]) + more


def _content(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            start = file.read(9)
        # A safetensors file begins with the length of its header, which is JSON.
        if start[8:] == b"{" and int.from_bytes(start[:8], "little") < path.stat().st_size:
            return load_file(path)
        allowed = getattr(torch.serialization, "safe_globals", None)  # since torch 2.5
        with allowed(list(_HARMLESS)) if allowed else nullcontext(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on TorchScript archives, told below
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise ProbeError(f"{path} can't be read: {error.strerror or first_line(error)}") from error
    except Exception as error:  # a damaged file makes the unpickler raise nearly anything
        # torch's own message advises to switch the safety off.
        unsafe = re.search(r"GLOBAL (\S+)", str(error))
        if unsafe:
            raise ProbeError(
                f"{path} is not safe to load: it holds {unsafe[1]}, more than tensors; "
                "save its state_dict alone, best as .safetensors"
            ) from error
        if "TorchScript" in str(error):
            raise ProbeError(
                f"{path} is a TorchScript archive; expected a state_dict: load it with "
                "torch.jit.load and save its state_dict()"
            ) from error
        raise ProbeError(
            f"{path} can't be read as a checkpoint: expected a .safetensors file or what "
            "torch.save writes"
        ) from error


def _states(content: Mapping[Any, Any], way: tuple[str, ...] = ()) -> Iterator[State]:
    tensors = {str(k): v.detach() for k, v in content.items() if isinstance(v, Tensor)}
    inner = {str(k): v for k, v in content.items() if isinstance(v, Mapping)}
    if len(way) < _DEEPEST:
        for key in sorted(inner, key=_order):
            if key != "optimizer":
                yield from _states(inner[key], (*way, key))
    if tensors:
        quantised = tuple(k for k, v in tensors.items() if v.is_quantized)
        tensors |= {k: tensors[k].dequantize() for k in quantised}
        sparse = (k for k, v in tensors.items() if v.layout != torch.strided)
        tensors |= {k: tensors[k].to_dense() for k in sparse}
        yield State(".".join(way), tensors, quantised)


def _order(name: str) -> int:
    """Averaged weights first, as those who publish checkpoints evaluate them."""
    if _AVERAGED.search(name):
        return 0
    return 1 if name in _WRAPPERS else 2


_AVERAGED = re.compile(r"(^|[._])(ema|teacher|averaged)([._]|$)")


def _before(state: State, names: Sequence[str]) -> list[str]:
    """What may stand before the network's names, averaged weights first."""
    probes = dict.fromkeys((names[0], names[len(names) // 2], names[-1])) if names else {}
    prefixes = {
        key[: len(key) - len(name)]: None
        for name in probes
        for key in state.tensors
        if key == name or key.endswith(f".{name}")
    }
    return sorted(prefixes, key=_order) or [""]


def _after(state: State, prefix: str, names: Sequence[str]) -> Taken:
    tensors = {
        key.removeprefix(prefix): value
        for key, value in state.tensors.items()
        if key.startswith(prefix)
    }
    outside = tuple(key for key in state.tensors if not key.startswith(prefix))
    return Taken(state, tensors, prefix, outside, sum(name in tensors for name in names))
