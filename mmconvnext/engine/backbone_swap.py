"""ConvNeXt in place of the backbone of any MMDetection config (``--backbone``)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from textwrap import wrap
from typing import Any, NamedTuple

from mmengine.config import Config

from mmconvnext.engine.advice import MEAN, STD, STRIDE
from mmconvnext.engine.own_data import base_name
from mmconvnext.errors import ConfigError
from mmconvnext.optim.layer_decay import PARAMWISE_KEYS
from mmconvnext.variants import NUM_STAGES, VARIANTS
from mmconvnext.weights.zoo import read_zoo

SIZES = {"t": "tiny", "s": "small", "b": "base", "l": "large", "xl": "xlarge", "h": "huge"}
CONSTRUCTOR = "LayerDecayOptimWrapperConstructor"
CHOICES = (
    "convnext-t|s|b|l|xl, convnext-t|s|b|l-22k, convnext-v2-atto|femto|pico|nano|t|b|l|h, "
    "convnext-dinov3-t|s|b|l"
)
MAX_LINES = 15


class Choice(NamedTuple):
    """What a name of ``--backbone`` stands for."""

    arch: str
    version: int
    checkpoint: list[str]


def read_choice(name: str) -> Choice:
    """Look up the variant and its weights in the zoo; those that the package's configs name.

    Raises:
        ConfigError: there is no such backbone.
    """
    match = re.fullmatch(r"(?:convnext-)?(v2-|dinov3-)?([a-z]+)(-22k)?", name.lower())
    kind, size, large = match.groups() if match else ("", "", "")
    arch = SIZES.get(size, size)
    weights = f"convnext_{arch}_{'22k_224' if large or size == 'xl' else '1k_224_ema'}"
    if size == "l":  # as the configs of the paper's L and XL
        weights = f"convnext_{arch}_22k_224"
    if kind == "v2-":
        weights = f"convnextv2_{arch}_1k_224_fcmae"
    elif kind == "dinov3-":
        weights = f"dinov3-convnext-{arch}-pretrain-lvd1689m"
    entry = next((e for e in read_zoo() if e.name == weights), None)
    if entry is None or (kind and large):
        raise ConfigError(f"--backbone {name}: unknown; choose one of {CHOICES}")
    return Choice(entry.arch, entry.version, [entry.sources[0], entry.sources[-1]])


def swap_backbone(cfg: Config, name: str) -> dict[str, Any]:
    """What has to be merged into a config, as MMEngine merges, to give it a ConvNeXt backbone.

    Args:
        cfg: complete; not changed.
        name: of the backbone, as of :func:`read_choice`.

    Raises:
        ConfigError: this detector cannot have the backbone, with the reason.
    """
    choice = read_choice(name)
    model = cfg.get("model") or {}
    if not isinstance(model.get("backbone"), Mapping):
        raise _refusal(name, cfg, f"{model.get('type')} has no model.backbone of its own")
    neck, place = _neck(cfg, name)
    indices, changes = _levels(cfg, name, neck, VARIANTS[choice.arch].widths)
    backbone = {"_delete_": True, "type": "ConvNeXt", "arch": choice.arch, "out_indices": indices}
    if choice.version == 2:
        backbone |= {"layer_scale_init_value": 0.0, "use_grn": True}
    backbone["init_cfg"] = {"type": "Pretrained", "checkpoint": choice.checkpoint}
    changed: dict[str, Any] = {"backbone": backbone}
    if place == "neck" and isinstance(model.neck, list | tuple):  # lists are replaced as a whole
        changed["neck"] = [{**neck, **changes}, *map(dict, model.neck[1:])]
    else:
        changed[place] = changes
    pixels = {"mean": list(MEAN), "std": list(STD), "bgr_to_rgb": True, "pad_size_divisor": STRIDE}
    before = model.get("data_preprocessor") or {}
    pixels = {k: v for k, v in pixels.items() if before.get(k) != v}
    if before.get("pad_size_divisor", 1) % STRIDE == 0:
        pixels.pop("pad_size_divisor", None)
    if pixels:
        changed["data_preprocessor"] = (
            pixels if before else {"type": "DetDataPreprocessor"} | pixels
        )
    imports = [*(cfg.get("custom_imports") or {}).get("imports", ()), "mmconvnext"]
    return {
        "custom_imports": {"imports": imports, "allow_failed_imports": False},
        "model": changed,
        "optim_wrapper": _optimizer(cfg.get("optim_wrapper") or {}, choice),
    }


def _refusal(name: str, cfg: Config, reason: str) -> ConfigError:
    return ConfigError(f"--backbone {name} cannot be put into {cfg.filename}: {reason}")


def _neck(cfg: Config, name: str) -> tuple[Mapping[str, Any], str]:
    """The part that takes the backbone's features, and its key in the model."""
    model = cfg.model
    neck = model.get("neck")
    neck = neck[0] if isinstance(neck, list | tuple) else neck
    place = "neck"
    if neck is None:
        place = "panoptic_head" if "panoptic_head" in model else "bbox_head"
        neck = model.get(place)
    if not isinstance(neck, Mapping) or "in_channels" not in neck:
        raise _refusal(name, cfg, "neither neck nor head says in_channels of the backbone's levels")
    if "rfp_backbone" in neck:
        raise _refusal(name, cfg, "its neck RFP runs a backbone of its own (DetectoRS)")
    if neck.get("end_level", -1) != -1:
        raise _refusal(name, cfg, f"the neck ends at level {neck.end_level}")
    return neck, place


