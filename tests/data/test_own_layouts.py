"""Every layout, made of real and of synthetic pictures: one command trains, tests and checks it."""

import copy
import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask

from mmconvnext.cli import main
from mmconvnext.data.formats import FORMATS, Split
from mmconvnext.data.layouts import read_layout, write_layout
from mmconvnext.data.masks import encode, run_lengths
from mmconvnext.data.shapes import generate_shapes
from mmconvnext.engine.config import load_config

CONFIG = "mask_rcnn_convnext_shapes"
# One iteration of a detector of a few thousand parameters, without processes for the data.
SMALL = ["train_cfg.max_iters=1", "train_dataloader.batch_size=2"]
for _split in ("val", "test"):
    SMALL += [f"{_split}_dataloader.{key}" for key in ("num_workers=0", "persistent_workers=False")]
SMALL += [f"model.backbone.arch.{key}" for key in ("depths=(1,1,1,1)", "widths=(8,8,8,8)")]
SMALL += ["model.neck.in_channels=[8,8,8,8]", "model.roi_head.bbox_head.fc_out_channels=16"]
SMALL += [f"model.test_cfg.rcnn.{key}" for key in ("score_thr=0.0", "max_per_img=5")]
SMALL += ["model.test_cfg.rpn.max_per_img=20", "model.train_cfg.rpn_proposal.max_per_img=20"]
SMALL += [f"model.train_cfg.{part}.sampler.num=8" for part in ("rpn", "rcnn")]
NAMES = ("große Scheibe", "三角", 'it\'s a "cross"')
SIDE = 96


def read(root: Path, split: str, folder: str) -> Split:
    path = root / "annotations" / f"instances_{folder}.json"
    return Split(root / folder, json.loads(path.read_text()))


def part(split: Split, folder: Path, count: int) -> Split:
    """The first pictures with few objects, small, and the classes that they have."""
    content, factors = split.content, {}
    objects = {i["id"]: [] for i in content["images"]}
    for entry in content["annotations"]:
        objects[entry["image_id"]].append(entry)
    few = [i for i in content["images"] if 1 <= len(objects[i["id"]]) <= 6][:count]
    for image in few:
        pixels = cv2.imread(str(split.folder / image["file_name"]))
        factors[image["id"]] = factor = SIDE / max(pixels.shape)
        small = cv2.resize(pixels, None, fx=factor, fy=factor)
        image["height"], image["width"] = small.shape[:2]
        folder.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / image["file_name"]), small)
    kept = [_small(e, i, factors[i["id"]]) for i in few for e in objects[i["id"]]]
    used = {entry["category_id"] for entry in kept}
    categories = [c for c in content["categories"] if c["id"] in used]
    return Split(folder, {"images": few, "annotations": kept, "categories": categories})


def _small(entry, image, factor):
    mask = entry["segmentation"]
    if isinstance(mask, dict):
        bitmap = coco_mask.decode(encode(mask, mask["size"][1], mask["size"][0]))
        mask = run_lengths(cv2.resize(bitmap, (image["width"], image["height"])))
    else:
        mask = [(np.array(polygon) * factor).tolist() for polygon in mask]
    box = (np.array(entry["bbox"]) * factor).tolist()
    return {**entry, "segmentation": mask, "bbox": box, "area": entry["area"] * factor**2}


@pytest.fixture(scope="session", params=["shapes", "coco_tiny"])
def source(request, tmp_path_factory):
    """Splits of *shapes* or, where there is some, of COCO, made once."""
    made, root, suffix = tmp_path_factory.mktemp("source"), None, "2017"
    if request.param == "shapes":
        root, suffix = made / "shapes", ""
        generate_shapes(root, num_train=8, num_val=4, image_size=SIDE)
    root = root or request.getfixturevalue("coco_tiny")
    splits = {s: part(read(root, s, f"{s}{suffix}"), made / s, 4) for s in ("train", "val")}
    both = {c["id"]: c for split in splits.values() for c in split.content["categories"]}
    for split in splits.values():
        categories = [both[index] for index in sorted(both)]
        if request.param == "shapes":
            categories = [{"id": c["id"], "name": NAMES[c["id"] - 1]} for c in categories]
        split.content["categories"] = categories
    return splits


