"""The runtime's detector: what it takes, finds and refuses."""

import json
import threading
from io import BytesIO

import cv2
import mmcv
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from mmconvnext.errors import CheckpointError, ConfigError, DataError, UnsafeCheckpointError
from mmconvnext.runtime import Detector, Frame
from mmconvnext.runtime.__main__ import main
from tests.runtime.conftest import BOXES, CLASSES, write_onnx, write_openvino


def gray(level, width=40, height=32):
    return np.full((height, width, 3), level, np.uint8)


@pytest.fixture
def detector(model):
    return Detector(model)


@pytest.mark.parametrize("write", [write_onnx, write_openvino])
def test_objects_by_falling_score_in_pixels(write, tmp_path):
    suffix = ".onnx" if write is write_onnx else ".xml"
    pytest.importorskip("onnxruntime" if suffix == ".onnx" else "openvino")
    found = Detector(write(tmp_path / f"tiny{suffix}"))(gray(204))
    assert found.size == (40, 32)
    assert found.names == [*CLASSES]
    np.testing.assert_allclose(found.scores, [0.8, 0.4], rtol=1e-6)
    np.testing.assert_array_equal(found.boxes, BOXES[:2])
    expected = np.zeros((2, 32, 40), bool)
    expected[0, 6:26, 10:20] = expected[1, 2:16, 4:20] = True
    np.testing.assert_array_equal(found.masks, expected)


def test_masks_as_run_lengths_and_polygons(detector):
    found = detector(gray(204))
    for entry, parts, mask in zip(found.coco(), found.polygons, found.masks, strict=True):
        np.testing.assert_array_equal(coco_mask.decode(entry["segmentation"]), mask)
        filled = coco_mask.merge(coco_mask.frPyObjects([p.tolist() for p in parts], 32, 40))
        np.testing.assert_array_equal(coco_mask.decode(filled), mask)
    assert found[:0].polygons == []


def test_masks_that_are_pasted_by_the_file(tmp_path):
    pytest.importorskip("onnxruntime")
    masks = np.zeros((1, 3, 32, 40), bool)
    masks[:, :, 3:5, 7:11] = True
    found = Detector(write_onnx(tmp_path / "a.onnx", masks=masks))(gray(9))
    np.testing.assert_array_equal(found.masks, masks[0, :2])
    assert found.crops[1].bitmap.shape == (2, 4)


def turned_jpeg():
    data = BytesIO()
    image = Image.linear_gradient("L").resize((40, 24)).convert("RGB")
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(data, "JPEG", exif=exif)
    return data.getvalue()


