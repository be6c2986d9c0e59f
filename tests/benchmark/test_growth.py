"""Curves of invented times, and the contestants of growth at work."""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

import pytest

from mmconvnext.analysis.flops import count_config
from mmconvnext.benchmark import growth, growth_plans, schedule
from mmconvnext.benchmark.contest import Contestant, Results, Turn
from mmconvnext.benchmark.detectors import CONFIGS
from mmconvnext.benchmark.growth_contestants import CountedDetector
from mmconvnext.benchmark.growth_curves import PEAK, SAVED, TIME, Curve
from mmconvnext.benchmark.growth_page import write_page
from mmconvnext.benchmark.growth_plans import FULL, QUICK, Sweep, backbone_sweeps, detector_sweeps
from mmconvnext.benchmark.growth_report import GrowthReport
from mmconvnext.benchmark.process import BenchmarkError
from mmconvnext.benchmark.report import MIB
from mmconvnext.engine.config import load_config
from mmconvnext.errors import UserError

LARGEST_PICTURE = 60_000  # bytes


def curve(along="area", train=True, others_seconds=0.0) -> Curve:
    """1 s and 2 s for each megapixel; 10 MiB and 20 MiB; saved is half of that."""
    results = Results(f"against {along}", {}, threads=2)
    for size in (1, 2, 4):
        name, peak = f"size {size}", 10 + 20 * size
        seconds = 1.0 + 2 * size
        results.turns[name] = [
            Turn(seconds + late, peak * MIB, others_seconds) for late in (0, 0, 5)
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
        results.turns[name] = [Turn(seconds, MIB, others)] * 3
        results.facts[name] = {"processes": number, "threads": threads, "images": 8}
    results.distances = {"1 x 2": {"gradients": 0.0}, "2 x 1": {"gradients": 1e-7}}
    return results


@pytest.fixture
def report() -> GrowthReport:
    detector = Curve("detector", "model", False, curve().results)
    return GrowthReport([curve(), curve("model"), detector], processes(), schedule.costs())


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
        for size, turns in zip((1, 2, 4), falling.results.turns.values(), strict=True):
            turns[:] = [Turn(10.0 - size, None)]
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
        assert all(line[:2] in ("- ", "| ", "**", "") for line in text.splitlines())

    def test_processes(self, report):
        text = report.text(markdown=True)
        assert row(text, "1 x 1")[4:] == ["2.00", "1.00", "100%", "-"]
        assert row(text, "1 x 2")[4:] == ["2.50", "1.25", "62%", "0.0e+00"]
        assert row(text, "2 x 1")[4:] == ["3.20", "1.60", "80%", "1.0e-07"]

    def test_the_machine_is_described(self, report):
        text = report.text()
        for words in ("cores", "torch ", "2 threads, 3 rounds", "mmconvnext ", "117,266 images"):
            assert words in text

    def test_a_disturbed_contest_is_named(self, report):
        assert "not disturbed" in report.text()  # by processes of its own
        text = GrowthReport([curve(others_seconds=3.0)], None, schedule.costs()).text()
        assert "disturbed: other processes kept 0.4 to 0.4 cores busy in 1 of 1 contests" in text
        unknown = GrowthReport([curve(others_seconds=None)], None, schedule.costs()).text()
        assert "is not known on this system" in unknown

    def test_json(self, report):
        content = json.loads(json.dumps(report.to_json()))
        assert {"processor", "git_revision", "date"} <= set(content["conditions"])
        assert len(content["tables"]) == 4
        time, peak, _ = content["curves"][0]["fits"]
        assert time["slope"] == pytest.approx(2)
        assert (peak["intercept"], peak["unit"]) == (pytest.approx(10), "MiB")
        assert content["schedule"]["costs"][0]["gpu_hours"] == pytest.approx(137, abs=1)


class TestPage:
    def test_shows_small_pictures(self, report, tmp_path):
        page, *pictures = write_page(report, tmp_path)
        text = page.read_text()
        assert text.startswith("# Growth\n")
        assert report.text(markdown=True) in text
        names = ["growth_backbone.png", "growth_detector.png", "growth_training.png"]
        assert [path.name for path in pictures] == names
        for path in pictures:
            assert path.read_bytes().startswith(b"\x89PNG")
            assert path.stat().st_size < LARGEST_PICTURE
            assert f"]({path.name})" in text

    def test_one_part_alone(self, tmp_path):
        alone = GrowthReport([curve(train=False)], None, schedule.costs())
        assert [path.name for path in write_page(alone, tmp_path)] == [
            "growth.md",
            "growth_backbone.png",
            "growth_training.png",
        ]

    def test_a_folder_that_cannot_be_written(self, report, tmp_path):
        with pytest.raises(UserError, match=r"cannot write .*growth.*No such file"):
            write_page(report, tmp_path / "absent")


class TestSweeps:
    def test_points_of_the_backbone_know_their_place(self):
        sweeps = list(backbone_sweeps(FULL, "cpu"))
        assert [(each.along, each.train) for each in sweeps] == [
            (along, train) for train in (False, True) for along in ("area", "batch", "model")
        ]
        facts = sweeps[0].facts["224x224"]
        assert (facts["pixels"], facts["images"]) == (224 * 224, 1)
        assert facts["multiply_adds"] == pytest.approx(4.5e9, rel=0.02)  # arXiv 2201.03545
        assert facts["parameters"] == 27_821_472  # with output norms
        assert sweeps[3].facts["224x224"] == facts  # in training, too: of a forward pass
        assert sweeps[1].facts["batch 8"]["images"] == 8
        assert sweeps[2].facts["xlarge"]["parameters"] == 348_151_552

    def test_points_are_what_their_names_say(self):
        for sweep in backbone_sweeps(QUICK, "cpu"):
            for each in sweep.contestants:
                facts = sweep.facts[each.name]
                assert each.arguments["train"] is sweep.train
                assert each.arguments["batch"] == facts["images"]
                assert math.prod(each.arguments["shape"]) == facts["pixels"]

    @pytest.mark.parametrize("plan", [FULL, QUICK])
    def test_detectors_have_configs(self, plan):
        for sweep in detector_sweeps(plan, "data", "cpu"):
            names = [each.name for each in sweep.contestants]
            assert len({*names}) == len(names) >= 3
            assert all(Path(each.arguments["config"]).is_file() for each in sweep.contestants)

    @pytest.mark.parametrize(("threads", "layouts"), [(2, "1x1 1x2 2x1"), (9, "1x4 1x8 2x4")])
    def test_two_processes_have_the_threads_of_one(self, threads, layouts):
        made = growth_plans.processes(QUICK, threads)
        found = [f"{e.arguments['processes']}x{e.arguments['threads']}" for e in made]
        assert found == layouts.split()
        assert made[-1].name.startswith(f"2 processes x {threads // 2} thread")


def test_a_curve_is_measured(dummy):
    sweep = Sweep(
        "backbone",
        "batch",
        "dummies",
        [dummy("one", seconds=0.05), dummy("three", seconds=0.15)],
        facts={"one": {"images": 1}, "three": {"images": 3}},
    )
    measured = growth.measure(sweep, rounds=1, warmup=0, threads=1)
    time = measured.series[0]
    assert time.xs == (1, 3)
    assert all(y >= 0.05 * x for x, y in zip(time.xs, time.ys, strict=True))
    assert measured.results.title == "dummies"


def test_two_processes_compute_the_gradients_of_one():
    results = growth.share_work(QUICK, rounds=1, warmup=0, threads=2)
    assert list(results.turns) == [
        "1 process x 1 thread",
        "1 process x 2 threads",
        "2 processes x 1 thread",
    ]
    distances = [each["gradients"] for each in results.distances.values()]
    assert max(distances) < 1e-5
    assert distances[1] > 0  # the mean of two halves rounds in another way
    facts = results.facts["2 processes x 1 thread"]
    assert (facts["processes"], facts["threads"], facts["images"]) == (2, 1, QUICK.step)
    assert facts["gradient_bytes"] == 4 * 3_375_080  # atto's parameters


def test_a_detector_counts_its_work(coco_tiny):
    config = str(CONFIGS / "mask_rcnn_convnextv2_atto_coco.py")
    detector = CountedDetector(
        config=config,
        reference=config,
        same=True,
        ours=True,
        data_root=str(coco_tiny),
        images=1,
        device="cpu",
        scale=(320, 192),
    )
    facts = detector.facts()
    height, width = detector._shape(0)
    assert (height % 32, width % 32) == (0, 0)
    assert 160 < min(height, width) <= 192
    cost = count_config(load_config(config), (height, width))
    assert facts == {
        "images": 1,
        "pixels": height * width,
        "multiply_adds": cost.flops,
        "parameters": cost.params,
    }


def arguments(**changes: object) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    growth.add_arguments(parser)
    args = parser.parse_args(["--quick", "--device", "cpu"])
    return argparse.Namespace(**{**vars(args), "warmup": 0, "threads": 2, **changes})


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"threads": 1}, BenchmarkError, "--threads 1 must be at least 2"),
        ({"data_root": "nowhere"}, UserError, "the data folder nowhere"),
        ({"parts": ["backbone"], "out": __file__}, UserError, "--out .* cannot be made: File"),
    ],
)
def test_mistakes_are_found_before_anything_is_measured(changes, error, words):
    with pytest.raises(error, match=words):
        growth.compare(arguments(**changes))


