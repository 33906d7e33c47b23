"""Draws images of shapes, and knows what is in them."""

import colorsys
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image
from PIL import ImageDraw
from PIL import ImageFilter

SHAPES = ("rectangle", "circle", "triangle")
_MOST_SHAPES = 6
# Radii, by the shorter side of the image.
_RADII = (0.1, 0.26)
# Less of a thing than this is hard to name.
_LEAST_VISIBLE = 0.4
# Edges are drawn this much larger and averaged.
_OVERSAMPLING = 4


class Drawing(NamedTuple):
    """An image with what is in it.

    Attributes:
        image: uint8, `(height, width, 3)`.
        boxes: float32, `(objects, 4)`: ymin, xmin, ymax and xmax in pixels.
        classes: int64, `(objects,)`, from 1.
        masks: bool, `(objects, height, width)`: the visible parts.
    """

    image: np.ndarray
    boxes: np.ndarray
    classes: np.ndarray
    masks: np.ndarray


def draw_shapes(
    seed: int,
    height: int = 128,
    width: int = 128,
    kinds: Sequence[str] = SHAPES,
) -> Drawing:
    """Draws overlapping shapes of random sizes, turns and colors.

    Colors tell nothing of the kind of a shape. The same arguments make the
    same drawing.

    Args:
        seed: chooses the drawing.
        height: pixels.
        width: pixels.
        kinds: names among `SHAPES` of what to draw.

    Returns:
        A drawing of one to six shapes, the nearest first. Class n is
        `SHAPES[n - 1]`.
    """
    random = np.random.default_rng(seed)
    covers = []
    masks = []
    classes = []
    is_free = np.ones((height, width), bool)
    for _ in range(random.integers(1, _MOST_SHAPES + 1)):
        kind = str(random.choice(kinds))
        corners, area = _place(random, kind, height, width)
        cover = _fill(kind, corners, height, width)
        mask = (cover >= 0.5) & is_free
        if mask.sum() < _LEAST_VISIBLE * area:
            continue
        is_free &= ~mask
        covers.append(cover)
        masks.append(mask)
        classes.append(SHAPES.index(kind) + 1)
    image = _draw_background(random, height, width)
    for cover in reversed(covers):
        image = _draw_shadow(image, cover)
        color = _draw_gradient(random, height, width, brightness=(0.75, 1.0))
        image += cover[..., None] * (color - image)
    image += random.normal(0, 4, image.shape)
    return Drawing(
        np.clip(image, 0, 255).astype(np.uint8),
        np.stack([_find_box(mask) for mask in masks]),
        np.array(classes),
        np.stack(masks),
    )


def _place(random, kind, height, width):
    radius = random.uniform(*_RADII) * min(height, width)
    # So near to the middle, most of the first shape is always visible.
    center = random.uniform(0.15, 0.85, 2) * (width, height)
    angle = random.uniform(0, 2 * np.pi)
    if kind == "circle":
        return (center - radius, center + radius), np.pi * radius**2
    if kind == "triangle":
        angles = angle + np.arange(3) * 2 * np.pi / 3
        area = 3**1.5 / 4 * radius**2
    else:
        half = random.uniform(0.4, np.pi / 4)
        angles = angle + np.array([-half, half, np.pi - half, np.pi + half])
        area = 2 * np.sin(2 * half) * radius**2
    corners = np.stack([np.cos(angles), np.sin(angles)], axis=-1)
    return center + radius * corners, area


def _fill(kind, corners, height, width):
    """Returns how much of each pixel a shape covers, from 0 to 1."""
    size = (width * _OVERSAMPLING, height * _OVERSAMPLING)
    large = Image.new("L", size)
    draw = ImageDraw.Draw(large)
    points = [tuple(corner * _OVERSAMPLING) for corner in corners]
    (draw.ellipse if kind == "circle" else draw.polygon)(points, fill=255)
    return np.asarray(large.reduce(_OVERSAMPLING), np.float32) / 255


def _draw_background(random, height, width):
    image = _draw_gradient(
        random, height, width, brightness=(0.3, 0.7), saturation=(0.05, 0.3)
    )
    coarse = random.uniform(0, 255, (height // 16 + 2, width // 16 + 2))
    clouds = Image.fromarray(coarse.astype(np.uint8))
    clouds = clouds.resize((width, height), Image.Resampling.BICUBIC)
    return image + (np.asarray(clouds, np.float32)[..., None] - 128) / 6


def _draw_gradient(
    random, height, width, *, brightness, saturation=(0.6, 0.95)
):
    """Returns one hue, `(height, width, 3)`, brighter to one side."""
    color = colorsys.hsv_to_rgb(
        random.uniform(), random.uniform(*saturation), 1.0
    )
    angle = random.uniform(0, 2 * np.pi)
    rows = np.linspace(-1, 1, height)[:, None] * np.sin(angle)
    columns = np.linspace(-1, 1, width) * np.cos(angle)
    share = 0.5 + (rows + columns) / 8**0.5
    darkest, brightest = brightness
    light = darkest + (brightest - darkest) * share
    return 255 * light[..., None].astype(np.float32) * np.float32(color)


def _draw_shadow(image, cover):
    size = min(cover.shape) / 40
    shape = Image.fromarray((255 * cover).astype(np.uint8))
    shadow = Image.new("L", shape.size)
    shadow.paste(shape, (round(size), round(size)))
    shadow = shadow.filter(ImageFilter.GaussianBlur(size))
    darkness = np.asarray(shadow, np.float32)[..., None] / 255
    return image * (1 - 0.5 * darkness)


def _find_box(mask):
    rows = np.flatnonzero(mask.any(axis=1))
    columns = np.flatnonzero(mask.any(axis=0))
    return np.array(
        [rows[0], columns[0], rows[-1] + 1, columns[-1] + 1], np.float32
    )
