"""Reading checkpoints without running what is in them.

Needed by: mmengine 0.10, which calls ``torch.load`` without ``weights_only``. Since torch 2.6 that
refuses every checkpoint that mmengine itself writes (its log history, numpy arrays and scalars), so
that resuming, testing and ``load_from`` fail; before, it runs whatever code a file carries.

Here mmengine's loader of local files reads with ``weights_only=True``, and what mmengine writes is
allowed, for the time of the call only: the rest of the process keeps torch's own list. The loaders
of URLs and other places do the same; they are in ``mmconvnext.weights.sources``.
"""

from __future__ import annotations

import argparse
import builtins
import pickle
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer

from mmconvnext.compat.config_text import remove_code
from mmconvnext.errors import (
    CheckpointError,
    MissingCheckpointError,
    UnreadableCheckpointError,
    UnsafeCheckpointError,
)

try:
    from numpy._core import multiarray
except ImportError:  # numpy < 2
    from numpy.core import multiarray

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")
SHOWN_FILES = 3
STATISTICS = ("min", "max", "current", "mean")
# How torch names what it refuses: a global, a function to call, or the class of an object.
REFUSED = re.compile(
    r"(?:GLOBAL|unrecognized function|add_safe_globals`,? but got) "
    r"(?:<[\w -]+ '?)?([\w.]+(?:\(.*?\))?)"
)
REASON = re.compile(r"WeightsUnpickler error:\s*(.+)")


def read_checkpoint(path: str | Path, map_location: Any = "cpu", mmap: bool = False) -> Any:
    """Read a checkpoint, never running anything in it.

    Args:
        path: a file written by ``torch.save`` or by mmengine, or a ``.safetensors`` file.
        map_location: the device to read to, as for ``torch.load``.
        mmap: leave the tensors on disk until they are used. Files in torch's format of before 1.6
            cannot be mapped and are read as a whole; ``.safetensors`` files are always mapped.

    Returns:
        What the file contains, usually a dict.

    Raises:
        MissingCheckpointError: there is no such file.
        UnsafeCheckpointError: it carries code or objects that are not allowed.
        UnreadableCheckpointError: it is no checkpoint, it is damaged, or there is no such device.
        CheckpointError: it cannot be read here: it is a folder, or its package is missing.
    """
    path = Path(path).expanduser()
    check_file(path)
    try:
        if is_safetensors(path):
            from safetensors.torch import load_file

            # the format knows no devices: there is nothing to map for a function or a dict
            device = map_location if isinstance(map_location, (str, torch.device)) else "cpu"
            return load_file(path, device=str(device))
        with torch.serialization.safe_globals(_newly_allowed()):
            # torch refuses to map what is no zip archive
            mapped = (mmap and zipfile.is_zipfile(path)) or None
            return torch.load(path, map_location=map_location, weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        raise _explain(path, error) from error
    except ImportError as error:
        raise CheckpointError(f"{path} needs a package: {error}; install it with pip") from error
    except Exception as error:
        raise UnreadableCheckpointError(
            f"cannot read {path} ({looks_of(path)}): {error}"
        ) from error


def is_safetensors(path: Path) -> bool:
    """Whether a file is of this format by its content, whatever its name is.

    It begins with the length of a header in 8 bytes, and the header with a brace. torch, too, takes
    every file of that name for one.
    """
    with path.open("rb") as file:
        start = file.read(9)
    header = int.from_bytes(start[:8], "little")
    return path.suffix == ".safetensors" or (start[8:] == b"{" and header < path.stat().st_size)


def check_file(path: Path) -> None:
    """Refuse what cannot be a checkpoint, without reading it.

    Raises:
        MissingCheckpointError: there is no such file.
        UnreadableCheckpointError: it is empty.
        CheckpointError: it is a folder.
    """
    if path.is_dir():
        files = sorted(f.name for f in path.iterdir() if f.suffix in SUFFIXES)
        hint = f"; name a file in it: {', '.join(files[:SHOWN_FILES])}" if files else ""
        raise CheckpointError(f"{path} is a folder, not a checkpoint{hint}")
    if not path.is_file():
        raise MissingCheckpointError(f"there is no checkpoint {path}")
    if path.stat().st_size == 0:
        raise UnreadableCheckpointError(f"{path} is empty")


def looks_of(path: Path) -> str:
    """Say in a few words, for an error message, what a file that is no checkpoint looks like."""
    with path.open("rb") as file:
        start = file.read(64)
    if start.lstrip()[:1] == b"<":
        return "it looks like a web page: the download failed"
    if start[:2] == b"PK":
        return "a zip archive" if zipfile.is_zipfile(path) else "a zip archive that was cut off"
    return f"it starts with {start[:8]!r}"


def install(checkpoint: ModuleType) -> None:
    """Let ``mmengine.runner.checkpoint`` read local files through :func:`read_checkpoint`."""
    checkpoint.CheckpointLoader.register_scheme("", load_from_local, force=True)


def load_from_local(filename: str, map_location: Any) -> Any:
    """Read a local file for mmengine, without the code that a config text in it may be."""
    checkpoint = read_checkpoint(filename, map_location)
    remove_code(checkpoint, str(filename))
    return checkpoint


def _history_buffer_method(owner: Any, name: str, *default: Any) -> Callable:
    """Stand in for ``getattr`` in a checkpoint: mmengine's own statistics and nothing else."""
    if owner is not HistoryBuffer or name not in STATISTICS or default:
        raise pickle.UnpicklingError(f"Unsupported GLOBAL getattr({owner!r}, {name!r})")
    return builtins.getattr(HistoryBuffer, name)


def _newly_allowed() -> list[Any]:
    """Return what is allowed here and not by torch: torch would forget its own afterwards."""
    already = set(torch.serialization.get_safe_globals())
    return [entry for entry in _allowed_globals() if entry not in already]


def _allowed_globals() -> list[Any]:
    dtypes = {type(np.dtype(code)) for code in np.typecodes["All"] if code not in "OV"}
    names = [np.ndarray, np.dtype, HistoryBuffer, (_history_buffer_method, "builtins.getattr")]
    # The settings in training checkpoints of the official code and of timm: a bag of attributes.
    names.append(argparse.Namespace)
    for function in ("_reconstruct", "scalar"):
        for module in ("numpy.core.multiarray", "numpy._core.multiarray"):
            names.append((builtins.getattr(multiarray, function), f"{module}.{function}"))
    return [*names, *dtypes]


def _explain(path: Path, error: Exception) -> CheckpointError:
    found = REFUSED.search(str(error))
    if found:
        return UnsafeCheckpointError(
            f"{path} contains {found[1]}, which is neither a tensor nor a number: refused, and "
            "nothing in it was run. Ask its author for a file with the state dict alone"
        )
    looks = looks_of(path)
    # what the unpickler stumbled over says nothing where the file is something else as a whole
    reason = None if "web page" in looks else REASON.search(str(error))
    return UnreadableCheckpointError(
        f"{path} is damaged or no checkpoint of torch ({looks})"
        + (f": {reason[1]}" if reason else "")
    )
