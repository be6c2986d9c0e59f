"""Comparisons of dummies, in real processes."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from benchmarks import worker
from benchmarks.comparison import Results, UnequalResultsError, alternate, close_to, run
from benchmarks.worker import BenchmarkError, NotInstalledError, Process, Timing
from tests.benchmarks.helpers import MIB, arguments, dummy

ONCE = arguments("roofline")
ABSENT = dummy("absent", module="no_such_library.part")


def test_candidates_alternate(capfd):
    slow = dummy("slow", seconds=0.2, offset=1e-9)
    candidates = [dummy("ours"), slow, ABSENT, dummy("gemm", compared=False, fails_in="check")]
    args = arguments("roofline", "--rounds", 3, "--warmup", 1)
    results = run(candidates, args, close_to(1e-4), "dummies")
    assert results.title == "dummies"
    assert list(results.timings) == ["ours", "slow", "gemm"]
    assert results.ours == "ours"
    assert [len(timings) for timings in results.timings.values()] == [3, 3, 3]
    assert results.missing == {"absent": "No module named 'no_such_library'"}
    assert set(results.distances) == {"slow"}
    assert 0 < results.distances["slow"]["sum"] < 1e-8
    assert results.distances["slow"]["environment"] == 0
    assert results.facts["ours"] == {"runs": 0, "threads": 2, "known": 1}  # before any timing
    assert results.median_seconds("slow") >= 0.2
    out, err = capfd.readouterr()
    assert out == ""  # what workers print stays with them
    assert "absent is left out: No module named 'no_such_library'" in err
    assert "round 3 of 3 done, about 0 s left" in err


def test_who_begins_changes():
    log = []

    def timing(name):
        log.append(name)
        return Timing(len(log))

    timings = alternate({n: lambda n=n: timing(n) for n in "abc"}, rounds=2, warmup=1)
    assert "".join(log) == "abc" + "bca" + "cab"
    assert [timing.seconds for timing in timings["a"]] == [6, 8]  # without warm-up


def test_ratios_are_those_within_a_round():
    # The machine is twice as slow in the second round: the ratio is not.
    timings = {"ours": [1.0, 2.0, 1.0], "peer": [3.0, 6.0, 4.0]}
    results = Results("", {k: [Timing(s, i) for i, s in enumerate(v)] for k, v in timings.items()})
    assert results.ratios("peer") == [3, 3, 4]
    assert results.median_ratio("peer") == 3
    assert results.median_seconds("peer") == 4
    assert results.ratios("ours", base="peer") == [1 / 3, 1 / 3, 1 / 4]
    assert results.peak_bytes("peer") == 2
    assert Results("", {"ours": [Timing(1.0)]}).peak_bytes("ours") is None


@pytest.mark.parametrize(
    ("candidates", "error", "words"),
    [
        (
            [dummy("ours", fails_in="run"), dummy("other", offset=0.01, fails_in="run")],
            *(UnequalResultsError, r"other and ours differ in sum: .* 0\.0053"),
        ),
        *(
            (
                [dummy("bad", fails_in=place), dummy("other")],
                *(BenchmarkError, rf"(?s)bad failed:.*helpers\.py.*fails in {place}"),
            )
            for place in ("build", "check", "run")
        ),
        (
            [ABSENT, dummy("other")],
            NotInstalledError,
            "absent cannot run: No module named",
        ),
    ],
)
def test_a_comparison_fails_with_a_reason(candidates, error, words):
    with pytest.raises(error, match=words):
        run(candidates, ONCE, close_to(1e-4))


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("killed", "bad was ended by SIGKILL, as for lack of memory"),
        ("exit", "(?s)exit status 3:.*the last words of this"),
    ],
)
def test_a_process_that_ends_is_named_and_not_asked_again(place, words):
    with Process(dummy("bad", fails_in=place), 1) as process:
        for _ in range(2):
            with pytest.raises(BenchmarkError, match=words):
                process.timing()


def test_memory_and_others_are_those_of_the_timing():
    with Process(dummy("large", memory=200, seconds=0.6), 1) as process:
        process.call("check")
        spin = "import time\nwhile time.process_time() < 5: pass"
        other = subprocess.Popen([sys.executable, "-c", spin])
        timings = [process.timing() for _ in range(2)]
        other.kill()
        other.wait()
    if None in (*timings[0], *timings[1]):
        pytest.skip("this system does not tell what processes take")
    assert all(180 < timing.peak_bytes / MIB < 260 for timing in timings)
    assert all(timing.others_seconds > 0.1 for timing in timings)


def test_where_the_system_does_not_tell(monkeypatch):
    class Elsewhere(type(worker.Path())):
        def read_text(self, *_):
            raise FileNotFoundError

        write_text = read_text

    monkeypatch.setattr(worker, "Path", Elsewhere)
    monkeypatch.setattr(worker, "_candidate", dummy("here").factory())
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert worker._call("facts")["runs"] == 0
    timing = worker._timing()
    assert (timing.peak_bytes, timing.others_seconds) == (None, None)


def test_equality_of_arrays():
    ours = {"a 1": np.ones(3), "a 2": np.full(1, 100.0)}
    theirs = {"a 1": np.full(3, 1.01), "a 2": np.full(1, 100.0)}
    assert close_to(0.1)("x", ours, theirs) == {"a": pytest.approx(0.01)}
    together = close_to(1e-3, together=True)("x", ours, theirs)
    assert together == {"a": pytest.approx((3 * 0.01**2 / (3 + 100**2)) ** 0.5)}
    with pytest.raises(UnequalResultsError, match="x and ours differ in a 1"):
        close_to(1e-3)("x", ours, theirs)


@pytest.mark.parametrize(
    ("theirs", "words"),
    [
        ({"a": np.array([np.nan, 1.0])}, "distance is nan"),
        ({"a": np.ones(3)}, r"in a: its shape is \(3,\), ours \(2,\)"),
        ({"b": np.ones(2)}, r"in a: its shape is None, ours \(2,\)"),
    ],
)
def test_wrong_arrays_differ(theirs, words):
    with pytest.raises(UnequalResultsError, match=words):
        close_to(1.0)("x", {"a": np.ones(2)}, theirs)


def test_a_peer_does_not_see_the_folders_of_others(monkeypatch, tmp_path):
    """A spawned process has the path of its parent, which may have looked into another peer's."""
    own, other = (str(worker.PEERS / name) for name in ("mmpretrain", "transformers"))
    monkeypatch.setattr(sys, "path", [*sys.path, other])
    monkeypatch.setattr(os, "dup2", lambda *descriptors: None)
    worker.start_worker(str(tmp_path / "log"), [own])
    assert sys.path[0] == own
    assert other not in sys.path
