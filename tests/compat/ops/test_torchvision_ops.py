import sys
import types

import mmcv.ops
import pytest
import torch

from mmconvnext.compat.ops.torchvision_ops import kernels, widened
from mmconvnext.errors import MissingOperatorError
from tests.compat.which_mmcv import stand_in_only

BROKEN = "raise RuntimeError('operator torchvision::nms does not exist')"


@pytest.fixture(params=["absent", "built for another torch", "without its operators"])
def no_torchvision(request, monkeypatch, tmp_path) -> str:
    """torchvision in a state that cannot be used, and how the message calls it."""
    kernels.cache_clear()
    if request.param == "absent":
        monkeypatch.setitem(sys.modules, "torchvision", None)
        yield "torchvision"
    elif request.param == "built for another torch":
        (tmp_path / "torchvision.py").write_text(BROKEN)
        monkeypatch.delitem(sys.modules, "torchvision", raising=False)
        monkeypatch.syspath_prepend(tmp_path)
        yield "operator torchvision::nms does not exist"
    else:
        monkeypatch.setitem(sys.modules, "torchvision", types.ModuleType("torchvision"))
        monkeypatch.setattr(torch.ops, "torchvision", types.SimpleNamespace())
        yield "nms"
    monkeypatch.undo()
    kernels.cache_clear()


def test_an_unusable_torchvision_is_explained(no_torchvision):
    with pytest.raises(MissingOperatorError) as caught:
        kernels()
    message = str(caught.value)
    for part in (torch.__version__, no_torchvision, "torchvision of the same release", "pip"):
        assert part in message


@stand_in_only("it does not need torchvision")
def test_the_explanation_reaches_who_calls_the_operator(no_torchvision):
    with pytest.raises(MissingOperatorError, match="torchvision of the same release"):
        mmcv.ops.nms(torch.tensor([[0.0, 0, 1, 1]]), torch.ones(1), 0.5)


def test_the_kernels_are_torchvisions():
    pytest.importorskip("torchvision")
    assert kernels() is torch.ops.torchvision
    assert kernels().nms.default is not None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_only_half_precision_is_widened(dtype):
    tensor = torch.ones(2, dtype=dtype)
    if dtype.itemsize == 2:
        assert widened(tensor).dtype == torch.float32
    else:
        assert widened(tensor) is tensor


@stand_in_only("it does not import torchvision")
def test_an_operator_may_be_called_first_while_a_model_is_traced(run_python):
    code = """
import mmconvnext, sys, torch
from mmcv.ops import nms
assert "torchvision" not in sys.modules
class Best(torch.nn.Module):
    def forward(self, boxes):
        return nms(boxes, boxes[:, 0], 0.5)[0]
boxes = torch.tensor([[0.0, 0, 4, 4], [1, 0, 4, 4], [8, 8, 9, 9]])
print(len(torch.jit.trace(Best(), boxes)(boxes)))
"""
    assert run_python(code).splitlines()[-1] == "2"
