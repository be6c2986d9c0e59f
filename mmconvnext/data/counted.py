"""Whether what a split evaluates is what its metrics count: the same pictures, each once."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from mmconvnext.data.findings import Findings
from mmconvnext.data.paths import metrics_of
from mmconvnext.errors import ConfigError, DataError


class Counted(NamedTuple):
    """A picture of an annotation file: its name, and the boxes of its objects in whole pixels."""

    name: str
    boxes: set[tuple[int, ...]]


def check_counted(
    split: str,
    dataset: Mapping[str, Any],
    evaluator: Any,
    of_sets: Sequence[Findings | None],
    of_metrics: Sequence[Findings | None],
) -> list[str]:
    """Refuse metrics that would compare detections with objects of other pictures.

    Args:
        split: its name, for messages.
        dataset: settings of the split's data set, with its wrappers.
        evaluator: settings.
        of_sets: what was found in the file of each data set; None for what is no COCO file.
        of_metrics: of each metric; None for one without a file, which counts what it is given.

    Returns:
        A line for each metric with another file than its data set.

    Raises:
        DataError: the pictures are others.
        ConfigError: the evaluator of several data sets does not fit them.
    """
    several = isinstance(evaluator, Mapping) and "metrics" in evaluator
    prefixes = (evaluator.get("dataset_prefixes") or of_metrics) if several else ()
    if several:
        _check_several(split, dataset, evaluator)
    notes = []
    for index, metric in enumerate(of_metrics):
        sets = of_sets[index : index + 1] if index < len(prefixes) else of_sets
        if metric is None or not sets or None in sets:
            continue
        setting = f"{metric.path} ({split}_evaluator.ann_file)"
        if _is_repeated(dataset):
            raise DataError(
                f"{setting}: the data set repeats its pictures, and all but the first detection of "
                "an object would be wrong ones; evaluate without RepeatDataset and the like"
            )
        if [each.path for each in sets] != [metric.path]:
            _compare(setting, metric, sets, split)
            if len(sets) == 1:
                notes.append(f"{setting} is not the data's file; AP is that of its objects")
    return notes


def _is_repeated(dataset: Mapping[str, Any]) -> bool:
    inner = [*(dataset.get("datasets") or ()), dataset.get("dataset")]
    repeats = dataset.get("times", 1) != 1 or "oversample_thr" in dataset
    return repeats or any(_is_repeated(each) for each in inner if isinstance(each, Mapping))


def _check_several(split: str, dataset: Mapping[str, Any], evaluator: Mapping[str, Any]) -> None:
    """Check the numbers of data sets, metrics and prefixes, which MMDetection takes in pairs."""
    prefixes, metrics = evaluator.get("dataset_prefixes"), metrics_of(evaluator)
    if prefixes is None:
        return
    sets = len(dataset.get("datasets") or [dataset])
    if not sets == len(prefixes) <= len(metrics):
        raise ConfigError(
            f"{split}_evaluator has {len(prefixes)} dataset_prefixes and {len(metrics)} metrics "
            f"for {sets} data sets; give each data set a prefix and a metric, in their order"
        )
    names = [f"{p}/{m.get('prefix') or 'coco'}" for p, m in zip(prefixes, metrics, strict=False)]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(
                f"{split}_evaluator.dataset_prefixes={tuple(prefixes)}: {name} would name the "
                "results of two data sets; give each its own"
            )


def _compare(setting: str, metric: Findings, sets: Sequence[Findings], split: str) -> None:
    wanted, found = _pictures(metric.path), {}
    fix = "give both the same file"
    if len(sets) > 1:
        fix += f", or {split}_evaluator=dict(type='MultiDatasetsEvaluator', ...) a metric each"
    for each in sets:
        pictures = _pictures(each.path)
        if both := found.keys() & pictures.keys():
            raise DataError(
                f"{setting}: {len(both)} images of {each.path}, such as {min(both)}, have ids of "
                f"other images of {split}'s data sets; {fix}"
            )
        found |= pictures
    others = wanted.keys() ^ found.keys()
    others |= {i for i in wanted.keys() & found.keys() if wanted[i].name != found[i].name}
    with_objects = [i for i in wanted if i not in others and wanted[i].boxes and found[i].boxes]
    unlike = [i for i in with_objects if not wanted[i].boxes & found[i].boxes]
    if others or 2 * len(unlike) > len(with_objects):
        raise DataError(
            f"{setting} has other images than the data, "
            f"{', '.join(sorted(each.path for each in sets))}: detections would be compared with "
            f"objects of other pictures, the first at image {min(others or unlike)}; {fix}"
        )


def _pictures(path: str) -> dict[int, Counted]:
    """The pictures of an annotation file without faults, by id."""
    content = json.loads(Path(path).read_bytes())
    # where one file is relative to another folder than the other, the names end alike
    pictures = {
        image["id"]: Counted(PurePosixPath(image["file_name"].replace("\\", "/")).name, set())
        for image in content["images"]
    }
    for entry in content["annotations"]:
        pictures[entry["image_id"]].boxes.add(tuple(map(round, entry["bbox"])))
    return pictures
