"""`mmconvnext prelabel`: predictions that annotation tools read, and that are read back here."""

import cv2
import numpy as np
import pytest
import torch
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData
from pycocotools import mask as coco_mask

from mmconvnext.cli import main
from mmconvnext.cli.prelabel import FORMATS
from mmconvnext.data.formats.common import Labelled, Shape, make_splits
from mmconvnext.data.layouts import read_layout
from mmconvnext.data.masks import encode
from mmconvnext.engine.classes import set_classes
from mmconvnext.engine.config import load_config
from mmconvnext.inference import prelabel
from mmconvnext.inference.detector import Detector

CONFIG, NAMES = "mask_rcnn_convnext_shapes", ("große Scheibe", "三角")
SIZE = (96, 128)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    init_default_scope("mmdet")
    cfg = load_config(CONFIG)
    set_classes(cfg, NAMES)
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("checkpoint") / "detector.pth"
    state = MODELS.build(cfg.model).state_dict()
    torch.save({"meta": {"dataset_meta": {"classes": NAMES}}, "state_dict": state}, path)
    return path


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    (folder / "more").mkdir(parents=True)
    random = np.random.default_rng(0)
    for name in ("a b.png", "more/c.jpg"):
        cv2.imwrite(str(folder / name), random.integers(0, 255, (*SIZE, 3), np.uint8))
    return folder


def ellipses() -> InstanceData:
    """What a good detector might answer: an object in two parts, one, and one of a low score."""
    masks = np.zeros((3, *SIZE), np.uint8)
    cv2.ellipse(masks[0], (30, 30), (20, 12), 30, 0, 360, 1, -1)
    cv2.ellipse(masks[0], (90, 30), (15, 9), 0, 0, 360, 1, -1)
    cv2.ellipse(masks[1], (60, 65), (40, 20), 0, 0, 360, 1, -1)
    return InstanceData(
        bboxes=torch.tensor([[8.0, 8, 106, 44], [20, 45, 101, 86], [1, 1, 2, 2]]),
        labels=torch.tensor([0, 1, 1]),
        scores=torch.tensor([0.75, 0.5, 0.1]),
        masks=torch.from_numpy(masks).bool(),
    )


def call(checkpoint, images, out, *options, to="coco"):
    return main(["prelabel", CONFIG, *map(str, (checkpoint, images, out)), "--to", to, *options])


def objects(split):
    """By picture: the class, box and mask of each object."""
    content, found = split.content, {}
    names = {category["id"]: category["name"] for category in content["categories"]}
    for image in content["images"]:
        assert (split.folder / image["file_name"]).is_file()
        found[image["file_name"].rpartition("/")[2]] = sorted(
            (
                names[entry["category_id"]],
                entry["bbox"],
                encode(entry["segmentation"], image["width"], image["height"]),
            )
            for entry in content["annotations"]
            if entry["image_id"] == image["id"]
        )
    return found


@pytest.mark.parametrize("name", FORMATS)
def test_what_was_predicted_is_read_back(checkpoint, images, tmp_path, capsys, monkeypatch, name):
    def answer(detector, parts):
        return [DetDataSample(pred_instances=ellipses()) for _ in parts]

    monkeypatch.setattr(Detector, "_forward", answer)
    assert call(checkpoint, images, tmp_path / "out", to=name) == 0
    assert "2 pictures, 4 objects" in capsys.readouterr().out
    found_name, splits = read_layout(tmp_path / "out")
    assert (found_name, list(splits)) == (name, ["train"])
    found = objects(splits["train"])
    assert set(found) == {"a b.png", "c.jpg"}
    texts = [p.read_text("utf-8") for p in (tmp_path / "out").rglob("*.[jx][sm]*")]
    assert sum(text.count("0.75") for text in texts) >= 2  # scores
    wanted = ellipses()
    for on_picture in found.values():
        assert [each[0] for each in on_picture] == list(NAMES)
        for (_, box, mask), predicted in zip(on_picture, wanted.masks.numpy(), strict=False):
            whole = coco_mask.encode(np.asfortranarray(predicted.astype(np.uint8)))
            assert coco_mask.iou([mask], [whole], [0])[0, 0] > 0.9
            assert (
                np.abs(np.subtract(box, coco_mask.toBbox(whole))).max() <= 1.5
            )  # the outline is to half a pixel


def test_scores_are_kept(checkpoint, images, tmp_path):
    assert call(checkpoint, images, tmp_path / "out", "--score-thr", "0") == 0
    content = read_layout(tmp_path / "out")[1]["train"].content
    assert content["annotations"]
    assert all(0 <= entry["score"] <= 1 for entry in content["annotations"])


def test_a_broken_picture_is_named_and_the_others_are_written(checkpoint, images, tmp_path, capsys):
    (images / "broken.png").write_bytes((images / "a b.png").read_bytes()[:500])
    (images / "text.jpg").write_text("no picture")
    assert call(checkpoint, images, tmp_path / "out") == 1
    error = capsys.readouterr().err
    assert f"left out: {images / 'broken.png'} " in error
    assert f"left out: {images / 'text.jpg'} " in error
    assert error.count("left out") == 2
    assert len(read_layout(tmp_path / "out")[1]["train"].content["images"]) == 2


def test_what_is_refused(checkpoint, images, tmp_path, capsys):
    def refused(says, *arguments, **more):
        assert call(*arguments, **more) == 1
        error = capsys.readouterr().err
        assert says in error
        assert "Traceback" not in error

    out, empty = tmp_path / "out", tmp_path / "empty"
    empty.mkdir()
    refused("has no pictures", checkpoint, empty, out)
    refused("there is no folder", checkpoint, tmp_path / "nowhere", out)
    refused("there is no checkpoint", tmp_path / "x.pth", images, out)
    refused("not an empty folder", checkpoint, images, images)
    refused("--tolerance must not", checkpoint, images, out, "--tolerance", "-1")
    (empty / "text.jpg").write_text("no picture")
    refused("none of 1 pictures can be used", checkpoint, empty, out)
    assert not out.exists()


@pytest.mark.parametrize("tolerance", [0, 0.5, 2, 1000])
def test_polygons_are_within_the_tolerance(tolerance, tmp_path):
    mask = np.zeros(SIZE, np.uint8)
    cv2.ellipse(mask, (60, 50), (40, 25), 20, 0, 360, 1, -1)
    (polygon,) = prelabel.polygons_of_mask(mask, tolerance)
    (outline,) = prelabel.outlines(mask)
    points = np.float32(polygon).reshape(-1, 1, 2)
    if tolerance < 1000:  # of which no polygon is left
        for point in outline.reshape(-1, 2):
            distance = cv2.pointPolygonTest(points, point.tolist(), measureDist=True)
            assert abs(distance) <= tolerance + 1e-4
    picture = Labelled("train", "a.png", SIZE[::-1], [Shape(NAMES[0], [polygon])])
    (entry,) = make_splits([picture], tmp_path)["train"].content["annotations"]
    assert entry["area"] == pytest.approx(mask.sum(), rel=0.15)
