"""What the machine is, and that its limits can be measured."""

from __future__ import annotations

import json

import pytest

from benchmarks import report, roofline
from benchmarks.comparison import BenchmarkError, Results, Timing
from benchmarks.report import Report


def test_description():
    facts = report.describe()
    assert facts["cores"] >= 1
    assert facts["memory_gib"] > 0
    assert facts["packages"]["torch"]
    assert "no-such-package" not in facts["packages"]
    json.dumps(facts)


def test_peers_have_versions_too(tmp_path, monkeypatch):
    info = tmp_path / "library" / "some_library-1.2.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: some-library\nVersion: 1.2\n")
    monkeypatch.setattr(report, "PEERS", tmp_path)
    assert report.version("some-library") == "1.2"
    assert report.version("no-such-library") is None


def test_kernels_are_measured(monkeypatch):
    monkeypatch.setattr(roofline, "SECONDS_EACH", 0.0)
    monkeypatch.setattr(roofline, "MATRICES", ((400, 32, 64),))
    monkeypatch.setattr(roofline, "COPIED_BYTES", 2**20)
    speeds = roofline.Kernels("cpu").facts()
    assert set(speeds) == {"float32", "bfloat16", "into an existing buffer", "into a new one"}
    assert all(speed > 0 for speed in speeds.values())


def test_a_turn_of_matrix_products(monkeypatch):
    monkeypatch.setattr(roofline, "SECONDS_EACH", 0.0)
    monkeypatch.setattr(roofline, "SECONDS_OF_RUN", 0.01)
    monkeypatch.setattr(roofline, "MATRICES", ((400, 32, 64),))
    module, name = roofline.reference("cpu", "float32").factory.split(":")
    assert (module, name) == (roofline.__name__, "Gemm")
    gemm = roofline.Gemm("cpu", "float32")
    facts, calls = gemm.facts(), []
    gemm._product = gemm._product._replace(run=lambda: calls.append(1))
    gemm.run()
    assert facts == {"operations": len(calls) * 2 * 400 * 32 * 64}


def test_limits_are_shown():
    limits = roofline.Limits({"float32": 1e11}, {"into a new one": 2 * 2**30}, "cpu", threads=2)
    text = limits.text(markdown=True)
    assert "matrix products (cpu, 2 threads), best moment: float32 100 GFLOP/s" in text
    assert "into a new one 2.0 GiB/s" in text
    assert all(line.startswith("- ") for line in text.splitlines())
    assert limits.to_json()["gemm_flops"] == {"float32": 1e11}


def test_devices():
    assert roofline.choose_device("cpu") == "cpu"
    assert roofline.choose_device() in ("cpu", "cuda")
    with pytest.raises(BenchmarkError, match=r"--device nowhere cannot be used: .*; --device cpu"):
        roofline.choose_device("nowhere")


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
    roofline.relate(results)
    return results


def test_the_median_of_the_shares_within_rounds(results):
    assert results.facts["ours"]["flops_per_second"] == pytest.approx(5e10)
    assert results.facts["ours"]["share_of_gemm"] == pytest.approx(0.25)
    assert results.facts["theirs"]["share_of_gemm"] == pytest.approx(0.25)


def test_a_slower_machine_in_a_round_counts_in_that_round(results):
    results.reference = [Timing(seconds, None) for seconds in (1.0, 2.0, 4.0)]
    roofline.relate(results)
    assert results.facts["ours"]["share_of_gemm"] == pytest.approx(0.5)


def test_the_columns_and_their_note(results):
    text = Report([results], roofline.COLUMNS, [roofline.note([results])]).text()
    ours = next(line for line in text.splitlines() if line.startswith("ours"))
    assert ours.split()[-2:] == ["50", "25%"]
    assert "which reached 200 GFLOP/s" in text
