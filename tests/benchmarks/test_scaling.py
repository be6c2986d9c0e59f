"""Curves of invented times, the candidates at work, and the command."""

from __future__ import annotations

import argparse
import json
import math

import pytest

from benchmarks import data_parallel, scaling
from benchmarks.comparison import BenchmarkError, Results, Timing
from benchmarks.data_parallel import share_work
from benchmarks.report import MIB, Report
from benchmarks.scaling import (
    FULL,
    PEAK,
    QUICK,
    SAVED,
    SCHEDULE,
    TIME,
    CountedDetector,
    Curve,
    backbone_curves,
    detector_curves,
    make_report,
    write_page,
)
from mmconvnext.analysis.flops import count_config
from mmconvnext.engine.config import load_config
from mmconvnext.errors import UserError


def curve(along="input area", train=True, part="backbone", peak=20) -> Curve:
    """1 s and 2 s for each megapixel; 10 MiB and 20 MiB; saved is half of that."""
    results = Results(f"against {along}", {}, threads=2)
    for size in (1, 2, 4):
        name, used = f"size {size}", (10 + peak * size) * MIB * (peak > 0)
        seconds = 1.0 + 2 * size
        results.timings[name] = [Timing(seconds + late, used) for late in (0, 0, 5)]
        place = {"pixels": size * 1e6, "images": size, "parameters": size * 1e6}
        saved = (5 + 10 * size) * MIB
        results.facts[name] = {**place, "multiply_adds": size * 1e9, "saved_bytes": saved}
    return Curve(part, along, results.title, [], train, results=results)


def processes() -> Results:
    """Two threads are 1.25 times as fast as one, two processes 1.6 times."""
    times = {"1 x 1": (1, 1, 4.0), "1 x 2": (1, 2, 3.2), "2 x 1": (2, 1, 2.5)}
    results = Results("processes", {}, threads=2)
    for name, (number, threads, seconds) in times.items():
        results.timings[name] = [Timing(seconds, MIB, others_seconds=2.5 * (number > 1))] * 3
        results.facts[name] = {"processes": number, "threads": threads, "images": 8}
    results.distances = {"1 x 2": {"gradients": 0.0}, "2 x 1": {"gradients": 1e-7}}
    return results


@pytest.fixture
def curves() -> list[Curve]:
    return [curve(), curve("model size"), curve("model size", False, "detector")]


@pytest.fixture
def report(curves) -> Report:
    return make_report(curves, [processes()])


def row(text: str, start: str) -> list[str]:
    """The cells of the first row of a table in markdown that starts like this."""
    line = next(line for line in text.splitlines() if line.startswith(f"| {start}"))
    return [cell.strip() for cell in line.split("|")[1:-1]]


def test_lines_go_through_medians():
    fits = {each["quantity"]: each for each in curve().fits()}
    found = {name: (each["intercept"], each["slope"]) for name, each in fits.items()}
    assert found == {
        TIME: pytest.approx((1, 2)),
        PEAK: pytest.approx((10, 20)),
        SAVED: pytest.approx((5, 10)),
    }
    assert fits[TIME]["r_squared"] == pytest.approx(1)
    assert fits[TIME]["residual"] == pytest.approx(0, abs=1e-9)


def test_points_beside_a_line():
    beside = curve(train=False)
    for seconds, timings in zip((2, 1, 3), beside.results.timings.values(), strict=True):
        timings[:] = [Timing(float(seconds), None)]
    for place, facts in zip((0, 1, 2), beside.results.facts.values(), strict=True):
        facts["pixels"] = (place + 1) * 1e6
    (fit,) = beside.fits()  # by hand: slope 1 / 2; residuals 0.5, -1, 0.5 of ys 2, 1, 3
    assert (fit["intercept"], fit["slope"]) == pytest.approx((1.0, 0.5))
    assert fit["r_squared"] == pytest.approx(1 - 1.5 / 2)
    assert fit["residual"] == pytest.approx(1.0)


def test_what_is_not_measured_is_left_out():
    assert [fit["quantity"] for fit in curve(train=False).fits()] == [TIME, PEAK]
    assert [fit["quantity"] for fit in curve(train=False, peak=0).fits()] == [TIME]
    units = {fit["quantity"]: fit["unit"] for fit in curve("model size").fits()}
    assert units == {TIME: "G multiply-adds", PEAK: "M parameters", SAVED: "M parameters"}


def test_the_report(report):
    text = report.text(markdown=True)
    size = ["size 2", "5", "1.67", "1.25 to 1.67", "50", "2", "2", "2", "2", "25"]
    assert row(text, "size 2") == size
    fit = row(text, "backbone, forward + backward, against input area")
    assert fit[1:] == [TIME, "1 + 2 · Mpixel", "1.0000", "0%", "4.0 x", "3.0 x"]
    content = json.loads(json.dumps(report.to_json()))
    assert len(content["tables"]) == 4
    assert content["linear_fits"][0]["slope"] == pytest.approx(2)


def test_the_page_keeps_the_schedule(report, curves, tmp_path):
    (tmp_path / "scaling.md").write_text(f"# Old\n\n{SCHEDULE}\n\n137 GPU-hours\n")
    page, *pictures = write_page(report, curves, tmp_path)
    text = page.read_text()
    assert text.startswith("# Scaling\n")
    assert "Old" not in text
    assert text.endswith(f"{SCHEDULE}\n\n137 GPU-hours\n")
    assert report.text(markdown=True) in text
    assert [path.name for path in pictures] == ["scaling_backbone.png", "scaling_detector.png"]
    for path in pictures:
        assert path.read_bytes().startswith(b"\x89PNG")
        assert f"](images/{path.name})" in text
    with pytest.raises(UserError, match=r"cannot write .*images: No such file"):
        write_page(report, curves, tmp_path / "absent")