def _levels(
    cfg: Config, name: str, neck: Mapping[str, Any], widths: tuple[int, ...]
) -> tuple[tuple[int, ...], dict[str, Any]]:
    """The stages that the neck takes, without those before its start level, and its widths."""
    old, before = cfg.model.backbone, neck["in_channels"]
    count = 1 if isinstance(before, int) else len(before)
    if count > NUM_STAGES:
        raise _refusal(name, cfg, f"the neck takes {count} levels, ConvNeXt has {NUM_STAGES}")
    indices = tuple(range(NUM_STAGES - count, NUM_STAGES))
    out_indices = old.get("out_indices", indices)
    out_indices = (out_indices,) if isinstance(out_indices, int) else tuple(out_indices)
    if len(out_indices) != count or out_indices[-1] < NUM_STAGES - 1:
        raise _refusal(name, cfg, f"its levels are not the last: out_indices={out_indices}")
    if any(d != 1 for d in old.get("dilations", ())) or 1 in tuple(old.get("strides", ()))[1:]:
        raise _refusal(name, cfg, "its backbone is dilated, ConvNeXt ends at stride 32")
    if "out_feature_indices" in old:
        raise _refusal(name, cfg, f"{old.type} returns levels of its own, not of stride 16 and 32")
    start = neck.get("start_level", 0)
    if start and neck.get("type") == "NASFCOS_FPN":
        raise _refusal(name, cfg, "NASFCOS_FPN needs the level before its start level")
    indices = indices[start:]
    channels: Any = [widths[i] for i in indices]
    if isinstance(before, int):
        channels = channels[0]
    elif list(before) != sorted(before):  # YOLOv3's neck counts from the last level
        channels = channels[::-1]
    return indices, {"in_channels": channels} | ({"start_level": 0} if start else {})


def _optimizer(old: Mapping[str, Any], choice: Choice) -> dict[str, Any]:
    """AdamW with layer-wise decay; what the config says of other parameters is kept."""
    paramwise, optimizer = old.get("paramwise_cfg"), old.get("optimizer")
    kept = {k: v for k, v in (paramwise or {}).items() if k in PARAMWISE_KEYS and v != 0}
    kept.pop("bypass_duplicate", None)  # every parameter is in one group in any case
    keys = {
        key: dict(value)
        for key, value in kept.pop("custom_keys", {}).items()
        # its learning rate would be multiplied by that of the layer
        if not key.startswith("backbone") and isinstance(value, Mapping)
    }
    # the rates of the package's own configs
    rate = 0.95 if choice.version == 2 else 0.8 if choice.arch == "base" else 0.7
    decay = {"decay_rate": rate, **kept} | ({"custom_keys": keys} if keys else {})
    is_adamw = (optimizer or {}).get("type") == "AdamW"
    adamw = {"type": "AdamW", "lr": 1e-4, "weight_decay": 0.05}
    # `_delete_` in a dict that the config does not have would stay there as a key
    return {
        "constructor": CONSTRUCTOR,
        "paramwise_cfg": ({"_delete_": True} if paramwise else {}) | decay,
        **({} if is_adamw else {"optimizer": ({"_delete_": True} if optimizer else {}) | adamw}),
        **({} if old.get("type") else {"type": "OptimWrapper"}),
    }


def format_delta(base: str, delta: Mapping[str, Any]) -> str:
    """Write a delta as a config file that inherits ``base``, a part a line where that is short."""
    for packed in (False, True):
        lines = [f'_base_ = "{base}"']
        for key, value in delta.items():
            parts = [f"{k}={_source(v)}," for k, v in value.items()]
            if len(text := f"{key} = {_source(value)}") <= 100:
                lines.append(text)
                continue
            parts = [" ".join(parts)] if packed else parts
            lines += [f"{key} = dict(", *(line for part in parts for line in _wrap(part)), ")"]
        if len(lines) <= MAX_LINES:
            break
    return "\n".join(lines) + "\n"


def _wrap(text: str) -> list[str]:
    indents = {"initial_indent": " " * 4, "subsequent_indent": " " * 8}
    return wrap(text, 100, break_long_words=False, break_on_hyphens=False, **indents)


def _source(value: Any) -> str:
    if isinstance(value, Mapping):
        if all(key.isidentifier() for key in value):
            return f"dict({', '.join(f'{k}={_source(v)}' for k, v in value.items())})"
        return f"{{{', '.join(f'{_source(k)}: {_source(v)}' for k, v in value.items())}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(_source, value))}]"
    return f'"{value}"' if isinstance(value, str) else repr(value)


def use_backbone(cfg: Config, base: str, name: str) -> str:
    """Put the backbone into a config, in place.

    Returns:
        The text of a config that does the same to its ``_base_``.
    """
    delta = swap_backbone(cfg, name)
    text = format_delta(base_name(base, cfg.filename), delta)
    if len(text.splitlines()) > MAX_LINES:
        raise _refusal(name, cfg, f"that takes a config of more than {MAX_LINES} lines:\n{text}")
    cfg.merge_from_dict(delta)
    return text
