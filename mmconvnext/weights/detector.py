"""A whole detector's weights, from anybody's checkpoint to our names, strictly."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.model import initialize
from mmengine.registry import init_default_scope
from torch import Tensor, nn

from mmconvnext.compat.checkpoint_io import read_checkpoint
from mmconvnext.errors import WeightsError
from mmconvnext.weights.layouts import find_backbone, find_names, flatten, other_parts, strip_prefix
from mmconvnext.weights.load import (
    LoadsAnyLayout,
    MatchedBackbone,
    load_matched,
    match_backbone,
    pretrained_cfg,
    unwrapped,
)
from mmconvnext.weights.matching import ADAPTATIONS, check_adaptations, first, shape
from mmconvnext.weights.sources import fetch_first

LOAD_ADAPTATIONS = (*ADAPTATIONS, "num_classes", "parts")


class MatchedDetector(NamedTuple):
    """What :func:`match_detector` made: the state dict to load, and the part of each backbone."""

    state_dict: OrderedDict[str, Tensor]
    backbones: dict[nn.Module, MatchedBackbone]


def match_detector(
    model: nn.Module,
    checkpoint: Mapping[str, object],
    source: str,
    adapt: Collection[str] = (),
    must_fill: bool = False,
    classes: tuple[Sequence[str] | None, Sequence[str] | None] = (None, None),
) -> MatchedDetector:
    """Convert a checkpoint for a detector and check that it fits; nothing is loaded.

    Backbones of the official code (MMDetection 2.x) and of mmpretrain (MMDetection 3.x) are
    converted; names of necks and heads are the same in all. A file that has only a ConvNeXt, such
    as ``timm://convnext_tiny.fb_in22k``, fills the backbone, and the line in the log says so.

    Args:
        model: the detector; may be wrapped, for distributed running or test-time augmentation.
        checkpoint: of MMEngine, or a state dict.
        source: what to call it in messages.
        adapt: differences to adapt: those of :func:`mmconvnext.weights.matching.match`,
            ``num_classes`` (of tensors that differ in their first axis alone, the rows of classes
            that both know are kept, and the others randomly initialised) and ``parts`` (as are
            parts that the file lacks).
        must_fill: every tensor has to have its value, as in a test; ``adapt`` is ignored.
        classes: names of the labels of the checkpoint and of the model, where they are known.

    Raises:
        WeightsError: a tensor is missing or has another shape, or ``adapt`` is wrong.
    """
    adapt = () if must_fill else adapt
    check_adaptations(adapt, LOAD_ADAPTATIONS, "load_adapt")
    model = unwrapped(model)
    own = dict(model.state_dict())
    # what the names of each begin with; a model may be a backbone itself
    backbones = {
        f"{n}." * bool(n): m for n, m in model.named_modules() if isinstance(m, LoadsAnyLayout)
    }
    given = _in_own_names(checkpoint, own, list(backbones), source)
    matched: OrderedDict[str, Tensor] = OrderedDict()
    matched._metadata = dict(getattr(checkpoint, "_metadata", None) or {})
    parts = {}
    for start, backbone in backbones.items():
        part = {k.removeprefix(start): given.pop(k) for k in [*given] if k.startswith(start)}
        parts[backbone] = _match_part(start, backbone, part, source, adapt)
        matched.update({start + k: v for k, v in parts[backbone].tensors.items()})
    rest = {k: v for k, v in own.items() if not k.startswith(tuple(backbones))}
    if backbones and rest and not rest.keys() & given.keys():
        if must_fill:
            raise WeightsError(
                f"{source} has a backbone alone, not a detector: training starts from it where "
                "model.backbone.init_cfg.checkpoint names it"
            )
        _log(f"{source} has a backbone alone: all else is randomly initialised")
    else:
        # what may be missing of a backbone in a training, a test cannot do without
        rest = {k: v for k, v in own.items() if k not in matched} if must_fill else rest
        if "num_classes" in adapt and None not in classes:
            given, note = _with_shared_rows(rest, given, model, *classes)
            _log(f"{source}: {note}")
        matched.update(_match_rest(rest, given, source, adapt, may_adapt=not must_fill))
    return MatchedDetector(matched, parts)


def _log(line: str) -> None:
    print_log(line, logger="current")


def _in_own_names(
    checkpoint: object, own: Mapping[str, Tensor], starts: list[str], source: str
) -> dict[str, Tensor]:
    """The tensors by names that are the model's, but for those inside of its backbones."""
    try:
        tensors = flatten(checkpoint)
        before = find_names(tensors, own)
        if before is not None:
            return strip_prefix(tensors, before)
        if len(starts) != 1:
            return tensors  # what is missing will be said
        # a backbone alone, or in a detector under another name
        found = find_backbone(tensors)
    except ValueError as error:
        name = "".join(starts[:1]).removesuffix(".") or "backbone"
        raise WeightsError(f"cannot load the {name} from {source}: {error}") from error
    part = {starts[0] + k: v for k, v in strip_prefix(tensors, found.prefix).items()}
    return part | other_parts(tensors, found)


