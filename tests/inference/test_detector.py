"""`Detector` is `tools/test.py` on any picture: the same numbers, from whatever it is given."""

import pickle
import shutil

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from mmconvnext import Detector
from mmconvnext.cli import main
from mmconvnext.engine.config import load_config
from mmconvnext.errors import ConfigError, DataError, UserError
from mmconvnext.evaluation.rle import encode_masks
from tests.inference.conftest import CLASSES, CONFIG

META = ("img_id", "img_path", "ori_shape", "img_shape", "scale_factor", "flip", "flip_direction")
TTA = f"""
_base_ = "mmconvnext::{CONFIG}"
tta_model = dict(
    type="InstanceTTAModel",
    tta_cfg=dict(nms=dict(type="nms", iou_threshold=0.5), max_per_img=100),
)
flips = [dict(type="RandomFlip", prob=1.0), dict(type="RandomFlip", prob=0.0)]
pack = dict(type="FastPackDetInputs", meta_keys={META})
tta_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(
        type="TestTimeAug",
        transforms=[[dict(type="Resize", scale=(160, 160), keep_ratio=True)], flips, [pack]],
    ),
]
"""


@pytest.fixture(scope="module")
def detector(checkpoint):
    return Detector(CONFIG, checkpoint, batch=1)


@pytest.fixture
def picture(shapes):
    return min((shapes / "val").iterdir())


def assert_same(one, other):
    assert len(one) == len(other) > 0
    for key in ("boxes", "scores", "labels", "masks"):
        np.testing.assert_array_equal(getattr(one, key), getattr(other, key))


@pytest.fixture(scope="module")
def of_all_kinds(shapes, tmp_path_factory):
    """*Shapes* whose pictures are in colour, gray, and both of 16 bits."""
    root = shutil.copytree(shapes, tmp_path_factory.mktemp("kinds") / "shapes")
    low = np.random.default_rng(0).integers(0, 256, (160, 160, 3), np.uint16)
    for number, path in enumerate(sorted((root / "val").iterdir())):
        pixels = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE if number % 2 else cv2.IMREAD_COLOR)
        deep = pixels.astype(np.uint16) * 256 + (low[..., 0] if number % 2 else low)
        cv2.imwrite(str(path), deep if number > 1 else pixels)
    return root


@pytest.mark.parametrize(("batch", "tta"), [(1, False), (1, True), (3, False), (3, True)])
def test_it_equals_the_test_to_the_last_bit(checkpoint, of_all_kinds, tmp_path, batch, tta):
    config = tmp_path / "config.py"
    config.write_text(TTA)
    arguments = [config, checkpoint, "--data-root", of_all_kinds, "--work-dir", tmp_path]
    arguments += ["--data-checks", "off", "--out", tmp_path / "found.pkl", *["--tta"] * tta]
    arguments += ["--cfg-options", f"test_dataloader.batch_size={batch}"]
    assert main(["test", *map(str, arguments)]) == 0
    assert config.read_text() == TTA, "no test takes the place of a training's config"
    with (tmp_path / "found.pkl").open("rb") as file:
        samples = pickle.load(file)
    assert len(samples) == 4
    detector = Detector(config, checkpoint, tta=tta, batch=batch)
    for sample, found in zip(
        samples, detector.predict(s["img_path"] for s in samples), strict=True
    ):
        wanted = sample["pred_instances"]
        assert len(wanted["scores"]) > 10
        np.testing.assert_array_equal(found.boxes, wanted["bboxes"].numpy())
        np.testing.assert_array_equal(found.scores, wanted["scores"].numpy())
        np.testing.assert_array_equal(found.labels, wanted["labels"].numpy())
        assert encode_masks(found.masks) == wanted["masks"]
        counts = [entry["segmentation"]["counts"].encode() for entry in found.coco()]
        assert counts == [mask["counts"] for mask in wanted["masks"]]


def test_several_pictures_at_a_time(detector, checkpoint, shapes):
    pictures = sorted((shapes / "val").iterdir())
    one = list(detector.predict(pictures))
    eight = list(Detector(CONFIG, checkpoint).predict(pictures))  # of the config, 8
    assert [each.frame.name for each in eight] == [str(path) for path in pictures]
    for found, other in zip(one, eight, strict=True):  # convolutions of a batch add otherwise
        np.testing.assert_allclose(found.scores, other.scores, atol=1e-4)


