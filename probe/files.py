"""Files: written whole or not at all; tables, arrays and records as bytes."""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .errors import ProbeError

if TYPE_CHECKING:
    import pandas as pd


class UnwritableError(ProbeError):
    """Files that can't be written: a full disk, no right to."""


_ROOM = 4 * 2**20  # bytes; a result with its report is smaller


def write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write files whole: all to temporary names first, then each moved to its place in order."""
    waiting: list[tuple[str, Path]] = []
    missing = [p for p in (folder, *folder.parents) if not p.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        mask = os.umask(0)
        os.umask(mask)
        for name, content in files.items():
            descriptor, temporary = tempfile.mkstemp(prefix=f".{name}.", dir=folder)
            waiting.append((temporary, folder / name))
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, 0o666 & ~mask)
        while waiting:
            os.replace(*waiting[0])
            waiting.pop(0)
    except OSError as error:
        raise unwritable(folder, error) from error
    finally:
        for temporary, _ in waiting:
            Path(temporary).unlink(missing_ok=True)
        for empty in missing:
            with contextlib.suppress(OSError):  # holds what was written, or was never made
                empty.rmdir()


@contextlib.contextmanager
def reading(folder: Path, what: str) -> Iterator[None]:
    """Turn read errors in the block into one ProbeError."""
    try:
        yield
    except FileNotFoundError as error:
        missing = Path(str(error.filename)).name
        raise ProbeError(f"{folder} holds no {what}: {missing} is missing") from None
    except Exception as error:  # damaged archives raise whatever their bytes happen to ask for
        raise ProbeError(f"the {what} in {folder} can't be read: {error}") from error


def check_folder(folder: Path) -> None:
    """Find out before a long run whether its results can be written; leaves nothing behind."""
    try:
        existing = next(p for p in (folder, *folder.absolute().parents) if p.exists())
        with tempfile.TemporaryFile(dir=existing) as file:
            file.write(bytes(_ROOM))
            file.flush()
    except OSError as error:
        raise unwritable(folder, error) from error


def unwritable(folder: Path, error: OSError) -> UnwritableError:
    reason = error.strerror or error
    return UnwritableError(
        f"can't write to {str(folder)!r}: {reason}; choose another output folder"
    )


def folder_name(name: str) -> str:
    """A name of a model, or the like, as a folder can be called."""
    return re.sub(r"[^\w.+-]+", "_", name).strip(".") or "model"


def npz_bytes(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """Named arrays as a compressed ``.npz`` file."""
    file = io.BytesIO()
    np.savez_compressed(file, **dict[str, Any](arrays))
    return file.getvalue()


def parquet_bytes(table: pd.DataFrame) -> bytes:
    """A table as a Parquet file, without its index."""
    file = io.BytesIO()
    table.to_parquet(file, index=False)
    return file.getvalue()


def png_bytes(pixels: NDArray[np.uint8]) -> bytes:
    """A picture, shape (h, w, 3 or 4), as PNG."""
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(file, "PNG", optimize=True)
    return file.getvalue()


def json_bytes(values: Mapping[str, Any]) -> bytes:
    """What :func:`plain` makes of a mapping, as a JSON file."""
    return json.dumps(plain(values), indent=1, ensure_ascii=False).encode() + b"\n"


def plain(value: Any) -> Any:
    """Turn a value into what JSON knows; NaN and infinities into strings."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    convert: Callable[[], Any] | None = getattr(value, "item", None)
    return convert() if callable(convert) else value
