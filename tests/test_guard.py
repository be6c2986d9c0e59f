import errno
import os
import subprocess
import sys

import pytest

from mmconvnext import guard
from mmconvnext.errors import CheckpointError, MissingOperatorError, UserError


def failing(error):
    @guard.main_guard
    def main():
        raise error

    return main


@pytest.mark.parametrize("kind", [UserError, CheckpointError, MissingOperatorError])
def test_mistakes_of_users_are_one_message_and_exit_code_one(kind, capsys, monkeypatch):
    monkeypatch.delenv(guard.TRACEBACK_VARIABLE, raising=False)
    assert failing(kind("no such thing"))() == 1
    err = capsys.readouterr().err
    assert err.startswith("error: no such thing")
    assert "Traceback" not in err
    monkeypatch.setenv(guard.TRACEBACK_VARIABLE, "1")
    with pytest.raises(kind):
        failing(kind("x"))()
    assert failing(KeyboardInterrupt())() == 130


@pytest.mark.parametrize("kind", [ZeroDivisionError, BrokenPipeError])
def test_what_nobody_foresaw_keeps_its_traceback(kind):
    with pytest.raises(kind):
        failing(kind())()


def test_a_full_disk_is_one_message_and_other_faults_of_files_are_not(capsys):
    full = OSError(errno.ENOSPC, "No space left on device", "a.json")
    assert failing(full)() == 1
    assert capsys.readouterr().err == "error: cannot write a.json: No space left on device\n"
    with pytest.raises(PermissionError):
        failing(PermissionError(errno.EACCES, "Permission denied", "a.json"))()


@pytest.mark.parametrize("command", ["print('a')", "print('a' * 100_000)", "cli.main(['--help'])"])
def test_where_nobody_reads_the_command_ends_quietly(repo, command):
    code = f"from mmconvnext import cli, guard; exit(guard.main_guard(lambda: {command})())"
    read, write = os.pipe()
    os.close(read)
    environ = {**os.environ, "PYTHONUNBUFFERED": ""}  # with it argparse ignores the error
    streams = {"stdout": write, "stderr": subprocess.PIPE}
    start = [sys.executable, "-c", code]
    process = subprocess.run(start, cwd=repo, env=environ, **streams, check=False)
    os.close(write)
    assert (process.returncode, process.stderr) == (141, b"")
