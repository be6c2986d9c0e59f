"""The cases of ../shared/cases, in one process: AP 100 of the ground truth, or the line."""

import importlib
import re
import sys
from pathlib import Path

import pytest
from PIL import Image

from mmconvnext.data.prepare import prepare_data
from mmconvnext.engine.config import load_config
from mmconvnext.errors import DataError
from mmconvnext.evaluation.oracle import oracle_metrics

CASES = Path(__file__).resolve().parents[2].parent / "shared" / "cases"
pytestmark = pytest.mark.skipif(
    not (CASES / "common").is_dir(), reason="the cases lie in ../shared/cases, which is not there"
)
OBJECT = "annotation 2 of image 1"  # that the cases change
MANY = r"1 of 9 objects \(11.1%\) would be repaired, more than data_checks.max_repaired=0.05; .*"


@pytest.fixture
def make(tmp_path, monkeypatch):
    """Write pictures and files of the cases, changed by a function, and return the config."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(CASES / "common"))
    monkeypatch.setenv("MMCONVNEXT", str(Path(__file__).resolve().parents[2]))
    mk = importlib.import_module("mk")

    def write(change=lambda content: None, base="base.py", **kwargs):
        contents = mk.make(**kwargs)
        for content in contents:
            change(content)
        mk.write(*contents)
        return load_config(str(CASES / "common" / base))

    yield write
    sys.modules.pop("mk", None)


def result(cfg, labels=None) -> str:
    """What checking and evaluating the ground truth come to: an error's text, or the AP."""
    data = prepare_data(cfg, ("train", "val", "test"), labels)
    if data.refusals:
        return data.refusals[0]
    metrics = oracle_metrics(cfg)
    return f"{metrics['coco/bbox_mAP']:.3f} {metrics['coco/segm_mAP']:.3f}; " + "; ".join(
        data.notes
    )


def change_object(**changes):
    def change(content):
        entry = content["annotations"][1]
        for key, value in changes.items():
            entry[key] = value(entry) if callable(value) else value
            if value is ...:
                del entry[key]

    return change


def change_all(name, **changes):
    def change(content):
        for entry in content[name]:
            for key, value in changes.items():
                entry[key] = value(entry) if callable(value) else value
                if value is ...:
                    del entry[key]

    return change


def corners(entry):
    x, y, w, h = entry["bbox"]
    return [x, y, x + w, y + h]


def polygon(entry):
    return entry["segmentation"][0]


def other_order(content):
    content["categories"].insert(0, content["categories"].pop())


def other_ids(content):
    other_order(content)
    ids = {1: 7, 2: 13, 3: 90}
    for entry in content["categories"]:
        entry["id"] = ids[entry["id"]]
    for entry in content["annotations"]:
        entry["category_id"] = ids[entry["category_id"]]


def text_ids(content):
    change_all("images", id=lambda e: f"img_{e['id']}")(content)
    change_all("annotations", image_id=lambda e: f"img_{e['image_id']}")(content)


def one_name_twice(content):
    content["categories"].append({"id": 9, "name": "cat"})
    content["annotations"][1]["category_id"] = 9


