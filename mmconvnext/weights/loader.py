"""Reading a backbone's weights and matching them strictly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mmengine.logging import print_log
from mmengine.model import PretrainedInit
from mmengine.runner.checkpoint import CheckpointLoader
from torch import Tensor, nn

from mmconvnext.errors import UserError
from mmconvnext.weights.formats import CLASSIFIER, OUTPUT_NORM, STAGE, select_prefix, unwrap

SHOWN_KEYS = 4


class WeightsError(UserError, ValueError):
    """A checkpoint that does not fit the backbone."""


def pretrained_cfg(init_cfg: dict | Sequence[dict] | None) -> dict | None:
    """The arguments of :func:`load_pretrained` out of MMEngine's ``init_cfg``, if it has them.

    Args:
        init_cfg: as given to a ``BaseModule``: a dict, a list of them, or None.

    Returns:
        The entry of type ``Pretrained`` without its type, or None.

    Raises:
        WeightsError: there are other entries beside it.
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
    return {k: v for k, v in pretrained[0].items() if k != "type"}


def load_pretrained(
    backbone: nn.Module, checkpoint: str, prefix: str | None = None, map_location: str = "cpu"
) -> None:
    """Load a checkpoint into a ConvNeXt backbone, strictly, and log one line on it.

    Classification checkpoints lack the detector's output norms and have a classifier with its own
    norm; these differences are allowed and reported, and so are stages that the backbone did not
    build. Anything else is an error: users have lost whole trainings to weights that silently did
    not load.

    Args:
        backbone: the module to fill; its parameter names are the official ones.
        checkpoint: a file or URL with a state dict in the official layout (classification or
            detection), or with one of ours.
        prefix: where the backbone is inside of the file's names; found by itself if None.
        map_location: the device to read the file to.

    Raises:
        WeightsError: a tensor is missing, unexpected or of another shape, or the file holds no
            named tensors.
        FileNotFoundError: there is no such file.
    """
    raw = CheckpointLoader.load_checkpoint(checkpoint, map_location=map_location, logger="silent")
    try:
        state_dict = select_prefix(unwrap(raw), prefix)
    except ValueError as error:
        raise WeightsError(f"cannot load the backbone from {checkpoint}: {error}") from error

    own = backbone.state_dict()
    num_stages = len(backbone.stages)
    left_out = {k for k in state_dict.keys() - own.keys() if _is_not_needed(k, num_stages)}
    initialised = {k for k in own.keys() - state_dict.keys() if OUTPUT_NORM.fullmatch(k)}
    problems = _problems(own, state_dict, left_out, initialised)
    if problems:
        raise WeightsError(
            f"cannot load the backbone from {checkpoint}: it does not fit depths="
            f"{tuple(backbone.depths)}, widths={tuple(backbone.widths)}. {' '.join(problems)} "
            "Choose the arch (and use_grn, layer_scale_init_value) that the file was made with."
        )
    matched = {k: v for k, v in state_dict.items() if k not in left_out}
    backbone.load_state_dict(matched, strict=False)
    print_log(_report(checkpoint, own, matched, left_out, initialised), logger="current")


def _is_not_needed(key: str, num_stages: int) -> bool:
    """Whether a tensor of the file belongs to a part that the backbone does without."""
    stage = STAGE.match(key)
    beyond = stage is not None and int(stage[1]) >= num_stages
    return beyond or bool(CLASSIFIER.fullmatch(key) or OUTPUT_NORM.fullmatch(key))


def _problems(
    own: Mapping[str, Tensor],
    state_dict: Mapping[str, Tensor],
    left_out: set[str],
    initialised: set[str],
) -> list[str]:
    missing = [k for k in own if k not in state_dict and k not in initialised]
    unexpected = [k for k in state_dict if k not in own and k not in left_out]
    other_shape = [k for k in own if k in state_dict and own[k].shape != state_dict[k].shape]
    sentences = []
    if missing:
        sentences.append(f"Missing: {_shown(missing, own)}.")
    if unexpected:
        sentences.append(f"Unexpected: {_shown(unexpected, state_dict)}.")
    if other_shape:
        pairs = (f"{k} {_shape(state_dict[k])} for {_shape(own[k])}" for k in other_shape)
        sentences.append(f"Of another shape: {_first(list(pairs))}.")
    return sentences


def _report(
    checkpoint: str,
    own: Mapping[str, Tensor],
    matched: Mapping[str, Tensor],
    left_out: set[str],
    initialised: set[str],
) -> str:
    share = sum(own[k].numel() for k in matched) / sum(v.numel() for v in own.values())
    line = (
        f"backbone: loaded {len(matched)} of {len(own)} tensors ({share:.2%} of the parameters) "
        f"from {checkpoint}"
    )
    if initialised:
        line += f"; new, not in the file: {_first(sorted(initialised))}"
    if left_out:
        line += f"; in the file, not needed: {_first(sorted(left_out))}"
    return line


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"


def _shown(keys: Sequence[str], tensors: Mapping[str, Tensor]) -> str:
    return _first([f"{k} {_shape(tensors[k])}" for k in keys])


def _first(items: Sequence[str]) -> str:
    more = len(items) - SHOWN_KEYS
    return ", ".join(items[:SHOWN_KEYS]) + (f" and {more} more" if more > 0 else "")
