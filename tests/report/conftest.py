"""A test whose detections are made up: the ground truth with errors of every kind."""

import json
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from mmconvnext.data import generate_shapes
from mmconvnext.data.masks import encode, run_lengths
from mmconvnext.engine.config import load_config, set_data_root
from mmconvnext.engine.provenance import run_info

HOSTILE = "</script><b>cross"  # as a class's name


def detections_of(truth: dict, rng: np.random.Generator, shift=9, right=0.7) -> list[dict]:
    """Objects that are moved, doubled, left out, of another class, and boxes of the background."""
    sizes = {image["id"]: (image["width"], image["height"]) for image in truth["images"]}
    categories = [category["id"] for category in truth["categories"]]
    found = []

    def add(image, category, mask):
        code = run_lengths(mask)
        entry = {
            "image_id": image,
            "bbox": coco_mask.toBbox(code).tolist(),
            "category_id": category,
        }
        found.append({**entry, "score": float(np.float32(rng.beta(4, 2))), "segmentation": code})

    for entry in truth["annotations"]:
        mask = coco_mask.decode(encode(entry["segmentation"], *sizes[entry["image_id"]]))
        for _ in range(rng.integers(3)):
            same = rng.random() < right
            category = entry["category_id"] if same else int(rng.choice(categories))
            add(
                entry["image_id"],
                category,
                np.roll(mask, rng.integers(-shift, shift + 1, 2), (0, 1)),
            )
    for image, (width, height) in sizes.items():
        mask = np.zeros((height, width), np.uint8)
        mask[5:40, 5 : int(rng.integers(20, 60))] = 1
        add(image, int(rng.choice(categories)), mask)
    return found


def write_test(folder: Path, ann_file: Path, segm: list[dict], **settings) -> Path:
    """What a test leaves in its folder; ``settings`` are the config's, by their dotted names."""
    truth = json.loads(ann_file.read_text())
    bbox = [{k: v for k, v in entry.items() if k != "segmentation"} for entry in segm]
    folder.mkdir(exist_ok=True)
    files = {}
    for kind, found in (("segm", segm), ("bbox", bbox)):
        files[kind] = str(folder / f"detections.{kind}.json")
        Path(files[kind]).write_text(json.dumps(found))
    cfg = load_config("mask_rcnn_convnext_shapes.py")
    set_data_root(cfg, str(ann_file.parents[1]))
    classes = [category["name"] for category in truth["categories"]]
    cfg.test_dataloader.dataset.metainfo = {"classes": classes}
    cfg.merge_from_dict({"work_dir": str(folder), **settings})
    cfg.dump(folder / "config.py")
    sources = {"files": files, "ann_file": str(ann_file), "config": str(folder / "config.py")}
    sources["pictures"] = str(ann_file.parents[1] / "val")
    content = {"detections": sources, "checkpoint": str(folder / "work" / "epoch_1.pth")}
    path = folder / "result.json"
    path.write_text(json.dumps({**content, "run": run_info(cfg)}))
    return path


@pytest.fixture(scope="session")
def ann_file(tmp_path_factory) -> Path:
    """40 pictures of *shapes*, one class of which has a hostile name."""
    folder = tmp_path_factory.mktemp("report") / "shapes"
    generate_shapes(folder, num_train=1, num_val=40)
    path = folder / "annotations" / "instances_val.json"
    truth = json.loads(path.read_text())
    truth["categories"][-1]["name"] = HOSTILE
    path.write_text(json.dumps(truth))
    return path


@pytest.fixture(scope="session")
def result(ann_file) -> Path:
    """``result.json`` of such a test."""
    truth = json.loads(ann_file.read_text())
    segm = detections_of(truth, np.random.default_rng(0))
    return write_test(ann_file.parents[2] / "base", ann_file, segm)


@pytest.fixture(scope="session")
def better(ann_file) -> Path:
    """Of another detector, of fewer errors, with another learning rate."""
    truth = json.loads(ann_file.read_text())
    segm = detections_of(truth, np.random.default_rng(1), shift=4, right=0.9)
    more = {"optim_wrapper.optimizer.lr": 0.5}
    return write_test(ann_file.parents[2] / "better", ann_file, segm, **more)


@pytest.fixture
def open_page(browser):
    """Open a file on a phone; what its scripts complain about fails the test."""
    tab = browser.new_page(viewport={"width": 390, "height": 844})
    faults = []
    tab.on("pageerror", lambda error: faults.append(str(error)))
    tab.on("console", lambda line: faults.append(line.text) if line.type == "error" else None)

    def open_page(page: Path):
        tab.goto(page.as_uri())
        return tab

    yield open_page
    tab.close()
    assert faults == []
