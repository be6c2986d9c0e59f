"""Commands in fresh processes."""

import pytest

from benchmarks import startup
from benchmarks.comparison import Results
from benchmarks.startup import Command, measure
from benchmarks.worker import BenchmarkError, NotInstalledError, Timing
from tests.benchmarks.helpers import arguments

FAILING = ("-c", "print('x'); raise ValueError('what is wrong')")


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
    "command", [["-c", startup.IMPORTS[0]], [str(startup.ROOT / "tools/train.py"), "--help"]]
)
def test_our_own_import_none_of_them(command):
    assert not any(Command(command).facts().values())


def test_failures_are_named(tmp_path):
    with pytest.raises(NotInstalledError, match=r"^it fails here: exit status 3$"):
        Command(["-c", "import sys; sys.exit(3)"])
    later = Command(["-c", f"open({str(tmp_path / 'once')!r}, 'x')"])
    with pytest.raises(RuntimeError, match="FileExistsError"):
        later.run()
    words = "failing cannot run: it fails here: ValueError: what is"
    with pytest.raises(BenchmarkError, match=words):
        measure("title", {"failing": FAILING, "nothing": ("-c", "pass")}, arguments("startup"))


def test_each_run_is_a_fresh_process(tmp_path):
    log = tmp_path / "log"
    commands = {
        name: ("-c", f"import os; open({str(log)!r}, 'a').write(f'{name} {{os.getpid()}}\\n')")
        for name in "ab"
    }
    args = arguments("startup", "--rounds", 2, "--warmup", 1)
    results = measure("title", {**commands, "failing": FAILING}, args)
    lines = [line.split() for line in log.read_text().splitlines()]
    # one run each to see what they import, then warm-up and two rounds, each begun by another
    assert sorted(name for name, _ in lines[:2]) == ["a", "b"]
    assert [name for name, _ in lines[2:]] == ["a", "b", "b", "a", "a", "b"]
    assert len({process for _, process in lines}) == len(lines)
    assert results.peak_bytes("a") is None
    assert results.missing == {"failing": "it fails here: ValueError: what is wrong"}


def test_the_report(monkeypatch):
    """Both tables, and what is added to torch: the median of differences within rounds."""

    def invented(candidates, args, title):
        seconds = {startup.TORCH: (2.0, 3.0, 4.0), startup.TORCH_AND_OURS: (2.25, 3.125, 5.0)}
        timings = {c.name: [*map(Timing, seconds.get(c.name, (1.0,) * 3))] for c in candidates}
        paths = {c.name: c.arguments["python_path"] for c in candidates}
        assert not any(path for name, path in paths.items() if "mmpretrain" not in name)
        facts = {name: {"timm": 1.0, "hotcoco": 0.0} for name in timings}
        facts[startup.TORCH] = {"timm": 0.0}
        return Results(title, timings, facts=facts)

    monkeypatch.setattr(startup, "run", invented)
    text = startup.compare(arguments("startup")).text()
    assert "Imports\n" in text
    assert "Command lines\n" in text
    assert text.count(" timm |") == len(startup.IMPORTS) - 1 + len(startup.TOOLS)
    assert text.count(" none |") == 1
    assert "0.250 s more than import torch (median over the rounds; 0.125 to 1.000)" in text
