"""Draws what a detector found."""

import colorsys
from collections.abc import Sequence

import numpy as np
from PIL import Image
from PIL import ImageChops
from PIL import ImageDraw
from PIL import ImageFilter
from PIL import ImageFont

# Neighbors in this order have unlike hues; the golden ratio's share of a turn.
_HUE_STEP = 0.381966
_MASK_OPACITY = 0.35


def draw_detections(
    image: np.ndarray,
    boxes: np.ndarray,
    classes: np.ndarray,
    scores: np.ndarray,
    masks: np.ndarray | None,
    class_names: Sequence[str],
) -> Image.Image:
    """Draws boxes, masks, names and scores over an image.

    Args:
        image: uint8, `(height, width, 3)`.
        boxes: `(objects, 4)`: ymin, xmin, ymax and xmax in pixels.
        classes: `(objects,)`, from 1.
        scores: `(objects,)`, from 0 to 1. The highest is drawn last.
        masks: bool, `(objects, height, width)`, or `None`.
        class_names: name of class n at n - 1. A class beyond has its number.

    Returns:
        The picture, at least 512 pixels on its longer side so that names can
        be read.
    """
    height, width = image.shape[:2]
    scale = max(1, -(-512 // max(height, width)))
    order = np.argsort(scores, kind="stable")
    size = (width * scale, height * scale)
    picture = Image.fromarray(image).resize(size, Image.Resampling.BICUBIC)
    line = max(2, round(max(size) / 300))
    if masks is not None:
        for index in order:
            color = _choose_color(classes[index])
            _draw_mask(picture, masks[index], color, line)
    draw = ImageDraw.Draw(picture)
    for index in order:
        _draw_box(
            draw, boxes[index] * scale, line, _choose_color(classes[index])
        )
    font = ImageFont.load_default(max(12, max(size) / 45))
    # No box may cross a name.
    for index in order:
        number = int(classes[index])
        is_named = 1 <= number <= len(class_names)
        name = class_names[number - 1] if is_named else str(number)
        _write_name(
            draw,
            f"{name} {scores[index]:.0%}",
            font,
            boxes[index] * scale,
            _choose_color(number),
        )
    return picture


def _choose_color(number):
    hue = (int(number) - 1) * _HUE_STEP % 1
    color = colorsys.hsv_to_rgb(hue, 0.8, 1.0)
    return tuple(round(255 * part) for part in color)


def _draw_mask(picture, mask, color, line):
    mask = Image.fromarray(255 * np.asarray(mask, np.uint8))
    mask = mask.resize(picture.size, Image.Resampling.BICUBIC)
    box = mask.getbbox()
    if box is None:
        return
    # An edge of the picture is no edge of the mask.
    mask = mask.crop(box).point(lambda value: 255 * (value > 127))
    inner = mask.filter(ImageFilter.MinFilter(2 * (line // 2) + 1))
    rim = ImageChops.subtract(mask, inner)
    picture.paste(color, box, mask.point(lambda value: value * _MASK_OPACITY))
    picture.paste(color, box, rim)


def _draw_box(draw, box, line, color):
    top, left, bottom, right = (round(float(side)) for side in box)
    right, bottom = max(left, right - 1), max(top, bottom - 1)
    # Dark around bright is seen on any ground.
    draw.rectangle((left, top, right, bottom), outline="black", width=line + 2)
    draw.rectangle(
        (left + 1, top + 1, max(left + 1, right - 1), max(top + 1, bottom - 1)),
        outline=color,
        width=line,
    )


def _write_name(draw, text, font, box, color):
    left, top, right, bottom = draw.textbbox((0, 0), text, font)
    label_width, label_height = right - left + 8, bottom - top + 6
    picture_width, picture_height = draw.im.size
    # Above the box, or within where there is no room.
    y = box[0] - label_height if box[0] >= label_height else box[0]
    x = min(max(0, box[1]), max(0, picture_width - label_width))
    y = min(y, picture_height - label_height)
    draw.rectangle(
        (x, y, x + label_width, y + label_height), fill=color, outline="black"
    )
    luminance = np.dot(color, (0.299, 0.587, 0.114))
    draw.text(
        (x + 4 - left, y + 3 - top),
        text,
        fill="black" if luminance > 110 else "white",
        font=font,
    )
