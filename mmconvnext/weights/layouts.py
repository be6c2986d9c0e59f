"""Key layouts of ConvNeXt checkpoints: finding which one a file has, and converting it to ours.

All of it is pure, from dict to dict, without copies. Our layout is the official one of detection:
the names of ``mmconvnext.ConvNeXt``, with ``norm.*`` and ``head.*`` for a classifier's final norm
and head. Whatever is wrong with a file is a ValueError.
"""

import math
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from torch import Tensor

from mmconvnext.weights.matching import first, shape

Tensors = Mapping[str, Tensor]
Rules = Sequence[tuple[str, str]]

# Averaged weights: of the official code, of timm, and the teacher of self-distillation (DINO).
EMA = re.compile(r"(^|[._])(ema|teacher)([._]|$)")
# With MMEngine's EMAHook the averaged weights are in `state_dict`, and these are the others.
NOT_AVERAGED = re.compile(r"(^|\.)ema_state_dict\.")
# The backbone of a detector or classifier; what is beside it are the other parts.
IN_DETECTOR = re.compile(r"((?:.+\.)?)backbone\.")
OPTIMIZER = re.compile(r"optim\w*\.")
# What other networks name their tensors, for a file that is none of ours.
OTHER_NETWORKS = {
    "a ResNet": r"(^|\.)layer1\.0\.conv1\.",
    "a Swin Transformer": r"relative_position_bias_table",
    "a Vision Transformer": r"\.attn\.(qkv|proj)\.",
    "a PVT": r"(^|\.)block\d\.0\.attn\.|(^|\.)patch_embed1\.",
}


class Layout(NamedTuple):
    """One way to name the tensors of a ConvNeXt."""

    name: str  # as shown to users
    # Pattern of the depthwise weights' names behind the prefix, which no other layout has.
    depthwise: str
    # Patterns and replacements, applied in turn to names without the prefix; they give our names,
    # and names that they do not know stay.
    rules: Rules = ()
    classifier_rules: Rules = ()  # the same, for files without the output norms 0 to 2


class Found(NamedTuple):
    """Where in a file a backbone lies, and in which layout."""

    layout: Layout
    prefix: str  # what its names begin with, such as ``state_dict.backbone.``; may be empty
    also: tuple[str, ...]  # prefixes of other backbones in the file that were not chosen


def flatten(checkpoint: object) -> dict[str, Tensor]:
    """Collect the tensors of a checkpoint; the names of nested dicts are joined by dots.

    So wrappers such as ``model``, ``state_dict`` or ``model_ema`` become prefixes like any other.
    """
    tensors: dict[str, Tensor] = {}

    def collect(node: object, name: str) -> None:
        if isinstance(node, Mapping):
            for key, value in node.items():
                collect(value, f"{name}.{key}" if name else str(key))
        elif isinstance(node, Tensor) and name:
            if name in tensors:
                raise ValueError(f"two tensors would be called {name}")
            tensors[name] = node

    collect(checkpoint, "")
    if not tensors:
        kind = type(checkpoint).__name__
        keys = ", ".join(map(str, checkpoint))[:80] if isinstance(checkpoint, Mapping) else ""
        raise ValueError(f"it has no named tensors, but a {kind}" + f" with {keys}" * bool(keys))
    return tensors


def find_backbone(tensors: Tensors, prefix: str | None = None, ema: bool = False) -> Found:
    """Find a ConvNeXt among the tensors of a flat checkpoint by its depthwise convolutions.

    Args:
        tensors: see :func:`flatten`.
        prefix: the end of the backbone's prefix, such as ``backbone.`` or ``student.backbone``
            (the final dot may be missing), for files with several; None finds it.
        ema: take averaged weights (``model_ema``, ``teacher``, …) where a file has both.
    """
    counts = Counter(
        (match[1], layout)
        for key in tensors
        for layout, pattern in PATTERNS.items()
        if (match := pattern.match(key))
    )
    # Of a file whose names are mixed up, the layout that most of them have: the others are named.
    places: dict[str, Layout] = {}
    for (place, layout), _ in counts.most_common():
        places.setdefault(place, layout)
    if not places:
        looks = [n for n, p in OTHER_NETWORKS.items() if any(re.search(p, k) for k in tensors)]
        raise ValueError(
            f"no ConvNeXt of a known layout is in it ({', '.join(known.name for known in LAYOUTS)})"
            + "".join(f"; it looks like {name}" for name in looks[:1])
            + f"; its tensors are {first([f'{k} {shape(v)}' for k, v in tensors.items()])}"
        )
    chosen = list(places)
    if prefix is not None:
        end = f".{prefix.removesuffix('.')}."
        chosen = [p for p in places if (f".{p}".endswith(end) if prefix else not p)]
        if not chosen:
            raise ValueError(f"no ConvNeXt under prefix={prefix!r}; {_shown(places)}")
    chosen = _choose_average(chosen, ema)
    if len(chosen) > 1:
        raise ValueError(f"several ConvNeXts; {_shown(chosen)}: choose with prefix=")
    return Found(places[chosen[0]], chosen[0], tuple(p for p in places if p != chosen[0]))


