"""The paper's table 3: that every config is in it, and what stands beside the published numbers."""

import json

import pytest

from benchmarks import table3
from benchmarks.comparison import Results
from benchmarks.worker import Timing
from tests.benchmarks.helpers import arguments


def test_every_config_is_in_the_table_as_its_first_line_says(repo):
    rows = table3.read_table()
    in_folder = {f"table3/{path.stem}" for path in (repo / "configs" / "table3").glob("*.py")}
    assert {row.config for row in rows if row.config.startswith("table3/")} == in_folder
    for row in rows:
        first = (repo / "configs" / f"{row.config}.py").read_text().partition("\n")[0]
        assert first.startswith(f"# Published: {row.box} box AP, {row.mask} mask AP (3x, ImageNet-")
    firsts = {row.group: row.config for row in reversed(rows)}
    assert all("_convnext_" in config for config in firsts.values())


def test_counted_beside_published_and_trained(tmp_path):
    folder = tmp_path / "mask_rcnn_swin_t_coco"
    folder.mkdir()
    metrics = {"bbox_mAP": 0.4601, "segm_mAP": 0.4157}
    (folder / "result.json").write_text(json.dumps({"metrics": metrics}))
    report = table3.compare(arguments("table3", "--groups", "Mask T", "--work-dirs", tmp_path))
    ((_, *rows),) = report.summary.values()
    assert rows == [
        ["mask_rcnn_convnext_t", "46.2 / 41.7", "-", *("48.1", "48", "+0.20")]
        + ["261.9", "262", "-0.04"],
        ["mask_rcnn_swin_t", "46.0 / 41.6", "46.0 / 41.6", *("47.8", "48", "-0.43")]
        + ["266.6", "267", "-0.17"],
    ]
    assert "rounds" not in report.text()  # nothing was timed
    assert report.to_json()["table"]


def test_the_published_speed_beside_ours(monkeypatch, coco_tiny):
    def run(candidates, args, title):
        assert candidates[0].arguments["config"] == "cascade_convnext_t_coco.py"
        timings = {each.name: [Timing(1.0)] for each in candidates}
        return Results(title, timings, facts={each.name: {**each.facts} for each in candidates})

    monkeypatch.setattr(table3, "run", run)
    monkeypatch.setattr(table3, "cells", lambda row, _: [row.name] * 9)
    args = arguments("table3", "--groups", "T", "--data-root", coco_tiny)
    (results,) = table3.compare(args).tables
    ratios = {k: v.get("published_ratio") for k, v in results.facts.items()}
    assert ratios["cascade_convnext_t"] == 1
    assert ratios["cascade_swin_t"] == pytest.approx(13.5 / 12.2)
    assert ratios["cascade_dwnet_t"] is None
    assert results.title == "T, 4 images at full size, cpu"
