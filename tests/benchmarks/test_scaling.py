"""The points of curves, the candidates of scaling at work, and the command."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import pytest

from benchmarks import scaling, scaling_plans
from benchmarks.comparison import BenchmarkError, Candidate, Results, Timing
from benchmarks.detectors import CONFIGS
from benchmarks.report import MIB
from benchmarks.scaling_candidates import CountedDetector
from benchmarks.scaling_plans import FULL, QUICK, Sweep, backbone_sweeps, detector_sweeps
from mmconvnext.analysis.flops import count_config
from mmconvnext.engine.config import load_config
from mmconvnext.errors import UserError


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
            for each in sweep.candidates:
                facts = sweep.facts[each.name]
                assert each.arguments["train"] is sweep.train
                assert each.arguments["batch"] == facts["images"]
                assert math.prod(each.arguments["shape"]) == facts["pixels"]

    @pytest.mark.parametrize("plan", [FULL, QUICK])
    def test_detectors_have_configs(self, plan):
        for sweep in detector_sweeps(plan, "data", "cpu"):
            names = [each.name for each in sweep.candidates]
            assert len({*names}) == len(names) >= 3
            assert all(Path(each.arguments["config"]).is_file() for each in sweep.candidates)

    @pytest.mark.parametrize(("threads", "layouts"), [(2, "1x1 1x2 2x1"), (9, "1x4 1x8 2x4")])
    def test_two_processes_have_the_threads_of_one(self, threads, layouts):
        made = scaling_plans.processes(QUICK, threads)
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
    measured = scaling.measure(sweep, rounds=1, warmup=0, threads=1)
    time = measured.series[0]
    assert time.xs == (1, 3)
    assert all(y >= 0.05 * x for x, y in zip(time.xs, time.ys, strict=True))
    assert measured.results.title == "dummies"


def test_two_processes_compute_the_gradients_of_one():
    results = scaling.share_work(QUICK, rounds=1, warmup=0, threads=2)
    assert list(results.timings) == [
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
    rounds = []

    def invented(candidates: list[Candidate], title: str, **options: object) -> Results:
        rounds.append(options["rounds"])
        results = Results(title, {}, threads=options["threads"])
        for index, each in enumerate(candidates):
            results.timings[each.name] = [Timing(1.0 + index, MIB * (index + 1))]
            own = {"processes": each.arguments.get("processes", 1), "threads": 1, "images": 2}
            results.facts[each.name] = {**own, "saved_bytes": MIB * (index + 1)}
        return results

    monkeypatch.setattr(scaling, "run", invented)
    out = tmp_path / "new" / "docs"
    args = arguments(parts=["backbone", "processes"], out=str(out))
    report = scaling.compare(args)
    assert rounds == [scaling.ROUNDS] * 7
    assert [each.along for each in report.curves] == ["area", "batch", "model"] * 2
    assert "ConvNeXt atto, forward + backward, one image, against input area" in report.text()
    assert "training steps with 2 images of 64x64" in report.text()
    assert (out / "scaling.md").is_file()
    err = capsys.readouterr().err
    assert "comparison 7 of 7: training in one and two processes" in err
    assert "scaling_backbone.png" in err


def test_pictures_alone_need_matplotlib(run_python):
    code = "import sys, benchmarks.scaling; print('matplotlib' in sys.modules)"
    assert run_python(code).strip() == "False"
