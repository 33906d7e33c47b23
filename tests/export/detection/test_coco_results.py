import numpy as np

from export.detection.coco_results import make_results
from export.detection.coco_results import number_images
from export.detection.exported_detector import Detections


def test_results_are_those_of_coco():
    mask = np.zeros((2, 3), bool)
    mask[1, 2] = True
    detections = Detections(
        boxes=np.array([[1.0, 2.25, 5.5, 4.0]], "float32"),
        classes=np.array([2]),
        scores=np.array([0.123456], "float32"),
        masks=mask[None],
    )
    (result,) = make_results(detections, ["cat", "dog"], "some/7.png")
    assert result.pop("segmentation")["size"] == [2, 3]
    assert result == {
        "file_name": "some/7.png",
        "category_id": 2,
        "category_name": "dog",
        "bbox": [2.25, 1.0, 1.75, 4.5],
        "score": 0.12346,
    }


def test_images_that_are_named_by_numbers_have_these():
    assert number_images(["a/000000000139.jpg", "7.png"]) == [139, 7]


def test_other_images_are_counted():
    assert number_images(["a/12.jpg", "cat.png"]) == [1, 2]
    # Two images must not have one number.
    assert number_images(["a/7.jpg", "b/07.png"]) == [1, 2]
    assert number_images([]) == []
