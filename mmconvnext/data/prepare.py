"""The data of a config, checked before anything is built on it, and repaired where that is safe."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmdet.datasets import CocoDataset
from mmdet.registry import DATASETS
from mmengine.config import Config

from mmconvnext.data.files import CheckOptions, check_file
from mmconvnext.data.findings import Findings
from mmconvnext.data.names import check_known
from mmconvnext.data.paths import (
    annotation_path,
    check_class_names,
    is_remote,
    kinds_of,
    leaf_datasets,
    metrics_of,
    picture_folder,
)
from mmconvnext.errors import DataError

# MMCV's word for pictures that are not turned as EXIF says.
STORED = "color_ignore_orientation"


@dataclass
class PreparedData:
    """What :func:`prepare_data` found.

    Attributes:
        notes: lines for the log.
        refusals: why files are refused, one text for each.
        report: all findings, to be written as JSON.
    """

    notes: list[str] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)
    report: list[dict[str, Any]] = field(default_factory=list)

    def add(self, path: Path, found: Findings, options: CheckOptions) -> bool:
        """Add what was found in a file, each line once; False if the file is refused."""
        findings = [{**vars(each), "count": len(each.records)} for each in found]
        about = {"file": str(path), "used": found.path, "classes": found.classes}
        counts = {"objects": found.objects, "repaired_objects": found.repaired}
        self.report.append({**about, **counts, "findings": findings})
        errors = options.refusals(found)
        lines = [f"{path}: {line}" for line in errors or found]
        if len(errors) > 1:
            lines = [f"{path} cannot be used:\n" + "\n".join(f"- {error}" for error in errors)]
        known = self.refusals if errors else self.notes
        known += [line for line in lines if line not in known]
        return not errors

    def raise_refusals(self) -> None:
        """Raise DataError if a file is refused."""
        if self.refusals:
            raise DataError("\n".join(self.refusals))


def prepare_data(
    cfg: Config, splits: Sequence[str], labels: Sequence[str] | None = None
) -> PreparedData:
    """Check every annotation file that a config uses, and let it use the repaired ones.

    Args:
        cfg: complete; changed in place: ``ann_file`` and classes of data sets and metrics, and how
            pictures are loaded.
        splits: out of ``train``, ``val`` and ``test``.
        labels: classes of the detector that is tested, in its order; those of the training set
            otherwise. Data with some of these classes is evaluated on these alone.

    Raises:
        DataError: classes or files do not fit each other.
        ConfigError: ``data_checks`` is wrong.
    """
    options = CheckOptions.of(cfg.get("data_checks"))
    if options.mode == "off":
        return PreparedData(["data_checks: off, annotation files are taken as they are"])
    data, labels = PreparedData(), labels or training_classes(cfg)

    def check(path: Path, folder: Path | None, classes: Any, masks: bool) -> Findings | None:
        known = None
        # where it is another detector's data, the numbers of classes in its heads tell
        if labels and classes and {*classes} & {*labels}:
            known = check_known(classes, labels, f"{path} (metainfo.classes)")
        found = check_file(path, folder, classes, masks, options, known)
        return found if data.add(path, found, options) else None

    for split in splits:
        datasets = _coco_datasets(cfg, split)
        evaluator = None if split == "train" else cfg.get(f"{split}_evaluator")
        metrics = [m for m in metrics_of(evaluator) if isinstance(m.get("ann_file"), str)]
        apart = isinstance(evaluator, Mapping) and "metrics" in evaluator
        scored = any("segm" in kinds_of(metric) for metric in metrics)
        used: dict[Path, Findings] = {}
        for dataset in datasets:
            loads = any(transform.get("with_mask") for transform in dataset.get("pipeline") or ())
            path, masks = annotation_path(dataset), scored or loads
            if found := check(path, picture_folder(dataset), _classes(dataset), masks):
                _use(dataset, found)
                used[path.resolve()] = found
        classes = _classes(datasets[0]) if datasets else None
        for metric in metrics:
            path = Path(metric["ann_file"])
            found = used.get(path.resolve())
            if found is None and not data.refusals:
                found = check(path, None, classes, "segm" in kinds_of(metric))
            if found and used and (path.resolve() not in used or (not apart and len(used) > 1)):
                _check_images(found, path, list(used.values()), split, apart)
            if found:
                metric["ann_file"] = found.path
    return data


def _coco_datasets(cfg: Config, split: str) -> list[Mapping[str, Any]]:
    loader = cfg.get(f"{split}_dataloader")
    return [] if loader is None else list(filter(is_local_coco, leaf_datasets(loader["dataset"])))


def training_classes(cfg: Config) -> tuple[str, ...] | None:
    """The classes of a config's training set, in the order of the labels, or None."""
    datasets = _coco_datasets(cfg, "train")
    return _classes(datasets[0]) if datasets else None


