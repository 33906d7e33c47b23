"""A detector as a SavedModel that reads image files itself."""

import functools
import json
import pathlib
import tempfile
from collections.abc import Callable

import tensorflow as tf
from official.vision.ops import preprocess_ops

from export.decoded_files import decode_files
from export.detection.trained_detector import Detector
from trainers.data.decoding import DAMAGED
from trainers.data.decoding import NO_IMAGE
from trainers.data.decoding import TOO_LARGE
from trainers.data.decoding import decode_image

METADATA_FILE = "metadata.json"
_ERROR = f"{NO_IMAGE}, {TOO_LARGE}, or {DAMAGED}"
# From ours to those of tf-models-official.
_NAMES = {
    "boxes": "detection_boxes",
    "scores": "detection_scores",
    "classes": "detection_classes",
    "masks": "detection_masks",
}


def write_detector(detector: Detector, folder: pathlib.Path) -> None:
    """Writes a SavedModel for TensorFlow Serving and `tf.saved_model.load`.

    Its signatures are:

    * `image_bytes`, the contents of image files, strings `(files,)` of any
      number, 0 too: PNG, JPEG, BMP, GIF or WebP -> `num_detections`, int32
      `(files,)`; of that many first rows, the best first, `boxes`, float32
      `(files, max_detections, 4)`: ymin, xmin, ymax and xmax in pixels of the
      upright image; `scores`, float32, and `classes`, int32 from 1, both
      `(files, max_detections)`; `masks`, float32 `(files, max_detections, 28,
      28)`, how sure it is that a part of the box belongs to the object;
      `image_sizes`, int32 `(files, 2)`, the height and width; and `errors`,
      strings `(files,)`: empty, or what is wrong with a file, in which nothing
      is detected then. Other rows are zero;
    * `serving_default`, float32 `images`, `(batch_size, height, width, 3)` of
      any size, from 0 to 255 -> the same without `errors`;
    * `full_masks`, `image_bytes`, a scalar string, and `min_score`, a scalar
      float32 -> `boxes`, `scores` and `classes` of that score at least, without
      other rows, and `masks`, bool `(detections, height, width)`. Images of
      several sizes have no such masks in common; hence it takes one.

    What `Detector.describe` returns stands in assets/metadata.json.

    Args:
        detector: what to write.
        folder: folder to make.
    """
    module = tf.Module()
    # Without the model, which would have its layers traced one by one.
    module.model_variables = list(detector.model.variables)
    signatures = make_signatures(detector)
    with tempfile.TemporaryDirectory() as asset_folder:
        # A SavedModel keeps the names of its assets' files.
        asset = pathlib.Path(asset_folder) / METADATA_FILE
        asset.write_text(json.dumps(detector.describe()), encoding="utf-8")
        module.metadata = tf.saved_model.Asset(str(asset))
        tf.saved_model.save(module, str(folder), signatures=signatures)


def make_signatures(detector: Detector) -> dict[str, Callable]:
    """Returns the signatures that `write_detector` describes."""
    run = _make_network(detector)
    prepare = functools.partial(prepare_image, image_size=detector.image_size)

    def decode(file):
        return prepare(decode_image(file, channels=3))

    @tf.function(
        input_signature=[
            tf.TensorSpec((None, None, None, 3), tf.float32, "images")
        ],
        autograph=False,
    )
    def detect(images):
        prepared, image_info = tf.map_fn(
            prepare,
            images,
            fn_output_signature=(
                tf.TensorSpec((*detector.image_size, 3)),
                tf.TensorSpec((3, 2)),
            ),
        )
        return run(prepared, image_info)

    @tf.function(
        input_signature=[tf.TensorSpec((None,), tf.string, "image_bytes")],
        autograph=False,
    )
    def detect_in_files(files):
        blank = tf.zeros((*detector.image_size, 3)), tf.zeros((3, 2))
        (images, image_info), is_good = decode_files(files, decode, blank)
        outputs = run(images, image_info)
        return outputs | {"errors": tf.where(is_good, "", _ERROR)}

    @tf.function(
        input_signature=[
            tf.TensorSpec((), tf.string, "image_bytes"),
            tf.TensorSpec((), tf.float32, "min_score"),
        ],
        autograph=False,
    )
    def detect_full_masks(file, min_score):
        image, image_info = decode(file)
        outputs = run(image[tf.newaxis], image_info[tf.newaxis])
        is_kept = (outputs["scores"][0] >= min_score) & tf.sequence_mask(
            outputs["num_detections"][0], detector.max_detections
        )
        boxes, scores, classes, masks = (
            tf.boolean_mask(outputs[name][0], is_kept) for name in _NAMES
        )
        height, width = tf.unstack(outputs["image_sizes"][0])
        return {
            "boxes": boxes,
            "scores": scores,
            "classes": classes,
            "masks": paste_masks(masks, boxes, height, width),
        }

    return {
        "serving_default": detect,
        "image_bytes": detect_in_files,
        "full_masks": detect_full_masks,
    }


