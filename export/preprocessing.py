"""What happens to an image before a network sees it, without the trainers.

A SavedModel does this itself; other formats are given what this returns.
`trainers.data.preprocessing` does the same within graphs.
"""

import re

import numpy as np

# Tag, type and number of values, and bytes of each: a number of 16 bits.
_ORIENTATION = ((0x112, 2), (3, 2), (1, 4))


def decode_image(contents: bytes, channels: int) -> np.ndarray:
    """Decodes a PNG, JPEG, BMP or the first frame of a GIF.

    A JPEG is turned and mirrored as its EXIF orientation says.

    Args:
        contents: contents of an image file.
        channels: 1 for grayscale or 3 for colors.

    Returns:
        uint8, `(height, width, channels)`.

    Raises:
        ValueError: If the contents are no such image.
    """
    import tensorflow as tf

    try:
        image = tf.io.decode_image(contents, channels, expand_animations=False)
    except tf.errors.InvalidArgumentError as error:
        raise ValueError(error.message) from error
    return orient_image(image.numpy(), read_orientation(contents))


def read_orientation(contents: bytes) -> int:
    """Reads the EXIF orientation of a JPEG.

    Args:
        contents: contents of an image file.

    Returns:
        1 to 8; 1, upright, for other files and where nothing or nonsense is
        said.

    Reference:
        - Exif 2.32, CIPA DC-008-2019, sections 4.5.4, 4.6.2 and 4.6.4
    """
    position = 2 if contents[:2] == b"\xff\xd8" else len(contents)
    # The segments of applications, and comments, come first.
    while re.match(rb"\xff[\xe0-\xef\xfe]", contents[position : position + 2]):
        size = int.from_bytes(contents[position + 2 : position + 4], "big")
        if contents[position + 4 : position + 10] == b"Exif\0\0":
            end = position + 2 + size
            return _find_orientation(contents[position + 10 : end])
        position += 2 + size
    return 1


def _find_orientation(tiff):
    """Reads it from TIFF, the format within EXIF."""
    order = "little" if tiff[:2] == b"II" else "big"
    begin = int.from_bytes(tiff[4:8], order)
    count = int.from_bytes(tiff[begin : begin + 2], order)
    entries = tiff[begin + 2 :][: 12 * count]
    wanted = b"".join(
        number.to_bytes(size, order) for number, size in _ORIENTATION
    )
    for entry in range(0, len(entries) - 11, 12):
        if entries[entry : entry + 8] == wanted:
            value = int.from_bytes(entries[entry + 8 : entry + 10], order)
            return value if 1 <= value <= 8 else 1
    return 1


def orient_image(image: np.ndarray, orientation: int) -> np.ndarray:
    """Turns and mirrors an image so that it is upright.

    Args:
        image: `(height, width, channels)`.
        orientation: 1 to 8, as in EXIF.

    Returns:
        The image; 5 to 8 exchange height and width.
    """
    if orientation >= 5:
        image = image.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    return image


def prepare_image(
    image: np.ndarray, image_size: int, crop_fraction: float
) -> np.ndarray:
    """Cuts the central square out of an image and resizes it.

    Args:
        image: `(height, width, channels)`, 0 to 255.
        image_size: height and width of the result in pixels.
        crop_fraction: side of the square over the image's shorter side.

    Returns:
        float32, `(image_size, image_size, channels)`, 0 to 255.
    """
    import tensorflow as tf

    height, width, _ = image.shape
    # In float32 and half to even, as within graphs.
    side = np.round(np.float32(min(height, width)) * np.float32(crop_fraction))
    side = max(1, int(side))
    top, left = (height - side) // 2, (width - side) // 2
    square = image[top : top + side, left : left + side]
    return tf.image.resize(
        square, (image_size, image_size), antialias=True
    ).numpy()
