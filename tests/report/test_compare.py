"""A comparison's numbers are pycocotools', its intervals those of a bootstrap over pictures."""

import json
import re

import numpy as np
import pytest

from mmconvnext.errors import DataError, UserError
from mmconvnext.evaluation import hotcoco_eval
from mmconvnext.evaluation.tables import COLUMNS
from mmconvnext.report.compare import compare, most_different, tables
from mmconvnext.report.results import read_results
from tests.report.conftest import HOSTILE, detections_of, write_test
from tests.report.test_numbers import by_image, by_pycocotools, mean

pytest.importorskip("hotcoco")
KINDS = ("segm", "bbox")


PICTURES, SAMPLES = 6, 200


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    return tmp_path_factory.mktemp("page") / "compare.html"


@pytest.fixture(scope="module")
def content(result, better, page):
    return compare([result, better], SAMPLES, page, PICTURES)


@pytest.fixture(scope="module")
def both(result, better):
    return [read_results(path) for path in (result, better)]


@pytest.mark.parametrize("kind", KINDS)
def test_ap_is_pycocotools_by_size_too(both, content, kind):
    for index, results in enumerate(both):
        precision = by_pycocotools(results, kind)
        expected = [precision[..., 0, -1], precision[0, ..., 0, -1], precision[5, ..., 0, -1]]
        expected += [precision[..., area, -1] for area in (1, 2, 3)]
        for name, values in zip(COLUMNS, expected, strict=True):
            assert content["AP"][kind][name]["values"][index] == mean(values), name
        for row in content["classes"][kind]:
            place = [c["name"] for c in results.classes].index(row["name"])
            assert row["values"][index] == mean(precision[:, :, place, 0, -1])


def test_differences_are_those_of_the_numbers(content):
    for kind in KINDS:
        rows = [*content["AP"][kind].values(), *content["classes"][kind]]
        for row in rows:
            one, two = row["values"]
            (found,) = row["differences"]
            assert found["value"] == round(two - one, 3)
            assert found.get("low", -1) <= found["value"] <= found.get("high", 1)
        sizes = [abs(row["differences"][0]["value"]) for row in content["classes"][kind]]
        assert sizes == sorted(sizes, reverse=True)


def test_a_run_is_no_better_than_itself(result):
    found = compare([result, result], samples=50)
    for kind in KINDS:
        for row in found["AP"][kind].values():
            assert row["differences"] == [{"value": 0.0, "low": 0.0, "high": 0.0}]
    assert [run["name"] for run in found["runs"]] == ["base (1)", "base (2)"]
    assert found["config"] == {}
    for sentence in found["sentences"][:-1]:
        assert sentence.endswith(" AP (+0.0 to +0.0, 95 % interval): no more than noise")


def test_the_better_one_is_better_whichever_comes_first(content, result, better):
    turned = compare([better, result], SAMPLES)
    for kind in KINDS:
        for name, row in content["AP"][kind].items():
            (ahead,), (behind,) = row["differences"], turned["AP"][kind][name]["differences"]
            assert behind["value"] == -ahead["value"]
            assert (behind["low"], behind["high"]) == (-ahead["high"], -ahead["low"])
        assert content["AP"][kind]["mAP"]["differences"][0]["low"] > 0
    assert content["sentences"][0].endswith("interval): more than noise: better is better")
    assert turned["sentences"][0].startswith("base against better: -")
    assert turned["sentences"][1].endswith("interval): more than noise: base is worse")


def test_a_detector_of_the_same_kind_differs_by_noise(result, ann_file, tmp_path):
    segm = detections_of(json.loads(ann_file.read_text()), np.random.default_rng(5))
    found = compare([result, write_test(tmp_path / "peer", ann_file, segm)], SAMPLES)
    for sentence in found["sentences"][:-1]:
        assert sentence.endswith(": no more than noise")
    for row in found["AP"]["segm"].values():
        (difference,) = row["differences"]
        assert difference["low"] < 0 < difference["high"]


