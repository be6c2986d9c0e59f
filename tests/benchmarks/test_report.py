"""Tables and JSON of invented results."""

from __future__ import annotations

import json

import pytest

from benchmarks.comparison import Results, Timing
from benchmarks.report import MIB, Column, Report, titled


@pytest.fixture
def results() -> Results:
    return Results(
        title="a comparison",
        timings={
            "ours": [Timing(1.0, 10 * MIB), Timing(2.0, 12 * MIB), Timing(1.0, 11 * MIB)],
            "peer": [Timing(1.5, None), Timing(4.0, None), Timing(3.0, None)],
        },
        distances={"peer": {"features": 1.25e-7}},
        facts={"ours": {"saved": 1.0}, "peer": {"saved": 3.0}},
        missing={"other": "library is not installed"},
        threads=2,
    )


def test_text(results):
    column = Column("saved", lambda r, name: f"{r.facts[name]['saved']:.1f}")
    lines = Report([results], [column], ["a note"]).text().splitlines()
    assert lines[0] == "a comparison"
    assert lines[1].split()[:5] == ["seconds", "time", "/", "ours", "spread"]
    assert lines[3].split() == ["ours", "1", "1.00", "-", "12", "-", "1.0"]
    assert " ".join(lines[4].split()) == "peer 3 2.00 1.50 to 3.00 - features 1.2e-07 3.0"
    assert lines[5] == "other: left out, library is not installed"
    assert lines[7] == "a note"
    conditions = "\n".join(lines[8:])
    assert "2 threads each, 3 rounds; " in conditions
    for fact in ("cores", "GPU: ", "torch ", "numpy ", "mmconvnext ", "Python 3."):
        assert fact in conditions


def test_markdown(results):
    lines = Report([results, results]).text(markdown=True).splitlines()
    assert lines[0] == "**a comparison**"
    assert lines[1] == ""
    assert lines[3].startswith("| ---")
    assert lines[3].endswith("-: |")
    assert {line.count("|") for line in lines[2:6]} == {7}
    assert lines.count("**a comparison**") == 2
    assert lines[-1].startswith("- ")


def test_a_disturbed_comparison_says_so(results):
    assert "disturbed" not in Report([results]).text()
    results.timings["peer"][0] = Timing(1.5, None, others_seconds=0.1)
    assert "disturbed" not in Report([results]).text()
    results.timings["peer"][1] = Timing(0.5, None, others_seconds=0.5)
    assert "disturbed: other processes kept 0.3 cores busy" in Report([results]).text()
    assert Report([results]).to_json()["tables"][0]["cores_busy_with_others"] == 0.3


def test_several_distances_are_named(results):
    results.distances["peer"] = {"features": 1e-7, "gradients": 2e-6}
    assert "features 1.0e-07, gradients 2.0e-06" in Report([results]).text()


def test_json(results):
    written = json.loads(json.dumps(Report([results], notes=["a note"]).to_json()))
    assert written["notes"] == ["a note"]
    assert {"processor", "cores", "packages", "git_revision", "date"} <= set(written["conditions"])
    (table,) = written["tables"]
    assert table["missing"] == {"other": "library is not installed"}
    ours, peer = table["candidates"]
    assert ours["peak_bytes"] == 12 * MIB
    assert peer["median_ratio"] == 2
    assert (peer["min_ratio"], peer["max_ratio"]) == (1.5, 3)
    assert peer["distances"] == {"features": 1.25e-7}
    assert peer["timings"][1] == {"seconds": 4.0, "peak_bytes": None, "others_seconds": None}


def test_rows_are_aligned():
    rows = [["", "n"], ["long name", "1"], ["b", "2000"]]
    assert titled("title", rows, markdown=False).splitlines() == [
        "title",
        "              n",
        "---------  ----",
        "long name     1",
        "b          2000",
    ]
