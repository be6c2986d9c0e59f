"""That the machine's limits can be measured, and candidates related to them."""

from __future__ import annotations

import pytest

from benchmarks import roofline
from benchmarks.comparison import Results
from benchmarks.report import Report
from benchmarks.worker import BenchmarkError, Timing
from tests.benchmarks.helpers import arguments, cells


def test_the_command_and_what_its_candidates_say_of_a_run(monkeypatch):
    monkeypatch.setattr(roofline, "SECONDS_EACH", 0.0)
    monkeypatch.setattr(roofline, "SECONDS_OF_RUN", 0.01)
    monkeypatch.setattr(roofline, "MATRICES", ((400, 32, 64),))
    monkeypatch.setattr(roofline, "COPIED_BYTES", 2**20)
    works = [{"operations": 2 * 400 * 32 * 64}] * 2 + [{"bytes": 2 * 2**20}] * 2

    def invented(candidates, args, title):
        results = Results(title, {})
        for each, work in zip(candidates, works, strict=True):
            kernel, calls = each.factory(**each.arguments), []
            facts = kernel.facts()
            kernel._kernel = lambda calls=calls: calls.append(1)
            kernel.run()
            assert facts == {fact: len(calls) * number for fact, number in work.items()}
            results.timings[each.name] = [Timing(2.0)]
            results.facts[each.name] = dict.fromkeys(facts, 2.0**38)
        return results

    monkeypatch.setattr(roofline, "run", invented)
    text = roofline.compare(arguments("roofline")).text()
    assert cells(text, "  ") == ["", "seconds", "GFLOP/s", "GiB/s, read + written"]
    float32 = "matrix product, float32"
    assert cells(text, float32) == [float32, "2", "137", "-"]
    assert cells(text, "copy into a new") == ["copy into a new one", "2", "-", "128.0"]


def test_devices():
    assert roofline.choose_device() in ("cpu", "cuda")
    with pytest.raises(BenchmarkError, match=r"--device nowhere cannot be used: .*; --device cpu"):
        roofline.choose_device("nowhere")


def test_a_slower_machine_in_a_round_counts_in_that_round():
    seconds = {"ours": (1.0, 2.0, 4.0), "theirs": (2.0, 2.0, 2.0), roofline.GEMM: (1.0, 2.0, 4.0)}
    timings = {name: [Timing(each) for each in of] for name, of in seconds.items()}
    results = Results("title", timings, facts={name: {"operations": 1e11} for name in timings})
    results.facts[roofline.GEMM]["operations"] = 2e11
    text = Report([results], roofline.COLUMNS).text()
    assert [cells(text, name)[-2:] for name in timings] == [["50", "50%"]] * 2 + [["100", "100%"]]
