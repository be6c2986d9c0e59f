"""Layer-wise learning-rate decay: from a parameter's name to its optimizer group.

The rule is that of the official detection code of "A ConvNet for the 2020s" (arXiv 2201.03545):
the learning rate of layer ``id`` is ``base * rate ** (L + 1 - id)``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol, runtime_checkable

from mmengine.logging import MMLogger
from mmengine.optim import DefaultOptimWrapperConstructor
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from mmconvnext.errors import ConfigError
from mmconvnext.variants import is_number, is_positive_int

LAYER_KEYS = ("decay_rate", "decay_type", "num_layers")
# What a value of `paramwise_cfg` must be, and how that is said.
CHOICES = {
    "decay_rate": (lambda v: is_number(v) and 0 < v <= 1, "a number in (0, 1]"),
    "decay_type": (lambda v: v in ("layer_wise", "stage_wise"), "one of layer_wise, stage_wise"),
    "num_layers": (lambda v: v == "auto" or is_positive_int(v), "'auto' or a positive integer"),
    **{
        f"{kind}_mult": (lambda v: is_number(v) and v >= 0, "a number that is not negative")
        for kind in ("norm_decay", "bias_decay", "dwconv_decay", "flat_decay", "bias_lr")
    },
}
PARAMWISE_KEYS = (*CHOICES, "custom_keys", "bypass_duplicate")
# The normalisation layers of MMEngine's default constructor.
NORM_LAYERS = (_BatchNorm, _InstanceNorm, nn.GroupNorm, nn.LayerNorm)
# Attributes that wrappers put between a module and its parameters: torch.compile, (distributed)
# data parallel, fully sharded data parallel, activation checkpointing.
WRAPPERS = {"_orig_mod", "module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}


@runtime_checkable
class LayeredBackbone(Protocol):
    """A backbone that knows which layer each of its parameters belongs to."""

    num_layers: int
    num_stages: int

    def layer_id(self, name: str) -> int:
        """The layer of a parameter in layer-wise decay, 0 to ``num_layers`` + 1."""

    def stage_id(self, name: str) -> int:
        """The layer of a parameter in stage-wise decay, 0 to ``num_stages`` + 1."""


def lr_scale(layer_id: int, num_layers: int, decay_rate: float) -> float:
    """What multiplies the base learning rate in layer ``layer_id`` out of 0 .. num_layers + 1."""
    return decay_rate ** (num_layers + 1 - layer_id)


def find_backbones(model: nn.Module) -> dict[str, LayeredBackbone]:
    """Every layered backbone of a model by the prefix of its parameters, the innermost first.

    A compiled module answers for the module inside of it, so the longest prefix has to win.
    """
    found = {n: m for n, m in model.named_modules() if isinstance(m, LayeredBackbone)}
    return {f"{n}." if n else "": found[n] for n in sorted(found, key=len, reverse=True)}


def layer_assigner(
    backbones: Mapping[str, LayeredBackbone],
    decay_rate: float,
    decay_type: str = "layer_wise",
    num_layers: int | str = "auto",
) -> Callable[[str], tuple[int, float]]:
    """A function from a parameter's name in the model to its layer and that layer's lr scale.

    The options are those of :class:`LayerDecayOptimWrapperConstructor`, the backbones those of
    :func:`find_backbones`; a ConfigError says that ``num_layers`` does not fit one.
    """
    kind = decay_type.removesuffix("_wise")
    depth = own_depth = {k: getattr(b, f"num_{kind}s") for k, b in backbones.items()}
    if num_layers != "auto":
        for prefix, expected in own_depth.items():
            _check_num_layers(num_layers, expected, decay_rate, decay_type, prefix)
        depth = dict.fromkeys(own_depth, num_layers)

    def assign(name: str) -> tuple[int, float]:
        prefix = next((prefix for prefix in backbones if name.startswith(prefix)), None)
        if prefix is not None:
            parts = (p for p in name.removeprefix(prefix).split(".") if p not in WRAPPERS)
            number = getattr(backbones[prefix], f"{kind}_id")(".".join(parts))
            if number <= own_depth[prefix]:  # else beside the stages: the output norms
                return number, lr_scale(number, depth[prefix], decay_rate)
        return max(depth.values()) + 1, 1.0

    return assign


def _check_num_layers(
    num_layers: int, expected: int, decay_rate: float, decay_type: str, prefix: str
) -> None:
    if num_layers == expected or (decay_type == "stage_wise" and num_layers > expected):
        return
    where = f"the backbone {prefix.rstrip('.')!r}" if prefix else "the backbone"
    problem = f"is less than the {expected} stages of {where}"
    if decay_type == "layer_wise":
        # The last blocks of the third stage: their layer follows from the depth, not from L.
        wrong, right = (lr_scale(expected - 1, n, decay_rate) for n in (num_layers, expected))
        problem = (
            f"does not fit {where}, whose depth gives {expected} layers: the last blocks of its "
            f"third stage would have been trained at {wrong:.3g} instead of {right:.3g} times the "
            "base learning rate"
        )
    raise ConfigError(
        f"paramwise_cfg: num_layers={num_layers} {problem}; use num_layers='auto' for {expected}"
    )


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class LayerDecayOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """Optimizer groups with a learning rate that decays with the distance from the output.

    The backbone, a :class:`LayeredBackbone`, may be anywhere in the model (inside another detector,
    compiled, wrapped for distributed training). Every trainable parameter is in one group, and each
    group is one line in the log (its names at DEBUG level), with its learning rate as configured:
    ``--auto-scale-lr`` and schedules multiply it later.

    Keys of ``paramwise_cfg``:

    - ``decay_rate`` (required): in (0, 1]; 1 means no decay.
    - ``decay_type``: ``'layer_wise'`` (default) or ``'stage_wise'``.
    - ``num_layers``: ``'auto'`` (default) derives L from the backbone's depth; a number is checked
      against it in layer-wise decay.
    - ``custom_keys``: as in MMEngine's ``DefaultOptimWrapperConstructor``: the longest key that is
      part of the parameter's name wins and replaces the rules on weight decay; ``lr_mult``
      multiplies the layer's learning rate, ``decay_mult`` (1 if left out) the base weight decay,
      and other entries become options of the group.
    - ``norm_decay_mult``, ``bias_decay_mult``, ``flat_decay_mult``: what multiplies the weight
      decay of normalisation layers, of other biases, and of other parameters of one dimension or
      less, such as layer scale; 0 by default. ``dwconv_decay_mult``: that of the weights of
      depthwise convolutions; 1 by default. None of them gives weight decay to what its module
      names in ``no_weight_decay()``, as GRN does.
    - ``bias_lr_mult``: what multiplies the learning rate of biases but those of normalisation
      layers; 1 by default.
    - ``bypass_duplicate``: as in MMEngine; a shared parameter is in one group in any case.

    Raises:
        ConfigError: a key of ``paramwise_cfg`` is unknown or missing, a value is out of range, the
            model has no such backbone, or ``num_layers`` does not fit it.

    Example:
        >>> optim_wrapper = dict(
        ...     constructor='LayerDecayOptimWrapperConstructor',
        ...     paramwise_cfg=dict(decay_rate=0.7),
        ...     optimizer=dict(type='AdamW', lr=2e-4, weight_decay=0.05))
    """

    def _validate_cfg(self) -> None:
        super()._validate_cfg()
        cfg = self.paramwise_cfg
        if "dcn_offset_lr_mult" in cfg:
            raise ConfigError(
                "paramwise_cfg: dcn_offset_lr_mult is not supported, as offset layers are found by "
                "their name alone; use custom_keys=dict(conv_offset=dict(lr_mult=...)) instead"
            )
        if "_delete_" in cfg:
            raise ConfigError(
                "paramwise_cfg: _delete_ is left over, as no base config has a paramwise_cfg to be "
                "replaced; take it out"
            )
        unknown = ", ".join(map(repr, sorted(set(cfg) - set(PARAMWISE_KEYS))))
        if unknown:
            raise ConfigError(
                f"paramwise_cfg: unknown {unknown}; the keys are {', '.join(PARAMWISE_KEYS)}"
            )
        if "decay_rate" not in cfg:
            raise ConfigError("paramwise_cfg: decay_rate is missing, for example decay_rate=0.7")
        if self.base_lr is None:
            raise ConfigError(
                "optimizer: lr is missing; layer-wise decay multiplies the base learning rate"
            )
        for key, (is_right, choices) in CHOICES.items():
            if key in cfg and not is_right(cfg[key]):
                raise ConfigError(f"paramwise_cfg: {key}={cfg[key]!r} must be {choices}")

    def add_params(self, params: list[dict], module: nn.Module, **_: Any) -> None:
        """Append the groups of all trainable parameters of ``module`` to ``params``, in place."""
        backbones = find_backbones(module)
        if not backbones:
            raise ConfigError(
                f"LayerDecayOptimWrapperConstructor found no backbone that knows its layers in "
                f"{type(module).__name__}; use mmconvnext's ConvNeXt, a module with layer_id(), "
                "stage_id(), num_layers and num_stages, or another constructor"
            )
        cfg = self.paramwise_cfg
        assign = layer_assigner(backbones, **{k: cfg[k] for k in LAYER_KEYS if k in cfg})
        undecayed = _undecayed(module)
        groups: dict[str, dict] = {}
        for name, param in module.named_parameters():
            if not param.requires_grad:
                continue
            options = self._options(module, name, assign(name), name in undecayed)
            group = groups.setdefault(repr(options), {**options, "params": [], "param_names": []})
            group["params"].append(param)
            group["param_names"].append(name)
        ordered = sorted(groups.values(), key=lambda g: (g["layer_id"], -g.get("weight_decay", 0)))
        _log_groups(ordered)
        params.extend(ordered)

    def _options(
        self, module: nn.Module, name: str, layer: tuple[int, float], undecayed: bool
    ) -> dict:
        """The options of a parameter's group: layer, learning rate, weight decay, custom ones."""
        custom_keys = self.paramwise_cfg.get("custom_keys", {})
        # The order of MMEngine's constructor: the longest key first, equally long ones sorted.
        matching = [k for k in sorted(sorted(custom_keys), key=len, reverse=True) if k in name]
        custom = custom_keys[matching[0]] if matching else {}
        lr_mult, decay_mult = custom.get("lr_mult", 1.0), custom.get("decay_mult", 1.0)
        if not matching:
            owner = module.get_submodule(name.rpartition(".")[0])
            if name.endswith("bias") and not isinstance(owner, NORM_LAYERS):
                lr_mult = self.paramwise_cfg.get("bias_lr_mult", 1.0)
            decay_mult = 0.0 if undecayed else self._decay_mult(name, owner)
        scale = layer[1] * lr_mult
        options = {"layer_id": layer[0], "lr_scale": scale, "lr": self.base_lr * scale}
        if self.base_wd is not None:
            options["weight_decay"] = self.base_wd * decay_mult
        return {**options, **custom}

    def _decay_mult(self, name: str, owner: nn.Module) -> float:
        """What multiplies the weight decay; the rules are tried in MMEngine's order."""
        cfg = self.paramwise_cfg
        if isinstance(owner, NORM_LAYERS):
            return cfg.get("norm_decay_mult", 0.0)
        if name.endswith("bias"):
            return cfg.get("bias_decay_mult", 0.0)
        if isinstance(owner, nn.Conv2d) and owner.in_channels == owner.groups:
            return cfg.get("dwconv_decay_mult", 1.0)
        is_flat = owner.get_parameter(name.rpartition(".")[2]).ndim <= 1
        return cfg.get("flat_decay_mult", 0.0) if is_flat else 1.0


def _undecayed(module: nn.Module) -> set[str]:
    """The names of the parameters that a module says have no weight decay (timm's convention)."""
    return {
        f"{prefix}.{name}".removeprefix(".")
        for prefix, owner in module.named_modules()
        if callable(getattr(owner, "no_weight_decay", None))
        for name in owner.no_weight_decay()
    }


def _log_groups(groups: Iterable[Mapping[str, Any]]) -> None:
    logger = MMLogger.get_current_instance()
    usual = {"layer_id", "lr_scale", "lr", "weight_decay", "params", "param_names"}
    for group in groups:
        custom = {k: v for k, v in group.items() if k not in usual}
        logger.info(
            "layer %2d: configured lr %.3g (x %.4g), weight decay %s, %d tensors, %s parameters%s",
            *(group[key] for key in ("layer_id", "lr", "lr_scale")),
            f"{group['weight_decay']:g}" if "weight_decay" in group else "of the optimizer",
            len(group["params"]),
            f"{sum(p.numel() for p in group['params']):,}",
            f", {custom}" if custom else "",
        )
        logger.debug("    %s", ", ".join(group["param_names"]))
