"""Loading weights into a backbone: from a source, through its layout, strictly, with one line."""

from __future__ import annotations

import inspect
import os
from collections import OrderedDict
from collections.abc import Collection, Mapping, MutableMapping, Sequence

from mmengine.logging import print_log
from mmengine.model import PretrainedInit
from torch import Tensor, nn

from mmconvnext.compat.checkpoint_io import read_checkpoint
from mmconvnext.errors import WeightsError
from mmconvnext.weights.anatomy import describe, timm_odd
from mmconvnext.weights.formats import Found, outside, take_backbone
from mmconvnext.weights.matching import OUTPUT_NORM, MisfitError, first, match
from mmconvnext.weights.sources import fetch_first

# Where in a state dict's metadata (torch's own place for what goes with one) it says that a
# backbone has been fitted already: the line that reports it, and the names that it was for.
FITTED = "mmconvnext_fitted"


def pretrained_cfg(init_cfg: dict | Sequence[dict] | None) -> dict | None:
    """The arguments of :func:`load_pretrained` out of MMEngine's ``init_cfg``, if it has them.

    Args:
        init_cfg: as given to a ``BaseModule``: a dict, a list of them, or None.

    Returns:
        The entry of type ``Pretrained`` without its type, or None.

    Raises:
        WeightsError: there are other entries beside it, or it has an argument that is unknown or
            no source.
    """
    entries = [init_cfg] if isinstance(init_cfg, Mapping) else list(init_cfg or [])
    pretrained = [e for e in entries if e.get("type") in ("Pretrained", PretrainedInit)]
    if not pretrained:
        return None
    others = [entry for entry in entries if entry is not pretrained[0]]
    if others:
        raise WeightsError(
            "init_cfg of the backbone: beside Pretrained nothing else is applied; "
            f"remove {', '.join(str(dict(entry)) for entry in others)}"
        )
    arguments = {k: v for k, v in pretrained[0].items() if k != "type"}
    choices = [n for n in inspect.signature(load_pretrained).parameters if n != "backbone"]
    unknown = [k for k in arguments if k not in choices]
    if unknown:
        raise WeightsError(
            f"init_cfg of the backbone: Pretrained has no {unknown[0]!r}; choose of "
            f"{', '.join(choices)}"
        )
    checkpoint = arguments.get("checkpoint")
    sources = checkpoint if isinstance(checkpoint, list | tuple) else [checkpoint]
    if not sources or not all(isinstance(s, str | os.PathLike) and str(s) for s in sources):
        raise WeightsError(
            f"init_cfg of the backbone: checkpoint={checkpoint!r} must be a path, a URL, a name "
            "such as timm://convnext_tiny.fb_in22k, or a list of these"
        )
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

    The layout is found by itself (:mod:`mmconvnext.weights.formats`). Which differences are allowed
    is said in :func:`mmconvnext.weights.matching.match`; anything else is an error that changes
    nothing: users have lost whole trainings to weights that silently did not load. One line in the
    log says what was loaded.

    Args:
        backbone: the module to fill; its parameter names are the official ones.
        checkpoint: where the file is: a path (``.pth``, ``.pt``, ``.safetensors``), an http(s) URL,
            ``timm://NAME``, ``hf://ORG/NAME[@REVISION][:FILE]``, ``torchvision://NAME``; or several
            of these, which are tried in order.
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
    fitted, line = fit(backbone, raw, source, prefix=prefix, ema=ema, adapt=adapt)
    state_dict = OrderedDict(fitted)
    state_dict._metadata = {"": fitted_note(fitted, line)}
    backbone.load_state_dict(state_dict, strict=False)


def fitted_note(tensors: Mapping[str, Tensor], line: str) -> dict[str, object]:
    """Metadata for a backbone's part of a state dict that :func:`fit` has made.

    Args:
        tensors: what it gave; empty where the backbone stays randomly initialised on request.
        line: to log when it is loaded.
    """
    return {FITTED: {"line": line, "names": sorted(tensors)}}


