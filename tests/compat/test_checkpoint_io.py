import argparse
import collections
import os
import pickle
import sys
from pathlib import Path

import mmengine.runner.checkpoint
import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer
from mmengine.runner import load_checkpoint
from mmengine.runner.checkpoint import CheckpointLoader

from mmconvnext.compat.checkpoint_io import read_checkpoint
from mmconvnext.errors import (
    CheckpointError,
    MissingCheckpointError,
    UnreadableCheckpointError,
    UnsafeCheckpointError,
)

zipped_or_not = pytest.mark.parametrize("zipped", [True, False])


def log() -> HistoryBuffer:
    buffer = HistoryBuffer(max_length=100)
    for value in (3.0, 1.0, 2.5):
        buffer.update(value)
    return buffer


def training_state() -> dict:
    """What mmengine puts into a checkpoint beside the weights, and a command line as timm does."""
    return {
        "meta": {"epoch": 1, "seed": None, "cfg": "a = 1", "dataset_meta": {"classes": ("a",)}},
        "message_hub": {
            "log_scalars": collections.OrderedDict(loss=log()),
            "runtime_info": {"lr": np.float64(1e-4), "iter": np.int64(7), "done": np.bool_(True)},
            "resumed_keys": {"loss": True},
        },
        "param_schedulers": [{"milestones": collections.Counter([27, 33]), "last_step": 1}],
        "arrays": [np.arange(3), np.ones((2, 2), np.float16), np.array(["a", "ä"])],
        "args": argparse.Namespace(lr=0.1),
    }


def save(path: Path, content: object, zipped: bool = True) -> str:
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    return str(path)


@zipped_or_not
def test_what_can_be_mapped_is_left_on_disk(tmp_path, monkeypatch, zipped):
    path = save(tmp_path / "x.pth", {"w": torch.ones(3)}, zipped)
    mapped, load = [], torch.load
    monkeypatch.setattr(torch, "load", lambda *a, **kw: mapped.append(kw["mmap"]) or load(*a, **kw))
    for mmap in (True, False):
        assert torch.equal(read_checkpoint(path, mmap=mmap)["w"], torch.ones(3))
    assert [bool(value) for value in mapped] == [zipped, False]


@zipped_or_not
def test_mmengines_training_state_comes_back_whole(tmp_path, zipped):
    state, model, other = training_state(), torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    path = save(tmp_path / "epoch_1.pth", state | {"state_dict": model.state_dict()}, zipped)
    load_checkpoint(other, path, map_location="cpu", strict=True)
    assert torch.equal(model.weight, other.weight)
    read = CheckpointLoader.load_checkpoint(path, map_location="cpu")
    for key in ("meta", "param_schedulers", "args"):
        assert read[key] == state[key]
    info, expected = (part["message_hub"]["runtime_info"] for part in (read, state))
    assert info == expected
    assert list(map(type, info.values())) == [np.float64, np.int64, np.bool_]
    for array, original in zip(read["arrays"], state["arrays"], strict=True):
        assert array.dtype == original.dtype
        np.testing.assert_array_equal(array, original)
    buffer = read["message_hub"]["log_scalars"]["loss"]
    assert type(buffer) is HistoryBuffer
    statistics = {"min": 1.0, "max": 3.0, "current": 2.5, "mean": pytest.approx(6.5 / 3)}
    assert {name: buffer.statistics(name) for name in statistics} == statistics
    buffer.update(10.0)
    assert buffer.current() == 10.0


@pytest.mark.parametrize("module", [b"numpy.core.multiarray", b"numpy._core.multiarray"])
def test_arrays_of_old_and_new_numpy_are_read(tmp_path, module):
    path = tmp_path / "old.pth"
    save(path, [np.arange(3), np.float32(0.5)], zipped=False)
    data = path.read_bytes().replace(b"numpy._core", b"numpy.core")
    path.write_bytes(data.replace(b"numpy.core.multiarray", module))
    assert module in path.read_bytes()
    array, number = read_checkpoint(path)
    assert (array.tolist(), number) == ([0, 1, 2], 0.5)


