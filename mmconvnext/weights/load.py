"""Loading weights into a backbone: from a source, through its layout, strictly, with one line."""

from __future__ import annotations

import inspect
import os
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from contextvars import ContextVar, copy_context
from typing import Any, NamedTuple

import torch
from mmengine.logging import print_log
from mmengine.model import BaseTTAModel, PretrainedInit, is_model_wrapper
from torch import Tensor, nn

from mmconvnext.compat.checkpoint_io import read_checkpoint
from mmconvnext.errors import WeightsError
from mmconvnext.weights.layouts import EMA, extract_backbone, other_names
from mmconvnext.weights.matching import describe, first, match
from mmconvnext.weights.sources import fetch_first


class MatchedBackbone(NamedTuple):
    """What :func:`match_backbone` made for one backbone."""

    tensors: dict[str, Tensor]  # to load, by the backbone's names
    line: str  # that reports them


# The backbones that are being loaded with what :func:`match_backbone` has made for them.
_LOADING: ContextVar[Mapping[nn.Module, MatchedBackbone]] = ContextVar("loading")


def load_matched(
    model: nn.Module,
    state_dict: Mapping[str, Tensor],
    backbones: Mapping[nn.Module, MatchedBackbone],
    strict: bool = False,
) -> None:
    """Load what was matched for a detector or a backbone; missing tensors have been said."""
    model = unwrapped(model)
    context = copy_context()
    context.run(_LOADING.set, backbones)
    context.run(model.load_state_dict, state_dict, strict=strict)
    if not isinstance(model, LoadsAnyLayout):
        own = model.state_dict()
        counts = Counter(k.partition(".")[0] for k in state_dict if k in own)
        parts = ", ".join(f"{name} {count}" for name, count in counts.items())
        line = f"detector: loaded {counts.total()} of {len(own)} tensors ({parts})"
        print_log(line, logger="current")


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside of wrappers for distributed running and test-time augmentation."""
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.module
    return model


class LoadsAnyLayout(nn.Module):
    """A backbone that loads ConvNeXt weights of any known layout, strictly, and reports them.

    Whatever loads into it, torch or MMEngine, no path is silent, and detectors of other code bases
    load wherever checkpoints are loaded. torch does not tell a module whether its caller is strict:
    the backbone always is.
    """

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: Any) -> None:
        """Bring the part of a state dict that is for this module into our layout, in place."""
        part = {k[len(prefix) :]: v for k, v in state_dict.items() if k.startswith(prefix)}
        name = prefix.removesuffix(".") or "backbone"
        matched = _LOADING.get({}).get(self)
        # Hooks change checkpoints, and what they changed is matched like any other.
        if matched is None or _shapes(part) != _shapes(matched.tensors):
            if not part:
                raise WeightsError(
                    f"cannot load the {name}: the state dict has nothing under {prefix!r}. Weights "
                    "of a backbone alone go into its init_cfg, or into load_from of this project's "
                    "tools"
                )
            matched = match_backbone(self, part, "a state dict", prefix="", name=name)
            for key in part:
                del state_dict[prefix + key]
            state_dict.update({prefix + key: value for key, value in matched.tensors.items()})
        print_log(matched.line, logger="current")
        super()._load_from_state_dict(state_dict, prefix, *args)


def pretrained_cfg(init_cfg: dict | Sequence[dict] | None) -> dict | None:
    """The arguments of :func:`load_pretrained` out of a ``BaseModule``'s ``init_cfg``, if any.

    Raises:
        WeightsError: there are other entries beside ``Pretrained``, or it has an argument that is
            unknown or no source.
    """
    entries = [init_cfg] if isinstance(init_cfg, Mapping) else list(init_cfg or [])
    pretrained = [e for e in entries if e.get("type") in ("Pretrained", PretrainedInit)]
    if not pretrained:
        return None
    arguments = {k: v for k, v in pretrained[0].items() if k != "type"}
    choices = [n for n in inspect.signature(load_pretrained).parameters if n != "backbone"]
    checkpoint = arguments.get("checkpoint")
    sources = checkpoint if isinstance(checkpoint, list | tuple) else [checkpoint]
    fault = None
    if others := [str(dict(entry)) for entry in entries if entry is not pretrained[0]]:
        fault = f"beside Pretrained nothing else is applied; remove {', '.join(others)}"
    elif unknown := [k for k in arguments if k not in choices]:
        fault = f"Pretrained has no {unknown[0]!r}; choose of {', '.join(choices)}"
    elif not sources or not all(isinstance(s, str | os.PathLike) and str(s) for s in sources):
        fault = (
            f"checkpoint={checkpoint!r} must be a path, a URL, a name such as "
            "timm://convnext_tiny.fb_in22k, or a list of these"
        )
    if fault:
        raise WeightsError(f"init_cfg of the backbone: {fault}")
    return {**arguments, "checkpoint": [os.fspath(source) for source in sources]}


def load_pretrained(
    backbone: nn.Module,
    checkpoint: str | Sequence[str],
    prefix: str | None = None,
    map_location: str = "cpu",
    sha256: str | None = None,
    ema: bool = False,
    adapt: Collection[str] = (),
) -> None:
    """Load a checkpoint of any known layout into a ConvNeXt backbone, strictly.

    Which differences are allowed is said in :func:`mmconvnext.weights.matching.match`; anything
    else is an error that changes nothing: users have lost whole trainings to weights that silently
    did not load.

    Args:
        backbone: the module to fill; its parameter names are the official ones.
        checkpoint: a source, see :func:`mmconvnext.weights.sources.fetch`, or several, which are
            tried in order.
        prefix: where the backbone is inside of the file's names, for files that have several.
        map_location: the device to read the file to.
        sha256: what the file's SHA-256 must be, in hexadecimal digits.
        ema: take the averaged weights of a file that has both.
        adapt: differences to adapt, out of ``in_channels`` and ``kernel_size``.

    Raises:
        WeightsError: it has no ConvNeXt of a known layout, a tensor is missing, unexpected or of
            another shape, or an argument is wrong.
        CheckpointError: no source can be had or read; a FileNotFoundError, too, where there is no
            such file.
    """
    source, path = fetch_first(checkpoint, sha256)
    # Mapped, not read: a tensor is copied once, from the file into the model.
    raw = read_checkpoint(path, map_location, mmap=True)
    matched = match_backbone(backbone, raw, source, prefix=prefix, ema=ema, adapt=adapt)
    load_matched(backbone, matched.tensors, {backbone: matched})


def match_backbone(
    backbone: nn.Module,
    checkpoint: object,
    source: str,
    prefix: str | None = None,
    ema: bool = False,
    adapt: Collection[str] = (),
    name: str = "backbone",
) -> MatchedBackbone:
    """Find a backbone in the content of a file, convert it, and match it; nothing is loaded.

    ``source`` and ``name`` are what to call the file and the backbone; for the others see
    :func:`load_pretrained`.

    Raises:
        WeightsError: it does not fit.
    """
    layout = ""
    try:
        tensors, found, converted = extract_backbone(checkpoint, prefix, ema)
        layout = f" ({found.layout.name} layout, {describe(converted)})"
        matched = match(backbone.state_dict(), converted, adapt, found.layout.name)
    except ValueError as error:
        raise WeightsError(f"cannot load the {name} from {source}{layout}: {error}") from error
    origin = source + layout
    if found.also:
        kind = "averaged weights" if EMA.search(found.prefix) else "weights"
        origin += f", the {kind} under {found.prefix!r}, not those under "
        origin += ", ".join(map(repr, found.also))
    line = f"{name}: loaded {matched.report(origin)}"
    if others := sorted(other_names(tensors, found)):
        line += f"; other parts of the file: {len(others)} tensors ({first(others)})"
    return MatchedBackbone(matched.tensors, line)


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in tensors.items()}
