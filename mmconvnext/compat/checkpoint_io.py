"""Reading checkpoints without running what is in them.

Needed by: mmengine 0.10, which calls ``torch.load`` without ``weights_only``. Since torch 2.6 that
refuses every checkpoint that mmengine itself writes (its log history, numpy arrays and scalars), so
that resuming, testing and ``load_from`` fail. Here its loader of local files allows what mmengine
writes, for the time of the call only: the rest of the process keeps torch's own list. The loaders
of URLs and other places, in ``mmconvnext.weights.sources``, do the same.
"""

import argparse
import pickle
import pickletools
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

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")
STATISTICS = ("min", "max", "current", "mean")


def read_checkpoint(path: str | Path, map_location: Any = "cpu", mmap: bool = False) -> Any:
    """Read a checkpoint, never running anything in it.

    Args:
        path: a file of ``torch.save``, of mmengine or in the format safetensors.
        map_location: the device to read to, as for ``torch.load``.
        mmap: leave the tensors on disk until they are used. Files in torch's format of before 1.6
            cannot be mapped and are read as a whole; ``.safetensors`` files are always mapped.

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
    except ImportError as error:
        raise CheckpointError(f"{path} needs a package: {error}; install it with pip") from error
    except Exception as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        if isinstance(error, pickle.UnpicklingError):
            # torch has put much advice around it, and behind it how to allow what was refused
            reason = str(error.__context__ or error).partition(". ")[0]
            if _has_whole_pickles(path):
                raise UnsafeCheckpointError(
                    f"{path} contains more than tensors, numbers and settings ({reason}): refused, "
                    "and nothing in it was run. Ask its author for a file with the state dict alone"
                ) from error
        raise UnreadableCheckpointError(
            f"cannot read {path} ({looks_of(path)}): {reason}"
        ) from error


def is_safetensors(path: Path) -> bool:
    """Whether a file begins as this format does, or has its name, by which torch, too, goes.

    That is with the length of a header in 8 bytes, and the header with a brace.
    """
    with path.open("rb") as file:
        start = file.read(9)
    header = int.from_bytes(start[:8], "little")
    return path.suffix == ".safetensors" or (start[8:] == b"{" and header < path.stat().st_size)


def check_file(path: Path) -> None:
    """Refuse, without reading it, what is no file, or an empty one."""
    if path.is_dir():
        files = sorted(f.name for f in path.iterdir() if f.suffix in SUFFIXES)
        hint = f"; name a file in it: {', '.join(files[:3])}" if files else ""
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


def _newly_allowed() -> list[Any]:
    """What is allowed here and not by torch, which would forget its own afterwards."""
    dtypes = {type(np.dtype(code)) for code in np.typecodes["All"] if code not in "OV"}
    # numpy's _reconstruct and scalar, by the names of versions before and since 2
    functions = [value.__reduce__()[0] for value in (np.zeros(0), np.float64(0))]
    modules = ("numpy.core.multiarray", "numpy._core.multiarray")
    allowed = [
        *(np.ndarray, np.dtype, *dtypes, HistoryBuffer),
        *((f, f"{module}.{f.__name__}") for f in functions for module in modules),
        (_history_buffer_method, "builtins.getattr"),
        # the settings in training checkpoints of the official code and of timm: a bag of attributes
        argparse.Namespace,
    ]
    already = set(torch.serialization.get_safe_globals())
    return [entry for entry in allowed if entry not in already]


def _history_buffer_method(owner: Any, name: str, *default: Any) -> Callable:
    """Stand in for ``getattr`` in a checkpoint: mmengine's own statistics and nothing else."""
    if owner is not HistoryBuffer or name not in STATISTICS or default:
        raise pickle.UnpicklingError(f"Unsupported GLOBAL getattr({owner!r}, {name!r})")
    return getattr(HistoryBuffer, name)


def _has_whole_pickles(path: Path) -> bool:
    """Whether a file is one of ``torch.save``, not cut off in a pickle; nothing in it is run."""
    with path.open("rb") as file:
        start = file.read(4)
        if not start.startswith(pickle.PROTO):  # torch reads no zip archive that was cut off
            return start == b"PK\x03\x04"
        file.seek(0)
        try:
            # before torch 1.6: a number, a version, the system, the content, names of its tensors
            for _ in range(5):
                if file.tell() < path.stat().st_size:
                    for _ in pickletools.genops(file):
                        pass
        except Exception:  # it raises whatever an argument that makes no sense leads to
            return False
    return True
