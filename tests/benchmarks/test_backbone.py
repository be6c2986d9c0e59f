"""The comparison of backbones, with tiny models of every library."""

from __future__ import annotations

import importlib.util
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks import backbone, roofline
from benchmarks.backbone import Arch, Backbone, Task, candidates, check_of, fill, random_weights
from benchmarks.comparison import Results, UnequalResultsError, run
from benchmarks.worker import BenchmarkError, Timing, python_path
from mmconvnext import ConvNeXt
from mmconvnext.models import fused_block
from tests.benchmarks.helpers import MIB, arguments, cells, use_this_process

ARCH = Arch((1, 1, 2, 1), (8, 16, 24, 32))
SIZES = {"depths": ARCH.depths, "widths": ARCH.widths}
TASK = Task(ARCH, shape=(64, 96))
TRAIN = replace(TASK, train=True)


@pytest.fixture(autouse=True)
def _whatever_the_size(monkeypatch):
    """Ours computes maps as small as here layer by layer, which is not what is to be compared."""
    monkeypatch.setattr(fused_block, "FUSED_FROM_BYTES", 0)
    monkeypatch.setattr(fused_block, "TRAINED_FUSED_FROM_BYTES", 0)


@pytest.mark.slow
def test_libraries_with_a_folder_of_their_own_train_alike(monkeypatch):
    use_this_process(monkeypatch, lambda candidate: not candidate.compared)
    # The others are compared below, in this process, which is quicker.
    # In a process of its own, ours fuses but large maps: here those of the first stage.
    task = replace(TRAIN, batch=2, shape=(384, 384))
    names = ["transformers", "mmpretrain"]
    results = run(candidates(task, names), arguments("backbone"), check_of(task))
    present = ["ours", *(name for name in names if name not in results.missing)]
    assert list(results.timings) == [*present, roofline.GEMM]
    assert not any(python_path(name) for name in results.missing)
    for distances in results.distances.values():
        assert set(distances) == {"features", "gradients"}
        assert max(distances.values()) < 1e-4
    for name in present:
        assert results.facts[name]["saved_bytes"] > 0
        assert results.facts[name]["operations"] == 6 * task.multiply_adds()


@pytest.mark.parametrize("v2", [False, True])
@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("peer", ["ours, plain", "timm", "timm, channels_last", "torchvision"])
def test_other_libraries_are_equal(peer, train, v2):
    library = peer.partition(",")[0]
    if library != "ours" and importlib.util.find_spec(library) is None:
        pytest.skip(f"{peer} is not installed")
    if v2 and not backbone.PEERS[peer].has_v2:
        pytest.skip(f"{peer} has no V2")
    task = replace(TASK, train=train, arch=ARCH._replace(v2=v2))
    ours, theirs = Backbone("ours", task).check(), Backbone(peer, task).check()
    shapes = [(1, 8, 16, 24), (1, 16, 8, 12), (1, 24, 4, 6), (1, 32, 2, 3)]
    assert [array.shape for array in ours.values()][:4] == shapes
    assert len(ours) == 4 + (len(random_weights(task.arch)) if train else 0)
    assert max(check_of(task)(peer, ours, theirs).values()) < 1e-5


def test_another_result_is_noticed():
    candidate = Backbone("ours, plain", TASK)
    with torch.no_grad():
        candidate._model.stages[2][1].gamma[3] += 0.01
    with pytest.raises(UnequalResultsError, match="features of stage 2"):
        check_of(TASK)("changed", Backbone("ours", TASK).check(), candidate.check())


def test_half_precision_is_compared_as_such():
    task = replace(TRAIN, dtype="bfloat16")
    ours, plain = (Backbone(peer, task).check() for peer in ("ours", "ours, plain"))
    assert all(array.dtype == np.float32 for array in ours.values())
    assert 0 <= check_of(task)("plain", ours, plain)["gradients"] < 3e-2
    in_full = Backbone("ours", TRAIN).check()
    assert 1e-4 < check_of(task)("float32", in_full, ours)["features"] < 3e-2


