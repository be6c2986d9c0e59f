from importlib.metadata import PackageNotFoundError, version

import mmcv.ops
import pytest
from mmengine.utils.dl_utils import collect_env

from mmconvnext.compat import ops
from tests.compat.which_mmcv import stand_in_only


@stand_in_only("it names its own compilers")
def test_mmcvs_report_says_where_the_operators_come_from():
    pytest.importorskip("torchvision")
    expected = f"none (operators from torchvision {version('torchvision')} through mmconvnext)"
    assert mmcv.ops.get_compiler_version() == expected
    assert mmcv.ops.get_compiling_cuda_version() == "not compiled"


def test_the_report_of_the_environment_can_be_made():
    assert "PyTorch" in collect_env()
    assert mmcv.ops.get_compiler_version()


def test_the_report_does_without_torchvision(monkeypatch):
    def absent(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(ops, "version", absent)
    assert ops.get_compiler_version() == "none (and torchvision is not installed)"
