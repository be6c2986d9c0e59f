"""Curves of invented times, the candidates at work, and the command."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
import torch

from benchmarks import scaling
from benchmarks.backbone import Task
from benchmarks.comparison import Results
from benchmarks.scaling import PEAK, SAVED, SCHEDULE, TIME, Curve, backbone_curves, share_work
from benchmarks.worker import Timing
from mmconvnext.engine.config import load_config
from tests.benchmarks.helpers import MIB, arguments, cells, use_this_process

STEP = Task("atto", shape=(64, 64), batch=2)


def fits(results: Results, along: str = "input area") -> dict[str, dict]:
    found = Curve("backbone", "inference", along, "ours", {}).fits(results)
    return {fit["quantity"]: fit for fit in found}


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


def test_lines_go_through_medians():
    found = fits(measured())
    lines = {name: (each["intercept"], each["slope"]) for name, each in found.items()}
    expected = {TIME: (1, 2), PEAK: (10, 20), SAVED: (5, 10)}
    assert lines == {name: pytest.approx(line) for name, line in expected.items()}
    assert found[TIME]["r_squared"] == pytest.approx(1)
    assert found[TIME]["residual"] == pytest.approx(0, abs=1e-9)


def test_points_beside_a_line():
    beside = measured(peak=0, is_saved=False)
    for place, (name, seconds) in enumerate(zip(beside.timings, (2.0, 1.0, 3.0), strict=True), 1):
        beside.timings[name] = [Timing(seconds)]
        beside.facts[name]["pixels"] = place * 1e6
    (fit,) = fits(beside).values()  # by hand: slope 1 / 2; residuals 0.5, -1, 0.5 of ys 2, 1, 3
    assert (fit["intercept"], fit["slope"]) == pytest.approx((1.0, 0.5))
    assert fit["r_squared"] == pytest.approx(1 - 1.5 / 2)
    assert fit["residual"] == pytest.approx(1.0)


def test_what_is_not_measured_is_left_out():
    assert [*fits(measured(is_saved=False))] == [TIME, PEAK]
    assert [*fits(measured(0, is_saved=False))] == [TIME]
    units = {name: fit["unit"] for name, fit in fits(measured(), "model size").items()}
    assert units == {TIME: "G multiply-adds", PEAK: "M parameters", SAVED: "M parameters"}


def test_detectors_have_configs():
    for each in scaling.detector_curves("data", "cpu"):
        assert len(each.points) >= 3
        for point in each.points.values():
            load_config(point["config"])


def test_a_curve_is_measured(monkeypatch):
    monkeypatch.setattr(scaling, "BATCHES", (1, 2))
    monkeypatch.setattr(scaling, "ARCHS", ("atto",))
    monkeypatch.setattr(scaling, "SIDE", 64)
    use_this_process(monkeypatch)
    batches = backbone_curves("cpu")[4]
    results = batches.measure(arguments("scaling", "--rounds", 1))
    assert results.title == "ConvNeXt atto, images of 64x64, cpu, forward + backward, against batch"
    found = {fit["quantity"]: fit for fit in batches.fits(results)}
    assert found[TIME]["xs"] == [1, 2]
    assert found[SAVED]["slope"] > 0


@pytest.mark.parametrize(("threads", "layouts"), [(2, "1x1 1x2 2x1"), (9, "1x4 1x8 2x4")])
def test_two_processes_have_the_threads_of_one(monkeypatch, threads, layouts):
    def run(candidates, args, check, title):
        """Two threads are 1.25 times as fast as one, two processes 1.6 times."""
        results = Results(title, {}, threads=threads)
        for each, seconds in zip(candidates, (4.0, 3.2, 2.5), strict=True):
            results.timings[each.name] = [Timing(seconds, MIB, others_seconds=0.0)] * 3
            results.facts[each.name] = {**each.arguments}
        results.timings[each.name] = [Timing(seconds, MIB, others_seconds=2.5)] * 3
        return results

    monkeypatch.setattr(scaling, "run", run)
    results = share_work(STEP, arguments("scaling", "--threads", threads))
    facts = results.facts.values()
    assert [f"{f['processes']}x{f['threads']}" for f in facts] == layouts.split()
    assert [f["efficiency"] for f in facts] == pytest.approx([1, 0.625, 0.8])
    assert results.busy_cores() == 0  # to others, its second process would be another's


@pytest.fixture
def _threads() -> Iterator[None]:
    """A candidate sets their number."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.mark.slow
@pytest.mark.usefixtures("_threads")
def test_two_processes_compute_the_gradients_of_one(monkeypatch):
    use_this_process(monkeypatch, lambda candidate: candidate.arguments["processes"] == 1)
    results = share_work(STEP, arguments("scaling", "--rounds", 1))
    names = ["1 process x 1 thread", "1 process x 2 threads", "2 processes x 1 thread"]
    assert list(results.timings) == names
    distances = [each["gradients"] for each in results.distances.values()]
    assert max(distances) < 1e-5
    assert distances[1] > 0  # the mean of two halves rounds in another way


def test_the_command(monkeypatch, tmp_path, capsys, coco_tiny):
    def invented(candidates, args, check=None, title=""):
        assert args.rounds == 3
        results = measured()
        results.title = title
        for old, each in zip([*results.timings], candidates, strict=False):
            results.timings[each.name] = results.timings.pop(old)
            results.facts[each.name] = {**results.facts.pop(old), "processes": 1, "threads": 1}
        return results

    monkeypatch.setattr(scaling, "run", invented)
    out = tmp_path / "new" / "docs"
    args = arguments("scaling", "--data-root", coco_tiny, "--out", out, "--rounds", 3)
    report = scaling.compare(args)
    along = [table.title.split("against ")[1] for table in report.tables[:-1]]
    curves = ["input area", "batch", "model size"]
    assert along == [*curves, *curves, curves[0], curves[2]]
    text = (out / "scaling.md").read_text()
    assert report.text(markdown=True) in text
    assert "ConvNeXt tiny, one image, cpu, forward + backward, against input area" in text
    assert "training steps, 4 images of 320x320" in text
    size = ["320x320", "5", "1.67", "1.25 to 1.67", "50", "2", "2", "2", "2", "25"]
    assert cells(text, "320x320") == size
    fit = cells(text, "backbone, inference, against input area")
    assert fit[1:] == [TIME, "1 + 2 · Mpixel", "1.0000", "0%", "4.0 x", "3.0 x"]
    content = json.loads(json.dumps(report.to_json()))
    assert content["linear_fits"][0]["slope"] == pytest.approx(2)
    # how the page begins, and what is on paper, stay
    assert text.startswith("# Scaling\n")
    assert text.count("python -m benchmarks scaling --data-root DIR --out docs") == 1
    assert text.endswith(scaling.PAGE.read_text().partition(SCHEDULE)[2])
    for part in ("backbone", "detector"):
        picture = f"images/scaling_{part}.png"
        assert (out / picture).read_bytes().startswith(b"\x89PNG")
        assert f"]({picture})" in text
        assert picture in capsys.readouterr().err or part == "detector"
