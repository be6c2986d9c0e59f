"""Where a config's data lies, and whether it is there, before any time is spent on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

from mmengine.config import Config, ConfigDict

from mmconvnext.errors import DataError


def leaf_datasets(dataset: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The data sets inside of wrappers such as ``RepeatDataset`` and ``ConcatDataset``."""
    if "dataset" in dataset:
        return leaf_datasets(dataset["dataset"])
    if "datasets" in dataset:
        return [leaf for each in dataset["datasets"] for leaf in leaf_datasets(each)]
    return [dataset]


def metrics_of(evaluator: Mapping[str, Any] | Sequence | None) -> list[ConfigDict]:
    """The metrics of an evaluator: one, a list, or those of a ``MultiDatasetsEvaluator``."""
    if evaluator is None:
        return []
    if isinstance(evaluator, Mapping):
        return metrics_of(evaluator["metrics"]) if "metrics" in evaluator else [evaluator]
    return list(evaluator)


def kinds_of(metric: Mapping[str, Any]) -> list[str]:
    """What a COCO metric is asked for: ``bbox``, ``segm``, ..."""
    kinds = metric.get("metric", "bbox")
    return [kinds] if isinstance(kinds, str) else list(kinds)


def annotation_path(dataset: Mapping[str, Any]) -> Path:
    """Of a data set's settings, which name one."""
    return Path(dataset.get("data_root") or "", dataset["ann_file"])


def picture_folder(dataset: Mapping[str, Any]) -> Path:
    """Of a data set's settings."""
    prefix = (dataset.get("data_prefix") or {}).get("img") or ""
    return Path(dataset.get("data_root") or "", prefix)


def is_remote(path: str) -> bool:
    """Whether a path is one of MMEngine's other file systems, such as ``s3://``."""
    return "://" in path


def check_class_names(classes: Any, owner: object) -> None:
    """Check that ``metainfo.classes``, if given, are some names, or DataError is raised."""
    if isinstance(classes, str):
        raise DataError(
            f"metainfo=dict(classes={classes!r}) of {owner} is a string, not a tuple of names; "
            f"write ({classes!r},)"
        )
    names = list(classes) if isinstance(classes, Sequence) else []
    if classes is not None and not (names and all(isinstance(name, str) for name in names)):
        raise DataError(
            f"metainfo=dict(classes={classes!r}) of {owner} must be a tuple of names, such as "
            "('cat', 'dog')"
        )


def check_data_paths(cfg: Config, splits: tuple[str, ...]) -> None:
    """Check that the files and folders of a complete config's data sets exist, or raise DataError.

    ``splits`` are out of ``train``, ``val`` and ``test``; those without a data loader are skipped.
    """
    for split in splits:
        loader = cfg.get(f"{split}_dataloader")
        if not loader:
            continue
        for dataset in leaf_datasets(loader["dataset"]):
            _check_dataset_paths(dataset, split)
            if not cfg.get("allow_pickle"):
                _refuse_pickles(dataset, split)
        for metric in metrics_of(cfg.get(f"{split}_evaluator")):
            ann_file = metric.get("ann_file")
            if isinstance(ann_file, str) and not is_remote(ann_file):
                _check_file(Path(ann_file), f"{split}_evaluator.ann_file")


def _check_dataset_paths(dataset: Mapping[str, Any], split: str) -> None:
    root, ann_file = dataset.get("data_root") or "", dataset.get("ann_file")
    if is_remote(root):
        return
    prefix = (dataset.get("data_prefix") or {}).get("img")
    if root and not Path(root).is_dir():
        layout = ", ".join(str(p) for p in (ann_file, prefix) if p)
        raise DataError(
            f"the data folder {root} ({split}_dataloader) does not exist; it should have {layout}. "
            "Give another one with --data-root"
        )
    if ann_file:
        _check_file(annotation_path(dataset), f"{split}_dataloader.dataset.ann_file")
    if prefix and not (folder := picture_folder(dataset)).is_dir():
        raise DataError(
            f"the image folder {folder} ({split}_dataloader.dataset.data_prefix) does "
            "not exist; give the data set's folder with --data-root, or the right prefix"
        )


def _refuse_pickles(dataset: Mapping[str, Any], split: str) -> None:
    for name in ("ann_file", "proposal_file"):
        if str(dataset.get(name)).endswith((".pkl", ".pickle")):
            raise DataError(
                f"{split}_dataloader.dataset.{name}={dataset[name]} is a pickle, which runs what "
                "is in it when it is read; convert it to JSON, or set allow_pickle=True in the "
                "config if it is your own"
            )


def _check_file(path: Path, setting: str) -> None:
    if not path.is_file():
        raise DataError(
            f"the annotation file {path} ({setting}) does not exist; give the data set's folder "
            "with --data-root, or the right file with --cfg-options"
        )


def check_dataset(dataset: Any) -> None:
    """Check that a data set built by MMDetection has images and its first one is there."""
    name = getattr(dataset, "ann_file", type(dataset).__name__)
    metainfo = getattr(dataset, "metainfo", None)
    classes = metainfo.get("classes") if isinstance(metainfo, Mapping) else None
    check_class_names(classes, name)
    if hasattr(dataset, "cat_ids") and not dataset.cat_ids:
        names = [*map(str, classes or ())]
        short = ", ".join([*names[:4], *(["..."] if len(names) > 4 else [])])
        raise DataError(
            f"{name} has none of the classes {short}; set "
            "metainfo=dict(classes=(...)) of the data set to the names of its categories"
        )
    if len(dataset) == 0:
        raise DataError(f"{name} has no image to use (images without annotations are left out)")
    first = dataset.get_data_info(0).get("img_path") if hasattr(dataset, "get_data_info") else None
    if first and not is_remote(first) and not Path(first).is_file():
        raise DataError(
            f"{first}, an image of {name}, does not exist; set data_prefix=dict(img=...) of the "
            "data set to the folder of its images"
        )


def write_whole(path: Path, text: str) -> None:
    """Write a file, and its folder, at once: other processes see the whole of it or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # no other process, on no other machine of a shared disk, has this name
    part = path.with_name(f".{path.name}.{uuid4().hex}")
    try:
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
