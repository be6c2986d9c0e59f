"""Curves, tables, JSON and pictures of invented times."""

from __future__ import annotations

import json

import pytest

from benchmarks import schedule
from benchmarks.comparison import Results, Timing
from benchmarks.report import MIB
from benchmarks.scaling_curves import PEAK, SAVED, TIME, Curve
from benchmarks.scaling_page import write_page
from benchmarks.scaling_report import ScalingReport
from mmconvnext.errors import UserError

LARGEST_PICTURE = 60_000  # bytes


def curve(along="area", train=True, others_seconds=0.0) -> Curve:
    """1 s and 2 s for each megapixel; 10 MiB and 20 MiB; saved is half of that."""
    results = Results(f"against {along}", {}, threads=2)
    for size in (1, 2, 4):
        name, peak = f"size {size}", 10 + 20 * size
        seconds = 1.0 + 2 * size
        results.timings[name] = [
            Timing(seconds + late, peak * MIB, others_seconds) for late in (0, 0, 5)
        ]
        results.facts[name] = {
            "pixels": size * 1e6,
            "images": size,
            "multiply_adds": size * 1e9,
            "parameters": size * 1e6,
            "saved_bytes": peak * MIB / 2,
        }
    return Curve("backbone", along, train, results)


def processes() -> Results:
    """Two threads are 1.25 times as fast as one, two processes 1.6 times."""
    results = Results("processes", {}, threads=2)
    for name, number, threads, seconds in (
        ("1 x 1", 1, 1, 4.0),
        ("1 x 2", 1, 2, 3.2),
        ("2 x 1", 2, 1, 2.5),
    ):
        others = 2.5 if number > 1 else 0.0  # to it, its own second process is another's
        results.timings[name] = [Timing(seconds, MIB, others)] * 3
        results.facts[name] = {"processes": number, "threads": threads, "images": 8}
    results.distances = {"1 x 2": {"gradients": 0.0}, "2 x 1": {"gradients": 1e-7}}
    return results


@pytest.fixture
def report() -> ScalingReport:
    detector = Curve("detector", "model", False, curve().results)
    return ScalingReport([curve(), curve("model"), detector], processes(), schedule.costs())


def row(text: str, start: str) -> list[str]:
    """The cells of the first row of a table in markdown that starts like this."""
    line = next(line for line in text.splitlines() if line.startswith(f"| {start}"))
    return [cell.strip() for cell in line.split("|")[1:-1]]


class TestCurve:
    def test_lines_go_through_medians(self):
        series = {each.quantity: each for each in curve().series}
        assert list(series) == [TIME, PEAK, SAVED]
        assert series[TIME].equation == "1 s + 2 s · Mpixel"
        assert series[PEAK].equation == "10 MiB + 20 MiB · Mpixel"
        assert series[SAVED].equation == "5 MiB + 10 MiB · Mpixel"
        assert series[TIME].fit.r_squared == pytest.approx(1)

    def test_a_line_that_falls(self):
        falling = curve()
        for size, timings in zip((1, 2, 4), falling.results.timings.values(), strict=True):
            timings[:] = [Timing(10.0 - size, None)]
        assert [each.equation for each in falling.series] == [
            "10 s - 1 s · Mpixel",
            "5 MiB + 10 MiB · Mpixel",  # the system does not tell the peak
        ]

    def test_rounding_is_no_offset(self):
        saved = curve()
        for facts in saved.results.facts.values():
            facts["saved_bytes"] = facts["pixels"] * 1.1
        assert saved.series[-1].equation == "0 MiB + 1.05 MiB · Mpixel"

    def test_model_size_has_two_axes(self):
        units = {each.quantity: each.axis.unit for each in curve("model").series}
        assert units == {TIME: "G multiply-adds", PEAK: "M parameters", SAVED: "M parameters"}

    def test_inference_saves_nothing(self):
        assert SAVED not in [each.quantity for each in curve(train=False).series]


class TestReport:
    def test_tables(self, report):
        text = report.text(markdown=True)
        assert row(text, "size 2") == ["size 2", "2", "5", "5 to 10", "50", "25"]
        fit = row(text, "backbone, forward + backward, against input area")
        assert fit[1:] == ["time", "1 s + 2 s · Mpixel", "1.0000", "0%", "4.0 x", "3.0 x"]
        assert row(text, "Cascade XL")[-1] == "6.4"
        assert "**processes**" in text
        assert all(line.startswith(("- ", "| ", "**")) for line in text.splitlines() if line)

    def test_processes(self, report):
        text = report.text(markdown=True)
        assert row(text, "1 x 1")[4:] == ["2.00", "1.00", "100%", "-"]
        assert row(text, "1 x 2")[4:] == ["2.50", "1.25", "62%", "0.0e+00"]
        assert row(text, "2 x 1")[4:] == ["3.20", "1.60", "80%", "1.0e-07"]

    def test_the_machine_is_described(self, report):
        text = report.text()
        for words in ("cores", "torch ", "2 threads, 3 rounds", "mmconvnext ", "117,266 images"):
            assert words in text

    def test_a_disturbed_comparison_says_so(self, report):
        text = report.text()  # one has a process of its own beside it
        assert "disturbed by other processes: 0 of 4 comparisons\n" in text
        assert "cores busy" not in text
        report = ScalingReport([curve(), curve(others_seconds=3.0)], None, schedule.costs())
        text = report.text()
        assert text.count("disturbed: other processes kept 0.4 cores busy meanwhile") == 1
        assert "disturbed by other processes: 1 of 2 comparisons; measure again" in text

    def test_it_may_be_unknown_who_disturbed(self):
        unknown = ScalingReport([curve(others_seconds=None)], None, schedule.costs())
        assert "is not known on this system" in unknown.text()

    def test_json(self, report):
        content = json.loads(json.dumps(report.to_json()))
        assert {"processor", "git_revision", "date"} <= set(content["conditions"])
        assert len(content["tables"]) == 4
        time, peak, _ = content["curves"][0]["linear_fits"]
        assert time["slope"] == pytest.approx(2)
        assert (peak["intercept"], peak["unit"]) == (pytest.approx(10), "MiB")
        assert content["schedule"]["costs"][0]["gpu_hours"] == pytest.approx(137, abs=1)


class TestPage:
    def test_shows_small_pictures(self, report, tmp_path):
        page, *pictures = write_page(report, tmp_path)
        text = page.read_text()
        assert text.startswith("# Scaling\n")
        assert report.text(markdown=True) in text
        names = ["scaling_backbone.png", "scaling_detector.png", "scaling_training.png"]
        assert [path.name for path in pictures] == names
        for path in pictures:
            assert path.read_bytes().startswith(b"\x89PNG")
            assert path.stat().st_size < LARGEST_PICTURE
            assert f"](images/{path.name})" in text

    def test_one_part_alone(self, tmp_path):
        alone = ScalingReport([curve(train=False)], None, schedule.costs())
        assert [path.name for path in write_page(alone, tmp_path)] == [
            "scaling.md",
            "scaling_backbone.png",
            "scaling_training.png",
        ]

    def test_a_folder_that_cannot_be_written(self, report, tmp_path):
        with pytest.raises(UserError, match=r"cannot write .*images: No such file"):
            write_page(report, tmp_path / "absent")
