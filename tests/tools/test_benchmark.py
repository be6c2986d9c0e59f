"""The benchmark's command line; its comparisons have tests of their own in tests/benchmarks."""

import importlib
import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from types import ModuleType

import pytest

from benchmarks import roofline


@pytest.fixture
def tool(repo) -> ModuleType:
    """The tool in this process: it starts more quickly."""
    spec = importlib.util.spec_from_file_location("benchmark_tool", repo / "tools/benchmark.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def main(tool) -> Callable[..., int]:
    """Call the tool with arguments."""
    return lambda *arguments: tool.main([str(argument) for argument in arguments])


def test_help_imports_nothing_heavy(repo):
    code = (
        "import runpy, sys\n"
        "sys.argv = ['benchmark.py', '--help']\n"
        "try:\n"
        "    runpy.run_path('tools/benchmark.py', run_name='__main__')\n"
        "except SystemExit:\n"
        "    print(sorted({'torch', 'mmengine', 'numpy'} & set(sys.modules)))"
    )
    process = subprocess.run(
        [sys.executable, "-c", code], cwd=repo, capture_output=True, text=True, check=True
    )
    *lines, imported = process.stdout.strip().splitlines()
    assert imported == "[]"
    assert any(line.startswith("    backbone ") for line in lines)


def test_every_command_has_its_module(tool):
    for module, _ in tool.COMMANDS.values():
        module = importlib.import_module(f"benchmarks.{module}")
        assert callable(module.add_arguments)
        assert callable(module.compare)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("backbone", "--arch", "enormous"), "--arch: arch='enormous' is not a ConvNeXt variant"),
        (("backbone", "--device", "nowhere"), "--device nowhere cannot be used"),
        (("roofline", "--threads", "0"), "threads=0 must be at least 1"),
    ],
)
def test_mistakes_are_explained(main, capsys, arguments, words):
    assert main(*arguments) == 1
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert words in err


@pytest.mark.parametrize("arguments", [("nothing",), ("backbone", "--peers", "nobody"), ()])
def test_unknown_choices(main, capsys, arguments):
    with pytest.raises(SystemExit) as raised:
        main(*arguments)
    assert raised.value.code == 2
    assert "usage:" in capsys.readouterr().err


def test_prints_and_writes(main, capsys, tmp_path, monkeypatch):
    limits = roofline.Limits({"float32": 1e11}, {"anywhere": 2.0**30}, "cpu", threads=1)
    monkeypatch.setattr(roofline, "measure", lambda device, threads: limits)
    path = tmp_path / "roofline.json"
    assert main("roofline", "--device", "cpu", "--json", path, "--markdown") == 0
    out, err = capsys.readouterr()
    assert "matrix products (cpu, 1 threads), best moment: float32 100 GFLOP/s" in out
    assert f"written to {path}" in err
    assert json.loads(path.read_text())["gemm_flops"] == {"float32": 1e11}
