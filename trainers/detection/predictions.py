"""Draws what a detector finds in images beside what is in them."""

import os
from collections.abc import Sequence

import numpy as np
import tensorflow as tf
import tf_keras
from official.core import config_definitions
from official.vision.dataloaders import tf_example_decoder
from official.vision.ops import mask_ops
from official.vision.ops import preprocess_ops
from PIL import Image

from trainers.detection.pictures import draw_detections
from trainers.files import replacing

_MIN_SCORE = 0.5
_MARGIN = 8


def draw_predictions(
    model: tf_keras.Model,
    experiment: config_definitions.ExperimentConfig,
    class_names: Sequence[str],
    path: os.PathLike,
    count: int = 4,
) -> None:
    """Draws the first images of the validation data in a file.

    Each has a row: left what is true, right what was found with a score of
    0.5 or more.

    Args:
        model: a detector of tf-models-official.
        experiment: names data and image size.
        class_names: name of class n at n - 1.
        path: PNG file.
        count: number of images.
    """
    decoder = tf_example_decoder.TfExampleDecoder(include_mask=True)
    paths = tf.io.gfile.glob(experiment.task.validation_data.input_path)
    rows = []
    for record in tf.data.TFRecordDataset(sorted(paths)).take(count):
        truth = decoder.decode(record)
        image = truth["image"].numpy()
        height, width = image.shape[:2]
        boxes = truth["groundtruth_boxes"].numpy()
        true = draw_detections(
            image,
            boxes * [height, width, height, width],
            truth["groundtruth_classes"].numpy(),
            np.ones(len(boxes)),
            truth["groundtruth_instance_masks"].numpy() > 0,
            class_names,
        )
        found = draw_detections(
            image, *_detect(model, experiment, image), class_names
        )
        rows.append((true, found))
    with replacing(path) as temporary:
        _stack(rows).save(temporary)


def _detect(model, experiment, image):
    """Returns boxes, classes, scores and masks, in pixels of the image."""
    task = experiment.task
    size = task.model.input_size[:2]
    inputs, info = preprocess_ops.resize_and_crop_image(
        preprocess_ops.normalize_image(image),
        size,
        padded_size=preprocess_ops.compute_padded_size(
            size, 2**task.model.max_level
        ),
    )
    outputs = model(
        tf.cast(inputs, task.validation_data.dtype)[None],
        image_shape=info[None, 1],
        training=False,
    )
    scores = outputs["detection_scores"][0].numpy()
    kept = scores >= _MIN_SCORE
    scale = np.tile(info[2], 2)
    boxes = outputs["detection_boxes"][0].numpy()[kept] / scale
    corners, ends = boxes[:, 1::-1], boxes[:, :1:-1]
    masks = mask_ops.paste_instance_masks(
        outputs["detection_masks"][0].numpy()[kept].astype("float32"),
        # x, y, width, height.
        np.concatenate([corners, ends - corners], axis=1),
        *image.shape[:2],
    )
    classes = outputs["detection_classes"][0].numpy()[kept]
    return boxes, classes, scores[kept], masks > 0


def _stack(rows):
    """Returns one picture of pairs of pictures."""
    widths = [max(pair[n].width for pair in rows) for n in (0, 1)]
    heights = [max(picture.height for picture in pair) for pair in rows]
    size = (sum(widths) + _MARGIN, sum(heights) + _MARGIN * (len(rows) - 1))
    whole = Image.new("RGB", size, "white")
    top = 0
    for pair, height in zip(rows, heights, strict=True):
        whole.paste(pair[0], (0, top))
        whole.paste(pair[1], (widths[0] + _MARGIN, top))
        top += height + _MARGIN
    return whole
