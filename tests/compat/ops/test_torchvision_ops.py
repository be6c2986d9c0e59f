import sys
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType, SimpleNamespace

import mmcv.ops
import pytest
import torch
from mmengine.utils.dl_utils import collect_env

from mmconvnext.compat import ops
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
        monkeypatch.setitem(sys.modules, "torchvision", ModuleType("torchvision"))
        monkeypatch.setattr(torch.ops, "torchvision", SimpleNamespace())
        yield "nms"
    monkeypatch.undo()
    kernels.cache_clear()


@stand_in_only("it does not need torchvision")
def test_an_unusable_torchvision_is_explained_to_who_calls_an_operator(no_torchvision):
    with pytest.raises(MissingOperatorError) as caught:
        mmcv.ops.nms(torch.tensor([[0.0, 0, 1, 1]]), torch.ones(1), 0.5)
    for part in (torch.__version__, no_torchvision, "torchvision of the same release", "pip"):
        assert part in str(caught.value)


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


@stand_in_only("it names its own compilers")
def test_mmcvs_report_says_where_the_operators_come_from():
    pytest.importorskip("torchvision")
    assert "PyTorch" in collect_env()
    expected = f"none (operators from torchvision {version('torchvision')} through mmconvnext)"
    assert mmcv.ops.get_compiler_version() == expected
    assert mmcv.ops.get_compiling_cuda_version() == "not compiled"


def test_the_report_does_without_torchvision(monkeypatch):
    def absent(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(ops, "version", absent)
    assert ops.get_compiler_version() == "none (and torchvision is not installed)"
