"""Lower precision: of the detector's modules alone, as far as the AP allows, in files that open."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from mmconvnext.data import generate_shapes
from mmconvnext.deploy import quantize
from mmconvnext.deploy.export import export
from mmconvnext.deploy.sessions import Session
from mmconvnext.errors import QuantizationError
from tests.deploy.conftest import CLASSES, MASK, config

pytest.importorskip("openvino", reason="pip install mmconvnext[quantize]")
pytest.importorskip("onnxscript", reason="pip install mmconvnext[quantize]")
META = {"classes": [*CLASSES], "mask_threshold": 0.5, "precision": "f32"}
MODULES = ["backbone.stages.0", "backbone.stages.1", "neck", "roi_head.bbox_head"]
MODULES += ["roi_head.mask_head"]
LIMIT = 5
SUFFIXES = pytest.mark.parametrize("suffix", [".xml", ".onnx"])


class Parts(nn.Module):
    """Modules of a detector by their usual names."""

    def __init__(self):
        super().__init__()
        self.backbone, self.roi_head = nn.Module(), nn.Module()
        self.backbone.stages = nn.ModuleList([nn.Conv2d(3, 8, 4, 4), nn.Conv2d(8, 8, 2, 2)])
        self.neck = nn.Conv2d(8, 16, 1)
        self.roi_head.bbox_head, self.roi_head.mask_head = nn.Linear(16, 20), nn.Linear(16, 64)


class Toy(nn.Module):
    """Four boxes in each picture; the neck's input has a channel that is far larger than others."""

    def __init__(self, *_):
        super().__init__()
        torch.manual_seed(0)
        self.detector = Parts()
        with torch.no_grad():
            self.detector.backbone.stages[1].weight[0] *= 3000
            self.detector.neck.weight[:, 0] /= 3000
            self.detector.roi_head.bbox_head.weight *= 3

    def forward(self, pictures):
        features = pictures.permute(0, 3, 1, 2).float() / 255 - 0.5
        for stage in self.detector.backbone.stages:
            features = stage(features)
        pooled = self.detector.neck(features).relu().amax((2, 3))
        out = self.detector.roi_head.bbox_head(pooled).view(-1, 4, 5).sigmoid()
        boxes = torch.cat([out[..., :2] * 40, out[..., :2] * 40 + out[..., 2:4] * 50 + 2], -1)
        labels = torch.arange(4).expand(out.shape[0], -1) % 3
        masks = self.detector.roi_head.mask_head(pooled).sigmoid().view(-1, 4, 4, 4)
        return boxes, out[..., 4], labels, masks


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """The toy in float32, of both kinds."""
    folder = tmp_path_factory.mktemp("float32")
    paths = {suffix: folder / f"toy{suffix}" for suffix in (".xml", ".onnx")}
    for path in paths.values():
        export(Toy(), path, META)
    return paths


@pytest.fixture(scope="module")
def noise() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    sides = [(64, 96), (80, 64), (64, 64)]
    return [cv2.resize(rng.integers(0, 256, (9, 9, 3), np.uint8), side) for side in sides]


def agreement_of(source, noise):
    """A measure: 100 where a file finds what the source does."""

    def measure(path):
        pairs = [[Session(each)(picture[None]) for each in (source, path)] for picture in noise]
        return {"box": 100 * float(np.mean([quantize.agreement(*pair) for pair in pairs]))}

    return measure


