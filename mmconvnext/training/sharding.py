"""Sharding (``--shard``): each process keeps a part of every weight, gradient and optimizer state.

It is torch's ``fully_shard``: a block of the backbone is gathered when it is computed and freed
after it, and so is all else of the detector as a whole. Checkpoints are those of an unsharded
training: each resumes from the other's, on any number of processes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.dist import broadcast, is_main_process
from mmengine.model import convert_sync_batchnorm
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.distributed import get_world_size
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer
from torch.utils._pytree import tree_map_only

from mmconvnext.errors import ConfigError
from mmconvnext.models.stages import Stages
from mmconvnext.weights.load import unwrapped


def check_sharding(cfg: Config, trains: bool) -> None:
    """Refuse ``shard=True`` in a single process; what is not trained is not sharded.

    Raises:
        ConfigError: one process alone is to train.
    """
    if not trains:
        cfg.pop("shard", None)
    if cfg.get("shard") and cfg.get("launcher", "none") == "none":
        raise ConfigError(
            "--shard (shard=True) parts a detector among processes, and this is one alone: start "
            "several, torchrun --nproc-per-node 8 ... --launcher pytorch, or leave it out"
        )


class ShardingRunner(Runner):
    """MMEngine's runner, which shards the model where the config has ``shard=True``."""

    _is_sharded = _gathers = False

    def wrap_model(self, model_wrapper_cfg: dict | None, model: nn.Module) -> nn.Module:
        """Initialise and shard the model, or wrap it as MMEngine does."""
        if not (self.cfg.get("shard") and self.distributed):
            return super().wrap_model(model_wrapper_cfg, model)
        self._is_sharded = True
        if hasattr(model, "init_weights"):  # which knows whole weights
            model.init_weights()
        model = self._shard(model)
        model.__deepcopy__ = lambda _: self._copy(model)  # an EMAHook's average is sharded, too
        return model

    def _shard(self, model: nn.Module) -> nn.Module:
        model = model.to(get_device())
        if self.cfg.get("sync_bn"):
            model = convert_sync_batchnorm(model, self.cfg.sync_bn)
        for value in model.state_dict().values():
            broadcast(value)
        shard(model, autocast_dtype(self.cfg))
        model._register_state_dict_hook(self._gather)
        model.register_load_state_dict_pre_hook(_distribute_weights)
        return model

    def _copy(self, model: nn.Module) -> nn.Module:
        copy = self._shard(self.build_model(self.cfg.model)).train(model.training)
        pairs = zip(copy.state_dict().values(), model.state_dict().values(), strict=True)
        for own, other in pairs:  # not by load_state_dict, which a line in the log reports
            own.copy_(other)
        return copy

    def _init_model_weights(self) -> None:
        if not self._is_sharded:
            super()._init_model_weights()

    def build_optim_wrapper(self, optim_wrapper: Any) -> Any:
        """Build the optimizer; its state dict is that of an unsharded model."""
        built = super().build_optim_wrapper(optim_wrapper)
        if self._is_sharded and built is not optim_wrapper:
            built.optimizer.register_state_dict_post_hook(
                lambda _, state: tree_map_only(DTensor, _whole, state)
            )
            built.optimizer.register_load_state_dict_pre_hook(_distribute_state)
        return built

    @contextmanager
    def whole_weights(self) -> Iterator[None]:
        """Let ``state_dict()`` give whole tensors, of the CPU; all processes have to call it."""
        self._gathers = True
        try:
            yield
        finally:
            self._gathers = False

    def _gather(self, _: nn.Module, state: dict[str, Any], *args: Any) -> None:
        if self._gathers:
            state.update({k: _whole(v) for k, v in state.items() if isinstance(v, DTensor)})

    def save_checkpoint(self, *args: Any, save_optimizer: bool = True, **kwargs: Any) -> None:
        """Save a checkpoint; all processes have to call it."""
        with self.whole_weights():
            if is_main_process() or not self._is_sharded:
                super().save_checkpoint(*args, save_optimizer=save_optimizer, **kwargs)
                return
            # In MMEngine only the main process does anything: the others give it their parts.
            checkpoint = {"meta": {}, "message_hub": {}, "state_dict": self.model.state_dict()}
            if save_optimizer:
                checkpoint["optimizer"] = self.optim_wrapper.state_dict()
            self.call_hook("before_save_checkpoint", checkpoint=checkpoint)


def whole_state(runner: Runner) -> dict[str, Tensor]:
    """The model's weights, whole; all processes have to call it where they are sharded."""
    model = unwrapped(runner.model)
    if not isinstance(runner, ShardingRunner):
        return model.state_dict()
    with runner.whole_weights():
        return model.state_dict()


def autocast_dtype(cfg: Config) -> torch.dtype | None:
    """What a config's mixed precision computes in; None without it."""
    wrapper = cfg.get("optim_wrapper") or {}
    is_mixed = wrapper.get("type") == "AmpOptimWrapper"
    return getattr(torch, wrapper.get("dtype") or "float16") if is_mixed else None


def shard(model: nn.Module, dtype: torch.dtype | None = None) -> None:
    """Shard a model, in place, among the processes of the default group.

    Args:
        model: on its device.
        dtype: in which the blocks' weights are gathered; their gradients are summed in float32.

    Raises:
        ConfigError: it has parameters without an axis, which cannot be parted.
    """
    for name, parameter in model.named_parameters():
        if not parameter.ndim:
            raise ConfigError(
                f"--shard: {name} is a single number, which torch's fully_shard cannot part; "
                "train this detector without --shard"
            )
        parameter.data = parameter.data.contiguous()  # it refuses channels_last
    mesh = init_device_mesh(next(model.parameters()).device.type, (get_world_size(),))
    policy = MixedPrecisionPolicy(dtype, torch.float32, cast_forward_inputs=False)
    for backbone in [m for m in model.modules() if isinstance(m, Stages)]:
        for block in [block for stage in backbone.stages for block in stage]:
            fully_shard(block, mesh=mesh, mp_policy=policy)
    # Freed after a validation, too: an EMAHook exchanges the parts.
    fully_shard(model, mesh=mesh, reshard_after_forward=True)


def _whole(tensor: DTensor) -> Tensor:
    return tensor.full_tensor().cpu()


def _part(tensor: Tensor, like: Tensor) -> Tensor:
    """This process's part of a whole tensor that all of them have."""
    if not isinstance(like, DTensor) or isinstance(tensor, DTensor) or tensor.shape != like.shape:
        return tensor
    whole = tensor.to(like.device)
    return distribute_tensor(whole, like.device_mesh, like.placements, src_data_rank=None)


def _distribute_weights(module: nn.Module, state: dict, prefix: str, *args: Any) -> None:
    for name, parameter in module.named_parameters():
        if (key := f"{prefix}{name}") in state:
            state[key] = _part(state[key], parameter)


def _distribute_state(optimizer: Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    own = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    numbers = [number for group in state["param_groups"] for number in group["params"]]
    parts = {
        number: {
            key: _part(value, parameter) if isinstance(value, Tensor) else value
            for key, value in state["state"][number].items()
        }
        for number, parameter in zip(numbers, own, strict=True)
        if number in state["state"]
    }
    return {**state, "state": parts}