def test_points_of_the_backbone_know_their_place():
    curves = list(backbone_curves(FULL, "cpu"))
    facts = curves[0].facts["224x224"]
    assert facts["multiply_adds"] == pytest.approx(4.5e9, rel=0.02)  # arXiv 2201.03545
    assert facts["parameters"] == 27_821_472  # with output norms
    assert curves[3].facts["224x224"] == facts  # in training, too: of a forward pass
    assert curves[2].facts["xlarge"]["parameters"] == 348_151_552
    for each in curves:
        for point in each.candidates:
            task, place = point.arguments["task"], each.facts[point.name]
            assert task.train is each.train
            assert (task.batch, math.prod(task.shape)) == (place["images"], place["pixels"])


@pytest.mark.parametrize("plan", [FULL, QUICK])
def test_detectors_have_configs(plan):
    for each in detector_curves(plan, "data", "cpu"):
        names = [point.name for point in each.candidates]
        assert len({*names}) == len(names) >= 3
        for point in each.candidates:
            load_config(point.arguments["config"])


@pytest.mark.parametrize(("threads", "layouts"), [(2, "1x1 1x2 2x1"), (9, "1x4 1x8 2x4")])
def test_two_processes_have_the_threads_of_one(monkeypatch, threads, layouts):
    found = []

    def run(candidates, **options):
        found.extend(f"{e.arguments['processes']}x{e.arguments['threads']}" for e in candidates)
        return processes()

    monkeypatch.setattr(data_parallel, "run", run)
    results = share_work("atto", 2, 64, threads=threads)
    assert found == layouts.split()
    facts = {n: (f["images_per_second"], f["efficiency"]) for n, f in results.facts.items()}
    assert facts["1 x 1"] == (2, 1)
    assert facts["1 x 2"] == pytest.approx((2.5, 0.625))
    assert facts["2 x 1"] == pytest.approx((3.2, 0.8))
    assert results.busy_cores() == 0  # to others, its second process would be another's


def test_a_curve_is_measured(dummy):
    points = [dummy("one", seconds=0.05), dummy("three", seconds=0.15)]
    facts = {"one": {"images": 1}, "three": {"images": 3}}
    measured = Curve("backbone", "batch", "dummies", points, facts=facts)
    fit, *_ = measured.measure(rounds=1, warmup=0, threads=1).fits()
    assert fit["xs"] == [1, 3]
    assert all(y >= 0.05 * x for x, y in zip(fit["xs"], fit["ys"], strict=True))


def test_two_processes_compute_the_gradients_of_one():
    results = share_work("atto", 2, 64, rounds=1, warmup=0, threads=2)
    assert list(results.timings) == [
        "1 process x 1 thread",
        "1 process x 2 threads",
        "2 processes x 1 thread",
    ]
    distances = [each["gradients"] for each in results.distances.values()]
    assert max(distances) < 1e-5
    assert distances[1] > 0  # the mean of two halves rounds in another way
    facts = results.facts["2 processes x 1 thread"]
    assert (facts["processes"], facts["threads"], facts["images"]) == (2, 1, 2)


def test_a_detector_counts_its_work(coco_tiny):
    config = "mask_rcnn_convnextv2_atto_coco.py"
    settings = {"same": True, "ours": True, "images": 1, "device": "cpu", "scale": (320, 192)}
    detector = CountedDetector(config, config, data_root=str(coco_tiny), **settings)
    facts = detector.facts()
    height, width = detector.shape(0)
    assert (height % 32, width % 32) == (0, 0)
    assert 160 < min(height, width) <= 192
    cost = count_config(load_config(config), (height, width))
    counted = {"multiply_adds": cost.flops, "parameters": cost.params}
    assert facts == {"images": 1, "pixels": height * width, **counted}


def arguments(**changes: object) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    scaling.add_arguments(parser)
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
        scaling.compare(arguments(**changes))


def test_the_command(monkeypatch, tmp_path, capsys):
    def invented(candidates, title, rounds, threads, **_):
        assert rounds == 3
        results = Results(title, {}, threads=threads)
        for index, each in enumerate(candidates):
            results.timings[each.name] = [Timing(1.0 + index, MIB * (index + 1))]
            own = {"processes": each.arguments.get("processes", 1), "threads": 1, "images": 2}
            results.facts[each.name] = {**own, "saved_bytes": MIB * (index + 1)}
        return results

    for module in (scaling, data_parallel):
        monkeypatch.setattr(module, "run", invented)
    out = tmp_path / "new" / "docs"
    report = scaling.compare(arguments(parts=["backbone", "processes"], out=str(out)))
    along = [table.title.split("against ")[1] for table in report.tables[:-1]]
    assert along == [f"{each}, cpu" for each in ("input area", "batch", "model size")] * 2
    text = (out / "scaling.md").read_text()
    assert "ConvNeXt atto, one image, forward + backward, against input area, cpu" in text
    assert "training steps, 2 images of 64x64" in text
    assert "scaling_backbone.png" in capsys.readouterr().err
