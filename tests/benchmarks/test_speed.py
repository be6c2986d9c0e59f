"""Speeds beside that of the machine's matrix product."""

from __future__ import annotations

import pytest

from benchmarks import speed
from benchmarks.comparison import Results, Timing
from benchmarks.report import Report


@pytest.fixture
def results() -> Results:
    """Ours takes 1, 2 and 4 s for 1e11 operations, and the matrix product 1 s, 1 s and 1 s."""
    timings = {
        "ours": [Timing(seconds, None) for seconds in (1.0, 2.0, 4.0)],
        "theirs": [Timing(seconds, None) for seconds in (2.0, 2.0, 2.0)],
    }
    results = Results("title", timings, facts={name: {"flops": 1e11} for name in timings})
    results.reference = [Timing(1.0, None)] * 3
    results.reference_facts = {"operations": 2e11}
    speed.relate_to_gemm(results)
    return results


def test_the_median_of_the_shares_within_rounds(results):
    assert results.facts["ours"]["flops_per_second"] == pytest.approx(5e10)
    assert results.facts["ours"]["share_of_gemm"] == pytest.approx(0.25)
    assert results.facts["theirs"]["share_of_gemm"] == pytest.approx(0.25)


def test_a_slower_machine_in_a_round_counts_in_that_round(results):
    results.reference = [Timing(seconds, None) for seconds in (1.0, 2.0, 4.0)]
    speed.relate_to_gemm(results)
    assert results.facts["ours"]["share_of_gemm"] == pytest.approx(0.5)


def test_the_columns_and_their_note(results):
    text = Report([results], speed.columns(), [speed.note([results])]).text()
    ours = next(line for line in text.splitlines() if line.startswith("ours"))
    assert ours.split()[-2:] == ["50", "25%"]
    assert "which reached 200 GFLOP/s" in text
