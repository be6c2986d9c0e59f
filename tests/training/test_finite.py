"""Steps whose loss or gradient is not finite are skipped, kept to be replayed, and bounded."""

import json
import math
import multiprocessing
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.hooks import EMAHook
from mmengine.logging import MMLogger
from mmengine.model import BaseModel, MMDistributedDataParallel
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from mmengine.optim.optimizer import amp_optimizer_wrapper
from torch import nn
from torch.utils.data import DataLoader

from mmconvnext.engine.runner import DetectionRunner
from mmconvnext.errors import UserError
from mmconvnext.training.checkpoints import newest_whole
from mmconvnext.training.finite import FiniteStepHook
from mmconvnext.training.gradients import CAUSE, ExplodingGradientHook


class _Poisoned(torch.autograd.Function):
    """The identity, with a gradient that is not finite."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * math.inf


class Model(BaseModel):
    """A linear layer and batch norm; a picture's name says what is wrong with it."""

    def __init__(self):
        super().__init__()
        self.norm, self.line = nn.BatchNorm1d(3), nn.Linear(3, 1)
        nn.init.ones_(self.line.weight)

    def forward(self, inputs, data_samples, mode="loss"):
        names = [sample.img_path for sample in data_samples]
        x = torch.stack(inputs)
        if any("nan" in name for name in names):
            x = x * math.nan
        loss = self.line(self.norm(x)).square().mean()
        if any("gradient" in name for name in names):
            loss = _Poisoned.apply(loss)
        if any("spike" in name for name in names):
            loss = loss * 1000
        if any("constant" in name for name in names):
            loss = loss + torch.tensor(math.inf)  # the gradient stays as it is
        return {"loss_line": loss}


def batches(*names: str) -> DataLoader:
    """Batches of two, of which the second picture has the name."""

    def sample(index, name):
        torch.manual_seed(index)
        metainfo = {"img_id": index, "img_path": name}
        return {"inputs": torch.randn(3), "data_samples": DetDataSample(metainfo=metainfo)}

    data = [sample(10 * i + j, n) for i, name in enumerate(names) for j, n in enumerate(("", name))]
    return DataLoader(data, 2, collate_fn=lambda each: {k: [s[k] for s in each] for k in each[0]})


def start(folder, *names, wrapper=OptimWrapper, hooks=(), most=10, save=100, lr=0.1, **options):
    torch.manual_seed(0)
    model = Model()
    if options.pop("wrapped", False):
        model = MMDistributedDataParallel(model)
    options = {"optimizer": torch.optim.SGD(model.parameters(), lr), **options}
    runner = DetectionRunner(
        model,
        str(folder),
        train_dataloader=batches(*names),
        train_cfg={"by_epoch": False, "max_iters": len(names)},
        optim_wrapper=wrapper(**options),
        default_hooks={
            "checkpoint": {"type": "CheckpointHook", "by_epoch": False, "interval": save}
        },
        experiment_name=str(folder),
        default_scope="mmdet",
        randomness={"seed": 3},
    )
    for hook in (FiniteStepHook(most), *hooks):
        runner.register_hook(hook)
    return runner


def trained(*args, **kwargs) -> DetectionRunner:
    runner = start(*args, **kwargs)
    runner.train()
    return runner


def records(folder: Path) -> dict[int, dict]:
    found = [json.loads(path.read_text()) for path in folder.glob("not_finite/*.json")]
    return {each["iteration"]: each for each in sorted(found, key=lambda each: each["iteration"])}


def same(one: nn.Module, other: nn.Module) -> bool:
    state = other.state_dict()
    numbers = {k: v for k, v in one.state_dict().items() if "num_batches" not in k}
    return all(torch.equal(value, state[key]) for key, value in numbers.items())


@pytest.mark.parametrize("name", ["nan", "gradient", "constant"])
@pytest.mark.parametrize("clip", [None, {"max_norm": 0.1}])
def test_a_bad_step_is_as_if_it_had_not_been(tmp_path, name, clip):
    options = [{"clip_grad": clip and dict(clip)} for _ in range(2)]
    runner = trained(tmp_path / "bad", "a", name, "b", **options[0])
    # the picture of the second batch is another one; its step, with no learning rate, does nothing
    good = start(tmp_path / "good", "a", "c", "b", **options[1])
    wrapper, norm = good.optim_wrapper, good.model.norm
    calls, step, kept = [], wrapper.step, []

    def second_left_out(**kwargs):
        calls.append(1)
        if len(calls) == 2:
            for buffer, value in zip((norm.running_mean, norm.running_var), kept, strict=True):
                buffer.copy_(value)
            return
        step(**kwargs)
        kept[:] = [norm.running_mean.clone(), norm.running_var.clone()]

    wrapper.step = second_left_out
    good.train()
    assert same(runner.model, good.model)
    assert [*records(tmp_path / "bad")] == [2]
    assert records(tmp_path / "good") == {}


