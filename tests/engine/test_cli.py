import argparse

import pytest

from mmconvnext.compat.checkpoint_io import CheckpointError
from mmconvnext.engine import cli
from mmconvnext.errors import UserError


def failing(error):
    @cli.main_guard
    def main():
        raise error

    return main


@pytest.mark.parametrize("error", [UserError("no such thing"), CheckpointError("no such thing")])
def test_mistakes_of_users_are_one_message_and_exit_code_one(error, capsys, monkeypatch):
    monkeypatch.delenv(cli.TRACEBACK_VARIABLE, raising=False)
    assert failing(error)() == 1
    err = capsys.readouterr().err
    assert err.startswith("error: no such thing\n")
    assert "Traceback" not in err


def test_the_traceback_is_there_on_request(monkeypatch):
    monkeypatch.setenv(cli.TRACEBACK_VARIABLE, "1")
    with pytest.raises(UserError):
        failing(UserError("x"))()


def test_what_nobody_foresaw_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        failing(ZeroDivisionError())()


def test_an_interrupt_is_no_traceback(capsys):
    assert failing(KeyboardInterrupt())() == 130


def test_success_is_zero():
    assert cli.main_guard(lambda: None)() == 0


def test_shared_arguments():
    parser = argparse.ArgumentParser()
    cli.add_run_arguments(parser)
    args = parser.parse_args(["c.py", "--cfg-options", "a.b=1", "c=[1,2]", "--launcher", "slurm"])
    assert (args.config, args.launcher) == ("c.py", "slurm")
    assert args.cfg_options == {"a.b": 1, "c": [1, 2]}
    assert (args.work_dir, args.data_root, args.local_rank) == (None, None, 0)
