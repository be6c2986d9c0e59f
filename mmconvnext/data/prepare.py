"""The data of a config, checked before anything is built on it, and repaired where that is safe."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

from mmdet.datasets import CocoDataset
from mmdet.registry import DATASETS
from mmengine.config import Config, ConfigDict

from mmconvnext.data.checks import Size, check_annotations
from mmconvnext.data.findings import Finding, Findings
from mmconvnext.data.paths import leaf_datasets, metrics_of
from mmconvnext.data.pictures import check_pictures, read_pictures
from mmconvnext.errors import ConfigError, DataError

MODES = ("repair", "strict", "off")
SHOWN = 8  # errors of a file in one message
FORMAT = 1  # of the cache
# What OpenCV then leaves as it is stored, in MMCV's words.
STORED = "color_ignore_orientation"


@dataclass(frozen=True)
class CheckOptions:
    """``data_checks`` of a config.

    Attributes:
        mode: ``repair``; ``strict``, where what would be repaired is an error; or ``off``.
        pictures: read the pictures of files with at most so many; True for all, False for none.
        max_repaired: share of repaired objects in a file above which it is refused.
        allow: kinds of errors that are noted instead.
    """

    mode: str = "repair"
    pictures: int | bool = 20_000
    max_repaired: float = 0.05
    allow: tuple[str, ...] = ()

    @classmethod
    def of(cls, given: Mapping[str, Any] | None) -> CheckOptions:
        """Read the options of a config.

        Raises:
            ConfigError: an option is unknown or has another value than it can have.
        """
        names = [field.name for field in fields(cls)]
        for name in given or {}:
            if name not in names:
                raise ConfigError(f"data_checks has no {name!r}; choose of {', '.join(names)}")
        options = cls(**{**(given or {}), "allow": tuple((given or {}).get("allow", ()))})
        if options.mode not in MODES:
            raise ConfigError(
                f"data_checks.mode={options.mode!r} is unknown; choose of {', '.join(MODES)}"
            )
        return options

    def wants(self, count: int) -> bool:
        """Whether pictures of a file with so many are read."""
        return count <= self.pictures if type(self.pictures) is int else self.pictures


@dataclass
class CheckedFile:
    """An annotation file after the check.

    Attributes:
        path: of the file to use: the given one, or a repaired copy of it.
        classes: names of the labels.
        findings: what was wrong.
        turn: whether pictures are turned as EXIF says.
        objects: how many the file has.
        repaired: how many of them were changed or left out.
    """

    path: str
    classes: tuple[str, ...]
    findings: list[Finding]
    turn: bool
    objects: int
    repaired: int

    def to_json(self, path: Path) -> dict[str, Any]:
        """What was found in the file of a path, with every record."""
        return {
            "file": str(path),
            "used": self.path,
            "classes": self.classes,
            "objects": self.objects,
            "repaired_objects": self.repaired,
            "findings": [{**vars(f), "count": len(f.records)} for f in self.findings],
        }

    def errors(self, options: CheckOptions) -> list[str]:
        """Why the file is refused, a line for each kind."""
        refused = ("error", "repair", "fill") if options.mode == "strict" else ("error",)
        lines = [
            str(finding)
            for finding in self.findings
            if finding.severity in refused and finding.kind not in options.allow
        ]
        if self.repaired > options.max_repaired * self.objects:
            kinds = "; ".join(str(f) for f in self.findings if f.severity == "repair")
            lines.insert(
                0,
                f"{self.repaired} of {self.objects} objects ({self.repaired / self.objects:.1%}) "
                f"would be repaired, more than data_checks.max_repaired={options.max_repaired:g}; "
                f"correct the file, or allow more: {kinds}",
            )
        return lines


def check_file(
    path: Path,
    folder: Path | None,
    classes: Sequence[str] | None,
    masks: bool,
    options: CheckOptions,
    labels: Sequence[str] | None = None,
) -> CheckedFile:
    """Check an annotation file and, where the options ask for it, its pictures.

    Results are kept in a cache by the content of the file and by names, sizes and times of the
    pictures.

    Args:
        path: of the annotation file.
        folder: of the pictures, or None to leave them.
        classes: of ``metainfo``; None for those of the file.
        masks: whether objects need masks.
        options: how to check.
        labels: of the detector, where ``classes`` are some of them.
    """
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    stamp = _stamp(folder) if folder is not None and options.pictures else ""
    asked = repr((FORMAT, digest, stamp, classes, labels, masks, options.pictures))
    place = cache_folder() / hashlib.sha256(asked.encode()).hexdigest()[:32]
    kept, copy = place.with_suffix(".json"), place.with_suffix(".coco.json")
    if kept.is_file():
        known = json.loads(kept.read_text(encoding="utf-8"))
        if not known["copied"] or copy.is_file():
            findings = [Finding(**each) for each in known["findings"]]
            used = str(copy if known["copied"] else path)
            rest = (known["turn"], known["objects"], known["repaired"])
            return CheckedFile(used, tuple(known["classes"]), findings, *rest)
    checked, content = _check(path, folder, classes, masks, options, labels)
    if content is not None:
        checked.path = str(copy)
        _write(copy, content)
    known = {
        "copied": content is not None,
        "classes": checked.classes,
        "findings": [vars(finding) for finding in checked.findings],
        "turn": checked.turn,
        "objects": checked.objects,
        "repaired": checked.repaired,
    }
    _write(kept, known)
    return checked


def _check(
    path: Path,
    folder: Path | None,
    classes: Sequence[str] | None,
    masks: bool,
    options: CheckOptions,
    labels: Sequence[str] | None,
) -> tuple[CheckedFile, dict[str, Any] | None]:
    """The result, and the content of the repaired file if there has to be one."""
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        fault = Finding("not COCO", "error", f"it is not JSON: {error}")
        return CheckedFile(str(path), tuple(classes or ()), [fault], True, 0, 0), None
    findings, sizes, turn = Findings(), {}, True
    images = content.get("images") if isinstance(content, dict) else None
    if folder is not None and isinstance(images, list) and options.wants(len(images)):
        pictures = read_pictures(folder, _names(images))
        turn = check_pictures(pictures, _sizes(images), findings)
        sizes = {
            name: Size(*(picture.loaded if turn else picture.stored))
            for name, picture in pictures.items()
            if not picture.fault
        }
    result = check_annotations(content, classes, masks, sizes, labels)
    found = [*findings, *result.findings]
    repaired = len(result.findings.repaired_objects)
    entries = content.get("annotations") if isinstance(content, dict) else None
    objects = len(entries) if isinstance(entries, list) else 0
    checked = CheckedFile(str(path), result.classes, found, turn, objects, repaired)
    return checked, None if result.content is content else result.content


def _names(images: Sequence[Any]) -> Iterator[str]:
    for image in images:
        name = image.get("file_name") if isinstance(image, dict) else None
        if isinstance(name, str) and name.strip() and "://" not in name:
            yield name.replace("\\", "/")


def _sizes(images: Sequence[Any]) -> dict[str, tuple[Any, Any]]:
    return {
        str(image.get("file_name")).replace("\\", "/"): (image.get("width"), image.get("height"))
        for image in images
        if isinstance(image, dict)
    }


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
    """Where results of checks lie: ``$XDG_CACHE_HOME/mmconvnext``, or ``~/.cache/mmconvnext``."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "mmconvnext"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _write(path: Path, content: Any) -> None:
    """Write at once: other processes see the whole file or none."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.write_text(json.dumps(content), encoding="utf-8")
    os.replace(part, path)


class PreparedData(NamedTuple):
    """What :func:`prepare_data` found.

    Attributes:
        notes: lines for the log.
        refusals: why files are refused, one text for each.
        report: all findings, to be written as JSON.
    """

    notes: list[str]
    refusals: list[str]
    report: list[dict[str, Any]]

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
        return PreparedData(["data_checks: off, annotation files are taken as they are"], [], [])
    labels = labels or _training_classes(cfg)
    notes: dict[str, None] = {}  # in their order, each once
    refusals: dict[str, None] = {}
    report: list[dict[str, Any]] = []
    for split in splits:
        datasets = _coco_datasets(cfg, split)
        metrics = [] if split == "train" else _coco_metrics(cfg.get(f"{split}_evaluator"))
        scored = any("segm" in _kinds(metric) for metric in metrics)
        for dataset in datasets:
            path, classes = _annotation_path(dataset), _classes(dataset)
            known = _labels(labels, classes, path)
            masks = scored or _loads_masks(dataset)
            checked = check_file(path, _folder(dataset), classes, masks, options, known)
            report.append(checked.to_json(path))
            if errors := checked.errors(options):
                refusals[_refusal(path, errors)] = None
                continue
            notes |= dict.fromkeys(f"{path}: {finding}" for finding in checked.findings)
            _use(dataset, checked)
            for metric in metrics:
                if Path(metric["ann_file"]).resolve() == path.resolve():
                    metric["ann_file"] = checked.path
        if not refusals:
            _check_metrics(metrics, datasets, split)
    return PreparedData(list(notes), list(refusals), report)


def _coco_datasets(cfg: Config, split: str) -> list[Mapping[str, Any]]:
    loader = cfg.get(f"{split}_dataloader")
    return [] if loader is None else list(filter(is_local_coco, leaf_datasets(loader["dataset"])))


def _training_classes(cfg: Config) -> tuple[str, ...] | None:
    datasets = _coco_datasets(cfg, "train")
    return _classes(datasets[0]) if datasets else None


def _labels(
    labels: Sequence[str] | None, classes: Sequence[str] | None, path: Path
) -> tuple[str, ...] | None:
    """The labels to number a data set's classes by.

    Raises:
        DataError: the detector knows only some of the classes.
    """
    if labels is None or classes is None or not set(classes) & set(labels):
        return None  # another detector's classes: the numbers of heads tell
    unknown = [name for name in classes if name not in labels]
    if unknown:
        raise DataError(
            f"{path}: the class {unknown[0]!r} of metainfo.classes is not one of the detector's, "
            f"which are {', '.join(map(repr, labels[:8]))}{', ...' * (len(labels) > 8)}; name the "
            "classes alike in training, validation and test"
        )
    return tuple(labels)


def _refusal(path: Path, errors: Sequence[str]) -> str:
    more = f"\n- and {len(errors) - SHOWN} other kinds" if len(errors) > SHOWN else ""
    if len(errors) == 1:
        return f"{path}: {errors[0]}"
    return f"{path} cannot be used:\n" + "\n".join(f"- {e}" for e in errors[:SHOWN]) + more


def _use(dataset: Mapping[str, Any], checked: CheckedFile) -> None:
    dataset["ann_file"] = str(Path(checked.path).absolute())
    dataset["metainfo"] = {**(dataset.get("metainfo") or {}), "classes": checked.classes}
    # MMDetection's own default has another key, which its CocoDataset then misses.
    dataset["data_prefix"] = {"img": "", **(dataset.get("data_prefix") or {})}
    if checked.turn:
        return
    for transform in dataset.get("pipeline") or ():
        if str(transform.get("type")).endswith("LoadImageFromFile"):
            transform["color_type"] = STORED


def _check_metrics(
    metrics: Sequence[Mapping[str, Any]], datasets: Sequence[Mapping[str, Any]], split: str
) -> None:
    """Refuse a metric whose file has other images than the data sets."""
    used = {dataset["ann_file"] for dataset in datasets}
    for metric in metrics:
        if metric["ann_file"] in used or not datasets:
            continue
        wanted, found = _image_ids(metric["ann_file"]), [_image_ids(path) for path in used]
        if wanted not in found and wanted != set().union(*found):
            raise DataError(
                f"{metric['ann_file']} ({split}_evaluator.ann_file) has other images than the data "
                f"set, {', '.join(sorted(used))}: detections would be compared with objects of "
                "other pictures; give both the same file"
            )


def _image_ids(path: str) -> set[Any]:
    content = json.loads(Path(path).read_bytes())
    return {image["id"] for image in content["images"]}


def _coco_metrics(evaluator: Any) -> list[ConfigDict]:
    return [m for m in metrics_of(evaluator) if isinstance(m.get("ann_file"), str)]


def _kinds(metric: Mapping[str, Any]) -> Sequence[str]:
    kinds = metric.get("metric", "bbox")
    return [kinds] if isinstance(kinds, str) else kinds


def _loads_masks(dataset: Mapping[str, Any]) -> bool:
    return any(transform.get("with_mask") for transform in dataset.get("pipeline") or ())


def is_local_coco(dataset: Mapping[str, Any]) -> bool:
    """Whether a data set's settings are those of a ``CocoDataset`` whose file lies on the disk."""
    kind = dataset.get("type")
    kind = DATASETS.get(kind) if isinstance(kind, str) else kind
    path = f"{dataset.get('data_root') or ''}{dataset.get('ann_file') or ''}"
    coco = isinstance(kind, type) and issubclass(kind, CocoDataset)
    return coco and bool(dataset.get("ann_file")) and "://" not in path


def _annotation_path(dataset: Mapping[str, Any]) -> Path:
    return Path(dataset.get("data_root") or "", dataset["ann_file"])


def _folder(dataset: Mapping[str, Any]) -> Path:
    prefix = (dataset.get("data_prefix") or {}).get("img") or ""
    return Path(dataset.get("data_root") or "", prefix)


def _classes(dataset: Mapping[str, Any]) -> tuple[str, ...] | None:
    """Of ``metainfo``, or of the data set's type, which are COCO's for a ``CocoDataset``."""
    classes = (dataset.get("metainfo") or {}).get("classes")
    if classes is None:
        kind = dataset["type"]
        kind = DATASETS.get(kind) if isinstance(kind, str) else kind
        classes = kind.METAINFO.get("classes")
    if isinstance(classes, str):
        raise DataError(
            f"metainfo=dict(classes={classes!r}) is a string, not a tuple of names; write "
            f"({classes!r},)"
        )
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
    checked = check_file(path, folder, None, masks, options)
    errors = checked.errors(options)
    refusals = [_refusal(path, errors)] if errors else []
    notes = [f"{path}: {finding}" for finding in checked.findings] * (not errors)
    return PreparedData(notes, refusals, [checked.to_json(path)])
