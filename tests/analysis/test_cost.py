from mmconvnext.analysis.cost import Cost, Part, cost_info, cost_table
from mmconvnext.engine.config import load_config

PARTS = (Part("backbone", 1_260_000, 2_340_000_000), Part("head", 0, 1_000_000_000))
COST = Cost((64, 64), 1_260_000, 3_340_000_000, PARTS, "what was counted")


def test_the_table_has_every_part_their_sum_and_the_protocol():
    *table, protocol = cost_table(COST).splitlines()
    cells = [[c.strip() for c in line.strip("|").split("|")] for line in table if line[0] == "|"]
    assert cells == [
        ["part", "params, M", "FLOPs, G"],
        ["backbone", "1.3", "2.3"],
        ["head", "0.0", "1.0"],
        ["sum", "1.3", "3.3"],
    ]
    assert protocol == "FLOPs: what was counted"


def test_the_file_has_numbers_unit_and_origin(repo):
    cfg = load_config(str(repo / "configs" / "mask_rcnn_convnext_shapes.py"))
    info = cost_info(COST, cfg)
    assert (info["flops"], info["params"]) == (3_340_000_000, 1_260_000)
    assert info["shape"] == (64, 64)
    assert [part["name"] for part in info["parts"]] == ["backbone", "head"]
    assert "multiply-adds" in info["unit"]
    assert info["run"]["config"] == cfg.filename