def test_the_command(monkeypatch, tmp_path, capsys):
    rounds = []

    def invented(contestants: list[Contestant], title: str, **options: object) -> Results:
        rounds.append(options["rounds"])
        results = Results(title, {}, threads=options["threads"])
        for index, each in enumerate(contestants):
            results.turns[each.name] = [Turn(1.0 + index, MIB * (index + 1))]
            own = {"processes": each.arguments.get("processes", 1), "threads": 1, "images": 2}
            results.facts[each.name] = {**own, "saved_bytes": MIB * (index + 1)}
        return results

    monkeypatch.setattr(growth, "run", invented)
    out = tmp_path / "new" / "docs"
    args = arguments(parts=["backbone", "processes"], out=str(out))
    report = growth.compare(args)
    assert rounds == [growth.ROUNDS] * 7
    assert [each.along for each in report.curves] == ["area", "batch", "model"] * 2
    assert "ConvNeXt atto, forward + backward, one image, against input area" in report.text()
    assert "training steps with 2 images of 64x64" in report.text()
    assert (out / "growth.md").is_file()
    err = capsys.readouterr().err
    assert "contest 7 of 7: training in one and two processes" in err
    assert "growth_backbone.png" in err


def test_pictures_alone_need_matplotlib(run_python):
    code = "import sys, mmconvnext.benchmark.growth; print('matplotlib' in sys.modules)"
    assert run_python(code).strip() == "False"
