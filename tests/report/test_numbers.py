"""The report's numbers are those of pycocotools and of TIDE."""

import copy
import json
import os
import shutil
from collections import Counter, defaultdict

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mmconvnext.errors import UserError
from mmconvnext.evaluation.hotcoco_eval import save_detections
from mmconvnext.report.gallery import choose, error_kinds, highest_false
from mmconvnext.report.numbers import ASPECTS, CROWDING, numbers_of
from mmconvnext.report.results import read_results

pytest.importorskip("hotcoco")


@pytest.fixture(scope="module")
def results(result):
    return read_results(result)


@pytest.fixture(scope="module", params=["segm", "bbox"])
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def numbers(results, kind):
    return numbers_of(results, kind, 0.3)


def by_pycocotools(results, kind, change=lambda params: None, truth=None, area=None):
    """Precision as another implementation computes it."""
    truth_api = COCO()
    truth_api.dataset = copy.deepcopy(truth or results.truth)
    truth_api.createIndex()
    found = entries(results, kind)
    for entry in found:
        del entry["id"]
        if kind == "segm":
            del entry["bbox"]  # whose area it would take, as MMDetection knows
    detected = truth_api.loadRes(found)
    for entry in detected.dataset["annotations"] if area else ():
        entry["area"] = area(entries(results, kind)[entry["id"] - 1])
    evaluation = COCOeval(truth_api, detected, kind)
    evaluation.params.maxDets = [100, 300, 1000]
    change(evaluation.params)
    evaluation.evaluate()
    evaluation.accumulate()
    return evaluation.eval["precision"]


def entries(results, kind):
    return [*results.entries(kind, range(len(results.tables[kind])))]


def mean(values):
    return round(float(values[values > -1].mean()), 3) if (values > -1).any() else -1.0


def by_image(entries):
    """Entries of each image, with hotcoco's ids where they have none."""
    grouped = defaultdict(list)
    for index, entry in enumerate(entries, 1):
        grouped[entry["image_id"]].append({"id": index, **entry})
    return grouped


def test_ap_of_everything_and_of_classes(results, kind, numbers):
    precision = by_pycocotools(results, kind)
    expected = {"mAP": precision[..., 0, -1], "mAP_50": precision[0, ..., 0, -1]}
    expected |= {f"mAP_{size}": precision[..., i, -1] for i, size in enumerate("sml", 1)}
    for name, values in expected.items():
        assert numbers["ap"][name] == mean(values)
    assert 0.1 < numbers["ap"]["mAP_50"] < 0.9
    assert len(numbers["classes"]) == 3
    for index, row in enumerate(numbers["classes"]):
        assert row["AP"] == mean(precision[:, :, index, 0, -1])
        assert row["AP75"] == mean(precision[5, :, index, 0, -1])
        assert row["AP s"] == mean(precision[:, :, index, 1, -1])
        curve = precision[0, :, index, 0, -1]
        assert numbers["curves"][index]["precision"] == pytest.approx(curve, abs=5e-4)


def test_f1_is_hotcocos(results, kind, numbers):
    best = [row["F1"] for row in numbers["classes"]]
    assert np.mean(best) == pytest.approx(results.evaluations[kind].f_scores()["F1_50"], abs=1e-3)


def test_ap_by_the_form_of_boxes(results, kind, numbers):
    def ratio(entry):
        return entry["bbox"][2] / entry["bbox"][3]

    def by_ratio(params):
        params.areaRng = [[0, 1e10], *map(list, ASPECTS.values())]
        params.areaRngLbl = ["all", *ASPECTS]

    annotations = [{**entry, "area": ratio(entry)} for entry in results.truth["annotations"]]
    truth = {**results.truth, "annotations": annotations}
    precision = by_pycocotools(results, kind, by_ratio, truth, ratio)
    rows = {row["name"]: row["AP"] for row in numbers["slices"]}
    for index, name in enumerate(ASPECTS, 1):
        assert rows[name] == mean(precision[:, :, :, index, -1])


