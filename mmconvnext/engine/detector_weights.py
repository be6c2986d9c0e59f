"""A whole detector's weights, from anybody's checkpoint to our names, strictly."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Mapping

from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.registry import init_default_scope
from mmengine.runner.checkpoint import load_state_dict
from torch import Tensor, nn

from mmconvnext.compat import read_checkpoint
from mmconvnext.models import ConvNeXt
from mmconvnext.weights import WeightsError
from mmconvnext.weights.loader import REPORT, fit, pretrained_cfg
from mmconvnext.weights.matching import ADAPTATIONS, check_adaptations, first, shape
from mmconvnext.weights.sources import fetch_first

LOAD_ADAPTATIONS = (*ADAPTATIONS, "num_classes", "parts")


def fit_detector(
    model: nn.Module,
    checkpoint: Mapping[str, object],
    source: str,
    adapt: Collection[str] = (),
    must_fill: bool = False,
) -> OrderedDict[str, Tensor]:
    """Convert a checkpoint for a detector and check that it fits; nothing is loaded.

    Backbones of the official code (MMDetection 2.x) and of mmpretrain (MMDetection 3.x) are
    converted; names of necks and heads are the same in all. A file that has only a ConvNeXt, such
    as ``timm://convnext_tiny.fb_in22k``, fills the backbone, and the line in the log says so.

    Args:
        model: the detector; may be wrapped, for distributed running or test-time augmentation.
        checkpoint: of MMEngine, or a state dict.
        source: what to call it in messages.
        adapt: differences to mend, out of ``in_channels`` and ``kernel_size`` (see
            :func:`mmconvnext.weights.matching.match`), ``num_classes`` (tensors that differ in
            their first axis alone start new) and ``parts`` (parts that the file lacks start new).
        must_fill: every tensor has to have its value, as in a test; ``adapt`` is ignored.

    Returns:
        The state dict to load.

    Raises:
        WeightsError: a tensor is missing or has another shape, or ``adapt`` is wrong.
    """
    adapt = () if must_fill else _checked(adapt)
    model = _unwrapped(model)
    own, given = dict(model.state_dict()), _state_dict(checkpoint)
    backbones = {n: m for n, m in model.named_modules() if isinstance(m, ConvNeXt)}
    fitted: OrderedDict[str, Tensor] = OrderedDict()
    fitted._metadata = {}

    def add_backbone(name: str, part: object, prefix: str | None) -> None:
        wanted = [a for a in adapt if a in ADAPTATIONS]
        label = name or "backbone"
        tensors, line = fit(backbones[name], part, source, prefix, adapt=wanted, name=label)
        fitted.update({_inside(name) + k: v for k, v in tensors.items()})
        fitted._metadata[name] = {REPORT: line}

    if backbones and not must_fill and not own.keys() & given.keys():
        add_backbone(next(iter(backbones)), checkpoint, None)
        print_log(f"{source} has a backbone alone: all else starts new", logger="current")
        return fitted
    new = {}
    for name in backbones:
        part, mine = _pop_part(given, name), _pop_part(own, name)
        if part or "parts" not in adapt:
            add_backbone(name, part, "")
        else:
            print_log(f"{name}: not in {source}, it starts new", logger="current")
        mine = {_inside(name) + k: v for k, v in mine.items()}
        new.update({k: v for k, v in mine.items() if k not in fitted})
    # what is missing of a backbone and may be, a test cannot do without
    fitted.update(_fit_rest({**own, **new} if must_fill else own, given, source, adapt))
    return fitted


def _inside(name: str) -> str:
    """What the names of a module's tensors begin with; a model may be a backbone itself."""
    return f"{name}." if name else ""


def _checked(adapt: Collection[str]) -> Collection[str]:
    try:
        check_adaptations(adapt, LOAD_ADAPTATIONS)
    except ValueError as error:
        raise WeightsError(f"load_{error}") from error
    return adapt


def _unwrapped(model: nn.Module) -> nn.Module:
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.module
    return model


def _state_dict(checkpoint: object) -> dict[str, Tensor]:
    """The tensors that MMEngine would load; none where the file has another form."""
    found = checkpoint.get("state_dict", checkpoint) if isinstance(checkpoint, Mapping) else {}
    return {k.removeprefix("module."): v for k, v in found.items() if isinstance(v, Tensor)}


def _pop_part(tensors: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    """Take a module's tensors out of a state dict, without the module's name."""
    prefix = _inside(name)
    return {k.removeprefix(prefix): tensors.pop(k) for k in list(tensors) if k.startswith(prefix)}


def _fit_rest(
    own: Mapping[str, Tensor], given: Mapping[str, Tensor], source: str, adapt: Collection[str]
) -> dict[str, Tensor]:
    """Necks and heads: what is to be loaded, after a check and a line for every difference."""
    # counters of batches came with a later torch than some published detectors
    missing = [k for k in own if k not in given and not k.endswith("num_batches_tracked")]
    other = [k for k in own if k in given and given[k].shape != own[k].shape]
    classes = [k for k in other if given[k].shape[1:] == own[k].shape[1:]]
    faults, notes = [], []
    for names, what, fix in (
        (missing, "are missing", "parts"),
        (classes, "have another first axis (number of classes)", "num_classes"),
        ([k for k in other if k not in classes], "have another shape", None),
    ):
        if not names:
            continue
        sentence = f"{len(names)} of {len(own)} tensors {what} ({_shown(names, own, given)})"
        if fix in adapt:
            notes.append(f"{sentence}: they start new, as load_adapt has '{fix}'")
        else:
            faults.append(sentence + (f"; load_adapt=['{fix}'] lets them start new" if fix else ""))
    if faults:
        raise WeightsError(
            f"{source} does not fit the model: {', '.join(faults)}. Give the config that it was "
            "trained with"
        )
    unused = [k for k in given if k not in own]
    if unused:
        notes.append(f"{len(unused)} tensors of it are not in the model ({first(unused)})")
    for note in notes:
        print_log(f"{source}: {note}", logger="current")
    return {k: v for k, v in given.items() if k in own and k not in other}


def _shown(names: list[str], own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> str:
    return first([f"{k} {shape(given[k])} for {shape(own[k])}" if k in given else k for k in names])


def verify_weights(cfg: Config) -> int:
    """Build a config's model and load the weights that it names; the log reports each load.

    Args:
        cfg: of a detector, with ``init_cfg`` of ConvNeXt backbones, ``load_from``, or both.

    Returns:
        How many loads there were.

    Raises:
        WeightsError: a file does not fit.
        CheckpointError: a file cannot be had or read.
    """
    init_default_scope(cfg.get("default_scope", "mmdet"))
    model = MODELS.build(cfg.model)
    backbones = [m for m in model.modules() if isinstance(m, ConvNeXt)]
    pretrained = [m for m in backbones if pretrained_cfg(m.init_cfg) is not None]
    if not cfg.get("load_from"):
        for backbone in pretrained:
            backbone.init_weights()
        return len(pretrained)
    sources = cfg.load_from if isinstance(cfg.load_from, str) else list(cfg.load_from)
    source, path = fetch_first(sources)
    fitted = fit_detector(model, read_checkpoint(path), source, cfg.get("load_adapt") or ())
    load_state_dict(model, fitted)
    return 1
