import cv2
import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import HorizontalBoxes
from mmdet.structures.mask import BitmapMasks
from mmengine.structures import InstanceData

from mmconvnext.evaluation.drawing import (
    DARK,
    FONT_SIZE,
    LIGHT,
    TITLE_HEIGHT,
    Objects,
    draw_objects,
)
from mmconvnext.evaluation.pictures import ComparisonVisualizer, contact_sheet

RED, BLUE = (255, 0, 0), (0, 0, 255)
SIZE, FACTOR = 160, 4
SIDE = SIZE * FACTOR


def objects(*boxes: tuple[int, int, int, int], kind: type = HorizontalBoxes, **others):
    """Objects that fill their boxes, of the classes 0, 1, ..."""
    masks = np.zeros((len(boxes), SIZE, SIZE), np.uint8)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes, strict=True):
        mask[y1:y2, x1:x2] = 1
    tensor = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    is_truth = kind is HorizontalBoxes
    return InstanceData(
        bboxes=kind(tensor) if is_truth else tensor,
        labels=torch.arange(len(boxes)),
        masks=BitmapMasks(masks, SIZE, SIZE) if is_truth else torch.from_numpy(masks).bool(),
        **others,
    )


@pytest.fixture
def draw(tmp_path):
    """Draw a sample before grey, and read the picture; RGB."""
    visualizer = ComparisonVisualizer()
    visualizer.dataset_meta = {"classes": ("a", "b"), "palette": [RED, BLUE]}
    grey = np.full((SIZE, SIZE, 3), 128, np.uint8)

    def draw(sample: DetDataSample | None, image=grey, **options):
        visualizer.add_datasample("x", image, sample, out_file=str(tmp_path / "x.png"), **options)
        return cv2.imread(str(tmp_path / "x.png"))[..., ::-1]

    return draw


def at(picture, x: int, y: int, panel: int = 0) -> list[int]:
    """The colour at a place of the image, in a panel."""
    place = TITLE_HEIGHT + FACTOR * y + 1, panel * SIDE + FACTOR * x + 1
    return picture[place].tolist()


def test_ground_truth_beside_predictions(draw):
    truth = objects((20, 40, 60, 90), (80, 100, 150, 150))
    crowd = objects((100, 20, 140, 60))
    found = objects(
        (20, 40, 60, 90), (80, 100, 150, 150), kind=torch.Tensor, scores=torch.tensor([0.9, 0.2])
    )
    picture = draw(DetDataSample(gt_instances=truth, ignored_instances=crowd, pred_instances=found))
    assert picture.shape == (SIDE + TITLE_HEIGHT, 2 * SIDE, 3)
    for panel in (0, 1):
        title = picture[:TITLE_HEIGHT, panel * SIDE : (panel + 1) * SIDE]
        assert title.min() <= min(DARK)
        assert title.max() > 240
        red, green, _ = at(picture, 40, 70, panel)
        assert red > 160 > 100 > green
        assert at(picture, 20, 70, panel) == list(RED)  # the outline
    assert at(picture, 120, 120, 0)[2] > 160
    assert at(picture, 120, 120, 1) == [128] * 3  # its score is too low
    stripes = {tuple(at(picture, x, 40, 0)) for x in range(102, 138)}
    assert stripes == {DARK, LIGHT}
    assert at(picture, 120, 40, 1) == [128] * 3


def test_boxes_alone_and_a_large_image(draw):
    truth = objects((20, 40, 60, 90), (150, 0, 160, 10))
    del truth.masks
    picture = draw(DetDataSample(gt_instances=truth), image=np.full((700, 500, 3), 128, np.uint8))
    above = round(TITLE_HEIGHT * 700 / SIDE)
    assert picture.shape == (700 + above, 500, 3)
    assert picture[above + 70, 40].tolist() == [128] * 3


@pytest.mark.parametrize(
    ("side", "box", "expected"),
    [
        (640, (100, 300, 400, 500), FONT_SIZE),
        (6400, (1000, 3000, 4000, 5000), 10 * FONT_SIZE),  # the same, ten times as large
        (6400, (1000, 3000, 1030, 3030), FONT_SIZE),  # would be hidden by larger ones
    ],
)
def test_labels_are_as_large_as_the_picture_and_the_object(side, box, expected):
    found = Objects(np.array([box]), ["a"], [RED])
    picture = draw_objects(np.full((side, side, 3), 128, np.uint8), found)
    column = (picture[: box[1] - 1, box[0] + 1] == RED).all(axis=1)
    assert column.sum() == pytest.approx(1.25 * expected, rel=0.15)


def test_a_label_at_the_edge_is_within_the_picture():
    widths = []
    for left in (300, 630):
        found = Objects(np.array([[left, 300, left + 9, 320]]), ["hair drier"], [RED], (), [0.5])
        picture = draw_objects(np.full((640, 640, 3), 128, np.uint8), found)
        widths.append((picture[278] == RED).all(axis=1).sum())
    assert widths[1] == pytest.approx(widths[0], abs=1)
    assert widths[0] > 100


def test_nothing_to_draw(draw):
    assert draw(None).shape == (SIZE, SIZE, 3)
    empty = draw(DetDataSample(gt_instances=objects()), draw_pred=False)
    assert empty.shape == (SIDE + TITLE_HEIGHT, SIDE, 3)


def test_a_contact_sheet(tmp_path):
    sizes = [(30, 60), (30, 60), (45, 60)]
    paths = [tmp_path / f"{number}.png" for number in range(3)]
    for value, (path, size) in enumerate(zip(paths, sizes, strict=True), 1):
        cv2.imwrite(str(path), np.full((*size, 3), 50 * value, np.uint8))
    sheet = np.asarray(contact_sheet(paths, columns=2, width=120))
    assert sheet.shape == (2 * 90, 240, 3)
    assert [int(sheet[10, 60, 0]), int(sheet[10, 180, 0]), int(sheet[100, 60, 0])] == [50, 100, 150]
    assert not sheet[60:90].any()
    assert not sheet[90:, 120:].any()