class Call:
    """Unpickled, it is the result of a call."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


class Custom:
    pass


MARK = "mmconvnext_was_here"
RUNS_CODE = {
    "a shell": (Call(os.system, f"touch {MARK}"), f"{os.name}.system"),
    "a builtin": (Call(eval, f"open('{MARK}', 'w')"), "eval"),
    "another builtin": (Call(exec, f"open('{MARK}', 'w')"), "exec"),
    "a function of Python": (Call(os.makedirs, MARK), "os.makedirs"),
}
HOSTILE = RUNS_CODE | {
    "getattr": (Call(getattr, HistoryBuffer, "update"), r"getattr\(<class '.*Buffer'>, 'update'"),
    "getattr with a default": (Call(getattr, HistoryBuffer, "mean", 1), "getattr"),
    "getattr of numpy": (Call(getattr, np.ndarray, "mean"), "getattr.*ndarray.*mean"),
    "a call of a statistic": (Call(HistoryBuffer.mean, log()), "HistoryBuffer.mean"),
    "a class": (Custom(), rf"{__name__}.Custom"),
    "a model": (torch.nn.Linear(1, 1), "torch.nn.modules.linear.Linear"),
    "an array of objects": (np.array([Custom()]), "numpy.dtypes.ObjectDType"),
}


@zipped_or_not
@pytest.mark.parametrize("case", HOSTILE)
def test_anything_else_is_refused_by_name_and_not_run(tmp_path, monkeypatch, case, zipped):
    content, name = HOSTILE[case]
    monkeypatch.chdir(tmp_path)
    path = save(tmp_path / "x.pth", {"state_dict": content}, zipped)
    message = rf"x\.pth contains more than .*({name}).*\): refused, and nothing in it was run"
    with pytest.raises(UnsafeCheckpointError, match=message) as caught:
        CheckpointLoader.load_checkpoint(path, map_location="cpu")
    assert "Please use" not in str(caught.value)  # torch's advice how to allow it
    assert not Path(MARK).exists()


@pytest.mark.parametrize("case", RUNS_CODE)
def test_the_same_files_do_run_code_where_nobody_prevents_it(tmp_path, monkeypatch, case):
    monkeypatch.chdir(tmp_path)
    torch.load(save(tmp_path / "x.pth", RUNS_CODE[case][0]), weights_only=False)
    assert Path(MARK).exists()


@pytest.mark.parametrize("own", [(), (np.ndarray, np.dtype, HistoryBuffer)])
@pytest.mark.parametrize("fails", [False, True])
def test_the_processs_own_list_of_what_is_allowed_is_left_alone(tmp_path, own, fails):
    path = save(tmp_path / "x.pth", {"a": Custom() if fails else np.arange(3)})
    with torch.serialization.safe_globals(list(own)):
        before = set(torch.serialization.get_safe_globals())
        try:
            read_checkpoint(path)
        except UnsafeCheckpointError:
            assert fails
        assert set(torch.serialization.get_safe_globals()) == before
        assert set(own) <= before


def start_of_file(folder: Path, zipped: bool) -> bytes:
    path = save(folder / "whole.pth", {"w": torch.zeros(1000)}, zipped)
    return Path(path).read_bytes()[:3000]


DAMAGED = {
    "empty": (lambda _: b"", "is empty"),
    "cut off": (lambda p: start_of_file(p, True), "a zip archive that was cut off"),
    "cut off early, old format": (lambda p: start_of_file(p, False)[:20], r"\\x8a.*\): \S"),
    "cut off, old format": (lambda p: start_of_file(p, False), r"it starts with b'\\x80\\x02"),
    "a web page": (
        lambda _: b"\n<!DOCTYPE html><html>class os.system GLOBAL os.system</html>",
        "it looks like a web page: the download failed",
    ),
    "random bytes": (lambda _: bytes(range(200, 255)) * 20, "it starts with b'.xc8"),
    "text": (lambda _: b"version https://git-lfs.github.com/spec/v1\n", "it starts with b'version"),
    "another zip": (lambda _: b"PK\x05\x06" + bytes(18), r"\(a zip archive\)"),
}


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("case", DAMAGED)
def test_a_file_that_is_no_checkpoint_is_described(tmp_path, case, suffix):
    if suffix == ".safetensors":
        pytest.importorskip("safetensors")
    content, says = DAMAGED[case]
    path = tmp_path / f"x{suffix}"
    path.write_bytes(content(tmp_path))
    with pytest.raises(UnreadableCheckpointError, match=f"{path}.*{says}"):
        CheckpointLoader.load_checkpoint(str(path), map_location="cpu")


def test_wherever_a_file_of_the_old_format_is_cut_off_it_is_broken_and_not_unsafe(tmp_path):
    content = {"w": torch.zeros(3), "names": collections.OrderedDict(a=1)}
    path = Path(save(tmp_path / "x.pth", content, zipped=False))
    whole = path.read_bytes()
    for size in range(1, len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(UnreadableCheckpointError):
            read_checkpoint(path)


@pytest.mark.parametrize("location", ["cpu", None, torch.device("cpu"), lambda s, _: s])
def test_safetensors_are_read_whole_or_not_at_all(tmp_path, location, monkeypatch):
    safetensors = pytest.importorskip("safetensors.torch")
    path = tmp_path / "x.safetensors"
    safetensors.save_file({"w": torch.arange(300.0)}, path)
    read = CheckpointLoader.load_checkpoint(str(path), map_location=location)
    assert torch.equal(read["w"], torch.arange(300.0))
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(UnreadableCheckpointError, match=r"cannot read .*x\.safetensors"):
        read_checkpoint(path, location)
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    with pytest.raises(CheckpointError, match=r"needs a package: .*safetensors.*pip"):
        read_checkpoint(path)


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    with pytest.raises(MissingCheckpointError, match=r"there is no checkpoint .*x\.pth") as caught:
        CheckpointLoader.load_checkpoint(str(tmp_path / "x.pth"))
    assert isinstance(caught.value, FileNotFoundError)  # what mmengine's loader raises
    with pytest.raises(CheckpointError, match=r"is a folder, not a checkpoint$"):
        CheckpointLoader.load_checkpoint(str(tmp_path))
    for name in ("model.safetensors", "config.json"):
        (tmp_path / name).touch()
    with pytest.raises(CheckpointError, match=r"not a checkpoint; name a file in it: model\.safet"):
        read_checkpoint(tmp_path)


def test_the_home_folder_can_be_short(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    save(tmp_path / "x.pth", {"a": 1})
    assert CheckpointLoader.load_checkpoint("~/x.pth") == {"a": 1}


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_missing_device_is_not_taken_for_damage(tmp_path):
    path = save(tmp_path / "x.pth", {"w": torch.zeros(1)})
    with pytest.raises(CheckpointError, match=r"x\.pth \(a zip archive\): .*CUDA"):
        read_checkpoint(path, "cuda")


def test_mmengines_own_loader_cannot_read_what_mmengine_writes(tmp_path):
    """Once this fails, mmengine has caught up and the patch can go."""
    path = save(tmp_path / "epoch_1.pth", training_state())
    with pytest.raises(pickle.UnpicklingError, match="HistoryBuffer"):
        mmengine.runner.checkpoint.load_from_local(path, "cpu")
