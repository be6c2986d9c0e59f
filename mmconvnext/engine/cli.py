"""What the command lines of tools/ share."""

from __future__ import annotations

import argparse
import functools
import os
import sys
from collections.abc import Callable

from mmengine.config import DictAction

from mmconvnext.compat.checkpoint_io import CheckpointError
from mmconvnext.errors import UserError

TRACEBACK_VARIABLE = "MMCONVNEXT_TRACEBACK"


def main_guard(main: Callable[..., int | None]) -> Callable[..., int]:
    """Turn the errors that users can mend into one message on stderr and exit code 1.

    With the environment variable ``MMCONVNEXT_TRACEBACK=1`` they are raised instead. Errors that
    nobody foresaw keep their traceback.
    """

    @functools.wraps(main)
    def guarded(*args: object, **kwargs: object) -> int:
        try:
            return main(*args, **kwargs) or 0
        except (UserError, CheckpointError) as error:
            if os.environ.get(TRACEBACK_VARIABLE, "") not in ("", "0"):
                raise
            print(f"error: {error}", file=sys.stderr)
            print(f"({TRACEBACK_VARIABLE}=1 shows where it was raised)", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            return 130

    return guarded


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that training and evaluation share."""
    parser.add_argument("config", help="config file")
    parser.add_argument(
        "--work-dir", help="where logs and results go; default: work_dirs/<name of the config>"
    )
    parser.add_argument(
        "--data-root", help="folder of the data set, in place of the config's data_root"
    )
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        action=DictAction,
        metavar="KEY=VALUE",
        help='override settings, for example train_dataloader.batch_size=4 or a="[1,2]"',
    )
    parser.add_argument(
        "--launcher",
        choices=["none", "pytorch", "slurm", "mpi"],
        default="none",
        help="what started the processes of a distributed run (torchrun: pytorch)",
    )
    # torch.distributed.launch passes --local-rank; torchrun sets the environment variable.
    parser.add_argument("--local_rank", "--local-rank", type=int, default=0, help=argparse.SUPPRESS)


def export_local_rank(local_rank: int) -> None:
    """Put the rank that a launcher passed as an argument where MMEngine looks for it."""
    os.environ.setdefault("LOCAL_RANK", str(local_rank))
