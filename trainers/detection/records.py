"""TFRecords as tf-models-official's detectors read them, with masks."""

import io
import itertools
import os
from collections.abc import Iterable
from collections.abc import Sequence

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError
from PIL import Image

from trainers.detection.shapes import Drawing
from trainers.program import UserError

# Of 117,000 images of COCO, all would take minutes.
_MOST_CHECKED = 1000
_SIDES = ("ymin", "xmin", "ymax", "xmax")


def make_example(drawing: Drawing, image_id: int) -> tf.train.Example:
    """Makes a record of an image and what is in it.

    Args:
        drawing: image, boxes, classes and masks.
        image_id: number that no other image of the records has.
    """
    file = io.BytesIO()
    Image.fromarray(drawing.image).save(file, "PNG")
    return make_file_example(
        file.getvalue(),
        image_id=image_id,
        name=f"{image_id}.png",
        boxes=drawing.boxes,
        classes=drawing.classes,
        masks=drawing.masks,
        are_crowds=np.zeros(len(drawing.classes), bool),
        areas=drawing.masks.sum(axis=(1, 2)),
    )


def make_file_example(
    file: bytes,
    *,
    image_id: int,
    name: str,
    boxes: np.ndarray,
    classes: np.ndarray,
    masks: np.ndarray,
    are_crowds: np.ndarray,
    areas: np.ndarray,
) -> tf.train.Example:
    """Makes a record of an image file and what is in it.

    Args:
        file: PNG or JPEG.
        image_id: number that no other image of the records has.
        name: of the file.
        boxes: `(objects, 4)`: ymin, xmin, ymax and xmax in pixels.
        classes: `(objects,)`, from 1.
        masks: bool, `(objects, height, width)`.
        are_crowds: `(objects,)`. Crowds are not trained on, and what is found
            in them is no mistake.
        areas: `(objects,)`, pixels, by which results are given for small,
            medium and large objects.
    """
    # Takes seconds.
    from official.vision.data import tfrecord_lib

    _, height, width = masks.shape
    suffix = name.rpartition(".")[2].lower()
    feature = tfrecord_lib.image_info_to_feature_dict(
        height, width, name, image_id, file, suffix
    )
    if len(boxes):
        shares = np.asarray(boxes) / [height, width, height, width]
        values = {f"bbox/{side}": shares[:, n] for n, side in enumerate(_SIDES)}
        values["area"] = np.asarray(areas, float)
        values["class/label"] = np.asarray(classes, int)
        values["is_crowd"] = np.asarray(are_crowds, int)
        values["mask"] = [
            tfrecord_lib.encode_mask_as_png(mask.astype(np.uint8))
            for mask in masks
        ]
        for key, value in values.items():
            feature[f"image/object/{key}"] = tfrecord_lib.convert_to_feature(
                list(value)
            )
    return tf.train.Example(features=tf.train.Features(feature=feature))


def write_records(
    examples: Iterable[tf.train.Example], prefix: str, num_shards: int
) -> list[str]:
    """Writes examples to files, by turns.

    The files appear once all are whole.

    Args:
        examples: what to write.
        prefix: folder and begin of the names, such as `"records/train"`.
        num_shards: number of files.

    Returns:
        Paths, such as `"records/train-00000-of-00002.tfrecord"`.
    """
    folder, name = os.path.split(prefix)
    tf.io.gfile.makedirs(folder or ".")
    names = [
        f"{name}-{number:05}-of-{num_shards:05}.tfrecord"
        for number in range(num_shards)
    ]
    partial = [os.path.join(folder, f"partial-{name}") for name in names]
    paths = [os.path.join(folder, name) for name in names]
    writers = []
    try:
        writers += map(tf.io.TFRecordWriter, partial)
        for example, writer in zip(
            examples, itertools.cycle(writers), strict=False
        ):
            writer.write(example.SerializeToString())
        for writer in writers:
            writer.close()
        for source, path in zip(partial, paths, strict=True):
            tf.io.gfile.rename(source, path, overwrite=True)
    finally:
        for writer in writers:
            writer.close()
        for source in filter(tf.io.gfile.exists, partial):
            tf.io.gfile.remove(source)
    return paths


