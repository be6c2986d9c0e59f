"""What a run shows on the screen, and what only its log has."""

import logging
import time
import types
from io import StringIO

import pytest
from mmengine.logging import HistoryBuffer, MMLogger, print_log

from mmconvnext.engine import screen
from mmconvnext.engine.screen import ScreenHook, filter_screen, quiet
from mmconvnext.training.signals import StopHook


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


def a_runner() -> types.SimpleNamespace:
    loader = types.SimpleNamespace(dataset=[None] * 7)
    logger = logging.getLogger("a training")
    return types.SimpleNamespace(iter=0, max_iters=9, train_dataloader=loader, logger=logger)


def test_how_many_images_are_trained_on_is_said(caplog):
    caplog.set_level(logging.INFO)
    hook = ScreenHook()
    hook.before_train(a_runner())
    hook._cancel()
    assert "an epoch has 7 images" in caplog.text


def test_a_long_iteration_is_announced(monkeypatch, capsys):
    monkeypatch.setattr(screen, "FIRST_S", 0.01)
    hook = ScreenHook()
    hook.before_train(a_runner())
    time.sleep(0.5)
    assert "running for 0 s: iteration 1 of 9" in capsys.readouterr().err


def test_iterations_that_end_before_a_line_is_due_do_not_put_it_off(monkeypatch, capsys):
    """The second one, of unknown length, is announced 15 s after the start of the training."""
    monkeypatch.setattr(screen, "FIRST_S", 0.3)
    hook, runner = ScreenHook(), a_runner()
    hook._replaced = False
    hook.before_train(runner)
    hook.after_train_iter(runner, 0)
    runner.iter = 1
    assert capsys.readouterr().err == ""
    time.sleep(0.8)
    assert capsys.readouterr().err == "running for 0 s: iteration 2 of 9\n"


def test_the_loss_on_the_validation_set_stands_below_the_table(capsys):
    hub = types.SimpleNamespace(log_scalars={"train/loss": HistoryBuffer([1.0, 3.0], [1, 1])})
    runner = types.SimpleNamespace(message_hub=hub)
    ScreenHook().after_val_epoch(runner, {"coco/segm_mAP": 0.25, "val/loss": 2.5})
    *table, line = capsys.readouterr().out.splitlines()
    assert "| mask        | 25.0 |" in "\n".join(table)
    assert line == (
        "loss: 2.5 on the validation set, 2 in training (mean of the last 50 iterations)"
    )
    hub.log_scalars.clear()  # nothing was trained
    ScreenHook().after_val_epoch(runner, {"coco/segm_mAP": 0.25, "val/loss": 2.5})
    assert "loss" not in capsys.readouterr().out


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


@pytest.mark.parametrize(("seconds", "left"), [(None, "1 day, 0:00:00"), (90, "0:01:")])
def test_the_time_left_is_at_most_that_of_time(monkeypatch, capsys, seconds, left):
    monkeypatch.setattr(screen, "REPLACED_S", 0.0)
    values = {"train/loss": HistoryBuffer([1.0], [1])}
    hub = types.SimpleNamespace(log_scalars=values, get_info={"eta": 86400.0}.get)
    hub.get_scalar = lambda key: HistoryBuffer([1.0], [1])
    runner = types.SimpleNamespace(iter=9, max_iters=10, epoch=0, max_epochs=1, message_hub=hub)
    runner.optim_wrapper = types.SimpleNamespace(get_lr=lambda: {"lr": [0.1]})
    runner.hooks = [StopHook(seconds)]
    hook = ScreenHook()
    hook._start(lambda: "training")
    hook.after_train_iter(runner, 9, {"inputs": [None]})
    hook._cancel()
    assert f"| {left}" in capsys.readouterr().err
