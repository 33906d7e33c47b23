"""Masks of boxes as masks of images, and as COCO writes them."""

import numpy as np


def paste_masks(
    masks: np.ndarray, boxes: np.ndarray, height: int, width: int
) -> np.ndarray:
    """Returns masks of boxes as masks of the whole image.

    What is between a mask's pixels is interpolated, and beyond them is
    nothing.

    Args:
        masks: float32, `(detections, mask_height, mask_width)`, from 0 to 1.
        boxes: `(detections, 4)`: ymin, xmin, ymax and xmax in pixels of the
            image.
        height: of the image.
        width: of the image.

    Returns:
        bool, `(detections, height, width)`: where they are above a half.
    """
    pasted = np.zeros((len(masks), height, width), bool)
    for number, (mask, box) in enumerate(zip(masks, boxes, strict=True)):
        ymin, xmin, ymax, xmax = box
        rows = _interpolate(ymin, ymax, mask.shape[0], height)
        columns = _interpolate(xmin, xmax, mask.shape[1], width)
        pasted[number] = rows @ mask @ columns.T > 0.5
    return pasted


def _interpolate(begin, end, count, length):
    """Returns the share of each mask pixel in each image pixel of an axis."""
    pixels = np.arange(length, dtype="float32") + 0.5
    places = (pixels - begin) / max(end - begin, 1e-6) * count - 0.5
    distances = np.abs(places[:, np.newaxis] - np.arange(count))
    return np.maximum(1 - distances, 0).astype("float32")


def encode_mask(mask: np.ndarray) -> dict:
    """Returns the run lengths of a mask as COCO has them.

    Args:
        mask: bool, `(height, width)`.

    Returns:
        `"size"`, the height and width; and `"counts"`, as text, which is
        shorter, if pycocotools is installed, and else as numbers: how many
        pixels are outside, inside, outside and so on, down the columns.
    """
    try:
        from pycocotools import mask as coco_mask
    except ModuleNotFoundError:
        pixels = np.concatenate([[False], mask.ravel(order="F")])
        changes = np.flatnonzero(pixels[1:] != pixels[:-1])
        ends = [*changes.tolist(), mask.size]
        counts = np.diff(ends, prepend=0).tolist()
        return {"size": list(mask.shape), "counts": counts}
    encoded = coco_mask.encode(np.asfortranarray(mask, "uint8"))
    return {
        "size": list(mask.shape),
        "counts": encoded["counts"].decode("ascii"),
    }
