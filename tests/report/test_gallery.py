"""Pictures of a report: small enough, and of any kind."""

import base64

import cv2
import numpy as np
import pytest

from mmconvnext.report.gallery import SIDE, shrink

NOISE = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE // 2, 3), np.uint8)


def decoded(text):
    return cv2.imdecode(np.frombuffer(base64.b64decode(text), np.uint8), cv2.IMREAD_UNCHANGED)


def test_16_bits_are_shown_as_8():
    smooth = cv2.blur(NOISE, (99, 99))
    text, scale = shrink(smooth.astype(np.uint16) * 257, 10**7)
    assert scale == 1
    of_8 = decoded(shrink(smooth, 10**7)[0]).astype(int)
    assert np.abs(decoded(text) - of_8).max() <= 2


@pytest.mark.parametrize("limit", [10**6, 10**5, 10])
def test_a_lower_quality_keeps_the_limit_if_any_does(limit):
    text, _ = shrink(NOISE, limit)
    best, _ = shrink(NOISE, 10**9)
    worst, _ = shrink(NOISE, 0)
    assert len(worst) <= len(text) <= len(best)
    assert len(text) <= limit or text == worst
    assert len(worst) < len(best) / 3


def test_a_large_picture_becomes_small_and_a_small_one_is_shown_large():
    text, scale = shrink(np.zeros((4 * SIDE, SIDE), np.uint8), 10**6)
    assert decoded(text).shape == (SIDE, SIDE // 4)
    assert scale == 0.25
    text, scale = shrink(np.zeros((SIDE // 8, SIDE // 16, 3), np.uint8), 10**6)
    assert decoded(text).shape == (SIDE // 8, SIDE // 16, 3)
    assert scale == 8
