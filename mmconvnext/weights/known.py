"""The ConvNeXt weights that are known by name: where they are, how they were trained, who may use
them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import zip_longest
from textwrap import wrap
from typing import Any

from mmconvnext.variants import VARIANTS

HOST = "https://dl.fbaipublicfiles.com/convnext"
V1_TABLE = "README of facebookresearch/ConvNeXt"
V2_TABLE = "README of facebookresearch/ConvNeXt-V2"
TIMM_TABLE = "results-imagenet.csv of timm"
TORCHVISION_TABLE = "torchvision's metadata"

IN1K = "ImageNet-1K, supervised"
FCMAE = "FCMAE on ImageNet-1K, self-supervised"
V1_TRAINING = {
    "1k": IN1K,
    "22k": "ImageNet-22K, supervised",
    "22k_1k": "ImageNet-22K, then ImageNet-1K, supervised",
}
V2_TRAINING = {
    ("fcmae", "1k"): FCMAE,
    ("ema", "1k"): "FCMAE, then ImageNet-1K, supervised",
    ("ema", "22k"): "FCMAE, then ImageNet-22K, then ImageNet-1K, supervised",
}

# From file to top-1, per cent. V1's *_22k_1k_* were fine-tuned on ImageNet-1K; all of V2's *_22k_*
# were too. timm measures only 78.9 for convnext_tiny_22k_1k_224.pth.
V1_FILES: dict[str, float | None] = {
    "convnext_tiny_1k_224_ema.pth": 82.1,
    "convnext_small_1k_224_ema.pth": 83.1,
    "convnext_base_1k_224_ema.pth": 83.8,
    "convnext_base_1k_384.pth": 85.1,
    "convnext_large_1k_224_ema.pth": 84.3,
    "convnext_large_1k_384.pth": 85.5,
    "convnext_tiny_22k_224.pth": None,
    "convnext_small_22k_224.pth": None,
    "convnext_base_22k_224.pth": None,
    "convnext_large_22k_224.pth": None,
    "convnext_xlarge_22k_224.pth": None,
    "convnext_tiny_22k_1k_224.pth": 82.9,
    "convnext_tiny_22k_1k_384.pth": 84.1,
    "convnext_small_22k_1k_224.pth": 84.6,
    "convnext_small_22k_1k_384.pth": 85.8,
    "convnext_base_22k_1k_224.pth": 85.8,
    "convnext_base_22k_1k_384.pth": 86.8,
    "convnext_large_22k_1k_224.pth": 86.6,
    "convnext_large_22k_1k_384.pth": 87.5,
    "convnext_xlarge_22k_1k_224_ema.pth": 87.0,
    "convnext_xlarge_22k_1k_384_ema.pth": 87.8,
}
V2_FILES: dict[str, float | None] = {
    **{
        f"pt_only/convnextv2_{arch}_1k_224_fcmae.pt": None
        for arch in ("atto", "femto", "pico", "nano", "tiny", "base", "large", "huge")
    },
    "im1k/convnextv2_atto_1k_224_ema.pt": 76.7,
    "im1k/convnextv2_femto_1k_224_ema.pt": 78.5,
    "im1k/convnextv2_pico_1k_224_ema.pt": 80.3,
    "im1k/convnextv2_nano_1k_224_ema.pt": 81.9,
    "im1k/convnextv2_tiny_1k_224_ema.pt": 83.0,
    "im1k/convnextv2_base_1k_224_ema.pt": 84.9,
    "im1k/convnextv2_large_1k_224_ema.pt": 85.8,
    "im1k/convnextv2_huge_1k_224_ema.pt": 86.3,
    "im22k/convnextv2_nano_22k_224_ema.pt": 82.1,
    "im22k/convnextv2_nano_22k_384_ema.pt": 83.4,
    "im22k/convnextv2_tiny_22k_224_ema.pt": 83.9,
    "im22k/convnextv2_tiny_22k_384_ema.pt": 85.1,
    "im22k/convnextv2_base_22k_224_ema.pt": 86.8,
    "im22k/convnextv2_base_22k_384_ema.pt": 87.7,
    "im22k/convnextv2_large_22k_224_ema.pt": 87.3,
    "im22k/convnextv2_large_22k_384_ema.pt": 88.2,
    "im22k/convnextv2_huge_22k_384_ema.pt": 88.7,
    "im22k/convnextv2_huge_22k_512_ema.pt": 88.9,
}
FILE = re.compile(r"convnext(?:v2)?_(\w+?)_(1k|22k_1k|22k)_(\d+)(?:_(ema|fcmae))?\.pth?")
# Whose files from ImageNet-22K facebook has on the hub, in transformers' layout; V1 only.
ON_HUB_22K = ("base", "large", "xlarge")

# What timm trained itself, each at the size that timm tests it with; timm's own metadata has no
# accuracies. Only models with a classifier for ImageNet-1K have one.
TIMM_TOP1: dict[str, float] = {
    "convnext_atto.d2_in1k": 77.0,
    "convnext_femto.d1_in1k": 78.7,
    "convnext_pico.d1_in1k": 80.4,
    "convnext_nano.d1h_in1k": 81.5,
    "convnext_nano.in12k_ft_in1k": 82.9,
    "convnext_tiny_hnf.a2h_in1k": 82.6,
    "convnext_tiny.in12k_ft_in1k": 84.5,
    "convnext_tiny.in12k_ft_in1k_384": 85.1,
    "convnext_small.in12k_ft_in1k": 85.3,
    "convnext_small.in12k_ft_in1k_384": 86.2,
    "convnext_base.clip_laion2b_augreg_ft_in1k": 86.2,
    "convnext_base.clip_laion2b_augreg_ft_in12k_in1k": 86.4,
    "convnext_base.clip_laion2b_augreg_ft_in12k_in1k_384": 87.1,
    "convnext_base.clip_laiona_augreg_ft_in1k_384": 86.5,
    "convnext_large_mlp.clip_laion2b_augreg_ft_in1k": 87.3,
    "convnext_large_mlp.clip_laion2b_augreg_ft_in1k_384": 87.8,
    "convnext_large_mlp.clip_laion2b_soup_ft_in12k_in1k_320": 88.0,
    "convnext_large_mlp.clip_laion2b_soup_ft_in12k_in1k_384": 88.3,
}
# timm's models that this backbone can be. Left out: those with an overlapping stem (`_ols`), with
# RMS norm (`zepto_rms`), and with another eps (`xxlarge`).
TIMM_NAME = re.compile(rf"convnext(?P<v2>v2)?_(?P<arch>{'|'.join(VARIANTS)})(?:_mlp|_hnf)?\.(.+)")
TIMM_DATA = {
    "clip_laion2b": "LAION-2B, CLIP",
    "clip_laiona": "LAION-Aesthetics, CLIP",
    "dinov3_lvd1689m": "LVD-1689M, DINOv3",
    "eupe_lvd1689m": "LVD-1689M, EUPE",
    "fcmae": FCMAE,
}
DINOV3_LICENCE = "DINOv3 License"

# Columns of the terminal.
PRETRAINING_WIDTH, LICENCE_WIDTH = 28, 16


@dataclass(frozen=True)
class KnownWeights:
    """Weights that are known by name.

    Attributes:
        name: the file's without ending, or what its library calls it; no two have the same.
        arch: a key of ``VARIANTS``.
        version: 1, or 2 for GRN.
        sources: the same weights in several places, each as ``load_pretrained`` takes it; the
            publisher's own comes first.
        pretraining: on what and how, in words.
        licence: the publisher's.
        accuracy: top-1 on ImageNet-1K in per cent as published, or None.
        accuracy_source: where that was published, or None.
    """

    name: str
    arch: str
    version: int
    sources: tuple[str, ...]
    pretraining: str
    licence: str
    accuracy: float | None = None
    accuracy_source: str | None = None

    def matches(self, pattern: str) -> bool:
        """Whether a text is a part of any of the facts, in upper or lower case."""
        facts = (self.name, f"{self.arch} V{self.version}", self.pretraining, self.licence)
        return pattern.lower() in "\n".join((*facts, *self.sources)).lower()


def known_weights() -> list[KnownWeights]:
    """List all weights that are known by name.

    Those of timm and torchvision are read from the installed libraries, and are missing where
    these are. Whatever lies in several places is one entry with several sources.
    """
    published = [*_official(), *_dinov3()]
    return [*_with_timm(published), *_torchvision()]


def known_table(entries: Iterable[KnownWeights]) -> str:
    """Format weights as a table for terminals of 120 columns.

    Args:
        entries: as :func:`known_weights` lists them.

    Returns:
        For each its facts in columns, long ones wrapped, and below them a line for each source:
        URLs are too long for a column.
    """
    entries = list(entries)
    rows = [[["name, sources"], ["arch"], ["top-1"], ["pretraining"], ["licence"]]]
    rows += [_cells(entry) for entry in entries]
    widths = [
        max(len(line) for cell in column for line in cell) for column in zip(*rows, strict=True)
    ]
    header, *facts = [_row(row, widths) for row in rows]
    lines = [*header, "-" * (sum(widths) + 2 * (len(widths) - 1))]
    for entry, fact in zip(entries, facts, strict=True):
        lines += [*fact, *(f"  {source}" for source in entry.sources)]
    return "\n".join(lines)


def _cells(entry: KnownWeights) -> list[list[str]]:
    """The lines of each cell."""
    return [
        [entry.name],
        [f"{entry.arch} V{entry.version}"],
        ["-" if entry.accuracy is None else f"{entry.accuracy:.1f}%"],
        wrap(entry.pretraining, PRETRAINING_WIDTH, break_on_hyphens=False),
        wrap(entry.licence, LICENCE_WIDTH),
    ]


def _row(cells: list[list[str]], widths: list[int]) -> list[str]:
    lines = zip_longest(*cells, fillvalue="")
    return [
        "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]


def _official() -> list[KnownWeights]:
    v1 = [_from_file(f"{HOST}/{path}", top1, 1) for path, top1 in V1_FILES.items()]
    v2 = [_from_file(f"{HOST}/convnextv2/{path}", top1, 2) for path, top1 in V2_FILES.items()]
    return v1 + v2


def _from_file(url: str, top1: float | None, version: int) -> KnownWeights:
    """Read off the name of an official file what it contains."""
    file = url.rpartition("/")[2]
    arch, data, size, kind = FILE.fullmatch(file).groups()
    if version == 1:
        hub = f"convnext-{arch}-{size}" + {"1k": "", "22k": "-22k", "22k_1k": "-22k-1k"}[data]
        on_hub = data == "1k" or arch in ON_HUB_22K
        pretraining, licence, table = V1_TRAINING[data], "MIT", V1_TABLE
    else:
        # The hub's cards of V2 say Apache-2.0; its authors' own licence is what counts.
        hub, on_hub = f"convnextv2-{arch}-{data}-{size}", kind != "fcmae"
        pretraining, licence, table = V2_TRAINING[kind, data], "CC-BY-NC 4.0", V2_TABLE
    return KnownWeights(
        name=file.partition(".")[0],
        arch=arch,
        version=version,
        sources=(url, f"hf://facebook/{hub}") if on_hub else (url,),
        pretraining=pretraining,
        licence=licence,
        accuracy=top1,
        accuracy_source=None if top1 is None else table,
    )


def _dinov3() -> list[KnownWeights]:
    return [
        KnownWeights(
            name=f"dinov3-convnext-{arch}-pretrain-lvd1689m",
            arch=arch,
            version=1,
            sources=(f"hf://facebook/dinov3-convnext-{arch}-pretrain-lvd1689m",),
            pretraining=TIMM_DATA["dinov3_lvd1689m"],
            licence=DINOV3_LICENCE,
        )
        for arch in ("tiny", "small", "base", "large")
    ]


def _with_timm(published: list[KnownWeights]) -> list[KnownWeights]:
    """Add timm's copies of published weights to their sources, and timm's own as entries."""
    try:
        import timm
    except ImportError:
        return published
    by_source = {source: entry for entry in published for source in entry.sources}
    own = []
    for name in timm.list_pretrained("convnext*"):
        found = TIMM_NAME.fullmatch(name)
        if not found:
            continue
        cfg = timm.models.get_pretrained_cfg(name)
        entry = by_source.get(_original(found["arch"], cfg))
        if entry is None:
            own.append(_of_timm(name, found, cfg))
        else:
            sources = (*entry.sources, f"timm://{name}")
            by_source[entry.sources[0]] = replace(entry, sources=sources)
    return [by_source[entry.sources[0]] for entry in published] + own


def _original(arch: str, cfg: Any) -> str:
    """The first source of what timm has a copy of: its metadata name the official file."""
    if cfg.tag == "dinov3_lvd1689m":
        return f"hf://facebook/dinov3-convnext-{arch}-pretrain-lvd1689m"
    return cfg.url


def _of_timm(name: str, found: re.Match[str], cfg: Any) -> KnownWeights:
    top1 = TIMM_TOP1.get(name)
    return KnownWeights(
        name=name,
        arch=found["arch"],
        version=2 if found["v2"] else 1,
        sources=(f"timm://{name}",),
        pretraining=_timm_training(cfg.tag),
        licence=cfg.license or "not stated",
        accuracy=top1,
        accuracy_source=None if top1 is None else TIMM_TABLE,
    )


def _timm_training(tag: str) -> str:
    """Say in words what timm's tags say, as in ``clip_laion2b_augreg_ft_in12k_in1k_384``."""
    first = next((words for start, words in TIMM_DATA.items() if tag.startswith(start)), None)
    data = [f"ImageNet-{count}K" for count in re.findall(r"(?:^|_)in(\d+)k(?=_|$)", tag)]
    supervised = f"{', then '.join(data)}, supervised" if data else None
    return "; then ".join(words for words in (first, supervised) if words) or tag


def _torchvision() -> list[KnownWeights]:
    try:
        from torchvision.models import get_model_weights, list_models
    except ImportError:
        return []
    models = list_models(include="convnext_*")
    return [_of_torchvision(model, w) for model in models for w in get_model_weights(model)]


def _of_torchvision(model: str, weights: Any) -> KnownWeights:
    metrics = weights.meta.get("_metrics", {}).get("ImageNet-1K", {})
    top1 = metrics.get("acc@1")
    return KnownWeights(
        name=f"{model}.{weights.name}",
        arch=model.removeprefix("convnext_"),
        version=1,
        sources=(f"torchvision://{model}.{weights.name}", weights.url),
        pretraining=IN1K,
        licence="BSD-3-Clause (code), terms of ImageNet",
        accuracy=top1,
        accuracy_source=None if top1 is None else TORCHVISION_TABLE,
    )
