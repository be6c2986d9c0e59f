"""The plan for many GPUs: what is counted, and the rules on paper."""

import pytest

from benchmarks import plan
from benchmarks.__main__ import parse_args
from benchmarks.plan import Memory, batch_table, count


@pytest.fixture(scope="module")
def counted():
    return {
        mixed: count("mask_rcnn_convnext_shapes.py", (64, 96), 1, mixed) for mixed in (False, True)
    }


def test_what_is_counted_goes_down_with_what_saves_memory(counted):
    plain, mixed = counted[False], counted[True]
    assert plain.parameters == mixed.parameters > plain.of_blocks > plain.largest_block > 0
    assert plain.kept > plain.kept_recomputed
    assert plain.kept > mixed.kept > 0.4 * plain.kept, "in 16 bits, but not all of it"
    assert mixed.data_parallel() > mixed.data_parallel(True) > 16 * mixed.parameters


def test_what_is_kept_grows_with_the_images(counted):
    two = count("mask_rcnn_convnext_shapes.py", (64, 96), 2, mixed=False)
    assert two.kept == pytest.approx(2 * counted[False].kept, rel=0.01)


def test_sharding_divides_the_states():
    memory = Memory(1000, 800, 100, kept=5000, kept_recomputed=2000)
    assert memory.data_parallel() == 20 * 1000 + 5000
    # 200 beside the blocks and two blocks: weights and gradients
    assert memory.sharded(8) == 16 * 1000 // 8 + 8 * 400 + 5000
    assert memory.sharded(64, recomputed=True) == 250 + 3200 + 2000


def test_batches_are_accumulated_up_to_that_of_the_recipes():
    rows = {int(row[0]): row[1:7] for row in batch_table()[1:]}
    assert list(rows) == [1, 2, 4, 8, 16, 32, 64, 128, 256, 512]
    assert rows[1] == ["8", "16", "0.0002", "0.0002", "263880", "1000"]
    assert rows[8] == ["1", "16", "0.0002", "0.0002", "263880", "1000"]
    assert rows[64] == ["1", "128", "0.0016", "0.00057", "33012", "1000"]
    assert rows[512][-1] == "414", "a tenth of all iterations"


def test_the_page_is_written_where_it_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(plan, "MODELS", {"Small": ("mask_rcnn_convnext_shapes.py", 10.0)})
    monkeypatch.setattr(plan, "check", lambda: ["1.0", "1.1", "1.1"])
    plan.compare(parse_args(["plan", "--out", str(tmp_path)]))
    text = (tmp_path / "scale.md").read_text("utf-8")
    for part in ("| Small ", "| 512 ", "on paper", "counted", "measured"):
        assert part in text