def test_what_led_to_it_is_in_a_file(tmp_path):
    runner = trained(tmp_path, "a", "nan", "b")
    (record,) = records(tmp_path).values()
    (batch,) = record["batches"]
    assert batch["images"] == [{"img_id": 10, "img_path": ""}, {"img_id": 11, "img_path": "nan"}]
    assert batch["losses"] == {"loss": "nan", "loss_line": "nan"}
    assert {batch["rank"], batch["iteration"], record["seed"]} == {0, 2, 3}
    assert record["reason"] == "loss"
    assert record["parameters"] == ["norm.weight", "norm.bias", "line.weight", "line.bias"]
    assert record["groups"] == [{"lr": 0.1, "first": "norm.weight", "gradient_norm": "nan"}]
    assert Path(record["config"]).is_file()
    weights = torch.load(record["checkpoint"], weights_only=True)["state_dict"]
    first = trained(tmp_path / "first", "a").model
    assert all(torch.equal(weights[k], v) for k, v in first.state_dict().items() if "num" not in k)
    # what is logged goes on without it
    assert len(runner.message_hub.get_scalar("train/loss").data[0]) == 2
    (log,) = tmp_path.glob("2*/*.log")
    assert "iteration 2: losses {'loss': 'nan', 'loss_line': 'nan'} are not" in log.read_text()


def test_gradients_alone_are_seen(tmp_path):
    trained(tmp_path, "gradient")
    (record,) = records(tmp_path).values()
    assert record["reason"] == "gradient"
    assert math.isfinite(record["batches"][0]["losses"]["loss"])


def test_large_gradients_are_numbers(tmp_path):
    """Those whose squares are none."""
    runner = start(tmp_path, "a", lr=1e-21)
    weight = runner.model.line.weight
    weight.register_hook(lambda gradient: gradient * 0 + 1e20)
    runner.train()
    assert records(tmp_path) == {}
    assert torch.allclose(weight, torch.full((1, 3), 0.9))


def test_accumulated_gradients_go_together(tmp_path):
    names = ("a", "b", "nan", "c", "d", "e")
    runner = trained(tmp_path, *names, accumulative_counts=2)
    (record,) = records(tmp_path).values()
    assert [batch["iteration"] for batch in record["batches"]] == [3, 4]
    assert [batch["losses"]["loss"] == "nan" for batch in record["batches"]] == [True, False]
    weights = torch.load(record["checkpoint"], weights_only=True)["state_dict"]
    assert not torch.equal(weights["line.weight"], runner.model.line.weight)
    assert torch.isfinite(torch.cat([p.flatten() for p in runner.model.parameters()])).all()


def test_too_many_in_a_row_stop_the_training(tmp_path):
    names = ("a", "a", *["nan", "gradient"] * 2, "a", *["gradient"] * 10)
    hook = ExplodingGradientHook()
    hook.exploded = True
    with pytest.raises(UserError) as caught:
        trained(tmp_path, *names, most=4, save=2, hooks=[hook])
    message = str(caught.value)
    assert "the gradient was not finite in 5 steps in a row (max_skipped_steps=4)" in message
    last, _ = newest_whole(tmp_path)
    assert f"last good checkpoint is {last}" in message
    assert f"mmconvnext replay {tmp_path}/not_finite/iter_12.json" in message
    assert CAUSE in message
    (log,) = tmp_path.glob("2*/*.log")
    assert log.read_text().count("the step is skipped") == 9
    assert [*records(tmp_path)] == [3, 4, 5, 6, 8, 9, 10, 11, 12]
    assert [path.name for path in tmp_path.glob("not_finite/*.pth")] == ["iter_8.pth"]
    for path in tmp_path.glob("*.pth"):
        state = torch.load(path, weights_only=False)["state_dict"]
        assert all(value.isfinite().all() for value in state.values())


