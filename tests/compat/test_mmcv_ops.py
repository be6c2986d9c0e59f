import importlib.util
import json
import sys
from importlib.machinery import EXTENSION_SUFFIXES, PathFinder
from pathlib import Path

import mmcv
import mmengine.utils.dl_utils
import pytest

from mmconvnext.compat import mmcv_ops
from mmconvnext.compat.mmcv_ops import StandInFinder
from tests.compat.which_mmcv import stand_in_only

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
print(json.dumps({
    "before": before,
    "origin": mmcv._ext.__spec__.origin,
    "torchvision": "torchvision" in sys.modules,
}))
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
from mmconvnext.compat.mmcv_ops import is_stand_in
x = torch.ones(1, 3, 4, 4).to(memory_format=torch.channels_last)
mmcv.ops.RoIAlign(2)(x, torch.zeros(1, 5))
print(json.dumps({
    "origin": mmcv._ext.__file__,
    "calls": mmcv._ext.calls,
    "stand-in": is_stand_in(),
    "torchvision": "torchvision" in sys.modules,
}))
"""

WITHOUT_MMCV = """
import sys

class Blind:
    # a finder that sees everything but mmcv, as where it is not installed
    def __init__(self, finder):
        self.finder = finder
    def find_spec(self, name, path=None, target=None):
        hidden = name.partition(".")[0] == "mmcv"
        return None if hidden else self.finder.find_spec(name, path, target)
    def __getattr__(self, name):
        return getattr(self.finder, name)

sys.meta_path[:] = [Blind(finder) for finder in sys.meta_path]
try:
    import mmconvnext
except ImportError as error:
    print(type(error).__name__, error)
"""


@pytest.fixture(scope="module")
def process(run_python) -> dict:
    """What a fresh process saw before and after it imported mmconvnext."""
    return json.loads(run_python(BEFORE_AND_AFTER))


@stand_in_only("mmcv.ops can be imported alone")
def test_mmcv_ops_cannot_be_imported_before_mmconvnext_and_can_after(process):
    assert process["before"] == "mmcv._ext"
    assert process["origin"] == str(mmcv_ops.STAND_IN)


def test_torchvision_is_not_imported_before_an_operator_is_called(process):
    assert not process["torchvision"]


def test_a_compiled_module_is_preferred_and_torchvision_is_not_even_imported(run_python, tmp_path):
    facts = json.loads(run_python(WITH_A_COMPILED_MODULE, tmp_path))
    assert facts == {
        "origin": str(tmp_path / "_ext.py"),
        "calls": [["roi_align_forward", True]],
        "stand-in": False,
        "torchvision": False,
    }


def test_without_any_mmcv_the_error_says_what_to_install(run_python):
    printed = run_python(WITHOUT_MMCV)
    assert printed.startswith("MissingMMCVError mmconvnext needs mmcv, and neither mmcv nor")
    assert "pip install mmcv-lite==2.1.0" in printed


def test_is_stand_in_tells_whether_there_is_a_compiled_module():
    compiled = [Path(mmcv.__path__[0], f"_ext{suffix}") for suffix in EXTENSION_SUFFIXES]
    assert mmcv_ops.is_stand_in() is not any(file.exists() for file in compiled)


def test_mmengine_finds_the_operators():
    """mmengine asks pkgutil.find_loader, which needs a module with a proper spec."""
    assert mmengine.utils.dl_utils.mmcv_full_available()
    assert mmcv.utils.ext_loader.check_ops_exist()


def finders() -> list:
    return [finder for finder in sys.meta_path if type(finder).__name__ == "StandInFinder"]


@pytest.fixture
def as_before_install(monkeypatch):
    """Without the finder; mmcv._ext is not looked for again by the modules that have it."""
    others = [finder for finder in sys.meta_path if finder not in finders()]
    monkeypatch.setattr(sys, "meta_path", others)
    monkeypatch.delitem(sys.modules, mmcv_ops.EXTENSION, raising=False)


@stand_in_only("it is found without mmconvnext")
def test_nothing_is_found_without_the_finder(as_before_install):
    assert importlib.util.find_spec("mmcv._ext") is None
    assert not mmcv_ops.is_stand_in()
    mmcv_ops.install()
    assert mmcv_ops.is_stand_in()


def test_the_finder_is_asked_last(as_before_install):
    mmcv_ops.install()
    assert isinstance(sys.meta_path[-1], StandInFinder)
    assert PathFinder in sys.meta_path[:-1]


def test_a_reloaded_room_does_not_leave_a_second_finder():
    spec = importlib.util.spec_from_file_location("reloaded", mmcv_ops.__file__)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.install()
    assert len(finders()) == 1


@pytest.mark.parametrize("name", ["mmcv", "mmcv.ops", "mmcv._extra", "_ext", "torchvision"])
def test_the_finder_offers_no_other_module(name):
    assert StandInFinder().find_spec(name) is None
    assert StandInFinder().find_spec("mmcv._ext").origin == str(mmcv_ops.STAND_IN)