def find_names(tensors: Tensors, names: Collection[str]) -> str | None:
    """Find what stands before a model's own names in a checkpoint; None if they are nowhere."""
    counts = Counter(
        key[:start]
        for key in tensors
        for start in (0, *(dot.end() for dot in re.finditer(r"\.", key)))
        if key[start:] in names
    )
    chosen = _choose_average(counts, ema=False)
    most = [p for p in chosen if counts[p] == max(counts[other] for other in chosen)]
    if len(most) > 1:
        raise ValueError(f"several models; {_shown(most)}: give a file with one of them")
    return most[0] if most else None


def extract_backbone(
    checkpoint: object, prefix: str | None = None, ema: bool = False
) -> tuple[dict[str, Tensor], Found, dict[str, Tensor]]:
    """Flatten a checkpoint, find a backbone in it and convert that; give all three."""
    tensors = flatten(checkpoint)
    found = find_backbone(tensors, prefix, ema)
    return tensors, found, convert(tensors, found)


def convert(tensors: Tensors, found: Found) -> dict[str, Tensor]:
    """Take a backbone out of a flat checkpoint, in our layout; unknown names stay."""
    part = strip_prefix(tensors, found.prefix)
    rules = found.layout.rules
    if not any(re.match(r"norm[012]\.", name) for name in part):
        rules = (*rules, *found.layout.classifier_rules)
    converted: dict[str, Tensor] = {}
    for old, tensor in part.items():
        new = old
        for pattern, replacement in rules:
            new = re.sub(pattern, replacement, new)
        if new in converted:
            raise ValueError(f"two tensors would be called {new}, one of them is {old}")
        tensor = _dense_kernel(old, tensor) if old.endswith(".kernel") else tensor
        converted[new] = _in_our_shape(new, tensor)
    return converted


def strip_prefix(tensors: Tensors, prefix: str) -> dict[str, Tensor]:
    """Take what is under a prefix, without it, but for an optimizer, out of a checkpoint."""
    found = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    return {k: v for k, v in found.items() if not OPTIMIZER.match(k)}


def other_names(tensors: Tensors, found: Found) -> list[str]:
    """Names of the tensors that belong to other parts than the backbone."""
    return [k for k in tensors if not k.startswith(found.prefix)]


def as_detector(tensors: Tensors, found: Found, part: Tensors, name: str) -> dict[str, Tensor]:
    """Join a backbone, called ``name``, to what a detector or classifier has beside it in a file.

    A backbone whose prefix does not end in ``backbone.`` is no part of anything.
    """
    joined = {f"{name}{k}": v for k, v in part.items()}
    if in_detector := IN_DETECTOR.fullmatch(found.prefix):
        others = {k: tensors[k] for k in other_names(tensors, found)}
        joined |= strip_prefix(others, in_detector[1])
    return joined


def _choose_average(places: Collection[str], ema: bool) -> list[str]:
    kept = [p for p in places if not NOT_AVERAGED.search(p)]
    averaged = [p for p in kept if EMA.search(p)]
    plain = [p for p in kept if p not in averaged]
    # without those, `state_dict` is averaged
    if ema and not averaged and len(kept) == len(places):
        raise ValueError(f"no averaged weights for ema=True; {_shown(places)}")
    return (averaged if ema else plain) or kept or list(places)


def _shown(places: Iterable[str]) -> str:
    return "it has one under " + ", ".join(map(repr, places))


def _dense_kernel(name: str, kernel: Tensor) -> Tensor:
    """Give a sparse convolution's kernel, (k*k, C) or (k*k, in, out), the shape of a dense one.

    The positions run down the columns, as in the official code's ``remap_checkpoint_keys``.
    """
    size = math.isqrt(kernel.shape[0]) if kernel.ndim in (2, 3) else 0
    if not size or size**2 != kernel.shape[0]:
        raise ValueError(
            f"{name} has the shape {tuple(kernel.shape)}; a sparse kernel has (k*k, channels) or "
            "(k*k, channels in, channels out)"
        )
    kernel = kernel if kernel.ndim == 3 else kernel.unsqueeze(1)
    # (columns, rows, in, out) -> (out, in, rows, columns)
    return kernel.unflatten(0, (size, size)).permute(3, 2, 1, 0)


def _in_our_shape(name: str, tensor: Tensor) -> Tensor:
    """Drop or add axes of length 1 where layouts differ in them alone."""
    if re.search(r"\.pwconv\d\.weight$", name) and tensor.shape[2:] == (1, 1):
        return tensor.flatten(1)  # stored as a 1x1 convolution
    if re.search(r"\.(gamma|beta|bias)$", name) and tensor.numel() == max(tensor.shape, default=0):
        # (C, 1, 1) in torchvision, (1, C) in the sparse layout
        return tensor.reshape((1, 1, 1, -1) if ".grn." in name else -1)
    return tensor


