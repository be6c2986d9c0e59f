"""Checkpoints are whole or absent, whatever happens while they are written."""

import errno
import io
import os
import resource
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmdet.registry import HOOKS
from mmengine.config import Config
from mmengine.fileio import get_file_backend
from mmengine.optim import OptimWrapper
from torch.utils.data import DataLoader

from mmconvnext.engine.runner import DetectionRunner, check_new, resume_from
from mmconvnext.errors import ConfigError, UnreadableCheckpointError, UserError
from mmconvnext.training import checkpoints
from mmconvnext.training.checkpoints import (
    WholeCheckpointHook,
    WholeFileBackend,
    check_writable,
    checkpoints_of,
    find_fault,
    newest_whole,
)
from tests.line import Line
from tests.processes import FORKING

SIZE = 400_000  # bytes of a checkpoint, at least, and more than of a log


def train(folder: Path, iterations: int = 5, resume: bool = False, **hook) -> DetectionRunner:
    model = Line()
    model.register_buffer("ballast", torch.zeros(SIZE // 4))
    runner = DetectionRunner(
        model,
        str(folder),
        train_dataloader=DataLoader([{"inputs": 1.0}] * 4),
        train_cfg={"by_epoch": False, "max_iters": iterations},
        optim_wrapper=OptimWrapper(torch.optim.SGD(model.parameters(), 0.1)),
        default_hooks={
            "checkpoint": {
                "type": "CheckpointHook",
                "by_epoch": False,
                "interval": 1,
                "max_keep_ckpts": 1,
                **hook,
            }
        },
        experiment_name=f"{folder}{resume}{iterations}",
        load_from=str(newest_whole(folder)[0]) if resume else None,
        resume=resume,
        default_scope="mmdet",
    )
    runner.train()
    return runner


def train_and_be_killed(folder: Path, number: int) -> None:
    """Train five iterations; the process is killed within the fsync of a checkpoint."""
    left, sync = [number], os.fsync

    def kill(handle):
        name = os.readlink(f"/proc/self/fd/{handle}")
        if name.endswith(".part"):
            left[0] -= 1
            if not left[0]:
                os.truncate(name, 100)
                os.kill(os.getpid(), signal.SIGKILL)
        sync(handle)

    os.fsync = kill
    train(folder)


@pytest.fixture
def full_disk():
    """Files larger than the checkpoints cannot be written any more; a function that says so."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def a_checkpoint(path: Path, value: float = 0.0) -> Path:
    torch.save({"state_dict": {"weight": torch.full((1000,), value)}}, path)
    return path


def test_mmengine_takes_both_by_its_own_names():
    assert isinstance(HOOKS.build({"type": "CheckpointHook"}), WholeCheckpointHook)
    assert isinstance(get_file_backend("folder/file.pth"), WholeFileBackend)


@pytest.mark.parametrize("size", [0, 100, 2000])
def test_a_file_that_cannot_be_written_leaves_what_was_there(tmp_path, full_disk, size):
    path = a_checkpoint(tmp_path / "a.pth")
    before = path.read_bytes()
    full_disk(size)
    with pytest.raises(OSError, match="too large"):
        WholeFileBackend().put(bytes(4000), path)
    assert path.read_bytes() == before
    assert [*tmp_path.iterdir()] == [path]


def test_what_was_not_written_as_it_should_be_is_not_kept(tmp_path):
    content = io.BytesIO()
    torch.save(torch.ones(1000), content)
    wrong = bytearray(content.getvalue())
    wrong[len(wrong) // 2] ^= 1
    with pytest.raises(OSError, match=r"a\.pth\.part is damaged at .*data"):
        WholeFileBackend().put(bytes(wrong), tmp_path / "a.pth")
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize("number", [1, 2, 4])
def test_a_process_that_is_killed_within_a_save_leaves_the_last_checkpoint(tmp_path, number):
    process = FORKING.Process(target=train_and_be_killed, args=(tmp_path, number))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    (part,) = tmp_path.glob(".*.part")
    assert part.stat().st_size == 100
    expected = [tmp_path / f"iter_{number - 1}.pth"] * (number > 1)
    assert checkpoints_of(tmp_path) == expected
    assert newest_whole(tmp_path) == (expected[0] if expected else None, [])
    runner = train(tmp_path, resume=number > 1)
    assert runner.iter == 5
    assert {path.name for path in tmp_path.glob("*.pth")} == {"iter_5.pth"}
    assert not part.exists()


@pytest.mark.parametrize("on_error", ["stop", "continue"])
def test_a_full_disk_is_one_line_and_the_last_checkpoint_stays(tmp_path, full_disk, on_error):
    train(tmp_path, 2)
    full_disk(SIZE)
    if on_error == "stop":
        with pytest.raises(UserError, match=r"too large; the last .* is iter_2\.pth"):
            train(tmp_path, 5, resume=True)
    else:
        assert train(tmp_path, 5, resume=True, on_error=on_error).iter == 5
        (log,) = (text for f in tmp_path.glob("*/*.log") if "on_error" in (text := f.read_text()))
        assert log.count("training goes on (on_error='continue')") == 3
    assert newest_whole(tmp_path) == (tmp_path / "iter_2.pth", [])
    assert {path.name for path in tmp_path.glob("*.pth")} == {"iter_2.pth"}


def test_one_that_could_be_written_later_replaces_the_last(tmp_path, full_disk):
    train(tmp_path, 2)
    full_disk(SIZE)
    runner = train(tmp_path, 3, resume=True, on_error="continue")
    full_disk(2**30)
    (hook,) = (hook for hook in runner.hooks if isinstance(hook, WholeCheckpointHook))
    hook.after_train_iter(runner, 0)
    assert runner.message_hub.get_info("keep_ckpt_ids") == [4]
    assert {path.name for path in tmp_path.glob("*.pth")} == {"iter_4.pth"}


def test_what_to_do_about_errors_must_be_known():
    with pytest.raises(ConfigError, match=r"on_error='ignore' .* one of"):
        WholeCheckpointHook(on_error="ignore")


def damaged(path: Path, kind: str) -> str:
    """Damage a checkpoint; return what is to be said of it."""
    content = bytearray(path.read_bytes())
    if kind == "flipped bit":
        content[len(content) // 2] ^= 4
    written = path.stat().st_mtime_ns
    path.write_bytes({"empty": b"", "cut": content[:-300]}.get(kind, content))
    os.utime(path, ns=(written, written))
    return "is damaged at" if kind == "flipped bit" else "is not whole"


@pytest.mark.parametrize("kind", ["flipped bit", "cut", "empty"])
@pytest.mark.parametrize("last", ["iter_2.pth", None])
def test_the_newest_that_is_whole_is_resumed(tmp_path, kind, last):
    old, new = (a_checkpoint(tmp_path / f"iter_{number}.pth") for number in (1, 2))
    assert find_fault(new) is None
    if last:
        (tmp_path / "last_checkpoint").write_text(f"/moved/{last}")
    said = damaged(new, kind)
    path, (fault,) = newest_whole(tmp_path)
    assert path == old
    assert fault.startswith(f"iter_2.pth {said}")
    with pytest.raises(UnreadableCheckpointError, match=r"iter_2\.pth is .*; name another"):
        resume_from(Config({"work_dir": str(tmp_path)}), str(new))
    damaged(old, kind)
    with pytest.raises(UnreadableCheckpointError, match=r"iter_2.*; iter_1.*--restart"):
        newest_whole(tmp_path)


def test_what_last_checkpoint_names_comes_first(tmp_path):
    first, *_ = (a_checkpoint(tmp_path / name) for name in ("epoch_7.pth", "iter_9.pth"))
    a_checkpoint(tmp_path / "best_coco_segm_mAP_epoch_7.pth")
    (tmp_path / "last_checkpoint").write_text(str(first))
    assert [path.name for path in checkpoints_of(tmp_path)] == ["epoch_7.pth", "iter_9.pth"]


def test_a_new_run_does_not_write_over_an_earlier_one(tmp_path):
    cfg = Config({"work_dir": str(tmp_path)})
    check_new(cfg)
    a_checkpoint(tmp_path / "epoch_3.pth")
    with pytest.raises(UserError, match=r"epoch_3\.pth: --resume .* --restart .* --work-dir"):
        check_new(cfg)


def test_a_folder_that_cannot_be_written_to_is_refused(tmp_path, full_disk):
    check_writable(tmp_path / "new" / "folder")
    assert not (tmp_path / "new").exists()
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file/work: Not a directory; --work-dir"):
        check_writable(tmp_path / "file" / "work")
    full_disk(1000)
    with pytest.raises(UserError, match="File too large"):
        check_writable(tmp_path)


def test_a_log_that_cannot_be_written_is_one_line(tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "scalars.json")

    monkeypatch.setattr("mmengine.hooks.LoggerHook.after_train_iter", full)
    with pytest.raises(UserError, match=r"^scalars\.json cannot .*: No space left .* has no check"):
        train(tmp_path)
    monkeypatch.undo()
    train(tmp_path, 2)
    monkeypatch.setattr("mmengine.hooks.LoggerHook.after_train_iter", full)
    with pytest.raises(UserError, match=r"the last checkpoint in .* is iter_2\.pth"):
        train(tmp_path, 5, resume=True)


@pytest.mark.parametrize("disk", ["free", "full"])
def test_the_clock_saves_checkpoints_too_and_the_next_replaces_them(
    tmp_path, monkeypatch, full_disk, disk
):
    """With steps of eleven minutes; where none can be written, each is tried once."""
    minutes, seen = [0], []

    def forward(model, inputs, mode="loss"):
        minutes[0] += 11
        seen.append({path.name for path in tmp_path.glob("*.pth")})
        return {"loss": model.weight.sum()}

    monkeypatch.setattr(Line, "forward", forward)
    monkeypatch.setattr(checkpoints, "time", SimpleNamespace(monotonic=lambda: 60 * minutes[0]))
    settings = {"interval": 7, "max_keep_ckpts": -1, "on_error": "continue"}
    if disk == "full":
        full_disk(SIZE)
        train(tmp_path, 11, **settings)
        (log,) = tmp_path.glob("*/*.log")
        assert log.read_text().count("training goes on") == 5
        assert not [*tmp_path.glob("*.pth")]
        return
    train(tmp_path, 11, **settings)
    third, sixth, seventh, tenth = ({f"iter_{number}.pth"} for number in (3, 6, 7, 10))
    assert seen == [
        *(set(), set(), set(), third, third, third, sixth, seventh, seventh, seventh),
        seventh | tenth,
    ]
    assert {path.name for path in tmp_path.glob("*.pth")} == {"iter_7.pth", "iter_11.pth"}
    minutes[0], seen[:] = 0, []
    train(tmp_path, 22, resume=True, interval=100, interval_minutes=0)
    assert {*map(len, seen)} == {2}
