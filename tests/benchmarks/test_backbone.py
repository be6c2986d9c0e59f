"""The comparison of backbones, with tiny models of every library."""

from __future__ import annotations

import argparse
import importlib.util
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks import backbone, peers, roofline
from benchmarks.backbone import (
    Backbone,
    Task,
    candidates,
    check_of,
    compare_one,
    count_operations,
    names_of,
)
from benchmarks.comparison import Results, UnequalResultsError
from benchmarks.peers import Arch, fill, random_weights
from benchmarks.worker import BenchmarkError, Timing
from mmconvnext import ConvNeXt
from mmconvnext.models import fused_block

ARCH = Arch((1, 1, 2, 1), (8, 16, 24, 32))
SIZES = {"depths": ARCH.depths, "widths": ARCH.widths}
TASK = Task(ARCH, shape=(64, 96))


@pytest.fixture(autouse=True)
def _whatever_the_size(monkeypatch):
    """Ours computes maps as small as here layer by layer, which is not what is to be compared."""
    monkeypatch.setattr(fused_block, "FUSED_FROM_BYTES", 0)
    monkeypatch.setattr(fused_block, "TRAINED_FUSED_FROM_BYTES", 0)


def build(peer: str, task: Task = TASK) -> Backbone:
    (candidate,) = candidates(task, [peer])
    return Backbone(**candidate.arguments)


def importable(library: str) -> bool:
    return (peers.FOLDER / library).is_dir() or importlib.util.find_spec(library) is not None


def test_libraries_with_a_folder_of_their_own_train_alike():
    # The others are compared below, in this process, which is quicker.
    # In a process of its own, ours fuses but large maps: here those of the first stage.
    task = replace(TASK, train=True, batch=2, shape=(736, 736))
    names = names_of(task, ["transformers", "mmpretrain"])
    results = compare_one(task, candidates(task, names), rounds=1, warmup=0, threads=1)
    present = [name for name in names if name not in results.missing]
    assert list(results.timings) == [*present, roofline.GEMM]
    assert all(not importable(name) for name in results.missing)
    for distances in results.distances.values():
        assert set(distances) == {"features", "gradients"}
        assert max(distances.values()) < 1e-4
    for name in present:
        assert results.facts[name]["saved_bytes"] > 0
        assert results.facts[name]["operations"] == count_operations(task)


@pytest.mark.parametrize("v2", [False, True])
@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("peer", ["ours, plain", "timm", "timm, channels_last", "torchvision"])
def test_other_libraries_are_equal(peer, train, v2):
    if not importable(peer.partition(",")[0]) and not peer.startswith("ours"):
        pytest.skip(f"{peer} is not installed")
    if v2 and not peers.PEERS[peer].has_v2:
        pytest.skip(f"{peer} has no V2")
    task = replace(TASK, train=train, arch=ARCH._replace(v2=v2))
    ours, theirs = build("ours", task).check(), build(peer, task).check()
    assert [array.shape for array in ours.values()][:4] == [
        (1, 8, 16, 24),
        (1, 16, 8, 12),
        (1, 24, 4, 6),
        (1, 32, 2, 3),
    ]
    num_gradients = len(random_weights(task.arch)) + 1  # and the image's
    assert len(ours) == 4 + (num_gradients if train else 0)
    assert max(check_of(task)(peer, ours, theirs).values()) < 1e-5


def test_another_result_is_noticed():
    candidate = build("ours, plain")
    with torch.no_grad():
        candidate._model.model.stages[2][1].gamma[3] += 0.01
    with pytest.raises(UnequalResultsError, match="features of stage 2"):
        check_of(TASK)("changed", build("ours").check(), candidate.check())


def test_half_precision_is_compared_as_such():
    task = replace(TASK, dtype="bfloat16", train=True)
    ours, plain = build("ours", task).check(), build("ours, plain", task).check()
    assert all(array.dtype == np.float32 for array in ours.values())
    distances = check_of(task)("plain", ours, plain)
    assert 0 <= distances["gradients"] < 3e-2
    in_full = build("ours", replace(TASK, train=True)).check()
    assert 1e-4 < check_of(task)("float32", in_full, ours)["features"] < 3e-2


def test_check_leaves_a_run_as_it_was():
    candidate = build("ours", replace(TASK, train=True))
    before = candidate.check()
    candidate.run()
    assert candidate._image.grad is None  # training does not need it
    assert all(param.grad is not None for param in candidate._model.parameters())
    after = candidate.check()
    assert all(np.array_equal(array, after[name]) for name, array in before.items())


