"""A whole detector's weights, from anybody's checkpoint to our names, strictly."""

from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence

from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.model import initialize
from mmengine.registry import init_default_scope
from torch import Tensor, nn

from mmconvnext.compat.checkpoint_io import read_checkpoint
from mmconvnext.errors import WeightsError
from mmconvnext.weights.layouts import as_detector, find_backbone, find_names, flatten, strip_prefix
from mmconvnext.weights.load import (
    LoadsAnyLayout,
    Matched,
    load_matched,
    match_backbone,
    pretrained_cfg,
    unwrapped,
)
from mmconvnext.weights.matching import ADAPTATIONS, check_adaptations, first, shape
from mmconvnext.weights.sources import fetch_first

Classes = Sequence[str] | None


def match_detector(
    model: nn.Module,
    checkpoint: Mapping[str, object],
    source: str,
    adapt: Collection[str] = (),
    must_fill: bool = False,
    classes: tuple[Classes, Classes] = (None, None),
    class_tensors: Callable[[], Collection[str]] | None = None,
) -> Matched:
    """Convert a checkpoint for a detector and check that it fits; nothing is loaded.

    Its backbone may be of any known layout; names of necks and heads are the same in all. A file
    that has only a ConvNeXt fills the backbone, and a line in the log says so. Any other difference
    is a WeightsError.

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
        class_tensors: names tensors with rows of classes, where both have as many.
    """
    adapt = () if must_fill else adapt
    check_adaptations(adapt, (*ADAPTATIONS, "num_classes", "parts"), "load_adapt")
    model = unwrapped(model)
    own = dict(model.state_dict())
    # what the names of each begin with; a model may be a backbone itself
    backbones = {
        f"{n}." * bool(n): m for n, m in model.named_modules() if isinstance(m, LoadsAnyLayout)
    }
    given = _in_own_names(checkpoint, own, list(backbones), source)
    matched = _match_backbones(backbones, given, source, adapt)
    matched.state_dict._metadata = dict(getattr(checkpoint, "_metadata", None) or {})
    rest = {k: v for k, v in own.items() if not k.startswith(tuple(backbones))}
    if backbones and rest and not rest.keys() & given.keys():
        if must_fill:
            raise WeightsError(
                f"{source} has a backbone alone, not a detector: training starts from it where "
                "model.backbone.init_cfg.checkpoint names it"
            )
        _log(f"{source} has a backbone alone: all else is randomly initialised")
        return matched
    if must_fill:  # what may be missing of a backbone in a training, a test cannot do without
        rest = {k: v for k, v in own.items() if k not in matched.state_dict}
    elif "num_classes" in adapt and None not in classes:
        given |= _shared_rows(rest, given, model, *classes, class_tensors, source)
    matched.state_dict.update(_match_rest(rest, given, source, adapt, may_adapt=not must_fill))
    return matched


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
    return as_detector(tensors, found, strip_prefix(tensors, found.prefix), starts[0])


def _match_backbones(
    backbones: Mapping[str, nn.Module],
    given: dict[str, Tensor],
    source: str,
    adapt: Collection[str],
) -> Matched:
    """What is for the backbones, by the start of their names; it is taken out of ``given``."""
    matched = Matched(OrderedDict(), {})
    for start, backbone in backbones.items():
        name = start.removesuffix(".") or "backbone"
        part = {k.removeprefix(start): given.pop(k) for k in [*given] if k.startswith(start)}
        if not part and "parts" in adapt:
            _log(f"{name}: not in {source}, randomly initialised, as load_adapt has 'parts'")
            matched.backbones[backbone] = None
            continue
        if not part:
            raise WeightsError(f"cannot load the {name} from {source}: it has nothing of that name")
        wanted = [a for a in adapt if a in ADAPTATIONS]
        found = match_backbone(backbone, part, source, prefix="", adapt=wanted, name=name)
        matched.backbones.update(found.backbones)
        matched.state_dict.update({start + k: v for k, v in found.state_dict.items()})
    return matched


def _shared_rows(
    own: Mapping[str, Tensor],
    given: Mapping[str, Tensor],
    model: nn.Module,
    old: Sequence[str],
    new: Sequence[str],
    class_tensors: Callable[[], Collection[str]] | None,
    source: str,
) -> dict[str, Tensor]:
    """The model's tensors of classes, with the rows of those that the checkpoint knows by name."""
    # rows of a class, in the model and in the checkpoint
    pairs = [(new.index(name), old.index(name)) for name in new if name in old]
    known = f"{source}: {len(pairs)} of {len(new)} classes have a name that it knows: "
    # with other numbers of classes the shapes tell
    same = len(old) == len(new)
    of_classes = class_tensors() if same and [*old] != [*new] and class_tensors else ()
    if same and not of_classes:
        _log(f"{known}all rows are kept, in their order")
        return {}
    if not pairs and not same:
        _log(f"{known}no row is kept")
        return {}
    # of each class four rows, one after the other
    boxes = tuple(
        f"{n}." * bool(n) for n, m in model.named_modules() if hasattr(m, "reg_class_agnostic")
    )
    filled, unknown = {}, []
    for key, tensor in given.items():
        if key not in own or not tensor.ndim or tensor.shape[1:] != own[key].shape[1:]:
            continue
        if same and key not in of_classes:
            continue
        # rows of a class, and whether the background's is behind them
        for width, background in ((1, 0), (1, 1), (4, 0))[: 2 + key.startswith(boxes)]:
            sizes = [width * len(names) + background for names in (old, new)]
            if sizes == [len(tensor), len(own[key])]:
                rows = [(width * a + i, width * b + i) for a, b in pairs for i in range(width)]
                rows += [(len(new), len(old))] * background
                filled[key] = own[key].detach().to(tensor.device, tensor.dtype, copy=True)
                filled[key][[to for to, _ in rows]] = tensor[[of for _, of in rows]]
                break
        else:
            if same:  # of several anchors, say: as many rows, and of other classes
                unknown.append(key)
    shared = first([repr(new[a]) for a, _ in pairs])
    _log(
        f"{source}: rows of {len(pairs)} of {len(new)} classes are kept in {len(filled)} tensors, "
        f"those of {shared}; the other classes are randomly initialised"
        + f", and all of {first(unknown)}"
        * bool(unknown)
        if pairs
        else f"{known}no row is kept"
    )
    return filled | {key: own[key].detach().clone() for key in unknown}


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
    if unused := [k for k in given if k not in own]:
        notes.append(f"{len(unused)} tensors of it are not in the model ({first(unused)})")
    for note in notes:
        _log(f"{source}: {note}")
    return {k: v for k, v in given.items() if k in own and k not in other}


def checkpoint_classes(source: str | Sequence[str]) -> Classes:
    """The classes of a detector's checkpoint, the first of several sources that can be had."""
    return classes_of(read_checkpoint(fetch_first(source)[1], mmap=True))


def classes_of(checkpoint: object) -> Classes:
    """The names of the classes in a checkpoint, as MMDetection 3 or 2 wrote them, or None."""
    meta = checkpoint.get("meta") if isinstance(checkpoint, Mapping) else None
    meta = meta if isinstance(meta, Mapping) else {}
    return (meta.get("dataset_meta") or {}).get("classes") or meta.get("CLASSES")


def verify_weights(cfg: Config) -> int:
    """Build a config's model and load the weights that it names; give the number of loads.

    They are named by ``init_cfg`` of ConvNeXt backbones, or by ``load_from``, which stands before
    them.
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
