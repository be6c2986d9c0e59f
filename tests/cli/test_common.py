import argparse
import json
import os
import subprocess
import sys

import pytest

from mmconvnext.cli import common
from mmconvnext.errors import CheckpointError, MissingOperatorError, UserError


def failing(error):
    @common.main_guard
    def main():
        raise error

    return main


@pytest.mark.parametrize("kind", [UserError, CheckpointError, MissingOperatorError])
def test_mistakes_of_users_are_one_message_and_exit_code_one(kind, capsys, monkeypatch):
    monkeypatch.delenv(common.TRACEBACK_VARIABLE, raising=False)
    assert failing(kind("no such thing"))() == 1
    err = capsys.readouterr().err
    assert err.startswith("error: no such thing")
    assert "Traceback" not in err
    monkeypatch.setenv(common.TRACEBACK_VARIABLE, "1")
    with pytest.raises(kind):
        failing(kind("x"))()
    assert failing(KeyboardInterrupt())() == 130


@pytest.mark.parametrize("kind", [ZeroDivisionError, BrokenPipeError])
def test_what_nobody_foresaw_keeps_its_traceback(kind):
    with pytest.raises(kind):
        failing(kind())()


@pytest.mark.parametrize("command", ["print('a')", "print('a' * 100_000)", "cli.main(['--help'])"])
def test_where_nobody_reads_the_command_ends_quietly(repo, command):
    code = f"from mmconvnext import cli; exit(cli.common.main_guard(lambda: {command})())"
    read, write = os.pipe()
    os.close(read)
    environ = {**os.environ, "PYTHONUNBUFFERED": ""}  # with it argparse ignores the error
    streams = {"stdout": write, "stderr": subprocess.PIPE}
    start = [sys.executable, "-c", code]
    process = subprocess.run(start, cwd=repo, env=environ, **streams, check=False)
    os.close(write)
    assert (process.returncode, process.stderr) == (141, b"")


def test_shared_arguments():
    parser = argparse.ArgumentParser()
    common.add_run_arguments(parser)
    args = parser.parse_args(
        ["mask_rcnn_convnext_shapes", "--cfg-options", "a.b=1", "c=[1,2]", "--launcher", "slurm"]
    )
    assert (args.config, args.launcher) == ("mask_rcnn_convnext_shapes", "slurm")
    assert args.cfg_options == {"a.b": 1, "c": [1, 2]}
    assert (args.work_dir, args.data_root, args.local_rank) == (None, None, 0)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["a.b=1", "c.py"], "'c.py' is no KEY=VALUE"),
        (["a", "=", "1"], "'a' is no KEY=VALUE"),
        (["=1"], "'=1' is no KEY=VALUE"),
        (["a=[1,2"], "cannot read a=[1,2: Imbalanced brackets"),
    ],
)
def test_options_that_cannot_be_read_are_named(options, says, capsys):
    parser = argparse.ArgumentParser()
    common.add_config(parser, "a=1")
    with pytest.raises(SystemExit) as caught:
        parser.parse_args(["mask_rcnn_convnext_shapes", "--cfg-options", *options])
    assert caught.value.code == 2
    assert f"--cfg-options: {says}" in capsys.readouterr().err


def test_json_goes_to_a_file_whatever_it_is_called(tmp_path, capsys):
    path = tmp_path / "new" / "found"
    common.write_json({"a": (1, 2)}, str(path))
    assert json.loads(path.read_text()) == {"a": [1, 2]}
    assert capsys.readouterr().out == f"written to {path}\n"
    with pytest.raises(UserError, match=f"cannot write {tmp_path}: "):
        common.write_json({}, str(tmp_path))
