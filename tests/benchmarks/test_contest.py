"""Contests of dummies, in real processes."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from benchmarks import contest
from benchmarks.contest import (
    BenchmarkError,
    DisagreementError,
    NotInstalledError,
    Process,
    Results,
    Turn,
    close_to,
    run,
)


def test_contestants_take_turns(dummy, capfd):
    slow = dummy("slow", seconds=0.2, offset=1e-9)
    absent = dummy("absent", module="no_such_library.part")
    results = run(
        [dummy("ours"), slow, absent],
        rounds=3,
        warmup=1,
        agree=close_to(1e-4),
        title="dummies",
        threads=1,
    )
    assert results.title == "dummies"
    assert list(results.turns) == ["ours", "slow"]
    assert results.ours == "ours"
    assert [len(turns) for turns in results.turns.values()] == [3, 3]
    assert results.missing == {"absent": "no_such_library is not installed"}
    assert set(results.distances) == {"slow"}
    assert 0 < results.distances["slow"]["sum"] < 1e-8
    assert results.distances["slow"]["environment"] == 0
    assert results.facts["ours"] == {"runs": 0, "threads_OMP_NUM_THREADS": 1}  # before any turn
    assert results.median_seconds("slow") >= 0.2
    out, err = capfd.readouterr()
    assert out == ""  # what workers print stays with them
    assert "absent is left out: no_such_library is not installed" in err
    assert "round 3 of 3 done, about 0 s left" in err


def test_who_begins_changes():
    log = []

    class Logged:
        def __init__(self, name):
            self.name = name

        def turn(self):
            log.append(self.name)
            return Turn(len(log), None)

    turns = contest._take_turns([Logged("a"), Logged("b"), Logged("c")], rounds=2, warmup=1)
    assert "".join(log) == "abc" + "bca" + "cab"
    assert [turn.seconds for turn in turns["a"]] == [6, 8]  # without warm-up


def test_ratios_are_those_within_a_round():
    # The machine is twice as slow in the second round: the ratio is not.
    turns = {"ours": [1.0, 2.0, 1.0], "peer": [3.0, 6.0, 4.0]}
    results = Results("", {k: [Turn(s, i) for i, s in enumerate(v)] for k, v in turns.items()})
    assert results.ratios("peer") == [3, 3, 4]
    assert results.median_ratio("peer") == 3
    assert results.median_seconds("peer") == 4
    assert results.peak_bytes("peer") == 2
    assert Results("", {"ours": [Turn(1.0, None)]}).peak_bytes("ours") is None


def test_disagreement_comes_before_timing(dummy):
    other = dummy("other", offset=0.01, fails_in="run")
    with pytest.raises(DisagreementError, match=r"other and ours disagree about sum: .* 0\.0053"):
        run([dummy("ours", fails_in="run"), other], agree=close_to(1e-4), threads=1)


def test_a_failing_run_names_the_contestant(dummy):
    with pytest.raises(BenchmarkError, match=r"(?s)bad failed:.*ZeroDivisionError: .* in run"):
        run([dummy("ours"), dummy("bad", fails_in="run")], threads=1)


@pytest.mark.parametrize("place", ["build", "check"])
def test_failures_arrive_with_their_traceback(dummy, place):
    with (
        Process(dummy("bad", fails_in=place)) as process,
        pytest.raises(BenchmarkError, match=rf"(?s)bad failed:.*dummies\.py.*fails in {place}"),
    ):
        process.check()


def test_a_killed_worker_is_named(dummy):
    with (
        Process(dummy("bad", fails_in="killed")) as process,
        pytest.raises(BenchmarkError, match="bad was ended by SIGKILL, as for lack of memory"),
    ):
        process.turn()


def test_a_worker_that_exits_is_named_and_not_asked_again(dummy):
    with Process(dummy("bad", fails_in="exit")) as process:
        for _ in range(2):
            with pytest.raises(BenchmarkError, match=r"(?s)exit status 3:.*the last words of this"):
                process.turn()


def test_ours_must_be_installed(dummy):
    with pytest.raises(NotInstalledError, match="ours is left out: no_such_library is not inst"):
        run([dummy("ours", module="no_such_library"), dummy("other")], threads=1)


def test_a_missing_factory_is_no_missing_library(dummy):
    ours = "benchmarks.no_such_room:Factory"
    for factory in (ours, "dummies:Nobody"):
        with (
            Process(dummy("bad", factory)) as process,
            pytest.raises(BenchmarkError, match="bad failed") as raised,
        ):
            process.wait_until_built()
        assert not isinstance(raised.value, NotInstalledError)


def test_memory_is_that_of_the_turn(dummy):
    with Process(dummy("large", memory=200)) as process:
        process.check()
        peaks = [process.turn().peak_bytes for _ in range(2)]
    if None in peaks:
        pytest.skip("this system does not tell a process's peak memory")
    assert all(180 < peak / 2**20 < 260 for peak in peaks)


def test_a_reference_takes_turns_but_is_not_compared(dummy):
    beside = dummy("machine", "dummies:Plain")  # has nothing to compare
    contestants = [dummy("ours"), dummy("peer")]
    results = run(contestants, 2, 1, close_to(1e-4), threads=1, reference=beside)
    assert list(results.turns) == ["ours", "peer"]
    assert list(results.facts) == ["ours", "peer"]
    assert list(results.distances) == ["peer"]
    assert len(results.reference) == 2
    assert results.reference_facts == {}


def test_what_others_take_is_noticed(dummy):
    with Process(dummy("sleeper", seconds=0.6)) as process:
        process.turn()
        spin = "import time\nwhile time.process_time() < 5: pass"
        other = subprocess.Popen([sys.executable, "-c", spin])
        turn = process.turn()
        other.kill()
        other.wait()
    if turn.others_seconds is None:
        pytest.skip("this system does not tell what processes take")
    assert turn.others_seconds > 0.1


def test_check_and_facts_may_be_missing(dummy):
    results = run([dummy("plain", "dummies:Plain")], rounds=1, warmup=0, threads=1)
    assert results.facts == {"plain": {}}
    assert results.distances == {}


def test_wrong_arguments(dummy):
    with pytest.raises(BenchmarkError, match="rounds=0 must be at least 1"):
        run([dummy("ours")], rounds=0)
    with pytest.raises(BenchmarkError, match="names of their own"):
        run([dummy("ours"), dummy("ours")])
    with pytest.raises(BenchmarkError, match="names of their own"):
        run([])
    with pytest.raises(BenchmarkError, match="threads=0 must be at least 1"):
        run([dummy("ours")], threads=0)


def test_agreement_of_arrays():
    ours = {"a 1": np.ones(3), "a 2": np.full(1, 100.0)}
    theirs = {"a 1": np.full(3, 1.01), "a 2": np.full(1, 100.0)}

    def label(name):
        return name[0]

    assert close_to(0.1, label)("x", ours, theirs)["a"] == pytest.approx(0.01)
    together = close_to(1e-3, label, together=True)("x", ours, theirs)["a"]
    assert together == pytest.approx((3 * 0.01**2 / (3 + 100**2)) ** 0.5)
    with pytest.raises(DisagreementError, match="x and ours disagree about a 1"):
        close_to(1e-3, label)("x", ours, theirs)


@pytest.mark.parametrize(
    ("theirs", "words"),
    [
        ({"a": np.array([np.nan, 1.0])}, "distance is nan"),
        ({"a": np.ones(3)}, r"shape is \(3,\), ours \(2,\)"),
        ({"b": np.ones(2)}, r"only ours \['a'\], only x \['b'\]"),
    ],
)
def test_wrong_arrays_disagree(theirs, words):
    with pytest.raises(DisagreementError, match=words):
        close_to(1.0)("x", {"a": np.ones(2)}, theirs)
