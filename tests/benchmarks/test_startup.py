"""Commands in fresh processes."""

import argparse

import pytest

from benchmarks import startup
from benchmarks.comparison import Results
from benchmarks.startup import Command, command
from benchmarks.worker import BenchmarkError, NotInstalledError, Timing

NOTHING = command("nothing", "-c", "pass")
FAILING = command("failing", "-c", "print('x'); raise ValueError('what is wrong')")


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
    facts = Command(["-c", code], [str(tmp_path)]).facts()
    assert facts == {"torchvision": 0, "timm": 1, "transformers": 0, "hotcoco": 0}


@pytest.mark.parametrize(
    "arguments", [["-c", startup.IMPORTS[0]], [str(startup.ROOT / "tools/train.py"), "--help"]]
)
def test_our_own_import_none_of_them(arguments):
    assert not any(Command(arguments).facts().values())


def test_a_silent_failure_is_named_by_its_status():
    with pytest.raises(NotInstalledError, match=r"^it fails here: exit status 3$"):
        Command(["-c", "import sys; sys.exit(3)"])


def test_a_run_that_fails_says_what_it_wrote(tmp_path):
    fails_later = f"open({str(tmp_path / 'once')!r}, 'x')"
    with pytest.raises(RuntimeError, match="FileExistsError"):
        Command(["-c", fails_later]).run()


def test_each_run_is_a_fresh_process(tmp_path):
    log = tmp_path / "log"

    def writing(name):
        code = f"import os; open({str(log)!r}, 'a').write(f'{name} {{os.getpid()}}\\n')"
        return command(name, "-c", code)

    commands = [writing("a"), writing("b"), FAILING]
    results = startup.measure("title", commands, rounds=2, warmup=1, threads=1)
    lines = [line.split() for line in log.read_text().splitlines()]
    # one run each to see what they import, then warm-up and two rounds, each begun by another
    assert sorted(name for name, _ in lines[:2]) == ["a", "b"]
    assert [name for name, _ in lines[2:]] == ["a", "b", "b", "a", "a", "b"]
    assert len({process for _, process in lines}) == len(lines)
    assert results.ours == "a"
    assert results.peak_bytes("a") is None
    assert results.missing == {"failing": "it fails here: ValueError: what is wrong"}


def test_our_own_command_must_not_fail():
    with pytest.raises(
        BenchmarkError, match="failing cannot run: it fails here: ValueError: what is"
    ):
        startup.measure("title", [FAILING, NOTHING], rounds=1, warmup=0, threads=1)


def test_what_is_added_to_torch_is_the_median_of_differences_within_rounds():
    timings = {
        startup.TORCH: [Timing(s, None) for s in (2.0, 3.0, 4.0)],
        startup.TORCH_AND_OURS: [Timing(s, None) for s in (2.25, 3.125, 5.0)],
    }
    line = startup.more_than_torch(Results("", timings))
    assert "0.250 s more than import torch" in line
    assert "0.125 to 1.000" in line


def test_the_report_has_both_tables(monkeypatch, tmp_path):
    quick, failing = tmp_path / "quick.py", tmp_path / "failing.py"
    quick.touch()
    failing.write_text("raise ValueError('what is wrong')")
    monkeypatch.setattr(startup, "TORCH", "pass # torch")
    monkeypatch.setattr(startup, "TORCH_AND_OURS", "pass # both")
    monkeypatch.setattr(startup, "IMPORTS", ("pass", "pass # torch", "pass # both"))
    monkeypatch.setattr(startup, "TOOLS", {"quick": quick, "failing": failing})
    text = startup.compare(argparse.Namespace(rounds=1, warmup=0, threads=1)).text()
    assert "Imports" in text
    assert "Command lines" in text
    assert "failing: left out, it fails here: ValueError: what is wrong" in text
    assert text.count("none") >= 4, text