def test_ap_of_crowded_pictures(results, kind, numbers):
    counts = Counter(entry["image_id"] for entry in results.truth["annotations"])
    rows = {row["name"]: row["AP"] for row in numbers["slices"]}
    for name, (low, high) in CROWDING.items():
        images = [image for image, number in counts.items() if low <= number <= high]
        assert bool(images) == (name in rows)
        if images:
            part = by_pycocotools(results, kind, lambda p, ids=images: setattr(p, "imgIds", ids))
            assert rows[name] == mean(part[..., 0, -1])


def test_the_errors_of_pictures_add_up_to_tides(results, kind, numbers):
    wanted = by_image(results.truth["annotations"])
    counts = Counter()
    for image, found in by_image(entries(results, kind)).items():
        counts.update(error_kinds(found, wanted[image], numbers["found"]))
    for row in numbers["errors"]:
        if row["name"] != "missed":
            assert counts[row["name"]] == row["count"], row
    assert sum(count > 0 for count in counts.values()) >= 5


def test_the_confusion_matrix_has_every_object(results, numbers):
    matrix = np.array(numbers["confusion"]["matrix"])
    assert matrix[:-1].sum() == sum(not entry["iscrowd"] for entry in results.truth["annotations"])
    assert numbers["confusion"]["names"][-1] == "nothing"


def test_the_best_the_worst_and_the_most_surprising(results, kind, numbers):
    wanted = by_image(results.truth["annotations"])
    highest = highest_false(results.tables[kind], numbers["found"])
    for image, found in by_image(entries(results, kind)).items():
        scores = [e["score"] for e in found if numbers["found"].get(e["id"]) == "fp"]
        assert highest.get(image, 0.05) == max(scores, default=0.05)
    chosen = choose(numbers, wanted, highest, 12)
    assert Counter(chosen.values()) == {"surprising": 4, "worst": 4, "best": 4}
    ap = defaultdict(list)
    for image, why in chosen.items():
        ap[why].append(numbers["images"][image]["ap"])
    assert max(ap["worst"]) <= min(ap["best"])
    assert len(choose(numbers, wanted, highest, 1000)) <= len(results.truth["images"])


def test_the_faster_form_is_read_where_it_is_newer(result, results, tmp_path):
    content = json.loads(result.read_text())
    files = content["detections"]["files"]
    for kind, file in files.items():
        files[kind] = shutil.copy(file, tmp_path)
        table, masks = results.tables[kind], results.masks[kind]
        save_detections(tmp_path / f"detections.{kind}.npz", table[::2], masks and masks[::2])
    path = tmp_path / "result.json"
    path.write_text(json.dumps(content))
    half = read_results(path)
    for kind, file in files.items():
        np.testing.assert_array_equal(half.tables[kind], results.tables[kind][::2])
        os.utime(file)
    again = read_results(path)
    for kind in files:
        np.testing.assert_array_equal(again.tables[kind], results.tables[kind])
        assert again.masks[kind] == results.masks[kind]


def test_other_files_are_refused(result, tmp_path):
    path = tmp_path / "result.json"
    with pytest.raises(UserError, match=r"cannot read .*No such file"):
        read_results(path)
    path.write_text("{")
    with pytest.raises(UserError, match="is no JSON"):
        read_results(path)
    path.write_text("{}")
    with pytest.raises(UserError, match="kept its detections: mmconvnext test CONFIG"):
        read_results(path)
    content = json.loads(result.read_text())
    moved = {**content["detections"], "pictures": str(tmp_path / "moved")}
    path.write_text(json.dumps({**content, "detections": moved}))
    with pytest.raises(UserError, match=r"moved, which .* names, is not there any more"):
        read_results(path)
    for kind in content["detections"]["files"]:
        empty = tmp_path / f"{kind}.json"
        empty.write_text("[]")
        content["detections"]["files"][kind] = str(empty)
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match="nothing was detected"):
        read_results(path)
