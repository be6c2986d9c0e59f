from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from mmconvnext.data.findings import Findings
from mmconvnext.data.pictures import check_pictures, read_picture, read_pictures

PIXELS = np.random.default_rng(0).integers(0, 255, (30, 40, 3), dtype=np.uint8)


def save(path: Path, mode: str = "RGB", orientation: int = 1, **kwargs) -> Path:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(PIXELS).convert(mode).save(path, exif=exif.tobytes(), **kwargs)
    return path


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "webp", "tiff"])
def test_a_whole_picture_has_no_fault(tmp_path, suffix):
    picture = read_picture(save(tmp_path / f"a.{suffix}"))
    assert (picture.fault, picture.stored, picture.loaded) == ("", (40, 30), (40, 30))


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "webp", "tiff"])
@pytest.mark.parametrize("share", [0, 0.02, 0.5, 0.9])
def test_a_picture_that_is_cut_off(tmp_path, suffix, share):
    path = save(tmp_path / f"a.{suffix}")
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    decoded = cv2.imread(str(path)) if path.stat().st_size else None
    whole = decoded is not None and np.array_equal(decoded, PIXELS[..., ::-1])
    assert bool(read_picture(path).fault) != whole


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_size_is_that_of_what_opencv_loads(tmp_path, orientation):
    path = save(tmp_path / "a.jpg", orientation=orientation)
    picture = read_picture(path)
    assert picture.orientation == orientation
    assert picture.stored == (40, 30)
    assert picture.loaded == cv2.imread(str(path)).shape[1::-1]


def test_more_pixels_than_anybody_needs_are_not_decoded(tmp_path, monkeypatch):
    monkeypatch.setattr("mmconvnext.data.pictures.MAX_PIXELS", 1000)
    assert "has 40x30 pixels" in read_picture(save(tmp_path / "a.png")).fault


def check(folder: Path, sizes=None) -> dict[str, str]:
    names = sorted(path.name for path in folder.iterdir())
    findings = Findings()
    check_pictures(read_pictures(folder, names), sizes or {}, findings)
    return {finding.kind: str(finding) for finding in findings}


def test_links_out_of_the_folder_are_refused_and_others_are_not(tmp_path):
    store, folder = tmp_path / "store", tmp_path / "pictures"
    (store / "a").mkdir(parents=True)
    folder.symlink_to(store / "a")  # the folder itself may be one
    save(store / "a" / "own.png")
    save(store / "other.png")
    (folder / "inner.png").symlink_to("own.png")
    assert check(folder) == {}
    (folder / "outer.png").symlink_to("../other.png")
    assert f"outer.png -> {store / 'other.png'}" in check(folder)["link outside"]


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1"])
def test_other_kinds_of_colours_are_noted(tmp_path, mode):
    save(tmp_path / ("a.jpg" if mode == "CMYK" else "a.png"), mode)
    assert set(check(tmp_path)) == (set() if mode == "L" else {"picture of other colours"})


def test_sixteen_bits_are_refused(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), PIXELS[..., 0].astype(np.uint16) * 100)
    assert "8 bits" in check(tmp_path)["deep picture"]


def test_very_long_pictures_are_noted(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((2, 200, 3), np.uint8))
    assert "very long picture" in check(tmp_path)


def test_pictures_of_both_kinds_of_orientation_are_refused(tmp_path):
    for name in ("a.jpg", "b.jpg"):
        save(tmp_path / name, orientation=6)
    assert "upright by EXIF orientation" in check(tmp_path)["turned picture"]
    both = check(tmp_path, {"a.jpg": (40, 30), "b.jpg": (30, 40)})
    assert "b.jpg against a.jpg" in both["mixed EXIF orientation"]
    stored = check(tmp_path, {"a.jpg": (40, 30), "b.jpg": (40, 30)})
    assert "not applied" in stored["EXIF orientation"]