def _match_part(
    start: str, backbone: nn.Module, part: Mapping[str, Tensor], source: str, adapt: Collection[str]
) -> MatchedBackbone:
    name = start.removesuffix(".") or "backbone"
    if not part and "parts" in adapt:
        note = f"{name}: not in {source}, randomly initialised, as load_adapt has 'parts'"
        return MatchedBackbone({}, note)
    if not part:
        raise WeightsError(f"cannot load the {name} from {source}: it has nothing of that name")
    wanted = [a for a in adapt if a in ADAPTATIONS]
    return match_backbone(backbone, part, source, prefix="", adapt=wanted, name=name)


def _with_shared_rows(
    own: Mapping[str, Tensor],
    given: Mapping[str, Tensor],
    model: nn.Module,
    old: Sequence[str],
    new: Sequence[str],
) -> tuple[dict[str, Tensor], str]:
    """Put the rows of classes that both know into tensors of the model's number of classes.

    Returns:
        The given tensors, those of other numbers of classes replaced, and a line on what was kept.
    """
    shared = [name for name in new if name in old]
    if not shared or len(old) == len(new):
        rows = "all rows are kept, in their order" if len(old) == len(new) else "no row is kept"
        return {**given}, f"{len(shared)} of {len(new)} classes have a name that it knows: {rows}"
    # of each class four rows, one after the other
    by_class = tuple(
        f"{name}." for name, m in model.named_modules() if hasattr(m, "reg_class_agnostic")
    )
    filled = {}
    for key, tensor in given.items():
        if key not in own or tensor.shape[1:] != own[key].shape[1:]:
            continue
        width = 4 if key.startswith(by_class or ("\0",)) else 1
        rows = shared_rows(old, new, len(tensor), len(own[key]), width) if tensor.ndim else None
        if rows is not None:
            filled[key] = own[key].detach().to(tensor.device, tensor.dtype, copy=True)
            filled[key][[to for to, _ in rows]] = tensor[[of for _, of in rows]]
    return {**given, **filled}, (
        f"rows of {len(shared)} of {len(new)} classes are kept in {len(filled)} tensors, those of "
        f"{first([repr(name) for name in shared])}; the other classes are randomly initialised"
    )


def shared_rows(
    old: Sequence[str], new: Sequence[str], count: int, wanted: int, width: int = 1
) -> list[tuple[int, int]] | None:
    """Where the rows of classes that both know stand in a tensor.

    Args:
        old: classes of the checkpoint.
        new: classes of the model.
        count: rows of the checkpoint's tensor.
        wanted: rows of the model's.
        width: rows of a class, in tensors without background, which may also have one a class.

    Returns:
        Pairs of rows, of the model and of the checkpoint, with the background's, the last, where
        there is one; None for a tensor that has no rows of classes.
    """
    pairs = [(new.index(name), old.index(name)) for name in new if name in old]
    for background in (0, 1):
        if count == len(old) + background and wanted == len(new) + background:
            return pairs + [(len(new), len(old))] * background
    if width > 1 and count == width * len(old) and wanted == width * len(new):
        return [(width * a + i, width * b + i) for a, b in pairs for i in range(width)]
    return None


