"""Detections as COCO has results."""

import pathlib

from export.detection.exported_detector import Detections
from export.detection.masks import encode_mask


def make_results(
    detections: Detections, class_names: list[str], path: str
) -> list[dict]:
    """Returns an object for each detection, all of it but `"image_id"`.

    Args:
        detections: what was found, with masks of the whole image.
        class_names: of class n at n - 1.
        path: of the image's file.

    Returns:
        `"file_name"`; `"category_id"`, from 1, and `"category_name"`;
        `"bbox"`: left, top, width and height in pixels; `"score"`; and
        `"segmentation"`, as `encode_mask` returns it.
    """
    results = []
    for box, number, score, mask in zip(*detections, strict=True):
        ymin, xmin, ymax, xmax = box.tolist()
        corners = (xmin, ymin, xmax - xmin, ymax - ymin)
        results.append(
            {
                "file_name": path,
                "category_id": int(number),
                "category_name": class_names[number - 1],
                "bbox": [round(side, 2) for side in corners],
                "score": round(float(score), 5),
                "segmentation": encode_mask(mask),
            }
        )
    return results


def number_images(paths: list[str]) -> list[int]:
    """Returns the ids of images.

    Those of COCO are named by their numbers; if all are, these are taken, and
    else places in the list, from 1.
    """
    names = [pathlib.PurePath(path).stem for path in paths]
    numbers = {int(name) for name in names if name.isdecimal()}
    if len(numbers) == len(names):
        return [int(name) for name in names]
    return list(range(1, len(names) + 1))
