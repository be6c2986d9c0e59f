"""What a run shows on the screen, and what only its log has."""

import logging
import time
import types
from io import StringIO

import pytest
from mmengine.logging import MMLogger, print_log

from mmconvnext.engine import screen
from mmconvnext.engine.screen import ScreenHook, filter_screen, quiet


def call(module: str, function, *arguments) -> None:
    """Call a function from a module of this name."""
    scope = {"__name__": module, "function": function, "arguments": arguments}
    exec("function(*arguments)", scope)


@pytest.fixture
def logger(tmp_path):
    made = MMLogger(f"screen {tmp_path}", log_file=str(tmp_path / "log"))
    shown = StringIO()
    made.handlers[0].setStream(shown)
    filter_screen(made)
    filter_screen(made)
    assert len([f for f in made.handlers[0].filters if isinstance(f, screen.ScreenFilter)]) == 1
    yield made, shown
    for handler in made.handlers:
        handler.close()


@pytest.mark.parametrize(
    ("module", "level", "is_shown"),
    [
        ("mmengine.runner.runner", logging.INFO, False),
        ("mmdet.datasets.coco", logging.INFO, False),
        ("mmengine.runner.runner", logging.WARNING, True),
        ("mmengine.fileio.file_client", logging.WARNING, False),
        ("mmengine.fileio.file_client", logging.ERROR, False),
        ("mmconvnext.engine.runner", logging.INFO, True),
        ("mmconvnext.optim.layer_decay", logging.INFO, False),
        ("mmengineer", logging.INFO, True),
        ("my_project.hooks", logging.INFO, True),
    ],
)
@pytest.mark.parametrize("way", ["logger", "print_log"])
def test_who_is_shown(logger, tmp_path, module, level, is_shown, way):
    made, shown = logger
    if way == "logger":
        call(module, made.log, level, "a line")
    else:
        call(module, print_log, "a line", made, level)
    assert ("a line" in shown.getvalue()) == is_shown
    assert "a line" in (tmp_path / "log").read_text()


def test_pycocotools_says_nothing(capsys):
    with quiet():
        print("loading annotations into memory...")
    assert capsys.readouterr().out == ""


def test_a_long_iteration_is_announced(monkeypatch, capsys):
    monkeypatch.setattr(screen, "FIRST_S", 0.01)
    hook = ScreenHook()
    hook.before_train(types.SimpleNamespace(iter=0, max_iters=9))
    time.sleep(0.5)
    assert "iteration 1 of 9 has been running for 0 s" in capsys.readouterr().err


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_is_replaced_in_a_terminal_and_sparse_elsewhere(monkeypatch, capsys, terminal):
    hook = ScreenHook()
    hook._replaced = terminal
    loader = [None] * 5
    runner = types.SimpleNamespace(val_dataloader=loader)
    monkeypatch.setattr(screen, "REPLACED_S", 0.0)
    hook.before_val_epoch(runner)
    for index in range(len(loader)):
        hook.after_val_iter(runner, index)
    shown = capsys.readouterr().err
    assert shown.count("validation ") == (5 if terminal else 1)
    assert shown.count("\n") == 1
    assert "validation 5/5 | " in shown
    assert "0:00:00 left" in shown
