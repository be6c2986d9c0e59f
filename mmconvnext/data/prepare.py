"""The data of a config, checked before anything is built on it, and repaired in copies.

Results are remembered by the content of a file and by its pictures' names, sizes and times.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any

from mmdet.datasets import CocoDataset
from mmdet.registry import DATASETS
from mmengine.config import Config

from mmconvnext.data.checks import check_annotations
from mmconvnext.data.counted import check_counted
from mmconvnext.data.findings import FAULTS, Findings
from mmconvnext.data.names import check_known
from mmconvnext.data.paths import (
    annotation_path,
    check_class_names,
    is_remote,
    kinds_of,
    leaf_datasets,
    metrics_of,
    picture_folder,
    write_whole,
)
from mmconvnext.data.pictures import read_pictures
from mmconvnext.errors import ConfigError, DataError

MODES = ("repair", "strict", "off")
FORMAT = 7  # of the cache
STORED = "color_ignore_orientation"  # MMCV's word for pictures that are not turned as EXIF says


@dataclass(frozen=True)
class CheckOptions:
    """``data_checks`` of a config."""

    mode: str = "repair"  # or ``strict``, where what would be repaired is an error, or ``off``
    pictures: int | bool = 20_000  # read those of files with at most so many; True for all
    max_repaired: float = 0.05  # share of a file's objects above which it is refused
    allow: Sequence[str] = ()  # kinds of errors that are noted instead

    @classmethod
    def of(cls, given: Mapping[str, Any] | None) -> CheckOptions:
        """Those of a config; one that is unknown or has no such value is a ConfigError."""
        names = [field.name for field in fields(cls)]
        for name in given or {}:
            if name not in names:
                raise ConfigError(f"data_checks has no {name!r}; choose of {', '.join(names)}")
        options = cls(**(given or {}))
        for kind in options.allow:
            if kind not in FAULTS:
                raise ConfigError(f"data_checks.allow has {kind!r}, which is no kind of fault")
        if options.mode not in MODES:
            raise ConfigError(
                f"data_checks.mode={options.mode!r} is unknown; choose of {', '.join(MODES)}"
            )
        return options

    def refusals(self, found: Findings) -> list[str]:
        """Why a file in which something was found is refused, a line for each kind."""
        refused = found.of("error", *(("repair", "fill") if self.mode == "strict" else ()))
        refused = [finding for finding in refused if finding.kind not in self.allow]
        if found.repaired <= self.max_repaired * found.objects:
            return list(map(str, refused))
        share = (
            f"{found.repaired} of {found.objects} objects ({found.repaired / found.objects:.1%}) "
            f"would be repaired, more than data_checks.max_repaired={self.max_repaired:g}; correct "
            f"the file, or allow more: {'; '.join(map(str, found.of('repair')))}"
        )
        # that none is left follows from it
        others = [f for f in refused if f.severity == "error" and f.kind != "no objects"]
        return [share, *map(str, others)]


def check_file(
    path: Path,
    folder: Path | None,
    classes: Sequence[str] | None,
    masks: bool,
    options: CheckOptions,
    labels: Sequence[str] | None = None,
) -> Findings:
    """Check an annotation file and, where the options ask for it, the pictures of a folder.

    The other arguments are those of :func:`check_annotations`.
    """
    path, limit = path.absolute(), options.pictures
    data = path.read_bytes()
    if limit is not True and data.count(b'"file_name"') > (limit or -1):
        folder = None
    stamp = "" if folder is None else _stamp(folder)
    digest = hashlib.sha256(data).hexdigest()
    asked = repr((FORMAT, str(path), digest, stamp, classes, labels, masks, limit))
    place = cache_folder() / hashlib.sha256(asked.encode()).hexdigest()[:32]
    kept, copy = place.with_suffix(".json"), place.with_suffix(".coco.json")
    if kept.is_file():
        found = Findings.from_json(json.loads(kept.read_text(encoding="utf-8")))
        if Path(found.path).is_file():
            return found
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        found = Findings(classes=tuple(classes or ()), path=str(path))
        found.add("not COCO", text=f"it is not JSON: {error}")
        return found
    read = None if folder is None else partial(read_pictures, folder)
    checked, found = check_annotations(content, classes, masks, read, labels)
    if (encoding := json.detect_encoding(data)) != "utf-8":  # pycocotools reads no other
        found.add("text encoding", encoding)
        checked = dict(checked) if isinstance(checked, dict) else content
    found.path = str(path if checked is content else copy)
    if checked is not content:
        write_whole(copy, json.dumps(checked))
    write_whole(kept, json.dumps(asdict(found)))
    return found


def _stamp(folder: Path) -> str:
    """What changes when a picture in a folder does: names, sizes and times."""
    digest = hashlib.sha256()
    for place, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            state = os.stat(os.path.join(place, name), follow_symlinks=False)
            digest.update(f"{place}/{name} {state.st_size} {state.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def cache_folder() -> Path:
    """Where results of checks lie, ``$XDG_CACHE_HOME/mmconvnext`` or ``~/.cache/mmconvnext``."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "mmconvnext"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"results of data checks cannot be kept in {folder}: {error.strerror}; name another "
            "folder with XDG_CACHE_HOME"
        ) from error
    return folder