@pytest.fixture
def splits(source):
    """Splits that a test may change."""
    return copy.deepcopy(source)


def from_zero(content) -> None:
    """Let all ids of a COCO file start at 0 and have no gaps."""
    new = {
        key: {e["id"]: i for i, e in enumerate(content[key])} for key in ("images", "categories")
    }
    for key, ids in new.items():
        for entry in content[key]:
            entry["id"] = ids[entry["id"]]
    for index, entry in enumerate(content["annotations"]):
        entry["id"] = index
        entry["image_id"] = new["images"][entry["image_id"]]
        entry["category_id"] = new["categories"][entry["category_id"]]


def put(path: Path, content, split: Split, folder: Path) -> None:
    """Write a file, and copy the pictures of a split into a folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    for image in split.content["images"]:
        target = folder / image["file_name"]
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(split.folder / image["file_name"], target)


def roboflow(splits, root):
    """Ids from 0, and the data set itself as a category that no object has."""
    for name, split in splits.items():
        content = copy.deepcopy(split.content)
        from_zero(content)
        for entry in (*content["categories"], *content["annotations"]):
            entry["id" if "name" in entry else "category_id"] += 1
        for entry in content["categories"]:
            entry["supercategory"] = "things"
        content["categories"].insert(0, {"id": 0, "name": "things", "supercategory": "none"})
        for image in content["images"]:
            image |= {"license": 1, "date_captured": "2026-11-26T12:00:00+00:00"}
            image["extra"] = {"name": image["file_name"]}
        folder = root / {"val": "valid"}.get(name, name)
        put(folder / "_annotations.coco.json", content, split, folder)
    (root / "README.roboflow.txt").write_text("exported")


def cvat_coco(splits, root):
    """Some masks are uncompressed codes, boxes have an empty one; pictures lie in folders."""
    for name, split in splits.items():
        content = copy.deepcopy(split.content)
        sizes = {i["id"]: (i["width"], i["height"]) for i in content["images"]}
        content |= {"licenses": [{"name": "", "id": 0, "url": ""}], "info": {"contributor": ""}}
        for image in content["images"]:
            inner = root / "images" / name / "my task"
            inner.mkdir(parents=True, exist_ok=True)
            shutil.copy(split.folder / image["file_name"], inner)
            image["file_name"] = f"my task/{image['file_name']}"
            image |= {"license": 0, "flickr_url": "", "coco_url": "", "date_captured": 0}
        for index, entry in enumerate(content["annotations"]):
            entry["attributes"] = {"occluded": False, "rotation": 0.0}
            mask = entry.setdefault("segmentation", [])
            if mask and not index:  # drawn with the brush
                size = sizes[entry["image_id"]]
                entry["segmentation"] = run_lengths(coco_mask.decode(encode(mask, *size)))
        path = root / "annotations" / f"instances_{name}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(content))


def label_studio_coco(place):
    """One file, ids from 0, and pictures named after the upload or the place on the server."""

    def make(splits, root):
        content = copy.deepcopy(splits["train"].content)
        from_zero(content)
        content["info"] = {"description": "", "contributor": "Label Studio"}
        put(root / "result.json", content, splits["train"], root / "images")
        for entry in content["annotations"]:
            entry["ignore"] = 0
        for image in content["images"]:
            image["file_name"] = place.format(name=image["file_name"])
        (root / "result.json").write_text(json.dumps(content))

    return make


def without_masks(splits):
    """The same objects as boxes."""
    for split in splits.values():
        for entry in split.content["annotations"]:
            del entry["segmentation"]
    return splits


def prelabelled(splits, root):
    """Predictions that nobody has corrected, converted from labelme's files: scores stay."""
    for split in splits.values():
        for index, entry in enumerate(split.content["annotations"]):
            entry["score"] = 1 / (index + 1)
    write_layout(splits, "labelme", root.with_name("labelme"))
    write_layout(read_layout(root.with_name("labelme"))[1], "coco", root)
    assert '"score"' in (root / "annotations" / "instances_val.json").read_text()


