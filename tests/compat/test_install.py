import sys

from mmengine.runner.checkpoint import CheckpointLoader

from mmconvnext import compat
from mmconvnext.compat import checkpoint_io


def state() -> tuple[list, dict]:
    return list(sys.meta_path), dict(CheckpointLoader._schemes)


def test_importing_mmconvnext_has_installed_everything():
    finders, schemes = state()
    assert [type(f).__name__ for f in finders].count("StandInFinder") == 1
    assert schemes[""] is checkpoint_io.load_from_local


def test_a_second_call_changes_nothing():
    before = state()
    compat.install()
    assert state() == before
