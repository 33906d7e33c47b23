import numpy as np

from trainers.detection import pictures


def draw(image, **changes):
    mask = np.zeros((1, 600, 800), bool)
    mask[0, 200:400, 300:500] = True
    arguments = {
        "boxes": np.array([[100.0, 200.0, 500.0, 600.0]]),
        "classes": np.array([1]),
        "scores": np.array([0.9]),
        "masks": mask,
        "class_names": ["cat"],
    }
    picture = pictures.draw_detections(image, **(arguments | changes))
    return np.asarray(picture).astype(int)


def test_masks_and_boxes_are_where_they_were_found():
    image = np.full((600, 800, 3), 100, np.uint8)
    picture = draw(image)
    # Red, over gray, at 35 %.
    np.testing.assert_allclose(picture[300, 400], (154, 83, 83), atol=1)
    np.testing.assert_array_equal(picture[150, 250], (100, 100, 100))
    np.testing.assert_array_equal(picture[300, 202], (255, 51, 51))
    np.testing.assert_array_equal(picture[498 - 1, 400], (255, 51, 51))
    np.testing.assert_array_equal(picture[300, 205 + 3], (100, 100, 100))
    # What is drawn is another image.
    assert (image == 100).all()


def test_names_are_seen_on_any_ground():
    named = []
    for level in (0, 128, 255):
        image = np.full((600, 800, 3), level, np.uint8)
        label = draw(image)[83:98, 202:262]
        named.append(label)
        assert np.ptp(label.sum(axis=-1)) > 250
    # Neither name nor score depends on what is below.
    np.testing.assert_array_equal(named[0], named[2])
    other = draw(image, class_names=["dog"])[83:98, 202:262]
    assert (other != named[2]).any()
    number = draw(image, class_names=[])[83:98, 202:262]
    assert (number != named[2]).any()


def test_what_touches_the_edges_is_drawn():
    image = np.zeros((20, 30, 3), np.uint8)
    boxes = np.array([[0.0, 0.0, 20.0, 30.0], [19.0, 29.0, 20.0, 30.0]])
    picture = draw(
        image,
        boxes=boxes,
        classes=np.array([1, 2]),
        scores=np.array([0.5, 0.6]),
        masks=np.zeros((2, 20, 30), bool),
    )
    assert picture.shape == (360, 540, 3)
    assert picture[-20:, -100:].max() == 255


def test_nothing_found_changes_nothing():
    image = np.random.default_rng(0).integers(0, 256, (512, 600, 3), np.uint8)
    none = np.zeros(0)
    picture = draw(
        image, boxes=np.zeros((0, 4)), classes=none, scores=none, masks=None
    )
    np.testing.assert_array_equal(picture, image)
