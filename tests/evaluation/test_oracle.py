import pytest

from mmconvnext.cli import main
from mmconvnext.data.shapes import generate_shapes
from mmconvnext.engine.config import load_config, set_data_root
from mmconvnext.errors import ConfigError
from mmconvnext.evaluation.oracle import oracle_metrics


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    root = tmp_path_factory.mktemp("shapes")
    generate_shapes(root, num_train=4, num_val=6)
    return root


@pytest.fixture
def cfg(shapes):
    cfg = load_config("mask_rcnn_convnext_shapes.py")
    set_data_root(cfg, str(shapes))
    return cfg


@pytest.mark.parametrize("scale", [(160, 160), (400, 300), (64, 64)])
@pytest.mark.parametrize("first", ["load", "resize"])
def test_ground_truth_has_ap_1_whatever_the_pipeline(cfg, scale, first):
    load, resize, annotations, pack = cfg.test_dataloader.dataset.pipeline
    resize = {"type": "Resize", "scale": scale, "keep_ratio": True}
    middle = [annotations, resize] if first == "load" else [resize, annotations]
    cfg.test_dataloader.dataset.pipeline = [load, *middle, pack]
    metrics = oracle_metrics(cfg)
    assert metrics["coco/bbox_mAP"] == 1
    # masks that were resized there and back are not the same
    assert metrics["coco/segm_mAP"] == 1 or (first == "load" and scale != (160, 160))


def test_a_pipeline_that_loses_objects_is_seen(cfg):
    cut = {"type": "FilterAnnotations", "min_gt_bbox_wh": (40, 40), "keep_empty": False}
    cfg.test_dataloader.dataset.pipeline.insert(3, cut)
    assert oracle_metrics(cfg)["coco/bbox_mAP"] < 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda cfg: cfg.pop("test_dataloader"), "no test_dataloader"),
        (lambda cfg: cfg.test_dataloader.dataset.pipeline.pop(2), "no ground truth"),
    ],
)
def test_what_cannot_be_evaluated(cfg, change, said):
    change(cfg)
    with pytest.raises(ConfigError, match=said):
        oracle_metrics(cfg)


def test_the_command(shapes, capsys, tmp_path):
    command = ["check-data", "mask_rcnn_convnext_shapes.py", "--data-root", str(shapes)]
    assert main([*command, "--oracle", "--json", str(tmp_path / "found.json")]) == 0
    shown = capsys.readouterr().out
    assert "annotation files that can be used: 2\n" in shown  # the test's is the validation's
    assert "| mask        | 100.0 |" in shown
    assert "passed: the ground truth itself has AP 100" in shown
    assert "loading annotations" not in shown
    recall = "test_evaluator.metric=proposal"
    assert main([*command, "--oracle", "--cfg-options", recall]) == 1
    assert "the test has no AP of boxes or masks" in capsys.readouterr().err
    for name in ("val", "annotations/instances_val.json"):  # without a training part
        (tmp_path / "alone" / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / "alone" / name).symlink_to(shapes / name)
    alone = ["check-data", "mask_rcnn_convnext_shapes.py", "--dataset", str(tmp_path / "alone")]
    assert main([*alone, "--oracle"]) == 0
    assert "annotation files that can be used: 1\n" in capsys.readouterr().out
    for name in ("none.json", "train"):  # a folder
        file = f"val_dataloader.dataset.ann_file={name}"
        assert main([*command, "--cfg-options", file]) == 1
        assert f"the annotation file {shapes / name} (val_dataloader" in capsys.readouterr().err
    cut = "test_dataloader.dataset.indices=2"
    assert main([*command, "--oracle", "--cfg-options", cut]) == 1
    assert "test_dataloader.dataset.indices=2 evaluates some" in capsys.readouterr().err
    assert main([*command, "--oracle", "--data-checks", "off", "--cfg-options", cut]) == 1
    assert "the ground truth itself has coco/bbox_mAP=0." in capsys.readouterr().err