@pytest.mark.parametrize(
    ("change", "note"),
    [
        (lambda content: None, ""),
        (other_order, "order of categories"),
        (other_ids, "order of categories"),
        (text_ids, "image ids"),
        (
            change_all(
                "annotations",
                image_id=lambda e: str(e["image_id"]),
                category_id=lambda e: str(e["category_id"]),
            ),
            "ids of another type",
        ),
        (change_all("annotations", area=...), "no area"),
        (change_all("annotations", iscrowd=...), "no iscrowd"),
        (change_all("annotations", area=..., iscrowd=...), "no iscrowd"),
        (change_all("annotations", id=...), "annotation ids"),
        (change_all("annotations", id=lambda e: e["image_id"]), "annotation ids"),
        (change_all("images", height=...), "image size"),
        (change_object(segmentation=polygon), "flat polygon"),
        (
            change_object(segmentation=lambda e: [[polygon(e)[i : i + 2] for i in range(0, 8, 2)]]),
            "polygon of points",
        ),
        (
            change_all("annotations", segmentation=lambda e: [[int(v) for v in polygon(e)[:6]]]),
            "",
        ),
        (change_object(bbox=lambda e: [str(v) for v in e["bbox"]]), "numbers as text"),
    ],
)
def test_ground_truth_has_ap_100(make, change, note):
    ap, _, notes = result(make(change)).partition("; ")
    assert ap == "1.000 1.000"
    assert note in notes


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (change_object(image_id=999), MANY + "unknown image: .*annotation 2 of image 999"),
        (change_object(category_id=77), MANY + f"unknown category: .*{OBJECT}, category 77"),
        (lambda c: c["images"][1].update(id=c["images"][0]["id"]), "one image id: .*'1.png'.*'2"),
        (one_name_twice, "one category name: .*'cat': 1 and 9"),
        (change_object(bbox=lambda e: [*e["bbox"][:2], 0, 0]), MANY + "box under one pixel"),
        (change_all("annotations", bbox=lambda e: [*e["bbox"][:2], 0, 0]), "box under one pixel"),
        (change_object(bbox=[200, 200, 20, 20]), MANY + "box outside"),
        (change_all("annotations", bbox=corners), "boxes of corners"),
        (change_object(bbox=[float("nan")] * 4), MANY + f"no box: .*{OBJECT}"),
        (change_object(bbox=None), MANY + f"no box: .*{OBJECT}"),
        (change_all("annotations", iscrowd=1), "only crowds: .*set 0"),
        (change_object(segmentation=[]), MANY + f"no mask: .*{OBJECT}"),
        (change_object(segmentation=None), MANY + f"no mask: .*{OBJECT}"),
        (change_object(segmentation=...), MANY + f"no mask: .*{OBJECT}"),
        (change_object(segmentation=lambda e: [[*polygon(e), 3]]), MANY + "broken polygon"),
        (change_object(segmentation=lambda e: [polygon(e)[:4]]), MANY + "broken polygon"),
        (
            change_object(segmentation=lambda e: [[float("nan"), *polygon(e)[1:]]]),
            MANY + f"broken polygon: .*{OBJECT}",
        ),
    ],
)
def test_files_are_refused_by_one_line(make, change, line):
    text = result(make(change))
    assert "\n" not in text
    assert text.startswith("data/train.json: ")
    assert re.search(line, text), text


def test_a_misspelt_class(make):
    cfg = make()
    for split in ("train", "val", "test"):
        cfg[f"{split}_dataloader"].dataset.metainfo.classes = ("cat", "dgo", "bird")
    assert "misspelt class" in (text := result(cfg))
    assert "'dgo', in the file 'dog'" in text


def test_classes_in_another_order_than_the_detectors(make):
    cfg = make()
    cfg.test_dataloader.dataset.metainfo.classes = ("bird", "cat")
    assert result(cfg).startswith("1.000 1.000")
    assert cfg.test_dataloader.dataset.metainfo.classes == ("cat", "dog", "bird")
    with pytest.raises(DataError, match=r"metainfo\.classes\): the detector has no class 'dog'"):
        result(make(), labels=("cat", "bird"))


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:200]), "2.png cannot be read"),
        (lambda path: path.write_bytes(b""), r"2.png is empty \(0 bytes\)"),
        (lambda path: path.unlink(), "2.png does not exist"),
        (lambda path: path.write_text("<html>404</html>"), "2.png is no picture"),
    ],
)
def test_broken_pictures(make, change, line):
    cfg = make()
    change(Path("data/images/2.png"))
    assert re.search(f"broken picture: .*{line}", result(cfg))


@pytest.mark.parametrize("stored", [True, False])
def test_exif_orientation(make, stored):
    def turn(content):
        for image in content["images"]:
            picture = Image.open(f"data/images/{image['file_name']}")
            exif = Image.Exif()
            exif[0x0112] = 6
            image["file_name"] = image["file_name"].replace(".png", ".jpg")
            if not stored:
                picture = picture.transpose(Image.Transpose.ROTATE_90)
            picture.save(f"data/images/{image['file_name']}", exif=exif.tobytes(), quality=95)

    cfg = make(turn, size=(128, 96))
    text = result(cfg)
    assert text.startswith("1.000 1.000")
    assert ("not applied" if stored else "upright by EXIF") in text
    load = cfg.test_dataloader.dataset.pipeline[0]
    assert load.get("color_type") == ("color_ignore_orientation" if stored else None)


def test_what_the_other_cases_are_tested_by():
    """A case that is added here has to get a test."""
    elsewhere = {"accumulation", "concat-tables", "ema-inspect", "resume-longer"}
    here = {
        "all-crowd", "bad-boxes", "broken-images", "category-order", "dangling", "duplicate-ids",
        "empty-segmentation", "exif-rotated", "metainfo-order", "misspelt-class", "nan-polygon",
        "no-area-no-iscrowd", "odd-polygons", "some-without-segmentation", "xyxy-boxes",
    }  # fmt: skip
    assert {p.name for p in CASES.iterdir() if (p / "run.sh").is_file()} == here | elsewhere