@pytest.mark.parametrize("part", ["weights", "average"])
def test_no_checkpoint_has_weights_that_are_not_finite(tmp_path, part):
    ema = EMAHook()
    runner = start(tmp_path, "a", "b", "c", save=1, hooks=[ema])
    runner.train()
    model = runner.model if part == "weights" else ema.ema_model.module
    model.line.weight.data[0, 1] = math.nan
    before = {path.name for path in tmp_path.glob("*.pth")}
    runner.train_loop._iter, loss = 7, {"loss": torch.ones(())}
    with pytest.raises(UserError, match=r"line\.weight .* not finite; .* is iter_3\.pth"):
        runner.call_hook("after_train_iter", batch_idx=0, data_batch={}, outputs=loss)
    assert {path.name for path in tmp_path.glob("*.pth")} == before
    with pytest.raises(UserError, match="not finite"):
        runner.save_checkpoint(str(tmp_path), "iter_9.pth")


def rank_of_two(rank: int, folder: Path, name: str) -> None:
    """Train as one of two processes, of which the second has the picture of that name."""
    store = f"file://{folder}/store"
    torch.distributed.init_process_group("gloo", store, rank=rank, world_size=2)
    names = ["a", name if rank else "b", "c"]
    runner = start(folder / "work", *names, wrapped=True)
    runner.train()
    torch.save([*runner.model.parameters()], folder / f"{rank}.pth")


@pytest.mark.parametrize("name", ["nan", "constant"])
def test_all_ranks_skip_the_step_of_one(tmp_path, name):
    """Also one whose loss is not finite where its gradient is."""
    context = multiprocessing.get_context("fork")
    ranks = [
        context.Process(target=rank_of_two, args=(n, tmp_path, name), daemon=True) for n in range(2)
    ]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(60)
    assert [rank.exitcode for rank in ranks] == [0, 0]
    first, second = (torch.load(tmp_path / f"{rank}.pth") for rank in range(2))
    assert all(map(torch.equal, first, second))
    (record,) = records(tmp_path / "work").values()
    assert record["iteration"] == 2
    assert [(batch["rank"], batch["images"][1]["img_path"]) for batch in record["batches"]] == [
        (0, "b"),
        (1, name),
    ]
    weights = torch.load(record["checkpoint"], weights_only=True)["state_dict"]
    assert not torch.equal(weights["line.weight"], first[2])  # the third step was taken


@pytest.fixture
def amp(monkeypatch):
    """Mixed precision's wrapper on the CPU, with a scaler as on a GPU."""
    monkeypatch.setattr(amp_optimizer_wrapper, "is_cuda_available", lambda: True)
    scaler = lambda **kwargs: torch.amp.GradScaler("cpu", **kwargs)  # noqa: E731
    monkeypatch.setattr(amp_optimizer_wrapper, "GradScaler", scaler)
    return lambda **kwargs: AmpOptimWrapper(dtype="bfloat16", **kwargs)


def test_the_scaler_goes_down_by_itself(tmp_path, amp):
    scale = {"init_scale": 64.0}
    runner = trained(tmp_path, *["gradient"] * 4, "a", wrapper=amp, loss_scale=scale)
    assert records(tmp_path) == {}
    assert runner.optim_wrapper.loss_scaler.get_scale() == 4
    trained(tmp_path / "loss", "nan", "a", wrapper=amp, loss_scale=scale)
    assert [each["loss_scale"] for each in records(tmp_path / "loss").values()] == [64]


@pytest.mark.parametrize("scale", [{"init_scale": 4.0}, 4.0])
def test_a_scaler_at_its_floor_is_explained(tmp_path, amp, scale):
    with pytest.raises(UserError, match=r"loss scale is down at .*GRN .*dtype='bfloat16'"):
        trained(tmp_path, "a", *["gradient"] * 9, wrapper=amp, loss_scale=scale, most=3)
    first = 2 if scale == 4.0 else 4
    assert [*records(tmp_path)] == [*range(first, first + 4)]


def test_a_spike_is_a_line(notes):
    hook, logger = FiniteStepHook(), MMLogger.get_current_instance()
    generator = torch.Generator().manual_seed(0)
    for iteration in range(120):
        outputs = {"loss": 2 + 0.1 * torch.randn((), generator=generator)}
        if iteration in (10, 40, 45, 100):
            outputs["loss"] = torch.tensor(5.0)
        sample = DetDataSample(metainfo={"img_id": iteration})
        runner = SimpleNamespace(iter=iteration, logger=logger)
        hook.after_train_iter(runner, 0, {"data_samples": [sample]}, outputs)
    first, second = notes()  # after 30 losses, and not twice in 50 iterations
    assert first.startswith("iteration 41: the loss is 5, ")
    assert first.endswith("of the last 40; images 40")
    assert second.startswith("iteration 101: ")
