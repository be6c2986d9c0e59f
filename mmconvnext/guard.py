"""How a command ends: errors of the user as a line, with an exit code; imports nothing large."""

from __future__ import annotations

import errno
import functools
import os
import select
import sys
from collections.abc import Callable

from mmconvnext.errors import UserError

TRACEBACK_VARIABLE = "MMCONVNEXT_TRACEBACK"


def main_guard(main: Callable[..., int | None]) -> Callable[..., int]:
    """Turn the errors that users can fix into one message on stderr and exit code 1.

    With ``MMCONVNEXT_TRACEBACK=1`` in the environment they are raised. Where nobody reads stdout
    any more (``| head``), the command ends quietly with the exit code of SIGPIPE, 141.
    """

    @functools.wraps(main)
    def guarded(*args: object, **kwargs: object) -> int:
        try:
            try:
                code = main(*args, **kwargs) or 0
            except SystemExit:  # of --help
                sys.stdout.flush()
                raise
            sys.stdout.flush()  # or Python would complain when it exits
            return code
        except UserError as error:
            if os.environ.get(TRACEBACK_VARIABLE, "") not in ("", "0"):
                raise
            print(f"error: {error}", file=sys.stderr)
            print(f"({TRACEBACK_VARIABLE}=1 shows where it was raised)", file=sys.stderr)
            return 1
        except BrokenPipeError:
            poll = select.poll()
            poll.register(sys.stdout, 0)
            if not poll.poll(0):  # another pipe, as that of a data loader's process
                raise
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 141
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
                raise
            print(f"error: cannot write {error.filename}: {error.strerror}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            return 130

    return guarded
