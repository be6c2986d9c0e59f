"""*shapes*: a synthetic instance-segmentation data set in the layout of COCO.

Disks, triangles and crosses of random size and orientation before textured backgrounds, up to four
to an image. Colour helps to tell the classes apart but does not suffice: most disks are reddish,
triangles greenish and crosses bluish, one in ten shapes has any colour, and backgrounds are pale or
dull. Smaller shapes cover larger ones, and polygons follow the outline of what is visible; as in
COCO, a hole in the middle of an object is not cut out. Some images are empty, and some have a
crowd: a cluster of tiny shapes of one class under one RLE.

Every image has a generator of its own, seeded by (seed, split, index): a larger data set contains
the smaller one, and no image of one split is in the other.
"""

from __future__ import annotations

import colorsys
import json
import os
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from rich.progress import track

from mmconvnext.data.formats.common import Labelled, Shape, make_splits
from mmconvnext.data.masks import outlines, run_lengths
from mmconvnext.errors import ShapesError

SPLITS = ("train", "val")
FOLDERS = ("annotations", *SPLITS)
ANNOTATIONS = "annotations/instances_{}.json"
DESCRIPTION = "mmconvnext shapes"
START = '{"info": '  # of an annotation file
MAX_OBJECTS = 4
EMPTY_SHARE, CROWD_SHARE = 0.05, 0.06
# Radii as parts of the image's side: at 160 pixels these give small, medium and large objects.
MIN_RADIUS, MAX_RADIUS = 0.08, 0.48
RADIUS_POWER = 2  # more small than large ones
MIN_CONTRAST = 60  # grey levels in at least one channel
ANY_HUE_SHARE = 0.1  # of the objects, whatever their class
MIN_VISIBLE = 0.7  # of an object that others may leave; it is taken back if they leave less
MIN_PIXELS = 20
SUBPIXEL_BITS = 4

Rng = np.random.Generator
Object = tuple[int, np.ndarray, bool]  # category index, mask (S, S) bool, crowd
Infos = dict[str, dict[str, Any]]  # of each split, what is at the head of its annotation file


class Scene(NamedTuple):
    """An image (S, S, 3) BGR uint8 and its objects, crowds last."""

    image: np.ndarray
    objects: list[Object]


def _regular(corners: int) -> np.ndarray:
    angles = 2 * np.pi * np.arange(corners) / corners
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


ARM = np.array([[0.33, 0.33], [0.33, 1], [-0.33, 1], [-0.33, 0.33]])
QUARTER = np.array([[0, 1], [-1, 0]])
CROSS = np.concatenate([ARM @ np.linalg.matrix_power(QUARTER, times) for times in range(4)])
# Of each class the mean hue in degrees, and the corners (K, 2) xy in radii: the arms of a cross are
# 0.66 wide, and a triangle has about its area.
CLASSES = ("disk", "triangle", "cross")
HUES, HUE_STD = (0, 120, 240), 20
OUTLINES = (_regular(48), 1.3 * _regular(3), CROSS)


def generate_shapes(
    out_dir: str | Path,
    *,
    num_train: int = 400,
    num_val: int = 80,
    image_size: int = 160,
    seed: int = 0,
    overwrite: bool = False,
) -> dict[str, Path]:
    """Write the data set as a whole, or find it already written with the same parameters.

    Args:
        out_dir: gets ``annotations/instances_{train,val}.json``, ``train/*.png``, ``val/*.png``.
        num_train: images to train on.
        num_val: images to evaluate on.
        image_size: side of the images in pixels, at least 64.
        seed: the same one gives the same data, byte for byte.
        overwrite: replace *shapes* of other parameters, or write beside other files. Files that
            *shapes* did not write are never replaced or deleted.

    Returns:
        The annotation file of each split.
    """
    given = {"num_train": num_train, "num_val": num_val, "image_size": image_size, "seed": seed}
    for (name, value), least in zip(given.items(), (1, 1, 64, 0), strict=True):
        if type(value) is not int or value < least:
            raise ShapesError(f"{name}={value!r} must be an integer of at least {least}")
    out_dir = Path(out_dir)
    wanted = {}
    for split in SPLITS:
        about = {"description": DESCRIPTION, "version": 1, "split": split}
        about |= {"num_images": given[f"num_{split}"], "image_size": image_size, "seed": seed}
        wanted[split] = about
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
        found, files = _infos(out_dir), _files(out_dir)
        if found != wanted or not _names(wanted) <= files:
            _check_replaceable(out_dir, files, found, wanted, overwrite)
            _write(out_dir, wanted)
    except OSError as error:
        raise ShapesError(f"out_dir={str(out_dir)!r} cannot be written: {error}") from error
    return {split: out_dir / ANNOTATIONS.format(split) for split in SPLITS}


