"""The benchmark's command line; its comparisons have tests of their own."""

import json

import pytest

from benchmarks import roofline
from benchmarks.__main__ import main, parse_args
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


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("backbone", "--arch", "enormous"), "--arch: arch='enormous' is not a ConvNeXt variant"),
        (("backbone", "--shape", "16", "96"), "--shape 16 96 must be at least 32"),
        (("backbone", "--device", "nowhere"), "--device nowhere cannot be used"),
        (("scaling", "--threads", "1"), "--threads 1 must be at least 2"),
        (("scaling", "--parts", "backbone", "--out", __file__), "cannot be made: "),
        *(
            ((command, "--data-root", "nowhere"), "--data-root nowhere has no annotations/inst")
            for command in ("data", "detector", "eval", "scaling", "table3")
        ),
    ],
)
def test_mistakes_are_explained_before_anything_is_measured(capsys, arguments, words):
    threads = () if "--threads" in arguments else ("--threads", "2")
    assert main((*arguments, *threads)) == 1
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert words in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("nothing",), "invalid choice: 'nothing'"),
        (("backbone", "--peers", "nobody"), "invalid choice: 'nobody'"),
        ((), "required: COMMAND"),
        (("roofline", "--warmup", "-1"), "argument --warmup: -1 must be at least 0"),
        *(
            ((command, option, "0"), f"argument {option}: 0 must be at least 1")
            for command, option in (
                *(("roofline", "--rounds"), ("roofline", "--threads"), ("backbone", "--batch")),
                *(("data", "--images"), ("eval", "--detections")),
            )
        ),
    ],
)
def test_wrong_options(capsys, arguments, words):
    with pytest.raises(SystemExit) as raised:
        main(arguments)
    assert raised.value.code == 2
    assert words in capsys.readouterr().err


def test_prints_and_writes(capsys, tmp_path, monkeypatch):
    results = Results("limits", {"matrix product": [Timing(1.0)]})
    monkeypatch.setattr(roofline, "compare", lambda args: Report([results]))
    path = tmp_path / "roofline.json"
    assert main(["roofline", "--json", str(path), "--markdown"]) == 0
    out = capsys.readouterr().out
    assert "**limits**" in out
    assert f"written to {path}" in out
    assert json.loads(path.read_text())["tables"][0]["title"] == "limits"
