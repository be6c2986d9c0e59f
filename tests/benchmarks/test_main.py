"""The benchmark's command line; its comparisons have tests of their own in tests/benchmarks."""

import importlib
import json

import pytest

from benchmarks import roofline
from benchmarks.__main__ import COMMANDS, main, parse_args
from benchmarks.comparison import Results
from benchmarks.report import Report
from benchmarks.worker import Timing


@pytest.mark.parametrize("start", ["tools/benchmark.py", "-m benchmarks"])
def test_help_imports_nothing_heavy(repo, run_python, start):
    code = (
        "import atexit, runpy, sys\n"
        "heavy = {'torch', 'mmengine', 'numpy'}\n"
        "atexit.register(lambda: print(sorted(heavy & set(sys.modules))))\n"
        f"how, name = {start!r}.rpartition(' ')[::2]\n"
        "sys.argv = ['x', '--help']\n"
        "(runpy.run_module if how else runpy.run_path)(name, run_name='__main__')"
    )
    *lines, imported = run_python(code).strip().splitlines()
    assert imported == "[]"
    assert any(line.startswith("    backbone ") for line in lines)


@pytest.mark.parametrize(("old", "module"), [("growth", "scaling"), ("machine", "roofline")])
def test_old_names_work(old, module):
    assert parse_args([old]).module == module


def test_every_command_has_its_module():
    for module, _, _ in COMMANDS.values():
        found = importlib.import_module(f"benchmarks.{module}")
        assert callable(found.add_arguments)
        assert callable(found.compare)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("backbone", "--arch", "enormous"), "--arch: arch='enormous' is not a ConvNeXt variant"),
        (("backbone", "--device", "nowhere"), "--device nowhere cannot be used"),
        (("roofline", "--warmup", "-1"), "--warmup -1 must be at least 0"),
    ],
)
def test_mistakes_are_explained(capsys, arguments, words):
    assert main(arguments) == 1
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert words in err


@pytest.mark.parametrize("arguments", [("nothing",), ("backbone", "--peers", "nobody"), ()])
def test_unknown_choices(capsys, arguments):
    with pytest.raises(SystemExit) as raised:
        main(arguments)
    assert raised.value.code == 2
    assert "usage:" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "option"),
    [
        *(("roofline", "--rounds"), ("roofline", "--threads"), ("backbone", "--batch")),
        *(("detector", "--images"), ("data", "--images")),
        *(("eval", "--images"), ("eval", "--detections")),
    ],
)
def test_numbers_are_at_least_1(capsys, command, option):
    with pytest.raises(SystemExit):
        main((command, option, "0"))
    assert f"argument {option}: 0 must be at least 1" in capsys.readouterr().err


def test_prints_and_writes(capsys, tmp_path, monkeypatch):
    results = Results("limits", {"matrix product": [Timing(1.0, None)]})
    monkeypatch.setattr(roofline, "compare", lambda args: Report([results]))
    path = tmp_path / "roofline.json"
    assert main(["roofline", "--json", str(path), "--markdown"]) == 0
    out = capsys.readouterr().out
    assert "**limits**" in out
    assert f"written to {path}" in out
    assert json.loads(path.read_text())["tables"][0]["title"] == "limits"