def draw_scene(split: str, index: int, image_size: int, seed: int) -> Scene:
    """Draw the image of this index within ``train`` or ``val``, ``image_size`` pixels wide."""
    rng = np.random.Generator(np.random.PCG64([seed, SPLITS.index(split), index]))
    image, colour = _background(rng, image_size)
    objects: list[Object] = []
    if rng.random() >= EMPTY_SHARE:
        if rng.random() < CROWD_SHARE:
            objects.append(_draw_crowd(rng, image, colour))
        positions = rng.random(rng.integers(1, MAX_OBJECTS + 1)) ** RADIUS_POWER
        for radius in MIN_RADIUS + (MAX_RADIUS - MIN_RADIUS) * np.sort(positions)[::-1]:
            objects = _draw_object(rng, image, colour, radius * image_size, objects)
    camera_noise = rng.uniform(1, 5) * rng.standard_normal(image.shape, dtype=np.float32)
    image = np.clip(image + camera_noise, 0, 255).round().astype(np.uint8)
    return Scene(image, sorted(objects, key=lambda item: item[2]))


def _background(rng: Rng, size: int) -> tuple[np.ndarray, np.ndarray]:
    """A texture (S, S, 3) float32 and its mean colour."""
    colour = _colour(rng.random(), rng.uniform(0, 0.3), rng.uniform(0.2, 0.9))
    noise = rng.standard_normal((size, size, 3), dtype=np.float32)
    blurred = cv2.GaussianBlur(noise, (0, 0), rng.uniform(0.01, 0.05) * size)
    texture = blurred / blurred.std() * rng.uniform(4, 12)
    if rng.random() < 0.5:
        angle, period = rng.uniform(0, np.pi), rng.uniform(0.04, 0.2) * size
        y, x = np.mgrid[:size, :size]
        wave = np.sin(2 * np.pi * (x * np.cos(angle) + y * np.sin(angle)) / period)
        texture += rng.uniform(4, 12) * wave[..., None].astype(np.float32)
    return colour + texture, colour


def _colour(hue: float, saturation: float, value: float) -> np.ndarray:
    """BGR (3,) float32 in grey levels of a colour whose parts are in 0-1."""
    return 255 * np.array(colorsys.hsv_to_rgb(hue, saturation, value)[::-1], np.float32)


def _shape(rng: Rng, category: int, centre: np.ndarray, radius: float, size: int) -> np.ndarray:
    """The mask (S, S) bool of a shape, rotated at random."""
    angle = rng.uniform(0, 2 * np.pi)
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    corners = OUTLINES[category] @ rotation * radius + centre
    fixed_point = np.round(corners * 2**SUBPIXEL_BITS).astype(np.int32)
    mask = np.zeros((size, size), np.uint8)
    return cv2.fillPoly(mask, [fixed_point], 1, shift=SUBPIXEL_BITS).astype(bool)


def _paint(
    rng: Rng, image: np.ndarray, mask: np.ndarray, category: int, background: np.ndarray
) -> None:
    """Fill a mask with a colour of its class that stands out from the background's mean."""
    colour = background
    while np.abs(colour - background).max() < MIN_CONTRAST:
        any_hue = rng.random() < ANY_HUE_SHARE
        hue = rng.random() if any_hue else rng.normal(HUES[category], HUE_STD) / 360
        colour = _colour(hue % 1, rng.uniform(0.5, 1), rng.uniform(0.4, 1))
    texture = rng.uniform(2, 8) * rng.standard_normal((int(mask.sum()), 3), dtype=np.float32)
    image[mask] = colour + texture


def _draw_object(
    rng: Rng, image: np.ndarray, background: np.ndarray, radius: float, objects: list[Object]
) -> list[Object]:
    """Draw a shape over the others, unless it would hide too much of one of them."""
    size, category = len(image), int(rng.integers(len(CLASSES)))
    centre = rng.uniform(min(0.7 * radius, size / 2), max(size - 0.7 * radius, size / 2), 2)
    mask = _shape(rng, category, centre, radius, size)
    visible = [(c, other & ~mask, crowd) for c, other, crowd in objects]
    pairs = [(new[1].sum(), old[1].sum()) for new, old in zip(visible, objects, strict=True)]
    hidden = any(rest < max(MIN_PIXELS, MIN_VISIBLE * whole) for rest, whole in pairs)
    if hidden or mask.sum() < MIN_PIXELS:
        return objects
    _paint(rng, image, mask, category, background)
    return [*visible, (category, mask, False)]