def _use(dataset: Mapping[str, Any], found: Findings) -> None:
    dataset["ann_file"] = found.path
    dataset["metainfo"] = {**(dataset.get("metainfo") or {}), "classes": found.classes}
    # MMDetection's own default has another key, which its CocoDataset then misses.
    dataset["data_prefix"] = {"img": "", **(dataset.get("data_prefix") or {})}
    for transform in dataset.get("pipeline") or ():
        if not found.turn and str(transform.get("type")).endswith("LoadImageFromFile"):
            transform["color_type"] = STORED


def _check_images(
    metric: Findings, path: Path, used: Sequence[Findings], split: str, apart: bool
) -> None:
    """Refuse a metric whose file has other images than the data sets that it evaluates."""
    wanted, *found = (
        {image["id"] for image in json.loads(Path(each.path).read_bytes())["images"]}
        for each in (metric, *used)
    )
    if wanted == set().union(*found) or (apart and wanted in found):
        return
    fix = "give both the same file"
    if len(used) > 1 and not apart:
        fix = f"{fix}, or {split}_evaluator=dict(type='MultiDatasetsEvaluator', ...) a metric each"
    raise DataError(
        f"{path} ({split}_evaluator.ann_file) has other images than the data, "
        f"{', '.join(sorted(each.path for each in used))}: detections would be compared with "
        f"objects of other pictures; {fix}"
    )


def is_local_coco(dataset: Mapping[str, Any]) -> bool:
    """Whether a data set's settings are those of a ``CocoDataset`` whose file lies on the disk."""
    kind, file = _type_of(dataset), dataset.get("ann_file")
    coco = isinstance(kind, type) and issubclass(kind, CocoDataset)
    return coco and bool(file) and not is_remote(f"{dataset.get('data_root') or ''}{file}")


def _type_of(dataset: Mapping[str, Any]) -> Any:
    kind = dataset.get("type")
    return DATASETS.get(kind) if isinstance(kind, str) else kind


def _classes(dataset: Mapping[str, Any]) -> tuple[str, ...] | None:
    """Of ``metainfo``, or of the data set's type, which are COCO's for a ``CocoDataset``."""
    classes = (dataset.get("metainfo") or {}).get("classes")
    if classes is None:
        classes = _type_of(dataset).METAINFO.get("classes")
    check_class_names(classes, annotation_path(dataset))
    return None if classes is None else tuple(classes)


def check_one(path: Path, folder: Path | None, options: CheckOptions) -> PreparedData:
    """Check an annotation file without a config; objects need masks if any object has one.

    Raises:
        DataError: there is no such file or folder.
    """
    for place, there in ((path, path.is_file()), (folder, folder is None or folder.is_dir())):
        if not there:
            raise DataError(f"{place} does not exist")
    masks = b'"segmentation"' in path.read_bytes()
    data = PreparedData()
    data.add(path, check_file(path, folder, None, masks, options), options)
    return data
