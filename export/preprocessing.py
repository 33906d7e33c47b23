"""What happens to an image before a network sees it, without TensorFlow.

A SavedModel does this itself; other formats are given what this returns.
`trainers.data` does the same within graphs.
"""

import io
import re
import struct
import warnings
from collections.abc import Callable
from collections.abc import Sequence

import numpy as np

# Those of Pillow that a SavedModel reads too, and how their files begin.
_KINDS = ("PNG", "JPEG", "BMP", "GIF", "WEBP")
_BEGINNINGS = (b"\x89PNG", b"\xff\xd8\xff", b"BM", b"GIF8", b"RIFF")
# 256 MiB as colors.
MAX_PIXELS = 2**28 // 3
_NO_IMAGE = "is no PNG, JPEG, BMP, GIF or WebP image"
_OTHER_BMP = "is a BMP, but not of 8, 24 or 32 bits per pixel, uncompressed"
_DAMAGED = "is damaged or cut off"
# Tag, type and number of values, and bytes of each: a number of 16 bits.
_ORIENTATION = ((0x112, 2), (3, 2), (1, 4))


class TooManyPixels(ValueError):
    """An image has more pixels than memory should be taken for."""


def decode_image(
    contents: bytes, channels: int, max_pixels: int = MAX_PIXELS
) -> np.ndarray:
    """Decodes a PNG, JPEG, BMP, GIF or WebP.

    Of animations it is the first frame; of more than 8 bits the upper 8.
    Transparency is left out. A JPEG is turned and mirrored as its EXIF
    orientation says. An image of too many pixels is refused before memory is
    taken for it.

    Args:
        contents: contents of an image file.
        channels: 1 for grayscale or 3 for colors, converted if need be.
        max_pixels: how many it may have, no more than `MAX_PIXELS`.

    Returns:
        uint8, `(height, width, channels)`.

    Raises:
        TooManyPixels: If it has more than `max_pixels`.
        ValueError: If the contents are no such image; says what they are.
    """
    from PIL import Image

    too_large = f"has more than {max_pixels} pixels"
    with warnings.catch_warnings():
        # Of sizes, which are checked here, and of damage that costs no pixel.
        warnings.simplefilter("ignore")
        try:
            image = Image.open(io.BytesIO(contents), formats=_KINDS)
        except Image.DecompressionBombError as error:
            raise TooManyPixels(too_large) from error
        # What a decoder raises of bad contents is of any kind.
        except Exception as error:
            is_image = contents.startswith(_BEGINNINGS)
            raise ValueError(_DAMAGED if is_image else _NO_IMAGE) from error
        if image.width * image.height > max_pixels:
            raise TooManyPixels(too_large)
        _check_bmp(image, contents)
        try:
            image = _convert(image, "L" if channels == 1 else "RGB")
        except Exception as error:
            raise ValueError(_DAMAGED) from error
    if channels == 1:
        image = image[..., np.newaxis]
    return orient_image(image, read_orientation(contents))


def _check_bmp(image, contents):
    """Refuses kinds of BMP that a SavedModel does not read."""
    if image.format != "BMP":
        return
    (bits,) = struct.unpack_from("<H", contents, 28)
    (compression,) = struct.unpack_from("<I", contents, 30)
    has_masks = compression == 3 and image.mode == "RGB"
    if bits not in (8, 24, 32) or not (compression == 0 or has_masks):
        raise ValueError(_OTHER_BMP)


def _convert(image, mode):
    if image.format == "GIF":
        # The frame alone, which may be a part of the image.
        (_, box, *_), *_ = image.tile
        image = image.crop(box)
    if image.format in ("JPEG", "MPO") and mode == "L":
        # The brightness, which is there already, without a way over colors.
        image.draft(mode, None)
    if image.mode == "I;16":
        gray = (np.asarray(image) >> 8).astype("uint8")
        return gray if mode == "L" else np.stack([gray] * 3, axis=-1)
    if image.mode != mode:
        # Straight from a palette or with transparency, gray is rounded twice.
        image = image.convert("RGB").convert(mode)
    return np.asarray(image)


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
    from PIL import Image

    height, width, channels = image.shape
    # In float32 and half to even, as within graphs.
    side = np.round(np.float32(min(height, width)) * np.float32(crop_fraction))
    side = max(1, int(side))
    top, left = (height - side) // 2, (width - side) // 2
    square = image[top : top + side, left : left + side]
    # Floats, because integers are rounded between rows and columns.
    return np.stack(
        [
            Image.fromarray(square[..., channel].astype("float32")).resize(
                (image_size, image_size), Image.Resampling.BILINEAR
            )
            for channel in range(channels)
        ],
        axis=-1,
    )


def classify_files(
    classify: Callable[[np.ndarray], np.ndarray],
    metadata: dict,
    files: Sequence[bytes],
) -> tuple[np.ndarray, list[str]]:
    """Decodes, prepares and classifies image files.

    Args:
        classify: function of prepared images, float32 `(files, image_size,
            image_size, channels)`, that returns `(files, classes)`.
        metadata: what `Classifier.describe` returns.
        files: contents of image files.

    Returns:
        float32, `(files, classes)`, with a row of NaN for a file that cannot
        be decoded; and for each file what is wrong with it, or "".
    """
    size, channels = metadata["image_size"], metadata["channels"]
    images = np.zeros((len(files), size, size, channels), "float32")
    errors = [""] * len(files)
    for number, contents in enumerate(files):
        try:
            image = decode_image(contents, channels)
        except ValueError as error:
            errors[number] = str(error)
        else:
            images[number] = prepare_image(
                image, size, metadata["crop_fraction"]
            )
    probabilities = classify(images)
    probabilities[np.array(errors, str) != ""] = np.nan
    return probabilities, errors