def _draw_crowd(rng: Rng, image: np.ndarray, background: np.ndarray) -> Object:
    """A cluster of tiny shapes of one class."""
    size, category = len(image), int(rng.integers(len(CLASSES)))
    centre = rng.uniform(0.25 * size, 0.75 * size, 2)
    crowd = np.zeros((size, size), bool)
    for _ in range(rng.integers(12, 25)):
        place = centre + rng.normal(0, 0.08 * size, 2)
        mask = _shape(rng, category, place, 0.035 * size, size)
        _paint(rng, image, mask, category, background)
        crowd |= mask
    return category, crowd, True


def _write(out_dir: Path, wanted: Infos) -> None:
    """Draw into a temporary folder; then put what is new in the place of what is old."""
    with tempfile.TemporaryDirectory(dir=out_dir, prefix=".shapes-") as temporary:
        new = Path(temporary)
        for name in FOLDERS:
            (new / name).mkdir()
        for split, info in wanted.items():
            _write_split(new, split, info)
        for name in FOLDERS:  # annotations first: without them nothing passes for complete
            if (out_dir / name).exists():
                os.rename(out_dir / name, new / f"old-{name}")
        for name in reversed(FOLDERS):
            os.rename(new / name, out_dir / name)


def _write_split(out_dir: Path, split: str, info: dict[str, Any]) -> None:
    size, pictures = info["image_size"], []
    for index in track(range(info["num_images"]), description=f"drawing {split}"):
        scene, name = draw_scene(split, index, size, info["seed"]), f"{index:06d}.png"
        if not cv2.imwrite(str(out_dir / split / name), scene.image):
            raise ShapesError(f"cannot write {out_dir / split / name}; is the disk full?")
        shapes = []
        for category, mask, crowd in scene.objects:
            outline = run_lengths(mask) if crowd else [each.tolist() for each in outlines(mask)]
            box = cv2.boundingRect(mask.astype(np.uint8))
            shapes.append(Shape(CLASSES[category], outline, box, crowd))
        pictures.append(Labelled(split, name, (size, size), shapes))
    content = make_splits(pictures, out_dir, CLASSES)[split].content
    text = json.dumps({"info": info, "licenses": [], **content})
    (out_dir / ANNOTATIONS.format(split)).write_text(text, encoding="utf-8")


def _infos(out_dir: Path) -> Infos:
    """The parameters at the head of each annotation file that *shapes* wrote."""
    infos = {}
    for split in SPLITS:
        try:
            with (out_dir / ANNOTATIONS.format(split)).open(encoding="utf-8") as file:
                head = file.read(1024)
            info, _ = json.JSONDecoder().raw_decode(head, len(START))
        except (FileNotFoundError, ValueError):
            continue
        ours = head.startswith(START) and isinstance(info, dict)
        if ours and (info.get("description"), info.get("split")) == (DESCRIPTION, split):
            infos[split] = info
    return infos


def _names(infos: Infos) -> set[str]:
    """The files of splits with these parameters, relative to the data set's folder."""
    images = {f"{s}/{i:06d}.png" for s, info in infos.items() for i in range(info["num_images"])}
    return images | {ANNOTATIONS.format(split) for split in infos}


def _files(out_dir: Path) -> set[str]:
    """What is in the folders of a data set, relative to it."""
    paths = (path for name in FOLDERS for path in (out_dir / name).rglob("*") if not path.is_dir())
    return {path.relative_to(out_dir).as_posix() for path in paths}


def _check_replaceable(
    out_dir: Path, files: set[str], found: Infos, wanted: Infos, overwrite: bool
) -> None:
    """Refuse to replace what is not ours, or is ours with other parameters."""
    folder = f"out_dir={str(out_dir)!r}"
    if foreign := files - _names(found):
        raise ShapesError(
            f"{folder} has another data set: {min(foreign)} ({len(foreign)} files in all) was not "
            "written by shapes and would be lost; choose an empty folder"
        )
    others = {path.name for path in out_dir.iterdir()} - {*FOLDERS}
    if others and not found and not overwrite:
        raise ShapesError(
            f"{folder} has other files: {min(others)} ({len(others)} in all); choose an empty "
            "folder, or overwrite=True (--overwrite) to write beside them"
        )
    differing = {split: info for split, info in found.items() if info != wanted[split]}
    if differing and not overwrite:
        raise ShapesError(
            f"{folder} has shapes with other parameters ({differing}); choose another folder, or "
            "overwrite=True (--overwrite) to replace them"
        )