def test_a_picture_is_what_mmcv_reads_from_path_bytes_and_pixels(detector, tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(turned_jpeg())
    pixels = mmcv.imread(str(path))
    assert pixels.shape == (40, 24, 3)
    for picture in (path, str(path), path.read_bytes(), pixels, Frame("a", str(path))):
        found = detector(picture)
        np.testing.assert_array_equal(found.image, pixels)
        assert found.scores[0] == pytest.approx(pixels.mean() / 255, rel=1e-5)
    assert detector(path).frame.name == str(path)


@pytest.mark.parametrize(
    "picture",
    [
        gray(51)[..., 0],
        gray(51)[..., :1],
        np.dstack([gray(51), gray(9)[..., 0]]),
        gray(51) * np.uint16(256),
    ],
)
def test_gray_transparent_and_deep_arrays(detector, picture):
    assert detector(picture).scores[0] == pytest.approx(0.2)


def test_pictures_go_in_blue_green_red(model):
    detector, seen = Detector(model), []
    session = detector._session
    detector._session = lambda pictures: seen.append(pictures) or session(pictures)
    detector(np.uint8([[[1, 2, 3]]]))
    np.testing.assert_array_equal(seen, [[[[[3, 2, 1]]]]])


def test_those_of_one_size_go_together_and_come_in_order(model):
    detector, shapes = Detector(model, batch=4), []
    session = detector._session
    detector._session = lambda pictures: shapes.append(pictures.shape) or session(pictures)
    pictures = [gray(51), gray(102, 50), gray(153), gray(204), gray(255)]
    found = [*detector.predict(pictures)]
    assert shapes == [(3, 32, 40, 3), (1, 32, 50, 3), (1, 32, 40, 3)]
    scores = [each.scores[0] for each in found]
    np.testing.assert_allclose(scores, [0.2, 0.4, 0.6, 0.8, 1], rtol=1e-6)
    assert [each.size[0] for each in found] == [40, 50, 40, 40, 40]


BAD = {
    "empty": (b"", "is empty"),
    "text": (b"<script>", "is no picture"),
    "cut off": (turned_jpeg()[:-20], "is cut off"),
    "a header alone": (b"\x89PNG\r\n\x1a\n", "is cut off"),
    "absent": ("no/such.png", "no/such.png cannot be read: No such file"),
    "a folder": (".", "cannot be read"),
    "floats": (np.zeros((3, 3, 3)), "array of float64"),
    "two channels": (np.zeros((3, 3, 2), np.uint8), r"\(3, 3, 2\), is no picture"),
    "nothing": (None, "NoneType is no path"),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_is_no_picture_is_refused_or_left_out(detector, kind):
    picture, says = BAD[kind]
    with pytest.raises(DataError, match=says):
        detector(picture)
    faults = []
    assert len([*detector.predict([picture, gray(9)], faults)]) == 1
    assert len(faults) == 1


def test_a_threshold(model):
    assert Detector(model, threshold=0.5)(gray(204)).names == ["disk"]
    assert len(Detector(model, threshold=0.9)(gray(204))) == 0


@pytest.mark.parametrize(
    ("name", "value"), [("batch", 0), *(("threshold", v) for v in (-0.1, 1.5, float("nan")))]
)
def test_settings_out_of_range(model, name, value):
    with pytest.raises(ConfigError, match=f"{name}={value} "):
        Detector(model, **{name: value})


def test_a_cache_is_filled_and_used(tmp_path, model):
    pytest.importorskip("openvino", reason="pip install 'mmconvnext[runtime]'")
    path, cache = write_openvino(tmp_path / "tiny.xml"), tmp_path / "a" / "cache"
    for _ in range(2):
        assert Detector(path, cache=cache)(gray(204)).names == [*CLASSES]
        (blob,) = cache.iterdir()
    with pytest.raises(ConfigError, match=r"only OpenVINO's files \(\.xml\) have one"):
        Detector(model, cache=cache)
    with pytest.raises(ConfigError, match="choose another folder"):
        Detector(path, cache=blob)


def test_files_that_are_no_detectors(tmp_path):
    pytest.importorskip("onnxruntime")
    with pytest.raises(CheckpointError, match="there is no exported detector"):
        Detector(tmp_path / "absent.onnx")
    with pytest.raises(CheckpointError, match=r"other\.onnx is no file of `mmconvnext export`"):
        Detector(write_onnx(tmp_path / "other.onnx", meta=None))
    for name in ("a.pth", "b.onnx"):
        (tmp_path / name).write_bytes(b"0")
        with pytest.raises(CheckpointError, match="is no file of `mmconvnext export`"):
            Detector(tmp_path / name)
    (tmp_path / "c.pt2").write_bytes(b"0")
    with pytest.raises(UnsafeCheckpointError):
        Detector(tmp_path / "c.pt2")


def test_several_threads(model):
    detector, found = Detector(model), {}

    def ask(level):
        found[level] = [detector(gray(level)).scores[0] for _ in range(20)]

    threads = [threading.Thread(target=ask, args=(level,)) for level in (51, 102, 204)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for level, scores in found.items():
        np.testing.assert_allclose(scores, level / 255, rtol=1e-5)


@pytest.fixture
def pictures(tmp_path):
    paths = [str(tmp_path / f"{level}.png") for level in (102, 204)]
    for path, level in zip(paths, (102, 204), strict=True):
        cv2.imwrite(path, gray(level))
    return paths


def test_the_command_prints_a_line_for_each_object(model, pictures, capsys):
    assert main([str(model), *pictures]) == 0
    first, second = pictures
    box, other = "10.0\t6.0\t30.0\t26.0", "4.5\t2.0\t20.0\t30.0"
    assert capsys.readouterr().out.splitlines() == [
        f"{first}\tdisk\t0.400\t{box}",
        f"{second}\tdisk\t0.800\t{box}",
        f"{second}\ttriangle\t0.400\t{other}",
    ]


def test_the_command_prints_a_coco_file(model, pictures, capsys):
    faulty = ["absent.png", *pictures]
    assert main([str(model), *faulty, "--json", "--threshold", "0", "--batch", "2"]) == 1
    printed = capsys.readouterr()
    content = json.loads(printed.out)
    assert "left out: absent.png cannot be read" in printed.err
    assert [each["file_name"] for each in content["images"]] == pictures
    assert [each["name"] for each in content["categories"]] == [*CLASSES]
    assert [each["id"] for each in content["annotations"]] == [1, 2, 3, 4]
    assert [each["image_id"] for each in content["annotations"]] == [1, 1, 2, 2]
    expected = Detector(model)(pictures[1]).coco(2, 3)
    assert content["annotations"][2:] == json.loads(json.dumps(expected))


def test_mistakes_in_the_command(model, tmp_path, capsys):
    assert main([str(tmp_path / "absent.xml"), "a.png"]) == 1
    assert main(["serve", str(tmp_path / "absent.xml"), "--port", "0"]) == 1
    assert main([str(model), "a.png", "--threshold", "2"]) == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert ["absent.xml" in line for line in lines] == [True, True, False]


def test_objects_are_drawn(detector):
    drawn = detector(gray(204, 400, 320)).draw()
    assert drawn.shape == (640, 800, 3)
    assert (drawn != 204).any()
