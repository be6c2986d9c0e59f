"""Writing weights in our layout, as safetensors."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from torch import Tensor

from mmconvnext.errors import WeightsError
from mmconvnext.weights.layouts import IN_DETECTOR, extract_backbone, other_parts
from mmconvnext.weights.matching import explain_incomplete


def in_our_layout(
    checkpoint: object, source: str, prefix: str | None = None, ema: bool = False
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Convert a checkpoint as a whole: a backbone, a classifier, or a detector.

    ``source`` is what to call it; ``prefix`` and ``ema`` choose the backbone, see
    :func:`mmconvnext.weights.layouts.find_backbone`.

    Returns:
        Names and tensors, of a detector all of its parts, of other files the ConvNeXt with the
        final norm and classifier that are in it; and what to write down about their origin.

    Raises:
        WeightsError: it has no ConvNeXt of a known layout, or not the whole of one.
    """
    try:
        tensors, found, converted = extract_backbone(checkpoint, prefix, ema)
    except ValueError as error:
        raise WeightsError(f"cannot convert {source}: {error}") from error
    # in our layout nothing would tell an unsupported model of timm from ours any more
    if fault := explain_incomplete(converted, found.layout.name):
        raise WeightsError(f"cannot convert {source} ({found.layout.name} layout): {fault}")
    if IN_DETECTOR.fullmatch(found.prefix):
        converted = {f"backbone.{k}": v for k, v in converted.items()} | other_parts(tensors, found)
    origin = {"source": source, "source_layout": found.layout.name, "prefix": found.prefix}
    return converted, {**origin, "layout": "mmconvnext"}


def write_safetensors(
    path: str | Path, tensors: Mapping[str, Tensor], notes: Mapping[str, str], force: bool = False
) -> Path:
    """Write tensors to a file, in one move: it is never half there.

    ``notes`` are kept in its header; ``force`` replaces a file that is there.

    Raises:
        WeightsError: the name is refused by :func:`check_target`, or it cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    path = check_target(path, force)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.touch()
        mode = part.stat().st_mode  # the format's library keeps its files to their owner
        # the format refuses tensors that share memory or are views with gaps
        save_file({k: v.clone().contiguous() for k, v in tensors.items()}, part, dict(notes))
        part.chmod(mode)
        part.replace(path)
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"cannot write {path}: {error}") from error
    finally:
        with suppress(OSError):  # its folder may be a file
            part.unlink()
    return path


def check_target(path: str | Path, force: bool = False) -> Path:
    """The path without ``~``; WeightsError if it is there or does not end in ``.safetensors``."""
    path = Path(path).expanduser()
    if path.suffix != ".safetensors":
        raise WeightsError(f"{path}: the name must end in .safetensors, which is what is written")
    if path.exists() and not force:
        raise WeightsError(
            f"{path} is there already; name another file, or replace it with --force"
        )
    return path
