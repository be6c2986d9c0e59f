"""The paper's arithmetic, by hand."""

from __future__ import annotations

import pytest

from benchmarks.detectors import OURS, PUBLISHED_FPS
from benchmarks.schedule import PUBLISHED, Published, assumptions, cost, costs, table


def test_eight_gpus():
    found = cost(Published("a detector", 30.0), gpus=8)
    assert (found.batch, found.iterations) == (16, 36 * 7330)  # 117,266 / 16 is 7,329.1
    assert found.images_per_second == 10
    assert found.hours == pytest.approx(36 * 7330 * 2 / 10 / 3600)
    assert found.gpu_hours == pytest.approx(8 * found.hours)


def test_eight_times_the_gpus_take_an_eighth_but_for_the_last_batch():
    few, many = (cost(PUBLISHED[0], gpus) for gpus in (8, 64))
    assert (many.batch, many.iterations) == (128, 36 * 917)
    assert few.hours / many.hours == pytest.approx(8, rel=2e-3)


def test_speeds_are_those_of_the_comparison():
    speeds = {detector.name: detector.images_per_second for detector in PUBLISHED}
    assert speeds["Mask R-CNN T"] == PUBLISHED_FPS["mask_rcnn", OURS]
    assert speeds["Cascade T"] == PUBLISHED_FPS["cascade", OURS]


def test_table():
    lines = table(costs(), markdown=True).splitlines()
    assert len(lines) == 2 + len(PUBLISHED)
    row = next(line for line in lines if line.startswith("| Cascade XL"))
    assert [cell.strip() for cell in row.split("|")[2:-1]] == ["8.6", "2.9", "409", "51.1", "6.4"]


def test_assumptions_are_stated():
    text = "\n".join(assumptions())
    for words in ("an estimate", "117,266", "263,880", "33,012", "mixed precision", "upper bound"):
        assert words in text
    assert "the batch is 128: the learning rate, tuned for 16" in text
