import pickle

from mmengine.config import Config

from mmconvnext.data.shapes import generate_shapes
from mmconvnext.engine import config as configs
from mmconvnext.evaluation.oracle import oracle_metrics


def test_several_data_sets_with_classes_and_a_file_of_predictions(tmp_path):
    generate_shapes(tmp_path, num_train=4, num_val=3)
    cfg = Config(configs.load_config("mask_rcnn_convnext_shapes.py").to_dict())
    configs.set_data_root(cfg, str(tmp_path))
    val = cfg.test_dataloader.dataset
    train = {**val, "ann_file": "annotations/instances_train.json", "data_prefix": {"img": "train"}}
    cfg.test_dataloader.dataset = {"type": "ConcatDataset", "datasets": [train, val]}
    metrics = [
        {**cfg.test_evaluator, "ann_file": f"{tmp_path}/{each['ann_file']}"}
        for each in (train, val)
    ]
    cfg.test_evaluator = {
        "type": "MultiDatasetsEvaluator",
        "metrics": metrics,
        "dataset_prefixes": ["one", "two"],
    }
    configs.ask_for_classwise(cfg)
    configs.dump_predictions(cfg, str(tmp_path / "all.pkl"))
    found = oracle_metrics(cfg)
    for name in ("one", "two"):
        assert found[f"{name}/coco/bbox_mAP"] == found[f"{name}/coco/segm_mAP"] == 1
        assert found[f"{name}/coco/segm/disk_precision"] == 1
    assert len(pickle.loads((tmp_path / "all.pkl").read_bytes())) == 7