WRITERS = {
    **{name: (lambda s, r, name=name: write_layout(s, name, r)) for name in FORMATS},
    "yolo boxes": lambda s, r: write_layout(without_masks(s), "yolo", r),
    "labelme in one folder": lambda s, r: write_layout({"train": s["train"]}, "labelme", r),
    "COCO with scores": prelabelled,
    "Roboflow": roboflow,
    "CVAT's COCO": cvat_coco,
    "CVAT's COCO boxes": lambda s, r: cvat_coco(without_masks(s), r),
    "Label Studio's COCO": label_studio_coco("images/{name}"),
    "Label Studio's COCO, server": label_studio_coco("../../label-studio/data/upload/1/{name}"),
}
ONE_SPLIT = [name for name in WRITERS if name.startswith("Label Studio's") or "one f" in name]


def train_test_and_check(root, work_dir, capsys):
    """Run the three commands as a user does; what is in the data, and what came out."""

    def run(*arguments) -> None:
        assert main([str(each) for each in arguments]) == 0

    more = ["--dataset", root, "--work-dir", work_dir, "--cfg-options", *SMALL]
    run("train", CONFIG, *more)
    run("test", CONFIG, work_dir / "iter_1.pth", *more)
    capsys.readouterr()
    written = work_dir / f"{CONFIG}_train_on_dataset.py"
    run("check-data", written, "--oracle")  # fails where the ground truth has less than 100
    assert "annotation files that can be used" in capsys.readouterr().out
    cfg, counts = load_config(str(written)), {}
    for split in ("train", "val", "test"):
        dataset = cfg[f"{split}_dataloader"].dataset
        content = json.loads(Path(dataset.data_root, dataset.ann_file).read_text())
        counts[split] = (len(content["images"]), len(content["annotations"]))
    return cfg, counts, json.loads((work_dir / "result.json").read_text())["metrics"]


@pytest.mark.parametrize("name", WRITERS)
def test_each_layout_trains_tests_and_is_checked_by_one_command(name, splits, tmp_path, capsys):
    WRITERS[name](splits, tmp_path / "my data")
    cfg, counts, metrics = train_test_and_check(tmp_path / "my data", tmp_path / "work", capsys)
    given = {split: each.content for split, each in splits.items()}
    if name in ONE_SPLIT:
        del given["val"]
    names = {c["id"]: c["name"] for c in given["train"]["categories"]}
    used = {names[a["category_id"]] for content in given.values() for a in content["annotations"]}
    classes = cfg.train_dataloader.dataset.metainfo.classes
    assert used <= set(classes) <= set(names.values())
    assert cfg.model.roi_head.bbox_head.num_classes == len(classes)
    assert ("segm_mAP" in metrics) == (name != "voc" and "boxes" not in name)
    assert "bbox_mAP" in metrics
    crowds = "yolo" not in name
    numbers = {
        split: (len(c["images"]), sum(crowds or not a["iscrowd"] for a in c["annotations"]))
        for split, c in given.items()
    }
    if name in ONE_SPLIT:
        both = zip(counts["train"], counts["val"], strict=True)
        counts["train"] = tuple(map(sum, both))
    assert {split: counts[split] for split in numbers} == numbers


@pytest.mark.parametrize("source", ["shapes"], indirect=True)
@pytest.mark.parametrize("name", ["Roboflow", "labelme", "yolo"])
@pytest.mark.parametrize("count", [1, 200])
def test_one_class_and_two_hundred_of_two_pictures(name, count, splits, tmp_path, capsys):
    content = splits["train"].content
    content["images"] = content["images"][:2]
    kept = {image["id"] for image in content["images"]}
    entries = [a for a in content["annotations"] if a["image_id"] in kept]
    if count == 1:
        entries = [{**entry, "category_id": 1} for entry in entries]
    else:
        entries += [{**entries[0], "id": 10_000 + i, "category_id": i + 1} for i in range(count)]
    content["annotations"] = entries
    content["categories"] = [{"id": i + 1, "name": f"Größe {i} 号"} for i in range(count)]
    WRITERS[name]({"train": splits["train"]}, tmp_path / "data")
    cfg, counts, _ = train_test_and_check(tmp_path / "data", tmp_path / "work", capsys)
    assert len(cfg.classes) == count
    assert [counts[split][0] for split in ("train", "val")] == [1, 1]