def test_whatever_a_picture_is_given_as(detector, picture, tmp_path):
    wanted = detector(picture)
    assert_same(detector(str(picture)), wanted)
    assert_same(detector(cv2.imread(str(picture))), wanted)
    assert_same(detector(Image.open(picture)), wanted)
    assert_same(
        detector(
            np.dstack([cv2.imread(str(picture)), np.zeros(wanted.size[::-1])]).astype(np.uint8)
        ),
        wanted,
    )


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_gray_and_deep_pictures_give_what_their_rgb_copies_give(
    detector, picture, tmp_path, suffix
):
    gray = cv2.imread(str(picture), cv2.IMREAD_GRAYSCALE)
    cv2.imwrite(str(tmp_path / "rgb.png"), cv2.cvtColor(gray, cv2.COLOR_GRAY2BGR))
    wanted = detector(tmp_path / "rgb.png")
    low = np.random.default_rng(0).integers(0, 256, gray.shape, np.uint16)
    for number, pixels in enumerate((gray, gray.astype(np.uint16) * 256 + low)):
        path = tmp_path / f"{number}{suffix}"
        cv2.imwrite(str(path), pixels)
        assert_same(detector(path), wanted)
        assert_same(detector(pixels), wanted)
        assert_same(detector(Image.open(path)), wanted)


def test_a_turned_picture_is_turned(detector, picture, tmp_path):
    Image.open(picture).rotate(-90, expand=True).save(tmp_path / "upright.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(picture).save(tmp_path / "turned.png", exif=exif)
    wanted = detector(tmp_path / "upright.png")
    assert_same(detector(tmp_path / "turned.png"), wanted)
    assert_same(detector(Image.open(tmp_path / "turned.png")), wanted)


def test_pictures_that_cannot_be_used(detector, picture, tmp_path):
    broken, absent = tmp_path / "broken.png", tmp_path / "absent.png"
    broken.write_bytes(picture.read_bytes()[:500])
    hollow = tmp_path / "hollow.jpg"
    Image.open(picture).save(hollow)
    content = bytearray(hollow.read_bytes())
    tables = content.index(b"\xff\xc4") + 5
    content[tables : tables + 16] = bytes(16)
    hollow.write_bytes(content)
    faults = []
    given = [broken, picture, absent, hollow, np.zeros((4, 4)), picture]
    assert [found.frame.name for found in detector.predict(given, faults)] == [str(picture)] * 2
    assert len(faults) == 4
    assert faults[0].startswith(f"{broken} ")
    assert faults[1] == f"{absent} does not exist"
    assert f"{hollow} cannot be predicted on: AssertionError: failed to load" in faults[2]
    assert "float64, (4, 4), is no picture" in faults[3]
    with pytest.raises(DataError, match=r"absent.png does not exist"):
        detector(absent)


def test_a_work_folder_has_all_that_is_needed(checkpoint, detector, picture, repo, tmp_path):
    shutil.copy(checkpoint, tmp_path / "iter_7.pth")
    (tmp_path / "config.py").write_text(f'_base_ = "mmconvnext::{CONFIG}"\n')
    (tmp_path / "last_checkpoint").write_text("/moved/iter_7.pth")
    found = Detector(tmp_path)
    assert found.classes == CLASSES
    assert_same(found(picture), detector(picture))


def test_what_is_refused(checkpoint, tmp_path):
    with pytest.raises(UserError, match="is no work folder of a training"):
        Detector(tmp_path)
    with pytest.raises(ConfigError, match="a config is given with a checkpoint"):
        Detector(CONFIG)
    with pytest.raises(ConfigError, match="tile=0"):
        Detector(CONFIG, checkpoint, tile=0)
    with pytest.raises(UserError, match="there is no checkpoint"):
        Detector(CONFIG, "nowhere.pth")


def without_classes(checkpoint, path):
    state = torch.load(checkpoint)
    torch.save({"state_dict": state["state_dict"]}, path)
    return path


def test_a_config_needs_a_checkpoint():
    with pytest.raises(ConfigError, match="a config is given with a checkpoint"):
        Detector(load_config(CONFIG))


def test_without_classes_in_the_checkpoint_those_of_the_config_are_taken(checkpoint, tmp_path):
    path = without_classes(checkpoint, tmp_path / "detector.pth")
    assert Detector(CONFIG, path).classes == CLASSES
    cfg = load_config(CONFIG)
    cfg.test_dataloader.dataset.metainfo.classes = CLASSES[:2]
    with pytest.raises(ConfigError, match="num_classes"):
        Detector(cfg, path)
    cfg = load_config(CONFIG)
    cfg.test_dataloader.dataset.type = "BaseDetDataset"
    cfg.test_dataloader.dataset.metainfo = None
    with pytest.raises(ConfigError, match=r"neither the checkpoint nor .* names the classes"):
        Detector(cfg, path)
