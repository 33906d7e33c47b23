"""What happens to an image before a network sees it, without the trainers.

A SavedModel does this itself; other formats are given what this returns.
`trainers.data.preprocessing` does the same within graphs.
"""

import numpy as np


def decode_image(contents: bytes, channels: int) -> np.ndarray:
    """Decodes a PNG, JPEG, BMP or the first frame of a GIF.

    As everywhere here, in training and in prediction, what EXIF says of the
    orientation of a JPEG is ignored.

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
        return tf.io.decode_image(
            contents, channels, expand_animations=False
        ).numpy()
    except tf.errors.InvalidArgumentError as error:
        raise ValueError(error.message) from error


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