@dataclass
class PreparedData:
    """What :func:`prepare_data` found: lines for the log, and all findings as JSON."""

    notes: list[str] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)  # a text for each file that is refused
    report: list[dict[str, Any]] = field(default_factory=list)

    def add(self, path: Path, found: Findings, options: CheckOptions) -> bool:
        """Add what was found in a file, each line once; False if the file is refused."""
        findings = [{**vars(each), "count": len(each.records)} for each in found]
        about = {"file": str(path), "used": found.path, "classes": found.classes}
        counts = {"images": found.images, "objects": found.objects}
        counts["repaired_objects"] = found.repaired
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
    """
    options = CheckOptions.of(cfg.get("data_checks"))
    if options.mode == "off":
        return PreparedData(["data_checks: off, annotation files are taken as they are"])
    data, labels = PreparedData(), labels or training_classes(cfg)

    def check(path: Path, folder: Path | None, classes: Any, masks: bool) -> Findings | None:
        known = None
        # where it is another detector's data, the numbers of classes in its heads tell
        if labels and classes and ({*classes} & {*labels} or len(classes) == len(labels)):
            known = check_known(classes, labels, f"{path} (metainfo.classes)")
        found = check_file(path, folder, classes, masks, options, known)
        return found if data.add(path, found, options) else None

    for split in splits:
        datasets = _coco_datasets(cfg, split)
        evaluator = None if split == "train" else cfg.get(f"{split}_evaluator")
        metrics = [m for m in metrics_of(evaluator) if isinstance(m.get("ann_file"), str)]
        scored = any("segm" in kinds_of(metric) for metric in metrics)
        used: dict[Path, Findings] = {}
        if metrics:
            data.notes += [n for d in datasets for n in _evaluate_all(d, split)]
        for dataset in datasets:
            loads = any(transform.get("with_mask") for transform in dataset.get("pipeline") or ())
            path, masks = annotation_path(dataset), scored or loads
            if found := check(path, picture_folder(dataset), _classes(dataset), masks):
                _use(dataset, found)
                used[path.resolve()] = found
        classes = next(map(_classes, datasets), None)
        counted: dict[int, Findings] = {}
        for metric in metrics:
            path = Path(metric["ann_file"])
            found = used.get(path.resolve())
            if found is None and not data.refusals:
                found = check(path, None, classes, "segm" in kinds_of(metric))
            if found:
                counted[id(metric)] = found
        if counted and not data.refusals:
            notes = _check_metrics(cfg, split, used, counted)
            data.notes += [note for note in notes if note not in data.notes]
        for metric in metrics:
            if id(metric) in counted:
                metric["ann_file"] = counted[id(metric)].path
    return data


def _check_metrics(
    cfg: Config, split: str, used: Mapping[Path, Findings], counted: Mapping[int, Findings]
) -> list[str]:
    dataset, evaluator = cfg[f"{split}_dataloader"]["dataset"], cfg[f"{split}_evaluator"]
    of_sets = [
        next((found for found in used.values() if found.path == each.get("ann_file")), None)
        for each in leaf_datasets(dataset)
    ]
    of_metrics = [counted.get(id(metric)) for metric in metrics_of(evaluator)]
    return check_counted(split, dataset, evaluator, of_sets, of_metrics)


def _evaluate_all(dataset: Mapping[str, Any], split: str) -> list[str]:
    """Let a data set have all pictures of its file, as a metric with that file counts them.

    Returns a line on what changed, if anything; raises DataError where it is to have some.
    """
    path, name = annotation_path(dataset), f"{split}_dataloader.dataset"
    if (indices := dataset.get("indices")) is not None:
        raise DataError(
            f"{path}: {name}.indices={indices} evaluates some of the file's pictures, and the "
            "metric counts the objects of all; give both a file of these alone, or the metric "
            "ann_file=None"
        )
    left_out = {k: v for k, v in (dataset.get("filter_cfg") or {}).items() if v}
    if dataset.get("test_mode") or not left_out:
        return []
    dataset["test_mode"] = True
    return [
        f"{path}: {name} has test_mode=True now: filter_cfg={left_out} would leave out pictures"
    ]


def _coco_datasets(cfg: Config, split: str) -> list[Mapping[str, Any]]:
    loader = cfg.get(f"{split}_dataloader")
    return [] if loader is None else list(filter(is_local_coco, leaf_datasets(loader["dataset"])))


def training_classes(cfg: Config) -> tuple[str, ...] | None:
    """The classes of a config's training set, in the order of the labels, or None."""
    return next(map(_classes, _coco_datasets(cfg, "train")), None)


