"""Reads objects in images from COCO's JSON, and says what is wrong there."""

import json
import math
import os
from typing import NamedTuple

import numpy as np
from pycocotools import mask as coco_mask

from trainers.files import fetching
from trainers.program import UserError

# Polygons are rounded by those who draw them.
_TOLERANCE = 1.0
_LAST_CATEGORY = 10_000


class Annotations(NamedTuple):
    """What COCO's JSON says.

    Attributes:
        images: dicts with "id", "file_name", "height" and "width".
        objects: lists of dicts of COCO's, by the id of their image.
        class_names: name of category n at n - 1; numbers that are no
            category have their number for a name.
        num_left_out: objects that are not among them because their box has
            no height or no width.
    """

    images: list[dict]
    objects: dict[int, list[dict]]
    class_names: list[str]
    num_left_out: int


def read_annotations(path: os.PathLike) -> Annotations:
    """Reads COCO's JSON.

    Args:
        path: the file, such as `instances_train2017.json`.

    Raises:
        UserError: If it is no such file, has no images or objects, or if an
            object is outside its image, of an unknown category or image, or
            without a segmentation.
    """
    contents = _read_json(path)
    _check_numbers(contents, path)
    images = {image["id"]: image for image in contents["images"]}
    names = {entry["id"]: entry for entry in contents["categories"]}
    for image in contents["images"]:
        _check_image(image, path)
    objects = {number: [] for number in images}
    num_left_out = 0
    for entry in contents["annotations"]:
        _check_object(entry, images, names, path)
        if min(entry["bbox"][2:]) <= 0:
            num_left_out += 1
        else:
            objects[entry["image_id"]].append(entry)
    if not any(objects.values()):
        raise UserError(
            f"{path} must say what is in the images. Received: "
            f"{len(images)} images, no objects"
        )
    last = max(names)
    class_names = [
        _name(number, names.get(number, {})) for number in range(1, last + 1)
    ]
    return Annotations(contents["images"], objects, class_names, num_left_out)


def decode_mask(entry: dict, height: int, width: int) -> np.ndarray:
    """Returns the mask of an object, a polygon's or a run-length code's.

    Args:
        entry: dict of COCO's.
        height: of the image.
        width: of the image.

    Returns:
        bool, `(height, width)`.

    Raises:
        UserError: If it cannot be decoded.
    """
    code = entry["segmentation"]
    try:
        if isinstance(code, list):
            parts = coco_mask.frPyObjects(code, height, width)
            code = coco_mask.merge(parts)
        elif isinstance(code["counts"], list):
            code = coco_mask.frPyObjects(code, height, width)
        return coco_mask.decode(code).astype(bool)
    # Its errors have no class of their own.
    except Exception as error:
        raise UserError(
            f"The segmentation of annotation {entry.get('id')} cannot be "
            f"decoded. Received: {error}"
        ) from error


def find_box(entry: dict, height: int, width: int) -> list[float]:
    """Returns ymin, xmin, ymax and xmax of an object, within its image."""
    left, top, box_width, box_height = entry["bbox"]
    return [
        max(0.0, top),
        max(0.0, left),
        min(height, top + box_height),
        min(width, left + box_width),
    ]


def _read_json(path):
    try:
        with fetching(path) as local, open(local, encoding="utf-8") as file:
            contents = json.load(file)
    except OSError as error:
        raise UserError(
            f"--annotations cannot be read: {error.strerror}. Received: {path}"
        ) from error
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"--annotations must be a JSON file. Received: {path}"
        ) from error
    keys = ("images", "annotations", "categories")
    for key in keys:
        entries = contents.get(key) if isinstance(contents, dict) else None
        if not isinstance(entries, list) or not all(
            isinstance(entry, dict) for entry in entries
        ):
            raise UserError(
                f"--annotations must be COCO's JSON, with lists of "
                f"{', '.join(keys)}. Received: {path} without such {key}"
            )
        if not entries:
            raise UserError(
                f"--annotations must list {key}. Received: none in {path}"
            )
    return contents


