from types import SimpleNamespace

import pytest
import torch
from mmcv import _ext
from mmcv.ops import DeformConv2d, ModulatedDeformConv2d, RoIAlign
from torch import Tensor

from mmconvnext import compat
from mmconvnext.compat import mmcv_ext, mmcv_layout

REGIONS = torch.tensor([[0, 1, 1, 6, 6], [1, 0, 2, 7, 7.0]])
DEFORM = DeformConv2d(4, 6, 3, padding=1)
# of a map, offsets and a mask
OPERATORS = {
    "align": lambda x, offset, mask: RoIAlign(3)(x, REGIONS),
    "deform": lambda x, offset, mask: DEFORM(x, offset),
    "modulate": ModulatedDeformConv2d(4, 6, 3, padding=1),
}


def in_channels_last(tensor: Tensor) -> Tensor:
    return tensor.to(memory_format=torch.channels_last)


def every_other_column(tensor: Tensor) -> Tensor:
    return tensor.repeat_interleave(2, dim=3)[..., ::2]


@pytest.mark.parametrize("layout", [in_channels_last, every_other_column])
@pytest.mark.parametrize("operator", OPERATORS)
def test_the_layout_of_a_map_changes_no_number(operator, layout):
    """In channels_last compiled mmcv alone reads and writes other cells, or refuses."""
    generator = torch.Generator().manual_seed(0)
    tensors = [torch.randn(2, channels, 8, 8, generator=generator) for channels in (4, 18, 9)]
    results = []
    for arrange in (torch.clone, layout):
        leaves = [arrange(t).detach().requires_grad_() for t in tensors]
        output = OPERATORS[operator](*leaves)
        (output * torch.linspace(0, 1, output.numel()).view(output.shape)).sum().backward()
        results.append([output, *(leaf.grad for leaf in leaves if leaf.grad is not None)])
    assert not leaves[0].is_contiguous()
    torch.testing.assert_close(*results, rtol=1e-5, atol=1e-5)


def test_what_an_operator_writes_reaches_the_callers_tensor():
    seen = []

    def operator(x: Tensor, output: Tensor, *, scale: float) -> str:
        seen.extend([x, output])
        output.copy_(x * scale)
        return "done"

    call = mmcv_layout.on_contiguous(operator, (1,))
    x, output = torch.arange(6.0).view(2, 3).t(), torch.zeros(2, 3).t()
    version = x._version
    assert call(x, output, scale=2.0) == "done"
    assert all(tensor.is_contiguous() for tensor in seen)
    assert torch.equal(output, x * 2)
    assert x._version == version  # autograd refuses inputs that were written to
    call(x.t(), output.t(), scale=3.0)
    assert torch.equal(output, x * 3)
    assert seen[-1].data_ptr() == output.data_ptr()  # what is contiguous is not copied


def test_compiled_operators_are_wrapped_once():
    plain = {name: lambda *tensors, **settings: None for name in mmcv_layout.WRITTEN}
    extension = _ext if not mmcv_ext.is_used() else SimpleNamespace(**plain)
    for _ in range(2):
        compat.install()
        mmcv_layout.install(extension)
        for name in mmcv_layout.WRITTEN:
            assert not hasattr(getattr(extension, name).__wrapped__, "__wrapped__")
