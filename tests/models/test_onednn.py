"""Linear layers by oneDNN's kernels, compared with torch's own."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from mmconvnext.models import onednn


@pytest.mark.parametrize("gelu", [False, True])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("num_rows", [1, 7, 500])
def test_equals_torchs(num_rows, dtype, bias, gelu):
    weight, shift = torch.randn(24, 16).to(dtype), torch.randn(24).to(dtype) if bias else None
    linear = onednn.linear(weight, shift, 500, gelu)
    x = torch.randn(num_rows, 16).to(dtype)
    expected = functional.linear(x.double(), weight.double(), shift.double() if bias else None)
    if gelu:
        expected = functional.gelu(expected)
    assert linear(x).dtype == dtype
    error = (linear(x).double() - expected).norm() / expected.norm()
    assert error < 4 * torch.finfo(dtype).eps


def test_a_transposed_weight():
    weight, x = torch.randn(16, 24), torch.randn(9, 16)
    torch.testing.assert_close(onednn.linear(weight.t(), None, 9)(x), x @ weight)


def test_takes_what_it_has_kernels_for():
    assert onednn.takes(torch.ones(1)) == torch.backends.mkldnn.is_available()
    assert not onednn.takes(torch.ones(1).double())
    assert not onednn.takes(torch.ones(1).half())
    assert not onednn.takes(torch.empty(1, device="meta"))
    with FlopCounterMode(display=False):
        assert not onednn.takes(torch.ones(1))
