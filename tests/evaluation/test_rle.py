"""Run-length codes are pycocotools', to the byte."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from mmdet.structures.mask import encode_mask_results
from pycocotools import mask as mask_utils

from mmconvnext.crops import cropped
from mmconvnext.evaluation.rle import encode_crop, encode_masks

SHAPES = st.tuples(st.integers(0, 3), st.integers(1, 9), st.integers(1, 9))


@given(arrays(np.bool_, SHAPES))
@settings(deadline=None, max_examples=300)
def test_any_masks(masks):
    assert encode_masks(masks) == encode_mask_results(masks)
    assert len(encode_masks(masks)) == len(masks)


@given(arrays(np.bool_, SHAPES))
@settings(deadline=None, max_examples=300)
def test_any_masks_from_what_is_cut_out_of_them(masks):
    codes = [encode_crop(cropped(mask), *mask.shape[::-1]) for mask in masks]
    assert codes == encode_mask_results(masks)


def test_large_masks_wherever_they_touch_the_border():
    rows, columns = np.mgrid[:480, :640]
    centres = [(0, 0), (479, 639), (240, 320), (0, 320), (479, 0)]
    masks = [(rows - y) ** 2 + (columns - x) ** 2 < 200**2 for y, x in centres]
    masks = np.stack([*masks, rows < 0, rows >= 0])  # the last two are empty and full
    codes = encode_masks(masks)
    assert codes == encode_mask_results(masks)
    np.testing.assert_array_equal(mask_utils.decode(codes).transpose(2, 0, 1), masks)


def test_the_layout_in_memory_does_not_matter():
    masks = np.random.default_rng(0).random((3, 20, 30)) > 0.5
    codes = encode_masks(masks)
    assert encode_masks(np.asfortranarray(masks)) == codes
    assert encode_masks(np.repeat(masks, 2, axis=0)[::2]) == codes
    assert encode_masks(masks.transpose(0, 2, 1)) == encode_mask_results(masks.transpose(0, 2, 1))


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.int64])
def test_masks_of_other_types_are_mmdetections(dtype):
    masks = (np.random.default_rng(0).random((3, 8, 9)) * 3).astype(dtype)
    assert encode_masks(masks) == encode_mask_results(masks)
