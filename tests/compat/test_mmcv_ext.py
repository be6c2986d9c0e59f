"""``mmcv._ext`` where it was compiled, where it was not, and without any mmcv."""

import json
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import mmcv
import mmcv.ops
import mmengine.utils.dl_utils
import pytest
import torch
from mmengine.runner.checkpoint import CheckpointLoader

from mmconvnext import compat
from mmconvnext.compat import checkpoint_io, imports, mmcv_ext, ops
from mmconvnext.compat.ops import OPERATORS
from mmconvnext.errors import MissingOperatorError
from tests.compat.which_mmcv import stand_in_only

lite_only = stand_in_only("mmcv-lite is not installed")

# mmcv.ops alone, then with mmconvnext
BEFORE_AND_AFTER = """
import json, sys
try:
    import mmcv.ops
    before = ""
except ModuleNotFoundError as error:
    before = error.name
import mmconvnext
import mmcv.ops
print(json.dumps([before, mmcv._ext.__file__, "torchvision" in sys.modules]))
"""

WITH_A_COMPILED_MODULE = """
import json, sys
from pathlib import Path
import mmcv
folder = Path(sys.argv[1])
(folder / "_ext.py").write_text(
    "calls = []\\n"
    "def __getattr__(name):\\n"
    "    if name.startswith('__'):\\n"
    "        raise AttributeError(name)\\n"
    "    return lambda *a, **k: calls.append([name, a[0].is_contiguous()])\\n"
)
mmcv.__path__.insert(0, str(folder))
import mmconvnext, mmcv.ops, torch
from mmconvnext.compat import mmcv_ext
x = torch.ones(1, 3, 4, 4).to(memory_format=torch.channels_last)
mmcv.ops.RoIAlign(2)(x, torch.zeros(1, 5))
ours, imported = mmcv_ext.is_used(), "torchvision" in sys.modules
print(json.dumps([mmcv._ext.__file__, mmcv._ext.calls, ours, imported]))
"""

WITHOUT_MMCV = """
from importlib.machinery import PathFinder

find = PathFinder.find_spec
PathFinder.find_spec = lambda name, *args: None if name == "mmcv" else find(name, *args)
import mmconvnext
try:
    from mmconvnext import ConvNeXt
except ImportError as error:
    print(type(error).__name__, error)
"""


@lite_only
def test_mmcv_ops_cannot_be_imported_before_mmconvnext_and_can_after(run_python):
    facts = json.loads(run_python(BEFORE_AND_AFTER))
    assert facts == ["mmcv._ext", mmcv_ext.__file__, False]


def test_a_compiled_module_is_preferred_and_torchvision_is_not_even_imported(run_python, tmp_path):
    facts = json.loads(run_python(WITH_A_COMPILED_MODULE, tmp_path))
    assert facts == [str(tmp_path / "_ext.py"), [["roi_align_forward", True]], False, False]


def test_without_any_mmcv_the_error_says_what_to_install(run_python):
    printed = run_python(WITHOUT_MMCV)
    assert printed.startswith("MissingMMCVError mmconvnext needs mmcv, and neither mmcv nor")
    assert "pip install mmcv-lite==2.1.0" in printed


def test_it_is_used_where_there_is_no_compiled_module():
    compiled = [Path(mmcv.__path__[0], f"_ext{suffix}") for suffix in EXTENSION_SUFFIXES]
    assert mmcv_ext.is_used() is not any(file.exists() for file in compiled)


def test_mmengine_finds_the_operators():
    """mmengine asks pkgutil.find_loader, which needs a module with a proper spec."""
    assert mmengine.utils.dl_utils.mmcv_full_available()
    assert mmcv.utils.ext_loader.check_ops_exist()


def test_installing_again_changes_nothing():
    def state() -> tuple:
        actions = {name: [*waiting] for name, waiting in imports.ACTIONS.items()}
        return dict(CheckpointLoader._schemes), mmcv._ext, actions

    before = state()
    assert before[0][""] is checkpoint_io.load_from_local
    compat.install()
    assert state() == before


@lite_only
def test_an_operator_without_a_kernel_is_named_with_the_choices_and_the_fix():
    with pytest.raises(MissingOperatorError) as caught:
        mmcv.ops.border_align(torch.ones(1, 8, 2, 2), torch.ones(1, 4, 4), 1)
    message = str(caught.value)
    assert "mmcv's operator 'border_align_forward' is not available" in message
    assert f"Available: {', '.join(OPERATORS)}." in message
    assert "MMCV_WITH_OPS=1 pip install" in message


@lite_only
def test_an_operator_with_a_kernel_is_looked_up_once():
    for name, operator in OPERATORS.items():
        assert getattr(mmcv._ext, name) is vars(mmcv._ext)[name] is operator


@lite_only
def test_the_first_call_of_an_operator_is_one_line_in_the_log(notes):
    ops.announce.cache_clear()
    mmcv.ops.get_compiler_version()
    assert notes() == []
    for _ in range(2):
        mmcv.ops.sigmoid_focal_loss(torch.zeros(1, 1), torch.zeros(1, dtype=torch.long))
    mmcv.ops.nms(torch.tensor([[0.0, 0, 1, 1]]), torch.ones(1), 0.5)
    message = "mmcv-lite has no compiled operators: torchvision's and plain torch take their place"
    assert notes() == [message]


@lite_only
@pytest.mark.parametrize("name", ["__path__", "_private"])
def test_private_names_are_missing_as_in_any_module(name):
    with pytest.raises(AttributeError, match=f"module 'mmcv._ext' has no attribute '{name}'"):
        getattr(mmcv._ext, name)
