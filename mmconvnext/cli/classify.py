"""Evaluate weights as the ImageNet classifier that they were trained as: are they whole?"""

from __future__ import annotations

import argparse
from pathlib import Path

from mmconvnext.cli import common

FULL = 50_000  # pictures of ImageNet's validation set


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line."""
    add = parser.add_argument
    add("weights", help="a path, a URL, timm://, hf:// or torchvision://")
    layouts = "ImageNet: val/<wnid>/*.JPEG, or val/*.JPEG with val.txt or the devkit's files"
    add("--data", metavar="DIR", required=True, help=layouts)
    add("--size", type=int, metavar="N", help="of pictures; default: what goes with the weights")
    add("--batch", type=int, default=32, metavar="N", help="default: %(default)s")
    add("--workers", type=int, default=2, metavar="N", help="that read; default: %(default)s")
    add("--limit", type=int, metavar="N", help="take N pictures, evenly out of all")
    add("--json", metavar="FILE", help="write it to a file, too")


def run(args: argparse.Namespace) -> int:
    """Print top-1 and top-5 beside the published figure; 1 where a picture could not be read."""
    from mmconvnext.errors import UserError

    for name, least in (("batch", 1), ("workers", 0), ("limit", 1)):
        value = getattr(args, name)
        if value is not None and value < least:
            raise UserError(f"--{name} {value} must be {least} or more")
    try:
        import timm  # noqa: F401
    except ImportError as error:
        raise UserError("classify needs timm (transforms, classes): pip install timm") from error
    from mmengine.device import get_device

    from mmconvnext.analysis import classification
    from mmconvnext.data.imagenet import find_samples

    entry = classification.find_entry(args.weights)
    evaluation = classification.find_evaluation(args.weights, entry, args.size)
    model = classification.load_classifier(args.weights)
    wnids, columns = classification.class_columns(model.num_classes, args.weights)
    samples = find_samples(Path(args.data), wnids)
    if args.limit:
        count = min(args.limit, len(samples))
        samples = [samples[i * len(samples) // count] for i in range(count)]
    print(f"{args.weights}: {model.kind}, {model.layout} layout, {model.num_classes:,} classes")
    print(f"pictures: {len(samples):,} of {args.data}\nevaluation: {evaluation.text}")
    if lacking := [w for w, c in zip(wnids, columns, strict=True) if c < 0]:
        print(f"ImageNet-1K's classes that the head lacks count as wrong: {', '.join(lacking)}")
    found = classification.evaluate(
        model, samples, evaluation.transform, columns, args.batch, args.workers, get_device()
    )
    print(f"top-1 {found.top1:.2f} %, top-5 {found.top5:.2f} % of {found.pictures:,} pictures")
    published = entry.accuracy if entry else None
    if published is None:
        print("published: no figure is in the zoo for these weights")
    else:
        print(f"published: top-1 {published:g} % ({entry.accuracy_source}, of {FULL:,} pictures)")
        if found.pictures == FULL and args.size is None:
            print(f"difference: {found.top1 - published:+.2f}")
    for fault in found.unreadable:
        print(f"cannot be read, left out: {fault}")
    if args.json:
        content = {"weights": args.weights, "kind": model.kind, "classes": model.num_classes}
        content |= {"evaluation": evaluation.text, "published_top1": published, **vars(found)}
        common.write_json(content, args.json)
    return int(bool(found.unreadable))