def bootstrap(results, samples=200):
    """Standard error of the difference in box AP: pictures drawn again are counted again."""
    rng = np.random.default_rng(0)
    truth, params = results[0].truth, results[0].evaluations["bbox"].params
    images = {image["id"]: image for image in truth["images"]}
    wanted = by_image(truth["annotations"])
    found = [
        {i: each.tables["bbox"][each.tables["bbox"][:, 0] == i] for i in images} for each in results
    ]
    differences = []
    for _ in range(samples):
        copies = list(enumerate(rng.choice([*images], len(images)), 1))
        objects = [{**e, "image_id": copy} for copy, image in copies for e in wanted[image]]
        drawn = {
            "images": [{**images[image], "id": copy} for copy, image in copies],
            "categories": truth["categories"],
            "annotations": [{**entry, "id": i} for i, entry in enumerate(objects, 1)],
        }
        again, values = hotcoco_eval.read_truth(drawn), []
        for rows in found:
            table = np.concatenate(
                [rows[image] + np.eye(7)[0] * (copy - image) for copy, image in copies]
            )
            detected = hotcoco_eval.load_detections(again, table)
            limits = (params.catIds, params.maxDets, np.array(params.iouThrs))
            evaluation = hotcoco_eval.evaluate(
                "bbox", again, detected, range(1, len(copies) + 1), *limits
            )
            values.append(hotcoco_eval.summarize(evaluation).stats[0])
        differences.append(values[1] - values[0])
    return np.std(differences, ddof=1)


def test_intervals_are_as_wide_as_a_bootstrap_says(both, content):
    (found,) = content["AP"]["bbox"]["mAP"]["differences"]
    error = (found["high"] - found["low"]) / (2 * 1.96)
    assert error == pytest.approx(bootstrap(both), rel=0.15)


def test_three_runs_against_the_first(content, result, better):
    found = compare([result, better, result], samples=20)
    for name, row in found["AP"]["segm"].items():
        one, two, three = row["values"]
        assert [one, two] == content["AP"]["segm"][name]["values"]
        assert three == one
        assert [d["value"] for d in row["differences"]] == [round(two - one, 3), 0.0]
    assert len(found["sentences"]) == 5
    heading, first, *_ = next(tables(found))
    assert heading[1:] == ["base (1)", "better", "difference", "base (3)", "difference"]
    assert re.fullmatch(r"\+\d+\.\d \([+-]\d+\.\d to [+-]\d+\.\d\)", first[3])
    assert first[5] == "+0.0 (+0.0 to +0.0)"


def test_a_size_that_no_object_has_is_left_out(content):
    empty = {**content["AP"]["segm"]["mAP_l"], "values": [-1.0, -1.0], "differences": [None]}
    rows = next(tables({**content, "AP": {"segm": {"mAP_l": empty}}}))
    assert rows[1] == ["AP large", "-", "-", "-"]


def test_settings_that_differ_are_named(content):
    assert content["config"] == {"optim_wrapper.optimizer.lr": ["0.002", "0.5"]}


def test_settings_within_lists_and_absent_ones(result, ann_file, tmp_path):
    more = {"test_dataloader.dataset.pipeline.1.scale": (96, 96), "randomness.seed": 7}
    segm = detections_of(json.loads(ann_file.read_text()), np.random.default_rng(0))
    found = compare([result, write_test(tmp_path / "other", ann_file, segm, **more)], 2)
    assert found["config"]["test_dataloader.dataset.pipeline.1.scale"][1] == "(96, 96)"
    assert found["config"]["randomness.seed"][1] == "7"


@pytest.fixture
def changed(ann_file, tmp_path):
    """A test on a copy of the annotations that was changed."""

    def changed(change, **settings):
        truth = json.loads(ann_file.read_text())
        change(truth)
        path = tmp_path / "shapes" / "annotations" / "instances_val.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(truth))
        (tmp_path / "shapes" / "val").symlink_to(ann_file.parents[1] / "val")
        segm = detections_of(truth, np.random.default_rng(0))
        return write_test(tmp_path / "other", path, segm, **settings)

    return changed


def one_more_image(truth):
    truth["images"].append({**truth["images"][0], "id": 99, "file_name": "more.png"})


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (one_more_image, "image 99 is 'more.png' in it and 'absent' in the other"),
        (lambda t: t["images"][2].update(file_name="b.png"), r"image \d+ is 'b.png' in it and '"),
        (lambda t: t["categories"][0].update(name="other"), "category 1 is 'other' in it and '"),
        (lambda t: t["annotations"][0].update(area=1.5), r"annotation 1 is \{.*\} in it and \{"),
        (lambda t: t["annotations"].pop(), r"annotation \d+ is 'absent' in it and \{"),
    ],
)
def test_other_data_is_refused_by_what_differs(result, changed, change, says):
    with pytest.raises(DataError, match=f"^other is a test of other data than base: {says}"):
        compare([result, changed(change)])