GRN_NAMES = ((r"\.grn\.weight$", ".grn.gamma"), (r"\.grn\.bias$", ".grn.beta"))
MM_NAMES = ((r"\.depthwise_conv\.", ".dwconv."), (r"\.pointwise_conv(\d)\.", r".pwconv\1."))

# The official layout: V1, V2, DINOv3 and detectors of MMDetection 2.x. FCMAE: the official V2
# self-supervised models, of sparse convolutions. mmpretrain: also inside of detectors of
# MMDetection 3.x. timm: plain and `features_only`, V1, V2, DINOv3, CLIP. transformers: ConvNext and
# ConvNextV2, whose Backbone classes have our output norms, and DINOv3ConvNext.
LAYOUTS = (
    Layout("official", r"stages\.\d+\.\d+\.dwconv\.weight"),
    Layout(
        "official FCMAE, sparse",
        r"stages\.\d+\.\d+\.dwconv\.kernel",
        ((r"\.kernel$", ".weight"), (r"\.(ln|linear)\.(\w+)$", r".\2")),
    ),
    Layout(
        "mmpretrain",
        r"stages\.\d+\.\d+\.depthwise_conv\.weight",
        MM_NAMES,
        # the final norm of a classifier has the name of a detector's last output norm
        ((r"^norm3\.", "norm."),),
    ),
    Layout(
        "timm",
        r"stages[._]\d+\.blocks\.\d+\.conv_dw\.weight",
        (
            (r"^(stem|stages)_(\d)\.", r"\1.\2."),  # features_only
            (r"^stem\.", "downsample_layers.0."),
            (r"^stages\.(\d)\.downsample\.", r"downsample_layers.\1."),
            (r"^stages\.(\d)\.blocks\.", r"stages.\1."),
            (r"\.conv_dw\.", ".dwconv."),
            (r"\.mlp\.fc(\d)\.", r".pwconv\1."),
            (r"\.mlp\.grn\.", ".grn."),
            *GRN_NAMES,
            # the final norm before or after pooling; features of stages are the same
            (r"^(head\.norm|norm_pre)\.", "norm."),
            (r"^head\.fc\.", "head."),
        ),
    ),
    Layout(
        "torchvision",
        r"features\.\d+\.\d+\.block\.0\.weight",
        (
            *((rf"^features\.{2 * i}\.", f"downsample_layers.{i}.") for i in range(4)),
            *((rf"^features\.{2 * i + 1}\.", f"stages.{i}.") for i in range(4)),
            (r"\.block\.0\.", ".dwconv."),
            (r"\.block\.2\.", ".norm."),
            (r"\.block\.3\.", ".pwconv1."),
            (r"\.block\.5\.", ".pwconv2."),
            (r"\.layer_scale$", ".gamma"),
            (r"^classifier\.0\.", "norm."),
            (r"^classifier\.2\.", "head."),
        ),
    ),
    # of bottlenecks, the first step of ModernizedResNet
    Layout(
        "torchvision ResNet",
        r"layer[1-4]\.\d+\.conv3\.weight",
        (
            (r"^conv1\.", "downsample_layers.0.0."),
            (r"^bn1\.", "downsample_layers.0.1."),
            *((rf"^layer{i + 1}\.", f"stages.{i}.") for i in range(4)),
            (r"\.conv1\.", ".pwconv1."),
            (r"\.conv2\.", ".dwconv."),
            (r"\.conv3\.", ".pwconv2."),
            (r"\.bn1\.", ".norm1."),
            (r"\.bn2\.", ".norm."),
            (r"\.bn3\.", ".norm2."),
            (r"\.downsample\.", ".shortcut."),
            (r"^fc\.", "head."),
        ),
    ),
    Layout(
        "transformers",
        r"encoder\.stages\.\d+\.layers\.\d+\.dwconv\.weight",
        (
            (r"^embeddings\.patch_embeddings\.", "downsample_layers.0.0."),
            (r"^embeddings\.layernorm\.", "downsample_layers.0.1."),
            (r"^encoder\.stages\.(\d)\.downsampling_layer\.", r"downsample_layers.\1."),
            (r"^encoder\.stages\.(\d)\.layers\.", r"stages.\1."),
            (r"\.layer_scale_parameter$", ".gamma"),
            (r"\.layernorm\.", ".norm."),
            *GRN_NAMES,
            *((rf"^hidden_states_norms\.stage{i + 1}\.", f"norm{i}.") for i in range(4)),
            (r"^layernorm\.", "norm."),
        ),
    ),
    Layout(
        "transformers DINOv3",
        r"(?:model\.)?stages\.\d+\.layers\.\d+\.depthwise_conv\.weight",
        (
            (r"^model\.", ""),
            (r"^stages\.(\d)\.downsample_layers\.", r"downsample_layers.\1."),
            (r"^stages\.(\d)\.layers\.", r"stages.\1."),
            *MM_NAMES,
            (r"\.layer_norm\.", ".norm."),
            (r"^layer_norm\.", "norm."),
        ),
    ),
)
# As short a prefix as can be.
PATTERNS = {known: re.compile(rf"((?:.+?\.)??){known.depthwise}$") for known in LAYOUTS}
