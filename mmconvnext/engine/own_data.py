"""Pointing a config at somebody's folder (``--dataset``), and writing down what was chosen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mmengine.config import Config, ConfigDict

from mmconvnext.compat.config_names import PREFIX, config_dir
from mmconvnext.data.layouts import read_layout
from mmconvnext.data.names import check_known, did_you_mean, name_list
from mmconvnext.data.own import OwnData, make_own
from mmconvnext.data.paths import metrics_of, write_whole
from mmconvnext.engine.classes import SPLITS, only_dataset, separate_test, set_classes
from mmconvnext.engine.config import load_config, map_values
from mmconvnext.errors import ConfigError, DataError
from mmconvnext.evaluation.coco_metric import is_coco_metric
from mmconvnext.evaluation.tables import format_table

# A detector with masks, and what it is without.
WITHOUT_MASKS = {"MaskRCNN": "FasterRCNN", "FasterRCNN": "FasterRCNN", "CascadeRCNN": "CascadeRCNN"}
WITHOUT_MASK_HEAD = ("StandardRoIHead", "CascadeRoIHead")


class ChosenData(NamedTuple):
    """What :func:`use_dataset` did: lines for the log, a table of the data, and its splits."""

    notes: list[str]
    table: str
    splits: tuple[str, ...]


def use_dataset(
    cfg: Config, root: Path, folder: Path, labels: Sequence[str] | None = None, trains: bool = True
) -> ChosenData:
    """Point a config at a folder of pictures and annotations in any known layout.

    Args:
        cfg: complete; changed in place: data sets, metrics, classes and their number in every head
            (all of the data, or those that the config's ``classes`` chooses);
            without masks in the data the mask head goes.
        root: the folder.
        folder: for annotation files that have to be written.
        labels: classes of the detector that is tested, which the data may have some of.
        trains: whether there has to be a training split.

    Raises:
        DataError: the folder is in no known layout, or has nothing to use, or other classes than
            the detector.
        ConfigError: the config cannot be used with it.
    """
    root = root.absolute()
    if not root.is_dir():
        raise DataError(f"--dataset {root}: there is no such folder")
    name, splits = read_layout(root)
    own = make_own(splits, folder)
    if trains and "train" not in own.files:
        raise DataError(
            f"{root} has no training split, only {', '.join(splits)}; call its folder or file train"
        )
    separate_test(cfg)
    notes = [f"{root}: {name}, {len(own.classes)} classes", *own.notes]
    _set_paths(cfg, root, own)
    if not own.masks:
        notes += remove_masks(cfg)
    # said at the top level, too: there they would win when the config that is written is read
    if labels is not None:
        cfg.classes = check_known(own.classes, labels, root)
    elif cfg.get("classes") is None:
        cfg.classes = own.classes
    else:  # the config's or the command line's choice
        notes += _check_chosen(cfg.classes, own.classes, root)
    set_classes(cfg, cfg.classes)
    if cfg.get("ann_files") is not None:
        cfg.ann_files = {s: _below(own.files[s], root) for s in SPLITS if s in own.files}
    if cfg.get("load_from") and trains and "num_classes" not in (cfg.get("load_adapt") or ()):
        cfg.load_adapt = [*(cfg.get("load_adapt") or ()), "num_classes"]
        notes.append("load_adapt has 'num_classes' now: load_from may have other classes")
    return ChosenData(notes, format_table(own.rows), tuple(own.files))


def _check_chosen(classes: Sequence[str], own: Sequence[str], root: Path) -> list[str]:
    """Name the classes of the data that are left out; refuse those that it does not have."""
    for name in classes:
        if name not in own:
            raise DataError(
                f"{root} has no class {name!r}{did_you_mean(name, own)}, which the config's "
                f"`classes` names; it has {name_list(own)}. Without `classes` all of them are used"
            )
    others = [name for name in own if name not in classes]
    return [f"left out, as the config's `classes` lacks them: {name_list(others)}"] * bool(others)


def _set_paths(cfg: Config, root: Path, own: OwnData) -> None:
    if "data_root" in cfg:
        cfg.data_root = f"{root}/"
    for split in (split for split in SPLITS if split in own.files):
        dataset = only_dataset(cfg, split)
        if dataset is None:
            continue
        # MMDetection's default types for other data sets read other files
        dataset["type"] = "CocoDataset"
        dataset["data_root"] = f"{root}/"
        dataset["ann_file"] = _below(own.files[split], root)
        dataset["data_prefix"] = {"img": _below(own.folders[split], root)}
        dataset["metainfo"] = {}
        dataset.pop("indices", None)  # of the config's own data
        # small pictures are somebody's data, too
        (dataset.get("filter_cfg") or {}).pop("min_size", None)
        if split == "train":
            continue
        dataset["test_mode"] = True
        for metric in metrics_of(cfg.get(f"{split}_evaluator")):
            if not is_coco_metric(metric):
                raise ConfigError(
                    f"{split}_evaluator of {cfg.filename} is {metric.get('type')}; --dataset needs "
                    "FastCocoMetric or CocoMetric there"
                )
            metric["ann_file"] = str(own.files[split])


def _below(path: Path, root: Path) -> str:
    """A path relative to a folder where it lies there, with an empty one for the folder itself."""
    if not path.is_relative_to(root):
        return str(path)
    relative = path.relative_to(root).as_posix()
    return "" if relative == "." else relative


def remove_masks(cfg: Config) -> list[str]:
    """Let a config train and test boxes alone: without mask head, masks in pipelines and metrics.

    Returns a line on what changed, or none where the config has no masks; raises ConfigError where
    the detector cannot do without masks.
    """
    model, head = cfg.model, cfg.model.get("roi_head") or {}
    kinds = (str(model.get("type")), str(head.get("type")))
    has_head = any(head.get(key) is not None for key in ("mask_head", "mask_roi_extractor"))

    def without_masks(value: Any) -> Any:
        is_dict = isinstance(value, Mapping)
        off = {k: False for k in ("with_mask", "pad_mask") if value.get(k)} if is_dict else {}
        return ConfigDict({**value, **off}) if off else value

    train = cfg.get("train_dataloader")
    loads_masks = map_values(train, without_masks) != train
    known = kinds[0] in WITHOUT_MASKS and kinds[1] in WITHOUT_MASK_HEAD
    if not known and (has_head or loads_masks):
        raise ConfigError(
            f"the data has boxes without masks, and {kinds[0]} of {cfg.filename} learns masks: "
            "choose a config of Mask R-CNN, Cascade Mask R-CNN or a detector of boxes"
        )
    for key in list(cfg):
        cfg[key] = map_values(cfg[key], without_masks)
    for split in SPLITS[1:]:
        for metric in metrics_of(cfg.get(f"{split}_evaluator")):
            metric["metric"] = "bbox"
    hook = (cfg.get("default_hooks") or {}).get("checkpoint") or {}
    if "segm" in str(hook.get("save_best")):
        hook["save_best"] = "coco/bbox_mAP"
    if not has_head:
        return []
    cfg.model.type = WITHOUT_MASKS[kinds[0]]
    cfg.model.roi_head.update(mask_head=None, mask_roi_extractor=None)
    return [
        "the data has boxes without masks: the same detector is trained without mask head, as "
        f"{'Faster' if cfg.model.type == 'FasterRCNN' else 'Cascade'} R-CNN, and box AP is reported"
    ]


def write_config(cfg: Config, name: str, path: Path, comment: str = "") -> None:
    """Write a config that inherits one by its path or name, with what is different in this one.

    ``comment`` is for its top: whole lines.
    """
    base = load_config(name)
    changed = difference(base.to_dict(), cfg.to_dict())
    for key in ("work_dir", "launcher"):
        changed.pop(key, None)
    text = f"{comment}_base_ = {base_name(name, base.filename)!r}\n{Config(changed).pretty_text}"
    write_whole(path, text)


def base_name(name: str, filename: str) -> str:
    """Write a config's path or name as a `_base_` that is found from any folder."""
    if "::" in name:
        return name
    path, folder = Path(filename).absolute(), config_dir().absolute()
    if path.is_relative_to(folder):
        return PREFIX + path.relative_to(folder).with_suffix("").as_posix()
    return str(path)


def difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """What has to be merged into one config, as MMEngine merges, to make the other of it."""
    changed: dict[str, Any] = {}
    for key, value in new.items():
        if key in old and old[key] == value:
            continue
        before = old.get(key)
        if isinstance(value, Mapping) and isinstance(before, Mapping) and set(before) <= set(value):
            changed[key] = difference(before, value)
        elif isinstance(value, Mapping) and key in old:
            changed[key] = {"_delete_": True, **value}
        else:
            changed[key] = value
    return changed