def quantised_inputs(model) -> list[str]:
    """Names of the operations that take what is quantised."""
    if hasattr(model, "graph"):
        made = {node.output[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
        return [node.name for node in model.graph.node if made & {*node.input}]
    quantizers = [op for op in model.get_ops() if op.get_type_name() == "FakeQuantize"]
    targets = [target for op in quantizers for target in op.output(0).get_target_inputs()]
    return [target.get_node().get_friendly_name() for target in targets]


@SUFFIXES
def test_int8_is_of_modules_that_are_not_kept(sources, suffix, noise):
    pytest.importorskip("nncf", reason="pip install mmconvnext[quantize]")
    assert {*quantize.modules_of(sources[suffix])} == {f"detector.{name}" for name in MODULES}
    model, _ = quantize.reopened(sources[suffix])
    names = quantised_inputs(quantize.calibrated(model, noise, ["detector.neck"]))
    for module in MODULES:
        inside = [name for name in names if name.startswith(f"detector.{module}")]
        assert bool(inside) == (module != "neck"), (module, names)
    assert all(name.startswith("detector.") for name in names)


def test_what_loses_most_is_put_back_until_the_loss_is_small(sources, noise):
    pytest.importorskip("nncf", reason="pip install mmconvnext[quantize]")
    source, lines = sources[".xml"], []
    found = quantize.quantize(
        source, "int8", noise, agreement_of(source, noise), LIMIT, lines.append
    )
    assert f"more than --max-drop {LIMIT}: modules are put back" in lines[0]
    assert len(lines) == 1 + len(MODULES) + len(found.kept)
    assert "s left" in lines[1]
    assert found.kept[0]["module"] == "detector.neck"
    losses = [each["loss"] for each in found.kept]
    assert losses == sorted(losses, reverse=True)
    assert found.drop == found.kept[-1]["drop"] <= LIMIT
    assert Session(found.path).meta == {**META, "precision": "int8"}


def test_a_loss_that_cannot_be_kept_stops_with_the_reason(sources, noise, monkeypatch):
    monkeypatch.setattr(quantize, "calibrated", lambda model, pictures, kept: model)
    aps = iter([50.0, 49.0, *[49.4] * 9])
    with pytest.raises(QuantizationError) as stopped:
        quantize.quantize(sources[".xml"], "int8", noise, lambda _: {"box": next(aps)}, 0.5)
    assert "int8 loses 0.60 AP, more than --max-drop 0.5 even with detector." in str(stopped.value)
    assert "no file is written" in str(stopped.value)
    aps = iter([50.0, 49.0])
    with pytest.raises(QuantizationError, match=r"bf16 loses 1\.00 AP, more than --max-drop 0\.5;"):
        quantize.quantize(sources[".xml"], "bf16", noise, lambda _: {"box": next(aps)}, 0.5)


@pytest.mark.parametrize(
    ("to", "suffix", "hint"),
    [("bf16", ".xml", "bf16"), ("fp16", ".xml", "f16"), ("fp16", ".onnx", "f16")],
)
def test_half_precision_is_half_the_size(sources, noise, to, suffix, hint):
    source = sources[suffix]
    found = quantize.quantize(source, to, (), agreement_of(source, noise), 5)
    assert found.before == {"box": pytest.approx(100)}
    assert 0 <= found.drop < 5
    model, meta = quantize.reopened(found.path, more=1)
    assert meta == {**META, "precision": hint, "more": 1}
    if suffix == ".xml":
        sizes = [path.with_suffix(".bin").stat().st_size for path in (found.path, source)]
        assert sizes[0] < 0.6 * sizes[1]
    else:
        kinds = {weight.data_type for weight in model.graph.initializer if len(weight.dims) > 1}
        assert kinds == {10}  # FLOAT16


def test_agreement_is_of_places_labels_scores_and_masks():
    boxes = np.float32([[[0, 0, 10, 10], [20, 20, 40, 40], [0, 0, 0, 0]]])
    scores, labels = np.float32([[0.8, 0.2, -1]]), np.int64([[0, 1, -1]])
    masks = np.ones((1, 3, 2, 2), np.float32)
    found = boxes, scores, labels, masks
    assert quantize.agreement(found, found) == pytest.approx(1)
    assert quantize.agreement(found[:3], found[:3]) == pytest.approx(1)
    assert quantize.agreement(found, (boxes, scores, 1 - labels, masks)) == 0
    assert quantize.agreement(found, (boxes, scores / 2, labels, masks)) == pytest.approx(0.5)
    assert quantize.agreement(found, (boxes, scores, labels, masks / 4)) == pytest.approx(0.25)
    half = boxes * np.float32([1, 1, 0.5, 1])  # of the first box
    half[0, 1] = boxes[0, 1]
    assert quantize.agreement(found, (half, scores, labels, masks)) == pytest.approx(0.6)
    nothing = boxes, -np.ones_like(scores), labels, masks
    assert quantize.agreement(found, nothing) == 0
    assert quantize.agreement(nothing, nothing) == 1
    assert quantize.agreement(nothing, found) == 0


def test_speeds_are_of_rounds(sources, noise):
    first, second = quantize.speeds([*sources.values()], noise, rounds=3)
    assert len(first) == len(second) == 3
    assert min(first + second) > 0


def test_the_command(checkpoints, tmp_path, monkeypatch, main):
    pytest.importorskip("nncf", reason="pip install mmconvnext[quantize]")
    monkeypatch.setattr("mmconvnext.deploy.settings.TwoStageGraph", Toy)
    data, config_file, out = tmp_path / "shapes", tmp_path / "tiny.py", tmp_path / "tiny_int8.xml"
    generate_shapes(data, num_train=3, num_val=2, image_size=96)
    config(MASK).dump(config_file)
    tested = [config_file, out, "--data-root", data, "--work-dir", tmp_path / "test"]
    arguments = [config_file, checkpoints[MASK], *tested[2:4], "--out", out, "--calibration", 9]
    shown = main("quantize", *arguments)
    assert "the training data has 3 pictures" in shown
    assert "loading annotations" not in shown  # pycocotools
    assert "box AP" in shown
    assert "mask AP" in shown
    report = json.loads(Path(f"{out}.json").read_text())
    meta = Session(out).meta
    assert meta["precision"] == "int8"
    assert meta["quantization"].items() <= report.items()
    assert report["calibration"] == {"pictures": 3, "seed": 0}
    for part in ("before", "after"):
        assert report[part]["ap"].keys() == {"coco/bbox_mAP", "coco/segm_mAP"}
        assert len(report[part]["images_per_second"]) == 5
    assert report["drop"] <= 0.5
    main("test", *tested)
    measured = json.loads((tmp_path / "test" / "result.json").read_text())["metrics"]
    assert 100 * measured["bbox_mAP"] == pytest.approx(report["after"]["ap"]["coco/bbox_mAP"])
