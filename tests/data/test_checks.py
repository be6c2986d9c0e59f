"""Annotation files with faults: the right number, or one clear line."""

import json
import os

from hypothesis import HealthCheck, given, settings
from mmdet.datasets import CocoDataset
from mmdet.structures import DetDataSample

from mmconvnext.data.checks import check_annotations
from mmconvnext.data.transforms import FastLoadAnnotations, FastPackDetInputs
from mmconvnext.evaluation.coco_metric import FastCocoMetric
from mmconvnext.evaluation.oracle import answer
from tests.data.faulty_coco import CLASSES, clean_files, faulty_files

# MMCONVNEXT_COCO_FILES=20000 python -m pytest tests/data/test_checks.py -k generated -s
FILES = int(os.environ.get("MMCONVNEXT_COCO_FILES", 300))
COUNTS = {"used": 0, "refused": 0}


def oracle_ap(path: str) -> dict[str, float]:
    """AP of the ground truth that MMDetection's data set loads, without pictures."""
    dataset = CocoDataset(
        path,
        metainfo={"classes": CLASSES},
        data_prefix={"img": ""},
        pipeline=[],
        test_mode=True,
        serialize_data=False,  # collects garbage, which takes most of the time
    )
    metric = FastCocoMetric(path, metric=["bbox", "segm"])
    metric.dataset_meta = dataset.metainfo
    load, pack = (
        FastLoadAnnotations(with_bbox=True, with_mask=True),
        FastPackDetInputs(meta_keys=("img_id", "ori_shape")),
    )
    for index in range(len(dataset)):
        info = dataset.get_data_info(index)
        shape = (info["height"], info["width"])
        sample: DetDataSample = pack(load({**info, "ori_shape": shape}))["data_samples"]
        metric.process(None, [answer(sample).to_dict()])
    return metric.evaluate(len(dataset))


@settings(
    max_examples=FILES, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
)
@given(content=faulty_files())
def check_generated(tmp_path, content):
    checked = check_annotations(content, CLASSES)
    errors = checked.findings.of("error")
    for finding in checked.findings:
        assert "\n" not in str(finding)
    if errors:
        COUNTS["refused"] += 1
        return
    COUNTS["used"] += 1
    path = tmp_path / "a.json"
    path.write_text(json.dumps(checked.content))
    for name, value in oracle_ap(str(path)).items():
        assert value in (1, -1), (name, value, [str(f) for f in checked.findings])
    again = check_annotations(json.loads(path.read_text()), CLASSES)
    assert not again.findings.of("error", "repair", "fill")


def test_generated_files_have_the_right_ap_or_are_refused(tmp_path):
    check_generated(tmp_path)
    print(f"\n{COUNTS}")
    assert min(COUNTS.values()) > FILES / 10


@settings(max_examples=100, deadline=None)
@given(content=clean_files())
def test_a_clean_file_is_used_as_it_is(content):
    checked = check_annotations(content, CLASSES)
    assert checked.content is content
    assert not checked.findings.of("error", "repair", "fill")
