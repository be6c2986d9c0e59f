"""Curves of invented times, the candidates at work, and the command."""

from __future__ import annotations

import argparse
import json

import pytest

from benchmarks import scaling
from benchmarks.backbone import Task
from benchmarks.comparison import Results
from benchmarks.report import MIB, Report
from benchmarks.scaling import (
    PEAK,
    SAVED,
    SCHEDULE,
    TIME,
    CountedBackbone,
    CountedDetector,
    Curve,
    backbone_curves,
    detector_curves,
    make_report,
    share_work,
    write_page,
)
from benchmarks.worker import BenchmarkError, Timing
from mmconvnext.analysis.cost import count_config
from mmconvnext.engine.config import load_config
from mmconvnext.errors import UserError

ONCE = {"rounds": 1, "warmup": 0, "threads": 2}
STEP = Task("atto", shape=(64, 64), batch=2)


def curve(along: str = "input area", part: str = "backbone") -> Curve:
    return Curve(part, "inference", along, "ours", {})


def measured(peak: int = 20, is_saved: bool = True) -> Results:
    """1 s and 2 s for each megapixel; 10 MiB and 20 MiB; saved is half of that."""
    results = Results("title", {}, threads=2)
    for size in (1, 2, 4):
        name, used = f"size {size}", (10 + peak * size) * MIB * (peak > 0)
        results.timings[name] = [Timing(1.0 + 2 * size + late, used) for late in (0, 0, 5)]
        place = {"pixels": size * 1e6, "images": size, "parameters": size * 1e6}
        results.facts[name] = {**place, "multiply_adds": size * 1e9}
        if is_saved:
            results.facts[name]["saved_bytes"] = (5 + 10 * size) * MIB
    return results


@pytest.fixture
def fits() -> list[dict]:
    curves = [curve(), curve("model size"), curve("model size", "detector")]
    return [fit for each in curves for fit in each.fits(measured())]


@pytest.fixture
def report(fits) -> Report:
    return make_report(fits, [measured()])


def row(text: str, start: str) -> list[str]:
    """The cells of the first row of a table in markdown that starts like this."""
    line = next(line for line in text.splitlines() if line.startswith(f"| {start}"))
    return [cell.strip() for cell in line.split("|")[1:-1]]


def test_lines_go_through_medians():
    fits = {each["quantity"]: each for each in curve().fits(measured())}
    found = {name: (each["intercept"], each["slope"]) for name, each in fits.items()}
    assert found == {
        TIME: pytest.approx((1, 2)),
        PEAK: pytest.approx((10, 20)),
        SAVED: pytest.approx((5, 10)),
    }
    assert fits[TIME]["r_squared"] == pytest.approx(1)
    assert fits[TIME]["residual"] == pytest.approx(0, abs=1e-9)


def test_points_beside_a_line():
    beside = measured(is_saved=False)
    for seconds, timings in zip((2, 1, 3), beside.timings.values(), strict=True):
        timings[:] = [Timing(float(seconds), None)]
    for place, facts in zip((0, 1, 2), beside.facts.values(), strict=True):
        facts["pixels"] = (place + 1) * 1e6
    (fit,) = curve().fits(beside)  # by hand: slope 1 / 2; residuals 0.5, -1, 0.5 of ys 2, 1, 3
    assert (fit["intercept"], fit["slope"]) == pytest.approx((1.0, 0.5))
    assert fit["r_squared"] == pytest.approx(1 - 1.5 / 2)
    assert fit["residual"] == pytest.approx(1.0)


def test_what_is_not_measured_is_left_out():
    found = curve().fits(measured(is_saved=False))
    assert [fit["quantity"] for fit in found] == [TIME, PEAK]
    assert [fit["quantity"] for fit in curve().fits(measured(0, is_saved=False))] == [TIME]
    units = {fit["quantity"]: fit["unit"] for fit in curve("model size").fits(measured())}
    assert units == {TIME: "G multiply-adds", PEAK: "M parameters", SAVED: "M parameters"}


def test_the_report(report):
    text = report.text(markdown=True)
    size = ["size 2", "5", "1.67", "1.25 to 1.67", "50", "2", "2", "2", "2", "25"]
    assert row(text, "size 2") == size
    fit = row(text, "backbone, inference, against input area")
    assert fit[1:] == [TIME, "1 + 2 · Mpixel", "1.0000", "0%", "4.0 x", "3.0 x"]
    content = json.loads(json.dumps(report.to_json()))
    assert content["linear_fits"][0]["slope"] == pytest.approx(2)