def test_inference_keeps_nothing():
    candidate = build("ours")
    candidate.run()
    assert "saved_bytes" not in candidate.facts()
    assert not candidate._model.training


def test_saved_bytes_are_counted_once_and_without_parameters():
    class Scaling(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1))

        def forward(self, image):
            x = (image * self.weight).exp()  # saves the image, the weight, and its own result
            return (x * x[:1],)  # saves its result twice again, once as a view

    candidate = build("ours", replace(TASK, train=True))
    candidate._model = Scaling()
    assert candidate.facts()["saved_bytes"] == candidate._image.numel() * 4


class TestFill:
    weights = random_weights(ARCH)

    def test_weights_show_errors(self):
        assert set(self.weights) == set(ConvNeXt(SIZES).state_dict())
        gammas = [v for k, v in self.weights.items() if k.endswith("gamma")]
        assert all(0.1 < gamma.mean() < 0.5 for gamma in gammas)
        again = random_weights(ARCH)
        assert all(torch.equal(tensor, again[name]) for name, tensor in self.weights.items())

    def test_every_parameter_is_filled(self):
        model = ConvNeXt(SIZES)
        fill(model, self.weights)
        assert all(torch.equal(v, self.weights[k]) for k, v in model.state_dict().items())

    @pytest.mark.parametrize("depths", [(1, 1, 1, 1), (1, 1, 3, 1)])
    def test_another_model_is_refused(self, depths):
        with pytest.raises(BenchmarkError, match=r"its parameters are not ours: .*stages\.2\."):
            fill(ConvNeXt({**SIZES, "depths": depths}), self.weights)

    def test_copies_are_noticed(self, monkeypatch):
        copy = {k: v.clone() for k, v in ConvNeXt(SIZES).state_dict().items()}
        monkeypatch.setattr(peers, "convert", lambda *_: copy)
        with pytest.raises(BenchmarkError, match="did not get our weights"):
            fill(ConvNeXt(SIZES), self.weights)


def test_operations_are_those_of_the_paper():
    paper = 4.5e9  # multiply-adds of T at 224x224, arXiv 2201.03545, table 1
    task = Task("tiny", shape=(224, 224))
    assert count_operations(task) == pytest.approx(2 * paper, rel=0.02)
    assert count_operations(replace(task, train=True, batch=2)) == 6 * count_operations(task)


def test_choosing():
    assert names_of(TASK, ["timm"]) == ["ours", "timm", "timm, channels_last"]
    assert names_of(TASK, [], plain=True) == ["ours", "ours, plain"]
    assert names_of(Task("v2-tiny"), ["torchvision", "transformers"]) == ["ours", "transformers"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"arch": "enormous"}, "--arch: arch='enormous' is not a ConvNeXt variant"),
        ({"shape": (16, 96)}, "--shape 16 96 must be at least 32"),
    ],
)
def test_wrong_tasks(change, words):
    with pytest.raises(BenchmarkError, match=words):
        candidates(replace(TASK, **change), ["ours"])


def test_the_command(monkeypatch):
    def invented(candidates, check, title, **_):
        ours, gemm = (candidate.name for candidate in candidates)
        timings = {ours: [Timing(2.0, None)], gemm: [Timing(0.5, None)]}
        facts = {ours: {"operations": 8e10, "saved_bytes": 3.0 * 2**20}, gemm: {"operations": 1e11}}
        return Results(title, timings, facts=facts)

    monkeypatch.setattr(backbone, "run", invented)
    parser = argparse.ArgumentParser()
    backbone.add_arguments(parser)
    command = "--arch atto nano --shape 32 32 --device cpu --train --dtype float16"
    args = parser.parse_args(command.split(), argparse.Namespace(rounds=1, warmup=0, threads=1))
    args.peers = []
    text = backbone.compare(args).text(markdown=True)
    assert "ConvNeXt atto, forward + backward, float16 autocast, 2x3x32x32, cpu" in text
    assert "ConvNeXt nano, forward + backward, float16 autocast, 2x3x32x32, cpu" in text
    assert "saved MiB (/ ours)" in text
    row = next(line for line in text.splitlines() if line.startswith("| ours"))
    cells = [cell.strip() for cell in row.split("|")]
    assert cells[-4:-1] == ["3 (1.00)", "40", "20%"]
