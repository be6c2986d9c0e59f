import numpy as np
import pytest
import torch
from mmcv.ops.multi_scale_deform_attn import MultiScaleDeformableAttnFunction
from torch import Tensor
from torch.autograd import gradcheck

from tests.compat.ops import references
from tests.compat.ops.common import assert_rounded_once
from tests.compat.which_mmcv import stand_in_only

pytestmark = stand_in_only("its kernel of deformable attention is for CUDA only")

SHAPES = [(4, 5), (2, 3)]  # height and width of each level: 26 keys


def inputs(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    """Values (2, 26, 2, 4), locations (2, 4, 2, 2, 3, 2), some of them outside, and weights."""
    generator = torch.Generator().manual_seed(0)
    value = torch.randn(2, 26, 2, 4, generator=generator, dtype=torch.float64)
    locations = torch.rand(2, 4, 2, 2, 3, 2, generator=generator, dtype=torch.float64) * 1.6 - 0.3
    weights = torch.rand(2, 4, 2, 2, 3, generator=generator, dtype=torch.float64)
    return value.to(dtype), locations.to(dtype), weights.to(dtype)


def attend(value: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
    shapes, starts = torch.tensor(SHAPES), torch.tensor([0, 20])
    return MultiScaleDeformableAttnFunction.apply(value, shapes, starts, locations, weights, 64)


def test_the_function_equals_a_loop():
    value, locations, weights = (t.numpy() for t in inputs())
    expected = references.deform_attention(value, SHAPES, locations, weights)
    np.testing.assert_allclose(attend(*inputs()), expected, atol=1e-12)


def test_the_gradients_of_the_function_are_its_derivatives():
    assert gradcheck(attend, [t[:1].requires_grad_() for t in inputs()])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_rounded_once(dtype):
    assert_rounded_once(attend, *inputs(dtype))


def test_no_queries_at_all():
    value, locations, weights = (t.requires_grad_() for t in inputs())
    output = attend(value, locations[:, :0], weights[:, :0])
    assert output.shape == (2, 0, 8)
    output.sum().backward()
    assert not value.grad.any()