def test_the_page_keeps_the_schedule(report, fits, tmp_path):
    (tmp_path / "scaling.md").write_text(f"# Old\n\n{SCHEDULE}\n\n137 GPU-hours\n")
    page, *pictures = write_page(report, fits, tmp_path)
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
        write_page(report, fits, tmp_path / "absent")


def test_points_of_the_backbone_know_their_place(monkeypatch):
    facts = CountedBackbone(Task("tiny", shape=(224, 224), train=True)).facts()
    assert facts["multiply_adds"] == pytest.approx(4.5e9, rel=0.02)  # arXiv 2201.03545; forward
    assert facts["parameters"] == 27_821_472  # with output norms
    assert (facts["pixels"], facts["images"]) == (224 * 224, 1)
    assert facts["saved_bytes"] > 0


def test_detectors_have_configs():
    for each in detector_curves("data", "cpu"):
        assert len(each.points) >= 3
        for arguments in each.points.values():
            load_config(arguments["config"])


def test_a_curve_is_measured(monkeypatch):
    monkeypatch.setattr(scaling, "BATCHES", (1, 2))
    monkeypatch.setattr(scaling, "ARCHS", ("atto",))
    monkeypatch.setattr(scaling, "SIDE", 64)
    batches = backbone_curves("cpu")[4]
    results = batches.measure(**ONCE)
    assert results.title == "ConvNeXt atto, images of 64x64, cpu, forward + backward, against batch"
    fits = {fit["quantity"]: fit for fit in batches.fits(results)}
    assert fits[TIME]["xs"] == [1, 2]
    assert fits[SAVED]["slope"] > 0


@pytest.mark.parametrize(("threads", "layouts"), [(2, "1x1 1x2 2x1"), (9, "1x4 1x8 2x4")])
def test_two_processes_have_the_threads_of_one(monkeypatch, threads, layouts):
    def run(candidates, **options):
        """Two threads are 1.25 times as fast as one, two processes 1.6 times."""
        results = Results("processes", {}, threads=threads)
        for each, seconds in zip(candidates, (4.0, 3.2, 2.5), strict=True):
            results.timings[each.name] = [Timing(seconds, MIB, others_seconds=0.0)] * 3
            results.facts[each.name] = {**each.arguments}
        results.timings[each.name] = [Timing(seconds, MIB, others_seconds=2.5)] * 3
        return results

    monkeypatch.setattr(scaling, "run", run)
    results = share_work(STEP, threads=threads, rounds=1, warmup=0)
    facts = results.facts.values()
    assert [f"{f['processes']}x{f['threads']}" for f in facts] == layouts.split()
    assert [f["efficiency"] for f in facts] == pytest.approx([1, 0.625, 0.8])
    assert results.busy_cores() == 0  # to others, its second process would be another's


def test_two_processes_compute_the_gradients_of_one():
    results = share_work(STEP, **ONCE)
    assert list(results.timings) == [
        "1 process x 1 thread",
        "1 process x 2 threads",
        "2 processes x 1 thread",
    ]
    distances = [each["gradients"] for each in results.distances.values()]
    assert max(distances) < 1e-5
    assert distances[1] > 0  # the mean of two halves rounds in another way


def test_a_detector_counts_its_work(coco_tiny):
    config = "mask_rcnn_convnextv2_atto_coco.py"
    settings = {"images": 1, "device": "cpu", "scale": (320, 192)}
    detector = CountedDetector(config, data_root=str(coco_tiny), **settings)
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
    args = parser.parse_args(["--device", "cpu"])
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
        for index, each in enumerate(candidates, 1):
            results.timings[each.name] = [Timing(float(index), MIB * index)]
            place = dict.fromkeys(("pixels", "images", "multiply_adds", "parameters"), index)
            results.facts[each.name] = {**place, "processes": 1, "threads": 1}
        return results

    monkeypatch.setattr(scaling, "run", invented)
    out = tmp_path / "new" / "docs"
    report = scaling.compare(arguments(parts=["backbone", "processes"], out=str(out)))
    along = [table.title.split("against ")[1] for table in report.tables[:-1]]
    assert along == ["input area", "batch", "model size"] * 2
    text = (out / "scaling.md").read_text()
    assert "ConvNeXt tiny, one image, cpu, forward + backward, against input area" in text
    assert "training steps, 4 images of 320x320" in text
    assert "scaling_backbone.png" in capsys.readouterr().err