def test_other_thresholds_are_refused(result, changed):
    path = changed(lambda truth: None, **{"test_evaluator.iou_thrs": [0.5, 0.75]})
    with pytest.raises(DataError, match=r"metric's iouThrs is \[0.5, 0.75\] in it and \["):
        compare([result, path])


def test_a_copy_of_the_data_is_the_same_data(result, changed):
    found = compare([result, changed(lambda truth: None)], samples=2)
    assert found["AP"]["segm"]["mAP"]["differences"][0]["value"] == 0.0


def test_what_is_too_little_is_refused(result):
    for paths, samples in (([result], 10), ([result, result], 1)):
        with pytest.raises(UserError, match="a comparison is of two at least"):
            compare(paths, samples)


def test_detections_that_were_overwritten_are_refused(result, tmp_path):
    value = read_results(result).evaluations["segm"]
    was = round(float(hotcoco_eval.summarize(value).stats[3]), 3)
    path = tmp_path / "result.json"
    entry = {**json.loads(result.read_text()), "metrics": {"segm_mAP_s": was}}
    path.write_text(json.dumps(entry))
    read_results(path)
    path.write_text(json.dumps({**entry, "metrics": {"segm_mAP_s": was + 0.001}}))
    with pytest.raises(UserError, match=r"segm_mAP_s was .* test again, into a --work-dir"):
        read_results(path)


def test_pictures_that_differ_most_come_first():
    images = [
        {1: {"ap": 0.5}, 2: {"ap": 0.5}, 3: {"ap": 1.0}},
        {1: {"ap": 0.5}, 2: {"ap": 0.75}, 3: {"ap": 0.5}},
    ]
    assert most_different("ab", images, 5) == {3: "b is worse", 2: "b is better"}
    assert most_different("ab", images, 1) == {3: "b is worse"}
    del images[1][3]  # without objects and detections
    assert most_different("ab", images, 5) == {2: "b is better"}


# the page


def test_the_page_needs_no_network_and_takes_any_name(page, content):
    text = page.read_text()
    assert not re.findall(r'(?:src|href)="(?!#|data:)', text)
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "")
    assert HOSTILE not in text


def test_the_page_shows_what_was_computed(open_page, page, content):
    tab = open_page(page)
    assert tab.title() == "better against base: compare"
    assert tab.locator("#verdict li").all_inner_texts() == content["sentences"]
    shown = [
        [
            [cell.inner_text() for cell in row.locator("th, td").all()]
            for row in part.locator("tbody tr").all()
        ]
        for part in tab.locator("#numbers table").all()
    ]
    assert shown == [rows[1:] for rows in tables(content)]
    assert "optim_wrapper.optimizer.lr" in tab.inner_text("#configs")


def test_pictures_stand_beside_each_other(open_page, page, content):
    tab = open_page(page)
    assert tab.locator("#comparisons figure").count() == PICTURES * 3
    captions = tab.locator("#comparisons figcaption").all_inner_texts()[:3]
    assert captions[0] == "ground truth"
    assert [caption.partition(":")[0] for caption in captions[1:]] == ["base", "better"]
    why = tab.locator("#comparisons h3").first.inner_text().rpartition(": ")[2]
    values = [float(caption.rpartition(" ")[2]) for caption in captions[1:]]
    assert why == f"better is {'better' if values[1] > values[0] else 'worse'}"
    polygons = tab.locator("#comparisons polygon")
    before = polygons.count()
    tab.fill("#score", "0.95")
    assert polygons.count() < before
    tab.select_option("#why", index=1)
    headings = tab.locator("#comparisons h3").all_inner_texts()
    assert tab.inner_text("#count") == f"{len(headings)} of {PICTURES} pictures"
    assert tab.evaluate("document.documentElement.scrollWidth") == 390


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_violation(open_page, page, content, scheme, violations):
    assert violations(open_page(page), scheme) == []