def prepare_image(
    image: tf.Tensor, image_size: tuple[int, int]
) -> tuple[tf.Tensor, tf.Tensor]:
    """Does to an image what tf-models-official's evaluation does to it.

    That calls all of the result the image, so that boxes may reach beyond it.

    Args:
        image: `(height, width, 3)`, 0 to 255.
        image_size: height and width of the result.

    Returns:
        float32, `(*image_size, 3)`; and float32, `(3, 2)`: the height and
        width of the image, those of the part of the result that shows it, and
        these over the first.
    """
    image = preprocess_ops.normalize_image(
        tf.cast(image, tf.float32),
        offset=preprocess_ops.MEAN_RGB,
        scale=preprocess_ops.STDDEV_RGB,
    )
    prepared, image_info = preprocess_ops.resize_and_crop_image(
        image, image_size, padded_size=image_size
    )
    size, _, scale, _ = tf.unstack(image_info)
    image_info = tf.stack([size, tf.round(size * scale), scale])
    return tf.ensure_shape(prepared, (*image_size, 3)), image_info


def paste_masks(
    masks: tf.Tensor, boxes: tf.Tensor, height: tf.Tensor, width: tf.Tensor
) -> tf.Tensor:
    """Returns masks of boxes as masks of the whole image.

    `export.detection.masks` does the same without TensorFlow.

    Args:
        masks: float32, `(detections, mask_height, mask_width)`.
        boxes: float32, `(detections, 4)`.
        height: of the image, int32.
        width: of the image, int32.

    Returns:
        bool, `(detections, height, width)`.
    """

    def paste(pair):
        mask, box = pair
        ymin, xmin, ymax, xmax = tf.unstack(box)
        rows = _interpolate(ymin, ymax, mask.shape[0], height)
        columns = _interpolate(xmin, xmax, mask.shape[1], width)
        return rows @ mask @ tf.transpose(columns) > 0.5

    # One more, because of none there is no size.
    masks = tf.pad(masks, [[0, 1], [0, 0], [0, 0]])
    boxes = tf.pad(boxes, [[0, 1], [0, 0]])
    pasted = tf.map_fn(paste, (masks, boxes), fn_output_signature=tf.bool)
    return pasted[:-1]


def _interpolate(begin, end, count, length):
    """Returns the share of each mask pixel in each image pixel of an axis."""
    pixels = tf.range(length, dtype=tf.float32) + 0.5
    places = (pixels - begin) / tf.maximum(end - begin, 1e-6) * count - 0.5
    distances = tf.abs(
        places[:, tf.newaxis] - tf.range(count, dtype=tf.float32)
    )
    return tf.maximum(1 - distances, 0)


def _make_network(detector):
    """Returns a function that all signatures share, of prepared images."""

    @tf.function(
        input_signature=[
            tf.TensorSpec((None, *detector.image_size, 3), tf.float32),
            tf.TensorSpec((None, 3, 2), tf.float32),
        ]
    )
    def run(images, image_info):
        num_images = tf.shape(images)[0]
        # On a CPU, convolutions of no image at all have another shape.
        padding = [[0, tf.cast(num_images == 0, tf.int32)]]
        images = tf.pad(images, padding + [[0, 0]] * 3)
        padded_info = tf.pad(image_info, padding + [[0, 0]] * 2)
        outputs = detector.model(
            images, image_shape=padded_info[:, 1], training=False
        )
        scale = tf.tile(image_info[:, 2:3], [1, 1, 2])
        # Zeros stand for a file that is no image.
        count = tf.where(
            scale[:, 0, 0] > 0, outputs["num_detections"][:num_images], 0
        )
        is_row = tf.sequence_mask(count, detector.max_detections)
        rows = {
            ours: outputs[name][:num_images] for ours, name in _NAMES.items()
        }
        rows["boxes"] = tf.math.divide_no_nan(rows["boxes"], scale)
        rows["classes"] = tf.cast(rows["classes"], tf.int32)
        for name, tensor in rows.items():
            shape = tf.concat(
                [tf.shape(is_row), [1] * (tensor.shape.rank - 2)], axis=0
            )
            rows[name] = tf.where(
                tf.reshape(is_row, shape), tensor, tf.zeros_like(tensor)
            )
        return rows | {
            "num_detections": count,
            "image_sizes": tf.cast(image_info[:, 0], tf.int32),
        }

    return run.get_concrete_function()
