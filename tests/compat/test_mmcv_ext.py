import importlib
import inspect
import pkgutil

import mmcv
import mmcv.ops
import pytest
import torch

from mmconvnext.compat import kernels
from mmconvnext.compat.mmcv_ops import KERNELS
from mmconvnext.errors import MissingOperatorError
from tests.compat.which_mmcv import stand_in_only

pytestmark = stand_in_only("there is no stand-in to test")


def box_iou_rotated():
    mmcv.ops.box_iou_rotated(torch.ones(1, 5), torch.ones(1, 5))


def carafe():
    mmcv.ops.carafe(torch.ones(1, 4, 2, 2), torch.ones(1, 9, 4, 4), 3, 1, 2)


def nms_rotated():
    mmcv.ops.nms_rotated(torch.ones(1, 5), torch.ones(1), 0.5)


@pytest.mark.parametrize(
    ("call", "operator"),
    [
        (box_iou_rotated, "box_iou_rotated"),
        (carafe, "carafe_forward"),
        (nms_rotated, "nms_rotated"),
    ],
)
def test_an_operator_without_a_kernel_is_named_with_the_choices_and_the_fix(call, operator):
    with pytest.raises(MissingOperatorError) as caught:
        call()
    message = str(caught.value)
    assert f"mmcv's operator '{operator}' is not available" in message
    assert f"Available: {', '.join(KERNELS)}." in message
    assert "MMCV_WITH_OPS=1 pip install" in message


@pytest.mark.parametrize("name", KERNELS)
def test_an_operator_with_a_kernel_is_looked_up_once(name):
    operator = getattr(mmcv._ext, name)
    assert inspect.isfunction(operator)
    assert operator.__module__ == f"mmconvnext.compat.kernels.{KERNELS[name]}"
    assert vars(mmcv._ext)[name] is operator


def test_every_operator_among_the_kernels_is_offered():
    found = {}
    for module in pkgutil.iter_modules(kernels.__path__):
        functions = vars(importlib.import_module(f"{kernels.__name__}.{module.name}"))
        for name, function in functions.items():
            own = inspect.isfunction(function) and function.__module__.endswith(module.name)
            if own and not name.startswith("_") and module.name != "torchvision_ops":
                found[name] = module.name
    assert found == KERNELS


def test_the_operators_are_listed():
    assert set(KERNELS) <= set(dir(mmcv._ext))
    assert repr(mmcv._ext.carafe_forward) == "UnsupportedOperator('carafe_forward')"


@pytest.mark.parametrize("name", ["__path__", "_private"])
def test_private_names_are_missing_as_in_any_module(name):
    with pytest.raises(AttributeError, match=f"module 'mmcv._ext' has no attribute '{name}'"):
        getattr(mmcv._ext, name)
