"""Time and memory of the check of an annotation file as large as that of COCO's train2017.

    python tests/data/measure_checks.py ../shared/data/coco_tiny

The objects of a subset of COCO are repeated on as many images as it takes.
"""

import json
import resource
import sys
import time
from pathlib import Path

from mmconvnext.data.checks import check_annotations

OBJECTS = 860_001  # of train2017


def enlarge(content: dict, objects: int) -> dict:
    """Repeat the images of a file, with their objects, under new ids."""
    by_image: dict[int, list[dict]] = {}
    for entry in content["annotations"]:
        by_image.setdefault(entry["image_id"], []).append(entry)
    images, annotations = [], []
    while len(annotations) < objects:
        for image in content["images"]:
            index = len(images) + 1
            images.append({**image, "id": index, "file_name": f"{index}.jpg"})
            for entry in by_image.get(image["id"], []):
                annotations.append({**entry, "id": len(annotations) + 1, "image_id": index})
    return {**content, "images": images, "annotations": annotations}


def peak_gib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main() -> None:
    path = Path(sys.argv[1], "annotations", "instances_train2017.json")
    text = json.dumps(enlarge(json.loads(path.read_text()), OBJECTS))
    start, before = time.perf_counter(), peak_gib()
    content = json.loads(text)
    loaded, after = time.perf_counter(), peak_gib()
    used, _ = check_annotations(content)
    end = time.perf_counter()
    assert used is content
    print(
        f"{len(text) / 2**20:.0f} MiB, {len(content['images'])} images, "
        f"{len(content['annotations'])} objects: loaded in {loaded - start:.1f} s, checked in "
        f"{end - loaded:.1f} s; peak {before:.2f}, {after:.2f}, {peak_gib():.2f} GiB before, after "
        "loading, after the check"
    )


if __name__ == "__main__":
    main()
