"""A detector whose detections are known, and images for it."""

import numpy as np
import tensorflow as tf

from export.detection.trained_detector import Detector

_SIZE = 64


class _BrightestBox:
    """Finds what is bright, and that twice.

    It is class 2 at a score of 0.75, with a mask of the upper half, and class
    1 at 0.25, with a mask of the lower one.
    """

    def __init__(self):
        self.score = tf.Variable(0.75)
        self.variables = [self.score]

    def __call__(self, images, image_shape, training):
        assert not training
        is_bright = tf.reduce_min(images, axis=-1) > 1
        boxes = []
        for axis in (2, 1):
            numbers = tf.cast(tf.reduce_any(is_bright, axis), tf.int32)
            begin = tf.argmax(numbers, axis=1)
            end = _SIZE - tf.argmax(numbers[:, ::-1], axis=1)
            boxes.append(tf.cast(tf.stack([begin, end], 1), tf.float32))
        # Beyond the image is nothing.
        ends = tf.minimum(tf.stack(boxes, axis=2), image_shape[:, None])
        box = tf.reshape(ends, (-1, 1, 4))
        upper = tf.repeat([1.0, 0.0], 14)[:, None] * tf.ones((28, 28))
        masks = tf.stack([upper, 1 - upper, tf.ones((28, 28))])

        def repeat(value):
            return tf.repeat(tf.constant(value)[None], len(images), axis=0)

        return {
            "detection_boxes": tf.tile(box, (1, 3, 1)),
            "detection_scores": repeat([0.0, 0.25, 0.9])
            + self.score * repeat([1.0, 0.0, 0.0]),
            "detection_classes": repeat([2, 1, 9]),
            "detection_masks": tf.repeat(masks[None], len(images), axis=0),
            "num_detections": repeat(2),
        }


def make_detector():
    """Returns a detector of prepared images of 64 by 64 pixels."""
    return Detector(
        model=_BrightestBox(),
        image_size=(_SIZE, _SIZE),
        class_names=["lower", "upper"],
        min_score=0.05,
        max_detections=3,
    )


def draw(height, width, box):
    """Returns a black image with a white box."""
    image = np.zeros((height, width, 3), "uint8")
    ymin, xmin, ymax, xmax = box
    image[ymin:ymax, xmin:xmax] = 255
    return image
