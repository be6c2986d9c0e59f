"""How often `compare` says "more than noise" of two detectors that are equally good.

    python tests/report/measure_compare.py [PICTURES] [PAIRS]

Boxes of three classes on made-up pictures; both detectors move, drop and mislabel them and add
others by the same law, each by chance of its own. An interval of 95 % should leave out 0 in 5 % of
the pairs. Beside it: the share without the correction for samples that have no picture twice.
"""

import sys
from types import SimpleNamespace

import numpy as np

from mmconvnext.evaluation import hotcoco_eval
from mmconvnext.report.compare import ap_rows

SAMPLES, CLASSES, SIDE = 100, 3, 400


def truth_of(pictures: int, rng: np.random.Generator) -> dict:
    """Pictures with 1 to 9 boxes each."""
    objects = []
    for image in range(1, pictures + 1):
        for _ in range(rng.integers(1, 10)):
            x, y, width, height = [*rng.uniform(0, SIDE - 150, 2), *rng.uniform(15, 150, 2)]
            objects.append(
                {"id": len(objects) + 1, "image_id": image, "bbox": [x, y, width, height],
                 "area": width * height, "iscrowd": 0,
                 "category_id": int(rng.integers(1, CLASSES + 1))}
            )  # fmt: skip
    return {
        "images": [{"id": i, "width": SIDE, "height": SIDE} for i in range(1, pictures + 1)],
        "categories": [{"id": i, "name": str(i)} for i in range(1, CLASSES + 1)],
        "annotations": objects,
    }


def detector(truth: dict, rng: np.random.Generator) -> np.ndarray:
    """Rows of image, box, score and category; pictures are harder or easier for each detector."""
    rows = []
    for image in truth["images"]:
        hard = rng.uniform(0.02, 0.2)
        for entry in (a for a in truth["annotations"] if a["image_id"] == image["id"]):
            if rng.random() > hard:
                box = np.array(entry["bbox"])
                box += rng.normal(0, hard, 4) * box[[2, 3, 2, 3]]
                right = rng.random() > hard
                category = entry["category_id"] if right else rng.integers(CLASSES) + 1
                rows.append([image["id"], *np.abs(box), rng.beta(5, 2), category])
        for _ in range(rng.poisson(2)):
            box = [*rng.uniform(0, SIDE - 150, 2), *rng.uniform(15, 150, 2)]
            rows.append([image["id"], *box, rng.beta(2, 4), rng.integers(CLASSES) + 1])
    return np.array(rows, np.float64)


def main(pictures: int = 100, pairs: int = 200) -> None:
    rng = np.random.default_rng(0)
    ours = narrow = 0
    for _ in range(pairs):
        content = truth_of(pictures, rng)
        truth = hotcoco_eval.read_truth(content)
        ids = ([image["id"] for image in content["images"]], range(1, CLASSES + 1))
        thresholds = np.linspace(0.5, 0.95, 10)
        both = []
        for _ in range(2):
            detected = hotcoco_eval.load_detections(truth, detector(content, rng))
            limits = (*ids, [100, 300, 1000], thresholds)
            both.append(hotcoco_eval.evaluate("bbox", truth, detected, *limits))
        results = [SimpleNamespace(evaluations={"bbox": each}) for each in both]
        (found,) = ap_rows(results, "bbox", SAMPLES)["mAP"]["differences"]
        ours += not found["low"] <= 0 <= found["high"]
        middle, half = (found["high"] + found["low"]) / 2, (found["high"] - found["low"]) / 2
        narrow += abs(middle) > half / np.sqrt(np.e - 1)
    print(f"{pictures} pictures, {pairs} pairs: 0 is left out by {100 * ours / pairs:.1f} % of the")
    print(f"intervals (should be 5 %), and by {100 * narrow / pairs:.1f} % without the correction")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
