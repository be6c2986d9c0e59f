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


def detections_of(truth: dict, rng: np.random.Generator) -> list[dict]:
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
            right = rng.random() < 0.7
            category = entry["category_id"] if right else int(rng.choice(categories))
            add(entry["image_id"], category, np.roll(mask, rng.integers(-9, 10, 2), (0, 1)))
    for image, (width, height) in sizes.items():
        mask = np.zeros((height, width), np.uint8)
        mask[5:40, 5 : int(rng.integers(20, 60))] = 1
        add(image, int(rng.choice(categories)), mask)
    return found


@pytest.fixture(scope="session")
def result(tmp_path_factory) -> Path:
    """``result.json`` of such a test on 40 pictures of *shapes*."""
    folder = tmp_path_factory.mktemp("report")
    generate_shapes(folder / "shapes", num_train=1, num_val=40)
    ann_file = folder / "shapes" / "annotations" / "instances_val.json"
    truth = json.loads(ann_file.read_text())
    truth["categories"][-1]["name"] = HOSTILE
    ann_file.write_text(json.dumps(truth))
    segm = detections_of(truth, np.random.default_rng(0))
    bbox = [{k: v for k, v in entry.items() if k != "segmentation"} for entry in segm]
    files = {}
    for kind, found in (("segm", segm), ("bbox", bbox)):
        files[kind] = str(folder / f"detections.{kind}.json")
        Path(files[kind]).write_text(json.dumps(found))
    cfg = load_config("mask_rcnn_convnext_shapes.py")
    set_data_root(cfg, str(folder / "shapes"))
    classes = [category["name"] for category in truth["categories"]]
    cfg.test_dataloader.dataset.metainfo = {"classes": classes}
    cfg.dump(folder / "config.py")
    sources = {"files": files, "ann_file": str(ann_file), "config": str(folder / "config.py")}
    sources["pictures"] = str(folder / "shapes" / "val")
    content = {"detections": sources, "checkpoint": str(folder / "work" / "epoch_1.pth")}
    path = folder / "result.json"
    path.write_text(json.dumps({**content, "run": run_info(cfg)}))
    return path
