"""Classes and annotation files of a config, said once and put wherever they belong.

``classes = (...)`` and ``ann_files = dict(train=..., val=..., test=...)`` at the top level of a
config reach every head, data set and metric.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from torch import nn

from mmconvnext.data.names import palette_of
from mmconvnext.data.paths import leaf_datasets, metrics_of
from mmconvnext.errors import ConfigError

SPLITS = ("train", "val", "test")
# Their num_classes are no classes of the data: objects or not, ImageNet's, stuff.
OTHER_HEADS = ("rpn_head", "backbone", "semantic_head")
NUMBERS = ("num_classes", "num_things_classes")


def apply_shortcuts(cfg: Config) -> None:
    """Put a config's own ``classes`` and ``ann_files`` into its heads, data sets and metrics.

    Raises:
        ConfigError: they are not what they have to be.
    """
    if cfg.get("classes") is not None and cfg.get("model") is not None:
        set_classes(cfg, cfg.classes)
    if cfg.get("ann_files") is not None:
        set_ann_files(cfg, cfg.ann_files)


def set_classes(cfg: Config, classes: Sequence[str]) -> None:
    """Let every head and data set of a config, which is changed, have these classes.

    A palette of as many colours stays; otherwise the classes get colours of their own.

    Raises:
        ConfigError: they are no sequence of different names.
    """
    names = [] if isinstance(classes, str) or not isinstance(classes, Sequence) else [*classes]
    if not names or not all(isinstance(name, str) for name in names):
        raise ConfigError(
            f"classes={classes!r} must be a tuple of names, such as ('cat', 'dog') or ('cat',)"
        )
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ConfigError(f"classes has {twice!r} twice")
    for dataset in (dataset for split in SPLITS for dataset in datasets_of(cfg, split)):
        known = dataset.get("metainfo") or {}
        palette = known.get("palette") or ()
        if len(palette) != len(names):
            palette = palette_of(len(names))
        dataset["metainfo"] = {**known, "classes": tuple(names), "palette": palette}
        if cfg.get("metainfo") is not None:  # where a config says it once for its data sets
            cfg.metainfo = {**cfg.metainfo, **dataset["metainfo"]}
    _set_numbers(cfg.model, len(names))


def _set_numbers(node: Any, count: int) -> None:
    """Set the number of classes of whatever in a model has one."""
    if isinstance(node, list | tuple):
        for each in node:
            _set_numbers(each, count)
    if not isinstance(node, Mapping):
        return
    for key, value in node.items():
        if key in NUMBERS and isinstance(value, int):
            node[key] = count
        elif key not in OTHER_HEADS:
            _set_numbers(value, count)
    weights = node.get("class_weight")  # of DETR and others: one for each class, and one for none
    if isinstance(weights, list | tuple) and len(set(weights[:-1])) == 1:
        node["class_weight"] = [weights[0]] * count + [weights[-1]]


def class_tensors(model: nn.Module, settings: Mapping[str, Any]) -> set[str]:
    """Names of a model's tensors whose shape depends on the number of classes.

    Args:
        model: built from the settings.
        settings: of the model; not changed.
    """
    settings = deepcopy(dict(settings))
    # of no data set, and no number of anything else in a head
    _set_numbers(settings, 1013)
    with torch.random.fork_rng(devices=[]):
        other = MODELS.build(settings).state_dict()
    own = model.state_dict()
    return {k for k, v in own.items() if k in other and v.shape != other[k].shape}


def set_ann_files(cfg: Config, files: Mapping[str, str]) -> None:
    """Let the data set and the COCO metrics of each split use an annotation file.

    Args:
        cfg: changed.
        files: by split; relative to the ``data_root`` of the data set. Without ``test`` it is that
            of ``val``.

    Raises:
        ConfigError: a split is unknown, or has several data sets.
    """
    if not isinstance(files, Mapping) or not files or not set(files) <= set(SPLITS):
        raise ConfigError(
            f"ann_files={files!r} must be dict(train=..., val=..., test=...) or some of these"
        )
    files = {"test": files["val"], **files} if "val" in files else files
    separate_test(cfg)
    for split, file in files.items():
        if (dataset := only_dataset(cfg, split)) is None:
            continue
        dataset["ann_file"] = file
        for metric in metrics_of(cfg.get(f"{split}_evaluator")) * (split != "train"):
            if "ann_file" in metric:
                metric["ann_file"] = str(Path(dataset.get("data_root") or "", file))


def separate_test(cfg: Config) -> None:
    """Let the test's settings not be the same objects as the validation's."""
    for key in ("test_dataloader", "test_evaluator"):
        if cfg.get(key) is not None:
            cfg[key] = deepcopy(cfg[key])


def datasets_of(cfg: Config, split: str) -> Iterable[Mapping[str, Any]]:
    """The data sets of a split, without their wrappers; none where there is no such split."""
    loader = cfg.get(f"{split}_dataloader")
    return [] if loader is None else leaf_datasets(loader["dataset"])


def only_dataset(cfg: Config, split: str) -> Mapping[str, Any] | None:
    """The data set of a split, or None where there is no such split.

    Raises:
        ConfigError: there are several.
    """
    datasets = [*datasets_of(cfg, split)]
    if len(datasets) > 1:
        raise ConfigError(
            f"{split}_dataloader of {cfg.filename} has {len(datasets)} data sets, not one whose "
            "annotation file could be replaced"
        )
    return datasets[0] if datasets else None
