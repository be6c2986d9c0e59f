"""Resizing within a graph gives OpenCV's bytes, as MMCV's Resize calls it."""

import mmcv
import numpy as np
import pytest
import torch
from mmdet.models import DetDataPreprocessor
from mmdet.registry import TRANSFORMS
from mmdet.structures import DetDataSample

from mmconvnext.deploy.resize import Resized, _weights, normalised

SIZES = [(64, 64), (480, 640), (427, 640), (333, 500), (200, 300), (100, 37), (160, 120), (1, 7)]
SETTINGS = [
    {"scale": (300, 200), "keep_ratio": True},
    {"scale": (133, 99), "keep_ratio": False},
    {"scale_factor": 1.0},
    {"scale_factor": 1.7},
]


def picture(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height).integers(0, 256, (height, width, 3), np.uint8)


def resize(pixels: np.ndarray, settings: dict, divisor: int = 32) -> Resized:
    return Resized(torch.from_numpy(pixels)[None], settings, divisor)


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_bytes_and_factors_are_those_of_the_test_pipeline(size, settings):
    pixels = picture(*size)
    expected = TRANSFORMS.build({"type": "mmdet.Resize", **settings})({"img": pixels})
    resized = resize(pixels, settings)
    height, width = expected["img_shape"]
    assert resized.size.tolist() == [height, width]
    mine = resized.pictures[0, :, :height, :width].permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(mine, expected["img"])
    factors = np.float32([*expected["scale_factor"]] * 2)
    np.testing.assert_allclose(resized.factors.numpy(), factors, rtol=1e-6)


@pytest.mark.parametrize(("given", "size"), [(427, 800), (3000, 1333), (640, 1199), (97, 41)])
@pytest.mark.parametrize("cut", [True, False])
def test_weights_need_no_64_bits(given, size, cut):
    """OpenVINO's CPU has 32 alone."""
    sides = torch.tensor([given, size], dtype=torch.float64)
    for one, other in zip(
        _weights(size, *sides, cut), _weights(size, *sides.float(), cut), strict=True
    ):
        assert torch.equal(one, other)


@pytest.mark.parametrize("bgr_to_rgb", [True, False])
def test_it_is_normalised_and_padded_as_by_the_data_preprocessor(bgr_to_rgb):
    settings = {"mean": [123.7, 116.3, 103.5], "std": [58.4, 57.1, 57.4], "pad_value": 7}
    preprocessor = DetDataPreprocessor(**settings, pad_size_divisor=32, bgr_to_rgb=bgr_to_rgb)
    pixels, scale = picture(50, 70), {"scale": (90, 60), "keep_ratio": True}
    bgr = mmcv.imrescale(pixels[..., ::-1].copy(), (90, 60))
    inputs = torch.from_numpy(bgr).permute(2, 0, 1)
    sample = DetDataSample(metainfo={"img_shape": bgr.shape[:2]})
    expected = preprocessor({"inputs": [inputs], "data_samples": [sample]})["inputs"]
    torch.testing.assert_close(normalised(resize(pixels, scale), preprocessor), expected)


def test_boxes_are_cut_at_the_pictures_border():
    resized = resize(picture(50, 70), {"scale_factor": 1.0})
    boxes = torch.tensor([[-5.0, 10.0, 75.0, 60.0]])
    assert resized.clip(boxes).tolist() == [[0, 10, 70, 50]]
