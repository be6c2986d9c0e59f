"""A ConvNeXt's weights, of any known layout: into a backbone, strictly, or into a file of ours."""

import inspect
import os
from collections import Counter, OrderedDict
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from contextvars import ContextVar, copy_context
from pathlib import Path
from typing import Any, NamedTuple

from mmengine.logging import print_log
from mmengine.model import BaseTTAModel, PretrainedInit, is_model_wrapper
from torch import Tensor, nn

from mmconvnext.compat.checkpoint_io import read_checkpoint
from mmconvnext.errors import WeightsError
from mmconvnext.weights.layouts import EMA, IN_DETECTOR, as_detector, extract_backbone, other_names
from mmconvnext.weights.matching import describe, explain_incomplete, first, match
from mmconvnext.weights.sources import fetch_first


class Matched(NamedTuple):
    """What of a file goes into a model, which is not loaded yet."""

    state_dict: OrderedDict[str, Tensor]
    # Of each backbone the line that reports it; None where it is to stay as it is.
    backbones: dict[nn.Module, str | None]


# The backbones that are being loaded with what was matched for them.
_LOADING: ContextVar[Mapping[nn.Module, str | None]] = ContextVar("loading")


class LoadsAnyLayout(nn.Module):
    """A backbone that loads ConvNeXt weights of any known layout, strictly, and reports them.

    Whatever loads into it, torch or MMEngine, no path is silent, and detectors of other code bases
    load wherever checkpoints are loaded. torch does not tell a module whether its caller is strict:
    the backbone always is.
    """

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: Any) -> None:
        """Bring the part of a state dict that is for this module into our layout, in place."""
        # What was matched is matched once more: hooks change checkpoints.
        line = _LOADING.get({}).get(self, "")
        if line is None:
            return
        keys = [k for k in state_dict if k.startswith(prefix)]
        part = {k.removeprefix(prefix): state_dict.pop(k) for k in keys}
        name = prefix.removesuffix(".") or "backbone"
        if not part:
            raise WeightsError(
                f"cannot load the {name}: the state dict has nothing under {prefix!r}. Weights of "
                "a backbone alone go into its init_cfg, or into load_from of this project's tools"
            )
        matched = match_backbone(self, part, "a state dict", prefix="", name=name)
        state_dict.update({prefix + k: v for k, v in matched.state_dict.items()})
        print_log(line or matched.backbones[self], logger="current")
        super()._load_from_state_dict(state_dict, prefix, *args)


def load_matched(
    model: nn.Module,
    state_dict: Mapping[str, Tensor],
    backbones: Mapping[nn.Module, str | None],
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


def pretrained_cfg(init_cfg: dict | Sequence[dict] | None) -> dict | None:
    """The arguments of :func:`load_pretrained` out of a ``BaseModule``'s ``init_cfg``, if any."""
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
    return {**arguments, "checkpoint": list(map(os.fspath, sources))}


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

    Differences other than those of :func:`mmconvnext.weights.matching.match` are an error that
    changes nothing: users have lost whole trainings to weights that silently did not load.

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
        WeightsError: the file does not fit, or an argument is wrong.
        CheckpointError: no source can be had or read.
    """
    source, path = fetch_first(checkpoint, sha256)
    # Mapped, not read: a tensor is copied once, from the file into the model.
    raw = read_checkpoint(path, map_location, mmap=True)
    matched = match_backbone(backbone, raw, source, prefix=prefix, ema=ema, adapt=adapt)
    load_matched(backbone, *matched)


def match_backbone(
    backbone: nn.Module,
    checkpoint: object,
    source: str,
    prefix: str | None = None,
    ema: bool = False,
    adapt: Collection[str] = (),
    name: str = "backbone",
) -> Matched:
    """Find a backbone in the content of a file, convert it, and match it; nothing is loaded.

    ``source`` and ``name`` are what to call the file and the backbone in the report, or in the
    WeightsError where it does not fit; for the others see :func:`load_pretrained`.
    """
    origin = source
    try:
        tensors, found, converted = extract_backbone(checkpoint, prefix, ema)
        origin += f" ({found.layout.name} layout, {describe(converted)})"
        matched, share, notes = match(backbone.state_dict(), converted, adapt, found.layout.name)
    except ValueError as error:
        raise WeightsError(f"cannot load the {name} from {origin}: {error}") from error
    if found.also:
        kind = "averaged weights" if EMA.search(found.prefix) else "weights"
        others = ", ".join(map(repr, found.also))
        origin += f", the {kind} under {found.prefix!r}, not those under {others}"
    line = f"{name}: loaded {share} from {origin}{notes}"
    if others := sorted(other_names(tensors, found)):
        line += f"; other parts of the file: {len(others)} tensors ({first(others)})"
    return Matched(OrderedDict(matched), {backbone: line})


def in_our_layout(
    checkpoint: object, source: str, prefix: str | None = None, ema: bool = False
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Convert a checkpoint as a whole: a backbone, a classifier, or a detector with all its parts.

    ``source`` is what to call it; ``prefix`` and ``ema`` choose as in :func:`load_pretrained`.
    Gives the tensors, and notes on their origin; a WeightsError where it has no whole ConvNeXt.
    """
    try:
        tensors, found, converted = extract_backbone(checkpoint, prefix, ema)
    except ValueError as error:
        raise WeightsError(f"cannot convert {source}: {error}") from error
    # in our layout nothing would tell an unsupported model of timm from ours any more
    if fault := explain_incomplete(converted, found.layout.name):
        raise WeightsError(f"cannot convert {source} ({found.layout.name} layout): {fault}")
    if IN_DETECTOR.fullmatch(found.prefix):
        converted = as_detector(tensors, found, converted, "backbone.")
    origin = {"source": source, "source_layout": found.layout.name, "prefix": found.prefix}
    return converted, {**origin, "layout": "mmconvnext"}


def write_safetensors(
    path: str | Path, tensors: Mapping[str, Tensor], notes: Mapping[str, str], force: bool = False
) -> Path:
    """Write tensors to a file in one move, with ``notes`` in its header: it is never half there."""
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
    """The path of a file to write, without ``~``; only ``force`` replaces one that is there."""
    path = Path(path).expanduser()
    if path.suffix != ".safetensors":
        raise WeightsError(f"{path}: the name must end in .safetensors, which is what is written")
    if path.exists() and not force:
        raise WeightsError(
            f"{path} is there already; name another file, or replace it with --force"
        )
    return path