def fit(
    backbone: nn.Module,
    checkpoint: object,
    source: str,
    prefix: str | None = None,
    ema: bool = False,
    adapt: Collection[str] = (),
    name: str = "backbone",
) -> tuple[dict[str, Tensor], str]:
    """Find a backbone in a checkpoint, convert it, and match it strictly; nothing is loaded.

    Args:
        backbone: what it is for.
        checkpoint: the content of a file: a dict of tensors, or nested ones.
        source: what to call it in messages.
        prefix: see :func:`load_pretrained`, as ``ema`` and ``adapt``.
        ema: see there.
        adapt: see there.
        name: what to call the backbone in the line.

    Returns:
        The tensors to load, by the backbone's names, and the line that reports them.

    Raises:
        WeightsError: it does not fit.
    """
    layout = ""
    try:
        tensors, found, converted = take_backbone(checkpoint, prefix, ema)
        anatomy = describe(converted)
        layout = f" ({found.layout.name} layout, {anatomy})"
        if odd := timm_odd(found.layout.name, anatomy):
            raise MisfitError(f"the file's model has {odd}, which this backbone has not.")
        matched = match(backbone.state_dict(), converted, adapt)
    except ValueError as error:
        raise WeightsError(f"cannot load the {name} from {source}{layout}: {error}") from error
    others = outside(tensors, found)
    line = f"{name}: loaded {matched.report(source + layout + _choice(found))}"
    if others:
        line += f"; other parts of the file: {len(others)} tensors ({first(sorted(others))})"
    return matched.tensors, line


def arrange(
    backbone: nn.Module,
    state_dict: MutableMapping[str, Tensor],
    prefix: str,
    metadata: Mapping[str, object],
) -> None:
    """Prepare a state dict that is about to be loaded into a backbone, and report it in one line.

    The backbone calls it whenever torch or MMEngine load into it, so that no path is silent, and
    detectors of other code bases load wherever checkpoints are loaded. torch does not tell a module
    whether its caller is strict: the backbone always is.

    Args:
        backbone: about to be filled.
        state_dict: changed in place: its part under ``prefix`` is brought into our layout.
        prefix: of the backbone's names.
        metadata: that of the state dict for this module.

    Raises:
        WeightsError: it does not fit.
    """
    part = {k[len(prefix) :]: v for k, v in state_dict.items() if k.startswith(prefix)}
    name = prefix.removesuffix(".") or "backbone"
    note = metadata.get(FITTED)
    if note is None or not _still_fits(backbone, part, note["names"]):
        if not part:
            raise WeightsError(
                f"cannot load the {name}: the state dict has nothing under {prefix!r}. Weights of "
                "a backbone alone go into its init_cfg, or into load_from of this project's tools"
            )
        fitted, line = fit(backbone, part, "a state dict", prefix="", name=name)
        for key in part:
            del state_dict[prefix + key]
        state_dict.update({prefix + key: value for key, value in fitted.items()})
    else:
        line = note["line"]
    print_log(line, logger="current")


def _still_fits(backbone: nn.Module, part: Mapping[str, Tensor], names: Sequence[str]) -> bool:
    """Whether nothing happened to a fitted part on its way: hooks change checkpoints, files too."""
    own = backbone.state_dict()
    same = all(k in own and own[k].shape == v.shape for k, v in part.items())
    missing = own.keys() - part.keys() if names else ()
    return same and sorted(part) == list(names) and all(map(OUTPUT_NORM.fullmatch, missing))


def _choice(found: Found) -> str:
    """Which of several backbones of a file was taken."""
    if not found.also:
        return ""
    kind = "averaged weights" if found.is_ema else "weights"
    return f", the {kind} under {found.prefix!r}, not those under " + ", ".join(
        map(repr, found.also)
    )
