"""That the machine's limits can be measured, and candidates related to them."""

from __future__ import annotations

import argparse

import pytest

from benchmarks import roofline
from benchmarks.comparison import Results
from benchmarks.report import Report
from benchmarks.worker import BenchmarkError, Timing


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(roofline, "SECONDS_EACH", 0.0)
    monkeypatch.setattr(roofline, "SECONDS_OF_RUN", 0.01)
    monkeypatch.setattr(roofline, "MATRICES", ((400, 32, 64),))
    monkeypatch.setattr(roofline, "COPIED_BYTES", 2**20)


@pytest.mark.parametrize(
    ("factory", "arguments", "each"),
    [
        *((roofline.Gemm, [dtype], {"operations": 2 * 400 * 32 * 64}) for dtype in roofline.DTYPES),
        *((roofline.Copy, [is_new], {"bytes": 2 * 2**20}) for is_new in (False, True)),
    ],
)
def test_facts_are_those_of_a_run(factory, arguments, each):
    kernel, calls = factory("cpu", *arguments), []
    facts = kernel.facts()
    kernel._kernel = lambda: calls.append(1)
    kernel.run()
    assert facts == {fact: len(calls) * number for fact, number in each.items()}


def test_the_command(monkeypatch):
    def invented(candidates, title, **_):
        results = Results(title, {})
        for each in candidates:
            is_copy = each.factory is roofline.Copy
            results.timings[each.name] = [Timing(2.0, None)]
            results.facts[each.name] = {"bytes" if is_copy else "operations": 2.0**38}
        return results

    monkeypatch.setattr(roofline, "run", invented)
    args = argparse.Namespace(device="cpu", rounds=1, warmup=0, threads=1)
    rows = roofline.compare(args).text(markdown=True).splitlines()
    cells = [[cell.strip() for cell in row.split("|")[1:-1]] for row in rows[2:8]]
    assert cells[0] == ["", "seconds", "GFLOP/s", "GiB/s, read + written"]
    assert cells[2] == ["matrix product, float32", "2", "137", "-"]
    assert cells[5] == ["copy into a new one", "2", "-", "128.0"]


def test_devices():
    assert roofline.choose_device("cpu") == "cpu"
    assert roofline.choose_device() in ("cpu", "cuda")
    with pytest.raises(BenchmarkError, match=r"--device nowhere cannot be used: .*; --device cpu"):
        roofline.choose_device("nowhere")


def test_a_slower_machine_in_a_round_counts_in_that_round():
    seconds = {"ours": (1.0, 2.0, 4.0), "theirs": (2.0, 2.0, 2.0), roofline.GEMM: (1.0, 2.0, 4.0)}
    timings = {name: [Timing(each, None) for each in of] for name, of in seconds.items()}
    results = Results("title", timings, facts={name: {"operations": 1e11} for name in timings})
    results.facts[roofline.GEMM]["operations"] = 2e11
    rows = Report([results], roofline.COLUMNS).text().splitlines()
    assert [[cell.strip() for cell in row.split("|")[-3:-1]] for row in rows[4:7]] == [
        ["50", "50%"],
        ["50", "50%"],
        ["100", "100%"],
    ]
