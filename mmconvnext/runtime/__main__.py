"""``python -m mmconvnext.runtime MODEL PICTURES``: what a file detects; or ``serve MODEL``."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from mmconvnext.guard import main_guard
from mmconvnext.inference.prediction import SHOWN, Prediction
from mmconvnext.runtime import Detector
from mmconvnext.serving import served_by, server

MODEL = "file of `mmconvnext export`: .xml (OpenVINO) or .onnx (ONNX Runtime)"
CACHE = "folder where OpenVINO keeps what it compiles, to start sooner the next time"


def predict(arguments: Sequence[str]) -> int:
    """Print what is found; the exit code is 1 if a picture could not be used."""
    about = "Detect on pictures by an exported file. `serve MODEL` in place of MODEL: as a service."
    parser = argparse.ArgumentParser("python -m mmconvnext.runtime", description=about)
    add = parser.add_argument
    add("model", help=MODEL)
    add("pictures", nargs="+", metavar="PICTURE", help="picture files")
    add("--threshold", type=float, default=SHOWN, help="least score; default: %(default)s")
    add("--batch", type=int, default=1, metavar="N", help="pictures at a time; default: 1")
    add("--cache", metavar="DIR", help=CACHE)
    add("--json", action="store_true", help="print a COCO file, with masks as run lengths")
    args = parser.parse_args(arguments)
    settings = {"threshold": args.threshold, "batch": args.batch, "cache": args.cache}
    detector = Detector(args.model, **settings)
    faults: list[str] = []
    found = detector.predict(args.pictures, faults)
    if args.json:
        print(json.dumps(as_coco(found, detector.classes)))
    else:
        for each in found:
            for name, score, box in zip(each.names, each.scores, each.boxes, strict=True):
                numbers = "\t".join(f"{value:.1f}" for value in box)
                print(f"{each.frame.name}\t{name}\t{score:.3f}\t{numbers}")
    for line in faults:
        print(f"left out: {line}", file=sys.stderr)
    return 1 if faults else 0


def as_coco(found: Iterable[Prediction], classes: Sequence[str]) -> dict[str, Any]:
    """Predictions as a COCO file, as ``mmconvnext predict`` writes it."""
    images, objects = [], []
    for number, each in enumerate(found, start=1):
        size = dict(zip(("width", "height"), each.size, strict=True))
        images.append({"id": number, "file_name": each.frame.name, **size})
        objects += each.coco(number, len(objects) + 1)
    categories = [{"id": number, "name": name} for number, name in enumerate(classes, start=1)]
    return {"categories": categories, "annotations": objects, "images": images}


def serve(arguments: Sequence[str]) -> None:
    """Serve a page and ``/predict`` until SIGINT or SIGTERM."""
    about = "Serve an exported file: the page, /predict, /health, /ready and /metrics."
    parser = argparse.ArgumentParser("python -m mmconvnext.runtime serve", description=about)
    parser.add_argument("model", help=MODEL)
    parser.add_argument("--cache", metavar="DIR", help=CACHE)
    server.add_arguments(parser)
    args = parser.parse_args(arguments)

    def load() -> list[Any]:
        detector = Detector(args.model, batch=args.max_batch, cache=args.cache)
        return [served_by(Path(args.model).stem, detector)]

    server.run(args, load)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command, by default that of the process; return the exit code."""
    arguments = sys.argv[1:] if arguments is None else [*arguments]
    run = serve if arguments[:1] == ["serve"] else predict
    return main_guard(run)(arguments[1:] if run is serve else arguments)


if __name__ == "__main__":
    sys.exit(main())