def check_records(pattern: str, num_classes: int | None = None) -> int:
    """Checks that a detector can be trained or evaluated on records.

    Args:
        pattern: names of the files, such as `"gs://bucket/train-*"`.
        num_classes: that of the model, which counts the background.

    Returns:
        The number of examples that were looked at: all, or 1,000.

    Raises:
        UserError: If no files match, if they hold no examples, none with
            objects, or none with masks, if they are damaged or not as
            tf-models-official reads them, or if a class is not the model's.
    """
    try:
        paths = sorted(tf.io.gfile.glob(pattern))
    except tf.errors.OpError as error:
        raise UserError(
            f"{pattern} cannot be looked for: {str(error).splitlines()[0]}"
        ) from error
    if not paths:
        raise UserError(f"There must be TFRecords. Received: none at {pattern}")
    num_examples = 0
    num_objects = 0
    try:
        for record in tf.data.TFRecordDataset(paths).take(_MOST_CHECKED):
            num_objects += _check_example(record.numpy(), pattern, num_classes)
            num_examples += 1
    except tf.errors.OpError as error:
        raise UserError(
            f"The TFRecords at {pattern} must be whole and readable. "
            f"Received: {str(error).splitlines()[0]}"
        ) from error
    if not num_examples:
        raise UserError(f"The TFRecords at {pattern} hold no examples.")
    if not num_objects:
        raise UserError(
            f"The TFRecords at {pattern} must hold objects. Received: "
            f"{num_examples} images without any"
        )
    return num_examples


def _check_example(record: bytes, pattern, num_classes):
    """Returns the number of objects."""
    try:
        feature = tf.train.Example.FromString(record).features.feature
    except DecodeError as error:
        raise UserError(
            f"The TFRecords at {pattern} must hold a tf.train.Example each. "
            "Received: something else"
        ) from error
    image = feature["image/encoded"].bytes_list.value
    source_id = feature["image/source_id"].bytes_list.value
    if not image or not source_id:
        missing = "image/source_id" if image else "image/encoded"
        raise UserError(
            f"The TFRecords at {pattern} must have the keys of "
            "tf-models-official; python -m trainers.detection.make_records "
            f"writes such files. Received: no {missing}"
        )
    if not source_id[0].isdigit():
        raise UserError(
            f"In the TFRecords at {pattern}, image/source_id must be a number, "
            f"by which results are kept. Received: {source_id[0]!r}"
        )
    classes = feature["image/object/class/label"].int64_list.value
    counts = [
        len(feature[f"image/object/bbox/{side}"].float_list.value)
        for side in _SIDES
    ]
    if set(counts) != {len(classes)}:
        raise UserError(
            f"In the TFRecords at {pattern}, each object must have a box and a "
            f"class. Received: {len(classes)} classes, {min(counts)} boxes in "
            f"image {source_id[0].decode()}"
        )
    masks = feature["image/object/mask"].bytes_list.value
    if len(masks) != len(classes):
        raise UserError(
            f"The TFRecords at {pattern} must hold a mask for each object; "
            "python -m trainers.detection.make_records writes them. Received: "
            f"{len(masks)} masks, {len(classes)} objects in image "
            f"{source_id[0].decode()}"
        )
    _check_classes(classes, pattern, num_classes)
    return len(classes)


def _check_classes(classes: Sequence[int], pattern, num_classes):
    if not classes:
        return
    last = max(classes) if num_classes is None else num_classes - 1
    if not 1 <= min(classes) <= max(classes) <= last:
        raise UserError(
            f"Classes in the TFRecords at {pattern} must be from 1 to {last}. "
            f"Received: {min(classes)} to {max(classes)}"
        )
