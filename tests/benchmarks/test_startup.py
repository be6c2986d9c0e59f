import argparse

import pytest

from benchmarks import startup
from benchmarks.comparison import BenchmarkError, Results, Timing
from benchmarks.startup import Command, CommandError

NOTHING = Command("nothing", ("-c", "pass"))
FAILING = Command("failing", ("-c", "print('x'); raise ValueError('what is wrong')"))


def test_it_sees_which_libraries_a_command_imports(tmp_path):
    (tmp_path / "timm.py").write_text("")
    (tmp_path / "timm_extras.py").write_text("import hotcoco_like")
    (tmp_path / "hotcoco_like.py").write_text("")
    code = """
import timm, timm_extras
try:
    import transformers.no_such_module
except ImportError:
    pass
"""
    command = Command("x", ("-c", code), (str(tmp_path),))
    assert startup.imported_by(command, threads=1) == {
        "torchvision": 0,
        "timm": 1,
        "transformers": 0,
        "hotcoco": 0,
    }


@pytest.mark.parametrize(
    "command", [*startup.import_commands()[:1], *startup.help_commands()[:1]], ids=lambda c: c.name
)
def test_our_own_import_none_of_them(command):
    assert not any(startup.imported_by(command, threads=1).values())


def test_a_command_that_fails_is_named_by_its_last_line():
    with pytest.raises(CommandError, match=r"^ValueError: what is wrong$"):
        startup.imported_by(FAILING, threads=1)
    silent = Command("silent", ("-c", "import sys; sys.exit(3)"))
    with pytest.raises(CommandError, match=r"^exit status 3$"):
        startup.imported_by(silent, threads=1)


def test_turns_are_taken_in_fresh_processes(tmp_path):
    log = tmp_path / "log"

    def writing(name):
        code = f"import os; open({str(log)!r}, 'a').write(f'{name} {{os.getpid()}}\\n')"
        return Command(name, ("-c", code))

    results = startup.measure("title", [writing("a"), writing("b")], 2, 1, threads=1)
    lines = [line.split() for line in log.read_text().splitlines()]
    # one run each to see what they import, then warm-up and two rounds, each begun by another
    assert [name for name, _ in lines] == ["a", "b", "a", "b", "b", "a", "a", "b"]
    assert len({process for _, process in lines}) == len(lines)
    assert results.ours == "a"
    assert results.rounds == 2
    assert all(timing.seconds > 0 for timings in results.timings.values() for timing in timings)


def test_a_peer_that_fails_is_left_out_with_its_reason():
    results = startup.measure("title", [NOTHING, FAILING], 1, 0, threads=1)
    assert list(results.timings) == ["nothing"]
    assert results.missing == {"failing": "it fails here: ValueError: what is wrong"}


def test_our_own_command_must_not_fail():
    with pytest.raises(CommandError, match="what is wrong"):
        startup.measure("title", [FAILING, NOTHING], 1, 0, threads=1)


@pytest.mark.parametrize(("rounds", "warmup"), [(0, 1), (1, -1)])
def test_there_must_be_rounds(rounds, warmup):
    with pytest.raises(BenchmarkError, match=f"rounds={rounds} must be at least 1"):
        startup.measure("title", [NOTHING], rounds, warmup, threads=1)


def test_what_is_added_to_torch_is_the_median_of_differences_within_rounds():
    timings = {
        startup.TORCH: [Timing(s, None) for s in (2.0, 3.0, 4.0)],
        startup.TORCH_AND_OURS: [Timing(s, None) for s in (2.25, 3.125, 5.0)],
    }
    line = startup.more_than_torch(Results("", timings))
    assert "0.250 s more than import torch" in line
    assert "0.125 to 1.000" in line


def test_the_report_has_both_tables(monkeypatch):
    code = ("-c", "pass")
    names = ("ours", startup.TORCH, startup.TORCH_AND_OURS)
    monkeypatch.setattr(startup, "import_commands", lambda: [Command(n, code) for n in names])
    monkeypatch.setattr(startup, "help_commands", lambda: [NOTHING, FAILING])
    args = argparse.Namespace(rounds=1, warmup=0, threads=1)
    text = startup.compare(args).text()
    assert "Imports" in text
    assert "Command lines" in text
    assert "failing: left out, it fails here: ValueError: what is wrong" in text
    assert text.count("none") >= 4, text


def test_the_commands_are_ours_first():
    assert startup.import_commands()[0].name == "import mmconvnext"
    ours, theirs = startup.help_commands()
    assert ours.arguments[0].endswith("tools/train.py")
    assert ours.arguments[0] != theirs.arguments[0]
    assert {startup.TORCH, startup.TORCH_AND_OURS} <= {c.name for c in startup.import_commands()}
