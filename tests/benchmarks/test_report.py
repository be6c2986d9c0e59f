"""Tables and JSON of invented results."""

from __future__ import annotations

import json

import pytest

from benchmarks import report
from benchmarks.comparison import Results
from benchmarks.report import Report, fact_column
from benchmarks.worker import Timing
from tests.benchmarks.helpers import MIB, cells


@pytest.fixture
def results() -> Results:
    return Results(
        title="a comparison",
        timings={
            "ours": [Timing(1.0, 10 * MIB), Timing(2.0, 12 * MIB), Timing(1.0, 11 * MIB)],
            "peer": [Timing(1.5), Timing(4.0), Timing(3.0)],
        },
        distances={"peer": {"features": 1.25e-7, "gradients": 2e-6}},
        facts={"ours": {"saved": 1.0}, "peer": {}},
        missing={"other": "library is not installed"},
        threads=2,
    )


def test_text(results):
    columns = (
        *(fact_column("saved", "saved", 0.5), fact_column("absent", "absent")),
        fact_column("saved/s", "saved", form=".1f", per_second=True),
    )
    text = Report([results], columns, ["a note"]).text()
    lines = text.splitlines()
    assert lines[0] == "a comparison"
    names = ["seconds", "time / ours", "spread", "peak MiB", "distance from ours", "saved"]
    assert cells(text, "  ") == ["", *names, "saved/s"]
    assert cells(text, "ours") == ["ours", "1", "1.00", "-", "12", "-", "2", "1.0"]
    distances = "features 1.2e-07, gradients 2.0e-06"
    assert cells(text, "peer") == ["peer", "3", "2.00", "1.50 to 3.00", "-", distances, "-", "-"]
    assert lines[7] == "other: left out, library is not installed"
    assert lines[9] == "a note"
    conditions = "\n".join(lines[10:])
    assert "2 threads each, 3 rounds; " in conditions
    for fact in ("cores", "GPU: ", "torch ", "numpy ", "mmconvnext ", "Python 3."):
        assert fact in conditions
    # rows need not be compared
    assert "time / " not in (alone := Report([results], first="").text())
    assert "spread" not in alone


def test_markdown(results):
    lines = Report([results, results]).text(markdown=True).splitlines()
    assert lines[:2] == ["**a comparison**", ""]
    assert lines[3].startswith("|---")
    assert lines[3].endswith("-:|")
    assert {line.count("|") for line in lines[2:6]} == {7}
    assert lines.count("**a comparison**") == 2
    assert lines[-1].startswith("- ")


def test_a_disturbed_comparison_says_so(results):
    for others, is_disturbed in ((0.1, False), (0.75, True)):
        results.timings["peer"][0] = Timing(1.5, None, others)
        assert ("kept 0.5 cores busy" in Report([results]).text()) == is_disturbed
    assert Report([results]).to_json()["tables"][0]["cores_busy_with_others"] == 0.5


def test_json(results):
    written = json.loads(json.dumps(Report([results], notes=["a note"]).to_json()))
    assert written["notes"] == ["a note"]
    assert {"processor", "cores", "packages", "git_revision", "date"} <= set(written["conditions"])
    (table,) = written["tables"]
    assert table["missing"] == {"other": "library is not installed"}
    ours, peer = table["candidates"]
    assert ours["peak_bytes"] == 12 * MIB
    assert (peer["median_ratio"], peer["min_ratio"], peer["max_ratio"]) == (2, 1.5, 3)
    assert peer["distances"] == {"features": 1.25e-7, "gradients": 2e-6}
    assert ours["facts"] == {"saved": 1}
    assert peer["timings"][1] == {"seconds": 4.0, "peak_bytes": None, "others_seconds": None}


def test_versions_of_peers_in_folders_of_their_own_are_found(tmp_path, monkeypatch):
    info = tmp_path / "library" / "some_library-1.2.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: some-library\nVersion: 1.2\n")
    monkeypatch.setattr(report, "PEERS", tmp_path)
    assert report.version("some-library") == "1.2"
    assert report.version("no-such-library") is None
    assert report.describe()["packages"]["torch"]
