"""Tables and JSON of invented results."""

from __future__ import annotations

import json

import pytest

from benchmarks import report
from benchmarks.comparison import Results
from benchmarks.report import MIB, Column, Report, fact_column, rate_column
from benchmarks.worker import Timing


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


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.split("|")[1:-1]]


def test_text(results):
    column = Column("saved", lambda r, name: f"{r.facts[name]['saved']:.1f}")
    lines = Report([results], [column], ["a note"]).text().splitlines()
    assert lines[0] == "a comparison"
    assert cells(lines[2])[1:4] == ["seconds", "time / ours", "spread"]
    assert cells(lines[4]) == ["ours", "1", "1.00", "-", "12", "-", "1.0"]
    peer = ["peer", "3", "2.00", "1.50 to 3.00", "-", "features 1.2e-07", "3.0"]
    assert cells(lines[5]) == peer
    assert lines[7] == "other: left out, library is not installed"
    assert lines[9] == "a note"
    conditions = "\n".join(lines[10:])
    assert "2 threads each, 3 rounds; " in conditions
    for fact in ("cores", "GPU: ", "torch ", "numpy ", "mmconvnext ", "Python 3."):
        assert fact in conditions


def test_markdown(results):
    lines = Report([results, results]).text(markdown=True).splitlines()
    assert lines[0] == "**a comparison**"
    assert lines[1] == ""
    assert lines[3].startswith("|---")
    assert lines[3].endswith("-:|")
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


def test_columns_of_facts_and_rates(results):
    del results.facts["peer"]["saved"]
    columns = (fact_column("saved", "saved", 0.5), rate_column("saved/s", "saved", form=".1f"))
    assert [column.cell(results, "ours") for column in columns] == ["2", "1.0"]
    assert [column.cell(results, "peer") for column in columns] == ["-", "-"]


def test_rows_need_not_be_compared(results):
    text = Report([results], first="").text()
    assert "spread" not in text
    assert "time / " not in text


def test_description(tmp_path, monkeypatch):
    facts = report.describe()
    assert facts["cores"] >= 1
    assert facts["packages"]["torch"]
    info = tmp_path / "library" / "some_library-1.2.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: some-library\nVersion: 1.2\n")
    monkeypatch.setattr(report, "PEERS", tmp_path)
    assert report.version("some-library") == "1.2"  # of a peer in a folder of its own
    assert report.version("no-such-library") is None