def _match_rest(
    own: Mapping[str, Tensor],
    given: Mapping[str, Tensor],
    source: str,
    adapt: Collection[str],
    may_adapt: bool,
) -> dict[str, Tensor]:
    """Necks and heads: what is to be loaded, after a check and a line for every difference."""
    # counters of batches came with a later torch than some published detectors
    missing = [k for k in own if k not in given and not k.endswith("num_batches_tracked")]
    other = [k for k in own if k in given and given[k].shape != own[k].shape]
    classes = [k for k in other if given[k].shape[1:] == own[k].shape[1:]]
    unused = [k for k in given if k not in own]
    faults, notes = [], []
    for names, what, fix in (
        (missing, "are missing", "parts"),
        (classes, "have another first axis (number of classes)", "num_classes"),
        ([k for k in other if k not in classes], "have another shape", None),
    ):
        shown = [f"{k} {shape(given[k])} for {shape(own[k])}" if k in given else k for k in names]
        sentence = f"{len(names)} of {len(own)} tensors {what} ({first(shown)})"
        if names and fix in adapt:
            notes.append(f"{sentence}: randomly initialised, as load_adapt has '{fix}'")
        elif names:
            advice = f"; load_adapt=['{fix}'] leaves them randomly initialised"
            faults.append(sentence + advice * bool(fix and may_adapt))
    if faults:
        raise WeightsError(
            f"{source} does not fit the model: {', '.join(faults)}. Otherwise give the config that "
            "it was trained with"
        )
    if unused:
        notes.append(f"{len(unused)} tensors of it are not in the model ({first(unused)})")
    for note in notes:
        _log(f"{source}: {note}")
    return {k: v for k, v in given.items() if k in own and k not in other}


def checkpoint_classes(source: str | Sequence[str]) -> Sequence[str] | None:
    """The names of the classes of a detector's checkpoint; None where it does not have them.

    Args:
        source: path or URL, or alternatives of which the first that can be had is read.
    """
    return classes_of(read_checkpoint(fetch_first(source)[1], mmap=True))


def classes_of(checkpoint: object) -> Sequence[str] | None:
    """The names of the classes in a checkpoint, as MMDetection 3 or 2 wrote them, or None."""
    meta = checkpoint.get("meta") if isinstance(checkpoint, Mapping) else None
    meta = meta if isinstance(meta, Mapping) else {}
    return (meta.get("dataset_meta") or {}).get("classes") or meta.get("CLASSES")


def verify_weights(cfg: Config) -> int:
    """Build a config's model and load the weights that it names; the log reports each load.

    They are named by ``init_cfg`` of ConvNeXt backbones, or by ``load_from``, which stands before
    them. Returns how many loads there were.

    Raises:
        WeightsError: a file does not fit.
        CheckpointError: a file cannot be had or read.
    """
    init_default_scope(cfg.get("default_scope", "mmdet"))
    model = MODELS.build(cfg.model)
    if cfg.get("load_from"):
        source, path = fetch_first(cfg.load_from)
        matched = match_detector(model, read_checkpoint(path), source, cfg.get("load_adapt") or ())
        load_matched(model, *matched)
        return 1
    backbones = [m for m in model.modules() if isinstance(m, LoadsAnyLayout)]
    pretrained = [m for m in backbones if pretrained_cfg(m.init_cfg)]
    for backbone in pretrained:
        backbone.init_weights()
    whole = bool(model.init_cfg) and model not in backbones
    if whole:  # MMDetection's own way
        initialize(model, model.init_cfg)
    return len(pretrained) + whole