def _use(dataset: Mapping[str, Any], found: Findings) -> None:
    dataset["ann_file"] = found.path
    dataset["metainfo"] = {**(dataset.get("metainfo") or {}), "classes": found.classes}
    # MMDetection's own default has another key, which its CocoDataset then misses.
    dataset["data_prefix"] = {"img": "", **(dataset.get("data_prefix") or {})}
    for transform in dataset.get("pipeline") or ():
        if not found.turn and str(transform.get("type")).endswith("LoadImageFromFile"):
            transform["color_type"] = STORED


def _type_of(dataset: Mapping[str, Any]) -> Any:
    kind = dataset.get("type")
    return DATASETS.get(kind) if isinstance(kind, str) else kind


def is_local_coco(dataset: Mapping[str, Any]) -> bool:
    """Whether a data set's settings are those of a ``CocoDataset`` whose file lies on the disk."""
    kind, file = _type_of(dataset), dataset.get("ann_file")
    coco = isinstance(kind, type) and issubclass(kind, CocoDataset)
    return coco and bool(file) and not is_remote(f"{dataset.get('data_root') or ''}{file}")


def _classes(dataset: Mapping[str, Any]) -> tuple[str, ...] | None:
    """Of ``metainfo``, or of the data set's type, which are COCO's for a ``CocoDataset``."""
    metainfo = dataset.get("metainfo") or {}
    if "CLASSES" in metainfo:
        raise DataError(
            f"metainfo.CLASSES of {annotation_path(dataset)} is MMDetection 2's; write classes"
        )
    classes = metainfo.get("classes")
    if classes is None:
        classes = _type_of(dataset).METAINFO.get("classes")
    check_class_names(classes, annotation_path(dataset))
    return None if classes is None else tuple(classes)


def check_one(path: Path, folder: Path | None, options: CheckOptions) -> PreparedData:
    """Check an annotation file without a config; objects need masks if any object has one."""
    for place, there in ((path, path.is_file()), (folder, folder is None or folder.is_dir())):
        if not there:
            raise DataError(f"{place} does not exist")
    given = rb'"segmentation"\s*:\s*(?!null|\[\s*\])\S'
    masks = re.search(given, path.read_bytes()) is not None
    data = PreparedData()
    data.add(path, check_file(path, folder, None, masks, options), options)
    return data