def _check_numbers(contents, path):
    for key in ("images", "categories"):
        found = set()
        for entry in contents[key]:
            number = entry.get("id")
            if not isinstance(number, int) or number < 0 or number in found:
                raise UserError(
                    f"Each of the {key} in {path} must have a number of its "
                    f"own as id. Received: {_shorten(number)}"
                )
            found.add(number)
    # A detector has weights for each number up to the last one.
    if not 1 <= max(found) <= _LAST_CATEGORY:
        raise UserError(
            f"Ids of categories in {path} must be from 1 to {_LAST_CATEGORY}; "
            f"0 is the background. Received: {max(found)}"
        )


def _check_image(image, path):
    sizes = image.get("height"), image.get("width")
    if not isinstance(image.get("file_name"), str) or not all(
        isinstance(size, int) and size > 0 for size in sizes
    ):
        raise UserError(
            f"Each image in {path} must have file_name, height and width. "
            f"Received: {_shorten(image)}"
        )


def _check_object(entry, images, names, path):
    def require(is_right, rule, received):
        if not is_right:
            raise UserError(
                f"{rule}. Received: {received}, annotation "
                f"{_shorten(entry.get('id'))} in {path}"
            )

    number = _find(entry, "image_id", images)
    require(
        number is not None,
        "Each object must be in one of the images",
        f"image_id {_shorten(entry.get('image_id'))}",
    )
    require(
        _find(entry, "category_id", names),
        "Each object must be of one of the categories, from 1 on; 0 is the "
        "background",
        f"category_id {_shorten(entry.get('category_id'))}",
    )
    box = entry.get("bbox")
    require(
        isinstance(box, list) and len(box) == 4 and all(map(_is_number, box)),
        "Each object must have a bbox of four numbers",
        _shorten(box),
    )
    left, top, width, height = box
    image = images[number]
    require(
        min(left, top) >= -_TOLERANCE
        and left + width <= image["width"] + _TOLERANCE
        and top + height <= image["height"] + _TOLERANCE,
        "Each object must be within its image",
        f"bbox {box} in {image['width']} x {image['height']} pixels",
    )
    require(
        _is_number(entry.get("area", 0)),
        "The area of an object must be a number, or left out",
        _shorten(entry.get("area")),
    )
    code = entry.get("segmentation")
    if isinstance(code, dict):
        size = [image["height"], image["width"]]
        require(
            code.get("size") == size
            and _are_counts(code.get("counts"), math.prod(size)),
            "A run-length code must have the size of its image, and counts "
            "that add up to its pixels",
            f"size {_shorten(code.get('size'))}",
        )
        return
    require(
        isinstance(code, list)
        and code
        # Of four numbers, a box would be made.
        and all(
            isinstance(polygon, list)
            and len(polygon) >= 6
            and len(polygon) % 2 == 0
            and all(map(_is_number, polygon))
            for polygon in code
        ),
        "Each object must have a segmentation: polygons of three corners or "
        "more, or a run-length code; boxes alone train no masks",
        _shorten(code),
    )


def _name(number, category):
    # In one line each, and none empty.
    return " ".join(str(category.get("name", "")).split()) or str(number)


def _find(entry, key, known):
    """Returns the number at a key, or `None` if it is unknown."""
    number = entry.get(key)
    return number if isinstance(number, int) and number in known else None


def _are_counts(counts, num_pixels):
    if not isinstance(counts, list):
        # Compressed.
        return isinstance(counts, str)
    # Where they are too few, the rest of a mask would be anything.
    return (
        all(isinstance(count, int) and count >= 0 for count in counts)
        and sum(counts) == num_pixels
    )


def _is_number(value):
    return isinstance(value, int | float) and math.isfinite(value)


def _shorten(value):
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
