"""A process that others wait for in vain ends them, in the configured time and with a sentence."""

import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from mmconvnext.engine.device import init_distributed_on_cpu, lost_processes
from mmconvnext.errors import UserError

TIMEOUT, LATE = 2, 5  # seconds


def in_each_process(folder: Path) -> str:
    """What the first process says of the second, which is too late."""
    dist.destroy_process_group()
    init_distributed_on_cpu("pytorch", {"dist_cfg": {"backend": "nccl", "timeout": TIMEOUT}})
    said = ""
    if dist.get_rank() == 1:
        time.sleep(LATE)
    else:
        try:
            with lost_processes():
                dist.all_reduce(torch.zeros(1))
        except UserError as error:
            said = str(error)
    return said


def test_a_late_process_is_named_in_the_configured_time(two_processes):
    first, _ = two_processes("test_lost_processes")
    assert first.startswith("process 0 of 2 has lost another one")
    assert f"Timed out waiting {TIMEOUT}000ms" in first
    assert "--max-restarts" in first
    assert "env_cfg.dist_cfg.timeout" in first


def test_other_errors_stay_as_they_are():
    for text in ("out of memory", "Connection closed by peer"):  # the latter in no group
        with pytest.raises(RuntimeError, match=text), lost_processes():
            raise RuntimeError(text)