@pytest.mark.parametrize("train", [False, True])
def test_check_leaves_a_run_as_it_was(train):
    candidate = Backbone("ours", replace(TASK, train=train))
    before = {name: array.copy() for name, array in candidate.check().items()}
    candidate.run()
    assert all((param.grad is not None) == train for param in candidate._model.parameters())
    assert candidate._image.grad is None  # training does not need it
    assert candidate._model.training == train == ("saved_bytes" in candidate.facts())
    after = candidate.check()
    assert all(np.array_equal(array, after[name]) for name, array in before.items())


def test_saved_bytes_are_counted_once_and_without_parameters():
    class Scaling(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1))

        def forward(self, image):
            x = (image * self.weight).exp()  # saves the image, the weight, and its own result
            return (x * x[:1],)  # saves its result twice again, once as a view

    candidate = Backbone("ours", TRAIN)
    candidate._model = Scaling()
    assert candidate.facts()["saved_bytes"] == candidate._image.numel() * 4


def test_weights_show_errors_and_fill_every_parameter():
    weights, again = random_weights(ARCH), random_weights(ARCH)
    assert all(0.1 < v.mean() < 0.5 for k, v in weights.items() if k.endswith("gamma"))
    assert all(torch.equal(tensor, again[name]) for name, tensor in weights.items())
    model = ConvNeXt(SIZES)
    fill(model, weights)
    state = model.state_dict()
    assert set(state) == set(weights)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in state.items())


def test_what_is_not_filled_is_noticed(monkeypatch):
    for depth in (1, 3):
        with pytest.raises(BenchmarkError, match=r"its parameters are not ours: .*stages\.2\."):
            fill(ConvNeXt({**SIZES, "depths": (1, 1, depth, 1)}), random_weights(ARCH))
    copy = {k: v.clone() for k, v in ConvNeXt(SIZES).state_dict().items()}
    monkeypatch.setattr(backbone, "convert", lambda *_: copy)
    with pytest.raises(BenchmarkError, match="did not get our weights"):
        fill(ConvNeXt(SIZES), random_weights(ARCH))


def test_the_work_is_that_of_the_paper():
    facts = Backbone("ours", Task("tiny", shape=(224, 224), train=True, batch=2)).facts()
    assert facts["multiply_adds"] == pytest.approx(2 * 4.5e9, rel=0.02)  # arXiv 2201.03545; forward
    assert facts["operations"] == 6 * facts["multiply_adds"]
    assert facts["parameters"] == 27_821_472  # with output norms
    assert (facts["pixels"], facts["images"]) == (224 * 224, 2)


def test_the_command(monkeypatch):
    def invented(candidates, args, check, title):
        names.append([candidate.name for candidate in candidates])
        timings = {name: [Timing(2.0)] for name in names[-1]}
        facts = {name: {"operations": 8e10, "saved_bytes": 3.0 * MIB} for name in timings}
        timings[roofline.GEMM] = [Timing(0.5)]
        facts[roofline.GEMM] = {"operations": 1e11}
        return Results(title, timings, facts=facts)

    names = []
    monkeypatch.setattr(backbone, "run", invented)
    what = "--arch atto v2-nano --shape 32 32 --train --dtype float16"
    args = arguments("backbone", *what.split(), "--plain", "--peers", "torchvision")
    text = backbone.compare(args).text()
    peers = [["ours", "ours, plain", "torchvision"], ["ours", "ours, plain"]]  # it has no V2
    assert names == [[*each, roofline.GEMM] for each in peers]
    for arch in ("atto", "v2-nano"):
        what = "forward + backward, float16 autocast, 2x3x32x32, cpu"
        assert f"ConvNeXt {arch}, {what}" in text
    assert cells(text, "  ")[-3:] == ["saved MiB (/ ours)", "GFLOP/s", "of GEMM"]
    assert cells(text, "ours")[-3:] == ["3 (1.00)", "40", "20%"]
