"""Key layouts of checkpoints: pure functions from state dict to state dict."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

WRAPPERS = ("state_dict", "model")
CLASSIFIER = re.compile(r"(norm|head)\.(weight|bias)")
OUTPUT_NORM = re.compile(r"norm\d\.(weight|bias)")
STAGE = re.compile(r"(?:downsample_layers|stages)\.(\d+)\.")


def unwrap(checkpoint: object) -> Mapping[str, Tensor]:
    """Find the state dict inside a checkpoint.

    Args:
        checkpoint: what the file held: a state dict, or a dict that has one under ``state_dict``
            (MMEngine) or ``model`` (the official code).

    Returns:
        Parameter names and tensors.

    Raises:
        ValueError: there is no mapping from names to tensors.
    """
    for key in WRAPPERS:
        if isinstance(checkpoint, Mapping) and isinstance(checkpoint.get(key), Mapping):
            checkpoint = checkpoint[key]
    if not isinstance(checkpoint, Mapping) or not checkpoint:
        raise ValueError(f"it holds a {type(checkpoint).__name__}, not a dict of named tensors")
    strangers = [str(k) for k, v in checkpoint.items() if not isinstance(v, Tensor)]
    if strangers:
        raise ValueError(
            f"it holds no dict of named tensors under {' or '.join(WRAPPERS)}, nor is it one: "
            f"{', '.join(strangers[:3])} is no tensor"
        )
    return checkpoint


def select_prefix(state_dict: Mapping[str, Tensor], prefix: str | None) -> dict[str, Tensor]:
    """Keep the parameters under a prefix, without it.

    Args:
        state_dict: parameter names and tensors.
        prefix: for example ``backbone.`` for a detector's file (the final dot may be missing);
            None for ``backbone.`` where the file has such names, and everything otherwise.
    """
    if prefix is None:
        prefix = "backbone." if any(k.startswith("backbone.") for k in state_dict) else ""
    elif prefix and not prefix.endswith("."):
        prefix += "."
    return {k.removeprefix(prefix): v for k, v in state_dict.items() if k.startswith(prefix)}
